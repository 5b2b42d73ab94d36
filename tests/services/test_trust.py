"""Trust between nodes: who may open what, and every way to be let in that must not work; under a clock of its own."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rage_lab.sim.env import EPOCH_S
from rage_lab.sim.virtual_loop import VirtualLoop
from rage_net import keys, messages
from rage_net.acl import SCOPES
from rage_net.cert import Anchor
from rage_net.cert.words import LEEWAY_S
from rage_net.errors import ConfigError
from rage_net.libp2p.errors import Libp2pError, NegotiationError, NotAdmittedError, StreamClosedError, StreamResetError
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.swarm import Connected, Disconnected, Identified
from rage_net.messages import CHUNK_PROTOCOL, QUERY_PROTOCOL, SYNC_PROTOCOL, TRUST_PROTOCOL
from rage_net.services.trust import REFRESH_EVERY_S, REQUESTS_BURST, TRUST_S_MAX, Files, Trust
from tests.services.trust_world import DAY_S, Authority, Node, ShiftedEnv, TrustWorld, write_pem

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"loop_factory": VirtualLoop}


@pytest.fixture
async def world(rng: random.Random, tmp_path: Path) -> AsyncIterator[TrustWorld]:
    async with AsyncExitStack() as stack:
        yield TrustWorld(stack, rng, tmp_path)


@asynccontextmanager
async def refreshed(node: Node) -> AsyncIterator[None]:
    """The job of a node that looks at its standings."""

    async def look() -> None:
        while True:
            await node.trust.refresh()
            await asyncio.sleep(REFRESH_EVERY_S)

    task = asyncio.create_task(look())
    yield
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_two_nodes_of_one_organisation_trust_each_other_before_either_is_offered(world: TrustWorld) -> None:
    acme = world.authority("acme")
    one, two = await world.node("one", acme), await world.node("two", acme)
    await one.dial(two)
    assert one.reason(two) == "own-organization"
    await asyncio.sleep(1)
    for here, there in ((one, two), (two, one)):
        assert here.sees(there) and here.reason(there) == "own-organization"
        principal = here.trust.principal_of(there.peer_id)
        assert principal.organization == "acme" and principal.capabilities == {"storage"}
        assert principal.scopes == {"chunks", "query", "sync"}
        for protocol in (CHUNK_PROTOCOL, QUERY_PROTOCOL, SYNC_PROTOCOL):
            assert await here.ask(there, protocol) == there.name
        assert [type(event) for event in here.events[:1]] == [Connected]
        assert here.swarm.counts["protocols_refused"] == 0, "nothing is asked for before it may be"
        assert CHUNK_PROTOCOL in here.swarm.connections()[0].identify.protocols  # type: ignore[union-attr]


async def test_a_stranger_gets_identify_and_ping_and_is_dropped(world: TrustWorld) -> None:
    acme = world.authority("acme")
    certified, stranger = await world.node("certified", acme), await world.node("stranger", None)
    connection = await stranger.dial(certified)
    await asyncio.sleep(1)
    assert await stranger.swarm.ping(certified.peer_id) >= 0
    assert connection.identify is not None
    assert set(connection.identify.protocols) == {
        "/ipfs/id/1.0.0",
        "/ipfs/id/push/1.0.0",
        "/ipfs/ping/1.0.0",
        "/rage/trust/1.0.0",
    }
    for protocol in (CHUNK_PROTOCOL, QUERY_PROTOCOL, SYNC_PROTOCOL):
        with pytest.raises(NegotiationError):
            await stranger.ask(certified, protocol)
    assert certified.opened == [] and certified.events == []
    await asyncio.sleep(TRUST_S_MAX)
    assert not certified.is_linked(stranger) and not stranger.is_linked(certified)
    assert certified.trust.counts["dropped"] == 1
    assert certified.events == [], "who was never offered does not leave"


async def test_a_certified_node_does_not_use_an_open_one(world: TrustWorld) -> None:
    certified, opened = await world.node("certified", world.authority("acme")), await world.node("open", None)
    with pytest.raises(NotAdmittedError) as error:
        await certified.dial(opened)
    assert error.value.refusal == "cert-missing"
    with pytest.raises(NotAdmittedError):
        await certified.dial(opened)
    assert certified.swarm.connections() == []
    await asyncio.sleep(TRUST_S_MAX + 1)
    assert not certified.is_linked(opened)


# --- what trust opens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["chunks", "query", "sync"])
async def test_another_organisation_opens_what_its_scopes_say(world: TrustWorld, scope: str) -> None:
    acme, other = world.authority("acme"), world.authority("other")
    ours, theirs = await world.node("ours", acme), await world.node("theirs", other)
    ours.store.anchors = [other.anchor(scope)]
    theirs.store.anchors = [acme.anchor("chunks", "query", "sync")]
    await theirs.dial(ours)
    await asyncio.sleep(1)
    assert ours.reason(theirs) == "federated" and ours.trust.principal_of(theirs.peer_id).scopes == {scope}
    for protocol, needed in ((CHUNK_PROTOCOL, "chunks"), (QUERY_PROTOCOL, "query"), (SYNC_PROTOCOL, "sync")):
        if needed == scope:
            assert await theirs.ask(ours, protocol) == "ours"
        else:
            with pytest.raises(NegotiationError):
                await theirs.ask(ours, protocol)
        assert await ours.ask(theirs, protocol) == "theirs"
    assert not ours.trust.may_join(theirs.peer_id, "rage.org.acme")
    assert not ours.trust.may_join(theirs.peer_id, "rage.org.other"), "what is another's is spoken of there"
    assert ours.trust.may_join(theirs.peer_id, "rage.acl.updates") == (scope == "sync")


async def test_who_does_not_trust_us_is_not_used(world: TrustWorld) -> None:
    acme, other = world.authority("acme"), world.authority("other")
    ours, theirs = await world.node("ours", acme), await world.node("theirs", other)
    ours.store.anchors = [other.anchor("chunks")]
    with pytest.raises(NotAdmittedError) as error:
        await ours.dial(theirs)
    assert error.value.refusal == "cert-untrusted" == ours.trust.refused_by(theirs.peer_id)
    assert ours.reason(theirs) == "federated", "we would have"
    await asyncio.sleep(2 * TRUST_S_MAX)
    with pytest.raises(NotAdmittedError):
        await theirs.dial(ours)
    await asyncio.sleep(1)
    assert not ours.sees(theirs) and ours.trust.refused_by(theirs.peer_id), "nor when it dialled"
    await asyncio.sleep(2 * TRUST_S_MAX)
    with pytest.raises(NotAdmittedError):
        await ours.dial(theirs)
    theirs.store.anchors = [acme.anchor("chunks")]
    theirs.trust.reconsider()
    await ours.trust.greet_all()
    assert ours.sees(theirs) and theirs.sees(ours)


async def test_topics_are_for_the_trusted(world: TrustWorld) -> None:
    acme = world.authority("acme")
    one, two, stranger = await world.node("one", acme), await world.node("two", acme), await world.node("s", None)
    await one.dial(two)
    await stranger.dial(one)
    await asyncio.sleep(1)
    for topic, is_ours in (("rage.global", True), ("rage.org.acme", True), ("rage.acl.updates", True), ("news", True)):
        assert one.trust.may_join(two.peer_id, topic) == is_ours
        assert not one.trust.may_join(stranger.peer_id, topic)
    assert not one.trust.may_join(two.peer_id, "rage.org.other")
    assert one.trust.may_join_ourselves("rage.org.acme") and not one.trust.may_join_ourselves("rage.org.other")
    assert stranger.trust.may_join(one.peer_id, "news")
    assert not stranger.trust.may_join(one.peer_id, "rage.org.acme"), "an open node believes no claim"


async def test_open_nodes_speak_as_before(world: TrustWorld) -> None:
    one, two = await world.node("one", None), await world.node("two", None)
    await one.dial(two)
    assert await one.ask(two) == "two" and await two.ask(one) == "one"
    assert one.trust.standings() == [] and one.trust.problems() == []
    assert one.trust.principal_of(two.peer_id).organization == ""


async def test_with_public_access_a_stranger_may_ask_for_chunks_and_nothing_else(world: TrustWorld) -> None:
    certified = await world.node("certified", world.authority("acme"), public_access=True)
    stranger = await world.node("stranger", None)
    await stranger.dial(certified)
    assert await stranger.ask(certified) == "certified"
    for protocol in (QUERY_PROTOCOL, SYNC_PROTOCOL):
        with pytest.raises(NegotiationError):
            await stranger.ask(certified, protocol)
    await asyncio.sleep(2 * TRUST_S_MAX)
    assert certified.sees(stranger), "it is not dropped"
    assert certified.trust.principal_of(stranger.peer_id).organization == ""


async def test_with_web_of_trust_an_organisation_vouches_for_another_but_never_for_our_name(world: TrustWorld) -> None:
    acme, friend, third = (world.authority(name) for name in ("acme", "friend", "third"))
    strict, trusting = await world.node("strict", acme), await world.node("trusting", acme, path_max=1)
    for node in (strict, trusting):
        node.store.anchors = [friend.anchor("chunks", "sync")]
    key = keys.generate(world.rng)
    chain = (third.certify(key), friend.vouch(third.ca))
    asker = await world.raw("asker", key)
    assert (await asker.hello(strict, *chain)).reason == "cert-wrong-organization"
    response = await asker.hello(trusting, *chain)
    assert (response.status, response.reason) == (200, "vouched")
    assert trusting.trust.principal_of(asker.peer_id).scopes == {"chunks"}, "not for the log"
    assert trusting.trust.principal_of(asker.peer_id).organization == "third"
    forged = world.authority("acme")
    forger_key = keys.generate(world.rng)
    forger = await world.raw("forger", forger_key)
    response = await forger.hello(trusting, forged.certify(forger_key), friend.vouch(forged.ca))
    assert (response.status, response.reason) == (403, "cert-wrong-organization")


# --- every way in that must not work ----------------------------------------------------------------------------------


async def test_a_silent_stranger_that_opens_the_protocol_and_says_nothing_is_dropped(world: TrustWorld) -> None:
    node, silent = await world.node("node", world.authority("acme")), await world.raw("silent")
    connection = await silent.swarm.dial(node.peer_id, node.swarm.listen_addresses())
    stream = await connection.open_stream([TRUST_PROTOCOL])
    await stream.write(b"\x80")
    await asyncio.sleep(TRUST_S_MAX + 1)
    assert connection.is_lost and not node.swarm.is_linked(silent.peer_id)


async def test_another_peers_certificate_opens_nothing(world: TrustWorld) -> None:
    acme = world.authority("acme")
    victim, node = await world.node("victim", acme), await world.node("node", acme)
    thief = await world.raw("thief")
    response = await thief.hello(node, *victim.trust.credentials.chain)
    assert (response.status, response.reason) == (403, "cert-other-peer")
    assert not await thief.opens(node)


async def test_a_ca_speaks_for_its_own_organisation_alone(world: TrustWorld) -> None:
    acme, other = world.authority("acme"), world.authority("other")
    node = await world.node("node", acme)
    node.store.anchors = [other.anchor("chunks", "query", "sync"), Anchor("acme", other.der, SCOPES)]
    key = keys.generate(world.rng)
    asker = await world.raw("asker", key)
    response = await asker.hello(node, other.certify(key, organization="acme"))
    assert (response.status, response.reason) == (403, "cert-wrong-organization")
    assert not await asker.opens(node)


async def test_a_self_signed_certificate_opens_nothing(world: TrustWorld) -> None:
    node, key = await world.node("node", world.authority("acme")), keys.generate(world.rng)
    asker, own = await world.raw("asker", key), Authority("acme", world.rng, key=key)
    response = await asker.hello(node, own.certify(key))
    assert (response.status, response.reason) == (403, "cert-untrusted")
    assert not await asker.opens(node)


async def test_a_chain_that_loops_ends(world: TrustWorld) -> None:
    node, key = await world.node("node", world.authority("acme")), keys.generate(world.rng)
    asker, one, two = await world.raw("asker", key), world.authority("one"), world.authority("two")
    loop = [one.vouch(two.ca), two.vouch(one.ca)]
    response = await asker.hello(node, one.certify(key), *loop, *loop, *loop)
    assert (response.status, response.reason) == (403, "cert-untrusted")
    assert not await asker.opens(node)


async def test_a_chain_of_a_hundred_is_refused_before_it_is_parsed(world: TrustWorld) -> None:
    node, key = await world.node("node", world.authority("acme")), keys.generate(world.rng)
    asker, own = await world.raw("asker", key), world.authority("acme")
    response = await asker.hello(node, own.certify(key), *[own.der] * 99)
    assert (response.status, response.reason) == (400, "malformed")
    assert node.trust.standing(asker.peer_id) is None and not await asker.opens(node)


@pytest.mark.parametrize("data", [b"", b"\xff" * 40], ids=["none", "junk"])
async def test_what_is_no_request_opens_nothing(world: TrustWorld, data: bytes) -> None:
    node, asker = await world.node("node", world.authority("acme")), await world.raw("asker")
    response = await asker.say(node, data)
    assert response.status == 400
    assert node.trust.counts["malformed"] == 1 and not await asker.opens(node)
    assert node.swarm.counts["handler_errors"] == 0


async def test_a_request_that_is_too_long_is_not_read(world: TrustWorld) -> None:
    node, asker = await world.node("node", world.authority("acme")), await world.raw("asker")
    with pytest.raises(StreamResetError):
        await asker.say(node, bytes(messages.TRUST_BYTES_MAX + 1))
    assert node.trust.standings() == [] and not await asker.opens(node)


async def test_a_peer_that_takes_its_certificate_back_is_cut(world: TrustWorld) -> None:
    acme, key = world.authority("acme"), keys.generate(world.rng)
    node, peer = await world.node("node", acme), await world.raw("peer", key)
    assert (await peer.hello(node, acme.certify(key))).status == 200
    assert await peer.opens(node)
    with pytest.raises((Libp2pError, TimeoutError)):  # it is cut before it hears of it
        await peer.hello(node)
    assert not node.swarm.is_linked(peer.peer_id) and node.trust.standing(peer.peer_id) is None


async def test_who_floods_with_hellos_is_cut(world: TrustWorld) -> None:
    acme, key = world.authority("acme"), keys.generate(world.rng)
    node, peer = await world.node("node", acme), await world.raw("peer", key)
    other = world.authority("acme")
    with pytest.raises((Libp2pError, TimeoutError)):
        for _ in range(REQUESTS_BURST + 1):
            assert (await peer.hello(node, other.certify(key))).status == 403
    await asyncio.sleep(1)
    assert node.trust.counts["floods"] == 1 and not node.swarm.is_linked(peer.peer_id)


async def test_a_home_whose_commands_come_one_after_another_is_let_in_each_time(world: TrustWorld) -> None:
    acme, key = world.authority("acme"), keys.generate(world.rng)
    node, certificate = await world.node("node", acme), acme.certify(key)
    for number in range(3 * REQUESTS_BURST):
        command = await world.raw(f"command{number}", key)
        assert (await command.hello(node, certificate)).status == 200
        await command.swarm.close()
    assert node.trust.counts["floods"] == 0


async def test_a_certificate_that_expires_cuts_the_connection(world: TrustWorld) -> None:
    acme, key = world.authority("acme"), keys.generate(world.rng)
    node = await world.node("node", acme, chain=None)
    peer = await world.node("peer", acme, key=key, chain=[acme.certify(key, days=1)])
    world.later(DAY_S - 60)
    await peer.dial(node)
    async with refreshed(node):
        await asyncio.sleep(60 + LEEWAY_S - 1)
        assert node.sees(peer) and await peer.ask(node) == "node"
        await asyncio.sleep(1 + REFRESH_EVERY_S)
    assert not node.is_linked(peer)
    assert node.trust.counts["cut"] == 1
    with pytest.raises(NotAdmittedError) as error:
        await peer.dial(node)
    assert error.value.refusal == "cert-expired"


@pytest.mark.parametrize("years", [-10, 10])
async def test_a_node_whose_clock_is_ten_years_off_trusts_nobody_and_says_why(world: TrustWorld, years: int) -> None:
    acme = world.authority("acme", now=EPOCH_S - 20 * 365 * DAY_S, years=30)
    node, lost = await world.node("node", acme), await world.node("lost", acme, off_s=years * 365 * DAY_S)
    with pytest.raises(NotAdmittedError) as error:
        await node.dial(lost)
    wanted = "cert-expired" if years > 0 else "cert-not-yet-valid"
    assert error.value.refusal == wanted == node.trust.refused_by(lost.peer_id)
    assert node.reason(lost) == "own-organization", "its certificate is sound: it is its clock that is not"
    (problem,) = lost.trust.problems()
    assert ("expired" if years > 0 else "clock") in problem
    with pytest.raises(NegotiationError):
        await node.ask(lost)


async def test_a_revoked_certificate_is_cut_within_one_look(world: TrustWorld) -> None:
    acme = world.authority("acme")
    node, peer = await world.node("node", acme), await world.node("peer", acme)
    connection = await peer.dial(node)
    stream = await connection.open_stream([CHUNK_PROTOCOL])
    assert await stream.read()
    certificate = peer.trust.credentials.certificate
    assert certificate is not None
    node.store.revoked.add(("acme", certificate.serial))
    assert node.trust.reconsider() == [peer.peer_id]
    assert not node.sees(peer)
    with pytest.raises((StreamClosedError, StreamResetError)):
        await asyncio.sleep(0.1)
        await stream.write(b"more")
    with pytest.raises(NotAdmittedError) as error:
        await peer.dial(node)
    assert error.value.refusal == "cert-revoked"


async def test_trust_that_is_withdrawn_ends_or_narrowed_cuts(world: TrustWorld) -> None:
    acme, other = world.authority("acme"), world.authority("other")
    ours, theirs = await world.node("ours", acme), await world.node("theirs", other)
    theirs.store.anchors = [acme.anchor("chunks", "query", "sync")]
    for before, after in (
        ([other.anchor("chunks")], []),
        ([other.anchor("chunks", "query")], [other.anchor("query")]),
        ([other.anchor("chunks", until=EPOCH_S + 1000)], [other.anchor("chunks", until=EPOCH_S + 1)]),
    ):
        ours.store.anchors = before
        await theirs.dial(ours)
        await asyncio.sleep(2)
        assert ours.sees(theirs)
        ours.store.anchors = after
        ours.trust.reconsider()
        assert not ours.sees(theirs)
        await asyncio.sleep(0)
        assert not ours.is_linked(theirs)
        await asyncio.sleep(2 * TRUST_S_MAX)


async def test_a_peer_that_becomes_trusted_is_offered_at_both_ends(world: TrustWorld) -> None:
    acme, other = world.authority("acme"), world.authority("other")
    ours, theirs = await world.node("ours", acme), await world.node("theirs", other)
    theirs.store.anchors = [acme.anchor("chunks")]
    with pytest.raises(NotAdmittedError):
        await theirs.dial(ours)
    assert not ours.sees(theirs)
    ours.store.anchors = [other.anchor("chunks")]
    ours.trust.reconsider()
    await asyncio.sleep(1)
    assert ours.sees(theirs) and isinstance(ours.events[0], Connected)
    assert theirs.sees(ours) and isinstance(theirs.events[0], Connected), "it is told that it is refused no longer"


# --- connections come and go ------------------------------------------------------------------------------------------


async def test_both_dial_at_once_and_both_are_offered(world: TrustWorld) -> None:
    acme = world.authority("acme")
    one, two = await world.node("one", acme), await world.node("two", acme)
    await asyncio.gather(one.dial(two), two.dial(one))
    await asyncio.sleep(2)
    for here, there in ((one, two), (two, one)):
        assert here.sees(there) and await here.ask(there) == there.name
        assert sum(isinstance(event, Connected) for event in here.events) == 1
    await asyncio.sleep(120)
    assert one.sees(two) and two.sees(one)


async def test_a_standing_ends_with_the_last_connection(world: TrustWorld) -> None:
    acme = world.authority("acme")
    one, two = await world.node("one", acme), await world.node("two", acme)
    connection = await one.dial(two)
    await connection.close()
    await asyncio.sleep(1)
    assert one.trust.standings() == two.trust.standings() == []
    assert not two.trust.may_open(connection, CHUNK_PROTOCOL)
    assert [type(event) for event in two.events if not isinstance(event, Identified)] == [Connected, Disconnected]
    await one.dial(two)
    assert await one.ask(two) == "two"


async def test_a_foreign_peer_that_knows_nothing_of_trust_is_not_used(world: TrustWorld) -> None:
    node, foreign = await world.node("node", world.authority("acme")), await world.raw("foreign")
    await foreign.swarm.listen(Multiaddr.parse("/memory/foreign"))
    with pytest.raises(NotAdmittedError) as error:
        await node.swarm.dial(foreign.peer_id, foreign.swarm.listen_addresses())
    assert error.value.refusal == "cert-missing"


# --- files ------------------------------------------------------------------------------------------------------------


async def test_a_ca_file_that_is_missing_or_no_ca_stops_the_node(world: TrustWorld, tmp_path: Path) -> None:
    acme, key = world.authority("acme"), keys.generate(world.rng)
    swarm = world.swarm("node", key)
    files = [tmp_path / name for name in ("missing", "empty", "words", "leaf", "others")]
    files[1].write_text("")
    files[2].write_text("no certificate\n")
    write_pem(files[3], [acme.certify(key)])
    write_pem(files[4], [acme.der, world.authority("other").der])
    for path in files:
        trust = Trust(swarm, ShiftedEnv("x", 0), Files(path, tmp_path / "node.crt", "acme"))
        with pytest.raises(ConfigError) as error:
            await trust.begin()
        assert error.value.id == "ca-unusable" and error.value.exit_code == 10 and error.value.mend
        assert not trust.is_open


async def test_a_ca_file_that_vanishes_while_the_node_runs_does_not_open_it(world: TrustWorld) -> None:
    acme = world.authority("acme")
    node, stranger = await world.node("node", acme), await world.raw("stranger")
    assert node.ca_file is not None
    node.ca_file.unlink()
    await node.trust.refresh()
    await node.trust.refresh()
    assert [problem for problem in node.trust.problems() if "ca_cert" in problem]
    assert (await stranger.hello(node)).status == 403
    peer = await world.node("peer", acme)
    await peer.dial(node)
    assert await peer.ask(node) == "node", "the last that could be read counts"


async def test_a_ca_is_replaced_while_connections_stand(world: TrustWorld) -> None:
    old, new = world.authority("acme"), world.authority("acme")
    node, late, early = await world.node("node", old), await world.node("late", new), await world.node("early", old)
    write_pem(late.ca_file, [old.der, new.der])
    await late.trust.refresh()
    await early.dial(node)
    with pytest.raises(NotAdmittedError):
        await late.dial(node)
    write_pem(node.ca_file, [old.der, new.der])
    await node.trust.refresh()
    await late.trust.greet_all()
    assert late.sees(node) and await late.ask(node) == "node" and node.sees(early)
    write_pem(node.ca_file, [new.der])
    await node.trust.refresh()
    assert node.sees(late) and not node.sees(early)


async def test_a_node_without_a_certificate_says_so_and_is_a_stranger(world: TrustWorld) -> None:
    acme = world.authority("acme")
    bare, node = await world.node("bare", acme, chain=[]), await world.node("node", acme)
    assert "no certificate" in bare.trust.problems()[0]
    with pytest.raises(NotAdmittedError) as error:
        await bare.dial(node)
    assert error.value.refusal == "cert-missing"


# --- the log ----------------------------------------------------------------------------------------------------------


async def test_with_a_stale_log_certificates_open_what_is_public_alone(world: TrustWorld) -> None:
    acme = world.authority("acme")
    node, peer = await world.node("node", acme, staleness_s_max=3600), await world.node("peer", acme)
    await peer.dial(node)
    world.later(7200)
    assert not node.trust.is_stale(), "it never knew another"
    await peer.dial(node)
    assert node.trust.principal_of(peer.peer_id).organization == "acme"
    node.store.synced = node.env.now() - 3601
    principal = node.trust.principal_of(peer.peer_id)
    assert node.trust.is_stale() and principal.organization == "" and principal.capabilities == frozenset()
    assert principal.scopes == {"chunks", "query", "sync"}, "by which access control tells it from a stranger"
    assert await peer.ask(node, SYNC_PROTOCOL) == "node", "else it could never be mended"
    assert len(node.trust.problems()) == 1
    node.store.synced = node.env.now()
    assert node.trust.principal_of(peer.peer_id).organization == "acme" and node.trust.problems() == []


async def test_a_log_that_was_last_compared_in_the_future_is_stale(world: TrustWorld) -> None:
    """The clock was ten years ahead then: for ten years no revocation would be missed."""
    acme = world.authority("acme")
    node = await world.node("node", acme)
    for off_s, is_stale in (
        (30.0, False),
        (3600.0, True),
        (10 * 365 * DAY_S, True),
        (-3600.0, False),
        (-2 * DAY_S, True),
    ):
        node.store.synced = node.env.now() + off_s
        assert node.trust.is_stale() is is_stale, off_s
