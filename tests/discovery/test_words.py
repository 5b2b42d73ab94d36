"""The rules of discovery, without clock or socket: scopes, records, proofs, rates, samples, schedules."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rage_net.discovery import records
from rage_net.discovery.proofs import (
    LEEWAY_S,
    SIGNATURE,
    Place,
    audience_of,
    sign_query,
    sign_registration,
    verify_query,
    verify_registration,
)
from rage_net.discovery.records import (
    RecordError,
    decode_listed,
    decode_registration,
    encode_registration,
)
from rage_net.discovery.schedule import SPREAD, Beat, next_due
from rage_net.discovery.selection import PER_SITE_MAX, Candidate, choose
from rage_net.errors import RageError
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.rates import Rates
from rage_net.libp2p.scope import SITE_PREFIX_BITS, Scope, parse_ip, prefix, scope_of_ip

from .world import EPOCH, URL, Env, Peer

PLACE = Place(["discovery.example"], parse_ip("1.1.1.1"), 80)


def body_of(env: Env, **changes: Any) -> bytes:
    """A good body with some fields changed; None takes one out."""
    plain = json.loads(encode_registration(Peer(env).registration()))
    plain |= changes
    return json.dumps({name: value for name, value in plain.items() if value is not None}).encode()


def test_a_registration_survives_its_bytes_and_unknown_fields_are_ignored(env: Env) -> None:
    peer, friend = Peer(env), Peer(env)
    sent = peer.registration(
        "/ip4/9.9.9.9/tcp/1",
        "/ip6/2600::1/tcp/2",
        organization_id="org_123",
        region="us-west-2",
        zone="a",
        capabilities=("storage", "search"),
        private=True,
        members=(friend.peer_id,),
    )
    assert decode_registration(encode_registration(sent)) == sent
    plain = json.loads(encode_registration(sent)) | {"from_the_future": {"a": 1}}
    assert decode_registration(json.dumps(plain).encode()) == sent
    assert set(plain) >= {"peer_id", "addresses", "organization_id", "public_key"}  # the specification's


@pytest.mark.parametrize(
    "changes",
    [
        {"peer_id": None}, {"peer_id": "nobody"}, {"peer_id": 3}, {"public_key": None}, {"public_key": "ed25519:AAAA"},
        {"addresses": None}, {"addresses": "/ip4/9.9.9.9/tcp/1"}, {"addresses": ["nonsense"]}, {"addresses": [1]},
        {"addresses": [f"/ip4/9.9.9.9/tcp/{port}" for port in range(1, records.ADDRESSES_MAX + 2)]},
        {"addresses": ["/dns4/" + "a" * 300 + "/tcp/1"]},
        {"organization_id": "a b"}, {"organization_id": "x" * 65}, {"region": "\x1b[2J"}, {"zone": ".."},
        {"capabilities": [""]}, {"capabilities": ["c"] * (records.CAPABILITIES_MAX + 1)}, {"private": "yes"},
        {"members": ["nobody"]}, {"members": ["x"] * (records.MEMBERS_MAX + 1)}, {"audience": None},
        {"audience": "x" * 301}, {"instance": "0"}, {"instance": "G" * 16}, {"sequence": 0}, {"sequence": -1},
        {"sequence": 2**53}, {"sequence": 1.5}, {"sequence": True}, {"ttl_s": -1}, {"ttl_s": 1e18}, {"ttl_s": "90"},
    ],
)  # fmt: skip
def test_a_field_that_is_missing_or_off_is_named(env: Env, changes: dict[str, Any]) -> None:
    with pytest.raises(RecordError) as caught:
        decode_registration(body_of(env, **changes))
    told = f"{caught.value.message} {caught.value.why}"
    assert next(iter(changes)) in told or "address" in told


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 10_000, b'{"a":' * 3000, b"x" * 20_000]
)
def test_what_is_no_registration_at_all_is_refused(body: bytes) -> None:
    with pytest.raises(RecordError):
        decode_registration(body)


def test_a_key_of_another_kind_signs_nothing(env: Env) -> None:
    rsa = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"
    with pytest.raises(RecordError, match="Ed25519"):
        decode_registration(body_of(env, peer_id=rsa))
    with pytest.raises(RecordError, match="Ed25519"):
        records.key_text(PeerId.parse(rsa))


@given(st.binary(max_size=400))
def test_any_bytes_are_a_registration_or_a_record_error(body: bytes) -> None:
    with pytest.raises(RecordError):
        decode_registration(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = [
    "peer_id",
    "addresses",
    "organization_id",
    "region",
    "zone",
    "capabilities",
    "private",
    "reachable",
    "expires_at",
]


@given(st.dictionaries(st.sampled_from(FIELDS), JSON), st.booleans())
def test_any_json_is_a_listed_peer_or_none(plain: dict[str, Any], is_named: bool) -> None:
    if is_named:
        plain |= {
            "peer_id": "12D3KooWA8EXV3KjBxEU5EnsPfneLx84vMWAtTBQBeyooN82KSuS",
            "addresses": ["/ip4/9.9.9.9/tcp/1"],
        }
    found = decode_listed(plain)
    assert (found is not None) is is_named


@given(st.integers(0, 2**31), st.data())
def test_no_bit_of_a_body_or_its_signature_can_be_changed(seed: int, data: st.DataObject) -> None:
    env = Env(random.Random(seed))
    body, signature = Peer(env).signed()
    verify_registration(body, signature, now=env.now(), place=PLACE)
    at = data.draw(st.integers(0, len(body) - 1))
    changed = bytes((*body[:at], body[at] ^ (1 << data.draw(st.integers(0, 7))), *body[at + 1 :]))
    with pytest.raises(RageError):
        verify_registration(changed, signature, now=env.now(), place=PLACE)
    at = data.draw(st.integers(8, len(signature) - 3))
    other = "A" if signature[at] != "A" else "B"
    with pytest.raises(RageError):
        verify_registration(body, signature[:at] + other + signature[at + 1 :], now=env.now(), place=PLACE)


def test_the_leeway_of_clocks_is_a_minute_either_way(env: Env) -> None:
    body, signature = Peer(env).signed()
    for off_s in (-LEEWAY_S, 0.0, LEEWAY_S):
        assert verify_registration(body, signature, now=EPOCH + off_s, place=PLACE).audience == URL
    for off_s in (-LEEWAY_S - 0.01, LEEWAY_S + 0.01):
        with pytest.raises(RageError, match="was signed 60 s"):
            verify_registration(body, signature, now=EPOCH + off_s, place=PLACE)


def test_a_registration_is_no_query_and_a_query_no_registration(env: Env) -> None:
    """One purpose's signature is of no use for the other, whatever the bytes."""
    peer = Peer(env)
    words: dict[str, str] = {"method": "GET", "path": "/p", "query": "a=b"}
    headers = sign_query(peer.key, peer.peer_id, audience=URL, now=EPOCH, **words)
    assert verify_query(headers, now=EPOCH, place=PLACE, **words) == peer.peer_id
    assert verify_query({}, now=EPOCH, place=PLACE, **words) is None
    body, signature = sign_registration(peer.key, peer.registration())
    with pytest.raises(RageError):
        verify_registration(body, headers[SIGNATURE], now=EPOCH, place=PLACE)
    with pytest.raises(RageError):
        verify_query({**headers, SIGNATURE: signature}, now=EPOCH, place=PLACE, **words)


@pytest.mark.parametrize(
    ("url", "audience"),
    [
        ("https://Discovery.Example.", "https://discovery.example"),
        ("http://a.example:4090/base/", "http://a.example:4090"),
        ("http://[::1]:4090", "http://[::1]:4090"),
        ("http://10.0.0.1", "http://10.0.0.1"),
    ],
)
def test_an_audience_is_scheme_host_and_port(url: str, audience: str) -> None:
    assert audience_of(url) == audience


# --- scopes ---


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("127.0.0.1", Scope.MACHINE), ("127.255.0.1", Scope.MACHINE), ("::1", Scope.MACHINE),
        ("::ffff:127.0.0.1", Scope.MACHINE), ("169.254.1.1", Scope.LINK), ("fe80::1%eth0", Scope.LINK),
        ("10.0.0.1", Scope.NETWORK), ("172.31.0.1", Scope.NETWORK), ("192.168.0.1", Scope.NETWORK),
        ("100.64.0.1", Scope.NETWORK), ("fd12::1", Scope.NETWORK), ("::ffff:10.0.0.1", Scope.NETWORK),
        ("8.8.8.8", Scope.WORLD), ("172.32.0.1", Scope.WORLD), ("2600::1", Scope.WORLD),
        ("0.0.0.0", Scope.NOWHERE), ("0.1.2.3", Scope.NOWHERE), ("::", Scope.NOWHERE),
        ("224.0.0.1", Scope.NOWHERE), ("255.255.255.255", Scope.NOWHERE),
        ("240.1.1.1", Scope.NOWHERE), ("192.0.2.1", Scope.NOWHERE), ("198.51.100.1", Scope.NOWHERE),
        ("2001:db8::1", Scope.NOWHERE), ("ff02::1", Scope.NOWHERE),
    ],
)  # fmt: skip
def test_an_ip_address_reaches_so_far(text: str, scope: Scope) -> None:
    address = parse_ip(text)
    assert address is not None and scope_of_ip(address) == scope


def test_a_site_is_a_24_or_a_48(env: Env) -> None:
    sites = [prefix(address, SITE_PREFIX_BITS) for address in map(parse_ip, ("9.8.7.6", "2600:1:2:3::4")) if address]
    assert sites == ["9.8.7.0/24", "2600:1:2::/48"]
    assert parse_ip("nonsense") is None


# --- rates ---


def test_a_bucket_gives_its_burst_then_its_rate() -> None:
    rates = Rates(burst=3, rate_s=0.5, names_max=10)
    assert [rates.take("a", 0.0) for _ in range(4)] == [0, 0, 0, 2.0]
    assert rates.take("b", 0.0) == 0
    assert (rates.take("a", 1.9), rates.take("a", 2.0), rates.take("a", 2.0)) == (pytest.approx(0.1), 0, 2.0)
    assert [rates.take("a", 1000.0) for _ in range(4)] == [0, 0, 0, 2.0]
    assert rates.take("a", 0.0) == 2.0  # a clock that went back gives nothing


def test_rates_of_many_names_take_bounded_memory_and_never_give_more(rng: random.Random) -> None:
    rates = Rates(burst=2, rate_s=1.0, names_max=50)
    given = 0
    for at in range(2000):
        given += not rates.take("victim", at / 1000)
        rates.take(str(rng.random()), at / 1000)
        assert len(rates) <= 50
    assert given <= 2 + 2


# --- samples ---


def test_a_sample_takes_the_reached_first_and_the_regions_in_turn(rng: random.Random) -> None:
    def make(rank: int, region: str, count: int) -> list[Candidate[str]]:
        return [Candidate(f"{rank}{region}{at}", rank, region, f"{rank}{region}{at}") for at in range(count)]

    pool = [*make(0, "a", 50), *make(0, "b", 3), *make(0, "c", 1), *make(1, "d", 50), *make(2, "e", 9)]
    rng.shuffle(pool)
    chosen = choose(pool, 10, rng)
    assert len(set(chosen)) == 10 and all(name[0] == "0" for name in chosen)
    assert sorted(name[1] for name in chosen) == sorted("abcababaaa")
    assert [name[1] for name in chosen[:3]] != ["a", "a", "a"]
    everybody = choose(pool, 1000, rng)
    assert sorted(everybody) == sorted(candidate.item for candidate in pool)
    assert [name[0] for name in everybody] == sorted(name[0] for name in everybody)
    assert choose([], 5, rng) == [] and choose(pool, 0, rng) == []


def test_one_site_cannot_fill_a_sample_while_there_are_others(rng: random.Random) -> None:
    hostile = [Candidate(f"h{at}", 0, f"region{at}", "site") for at in range(200)]
    honest = [Candidate(f"g{at}", 0, "eu", f"site{at}") for at in range(8)]
    chosen = choose([*hostile, *honest], 10, rng)
    assert sum(name[0] == "h" for name in chosen) == PER_SITE_MAX
    assert len(choose(hostile, 10, rng)) == 10


# --- the schedule ---


def due(beat: Beat, draw: float = 0.0) -> float:
    return next_due(beat, heartbeat_interval_s=30.0, retry_interval_s=60.0, draw=draw)


def test_a_heartbeat_is_due_at_once_then_every_interval_and_later_after_a_failure() -> None:
    assert due(Beat()) == 0.0
    ok = Beat().ok(100.0, 90.0)
    assert due(ok) == 130.0 and due(ok, 1.0) == pytest.approx(130 - 30 * SPREAD)
    failed = ok.failed(130.0)
    assert due(failed) == 160.0  # the old registration still holds: worth an effort
    assert due(failed.failed(190.0)) == 250.0
    assert due(Beat().failed(10.0)) == 70.0
    assert due(Beat().failed(10.0, 600.0)) == 610.0 == due(Beat().failed(10.0, 600.0), 1.0)
    assert due(Beat().ok(0.0, 30.0)) == 15.0  # a server that grants little is met sooner
