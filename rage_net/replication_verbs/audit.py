"""An audit: holders asked, for their word or for proof, and which chunks are not as they should be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rage_net.cid import Cid
from rage_net.errors import (
    NotFoundError,
    UsageError,
)
from rage_net.replication.audit import UNKNOWN, Answer
from rage_net.replication.health import assess
from rage_net.replication.policy import Policies
from rage_net.replication_verbs.asking import (
    ask,
    documents_of,
    find_whom_to_ask,
    pages,
    replication_of,
)
from rage_net.verbs import Progress
from rage_net.verbs import replication as verbs

if TYPE_CHECKING:
    from rage_net.engine import Engine, Io
    from rage_net.libp2p.peer_id import PeerId
    from rage_net.replication.inventory import Item
    from rage_net.services.replicating.view import View


async def audit(engine: Engine, verb: verbs.AuditReplication, io: Io) -> verbs.AuditResult:
    """Ask the holders of chunks, and say which chunks are not as their policies want them."""
    if not 0 < verb.sample <= 1:
        raise UsageError("a sample is above 0 to 1", mend=["--sample 5%"])
    replicating = await replication_of(engine)
    if verb.policy and verb.policy not in replicating.policies.names:
        raise _no_policy(replicating.policies, verb.policy)
    doc_ids = await documents_of(engine, verb.ref) if verb.ref else ()
    started = engine.env.monotonic()
    counts: Counter[str] = Counter()
    findings: list[verbs.Finding] = []
    plan_s = 0.0
    async for page in pages(engine, replicating, policy=verb.policy, doc_ids=doc_ids):
        items = [item for item in page if verb.sample >= 1 or engine.env.random.random() < verb.sample]
        planned = engine.env.monotonic()
        asks = await find_whom_to_ask(engine, replicating, items)
        plan_s += engine.env.monotonic() - planned
        answers = await ask(replicating, asks, prove=verb.prove)
        for item in items:
            found = _judge(replicating.view, item, answers, prove=verb.prove)
            counts["checked"] += 1
            counts[found.state] += 1
            counts["at_risk"] += found.is_at_risk
            counts["lied"] += sum(row.possession == "lied" for row in found.holders)
            if (found.state != "ok" or found.is_at_risk) and len(findings) < verbs.FINDINGS_MAX:
                findings.append(found)
        io.report(Progress(counts["checked"], None, "chunks"))
    findings.sort(key=lambda one: (not one.is_at_risk, one.state, one.cid))
    states = {name: counts[name] for name in ("ok", "under", "over", "misplaced", "unproven", "unreachable")}
    return verbs.AuditResult(
        checked=counts["checked"],
        **states,
        at_risk=counts["at_risk"],
        lied=counts["lied"],
        proved=verb.prove,
        findings=tuple(findings),
        plan_s=round(plan_s, 3),
        seconds=round(engine.env.monotonic() - started, 3),
    )


def _judge(view: View, item: Item, answers: Mapping[tuple[PeerId, Cid], Answer], *, prove: bool) -> verbs.Finding:
    good = {"proved"} if prove else {"proved", "claims"}
    asked = [peer for peer in view.nodes if (peer, item.cid) in answers]
    told = {peer: answers.get((peer, item.cid), UNKNOWN) for peer in dict.fromkeys([*item.home, *asked])}
    holding = [peer for peer, answer in told.items() if answer.outcome in good]
    health = assess(view.spread(item.home), view.spread(holding), item.copies, view.strategy)
    state: verbs.State = health.state
    outcomes = {peer: told[peer].outcome for peer in item.home}
    if state in ("under", "misplaced"):
        if any(outcome in ("claims", "lied", "late") for outcome in outcomes.values()) and prove:
            state = "unproven"
        elif any(outcome == "unreachable" for outcome in outcomes.values()):
            state = "unreachable"
    rows = tuple(
        verbs.HolderRow(
            str(peer),
            view.nodes[peer].candidate.region if peer in view.nodes else "",
            answer.outcome,
            peer in item.home,
            _reason(view, peer, answer),
        )
        for peer, answer in told.items()
        if peer in item.home or answer.outcome != "absent"
    )
    return verbs.Finding(
        str(item.cid),
        item.doc_id,
        item.policy,
        item.factor,
        health.copies,
        state,
        health.copies < item.minimum,
        _why(view, item, health.copies, health.matched, state),
        rows,
    )


def _reason(view: View, peer: PeerId, answer: Answer) -> str:
    if answer.outcome == "absent":
        return "does not hold it, or not durably"
    if answer.outcome == "lied":
        return "signed a digest that is not that of the bytes"
    if answer.outcome == "late":
        return "answered too late to prove anything"
    if peer in view.unavailable:
        return "gives no sign of life"
    return "could not be asked" if answer.outcome == "unreachable" else ""


def _why(view: View, item: Item, copies: int, matched: int, state: str) -> str:
    if state == "ok":
        return ""
    if len(item.home) < item.factor and copies >= len(item.home):
        return f"{item.factor} copies are wanted, and {len(item.home)} nodes may hold one"
    if state == "over":
        return f"{copies} copies, {item.copies} are wanted"
    if state == "misplaced":
        return f"{copies} copies fill {matched} of {len(item.home)} places"
    return f"{copies} of {item.copies} copies"


def _no_policy(policies: Policies, name: str) -> NotFoundError:
    return NotFoundError(
        f"no policy {name!r} in this node's files",
        why=f"there are {', '.join(policies.names)}",
        mend=["rage replication policy list"],
        id="policy-not-found",
    )
