"""Compaction: what is still wanted of an author's chains goes into a new one, and the old ones are closed.

`wanted` is the rule, pure; `compact` applies it to our own chains, `adopt`, for an admin, to a departed author's;
`sweep` drops the rows of chains that are closed. Facts keep their ids, because an id is made of author and payload.

Shed is what nobody can miss: facts that the same author replaced, unless these had replaced another author's; rights
long expired; rights on documents that are dead; edits that are merged into one. Never shed: denials, revocations and
tombstones that stand; what decides who owns a document or whose edits count; certificates that give what the newest
does not.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from rage_net.errors import AccessDeniedError
from rage_net.libp2p.peer_id import PeerId
from rage_net.sync.appending import Author, append, append_payloads, draw_incarnation, newest_certificate
from rage_net.sync.catalog import merge
from rage_net.sync.chains import FACT_COLUMNS, Chain, View, facts_about, facts_of, save_chain
from rage_net.sync.documents import counted_edits
from rage_net.sync.envelope import Head, fact_id, payload_hash
from rage_net.sync.facts import (
    NUMBERS,
    Access,
    Adoption,
    Body,
    Cdn,
    Certificate,
    Closing,
    Document,
    Edit,
    Fact,
    New,
    Tombstone,
    key_of,
)
from rage_net.sync.payloads import UPDATE_BYTES_MAX, Content, encode_payload
from rage_net.sync.rights import Counting, counting
from rage_net.sync.storing import CLOSING, Change, ever_admins, fill_hidden
from rage_net.sync.vocabulary import FactError

EXPIRED_S = 7 * 86_400
"""A right is shed so long after it expired: no clock is so far off."""
ADOPTION_BYTES = 48 << 10
"""Of payloads in one adoption, which is a payload itself."""
SWEPT_AT_ONCE = 20_000
"""Rows dropped within one transaction."""


def wanted(own: Sequence[Fact], counted: Counting, there: Collection[bytes] | None, now: float) -> tuple[Fact, ...]:
    """Which of one author's facts about a resource must not be shed.

    Args: own: the author's facts, all about that resource. counted: what counts of all facts about it.
        there: ids of all facts about it that may ever count, anyone's; None when some are unknown.
    """
    by_id = {fact.id: fact for fact in own}
    replaced = {
        id
        for fact in counted.facts
        for id in fact.over
        if fact.id in by_id and id in by_id and key_of(by_id[id]) == key_of(fact)
    }
    is_dead = any(isinstance(fact.body, Tombstone) for fact in counted.facts)
    first = min((fact for fact in own if isinstance(fact.body, Document)), key=lambda fact: fact.order, default=None)
    shed = {
        fact.id
        for fact in own
        if fact is not first
        and not _decides(fact.body)
        and (fact.id in replaced or _is_said_again(fact) or _is_past(fact.body, now) or (is_dead and _dies(fact.body)))
    }
    is_moving = True
    while is_moving:  # what replaces something that stays must stay, too, or that would be in force again
        kept = {id for id in shed if any(one not in shed and (there is None or one in there) for one in by_id[id].over)}
        shed -= kept
        is_moving = bool(kept)
    return tuple(sorted((fact for id, fact in by_id.items() if id not in shed), key=lambda fact: fact.order))


def _decides(body: Body) -> bool:
    """Whether others' facts count by this one, even when it was replaced: who was ever given it may have edited."""
    return isinstance(body, Access) and body.allowed and body.action in ("write", "admin")


def _is_said_again(fact: Fact) -> bool:
    return isinstance(fact.body, Closing) and fact.body.author == fact.author


def _is_past(body: Body, now: float) -> bool:
    return isinstance(body, Access) and 0 < body.expires_at < now - EXPIRED_S


def _dies(body: Body) -> bool:
    """Whether it is of no use once the document is dead. Who ruled it stays: by that its tombstone counts."""
    return isinstance(body, Edit | Cdn) or (isinstance(body, Access) and body.action != "admin")


def compact(db: sqlite3.Connection, view: View, author: Author, now: float, change: Change) -> int:
    """Write a new chain of ours with what is wanted, and close the others. Returns: how many entries were shed."""
    chains = _open_chains(view, author.id)
    if not chains or any(chain.accepted is not None or _has_hidden(db, chain) for chain in chains):
        return 0  # revoked, so that a new chain would not be heard; or restored, and not whole
    payloads, count = _wanted_payloads(db, view, author, author.id, now)
    before = sum(chain.sequence for chain in chains)
    if count + 1 >= before:
        return 0
    view = draw_incarnation(db, view, author)
    append_payloads(db, view, author, payloads, change)
    view = replace(view, lamport=max(view.lamport, change.lamport))
    append(db, view, author, _closing(view, author, author.id), change)
    return before - count - 1


def adopt(db: sqlite3.Connection, view: View, author: Author, departed: PeerId, now: float, change: Change) -> int:
    """Keep in our chain what is wanted of a departed author, and close its chains. Returns: how many entries were shed.

    Raises: AccessDeniedError without the capability `admin`; FactError for a payload that fits no adoption.
    """
    if "admin" not in view.capabilities.get(author.id, ()):
        raise AccessDeniedError(
            f"adopting what {departed} wrote needs the capability `admin`",
            why="this node's certificate does not give it",
            mend=("rage cert show",),
        )
    if departed in ever_admins(db, view) and departed != author.id:
        raise AccessDeniedError(
            f"{departed} was an admin, and admins' chains are closed by themselves alone",
            why="a revocation may stand there that this node has not seen",
        )
    chains = _open_chains(view, departed)
    if not chains or departed == author.id:
        return 0
    payloads, count = _wanted_payloads(db, view, author, departed, now)
    news = [
        New(f"peer:{departed}", Adoption(departed, chains[-1].id.incarnation, tuple(run)))
        for run in _adoptions(payloads)
    ]
    append(db, view, author, [*news, *_closing(view, author, departed)], change)
    return sum(chain.sequence for chain in chains) - count


def sweep(db: sqlite3.Connection, view: View, change: Change) -> bool:
    """Drop some rows of closed chains, closings apart. Returns: whether there are more."""
    left = SWEPT_AT_ONCE
    for chain in view.chains.values():
        if not chain.is_closed or not chain.bytes:
            continue
        rows = db.execute(
            "SELECT id, payload FROM entry WHERE chain = ? AND kind <> ? LIMIT ?", (chain.key, CLOSING, left)
        ).fetchall()
        _reveal(db, view, chain, [payload for _, payload in rows if payload is not None], change)
        db.executemany("DELETE FROM entry WHERE id = ?", [(id,) for id, _ in rows])
        left -= len(rows)
        if left <= 0:
            return True
        db.execute("DELETE FROM checkpoint WHERE chain = ?", (chain.key,))
        save_chain(db, replace(chain, bytes=0))
    return False


def _reveal(db: sqlite3.Connection, view: View, closed: Chain, payloads: Sequence[bytes], change: Change) -> None:
    """What is hidden in a new chain may stand plain in the closed one."""
    hidden = {
        digest: view.by_key[key]
        for key, digest in db.execute(
            "SELECT chain, fact FROM entry WHERE payload IS NULL AND chain IN"
            " (SELECT id FROM chain WHERE organization = ? AND author = ?)",
            (view.key, closed.id.author.multihash),
        )
    }
    if not hidden:
        return
    for payload in payloads:
        digest = payload_hash(payload)
        chain = hidden.get(digest)
        if chain is not None:
            places = db.execute(
                "SELECT sequence FROM entry WHERE chain = ? AND payload IS NULL AND fact = ?", (chain.key, digest)
            ).fetchall()
            fill_hidden(db, view, chain, [(sequence, payload) for (sequence,) in places], change)


def _open_chains(view: View, author: PeerId) -> list[Chain]:
    return [one for one in view.chains.values() if one.id.author == author and one.last > 0]


def _has_hidden(db: sqlite3.Connection, chain: Chain) -> bool:
    query = "SELECT 1 FROM entry WHERE chain = ? AND payload IS NULL LIMIT 1"
    return db.execute(query, (chain.key,)).fetchone() is not None


def _closing(view: View, author: Author, of: PeerId) -> list[New]:
    """Of all chains that the author ever had but the new one: a later closing must say what earlier ones said."""
    own = None if view.incarnation is None else (author.id, view.incarnation)
    heads = tuple(
        Head(one.id, one.sequence, one.hash)
        for one in view.chains.values()
        if one.id.author == of and (one.id.author, one.id.incarnation) != own and (one.sequence or one.is_closed)
    )
    return [New(f"peer:{of}", Closing(of, heads))] if heads else []


def _wanted_payloads(
    db: sqlite3.Connection, view: View, author: Author, of: PeerId, now: float
) -> tuple[list[bytes], int]:
    """The wanted payloads of an author, its newest certificate first, then in order; and how many entries they were."""
    by_resource: dict[str, dict[bytes, Fact]] = {}
    payloads: dict[bytes, bytes] = {}
    rows = db.execute(
        f"SELECT {FACT_COLUMNS} FROM entry WHERE kind > 0 AND (chain IN"  # noqa: S608
        " (SELECT id FROM chain WHERE organization = ? AND author = ?) OR (organization = ? AND author = ?))",
        (view.key, of.multihash, view.key, of.multihash),
    ).fetchall()
    for row in rows:
        for fact in facts_of(view, [row]):
            if fact.author == of:
                by_resource.setdefault(fact.resource, {})[fact.id] = fact
                payloads[fact.id] = row[3]
    found: list[tuple[tuple[int, bytes], bytes]] = []
    has_holes = any(_has_hidden(db, chain) for chain in view.chains.values() if not chain.is_closed)
    for resource, own in by_resource.items():
        counted = counting(facts_about(db, view, resource), view.authority)
        there = None if has_holes else _ids_about(db, view, resource)
        kept = wanted(tuple(own.values()), counted, there, now)
        merged = _merged(view, author, of, resource, kept, counted)
        for fact in kept:
            if merged is not None and isinstance(fact.body, Edit):
                continue
            if not isinstance(fact.body, Certificate):
                found.append((fact.order, payloads[fact.id]))
        if merged is not None:
            found.append((merged[0], merged[1]))
    certificates = _certificates(db, view, of)
    return certificates + [payload for _, payload in sorted(found)], len(found) + len(certificates)


def _ids_about(db: sqlite3.Connection, view: View, resource: str) -> frozenset[bytes]:
    """All facts about a resource, those included that are not heard now: they may be again."""
    rows = db.execute(
        "SELECT fact FROM entry WHERE resource = (SELECT id FROM resource WHERE organization = ? AND name = ?)",
        (view.key, resource),
    )
    return frozenset(bytes(row[0]) for row in rows)


def _merged(
    view: View, author: Author, of: PeerId, resource: str, kept: Sequence[Fact], counted: Counting
) -> tuple[tuple[int, bytes], bytes] | None:
    """One edit in the place of several, where nobody else edited: what others built on ours stays as it is."""
    edits = [fact for fact in kept if isinstance(fact.body, Edit)]
    counting_edits = [fact for fact in counted.facts if isinstance(fact.body, Edit)]
    if of != author.id or len(edits) < 2 or {fact.id for fact in edits} != {fact.id for fact in counting_edits}:
        return None
    update = merge(counted_edits(view, counted))
    if not update or len(update) > UPDATE_BYTES_MAX:
        return None
    lamport = max(fact.lamport for fact in edits)
    payload = encode_payload(Content(lamport, author.random.getrandbits(64), resource, (), Edit(update)))
    return (lamport, fact_id(of, payload)), payload


def _certificates(db: sqlite3.Connection, view: View, of: PeerId) -> list[bytes]:
    """The newest certificate, then those that give what it does not."""
    newest = newest_certificate(db, view, of)
    if newest is None:
        return []
    gives = {
        bytes(fact): frozenset((has or "").split())
        for fact, has in db.execute(
            "SELECT fact, capabilities FROM certificate WHERE organization = ? AND author = ?",
            (view.key, of.multihash),
        )
    }
    has = gives.get(fact_id(of, newest), frozenset())
    kept = [newest]
    for fact, capabilities in sorted(gives.items()):
        if capabilities - has:
            row = db.execute(
                "SELECT payload FROM entry WHERE fact = ? AND kind = ? AND organization = ?",
                (fact, NUMBERS[Certificate], view.key),
            ).fetchone()
            if row is not None:
                kept.append(bytes(row[0]))
                has |= capabilities
    return kept


def _adoptions(payloads: Sequence[bytes]) -> Iterator[list[bytes]]:
    run: list[bytes] = []
    for payload in payloads:
        if len(payload) > ADOPTION_BYTES:
            raise FactError(f"a payload of {len(payload)} bytes fits no adoption")
        if run and (sum(map(len, run)) + len(payload) > ADOPTION_BYTES or len(run) == 1024):
            yield run
            run = []
        run.append(payload)
    if run:
        yield run
