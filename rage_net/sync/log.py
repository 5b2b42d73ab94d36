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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rage_net.libp2p.peer_id import PeerId
from rage_net.sync.appending import Author, append, append_payloads, draw_incarnation, open_chain, payloads_of
from rage_net.sync.catalog import Changes, build, make_edit
from rage_net.sync.chains import FACT_COLUMNS, View, create, facts_about, load
from rage_net.sync.compaction import adopt, compact, sweep
from rage_net.sync.documents import counted_edits, rebuild
from rage_net.sync.envelope import ChainId, Head, Segment, client_id
from rage_net.sync.facts import NUMBERS, Certificate, Edit, Fact, New
from rage_net.sync.payloads import make_fact
from rage_net.sync.reading import Counts, Evidence, LogReader
from rage_net.sync.rights import counting
from rage_net.sync.schema import LogFile
from rage_net.sync.sending import missing
from rage_net.sync.storing import Change, Judge, put_certificate, settle
from rage_net.sync.taking import Taking
from rage_net.sync.vocabulary import FactError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

REBUILT_AT_ONCE = 256
"""Documents built again within one transaction."""


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


class _UndoneError(Exception):
    """Rolls back what was only tried."""


def open_log(path: Path | None, *, key: Ed25519PrivateKey, env: Environment) -> Log:
    """The log of this node, which writes with `key`. `path` None keeps it in memory.

    Raises: ConflictError for a newer file; IntegrityError; StorageFullError.
    """
    return Log(LogFile(path), key=key, env=env)


class Log(LogReader):
    """See the module. Raises what `Database` raises: StorageFullError when the disk is full, and nothing is changed."""

    def __init__(self, file: LogFile, *, key: Ed25519PrivateKey, env: Environment) -> None:
        self._env = env
        self._author = Author(key, PeerId.from_public_key(key.public_key()), env.random)
        super().__init__(file, self._author.id)
        with file.write() as db:
            for (name,) in db.execute("SELECT name FROM organization").fetchall():
                view = load(db, name)
                assert view is not None
                self._views[name] = view
        for name in self._views:
            self._finish(name)

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
            view = open_chain(db, view, self._author)
            counted = counting(facts_about(db, view, f"doc:{doc_id}"), view.authority)
            edits = counted_edits(view, counted)
            refused = {one.id for one in build(edits)[1]}
            if any(fact.id in refused and fact.chain == self._chain(view) for fact in counted.facts):
                view = draw_incarnation(db, view, self._author)  # clocks of ours are taken by what nobody applies
            update = make_edit(client_id(self._chain(view)), edits, changes)
            if not update:
                return None
            return append(db, view, self._author, [New(f"doc:{doc_id}", Edit(update))], change)[0]

    def _chain(self, view: View) -> ChainId:
        assert view.incarnation is not None
        return ChainId(self.author, view.incarnation)

    def reissue(self, organization: str, resource: str) -> list[Fact]:
        """Say again, at our head, what we ever said about a resource: for those who were sent hashes of it till now.

        The same payloads are the same facts, so nothing else changes. Returns: them, where they stand now.
        """
        own = [fact for fact in self.facts(organization, resource) if fact.author == self.author]
        if not own:
            return []
        with self._changing(organization, None) as (db, view, change):
            payloads = payloads_of(db, view, [fact.id for fact in own])
            first = append_payloads(db, view, self._author, payloads, change)
        assert view.incarnation is not None
        chain = ChainId(self.author, view.incarnation)
        return [replace(fact, chain=chain, sequence=first + at) for at, fact in enumerate(own)]

    def compact(self, organization: str, *, dry_run: bool = False) -> int:
        """Shed what nobody needs of our own chains, in a new incarnation. Returns: how many entries were shed."""
        shed = 0
        with contextlib.suppress(_UndoneError), self._changing(organization, None) as (db, view, change):
            shed = compact(db, view, self._author, self._env.now(), change)
            if dry_run:
                raise _UndoneError
        return shed

    def adopt(self, organization: str, departed: PeerId, *, dry_run: bool = False) -> int:
        """Take over what is wanted of an author who will not come back. Returns: how many of its entries were shed.

        Raises: AccessDeniedError when our certificate does not give `admin`.
        """
        shed = 0
        with contextlib.suppress(_UndoneError), self._changing(organization, None) as (db, view, change):
            shed = adopt(db, view, self._author, departed, self._env.now(), change)
            if dry_run:
                raise _UndoneError
        return shed

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
        """Look at a peer's heads before writing: redraws, and gives True, when ours goes on beyond what we hold."""
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
        with self._file.lock:
            with self._file.write() as db:
                before, change = create(db, organization), Change()
                yield db, before, change
                view, is_rejudged = settle(db, before, change, judge)
                is_more = rebuild(db, view, REBUILT_AT_ONCE) == REBUILT_AT_ONCE
            self._views[organization] = view
            if rejudged is not None:
                rejudged.append(is_rejudged)
            self._finish(organization, is_more=is_more)

    def _finish(self, organization: str, *, is_more: bool = True) -> None:
        """Build the documents that are still marked, then drop what closed chains left: bounded batches, each alone."""
        while is_more:
            with self._file.write(durable=False) as db:
                is_more = rebuild(db, self._views[organization], REBUILT_AT_ONCE) == REBUILT_AT_ONCE
        is_more = True
        while is_more and any(chain.is_closed and chain.bytes for chain in self._views[organization].chains.values()):
            with self._file.write(durable=False) as db:
                view, change = self._views[organization], Change()
                is_more = sweep(db, view, change)
                view, _ = settle(db, view, change, None)
                rebuild(db, view, REBUILT_AT_ONCE)
            self._views[organization] = view

    # --- synchronisation ----------------------------------------------------------------------------------------------

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


__all__ = ["Counts", "Environment", "Evidence", "Log", "LogReader", "NewFacts", "Taken", "open_log"]
