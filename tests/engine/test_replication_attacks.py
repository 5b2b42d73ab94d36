"""What hostile nodes, other organisations and bad moments can do to replication: whole nodes, a simulated world."""

from __future__ import annotations

import asyncio

from rage_lab.sim.node import Node
from rage_lab.sim.organizations import Organization
from rage_lab.sim.world import World
from rage_net import sharing
from rage_net.cid import Cid
from rage_net.sync.facts import Access, Document, New
from rage_net.verbs.acl import GrantAcl, RevokeAcl
from rage_net.verbs.chunk import RemoveChunk
from rage_net.verbs.trust import AddTrust
from tests.engine.test_replication_cluster import Play, at_home, blocks, cluster, durable, home, replication, run

__all__ = ["run"]

SMALL = 400_000


async def write(node: Node, doc_id: str, *bodies: Document | Access) -> None:
    """Facts about a document, as a node may sign what it likes."""
    metadata = node.engine.metadata
    assert metadata is not None
    news = [New(f"doc:{doc_id}", body) for body in bodies]
    facts = metadata.log.append(metadata.organization, news)
    metadata.access.forget(facts)
    await node.do(sharing.written(node.engine, metadata.organization, facts))


def test_a_member_cannot_make_others_let_go_of_what_another_put(run: Play) -> None:
    """It writes a document of the same root, wants it on its own nodes alone, and then wants it no more."""

    async def scenario(world: World) -> None:
        nodes = await cluster(world, 6)
        root = await nodes[1].put(world.random.randbytes(SMALL), "report.bin", "private")
        cids = blocks(nodes[1], root)
        await world.until(lambda: at_home(nodes, cids), within_s=60, what="every chunk is at home")
        homes = {cid: home(nodes[0], cid, nodes) for cid in cids}
        hostile, helpers = nodes[5], nodes[3:]
        denials = [
            Access(principal=f"peer:{node.peer_id}", action="replicate", allowed=False)
            for node in nodes
            if node not in helpers
        ]
        doc_id = "a" * 26
        await write(hostile, doc_id, Document(Cid.parse(root), SMALL, len(cids), 0), *denials)
        log = nodes[0].engine.metadata.log
        await world.until(lambda: bool(log.documents("acme", doc_id=doc_id)), within_s=20, what="all know it")
        await asyncio.sleep(200)
        for cid in cids:
            assert homes[cid] <= home(nodes[0], cid, nodes), "it may add places, and takes none away"
            assert homes[cid] <= durable(nodes, cid)
        await hostile.run(RemoveChunk(doc_id, everywhere=True, wait_s=0))
        await asyncio.sleep(200)
        assert all(homes[cid] <= durable(nodes, cid) for cid in cids)
        assert len((await nodes[1].get("report.bin")).data) == SMALL

    run(scenario)


def test_a_removal_leaves_nothing_on_nodes_that_were_just_fetching(run: Play) -> None:
    async def scenario(world: World) -> None:
        nodes = await cluster(world, 4)
        for wait_s in (0.0, 0.15, 0.3, 0.6, 1.2):
            name = f"short-{wait_s}"
            root = await nodes[0].put(world.random.randbytes(2_000_000), name, "org")
            cids = blocks(nodes[0], root)
            await asyncio.sleep(wait_s)
            await nodes[0].run(RemoveChunk(name, everywhere=True, wait_s=0))
            await asyncio.sleep(60)
            for cid in cids:
                assert not durable(nodes, cid), (wait_s, cid)
                assert all(replication(node).inventory.find(cid) is None for node in nodes)

    run(scenario)


def test_what_another_organisation_was_let_replicate_goes_when_the_right_is_denied(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme, globex = (Organization(name, world.seed) for name in ("acme", "globex"))
        admin = ("storage", "admin")
        ours = [await world.node("a0", organization=acme, capabilities=admin)]
        ours.append(await world.node("a1", organization=acme, bootstrap=ours))
        theirs = await world.node("g0", organization=globex, bootstrap=ours, capabilities=admin)
        await asyncio.sleep(35)
        await ours[0].run(AddTrust("globex", ca=globex.pem, scopes=("chunks", "sync")))
        await theirs.run(AddTrust("acme", ca=acme.pem, scopes=("chunks", "sync")))
        await theirs.connect(ours[0])
        await theirs.connect(ours[1])
        root = await ours[0].put(world.random.randbytes(SMALL), "shared.bin", "private")
        secret = await ours[0].put(world.random.randbytes(SMALL), "secret.bin", "org")
        cids, hidden = blocks(ours[0], root), blocks(ours[0], secret)
        await asyncio.sleep(30)
        assert not any(durable([theirs], cid) for cid in cids), "nothing goes there without a grant"
        await ours[0].run(GrantAcl("shared.bin", "org:globex", "replicate"))
        await world.until(
            lambda: all(durable([theirs], cid) for cid in cids), within_s=120, what="they hold what they were granted"
        )
        await ours[0].run(RevokeAcl("shared.bin", "org:globex", "replicate"))
        await world.until(
            lambda: not any(durable([theirs], cid) for cid in cids), within_s=120, what="they have let go of it"
        )
        assert not any(durable([theirs], cid) for cid in hidden)
        await asyncio.sleep(120)
        assert all(durable(ours, cid) for cid in cids)

    run(scenario)
