"""A CDN's ciphertexts as a source of plain chunks: it composes with any source that gives raw bytes by their CID.

The index is read page by page, as chunks are asked for; which ciphertext a chunk is, is looked up there. What came is
checked against the ciphertext's CID (is it what this CDN was asked for?), opened (was it sealed as this chunk?), and
checked by the store against the plain CID like anything from outside. Source: issue 6, C and D.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from rage_net.cdn.sealing import SEALED_BYTES_MAX, TAG_BYTES, Epoch, Page, Sealed, open_block, open_page
from rage_net.cid import BLOCK_BYTES_MAX, Cid
from rage_net.env import Env
from rage_net.errors import IntegrityError, NotFoundError
from rage_net.messages import ChunkHeader, DocumentName, Traffic

PAGES_KEPT = 8
"""Opened pages of an index in memory; one takes a megabyte."""


class Received(Protocol):
    """As retrieval's."""

    @property
    def header(self) -> ChunkHeader:
        """Its sizes and encoding."""
        ...

    @property
    def buffers(self) -> list[bytes | memoryview]:
        """The bytes, in order."""
        ...


class Source(Protocol):
    """As retrieval's: a CDN, which is asked for ciphertexts."""

    @property
    def key(self) -> Hashable:
        """Who it is."""
        ...

    @property
    def name(self) -> str:
        """For people."""
        ...

    async def have(self, cids: Sequence[Cid], traffic: Traffic, /) -> Sequence[bool]:
        """Which of `cids` it has. Raises RageError."""
        ...

    async def fetch(self, cid: Cid, size_max: int, traffic: Traffic, /) -> Received:
        """The bytes. Raises RageError. `size_max` may be SEALED_BYTES_MAX, 16 more than a chunk's."""
        ...

    async def drop(self, reason: str) -> None:
        """It sent wrong bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Opened:
    """A chunk that came sealed, plain now; not yet verified."""

    header: ChunkHeader
    buffers: list[bytes | memoryview] = field(repr=False)


class SealedSource:
    """What a CDN holds of one sealed document, as its plain chunks. A source in retrieval's sense."""

    kind: Literal["cdn"] = "cdn"

    def __init__(self, source: Source, sealed: Sealed, epoch: Epoch, env: Env) -> None:
        self._source = source
        self._sealed = sealed
        self._epoch = epoch
        self._env = env
        self._pages: OrderedDict[Cid, Page] = OrderedDict()
        self._loading = asyncio.Lock()
        self._documents = (DocumentName(sealed.organization, sealed.doc_id),)

    @property
    def key(self) -> Hashable:
        """The CDN, and which of its documents: what it has of others in the clear is another way."""
        return self._source.key, self._sealed.epoch

    @property
    def name(self) -> str:
        """For people."""
        return f"{self._source.name} (encrypted)"

    async def have(self, cids: Sequence[Cid], traffic: Traffic = "user", /) -> Sequence[bool]:
        """Which of these it has: those that the index lists. Raises RageError."""
        found = [await self._find(cid, traffic) for cid in cids]
        listed = list(dict.fromkeys(cid for cid in found if cid is not None))
        held = dict(zip(listed, await self._source.have(listed, traffic), strict=True)) if listed else {}
        return [cid is not None and held[cid] for cid in found]

    async def fetch(self, cid: Cid, size_max: int = BLOCK_BYTES_MAX, traffic: Traffic = "user", /) -> Opened:
        """One chunk, plain. Raises RageError; IntegrityError `size-differs` as any source, `sealed-broken`."""
        name = await self._find(cid, traffic)
        if name is None:
            raise NotFoundError(f"{self.name} has no {cid}", why="the index of the document does not list it")
        sealed = await self._fetch(name, min(size_max + TAG_BYTES, SEALED_BYTES_MAX), traffic)
        plain = await self._env.blocking(self._open, name, cid, sealed)
        header = ChunkHeader(len(plain), len(plain), "raw", False, self._documents)
        return Opened(header, [plain])

    async def drop(self, reason: str) -> None:
        """See `Source`."""
        await self._source.drop(reason)

    def _open(self, name: Cid, cid: Cid, sealed: bytes) -> bytes:
        _check(name, sealed, self.name)
        return open_block(self._epoch, cid, sealed)

    async def _find(self, cid: Cid, traffic: Traffic) -> Cid | None:
        """The ciphertext of a chunk: at most two pages are looked into."""
        page = await self._page(self._sealed.sealed, traffic)
        found = page.find(cid)
        if found is None or page.is_leaf:
            return found
        leaf = await self._page(found, traffic)
        if not leaf.is_leaf:
            raise IntegrityError("the index of a sealed document is deeper than it may be", id="sealed-broken")
        return leaf.find(cid)

    async def _page(self, name: Cid, traffic: Traffic) -> Page:
        async with self._loading:  # chunks that are asked for together need one page, once
            page = self._pages.get(name)
            if page is None:
                data = await self._fetch(name, BLOCK_BYTES_MAX, traffic)
                page = await self._env.blocking(self._open_page, name, data)
                self._pages[name] = page
                while len(self._pages) > PAGES_KEPT:
                    self._pages.popitem(last=False)
            self._pages.move_to_end(name)
            return page

    def _open_page(self, name: Cid, data: bytes) -> Page:
        _check(name, data, self.name)
        return open_page(self._epoch, data)

    async def _fetch(self, name: Cid, size_max: int, traffic: Traffic) -> bytes:
        received = await self._source.fetch(name, size_max, traffic)
        if received.header.encoding != "raw":
            raise IntegrityError(f"{self.name} gave a ciphertext in another form", id="sealed-broken")
        return b"".join(received.buffers)


def _check(name: Cid, data: bytes, source: str) -> None:
    if not name.matches(data):
        raise IntegrityError(f"{source} sent other bytes than {name}", id="cid-differs")
