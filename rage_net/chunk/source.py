"""Something that may have chunks, as whoever asks for them sees it: a peer, a CDN, a CDN's ciphertexts. Words only.

Services give sources and take sources, and know no other of each other. Source: seed, "Retrieval Flow"; issue 3, E.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from rage_net.cid import Cid
from rage_net.messages import ChunkHeader, Traffic

Kind = Literal["cdn", "p2p"]


@dataclass(frozen=True, slots=True)
class Received:
    """A chunk from outside, in the form that its header tells, not verified yet; its bytes in order."""

    header: ChunkHeader
    buffers: list[bytes | memoryview] = field(repr=False)


class Source(Protocol):
    """Something that may have chunks: a peer, a CDN."""

    @property
    def key(self) -> Hashable:
        """Who it is: two ways to one source give the same key."""
        ...

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def kind(self) -> Kind:
        """What its chunks are counted as."""
        ...

    async def have(self, cids: Sequence[Cid], traffic: Traffic, /) -> Sequence[bool]:
        """Which of `cids` it has. Raises RageError."""
        ...

    async def fetch(self, cid: Cid, size_max: int, traffic: Traffic, /) -> Received:
        """One chunk. Raises RageError; IntegrityError `size-differs` when it is more than `size_max` plain bytes."""
        ...

    async def drop(self, reason: str) -> None:
        """It sent wrong bytes: have nothing to do with it."""
        ...
