"""Multiaddrs: where a peer listens and how to reach it, as text and as bytes. Not here: resolving names, dialling.

`/ip4/192.0.2.7/tcp/4001/p2p/12D3KooW...` is a chain of parts, each a protocol and, for some, a value. An address means
the same in both forms, and both round-trip: `parse(str(a)) == a == from_bytes(bytes(a))`. Protocols that are not in the
table are refused: without its entry the bytes cannot be told apart. Source: multiformats/multiaddr, libp2p/specs
addressing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from rage_net.libp2p import varint
from rage_net.libp2p.errors import RemoteProtocolError
from rage_net.libp2p.peer_id import PeerId, PeerIdError

TEXT_CHARS_MAX = 1024
"""Of the text; a name has at most 253, a peer id 62, a socket's path 108."""
BYTES_MAX = 1024
"""Of the bytes, for the same reason."""
PARTS_MAX = 16
"""The longest in use, through a relay over secure WebSockets, have 9."""
NAME_BYTES_MAX = 253
"""Of a DNS name (RFC 1035)."""
REMEMBERED = 4096
"""Binary forms whose address is remembered: the DHT's answers name the same peers again and again, and a fifth of a
node's work for it was reading their addresses anew."""
REMEMBERED_BYTES_MAX = 80
"""Of one that is: an IP address with port and peer id has up to 62. So all take some 4 MiB at the most."""
VALUE_BYTES_MAX = 256
"""Of a zone, a memory name or a path."""


class MultiaddrError(ValueError):
    """The text or the bytes are no multiaddr that this stack reads; says which part and why."""


class Part(NamedTuple):
    """One step of an address: `protocol`, and `value` as text, empty where the protocol has none."""

    protocol: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Multiaddr:
    """One address. Build it with `parse`, `from_bytes` or `of`, which check; the parts are in canonical form."""

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, *parts: tuple[str, str]) -> Multiaddr:
        """From (protocol, value) pairs: `Multiaddr.of(("ip4", "127.0.0.1"), ("tcp", "0"))`. Raises MultiaddrError."""
        if not parts or len(parts) > PARTS_MAX:
            raise MultiaddrError(f"a multiaddr has 1 to {PARTS_MAX} parts, not {len(parts)}")
        return cls(tuple(_check(name, value) for name, value in parts))

    @classmethod
    def parse(cls, text: str) -> Multiaddr:
        """Read an address as people write it. Raises MultiaddrError."""
        if len(text) > TEXT_CHARS_MAX:
            raise MultiaddrError(f"a multiaddr has at most {TEXT_CHARS_MAX} characters, this has {len(text)}")
        if not text.startswith("/"):
            raise MultiaddrError(f"{text!r} is no multiaddr: it does not begin with /, as /ip4/127.0.0.1/tcp/4001 does")
        words = (text[:-1] if text.endswith("/") else text).split("/")[1:]
        parts = []
        while words:
            name = _ALIASES.get(words[0], words[0])
            kind = _BY_NAME.get(name)
            if kind is None:
                raise MultiaddrError(f"{text!r} is no multiaddr: {words[0]!r} is not a known protocol")
            taken = kind.words if kind.words >= 0 else len(words)
            if len(words) < max(taken, 2 if kind.words < 0 else 0):
                raise MultiaddrError(f"{text!r} is no multiaddr: /{name} needs a value behind it")
            value = "/".join(words[1:taken])
            parts.append((name, "/" + value if kind.words < 0 else value))
            words = words[taken:]
        try:
            return cls.of(*parts)
        except MultiaddrError as error:
            raise MultiaddrError(f"{text!r} is no multiaddr: {error}") from None

    @classmethod
    def from_bytes(cls, raw: bytes) -> Multiaddr:
        """Read the binary form. Raises MultiaddrError."""
        if len(raw) > BYTES_MAX:
            raise MultiaddrError(f"a multiaddr has at most {BYTES_MAX} bytes, this has {len(raw)}")
        return _read_remembered(bytes(raw)) if len(raw) <= REMEMBERED_BYTES_MAX else _read(raw)

    @property
    def peer_id(self) -> PeerId | None:
        """The peer that the address leads to; None when it names none, or only the relay on the way."""
        last = self.parts[-1]
        return PeerId.parse(last.value) if last.protocol == "p2p" else None

    def with_peer_id(self, peer_id: PeerId) -> Multiaddr:
        """The same place, naming `peer_id` as the peer to be found there instead of whom it named before."""
        return Multiaddr.of(*self.transport_parts(), Part("p2p", str(peer_id)))

    def without_peer_id(self) -> Multiaddr:
        """The same place, whoever is there. Raises MultiaddrError when nothing would be left."""
        return Multiaddr.of(*self.transport_parts())

    def transport_parts(self) -> tuple[Part, ...]:
        """All parts but the peer to be found there: what a transport decides by."""
        return self.parts[:-1] if self.parts[-1].protocol == "p2p" else self.parts

    def __bytes__(self) -> bytes:
        out = bytearray()
        for name, value in self.parts:
            kind = _BY_NAME[name]
            raw = kind.encode(value)
            out += varint.encode(kind.code) + (varint.encode(len(raw)) if kind.size < 0 else b"") + raw
        return bytes(out)

    def __str__(self) -> str:
        return "".join(
            f"/{name}{'' if value.startswith('/') or not value else '/'}{value}" for name, value in self.parts
        )


class _Kind(NamedTuple):
    """One protocol of the table: `size` in bytes (-1: length-prefixed), `words` of its text (-1: all the rest)."""

    code: int
    name: str
    size: int
    words: int
    encode: Callable[[str], bytes]
    decode: Callable[[bytes], str]


def _read(raw: bytes) -> Multiaddr:
    parts: list[Part] = []
    offset = 0
    while offset < len(raw):
        code, offset = _read_varint(raw, offset)
        kind = _BY_CODE.get(code)
        if kind is None:
            raise MultiaddrError(f"protocol {code} is not known")
        size = kind.size
        if size < 0:
            size, offset = _read_varint(raw, offset)
        if size > len(raw) - offset:
            raise MultiaddrError(f"the bytes end within /{kind.name}")
        parts.append(Part(kind.name, kind.decode(raw[offset : offset + size])))
        offset += size
    return Multiaddr.of(*parts)


_read_remembered = lru_cache(REMEMBERED)(_read)


def _check(name: str, value: str) -> Part:
    """The part in canonical form, its value within its limits."""
    kind = _BY_NAME.get(name)
    if kind is None:
        raise MultiaddrError(f"{name!r} is not a known protocol")
    return Part(name, kind.decode(kind.encode(value)))


def _read_varint(raw: bytes, offset: int) -> tuple[int, int]:
    try:
        read = varint.decode(raw, offset, maximum=0xFFFF)
    except RemoteProtocolError as error:
        raise MultiaddrError(f"a code or length in it is malformed: {error}") from None
    if read is None:
        raise MultiaddrError("the bytes end within a code or a length")
    return read


def _encode_nothing(value: str) -> bytes:
    if value:
        raise MultiaddrError(f"there is no place for the value {value!r}")
    return b""


def _encode_ip(version: int) -> Callable[[str], bytes]:
    kind = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address

    def encode(value: str) -> bytes:
        try:
            if "%" in value:
                raise ValueError("a zone is written before it, /ip6zone/eth0/ip6/fe80::1")
            return kind(value).packed
        except ValueError as error:
            raise MultiaddrError(f"{value!r} is no IPv{version} address: {error}") from None

    return encode


def _encode_port(value: str) -> bytes:
    if not (value.isascii() and value.isdigit() and len(value) <= 5 and int(value) <= 0xFFFF):
        raise MultiaddrError(f"{value!r} is no port, 0 to 65535")
    return int(value).to_bytes(2, "big")


def _encode_name(value: str) -> bytes:
    return _encode_text(value, "a host name", NAME_BYTES_MAX)


def _encode_word(value: str) -> bytes:
    return _encode_text(value, "a value", VALUE_BYTES_MAX)


def _encode_text(value: str, what: str, limit: int) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    if not 1 <= len(raw) <= limit:
        raise MultiaddrError(f"{what} has 1 to {limit} bytes, not {len(raw)}")
    if "/" in value or not value.isprintable() or " " in value:
        raise MultiaddrError(f"{what} has no slash, space or control character: {value!r}")
    return raw


def _encode_path(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    if not value.startswith("/") or value.endswith("/") or len(raw) > VALUE_BYTES_MAX or not value.isprintable():
        raise MultiaddrError(f"{value!r} is no absolute path of a socket, at most {VALUE_BYTES_MAX} printable bytes")
    return raw


def _decode_text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise MultiaddrError("a name in it is no UTF-8") from None


def _encode_peer(value: str) -> bytes:
    try:
        return PeerId.parse(value).multihash
    except PeerIdError as error:
        raise MultiaddrError(str(error)) from None


def _decode_peer(raw: bytes) -> str:
    try:
        return str(PeerId.from_bytes(raw))
    except PeerIdError as error:
        raise MultiaddrError(f"the peer id in it is none: {error}") from None


def _flags(*kinds: tuple[int, str]) -> Sequence[_Kind]:
    return [_Kind(code, name, 0, 1, _encode_nothing, lambda _: "") for code, name in kinds]


_KINDS: tuple[_Kind, ...] = (
    _Kind(4, "ip4", 4, 2, _encode_ip(4), lambda raw: str(ipaddress.IPv4Address(raw))),
    _Kind(41, "ip6", 16, 2, _encode_ip(6), lambda raw: str(ipaddress.IPv6Address(raw))),
    _Kind(6, "tcp", 2, 2, _encode_port, lambda raw: str(int.from_bytes(raw, "big"))),
    _Kind(273, "udp", 2, 2, _encode_port, lambda raw: str(int.from_bytes(raw, "big"))),
    _Kind(42, "ip6zone", -1, 2, _encode_word, _decode_text),
    _Kind(53, "dns", -1, 2, _encode_name, _decode_text),
    _Kind(54, "dns4", -1, 2, _encode_name, _decode_text),
    _Kind(55, "dns6", -1, 2, _encode_name, _decode_text),
    _Kind(56, "dnsaddr", -1, 2, _encode_name, _decode_text),
    _Kind(400, "unix", -1, -1, _encode_path, _decode_text),
    _Kind(421, "p2p", -1, 2, _encode_peer, _decode_peer),
    _Kind(777, "memory", -1, 2, _encode_word, _decode_text),
    *_flags((448, "tls"), (460, "quic"), (461, "quic-v1"), (477, "ws"), (478, "wss"), (290, "p2p-circuit")),
)
_BY_NAME = {kind.name: kind for kind in _KINDS}
_BY_CODE = {kind.code: kind for kind in _KINDS}
_ALIASES = {"ipfs": "p2p"}
