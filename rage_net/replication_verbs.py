"""The verbs of the noun replication: a plain function each. The engine takes `VERBS` into its own table.

What is done stands in `services.replicating`, what belongs where in `replication`; here chunks are walked a page at a
time, holders asked, and rows made. A plan is found by asking, and its id is a hash of what it would do: run by its id
it is found anew, and refused when it came out otherwise. Source: issue 5, D and E; design D11.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from blake3 import blake3

from rage_net import refusals, sharing
from rage_net.cid import Cid, CidError
from rage_net.errors import (
    ConflictError,
    DeadlineError,
    NotFoundError,
    RageError,
    UnavailableError,
    UsageError,
)
from rage_net.libp2p.errors import Libp2pError
from rage_net.replication.audit import UNKNOWN, Answer
from rage_net.replication.health import assess
from rage_net.replication.inventory import FAILED_MIN
from rage_net.replication.policy import Choice, Policies, Subject
from rage_net.verbs import Progress, Verb
from rage_net.verbs import replication as verbs

if TYPE_CHECKING:
    from rage_net.engine import Engine, Io
    from rage_net.libp2p.peer_id import PeerId
    from rage_net.metadata import Metadata
    from rage_net.replication.inventory import Item, Known
    from rage_net.services.replicating import Replicating
    from rage_net.services.replicating.view import View

PAGE = 1000
ALL_ASKED_MAX = 16
"""Nodes up to which every one is asked about every chunk: so copies too many are found. Of more, those that placement
or a proof names."""
RATE_BYTES_S = 30e6
"""What a copy is taken to travel at, where no limit says otherwise."""
HOLD_MAX = 256
DAY_S = 86_400.0

Kind = Literal["repair", "drain", "replace", "rebalance"]


# --- what is known ---


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
        found.append(f"{_chunks(counts.at_risk)} with fewer proved copies than the policy's min")
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


def _chunks(count: int) -> str:
    return f"{count} chunk{'s' if count != 1 else ''}"


def disagreeing(replicating: Replicating) -> list[str]:
    """Nodes whose policies are others than ours, as they last reported."""
    ours = replicating.policies.digest
    return sorted(str(peer) for peer, report in replicating.reports.items() if report.policies not in (b"", ours))


# --- audit ---


async def audit(engine: Engine, verb: verbs.AuditReplication, io: Io) -> verbs.AuditResult:
    """Ask the holders of chunks, and say which chunks are not as their policies want them."""
    if not 0 < verb.sample <= 1:
        raise UsageError("a sample is above 0 to 1", mend=["--sample 5%"])
    replicating = await replication_of(engine)
    if verb.policy and verb.policy not in replicating.policies.names:
        raise _no_policy(replicating.policies, verb.policy)
    doc_ids = await _documents(engine, verb.ref) if verb.ref else ()
    started = engine.env.monotonic()
    counts: Counter[str] = Counter()
    findings: list[verbs.Finding] = []
    plan_s = 0.0
    async for page in _pages(engine, replicating, policy=verb.policy, doc_ids=doc_ids):
        items = [item for item in page if verb.sample >= 1 or engine.env.random.random() < verb.sample]
        planned = engine.env.monotonic()
        asks = await _whom_to_ask(engine, replicating, items)
        plan_s += engine.env.monotonic() - planned
        answers = await _ask(replicating, asks, prove=verb.prove)
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


async def _pages(
    engine: Engine, replicating: Replicating, *, policy: str = "", doc_ids: Sequence[str] = ()
) -> AsyncIterator[list[Item]]:
    after = 0
    while True:
        read = functools.partial(replicating.inventory.page, after, PAGE, policy=policy, documents=doc_ids)
        page = await engine.env.blocking(read)
        if not page:
            return
        after = page[-1].id
        yield page


async def _whom_to_ask(
    engine: Engine, replicating: Replicating, items: Sequence[Item], *, every: bool = False
) -> dict[PeerId, list[Cid]]:
    known = await engine.env.blocking(replicating.inventory.proofs, [item.id for item in items])
    return whom_to_ask(replicating.view, items, known, every=every)


def whom_to_ask(
    view: View, items: Sequence[Item], known: Mapping[int, Sequence[Known]], *, every: bool = False
) -> dict[PeerId, list[Cid]]:
    """Nodes that may hold each chunk: the home set, whoever was known to, and in a small network all."""
    there = [peer for peer, node in view.nodes.items() if node.state != "lost"]
    everyone = there if every or len(there) <= ALL_ASKED_MAX else ()
    asks: dict[PeerId, list[Cid]] = {peer: [] for peer in there}
    for item in items:
        named = [*item.home, *(each.peer for each in known[item.id]), item.owner, *everyone]
        for peer in dict.fromkeys(named):
            if (asked := asks.get(peer)) is not None:
                asked.append(item.cid)
    return {peer: cids for peer, cids in asks.items() if cids}


async def _ask(
    replicating: Replicating, asks: Mapping[PeerId, Sequence[Cid]], *, prove: bool
) -> dict[tuple[PeerId, Cid], Answer]:
    """What each node says; with `prove`, what those that claim can prove."""
    away = {peer for peer in asks if not replicating.view.is_there(peer)}
    answers = {(peer, cid): Answer("unreachable") for peer in away for cid in asks[peer]}
    claims = await replicating.prover.ask({peer: cids for peer, cids in asks.items() if peer not in away})
    answers.update(claims)
    if prove:
        claiming: dict[PeerId, list[Cid]] = {}
        for (peer, cid), answer in claims.items():
            if answer.outcome == "claims":
                claiming.setdefault(peer, []).append(cid)
        proofs = await replicating.prover.prove(claiming)
        answers.update({key: answer for key, answer in proofs.items() if answer.outcome != "unknown"})
    return answers


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


async def _documents(engine: Engine, ref: str) -> tuple[str, ...]:
    metadata = _metadata(engine)
    rows = await engine.env.blocking(sharing.catalog_rows, metadata, ref)
    found = tuple(row.doc_id for row in rows if not row.is_dead)
    if not found:
        raise NotFoundError(
            f"no document {ref!r} in the log of {engine.organization}",
            mend=["rage chunk list --catalog"],
            id="document-not-found",
        )
    return found


# --- plans ---


@dataclass(slots=True)
class _Draft:
    """A plan that is being found."""

    moves: list[tuple[Item, str, PeerId | None, str]] = field(default_factory=list)
    at_risk: int = 0
    lost: int = 0
    stranded: int = 0
    """Chunks that would have nowhere to go."""


async def plan(engine: Engine, verb: verbs.PlanReplication, io: Io) -> verbs.Plan:
    """What repair would do now."""
    replicating = await replication_of(engine)
    return _show(replicating, "repair", await _draft_repair(engine, replicating, io), dry_run=True)


async def repair(engine: Engine, verb: verbs.RepairReplication, io: Io) -> verbs.Plan:
    """Ask for what is missing, now."""
    replicating = await replication_of(engine)
    draft = await _draft_repair(engine, replicating, io)
    return await _carry_out(engine, replicating, "repair", draft, verb, io)


async def rebalance(engine: Engine, verb: verbs.RebalanceReplication, io: Io) -> verbs.Plan:
    """Ask for what belongs elsewhere, and let go of what is too many here."""
    replicating = await replication_of(engine)
    draft = await _draft_repair(engine, replicating, io, drops=True)
    done = await _carry_out(engine, replicating, "rebalance", draft, verb, io)
    if not verb.dry_run:
        while await replicating.dropping.round(at_once=True):
            pass
    return done


async def _draft_repair(
    engine: Engine, replicating: Replicating, io: Io, *, drops: bool = False, without: PeerId | None = None
) -> _Draft:
    """Copies that are missing at the nodes that should hold them now; with `drops`, copies too many, too."""
    view, draft, count = replicating.view, _Draft(), 0
    async for page in _pages(engine, replicating):
        asks = await _whom_to_ask(engine, replicating, page)
        answers = await _ask(replicating, asks, prove=False)
        for item in page:
            said = {peer: answers.get((peer, item.cid), UNKNOWN).outcome for peer in view.nodes}
            holding = [peer for peer, outcome in said.items() if outcome == "claims"]
            away = {peer for peer, outcome in said.items() if outcome == "unreachable"}
            _draft_one(view, item, holding, draft, drops=drops, without=without, away=away)
        count += len(page)
        io.report(Progress(count, None, "chunks"))
    return draft


def _draft_one(
    view: View,
    item: Item,
    holding: Sequence[PeerId],
    draft: _Draft,
    *,
    drops: bool,
    without: PeerId | None,
    away: Collection[PeerId],
) -> None:
    staying = [peer for peer in holding if peer != without]
    draft.at_risk += len(holding) < item.minimum
    if not holding:
        draft.lost += 1
        return
    excluded = {*away} if without is None else {*away, without}  # who does not answer is not asked to hold
    acting = view.acting(item, excluded)
    source = str(staying[0] if staying else holding[0])
    for peer in acting:
        if peer not in holding:
            why = "placement names it" if peer in item.home else "it stands in"
            draft.moves.append((item, source, peer, why))
    if without is not None and not acting:
        draft.stranded += 1
    if drops and set(item.home) <= set(holding):
        for peer in holding:
            if peer not in item.home:
                draft.moves.append((item, str(peer), None, "one copy too many"))


def _show(replicating: Replicating, kind: Kind, draft: _Draft, *, dry_run: bool, node: str = "") -> verbs.Plan:
    copies = [move for move in draft.moves if move[2] is not None]
    size = sum(move[0].size for move in copies)
    rows = tuple(
        verbs.Move(str(item.cid), source, "" if target is None else str(target), item.size, why)
        for item, source, target, why in draft.moves[: verbs.MOVES_MAX]
    )
    parts = sorted(f"{item.cid} {target or source}" for item, source, target, _ in draft.moves)
    told = "\n".join([kind, node, replicating.view.digest, replicating.policies.digest.hex(), *parts])
    plan_id = f"{kind}-{blake3(told.encode()).hexdigest(8)}"
    seconds = round(size / RATE_BYTES_S, 1)
    return verbs.Plan(
        kind, plan_id, dry_run, node, len(copies), size, seconds, draft.at_risk, draft.lost, rows, waiting=len(copies)
    )


async def _carry_out(
    engine: Engine,
    replicating: Replicating,
    kind: Kind,
    draft: _Draft,
    verb: verbs.RepairReplication | verbs.RebalanceReplication | verbs.DrainNode | verbs.ReplaceNode,
    io: Io,
    *,
    node: str = "",
    first: Callable[[], Awaitable[None]] | None = None,
) -> verbs.Plan:
    """Show the plan, or run it if it is still the one that was named. `first` is what makes the moves right."""
    if not 0 <= verb.wait_s <= verbs.WAIT_S_MAX:
        raise UsageError(f"a wait is 0 to {verbs.WAIT_S_MAX:.0f} s", mend=["--wait 10m"])
    shown = _show(replicating, kind, draft, dry_run=verb.dry_run, node=node)
    if verb.plan and verb.plan != shown.plan_id:
        again = {
            "repair": "rage replication repair --dry-run",
            "rebalance": "rage replication rebalance --dry-run",
            "drain": f"rage replication drain {node} --dry-run",
            "replace": f"rage replication replace {node} --lost --dry-run",
        }
        raise ConflictError(
            f"plan {verb.plan} no longer fits",
            why=f"nodes or chunks have changed since it was made; now it would be {shown.plan_id}",
            mend=[again[kind]],
            id="plan-stale",
        )
    if verb.dry_run:
        return shown
    started = engine.env.monotonic()
    if first is not None:
        await first()
    targets = [(item, target) for item, _, target, _ in draft.moves if target is not None]
    failed = await _ask_to_hold(replicating, targets)
    done = await _wait_for(engine, replicating, targets, verb.wait_s, io) if verb.wait_s else 0
    seconds = round(engine.env.monotonic() - started, 3)
    waiting = max(0, len(targets) - done - failed)
    return replace(shown, done=done, failed=failed, waiting=waiting, seconds=seconds)


async def _ask_to_hold(replicating: Replicating, targets: Sequence[tuple[Item, PeerId]]) -> int:
    """Ask each node for its share. Returns: how many copies nobody took on."""
    by_node: dict[tuple[PeerId, str], list[Cid]] = {}
    for item, peer in targets:
        by_node.setdefault((peer, item.organization), []).append(item.cid)
    failed = 0
    for (peer, organization), cids in by_node.items():
        for at in range(0, len(cids), HOLD_MAX):
            page = cids[at : at + HOLD_MAX]
            try:
                if peer == replicating.own:
                    taken, _ = await replicating.hold(organization, page)
                else:
                    taken = await replicating.auditing.hold(peer, organization, page)
            except (RageError, Libp2pError):
                taken = 0
            failed += len(page) - taken
    return failed


async def _wait_for(
    engine: Engine, replicating: Replicating, targets: Sequence[tuple[Item, PeerId]], wait_s: float, io: Io
) -> int:
    """Until all copies are proved, or the time is over. Returns: how many are."""
    left = {(peer, item.cid) for item, peer in targets}
    total_ = len(left)

    async def look() -> bool:
        asks: dict[PeerId, list[Cid]] = {}
        for peer, cid in sorted(left, key=str):
            asks.setdefault(peer, []).append(cid)
        answers = await replicating.prover.prove(asks)
        left.difference_update(key for key, answer in answers.items() if answer.outcome == "proved")
        io.report(Progress(total_ - len(left), total_, "copies"))
        return not left

    await replicating.settle(look, wait_s)
    return total_ - len(left)


async def drain(engine: Engine, verb: verbs.DrainNode, io: Io) -> verbs.Plan:
    """Place nothing on a node any more. What it holds goes to others while it still gives."""
    replicating = await replication_of(engine)
    peer = _find_node(replicating, verb.node)
    if verb.undo:
        first = functools.partial(_set_state, engine, replicating, peer, "active")
        return await _carry_out(engine, replicating, "drain", _Draft(), verb, io, node=str(peer), first=first)
    draft = await _draft_repair(engine, replicating, io, without=peer)
    _refuse_stranding(replicating, peer, draft)
    first = functools.partial(_set_state, engine, replicating, peer, "drained")
    return await _carry_out(engine, replicating, "drain", draft, verb, io, node=str(peer), first=first)


def _refuse_stranding(replicating: Replicating, peer: PeerId, draft: _Draft) -> None:
    view = replicating.view
    others = [each for each in view.nodes if view.is_candidate(each) and each != peer and view.is_there(each)]
    organization = view.nodes[peer].candidate.organization
    if not any(view.nodes[each].candidate.organization == organization for each in others) or draft.stranded:
        loads = replicating.inventory.loads().get(peer, (0, 0))
        count = draft.stranded or loads[0]
        raise ConflictError(
            f"{peer} is the only node that can hold {_chunks(count)}",
            why="no other node that stores is there",
            mend=["start another node first, then: rage replication status --nodes"],
            id="drain-last-holder",
        )


async def replace_node(engine: Engine, verb: verbs.ReplaceNode, io: Io) -> verbs.Plan:
    """A node is gone for good: its copies count no more."""
    if not verb.lost:
        raise UsageError(
            "replace is for a node that is lost: say so",
            why="its copies count no more, even if it comes back; a node that lives is drained",
            mend=[f"rage replication replace {verb.node} --lost", f"rage replication drain {verb.node}"],
        )
    replicating = await replication_of(engine)
    peer = _find_node(replicating, verb.node)
    if peer == replicating.own:
        raise UsageError("this node is not lost: it answers", mend=[f"rage replication drain {peer}"])
    draft = await _draft_repair(engine, replicating, io, without=peer)
    first = functools.partial(_set_state, engine, replicating, peer, "lost")
    return await _carry_out(engine, replicating, "replace", draft, verb, io, node=str(peer), first=first)


async def _set_state(engine: Engine, replicating: Replicating, peer: PeerId, state: str) -> None:
    """Write a node's record with another state, and place anew. Raises AccessDeniedError."""
    metadata = _metadata(engine)
    facts = await engine.env.blocking(metadata.set_node_state, replicating.view.nodes[peer].candidate, state)
    await sharing.written(engine, metadata.organization, facts)
    await replicating.reconcile()


def _find_node(replicating: Replicating, text: str) -> PeerId:
    found = [peer for peer in replicating.view.nodes if str(peer) == text]
    found = found or [peer for peer in replicating.view.nodes if str(peer).startswith(text) or str(peer).endswith(text)]
    if len(found) != 1 or not text:
        raise NotFoundError(
            f"{text!r} means {len(found) or 'no'} node{'s' if len(found) > 1 else ''} of this organisation",
            mend=["rage replication status --nodes"],
            id="node-not-found",
        )
    return found[0]


# --- policies ---


async def list_policies(engine: Engine, verb: verbs.ListPolicies, io: Io) -> verbs.ListPoliciesResult:
    """The policies of this node's files, and who has others."""
    replicating = await replication_of(engine)
    rows = await engine.env.blocking(replicating.inventory.totals)
    documents = {row.policy: row.documents for row in rows}
    return verbs.ListPoliciesResult(
        tuple(
            verbs.PolicyDefinition(name, factor, minimum, selector, documents.get(name, 0))
            for name, factor, minimum, selector in replicating.policies.rows()
        ),
        replicating.view.strategy,
        str(engine.config.network.replication.policies_file),
        tuple(disagreeing(replicating)),
    )


async def test_policy(engine: Engine, verb: verbs.TestPolicy, io: Io) -> verbs.PolicyMatch:
    """Explain which policy is for something, and who should hold it."""
    replicating = await replication_of(engine)
    if not verb.ref:
        days = None if verb.retention_s is None else verb.retention_s / DAY_S
        return _match(replicating.policies.choose(Subject(verb.tags, days, "")), "", "", 0.0, ())
    metadata = _metadata(engine)
    item = None
    with suppress(CidError):
        item = await engine.env.blocking(replicating.inventory.find, Cid.parse(verb.ref))
    ref = item.doc_id if item is not None else verb.ref
    rows = [row for row in await engine.env.blocking(sharing.catalog_rows, metadata, ref) if not row.is_dead]
    if not rows:
        raise NotFoundError(
            f"no document or chunk {verb.ref!r} in the log of {engine.organization}",
            mend=["rage chunk list --catalog"],
            id="document-not-found",
        )
    row = rows[0]
    from rage_net.online.placing import subject_of

    choice = replicating.policies.choose(subject_of(row))
    cid = item.cid if item is not None else row.root
    found = item or await engine.env.blocking(replicating.inventory.find, cid)
    view = replicating.view
    holders = tuple(
        verbs.HolderRow(str(peer), view.nodes[peer].candidate.region if peer in view.nodes else "", "unknown", True)
        for peer in (found.home if found is not None else ())
    )
    per_day = replicating.used_per_day().get(row.doc_id, 0)
    return _match(choice, str(cid), row.doc_id, float(per_day), holders)


def _match(
    choice: Choice, cid: str, doc_id: str, per_day: float, holders: tuple[verbs.HolderRow, ...]
) -> verbs.PolicyMatch:
    considered = tuple(verbs.ConsideredPolicy(one.name, one.factor, one.matches, one.why) for one in choice.considered)
    return verbs.PolicyMatch(
        cid, doc_id, choice.policy, choice.factor, choice.minimum, choice.rule, considered, per_day, holders
    )


def _no_policy(policies: Policies, name: str) -> NotFoundError:
    return NotFoundError(
        f"no policy {name!r} in this node's files",
        why=f"there are {', '.join(policies.names)}",
        mend=["rage replication policy list"],
        id="policy-not-found",
    )


# --- a put that waits ---


async def wait_for_copies(engine: Engine, doc_id: str, wanted: int, within_s: float) -> tuple[tuple[str, ...], int]:
    """Until each chunk of a document is proved by `wanted` nodes that placement names.

    Returns: the nodes that proved chunks of it, and how many copies its policy wants. Raises DeadlineError, which says
    that the document is stored; UnavailableError when there are fewer such nodes.
    """
    began = engine.env.monotonic()
    if not engine.serves:  # what only this command has, it gives for as long as it waits
        (await engine.online()).offer()
    replicating = await replication_of(engine)
    proved: dict[Cid, set[PeerId]] = {}
    factor = 0

    async def look() -> bool:
        nonlocal factor
        if not await engine.env.blocking(replicating.inventory.is_read, engine.organization, doc_id):
            await replicating.look_at([doc_id])
            if not await engine.env.blocking(replicating.inventory.is_read, engine.organization, doc_id):
                return False
        is_done = True
        asks: dict[PeerId, list[Cid]] = {}
        async for page in _pages(engine, replicating, doc_ids=[doc_id]):
            for item in page:
                factor = max(factor, item.factor)
                acting = replicating.view.acting(item)
                has = proved.setdefault(item.cid, set())
                has.intersection_update(acting)
                if len(acting) < wanted:
                    raise _too_few(doc_id, wanted, len(acting))
                if len(has) < wanted:
                    is_done = False
                    for peer in acting:
                        if peer not in has:
                            asks.setdefault(peer, []).append(item.cid)
        if is_done:
            return True
        await replicating.watch()
        for (peer, cid), answer in (await replicating.prover.prove(asks)).items():
            if answer.outcome == "proved" and (answer.is_kept or peer == replicating.own):
                proved[cid].add(peer)
        return all(len(has) >= wanted for has in proved.values())

    if not await replicating.settle(look, within_s - (engine.env.monotonic() - began)):
        counts = [len(has) for has in proved.values()]
        least = min(counts, default=0)
        raise DeadlineError(
            f"the document is stored, and {least} of {wanted} nodes have proved that they hold all of it",
            why=f"{sum(count < wanted for count in counts)} of {len(counts)} chunks lack proof; nodes go on with it",
            mend=[f"rage replication audit --doc {doc_id} --prove", "rage replication status"],
            id="copies-not-proved",
        )
    return tuple(sorted({str(peer) for has in proved.values() for peer in has})), factor


def _too_few(doc_id: str, wanted: int, there: int) -> RageError:
    return UnavailableError(
        f"the document {doc_id} is stored, and {wanted} copies cannot be had: placement gives it {there}",
        why="fewer nodes that store are there, or its policy wants fewer copies",
        mend=["rage replication status --nodes", f"rage replication policy test {doc_id}"],
        id="replication-short",
    )


# --- what all of them need ---


async def replication_of(engine: Engine) -> Replicating:
    """The engine's replication; a command that opened the home itself looks around first. Raises RageError."""
    _metadata(engine)
    online = await engine.online()
    if online.replicating is None:
        raise UnavailableError(
            "this node takes no part in replication",
            why="replication is switched off in its configuration",
            mend=["set enabled in replication.yaml, and network.replication.enabled"],
            id="replication-off",
        )
    if not engine.serves:
        await online.membership.keep_connected()
        if online.syncing is not None:
            for connection in online.swarm.connections():
                await online.syncing.exchange(connection)
        await online.replicating.watch()
        await online.replicating.check()
        await online.replicating.reconcile()
    return online.replicating


def _metadata(engine: Engine) -> Metadata:
    if engine.metadata is None:
        raise refusals.no_ca()
    return engine.metadata


VERBS: dict[type[Verb[Any]], Callable[[Engine, Any, Io], Awaitable[Any]]] = {
    verbs.ShowReplication: show_status,
    verbs.AuditReplication: audit,
    verbs.PlanReplication: plan,
    verbs.RepairReplication: repair,
    verbs.RebalanceReplication: rebalance,
    verbs.DrainNode: drain,
    verbs.ReplaceNode: replace_node,
    verbs.ListPolicies: list_policies,
    verbs.TestPolicy: test_policy,
}
