"""Garbage collection: nothing that is held or being put goes, all else goes after its grace time, in small steps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from random import Random

import pytest

from rage_net.chunk import gc
from rage_net.chunk.documents import Document, Documents
from rage_net.chunk.holds import count_holds
from rage_net.chunk.store import ChunkStore, open_store
from rage_net.cid import Cid
from rage_net.errors import ConflictError

Put = Callable[..., Document]
GRACE_S = 3600.0
collect = partial(gc.collect, grace_s=GRACE_S)
BIG = b"a chunk large and random enough for a file of its own?"


def test_what_a_document_let_go_is_deleted_after_the_grace_time(
    store: ChunkStore, world: object, documents: Documents, put_document: Put, rng: Random
) -> None:
    big = rng.randbytes(50_000)
    document = put_document(b"root", big, b"shared")
    put_document(b"other", b"shared")
    documents.remove(document)
    early = collect(store, documents)
    assert (early.chunks, early.waiting) == (0, 2)
    world.time += GRACE_S  # type: ignore[attr-defined]
    result = collect(store, documents)
    assert (result.chunks, result.bytes, result.waiting) == (2, 50_004, 0)
    assert {stat.cid for stat in store.list()} == {Cid.of(b"shared"), Cid.of(b"other")}
    assert not store.bodies.has(Cid.of(big), len(big))


def test_a_chunk_that_was_never_held_has_its_grace_time_too(
    store: ChunkStore, world: object, documents: Documents
) -> None:
    store.put(Cid.of(b"loose"), b"loose")
    world.time += GRACE_S - 1  # type: ignore[attr-defined]
    assert collect(store, documents).chunks == 0
    world.time += 1  # type: ignore[attr-defined]
    assert collect(store, documents).chunks == 1


def test_a_dry_run_changes_nothing_and_its_plan_does_just_that(
    store: ChunkStore, world: object, documents: Documents, put_document: Put
) -> None:
    documents.remove(put_document(b"one", b"two"))
    world.time += GRACE_S + 5  # type: ignore[attr-defined]
    planned = collect(store, documents, dry_run=True)
    assert planned.dry_run
    assert (planned.chunks, planned.bytes) == (2, 6)
    assert store.totals().chunks == 2
    world.time += 100  # type: ignore[attr-defined]
    store.put(Cid.of(b"younger"), b"younger")
    done = collect(store, documents, plan=planned.plan_id)
    assert (done.chunks, done.bytes, done.plan_id) == (2, 6, planned.plan_id)
    assert store.has(Cid.of(b"younger"))


@pytest.mark.parametrize("moved", ["held", "deleted", "expired"])
def test_a_plan_is_refused_when_the_world_moved(
    store: ChunkStore, world: object, documents: Documents, put_document: Put, moved: str
) -> None:
    documents.remove(put_document(b"one", b"two"))
    put_document(b"brief", expires_at=world.now() + GRACE_S + 10)  # type: ignore[attr-defined]
    world.time += GRACE_S + 5  # type: ignore[attr-defined]
    plan = collect(store, documents, dry_run=True).plan_id
    match moved:
        case "held":
            put_document(b"one")
        case "deleted":
            store.delete(Cid.of(b"one"))
        case "expired":
            world.time += 10  # type: ignore[attr-defined]
    chunks = store.totals().chunks
    with pytest.raises(ConflictError) as caught:
        collect(store, documents, plan=plan)
    assert caught.value.exit_code == 9
    assert store.totals().chunks == chunks
    with pytest.raises(ConflictError):
        collect(store, documents, plan="nonsense")


def test_expired_documents_go_and_their_chunks_follow_after_the_grace_time(
    store: ChunkStore, world: object, documents: Documents, put_document: Put
) -> None:
    put_document(b"brief", name="n", expires_at=world.now() + 10)  # type: ignore[attr-defined]
    world.time += 10  # type: ignore[attr-defined]
    assert collect(store, documents, dry_run=True).expired_documents == 1
    first = collect(store, documents)
    assert (first.expired_documents, first.chunks, first.waiting) == (1, 0, 1)
    assert documents.count() == 0
    world.time += GRACE_S  # type: ignore[attr-defined]
    assert collect(store, documents).chunks == 1


def test_cache_goes_only_when_asked(store: ChunkStore, world: object, documents: Documents) -> None:
    store.put(Cid.of(b"cached"), b"cached", cache=True)
    world.time += GRACE_S * 100  # type: ignore[attr-defined]
    assert collect(store, documents).chunks == 0
    assert collect(store, documents, dry_run=True, cache=True).chunks == 1
    assert collect(store, documents, cache=True).chunks == 1


def test_asking_for_the_cache_spares_the_grace_time_of_the_rest(store: ChunkStore, documents: Documents) -> None:
    store.put(Cid.of(b"cached"), b"cached", cache=True)
    store.put(Cid.of(b"young"), b"young")
    assert collect(store, documents, cache=True).chunks == 1
    assert store.has(Cid.of(b"young"))


def test_a_running_put_keeps_what_it_found_here_already(store: ChunkStore, world: object, documents: Documents) -> None:
    store.put(Cid.of(BIG), BIG)
    world.time += GRACE_S  # type: ignore[attr-defined]
    with documents.lease() as lease:
        with store.batch(lease=lease) as batch:
            batch.add_data(BIG)
            assert collect(store, documents).chunks == 0
            batch.commit()
        assert collect(store, documents, grace_s=0).chunks == 0
        documents.put(lease, Cid.of(BIG), size=len(BIG), chunks=1)
    assert collect(store, documents, grace_s=0).chunks == 0
    assert store.get(Cid.of(BIG)) == BIG


def test_a_lease_of_a_dead_process_is_released(world: object, tmp_path: Path) -> None:
    store = open_store(tmp_path, world)  # type: ignore[arg-type]
    lease = Documents(store).lease()
    lease.__enter__()
    with store.batch(lease=lease) as batch:
        batch.add_data(b"half a put")
        batch.commit()
    store.close()  # and no __exit__: the process died
    store = open_store(tmp_path, world)  # type: ignore[arg-type]
    try:
        assert count_holds(store, Cid.of(b"half a put")) == 1
        collect(store, Documents(store))
        world.time += GRACE_S  # type: ignore[attr-defined]
        assert collect(store, Documents(store)).chunks == 1
    finally:
        store.close()


def test_files_without_a_row_and_strays_are_swept(file_store: ChunkStore, tmp_path: Path, rng: Random) -> None:
    data = rng.randbytes(50_000)
    file_store.put(Cid.of(data), data)
    orphan = Cid.of(b"orphan")
    path = tmp_path / "store" / f"{orphan.digest[0]:02x}" / str(orphan)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"orphan")
    theirs = path.with_name("somebody-elses")
    theirs.write_bytes(b"left alone")
    (tmp_path / "store" / "tmp" / "dead-1").write_bytes(b"half")
    collect(file_store, Documents(file_store))
    assert not path.exists()
    assert theirs.exists()
    assert not list((tmp_path / "store" / "tmp").iterdir())
    assert file_store.get(Cid.of(data)) == data


def test_gc_stops_between_batches_when_asked(
    store: ChunkStore, documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gc, "DELETE_BATCH", 10)
    for n in range(50):
        store.put(Cid.of(bytes([n])), bytes([n]))
    seen: list[int] = []
    result = collect(
        store, documents, grace_s=0, progress=lambda p: seen.append(p.done), cancelled=lambda: len(seen) == 3
    )
    assert seen == [10, 20, 30]
    assert (result.chunks, store.totals().chunks) == (30, 20)


def test_gc_beside_puts_of_the_same_chunks_loses_none(store: ChunkStore, documents: Documents, rng: Random) -> None:
    """Every put names chunks that gc is deleting at that moment; what a put acknowledged must be there."""
    blocks = [rng.randbytes(size) for size in (20, 20, 20, 40_000, 40_000)]
    ended = threading.Event()
    collected: list[int] = []

    def keep_collecting() -> None:
        while not ended.is_set():
            collected.append(collect(store, documents, grace_s=0).chunks)

    def put_and_remove(seed: int) -> None:
        own = Random(seed)
        for _ in range(30):
            some = own.sample(blocks, 3)
            with documents.lease() as lease:
                with store.batch(lease=lease) as batch:
                    for block in some:
                        batch.add_data(block)
                    batch.commit()
                document = documents.put(lease, Cid.of(some[0]), size=0, chunks=3)
            for block in some:
                assert store.get(Cid.of(block)) == block
            documents.remove(document)

    with ThreadPoolExecutor(4) as pool:
        collector = pool.submit(keep_collecting)
        putters = [pool.submit(put_and_remove, rng.randrange(1 << 30)) for _ in range(3)]
        try:
            for putter in putters:
                putter.result()
        finally:
            ended.set()
        collector.result()
    assert sum(collected) > 0
    collect(store, documents, grace_s=0)
    assert store.totals().chunks == 0
    assert store.totals().stored == 0
