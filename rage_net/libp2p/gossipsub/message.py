"""One message of a topic: its name, and the signature that its author must have made. Not here: whether it is wanted.

StrictSign: author, sequence number and signature are always there. The name is the author and the sequence number, as
the specification and go-, rust- and py-libp2p have it (js-libp2p leaves out two bytes unless it is given this as its
`msgIdFn`). Signed are fields 1 to 4 in their one encoding, as every implementation does; a key in the message is not.
Source: libp2p/specs, pubsub (Message Identification, Message Signing).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from rage_net.libp2p.errors import RemoteProtocolError
from rage_net.libp2p.peer_id import PeerId, PeerIdError, decode_public_key, verify

SIGNING_PREFIX = b"libp2p-pubsub:"
SEQUENCE_BYTES = 8
SEQUENCE_MAX = (1 << 64) - 1


class Verdict(Enum):
    """What a validator says of a message."""

    ACCEPT = "accept"
    """Deliver it, and pass it on."""
    IGNORE = "ignore"
    """Do neither; nobody is to blame. For what one does not understand, too: newer nodes may."""
    REJECT = "reject"
    """Do neither; who passed it on should have known, and is scored for it."""


@dataclass(frozen=True, slots=True)
class Message:
    """As it came, or was made: bytes that nobody has checked until `check_signature` has."""

    topic: str
    data: bytes
    source: bytes
    """The author's peer id in binary form."""
    seqno: bytes
    signature: bytes = b""
    key: bytes = b""

    @property
    def id(self) -> bytes:
        """The message's name among all messages."""
        return self.source + self.seqno

    @property
    def author(self) -> PeerId:
        """Who made it. Raises PeerIdError where `source` is no peer id; never after `check_signature`."""
        return PeerId(self.source)

    @property
    def sequence(self) -> int:
        """The author's count, wall-clock nanoseconds where the author is a rage, go, rust or js node."""
        return int.from_bytes(self.seqno, "big")

    @property
    def size(self) -> int:
        """About what it takes in memory and on the wire, in bytes."""
        return len(self.data) + len(self.topic) + len(self.source) + len(self.signature) + len(self.key) + 32


def make_message(
    topic: str, data: bytes, author: PeerId, sequence: int, sign: Callable[[bytes], bytes], key: bytes = b""
) -> Message:
    """A signed message. `key` is needed where the peer id does not hold it (RSA)."""
    seqno = sequence.to_bytes(SEQUENCE_BYTES, "big")
    unsigned = Message(topic, data, author.multihash, seqno)
    return Message(topic, data, author.multihash, seqno, sign(_signed_bytes(unsigned)), key)


def check_signature(message: Message) -> None:
    """Return when `message` is its author's. Raises RemoteProtocolError, which says what is wrong with it."""
    if not message.source or len(message.seqno) != SEQUENCE_BYTES or not message.signature:
        raise RemoteProtocolError("a message lacks author, sequence number or signature")
    try:
        author = PeerId(message.source)
    except PeerIdError as error:
        raise RemoteProtocolError(f"a message's author is no peer id: {error}") from None
    if message.key and PeerId.from_encoded_key(message.key) != author:
        raise RemoteProtocolError("a message carries another key than its author's")
    key = decode_public_key(message.key) if message.key else author.public_key()
    if key is None:
        raise RemoteProtocolError("a message lacks the key that its author's id does not hold")
    verify(key, _signed_bytes(message), message.signature)


def _signed_bytes(message: Message) -> bytes:
    from rage_net.libp2p.pb.gossipsub_pb2 import Message as Wire

    wire = Wire(data=message.data, seqno=message.seqno, topic=message.topic)
    setattr(wire, "from", message.source)
    return SIGNING_PREFIX + wire.SerializeToString()
