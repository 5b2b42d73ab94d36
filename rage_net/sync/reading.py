"""Questions to the log: facts, the catalog, evidence, numbers. Readers see what was committed, and need no lock.

`Log` (log.py) adds what changes it. Blocking and safe from any thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from blake3 import blake3

from rage_net.cid import Cid
from rage_net.libp2p.peer_id import PeerId
from rage_net.sync.chains import FACT_COLUMNS, View, facts_about, facts_of, hash_at
from rage_net.sync.documents import DocumentRow, read_documents
from rage_net.sync.envelope import ChainId, Head, Segment, decode_segment
from rage_net.sync.facts import NUMBERS, Access, Body, Fact
from rage_net.sync.rights import Counting, counting
from rage_net.sync.schema import LogFile
from rage_net.sync.storing import ever_admins, weigh

PAGE_MAX = 10_000
"""Rows in one answer."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Two signed segments of one chain that differ at `sequence`."""

    organization: str
    chain: ChainId
    sequence: int
    ours: Segment
    theirs: Segment
    found_at: float


@dataclass(frozen=True, slots=True)
class Counts:
    """One organisation's log in numbers."""

    entries: int
    chains: int
    authors: int
    documents: int
    forks: int


class LogReader:
    """What can be asked of a log."""

    def __init__(self, file: LogFile, author: PeerId) -> None:
        self._file = file
        self._views: dict[str, View] = {}
        self._self = author

    @property
    def author(self) -> PeerId:
        """Who writes here."""
        return self._self

    def organizations(self) -> tuple[str, ...]:
        """Those with a log here."""
        return tuple(sorted(self._views))

    def heads(self, organization: str) -> tuple[Head, ...]:
        """How far each chain is here."""
        view = self._views.get(organization)
        if view is None:
            return ()
        return tuple(chain.head for chain in view.chains.values() if chain.sequence)

    def heads_of_admins(self, organization: str) -> tuple[Head, ...]:
        """How far chains of authors with the capability `admin` are heard here: a copy with less of them lags."""
        view = self._views.get(organization)
        if view is None:
            return ()
        return tuple(
            Head(chain.id, chain.last, b"")
            for chain in view.chains.values()
            if chain.last and "admin" in view.capabilities.get(chain.id.author, ())
        )

    def capabilities(self, organization: str, author: PeerId) -> frozenset[str] | None:
        """What an author's certificates give it there; None when it has none that holds. As `rights.Authority`."""
        view = self._views.get(organization)
        return None if view is None else view.authority(author)

    def facts(self, organization: str, resource: str) -> tuple[Fact, ...]:
        """All facts about a resource that are heard, each once. Who of them counts: `counting`."""
        view = self._views.get(organization)
        if view is None:
            return ()
        with self._file.read() as db:
            return facts_about(db, view, resource)

    def counting(self, organization: str, resource: str, *, now: float | None = None) -> Counting:
        """The facts about a resource that count, and its owner. As `rights.counting`."""
        view = self._views.get(organization)
        if view is None:
            return Counting(())
        return counting(self.facts(organization, resource), view.authority, own=self.author, now=now)

    def by_kind(self, organization: str, kind: type[Body]) -> tuple[Fact, ...]:
        """All facts of a kind that are heard, each once, in order of arrival. Not whether they count."""
        view = self._views.get(organization)
        if view is None:
            return ()
        with self._file.read() as db:
            rows = db.execute(
                f"SELECT {FACT_COLUMNS} FROM entry WHERE organization = ? AND kind = ? ORDER BY id",  # noqa: S608
                (view.key, NUMBERS[kind]),
            ).fetchall()
        return tuple({fact.id: fact for fact in facts_of(view, rows)}.values())

    def revoked(self, organization: str) -> frozenset[PeerId]:
        """Authors of whom nothing counts beyond what revocations accept, those included that revoked each other."""
        view = self._views.get(organization)
        if view is None:
            return frozenset()
        with self._file.read() as db:
            return frozenset(weigh(db, view).revoked)

    def ever_admins(self, organization: str) -> frozenset[PeerId]:
        """Whoever showed a certificate there with the capability `admin`, revoked or not."""
        view = self._views.get(organization)
        if view is None:
            return frozenset()
        with self._file.read() as db:
            return ever_admins(db, view)

    def fact(self, id: bytes) -> Fact | None:
        """The fact with this id, if it is heard."""
        with self._file.read() as db:
            rows = db.execute(
                f"SELECT entry.organization, {FACT_COLUMNS} FROM entry WHERE fact = ? AND kind > 0",  # noqa: S608
                (id,),
            ).fetchall()
        by_key = {view.key: view for view in list(self._views.values())}  # a thread may add one
        for key, *row in rows:
            if key in by_key:
                for fact in facts_of(by_key[key], [tuple(row)]):
                    return fact
        return None

    def resources(self, organization: str, prefix: str = "", after: str = "", limit: int = 1000) -> tuple[str, ...]:
        """Names of resources that facts are about, in order, behind `after`."""
        view = self._views.get(organization)
        if view is None:
            return ()
        with self._file.read() as db:
            rows = db.execute(
                "SELECT name FROM resource WHERE organization = ? AND name > ? AND name >= ? AND name < ?"
                " AND EXISTS (SELECT 1 FROM entry WHERE entry.resource = resource.id) ORDER BY name LIMIT ?",
                (view.key, after, prefix, prefix + "\U0010ffff", min(limit, PAGE_MAX)),
            ).fetchall()
        return tuple(row[0] for row in rows)

    def disputed(self, organization: str) -> tuple[str, ...]:
        """Resources with rights by several authors: those on which they may contradict each other. One pass.

        Two authors are two chains, or one that adopted from the other.
        """
        view = self._views.get(organization)
        if view is None:
            return ()
        with self._file.read() as db:
            rows = db.execute(
                "SELECT name FROM resource WHERE id IN (SELECT resource FROM entry WHERE organization = ? AND kind = ?"
                " GROUP BY resource HAVING count(DISTINCT chain) > 1 OR max(author) IS NOT NULL)",
                (view.key, NUMBERS[Access]),
            ).fetchall()
        return tuple(row[0] for row in rows)

    def unread(self, organization: str, limit: int = 100) -> tuple[str, ...]:
        """Resources about which a later version said what this one does not know. Not whether that counts."""
        view = self._views.get(organization)
        if view is None:
            return ()
        with self._file.read() as db:
            rows = db.execute(
                "SELECT DISTINCT name FROM entry JOIN resource ON resource.id = entry.resource"
                " WHERE entry.organization = ? AND kind > ? LIMIT ?",
                (view.key, max(NUMBERS.values()), min(limit, PAGE_MAX)),
            ).fetchall()
        return tuple(row[0] for row in rows)

    def expired(self, organization: str, now: int, limit: int = 1000) -> tuple[DocumentRow, ...]:
        """Living documents whose retention is over."""
        view = self._views.get(organization)
        if view is None:
            return ()
        with self._file.read() as db:
            rows = db.execute(
                "SELECT doc_id FROM document WHERE organization = ? AND is_dead = 0"
                " AND retention_until BETWEEN 1 AND ? LIMIT ?",
                (view.key, now, min(limit, PAGE_MAX)),
            ).fetchall()
        return tuple(row for (doc_id,) in rows for row in self.documents(organization, doc_id=doc_id))

    def log(self, organization: str, after: int | None = None, limit: int = 100) -> tuple[tuple[int, Fact], ...]:
        """The newest facts by arrival, each with its row's number; for older ones, give the last number as `after`."""
        view = self._views.get(organization)
        if view is None:
            return ()
        with self._file.read() as db:
            rows = db.execute(
                f"SELECT id, {FACT_COLUMNS} FROM entry WHERE organization = ? AND id < ? AND kind > 0"  # noqa: S608
                " ORDER BY id DESC LIMIT ?",
                (view.key, (1 << 62) if after is None else after, min(limit, PAGE_MAX)),
            ).fetchall()
        return tuple((row[0], fact) for row in rows for fact in facts_of(view, [row[1:]]))

    def evidence(self) -> tuple[Evidence, ...]:
        """Forks that were found, of all organisations."""
        with self._file.read() as db:
            rows = db.execute("SELECT chain, sequence, ours, theirs, found_at FROM evidence ORDER BY chain").fetchall()
        views = list(self._views.values())  # a thread may add one
        chains = {chain.key: (view.name, chain.id) for view in views for chain in view.chains.values()}
        return tuple(
            Evidence(*chains[key], sequence, decode_segment(ours), decode_segment(theirs), found_at)
            for key, sequence, ours, theirs, found_at in rows
            if key in chains
        )

    def documents(
        self,
        organization: str,
        *,
        doc_id: str | None = None,
        name: str | None = None,
        root: Cid | None = None,
        tag: str | None = None,
        after: tuple[str, str] | None = None,
        limit: int = 1000,
    ) -> tuple[DocumentRow, ...]:
        """The catalog, dead ones too, by name then id, behind `after` (name, id)."""
        view = self._views.get(organization)
        if view is None:
            return ()
        with self._file.read() as db:
            return read_documents(
                db,
                view.key,
                organization,
                doc_id=doc_id,
                name=name,
                root=root,
                tag=tag,
                after=after,
                limit=min(limit, PAGE_MAX),
            )

    def counts(self, organization: str) -> Counts:
        """The log in numbers."""
        view = self._views.get(organization)
        if view is None:
            return Counts(0, 0, 0, 0, 0)
        chains = [chain for chain in view.chains.values() if chain.sequence and not chain.is_closed]
        with self._file.read() as db:
            documents = db.execute("SELECT count(*) FROM document WHERE organization = ?", (view.key,)).fetchone()[0]
        return Counts(
            entries=sum(chain.sequence for chain in chains),
            chains=len(chains),
            authors=len({chain.id.author for chain in chains}),
            documents=documents,
            forks=sum(bool(chain.forked_at) for chain in view.chains.values()),
        )

    def digest(self, organization: str) -> str:
        """16 hex digits that are equal where the heads are: whether two nodes agree, at a glance."""
        return _digest(self.heads(organization))

    def epoch(self, organization: str) -> str:
        """16 hex digits of what was compacted: of the heads that closings name. Empty when nothing was."""
        view = self._views.get(organization)
        closed = [] if view is None else [chain.head for chain in view.chains.values() if chain.is_closed]
        return _digest(closed) if closed else ""

    def holes(self, organization: str) -> tuple[Head, ...]:
        """Of chains with entries known by hash alone: how far they are known whole. Ask with these for the rest."""
        view = self._views.get(organization)
        if view is None:
            return ()
        found = []
        with self._file.read() as db:
            for chain in view.chains.values():
                query = "SELECT min(sequence) FROM entry WHERE chain = ? AND payload IS NULL"
                row = db.execute(query, (chain.key,)).fetchone()
                if row[0] is not None and not chain.is_closed:
                    found.append(Head(chain.id, row[0] - 1, hash_at(db, view, chain, row[0] - 1)))
        return tuple(found)


def _digest(heads: Iterable[Head]) -> str:
    parts = sorted(
        head.chain.author.multihash
        + head.chain.incarnation.to_bytes(8, "big")
        + head.sequence.to_bytes(8, "big")
        + head.hash
        for head in heads
    )
    return blake3(b"".join(parts)).hexdigest()[:16]
