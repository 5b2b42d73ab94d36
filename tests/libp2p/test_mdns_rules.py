"""The rules of mDNS without a socket: packets, addresses that belong on a link, who is remembered."""

from __future__ import annotations

import contextlib
import ipaddress
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mdns_wire import PTR, SERVICE, SRV, TXT, as_js, name, peer, question, record, response, strings

from rage_net.libp2p.errors import RemoteProtocolError
from rage_net.libp2p.mdns import Interface, records
from rage_net.libp2p.mdns.neighbours import (
    AGAIN_S_MIN,
    NEIGHBOURS_MAX,
    TOLD_S_MAX,
    TOLD_SOURCE_S_MAX,
    TTL_S_MAX,
    Neighbours,
)
from rage_net.libp2p.mdns.records import ADDRESSES_MAX, ANNOUNCED_BYTES_MAX, TXT_BYTES_MAX, Answer
from rage_net.libp2p.multiaddr import Multiaddr


def interface(name: str, *networks: str) -> Interface:
    return Interface(name, 7, tuple(map(ipaddress.ip_interface, networks)))


ETH = interface("eth0", "192.168.1.5/24", "fd00::5/64", "fe80::5/64")
LO = interface("lo", "127.0.0.1/8", "::1/128")
OWN = ["192.168.1.5", "fd00::5", "fe80::5", "127.0.0.1", "::1", "172.17.0.1"]


def multiaddrs(*texts: str) -> list[Multiaddr]:
    return [Multiaddr.parse(text) for text in texts]


def test_our_answer_reads_as_what_we_meant(rng: random.Random) -> None:
    us = peer(rng)
    addresses = [address.with_peer_id(us) for address in multiaddrs("/ip4/192.168.1.5/tcp/1", "/ip6/fd00::5/tcp/1")]
    (answer,) = records.read(records.announce(SERVICE, "us", addresses), SERVICE)  # type: ignore[misc]
    assert (answer.name, answer.ttl_s) == ("us", records.TTL_S)
    assert records.peer_of(answer) == (us, addresses)
    assert records.read(records.say_goodbye(SERVICE, "us"), SERVICE) == [Answer("us", 0, ())]
    assert records.read(records.announce_service(SERVICE), SERVICE) == []
    asked = records.read(records.ask(SERVICE), SERVICE)
    assert asked == records.Query(True, False, frozenset(), frozenset())
    assert records.concerns(records.ask(SERVICE), SERVICE)


def test_our_answer_is_one_record_with_a_string_for_each_address(rng: random.Random) -> None:
    """go-libp2p keeps only the last TXT record of a name, and an answer that is cut in two is no answer."""
    us = peer(rng)
    addresses = records.pick(multiaddrs(*(f"/ip4/192.168.1.5/tcp/{port}" for port in range(1000, 1100))), us, ETH)
    assert 5 < len(addresses) <= ADDRESSES_MAX
    packet = records.announce(SERVICE, "us" * 20, addresses)
    assert len(packet) < 1460
    assert packet[6:12] == bytes((0, 1, 0, 0, 0, 1))
    (answer,) = records.read(packet, SERVICE)  # type: ignore[misc]
    assert len(answer.texts) == 1 and len(answer.texts[0]) <= ANNOUNCED_BYTES_MAX


def test_queries_are_read_with_their_known_answers() -> None:
    known = [record(SERVICE, PTR, name(f"fresh.{SERVICE}")), record(SERVICE, PTR, name(f"old.{SERVICE}"), ttl=60)]
    asked = records.read(question(SERVICE, PTR, known), SERVICE)
    assert isinstance(asked, records.Query)
    assert (asked.peers, asked.known) == (True, {"fresh"})
    other = records.read(question("_ipp._tcp.local.", PTR), SERVICE)
    assert other == records.Query(False, False, frozenset(), frozenset())


def test_an_answer_as_go_libp2p_gives_it_is_read(rng: random.Random) -> None:
    them = peer(rng)
    texts = strings(f"dnsaddr=/ip4/192.168.1.9/tcp/1/p2p/{them}".encode(), b"dnsaddr=/quic-v9/x", b"dnsaddr=\xff")
    packet = response(
        [record(SERVICE, PTR, name(f"go.{SERVICE}"))],
        [record(f"go.{SERVICE}", SRV, bytes(6) + name("go.local.")), record(f"go.{SERVICE}", TXT, texts)],
    )
    (answer,) = records.read(packet, SERVICE)  # type: ignore[misc]
    assert records.peer_of(answer) == (them, multiaddrs(f"/ip4/192.168.1.9/tcp/1/p2p/{them}"))


def test_a_text_of_another_name_says_nothing_of_a_peer(rng: random.Random) -> None:
    texts = strings(f"dnsaddr=/ip4/192.168.1.9/tcp/1/p2p/{peer(rng)}".encode())
    packet = response([record(SERVICE, PTR, name(f"one.{SERVICE}")), record(f"other.{SERVICE}", TXT, texts)])
    assert records.read(packet, SERVICE) == [Answer("one", 120, ())]


def test_of_many_peers_in_one_packet_a_few_are_heard() -> None:
    packet = response([record(SERVICE, PTR, name(f"n{number}.{SERVICE}")) for number in range(100)])
    answers = records.read(packet, SERVICE)
    assert isinstance(answers, list) and len(answers) == 8


@pytest.mark.parametrize(
    "texts",
    [
        (),
        (strings(b"dnsaddr=/ip4/192.168.1.9/tcp/1"),),
        (strings(b"dnsaddr=garbage", b"id=x"),),
        (bytes(TXT_BYTES_MAX + 1),),
        tuple(strings(b"x" * 255) for _ in range(20)),
        (strings(*[b"a"] * 65),),
    ],
    ids=["nothing", "no peer", "no address", "large", "large in many", "many strings"],
)
def test_an_answer_that_names_nobody_or_says_too_much_is_refused(texts: tuple[bytes, ...]) -> None:
    with pytest.raises(RemoteProtocolError):
        records.peer_of(Answer("x", 120, texts))


def test_an_answer_with_two_peers_is_refused(rng: random.Random) -> None:
    texts = strings(*(f"dnsaddr=/ip4/192.168.1.9/tcp/1/p2p/{peer(rng)}".encode() for _ in range(2)))
    with pytest.raises(RemoteProtocolError, match="more than one"):
        records.peer_of(Answer("x", 120, (texts,)))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    for packet in (data, as_js("x", ["/ip4/127.0.0.1/tcp/1"])[:40] + data, response([])[:6] + data):
        with contextlib.suppress(RemoteProtocolError):
            records.read(packet, SERVICE)


@pytest.mark.parametrize(
    ("text", "on_eth", "on_lo"),
    [
        ("/ip4/192.168.1.9/tcp/1", True, False),
        ("/ip4/192.168.1.5/tcp/1", True, True),  # another node of this machine
        ("/ip4/192.168.2.9/tcp/1", False, False),  # elsewhere in the private network
        ("/ip4/10.0.0.1/tcp/22", False, False),
        ("/ip4/8.8.8.8/tcp/53", False, False),
        ("/ip4/192.168.1.255/tcp/1", False, False),
        ("/ip4/192.168.1.0/tcp/1", False, False),
        ("/ip4/0.0.0.0/tcp/1", False, False),
        ("/ip4/224.0.0.1/tcp/1", False, False),
        ("/ip4/127.0.0.1/tcp/1", False, True),
        ("/ip4/172.17.0.1/tcp/1", False, True),  # our own, on a bridge
        ("/ip6/fd00::9/tcp/1", True, False),
        ("/ip6/fd01::9/tcp/1", False, False),
        ("/ip6/fe80::9/tcp/1", False, False),
        ("/ip6/::1/tcp/1", False, True),
        ("/dns4/example.com/tcp/1", False, False),
        ("/unix/run/x", False, False),
    ],
)
def test_an_address_is_believed_only_on_its_own_link(text: str, on_eth: bool, on_lo: bool) -> None:
    (address,) = multiaddrs(text)
    assert bool(records.believe([address], ETH, OWN)) == on_eth
    assert bool(records.believe([address], LO, OWN)) == on_lo


def test_a_relayed_address_is_not_on_the_link(rng: random.Random) -> None:
    address = f"/ip4/192.168.1.9/tcp/1/p2p/{peer(rng)}/p2p-circuit/p2p/{peer(rng)}"
    assert records.believe(multiaddrs(address), ETH, OWN) == ()


def test_of_many_addresses_the_first_are_kept_and_none_twice() -> None:
    many = multiaddrs(*(f"/ip4/192.168.1.9/tcp/{port // 2}" for port in range(2, 200)))
    assert records.believe(many, ETH, OWN) == tuple(many[: 2 * ADDRESSES_MAX : 2])


def test_we_announce_on_each_link_what_can_be_reached_there(rng: random.Random) -> None:
    us = peer(rng)

    def announced(face: Interface, *texts: str) -> list[str]:
        return [str(address.without_peer_id()) for address in records.pick(multiaddrs(*texts), us, face)]

    everywhere = ("/ip4/127.0.0.1/tcp/1", "/ip4/192.168.1.5/tcp/1", "/ip4/10.9.9.9/tcp/1", "/memory/x")
    assert announced(ETH, *everywhere) == ["/ip4/192.168.1.5/tcp/1"]
    assert announced(LO, *everywhere) == ["/ip4/127.0.0.1/tcp/1", "/ip4/192.168.1.5/tcp/1", "/ip4/10.9.9.9/tcp/1"]
    assert announced(ETH, "/ip4/0.0.0.0/tcp/1", "/ip6/::/tcp/1") == ["/ip4/192.168.1.5/tcp/1", "/ip6/fd00::5/tcp/1"]
    assert announced(ETH, "/ip4/127.0.0.1/tcp/1") == []
    assert all(address.peer_id == us for address in records.pick(multiaddrs(*everywhere), us, LO))


def test_a_peer_is_told_of_when_new_when_moved_and_again_after_a_while() -> None:
    known = Neighbours(60.0)
    assert known.hear("a", 1, "s", 120, 0.0)
    assert not known.hear("a", 1, "s", 120, 5.0)
    assert not known.hear("a", 1, "s", 120, 59.0)
    assert known.hear("a", 1, "s", 120, 60.0)
    assert known.hear("a", 2, "s", 120, 62.0)
    assert not known.hear("a", 3, "s", 120, 62.0 + AGAIN_S_MIN / 2)
    assert known.hear("a", 3, "s", 120, 63.5)
    known.forget("a")
    assert known.hear("a", 3, "s", 120, 63.6)


def test_a_peer_whose_time_is_over_is_new() -> None:
    known = Neighbours(1e9)
    assert known.hear("a", 1, "s", 10, 0.0)
    assert not known.hear("a", 1, "s", 10, 9.0)
    assert known.hear("a", 1, "s", 1 << 31, 20.0)
    assert known.hear("a", 1, "s", 10, 20.0 + TTL_S_MAX)


def test_each_second_tells_of_so_many_and_each_source_of_fewer() -> None:
    known = Neighbours(60.0)
    assert sum(known.hear(number, 1, "loud", 120, 10.0) for number in range(1000)) == TOLD_SOURCE_S_MAX
    assert known.hear("honest", 1, "quiet", 120, 10.1)
    assert sum(known.hear(("x", number), 1, f"s{number}", 120, 10.5) for number in range(1000)) == (
        TOLD_S_MAX - TOLD_SOURCE_S_MAX - 1
    )
    assert known.hear(("x", 999), 1, "s999", 120, 11.0)


def test_a_hundred_thousand_names_drive_out_no_honest_peer() -> None:
    known = Neighbours(60.0)
    for number in range(10):
        assert known.hear(number, 1, f"honest{number}", 4000, float(number))
    for number in range(100_000):
        known.hear(("flood", number), number, "loud", 4000, 10.0 + number / 100)
    assert len(known) == NEIGHBOURS_MAX
    for number in range(10):
        assert not known.hear(number, 1, f"honest{number}", 4000, 59.0 - 10 + number)
