"""Swarms with a DHT each, on one network in memory, under a virtual clock; and peers that misbehave on purpose."""

from __future__ import annotations

import asyncio
import hashlib
import random
from contextlib import AsyncExitStack
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rage_net.libp2p.dht import Dht
from rage_net.libp2p.kad.contact import Contact
from rage_net.libp2p.kad.messages import MESSAGE_BYTES_MAX, Message, PeerInfo, decode, frame
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.swarm import Connection, Swarm
from rage_net.libp2p.transport import Conditions, MemoryNetwork, MemoryTransport

EPOCH_S = 1_800_000_000.0


def multihash(data: bytes) -> bytes:
    """A SHA-256 multihash, as a CID holds it."""
    return bytes((0x12, 32)) + hashlib.sha256(data).digest()


def peer_id(rng: random.Random) -> PeerId:
    """A peer id that could be an Ed25519 key's; made fast."""
    return PeerId(bytes((0, 36, 8, 1, 18, 32)) + rng.randbytes(32))


def address(text: str) -> Multiaddr:
    return Multiaddr.parse(text)


class World:
    """Nodes by name. Each listens at `/memory/NAME`."""

    def __init__(self, rng: random.Random, life: AsyncExitStack) -> None:
        self.rng = rng
        self.life = life
        self.network = MemoryNetwork(Conditions(delay_s=0.01), rng)

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def swarm(self, name: str) -> Swarm:
        swarm = Swarm(
            Ed25519PrivateKey.from_private_bytes(self.rng.randbytes(32)),
            transports=[MemoryTransport(self.network, name)],
            agent_version=f"rage/{name}",
            clock=self.now,
            random=self.rng,
        )
        await self.life.enter_async_context(swarm)
        await swarm.listen(address(f"/memory/{name}"))
        return swarm

    async def dht(self, name: str, *, mode: Any = "server", **more: Any) -> Dht:
        swarm = more.pop("swarm", None) or await self.swarm(name)
        return await self.life.enter_async_context(
            Dht(
                swarm,
                mode=mode,
                clock=self.now,
                wall_clock=lambda: EPOCH_S + self.now(),
                random=self.rng,
                **more,
            )
        )

    async def nodes(self, count: int, **more: Any) -> list[Dht]:
        """`count` servers; each knows the one before it, and has bootstrapped."""
        dhts = [await self.dht(f"n{number}", **more) for number in range(count)]
        for one, other in zip(dhts[1:], dhts, strict=False):
            await join(one, other)
        for dht in dhts:
            await dht.bootstrap()
        return dhts


async def join(one: Dht, other: Dht) -> Connection:
    """Connect, and give both time to hear what the other is."""
    connection = await one.swarm.dial(other.own, other.swarm.listen_addresses())
    await asyncio.sleep(1)
    return connection


def contact(dht: Dht) -> Contact:
    return Contact.of(dht.own, dht.swarm.listen_addresses())


def told(dht: Dht) -> PeerInfo:
    return PeerInfo(dht.own, tuple(dht.swarm.listen_addresses()))


async def ask(swarm: Swarm, of: Dht, *requests: Message, protocol: str = "/rage/kad/1.0.0") -> list[Message]:
    """Send requests on one stream and read an answer to each that has one."""
    connection = await swarm.dial(of.own, of.swarm.listen_addresses())
    answers = []
    async with asyncio.timeout(10), await connection.open_stream([protocol]) as stream:
        await stream.write(frame(*requests))
        for request in requests:
            if request.kind != 2:
                answers.append(decode(await stream.read_message(MESSAGE_BYTES_MAX)))
    return answers
