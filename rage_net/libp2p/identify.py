"""Identify: what a peer says of itself, and the push of a change. Bytes to values and back; no I/O, no decisions.

A claim, not a proof: only the peer id (from Noise) is certain. A peer that asks on `/ipfs/id/1.0.0` gets one message,
length first, then the end of the stream; on `/ipfs/id/push/1.0.0` a peer sends one unasked, whose missing fields stay
as they were. Signed address records are neither sent nor read.
Source: libp2p/specs identify, contracts/libp2p/identify.proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rage_net.libp2p.errors import RemoteProtocolError
from rage_net.libp2p.multiaddr import Multiaddr, MultiaddrError

PROTOCOL = "/ipfs/id/1.0.0"
PUSH_PROTOCOL = "/ipfs/id/push/1.0.0"

MESSAGE_BYTES_MAX = 8 * 1024
"""Of one message: js-libp2p and go-libp2p hold to the same."""
ADDRESSES_MAX = 64
"""Listen addresses kept from a message; a host with many interfaces has about 20."""
PROTOCOLS_MAX = 256
"""Protocols kept from a message; a full IPFS node has about 40."""
TEXT_BYTES_MAX = 256
"""Of an agent's name, a version or a protocol id: they reach logs and tables."""


@dataclass(frozen=True, slots=True)
class Identify:
    """One message. None, or empty, means that the peer said nothing of it."""

    public_key: bytes | None = None
    """In libp2p's encoding, unchecked."""
    listen_addresses: tuple[Multiaddr, ...] = ()
    protocols: tuple[str, ...] = ()
    observed_address: Multiaddr | None = None
    """Where the sender sees the receiver."""
    protocol_version: str | None = None
    agent_version: str | None = None


def encode(message: Identify) -> bytes:
    """The message on the wire, without its length. Raises ValueError when it is longer than peers accept."""
    from rage_net.libp2p.pb.identify_pb2 import Identify as Wire

    wire = Wire(
        public_key=message.public_key,
        listen_addrs=[bytes(address) for address in message.listen_addresses],
        protocols=message.protocols,
        observed_addr=bytes(message.observed_address) if message.observed_address else None,
        protocol_version=message.protocol_version,
        agent_version=message.agent_version,
    )
    raw = wire.SerializeToString()
    if len(raw) > MESSAGE_BYTES_MAX:
        raise ValueError(f"an identify message of {len(raw)} bytes is longer than peers accept, {MESSAGE_BYTES_MAX}")
    return raw


def decode(raw: bytes) -> Identify:
    """Read a message. Left out are addresses of protocols that this stack does not know, and what is over the limits.

    Raises: RemoteProtocolError when it is too long or malformed.
    """
    from google.protobuf.message import DecodeError

    from rage_net.libp2p.pb.identify_pb2 import Identify as Wire

    if len(raw) > MESSAGE_BYTES_MAX:
        raise RemoteProtocolError(f"an identify message has {len(raw)} bytes, the limit is {MESSAGE_BYTES_MAX}")
    wire = Wire()
    try:
        wire.ParseFromString(raw)
        return Identify(
            public_key=wire.public_key if wire.HasField("public_key") else None,
            listen_addresses=tuple(_read_addresses(wire.listen_addrs[:ADDRESSES_MAX])),
            protocols=tuple(dict.fromkeys(_check_text(name) for name in wire.protocols[:PROTOCOLS_MAX])),
            observed_address=next(_read_addresses([wire.observed_addr]), None),
            protocol_version=_check_text(wire.protocol_version) if wire.HasField("protocol_version") else None,
            agent_version=_check_text(wire.agent_version) if wire.HasField("agent_version") else None,
        )
    except DecodeError as error:
        raise RemoteProtocolError(f"an identify message is malformed: {error}") from error


def apply_push(known: Identify, push: Identify) -> Identify:
    """What is known of a peer after its push: fields that it left out stay."""
    said = {name: value for name in Identify.__slots__ if (value := getattr(push, name)) not in (None, ())}
    return replace(known, **said)


def _read_addresses(raws: Iterable[bytes]) -> Iterator[Multiaddr]:
    for raw in raws:
        try:
            yield Multiaddr.from_bytes(raw)
        except MultiaddrError:
            continue


def _check_text(text: str | bytes) -> str:
    """A peer's words, fit for a log line: bounded, and nothing that moves a terminal's cursor."""
    if isinstance(text, bytes):  # what protobuf gives for a proto2 string that is no UTF-8
        raise RemoteProtocolError("an identify message is malformed: a name is no UTF-8")
    if len(text.encode()) > TEXT_BYTES_MAX:
        raise RemoteProtocolError(f"a name in an identify message has more than {TEXT_BYTES_MAX} bytes")
    return text if text.isprintable() else "".join(char if char.isprintable() else "\ufffd" for char in text)
