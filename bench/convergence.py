"""Simulated logs that must come to one state: `python -m bench.convergence [--runs N] [--seed S] [--processes P]`.

Each run (tests/sim/convergence) has a seed of its own, counted up from `--seed`: 3 to 7 nodes of one or two
organisations, partitions, loss, clocks hours off, restarts and old backups, hostile authors; all claims are checked,
some after every step. The first failures are printed with the command that repeats each.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Sequence

from tests.sim.convergence import Broken, play

CHUNK = 25
"""Runs that a process takes at a time."""
SHOWN_MAX = 10


def play_chunk(seeds: range) -> tuple[Counter[str], list[str]]:
    """What happened in these runs, and what failed."""
    events: Counter[str] = Counter()
    failures = []
    for seed in seeds:
        try:
            outcome = play(seed)
        except (Broken, RuntimeError) as error:
            failures.append(str(error))
            continue
        events += outcome.events
        events["runs"] += 1
        events["nodes"] += outcome.nodes
        events["facts"] += outcome.facts
    return events, failures


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args(arguments)
    end = chosen.seed + chosen.runs
    chunks = [range(at, min(at + CHUNK, end)) for at in range(chosen.seed, end, CHUNK)]
    started = time.monotonic()
    events: Counter[str] = Counter()
    failures: list[str] = []
    with multiprocessing.get_context("spawn").Pool(chosen.processes) as pool:
        for done, (happened, failed) in enumerate(pool.imap_unordered(play_chunk, chunks), 1):
            events += happened
            failures += failed
            for failure in failed[: max(0, SHOWN_MAX - len(failures) + len(failed))]:
                print(failure, file=sys.stderr, flush=True)
            if done % (1000 // CHUNK) == 0:
                print(f"{done * CHUNK} runs, {len(failures)} failed, {time.monotonic() - started:.0f} s", flush=True)
    seconds = time.monotonic() - started
    kept, nodes, facts = (events.pop(name, 0) for name in ("runs", "nodes", "facts"))
    print(f"seeds {chosen.seed} to {end - 1}: {chosen.runs} runs, {len(failures)} failed, {seconds / 60:.1f} minutes")
    print(f"{nodes / max(1, kept):.1f} nodes and {facts / max(1, kept):.1f} facts a run")
    print(", ".join(f"{name} {count}" for name, count in sorted(events.items())))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
