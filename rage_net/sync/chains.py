"""What the log keeps in memory: each organisation's chains, how far they are heard, and what their authors may.

A `View` is never changed, only replaced by a newer one once a transaction stands, so readers need no lock. Rows become
facts here, as far as their chain is heard. Blocking; internal to the log.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rage_net.libp2p.peer_id import PeerId
from rage_net.sync.envelope import ChainId, Head, chain_hash, chain_start, client_id, payload_hash
from rage_net.sync.facts import Fact
from rage_net.sync.payloads import make_fact
from rage_net.sync.vocabulary import FactError

FACT_COLUMNS = "entry.chain, entry.sequence, entry.author, entry.payload"
"""What `facts_of` reads."""

_STANDS = """EXISTS (
    SELECT 1 FROM entry INDEXED BY entry_fact CROSS JOIN chain ON chain.id = entry.chain
    WHERE entry.fact = certificate.fact AND entry.organization = certificate.organization AND NOT chain.is_closed
    AND (chain.accepted IS NULL OR entry.sequence <= chain.accepted OR ?))"""
"""Certificates that stand in closed chains alone, or nowhere any more, give nothing: a newcomer knows none of them.
They are kept, for what closed the chains may come to count no more."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A row of `chain`."""

    key: int
    id: ChainId
    sequence: int
    hash: bytes
    bytes: int
    forked_at: int = 0
    accepted: int | None = None
    is_closed: bool = False

    @property
    def last(self) -> int:
        """The last sequence that counts."""
        if self.is_closed:
            return 0
        return self.sequence if self.accepted is None else min(self.sequence, self.accepted)

    @property
    def head(self) -> Head:
        """How far it is here."""
        return Head(self.id, self.sequence, self.hash)


@dataclass(frozen=True, slots=True)
class View:
    """One organisation's log at one moment."""

    key: int
    name: str
    incarnation: int | None
    lamport: int
    chains: Mapping[ChainId, Chain]
    by_key: Mapping[int, Chain]
    capabilities: Mapping[PeerId, frozenset[str]]
    """Of authors with a certificate that holds, and is heard: what a revocation cuts off makes nobody an admin, for
    others may never see it."""
    shown: Mapping[PeerId, frozenset[str]]
    """The same with what is cut off: by these are revocations weighed against each other (`limits`)."""

    def authority(self, author: PeerId) -> frozenset[str] | None:
        """As `rights.Authority`."""
        return self.capabilities.get(author)

    def clients(self, author: PeerId) -> frozenset[int]:
        """The pycrdt client ids of an author: of chains that are heard, and of those that were closed."""
        return frozenset(
            client_id(chain.id) for chain in self.chains.values() if chain.id.author == author and _lasts(chain)
        )

    def is_heard(self, chain: Chain, sequence: int, author: bytes | None) -> bool:
        """Whether what stands there counts as said. Args: author: of an adopted payload."""
        if sequence > chain.last:
            return False
        return author is None or "admin" in self.capabilities.get(chain.id.author, ())


def _lasts(chain: Chain) -> bool:
    return chain.is_closed or chain.last > 0


def load(db: sqlite3.Connection, name: str) -> View | None:
    """The view of an organisation as this connection sees it; None when it has no log here."""
    row = db.execute("SELECT id, incarnation, lamport FROM organization WHERE name = ?", (name,)).fetchone()
    if row is None:
        return None
    key, incarnation, lamport = row
    chains = {}
    for one in db.execute(
        "SELECT id, author, incarnation, sequence, hash, bytes, forked_at, accepted, is_closed FROM chain"
        " WHERE organization = ? ORDER BY id",
        (key,),
    ):
        chain_id = ChainId(PeerId(one[1]), int.from_bytes(one[2], "big"))
        chains[chain_id] = Chain(one[0], chain_id, one[3], one[4], one[5], one[6], one[7], bool(one[8]))
    is_limited = any(chain.is_closed or chain.forked_at or chain.accepted is not None for chain in chains.values())
    capabilities = _capabilities(db, key, is_limited, with_cut=False)
    return View(
        key=key,
        name=name,
        incarnation=None if incarnation is None else int.from_bytes(incarnation, "big"),
        lamport=lamport,
        chains=chains,
        by_key={chain.key: chain for chain in chains.values()},
        capabilities=capabilities,
        shown=_capabilities(db, key, is_limited, with_cut=True) if is_limited else capabilities,
    )


def _capabilities(
    db: sqlite3.Connection, organization: int, is_limited: bool, *, with_cut: bool
) -> dict[PeerId, frozenset[str]]:
    query = "SELECT author, capabilities FROM certificate WHERE organization = ? AND capabilities IS NOT NULL"
    found: dict[PeerId, frozenset[str]] = {}
    rows = db.execute(f"{query} AND {_STANDS}", (organization, with_cut)) if is_limited else None
    for author, has in rows or db.execute(query, (organization,)):
        peer = PeerId(author)
        found[peer] = found.get(peer, frozenset()) | frozenset(has.split())
    return found


def create(db: sqlite3.Connection, name: str) -> View:
    """The view of an organisation, whose log begins now if there is none."""
    db.execute("INSERT INTO organization (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
    view = load(db, name)
    assert view is not None
    return view


def add_chain(db: sqlite3.Connection, view: View, chain: ChainId) -> Chain:
    """A chain that begins."""
    start = chain_start(chain, view.name)
    row = db.execute(
        "INSERT INTO chain (organization, author, incarnation, sequence, hash, bytes) VALUES (?, ?, ?, 0, ?, 0)"
        " RETURNING id",
        (view.key, chain.author.multihash, chain.incarnation.to_bytes(8, "big"), start),
    ).fetchone()
    return Chain(row[0], chain, 0, start, 0)


def save_chain(db: sqlite3.Connection, chain: Chain) -> None:
    """The row as `chain` says."""
    db.execute(
        "UPDATE chain SET sequence = ?, hash = ?, bytes = ?, forked_at = ?, accepted = ?, is_closed = ? WHERE id = ?",
        (chain.sequence, chain.hash, chain.bytes, chain.forked_at, chain.accepted, chain.is_closed, chain.key),
    )


def read_hashes(db: sqlite3.Connection, chain: Chain, first: int, last: int) -> list[bytes]:
    """Payload hashes of the entries from `first` to `last`."""
    rows = db.execute(
        "SELECT payload, fact FROM entry WHERE chain = ? AND sequence BETWEEN ? AND ? AND part = 0 ORDER BY sequence",
        (chain.key, first, last),
    )
    return [fact if payload is None else payload_hash(payload) for payload, fact in rows]


def hash_at(db: sqlite3.Connection, view: View, chain: Chain, sequence: int) -> bytes:
    """The chain's hash after the entry `sequence`, which is here; from the signature before it."""
    if sequence == chain.sequence:
        return chain.hash
    row = db.execute(
        "SELECT sequence, hash FROM checkpoint WHERE chain = ? AND sequence <= ? ORDER BY sequence DESC LIMIT 1",
        (chain.key, sequence),
    ).fetchone()
    at, digest = row if row is not None else (0, chain_start(chain.id, view.name))
    return chain_hash(digest, at + 1, read_hashes(db, chain, at + 1, sequence))


def facts_of(view: View, rows: Iterable[tuple[Any, ...]]) -> Iterator[Fact]:
    """The facts that rows of FACT_COLUMNS are, as far as they are heard; a fact once for each place."""
    for key, sequence, author, payload in rows:
        chain = view.by_key.get(key)
        if chain is None or payload is None or not view.is_heard(chain, sequence, author):
            continue
        try:
            yield make_fact(view.name, chain.id, sequence, payload, None if author is None else PeerId(author))
        except FactError:
            continue


def facts_about(db: sqlite3.Connection, view: View, resource: str) -> tuple[Fact, ...]:
    """All facts about a resource that are heard, each once."""
    rows = db.execute(
        f"SELECT {FACT_COLUMNS} FROM entry WHERE resource ="  # noqa: S608
        " (SELECT id FROM resource WHERE organization = ? AND name = ?) ORDER BY id",
        (view.key, resource),
    ).fetchall()
    return tuple({fact.id: fact for fact in facts_of(view, rows)}.values())
