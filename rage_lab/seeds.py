"""Many seeds of the simulator, in processes of their own, each result as it comes.

`python -P -m rage_lab.seeds SEED...` is such a process: a line of base64 for each seed. After BATCH of them a fresh one
takes its place, so that what a run leaves in memory does not add up over thousands.
"""

from __future__ import annotations

import base64
import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

from rage_lab.checker import Judgement, Violation
from rage_lab.sim.promises import SimRun, play_seed

BATCH = 100
STDERR_MAX = 2000
"""Of what a process said that ended by itself."""


def play_many(first: int, count: int, jobs: int) -> Iterator[SimRun]:
    """Runs of `count` seeds from `first` on, in the order in which they end. A run that raises is a violation."""
    seeds = list(range(first, first + count))
    done: queue.Queue[SimRun] = queue.Queue()
    workers = [_Worker(seeds[number::jobs], done) for number in range(min(jobs, count))]
    try:
        for worker in workers:
            worker.start()
        for _ in seeds:
            yield done.get()
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A thread with one process at a time."""

    def __init__(self, seeds: Sequence[int], done: queue.Queue[SimRun]) -> None:
        self._batches = [seeds[at : at + BATCH] for at in range(0, len(seeds), BATCH)]
        self._done = done
        self._process: subprocess.Popen[bytes] | None = None
        self._is_over = False
        self._thread = threading.Thread(target=self._go_on, name="seeds", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the process, too; who waits for results is gone."""
        self._is_over = True
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        self._thread.join()

    def _go_on(self) -> None:
        for batch in self._batches:
            if self._is_over:
                return
            argv = [sys.executable, "-P", "-m", "rage_lab.seeds", *map(str, batch)]
            left = list(batch)
            # Sets of texts have another order under another hash seed. Nodes avoid that where it shows; this makes sure
            # that a seed that was found repeats.
            environment = os.environ | {"PYTHONHASHSEED": "0"}
            with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
                self._process = process
                assert process.stdout is not None and process.stderr is not None
                for line in process.stdout:
                    self._done.put(pickle.loads(base64.b64decode(line)))  # noqa: S301  our own process wrote it
                    left.pop(0)
                words = process.stderr.read().decode("utf-8", "replace")[-STDERR_MAX:]
            for seed in left:
                self._done.put(_crashed(seed, f"its process ended: {words.strip()}"))


def try_seed(seed: int) -> SimRun:
    """One run; an error that no verb answers with is a finding too."""
    try:
        return play_seed(seed)
    except Exception as error:
        return _crashed(seed, f"{type(error).__name__}: {error}")


def _crashed(seed: int, words: str) -> SimRun:
    judged = Judgement((Violation("down", "the run itself", words),), 0, 0, 0, 0, 0, 0, 0.0)
    return SimRun(seed, judged, 0, 0, 0.0, 0.0, (), "")


def main() -> None:
    """The process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asked for the runs ends them
    logging.disable(logging.CRITICAL)  # what goes wrong there is meant to
    for text in sys.argv[1:]:
        sys.stdout.write(base64.b64encode(pickle.dumps(try_seed(int(text)))).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
