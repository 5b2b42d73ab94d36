"""Rage's wire messages: round trips, limits, garbage."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rage_net import messages
from rage_net.cid import DAG_CBOR, RAW, Cid
from rage_net.errors import RemoteProtocolError
from rage_net.messages import ChunkHeader, ChunkResponse, GetRequest, HaveRequest, Heartbeat, NodeInfo, PeerAnnouncement
from rage_net.pb import rage_pb2 as pb

CIDS = st.builds(Cid.of, st.binary(max_size=8), st.sampled_from([RAW, DAG_CBOR]))
NAMES = st.builds(
    messages.DocumentName,
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=64),
    st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=26, max_size=26),
)
HEADERS = st.one_of(
    st.builds(
        lambda size, names: ChunkHeader(size, size, "raw", False, tuple(names)),
        st.integers(0, 4 << 20),
        st.lists(NAMES, max_size=messages.DOCUMENTS_MAX),
    ),
    st.builds(lambda size, open_: ChunkHeader(size, size, "raw", open_), st.integers(0, 4 << 20), st.booleans()),
    st.builds(
        lambda size, stored, open_: ChunkHeader(size, stored, "zstd", open_),
        st.integers(0, 4 << 20),
        st.integers(0, messages.STORED_BYTES_MAX),
        st.booleans(),
    ),
)


TRAFFIC = st.sampled_from(["user", "replication", "background"])


@given(
    st.one_of(
        st.builds(GetRequest, CIDS, TRAFFIC), st.builds(HaveRequest, st.lists(CIDS, max_size=40).map(tuple), TRAFFIC)
    )
)
def test_requests_round_trip(request: GetRequest | HaveRequest) -> None:
    assert messages.decode_request(messages.encode_request(request)) == request


@pytest.mark.parametrize("number", [3, 1000, -1])
def test_traffic_of_a_kind_that_this_version_does_not_know_is_a_users(number: int) -> None:
    wire = pb.ChunkRequest(chunk_id=bytes(Cid.of(b"x")), traffic=number)  # type: ignore[arg-type]
    assert messages.decode_request(wire.SerializeToString()) == GetRequest(Cid.of(b"x"))


def test_a_users_request_is_what_it_was_before_there_were_kinds_of_traffic() -> None:
    cid = Cid.of(b"x")
    assert messages.encode_request(GetRequest(cid)) == pb.ChunkRequest(chunk_id=bytes(cid)).SerializeToString()


@given(st.integers(0, 599), st.none() | HEADERS, st.binary(max_size=128), st.text(max_size=50))
def test_responses_round_trip(status: int, header: ChunkHeader | None, have: bytes, message: str) -> None:
    response = ChunkResponse(status, header, have, message)
    assert messages.decode_response(messages.encode_response(response)) == response


@given(st.lists(st.booleans(), max_size=1024))
def test_answers_to_have_round_trip(present: list[bool]) -> None:
    assert messages.decode_have(messages.encode_have(present), len(present)) == tuple(present)


@given(st.binary(max_size=10), st.integers(0, 200))
def test_answers_of_another_length_are_refused(bits: bytes, count: int) -> None:
    if len(bits) != (count + 7) // 8:
        with pytest.raises(RemoteProtocolError):
            messages.decode_have(bits, count)


@given(st.binary(max_size=300))
def test_garbage_is_a_message_or_a_remote_protocol_error(data: bytes) -> None:
    for decode in (messages.decode_request, messages.decode_response):
        try:
            decode(data)
        except RemoteProtocolError:
            continue


@given(st.builds(GetRequest, CIDS), st.data())
def test_a_flipped_byte_is_another_message_or_a_remote_protocol_error(request: GetRequest, data: st.DataObject) -> None:
    raw = bytearray(messages.encode_request(request))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        messages.decode_request(bytes(raw))
    except RemoteProtocolError:
        return


def test_more_questions_than_allowed_are_refused() -> None:
    many = pb.ChunkRequest(have=pb.Have(chunk_ids=[bytes(Cid.of(b""))] * (messages.HAVE_MAX + 1)))
    with pytest.raises(RemoteProtocolError, match="1025"):
        messages.decode_request(many.SerializeToString())


@pytest.mark.parametrize("metadata", [{"size": 5 << 20}, {"stored_size": 1 << 40}, {"size": 3}, {"encoding": 7}])
def test_a_header_beyond_the_limits_is_refused(metadata: dict[str, int]) -> None:
    raw = pb.ChunkResponse(status=200, metadata=pb.ChunkMetadata(**metadata)).SerializeToString()
    with pytest.raises(RemoteProtocolError):
        messages.decode_response(raw)


def test_an_oversized_message_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(RemoteProtocolError, match="the most"):
        messages.decode_response(b"\0" * (messages.RESPONSE_BYTES_MAX + 1))


def test_fields_of_a_newer_peer_are_ignored() -> None:
    from_the_future = b"\xfa\x07\x03new"  # field 127, three bytes
    request = GetRequest(Cid.of(b"x"))
    assert messages.decode_request(messages.encode_request(request) + from_the_future) == request


WORDS = st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=40)
INFOS = st.builds(NodeInfo, WORDS, WORDS, WORDS, WORDS, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))


@given(
    st.builds(Heartbeat, INFOS)
    | st.builds(
        PeerAnnouncement,
        INFOS,
        st.lists(WORDS.filter(lambda it: len(it) <= 32), max_size=16).map(tuple),
        st.lists(st.binary(max_size=40), max_size=8).map(tuple),
    )
)
def test_gossip_round_trips(message: Heartbeat | PeerAnnouncement) -> None:
    assert messages.decode_gossip(messages.encode_gossip(message)) == message


@pytest.mark.parametrize(
    "wire",
    [
        pb.GossipMessage(heartbeat=pb.Heartbeat(node_info=pb.NodeInfo(region="x" * 65))),
        pb.GossipMessage(heartbeat=pb.Heartbeat(node_info=pb.NodeInfo(organization="red\x1b[31m"))),
        pb.GossipMessage(announcement=pb.PeerAnnouncement(capabilities=["storage"] * 17)),
        pb.GossipMessage(announcement=pb.PeerAnnouncement(capabilities=["x" * 33])),
        pb.GossipMessage(announcement=pb.PeerAnnouncement(addresses=[b"x"] * 9)),
        pb.GossipMessage(announcement=pb.PeerAnnouncement(addresses=[b"x" * 5000])),
    ],
)
def test_gossip_out_of_bounds_is_refused(wire: pb.GossipMessage) -> None:
    with pytest.raises(RemoteProtocolError):
        messages.decode_gossip(wire.SerializeToString())


def test_gossip_of_a_kind_from_the_future_is_nothing_and_no_error() -> None:
    assert messages.decode_gossip(b"") is None
    assert messages.decode_gossip(b"\x9a\x06\x03abc") is None  # field 99


@given(st.binary(max_size=200))
def test_garbage_is_no_gossip_or_some(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        messages.decode_gossip(data)


def test_more_documents_than_a_message_may_name_are_refused() -> None:
    message = pb.ChunkResponse(status=200)
    message.metadata.size = message.metadata.stored_size = 1
    for number in range(messages.DOCUMENTS_MAX + 1):
        message.metadata.documents.add(organization="acme", doc_id="a" * 25 + chr(97 + number))
    with pytest.raises(RemoteProtocolError, match="too many documents"):
        messages.decode_response(message.SerializeToString())
