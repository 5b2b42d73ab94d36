"""CA keys at rest."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from rage_net import keys
from rage_net.cert import pem, secret
from rage_net.errors import AccessDeniedError, CertificateError, ConfigError, RageError, UsageError

PASSPHRASE = b"correct horse battery"


def encrypted(rng: random.Random, passphrase: bytes = PASSPHRASE) -> bytes:
    return secret.encode(keys.generate(rng), passphrase, rng.randbytes(32))


def test_a_key_comes_back_with_its_passphrase(rng: random.Random) -> None:
    key = keys.generate(rng)
    text = secret.encode(key, PASSPHRASE, rng.randbytes(32))
    assert secret.decode(text, PASSPHRASE, "ca.key").private_bytes_raw() == key.private_bytes_raw()
    assert key.private_bytes_raw() not in text


def test_a_wrong_passphrase_is_a_clear_error_that_shows_nothing(rng: random.Random) -> None:
    with pytest.raises(AccessDeniedError) as caught:
        secret.decode(encrypted(rng), b"wrong horse battery", "certs/ca/ca.key")
    error = caught.value
    assert (error.id, error.exit_code) == ("passphrase-wrong", 4)
    assert "certs/ca/ca.key" in error.message
    assert "horse" not in repr(error.to_plain())
    assert error.__cause__ is None


@pytest.mark.parametrize("passphrase", [b"", b"short", b"x" * 1025])
def test_a_passphrase_that_is_too_short_or_too_long(rng: random.Random, passphrase: bytes) -> None:
    with pytest.raises(UsageError) as caught:
        encrypted(rng, passphrase)
    assert caught.value.id == "passphrase-length"


def test_what_is_no_encrypted_ed25519_key(rng: random.Random) -> None:
    plain = keys.encode_pem(keys.generate(rng))
    other = ec.generate_private_key(ec.SECP256R1())
    as_pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSPHRASE))
    for text in (b"", b"hello", plain, as_pem, b"x" * 20_000):
        with pytest.raises(ConfigError) as caught:
            secret.decode(text, PASSPHRASE, "ca.key")
        assert caught.value.id == "key-invalid"


def test_a_damaged_key_raises_nothing_but_our_own(rng: random.Random) -> None:
    whole = encrypted(rng)
    for _ in range(8):
        at = rng.randrange(40, len(whole) - 40)
        damaged = whole[:at] + bytes([rng.choice(b"ABCabc123")]) + whole[at + 1 :]
        try:
            secret.decode(damaged, PASSPHRASE, "ca.key")
        except RageError as error:
            assert error.id in ("passphrase-wrong", "key-invalid")


def test_openssl_reads_the_key_and_we_read_openssls(rng: random.Random, tmp_path: Path) -> None:
    key = keys.generate(rng)
    (tmp_path / "ca.key").write_bytes(secret.encode(key, PASSPHRASE, rng.randbytes(32)))
    for name in ("pass", "out"):
        (tmp_path / name).write_bytes(PASSPHRASE + b"\n")
    read = ["openssl", "pkey", "-in", "ca.key", "-passin", "file:pass", "-outform", "DER"]
    done = subprocess.run(read, cwd=tmp_path, capture_output=True, check=True, timeout=60)
    assert done.stdout == key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    write = ["openssl", "pkcs8", "-topk8", "-in", "ca.key", "-passin", "file:pass", "-passout", "file:out"]
    done = subprocess.run(write, cwd=tmp_path, capture_output=True, check=True, timeout=60)
    assert secret.decode(done.stdout, PASSPHRASE, "ca.key").private_bytes_raw() == key.private_bytes_raw()


def test_pem_takes_several_and_text_between_and_der_as_it_is(rng: random.Random) -> None:
    ders = [b"\x30" + rng.randbytes(200) for _ in range(3)]
    text = b"notes\n" + pem.encode(ders[:2]) + b"more notes\r\n" + pem.encode(ders[2:]).replace(b"\n", b"\r\n")
    assert pem.decode(text) == tuple(ders)
    assert pem.decode(ders[0]) == (ders[0],)


def test_pem_says_what_the_file_holds_instead(rng: random.Random) -> None:
    private = keys.encode_pem(keys.generate(rng))
    for data, words in (
        (private, "PRIVATE KEY"),
        (b"", "no PEM block"),
        (pem.encode([b"0"]) * 257, "257"),
        (b"x" * ((1 << 20) + 1), "longer"),
        (b"-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n", "base64"),
    ):
        with pytest.raises(CertificateError) as caught:
            pem.decode(data, name="node.crt")
        assert caught.value.id == "pem-invalid"
        assert words in caught.value.why
        assert "node.crt" in caught.value.message
