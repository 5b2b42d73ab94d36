"""An event loop whose time passes only when every task waits: no real second is spent, one seed gives one run.

Timers that are due at one time run in the order in which they were set, and sets of tasks and futures iterate in the
order of their making, not by address: else `asyncio.wait` and the end of a TaskGroup would differ from run to run.

A node's code runs with its name in `NODE`, and so does all that it starts; `stall` lets the code of one node stand
still, timers and all, as a process does that gets no processor or is swapped out.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from typing import Any

NODE: ContextVar[str] = ContextVar("NODE", default="")
"""Whose code runs."""


class Jump(selectors.BaseSelector):
    """Instead of waiting, moves the loop's clock to its next timer."""

    loop: VirtualLoop

    def __init__(self) -> None:
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, fd, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def get_map(self) -> dict[Any, selectors.SelectorKey]:
        return self._keys

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("deadlock: every task waits, and no timer is set")
        self.loop.now += max(0.0, timeout)
        return []


class Turn(asyncio.Handle):
    """A callback that waits while its node is stalled."""

    __slots__ = ()

    def _run(self) -> None:
        if not _is_held(self):
            super()._run()


class Timer(asyncio.TimerHandle):
    """The same, at its time; of two at one time the one that was set first."""

    __slots__ = ("number",)

    def __lt__(self, other: Timer) -> bool:  # type: ignore[override]
        return (self._when, self.number) < (other._when, other.number)

    def _run(self) -> None:
        if not _is_held(self):
            super()._run()


def _is_held(handle: Any) -> bool:
    held = handle._loop.held
    if not held or (kept := held.get(handle._context.get(NODE, ""))) is None:
        return False
    kept.append(handle)
    return True


class NumberedFuture(asyncio.Future):  # type: ignore[type-arg]
    """Hashed by the order of making."""

    def __new__(cls, *, loop: VirtualLoop) -> NumberedFuture:
        self = super().__new__(cls)
        self._number = next(loop.numbers)
        return self

    def __hash__(self) -> int:
        return self._number


class NumberedTask(asyncio.Task):  # type: ignore[type-arg]
    """Hashed by the order of making."""

    def __new__(cls, coro: Coroutine[Any, Any, Any], *, loop: VirtualLoop, **more: Any) -> NumberedTask:
        self = super().__new__(cls)
        self._number = next(loop.numbers)
        return self

    def __hash__(self) -> int:
        return self._number


class VirtualLoop(asyncio.SelectorEventLoop):
    """Starts at 0."""

    def __init__(self) -> None:
        self.now = 0.0
        self.numbers = itertools.count()
        self.held: dict[str, list[asyncio.Handle]] = {}
        selector = Jump()
        selector.loop = self
        super().__init__(selector)
        self.set_task_factory(lambda loop, coro, **more: NumberedTask(coro, loop=loop, **more))

    def time(self) -> float:
        return self.now

    def create_future(self) -> NumberedFuture:
        return NumberedFuture(loop=self)

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> Turn:  # type: ignore[override]
        self._check_closed()
        turn = Turn(callback, args, self, context)
        self._ready.append(turn)
        return turn

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> Timer:
        self._check_closed()
        timer = Timer(when, callback, args, self, context)
        timer.number = next(self.numbers)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True
        return timer

    def stall(self, node: str) -> None:
        """Run nothing of this node's until `resume`."""
        self.held.setdefault(node, [])

    def resume(self, node: str) -> None:
        """Run all that became due meanwhile, in the order in which it did."""
        self._ready.extend(self.held.pop(node, []))
