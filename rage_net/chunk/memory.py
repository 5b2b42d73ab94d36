"""Stored forms in memory: the second body, for simulations, tests and homes that must not touch a disk.

Nothing here survives the process, so nothing is synced; everything else behaves as `files.FileBodies` does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

from rage_net.chunk.encoding import Data
from rage_net.chunk.files import FREE_BYTES_UNKNOWN, SHARDS, Spread
from rage_net.chunk.room import Quota
from rage_net.cid import Cid


class MemoryBodies:
    """Two dicts: what is staged and what is published. A quota of bytes bounds it; there is no file system to ask."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._staged: dict[str, bytes] = {}
        self._published: dict[Cid, bytes] = {}
        self.quarantined: dict[Cid, bytes] = {}

    def check_room(self, size: int, files: int, quota: Quota) -> None:
        """There is always room below the quota of bytes, which the store checks."""

    def free_bytes(self) -> int:
        """Nobody knows: memory is not counted."""
        return FREE_BYTES_UNKNOWN

    def stage(self, cid: Cid, stored: Data, *, durable: bool = True) -> str:
        """Copy aside."""
        token = str(next(self._numbers))
        self._staged[token] = bytes(stored)
        return token

    def sync(self, staged: str) -> None:
        """Nothing to do."""

    def discard(self, staged: str) -> None:
        """Forget a staged copy."""
        self._staged.pop(staged, None)

    def publish(self, staged: Mapping[Cid, str], *, durable: bool, spread: Spread) -> None:
        """Move to the published ones."""
        for cid, token in staged.items():
            self._published[cid] = self._staged.pop(token)

    def persist(self, cids: Iterable[Cid]) -> None:
        """Only look that all are there."""
        for cid in cids:
            self.read(cid)

    def read(self, cid: Cid, *, at_rest: bool = False) -> bytes:
        """The bytes at rest."""
        try:
            return self._published[cid]
        except KeyError:
            raise FileNotFoundError(str(cid)) from None

    def has(self, cid: Cid, size: int) -> bool:
        """Whether `size` bytes are there."""
        return len(self._published.get(cid, b"")) == size

    def delete(self, cid: Cid) -> bool:
        """Forget."""
        return self._published.pop(cid, None) is not None

    def delete_all(self, cids: Iterable[Cid]) -> int:
        """Forget one after another."""
        return sum(map(self.delete, cids))

    def quarantine(self, cid: Cid, stored: bytes | None) -> None:
        """Set aside."""
        rotten = self._published.pop(cid, None) if stored is None else stored
        if rotten is not None:
            self.quarantined[cid] = rotten

    def shard(self, number: int) -> list[Cid]:
        """As the file body: by the first byte of the hash."""
        return [cid for cid in list(self._published) if cid.digest[0] % SHARDS == number]

    def sweep(self, limit: int) -> int:
        """No other process stages here."""
        return 0

    def is_empty(self) -> bool:
        """Whether nothing is published."""
        return not self._published

    @property
    def problem(self) -> str:
        """Memory has none."""
        return ""

    def close(self) -> None:
        """Nothing to do."""
