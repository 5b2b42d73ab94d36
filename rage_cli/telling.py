"""Items of an engine in this process on their way to stdout, in a thread of their own.

A pager that is not read, or a slow pipe, holds up the thread and never the engine, whose connections would die of it;
what nobody takes meanwhile is dropped oldest first, as in a node. Not here: how a node's items come (`client`).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from rage_net.items import Items

R = TypeVar("R")

LAST_ITEMS_S = 1.0
"""For the thread to write what was told when the verb failed or was interrupted: it may be stuck for good."""


async def run_telling(
    work: Callable[[Callable[[Any], None]], Coroutine[Any, Any, R]],
    on_item: Callable[[Any], None],
    on_dropped: Callable[[int], None],
) -> R:
    """The result of `work(tell)`, once all that it told has gone to `on_item`.

    What `on_item` raises ends the work and is raised in its place.
    """
    loop = asyncio.get_running_loop()
    wake, closing = threading.Event(), threading.Event()
    items: Items[Any] = Items(wake.set)
    written: asyncio.Future[BaseException | None] = loop.create_future()

    def write() -> None:
        failure = None
        try:
            _write(items, wake, closing, on_item, on_dropped)
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(written.set_result, failure)

    threading.Thread(target=write, name="items", daemon=True).start()
    working = loop.create_task(work(lambda item: items.put(item, 0)))
    try:
        await asyncio.wait((working, written), return_when=asyncio.FIRST_COMPLETED)
    finally:
        working.cancel()  # if it is not over, nobody wants it any more
        await asyncio.wait((working,))
        closing.set()
        wake.set()
        is_well = not working.cancelled() and working.exception() is None
        await asyncio.wait((written,), timeout=None if is_well else LAST_ITEMS_S)
    if written.done() and (failure := written.result()) is not None:
        raise failure
    return working.result()


def _write(
    items: Items[Any],
    wake: threading.Event,
    closing: threading.Event,
    on_item: Callable[[Any], None],
    on_dropped: Callable[[int], None],
) -> None:
    while True:
        wake.wait()
        wake.clear()
        is_last = closing.is_set()  # before taking: nothing is told after
        dropped, taken = items.take()
        if dropped:
            on_dropped(dropped)
        for item in taken:
            on_item(item)
        if is_last:
            return
