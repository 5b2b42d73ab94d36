"""One suite over both bodies: what a chunk store promises. And what only files can suffer."""

from __future__ import annotations

import io
import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import zstandard

from rage_net.chunk import manifest
from rage_net.chunk.batch import SMALL_BYTES_MAX
from rage_net.chunk.documents import Documents
from rage_net.chunk.files import STRAYS_AT_OPEN_MAX, FileBodies
from rage_net.chunk.ingest import ingest
from rage_net.chunk.replicas import hold, holder_of, keep_replicas, missing, release_document_holds
from rage_net.chunk.split import Sizes
from rage_net.chunk.store import Admitted, ChunkStore, Quota, open_store, walk_chunks
from rage_net.chunk.verify import blocks_here, verify
from rage_net.cid import BLOCK_BYTES_MAX, Cid
from rage_net.errors import ConflictError, IntegrityError, NotFoundError, StorageFullError

TEXT = b"What the store holds, it gives back as it came. " * 4000
SIZES = [0, 1, 4096, SMALL_BYTES_MAX, SMALL_BYTES_MAX + 1, 100_000]


def flip(path: Path, at: int = 1000) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def chunk_file(home: Path, cid: Cid) -> Path:
    return home / "store" / f"{cid.digest[0]:02x}" / str(cid)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cache", [False, True])
def test_what_is_put_comes_back(store: ChunkStore, rng: random.Random, size: int, cache: bool) -> None:
    data = rng.randbytes(size)
    cid = Cid.of(data)
    stat = store.put(cid, data, cache=cache)
    assert store.get(cid) == data
    assert store.has(cid)
    assert store.stat(cid) == stat
    assert (stat.size, stat.stored, stat.encoding, stat.cached) == (size, size, "raw", cache)


def test_text_is_packed_and_random_bytes_are_not(store: ChunkStore, rng: random.Random) -> None:
    packed = store.put(Cid.of(TEXT), TEXT)
    assert packed.encoding == "zstd"
    assert packed.stored < len(TEXT) // 10
    noise = rng.randbytes(100_000)
    assert store.put(Cid.of(noise), noise).encoding == "raw"
    assert store.totals().stored == packed.stored + 100_000


def test_any_buffer_may_be_put(store: ChunkStore, rng: random.Random) -> None:
    for data in (bytearray(rng.randbytes(50_000)), memoryview(bytearray(rng.randbytes(50_000)))):
        store.put(Cid.of(data), data)
        assert store.get(Cid.of(data)) == bytes(data)


def test_put_refuses_bytes_that_do_not_match_the_cid(store: ChunkStore) -> None:
    with pytest.raises(IntegrityError):
        store.put(Cid.of(b"one"), b"two")
    assert not store.has(Cid.of(b"one"))
    assert store.totals().chunks == 0


def test_put_refuses_a_block_above_the_limit(store: ChunkStore) -> None:
    data = bytes(BLOCK_BYTES_MAX + 1)
    with pytest.raises(IntegrityError):
        store.put(Cid.of(data), data)


def test_absent_chunks_are_not_found(store: ChunkStore) -> None:
    cid = Cid.of(b"absent")
    for ask in (store.get, store.stat, store.get_stored):
        with pytest.raises(NotFoundError):
            ask(cid)
    assert not store.has(cid)
    assert store.delete(cid) is False


def test_the_stored_form_travels_as_it_is(store: ChunkStore, world: object, rng: random.Random) -> None:
    for data in (TEXT, rng.randbytes(60_000), b""):
        store.put(Cid.of(data), data)
        stat, stored = store.get_stored(Cid.of(data))
        store.delete(Cid.of(data))
        assert not store.has(Cid.of(data))
        again, plain = store.put_stored(stat.cid, stat.encoding, stored, stat.size)
        assert (again, plain) == (stat, data)
        assert store.get_stored(stat.cid) == (stat, stored)


@pytest.mark.parametrize(
    ("encoding", "make"),
    [
        ("zstd", lambda data: zstandard.compress(bytes(1 << 30), 1)),  # a bomb: declares a GiB
        ("zstd", lambda data: zstandard.compress(data, 3)[:-3]),
        ("zstd", lambda data: zstandard.compress(data, 3) + b"more"),
        ("zstd", lambda data: zstandard.compress(data[:-1], 3)),
        ("zstd", lambda data: zstandard.ZstdCompressor(write_content_size=False).compress(data)),
        ("zstd", lambda data: b"garbage" * 100),
        ("zstd", lambda data: b""),
        ("raw", lambda data: data[:-1]),
        ("raw", lambda data: bytes(len(data))),
        ("lzma", lambda data: data),
    ],
)
def test_put_stored_refuses_bombs_and_lies(store: ChunkStore, encoding: str, make: Callable[[bytes], bytes]) -> None:
    with pytest.raises(IntegrityError):
        store.put_stored(Cid.of(TEXT), encoding, make(TEXT), len(TEXT))
    assert store.totals().chunks == 0


def test_a_frame_that_declares_less_than_it_holds_is_refused(store: ChunkStore) -> None:
    frame = bytearray(zstandard.compress(TEXT, 3))
    declared = len(TEXT).to_bytes(4, "little")
    at = bytes(frame).index(declared)
    frame[at : at + 4] = (1000).to_bytes(4, "little")
    with pytest.raises(IntegrityError):
        store.put_stored(Cid.of(TEXT), "zstd", bytes(frame), 1000)


def test_put_stored_refuses_a_size_above_the_limit_before_it_unpacks(store: ChunkStore) -> None:
    bomb = zstandard.compress(bytes(BLOCK_BYTES_MAX + 1), 3)
    with pytest.raises(IntegrityError, match="larger"):
        store.put_stored(Cid.of(TEXT), "zstd", bomb, BLOCK_BYTES_MAX + 1)


def test_list_gives_pages_in_order(store: ChunkStore) -> None:
    cids = sorted(bytes(Cid.of(bytes([n]))) for n in range(20))
    for n in range(20):
        store.put(Cid.of(bytes([n])), bytes([n]))
    first = store.list(limit=7)
    assert [bytes(stat.cid) for stat in first] == cids[:7]
    assert [bytes(stat.cid) for stat in store.list(first[-1].cid)] == cids[7:]
    assert [bytes(stat.cid) for stat in walk_chunks(store)] == cids


def test_totals_follow_every_change(store: ChunkStore, rng: random.Random) -> None:
    kept: dict[Cid, bytes] = {}
    for _ in range(200):
        data = rng.randbytes(rng.choice([10, 20_000])) if rng.random() < 0.7 else rng.choice([b"a", b"b" * 50_000])
        cid = Cid.of(data)
        match rng.randrange(4):
            case 0 | 1:
                store.put(cid, data, cache=rng.random() < 0.5)
                kept[cid] = data
            case 2 if kept:
                gone = rng.choice(sorted(kept))
                assert store.delete(gone)
                del kept[gone]
            case 3 if kept:
                store.promote([rng.choice(sorted(kept))])
    stats = list(walk_chunks(store))
    totals = store.totals()
    assert {stat.cid for stat in stats} == set(kept)
    assert (totals.chunks, totals.size) == (len(kept), sum(map(len, kept.values())))
    assert totals.stored == sum(stat.stored for stat in stats)
    assert totals.cached_chunks == sum(stat.cached for stat in stats)
    assert totals.cached_stored == sum(stat.stored for stat in stats if stat.cached)


def test_a_batch_is_seen_when_it_is_committed_and_not_before(store: ChunkStore) -> None:
    with store.batch() as batch:
        batch.add_data(TEXT)
        batch.add_data(b"small")
        batch.add_data(b"small")
        assert not store.has(Cid.of(TEXT))
        assert batch.commit() == 2
    assert store.get(Cid.of(TEXT)) == TEXT
    with store.batch() as batch:
        batch.add_data(TEXT)
        batch.add_data(b"new")
        assert batch.commit() == 1
    with store.batch() as batch:
        batch.add_data(b"dropped" * 10_000)
    assert store.totals().chunks == 3


def test_a_put_of_what_is_only_cache_makes_it_durable(store: ChunkStore) -> None:
    store.put(Cid.of(TEXT), TEXT, cache=True)
    store.put(Cid.of(TEXT), TEXT, cache=True)
    assert store.stat(Cid.of(TEXT)).cached
    store.put(Cid.of(TEXT), TEXT)
    assert not store.stat(Cid.of(TEXT)).cached
    store.put(Cid.of(TEXT), TEXT, cache=True)
    assert not store.stat(Cid.of(TEXT)).cached


def test_promote_makes_cache_durable_and_skips_the_rest(store: ChunkStore) -> None:
    store.put(Cid.of(TEXT), TEXT, cache=True)
    store.put(Cid.of(b"small"), b"small", cache=True)
    store.promote([Cid.of(TEXT), Cid.of(b"small"), Cid.of(b"absent")])
    assert store.totals().cached_chunks == 0


def test_the_quota_is_checked_before_the_write_and_cache_makes_way(
    make_store: Callable[[Quota], ChunkStore], rng: random.Random
) -> None:
    store = make_store(Quota(bytes_max=100_000, free_bytes_min=0, free_inodes_min=0))
    cached, first, second = (rng.randbytes(40_000) for _ in range(3))
    store.put(Cid.of(cached), cached, cache=True)
    store.put(Cid.of(first), first)
    store.put(Cid.of(second), second)
    assert not store.has(Cid.of(cached))
    with pytest.raises(StorageFullError) as caught:
        store.put(Cid.of(cached), cached)
    assert caught.value.exit_code == 11
    assert caught.value.mend
    assert store.get(Cid.of(first)) == first
    assert store.totals().chunks == 2
    store.delete(Cid.of(first))
    store.put(Cid.of(cached), cached)


def test_the_quota_counts_what_running_puts_have_staged(
    make_store: Callable[[Quota], ChunkStore], rng: random.Random
) -> None:
    store = make_store(Quota(bytes_max=100_000, free_bytes_min=0, free_inodes_min=0))
    with store.batch() as one, store.batch() as two:
        one.add_data(rng.randbytes(60_000))
        with pytest.raises(StorageFullError):
            two.add_data(rng.randbytes(60_000))
    store.put(Cid.of(bytes(10)), bytes(10))
    noise = rng.randbytes(90_000)
    store.put(Cid.of(noise), noise)


def test_the_same_chunk_put_from_many_threads_is_stored_once(store: ChunkStore, rng: random.Random) -> None:
    blocks = [rng.randbytes(rng.choice([100, 30_000])) for _ in range(6)] + [TEXT]
    start = threading.Barrier(4)

    def put_all(number: int) -> None:
        start.wait()
        for block in blocks:
            store.put(Cid.of(block), block, cache=number == 0)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put_all, range(4)))
    assert store.totals().chunks == len(blocks)
    assert store.totals().cached_chunks == 0
    for block in blocks:
        assert store.get(Cid.of(block)) == block


def test_a_delete_during_reads_gives_the_bytes_or_not_found(store: ChunkStore, rng: random.Random) -> None:
    data = rng.randbytes(50_000)
    cid = Cid.of(data)
    ended = threading.Event()
    answers: list[object] = []

    def read() -> None:
        while not ended.is_set():
            try:
                answers.append(store.get(cid) == data)
            except NotFoundError:
                answers.append(None)

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for _ in range(60):
            store.put(cid, data)
            store.delete(cid)
        ended.set()
        for reader in readers:
            reader.result()
    assert set(answers) <= {True, None}
    assert not isinstance(store.bodies, FileBodies) or not (Path(store.bodies._root) / "quarantine").exists()


def test_a_chunk_that_a_document_holds_cannot_be_deleted(
    store: ChunkStore, put_document: Callable[..., object]
) -> None:
    put_document(TEXT)
    with pytest.raises(ConflictError):
        store.delete(Cid.of(TEXT))


def test_a_store_reopens_with_what_it_held(file_store: ChunkStore, world: object, tmp_path: Path) -> None:
    file_store.put(Cid.of(TEXT), TEXT)
    file_store.put(Cid.of(b"small"), b"small")
    totals = file_store.totals()
    file_store.close()
    again = open_store(tmp_path, world)  # type: ignore[arg-type]
    try:
        assert again.totals() == totals
        assert again.get(Cid.of(TEXT)) == TEXT
        assert again.get(Cid.of(b"small")) == b"small"
    finally:
        again.close()


def test_a_flipped_bit_in_a_file_is_found_and_quarantined(
    file_store: ChunkStore, tmp_path: Path, rng: random.Random
) -> None:
    for data in (rng.randbytes(60_000), bytes(range(256)) * 100 + rng.randbytes(40_000)):
        cid = Cid.of(data)
        for ask in (file_store.get, file_store.get_stored):
            file_store.put(cid, data)
            flip(chunk_file(tmp_path, cid))
            with pytest.raises(IntegrityError):
                ask(cid)
            assert not file_store.has(cid)
            assert (tmp_path / "store" / "quarantine" / str(cid)).exists()
            assert not chunk_file(tmp_path, cid).exists()
        file_store.put(cid, data)
        assert file_store.get(cid) == data


def test_a_flipped_bit_in_the_index_is_found_and_quarantined(file_store: ChunkStore, tmp_path: Path) -> None:
    data = b"small but not safe"
    cid = Cid.of(data)
    file_store.put(cid, data)
    with file_store.index.write() as db:
        db.execute("UPDATE body SET stored = ?", (b"Small but not safe",))
    with pytest.raises(IntegrityError):
        file_store.get(cid)
    assert not file_store.has(cid)
    assert (tmp_path / "store" / "quarantine" / str(cid)).read_bytes() == b"Small but not safe"


def test_a_missing_file_is_not_found_and_a_put_brings_it_back(
    file_store: ChunkStore, tmp_path: Path, rng: random.Random
) -> None:
    data = rng.randbytes(50_000)
    cid = Cid.of(data)
    file_store.put(cid, data)
    chunk_file(tmp_path, cid).unlink()
    file_store.put(cid, data)
    assert file_store.get(cid) == data
    chunk_file(tmp_path, cid).unlink()
    with pytest.raises(NotFoundError, match="not in the local store"):
        file_store.get(cid)
    assert not file_store.has(cid)


def test_a_cached_chunk_torn_by_a_crash_just_goes(file_store: ChunkStore, tmp_path: Path, rng: random.Random) -> None:
    data = rng.randbytes(50_000)
    file_store.put(Cid.of(data), data, cache=True)
    chunk_file(tmp_path, Cid.of(data)).write_bytes(b"")
    with pytest.raises(IntegrityError):
        file_store.promote([Cid.of(data)])
    assert not file_store.has(Cid.of(data))
    assert not (tmp_path / "store" / "quarantine").exists()


def test_rot_keeps_its_holders_so_that_a_good_copy_is_held_again(
    file_store: ChunkStore, tmp_path: Path, rng: random.Random
) -> None:
    from rage_net.chunk.documents import Documents

    data = rng.randbytes(50_000)
    documents = Documents(file_store)
    with documents.lease() as lease:
        with file_store.batch(lease=lease) as batch:
            batch.add_data(data)
            batch.commit()
        documents.put(lease, Cid.of(data), size=len(data), chunks=1)
    flip(chunk_file(tmp_path, Cid.of(data)))
    with pytest.raises(IntegrityError):
        file_store.get(Cid.of(data))
    file_store.put(Cid.of(data), data)
    with pytest.raises(ConflictError):
        file_store.delete(Cid.of(data))


def test_verify_names_each_bad_chunk_with_its_reason(
    file_store: ChunkStore, tmp_path: Path, rng: random.Random
) -> None:
    blocks = [rng.randbytes(40_000) for _ in range(10)]
    for block in blocks:
        file_store.put(Cid.of(block), block)
    flip(chunk_file(tmp_path, Cid.of(blocks[3])))
    chunk_file(tmp_path, Cid.of(blocks[7])).unlink()
    result = verify(file_store)
    assert result.checked == 10
    assert {(bad.cid, bad.reason) for bad in result.bad} == {
        (str(Cid.of(blocks[3])), "rot"),
        (str(Cid.of(blocks[7])), "missing"),
    }
    assert verify(file_store).bad == ()
    gone = verify(file_store, [Cid.of(blocks[3])])
    assert (gone.bad, gone.checked, gone.elsewhere) == ((), 0, 1), "nothing holds it: it is not meant to be here"


def test_verify_of_a_document_tells_what_is_missing_from_what_is_kept_elsewhere(
    file_store: ChunkStore, world: Any, rng: random.Random
) -> None:
    documents = Documents(file_store)
    with documents.lease() as lease:
        found = ingest(io.BytesIO(rng.randbytes(400_000)), file_store, lease, sizes=Sizes(4096, 16384, 65536))
        document = documents.put(lease, found.root, size=found.size, chunks=found.chunks)
    root, *chunks = manifest.blocks(found.root, file_store.get)
    assert len(chunks) > 8
    release_document_holds(file_store, document.holder, chunks[:3], now=world.time, at_once=True)
    result = verify(file_store, blocks_here(file_store, root))
    assert (result.checked, result.elsewhere, result.bad) == (len(chunks) - 2, 3, ())
    assert file_store.totals().chunks == result.checked
    file_store.condemn(chunks[4])
    result = verify(file_store, blocks_here(file_store, root))
    assert (result.elsewhere, [(bad.cid, bad.reason) for bad in result.bad]) == (3, [(str(chunks[4]), "missing")])
    release_document_holds(file_store, document.holder, [root], now=world.time, at_once=True)
    result = verify(file_store, blocks_here(file_store, root))
    assert (result.checked, result.elsewhere) == (len(chunks) - 3, 1), "without its manifest, what is held is read"
    assert [bad.cid for bad in result.bad] == [str(chunks[4])]
    with pytest.raises(NotFoundError):
        verify(file_store, blocks_here(file_store, Cid.of(b"never here")))


class TestTelling:
    """Whoever wants to know is told of what can be given no longer, and is not told of cache."""

    def test_of_rot_and_of_files_that_are_gone(
        self, file_store: ChunkStore, tmp_path: Path, rng: random.Random
    ) -> None:
        told: list[tuple[Cid, str]] = []
        file_store.on_lost.append(lambda cid, found_by: told.append((cid, found_by)))
        blocks = [rng.randbytes(40_000) for _ in range(3)]
        rotten, missing, whole = cids = [Cid.of(block) for block in blocks]
        for cid, block in zip(cids, blocks, strict=True):
            file_store.put(cid, block)
        flip(chunk_file(tmp_path, rotten))
        chunk_file(tmp_path, missing).unlink()
        with pytest.raises(IntegrityError):
            file_store.get(rotten, found_by="scrub")
        with pytest.raises(NotFoundError):
            file_store.get_stored(missing)
        file_store.get(whole)
        assert told == [(rotten, "scrub"), (missing, "read")]

    def test_of_cache_only_where_something_holds_it(
        self, file_store: ChunkStore, tmp_path: Path, rng: random.Random
    ) -> None:
        told: list[Cid] = []
        file_store.on_lost.append(lambda cid, found_by: told.append(cid))
        blocks = [rng.randbytes(40_000) for _ in range(2)]
        for block in blocks:
            file_store.put(Cid.of(block), block, cache=True)
            flip(chunk_file(tmp_path, Cid.of(block)))
        holder = holder_of(file_store).id
        with file_store.index.write() as db:
            db.execute("INSERT INTO hold VALUES (?, ?, NULL)", (holder, bytes(Cid.of(blocks[1]))))
        for block in blocks:
            with pytest.raises(IntegrityError):
                file_store.get(Cid.of(block))
        assert told == [Cid.of(blocks[1])]


def test_what_is_held_and_comes_back_as_cache_is_made_durable(store: ChunkStore, rng: random.Random) -> None:
    held, other = rng.randbytes(40_000), rng.randbytes(40_000)
    hold(store, [Cid.of(held)])
    store.keep(Admitted(Cid.of(data), "raw", data, len(data)) for data in (held, other))
    assert [store.stat(Cid.of(data)).cached for data in (held, other)] == [False, True]


def test_what_is_condemned_is_gone_and_stays_wanted(store: ChunkStore, rng: random.Random) -> None:
    for data in (rng.randbytes(100), rng.randbytes(40_000)):
        cid = Cid.of(data)
        keep_replicas(store, [Admitted(cid, "raw", data, len(data))])
        assert store.condemn(cid)
        assert not store.has(cid) and not store.condemn(cid)
        assert cid in missing(store)
        store.put(cid, data)
        assert store.get(cid) == data and missing(store) == []


def test_verify_of_a_sample_reads_that_share_at_that_rate(store: ChunkStore) -> None:
    for n in range(200):
        store.put(Cid.of(n.to_bytes(2)), n.to_bytes(2))
    waits: list[float] = []
    result = verify(store, sample=0.3, rate_bytes_s=0.001, pause=waits.append)
    assert 30 < result.checked < 95
    assert len(waits) == result.checked
    assert verify(store, cancelled=lambda: True).checked == 0


def test_opening_removes_some_strays_of_a_dead_process_and_leaves_the_rest_to_gc(
    file_store: ChunkStore, world: object, tmp_path: Path
) -> None:
    file_store.close()
    strays = STRAYS_AT_OPEN_MAX + 10
    for n in range(strays):
        (tmp_path / "store" / "tmp" / f"dead-{n}").write_bytes(b"half")
    open_store(tmp_path, world).close()  # type: ignore[arg-type]
    assert len(list((tmp_path / "store" / "tmp").iterdir())) == 10


def test_opening_looks_at_no_chunk(
    file_store: ChunkStore, world: object, tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = rng.randbytes(50_000)
    file_store.put(Cid.of(data), data)
    file_store.close()
    looked: list[str] = []
    for name in ("listdir", "scandir", "stat", "open"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda path, *rest, real=real, **more: looked.append(str(path)) or real(path, *rest, **more)
        )
    open_store(tmp_path, world).close()  # type: ignore[arg-type]
    monkeypatch.undo()
    assert looked
    assert not [path for path in looked if f"/{Cid.of(data).digest[0]:02x}" in path]


def test_a_flipped_bit_on_a_disk_without_room_is_an_integrity_error_all_the_same(
    file_store: ChunkStore, tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = rng.randbytes(50_000)
    file_store.put(Cid.of(data), data)
    flip(chunk_file(tmp_path, Cid.of(data)))

    def no_room(**_: object) -> object:
        raise StorageFullError("full")

    monkeypatch.setattr(file_store.index, "write", no_room)
    with pytest.raises(IntegrityError):
        file_store.get(Cid.of(data))
    assert (tmp_path / "store" / "ballast").exists()


def test_a_durable_put_syncs_before_it_renames_and_commits_last(
    world: object, tmp_path: Path, rng: random.Random
) -> None:
    steps: list[str] = []
    store = open_store(tmp_path, world, failpoint=steps.append)  # type: ignore[arg-type]
    try:
        data = rng.randbytes(50_000)
        store.put(Cid.of(data), data)
        order = ["created", "written", "synced", "renamed", "directories synced", "before commit", "committed"]
        assert steps == order
        steps.clear()
        other = rng.randbytes(50_000)
        store.put(Cid.of(other), other, cache=True)
        assert steps == ["created", "written", "renamed", "before commit", "committed"]
    finally:
        store.close()


@pytest.mark.parametrize("loss", ["removed", "emptied"])
def test_a_lost_index_beside_chunks_is_refused_and_nothing_is_made_anew(
    tmp_path: Path, rng: random.Random, loss: str
) -> None:
    from rage_net.env import SystemEnv

    env = SystemEnv()
    store = open_store(tmp_path, env)
    data = rng.randbytes(100_000)
    store.put(Cid.of(data), data)
    store.close()
    index = tmp_path / "index.db"
    kept = index.read_bytes()
    index.unlink()
    if loss == "emptied":
        index.touch()
    with pytest.raises(IntegrityError) as caught:
        open_store(tmp_path, env)
    assert caught.value.id == "index-missing"
    assert not index.exists() or not index.stat().st_size
    index.write_bytes(kept)
    again = open_store(tmp_path, env)
    assert again.get(Cid.of(data)) == data
    again.close()
    env.close()
