"""The discovery server: who is listed, who is told, and one test an attack."""

from __future__ import annotations

import json
import random

import pytest

from rage_net.discovery import api, dial_back
from rage_net.discovery.proofs import LEEWAY_S, SIGNATURE, sign_query
from rage_net.discovery.registry import REMEMBERED_S, Registry
from rage_net.discovery.server import QUERY_BURST, RECHECK_S, REGISTER_BURST, Server
from rage_net.libp2p.peer_id import PeerId

from .world import EPOCH, FAR, FAR_2, HERE, NEAR, URL, Dials, Env, Peer, ask, ask_as, ids, make_server, register

pytestmark = pytest.mark.anyio


async def settle(server: Server) -> None:
    assert server.dial_backs is not None
    await server.dial_backs.settle()


async def test_a_registered_peer_is_listed_with_the_specifications_fields(server: Server, env: Env) -> None:
    peer = Peer(env)
    words = {"organization_id": "org_123", "region": "us-west-2", "zone": "a", "capabilities": ("storage", "search")}
    answer = await register(server, *peer.signed(**words))
    assert answer.status == 200
    assert answer.plain == {
        "registered": True,
        "peer_id": str(peer.peer_id),
        "addresses": [f"/ip4/{FAR}/tcp/4001"],
        "dropped": [],
        "observed": FAR,
        "ttl_s": 90.0,
        "expires_at": EPOCH + 90,
        "organization_proven": False,
        "reachable": None,
        "checking": True,
        "previous": None,
    }
    await settle(server)
    for path in (api.BOOTSTRAP, api.PEERS):
        (listed,) = (await ask(server, path)).plain["peers"]
        assert listed == {
            "peer_id": str(peer.peer_id),
            "addresses": [f"/ip4/{FAR}/tcp/4001"],
            "organization_id": "org_123",
            "organization_proven": False,
            "public_key": listed["public_key"],
            "region": "us-west-2",
            "zone": "a",
            "capabilities": ["storage", "search"],
            "private": False,
            "reachable": True,
            "expires_at": EPOCH + 90,
        }
        assert listed["public_key"].startswith("ed25519:") and len(listed["public_key"]) == 8 + 44


async def test_lists_are_filtered_and_come_in_pages_without_a_peer_lost_or_twice(
    server: Server, env: Env, rng: random.Random
) -> None:
    peers: dict[str, Peer] = {}
    for at in range(23):
        peer = Peer(env)
        words = {"organization_id": f"org{at % 2}", "region": f"r{at % 3}", "capabilities": ("storage",) * (at % 4 > 0)}
        assert (await register(server, *peer.signed(**words))).status == 200
        peers[str(peer.peer_id)] = peer
    await settle(server)  # a rank that changes between two pages may move a peer past both
    seen: list[str] = []
    cursor, pages = "", 0
    while True:
        answer = await ask(server, query=f"limit=5&cursor={cursor}")
        seen += ids(answer)
        pages += 1
        if not answer.plain["next"]:
            break
        cursor = answer.plain["next"]
    assert sorted(seen) == sorted(peers) and pages == 5
    for query, expected in (
        ("organization=org1", 11),
        ("organization=org1&region=r2", 3),
        ("capability=storage", 17),
        ("capability=stor", 0),
        ("organization=none", 0),
        ("organization=&region=", 23),
    ):
        assert len(ids(await ask(server, query=query))) == expected, query


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=101",
        "limit=x",
        "limit=٣",
        "organization=a%20b",
        "region=%00",
        "cursor=!",
        "cursor=AA",
        "a=b&" * 20,
    ],
)
async def test_a_query_that_makes_no_sense_is_refused_in_words(server: Server, query: str) -> None:
    answer = await ask(server, query=query)
    assert (answer.status, answer.plain["code"]) == (400, "usage"), answer


async def test_a_registration_lives_as_long_as_it_asked_for_within_limits_and_no_longer(
    server: Server, env: Env
) -> None:
    for asked, granted in ((90.0, 90.0), (1.0, 30.0), (1e6 / 2, 86_400.0)):
        peer = Peer(env)
        answer = await register(server, *peer.signed(ttl_s=asked))
        assert answer.plain["ttl_s"] == granted
        env.time += granted - 0.01
        assert str(peer.peer_id) in ids(await ask(server))
        env.time += 0.02
        assert str(peer.peer_id) not in ids(await ask(server))
        assert str(peer.peer_id) not in ids(await ask(server, api.BOOTSTRAP))


async def test_heartbeats_keep_a_peer_listed_and_reached_without_another_dial(
    server: Server, env: Env, dials: Dials
) -> None:
    peer = Peer(env)
    for _ in range(10):
        assert (await register(server, *peer.signed())).status == 200
        await settle(server)
        env.time += 30
        assert ids(await ask(server)) == [str(peer.peer_id)]
    assert len(dials.dialled) == 1


async def test_a_peer_that_leaves_is_gone_at_once_and_its_farewell_cannot_be_undone(server: Server, env: Env) -> None:
    peer = Peer(env)
    hello, farewell = peer.signed(), peer.signed(ttl_s=0.0)
    await register(server, *hello)
    answer = await register(server, *farewell)
    assert (answer.status, answer.plain["registered"]) == (200, False)
    assert ids(await ask(server)) == []
    assert (await register(server, *hello)).status == 409
    assert (await register(server, *farewell)).status == 409


# --- attacks: what is not signed as it must be ---


async def test_a_forged_registration_is_refused(server: Server, env: Env, rng: random.Random) -> None:
    peer, thief = Peer(env), Peer(env)
    body, signature = peer.signed()
    flipped = bytearray(body)
    flipped[body.index(b"4001")] ^= 1
    foreign_body, foreign = thief.signed(peer_id=peer.peer_id)
    for forged_body, forged in (
        (bytes(flipped), signature),
        (body + b" ", signature),
        (body, thief.signed()[1]),
        (foreign_body, foreign),  # the thief's signature under the peer's name
        (body, ""),
        (body, signature.removeprefix("ed25519=")),
        (body, "ed25519=" + "A" * 88),
        (body, "ed25519=" + "=" * 5000),
    ):
        answer = await register(server, forged_body, forged)
        assert (answer.status, answer.plain["code"]) == (422, "signature-invalid"), answer.plain
    assert ids(await ask(server)) == []


async def test_another_key_than_the_peers_own_is_refused(server: Server, env: Env) -> None:
    peer, thief = Peer(env), Peer(env)
    body, _ = thief.signed(peer_id=peer.peer_id)
    plain = json.loads(body)
    plain["public_key"] = json.loads(thief.signed()[0])["public_key"]
    answer = await register(server, json.dumps(plain).encode(), "ed25519=" + "A" * 88)
    assert (answer.status, answer.plain["code"]) == (422, "record-invalid")


async def test_a_replayed_registration_is_refused_whenever_it_comes(server: Server, env: Env) -> None:
    peer = Peer(env)
    old = peer.signed(ttl_s=30.0)
    assert (await register(server, *old)).status == 200
    new = peer.signed("/ip4/9.9.9.9/tcp/1", ttl_s=30.0)
    assert (await register(server, *new)).status == 200
    for _ in range(30):  # before it expires, while its sequence is remembered, and when it is old by its own time
        for replayed in (old, new):
            answer = await register(server, *replayed, source=FAR_2)
            assert (answer.status, answer.plain["code"]) == (409, "stale-registration")
        await server.sweep()
        env.time += 7
    assert REMEMBERED_S + LEEWAY_S < 210  # so all three were met
    assert ids(await ask(server)) == []


@pytest.mark.parametrize("off_s", [-LEEWAY_S - 1, LEEWAY_S + 1, -1e6, 1e9])
async def test_an_expired_registration_or_one_from_the_future_is_refused(
    server: Server, env: Env, off_s: float
) -> None:
    peer = Peer(env)
    answer = await register(server, *peer.signed(sequence=int((env.now() + off_s) * 1000)))
    assert (answer.status, answer.plain["code"]) == (409, "stale-registration")
    assert (await register(server, *peer.signed())).status == 200


@pytest.mark.parametrize(
    "audience",
    [
        "http://other.example",
        "http://discovery.example.evil",
        "http://discovery.example@evil",
        "http://1.1.1.1:81",
        "http://2.2.2.2",
        "http://localhost",
        "ftp://discovery.example",
        "discovery.example",
        "",
        "http://",
        "http://discovery.example:99999",
        "http://[",
    ],
)
async def test_a_registration_for_another_server_is_refused(server: Server, env: Env, audience: str) -> None:
    answer = await register(server, *Peer(env).signed(audience=audience))
    assert (answer.status, answer.plain["code"]) == (403, "wrong-audience")


@pytest.mark.parametrize(
    "audience",
    [
        URL,
        "https://discovery.example",
        f"{URL}:4090",
        "http://DISCOVERY.example.",
        "http://1.1.1.1",
        "http://1.1.1.1:80/",
    ],
)
async def test_a_server_knows_itself_by_its_names_and_by_the_address_it_was_met_at(
    server: Server, env: Env, audience: str
) -> None:
    assert (await register(server, *Peer(env).signed(audience=audience))).status == 200


# --- attacks: addresses ---


async def test_an_address_that_names_another_peer_is_refused(server: Server, env: Env) -> None:
    peer, victim = Peer(env), Peer(env)
    answer = await register(server, *peer.signed(f"/ip4/{FAR}/tcp/4001/p2p/{victim.peer_id}"))
    assert (answer.status, answer.plain["code"]) == (422, "foreign-address")
    own = await register(server, *peer.signed(f"/ip4/{FAR}/tcp/4001/p2p/{peer.peer_id}"))
    assert own.plain["addresses"] == [f"/ip4/{FAR}/tcp/4001"]


LOOPBACK = ["/ip4/127.0.0.1/tcp/1", "/ip4/127.9.9.9/tcp/1", "/ip6/::1/tcp/1", "/ip6/::ffff:127.0.0.1/tcp/1"]
LINK = ["/ip4/169.254.169.254/tcp/80", "/ip6/fe80::1/tcp/1"]
PRIVATE = [
    "/ip4/10.1.2.3/tcp/1",
    "/ip4/192.168.1.1/tcp/1",
    "/ip4/172.16.0.1/tcp/1",
    "/ip4/100.64.0.1/tcp/1",
    "/ip6/fd00::1/tcp/1",
]
GLOBAL = [
    "/ip4/8.8.4.4/tcp/4001",
    "/ip6/2600::1/tcp/4001",
    "/dns4/node.example/tcp/4001",
    "/ip4/8.8.4.4/udp/4001/quic-v1",
]
NOWHERE = [
    "/ip4/0.0.0.0/tcp/1",
    "/ip6/::/tcp/1",
    "/ip4/224.0.0.1/tcp/1",
    "/ip4/255.255.255.255/tcp/1",
    "/ip4/240.0.0.1/tcp/1",
    "/ip4/192.0.2.1/tcp/1",
    "/ip6/ff02::1/tcp/1",
    "/ip4/8.8.4.4/tcp/0",
    "/ip4/8.8.4.4",
    "/memory/a",
    "/unix/tmp/a",
    "/ip4/8.8.4.4/tcp/1/p2p/12D3KooWA8EXV3KjBxEU5EnsPfneLx84vMWAtTBQBeyooN82KSuS/p2p-circuit",
]


@pytest.mark.parametrize(
    ("source", "taken"),
    [
        (FAR, GLOBAL),
        ("2600::9", GLOBAL),
        (NEAR, [*PRIVATE, *GLOBAL]),
        ("fd00::9", [*PRIVATE, *GLOBAL]),
        ("fe80::9", [*LINK, *PRIVATE, *GLOBAL]),
        (HERE, [*LOOPBACK, *LINK, *PRIVATE, *GLOBAL]),
        ("::1", [*LOOPBACK, *LINK, *PRIVATE, *GLOBAL]),
        ("::ffff:8.8.4.4", GLOBAL),
    ],
)
async def test_addresses_are_taken_only_from_where_they_can_be_reached(
    server: Server, env: Env, source: str, taken: list[str]
) -> None:
    for address in (*LOOPBACK, *LINK, *PRIVATE, *GLOBAL, *NOWHERE):
        answer = await register(server, *Peer(env).signed(address), source=source)
        if address in taken:
            assert answer.status == 200, (address, answer.plain)
        else:
            assert (answer.status, answer.plain["code"]) == (422, "no-usable-address"), (address, answer.plain)


async def test_usable_addresses_are_taken_and_the_others_named_with_the_reason(server: Server, env: Env) -> None:
    answer = await register(
        server, *Peer(env).signed("/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/2", "/ip4/9.9.9.9/tcp/3")
    )
    assert answer.plain["addresses"] == ["/ip4/9.9.9.9/tcp/3"]
    assert [one["address"] for one in answer.plain["dropped"]] == ["/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/2"]
    assert "its machine alone" in answer.plain["dropped"][0]["why"]


async def test_a_proxy_between_makes_everything_come_from_afar(server: Server, env: Env, dials: Dials) -> None:
    """Else all the world would register loopback addresses through a proxy on this machine, and be dialled there."""
    forwarded = {"x-forwarded-for": "127.0.0.1"}
    loopback = await register(server, *Peer(env).signed("/ip4/127.0.0.1/tcp/1"), source=HERE, headers=forwarded)
    assert loopback.plain["code"] == "no-usable-address"
    assert (await register(server, *Peer(env).signed(), source=FAR, headers=forwarded)).plain["checking"] is False
    await register(server, *Peer(env).signed("/ip4/10.0.0.1/tcp/1"), source=NEAR)
    assert len(ids(await ask(server, source=HERE, headers=forwarded))) == 1
    await settle(server)
    assert [peer for peer, where in dials.dialled if where != (f"/ip4/{NEAR}/tcp/1",)] == []


async def test_addresses_are_told_only_to_where_they_can_be_used(server: Server, env: Env) -> None:
    both, inner = Peer(env), Peer(env)
    await register(
        server, *both.signed("/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/2", "/ip4/9.9.9.9/tcp/3"), source=HERE
    )
    await register(server, *inner.signed("/ip4/10.0.0.2/tcp/2"), source=NEAR)
    for source, seen in ((HERE, [2, 1, 0]), (NEAR, [2, 1]), (FAR, [2])):
        for path in (api.PEERS, api.BOOTSTRAP):
            listed = {
                peer["peer_id"]: peer["addresses"] for peer in (await ask(server, path, source=source)).plain["peers"]
            }
            assert len(listed[str(both.peer_id)]) == len(seen), source
            assert (str(inner.peer_id) in listed) is (source != FAR)


# --- the dial-back ---


async def test_an_unreachable_peer_is_marked_and_never_handed_out_first(server: Server, env: Env, dials: Dials) -> None:
    dead = [Peer(env) for _ in range(4)]
    dials.answer = lambda peer_id: peer_id not in {peer.peer_id for peer in dead}
    untried = [Peer(env) for _ in range(3)]
    alive = [Peer(env) for _ in range(3)]
    for at, peer in enumerate((*dead, *alive)):
        await register(server, *peer.signed(f"/ip4/8.8.{at}.4/tcp/1"), source=f"8.8.{at}.4")
    for peer in untried:
        await register(server, *peer.signed("/ip4/9.9.9.9/tcp/1"), source=FAR)
    await settle(server)
    order = [*[True] * 3, *[None] * 3, *[False] * 4]
    for path in (api.PEERS, api.BOOTSTRAP):
        assert [peer["reachable"] for peer in (await ask(server, path)).plain["peers"]] == order
    assert set(ids(await ask(server, api.BOOTSTRAP, query="limit=3"))) == {str(peer.peer_id) for peer in alive}
    page = await ask(server, query="limit=4")
    following = await ask(server, query=f"cursor={page.plain['next']}")
    assert [peer["reachable"] for peer in following.plain["peers"]] == order[4:]


async def test_a_new_address_is_dialled_and_a_mended_firewall_is_noticed(
    server: Server, env: Env, dials: Dials
) -> None:
    peer = Peer(env)
    dials.answer = lambda peer_id: False
    await register(server, *peer.signed())
    await settle(server)
    dials.answer = lambda peer_id: True
    for _ in range(int(RECHECK_S / 30) + 1):
        env.time += 30
        await register(server, *peer.signed())
        await settle(server)
    assert len(dials.dialled) == 2
    assert (await ask(server)).plain["peers"][0]["reachable"] is True
    await register(server, *peer.signed(f"/ip4/{FAR}/tcp/4002"))
    await settle(server)
    assert dials.dialled[2] == (peer.peer_id, (f"/ip4/{FAR}/tcp/4002",))


async def test_the_dial_back_dials_nothing_but_the_source_and_few_ports_of_it(
    server: Server, env: Env, dials: Dials, rng: random.Random
) -> None:
    """The port scanner: many keys, many registrations, all the ports of a victim and of the attacker's own address."""
    victim = "1.2.3.4"
    for at in range(100):
        ports = rng.sample(range(1, 65_536), 4)
        addresses = [f"/ip4/{victim}/tcp/{ports[0]}", f"/dns4/victim.example/tcp/{ports[1]}"]
        addresses += [f"/ip4/{FAR}/tcp/{port}" for port in ports]
        addresses += [f"/ip4/{FAR}/udp/{ports[2]}/quic-v1", f"/ip4/{FAR}/tcp/{ports[3]}/ws"]
        assert (await register(server, *Peer(env).signed(*addresses))).status == 200, at
        await settle(server)
    dialled = [address for _, where in dials.dialled for address in where]
    assert dialled and all(address.startswith(f"/ip4/{FAR}/tcp/") for address in dialled)
    assert all(len(where) <= dial_back.PORTS_PER_PEER for _, where in dials.dialled)
    assert len(dialled) <= dial_back.PORTS_BURST
    env.time += 60
    for _ in range(100):
        await register(server, *Peer(env).signed(f"/ip4/{FAR}/tcp/{rng.randrange(1, 65_536)}"))
    await settle(server)
    assert sum(len(where) for _, where in dials.dialled) <= dial_back.PORTS_BURST + dial_back.PORTS_PER_MINUTE


async def test_nobody_is_dialled_before_the_signature_holds(server: Server, env: Env, dials: Dials) -> None:
    body, _ = Peer(env).signed()
    await register(server, body, Peer(env).signed()[1])
    await settle(server)
    assert dials.dialled == []


# --- private ---


async def test_private_peers_are_not_shown_to_strangers(server: Server, env: Env) -> None:
    hidden, member, outsider, stranger = (Peer(env) for _ in range(4))
    await register(server, *hidden.signed(organization_id="acme", private=True))
    await register(server, *member.signed(organization_id="acme"))
    await register(server, *outsider.signed(organization_id="other"))
    for path in (api.PEERS, api.BOOTSTRAP):
        for query in ("", "limit=50"):
            seen = [
                ids(await ask(server, path, query=query)),
                ids(await ask_as(server, stranger, path, query)),
                ids(await ask_as(server, outsider, path, query)),
            ]
            assert all(str(hidden.peer_id) not in found for found in seen)
            assert str(hidden.peer_id) in ids(await ask_as(server, member, path, query))
    assert ids(await ask(server, query="organization=acme")) == [str(member.peer_id)]


async def test_a_private_peer_may_name_who_sees_it(server: Server, env: Env) -> None:
    """So whoever merely claims the organisation sees nothing."""
    hidden, friend, liar = (Peer(env) for _ in range(3))
    await register(server, *hidden.signed(organization_id="acme", private=True, members=(friend.peer_id,)))
    await register(server, *friend.signed(organization_id="acme"))
    await register(server, *liar.signed(organization_id="acme"))
    assert str(hidden.peer_id) in ids(await ask_as(server, friend))
    assert str(hidden.peer_id) not in ids(await ask_as(server, liar))


async def test_a_member_must_prove_itself_now_here_and_for_this_query(server: Server, env: Env) -> None:
    hidden, member = Peer(env), Peer(env)
    await register(server, *hidden.signed(organization_id="acme", private=True, ttl_s=3600.0))
    await register(server, *member.signed(organization_id="acme", ttl_s=3600.0))

    signed = sign_query(member.key, member.peer_id, method="GET", audience=URL, path=api.PEERS, query="", now=env.now())
    elsewhere = sign_query(
        member.key,
        member.peer_id,
        method="GET",
        audience="http://evil.example",
        path=api.PEERS,
        query="",
        now=env.now(),
    )
    assert str(hidden.peer_id) in ids(await ask(server, headers=signed))
    for headers, query, code in (
        (signed, "limit=9", "signature-invalid"),
        ({**signed, SIGNATURE: elsewhere[SIGNATURE]}, "", "signature-invalid"),
        ({**signed, "rage-peer": str(hidden.peer_id)}, "", "signature-invalid"),
        ({**signed, "rage-date": str(int(signed["rage-date"]) + 1)}, "", "signature-invalid"),
        ({**signed, "rage-date": "now"}, "", "record-invalid"),
        ({**signed, "rage-peer": "nobody"}, "", "record-invalid"),
        (elsewhere, "", "wrong-audience"),
    ):
        answer = await ask(server, headers=headers, query=query)
        assert answer.plain.get("code") == code, headers
    env.time += LEEWAY_S + 2
    assert (await ask(server, headers=signed)).plain["code"] == "stale-registration"


# --- floods ---


async def test_a_flood_of_registrations_from_one_address_is_told_to_come_again(server: Server, env: Env) -> None:
    body, _ = Peer(env).signed()
    for _ in range(int(REGISTER_BURST)):  # forged ones count: they cost a signature check
        assert (await register(server, body, "ed25519=" + "A" * 88)).status == 422
    answer = await register(server, *Peer(env).signed())
    assert (answer.status, answer.headers["Retry-After"], answer.plain["code"]) == (429, "1", "rate-limited")
    assert (await register(server, *Peer(env).signed("/ip4/9.9.9.9/tcp/1"), source=FAR_2)).status == 200
    env.time += 1
    assert (await register(server, *Peer(env).signed())).status == 200


async def test_an_ipv6_host_counts_as_one_address_with_all_its_addresses(server: Server, env: Env) -> None:
    for at in range(int(REGISTER_BURST)):
        await register(server, b"", "", source=f"2600::{at + 1:x}:1")
    assert (await register(server, b"", "", source="2600::ffff:1")).status == 429
    assert (await register(server, b"", "", source="2600:0:0:1::1")).status == 422


async def test_a_flood_of_queries_is_told_to_come_again(server: Server, env: Env) -> None:
    statuses = [(await ask(server)).status for _ in range(int(QUERY_BURST) + 5)]
    assert statuses == [200] * int(QUERY_BURST) + [429] * 5
    env.time += 10
    assert (await ask(server)).status == 200


async def test_the_registry_is_bounded_in_all_by_address_by_site_and_by_organisation(
    env: Env, rng: random.Random
) -> None:
    def source(at: int) -> str:
        return f"8.{at}.1.4"

    async def fill(registry: Registry, count: int, where: object, **words: object) -> list[int]:
        async with make_server(env, registry=registry) as server:
            answers = []
            for at in range(count):
                host = where(at) if callable(where) else where
                answers.append(await register(server, *Peer(env).signed("/dns4/a.example/tcp/1", **words), source=host))
            for answer in answers:
                if answer.status != 200:
                    assert answer.plain["code"] == "registry-full" and answer.headers["Retry-After"]
            return [answer.status for answer in answers]

    assert await fill(Registry(None, per_address_max=3), 5, FAR) == [200] * 3 + [503] * 2
    assert await fill(Registry(None, per_site_max=3), 5, lambda at: f"8.8.4.{at}") == [200] * 3 + [503] * 2
    assert (
        await fill(Registry(None, per_organization_max=3), 5, source, organization_id="acme") == [200] * 3 + [503] * 2
    )
    assert await fill(Registry(None, per_organization_max=3), 5, source) == [200] * 5
    assert await fill(Registry(None, records_max=3), 5, source) == [200] * 3 + [503] * 2


async def test_a_full_registry_still_takes_heartbeats_and_lets_the_unreachable_make_way(env: Env, dials: Dials) -> None:
    dead, alive, late = Peer(env), Peer(env), Peer(env)
    dials.answer = lambda peer_id: peer_id != dead.peer_id
    async with make_server(env, dials=dials, registry=Registry(None, records_max=2)) as server:
        await register(server, *dead.signed())
        await register(server, *alive.signed())
        await settle(server)
        assert (await register(server, *alive.signed())).status == 200
        assert (await register(server, *late.signed())).status == 200
        await settle(server)
        assert (await register(server, *Peer(env).signed())).status == 503
        assert set(ids(await ask(server))) == {str(alive.peer_id), str(late.peer_id)}


# --- two nodes with one key; a server that begins anew ---


async def test_of_two_nodes_with_one_key_the_later_wins_and_is_told_of_the_other(server: Server, env: Env) -> None:
    one = Peer(env)
    other = Peer(env)
    other.key, other.peer_id = one.key, one.peer_id
    await register(server, *one.signed())
    assert (await register(server, *one.signed(f"/ip4/{FAR}/tcp/5"))).plain["previous"] is None  # moved, not doubled
    env.time += 1
    answer = await register(server, *other.signed("/ip4/9.9.9.9/tcp/4001"), source=FAR_2)
    assert answer.plain["previous"] == {
        "instance": one.instance,
        "addresses": [f"/ip4/{FAR}/tcp/5"],
        "source": FAR,
        "source_differs": True,
        "seen_at": EPOCH,
    }
    assert (await ask(server)).plain["peers"][0]["addresses"] == ["/ip4/9.9.9.9/tcp/4001"]
    env.time += 1
    back = await register(server, *one.signed())
    assert back.plain["previous"]["instance"] == other.instance
    lagging = other.signed(sequence=one.sequence)
    assert (await register(server, *lagging, source=FAR_2)).plain["code"] == "stale-registration"


async def test_a_sample_is_another_each_time_and_the_same_from_the_same_seed(rng: random.Random) -> None:
    seed = rng.getrandbits(32)

    async def play() -> list[list[str]]:
        env = Env(random.Random(seed))
        async with make_server(env) as server:
            for at in range(60):
                address = f"8.{at}.0.1"
                await register(server, *Peer(env).signed(f"/ip4/{address}/tcp/1", region=f"r{at % 4}"), source=address)
            await settle(server)
            return [ids(await ask(server, api.BOOTSTRAP)) for _ in range(5)]

    first, second = await play(), await play()
    assert first == second
    assert len({tuple(found) for found in first}) == 5
    assert all(len(set(found)) == api.SAMPLE_DEFAULT for found in first)
    assert all(PeerId.parse(peer) for found in first for peer in found)
