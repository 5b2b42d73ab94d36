"""What a peer lacks of a log, as segments: from where its heads end, each up to a signature that is kept.

Of a chain that forked, both branches go to whoever holds more of it than both share: so evidence travels as far as the
branches did. Blocking; internal to the log.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager

from rage_net.sync.chains import Chain, View, hash_at
from rage_net.sync.envelope import Entry, Head, Segment, decode_segment, payload_hash
from rage_net.sync.facts import NUMBERS, Adoption, Certificate, Closing, Fact, Revocation
from rage_net.sync.payloads import decode_payload, make_fact
from rage_net.sync.vocabulary import FactError

Read = Callable[[], AbstractContextManager[sqlite3.Connection]]
May = Callable[[Fact], bool]

_ALWAYS = tuple(NUMBERS[kind] for kind in (Certificate, Revocation, Closing))
"""What is never hidden: without it nobody could tell what counts."""


def missing(
    read: Read, view: View, known: Iterable[Head], *, is_complete: bool, bytes_max: int, may_see: May | None
) -> Iterator[Segment]:
    """Segments that lead from `known` to what is here, about `bytes_max` of payloads: one more than fits, at most."""
    heads = {head.chain: head for head in known}
    left = bytes_max
    for chain in view.chains.values():
        head = heads.get(chain.id)
        if chain.is_closed or not (chain.sequence or chain.forked_at) or (head is None and not is_complete):
            continue
        for segment in _of_chain(read, view, chain, head, may_see):
            yield segment
            left -= sum(len(payload or given) for payload, given in segment.entries)
            if left <= 0:
                return


def _of_chain(read: Read, view: View, chain: Chain, head: Head | None, may_see: May | None) -> Iterator[Segment]:
    at = head.sequence if head is not None else 0
    if head is not None and at == chain.sequence and head.hash == chain.hash:
        return
    if chain.forked_at and at >= chain.forked_at - 1:
        if at >= chain.forked_at:
            yield from _branches(read, chain, may_see, view)
        return
    end = _end(view, chain)
    with read() as db:
        if head is not None and 0 < at <= chain.sequence and hash_at(db, view, chain, at) != head.hash:
            at = 0  # theirs is another branch: from the start they find where it left
    while at < end:
        with read() as db:
            segment = _next(db, view, chain, at, may_see)
        if segment is None:
            break
        yield segment
        at = segment.last
    if chain.forked_at and at < chain.forked_at - 1:
        yield from _branches(read, chain, may_see, view)


def _end(view: View, chain: Chain) -> int:
    """How far the chain is told: of a revoked author no further than needed, unless what it says may still matter.

    An admin's revocations are weighed even where they are cut off (`limits`), so all must know them.
    """
    if chain.accepted is None or "admin" in view.shown.get(chain.id.author, ()):
        return chain.sequence
    return min(chain.accepted, chain.sequence)


def _next(db: sqlite3.Connection, view: View, chain: Chain, at: int, may_see: May | None) -> Segment | None:
    row = db.execute(
        "SELECT sequence, signature FROM checkpoint WHERE chain = ? AND sequence > ? ORDER BY sequence LIMIT 1",
        (chain.key, at),
    ).fetchone()
    if row is None:
        return None
    last, signature = row
    entries = _entries(db, view, chain, at + 1, last, may_see)
    return Segment(chain.id, at + 1, entries, signature) if len(entries) == last - at else None


def _entries(
    db: sqlite3.Connection, view: View, chain: Chain, first: int, last: int, may_see: May | None
) -> tuple[Entry, ...]:
    rows = db.execute(
        "SELECT payload, fact, kind, sequence FROM entry WHERE chain = ? AND sequence BETWEEN ? AND ? AND part = 0"
        " ORDER BY sequence",
        (chain.key, first, last),
    )
    if may_see is None:
        return tuple([Entry(payload) if payload is not None else Entry(None, fact) for payload, fact, _, _ in rows])
    return tuple(
        [
            Entry(None, fact)
            if payload is None
            else Entry(payload)
            if kind in _ALWAYS or _is_for(view, chain, sequence, payload, kind, may_see)
            else Entry(None, payload_hash(payload))
            for payload, fact, kind, sequence in rows
        ]
    )


def _is_for(view: View, chain: Chain, sequence: int, payload: bytes, kind: int, may_see: May) -> bool:
    """Whether a payload may be told: an adoption only with all that it adopts. What is malformed tells nothing.

    Nor does an adoption within an adoption, which nobody heeds: it could hold anything.
    """
    try:
        if kind == NUMBERS[Adoption]:
            body = decode_payload(payload).body
            assert isinstance(body, Adoption)
            facts = [make_fact(view.name, chain.id, sequence, one, body.author) for one in body.payloads]
            return all(not isinstance(fact.body, Adoption) and may_see(fact) for fact in facts)
        return may_see(make_fact(view.name, chain.id, sequence, payload))
    except FactError:
        return False


def _branches(read: Read, chain: Chain, may_see: May | None, view: View) -> Iterator[Segment]:
    """Both segments that prove the fork, with the payloads of what both share."""
    with read() as db:
        row = db.execute("SELECT ours, theirs FROM evidence WHERE chain = ?", (chain.key,)).fetchone()
        branches = [decode_segment(raw) for raw in row] if row is not None else []
        for branch in branches:
            shared = _entries(db, view, chain, branch.first, chain.forked_at - 1, may_see)
            yield Segment(branch.chain, branch.first, shared + branch.entries[len(shared) :], branch.signature)
