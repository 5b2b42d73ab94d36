"""What is ours to hold and not here is fetched: what a coordinator asked for first, then the newest.

Nodes that should have chunks are asked which they have, a batch at a time; each chunk is fetched from one of those that
said so, a few at once, and becomes durable and held in one commit with others. What cannot be had comes again later.
The chunk exchange gives way to readers: these requests travel in the lane `replication`. Source: issue 5, C and E.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from rage_net.chunk import replicas
from rage_net.chunk.shelf import attest
from rage_net.chunk.store import Admitted, ChunkStore, admit
from rage_net.cid import Cid
from rage_net.env import Env
from rage_net.errors import IntegrityError, RageError, StorageFullError, UnavailableError
from rage_net.libp2p.errors import Libp2pError
from rage_net.libp2p.peer_id import PeerId
from rage_net.messages import ChunkHeader
from rage_net.metrics import Metrics
from rage_net.replication.inventory import Inventory, Item
from rage_net.services.replicating.prover import Fetch, Have
from rage_net.services.replicating.rounds import Rounds
from rage_net.services.replicating.view import View

log = logging.getLogger("rage.replication")

BATCH = 128
"""Chunks of one round."""
SOURCES_MAX = 12
"""Nodes asked which chunks of a batch they have."""
STRANGERS_MAX = 4
"""Owners of documents that store nothing for others, and are asked besides."""
FETCHES_AT_ONCE = 6
"""Enough to fill a connection, few enough to leave the threads to readers."""
GIVE_WAY = 8.0
"""While people read, a place rests for so many times as long as its last fetch of a stand-in's chunk took: all six
together then do less than one would. On a busy machine fetches take longer, and the rests with them."""
PAUSE_S_MAX = 2.0
COMMIT_CHUNKS = 32
COMMIT_BYTES = 8 << 20
"""Become durable in one commit, and are in memory until then."""
AGAIN_S_MIN, AGAIN_S_MAX = 0.25, 60.0
"""After a chunk could not be had: doubles."""
MANY_TRIES, SELDOM_S = 20, 600.0
"""What nobody has had for ten minutes is looked for so seldom: a manifest may name what never was."""
FULL_AGAIN_S = 30.0
SLOW_S = 8.0
"""A fetch that fails after so long held a place that others could have used."""
DRIPPED_S = 30.0
"""And one that takes so long is one, even if it ends well: 4 MiB at 140 KB/s."""
SHUNNED_S_MIN, SHUNNED_S_MAX = 30.0, 1800.0
"""Who was slow, or sent what is no chunk, is not asked for so long: doubles, until it gives again."""
IDLE_S_MAX = 5.0


class Pulling:
    """Fetches. `on_full` is told when the disk has no room; `now` is the inventory's clock."""

    def __init__(
        self,
        store: ChunkStore,
        inventory: Inventory,
        env: Env,
        metrics: Metrics,
        view: View,
        *,
        have: Have,
        fetch: Fetch,
        on_full: Callable[[], None],
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._inventory = inventory
        self._env = env
        self._metrics = metrics
        self._view = view
        self._have = have
        self._fetch = fetch
        self._on_full = on_full
        self._now = now
        self._rounds = Rounds(self.round, IDLE_S_MAX)
        self.wake, self.run = self._rounds.wake, self._rounds.run
        self._shunned: dict[PeerId, tuple[float, float]] = {}  # until when, and for how long next time
        self.on_fetched: Callable[[], None] = lambda: None
        """Called after each commit: more is here."""
        self.has_readers: Callable[[], bool] = lambda: False
        """Whether people read from or through this node now."""

    async def round(self) -> int:
        """Fetch one batch. Returns: how many chunks were due."""
        items = await self._env.blocking(self._inventory.wanted, self._now(), BATCH)
        if not items:
            return 0
        try:
            items = await self._take_what_is_here(items)
        except StorageFullError as error:
            log.warning("what is here cannot be held as replicas: %s", error)
            self._on_full()
            return 0
        sources = await self._find_sources(items)
        failed: dict[int, float] = {}
        batch = _Batch(self, items)
        places = asyncio.Semaphore(FETCHES_AT_ONCE)

        async def fetch(item: Item) -> None:
            async with places:
                began = self._env.monotonic()
                if batch.is_full or not await self._fetch_one(item, sources.get(item.cid, []), batch):
                    failed[item.id] = self._again_at(item, is_full=batch.is_full)
                elif item.mine == 2 and self.has_readers():
                    await asyncio.sleep(min(PAUSE_S_MAX, GIVE_WAY * (self._env.monotonic() - began)))

        try:
            async with asyncio.TaskGroup() as tasks:
                for item in items:
                    tasks.create_task(fetch(item))
        finally:
            await batch.commit()
        for item in items:  # a commit without room keeps nothing
            if item.id not in failed and item.id not in batch.kept:
                failed[item.id] = self._again_at(item, is_full=True)
        if failed:
            self._metrics.replication_events.add(len(failed), "fetch_failed")
            await self._env.blocking(self._inventory.put_off_chunks, list(failed.items()))
        return BATCH if len(failed) < BATCH else 0

    def _again_at(self, item: Item, *, is_full: bool) -> float:
        again_s = min(AGAIN_S_MAX, AGAIN_S_MIN * float(2 ** min(item.tries, 10)))
        if is_full:
            again_s = FULL_AGAIN_S
        elif item.tries >= MANY_TRIES:
            again_s = SELDOM_S
        return self._now() + again_s * self._env.random.uniform(0.75, 1.25)

    async def _take_what_is_here(self, items: Sequence[Item]) -> list[Item]:
        """Durable chunks of documents that were put here become replicas; cached ones are fetched as others are."""

        def take() -> set[int]:
            durable = self._store.durable(item.cid for item in items)
            here = [item for item in items if item.cid in durable]
            if here:
                replicas.hold(self._store, [item.cid for item in here])
                self._note_here(here)
            return {item.id for item in here}

        taken = await self._env.blocking(take)
        if taken:
            self.on_fetched()
        return [item for item in items if item.id not in taken]

    async def _find_sources(self, items: Sequence[Item]) -> dict[Cid, list[PeerId]]:
        """Which nodes say that they have which chunks; each is asked about all that fewer than two before it have.

        More of a chunk that was tried before: two that only say so must not keep it from the third that has it.
        """
        view = self._view
        counts: dict[PeerId, int] = {}
        for item in items:
            for peer in (item.owner, *item.home):
                if peer != view.own and view.is_there(peer) and not self.is_shunned(peer):
                    counts[peer] = counts.get(peer, 0) + 1
        ranked = sorted(counts, key=lambda peer: -counts[peer])
        ranked += [
            peer
            for peer in sorted(view.nodes)
            if peer not in counts and peer != view.own and view.is_there(peer) and not self.is_shunned(peer)
        ]
        del ranked[SOURCES_MAX:]
        # A document may be put on a node that is no place for replicas: asked last, as nobody watches whether it lives.
        strangers = dict.fromkeys(
            item.owner for item in items if item.owner not in view.nodes and not self.is_shunned(item.owner)
        )
        ranked += list(strangers)[:STRANGERS_MAX]
        found: dict[Cid, list[PeerId]] = {}
        for peer in ranked:
            wanted = 1 if peer in strangers else 2
            missing = [item.cid for item in items if len(found.get(item.cid, ())) < wanted + item.tries]
            if not missing:
                continue
            try:
                said = await self._have(peer, missing, False)  # a cache is as good a source
            except (RageError, Libp2pError, TimeoutError) as error:
                log.debug("%s does not say what it has: %s", peer, error)
                if isinstance(error, RageError) and error.id == "stalled":
                    self._shun(peer)
                continue
            for cid, has in zip(missing, said, strict=True):
                if has:
                    found.setdefault(cid, []).append(peer)
        return found

    async def _fetch_one(self, item: Item, sources: Sequence[PeerId], batch: _Batch) -> bool:
        for peer in self._env.random.sample(sources, len(sources)):
            if self.is_shunned(peer):
                continue
            began = self._now()
            try:
                received = await self._fetch(peer, item.cid)
                header = received.header
                admitted, _ = await self._env.blocking(
                    admit, item.cid, header.encoding, b"".join(received.buffers), header.size
                )
            except IntegrityError as error:
                log.warning("%s sent what is not %s: %s", peer, item.cid, error)
                self._metrics.replication_events.add(1, "wrong_bytes")
                self._shun(peer)
                continue
            except (RageError, Libp2pError, TimeoutError) as error:
                log.debug("%s does not give %s: %s", peer, item.cid, error)
                if self._now() - began >= SLOW_S:
                    self._shun(peer)
                continue
            if self._now() - began < DRIPPED_S:
                self._shunned.pop(peer, None)
            else:
                self._shun(peer)
            said = {(one.organization, one.doc_id) for one in header.documents}
            if said.isdisjoint(await self._env.blocking(self._inventory.documents_of, item.id)):
                # Kept so, nobody could have it of us: a copy that counts for no document is given to nobody.
                log.warning("%s sent %s for none of the documents that it is for", peer, item.cid)
                self._metrics.replication_events.add(1, "wrong_documents")
                continue
            await batch.add(item, admitted, header)
            return True
        return False

    def is_shunned(self, peer: PeerId) -> bool:
        """Whether a node is not asked for chunks now."""
        return self._now() < self._shunned.get(peer, (0.0, 0.0))[0]

    def _shun(self, peer: PeerId) -> None:
        """Once for all that were under way together."""
        if not self.is_shunned(peer):
            for_s = self._shunned.get(peer, (0.0, SHUNNED_S_MIN))[1]
            self._shunned = {
                one: told for one, told in self._shunned.items() if one in self._view.nodes or self.is_shunned(one)
            }
            self._shunned[peer] = self._now() + for_s, min(SHUNNED_S_MAX, 2 * for_s)

    def keep(self, fresh: Sequence[tuple[Item, Admitted, ChunkHeader]]) -> None:
        """Make chunks durable and held, and note what they are for. Blocking. Raises StorageFullError."""
        replicas.keep_replicas(self._store, [admitted for _, admitted, _ in fresh])
        said = [
            (item.cid, header.is_public, [(it.organization, it.doc_id) for it in header.documents])
            for item, _, header in fresh
        ]
        attest(self._store, said)
        self._note_here([item for item, _, _ in fresh])

    def _note_here(self, items: Sequence[Item]) -> None:
        """They are held. What was removed while it was on its way here is let go again."""
        gone = self._inventory.set_have(items, 1, self._now())
        replicas.let_go(self._store, gone, now=self._env.now(), at_once=True)

    async def commit(self, fresh: Sequence[tuple[Item, Admitted, ChunkHeader]]) -> bool:
        """As `keep`; False when there is no room, or what holds the bytes is out of reach."""
        try:
            await self._env.blocking(self.keep, fresh)
        except (StorageFullError, UnavailableError) as error:
            log.warning("replicas cannot be kept: %s", error)
            if isinstance(error, StorageFullError):
                self._on_full()
            return False
        self._metrics.replication_events.add(len(fresh), "fetched")
        self.on_fetched()
        return True


class _Batch:
    """What was fetched and is not durable yet."""

    def __init__(self, pulling: Pulling, items: Sequence[Item]) -> None:
        self.is_full = False
        """Nothing more can be kept now: the disk has no room, or an object store does not answer."""
        self.kept: set[int] = set()
        self._pulling = pulling
        self._fresh: list[tuple[Item, Admitted, ChunkHeader]] = []
        self._bytes = 0
        self._committing = asyncio.Lock()

    async def add(self, item: Item, admitted: Admitted, header: ChunkHeader) -> None:
        self._fresh.append((item, admitted, header))
        self._bytes += len(admitted.stored)
        if len(self._fresh) >= COMMIT_CHUNKS or self._bytes >= COMMIT_BYTES:
            await self.commit()

    async def commit(self) -> None:
        async with self._committing:  # whoever fetches on meanwhile waits here: memory is bounded
            fresh, self._fresh, self._bytes = self._fresh, [], 0
            if fresh and await self._pulling.commit(fresh):
                self.kept.update(item.id for item, _, _ in fresh)
            elif fresh:
                self.is_full = True
