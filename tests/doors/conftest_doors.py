"""A pretend engine behind the control API, and clients that speak to its socket."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import pytest

from rage_net.control import Control
from rage_net.errors import IntegrityError, NotFoundError
from rage_net.metrics import Metrics
from rage_net.verbs import Progress, Verb

TIMEOUT_S = 20.0


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Echo(Verb[Answer]):
    route: ClassVar[str] = "test/echo"
    result: ClassVar[type] = Answer
    text: str
    times: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Hold(Verb[Answer]):
    """Reads until released."""

    route: ClassVar[str] = "test/hold"
    result: ClassVar[type] = Answer


@dataclasses.dataclass(frozen=True, slots=True)
class Change(Verb[Answer]):
    """Changes something, when released."""

    route: ClassVar[str] = "test/change"
    result: ClassVar[type] = Answer
    mutates: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True, slots=True)
class Take(Verb[Answer]):
    route: ClassVar[str] = "test/take"
    result: ClassVar[type] = Answer
    octets_in: ClassVar[bool] = True
    mutates: ClassVar[bool] = True
    name: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Give(Verb[Answer]):
    route: ClassVar[str] = "test/give"
    result: ClassVar[type] = Answer
    octets_out: ClassVar[bool] = True
    size: int
    fail_after: int | None = None
    fail_before: bool = False
    block: int = 64 * 1024
    promise: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Fail(Verb[Answer]):
    route: ClassVar[str] = "test/fail"
    result: ClassVar[type] = Answer
    how: str = "bug"


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    number: int
    text: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Heard:
    items: int
    dropped: int


@dataclasses.dataclass(frozen=True, slots=True)
class Tell(Verb[Heard]):
    """Tells so many items of so many bytes, from a thread; then waits, where it is to hold, and tells one more."""

    route: ClassVar[str] = "test/tell"
    result: ClassVar[type] = Heard
    item: ClassVar[type] = Told
    count: int
    size: int = 0
    hold: bool = False
    fail: bool = False


VERBS: dict[str, type[Verb[Any]]] = {kind.route: kind for kind in (Echo, Hold, Change, Take, Give, Fail, Tell)}


def pattern(size: int) -> bytes:
    return random.Random(size).randbytes(min(size, 251)) * (size // 251 + 1)


class FakeEngine:
    """Does what each verb above says, in threads where octets are involved."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.began = asyncio.Event()
        self.ended = asyncio.Event()
        self.told = asyncio.Event()
        self.recorded: list[str] = []
        self.cancelled: list[str] = []
        self.errors: list[BaseException] = []
        self.read = 0
        self.pause = threading.Event()
        self.pause.set()
        self.thread_ended = threading.Event()

    async def run(
        self, verb: Verb[Any], *, source: Any = None, sink: Any = None, progress: Any = None, tell: Any = None
    ) -> Any:
        assert (tell is None) == (verb.item is None)
        self.began.set()
        try:
            match verb:
                case Echo():
                    for done in range(verb.times):
                        progress(Progress(done, verb.times, "items"))
                    return Answer(verb.text)
                case Hold() | Change():
                    progress(Progress(1, 2, "items"))
                    await self.release.wait()
                    self.recorded.append(verb.route)
                    return Answer("released")
                case Take():
                    self.recorded.append(await asyncio.to_thread(self._take, source, progress))
                    return Answer(self.recorded[-1])
                case Give():
                    if verb.fail_before:
                        raise NotFoundError("no such thing")
                    await asyncio.to_thread(self._give, verb, sink)
                    return Answer("given")
                case Tell():
                    return await self._tell(verb, tell)
                case Fail(how="integrity"):
                    raise IntegrityError("rotten", why="a flipped bit", mend=["rage chunk verify"])
                case Fail():
                    raise KeyError("a secret detail")
        except asyncio.CancelledError:
            self.cancelled.append(verb.route)
            raise
        except BaseException as error:
            self.errors.append(error)
            raise
        finally:
            self.ended.set()

    async def _tell(self, verb: Tell, tell: Callable[[Told], None]) -> Heard:
        def work() -> None:
            for number in range(verb.count):
                tell(Told(number, "x" * verb.size))

        await asyncio.to_thread(work)
        self.told.set()
        if verb.hold:
            await self.release.wait()
            tell(Told(verb.count))
        if verb.fail:
            raise IntegrityError("rotten after items")
        return Heard(verb.count, 0)

    def _take(self, source: Any, progress: Callable[[Progress], None]) -> str:
        try:
            return self._take_all(source, progress)
        finally:
            self.thread_ended.set()

    def _take_all(self, source: Any, progress: Callable[[Progress], None]) -> str:
        buffer, total = bytearray(100_000), 0
        seen = bytearray()
        while size := source.readinto(buffer):
            self.pause.wait(TIMEOUT_S)
            seen += buffer[:size]
            total += size
            self.read = total
            progress(Progress(total))
        return f"{total}:{'same' if bytes(seen) == pattern(total)[:total] else 'different'}"

    def _give(self, verb: Give, sink: Any) -> None:
        data = pattern(verb.size)[: verb.size]
        sink.begin(verb.size if verb.promise is None else verb.promise)
        for at in range(0, verb.size, verb.block):
            if verb.fail_after is not None and at >= verb.fail_after:
                raise IntegrityError("rotten midway")
            sink.write(memoryview(data)[at : at + verb.block])


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


Serve = Callable[..., AbstractAsyncContextManager[Control]]


@pytest.fixture
def serve(engine: FakeEngine, tmp_path: Path) -> Serve:
    """`async with serve(**settings) as control`: the control API on a socket in a directory of this test."""

    @asynccontextmanager
    async def start(**settings: Any) -> AsyncIterator[Control]:
        path = settings.pop("path", tmp_path / "node.sock")
        settings.setdefault("metrics", Metrics())
        async with Control(engine, VERBS, path, random=random.Random(7), **settings) as control:
            try:
                yield control
            finally:
                engine.release.set()
                engine.pause.set()

    return start


@asynccontextmanager
async def client(path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(
        "http://node", connector=aiohttp.UnixConnector(str(path)), timeout=timeout
    ) as session:
        yield session


def raw_request(route: str, body: bytes = b"", *, length: int | None = None, method: str = "POST") -> bytes:
    size = len(body) if length is None else length
    return f"{method} /v1/{route} HTTP/1.1\r\nHost: node\r\nContent-Length: {size}\r\n\r\n".encode() + body
