"""libp2p's Kad-DHT messages: bytes in, dataclasses out, and back. What a peer sends is checked and cut to size here.

Peers that cannot be read (no peer id, no address of ours) are left out of a message, the others stay: an answer is a
list of hints. A message that is no protobuf, too long or of an unknown kind is refused whole.
Source: libp2p/specs kad-dht, contracts/libp2p/kad.proto.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from rage_net.libp2p import varint
from rage_net.libp2p.errors import RemoteProtocolError
from rage_net.libp2p.kad.contact import ADDRESSES_MAX, Contact, place_addresses
from rage_net.libp2p.kad.keys import K
from rage_net.libp2p.multiaddr import Multiaddr, MultiaddrError
from rage_net.libp2p.peer_id import PeerId, PeerIdError

if TYPE_CHECKING:
    from rage_net.libp2p.pb import kad_pb2

PROTOCOL = "/rage/kad/1.0.0"

MESSAGE_BYTES_MAX = 64 << 10
"""An answer with 40 peers at 8 addresses takes about 20 KiB; js-libp2p sends all providers it knows."""
KEY_BYTES_MAX = 128
"""Of a record's key: a multihash has 34 or 66 bytes, `/pk/` and a peer id 48."""
VALUE_BYTES_MAX = 8 << 10
"""Of a value; a public key has at most 2 KiB."""
CLOSER_MAX = K
"""Closer peers taken from one answer: more tell nothing, and would be how one peer fills a look-up."""
PROVIDERS_MAX = 32
"""Providers taken from one answer: with ASKED_MAX answers, a look-up keeps 6,400 names at most."""
TIME_CHARS_MAX = 64


class Kind(IntEnum):
    """What a message is about, as numbered in contracts/libp2p/kad.proto."""

    PUT_VALUE = 0
    GET_VALUE = 1
    ADD_PROVIDER = 2
    GET_PROVIDERS = 3
    FIND_NODE = 4
    PING = 5


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """A peer as a message names it: a claim. Addresses are without the peer's name."""

    peer_id: PeerId
    addresses: tuple[Multiaddr, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """A value under a key."""

    key: bytes
    value: bytes
    time_received: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """A request, or the answer to one."""

    kind: Kind
    key: bytes = b""
    record: Record | None = None
    closer: tuple[PeerInfo, ...] = ()
    providers: tuple[PeerInfo, ...] = ()


def info(contact: Contact) -> PeerInfo:
    """A contact as messages carry it."""
    return PeerInfo(contact.peer_id, contact.addresses)


def encode(message: Message) -> bytes:
    """The message on the wire, without its length."""
    from rage_net.libp2p.pb import kad_pb2 as pb

    wire = pb.Message(type=int(message.kind), key=message.key or None)
    if message.record is not None:
        record = message.record
        wire.record.key, wire.record.value, wire.record.time_received = record.key, record.value, record.time_received
    for field, peers in ((wire.closer_peers, message.closer), (wire.provider_peers, message.providers)):
        for peer in peers:
            field.add(id=bytes(peer.peer_id), addrs=[bytes(address) for address in peer.addresses[:ADDRESSES_MAX]])
    return wire.SerializeToString()


def frame(*messages: Message) -> bytes:
    """Messages as they follow each other on a stream, each behind its length."""
    return b"".join(varint.encode(len(raw)) + raw for raw in map(encode, messages))


def decode(raw: bytes) -> Message:
    """Read a message. Raises: RemoteProtocolError when it is too long, malformed, or of a kind that nobody knows."""
    from google.protobuf.message import DecodeError

    from rage_net.libp2p.pb import kad_pb2 as pb

    if len(raw) > MESSAGE_BYTES_MAX:
        raise RemoteProtocolError(f"a DHT message has {len(raw)} bytes, the limit is {MESSAGE_BYTES_MAX}")
    wire = pb.Message()
    try:
        wire.ParseFromString(raw)
    except DecodeError as error:
        raise RemoteProtocolError(f"a DHT message is malformed: {error}") from error
    if wire.type not in _KINDS:
        raise RemoteProtocolError(f"a DHT message is of a kind that nobody knows, {wire.type}")
    if len(wire.key) > KEY_BYTES_MAX:
        raise RemoteProtocolError(f"a DHT key has {len(wire.key)} bytes, the limit is {KEY_BYTES_MAX}")
    return Message(
        Kind(wire.type),
        wire.key,
        _read_record(wire.record) if wire.HasField("record") else None,
        tuple(_read_peers(wire.closer_peers[:CLOSER_MAX])),
        tuple(_read_peers(wire.provider_peers[:PROVIDERS_MAX])),
    )


class Reader:
    """Messages out of a stream's bytes, however these are cut. Holds at most one message and what came with its end."""

    def __init__(self) -> None:
        self._unread = bytearray()
        self._offset = 0

    def receive(self, data: varint.Buffer) -> None:
        """Take bytes; call `next_message` until it gives None."""
        del self._unread[: self._offset]
        self._offset = 0
        self._unread += data

    def next_message(self) -> Message | None:
        """The next message that is whole. Raises: RemoteProtocolError."""
        head = varint.decode(self._unread, self._offset, maximum=MESSAGE_BYTES_MAX)
        if head is None or len(self._unread) < head[0] + head[1]:
            return None
        size, start = head
        self._offset = start + size
        return decode(bytes(self._unread[start : start + size]))

    def end(self) -> None:
        """The stream has ended. Raises: RemoteProtocolError when it did so within a message."""
        if len(self._unread) > self._offset:
            raise RemoteProtocolError("a stream ended within a DHT message")


def _read_record(wire: kad_pb2.Record) -> Record:
    if isinstance(wire.time_received, bytes):  # what protobuf gives for a proto2 string that is no UTF-8
        raise RemoteProtocolError("a DHT record is malformed: its time is no UTF-8")
    if len(wire.key) > KEY_BYTES_MAX or len(wire.value) > VALUE_BYTES_MAX or len(wire.time_received) > TIME_CHARS_MAX:
        raise RemoteProtocolError(f"a DHT record is larger than its limits ({KEY_BYTES_MAX}, {VALUE_BYTES_MAX} bytes)")
    return Record(wire.key, wire.value, wire.time_received)


def _read_peers(wires: Iterable[kad_pb2.Peer]) -> Iterable[PeerInfo]:
    for wire in wires:
        try:
            peer_id = PeerId.from_bytes(wire.id)
        except PeerIdError:
            continue
        yield PeerInfo(peer_id, place_addresses(peer_id, _read_addresses(wire.addrs[:ADDRESSES_MAX])))


def _read_addresses(raws: Iterable[bytes]) -> Iterable[Multiaddr]:
    for raw in raws:
        try:
            yield Multiaddr.from_bytes(raw)
        except MultiaddrError:
            continue


_KINDS = frozenset(map(int, Kind))
