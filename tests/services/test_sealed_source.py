"""What a CDN holds of a sealed document, as a source of plain chunks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import pytest

from rage_net.cdn import sealing
from rage_net.cdn.sealing import Epoch, Sealed, seal
from rage_net.chunk import manifest
from rage_net.chunk.source import Received
from rage_net.cid import Cid
from rage_net.errors import IntegrityError, NotFoundError
from rage_net.messages import ChunkHeader, DocumentName, Traffic
from rage_net.services.retrieval import Want, Way, known
from rage_net.services.sealing import SealedSource
from tests.services.conftest import Collect, Peer, World

pytestmark = pytest.mark.anyio

DOC = "a" * 26


@dataclass
class Cdn:
    """A cache that gives what it holds to anyone, by its CID."""

    held: dict[Cid, bytes] = field(default_factory=dict)
    asked: list[Cid] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    name: str = "edge"
    key: str = "edge"
    kind: Literal["cdn"] = "cdn"

    async def have(self, cids: Sequence[Cid], traffic: Traffic, /) -> Sequence[bool]:
        return [cid in self.held for cid in cids]

    async def fetch(self, cid: Cid, size_max: int, traffic: Traffic, /) -> Received:
        self.asked.append(cid)
        if cid not in self.held:
            raise NotFoundError("not found")
        data = self.held[cid]
        if len(data) > size_max:
            raise IntegrityError("too large", id="size-differs")
        return Received(ChunkHeader(len(data), len(data), "raw", True), [data[:5], memoryview(data)[5:]])

    async def drop(self, reason: str) -> None:
        self.dropped.append(reason)


@dataclass
class Shelf:
    """A document that was put on one node, sealed, and published."""

    data: bytes
    root: Cid
    blocks: list[Cid]
    cdn: Cdn
    sealed: Sealed
    epoch: Epoch
    reader: Peer

    @property
    def source(self) -> SealedSource:
        return SealedSource(self.cdn, self.sealed, self.epoch, self.reader.env)

    def of(self, source: SealedSource, cid: Cid) -> Cid:
        """The ciphertext of a block, as the index has it."""
        found = sealing.open_page(self.epoch, self.cdn.held[self.sealed.sealed]).find(cid)
        assert found is not None
        return found

    async def get(self, source: SealedSource) -> bytes:
        sink = Collect()

        async def reach() -> SealedSource:
            return source

        async def stages():  # type: ignore[no-untyped-def]
            return [known("cdn", [Way("edge", reach)])]  # type: ignore[arg-type]

        outcomes = await self.reader.retrieval.fetch(Want(self.root), stages, sink)
        assert outcomes.sources["cdn"] == len(self.blocks)
        return bytes(sink.data)


@pytest.fixture
async def shelf(world: World, rng: random.Random) -> Shelf:
    writer, reader = await world.peer(), await world.peer()
    data = rng.randbytes(300_000)
    document = writer.put(data, "private")
    blocks = list(dict.fromkeys(manifest.blocks(document.root, writer.store.get)))
    epoch = Epoch("acme", DOC, rng.randbytes(16), rng.randbytes(32))
    out = list(seal(epoch, blocks, writer.store.get))
    cdn = Cdn({block.cid: block.data for block in out})
    sealed = Sealed("acme", DOC, document.root, epoch.id, out[-1].cid, epoch.check)
    return Shelf(data, document.root, blocks, cdn, sealed, epoch, reader)


async def test_a_document_comes_back_whole_from_what_tells_the_cdn_nothing(shelf: Shelf) -> None:
    assert await shelf.get(shelf.source) == shelf.data
    assert not set(shelf.cdn.asked) & set(shelf.blocks), "it is asked for ciphertexts alone"
    assert shelf.cdn.asked.count(shelf.sealed.sealed) == 1, "the index is read once"
    assert all(shelf.reader.store.get(cid) for cid in shelf.blocks)
    held = b"".join(shelf.cdn.held.values())
    assert shelf.data[:32] not in held and bytes(shelf.blocks[1]) not in held


async def test_chunks_count_for_the_document_that_they_came_as(shelf: Shelf) -> None:
    received = await shelf.source.fetch(shelf.blocks[0])
    assert received.header.documents == (DocumentName("acme", DOC),)
    assert not received.header.is_public, "whatever the CDN's own header says"


async def test_an_index_of_many_pages_is_read_as_it_is_needed(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = {cid: await _plain(shelf, cid) for cid in shelf.blocks}
    monkeypatch.setattr(sealing, "PAGE_ENTRIES", 8)
    monkeypatch.setattr("rage_net.services.sealing.source.PAGES_KEPT", 2)
    out = list(seal(shelf.epoch, shelf.blocks, plain.__getitem__))
    shelf.cdn.held = {block.cid: block.data for block in out}
    shelf.sealed = replace(shelf.sealed, sealed=out[-1].cid)
    assert len(out) > len(shelf.blocks) + 2
    source = shelf.source
    assert list(await source.have([*shelf.blocks, Cid.of(b"other")])) == [True] * len(shelf.blocks) + [False]
    assert await shelf.get(source) == shelf.data


async def _plain(shelf: Shelf, cid: Cid) -> bytes:
    return b"".join((await shelf.source.fetch(cid)).buffers)


async def test_what_the_cdn_has_lost_is_absent_and_nothing_else(shelf: Shelf) -> None:
    source, cid = shelf.source, shelf.blocks[1]
    del shelf.cdn.held[shelf.of(source, cid)]
    assert list(await source.have(shelf.blocks[:3])) == [True, False, True]
    with pytest.raises(NotFoundError):
        await source.fetch(cid)
    with pytest.raises(NotFoundError, match="has no"):
        await source.fetch(Cid.of(b"a chunk of another document"))
    assert await _plain(shelf, shelf.blocks[2])


async def test_more_than_was_asked_for_is_refused_before_it_is_opened(shelf: Shelf) -> None:
    with pytest.raises(IntegrityError) as caught:
        await shelf.source.fetch(shelf.blocks[1], 10)
    assert caught.value.id == "size-differs"


# --- attacks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["flipped", "truncated", "other", "page", "empty"])
async def test_a_cdn_that_serves_wrong_bytes_reaches_nobody(shelf: Shelf, what: str) -> None:
    source, cid = shelf.source, shelf.blocks[1]
    name = shelf.of(source, cid)
    good = shelf.cdn.held[name]
    shelf.cdn.held[name] = {
        "flipped": bytes([good[0] ^ 1]) + good[1:],
        "truncated": good[:-1],
        "other": shelf.cdn.held[shelf.of(source, shelf.blocks[2])],
        "page": b"<html>please log in</html>",
        "empty": b"",
    }[what]
    with pytest.raises(IntegrityError):
        await source.fetch(cid)
    with pytest.raises(NotFoundError):
        shelf.reader.store.get(cid)


@pytest.mark.parametrize("what", ["flipped", "a chunk", "html"])
async def test_a_cdn_that_serves_a_wrong_index_is_not_believed(shelf: Shelf, what: str) -> None:
    good = shelf.cdn.held[shelf.sealed.sealed]
    shelf.cdn.held[shelf.sealed.sealed] = {
        "flipped": good[:-1] + bytes([good[-1] ^ 1]),
        "a chunk": next(iter(shelf.cdn.held.values())),
        "html": b"<html>",
    }[what]
    with pytest.raises(IntegrityError):
        await shelf.source.fetch(shelf.blocks[0])


async def test_the_key_of_an_older_epoch_opens_nothing(shelf: Shelf, rng: random.Random) -> None:
    for epoch in (replace(shelf.epoch, key=rng.randbytes(32)), replace(shelf.epoch, id=rng.randbytes(16))):
        with pytest.raises(IntegrityError):
            await SealedSource(shelf.cdn, shelf.sealed, epoch, shelf.reader.env).fetch(shelf.blocks[0])


async def test_whoever_sealed_other_bytes_as_a_chunk_is_found_out_by_the_store(shelf: Shelf) -> None:
    """The key alone makes no chunk: what opens must be what its CID says."""
    cid = shelf.blocks[1]
    forged = sealing._encrypt(shelf.epoch, "block", cid, b"forged")
    rows = [
        bytes(each) + (Cid.of(forged) if each == cid else shelf.of(shelf.source, each)).digest
        for each in sorted(shelf.blocks)
    ]
    page = sealing.seal_page(shelf.epoch, 0, rows)
    shelf.cdn.held |= {Cid.of(forged): forged, page.cid: page.data}
    shelf.sealed = replace(shelf.sealed, sealed=page.cid)
    with pytest.raises(IntegrityError, match="is not to be had"):
        await shelf.get(shelf.source)
    assert shelf.cdn.dropped, "the CDN is trusted no more"
    with pytest.raises(NotFoundError):
        shelf.reader.store.get(cid)


async def test_an_index_that_leads_in_circles_ends(shelf: Shelf) -> None:
    first = min(shelf.blocks)
    inner = sealing.seal_page(shelf.epoch, 1, [bytes(first) + bytes(32)])
    outer = sealing.seal_page(shelf.epoch, 1, [bytes(first) + inner.cid.digest])
    shelf.cdn.held |= {inner.cid: inner.data, outer.cid: outer.data}
    shelf.sealed = replace(shelf.sealed, sealed=outer.cid)
    with pytest.raises(IntegrityError, match="deeper"):
        await shelf.source.fetch(first)
