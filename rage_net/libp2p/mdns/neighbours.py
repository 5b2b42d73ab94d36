"""Who has been heard on the links, and when that is worth a word. A rule: time comes in, nothing goes out.

One link may be flooded with names, or an address changed a thousand times: what is remembered has a bound, each source
a share of it, and each second a bound on what is told. Not remembered: what was not told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

NEIGHBOURS_MAX = 256
"""Peers remembered, on all links: a few hundred KiB. One more, and the source with the most loses its oldest."""
TOLD_S_MAX = 32
"""Peers told of in one second; the others are told when they answer again."""
TOLD_SOURCE_S_MAX = 16
"""Of these, on the word of one IP address."""
AGAIN_S_MIN = 1.0
"""One peer is told of at most so often, however its addresses change."""
TTL_S_MAX = 4500
"""Nobody is remembered longer without a new answer (RFC 6762, 10)."""


@dataclass(slots=True)
class _Neighbour:
    said: Hashable
    source: str
    told_at: float
    gone_at: float


class Neighbours:
    """Peers by (peer, link); `repeat_s` after it was told of, a peer that still answers is told of again."""

    def __init__(self, repeat_s: float) -> None:
        self._repeat_s = repeat_s
        self._known: dict[Hashable, _Neighbour] = {}  # the longest unheard first
        self._second = 0
        self._told: Counter[str] = Counter()  # in this second, by source

    def __len__(self) -> int:
        return len(self._known)

    def hear(self, who: Hashable, said: Hashable, source: str, ttl_s: float, now: float) -> bool:
        """Whether to tell: `who` is new, says something new, or was told of long ago."""
        old = self._known.get(who)
        if old is not None and old.gone_at <= now:
            del self._known[who]
            old = None
        gone_at = now + min(ttl_s, TTL_S_MAX)
        if old is not None and now - old.told_at < (self._repeat_s if said == old.said else AGAIN_S_MIN):
            del self._known[who]
            self._known[who] = _Neighbour(old.said, old.source, old.told_at, gone_at)
            return False
        if not self._may_tell(source, now):
            return False
        if old is not None:
            del self._known[who]
        elif len(self._known) >= NEIGHBOURS_MAX:
            self._make_room(now)
        self._known[who] = _Neighbour(said, source, now, gone_at)
        return True

    def forget(self, who: Hashable) -> None:
        """It said goodbye; should it come back, it is told of at once."""
        self._known.pop(who, None)

    def _may_tell(self, source: str, now: float) -> bool:
        if int(now) != self._second:
            self._second = int(now)
            self._told.clear()
        if self._told.total() >= TOLD_S_MAX or self._told[source] >= TOLD_SOURCE_S_MAX:
            return False
        self._told[source] += 1
        return True

    def _make_room(self, now: float) -> None:
        for who, neighbour in self._known.items():
            if neighbour.gone_at <= now:
                del self._known[who]
                return
        greediest = Counter(neighbour.source for neighbour in self._known.values()).most_common(1)[0][0]
        del self._known[next(who for who, neighbour in self._known.items() if neighbour.source == greediest)]
