"""Checks as a person reads them: a mark, what was looked at, what was found, and beneath it what mends it.

Piped, and for programs, they are rows as everything else. Not here: what is checked (`rage_net.checkup`, the engine).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

from rage_cli.output import is_colored
from rage_cli.text import safe

MARKS = {"ok": "✓", "warning": "!", "error": "✗", "broken": "✗", "skipped": "-"}
ASCII_MARKS = {"ok": "+", "warning": "!", "error": "x", "broken": "x", "skipped": "-"}
COLORS = {"ok": "32", "warning": "33", "error": "31", "broken": "31", "skipped": "2"}


class Mark(NamedTuple):
    """One line: `level` is a key of MARKS."""

    level: str
    name: str
    message: str
    why: str = ""
    mend: Sequence[str] = ()


def write_marks(marks: Sequence[Mark]) -> None:
    """Print them, a line each; `why` and `mend` stand beneath those that are not ok."""
    width = max((len(mark.name) for mark in marks), default=0)
    for mark in marks:
        sys.stdout.write(f"{sign(mark.level)} {safe(mark.name):<{width}}  {safe(mark.message)}\n")
        if mark.level in ("ok", "skipped"):
            continue
        if mark.why:
            sys.stdout.write(f"  {'':<{width}}  why:  {safe(mark.why)}\n")
        if mark.mend:
            sys.stdout.write(f"  {'':<{width}}  mend: {safe('  |  '.join(mark.mend))}\n")


def sign(level: str) -> str:
    """The mark of a level, coloured where stdout may be."""
    is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    sign = (MARKS if is_unicode else ASCII_MARKS).get(level, "?")
    return f"\x1b[{COLORS.get(level, '0')}m{sign}\x1b[0m" if is_colored() else sign
