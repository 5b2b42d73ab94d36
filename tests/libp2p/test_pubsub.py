"""Publish and subscribe between swarms in memory, under a clock of its own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rage_lab.sim.virtual_loop import VirtualLoop
from rage_net.libp2p.errors import LimitError
from rage_net.libp2p.gossipsub import Message, Verdict
from rage_net.libp2p.gossipsub.message import check_signature
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.pubsub import PubSub, Subscription
from rage_net.libp2p.pubsub.readers import SUBSCRIPTION_MESSAGES_MAX
from rage_net.libp2p.swarm import Limits, Swarm
from rage_net.libp2p.transport import Conditions, MemoryNetwork, MemoryTransport

pytestmark = pytest.mark.anyio

TOPIC = "rage.global"
EPOCH_S = 1_800_000_000.0


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"loop_factory": VirtualLoop}


class Node:
    def __init__(self, swarm: Swarm, pubsub: PubSub) -> None:
        self.swarm = swarm
        self.pubsub = pubsub
        self.id = swarm.peer_id


class World:
    """Nodes on one network in memory."""

    def __init__(self, rng: random.Random, life: AsyncExitStack) -> None:
        self.rng = rng
        self.network = MemoryNetwork(Conditions(delay_s=0.01), rng)
        self._life = life

    async def node(self, name: str, *, limits: Limits | None = None, **more: Any) -> Node:
        clock = asyncio.get_running_loop().time
        swarm = Swarm(
            Ed25519PrivateKey.from_private_bytes(self.rng.randbytes(32)),
            transports=[MemoryTransport(self.network, name)],
            limits=limits or Limits(),
            agent_version=f"test/{name}",
            clock=clock,
            random=self.rng,
        )
        await self._life.enter_async_context(swarm)
        await swarm.listen(Multiaddr.parse(f"/memory/{name}"))
        pubsub = PubSub(swarm, clock=clock, wall_clock=lambda: EPOCH_S + clock(), random=self.rng, **more)
        await self._life.enter_async_context(pubsub)
        return Node(swarm, pubsub)

    async def join(self, *nodes: Node) -> None:
        """Connect each to all others."""
        for index, node in enumerate(nodes):
            for other in nodes[:index]:
                await node.swarm.dial(other.id, other.swarm.listen_addresses())


@pytest.fixture
async def world(rng: random.Random) -> AsyncIterator[World]:
    async with AsyncExitStack() as life:
        yield World(rng, life)


async def read(subscription: Subscription, count: int) -> list[Message]:
    async with asyncio.timeout(30):
        return [await anext(subscription) for _ in range(count)]


async def until(look: Callable[[], object], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not look():
            await asyncio.sleep(0.05)


async def test_what_one_publishes_reaches_all_who_joined_and_is_signed_by_it(world: World) -> None:
    a, b, c = [await world.node(name) for name in "abc"]
    ours, theirs = b.pubsub.subscribe(TOPIC), c.pubsub.subscribe(TOPIC)
    await world.join(a, b, c)
    await until(lambda: len(a.pubsub.peers(TOPIC)) == 2 and b.pubsub.mesh(TOPIC) == [c.id])
    id, peers = a.pubsub.publish(TOPIC, b"a word")
    assert peers == 2
    for subscription in (ours, theirs):
        (message,) = await read(subscription, 1)
        assert (message.id, message.topic, message.data, message.author) == (id, TOPIC, b"a word", a.id)
        assert message.sequence >= EPOCH_S * 1e9
        check_signature(message)
    state = {row.topic: row for row in a.pubsub.topics()}[TOPIC]
    assert (state.is_joined, state.peers, state.mesh, state.published) == (False, 2, 0, 1)
    await until(lambda: sum(row.duplicates for node in (b, c) for row in node.pubsub.topics()) >= 1)
    assert [row.received for row in b.pubsub.topics()] == [1]


async def test_a_message_crosses_a_peer_that_is_between(world: World) -> None:
    a, b, c = [await world.node(name) for name in "abc"]
    for node in (a, b):
        node.pubsub.subscribe(TOPIC)
    far = c.pubsub.subscribe(TOPIC)
    await world.join(a, b)
    await world.join(b, c)
    await until(lambda: b.pubsub.mesh(TOPIC) and len(b.pubsub.mesh(TOPIC)) == 2 and a.pubsub.mesh(TOPIC) == [b.id])
    sent = [a.pubsub.publish(TOPIC, str(n).encode())[0] for n in range(100)]
    assert [message.id for message in await read(far, 100)] == sent
    assert c.pubsub.counts["duplicates"] == 0


async def test_validators_decide_what_is_delivered_and_the_strictest_counts(world: World) -> None:
    a, b = [await world.node(name) for name in "ab"]

    def validate(message: Message) -> Verdict:
        if message.data == b"raise":
            raise RuntimeError("a validator's bug")
        return {b"ignore": Verdict.IGNORE, b"reject": Verdict.REJECT}.get(message.data, Verdict.ACCEPT)

    lenient, strict = b.pubsub.subscribe(TOPIC), b.pubsub.subscribe(TOPIC, validate)
    a.pubsub.subscribe(TOPIC)
    await world.join(a, b)
    await until(lambda: a.pubsub.peers(TOPIC))
    for data in (b"raise", b"ignore", b"reject", b"accept"):
        a.pubsub.publish(TOPIC, data)
    for subscription in (lenient, strict):
        assert [message.data for message in await read(subscription, 1)] == [b"accept"]
    assert b.pubsub.counts["ignored"] == 2 and b.pubsub.counts["rejected"] == 1
    assert b.pubsub.counts["validator_errors"] == 1
    assert b.pubsub.score(a.id) < 0


async def test_a_slow_reader_loses_the_oldest_and_another_reader_loses_none(world: World) -> None:
    a, b = [await world.node(name) for name in "ab"]
    slow, quick = b.pubsub.subscribe(TOPIC), b.pubsub.subscribe(TOPIC)
    await world.join(a, b)
    await until(lambda: a.pubsub.peers(TOPIC))
    count = SUBSCRIPTION_MESSAGES_MAX + 100
    got = []
    for n in range(count):
        a.pubsub.publish(TOPIC, str(n).encode())
        got += [int(message.data) for message in await read(quick, 1)]
    assert got == list(range(count))
    assert slow.dropped == b.pubsub.counts["dropped_by_readers"] == 100
    assert int((await read(slow, 1))[0].data) == 100


async def test_the_last_subscription_that_closes_leaves_the_topic(world: World) -> None:
    a, b = [await world.node(name) for name in "ab"]
    first, second = b.pubsub.subscribe(TOPIC), b.pubsub.subscribe(TOPIC)
    await world.join(a, b)
    await until(lambda: a.pubsub.peers(TOPIC) == [b.id])
    first.close()
    a.pubsub.publish(TOPIC, b"still joined")
    await read(second, 1)
    async with second:
        a.pubsub.publish(TOPIC, b"waits")
        await asyncio.sleep(1)
    assert [message.data async for message in second] == [b"waits"]
    assert [message async for message in first] == []
    await until(lambda: a.pubsub.peers(TOPIC) == [])
    assert b.pubsub.topics()[0].is_joined is False
    again = b.pubsub.subscribe(TOPIC)
    await until(lambda: a.pubsub.peers(TOPIC) == [b.id])
    a.pubsub.publish(TOPIC, b"back")
    assert (await read(again, 1))[0].data == b"back"


async def test_the_end_of_gossip_ends_its_readers(world: World) -> None:
    a = await world.node("a")
    subscription = a.pubsub.subscribe(TOPIC)
    reader = asyncio.ensure_future(anext(subscription))
    await asyncio.sleep(0)
    await a.pubsub.__aexit__(None, None, None)
    with pytest.raises(StopAsyncIteration):
        await reader
    await a.pubsub.__aenter__()


async def test_a_peer_that_comes_back_gets_messages_again(world: World) -> None:
    a, b = [await world.node(name) for name in "ab"]
    a.pubsub.subscribe(TOPIC)
    ours = b.pubsub.subscribe(TOPIC)
    for n in range(3):
        await world.join(a, b)
        await until(lambda: a.pubsub.peers(TOPIC) == [b.id] and b.pubsub.peers(TOPIC) == [a.id])
        a.pubsub.publish(TOPIC, str(n).encode())
        assert (await read(ours, 1))[0].data == str(n).encode()
        for connection in a.swarm.connections():
            await connection.close()
        await until(lambda: not a.pubsub.peers(TOPIC) and not b.pubsub.peers(TOPIC))
    assert a.pubsub.counts["task_errors"] == b.pubsub.counts["task_errors"] == 0
    assert a.pubsub._speakers == a.pubsub._inbound.streams == a.pubsub._inbound.held == {}


async def test_a_stream_that_is_lost_is_opened_again_and_the_peer_told_everything(world: World) -> None:
    a, b = [await world.node(name) for name in "ab"]
    a.pubsub.subscribe(TOPIC)
    ours = b.pubsub.subscribe(TOPIC)
    await world.join(a, b)
    await until(lambda: a.pubsub.mesh(TOPIC) and b.pubsub.mesh(TOPIC) and b.pubsub._inbound.streams.get(a.id))
    for stream in list(b.pubsub._inbound.streams[a.id]):
        await stream.reset()
    await until(lambda: a.pubsub.counts["streams_lost"] == 1)
    a.pubsub.publish(TOPIC, b"after")
    assert (await read(ours, 1))[0].data == b"after"
    assert a.pubsub.peers(TOPIC) == [b.id] and b.pubsub.peers(TOPIC) == [a.id]


async def test_gossip_moves_to_the_connection_that_is_kept(world: World) -> None:
    a, b = [await world.node(name) for name in "ab"]
    theirs, ours = a.pubsub.subscribe(TOPIC), b.pubsub.subscribe(TOPIC)
    await asyncio.gather(a.swarm.dial(b.id, b.swarm.listen_addresses()), b.swarm.dial(a.id, a.swarm.listen_addresses()))
    await until(lambda: a.pubsub.mesh(TOPIC) and b.pubsub.mesh(TOPIC))
    for n in range(100):  # over the time in which the lesser connection is retired, and ends
        a.pubsub.publish(TOPIC, str(n).encode())
        b.pubsub.publish(TOPIC, str(n).encode())
        await asyncio.sleep(1)
    for subscription in (theirs, ours):
        assert [int(message.data) for message in await read(subscription, 100)] == list(range(100))
    assert len(a.swarm._all) == len(b.swarm._all) == 1


async def test_a_topic_for_members_is_neither_told_nor_sent_to_others(world: World) -> None:
    members: list[object] = []
    a = await world.node("a", may_join=lambda peer, topic: peer in members)
    b = await world.node("b")
    theirs, ours = b.pubsub.subscribe("rage.org.acme"), a.pubsub.subscribe("rage.org.acme")
    await world.join(a, b)
    await until(lambda: b.id in a.pubsub.router.peers and a.id in b.pubsub.router.peers)
    await asyncio.sleep(3)
    assert a.pubsub.peers("rage.org.acme") == b.pubsub.peers("rage.org.acme") == []
    assert a.pubsub.publish("rage.org.acme", b"secret")[1] == 0
    members.append(b.id)
    a.pubsub.reconsider(b.id)
    await until(lambda: b.pubsub.peers("rage.org.acme") == [a.id] and a.pubsub.mesh("rage.org.acme") == [b.id])
    b.pubsub.publish("rage.org.acme", b"hello")
    assert (await read(ours, 1))[0].data == b"hello"
    a.pubsub.publish("rage.org.acme", b"welcome")
    assert (await read(theirs, 1))[0].data == b"welcome"


async def test_a_burst_of_large_messages_reaches_everyone_through_many_cuts(world: World) -> None:
    world.network.conditions = Conditions(piece_bytes_max=5000, delay_s=0.01)
    nodes = [await world.node(name) for name in "abcd"]
    readers = [node.pubsub.subscribe(TOPIC) for node in nodes]
    await world.join(*nodes)
    await until(lambda: all(len(node.pubsub.mesh(TOPIC)) == 3 for node in nodes))
    for node in nodes:
        for _ in range(5):
            node.pubsub.publish(TOPIC, world.rng.randbytes(64 * 1024))
    for reader in readers:
        assert len({message.id for message in await read(reader, 15)}) == 15
    assert sum(node.pubsub.counts["rejected"] + node.pubsub.counts["malformed"] for node in nodes) == 0


async def test_what_the_host_may_ask_for_has_limits(world: World) -> None:
    a = await world.node("a")
    with pytest.raises(ValueError, match="name"):
        a.pubsub.subscribe("")
    with pytest.raises(ValueError, match="65536"):
        a.pubsub.publish(TOPIC, bytes(65537))
    with pytest.raises(LimitError):
        for n in range(100):
            a.pubsub.subscribe(f"topic{n}")
    other = await world.node("b")
    with pytest.raises(LimitError):
        for _ in range(300):
            other.pubsub.subscribe(TOPIC)
