"""Rounds of work, one after another while there is some, and again when somebody says that there may be."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress


class Rounds:
    """Runs a job. Args: work: one bounded round; gives how much was due. idle_s: it is looked at anyway then."""

    def __init__(self, work: Callable[[], Awaitable[int]], idle_s: float) -> None:
        self._work = work
        self._idle_s = idle_s
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Something may be due."""
        self._wake.set()

    async def run(self) -> None:
        """For as long as the task lives."""
        while True:
            self._wake.clear()
            if not await self._work():
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._idle_s):
                        await self._wake.wait()
