"""The DHT over swarms in memory: finding, leaving, keeping the table, both modes; under a virtual clock."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from rage_lab.sim.virtual_loop import VirtualLoop
from rage_net.libp2p.dht import Hop
from rage_net.libp2p.kad.keys import distance_bits, place_of
from rage_net.libp2p.kad.values import ValueRefusedError
from rage_net.libp2p.peer_id import encode_public_key
from tests.libp2p.dht_world import World, join, multihash, peer_id

pytestmark = pytest.mark.anyio

ROOT = multihash(b"a root")


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"loop_factory": VirtualLoop}


@pytest.fixture
async def world(rng: random.Random) -> AsyncIterator[World]:
    async with AsyncExitStack() as life:
        yield World(rng, life)


async def test_three_nodes_in_a_row_find_each_others_records(world: World) -> None:
    alpha, beta, gamma = await world.nodes(3)
    assert await alpha.provide(ROOT) == 2
    found = [provider async for provider in gamma.find_providers(ROOT)]
    assert [provider.peer_id for provider in found] == [alpha.own]
    assert found[0].addresses == tuple(alpha.swarm.listen_addresses())
    assert [provider.peer_id async for provider in beta.find_providers(ROOT)] == [alpha.own]
    assert not alpha.swarm.counts["handler_errors"]


async def test_a_peer_is_found_that_we_were_never_connected_to(world: World) -> None:
    nodes = await world.nodes(12)
    seeker = await world.dht("seeker", mode="client")
    await join(seeker, nodes[0])
    contact, found = await seeker.find_peer(nodes[7].own)
    assert contact is not None
    assert nodes[7].swarm.listen_addresses()[0] in contact.addresses
    assert found.asked >= 1


async def test_a_client_asks_and_enters_no_table(world: World) -> None:
    nodes = await world.nodes(4)
    client = await world.dht("client", mode="client")
    await join(client, nodes[0])
    await client.bootstrap()
    assert len(client.table) == 4
    assert await client.provide(ROOT) == 4
    await asyncio.sleep(5)
    for node in nodes:
        assert client.own not in {contact.peer_id for contact in node.table}
        assert [provider.peer_id async for provider in node.find_providers(ROOT)] == [client.own]


async def test_a_peer_that_turns_client_leaves_the_table(world: World) -> None:
    alpha, beta = await world.nodes(2)
    assert len(alpha.table) == 1
    beta.swarm._handlers.pop("/rage/kad/1.0.0")
    beta.swarm._push_identify_soon()
    await asyncio.sleep(2)
    assert len(alpha.table) == 0


async def test_every_hop_is_told(world: World) -> None:
    nodes = await world.nodes(8)
    hops: list[Hop] = []
    found = await nodes[0].find_nearest(ROOT, on_hop=hops.append)
    assert len(found.nearest) == 7
    assert [hop.number for hop in hops] == list(range(1, len(hops) + 1))
    assert {hop.outcome for hop in hops} == {"answered"}
    for hop in hops:
        assert hop.distance_bits == distance_bits(hop.contact.place, place_of(ROOT))
        assert hop.seconds > 0 and hop.depth >= 1 and hop.address is not None
    places = [contact.place ^ place_of(ROOT) for contact in found.nearest]
    assert places == sorted(places)


async def test_dead_peers_cost_time_and_leave_the_table(world: World) -> None:
    nodes = await world.nodes(6)
    for node in nodes[3:]:
        await node.swarm.close()
        world.network.listeners.pop(f"n{nodes.index(node)}", None)
    await asyncio.sleep(1)
    hops: list[Hop] = []
    found = await nodes[0].find_nearest(ROOT, on_hop=hops.append)
    assert {contact.peer_id for contact in found.nearest} == {nodes[1].own, nodes[2].own}
    assert found.failed == 3
    assert sum(hop.outcome == "error" for hop in hops) == 3
    await nodes[0].find_nearest(ROOT)
    assert {contact.peer_id for contact in nodes[0].table} == {nodes[1].own, nodes[2].own}


async def test_a_public_key_is_put_and_got_and_another_value_is_refused(world: World) -> None:
    alpha, beta, gamma = await world.nodes(3)
    key = b"/pk/" + bytes(alpha.own)
    value = encode_public_key(alpha.swarm._key.public_key())
    assert await beta.put_value(key, value) == 2
    assert await gamma.get_value(key) == value
    with pytest.raises(ValueRefusedError, match="not that of"):
        await beta.put_value(b"/pk/" + bytes(beta.own), value)
    with pytest.raises(ValueRefusedError, match="no rule"):
        await beta.get_value(b"/ipns/name")


async def test_many_keys_are_announced_with_one_stream_a_peer(world: World) -> None:
    nodes = await world.nodes(5)
    keys = [multihash(b"%d" % number) for number in range(1200)]
    told = await nodes[0].provide_many(keys)
    assert (told.announced, told.failed, told.records) == (1200, 0, 4800)
    assert told.questions <= 4 and told.batches == 4 * 3  # up to 500 records each
    assert all(len(node.providers) == 1200 for node in nodes[1:])
    for key in world.rng.sample(keys, 5):
        assert [provider.peer_id async for provider in nodes[3].find_providers(key)] == [nodes[0].own]


async def test_the_table_is_kept_as_text_and_its_peers_are_asked_before_they_are_in_it(world: World) -> None:
    nodes = await world.nodes(5)
    text = nodes[0].to_text()
    assert len(text.splitlines()) == 4
    again = await world.dht("again")
    again.load_text(text + "garbage\n12D3KooW 1 /memory/x\n")
    assert len(again.table) == 0
    found = await again.bootstrap()
    assert len(found.nearest) == 5
    assert len(again.table) == 5


async def test_the_view_of_the_table_adds_up(world: World) -> None:
    nodes = await world.nodes(6)
    await nodes[1].provide(ROOT)
    view = nodes[0].view()
    assert (view.mode, view.contacts, view.provider_records, view.value_records) == ("server", 5, 1, 0)
    assert sum(len(bucket.contacts) for bucket in view.buckets) == 5
    assert [bucket.distance_bits for bucket in view.buckets] == sorted(b.distance_bits for b in view.buckets)
    for bucket in view.buckets:
        for row in bucket.contacts:
            assert row.distance_bits == bucket.distance_bits and row.age_s is not None and row.age_s >= 0


async def test_a_single_provider_that_is_asked_for_is_what_most_name(world: World) -> None:
    nodes = await world.nodes(4)
    await nodes[0].provide(ROOT)
    assert [provider.peer_id async for provider in nodes[2].find_providers(ROOT, limit=1)] == [nodes[0].own]
    assert [one.peer_id for one in (await nodes[2].look_for_providers(ROOT, limit=1)).providers] == [nodes[0].own]


async def test_a_record_that_only_we_hold_is_found_here(world: World) -> None:
    alpha, beta = await world.nodes(2)
    assert await alpha.provide(ROOT) == 1
    for limit in (1, 20):
        assert [provider.peer_id async for provider in beta.find_providers(ROOT, limit)] == [alpha.own]


async def test_an_iteration_that_is_left_early_leaves_nothing_running(world: World) -> None:
    nodes = await world.nodes(4)
    await nodes[0].provide(ROOT)
    await asyncio.sleep(1)
    before = len(asyncio.all_tasks())
    providers = nodes[2].find_providers(ROOT)
    async for provider in providers:
        assert provider.peer_id == nodes[0].own
        break
    await providers.aclose()
    await asyncio.sleep(1)
    assert len(asyncio.all_tasks()) == before


async def test_without_any_peer_all_operations_come_back_empty(world: World) -> None:
    alone, nobody = await world.dht("alone"), peer_id(world.rng)
    assert (await alone.bootstrap()).nearest == ()
    assert [provider async for provider in alone.find_providers(ROOT)] == []
    assert await alone.provide(ROOT) == 0
    assert (await alone.find_peer(nobody))[0] is None
    assert (await alone.provide_many([ROOT])).failed == 1
