"""A trial: a cluster, people who use it, faults, time to mend, a judgement. One row of the lab's table."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rage_lab import clocks, disks
from rage_lab.checker import History, Judgement, judge
from rage_lab.clocks import Clock
from rage_lab.cluster import NODES, Cluster
from rage_lab.disks import SmallDisk
from rage_lab.nemesis import FAULTS, REPLACED, Stage, look_for_dead, revive, torment
from rage_lab.net import namespaces
from rage_lab.net.lab import Lab
from rage_lab.settling import WITHIN_S, read_all, settle
from rage_lab.workload import Workload

WARM_S = 3.0
"""Of work before the first fault: there is something to lose."""
HOLD_S = (3.0, 9.0)
"""A fault lasts so long."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a trial does: these faults, so many at once, for `seconds`."""

    name: str
    faults: tuple[str, ...]
    seconds: float
    at_once: int = 1
    hold_s: tuple[float, float] = HOLD_S
    nodes: int = NODES
    within_s: float = WITHIN_S
    replaced: float = REPLACED


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of it."""

    name: str
    seed: int
    faults: int
    judgement: Judgement
    seconds: float
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    """What the nemesis did."""
    kept: str = ""
    """Where the homes lie, where something was wrong."""


def has_namespaces() -> bool:
    """Whether nodes get hosts of their own."""
    return namespaces.missing() is None


def lacking(name: str) -> str:
    """Why a fault cannot be done here; empty when it can."""
    return FAULTS[name].lacks(has_namespaces())


def play(plan: Plan, seed: int, tell: Tell = lambda _: None) -> Trial:
    """Carry out a plan. Homes and logs are kept where a promise was broken, else nothing stays."""
    began = time.monotonic()
    left_out = tuple(f"{name}: {why}" for name in plan.faults if (why := lacking(name)))
    names = [name for name in plan.faults if not lacking(name)]
    rng, history = random.Random(f"{plan.name}:{seed}"), History()
    with place_of(plan.name) as place, ExitStack() as stack:
        tell("starting the nodes")
        cluster, stage = stack.enter_context(staged(place, names, history, rng, nodes=plan.nodes))
        stage.replaced = plan.replaced
        work = Workload(cluster, history, seed)
        stage.owners = lambda: dict(work.cids)
        work.start()
        try:
            time.sleep(WARM_S)
            tell("harm")
            until = time.monotonic() + plan.seconds
            count = torment(stage, names, until, at_once=plan.at_once, hold_s=plan.hold_s)
        finally:
            work.stop()
        mend(stage)
        tell("waiting until all is well")
        settle(cluster, history, work, within_s=plan.within_s, tell=tell)
        tell("reading everything everywhere")
        read_all(cluster, history, work)
        look_for_dead(stage)
        judged = judge(history)
        kept = keep(place, stage, history) if judged.violations else ""
    return Trial(plan.name, seed, count, judged, time.monotonic() - began, left_out, tuple(stage.notes), kept)


@contextmanager
def staged(
    place: Path,
    names: Sequence[str],
    history: History,
    rng: random.Random,
    *,
    nodes: int = NODES,
    lab: Lab | None = None,
    config: str = "",
) -> Iterator[tuple[Cluster, Stage]]:
    """A cluster that runs and is connected, with the disk and the clock that these faults need."""
    disks.sweep()
    needs = {FAULTS[name].needs for name in names}
    with ExitStack() as stack:
        disk_at, clock_at = rng.sample(range(1, nodes), 2)
        disk = None
        if "disk" in needs and not disks.missing():
            disk = SmallDisk(place / f"n{disk_at}", place / "disk.img")
            stack.callback(disk.close)
        if lab is None and has_namespaces():
            lab = stack.enter_context(Lab())
        cluster = stack.enter_context(Cluster(place, nodes=nodes, lab=lab, config=config))
        stage = Stage(cluster, history, rng, dict)
        if disk is not None:
            stage.disk, stage.disk_node = disk, cluster.nodes[disk_at]
        if "clock" in needs and not clocks.missing():
            stage.clock, stage.clock_node = Clock(place / "clock"), cluster.nodes[clock_at]
            stage.clock_node.environment |= stage.clock.environment
        cluster.start(*cluster.nodes, cluster.outsider)
        cluster.settle()
        yield cluster, stage


def mend(stage: Stage) -> None:
    """Whatever can run runs again."""
    look_for_dead(stage)
    for node in stage.cluster.left:
        node.resume()
        revive(stage, node)


@contextmanager
def place_of(name: str) -> Iterator[Path]:
    """A directory that bears our process in its name; gone at the end unless `keep` moved what is of use."""
    with tempfile.TemporaryDirectory(prefix=f"{disks.PREFIX}{os.getpid()}-", ignore_cleanup_errors=True) as place:
        yield Path(place)


def keep(place: Path, stage: Stage, history: History) -> str:
    """Logs of the nodes and what happened, for whoever looks for the cause."""
    kept = Path(tempfile.mkdtemp(prefix="rage-lab-kept-"))
    for log in place.glob("*.log"):
        (kept / log.name).write_bytes(log.read_bytes())
    (kept / "nemesis.txt").write_text("\n".join(stage.notes) + "\n")
    (kept / "history.txt").write_text("".join(f"{event}\n" for event in history.events))
    return str(kept)
