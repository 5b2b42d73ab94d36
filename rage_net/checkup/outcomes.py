"""What a check comes to, in a word."""

from __future__ import annotations

from rage_net.errors import RageError
from rage_net.verbs.diagnose import Check


def ok(name: str, message: str) -> Check:
    """All is well."""
    return Check(name, "ok", message, "", ())


def skipped(name: str, message: str) -> Check:
    """There is nothing to look at."""
    return Check(name, "skipped", message, "", ())


def failed(name: str, error: RageError) -> Check:
    """It is broken, as the error says."""
    return Check(name, "error", error.message, error.why, error.mend)


def span(seconds: float) -> str:
    """A time as people say it, in the unit in which it has two digits or so."""
    for unit, size in (("d", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if abs(seconds) >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
