"""Planning the audit of a large inventory: `python -m bench.audit_plan [--chunks N] [--nodes M] [--seed S]`.

One node's inventory on disk, the rules of replication, no network: documents are noted with their chunks, home sets are
computed and stored, and a plan names whom to ask about which chunk, a page at a time, as `rage replication audit --all`
does. Then what follows by itself: a document more, a node more, a node less, and the round of a coordinator, whose
holders prove at once. The verdict is on seconds of processor time, one core's; waits for the disk and for others on the
machine are in the elapsed ones, printed beside. Targets
are step 4's: 120 s and 500 MiB for a million chunks over a hundred nodes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from rage_net.chunk.store import open_store
from rage_net.cid import DAG_CBOR, RAW, Cid
from rage_net.env import SystemEnv
from rage_net.libp2p.peer_id import PeerId
from rage_net.metrics import Metrics
from rage_net.replication.audit import Answer
from rage_net.replication.inventory import Inventory, Wanted
from rage_net.replication.place import Candidate
from rage_net.replication_verbs.asking import PAGE, whom_to_ask
from rage_net.services.replicating.coordinating import Coordinating
from rage_net.services.replicating.reading import Reading
from rage_net.services.replicating.view import Node, View

DOCUMENT_CHUNKS = 1000
FACTOR = 3
SECONDS_MAX, MIB_MAX = 120.0, 500.0


def peer(at: int) -> PeerId:
    return PeerId(bytes((0, 36, 8, 1, 18, 32)) + blake3(b"node %d" % at).digest())


def node(at: int) -> Node:
    """The hundred lie in 5 regions of 4 zones."""
    return Node(Candidate(peer(at), "acme", f"r{at % 5}", f"z{at // 5 % 4}", 1), "active")


def chunk(document: int, at: int) -> Cid:
    return Cid(RAW, blake3(b"chunk %d %d" % (document, at)).digest())


def resident_mib() -> float:
    """In RAM now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class ProvesAtOnce:
    """Holders that are there and prove whatever they are asked; nobody is asked to hold in vain."""

    def __init__(self) -> None:
        self.asked = 0
        self.held = 0

    async def prove(self, asks: dict[PeerId, list[Cid]]) -> dict[tuple[PeerId, Cid], Answer]:
        self.asked += sum(map(len, asks.values()))
        return {(who, cid): Answer("proved") for who, cids in asks.items() for cid in cids}

    async def hold(self, _peer: PeerId, _organization: str, cids: list[Cid]) -> int:
        self.held += len(cids)
        return len(cids)


class World:
    """One node's inventory and rules, in a directory."""

    def __init__(self, directory: Path, nodes: int) -> None:
        self.env = SystemEnv()
        self.own = peer(0)
        self.path = directory / "replicas.db"
        self.inventory = Inventory(self.path, self.own)
        self.view = View(self.own, "geographic_diversity", 30.0, 0.0)
        self.nodes = nodes
        (directory / "home").mkdir(exist_ok=True)
        self.store = open_store(directory / "home", self.env)
        self.clock = self.inventory.clock_at_open
        fetch: Any = None  # nothing is fetched: manifests are told
        self.reading = Reading(self.store, self.inventory, self.env, self.view, fetch, lambda: self.clock)
        self.holders = ProvesAtOnce()
        prover: Any = self.holders
        self.coordinating = Coordinating(
            self.inventory,
            self.env,
            Metrics(),
            self.view,
            prover,
            prover,
            is_full=lambda _: False,
            period_s=30 * 86_400.0,
            now=lambda: self.clock,
        )

    def use_nodes(self) -> None:
        self.view.set_nodes([node(at) for at in range(self.nodes)])
        self.inventory.use(self.view.digest)

    def see(self, documents: range) -> None:
        """The log has these documents."""
        found = (
            Wanted(
                "acme", f"doc-{at:06}", Cid(DAG_CBOR, blake3(b"%d" % at).digest()), peer(at % 100), "default", 3, 2, ""
            )
            for at in documents
        )
        self.inventory.see(found, self.inventory.same_round(), self.clock)

    def read(self) -> int:
        """Their manifests were read."""
        count = 0
        while unread := self.inventory.unread(self.clock, 64):
            for each in unread:
                number = int(each.doc_id[4:])
                members = [(each.root, 60_000), *((chunk(number, at), 65_536) for at in range(DOCUMENT_CHUNKS - 1))]
                self.inventory.read(each.id, each.root, members, self.clock)
                count += len(members)
        return count

    def place(self) -> int:
        count = 0
        while placed := self.reading.place_page():
            count += placed
        return count

    def fetched(self) -> int:
        """Our share is here."""
        count = 0
        while wanted := self.inventory.wanted(self.clock, PAGE):
            self.inventory.set_have(wanted, 1, self.clock)
            count += len(wanted)
        return count

    def plan(self) -> int:
        """Whom to ask about which chunk: nobody is asked."""
        count, after = 0, 0
        while items := self.inventory.page(after, PAGE):
            after = items[-1].id
            known = self.inventory.proofs([item.id for item in items])
            count += sum(map(len, whom_to_ask(self.view, items, known).values()))
        return count

    def coordinate(self) -> int:
        """All rounds that are due at this node."""

        async def go_on() -> int:
            count = 0
            while looked := await self.coordinating.round():
                count += looked
            return count

        return asyncio.run(go_on())

    def close(self) -> None:
        self.inventory.close()
        self.store.close()


@dataclass(frozen=True)
class Step:
    what: str
    seconds: float
    processor: float
    count: int

    def line(self) -> str:
        return (
            f"{self.what:58} {self.count:>10,} {self.seconds:8.2f} s {self.processor:8.2f} s of processor,"
            f" {resident_mib():5.0f} MiB resident"
        )


def timed(what: str, act: Callable[[], int]) -> Step:
    started, processor = time.perf_counter(), time.process_time()
    count = act()
    step = Step(what, time.perf_counter() - started, time.process_time() - processor, count)
    print(step.line(), flush=True)
    return step


def steps(directory: Path, chunks: int, nodes: int) -> Iterator[Step]:
    world = World(directory, nodes)
    world.use_nodes()
    documents = chunks // DOCUMENT_CHUNKS
    world.see(range(documents))
    yield timed("chunks noted, as manifests are read", world.read)
    yield timed("home sets computed and stored", world.place)
    yield timed("plan: questions to holders", world.plan)
    yield timed("our share noted as here", world.fetched)
    yield timed("chunks this node coordinates, proved", world.coordinate)
    yield timed("plan anew: questions to holders", world.plan)

    world.clock += 60

    def one_more() -> int:
        world.see(range(documents, documents + 1))
        world.read()
        return world.place()

    yield timed("a document more: chunks read, placed", one_more)
    world.fetched()
    yield timed("  of these, ours to coordinate", world.coordinate)

    def lose() -> int:
        gone = peer(7)
        world.view.unavailable = frozenset({gone})
        return world.inventory.hasten(gone, world.clock)

    yield timed("a node lost: chunks that are due", lose)
    yield timed("  of these, looked at here", world.coordinate)
    print(f"  stand-ins asked to hold {world.holders.held:,} chunks")
    world.view.unavailable = frozenset()
    timed("it is back: chunks that are due", lambda: world.inventory.hasten(peer(7), world.clock))

    def join() -> int:
        world.nodes += 1
        world.use_nodes()
        return world.place()

    yield timed("a node more: all placed anew", join)
    world.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.audit_plan", description=__doc__.partition("\n")[0])
    parser.add_argument("--chunks", type=int, default=1_000_000)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.open:
        return opened(options.open, options.nodes)
    print(f"{options.chunks:,} chunks over {options.nodes} nodes, factor {FACTOR}; load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="rage-bench-") as name:
        done = list(steps(Path(name), options.chunks, options.nodes))
        size = sum(path.stat().st_size for path in Path(name).glob("replicas.db*"))
        print(f"replicas.db: {size / 1e6:.0f} MB on disk, {size / options.chunks:.0f} bytes a chunk")
        command = [sys.executable, "-m", "bench.audit_plan", "--open", name, "--nodes", str(options.nodes + 1)]
        subprocess.run(command, check=True)
    planning = sum(step.processor for step in done[:3])
    elapsed = sum(step.seconds for step in done[:3])
    print(f"planning from nothing took {elapsed:.1f} s here, at a load of {os.getloadavg()[0]:.1f}")
    rows = [
        ("planning from nothing, s of processor", planning, SECONDS_MAX),
        ("peak resident, MiB", peak_mib(), MIB_MAX),
    ]
    for what, value, most in rows:
        print(f"{what:58} {value:10.1f}  at most {most:<5g} {'reached' if value <= most else 'MISSED'}")
    return 0 if all(value <= most for _, value, most in rows) else 1


def opened(directory: Path, nodes: int) -> int:
    """A fresh process with such an inventory: what it costs to have it, and to plan."""
    before = resident_mib()
    world = World(directory, nodes)
    world.use_nodes()
    print(f"a fresh process opens it: {before:.0f} MiB before, {resident_mib():.0f} MiB after")
    timed("  and plans: questions to holders", world.plan)
    print(f"  {peak_mib():.0f} MiB at the most")
    world.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
