"""Bandwidth of one direction: one rate, and lanes of traffic that share it. Pure: the time comes in as `now`.

    whole rate    a bucket that all lanes take from: bytes never leave faster, but for a burst
    within floor  what no lane is denied, however much the others want
    within share  up to its `max_bandwidth`
    borrowing     what the others leave, up to all of it

Bytes are taken, or not: nothing is promised for later, so there is no debt beyond the piece that was taken last, and
whoever has borrowed stops the moment another lane wants its own. Of the lanes that want something now, the first in the
list above goes first, and among equals the one with the lower priority number. A lane wants something from when it was
told to wait until it has taken it, has left, or has not asked again in time.

Not here: who waits how, in which order within a lane (pacing). Source: specification, "Bandwidth Management"; the
three ranks are those of hierarchical token buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

Traffic = Literal["user_queries", "replication", "background_sync"]
TRAFFIC: tuple[Traffic, ...] = get_args(Traffic)
"""In their order where nothing else is said."""

FLOOR = 0.05
"""Of the rate, for each lane that wants something, before all others: a lane of low priority is slowed, not stopped."""
BURST_S = 0.1
"""A bucket holds what the rate gives in that time: the event loop may be late by as much, and nothing is lost."""
PIECE_S = 0.02
"""What is taken at once leaves within that time: for so long a lane of high priority waits for one of low priority."""
PIECE_BYTES_MIN = 4 << 10
PIECE_BYTES_MAX = 64 << 10
WAIT_S_MIN = 0.001
"""No one is told to come back sooner: timers are no finer."""
LATE_S = 0.1
"""Who does not ask again within that time after it should has gone, and holds up nobody."""

_NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class Lane:
    """One kind of traffic. `share` is the largest part of the rate while others want some of it, above 0 to 1."""

    traffic: Traffic
    priority: int
    share: float = 1.0


LANES = (Lane("user_queries", 1, 0.8), Lane("replication", 2, 0.4), Lane("background_sync", 3, 0.2))


class Bandwidth:
    """The rate of one direction, shared by lanes.

    Args: rate_bytes_s: None for no limit: then everything goes at once. lanes: one that is missing comes last, with a
    share of 1.
    """

    def __init__(self, rate_bytes_s: float | None, lanes: Sequence[Lane] = LANES) -> None:
        if rate_bytes_s is not None and rate_bytes_s <= 0:
            raise ValueError(f"a rate of {rate_bytes_s} bytes a second")
        self.rate_bytes_s = rate_bytes_s
        rate = rate_bytes_s or 0.0
        self.piece = min(PIECE_BYTES_MAX, max(PIECE_BYTES_MIN, int(rate * PIECE_S)))
        """The most that is taken at once."""
        known = {lane.traffic: lane for lane in lanes}
        last = max((lane.priority for lane in lanes), default=0) + 1
        in_order = sorted((known.get(each) or Lane(each, last) for each in TRAFFIC), key=lambda lane: lane.priority)
        self.shares = {lane.traffic: lane.share for lane in in_order}
        """By priority, the first one first."""
        burst = max(2.0 * self.piece, rate * BURST_S)
        self._whole = _Bucket(rate, burst)
        self._states = {
            lane.traffic: _State(
                rank, _Bucket(rate * FLOOR, self.piece), _Bucket(rate * lane.share, max(self.piece, burst * lane.share))
            )
            for rank, lane in enumerate(in_order)
        }
        self._now = _NEVER

    def reserve(self, lane: Traffic, size: int, now: float) -> float:
        """Take `size` bytes, at most `piece`.

        0: they may go now. Else nothing is taken, and so many seconds later is the time to ask again.
        """
        if self.rate_bytes_s is None:
            return 0.0
        if not 0 <= size <= self.piece:
            raise ValueError(f"{size} bytes at once; {self.piece} is the most")
        self._fill(now)
        mine = self._states[lane]
        key = mine.key
        first = min((other.key for other in self._states.values() if other.wants_until >= self._now), default=key)
        whole = self._whole
        if whole.tokens > 0 and key <= first:
            whole.tokens -= size
            mine.take(size)
            mine.wants_until = _NEVER
            return 0.0
        wait_s = -whole.tokens / whole.rate
        if key > first:
            wait_s = max(wait_s, 0.0) + self.piece / whole.rate
        wait_s = max(WAIT_S_MIN, wait_s)
        mine.wants_until = self._now + wait_s + LATE_S
        return wait_s

    def leave(self, lane: Traffic) -> None:
        """Whoever waited in this lane has gone."""
        self._states[lane].wants_until = _NEVER

    def give_back(self, lane: Traffic, size: int) -> None:
        """Bytes that were taken did not travel. More than a burst is not kept."""
        if self.rate_bytes_s is None or size <= 0:
            return
        mine = self._states[lane]
        for bucket in (self._whole, mine.floor, mine.share):
            bucket.add(size)

    def _fill(self, now: float) -> None:
        elapsed_s = now - self._now if self._now > _NEVER else 0.0
        self._now = max(self._now, now)  # a clock that goes back gives nothing
        if elapsed_s <= 0:
            return
        self._whole.add(elapsed_s * self._whole.rate)
        for state in self._states.values():
            state.floor.add(elapsed_s * state.floor.rate)
            state.share.add(elapsed_s * state.share.rate)


@dataclass(slots=True)
class _Bucket:
    """Full at first; below nothing by at most one piece."""

    rate: float
    size: float
    tokens: float = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = self.size

    def add(self, amount: float) -> None:
        self.tokens = min(self.size, self.tokens + amount)


@dataclass(slots=True)
class _State:
    rank: int
    floor: _Bucket
    share: _Bucket
    wants_until: float = _NEVER

    @property
    def key(self) -> tuple[int, int]:
        """Smaller goes first."""
        return (0 if self.floor.tokens > 0 else 1 if self.share.tokens > 0 else 2), self.rank

    def take(self, size: int) -> None:
        """What is borrowed is not owed: only a lane within its own goes below nothing, by the piece it took last."""
        for bucket in (self.floor, self.share):
            if bucket.tokens > 0:
                bucket.tokens -= size
