"""The client of discovery servers: all at once, none believed more than it must be, and none needed."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rage_net.discovery import api, client
from rage_net.discovery.client import Client
from rage_net.discovery.found import MEMORY_BYTES_MAX, PEERS_MAX, REMEMBERED_MAX, Found
from rage_net.discovery.records import ListedPeer, decode_listed, encode_listed
from rage_net.discovery.schedule import SPREAD
from rage_net.errors import PeerProtocolError, UnavailableError
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.web import RefusedError

from .world import EPOCH, FAR, FAR_2, Env, Net, Peer, about, make_server, register

pytestmark = pytest.mark.anyio

JSON = {"Content-Type": "application/json"}
BEAT = {"heartbeat_interval_s": 30.0}


def listed(env: Env, *addresses: str, **words: Any) -> dict[str, Any]:
    plain = {"peer_id": str(Peer(env).peer_id), "addresses": list(addresses or ("/ip4/9.9.9.9/tcp/4001",))}
    return {**plain, **words}


def answers(peers: object, **more: Any) -> Any:
    return lambda request: httpx.Response(200, json={"peers": peers, **more})


def found_ids(found: Found) -> list[str]:
    return [str(peer.listed.peer_id) for peer in found.peers]


async def test_two_servers_are_asked_at_once_and_their_answers_united(net: Net, env: Env) -> None:
    async with make_server(env, host="http://a.example") as a, make_server(env, host="http://b.example") as b:
        net.hosts = {"a.example": a, "b.example": b}
        both, only_b, asking = net.client(), net.client("http://b.example"), net.client()
        for row in await both.register(about(organization_id="acme", capabilities=("storage",)), **BEAT):
            assert (row.error, row.expires_at, row.reachable, row.observed) == (None, EPOCH + 90, None, FAR)
        await only_b.register(about("/ip4/8.8.4.4/tcp/2"), **BEAT)
        found = await asking.bootstrap()
        assert set(found_ids(found)) == {str(both.peer_id), str(only_b.peer_id)} and not found.is_remembered
        servers = {str(peer.listed.peer_id): peer.servers for peer in found.peers}
        assert servers == {
            str(both.peer_id): ("http://a.example", "http://b.example"),
            str(only_b.peer_id): ("http://b.example",),
        }
        assert [(outcome.ok, outcome.peers) for outcome in found.outcomes] == [(True, 1), (True, 2)]
        storage = await asking.peers(organization="acme", capability="storage")
        assert found_ids(storage) == [str(both.peer_id)]
        assert str(both.peer_id) not in found_ids(await both.bootstrap())


async def test_a_dead_server_keeps_nobody_waiting_and_says_what_is_wrong(net: Net, env: Env) -> None:
    async with make_server(env, host="http://a.example") as a:
        net.hosts = {"a.example": a}
        await net.client("http://a.example").register(about(), **BEAT)
        found = await net.client("http://dead.example", "http://a.example").bootstrap()
        assert len(found.peers) == 1
        dead, alive = found.outcomes
        assert isinstance(dead.error, UnavailableError) and alive.ok and alive.latency_s is not None


async def test_a_slow_server_costs_its_deadline_and_no_other_servers_answer(net: Net, env: Env) -> None:
    async def never(request: httpx.Request) -> httpx.Response:
        if request.url.host == "slow.example":
            await asyncio.Event().wait()
        return httpx.Response(200, json={"peers": [listed(env)]})

    web = client.Web(transport=httpx.MockTransport(never))
    asking = Client(["http://slow.example", "http://a.example"], Peer(env).key, web, env, timeout_s=0.05)
    found = await asyncio.wait_for(asking.bootstrap(), 5)
    assert len(found.peers) == 1
    assert found.outcomes[0].error is not None and found.outcomes[0].error.id == "timeout"


async def test_a_list_of_several_pages_is_read_to_its_end_and_an_endless_one_is_not(net: Net, env: Env) -> None:
    async with make_server(env) as server:
        net.hosts = {"discovery.example": server}
        for at in range(api.LIMIT_MAX + 20):
            host = f"8.{at}.1.1"
            assert (await register(server, *Peer(env).signed(f"/ip4/{host}/tcp/1"), source=host)).status == 200
        found = await net.client().peers()
        assert len(found.peers) == api.LIMIT_MAX + 20
        assert len(net.asked) == 2
    net.asked.clear()
    net.hosts = {"endless.example": lambda request: httpx.Response(200, json={"peers": [listed(env)], "next": "AAAA"})}
    assert len((await net.client().peers()).peers) == client.PAGES_MAX == len(net.asked)


# --- attacks: what a server may answer ---


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (lambda request: httpx.Response(200, html="<h1>Welcome to our hotel</h1>"), "answer-type"),
        (lambda request: httpx.Response(200, text="no JSON", headers=JSON), "answer-type"),
        (lambda request: httpx.Response(200, json=[1]), "answer-type"),
        (lambda request: httpx.Response(200, json={"peers": "all"}), "answer-type"),
        (lambda request: httpx.Response(200, content=b"[" * 100_000, headers=JSON), "answer-type"),
        (lambda request: httpx.Response(200, json={"peers": ["x" * client.ANSWER_BYTES_MAX]}), "answer-too-large"),
        (lambda request: httpx.Response(302, headers={"Location": "http://169.254.169.254/"}), "redirected"),
        (lambda request: httpx.Response(500, json={"message": "no"}), "unavailable"),
    ],
)  # fmt: skip
async def test_an_answer_that_is_none_is_an_error_of_that_server_alone(
    net: Net, env: Env, answer: Any, code: str
) -> None:
    net.hosts = {"bad.example": answer, "good.example": answers([listed(env)])}
    found = await net.client().bootstrap()
    assert len(found.peers) == 1
    bad, good = found.outcomes
    assert bad.error is not None and bad.error.id == code, bad.error
    assert good.ok
    rows = await net.client("http://bad.example").register(about(), **BEAT)
    assert rows[0].error is not None and rows[0].expires_at is None


async def test_a_million_peers_are_refused_by_bytes_and_a_thousand_are_not_all_believed(net: Net, env: Env) -> None:
    one, sent = json.dumps(listed(env)).encode(), 0

    async def million() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'{"peers":['
        for _ in range(1000):
            sent += 1000
            yield b",".join([one] * 1000) + b","

    net.hosts = {"huge.example": lambda request: httpx.Response(200, content=million(), headers=JSON)}
    found = await net.client().bootstrap()
    assert found.peers == () and isinstance(found.outcomes[0].error, PeerProtocolError)
    assert sent * len(one) < 2 * client.ANSWER_BYTES_MAX  # it was not read to its end
    small = [{"peer_id": str(Peer(env).peer_id), "addresses": ["/ip4/9.9.9.9/tcp/1"]} for _ in range(1000)]
    net.hosts = {"many.example": answers(small), "one.example": answers([listed(env, reachable=True)])}
    found = await net.client().bootstrap()
    assert len(found.peers) == client.PEERS_PER_ANSWER_MAX + 1
    assert found.peers[0].servers == ("http://one.example",)


async def test_one_servers_long_list_pushes_out_no_others(env: Env, rng: random.Random, net: Net) -> None:
    def endless(request: httpx.Request) -> httpx.Response:
        return httpx.Response(
            200, json={"peers": [listed(env) for _ in range(client.PEERS_PER_ANSWER_MAX)], "next": "AAAA"}
        )

    honest = [listed(env) for _ in range(5)]
    net.hosts = {"greedy.example": endless, "honest.example": answers(honest)}
    found = await net.client().peers()
    assert len(found.peers) == PEERS_MAX
    assert {peer["peer_id"] for peer in honest} <= set(found_ids(found)[:10])


async def test_our_own_addresses_and_our_own_name_are_left_out(net: Net, env: Env) -> None:
    own = Multiaddr.parse("/ip4/8.8.4.4/tcp/4001")
    asking = net.client("http://a.example", own=lambda: [own])
    me = {"peer_id": str(asking.peer_id), "addresses": ["/ip4/9.9.9.9/tcp/4001"]}
    hollow = listed(env, str(own))
    half = listed(env, str(own), "/ip4/9.9.9.9/tcp/1")
    named = listed(env, f"{own}/p2p/{asking.peer_id}")
    net.hosts = {"a.example": answers([me, hollow, half, named])}
    found = await asking.bootstrap()
    assert [(str(peer.listed.peer_id), list(map(str, peer.listed.addresses))) for peer in found.peers] == [
        (half["peer_id"], ["/ip4/9.9.9.9/tcp/1"])
    ]


@pytest.mark.parametrize(
    ("server", "kept"),
    [
        ("http://a.example", 1),
        (f"http://{FAR}", 1),
        ("http://10.0.0.9", 2),
        ("http://127.0.0.1:4090", 3),
        ("http://[::1]:4090", 3),
    ],
)
async def test_a_server_far_away_names_no_address_in_our_own_network(
    net: Net, env: Env, server: str, kept: int
) -> None:
    peer = listed(env, "/ip4/127.0.0.1/tcp/22", "/ip4/10.0.0.1/tcp/22", "/ip4/9.9.9.9/tcp/1", "/ip4/224.0.0.1/tcp/1")
    net.hosts = {httpx.URL(server).host: answers([peer])}
    found = await net.client(server).bootstrap()
    assert len(found.peers[0].listed.addresses) == kept


GARBAGE: list[object] = [
    None, 1, "a", [], {}, {"peer_id": 1}, {"peer_id": "12D3KooW"}, {"peer_id": "x" * 100_000},
    {"addresses": ["/ip4/9.9.9.9/tcp/1"]},
]  # fmt: skip


async def test_garbage_among_the_peers_is_left_out_and_garbage_in_a_peer_left_empty(net: Net, env: Env) -> None:
    odd = listed(
        env,
        "/ip4/9.9.9.9/tcp/1",
        "nonsense",
        "/ip4/9.9.9.9/tcp/0",
        f"/ip4/9.9.9.9/tcp/2/p2p/{Peer(env).peer_id}",
        region="\x1b[31m",
        organization_id=["a"],
        capabilities=[1, "storage", "a b"],
        reachable="yes",
        expires_at="never",
        organization_proven=1,
    )
    empty = listed(env, "nonsense")
    net.hosts = {"a.example": answers([*GARBAGE, odd, empty, listed(env, addresses={"a": 1})])}
    (found,) = (await net.client().bootstrap()).peers
    peer = found.listed
    assert list(map(str, peer.addresses)) == ["/ip4/9.9.9.9/tcp/1"]
    assert (peer.region, peer.organization_id, peer.capabilities) == ("", "", ("storage",))
    assert (peer.reachable, peer.expires_at, peer.organization_proven) == (None, 0.0, False)


# --- memory ---


async def test_the_last_good_answer_is_kept_for_a_start_without_any_server(net: Net, env: Env, tmp_path: Path) -> None:
    memory = tmp_path / "discovery.json"
    peers = [listed(env, region="eu", capabilities=["storage"]) for _ in range(3)]
    net.hosts = {"a.example": answers(peers)}
    first = await net.client(memory=memory).bootstrap()
    net.hosts = {"a.example": lambda request: httpx.Response(503)}
    later = net.client("http://a.example", memory=memory)
    found = await later.bootstrap()
    assert found.is_remembered and found.peers == first.peers and not found.outcomes[0].ok
    net.hosts = {"a.example": answers([])}  # an empty registry, after a restart, wipes out nothing
    assert (await later.bootstrap()).is_remembered
    assert memory.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"\xff", b'{"peers": 3}', b"[" * 9999, b'{"peers": [1, {"peer_id": 3}]}']
)
async def test_a_damaged_memory_is_an_empty_one(net: Net, env: Env, tmp_path: Path, content: bytes) -> None:
    memory = tmp_path / "discovery.json"
    memory.write_bytes(content)
    found = await net.client("http://dead.example", memory=memory).bootstrap()
    assert found.is_remembered and found.peers == ()


async def test_the_memory_is_bounded_and_a_full_disk_is_no_error(
    net: Net, env: Env, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lists = [[listed(env) for _ in range(client.PEERS_PER_ANSWER_MAX)] for _ in range(4)]
    net.hosts = {f"{at}.example": answers(peers) for at, peers in enumerate(lists)}
    memory = tmp_path / "discovery.json"
    assert len((await net.client(memory=memory).bootstrap()).peers) == 4 * client.PEERS_PER_ANSWER_MAX
    assert len(json.loads(memory.read_bytes())["peers"]) == REMEMBERED_MAX
    assert memory.stat().st_size < MEMORY_BYTES_MAX
    gone = await net.client(memory=tmp_path / "gone" / "discovery.json").bootstrap()
    assert gone.peers and "cannot be kept" in caplog.text


# --- heartbeats ---


async def test_heartbeats_go_on_and_a_server_that_restarted_empty_knows_us_again(net: Net, env: Env) -> None:
    net.hosts = {}
    node = net.client("http://discovery.example")
    beat = {"heartbeat_interval_s": 30.0, "retry_interval_s": 60.0}

    async def turn() -> None:
        env.time += node.wait_s(**beat) + SPREAD * 60
        (row,) = await node.register(about(), only_due=True, **beat)
        assert row.error is None, row.error

    for _ in range(3):
        async with make_server(env) as server:  # each begins with an empty registry
            net.hosts = {"discovery.example": server}
            for _ in range(3):
                await turn()
                assert len((await net.client().bootstrap()).peers) == 1
                assert await node.register(about(), only_due=True, **beat) == ()
    assert node.registrations()[0].twin == ""


async def test_a_failed_heartbeat_keeps_what_still_holds_and_the_pause_a_server_asks_for(net: Net, env: Env) -> None:
    beat = {"heartbeat_interval_s": 30.0, "retry_interval_s": 60.0}
    async with make_server(env) as server:
        net.hosts = {"discovery.example": server}
        node = net.client()
        await node.register(about(), **beat)
        net.hosts = {"discovery.example": lambda request: httpx.Response(429, headers={"Retry-After": "45"})}
        env.time += 30
        (row,) = await node.register(about(), only_due=True, **beat)
        assert isinstance(row.error, RefusedError) and row.expires_at == EPOCH + 90
        assert node.wait_s(**beat) == 45.0


async def test_a_second_node_with_our_key_is_noticed_and_a_restart_is_not(net: Net, env: Env) -> None:
    async with make_server(env) as server:
        net.hosts = {"discovery.example": server}
        peer = Peer(env)

        def start() -> Client:
            return Client(["http://discovery.example"], peer.key, net.web(), env)

        one = start()
        await one.register(about(), **BEAT)
        env.time += 5
        two = start()
        (row,) = await two.register(about(), **BEAT)
        assert row.twin == ""  # the first may have been this very node, before a restart
        env.time += 5
        net.source = FAR_2
        (row,) = await one.register(about("/ip4/9.9.9.9/tcp/1"), **BEAT)
        assert row.twin.startswith(FAR)
        env.time += 5
        assert (await one.register(about("/ip4/9.9.9.9/tcp/1"), **BEAT))[0].twin == ""


async def test_a_node_that_ends_takes_its_registrations_back(net: Net, env: Env) -> None:
    async with make_server(env) as server:
        net.hosts = {"discovery.example": server}
        node = net.client("http://discovery.example", "http://dead.example")
        await node.register(about(), **BEAT)
        (row,) = await node.leave(about())
        assert (row.error, row.expires_at) == (None, None)
        assert (await net.client().bootstrap()).peers == ()


async def test_a_node_whose_clock_is_off_still_finds_peers_and_hears_why_it_is_not_registered(
    net: Net, env: Env, rng: random.Random
) -> None:
    async with make_server(env) as server:
        net.hosts = {"discovery.example": server}
        await net.client().register(about(), **BEAT)
        off = Env(rng)
        off.time = 7200.0
        node = Client(["http://discovery.example"], Peer(env).key, net.web(), off)
        assert len((await node.bootstrap()).peers) == 1
        (row,) = await node.register(about(), **BEAT)
        assert row.error is not None and row.error.exit_code == 9 and "clocks" in row.error.why


async def test_a_private_node_is_found_by_its_own_organisation(net: Net, env: Env) -> None:
    async with make_server(env) as server:
        net.hosts = {"discovery.example": server}
        hidden, member, stranger = net.client(), net.client(), net.client()
        await hidden.register(about(organization_id="acme", private=True), **BEAT)
        await member.register(about("/ip4/8.8.4.4/tcp/7", organization_id="acme"), **BEAT)
        assert found_ids(await member.peers(organization="acme")) == [str(hidden.peer_id)]
        assert found_ids(await stranger.peers(organization="acme")) == [str(member.peer_id)]


async def test_no_server_at_all_is_no_error(net: Net, env: Env) -> None:
    alone = Client([], Peer(env).key, net.web(), env)
    assert await alone.bootstrap() == Found((), ())
    assert await alone.register(about(), **BEAT) == ()
    assert alone.wait_s(heartbeat_interval_s=30.0, retry_interval_s=60.0) == float("inf")


async def test_an_answer_to_a_registration_is_not_believed_blindly(net: Net, env: Env) -> None:
    odd: list[dict[str, Any]] = [
        {}, {"ttl_s": "long"}, {"ttl_s": True}, {"ttl_s": 1e300}, {"ttl_s": -1},
        {"ttl_s": 90, "dropped": [1, {"address": "x" * 9999}], "previous": [], "reachable": "no", "observed": 3},
    ]  # fmt: skip
    for at, plain in enumerate(odd):
        net.hosts = {"odd.example": lambda request, plain=plain: httpx.Response(200, json=plain)}
        (row,) = await net.client().register(about(), **BEAT)
        if at < len(odd) - 1:
            assert isinstance(row.error, PeerProtocolError), plain
        else:
            assert row.error is None and row.reachable is None and len(row.dropped[0]) < 500


def test_a_listed_peer_survives_its_json(env: Env) -> None:
    peer = ListedPeer(
        peer_id=Peer(env).peer_id,
        addresses=(Multiaddr.parse("/ip4/9.9.9.9/tcp/1"),),
        organization_id="acme",
        region="eu",
        zone="a",
        capabilities=("storage",),
        private=True,
        reachable=False,
        expires_at=3.5,
    )
    assert decode_listed(json.loads(json.dumps(encode_listed(peer)))) == peer
