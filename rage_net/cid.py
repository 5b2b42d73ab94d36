"""Content identifiers: CIDv1 over BLAKE3-256, the address of every chunk and manifest.

A chunk is `raw` (0x55), a manifest `dag-cbor` (0x71); the multihash is BLAKE3-256 (0x1e, 32 bytes); the text is base32,
lower case, multibase prefix `b`. So a chunk begins `bafkr4i` and a manifest `bafyr4i`. The specification's
`bafk` + base58(hash) is accepted as input and never printed. Not here: other hashes, CIDv0.

Source: multiformats/cid, multiformats/multihash, design D3.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from blake3 import blake3

RAW = 0x55
DAG_CBOR = 0x71
_CODECS = (RAW, DAG_CBOR)
_PREFIXES = {RAW: bytes((1, RAW, 0x1E, 32)), DAG_CBOR: bytes((1, DAG_CBOR, 0x1E, 32))}

DIGEST_BYTES = 32
CID_BYTES = 36
BLOCK_BYTES_MAX = 4 << 20
"""The largest chunk and the largest manifest, plain (design D3). Nothing larger is stored, unpacked or sent."""
TEXT_CHARS = 59
TEXT_CHARS_MAX = 128
"""Longer texts are refused before they are decoded."""

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


class CidError(ValueError):
    """The text or the bytes are no CID that rage reads."""


@dataclass(frozen=True, slots=True, order=True)
class Cid:
    """One address: `codec` (RAW or DAG_CBOR) and the 32 bytes of the BLAKE3 hash."""

    codec: int
    digest: bytes

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview, codec: int = RAW) -> Cid:
        """The address of `data`: its BLAKE3-256 under `codec`."""
        return cls(codec, blake3(data).digest())

    @classmethod
    def parse(cls, text: str) -> Cid:
        """Read a CID as people write it. Raises `CidError`, which says what is wrong with the text."""
        text = text.strip()
        if len(text) > TEXT_CHARS_MAX:
            raise CidError(f"a CID has {TEXT_CHARS} characters, this has {len(text)}")
        if text[:1] in ("b", "B") and len(text) == TEXT_CHARS:
            body = text[1:] if text[0] == "B" else text[1:].upper()
            try:
                raw = base64.b32decode(body + "=" * (-len(body) % 8))
            except (binascii.Error, ValueError):
                pass
            else:
                if base64.b32encode(raw).rstrip(b"=").decode() == body:  # unused bits of the last character are zero
                    return cls.from_bytes(raw)
        if text.startswith("bafk"):
            digest = decode_base58(text[4:])
            if digest is not None and len(digest) == DIGEST_BYTES:
                return cls(RAW, digest)
        if text.startswith("Qm") and len(text) == 46:
            raise CidError(
                f"{text} is a CIDv0 (SHA-256); rage reads CIDv1 with BLAKE3, which begins bafkr4i or bafyr4i"
            )
        raise CidError(f"{text!r} is no CID; one begins bafkr4i (chunk) or bafyr4i (manifest), {TEXT_CHARS} characters")

    @classmethod
    def from_bytes(cls, raw: bytes) -> Cid:
        """Read the binary form, 36 bytes. Raises `CidError`."""
        if len(raw) < 4 or raw[0] != 1:
            raise CidError("the bytes are no CIDv1")
        if raw[1] not in _CODECS:
            raise CidError(f"codec 0x{raw[1]:02x} is not one that rage reads (raw 0x55, dag-cbor 0x71)")
        if raw[2] != 0x1E or raw[3] != DIGEST_BYTES or len(raw) != CID_BYTES:
            raise CidError(f"the hash is not BLAKE3-256 (multihash 0x1e, 32 bytes) but 0x{raw[2]:02x}")
        return cls(raw[1], bytes(raw[4:]))

    def __bytes__(self) -> bytes:
        return _PREFIXES[self.codec] + self.digest

    def __str__(self) -> str:
        return "b" + base64.b32encode(bytes(self)).decode("ascii").lower().rstrip("=")

    @property
    def multihash(self) -> bytes:
        """The hash without the codec, 34 bytes: what the DHT knows a root by."""
        return bytes(self)[2:]

    def spec_text(self) -> str:
        """The specification's own form, `bafk` + base58 of the bare hash: for `chunk cid --spec` alone."""
        return "bafk" + _encode_base58(self.digest)

    def is_manifest(self) -> bool:
        """Whether the bytes are a manifest that lists chunks, not a chunk."""
        return self.codec == DAG_CBOR

    def matches(self, data: bytes | bytearray | memoryview) -> bool:
        """Whether `data` is what this CID names."""
        return blake3(data).digest() == self.digest


def decode_base58(text: str) -> bytes | None:
    """Bytes of base58btc; None when it holds another character."""
    number = 0
    for char in text:
        index = _BASE58.find(char)
        if index < 0:
            return None
        number = number * 58 + index
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")


def _encode_base58(raw: bytes) -> str:
    number, text = int.from_bytes(raw, "big"), ""
    while number:
        number, rest = divmod(number, 58)
        text = _BASE58[rest] + text
    zeros = len(raw) - len(raw.lstrip(b"\0"))
    return "1" * zeros + text
