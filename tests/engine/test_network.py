"""The verbs of the network on whole engines in a simulated world: real protocols, virtual time, one seed."""

from __future__ import annotations

import asyncio
import base64
import io
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from rage_lab.sim.node import Node
from rage_lab.sim.world import World, play
from rage_net.cid import Cid
from rage_net.errors import AccessDeniedError, NotFoundError, RageError, UnavailableError, UsageError
from rage_net.services.presence import ANNOUNCE_S_MIN
from rage_net.verbs.chunk import ChunkProviders, PutChunk
from rage_net.verbs.dht import FindNearest, FindProviders, Hop, ShowTable, TraceLookUp
from rage_net.verbs.diagnose import Doctor, Why
from rage_net.verbs.discovery import ListRegistered, ListServers, Register
from rage_net.verbs.peer import BanPeer, DiscoverPeers, FindPeer, FoundPeer, ListPeers, UnbanPeer
from rage_net.verbs.topic import MESSAGE_BYTES_MAX, ListTopics, PublishTopic, TailTopic, TopicMessage

SETTLE_S = 20.0

Play = Callable[[Callable[[World], Awaitable[Any]]], Any]


@pytest.fixture
def run(rng: random.Random, tmp_path: Path) -> Play:
    """Play a scenario once; a failure names its seed."""
    seed = rng.getrandbits(32)
    return lambda scenario: play(scenario, seed, tmp_path).result


async def three(world: World, **flags: Any) -> tuple[Node, Node, Node]:
    """Beta and gamma were told of alpha alone."""
    alpha = await world.node("alpha", flags=flags)
    beta, gamma = [await world.node(name, bootstrap=[alpha], flags=flags) for name in ("beta", "gamma")]
    await asyncio.sleep(SETTLE_S)
    return alpha, beta, gamma


async def refused(work: Awaitable[object], kind: type[RageError], id: str) -> RageError:
    with pytest.raises(kind) as error:
        await work
    assert error.value.id == id and error.value.mend, error.value
    return error.value


def test_a_root_is_announced_found_traced_and_fetched_by_who_was_not_told(run: Play) -> None:
    async def scenario(world: World) -> None:
        alpha, beta, gamma = await three(world)
        data = world.random.randbytes(200_000)
        root = await beta.put(data)
        await asyncio.sleep(5)
        found = await gamma.run(FindProviders(root))
        assert [provider.peer_id for provider in found.providers] == [beta.peer_id]
        hops: list[Hop] = []
        traced = await gamma.run(TraceLookUp(root), tell=hops.append)
        assert traced.kind == "cid" and traced.asked == len(hops) >= 1
        assert {hop.outcome for hop in hops} == {"answered"} and sum(hop.providers for hop in hops) >= 1
        assert [hop.number for hop in hops] == list(range(1, len(hops) + 1))
        rows = (await alpha.run(ChunkProviders(root))).items
        assert (rows[0].peer_id, rows[0].state) == (beta.peer_id, "has")
        got = await gamma.get(root)
        assert got.data == data and got.sources["p2p"] > 0
        await asyncio.sleep(5)
        found = await alpha.run(FindProviders(root))
        assert {row.peer_id for row in found.providers} == {beta.peer_id, gamma.peer_id}, "what is fetched is announced"

    run(scenario)


def test_what_is_not_public_is_announced_to_nobody(run: Play) -> None:
    async def scenario(world: World) -> None:
        alpha, beta, gamma = await three(world)
        secret = (await beta.run(PutChunk(visibility="org"), source=io.BytesIO(b"for us"))).root
        await asyncio.sleep(SETTLE_S)
        assert not (await gamma.run(FindProviders(secret))).providers
        await refused(gamma.run(ChunkProviders(secret)), NotFoundError, "no-providers")
        assert (await alpha.run(ShowTable())).provider_records == 0

    run(scenario)


def test_the_table_and_the_nearest(run: Play) -> None:
    async def scenario(world: World) -> None:
        alpha, beta, gamma = await three(world)
        table = await alpha.run(ShowTable())
        assert table.mode == "server" and table.contacts == 2
        assert {row.peer_id for bucket in table.buckets for row in bucket.contacts} == {beta.peer_id, gamma.peer_id}
        nearest = await alpha.run(FindNearest(gamma.peer_id[-10:]))
        assert nearest.kind == "peer" and nearest.found[0].peer_id == gamma.peer_id
        assert nearest.found[0].distance_bits == 0
        await refused(alpha.run(FindProviders("report.md")), UsageError, "usage")

    run(scenario)


def test_without_the_dht_its_verbs_say_so(run: Play) -> None:
    async def scenario(world: World) -> None:
        alpha, *_ = await three(world, **{"network.libp2p.dht.enabled": "false"})
        await refused(alpha.run(ShowTable()), UnavailableError, "dht-off")
        ways = (await alpha.run(DiscoverPeers(via=("dht", "server", "mdns"), for_s=1.0), tell=lambda _: None)).ways
        assert [(way.via, way.code) for way in ways] == [
            ("dht", "dht-off"),
            ("server", "discovery-off"),
            ("mdns", "mdns-off"),
        ]

    run(scenario)


def test_nodes_learn_of_each_other_over_gossip_and_a_tail_shows_it(run: Play) -> None:
    async def scenario(world: World) -> None:
        alpha, beta, gamma = await three(world, **{"network.organization_id": "acme"})
        await asyncio.sleep(ANNOUNCE_S_MIN)  # alpha has announced itself before gamma came, and does it again
        topics = {row.topic: row for row in (await alpha.run(ListTopics())).items}
        assert topics["rage.global"].is_joined and topics["rage.global"].mesh == 2
        assert topics["rage.org.acme"].is_joined and topics["rage.org.acme"].peers == 0, "for certificate holders alone"
        rows = {row.peer_id: row for row in (await gamma.run(ListPeers())).items}
        assert rows[alpha.peer_id].organization == "acme" and rows[alpha.peer_id].capabilities == ("storage",)
        assert rows[alpha.peer_id].liveness == "alive"
        told: list[TopicMessage] = []
        tail = await alpha.run(TailTopic("rage.global", count=3, for_s=120), tell=told.append)
        assert tail.messages == 3 and {message.kind for message in told} <= {"heartbeat", "announcement"}
        assert {message.from_peer for message in told} == {beta.peer_id, gamma.peer_id}
        assert "org=acme" in told[0].text
        ended = await alpha.run(TailTopic("rage.global", for_s=0.5), tell=told.append)
        assert ended.messages <= 1

    run(scenario)


def test_a_message_reaches_who_tails_its_topic(run: Play) -> None:
    async def scenario(world: World) -> None:
        alpha, _, gamma = await three(world)
        told: list[TopicMessage] = []
        tail = asyncio.ensure_future(gamma.run(TailTopic("news", count=1, for_s=30), tell=told.append))
        await asyncio.sleep(3)
        sent = await alpha.run(PublishTopic("news"), source=io.BytesIO(b"hello"))
        assert sent.peers >= 1 and sent.size == 5
        await tail
        (message,) = told
        assert base64.b64decode(message.data) == b"hello" and message.from_peer == alpha.peer_id
        assert message.kind == "unknown"
        too_much = io.BytesIO(bytes(MESSAGE_BYTES_MAX + 1))
        await refused(alpha.run(PublishTopic("news"), source=too_much), UsageError, "message-too-large")
        for topic in ("rage.org.other", "rage.acl.of.others"):
            await refused(
                alpha.run(PublishTopic(topic), source=io.BytesIO(b"x")), AccessDeniedError, "topic-not-joined"
            )
        await refused(alpha.run(TailTopic(""), tell=told.append), UsageError, "topic-invalid")

    run(scenario)


def test_peers_are_discovered_found_banned_and_let_in_again(run: Play) -> None:
    async def scenario(world: World) -> None:
        alpha, beta, gamma = await three(world)
        told: list[FoundPeer] = []
        found = await beta.run(DiscoverPeers(via=("dht",), for_s=30), tell=told.append)
        assert {row.peer_id for row in found.items} == {alpha.peer_id, gamma.peer_id} == {row.peer_id for row in told}
        connected = await beta.run(DiscoverPeers(via=("dht",), for_s=30, connect=True), tell=told.append)
        assert all(row.is_connected for row in connected.items)
        at = await beta.run(FindPeer(gamma.peer_id))
        assert gamma.address in at.addresses and at.is_connected
        banned = await beta.run(BanPeer(gamma.peer_id, 60.0, "noise"))
        assert banned.was_connected
        await asyncio.sleep(SETTLE_S)
        assert gamma.peer_id not in beta.peers()
        why = await beta.run(Why(gamma.peer_id))
        assert not why.is_ok and why.broken == "ban" and why.mend == (f"rage peer unban {gamma.peer_id}",)
        await beta.run(UnbanPeer(gamma.peer_id))
        await refused(beta.run(UnbanPeer(gamma.peer_id)), NotFoundError, "peer-not-banned")
        assert (await beta.run(Why(gamma.address))).is_ok
        await refused(beta.run(FindPeer("12D3KooWnobody")), UsageError, "peer-id-needed")

    run(scenario)


def test_bans_survive_a_restart(run: Play) -> None:
    async def scenario(world: World) -> None:
        alpha, beta, _ = await three(world)
        await alpha.run(BanPeer(beta.peer_id, None, "for good"))
        await world.leave(alpha)
        await world.join(alpha)
        await asyncio.sleep(SETTLE_S)
        assert beta.peer_id not in alpha.peers()
        (row,) = (await alpha.run(ListPeers(state="banned"))).items
        assert (row.peer_id, row.reason, row.until) == (beta.peer_id, "for good", None)

    run(scenario)


def test_why_names_the_first_broken_link(run: Play) -> None:
    async def scenario(world: World) -> None:
        alone = await world.node("alone")
        absent = str(Cid.of(b"nobody has this"))
        why = await alone.run(Why(absent))
        assert not why.is_ok and why.broken == "peers" and "rage peer discover --connect" in why.mend
        _, beta, gamma = await three(world)
        why = await gamma.run(Why(absent))
        assert not why.is_ok and why.broken == "dht" and any(mend.startswith("there: ") for mend in why.mend)
        root = await beta.put(b"something public", "notes")
        why = await beta.run(Why("notes"))
        assert why.is_ok and why.kind == "document" and why.steps[0].state == "ok"
        await asyncio.sleep(5)
        why = await gamma.run(Why(root))
        assert why.is_ok and beta.peer_id in why.verdict
        await refused(gamma.run(Why("no such thing")), NotFoundError, "document-not-found")
        world.vanish(beta)
        await gamma.run(BanPeer(beta.peer_id))
        await gamma.run(UnbanPeer(beta.peer_id))
        why = await gamma.run(Why(root))
        assert not why.is_ok and why.broken.startswith("provider"), "the DHT still names who has vanished"

    run(scenario)


def test_the_doctor_looks_at_the_network(run: Play) -> None:
    async def scenario(world: World) -> None:
        alpha, beta, gamma = await three(world)
        checks = {check.id: check for check in (await gamma.run(Doctor())).checks}
        assert checks["bootstrap"].level == "ok" and checks["dht"].level == "ok"
        assert checks["discovery"].level == "skipped" and checks["addresses"].level == "ok"
        world.vanish(alpha)
        world.vanish(beta)
        await world.until(lambda: not gamma.peers(), within_s=300, what="the silent are noticed")
        (check,) = (await gamma.run(Doctor(only=("bootstrap",)))).checks
        assert check.level == "error" and alpha.peer_id in check.why and check.mend

    run(scenario)


def test_without_servers_the_verbs_of_discovery_say_so(run: Play) -> None:
    async def scenario(world: World) -> None:
        alpha = await world.node("alpha", flags={"network.discovery.enabled": "true"})
        for verb in (ListServers(), ListRegistered(), Register()):
            await refused(alpha.run(verb), NotFoundError, "no-servers")

    run(scenario)


def test_who_vanishes_is_suspect_then_gone_and_who_stalls_declares_nobody_dead(run: Play) -> None:
    async def scenario(world: World) -> None:
        alpha, beta, gamma = await three(world)
        delta = await world.node("delta", bootstrap=[alpha])
        await asyncio.sleep(SETTLE_S)

        def state(at: Node, of: str) -> str | None:
            from rage_net.libp2p.peer_id import PeerId

            return at.online.membership.liveness.state(PeerId.parse(of))

        ids = {node.name: node.peer_id for node in (alpha, beta, gamma, delta)}
        world.stall(alpha, 400)
        await asyncio.sleep(401)
        assert all(state(alpha, ids[name]) != "gone" for name in ("beta", "gamma", "delta")), "its own stall"
        await asyncio.sleep(90)
        assert [state(alpha, ids[name]) for name in ("beta", "gamma", "delta")] == ["alive"] * 3
        world.vanish(delta)
        await asyncio.sleep(60)
        assert state(beta, ids["delta"]) == "suspect"
        await world.until(lambda: state(beta, ids["delta"]) == "gone", within_s=300, what="delta is gone")
        assert state(beta, ids["gamma"]) == "alive"

    run(scenario)
