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
