"""Worse and worse networks: real nodes whose links delay and lose packets, one rung after the other.

Each host hangs on one middle host by a link of its own, so that conditions add up on the way from node to node. A link
is `tc netem` where the kernel has it and nothing is lost by a seed, else the program of `net/link` over TUN.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from rage_lab.checker import History, judge
from rage_lab.net import namespaces
from rage_lab.net.lab import Host, Lab
from rage_lab.settling import read_all, settle
from rage_lab.trial import Trial, keep, mend, place_of, staged
from rage_lab.workload import Workload

WORK_S = 12.0


@dataclass(frozen=True, slots=True)
class Rung:
    """Conditions between any two nodes: one way's delay, share of packets lost, and how many are lost in a row."""

    name: str
    delay_s: float
    loss: float = 0.0
    burst: float = 1.0


RUNGS = (
    Rung("20 ms", 0.02),
    Rung("100 ms", 0.1),
    Rung("300 ms", 0.3),
    Rung("50 ms, 1 %", 0.05, 0.01),
    Rung("50 ms, 5 %", 0.05, 0.05),
    Rung("50 ms, 5 % in bursts of 8", 0.05, 0.05, 8.0),
    Rung("225 ms, 8 % in bursts of 8", 0.225, 0.08, 8.0),
    Rung("100 ms, 12 %", 0.1, 0.12),
    Rung("100 ms, 25 %", 0.1, 0.25),
)
QUICK = (RUNGS[5],)


def missing() -> str:
    """Why there are no links here; empty when there are."""
    return namespaces.missing() or ""


class Star(Lab):
    """A lab whose hosts all hang on a middle one, by links of one kind."""

    def __init__(self, rung: Rung, seed: int) -> None:
        super().__init__(seed=seed)
        self._rung = rung
        self.middle: Host | None = None

    def lan(self, *hosts: Host) -> list[str]:
        """In place of a switch: a link each; both links of a way share what is between two nodes."""
        rung = self._rung
        self.middle = middle = self.host("middle")
        each_loss = 1 - (1 - rung.loss) ** 0.5
        for number, host in enumerate(hosts):
            self.link(host, middle, delay_s=rung.delay_s / 2, loss=each_loss, burst=rung.burst, seed=number)
        return [host.address for host in hosts]


def climb(rung: Rung, seed: int, tell: Callable[[str], None] = lambda _: None) -> Trial:
    """One rung: the nodes meet, people work, all is read everywhere."""
    began, history, rng = time.monotonic(), History(), random.Random(f"{rung.name}:{seed}")
    with place_of("rungs") as place, ExitStack() as stack:
        tell("starting the nodes")
        lab = stack.enter_context(Star(rung, seed))
        cluster, stage = stack.enter_context(staged(place, (), history, rng, lab=lab))
        work = Workload(cluster, history, seed)
        work.start()
        try:
            time.sleep(WORK_S)
        finally:
            work.stop()
        mend(stage)
        settle(cluster, history, work, tell=tell)
        read_all(cluster, history, work)
        judged = judge(history)
        kept = keep(place, stage, history) if judged.violations else ""
    return Trial(rung.name, seed, 0, judged, time.monotonic() - began, (), (), kept)
