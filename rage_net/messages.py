"""Rage's own wire messages: bytes in, dataclasses out, and back. Everything is checked here, once.

Not here: streams (services/exchange) and rights (acl). Source: contracts/rage.proto, design 4.3.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from rage_net.cid import BLOCK_BYTES_MAX, Cid, CidError
from rage_net.errors import RemoteProtocolError

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from rage_net.pb import rage_pb2 as pb

CHUNK_PROTOCOL = "/rage/chunk/1.0.0"

REQUEST_BYTES_MAX = 64 << 10
"""A `have` for 1024 CIDs takes 39 KiB."""
RESPONSE_BYTES_MAX = 4 << 10
HAVE_MAX = 1024
DOCUMENTS_MAX = 8
"""Told with one chunk."""
DOC_ID = re.compile(r"[a-z2-7]{26}")
STORED_BYTES_MAX = BLOCK_BYTES_MAX + (64 << 10)
"""The stored form of the largest chunk: zstd may add a little to what it cannot shrink."""

OK = 200
BAD_REQUEST = 400
DENIED = 403
NOT_FOUND = 404
BUSY = 503

Traffic = Literal["user", "replication", "background"]
"""Why a chunk is asked for: for who reads it, to hold a copy of it, or for something that can wait."""

_ENCODINGS = ("raw", "zstd")
_TRAFFIC: tuple[Traffic, ...] = ("user", "replication", "background")
"""By their numbers on the wire."""


@dataclass(frozen=True, slots=True)
class GetRequest:
    """Send this chunk."""

    cid: Cid
    traffic: Traffic = "user"


@dataclass(frozen=True, slots=True)
class HaveRequest:
    """Which of these, at most HAVE_MAX, are here, and for who asks: to read, or with `replication` to replicate."""

    cids: tuple[Cid, ...]
    traffic: Traffic = "user"
    durable: bool = False
    """Cache, which may be gone the next moment, does not count."""


@dataclass(frozen=True, slots=True)
class DocumentName:
    """A document as its organisation knows it."""

    organization: str
    doc_id: str


@dataclass(frozen=True, slots=True)
class ChunkHeader:
    """What precedes a chunk's bytes. `size` counts plain bytes, `stored_size` those that follow."""

    size: int
    stored_size: int
    encoding: str
    is_public: bool = False
    documents: tuple[DocumentName, ...] = ()
    """Those that the chunk is for, by the word of whoever sends it."""


@dataclass(frozen=True, slots=True)
class ChunkResponse:
    """The answer to either request: `header` with a chunk, `have` with a list, neither with a refusal."""

    status: int
    header: ChunkHeader | None = None
    have: bytes = b""
    message: str = ""


def encode_request(request: GetRequest | HaveRequest) -> bytes:
    """The request as protobuf, without its length."""
    from rage_net.pb import rage_pb2 as pb

    if isinstance(request, GetRequest):
        wire = pb.ChunkRequest(chunk_id=bytes(request.cid))
    else:
        wire = pb.ChunkRequest(have=pb.Have(chunk_ids=[bytes(cid) for cid in request.cids], durable=request.durable))
    if request.traffic != "user":
        wire.traffic = pb.REPLICATION if request.traffic == "replication" else pb.BACKGROUND
    return wire.SerializeToString()


def decode_request(data: bytes) -> GetRequest | HaveRequest:
    """Read a request. Raises: RemoteProtocolError.

    Traffic of a kind that this version does not know counts as `user`: then the right to `read` decides, and the lane
    is that of requests that say nothing; who invents a kind gains nothing by it.
    """
    from rage_net.pb import rage_pb2 as pb

    message = pb.ChunkRequest()
    _parse(message, data, REQUEST_BYTES_MAX)
    kind = message.WhichOneof("ask")
    number = message.traffic
    traffic = _TRAFFIC[number] if 0 <= number < len(_TRAFFIC) else "user"
    try:
        if kind == "chunk_id":
            return GetRequest(Cid.from_bytes(message.chunk_id), traffic)
        if kind == "have":
            if len(message.have.chunk_ids) > HAVE_MAX:
                raise RemoteProtocolError(
                    f"asks for {len(message.have.chunk_ids)} chunks at once; {HAVE_MAX} is the most"
                )
            cids = tuple(Cid.from_bytes(raw) for raw in message.have.chunk_ids)
            return HaveRequest(cids, traffic, message.have.durable)
    except CidError as error:
        raise RemoteProtocolError(str(error)) from None
    raise RemoteProtocolError("a chunk request that asks for nothing")


def encode_response(response: ChunkResponse) -> bytes:
    """The response as protobuf, without its length."""
    from rage_net.pb import rage_pb2 as pb

    message = pb.ChunkResponse(status=response.status, have=response.have, message=response.message[:200])
    header = response.header
    if header is not None:
        message.metadata.size = header.size
        message.metadata.stored_size = header.stored_size
        message.metadata.encoding = pb.ZSTD if header.encoding == "zstd" else pb.RAW
        message.metadata.public = header.is_public
        for name in header.documents[:DOCUMENTS_MAX]:
            message.metadata.documents.add(organization=name.organization, doc_id=name.doc_id)
    return message.SerializeToString()


def decode_response(data: bytes) -> ChunkResponse:
    """Read a response; sizes are checked against their limits. Raises: RemoteProtocolError."""
    from rage_net.pb import rage_pb2 as pb

    message = pb.ChunkResponse()
    _parse(message, data, RESPONSE_BYTES_MAX)
    header = None
    if message.HasField("metadata"):
        meta = message.metadata
        if meta.size > BLOCK_BYTES_MAX or meta.stored_size > STORED_BYTES_MAX:
            raise RemoteProtocolError(f"announces a chunk of {meta.size} bytes, {meta.stored_size} stored")
        if not 0 <= meta.encoding < len(_ENCODINGS):
            raise RemoteProtocolError(f"unknown encoding {meta.encoding}")
        if meta.encoding == 0 and meta.size != meta.stored_size:
            raise RemoteProtocolError("a raw chunk whose two sizes differ")
        if len(meta.documents) > DOCUMENTS_MAX or not all(DOC_ID.fullmatch(name.doc_id) for name in meta.documents):
            raise RemoteProtocolError("a chunk with too many documents, or with what is no id of one")
        documents = tuple(
            DocumentName(_check_word(name.organization, WORD_BYTES_MAX), name.doc_id) for name in meta.documents
        )
        header = ChunkHeader(meta.size, meta.stored_size, _ENCODINGS[meta.encoding], meta.public, documents)
    return ChunkResponse(message.status, header, message.have, message.message[:200])


def encode_have(present: Sequence[bool]) -> bytes:
    """Answers as a bit field, least significant bit first."""
    bits = sum(1 << at for at, here in enumerate(present) if here)
    return bits.to_bytes((len(present) + 7) // 8, "little")


def decode_have(bits: bytes, count: int) -> tuple[bool, ...]:
    """The answers for `count` CIDs. Raises: RemoteProtocolError when the length is another."""
    if len(bits) != (count + 7) // 8:
        raise RemoteProtocolError(f"answers {count} questions with {len(bits)} bytes")
    number = int.from_bytes(bits, "little")
    return tuple(bool(number >> at & 1) for at in range(count))


def _parse(message: Message, data: bytes, limit: int) -> None:
    from google.protobuf.message import DecodeError

    if len(data) > limit:
        raise RemoteProtocolError(f"a message of {len(data)} bytes; {limit} is the most")
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise RemoteProtocolError("the bytes are no message of this protocol") from None


# --- keys of sealed documents ---------------------------------------------------------------------------------------

KEY_PROTOCOL = "/rage/key/1.0.0"
KEY_MESSAGE_BYTES_MAX = 512
"""Of a request, and of an answer."""
EPOCH_BYTES = 16
KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """The key of a document's epoch."""

    organization: str
    doc_id: str
    epoch: bytes


@dataclass(frozen=True, slots=True)
class KeyResponse:
    """The key, with status 200 alone."""

    status: int
    key: bytes = field(default=b"", repr=False)


def encode_key_request(request: KeyRequest) -> bytes:
    """The request as protobuf, without its length."""
    from rage_net.pb import rage_pb2 as pb

    wire = pb.KeyRequest(organization=request.organization, doc_id=request.doc_id, epoch=request.epoch)
    return wire.SerializeToString()


def decode_key_request(data: bytes) -> KeyRequest:
    """Read a request. Raises: RemoteProtocolError."""
    from rage_net.pb import rage_pb2 as pb

    wire = pb.KeyRequest()
    _parse(wire, data, KEY_MESSAGE_BYTES_MAX)
    organization = _check_word(wire.organization, WORD_BYTES_MAX)
    if not organization or not DOC_ID.fullmatch(wire.doc_id) or len(wire.epoch) != EPOCH_BYTES:
        raise RemoteProtocolError("asks for the key of what is no document's epoch")
    return KeyRequest(organization, wire.doc_id, wire.epoch)


def encode_key_response(response: KeyResponse) -> bytes:
    """The response as protobuf, without its length."""
    from rage_net.pb import rage_pb2 as pb

    return pb.KeyResponse(status=response.status, key=response.key).SerializeToString()


def decode_key_response(data: bytes) -> KeyResponse:
    """Read a response. Raises: RemoteProtocolError."""
    from rage_net.pb import rage_pb2 as pb

    wire = pb.KeyResponse()
    _parse(wire, data, KEY_MESSAGE_BYTES_MAX)
    if len(wire.key) != (KEY_BYTES if wire.status == OK else 0):
        raise RemoteProtocolError("answers with what is no key")
    return KeyResponse(wire.status, wire.key)


# --- gossip -----------------------------------------------------------------------------------------------------------

GOSSIP_BYTES_MAX = 4 << 10
WORD_BYTES_MAX = 64
"""Of an organisation, a region, a zone, a version."""
CAPABILITIES_MAX = 16
CAPABILITY_BYTES_MAX = 32
ADDRESSES_MAX = 8


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What a node says of itself; claims, all of it. `instance` is drawn at each start."""

    organization: str = ""
    region: str = ""
    zone: str = ""
    version: str = ""
    free_bytes: int = 0
    instance: int = 0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The node lives."""

    node_info: NodeInfo


@dataclass(frozen=True, slots=True)
class PeerAnnouncement:
    """The node is here, can do this, and listens there (addresses as bytes of multiaddrs, unread)."""

    node_info: NodeInfo
    capabilities: tuple[str, ...] = ()
    addresses: tuple[bytes, ...] = ()


def encode_gossip(message: Heartbeat | PeerAnnouncement) -> bytes:
    """The message as protobuf: the data of a gossipsub message."""
    from rage_net.pb import rage_pb2 as pb

    info = message.node_info
    wire = pb.NodeInfo(
        organization=info.organization,
        region=info.region,
        zone=info.zone,
        version=info.version,
        free_bytes=info.free_bytes,
        instance=info.instance,
    )
    if isinstance(message, Heartbeat):
        return pb.GossipMessage(heartbeat=pb.Heartbeat(node_info=wire)).SerializeToString()
    announcement = pb.PeerAnnouncement(
        node_info=wire, capabilities=message.capabilities, addresses=message.addresses[:ADDRESSES_MAX]
    )
    return pb.GossipMessage(announcement=announcement).SerializeToString()


def decode_gossip(data: bytes) -> Heartbeat | PeerAnnouncement | None:
    """Read a message; None for a kind that this version does not know. Raises: RemoteProtocolError."""
    from rage_net.pb import rage_pb2 as pb

    wire = pb.GossipMessage()
    _parse(wire, data, GOSSIP_BYTES_MAX)
    kind = wire.WhichOneof("body")
    if kind == "heartbeat":
        return Heartbeat(_decode_info(wire.heartbeat.node_info))
    if kind != "announcement":
        return None
    body = wire.announcement
    if len(body.capabilities) > CAPABILITIES_MAX or len(body.addresses) > ADDRESSES_MAX:
        raise RemoteProtocolError("an announcement with too many capabilities or addresses")
    capabilities = tuple(_check_word(text, CAPABILITY_BYTES_MAX) for text in body.capabilities)
    return PeerAnnouncement(_decode_info(body.node_info), capabilities, tuple(body.addresses))


def _decode_info(wire: pb.NodeInfo) -> NodeInfo:
    return NodeInfo(
        organization=_check_word(wire.organization, WORD_BYTES_MAX),
        region=_check_word(wire.region, WORD_BYTES_MAX),
        zone=_check_word(wire.zone, WORD_BYTES_MAX),
        version=_check_word(wire.version, WORD_BYTES_MAX),
        free_bytes=wire.free_bytes,
        instance=wire.instance,
    )


def _check_word(text: str, limit: int) -> str:
    """`text`, if it may reach logs and tables."""
    if len(text.encode()) > limit or not text.isprintable():
        raise RemoteProtocolError(f"a word of more than {limit} bytes, or with control characters")
    return text


# --- trust ------------------------------------------------------------------------------------------------------------

TRUST_PROTOCOL = "/rage/trust/1.0.0"
AUDIT_PROTOCOL = "/rage/audit/1.0.0"
QUERY_PROTOCOL = "/rage/query/1.0.0"
SYNC_PROTOCOL = "/rage/sync/1.0.0"

TRUST_BYTES_MAX = 64 << 10
"""Of a request, and of an answer."""
CERTIFICATES_MAX = 8
CERTIFICATE_BYTES_MAX = 8 << 10
"""Of one certificate or CSR, DER."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The sender's certificate, DER, and what leads from it to a CA; nothing where there is none."""

    certificates: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Renew:
    """Certify me anew: a CSR, DER, signed by the identity key."""

    csr: bytes


@dataclass(frozen=True, slots=True)
class TrustResponse:
    """How the peer judges, with its own certificates, or the new ones to `Renew`. `reason` is a stable word."""

    status: int
    certificates: tuple[bytes, ...] = ()
    reason: str = ""
    message: str = ""


def encode_trust_request(request: Hello | Renew) -> bytes:
    """The request as protobuf, without its length."""
    from rage_net.pb import rage_pb2 as pb

    if isinstance(request, Renew):
        return pb.TrustRequest(renew=pb.Renew(csr=request.csr)).SerializeToString()
    return pb.TrustRequest(hello=pb.Hello(certificates=request.certificates)).SerializeToString()


def decode_trust_request(data: bytes) -> Hello | Renew:
    """Read a request; certificates are counted and measured, not parsed. Raises: RemoteProtocolError."""
    from rage_net.pb import rage_pb2 as pb

    message = pb.TrustRequest()
    _parse(message, data, TRUST_BYTES_MAX)
    kind = message.WhichOneof("ask")
    if kind == "hello":
        return Hello(_check_certificates(message.hello.certificates))
    if kind == "renew":
        (csr,) = _check_certificates([message.renew.csr])
        return Renew(csr)
    raise RemoteProtocolError("a trust request that asks for nothing")


def encode_trust_response(response: TrustResponse) -> bytes:
    """The response as protobuf, without its length."""
    from rage_net.pb import rage_pb2 as pb

    return pb.TrustResponse(
        status=response.status,
        certificates=response.certificates,
        reason=response.reason[:WORD_BYTES_MAX],
        message=response.message[:200],
    ).SerializeToString()


def decode_trust_response(data: bytes) -> TrustResponse:
    """Read a response. Raises: RemoteProtocolError."""
    from rage_net.pb import rage_pb2 as pb

    message = pb.TrustResponse()
    _parse(message, data, TRUST_BYTES_MAX)
    return TrustResponse(
        message.status,
        _check_certificates(message.certificates),
        _check_word(message.reason, WORD_BYTES_MAX),
        "".join(char if char.isprintable() else "\ufffd" for char in message.message[:200]),
    )


def _check_certificates(raws: Sequence[bytes]) -> tuple[bytes, ...]:
    if len(raws) > CERTIFICATES_MAX:
        raise RemoteProtocolError(f"sends {len(raws)} certificates; {CERTIFICATES_MAX} is the most")
    if any(len(raw) > CERTIFICATE_BYTES_MAX for raw in raws):
        raise RemoteProtocolError(f"sends a certificate of more than {CERTIFICATE_BYTES_MAX} bytes")
    return tuple(raws)
