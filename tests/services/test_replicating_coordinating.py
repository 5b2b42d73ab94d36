"""Coordinating: holders prove, stand-ins are asked for those that cannot, one node a chunk, and lag is what it is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from rage_net.errors import UnavailableError
from rage_net.replication.audit import Outcome
from rage_net.replication.inventory import Item
from rage_net.services.replicating import coordinating
from rage_net.services.replicating.coordinating import AGAIN_S_MAX, FAILED_S, FORGET_S, FRESH_S, Standing

from .replicating_world import GRACE_S, Peer, World, peer_id

pytestmark = pytest.mark.anyio


@pytest.fixture
def world(rng: random.Random) -> Iterator[World]:
    made = World(rng)
    yield made
    made.close()


def give(world: World, item: Item) -> list[Peer]:
    """The others of a chunk's home have it."""
    for peer in world.others(item):
        peer.has.add(item.cid)
    return world.others(item)


async def look(world: World, item: Item) -> Standing:
    """One audit of one chunk, as it is now."""
    (standing,) = await world.coordinating.audit([world.item(item.cid)])
    return standing


async def look_for(world: World, item: Item, seconds: float, every: float = 5.0) -> Standing:
    """Audits, for so long."""
    standing = await look(world, item)
    until = world.now() + seconds
    while world.now() < until:
        world.env.time += every
        standing = await look(world, item)
    return standing


def due_in(world: World, item: Item) -> float:
    """Seconds until a chunk is looked at again; beyond two years it is never."""
    for seconds in (0.0, 1.0, 2.0, 30.0, 60.0, 3600.0, 86_400.0, 400 * 86_400.0):
        if [each for each in world.inventory.due([world.own], world.now() + seconds, 100) if each.id == item.id]:
            return seconds
    return float("inf")


async def test_a_chunk_that_all_have_proved_rests_for_the_period(rng: random.Random) -> None:
    world = World(rng, period_s=3000.0)
    item = world.ours()
    give(world, item)
    assert await world.coordinating.round() == 1
    assert due_in(world, item) == 3600.0
    assert await world.coordinating.round() == 0
    assert not any("hold" in peer.asked for peer in world.peers.values())
    world.env.time += 3000
    assert await world.coordinating.round() == 1
    world.close()


async def test_without_a_period_nothing_that_is_proved_is_asked_again(world: World) -> None:
    item = world.ours()
    give(world, item)
    await world.coordinating.round()
    assert due_in(world, item) >= 86_400.0


async def test_home_holders_that_are_late_are_asked_again_and_nobody_stands_in_yet(world: World) -> None:
    item = world.ours()
    standing = await look(world, item)
    assert set(standing.acting) == set(item.home)
    assert standing.proved == {world.own}
    assert due_in(world, item) <= 2.0
    rests = []
    for _ in range(10):
        await look(world, item)
        rests.append(due_in(world, item))
    assert rests == sorted(rests)
    assert max(rests) == AGAIN_S_MAX
    assert not any("hold" in peer.asked for peer in world.peers.values())


async def test_a_chunk_that_we_are_fetching_ourselves_is_judged_once_it_is_here(world: World) -> None:
    item = world.find(lambda item: item.home[0] == world.own)
    give(world, item)
    assert await world.coordinating.round() == 1
    assert not any(peer.asked for peer in world.peers.values())
    assert due_in(world, item) == 2.0
    world.keep(item)
    await world.coordinating.round()
    assert due_in(world, item) >= 86_400


async def test_what_we_cannot_fetch_is_judged_without_us(world: World) -> None:
    item = world.find(lambda item: item.home[0] == world.own)
    give(world, item)
    for _ in range(4):
        world.inventory.put_off_chunks([(item.id, 1e9)])
    await world.coordinating.round()
    assert any("relay" in peer.asked for peer in world.peers.values())
    known = {each.peer: each.outcome for each in world.inventory.proofs([item.id])[item.id]}
    assert known[world.own] == "absent"
    assert [known[peer.id] for peer in world.others(item)] == ["proved", "proved"]


async def test_a_lost_node_is_replaced_and_its_stand_in_is_asked_for_proof(world: World) -> None:
    item = world.ours()
    lost, _ = give(world, item)
    await look(world, item)
    world.lose(lost)
    assert due_in(world, item) == 0.0  # hastened
    standing = await look(world, item)
    (stand_in,) = set(standing.acting) - set(item.home)
    assert lost.id not in standing.acting
    assert "hold" in world.peers[stand_in].asked
    world.env.time += 1
    standing = await look(world, item)
    assert len(standing.proved) == 3
    assert stand_in in standing.proved
    assert due_in(world, item) >= 86_400


async def test_while_one_copy_is_waited_for_the_good_ones_prove_only_now_and_then(world: World) -> None:
    item = world.ours()
    good, late = world.others(item)
    good.has.add(item.cid)
    await look(world, item)
    for _ in range(5):
        world.env.time += 1
        await look(world, item)
    assert good.asked.count("prove") == 1
    assert late.asked.count("prove") == 6
    late.has.add(item.cid)
    assert len((await look(world, item)).proved) == 3
    good.has.clear()
    world.env.time += FRESH_S
    late.has.clear()
    standing = await look(world, item)  # the round after all had proved asks all
    assert standing.proved == {world.own}


async def test_a_restart_moves_nothing(world: World) -> None:
    item = world.ours()
    away, _ = give(world, item)
    away.is_alive = away.is_reachable = False
    world.observe()
    world.env.time += GRACE_S - 1
    world.observe()
    await look(world, item)
    away.is_alive = away.is_reachable = True
    world.observe()
    await look(world, item)
    assert not any("hold" in peer.asked for peer in world.peers.values())


@pytest.mark.parametrize("outcome", ["absent", "late", "unreachable"])
async def test_a_home_holder_that_cannot_prove_is_replaced_until_it_can(world: World, outcome: Outcome) -> None:
    item = world.ours()
    bad, _ = give(world, item)
    bad.outcome = outcome
    standing = await look_for(world, item, FAILED_S - 5)
    assert bad.id in standing.acting
    assert not any("hold" in peer.asked for peer in world.peers.values())
    standing = await look_for(world, item, 10)
    assert bad.id not in standing.acting
    assert len(standing.proved) == 3
    bad.outcome = "proved"
    standing = await look(world, item)
    assert set(standing.acting) == set(item.home)
    assert len(standing.proved) == 4  # the stand-in lets go by itself


async def test_one_that_fails_now_so_now_otherwise_is_replaced_too(world: World) -> None:
    item = world.ours()
    bad, _ = give(world, item)
    outcomes: tuple[Outcome, ...] = ("late", "unreachable", "absent")
    for at in range(6):
        bad.outcome = outcomes[at % 3]
        await look(world, item)
        world.env.time += 5
    standing = await look(world, item)
    assert bad.id not in standing.acting
    assert len(standing.proved) == 3


async def test_a_holder_that_lied_is_replaced_at_once_and_evidence_is_kept(world: World) -> None:
    item = world.ours()
    liar, _ = give(world, item)
    liar.outcome = "lied"
    standing = await look(world, item)
    assert liar.id not in standing.acting
    assert world.inventory.liars() == [liar.id]
    assert world.count("lied") == 1
    (stand_in,) = set(standing.acting) - set(item.home)
    assert "hold" in world.peers[stand_in].asked


async def test_a_full_node_is_passed_over_and_its_stand_in_holds(world: World) -> None:
    item = world.ours()
    full, other = world.others(item)
    other.has.add(item.cid)
    world.full.add(full.id)
    await look(world, item)
    standing = await look(world, item)
    assert full.id not in standing.acting
    assert len(standing.proved) == 3
    assert "hold" not in full.asked


async def test_a_full_node_that_has_the_chunk_stays_its_holder(world: World) -> None:
    item = world.ours()
    give(world, item)
    world.full.update(peer.id for peer in world.others(item))
    standing = await look(world, item)
    assert set(standing.acting) == set(item.home)


async def test_a_stand_in_that_does_not_take_it_gives_way_to_the_next(world: World) -> None:
    item = world.ours()
    lost, _ = give(world, item)
    stand_ins = world.strangers(item)
    world.lose(lost)
    first = next(peer for peer in (await look(world, item)).acting if peer not in item.home)
    world.peers[first].takes = False
    world.peers[first].has.clear()
    standing = await look_for(world, item, FAILED_S + 10)
    assert first not in standing.acting
    assert len(standing.proved) == 3
    assert {peer.id for peer in stand_ins if "hold" in peer.asked} == {peer.id for peer in stand_ins}


async def test_a_stand_in_that_could_not_at_first_is_asked_again_when_nobody_else_is_left(rng: random.Random) -> None:
    world = World(rng, 4)
    item = world.ours()
    lost, _ = give(world, item)
    (only,) = world.strangers(item)
    only.takes = False  # its log does not know the document yet
    world.lose(lost)
    standing = await look_for(world, item, FAILED_S + 60)
    assert len(standing.proved) == 2
    only.takes = True
    standing = await look_for(world, item, 10)
    assert only.id in standing.proved
    assert len(standing.proved) == 3
    world.close()


async def test_who_lied_or_is_full_is_not_asked_again_even_then(rng: random.Random) -> None:
    world = World(rng, 5)
    item = world.ours()
    lost, _ = give(world, item)
    full, liar = world.strangers(item)
    world.lose(lost)
    world.full.add(full.id)
    liar.outcome = "lied"
    await look_for(world, item, 2 * FAILED_S)
    asked = liar.asked.count("hold")
    await look_for(world, item, 2 * FAILED_S)
    assert liar.asked.count("hold") == asked
    assert "hold" not in full.asked
    world.close()


async def test_while_most_nodes_are_away_nobody_is_asked(world: World) -> None:
    item = world.ours()
    holders = give(world, item)
    (third, _) = world.strangers(item)
    world.lose(*holders, third)
    assert world.view.is_cut_off
    standing = await look(world, item)
    assert not any("hold" in peer.asked for peer in world.peers.values())
    assert standing.proved == {world.own}
    third.is_alive = third.is_reachable = True
    world.observe()
    await look(world, item)
    assert "hold" in third.asked


async def test_a_node_that_cannot_be_asked_to_hold_ends_nothing(world: World) -> None:
    item = world.ours()
    lost, _ = give(world, item)
    world.lose(lost)

    async def hold(*_: object) -> int:
        raise UnavailableError("away")

    world.hold = hold  # type: ignore[method-assign]
    await look(world, item)
    assert world.count("hold_asked") == 1
    assert world.count("hold_taken") == 0


async def test_only_the_first_that_is_there_asks(world: World) -> None:
    second = world.keep(world.find(lambda item: item.home[1] == world.own))
    give(world, second)
    first = world.peers[second.home[0]]
    assert await world.coordinating.round() == 0
    world.lose(first)
    assert await world.coordinating.round() == 1
    assert any("hold" in peer.asked for peer in world.strangers(second))
    third = world.find(lambda item: item.home[2] == world.own and item.home[0] == first.id)
    await world.coordinating.round()
    assert world.inventory.proofs([third.id])[third.id] == []  # looked at, and left to the second


@pytest.mark.parametrize("seed", range(5))
async def test_two_coordinators_at_once_make_copies_too_many_never_too_few(seed: int) -> None:
    """Another node takes the home's second for lost, we its third: both ask for a stand-in."""
    random_ = random.Random(seed)
    ours, theirs = World(random_, 7), World(random_, 7)
    item = ours.ours()
    ours_peers = give(ours, item)
    theirs.peers = ours.peers
    other = theirs.find(lambda one: one.cid == item.cid)
    theirs.bring([item.cid])
    ours.lose(ours_peers[1])
    ours_peers[1].is_reachable = ours_peers[1].is_alive = True
    ours_peers[0].is_alive = False
    theirs.observe()
    theirs.env.time += GRACE_S
    theirs.observe()
    for _ in range(3):
        await look(ours, item)
        await look(theirs, other)
    holders = {peer.id for peer in ours.peers.values() if item.cid in peer.has} | {ours.own}
    assert set(item.home) <= holders
    assert 3 <= len(holders) <= 5
    ours.close()
    theirs.close()


async def test_the_lag_of_a_node_is_of_what_it_owes_now(world: World) -> None:
    first = world.ours()
    late, prompt = world.others(first)
    prompt.has.add(first.cid)
    began = world.now()
    await look_for(world, first, 10)
    assert world.coordinating.lag_since == {late.id: began}
    assert lag(world, late) == 10.0
    assert lag(world, prompt) == 0.0
    world.env.time += 2
    second = world.keep(
        world.find(lambda item: item.home[0] == world.own and {late.id, prompt.id} == set(item.home[1:]))
    )
    prompt.has.add(second.cid)
    await look(world, second)
    assert world.coordinating.lag_since[late.id] == began
    late.has.add(first.cid)  # the older one is paid: what counts is the other
    await look(world, first)
    assert world.coordinating.lag_since[late.id] == second.since
    late.has.add(second.cid)
    await look(world, second)
    assert world.coordinating.lag_since == {}
    assert lag(world, late) == 0.0


async def test_a_node_that_owes_nothing_any_more_lags_no_more(world: World) -> None:
    item = world.ours()
    late, _ = world.others(item)
    await look_for(world, item, 10)
    assert late.id in world.coordinating.lag_since
    world.set_nodes({number: "drained" if peer_id(number) == late.id else "active" for number in range(5)})
    world.place()
    assert late.id not in world.item(item.cid).home
    await look(world, item)
    assert late.id not in world.coordinating.lag_since
    other = world.ours()
    give(world, other)
    others = set(world.coordinating.lag_since)
    world.inventory.forget("acme", item.doc_id, world.now(), is_told=True)
    world.env.time += FORGET_S + 1
    await look(world, other)
    assert others
    assert world.coordinating.lag_since == {}


def lag(world: World, peer: Peer) -> float:
    return world.metrics.replication_lag._cells[str(world.own), str(peer.id)][0]


async def test_it_runs_when_it_is_woken_and_ends_when_it_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = asyncio.Event()
    original = world.coordinating.audit

    async def audit(items: object) -> object:
        looked.set()
        return await original(items)  # type: ignore[arg-type]

    monkeypatch.setattr(world.coordinating, "audit", audit)
    running = asyncio.ensure_future(world.coordinating.run())
    await asyncio.sleep(0)
    item = world.ours()
    world.coordinating.wake()
    async with asyncio.timeout(10):
        await looked.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert world.inventory.proofs([item.id])[item.id] is not None
    assert coordinating.BATCH <= 256  # one nonce
