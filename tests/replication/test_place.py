"""Placement: against a plain reading of the rule, and what must hold whatever the nodes are."""

from __future__ import annotations

import random
from collections.abc import Sequence

from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from rage_net.cid import RAW, Cid
from rage_net.libp2p.peer_id import PeerId
from rage_net.replication.place import (
    STRATEGIES,
    Candidate,
    Strategy,
    Topology,
    logarithms,
    mix,
    place,
    seed,
)

T = logarithms()


def peer(number: int) -> PeerId:
    return PeerId(bytes((0, 36, 8, 1, 18, 32)) + blake3(b"peer %d" % number).digest())


def cid(number: int) -> Cid:
    return Cid(RAW, blake3(b"chunk %d" % number).digest())


CIDS = [cid(number) for number in range(3000)]


def node(number: int, region: str = "", zone: str = "", weight: int = 1) -> Candidate:
    return Candidate(peer(number), "acme", region, zone, weight)


def spread(count: int, regions: int = 1, zones: int = 1, first: int = 0) -> list[Candidate]:
    """Like nodes, dealt out to regions, and within them to zones."""
    return [node(at + first, f"r{at % regions}", f"z{at // regions % zones}") for at in range(count)]


def plain(cid: Cid, candidates: Sequence[Candidate], count: int, strategy: Strategy) -> list[PeerId]:
    """The rule as it is written, one node at a time."""
    equal = strategy == "none" or len({one.weight for one in candidates}) == 1

    def key(one: Candidate) -> tuple[object, ...]:
        hashed = mix(seed(one.peer_id) ^ int.from_bytes(cid.digest[:8], "big")) >> 32
        score = hashed if equal else (T[hashed >> 16] * (720720 // one.weight) << 16) + hashed % 65536
        where = (one.region.encode(), one.zone.encode()) if "diversity" in strategy else ()
        return score, where, one.peer_id.multihash

    chosen: list[Candidate] = []
    left = list(candidates)

    def rank(one: Candidate) -> tuple[object, ...]:
        in_region = sum(other.region == one.region for other in chosen)
        in_zone = sum((other.region, other.zone) == (one.region, one.zone) for other in chosen)
        uses = {"geographic_diversity": (in_region, in_zone), "zone_diversity": (in_zone,)}
        return *uses.get(strategy, ()), key(one)

    while left and len(chosen) < count:
        chosen.append(min(left, key=rank))
        left.remove(chosen[-1])
    return [one.peer_id for one in chosen]


names = st.sampled_from(["", "a", "b", "eu", "us", "übersee"])
sets = st.lists(st.tuples(names, names, st.integers(1, 16)), max_size=24).map(
    lambda rows: [node(at, *row) for at, row in enumerate(rows)]
)
counts = st.integers(0, 32)
chunks = st.binary(min_size=32, max_size=32).map(lambda digest: Cid(RAW, digest))
strategies = st.sampled_from(STRATEGIES)


@given(chunks, sets, counts, strategies)
def test_the_fast_rule_is_the_plain_one(chunk: Cid, nodes: list[Candidate], count: int, strategy: Strategy) -> None:
    # Rounds go from the best offer down, the plain rule from the least used: the same nodes, in the same order.
    assert place(chunk, nodes, count, strategy) == plain(chunk, nodes, count, strategy)


@given(chunks, sets, counts, strategies, st.randoms(use_true_random=False))
def test_the_order_of_candidates_does_not_matter(
    chunk: Cid, nodes: list[Candidate], count: int, strategy: Strategy, shuffled: random.Random
) -> None:
    other = nodes[:]
    shuffled.shuffle(other)
    assert place(chunk, nodes, count, strategy) == place(chunk, other, count, strategy)
    assert Topology(nodes, strategy).digest == Topology(other, strategy).digest


@given(chunks, sets, counts, strategies)
def test_copies_are_distinct_and_as_many_as_there_can_be(
    chunk: Cid, nodes: list[Candidate], count: int, strategy: Strategy
) -> None:
    placed = place(chunk, nodes, count, strategy)
    assert len(placed) == len(set(placed)) == min(count, len(nodes))
    assert placed == place(chunk, nodes, 32, strategy)[:count]  # fewer copies are the first of more


@given(chunks, sets, st.integers(1, 6), strategies, st.integers(0, 23))
def test_a_node_that_was_not_placed_changes_nothing_by_leaving(
    chunk: Cid, nodes: list[Candidate], count: int, strategy: Strategy, at: int
) -> None:
    placed = place(chunk, nodes, count, strategy)
    idle = [one for one in nodes if one.peer_id not in placed]
    if idle:
        gone = idle[at % len(idle)]
        assert place(chunk, [one for one in nodes if one is not gone], count, strategy) == placed
