"""One node's share of replication: what it fetches, audits, asks others to hold, and drops.

    view          who may hold what, and who is there
    reading       documents of the log -> chunks, and where they belong
    pulling       what is ours and not here is fetched, the riskiest first
    coordinating  chunks that are our business: holders prove, stand-ins are asked
    dropping      copies too many go, once others have proved theirs
    prover        claims and proofs, whatever is here
    rounds        work while there is some, and when it is told

`Replicating` composes them; each job is one bounded round. Every node does this by itself, from the same log: nobody is
in charge. Not here: the rules (replication), the wire (auditing, exchange). Source: design D5; issue 5, B to E.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from rage_net.chunk import replicas
from rage_net.chunk.store import ChunkStore
from rage_net.cid import Cid
from rage_net.env import Env
from rage_net.errors import RageError, StorageFullError
from rage_net.libp2p.peer_id import PeerId
from rage_net.metrics import Metrics
from rage_net.replication.inventory import Demand, Inventory, Item, Wanted
from rage_net.replication.policy import Policies
from rage_net.replication.usage import Rates, total
from rage_net.services.replicating.coordinating import Coordinating
from rage_net.services.replicating.dropping import Dropping
from rage_net.services.replicating.prover import Auditing, Fetch, Have, Prover
from rage_net.services.replicating.pulling import Pulling
from rage_net.services.replicating.reading import Reading
from rage_net.services.replicating.view import Node, View

log = logging.getLogger("rage.replication")

REPORT_EVERY_S = 30.0
RECONCILE_EVERY_S = 600.0
CHECK_EVERY_S = 3600.0
DROPS_MAX = 64
"""Batches of copies too many that one round lets go."""
REPORTS_MAX = 4096
NEWS_S, NEWS_MAX = 10.0, 3
"""So often a peer that wants proof of what is not here makes us ask it for what it knows."""
USAGE_MAX = 100
"""Documents in one report."""
FULL_S = 30.0
"""After a disk was found full, room is looked for again."""
PAGE_MAX = 500
STALE_MAX = 10_000
"""Documents that have changed and are looked at one by one; of more, all are."""
UNREAD_S = 1.0
"""While the chunks of some document are not known, so often it is looked at again."""
GATHER_S = 0.1
LOOK_S_MIN, LOOK_S_MAX = 0.1, 2.0


@dataclass(frozen=True, slots=True)
class Report:
    """What a node last said of itself."""

    free_bytes: int
    """That its store may still take."""
    is_full: bool
    policies: bytes
    """Digest of its policies: equal where nodes place alike."""
    usage: tuple[tuple[str, int], ...] = ()
    """Documents and their uses a day."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the facts come from. Blocking, but for `liveness`.

    nodes: those that placement may name. documents: those to be replicated, with their policies: all, or of some ids.
    is_gone: whether something says that a document which is not among them was removed, or is not ours to hold.
    liveness: what is believed of a peer; None when it was never heard.
    """

    nodes: Callable[[], Sequence[Node]]
    documents: Callable[[Collection[str] | None], Iterator[Wanted]]
    is_gone: Callable[[str, str], bool]
    liveness: Callable[[PeerId], str | None]


class Replicating:
    """One node's replication. Args: have, fetch: of the chunk exchange, with the right to replicate."""

    def __init__(
        self,
        store: ChunkStore,
        inventory: Inventory,
        env: Env,
        metrics: Metrics,
        own: PeerId,
        view: View,
        auditing: Auditing,
        sources: Sources,
        *,
        have: Have,
        fetch: Fetch,
        audit_period_s: float,
        policies: Policies,
    ) -> None:
        self.own = own
        self.view = view
        self.inventory = inventory
        self.auditing = auditing
        self.policies = policies
        self.usage = Rates()
        """How often documents are asked for at this node."""
        self.reports: OrderedDict[PeerId, Report] = OrderedDict()
        self.prover = Prover(store, env, own, auditing, have, fetch)
        self.ask_for_news: Callable[[PeerId], None] = lambda peer: None
        """Given by who composes: exchange logs with a peer soon."""
        self._asked_for_news: Counter[PeerId] = Counter()
        self._news_counted_at = 0.0
        self.short = 0
        """Chunks that we coordinate and whose copies were not all proved in several rounds, as of the last report."""
        self._store = store
        self._env = env
        self._metrics = metrics
        self._sources = sources
        self._full_until = 0.0
        self._is_stale = asyncio.Event()
        self._comparing = asyncio.Lock()  # a round forgets what it did not see: nobody adds meanwhile
        self._stale: set[str] | None = None  # ids of documents that have changed; None: all, and the nodes
        self._opened_at = env.monotonic()
        now = self.now
        self.reading = Reading(store, inventory, env, view, fetch, now)
        self.pulling = Pulling(
            store, inventory, env, metrics, view, have=have, fetch=fetch, on_full=self._note_full, now=now
        )
        self.coordinating = Coordinating(
            inventory, env, metrics, view, self.prover, auditing, is_full=self.is_full, period_s=audit_period_s, now=now
        )
        self.pulling.on_fetched = self.coordinating.wake
        self.dropping = Dropping(store, inventory, env, metrics, view, self.prover, now)

    def now(self) -> float:
        """The inventory's clock: seconds that this node has run."""
        return self.inventory.clock_at_open + self._env.monotonic() - self._opened_at

    # --- what is known of nodes ---

    def is_full(self, peer: PeerId) -> bool:
        """Whether a node takes no replica now."""
        if peer == self.own:
            return self._env.monotonic() < self._full_until
        report = self.reports.get(peer)
        return report is not None and report.is_full

    def liveness(self, peer: PeerId) -> str | None:
        """What is believed of a peer: alive, suspect, gone; None when it was never heard."""
        return self._sources.liveness(peer)

    def _is_alive(self, peer: PeerId) -> bool | None:
        state = self._sources.liveness(peer)
        return None if state is None else state == "alive"

    def used_per_day(self) -> dict[str, int]:
        """Documents and how often they are asked for, all nodes together, as far as they report it."""
        own = dict(self.usage.top(USAGE_MAX, self.now()))
        return total([own, *(dict(report.usage) for report in self.reports.values())])

    def hear(self, peer: PeerId, report: Report) -> None:
        """A node of our organisation says how it is."""
        self.reports.pop(peer, None)
        self.reports[peer] = report
        while len(self.reports) > REPORTS_MAX:
            self.reports.popitem(last=False)

    def _note_full(self) -> None:
        if not self.is_full(self.own):
            log.warning("no room for more replicas: others are to hold them")
        self._full_until = self._env.monotonic() + FULL_S

    async def has_room(self, size: int = 0) -> bool:
        """Whether a replica of so many bytes could be taken now."""
        if self._env.monotonic() < self._full_until:
            return False
        try:
            await self._env.blocking(self._store.check_room, size)
        except StorageFullError:
            self._note_full()
            return False
        return True

    async def hold(self, organization: str, cids: Sequence[Cid], *, asker: PeerId | None = None) -> tuple[int, bool]:
        """A coordinator asks us to hold chunks: how many will be, and whether there is room.

        Only of chunks that it may hold as we may: nobody is asked on behalf of documents that are none of its business.
        """
        if not self.view.is_candidate(self.own) or not await self.has_room():
            return 0, False
        now = self.now()
        both = {self.own, asker or self.own}
        cids = await self._env.blocking(self._may_hold, organization, cids, both)
        await self._env.blocking(self._find_lost, cids, now)
        taken = await self._env.blocking(self.inventory.ask_to_hold, organization, cids, now)
        self._metrics.replication_events.add(taken, "asked_to_hold")
        self.pulling.wake()
        return taken, True

    def _may_hold(self, organization: str, cids: Sequence[Cid], nodes: Collection[PeerId]) -> list[Cid]:
        """Chunks that all of these nodes may hold for a document of an organisation."""
        items = [item for item in map(self.inventory.find, dict.fromkeys(cids)) if item is not None]
        demands = self.inventory.demands([item.id for item in items])

        def may(item: Item, demand: Demand) -> bool:
            they_may = all(self.view.may_hold(peer, demand.organization, demand.topology) for peer in nodes)
            return demand.organization == organization and they_may

        return [item.cid for item in items if any(may(item, demand) for demand in demands[item.id])]

    def _find_lost(self, cids: Sequence[Cid], now: float) -> None:
        """Of chunks that we are asked for, those that the inventory has here and the store has not."""
        durable = self._store.durable(cids)
        self.inventory.lost([cid for cid in cids if cid not in durable], now)

    def keeps(self, cids: Sequence[Cid]) -> list[bool]:
        """Which chunks this node means to hold. Blocking."""
        found = map(self.inventory.find, cids)
        return [item is not None and ((item.mine > 0 and item.have > 0) or item.have == 2) for item in found]

    # --- jobs, each one bounded round ---

    def changed(self, doc_ids: Collection[str] | None = None) -> None:
        """Facts that change what belongs where have come: look soon, at some documents alone, or at all and nodes."""
        if doc_ids is None or self._stale is None or len(self._stale) + len(doc_ids) > STALE_MAX:
            self._stale = None
        else:
            self._stale.update(doc_ids)
        self._is_stale.set()

    async def reconcile(self) -> None:
        """Compare all of the inventory with the log, then read and place what is new."""
        self.changed()
        await self._reconcile_stale()

    async def look_at(self, doc_ids: Collection[str]) -> None:
        """Compare some documents with the log now, read and place their chunks: other documents go on waiting.

        Where all are to be looked at, as nodes have changed, they are.
        """
        if self._stale is None:
            await self._reconcile_stale()
            return
        async with self._comparing:
            await self._env.blocking(self._reconcile, doc_ids)
        await self.reading.round(doc_ids)
        await self._env.blocking(self._place_all)
        self.pulling.wake()
        self.coordinating.wake()

    async def reconcile_soon(self) -> None:
        """Whenever facts have changed, compare what they are about; for as long as the task lives."""
        while True:
            try:
                async with asyncio.timeout(UNREAD_S):
                    await self._is_stale.wait()
            except TimeoutError:
                if not await self._env.blocking(self.inventory.unread_count):
                    continue
            await asyncio.sleep(GATHER_S)  # facts come in bunches
            await self._reconcile_stale()

    async def _reconcile_stale(self) -> None:
        async with self._comparing:
            self._is_stale.clear()
            stale, self._stale = self._stale, set()
            try:
                await self._env.blocking(self._reconcile, stale)
            except BaseException:
                self._stale = None
                raise
        while await self.reading.round():
            await self._env.blocking(self._place_all)
        await self._env.blocking(self._place_all)
        self.pulling.wake()
        self.coordinating.wake()

    def _reconcile(self, doc_ids: Collection[str] | None) -> None:
        now = self.now()
        if doc_ids is not None:
            doc_ids = sorted(doc_ids)  # a set of texts has another order in each process, and a simulated run repeats
        if doc_ids is None:
            if self.view.set_nodes(self._sources.nodes()):
                log.info("%d nodes to place on", sum(node.state == "active" for node in self.view.nodes.values()))
            self.inventory.use(self.view.digest)
            seen = self.inventory.begin_round()
        else:
            seen = self.inventory.same_round()
        page: list[Wanted] = []
        found: set[tuple[str, str]] = set()
        for wanted in self._sources.documents(doc_ids):
            page.append(wanted)
            found.add((wanted.organization, wanted.doc_id))
            if len(page) >= PAGE_MAX:
                self.inventory.see(page, seen, now)
                page.clear()
        self.inventory.see(page, seen, now)
        missed = self.inventory.unseen(seen) if doc_ids is None else []
        for doc_id in doc_ids or ():
            organizations = self.inventory.organizations_of(doc_id)
            missed += [(each, doc_id) for each in organizations if (each, doc_id) not in found]
        vanished = 0
        for organization, doc_id in missed:
            # One that was renamed while the names were gone through was not seen, and is there.
            again = [each for each in self._sources.documents([doc_id]) if each.organization == organization]
            if again:
                self.inventory.see(again, seen, now)
                continue
            is_told = self._sources.is_gone(organization, doc_id)
            vanished += not is_told
            self.inventory.forget(organization, doc_id, now, is_told=is_told)
        if vanished:
            log.warning("%d documents are known no more, and nothing says that they went: kept for a while", vanished)

    def _place_all(self) -> None:
        while self.reading.place_page():
            pass

    async def watch(self) -> None:
        """Look who is there; what changes for the chunks of those who went or came back is due at once."""
        now = self.now()
        gone, back = self.view.observe(self._is_alive, now)
        for peer in gone:
            log.warning("%s is taken for lost until it comes back: others hold its chunks", peer)
        for peer in back:
            log.info("%s is back", peer)
        if gone or back:
            await self._env.blocking(self._hasten, sorted(gone | back), now)
            self.coordinating.wake()

    def _hasten(self, peers: Iterable[PeerId], now: float) -> None:
        for peer in peers:
            self.inventory.hasten(peer, now)

    def lack(self, peer: PeerId) -> None:
        """A peer wants proof of what is not here: it may know of documents that gossip did not bring us.

        NEWS_MAX times in NEWS_S for each.
        """
        now = self.now()
        if now - self._news_counted_at >= NEWS_S:
            self._asked_for_news.clear()
            self._news_counted_at = now
        self._asked_for_news[peer] += 1
        if self._asked_for_news[peer] <= NEWS_MAX and self.view.is_there(peer):
            self.ask_for_news(peer)

    def note_lost(self, cid: Cid, found_by: str) -> None:
        """Rot was found, or a file is gone: if it is ours, it is wanted again. Called in threads."""
        with suppress(RageError):  # a full disk: the next check finds it
            self.inventory.lost([cid], self.now())

    async def obtain(self, cid: Cid) -> bytes | None:
        """A chunk of the inventory from whoever holds it, kept as cache; None where it is none, or nobody has it."""
        item = await self._env.blocking(self.inventory.find, cid)
        return await self.reading.obtain(item) if item is not None else None

    async def drop(self) -> None:
        """Let copies too many go, a few batches."""
        for _ in range(DROPS_MAX):
            if not await self.dropping.round():
                break

    async def describe(self) -> Report:
        """What this node tells its organisation of itself."""
        has_room = await self.has_room()
        room = await self._env.blocking(self._store.room)
        await self._env.blocking(self.inventory.save_clock, self.now())
        self.short = await self._env.blocking(self.inventory.short, self.own)
        waiting, _ = await self._env.blocking(self.inventory.backlog)
        self._metrics.replica_chunks.replace({("waiting",): waiting, ("short",): self.short})
        return Report(room, not has_room, self.policies.digest, tuple(self.usage.top(USAGE_MAX, self.now())))

    async def check(self) -> None:
        """Compare the inventory with the store: what is held and not noted, noted and not there."""
        await self._env.blocking(self._check)
        self.pulling.wake()

    def _check(self) -> None:
        after, lost = 0, 0
        while page := self.inventory.held(after):
            durable = self._store.durable(cid for _, cid in page)
            gone = [cid for _, cid in page if cid not in durable]
            lost += self.inventory.lost(gone, self.now()) if gone else 0
            after = page[-1][0]
        found: list[Cid] = []
        for cid in replicas.walk(self._store):
            found.append(cid)
            if len(found) >= PAGE_MAX:
                self.inventory.noted(self._store.durable(found), self.now())
                found.clear()
        self.inventory.noted(self._store.durable(found), self.now())
        if lost:
            log.warning("%d chunks that this node should hold are not here, and are fetched again", lost)

    async def settle(self, done: Callable[[], Awaitable[bool]], within_s: float) -> bool:
        """Wait until `done`, looking often; False when the time ran out, be it amid a look."""
        pause = LOOK_S_MIN
        try:
            async with asyncio.timeout(max(0.0, within_s)) as limit:
                while not await done():
                    await asyncio.sleep(pause)
                    pause = min(LOOK_S_MAX, pause * 1.5)
        except TimeoutError:
            if not limit.expired():
                raise
            return False
        return True
