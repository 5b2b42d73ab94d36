"""The one door to clock, randomness and blocking work.

Everything above takes an `Env`, so that the same code runs under a simulated world: virtual time, a seeded generator,
an inline executor. Source: design D12.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

log = logging.getLogger("rage.env")

T = TypeVar("T")

WAITERS_MAX = 72
"""Threads for octets of operators: one for each operation the control API runs at once, and a few; they start when
needed."""

WORKERS = 3
"""Threads for hashing, compression and disk work: one more than the two cores measured, so that a wait for the disk
leaves no core idle."""


class Env(Protocol):
    """Clock, randomness, and a way off the event loop."""

    random: random.Random

    def now(self) -> float:
        """Wall clock, seconds since the epoch. Decides expiry and nothing else."""
        ...

    def monotonic(self) -> float:
        """A clock that never goes back, in seconds. Deadlines and durations are measured with it."""
        ...

    async def blocking(self, fn: Callable[..., T], *args: object) -> T:
        """Run `fn(*args)` off the event loop and give its result."""
        ...

    async def waiting(self, fn: Callable[..., T], *args: object) -> T:
        """Run `fn(*args)`, which may wait long for a person or a pipe, in a thread that other work does not need."""
        ...

    def close(self) -> None:
        """Wait for the threads that do blocking work, and end them; not for those that wait for a person or a pipe."""
        ...


class SystemEnv:
    """The real world."""

    def __init__(self, workers: int = WORKERS) -> None:
        self.random: random.Random = random.SystemRandom()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="rage-blocking")
        self._waiters = ThreadPoolExecutor(WAITERS_MAX, thread_name_prefix="rage-waiting")

    def now(self) -> float:
        """Wall clock, seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        return time.monotonic()

    async def blocking(self, fn: Callable[..., T], *args: object) -> T:
        """Run `fn(*args)` in one of a few threads."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, fn, *args)

    async def waiting(self, fn: Callable[..., T], *args: object) -> T:
        """Run `fn(*args)` in a thread of its own kind; beyond WAITERS_MAX it queues."""
        return await asyncio.get_running_loop().run_in_executor(self._waiters, fn, *args)

    def close(self) -> None:
        """Wait for running work, but not for what waits; work that has not begun is dropped. May be called again."""
        self._waiters.shutdown(wait=False, cancel_futures=True)
        self._pool.shutdown(wait=True, cancel_futures=True)


def read_environment() -> dict[str, str]:
    """The process's environment variables, read here and by `config` alone."""
    return dict(os.environ)


async def finished(work: Coroutine[Any, Any, T]) -> T:
    """Do `work` to its end though we are cancelled meanwhile: for what must not be done by halves.

    A thread goes on anyway when whoever waits for it is cancelled; this is for what is to follow it.
    """
    working = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait([working])
        if not working.cancelled() and (error := working.exception()) is not None:
            log.error("what was begun failed", exc_info=error)
        raise
