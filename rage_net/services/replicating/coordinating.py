"""Chunks that are our business, as the first node of their home set that is there: have all copies been proved.

Each is looked at when it is due: its holders are asked for proof, and what they answered decides when it is due again.
Where a home holder is away, cannot prove, or takes nothing, the next in rank is asked to hold instead; it lets go by
itself once the home set has proved (dropping). One node coordinates a chunk, so copies are not made twice. While most
nodes are out of reach nobody is asked: it is more likely us. Source: issue 5, D and E; peers.md 12, 16, 17.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from rage_net.env import Env
from rage_net.errors import RageError
from rage_net.libp2p.errors import Libp2pError
from rage_net.libp2p.peer_id import PeerId
from rage_net.metrics import Metrics
from rage_net.replication.audit import CHALLENGES_MAX, Outcome
from rage_net.replication.inventory import Inventory, Item, Known
from rage_net.services.replicating.prover import Answers, Auditing, Prover
from rage_net.services.replicating.rounds import Rounds
from rage_net.services.replicating.view import View

log = logging.getLogger("rage.replication")

BATCH = 256
"""Chunks audited in one round."""
AGAIN_S_MIN, AGAIN_S_MAX = 1.0, 60.0
"""While a copy is not proved: doubles."""
SELDOM_AUDITS, SELDOM_S = 12, 600.0
"""While nobody at all proves it, after so many rounds: a manifest may name what never was, and others wait."""
ELSEWHERE_S = 30.0
"""A chunk that turned out to be another node's business is looked at again then."""
NOT_HERE_S = 2.0
"""We lack the bytes ourselves, and are fetching them."""
FAILED_S = 20.0
"""A home holder that has failed to prove for so long is replaced until it does."""
FRESH_S = 30.0
"""A proof is asked for again within a round of failing audits only after that."""
IDLE_S_MAX = 2.0
FOREVER_S = 365 * 86_400.0
WAITING_MAX = 1000
"""Chunks of one node that its lag is taken from."""
FORGET_S = 5 * AGAIN_S_MAX
"""A chunk that is waited for is looked at within AGAIN_S_MAX, unless it is our business no more."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a round found of one chunk."""

    item: Item
    acting: tuple[PeerId, ...]
    proved: frozenset[PeerId]
    waiting_since: float
    """Since when a copy is waited for; `now` when none is."""


class Coordinating:
    """Audits and mends. `now` is the inventory's clock."""

    def __init__(
        self,
        inventory: Inventory,
        env: Env,
        metrics: Metrics,
        view: View,
        prover: Prover,
        auditing: Auditing,
        *,
        is_full: Callable[[PeerId], bool],
        period_s: float,
        now: Callable[[], float],
    ) -> None:
        self.lag_since: dict[PeerId, float] = {}
        """Nodes that have not proved chunks they should hold: since when the oldest is waited for."""
        self._waiting: dict[PeerId, dict[int, tuple[float, float]]] = {}
        """Of each node the chunks that it has not proved: since when, and when that was looked at."""
        self._inventory = inventory
        self._env = env
        self._metrics = metrics
        self._view = view
        self._prover = prover
        self._auditing = auditing
        self._is_full = is_full
        self._period_s = period_s
        self._now = now
        self._rounds = Rounds(self.round, IDLE_S_MAX)
        self.wake, self.run = self._rounds.wake, self._rounds.run

    async def round(self) -> int:
        """Look at one batch of what is due. Returns: how many were."""
        view, now = self._view, self._now()
        firsts = [view.own, *view.unavailable]
        items = await self._env.blocking(self._inventory.due, firsts, now, BATCH)
        if not items:
            return 0
        ours = [item for item in items if view.coordinator(item) == view.own]
        later = [(item.id, now + ELSEWHERE_S, True) for item in items if view.coordinator(item) != view.own]
        # A coordinator that should hold a chunk and is fetching it judges once it has it.
        early = [item for item in ours if item.have == 0 and item.mine > 0 and item.tries < 4]
        later += [(item.id, now + NOT_HERE_S, True) for item in early]
        await self._env.blocking(self._inventory.audited, later)
        early_ids = {item.id for item in early}
        ours = [item for item in ours if item.id not in early_ids]
        if ours:
            await self.audit(ours)
        return len(items)

    async def audit(self, items: Sequence[Item]) -> list[Standing]:
        """Ask the holders of chunks for proof, note it, and ask others to hold what is missing."""
        known = await self._env.blocking(self._inventory.proofs, [item.id for item in items])
        now = self._now()
        asks: dict[PeerId, list[Item]] = {}
        for item in items:
            for peer in self._holders(item, known[item.id], now):
                asks.setdefault(peer, []).append(item)
        answers = await self._prover.prove({peer: [item.cid for item in some] for peer, some in asks.items()})
        await self._env.blocking(self._note, asks, answers)
        known = await self._env.blocking(self._inventory.proofs, [item.id for item in items])
        return await self._settle(items, known)

    def _holders(self, item: Item, known: Sequence[Known], now: float) -> list[PeerId]:
        """Whom to ask: the home set, and others that were asked to hold it, as far as they are there.

        While one copy is waited for, the others need not prove again and again.
        """
        named = dict.fromkeys([*item.home, *(each.peer for each in known)])
        fresh = {each.peer for each in known if each.outcome == "proved" and now - each.at < FRESH_S}
        return [peer for peer in named if self._view.is_there(peer) and not (item.audits and peer in fresh)]

    def _note(self, asks: dict[PeerId, list[Item]], answers: Answers) -> None:
        now = self._now()
        told: list[tuple[int, PeerId, Outcome]] = []
        for peer, items in asks.items():
            for item in items:
                answer = answers.get((peer, item.cid))
                if answer is None or answer.outcome == "unknown":
                    continue
                told.append((item.id, peer, answer.outcome))
                if answer.evidence is not None:
                    log.error("%s signed a wrong proof for %s: evidence is kept", peer, item.cid)
                    self._metrics.replication_events.add(1, "lied")
                    self._inventory.keep_evidence(peer, item.cid, *answer.evidence, now)
        self._inventory.note(told, now)

    async def _settle(self, items: Sequence[Item], known: dict[int, list[Known]]) -> list[Standing]:
        view, now = self._view, self._now()
        to_ask: dict[tuple[PeerId, str], list[Item]] = {}
        standings, due = [], []
        for item in items:
            told = {each.peer: each for each in known[item.id]}
            proved = frozenset(peer for peer, each in told.items() if each.outcome == "proved" and view.is_there(peer))
            excluded = self._excluded(item, told, proved, now)
            acting = view.acting(item, excluded)
            acting += self._ask_again(item, told, excluded, acting)
            missing = [peer for peer in acting if peer not in proved]
            owing = [peer for peer in item.home if peer not in proved and view.is_there(peer)]  # be it passed over
            since = {peer: max(item.since, told[peer].since if peer in told else 0.0) for peer in {*missing, *owing}}
            self._note_waiting(item, {peer: since[peer] for peer in owing}, now)
            for peer in missing:
                if peer not in item.home and not view.is_cut_off:
                    to_ask.setdefault((peer, item.organization), []).append(item)
            is_done = not missing and len(acting) >= min(item.copies, len(item.home))
            again_s = self._period() if is_done else min(AGAIN_S_MAX, AGAIN_S_MIN * 2 ** min(item.audits, 10))
            if not proved and item.audits >= SELDOM_AUDITS:
                again_s = SELDOM_S
            due.append((item.id, now + again_s, is_done))
            standings.append(Standing(item, tuple(acting), proved, min([since[peer] for peer in missing], default=now)))
        await self._env.blocking(self._inventory.audited, due)
        self._note_lag(now)
        await self._ask_to_hold(to_ask)
        return standings

    def _excluded(self, item: Item, told: dict[PeerId, Known], proved: Collection[PeerId], now: float) -> set[PeerId]:
        """Nodes that cannot be counted on for this chunk, though they are there."""
        found = set()
        for peer, each in told.items():
            if peer in proved:
                continue
            has_failed = each.outcome == "lied" or now - each.since >= FAILED_S
            if has_failed:
                found.add(peer)
        found |= {peer for peer in self._view.nodes if peer not in proved and self._is_full(peer)}
        return found

    def _ask_again(
        self, item: Item, told: dict[PeerId, Known], excluded: Collection[PeerId], acting: Sequence[PeerId]
    ) -> list[PeerId]:
        """Where too few are left, stand-ins that have failed before: by chance, so that each has its turn.

        One that was asked before its log or its disk was ready would else never be asked again.
        """
        short = min(item.copies, len(item.home)) - len(acting)
        if short <= 0:
            return []
        view = self._view
        topologies = [view.topology(demand.organization, demand.topology) for demand in item.demands]
        candidates = {each.peer_id for topology in topologies for each in topology.candidates}
        failed = [
            peer
            for peer in sorted(candidates.intersection(excluded))
            if peer not in item.home
            and view.is_there(peer)
            and not self._is_full(peer)
            and told[peer].outcome != "lied"
        ]
        return self._env.random.sample(failed, min(short, len(failed)))

    def _period(self) -> float:
        if not self._period_s:
            return FOREVER_S
        return self._period_s * self._env.random.uniform(0.75, 1.0)

    def _note_waiting(self, item: Item, owed: dict[PeerId, float], now: float) -> None:
        """Of one chunk, which of its home is waited for, and since when."""
        for peer, waiting in self._waiting.items():
            if peer not in owed:
                waiting.pop(item.id, None)
        for peer, at in owed.items():
            waiting = self._waiting.setdefault(peer, {})
            if item.id in waiting or len(waiting) < WAITING_MAX:
                waiting[item.id] = at, now

    def _note_lag(self, now: float) -> None:
        """What is waited for longest, of each node. What was not looked at again is owed no more: it went elsewhere."""
        self.lag_since.clear()
        for peer, waiting in list(self._waiting.items()):
            for chunk in [chunk for chunk, (_, seen) in waiting.items() if now - seen > FORGET_S]:
                del waiting[chunk]
            if waiting:
                self.lag_since[peer] = min(since for since, _ in waiting.values())
            else:
                del self._waiting[peer]
        own = str(self._view.own)
        self._metrics.replication_lag.replace(
            {
                (own, str(peer)): now - self.lag_since.get(peer, now)
                for peer in self._view.nodes
                if peer != self._view.own
            }
        )

    async def _ask_to_hold(self, to_ask: dict[tuple[PeerId, str], list[Item]]) -> None:
        for (peer, organization), items in to_ask.items():
            for at in range(0, len(items), CHALLENGES_MAX):
                page = items[at : at + CHALLENGES_MAX]
                try:
                    taken = await self._auditing.hold(peer, organization, [item.cid for item in page])
                except (RageError, Libp2pError) as error:
                    log.debug("%s will not hold %d chunks: %s", peer, len(page), error)
                    taken = 0
                counts = Counter({"hold_asked": len(page), "hold_taken": taken})
                for event, count in counts.items():
                    self._metrics.replication_events.add(count, event)
                # What it answered next time decides; it is among those that are asked from now on.
                told: list[tuple[int, PeerId, Outcome]] = [(item.id, peer, "absent") for item in page]
                await self._env.blocking(self._inventory.note, told, self._now())
