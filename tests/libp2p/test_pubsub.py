"""Publish and subscribe between swarms in memory, under a clock of its own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rage_net.libp2p.gossipsub import Message
from rage_net.libp2p.gossipsub.message import check_signature
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.pubsub import PubSub, Subscription
from rage_net.libp2p.swarm import Limits, Swarm
from rage_net.libp2p.transport import Conditions, MemoryNetwork, MemoryTransport
from tests.sim.virtual_loop import VirtualLoop

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
