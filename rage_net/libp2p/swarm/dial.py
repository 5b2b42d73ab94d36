"""Trying several ways at once: a staggered race. Knows no peers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


async def race(
    attempts: Sequence[Callable[[], Awaitable[T]]],
    *,
    stagger_s: float,
    parallel: int,
    discard: Callable[[T], None],
    failures: list[Exception | None],
) -> T | None:
    """The result of the first attempt that succeeds, None when none does.

    The next attempt begins when one fails or after `stagger_s`, at most `parallel` at a time; the rest are cancelled
    once one succeeds. Args: discard: takes results that came too late. failures: filled in, one for each attempt.
    """
    failures[:] = [None] * len(attempts)
    waiting = deque(range(len(attempts)))
    running: dict[asyncio.Future[T], int] = {}
    try:
        while waiting or running:
            if waiting and len(running) < parallel:
                index = waiting.popleft()
                running[asyncio.ensure_future(attempts[index]())] = index
            timeout = stagger_s if waiting and len(running) < parallel else None
            done, _ = await asyncio.wait(running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            winners = []
            for task in [task for task in running if task in done]:  # in the order they began
                index = running.pop(task)
                error = task.exception()
                if error is None:
                    winners.append(task.result())
                elif isinstance(error, Exception):
                    failures[index] = error
                else:
                    raise error
            for late in winners[1:]:
                discard(late)
            if winners:
                return winners[0]
        return None
    finally:
        for task in running:
            task.cancel()
        for result in await asyncio.gather(*running, return_exceptions=True):
            if not isinstance(result, BaseException):
                discard(result)
