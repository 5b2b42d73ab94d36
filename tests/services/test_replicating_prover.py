"""The prover: claims and proofs, challenged where the bytes are here, in a ring or by fetching where they are not."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from rage_net.chunk import replicas
from rage_net.chunk.store import admit
from rage_net.messages import HAVE_MAX
from rage_net.replication.audit import CHALLENGES_MAX, Answer, Outcome

from .replicating_world import World, peer_id

pytestmark = pytest.mark.anyio


@pytest.fixture
def world(rng: random.Random) -> Iterator[World]:
    made = World(rng)
    yield made
    made.close()


async def test_claims_are_of_durable_chunks_by_the_word_of_others_and_by_our_own_index(world: World) -> None:
    one, two = world.chunk(1), world.chunk(2)
    first, second, *_ = world.peers.values()
    first.has.update([one, two])
    first.cached.add(two)
    second.is_reachable = False
    world.bring([two])
    found = await world.prover.ask({first.id: [one, two], second.id: [one], world.own: [one, two]})
    assert {(peer, cid): answer.outcome for (peer, cid), answer in found.items()} == {
        (first.id, one): "claims",
        (first.id, two): "absent",
        (second.id, one): "unreachable",
        (world.own, one): "absent",
        (world.own, two): "claims",
    }


async def test_many_claims_are_asked_for_in_requests_of_bounded_length(world: World) -> None:
    (peer, *_) = world.peers.values()
    cids = [world.chunk(number) for number in range(HAVE_MAX + 1)]
    found = await world.prover.ask({peer.id: cids})
    assert len(found) == len(cids)
    assert peer.asked == ["have", "have"]


@pytest.mark.parametrize("outcome", ["proved", "absent", "late", "lied", "unreachable"])
async def test_what_is_here_is_challenged(world: World, outcome: Outcome) -> None:
    cid = world.chunk(1)
    world.bring([cid])
    (peer, *_) = world.peers.values()
    peer.has.add(cid)
    peer.outcome = outcome
    found = await world.prover.prove({peer.id: [cid]})
    assert found[peer.id, cid].outcome == outcome
    assert peer.asked == ["prove"]


async def test_we_prove_what_we_can_read_and_keep_durably(world: World) -> None:
    kept, cached, rotten = world.chunk(1), world.chunk(2), world.chunk(3)
    world.bring([kept, rotten])
    world.store.keep([admit(cached, "raw", world.plain[cached], len(world.plain[cached]))[0]])
    assert world.store.durable([kept, cached]) == {kept}
    replicas.let_go(world.store, [rotten], now=world.env.now(), at_once=True)
    absent = world.chunk(4)
    found = await world.prover.prove({world.own: [kept, cached, absent, rotten]})
    assert found[world.own, kept] == Answer("proved", is_kept=True)
    assert {found[world.own, cid].outcome for cid in (cached, absent, rotten)} == {"absent"}


async def test_where_the_bytes_are_not_here_holders_challenge_each_other(world: World) -> None:
    cid = world.chunk(1)
    holders = list(world.peers.values())[:3]
    for peer in holders:
        peer.has.add(cid)
    holders[1].is_kept = False
    asks = {peer.id: [cid] for peer in world.peers.values()}
    found = await world.prover.prove(asks)
    assert [found[peer, cid].outcome for peer in asks] == ["proved", "proved", "proved", "absent"]
    assert [found[peer.id, cid].is_kept for peer in holders] == [True, False, True]
    assert all(peer.asked.count("relay") == 1 and "fetch" not in peer.asked for peer in holders)


async def test_one_that_claims_and_cannot_prove_is_found_by_the_next_in_the_ring(world: World) -> None:
    cid = world.chunk(1)
    first, second, third, _ = world.peers.values()
    for peer in (first, second, third):
        peer.has.add(cid)
    second.outcome = "lied"
    second.lies = True
    found = await world.prover.prove({peer.id: [cid] for peer in (first, second, third)})
    assert found[second.id, cid].outcome == "lied"
    # what the liar would have said of another is worth nothing: that one is checked by fetching
    assert found[first.id, cid].outcome == found[third.id, cid].outcome == "proved"
    assert first.asked.count("fetch") + third.asked.count("fetch") == 1


async def test_a_lone_holder_is_checked_by_fetching(world: World) -> None:
    cids = [world.chunk(number) for number in range(4)]
    honest, liar, away, forgetful = world.peers.values()
    for peer, cid in zip((honest, liar, away, forgetful), cids, strict=True):
        peer.has.add(cid)
    liar.lies = True
    away.is_reachable = False
    original = world.have

    async def have(peer: object, some: object, durable: bool) -> object:
        said = await original(peer, some, durable)  # type: ignore[arg-type]
        forgetful.has.clear()
        return said

    world.prover._have = have  # type: ignore[assignment]
    found = await world.prover.prove(
        {peer.id: [cid] for peer, cid in zip((honest, liar, away, forgetful), cids, strict=True)}
    )
    assert [answer.outcome for answer in found.values()] == ["proved", "lied", "unreachable", "absent"]
    assert not found[honest.id, cids[0]].is_kept  # nobody asked it


async def test_relays_are_asked_in_requests_of_bounded_length(world: World) -> None:
    cids = [world.chunk(number) for number in range(CHALLENGES_MAX + 1)]
    first, second, *_ = world.peers.values()
    first.has.update(cids)
    second.has.update(cids)
    found = await world.prover.prove({first.id: cids, second.id: cids})
    assert {answer.outcome for answer in found.values()} == {"proved"}
    assert first.asked.count("relay") == 2


async def test_nobody_asked_is_nothing_found(world: World) -> None:
    assert await world.prover.prove({}) == {}
    assert await world.prover.ask({}) == {}
    assert peer_id(1) in world.peers
