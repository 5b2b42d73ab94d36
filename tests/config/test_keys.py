from __future__ import annotations

import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import given
from hypothesis import strategies as st

from rage_net import keys

# RFC 8410, section 10.3: a key alone, and the same with its attributes and public key.
RFC_8410 = b"""-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
"""
SEED = "d4ee72dbf913584ad5b6d8f1f769f8ad3afe7c28cbf1d4fbe097a88f44755842"


def test_the_key_of_the_rfc_reads_and_writes_alike() -> None:
    key = keys.decode_pem(RFC_8410)
    assert key.private_bytes_raw().hex() == SEED
    assert keys.encode_pem(key) == RFC_8410


def test_cryptography_reads_what_we_write_and_writes_the_same() -> None:
    key = keys.generate(random.Random(7))
    pem = keys.encode_pem(key)
    assert key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) == pem
    foreign = load_pem_private_key(pem, None)
    assert isinstance(foreign, Ed25519PrivateKey)
    assert foreign.private_bytes_raw() == key.private_bytes_raw()


def test_one_seed_gives_one_key() -> None:
    first, second, other = (keys.generate(random.Random(seed)).private_bytes_raw() for seed in (1, 1, 2))
    assert first == second != other


def test_text_around_the_block_and_other_line_ends_do_not_matter() -> None:
    pem = b"# node 7\n" + RFC_8410.replace(b"\n", b"\r\n") + b"trailing"
    assert keys.decode_pem(pem).private_bytes_raw().hex() == SEED


@pytest.mark.parametrize(
    ("pem", "words"),
    [
        (b"", "no `-----BEGIN"),
        (b"-----BEGIN PRIVATE KEY-----\n????\n-----END PRIVATE KEY-----", "no `-----BEGIN"),
        (b"-----BEGIN PRIVATE KEY-----\nAAA\n-----END PRIVATE KEY-----", "no base64"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "no private key"),
        (RFC_8410.replace(b"MC4C", b"MC4D"), "no private key"),
        (RFC_8410 + b" " * keys.PEM_BYTES_MAX, "longer than"),
    ],
)
def test_what_is_no_key_is_refused(pem: bytes, words: str) -> None:
    with pytest.raises(keys.KeyFormatError, match=words):
        keys.decode_pem(pem)


def test_an_encrypted_key_and_another_kind_of_key_are_refused() -> None:
    key = keys.generate(random.Random(1))
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    with pytest.raises(keys.KeyFormatError, match="encrypted"):
        keys.decode_pem(encrypted)
    other = X25519PrivateKey.from_private_bytes(bytes(32)).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    with pytest.raises(keys.KeyFormatError, match="no Ed25519"):
        keys.decode_pem(other)


@given(st.integers(0, len(RFC_8410) - 1), st.binary(max_size=4))
def test_damaged_bytes_give_a_key_or_a_format_error(at: int, patch: bytes) -> None:
    damaged = RFC_8410[:at] + patch + RFC_8410[at + len(patch) :]
    try:
        keys.decode_pem(damaged)
    except keys.KeyFormatError as error:
        assert "1NRy" not in str(error)
