"""Which peers a stranger is told of first: those that were reached, from many regions, few from one site. Pure.

Whoever controls one network must not fill a newcomer's first answer (an eclipse begins there), and a newcomer must not
meet only peers that died together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from random import Random

T = TypeVar("T")

PER_SITE_MAX = 2
"""Peers from one /24 or /48 while there are others."""


@dataclass(frozen=True, slots=True)
class Candidate(Generic[T]):
    """One to choose from. `rank` 0 is best: reached; 1 not tried; 2 tried in vain."""

    item: T
    rank: int
    region: Hashable
    site: Hashable


def choose(candidates: Sequence[Candidate[T]], count: int, random: Random) -> list[T]:
    """At most `count`, best rank first; within a rank the regions in turn, each in an order that `random` draws.

    No more than `PER_SITE_MAX` share a site before all others of their rank have had their turn.
    """
    chosen: list[T] = []
    sites: Counter[Hashable] = Counter()
    for rank in sorted({candidate.rank for candidate in candidates}):
        shuffled = [candidate for candidate in candidates if candidate.rank == rank]
        random.shuffle(shuffled)
        crowded = []
        for candidate in _in_turn(shuffled):
            if len(chosen) == count:
                return chosen
            if sites[candidate.site] >= PER_SITE_MAX:
                crowded.append(candidate)
                continue
            sites[candidate.site] += 1
            chosen.append(candidate.item)
        chosen += [candidate.item for candidate in crowded[: count - len(chosen)]]
    return chosen


def _in_turn(candidates: Sequence[Candidate[T]]) -> list[Candidate[T]]:
    """One of each region, then the second of each, and so on."""
    turns: Counter[Hashable] = Counter()
    keyed = []
    for at, candidate in enumerate(candidates):
        keyed.append((turns[candidate.region], at, candidate))
        turns[candidate.region] += 1
    return [candidate for _, _, candidate in sorted(keyed, key=lambda key: key[:2])]
