"""Private keys of CAs as bytes: PKCS#8 PEM, encrypted under a passphrase; `openssl pkey -in ca.key` reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rage_net.errors import AccessDeniedError, ConfigError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PASSPHRASE_BYTES_MIN, PASSPHRASE_BYTES_MAX = 8, 1024
"""Shorter ones are guessed; 1024 is what the library takes."""
KEY_BYTES_MAX = 16_384
"""Of an encrypted key's PEM; a real one has some 400."""


def encode(key: Ed25519PrivateKey, passphrase: bytes) -> bytes:
    """The key as encrypted PKCS#8 PEM. Raises UsageError for a passphrase that is too short or too long."""
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

    check_passphrase(passphrase)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase))


def decode(pem: bytes, passphrase: bytes, what: str) -> Ed25519PrivateKey:
    """The key in `pem`; `what` names it in errors, which never quote anything else.

    Raises: AccessDeniedError `passphrase-wrong`; ConfigError `key-invalid` for what is no encrypted Ed25519 key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if len(pem) > KEY_BYTES_MAX or b"-----BEGIN ENCRYPTED PRIVATE KEY-----" not in pem:
        raise _invalid(what, "there is no block `-----BEGIN ENCRYPTED PRIVATE KEY-----`")
    try:
        key = load_pem_private_key(pem, password=passphrase)
    except (ValueError, TypeError) as error:
        if "password" not in str(error).lower() and "decrypt" not in str(error).lower():
            raise _invalid(what, "the block cannot be read") from None
        raise AccessDeniedError(
            f"the passphrase of {what} is wrong",
            why="the key does not decrypt with it",
            mend=["--passphrase-file FILE", "check RAGE_CA_PASSPHRASE and RAGE_CA_PASSPHRASE_FILE"],
            id="passphrase-wrong",
        ) from None
    except UnsupportedAlgorithm:
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


def _invalid(what: str, why: str) -> ConfigError:
    return ConfigError(
        f"{what} holds no encrypted private key", why=why, mend=["restore it from a backup"], id="key-invalid"
    )
