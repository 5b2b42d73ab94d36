"""Payloads: a fact's bytes, read strictly and within limits, and written.

What is malformed says nothing (FactError) and stays in its chain; what a later version may have meant is `Unknown`.
Unknown fields inside a known body are ignored, as everywhere. Source: contracts/rage.proto, `Payload`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rage_net.cid import Cid, CidError
from rage_net.libp2p.peer_id import PeerId, PeerIdError
from rage_net.sync.envelope import (
    PAYLOAD_BYTES_MAX,
    ChainId,
    Head,
    SegmentError,
    fact_id,
    head_to_wire,
    heads_from_wire,
)
from rage_net.sync.facts import (
    OVER_MAX,
    Access,
    Acknowledgement,
    Adoption,
    Body,
    Cdn,
    Certificate,
    Closing,
    Document,
    Edit,
    Fact,
    NodeRecord,
    Purge,
    Purged,
    PurgedProvider,
    Revocation,
    Tombstone,
    Trust,
    Unknown,
)
from rage_net.sync.vocabulary import (
    ACTIONS,
    CDN_MODES,
    RESOURCE_BYTES_MAX,
    SCOPES,
    STATES,
    VISIBILITIES,
    WORD_BYTES_MAX,
    FactError,
    check_principal,
    check_resource,
    is_text,
    is_word,
)

if TYPE_CHECKING:
    from rage_net.pb import rage_pb2 as pb

ID_BYTES = 16
LAMPORT_MAX = (1 << 62) - 1
"""Whoever jumps there cannot be overtaken, only replaced by `over`, as any fact; SQLite has 63 bits."""
TIME_MAX = (1 << 53) - 1
SIZE_MAX = (1 << 62) - 1
CERTIFICATES_MAX = 8
CERTIFICATE_BYTES_MAX = 8 << 10
SERIAL_BYTES_MAX = 20
"""RFC 5280."""
REASON_BYTES_MAX = 200
HEADS_NAMED_MAX = 512
"""Chains that a revocation or a closing names."""
CAPABILITIES_MAX = 16
WEIGHT_MAX = 16
UPDATE_BYTES_MAX = 32 << 10
"""Of one edit: a record has a name, some tags and two words."""
ADOPTED_MAX = 1024
"""Payloads in one adoption."""
PURGED_BYTES_MAX = 8 << 10
"""Of what one author says of purges of a document, which stands in the log once."""
PURGES_MAX = 16
EVENTS_MAX = 64
"""Facts that asked for one purge."""
PROVIDERS_MAX = 16
HOSTS_MAX = 16
HOST_BYTES_MAX = 253
PLACE_BYTES_MAX = 16
EPOCH_BYTES = 16
CHECK_BYTES = 32
TAKEN_MAX = 1024
TAKEN_BYTES = 8


@dataclass(frozen=True, slots=True)
class Content:
    """A payload, read."""

    lamport: int
    nonce: int
    resource: str
    over: tuple[bytes, ...]
    body: Body


def encode_payload(content: Content) -> bytes:
    """The payload's bytes. Raises: FactError for what nobody would take."""
    from rage_net.pb import rage_pb2 as pb

    wire = pb.Payload(lamport=content.lamport, nonce=content.nonce, resource=content.resource, over=content.over)
    _fill(wire, content.body)
    payload = wire.SerializeToString()
    if decode_payload(payload) != content:
        raise FactError(f"{content.body!r} does not come through unchanged")
    return payload


def decode_payload(payload: bytes) -> Content:
    """Read a payload. Raises: FactError."""
    return read_message(parse(payload))


def parse(payload: bytes) -> pb.Payload:
    """The payload as a message, whose fields nobody has checked yet. Raises: FactError."""
    from google.protobuf.message import DecodeError

    from rage_net.pb import rage_pb2 as pb

    if len(payload) > PAYLOAD_BYTES_MAX:
        raise FactError(f"a payload of {len(payload)} bytes; {PAYLOAD_BYTES_MAX} is the most")
    try:
        return pb.Payload.FromString(payload)
    except DecodeError:
        raise FactError("the bytes are no payload") from None


def read_message(wire: pb.Payload) -> Content:
    """Check every field. Raises: FactError."""
    over = tuple(wire.over)
    if wire.lamport > LAMPORT_MAX or wire.lamport < 1:
        raise FactError("a Lamport number is out of range")
    if len(over) > OVER_MAX or any(len(one) != ID_BYTES for one in over):
        raise FactError(f"a fact replaces at most {OVER_MAX} others, by ids of {ID_BYTES} bytes")
    resource = wire.resource
    if len(resource) > RESOURCE_BYTES_MAX:
        raise FactError(f"a resource of {len(resource)} characters")
    kind, field = check_resource(resource), wire.WhichOneof("body")
    if field is None:
        return Content(wire.lamport, wire.nonce, resource, over, Unknown(_unknown_number(wire)))
    wanted, read = _READ[field]
    if wanted is not None and kind != wanted:
        raise FactError(f"{field} is about a {wanted}, not {resource}")
    return Content(wire.lamport, wire.nonce, resource, over, read(getattr(wire, field)))


def make_fact(organization: str, chain: ChainId, sequence: int, payload: bytes, author: PeerId | None = None) -> Fact:
    """The fact that a payload is. Args: author: of an adopted one; else the chain's. Raises: FactError."""
    content, by = decode_payload(payload), author or chain.author
    return Fact(
        id=fact_id(by, payload),
        organization=organization,
        author=by,
        chain=chain,
        sequence=sequence,
        lamport=content.lamport,
        nonce=content.nonce,
        resource=content.resource,
        over=content.over,
        body=content.body,
    )


def number_of(wire: pb.Payload) -> int:
    """The field number of a payload's body: which kind of fact it is. Raises: FactError when there is none."""
    return _FIELDS.get(wire.WhichOneof("body")) or _unknown_number(wire)


# --- reading ----------------------------------------------------------------------------------------------------------


def _unknown_number(wire: pb.Payload) -> int:
    from google.protobuf.unknown_fields import UnknownFieldSet

    fields: Any = UnknownFieldSet(wire)
    numbers = [one.field_number for one in fields if one.field_number > _KNOWN_MAX]
    if not numbers:
        raise FactError("a payload without a body")
    return int(min(numbers))


def _read_access(wire: pb.Access) -> Body:
    if wire.visibility:
        if wire.principal or wire.action or wire.allowed or wire.expires_at:
            raise FactError("a visibility stands alone")
        if wire.visibility not in VISIBILITIES:
            return _later_word(wire.visibility)
        return Access(visibility=wire.visibility)
    if wire.action not in ACTIONS:
        return _later_word(wire.action)
    check_principal(wire.principal)
    return Access(wire.principal, wire.action, wire.allowed, _time(wire.expires_at))


def _later_word(word: str) -> Unknown:
    if not is_word(word):
        raise FactError(f"{word[:WORD_BYTES_MAX]!r} is no action or visibility")
    return Unknown(5)


def _read_certificate(wire: pb.CertificateFact) -> Body:
    certificates = tuple(wire.certificates)
    if not 1 <= len(certificates) <= CERTIFICATES_MAX:
        raise FactError(f"{len(certificates)} certificates; 1 to {CERTIFICATES_MAX} are wanted")
    return Certificate(tuple(_der(one) for one in certificates))


def _read_revocation(wire: pb.Revocation) -> Body:
    if len(wire.serial) > SERIAL_BYTES_MAX or (wire.reason and not is_text(wire.reason, REASON_BYTES_MAX)):
        raise FactError("a revocation's serial or reason is out of range")
    peer, accepted = _peer(wire.peer), _heads(wire.accepted)
    if accepted and not wire.is_author:
        raise FactError("only the revocation of an author accepts heads")
    if any(head.chain.author != peer for head in accepted):
        raise FactError("a revocation accepts another author's chains")
    return Revocation(peer, wire.serial, wire.reason, wire.is_author, accepted)


def _read_node(wire: pb.NodeRecord) -> Body:
    if not 1 <= wire.weight <= WEIGHT_MAX or wire.state not in STATES:
        raise FactError("a node's weight or state is out of range")
    for word in (wire.region, wire.zone):
        if word and not is_text(word, WORD_BYTES_MAX):
            raise FactError("a node's region or zone is no text")
    return NodeRecord(wire.region, wire.zone, wire.weight, wire.state, _words(wire.capabilities))


def _read_document(wire: pb.DocumentFact) -> Body:
    try:
        root = Cid.from_bytes(wire.root)
    except CidError as error:
        raise FactError(f"a document's root: {error}") from None
    if wire.size > SIZE_MAX or wire.chunks > SIZE_MAX:
        raise FactError("a document's size is out of range")
    return Document(root, wire.size, wire.chunks, _time(wire.created_at))


def _read_edit(wire: pb.Edit) -> Body:
    if not 1 <= len(wire.update) <= UPDATE_BYTES_MAX:
        raise FactError(f"an edit of {len(wire.update)} bytes; {UPDATE_BYTES_MAX} is the most")
    return Edit(wire.update)


def _read_tombstone(wire: pb.Tombstone) -> Body:
    if not is_word(wire.reason):
        raise FactError("a tombstone's reason is no word")
    return Tombstone(wire.reason)


def _read_acknowledgement(wire: pb.Acknowledgement) -> Body:
    if len(wire.tombstone) != ID_BYTES:
        raise FactError("an acknowledgement names no tombstone")
    return Acknowledgement(wire.tombstone)


def _read_trust(wire: pb.TrustFact) -> Body:
    scopes = _words(wire.scopes)
    known = tuple(scope for scope in scopes if scope in SCOPES)  # what a later version opens stays shut here
    return Trust(_der(wire.ca), known, _time(wire.until), wire.withdrawn)


def _read_adoption(wire: pb.Adoption) -> Body:
    if not 1 <= len(wire.payloads) <= ADOPTED_MAX:
        raise FactError(f"an adoption of {len(wire.payloads)} payloads")
    return Adoption(_peer(wire.author), wire.incarnation, tuple(wire.payloads))


def _read_closing(wire: pb.Closing) -> Body:
    author, chains = _peer(wire.author), _heads(wire.chains)
    if not chains or any(head.chain.author != author for head in chains):
        raise FactError("a closing names chains of its author, and at least one")
    return Closing(author, chains)


def _read_purged(wire: pb.PurgedFact) -> Body:
    if not 1 <= len(wire.purges) <= PURGES_MAX or wire.ByteSize() > PURGED_BYTES_MAX:
        raise FactError(f"{len(wire.purges)} purges in {wire.ByteSize()} bytes")
    return Purged(tuple(map(_read_purge, wire.purges)))


def _read_purge(wire: pb.Purge) -> Purge:
    events = tuple(wire.events)
    if not 1 <= len(events) <= EVENTS_MAX or any(len(one) != ID_BYTES for one in events):
        raise FactError("a purge names no event, or too many, or what is none")
    if not 1 <= len(wire.providers) <= PROVIDERS_MAX:
        raise FactError(f"a purge from {len(wire.providers)} providers")
    return Purge(events, tuple(map(_read_provider, wire.providers)))


def _read_provider(wire: pb.PurgedProvider) -> PurgedProvider:
    hosts = tuple(wire.hosts)
    if not is_text(wire.name, WORD_BYTES_MAX) or not is_word(wire.software) or len(wire.place) > PLACE_BYTES_MAX:
        raise FactError("a provider's name, software or place is out of range")
    if len(hosts) > HOSTS_MAX or hosts != tuple(sorted(set(hosts))) or not all(map(_is_host, hosts)):
        raise FactError("a provider's hosts are out of range, or not in order")
    return PurgedProvider(wire.name, wire.software, hosts, wire.place)


def _is_host(text: str) -> bool:
    return is_text(text, HOST_BYTES_MAX) and text.isascii() and text == text.lower()


def _read_cdn(wire: pb.CdnFact) -> Body:
    if wire.mode and not is_word(wire.mode):
        raise FactError(f"{wire.mode[:WORD_BYTES_MAX]!r} is no way to a CDN")
    mode = wire.mode if wire.mode in CDN_MODES else ""  # what a later version opens stays shut here
    taken = tuple(wire.taken)
    if len(taken) > TAKEN_MAX or any(len(one) != TAKEN_BYTES for one in taken) or taken != tuple(sorted(set(taken))):
        raise FactError("what was taken before an epoch is out of range")
    if not wire.epoch:
        if wire.root or wire.sealed or wire.check or taken:
            raise FactError("something is sealed in no epoch")
        return Cdn(mode)
    if len(wire.epoch) != EPOCH_BYTES or len(wire.check) != CHECK_BYTES:
        raise FactError(f"an epoch of {len(wire.epoch)} bytes, with {len(wire.check)} to check its key by")
    try:
        return Cdn(mode, wire.epoch, Cid.from_bytes(wire.root), Cid.from_bytes(wire.sealed), wire.check, taken)
    except CidError as error:
        raise FactError(f"what is sealed: {error}") from None


_READ: dict[str, tuple[str | None, Callable[[Any], Body]]] = {
    "access": (None, _read_access),
    "certificate": ("peer", _read_certificate),
    "revocation": (None, _read_revocation),
    "node": ("peer", _read_node),
    "document": ("doc", _read_document),
    "edit": ("doc", _read_edit),
    "tombstone": ("doc", _read_tombstone),
    "acknowledgement": ("doc", _read_acknowledgement),
    "trust": ("org", _read_trust),
    "adoption": ("peer", _read_adoption),
    "closing": ("peer", _read_closing),
    "purged": ("doc", _read_purged),
    "cdn": ("doc", _read_cdn),
}
"""By the body's field: which kind of resource it is about, and how it is read."""

_FIELDS: dict[str | None, int] = {name: number for number, name in enumerate(_READ, 5)}
_KNOWN_MAX = max(_FIELDS.values())


def _time(seconds: int) -> int:
    if seconds > TIME_MAX:
        raise FactError("a time is out of range")
    return seconds


def _der(der: bytes) -> bytes:
    if not 1 <= len(der) <= CERTIFICATE_BYTES_MAX:
        raise FactError(f"a certificate of {len(der)} bytes; {CERTIFICATE_BYTES_MAX} is the most")
    return der


def _peer(raw: bytes) -> PeerId:
    try:
        return PeerId.from_bytes(raw)
    except PeerIdError as error:
        raise FactError(str(error)) from None


def _heads(wire: Sequence[pb.Head]) -> tuple[Head, ...]:
    if len(wire) > HEADS_NAMED_MAX:
        raise FactError(f"{len(wire)} heads; {HEADS_NAMED_MAX} is the most")
    try:
        return heads_from_wire(wire)
    except SegmentError as error:
        raise FactError(str(error)) from None


def _words(wire: Sequence[str]) -> tuple[str, ...]:
    words = tuple(wire)
    if len(words) > CAPABILITIES_MAX or not all(is_word(word) for word in words) or len(set(words)) != len(words):
        raise FactError("a list of words is out of range")
    return words


# --- writing ----------------------------------------------------------------------------------------------------------


def _fill(wire: pb.Payload, body: Body) -> None:
    match body:
        case Access():
            wire.access.SetInParent()
            wire.access.principal, wire.access.action, wire.access.allowed = body.principal, body.action, body.allowed
            wire.access.expires_at, wire.access.visibility = body.expires_at, body.visibility
        case Certificate():
            wire.certificate.certificates.extend(body.certificates)
        case Revocation():
            to = wire.revocation
            to.peer, to.serial, to.reason, to.is_author = bytes(body.peer), body.serial, body.reason, body.is_author
            to.accepted.extend(map(head_to_wire, body.accepted))
        case NodeRecord():
            node = wire.node
            node.region, node.zone, node.weight, node.state = body.region, body.zone, body.weight, body.state
            node.capabilities.extend(body.capabilities)
        case Document():
            document = wire.document
            document.root, document.size, document.chunks = bytes(body.root), body.size, body.chunks
            document.created_at = body.created_at
        case Edit():
            wire.edit.update = body.update
        case Tombstone():
            wire.tombstone.reason = body.reason
        case Acknowledgement():
            wire.acknowledgement.tombstone = body.tombstone
        case Trust():
            wire.trust.ca, wire.trust.until, wire.trust.withdrawn = body.ca, body.until, body.withdrawn
            wire.trust.scopes.extend(body.scopes)
        case Adoption():
            wire.adoption.author, wire.adoption.incarnation = bytes(body.author), body.incarnation
            wire.adoption.payloads.extend(body.payloads)
        case Closing():
            wire.closing.author = bytes(body.author)
            wire.closing.chains.extend(map(head_to_wire, body.chains))
        case Purged():
            for one in body.purges:
                purge = wire.purged.purges.add(events=one.events)
                for each in one.providers:
                    purge.providers.add(name=each.name, software=each.software, hosts=each.hosts, place=each.place)
        case Cdn():
            wire.cdn.SetInParent()
            wire.cdn.mode, wire.cdn.epoch, wire.cdn.check = body.mode, body.epoch, body.check
            wire.cdn.root = b"" if body.root is None else bytes(body.root)
            wire.cdn.sealed = b"" if body.sealed is None else bytes(body.sealed)
            wire.cdn.taken.extend(body.taken)
        case Unknown():
            raise FactError("what this version does not know it cannot write")
