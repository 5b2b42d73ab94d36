"""Proof of possession: challenges, digests, statements and verdicts, as values and as bytes.

    key    = BLAKE3 derive_key("rage audit v1", nonce auditor holder)
    digest = BLAKE3 keyed hash of the plain bytes [offset, offset + length)

The holder signs the exact bytes of its `Proofs`, a relay those of its `Verdicts`, neither of which can be read as the
other. To `open_proofs` and `open_verdicts` a statement is nothing unless it answers exactly what was asked, of whom, by
whom: a proof of another holder, of another nonce, or for another range is none.

Pure: randomness and time come in. Source: contracts/rage.proto, "Proof of possession"; design D5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from blake3 import blake3

from rage_net.cid import BLOCK_BYTES_MAX, Cid, CidError
from rage_net.errors import RemoteProtocolError, from_wire
from rage_net.libp2p.peer_id import PeerId, PeerIdError, verify

if TYPE_CHECKING:
    from random import Random

    from google.protobuf.message import Message


PROTOCOL = "/rage/audit/1.0.0"
REQUEST_BYTES_MAX = 64 << 10
RESPONSE_BYTES_MAX = 64 << 10
CHALLENGES_MAX = 256
"""In one request: 256 proofs take 27 KiB."""
NONCE_BYTES = 32
DIGEST_BYTES = 32
SIGNATURE_BYTES = 64
WORD_BYTES_MAX = 64
CONTEXT = "rage audit v1"
PURPOSE = b"rage:audit:1\0"

OK, BAD_REQUEST, DENIED, NOT_FOUND, BUSY, FULL = 200, 400, 403, 404, 503, 507

VerdictWord = Literal["unknown", "proved", "absent", "wrong", "unreachable"]
VERDICTS: tuple[VerdictWord, ...] = ("unknown", "proved", "absent", "wrong", "unreachable")
"""By their numbers on the wire."""


Outcome = Literal["proved", "claims", "absent", "lied", "late", "unreachable", "unknown"]
"""What asking a holder for a chunk came to. `claims`: it says so. `lied`: it signed a wrong digest."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a holder came to, for one chunk. `is_kept`: it means to go on holding it."""

    outcome: Outcome
    is_kept: bool = False
    evidence: tuple[bytes, bytes] | None = None
    """Statement and signature, where it signed a wrong digest."""


UNKNOWN = Answer("unknown")


@dataclass(frozen=True, slots=True)
class Challenge:
    """Prove that you have these plain bytes of a chunk."""

    cid: Cid
    offset: int
    length: int
    """0: to the end."""


@dataclass(frozen=True, slots=True)
class Challenges:
    """At most CHALLENGES_MAX under one nonce."""

    nonce: bytes
    items: tuple[Challenge, ...]


@dataclass(frozen=True, slots=True)
class Relay:
    """Challenge `holder` for me: I lack the bytes."""

    holder: PeerId
    nonce: bytes
    cids: tuple[Cid, ...]


@dataclass(frozen=True, slots=True)
class Hold:
    """Hold these, though others are placed before you."""

    organization: str
    cids: tuple[Cid, ...]


@dataclass(frozen=True, slots=True)
class AuditResponse:
    """The answer to all three; `statement` is Proofs or Verdicts, exactly as signed."""

    status: int
    statement: bytes = b""
    signature: bytes = b""
    message: str = ""
    taken: int = 0


@dataclass(frozen=True, slots=True)
class Proof:
    """The answer to one challenge. `digest` empty: not held, or not for this auditor."""

    cid: Cid
    offset: int
    length: int
    digest: bytes
    is_kept: bool
    """The holder will not drop it by itself."""


@dataclass(frozen=True, slots=True)
class Proofs:
    """What a holder signs."""

    nonce: bytes
    auditor: PeerId
    holder: PeerId
    at: int
    items: tuple[Proof, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a relay found of one chunk."""

    cid: Cid
    outcome: VerdictWord
    is_kept: bool = False


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What a relay signs."""

    nonce: bytes
    auditor: PeerId
    relay: PeerId
    holder: PeerId
    at: int
    items: tuple[Verdict, ...]


# --- digests ---


def key_of(nonce: bytes, auditor: PeerId, holder: PeerId) -> bytes:
    """The key of one round of challenges between two nodes."""
    material = nonce + auditor.multihash + holder.multihash
    return blake3(material, derive_key_context=CONTEXT).digest()


def digest(key: bytes, data: bytes, offset: int, length: int) -> bytes:
    """What proves possession of the plain bytes [offset, offset + length) of `data`; length 0 means to the end.

    A range beyond the end is cut there: both sides know the chunk's size.
    """
    end = offset + length if length else len(data)
    return blake3(memoryview(data)[offset:end], key=key).digest()


def draw_range(size: int, length: int, random: Random) -> tuple[int, int]:
    """Where a challenge of `length` bytes falls in a chunk of `size`: anywhere, so that no part can be left out."""
    if size <= length:
        return 0, 0
    return random.randrange(size - length + 1), length


# --- requests ---


def encode_request(request: Challenges | Relay | Hold) -> bytes:
    """The request as protobuf, without its length."""
    from rage_net.pb import rage_pb2 as pb

    message = pb.AuditRequest()
    match request:
        case Challenges():
            message.challenges.nonce = request.nonce
            for item in request.items:
                message.challenges.items.add(chunk_id=bytes(item.cid), offset=item.offset, length=item.length)
        case Relay():
            message.relay.holder = request.holder.multihash
            message.relay.nonce = request.nonce
            message.relay.chunk_ids.extend(map(bytes, request.cids))
        case Hold():
            message.hold.organization = request.organization
            message.hold.chunk_ids.extend(map(bytes, request.cids))
    return message.SerializeToString()


def decode_request(data: bytes) -> Challenges | Relay | Hold:
    """Read a request. Raises RemoteProtocolError."""
    from rage_net.pb import rage_pb2 as pb

    message = pb.AuditRequest()
    _parse(message, data, REQUEST_BYTES_MAX)
    match message.WhichOneof("ask"):
        case "challenges":
            _check_count(message.challenges.items)
            items = tuple(
                Challenge(_cid(item.chunk_id), *_range(item.offset, item.length)) for item in message.challenges.items
            )
            return Challenges(_nonce(message.challenges.nonce), items)
        case "relay":
            _check_count(message.relay.chunk_ids)
            cids = tuple(map(_cid, message.relay.chunk_ids))
            return Relay(_peer(message.relay.holder), _nonce(message.relay.nonce), cids)
        case "hold":
            _check_count(message.hold.chunk_ids)
            if not 1 <= len(message.hold.organization.encode()) <= WORD_BYTES_MAX:
                raise RemoteProtocolError(f"an organisation's name has 1 to {WORD_BYTES_MAX} bytes")
            return Hold(message.hold.organization, tuple(map(_cid, message.hold.chunk_ids)))
    raise RemoteProtocolError("an audit request that asks for nothing")


# --- responses ---


def encode_response(response: AuditResponse) -> bytes:
    """The response as protobuf, without its length."""
    from rage_net.pb import rage_pb2 as pb

    return pb.AuditResponse(
        status=response.status,
        statement=response.statement,
        signature=response.signature,
        message=response.message[:200],
        taken=response.taken,
    ).SerializeToString()


def decode_response(data: bytes) -> AuditResponse:
    """Read a response; its statement is checked by `open_proofs` or `open_verdicts`. Raises RemoteProtocolError."""
    from rage_net.pb import rage_pb2 as pb

    message = pb.AuditResponse()
    _parse(message, data, RESPONSE_BYTES_MAX)
    if message.taken > CHALLENGES_MAX:
        raise RemoteProtocolError(f"takes {message.taken} chunks, of at most {CHALLENGES_MAX}")
    return AuditResponse(message.status, message.statement, message.signature, message.message[:200], message.taken)


def raise_for_status(response: AuditResponse, name: str) -> None:
    """Pass for a yes, and for a node without room, which says how many it takes. Raises RageError otherwise."""
    if response.status not in (OK, FULL):
        raise from_wire(response.status, response.message or f"{name} answered {response.status}")


def seal_proofs(proofs: Proofs, sign: Callable[[bytes], bytes]) -> AuditResponse:
    """A holder's answer, signed."""
    from rage_net.pb import rage_pb2 as pb

    message = pb.Proofs(
        nonce=proofs.nonce, auditor=proofs.auditor.multihash, holder=proofs.holder.multihash, at=proofs.at
    )
    for item in proofs.items:
        message.items.add(
            chunk_id=bytes(item.cid), offset=item.offset, length=item.length, digest=item.digest, kept=item.is_kept
        )
    statement = message.SerializeToString()
    return AuditResponse(OK, statement, sign(PURPOSE + statement))


def seal_verdicts(verdicts: Verdicts, sign: Callable[[bytes], bytes]) -> AuditResponse:
    """A relay's answer, signed."""
    from rage_net.pb import rage_pb2 as pb

    message = pb.Verdicts(
        nonce=verdicts.nonce,
        auditor=verdicts.auditor.multihash,
        relay=verdicts.relay.multihash,
        holder=verdicts.holder.multihash,
        at=verdicts.at,
    )
    for item in verdicts.items:
        message.items.add(
            chunk_id=bytes(item.cid),
            outcome=VERDICTS.index(item.outcome),
            kept=item.is_kept,
        )
    statement = message.SerializeToString()
    return AuditResponse(OK, statement, sign(PURPOSE + statement))


def open_proofs(response: AuditResponse, asked: Challenges, *, auditor: PeerId, holder: PeerId) -> Proofs:
    """The proofs in an answer, if it is `holder`'s to exactly what was asked. Digests are not compared here.

    Raises RemoteProtocolError.
    """
    proofs = read_proofs(response.statement, response.signature)
    if (proofs.nonce, proofs.auditor, proofs.holder) != (asked.nonce, auditor, holder):
        raise RemoteProtocolError("proofs for another nonce, auditor or holder")
    answered = [Challenge(item.cid, item.offset, item.length) for item in proofs.items]
    if answered != list(asked.items):
        raise RemoteProtocolError("proofs of something else than was asked")
    return proofs


def read_proofs(statement: bytes, signature: bytes) -> Proofs:
    """A statement that its holder signed, whoever shows it: as evidence. Raises RemoteProtocolError."""
    from rage_net.pb import rage_pb2 as pb

    message = pb.Proofs()
    _parse(message, statement, RESPONSE_BYTES_MAX)
    _check_count(message.items)
    holder = _peer(message.holder)
    _check_signature(holder, statement, signature)
    items = []
    for item in message.items:
        if len(item.digest) not in (0, DIGEST_BYTES):
            raise RemoteProtocolError(f"a digest of {len(item.digest)} bytes")
        items.append(Proof(_cid(item.chunk_id), *_range(item.offset, item.length), item.digest, item.kept))
    return Proofs(_nonce(message.nonce), _peer(message.auditor), holder, message.at, tuple(items))


def open_verdicts(response: AuditResponse, asked: Relay, *, auditor: PeerId, relay: PeerId) -> Verdicts:
    """The verdicts in an answer, if they are `relay`'s on exactly what was asked. Raises RemoteProtocolError."""
    from rage_net.pb import rage_pb2 as pb

    message = pb.Verdicts()
    _parse(message, response.statement, RESPONSE_BYTES_MAX)
    _check_count(message.items)
    _check_signature(relay, response.statement, response.signature)
    verdicts = Verdicts(
        _nonce(message.nonce),
        _peer(message.auditor),
        _peer(message.relay),
        _peer(message.holder),
        message.at,
        tuple(
            Verdict(
                _cid(item.chunk_id),
                VERDICTS[item.outcome] if 0 <= item.outcome < len(VERDICTS) else "unknown",
                item.kept,
            )
            for item in message.items
        ),
    )
    if (verdicts.nonce, verdicts.auditor, verdicts.relay, verdicts.holder) != (
        asked.nonce,
        auditor,
        relay,
        asked.holder,
    ):
        raise RemoteProtocolError("verdicts for another nonce, auditor, relay or holder")
    if [item.cid for item in verdicts.items] != list(asked.cids):
        raise RemoteProtocolError("verdicts on something else than was asked")
    return verdicts


# --- pieces ---


def _parse(message: Message, data: bytes, limit: int) -> None:
    from google.protobuf.message import DecodeError

    if len(data) > limit:
        raise RemoteProtocolError(f"a message of {len(data)} bytes; {limit} is the most")
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise RemoteProtocolError("the bytes are no message of this protocol") from None


def _check_count(items: Sequence[object]) -> None:
    if not 1 <= len(items) <= CHALLENGES_MAX:
        raise RemoteProtocolError(f"{len(items)} chunks at once; 1 to {CHALLENGES_MAX}")


def _check_signature(signer: PeerId, statement: bytes, signature: bytes) -> None:
    key = signer.public_key()
    if key is None or len(signature) != SIGNATURE_BYTES:
        raise RemoteProtocolError(f"a statement that {signer} did not sign")
    verify(key, PURPOSE + statement, signature)


def _nonce(raw: bytes) -> bytes:
    if len(raw) != NONCE_BYTES:
        raise RemoteProtocolError(f"a nonce of {len(raw)} bytes")
    return raw


def _peer(raw: bytes) -> PeerId:
    try:
        return PeerId(raw)
    except PeerIdError as error:
        raise RemoteProtocolError(str(error)) from None


def _cid(raw: bytes) -> Cid:
    try:
        return Cid.from_bytes(raw)
    except CidError as error:
        raise RemoteProtocolError(str(error)) from None


def _range(offset: int, length: int) -> tuple[int, int]:
    if offset + length > BLOCK_BYTES_MAX:
        raise RemoteProtocolError(f"a range of {length} bytes at {offset}, beyond any chunk")
    return offset, length
