"""The DHT's space: 256 bits, in which keys and peers are near or far by exclusive or. No state.

A place is the SHA-256 of a record's key or of a peer id's bytes, as an integer.
Source: libp2p/specs kad-dht, "Distance".
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

BITS = 256
K = 20
"""Peers that keep a record, and contacts in a bucket (libp2p/specs kad-dht)."""
SEARCH_BITS_MAX = 14
"""A raw key near a place is found by trial: twice as many trials for each bit, 16,384 (10 ms) for so many."""


def place_of(raw: bytes) -> int:
    """Where a record's key, or a peer id's bytes, lies."""
    return int.from_bytes(hashlib.sha256(raw).digest(), "big")


def distance_bits(one: int, other: int) -> int:
    """256 less the leading bits that two places share; 0 for one and the same."""
    return (one ^ other).bit_length()


def raw_key_near(place: int, bits: int, random: Random) -> bytes:
    """Bytes whose place shares its first `bits` bits, at most SEARCH_BITS_MAX, with `place`.

    A question carries the bytes and not the place, so that a part of the space can only be asked for by such a key.
    """
    shift = BITS - min(bits, SEARCH_BITS_MAX)
    while place_of(raw := random.randbytes(32)) >> shift != place >> shift:
        pass
    return raw
