"""The node's memory: resident when idle, and what 10 GiB that pass through add at their peak.

Two nodes: a command asks one, which fetches from the other and keeps nothing, so that every byte passes through both.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from bench import documents
from bench.measure import Result, Setting, skip
from bench.processes import RAGE, make_home, node, put, seconds

ROW = "memory"
SETTLE_S = 3.0
"""A node that has been ready for so long is idle."""


def run(setting: Setting) -> Iterator[Result]:
    if not Path("/proc/self/status").exists():
        yield skip(ROW, "idle node", "", "needs /proc")
        return
    size, times = setting.size(1024, 128) << 20, setting.size(10, 4)
    directory = setting.directory / "memory"
    directory.mkdir()
    source = directory / "source"
    documents.write_random(source, size)
    home, asking = make_home(directory / "holder"), make_home(directory / "asking")
    root = put(home, source)
    with node(home) as holder, node(asking) as relay:
        time.sleep(SETTLE_S)
        idle = {one: _mib(one.pid, "VmRSS") for one in (holder, relay)}
        for _ in range(times):
            command = [RAGE, "--home", str(asking), "chunk", "get", root, "--peer", holder.address, "-o", "/dev/null"]
            seconds([*command, "--no-cache"])
        growth = {one: _mib(one.pid, "VmHWM") - idle[one] for one in (holder, relay)}
    through = f"{size * times >> 30} GiB" if size * times >> 30 else f"{size * times >> 20} MiB"
    yield Result(ROW, "idle node, resident", "MiB", [max(idle.values())], "at most", 90)
    yield Result(ROW, f"peak growth while {through} are served", "MiB", [growth[holder]], "at most", 32)
    yield Result(ROW, f"peak growth while {through} are fetched and passed on", "MiB", [growth[relay]], "at most", 32)


def _mib(pid: int, key: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"no {key} of process {pid}")
