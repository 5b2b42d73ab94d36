"""Pulling: what is ours comes from whoever has it; failures rest and come again; a full disk ends nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence

import pytest

from rage_net.chunk import replicas
from rage_net.chunk.source import Received
from rage_net.cid import Cid
from rage_net.errors import UnavailableError
from rage_net.libp2p.peer_id import PeerId
from rage_net.replication.inventory import Item
from rage_net.services.replicating import pulling

from .replicating_world import OWNER, Peer, World, peer_id

pytestmark = pytest.mark.anyio


@pytest.fixture
def world(rng: random.Random) -> Iterator[World]:
    made = World(rng)
    yield made
    made.close()


def wanted(world: World, count: int = 1) -> list[Item]:
    """Chunks that are ours and not here; the nodes of their homes have them."""
    items = [world.find(lambda item: world.own in item.home) for _ in range(count)]
    for item in items:
        for peer in world.others(item):
            peer.has.add(item.cid)
    return items


def here(world: World, items: Sequence[Item]) -> list[Cid]:
    return [
        item.cid for item in items if item.cid in world.store.durable([item.cid]) and world.item(item.cid).have == 1
    ]


async def test_what_is_ours_is_fetched_held_and_told(world: World) -> None:
    items = wanted(world, 5)
    told: list[int] = []
    world.pulling.on_fetched = lambda: told.append(1)
    assert await world.pulling.round()
    assert here(world, items) == [item.cid for item in items]
    assert all(replicas.is_held(world.store, item.cid) for item in items)
    assert told
    assert await world.pulling.round() == 0
    assert world.count("fetched") == 5


async def test_what_a_document_here_has_becomes_a_replica_without_a_fetch(world: World) -> None:
    (item,) = wanted(world)
    with world.store.batch() as batch:
        batch.add(item.cid, world.plain[item.cid])
        batch.commit()
    await world.pulling.round()
    assert here(world, [item]) == [item.cid]
    assert replicas.is_held(world.store, item.cid)
    assert not any(peer.asked for peer in world.peers.values())


async def test_sources_that_fail_one_after_the_other(world: World) -> None:
    (item,) = wanted(world)
    away, liar = world.others(item)
    away.is_reachable = False
    liar.lies = True
    assert await world.pulling.round()
    assert here(world, [item]) == []
    assert world.item(item.cid).tries == 1
    assert world.inventory.wanted(world.now(), 10) == []  # it rests
    assert world.count("wrong_bytes") == 1
    assert not world.store.has(item.cid)
    third, *_ = world.strangers(item)
    third.has.add(item.cid)  # and is no home of it
    world.env.time += 1
    assert await world.pulling.round()
    assert here(world, [item]) == [item.cid]


async def test_a_source_that_has_it_and_one_that_sends_other_bytes(world: World) -> None:
    (item,) = wanted(world)
    good, liar = world.others(item)
    liar.lies = True
    await world.pulling.round()
    assert here(world, [item]) == [item.cid]
    assert good.asked.count("fetch") == 1


async def test_who_sent_other_bytes_is_left_alone_for_a_while(world: World) -> None:
    (item,) = wanted(world)
    for peer in world.others(item):
        peer.lies = True
    await world.pulling.round()
    assert all(world.pulling.is_shunned(peer.id) for peer in world.others(item))
    for peer in world.others(item):
        peer.lies = False
        peer.asked.clear()
    world.env.time += 2
    await world.pulling.round()
    assert not any(peer.asked for peer in world.others(item))
    world.env.time += pulling.SHUNNED_S_MIN
    await world.pulling.round()
    assert here(world, [item]) == [item.cid]


async def test_rests_double_up_to_a_minute(world: World) -> None:
    (item,) = wanted(world)
    for peer in world.peers.values():
        peer.has.clear()
    rests = []
    for _ in range(12):
        began = world.now()
        while not world.inventory.wanted(world.now(), 1):
            world.env.time += 0.05
        rests.append(world.now() - began)
        await world.pulling.round()
    assert rests[0] == 0
    assert rests[1] < 1
    assert rests[4] < rests[7] < rests[9]
    assert 40 < rests[-1] < 80
    assert world.item(item.cid).tries == 12


async def test_an_owner_that_is_no_place_for_replicas_is_asked_too(world: World) -> None:
    (item,) = wanted(world)
    for peer in world.peers.values():
        peer.has.clear()
    owner = world.peers[peer_id(OWNER)] = Peer(OWNER, {item.cid})
    await world.pulling.round()
    assert here(world, [item]) == [item.cid]
    assert owner.asked == ["have", "fetch"]


async def test_an_owner_that_nobody_reaches_is_asked_last(world: World) -> None:
    items = wanted(world, 3)
    owner = world.peers[peer_id(OWNER)] = Peer(OWNER, is_reachable=False)
    await world.pulling.round()
    assert here(world, items) == [item.cid for item in items]
    assert owner.asked == []


async def test_nodes_that_are_lost_are_not_asked(world: World) -> None:
    (item,) = wanted(world)
    first, second = world.others(item)
    world.lose(first)
    first.asked.clear()
    await world.pulling.round()
    assert here(world, [item]) == [item.cid]
    assert not first.asked
    assert "fetch" in second.asked


async def test_a_full_disk_is_told_and_tried_again_later(world: World) -> None:
    items = wanted(world, 3)
    world.fill(0)
    assert await world.pulling.round()
    assert here(world, items) == []
    assert world.times_full
    assert world.inventory.wanted(world.now() + 20, 10) == []
    del world.store._check_room  # type: ignore[attr-defined]
    world.env.time += 40
    await world.pulling.round()
    assert len(here(world, items)) == 3


async def test_what_is_here_and_cannot_be_noted_on_a_full_disk_ends_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (item,) = wanted(world)
    world.bring([item.cid])

    def hold(*_: object, **__: object) -> None:
        from rage_net.errors import StorageFullError

        raise StorageFullError("the disk is full")

    monkeypatch.setattr(replicas, "hold", hold)
    assert await world.pulling.round() == 0
    assert world.times_full == 1
    monkeypatch.undo()
    await world.pulling.round()
    assert here(world, [item]) == [item.cid]


async def test_an_object_store_out_of_reach_lets_fetching_rest(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    items = wanted(world, 2)

    def keep(*_: object, **__: object) -> int:
        raise UnavailableError("the bucket does not answer")

    monkeypatch.setattr(replicas, "keep_replicas", keep)
    await world.pulling.round()
    assert world.times_full == 0
    assert here(world, items) == []
    assert world.inventory.wanted(world.now() + 20, 10) == []


async def test_fetches_are_few_at_once_and_commits_are_batched(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    items = wanted(world, 40)
    under_way, most, commits = 0, 0, []
    fetch, commit = world.fetch, world.pulling.commit

    async def slow(peer: object, cid: Cid) -> object:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(3):
            await asyncio.sleep(0)
        under_way -= 1
        return await fetch(peer, cid)  # type: ignore[arg-type]

    async def count(fresh: Sequence[object]) -> bool:
        commits.append(len(fresh))
        return await commit(fresh)  # type: ignore[arg-type]

    world.pulling._fetch = slow  # type: ignore[assignment]
    monkeypatch.setattr(world.pulling, "commit", count)
    await world.pulling.round()
    assert len(here(world, items)) == 40
    assert most == pulling.FETCHES_AT_ONCE
    assert commits == [pulling.COMMIT_CHUNKS, 40 - pulling.COMMIT_CHUNKS]


async def test_it_runs_when_it_is_woken_and_ends_when_it_is_told(world: World) -> None:
    fetched = asyncio.Event()
    world.pulling.on_fetched = fetched.set
    running = asyncio.ensure_future(world.pulling.run())
    await asyncio.sleep(0)
    items = wanted(world, 2)
    world.pulling.wake()
    async with asyncio.timeout(10):
        await fetched.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert here(world, items)


async def test_while_people_read_a_place_rests_after_what_it_fetched_for_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = wanted(world)
    guest = world.find(lambda item: world.own not in item.home)
    for peer in world.others(guest):
        peer.has.add(guest.cid)
    world.inventory.ask_to_hold("acme", [guest.cid], world.now())
    fetch, rests = world.pulling._fetch, []

    async def slow(peer: PeerId, cid: Cid) -> Received:
        world.env.time += 0.1
        return await fetch(peer, cid)  # type: ignore[return-value]

    async def rest(seconds: float) -> None:
        rests.append(seconds)

    world.pulling._fetch = slow
    world.pulling.has_readers = lambda: True
    monkeypatch.setattr(pulling.asyncio, "sleep", rest)  # type: ignore[attr-defined]
    await world.pulling.round()
    assert here(world, [*own, guest]) == [own[0].cid, guest.cid]
    assert len(rests) == 1, "what is ours is not slowed: a put may wait for it"
    assert rests[0] >= 0.1 * pulling.GIVE_WAY


async def test_without_readers_nothing_rests(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = world.find(lambda item: world.own not in item.home)
    for peer in world.others(guest):
        peer.has.add(guest.cid)
    world.inventory.ask_to_hold("acme", [guest.cid], world.now())

    async def rest(seconds: float) -> None:
        raise AssertionError("it rests")

    monkeypatch.setattr(pulling.asyncio, "sleep", rest)  # type: ignore[attr-defined]
    await world.pulling.round()
    assert here(world, [guest]) == [guest.cid]
