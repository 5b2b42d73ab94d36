"""One node's share of replication: what it fetches, audits, asks others to hold, and drops.

    view          who may hold what, and who is there
    reading       documents of the log -> chunks, and where they belong
    pulling       what is ours and not here is fetched, the riskiest first
    coordinating  chunks that are our business: holders prove, stand-ins are asked
    dropping      copies too many go, once others have proved theirs
    prover        claims and proofs, whatever is here

`Replicating` composes them; each job is one bounded round. Every node does this by itself, from the same log: nobody is
in charge. Not here: the rules (replication), the wire (auditing, exchange). Source: design D5; issue 5, B to E.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rage_net.chunk.store import ChunkStore
from rage_net.cid import Cid
from rage_net.env import Env
from rage_net.errors import StorageFullError
from rage_net.libp2p.peer_id import PeerId
from rage_net.metrics import Metrics
from rage_net.replication.inventory import Inventory, Wanted
from rage_net.services.auditing import Auditing
from rage_net.services.replicating.coordinating import Coordinating
from rage_net.services.replicating.dropping import Dropping
from rage_net.services.replicating.prover import Fetch, Have, Prover
from rage_net.services.replicating.pulling import Pulling
from rage_net.services.replicating.reading import Reading
from rage_net.services.replicating.view import Node, View

log = logging.getLogger("rage.replication")

T = TypeVar("T")

REPORT_EVERY_S = 30.0
REPORTS_MAX = 4096
FULL_S = 30.0
"""After a disk was found full, room is looked for again."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a node last said of itself."""

    free_bytes: int
    is_full: bool
    policies: bytes
    usage: tuple[tuple[str, int], ...] = ()
    """Document and uses a day."""
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the facts come from. Blocking, but for `is_alive`.

    nodes: those that placement may name. documents: those to be replicated, with their policies. is_alive: whether a
    peer lives; None when it was never heard.
    """

    nodes: Callable[[], Sequence[Node]]
    documents: Callable[[], Iterator[Wanted]]
    is_alive: Callable[[PeerId], bool | None]


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
        policies_digest: bytes,
    ) -> None:
        self.own = own
        self.view = view
        self.inventory = inventory
        self.auditing = auditing
        self.policies_digest = policies_digest
        self.reports: OrderedDict[PeerId, Report] = OrderedDict()
        self.prover = Prover(store, env, own, auditing, have, fetch)
        self._store = store
        self._env = env
        self._metrics = metrics
        self._sources = sources
        self._full_until = 0.0
        self._is_stale = asyncio.Event()
        self.reading = Reading(store, inventory, env, view, fetch)
        self.pulling = Pulling(store, inventory, env, metrics, view, have=have, fetch=fetch, on_full=self._note_full)
        self.coordinating = Coordinating(
            inventory, env, metrics, view, self.prover, auditing, is_full=self.is_full, period_s=audit_period_s
        )
        self.dropping = Dropping(store, inventory, env, metrics, view, self.prover)

    # --- what is known of nodes ---

    def is_full(self, peer: PeerId) -> bool:
        """Whether a node takes no replica now."""
        if peer == self.own:
            return self._env.monotonic() < self._full_until
        report = self.reports.get(peer)
        return report is not None and report.is_full

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

    async def hold(self, organization: str, cids: Sequence[Cid]) -> tuple[int, bool]:
        """A coordinator asks us to hold chunks: how many will be, and whether there is room."""
        if not self.view.is_candidate(self.own) or not await self.has_room():
            return 0, False
        now = self._env.monotonic()
        taken = await self._env.blocking(self.inventory.ask_to_hold, organization, cids, now)
        self._metrics.replication_events.add(taken, "asked_to_hold")
        self.pulling.wake()
        return taken, True

    def keeps(self, cids: Sequence[Cid]) -> list[bool]:
        """Which chunks this node means to hold. Blocking."""
        found = map(self.inventory.find, cids)
        return [item is not None and ((item.mine > 0 and item.have > 0) or item.have == 2) for item in found]

    # --- jobs, each one bounded round ---

    def changed(self) -> None:
        """Facts have come that may change what belongs where: look soon."""
        self._is_stale.set()

    async def reconcile(self) -> None:
        """Compare the inventory with the log, then read and place what is new."""
        self._is_stale.clear()
        await self._env.blocking(self._reconcile)
        await self.reading.round()
        await self._env.blocking(self._place_all)
        self.pulling.wake()
        self.coordinating.wake()

    async def reconcile_soon(self) -> None:
        """As `reconcile`, whenever facts have changed, for as long as the task lives."""
        while True:
            await self._is_stale.wait()
            await asyncio.sleep(GATHER_S)  # facts come in bunches
            await self.reconcile()

    def _reconcile(self) -> None:
        now = self._env.monotonic()
        if self.view.set_nodes(self._sources.nodes()):
            log.info("%d nodes to place on", sum(node.state == "active" for node in self.view.nodes.values()))
        self.inventory.use(self.view.digest)
        seen = self.inventory.begin_round()
        page: list[Wanted] = []
        for wanted in self._sources.documents():
            page.append(wanted)
            if len(page) >= PAGE_MAX:
                self.inventory.see(page, seen, now)
                page.clear()
        self.inventory.see(page, seen, now)
        self.inventory.forget(seen, now)

    def _place_all(self) -> None:
        while self.reading.place_page():
            pass

    async def watch(self) -> None:
        """Look who is there; what changes for the chunks of those who went or came back is due at once."""
        now = self._env.monotonic()
        gone, back = self.view.observe(self._sources.is_alive, now)
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

    async def heal(self, cids: Sequence[Cid]) -> int:
        """Rot was found, or files are gone: what is ours of them is fetched again. Returns: how many are ours."""
        count = await self._env.blocking(self.inventory.lost, cids, self._env.monotonic())
        if count:
            self.pulling.wake()
        return count

    async def settle(self, done: Callable[[], Awaitable[bool]], within_s: float) -> bool:
        """Wait until `done`, looking often; False when the time ran out."""
        ends = self._env.monotonic() + within_s
        pause = LOOK_S_MIN
        while not await done():
            left = ends - self._env.monotonic()
            if left <= 0:
                return False
            await asyncio.sleep(min(pause, left))
            pause = min(LOOK_S_MAX, pause * 1.5)
        return True


PAGE_MAX = 500
GATHER_S = 0.1
LOOK_S_MIN, LOOK_S_MAX = 0.1, 2.0
