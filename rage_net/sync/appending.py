"""Our own chain: what we say, signed once for a run of payloads. Blocking; internal to the log."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rage_net.errors import CertificateError
from rage_net.libp2p.peer_id import PeerId
from rage_net.sync.chains import View, add_chain, facts_about, load, save_chain
from rage_net.sync.envelope import ChainId, Entry, Head, chain_hash, payload_hash, sign
from rage_net.sync.facts import NUMBERS, OVER_MAX, Certificate, Fact, Key, New, key_of, key_of_body
from rage_net.sync.payloads import LAMPORT_MAX, Content, encode_payload, make_fact
from rage_net.sync.rights import counting
from rage_net.sync.storing import CHECKPOINT_BYTES, CHECKPOINT_ENTRIES, Change, put_checkpoint, put_entries

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class Author:
    """Who writes here: the node itself."""

    key: Ed25519PrivateKey
    id: PeerId
    random: random.Random


def draw_incarnation(db: sqlite3.Connection, view: View, author: Author) -> View:
    """A new chain for us from here on: nothing is known of it anywhere."""
    incarnation = author.random.getrandbits(64)
    db.execute("UPDATE organization SET incarnation = ? WHERE id = ?", (incarnation.to_bytes(8, "big"), view.key))
    return replace(view, incarnation=incarnation)


def open_chain(db: sqlite3.Connection, view: View, author: Author) -> View:
    """See to it that our chain is one that others hear: a new one when it is the first, was closed, or forked."""
    chain = None if view.incarnation is None else view.chains.get(ChainId(author.id, view.incarnation))
    if view.incarnation is None or (chain is not None and (chain.is_closed or chain.forked_at)):
        return draw_incarnation(db, view, author)
    return view


def append(db: sqlite3.Connection, view: View, author: Author, news: Sequence[New], change: Change) -> list[Fact]:
    """Say it: Lamport number, nonce and what each fact replaces are filled in.

    Raises: CertificateError when our chain would begin without a certificate; FactError for what nobody would take.
    """
    view = open_chain(db, view, author)
    in_force: dict[str, dict[Key, list[bytes]]] = {}
    last: dict[Key, bytes] = {}
    payloads, facts = [], []
    lamport = view.lamport
    chain = _own_chain(view, author)
    for new in news:
        lamport = min(lamport + 1, LAMPORT_MAX)
        over: tuple[bytes, ...] = ()
        key = key_of_body(new.resource, new.body, author.id)
        if key is not None:
            if new.resource not in in_force:
                in_force[new.resource] = _in_force(db, view, author, new.resource)
            over = tuple(in_force[new.resource].get(key, ())[:OVER_MAX])
            if key in last:  # said just before: whether it counts or not, this one takes its place, too
                over = (*over[: OVER_MAX - 1], last[key])
        payload = encode_payload(Content(lamport, author.random.getrandbits(64), new.resource, over, new.body))
        fact = make_fact(view.name, chain, 0, payload)
        if key is not None:
            last[key] = fact.id
        facts.append(fact)
        payloads.append(payload)
    first = append_payloads(db, view, author, payloads, change)
    return [replace(fact, sequence=sequence) for sequence, fact in enumerate(facts, first)]


def append_payloads(
    db: sqlite3.Connection, view: View, author: Author, payloads: Sequence[bytes], change: Change
) -> int:
    """Write payloads as they are into our chain, signed. Returns: the sequence of the first."""
    assert view.incarnation is not None
    chain_id = _own_chain(view, author)
    fresh = load(db, view.name)
    assert fresh is not None
    chain = fresh.chains.get(chain_id)
    if chain is None:
        chain = add_chain(db, view, chain_id)
        change.is_limiting = True
    if not chain.sequence and make_fact(view.name, chain_id, 1, payloads[0]).body.__class__ is not Certificate:
        payloads = [_certificate(db, view, author), *payloads]
        added = 1
    else:
        added = 0
    first = chain.sequence + 1 + added
    for run in _runs(payloads):
        hashes = [payload_hash(payload) for payload in run]
        begin = chain.sequence + 1
        size = put_entries(db, view, chain, begin, [Entry(payload) for payload in run], hashes, change)
        after = replace(
            chain,
            sequence=chain.sequence + len(run),
            hash=chain_hash(chain.hash, begin, hashes),
            bytes=chain.bytes + size,
        )
        put_checkpoint(db, chain, after, sign(author.key, Head(chain_id, after.sequence, after.hash)))
        chain = after
    save_chain(db, chain)
    return first


def payloads_of(db: sqlite3.Connection, view: View, facts: Sequence[bytes]) -> list[bytes]:
    """The payloads of facts by their ids, in the same order."""
    found = []
    for id in facts:
        row = db.execute(
            "SELECT payload FROM entry WHERE organization = ? AND fact = ? AND payload IS NOT NULL LIMIT 1",
            (view.key, id),
        ).fetchone()
        if row is not None:
            found.append(row[0])
    return found


def newest_certificate(db: sqlite3.Connection, view: View, author: PeerId) -> bytes | None:
    """The payload of the author's latest certificate, wherever it stands."""
    rows = db.execute(
        "SELECT entry.payload FROM entry JOIN chain ON chain.id = entry.chain WHERE entry.organization = ?"
        " AND entry.kind = ? AND ifnull(entry.author, chain.author) = ?",
        (view.key, NUMBERS[Certificate], author.multihash),
    ).fetchall()
    chain = ChainId(author, 0)
    return max((row[0] for row in rows), key=lambda one: make_fact(view.name, chain, 0, one).order, default=None)


def _certificate(db: sqlite3.Connection, view: View, author: Author) -> bytes:
    payload = newest_certificate(db, view, author.id)
    if payload is None:
        raise CertificateError(
            f"no certificate of this node for {view.name} is in the log",
            why="a chain begins with its author's certificate",
            mend=("rage cert show",),
            id="cert-missing",
        )
    return payload


def _own_chain(view: View, author: Author) -> ChainId:
    assert view.incarnation is not None
    return ChainId(author.id, view.incarnation)


def _in_force(db: sqlite3.Connection, view: View, author: Author, resource: str) -> dict[Key, list[bytes]]:
    """What is in force about each thing that facts about a resource say, the oldest first."""
    found: dict[Key, list[bytes]] = {}
    for fact in counting(facts_about(db, view, resource), view.authority, own=author.id).current:
        found.setdefault(key_of(fact), []).append(fact.id)
    return found


def _runs(payloads: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Runs that each get a signature: at most CHECKPOINT_ENTRIES, about CHECKPOINT_BYTES."""
    begin = size = 0
    for at, payload in enumerate(payloads):
        if at > begin and (at - begin == CHECKPOINT_ENTRIES or size + len(payload) > CHECKPOINT_BYTES):
            yield payloads[begin:at]
            begin, size = at, 0
        size += len(payload)
    if begin < len(payloads):
        yield payloads[begin:]
