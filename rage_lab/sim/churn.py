"""What happens to the nodes of a world, and when: a schedule drawn before the run, so that it can be read."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["join", "leave", "vanish", "stall", "partition", "heal"]


@dataclass(frozen=True, order=True)
class Change:
    """At `at_s` of the loop, to these nodes. A partition parts them from all others; a stall lasts `for_s`."""

    at_s: float
    kind: Kind
    names: tuple[str, ...] = ()
    for_s: float = 0.0


def departures(
    rng: random.Random,
    names: Sequence[str],
    *,
    share: float,
    begin_s: float,
    over_s: float,
    with_notice: float = 0.5,
    back_after_s: tuple[float, float] | None = None,
) -> list[Change]:
    """So large a share of `names` go, at random moments within `over_s`; a part of them, `with_notice`, say so.

    With `back_after_s` they return after a time between the two, with the disk they had.
    """
    changes: list[Change] = []
    for name in rng.sample(list(names), round(share * len(names))):
        at_s = begin_s + rng.uniform(0, over_s)
        changes.append(Change(at_s, "leave" if rng.random() < with_notice else "vanish", (name,)))
        if back_after_s is not None:
            changes.append(Change(at_s + rng.uniform(*back_after_s), "join", (name,)))
    return sorted(changes)


def stalls(
    rng: random.Random, names: Sequence[str], *, count: int, begin_s: float, over_s: float, for_s: tuple[float, float]
) -> list[Change]:
    """So many nodes stand still for a while between the two, at random moments."""
    chosen = rng.sample(list(names), count)
    return sorted(Change(begin_s + rng.uniform(0, over_s), "stall", (name,), rng.uniform(*for_s)) for name in chosen)


def partition(rng: random.Random, names: Sequence[str], *, share: float, at_s: float, for_s: float) -> list[Change]:
    """So large a share is parted from the others for a while."""
    chosen = tuple(sorted(rng.sample(list(names), round(share * len(names)))))
    return [Change(at_s, "partition", chosen), Change(at_s + for_s, "heal")]
