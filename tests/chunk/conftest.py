"""A world with a clock of its own, and a store over each of the three bodies."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rage_net.chunk.bucket import Place
from rage_net.chunk.documents import Document, Documents
from rage_net.chunk.store import ChunkStore, Quota, memory_store, open_store
from rage_net.cid import Cid
from tests import aws_server

ROOMY = Quota(free_bytes_min=0, free_inodes_min=0)


class World:
    """An `Env` for blocking code: a clock that moves when told to, and a seeded generator."""

    def __init__(self, seed: random.Random) -> None:
        self.random = seed
        self.time = 1_000_000.0
        self._ticks = itertools.count()

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return float(next(self._ticks))


@pytest.fixture
def world(rng: random.Random) -> World:
    return World(rng)


@pytest.fixture
def object_place(aws_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Place:
    """A bucket of its own, and credentials in the environment and nowhere else."""
    for name, text in aws_server.KEYS.items():
        monkeypatch.setenv(name, text)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    return Place(aws_server.make_bucket(aws_url), "some/prefix", endpoint=aws_url)


@pytest.fixture(params=["files", "memory", "objects"])
def make_store(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> Iterator[Callable[[Quota], ChunkStore]]:
    """Opens a store; one with files or objects finds again what it held before."""
    opened: list[ChunkStore] = []

    def make(quota: Quota = ROOMY) -> ChunkStore:
        if request.param == "memory":
            store = memory_store(world, quota=quota)
        elif request.param == "files":
            store = open_store(tmp_path, world, quota=quota)
        else:
            place = request.getfixturevalue("object_place")
            store = open_store(tmp_path, world, quota=quota, objects=place, cache_bytes=300_000)
        opened.append(store)
        return store

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(make_store: Callable[[], ChunkStore]) -> ChunkStore:
    return make_store()


@pytest.fixture
def file_store(world: World, tmp_path: Path) -> Iterator[ChunkStore]:
    store = open_store(tmp_path, world, quota=ROOMY)
    yield store
    store.close()


@pytest.fixture
def documents(store: ChunkStore) -> Documents:
    return Documents(store)


@pytest.fixture
def put_document(store: ChunkStore, documents: Documents) -> Callable[..., Document]:
    """Puts blocks as they are; the first is the root."""

    def put(*blocks: bytes, organisation: str = "", **more: object) -> Document:
        with documents.lease(organisation) as lease:
            with store.batch(lease=lease) as batch:
                for block in blocks:
                    batch.add_data(block)
                batch.commit()
            size = sum(map(len, blocks))
            return documents.put(lease, Cid.of(blocks[0]), size=size, chunks=len(blocks), **more)  # type: ignore[arg-type]

    return put
