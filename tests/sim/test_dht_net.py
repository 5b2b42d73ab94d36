"""The DHT's rules for a few hundred nodes under virtual time: what `bench.dht_scale` shows for 10,000, and eclipses."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from rage_lab.sim.virtual_loop import VirtualLoop
from rage_net.libp2p.kad import lookup, regions
from rage_net.libp2p.kad.answers import Asker
from rage_net.libp2p.kad.contact import Contact
from rage_net.libp2p.kad.groups import groups_of
from rage_net.libp2p.kad.keys import K, place_of
from rage_net.libp2p.kad.messages import PROVIDERS_MAX, Kind, Message, PeerInfo
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from tests.sim.dht_net import DhtNet, Peer, multihash

pytestmark = pytest.mark.anyio

NODES = 300
HOSTILE = 50
PREFIXES = 5
PROVIDERS = ("false providers", "new providers each time")


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"loop_factory": VirtualLoop}


@pytest.fixture
async def net(rng: random.Random) -> DhtNet:
    net = DhtNet(rng)
    net.grow([net.contact() for _ in range(NODES)])
    return net


async def found_by(seekers: list[Peer], key: bytes, owner: Peer) -> int:
    """How many of them hear of the owner."""
    count = 0
    for seeker in seekers:
        count += owner.own in {provider.peer_id async for provider in seeker.find_providers(key)}
    return count


async def test_with_a_third_gone_the_nearest_are_found_soon(net: DhtNet) -> None:
    net.kill(0.3)
    looks = [await net.random.choice(net.alive()).find_nearest(multihash(b"%d" % number)) for number in range(30)]
    assert max(look.depth for look in looks) <= 5
    assert sorted(look.seconds for look in looks)[15] <= 3
    dead = {peer.own for peer in net.peers.values() if not peer.is_alive}
    right = 0
    for number, look in enumerate(looks):
        got = {contact.peer_id for contact in look.nearest}
        assert not got & dead
        right += sum(peer.own in got for peer in net.true_nearest(place_of(multihash(b"%d" % number)), K))
    assert right >= 0.8 * 30 * K


async def test_a_provider_is_found_though_a_third_goes_without_a_word(net: DhtNet) -> None:
    owners = {multihash(b"%d" % number): net.random.choice(net.order) for number in range(40)}
    for key, owner in owners.items():
        assert await owner.provide(key) == K
    net.kill(0.3)
    for key, owner in owners.items():
        assert await found_by([net.random.choice(net.alive())], key, owner) == 1


async def test_who_joins_through_one_peer_knows_its_neighbours(net: DhtNet) -> None:
    peer = net.add(net.contact())
    await peer.bootstrap([net.order[0].contact])
    known = {contact.peer_id for contact in peer.table}
    true = [other.own for other in net.true_nearest(peer.contact.place, K + 1) if other is not peer]
    assert len(known & set(true)) >= K - 2
    assert len(known) >= 60


async def test_many_roots_by_region_are_few_messages_and_reach_whom_one_by_one_reaches(net: DhtNet) -> None:
    owner = net.order[7]
    keys = [multihash(b"%d" % number) for number in range(2000)]
    before = net.questions + net.batches
    for key in keys[:10]:
        await owner.provide(key)
    one_by_one = (net.questions + net.batches - before) / 10
    before = net.questions + net.batches
    told = await owner.provide_many(keys)
    assert (told.announced, told.failed) == (2000, 0)
    assert 10 * (net.questions + net.batches - before) <= one_by_one * len(keys)
    assert told.questions + told.batches >= net.questions + net.batches - before  # those to the dead are counted too
    sample = net.random.sample(keys, 50)
    right = sum(
        bool(peer.providers.get(key, net.now())) for key in sample for peer in net.true_nearest(place_of(key), K)
    )
    assert right >= 0.8 * 50 * K
    for key in sample[:10]:
        assert await found_by([net.random.choice(net.order)], key, owner) == 1


async def test_a_seed_repeats_a_run() -> None:
    async def run() -> list[object]:
        net = DhtNet(random.Random(5))
        net.grow([net.contact() for _ in range(120)])
        net.kill(0.2)
        began = net.now()
        looks = [await net.alive()[0].find_nearest(multihash(b"%d" % number)) for number in range(5)]
        return [(look.nearest, look.asked, look.depth, round(look.seconds, 9)) for look in looks] + [
            round(net.now() - began, 6)
        ]

    assert await run() == await run()


# -- eclipse


class Hostile(Peer):
    """A peer that answers as `lie` says, and takes every record to lose it."""

    lie: Callable[[Message], Message]

    def reply(self, request: Message, asker: Asker) -> Message | None:
        return None if request.kind is Kind.ADD_PROVIDER else self.lie(request)


def near_ids(rng: random.Random, place: int, bits: int, count: int) -> list[PeerId]:
    """Ids that share `bits` bits with a place: what an attacker draws keys for."""
    found: list[PeerId] = []
    while len(found) < count:
        raw = bytes((0, 36, 8, 1, 18, 32)) + rng.randbytes(32)
        if (place_of(raw) ^ place) >> (256 - bits) == 0:
            found.append(PeerId(raw))
    return found


def lonely_root(net: DhtNet) -> bytes:
    """A key whose nearest honest peer shares few bits with it: fast to draw ids for."""
    number = 0
    while True:
        root = multihash(b"the root that is to be hidden, %d" % number)
        if shared_bits(net, root) <= 8:
            return root
        number += 1


def shared_bits(net: DhtNet, root: bytes) -> int:
    place = place_of(root)
    return 256 - (net.true_nearest(place, 1)[0].contact.place ^ place).bit_length()


def besiege(net: DhtNet, root: bytes, kind: str) -> list[Hostile]:
    """50 hostile ids nearer to `root` than any honest peer, from 5 networks, that all honest peers have met."""
    place = place_of(root)
    gang: list[Hostile] = []
    for number, who in enumerate(near_ids(net.random, place, shared_bits(net, root) + 1, HOSTILE)):
        where = (Multiaddr.parse(f"/ip4/90.1.{number % PREFIXES}.{number + 1}/tcp/4001"),)
        contact = Contact.of(who, where, groups_of(who, where, None))
        net.peers[who] = Hostile(net, contact)
        gang.append(net.peers[who])
    honest = [PeerInfo(peer.own, (Multiaddr.parse("/ip4/91.9.9.9/tcp/1"),)) for peer in net.order]

    def lie(request: Message) -> Message:
        friends = [PeerInfo(one.own, one.contact.addresses) for one in net.random.sample(gang, K)]
        closer = friends
        if kind == "made-up peers":
            made_up = [
                PeerInfo(PeerId(bytes((0, 36, 8, 1, 18, 32)) + net.random.randbytes(32)), (net.contact().addresses[0],))
                for _ in range(K // 2)
            ]
            closer = [*made_up, *friends][:K]
        elif kind == "wrong addresses":
            closer = [*net.random.sample(honest, K // 2), *friends][:K]
        providers: list[PeerInfo] = []
        if kind == "false providers":
            providers = [PeerInfo(one.own, one.contact.addresses) for one in gang]
        elif kind == "new providers each time":
            providers = [PeerInfo(net.contact().peer_id, gang[0].contact.addresses) for _ in range(PROVIDERS_MAX)]
        return Message(request.kind, request.key, closer=tuple(closer), providers=tuple(providers))

    for one in gang:
        one.lie = lie
        for peer in net.order:
            peer.table.answered(one.shared, net.now())
    return gang


@pytest.mark.parametrize("kind", ["silence", "made-up peers", "wrong addresses", *PROVIDERS])
@pytest.mark.parametrize("comes", ["before", "after"])
async def test_fifty_hostile_ids_nearest_to_a_key_do_not_hide_its_provider(net: DhtNet, kind: str, comes: str) -> None:
    root = lonely_root(net)
    owner, *seekers = net.random.sample(net.order, 9)
    if comes == "before":
        besiege(net, root, kind)
    assert await owner.provide(root) >= 10
    if comes == "after":
        besiege(net, root, kind)
    assert await found_by(seekers, root, owner) == len(seekers)


async def test_without_the_rule_for_groups_the_same_fifty_hide_it(net: DhtNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "GROUP_MAX", 1000)
    monkeypatch.setattr(regions, "GROUP_MAX", 1000)
    root = lonely_root(net)
    owner, *seekers = net.random.sample(net.order, 9)
    besiege(net, root, "silence")
    await owner.provide(root)
    assert await found_by(seekers, root, owner) < len(seekers) // 2


async def test_by_region_too_the_records_reach_honest_peers(net: DhtNet) -> None:
    root = lonely_root(net)
    besiege(net, root, "silence")
    owner, *seekers = net.random.sample(net.order, 7)
    told = await owner.provide_many([root])
    assert told.announced == 1
    assert await found_by(seekers, root, owner) == len(seekers)


async def test_an_organisation_that_nobody_vouches_for_counts_as_one(net: DhtNet) -> None:
    """The same attack from 50 networks, by keys that all claim one organisation without a certificate."""
    root = lonely_root(net)
    gang = besiege(net, root, "silence")
    for number, one in enumerate(gang):
        where = (Multiaddr.parse(f"/ip4/92.{number}.1.1/tcp/4001"),)
        one.contact = Contact.of(one.own, where, ("claimed",))
        one.shared.contact = one.contact
    members = {one.own for one in gang}
    owner, *seekers = net.random.sample(net.order, 7)
    for peer in net.order:
        peer._groups = lambda who, addresses: (  # type: ignore[assignment]
            ("claimed",) if who in members else groups_of(who, addresses, None)
        )
    assert await owner.provide(root) >= 10
    assert await found_by(seekers, root, owner) == len(seekers)
    assert asyncio.get_running_loop().time() < 3600
