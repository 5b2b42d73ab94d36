"""How replication looks to a person at 3 am: what is at risk, where, and the command that mends it; then the rest.

Columns for every form of output, and words that stand beside a table. Not here: what is asked (`commands.replication`).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rage_cli.output import Column, render, say
from rage_cli.text import counted, format_duration, format_size, safe
from rage_net.verbs import replication as verbs

ROWS_MAX = 20
"""Rows of a list beneath a card on a terminal: the words after it must be on the screen. Other forms have all."""
PLACES_MAX = 3
"""Nodes that are named as the place where copies are missing."""
TAIL = 8
"""Letters of a peer id that tell it from others, at its end: they all begin alike."""

MISSING = ("absent", "lied", "late", "unreachable")
"""Possessions that are no copy."""

STATUS = (
    Column("problems", lambda it: it.problems),
    Column("state", lambda it: state_of(it)),
    Column("at risk", lambda it: it.at_risk, "count"),
    Column("under", lambda it: it.under, "count"),
    Column("nodes", lambda it: _by_state(it.nodes)),
    Column("organization", lambda it: it.organization),
    Column("placement", lambda it: it.strategy),
    Column("to fetch", lambda it: it.waiting, "count"),
    Column("size", lambda it: it.waiting_bytes, "size"),
    Column("audits", lambda it: it.coordinated, "count"),
    Column("proved", lambda it: it.proved, "count"),
    Column("oldest proof", lambda it: it.audited_at or None, "time"),
    Column("lied", lambda it: it.lied),
)
NODE = (
    Column("node", lambda it: it.peer_id),
    Column("region", lambda it: it.region),
    Column("state", lambda it: it.state),
    Column("liveness", lambda it: it.liveness),
    Column("full", lambda it: it.is_full),
    Column("lag", lambda it: it.lag_s or None, "seconds"),
    Column("chunks", lambda it: it.chunks, "count"),
    Column("size", lambda it: it.bytes, "size"),
    Column("free", lambda it: it.free_bytes if it.free_bytes or it.is_full else None, "size"),
    Column("zone", lambda it: it.zone, wide=True),
    Column("weight", lambda it: it.weight, "count", wide=True),
    Column("organization", lambda it: it.organization, wide=True),
)
POLICY = (
    Column("policy", lambda it: it.policy),
    Column("factor", lambda it: it.factor, "count"),
    Column("min", lambda it: it.minimum, "count"),
    Column("documents", lambda it: it.documents, "count"),
    Column("chunks", lambda it: it.chunks, "count"),
    Column("size", lambda it: it.bytes, "size"),
    Column("copies", lambda it: it.wanted, "count"),
)
FINDING = (
    Column("at risk", lambda it: it.is_at_risk),
    Column("state", lambda it: it.state),
    Column("have", lambda it: it.have, "count"),
    Column("want", lambda it: it.want, "count"),
    Column("cid", lambda it: it.cid),
    Column("missing", lambda it: [_holder(row) for row in it.holders if row.possession in MISSING], "prose"),
    Column("reason", lambda it: it.reason, "prose"),
    Column("policy", lambda it: it.policy, wide=True),
    Column("document", lambda it: it.doc_id, wide=True),
    Column("held by", lambda it: [row.peer_id for row in it.holders if row.possession not in MISSING], wide=True),
)
PLAN = (
    Column("kind", lambda it: it.kind),
    Column("plan id", lambda it: it.plan_id),
    Column("node", lambda it: it.node),
    Column("at risk", lambda it: it.at_risk, "count"),
    Column("lost", lambda it: it.lost, "count"),
    Column("copies", lambda it: it.copies, "count"),
    Column("size", lambda it: it.bytes, "size"),
    Column("time", lambda it: it.seconds, "seconds"),
    Column("done", lambda it: None if it.dry_run else it.done, "count"),
    Column("failed", lambda it: None if it.dry_run else it.failed, "count"),
    Column("under way", lambda it: None if it.dry_run else it.waiting, "count"),
    Column("dry run", lambda it: it.dry_run),
)
MOVE = (
    Column("cid", lambda it: it.cid),
    Column("from", lambda it: it.from_peer),
    Column("to", lambda it: it.to_peer or "drop"),
    Column("size", lambda it: it.bytes, "size"),
    Column("why", lambda it: it.why, "prose"),
)
DEFINITION = (
    Column("name", lambda it: it.name),
    Column("factor", lambda it: it.factor, "count"),
    Column("min", lambda it: it.minimum, "count"),
    Column("documents", lambda it: it.documents, "count"),
    Column("selector", lambda it: it.selector, "prose"),
)
MATCH = (
    Column("policy", lambda it: it.policy),
    Column("factor", lambda it: it.factor, "count"),
    Column("min", lambda it: it.minimum, "count"),
    Column("rule", lambda it: it.rule),
    Column("document", lambda it: it.doc_id),
    Column("cid", lambda it: it.cid),
    Column("uses a day", lambda it: round(it.per_day, 1) if it.doc_id else None),
    Column("holders", lambda it: [_holder_in_words(row) for row in it.holders]),
)
CONSIDERED = (
    Column("considered", lambda it: it.name),
    Column("factor", lambda it: it.factor, "count"),
    Column("matches", lambda it: it.matches),
    Column("why", lambda it: it.why, "prose"),
)


def state_of(status: verbs.ReplicationStatus) -> str:
    """Replication in a word, the worst that is so."""
    if not status.enabled:
        return "off"
    if status.lied:
        return "lied"
    if status.at_risk:
        return "at risk"
    if status.under:
        return "under"
    return "problems" if status.problems else "catching up" if status.waiting else "ok"


def worst_first(nodes: Iterable[verbs.NodeRow]) -> list[verbs.NodeRow]:
    """Nodes in trouble before others: lost, gone, full, behind; then by region."""

    def rank(row: verbs.NodeRow) -> tuple[bool, bool, bool, float, str, str]:
        return (
            row.state != "lost",
            row.liveness not in ("gone", "suspect"),
            not row.is_full,
            -row.lag_s,
            row.region,
            row.peer_id,
        )

    return sorted(nodes, key=rank)


def print_status(status: verbs.ReplicationStatus, nodes: Sequence[verbs.NodeRow]) -> None:
    """One screen: problems, a line each, with what mends them; the sums; policies; nodes."""
    from rage_cli.marks import sign

    for problem in status.problems:
        sys.stdout.write(f"{sign('error')} {safe(problem)}\n")
    for mend in _mends(status) if status.problems else ():  # without one it is under way by itself
        sys.stdout.write(f"  mend: {mend}\n")
    if status.problems:
        sys.stdout.write("\n")
    render(status, STATUS[1:], identifier=state_of)
    print_list(status.policies, POLICY)
    print_list(nodes, NODE, more="rage replication status --nodes")


def print_findings(result: verbs.AuditResult) -> None:
    """The worst, as many as fit."""
    if result.findings:
        _print_some(result.findings, FINDING, "rage replication audit --json")


def print_list(records: Sequence[Any], columns: Sequence[Column], more: str = "") -> None:
    """A list beneath a card."""
    if records:
        sys.stdout.write("\n")
        _print_some(records, columns, more)


def _print_some(records: Sequence[Any], columns: Sequence[Column], more: str) -> None:
    shown = records[:ROWS_MAX] if sys.stdout.isatty() else records
    render(records, columns, items=shown, identifier=str)
    if len(shown) < len(records):
        say(f"and {len(records) - len(shown):,} more{': ' if more else ''}{more}")


def audit_in_words(result: verbs.AuditResult) -> Iterator[str]:
    """What an audit found: the sum, what is at risk, where, and the mend."""
    how = "by proof" if result.proved else "by their holders' word"
    counts = [(name, getattr(result, name)) for name in ("ok", "under", "over", "misplaced", "unproven", "unreachable")]
    said = ", ".join(f"{count:,} {name}" for name, count in counts if count) or "nothing to check"
    yield f"{counted(result.checked, 'chunk')} in {format_duration(result.seconds)}, {how}: {said}"
    if result.at_risk:
        yield f"at risk: {counted(result.at_risk, 'chunk')} with fewer copies than the policy's min"
    yield from _where(result.findings)
    if result.lied:
        yield f"lied: {counted(result.lied, 'holder')} signed a wrong digest, which is kept: rage replication status"
    if result.under or result.at_risk:
        yield "mend: rage replication repair"
    if result.unreachable:
        yield "mend: start the nodes that do not answer; one that never will: rage replication replace NODE --lost"
    if result.over or result.misplaced:
        yield "mend: rage replication rebalance --dry-run"
    if result.unproven and not result.proved:
        yield "mend: rage replication audit --prove"


def _where(findings: Iterable[verbs.Finding]) -> Iterator[str]:
    """The nodes where most copies are missing."""
    places = Counter(
        (row.peer_id, row.region, row.possession)
        for finding in findings
        for row in finding.holders
        if row.possession in MISSING
    )
    for (peer_id, region, possession), count in places.most_common(PLACES_MAX):
        yield f"where: {peer_id}{f' ({region})' if region else ''} {possession}: {counted(count, 'chunk')}"
    if len(places) > PLACES_MAX:
        yield f"where: {counted(len(places) - PLACES_MAX, 'more node')}"


def copies(count: int) -> str:
    """`1 copy`, `2 copies`."""
    return "1 copy" if count == 1 else f"{count:,} copies"


def amount(plan: verbs.Plan) -> str:
    """`412 copies, 1.2 GiB, in about 3m 20s`; and how many are dropped."""
    about = f", in about {format_duration(plan.seconds)}" if plan.seconds else ""
    dropped = sum(not move.to_peer for move in plan.moves)
    drops = f", and drop {copies(dropped)}" if dropped else ""
    return f"{copies(plan.copies)}, {format_size(plan.bytes)}{about}{drops}"


def plan_in_words(plan: verbs.Plan) -> Iterator[str]:
    """What a person should know before a yes."""
    node = f" of {plan.node}" if plan.node else ""
    yield f"plan {plan.plan_id}, {plan.kind}{node}: {amount(plan)}"
    if plan.at_risk:
        yield f"at risk now: {counted(plan.at_risk, 'chunk')} with fewer copies than the policy's min"
    if plan.lost:
        yield f"lost: {counted(plan.lost, 'chunk')} of which nobody is known to have a copy"
    regions = Counter(move.to_peer or "dropped" for move in plan.moves)
    for peer_id, count in regions.most_common(PLACES_MAX):
        yield f"  to {peer_id}: {count:,}" if peer_id != "dropped" else f"  dropped: {count:,}"


def outcome_in_words(plan: verbs.Plan, *, is_undone: bool = False) -> Iterator[str]:
    """What comes after it ran. is_undone: a drain was taken back."""
    if plan.waiting:
        yield f"{copies(plan.waiting)} under way; the node goes on by itself: rage replication status"
    elif is_undone:
        yield f"{plan.node}: holds copies again"
    elif plan.kind == "drain":
        yield f"{plan.node}: others have proved all that it should hold"
    if plan.lost:
        yield f"lost: {counted(plan.lost, 'chunk')} of which nobody is known to have a copy: rage replication audit"


def _mends(status: verbs.ReplicationStatus) -> Iterator[str]:
    """Commands that no problem names itself."""
    said = " ".join(status.problems)
    wanted = []
    if status.at_risk or status.under:
        wanted += ["rage replication audit --prove", "rage replication repair"]
    if status.lied:
        wanted += ["there: rage chunk verify", *(f"rage replication drain {peer_id}" for peer_id in status.lied)]
    return (safe(one) for one in wanted if one not in said)


def _by_state(nodes: Iterable[verbs.NodeRow]) -> list[str]:
    """`4 active`, `1 lost`."""
    return [f"{count} {state}" for state, count in Counter(row.state for row in nodes).most_common()]


def _holder(row: verbs.HolderRow) -> str:
    return f"{row.peer_id[-TAIL:]} {row.possession}"


def _holder_in_words(row: verbs.HolderRow) -> str:
    return row.peer_id if row.possession == "unknown" else f"{row.peer_id} {row.possession}"
