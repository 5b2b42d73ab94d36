"""Many seeds of the simulator, in processes of their own, each result as it comes."""

from __future__ import annotations

import functools
import multiprocessing
import signal
from collections.abc import Iterator

from rage_lab.checker import Judgement, Violation
from rage_lab.sim.promises import SimRun, play_seed

SEEDS_A_PROCESS = 200
"""Then a fresh process takes its place: what one run leaves in memory does not add up over thousands."""


def play_many(first: int, count: int, jobs: int) -> Iterator[SimRun]:
    """Runs of `count` seeds from `first` on, in the order in which they end. A run that raises is a violation."""
    seeds = range(first, first + count)
    if jobs == 1 or count == 1:
        yield from map(try_seed, seeds)
        return
    # Not by fork: a process that has threads may hold a lock when it is copied.
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs, _begin, maxtasksperchild=SEEDS_A_PROCESS) as pool:
        yield from pool.imap_unordered(try_seed, seeds)


def try_seed(seed: int) -> SimRun:
    """One run; an error that no verb answers with is a finding too."""
    try:
        return play_seed(seed)
    except Exception as error:
        words = f"{type(error).__name__}: {error}"
        crashed = Judgement((Violation("down", "the run itself", words),), 0, 0, 0, 0, 0, 0, 0.0)
        return SimRun(seed, crashed, 0, 0, 0.0, 0.0, (), "")


@functools.cache
def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asked for the runs ends them
