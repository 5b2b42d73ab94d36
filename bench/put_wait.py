"""A put that waits for proof: `python -m bench.put_wait [--rounds N] [--documents N]`.

Five real nodes, factor 3, three regions, on loopback of this machine. A document of 1 MiB and one of 64 MiB are put at
one node in turn: plainly, and until three nodes have proved that they hold all of it. Medians of seconds. Then the same
for 1 MiB when the log has many documents more: it must not cost more.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

from rage_lab.cluster import Cluster, LabNode
from rage_lab.workload import Bytes
from rage_net.verbs.chunk import PutChunk

WAIT = 3
VERB_S = 300.0
SIZES = ((1 << 20, "1 MiB"), (64 << 20, "64 MiB"))
SMALL = "split: {min_size: 4KiB, target_size: 16KiB, max_size: 64KiB}"
SPLIT = "split: {min_size: 64KiB, target_size: 256KiB, max_size: 1MiB}"
"""In place of the lab's."""


def put(node: LabNode, name: str, data: bytes, wait: int) -> float:
    """Seconds."""
    verb = PutChunk(name=name, size=len(data), wait=wait, wait_s=VERB_S if wait else 0.0)
    began = time.perf_counter()
    found = node.run(verb, timeout_s=VERB_S, source=Bytes(data))
    assert len(found.replicas) >= wait
    return time.perf_counter() - began


def measure(node: LabNode, rng: random.Random, what: str, size: int, rounds: int) -> None:
    plain, waited = [], []
    for at in range(rounds):
        plain.append(put(node, f"{what} plain {at}", rng.randbytes(size), 0))
        time.sleep(min(10.0, size / (8 << 20)))  # its copies travel before the next is timed
        waited.append(put(node, f"{what} waited {at}", rng.randbytes(size), WAIT))
    print(
        f"{what}: plain {statistics.median(plain):.2f} s, until {WAIT} have proved {statistics.median(waited):.2f} s"
        f" ({min(waited):.2f} to {max(waited):.2f}; {rounds} rounds, load {os.getloadavg()[0]:.1f})",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.put_wait", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--documents", type=int, default=1000, help="put before the last line; 0 leaves it out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="leave 64 MiB out")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with (
        tempfile.TemporaryDirectory(prefix="rage-bench-", ignore_cleanup_errors=True) as name,
        Cluster(Path(name), seed=options.seed) as cluster,
    ):
        for node in cluster.nodes:
            file = node.home.network_yaml
            file.write_text(file.read_text().replace(SMALL, SPLIT))
        cluster.start(*cluster.nodes)
        cluster.settle()
        node = cluster.nodes[0]
        put(node, "warm", rng.randbytes(1000), WAIT)
        for size, what in SIZES[: 1 if options.small else 2]:
            measure(node, rng, what, size, options.rounds)
        if options.documents:
            for at in range(options.documents):
                put(node, f"many {at}", rng.randbytes(500), 0)
            put(node, "all there", rng.randbytes(1000), WAIT)
            measure(node, rng, f"1 MiB, {options.documents:,} documents more", 1 << 20, options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
