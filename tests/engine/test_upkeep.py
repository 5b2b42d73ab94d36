"""Whole engines that keep what they hold whole: the scrub finds, reading repairs, healing fetches from who is known."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from rage_lab.sim.node import Node
from rage_lab.sim.world import World, play
from rage_net import upkeep
from rage_net.chunk import replicas
from rage_net.cid import Cid
from rage_net.errors import IntegrityError, NotFoundError
from rage_net.lifetime import running
from rage_net.verbs.node import ShowStatus

SETTLE_S = 20.0

Play = Callable[[Callable[[World], Awaitable[Any]]], Any]


@pytest.fixture
def run(rng: random.Random, tmp_path: Path) -> Play:
    seed = rng.getrandbits(32)
    return lambda scenario: play(scenario, seed, tmp_path).result


def files(node: Node) -> list[Path]:
    return sorted(path for path in node.home.store.rglob("baf*") if path.parent.name != "quarantine")


def flip(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


async def two(world: World, **flags: Any) -> tuple[Node, Node, str, bytes]:
    """Alpha has put a document; beta has fetched and pinned it."""
    alpha = await world.node("alpha", flags=flags)
    beta = await world.node("beta", bootstrap=[alpha], flags=flags)
    await asyncio.sleep(SETTLE_S)
    data = world.random.randbytes(400_000)
    root = await alpha.put(data)
    await beta.get(root, alpha)
    await beta.pin(root)
    return alpha, beta, root, data


def assert_whole(node: Node) -> None:
    store = node.engine.store
    assert replicas.missing(store) == []
    for stat in store.list():
        store.get(stat.cid)
        assert not stat.cached


def test_what_is_rotten_is_read_from_a_peer_and_durable_again(run: Play) -> None:
    async def scenario(world: World) -> None:
        _, beta, root, data = await two(world)
        spoilt = world.random.sample(files(beta), 3)
        for path in spoilt:
            flip(path, world.random)
        got = await beta.get(root)
        assert got.data == data and got.sources["p2p"] == 3
        assert_whole(beta)
        assert beta.engine.metrics.rot.read() == {("read",): [3.0]}

    run(scenario)


def test_what_was_lost_before_comes_durable_with_the_next_download(run: Play) -> None:
    async def scenario(world: World) -> None:
        _, beta, root, data = await two(world)
        for path in files(beta)[:2]:
            beta.engine.store.condemn(Cid.parse(path.name))
        assert len(replicas.missing(beta.engine.store)) == 2
        assert (await beta.get(root)).data == data
        assert_whole(beta)

    run(scenario)


def test_the_scrub_finds_and_healing_brings_back(run: Play) -> None:
    async def scenario(world: World) -> None:
        _, beta, _, _ = await two(world, **{"network.store.scrub": "10m"})
        engine = beta.engine
        status = await beta.run(ShowStatus())
        assert status.scrub.ended_at == 0 and status.scrub.progress == 0
        paths = files(beta)
        flip(paths[0], world.random)
        paths[1].unlink()
        paths[2].write_bytes(paths[2].read_bytes()[:100])
        async with running(upkeep.jobs(engine, upkeep.healing_of(engine))):
            await asyncio.sleep(14 * 60)
            status = await beta.run(ShowStatus())
            assert status.scrub.ended_at > 0
            assert engine.metrics.rot.read() == {("scrub",): [3.0]}
            assert engine.metrics.healing.read() == {("healed",): [3.0]}
            assert engine.metrics.scrub_bytes.read()[()][0] > 300_000
            assert_whole(beta)
            assert len(files(beta)) == len(paths)

    run(scenario)


def test_without_a_period_nothing_is_scrubbed(run: Play) -> None:
    async def scenario(world: World) -> None:
        alpha = await world.node("alpha", flags={"network.store.scrub": "0"})
        jobs = upkeep.jobs(alpha.engine, upkeep.healing_of(alpha.engine))
        assert len(jobs) == 1
        for job in jobs:
            job.close()
        assert (await alpha.run(ShowStatus())).scrub is None

    run(scenario)


def test_a_chunk_is_found_by_the_root_of_what_holds_it(run: Play) -> None:
    """The DHT knows providers of roots alone, and who provides this one is no neighbour of who lost a part."""

    async def scenario(world: World) -> None:
        hub = await world.node("hub")
        alpha, beta = [await world.node(name, bootstrap=[hub]) for name in ("alpha", "beta")]
        await asyncio.sleep(SETTLE_S)
        data = world.random.randbytes(300_000)
        root = await alpha.put(data)
        await beta.get(root, alpha)
        await beta.pin(root)
        await world.leave(beta)
        await world.join(beta)
        await asyncio.sleep(SETTLE_S)
        lost = next(Cid.parse(path.name) for path in files(beta) if path.name != root)
        beta.engine.store.condemn(lost)
        for connection in beta.online.swarm.connections():
            if str(connection.peer_id) == alpha.peer_id:
                await beta.do(connection.close())
        assert alpha.peer_id not in beta.peers()
        fetched = await beta.do(upkeep.fetch(beta.engine, lost))
        assert lost.matches(fetched)
        assert not beta.engine.store.stat(lost).cached, "the pin holds it"

    run(scenario)


def test_what_nobody_has_is_lost_for_now_and_the_node_stays_up(run: Play) -> None:
    async def scenario(world: World) -> None:
        alpha, beta, _, _ = await two(world)
        await world.leave(alpha)
        path = files(beta)[0]
        flip(path, world.random)
        healing = upkeep.healing_of(beta.engine)
        async with running(upkeep.jobs(beta.engine, healing)):
            with pytest.raises((IntegrityError, NotFoundError)):
                beta.engine.store.get(Cid.parse(path.name))
            await asyncio.sleep(300)
            assert beta.is_up and len(healing) == 1
            assert beta.engine.metrics.healing.read()[("failed",)][0] >= 2
            await world.join(alpha)
            await asyncio.sleep(1200)
            assert len(healing) == 0
        assert_whole(beta)

    run(scenario)
