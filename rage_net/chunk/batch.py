"""Several puts with one commit: stage from many threads, then sync, publish and commit once."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from sqlite3 import Connection
from typing import TYPE_CHECKING, Protocol

from blake3 import blake3

from rage_net.chunk.encoding import Data, encode
from rage_net.chunk.files import Spread
from rage_net.chunk.stat import CHECKSUM_BYTES, Stat, find
from rage_net.cid import BLOCK_BYTES_MAX, RAW, Cid
from rage_net.errors import IntegrityError, UnavailableError

if TYPE_CHECKING:
    from rage_net.chunk.store import ChunkStore

SMALL_BYTES_MAX = 16 * 1024
"""A stored form of at most this lives in the index, a larger one in a file. The bytes at rest are what is measured, as
they are what takes room: a file costs an inode, a directory entry and half a block, and two system calls more to read;
above four database pages the write-ahead log, which writes a body twice, costs more than the file."""
BATCH_CHUNKS_MAX = 512
"""`is_full` from here on: what a crash may undo, what one commit publishes while other writers wait, and 8 MiB of small
bodies at most that wait in memory."""


@dataclass(frozen=True, slots=True)
class Staged:
    """A chunk on its way in: its bytes are in `small`, or lie staged in the body under `token`."""

    stat: Stat
    checksum: bytes
    small: bytes
    token: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """A chunk from outside that passed the gate, in the form it will rest in. `size` counts plain bytes."""

    cid: Cid
    encoding: str
    stored: Data
    size: int


class Holder(Protocol):
    """What a batch's chunks are held by: a lease, or the store's replica holder."""

    @property
    def id(self) -> int:
        """Its row."""
        ...

    @property
    def organisation(self) -> str | None:
        """For which its document counts for the chunks; None: they are only held."""
        ...


class Batch:
    """Puts that become durable together, at `commit`.

    `add` may be called from several threads, `commit` from one, when all adds have returned. Leaving the `with` without
    a commit drops what was staged.

    With `holder` the commit also holds every chunk of the batch, and they count for its organisation (see `holds`).
    """

    def __init__(self, store: ChunkStore, *, holder: Holder | None, cache: bool) -> None:
        self._store = store
        self._holder = holder
        self._cache = cache
        self._lock = threading.Lock()
        self._staged: dict[Cid, Staged] = {}
        self._known: dict[Cid, Stat] = {}
        self._claimed: list[Cid] = []

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *_: object) -> None:
        for staged in self._staged.values():
            self._drop(staged)
        self._staged.clear()
        self._store.add_claims(self._claimed, -1)
        self._claimed.clear()

    @property
    def is_full(self) -> bool:
        """Whether it is time to commit and begin another."""
        return len(self._staged) + len(self._known) >= BATCH_CHUNKS_MAX

    def add(self, cid: Cid, data: Data) -> Stat:
        """Check, pack and stage plain bytes. Raises IntegrityError, StorageFullError."""
        if not cid.matches(data):
            raise IntegrityError(f"the bytes do not match {cid}")
        return self._add(cid, data)

    def add_data(self, data: Data, codec: int = RAW) -> Stat:
        """Hash, pack and stage plain bytes whose CID is not known yet. Raises StorageFullError."""
        return self._add(Cid.of(data, codec), data)

    def add_admitted(self, item: Admitted) -> Stat:
        """Stage a stored form that came from outside and passed the gate."""
        return self._known_stat(item.cid) or self._stage(item.cid, item.encoding, item.stored, item.size)

    def commit(self, spread: Spread = map) -> int:
        """Make everything durable (unless it is cache) and visible; how many chunks are new.

        `spread` is `map`, or the `map` of an idle pool: many syncs then wait for the disk together.
        Raises: StorageFullError or UnavailableError, and then nothing of the batch is in the store.
        """
        store = self._store
        tokens = {cid: staged.token for cid, staged in self._staged.items() if staged.token}
        if not self._cache:
            for _ in spread(store.bodies.sync, tokens.values()):
                pass
        published: dict[Cid, str] = {}
        try:
            with store.index.write(durable=not self._cache) as db:
                new = {cid: staged for cid, staged in self._staged.items() if not self._is_here(db, cid)}
                published = {cid: token for cid, token in tokens.items() if cid in new}
                store.bodies.publish(published, durable=not self._cache, spread=spread)
                for cid in self._known:
                    if find(db, cid) is None:
                        raise UnavailableError(f"{cid} was lost while it was put again", mend=("put it again",))
                added = sum(self._insert(db, staged) for staged in new.values())
                if self._holder is not None:
                    hold(db, self._holder.id, [*self._staged, *self._known], self._holder.organisation)
                store.failpoint("before commit")
        except BaseException:
            self._unpublish(published)
            raise
        store.failpoint("committed")
        for cid, staged in self._staged.items():
            self._drop(staged, published=cid in published)
        self._staged.clear()
        return added

    def _add(self, cid: Cid, data: Data) -> Stat:
        if len(data) > BLOCK_BYTES_MAX:
            raise IntegrityError(f"{cid} has {len(data)} bytes; a block has at most {BLOCK_BYTES_MAX}")
        known = self._known_stat(cid)
        if known is not None:
            return known
        encoding, stored = encode(data)
        return self._stage(cid, encoding, stored, len(data))

    def _known_stat(self, cid: Cid) -> Stat | None:
        """The stat of a chunk that needs no staging, as it is here or in this batch; else None. Claims it."""
        with self._lock:
            if cid in self._staged:
                return self._staged[cid].stat
            if cid in self._known:
                return self._known[cid]
            self._claimed.append(cid)
        self._store.add_claims([cid], 1)
        with self._store.index.read() as db:
            stat = find(db, cid) if self._is_here(db, cid) else None
        if stat is not None:
            with self._lock:
                self._known[cid] = stat
        return stat

    def _is_here(self, db: Connection, cid: Cid) -> bool:
        """Whether the chunk is stored, as durably as this batch wants it, and its file there to be read."""
        query = (
            "SELECT chunk.stored, cached, body.chunk FROM chunk LEFT JOIN body ON body.chunk = chunk.id WHERE cid = ?"
        )
        row = db.execute(query, (bytes(cid),)).fetchone()
        if row is None or (row[1] and not self._cache):
            return False
        return row[2] is not None or self._store.bodies.has(cid, row[0])

    def _stage(self, cid: Cid, encoding: str, stored: Data, size: int) -> Stat:
        length = len(stored)
        is_small = length <= SMALL_BYTES_MAX
        self._store.check_room(length, 0 if is_small else 1)
        checksum = cid.digest[:CHECKSUM_BYTES] if encoding == "raw" else blake3(stored).digest(length=CHECKSUM_BYTES)
        small, token = bytes(stored) if is_small else b"", ""
        if not is_small:
            token = self._store.bodies.stage(cid, stored, durable=not self._cache)
        staged = Staged(Stat(cid, size, length, encoding, self._cache), checksum, small, token)
        self._store.promise(length)
        with self._lock:
            first = self._staged.setdefault(cid, staged)
        if first is not staged:  # another thread staged the same bytes meanwhile
            self._drop(staged)
        return first.stat

    def _drop(self, staged: Staged, *, published: bool = False) -> None:
        self._store.promise(-staged.stat.stored)
        if staged.token and not published:
            self._store.bodies.discard(staged.token)

    def _insert(self, db: Connection, staged: Staged) -> int:
        """Write the row, in place of one that was only cache or had lost its file; 1 when it is new."""
        stat, key = staged.stat, bytes(staged.stat.cid)
        held = db.execute("SELECT 1 FROM hold WHERE cid = ?", (key,)).fetchone() is not None
        replaced = db.execute("DELETE FROM chunk WHERE cid = ?", (key,)).rowcount
        released_at = None if held else self._store.env.now()
        row = db.execute(
            "INSERT INTO chunk (cid, size, stored, encoding, checksum, cached, released_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (key, stat.size, stat.stored, stat.encoding, staged.checksum, stat.cached, released_at),
        ).lastrowid
        if not staged.token:
            db.execute("INSERT INTO body (chunk, stored) VALUES (?, ?)", (row, staged.small))
        return 1 - replaced

    def _unpublish(self, published: dict[Cid, str]) -> None:
        """After a failed commit: take away files that got no row, so that a full disk does not stay full of them."""
        if not published:
            return
        with self._store.index.lock, self._store.index.read() as db:
            self._store.bodies.delete_all(cid for cid in published if find(db, cid) is None)


def hold(db: Connection, holder: int, cids: list[Cid], organisation: str | None) -> None:
    """Hold chunks, here or not; with `organisation` the holder's document counts for them there (design D7)."""
    db.executemany(
        "INSERT INTO hold (holder, cid, organisation) VALUES (?, ?, ?)"
        " ON CONFLICT (holder, cid) DO UPDATE SET organisation = COALESCE(excluded.organisation, organisation)",
        [(holder, bytes(cid), organisation) for cid in cids],
    )
