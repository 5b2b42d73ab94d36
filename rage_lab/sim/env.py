"""`Env` for a simulated world: time is the virtual loop's, chance is seeded, and blocking work runs in line."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

EPOCH_S = 1_800_000_000.0
"""The wall clock when the loop's is 0."""
WORK_S_MAX = 0.002
"""Blocking work takes up to so long: which of two ends first is the seed's choice."""


class SimulatedEnv:
    """One node's. Use it under a `VirtualLoop`."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)

    def now(self) -> float:
        """Seconds since the epoch."""
        return EPOCH_S + self.monotonic()

    def monotonic(self) -> float:
        """The loop's time."""
        return asyncio.get_running_loop().time()

    async def blocking(self, fn: Callable[..., T], *args: object) -> T:
        """Work, done in line after a moment."""
        await asyncio.sleep(self.random.uniform(0, WORK_S_MAX))
        return fn(*args)

    async def waiting(self, fn: Callable[..., T], *args: object) -> T:
        """The same: nothing waits for real here."""
        return await self.blocking(fn, *args)

    def close(self) -> None:
        """No thread is left."""
