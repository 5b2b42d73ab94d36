"""Placement: against a plain reading of the rule, and what must hold whatever the nodes are."""

from __future__ import annotations

import collections
import itertools
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from rage_net.cid import RAW, Cid
from rage_net.libp2p.peer_id import PeerId
from rage_net.replication.place import (
    CANDIDATES_MAX,
    STRATEGIES,
    Candidate,
    Strategy,
    Topology,
    logarithms,
    mix,
    place,
    seed,
)
from tests.replication.world import cid, node, peer, spread

T = logarithms()
CIDS = [cid(number) for number in range(12_000)]


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


@given(chunks, sets, st.integers(1, 6), strategies, st.integers(0, 5))
def test_a_node_that_was_placed_moves_its_own_copy_and_no_other(
    chunk: Cid, nodes: list[Candidate], count: int, strategy: Strategy, at: int
) -> None:
    placed = place(chunk, nodes, count, strategy)
    if not placed:
        return
    gone = placed[at % len(placed)]
    after = place(chunk, [one for one in nodes if one.peer_id != gone], count, strategy)
    assert len(set(after) - set(placed)) == (1 if len(nodes) > len(placed) else 0)


def moved(before: Topology, after: Topology, cids: Sequence[Cid], count: int) -> float:
    """The share of all replicas that is newly placed."""
    old = [one.peer_id for one in before.candidates]
    new = [one.peer_id for one in after.candidates]
    total = 0
    for chunk in cids:
        total += len({new[at] for at in after.place(chunk, count)} - {old[at] for at in before.place(chunk, count)})
    return total / len(cids) / count


# Every case with 400 moves to be expected at least, so that 1.2 is four deviations away.
@pytest.mark.parametrize("factor", [1, 2, 3, 5])
@pytest.mark.parametrize(("nodes", "regions", "zones"), [(5, 1, 1), (5, 5, 1), (6, 3, 2), (12, 3, 2), (30, 3, 3)])
def test_one_of_n_like_nodes_moves_at_most_1_2_nths(nodes: int, regions: int, zones: int, factor: int) -> None:
    whole = spread(nodes, regions, zones)
    cids = CIDS[: max(1000, 400 * nodes // factor)]
    for strategy in STRATEGIES if nodes == 6 else ("geographic_diversity",):
        full = Topology(whole, strategy)
        assert moved(full, Topology(whole[1:], strategy), cids, factor) <= 1.2 / nodes  # one is lost
        more = Topology([*whole, node(nodes, "r0", "z0")], strategy)
        assert 0 < moved(full, more, cids, factor) <= 1.2 / nodes  # one is added
        assert moved(more, full, cids, factor) <= 1.2 / nodes


@pytest.mark.parametrize(("regions", "factor"), [(1, 5), (5, 5)])
def test_one_of_a_hundred_like_nodes_moves_at_most_1_2_hundredths(regions: int, factor: int) -> None:
    whole = spread(100, regions, 2)
    full = Topology(whole, "geographic_diversity")
    assert moved(full, Topology(whole[1:], "geographic_diversity"), CIDS[:8000], factor) <= 0.012
    more = Topology([*whole, node(100, "r0", "z0")], "geographic_diversity")
    assert moved(full, more, CIDS[:8000], factor) <= 0.012


def test_in_unlike_regions_a_node_moves_its_own_share_and_no_more() -> None:
    whole = [*(node(at, "big") for at in range(9)), node(9, "small")]
    full, less = Topology(whole, "geographic_diversity"), Topology(whole[:9], "geographic_diversity")
    assert moved(full, less, CIDS[:500], 2) == 0.5  # it held one copy of everything


def loads(topology: Topology, cids: Sequence[Cid], count: int) -> list[float]:
    """The share of the chunks that each candidate holds."""
    found = collections.Counter(at for chunk in cids for at in topology.place(chunk, count))
    return [found[at] / len(cids) for at in range(len(topology.candidates))]


@pytest.mark.parametrize("strategy", ["capacity", "geographic_diversity", "zone_diversity"])
def test_loads_follow_weights(strategy: Strategy) -> None:
    weights = (1, 2, 3, 5, 8, 13, 16, 16)
    topology = Topology([node(at, "eu", "a", weight) for at, weight in enumerate(weights)], strategy)
    for one, share in zip(topology.candidates, loads(topology, CIDS, 1), strict=True):
        wanted = one.weight / sum(weights)
        assert abs(share - wanted) <= 4 * math.sqrt(wanted * (1 - wanted) / len(CIDS)), one.weight


def test_where_weights_are_ignored_loads_are_even() -> None:
    topology = Topology([node(at, "eu", "a", at % 16 + 1) for at in range(10)], "none")
    assert all(abs(share - 0.3) < 0.02 for share in loads(topology, CIDS, 3))


def test_equal_weights_place_as_their_tables_would() -> None:
    alike = [node(at, "eu", "a", 3) for at in range(20)]
    heavy = Topology([*alike, node(20, "us", "a", 1)], "geographic_diversity")  # weighed, as weights differ
    plainly = Topology(alike, "geographic_diversity")
    for chunk in CIDS[:300]:
        among = [heavy.candidates[at].peer_id for at in heavy.place(chunk, 21)]
        assert [one for one in among if one != peer(20)] == [
            plainly.candidates[at].peer_id for at in plainly.place(chunk, 20)
        ]


# --- places -----------------------------------------------------------------------------------------------------------


def where(chunk: Cid, nodes: list[Candidate], count: int, strategy: Strategy, *, zones: bool = False) -> list[str]:
    by_peer = {one.peer_id: f"{one.region}/{one.zone}" if zones else one.region for one in nodes}
    return [by_peer[one] for one in place(chunk, nodes, count, strategy)]


def test_five_copies_in_three_regions_are_two_two_and_one() -> None:
    nodes = spread(30, 3, 2)
    for chunk in CIDS[:200]:
        split = collections.Counter(where(chunk, nodes, 5, "geographic_diversity"))
        assert sorted(split.values()) == [1, 2, 2]
        zones = where(chunk, nodes, 5, "geographic_diversity", zones=True)
        assert len(set(zones)) == 5  # and the two of one region in two zones


def test_zones_are_told_apart_by_their_region() -> None:
    nodes = [node(0, "eu", "a"), node(1, "eu", "a"), node(2, "us", "a"), node(3, "us", "b")]
    for chunk in CIDS[:100]:
        assert set(where(chunk, nodes, 3, "zone_diversity", zones=True)) == {"eu/a", "us/a", "us/b"}
    assert place(CIDS[0], [node(0, "ab", "c"), node(1, "a", "bc")], 2, "zone_diversity")


def test_all_nodes_in_one_region_are_spread_over_its_zones_and_then_over_nodes() -> None:
    nodes = spread(12, 1, 3)
    for chunk in CIDS[:100]:
        split = collections.Counter(where(chunk, nodes, 7, "geographic_diversity", zones=True))
        assert sorted(split.values()) == [2, 2, 3]


def test_a_region_that_vanishes_moves_its_own_copies_alone() -> None:
    nodes = spread(12, 3)
    left = [one for one in nodes if one.region != "r1"]
    for chunk in CIDS[:300]:
        before, after = (place(chunk, some, 3, "geographic_diversity") for some in (nodes, left))
        assert {one for one in before if one in {two.peer_id for two in left}} <= set(after)
        assert len(set(after)) == 3


def test_a_factor_above_the_number_of_nodes_takes_them_all() -> None:
    nodes = spread(4, 2, 2)
    for strategy in STRATEGIES:
        assert set(place(CIDS[0], nodes, 32, strategy)) == {one.peer_id for one in nodes}
        assert place(CIDS[0], nodes, 0, strategy) == place(CIDS[0], [], 3, strategy) == []


# --- limits and vectors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node(1), node(2), node(1, "eu")], "is a candidate twice"),
        ([node(1, weight=0)], "a weight is from 1 to 16"),
        ([node(1, weight=17)], "a weight is from 1 to 16"),
    ],
)
def test_candidates_that_no_record_names_are_refused(nodes: list[Candidate], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Topology(nodes, "capacity")


def test_more_candidates_than_the_limit_are_refused_before_they_are_read() -> None:
    endless = (node(number % 7) for number in iter(int, 1))
    with pytest.raises(ValueError, match=f"more than {CANDIDATES_MAX}"):
        Topology(endless, "none")
    with pytest.raises(ValueError, match="there are geographic_diversity, zone_diversity, capacity, none"):
        Topology([], "nearest")  # type: ignore[arg-type]


def test_the_digest_tells_candidates_and_strategy_apart() -> None:
    nodes = [node(1, "eu", "a"), node(2, "eu", "b")]
    others = [
        [nodes[0]],
        [nodes[0], node(2, "eub", "")],
        [nodes[0], node(2, "eu", "b", 2)],
        [nodes[0], node(3, "eu", "b")],
    ]
    found = {Topology(some, "capacity").digest for some in (nodes, *others)} | {Topology(nodes, "none").digest}
    assert len(found) == 6 and all(len(digest) == 16 for digest in found)


def test_the_table_is_the_logarithm() -> None:
    assert len(T) == 1 << 16
    assert all(T[i] == math.floor(2**24 * (17 - math.log2(131_071 - 2 * i))) for i in range(1 << 16))
    assert all(one < other for one, other in itertools.pairwise(T))


VECTORS = json.loads((Path(__file__).parents[2] / "contracts/vectors/placement.json").read_text())


def test_the_committed_vectors_of_each_step() -> None:
    for row in VECTORS["mix"]:
        assert f"{mix(int(row['in'], 16)):016x}" == row["out"]
    for row in VECTORS["seeds"]:
        assert f"{seed(PeerId.parse(row['peer'])):016x}" == row["seed"]
    table = b"".join(entry.to_bytes(4, "big") for entry in T)
    assert blake3(table).hexdigest() == VECTORS["table"]["blake3"]
    assert [T[int(at)] for at in VECTORS["table"]["entries"]] == list(VECTORS["table"]["entries"].values())


@pytest.mark.parametrize("row", VECTORS["topologies"], ids=lambda row: f"{row['name']}, {row['strategy']}")
def test_the_committed_vectors_of_placement(row: dict[str, Any]) -> None:
    candidates = [
        Candidate(PeerId.parse(one["peer"]), one["organization"], one["region"], one["zone"], one["weight"])
        for one in row["candidates"]
    ]
    topology = Topology(candidates, row["strategy"])
    assert topology.digest.hex() == row["digest"]
    for text, indices in row["places"].items():
        chunk = Cid.parse(text)
        assert topology.place(chunk, row["count"]) == indices
        assert plain(chunk, candidates, row["count"], row["strategy"]) == [
            topology.candidates[at].peer_id for at in indices
        ]
