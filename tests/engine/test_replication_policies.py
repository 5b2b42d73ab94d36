"""Policies among whole nodes: measured by use, told apart where files differ, never more copies than nodes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from rage_lab.sim.node import Node
from rage_lab.sim.world import World, play
from rage_net.cid import Cid
from rage_net.replication.usage import HALF_LIFE_S
from rage_net.verbs import replication as verbs
from tests.engine.replicating import Play, Ruled, blocks, cluster, data, is_at_rest, is_held, replication

TOLD_S = 75.0
"""A report every 30 s, a round of records every 30 s, and a fact on its way."""
BUSY = """\
  default_factor: 2
  grace: 8s
  policies:
    - {name: busy, factor: 3, selector: {query_count: "> 20/day"}}
"""
QUIET = "  default_factor: 2\n  grace: 8s\n"


@pytest.fixture
def run(rng: random.Random, tmp_path: Path) -> Play:
    """Play a scenario once; a failure names its seed."""
    seed = rng.getrandbits(32)
    return lambda scenario: play(scenario, seed, tmp_path).result


def policies(nodes: Sequence[Node], cid: Cid) -> set[tuple[str, int]]:
    """By which policy each node has a chunk."""
    items = [replication(node).inventory.find(cid) for node in nodes]
    return {(item.policy, item.factor) for item in items if item is not None}


def test_a_document_that_is_asked_for_often_comes_under_its_policy_on_all_nodes_and_leaves_it(run: Play) -> None:
    async def scenario(world: World) -> None:
        nodes = await cluster(world, 3, Ruled("acme", world.seed, BUSY))
        root = await nodes[0].put(data(world.random), "report", "org")
        cids = blocks(nodes[0], root)
        await world.until(lambda: is_held(nodes, cids, 2), within_s=60, what="two copies")
        assert policies(nodes, cids[0]) == {("default", 2)}
        for _ in range(11):  # at another node than the owner's: 11 uses tell 15 a day, below the mark of 40
            await nodes[1].get("report")
        await asyncio.sleep(TOLD_S)
        assert policies(nodes, cids[0]) == {("default", 2)}
        for node in nodes[1:]:
            for _ in range(12):
                await node.get("report")
        await world.until(
            lambda: policies(nodes, cids[0]) == {("busy", 3)}, within_s=TOLD_S, what="all know that it is busy"
        )
        shown = await nodes[2].run(verbs.TestPolicy("report"))
        assert (shown.policy, shown.factor) == ("busy", 3)
        assert shown.per_day > 40
        await world.until(lambda: is_held(nodes, cids, 3), within_s=120, what="three copies")

        for node in nodes:  # as if nobody had asked for two days: 50 a day are 3, below the mark of 10
            replication(node).usage._rates = {
                doc_id: (rate, at - 4 * HALF_LIFE_S) for doc_id, (rate, at) in replication(node).usage._rates.items()
            }
        await asyncio.sleep(TOLD_S)
        assert policies(nodes, cids[0]) == {("busy", 3)}  # once a day is enough
        records = nodes[0].engine.metadata.records  # type: ignore[union-attr]
        records._measured = {doc_id: at and at - 90_000 for doc_id, at in records._measured.items()}
        await world.until(
            lambda: policies(nodes, cids[0]) == {("default", 2)}, within_s=TOLD_S, what="it left its policy"
        )

    run(scenario)


def test_policies_that_differ_between_nodes_are_told(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Ruled("acme", world.seed, QUIET)
        nodes = await cluster(world, 2, acme)
        acme.policies = "  default_factor: 2\n  grace: 8s\n  placement: {strategy: capacity}\n"
        nodes.append(await world.node("odd", organization=acme, bootstrap=nodes))
        await asyncio.sleep(45)
        status = await nodes[0].run(verbs.ShowReplication())
        differing = [problem for problem in status.problems if "other policies" in problem]
        assert len(differing) == 1
        assert nodes[2].peer_id in differing[0] and nodes[1].peer_id not in differing[0]
        status = await nodes[2].run(verbs.ShowReplication())
        (differing,) = [problem for problem in status.problems if "other policies" in problem]
        assert nodes[0].peer_id in differing and nodes[1].peer_id in differing
        listed = await nodes[1].run(verbs.ListPolicies())
        assert listed.disagreeing == (nodes[2].peer_id,)

    run(scenario)


def test_a_factor_above_the_number_of_nodes_is_told_and_each_node_holds_one(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Ruled("acme", world.seed, "  default_factor: 32\n  grace: 8s\n")
        nodes = await cluster(world, 3, acme)
        root = await nodes[0].put(data(world.random), "report", "org")
        cids = blocks(nodes[0], root)
        await world.until(lambda: is_at_rest(nodes, cids, 3), within_s=90, what="each has all")
        status = await nodes[1].run(verbs.ShowReplication())
        assert any("32 copies" in problem and "3 nodes" in problem for problem in status.problems)
        found = await nodes[0].run(verbs.AuditReplication(ref="report", prove=True))
        assert found.checked == len(cids)
        assert found.at_risk == 0
        assert not found.lied
        nodes.append(await world.node("late", organization=acme, bootstrap=nodes[:2]))
        await world.until(lambda: is_at_rest(nodes, cids, 4), within_s=180, what="a fourth has all, too")

    run(scenario)


def test_a_measured_policy_is_left_alone_where_somebody_chose_one(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Ruled("acme", world.seed, BUSY + "    - {name: kept, factor: 1}\n")
        nodes = await cluster(world, 3, acme)
        root = await nodes[0].put(data(world.random), "report", "org", policy="kept")
        cids = blocks(nodes[0], root)
        await world.until(lambda: policies(nodes, cids[0]) == {("kept", 1)}, within_s=60, what="all know the word")
        for node in nodes[1:]:
            for _ in range(30):
                await node.get("report")
        await asyncio.sleep(TOLD_S)
        assert policies(nodes, cids[0]) == {("kept", 1)}

    run(scenario)
