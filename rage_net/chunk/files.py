"""Stored forms as files: `store/ab/<cid>`, where `ab` is the first byte of the hash in hex.

The seam below `ChunkStore`: a body keeps and gives back bytes at rest by CID, and knows nothing of rows, documents or
hashes. The others are `memory.MemoryBodies` and
`objects.ObjectBodies`. A file is staged under `store/tmp/`, synced, renamed into its place,
and the directory synced; the row is committed after that, so a row never names bytes that a crash could take.
Source: design D4; issue 2 "kill -9 at 200 random points".
"""
# Paths are text here: a Path costs microseconds at each step, and a put makes thousands.
# ruff: noqa: PTH100, PTH103, PTH104, PTH108, PTH112, PTH116, PTH118, PTH120, PTH102, PTH208

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol, TypeAlias

from rage_net.chunk.encoding import Data
from rage_net.chunk.room import Quota
from rage_net.cid import Cid, CidError
from rage_net.database import disk, full
from rage_net.durable import sync_data, sync_directory

SHARDS = 256
STRAYS_AT_OPEN_MAX = 64
"""Temporary files of dead processes that opening removes; gc removes the rest. Opening must not wait for many."""
FREE_BYTES_UNKNOWN = 1 << 50
"""Where nothing tells how much is left."""
QUARANTINE_FILES_MAX = 128
"""Rotten files kept for a look; a dying disk must not fill itself with them."""


Spread: TypeAlias = Callable[[Callable[[str], None], Iterable[str]], Iterable[None]]


class Bodies(Protocol):
    """What a chunk store needs from where bytes lie. Thread-safe, but publish and delete come one at a time."""

    def check_room(self, size: int, files: int, quota: Quota) -> None:
        """Raise StorageFullError when so many more bytes and files would leave less free than `quota` wants."""

    def free_bytes(self) -> int:
        """Bytes free where the bodies lie; as many as there could be where nobody knows."""

    def stage(self, cid: Cid, stored: Data, *, durable: bool = True) -> str:
        """Write bytes aside, to be published as `cid`, and give the token of the staged copy.

        durable: a `sync` will follow.
        """

    def sync(self, staged: str) -> None:
        """Make a staged copy durable."""

    def discard(self, staged: str) -> None:
        """Drop a staged copy; one that is gone is no error."""

    def publish(self, staged: Mapping[Cid, str], *, durable: bool, spread: Spread) -> None:
        """Move staged copies to their CIDs, over what was there; with `durable` the move itself is.

        `spread` is `map`, or a pool's: syncs of many directories then wait for the disk together.
        """

    def persist(self, cids: Iterable[Cid]) -> None:
        """Make published bytes durable. Raises FileNotFoundError."""

    def read(self, cid: Cid, *, at_rest: bool = False) -> bytes:
        """The bytes; with `at_rest` never from a cache before them. Raises FileNotFoundError."""

    def has(self, cid: Cid, size: int) -> bool:
        """Whether `size` bytes are there; not whether they are right."""

    def delete(self, cid: Cid) -> bool:
        """Remove; False when it was not there."""

    def delete_all(self, cids: Iterable[Cid]) -> int:
        """Remove many; how many went."""

    def quarantine(self, cid: Cid, stored: bytes | None) -> None:
        """Take rotten bytes away, kept for a look: the file, or `stored` where the bytes were in the index."""

    def shard(self, number: int) -> list[Cid]:
        """What is published in one of SHARDS shards: for finding what no row names."""

    def sweep(self, limit: int) -> int:
        """Remove up to `limit` staged copies of dead processes; how many went."""

    def is_empty(self) -> bool:
        """Whether nothing is published."""

    @property
    def problem(self) -> str:
        """Why bytes cannot be had at all now; empty when they can."""

    def close(self) -> None:
        """Let go of connections, where there are some."""


class FileBodies:
    """A directory. Call `check_room` first; OSErrors come out as RageErrors (see `room.disk`)."""

    def __init__(self, directory: Path, session: str, *, failpoint: Callable[[str], None] = lambda step: None) -> None:
        self._root = str(directory)
        self._tmp = os.path.join(self._root, "tmp")
        self._quarantine = os.path.join(self._root, "quarantine")
        self._session = session
        self._numbers = itertools.count()
        self._failpoint = failpoint
        self._shards: set[int] = set()
        self._unsynced_shards = True
        if not os.path.isdir(self._tmp):
            with disk("create the store", self._root):
                os.makedirs(self._tmp, mode=0o700, exist_ok=True)
                sync_directory(self._root)
                sync_directory(os.path.dirname(os.path.abspath(self._root)))
        self.sweep(STRAYS_AT_OPEN_MAX)

    def check_room(self, size: int, files: int, quota: Quota) -> None:
        """Raise StorageFullError when so many more bytes and files would eat into what must stay free."""
        stat = os.statvfs(self._root)
        free = stat.f_bavail * stat.f_frsize
        if free - size < quota.free_bytes_min:
            raise full("no room for more chunks", f"{free} bytes are free, {quota.free_bytes_min} must stay so")
        if files and stat.f_files and stat.f_favail - files < quota.free_inodes_min:
            raise full("no room for more chunks", f"{stat.f_favail} inodes are free on the file system of {self._root}")

    def free_bytes(self) -> int:
        """What the file system has left for us."""
        stat = os.statvfs(self._root)
        return stat.f_bavail * stat.f_frsize

    def stage(self, cid: Cid, stored: Data, *, durable: bool = True) -> str:
        """Write a temporary file, and begin to bring it to the disk where a sync follows; make its shard if missing."""
        path = os.path.join(self._tmp, f"{self._session}-{next(self._numbers)}")
        with disk("write a chunk", self._root):
            self._make_shard(cid.digest[0])
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            try:
                self._failpoint("created")
                view = memoryview(stored)
                while view:
                    view = view[os.write(fd, view) :]
                self._failpoint("written")
                if durable and hasattr(
                    os, "posix_fadvise"
                ):  # on Linux this starts write-back, so that the sync finds it done
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            except BaseException:
                self.discard(path)
                raise
            finally:
                os.close(fd)
        return path

    def sync(self, staged: str) -> None:
        """Fdatasync."""
        with disk("sync a chunk", self._root):
            _sync_data(staged)
        self._failpoint("synced")

    def discard(self, staged: str) -> None:
        """Unlink a temporary file."""
        with contextlib.suppress(OSError):
            os.unlink(staged)

    def publish(self, staged: Mapping[Cid, str], *, durable: bool, spread: Spread) -> None:
        """Rename into the shards and sync their directories."""
        touched = set()
        with disk("write a chunk", self._root):
            for cid, path in staged.items():
                shard = self._shard(cid.digest[0])
                os.rename(path, f"{shard}/{cid}")
                touched.add(shard)
                self._failpoint("renamed")
            if durable:
                self._sync_directories(touched, spread)

    def persist(self, cids: Iterable[Cid]) -> None:
        """Fdatasync of each file, then of its directory."""
        touched = set()
        with disk("sync a chunk", self._root):
            for cid in cids:
                _sync_data(self._path(cid))
                touched.add(self._shard(cid.digest[0]))
            self._sync_directories(touched, map)

    def read(self, cid: Cid, *, at_rest: bool = False) -> bytes:
        """The whole file."""
        with disk("read a chunk", self._root):
            fd = os.open(self._path(cid), os.O_RDONLY | os.O_CLOEXEC)
            try:
                size = os.fstat(fd).st_size
                data = os.read(fd, size)
                while len(data) < size:
                    more = os.read(fd, size - len(data))
                    if not more:
                        break
                    data += more
            finally:
                os.close(fd)
        return data

    def has(self, cid: Cid, size: int) -> bool:
        """Whether a file of that size is there."""
        try:
            return os.stat(self._path(cid)).st_size == size
        except OSError:
            return False

    def delete(self, cid: Cid) -> bool:
        """Unlink. Not synced: a file that comes back after a crash has no row, and gc finds it."""
        with disk("delete a chunk", self._root):
            try:
                os.unlink(self._path(cid))
            except FileNotFoundError:
                return False
        self._failpoint("deleted")
        return True

    def delete_all(self, cids: Iterable[Cid]) -> int:
        """Unlink one after another."""
        return sum(map(self.delete, cids))

    def quarantine(self, cid: Cid, stored: bytes | None) -> None:
        """Move to `quarantine/`, or write there; where that fails or is full, just remove."""
        target = os.path.join(self._quarantine, str(cid))
        with contextlib.suppress(OSError):
            os.makedirs(self._quarantine, mode=0o700, exist_ok=True)
            if len(os.listdir(self._quarantine)) < QUARANTINE_FILES_MAX:
                if stored is None:
                    os.rename(self._path(cid), target)
                else:
                    Path(target).write_bytes(stored)
        with contextlib.suppress(OSError):
            os.unlink(self._path(cid))

    def shard(self, number: int) -> list[Cid]:
        """The CIDs that files of one shard are named by; other names are somebody else's and are left alone."""
        found = []
        try:
            names = os.listdir(self._shard(number))
        except FileNotFoundError:
            return []
        for name in names:
            with contextlib.suppress(CidError):
                found.append(Cid.parse(name))
        return found

    def sweep(self, limit: int) -> int:
        """Unlink temporary files that are not of this process, in the order the file system gives them."""
        gone = 0
        with os.scandir(self._tmp) as entries:
            for entry in entries:
                if gone >= limit:
                    break
                if not entry.name.startswith(self._session):
                    self.discard(entry.path)
                    gone += 1
        return gone

    def is_empty(self) -> bool:
        """Looks into every shard until it finds something."""
        return not any(map(self.shard, range(SHARDS)))

    @property
    def problem(self) -> str:
        """What a disk says, calls say."""
        return ""

    def close(self) -> None:
        """Nothing is open between calls."""

    def _shard(self, number: int) -> str:
        return f"{self._root}/{number:02x}"

    def _path(self, cid: Cid) -> str:
        return f"{self._root}/{cid.digest[0]:02x}/{cid}"

    def _make_shard(self, number: int) -> None:
        if number not in self._shards:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._shard(number), 0o700)
                self._unsynced_shards = True
            self._shards.add(number)

    def _sync_directories(self, paths: Iterable[str], spread: Spread) -> None:
        if self._unsynced_shards:  # cleared before the sync: a shard made meanwhile sets it again
            self._unsynced_shards = False
            try:
                sync_directory(self._root)
            except OSError:
                self._unsynced_shards = True
                raise
        for _ in spread(sync_directory, paths):
            pass
        self._failpoint("directories synced")


def _sync_data(path: str) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        sync_data(fd)
    finally:
        os.close(fd)
