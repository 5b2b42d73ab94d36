"""A pretend engine behind the real control socket of a home: what the commands show of a network that is not there."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rage_net import home as homes
from rage_net.control import Control
from rage_net.metrics import Metrics
from rage_net.verbs import Verb, registry

TIMEOUT_S = 20.0

Tell = Callable[[Any], None]


class FakeEngine:
    """Answers each verb as a test has said; `asked` are the verbs that came, `octets` what came with them."""

    def __init__(self) -> None:
        self.answers: dict[type[Verb[Any]], Any] = {}
        self.asked: list[Any] = []
        self.octets = b""
        self.told = threading.Event()
        self.cancelled = threading.Event()

    def answer(self, kind: type[Verb[Any]], result: Any, *items: Any, then: str = "") -> None:
        """Tell `items`, then give `result` or raise it; or wait for ever first (`then="wait"`)."""
        self.answers[kind] = (result, items, then)

    async def run(
        self, verb: Any, *, source: Any = None, sink: Any = None, progress: Any = None, tell: Tell | None = None
    ) -> Any:
        self.asked.append(verb)
        if source is not None:
            self.octets = await asyncio.to_thread(_read, source)
        result, items, then = self.answers[type(verb)]
        for item in items:
            assert tell is not None
            tell(item)
        self.told.set()
        if then == "wait":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if isinstance(result, BaseException):
            raise result
        return result


def _read(source: Any) -> bytes:
    found, block = bytearray(), bytearray(65_536)
    while size := source.readinto(block):
        found += block[:size]
    return bytes(found)


@pytest.fixture
def engine(home: Path) -> Iterator[FakeEngine]:
    """A node of `home` as its socket shows it, with an engine that says what it is told to."""
    fake = FakeEngine()
    place = homes.Home(home)
    started: list[Any] = []
    ready = threading.Event()

    async def serve() -> None:
        stop = asyncio.Event()
        started.append((asyncio.get_running_loop(), stop))
        path = homes.claim_socket_path(place, {})
        async with Control(fake, registry(), path, random=random.Random(7), metrics=Metrics(), drain_s=0.1):
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(TIMEOUT_S)
    yield fake
    loop, stop = started[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(TIMEOUT_S)
    assert not thread.is_alive()
