# ruff: noqa: SIM117
"""What a verb tells while it runs: over a real socket, to readers that are quick, slow, and gone."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
from conftest_doors import TIMEOUT_S, Echo, FakeEngine, Heard, Serve, Tell, Told, client, raw_request

from rage_cli.client import connect
from rage_net import control as control_module
from rage_net import items as items_module
from rage_net.errors import IntegrityError, UnavailableError
from rage_net.items import Items
from rage_net.verbs import encode

pytestmark = pytest.mark.anyio


def queue(**limits: int) -> tuple[Items[str], list[int]]:
    woken: list[int] = []
    return Items(lambda: woken.append(1), **limits), woken


def test_a_queue_gives_items_in_order_and_wakes_its_reader_once_for_many() -> None:
    items, woken = queue()
    for word in "abc":
        items.put(word, 1)
    assert len(woken) == 1
    assert items.take() == (0, ["a", "b", "c"])
    assert items.take() == (0, [])
    items.put("d", 1)
    assert len(woken) == 2


def test_a_full_queue_drops_the_oldest_and_says_how_many_once() -> None:
    items, _ = queue(items_max=3)
    for word in "abcdefg":
        items.put(word, 1)
    assert items.take() == (4, ["e", "f", "g"])
    items.put("h", 1)
    assert items.take() == (0, ["h"])
    assert items.dropped_total == 4


def test_a_queue_is_bounded_by_bytes_too_and_keeps_what_is_larger_than_it_alone() -> None:
    items, _ = queue(bytes_max=10)
    for word, size in (("a", 4), ("b", 4), ("c", 4), ("huge", 50)):
        items.put(word, size)
    assert items.take() == (3, ["huge"])
    items.put("d", 9)
    assert items.take() == (0, ["d"])  # what was taken counts no more


def test_a_part_of_a_queue_is_taken_by_bytes_one_item_at_least() -> None:
    items, _ = queue()
    for word in ("aaa", "bb", "c"):
        items.put(word, len(word))
    assert items.take(1) == (0, ["aaa"])
    assert items.take(3) == (0, ["bb", "c"])
    assert items.take(3) == (0, [])


def test_a_closed_queue_holds_nothing() -> None:
    items, woken = queue()
    items.put("a", 1)
    items.close()
    items.put("b", 1)
    assert items.take() == (0, []) and len(woken) == 1


def test_a_queue_that_threads_fill_while_another_empties_it_loses_nothing_uncounted() -> None:
    more, over = threading.Event(), threading.Event()
    items: Items[int] = Items(more.set, items_max=50)
    seen, dropped = [], 0

    def put() -> None:
        for number in range(5000):
            items.put(number, 1)

    threads = [threading.Thread(target=put) for _ in range(4)]

    def finish() -> None:
        for thread in threads:
            thread.join()
        over.set()
        more.set()

    for thread in (*threads, threading.Thread(target=finish)):
        thread.start()
    while True:
        assert more.wait(TIMEOUT_S)
        more.clear()
        is_last = over.is_set()
        lost, taken = items.take()
        dropped += lost
        seen += taken
        if is_last:
            break
    assert len(seen) + dropped == 20_000 and dropped == items.dropped_total


async def lines_of(response: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (await response.read()).splitlines()]


async def test_items_come_before_the_result_in_order(serve: Serve) -> None:
    async with serve() as control, client(control.path) as session:
        async with session.post("/v1/test/tell", json={"count": 3}) as response:
            assert await lines_of(response) == [
                *({"type": "item", "item": {"number": number, "text": ""}} for number in range(3)),
                {"type": "result", "result": {"items": 3, "dropped": 0}},
            ]


async def test_an_item_is_sent_as_it_comes_and_not_at_the_pace_of_progress(
    serve: Serve, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_module, "PROGRESS_EVERY_S", 1000.0)
    async with serve() as control, client(control.path) as session:
        async with session.post("/v1/test/tell", json={"count": 1, "hold": True}) as response:
            first = await asyncio.wait_for(response.content.readline(), TIMEOUT_S)
            assert json.loads(first) == {"type": "item", "item": {"number": 0, "text": ""}}
            assert not engine.ended.is_set()
            engine.release.set()
            assert [line["type"] for line in await asyncio.wait_for(lines_of(response), TIMEOUT_S)] == [
                "item",
                "result",
            ]


async def test_an_error_after_items_is_told_after_them(serve: Serve) -> None:
    async with serve() as control, client(control.path) as session:
        async with session.post("/v1/test/tell", json={"count": 2, "fail": True}) as response:
            assert response.status == 200
            lines = await lines_of(response)
            assert [line["type"] for line in lines] == ["item", "item", "error"]
            assert lines[-1]["code"] == "integrity"


async def test_an_error_without_items_has_its_own_status(serve: Serve) -> None:
    async with serve() as control, client(control.path) as session:
        async with session.post("/v1/test/tell", json={"count": 0, "fail": True}) as response:
            assert response.status == 422


async def test_a_reader_that_is_too_slow_gets_the_newest_and_is_told_how_many_are_missing(
    serve: Serve, engine: FakeEngine
) -> None:
    """It reads nothing while 40 MB are told: the node keeps its queue, a batch and the kernel's buffers."""
    count, size = 4000, 10_000
    async with serve() as control:
        reader, writer = await asyncio.open_unix_connection(str(control.path), limit=4096)
        body = json.dumps({"count": count, "size": size}).encode()
        writer.write(raw_request("test/tell", body).replace(b"Host: node", b"Host: node\r\nConnection: close"))
        await asyncio.wait_for(engine.told.wait(), TIMEOUT_S)
        answer = (await asyncio.wait_for(reader.read(), TIMEOUT_S)).partition(b"\r\n\r\n")[2]
        writer.close()
    lines = [json.loads(line) for line in unchunked(answer).splitlines()]
    numbers = [line["item"]["number"] for line in lines if line["type"] == "item"]
    dropped = sum(line["count"] for line in lines if line["type"] == "dropped")
    assert lines[-1] == {"type": "result", "result": {"items": count, "dropped": dropped}}
    assert dropped > 0 and len(numbers) + dropped == count
    assert numbers == sorted(set(numbers)) and numbers[-1] == count - 1
    assert len(numbers) * size < items_module.ITEMS_BYTES_MAX + 4 * control_module.ITEMS_BYTES
    at = 0  # each gap is as long as the line before it says
    for line in lines[:-1]:
        at += line["count"] if line["type"] == "dropped" else 0
        if line["type"] == "item":
            assert line["item"]["number"] == at
            at += 1


def unchunked(body: bytes) -> bytes:
    out, rest = bytearray(), body
    while rest:
        head, _, rest = rest.partition(b"\r\n")
        size = int(head, 16)
        out += rest[:size]
        rest = rest[size + 2 :]
        if not size:
            break
    return bytes(out)


async def test_a_reader_that_leaves_ends_the_verb(serve: Serve, engine: FakeEngine) -> None:
    async with serve() as control:
        reader, writer = await asyncio.open_unix_connection(str(control.path))
        writer.write(raw_request("test/tell", b'{"count": 2, "hold": true}'))
        await reader.readuntil(b'"number":1')
        writer.transport.abort()
        await asyncio.wait_for(engine.ended.wait(), TIMEOUT_S)
    assert engine.cancelled == ["test/tell"]


async def test_what_a_reader_that_left_did_not_take_is_not_kept(serve: Serve, engine: FakeEngine) -> None:
    async with serve() as control:
        reader, writer = await asyncio.open_unix_connection(str(control.path), limit=1024)
        writer.write(raw_request("test/tell", b'{"count": 1000, "size": 10000, "hold": true}'))
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.wait_for(engine.told.wait(), TIMEOUT_S)
        (operation,) = control._operations.running()
        writer.transport.abort()
        await asyncio.wait_for(engine.ended.wait(), TIMEOUT_S)
        while control._listener.connections():
            await asyncio.sleep(0)
        assert control._operations.get(operation.id) is operation
        assert operation.items.take() == (0, [])


async def test_a_reader_that_reads_nothing_is_given_up(serve: Serve, engine: FakeEngine) -> None:
    async with serve(stall_s=0.05) as control:
        _, writer = await asyncio.open_unix_connection(str(control.path), limit=1024)
        writer.write(raw_request("test/tell", b'{"count": 1000, "size": 10000, "hold": true}'))
        await asyncio.wait_for(engine.ended.wait(), TIMEOUT_S)
        writer.transport.abort()
    assert engine.cancelled == ["test/tell"]


async def run(path: Any, verb: Any, **more: Any) -> Any:
    def ask() -> Any:
        node = connect(path, TIMEOUT_S)
        assert node is not None
        with node:
            return node.run(verb, **more)

    return await asyncio.to_thread(ask)


async def test_items_are_the_same_dataclass_at_both_ends(serve: Serve) -> None:
    seen: list[Told] = []
    async with serve() as control:
        assert await run(control.path, Tell(5, 3), on_item=seen.append) == Heard(5, 0)
        assert await run(control.path, Tell(2)) == Heard(2, 0)  # to nobody
        assert (await run(control.path, Echo("still"))).text == "still"
    assert seen == [Told(number, "xxx") for number in range(5)]


async def test_the_command_hears_an_item_while_the_verb_still_runs(serve: Serve, engine: FakeEngine) -> None:
    seen: list[Told] = []
    async with serve() as control:
        loop = asyncio.get_running_loop()

        def note(item: Told) -> None:
            seen.append(item)
            loop.call_soon_threadsafe(engine.release.set)

        assert await run(control.path, Tell(1, hold=True), on_item=note) == Heard(1, 0)
    assert seen == [Told(0), Told(1)]


async def test_an_error_after_items_is_the_same_class_at_both_ends(serve: Serve) -> None:
    seen: list[Told] = []
    async with serve() as control:
        with pytest.raises(IntegrityError, match="rotten after items"):
            await run(control.path, Tell(2, fail=True), on_item=seen.append)
    assert len(seen) == 2


async def test_a_command_that_is_too_slow_is_told_where_the_gaps_are(serve: Serve, engine: FakeEngine) -> None:
    told: list[Any] = []
    go = threading.Event()

    def note(item: Told) -> None:
        assert go.wait(TIMEOUT_S)
        told.append(item.number)

    async with serve() as control:
        running = asyncio.create_task(
            run(control.path, Tell(4000, 10_000), on_item=note, on_dropped=lambda count: told.append(-count))
        )
        await asyncio.wait_for(engine.told.wait(), TIMEOUT_S)
        go.set()
        result = await asyncio.wait_for(running, TIMEOUT_S)
    gaps = [-value for value in told if value < 0]
    assert gaps and result.dropped == sum(gaps)
    assert told[-1] == 3999


async def test_what_is_no_item_of_the_verb_is_another_version(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve() as control:
        monkeypatch.setattr(Tell, "item", Heard)
        with pytest.raises(UnavailableError, match="another version"):
            await run(control.path, Tell(1), on_item=lambda item: None)


async def test_what_a_command_raises_at_an_item_leaves_the_node_and_ends_the_verb(
    serve: Serve, engine: FakeEngine
) -> None:
    def refuse(item: Told) -> None:
        raise BrokenPipeError

    async with serve() as control:
        with pytest.raises(BrokenPipeError):
            await run(control.path, Tell(1, hold=True), on_item=refuse)
        await asyncio.wait_for(engine.ended.wait(), TIMEOUT_S)
    assert engine.cancelled == ["test/tell"]


def test_every_verb_with_items_names_a_dataclass() -> None:
    from rage_net.verbs import registry

    routes = {route for route, verb in registry().items() if verb.item is not None}
    assert routes == {"peer/discover", "dht/trace", "topic/tail"}
    for route in routes:
        item = registry()[route].item
        assert item is not None and encode(item.__dataclass_fields__)
