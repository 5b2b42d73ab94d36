"""`put --wait`: it returns with proof, of a node and of a command alone, and says what there is when there is less."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from rage_lab.sim.node import Given
from rage_lab.sim.organizations import Organization
from rage_lab.sim.world import World, play
from rage_net.cid import Cid
from rage_net.errors import DeadlineError, UnavailableError
from rage_net.verbs.chunk import PutChunk
from tests.engine.replicating import Play, blocks, cluster, command, data, durable, is_held


@pytest.fixture
def run(rng: random.Random, tmp_path: Path) -> Play:
    """Play a scenario once; a failure names its seed."""
    seed = rng.getrandbits(32)
    return lambda scenario: play(scenario, seed, tmp_path).result


def test_a_put_returns_when_so_many_have_proved_all_of_it(run: Play) -> None:
    async def scenario(world: World) -> None:
        nodes = await cluster(world, 4)
        for wait in (1, 2, 3):
            put = PutChunk(f"report {wait}", visibility="org", wait=wait, wait_s=60.0)
            found = await nodes[wait].run(put, source=Given(data(world.random)))
            names = {node.name for node in nodes if node.peer_id in found.replicas}
            assert len(names) >= wait
            assert found.wanted == 3
            for cid in blocks(nodes[wait], found.root):
                assert len(durable([node for node in nodes if node.name in names], cid)) >= wait

    run(scenario)


def test_a_node_that_stands_still_keeps_no_put_waiting_that_others_have_proved(run: Play) -> None:
    async def scenario(world: World) -> None:
        nodes = await cluster(world, 3)
        world.stall(nodes[2], 60.0)
        began = world.now
        found = await nodes[0].run(
            PutChunk("report", visibility="org", wait=2, wait_s=25.0), source=Given(data(world.random))
        )
        assert world.now - began < 25
        assert nodes[2].peer_id not in found.replicas

    run(scenario)


def test_a_put_for_more_than_placement_gives_says_so_and_is_stored(run: Play) -> None:
    async def scenario(world: World) -> None:
        nodes = await cluster(world, 3)
        with pytest.raises(UnavailableError) as short:
            await nodes[0].run(
                PutChunk("report", visibility="org", wait=4, wait_s=60.0), source=Given(data(world.random))
            )
        assert short.value.id == "replication-short"
        assert "stored" in short.value.message and "gives it 3" in short.value.message
        assert nodes[0].engine.documents.count() == 1

    run(scenario)


def test_a_put_whose_copies_are_not_proved_in_time_says_so_and_is_stored(run: Play) -> None:
    async def scenario(world: World) -> None:
        nodes = await cluster(world, 3)
        world.partition(nodes[:1])
        began = world.now
        with pytest.raises(DeadlineError) as late:
            await nodes[0].run(
                PutChunk("report", visibility="org", wait=3, wait_s=10.0), source=Given(data(world.random))
            )
        assert late.value.id == "copies-not-proved"
        assert world.now - began < 15
        root = nodes[0].engine.documents.list()[0][0].root
        cids = blocks(nodes[0], str(root))
        world.heal()
        await world.until(lambda: is_held(nodes, cids, 3), within_s=120, what="the others fetch it after all")

    run(scenario)


def test_a_command_alone_waits_for_proof_too(run: Play) -> None:
    """No node runs at its home: the command itself gives the bytes to those that placement names."""

    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        nodes = await cluster(world, 3, acme)
        async with command(world, acme, "laptop", nodes) as engine:
            found = await engine.run(
                PutChunk("report", visibility="org", wait=2, wait_s=60.0), source=Given(data(world.random))
            )
            cids = blocks_of(engine, found.root)
        assert len({node.name for node in nodes if node.peer_id in found.replicas}) >= 2
        assert is_held(nodes, cids, 2)
        got = await nodes[1].get("report")
        assert len(got.data) == 80_000

    run(scenario)


def test_a_command_alone_that_reaches_nobody_says_so(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        nodes = await cluster(world, 3, acme)
        world.partition(nodes)
        async with command(world, acme, "laptop", nodes) as engine:
            with pytest.raises((DeadlineError, UnavailableError)) as none:
                await engine.run(
                    PutChunk("report", visibility="org", wait=2, wait_s=20.0), source=Given(data(world.random))
                )
            assert none.value.id in ("copies-not-proved", "replication-short")
            assert engine.documents.count() == 1

    run(scenario)


def blocks_of(engine: object, root: str) -> list[Cid]:
    from rage_net.chunk import manifest

    return list(manifest.blocks(Cid.parse(root), engine.store.get))  # type: ignore[attr-defined]
