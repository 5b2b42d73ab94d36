"""A disk that is full: a clear error, nothing lost, reading, opening and gc work on, and room that is back is used."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from rage_net.chunk.documents import Documents
from rage_net.chunk.gc import collect
from rage_net.chunk.store import ChunkStore, Quota, open_store
from rage_net.chunk.verify import verify
from rage_net.cid import Cid
from rage_net.database import explain
from rage_net.errors import StorageFullError, UnavailableError

ROOMY = Quota(free_bytes_min=0, free_inodes_min=0)
DISK_BYTES = 16 * 1024 * 1024
needs_mount = [
    pytest.mark.foreign("mount"),
    pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="only root may mount a small tmpfs"),
]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(mount)], check=True)
    yield mount
    subprocess.run(["umount", "--lazy", str(mount)], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    """Somebody else takes all but `leave` bytes."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as out:
        while True:
            stat = os.statvfs(disk)
            free = stat.f_bavail * stat.f_frsize - leave
            try:
                if free <= 0 or not out.write(bytes(min(free, 1 << 20))):
                    return filler
            except OSError as error:
                assert error.errno == errno.ENOSPC
                return filler


def put(store: ChunkStore, blocks: list[bytes]) -> object:
    documents = Documents(store)
    with documents.lease() as lease:
        with store.batch(lease=lease) as batch:
            for block in blocks:
                batch.add_data(block)
            batch.commit()
        return documents.put(lease, Cid.of(blocks[0]), size=0, chunks=len(blocks))


class TestSmallDisk:
    pytestmark = needs_mount

    def test_everything_works_on_a_full_disk_but_put(self, disk: Path, world: object, rng: Random) -> None:
        store = open_store(disk, world, quota=ROOMY)  # type: ignore[arg-type]
        kept: list[bytes] = []
        documents = []
        while True:
            blocks = [rng.randbytes(300_000), rng.randbytes(9_000)]
            try:
                documents.append(put(store, blocks))
            except StorageFullError as error:
                assert error.exit_code == 11
                assert error.mend
                break
            kept += blocks
        assert len(documents) > 20
        fill(disk)
        store.close()
        store = open_store(disk, world, quota=ROOMY)  # type: ignore[arg-type]
        try:
            for block in kept:
                assert store.get(Cid.of(block)) == block
            with pytest.raises(StorageFullError):
                put(store, [rng.randbytes(300_000)])
            with pytest.raises(StorageFullError):
                put(store, [rng.randbytes(10_000) for _ in range(100)])
            assert verify(store).bad == ()
            assert (disk / "store" / "ballast").exists(), "puts that fail must leave the ballast to gc"
            fill(disk)
            for document in documents[:10]:
                assert Documents(store).remove(document)  # type: ignore[arg-type]
            result = collect(store, Documents(store), grace_s=0)
            assert result.chunks >= 20
            assert result.bytes >= 10 * 309_000
            assert (disk / "store" / "ballast").exists()
            block = rng.randbytes(300_000)
            put(store, [block])  # room is back: no restart
            for held in [*kept[20:], block]:
                assert store.get(Cid.of(held)) == held
        finally:
            store.close()

    def test_a_put_with_any_amount_of_room_succeeds_or_is_refused_whole(
        self, disk: Path, world: object, rng: Random
    ) -> None:
        store = open_store(disk, world, quota=ROOMY)  # type: ignore[arg-type]
        done: list[bytes] = []
        refused = 0
        try:
            for leave in range(0, 400_000, 16_384):
                filler = fill(disk, leave)
                blocks = [rng.randbytes(100_000), rng.randbytes(60_000), *(rng.randbytes(12_000) for _ in range(6))]
                try:
                    put(store, blocks)
                    done += blocks
                except StorageFullError:
                    refused += 1
                    assert not any(store.has(Cid.of(block)) for block in blocks) or all(
                        store.get(Cid.of(block)) == block for block in blocks
                    )
                assert not list((disk / "store" / "tmp").iterdir())
                filler.unlink()
            assert refused >= 5
            assert done
            assert verify(store).bad == ()
            for block in done:
                assert store.get(Cid.of(block)) == block
        finally:
            store.close()

    def test_a_reserve_of_free_space_is_left_to_others(self, disk: Path, world: object, rng: Random) -> None:
        store = open_store(disk, world, quota=Quota(free_bytes_min=8 << 20))  # type: ignore[arg-type]
        try:
            with pytest.raises(StorageFullError, match="no room"):
                for _ in range(100):
                    put(store, [rng.randbytes(300_000)])
            stat = os.statvfs(disk)
            assert stat.f_bavail * stat.f_frsize >= 7 << 20
        finally:
            store.close()

    def test_inodes_are_counted(self, disk: Path, world: object, rng: Random) -> None:
        subprocess.run(["mount", "-o", "remount,nr_inodes=400", str(disk)], check=True)
        store = open_store(disk, world, quota=Quota(free_bytes_min=0, free_inodes_min=50))  # type: ignore[arg-type]
        try:
            with pytest.raises(StorageFullError) as caught:
                for _ in range(400):
                    put(store, [rng.randbytes(20_000)])
            assert "inodes" in caught.value.why
            put(store, [b"small chunks need no inode"])
        finally:
            store.close()


LIMITED = """
import random, resource, sys
from pathlib import Path
from rage_net.chunk.store import Quota, open_store
from rage_net.cid import Cid
from rage_net.env import SystemEnv
from rage_net.errors import StorageFullError
home, limit = Path(sys.argv[1]), int(sys.argv[2])
store = open_store(home, SystemEnv(), quota=Quota(free_bytes_min=0, free_inodes_min=0))
kept = [random.Random(n).randbytes(size) for n, size in enumerate((100, 15_000, 50_000))]
for block in kept:
    store.put(Cid.of(block), block)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
refused = 0
for n in range(60):
    block = random.Random(100 + n).randbytes((15_000, 200_000)[n % 2])
    try:
        store.put(Cid.of(block), block)
        kept.append(block)
    except StorageFullError as error:
        assert error.exit_code == 11
        refused += 1
    for block in kept[-3:]:
        assert store.get(Cid.of(block)) == block
assert refused, "the limit was never felt"
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
block = random.Random(1).randbytes(300_000)
store.put(Cid.of(block), block)
for block in kept:
    assert store.get(Cid.of(block)) == block
assert not list((home / "store" / "tmp").iterdir())
store.close()
"""


@pytest.mark.parametrize("limit", [4096, 100_000, 300_000])
def test_a_limit_on_file_sizes_reads_as_a_full_disk(tmp_path: Path, limit: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path), str(limit)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StorageFullError),
        (errno.EDQUOT, StorageFullError),
        (errno.EFBIG, StorageFullError),
        (errno.EIO, UnavailableError),
        (errno.EROFS, UnavailableError),
    ],
)
@pytest.mark.parametrize("step", ["open", "write", "rename", "fdatasync", "fsync"])
def test_each_failure_of_each_call_has_its_error_and_leaves_nothing(
    file_store: ChunkStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rng: Random,
    step: str,
    number: int,
    kind: type[Exception],
) -> None:
    data = rng.randbytes(50_000)
    real: Callable[..., object] = getattr(os, step)

    def fail(*args: object, **more: object) -> object:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(kind):
            file_store.put(Cid.of(data), data)
    assert real is getattr(os, step)
    assert not file_store.has(Cid.of(data))
    left = [path for path in (tmp_path / "store").rglob("*") if path.is_file() and path.name != "ballast"]
    assert not left
    file_store.put(Cid.of(data), data)
    assert file_store.get(Cid.of(data)) == data


def test_a_bug_is_not_dressed_up_as_a_disk() -> None:
    import sqlite3

    with pytest.raises(sqlite3.OperationalError) as caught:
        sqlite3.connect(":memory:").execute("SELECT nothing FROM nowhere")
    assert explain(caught.value, "read", "here") is None
