"""The verbs of replication on whole nodes in a simulated world."""

from __future__ import annotations

import asyncio

import pytest

from rage_lab.sim.world import World
from rage_net.errors import ConflictError, NotFoundError
from rage_net.verbs import replication as verbs
from tests.engine.test_replication_cluster import Play, at_home, blocks, cluster, durable, run

__all__ = ["run"]


def test_an_audit_finds_what_is_missing_and_a_repair_brings_it_back_with_proof(run: Play) -> None:
    async def scenario(world: World) -> None:
        nodes = await cluster(world, 4)
        root = await nodes[0].put(world.random.randbytes(2_000_000), "report.bin", "org")
        cids = blocks(nodes[0], root)
        await world.until(lambda: at_home(nodes, cids), within_s=60, what="every chunk is at home")
        found = await nodes[0].run(verbs.AuditReplication(ref="report.bin", prove=True))
        assert found.checked == len(cids) and not found.under and not found.at_risk, found
        status = await nodes[1].run(verbs.ShowReplication())
        assert len(status.nodes) == 4 and not status.problems, status
        match = await nodes[2].run(verbs.TestPolicy("report.bin"))
        assert match.policy == "default" and len(match.holders) == 3

        victim = next(node for node in nodes[1:] if node.name in durable(nodes, cids[1]))
        world.vanish(victim)
        await asyncio.sleep(10)
        found = await nodes[0].run(verbs.AuditReplication(prove=True))
        assert found.under + found.unreachable, found
        result = await nodes[0].run(verbs.ReplaceNode(victim.peer_id, lost=True, wait_s=120))
        assert result.copies and result.done == result.copies, result
        found = await nodes[0].run(verbs.AuditReplication(prove=True))
        assert found.ok + found.over == found.checked, found

    run(scenario)


def test_a_drained_node_gives_all_it_holds_away_and_the_last_one_is_not_drained(run: Play) -> None:
    async def scenario(world: World) -> None:
        nodes = await cluster(world, 4)
        root = await nodes[0].put(world.random.randbytes(2_000_000), "report.bin", "org")
        cids = blocks(nodes[0], root)
        await world.until(lambda: at_home(nodes, cids), within_s=60, what="every chunk is at home")
        leaver = nodes[1]
        shown = await nodes[0].run(verbs.DrainNode(leaver.peer_id, dry_run=True))
        with pytest.raises(ConflictError) as stale:
            await nodes[0].run(verbs.DrainNode(leaver.peer_id, plan="drain-0000000000000000"))
        assert stale.value.id == "plan-stale"
        done = await nodes[0].run(verbs.DrainNode(leaver.peer_id, plan=shown.plan_id, wait_s=120))
        assert done.done == shown.copies, (shown, done)
        await world.until(
            lambda: all(leaver.name not in durable(nodes, cid) for cid in cids), within_s=300, what="it is empty"
        )
        with pytest.raises(NotFoundError):
            await nodes[0].run(verbs.DrainNode("12D3KooWnobody"))

    run(scenario)


def test_the_last_node_that_stores_is_not_drained(run: Play) -> None:
    async def scenario(world: World) -> None:
        (node,) = await cluster(world, 1)
        await node.put(world.random.randbytes(100_000), "report.bin", "org")
        await asyncio.sleep(5)
        with pytest.raises(ConflictError) as error:
            await node.run(verbs.DrainNode(node.peer_id))
        assert error.value.id == "drain-last-holder"

    run(scenario)
