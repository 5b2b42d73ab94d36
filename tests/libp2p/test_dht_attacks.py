"""The DHT under attack, one test each: peers that answer what they like, and peers that leave what they like."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from rage_lab.sim.virtual_loop import VirtualLoop
from rage_net.libp2p import varint
from rage_net.libp2p.dht import Dht, Hop
from rage_net.libp2p.errors import Libp2pError, StreamResetError
from rage_net.libp2p.kad import rates
from rage_net.libp2p.kad.contact import Contact
from rage_net.libp2p.kad.groups import network_of
from rage_net.libp2p.kad.keys import place_of
from rage_net.libp2p.kad.messages import MESSAGE_BYTES_MAX, PROTOCOL, Kind, Message, PeerInfo, Record, decode, frame
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.swarm import Stream, Swarm
from tests.libp2p.dht_world import World, address, ask, join, multihash, peer_id, told

pytestmark = pytest.mark.anyio

ROOT = multihash(b"a root")
Reply = Callable[[Message], bytes]


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"loop_factory": VirtualLoop}


@pytest.fixture
async def world(rng: random.Random) -> AsyncIterator[World]:
    async with AsyncExitStack() as life:
        yield World(rng, life)


async def hostile(world: World, name: str, reply: Reply) -> Swarm:
    """A peer that says it is a server, and answers each request with whatever bytes `reply` gives."""
    swarm = await world.swarm(name)

    async def serve(stream: Stream) -> None:
        request = decode(await stream.read_message(MESSAGE_BYTES_MAX))
        await stream.write(reply(request))

    swarm.handle(PROTOCOL, serve)
    return swarm


def closer(*peers: PeerInfo) -> Reply:
    return lambda request: frame(Message(request.kind, request.key, closer=peers))


async def meet(dht: Dht, swarm: Swarm) -> None:
    await dht.swarm.dial(swarm.peer_id, swarm.listen_addresses())
    await asyncio.sleep(1)


def no_failures(*dhts: Dht) -> None:
    for dht in dhts:
        assert dht.swarm.counts["handler_errors"] == dht.swarm.counts["task_errors"] == dht.counts["task_errors"] == 0


# -- answers


async def test_an_answer_with_a_million_peers_costs_its_sender_the_question(world: World) -> None:
    one = b"\x42\x28\x0a\x26" + bytes(peer_id(world.rng))

    def flood(request: Message) -> bytes:
        return varint.encode(1_000_000 * len(one)) + one * 40_000

    victim, honest = await world.nodes(2)
    liar = await hostile(world, "liar", flood)
    await meet(victim, liar)
    hops: list[Hop] = []
    found = await victim.find_nearest(ROOT, on_hop=hops.append)
    assert [contact.peer_id for contact in found.nearest] == [honest.own]
    assert victim.swarm.budget.unread == 0
    assert liar.peer_id not in {contact.peer_id for contact in victim.table}
    no_failures(victim, honest)


async def test_as_many_peers_as_fit_a_message_count_as_20(world: World) -> None:
    peers = tuple(PeerInfo(peer_id(world.rng), (address("/memory/nowhere"),)) for _ in range(800))
    victim = await world.dht("victim", query_timeout_s=60)
    liar = await hostile(world, "liar", closer(*peers))
    await meet(victim, liar)
    assert len(frame(Message(Kind.FIND_NODE, closer=peers))) < MESSAGE_BYTES_MAX
    found = await victim.find_nearest(ROOT)
    assert found.asked <= 21
    assert len(victim.table) == 1


async def test_loopback_and_unroutable_addresses_are_not_dialled_for_who_is_far_away(world: World) -> None:
    dialled: list[str] = []
    victim = await world.dht("victim", accept_address=lambda one, source: one.parts[0].value.startswith("good"))
    transport = victim.swarm._transports[0]
    dial = transport.dial

    async def watched(to: Multiaddr) -> Any:
        dialled.append(str(to))
        return await dial(to)

    transport.dial = watched  # type: ignore[method-assign]
    peers = tuple(
        PeerInfo(peer_id(world.rng), (address(text),))
        for text in ("/memory/inside", "/ip4/127.0.0.1/tcp/22", "/ip4/10.0.0.1/tcp/80", "/ip4/0.0.0.0/tcp/1")
    )
    liar = await hostile(world, "good-liar", closer(*peers, PeerInfo(peer_id(world.rng), (address("/memory/good"),))))
    await meet(victim, liar)
    dialled.clear()
    await victim.find_nearest(ROOT)
    assert dialled == ["/memory/good"]


async def test_the_default_rule_is_the_scope_of_who_tells(world: World) -> None:
    victim = await world.dht("victim")
    believe = victim._asking._believe  # type: ignore[attr-defined]
    who = peer_id(world.rng)
    inside = PeerInfo(who, (address("/ip4/127.0.0.1/tcp/22"), address("/ip4/10.0.0.1/tcp/80")))
    (far,) = believe([inside], address("/ip4/60.1.2.3/tcp/4001"))
    (near,) = believe([inside], address("/ip4/10.9.9.9/tcp/4001"))
    assert far.addresses == ()
    assert near.addresses == (address("/ip4/10.0.0.1/tcp/80"),)


async def test_an_answer_that_names_us_or_our_addresses_leads_nowhere(world: World) -> None:
    victim = await world.dht("victim")
    impostor = PeerInfo(peer_id(world.rng), tuple(victim.swarm.listen_addresses()))
    liar = await hostile(world, "liar", closer(told(victim), impostor))
    await meet(victim, liar)
    found = await victim.find_nearest(ROOT)
    assert (found.asked, found.failed) == (1, 0)
    assert victim.own not in {contact.peer_id for contact in victim.table}


async def test_wrong_distances_do_not_lead_away_from_the_nearest(world: World) -> None:
    nodes = await world.nodes(10)
    far_first = sorted(map(told, nodes), key=lambda peer: -(place_of(bytes(peer.peer_id)) ^ place_of(ROOT)))
    liar = await hostile(world, "liar", closer(*far_first[:5]))
    await meet(nodes[0], liar)
    found = await nodes[0].find_nearest(ROOT)
    assert {contact.peer_id for contact in found.nearest} == {node.own for node in nodes[1:]} | {liar.peer_id}
    places = [contact.place ^ place_of(ROOT) for contact in found.nearest]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "reply",
    [
        lambda request: b"",
        lambda request: b"\xff" * 40,
        lambda request: b"\x05\x08\x04garbage",
        lambda request: frame(Message(Kind.PING)),
        lambda request: frame(Message(request.kind))[:-1],
        lambda request: frame(Message(Kind.GET_VALUE, record=Record(b"other", b"value"))),
    ],
    ids=["nothing", "no length", "no protobuf", "another kind", "cut", "another answer"],
)
async def test_a_malformed_answer_is_no_answer(world: World, reply: Reply) -> None:
    victim, honest = await world.nodes(2)
    liar = await hostile(world, "liar", reply)
    await meet(victim, liar)
    found = await victim.find_nearest(ROOT)
    assert [contact.peer_id for contact in found.nearest] == [honest.own]
    assert liar.peer_id not in {contact.peer_id for contact in victim.table}
    no_failures(victim, honest)


async def test_a_peer_that_never_answers_holds_nobody_up_and_enters_no_table(world: World) -> None:
    nodes = await world.nodes(6)
    silent = await world.swarm("silent")

    async def never(stream: Stream) -> None:
        await asyncio.sleep(3600)

    silent.handle(PROTOCOL, never)
    await meet(nodes[0], silent)
    await asyncio.sleep(10)
    assert silent.peer_id not in {contact.peer_id for contact in nodes[0].table}
    nodes[0].table.answered(
        nodes[0]._node(Contact.of(silent.peer_id, silent.listen_addresses())), world.now()
    )  # it had answered once
    found = await nodes[0].find_nearest(ROOT)
    assert len(found.nearest) == 5
    assert found.seconds == pytest.approx(5.0, abs=0.5)  # its own time-out, beside which all others were asked
    no_failures(*nodes)


async def test_a_peer_that_answers_slowly_is_waited_for_beside_others(world: World) -> None:
    nodes = await world.nodes(8)
    slow = await world.swarm("slow")

    async def late(stream: Stream) -> None:
        request = decode(await stream.read_message(MESSAGE_BYTES_MAX))
        await asyncio.sleep(2)
        await stream.write(closer(*map(told, nodes))(request))

    slow.handle(PROTOCOL, late)
    await meet(nodes[0], slow)
    await asyncio.sleep(5)
    hops: list[Hop] = []
    found = await nodes[0].find_nearest(ROOT, on_hop=hops.append)
    assert hops[-1].contact.peer_id == slow.peer_id and hops[-1].outcome == "answered"
    assert len(found.nearest) == 8
    assert found.seconds < 2.5


async def test_a_million_made_up_providers_hide_none_that_is_there(world: World) -> None:
    nodes = await world.nodes(6)
    await nodes[1].provide(ROOT)

    def lie(request: Message) -> bytes:
        made_up = tuple(PeerInfo(peer_id(world.rng), (address("/memory/x"),)) for _ in range(64))
        return frame(Message(request.kind, request.key, providers=made_up))

    for number in range(3):
        await meet(nodes[0], await hostile(world, f"liar{number}", lie))
    found = [provider.peer_id async for provider in nodes[0].find_providers(ROOT, limit=20)]
    assert nodes[1].own in found
    assert len(found) == 20


async def test_many_keys_of_one_host_that_say_they_have_it_hide_none_of_another_host(world: World) -> None:
    nodes = await world.nodes(6)
    honest = PeerInfo(peer_id(world.rng), (address("/ip4/9.9.9.9/tcp/4001"),))
    crowd = [PeerInfo(peer_id(world.rng), (address(f"/ip4/8.8.8.8/tcp/{4001 + number}"),)) for number in range(63)]
    for node in nodes:  # as if each had announced itself, from where it is
        for one in (*crowd, honest):
            node.providers.add(ROOT, one.peer_id, one.addresses, world.now(), group=network_of(one.addresses[0]))
    for _ in range(5):
        found = [provider.peer_id async for provider in nodes[0].find_providers(ROOT, limit=16)]
        assert honest.peer_id in found and len(found) == 16


# -- what is left with us


async def refused(swarm: Swarm, dht: Dht, *requests: Message) -> None:
    with pytest.raises((StreamResetError, Libp2pError)):
        await ask(swarm, dht, *requests, Message(Kind.PING))


async def test_records_of_other_peers_are_refused(world: World) -> None:
    victim, other = await world.nodes(2)
    liar = await world.swarm("liar")
    await refused(liar, victim, Message(Kind.ADD_PROVIDER, ROOT, providers=(told(other),)))
    await refused(liar, victim, Message(Kind.ADD_PROVIDER, ROOT))
    assert len(victim.providers) == 0
    assert victim.counts["foreign_records"] == 2
    mixed = Message(Kind.ADD_PROVIDER, ROOT, providers=(told(other), PeerInfo(liar.peer_id)))
    await ask(liar, victim, mixed, Message(Kind.PING))
    assert [provider.peer_id for provider in victim.providers.get(ROOT, world.now())] == [liar.peer_id]
    no_failures(victim)


async def test_a_provider_is_recorded_at_the_host_it_speaks_from_alone(world: World) -> None:
    (victim,) = await world.nodes(1)
    liar = await world.swarm("liar")
    claimed = tuple(map(address, ("/memory/bystander", "/memory/liar", "/ip4/60.1.2.3/tcp/80", "/ip4/0.0.0.0/tcp/1")))
    record = Message(Kind.ADD_PROVIDER, ROOT, providers=(PeerInfo(liar.peer_id, claimed),))
    await ask(liar, victim, record, Message(Kind.PING))
    (kept,) = victim.providers.get(ROOT, world.now())
    assert kept.addresses == (address("/memory/liar"),)


async def test_a_flood_of_records_is_cut_off_and_others_are_served(world: World) -> None:
    victim, other = await world.nodes(2)
    flood = await world.swarm("flood")
    own = PeerInfo(flood.peer_id, tuple(flood.listen_addresses()))
    for start in range(0, 12_000, 1000):
        records = [
            Message(Kind.ADD_PROVIDER, multihash(b"%d" % number), providers=(own,))
            for number in range(start, start + 1000)
        ]
        try:
            await ask(flood, victim, *records, Message(Kind.PING))
        except Libp2pError:
            continue
    assert len(victim.providers) <= rates.RECORDS_BURST + 20 * rates.RECORDS_S
    assert victim.counts["rate_limited"] >= 1
    assert await other.provide(ROOT) >= 1
    no_failures(victim)


async def test_a_flood_of_questions_is_cut_off(world: World) -> None:
    (victim,) = await world.nodes(1)
    flood = await world.swarm("flood")
    await refused(flood, victim, *[Message(Kind.FIND_NODE, b"key")] * 1000)
    assert victim.counts["find_node"] <= rates.QUESTIONS_BURST + rates.QUESTIONS_S
    assert victim.counts["rate_limited"] == 1
    no_failures(victim)


async def test_tiny_messages_without_end_cost_a_stream(world: World) -> None:
    (victim,) = await world.nodes(1)
    flood = await world.swarm("flood")
    connection = await flood.dial(victim.own, victim.swarm.listen_addresses())
    with pytest.raises((StreamResetError, Libp2pError)):
        stream = await connection.open_stream([PROTOCOL], initial=frame(Message(Kind.PING)) * 60_000)
        while await stream.read():
            pass
    assert victim.counts["rate_limited"] == 1
    no_failures(victim)


async def test_streams_that_stay_open_are_bounded_and_end(world: World) -> None:
    (victim,) = await world.nodes(1)
    flood = await world.swarm("flood")
    connection = await flood.dial(victim.own, victim.swarm.listen_addresses())
    for _ in range(60):
        await connection.open_stream([PROTOCOL], initial=b"\x05")
    await asyncio.sleep(1)
    assert victim.counts["streams_refused"] == 28
    assert connection.session.streams
    await asyncio.sleep(31)
    assert victim._server._serving == {}
    no_failures(victim)


async def test_values_without_rule_or_proof_or_end_are_refused(world: World) -> None:
    (victim,) = await world.nodes(1)
    liar = await world.swarm("liar")
    for key in (b"/unknown/key", b"/pk/" + bytes(victim.own), b"no path"):
        await refused(liar, victim, Message(Kind.PUT_VALUE, key, Record(key, b"value")))
    await refused(liar, victim, Message(Kind.PUT_VALUE, b"/pk/a", Record(b"/pk/b", b"value")))
    await refused(liar, victim, Message(Kind.PUT_VALUE, b"/pk/a"))
    assert len(victim.values) == 0
    no_failures(victim)


async def test_a_false_value_in_an_answer_is_not_believed(world: World) -> None:
    nodes = await world.nodes(3)
    key = b"/pk/" + bytes(nodes[1].own)
    liar = await hostile(
        world,
        "liar",
        lambda request: frame(Message(request.kind, request.key, Record(request.key, b"\x08\x01\x12\x01x"))),
    )
    await meet(nodes[0], liar)
    assert await nodes[0].get_value(key) is None
    assert nodes[0].counts["values_refused"] == 1


# -- the table


async def test_peers_that_only_say_they_are_servers_enter_no_table(world: World) -> None:
    victim = await world.dht("victim")
    for number in range(10):
        await meet(victim, await hostile(world, f"mute{number}", lambda request: b""))
    await asyncio.sleep(10)
    assert len(victim.table) == 0


async def test_peers_that_others_tell_of_enter_no_table_before_they_answer(world: World) -> None:
    victim, honest = await world.nodes(2)
    made_up = tuple(PeerInfo(peer_id(world.rng), (address("/memory/nowhere"),)) for _ in range(20))
    liar = await hostile(world, "liar", closer(*made_up))
    await meet(victim, liar)
    await victim.find_nearest(ROOT)
    await victim.bootstrap()
    assert {contact.peer_id for contact in victim.table} == {honest.own, liar.peer_id}


async def test_a_client_that_asks_enters_no_table(world: World) -> None:
    nodes = await world.nodes(2)
    client = await world.dht("client", mode="client")
    await join(client, nodes[0])
    for _ in range(5):
        await client.find_nearest(ROOT)
    await ask(client.swarm, nodes[0], Message(Kind.FIND_NODE, bytes(client.own)))
    await asyncio.sleep(10)
    assert all(client.own not in {contact.peer_id for contact in node.table} for node in nodes)


async def test_addresses_from_nearby_are_not_told_to_the_far(world: World) -> None:
    (victim,) = await world.nodes(1)
    near, private = address("/memory/n9"), address("/ip4/10.1.1.1/tcp/1")
    public = address("/ip4/60.1.2.3/tcp/1")
    known = Contact.of(peer_id(world.rng), [near, private, public])
    victim.table.answered(victim._node(known), 0.0)
    for asker, expected in ((near, {near, private, public}), (private, {private, public}), (public, {public})):
        (one,) = victim._server._answers._closer(ROOT, asker_at(world, asker))
        assert set(one.addresses) == expected


def asker_at(world: World, place: Multiaddr) -> Any:
    from rage_net.libp2p.kad.answers import Asker

    return Asker(peer_id(world.rng), place)
