"""Signatures of discovery, and what makes one good. Pure: the time comes in as `now`.

    registration   `Rage-Signature: ed25519=<base64>` over `rage:discovery-register:1`, NUL, the exact bytes of the body
    query          the same header over `rage:discovery-query:1`, NUL, the lines method, audience, path, query, date,
                   each ended by LF; the peer in `Rage-Peer`, the server in `Rage-Audience`, seconds since the epoch
                   in `Rage-Date`

A registration is good when the key is the peer id's own, the server is the one it was signed for, its sequence (a time)
is within `LEEWAY_S` of now, and above the last one that the server took from that peer. So what was seen once is of no
use again, there or elsewhere.

Source: design 4.3.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rage_net.discovery.records import (
    RecordError,
    Registration,
    decode_base64,
    decode_registration,
    encode_registration,
    public_key,
)
from rage_net.errors import AccessDeniedError, ConflictError, IntegrityError
from rage_net.libp2p.errors import RemoteProtocolError
from rage_net.libp2p.peer_id import PeerId, PeerIdError, verify
from rage_net.libp2p.scope import IpAddress, parse_ip

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

LEEWAY_S = 60.0
"""Between two honest clocks (design D6)."""

SIGNATURE, PEER, AUDIENCE, DATE = "rage-signature", "rage-peer", "rage-audience", "rage-date"
"""Headers, in lower case."""
HEADER_CHARS_MAX = 400

_REGISTER = b"rage:discovery-register:1\0"
_QUERY = b"rage:discovery-query:1\0"
_PREFIX = "ed25519="


@dataclass(frozen=True, slots=True)
class Place:
    """The names a server answers to: host names, and the address and port that a connection came in at."""

    names: Collection[str]
    address: IpAddress | None
    port: int


def sign_registration(key: Ed25519PrivateKey, registration: Registration) -> tuple[bytes, str]:
    """The body to send, and the value of its `Rage-Signature`."""
    body = encode_registration(registration)
    return body, _sign(key, _REGISTER + body)


def verify_registration(body: bytes, signature: str, *, now: float, place: Place) -> Registration:
    """The registration in a body, when it is signed by its peer, for this server, at about this time.

    Raises: RecordError for a body that is none; IntegrityError `signature-invalid`; AccessDeniedError `wrong-audience`;
    ConflictError `stale-registration`.
    """
    registration = decode_registration(body)
    _check(registration.peer_id, signature, _REGISTER + body)
    _check_audience(registration.audience, place)
    _check_time(registration.sequence / 1000, now, "the registration")
    return registration


def check_sequence(registration: Registration, last: int | None) -> None:
    """Pass when the registration is newer than the last one taken from that peer. Raises ConflictError."""
    if last is not None and registration.sequence <= last:
        raise ConflictError(
            "a newer registration of this peer is here",
            why="this one was sent before, or a node with the same key runs elsewhere with a clock that is ahead",
            mend=["rage doctor", "give each node its own key: rage init in a home of its own"],
            id="stale-registration",
        )


def sign_query(
    key: Ed25519PrivateKey, peer_id: PeerId, *, method: str, audience: str, path: str, query: str, now: float
) -> dict[str, str]:
    """The headers that prove who asks. `query` is what stands behind the `?`, exactly as sent."""
    date = str(int(now))
    message = _query_message(method, audience, path, query, date)
    return {PEER: str(peer_id), AUDIENCE: audience, DATE: date, SIGNATURE: _sign(key, message)}


def verify_query(
    headers: Mapping[str, str], *, method: str, path: str, query: str, now: float, place: Place
) -> PeerId | None:
    """Who asks; None when the request does not say. `headers` by lower-case name.

    Raises: as `verify_registration`, for a request that says so and cannot prove it.
    """
    if PEER not in headers:
        return None
    name, audience, date = (headers.get(header, "") for header in (PEER, AUDIENCE, DATE))
    if not (date.isascii() and date.isdigit() and len(date) < 16) or len(audience) > HEADER_CHARS_MAX:
        raise RecordError("Rage-Date and Rage-Audience go with Rage-Peer")
    try:
        peer_id = PeerId.parse(name)
    except PeerIdError as error:
        raise RecordError("Rage-Peer holds no peer id", why=str(error)) from None
    _check(peer_id, headers.get(SIGNATURE, ""), _query_message(method, audience, path, query, date))
    _check_audience(audience, place)
    _check_time(float(date), now, "the request")
    return peer_id


def audience_of(url: str) -> str:
    """What a request to a server's URL is signed for: scheme, host and port, in lower case. Raises ValueError."""
    parts = urlsplit(url)
    port = parts.port  # raises for one that is none
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"{url!r} is no address of a web server")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (f":{port}" if port is not None else "")


def is_audience(audience: str, place: Place) -> bool:
    """Whether a server at `place` is meant: one of its names, at any port, or the address and port it was met at."""
    try:
        parts = urlsplit(audience_of(audience))
    except ValueError:
        return False
    host = parts.hostname or ""
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    if host in place.names and host != "localhost":
        return True
    if port != place.port:
        return False
    ip = parse_ip(host)
    if host == "localhost":
        return place.address is not None and place.address.is_loopback
    return ip is not None and ip == place.address


def _query_message(method: str, audience: str, path: str, query: str, date: str) -> bytes:
    return _QUERY + "".join(f"{line}\n" for line in (method, audience, path, query, date)).encode("utf-8", "replace")


def _sign(key: Ed25519PrivateKey, message: bytes) -> str:
    return _PREFIX + base64.b64encode(key.sign(message)).decode("ascii")


def _check(peer_id: PeerId, header: str, message: bytes) -> None:
    signature = decode_base64(header[len(_PREFIX) :]) if header.startswith(_PREFIX) else None
    if signature is None or len(signature) != 64 or len(header) > HEADER_CHARS_MAX:
        raise IntegrityError("Rage-Signature holds no signature", why="ed25519=<base64>", id="signature-invalid")
    try:
        verify(public_key(peer_id), message, signature)
    except RemoteProtocolError:
        raise IntegrityError(f"the signature is not that of {peer_id}", id="signature-invalid") from None


def _check_audience(audience: str, place: Place) -> None:
    if not is_audience(audience, place):
        raise AccessDeniedError(
            "this was signed for another server",
            why="what is sent to one server is of no use at another",
            mend=["the operator of this one names its host name in network.http.hosts"],
            id="wrong-audience",
        )


def _check_time(at: float, now: float, what: str) -> None:
    if abs(at - now) > LEEWAY_S:
        raise ConflictError(
            f"{what} was signed {abs(now - at):.0f} s {'ago' if at < now else 'from now'}",
            why=f"clocks may differ by {LEEWAY_S:.0f} s; if yours is right, this is an old one, sent again",
            mend=["date -u", "timedatectl set-ntp true"],
            id="stale-registration",
        )
