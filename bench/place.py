"""Placements a second for 100 nodes, one core: `python -m bench.place`. 20,000 are wanted for factors 3 and 5."""

from __future__ import annotations

import time

from blake3 import blake3

from rage_net.cid import RAW, Cid
from rage_net.libp2p.peer_id import PeerId
from rage_net.replication.place import STRATEGIES, Candidate, Strategy, Topology

NODES = 100
PLACES = 20_000
ROUNDS = 3
SHAPES = (("5 regions of 4 zones", 5, 4), ("3 regions of 3 zones", 3, 3), ("1 region", 1, 1), ("50 regions", 50, 1))


def nodes(regions: int, zones: int, weights: int) -> list[Candidate]:
    def peer(at: int) -> PeerId:
        return PeerId(bytes((0, 36, 8, 1, 18, 32)) + blake3(b"%d" % at).digest())

    return [
        Candidate(peer(at), "acme", f"r{at % regions}", f"z{at // regions % zones}", at % weights + 1)
        for at in range(NODES)
    ]


def rate(topology: Topology, factor: int, cids: list[Cid]) -> float:
    """The best of some rounds, in seconds of this process: others on the machine count less."""
    topology.place(cids[0], factor)
    best = 0.0
    for _ in range(ROUNDS):
        started = time.process_time()
        for cid in cids:
            topology.place(cid, factor)
        best = max(best, len(cids) / (time.process_time() - started))
    return best


def main() -> None:
    """Print one line a case."""
    cids = [Cid(RAW, blake3(b"%d" % at).digest()) for at in range(PLACES)]
    for name, regions, zones in SHAPES:
        for words, weights in (("equal weights", 1), ("weights 1 to 16", 16)):
            strategies: tuple[Strategy, ...] = STRATEGIES if regions == 5 else ("geographic_diversity",)
            for strategy in strategies:
                topology = Topology(nodes(regions, zones, weights), strategy)
                found = ", ".join(f"factor {factor} {rate(topology, factor, cids):,.0f}/s" for factor in (3, 5))
                print(f"{NODES} nodes, {name}, {words}, {strategy}: {found}", flush=True)


if __name__ == "__main__":
    main()
