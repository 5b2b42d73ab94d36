"""The chunk store: one gate for bytes, addressed by CID.

Rows in the index say what is here; small stored forms lie in the index too, larger ones in a body (files,
objects, or memory).
What is put is durable when the call returns; what is put as `cache` is not synced, is evicted first, and is nothing
that anyone may count on until `promote`. Blocking code: reach it through `env.blocking`. Every method is thread-safe;
one process owns a store. Not here: documents (documents), what to delete (gc), how files are cut (split, ingest).

Order of a durable put, so that a crash at any point leaves the store sound: data synced, renamed, directory synced,
row committed. Published files change only under the index's lock, so that rows and files agree for whoever holds it.
Source: design D3, D4, D9; issue 2, section C.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection
from typing import TYPE_CHECKING, Literal, TypeAlias

from blake3 import blake3

from rage_net.chunk.batch import Admitted, Batch, Holder
from rage_net.chunk.encoding import Data, decode
from rage_net.chunk.files import Bodies, FileBodies
from rage_net.chunk.index import Index
from rage_net.chunk.memory import MemoryBodies
from rage_net.chunk.ownership import refuse_moved
from rage_net.chunk.room import Quota
from rage_net.chunk.stat import CHECKSUM_BYTES, Stat, find
from rage_net.cid import Cid
from rage_net.database import Ballast, full
from rage_net.errors import ConflictError, IntegrityError, NotFoundError, RageError, StorageFullError

if TYPE_CHECKING:
    from rage_net.chunk.bucket import Place
    from rage_net.env import Env  # which loads asyncio: nothing here needs it

LIST_MAX = 10_000
"""Rows in one page of `list`."""
DELETE_BATCH = 128
"""Chunks deleted in one transaction: some 2 MiB of index pages at the worst, so it fits into the ballast, and a writer
waits for one such batch at most."""

FoundBy: TypeAlias = Literal["read", "scrub"]
"""What met a chunk that is rotten, or whose file is gone: somebody's reading, or the scrub's."""
Told: TypeAlias = Callable[[Cid, FoundBy], object]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Totals:
    """What the store holds: counts and bytes, kept by the index and never counted by a scan."""

    chunks: int
    size: int
    stored: int
    cached_chunks: int
    cached_stored: int


class ChunkStore:
    """Put, get, has, delete, list and stat of chunks. Made by `open_store` and `memory_store`."""

    def __init__(
        self,
        index: Index,
        bodies: Bodies,
        *,
        env: Env,
        quota: Quota,
        session: str,
        failpoint: Callable[[str], None] = lambda step: None,
    ) -> None:
        self.index = index
        self.bodies = bodies
        self.env = env
        self.session = session
        self.failpoint = failpoint
        self._quota = quota
        self._claims: Counter[Cid] = Counter()
        self._claims_lock = threading.Lock()
        self._promised = 0
        self.lost_leases: set[int] = set()
        """Leases of this process that a full disk kept from letting go: gc does it."""
        self.on_lost: list[Told] = []
        """Told of each chunk that can be given no longer, rotten or without its file, cache that nothing holds left
        out. Called in the thread that met it, outside of the index's lock; must not fail, and must not take long."""

    def put(self, cid: Cid, data: Data, *, cache: bool = False) -> Stat:
        """Store plain bytes; durable when it returns, unless `cache`. What is here already is not written again.

        Raises: IntegrityError when the bytes are not what the CID names or are above BLOCK_BYTES_MAX; StorageFullError.
        """
        with self.batch(cache=cache) as batch:
            stat = batch.add(cid, data)
            batch.commit()
        return stat

    def put_stored(
        self, cid: Cid, encoding: str, stored: Data, size: int, *, cache: bool = False
    ) -> tuple[Stat, bytes]:
        """Store the form that came over the wire, as it is; gives the plain bytes too. Raises as `put`."""
        item, plain = admit(cid, encoding, stored, size)
        with self.batch(cache=cache) as batch:
            stat = batch.add_admitted(item)
            batch.commit()
        return stat, plain

    def keep(self, items: Iterable[Admitted]) -> None:
        """Store as cache, in one commit, what `admit` let in; what something holds, and had lost, is made durable.

        Raises StorageFullError.
        """
        cids = []
        with self.batch(cache=True) as batch:
            for item in items:
                cids.append(batch.add_admitted(item).cid)
            batch.commit()
        with self.index.read() as db:
            held = [cid for cid in cids if is_held(db, cid)]
        if held:
            with suppress(IntegrityError, NotFoundError):  # torn or gone within this moment: reading it will tell
                self.promote(held)

    def get(self, cid: Cid, *, found_by: FoundBy = "read", at_rest: bool = False) -> bytes:
        """The plain bytes, verified; with `at_rest` never from a cache before the store's body.

        Raises NotFoundError; IntegrityError for rot, which is quarantined by then; UnavailableError where the disk does
        not give them, or the body is out of reach.
        """
        stat, _, stored = self._load(cid, at_rest=at_rest)
        try:
            return _open(stat, stored)
        except (IntegrityError, NotFoundError):
            stat, stored = self._settle(cid, found_by)
            return _open(stat, stored)

    def get_stored(self, cid: Cid) -> tuple[Stat, bytes]:
        """The form at rest, for the wire, checked against the checksum taken when the bytes were verified.

        Raises as `get`.
        """
        stat, checksum, stored = self._load(cid)
        if stored is None or blake3(stored).digest(length=CHECKSUM_BYTES) != checksum:
            return self._settle(cid, "read")
        return stat, stored

    def has(self, cid: Cid) -> bool:
        """Whether the chunk is here, as the index says: a file that was taken away is found by `get` and `verify`."""
        with self.index.read() as db:
            return db.execute("SELECT 1 FROM chunk WHERE cid = ?", (bytes(cid),)).fetchone() is not None

    def stat(self, cid: Cid) -> Stat:
        """What is known of a chunk. Raises NotFoundError."""
        with self.index.read() as db:
            stat = find(db, cid)
        if stat is None:
            raise absent(cid)
        return stat

    def durable(self, cids: Iterable[Cid]) -> set[Cid]:
        """Which of these are here and more than cache."""
        query = "SELECT 1 FROM chunk WHERE cid = ? AND cached = 0"
        with self.index.read() as db:
            return {cid for cid in cids if db.execute(query, (bytes(cid),)).fetchone() is not None}

    def list(self, after: Cid | None = None, limit: int = LIST_MAX) -> Sequence[Stat]:
        """Up to `limit` (at most LIST_MAX) chunks in the order of their binary CIDs, beginning behind `after`."""
        with self.index.read() as db:
            rows = db.execute(
                "SELECT cid, size, stored, encoding, cached FROM chunk WHERE cid > ? ORDER BY cid LIMIT ?",
                (bytes(after) if after else b"", min(limit, LIST_MAX)),
            ).fetchall()
        return [Stat(Cid.from_bytes(row[0]), row[1], row[2], row[3], bool(row[4])) for row in rows]

    def delete(self, cid: Cid) -> bool:
        """Remove a chunk at once; False when it was not here. Raises ConflictError while something holds or puts it."""
        if self.discard([cid]):
            return True
        if self.has(cid):
            raise ConflictError(f"{cid} is in use", why="a document, a pin or a running put holds it")
        return False

    def totals(self) -> Totals:
        """Counts and bytes."""
        with self.index.read() as db:
            return Totals(*db.execute("SELECT * FROM total").fetchone())

    def batch(self, *, lease: Holder | None = None, cache: bool = False) -> Batch:
        """Several puts with one commit; `lease` then holds them all (see `holds`, and `replicas` for another)."""
        return Batch(self, holder=lease, cache=cache)

    def promote(self, cids: Iterable[Cid]) -> None:
        """Make cached chunks durable: from then on they count as replicas. Absent and durable ones are skipped.

        Raises IntegrityError or NotFoundError when a cached chunk did not survive, and then promotes none.
        """
        cids = list(cids)
        with self.claim(cids):
            with self.index.read() as db:
                cached = [cid for cid in cids if (stat := find(db, cid)) is not None and stat.cached]
            for cid in cached:
                self.get(cid)
            if not cached:
                return
            with self.index.write() as db:
                keys = [(bytes(cid),) for cid in cached]
                self.bodies.persist(cid for cid in cached if not has_body(db, cid))
                db.executemany("UPDATE chunk SET cached = 0 WHERE cid = ?", keys)

    def condemn(self, cid: Cid) -> bool:
        """Take a chunk away as rot is, unread; False when it was not here. What holds it stays.

        For one that the disk does not give, once good bytes are at hand: a put would take it for stored.
        """
        with self.index.write() as db:
            if find(db, cid) is None:
                return False
            in_index = has_body(db, cid)
            db.execute("DELETE FROM chunk WHERE cid = ?", (bytes(cid),))
            if not in_index:
                self.bodies.quarantine(cid, None)
        return True

    def tell_lost(self, cid: Cid, found_by: FoundBy) -> None:
        """Tell whoever wants to know that a chunk cannot be given."""
        for told in self.on_lost:
            told(cid, found_by)

    def discard(self, cids: Sequence[Cid], *, before: float | None = None) -> Sequence[Stat]:
        """Delete those that nothing holds and no running put counts on, DELETE_BATCH at a time; gives what went.

        `before`: only those released by then. Rows go first, files after the commit: a crash between leaves files
        without rows, which gc sweeps, never the reverse.
        """
        gone: list[Stat] = []
        for start in range(0, len(cids), DELETE_BATCH):
            gone += self._discard(cids[start : start + DELETE_BATCH], before)
        return gone

    def _discard(self, cids: Sequence[Cid], before: float | None) -> Sequence[Stat]:
        def change(db: Connection) -> list[tuple[Stat, bool]]:
            gone = []
            for cid in cids:
                if self._claims[cid] or not is_released(db, cid, before):
                    continue
                stat = find(db, cid)
                if stat is not None:
                    gone.append((stat, has_body(db, cid)))
                    db.execute("DELETE FROM chunk WHERE cid = ?", (bytes(cid),))
            return gone

        with self.index.lock:
            with self._claims_lock:  # until the commit: a put that claims a chunk later sees that it is gone
                gone = self.index.shrink(change)
            self.bodies.delete_all(stat.cid for stat, in_index in gone if not in_index)
        return [stat for stat, _ in gone]

    def check_room(self, size: int, files: int = 1, *, evict: bool = True) -> None:
        """Raise StorageFullError unless so much fits; with `evict` cached chunks make way, the oldest first."""
        while True:
            try:
                self._check_room(size, files)
            except StorageFullError:
                if not evict or not self.evict(DELETE_BATCH):
                    raise
            else:
                return

    def _check_room(self, size: int, files: int) -> None:
        limit = self._quota.bytes_max
        if limit is not None:
            used = self.totals().stored + self._promised
            if used + size > limit:
                raise full(
                    "the quota of the store is used up", f"{used} of {limit} bytes are taken, {size} more wanted"
                )
        self.bodies.check_room(size, files, self._quota)

    def room(self) -> int:
        """Bytes that the store may still take, as far as quota and disk tell; what is cache makes way."""
        totals = self.totals()
        free = max(0, self.bodies.free_bytes() - self._quota.free_bytes_min)
        if self._quota.bytes_max is not None:
            free = min(free, max(0, self._quota.bytes_max - totals.stored))
        return free + totals.cached_stored

    def evict(self, limit: int) -> Sequence[Stat]:
        """Delete up to `limit` cached chunks, oldest first; empty when there is none left to evict."""
        with self.index.read() as db:
            rows = db.execute(
                "SELECT cid FROM chunk WHERE cached = 1 AND released_at IS NOT NULL ORDER BY released_at LIMIT ?",
                (limit,),
            ).fetchall()
        return self.discard([Cid.from_bytes(row[0]) for row in rows])

    def claim(self, cids: Sequence[Cid]) -> Claim:
        """Keep gc off some chunks for the length of a `with`."""
        return Claim(self, cids)

    def promise(self, size: int) -> None:
        """Count bytes that running puts have staged against the quota; negative to take them back."""
        with self._claims_lock:
            self._promised += size

    def add_claims(self, cids: Sequence[Cid], by: int) -> None:
        """Used by `Claim` and `Batch`: raise or lower how many running puts count on each chunk."""
        with self._claims_lock:
            for cid in cids:
                self._claims[cid] += by
                if self._claims[cid] <= 0:
                    del self._claims[cid]

    def close(self) -> None:
        """Close the index. Puts that still run fail."""
        self.index.close()
        self.bodies.close()

    def _load(
        self, cid: Cid, db: Connection | None = None, *, at_rest: bool = False
    ) -> tuple[Stat, bytes, bytes | None]:
        """Stat, checksum and stored form; the last is None when its file is missing."""
        query = (
            "SELECT size, chunk.stored, encoding, cached, checksum, body.stored"
            " FROM chunk LEFT JOIN body ON body.chunk = chunk.id WHERE cid = ?"
        )
        if db is None:
            with self.index.read() as reader:
                row = reader.execute(query, (bytes(cid),)).fetchone()
        else:
            row = db.execute(query, (bytes(cid),)).fetchone()
        if row is None:
            raise absent(cid)
        stored: bytes | None = row[5]
        if stored is None:
            try:
                stored = self.bodies.read(cid, at_rest=at_rest)
            except FileNotFoundError:
                stored = None
        return Stat(cid, row[0], row[1], row[2], bool(row[3])), row[4], stored

    def _settle(self, cid: Cid, found_by: FoundBy) -> tuple[Stat, bytes]:
        """Look again, alone, at bytes that seemed wrong: a writer may have been replacing them. Rot is quarantined.

        What cannot be given is no longer claimed: the row goes, what holds the chunk stays, and so a good copy that
        comes later is held again. A cached chunk that a crash has torn is no rot, and simply goes.
        """
        is_told = True

        def change(db: Connection) -> tuple[Stat, bytes] | RageError:
            nonlocal is_told
            stat, checksum, stored = self._load(cid, db, at_rest=True)
            try:
                _open(stat, stored)
                if stored is None or blake3(stored).digest(length=CHECKSUM_BYTES) != checksum:
                    raise mismatch(cid)
            except (IntegrityError, NotFoundError) as error:
                in_index = has_body(db, cid)
                is_told = not stat.cached or is_held(db, cid)
                db.execute("DELETE FROM chunk WHERE cid = ?", (bytes(cid),))
                if stat.cached:
                    self.bodies.delete(cid)
                elif stored is not None:
                    self.bodies.quarantine(cid, stored if in_index else None)
                return error
            return stat, stored

        try:
            with self.index.write() as db:
                found = change(db)
        except StorageFullError as error:  # reading works on a full disk, and leaves the ballast to gc
            self.tell_lost(cid, found_by)
            raise mismatch(cid) from error
        if isinstance(found, RageError):
            log.error("chunk %s: %s", cid, found)
            if is_told:
                self.tell_lost(cid, found_by)
            raise found
        return found


class Claim:
    """While it is open, gc keeps off its chunks."""

    def __init__(self, store: ChunkStore, cids: Sequence[Cid]) -> None:
        self._store = store
        self._cids = cids

    def __enter__(self) -> None:
        self._store.add_claims(self._cids, 1)

    def __exit__(self, *_: object) -> None:
        self._store.add_claims(self._cids, -1)


def admit(cid: Cid, encoding: str, stored: Data, size: int) -> tuple[Admitted, bytes]:
    """The gate for what comes in the stored form: unpack within limits and check the hash; gives the plain bytes too.

    Raises: IntegrityError.
    """
    plain = decode(encoding, stored, size)
    if not cid.matches(plain):
        raise mismatch(cid)
    if len(stored) > size:  # a packing that grows is none
        encoding, stored = "raw", plain
    return Admitted(cid, encoding, stored, size), plain


def open_store(
    home: Path,
    env: Env,
    *,
    quota: Quota | None = None,
    directory: Path | None = None,
    objects: Place | None = None,
    cache_bytes: int = 0,
    failpoint: Callable[[str], None] = lambda step: None,
) -> ChunkStore:
    """The store of a home: `index.db` in it. Under a second whatever its size: nothing is scanned.

    Args: directory: of chunk files; `store/` of the home by default, where the ballast always lies, as it is the index
        that needs its room. objects: where chunks lie instead of in files; `cache_bytes` of them are kept in
        `directory` too.
    Raises: ConflictError (a newer store; objects of another home), StorageFullError, UnavailableError, IntegrityError
        (index.db is damaged), ConfigError (of an object store).
    """
    session = f"{env.random.getrandbits(64):016x}"
    directory = directory or home / "store"
    with contextlib.ExitStack() as undo:
        bodies: Bodies
        claim: Callable[[Index], None] | None = None
        if objects is None:
            refuse_moved(home)
            bodies = FileBodies(directory, session, failpoint=failpoint)
        else:
            from rage_net.chunk.objects import open_objects

            bodies, claim = open_objects(home, env, objects, directory, cache_bytes, session, failpoint)
        undo.callback(bodies.close)
        _refuse_lost_index(home / "index.db", bodies)
        ballast = Ballast(home / "store" / "ballast")
        index = Index(home / "index.db", ballast=ballast)
        undo.callback(index.close)
        ballast.restore()
        if claim is not None:
            claim(index)
        undo.pop_all()
    return ChunkStore(index, bodies, env=env, quota=quota or Quota(), session=session, failpoint=failpoint)


def _refuse_lost_index(path: Path, bodies: Bodies) -> None:
    """Raise when the index is gone and chunks are not: a new, empty one would make gc delete them all."""
    log_path = path.with_name(f"{path.name}-wal")
    if any(file.exists() and file.stat().st_size for file in (path, log_path)):
        return
    if not bodies.is_empty():
        raise IntegrityError(
            f"{path} is missing or empty, and the store holds chunks",
            why="it says what they are and which documents hold them; a new one would let gc delete them",
            mend=[f"restore {path} from a backup", "or move store/ away to begin anew"],
            id="index-missing",
        )


def memory_store(env: Env, *, quota: Quota | None = None) -> ChunkStore:
    """A store that lives in memory and dies with the process."""
    session = f"{env.random.getrandbits(64):016x}"
    return ChunkStore(Index(None), MemoryBodies(), env=env, quota=quota or Quota(), session=session)


def walk_chunks(store: ChunkStore) -> Iterator[Stat]:
    """Every chunk, a page at a time, in the order of `list`."""
    after: Cid | None = None
    while page := store.list(after, 1000):
        yield from page
        after = page[-1].cid


def has_body(db: Connection, cid: Cid) -> bool:
    """Whether the stored form of a chunk lies in the index."""
    query = "SELECT 1 FROM body JOIN chunk ON body.chunk = chunk.id WHERE cid = ?"
    return db.execute(query, (bytes(cid),)).fetchone() is not None


def is_held(db: Connection, cid: Cid) -> bool:
    """Whether anything holds a chunk, here or not."""
    return db.execute("SELECT 1 FROM hold WHERE cid = ? LIMIT 1", (bytes(cid),)).fetchone() is not None


def is_released(db: Connection, cid: Cid, before: float | None) -> bool:
    """Whether nothing holds a chunk, and nothing has since `before`."""
    row = db.execute("SELECT released_at FROM chunk WHERE cid = ?", (bytes(cid),)).fetchone()
    return row is not None and row[0] is not None and (before is None or row[0] <= before)


def absent(cid: Cid) -> NotFoundError:
    """The chunk is not here."""
    return NotFoundError(f"{cid} is not in the local store")


def mismatch(cid: Cid) -> IntegrityError:
    """The bytes are not what the CID names."""
    return IntegrityError(f"the bytes do not match {cid}")


def _open(stat: Stat, stored: bytes | None) -> bytes:
    if stored is None:
        raise NotFoundError(f"{stat.cid} is not in the local store", why="its file is missing", id="chunk-missing")
    plain = decode(stat.encoding, stored, stat.size)
    if not stat.cid.matches(plain):
        raise mismatch(stat.cid)
    return plain


__all__ = [
    "Admitted",
    "Batch",
    "ChunkStore",
    "Quota",
    "Stat",
    "Totals",
    "absent",
    "admit",
    "memory_store",
    "open_store",
    "walk_chunks",
]
