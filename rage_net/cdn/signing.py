"""Signed URLs of CloudFront, for ciphertext alone: what anyone may read needs none. Pure: no clock, no I/O.

A distribution with a key group refuses whoever has no URL that one of its keys signed. Ours say which object and until
when, by a *canned* policy: it is not sent, since CloudFront makes the same bytes from the request. So the URL must be
signed as it goes on the wire. A signature opens its object to whoever holds it: it is short-lived, and no text, log or
error shows it.

Source: issue 6, C; ADR 24; AWS, "Create a signed URL using a canned policy": RSA PKCS#1 v1.5 with SHA-1, 2048 bits, and
base64 with `-_~` for `+=/`. SHA-1 is CloudFront's choice: what it guards is ciphertext, for minutes.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rage_net.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

LIFETIME_S_MAX = 600.0
LIFETIME_S = 300.0
"""As we sign: a chunk comes within 20 s, the rest is for clocks that differ. CloudFront looks when a request begins."""
KEY_BYTES_MAX = 16 << 10
KEY_BITS = 2048
"""What CloudFront takes."""

_ALPHABET = bytes.maketrans(b"+=/", b"-_~")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key whose public half is in a key group of a distribution."""

    id: str
    """As CloudFront named the public key: `K2JCJMDEHXQW5F`."""
    key: RSAPrivateKey = field(repr=False)


def load_key(id: str, pem: bytes, what: str) -> SigningKey:
    """The key in `pem`; `what` names it in errors, which quote nothing of it. Raises: ConfigError `cdn-signing-key`."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if len(pem) > KEY_BYTES_MAX:
        raise _invalid(what, f"it has more than {KEY_BYTES_MAX} bytes")
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise _invalid(what, "it is encrypted") from None
    except (ValueError, UnsupportedAlgorithm):
        raise _invalid(what, "it holds no private key in PEM") from None
    if not isinstance(key, RSAPrivateKey) or key.key_size != KEY_BITS:
        raise _invalid(what, f"it is no RSA key of {KEY_BITS} bits")
    return SigningKey(id, key)


def policy(url: str, expires: int) -> bytes:
    """The canned policy, to the byte: the object, and the second since 1970 from which it is given no more."""
    condition = {"DateLessThan": {"AWS:EpochTime": expires}}
    return json.dumps({"Statement": [{"Resource": url, "Condition": condition}]}, separators=(",", ":")).encode()


def sign(key: SigningKey, url: str, now: float, lifetime_s: float = LIFETIME_S) -> str:
    """`url`, which has no query, with a signature that holds for `lifetime_s`, 1 to LIFETIME_S_MAX.

    1 ms. The host comes out in lower case: so CloudFront sees it. Raises: ValueError for another lifetime or a query.
    """
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA1

    if not 1 <= lifetime_s <= LIFETIME_S_MAX:
        raise ValueError(f"a signed URL holds for 1 to {LIFETIME_S_MAX:g} s")
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        raise ValueError("an object's URL has no query")
    bare = parts._replace(netloc=parts.netloc.lower()).geturl()
    expires = int(now + lifetime_s)
    signature = base64.b64encode(key.key.sign(policy(bare, expires), PKCS1v15(), SHA1())).translate(_ALPHABET)  # noqa: S303
    return f"{bare}?Expires={expires}&Signature={signature.decode()}&Key-Pair-Id={key.id}"


def _invalid(what: str, why: str) -> ConfigError:
    return ConfigError(
        f"{what} is no key that CloudFront takes",
        why=why,
        mend=[f"openssl genrsa -out signing.pem {KEY_BITS}    (a new one; its public half goes into the key group)"],
        id="cdn-signing-key",
    )
