"""The signed log: every fact of every organisation that this node follows, in chains by author, as rows of SQLite.

`append` says something; `missing` and `take` bring two logs together; the rest asks what it comes to. What a fact means
for access is not decided here. Blocking and safe from any thread: async code calls it through `env.blocking`.

Source: design D6; contracts/rage.proto, "The log"; step 3.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from blake3 import blake3

from rage_net.cid import Cid
from rage_net.libp2p.peer_id import PeerId
from rage_net.sync.appending import Author, append, append_payloads, draw_incarnation
from rage_net.sync.catalog import Changes, make_edit
from rage_net.sync.chains import FACT_COLUMNS, View, create, facts_about, facts_of, load
from rage_net.sync.documents import DocumentRow, counted_edits, read_documents, rebuild
from rage_net.sync.envelope import ChainId, Head, Segment, client_id, decode_segment
from rage_net.sync.facts import NUMBERS, Access, Body, Certificate, Edit, Fact, New
from rage_net.sync.payloads import make_fact
from rage_net.sync.rights import Counting, counting
from rage_net.sync.schema import LogFile
from rage_net.sync.sending import missing
from rage_net.sync.storing import Change, Judge, put_certificate, settle
from rage_net.sync.taking import Taking
from rage_net.sync.vocabulary import FactError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

REBUILT_AT_ONCE = 256
"""Documents built again within one transaction."""
PAGE_MAX = 10_000
"""Rows in one answer."""


class Environment(Protocol):
    """What the log needs of `Env`."""

    random: random.Random

    def now(self) -> float:
        """Wall clock, seconds since the epoch."""
        ...


@dataclass(frozen=True, slots=True)
class NewFacts:
    """Facts that a `take` brought, read when they are walked through. `len` counts malformed ones, too."""

    organization: str
    rows: tuple[tuple[ChainId, int, bytes | None, bytes], ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Fact]:
        for chain, sequence, author, payload in self.rows:
            with contextlib.suppress(FactError):
                by = None if author is None else PeerId(author)
                yield make_fact(self.organization, chain, sequence, payload, by)


@dataclass(frozen=True, slots=True)
class Taken:
    """What a `take` did."""

    new: NewFacts
    resources: frozenset[str]
    """What the new facts are about."""
    refused: tuple[tuple[Head, str], ...]
    """Segments by their last entry, and why: a stable id (malformed, too-large, bad-signature, gap, author-unknown,
    author-revoked, author-full, too-many-chains, forked)."""
    forks: tuple[ChainId, ...]
    """Chains whose authors were found to have signed two entries with one sequence."""
    is_behind_ours: bool
    """We had forgotten some of our own chain: a backup was restored. A new incarnation is drawn already."""
    is_rejudged: bool
    """What stood before may count otherwise now: whatever was derived from facts is to be derived again."""


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


def open_log(path: Path | None, *, key: Ed25519PrivateKey, env: Environment) -> Log:
    """The log of this node, which writes with `key`. `path` None keeps it in memory.

    Raises: ConflictError for a newer file; IntegrityError; StorageFullError.
    """
    return Log(LogFile(path), key=key, env=env)


class Log:
    """See the module. Raises what `Database` raises: StorageFullError when the disk is full, and nothing is changed."""

    def __init__(self, file: LogFile, *, key: Ed25519PrivateKey, env: Environment) -> None:
        self._file = file
        self._env = env
        self._author = Author(key, PeerId.from_public_key(key.public_key()), env.random)
        self._views: dict[str, View] = {}
        with file.write() as db:
            for (name,) in db.execute("SELECT name FROM organization").fetchall():
                view = load(db, name)
                assert view is not None
                self._views[name] = view

    @property
    def author(self) -> PeerId:
        """Who writes here."""
        return self._author.id

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    # --- writing ------------------------------------------------------------------------------------------------------

    def append(self, organization: str, news: Sequence[New], *, judge: Judge | None = None) -> list[Fact]:
        """Say these, in one durable transaction under one signature.

        The first ever must be a Certificate. Without `judge` a new certificate of ours gives nothing until `rejudge`.
        Raises: CertificateError; FactError for what nobody would take; StorageFullError.
        """
        if not news:
            return []
        with self._changing(organization, judge) as (db, view, change):
            return append(db, view, self._author, news, change)

    def edit(self, organization: str, doc_id: str, changes: Changes) -> Fact | None:
        """Change a document's record; None when it is so already. Raises: ChangeError, and as `append`."""
        with self._changing(organization, None) as (db, view, change):
            if view.incarnation is None:
                view = draw_incarnation(db, view, self._author)
            assert view.incarnation is not None
            edits = counted_edits(view, counting(facts_about(db, view, f"doc:{doc_id}"), view.authority))
            update = make_edit(client_id(ChainId(self.author, view.incarnation)), edits, changes)
            if not update:
                return None
            return append(db, view, self._author, [New(f"doc:{doc_id}", Edit(update))], change)[0]

    def take(self, organization: str, segments: Iterable[Segment], *, authority: Judge) -> Taken:
        """Take what a peer sent. Nothing unverified is applied; what is refused changes nothing.

        `authority` judges the certificates of a chain's author; None refuses the chain.
        """
        rejudged: list[bool] = []
        with self._changing(organization, authority, rejudged) as (db, view, change):
            taking = Taking(db, view, authority, self.author, self._env.now(), change)
            taking.take(segments)
            if taking.is_behind_ours:
                view = draw_incarnation(db, view, self._author)
                if taking.rescued:
                    append_payloads(db, view, self._author, taking.rescued, change)
        return Taken(
            new=NewFacts(organization, tuple(change.rows)),
            resources=frozenset(change.resources),
            refused=tuple(taking.refused),
            forks=tuple(taking.forks),
            is_behind_ours=taking.is_behind_ours,
            is_rejudged=any(rejudged),
        )

    def redraw(self, organization: str) -> None:
        """Begin a new chain of ours: a peer showed more of the old one than we remember."""
        with self._changing(organization, None) as (db, view, _):
            draw_incarnation(db, view, self._author)

    def notice(self, organization: str, heads: Iterable[Head]) -> bool:
        """Look at a peer's heads before writing: True, and a new chain, when ours goes on beyond what is here."""
        view = self._views.get(organization)
        if view is None or view.incarnation is None:
            return False
        own = ChainId(self.author, view.incarnation)
        here = view.chains[own].sequence if own in view.chains else 0
        if any(head.chain == own and head.sequence > here for head in heads):
            self.redraw(organization)
            return True
        return False

    def rejudge(self, organization: str, authority: Judge) -> bool:
        """Judge all certificates anew: after a change of CAs, or of our own certificate. True if anything changed."""
        if organization not in self._views:
            return False
        rejudged: list[bool] = []
        before = self._views[organization].capabilities
        with self._changing(organization, authority, rejudged) as (db, view, change):
            rows = db.execute(
                f"SELECT {FACT_COLUMNS} FROM entry WHERE organization = ? AND kind = ?",  # noqa: S608
                (view.key, NUMBERS[Certificate]),
            ).fetchall()
            for key, sequence, author, payload in rows:
                chain = view.by_key[key]
                with contextlib.suppress(FactError):
                    by = None if author is None else PeerId(author)
                    fact = make_fact(organization, chain.id, sequence, payload, by)
                    assert isinstance(fact.body, Certificate)
                    put_certificate(db, view, fact.author, fact.id, authority(fact.author, fact.body.certificates))
            change.is_limiting = True
        return self._views[organization].capabilities != before or any(rejudged)

    @contextlib.contextmanager
    def _changing(
        self, organization: str, judge: Judge | None, rejudged: list[bool] | None = None
    ) -> Iterator[tuple[sqlite3.Connection, View, Change]]:
        """One transaction on one organisation's log, with all its conclusions; readers see it once it stands."""
        left = 0
        with self._file.lock:
            with self._file.write() as db:
                before, change = create(db, organization), Change()
                yield db, before, change
                view, is_rejudged = settle(db, before, change, judge)
                left = rebuild(db, view, REBUILT_AT_ONCE)
            self._views[organization] = view
            if rejudged is not None:
                rejudged.append(is_rejudged)
            while left == REBUILT_AT_ONCE:
                with self._file.write(durable=False) as db:
                    left = rebuild(db, view, REBUILT_AT_ONCE)

    # --- synchronisation ----------------------------------------------------------------------------------------------

    def organizations(self) -> tuple[str, ...]:
        """Those with a log here."""
        return tuple(sorted(self._views))

    def heads(self, organization: str) -> tuple[Head, ...]:
        """How far each chain is here."""
        view = self._views.get(organization)
        if view is None:
            return ()
        return tuple(chain.head for chain in view.chains.values() if chain.sequence)

    def missing(
        self,
        organization: str,
        known: Iterable[Head],
        *,
        is_complete: bool,
        bytes_max: int,
        may_see: Callable[[Fact], bool] | None = None,
    ) -> Iterator[Segment]:
        """What whoever has the heads `known` lacks, as segments, until about `bytes_max` of payloads.

        Args: is_complete: chains that are not named are not there, so send them, too. may_see: what is not for the
            asker goes as a hash. Call again with the heads that the segments end in, for more.
        """
        view = self._views.get(organization)
        if view is None:
            return iter(())
        return missing(self._file.read, view, known, is_complete=is_complete, bytes_max=bytes_max, may_see=may_see)

    # --- reading ------------------------------------------------------------------------------------------------------

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

    def fact(self, id: bytes) -> Fact | None:
        """The fact with this id, if it is heard."""
        with self._file.read() as db:
            rows = db.execute(
                f"SELECT entry.organization, {FACT_COLUMNS} FROM entry WHERE fact = ? AND kind > 0",  # noqa: S608
                (id,),
            ).fetchall()
        by_key = {view.key: view for view in self._views.values()}
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
        found: list[str] = []
        at = max(after, prefix)
        compare = ">=" if at == prefix and at != after else ">"
        with self._file.read() as db:
            while len(found) < min(limit, PAGE_MAX):
                row = db.execute(
                    f"SELECT min(resource) FROM entry WHERE organization = ? AND resource {compare} ?",  # noqa: S608
                    (view.key, at),
                ).fetchone()
                if row[0] is None or not row[0].startswith(prefix):
                    break
                at, compare = row[0], ">"
                if at:
                    found.append(at)
        return tuple(found)

    def disputed(self, organization: str) -> tuple[str, ...]:
        """Resources with rights by several chains: those on which authors may contradict each other. One pass."""
        view = self._views.get(organization)
        if view is None:
            return ()
        with self._file.read() as db:
            rows = db.execute(
                "SELECT resource FROM entry WHERE organization = ? AND kind = ? GROUP BY resource"
                " HAVING count(DISTINCT chain) > 1",
                (view.key, NUMBERS[Access]),
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
        chains = {chain.key: (view.name, chain.id) for view in self._views.values() for chain in view.chains.values()}
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
        heads = sorted((head.chain, head.sequence, head.hash) for head in self.heads(organization))
        text = b"".join(
            chain.author.multihash + chain.incarnation.to_bytes(8, "big") + sequence.to_bytes(8, "big") + hash
            for chain, sequence, hash in heads
        )
        return blake3(text).hexdigest()[:16]
