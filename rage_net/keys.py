"""The node's Ed25519 identity key as bytes: made, and written as PKCS#8 PEM and read again. Opens no file.

The private key of Ed25519 has one DER form, a fixed head and 32 bytes, so the usual file is read without the general
parser, which alone takes 13 ms to import. Other forms (a public key alongside) go through it.
Source: RFC 8410, RFC 7468.
"""

from __future__ import annotations

import base64
import binascii
import random
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PEM_BYTES_MAX = 16_384
"""Of a key file; a real one has 119. Larger ones are refused unread."""

_HEAD = bytes.fromhex("302e020100300506032b657004220420")
_PEM = re.compile(rb"-----BEGIN PRIVATE KEY-----\s+([A-Za-z0-9+/=\s]+?)\s*-----END PRIVATE KEY-----")


class KeyFormatError(ValueError):
    """The bytes are no unencrypted Ed25519 key in PKCS#8 PEM. Never quotes them."""


def generate(generator: random.Random) -> Ed25519PrivateKey:
    """A new key from 32 bytes of `generator`, which is `env.random` (the system's, outside simulations)."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(generator.randbytes(32))


def encode_pem(key: Ed25519PrivateKey) -> bytes:
    """The key as PKCS#8 PEM, unencrypted: the same bytes that `openssl genpkey -algorithm ed25519` would write."""
    body = base64.b64encode(_HEAD + key.private_bytes_raw())
    return b"-----BEGIN PRIVATE KEY-----\n" + body + b"\n-----END PRIVATE KEY-----\n"


def decode_pem(pem: bytes) -> Ed25519PrivateKey:
    """The key in `pem`; text around the block is ignored.

    Raises: KeyFormatError saying what the bytes are instead, as far as they tell.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if len(pem) > PEM_BYTES_MAX:
        raise KeyFormatError(f"it is longer than {PEM_BYTES_MAX} bytes")
    if b"ENCRYPTED" in pem:
        raise KeyFormatError("the key is encrypted; a node starts without a passphrase")
    block = _PEM.search(pem)
    if block is None:
        raise KeyFormatError("no `-----BEGIN PRIVATE KEY-----` block")
    try:
        der = base64.b64decode(b"".join(block[1].split()), validate=True)
    except binascii.Error:
        raise KeyFormatError("the block is no base64") from None
    if der.startswith(_HEAD) and len(der) == len(_HEAD) + 32:
        return Ed25519PrivateKey.from_private_bytes(der[len(_HEAD) :])
    return _decode_der(der)


def _decode_der(der: bytes) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    try:
        key = load_der_private_key(der, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyFormatError("the block holds no private key") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFormatError("it is no Ed25519 key")
    return key
