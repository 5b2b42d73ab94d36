"""Where a download looks for chunks: ways to sources, and stages of ways. Words only.

A stage is one place to look: connected peers, the CDN, the DHT. It gives ways as it learns of them; the next stage
begins when it has none left or is slow. Source: seed, "Retrieval Flow"; issue 3, E.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from rage_net.chunk.source import Source


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
