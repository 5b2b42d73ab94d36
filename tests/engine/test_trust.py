"""Trust on whole engines in a simulated world: who gets what, and the verbs that say so."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rage_lab.sim.env import EPOCH_S
from rage_lab.sim.node import Node
from rage_lab.sim.world import World, play, unreplicated
from rage_net import certfiles
from rage_net import home as homes
from rage_net.certfiles import CertFiles
from rage_net.errors import (
    AccessDeniedError,
    CertificateError,
    ConfigError,
    NotFoundError,
    RageError,
    UnavailableError,
    UsageError,
)
from rage_net.home import Home
from rage_net.messages import CHUNK_PROTOCOL
from rage_net.services.presence import ANNOUNCE_S_MIN
from rage_net.verbs.cert import RenewCertificate
from rage_net.verbs.chunk import PutChunk
from rage_net.verbs.peer import ListPeers, PingPeer
from rage_net.verbs.topic import ListTopics
from rage_net.verbs.trust import AddTrust, ListTrust, ProbeTrust, RemoveTrust, ShowTrust
from tests.services.trust_world import Authority, pem

SETTLE_S = 20.0

Play = Callable[[Callable[[World], Awaitable[Any]]], Any]


@pytest.fixture
def run(rng: random.Random, tmp_path: Path) -> Play:
    """Play a scenario once; a failure names its seed."""
    seed = rng.getrandbits(32)
    return lambda scenario: play(unreplicated(scenario), seed, tmp_path).result


async def certified(
    world: World, directory: Path, name: str, authority: Authority, bootstrap: Sequence[Node] = (), **more: Any
) -> Node:
    """A node with a certificate, started."""
    home = Home(directory / name)
    homes.init(home, generator=world.random)
    files = CertFiles.of(home)
    key = homes.load_identity(home.identity)
    certfiles.write_certificates(files.certificate, [authority.certify(key, **more)])
    certfiles.write_certificates(files.bundle, [authority.der])
    flags = {"network.organization_id": authority.organization, "network.security.ca_cert": str(files.bundle)}
    return await world.node(name, bootstrap=bootstrap, flags=flags)


async def put(node: Node, data: bytes, visibility: str) -> str:
    return str((await node.run(PutChunk(visibility=visibility), source=io.BytesIO(data))).root)


async def refused(work: Awaitable[object], kind: type[RageError], id: str) -> RageError:
    with pytest.raises(kind) as error:
        await work
    assert error.value.id == id and error.value.mend, error.value
    return error.value


def test_members_speak_and_a_stranger_gets_nothing(run: Play, tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        acme = Authority("acme", world.random)
        alpha = await certified(world, tmp_path, "alpha", acme)
        beta = await certified(world, tmp_path, "beta", acme, [alpha])
        await asyncio.sleep(SETTLE_S)
        for node in (alpha, beta):
            assert node.online.swarm.counts["protocols_refused"] == 0, "nothing is asked for before it may be"
        stranger = await world.node("stranger", bootstrap=[alpha])
        await asyncio.sleep(SETTLE_S + ANNOUNCE_S_MIN)
        ours, public = [await put(alpha, world.random.randbytes(50_000), kind) for kind in ("org", "public")]
        await asyncio.sleep(SETTLE_S)
        for root in (ours, public):
            assert (await beta.get(root, alpha)).sources["p2p"] > 0
            with pytest.raises(RageError):
                await stranger.get(root, alpha)
            with pytest.raises(RageError):
                await stranger.get(root, beta)
        assert alpha.peers() == [beta.peer_id] and beta.peers() == [alpha.peer_id]
        topics = {row.topic: row for row in (await alpha.run(ListTopics())).items}
        assert topics["rage.org.acme"].peers == topics["rage.acl.updates"].peers == topics["rage.global"].peers == 1
        table = {contact.peer_id for contact in alpha.online.dht.table}  # type: ignore[union-attr]
        assert {str(peer) for peer in table} == {beta.peer_id}
        assert alpha.online.trust.count_peers() == {("acme", "eu"): 1}
        assert alpha.online.problems() == []
        (row,) = (await alpha.run(ListPeers(organization="acme"))).items
        assert (row.trust, row.organization, row.capabilities) == ("own-organization", "acme", ("storage",))

    run(scenario)


def test_open_nodes_and_one_with_a_ca_go_their_ways(run: Play, tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        one = await world.node("one")
        two = await world.node("two", bootstrap=[one])
        alpha = await certified(world, tmp_path, "alpha", Authority("acme", world.random), [one])
        await asyncio.sleep(120)
        assert two.peer_id in one.peers() and alpha.peers() == []
        assert alpha.online.trust.counts["dropped"] > 0
        root = await one.put(b"as before")
        assert (await two.get(root, one)).data == b"as before"
        error = await refused(alpha.run(PingPeer(one.address, 1)), AccessDeniedError, "peer-not-trusted")
        assert "cert-missing" in error.why

    run(scenario)


def test_an_organisation_is_trusted_tested_and_dropped(run: Play, tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        acme, other = Authority("acme", world.random), Authority("other", world.random)
        alpha = await certified(world, tmp_path, "alpha", acme, capabilities=("storage", "admin"))
        gamma = await certified(world, tmp_path, "gamma", other)
        (own,) = (await alpha.run(ListTrust())).items
        assert (own.organization, own.state, own.scopes) == ("acme", "own", ("query", "chunks", "sync"))
        await refused(alpha.run(ShowTrust("other")), NotFoundError, "trust-not-found")
        await refused(alpha.run(RemoveTrust("other")), NotFoundError, "trust-not-found")
        tested = await alpha.run(ProbeTrust(gamma.address))
        assert not tested.is_trusted and tested.reason == "cert-untrusted" == tested.refused_by_peer
        assert CHUNK_PROTOCOL not in tested.opens and tested.message

        wanted = AddTrust("other", pem(other.der), ("chunks", "query"), EPOCH_S + 1000)
        planned = await alpha.run(AddTrust("other", pem(other.der), ("chunks",), None, dry_run=True))
        assert planned.added == 1 and planned.dry_run and planned.items
        added = await alpha.run(wanted)
        assert (added.added, added.reaches) == (1, "organization")
        assert (await alpha.run(wanted)).added == 0, "again changes nothing"
        await gamma.run(AddTrust("acme", pem(acme.der), ("chunks", "query", "sync")))
        tested = await alpha.run(ProbeTrust(gamma.address))
        assert tested.is_trusted and tested.reason == "federated" and not tested.refused_by_peer
        assert tested.scopes == ("query", "chunks") and CHUNK_PROTOCOL in tested.opens
        shown = await alpha.run(ShowTrust("other"))
        assert shown.peers == (gamma.peer_id,) and shown.items[0].state == "trusted"
        assert [row.organization for row in (await alpha.run(ListTrust())).items] == ["acme", "other"]

        planned = await alpha.run(RemoveTrust("other", dry_run=True))
        assert (planned.removed, planned.peers) == (1, (gamma.peer_id,)) and gamma.peer_id in alpha.peers()
        await alpha.run(RemoveTrust("other"))
        assert gamma.peer_id not in alpha.peers()
        await asyncio.sleep(1)
        assert alpha.peer_id not in gamma.peers()

    run(scenario)


def test_what_cannot_be_trusted_is_refused_with_a_mend(run: Play, tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        acme, other = Authority("acme", world.random), Authority("other", world.random)
        alpha = await certified(world, tmp_path, "alpha", acme)
        text = pem(other.der)
        await refused(alpha.run(AddTrust("acme", pem(acme.der), ("query",))), UsageError, "trust-own")
        await refused(alpha.run(RemoveTrust("acme")), UsageError, "trust-own")
        await refused(alpha.run(AddTrust("third", text, ("query",))), CertificateError, "cert-wrong-organization")
        await refused(alpha.run(AddTrust("аcme", text, ("query",))), UsageError, "usage")
        await refused(alpha.run(AddTrust("other", text, ())), UsageError, "usage")
        await refused(alpha.run(AddTrust("other", text, ("all",))), UsageError, "usage")
        await refused(alpha.run(AddTrust("other", text, ("query",), EPOCH_S - 1)), UsageError, "usage")
        await refused(alpha.run(AddTrust("other", "words", ("query",))), CertificateError, "pem-invalid")
        leaf = pem(other.certify(other.key))
        await refused(alpha.run(AddTrust("other", leaf, ("query",))), CertificateError, "cert-not-a-ca")
        old = Authority("other", world.random, now=EPOCH_S - 400 * 86_400, years=1)
        await refused(alpha.run(AddTrust("other", pem(old.der), ("query",))), CertificateError, "cert-expired")
        assert len((await alpha.run(ListTrust())).items) == 1
        opened = await world.node("opened")
        for verb in (ListTrust(), ShowTrust("x"), AddTrust("other", text, ("query",)), ProbeTrust(alpha.address)):
            await refused(opened.run(verb), ConfigError, "no-ca")

    run(scenario)


def test_renewal_is_asked_for_by_name_and_refused_where_nobody_enrols(run: Play, tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        alpha = await certified(world, tmp_path, "alpha", Authority("acme", world.random))
        kept = await alpha.run(RenewCertificate(if_needed=True))
        assert not kept.renewed and kept.organization == "acme" and kept.by == ""
        await refused(alpha.run(RenewCertificate()), UnavailableError, "no-enrolment")

    run(scenario)


def test_a_key_that_others_can_read_keeps_a_node_from_starting(run: Play, tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        alpha = await certified(world, tmp_path, "alpha", Authority("acme", world.random))
        await world.leave(alpha)
        alpha.home.identity.chmod(0o644)
        error = await refused(world.join(alpha), AccessDeniedError, "identity-exposed")
        assert error.mend == (f"chmod 600 {alpha.home.identity}",)
        alpha.home.identity.chmod(0o600)
        await world.join(alpha)

    run(scenario)


def test_a_ca_file_that_is_missing_never_opens_a_node(run: Play, tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        alpha = await certified(world, tmp_path, "alpha", Authority("acme", world.random))
        await world.leave(alpha)
        CertFiles.of(alpha.home).bundle.unlink()
        with pytest.raises(RageError) as error:
            await world.join(alpha)
        assert error.value.exit_code == 10

    run(scenario)
