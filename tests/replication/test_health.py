"""Health: the matching against trying everything, and the words for what it shows."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rage_net.replication.health import Health, Slot, assess, match, slots
from rage_net.replication.place import STRATEGIES, Candidate, Strategy
from tests.replication.world import node

EU, EU_2, EU_3 = node(1, "eu", "a"), node(2, "eu", "b"), node(3, "eu", "c")
US, US_2 = node(4, "us", "a"), node(5, "us", "b")
ASIA = node(6, "asia", "a")

places = st.tuples(st.sampled_from("ab"), st.sampled_from("xy"))
nodes = st.lists(places, min_size=1, max_size=7).map(
    lambda rows: [node(at, region, zone) for at, (region, zone) in enumerate(rows)]
)


def tried(wanted: tuple[Slot, ...], holders: list[Candidate]) -> int:
    """The most slots that any order of the holders fills."""
    rows = [*holders, *[None] * len(wanted)]
    return max(
        sum(holder is not None and slot.takes(holder) for slot, holder in zip(wanted, order, strict=True))
        for order in set(itertools.permutations(rows, len(wanted)))
    )


@given(nodes, st.data(), st.sampled_from(STRATEGIES))
def test_the_matching_is_the_greatest(all_nodes: list[Candidate], data: st.DataObject, strategy: Strategy) -> None:
    home = data.draw(st.lists(st.sampled_from(all_nodes), unique=True, min_size=1, max_size=3))
    holders = data.draw(st.lists(st.sampled_from(all_nodes), unique=True, max_size=4))
    wanted = slots(home, strategy)
    assert match(wanted, holders) == tried(wanted, holders) == match(wanted, holders + holders)


@pytest.mark.parametrize(
    ("holders", "matched", "state"),
    [
        ((EU, US, ASIA), 3, "ok"),
        ((ASIA, EU, US), 3, "ok"),
        ((EU_2, US_2, ASIA), 3, "ok"),  # others of the same regions stand in
        ((EU, US), 2, "under"),
        ((EU, EU, US), 2, "under"),  # one holder told twice is one copy
        ((), 0, "under"),
        ((EU, EU_2, EU_3), 1, "misplaced"),  # three copies, one region
        ((EU, EU_2, US, US_2), 2, "misplaced"),  # more than enough, and a region without
        ((EU, EU_2, US, ASIA), 3, "over"),
    ],
)
def test_what_holders_come_to(holders: tuple[Candidate, ...], matched: int, state: str) -> None:
    found = assess((EU, US, ASIA), holders, 3, "geographic_diversity")
    assert (found.wanted, found.copies, found.matched, found.state) == (3, len(set(holders)), matched, state)


def test_a_home_node_gives_way_where_it_can_stand_elsewhere() -> None:
    # EU is home of the first slot and EU_2 of the second: no holder counts where another one is needed.
    assert match(slots((EU, EU_2, US), "zone_diversity"), (EU_2, US)) == 2
    assert match((Slot(EU.peer_id, "eu"), Slot(EU_2.peer_id, "nowhere")), (EU_2, EU_3)) == 2


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_who_may_stand_in_depends_on_the_strategy(strategy: Strategy) -> None:
    stand_ins = {
        "geographic_diversity": {EU_2, EU_3},
        "zone_diversity": {node(9, "eu", "a")},
        "capacity": {EU_2, US, ASIA},
        "none": {EU_2, US, ASIA},
    }[strategy]
    candidates = {EU_2, EU_3, US, ASIA, node(9, "us", "a")} | stand_ins
    found = {one for one in candidates if match(slots((EU,), strategy), (one,)) == 1}
    assert stand_ins <= found
    assert (found == candidates) is (strategy in ("capacity", "none"))


def test_a_factor_above_the_number_of_nodes_stays_under() -> None:
    assert assess((EU, US), (EU, US), 3, "geographic_diversity") == Health(3, 2, 2, "under")


def test_a_region_that_vanished_leaves_its_slot_unfilled_until_placement_names_others() -> None:
    gone = assess((EU, US, ASIA), (EU, US, EU_2), 3, "geographic_diversity")
    assert (gone.matched, gone.state) == (2, "misplaced")
    assert assess((EU, US, EU_2), (EU, US, EU_2), 3, "geographic_diversity").state == "ok"
