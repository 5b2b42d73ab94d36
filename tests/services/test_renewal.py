"""Renewal of certificates between nodes: what is renewed, when, and every refusal; under a clock of its own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rage_lab.sim.env import EPOCH_S
from rage_lab.sim.virtual_loop import VirtualLoop
from rage_net import keys
from rage_net.cert import NodeCertificate, issue, secret
from rage_net.certfiles import CertFiles
from rage_net.errors import CertificateError, UnavailableError
from rage_net.services.trust.enrolment import EnrolFiles, Enrolment, Renewal
from tests.services.trust_world import DAY_S, Authority, Node, TrustWorld, write_pem

pytestmark = pytest.mark.anyio

PASSPHRASE = b"correct horse battery"
LIFE_S = 7 * DAY_S


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"loop_factory": VirtualLoop}


@pytest.fixture
async def world(rng: random.Random, tmp_path: Path) -> AsyncIterator[TrustWorld]:
    async with AsyncExitStack() as stack:
        yield TrustWorld(stack, rng, tmp_path)


class Office:
    """A node with an enrolment CA, and nodes that are to be renewed."""

    def __init__(self, world: TrustWorld, capabilities: Sequence[str] = ("storage",)) -> None:
        self.world = world
        self.acme = Authority("acme", world.rng)
        self.key = keys.generate(world.rng)
        self.ca = issue.make_intermediate(
            self.acme.ca,
            self.acme.key,
            self.key.public_key(),
            now=EPOCH_S,
            serial=issue.draw_serial(world.rng),
            capabilities=frozenset(capabilities),
        )
        self.files = EnrolFiles(world.directory / "enrol.crt", world.directory / "enrol.key", world.directory / "pass")
        write_pem(self.files.certificate, [self.ca])
        self.files.key.write_bytes(secret.encode(self.key, PASSPHRASE, world.rng.randbytes(secret.SALT_BYTES)))
        assert self.files.passphrase is not None
        self.files.passphrase.write_bytes(PASSPHRASE + b"\n")
        for path in (self.files.key, self.files.passphrase):
            path.chmod(0o600)

    async def open(self) -> Node:
        """The node that enrols; its own certificate lasts."""
        key = keys.generate(self.world.rng)
        own = self.acme.certify(key, days=90, capabilities=("enrol", "storage"))
        self.node = await self.world.node("office", self.acme, key=key, chain=[own])
        self.enrolment = Enrolment(self.node.trust, self.node.env, self.files)
        self.node.trust.renew = self.enrolment.answer
        return self.node

    async def member(self, name: str, **more: Any) -> tuple[Node, Renewal]:
        """A node that is to be renewed."""
        key = keys.generate(self.world.rng)
        node = await self.world.node(name, self.acme, key=key, chain=[self.acme.certify(key, **more)])

        async def meet() -> None:
            try:
                await node.dial(self.node)
            except Exception:  # what an expired node meets: the connection stands all the same
                assert node.is_linked(self.node)

        renewal = Renewal(
            node.trust,
            node.swarm,
            node.env,
            make_csr=lambda old: csr_of(key, old),
            files=files_of(node),
            meet=meet,
        )
        return node, renewal


def csr_of(key: Ed25519PrivateKey, old: NodeCertificate, **more: Any) -> bytes:
    wanted = {"organization": old.organization, "region": old.region, "capabilities": old.capabilities, **more}
    return issue.make_csr(key, wanted["organization"], wanted["region"], wanted["capabilities"])


def files_of(node: Node) -> CertFiles:
    assert node.ca_file is not None
    return CertFiles(node.own_file.parent, node.own_file, node.ca_file)


def own(node: Node) -> NodeCertificate:
    certificate = node.trust.credentials.certificate
    assert certificate is not None
    return certificate


async def refused(office: Office, node: Node, csr: bytes) -> str:
    """Why the office does not certify `node` anew."""
    peer = await office.world.raw(f"raw-{office.world.rng.random()}", node.key)
    await peer.hello(office.node, *node.trust.credentials.chain)
    response = await peer.renew(office.node, csr)
    assert response.status == 403 and not response.certificates
    return response.reason


async def test_a_certificate_is_renewed_at_two_thirds_of_its_life_and_shown_to_all(world: TrustWorld) -> None:
    office = Office(world)
    await office.open()
    node, renewal = await office.member("node")
    friend, _ = await office.member("friend", days=30)
    before = own(node)
    world.later(LIFE_S * 0.65)
    await node.dial(friend)
    await renewal.renew_if_due()
    assert own(node) == before, "it is not due"
    world.later(LIFE_S * 0.12)
    await node.dial(friend)
    await renewal.renew_if_due()
    after = own(node)
    assert after.serial != before.serial and after.not_after > before.not_after + 0.6 * LIFE_S
    assert (after.peer_id, after.organization, after.region) == (before.peer_id, before.organization, before.region)
    assert after.capabilities == before.capabilities and after.renew_until == before.renew_until
    seen = friend.trust.standing(node.peer_id)
    assert seen is not None and seen.certificate is not None and seen.certificate.serial == after.serial
    assert friend.trust.counts["cut"] == 0, "no connection is lost by it"
    assert node.own_file.read_text().count("BEGIN CERTIFICATE") == 2, "with the enrolment CA"
    assert node.own_file.stat().st_mode & 0o777 == 0o644
    world.later(LIFE_S * 0.4)
    await node.dial(friend)
    assert friend.reason(node) == "own-organization", "beyond the life of the first"


async def test_nodes_certified_together_do_not_come_together(world: TrustWorld) -> None:
    office = Office(world)
    await office.open()
    members = [await office.member(f"node{number}") for number in range(12)]
    due = []
    for hour in range(7 * 24):
        for node, renewal in members:
            if node.name not in dict(due) and renewal.is_due(EPOCH_S + hour * 3600):
                due.append((node.name, hour))
    assert len(due) == 12 and len({hour for _, hour in due}) >= 5
    assert all(111 <= hour <= 127 for _, hour in due)


async def test_an_expired_node_is_renewed_until_the_end_of_renewals(world: TrustWorld) -> None:
    office = Office(world)
    await office.open()
    node, renewal = await office.member("node", days=1, renew_until=EPOCH_S + 30 * DAY_S)
    world.later(5 * DAY_S)
    await renewal.renew_if_due()
    assert own(node).not_after == pytest.approx(EPOCH_S + 6 * DAY_S, abs=3600)
    await asyncio.sleep(1)
    assert node.sees(office.node) and office.node.reason(node) == "own-organization"


async def test_after_the_end_of_renewals_nobody_renews(world: TrustWorld) -> None:
    office = Office(world)
    await office.open()
    node, renewal = await office.member("node", days=1, renew_until=EPOCH_S + 3 * DAY_S)
    world.later(4 * DAY_S)
    with pytest.raises(CertificateError) as error:
        await renewal.renew()
    assert error.value.id == "renew-refused" and error.value.exit_code == 4
    await renewal.renew_if_due()
    assert renewal.problem and node.trust.counts["renewals_failed"] == 1
    await renewal.renew_if_due()
    assert node.trust.counts["renewals_failed"] == 1, "it rests"


async def test_more_than_there_was_is_refused(world: TrustWorld) -> None:
    office = Office(world, capabilities=("storage", "search", "admin"))
    await office.open()
    node, _ = await office.member("node")
    more = csr_of(node.key, own(node), capabilities=frozenset({"storage", "admin"}))
    assert await refused(office, node, more) == "renew-refused"
    assert await refused(office, node, csr_of(node.key, own(node), region="us")) == "renew-refused"


async def test_another_peers_key_is_refused(world: TrustWorld) -> None:
    office = Office(world)
    await office.open()
    node, _ = await office.member("node")
    other, _ = await office.member("other")
    assert await refused(office, node, csr_of(other.key, own(other))) == "renew-refused"


async def test_a_revoked_node_is_not_renewed(world: TrustWorld) -> None:
    office = Office(world)
    await office.open()
    node, _ = await office.member("node")
    office.node.store.revoked.add(("acme", own(node).serial))
    assert await refused(office, node, csr_of(node.key, own(node))) == "cert-revoked"


async def test_who_has_shown_no_certificate_is_refused(world: TrustWorld) -> None:
    office = Office(world)
    await office.open()
    node, _ = await office.member("node")
    peer = await world.raw("peer", node.key)
    response = await peer.renew(office.node, csr_of(node.key, own(node)))
    assert (response.status, response.reason) == (403, "cert-missing")


async def test_what_is_no_request_is_refused(world: TrustWorld) -> None:
    office = Office(world)
    await office.open()
    node, _ = await office.member("node")
    assert await refused(office, node, b"junk") == "cert-malformed"


async def test_a_member_of_a_federated_organisation_is_not_enrolled(world: TrustWorld) -> None:
    office, other = Office(world), Authority("other", world.rng)
    await office.open()
    office.node.store.anchors = [other.anchor("chunks", "query", "sync")]
    key = keys.generate(world.rng)
    peer = await world.raw("peer", key)
    assert (await peer.hello(office.node, other.certify(key))).status == 200
    response = await peer.renew(office.node, issue.make_csr(key, "other", "eu", frozenset({"storage"})))
    assert (response.status, response.reason) == (403, "cert-untrusted")


async def test_a_node_without_the_capability_enrols_nobody(world: TrustWorld) -> None:
    office = Office(world)
    await office.open()
    node, _ = await office.member("node")
    node.trust.renew = Enrolment(node.trust, node.env, office.files).answer
    asker, _ = await office.member("asker")
    peer = await world.raw("peer", asker.key)
    await peer.hello(node, *asker.trust.credentials.chain)
    response = await peer.renew(node, csr_of(asker.key, own(asker)))
    assert (response.status, response.reason) == (404, "no-enrolment")


@pytest.mark.parametrize(
    "fault",
    [
        "key readable by others",
        "passphrase readable by others",
        "wrong passphrase",
        "no passphrase",
        "another key",
        "no CA",
    ],
)
async def test_an_enrolment_ca_that_is_broken_tells_its_operator_and_nobody_else(world: TrustWorld, fault: str) -> None:
    office = Office(world)
    await office.open()
    node, renewal = await office.member("node")
    assert office.files.passphrase is not None
    match fault:
        case "key readable by others":
            office.files.key.chmod(0o644)
        case "passphrase readable by others":
            office.files.passphrase.chmod(0o604)
        case "wrong passphrase":
            office.files.passphrase.write_bytes(b"another one")
        case "no passphrase":
            office.enrolment._files = EnrolFiles(office.files.certificate, office.files.key, None)
        case "another key":
            pem = secret.encode(keys.generate(world.rng), PASSPHRASE, world.rng.randbytes(secret.SALT_BYTES))
            office.files.key.write_bytes(pem)
        case "no CA":
            office.files.certificate.unlink()
    await node.dial(office.node)
    with pytest.raises(UnavailableError) as error:
        await renewal.renew()
    assert error.value.id == "no-enrolment" and "passphrase" not in str(error.value.why)
    assert (office.enrolment.problem and str(world.directory) in office.enrolment.problem) or fault == "no passphrase"


async def test_a_new_certificate_that_is_no_better_is_not_written(world: TrustWorld) -> None:
    office = Office(world)
    await office.open()
    node, renewal = await office.member("node", days=30)
    shorter = own(node).der

    async def answer(*_: Any) -> Any:
        from rage_net.messages import TrustResponse

        return TrustResponse(200, (shorter,), "renewed")

    office.node.trust.renew = answer
    await node.dial(office.node)
    before = node.own_file.read_bytes()
    with pytest.raises(CertificateError):
        await renewal.renew()
    assert node.own_file.read_bytes() == before


async def test_the_office_renews_itself(world: TrustWorld) -> None:
    office = Office(world, capabilities=("storage", "enrol"))
    node = await office.open()
    before = own(node)
    renewal = Renewal(
        node.trust,
        node.swarm,
        node.env,
        make_csr=lambda old: csr_of(node.key, old),
        files=files_of(node),
        meet=nobody,
        own=office.enrolment,
    )
    world.later(DAY_S)
    renewed = await renewal.renew()
    assert own(node) == renewed.certificate and renewed.certificate.serial != before.serial
    assert renewed.by == node.peer_id


async def test_without_anybody_who_enrols_it_says_so(world: TrustWorld) -> None:
    office = Office(world)
    node, _ = await office.member("node")
    renewal = Renewal(
        node.trust, node.swarm, node.env, make_csr=lambda old: csr_of(node.key, old), files=files_of(node), meet=nobody
    )
    with pytest.raises(UnavailableError) as error:
        await renewal.renew()
    assert error.value.id == "no-enrolment" and error.value.mend


async def nobody() -> None:
    """There is nobody to meet."""
