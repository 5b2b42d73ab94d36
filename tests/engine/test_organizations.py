"""Nodes with certificates, in one simulated world: what organisations share, and what strangers do not get."""

from __future__ import annotations

import asyncio
import random
import unicodedata
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from rage_lab.sim.node import Collect, Given, Node
from rage_lab.sim.organizations import Organization
from rage_lab.sim.world import World, play, unreplicated
from rage_net import sharing
from rage_net.errors import AccessDeniedError, IntegrityError, NotFoundError, RageError, UsageError
from rage_net.sync.facts import Access, Document, New, NodeRecord
from rage_net.verbs.acl import GrantAcl, SetAcl, ShowAcl
from rage_net.verbs.cert import RevokeCertificate
from rage_net.verbs.chunk import ListChunks, RemoveChunk
from rage_net.verbs.sync import ExportSync, ImportSync, ListConflicts, ResolveConflict, RunSync, ShowLog, ShowSync
from rage_net.verbs.trust import AddTrust, RemoveTrust

Play = Callable[[Callable[[World], Awaitable[Any]]], Any]
SETTLE_S = 20.0


@pytest.fixture
def run(rng: random.Random, tmp_path: Path) -> Play:
    """Play a scenario once; a failure names its seed."""
    seed = rng.getrandbits(32)
    return lambda scenario: play(unreplicated(scenario), seed, tmp_path).result


def test_a_document_is_found_by_its_name_in_the_organisation_and_a_stranger_gets_nothing(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        alpha = await world.node("alpha", organization=acme)
        beta = await world.node("beta", organization=acme, bootstrap=[alpha])
        stranger = await world.node("stranger", bootstrap=[alpha, beta])
        await asyncio.sleep(SETTLE_S)
        data = world.random.randbytes(100_000)
        root = await alpha.put(data, "report.md", "org")
        await world.until(
            lambda: bool(beta.engine.metadata.log.documents("acme", name="report.md")), within_s=2, what="beta knows it"
        )
        got = await beta.get("report.md")
        assert got.data == data and got.sources["p2p"]
        with pytest.raises(RageError) as error:
            await stranger.get(root, alpha)
        assert error.value.id in ("sources-unreachable", "chunk-not-found", "peer-unreachable"), error.value.id
        assert "alpha" in world.holders(root) and "stranger" not in world.holders(root)

    run(scenario)


async def trust(node: Node, other: Organization, *scopes: str) -> None:
    await node.run(AddTrust(other.name, ca=other.pem, scopes=scopes))


async def refused(work: Awaitable[Any]) -> None:
    """Nothing is given, and not said why."""
    with pytest.raises(RageError) as error:
        await work
    assert error.value.id in ("sources-unreachable", "chunk-not-found", "peer-unreachable"), error.value


def test_a_federated_document_is_read_by_another_organisation_and_withdrawn_trust_cuts_it(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme, birch, crow = (Organization(name, world.seed) for name in ("acme", "birch", "crow"))
        alpha = await world.node("alpha", organization=acme, capabilities=("storage", "admin"))
        beta = await world.node("beta", organization=birch, bootstrap=[alpha], capabilities=("storage", "admin"))
        stranger = await world.node("crow", organization=crow, bootstrap=[alpha, beta])
        await asyncio.sleep(SETTLE_S)
        assert beta.peer_id not in alpha.peers()
        await trust(alpha, birch, "chunks", "sync")
        await trust(beta, acme, "chunks", "sync")
        data = world.random.randbytes(50_000)
        secret = await alpha.put(data[::-1], "secret.md", "org")
        root = await alpha.put(data, "report.md", "federated")
        await beta.connect(alpha)
        await asyncio.sleep(2)
        assert (await beta.get("report.md")).data == data
        await refused(beta.get(secret, alpha))
        assert not beta.engine.metadata.log.documents("acme", name="secret.md"), "no word of it reached beta"
        await refused(stranger.get(root, alpha))
        await alpha.run(RemoveTrust("birch"))
        await asyncio.sleep(0.5)
        assert beta.peer_id not in alpha.peers()
        await refused(beta.get(await alpha.put(data[::-3], "later.md", "federated"), alpha))

    run(scenario)


def test_what_becomes_federated_later_reaches_the_other_organisation(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme, birch = (Organization(name, world.seed) for name in ("acme", "birch"))
        alpha = await world.node("alpha", organization=acme)
        beta = await world.node("beta", organization=birch, bootstrap=[alpha])
        await trust(alpha, birch, "chunks", "sync")
        await trust(beta, acme, "chunks", "sync")
        await beta.connect(alpha)
        data = world.random.randbytes(50_000)
        await alpha.put(data, "report.md", "org")
        await asyncio.sleep(5)
        assert not beta.engine.metadata.log.documents("acme", name="report.md")
        await alpha.put(data, "report.md", "federated")
        log = beta.engine.metadata.log
        await world.until(lambda: bool(log.documents("acme", name="report.md")), within_s=2, what="beta knows it")
        assert (await beta.get("report.md")).data == data

    run(scenario)


def test_a_revoked_node_is_cut_everywhere_within_two_seconds(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        alpha = await world.node("alpha", organization=acme, capabilities=("storage", "admin"))
        others = [await world.node(name, organization=acme, bootstrap=[alpha]) for name in ("beta", "gamma", "delta")]
        beta, gamma, delta = others
        await asyncio.sleep(SETTLE_S)
        await delta.connect(gamma)
        root = await gamma.put(world.random.randbytes(30_000), "plan.md", "org")
        await asyncio.sleep(2)
        await alpha.run(RevokeCertificate(peer_id=delta.peer_id, reason="stolen"))
        nodes = (alpha, beta, gamma)
        await world.until(
            lambda: all(delta.peer_id not in node.peers() for node in nodes), within_s=2, what="delta is cut"
        )
        await refused(delta.get(root, gamma))
        await asyncio.sleep(30)
        assert not any(delta.peer_id in node.peers() for node in nodes), "nor does it get in again"

    run(scenario)


async def removed_everywhere(world: World) -> None:
    acme = Organization("acme", world.seed)
    alpha = await world.node("alpha", organization=acme)
    beta = await world.node("beta", organization=acme, bootstrap=[alpha])
    gamma = await world.node("gamma", organization=acme, bootstrap=[alpha])
    await asyncio.sleep(40)
    root = await alpha.put(world.random.randbytes(60_000), "old.md", "org")
    await asyncio.sleep(2)
    await beta.get("old.md")
    await world.leave(gamma)
    done = await alpha.run(RemoveChunk("old.md", everywhere=True, wait_s=5.0))
    assert done.acknowledged == (beta.peer_id,) and done.awaiting == (gamma.peer_id,)
    assert world.holders(root) == [], "its bytes are gone, too"
    with pytest.raises(NotFoundError):
        await alpha.get("old.md")
    await refused(beta.get(root, alpha))
    await world.join(gamma)
    await asyncio.sleep(20)
    rows = gamma.engine.metadata.log.documents("acme", name="old.md")
    assert [row.is_dead for row in rows] == [True]
    again = await alpha.run(RemoveChunk("old.md", everywhere=True, wait_s=5.0))
    assert not again.awaiting and set(again.acknowledged) == {beta.peer_id, gamma.peer_id}


def test_a_document_that_is_removed_everywhere_is_dropped_and_acknowledged(run: Play) -> None:
    run(removed_everywhere)


def test_one_that_heard_of_a_removal_from_another_counts_as_having_seen_it(tmp_path: Path) -> None:
    """Seed 2559238043: it never held the document, and told nobody that it had the tombstone."""
    play(unreplicated(removed_everywhere), 2559238043, tmp_path)


def test_contradictions_wait_for_a_person_who_decides_for_all(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        manual = {"network.sync.conflicts.doc": "manual"}
        admin = ("storage", "admin")
        alpha = await world.node("alpha", organization=acme, capabilities=admin, flags=manual)
        beta = await world.node("beta", organization=acme, bootstrap=[alpha], capabilities=admin, flags=manual)
        await asyncio.sleep(SETTLE_S)
        await alpha.put(b"what is planned" * 100, "plan.md", "org")
        await asyncio.sleep(2)
        world.partition([alpha], [beta])
        await alpha.run(SetAcl("plan.md", visibility="public"))
        await beta.run(SetAcl("plan.md", visibility="private"))
        world.heal()
        for node in (alpha, beta):
            await node.run(RunSync()) if node.peers() else await node.connect(alpha if node is beta else beta)
        await world.until(
            lambda: alpha.engine.metadata.log.digest("acme") == beta.engine.metadata.log.digest("acme"),
            within_s=30,
            what="both hold the same",
        )
        for node in (alpha, beta):
            (conflict,) = (await node.run(ListConflicts())).items
            assert conflict.is_queued and conflict.subject == "visibility" and conflict.in_force == "private"
            assert {(fact.author, fact.text) for fact in conflict.facts} == {
                (alpha.peer_id, "public"),
                (beta.peer_id, "private"),
            }
            assert (await node.run(ShowSync())).conflicts == 1
        public = next(fact.id for fact in conflict.facts if fact.text == "public")
        resolved = await beta.run(ResolveConflict(conflict.id[:8], public[:8]))
        assert resolved.in_force == "public"
        await asyncio.sleep(2)
        for node in (alpha, beta):
            assert (await node.run(ListConflicts(all=True))).items == ()
            assert (await node.run(ShowAcl("plan.md"))).visibility == "public"

    run(scenario)


def test_a_log_travels_by_hand_to_a_node_that_no_network_reaches(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        alpha = await world.node("alpha", organization=acme)
        beta = await world.node("beta", organization=acme)
        world.partition([alpha], [beta])
        await alpha.put(b"by hand" * 1000, "letter.md", "org")
        sink = Collect()
        exported = await alpha.run(ExportSync(), sink=sink)
        assert exported.size == len(sink.data) and exported.envelopes >= 4
        imported = await beta.run(ImportSync(), source=Given(bytes(sink.data)))
        assert (imported.organization, imported.refused) == ("acme", 0) and imported.received == exported.envelopes
        listed = await beta.run(ListChunks(catalog=True))
        assert [document.name for document in listed.documents] == ["letter.md"]
        assert (await beta.run(ImportSync(), source=Given(bytes(sink.data)))).received == 0, "again changes nothing"
        for damaged in (bytes(sink.data[:-40]), b"\xff" * 64, b""):
            with pytest.raises(IntegrityError):
                await beta.run(ImportSync(), source=Given(damaged))

    run(scenario)


def test_nobody_becomes_the_owner_of_anothers_document_by_claiming_to_have_been_first(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        alpha = await world.node("alpha", organization=acme)
        mallory = await world.node("mallory", organization=acme, bootstrap=[alpha])
        await asyncio.sleep(SETTLE_S)
        await alpha.put(b"mine" * 1000, "mine.md", "private")
        await asyncio.sleep(2)
        metadata = mallory.engine.metadata
        (row,) = metadata.log.documents("acme", name="mine.md")
        claim = New(f"doc:{row.doc_id}", Document(row.root, row.size, row.chunks, 1))
        opened = New(f"doc:{row.doc_id}", Access(visibility="public"))
        facts = metadata.log.append("acme", [claim, opened])
        await sharing.written(mallory.engine, "acme", facts)
        await asyncio.sleep(2)
        for node in (alpha, mallory):
            log = node.engine.metadata.log
            assert [str(each.owner) for each in log.documents("acme", name="mine.md")] == [alpha.peer_id]
            assert node.engine.metadata.access.access_of("acme", row.doc_id).visibility == "private"

    run(scenario)


def test_trust_that_comes_while_a_refused_connection_is_open_lets_both_ends_in(run: Play) -> None:
    """One end refused, or both; what each has learnt since is told to the other, and nobody dials anew."""

    async def scenario(world: World) -> None:
        acme, birch = (Organization(name, world.seed) for name in ("acme", "birch"))
        alpha = await world.node("alpha", organization=acme, capabilities=("storage", "admin"))
        beta = await world.node("beta", organization=birch, capabilities=("storage", "admin"))
        gamma = await world.node("gamma", organization=birch, capabilities=("storage", "admin"))
        for node in (beta, gamma):
            with pytest.raises(AccessDeniedError):
                await node.connect(alpha)
        await trust(alpha, birch, "chunks", "sync")
        await trust(beta, acme, "chunks", "sync")
        await world.until(
            lambda: beta.peer_id in alpha.peers() and alpha.peer_id in beta.peers(), within_s=2, what="both are in"
        )
        await trust(gamma, acme, "chunks", "sync")
        await world.until(
            lambda: gamma.peer_id in alpha.peers() and alpha.peer_id in gamma.peers(), within_s=2, what="both are in"
        )

    run(scenario)


def test_a_chunk_that_is_here_for_a_secret_counts_for_another_document_of_the_same_author(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        alpha = await world.node("alpha", organization=acme)
        beta = await world.node("beta", organization=acme, bootstrap=[alpha])
        gamma = await world.node("gamma", organization=acme, bootstrap=[beta])
        await asyncio.sleep(SETTLE_S)
        shared, rest = world.random.randbytes(300_000), world.random.randbytes(100_000)
        secret = await alpha.put(shared, "secret.md", "private")
        await alpha.put(shared + rest, "open.md", "org")
        await alpha.run(GrantAcl("secret.md", f"peer:{beta.peer_id}", "read"))
        await asyncio.sleep(2)
        assert (await beta.get("secret.md")).data == shared
        got = await beta.get("open.md")
        assert got.data == shared + rest and got.sources["local"] and got.sources["p2p"]
        await world.leave(alpha)
        assert (await gamma.get("open.md")).data == shared + rest, "beta serves all of it, what it had before too"
        with pytest.raises(AccessDeniedError) as error:
            await gamma.get(secret, beta)
        assert error.value.id == "chunk-denied"

    run(scenario)


def test_a_document_whose_retention_is_over_goes_everywhere(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        alpha = await world.node("alpha", organization=acme)
        beta = await world.node("beta", organization=acme, bootstrap=[alpha])
        await asyncio.sleep(SETTLE_S)
        root = await alpha.put(world.random.randbytes(60_000), "soon.md", "org", retention_s=120.0)
        await asyncio.sleep(2)
        await beta.get("soon.md")
        assert "beta" in world.holders(root)
        await asyncio.sleep(300)
        for node in (alpha, beta):
            assert [row.is_dead for row in node.engine.metadata.log.documents("acme", name="soon.md")] == [True]
        assert "beta" not in world.holders(root), "what was cached for it alone is deleted"
        said = await alpha.run(ShowLog(resource=f"doc:{alpha.engine.metadata.log.documents('acme')[0].doc_id}"))
        assert {(row.what, row.text) for row in said.items} >= {
            ("tombstone", "expired"),
            ("acknowledgement", "dropped"),
        }

    run(scenario)


def test_a_name_that_no_record_takes_is_refused_before_anything_is_kept(run: Play) -> None:
    async def scenario(world: World) -> None:
        alpha = await world.node("alpha", organization=Organization("acme", world.seed))
        decomposed = unicodedata.normalize("NFD", "caf\u00e9.md")
        with pytest.raises(UsageError) as error:
            await alpha.put(b"coffee", decomposed, "org")
        assert "caf\u00e9.md" in error.value.mend[0]
        with pytest.raises(UsageError):
            await alpha.put(b"coffee", "menu.md", "org", tags=("x" * 200,))
        assert (await alpha.run(ListChunks())).documents == ()
        assert "document" not in {row.what for row in (await alpha.run(ShowLog("acme"))).items}

    run(scenario)


def test_a_document_that_no_record_takes_keeps_no_other_from_the_log(run: Play) -> None:
    async def scenario(world: World) -> None:
        alpha = await world.node("alpha", organization=Organization("acme", world.seed))
        await alpha.put(b"one", "one.md", "org")
        await alpha.put(b"two", "two.md", "org")
        one, two = alpha.engine.documents.resolve("one.md")[0], alpha.engine.documents.resolve("two.md")[0]
        names = {one: "x" * 600, two: "three.md"}  # as if both had been put before there was a CA
        for document, name in names.items():
            alpha.engine.documents.amend("acme", document.doc_id, name=name, tags=(), policy="", expires_at=None)
        await sharing.keep(alpha.engine)
        log = alpha.engine.metadata.log
        assert [row.name for row in log.documents("acme")] == ["one.md", "three.md"]

    run(scenario)


def test_who_an_admin_gave_up_is_not_waited_for(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        alpha = await world.node("alpha", organization=acme, capabilities=("storage", "admin"))
        beta = await world.node("beta", organization=acme, bootstrap=[alpha])
        metadata = alpha.engine.metadata
        await world.until(
            lambda: [str(peer) for peer in sharing.known_nodes(metadata)] == [beta.peer_id],
            within_s=60,
            what="beta told of itself",
        )
        lost = NodeRecord("eu", "", 1, "lost")
        await sharing.written(alpha.engine, "acme", metadata.log.append("acme", [New(f"peer:{beta.peer_id}", lost)]))
        assert sharing.known_nodes(metadata) == []

    run(scenario)
