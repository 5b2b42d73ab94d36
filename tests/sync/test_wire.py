"""The messages of /rage/sync: there and back, and what is not one of them."""

from __future__ import annotations

import random

import pytest

from rage_net import keys
from rage_net.errors import RemoteProtocolError
from rage_net.libp2p.peer_id import PeerId
from rage_net.pb import rage_pb2 as pb
from rage_net.sync import wire
from rage_net.sync.envelope import ChainId, Entry, Head, Segment


@pytest.fixture
def chain(rng: random.Random) -> ChainId:
    return ChainId(PeerId.from_public_key(keys.generate(rng).public_key()), rng.getrandbits(64))


def test_everything_comes_through_unchanged(rng: random.Random, chain: ChainId) -> None:
    head = Head(chain, 7, rng.randbytes(32))
    request = wire.Request("acme", (head,), True, ("office-4",))
    assert wire.decode_request(wire.encode_request(request)) == request
    segment = Segment(chain, 3, (Entry(b"payload"), Entry(None, rng.randbytes(32))), rng.randbytes(64))
    response = wire.Response(wire.OK, (segment,), (head,), True, "words")
    assert wire.decode_response(wire.encode_response(response)) == response
    assert wire.decode_closing(wire.encode_ack([head])) == wire.Closing("ack", (head,))
    conflicts = (wire.Conflict("doc:x", "manual", rng.randbytes(32)),)
    assert wire.decode_closing(wire.encode_report(conflicts)) == wire.Closing("report", conflicts=conflicts)
    assert wire.decode_resolution(wire.encode_resolution(conflicts)) == conflicts
    assert wire.decode_announcement(wire.encode_announcement("acme", [head])) == ("acme", (head,))


def test_garbage_is_a_protocol_error_and_nothing_else(rng: random.Random, chain: ChainId) -> None:
    head = Head(chain, 7, rng.randbytes(32))
    segment = Segment(chain, 3, (Entry(b"payload"),), rng.randbytes(64))
    good = (
        (wire.decode_request, wire.encode_request(wire.Request("acme", (head,), False))),
        (wire.decode_response, wire.encode_response(wire.Response(wire.OK, (segment,), (head,)))),
        (wire.decode_closing, wire.encode_ack([head])),
        (wire.decode_resolution, wire.encode_resolution([wire.Conflict("doc:x", "merge", b"x" * 32)])),
    )
    for decode, data in good:
        for _ in range(300):
            damaged = bytearray(data)
            for _ in range(rng.randint(1, 4)):
                damaged[rng.randrange(len(damaged))] = rng.getrandbits(8)
            piece = bytes(damaged[: rng.randint(0, len(damaged))])
            try:
                decode(piece)
            except RemoteProtocolError:
                continue
    for _ in range(300):
        wire.decode_announcement(rng.randbytes(rng.randint(0, 200)))


@pytest.mark.parametrize(
    "message",
    [
        pb.SyncRequest(organization="x" * 256),
        pb.SyncRequest(tags=["t"] * (wire.TAGS_MAX + 1)),
        pb.SyncRequest(last_known_heads=[pb.Head(author=b"\x00\x24" + bytes(36), sequence=1, hash=b"short")]),
        pb.SyncRequest(last_known_heads=[pb.Head(author=b"no peer", sequence=1, hash=bytes(32))]),
    ],
)
def test_a_request_beyond_its_bounds_is_refused(message: pb.SyncRequest) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.decode_request(message.SerializeToString())


def test_too_many_of_anything_are_refused(chain: ChainId) -> None:
    raw = chain.author.multihash
    many = pb.SyncClosing(report=pb.AclConflictReport(conflicts=[pb.AclConflict()] * (wire.CONFLICTS_MAX + 1)))
    with pytest.raises(RemoteProtocolError):
        wire.decode_closing(many.SerializeToString())
    with pytest.raises(RemoteProtocolError):
        wire.decode_closing(b"")
    heads = [
        pb.Head(author=raw, incarnation=n, sequence=1, hash=bytes(32)) for n in range(wire.HEADS_ANNOUNCED_MAX + 1)
    ]
    assert wire.decode_announcement(pb.HeadsAnnouncement(organization="a", heads=heads).SerializeToString()) is None
    assert wire.decode_announcement(pb.HeadsAnnouncement(organization="a").SerializeToString()) is None
    assert wire.decode_announcement(bytes(wire.ANNOUNCEMENT_BYTES_MAX + 1)) is None
    segment = pb.Segment(author=raw, first=1, entries=[pb.Entry()], signature=bytes(64))
    with pytest.raises(RemoteProtocolError):
        wire.decode_response(pb.SyncResponse(status=200, changes=[segment]).SerializeToString())
