"""A node that is gone for good: `python -m bench.repair [--runs N] [--chunks N] [--reads p2p|local|none]`.

Five real nodes in three regions, each a process, on loopback; factor 3, the default grace of 30 s. Documents of some
2,000 chunks are put and proved; then one node's process and disk are gone. What counts is seconds from there: until a
survivor knows (its status says so), until the first copy was made anew, until an audit with proof by a survivor finds
every chunk at 3 nodes. Meanwhile a reader at another survivor fetches documents without end, verified, kept nowhere:
from other nodes alone (`p2p`) or whatever is here (`local`); `none` shows what repair alone costs. Its rate before,
during repair (first copy to last) and after, side by side on one machine, and what share of all processor time the
nodes got: where others take most of it, the rates are theirs. Medians of the runs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.put_wait import SMALL
from rage_lab.cluster import Cluster, LabNode
from rage_lab.workload import Bytes
from rage_net.errors import RageError
from rage_net.verbs.chunk import GetChunk, PutChunk
from rage_net.verbs.replication import AuditReplication, ShowReplication

DOCUMENTS = 40
CHUNK_BYTES = 64 << 10
SPLIT = "split: {min_size: 16KiB, target_size: 64KiB, max_size: 256KiB}"
COPIES = 3
PUT_S, AUDIT_S, WITHIN_S = 600.0, 300.0, 600.0
QUIET_S = 20.0
"""Of reading before the loss, and again after all is well."""
START_S_MAX, KEPT_MIN = 60.0, 0.70


class Discard:
    """A sink that counts."""

    def __init__(self) -> None:
        self.size = 0

    def begin(self, size: int, /) -> None:
        """Nothing to prepare."""

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        self.size += len(data)


@dataclass
class Reader:
    """Documents in turn from one node, until `stop`."""

    node: LabNode
    names: list[str]
    sources: tuple[str, ...]
    marks: list[tuple[float, int]] = field(default_factory=list)
    failures: int = 0

    def __post_init__(self) -> None:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        if self.sources:
            self._thread.start()

    def _go_on(self) -> None:
        at = 0
        while not self._done.is_set():
            sink = Discard()
            try:
                self.node.run(GetChunk(self.names[at % len(self.names)], sources=self.sources, cache=False), sink=sink)  # type: ignore[arg-type]
            except RageError:
                self.failures += 1
                time.sleep(0.1)
            at += 1
            self.marks.append((time.monotonic(), sink.size))

    def stop(self) -> None:
        self._done.set()
        if self.sources:
            self._thread.join()

    def rate(self, begin: float, end: float) -> float:
        """Bytes a second."""
        return sum(size for at, size in self.marks if begin < at <= end) / max(0.001, end - begin)


class Processor:
    """Whose the machine's processor time was, by /proc."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def now(self) -> tuple[float, float]:
        """Seconds that all have used, and the nodes."""
        ticks = os.sysconf("SC_CLK_TCK")
        words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        busy = sum(map(int, words[:3])) / ticks
        ours = 0.0
        for node in self._cluster.nodes:
            if node.is_up and node.process is not None:
                fields = Path(f"/proc/{node.process.pid}/stat").read_text().rpartition(")")[2].split()
                ours += (int(fields[11]) + int(fields[12])) / ticks
        return busy, ours


@dataclass(frozen=True)
class Run:
    known_s: float
    started_s: float
    copied_s: float
    done_s: float
    before: float
    during: float
    after: float
    chunks: int
    lost_chunks: int
    failures: int
    waiting: float
    """Bytes a second between the loss and the first new copy."""

    @property
    def kept(self) -> float:
        return self.during / max(1.0, statistics.mean((self.before, self.after)))


def until(done: Callable[[], bool], within_s: float, pause_s: float = 0.5) -> float:
    """When it was so."""
    ends = time.monotonic() + within_s
    while not done():
        if time.monotonic() > ends:
            raise TimeoutError(f"not within {within_s:g} s")
        time.sleep(pause_s)
    return time.monotonic()


def all_proved(node: LabNode, chunks: int) -> bool:
    found = node.run(AuditReplication(prove=True), timeout_s=AUDIT_S)
    short = found.checked - found.ok
    proved = all(sum(row.possession == "proved" for row in one.holders) >= COPIES for one in found.findings)
    return found.checked >= chunks and (not short or proved)


def play(chunks: int, seed: int, sources: tuple[str, ...]) -> Run:
    rng = random.Random(seed)
    with (
        tempfile.TemporaryDirectory(prefix="rage-bench-", ignore_cleanup_errors=True) as name,
        Cluster(Path(name), seed=seed) as cluster,
    ):
        for node in cluster.nodes:
            file = node.home.network_yaml
            file.write_text(file.read_text().replace(SMALL, SPLIT))
            file = node.home.config / "replication.yaml"
            file.write_text(file.read_text().replace("  grace: 8s\n", ""))
        cluster.start(*cluster.nodes)
        cluster.settle()
        return _play(cluster, rng, chunks, sources)


def _play(cluster: Cluster, rng: random.Random, chunks: int, sources: tuple[str, ...]) -> Run:
    _, reader_node, auditor, _other, victim = cluster.nodes
    names, count = [], 0
    while count < chunks:
        name = f"document {len(names)}"
        size = CHUNK_BYTES * chunks // DOCUMENTS
        node = cluster.nodes[len(names) % len(cluster.nodes)]
        verb = PutChunk(name=name, size=size, wait=COPIES, wait_s=PUT_S)
        found = node.run(verb, timeout_s=PUT_S, source=Bytes(rng.randbytes(size)))
        names.append(name)
        count += found.total_chunks + 1
    print(f"  {len(names)} documents, {count} chunks, proved; load {os.getloadavg()[0]:.1f}", flush=True)
    until(lambda: all_proved(auditor, count), WITHIN_S)
    processor = Processor(cluster)
    reader = Reader(reader_node, names, sources)
    try:
        time.sleep(2)
        began = time.monotonic()
        time.sleep(QUIET_S)
        status = auditor.run(ShowReplication())
        everything = sum(row.chunks for row in status.policies)
        lost_chunks = next(row.chunks for row in status.nodes if row.peer_id == victim.peer_id)
        lost = time.monotonic()
        cluster.destroy(victim)
        before_cpu = processor.now()
        have = sum(map(held, cluster.left))
        known = until(lambda: is_known(auditor, victim), WITHIN_S)
        started = until(lambda: any(map(asked, cluster.left)) or sum(map(held, cluster.left)) > have, WITHIN_S, 0.2)
        copied = until(lambda: sum(map(held, cluster.left)) >= COPIES * everything, WITHIN_S, 0.3)
        copying = processor.now()[1] - before_cpu[1]
        print(f"  the nodes used {copying:.1f} s of processor from the loss to the last copy", flush=True)
        time.sleep(1)
        done = until(lambda: all_proved(auditor, count), WITHIN_S)
        ended = max(copied, started + 0.5)
        time.sleep(3)
        after = time.monotonic()
        time.sleep(QUIET_S)
        end = time.monotonic()
    finally:
        reader.stop()
    used = [b - a for a, b in zip(before_cpu, processor.now(), strict=True)]
    print(f"  of the processor time used since the loss the nodes had {100 * used[1] / max(0.1, used[0]):.0f} %")
    return Run(
        known - lost,
        started - lost,
        copied - lost,
        done - lost,
        reader.rate(began, lost),
        reader.rate(started, ended),
        reader.rate(after, end),
        count,
        lost_chunks,
        reader.failures,
        reader.rate(lost, started),
    )


def is_known(node: LabNode, victim: LabNode) -> bool:
    status = node.run(ShowReplication())
    return any(victim.peer_id in problem and "out of reach" in problem for problem in status.problems)


def held(node: LabNode) -> int:
    """Chunks that it notes as here: read from its inventory beside it, so that asking costs it nothing."""
    return _count(node, "have > 0 AND mine > 0")


def asked(node: LabNode) -> int:
    """Chunks that a coordinator asked it to hold, or that are its own, and that are not here."""
    return _count(node, "mine > 0 AND have = 0")


def _count(node: LabNode, where: str) -> int:
    with contextlib.closing(sqlite3.connect(f"{node.home.inventory.as_uri()}?mode=ro", uri=True)) as db:
        return int(db.execute(f"SELECT count(*) FROM chunk WHERE {where}").fetchone()[0])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.repair", description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--chunks", type=int, default=2000)
    parser.add_argument("--reads", choices=("p2p", "local", "none"), default="p2p")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    sources = {"p2p": ("p2p",), "local": ("local", "p2p"), "none": ()}[options.reads]
    runs = []
    for at in range(options.runs):
        run = play(options.chunks, options.seed + at, sources)
        runs.append(run)
        print(
            f"run {at + 1}: {run.lost_chunks} of {run.chunks} chunks lost a copy; known after {run.known_s:.1f} s,"
            f" repair begun after {run.started_s:.1f} s, all copies made after {run.copied_s:.1f} s, all"
            f" proved after {run.done_s:.1f} s; reads, MB/s: {run.before / 1e6:.1f} before,"
            f" {run.waiting / 1e6:.1f} until repair, {run.during / 1e6:.1f} during,"
            f" {run.after / 1e6:.1f} after ({100 * run.kept:.0f} % kept),"
            f" {run.failures} failed",
            flush=True,
        )
    started = statistics.median(run.started_s for run in runs)
    done = statistics.median(run.done_s for run in runs)
    kept = statistics.median(run.kept for run in runs)
    print(f"start of repair, median: {started:.1f} s, at most {START_S_MAX:g}: {_word(started <= START_S_MAX)}")
    print(f"all at {COPIES} proved copies, median: {done:.1f} s")
    print(f"reads kept, median: {100 * kept:.0f} %, at least {100 * KEPT_MIN:.0f}: {_word(kept >= KEPT_MIN)}")
    return 0 if started <= START_S_MAX and kept >= KEPT_MIN else 1


def _word(is_reached: bool) -> str:
    return "reached" if is_reached else "MISSED"


if __name__ == "__main__":
    sys.exit(main())
