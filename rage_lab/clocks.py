"""Wall clocks that jump: a node runs under libfaketime, its offset in a file. Monotonic time is left alone.

Needs the Debian package `faketime`. The product knows nothing of it: it is the dynamic linker's doing.
"""

from __future__ import annotations

import sys
from pathlib import Path

LIBRARIES = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
)


def library() -> str:
    """Where libfaketime lies; empty where it does not."""
    return next((path for path in LIBRARIES if Path(path).exists()), "")


def missing() -> str:
    """Why no clock can jump here; empty when one can."""
    if not sys.platform.startswith("linux"):
        return "clocks jump by libfaketime on Linux"
    return "" if library() else "libfaketime is not installed: apt-get install faketime"


class Clock:
    """The wall clock of one process, which must be started with `environment`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0.0)

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process obey."""
        return {
            "LD_PRELOAD": library(),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def set(self, offset_s: float) -> None:
        """From now on it is so far from the true time."""
        staged = self._file.with_suffix(".new")
        staged.write_text(f"{offset_s:+.0f}s\n")
        staged.replace(self._file)
