"""Gossip of a hundred routers under virtual time: what `bench.gossip_scale` measures for a thousand, within seconds."""

from __future__ import annotations

import random
from typing import Any

from rage_net.libp2p.gossipsub import Params
from tests.sim.gossip import TOPIC, Figures, World
from tests.sim.gossip import play as play_long


def play(*args: int, **more: Any) -> Figures:
    return play_long(*args, warm_s=8.0, spread_s=3.0, **more)


def test_messages_reach_all_within_six_heartbeats_at_five_percent_loss(rng: random.Random) -> None:
    seed = rng.getrandbits(32)
    figures = play(seed, 100, messages=20, loss=0.05)
    assert figures.reached >= 0.999, (seed, figures)
    assert figures.duplicates <= 1.5 * Params().d, (seed, figures)
    assert Params().d_low <= figures.mesh <= Params().d_high, (seed, figures)


def test_a_fifth_of_the_nodes_drop_everything_and_the_others_hear_all_but_everything(rng: random.Random) -> None:
    seed = rng.getrandbits(32)
    figures = play(seed, 100, messages=20, loss=0.05, hostile=0.2)
    assert figures.reached >= 0.99, (seed, figures)


def test_gossip_brings_what_a_thin_mesh_lost(rng: random.Random) -> None:
    """A third of all RPCs is lost, meshes are thin and nobody floods: what comes late has come by IHAVE and IWANT."""
    seed = rng.getrandbits(32)
    thin = Params(d=3, d_low=2, d_high=4, d_out=1, d_score=2, flood_publish=False)
    figures = play(seed, 60, messages=20, loss=0.3, params=thin)
    assert figures.reached >= 0.99, (seed, figures)
    assert figures.last_s > 1.0, (seed, figures)


def test_large_messages_are_announced_and_come_again_less_often(rng: random.Random) -> None:
    seed = rng.getrandbits(32)
    silent, telling = (
        play(seed, 40, messages=10, loss=0.0, data_bytes=60_000, rate_bytes_s=500_000.0, params=params)
        for params in (Params(unwanted_bytes_min=1 << 20), Params())
    )
    assert silent.reached == telling.reached == 1.0, seed
    assert telling.duplicates < 0.85 * silent.duplicates, (seed, silent, telling)


def test_a_seed_repeats_a_run(rng: random.Random) -> None:
    seed = rng.getrandbits(32)
    assert play(seed, 40, messages=5, loss=0.05) == play(seed, 40, messages=5, loss=0.05), seed
    assert play(seed, 40, messages=5, loss=0.05) != play(seed + 1, 40, messages=5, loss=0.05), seed


def test_every_mesh_finds_its_size_and_both_ends_agree_on_it(rng: random.Random) -> None:
    seed = rng.getrandbits(32)
    world = World(seed, 60)
    world.run(20.0)
    params = Params()
    for node in world.nodes.values():
        mesh = node.router.mesh.members(TOPIC)
        assert params.d_low <= len(mesh) <= params.d_high, seed
        assert sum(peer.is_outbound for peer in mesh) >= params.d_out, seed
    world.run(20.5)  # what was under way has come
    pairs = {(id, peer.id) for id, node in world.nodes.items() for peer in node.router.mesh.members(TOPIC)}
    one_sided = [pair for pair in pairs if pair[::-1] not in pairs]
    assert len(one_sided) <= len(pairs) // 50, (seed, one_sided)
