"""Whole nodes with certificates against those who would keep, forge, or go on with what is no longer theirs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from rage_lab.sim.node import Collect, Given, Node
from rage_lab.sim.organizations import Organization
from rage_lab.sim.world import World, play, unreplicated
from rage_net import sharing
from rage_net.chunk.shelf import public_roots
from rage_net.cid import Cid
from rage_net.errors import IntegrityError, NotFoundError, RageError
from rage_net.libp2p.peer_id import PeerId
from rage_net.sync.facts import Acknowledgement, Document, New, NodeRecord, Tombstone
from rage_net.verbs.acl import SetAcl
from rage_net.verbs.chunk import RemoveChunk
from rage_net.verbs.sync import ExportSync, ImportSync
from rage_net.verbs.trust import AddTrust, RemoveTrust

Play = Callable[[Callable[[World], Awaitable[Any]]], Any]
SETTLE_S = 20.0
KEEP_S = 40.0
"""In which every node has kept its records once."""


@pytest.fixture
def run(rng: random.Random, tmp_path: Path) -> Play:
    """Play a scenario once; a failure names its seed."""
    seed = rng.getrandbits(32)
    return lambda scenario: play(unreplicated(scenario), seed, tmp_path).result


async def trust(node: Node, other: Organization) -> None:
    await node.run(AddTrust(other.name, ca=other.pem, scopes=("chunks", "sync")))


async def refused(work: Awaitable[Any]) -> None:
    with pytest.raises(RageError) as error:
        await work
    assert error.value.id in ("sources-unreachable", "chunk-not-found", "peer-unreachable"), error.value


def test_what_is_shared_no_longer_is_not_served_on_by_the_other_organisation(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme, birch = (Organization(name, world.seed) for name in ("acme", "birch"))
        alpha = await world.node("alpha", organization=acme)
        beta = await world.node("beta", organization=birch, bootstrap=[alpha], capabilities=("storage", "admin"))
        gamma = await world.node("gamma", organization=birch, bootstrap=[beta])
        await trust(alpha, birch)
        await trust(beta, acme)
        await asyncio.sleep(SETTLE_S)
        await beta.connect(alpha)
        root = await alpha.put(world.random.randbytes(40_000), "plan.md", "federated")
        await asyncio.sleep(3)
        await beta.get("plan.md")
        await gamma.get(root, beta, keep=False)
        await alpha.run(SetAcl("plan.md", visibility="private"))
        (row,) = alpha.engine.metadata.log.documents("acme", name="plan.md")
        access = beta.engine.metadata.access
        await world.until(
            lambda: access.access_of("acme", row.doc_id).visibility == "private", within_s=2, what="beta knows"
        )
        await refused(gamma.get(root, beta, keep=False))
        await alpha.run(RemoveChunk("plan.md", everywhere=True))
        await world.until(lambda: "beta" not in world.holders(root), within_s=2, what="beta dropped what it had")

    run(scenario)


def test_facts_of_an_organisation_count_while_it_is_trusted_and_no_longer(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme, birch = (Organization(name, world.seed) for name in ("acme", "birch"))
        alpha = await world.node("alpha", organization=acme, capabilities=("storage", "admin"))
        beta = await world.node("beta", organization=birch, bootstrap=[alpha])
        await trust(beta, acme)
        await trust(alpha, birch)
        await beta.connect(alpha)
        await beta.put(b"theirs" * 100, "theirs.md", "federated")
        log = alpha.engine.metadata.log
        await world.until(lambda: bool(log.documents("birch", name="theirs.md")), within_s=3, what="alpha knows it")
        (row,) = log.documents("birch", name="theirs.md")
        await alpha.run(RemoveTrust("birch"))
        assert not log.documents("birch", name="theirs.md"), "as after a restart"
        assert alpha.engine.metadata.access.access_of("birch", row.doc_id) is None

    run(scenario)


def test_what_is_public_no_longer_is_announced_no_longer(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        alpha = await world.node("alpha", organization=acme, capabilities=("storage", "admin"))
        beta = await world.node("beta", organization=acme, bootstrap=[alpha])
        await asyncio.sleep(SETTLE_S)
        root = Cid.parse(await alpha.put(b"open" * 100, "open.md", "public"))
        await asyncio.sleep(KEEP_S)
        routing = alpha.online.routing
        assert public_roots(alpha.engine.store) == [root] and len(routing) == 1
        await alpha.run(SetAcl("open.md", visibility="org"))
        await asyncio.sleep(5)
        assert public_roots(alpha.engine.store) == [] and len(routing) == 0
        await beta.put(b"also open" * 100, "beta.md", "public")
        await asyncio.sleep(KEEP_S)
        assert len(beta.online.routing) == 1
        await beta.run(RemoveChunk("beta.md"))
        await asyncio.sleep(5)
        assert len(beta.online.routing) == 0

    run(scenario)


def test_a_hidden_cid_asked_for_in_the_dht_is_known_as_little_as_an_absent_one(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme, birch = (Organization(name, world.seed) for name in ("acme", "birch"))
        alpha = await world.node("alpha", organization=acme, flags={"network.libp2p.dht.mode": "server"})
        beta = await world.node(
            "beta", organization=birch, bootstrap=[alpha], flags={"network.libp2p.dht.mode": "server"}
        )
        await trust(alpha, birch)
        await trust(beta, acme)
        await beta.connect(alpha)
        hidden = Cid.parse(await alpha.put(b"secret" * 100, "secret.md", "org"))
        public = Cid.parse(await alpha.put(b"open" * 100, "open.md", "public"))
        await asyncio.sleep(KEEP_S)

        async def providers(root: Cid) -> list[str]:
            routing = beta.online.routing
            try:
                return [str(each.peer_id) async for each in routing.providers(root)]
            except NotFoundError as error:
                return [error.message]

        assert await beta.do(providers(public)) == [alpha.peer_id]
        absent = Cid.of(b"nowhere")
        assert await beta.do(providers(hidden)) == await beta.do(providers(absent)) == ["no provider is known"]

    run(scenario)


def test_a_document_whose_facts_come_to_count_no_more_looks_so_in_the_store(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        alpha = await world.node("alpha", organization=acme)
        await alpha.put(b"mine" * 100, "mine.md", "org")
        (document,) = alpha.engine.documents.resolve("mine.md")
        alpha.engine.documents.set_access("acme", document.doc_id, "public", is_ruled=True)  # as a crash would leave it
        assert public_roots(alpha.engine.store)
        await asyncio.sleep(KEEP_S)
        assert not public_roots(alpha.engine.store)
        assert alpha.engine.documents.get(document.doc_id).visibility == "org"

    run(scenario)


def test_a_damaged_log_is_obeyed_as_far_as_it_is_sound(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        alpha = await world.node("alpha", organization=acme)
        beta = await world.node("beta", organization=acme, bootstrap=[alpha])
        await asyncio.sleep(KEEP_S)
        root = await alpha.put(b"old" * 10_000, "old.md", "org")
        await asyncio.sleep(2)
        await beta.get("old.md")
        world.partition([alpha], [beta])
        await alpha.run(RemoveChunk("old.md", everywhere=True))
        sink = Collect()
        await alpha.run(ExportSync(), sink=sink)
        assert "beta" in world.holders(root)
        with pytest.raises(IntegrityError):
            await beta.run(ImportSync(), source=Given(bytes(sink.data) + b"\x05garb"))
        assert "beta" not in world.holders(root), "the tombstone stood before the damage"

    run(scenario)


def test_nobody_can_speak_for_another_that_is_waited_for(run: Play) -> None:
    """A removal waits for whom records are about, not for who wrote them; and for true words about a true tombstone."""

    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        alpha = await world.node("alpha", organization=acme, capabilities=("storage", "admin"))
        beta = await world.node("beta", organization=acme, bootstrap=[alpha])
        mallory = await world.node("mallory", organization=acme, bootstrap=[alpha])
        await asyncio.sleep(KEEP_S)
        await alpha.put(b"old" * 10_000, "old.md", "org")
        await asyncio.sleep(2)
        metadata, names = alpha.engine.metadata, {node.peer_id: node.name for node in (beta, mallory)}
        (row,) = metadata.log.documents("acme", name="old.md")

        def waited_for() -> set[str]:
            return {names[str(peer)] for peer in sharing.known_nodes(metadata)}

        async def write(node: Node, resource: str, *bodies: Any) -> None:
            facts = node.engine.metadata.log.append("acme", [New(resource, body) for body in bodies])
            await node.do(sharing.written(node.engine, "acme", facts))
            await asyncio.sleep(2)

        assert waited_for() == {"beta", "mallory"}
        await write(mallory, f"peer:{beta.peer_id}", NodeRecord(state="lost"))
        assert waited_for() == {"beta", "mallory"}, "mallory may not say so"
        await write(mallory, f"doc:{row.doc_id}", Acknowledgement(bytes(16)))
        assert PeerId.parse(mallory.peer_id) not in metadata.records.acknowledged(row.doc_id), "before there was one"
        await write(alpha, f"peer:{beta.peer_id}", NodeRecord(state="lost"))
        assert waited_for() == {"mallory"}

    run(scenario)


def test_a_member_removes_and_moves_nothing_of_anothers(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        alpha = await world.node("alpha", organization=acme)
        mallory = await world.node("mallory", organization=acme, bootstrap=[alpha])
        await asyncio.sleep(KEEP_S)
        root = await alpha.put(b"mine" * 10_000, "mine.md", "org")
        await asyncio.sleep(2)
        log = mallory.engine.metadata.log
        (row,) = log.documents("acme", name="mine.md")
        moved = Document(Cid.of(b"other"), 5, 1, 1)
        facts = log.append("acme", [New(f"doc:{row.doc_id}", body) for body in (moved, Tombstone("removed"))])
        await mallory.do(sharing.written(mallory.engine, "acme", facts))
        with pytest.raises(RageError) as caught:
            await mallory.run(RemoveChunk("mine.md", everywhere=True))
        assert caught.value.id == "not-admin"
        await asyncio.sleep(KEEP_S)
        for node in (alpha, mallory):
            (row,) = node.engine.metadata.log.documents("acme", name="mine.md")
            assert not row.is_dead and str(row.root) == root
        assert "alpha" in world.holders(root) and (await mallory.get("mine.md")).data

    run(scenario)
