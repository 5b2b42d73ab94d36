"""What others leave: provider records and values, their caps and their end; rates; what may be told to whom."""

from __future__ import annotations

import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rage_net.libp2p.kad import rates, values
from rage_net.libp2p.kad.groups import groups_of, network_of
from rage_net.libp2p.kad.keys import distance_bits, place_of, raw_key_near
from rage_net.libp2p.kad.messages import Kind
from rage_net.libp2p.kad.rates import AskingRates
from rage_net.libp2p.kad.records import EXPIRY_S, GRAIN_S, PROVIDERS_PER_KEY_MAX, TOLD_MAX, Providers
from rage_net.libp2p.kad.values import ValueRefusedError, Values
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId, encode_public_key
from rage_net.libp2p.scope import Scope, may_tell, scope_of
from tests.libp2p.dht_world import address, peer_id

PLACE = address("/ip4/192.0.2.1/tcp/1")


# -- providers


def test_a_record_is_there_until_it_expires_and_an_announcement_renews_it(rng: random.Random) -> None:
    store, who = Providers(rng), peer_id(rng)
    assert store.add(b"key", who, (PLACE,), 0.0)
    assert store.add(b"key", who, (PLACE,), EXPIRY_S / 2)
    assert len(store) == 1
    assert [one.peer_id for one in store.get(b"key", EXPIRY_S + GRAIN_S)] == [who]
    assert store.get(b"key", 1.5 * EXPIRY_S + GRAIN_S) == []
    assert store.expire(EXPIRY_S + GRAIN_S) == 0
    assert store.expire(1.5 * EXPIRY_S + GRAIN_S) == 1
    assert len(store) == 0 and not store._held and not store._owners and not store._due


def test_one_peer_has_at_most_half_and_leaves_room_for_others(rng: random.Random) -> None:
    store, flood, other = Providers(rng, records_max=1000), peer_id(rng), peer_id(rng)
    taken = sum(store.add(b"%d" % number, flood, (), 0.0) for number in range(5000))
    assert taken == 500
    assert store.add(b"mine", other, (), 0.0)
    for _ in range(50):
        who = peer_id(rng)
        for number in range(100):
            store.add(b"%d" % number, who, (), 0.0)
    assert len(store) <= 1000


def test_renewal_needs_no_room(rng: random.Random) -> None:
    store, who = Providers(rng, records_max=10), peer_id(rng)
    while store.add(rng.randbytes(4), who, (), 0.0):
        pass
    key = next(iter(store._held))
    assert store.add(key, who, (), 2 * GRAIN_S)


def test_many_names_of_one_network_push_out_each_other_and_no_honest_provider(rng: random.Random) -> None:
    store, honest = Providers(rng), [peer_id(rng) for _ in range(10)]
    for number, who in enumerate(honest):
        store.add(b"key", who, (), 0.0, group=number)
    for number in range(500):
        assert store.add(b"key", peer_id(rng), (), GRAIN_S + number, group="flood")
    held = {one.peer_id for one in store.get(b"key", 1000.0, most=1000)}
    assert len(held) == PROVIDERS_PER_KEY_MAX
    assert set(honest) <= held


def test_an_answer_names_a_few_drawn_anew(rng: random.Random) -> None:
    store = Providers(rng)
    for _ in range(40):
        store.add(b"key", peer_id(rng), (), 0.0)
    first, second = store.get(b"key", 1.0), store.get(b"key", 1.0)
    assert len(first) == TOLD_MAX
    assert {one.peer_id for one in first} != {one.peer_id for one in second}


def test_the_store_counts_right_whatever_comes(rng: random.Random) -> None:
    store = Providers(rng, records_max=200)
    peers = [peer_id(rng) for _ in range(12)]
    keys = [rng.randbytes(4) for _ in range(40)]
    now = 0.0
    for _ in range(3000):
        now += rng.choice([0.0, 60.0, 3600.0])
        store.add(rng.choice(keys), rng.choice(peers), (), now, group=rng.randrange(4))
        if rng.random() < 0.05:
            store.expire(now)
        assert len(store) == sum(len(held) for held in store._held.values())
    for who, owner in store._owners.items():
        assert owner.records == sum(one is owner for held in store._held.values() for one, _ in held) > 0
        assert owner.peer_id == who
    store.expire(now + EXPIRY_S + GRAIN_S)
    assert len(store) == 0


# -- values


def test_a_value_is_checked_kept_and_forgotten(rng: random.Random) -> None:
    store, giver = Values(), peer_id(rng)
    raw = encode_public_key(Ed25519PrivateKey.from_private_bytes(rng.randbytes(32)).public_key())
    key = b"/pk/" + bytes(PeerId.from_encoded_key(raw))
    store.put(key, raw, giver, 0.0)
    assert store.get(key, EXPIRY_S - 1) == raw
    assert store.get(key, EXPIRY_S) is None
    store.expire(EXPIRY_S)
    assert len(store) == 0


@pytest.mark.parametrize("key", [b"", b"pk/x", b"/pk", b"/unknown/x", b"//x", b"/pk/no peer id", b"\xff/\xff/\xff"])
def test_a_value_without_a_rule_or_against_it_is_refused(rng: random.Random, key: bytes) -> None:
    store = Values()
    with pytest.raises(ValueRefusedError):
        store.put(key, b"value", peer_id(rng), 0.0)
    assert len(store) == 0


class Anything:
    def validate(self, key: bytes, value: bytes) -> None:
        if value == b"bad":
            raise ValueError("bad")

    def select(self, key: bytes, values: list[bytes]) -> int:
        return values.index(max(values))


def test_a_peer_has_a_share_and_the_better_value_stays(rng: random.Random) -> None:
    store, flood, other = Values({"any": Anything()}), peer_id(rng), peer_id(rng)
    for number in range(values.VALUES_PER_PEER_MAX):
        store.put(b"/any/%d" % number, b"v", flood, 0.0)
    with pytest.raises(ValueRefusedError, match="may leave"):
        store.put(b"/any/more", b"v", flood, 0.0)
    store.put(b"/any/0", b"w", other, 0.0)
    with pytest.raises(ValueRefusedError, match="better"):
        store.put(b"/any/0", b"a", other, 0.0)
    with pytest.raises(ValueRefusedError):
        store.put(b"/any/0", b"bad", other, 0.0)
    assert store.get(b"/any/0", 0.0) == b"w"


def test_values_are_bounded_in_all(rng: random.Random) -> None:
    store = Values({"any": Anything()})
    for number in range(values.VALUES_MAX + 200):
        store.put(b"/any/%d" % number, b"v", peer_id(rng), 0.0)
    assert len(store) == values.VALUES_MAX


# -- rates


def test_a_peer_that_asks_too_much_waits_and_others_do_not(rng: random.Random) -> None:
    limits, flood, other = AskingRates(), peer_id(rng), peer_id(rng)
    taken = sum(limits.take(flood, Kind.FIND_NODE, 0.0) for _ in range(5000))
    assert taken == rates.QUESTIONS_BURST
    assert limits.take(flood, Kind.ADD_PROVIDER, 0.0)  # records are counted on their own
    assert limits.take(other, Kind.FIND_NODE, 0.0)
    assert sum(limits.take(flood, Kind.FIND_NODE, 2.0) for _ in range(5000)) == 2 * rates.QUESTIONS_S


def test_buckets_are_bounded(rng: random.Random) -> None:
    limits = AskingRates()
    for _ in range(3 * rates.PEERS_MAX):
        limits.take(peer_id(rng), Kind.PING, 0.0)
    assert len(limits.questions) == rates.PEERS_MAX


# -- scope


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("/ip4/127.0.0.1/tcp/1", Scope.MACHINE),
        ("/ip6/::1/tcp/1", Scope.MACHINE),
        ("/ip6/::ffff:127.0.0.1/tcp/1", Scope.MACHINE),
        ("/memory/a", Scope.MACHINE),
        ("/dns4/localhost/tcp/1", Scope.MACHINE),
        ("/dns/a.localhost./tcp/1", Scope.MACHINE),
        ("/ip4/10.1.2.3/tcp/1", Scope.NETWORK),
        ("/ip4/100.64.0.1/tcp/1", Scope.NETWORK),
        ("/ip4/169.254.1.1/tcp/1", Scope.LINK),
        ("/ip6/fd00::1/tcp/1", Scope.NETWORK),
        ("/ip6/fe80::1/tcp/1", Scope.LINK),
        ("/ip4/60.1.2.3/tcp/1", Scope.WORLD),
        ("/ip6/2a00::1/tcp/1", Scope.WORLD),
        ("/dns4/example.org/tcp/1", Scope.WORLD),
        ("/ip4/0.0.0.0/tcp/1", Scope.NOWHERE),
        ("/ip6/::/tcp/1", Scope.NOWHERE),
        ("/ip4/224.0.0.1/tcp/1", Scope.NOWHERE),
        ("/ip4/255.255.255.255/tcp/1", Scope.NOWHERE),
        ("/ip4/60.1.2.3/tcp/0", Scope.NOWHERE),
    ],
)
def test_how_far_an_address_reaches(text: str, scope: Scope) -> None:
    assert scope_of(address(text)) is scope


def test_nobody_is_told_of_what_lies_nearer_than_where_it_is() -> None:
    loopback, private, public = map(address, ("/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1", "/ip4/60.0.0.1/tcp/1"))
    allowed = {
        (one, to) for one in (loopback, private, public) for to in (loopback, private, public) if may_tell(one, to)
    }
    assert allowed == {
        (loopback, loopback),
        (private, loopback),
        (public, loopback),
        (private, private),
        (public, private),
        (public, public),
    }
    assert not may_tell(address("/ip4/0.0.0.0/tcp/1"), loopback)
    assert not may_tell(private, address("/p2p-circuit"))


def test_networks_are_public_24s_and_48s(rng: random.Random) -> None:
    def network(text: str) -> object:
        return network_of(Multiaddr.parse(text))

    assert network("/ip4/60.1.2.3/tcp/1") == network("/ip4/60.1.2.250/tcp/9") != network("/ip4/60.1.3.3/tcp/1")
    assert network("/ip6/2a00:1:2:3::1/tcp/1") == network("/ip6/2a00:1:2:ffff::1/tcp/1")
    assert network("/ip6/2a00:1:2:3::1/tcp/1") != network("/ip6/2a00:1:3:3::1/tcp/1")
    assert network("/ip4/10.0.0.1/tcp/1") is None and network("/ip4/127.0.0.1/tcp/1") is None
    who, places = peer_id(rng), (address("/ip4/60.1.2.3/tcp/1"), address("/ip4/10.0.0.1/tcp/1"))
    assert len(groups_of(who, places, None)) == 1
    assert len(groups_of(who, places, lambda _: "org")) == 2
    assert groups_of(who, (), lambda _: None) == ()


# -- keys


@pytest.mark.parametrize("bits", [0, 1, 7, 12, 200])
def test_a_raw_key_is_found_near_a_place(rng: random.Random, bits: int) -> None:
    place = rng.getrandbits(256)
    assert 256 - distance_bits(place_of(raw_key_near(place, min(bits, 10), rng)), place) >= min(bits, 10)
