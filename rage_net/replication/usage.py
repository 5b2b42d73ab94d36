"""Usage: how often documents are asked for, decaying, and when that changes a policy.

A use counts less the longer it is ago, by half every 12 hours; what is left of all uses is told as a rate, uses a day,
so that a steady rate shows itself within two days. Every node counts its own, tells its 100 busiest in its heartbeats,
and the sum over nodes is what policies are held against.

A document comes under a policy with `query_count` only at twice the rate that it asks for, leaves it only at half, and
changes at most once a day: each change is a fact that every node takes and that moves copies. A policy that somebody
wrote into the record stays.

Pure: `now` comes in, seconds of any clock. One that goes back counts nothing twice; one that leaps lets rates fade.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from rage_net.replication.policy import Policies, Subject

if TYPE_CHECKING:
    from rage_net.config.values import Comparison

DAY_S = 86_400
HALF_LIFE_S = DAY_S / 2
PER_DAY = math.log(2) * DAY_S / HALF_LIFE_S
"""What one use adds to the rate: so a steady rate is shown as it is."""
DOCUMENTS_MAX = 10_000
"""Counted at one node, 200 bytes each; beyond, the tenth least asked for is forgotten."""
REPORTED_MAX = 100
"""Told in one heartbeat (contracts/rage.proto, NodeReport)."""
PER_DAY_MAX = (1 << 32) - 1
"""Of a number that is told."""
UP, DOWN = 2.0, 0.5
CHANGE_S_MIN = DAY_S
"""Between two changes of one document's policy."""


class Rates:
    """Uses a day of each document at this node, at most DOCUMENTS_MAX of them."""

    def __init__(self) -> None:
        self._rates: dict[str, tuple[float, float]] = {}  # the rate, and when it was that

    def __len__(self) -> int:
        return len(self._rates)

    def used(self, doc_id: str, now: float, count: int = 1) -> None:
        """Note that the document was asked for."""
        rate, at = self._rates.get(doc_id, (0.0, now))
        self._rates[doc_id] = (_faded(rate, at, now) + count * PER_DAY, max(at, now))
        if len(self._rates) > DOCUMENTS_MAX:
            self._forget(now)

    def per_day(self, doc_id: str, now: float) -> float:
        """Uses a day; 0 for a document that is not counted."""
        return _faded(*self._rates.get(doc_id, (0.0, now)), now)

    def top(self, count: int, now: float) -> list[tuple[str, int]]:
        """The documents most asked for with their uses a day, the busiest first; those below 1 are left out."""
        rates = ((_faded(rate, at, now), doc_id) for doc_id, (rate, at) in self._rates.items())
        best = heapq.nsmallest(count, ((-rate, doc_id) for rate, doc_id in rates if rate >= 0.5))
        return [(doc_id, min(max(round(-rate), 1), PER_DAY_MAX)) for rate, doc_id in best]

    def _forget(self, now: float) -> None:
        """Drop the tenth with the lowest rates, so that many new documents cost one look over all, not one each."""
        order = sorted(self._rates, key=lambda doc_id: (_faded(*self._rates[doc_id], now), doc_id))
        for doc_id in order[: DOCUMENTS_MAX // 10]:
            del self._rates[doc_id]


def total(reports: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Uses a day over all nodes, from what each told."""
    found: dict[str, int] = {}
    for report in reports:
        for doc_id, rate in report.items():
            found[doc_id] = found.get(doc_id, 0) + rate
    return found


def promoted(bound: Comparison, per_day: float) -> bool:
    """Whether a rate passes the bound by a factor of 2: time to come under its policy."""
    return _passes(bound, per_day, UP)


def demoted(bound: Comparison, per_day: float) -> bool:
    """Whether a rate misses the bound by a factor of 2: time to leave its policy."""
    return not _passes(bound, per_day, DOWN)


def changed_policy(
    policies: Policies, subject: Subject, per_day: float, changed_at: float | None, now: float
) -> str | None:
    """The policy that a document's record should name from now on, "" for none; None when nothing changes.

    Args: changed_at: when its policy last changed, None if it never did.
    """
    current = subject.policy
    if current and not policies.is_measured(current):
        return None  # somebody's word, or a policy of other nodes
    if changed_at is not None and abs(now - changed_at) < CHANGE_S_MIN:
        return None
    for policy in policies.measured(subject):
        stays = policy.name == current and not demoted(policy.bound, per_day)
        if stays or promoted(policy.bound, per_day):
            return policy.name if policy.name != current else None
    return "" if current else None


def _passes(bound: Comparison, per_day: float, margin: float) -> bool:
    wanted = bound.value * DAY_S / (bound.per_s or DAY_S)
    if bound.operator == "eq":
        return False
    return bound._replace(value=wanted * margin if bound.operator in ("gt", "ge") else wanted / margin).holds(per_day)


def _faded(rate: float, at: float, now: float) -> float:
    return rate * 2.0 ** (-(now - at) / HALF_LIFE_S) if now > at else rate
