"""Known peers: bounded, newest first, and a text file that may hold anything."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from rage_net import keys, peerstore
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from rage_net.peerstore import Peerstore


def peer(number: int) -> PeerId:
    return PeerId.from_public_key(keys.generate(random.Random(number)).public_key())


ADDRESS = Multiaddr.parse("/ip4/192.0.2.7/tcp/4001")
OTHER = Multiaddr.parse("/dns4/node.example/tcp/4001")


def test_what_is_written_is_read_back_newest_first() -> None:
    store = Peerstore()
    store.add(peer(1), [ADDRESS], 10.0)
    store.add(peer(2), [ADDRESS, OTHER], 20.0)
    store.add(peer(1), [OTHER], 30.0)
    again = Peerstore.from_text(store.to_text())
    assert [known.peer_id for known in again] == [peer(1), peer(2)]
    found = again.get(peer(1))
    assert found is not None and found.addresses == (OTHER, ADDRESS) and found.last_seen == 30.0


def test_peers_and_addresses_are_bounded() -> None:
    store = Peerstore()
    one = peer(1)
    store.add(one, [Multiaddr.parse(f"/ip4/192.0.2.7/tcp/{port}") for port in range(1, 50)], 0.0)
    known = store.get(one)
    assert known is not None and len(known.addresses) == peerstore.ADDRESSES_MAX
    for number in range(peerstore.PEERS_MAX):
        store.add(PeerId(b"\x12\x20" + number.to_bytes(32, "big")), [ADDRESS], float(number))
    assert len(store) == peerstore.PEERS_MAX
    assert store.get(one) is None, "the one seen longest ago goes first"


@given(st.text(max_size=400))
def test_any_text_is_read_without_an_error(text: str) -> None:
    Peerstore.from_text(text)
    Peerstore.from_text(f"{peer(1)} {text} {ADDRESS}\n{text}")


def test_hearsay_adds_peers_and_addresses_and_drives_out_nobody_we_have_met() -> None:
    store = Peerstore()
    for number in range(3):
        store.add(peer(number), [ADDRESS], 10.0 + number, "inbound")
    for number in range(100, 100 + peerstore.HEARD_OF_MAX + 50):
        assert store.learn(peer(number), [OTHER], "dht")
    assert len(store) == 3 + peerstore.HEARD_OF_MAX
    assert not store.learn(peer(1), [OTHER], "mdns")
    known = store.get(peer(1))
    assert known is not None and known.addresses == (ADDRESS, OTHER) and known.source == "inbound"
    newest = store.get(peer(100 + peerstore.HEARD_OF_MAX + 49))
    assert newest is not None and newest.last_seen == 0.0 and newest.source == "dht"
    again = Peerstore.from_text(store.to_text())
    assert [(it.peer_id, it.source) for it in again if it.last_seen] == [(peer(n), "inbound") for n in (2, 1, 0)]


def test_a_file_of_an_earlier_version_is_read() -> None:
    (known,) = Peerstore.from_text(f"{peer(1)} 12 {ADDRESS}\n")
    assert known.last_seen == 12.0 and known.source == ""


def test_strangers_that_come_and_go_drive_out_nobody_we_have_dialled() -> None:
    store = Peerstore()
    store.add(peer(1), [ADDRESS], 10.0, "configured")
    for number in range(2 * peerstore.PEERS_MAX):
        store.add(PeerId(b"\x12\x20" + number.to_bytes(32, "big")), [OTHER], 20.0 + number, peerstore.INBOUND)
    assert len(store) == 1 + peerstore.INBOUND_MAX
    known = store.get(peer(1))
    assert known is not None and known.was_dialled


def test_one_way_of_hearing_of_peers_drives_out_nobody_heard_of_by_another() -> None:
    store = Peerstore()
    for number in range(20):
        store.learn(peer(number), [ADDRESS], "server")
    for number in range(2 * peerstore.HEARD_OF_MAX):
        store.learn(PeerId(b"\x12\x20" + number.to_bytes(32, "big")), [OTHER], "gossip")
    assert all(store.get(peer(number)) for number in range(20))


def test_false_addresses_told_first_or_last_do_not_hide_the_true_one() -> None:
    false = [Multiaddr.parse(f"/ip4/198.51.100.{number}/tcp/4001") for number in range(32)]
    store = Peerstore()
    store.learn(peer(1), false[:8], "gossip")
    store.learn(peer(1), [ADDRESS], "server")
    store.learn(peer(1), false[8:16], "dht")
    known = store.get(peer(1))
    assert known is not None and ADDRESS in known.addresses
    store.add(peer(1), [ADDRESS], 10.0, "configured")
    for start in range(0, 32, 8):
        store.learn(peer(1), false[start : start + 8], "gossip")
    store.add(peer(1), false[:8], 20.0, peerstore.INBOUND)
    known = store.get(peer(1))
    assert known is not None and known.addresses[0] == ADDRESS and known.was_dialled
