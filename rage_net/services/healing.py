"""Healing: what is held here and is missing, rotten or unreadable comes back from a peer.

What is lost is learnt in two ways: the store tells of each chunk that it met rotten (`note`), and a survey of the holds
finds what is absent, at the start and once in a while. Each is fetched, enters by the store's gate, and is made
durable, as somebody counts on it. What nobody has is asked for more and more rarely.

Not here: how a chunk is fetched (the caller's `fetch`: retrieval, replication), finding rot (chunk.scrub), which chunks
belong here (replication). Source: issue 5, section F.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rage_net.chunk import replicas
from rage_net.chunk.store import ChunkStore
from rage_net.cid import Cid
from rage_net.env import Env
from rage_net.errors import IntegrityError, NotFoundError, RageError, StorageFullError, UnavailableError

if TYPE_CHECKING:
    from rage_net.metrics import Metrics

WAITING_MAX = 10_000
"""Chunks known to be lost. More are found by the next survey."""
DROPPED_AFTER = 5
"""Where so many wait, those that failed so often make way for others: they must not keep these out for ever."""
SURVEY_EVERY_S = 3600.0
SURVEY_PAGE = 1000
"""Absent chunks that one look takes up."""
AT_ONCE = 4
"""Chunks fetched beside each other: 16 MiB at the most, and what a foreground read does not notice."""
FETCH_S_MAX = 60.0
"""For one chunk, a look in the DHT with it."""
FIRST_REST_S, LAST_REST_S = 30.0, 6 * 3600.0
"""After a chunk's first attempt that failed, and at the most; doubled each time, and jittered by half."""
FULL_REST_S = 60.0
"""After the disk had no room, for all of them."""
ATTEMPTS_AN_HOUR = 20_000
"""Beyond, a disk is replaced rather than healed; replication has a faster way."""
FAILURE_COST = 20
"""An attempt that failed counts as so many: what nobody has costs peers and the DHT no more than 1000 questions an
hour."""

State = Literal["fine", "absent", "unreadable"]

log = logging.getLogger("rage.healing")


@dataclass(slots=True)
class _Lost:
    """A chunk that is to be fetched, not before `due_at` on the monotonic clock."""

    due_at: float
    attempts: int = 0


class Healing:
    """Brings back what one store has lost. `note` may be called from any thread, `round` by one task at a time."""

    def __init__(self, store: ChunkStore, env: Env, metrics: Metrics, fetch: Callable[[Cid], Awaitable[bytes]]) -> None:
        """Heal `store`.

        Args: fetch: gives a chunk's plain bytes from anywhere but here, verified; it may store it as well, as cache or
            for good. Raises RageError when nobody has it.
        """
        self._store = store
        self._env = env
        self._metrics = metrics
        self._fetch = fetch
        self._lost: dict[Cid, _Lost] = {}
        self._lock = threading.Lock()
        self._survey_at = env.monotonic()
        self._surveyed: Cid | None = None
        self._rest_until = 0.0
        self._credit, self._credit_at = float(ATTEMPTS_AN_HOUR), env.monotonic()

    def __len__(self) -> int:
        """How many chunks are known to be lost."""
        with self._lock:
            return len(self._lost)

    def note(self, cid: Cid, found_by: str = "") -> bool:
        """A chunk may be lost: fetch it soon, if something holds it. False when too many wait already.

        Fits `ChunkStore.on_lost`.
        """
        with self._lock:
            if cid in self._lost:
                return True
            if len(self._lost) >= WAITING_MAX:
                return False
            self._lost[cid] = _Lost(self._env.monotonic())
            return True

    async def round(self) -> None:
        """Look for what is missing, where that is due, and try all that is; what fails rests."""
        await self._survey()
        while (now := self._env.monotonic()) >= self._rest_until and (cids := self._due(now)):
            async with asyncio.TaskGroup() as tasks:
                for cid in cids:
                    tasks.create_task(self._try(cid))
        self._metrics.healing_waiting.set(len(self))

    async def _survey(self) -> None:
        """Take up a page of what the holds say is missing. The next one follows at the next round, until the end."""
        if self._env.monotonic() < self._survey_at:
            return
        self._make_way()
        page = await self._env.blocking(replicas.missing, self._store, self._surveyed, SURVEY_PAGE)
        took = list(itertools.takewhile(self.note, page))
        if took:
            self._surveyed = took[-1]
        if len(took) == SURVEY_PAGE:
            return
        if len(took) == len(page):
            self._surveyed = None
        self._survey_at = self._env.monotonic() + SURVEY_EVERY_S * self._env.random.uniform(0.5, 1.5)

    def _make_way(self) -> None:
        with self._lock:
            if len(self._lost) >= WAITING_MAX:
                self._lost = {cid: lost for cid, lost in self._lost.items() if lost.attempts < DROPPED_AFTER}

    def _due(self, now: float) -> list[Cid]:
        """Up to AT_ONCE chunks whose turn it is and that the hour's attempts allow."""
        self._credit = min(ATTEMPTS_AN_HOUR, self._credit + (now - self._credit_at) * ATTEMPTS_AN_HOUR / 3600)
        self._credit_at = now
        due: list[Cid] = []
        with self._lock:
            for cid, lost in self._lost.items():
                if len(due) >= AT_ONCE or self._credit < 1:
                    break
                if lost.due_at <= now:
                    due.append(cid)
                    self._credit -= 1
        return due

    async def _try(self, cid: Cid) -> None:
        """One attempt; whatever comes of it, the chunk is off the list or rests."""
        try:
            async with asyncio.timeout(FETCH_S_MAX):
                is_healed = await self._heal(cid)
        except StorageFullError as error:
            self._rest_until = self._env.monotonic() + FULL_REST_S
            self._fail(cid, "full", error)
        except TimeoutError:
            self._fail(cid, "failed", UnavailableError(f"not there within {FETCH_S_MAX:.0f} s"))
        except RageError as error:
            self._fail(cid, "failed", error)
        except Exception as error:  # a bug must not end the others, nor be met again at once
            log.exception("healing of %s failed", cid)
            self._fail(cid, "failed", error)
        else:
            with self._lock:
                self._lost.pop(cid, None)
            if is_healed:
                self._metrics.healing.add(1, "healed")
                log.info("chunk %s is whole again, from a peer", cid)

    async def _heal(self, cid: Cid) -> bool:
        """Bring it back; False when there was nothing to do."""
        state = await self._env.blocking(self._look, cid)
        if state == "fine":
            return False
        await self._env.blocking(self._require_room)
        data = await self._fetch(cid)
        await self._env.blocking(self._keep, cid, data, state)
        return True

    def _look(self, cid: Cid) -> State:
        """How the chunk is. Rot goes into quarantine by being read; a full disk keeps it, and that is an error."""
        store = self._store
        if not replicas.is_wanted(store, cid):
            return "fine"
        try:
            store.promote([cid])  # a download may have brought it as cache meanwhile
            store.get(cid)
        except NotFoundError:
            return "absent"
        except IntegrityError:
            if store.has(cid):
                raise StorageFullError(f"{cid} is rotten, and the disk has no room to take it away") from None
            return "absent"
        except UnavailableError:
            return "unreadable"
        return "fine"

    def _require_room(self) -> None:
        """Nothing is fetched that could not be kept."""
        self._store.check_room(1)

    def _keep(self, cid: Cid, data: bytes, state: State) -> None:
        """Durable, if `fetch` has not made it so."""
        store = self._store
        if state == "unreadable":
            store.condemn(cid)
        with suppress(IntegrityError, NotFoundError):
            store.promote([cid])
        store.put(cid, data)  # does nothing where it is durable already

    def _fail(self, cid: Cid, outcome: str, error: Exception) -> None:
        self._metrics.healing.add(1, outcome)
        self._credit -= FAILURE_COST - 1
        with self._lock:
            lost = self._lost.get(cid)
            if lost is None:
                return
            lost.attempts += 1
            rest_s = min(LAST_REST_S, FIRST_REST_S * 2 ** min(lost.attempts - 1, 32))
            lost.due_at = self._env.monotonic() + rest_s * self._env.random.uniform(0.5, 1.5)
            is_first = lost.attempts == 1
        log.log(logging.WARNING if is_first else logging.DEBUG, "chunk %s is lost here for now: %s", cid, error)
