"""One RPC: bytes to values and back, and where one ends in a stream. No decisions about what it says.

How many things an RPC holds is counted on its bytes before any of them becomes an object: a mebibyte can name half a
million of them. What is malformed or over a limit refuses the RPC as a whole.
Source: libp2p/specs, pubsub (The RPC), gossipsub 1.0 to 1.2; contracts/libp2p/gossipsub.proto.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rage_net.libp2p import varint
from rage_net.libp2p.errors import RemoteProtocolError
from rage_net.libp2p.gossipsub.message import Message

RPC_BYTES_MAX = 1024 * 1024
"""Of one RPC, as go- and py-libp2p hold to."""
TOPIC_BYTES_MAX = 256
"""Of a topic's name; rage's own have under 100."""
ID_BYTES_MAX = 128
"""Of a message's name: 54 with the longest peer id; others may name by hashes."""
ITEMS_MAX = 5_000
"""Subscriptions and messages in an RPC: js-libp2p allows as many of each."""
CONTROL_ITEMS_MAX = 25_000
"""Control messages in an RPC with the names and peers in them: a mebibyte of real names has fewer."""
BACKOFF_S_MAX = 3600
"""A longer back-off is taken for this."""

_CONTROL = 3
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Have:
    """IHAVE."""

    topic: str
    ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Prune:
    """PRUNE. `backoff_s` is None where the peer did not say."""

    topic: str
    peers: tuple[bytes, ...] = ()
    """Peer ids in binary form, unchecked."""
    backoff_s: int | None = None


@dataclass(frozen=True, slots=True)
class Rpc:
    """What is said at once; any part may be empty."""

    subscriptions: tuple[tuple[str, bool], ...] = ()
    """Topics, and whether the sender has joined or left them."""
    messages: tuple[Message, ...] = ()
    have: tuple[Have, ...] = ()
    want: tuple[bytes, ...] = ()
    graft: tuple[str, ...] = ()
    prune: tuple[Prune, ...] = ()
    unwanted: tuple[bytes, ...] = ()

    def slices(self, messages: int) -> Iterator[Rpc]:
        """The same as several, with at most so many messages in each: a turn of the loop is long enough for one."""
        if len(self.messages) <= messages:
            yield self
            return
        yield Rpc(self.subscriptions, self.messages[:messages])
        last = (len(self.messages) - 1) // messages * messages
        for start in range(messages, last, messages):
            yield Rpc(messages=self.messages[start : start + messages])
        yield Rpc((), self.messages[last:], self.have, self.want, self.graft, self.prune, self.unwanted)


class Frames:
    """Cuts a stream into RPCs. Raises RemoteProtocolError as soon as a length is too large."""

    def __init__(self, limit: int = RPC_BYTES_MAX) -> None:
        self._limit = limit
        self._unread = bytearray()

    @property
    def held(self) -> int:
        """Bytes of an RPC that has not come whole."""
        return len(self._unread)

    def receive(self, buffers: Sequence[varint.Buffer]) -> list[bytes]:
        """The RPCs that are whole now."""
        for buffer in buffers:
            self._unread += buffer
        out, start = [], 0
        while (head := varint.decode(self._unread, start, maximum=self._limit)) is not None:
            size, begin = head
            if len(self._unread) < begin + size:
                break
            start = begin + size
            out.append(bytes(self._unread[begin:start]))
        del self._unread[:start]
        return out


def encode(rpc: Rpc) -> bytes:
    """The RPC with its length before it."""
    from rage_net.libp2p.pb.gossipsub_pb2 import Rpc as Wire

    wire = Wire()
    for topic, is_joined in rpc.subscriptions:
        wire.subscriptions.add(topic=topic, subscribe=is_joined)
    for message in rpc.messages:
        # What is empty is left out: js-libp2p refuses a key of no bytes.
        fields = {"from": message.source, "seqno": message.seqno, "signature": message.signature, "key": message.key}
        wire.publish.add(topic=message.topic, data=message.data, **{name: raw for name, raw in fields.items() if raw})
    for have in rpc.have:
        wire.control.have.add(topic=have.topic, message_ids=have.ids)
    if rpc.want:
        wire.control.want.add(message_ids=rpc.want)
    for topic in rpc.graft:
        wire.control.graft.add(topic=topic)
    for prune in rpc.prune:
        added = wire.control.prune.add(topic=prune.topic, backoff=prune.backoff_s)
        for peer in prune.peers:
            added.peers.add(peer_id=peer)
    if rpc.unwanted:
        wire.control.unwanted.add(message_ids=rpc.unwanted)
    raw = wire.SerializeToString()
    return varint.encode(len(raw)) + raw


def decode(raw: bytes) -> Rpc:
    """Read an RPC without its length. Raises RemoteProtocolError when it is malformed or over a limit."""
    from google.protobuf.message import DecodeError

    from rage_net.libp2p.pb.gossipsub_pb2 import Rpc as Wire

    if len(raw) > RPC_BYTES_MAX:
        raise RemoteProtocolError(f"an RPC has {len(raw)} bytes, the limit is {RPC_BYTES_MAX}")
    _count_items(raw)
    wire = Wire()
    try:
        wire.ParseFromString(raw)
    except DecodeError as error:
        raise RemoteProtocolError(f"an RPC is malformed: {error}") from error
    control = wire.control
    return Rpc(
        subscriptions=tuple((_topic(one.topic), one.subscribe) for one in wire.subscriptions),
        messages=tuple(
            Message(_topic(one.topic), one.data, getattr(one, "from"), one.seqno, one.signature, one.key)
            for one in wire.publish
        ),
        have=tuple(Have(_topic(one.topic), _ids(one.message_ids)) for one in control.have),
        want=tuple(id for one in control.want for id in _ids(one.message_ids)),
        graft=tuple(_topic(one.topic) for one in control.graft),
        prune=tuple(
            Prune(
                _topic(one.topic),
                tuple(peer.peer_id for peer in one.peers),
                min(one.backoff, BACKOFF_S_MAX) if one.HasField("backoff") else None,
            )
            for one in control.prune
        ),
        unwanted=tuple(id for one in control.unwanted for id in _ids(one.message_ids)),
    )


def check_topic(topic: str) -> str:
    """The name, when peers would take it. Raises ValueError otherwise."""
    if not topic or len(topic.encode()) > TOPIC_BYTES_MAX or not topic.isprintable():
        raise ValueError(f"a topic's name has 1 to {TOPIC_BYTES_MAX} bytes, all of them printable")
    return topic


def _topic(topic: str | bytes) -> str:
    if isinstance(topic, bytes):  # what protobuf gives for a proto2 string that is no UTF-8
        raise RemoteProtocolError("an RPC is malformed: a topic is no UTF-8")
    try:
        return check_topic(topic)
    except ValueError as error:
        raise RemoteProtocolError(f"an RPC names a topic that is none: {error}") from None


def _ids(ids: Sequence[bytes]) -> tuple[bytes, ...]:
    if any(len(id) > ID_BYTES_MAX for id in ids):
        raise RemoteProtocolError(f"a message's name has more than {ID_BYTES_MAX} bytes")
    return tuple(ids)


def _count_items(raw: bytes) -> None:
    """Refuse an RPC with more than its limits of anything, or with fields cut short."""
    control_items = 0
    for items, (field, body) in enumerate(_fields(memoryview(raw)), 1):
        if field == _CONTROL:
            for _, item in _fields(body):
                control_items += 1 + sum(1 for _ in itertools.islice(_fields(item), CONTROL_ITEMS_MAX))
                if control_items > CONTROL_ITEMS_MAX:
                    raise RemoteProtocolError(f"an RPC holds more than {CONTROL_ITEMS_MAX} control messages and names")
        if items > ITEMS_MAX:
            raise RemoteProtocolError(f"an RPC holds more than {ITEMS_MAX} messages and subscriptions")


def _fields(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Field numbers and bodies of a protobuf message; what is no message or string has an empty body."""
    position, end = 0, len(view)
    while position < end:
        tag, position = _varint(view, position)
        kind = tag & 7
        size = 0
        if kind == _BYTES:
            size, position = _varint(view, position)
        elif kind == _VARINT:
            _, position = _varint(view, position)
        elif kind in (_FIXED32, _FIXED64):
            position += 4 if kind == _FIXED32 else 8
        else:
            raise RemoteProtocolError("an RPC is malformed: a field of no known kind")
        if position + size > end:
            raise RemoteProtocolError("an RPC is malformed: a field is cut short")
        yield tag >> 3, view[position : position + size]
        position += size


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    """Protobuf's own varints may be padded and have ten bytes."""
    number = shift = 0
    for at in range(position, min(len(view), position + 10)):
        byte = view[at]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at + 1
        shift += 7
    raise RemoteProtocolError("an RPC is malformed: a number does not end")
