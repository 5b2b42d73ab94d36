"""How replication stands: nodes, policies, what waits, what is at risk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from rage_net.replication.inventory import FAILED_MIN
from rage_net.replication_verbs.asking import (
    PAGE,
    counted,
    replication_of,
)
from rage_net.verbs import replication as verbs

if TYPE_CHECKING:
    from rage_net.engine import Engine, Io
    from rage_net.libp2p.peer_id import PeerId
    from rage_net.services.replicating import Replicating


async def show_status(engine: Engine, verb: verbs.ShowReplication, io: Io) -> verbs.ReplicationStatus:
    """Who should hold how much, what waits, and what is at risk."""
    replicating = await replication_of(engine)
    inventory, view = replicating.inventory, replicating.view
    loads = await engine.env.blocking(inventory.loads)
    policies = await engine.env.blocking(inventory.totals)
    waiting, waiting_bytes = await engine.env.blocking(inventory.backlog)
    counts = await engine.env.blocking(_count_coordinated, replicating)
    liars = await engine.env.blocking(inventory.liars)
    unread = await engine.env.blocking(inventory.unread_count)
    nodes = tuple(_node_row(engine, replicating, peer, loads) for peer in sorted(view.nodes, key=str))
    now = replicating.now()
    audited = counts.oldest
    return verbs.ReplicationStatus(
        enabled=True,
        organization=engine.organization,
        strategy=view.strategy,
        nodes=nodes,
        policies=tuple(
            verbs.PolicyRow(
                row.policy, row.factor, row.minimum, row.documents, row.chunks, row.size, row.chunks * row.factor
            )
            for row in policies
        ),
        waiting=waiting,
        waiting_bytes=waiting_bytes,
        coordinated=counts.chunks,
        proved=counts.proved,
        under=counts.under,
        at_risk=counts.at_risk,
        lied=tuple(map(str, liars)),
        audited_at=engine.env.now() - (now - audited) if audited is not None else 0.0,
        problems=tuple(_problems(engine, replicating, nodes, counts, liars, unread)),
    )


@dataclass(slots=True)
class _Counts:
    """Chunks that this node coordinates, as its own proofs show them."""

    chunks: int = 0
    proved: int = 0
    under: int = 0
    at_risk: int = 0
    oldest: float | None = 0.0


def _count_coordinated(replicating: Replicating) -> _Counts:
    counts, after, oldest = _Counts(), 0, float("inf")
    view, inventory = replicating.view, replicating.inventory
    while page := inventory.page(after, PAGE):
        after = page[-1].id
        ours = [item for item in page if view.coordinator(item) == view.own]
        proofs = inventory.proofs([item.id for item in ours])
        for item in ours:
            counts.chunks += 1
            proved = [each for each in proofs[item.id] if each.outcome == "proved" and view.is_there(each.peer)]
            wanted = min(item.copies, max(1, len(item.home)))
            counts.proved += len(proved) >= wanted
            counts.under += len(proved) < wanted
            counts.at_risk += len(proved) < item.minimum and item.audits >= FAILED_MIN
            oldest = min([oldest, *(each.at for each in proved)]) if len(proved) >= wanted else 0.0
    counts.oldest = oldest if 0 < oldest < float("inf") else None
    return counts


def _node_row(
    engine: Engine, replicating: Replicating, peer: PeerId, loads: Mapping[PeerId, tuple[int, int]]
) -> verbs.NodeRow:
    node = replicating.view.nodes[peer]
    candidate = node.candidate
    report = replicating.reports.get(peer)
    is_own = peer == replicating.own
    chunks, size = loads.get(peer, (0, 0))
    since = replicating.coordinating.lag_since.get(peer)
    return verbs.NodeRow(
        peer_id=str(peer),
        organization=candidate.organization,
        region=candidate.region,
        zone=candidate.zone,
        weight=candidate.weight,
        state=node.state,
        liveness="self" if is_own else cast(Any, replicating.liveness(peer) or "unknown"),
        is_full=replicating.is_full(peer),
        free_bytes=engine.store.room() if is_own else report.free_bytes if report is not None else 0,
        chunks=chunks,
        bytes=size,
        lag_s=round(max(0.0, replicating.now() - since), 1) if since is not None else 0.0,
    )


def _problems(
    engine: Engine,
    replicating: Replicating,
    nodes: Sequence[verbs.NodeRow],
    counts: _Counts,
    liars: Sequence[PeerId],
    unread: int,
) -> list[str]:
    view = replicating.view
    found = []
    active = sum(node.state == "active" and node.organization == engine.organization for node in nodes)
    if counts.at_risk:
        found.append(f"{counted(counts.at_risk)} with fewer proved copies than the policy's min")
    if view.is_cut_off:
        found.append(f"most nodes are out of reach ({len(view.unavailable)} of {active}): no copies are made anew")
    found += [f"{peer} is out of reach: others hold its chunks" for peer in sorted(map(str, view.unavailable))]
    found += [f"{node.peer_id} has no room: others hold what is new" for node in nodes if node.is_full]
    found += [f"{peer} signed proofs that are wrong: evidence is kept" for peer in map(str, liars)]
    found += list(replicating.policies.beyond(active))
    differ = disagreeing(replicating)
    if differ:
        found.append(f"nodes with other policies or another strategy: {', '.join(differ)}")
    if unread:
        documents = f"{unread} document{'s' if unread > 1 else ''}"
        found.append(f"the chunks of {documents} are not known yet: nobody who is there has the manifest")
    if not view.is_candidate(replicating.own):
        found.append("this node is no place for replicas: it is drained, lost, or its certificate lacks storage")
    return found


def disagreeing(replicating: Replicating) -> list[str]:
    """Nodes whose policies are others than ours, as they last reported."""
    ours = replicating.policies.digest
    return sorted(str(peer) for peer, report in replicating.reports.items() if report.policies not in (b"", ours))
