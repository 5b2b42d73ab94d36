"""Bearer tokens of the platform (JWT): whose they are, once they are proven. Pure: keys and the time come in.

An issuer is configured with the one organisation whose people it speaks for, its audience, its algorithms and where its
keys are; nothing in a token can change any of these. A token that names no key, another audience, an algorithm that was
not configured, or no end, is refused. A key is used with the algorithms of its own kind alone, so a public key is never
taken for a shared secret; keys that come along by other ways (`jwk`, `jku`, `x5u` in a token, symmetric and private
ones in a set) are not looked at.

Not here: fetching keys (bearer), what a user may do (acl).
Source: RFC 7515, 7517, 7519, 8725 (best practices); issue 4, C.
"""

from __future__ import annotations

import binascii
import json
import math
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rage_net.errors import AccessDeniedError, IntegrityError

if TYPE_CHECKING:
    from jwt import PyJWK

TOKEN_BYTES_MAX = 16 << 10
LEEWAY_S = 60.0
"""Clocks differ."""
JWKS_BYTES_MAX = 64 << 10
KEYS_MAX = 64
"""In one set."""
KID_CHARS_MAX = 256
GROUPS_MAX = 256
"""Of one user; a decision looks through all of them."""
RSA_BITS = range(2048, 8193)
"""Shorter ones are broken; longer ones cost more time to check than a request may."""

KEY_TYPES: Mapping[str, tuple[str, str]] = {
    "RS256": ("RSA", ""),
    "RS384": ("RSA", ""),
    "RS512": ("RSA", ""),
    "PS256": ("RSA", ""),
    "PS384": ("RSA", ""),
    "PS512": ("RSA", ""),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
    "HS256": ("oct", ""),
    "HS384": ("oct", ""),
    "HS512": ("oct", ""),
}
"""Every algorithm there is here: the kind of key, and its curve. `none` is not among them."""
SECRET_BYTES_MIN = {"HS256": 32, "HS384": 48, "HS512": 64}
"""RFC 7518, 3.2: a key as long as the hash."""


class TokenError(AccessDeniedError):
    """The token proves nothing. The words may be told to whoever sent it."""

    id = "token-refused"


class UnknownKeyError(TokenError):
    """The issuer has no key of that name, as far as we know: its set may have changed."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whose tokens are taken, and how. `secret` is for HMAC algorithms alone, and then the only key."""

    issuer: str
    organization: str
    audience: str
    algorithms: frozenset[str]
    groups_claim: str = "groups"
    secret: bytes | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """One public key of a set. `algorithm` is the only one it is for, empty where it does not say."""

    kind: str
    curve: str
    algorithm: str
    jwk: PyJWK


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a token says of itself; nothing of it is proven."""

    issuer: Issuer
    kid: str
    algorithm: str
    claims: Mapping[str, Any]
    text: str


@dataclass(frozen=True, slots=True)
class Claims:
    """A user, proven. `groups` are names within the organisation."""

    organization: str
    subject: str
    groups: tuple[str, ...]
    expires_at: float


def parse_jwks(data: bytes) -> Mapping[str, Key]:
    """The public keys of a set that can be used, by their names; those of other kinds are left out.

    Raises: IntegrityError when it is no key set, is too large, or gives one name twice.
    """
    if len(data) > JWKS_BYTES_MAX:
        raise IntegrityError(f"a key set of {len(data)} bytes; {JWKS_BYTES_MAX} are the most", id="bad-key-set")
    keys = _json(data).get("keys")
    if not isinstance(keys, list) or len(keys) > KEYS_MAX:
        raise IntegrityError(f"no key set: `keys` is to be a list of at most {KEYS_MAX}", id="bad-key-set")
    found: dict[str, Key] = {}
    for plain in keys:
        kid = plain.get("kid") if isinstance(plain, dict) else None
        if not isinstance(kid, str) or not 0 < len(kid) <= KID_CHARS_MAX or plain.get("use", "sig") != "sig":
            continue
        if kid in found:
            raise IntegrityError(f"two keys are named {kid!r}", id="bad-key-set")
        key = _key(plain)
        if key is not None:
            found[kid] = key
    return found


def _key(plain: dict[str, Any]) -> Key | None:
    import jwt
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    kind, curve, algorithm = (str(plain.get(name) or "") for name in ("kty", "crv", "alg"))
    fitting = [name for name, found in KEY_TYPES.items() if found == (kind, curve if kind != "RSA" else "")]
    if kind == "oct" or not fitting or (algorithm and algorithm not in fitting) or "d" in plain:
        return None  # a private key in a public set is nobody's secret any more
    try:
        jwk = jwt.PyJWK(plain, algorithm or fitting[0])
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if isinstance(jwk.key, RSAPublicKey) and jwk.key.key_size not in RSA_BITS:
        return None
    return Key(kind, curve if kind != "RSA" else "", algorithm, jwk)


def parse(text: str, issuers: Mapping[str, Issuer]) -> Parsed:
    """Read a token as far as is needed to know by which key it must be signed. Raises: TokenError."""
    if len(text) > TOKEN_BYTES_MAX:
        raise TokenError(f"the token is longer than {TOKEN_BYTES_MAX} bytes")
    parts = text.split(".")
    if len(parts) != 3 or not text.isascii():
        raise TokenError("the token is no signed JWT")
    try:
        header, claims = (_json(_decode(part)) for part in parts[:2])
    except (IntegrityError, binascii.Error, ValueError):
        raise TokenError("the token is no signed JWT") from None
    name, algorithm, kid = claims.get("iss"), header.get("alg"), header.get("kid")
    issuer = issuers.get(name) if isinstance(name, str) else None
    if issuer is None:
        raise TokenError("the token's issuer is not known here")
    if not isinstance(algorithm, str) or algorithm not in issuer.algorithms or algorithm not in KEY_TYPES:
        raise TokenError("the token is signed by an algorithm that is not configured")
    if not isinstance(kid, str) or not 0 < len(kid) <= KID_CHARS_MAX:
        raise TokenError("the token names no key (kid)")
    if "crit" in header:
        raise TokenError("the token needs an extension that is not understood here")
    return Parsed(issuer, kid, algorithm, claims, text)


def verify(parsed: Parsed, keys: Mapping[str, Key], now: float) -> Claims:
    """Prove a token by its issuer's keys, and give what it says. Raises: TokenError; UnknownKeyError."""
    import jwt

    issuer, algorithm = parsed.issuer, parsed.algorithm
    if KEY_TYPES[algorithm][0] == "oct":
        if issuer.secret is None or len(issuer.secret) < SECRET_BYTES_MIN[algorithm]:
            raise TokenError("the token is signed by an algorithm that is not configured")
        key: Any = issuer.secret
    else:
        found = keys.get(parsed.kid)
        if found is None:
            raise UnknownKeyError("the token's key is not known here")
        if (found.kind, found.curve) != KEY_TYPES[algorithm] or found.algorithm not in ("", algorithm):
            raise TokenError("the token's key is not for its algorithm")
        key = found.jwk.key
    try:
        jwt.PyJWS(algorithms=[algorithm]).decode(parsed.text, key, algorithms=[algorithm])
    except (jwt.PyJWTError, ValueError, TypeError):
        raise TokenError("the token's signature is wrong") from None
    return _check(parsed.claims, issuer, now)


def _check(claims: Mapping[str, Any], issuer: Issuer, now: float) -> Claims:
    audience = claims.get("aud")
    if audience != issuer.audience and not (isinstance(audience, list) and issuer.audience in audience):
        raise TokenError("the token is for another audience")
    expires_at = _moment(claims, "exp")
    if expires_at is None:
        raise TokenError("the token has no end (exp)")
    if now >= expires_at + LEEWAY_S:
        raise TokenError("the token has expired", id="token-expired")
    for name in ("nbf", "iat"):
        moment = _moment(claims, name)
        if moment is not None and now < moment - LEEWAY_S:
            raise TokenError("the token is not valid yet")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject:
        raise TokenError("the token names nobody (sub)")
    groups = claims.get(issuer.groups_claim, [])
    if not isinstance(groups, list) or len(groups) > GROUPS_MAX or not all(isinstance(name, str) for name in groups):
        raise TokenError(f"the token's groups are no list of at most {GROUPS_MAX} names")
    return Claims(issuer.organization, subject, tuple(groups), expires_at)


def _moment(claims: Mapping[str, Any], name: str) -> float | None:
    """Seconds since the epoch. Raises TokenError for what is no number."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or abs(value) > 1e12:
        raise TokenError(f"the token's {name} is no moment")
    return float(value)


def _decode(part: str) -> bytes:
    """Base64url without padding. Raises ValueError for anything else, padded and unprintable forms included."""
    if not part.replace("-", "a").replace("_", "a").isalnum():
        raise ValueError("no base64url")
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _json(data: bytes) -> dict[str, Any]:
    """A JSON object. Raises IntegrityError."""
    try:
        plain = json.loads(data)
    except (ValueError, RecursionError):
        plain = None
    if not isinstance(plain, dict):
        raise IntegrityError("no JSON object", id="bad-key-set")
    return plain


__all__ = ["Claims", "Issuer", "Key", "Parsed", "TokenError", "UnknownKeyError", "parse", "parse_jwks", "verify"]
