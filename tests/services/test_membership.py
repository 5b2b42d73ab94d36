"""Membership: meeting peers, bans, signs of life; under a clock of its own."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from rage_lab.sim.env import SimulatedEnv
from rage_lab.sim.virtual_loop import VirtualLoop
from rage_net import keys
from rage_net.bans import Bans
from rage_net.errors import AccessDeniedError, NotFoundError, UnavailableError
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.swarm import Connected, Event, Stream, Swarm
from rage_net.libp2p.transport import Link, MemoryNetwork, MemoryTransport
from rage_net.liveness import GONE_S, HEALTH_MAX, TURN_S
from rage_net.messages import CHUNK_PROTOCOL, Heartbeat, NodeInfo, PeerAnnouncement
from rage_net.peerstore import Peerstore
from rage_net.services import membership
from rage_net.services.membership import WANTED, Membership, believe_announced
from rage_net.services.membership.views import show_peers
from rage_net.verbs.peer import ListPeers

pytestmark = pytest.mark.anyio

DIAL_S = 15.0


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"loop_factory": VirtualLoop}


class Lossy(MemoryTransport):
    """Nobody at a name that begins with `dead` ever answers."""

    async def dial(self, address: Multiaddr) -> Link:
        if address.parts[0].value.startswith("dead"):
            await asyncio.get_running_loop().create_future()
        return await super().dial(address)


async def test_a_dead_bootstrap_peer_keeps_no_other_waiting(rng: random.Random) -> None:
    loop, network, env = asyncio.get_running_loop(), MemoryNetwork(random=rng), SimulatedEnv(str(rng.random()))

    def swarm(name: str) -> Swarm:
        return Swarm(
            keys.generate(rng),
            transports=[Lossy(network, name)],
            agent_version="rage/test",
            clock=loop.time,
            random=rng,
        )

    async with swarm("alive") as alive, swarm("newcomer") as newcomer:
        await alive.listen(Multiaddr.parse("/memory/alive"))
        nobody = str(Swarm(keys.generate(rng), agent_version="rage/test").peer_id)
        addresses = [f"/memory/dead/p2p/{nobody}", f"/memory/alive/p2p/{alive.peer_id}"]
        bootstrap = [Multiaddr.parse(address) for address in addresses]
        members = Membership(newcomer, Peerstore(), env, bootstrap, DIAL_S)
        meeting = asyncio.create_task(members.connect_to_bootstrap())
        await asyncio.wait([meeting], timeout=DIAL_S / 2)
        assert newcomer.connection(alive.peer_id) is not None
        await meeting
        assert loop.time() < DIAL_S + 1, "a dial that nobody answers ends in time, and no error leaves the round"


class Members:
    """Swarms with a membership each, on one network in memory under one virtual clock."""

    def __init__(self, stack: AsyncExitStack, rng: random.Random) -> None:
        self.rng, self._stack, self._network = rng, stack, MemoryNetwork(random=rng)
        self.saved: dict[str, str] = {}

    async def make(self, name: str, bootstrap: Sequence[Multiaddr] = (), bans: Bans | None = None) -> Membership:
        swarm = Swarm(
            keys.generate(self.rng),
            transports=[Lossy(self._network, name)],
            agent_version="rage/test",
            clock=asyncio.get_running_loop().time,
            random=self.rng,
        )
        await self._stack.enter_async_context(swarm)
        await swarm.listen(Multiaddr.parse(f"/memory/{name}"))

        async def save(text: str) -> None:
            self.saved[name] = text

        env = SimulatedEnv(f"{self.rng.random()}")
        return Membership(swarm, Peerstore(), env, bootstrap, DIAL_S, bans=bans, save_bans=save)


@pytest.fixture
async def members(rng: random.Random) -> AsyncIterator[Members]:
    async with AsyncExitStack() as stack:
        yield Members(stack, rng)


def address_of(members: Membership) -> Multiaddr:
    return members.swarm.listen_addresses()[0].with_peer_id(members.swarm.peer_id)


async def settle(seconds: float = 1.0) -> None:
    """Virtual time passes."""
    await asyncio.sleep(seconds)


async def test_known_peers_are_met_while_few_are_connected_and_the_unreachable_rest(members: Members) -> None:
    alone = await members.make("alone")
    others = [await members.make(f"other-{number}") for number in range(WANTED + 3)]
    for other in others:
        assert alone.learn(other.swarm.peer_id, [address_of(other)], "server")
        assert not alone.learn(other.swarm.peer_id, [address_of(other)], "dht"), "it is known"
    nobody = PeerId.from_public_key(keys.generate(members.rng).public_key())
    alone.learn(nobody, [Multiaddr.parse("/memory/dead")], "gossip")
    for _ in range(8):
        await alone.keep_connected()
    assert len(alone.swarm.connections()) == WANTED, "enough is enough"
    assert not await alone.meet(nobody)
    assert nobody not in alone._candidates()


async def test_hearsay_about_ourselves_or_for_another_peer_is_not_learnt(members: Members) -> None:
    one, other = await members.make("one"), await members.make("other")
    assert not one.learn(one.swarm.peer_id, [Multiaddr.parse("/ip4/192.0.2.1/tcp/1")], "dht")
    assert not one.learn(other.swarm.peer_id, [address_of(one)], "dht"), "the address names another peer"
    assert not one.learn(other.swarm.peer_id, [], "dht")
    assert len(one.peerstore) == 0


async def test_a_banned_peer_is_dropped_and_kept_out_in_both_directions(members: Members) -> None:
    one, other = await members.make("one"), await members.make("other")
    await one.connect(address_of(other))
    result = await one.ban(str(other.swarm.peer_id), 3600.0, "it floods")
    assert result.was_connected and result.until is not None and "it floods" in members.saved["one"]
    await settle()
    assert not one.swarm.connections()
    with pytest.raises(AccessDeniedError, match="is banned") as refused:
        await one.connect(address_of(other))
    assert refused.value.id == "peer-banned" and refused.value.why == "it floods"
    with contextlib.suppress(UnavailableError):
        await other.connect(address_of(one))
    await settle()
    assert not one.swarm.connections()
    assert not one.learn(other.swarm.peer_id, [address_of(other)], "dht")
    (row,) = show_peers(one, ListPeers(state="banned"), now=one._env.now(), monotonic=0.0)
    assert row.peer_id == str(other.swarm.peer_id) and row.reason == "it floods"
    lifted = await one.unban(str(other.swarm.peer_id)[-8:])
    assert not lifted.is_banned and members.saved["one"] == ""
    await one.connect(address_of(other))
    with pytest.raises(NotFoundError):
        await one.unban(str(other.swarm.peer_id))


async def test_a_ban_ends_by_itself(members: Members) -> None:
    one, other = await members.make("one"), await members.make("other")
    await one.ban(str(address_of(other)), 60.0, "")
    await settle(61)
    await one.connect(address_of(other))


async def test_signs_of_life_are_bytes_probes_and_gossip(members: Members) -> None:
    one, other = await members.make("one"), await members.make("other")
    peer = other.swarm.peer_id

    async def serve(stream: Stream) -> None:
        """It exchanges chunks: that is what makes it a node."""

    other.swarm.handle(CHUNK_PROTOCOL, serve)
    await one.connect(address_of(other))
    await settle()

    async def live(seconds: int) -> None:
        for _ in range(seconds):
            await settle(TURN_S)
            await one.watch()
            await one.probe()

    await live(300)
    assert one.liveness.state(peer) == "alive", "yamux pings and probes keep it so"
    await one.connect(address_of(other))  # the one before was idle, and closed
    await settle()
    other.swarm.connections()[0].abort("the cable was pulled")
    await other.swarm.close()
    await live(1)
    assert one.liveness.state(peer) == "suspect", "its connection broke"
    one.note(peer, PeerAnnouncement(NodeInfo(organization="acme", region="eu"), ("storage",)))
    one.note(peer, Heartbeat(NodeInfo(organization="acme", region="eu")))
    assert one.liveness.state(peer) == "alive", "gossip relayed a heartbeat"
    rows = list(show_peers(one, ListPeers(state="alive"), now=0.0, monotonic=0.0))
    assert [(row.organization, row.capabilities) for row in rows] == [("acme", ("storage",))]
    assert not list(show_peers(one, ListPeers(known=True, organization="other"), now=0.0, monotonic=0.0))
    await live(int(GONE_S * HEALTH_MAX) + 10)
    assert one.liveness.state(peer) == "gone"


async def test_two_nodes_with_one_key_are_told_from_a_restart(members: Members) -> None:
    one, other = await members.make("one"), await members.make("other")
    peer = other.swarm.peer_id

    def beat(instance: int) -> bool:
        one.note(peer, Heartbeat(NodeInfo(instance=instance)))
        return one.nodes[peer].is_twice

    assert not beat(1) and not beat(1) and not beat(2) and not beat(2) and not beat(3), "restarts"
    assert not beat(4) and beat(3), "the one that was before is back"


async def test_who_is_no_node_is_not_watched(members: Members) -> None:
    one, command = await members.make("one"), await members.make("command")
    await command.connect(address_of(one))
    await settle()
    await command.swarm.close()
    await settle()
    assert len(one.liveness) == 0, "a command came and went"


async def test_nodes_that_announce_a_victims_address_and_fall_silent_are_not_dialled_there(members: Members) -> None:
    one, victim = await members.make("one"), await members.make("victim")
    for _ in range(50):
        nobody = PeerId.from_public_key(keys.generate(members.rng).public_key())
        one.note(nobody, PeerAnnouncement(NodeInfo()))
        one.learn_announced(nobody, [address_of(victim).without_peer_id()], "gossip")
    for _ in range(int(GONE_S * HEALTH_MAX)):
        await settle(TURN_S)
        await one.watch()
        await one.probe()
    assert victim.swarm.counts["handshake_failures"] == 0, "fifty a few seconds, from every node there is"


@pytest.mark.parametrize(
    ("reached", "believed"),
    [
        ("/ip4/203.0.113.9/tcp/1", ["world"]),
        ("/ip4/192.168.1.9/tcp/1", ["world", "private"]),
        ("/ip4/127.0.0.1/tcp/1", ["world", "private"]),
    ],
)
def test_who_has_peers_in_the_world_is_told_of_no_private_address_by_gossip(reached: str, believed: list[str]) -> None:
    told = {
        "world": Multiaddr.parse("/ip4/8.8.8.8/tcp/4001"),
        "private": Multiaddr.parse("/ip4/192.168.1.1/tcp/22"),
        "loopback": Multiaddr.parse("/ip4/127.0.0.1/tcp/22"),
        "nowhere": Multiaddr.parse("/ip4/224.0.0.1/tcp/22"),
    }
    near = [Multiaddr.parse("/ip4/127.0.0.1/tcp/2"), Multiaddr.parse(reached.replace("203.0.113.9", "9.9.9.9"))]
    listens = [Multiaddr.parse("/ip4/192.168.1.2/tcp/4001")]
    assert believe_announced(told.values(), near, listens) == [told[name] for name in believed]


async def test_who_comes_from_afar_says_nothing_of_our_own_network(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, stranger = await members.make("one"), await members.make("stranger")
    inner = [Multiaddr.parse(f"/ip4/192.168.1.{number}/tcp/22") for number in range(1, 9)]
    outer = Multiaddr.parse("/ip4/8.8.8.8/tcp/4001")
    monkeypatch.setattr(stranger.swarm, "listen_addresses", lambda: [*inner, outer])

    def come_from_afar(event: Event) -> None:
        if isinstance(event, Connected) and (connection := one.swarm.connection(event.peer_id)) is not None:
            connection.remote_address = Multiaddr.parse("/ip4/9.9.9.9/tcp/50000")

    one.swarm.on_event(come_from_afar)
    await stranger.swarm.dial(one.swarm.peer_id, one.swarm.listen_addresses())
    await settle()
    known = one.peerstore.get(stranger.swarm.peer_id)
    assert known is not None and known.addresses == (outer,) and not known.was_dialled


async def test_commands_that_come_and_go_leave_nothing_in_the_peer_store(members: Members) -> None:
    one, command = await members.make("one"), await members.make("command")
    command.swarm._listeners.clear()
    await command.swarm.dial(one.swarm.peer_id, one.swarm.listen_addresses())
    await settle()
    assert one.swarm.connections() and len(one.peerstore) == 0


async def test_connections_that_are_little_used_make_way_and_a_goodbye_is_no_doubt(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "CONNECTIONS_HIGH", 8)
    monkeypatch.setattr(membership, "CONNECTIONS_LOW", 5)
    others = [await members.make(f"other-{number}") for number in range(10)]
    one = await members.make("one", bootstrap=[address_of(others[0])])

    async def serve(stream: Stream) -> None:
        """It exchanges chunks: that is what makes it a node."""

    one.swarm.handle(CHUNK_PROTOCOL, serve)
    for other in others:
        other.swarm.handle(CHUNK_PROTOCOL, serve)
        await one.connect(address_of(other))
    await settle(5)
    used, meshed = others[4], others[7]
    for _ in range(20):
        await one.swarm.ping(used.swarm.peer_id)
    assert await one.trim([]) == 0, "they are young"
    await settle(membership.YOUNG_S)
    assert await one.trim([meshed.swarm.peer_id]) == 5
    await settle(1)
    left = {connection.peer_id for connection in one.swarm.connections()}
    assert len(left) == 5 and {others[0].swarm.peer_id, used.swarm.peer_id, meshed.swarm.peer_id} <= left
    assert await one.trim([]) == 0, "they are few enough"
    for other in others:
        assert other.liveness.state(one.swarm.peer_id) == "alive", "it said goodbye"
