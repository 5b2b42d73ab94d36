"""Lanes of a node: bytes wait for theirs, in both directions, and what waits too long is told to go elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from rage_net.acl import Rules
from rage_net.bandwidth import Bandwidth
from rage_net.errors import NotFoundError, UnavailableError
from rage_net.messages import Traffic
from rage_net.metrics import Metrics
from rage_net.pacing import QUEUE_S, Pacing
from rage_net.services.exchange import Exchange
from tests.services.conftest import Peer, World
from tests.services.test_access import ACME, certify

pytestmark = pytest.mark.anyio

RATE = 1e6
"""Bytes a second: a quarter of a megabyte takes a quarter of a second, which no machine does by itself."""


def limit(peer: Peer, *, upload: float | None = None, download: float | None = None) -> None:
    """Give a peer lanes."""
    clock = asyncio.get_running_loop().time
    pacing = Pacing(clock, peer.metrics, Bandwidth(upload), Bandwidth(download))
    peer.exchange = Exchange(
        peer.store,
        peer.env,
        peer.exchange.gate.rules,
        peer.metrics,
        principal_of=peer.exchange._principal_of,
        pacing=pacing,
    )
    peer.answer(peer.exchange.serve)


async def until(look: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not look():
            await asyncio.sleep(0.01)


async def timed_fetch(reader: Peer, root, holder: Peer, **options) -> tuple[bytes, float]:  # type: ignore[no-untyped-def]
    loop = asyncio.get_running_loop()
    started = loop.time()
    data, _ = await reader.fetch(root, [holder], **options)
    return data, loop.time() - started


@pytest.mark.parametrize("side", ["upload", "download"])
async def test_a_download_goes_as_fast_as_the_limit_lets_it(world: World, side: str) -> None:
    holder, reader = await world.peer(), await world.peer()
    data = world.rng.randbytes(600_000)
    root = holder.put(data).root
    limited = holder if side == "upload" else reader
    limit(limited, **{side: RATE})
    got, seconds = await timed_fetch(reader, root, holder)
    assert got == data
    assert seconds >= 0.35, "a burst of a tenth of a second, and the rest at the rate"
    word = "sent" if side == "upload" else "received"
    assert limited.metrics.lane_bytes.read()["user_queries", word][0] >= 600_000
    assert limited.metrics.lane_waiting.read()[("user_queries",)][0] > 0.3


async def test_bytes_are_counted_by_lane_where_nothing_is_limited(world: World) -> None:
    holder, reader = await world.peer(rules=ACME), await world.peer(rules=ACME)
    who = certify(holder, reader)
    holder.principals[reader.swarm.peer_id] = replace(who, capabilities=frozenset({"storage"}))
    small, large = holder.put(b"x" * 100, "org", organization="acme"), world.rng.randbytes(60_000)
    root = holder.put(large, "org", organization="acme").root
    for traffic, asked in (("user", small.root), ("replication", root), ("background", small.root)):
        await reader.fetch(asked, [holder], traffic=traffic, local=False, cache=False)
    sent, received = holder.metrics.lane_bytes.read(), reader.metrics.lane_bytes.read()
    assert {lane for lane, _ in sent} == {"user_queries", "replication", "background_sync"}
    assert sent["replication", "sent"][0] >= 60_000
    assert {lane: size for (lane, _), size in sent.items()} == {lane: size for (lane, _), size in received.items()}
    assert holder.metrics.lane_waiting.read() == {}


async def test_readers_are_who_fetches_for_people_on_either_side_for_a_while(world: World) -> None:
    holder, reader = await world.peer(rules=ACME), await world.peer(rules=ACME)
    who = certify(holder, reader)
    holder.principals[reader.swarm.peer_id] = replace(who, capabilities=frozenset({"storage"}))
    root = holder.put(b"x" * 100, "org", organization="acme").root
    await reader.fetch(root, [holder], traffic="replication", local=False, cache=False)
    assert not holder.exchange.has_readers()
    assert not reader.exchange.has_readers()
    await reader.fetch(root, [holder], local=False, cache=False)
    assert holder.exchange.has_readers()
    assert reader.exchange.has_readers()


async def test_a_user_is_served_while_replication_has_more_than_the_rate(world: World) -> None:
    holder, replica, user = await world.peer(rules=ACME), await world.peer(rules=ACME), await world.peer(rules=ACME)
    holder.principals[replica.swarm.peer_id] = replace(certify(holder, replica), capabilities=frozenset({"storage"}))
    certify(holder, user)
    bulk = [holder.put(world.rng.randbytes(1_500_000), "org", organization="acme").root for _ in range(2)]
    wanted = holder.put(world.rng.randbytes(150_000), "org", organization="acme").root
    limit(holder, upload=RATE)
    async with asyncio.TaskGroup() as tasks:
        copies = [tasks.create_task(replica.fetch(root, [holder], traffic="replication")) for root in bulk]
        await until(holder.metrics.lane_waiting.read)
        _, seconds = await timed_fetch(user, wanted, holder)
        assert not any(copy.done() for copy in copies)
        for copy in copies:
            copy.cancel()
    assert seconds < 1.5, "0.15 s at the whole rate; behind all that waits it would have been two seconds"


async def test_who_finds_too_much_waiting_in_a_lane_is_told_to_come_back(world: World) -> None:
    holder, reader = await world.peer(), await world.peer()
    roots = [holder.put(world.rng.randbytes(4000)).root for _ in range(20)]
    limit(holder, upload=12_500.0)
    connection = await reader.connect(holder)
    asks = [asyncio.create_task(reader.exchange.fetch(connection, root)) for root in roots]
    done, waiting = await asyncio.wait(asks, return_when=asyncio.FIRST_EXCEPTION, timeout=10)
    with pytest.raises(UnavailableError):
        next(ask for ask in done if ask.exception()).result()
    await until(lambda: holder.metrics.shed.read()[("chunk_lane",)][0] >= 10)
    assert holder.exchange._upload._queued["user_queries"] <= QUEUE_S * 0.8 * 12_500
    for ask in waiting:
        ask.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await until(lambda: not holder.exchange._upload._queued["user_queries"])


async def test_what_was_taken_for_a_chunk_that_did_not_come_is_given_back(world: World) -> None:
    holder, reader = await world.peer(rules=Rules(public_to_strangers=False)), await world.peer()
    root = holder.put(b"not for you").root
    limit(reader, download=100_000.0)
    connection = await reader.connect(holder)
    loop = asyncio.get_running_loop()
    started = loop.time()
    for _ in range(20):
        with pytest.raises(NotFoundError):
            await reader.exchange.fetch(connection, root, 8000)
    assert loop.time() - started < 1, "they would have been 1.5 s of the rate"


async def test_who_is_cancelled_in_the_queue_leaves_nothing_behind() -> None:
    metrics = Metrics()
    bandwidth = Bandwidth(100_000.0)
    lanes = Pacing(asyncio.get_running_loop().time, metrics, bandwidth).upload
    await lanes.take("user_queries", 20_000)
    waiters = [asyncio.create_task(lanes.take("user_queries", 1 << 30)) for _ in range(3)]
    await asyncio.sleep(0)
    for waiter in waiters:
        waiter.cancel()
    await asyncio.gather(*waiters, return_exceptions=True)
    async with asyncio.timeout(1):
        await lanes.take("background_sync", 1000)


async def test_what_has_gone_already_is_made_up_for_but_not_for_long() -> None:
    loop = asyncio.get_running_loop()
    lanes = Pacing(loop.time, Metrics(), Bandwidth(100_000.0)).upload
    started = loop.time()
    await lanes.follow("background_sync", 1 << 30, 0.05)
    assert 0.04 <= loop.time() - started < 1


@pytest.mark.parametrize("traffic", ["user", "replication", "background"])
async def test_one_answer_always_finds_a_place(traffic: Traffic) -> None:
    lanes = Pacing(asyncio.get_running_loop().time, Metrics(), Bandwidth(12_500.0)).upload
    lane = {"user": "user_queries", "replication": "replication", "background": "background_sync"}[traffic]
    with lanes.queue(lane, 4 << 20) as first, lanes.queue(lane, 1) as second:  # type: ignore[arg-type]
        assert first and not second
    with lanes.queue(lane, 1) as third:  # type: ignore[arg-type]
        assert third
