"""Bytes wait here until their lane has room: the rates of `network.bandwidth`, both directions, in one event loop.

    take     before bytes travel: waits for its turn, first come first served within a lane
    follow   after bytes have travelled that must not be held up: waits, but not for long
    queue    before an answer is promised: is there room for it among those that wait already

What is paced is payload: chunks, and the log. What is small and keeps the network going (gossip, DHT, pings, trust,
proofs, refusals) is not. Not here: who goes first (bandwidth). Source: specification, "Bandwidth Management".
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rage_net.bandwidth import LANES, TRAFFIC, Bandwidth, Traffic
from rage_net.metrics import Metrics

QUEUE_S = 2.0
"""What waits in a lane leaves within that time at the lane's share; more is told to come back, or goes elsewhere."""


class Lanes:
    """The lanes of one direction."""

    def __init__(self, bandwidth: Bandwidth, direction: str, clock: Callable[[], float], metrics: Metrics) -> None:
        self.is_limited = bandwidth.rate_bytes_s is not None
        self.piece = bandwidth.piece
        """Who can, takes no more than that at once: others of the same lane come between."""
        self._bandwidth = bandwidth
        self._direction = direction
        self._clock = clock
        self._metrics = metrics
        self._turns = {lane: asyncio.Lock() for lane in TRAFFIC}
        self._queued: Counter[Traffic] = Counter()
        self._used_at: dict[Traffic, float] = {}

    def was_used(self, lane: Traffic, within_s: float) -> bool:
        """Whether bytes have travelled in a lane of late."""
        used_at = self._used_at.get(lane)
        return used_at is not None and self._clock() - used_at <= within_s

    def count(self, lane: Traffic, size: int) -> None:
        """So many bytes have travelled."""
        self._used_at[lane] = self._clock()
        self._metrics.lane_bytes.add(size, lane, self._direction)

    async def take(self, lane: Traffic, size: int) -> None:
        """Wait until `size` bytes may travel. Who is cancelled meanwhile has taken nothing."""
        if not self.is_limited:
            return
        taken = [0]
        try:
            await self._take(lane, size, taken)
        except BaseException:
            self._bandwidth.give_back(lane, taken[0])
            raise

    async def follow(self, lane: Traffic, size: int, within_s: float) -> None:
        """`size` bytes have travelled: hold up what comes next for them, but for no longer than `within_s`."""
        if self.is_limited:
            with suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._take(lane, size, [0])

    def give_back(self, lane: Traffic, size: int) -> None:
        """Bytes that were taken did not travel."""
        self._bandwidth.give_back(lane, size)

    @contextmanager
    def queue(self, lane: Traffic, size: int) -> Iterator[bool]:
        """Whether so much more may wait in a lane, for as long as the block lasts. One answer always may."""
        rate = self._bandwidth.rate_bytes_s
        room = QUEUE_S * self._bandwidth.shares[lane] * rate if rate is not None else float("inf")
        waiting = self._queued[lane]
        if waiting and waiting + size > room:
            yield False
            return
        self._queued[lane] += size
        try:
            yield True
        finally:
            self._queued[lane] -= size

    async def _take(self, lane: Traffic, size: int, taken: list[int]) -> None:
        bandwidth = self._bandwidth
        started = self._clock()
        try:
            async with self._turns[lane]:
                while taken[0] < size:
                    piece = min(self.piece, size - taken[0])
                    wait_s = bandwidth.reserve(lane, piece, self._clock())
                    if not wait_s:
                        taken[0] += piece
                        continue
                    try:
                        await asyncio.sleep(wait_s)
                    except BaseException:
                        bandwidth.leave(lane)
                        raise
        finally:
            self._metrics.lane_waiting.add(max(0.0, self._clock() - started), lane)


class Taken:
    """What one chunk has taken of its lane before it came, and what of that has come: the rest is given back."""

    def __init__(self, lanes: Lanes, lane: Traffic) -> None:
        self.taken = 0
        self.used = 0
        """Counted by who reads."""
        self._lanes = lanes
        self._lane = lane

    async def take(self, size: int) -> None:
        """Wait for so much more."""
        await self._lanes.take(self._lane, size)
        self.taken += size

    def settle(self) -> None:
        """No more will come."""
        self._lanes.give_back(self._lane, self.taken - self.used)


class Pacing:
    """Both directions of one node. Without bandwidths nothing is limited, and bytes are only counted."""

    def __init__(
        self,
        clock: Callable[[], float],
        metrics: Metrics,
        upload: Bandwidth | None = None,
        download: Bandwidth | None = None,
    ) -> None:
        self.upload = Lanes(upload or Bandwidth(None, LANES), "sent", clock, metrics)
        self.download = Lanes(download or Bandwidth(None, LANES), "received", clock, metrics)
