"""rage why on nodes with certificates: each link that trust, rights and the log add, broken and whole."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from rage_lab.sim.node import Node
from rage_lab.sim.organizations import Organization
from rage_lab.sim.world import World, play, unreplicated
from rage_net.cid import Cid
from rage_net.errors import NotFoundError, UsageError
from rage_net.verbs.acl import GrantAcl, RevokeAcl, SetAcl
from rage_net.verbs.cert import RevokeCertificate
from rage_net.verbs.chunk import RemoveChunk
from rage_net.verbs.diagnose import Why, WhyResult, WhyStep
from rage_net.verbs.peer import ListPeers, ShowPeer
from rage_net.verbs.trust import AddTrust

Play = Callable[[Callable[[World], Awaitable[Any]]], Any]
SETTLE_S = 20.0
SOON_S = 3.0
ADMIN = ("storage", "admin")


@pytest.fixture
def run(rng: random.Random, tmp_path: Path) -> Play:
    """Play a scenario once; a failure names its seed."""
    seed = rng.getrandbits(32)
    return lambda scenario: play(unreplicated(scenario), seed, tmp_path).result


async def why(node: Node, subject: str) -> WhyResult:
    found: WhyResult = await node.run(Why(subject))
    return found


def step(result: WhyResult, name: str, number: int = 0) -> WhyStep:
    return [one for one in result.steps if one.name == name][number]


# --- peers ------------------------------------------------------------------------------------------------------------


def test_a_peer_of_the_own_organisation_shows_certificate_trust_and_sync(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        alpha = await world.node("alpha", organization=acme, region="eu", capabilities=ADMIN)
        beta = await world.node("beta", organization=acme, bootstrap=[alpha])
        await asyncio.sleep(SETTLE_S)
        found = await why(beta, alpha.peer_id)
        assert found.is_ok and found.verdict.endswith("trusted as a peer of acme"), found
        assert step(found, "certificate").message == "of acme, eu: admin, storage; it ends in 30 d"
        assert step(found, "trust").state == "ok" and "sync" in step(found, "trust").message
        assert step(found, "sync").state == "ok" and step(found, "sync").message.startswith("acme: compared ")
        row = await beta.run(ShowPeer(alpha.peer_id))
        (listed,) = (await beta.run(ListPeers())).items
        for one in (row, listed):
            assert (one.organization, one.trust, one.scopes) == (
                "acme",
                "own-organization",
                ("chunks", "query", "sync"),
            )
            assert one.certified_until and one.synced_at and one.behind == 0
        assert row.capabilities == ("admin", "storage")

    run(scenario)


def test_another_organisation_is_told_from_both_ends_until_both_trust(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme, birch = Organization("acme", world.seed), Organization("birch", world.seed)
        alpha = await world.node("alpha", organization=acme, capabilities=ADMIN)
        beta = await world.node("beta", organization=birch, capabilities=ADMIN)
        found = await why(alpha, beta.address)
        assert not found.is_ok and found.broken == "certificate" and "do not trust each other" in found.verdict
        assert found.mend[0] == "rage trust add birch --ca FILE --scope query,chunks,sync"
        there = step(found, "own certificate")
        assert there.state == "broken" and there.mend[0].startswith("there: rage trust add acme --ca FILE"), there
        await alpha.run(AddTrust("birch", ca=birch.pem, scopes=("chunks",)))
        found = await why(alpha, beta.address)
        assert not found.is_ok and found.broken == "own certificate"
        assert step(found, "certificate").state == "ok", "here all is well now"
        await beta.run(AddTrust("acme", ca=acme.pem, scopes=("query",)))
        found = await why(alpha, beta.address)
        assert found.is_ok and step(found, "trust").message.startswith("trusted for chunks: it may open ")
        assert step(found, "sync").state == "skipped"
        protocols = step(found, "protocols")
        assert protocols.state == "warning" and protocols.mend[0].endswith("--scope chunks"), "there: no scope chunks"

    run(scenario)


def test_an_open_node_and_one_without_a_certificate_are_strangers_with_a_mend(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        alpha = await world.node("alpha", organization=acme)
        opened = await world.node("opened")
        found = await why(alpha, opened.address)
        assert not found.is_ok and found.broken == "certificate"
        assert step(found, "certificate").message == "it shows no certificate"
        bare = await world.node("bare", organization=acme)
        await world.leave(bare)
        (bare.home.certs / "node.crt").unlink()
        bare.prepare = None
        await world.join(bare)
        found = await why(bare, alpha.address)
        assert not found.is_ok and found.broken == "own certificate" and "rage cert request" in found.mend[0]
        assert step(found, "certificate").state == "ok"
        found = await why(opened, alpha.address)
        assert step(found, "certificate").state == "skipped" or found.broken

    run(scenario)


def test_a_revoked_peer_is_told_as_revoked_on_both_sides(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        alpha = await world.node("alpha", organization=acme, capabilities=ADMIN)
        beta = await world.node("beta", organization=acme, bootstrap=[alpha])
        await asyncio.sleep(SETTLE_S)
        await alpha.run(RevokeCertificate(peer_id=beta.peer_id, reason="stolen"))
        found = await why(alpha, beta.address)
        assert not found.is_ok and found.broken == "certificate"
        assert "withdrawn its certificate" in step(found, "certificate").message
        found = await why(beta, alpha.address)
        assert not found.is_ok and found.broken == "own certificate"
        assert "was withdrawn" in step(found, "own certificate").message

    run(scenario)


# --- chunks and documents ---------------------------------------------------------------------------------------------


def test_a_name_of_the_catalog_is_explained_where_no_byte_is(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        alpha = await world.node("alpha", organization=acme)
        beta = await world.node("beta", organization=acme, bootstrap=[alpha])
        await asyncio.sleep(SETTLE_S)
        root = await alpha.put(world.random.randbytes(50_000), "report.md", "org")
        await asyncio.sleep(SOON_S)
        found = await why(beta, "report.md")
        assert found.is_ok and found.kind == "document" and alpha.peer_id in found.verdict
        catalog = step(found, "catalog")
        assert catalog.message == f"acme has it as report.md, by …{alpha.peer_id[-8:]}; not here"
        rights = step(found, "acl")
        assert rights.state == "ok" and "its visibility is org (rule: visibility)" in rights.message
        assert step(found, "certificate").state == "ok" and step(found, "dht").state == "skipped"
        assert step(found, "policy").state == "skipped"
        (row,) = beta.engine.metadata.log.documents("acme", name="report.md")
        assert (await why(beta, row.doc_id)).is_ok and (await why(beta, root)).kind == "chunk"
        found = await why(alpha, "report.md")
        assert found.is_ok and "counts for it here" in step(found, "acl").message
        with pytest.raises(NotFoundError):
            await why(beta, "no such thing")

    run(scenario)


def test_a_right_that_is_missing_is_the_broken_link_and_granting_it_the_mend(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        alpha = await world.node("alpha", organization=acme)
        beta = await world.node("beta", organization=acme, bootstrap=[alpha])
        await asyncio.sleep(SETTLE_S)
        await alpha.put(world.random.randbytes(50_000), "plan.md", "private")
        await asyncio.sleep(SOON_S)
        found = await why(beta, "plan.md")
        assert not found.is_ok and found.broken == "acl", found
        assert found.mend[0].endswith(f"rage acl grant plan.md peer:{beta.peer_id} read")
        assert "nothing allows it" in step(found, "acl").message and "looks like absence" in step(found, "acl").message
        await alpha.run(GrantAcl("plan.md", f"peer:{beta.peer_id}", "read"))
        await asyncio.sleep(SOON_S)
        found = await why(beta, "plan.md")
        assert found.is_ok and f"peer:{beta.peer_id} is granted read (rule: grants)" in step(found, "acl").message
        await alpha.run(SetAcl("plan.md", visibility="org"))
        await alpha.run(RevokeAcl("plan.md", f"peer:{beta.peer_id}", "read"))
        await asyncio.sleep(SOON_S)
        found = await why(beta, "plan.md")
        assert not found.is_ok and "is denied read (rule: denials)" in step(found, "acl").message

    run(scenario)


def test_what_was_removed_everywhere_is_told_with_the_fact_and_its_author(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        alpha = await world.node("alpha", organization=acme)
        beta = await world.node("beta", organization=acme, bootstrap=[alpha])
        await asyncio.sleep(SETTLE_S)
        root = await alpha.put(world.random.randbytes(50_000), "old.md", "org")
        await alpha.run(RemoveChunk("old.md", everywhere=True, wait_s=5.0))
        await asyncio.sleep(SOON_S)
        for subject in ("old.md", root):
            found = await why(beta, subject)
            assert not found.is_ok and found.broken == "tombstone" and "removed everywhere" in found.verdict
            said = step(found, "tombstone").message
            assert said.startswith(f"old.md was removed everywhere by {alpha.peer_id}: removed (fact "), said
            assert found.mend[0].startswith("rage sync log doc:")
            fact = bytes.fromhex(said.rpartition("fact ")[2].rstrip(")"))
            assert beta.engine.metadata.log.fact(fact).author == alpha.engine.metadata.own
        await beta.put(b"put again", "old.md", "org")
        assert (await why(beta, "old.md")).is_ok

    run(scenario)


def test_an_owner_that_is_away_and_a_root_that_nobody_knows_are_told(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        alpha = await world.node("alpha", organization=acme)
        beta = await world.node("beta", organization=acme, bootstrap=[alpha])
        gamma = await world.node("gamma", organization=acme, bootstrap=[alpha])
        await asyncio.sleep(SETTLE_S)
        await gamma.put(world.random.randbytes(50_000), "report.md", "org")
        await asyncio.sleep(SOON_S)
        await world.leave(gamma)
        await asyncio.sleep(SOON_S)
        found = await why(beta, "report.md")
        assert not found.is_ok and found.broken == "peers" and step(found, "acl").state == "ok"
        owner = step(found, "owner")
        assert gamma.peer_id in owner.message and f"rage why {gamma.peer_id}" in owner.mend
        found = await why(beta, str(Cid.of(b"nobody has this")))
        assert not found.is_ok and step(found, "catalog").state == "warning"
        assert "a refusal looks like absence" in step(found, "acl").message

    run(scenario)


def test_a_name_of_several_documents_is_asked_back(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        alpha = await world.node("alpha", organization=acme)
        beta = await world.node("beta", organization=acme, bootstrap=[alpha])
        gamma = await world.node("gamma", organization=acme, bootstrap=[alpha])
        await asyncio.sleep(SETTLE_S)
        await alpha.put(b"one", "notes", "org")
        await beta.put(b"another", "notes", "org")
        await asyncio.sleep(SOON_S)
        with pytest.raises(UsageError) as error:
            await why(gamma, "notes")
        assert len(error.value.mend) == 2 and all(mend.startswith("rage why ") for mend in error.value.mend)

    run(scenario)
