"""Private keys of CAs as bytes: PKCS#8 PEM, encrypted under a passphrase; `openssl pkey -in ca.key` reads them.

The library's own writer stretches a passphrase 2,048 times, which a graphics card undoes: this one uses scrypt, 16 MiB
and a fifth of a second a guess. It reads whatever PBES2 file the library reads. Source: RFC 7914, RFC 8018, RFC 5958.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

from rage_net.errors import AccessDeniedError, ConfigError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PASSPHRASE_BYTES_MIN, PASSPHRASE_BYTES_MAX = 8, 1024
"""Shorter ones are guessed, longer ones are no passphrases."""
KEY_BYTES_MAX = 16_384
"""Of an encrypted key's PEM; a real one has some 300."""

SALT_BYTES = 32
"""16 for scrypt and 16 for the cipher."""
_N, _R, _P = 16_384, 8, 5  # more memory than 128 N R = 16 MiB, and openssl refuses the file


def encode(key: Ed25519PrivateKey, passphrase: bytes, salt: bytes) -> bytes:
    """The key as encrypted PKCS#8 PEM. `salt` is SALT_BYTES of randomness, new for each.

    Raises: UsageError for a passphrase that is too short or too long.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.padding import PKCS7
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    check_passphrase(passphrase)
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} bytes")
    scrypt_salt, vector = salt[:16], salt[16:]
    secret = hashlib.scrypt(passphrase, salt=scrypt_salt, n=_N, r=_R, p=_P, maxmem=64 << 20, dklen=32)
    padder = PKCS7(128).padder()
    plain = padder.update(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())) + padder.finalize()
    encryptor = Cipher(algorithms.AES256(secret), modes.CBC(vector)).encryptor()
    octets = encryptor.update(plain) + encryptor.finalize()
    body = base64.b64encode(_wrap(scrypt_salt, vector, octets))
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    return b"\n".join([b"-----BEGIN ENCRYPTED PRIVATE KEY-----", *lines, b"-----END ENCRYPTED PRIVATE KEY-----", b""])


def decode(pem: bytes, passphrase: bytes, what: str) -> Ed25519PrivateKey:
    """The key in `pem`; `what` names it in errors, which quote nothing else.

    Raises: AccessDeniedError `passphrase-wrong`; ConfigError `key-invalid` for what is no encrypted Ed25519 key.
    """
    from cryptography.exceptions import InternalError, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if len(pem) > KEY_BYTES_MAX or b"-----BEGIN ENCRYPTED PRIVATE KEY-----" not in pem:
        raise _invalid(what, "there is no block `-----BEGIN ENCRYPTED PRIVATE KEY-----`")
    try:
        key = load_pem_private_key(pem, password=passphrase)
    except (ValueError, TypeError):
        raise AccessDeniedError(
            f"the passphrase of {what} is wrong",
            why="the key does not decrypt with it; or else the file is damaged",
            mend=["--passphrase-file FILE", "check RAGE_CA_PASSPHRASE and RAGE_CA_PASSPHRASE_FILE"],
            id="passphrase-wrong",
        ) from None
    except (UnsupportedAlgorithm, InternalError):  # the latter: parameters that want too much memory
        raise _invalid(what, "its encryption is not known here") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _invalid(what, "it is no Ed25519 key")
    return key


def check_passphrase(passphrase: bytes) -> None:
    """Pass when a key may be encrypted under it. Raises UsageError, which does not show it."""
    if not PASSPHRASE_BYTES_MIN <= len(passphrase) <= PASSPHRASE_BYTES_MAX:
        raise UsageError(
            f"a passphrase has {PASSPHRASE_BYTES_MIN} to {PASSPHRASE_BYTES_MAX} bytes, this has {len(passphrase)}",
            mend=["openssl rand -base64 24    (a good one)"],
            id="passphrase-length",
        )


def _wrap(salt: bytes, vector: bytes, octets: bytes) -> bytes:
    """EncryptedPrivateKeyInfo around `octets`; every length fits one byte of DER."""
    kdf = _tlv(0x30, _oid("2b06010401da47040b") + _tlv(0x30, _tlv(4, salt) + _number(_N) + _number(_R) + _number(_P)))
    cipher = _tlv(0x30, _oid("60864801650304012a") + _tlv(4, vector))
    algorithm = _tlv(0x30, _oid("2a864886f70d01050d") + _tlv(0x30, kdf + cipher))
    return _tlv(0x30, algorithm + _tlv(4, octets))


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    return bytes((tag, size) if size < 128 else (tag, 0x81, size)) + content


def _oid(content: str) -> bytes:
    return _tlv(6, bytes.fromhex(content))


def _number(value: int) -> bytes:
    return _tlv(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _invalid(what: str, why: str) -> ConfigError:
    return ConfigError(
        f"{what} holds no encrypted private key", why=why, mend=["restore it from a backup"], id="key-invalid"
    )
