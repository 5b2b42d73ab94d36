"""What a process that serves has around its work: signals end it, in time; jobs run beside it; systemd is told.

Not here: what is served (`node`, `discoverer`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from rage_net.errors import EXIT_INTERRUPT, EXIT_TERMINATED

log = logging.getLogger("rage.node")


@contextmanager
def signals(stop: asyncio.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set `stop` while the block runs; once it is set, a further one ends the process at once."""

    def on_signal() -> None:
        if stop.is_set():
            log.warning("stopped a second time; ending at once")
            os._exit(EXIT_INTERRUPT)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@asynccontextmanager
async def running(jobs: Sequence[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """The jobs run while the block does."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(job) for job in jobs]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


@contextmanager
def hard_end(within_s: float) -> Iterator[Callable[[], None]]:
    """Gives what begins the end: from then on the block is left in time, or the process ends without more ado.

    A supervisor waits, and the store is always sound.
    """

    def end() -> None:
        log.error("not drained within %.0f s; ending at once", within_s)
        os._exit(EXIT_TERMINATED)

    timer = threading.Timer(within_s, end)
    timer.daemon = True
    try:
        yield timer.start
    finally:
        timer.cancel()


def notify(environ: Mapping[str, str], state: str) -> None:
    """Tell systemd, where it waits to be told (sd_notify(3))."""
    address = environ.get("NOTIFY_SOCKET", "")
    if address[:1] in ("/", "@"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
            door.connect("\0" + address[1:] if address[0] == "@" else address)
            door.send(state.encode())
