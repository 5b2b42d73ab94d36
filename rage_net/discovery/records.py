"""A registration and a listed peer: their fields, their JSON, and what is checked in them whoever sent them.

    registration   what a peer says of itself, signed as the exact bytes of a request's body (`proofs`)
    listed peer    what a server says of a peer, unsigned: Noise proves who is there when it is dialled

The names of the fields are the specification's; it lacks zone, private, members, audience, instance, sequence, ttl_s.

Source: specification, "Discovery Server API".
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from rage_net.errors import IntegrityError
from rage_net.libp2p.multiaddr import Multiaddr, MultiaddrError
from rage_net.libp2p.peer_id import PeerId, PeerIdError
from rage_net.libp2p.scope import Scope, ip_of, scope_of, scope_of_ip

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

BODY_BYTES_MAX = 16 * 1024
"""Of a registration."""
ADDRESSES_MAX = 16
"""In a registration: a host with many interfaces has a dozen."""
ADDRESSES_LISTED_MAX = 8
"""Of one peer, in an answer: more cannot be tried."""
CAPABILITIES_MAX = 16
MEMBERS_MAX = 64
"""Peers that may see a private registration."""
TTL_S_MIN, TTL_S_MAX = 30.0, 86_400.0
HEARTBEATS_IN_TTL = 3
"""A registration outlives so many heartbeats: two may be lost."""
SEQUENCE_MAX = (1 << 53) - 1
"""What JSON's readers keep exactly."""
URL_CHARS_MAX = 300

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_INSTANCE = re.compile(r"[0-9a-f]{16}")
_HOSTS = {"ip4", "ip6", "dns", "dns4", "dns6"}
_KEY_PREFIX = "ed25519:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What a peer says of itself, to one server, once."""

    peer_id: PeerId
    addresses: tuple[Multiaddr, ...]
    """Where it listens, without its peer id, best first."""
    organization_id: str = ""
    """A claim, until a certificate proves it."""
    region: str = ""
    zone: str = ""
    capabilities: tuple[str, ...] = ()
    private: bool = False
    """For members of the organisation only."""
    members: tuple[PeerId, ...] = ()
    """Of a private one: who may see it, when not every member may."""
    audience: str
    """The URL of the server it is for."""
    instance: str
    """16 hex digits, drawn when the process starts: tells two nodes with one key apart."""
    sequence: int
    """Milliseconds since the epoch when it was signed, and more than any before."""
    ttl_s: float
    """How long it holds, in seconds; 0 takes the registration back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedPeer:
    """A peer as a server lists it. `reachable` is None where the server could not try."""

    peer_id: PeerId
    addresses: tuple[Multiaddr, ...]
    organization_id: str = ""
    organization_proven: bool = False
    region: str = ""
    zone: str = ""
    capabilities: tuple[str, ...] = ()
    private: bool = False
    reachable: bool | None = None
    expires_at: float = 0.0


class RecordError(IntegrityError):
    """The record breaks a rule; the message names the field."""

    id = "record-invalid"


@dataclass(frozen=True, slots=True)
class _Wire:
    """A registration as it stands in JSON. Fields of a newer peer are ignored."""

    peer_id: str
    addresses: list[str]
    public_key: str
    audience: str
    instance: str
    sequence: int
    ttl_s: float
    organization_id: str = ""
    region: str = ""
    zone: str = ""
    capabilities: list[str] = field(default_factory=list)
    private: bool = False
    members: list[str] = field(default_factory=list)


def encode_registration(registration: Registration) -> bytes:
    """The body of a request. What is signed is these very bytes. Raises ValueError for a key that is not Ed25519."""
    plain = {
        "peer_id": str(registration.peer_id),
        "addresses": [str(address) for address in registration.addresses],
        "organization_id": registration.organization_id,
        "public_key": key_text(registration.peer_id),
        "region": registration.region,
        "zone": registration.zone,
        "capabilities": list(registration.capabilities),
        "private": registration.private,
        "members": [str(member) for member in registration.members],
        "audience": registration.audience,
        "instance": registration.instance,
        "sequence": registration.sequence,
        "ttl_s": registration.ttl_s,
    }
    return msgspec.json.encode(plain)


def decode_registration(body: bytes) -> Registration:
    """Read and check a body. Raises RecordError."""
    if len(body) > BODY_BYTES_MAX:
        raise RecordError(f"a registration has at most {BODY_BYTES_MAX} bytes, this has {len(body)}")
    try:
        wire = msgspec.json.decode(body, type=_Wire)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError("the body is no registration", why=str(error)) from None
    for key, names in (
        ("organization_id", [wire.organization_id]),
        ("region", [wire.region]),
        ("zone", [wire.zone]),
        ("capabilities", wire.capabilities),
    ):
        for name in names:
            if (name or key == "capabilities") and not is_name(name):
                raise RecordError(f"{key} holds no name", why="letters, digits, `.`, `_`, `-`, at most 64")
    for key, count, limit in (
        ("addresses", len(wire.addresses), ADDRESSES_MAX),
        ("capabilities", len(wire.capabilities), CAPABILITIES_MAX),
        ("members", len(wire.members), MEMBERS_MAX),
    ):
        if count > limit:
            raise RecordError(f"{key} has {count} entries, the limit is {limit}")
    if not 0 < wire.sequence <= SEQUENCE_MAX:
        raise RecordError("sequence is no time in milliseconds")
    if not 0 <= wire.ttl_s <= 10 * TTL_S_MAX:
        raise RecordError("ttl_s is no time to live")
    if not _INSTANCE.fullmatch(wire.instance):
        raise RecordError("instance has 16 hex digits")
    if len(wire.audience) > URL_CHARS_MAX:
        raise RecordError(f"audience has more than {URL_CHARS_MAX} characters")
    peer_id = _peer(wire.peer_id, "peer_id")
    if wire.public_key != key_text(peer_id):
        raise RecordError("public_key is not the key of peer_id", why="an id is its key, written in another way")
    return Registration(
        peer_id=peer_id,
        addresses=tuple(_address(text, peer_id) for text in dict.fromkeys(wire.addresses)),
        organization_id=wire.organization_id,
        region=wire.region,
        zone=wire.zone,
        capabilities=tuple(dict.fromkeys(wire.capabilities)),
        private=wire.private,
        members=tuple(_peer(text, "members") for text in dict.fromkeys(wire.members)),
        audience=wire.audience,
        instance=wire.instance,
        sequence=wire.sequence,
        ttl_s=wire.ttl_s,
    )


def encode_listed(peer: ListedPeer) -> dict[str, Any]:
    """A listed peer as JSON values."""
    return {
        "peer_id": str(peer.peer_id),
        "addresses": [str(address) for address in peer.addresses],
        "organization_id": peer.organization_id,
        "organization_proven": peer.organization_proven,
        "public_key": key_text(peer.peer_id),
        "region": peer.region,
        "zone": peer.zone,
        "capabilities": list(peer.capabilities),
        "private": peer.private,
        "reachable": peer.reachable,
        "expires_at": peer.expires_at,
    }


def decode_listed(plain: Mapping[str, Any]) -> ListedPeer | None:
    """Read what a server says of a peer: None without a peer id or an address; else what of it can be used.

    A server is not trusted to check for us: fields of a wrong type or form are left empty, addresses that cannot be
    dialled, or that name another peer, are left out.
    """
    try:
        peer_id = PeerId.parse(str(plain.get("peer_id")))
    except PeerIdError:
        return None
    addresses = []
    for text in _texts(plain.get("addresses"))[:ADDRESSES_MAX]:
        try:
            addresses.append(_address(text, peer_id))
        except RecordError:
            continue
    kept = tuple(address for address in dict.fromkeys(addresses) if why_unusable(address) is None)
    if not kept:
        return None
    reachable, expires_at = plain.get("reachable"), plain.get("expires_at")
    return ListedPeer(
        peer_id=peer_id,
        addresses=kept[:ADDRESSES_LISTED_MAX],
        organization_id=_name(plain.get("organization_id")),
        organization_proven=plain.get("organization_proven") is True,
        region=_name(plain.get("region")),
        zone=_name(plain.get("zone")),
        capabilities=tuple(filter(is_name, _texts(plain.get("capabilities"))[:CAPABILITIES_MAX])),
        private=plain.get("private") is True,
        reachable=reachable if isinstance(reachable, bool) else None,
        expires_at=float(expires_at) if isinstance(expires_at, (int, float)) and abs(expires_at) < 1e12 else 0.0,
    )


def why_unusable(address: Multiaddr) -> str | None:
    """Why nobody can dial this address, whoever is there; None when somebody may be able to."""
    host, *rest = address.transport_parts()
    if host.protocol not in _HOSTS:
        return "it begins with no IP address or host name"
    if not rest or rest[0].protocol not in ("tcp", "udp") or rest[0].value == "0":
        return "it has no port"
    if any(part.protocol in ("p2p", "p2p-circuit", "memory", "unix") for part in rest):
        return "it leads through another peer"
    ip = ip_of(address)
    if ip is not None and scope_of_ip(ip) == Scope.NOWHERE:
        return "its IP address is not one that a host has"
    return None


def visible_from(addresses: Iterable[Multiaddr], scope: Scope) -> tuple[Multiaddr, ...]:
    """Those that reach as far as `scope`, the most that whoever is there can use."""
    return tuple(address for address in addresses if scope_of(address) >= scope)


def clamp_ttl_s(ttl_s: float) -> float:
    """The time to live that a server grants."""
    return min(max(ttl_s, TTL_S_MIN), TTL_S_MAX)


def is_name(text: str) -> bool:
    """Whether the text is a name: of an organisation, a region, a zone, a capability."""
    return _NAME.fullmatch(text) is not None


def key_text(peer_id: PeerId) -> str:
    """The public key that an id inlines: `ed25519:` and base64. Raises RecordError for other kinds of keys."""
    return _KEY_PREFIX + base64.b64encode(ed25519_key_bytes(peer_id)).decode("ascii")


def ed25519_key_bytes(peer_id: PeerId) -> bytes:
    """The 32 bytes of the key behind an id. Raises RecordError when it is no Ed25519 key."""
    raw = peer_id.multihash
    if len(raw) != 38 or raw[:6] != b"\x00\x24\x08\x01\x12\x20":
        raise RecordError("peer_id is not that of an Ed25519 key", why="rage's begin 12D3KooW")
    return raw[6:]


def public_key(peer_id: PeerId) -> Ed25519PublicKey:
    """The key behind an id. Raises RecordError."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return Ed25519PublicKey.from_public_bytes(ed25519_key_bytes(peer_id))


def decode_base64(text: str) -> bytes | None:
    """Standard base64, strictly; None when the text is none."""
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        return None
    return raw if base64.b64encode(raw).decode("ascii") == text else None  # the last digit has bits that are not used


def _peer(text: str, key: str) -> PeerId:
    try:
        return PeerId.parse(text)
    except PeerIdError as error:
        raise RecordError(f"{key} holds no peer id", why=str(error)) from None


def _address(text: str, peer_id: PeerId) -> Multiaddr:
    """An address without its peer id, which must be the peer's own where there is one. Raises RecordError."""
    try:
        address = Multiaddr.parse(text)
        named = address.peer_id
        bare = address.without_peer_id()
    except MultiaddrError as error:
        raise RecordError("addresses holds what is no multiaddr", why=str(error)) from None
    if named is not None and named != peer_id:
        raise RecordError("an address names another peer", why=f"{named} is not {peer_id}", id="foreign-address")
    return bare


def _texts(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _name(value: Any) -> str:
    return value if isinstance(value, str) and is_name(value) else ""
