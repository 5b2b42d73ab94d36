"""From documents of the log to chunks and where they belong: manifests are read, home sets computed, a page at a time.

A manifest that is not here is fetched as cache; it is small beside what it names. Source: issue 5, B; peers.md 14.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from rage_net.chunk.manifest import Walk
from rage_net.chunk.shelf import attest
from rage_net.chunk.source import Received
from rage_net.chunk.store import ChunkStore, admit
from rage_net.cid import Cid
from rage_net.env import Env
from rage_net.errors import IntegrityError, NotFoundError, RageError
from rage_net.libp2p.errors import Libp2pError
from rage_net.libp2p.peer_id import PeerId
from rage_net.replication.inventory import Inventory, Item, Unread
from rage_net.services.replicating.prover import Fetch
from rage_net.services.replicating.view import View

log = logging.getLogger("rage.replication")

READ_AT_ONCE = 64
"""Documents read in one round."""
READERS = 8
"""So many at a time: each has a manifest of up to 4 MiB in memory."""
READ_S_MAX = 30.0
"""For one document; what came of it by then is here, and the rest is fetched next time. One whose holder sends a byte
now and then must not keep the others waiting."""
PAGE = 1000
AGAIN_S_MIN, AGAIN_S_MAX = 0.5, 60.0
"""After a manifest could not be had: doubles."""
MEMBERS_PAGE = 10_000
SOURCES_MAX = 16


class Reading:
    """Reads manifests and computes home sets. `now` is the inventory's clock."""

    def __init__(
        self, store: ChunkStore, inventory: Inventory, env: Env, view: View, fetch: Fetch, now: Callable[[], float]
    ) -> None:
        self._store = store
        self._inventory = inventory
        self._env = env
        self._view = view
        self._fetch = fetch
        self._now = now

    async def round(self, doc_ids: Collection[str] | None = None) -> int:
        """Read documents that are due, the newest first, or some alone. Returns: how many were read."""
        places = asyncio.Semaphore(READERS)
        read: list[Unread] = []

        async def try_one(document: Unread) -> None:
            async with places:
                try:
                    async with asyncio.timeout(READ_S_MAX):
                        await self._read(document)
                    read.append(document)
                except (RageError, Libp2pError, TimeoutError, ValueError) as error:
                    again_s = min(AGAIN_S_MAX, AGAIN_S_MIN * 2 ** min(document.tries, 10))
                    log.debug("the chunks of document %s are not known yet: %s", document.doc_id, error)
                    await self._env.blocking(self._inventory.put_off, document.id, self._now() + again_s)

        async with asyncio.TaskGroup() as tasks:
            for document in await self._env.blocking(self._inventory.unread, self._now(), READ_AT_ONCE, doc_ids):
                tasks.create_task(try_one(document))
        return len(read)

    async def _read(self, document: Unread) -> None:
        block = await self._block(document, document.root)
        page = [(document.root, len(block))]
        if document.root.is_manifest():
            walk = Walk(document.root)
            while (wanted := walk.wanted) is not None:
                data = block if wanted == document.root else await self._block(document, wanted)
                if wanted != document.root:
                    page.append((wanted, len(data)))
                page += [(piece.cid, piece.size) for piece in await self._env.blocking(walk.receive, data)]
                if len(page) >= MEMBERS_PAGE:
                    await self._note(document, page, is_last=False)
                    page = []
        await self._note(document, page, is_last=True)

    async def _note(self, document: Unread, page: list[tuple[Cid, int]], *, is_last: bool) -> None:
        now = self._now()
        await self._env.blocking(lambda: self._inventory.read(document.id, document.root, page, now, is_last=is_last))

    async def _block(self, document: Unread, cid: Cid) -> bytes:
        """A block that is here, or that some node has; kept as cache. Raises RageError."""
        try:
            return await self._env.blocking(self._store.get, cid)
        except (NotFoundError, IntegrityError):
            pass
        found = await self._obtain(document, cid)
        if found is None:
            raise NotFoundError(f"no node that is there gives {cid}")
        return found

    async def obtain(self, item: Item) -> bytes | None:
        """A chunk from whoever has it, kept as cache; None when nobody gives it."""
        return await self._obtain(item, item.cid)

    async def _obtain(self, of: Unread | Item, cid: Cid) -> bytes | None:
        for peer in self._sources(of, cid):
            try:
                received = await self._fetch(peer, cid)
                return await self._env.blocking(self._keep, cid, received)
            except (RageError, Libp2pError, TimeoutError) as error:
                log.debug("%s does not give %s: %s", peer, cid, error)
        return None

    def _sources(self, of: Unread | Item, cid: Cid) -> list[PeerId]:
        view = self._view
        home = view.home(cid, of.organization, of.topology, 3)
        ranked = dict.fromkeys([of.owner, *home, *sorted(view.nodes)])
        found = [peer for peer in ranked if peer != view.own and view.is_there(peer)][: SOURCES_MAX - 1]
        if of.owner not in view.nodes and of.owner != view.own:  # no place for replicas, and not watched
            found.append(of.owner)
        return found

    def _keep(self, cid: Cid, received: Received) -> bytes:
        header = received.header
        item, plain = admit(cid, header.encoding, b"".join(received.buffers), header.size)
        self._store.keep([item])
        attest(self._store, [(cid, header.is_public, [(it.organization, it.doc_id) for it in header.documents])])
        return plain

    def place_page(self) -> int:
        """Compute the home sets of a page of chunks. Blocking. Returns: how many; 0 when all are computed."""
        items = self._inventory.unplaced(PAGE)
        durable = self._store.durable(item.cid for item in items if not item.have)
        placed = []
        for item in items:
            home = self._view.homes(item.cid, item.demands)
            placed.append((item, home, bool(item.have) or item.cid in durable))
        self._inventory.place(placed, self._now())
        return len(items)
