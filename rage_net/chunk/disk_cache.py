"""A bounded cache of stored forms on the local disk, before a store that is far away.

One file a chunk, with a checksum behind its bytes, so that one that is torn or rotten is never given: it goes, and
whoever asked reads the original again. Nothing is synced, nothing here is counted on, and a disk that fails only makes
it miss. The least recently used go first; the time of a file's last use is its mtime, so that the order outlives the
process. Thread-safe. Source: issue 5, section G.
"""
# Paths are text here, as in files.py.
# ruff: noqa: PTH103, PTH105, PTH108, PTH118, PTH120, PTH123

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections import OrderedDict
from pathlib import Path

from blake3 import blake3

from rage_net.chunk.encoding import Data
from rage_net.cid import Cid, CidError

CHECKSUM_BYTES = 16
FILES_MAX = 65_536
"""Files kept, however small: the order of use is in memory, at some 250 bytes a file."""
GIVE_WAY_FILES = 64
"""Files that go at once when the disk has less free than it must."""


class DiskCache:
    """A directory of at most `bytes_max` bytes; 0 keeps nothing. It is read when first written to, not at the start."""

    def __init__(self, directory: Path, bytes_max: int, session: str) -> None:
        self._root = str(directory)
        self._tmp = os.path.join(self._root, "tmp")
        self._bytes_max = bytes_max
        self._session = session
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._sizes: OrderedDict[bytes, int] | None = None
        """Digest and codec of a CID -> bytes of its file, the least recently used first."""
        self._total = 0

    def get(self, cid: Cid) -> bytes | None:
        """The bytes that were kept, whole; None when there are none."""
        if not self._bytes_max:
            return None
        path = self._path(cid)
        try:
            with open(path, "rb", buffering=0) as file:
                data = file.readall()
            os.utime(path)
        except OSError:
            return None
        stored, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
        if len(data) < CHECKSUM_BYTES or blake3(stored).digest(length=CHECKSUM_BYTES) != checksum:
            self.drop(cid)
            return None
        with self._lock:
            if self._sizes is not None and bytes(cid) in self._sizes:
                self._sizes.move_to_end(bytes(cid))
        return stored

    def put(self, cid: Cid, stored: Data) -> None:
        """Keep bytes that are right; what does not fit makes others go."""
        size = len(stored) + CHECKSUM_BYTES
        if size > self._bytes_max:
            return
        with self._lock:
            known = self._known()
            if bytes(cid) in known:
                known.move_to_end(bytes(cid))
                return
            self._evict(self._bytes_max - size, FILES_MAX - 1)
            known[bytes(cid)] = size
            self._total += size
        path = f"{self._tmp}/{self._session}-{next(self._numbers)}"
        try:
            os.makedirs(os.path.dirname(self._path(cid)), mode=0o700, exist_ok=True)
            os.makedirs(self._tmp, mode=0o700, exist_ok=True)
            with open(path, "xb") as file:
                file.write(stored)
                file.write(blake3(stored).digest(length=CHECKSUM_BYTES))
            with self._lock:  # it may have been dropped meanwhile, and then nobody counts it
                if bytes(cid) in known:
                    os.replace(path, self._path(cid))
                else:
                    os.unlink(path)
        except OSError:  # no room, or no disk: it is only a cache
            with contextlib.suppress(OSError):
                os.unlink(path)
            self.drop(cid)

    def drop(self, cid: Cid) -> None:
        """Forget a chunk."""
        with self._lock:
            if self._sizes is not None:
                self._total -= self._sizes.pop(bytes(cid), 0)
            with contextlib.suppress(OSError):
                os.unlink(self._path(cid))

    def give_way(self, free_bytes_min: int) -> None:
        """Let the oldest go when the file system has less than that free: the index needs its room more."""
        try:
            stat = os.statvfs(self._root)
        except OSError:
            return
        if stat.f_bavail * stat.f_frsize < free_bytes_min:
            with self._lock:
                self._evict(self._bytes_max, len(self._known()) - GIVE_WAY_FILES)

    def sweep(self, limit: int) -> int:
        """Remove up to `limit` half-written files of dead processes."""
        gone = 0
        with contextlib.suppress(OSError), os.scandir(self._tmp) as entries:
            for entry in entries:
                if gone >= limit:
                    break
                if not entry.name.startswith(self._session):
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)
                        gone += 1
        return gone

    def _evict(self, bytes_left: int, files_left: int) -> None:
        known = self._known()
        while known and (self._total > bytes_left or len(known) > files_left):
            key, size = known.popitem(last=False)
            self._total -= size
            with contextlib.suppress(OSError):
                os.unlink(self._path(Cid.from_bytes(key)))

    def _known(self) -> OrderedDict[bytes, int]:
        """What is kept, read from the directory the first time."""
        if self._sizes is None:
            found: list[tuple[float, bytes, int]] = []
            with contextlib.suppress(OSError), os.scandir(self._root) as shards:
                for shard in shards:
                    if shard.name != "tmp":
                        found += _files(shard.path)
            found.sort()
            self._sizes = OrderedDict((key, size) for _, key, size in found)
            self._total = sum(self._sizes.values())
            self._evict(self._bytes_max, FILES_MAX)
        return self._sizes

    def _path(self, cid: Cid) -> str:
        return f"{self._root}/{cid.digest[0]:02x}/{cid}"


def _files(shard: str) -> list[tuple[float, bytes, int]]:
    """When each file of a shard was used last, its CID and its size."""
    found = []
    with contextlib.suppress(OSError), os.scandir(shard) as entries:
        for entry in entries:
            with contextlib.suppress(OSError, CidError):
                stat = entry.stat()
                found.append((stat.st_mtime, bytes(Cid.parse(entry.name)), stat.st_size))
    return found
