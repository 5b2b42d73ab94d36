"""Whole nodes of one organisation in a simulated world: copies are where placement wants them, and come back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rage_lab.sim.node import Node
from rage_lab.sim.organizations import Organization
from rage_lab.sim.world import World, play
from rage_net.chunk import manifest
from rage_net.cid import Cid
from rage_net.services.replicating import Replicating

Play = Callable[[Callable[[World], Awaitable[Any]]], Any]
SETTLE_S = 35.0
"""By then every node has told of itself."""
PLACED_S = 30.0
REPAIRED_S = 180.0


@pytest.fixture
def run(rng: random.Random, tmp_path: Path) -> Play:
    """Play a scenario once; a failure names its seed."""
    seed = rng.getrandbits(32)
    return lambda scenario: play(scenario, seed, tmp_path).result


async def cluster(world: World, count: int, *, flags: dict[str, Any] | None = None) -> list[Node]:
    """Nodes of one organisation, in regions by turns, that know each other."""
    acme = Organization("acme", world.seed)
    nodes: list[Node] = []
    for number in range(count):
        capabilities = ("storage", "admin") if number == 0 else ("storage",)
        nodes.append(
            await world.node(
                f"n{number}", organization=acme, bootstrap=nodes[:2], capabilities=capabilities, flags=flags
            )
        )
    await asyncio.sleep(SETTLE_S)
    return nodes


def replication(node: Node) -> Replicating:
    found = node.engine.replicating()
    assert found is not None
    return found


def durable(nodes: Sequence[Node], cid: Cid) -> set[str]:
    """The nodes that hold a chunk, cache aside."""
    found = set()
    for node in nodes:
        if node.is_up and node.engine.store.has(cid) and not node.engine.store.stat(cid).cached:
            found.add(node.name)
    return found


def home(node: Node, cid: Cid, nodes: Sequence[Node]) -> set[str]:
    item = replication(node).inventory.find(cid)
    names = {str(each.peer_id): each.name for each in nodes}
    return {names[str(peer)] for peer in item.home} if item is not None else set()


def at_home(nodes: Sequence[Node], cids: Sequence[Cid], count: int = 3) -> bool:
    """Whether every chunk is where the first node wants it, so many times."""
    homes = {cid: home(nodes[0], cid, nodes) for cid in cids}
    return all(len(homes[cid]) == count and homes[cid] <= durable(nodes, cid) for cid in cids)


def blocks(node: Node, root: str) -> list[Cid]:
    return list(manifest.blocks(Cid.parse(root), node.engine.store.get))


def test_chunks_come_to_rest_where_placement_wants_them_and_nowhere_else(run: Play) -> None:
    async def scenario(world: World) -> None:
        nodes = await cluster(world, 5)
        root = await nodes[0].put(world.random.randbytes(3_000_000), "report.bin", "org")
        cids = blocks(nodes[0], root)
        assert len(cids) > 2

        await world.until(lambda: at_home(nodes, cids), within_s=PLACED_S, what="every chunk is at home")
        assert all(home(node, cid, nodes) == home(nodes[0], cid, nodes) for node in nodes for cid in cids)

        def is_trimmed() -> bool:
            return all(durable(nodes, cid) == home(nodes[0], cid, nodes) for cid in cids)

        await world.until(is_trimmed, within_s=240, what="copies too many are gone")
        got = await nodes[0].get("report.bin")
        assert len(got.data) == 3_000_000

    run(scenario)


def test_a_node_that_is_gone_is_replaced_and_its_stand_ins_let_go_when_it_is_back(run: Play) -> None:
    async def scenario(world: World) -> None:
        nodes = await cluster(world, 5)
        root = await nodes[0].put(world.random.randbytes(3_000_000), "report.bin", "org")
        cids = blocks(nodes[0], root)

        def is_placed() -> bool:
            return all(durable(nodes, cid) == home(nodes[0], cid, nodes) for cid in cids)

        await world.until(is_placed, within_s=300, what="every chunk is at home")
        victim = nodes[2]
        hit = [cid for cid in cids if victim.name in durable(nodes, cid)]
        assert hit
        world.vanish(victim)
        rest = [node for node in nodes if node is not victim]
        began = world.now
        await world.until(
            lambda: all(len(durable(rest, cid)) >= 3 for cid in cids), within_s=REPAIRED_S, what="three copies again"
        )
        print("repaired after", world.now - began)
        await world.join(victim)
        await world.until(is_placed, within_s=600, what="stand-ins have let go")

    run(scenario)
