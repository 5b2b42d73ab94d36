"""Bearer tokens: one test an attack, and the one way in."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from rage_net import tokens
from rage_net.errors import IntegrityError
from rage_net.tokens import Claims, Issuer, Key, TokenError, UnknownKeyError, parse, parse_jwks, verify

NOW = 1_800_000_000.0
ISSUER = Issuer("https://login.acme.org", "acme", "rage", frozenset({"EdDSA", "ES256", "RS256"}))
ISSUERS = {ISSUER.issuer: ISSUER}

ED = Ed25519PrivateKey.from_private_bytes(bytes(32))
EC = ec.derive_private_key(7, ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
CLAIMS: dict[str, Any] = {
    "iss": ISSUER.issuer,
    "sub": "alice",
    "aud": "rage",
    "exp": NOW + 600,
    "nbf": NOW - 10,
    "iat": NOW - 10,
    "groups": ["research", "staff"],
}


def jwk(key: Any, kid: str, **more: object) -> dict[str, Any]:
    kinds = {Ed25519PrivateKey: "OKP", ec.EllipticCurvePrivateKey: "EC", rsa.RSAPrivateKey: "RSA"}
    kind = next(name for cls, name in kinds.items() if isinstance(key, cls))
    algorithm = {
        "OKP": jwt.algorithms.OKPAlgorithm,
        "EC": jwt.algorithms.ECAlgorithm,
        "RSA": jwt.algorithms.RSAAlgorithm,
    }
    return {**algorithm[kind].to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig", **more}  # type: ignore[attr-defined]


SET = {"keys": [jwk(ED, "ed"), jwk(EC, "ec"), jwk(RSA, "rsa")]}
KEYS: Mapping[str, Key] = parse_jwks(json.dumps(SET).encode())


def sign(claims: Mapping[str, Any] = CLAIMS, key: Any = ED, algorithm: str = "EdDSA", **header: object) -> str:
    headers = {"kid": "ed", **header}
    return jwt.encode(
        dict(claims), key, algorithm=algorithm, headers={k: v for k, v in headers.items() if v is not None}
    )


def part(plain: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(plain).encode()).decode().rstrip("=")


def prove(token: str, now: float = NOW, issuers: Mapping[str, Issuer] = ISSUERS) -> Claims:
    return verify(parse(token, issuers), KEYS, now)


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in CLAIMS.items() if key != name}


@pytest.mark.parametrize(("key", "algorithm", "kid"), [(ED, "EdDSA", "ed"), (EC, "ES256", "ec"), (RSA, "RS256", "rsa")])
def test_a_token_that_its_issuer_signed_proves_a_user_of_its_organisation(key: Any, algorithm: str, kid: str) -> None:
    found = prove(sign(key=key, algorithm=algorithm, kid=kid))
    assert found == Claims("acme", "alice", ("research", "staff"), NOW + 600)


def test_an_audience_may_be_one_of_several() -> None:
    assert prove(sign({**CLAIMS, "aud": ["other", "rage"]})).subject == "alice"


# --- attacks ---


def test_alg_none_is_refused_in_every_spelling() -> None:
    for word in ("none", "None", "NONE", "nOnE", ""):
        for signature in ("", sign().rpartition(".")[2]):
            with pytest.raises(TokenError, match="not configured"):
                prove(f"{part({'alg': word, 'kid': 'ed'})}.{part(CLAIMS)}.{signature}")


@pytest.mark.parametrize("form", ["pem", "der", "raw", "jwk"])
def test_hs256_signed_with_the_public_key_is_refused(form: str) -> None:
    public = RSA.public_key()
    secret = {
        "pem": public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        "der": public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        "raw": ED.public_key().public_bytes_raw(),
        "jwk": json.dumps(SET["keys"][2]).encode(),
    }[form]
    body = f"{part({'alg': 'HS256', 'kid': 'rsa'})}.{part(CLAIMS)}"
    mac = base64.urlsafe_b64encode(hmac.digest(secret, body.encode(), hashlib.sha256)).decode().rstrip("=")
    with pytest.raises(TokenError, match="not configured"):
        prove(f"{body}.{mac}")
    careless = Issuer(ISSUER.issuer, "acme", "rage", frozenset({"RS256", "HS256"}))  # the configuration refuses this
    with pytest.raises(TokenError, match="not configured"):
        prove(f"{body}.{mac}", issuers={ISSUER.issuer: careless})


def test_an_algorithm_that_was_not_configured_is_refused_though_the_key_would_do() -> None:
    with pytest.raises(TokenError, match="not configured"):
        prove(sign(key=RSA, algorithm="RS512", kid="rsa"))


def test_a_key_is_used_with_algorithms_of_its_kind_alone() -> None:
    with pytest.raises(TokenError, match="not for its algorithm"):
        prove(sign(key=EC, algorithm="ES256", kid="rsa"))
    bound = parse_jwks(json.dumps({"keys": [jwk(RSA, "rsa", alg="PS256")]}).encode())
    with pytest.raises(TokenError, match="not for its algorithm"):
        verify(parse(sign(key=RSA, algorithm="RS256", kid="rsa"), ISSUERS), bound, NOW)


@pytest.mark.parametrize(
    ("claims", "told"),
    [
        ({**CLAIMS, "aud": "other"}, "another audience"),
        ({**CLAIMS, "aud": ["other"]}, "another audience"),
        ({**CLAIMS, "aud": "rage2"}, "another audience"),
        ({**CLAIMS, "aud": {"rage": 1}}, "another audience"),
        (without("aud"), "another audience"),
        ({**CLAIMS, "exp": NOW - 61}, "expired"),
        (without("exp"), "no end"),
        ({**CLAIMS, "exp": "9999999999"}, "no moment"),
        ({**CLAIMS, "exp": True}, "no moment"),
        ({**CLAIMS, "exp": 1e300}, "no moment"),
        ({**CLAIMS, "nbf": NOW + 61}, "not valid yet"),
        ({**CLAIMS, "iat": NOW + 61}, "not valid yet"),
        (without("sub"), "names nobody"),
        ({**CLAIMS, "sub": ""}, "names nobody"),
        ({**CLAIMS, "sub": 7}, "names nobody"),
        (without("iss"), "issuer is not known"),
        ({**CLAIMS, "iss": "https://login.acme.org/"}, "issuer is not known"),
        ({**CLAIMS, "iss": ["https://login.acme.org"]}, "issuer is not known"),
        ({**CLAIMS, "groups": ["x"] * (tokens.GROUPS_MAX + 1)}, "groups"),
        ({**CLAIMS, "groups": "admins"}, "groups"),
        ({**CLAIMS, "groups": [{}]}, "groups"),
    ],
)
def test_claims_that_are_wrong_or_missing_are_refused_though_the_signature_is_good(
    claims: dict[str, Any], told: str
) -> None:
    parts = f"{part({'alg': 'EdDSA', 'kid': 'ed'})}.{part(claims)}"
    signature = base64.urlsafe_b64encode(ED.sign(parts.encode())).decode().rstrip("=")
    with pytest.raises(TokenError, match=told):
        prove(f"{parts}.{signature}")


def test_a_minute_of_leeway_is_given_to_clocks_and_no_more() -> None:
    token = sign({**CLAIMS, "exp": NOW, "nbf": NOW, "iat": NOW})
    assert prove(token, NOW + 59) == prove(token, NOW - 59)
    for now in (NOW + 60, NOW - 61):
        with pytest.raises(TokenError):
            prove(token, now)


def test_a_changed_claim_or_header_breaks_the_signature() -> None:
    header, _, signature = sign().split(".")
    with pytest.raises(TokenError, match="signature"):
        prove(f"{header}.{part({**CLAIMS, 'sub': 'bob'})}.{signature}")
    with pytest.raises(TokenError, match="signature"):
        prove(f"{part({'alg': 'EdDSA', 'kid': 'ed', 'x': 1})}.{part(CLAIMS)}.{signature}")
    with pytest.raises(TokenError, match="signature"):
        prove(sign(key=Ed25519PrivateKey.generate()))


def test_a_token_that_brings_its_own_key_is_checked_by_ours() -> None:
    thief = Ed25519PrivateKey.generate()
    for header in ({"jwk": jwk(thief, "ed")}, {"jku": "https://evil.example/keys"}, {"x5u": "https://evil.example/x"}):
        with pytest.raises(TokenError, match="signature"):
            prove(sign(key=thief, **header))


def test_a_token_without_a_key_name_or_with_one_that_is_not_known_is_refused() -> None:
    for kid in (None, 7, "", "x" * 1000):
        parts = f"{part({'alg': 'EdDSA', 'kid': kid})}.{part(CLAIMS)}"
        with pytest.raises(TokenError, match="names no key"):
            prove(f"{parts}.{'A' * 86}")
    for kid in ("other", "../../etc/passwd", "' OR 1=1"):
        with pytest.raises(UnknownKeyError):
            prove(sign(kid=kid))


def test_critical_extensions_are_refused() -> None:
    parts = f"{part({'alg': 'EdDSA', 'kid': 'ed', 'crit': ['b64'], 'b64': False})}.{part(CLAIMS)}"
    signature = base64.urlsafe_b64encode(ED.sign(parts.encode())).decode().rstrip("=")
    with pytest.raises(TokenError, match="extension"):
        prove(f"{parts}.{signature}")


def test_a_token_of_one_issuer_says_nothing_for_another() -> None:
    other = Issuer("https://login.globex.org", "globex", "rage", frozenset({"EdDSA"}))
    with pytest.raises(TokenError, match="issuer is not known"):
        prove(sign(), issuers={other.issuer: other})
    renamed = sign({**CLAIMS, "iss": other.issuer})
    with pytest.raises(UnknownKeyError):
        verify(parse(renamed, {other.issuer: other}), {}, NOW)


def test_a_shared_secret_is_used_when_it_was_configured_on_purpose() -> None:
    secret = bytes(range(32))
    shared = Issuer(ISSUER.issuer, "acme", "rage", frozenset({"HS256"}), secret=secret)
    token = jwt.encode(CLAIMS, secret, algorithm="HS256", headers={"kid": "any"})
    assert verify(parse(token, {shared.issuer: shared}), {}, NOW).subject == "alice"
    short = Issuer(ISSUER.issuer, "acme", "rage", frozenset({"HS256"}), secret=b"short")
    with pytest.raises(TokenError):
        verify(parse(token, {short.issuer: short}), {}, NOW)


def test_a_token_of_16_kib_is_too_long_to_be_read() -> None:
    with pytest.raises(TokenError, match="longer than 16384"):
        prove(sign({**CLAIMS, "pad": "x" * tokens.TOKEN_BYTES_MAX}))


def test_json_that_nests_without_end_is_refused() -> None:
    deep = base64.urlsafe_b64encode(b"[" * 6000).decode().rstrip("=")
    with pytest.raises(TokenError):
        prove(f"{deep}.{deep}.{'A' * 86}")


@given(st.text(max_size=200) | st.builds(lambda *parts: ".".join(parts), *[st.text("ABab01-_=. ", max_size=40)] * 3))
def test_any_text_proves_nobody(text: str) -> None:
    with pytest.raises(TokenError):
        prove(text)


@given(st.integers(0, len(sign()) - 1), st.sampled_from("AQgw-_.= \n"))
def test_a_token_with_one_character_changed_proves_nobody_or_is_the_same_bytes(at: int, char: str) -> None:
    token = sign()
    changed = token[:at] + char + token[at + 1 :]
    try:
        found = prove(changed)
    except TokenError:
        return
    last = {token.index("."), token.rindex("."), len(token)}
    assert changed == token or at + 1 in last, "but for the bits that base64 leaves unused"
    assert found == prove(token)


# --- key sets ---


def keys(*plain: object) -> Mapping[str, Key]:
    return parse_jwks(json.dumps({"keys": list(plain)}).encode())


def test_keys_that_cannot_be_used_are_left_out() -> None:
    weak = rsa.generate_private_key(65537, 1024)
    k256 = ec.generate_private_key(ec.SECP256K1())
    found = keys(
        jwk(ED, "good"),
        jwk(ED, "for encryption", use="enc"),
        {"kty": "oct", "kid": "secret", "k": "AAAA"},
        {**jwk(ED, "private"), "d": "AAAA"},
        {key: value for key, value in jwk(ED, "").items() if key != "kid"},
        jwk(weak, "weak"),
        {**jwk(EC, "curve"), "crv": "secp256k1", "y": jwk(k256, "x")["y"]},
        {"kty": "EC", "kid": "off the curve", "crv": "P-256", "x": "AAAA", "y": "AAAA"},
        jwk(RSA, "wrong algorithm", alg="ES256"),
        jwk(RSA, "unknown algorithm", alg="none"),
        "no object",
    )
    assert list(found) == ["good"]


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"keys": 1}', b'{"keys": ' + b"[" * 5000, b"\xff", b" " * (tokens.JWKS_BYTES_MAX + 1)],
)
def test_what_is_no_key_set_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        parse_jwks(data)


def test_a_name_of_two_keys_is_no_name() -> None:
    with pytest.raises(IntegrityError, match="two keys"):
        keys(jwk(ED, "a"), jwk(EC, "a"))
    with pytest.raises(IntegrityError, match="at most 64"):
        keys(*[jwk(ED, str(number)) for number in range(65)])
