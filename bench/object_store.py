"""What a store in an S3-compatible bucket does on loopback: moto's server in a process of its own.

    python bench/object_store.py [CACHE_BYTES]

Moto is Python, on the same cores: the figures are a floor, of calls and of overlap, not of what a real server gives.
"""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import aws_server

MIB = 1 << 20
SIZE = 256 * MIB


@contextmanager
def server() -> Iterator[str]:
    program = "import aws_server, sys\nwith aws_server.serving() as url:\n print(url, flush=True)\n sys.stdin.read()"
    environ = {**os.environ, "PYTHONPATH": str(Path(aws_server.__file__).parent)}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout is not None and process.stdin is not None
        yield process.stdout.readline().decode().strip()
        process.stdin.close()


def timed(label: str, began: float, size: int = SIZE) -> None:
    seconds = time.perf_counter() - began
    print(f"{label:32} {seconds:7.2f} s {size / MIB / seconds:7.0f} MiB/s")


def main() -> None:
    cache_bytes = int(sys.argv[1]) if len(sys.argv) > 1 else 1 << 30
    os.environ.update(aws_server.KEYS)
    rng = random.Random(1)
    data = b"".join(rng.randbytes(MIB) for _ in range(SIZE // MIB))
    with server() as url, tempfile.TemporaryDirectory() as directory:
        from rage_net.chunk.bucket import Place
        from rage_net.chunk.documents import Documents
        from rage_net.chunk.gc import collect
        from rage_net.chunk.ingest import ingest
        from rage_net.chunk.store import open_store, walk_chunks
        from rage_net.env import SystemEnv

        place = Place(aws_server.make_bucket(url), "bench", endpoint=url)
        env = SystemEnv()
        began = time.perf_counter()
        store = open_store(Path(directory), env, objects=place, cache_bytes=cache_bytes)
        print(f"{'open, boto3 and all':32} {time.perf_counter() - began:7.2f} s")
        documents = Documents(store)
        for label in ("put, new", "put, all there already"):
            began = time.perf_counter()
            with documents.lease() as lease:
                found = ingest(io.BytesIO(data), store, lease)
                documents.put(lease, found.root, size=found.size, chunks=found.chunks, name="bench")
            timed(label, began)
        cids = [stat.cid for stat in walk_chunks(store)]
        for label, at_rest in (("get, from the bucket", True), ("get, from the cache", False)):
            for threads in (1, 3):
                began = time.perf_counter()
                with ThreadPoolExecutor(threads) as pool:
                    size = sum(len(plain) for plain in pool.map(lambda cid: store.get(cid, at_rest=at_rest), cids))  # noqa: B023
                timed(f"{label}, {threads} threads", began, size)
        for document in documents.list()[0]:
            documents.remove(document)
        began = time.perf_counter()
        gone = collect(store, documents, grace_s=0).chunks
        timed(f"gc of {gone} chunks", began)
        store.close()
        env.close()


if __name__ == "__main__":
    main()
