"""Whether an edge is asked at all: a circuit breaker. Pure: time comes in as `now`, seconds since the epoch.

    closed      it is asked
    open        it is not, until a time
    half-open   that time is over: it is asked once more, beside others rather than before them

A failure opens it for OPEN_FIRST_S, each further one for twice as long, up to OPEN_S_MAX; an answer closes it. One that
others outran was slow and perhaps dead: it is left alone for the shortest time, and that does not grow. One that sent
wrong bytes is left alone for DISTRUST_S, whatever it answers to what was asked of it before.

Wall clock, because the state outlives the process (`dump`, `load`); a clock that was set back opens nothing for longer
than it could have been. Source: Nygard, "Release It!", "Circuit Breaker"; issue 6, D.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

State = Literal["closed", "open", "half-open"]

OPEN_FIRST_S = 30.0
OPEN_S_MAX = 600.0
DISTRUST_S = 3600.0
FAILURES_MAX = 16
REASON_CHARS_MAX = 200


class Breaker:
    """The state of one edge."""

    def __init__(self) -> None:
        self.failures = 0
        """In a row."""
        self.reason = ""
        """Why it is not closed, for people."""
        self._until = 0.0
        self._longest_s = OPEN_S_MAX
        self._is_trying = False

    def state(self, now: float) -> State:
        """As it is now; see the head of the module."""
        if not self._until:
            return "closed"
        return "open" if self._rest_s(now) > 0 else "half-open"

    def admit(self, now: float) -> bool:
        """Whether one may ask now. Half-open lets one ask; whoever is let in tells what became of it."""
        state = self.state(now)
        if state == "half-open" and not self._is_trying:
            self._is_trying = True
            return True
        return state == "closed"

    def left_s(self, now: float) -> float:
        """For how long it stays open."""
        return max(0.0, self._rest_s(now))

    def answered(self, now: float) -> bool:
        """It gave an answer that a working edge gives, an absence too. Returns: whether anything changed."""
        if self._longest_s > OPEN_S_MAX and self.state(now) == "open":
            return False  # it was asked before it was distrusted
        changed = bool(self._until)
        self.failures, self.reason, self._until, self._is_trying = 0, "", 0.0, False
        return changed

    def failed(self, now: float, reason: str, at_least_s: float = 0.0) -> None:
        """No answer, or none of use. Args: at_least_s: the pause it asked for itself.

        Several that were asked at once fail together and count as one.
        """
        if self.state(now) == "open":
            return
        self.failures = min(FAILURES_MAX, self.failures + 1)
        wait_s = OPEN_FIRST_S * float(2 ** (self.failures - 1))
        self._open(now, reason, max(min(OPEN_S_MAX, wait_s), min(OPEN_S_MAX, at_least_s)))

    def outrun(self, now: float, reason: str) -> None:
        """Others were faster, and it had given nothing yet."""
        self._open(now, reason, OPEN_FIRST_S)

    def distrust(self, now: float, reason: str) -> None:
        """It sent wrong bytes."""
        self.failures = min(FAILURES_MAX, self.failures + 1)
        self._open(now, reason, DISTRUST_S)

    def let_go(self) -> None:
        """The one that was let in while half-open was given up, and nothing is known."""
        self._is_trying = False

    def _open(self, now: float, reason: str, wait_s: float) -> None:
        is_open = self._rest_s(now) > 0
        self._until = max(now + wait_s, self._until if is_open else 0.0)
        self._longest_s = max(wait_s, self._longest_s if is_open else OPEN_S_MAX)
        self.reason = reason[:REASON_CHARS_MAX]
        self._is_trying = False

    def _rest_s(self, now: float) -> float:
        rest_s = self._until - now
        return 0.0 if rest_s > self._longest_s else rest_s  # the clock was set back: it is over

    def dump(self) -> dict[str, Any]:
        """For `load`, as JSON; empty when there is nothing to remember."""
        if not self._until:
            return {}
        is_distrusted = self._longest_s > OPEN_S_MAX
        return {
            "failures": self.failures,
            "until": round(self._until, 3),
            "distrusted": is_distrusted,
            "reason": self.reason,
        }

    @classmethod
    def load(cls, plain: object) -> Breaker:
        """From `dump`; whatever else is closed."""
        made = cls()
        if not isinstance(plain, Mapping):
            return made
        failures, until, reason = plain.get("failures"), plain.get("until"), plain.get("reason")
        if not isinstance(until, int | float) or isinstance(until, bool) or not 0 < until < 1e12:
            return made
        made._until = float(until)
        made._longest_s = DISTRUST_S if plain.get("distrusted") is True else OPEN_S_MAX
        made.failures = max(0, min(FAILURES_MAX, failures)) if type(failures) is int else 0
        made.reason = reason[:REASON_CHARS_MAX] if isinstance(reason, str) else ""
        return made
