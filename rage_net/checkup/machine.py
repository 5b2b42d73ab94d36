"""The machine under a home: clock, disk, files that a process may open."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path

from rage_net.checkup.outcomes import ok
from rage_net.durable import describe
from rage_net.home import Home
from rage_net.verbs.diagnose import Check

CLOCK_MIN = 1_767_225_600.0
"""2026-01-01: earlier than anything this program has seen."""
CLOCK_MAX = 4_102_444_800.0
"""2100-01-01."""
CLOCK_SLACK_S = 300.0
"""By which a file of the home may be younger than now: file servers have clocks of their own."""

FREE_BYTES_LOW = 1024 * 1024 * 1024
"""Besides the reserve: less is soon used up."""
FREE_FILES_LOW = 10_000
"""Inodes: each chunk is a file."""

FILES_BESIDES = 256
"""Descriptors beyond connections: files of the store, the index, listeners, libraries."""


def check_clock(now: float, written: Sequence[tuple[str, float]]) -> Check:
    """Whether the clock can be right. `written` are files of the home and when they were last written to.

    Whether it is right to the second is for the network to say.
    """
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(max(0.0, min(now, 2 * CLOCK_MAX))))
    mend = ("timedatectl status", "timedatectl set-ntp true")
    if not CLOCK_MIN <= now <= CLOCK_MAX:
        return Check("clock", "error", f"the clock says {shown}", "signatures and expiry go by it", mend)
    name, latest = max(written, key=lambda one: one[1], default=("", 0.0))
    if latest > now + CLOCK_SLACK_S:
        why = f"{name} was written {round(latest - now)} s later than that; the clock was ahead then, or is behind now"
        return Check("clock", "warning", f"the clock says {shown}", why, mend)
    return ok("clock", shown)


def check_disk(home: Home, store: Path, reserve: int) -> Check:
    """Whether there is room to put something, in bytes and in files."""
    place = _nearest(store if store.exists() else home.root)
    try:
        status = os.statvfs(place)
    except OSError as error:
        return Check("disk", "error", f"{place} cannot be looked at", describe(error), (f"df -h {place}",))
    free, files = status.f_bavail * status.f_frsize, status.f_favail
    # Some file systems count no inodes: they give 0 of 0.
    message = f"{free / 2**30:.1f} GiB free" + (f", {files} files" if status.f_files else "")
    mend = ("rage chunk gc", f"df -h {place}")
    if status.f_flag & os.ST_RDONLY:
        return Check("disk", "error", "the file system is read-only", f"it holds {place}", (f"findmnt -T {place}",))
    if free <= reserve:
        why = f"network.store.reserve keeps {reserve / 2**20:.0f} MiB free: nothing can be put"
        return Check("disk", "error", message, why, mend)
    if status.f_files and not files:
        return Check("disk", "error", message, "there is no inode left for another chunk", (f"df -i {place}",))
    if free < reserve + FREE_BYTES_LOW or (status.f_files and files < FREE_FILES_LOW):
        return Check("disk", "warning", message, "that is little", mend)
    return ok("disk", message)


def check_files(limit: int, connections: int) -> Check:
    """Whether a process may open as many files as the configured connections need."""
    needed = connections + FILES_BESIDES
    if limit == resource.RLIM_INFINITY or limit >= needed:
        return ok("files", "unlimited" if limit == resource.RLIM_INFINITY else f"{limit} may be open")
    return Check(
        "files",
        "warning",
        f"{limit} files may be open",
        f"{connections} connections are allowed by network.limits, which needs {needed}",
        (f"ulimit -n {needed}", "set LimitNOFILE in the service", "set network.limits.connections lower"),
    )


def _nearest(path: Path) -> Path:
    """The path, or what exists of its parents."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
