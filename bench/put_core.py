"""The core of `chunk put`, without start-up, engine or door: 256 MiB, half text and half random, durable.

    .venv/bin/python bench/put_core.py [--mib 256] [--rounds 5] [--dir DIR]

Prints seconds of each round and their median. Fresh directories each round, removed at the end alone: ext4 avoids
recently deleted inodes, which makes the next round's files dearer (feasibility.md). The first round is dropped.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path

MIB = 1 << 20


def make_source(path: Path, size: int) -> None:
    rng = random.Random(1)
    words = [bytes(rng.choices(b"abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 11))) for _ in range(20_000)]
    shares = list(
        itertools.accumulate(1 / rank for rank in range(1, len(words) + 1))
    )  # Zipf, as in real text: zstd's speed depends on it
    with path.open("wb") as out:
        written = 0
        while written < size // 2:
            sentences = (
                b" ".join(rng.choices(words, cum_weights=shares, k=rng.randint(5, 25))) + b". " for _ in range(2_000)
            )
            block = b"\n\n".join(b"".join(next(sentences) for _ in range(5)) for _ in range(400))
            written += out.write(block[: size // 2 - written])
        while written < size:
            written += out.write(rng.randbytes(min(MIB, size - written)))


def put(source: Path, home: Path) -> float:
    from rage_net.chunk.documents import Documents
    from rage_net.chunk.ingest import ingest
    from rage_net.chunk.store import open_store
    from rage_net.env import SystemEnv

    started = time.perf_counter()
    store = open_store(home, SystemEnv())
    documents = Documents(store)
    with documents.lease() as lease, source.open("rb", buffering=0) as file:
        done = ingest(file, store, lease, expected_size=source.stat().st_size)
        documents.put(lease, done.root, size=done.size, chunks=done.chunks, name="bench")
    store.close()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as name:
        root = Path(name)
        make_source(root / "source", args.mib * MIB)
        times = []
        for number in range(args.rounds + 1):
            (root / f"home{number}").mkdir()
            times.append(put(root / "source", root / f"home{number}"))
        print(" ".join(f"{seconds:.3f}" for seconds in times[1:]), f"median {statistics.median(times[1:]):.3f} s")
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
