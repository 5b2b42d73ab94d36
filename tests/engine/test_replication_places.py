"""Where copies are among whole nodes: regions, organisations, clocks, removal, pins, rot, and the metric of lag."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from rage_lab.nemesis import flip
from rage_lab.sim.world import World, play
from rage_net.chunk import replicas
from rage_net.verbs import replication as verbs
from rage_net.verbs.acl import GrantAcl, RevokeAcl
from rage_net.verbs.chunk import CollectGarbage, PinChunk, RemoveChunk
from rage_net.verbs.trust import AddTrust
from tests.engine.replicating import (
    Play,
    Ruled,
    blocks,
    cluster,
    data,
    durable,
    home,
    is_at_rest,
    is_held,
    lag,
    replication,
)

FAST = "  default_factor: 3\n  grace: 8s\n"
TWO = "  default_factor: 2\n  grace: 8s\n"


@pytest.fixture
def run(rng: random.Random, tmp_path: Path) -> Play:
    """Play a scenario once; a failure names its seed."""
    seed = rng.getrandbits(32)
    return lambda scenario: play(scenario, seed, tmp_path).result


def test_copies_are_in_distinct_regions_and_stay_three_when_one_vanishes(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Ruled("acme", world.seed, FAST)
        nodes = await cluster(world, 4, acme, regions=("us", "eu", "ap"))  # ap has one node
        root = await nodes[0].put(data(world.random), "report", "org")
        cids = blocks(nodes[0], root)
        region = {node.name: node.flags["network.region"] for node in nodes}
        await world.until(
            lambda: all({region[name] for name in durable(nodes, cid)} == {"eu", "us", "ap"} for cid in cids),
            within_s=60,
            what="each chunk is in each region",
        )
        (lost,) = [node for node in nodes if region[node.name] == "ap"]
        world.vanish(lost)
        rest = [node for node in nodes if node is not lost]
        await world.until(lambda: is_held(rest, cids, 3), within_s=150, what="three copies without the region")
        assert all({region[name] for name in durable(rest, cid)} == {"eu", "us"} for cid in cids)
        # each node comes by itself to see that one is out of reach; the coordinators of these chunks were first
        await world.until(
            lambda: lost.peer_id in map(str, replication(nodes[0]).view.unavailable), within_s=60, what="it is missed"
        )
        status = await nodes[0].run(verbs.ShowReplication())
        assert any(lost.peer_id in problem for problem in status.problems)

    run(scenario)


def test_all_nodes_in_one_region_are_places_like_others(run: Play) -> None:
    async def scenario(world: World) -> None:
        nodes = await cluster(world, 4, Ruled("acme", world.seed, FAST), regions=("eu",))
        root = await nodes[0].put(data(world.random), "report", "org")
        cids = blocks(nodes[0], root)
        await world.until(lambda: is_at_rest(nodes, cids, 3), within_s=120, what="at rest")
        found = await nodes[1].run(verbs.AuditReplication(prove=True))
        assert found.ok == found.checked == len(cids)

    run(scenario)


def test_a_clock_that_jumps_a_day_and_back_loses_nothing(run: Play) -> None:
    """The others may stop hearing that node, and stand in for it: copies too many for a while, never too few."""

    async def scenario(world: World) -> None:
        nodes = await cluster(world, 3, Ruled("acme", world.seed, TWO))
        root = await nodes[0].put(data(world.random), "report", "org")
        cids = blocks(nodes[0], root)
        await world.until(lambda: is_at_rest(nodes, cids, 2), within_s=120, what="at rest")
        before = [home(nodes[0], cid, nodes) for cid in cids]
        jumping = nodes[1].engine.env
        now = jumping.now
        for jump in (86_400.0, -86_400.0):
            jumping.now = lambda jump=jump: now() + jump  # type: ignore[method-assign, misc]
            await nodes[1].run(CollectGarbage())
            for _ in range(12):
                await asyncio.sleep(5)
                assert is_held(nodes, cids, 2)
        jumping.now = now  # type: ignore[method-assign]
        late = await nodes[2].put(data(world.random), "late", "org")
        cids += blocks(nodes[2], late)
        await world.until(lambda: is_at_rest(nodes, cids, 2), within_s=400, what="at rest again")
        assert [home(nodes[0], cid, nodes) for cid in cids][: len(before)] == before

    run(scenario)


def test_a_document_removed_everywhere_leaves_no_replica(run: Play) -> None:
    async def scenario(world: World) -> None:
        nodes = await cluster(world, 4, Ruled("acme", world.seed, FAST))
        root = await nodes[0].put(data(world.random), "report", "org")
        kept = await nodes[0].put(data(world.random), "kept", "org")
        cids, others = blocks(nodes[0], root), blocks(nodes[0], kept)
        await world.until(lambda: is_held(nodes, [*cids, *others], 3), within_s=60, what="three copies of both")
        away = nodes[3]
        await world.leave(away)
        await nodes[0].run(RemoveChunk("report", everywhere=True))
        await world.join(away)

        def is_gone() -> bool:
            return not any(
                node.engine.store.has(cid) or replication(node).inventory.find(cid) for node in nodes for cid in cids
            )

        await world.until(is_gone, within_s=120, what="nothing of it is left")
        assert not any(replicas.is_held(node.engine.store, cid) for node in nodes for cid in cids)
        assert is_held(nodes, others, 3)

    run(scenario)


def test_what_its_owner_removes_on_its_own_node_alone_stays_a_replica_there(run: Play) -> None:
    async def scenario(world: World) -> None:
        (node,) = await cluster(world, 1, Ruled("acme", world.seed, "  default_factor: 1\n"))
        root = await node.put(data(world.random), "report", "org")
        cids = blocks(node, root)
        await world.until(
            lambda: all(replicas.is_held(node.engine.store, cid) for cid in cids),
            within_s=30,
            what="it is a replica, too",
        )
        await node.run(RemoveChunk("report"))
        await node.run(CollectGarbage(grace_s=0.0))
        assert all(node.engine.store.has(cid) for cid in cids)

    run(scenario)


def test_a_pinned_document_is_never_dropped_though_it_belongs_elsewhere(run: Play) -> None:
    async def scenario(world: World) -> None:
        nodes = await cluster(world, 3, Ruled("acme", world.seed, "  default_factor: 1\n  grace: 8s\n"))
        root = await nodes[0].put(data(world.random), "report", "org")
        cids = blocks(nodes[0], root)
        await nodes[0].run(PinChunk(root))
        await world.until(
            lambda: all(home(nodes[0], cid, nodes) <= durable(nodes, cid) for cid in cids),
            within_s=60,
            what="all is at home",
        )
        await asyncio.sleep(120)
        assert all(nodes[0].name in durable(nodes, cid) for cid in cids)
        assert any(home(nodes[0], cid, nodes) != {nodes[0].name} for cid in cids)

    run(scenario)


def test_a_granted_right_to_replicate_makes_another_organisation_hold_and_its_end_lets_go(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme, globex = Ruled("acme", world.seed, TWO), Ruled("globex", world.seed + 1, TWO)
        ours = await cluster(world, 2, acme)
        theirs = await cluster(world, 1, globex, prefix="g", known=ours)
        await ours[0].run(AddTrust("globex", ca=globex.pem, scopes=("chunks", "sync")))
        await theirs[0].run(AddTrust("acme", ca=acme.pem, scopes=("chunks", "sync")))
        await theirs[0].connect(ours[0])
        root = await ours[0].put(data(world.random, 200_000), "report", "org")
        cids = blocks(ours[0], root)
        await world.until(lambda: is_at_rest(ours, cids, 2), within_s=90, what="at rest among ours")
        await ours[0].run(GrantAcl("report", "org:globex", "replicate"))

        def is_shared() -> bool:
            named = [cid for cid in cids if theirs[0].name in home(ours[0], cid, [*ours, *theirs])]
            return bool(named) and all(theirs[0].name in durable(theirs, cid) for cid in named)

        await world.until(is_shared, within_s=180, what="globex holds its share")
        await ours[0].run(RevokeAcl("report", "org:globex", "replicate"))
        await world.until(lambda: not any(durable(theirs, cid) for cid in cids), within_s=180, what="globex has let go")
        await world.until(lambda: is_held(ours, cids, 2), within_s=180, what="ours hold all of it")

    run(scenario)


def test_rot_on_a_replica_is_healed(run: Play) -> None:
    async def scenario(world: World) -> None:
        nodes = await cluster(world, 3, Ruled("acme", world.seed, TWO))
        root = await nodes[0].put(data(world.random), "report", "org")
        cids = blocks(nodes[0], root)
        await world.until(lambda: is_at_rest(nodes, cids, 2), within_s=120, what="at rest")
        files = {node: {path.name: path for path in node.home.store.glob("??/*")} for node in nodes}
        replicas_of = {node: [cid for cid in cids if node.name in durable(nodes, cid)] for node in nodes}
        # small chunks lie in the index instead
        victim = next(node for node in nodes if any(str(cid) in files[node] for cid in replicas_of[node]))
        hit = [cid for cid in replicas_of[victim] if str(cid) in files[victim]]
        for cid in hit:
            flip(files[victim][str(cid)], world.random)
        found = await nodes[0].run(verbs.AuditReplication(prove=True))
        assert found.under + found.unproven

        def is_whole() -> bool:
            for cid in hit:
                try:
                    victim.engine.store.get(cid)
                except Exception:
                    return False
            return victim.name in set.intersection(*(durable(nodes, cid) for cid in hit))

        await world.until(is_whole, within_s=120, what="all of it is back")
        found = await nodes[0].run(verbs.AuditReplication(prove=True))
        assert found.ok == found.checked

    run(scenario)


def test_the_lag_of_a_node_grows_while_it_owes_and_ends_when_it_has_proved(run: Play) -> None:
    async def scenario(world: World) -> None:
        nodes = await cluster(world, 2, Ruled("acme", world.seed, "  default_factor: 2\n  grace: 10m\n"))
        stalled = nodes[1]
        world.partition([stalled])
        root = await nodes[0].put(data(world.random, 200_000), "report", "org")
        cids = blocks(nodes[0], root)  # some begin at this node
        await asyncio.sleep(90)
        assert 30 < lag(nodes[0], stalled) < 95
        assert f'target_peer="{stalled.peer_id}"' in nodes[0].engine.metrics.render()[0].decode()
        status = await nodes[0].run(verbs.ShowReplication())
        assert any(row.lag_s > 30 for row in status.nodes if row.peer_id == stalled.peer_id)
        world.heal()
        await world.until(lambda: is_held(nodes, cids, 2), within_s=120, what="it has fetched them")
        await world.until(lambda: lag(nodes[0], stalled) == 0, within_s=90, what="it lags no more")

    run(scenario)
