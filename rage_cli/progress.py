"""Progress on stderr: a bar on a terminal, a line now and then, NDJSON, or nothing.

Driven by calls, not by a thread: who works reports, and what is drawn is bounded in rate. Not here: what is worth
reporting (the engine, the client). Own code because importing `rich` costs more than many a transfer.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from types import TracebackType

from rage_cli.options import options
from rage_cli.text import format_clock, format_size, safe
from rage_net.verbs import Progress

EVERY_S = {"bar": 0.1, "plain": 3.0, "json": 0.5}
"""How often each form is drawn at most."""

QUIET_S = 0.3
"""What is done sooner shows no bar at all: a flicker tells nobody anything."""

RATE_MIN = 0.5
"""Items or bytes a second: what is shown as 0 says nothing of the time that is left."""
BAR_COLUMNS_MAX = 30
ECHO_COLUMNS = 3
"""Left free: where a terminal's `^C` does not fit behind the bar it goes to the next line, and the bar stays."""
LABEL_COLUMNS_MAX = 28


class Display:
    """A context in which progress is shown; call it with each `Progress`. Leaving clears the bar."""

    def __init__(self, label: str = "", *, clock: Callable[[], float] = time.monotonic) -> None:
        self._label = label
        self._clock = clock
        self._form = _form()
        self._started = clock()
        self._next = self._started + (QUIET_S if self._form == "bar" else 0.0)
        self._drawn = False

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawn and self._form == "bar":
            _write("\r\x1b[K")

    def __call__(self, progress: Progress) -> None:
        """Draw, if it is time."""
        now = self._clock()
        if self._form == "none" or now < self._next:
            return
        self._next = now + EVERY_S[self._form]
        self._drawn = True
        match self._form:
            case "bar":
                columns = shutil.get_terminal_size((80, 24)).columns
                _write("\r\x1b[K" + bar(progress, self._label, now - self._started, columns - ECHO_COLUMNS))
            case "plain":
                _write(line(progress, self._label, now - self._started) + "\n")
            case "json":
                plain = {"done": progress.done, "total": progress.total, "unit": progress.unit}
                plain |= {"label": progress.label or self._label}
                _write(json.dumps({"type": "progress", **plain}, ensure_ascii=False) + "\n")


def line(progress: Progress, label: str, elapsed_s: float) -> str:
    """One line of words: `report.md: 61 %, 12.3 MiB of 20.1 MiB, 210 MiB/s, 0:03 left`."""
    name = safe(progress.label or label)
    parts = [part for part in (_percent(progress), _amount(progress), *_rate(progress, elapsed_s)) if part]
    return (f"{name}: " if name else "") + ", ".join(parts)


def bar(progress: Progress, label: str, elapsed_s: float, columns: int) -> str:
    """One line of at most `columns` characters; where there is little room the bar yields, then the label."""
    tail = "  ".join(part for part in (_percent(progress), _amount(progress), *_rate(progress, elapsed_s)) if part)
    name = safe(progress.label or label)[: max(0, min(LABEL_COLUMNS_MAX, columns - len(tail) - 2))]
    room = min(columns - len(name) - len(tail) - 4, BAR_COLUMNS_MAX)
    middle = ""
    if progress.total and room >= 8:
        full, empty = ("█", "░") if (sys.stderr.encoding or "").lower().startswith("utf") else ("#", "-")
        filled = min(room, room * progress.done // progress.total)
        middle = full * filled + empty * (room - filled)
    return "  ".join(part for part in (name, middle, tail) if part)[:columns]


def _percent(progress: Progress) -> str:
    return f"{min(100, 100 * progress.done // progress.total):3} %" if progress.total else ""


def _amount(progress: Progress) -> str:
    if progress.unit == "bytes":
        done = format_size(progress.done)
        return f"{done} of {format_size(progress.total)}" if progress.total else done
    return f"{progress.done}/{progress.total} {progress.unit}" if progress.total else f"{progress.done} {progress.unit}"


def _rate(progress: Progress, elapsed_s: float) -> tuple[str, str]:
    """Rate and time left, from the whole run: a jumping figure is worse than a slow one."""
    if elapsed_s < QUIET_S or not progress.done:
        return "", ""
    rate = progress.done / elapsed_s
    if rate < RATE_MIN:  # it waits for something else, and no figure says when that comes
        return "", ""
    shown = f"{format_size(rate)}/s" if progress.unit == "bytes" else f"{rate:.0f} {progress.unit}/s"
    left = f"{format_clock(max(0, progress.total - progress.done) / rate)} left" if progress.total else ""
    return shown, left


def _form() -> str:
    if options.progress != "auto":
        return options.progress
    return "bar" if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else "none"


def _write(words: str) -> None:
    sys.stderr.write(words)
    sys.stderr.flush()
