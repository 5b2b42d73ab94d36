"""The put pipeline: any source, one pass, bounded memory, all or nothing."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from rage_net.chunk import batch
from rage_net.chunk import ingest as module
from rage_net.chunk.documents import Documents
from rage_net.chunk.gc import collect
from rage_net.chunk.holds import count_holds
from rage_net.chunk.ingest import Ingested, ingest
from rage_net.chunk.manifest import blocks, pieces
from rage_net.chunk.split import Sizes, Splitter
from rage_net.chunk.stat import Stat
from rage_net.chunk.store import ChunkStore
from rage_net.cid import Cid
from rage_net.errors import ConflictError, StorageFullError

SIZES = Sizes(4096, 16_384, 65_536)


def put(store: ChunkStore, source: object, **more: object) -> Ingested:
    documents = Documents(store)
    with documents.lease("org") as lease:
        done = ingest(source, store, lease, **{"sizes": SIZES, "buffer_bytes": 1, **more})  # type: ignore[arg-type]
        documents.put(lease, done.root, size=done.size, chunks=done.chunks)
    return done


def joined(store: ChunkStore, root: Cid) -> bytes:
    return (
        b"".join(store.get(piece.cid) for piece in pieces(root, store.get)) if root.is_manifest() else store.get(root)
    )


@pytest.fixture
def data(rng: Random) -> bytes:
    """Over two of the smallest buffers: a part that repeats, so that one batch meets a chunk twice."""
    part = rng.randbytes(700_000)
    return part + b"A sentence in a text. " * 30_000 + part + rng.randbytes(2_000_000)


@pytest.mark.parametrize("size", [0, 1, 3000, 65_536, 65_537, 3_000_000])
def test_every_size_comes_back(store: ChunkStore, data: bytes, size: int) -> None:
    done = put(store, io.BytesIO(data[:size]))
    assert done.size == size
    assert joined(store, done.root) == data[:size]
    assert done.root.is_manifest() == (done.chunks > 1)


def test_the_cuts_are_those_of_the_contract_whatever_the_buffers(store: ChunkStore, data: bytes) -> None:
    expected, at = [], 0
    for length in Splitter(SIZES).cuts(memoryview(data), True):
        expected.append(Cid.of(data[at : at + length]))
        at += length
    roots = set()
    for buffer_bytes in (1, 2_500_000, 1 << 24):
        seen: list[Stat] = []
        roots.add(put(store, io.BytesIO(data), buffer_bytes=buffer_bytes, on_chunk=seen.append).root)
        assert [stat.cid for stat in seen] == expected
    assert len(roots) == 1


def test_a_pipe_that_gives_a_little_at_a_time_is_read_to_its_end(store: ChunkStore, data: bytes) -> None:
    reader, writer = os.pipe()

    def write() -> None:
        with open(writer, "wb") as out:
            out.write(data)

    thread = threading.Thread(target=write)
    thread.start()
    with open(reader, "rb", buffering=0) as source:
        done = put(store, source)
    thread.join()
    assert joined(store, done.root) == data


def test_all_blocks_are_held_and_count(store: ChunkStore, data: bytes) -> None:
    done = put(store, io.BytesIO(data))
    for cid in blocks(done.root, store.get):
        assert count_holds(store, cid) == 1
        assert [organisation for _, organisation in Documents(store).counting(cid)] == ["org"]
    assert store.totals().chunks == done.new_chunks == len(set(blocks(done.root, store.get)))


def test_a_second_put_of_the_same_bytes_stores_nothing(store: ChunkStore, data: bytes) -> None:
    first = put(store, io.BytesIO(data))
    totals = store.totals()
    again = put(store, io.BytesIO(data))
    assert (again.root, again.chunks, again.new_chunks) == (first.root, first.chunks, 0)
    assert store.totals() == totals


def test_two_puts_at_once_of_the_same_bytes_agree(store: ChunkStore, data: bytes) -> None:
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: put(store, io.BytesIO(data)), range(2))
    assert one.root == two.root
    assert one.new_chunks + two.new_chunks == store.totals().chunks
    assert joined(store, one.root) == data
    assert Documents(store).count() == 2


def test_many_batches_make_one_document(store: ChunkStore, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "BATCH_CHUNKS_MAX", 7)
    done = put(store, io.BytesIO(data))
    assert joined(store, done.root) == data
    assert done.new_chunks == store.totals().chunks
    assert collect(store, Documents(store), grace_s=0).chunks == 0


def test_progress_rises_to_the_size(store: ChunkStore, data: bytes) -> None:
    seen: list[int] = []
    put(store, io.BytesIO(data), progress=lambda progress: seen.append(progress.done))
    assert seen == sorted(seen)
    assert seen[-1] == len(data)
    assert len(seen) >= 2


def test_a_cancelled_put_lets_go_of_all_it_stored(store: ChunkStore, data: bytes) -> None:
    asked: list[None] = []
    with pytest.raises(CancelledError):
        put(store, io.BytesIO(data), cancelled=lambda: bool(asked.append(None)) or len(asked) > 1)
    assert Documents(store).count() == 0
    collect(store, Documents(store), grace_s=0)
    assert store.totals().chunks == 0


def test_a_file_that_changes_while_it_is_read_is_refused(store: ChunkStore, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "source"
    path.write_bytes(data)
    longer, later, shorter = (
        (lambda: os.truncate(path, 9_000_000)),
        (lambda: os.utime(path, (1, 1))),
        (lambda: os.truncate(path, 9)),
    )
    for change in (longer, later, shorter):
        changes = iter([change])
        with path.open("rb", buffering=0) as source, pytest.raises(ConflictError) as caught:
            put(store, source, progress=lambda _, changes=changes: next(changes, lambda: None)())
        assert (caught.value.id, caught.value.exit_code) == ("source-changed", 9)
        path.write_bytes(data)
    assert Documents(store).count() == 0


@pytest.mark.parametrize("off", [-1, 1])
def test_a_source_of_another_length_than_was_said_is_refused(store: ChunkStore, data: bytes, off: int) -> None:
    with pytest.raises(ConflictError):
        put(store, io.BytesIO(data), expected_size=len(data) + off)
    assert put(store, io.BytesIO(data), expected_size=len(data)).size == len(data)


def test_a_source_that_fails_and_a_store_that_is_full_end_the_put_cleanly(
    store: ChunkStore, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(io.BytesIO):
        def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
            if self.tell() > 2_000_000:
                raise OSError(5, "Input/output error")
            return super().readinto(buffer[:100_000])

    with pytest.raises(OSError, match="Input/output"):
        put(store, Failing(data))

    def no_room(size: int, files: int) -> None:
        raise StorageFullError("full")

    monkeypatch.setattr(store, "check_room", no_room)
    with pytest.raises(StorageFullError):
        put(store, io.BytesIO(data[::-1]))
    monkeypatch.undo()
    collect(store, Documents(store), grace_s=0)
    assert store.totals().chunks == 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rage-ingest")]


BOUNDED = """
import random, resource, sys, tempfile
from pathlib import Path
from rage_net.chunk.documents import Documents
from rage_net.chunk.ingest import ingest
from rage_net.chunk.store import open_store
from rage_net.env import SystemEnv

class Source:  # 768 MiB in blocks that repeat, so that the disk holds little
    block, left = random.Random(1).randbytes(8 << 20), 96 * (8 << 20)
    def readinto(self, buffer):
        count = min(len(buffer), self.left, len(self.block))
        buffer[:count] = self.block[:count]
        self.left -= count
        return count

store = open_store(Path(sys.argv[1]), SystemEnv())
with Documents(store).lease() as lease:
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done = ingest(Source(), store, lease)
assert done.size == 96 * (8 << 20)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base
store.close()
print(grown // (1 if sys.platform == "linux" else 1024))
"""


def test_memory_is_bounded_whatever_the_size(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", BOUNDED, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    buffers = module.BUFFERS * module.BUFFER_BYTES // 1024
    assert int(done.stdout) < 2 * buffers, f"{done.stdout} KiB for {buffers} KiB of buffers"


def test_a_small_source_takes_a_small_buffer() -> None:
    assert module._buffer_bytes(module.BUFFER_BYTES, Splitter(), 100) < module.BUFFER_BYTES
    assert module._buffer_bytes(module.BUFFER_BYTES, Splitter(), None) == module.BUFFER_BYTES
