"""What nodes make of a bad network: whole engines, and every fault that the simulator has."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from rage_lab.sim.node import Collect, Node
from rage_lab.sim.scenarios import a_holder_leaves, a_holder_vanishes, a_newcomer_among_strangers, churn_of_a_third
from rage_lab.sim.world import Scenario, World, play
from rage_net.errors import UnavailableError
from rage_net.libp2p.swarm import Disconnected
from rage_net.verbs.peer import PingPeer


@pytest.mark.parametrize("scenario", [a_holder_leaves, a_holder_vanishes])
def test_a_download_outlives_a_holder(scenario: Scenario, rng: random.Random, tmp_path: Path) -> None:
    got = play(scenario, rng.getrandbits(32), tmp_path).result
    assert got.is_whole and got.sources["local"] == 0 and got.sources["p2p"] > 20
    assert min(got.gave.values()) > 50_000, "both holders gave a part"
    assert got.seconds < 10, "who is silent is asked no more, long before its connection is given up"


def test_with_a_third_gone_without_notice_everyone_gets_every_document(rng: random.Random, tmp_path: Path) -> None:
    gets = play(churn_of_a_third, rng.getrandbits(32), tmp_path).result
    assert gets.failures == () and gets.tried == 7 * 10


def test_links_go_on_after_a_short_partition(rng: random.Random, tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        alpha, beta = await world.node("alpha"), await world.node("beta")
        root = await alpha.put(data := world.random.randbytes(600_000))
        sink = Collect(100_000)
        getting = asyncio.create_task(beta.get(root, alpha, sink=sink))
        await sink.has_enough.wait()
        connection = beta.online.swarm.connections()[0]
        world.partition([alpha])
        await asyncio.sleep(4)
        assert not getting.done() and len(sink.data) < len(data)
        world.heal()
        assert (await getting).data == data
        assert beta.online.swarm.connections() == [connection], "the link had stalled, and was not lost"

    play(scenario, rng.getrandbits(32), tmp_path)


def test_links_die_in_a_long_partition_and_are_made_anew_after_it(rng: random.Random, tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        alpha = await world.node("alpha")
        beta = await world.node("beta", bootstrap=[alpha])
        await world.until(lambda: alpha.peers() == [beta.peer_id], within_s=5, what="they meet")
        world.partition([alpha], [beta])
        died_s = await world.until(lambda: not alpha.peers() and not beta.peers(), within_s=60, what="both gave up")
        assert died_s > 10, "silence alone is no reason"
        with pytest.raises(UnavailableError) as caught:
            await alpha.connect(beta)
        assert "no answer in time" in caught.value.why
        world.heal()
        await world.until(lambda: beta.peers() == [alpha.peer_id], within_s=60, what="they meet again by themselves")

    play(scenario, rng.getrandbits(32), tmp_path)


def test_a_stalled_node_comes_back_with_its_connections(rng: random.Random, tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        alpha = await world.node("alpha")
        beta = await world.node("beta", bootstrap=[alpha])
        await world.until(lambda: alpha.peers() == [beta.peer_id], within_s=5, what="they meet")
        lost: list[object] = []
        for node in (alpha, beta):
            node.online.swarm.on_event(lambda event: lost.append(event) if isinstance(event, Disconnected) else None)
        world.stall(beta, 8)
        begin = world.now
        await alpha.run(PingPeer(beta.peer_id, count=1))
        assert 8 <= world.now - begin < 8.5, "it answers as soon as it goes on"
        gamma = await world.node("gamma")
        world.stall(beta, 6)
        begin = world.now
        await gamma.connect(beta)
        assert 6 <= world.now - begin < 7, "its kernel takes a dial, and its process answers later"
        await asyncio.sleep(60)
        assert lost == []

    play(scenario, rng.getrandbits(32), tmp_path)


@pytest.mark.parametrize("is_asleep", [False, True], ids=["busy", "asleep, and nothing reaches it"])
def test_who_stood_still_declares_nobody_gone_and_is_itself_alive_again_for_all(
    is_asleep: bool, rng: random.Random, tmp_path: Path
) -> None:
    async def scenario(world: World) -> None:
        first = await world.node("n0")
        nodes = [first] + [await world.node(f"n{number}", bootstrap=[first]) for number in range(1, 5)]
        everyone = {node.peer_id for node in nodes}

        def said_by(node: Node) -> dict[str, str]:
            return {str(peer): state for peer, state in node.online.membership.liveness}

        def all_alive(node: Node) -> bool:
            states = said_by(node)
            return set(states) == everyone - {node.peer_id} and set(states.values()) == {"alive"}

        await world.until(lambda: all(map(all_alive, nodes)), within_s=60, what="all know each other")
        still, *others = nodes[1:]
        world.stall(still, 90)
        if is_asleep:
            world.partition([still])
        await asyncio.sleep(89)
        states = [said_by(other)[still.peer_id] for other in others]
        assert "gone" in states and "alive" not in states
        await asyncio.sleep(0.95)
        world.heal()
        told: set[str] = set()
        for _ in range(600):
            await asyncio.sleep(0.1)
            told |= set(said_by(still).values())
        assert "gone" not in told, "its own lag is nobody's silence"
        await world.until(lambda: all(map(all_alive, nodes)), within_s=60, what="all are alive again for all")

    play(scenario, rng.getrandbits(32), tmp_path)


def test_a_newcomer_told_of_one_address_finds_what_strangers_have(rng: random.Random, tmp_path: Path) -> None:
    found = play(a_newcomer_among_strangers, rng.getrandbits(32), tmp_path).result
    assert found.gets.failures == () and found.gets.tried >= 6
    assert max(found.seconds) < 3, "from its start, with a third of the nodes gone and nobody told"


def test_a_node_that_vanished_comes_back_with_its_disk_and_its_name(rng: random.Random, tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        alpha = await world.node("alpha")
        beta = await world.node("beta", bootstrap=[alpha])
        root = await beta.put(data := world.random.randbytes(50_000))
        await world.until(lambda: alpha.peers() == [beta.peer_id], within_s=5, what="they meet")
        was = beta.peer_id
        world.vanish(beta)
        assert not beta.is_up and world.up == [alpha]
        await asyncio.sleep(3)
        assert alpha.peers() == [was], "nobody was told"
        await world.join(beta)
        assert beta.peer_id == was and beta.lives == 2
        await world.until(lambda: beta.peers() == [alpha.peer_id], within_s=5, what="they meet again")
        await asyncio.sleep(1)  # until then alpha may still try the old link, and hear that it is none
        assert (await alpha.get(root)).data == data

    play(scenario, rng.getrandbits(32), tmp_path)


def test_a_node_that_leaves_says_goodbye(rng: random.Random, tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        alpha = await world.node("alpha")
        beta = await world.node("beta", bootstrap=[alpha])
        await world.until(lambda: alpha.peers() == [beta.peer_id], within_s=5, what="they meet")
        await world.leave(beta)
        await world.until(lambda: not alpha.peers(), within_s=1, what="it heard")

    play(scenario, rng.getrandbits(32), tmp_path)


def test_a_document_takes_its_size_over_the_bandwidth(rng: random.Random, tmp_path: Path) -> None:
    size, rate = 2_000_000, 250_000

    async def scenario(world: World) -> None:
        alpha, beta, gamma = [await world.node(name) for name in ("alpha", "beta", "gamma")]
        root = await alpha.put(world.random.randbytes(size))
        world.network.shape(alpha.ip, up_bytes_s=rate)
        first = await beta.get(root, alpha, keep=False)
        assert size / rate < first.seconds < 1.15 * size / rate
        both = await asyncio.gather(beta.get(root, alpha, keep=False), gamma.get(root, alpha, keep=False))
        assert all(2 * size / rate * 0.9 < got.seconds < 2.3 * size / rate for got in both), "they share the line"

    play(scenario, rng.getrandbits(32), tmp_path)


def test_distance_costs_round_trips(rng: random.Random, tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        alpha, beta = await world.node("alpha", region="eu"), await world.node("beta", region="us")
        begin = world.now
        await alpha.connect(beta)
        rtt_s = 2 * world.geography.between(alpha.ip, beta.ip).delay_s
        assert 2 * rtt_s <= world.now - begin < 2 * rtt_s * 1.2, "one for TCP, one for Noise"
        pinged = await alpha.run(PingPeer(beta.peer_id, count=3, interval_s=0.1))
        assert all(rtt_s <= rtt_ms / 1000 <= rtt_s * 1.1 + 0.01 for rtt_ms in pinged.rtt_ms)

    play(scenario, rng.getrandbits(32), tmp_path)
