"""Words for people: sizes, times and durations, read and written; and text that is safe to show.

Pure functions, standard library only. Binary units (KiB, MiB) because that is what chunk sizes are made of.
"""

from __future__ import annotations

import time

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}
DURATION_S_MAX = 100 * 365 * 86400.0
"""A century: longer is a slip of the finger, and far from what floats and clocks would mind."""


def parse_duration(text: str) -> float:
    """Seconds of `90`, `30s`, `5m`, `2h`, `7d`, `250ms`. Raises ValueError, which says what is wanted."""
    unit = next(unit for unit in _SECONDS if text.strip().endswith(unit))
    number = text.strip().removesuffix(unit)
    if not number.replace(".", "", 1).isdecimal() or not number.isascii():
        raise ValueError(f"{text!r} is no duration; write seconds, or 30s, 5m, 2h, 7d")
    seconds = float(number) * _SECONDS[unit]
    if seconds > DURATION_S_MAX:
        raise ValueError(f"{text!r} is longer than a century")
    return seconds


def counted(number: int, noun: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def format_size(size: float) -> str:
    """`12.3 MiB`: three digits are enough to compare by."""
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def format_duration(seconds: float) -> str:
    """`0.42 s`, `12.3 s`, `4m 05s`, `3h 07m`, `12d 04h`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02}h"


def format_clock(seconds: float) -> str:
    """`0:07`, `12:03`, `1:02:03`: time left beside a progress bar."""
    whole = int(seconds + 0.5)
    if whole >= 3600:
        return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"
    return f"{whole // 60}:{whole % 60:02}"


def format_time(epoch_s: float) -> str:
    """A point in time in the local zone, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(epoch_s))


def format_time_of_day(epoch_s: float) -> str:
    """A point in time of today in the local zone, to the second."""
    return time.strftime("%H:%M:%S", time.localtime(epoch_s))


def safe(text: str) -> str:
    """`text` on one line, without what moves the cursor, colours, reorders or cannot be encoded: that is shown escaped.

    A name from another machine must not drive this terminal.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
