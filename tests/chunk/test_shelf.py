"""What may be announced: roots that anyone may read, and none else."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator

import pytest

from rage_net.chunk import shelf, views
from rage_net.chunk.documents import Document, Documents
from rage_net.chunk.ingest import ingest
from rage_net.chunk.split import Sizes
from rage_net.chunk.store import ChunkStore, memory_store
from rage_net.cid import Cid
from rage_net.env import SystemEnv


@pytest.fixture
def store() -> Iterator[ChunkStore]:
    env = SystemEnv()
    made = memory_store(env)
    yield made
    made.close()
    env.close()


def put(store: ChunkStore, data: bytes, visibility: str, expires_at: float | None = None) -> Document:
    documents = Documents(store)
    with documents.lease() as lease:
        found = ingest(io.BytesIO(data), store, lease, sizes=Sizes(4096, 16384, 65536))
        return documents.put(
            lease,
            found.root,
            size=found.size,
            chunks=found.chunks,
            visibility=visibility,  # type: ignore[arg-type]
            expires_at=expires_at,
        )


def test_public_roots_are_documents_that_are_public_and_have_not_expired(store: ChunkStore) -> None:
    now = store.env.now()
    public = [put(store, f"public {n}".encode(), "public").root for n in range(5)]
    put(store, b"public 1", "public")  # a second document of the same root
    put(store, b"gone", "public", now - 1)
    lasting = put(store, b"lasting", "public", now + 1000).root
    for visibility in ("org", "federated", "private"):
        assert not shelf.is_public(store, put(store, visibility.encode(), visibility).root)
    assert shelf.public_roots(store) == sorted([*public, lasting], key=bytes)
    assert all(shelf.is_public(store, root) for root in public)


def test_pages_go_on_behind_the_last_root(store: ChunkStore, rng: random.Random) -> None:
    roots = sorted((put(store, rng.randbytes(8), "public").root for _ in range(25)), key=bytes)
    pages, after = [], None
    while page := shelf.public_roots(store, after, 10):
        pages += page
        after = page[-1]
    assert pages == roots


def test_pins_are_announced_when_their_source_called_them_public(store: ChunkStore) -> None:
    from rage_net.chunk.store import admit

    documents = Documents(store)
    items = {data: admit(Cid.of(data), "raw", data, len(data)) for data in (b"open", b"closed")}
    store.keep(item for item, _ in items.values())
    shelf.attest(store, [(Cid.of(b"open"), True, [])])
    assert shelf.public_roots(store) == [], "what is cached is no root"
    for data in items:
        views.pin_root(store, documents, str(Cid.of(data)))
    assert shelf.public_roots(store) == [Cid.of(b"open")]
