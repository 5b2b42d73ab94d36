"""The scrub: read the whole store again and again, each pass over weeks, so that rot is found while others have copies.

A pass is drawn to take 5/6 to 7/6 of the period, so that the nodes of a cluster do not read in step. It goes by CID, a
slice at a time, as many bytes as its share of the time says; a node that was off catches up, at rest for most of the
time. How far it is lies in the index, unsynced: what a crash takes back is read twice. What is rotten the store puts
into quarantine, and tells (`ChunkStore.on_lost`). Blocking code: one slice is short.

Not here: when slices are taken (upkeep), what becomes of what was lost (services.healing), `chunk verify`.
Source: issue 5, section F; peers.md 1b.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from random import Random

from rage_net.chunk.store import ChunkStore
from rage_net.cid import Cid
from rage_net.errors import IntegrityError, NotFoundError, StorageFullError, UnavailableError

SHORTEST, LONGEST = 5 / 6, 7 / 6
"""A pass takes this share of the period: 25 to 35 days of 30."""
SLICE_BYTES_MIN = 1 << 20
"""Less than that is not begun before the pass's end: a small store wakes no disk for a page at a time."""
SLICE_BYTES_MAX = 32 << 20
SLICE_S_MAX = 0.2
"""For so long one slice keeps a worker thread from others."""
SLICE_CHUNKS_MAX = 4096
"""Where all are tiny: a slice is one look at the index."""
REST = 4.0
"""Times as long as a slice took, the next waits: a node that catches up gives the scrub a fifth of one thread."""
UNREADABLE_MAX = 8
"""Chunks in a row that the disk does not give; then it is the disk, not the chunks, and the slice ends."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pass:
    """How far reading everything has come: the one row of `scrub`."""

    began_at: float
    """Wall clock, like `ended_at`: a pass goes on over restarts."""
    length_s: float
    after: bytes = b""
    """The last chunk that was read."""
    chunks: int = 0
    size: int = 0
    """Plain bytes read."""
    bad: int = 0
    is_done: bool = False
    """All was read; the next pass begins when this one's time is over."""
    ended_at: float | None = None
    """When a pass last had read all."""

    @property
    def due_at(self) -> float:
        """When all should be read, and the next pass may begin."""
        return self.began_at + self.length_s


@dataclass(frozen=True, slots=True)
class Slice:
    """What one slice read, in plain bytes, and how long to rest before the next; None when nothing more is due now."""

    chunks: int
    size: int
    bad: int
    rest_s: float | None


NOTHING = Slice(0, 0, 0, None)


def draw(period_s: float, now: float, random: Random, ended_at: float | None = None) -> Pass:
    """A new pass."""
    return Pass(now, period_s * random.uniform(SHORTEST, LONGEST), ended_at=ended_at)


def due(state: Pass, total: int, now: float) -> int:
    """Plain bytes to read now, of a store of `total`: what is behind, if that is worth a slice; all at the end."""
    is_end = now >= state.due_at
    share = 1.0 if is_end else (now - state.began_at) / state.length_s
    behind = round(share * total) - state.size
    return max(behind, SLICE_BYTES_MIN) if is_end or behind >= SLICE_BYTES_MIN else 0


class Scrub:
    """The scrub of one store. `slice` is called by one thread at a time, the rest by any."""

    def __init__(self, store: ChunkStore, period_s: float) -> None:
        if period_s <= 0:
            raise ValueError("a period is above 0 seconds")
        self._store = store
        self._period_s = period_s
        self._state: Pass | None = None
        self._unreadable = 0  # in a row, over slices
        self._lock = threading.Lock()

    def slice(self, cancelled: Callable[[], bool] = lambda: False) -> Slice:
        """Read a slice of what is due: up to SLICE_BYTES_MAX, or for SLICE_S_MAX. `cancelled` is asked at each chunk.

        A chunk that is bad is quarantined and told of, and ends nothing. Raises RageError when the index fails.
        """
        with self._lock:
            return self._slice(cancelled)

    def _slice(self, cancelled: Callable[[], bool]) -> Slice:
        store, now = self._store, self._store.env.now()
        state = self._begin(now)
        if state.is_done:
            return NOTHING
        wanted = due(state, store.totals().size, now)
        if not wanted:
            return NOTHING
        started = store.env.monotonic()
        wanted = min(wanted, SLICE_BYTES_MAX)
        chunks = size = bad = 0
        after, is_end = state.after, False
        page = store.list(Cid.from_bytes(after) if after else None, SLICE_CHUNKS_MAX)
        for stat in page:
            is_long = chunks and (size >= wanted or store.env.monotonic() - started >= SLICE_S_MAX)
            if is_long or cancelled():
                break
            try:
                store.get(stat.cid, found_by="scrub", at_rest=True)
                self._unreadable = 0
            except NotFoundError as error:
                bad += error.id == "chunk-missing"  # else it was deleted since the page was read
            except IntegrityError:
                bad += 1
            except UnavailableError as error:
                self._unreadable += 1
                if self._unreadable >= UNREADABLE_MAX or store.bodies.problem:  # all of it is out of reach: no rot
                    log.warning("the scrub pauses: %s", error)
                    break
                bad += 1
                store.tell_lost(stat.cid, "scrub")
            after = bytes(stat.cid)
            chunks += 1
            size += stat.size
        else:
            is_end = len(page) < SLICE_CHUNKS_MAX
        state = replace(
            state,
            after=after,
            chunks=state.chunks + chunks,
            size=state.size + size,
            bad=state.bad + bad,
            is_done=is_end,
            ended_at=now if is_end else state.ended_at,
        )
        self._keep(state)
        if is_end:
            log.info("the scrub has read all %d chunks: %d bad", state.chunks, state.bad)
        rest_s = REST * (store.env.monotonic() - started)
        return Slice(chunks, size, bad, None if is_end or self._unreadable >= UNREADABLE_MAX else rest_s)

    def _begin(self, now: float) -> Pass:
        """The pass that is on: as it was left, moved where the clock went back behind its beginning, or a new one."""
        state = self._state or load(self._store)
        random, longest = self._store.env.random, self._period_s * LONGEST
        if state is None:
            state = draw(self._period_s, now, random)
            self._keep(state)
        elif state.is_done and now >= state.due_at:
            state = draw(self._period_s, now, random, state.ended_at)
            self._keep(state)
        elif state.began_at > now or state.length_s > longest:
            total = max(1, self._store.totals().size)
            length_s = min(state.length_s, longest)
            state = replace(state, began_at=now - min(1.0, state.size / total) * length_s, length_s=length_s)
            self._keep(state)
        self._state = state
        return state

    def _keep(self, state: Pass) -> None:
        """A memory aid: on a full disk it is kept in this process alone."""
        self._state = state
        with suppress(StorageFullError), self._store.index.write(durable=False) as db:
            db.execute("DELETE FROM scrub")
            db.execute("INSERT INTO scrub VALUES (?, ?, ?, ?, ?, ?, ?, ?)", astuple(state))


def load(store: ChunkStore) -> Pass | None:
    """How far the scrub of a store is; None where none was ever begun."""
    with store.index.read() as db:
        row = db.execute("SELECT began_at, length_s, after, chunks, size, bad, is_done, ended_at FROM scrub").fetchone()
    if row is None:
        return None
    began_at, length_s, after, chunks, size, bad, is_done, ended_at = row
    return Pass(began_at, length_s, after, chunks, size, bad, bool(is_done), ended_at)
