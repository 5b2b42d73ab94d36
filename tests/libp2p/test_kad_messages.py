"""The DHT's messages: round trips, limits, garbage, every cut of a stream."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rage_net.libp2p import varint
from rage_net.libp2p.errors import RemoteProtocolError
from rage_net.libp2p.kad import messages
from rage_net.libp2p.kad.messages import Kind, Message, PeerInfo, Reader, Record, decode, encode, frame
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.pb import kad_pb2 as pb
from rage_net.libp2p.peer_id import PeerId
from tests.libp2p.dht_world import peer_id

PLACES = st.builds(lambda port: Multiaddr.parse(f"/ip4/192.0.2.7/tcp/{port}"), st.integers(1, 65535))
PEERS = st.builds(
    lambda raw, addresses: PeerInfo(PeerId(bytes((0, 36, 8, 1, 18, 32)) + raw), tuple(dict.fromkeys(addresses))),
    st.binary(min_size=32, max_size=32),
    st.lists(PLACES, max_size=8),
)
RECORDS = st.builds(
    Record,
    st.binary(max_size=128),
    st.binary(max_size=300),
    st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=64),
)
MESSAGES = st.builds(
    Message,
    st.sampled_from(Kind),
    st.binary(max_size=128),
    st.none() | RECORDS,
    st.lists(PEERS, max_size=20).map(tuple),
    st.lists(PEERS, max_size=20).map(tuple),
)


@given(MESSAGES)
def test_messages_round_trip(message: Message) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=300))
def test_garbage_is_a_message_or_a_remote_protocol_error(data: bytes) -> None:
    reader = Reader()
    for take in (lambda: decode(data), lambda: reader.receive(data) or reader.next_message()):
        try:
            take()
        except RemoteProtocolError:
            continue


@given(MESSAGES, st.data())
def test_a_flipped_byte_is_another_message_or_a_remote_protocol_error(message: Message, data: st.DataObject) -> None:
    raw = bytearray(encode(message) or b"\0")
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decode(bytes(raw))
    except RemoteProtocolError:
        return


@pytest.mark.parametrize("step", [1, 2, 7, 100_000])
def test_several_messages_on_one_stream_are_read_however_it_is_cut(step: int) -> None:
    sent = [Message(Kind.ADD_PROVIDER, b"%d" % number) for number in range(5)] + [Message(Kind.PING)]
    raw, reader, got = frame(*sent), Reader(), []
    for start in range(0, len(raw), step):
        reader.receive(raw[start : start + step])
        while (message := reader.next_message()) is not None:
            got.append(message)
    reader.end()
    assert got == sent


def test_an_end_within_a_message_is_an_error() -> None:
    reader = Reader()
    reader.receive(frame(Message(Kind.FIND_NODE, b"key"))[:-1])
    assert reader.next_message() is None
    with pytest.raises(RemoteProtocolError, match="within"):
        reader.end()


def test_a_message_over_the_limit_is_refused_before_it_has_come() -> None:
    reader = Reader()
    reader.receive(varint.encode(messages.MESSAGE_BYTES_MAX + 1))
    with pytest.raises(RemoteProtocolError, match="limit"):
        reader.next_message()


@pytest.mark.parametrize("kind", [6, -1, 1 << 30])
def test_an_unknown_kind_is_refused(kind: int) -> None:
    with pytest.raises(RemoteProtocolError, match="kind"):
        decode(pb.Message(type=kind).SerializeToString())


@pytest.mark.parametrize(
    "wire",
    [
        pb.Message(type=4, key=b"k" * 129),
        pb.Message(type=0, record=pb.Record(key=b"k" * 129)),
        pb.Message(type=0, record=pb.Record(value=b"v" * (messages.VALUE_BYTES_MAX + 1))),
        pb.Message(type=0, record=pb.Record(time_received="t" * 65)),
    ],
    ids=["key", "record's key", "value", "time"],
)
def test_what_is_larger_than_its_limit_is_refused(wire: pb.Message) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(wire.SerializeToString())


def test_of_many_peers_the_first_20_are_taken_and_of_many_addresses_8(rng: random.Random) -> None:
    wire = pb.Message(type=4)
    for _ in range(300):
        wire.closer_peers.add(
            id=bytes(peer_id(rng)), addrs=[bytes(Multiaddr.parse(f"/ip4/192.0.2.1/tcp/{n}")) for n in range(1, 13)]
        )
    got = decode(wire.SerializeToString())
    assert [bytes(peer.peer_id) for peer in got.closer] == [peer.id for peer in wire.closer_peers[:20]]
    assert {len(peer.addresses) for peer in got.closer} == {8}


def test_peers_and_addresses_that_cannot_be_read_are_left_out(rng: random.Random) -> None:
    one, other = peer_id(rng), peer_id(rng)
    place = Multiaddr.parse("/ip4/192.0.2.1/tcp/1")
    wire = pb.Message(type=4)
    wire.closer_peers.add(id=b"no peer id", addrs=[bytes(place)])
    wire.closer_peers.add(
        id=bytes(one), addrs=[b"\xff\xff", bytes(place.with_peer_id(other)), bytes(place.with_peer_id(one))]
    )
    assert decode(wire.SerializeToString()).closer == (PeerInfo(one, (place,)),)
