"""Hash chains and what signs them: an author's payloads in order, vouched for by one signature at their head.

    payload_hash   BLAKE3(payload)
    hash[0]        BLAKE3("rage:chain:1" NUL author incarnation organization)
    hash[n]        BLAKE3(hash[n-1] n payload_hash)                  n begins at 1; numbers are u64, big endian
    signature      Ed25519 over "rage:head:1" NUL author incarnation n hash[n]

The author is an Ed25519 peer id, whose key is the id itself, and the organisation is in the first hash: an envelope
can be given to nobody else, and moved to no other log. Not here: what payloads say (facts), and who counts (rights).

Source: contracts/rage.proto, "The log"; design D6.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from blake3 import blake3

from rage_net.libp2p.peer_id import PeerId, PeerIdError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    from rage_net.pb import rage_pb2 as pb

HASH_BYTES = 32
SIGNATURE_BYTES = 64
PAYLOAD_BYTES_MAX = 64 << 10
"""Of one payload: a certificate chain of 8 times 8 KiB just does not fit; real ones have 1 KiB."""
SEGMENT_ENTRIES_MAX = 4096
"""In one segment; senders end one at every 1024."""
SEGMENT_BYTES_MAX = 4 << 20
"""Of the payloads of one segment: a SyncResponse has 5 MiB."""
HEADS_MAX = 8192
"""In one list of heads: 80 bytes each, so that a SyncRequest of 1 MiB holds them."""
SEQUENCE_MAX = (1 << 48) - 1
"""No chain gets so long; it keeps sums of sequences far from SQLite's 63 bits."""
U64_MAX = (1 << 64) - 1

_CHAIN = b"rage:chain:1\0"
_HEAD = b"rage:head:1\0"
_FACT = b"rage:fact:1\0"
_CLIENT = b"rage:client:1\0"
_ED25519 = bytes((0x00, 36, 8, 1, 18, 32))
"""How an Ed25519 peer id begins: an inlined key of that type."""


class SegmentError(ValueError):
    """A segment that is not taken. `reason` is a stable id: malformed, bad-signature, gap, too-large."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True, order=True)
class ChainId:
    """One chain of one author. The incarnation, 64 random bits, is drawn again when the author's own log was lost."""

    author: PeerId
    incarnation: int

    def __str__(self) -> str:
        return f"{self.author}/{self.incarnation:016x}"


@dataclass(frozen=True, slots=True)
class Head:
    """How far a chain goes: the sequence of its last entry, 0 for none, and the hash there."""

    chain: ChainId
    sequence: int
    hash: bytes


class Entry(NamedTuple):
    """One envelope: its payload; or, when that is not for whoever asks or was shed, the payload's hash alone."""

    payload: bytes | None
    payload_hash: bytes = b""


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of one chain from sequence `first` on; the signature is over the last entry."""

    chain: ChainId
    first: int
    entries: tuple[Entry, ...]
    signature: bytes

    @property
    def last(self) -> int:
        """The sequence of the last entry."""
        return self.first + len(self.entries) - 1


@dataclass(frozen=True, slots=True)
class Verified:
    """What a good segment proves: the hashes of its payloads in order, and the head after it."""

    payload_hashes: tuple[bytes, ...]
    head: Head


def payload_hash(payload: bytes) -> bytes:
    """What stands for a payload in its chain."""
    return blake3(payload).digest()


def fact_id(author: PeerId, payload: bytes) -> bytes:
    """16 bytes that name a fact: the same for the same payload in another chain of its author."""
    return blake3(_FACT + author.multihash + payload).digest(16)


def fact_prefix(author: PeerId) -> bytes:
    """What is hashed before the payload, for whoever names many facts of one author."""
    return _FACT + author.multihash


def client_id(chain: ChainId) -> int:
    """The pycrdt client id of what is edited in this chain: 31 bits."""
    digest = blake3(_CLIENT + chain.author.multihash + chain.incarnation.to_bytes(8, "big")).digest(4)
    return int.from_bytes(digest, "big") & 0x7FFFFFFF


@functools.lru_cache(maxsize=1024)
def chain_start(chain: ChainId, organization: str) -> bytes:
    """hash[0]: binds author, incarnation and organisation into all that follows."""
    return blake3(
        _CHAIN + chain.author.multihash + chain.incarnation.to_bytes(8, "big") + organization.encode()
    ).digest()


def chain_hash(previous: bytes, first: int, payload_hashes: Iterable[bytes]) -> bytes:
    """The hash after payloads with these hashes, the first of which has sequence `first`."""
    for sequence, digest in enumerate(payload_hashes, first):
        previous = blake3(previous + sequence.to_bytes(8, "big") + digest).digest()
    return previous


def signed_bytes(head: Head) -> bytes:
    """What a signature of this head is over."""
    chain = head.chain
    return b"".join(
        (
            _HEAD,
            chain.author.multihash,
            chain.incarnation.to_bytes(8, "big"),
            head.sequence.to_bytes(8, "big"),
            head.hash,
        )
    )


def sign(key: Ed25519PrivateKey, head: Head) -> bytes:
    """The author's signature of its head."""
    return key.sign(signed_bytes(head))


def is_author(peer: PeerId) -> bool:
    """Whether a peer may have chains: its id is an Ed25519 key."""
    return peer.multihash.startswith(_ED25519)


@functools.lru_cache(maxsize=1024)
def public_key(author: PeerId) -> Ed25519PublicKey:
    """The key in an Ed25519 peer id. Raises: SegmentError for other ids."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if not is_author(author):
        raise SegmentError("malformed", f"{author} is no Ed25519 peer id")
    return Ed25519PublicKey.from_public_bytes(author.multihash[len(_ED25519) :])


def verify_signature(head: Head, signature: bytes) -> None:
    """Return when the author signed this head. Raises: SegmentError `bad-signature`."""
    from cryptography.exceptions import InvalidSignature

    try:
        public_key(head.chain.author).verify(signature, signed_bytes(head))
    except (InvalidSignature, ValueError) as error:
        if isinstance(error, SegmentError):
            raise
        raise SegmentError("bad-signature", f"entry {head.sequence} of {head.chain} was not signed by it") from None


def verify_segment(segment: Segment, organization: str, previous_hash: bytes | None = None) -> Verified:
    """Check sizes, hash the run and check the one signature at its end.

    Args: previous_hash: the hash of the entry before `segment.first`; needed unless the segment begins the chain.
    Raises: SegmentError.
    """
    check_bounds(segment)
    if segment.first == 1:
        previous_hash = chain_start(segment.chain, organization)
    elif previous_hash is None:
        raise SegmentError("gap", f"entry {segment.first} of {segment.chain} follows nothing")
    # One tight loop: three hashes an entry are most of what a hundred thousand facts cost.
    hashes, sequence, digest = [], segment.first, previous_hash
    for payload, given in segment.entries:
        of_payload = given if payload is None else blake3(payload).digest()
        hashes.append(of_payload)
        digest = blake3(digest + sequence.to_bytes(8, "big") + of_payload).digest()
        sequence += 1
    head = Head(segment.chain, segment.last, digest)
    verify_signature(head, segment.signature)
    return Verified(tuple(hashes), head)


def check_bounds(segment: Segment) -> None:
    """Return when every number and length in the segment is within its limit. Raises: SegmentError."""
    count = len(segment.entries)
    if not 1 <= count <= SEGMENT_ENTRIES_MAX:
        raise SegmentError("too-large" if count else "malformed", f"a segment of {count} entries")
    if not 0 <= segment.chain.incarnation <= U64_MAX or segment.first < 1 or segment.last > SEQUENCE_MAX:
        raise SegmentError("malformed", "a segment's numbers are out of range")
    if len(segment.signature) != SIGNATURE_BYTES:
        raise SegmentError("malformed", "a signature has 64 bytes")
    total = 0
    for payload, given in segment.entries:
        if payload is None:
            if len(given) != HASH_BYTES:
                raise SegmentError("malformed", "the hash of a payload has 32 bytes")
            total += HASH_BYTES
        else:
            if len(payload) > PAYLOAD_BYTES_MAX:
                raise SegmentError("too-large", f"a payload of {len(payload)} bytes; {PAYLOAD_BYTES_MAX} is the most")
            total += len(payload)
    if total > SEGMENT_BYTES_MAX:
        raise SegmentError("too-large", f"a segment of {total} bytes; {SEGMENT_BYTES_MAX} is the most")


def extend(
    key: Ed25519PrivateKey, organization: str, after: Head | None, chain: ChainId, payloads: Sequence[bytes]
) -> Segment:
    """What an author appends: payloads behind `after` (None for a chain that begins), signed once."""
    first = after.sequence + 1 if after else 1
    previous = after.hash if after else chain_start(chain, organization)
    hashes = [payload_hash(payload) for payload in payloads]
    head = Head(chain, first + len(hashes) - 1, chain_hash(previous, first, hashes))
    return Segment(chain, first, tuple(Entry(payload) for payload in payloads), sign(key, head))


# --- the wire ---------------------------------------------------------------------------------------------------------


def segment_to_wire(segment: Segment) -> pb.Segment:
    """The segment as a message, to stand in a SyncResponse."""
    from rage_net.pb import rage_pb2 as pb

    make = pb.Entry
    return pb.Segment(
        author=segment.chain.author.multihash,
        incarnation=segment.chain.incarnation,
        first=segment.first,
        entries=[
            make(payload_hash=given) if payload is None else make(payload=payload) for payload, given in segment.entries
        ],
        signature=segment.signature,
    )


def segment_from_wire(wire: pb.Segment) -> Segment:
    """Read a message's segment, within limits. Raises: SegmentError."""
    if len(wire.entries) > SEGMENT_ENTRIES_MAX:
        raise SegmentError("too-large", f"a segment of {len(wire.entries)} entries; {SEGMENT_ENTRIES_MAX} is the most")
    chain = chain_from_wire(wire.author, wire.incarnation)
    entries = []
    for one in wire.entries:
        kind = one.WhichOneof("content")
        if kind == "payload":
            entries.append(Entry(one.payload))
        elif kind == "payload_hash":
            entries.append(Entry(None, one.payload_hash))
        else:
            raise SegmentError("malformed", "an entry without content")
    segment = Segment(chain, wire.first, tuple(entries), wire.signature)
    check_bounds(segment)
    return segment


def encode_segment(segment: Segment) -> bytes:
    """The segment as bytes: an exported log is a row of these."""
    return segment_to_wire(segment).SerializeToString()


def decode_segment(data: bytes) -> Segment:
    """Read `encode_segment`'s bytes, from anyone. Raises: SegmentError."""
    from google.protobuf.message import DecodeError

    from rage_net.pb import rage_pb2 as pb

    if len(data) > SEGMENT_BYTES_MAX + SEGMENT_ENTRIES_MAX * 16 + 256:
        raise SegmentError("too-large", f"a segment of {len(data)} bytes")
    wire = pb.Segment()
    try:
        wire.ParseFromString(data)
    except DecodeError:
        raise SegmentError("malformed", "the bytes are no segment") from None
    return segment_from_wire(wire)


def head_to_wire(head: Head) -> pb.Head:
    """The head as a message."""
    from rage_net.pb import rage_pb2 as pb

    chain = head.chain
    return pb.Head(author=chain.author.multihash, incarnation=chain.incarnation, sequence=head.sequence, hash=head.hash)


def head_from_wire(wire: pb.Head) -> Head:
    """Read a message's head. Raises: SegmentError."""
    if wire.sequence > SEQUENCE_MAX or len(wire.hash) != HASH_BYTES:
        raise SegmentError("malformed", "a head whose sequence or hash is out of range")
    return Head(chain_from_wire(wire.author, wire.incarnation), wire.sequence, wire.hash)


def heads_from_wire(wire: Sequence[pb.Head]) -> tuple[Head, ...]:
    """Read a list of heads, at most HEADS_MAX, one for each chain. Raises: SegmentError."""
    if len(wire) > HEADS_MAX:
        raise SegmentError("too-large", f"{len(wire)} heads; {HEADS_MAX} is the most")
    heads = tuple(head_from_wire(one) for one in wire)
    if len({head.chain for head in heads}) != len(heads):
        raise SegmentError("malformed", "two heads of one chain")
    return heads


def chain_from_wire(author: bytes, incarnation: int) -> ChainId:
    """Read who wrote. Raises: SegmentError."""
    try:
        peer = _peer(author)
    except PeerIdError as error:
        raise SegmentError("malformed", str(error)) from None
    if not is_author(peer):
        raise SegmentError("malformed", "an author is no Ed25519 peer id")
    return ChainId(peer, incarnation)


@functools.lru_cache(maxsize=1024)
def _peer(raw: bytes) -> PeerId:
    return PeerId(raw)
