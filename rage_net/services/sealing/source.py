"""A CDN's ciphertexts as a source of plain chunks: it composes with any source that gives raw bytes by their CID.

The index is read page by page, as chunks are asked for; which ciphertext a chunk is, is looked up there. What came is
checked against the ciphertext's CID (is it what this CDN was asked for?), opened (was it sealed as this chunk?), and
checked by the store against the plain CID like anything from outside. Source: issue 6, C and D.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Literal

from rage_net.cdn.sealing import SEALED_BYTES_MAX, TAG_BYTES, Epoch, Page, Sealed, open_block, open_page
from rage_net.chunk.source import Received, Source
from rage_net.cid import BLOCK_BYTES_MAX, Cid
from rage_net.env import Env
from rage_net.errors import IntegrityError, NotFoundError
from rage_net.messages import ChunkHeader, DocumentName, Traffic

PAGES_KEPT = 8
"""Opened pages of an index in memory; one takes a megabyte."""


class SealedSource:
    """What a CDN holds of one sealed document, as its plain chunks; another source.

    Args: source: the CDN, which is asked for ciphertexts: of up to SEALED_BYTES_MAX, 16 more than a chunk's.
    """

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

    async def fetch(self, cid: Cid, size_max: int = BLOCK_BYTES_MAX, traffic: Traffic = "user", /) -> Received:
        """One chunk, plain. Raises RageError; IntegrityError `size-differs` as any source, `sealed-broken`."""
        name = await self._find(cid, traffic)
        if name is None:
            raise NotFoundError(f"{self.name} has no {cid}", why="the index of the document does not list it")
        sealed = await self._fetch(name, min(size_max + TAG_BYTES, SEALED_BYTES_MAX), traffic)
        plain = await self._env.blocking(self._open, name, cid, sealed)
        header = ChunkHeader(len(plain), len(plain), "raw", False, self._documents)
        return Received(header, [plain])

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
