import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rage_net.libp2p.multiaddr import BYTES_MAX, PARTS_MAX, TEXT_CHARS_MAX, Multiaddr, MultiaddrError
from rage_net.libp2p.peer_id import PeerId

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/multiaddrs.json").read_text())
PEER = PeerId.parse("12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA")
OTHER = PeerId.parse("QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N")

names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-.", min_size=1, max_size=60)
parts = st.one_of(
    st.tuples(st.just("ip4"), st.ip_addresses(v=4).map(str)),
    st.tuples(st.just("ip6"), st.ip_addresses(v=6).map(str)),
    st.tuples(st.sampled_from(["tcp", "udp"]), st.integers(0, 65535).map(str)),
    st.tuples(st.sampled_from(["dns", "dns4", "dns6", "dnsaddr", "ip6zone", "memory"]), names),
    st.tuples(st.sampled_from(["quic", "quic-v1", "ws", "wss", "tls", "p2p-circuit"]), st.just("")),
    st.tuples(st.just("p2p"), st.binary(min_size=32, max_size=32).map(lambda raw: str(PeerId(b"\x12\x20" + raw)))),
    st.tuples(st.just("unix"), st.just("/run/rage/node.sock")),
)


def ends_with_its_path(chain: list[tuple[str, str]]) -> bool:
    return all(name != "unix" for name, _ in chain[:-1])


@pytest.mark.parametrize(("text", "raw"), VECTORS["bytes"])
def test_the_published_bytes_hold_both_ways(text: str, raw: str) -> None:
    assert bytes(Multiaddr.parse(text)).hex() == raw
    assert str(Multiaddr.from_bytes(bytes.fromhex(raw))) == text


@pytest.mark.parametrize("text", VECTORS["good"])
def test_the_published_good_addresses_round_trip(text: str) -> None:
    address = Multiaddr.parse(text)
    assert Multiaddr.parse(str(address)) == address == Multiaddr.from_bytes(bytes(address))


@pytest.mark.parametrize("text", VECTORS["bad"])
def test_the_published_bad_addresses_are_refused(text: str) -> None:
    with pytest.raises(MultiaddrError):
        Multiaddr.parse(text)


@given(st.lists(parts, min_size=1, max_size=8).filter(ends_with_its_path))
def test_every_address_round_trips_as_text_and_as_bytes(chain: list[tuple[str, str]]) -> None:
    address = Multiaddr.of(*chain)
    assert Multiaddr.parse(str(address)) == address == Multiaddr.from_bytes(bytes(address))


@given(st.binary(max_size=80))
def test_any_bytes_are_an_address_or_a_multiaddr_error(raw: bytes) -> None:
    for prefix in (b"", b"\x04\x7f\0\0\1", b"\x36", b"\x29", b"\xa5\x03", b"\x90\x03", b"\x06\0\0"):
        try:
            address = Multiaddr.from_bytes(prefix + raw)
        except MultiaddrError:
            continue
        assert Multiaddr.from_bytes(bytes(address)) == address
        if "unix" not in [name for name, _ in address.parts[:-1]]:
            assert Multiaddr.parse(str(address)) == address


@given(st.text(max_size=60), st.lists(st.sampled_from(["ip4", "tcp", "p2p", "dns", "unix", "1", "", "::"]), max_size=8))
def test_any_text_is_an_address_or_a_multiaddr_error(text: str, words: list[str]) -> None:
    for candidate in (text, "/" + text, "/dns/" + text, "/unix/" + text, "/" + "/".join(words)):
        try:
            address = Multiaddr.parse(candidate)
        except MultiaddrError:
            continue
        assert Multiaddr.parse(str(address)) == address == Multiaddr.from_bytes(bytes(address))


@pytest.mark.parametrize(
    "text", ["/ip4/192.0.2.7/tcp/4001", "/dns4/rage.example/tcp/443/wss", "/ip6/::1/udp/1/quic-v1"]
)
def test_a_peer_is_added_replaced_and_taken_away(text: str) -> None:
    bare = Multiaddr.parse(text)
    named = bare.with_peer_id(PEER)
    assert bare.peer_id is None
    assert named.peer_id == PEER
    assert str(named) == f"{text}/p2p/{PEER}"
    assert named.with_peer_id(OTHER) == bare.with_peer_id(OTHER)
    assert named.without_peer_id() == bare
    assert named.transport_parts() == bare.transport_parts() == bare.parts


def test_behind_a_relay_the_peer_is_the_one_at_the_end() -> None:
    relay = Multiaddr.parse(f"/ip4/192.0.2.7/tcp/4001/p2p/{OTHER}/p2p-circuit")
    assert relay.peer_id is None
    assert relay.with_peer_id(PEER).peer_id == PEER
    assert relay.with_peer_id(PEER).transport_parts() == relay.parts


def test_a_bare_peer_has_no_place_left_without_its_name() -> None:
    bare = Multiaddr.parse(f"/p2p/{PEER}")
    assert bare.transport_parts() == ()
    with pytest.raises(MultiaddrError):
        bare.without_peer_id()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ip4/127.0.0.1", "does not begin with /"),
        ("/ip4/127.0.0.1/tcp", "/tcp needs a value"),
        ("/ip4/127.0.0.1/tcp/99999", "'99999' is no port"),
        ("/ip4/127.0.0.1/tcp/+1", "no port"),
        ("/ip4/127.0.0.1/tcp/\u0661", "no port"),
        ("/ip4/127.0.0.256/tcp/1", "no IPv4 address"),
        ("/ip6/fe80::1%eth0/tcp/1", "ip6zone"),
        ("/ip4/127.0.0.1/onion/1", "'onion' is not a known protocol"),
        ("/dns/" + "a" * 254, "1 to 253"),
        ("/dns/a b", "no slash, space"),
        ("/dns/a\x1b[2Jb", "control character"),
        ("/dns/\ud800", "control character"),
        ("/unix/run/", "needs a value|no absolute path"),
        (f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}x", "no peer id"),
        ("/tls" * (PARTS_MAX + 1), "1 to 16 parts"),
        ("/dns/" + "a" * TEXT_CHARS_MAX, "at most 1024 characters"),
    ],
)
def test_the_error_says_what_is_wrong(text: str, says: str) -> None:
    if text == "/unix/run/":  # a closing slash is no part of the path
        assert str(Multiaddr.parse(text)) == "/unix/run"
        return
    with pytest.raises(MultiaddrError, match=says):
        Multiaddr.parse(text)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "1 to 16 parts"),
        (b"\x04\x7f\0\0", "end within /ip4"),
        (b"\x36\x05abcd", "end within /dns4"),
        (b"\x36\xff", "end within a code or a length"),
        (b"\x36\x81\x80\x04", "malformed"),
        (b"\x84\x00\x7f\0\0\1", "malformed"),
        (b"\x36\x02\xff\xfe", "UTF-8"),
        (b"\x36\x01/", "no slash"),
        (b"\x90\x03\x01a", "no absolute path"),
        (b"\xa5\x03\x02\x00\x00", "peer id"),
        (b"\x01", "protocol 1 is not known"),
        (bytes(BYTES_MAX + 1), "at most 1024 bytes"),
    ],
)
def test_malformed_bytes_are_refused_with_a_reason(raw: bytes, says: str) -> None:
    with pytest.raises(MultiaddrError, match=says):
        Multiaddr.from_bytes(raw)
