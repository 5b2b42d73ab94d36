"""What a benchmark says, and how it is taken: alternating runs, the first round dropped, medians.

Peers alternate because a shared machine drifts; the first round is dropped because in a virtual machine it pays for
memory that nobody touched before.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Samples = list[float]


@dataclass(frozen=True, slots=True)
class Setting:
    """How to measure, and where: `directory` is on the disk that is measured, `memory` is a file system in memory."""

    rounds: int
    is_quick: bool
    directory: Path
    memory: Path | None
    peers: Path

    def size(self, full: int, quick: int) -> int:
        return quick if self.is_quick else full


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table. With a peer, the ratio ours / theirs is held against the target, else our median is."""

    row: str
    what: str
    unit: str
    ours: Samples
    bound: Literal["at least", "at most", "no target"]
    target: float
    peer: str = ""
    theirs: Samples | None = None
    note: str = ""

    @property
    def is_skipped(self) -> bool:
        return not self.ours or (bool(self.peer) and not self.theirs)

    @property
    def value(self) -> float:
        """What is held against the target."""
        ours = statistics.median(self.ours)
        return ours / statistics.median(self.theirs) if self.theirs else ours

    @property
    def is_reached(self) -> bool:
        if self.bound == "no target":
            return True
        return self.value >= self.target if self.bound == "at least" else self.value <= self.target

    def to_plain(self) -> dict[str, object]:
        head = {"row": self.row, "what": self.what, "unit": self.unit, "peer": self.peer, "note": self.note}
        if self.is_skipped:
            return {**head, "skipped": True}
        return {
            **head,
            "ours": _summary(self.ours),
            "theirs": _summary(self.theirs) if self.theirs else None,
            "ratio": round(self.value, 3) if self.theirs else None,
            "bound": self.bound,
            "target": self.target,
            "reached": self.is_reached,
        }


def skip(row: str, what: str, peer: str, why: str) -> Result:
    """A line that could not be measured, and what mends it."""
    return Result(row, what, "", [], "no target", 0, peer, [], f"skipped: {why}")


def alternate(cases: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Samples]:
    """Measure all cases in turn, `rounds` times after one that is dropped; each round begins one case later."""
    samples: dict[str, Samples] = {name: [] for name in cases}
    names = list(cases)
    for turn in range(rounds + 1):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            value = cases[name]()
            if turn:
                samples[name].append(value)
    return samples


def _summary(samples: Samples) -> dict[str, object]:
    return {
        "median": round(statistics.median(samples), 4),
        "min": round(min(samples), 4),
        "max": round(max(samples), 4),
        "samples": [round(sample, 4) for sample in samples],
    }
