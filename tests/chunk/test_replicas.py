"""Replicas: held by one holder of their own, wanted while absent, let go one by one, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from rage_net.chunk import replicas
from rage_net.chunk.documents import Document, Documents
from rage_net.chunk.gc import collect
from rage_net.chunk.store import Admitted, ChunkStore, Quota
from rage_net.chunk.views import list_chunks
from rage_net.cid import Cid
from rage_net.errors import StorageFullError
from rage_net.verbs.chunk import ListChunks


def admitted(data: bytes) -> Admitted:
    return Admitted(Cid.of(data), "raw", data, len(data))


def make(rng: Random, count: int) -> list[bytes]:
    """Small ones and files by turns."""
    return [rng.randbytes(20_000 if number % 2 else 500) for number in range(count)]


def held_by(store: ChunkStore, documents: Documents, cid: Cid) -> int:
    rows = list_chunks(store, documents, ListChunks(chunks=True, prefix=str(cid))).items
    return rows[0].held_by


class TestHolding:
    def test_what_is_kept_is_durable_held_and_safe_from_gc(
        self, store: ChunkStore, documents: Documents, world: Any, rng: Random
    ) -> None:
        blocks = make(rng, 6)
        assert replicas.keep_replicas(store, [*map(admitted, blocks)]) == 6
        world.time += 1e9
        collect(store, documents, grace_s=0, cache=True)
        for block in blocks:
            cid = Cid.of(block)
            assert store.get(cid) == block
            assert not store.stat(cid).cached
            assert replicas.is_held(store, cid)
            assert held_by(store, documents, cid) == 1
        assert len(list(replicas.walk(store))) == 6
        assert replicas.missing(store) == []

    def test_there_is_one_holder_however_often_a_store_is_opened(
        self, make_store: Callable[[], ChunkStore], rng: Random, request: pytest.FixtureRequest
    ) -> None:
        store = make_store()
        replicas.keep_replicas(store, [admitted(rng.randbytes(100))])
        first = replicas.holder_of(store).id
        if "files" in request.node.name:
            store.close()
            store = make_store()
        replicas.keep_replicas(store, [admitted(rng.randbytes(100))])
        assert replicas.holder_of(store).id == first
        assert len(list(replicas.walk(store))) == 2
        with store.index.read() as db:
            assert db.execute("SELECT count(*) FROM holder WHERE kind = 'replica'").fetchone() == (1,)

    def test_being_a_replica_lets_no_document_count(self, store: ChunkStore, documents: Documents, rng: Random) -> None:
        block = rng.randbytes(300)
        replicas.keep_replicas(store, [admitted(block)])
        assert documents.counting(Cid.of(block)) == []

    def test_a_cached_chunk_that_is_held_becomes_durable(
        self, store: ChunkStore, documents: Documents, rng: Random
    ) -> None:
        blocks = make(rng, 4)
        for block in blocks:
            store.put(Cid.of(block), block, cache=True)
        replicas.hold(store, map(Cid.of, blocks[:2]))
        replicas.keep_replicas(store, [*map(admitted, blocks[2:])])
        assert not any(store.stat(Cid.of(block)).cached for block in blocks)
        collect(store, documents, grace_s=0, cache=True)
        assert store.totals().chunks == 4

    def test_a_cached_chunk_that_did_not_survive_is_wanted(self, file_store: ChunkStore, rng: Random) -> None:
        store, (small, torn, whole) = file_store, (rng.randbytes(100), rng.randbytes(40_000), rng.randbytes(40_000))
        for block in (small, torn, whole):
            store.put(Cid.of(block), block, cache=True)
        (path,) = (path for path in _files(store) if path.name == str(Cid.of(torn)))
        path.write_bytes(torn[:1000])
        replicas.hold(store, map(Cid.of, (small, torn, whole)))
        assert replicas.missing(store) == [Cid.of(torn)]
        assert len(list(replicas.walk(store))) == 3
        assert not store.stat(Cid.of(whole)).cached
        assert not store.stat(Cid.of(small)).cached

    def test_what_does_not_fit_is_neither_stored_nor_held(
        self, make_store: Callable[[Quota], ChunkStore], rng: Random
    ) -> None:
        store = make_store(Quota(bytes_max=50_000, free_bytes_min=0, free_inodes_min=0))
        blocks = [rng.randbytes(20_000) for _ in range(4)]
        with pytest.raises(StorageFullError):
            replicas.keep_replicas(store, [*map(admitted, blocks)])
        assert store.totals().chunks == 0
        assert len(list(replicas.walk(store))) == 0


class TestWanting:
    def test_an_absent_chunk_is_wanted_until_it_comes(self, store: ChunkStore, rng: Random) -> None:
        blocks = make(rng, 5)
        cids = sorted(map(Cid.of, blocks), key=bytes)
        replicas.hold(store, cids, durable=False)
        assert replicas.missing(store) == cids
        assert replicas.missing(store, limit=2) == cids[:2]
        assert replicas.missing(store, cids[1], limit=2) == cids[2:4]
        assert list(replicas.walk(store)) == cids
        came = blocks[0]
        store.keep([admitted(came)])
        assert replicas.missing(store) == [cid for cid in cids if cid != Cid.of(came)]
        assert [replicas.is_held(store, cid) for cid in cids] == [True] * 5

    def test_chunks_of_documents_and_pins_are_wanted_too_and_those_of_running_puts_are_not(
        self, store: ChunkStore, documents: Documents, put_document: Callable[..., Document], rng: Random
    ) -> None:
        one, two, three = make(rng, 3)
        put_document(one)
        put_document(two)
        with documents.lease() as lease:
            lease.hold([Cid.of(two)])
            documents.pin(lease, Cid.of(two))
        with store.index.write() as db:
            db.executemany("DELETE FROM chunk WHERE cid = ?", [(bytes(Cid.of(block)),) for block in (one, two)])
        with documents.lease() as lease:
            lease.hold([Cid.of(three)])
            assert replicas.missing(store) == sorted([Cid.of(one), Cid.of(two)], key=bytes)
        assert replicas.is_wanted(store, Cid.of(one))
        assert not replicas.is_wanted(store, Cid.of(three))


class TestLettingGo:
    def test_with_grace_gc_takes_it_later_and_at_once_it_is_gone(
        self, store: ChunkStore, documents: Documents, world: Any, rng: Random
    ) -> None:
        blocks = make(rng, 4)
        cids = [*map(Cid.of, blocks)]
        replicas.keep_replicas(store, [*map(admitted, blocks)])
        stored = [store.stat(cid).stored for cid in cids]
        assert replicas.let_go(store, cids[:2], now=world.time, at_once=False) == sum(stored[:2])
        assert [store.has(cid) for cid in cids] == [True] * 4
        assert [replicas.is_held(store, cid) for cid in cids] == [False, False, True, True]
        assert replicas.let_go(store, [cids[2], cids[2]], now=world.time, at_once=True) == stored[2]
        assert not store.has(cids[2])
        collect(store, documents, grace_s=10)
        assert store.has(cids[0])
        world.time += 11
        collect(store, documents, grace_s=10)
        assert [store.has(cid) for cid in cids] == [False, False, False, True]

    def test_what_something_else_holds_stays(
        self, store: ChunkStore, put_document: Callable[..., Document], world: Any, rng: Random
    ) -> None:
        block = rng.randbytes(3000)
        put_document(block)
        replicas.hold(store, [Cid.of(block)])
        assert replicas.let_go(store, [Cid.of(block)], now=world.time, at_once=True) == 0
        assert store.get(Cid.of(block)) == block

    def test_what_was_no_replica_is_left_alone(self, store: ChunkStore, world: Any, rng: Random) -> None:
        block = rng.randbytes(3000)
        store.put(Cid.of(block), block)
        assert replicas.let_go(store, [Cid.of(block), Cid.of(b"absent")], now=world.time, at_once=True) == 0
        assert store.has(Cid.of(block))

    def test_a_chunk_that_a_running_put_counts_on_stays(self, store: ChunkStore, world: Any, rng: Random) -> None:
        block = rng.randbytes(3000)
        replicas.keep_replicas(store, [admitted(block)])
        with store.batch() as batch:
            batch.add_data(block)
            assert replicas.let_go(store, [Cid.of(block)], now=world.time, at_once=True) == 0
            batch.commit()
        assert store.get(Cid.of(block)) == block

    def test_a_document_stays_when_chunks_are_taken_from_it(
        self,
        store: ChunkStore,
        documents: Documents,
        put_document: Callable[..., Document],
        world: Any,
        rng: Random,
    ) -> None:
        blocks = make(rng, 4)
        cids = [*map(Cid.of, blocks)]
        document = put_document(*blocks, organisation="acme", name="report")
        replicas.hold(store, cids[1:2])
        freed = replicas.release_document_holds(store, document.holder, cids[1:3], now=world.time, at_once=True)
        assert freed == len(blocks[2])
        assert documents.get(document.doc_id) == document
        assert [store.has(cid) for cid in cids] == [True, True, False, True]
        assert documents.counting(cids[1]) == []
        assert len(documents.counting(cids[0])) == 1
        assert replicas.missing(store) == []
        assert documents.remove(document)
        world.time += 1e6
        collect(store, documents, grace_s=0)
        assert [store.has(cid) for cid in cids] == [False, True, False, False]


def test_any_order_of_steps_keeps_what_a_model_says(
    store: ChunkStore, documents: Documents, put_document: Callable[..., Document], world: Any, rng: Random
) -> None:
    blocks = {Cid.of(block): block for block in make(rng, 12)}
    cids = list(blocks)
    replica: set[Cid] = set()
    documented: dict[str, tuple[Document, set[Cid]]] = {}
    here: set[Cid] = set()
    for _ in range(200):
        some = rng.sample(cids, rng.randrange(1, 5))
        match rng.randrange(7):
            case 0:
                replicas.keep_replicas(store, [admitted(blocks[cid]) for cid in some])
                replica |= set(some)
                here |= set(some)
            case 1:
                replicas.hold(store, some, durable=rng.random() < 0.5)
                replica |= set(some)
            case 2:
                replicas.let_go(store, some, now=world.time, at_once=True)
                let_go = replica & set(some)
                replica -= let_go
                here -= let_go - set().union(*(held for _, held in documented.values()))
            case 3:
                document = put_document(*(blocks[cid] for cid in some))
                documented[document.doc_id] = document, set(some)
                here |= set(some)
            case 4 if documented:
                document, held = documented[rng.choice(list(documented))]
                taken = held & set(some)
                replicas.release_document_holds(store, document.holder, some, now=world.time, at_once=True)
                held -= taken
                here -= taken - replica - set().union(*(held for _, held in documented.values()))
            case 5 if documented:
                document, _ = documented.pop(rng.choice(list(documented)))
                documents.remove(document)
            case 6:
                world.time += 1
                collect(store, documents, grace_s=0)
                here &= replica | set().union(*(held for _, held in documented.values()))
        held_all = replica | set().union(*(held for _, held in documented.values()))
        assert {cid for cid in cids if store.has(cid)} == here
        assert [replicas.is_held(store, cid) for cid in cids] == [cid in replica for cid in cids]
        assert set(replicas.missing(store)) == held_all - here
        assert len(list(replicas.walk(store))) == len(replica)
    for cid in here:
        assert store.get(cid) == blocks[cid]


def _files(store: ChunkStore) -> list[Path]:
    return [path for path in Path(store.bodies._root).rglob("baf*") if path.is_file()]  # type: ignore[attr-defined]
