"""The view of one node: a restart is no loss, who is away is replaced, and most nodes away means that we are."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rage_net.replication.inventory import Item
from rage_net.replication.place import Candidate
from rage_net.services.replicating.view import TOPOLOGIES_MAX, UNMET_S, Node, State, View

from .replicating_world import peer_id

GRACE_S = 30.0


def node(number: int, organization: str = "acme", state: State = "active") -> Node:
    return Node(Candidate(peer_id(number), organization, f"r{number % 3}", "", 1), state)


def view(count: int = 5, now: float = 0.0) -> View:
    made = View(peer_id(0), "geographic_diversity", GRACE_S, now)
    made.set_nodes(node(number) for number in range(count))
    return made


def item(made: View, number: int, factor: int = 3, topology: str = "") -> Item:
    from tests.replication.world import cid

    home = made.home(cid(number), "acme", topology, factor)
    return Item(1, cid(number), 1, home, 0, 0, 0, 0, 0.0, "acme", "d", peer_id(9), "default", factor, 2, topology)


@pytest.mark.parametrize("started_at", [0.0, 1e6])
def test_a_restart_is_no_loss_and_who_is_silent_for_the_grace_is_lost(started_at: float) -> None:
    made = view(now=started_at)
    alive: dict[int, bool | None] = {}
    by_id = {peer_id(number): number for number in range(5)}

    def observe(at: float) -> tuple[set[int], set[int]]:
        gone, back = made.observe(lambda peer: alive.get(by_id[peer], True), started_at + at)
        return {by_id[peer] for peer in gone}, {by_id[peer] for peer in back}

    alive[0] = False  # of itself nobody is asked
    assert observe(100.0) == (set(), set())
    alive[1] = False
    assert observe(101.0) == (set(), set())
    assert observe(101.0 + GRACE_S - 0.1) == (set(), set())
    alive[1] = True
    assert observe(131.0) == (set(), set())
    alive[1] = alive[2] = False
    observe(132.0)
    assert made.is_there(peer_id(1))
    assert observe(132.0 + GRACE_S) == ({1, 2}, set())
    assert not made.is_there(peer_id(1))
    assert made.is_candidate(peer_id(1))
    assert observe(163.0) == (set(), set())
    alive[2] = True
    assert observe(164.0) == (set(), {2})
    assert made.is_there(peer_id(2))


@pytest.mark.parametrize("started_at", [0.0, 5e6])
def test_after_a_start_others_are_given_time_to_be_met(started_at: float) -> None:
    made = view(now=started_at)
    assert made.observe(lambda peer: None, started_at + 1) == (set(), set())
    assert made.observe(lambda peer: None, started_at + UNMET_S - 0.1) == (set(), set())
    gone, _ = made.observe(lambda peer: None, started_at + UNMET_S + 0.1)
    assert len(gone) == 4
    made.set_nodes([*made.nodes.values(), node(7)])
    later = started_at + 500
    assert made.observe(lambda peer: None if peer == peer_id(7) else True, later)[0] == set()
    assert made.observe(lambda peer: None if peer == peer_id(7) else True, later + GRACE_S)[0] == {peer_id(7)}


def test_most_nodes_away_means_that_we_are_cut_off() -> None:
    made = view(5)
    away: set[int] = set()

    def lose(*numbers: int) -> bool:
        away.update(numbers)
        for at in (100.0, 200.0):
            made.observe(lambda peer: peer not in map(peer_id, away), at)
        return made.is_cut_off

    assert not lose(1)
    assert not lose(2)
    assert lose(3)
    made.set_nodes([node(0), node(1), node(2, state="lost"), node(3, state="drained"), node(4)])
    lose()
    assert not made.is_cut_off  # one of three that count
    assert not made.is_there(peer_id(2))


def test_what_a_node_may_be_asked_for_depends_on_its_state() -> None:
    made = view(1)
    made.set_nodes([node(0), node(1, state="drained"), node(2, state="lost")])
    assert [made.is_there(peer_id(number)) for number in range(4)] == [True, True, False, False]
    assert [made.is_candidate(peer_id(number)) for number in range(4)] == [True, False, False, False]
    assert made.home(item(made, 1).cid, "acme", "", 3) == (peer_id(0),)


def test_only_what_moves_chunks_changes_the_digest() -> None:
    made = view(3)
    before = made.digest
    assert not made.set_nodes([node(2), node(1), node(0)])
    assert made.digest == before
    assert made.set_nodes([node(0), node(1), node(2, state="drained")])
    drained = made.digest
    assert drained != before
    assert made.set_nodes([node(0), node(1), node(2, state="lost")])
    assert made.digest == drained  # of both nothing is placed
    made.set_nodes([node(0), node(1), Node(Candidate(peer_id(2), "acme", "elsewhere", "", 1), "active")])
    assert made.digest not in (before, drained)


def test_words_say_whose_nodes_may_hold_a_document() -> None:
    made = view(1)
    made.set_nodes([node(0), node(1), node(2, "globex"), node(3, "initech")])

    def names(words: str) -> set[int]:
        topology = made.topology("acme", words)
        return {number for number in range(4) if peer_id(number) in [each.peer_id for each in topology.candidates]}

    assert names("") == {0, 1}
    assert names("globex") == {0, 1, 2}
    assert names("globex,initech,-org:globex") == {0, 1, 3}
    assert names(f"-{peer_id(1)}") == {0}
    assert names("-org:acme") == set()
    assert made.home(item(made, 1).cid, "acme", "-org:acme", 3) == ()
    assert made.coordinator(item(made, 1, topology="-org:acme")) is None


def test_topologies_are_kept_within_bounds() -> None:
    made = view(3)
    for number in range(TOPOLOGIES_MAX + 10):
        made.topology("acme", f"org{number}")
    assert len(made._topologies) <= TOPOLOGIES_MAX
    assert made.topology("acme", "") is made.topology("acme", "")


@given(st.integers(0, 10_000), st.sets(st.integers(1, 7), max_size=6), st.integers(1, 6))
def test_others_stand_in_for_those_that_are_away_and_nobody_else_moves(
    number: int, away: set[int], factor: int
) -> None:
    made = view(8)
    chunk = item(made, number, factor)
    assert made.acting(chunk) == list(chunk.home)
    assert made.coordinator(chunk) == chunk.home[0]
    for at in (100.0, 200.0):
        made.observe(lambda peer: peer not in map(peer_id, away), at)
    acting = made.acting(chunk)
    assert len(acting) == len(set(acting)) == min(factor, 8 - len(away))
    assert not {peer_id(each) for each in away}.intersection(acting)
    stays = [peer for peer in chunk.home if peer not in made.unavailable]
    assert set(stays[: len(acting)]) <= set(acting)
    assert made.coordinator(chunk) == (stays or acting)[0]
    assert made.acting(chunk, chunk.home) == made.acting(chunk, [*chunk.home, *made.unavailable])
    assert not set(made.acting(chunk, chunk.home)).intersection(chunk.home)


def test_views_that_differ_agree_on_all_but_the_places_of_who_differs(rng: random.Random) -> None:
    ours, theirs = view(7), view(7)
    for at in (100.0, 200.0):
        ours.observe(lambda peer: peer != peer_id(3), at)
        theirs.observe(lambda peer: peer != peer_id(4), at)
    for number in rng.sample(range(100_000), 100):
        chunk = item(ours, number)
        held = set(ours.acting(chunk)) & set(theirs.acting(chunk))
        assert len(held) >= 3 - len({peer_id(3), peer_id(4)}.intersection(chunk.home))


def test_spread_tells_of_those_that_are_known() -> None:
    made = view(3)
    assert [each.peer_id for each in made.spread([peer_id(2), peer_id(99)])] == [peer_id(2)]
