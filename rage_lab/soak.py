"""The soak: five real nodes under use and churn for as long as asked for, and how much memory each takes meanwhile.

Two nodes are never killed, only paused and parted: their curves show what a long life costs. Documents are removed once
there are `KEPT` of them, so that what is stored stays the same. Every sample is a line of a CSV file, written at once:
a soak that is broken off leaves what it had. The picture is drawn from that file.
"""

from __future__ import annotations

import csv
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rage_lab.checker import History, Judgement, judge
from rage_lab.cluster import Cluster
from rage_lab.nemesis import FAULTS, Stage, look_for_dead
from rage_lab.picture import Point, draw
from rage_lab.settling import read_all, settle
from rage_lab.trial import keep, lacking, mend, place_of, staged
from rage_lab.workload import Workload

SAMPLE_S = 5.0
KEPT = 100
"""Documents at a time."""
PUT_EVERY_S = 2.0
GET_EVERY_S = 0.5
FAULT_EVERY_S = (15.0, 35.0)
HOLD_S = (3.0, 20.0)
CHURN = ("kill", "pause", "partition", "one-way", "slow-disk")
SPARED = ("n0", "n1")
"""Nodes that are never killed."""
WARM_SHARE = 0.17
"""Of the time: until then caches and tables fill. Growth is counted from there: ten minutes of an hour."""
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Memory:
    """One node's: after warming up, at the most, at the end; bytes. `life_s` is how long its last life was."""

    node: str
    warm: int
    most: int
    last: int
    life_s: float

    @property
    def growth(self) -> int:
        """How much more the last tenth of the samples takes than the first tenth after warming up."""
        return self.last - self.warm


@dataclass(frozen=True, slots=True)
class Soak:
    """What came of it."""

    seed: int
    seconds: float
    faults: int
    judgement: Judgement
    memory: tuple[Memory, ...]
    """Of the nodes that were never killed."""
    csv: str
    svg: str
    left_out: tuple[str, ...]
    kept: str = ""


def soak(minutes: float, seed: int, out: Path, tell: Callable[[str], None] = lambda _: None) -> Soak:
    """Run it; `out` is a directory for `soak.csv` and `soak.svg`."""
    out.mkdir(parents=True, exist_ok=True)
    table, picture = out / "soak.csv", out / "soak.svg"
    rng, history = random.Random(f"soak:{seed}"), History()
    left_out = tuple(f"{name}: {why}" for name in CHURN if (why := lacking(name)))
    names = [name for name in CHURN if not lacking(name)]
    with place_of("soak") as place, ExitStack() as stack:
        tell("starting the nodes")
        cluster, stage = stack.enter_context(staged(place, names, history, rng))
        spared = [node for node in cluster.nodes if node.name in SPARED]
        work = Workload(cluster, history, seed, put_every_s=PUT_EVERY_S, get_every_s=GET_EVERY_S, keep=KEPT)
        stage.owners = lambda: dict(work.cids)
        began = time.monotonic()
        sampler = stack.enter_context(Sampler(cluster, table))
        work.start()
        try:
            count = _churn(stage, names, began + minutes * 60, began, tell, [node.name for node in spared])
        finally:
            work.stop()
        sampler.stop()
        mend(stage)
        tell("waiting until all is well")
        settle(cluster, history, work, tell=tell)
        tell("reading everything everywhere")
        read_all(cluster, history, work)
        look_for_dead(stage)
        seconds, judged = time.monotonic() - began, judge(history)
        kept = keep(place, stage, history) if judged.violations else ""
    picture.write_text(draw_file(table), "utf-8")
    memory = tuple(memory_of(table, SPARED))
    return Soak(seed, seconds, count, judged, memory, str(table), str(picture), left_out, kept)


def _churn(
    stage: Stage, names: Sequence[str], until: float, began: float, tell: Callable[[str], None], spared: Sequence[str]
) -> int:
    count = 0
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, stage.rng.uniform(*FAULT_EVERY_S)))
        if time.monotonic() >= until:
            break
        name = stage.rng.choice(list(names))
        stage.spared = frozenset(spared) if name == "kill" else frozenset()
        with FAULTS[name].effect(stage):
            time.sleep(max(0.0, min(until - time.monotonic(), stage.rng.uniform(*HOLD_S))))
        look_for_dead(stage)
        count += 1
        tell(f"{(time.monotonic() - began) / 60:.1f} minutes, {count} faults, {stage.notes[-1].partition(' ')[2]}")
    return count


class Sampler:
    """A thread that writes down the memory of each node every SAMPLE_S: seconds, then bytes, empty while it is down."""

    def __init__(self, cluster: Cluster, file: Path) -> None:
        self._cluster = cluster
        self._file = file
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="sampler", daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take no more samples. May be called again."""
        self._done.set()
        self._thread.join()

    def _go_on(self) -> None:
        nodes = list(self._cluster.nodes)
        began = time.monotonic()
        with self._file.open("w", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["seconds", *(node.name for node in nodes)])
            while True:
                sizes = [node.resident_bytes() for node in nodes]
                rows.writerow([round(time.monotonic() - began, 1), *("" if size is None else size for size in sizes)])
                file.flush()
                if self._done.wait(SAMPLE_S):
                    return


def read_samples(file: Path) -> dict[str, list[Point]]:
    """What a sampler has written, by node."""
    with file.open(newline="") as lines:
        rows = csv.reader(lines)
        names = next(rows)[1:]
        curves: dict[str, list[Point]] = {name: [] for name in names}
        for seconds, *sizes in rows:
            for name, size in zip(names, sizes, strict=True):
                curves[name].append((float(seconds), float(size) if size else None))
    return curves


def draw_file(file: Path) -> str:
    """Its picture: MiB over minutes."""
    curves = {
        name: [(at / 60, None if size is None else size / MIB) for at, size in points]
        for name, points in read_samples(file).items()
    }
    return draw("Resident memory of five nodes under use and churn", "minutes", "MiB", curves)


def memory_of(file: Path, names: Sequence[str]) -> list[Memory]:
    """How these nodes' memory went."""
    found = []
    for name, points in read_samples(file).items():
        if name not in names:
            continue
        end = points[-1][0]
        last_gap = max((at for at, size in points if size is None), default=0.0)
        sizes = [(at, size) for at, size in points if size is not None and at >= max(last_gap, WARM_SHARE * end)]
        if not sizes:
            continue
        tenth = max(1, len(sizes) // 10)
        values = [size for _, size in sizes]
        warm, last = (sorted(part)[len(part) // 2] for part in (values[:tenth], values[-tenth:]))
        found.append(Memory(name, int(warm), int(max(values)), int(last), end - last_gap))
    return found
