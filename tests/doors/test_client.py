"""Both ends of the control API at once: the command line's own client against the real server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from conftest_doors import (
    TIMEOUT_S,
    Answer,
    Change,
    Echo,
    Fail,
    FakeEngine,
    Give,
    Serve,
    Take,
    pattern,
)

from rage_cli.client import connect
from rage_net.errors import IntegrityError, NotFoundError, RageError
from rage_net.verbs import Progress, Verb

pytestmark = pytest.mark.anyio


class Bytes:
    """A source of so many bytes; it may break off."""

    def __init__(self, size: int, *, break_at: int | None = None) -> None:
        self._data, self._at, self._break_at = pattern(size)[:size], 0, break_at

    def readinto(self, buffer: Any) -> int:
        if self._break_at is not None and self._at >= self._break_at:
            raise OSError("the disk is gone")
        part = self._data[self._at : self._at + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


class Collected:
    def __init__(self) -> None:
        self.size: int | None = None
        self.data = bytearray()

    def begin(self, size: int) -> None:
        self.size = size

    def write(self, data: Any) -> None:
        self.data += data


async def run(path: Path, *verbs: Verb[Any], **octets: Any) -> list[Any]:
    """The results of these verbs, one connection each, as a command would ask."""

    def ask() -> list[Any]:
        results = []
        for verb in verbs:
            node = connect(path, TIMEOUT_S)
            assert node is not None
            with node:
                results.append(node.run(verb, **octets))
        return results

    return await asyncio.to_thread(ask)


async def test_a_result_is_the_same_dataclass_at_both_ends(serve: Serve) -> None:
    async with serve() as control:
        assert await run(control.path, Echo("hé\u0000 \U0001f600", times=3)) == [Answer("hé\u0000 \U0001f600")]


@pytest.mark.parametrize("size", [0, 1, 1 << 20, 9_999_999])
async def test_octets_pass_both_ways(serve: Serve, engine: FakeEngine, size: int) -> None:
    async with serve() as control:
        assert await run(control.path, Take("n"), source=Bytes(size)) == [Answer(f"{size}:same")]
        sink = Collected()
        assert await run(control.path, Give(size), sink=sink) == [Answer("given")]
        assert (sink.size, bytes(sink.data) == pattern(size)[:size]) == (size, True)


async def test_progress_reaches_the_command(serve: Serve, engine: FakeEngine) -> None:
    seen: list[Progress] = []
    async with serve() as control:
        loop = asyncio.get_running_loop()

        def note(progress: Progress) -> None:
            seen.append(progress)
            loop.call_soon_threadsafe(engine.release.set)

        assert await run(control.path, Change(), progress=note) == [Answer("released")]
    assert seen == [Progress(1, 2, "items")]


async def test_an_error_is_the_same_class_with_the_same_words(serve: Serve) -> None:
    async with serve() as control:
        with pytest.raises(IntegrityError, match="rotten") as caught:
            await run(control.path, Fail("integrity"))
        assert (caught.value.why, caught.value.mend) == ("a flipped bit", ("rage chunk verify",))
        with pytest.raises(RageError) as caught_bug:
            await run(control.path, Fail())
        assert (caught_bug.value.id, caught_bug.value.exit_code) == ("bug", 1)
        with pytest.raises(NotFoundError):
            await run(control.path, Give(10, fail_before=True), sink=Collected())


async def test_an_error_amid_octets_is_told_as_what_it_was(serve: Serve) -> None:
    async with serve() as control:
        with pytest.raises(IntegrityError, match="rotten midway"):
            await run(control.path, Give(5_000_000, fail_after=1_000_000), sink=Collected())


async def test_a_source_that_breaks_off_records_nothing(serve: Serve, engine: FakeEngine) -> None:
    async with serve() as control:
        with pytest.raises(OSError, match="the disk is gone"):
            await run(control.path, Take("n"), source=Bytes(5_000_000, break_at=2_000_000))
        await asyncio.wait_for(engine.ended.wait(), TIMEOUT_S)
    assert engine.recorded == []


async def test_a_put_that_fails_early_is_told_while_octets_are_still_being_sent(
    serve: Serve, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Any, progress: Any) -> str:
        source.readinto(bytearray(10))
        raise IntegrityError("refused after ten octets")

    monkeypatch.setattr(engine, "_take", full)
    async with serve() as control:
        for _ in range(5):
            with pytest.raises(IntegrityError, match="refused after ten octets"):
                await run(control.path, Take("n"), source=Bytes(50_000_000))
