"""Look-ups as a state machine: who is asked, when, and who is believed. No network, no clock."""

from __future__ import annotations

import random

import pytest

from rage_net.libp2p.kad.contact import Contact
from rage_net.libp2p.kad.groups import groups_of
from rage_net.libp2p.kad.keys import K, place_of
from rage_net.libp2p.kad.lookup import ALPHA, ASKED_MAX, CANDIDATES_MAX, OUT_MAX, SLOT_S, LookUp, State
from rage_net.libp2p.kad.messages import PeerInfo
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from tests.libp2p.dht_world import peer_id

TARGET = place_of(b"target")


def at(number: int, network: int = 0) -> Multiaddr:
    return Multiaddr.parse(f"/ip4/60.{network // 256}.{network % 256}.{number % 250 + 1}/tcp/4001")


def groups(who: PeerId, addresses: tuple[Multiaddr, ...]) -> tuple[object, ...]:
    return groups_of(who, addresses, None)


def contacts(rng: random.Random, count: int, *, network: int | None = None) -> list[Contact]:
    """Nearest to TARGET first; each in a network of its own, unless one is given."""
    made = []
    for number in range(count):
        who, address = peer_id(rng), at(number, number if network is None else network)
        made.append(Contact.of(who, [address], groups(who, (address,))))
    return sorted(made, key=lambda contact: contact.place ^ TARGET)


def told(*peers: Contact) -> list[PeerInfo]:
    return [PeerInfo(peer.peer_id, peer.addresses) for peer in peers]


def look(rng: random.Random, seeds: list[Contact], **more: object) -> LookUp:
    options = {"own": peer_id(rng), "deadline": 30.0, "groups": groups, **more}
    return LookUp(TARGET, seeds, **options)  # type: ignore[arg-type]


def ids(asked: list[object]) -> list[PeerId]:
    return [candidate.contact.peer_id for candidate in asked]  # type: ignore[attr-defined]


def test_alpha_questions_are_out_at_a_time_nearest_first(rng: random.Random) -> None:
    peers = contacts(rng, 12)
    one = look(rng, peers)
    assert ids(one.next_asks(0.0)) == [peer.peer_id for peer in peers[:ALPHA]]
    assert one.next_asks(0.0) == []
    one.answered(peers[2].peer_id, [])
    assert ids(one.next_asks(0.1)) == [peers[ALPHA].peer_id]


def test_a_slow_peer_frees_its_slot_and_its_answer_still_counts(rng: random.Random) -> None:
    peers = contacts(rng, 12)
    one = look(rng, peers)
    one.next_asks(0.0)
    assert one.next_timeout(0.0) == pytest.approx(SLOT_S)
    assert len(one.next_asks(SLOT_S)) == ALPHA
    one.answered(peers[0].peer_id, [])
    assert one.nearest() == [peers[0]]


def test_no_more_than_out_max_questions_wait_for_the_silent(rng: random.Random) -> None:
    one = look(rng, contacts(rng, 100), width=100)
    asked = sum(len(one.next_asks(step * SLOT_S)) for step in range(50))
    assert asked == OUT_MAX


def test_the_end_comes_when_the_nearest_have_answered_and_not_before(rng: random.Random) -> None:
    peers = contacts(rng, 40)
    one = look(rng, peers)
    now = 0.0
    while not one.is_done(now):
        for candidate in one.next_asks(now):
            one.answered(candidate.contact.peer_id, [])
        now += 0.01
    assert one.nearest() == peers[:K]
    assert one.asked == K


def test_the_dead_are_not_asked_again_however_often_they_are_named(rng: random.Random) -> None:
    peers = contacts(rng, 8)
    dead, witnesses = peers[0], peers[1:]
    one = look(rng, peers)
    one.next_asks(0.0)
    one.failed_to_answer(dead.peer_id)
    for witness in witnesses:
        one.next_asks(0.0)
        assert one.answered(witness.peer_id, told(dead)) == []
    assert one.is_done(0.0)
    assert one.nearest() == witnesses
    assert one.asked == 8 and one.failed == 1


def test_a_dead_peer_is_tried_again_at_an_address_that_was_not_tried(rng: random.Random) -> None:
    peers = contacts(rng, 3)
    hidden, liar, honest = peers
    one = look(rng, [liar, honest])
    one.next_asks(0.0)
    one.answered(liar.peer_id, [PeerInfo(hidden.peer_id, (at(9, 99),))])
    assert one.next_asks(0.0)[0].contact.addresses == (at(9, 99),)
    one.failed_to_answer(hidden.peer_id)
    one.answered(honest.peer_id, told(hidden))
    again = one.next_asks(0.0)
    assert ids(again) == [hidden.peer_id] and again[0].contact.addresses == hidden.addresses
    one.answered(hidden.peer_id, [], hidden.addresses[0], hidden.addresses)
    assert hidden.peer_id in [contact.peer_id for contact in one.nearest()]


def test_an_answer_gives_at_most_20_peers_and_neither_ourselves_nor_the_one_who_answers(rng: random.Random) -> None:
    seed = contacts(rng, 1)[0]
    own = peer_id(rng)
    one = look(rng, [seed], own=own)
    one.next_asks(0.0)
    many = contacts(rng, 1000)
    new = one.answered(seed.peer_id, [PeerInfo(own, (at(1),)), PeerInfo(seed.peer_id, (at(2),)), *told(*many)])
    assert len(new) == K - 2
    assert own not in {contact.peer_id for contact in new}


def test_a_peer_without_an_address_is_no_hint(rng: random.Random) -> None:
    seed = contacts(rng, 1)[0]
    one = look(rng, [seed])
    one.next_asks(0.0)
    assert one.answered(seed.peer_id, [PeerInfo(peer_id(rng))]) == []
    assert one.is_done(0.0)


def test_distances_are_computed_here_whatever_order_an_answer_has(rng: random.Random) -> None:
    seed, *others = contacts(rng, 11)
    one = look(rng, [seed])
    one.next_asks(0.0)
    one.answered(seed.peer_id, told(*reversed(others)))
    assert ids(one.next_asks(0.0)) == [peer.peer_id for peer in others[:ALPHA]]


def test_who_was_not_asked_cannot_answer(rng: random.Random) -> None:
    one = look(rng, contacts(rng, 2))
    assert one.answered(peer_id(rng), told(*contacts(rng, 5))) == []
    one.failed_to_answer(peer_id(rng))
    assert (one.asked, one.failed) == (0, 0)


def test_of_one_network_two_are_among_the_nearest_while_there_are_others(rng: random.Random) -> None:
    crowd = contacts(rng, 30, network=7)
    others = contacts(rng, 30)
    one = look(rng, [*crowd, *others])
    now = 0.0
    while not one.is_done(now):
        for candidate in one.next_asks(now):
            contact = candidate.contact
            one.answered(contact.peer_id, [], contact.addresses[0], contact.addresses)
        now += 0.01
    nearest = {contact.peer_id for contact in one.nearest()}
    assert len(nearest) == K
    assert len(nearest & {peer.peer_id for peer in crowd}) <= 2


def test_where_one_network_is_all_there_is_its_peers_fill_the_places(rng: random.Random) -> None:
    crowd = contacts(rng, 10, network=7)
    one = look(rng, crowd)
    now = 0.0
    while not one.is_done(now):
        for candidate in one.next_asks(now):
            one.answered(candidate.contact.peer_id, [], candidate.contact.addresses[0])
        now += 0.01
    assert [contact.peer_id for contact in one.nearest()] == [peer.peer_id for peer in crowd]


def test_a_claimed_network_counts_until_the_peer_is_reached_elsewhere(rng: random.Random) -> None:
    crowd, honest = contacts(rng, 40), contacts(rng, 40)
    one = look(rng, [*crowd, *honest])
    now = 0.0
    while not one.is_done(now):
        for candidate in one.next_asks(now):
            contact = candidate.contact
            is_liar = contact in crowd
            one.answered(contact.peer_id, [], at(1, 9000) if is_liar else contact.addresses[0])
        now += 0.01
    liars = {contact.peer_id for contact in one.nearest()} & {peer.peer_id for peer in crowd}
    assert len(liars) <= 2


def test_who_tells_of_many_that_are_not_there_is_not_believed(rng: random.Random) -> None:
    liar, honest = contacts(rng, 2)
    one = look(rng, [liar, honest])
    one.next_asks(0.0)
    made_up = contacts(rng, 20)
    one.answered(liar.peer_id, told(*made_up))
    one.answered(honest.peer_id, [])
    now = 0.0
    while not one.is_done(now):
        for candidate in one.next_asks(now):
            one.failed_to_answer(candidate.contact.peer_id)
        now += 0.01
    assert 7 <= one.failed <= 12


def test_the_deadline_ends_it(rng: random.Random) -> None:
    one = look(rng, contacts(rng, 3), deadline=1.0)
    assert one.next_timeout(0.9) == 1.0
    assert not one.is_done(0.9)
    assert one.is_done(1.0)
    assert one.next_asks(1.0) == []


def test_memory_and_questions_are_bounded_though_peers_are_made_up_without_end(rng: random.Random) -> None:
    one = look(rng, contacts(rng, 5), deadline=1e9)
    now = 0.0
    while not one.is_done(now):
        for candidate in one.next_asks(now):
            one.answered(candidate.contact.peer_id, told(*contacts(rng, K)))
        now += 0.01
    assert one.asked <= ASKED_MAX
    assert len(one._sorted) <= CANDIDATES_MAX
    assert sum(candidate.state is State.ANSWERED for candidate in one._sorted) == one.asked
