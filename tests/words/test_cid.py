"""Content identifiers, against published BLAKE3 digests and an independent CID implementation (libipld)."""

from __future__ import annotations

import libipld
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rage_net.cid import DAG_CBOR, RAW, Cid, CidError

# BLAKE3 team, test_vectors.json: input is the byte sequence 0, 1, ... 250, 0, 1, ... of the given length.
BLAKE3_VECTORS = {
    0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    1: "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
    1023: "10108970eeda3eb932baac1428c7a2163b0e924c9a9e25b35bba72b28f70bd11",
    1024: "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
}


@pytest.mark.parametrize("length", BLAKE3_VECTORS)
def test_the_digest_is_blake3_as_published(length: int) -> None:
    data = bytes(at % 251 for at in range(length))
    assert Cid.of(data).digest.hex() == BLAKE3_VECTORS[length]


@given(st.binary(max_size=300), st.sampled_from([RAW, DAG_CBOR]))
def test_an_independent_implementation_reads_what_we_write(data: bytes, codec: int) -> None:
    cid = Cid.of(data, codec)
    read = libipld.decode_cid(str(cid))
    assert (read["version"], read["codec"], read["hash"]["code"]) == (1, codec, 0x1E)
    assert read["hash"]["digest"] == cid.digest
    assert libipld.encode_cid(bytes(cid)) == str(cid)


@given(st.binary(max_size=300), st.sampled_from([RAW, DAG_CBOR]))
def test_text_and_bytes_round_trip(data: bytes, codec: int) -> None:
    cid = Cid.of(data, codec)
    assert Cid.parse(str(cid)) == Cid.parse(str(cid).upper()) == Cid.from_bytes(bytes(cid)) == cid
    assert str(cid).startswith("bafkr4i" if codec == RAW else "bafyr4i")


@given(st.binary(max_size=100))
def test_the_specifications_own_form_is_read_and_never_printed(data: bytes) -> None:
    cid = Cid.of(data)
    assert Cid.parse(cid.spec_text()) == cid
    assert str(cid) != cid.spec_text()


@given(st.text(max_size=200))
def test_garbage_is_a_cid_error_or_a_cid_that_prints_itself(text: str) -> None:
    try:
        cid = Cid.parse(text)
    except CidError:
        return
    assert Cid.parse(str(cid)) == cid


@given(st.binary(max_size=80))
def test_garbage_bytes_are_a_cid_error_or_round_trip(raw: bytes) -> None:
    try:
        cid = Cid.from_bytes(raw)
    except CidError:
        return
    assert bytes(cid) == raw


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKPbdG", "CIDv0"),
        ("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi", "0x70"),
        ("bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy", "BLAKE3"),
        ("b" * 1000, "1000"),
        ("", "no CID"),
    ],
)
def test_a_foreign_cid_is_refused_by_name(text: str, word: str) -> None:
    with pytest.raises(CidError, match=word):
        Cid.parse(text)


def test_unused_bits_of_the_last_character_must_be_zero() -> None:
    text = str(Cid.of(b"x"))
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    other = text[:-1] + alphabet[alphabet.index(text[-1]) | 1]
    assert other != text
    with pytest.raises(CidError):
        Cid.parse(other)
