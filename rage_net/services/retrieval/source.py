"""What a download asks for chunks: sources, ways to them, and stages of ways. Words only.

A stage is one place to look: connected peers, the CDN, the DHT. It gives ways as it learns of them; the next stage
begins when it has none left or is slow. Source: seed, "Retrieval Flow"; issue 3, E.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from rage_net.cid import Cid
from rage_net.messages import ChunkHeader, Traffic

Kind = Literal["cdn", "p2p"]


class Received(Protocol):
    """A chunk in the stored form, not verified yet."""

    @property
    def header(self) -> ChunkHeader:
        """Its sizes and encoding."""
        ...

    @property
    def buffers(self) -> list[bytes | memoryview]:
        """The bytes, in order."""
        ...


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


@dataclass(frozen=True, slots=True)
class Way:
    """A way to a source: its name for people, and how to get there. `reach` raises RageError when it cannot."""

    name: str
    reach: Callable[[], Awaitable[Source]]
    is_holder: bool = False
    """It is said to have the root: it is asked for chunks at once, not what it has, which saves a round trip."""
    hedge_s: float | None = None
    """Until it has given something, others are asked too after so long; None: after the usual time."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One place to look. `ways` yields each as it is learnt, and raises RageError when the looking itself failed."""

    name: str
    ways: Callable[[], AsyncIterator[Way]]
    nobody: str = "knows nobody to ask"
    """What it says when it gave no way."""
    patience_s: float | None = None
    """The next stage begins after so long although this one may bring something yet; None: after the usual time."""
    more: Callable[[], Awaitable[Sequence[Stage]]] | None = None
    """The stages in whose place this one stands, where finding them costs something: it has no ways of its own."""


async def _no_ways() -> AsyncIterator[Way]:
    nobody: tuple[Way, ...] = ()
    for way in nobody:
        yield way


def later(name: str, more: Callable[[], Awaitable[Sequence[Stage]]]) -> Stage:
    """Stages that are found when it is their turn, and not at all when those before them suffice."""
    return Stage(name, _no_ways, more=more)


def known(
    name: str, ways: Iterable[Way], nobody: str = "knows nobody to ask", patience_s: float | None = None
) -> Stage:
    """A stage whose ways are known already."""

    async def each() -> AsyncIterator[Way]:
        for way in ways:
            yield way

    return Stage(name, each, nobody, patience_s)
