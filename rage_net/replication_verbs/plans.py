"""What moves copies: a plan is found by asking, and its id is a hash of what it would do.

Run by its id it is found anew, and refused when it came out otherwise. Source: design D11; issue 5, E.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from blake3 import blake3

from rage_net import sharing
from rage_net.cid import Cid
from rage_net.errors import (
    ConflictError,
    NotFoundError,
    RageError,
    UsageError,
)
from rage_net.libp2p.errors import Libp2pError
from rage_net.replication.audit import UNKNOWN
from rage_net.replication_verbs.asking import (
    ask,
    counted,
    find_whom_to_ask,
    metadata_of,
    pages,
    replication_of,
)
from rage_net.verbs import Progress
from rage_net.verbs import replication as verbs

if TYPE_CHECKING:
    from rage_net.engine import Engine, Io
    from rage_net.libp2p.peer_id import PeerId
    from rage_net.replication.inventory import Item
    from rage_net.services.replicating import Replicating
    from rage_net.services.replicating.view import View

RATE_BYTES_S = 30e6
"""What a copy is taken to travel at, where no limit says otherwise."""
HOLD_MAX = 256

Kind = Literal["repair", "drain", "replace", "rebalance"]


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
    async for page in pages(engine, replicating):
        asks = await find_whom_to_ask(engine, replicating, page)
        answers = await ask(replicating, asks, prove=False)
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
            stands_in = "it stands in" if without is None else "placement names it next"
            why = "placement names it" if peer in item.home else stands_in
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
    verb: verbs.Planned,
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
            f"{peer} is the only node that can hold {counted(count)}",
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
    metadata = metadata_of(engine)
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
