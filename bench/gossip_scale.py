"""Gossipsub's rules at 1,000 nodes: `python -m bench.gossip_scale [--nodes N] [--messages M] [--seed S]`.

Simulated: no sockets, virtual time, one seed, which is printed and repeats the figures exactly. Links take 10 to 150 ms
and lose 5 % of all RPCs, subscriptions and grafts too; of the hostile, a fifth, each takes part in meshes and drops
every message. The targets are step 2's.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from rage_net.libp2p.gossipsub import Params
from tests.sim.gossip import Figures, play

LOSS = 0.05
HOSTILE = 0.2


@dataclass(frozen=True)
class Line:
    what: str
    value: float
    bound: str
    target: float

    @property
    def is_reached(self) -> bool:
        return self.value >= self.target if self.bound == "at least" else self.value <= self.target


def lines(honest: Figures, hostile: Figures, params: Params) -> Iterator[Line]:
    yield Line("reached within 6 heartbeats, 5 % loss, % of nodes", 100 * honest.reached, "at least", 99.9)
    yield Line("the same, of the message that fared worst", 100 * honest.worst, "at least", 99.0)
    yield Line("duplicates a node and message", honest.duplicates, "at most", 1.5 * params.d)
    yield Line("reached with 20 % of nodes hostile, % of nodes", 100 * hostile.reached, "at least", 99.0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gossip_scale", description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--messages", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    options = parser.parse_args()
    params = Params()
    print(f"seed {options.seed}, {options.nodes} nodes, {options.messages} messages, d {params.d}")
    begin = time.perf_counter()
    honest = play(options.seed, options.nodes, messages=options.messages, loss=LOSS)
    hostile = play(options.seed, options.nodes, messages=options.messages, loss=LOSS, hostile=HOSTILE)
    missed = 0
    for line in lines(honest, hostile, params):
        missed += not line.is_reached
        verdict = "reached" if line.is_reached else "MISSED "
        print(f"{line.what:52} {line.value:8.3f}  {line.bound} {line.target:<5g} {verdict}")
    for name, figures in (("all honest", honest), ("20 % hostile", hostile)):
        print(
            f"{name}: median {figures.median_s * 1e3:.0f} ms, last {figures.last_s * 1e3:.0f} ms, "
            f"mesh {figures.mesh:.2f}, duplicates {figures.duplicates:.2f}, {figures.rpcs:,} RPCs"
        )
    print(f"{missed} targets missed, {time.perf_counter() - begin:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
