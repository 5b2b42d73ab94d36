"""Peer ids and the public keys behind them. Not here: private keys in files (that is the program's business).

A peer id is a multihash of the libp2p encoding of a public key: the encoding itself when it has at most 42 bytes
(Ed25519, secp256k1), else its SHA-256 (RSA, ECDSA). Rage's own are Ed25519 and read `12D3KooW...`; the others are read,
because foreign peers use them. Source: libp2p/specs, peer-ids.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rage_net.libp2p import varint
from rage_net.libp2p.errors import RemoteProtocolError

if TYPE_CHECKING:  # costs 100 ms, and names need no cryptography
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    PublicKey = Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey

RSA, ED25519, SECP256K1, ECDSA = range(4)
"""Key types, as numbered in contracts/libp2p/keys.proto."""

INLINE_BYTES_MAX = 42
"""Longer encodings of a key are hashed."""
PEER_ID_BYTES_MAX = 2 + INLINE_BYTES_MAX
TEXT_CHARS_MAX = 128
"""Of a peer id's text; base58 costs the square of its length, so longer ones are refused unread."""
PUBLIC_KEY_BYTES_MAX = 2048
"""Of an encoded key: RSA with 8,192 bits has 1,070."""
RSA_BITS_MIN, RSA_BITS_MAX = 2048, 8192
"""Weaker ones prove nothing, longer ones cost milliseconds for each signature."""

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
_IDENTITY, _SHA256 = 0x00, 0x12
_CID_PREFIX = bytes((1, 0x72))  # CIDv1, libp2p-key
_INLINE_KEYS = {bytes((8, ED25519, 18, 32)): 36, bytes((8, SECP256K1, 18, 33)): 37}


class PeerIdError(ValueError):
    """The text or the bytes are no peer id."""


@dataclass(frozen=True, slots=True, order=True)
class PeerId:
    """One peer's name: `multihash` is its binary form, at most 44 bytes, checked."""

    multihash: bytes

    def __post_init__(self) -> None:
        raw = self.multihash
        if len(raw) < 2 or raw[1] != len(raw) - 2:
            raise PeerIdError("the bytes are no multihash of a key")
        if raw[0] == _SHA256:
            if raw[1] != 32:
                raise PeerIdError(f"a SHA-256 has 32 bytes, not {raw[1]}")
        elif raw[0] != _IDENTITY:
            raise PeerIdError(f"a peer id is an inlined key (0x00) or a SHA-256 (0x12), not 0x{raw[0]:02x}")
        elif _INLINE_KEYS.get(raw[2:6]) != raw[1]:
            raise PeerIdError("the peer id inlines no Ed25519 or secp256k1 key")

    @classmethod
    def from_public_key(cls, key: PublicKey) -> PeerId:
        """The name of whoever holds the private half of `key`."""
        return cls.from_encoded_key(encode_public_key(key))

    @classmethod
    def from_encoded_key(cls, encoded: bytes) -> PeerId:
        """The same from the libp2p encoding, which `decode_public_key` has accepted."""
        if len(encoded) <= INLINE_BYTES_MAX:
            return cls(bytes((_IDENTITY, len(encoded))) + encoded)
        return cls(bytes((_SHA256, 32)) + hashlib.sha256(encoded).digest())

    @classmethod
    def from_bytes(cls, raw: bytes) -> PeerId:
        """Read the binary form. Raises PeerIdError."""
        return cls(bytes(raw))

    @classmethod
    def parse(cls, text: str) -> PeerId:
        """Read `12D3KooW...` or `Qm...` (base58btc), or a CIDv1 `libp2p-key` in base32, base36 or base58btc.

        Raises: PeerIdError, which says what is wrong with the text.
        """
        if len(text) > TEXT_CHARS_MAX:
            raise PeerIdError(f"a peer id has at most {TEXT_CHARS_MAX} characters, this has {len(text)}")
        raw = None
        if text.startswith(("1", "Qm")):
            raw = _decode_base(text, _BASE58)
        elif text[:1] == "b":
            raw = _strip_cid(_decode_base32(text[1:]))
        elif text[:1] in ("k", "z"):
            raw = _strip_cid(_decode_base(text[1:], _BASE36 if text[0] == "k" else _BASE58))
        if raw is None:
            raise PeerIdError(f"{text!r} is no peer id; rage's begin 12D3KooW, others' may begin Qm, 16Uiu2 or bafz")
        try:
            return cls(raw)
        except PeerIdError as error:
            raise PeerIdError(f"{text!r} is no peer id: {error}") from None

    def public_key(self) -> PublicKey | None:
        """The key itself where the id inlines it, else None.

        Raises: RemoteProtocolError when the bytes are no key of their curve.
        """
        return decode_public_key(self.multihash[2:]) if self.multihash[0] == _IDENTITY else None

    def cid_text(self) -> str:
        """The newer text form, `bafz...`: for programs that ask for it; people see `str`."""
        return "b" + base64.b32encode(_CID_PREFIX + self.multihash).decode("ascii").lower().rstrip("=")

    def __bytes__(self) -> bytes:
        return self.multihash

    def __str__(self) -> str:
        return _base58_text(self.multihash)


def encode_public_key(key: PublicKey) -> bytes:
    """The one libp2p encoding: field 1 the type, field 2 the key, nothing else. Raises TypeError for other keys."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    if isinstance(key, ed25519.Ed25519PublicKey):
        kind, data = ED25519, key.public_bytes_raw()
    elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256K1):
        kind, data = SECP256K1, key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    elif isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        kind = RSA if isinstance(key, rsa.RSAPublicKey) else ECDSA
        data = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    else:
        raise TypeError(f"libp2p has no encoding for a {type(key).__name__}")
    return bytes((8, kind, 18)) + varint.encode(len(data)) + data


def decode_public_key(encoded: bytes) -> PublicKey:
    """Read a peer's key: Ed25519, secp256k1, ECDSA (NIST curves) or RSA.

    Only the one canonical encoding is accepted, because its hash is the peer's name.
    Raises: RemoteProtocolError for anything else, RSA keys outside 2,048 to 8,192 bits included.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    kind, data = _split_public_key(encoded)
    try:
        if kind == ED25519:
            return ed25519.Ed25519PublicKey.from_public_bytes(data)
        if kind == SECP256K1:
            return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), data)
        key = load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RemoteProtocolError(f"a public key of type {kind} is invalid: {error}") from error
    if kind == RSA and isinstance(key, rsa.RSAPublicKey) and RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX:
        return key
    if kind == ECDSA and isinstance(key, ec.EllipticCurvePublicKey):
        return key
    raise RemoteProtocolError(f"a public key says it is of type {kind}, but holds another or a weak one")


def verify(key: PublicKey, message: bytes, signature: bytes) -> None:
    """Return when `signature` is the key holder's over `message`, by libp2p's rule for that type of key.

    Raises: RemoteProtocolError otherwise. There is no boolean to forget.
    """
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, message, ec.ECDSA(SHA256()))
        else:
            key.verify(signature, message, padding.PKCS1v15(), SHA256())
    except (InvalidSignature, UnsupportedAlgorithm, ValueError) as error:
        raise RemoteProtocolError("a signature was not made by the key it is said to be from") from error


def _split_public_key(encoded: bytes) -> tuple[int, bytes]:
    if len(encoded) > PUBLIC_KEY_BYTES_MAX:
        raise RemoteProtocolError(f"a public key has {len(encoded)} bytes, the limit is {PUBLIC_KEY_BYTES_MAX}")
    if len(encoded) < 4 or encoded[0] != 8 or encoded[1] > ECDSA or encoded[2] != 18:
        raise RemoteProtocolError("a public key is not in libp2p's encoding")
    length = varint.decode(encoded, 3, maximum=PUBLIC_KEY_BYTES_MAX)
    if length is None or length[0] != len(encoded) - length[1]:
        raise RemoteProtocolError("a public key is truncated or has bytes behind it")
    return encoded[1], bytes(encoded[length[1] :])


def _strip_cid(raw: bytes | None) -> bytes | None:
    return raw[2:] if raw is not None and raw.startswith(_CID_PREFIX) else None


def _decode_base32(text: str) -> bytes | None:
    try:
        raw = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        return None
    canonical = base64.b32encode(raw).decode("ascii").lower().rstrip("=")
    return (
        raw if canonical == text else None
    )  # unused bits of the last character are zero, and lower case is the alphabet


def _decode_base(text: str, alphabet: str) -> bytes | None:
    number = 0
    for char in text:
        index = alphabet.find(char)
        if index < 0:
            return None
        number = number * len(alphabet) + index
    zeros = len(text) - len(text.lstrip(alphabet[0]))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")


@functools.lru_cache(maxsize=1024)
def _base58_text(raw: bytes) -> str:
    number, text = int.from_bytes(raw, "big"), ""
    while number:
        number, rest = divmod(number, 58)
        text = _BASE58[rest] + text
    return "1" * (len(raw) - len(raw.lstrip(b"\0"))) + text
