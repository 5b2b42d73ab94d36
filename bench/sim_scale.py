"""Many whole engines in one process: `python -m bench.sim_scale [--nodes N] [--mode quiet|dht|gossip] [--seed S]`.

The engines are real, with their stores, cryptography and protocols; the network is in memory and the clock virtual
(rage_lab/sim). Each node puts a document, which two others fetch and keep; then a part of the nodes goes, half of it
without notice, some come back, some stand still, a part is parted from the others for a minute, and packets are lost;
all the while everyone fetches documents. The last line is for those who remain and documents that one of them has.

    quiet    a node knows four others, and is told who holds what: the engines, stores and downloads alone
    dht      every node is told of the first alone, and of no holder: connected peers are asked, and the DHT
    gossip   the same, and every node's heartbeats go to all: at 200 nodes 8 s of work for each simulated second

Prints the seed, which repeats the run, and for each part how fast time went by, memory, and how many fetches succeeded.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rage_lab.sim import churn
from rage_lab.sim.node import Node
from rage_lab.sim.world import World, play
from rage_net.errors import RageError

DOCUMENT_BYTES = 40_000
COPIES = 3
SETTLE_S = 60.0
NEIGHBOURS = 4
"""Whom a quiet node knows."""
FLAGS: dict[str, dict[str, object]] = {
    "quiet": {"network.libp2p.dht.enabled": "false", "network.libp2p.gossipsub.topics": []},
    "dht": {"network.libp2p.gossipsub.topics": []},
    "gossip": {},
}
LOSS = 0.005
CHURN_S = 180.0
FETCH_EVERY_S = 60.0
FETCHES_AFTER = 3
"""Documents that each remaining node fetches at the end."""
FILES_PER_NODE = 12
"""Open at a time: the lock, the database with its log and its readers."""


@dataclass(frozen=True)
class Document:
    root: str
    data: bytes
    holders: list[Node]


@dataclass
class Fetches:
    """What became of them, and how long those took that succeeded, in simulated seconds."""

    are_named: bool
    """Whether who fetches is told of the holders."""
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    async def one(self, node: Node, document: Document, *, keep: bool = False) -> bool:
        try:
            holders = document.holders if self.are_named else ()
            got = await node.get(document.root, *holders, keep=keep)
        except RageError as error:
            if node.is_up:  # else nobody waits for it any more
                self.failures.append(f"{node.name}: {error}; {error.why}")
            return False
        if got.data != document.data:
            self.failures.append(f"{node.name}: wrong bytes")
        self.seconds.append(got.seconds)
        return True

    def __str__(self) -> str:
        done = sorted(self.seconds)
        total = len(done) + len(self.failures)
        if not total:
            return ""
        median, late = (done[len(done) * share // 100] for share in (50, 99)) if done else (0.0, 0.0)
        return f"{len(done)}/{total} fetched ({len(done) / total:.2%}), median {median:.2f} s, 99 % in {late:.2f} s"


class Meter:
    """Prints a line for each part."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._begin()

    def _begin(self) -> None:
        self._real, self._cpu, self._simulated = time.perf_counter(), time.process_time(), self._world.now
        self._writes = self._world.trace.writes

    def line(self, what: str, more: object = "") -> None:
        real, simulated = time.perf_counter() - self._real, self._world.now - self._simulated
        writes = self._world.trace.writes - self._writes
        cpu, rate = time.process_time() - self._cpu, f"{simulated / real:.1f}x"
        print(
            f"{what:18} {simulated:6.1f} s simulated {real:6.1f} s real ({cpu:5.1f} CPU) {rate:>7} "
            f"{writes:7} writes {rss_mib():5.0f} MiB  {more}",
            flush=True,
        )
        self._begin()


def rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


async def scale(world: World, count: int, gone: float, *, mode: str) -> Fetches:
    before = rss_mib()
    meter = Meter(world)
    rng = world.random
    nodes: list[Node] = []
    is_quiet = mode == "quiet"
    for number in range(count):
        known = rng.sample(nodes, min(NEIGHBOURS, len(nodes))) if is_quiet else nodes[:1]
        nodes.append(await world.node(f"n{number}", bootstrap=known, flags=FLAGS[mode]))
    meter.line(f"{count} nodes start")
    await asyncio.sleep(SETTLE_S)
    connections = sum(len(node.peers()) for node in nodes) / 2
    meter.line("they meet", f"{connections:.0f} connections, {(rss_mib() - before) / count:.2f} MiB a node")
    documents = [await put(node, rng) for node in nodes]
    await asyncio.sleep(SETTLE_S)
    meter.line("documents", f"{count} of {DOCUMENT_BYTES} bytes, announced")
    copying = Fetches(is_quiet)
    await asyncio.gather(*(copy(document, nodes, rng, copying) for document in documents))
    await asyncio.sleep(SETTLE_S)
    meter.line("copies", copying)
    world.geography.loss = LOSS
    during = Fetches(is_quiet)
    fetching = [asyncio.create_task(keep_fetching(world, node, documents, during)) for node in nodes]
    ends_at = world.now + CHURN_S
    await world.follow(schedule(rng, nodes, gone, world.now))
    await asyncio.sleep(max(0.0, ends_at - world.now))
    for task in fetching:
        task.cancel()
    await asyncio.gather(*fetching, return_exceptions=True)
    down = count - len(world.up)
    meter.line("churn and faults", f"{during}; {down} down")
    after = Fetches(is_quiet)
    alive = [document for document in documents if any(holder.is_up for holder in document.holders)]
    async with asyncio.TaskGroup() as tasks:
        for node in world.up:
            for document in rng.sample(alive, FETCHES_AFTER):
                tasks.create_task(after.one(node, document))
    meter.line("who remains", after)
    return after


async def put(node: Node, rng: random.Random) -> Document:
    data = rng.randbytes(DOCUMENT_BYTES)
    return Document(await node.put(data), data, [node])


async def copy(document: Document, nodes: Sequence[Node], rng: random.Random, fetches: Fetches) -> None:
    """Others find it and keep it."""
    for other in rng.sample([node for node in nodes if node not in document.holders], COPIES - 1):
        if await fetches.one(other, document, keep=True):
            await other.pin(document.root)
            document.holders.append(other)


async def keep_fetching(world: World, node: Node, documents: Sequence[Document], fetches: Fetches) -> None:
    """One document after another, of those that somebody up still has."""
    rng = random.Random(f"{world.seed}:{node.name}:fetches")
    while True:
        await asyncio.sleep(rng.uniform(0, 2 * FETCH_EVERY_S))
        document = rng.choice(documents)
        if node.is_up and any(holder.is_up for holder in document.holders):
            await fetches.one(node, document)


def schedule(rng: random.Random, nodes: Sequence[Node], gone: float, begin_s: float) -> list[churn.Change]:
    """`gone` of the nodes go for good; a tenth goes and comes back, a tenth stands still, a fifth is parted."""
    names = [node.name for node in nodes[1:]]
    leaving = rng.sample(names, round(gone * len(names)))
    staying = [name for name in names if name not in leaving]
    changes = churn.departures(rng, leaving, share=1, begin_s=begin_s, over_s=CHURN_S)
    changes += churn.departures(
        rng, staying, share=0.1, begin_s=begin_s, over_s=CHURN_S / 2, back_after_s=(10, CHURN_S / 2)
    )
    changes += churn.stalls(rng, staying, count=len(staying) // 10, begin_s=begin_s, over_s=CHURN_S - 20, for_s=(1, 20))
    return changes + churn.partition(rng, names, share=0.2, at_s=begin_s + CHURN_S / 3, for_s=60)


def allow_files(count: int) -> None:
    """Raise the soft limit of open files, as far as the hard one lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.sim_scale", description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--gone", type=float, default=0.3, help="the share that goes for good (0.3)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--mode", choices=FLAGS, default="dht", help="see above (dht)")
    options = parser.parse_args()
    logging.getLogger("rage").setLevel(logging.ERROR)  # else every node tells of every other that goes
    print(f"seed {options.seed}", flush=True)
    allow_files(256 + FILES_PER_NODE * options.nodes)
    with tempfile.TemporaryDirectory(prefix="rage-sim-") as directory:

        async def scenario(world: World) -> Fetches:
            return await scale(world, options.nodes, options.gone, mode=options.mode)

        played = play(scenario, options.seed, Path(directory))
    for failure in played.result.failures[:10]:
        print(failure)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{played.seconds:.0f} s simulated; peak {peak:.0f} MiB; digest {played.digest}")
    return 1 if played.result.failures else 0


if __name__ == "__main__":
    sys.exit(main())
