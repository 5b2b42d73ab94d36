"""Items of an engine in this process: a thread writes them, and a stuck one never holds up the engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from rage_cli import telling
from rage_cli.telling import run_telling
from rage_net.errors import IntegrityError
from rage_net.items import ITEMS_MAX

pytestmark = pytest.mark.anyio

TIMEOUT_S = 20.0


def nothing(_: int) -> None:
    pass


async def test_all_that_was_told_is_written_before_the_result_is_given() -> None:
    seen: list[int] = []

    async def work(tell: Callable[[Any], None]) -> str:
        for number in range(100):
            tell(number)
        await asyncio.to_thread(tell, 100)
        return "well"

    assert await run_telling(work, seen.append, nothing) == "well"
    assert seen == list(range(101))


async def test_an_item_is_written_while_the_work_goes_on() -> None:
    heard = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def work(tell: Callable[[Any], None]) -> str:
        tell(1)
        await asyncio.wait_for(heard.wait(), TIMEOUT_S)
        return "heard"

    assert await run_telling(work, lambda _: loop.call_soon_threadsafe(heard.set), nothing) == "heard"  # type: ignore[arg-type,return-value]


async def test_a_writer_that_fails_ends_the_work_and_its_error_is_the_one_raised() -> None:
    cleaned = []

    async def work(tell: Callable[[Any], None]) -> None:
        tell(1)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    def leave(_: Any) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        await asyncio.wait_for(run_telling(work, leave, nothing), TIMEOUT_S)
    assert cleaned == [True]


async def test_an_error_of_the_work_is_raised_after_what_was_told_before_it() -> None:
    seen: list[int] = []

    async def work(tell: Callable[[Any], None]) -> None:
        tell(1)
        raise IntegrityError("rotten")

    with pytest.raises(IntegrityError, match="rotten"):
        await run_telling(work, seen.append, nothing)
    assert seen == [1]


async def test_an_interruption_awaits_the_clean_up_and_writes_what_came() -> None:
    seen: list[str] = []
    began = asyncio.Event()

    async def work(tell: Callable[[Any], None]) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            tell("the last")

    running = asyncio.create_task(run_telling(work, seen.append, nothing))
    await asyncio.wait_for(began.wait(), TIMEOUT_S)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, TIMEOUT_S)
    assert seen == ["the last"]


async def test_a_stuck_writer_holds_up_neither_the_work_nor_its_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "LAST_ITEMS_S", 0.01)
    go = threading.Event()

    async def work(tell: Callable[[Any], None]) -> None:
        for number in range(10_000):
            tell(number)
        raise IntegrityError("rotten")

    try:
        with pytest.raises(IntegrityError):
            await asyncio.wait_for(run_telling(work, lambda _: go.wait(TIMEOUT_S), nothing), TIMEOUT_S)  # type: ignore[arg-type,return-value]
    finally:
        go.set()


async def test_a_slow_writer_is_told_how_many_it_missed() -> None:
    go = threading.Event()
    seen: list[int] = []
    dropped: list[int] = []

    def write(number: int) -> None:
        assert go.wait(TIMEOUT_S)
        seen.append(number)

    async def work(tell: Callable[[Any], None]) -> None:
        for number in range(5000):
            tell(number)
        go.set()

    await asyncio.wait_for(run_telling(work, write, dropped.append), TIMEOUT_S)
    assert len(seen) + sum(dropped) == 5000 and sum(dropped) >= 5000 - 2 * ITEMS_MAX
    assert seen[-1] == 4999 and seen == sorted(seen)
