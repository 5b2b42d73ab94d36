"""Where the exchange looks at the index: on the event loop while that is quick, a few times a turn, else in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from rage_net.chunk.encoding import decode
from rage_net.services import exchange
from tests.services.conftest import Peer, World

pytestmark = pytest.mark.anyio


async def _count_ways(holder: Peer, reader: Peer, monkeypatch: pytest.MonkeyPatch, requests: int) -> int:
    """How often the holder went to a thread to answer so many requests for small chunks, asked one by one."""
    roots = [holder.put(bytes((number,)) * 100).root for number in range(requests)]
    connection = await reader.connect(holder)
    ways = 0
    blocking = holder.env.blocking

    async def counted(fn: Callable[..., Any], *args: object) -> Any:
        nonlocal ways
        ways += 1
        return await blocking(fn, *args)

    monkeypatch.setattr(holder.env, "blocking", counted)
    for number, root in enumerate(roots):
        received = await reader.exchange.fetch(connection, root)
        assert received.header.size == 100, number
    return ways


async def test_quick_looks_need_no_thread(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "LOOK_S_MAX", 60.0)
    assert await _count_ways(await world.peer(), await world.peer(), monkeypatch, 5) == 0


async def test_after_slow_looks_threads_look(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "LOOK_S_MAX", -1.0)  # any look is slow
    monkeypatch.setattr(exchange, "SLOW_S", 60.0)
    assert await _count_ways(await world.peer(), await world.peer(), monkeypatch, 5) == 4


async def test_more_requests_than_one_turn_looks_for_are_all_answered(world: World) -> None:
    holder, reader = await world.peer(), await world.peer()
    roots = [holder.put(bytes((number,)) * 100).root for number in range(exchange.LOOKS_A_TURN * 5)]
    connection = await reader.connect(holder)
    async with asyncio.timeout(20):
        answers = await asyncio.gather(*(reader.exchange.fetch(connection, root) for root in roots))
    for root, answer in zip(roots, answers, strict=True):
        assert root.matches(decode(answer.header.encoding, b"".join(answer.buffers), answer.header.size))
