"""What a run did: a digest of every byte on the network, when and between whom, and of what was done to the nodes."""

from __future__ import annotations

import asyncio
from hashlib import blake2b

from rage_net.libp2p.transport.memory import MemoryLink


class Trace:
    """Two runs with one digest did the same."""

    def __init__(self) -> None:
        self.writes = 0
        self.bytes = 0
        self._hash = blake2b(digest_size=16)

    def written(self, end: MemoryLink, data: bytes) -> None:
        """For `MemoryNetwork.observe`."""
        self.writes += 1
        self.bytes += len(data)
        at = asyncio.get_running_loop().time()
        self._hash.update(f"{at!r} {end.host.name} {end.other.host.name} {len(data)} ".encode())
        self._hash.update(data)

    def note(self, *words: object) -> None:
        """Something that is no byte on the network."""
        self._hash.update(f"{asyncio.get_running_loop().time()!r} {words!r} ".encode())

    def digest(self) -> str:
        """Of all so far."""
        return self._hash.hexdigest()
