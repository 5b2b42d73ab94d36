"""Whole engines on one network in memory, under virtual time: what a run did is told by its trace.

`python -m tests.sim.cluster SEED DIRECTORY` plays the death of a holder once and prints the trace's digest.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from rage_net import config
from rage_net import home as homes
from rage_net.engine import Engine, Online
from rage_net.home import Home
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.transport import Conditions, Link, MemoryNetwork, MemoryTransport
from rage_net.verbs.chunk import GetChunk, GetChunkResult, PinChunk, PutChunk, PutChunkResult
from tests.sim.env import SimulatedEnv
from tests.sim.virtual_loop import VirtualLoop

CONFIG = """\
network:
  version: 1
  store: {split: {min_size: 4KiB, target_size: 16KiB, max_size: 64KiB}}
"""
CONDITIONS = Conditions(piece_bytes_max=20_000, delay_s=0.01)
DIES_AT = 300_000
"""Bytes that the reader has when the first holder dies."""


class Trace:
    """Every delivery on the network: when, from whom, and what."""

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=16)

    def add(self, *words: object) -> None:
        self._hash.update(repr(words).encode())

    def digest(self) -> str:
        return self._hash.hexdigest()


class TracedTransport(MemoryTransport):
    """Notes what is written on the links it dials, in both directions."""

    def __init__(self, network: MemoryNetwork, name: str, trace: Trace) -> None:
        super().__init__(network, name)
        self._trace = trace

    async def dial(self, address: Multiaddr) -> Link:
        link = await super().dial(address)
        for end in (link, link.other):  # type: ignore[attr-defined]
            self._watch(end)
        return link

    def _watch(self, end: Link) -> None:
        write = end.write

        def traced(buffers: Sequence[bytes]) -> None:
            data = b"".join(buffers)
            self._trace.add(asyncio.get_running_loop().time(), str(end.local_address), data)
            write([data])

        end.write = traced  # type: ignore[method-assign, assignment]


class Collect:
    """A sink that keeps what it is given, and may do something at a moment."""

    def __init__(self, at: int = -1, event: asyncio.Event | None = None) -> None:
        self.data = bytearray()
        self._at = at
        self._event = event

    def begin(self, size: int, /) -> None:
        """Nothing to prepare."""

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        self.data += data
        if self._event is not None and len(self.data) >= self._at:
            self._event.set()


class Given:
    """Bytes as a source."""

    def __init__(self, data: bytes) -> None:
        self._rest = memoryview(data)

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


@dataclass
class Node:
    """An engine that listens, and how to end it."""

    engine: Engine
    online: Online
    life: AsyncExitStack

    @property
    def address(self) -> str:
        return f"{self.online.swarm.listen_addresses()[0]}/p2p/{self.online.swarm.peer_id}"

    async def put(self, data: bytes) -> PutChunkResult:
        return await self.engine.run(PutChunk(visibility="public"), source=Given(data))

    async def get(self, root: str, *holders: Node, sink: Collect) -> GetChunkResult:
        verb = GetChunk(root, peers=tuple(holder.address for holder in holders))
        return await self.engine.run(verb, sink=sink)


@dataclass
class World:
    """Nodes by name, one network, one trace."""

    seed: int
    directory: Path
    life: AsyncExitStack
    trace: Trace = field(default_factory=Trace)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.network = MemoryNetwork(CONDITIONS, self.random)

    async def node(self, name: str) -> Node:
        env = SimulatedEnv(f"{self.seed}:{name}")
        home = Home(self.directory / name)
        homes.init(home, generator=env.random)
        home.network_yaml.write_text(CONFIG)
        life = await self.life.enter_async_context(AsyncExitStack())
        transport = TracedTransport(self.network, name, self.trace)
        opened = Engine.open(
            home, config=config.load(home.root, environ={}), env=env, serves=True, transports=[transport]
        )
        engine = await life.enter_async_context(opened)
        online = await engine.online()
        await online.swarm.listen(Multiaddr.parse(f"/memory/{name}"))
        return Node(engine, online, life)


@asynccontextmanager
async def open_world(seed: int, directory: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as life:
        yield World(seed, directory, life)


@dataclass(frozen=True)
class Played:
    """What came of a play."""

    is_whole: bool
    sources: dict[str, int]
    gave: dict[str, int]
    seconds: float
    digest: str


async def a_holder_dies(seed: int, directory: Path) -> Played:
    """Alpha's document is fetched and pinned by beta, then fetched by gamma from both while alpha ends midway."""
    async with open_world(seed, directory) as world:
        alpha, beta, gamma = [await world.node(name) for name in ("alpha", "beta", "gamma")]
        data = world.random.randbytes(1_500_000)
        root = (await alpha.put(data)).root
        await beta.get(root, alpha, sink=Collect())
        await beta.engine.run(PinChunk(root))
        half = asyncio.Event()
        sink = Collect(DIES_AT, half)

        async def die() -> None:
            await half.wait()
            await alpha.life.aclose()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(die())
            got = await gamma.get(root, alpha, beta, sink=sink)
        sent = {name: node.engine.metrics.bytes_sent.read() for name, node in (("alpha", alpha), ("beta", beta))}
        to_gamma = str(gamma.online.swarm.peer_id)
        gave = {
            name: int(sum(cell[0] for labels, cell in cells.items() if labels[0] == to_gamma))
            for name, cells in sent.items()
        }
        seconds = asyncio.get_running_loop().time()
        return Played(bytes(sink.data) == data, got.sources, gave, seconds, world.trace.digest())


def play(seed: int, directory: Path) -> Played:
    """One run under a virtual loop of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(a_holder_dies(seed, directory))


if __name__ == "__main__":
    sys.stdout.write(f"{play(int(sys.argv[1]), Path(sys.argv[2])).digest}\n")
