"""Rounds of work on one home, each in a process that is killed at a random point. Run by test_crash.py.

    python crash_rounds.py HOME SEED KILLS [URL BUCKET]

With URL and BUCKET chunks lie in an object store, which lives on while the child is killed.

Each round forks. The child puts and moves documents and collects garbage, and is killed: by SIGKILL at a failpoint, or
by a timer's SIGALRM, which runs no more of it either. What it saw acknowledged it wrote to a file before. The parent
then opens the home and checks: everything acknowledged is there, nothing is corrupt, totals agree.
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from rage_net.chunk.documents import Documents
from rage_net.chunk.gc import collect
from rage_net.chunk.ingest import ingest
from rage_net.chunk.manifest import pieces
from rage_net.chunk.replicas import is_held, keep_replicas, let_go, missing, walk
from rage_net.chunk.split import Sizes
from rage_net.chunk.store import Admitted, ChunkStore, Quota, open_store, walk_chunks
from rage_net.chunk.verify import verify
from rage_net.cid import Cid

SIZES = Sizes(16 * 1024, 32 * 1024, 128 * 1024)
ROOMY = Quota(free_bytes_min=0, free_inodes_min=0)
OBJECTS: dict[str, Any] = {}


class World:
    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


def make(seed: int) -> bytes:
    """A document: some files, some small chunks, and a part that all documents share."""
    rng = random.Random(seed)
    text = b"".join(b"sentence %d of a text that packs well. \n\n" % rng.randrange(1000) for _ in range(2000))
    return random.Random(0).randbytes(100_000) + rng.randbytes(rng.randrange(150_000)) + text[: rng.randrange(80_000)]


def work(home: Path, rng: random.Random, acks: int) -> None:
    """The child: ends by being killed, or when it has done its work."""
    left = rng.randrange(1, 70) if rng.random() < 0.7 else 1 << 30

    def failpoint(step: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    if left == 1 << 30:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.001, 0.08))
    world = World(f"child {rng.random()}")
    store = open_store(home, world, quota=ROOMY, failpoint=failpoint, **OBJECTS)
    documents = Documents(store)
    for _ in range(2):
        name, seed = f"name{rng.randrange(6)}", rng.randrange(1 << 30)
        os.write(acks, json.dumps(["begin", name, seed]).encode() + b"\n")
        with documents.lease() as lease:
            done = ingest(io.BytesIO(make(seed)), store, lease, sizes=SIZES)
            documents.put(lease, done.root, size=done.size, chunks=done.chunks, name=name)
        os.write(acks, json.dumps(["done", name, seed]).encode() + b"\n")
    keep_and_let_go(store, rng, acks)
    if rng.random() < 0.5:
        collect(store, documents, grace_s=0)
    store.close()


def keep_and_let_go(store: ChunkStore, rng: random.Random, acks: int) -> None:
    """Replicas come as another node would send them, and some go again."""
    seed = rng.randrange(1 << 30)
    os.write(acks, json.dumps(["keep", "", seed]).encode() + b"\n")
    keep_replicas(store, [Admitted(Cid.of(data), "raw", data, len(data)) for data in replicas_of(seed)])
    os.write(acks, json.dumps(["kept", "", seed]).encode() + b"\n")
    if rng.random() < 0.5:
        os.write(acks, json.dumps(["let go", "", seed]).encode() + b"\n")
        cids = [Cid.of(data) for data in replicas_of(seed)]
        let_go(store, cids, now=time.time(), at_once=rng.random() < 0.5)
        os.write(acks, json.dumps(["gone", "", seed]).encode() + b"\n")


def replicas_of(seed: int) -> list[bytes]:
    """A file and a small chunk of its own, and a file that it shares with others, which may have let it go."""
    rng = random.Random(seed)
    return [rng.randbytes(40_000), rng.randbytes(2000), random.Random(0).randbytes(30_000 + rng.randrange(2))]


def check(home: Path, acks: Path, everything: bool) -> None:
    """What each name may hold: what was acknowledged last, or what was begun after that."""
    may: dict[str, list[int]] = {}
    kept: dict[int, str] = {}
    for line in acks.read_text().splitlines():
        step, name, seed = json.loads(line)
        if not name:
            kept[seed] = step
            continue
        may[name] = [seed] if step == "done" else [*may.get(name, [-1]), seed]
    store = open_store(home, World("check"), quota=ROOMY, **OBJECTS)
    try:
        documents = Documents(store)
        found = {document.name: document for document in documents.list()[0]}
        for name, seeds in may.items():
            assert name in found or -1 in seeds, f"{name} was acknowledged and is gone"
            if name in found and everything:
                root = found[name].root
                cids = [piece.cid for piece in pieces(root, store.get)] if root.is_manifest() else [root]
                whole = b"".join(store.get(cid) for cid in cids)
                assert whole in [make(seed) for seed in seeds if seed >= 0], f"{name} holds other bytes"
        for seed in [seed for seed, step in kept.items() if step == "kept"][0 if everything else -3 :]:
            for data in replicas_of(seed)[:2]:
                assert is_held(store, Cid.of(data)), f"replicas {seed} are held no longer"
                assert store.get(Cid.of(data)) == data
        for seed in [seed for seed, step in kept.items() if step == "gone"]:
            assert not any(is_held(store, Cid.of(data)) for data in replicas_of(seed)[:2]), f"replicas {seed} are held"
        assert not missing(store), "what is held is here"
        if everything:
            bad = verify(store).bad
            assert not bad, bad
        check_totals(store)
    finally:
        store.close()


def check_totals(store: ChunkStore) -> None:
    stats = list(walk_chunks(store))
    totals = store.totals()
    assert totals.chunks == len(stats)
    assert totals.stored == sum(stat.stored for stat in stats)
    with store.index.read() as db:
        wrong = db.execute(
            "SELECT count(*) FROM chunk"
            " WHERE (released_at IS NULL) <> EXISTS (SELECT 1 FROM hold WHERE hold.cid = chunk.cid)"
        ).fetchone()[0]
    assert wrong == 0, f"{wrong} chunks disagree with their holds"


def main() -> None:
    home, seed, kills = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    if len(sys.argv) > 4:
        import boto3  # noqa: F401  before the forks, which then need not

        from rage_net.chunk.bucket import Place

        OBJECTS.update(objects=Place(sys.argv[5], "crash", endpoint=sys.argv[4]), cache_bytes=200_000)
    rng = random.Random(seed)
    path = home.with_name("acks")
    acks = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    killed = number = 0
    while killed < kills:
        number += 1
        child_rng = random.Random(rng.getrandbits(64))
        child = os.fork()
        if child == 0:
            try:
                work(home, child_rng, acks)
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        killed += os.WIFSIGNALED(status)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"round {number} failed by itself"
        check(home, path, everything=number % 8 == 0)
    check(home, path, everything=True)
    store = open_store(home, World("end"), quota=ROOMY, **OBJECTS)
    documents = Documents(store)
    for document in documents.list()[0]:
        documents.remove(document)
    let_go(store, list(walk(store)), now=time.time(), at_once=False)
    collect(store, documents, grace_s=0)
    assert store.totals().chunks == 0
    collect(store, documents, grace_s=0)
    store.close()
    left = [path for path in (home / "store").rglob("*") if path.is_file() and path.name != "ballast"]
    assert not left or OBJECTS, left
    if OBJECTS:
        from rage_net.chunk.bucket import Bucket

        kept = list(Bucket(OBJECTS["objects"], World("end")).list("", 10))
        assert kept == ["owner.json"], kept
    print(json.dumps({"rounds": number, "killed": killed}))


if __name__ == "__main__":
    main()
