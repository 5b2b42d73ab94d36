"""Dropping: a copy goes when as many as the policy wants have just proved theirs and mean to keep it; else it stays."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from rage_net.chunk import replicas
from rage_net.chunk.documents import Documents
from rage_net.chunk.holds import Lease
from rage_net.cid import Cid
from rage_net.replication.audit import Outcome
from rage_net.replication.inventory import VANISHED_S, Item
from rage_net.services.replicating import dropping
from rage_net.services.replicating.dropping import AGAIN_S, SETTLE_S

from .replicating_world import World, peer_id

pytestmark = pytest.mark.anyio


@pytest.fixture
def world(rng: random.Random) -> Iterator[World]:
    made = World(rng)
    yield made
    made.close()


def give(world: World, item: Item) -> None:
    for peer in world.others(item):
        peer.has.add(item.cid)


def forget(world: World, item: Item, *, is_told: bool = True) -> None:
    """Its document is gone."""
    world.inventory.forget("acme", item.doc_id, world.now(), is_told=is_told)


def surplus(world: World) -> Item:
    """A chunk that is here, belongs elsewhere, and has been there for long enough; its home has it."""
    item = world.theirs()
    give(world, item)
    world.env.time += SETTLE_S
    return item


async def test_a_copy_too_many_goes_once_its_home_has_proved(world: World) -> None:
    item = surplus(world)
    assert await world.dropping.round() == 1
    assert not world.store.has(item.cid)
    assert not replicas.is_held(world.store, item.cid)
    assert world.item(item.cid).have == 0
    assert world.count("dropped") == 1
    assert await world.dropping.round() == 0


async def test_a_copy_that_has_just_become_one_too_many_stays(world: World) -> None:
    item = world.theirs()
    give(world, item)
    assert await world.dropping.round() == 0
    assert not any(peer.asked for peer in world.peers.values())
    world.env.time += SETTLE_S - 1
    assert await world.dropping.round() == 0
    world.env.time += 1
    assert await world.dropping.round() == 1
    again = world.theirs()
    give(world, again)
    assert await world.dropping.round(at_once=True) == 1


@pytest.mark.parametrize("outcome", ["absent", "late", "lied", "unreachable", "claims", "unknown"])
async def test_it_stays_while_one_of_its_home_has_not_proved(world: World, outcome: Outcome) -> None:
    item = surplus(world)
    world.others(item)[1].outcome = outcome
    assert await world.dropping.round() == 0
    assert world.store.has(item.cid)
    assert world.item(item.cid).have == 1
    world.others(item)[1].outcome = "proved"
    assert await world.dropping.round() == 0  # it rests
    world.env.time += AGAIN_S
    assert await world.dropping.round() == 1


async def test_it_stays_while_one_of_its_home_does_not_mean_to_keep(world: World) -> None:
    item = surplus(world)
    world.others(item)[0].is_kept = False
    assert await world.dropping.round() == 0
    assert world.store.has(item.cid)


async def test_it_stays_while_one_of_its_home_is_away(world: World) -> None:
    item = surplus(world)
    world.lose(world.others(item)[2])
    assert await world.dropping.round() == 0
    assert world.store.has(item.cid)


async def test_it_stays_where_there_are_fewer_nodes_than_copies(rng: random.Random) -> None:
    world = World(rng, 3)
    item = world.keep(world.find(lambda item: world.own in item.home, factor=4))
    give(world, item)
    world.set_nodes({0: "drained", 1: "active", 2: "active"})
    world.place()
    assert world.item(item.cid).mine == 0
    world.env.time += SETTLE_S
    assert await world.dropping.round() == 0
    assert world.store.has(item.cid)
    world.close()


async def test_two_that_hold_one_too_many_do_not_go_for_each_others_sake(world: World) -> None:
    """Their views differ: each takes the other for a holder. Neither says that it keeps, so neither goes."""
    item = surplus(world)
    world.others(item)[0].is_kept = False  # by its view it is one too many itself
    for _ in range(5):
        world.env.time += AGAIN_S
        assert await world.dropping.round() == 0
    assert world.store.has(item.cid)


async def test_placement_that_changes_its_mind_meanwhile_keeps_it(world: World) -> None:
    item = surplus(world)
    find_safe = world.dropping._find_safe

    async def late(items: object) -> set[int]:
        found = await find_safe(items)  # type: ignore[arg-type]
        world.inventory.ask_to_hold("acme", [item.cid], world.now())
        return found

    world.dropping._find_safe = late  # type: ignore[method-assign, assignment]
    assert await world.dropping.round() == 0
    assert world.store.has(item.cid)
    assert replicas.is_held(world.store, item.cid)


async def test_placement_that_takes_it_for_here_meanwhile_wants_it_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = surplus(world)
    let_go = replicas.let_go

    def late(*args: object, **more: object) -> int:
        world.inventory.set_have([item], 1, world.now())  # a page that was read before, written now
        return let_go(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(replicas, "let_go", late)
    assert await world.dropping.round() == 1
    assert world.item(item.cid).have == 0


async def test_a_pinned_chunk_is_never_dropped(world: World) -> None:
    item = surplus(world)
    with Lease(world.store, "acme") as lease:
        lease.hold([item.cid])
        Documents(world.store).pin(lease, item.cid)
    for _ in range(3):
        assert await world.dropping.round() == 0
        world.env.time += AGAIN_S
    assert world.store.has(item.cid)
    assert world.item(item.cid).have == 2
    assert world.inventory.surplus(1e9, 10) == []


async def test_a_guest_is_let_go_once_its_home_holds_again(world: World) -> None:
    item = world.find(lambda item: world.own not in item.home)
    give(world, item)
    lost = world.others(item)[0]
    world.lose(lost)
    world.inventory.ask_to_hold("acme", [item.cid], world.now())
    world.keep(item)
    world.env.time += SETTLE_S
    await world.dropping.round()
    assert [each.cid for each in world.inventory.guests()] == [item.cid]  # one of its home is away
    lost.is_alive = lost.is_reachable = True
    lost.outcome = "absent"
    world.observe()
    await world.dropping.round()
    assert [each.cid for each in world.inventory.guests()] == [item.cid]  # it is back, and has it no more
    lost.outcome = "proved"
    for _ in range(3):
        world.env.time += AGAIN_S
        await world.dropping.round()
    assert not world.store.has(item.cid)


async def test_guests_of_a_node_that_stays_away_do_not_keep_others_from_being_let_go(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dropping, "BATCH", 1)
    stuck = world.find(lambda item: world.own not in item.home)
    away = world.others(stuck)[0]
    free = world.find(lambda item: world.own not in item.home and peer_id(away.number) not in item.home)
    for item in (stuck, free):
        give(world, item)
        world.inventory.ask_to_hold("acme", [item.cid], world.now())
        world.keep(item)
    world.lose(away)
    world.env.time += SETTLE_S
    for _ in range(4):
        world.env.time += SETTLE_S
        await world.dropping.round()
    assert [each.cid for each in world.inventory.guests()] == [stuck.cid]


async def test_a_guest_that_is_young_stays(world: World) -> None:
    item = world.theirs()
    give(world, item)
    world.inventory.ask_to_hold("acme", [item.cid], world.now())
    world.env.time += SETTLE_S - 1
    await world.dropping.round()
    assert len(world.inventory.guests()) == 1
    world.env.time += 1
    await world.dropping.round()
    assert world.inventory.guests() == []


async def test_chunks_of_documents_that_were_removed_go_at_once_and_unasked(world: World) -> None:
    item = world.theirs()
    forget(world, item)
    assert await world.dropping.round() == 1
    assert not world.store.has(item.cid)
    assert not any(peer.asked for peer in world.peers.values())
    assert world.inventory.orphans(1e12, 10) == []


async def test_chunks_of_documents_of_which_nothing_is_said_any_more_stay_for_a_week(world: World) -> None:
    item = world.theirs()
    forget(world, item, is_told=False)
    world.env.time += VANISHED_S - 1
    assert await world.dropping.round() == 0
    assert world.store.has(item.cid)
    world.env.time += 1
    assert await world.dropping.round() == 1
    assert not world.store.has(item.cid)


async def test_a_document_that_was_missed_for_a_while_keeps_its_chunks(world: World) -> None:
    item = world.theirs()
    forget(world, item, is_told=False)
    world.env.time += 3600
    await world.dropping.round()
    world.document(7, [item.cid])
    world.env.time += VANISHED_S
    await world.dropping.round()
    assert world.store.has(item.cid)


async def test_what_comes_back_while_it_is_let_go_is_wanted_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    item = world.keep(world.find(lambda item: world.own in item.home))
    forget(world, item)
    let_go = replicas.let_go

    def late(*args: object, **more: object) -> int:
        world.document(7, [item.cid])
        return let_go(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(replicas, "let_go", late)
    await world.dropping.round()
    assert not world.store.has(item.cid)
    assert [each.cid for each in world.inventory.wanted(world.now(), 10)] == [item.cid]


async def test_an_orphan_that_something_else_holds_is_only_let_go(world: World) -> None:
    item = world.theirs()
    with Lease(world.store, "acme") as lease:
        lease.hold([item.cid])
        Documents(world.store).pin(lease, item.cid)
    forget(world, item)
    assert await world.dropping.round() == 1
    assert world.store.has(item.cid)
    assert not replicas.is_held(world.store, item.cid)


async def test_a_batch_goes_together_and_what_is_not_safe_stays(world: World, rng: random.Random) -> None:
    items = [world.theirs() for _ in range(20)]
    bad: set[Cid] = set()
    for item in items:
        give(world, item)
        if rng.random() < 0.4:
            rng.choice(world.others(item)).has.discard(item.cid)
            bad.add(item.cid)
    world.env.time += SETTLE_S
    assert await world.dropping.round() == len(items) - len(bad)
    assert {item.cid for item in items if world.store.has(item.cid)} == bad
    assert peer_id(1) in world.peers
