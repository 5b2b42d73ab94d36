"""When a purge is sent again: one policy for all CDNs, over verdicts. Pure.

Source: cdn-apis 11; "Exponential Backoff And Jitter" (full jitter).
"""

from __future__ import annotations

from rage_net.cdn.provider import Verdict

FIRST_S = 1.0
LONGEST_S = 60.0
ASKED_FOR_S_MAX = 300.0
"""A CDN that asks for a longer pause is asked again after this all the same."""
PENDING_S = 2.0
"""After a pending purge, where the CDN does not say when to ask for its end."""

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which any CDN is asked again."""


def pause_s(tries: int, verdict: Verdict, chance: float) -> float:
    """Seconds until the next try after `tries` of them. `chance` is drawn from 0 to 1.

    What the CDN asks for counts, from one second up to five minutes, with a tenth more at the most so that not all come
    at once; else from 0 to 1 s, doubled with each try up to a minute. Less than a second counts where tries end: else
    one that says `Retry-After: 0` would be asked as fast as it answers, for ever.
    """
    if verdict.retry_after_s is not None:
        least = FIRST_S if verdict.tries_max is None else 0.0
        return max(least, min(verdict.retry_after_s, ASKED_FOR_S_MAX)) * (1 + chance / 10)
    return min(LONGEST_S, FIRST_S * float(2 ** max(0, min(tries - 1, 16)))) * chance


def look_in_s(verdict: Verdict) -> float:
    """Seconds until the end of a pending purge is asked for: as the CDN says, from one second up to five minutes."""
    return PENDING_S if verdict.retry_after_s is None else max(FIRST_S, min(verdict.retry_after_s, ASKED_FOR_S_MAX))


def is_final(tries: int, verdict: Verdict) -> bool:
    """Whether a queued verdict is the last: a CDN that is merely away is tried for ever, by the journal."""
    return verdict.tries_max is not None and tries >= verdict.tries_max
