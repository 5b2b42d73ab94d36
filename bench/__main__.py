"""All benchmarks beside their peers: `python -m bench [--only ROW] [--rounds N] [--quick] [--out FILE]`.

Prints a line for each target with the ratio that was reached, and writes all samples, the machine and the versions as
JSON. Everything is made on the disk that holds the checkout and removed at the end; loopback only.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.measure import Result, Setting
from bench.processes import FailedError
from bench.programs import versions

HERE = Path(__file__).parent
ROWS = ("streams", "get", "put", "requests", "startup", "memory")
MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 4 << 30
"""Free in /dev/shm before homes are put there."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", choices=ROWS, default=[], help="this row; may be repeated")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds, after one that is dropped (5)")
    parser.add_argument("--quick", action="store_true", help="small documents: does it work, not how fast is it")
    parser.add_argument("--out", type=Path, help="where the JSON goes (bench/out/DATE.json)")
    options = parser.parse_args()
    started = datetime.datetime.now(datetime.UTC)
    out = options.out or HERE / "out" / f"{started:%Y-%m-%dT%H%M%SZ}.json"
    scratch = HERE / ".peers"
    scratch.mkdir(exist_ok=True)
    load = os.getloadavg()[0]
    results: list[Result] = []
    failed: list[str] = []
    for row in options.only or ROWS:
        print(f"{row} ...", file=sys.stderr, flush=True)
        with (
            tempfile.TemporaryDirectory(prefix="run-", dir=scratch, ignore_cleanup_errors=True) as directory,
            _in_memory() as memory,
        ):
            setting = Setting(options.rounds, options.quick, Path(directory), memory, scratch)
            try:
                for result in importlib.import_module(f"bench.rows.{row}").run(setting):
                    results.append(result)
                    print(_line(result), flush=True)
            except FailedError as error:  # the other rows can still be had
                failed.append(row)
                print(f"{row}: failed: {error}", file=sys.stderr, flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "started": started.isoformat(timespec="seconds"),
        "rounds": options.rounds,
        "quick": options.quick,
        "machine": machine(),
        "load_before": load,
        "peers": versions(scratch),
        "failed": failed,
        "results": [result.to_plain() for result in results],
    }
    out.write_text(json.dumps(report, indent=1) + "\n")
    missed = sum(not (result.is_skipped or result.is_reached) for result in results)
    skipped = sum(result.is_skipped for result in results)
    print(f"{len(results)} lines, {missed} targets missed, {skipped} skipped; samples in {os.path.relpath(out)}")
    return 1 if failed else 0


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


@contextlib.contextmanager
def _in_memory() -> Iterator[Path | None]:
    """A directory in memory, where there is room for one."""
    if not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < MEMORY_BYTES_MIN:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="rage-bench-", dir=MEMORY) as directory:
        yield Path(directory)


def _line(result: Result) -> str:
    head = f"{result.row:9} {result.what:52.52} "
    if result.is_skipped:
        return f"{head}{result.note}"
    ours = f"{statistics.median(result.ours):8,.5g} {result.unit:10}"
    beside = f"{result.peer} {statistics.median(result.theirs):,.4g}" if result.theirs else ""
    value = f"{result.value:6.2f}x" if result.theirs else " " * 7
    verdict = "reached" if result.is_reached else "MISSED "
    return f"{head}{ours} {beside:36} {value}  {result.bound} {result.target:<5g} {verdict}"


if __name__ == "__main__":
    sys.exit(main())
