"""A world of whole engines: one network in memory, one virtual clock, one seed; what is done to it, and how to ask it.

`play(scenario, seed, directory)` runs a scenario once, under a loop of its own. All chance comes from the seed, so that
the digest of the trace repeats, in another process too; a failure says how to repeat it.

The store, the database and the cryptography are the real ones: a node takes 10 ms to start, and a handshake 2 ms, so
there is no cheaper kind of them here.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar
from unittest.mock import patch

from rage_lab.sim.churn import Change
from rage_lab.sim.env import EPOCH_S
from rage_lab.sim.geography import REGIONS, Geography, ip_of
from rage_lab.sim.node import Node, flags_of
from rage_lab.sim.organizations import Organization
from rage_lab.sim.trace import Trace
from rage_lab.sim.virtual_loop import VirtualLoop
from rage_net import home as homes
from rage_net.chunk.files import FileBodies
from rage_net.home import Home
from rage_net.libp2p.transport import MemoryNetwork

T = TypeVar("T")

FREE_BYTES = 100 << 30
"""What every disk has left: nodes tell each other, so the machine's own would be another in each run."""
GC_THRESHOLDS = 100_000, 50, 100
"""Garbage in cycles is looked for this seldom: in a heap of hundreds of nodes that took a fifth of the time."""
LOOK_S = 0.1
"""How often `until` looks."""


class World:
    """Nodes by name, and what happens to them."""

    def __init__(self, seed: int, directory: Path, tasks: asyncio.TaskGroup, *, loss: float = 0.0) -> None:
        self.seed = seed
        self.random = random.Random(f"{seed}:world")
        self.geography = Geography(loss)
        self.network = MemoryNetwork(random=random.Random(f"{seed}:network"))
        self.network.between = self.geography.between
        self.trace = Trace()
        self.network.observe = self.trace.written
        self.nodes: dict[str, Node] = {}
        self.flags: dict[str, Any] = {}
        """Keys of network.yaml for every node."""
        self._directory = directory
        self._tasks = tasks
        self._loop: VirtualLoop = asyncio.get_running_loop()  # type: ignore[assignment]
        self._hosts = 0
        self._stalled_until: dict[str, float] = {}
        self._background: dict[asyncio.Task[None], None] = {}

    @property
    def now(self) -> float:
        """Virtual seconds since the world began."""
        return self._loop.time()

    @property
    def up(self) -> list[Node]:
        """The nodes that run, in the order of their making."""
        return [node for node in self.nodes.values() if node.is_up]

    # -- nodes

    async def node(
        self,
        name: str,
        *,
        region: str | None = None,
        ip: str | None = None,
        bootstrap: Sequence[Node] = (),
        flags: dict[str, Any] | None = None,
        organization: Organization | None = None,
        capabilities: Sequence[str] = ("storage",),
        files: Mapping[str, str] | None = None,
    ) -> Node:
        """A new node, started: `flags` are keys of network.yaml, `ip` its address where the number does not matter.

        `organization` certifies it, with `capabilities`; without one it is an open node. `files` are texts that come
        into its config directory, by name.
        """
        region = REGIONS[self._hosts % len(REGIONS)] if region is None else region
        ip = ip or ip_of(self._hosts)
        self._hosts += 1
        self.geography.place(ip, region)
        settings = flags_of(region, [other.address for other in bootstrap], self.flags | (flags or {}))
        certify: Callable[[Home], None] | None = None
        if organization is not None:
            settings |= organization.flags()
            certify = partial(organization.certify, region=region, capabilities=capabilities, now=EPOCH_S + self.now)

        def prepare(home: Home) -> None:
            if certify is not None:
                certify(home)
            for file, text in (files or {}).items():
                (home.config / file).write_text(text, "utf-8")

        node = Node(self.network, self.seed, name, ip, self._directory / name, settings, prepare)
        self.nodes[name] = node
        await self.join(node)
        return node

    async def join(self, node: Node) -> None:
        """Start a node that left or vanished, from the home it had."""
        await node.end()
        self.network.restore(node.ip)
        await node.start()
        self.trace.note("join", node.name)

    async def leave(self, node: Node) -> None:
        """Stop a node as an operator does: it says goodbye."""
        self.trace.note("leave", node.name)
        self._resume(node)
        await node.end()

    def vanish(self, node: Node) -> None:
        """Take its power: nobody is told. Its disk is as after a clean stop; crashes of disks are tested elsewhere."""
        self.trace.note("vanish", node.name)
        self.network.vanish(node.ip)
        self._resume(node)
        node.begin_end()
        self.spawn(node.end())

    def stall(self, node: Node, seconds: float) -> None:
        """Let its process stand still, timers and all. Its kernel goes on: links stay, and what comes is kept."""
        self.trace.note("stall", node.name, seconds)
        self._stalled_until[node.name] = max(self._stalled_until.get(node.name, 0.0), self.now + seconds)
        self._loop.stall(node.name)
        self._loop.call_later(seconds, self._resume_in_time, node)

    def _resume_in_time(self, node: Node) -> None:
        if self.now >= self._stalled_until.get(node.name, 0.0):
            self._resume(node)

    def _resume(self, node: Node) -> None:
        self._stalled_until.pop(node.name, None)
        self._loop.resume(node.name)

    def partition(self, *groups: Iterable[Node]) -> None:
        """Nodes hear those of their own group alone; nodes in none are one more."""
        names = [[node.name for node in group] for group in groups]
        self.trace.note("partition", names)
        self.network.partition(*([self.nodes[name].ip for name in group] for group in names))

    def heal(self) -> None:
        """End all partitions."""
        self.trace.note("heal")
        self.network.heal()

    # -- schedules

    async def follow(self, changes: Iterable[Change]) -> None:
        """Carry out a schedule, each change at its time; returns after the last."""
        for change in sorted(changes):
            await asyncio.sleep(max(0.0, change.at_s - self.now))
            nodes = [self.nodes[name] for name in change.names]
            match change.kind:
                case "join":
                    for node in nodes:
                        self.spawn(self.join(node))
                case "leave":
                    for node in nodes:
                        self.spawn(self.leave(node))
                case "vanish":
                    for node in nodes:
                        self.vanish(node)
                case "stall":
                    for node in nodes:
                        self.stall(node, change.for_s)
                case "partition":
                    self.partition(nodes)
                case "heal":
                    self.heal()

    def spawn(self, work: Awaitable[None]) -> None:
        """Let it happen beside the scenario; its failure is the scenario's."""
        task: asyncio.Task[None] = self._tasks.create_task(work)  # type: ignore[arg-type]
        self._background[task] = None
        task.add_done_callback(lambda task: self._background.pop(task, None))

    # -- asking

    async def until(self, is_so: Callable[[], bool], *, within_s: float, what: str) -> float:
        """Wait until something is so; gives the seconds that took. Fails when it is not so in time."""
        begin = self.now
        while not is_so():
            if self.now - begin >= within_s:
                raise AssertionError(f"not within {within_s:g} s: {what}")
            await asyncio.sleep(LOOK_S)
        return self.now - begin

    def holders(self, root: str) -> list[str]:
        """Names of the nodes that run and have this very block."""
        from rage_net.cid import Cid

        return [node.name for node in self.up if node.engine.store.has(Cid.parse(root))]

    async def close(self) -> None:
        """End what is left, all at once."""
        for node in self.nodes.values():
            self._resume(node)
        await asyncio.gather(*[node.end() for node in self.nodes.values()])
        for task in list(self._background):
            task.cancel()


@asynccontextmanager
async def open_world(seed: int, directory: Path, **options: Any) -> AsyncIterator[World]:
    """A world, and its end."""
    async with asyncio.TaskGroup() as tasks:
        world = World(seed, directory, tasks, **options)
        try:
            yield world
        finally:
            await world.close()


@dataclass(frozen=True)
class Played(Generic[T]):
    """What came of a play: its result, its trace's digest, and how much was simulated."""

    result: T
    digest: str
    seconds: float
    writes: int
    bytes: int


Scenario: TypeAlias = Callable[[World], Awaitable[T]]


def unreplicated(scenario: Scenario[T]) -> Scenario[T]:
    """The same where bytes lie only where somebody put or fetched them: nodes hold nothing for each other."""

    async def alone(world: World) -> T:
        world.flags["network.replication.enabled"] = "false"
        return await scenario(world)

    return alone


def play(scenario: Scenario[T], seed: int, directory: Path, **options: Any) -> Played[T]:
    """One run; `options` are the world's. What it raises says how to repeat it."""

    async def run() -> Played[T]:
        async with open_world(seed, directory, **options) as world:
            result = await scenario(world)
            trace = world.trace
            return Played(result, trace.digest(), world.now, trace.writes, trace.bytes)

    thresholds = gc.get_threshold()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        with (
            patch.object(homes, "free_bytes", lambda directory: FREE_BYTES),
            patch.object(FileBodies, "free_bytes", lambda bodies: FREE_BYTES),
            asyncio.Runner(loop_factory=VirtualLoop) as runner,
        ):
            return runner.run(run())
    except BaseException as group:
        error = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        words = f"the seed was {seed}: python -m rage_lab.sim {scenario.__name__} {seed}"
        error.add_note(words)
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{words}\n")
        raise error from None
    finally:
        gc.set_threshold(*thresholds)
