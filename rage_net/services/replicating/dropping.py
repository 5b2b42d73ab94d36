"""Copies too many go, once others have proved theirs: at most one thing here ever makes a copy fewer.

A copy is let go only when as many nodes as the policy wants have just proved that they hold the chunk and said that
they mean to keep it. A node that is about to let go says that it does not mean to keep, so two nodes with different
views never drop for each other's sake. Chunks of documents that are gone go without asking. Source: issue 5, C.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

from rage_net.chunk import replicas
from rage_net.chunk.store import ChunkStore
from rage_net.cid import Cid
from rage_net.env import Env
from rage_net.libp2p.peer_id import PeerId
from rage_net.metrics import Metrics
from rage_net.replication.inventory import Demand, Inventory, Item
from rage_net.services.replicating.prover import Prover
from rage_net.services.replicating.view import View

log = logging.getLogger("rage.replication")

BATCH = 64
SETTLE_S = 30.0
"""A copy that has become one too many is kept for so long: placement may change again."""
AGAIN_S = 60.0
ORPHANS = 1000


class Dropping:
    """Lets go. `now` is the inventory's clock."""

    def __init__(
        self,
        store: ChunkStore,
        inventory: Inventory,
        env: Env,
        metrics: Metrics,
        view: View,
        prover: Prover,
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._inventory = inventory
        self._env = env
        self._metrics = metrics
        self._view = view
        self._prover = prover
        self._now = now

    async def round(self, *, at_once: bool = False) -> int:
        """One batch of copies too many, and of chunks of documents that are gone. Returns: how many went."""
        gone = await self._env.blocking(self._drop_orphans)
        await self._release_guests()
        now = self._now()
        items = await self._env.blocking(self._inventory.surplus, now, BATCH)
        if not at_once:
            young = [(item.id, item.since + SETTLE_S) for item in items if now < item.since + SETTLE_S]
            await self._env.blocking(self._inventory.put_off_chunks, young)
            young_ids = {chunk for chunk, _ in young}
            items = [item for item in items if item.id not in young_ids]
        if not items:
            return gone
        safe = await self._find_safe(items)
        kept = [(item.id, now + AGAIN_S) for item in items if item.id not in safe]
        await self._env.blocking(self._inventory.put_off_chunks, kept)
        return gone + await self._env.blocking(self._drop, [item for item in items if item.id in safe])

    async def _release_guests(self) -> None:
        """Chunks that we hold for others, and that their home sets have by now, become copies too many."""
        view = self._view
        now = self._now()
        guests = await self._env.blocking(self._inventory.guests, now, BATCH)
        ripe = [
            item for item in guests if now >= item.since + SETTLE_S and not view.unavailable.intersection(item.home)
        ]
        safe = await self._find_safe(ripe) if ripe else set()
        await self._env.blocking(self._inventory.release_guests, sorted(safe), now)
        # The others make way: those of a node that stays away must not keep these from being looked at.
        kept = [
            (item.id, now + AGAIN_S if item.since + SETTLE_S <= now else item.since + SETTLE_S)
            for item in guests
            if item.have and item.id not in safe
        ]
        await self._env.blocking(self._inventory.put_off_chunks, kept)

    async def _find_safe(self, items: Sequence[Item]) -> set[int]:
        """Chunks that their home sets hold without us, proved just now: of every document that wants them, its own.

        Whoever writes a document may name any chunk, and say where it may be held. So one document's home set says
        nothing of another's, and another organisation's nodes alone are not trusted with what is not theirs.
        """
        own = self._view.own
        demands = await self._env.blocking(self._inventory.demands, [item.id for item in items])
        asks: dict[PeerId, list[Item]] = {}
        homes: dict[int, list[tuple[Demand, list[PeerId]]]] = {}
        for item in items:
            wanted = [(demand, self._view.homes(item.cid, [demand])) for demand in demands[item.id]]
            peers = dict.fromkeys(peer for _, home in wanted for peer in home)
            is_filled = all(len(home) >= demand.factor for demand, home in wanted)
            if wanted and is_filled and own not in peers and all(map(self._view.is_there, peers)):
                homes[item.id] = wanted
                for peer in peers:
                    asks.setdefault(peer, []).append(item)
        answers = await self._prover.prove({peer: [item.cid for item in some] for peer, some in asks.items()})
        keeping: dict[Cid, set[PeerId]] = {}
        for (peer, cid), answer in answers.items():
            if answer.outcome == "proved" and answer.is_kept:
                keeping.setdefault(cid, set()).add(peer)
        return {
            item.id
            for item in items
            if item.id in homes
            and all(
                self._is_safe(demand, keeping.get(item.cid, set()).intersection(home))
                for demand, home in homes[item.id]
            )
        }

    def _is_safe(self, demand: Demand, keeping: Collection[PeerId]) -> bool:
        nodes = self._view.nodes
        own = sum(peer in nodes and nodes[peer].candidate.organization == demand.organization for peer in keeping)
        return len(keeping) >= demand.factor and own > 0

    def _drop(self, items: Sequence[Item]) -> int:
        """Let go of what still belongs elsewhere now. Blocking."""
        gone = 0
        for item in items:
            if not self._inventory.begin_drop(item.id):  # placement has changed its mind
                continue
            holders = replicas.document_holders(self._store, self._inventory.documents_of(item.id))
            for holder in holders:
                replicas.release_document_holds(self._store, holder, [item.cid], now=self._env.now(), at_once=True)
            replicas.let_go(self._store, [item.cid], now=self._env.now(), at_once=True)
            if replicas.is_wanted(self._store, item.cid):  # a pin, or a document of another organisation
                self._inventory.set_have([item], 2, self._now())
            else:
                gone += 1
                self._inventory.lost([item.cid], self._now())  # it may have become ours, and been noted, meanwhile
        self._metrics.replication_events.add(gone, "dropped")
        return gone

    def _drop_orphans(self) -> int:
        orphans = self._inventory.orphans(self._now(), ORPHANS)
        if orphans:
            replicas.let_go(self._store, orphans, now=self._env.now(), at_once=True)
            durable = self._store.durable(orphans)
            self._inventory.lost([cid for cid in orphans if cid not in durable], self._now())
            self._inventory.drop_orphans(orphans)
            self._metrics.replication_events.add(len(orphans), "dropped")
        return len(orphans)
