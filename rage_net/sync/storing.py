"""Entries become rows, and what follows from them within the same transaction.

`put_entries` writes rows and gathers what they touch in a `Change`; `settle` then draws the conclusions: who may what,
how far chains are heard, which documents' rows are old. Nothing is verified here. Blocking; internal to the log.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from blake3 import blake3

from rage_net.libp2p.peer_id import PeerId
from rage_net.sync.chains import FACT_COLUMNS, Chain, View, add_chain, load, save_chain
from rage_net.sync.envelope import ChainId, Entry, chain_start, fact_id, fact_prefix
from rage_net.sync.facts import (
    NUMBERS,
    Access,
    Adoption,
    Certificate,
    Closing,
    Document,
    Edit,
    Fact,
    Revocation,
    Tombstone,
)
from rage_net.sync.limits import Limits, limits
from rage_net.sync.payloads import LAMPORT_MAX, decode_payload, make_fact, number_of
from rage_net.sync.vocabulary import RESOURCE_BYTES_MAX, FactError

CHECKPOINT_ENTRIES = 1024
CHECKPOINT_BYTES = 256 << 10
"""Signatures are kept at least so far apart, as far as authors signed; a segment that is sent ends at one."""

Judge = Callable[[PeerId, tuple[bytes, ...]], frozenset[str] | None]
"""What an author's certificates give it in this organisation, judged by its CAs, whatever their age; None: nothing."""

ACCESS, CERTIFICATE, REVOCATION, ADOPTION, CLOSING = (
    NUMBERS[kind] for kind in (Access, Certificate, Revocation, Adoption, Closing)
)
_OF_CONSEQUENCE = frozenset({CERTIFICATE, REVOCATION, ADOPTION, CLOSING})
_EDITING = frozenset({"write", "admin"})
_DOCUMENT_KINDS = frozenset({NUMBERS[Document], NUMBERS[Edit], NUMBERS[Tombstone]})
_MARK = f"""
    INSERT OR IGNORE INTO dirty (organization, doc_id)
    SELECT DISTINCT entry.organization, substr(resource.name, 5)
    FROM entry CROSS JOIN resource ON resource.id = entry.resource
    WHERE (kind IN ({", ".join(map(str, sorted(_DOCUMENT_KINDS)))}) OR kind = {ACCESS} AND EXISTS (
        SELECT 1 FROM document
        WHERE document.organization = entry.organization AND document.doc_id = substr(resource.name, 5)
    )) AND resource.name LIKE 'doc:%' AND """  # noqa: S608
_MARK_WRITTEN = _MARK + "chain IN (SELECT id FROM chain WHERE organization = ? AND author = ?)"  # noqa: S608
_MARK_ADOPTED = _MARK + "entry.organization = ? AND author = ?"

Row = tuple[int, int, int, int, int, int, bytes, bytes | None, bytes | None]
"""organization, chain, sequence, part, kind, resource, fact, author, payload."""


@dataclass(slots=True)
class Change:
    """What one transaction has put into the log so far."""

    rows: list[tuple[ChainId, int, bytes | None, bytes]] = field(default_factory=list)
    """chain, sequence, author of an adopted one, payload."""
    resources: set[str] = field(default_factory=set)
    documents: set[str] = field(default_factory=set)
    accesses: set[str] = field(default_factory=set)
    """Documents whose editors may have changed."""
    certificates: list[tuple[PeerId, bytes, tuple[bytes, ...]]] = field(default_factory=list)
    authors: set[PeerId] = field(default_factory=set)
    """Of chains that were cut short: what they wrote about counts otherwise."""
    is_limiting: bool = False
    lamport: int = 0


# --- rows -------------------------------------------------------------------------------------------------------------


def put_entries(
    db: sqlite3.Connection,
    view: View,
    chain: Chain,
    first: int,
    entries: Sequence[Entry],
    hashes: Sequence[bytes],
    change: Change,
) -> int:
    """Write a verified run of entries of `chain`. Returns: bytes of payloads."""
    rows: list[Row] = []
    names = _Names(db, view.key)
    size = 0
    organization, key, chain_id = view.key, chain.key, chain.id
    prefix, look, seen = fact_prefix(chain_id.author), _Look(change).look, change.rows.append
    for sequence, (payload, digest) in enumerate(zip([entry[0] for entry in entries], hashes, strict=True), first):
        if payload is None:
            rows.append((organization, key, sequence, 0, 0, 0, digest, None, None))
            continue
        size += len(payload)
        kind, name = look(payload)
        fact = blake3(prefix + payload).digest(16)
        rows.append((organization, key, sequence, 0, kind, names[name] if kind else 0, fact, None, payload))
        if kind:
            seen((chain_id, sequence, None, payload))
            if kind in _OF_CONSEQUENCE:
                rows += _heed(view, chain, sequence, chain_id.author, fact, payload, change, names)
    db.executemany(
        "INSERT INTO entry (organization, chain, sequence, part, kind, resource, fact, author, payload)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        rows,
    )
    return size


def fill_hidden(
    db: sqlite3.Connection, view: View, chain: Chain, payloads: Iterable[tuple[int, bytes]], change: Change
) -> int:
    """Give entries of which only the hash was known their payloads, which match it. Returns: how many were filled."""
    hidden = {
        row[0] for row in db.execute("SELECT sequence FROM entry WHERE chain = ? AND payload IS NULL", (chain.key,))
    }
    filled = [(sequence, payload) for sequence, payload in payloads if sequence in hidden]
    for sequence, payload in filled:
        db.execute("DELETE FROM entry WHERE chain = ? AND sequence = ?", (chain.key, sequence))
        put_entries(db, view, chain, sequence, [Entry(payload)], [b""], change)
    return len(filled)


class _Names(dict[str, int]):
    """Numbers of resources, looked up once for a run."""

    def __init__(self, db: sqlite3.Connection, organization: int) -> None:
        self._db = db
        self._organization = organization

    def __missing__(self, name: str) -> int:
        at = (self._organization, name)
        row = self._db.execute("SELECT id FROM resource WHERE organization = ? AND name = ?", at).fetchone()
        if row is None:
            insert = "INSERT INTO resource (organization, name) VALUES (?, ?) RETURNING id"
            row = self._db.execute(insert, at).fetchone()
        number = self[name] = int(row[0])
        return number


class _Look:
    """Reads of a payload what rows need, its kind and resource; the rest is read when it is asked for.

    A class for speed alone: a hundred thousand payloads go through it at once.
    """

    def __init__(self, change: Change) -> None:
        from google.protobuf.message import DecodeError

        from rage_net.pb import rage_pb2 as pb

        self._change = change
        self._read = pb.Payload.FromString
        self._error = DecodeError

    def look(self, payload: bytes) -> tuple[int, str]:
        """The kind, 0 of what is malformed, and the resource."""
        try:
            wire = self._read(payload)
            kind = number_of(wire)
        except (self._error, FactError):
            return 0, ""
        name, lamport, change = wire.resource, wire.lamport, self._change
        if len(name) > RESOURCE_BYTES_MAX or not 1 <= lamport <= LAMPORT_MAX:
            return 0, ""
        if lamport > change.lamport:
            change.lamport = lamport
        change.resources.add(name)
        if kind == ACCESS:
            if wire.access.action in _EDITING and name.startswith("doc:"):
                change.accesses.add(name[4:])
        elif kind in _DOCUMENT_KINDS and name.startswith("doc:"):
            change.documents.add(name[4:])
        return kind, name


def _heed(
    view: View,
    chain: Chain,
    sequence: int,
    author: PeerId,
    fact: bytes,
    payload: bytes,
    change: Change,
    names: _Names,
) -> list[Row]:
    """Note what a payload of consequence says. Returns: rows of what it adopts."""
    try:
        body = decode_payload(payload).body
    except FactError:
        return []
    rows: list[Row] = []
    match body:
        case Certificate():
            change.certificates.append((author, fact, body.certificates))
            change.is_limiting = change.is_limiting or chain.is_closed  # of an admin it may not be closed by others
        case Revocation():
            change.is_limiting = change.is_limiting or body.is_author
        case Closing():
            change.is_limiting = True
        case Adoption():
            look = _Look(change).look
            for part, adopted in enumerate(body.payloads, 1):
                kind, name = look(adopted)
                if kind in (0, ADOPTION):
                    continue
                id, by = fact_id(body.author, adopted), body.author.multihash
                rows.append((view.key, chain.key, sequence, part, kind, names[name], id, by, adopted))
                change.rows.append((chain.id, sequence, by, adopted))
                if kind in _OF_CONSEQUENCE:
                    _heed(view, chain, sequence, body.author, id, adopted, change, names)
    return rows


def touch(db: sqlite3.Connection, chain: Chain, first: int, change: Change) -> None:
    """The entries from `first` on are about to go: note what they are about, which comes to something else then."""
    rows = db.execute(
        "SELECT DISTINCT name FROM entry JOIN resource ON resource.id = entry.resource"
        " WHERE chain = ? AND sequence >= ?",
        (chain.key, first),
    )
    names = {row[0] for row in rows}
    change.resources |= names
    change.documents |= {name[4:] for name in names if name.startswith("doc:")}


def put_checkpoint(db: sqlite3.Connection, before: Chain, after: Chain, signature: bytes) -> None:
    """Keep the signature at the new head; let go of the one at the old head if those around it are near."""
    row = db.execute(
        "SELECT sequence, bytes FROM checkpoint WHERE chain = ? AND sequence < ? ORDER BY sequence DESC LIMIT 1",
        (before.key, before.sequence),
    ).fetchone()
    sequence, size = row if row is not None else (0, 0)
    if after.sequence - sequence <= CHECKPOINT_ENTRIES and after.bytes - size <= CHECKPOINT_BYTES:
        db.execute("DELETE FROM checkpoint WHERE chain = ? AND sequence = ?", (before.key, before.sequence))
    db.execute(
        "INSERT INTO checkpoint (chain, sequence, hash, signature, bytes) VALUES (?, ?, ?, ?, ?)",
        (after.key, after.sequence, after.hash, signature, after.bytes),
    )


# --- conclusions ------------------------------------------------------------------------------------------------------


def settle(db: sqlite3.Connection, view: View, change: Change, judge: Judge | None) -> tuple[View, bool]:
    """Draw the conclusions of a change. Returns: the view after it, and whether what stood before counts otherwise."""
    if change.lamport > view.lamport:
        db.execute("UPDATE organization SET lamport = ? WHERE id = ?", (change.lamport, view.key))
    for author, fact, certificates in change.certificates:
        put_certificate(db, view, author, fact, judge(author, certificates) if judge else None, is_new=judge is None)
    _mark(db, view, change)
    after = _reload(db, view)
    is_rejudged = False
    changed = {
        author
        for author in view.capabilities.keys() | after.capabilities.keys()
        if view.capabilities.get(author) != after.capabilities.get(author)
    }
    if changed:
        is_rejudged = any(author in view.capabilities for author in changed)
        mark_authors(db, after, changed & {chain.author for chain in view.chains})
    if change.authors:
        is_rejudged = True
        mark_authors(db, after, change.authors)
    # What a certificate shows is weighed even where the certificate itself is no longer heard.
    has_shown = after.shown != view.shown
    if change.is_limiting or ((changed or has_shown) and _has_limits(db, after)):
        limited, after = apply_limits(db, after)
        is_rejudged = is_rejudged or limited
    return after, is_rejudged


def put_certificate(
    db: sqlite3.Connection,
    view: View,
    author: PeerId,
    fact: bytes,
    capabilities: frozenset[str] | None,
    *,
    is_new: bool = False,
) -> None:
    """Keep what was found of a certificate; with `is_new`, only if nothing was found yet."""
    has = None if capabilities is None else " ".join(sorted(capabilities))
    verb = "INSERT OR IGNORE" if is_new else "INSERT OR REPLACE"
    db.execute(
        f"{verb} INTO certificate (organization, author, fact, capabilities) VALUES (?, ?, ?, ?)",
        (view.key, author.multihash, fact, has),
    )


def mark_authors(db: sqlite3.Connection, view: View, authors: Iterable[PeerId]) -> None:
    """All documents that these authors wrote about are to be built again."""
    for author in authors:
        for statement in (_MARK_WRITTEN, _MARK_ADOPTED):
            db.execute(statement, (view.key, author.multihash))


def apply_limits(db: sqlite3.Connection, view: View) -> tuple[bool, View]:
    """Work out how far each chain is heard, and write it down. Returns: whether anything changed; the view after."""
    is_changed = False
    for _ in range(3):  # what a closing takes away may be what made an admin of its author
        found = weigh(db, view)
        changed = _write_limits(db, view, found)
        if not changed:
            break
        is_changed = True
        view = _reload(db, view)
        mark_authors(db, view, changed)
    return is_changed, view


def weigh(db: sqlite3.Connection, view: View) -> Limits:
    """How far each chain is heard, by what is known now."""
    return limits(_limiting(db, view), view.shown.get, ever_admins(db, view))


def ever_admins(db: sqlite3.Connection, view: View) -> frozenset[PeerId]:
    """Whoever showed a certificate with the capability `admin`, wherever it stood."""
    return frozenset(author for author, is_admin in _certified(db, view).items() if is_admin)


def _certified(db: sqlite3.Connection, view: View) -> dict[PeerId, bool]:
    """Authors of whom a certificate that holds is known, and whether one makes them admins."""
    found: dict[PeerId, bool] = {}
    for author, has in db.execute(
        "SELECT author, capabilities FROM certificate WHERE organization = ? AND capabilities IS NOT NULL", (view.key,)
    ):
        peer = PeerId(author)
        found[peer] = found.get(peer, False) or "admin" in has.split()
    return found


def _limiting(db: sqlite3.Connection, view: View) -> list[Fact]:
    """Revocations and closings, once for each place where they stand, heard or not."""
    facts = []
    for key, sequence, author, payload in db.execute(
        f"SELECT {FACT_COLUMNS} FROM entry WHERE organization = ? AND kind IN (?, ?)",  # noqa: S608
        (view.key, REVOCATION, CLOSING),
    ):
        chain = view.by_key.get(key)
        if chain is None or (chain.forked_at and sequence >= chain.forked_at):
            continue
        try:
            by = None if author is None else PeerId(author)
            facts.append(make_fact(view.name, chain.id, sequence, payload, by))
        except FactError:
            continue
    return facts


def _has_limits(db: sqlite3.Connection, view: View) -> bool:
    query = "SELECT 1 FROM entry WHERE organization = ? AND kind IN (?, ?) LIMIT 1"
    return db.execute(query, (view.key, REVOCATION, CLOSING)).fetchone() is not None


def _write_limits(db: sqlite3.Connection, view: View, found: Limits) -> set[PeerId]:
    changed: set[PeerId] = set()
    for chain_id in found.closed:
        if chain_id not in view.chains:
            add_chain(db, view, chain_id)
    certified = _certified(db, view)
    for chain in _reload(db, view).chains.values():
        head = found.closed.get(chain.id)
        now = replace(chain, accepted=found.accepted(chain.id), is_closed=head is not None)
        is_known = chain.sequence or chain.id.author in certified  # else it may be an admin's, and is heard out first
        if head is not None and head.sequence > chain.sequence and is_known:
            now = replace(now, sequence=head.sequence, hash=head.hash)
        elif head is None and chain.is_closed and _has_holes(db, chain):
            now = _begin_again(db, view, now)
        if now != chain:
            changed.add(chain.id.author)
            save_chain(db, now)
    return changed


def _has_holes(db: sqlite3.Connection, chain: Chain) -> bool:
    """Whether rows of a chain that was closed are gone."""
    count = db.execute("SELECT count(*) FROM entry WHERE chain = ? AND part = 0", (chain.key,)).fetchone()[0]
    return bool(count != chain.sequence)


def _begin_again(db: sqlite3.Connection, view: View, chain: Chain) -> Chain:
    """A chain whose closing counts no more, and whose rows are gone: it is fetched anew."""
    db.execute("DELETE FROM entry WHERE chain = ?", (chain.key,))
    db.execute("DELETE FROM checkpoint WHERE chain = ?", (chain.key,))
    return replace(chain, sequence=0, hash=chain_start(chain.id, view.name), bytes=0, forked_at=0)


def _mark(db: sqlite3.Connection, view: View, change: Change) -> None:
    db.executemany(
        "INSERT OR IGNORE INTO dirty (organization, doc_id) VALUES (?, ?)",
        [(view.key, doc_id) for doc_id in sorted(change.documents)],
    )
    db.executemany(
        "INSERT OR IGNORE INTO dirty (organization, doc_id) SELECT organization, doc_id FROM document"
        " WHERE organization = ? AND doc_id = ?",
        [(view.key, doc_id) for doc_id in sorted(change.accesses - change.documents)],
    )


def _reload(db: sqlite3.Connection, view: View) -> View:
    after = load(db, view.name)
    assert after is not None
    return after
