"""One simulated node: a whole engine on the network in memory, with its own home, from start to end, and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rage_lab.sim.env import SimulatedEnv
from rage_lab.sim.virtual_loop import NODE
from rage_net import config, sharing, upkeep
from rage_net import home as homes
from rage_net.engine import Engine
from rage_net.errors import UnavailableError
from rage_net.guard import every
from rage_net.home import Home
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.transport import MemoryNetwork, MemoryTransport
from rage_net.lifetime import running
from rage_net.node import RECORDS_EVERY_S
from rage_net.online import Online
from rage_net.verbs.chunk import GetChunk, PinChunk, PutChunk, Visibility

T = TypeVar("T")

PORT = 4001
SPLIT = {"min_size": "4KiB", "target_size": "16KiB", "max_size": "64KiB"}
"""Small chunks, so that small documents have many."""
HTTP_OFF = {"network.discovery.enabled": "false"}
"""There are no sockets here for servers to be asked through."""


class Given:
    """Bytes as a source."""

    def __init__(self, data: bytes) -> None:
        self._rest = memoryview(data)

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        """Fill the buffer; 0 at the end."""
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


class Collect:
    """A sink that keeps what it is given, and tells when it has enough."""

    def __init__(self, enough: int = 0) -> None:
        self.data = bytearray()
        self.has_enough = asyncio.Event()
        self._enough = enough

    def begin(self, size: int, /) -> None:
        """Nothing to prepare."""

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        """Keep it."""
        self.data += data
        if len(self.data) >= self._enough:
            self.has_enough.set()


@dataclass(frozen=True)
class Fetched:
    """What a download brought, from where, and how long it took."""

    data: bytes
    sources: dict[str, int]
    seconds: float


class Node:
    """Made and started by a `World`; everything it runs is run in its name."""

    def __init__(
        self,
        network: MemoryNetwork,
        seed: int,
        name: str,
        ip: str,
        home: Path,
        flags: dict[str, Any],
        prepare: Callable[[Home], None] | None = None,
    ) -> None:
        self.name = name
        self.ip = ip
        self.home = Home(home)
        self.flags = flags
        self.prepare = prepare
        """What is done to its home before it starts."""
        self.lives = 0
        self.peer_id = ""
        self._engine: Engine | None = None
        self._online: Online | None = None
        self._network = network
        self._seed = seed
        self._ending = asyncio.Event()
        self._doing: dict[asyncio.Task[Any], None] = {}
        self._life: asyncio.Task[None] | None = None
        self._context = copy_context()
        self._context.run(NODE.set, name)

    @property
    def is_up(self) -> bool:
        """Whether it runs and nobody has begun to end it."""
        return self._engine is not None and not self._ending.is_set()

    @property
    def engine(self) -> Engine:
        """The engine of a node that is up."""
        assert self._engine is not None, f"{self.name} is not up"
        return self._engine

    @property
    def online(self) -> Online:
        """Its online part."""
        assert self._online is not None, f"{self.name} is not up"
        return self._online

    @property
    def address(self) -> str:
        """Where it can be dialled when it is up, and who is there."""
        return f"/ip4/{self.ip}/tcp/{PORT}/p2p/{self.peer_id}"

    async def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it in the node's name: it stands still when the node does, and ends with it. Raises UnavailableError."""
        task = asyncio.get_running_loop().create_task(work, context=self._context.copy())
        self._doing[task] = None
        try:
            return await task
        except asyncio.CancelledError:
            if task.cancelled() and self._ending.is_set():
                raise UnavailableError(f"{self.name} went down", id="node-unreachable") from None
            raise
        finally:
            task.cancel()
            del self._doing[task]

    async def run(self, verb: Any, **streams: Any) -> Any:
        """A verb, as an operator at this node would run it."""
        return await self.do(self.engine.run(verb, **streams))

    async def put(self, data: bytes, name: str = "", visibility: Visibility = "public", **more: Any) -> str:
        """Store a document; gives its root."""
        found = await self.run(PutChunk(name, visibility=visibility, **more), source=Given(data))
        return str(found.root)

    async def get(self, root: str, *holders: Node, sink: Collect | None = None, keep: bool = True) -> Fetched:
        """Fetch a document, from `holders` and from whom this node knows besides."""
        sink = sink or Collect()
        peers = tuple(holder.address for holder in holders)
        got = await self.run(GetChunk(root, peers=peers, cache=keep), sink=sink)
        return Fetched(bytes(sink.data), got.sources, got.seconds)

    async def pin(self, root: str) -> None:
        """Hold a root."""
        await self.run(PinChunk(root))

    async def connect(self, other: Node) -> None:
        """Find and dial another node."""
        await self.do(self.online.membership.find(other.address))

    def peers(self) -> list[str]:
        """Peer ids it is connected to."""
        return [str(connection.peer_id) for connection in self.online.swarm.connections()]

    # -- for the world

    async def start(self) -> None:
        """From a new home at first, then from the home it had."""
        if self._life is not None:
            await self._life
        self.lives += 1
        self._ending.clear()
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._life = asyncio.get_running_loop().create_task(self._live(ready), context=self._context.copy())
        await ready

    def begin_end(self) -> None:
        """From now on it counts as down."""
        self._ending.set()

    async def end(self) -> None:
        """Close the engine, with notice if the network still carries it."""
        self.begin_end()
        if self._life is not None:
            await self._life

    async def _live(self, ready: asyncio.Future[None]) -> None:
        try:
            async with self._opened() as engine:
                online = await engine.online()
                await online.swarm.listen(Multiaddr.parse(f"/ip4/{self.ip}/tcp/{PORT}"))
                async with running(self._jobs(engine, online)):
                    self._engine, self._online, self.peer_id = engine, online, str(online.swarm.peer_id)
                    ready.set_result(None)
                    try:
                        await self._ending.wait()
                    finally:
                        self._engine = self._online = None
                        for task in self._doing:
                            task.cancel()
                        await asyncio.gather(*self._doing, return_exceptions=True)
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    @staticmethod
    def _jobs(engine: Engine, online: Online) -> list[Coroutine[Any, Any, None]]:
        """Those of a node, but for what looks at the machine."""
        env, metrics = engine.env, engine.metrics
        records = every(
            RECORDS_EVERY_S, lambda: sharing.keep(engine), name="records", env=env, metrics=metrics, at_once=True
        )
        return [*online.jobs(), *upkeep.jobs(engine, upkeep.healing_of(engine)), records]

    def _opened(self) -> AbstractAsyncContextManager[Engine]:
        env = SimulatedEnv(f"{self._seed}:{self.name}:{self.lives}")
        homes.init(self.home, generator=env.random)
        if self.prepare is not None:
            self.prepare(self.home)
        return Engine.open(
            self.home,
            config=config.load(self.home.root, environ={}, flags=self.flags),
            env=env,
            kind="node",
            serves=True,
            transports=[MemoryTransport(self._network, self.ip)],
        )


def flags_of(region: str, bootstrap: Sequence[str], more: dict[str, Any]) -> dict[str, Any]:
    """Configuration of a simulated node."""
    sizes = {f"network.store.split.{key}": value for key, value in SPLIT.items()}
    known = {"network.region": region, "network.libp2p.bootstrap_peers": list(bootstrap)}
    return {**known, **sizes, **HTTP_OFF, **more}
