"""Regions and the schedule: what one crawl covers, what is due, and what a restart remembers."""

from __future__ import annotations

import random

import pytest

from rage_net.libp2p.kad.contact import Contact
from rage_net.libp2p.kad.keys import K, place_of
from rage_net.libp2p.kad.records import REPUBLISH_S
from rage_net.libp2p.kad.regions import WIDTH, Region, keepers, region_of
from rage_net.libp2p.kad.schedule import RETRY_S, Schedule
from tests.libp2p.dht_world import multihash, peer_id

EVERYWHERE = Region(0, 0, ())


def network(rng: random.Random, count: int) -> list[Contact]:
    return [Contact.of(peer_id(rng), ()) for _ in range(count)]


def keys(count: int) -> list[bytes]:
    return [multihash(b"%d" % number) for number in range(count)]


def nearest(peers: list[Contact], place: int, count: int) -> list[Contact]:
    return sorted(peers, key=lambda peer: peer.place ^ place)[:count]


@pytest.mark.parametrize("count", [100, 1000, 5000])
def test_every_key_of_a_region_has_its_true_nearest_among_the_regions_peers(rng: random.Random, count: int) -> None:
    peers = network(rng, count)
    right = total = 0
    for _ in range(5):
        target = rng.getrandbits(256)
        region = region_of(target, nearest(peers, target, WIDTH))
        assert target in region
        low, high = region.range
        for _ in range(20):
            place = rng.randrange(low, high)
            right += len(set(keepers(place, region.peers)) & set(nearest(peers, place, K)))
            total += K
    assert right / total > 0.97  # a subtree may hold fewer than 20 of the 80 by chance


def test_few_peers_are_a_region_that_is_everything(rng: random.Random) -> None:
    peers = network(rng, WIDTH - 1)
    region = region_of(7, nearest(peers, 7, WIDTH))
    assert region.range == (0, 1 << 256)
    assert set(region.peers) == set(peers)


def test_peers_behind_the_nearest_make_no_region_wider(rng: random.Random) -> None:
    peers = network(rng, 2000)
    target = rng.getrandbits(256)
    near = nearest(peers, target, len(peers))
    assert region_of(target, near[:WIDTH]).range == region_of(target, near[: WIDTH + 500 : 1]).range


def test_of_one_group_two_keep_a_key_while_there_are_others(rng: random.Random) -> None:
    crowd = [Contact(peer.peer_id, (), peer.place, ("crowd",)) for peer in network(rng, 60)]
    others = network(rng, 40)
    chosen = keepers(5, [*crowd, *others])
    assert len(chosen) == K and sum(bool(peer.groups) for peer in chosen) <= 2
    assert len(keepers(5, [*crowd, *others[:4]])) == K
    assert [peer.place ^ 5 for peer in chosen] == sorted(peer.place ^ 5 for peer in chosen)


def test_new_keys_are_due_at_once_and_then_once_an_interval() -> None:
    schedule = Schedule()
    schedule.set_keys(keys(10))
    assert schedule.next_key(100.0) in keys(10)
    due = schedule.in_region(EVERYWHERE, 100.0)
    assert sorted(due) == sorted(keys(10))
    assert [place_of(key) for key in due] == sorted(map(place_of, due))
    schedule.announced(due, 100.0)
    assert schedule.next_key(100.0 + REPUBLISH_S - 1) is None
    assert schedule.next_timeout() == 100.0 + REPUBLISH_S
    assert schedule.next_key(100.0 + REPUBLISH_S) is not None


def test_what_failed_is_tried_again_soon() -> None:
    schedule = Schedule()
    schedule.set_keys(keys(2))
    schedule.failed(keys(2), 50.0)
    assert schedule.next_key(50.0 + RETRY_S - 1) is None
    assert schedule.next_key(50.0 + RETRY_S) is not None


def test_a_key_that_was_put_alone_joins_its_neighbours() -> None:
    schedule = Schedule(interval_s=100.0)
    one, other, late = keys(3)
    schedule.set_keys([one, other])
    schedule.announced([one], 0.0)
    schedule.announced([other], 40.0)
    schedule.add(late)
    schedule.announced([late], 90.0)
    assert set(schedule.in_region(EVERYWHERE, 100.0)) == {one, other}  # `late` is a tenth of an interval old


def test_a_key_that_is_let_go_is_not_announced_any_more() -> None:
    schedule = Schedule()
    schedule.set_keys(keys(3))
    schedule.discard(keys(1)[0])
    assert set(schedule.in_region(EVERYWHERE, 0.0)) == set(keys(3)[1:])
    schedule.set_keys(keys(2))
    assert set(schedule.in_region(EVERYWHERE, 0.0)) == set(keys(2))
    assert len(schedule) == 2


def test_a_restart_goes_on_where_it_stopped() -> None:
    schedule = Schedule()
    schedule.set_keys(keys(100))
    schedule.announced(keys(60), 1000.0)
    text = schedule.to_text()
    for loads_first in (True, False):
        again = Schedule()
        if loads_first:
            again.load_text(text, 2000.0)
        again.set_keys(keys(101))
        if not loads_first:
            again.load_text(text, 2000.0)
        assert set(again.in_region(EVERYWHERE, 1000.0)) == set(keys(101)[60:])
        again.announced(again.in_region(EVERYWHERE, 1000.0), 2000.0)
        assert again.next_key(2001.0) is None
        assert again.next_key(1000.0 + REPUBLISH_S) in keys(60)


def test_lines_that_cannot_be_read_and_times_that_cannot_be_are_due_at_once() -> None:
    (key,) = keys(1)
    prefix = f"{place_of(key):064x}"[:24]
    for text in (f"{prefix} nan\n", f"{prefix} {9e18:.0f}\n", f"{prefix}\n", "x y\n", "\0" * 1000, f"{prefix} zz"):
        schedule = Schedule()
        schedule.load_text(text, 100.0)
        schedule.set_keys([key])
        assert schedule.next_key(100.0) == key


def test_a_hundred_thousand_keys_are_few_regions() -> None:
    rng = random.Random(1)
    schedule = Schedule()
    many = [rng.randbytes(34) for _ in range(100_000)]
    schedule.set_keys(many)
    regions = 0
    while (key := schedule.next_key(0.0)) is not None:
        region = Region(place_of(key), 6, ())
        schedule.announced(schedule.in_region(region, 0.0), 0.0)
        regions += 1
    assert regions == 64
