"""After the faults: until when all nodes agree and every chunk has its copies, and what can be read then."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from rage_lab.checker import History, Settled, excused_keys
from rage_lab.cluster import Cluster, LabNode
from rage_lab.workload import Workload
from rage_net.errors import RageError
from rage_net.verbs.replication import AuditReplication, AuditResult
from rage_net.verbs.sync import ShowSync

WITHIN_S = 120.0
"""For logs to agree and copies to be back. What a node that was told nothing needs: suspicion, grace, repair."""
LOOK_S = 1.0
AUDIT_S = 60.0
READERS = 4


def settle(
    cluster: Cluster,
    history: History,
    work: Workload,
    *,
    within_s: float = WITHIN_S,
    tell: Callable[[str], None] = lambda _: None,
) -> Settled:
    """Wait until all is well, or the time is up; either way say how it was. The history is told, too."""
    began = time.monotonic()
    epochs: dict[str, str] = {}
    short: dict[str, str] = {}
    while True:
        epochs = {node.name: _epoch(node) for node in cluster.left}
        agree = len(set(epochs.values())) == 1 and "" not in epochs.values()
        if agree:
            short = _short(cluster, history, work)
        seconds = time.monotonic() - began
        if agree and not short:
            break
        if seconds >= within_s:
            if not agree:
                short = _short(cluster, history, work)
            break
        tell(f"{len(set(epochs.values()))} states of the log, {len(short)} documents short of copies")
        time.sleep(LOOK_S)
    settled = Settled(seconds, within_s, epochs, short)
    history.add(settled)
    return settled


def read_all(cluster: Cluster, history: History, work: Workload) -> int:
    """Every node reads every document that was acknowledged, and those that were removed; how many reads."""
    keys = sorted({event.key for event in history.events if hasattr(event, "key") and event.key})
    keys = [key for key in keys if key in work.roots]
    jobs = [(node, key) for key in keys for node in cluster.left]
    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(lambda job: work.get(job[0], job[1], keep=False, is_final=True), jobs))
    return len(jobs)


def _epoch(node: LabNode) -> str:
    with contextlib.suppress(RageError):
        return node.run(ShowSync(), timeout_s=5.0).epoch
    return ""


def _short(cluster: Cluster, history: History, work: Workload) -> dict[str, str]:
    """Documents that must stand and that an audit with proof finds wanting, and why."""
    standing, excused = history.standing(), excused_keys(history)
    found: AuditResult | None = None
    for node in cluster.up:
        with contextlib.suppress(RageError):
            found = node.run(AuditReplication(prove=True), timeout_s=AUDIT_S)
            break
    if found is None:
        return {"audit": "no node carries one out"}
    chunks = sum(key in standing for key in work.cids.values())
    if found.checked < chunks:
        return {"audit": f"{found.checked} chunks were looked at, and {chunks} were acknowledged"}
    burnt = any(node.is_destroyed for node in cluster.nodes)
    short = {}
    for finding in found.findings:
        key = work.docs.get(finding.doc_id, "")
        # A home that burnt keeps its place until somebody says that it is lost: then others' copies stand in.
        is_filled = burnt and finding.state in ("misplaced", "unreachable") and finding.have >= finding.want
        if key in standing and key not in excused and finding.state not in ("over", "ok") and not is_filled:
            short[key] = f"{finding.state}: {finding.have} of {finding.want}: {finding.reason}"
    return short
