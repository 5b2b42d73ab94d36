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
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from typing import Any

NODE: ContextVar[str] = ContextVar("NODE", default="")
"""Whose code runs."""
CANCELLED_MAX = 1000
"""Cancelled timers that are left lying until they are due; beyond that, at most as many as others."""


class Turn(asyncio.Handle):
    """A callback that waits while its node is stalled."""

    __slots__ = ()

    def _run(self) -> None:
        if not _is_held(self):
            super()._run()


class Timer(asyncio.TimerHandle):
    """The same, at its time."""

    __slots__ = ()
    _scheduled: bool

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

    _number: int

    def __new__(cls, *, loop: VirtualLoop) -> NumberedFuture:
        """A future with the loop's next number."""
        self = super().__new__(cls)
        self._number = next(loop.numbers)
        return self

    def __hash__(self) -> int:
        return self._number


class NumberedTask(asyncio.Task):  # type: ignore[type-arg]
    """Hashed by the order of making."""

    _number: int

    def __new__(cls, coro: Coroutine[Any, Any, Any], *, loop: VirtualLoop, **more: Any) -> NumberedTask:
        """A task with the loop's next number."""
        self = super().__new__(cls)
        self._number = next(loop.numbers)
        return self

    def __hash__(self) -> int:
        return self._number


class VirtualLoop(asyncio.BaseEventLoop):
    """Starts at 0. Has no sockets, pipes or signals: what needs one raises NotImplementedError."""

    _ready: deque[asyncio.Handle]
    _stopping: bool
    _check_closed: Callable[[], None]

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.numbers = itertools.count()
        self.held: dict[str, list[asyncio.Handle]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._cancelled = 0  # of the timers
        self.set_task_factory(lambda loop, coro, **more: NumberedTask(coro, loop=loop, **more))

    def time(self) -> float:
        """Virtual seconds."""
        return self.now

    def create_future(self) -> NumberedFuture:
        """A future that hashes alike in every run."""
        return NumberedFuture(loop=self)

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> Turn:  # type: ignore[override]
        """As asyncio's; held while the node is stalled."""
        self._check_closed()
        turn = Turn(callback, args, self, context)
        self._ready.append(turn)
        return turn

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> Timer:
        """As asyncio's, in the order of setting where times are equal."""
        self._check_closed()
        timer = Timer(when, callback, args, self, context)
        timer._scheduled = True
        heapq.heappush(self._timers, (when, next(self.numbers), timer))
        return timer

    def stall(self, node: str) -> None:
        """Run nothing of this node's until `resume`."""
        self.held.setdefault(node, [])

    def resume(self, node: str) -> None:
        """Run all that became due meanwhile, in the order in which it did."""
        self._ready.extend(self.held.pop(node, []))

    # -- what asyncio's own loops have for themselves: the same in 3.11 to 3.13

    def _run_once(self) -> None:
        """All that is ready now; when nothing is, time moves to the next timer."""
        ready, timers = self._ready, self._timers
        while timers and timers[0][2].cancelled():
            self._drop(timers)
        if not ready and not self._stopping:
            if not timers:
                raise RuntimeError("deadlock: every task waits, and no timer is set")
            self.now = max(self.now, timers[0][0])
        while timers and timers[0][0] <= self.now:
            timer = self._drop(timers)
            if not timer.cancelled():
                ready.append(timer)
        for _ in range(len(ready)):
            turn = ready.popleft()
            if not turn.cancelled():
                turn._run()

    def _drop(self, timers: list[tuple[float, int, Timer]]) -> Timer:
        timer = heapq.heappop(timers)[2]
        timer._scheduled = False
        self._cancelled -= timer.cancelled()
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        if handle._scheduled:  # type: ignore[attr-defined]
            self._cancelled += 1
            if self._cancelled > CANCELLED_MAX and self._cancelled > len(self._timers) // 2:
                self._timers = [entry for entry in self._timers if not entry[2].cancelled()]
                heapq.heapify(self._timers)
                self._cancelled = 0

    def _write_to_self(self) -> None:
        """Nobody sleeps who would have to be woken."""
