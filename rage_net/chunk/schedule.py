"""Which chunk to ask of which source, and when to ask a second one: the rules of a parallel, hedged download.

Sans-I/O: sources are any hashable names, chunks their CIDs, time comes in. The flow that drives it
(services/retrieval) starts the asks it is told to, and reports what became of each.

A chunk goes to the source that should finish it first (bytes in flight there, over its measured rate). One that has
taken far longer than its source usually needs is asked of a second source too; the first answer wins. Of a third and
more only while none of those asked has given anything yet: whoever names himself as a holder and is silent costs a
moment, however many he is. A source that lacks a chunk is not asked for it again; one that is busy rests for a while;
one that stalls twice, dies or sends wrong bytes is dropped for the rest of this download, and `reasons` keeps why.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from rage_net.cid import Cid

Outcome = Literal["missing", "busy", "slow", "dead", "wrong"]

IN_FLIGHT_MAX = 8
"""Asks at one source at a time: enough to keep a connection full while threads verify (measured, feasibility)."""
ASKS_PER_CHUNK_MAX = 2
ASKS_OF_SILENT_MAX = 8
"""The same while none of those asked has ever given a chunk."""
HEDGE_MORE_S = 1.5
"""The third source, and each further one, is asked so long after the one before it."""
HEDGE_FLOOR_S = 0.5
"""No second source is asked sooner: below this, jitter would double the traffic."""
HEDGE_CEILING_S = 5.0
HEDGE_FACTOR = 4.0
"""A second source is asked after this many times what the first should have needed."""
REST_FIRST_S = 0.05
REST_MAX_S = 2.0
STALLS_MAX = 2
TOLD_MAX = 4096
"""Answers kept for each source."""
RATE_FIRST_BYTES_S = 32e6
"""What a source is taken for until it has answered once: fast enough to be tried, slow enough to be outrun."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask `source` for the chunk `cid`."""

    cid: Cid
    source: Hashable


@dataclass(slots=True)
class _Source:
    rate_bytes_s: float = RATE_FIRST_BYTES_S
    bytes_in_flight: int = 0
    asks: int = 0
    stalls: int = 0
    rests: int = 0
    has_given: bool = False
    hedge_first_s: float | None = None
    """Until it has given something it is hedged so soon, and counts for nothing where asks are counted."""
    rest_until: float = 0.0
    has: dict[Cid, bool] = field(default_factory=dict)
    """What it said of chunks that have not arrived yet; a chunk that is absent may be asked for."""


@dataclass(slots=True)
class _Wanted:
    size: int
    asked: dict[Hashable, tuple[float, float]] = field(default_factory=dict)
    """Source -> (when it was asked, when a second one is)."""


class Schedule:
    """The state of one download. Chunks are served in the order in which they were wanted."""

    def __init__(self) -> None:
        self._sources: dict[Hashable, _Source] = {}
        self._wanted: OrderedDict[Cid, _Wanted] = OrderedDict()
        self.reasons: dict[Hashable, str] = {}

    def want(self, cid: Cid, size: int) -> None:
        """Add a chunk of `size` plain bytes (an estimate does)."""
        self._wanted[cid] = _Wanted(size)

    def add_source(self, source: Hashable, hedge_first_s: float | None = None) -> None:
        """A source that may hold anything until it says otherwise. One that was dropped stays dropped.

        hedge_first_s: another is asked after so long already, for as long as this one has given nothing.
        """
        if source not in self.reasons:
            self._sources.setdefault(source, _Source(hedge_first_s=hedge_first_s))

    def learn(self, source: Hashable, answers: Mapping[Cid, bool]) -> None:
        """What a source said it has, of chunks that are wanted or soon will be."""
        if (state := self._sources.get(source)) is not None:
            if len(state.has) + len(answers) > TOLD_MAX:  # answers that came too late to matter pile up
                state.has.clear()
            state.has.update(answers)

    def assign(self, now: float) -> list[Ask]:
        """Asks to start now: first those nobody was asked for, then second asks for what is overdue."""
        asks = [
            ask for cid, wanted in self._wanted.items() if not wanted.asked and (ask := self._pick(cid, wanted, now))
        ]
        for cid, wanted in self._wanted.items():
            hedge_at = self._hedge_at(wanted)
            if hedge_at is not None and hedge_at <= now and (ask := self._pick(cid, wanted, now)):
                asks.append(ask)
        return asks

    def _hedge_at(self, wanted: _Wanted) -> float | None:
        """When one more source may be asked for what was asked for already; None when never."""
        counted = {source: moments for source, moments in wanted.asked.items() if not self._is_on_trial(source)}
        if not counted:
            return max((hedge_at for _, hedge_at in wanted.asked.values()), default=None)
        if len(counted) < ASKS_PER_CHUNK_MAX:
            return min(hedge_at for _, hedge_at in counted.values())
        is_silent = not any(self._sources[source].has_given for source in counted if source in self._sources)
        if not is_silent or len(counted) >= ASKS_OF_SILENT_MAX:
            return None
        latest = max(asked_at for asked_at, _ in counted.values())
        return max(latest + HEDGE_MORE_S, *(hedge_at for _, hedge_at in counted.values()))

    def _is_on_trial(self, source: Hashable) -> bool:
        state = self._sources.get(source)
        return state is not None and state.hedge_first_s is not None and not state.has_given

    def arrived(self, ask: Ask, now: float) -> list[Ask]:
        """The chunk came, and was what it should be. Returns the other asks for it, now needless."""
        wanted = self._wanted.pop(ask.cid, None)
        if wanted is None:
            return []
        for told in self._sources.values():
            told.has.pop(ask.cid, None)
        others = []
        for source, (asked_at, _) in wanted.asked.items():
            state = self._release(source, wanted.size)
            if source != ask.source:
                others.append(Ask(ask.cid, source))
            elif state is not None:
                rate = wanted.size / max(now - asked_at, 1e-4) * max(1, state.asks + 1)
                state.rate_bytes_s += (rate - state.rate_bytes_s) * 0.25
                state.stalls = state.rests = 0
                state.has_given = True
        return others

    def failed(self, ask: Ask, outcome: Outcome, now: float, reason: str = "") -> None:
        """The source did not give the chunk; `reason` is kept for people when the source is dropped for it."""
        wanted = self._wanted.get(ask.cid)
        if wanted is not None and wanted.asked.pop(ask.source, None) is not None:
            self._release(ask.source, wanted.size)
        state = self._sources.get(ask.source)
        if state is None:
            return
        if outcome == "missing":
            state.has[ask.cid] = False
        elif outcome == "busy":
            state.rest_until = now + min(REST_MAX_S, REST_FIRST_S * 2**state.rests)
            state.rests += 1
        elif outcome == "slow":
            state.stalls += 1
            state.rate_bytes_s /= 4
            if state.stalls >= STALLS_MAX:
                self.drop(ask.source, reason or "too slow")
        else:
            self.drop(ask.source, reason or outcome)

    def drop(self, source: Hashable, reason: str) -> None:
        """Ask this source for nothing more. Asks in flight there are forgotten, so others can be asked at once."""
        if self._sources.pop(source, None) is None:
            return
        self.reasons[source] = reason
        for wanted in self._wanted.values():
            wanted.asked.pop(source, None)

    def forget(self, cid: Cid) -> None:
        """The chunk is wanted no more."""
        self._wanted.pop(cid, None)

    def is_wanting(self) -> bool:
        """Whether any chunk has yet to come."""
        return bool(self._wanted)

    def next_timeout(self, now: float) -> float | None:
        """When `assign` may have something new to say without anything arriving; None when that cannot be."""
        moments = [state.rest_until for state in self._sources.values() if state.rest_until > now]
        for wanted in self._wanted.values():
            if len(self._sources) > len(wanted.asked) and (hedge_at := self._hedge_at(wanted)) is not None:
                moments.append(hedge_at)
        moments = [moment for moment in moments if moment > now]
        return min(moments, default=None)

    def hopeless(self) -> list[Cid]:
        """Wanted chunks that no source is asked for and none is left to ask."""
        return [
            cid
            for cid, wanted in self._wanted.items()
            if not wanted.asked and all(state.has.get(cid) is False for state in self._sources.values())
        ]

    def _pick(self, cid: Cid, wanted: _Wanted, now: float) -> Ask | None:
        best: tuple[bool, float] | None = None
        chosen: Hashable = None
        for source, state in self._sources.items():
            has = state.has.get(cid)
            if has is False or source in wanted.asked:
                continue
            if state.asks >= IN_FLIGHT_MAX or state.rest_until > now:
                continue
            key = (has is None, (state.bytes_in_flight + wanted.size) / state.rate_bytes_s)
            if best is None or key < best:
                best, chosen = key, source
        if best is None:
            return None
        state = self._sources[chosen]
        state.asks += 1
        state.bytes_in_flight += wanted.size
        hedge_s = min(HEDGE_CEILING_S, max(HEDGE_FLOOR_S, HEDGE_FACTOR * best[1]))
        if state.hedge_first_s is not None and not state.has_given:
            hedge_s = min(hedge_s, state.hedge_first_s)
        wanted.asked[chosen] = (now, now + hedge_s)
        return Ask(cid, chosen)

    def _release(self, source: Hashable, size: int) -> _Source | None:
        state = self._sources.get(source)
        if state is not None:
            state.asks -= 1
            state.bytes_in_flight -= size
        return state
