"""What nodes of other organisations and lying holders can do to one node's view of replication."""

from __future__ import annotations

from dataclasses import replace

from rage_net.acl import AccessList
from rage_net.online.placing import WORDS_MAX, _words
from rage_net.replication.place import CANDIDATES_MAX, Candidate
from rage_net.services.replicating.view import Node, View
from tests.replication.world import cid, node, peer


def view_of(*candidates: Candidate, grace_s: float = 10.0) -> View:
    made = View(peer(0), "geographic_diversity", grace_s, 0.0)
    made.set_nodes([Node(one, "active") for one in candidates])
    return made


def foreign(number: int) -> Candidate:
    """Of another organisation, and each in a region of its own."""
    return replace(node(10_000 + number, f"made up {number}"), organization="globex")


def test_more_nodes_of_another_organisation_than_placement_takes_leave_our_own_in_it() -> None:
    ours = [node(number) for number in range(5)]
    view = view_of(*ours, *map(foreign, range(CANDIDATES_MAX + 50)))
    topology = view.topology("acme", "globex")
    assert len(topology.candidates) == CANDIDATES_MAX
    assert set(ours) <= set(topology.candidates)
    assert set(view.topology("acme", "").candidates) == set(ours)
    assert len(view.home(cid(1), "acme", "globex", 3)) == 3


def test_nodes_that_another_organisation_only_tells_of_do_not_keep_us_from_mending() -> None:
    view = view_of(*(node(number) for number in range(5)), *map(foreign, range(100)))
    alive = {peer(number) for number in range(4)}
    view.observe(lambda who: who in alive, 0.0)
    view.observe(lambda who: who in alive, 100.0)
    assert len(view.unavailable) == 101 and not view.is_cut_off
    view.observe(lambda who: False, 200.0)
    view.observe(lambda who: False, 300.0)
    assert view.is_cut_off


def test_a_right_to_replicate_that_has_run_out_places_nothing_and_a_denial_is_never_cut_off() -> None:
    access = AccessList(
        owner="me",
        organization="acme",
        grants={"replicate": {"org:globex": 100.0, "org:birch": 300.0}},
        denials={"replicate": {"peer:early": 100.0, "peer:late": 300.0}},
    )
    assert _words("acme", access, 50.0) == ["-early", "-late", "birch", "globex"]
    assert _words("acme", access, 200.0) == ["-late", "birch"]
    many = replace(access, grants={"replicate": {f"org:{at:03}": 300.0 for at in range(WORDS_MAX)}})
    assert "-late" in _words("acme", many, 200.0)[:WORDS_MAX]
