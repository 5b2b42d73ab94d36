"""The rest of the bridge: what only threads can show."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rage_net.octets import ClientLeftError, RequestSource
from rage_net.operations import Operation, Operations


class Request:
    """As much of a request as a source needs."""

    def __init__(self) -> None:
        self.content: Any = asyncio.StreamReader()


@pytest.mark.anyio
async def test_octets_used_on_the_event_loop_are_a_mistake_and_no_deadlock() -> None:
    source = RequestSource(Request())  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="from a thread"):
        source.readinto(bytearray(1))


def test_octets_used_after_the_loop_has_closed_end_at_once() -> None:
    async def make() -> RequestSource:
        return RequestSource(Request())  # type: ignore[arg-type]

    source = asyncio.run(make())
    with pytest.raises(ClientLeftError):
        source.readinto(bytearray(1))


def test_the_table_keeps_what_came_last_within_its_bounds() -> None:
    table = Operations(kept_max=3, kept_bytes_max=100)
    for number in range(10):
        operation = Operation(str(number), "test/echo")
        table.add(operation)
        assert table.get(str(number)) is operation
        operation.finish(b"x" * (40 if number < 8 else 1000))
        table.finished(operation)
        assert table.get(str(number)) is operation  # the newest is kept, however large
    assert [number for number in range(10) if table.get(str(number))] == [9]
    assert table.running() == []
