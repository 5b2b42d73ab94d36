"""Nodes joined in memory: real swarms, stores and exchanges over links without sockets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rage_net import keys, messages
from rage_net.acl import Principal, Rules
from rage_net.chunk.documents import Document, Documents
from rage_net.chunk.ingest import ingest
from rage_net.chunk.split import Sizes
from rage_net.chunk.store import ChunkStore, memory_store
from rage_net.cid import Cid
from rage_net.denials import Denials
from rage_net.env import SystemEnv
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.swarm import Connection, Limits, Stream, Swarm
from rage_net.libp2p.transport import MemoryNetwork, MemoryTransport
from rage_net.metrics import Metrics
from rage_net.services.exchange import Exchange, PeerSource, stranger
from rage_net.services.retrieval import Outcomes, Retrieval, Stage, Want, Way, known

SIZES = Sizes(4096, 16384, 65536)


class Collect:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.size = -1
        self.data = bytearray()

    def begin(self, size: int, /) -> None:
        assert self.size == -1
        self.size = size

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        self.data += data


class Source:
    """Bytes as a source."""

    def __init__(self, data: bytes) -> None:
        self._rest = memoryview(data)

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


class Peer:
    """One node without doors."""

    def __init__(
        self, swarm: Swarm, env: SystemEnv, trusted: Sequence[str], rules: Rules | None = None, logs: Path | None = None
    ) -> None:
        self.swarm = swarm
        self.env = env
        self.store: ChunkStore = memory_store(env)
        self.documents = Documents(self.store)
        self.metrics = Metrics()
        self.principals: dict[PeerId, Principal] = {}
        """Peers whose certificate this one trusts; the others are strangers."""
        self.denials = Denials(logs, env, self.metrics)
        self.exchange = Exchange(
            self.store,
            env,
            rules or Rules(frozenset(trusted)),
            self.metrics,
            principal_of=lambda peer: self.principals.get(peer) or stranger(peer),
            denials=self.denials,
        )
        self.retrieval = Retrieval(self.store, env, self.metrics)
        self.requests: list[Cid] = []
        swarm.handle(messages.CHUNK_PROTOCOL, self.exchange.serve)

    @property
    def address(self) -> Multiaddr:
        return self.swarm.listen_addresses()[0]

    def put(self, data: bytes, visibility: str = "public", name: str = "", organization: str = "") -> Document:
        with self.documents.lease(organization) as lease:
            found = ingest(Source(data), self.store, lease, sizes=SIZES)
            return self.documents.put(
                lease,
                found.root,
                size=found.size,
                chunks=found.chunks,
                visibility=visibility,  # type: ignore[arg-type]
                name=name,
                owner=str(self.swarm.peer_id),
            )

    async def connect(self, other: Peer) -> Connection:
        return await self.swarm.dial(other.swarm.peer_id, [other.address], timeout_s=5)

    async def fetch(self, root: Cid, sources: Sequence[Peer], **options: Any) -> tuple[bytes, Outcomes]:
        sink = Collect()

        def way(peer: Peer) -> Way:
            async def reach() -> PeerSource:
                return PeerSource(self.exchange, await self.connect(peer))

            return Way(str(peer.swarm.peer_id), reach)

        async def stages() -> Sequence[Stage]:
            return [known("peers", [way(peer) for peer in sources])]

        async with asyncio.timeout(20):
            outcomes = await self.retrieval.fetch(Want(root, **options), stages, sink)
        assert sink.size == len(sink.data) == outcomes.size
        return bytes(sink.data), outcomes

    def answer(self, handler: Callable[[Stream], Awaitable[None]]) -> None:
        """Put another holder in the place of the honest one."""
        self.swarm.handle(messages.CHUNK_PROTOCOL, handler)


class World:
    """Makes peers; all share one network in memory."""

    def __init__(self, stack: AsyncExitStack, rng: random.Random) -> None:
        self.rng = rng
        self._stack = stack
        self._network = MemoryNetwork(random=rng)
        self._count = 0

    async def peer(
        self,
        trusted: Sequence[str] = (),
        limits: Limits | None = None,
        rules: Rules | None = None,
        logs: Path | None = None,
    ) -> Peer:
        self._count += 1
        env = SystemEnv()
        self._stack.callback(env.close)
        swarm = Swarm(
            keys.generate(self.rng),
            transports=[MemoryTransport(self._network, f"peer{self._count}")],
            limits=limits or Limits(),
            agent_version="rage/test",
        )
        await self._stack.enter_async_context(swarm)
        await swarm.listen(Multiaddr.parse("/memory/0"))
        peer = Peer(swarm, env, trusted, rules, logs)
        self._stack.push_async_callback(peer.denials.close)
        self._stack.callback(peer.store.close)
        return peer


@asynccontextmanager
async def open_world(rng: random.Random) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield World(stack, rng)


@pytest.fixture
async def world(rng: random.Random) -> AsyncIterator[World]:
    async with open_world(rng) as made:
        yield made
