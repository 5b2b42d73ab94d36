"""The nemesis: faults, each as a context: entering does harm, leaving mends what can be mended.

A fault draws its victims from the seed, tells the history what cannot be mended (`Harm`), and says beforehand what of
this machine it lacks. It works from outside alone: signals, packet filters, file systems, the dynamic linker.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field

from rage_lab import clocks, disks
from rage_lab.checker import Down, Harm, History
from rage_lab.clocks import Clock
from rage_lab.cluster import Cluster, LabNode
from rage_lab.disks import SmallDisk
from rage_net.errors import RageError
from rage_net.verbs.replication import DrainNode, ReplaceNode

JUMPS_S = (86_400, -86_400, 3_600, -3_600, 90, -90)
"""Of a clock: a day, an hour, and little enough to be taken for lag."""
PAUSE_S = (0.3, 1.0)
RUN_S = (0.05, 0.4)
"""Where no disk can be made slow: bursts in which a whole process stands still, and between them."""
FLIPS = 3
"""Chunk files that rot each time."""
REPLACED = 0.5
"""How often an operator says that a destroyed node is lost; else the others find out, which takes 75 s more."""
FREE_MEMBERS_MIN = 3
"""Nodes that stay, whatever is destroyed: as many as the factor."""


@dataclass
class Stage:
    """What faults work on."""

    cluster: Cluster
    history: History
    rng: random.Random
    owners: Callable[[], dict[str, str]]
    """Chunk -> key, of what was acknowledged."""
    disk: SmallDisk | None = None
    disk_node: LabNode | None = None
    clock: Clock | None = None
    clock_node: LabNode | None = None
    expected_down: set[str] = field(default_factory=set)
    """Names of nodes that the nemesis has ended."""
    replaced: float = REPLACED
    """How often an operator says that a destroyed node is lost."""
    spared: frozenset[str] = frozenset()
    """Names of nodes that are no victims."""
    notes: list[str] = field(default_factory=list)
    """What was done, in order, for whoever looks."""

    def note(self, words: str) -> None:
        """Remember what was done."""
        self.notes.append(f"{time.monotonic():.1f} {words}")

    def victim(self, *, is_up: bool = True) -> LabNode:
        """A node that is there, and is neither paused nor ended."""
        left = [node for node in self.cluster.left if node.name not in self.spared]
        return self.rng.choice([node for node in left if node.is_up == is_up and not node.is_paused] or left)

    def some(self) -> list[LabNode]:
        """A minority of the nodes."""
        nodes = self.cluster.left
        return self.rng.sample(nodes, self.rng.randint(1, max(1, (len(nodes) - 1) // 2)))


Effect = Callable[[Stage], AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """One kind of fault. `lacks` says why it cannot be done here; `is_once`: at most once a run."""

    name: str
    words: str
    effect: Effect
    lacks: Callable[[bool], str] = lambda has_namespaces: ""
    is_once: bool = False
    needs: str = ""
    """`disk` or `clock`: what the cluster has to be made with."""


# --- the network ---


@contextmanager
def _partition(stage: Stage) -> Iterator[None]:
    lab = stage.cluster.lab
    assert lab is not None
    here = stage.some()
    there = [node for node in stage.cluster.left if node not in here]
    sides = [[node.host for node in side if node.host is not None] for side in (here, there)]
    stage.note(f"partition {_names(here)} from {_names(there)}")
    lab.partition(*sides)
    try:
        yield
    finally:
        lab.heal(*sides)
        stage.note("heal")


@contextmanager
def _one_way(stage: Stage) -> Iterator[None]:
    lab = stage.cluster.lab
    assert lab is not None
    here = stage.some()
    there = [node for node in stage.cluster.left if node not in here]
    sides = [[node.host for node in side if node.host is not None] for side in (here, there)]
    if stage.rng.random() < 0.5:
        sides.reverse()
    stage.note(f"one-way partition of {_names(here)}")
    lab.mute(*sides)
    try:
        yield
    finally:
        lab.unmute(*sides)
        stage.note("heal")


def _lacks_namespaces(has_namespaces: bool) -> str:
    return "" if has_namespaces else "needs network namespaces"


# --- processes ---


@contextmanager
def _kill(stage: Stage) -> Iterator[None]:
    node = stage.victim()
    stage.note(f"kill -9 {node.name}")
    stage.expected_down.add(node.name)
    node.kill()
    try:
        yield
    finally:
        revive(stage, node)


@contextmanager
def _pause(stage: Stage) -> Iterator[None]:
    node = stage.victim()
    stage.note(f"SIGSTOP {node.name}")
    node.pause()
    try:
        yield
    finally:
        node.resume()
        stage.note(f"SIGCONT {node.name}")


def revive(stage: Stage, node: LabNode) -> None:
    """Start a node again from the disk it has; one that does not start is told to the history."""
    if node.is_destroyed or node.is_up:
        return
    try:
        stage.cluster.start(node)
        stage.note(f"start {node.name}")
    except RageError as error:
        stage.history.add(Down(node.name, time.monotonic(), f"does not start: {error} {error.why}"))
    stage.expected_down.discard(node.name)


# --- clocks and disks ---


@contextmanager
def _clock(stage: Stage) -> Iterator[None]:
    assert stage.clock is not None and stage.clock_node is not None
    jump_s = stage.rng.choice(JUMPS_S)
    stage.note(f"the clock of {stage.clock_node.name} jumps by {jump_s} s")
    stage.clock.set(jump_s)
    try:
        yield
    finally:
        stage.clock.set(0.0)
        stage.note("the clock is right again")


@contextmanager
def _full_disk(stage: Stage) -> Iterator[None]:
    assert stage.disk is not None and stage.disk_node is not None
    stage.note(f"the disk of {stage.disk_node.name} is filled with {stage.disk.fill()} bytes")
    try:
        yield
    finally:
        stage.disk.free()
        stage.note("the disk has room again")


@contextmanager
def _slow_disk(stage: Stage) -> Iterator[None]:
    if stage.disk is not None and stage.disk.can_freeze and stage.disk_node is not None:
        stage.note(f"the disk of {stage.disk_node.name} is slow")
        with stage.disk.frozen(random.Random(stage.rng.getrandbits(32))):
            yield
        stage.note("the disk is as it was")
        return
    node = stage.victim()
    stage.note(f"{node.name} stands still in bursts")
    with _bursts(node, random.Random(stage.rng.getrandbits(32))):
        yield
    stage.note(f"{node.name} runs")


@contextmanager
def _bursts(node: LabNode, rng: random.Random) -> Iterator[None]:
    done = threading.Event()

    def burst() -> None:
        while not done.is_set():
            node.pause()
            done.wait(rng.uniform(*PAUSE_S))
            node.resume()
            done.wait(rng.uniform(*RUN_S))

    thread = threading.Thread(target=burst, name="bursts")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def _bit_flip(stage: Stage) -> Iterator[None]:
    owners = stage.owners()
    for _ in range(FLIPS):
        node = stage.victim()
        files = sorted(path for path in node.home.store.glob("??/*") if path.name in owners)
        if files and (path := stage.rng.choice(files)).stat().st_size:
            stage.history.add(Harm(node.name, time.monotonic(), owners[path.name]))
            flip(path, stage.rng)
            stage.note(f"a bit of {path.name[-8:]} flips on {node.name}")
    yield


def flip(path: object, rng: random.Random) -> None:
    """One bit of a file changes, as on a disk that rots: size and times stay."""
    import os
    from pathlib import Path

    file = Path(str(path))
    before = file.stat()
    mode = before.st_mode & 0o777
    file.chmod(mode | 0o200)
    with file.open("r+b") as rotten:
        at = rng.randrange(before.st_size)
        rotten.seek(at)
        byte = rotten.read(1)[0]
        rotten.seek(at)
        rotten.write(bytes([byte ^ (1 << rng.randrange(8))]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    file.chmod(mode)


# --- members ---


@contextmanager
def _add(stage: Stage) -> Iterator[None]:
    name = f"n{len(stage.cluster.nodes)}"
    stage.note(f"{name} is added")
    try:
        stage.cluster.add(name)
    except RageError as error:
        stage.history.add(Down(name, time.monotonic(), f"does not start: {error} {error.why}"))
    yield


@contextmanager
def _drain(stage: Stage) -> Iterator[None]:
    node, by = stage.victim(), stage.victim()
    try:
        by.run(DrainNode(node.peer_id))
        stage.note(f"{node.name} is drained, says {by.name}")
    except RageError as error:
        stage.note(f"drain of {node.name} by {by.name}: {error.id}")
    yield


@contextmanager
def _destroy(stage: Stage) -> Iterator[None]:
    left = [node for node in stage.cluster.left if node not in (stage.disk_node, stage.clock_node)]
    if len(stage.cluster.left) <= FREE_MEMBERS_MIN:
        yield
        return
    node = stage.rng.choice(left)
    stage.note(f"{node.name} is destroyed for good")
    stage.expected_down.add(node.name)
    stage.history.add(Harm(node.name, time.monotonic()))
    stage.cluster.destroy(node)
    yield
    by = stage.victim()
    if stage.rng.random() < stage.replaced:
        with contextlib.suppress(RageError):
            by.run(ReplaceNode(node.peer_id, lost=True))
            stage.note(f"{by.name} is told that {node.name} is lost")


FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("partition", "a minority is parted from the others", _partition, _lacks_namespaces),
        Fault("one-way", "what some send no longer reaches the others", _one_way, _lacks_namespaces),
        Fault("kill", "kill -9, and a start from the disk it had", _kill),
        Fault("pause", "SIGSTOP and SIGCONT", _pause),
        Fault(
            "clock", "a wall clock jumps by up to a day, and back", _clock, lambda _: clocks.missing(), needs="clock"
        ),
        Fault("full-disk", "a node's disk has no byte left", _full_disk, lambda _: disks.missing(), needs="disk"),
        Fault("slow-disk", "writing to a node's disk stands still in bursts", _slow_disk, needs="disk"),
        Fault("bit-flip", "bits of chunk files rot", _bit_flip),
        Fault("add", "a node joins", _add, is_once=True),
        Fault("drain", "a node gives away what it holds", _drain, is_once=True),
        Fault("destroy", "a node and its disk are gone for good", _destroy, is_once=True),
    )
}


def torment(stage: Stage, names: Sequence[str], until: float, *, at_once: int, hold_s: tuple[float, float]) -> int:
    """Do these faults, so many at once, again and again until a moment of the monotonic clock; how many there were."""
    rng, done, count = stage.rng, set[str](), 0
    while time.monotonic() < until:
        free = [name for name in names if name not in done or not FAULTS[name].is_once]
        if not free:
            time.sleep(min(0.5, max(0.0, until - time.monotonic())))
            continue
        chosen = rng.sample(free, min(at_once, len(free)))
        done |= set(chosen)
        hold = rng.uniform(*hold_s)
        with ExitStack() as stack:
            for name in chosen:
                stack.enter_context(FAULTS[name].effect(stage))
                count += 1
                time.sleep(hold / len(chosen) / 2)
            time.sleep(hold / 2)
        look_for_dead(stage)
        time.sleep(rng.uniform(0.5, 2.0))
    return count


def look_for_dead(stage: Stage) -> None:
    """Tell the history of nodes that ended by themselves, and start them again."""
    for node in stage.cluster.left:
        if node.is_up or node.name in stage.expected_down or node.process is None:
            continue
        words = node.log().strip().splitlines()
        why = f"ended with {node.process.returncode}: {words[-1] if words else 'without a word'}"
        stage.history.add(Down(node.name, time.monotonic(), why))
        stage.note(f"{node.name} {why}")
        revive(stage, node)


def _names(nodes: Sequence[LabNode]) -> str:
    return ", ".join(node.name for node in nodes)
