"""The links that were looked at, in order, and what they come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rage_net.verbs.diagnose import WhyResult, WhyStep


class Walk:
    """The steps so far. A step that is broken ends a walk along a chain; among alternatives the walk goes on."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.steps: list[WhyStep] = []
        self._clock = clock
        self._began = clock()

    def add(self, name: str, state: str, message: str, mend: Sequence[str] = ()) -> None:
        """One link was looked at."""
        now = self._clock()
        self.steps.append(WhyStep(name, state, message, tuple(mend), round(now - self._began, 3)))
        self._began = now

    def result(self, subject: str, kind: str, is_ok: bool, verdict: str) -> WhyResult:
        """The whole walk; when it is not well, the first broken link is what to mend."""
        broken = next((step for step in self.steps if step.state == "broken"), None)
        if is_ok or broken is None:
            return WhyResult(subject, kind, is_ok, verdict, "", (), tuple(self.steps))
        return WhyResult(subject, kind, False, verdict, broken.name, broken.mend, tuple(self.steps))
