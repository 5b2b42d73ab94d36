"""How often something may happen, for each of many names: token buckets. Pure: the time comes in as `now`.

The number of names kept is bounded. When they run out, the one that has waited longest is forgotten: its bucket is full
or nearly so, and forgetting a full bucket changes nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable


class Rates:
    """A bucket for each name, full at first.

    Args: burst: so many at once. rate_s: so many a second after that. names_max: names kept.
    """

    def __init__(self, *, burst: float, rate_s: float, names_max: int) -> None:
        self._burst = burst
        self._rate_s = rate_s
        self._names_max = names_max
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # tokens, and when there were so many

    def take(self, name: Hashable, now: float, amount: float = 1.0) -> float:
        """Take `amount` for `name` at the monotonic time `now`; 0 when it was there, else seconds until it will be."""
        tokens, since = self._buckets.pop(name, (self._burst, now))
        tokens = min(self._burst, tokens + max(0.0, now - since) * self._rate_s)
        wait_s = 0.0 if tokens >= amount else (amount - tokens) / self._rate_s
        self._buckets[name] = (tokens - amount if not wait_s else tokens, now)
        if len(self._buckets) > self._names_max:
            self._buckets.popitem(last=False)
        return wait_s

    def __len__(self) -> int:
        return len(self._buckets)
