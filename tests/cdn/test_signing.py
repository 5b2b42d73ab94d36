"""Signed URLs of CloudFront: what is signed, for how long, and that ciphertext alone is asked for by them."""

from __future__ import annotations

import base64
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from aiohttp import web
from botocore.signers import CloudFrontSigner
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from rage_net import config
from rage_net.cdn.signing import KEY_BYTES_MAX, LIFETIME_S, LIFETIME_S_MAX, SigningKey, load_key, policy, sign
from rage_net.chunk.manifest import blocks
from rage_net.cid import BLOCK_BYTES_MAX, Cid
from rage_net.engine import Engine
from rage_net.env import SystemEnv
from rage_net.errors import AccessDeniedError, ConfigError, NotFoundError, UnavailableError, UsageError
from rage_net.metrics import Metrics
from rage_net.services.fronting import Front, Fronting
from rage_net.verbs.chunk import GetChunk
from rage_net.verbs.diagnose import Why, WhyResult
from rage_net.web import Web
from tests.cdn.loopback import Cdn, serving
from tests.engine.test_sealed import opened, publish, put_here
from tests.engine.test_ways_in import Sink
from tests.engine.test_ways_in import publish as publish_plain

ID = "K2JCJMDEHXQW5F"
URL = "https://d111111abcdef8.cloudfront.net/chunks/bafkr4iaaa"
NOW = 1_357_034_100.0
PRIVATE = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
KEY = SigningKey(ID, PRIVATE)


def pem(key: Any, form: PrivateFormat = PrivateFormat.PKCS8, passphrase: bytes = b"") -> bytes:
    secrecy = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    made: bytes = key.private_bytes(Encoding.PEM, form, secrecy)
    return made


def decoded(text: str) -> bytes:
    """CloudFront's base64, read as its documentation says it."""
    return base64.b64decode(text.replace("-", "+").replace("_", "=").replace("~", "/"), validate=True)


# --- what is signed ---


def test_the_policy_is_what_aws_prints_to_the_byte() -> None:
    assert policy("https://d111111abcdef8.cloudfront.net/image.jpg", 1_357_034_400) == (
        b'{"Statement":[{"Resource":"https://d111111abcdef8.cloudfront.net/image.jpg",'
        b'"Condition":{"DateLessThan":{"AWS:EpochTime":1357034400}}}]}'
    )


def test_the_public_key_verifies_the_signature_over_these_bytes_and_no_others() -> None:
    url, _, query = sign(KEY, URL, NOW).partition("?")
    words = parse_qs(query, strict_parsing=True)
    assert url == URL and list(words) == ["Expires", "Signature", "Key-Pair-Id"]
    assert words["Expires"] == ["1357034400"] and words["Key-Pair-Id"] == [ID]
    signature = decoded(words["Signature"][0])
    said = f'{{"Statement":[{{"Resource":"{URL}","Condition":{{"DateLessThan":{{"AWS:EpochTime":1357034400}}}}}}]}}'
    PRIVATE.public_key().verify(signature, said.encode(), PKCS1v15(), SHA1())
    with pytest.raises(InvalidSignature):
        PRIVATE.public_key().verify(signature, said.replace("aaa", "aab").encode(), PKCS1v15(), SHA1())


def test_awss_own_signer_makes_the_same_url_whatever_stands_in_the_signature(rng: random.Random) -> None:
    theirs = CloudFrontSigner(ID, lambda message: PRIVATE.sign(message, PKCS1v15(), SHA1()))
    seen = set()
    for _ in range(20):  # all 64 letters occur, and the three that differ
        url = f"https://cdn.example.org/rage/chunks/{Cid.of(rng.randbytes(8))}"
        signed = sign(KEY, url, NOW)
        assert signed == theirs.generate_presigned_url(url, date_less_than=datetime.fromtimestamp(NOW + 300, UTC))
        seen |= set(signed.partition("Signature=")[2].partition("&")[0])
    assert {"-", "_", "~"} < seen and not seen & {"+", "/", "="}


def test_a_host_is_signed_as_it_goes_on_the_wire() -> None:
    assert sign(KEY, URL.replace("d111", "D111"), NOW) == sign(KEY, URL, NOW)


@pytest.mark.parametrize("lifetime_s", [-1.0, 0.0, LIFETIME_S_MAX + 1, float("inf"), float("nan")])
def test_no_url_holds_for_longer_than_ten_minutes_or_for_no_time(lifetime_s: float) -> None:
    assert LIFETIME_S <= LIFETIME_S_MAX == 600
    assert "Expires=1357034700&" in sign(KEY, URL, NOW, LIFETIME_S_MAX)
    with pytest.raises(ValueError, match="1 to 600 s"):
        sign(KEY, URL, NOW, lifetime_s)


def test_a_url_that_is_signed_already_is_not_signed_again() -> None:
    with pytest.raises(ValueError, match="no query"):
        sign(KEY, sign(KEY, URL, NOW), NOW)


# --- keys ---


def test_keys_are_read_in_both_forms_that_openssl_writes_and_show_themselves_nowhere() -> None:
    for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
        key = load_key(ID, pem(PRIVATE, form), "signing.pem")
        assert sign(key, URL, NOW) == sign(KEY, URL, NOW)
        assert repr(key) == f"SigningKey(id='{ID}')"
    assert "SigningKey" not in repr(Front("cdn", URL, 0, False, signing_key=KEY))


BAD = {
    "no key": (lambda: b"-----BEGIN nonsense", "no private key in PEM"),
    "empty": (lambda: b"", "no private key in PEM"),
    "encrypted": (lambda: pem(PRIVATE, passphrase=b"sentinel"), "encrypted"),
    "elliptic": (lambda: pem(ec.generate_private_key(ec.SECP256R1())), "no RSA key of 2048 bits"),
    "short": (lambda: pem(rsa.generate_private_key(65_537, 1024)), "no RSA key of 2048 bits"),
    "large": (lambda: pem(PRIVATE) + b"#" * KEY_BYTES_MAX, "more than"),
    "public": (
        lambda: PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "no private key in PEM",
    ),
}


def yaml(url: str, file: str, id: str = ID) -> str:
    return f"""\
cdn:
  version: 1
  providers:
    - name: cloudfront
      type: commercial
      public_urls: ["{url}"]
      config: {{distribution_id: E1, access_key_id: "k", secret_access_key: "s",
        signing_key_id: "{id}", signing_key_file: "{file}"}}
"""


@pytest.mark.anyio
@pytest.mark.parametrize("made", BAD.values(), ids=BAD.keys())
async def test_a_file_that_is_no_such_key_is_named_by_its_key_in_cdn_yaml(
    made: tuple[Callable[[], bytes], str], tmp_path: Path, rng: random.Random
) -> None:
    data, why = made[0](), made[1]
    async with opened(tmp_path / "a", rng) as engine:
        (engine.home.config / "cdn.yaml").write_text(yaml("http://127.0.0.1:1", "signing.pem"))
        (engine.home.root / "signing.pem").write_bytes(data)
        with pytest.raises(ConfigError) as caught:
            await engine.run(GetChunk(str(Cid.of(b"x")), sources=("cdn",)), sink=Sink())
        error = caught.value
        assert error.id == "cdn-signing-key" and "cdn.providers[0].config.signing_key_file" in error.message
        assert why in error.why and "BEGIN" not in f"{error.message}{error.why}"


@pytest.mark.anyio
async def test_a_key_file_that_is_missing_is_named_by_its_key_in_cdn_yaml(tmp_path: Path, rng: random.Random) -> None:
    async with opened(tmp_path / "a", rng) as engine:
        (engine.home.config / "cdn.yaml").write_text(yaml("http://127.0.0.1:1", "gone.pem"))
        with pytest.raises(ConfigError, match=r"providers\[0\]\.config\.signing_key_file: .*gone\.pem: no such file"):
            await engine.run(GetChunk(str(Cid.of(b"x")), sources=("cdn",)), sink=Sink())


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        (f'signing_key_id: "{ID}"', "signing_key_id: null", "config.signing_key_id"),
        (f'signing_key_id: "{ID}"', 'signing_key_id: ""', "config.signing_key_id"),
        ('signing_key_file: "signing.pem"', "signing_key_file: null", "config.signing_key_file"),
    ],
)
def test_an_id_without_a_file_and_a_file_without_an_id_are_refused(
    old: str, new: str, key: str, tmp_path: Path
) -> None:
    text = yaml("https://cdn.example.org", "signing.pem").replace(old, new)
    with pytest.raises(config.InvalidConfigError) as caught:
        config.read_cdn(tmp_path / "cdn.yaml", text.encode(), {}, tmp_path)
    assert [it.key for it in caught.value.problems] == [f"cdn.providers[0].{key}"]


def test_http_to_elsewhere_is_warned_of_and_the_file_is_sought_in_the_home(tmp_path: Path) -> None:
    def read(url: str) -> Any:
        return config.read_cdn(tmp_path / "cdn.yaml", yaml(url, "signing.pem").encode(), {}, tmp_path)

    cdn, problems, _ = read("http://cdn.example.org")
    assert [it.key for it in problems] == ["cdn.providers[0].public_urls"]
    assert cdn.providers[0].config.signing_key_file == tmp_path / "signing.pem"
    for url in ("https://cdn.example.org", "http://127.0.0.1:8080"):
        assert not read(url)[1]


# --- a distribution that demands them ---


class Guarded:
    """A CDN that gives nothing without a URL that is signed for it, as CloudFront with a key group."""

    def __init__(self, cdn: Cdn) -> None:
        self.cdn = cdn
        self.signed: list[str] = []
        self.unsigned: list[str] = []
        self.signatures: set[str] = set()
        cdn.answer = self.give

    async def give(self, request: web.Request) -> web.StreamResponse:
        if not request.query_string:
            self.unsigned.append(request.path)
            return web.Response(status=403, text="MissingKey")
        self.signed.append(request.path)
        words = dict(request.query)
        self.signatures.add(words["Signature"])
        # made of the request alone, and by no code of ours
        said = (
            f'{{"Statement":[{{"Resource":"http://{request.headers["Host"]}{request.path}",'
            f'"Condition":{{"DateLessThan":{{"AWS:EpochTime":{words["Expires"]}}}}}}}]}}'
        )
        try:
            PRIVATE.public_key().verify(decoded(words["Signature"]), said.encode(), PKCS1v15(), SHA1())
        except InvalidSignature:
            return web.Response(status=403, text="AccessDenied")
        if words["Key-Pair-Id"] != ID or int(words["Expires"]) <= time.time():
            return web.Response(status=403, text="AccessDenied")
        return await self.cdn.give(request)


@pytest.fixture
async def guarded() -> AsyncIterator[Guarded]:
    async with serving() as cdn:
        yield Guarded(cdn)


class LateEnv(SystemEnv):
    """A machine whose clock is an hour behind."""

    def now(self) -> float:
        return super().now() - 3600


@pytest.mark.anyio
async def test_a_ciphertext_is_given_to_a_signed_url_and_to_no_other(guarded: Guarded) -> None:
    cid = guarded.cdn.put(b"ciphertext")
    other = SigningKey(ID, rsa.generate_private_key(65_537, 2048))
    async with Web() as client:

        async def fetch(key: SigningKey | None, *, is_ciphertext: bool = True, env: SystemEnv | None = None) -> bytes:
            front = Front("cdn", guarded.cdn.url, 0, False, signing_key=key)
            fronting = Fronting([front], env or SystemEnv(), Metrics(), lambda _: client)
            return await fronting.fetch(front, cid, BLOCK_BYTES_MAX, is_ciphertext=is_ciphertext)

        assert await fetch(KEY) == b"ciphertext"
        assert guarded.signed == [f"/chunks/{cid}"] and not guarded.unsigned
        for key, is_ciphertext in ((None, True), (KEY, False), (None, False)):
            with pytest.raises(AccessDeniedError) as plain:
                await fetch(key, is_ciphertext=is_ciphertext)
            assert plain.value.message == "it answers 403"
        assert len(guarded.unsigned) == 3 and len(guarded.signed) == 1
        for key, env in ((KEY, LateEnv()), (other, SystemEnv()), (SigningKey("K0", PRIVATE), SystemEnv())):
            with pytest.raises(AccessDeniedError) as refused:
                await fetch(key, env=env)
            assert refused.value.id == "cdn-refused" and "403 to a signed URL" in refused.value.message
            assert "clock" in refused.value.message


async def get(engine: Engine, root: str) -> bytes:
    sink = Sink()
    await engine.run(GetChunk(root, sources=("cdn",), cache=False), sink=sink)
    return bytes(sink.data)


@pytest.mark.anyio
async def test_a_sealed_document_is_read_by_signed_urls_and_a_public_one_is_asked_for_unsigned(
    guarded: Guarded, tmp_path: Path, rng: random.Random, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    data, open_ = rng.randbytes(300_000), rng.randbytes(20_000)
    async with opened(tmp_path / "a", rng) as engine:
        (engine.home.config / "cdn.yaml").write_text(yaml(guarded.cdn.url, "signing.pem"))
        (engine.home.root / "signing.pem").write_bytes(pem(PRIVATE))
        doc_id, root = await put_here(engine, data, cdn="encrypted")
        held: dict[Cid, bytes] = {}
        await publish(engine, doc_id, held)
        guarded.cdn.objects |= {str(cid): block for cid, block in held.items()}

        assert await get(engine, str(root)) == data
        assert {path.removeprefix("/chunks/") for path in guarded.signed} == set(guarded.cdn.objects)
        assert not guarded.unsigned

        guarded.signed.clear()
        public = await publish_plain(engine, guarded.cdn, open_)
        plain = {f"/chunks/{cid}" for cid in blocks(Cid.parse(public), engine.store.get)}
        with pytest.raises(NotFoundError) as refused:
            await get(engine, public)
        assert not guarded.signed
        assert guarded.unsigned and set(guarded.unsigned) <= plain
        guarded.cdn.answer = guarded.cdn.give
        assert await get(engine, public) == open_, "where the distribution leaves it open"

        # whatever goes wrong, no text holds a signature, or the key
        why: WhyResult = await engine.run(Why(str(root)))
        told = [str(why)]
        guarded.cdn.answer = guarded.give
        guarded.cdn.objects.clear()
        with pytest.raises(NotFoundError) as absent:
            await get(engine, str(root))
        assert "not found" in absent.value.why
        (engine.home.root / "signing.pem").write_bytes(pem(rsa.generate_private_key(65_537, 2048)))
    guarded.cdn.objects |= {str(cid): block for cid, block in held.items()}
    async with opened(tmp_path / "a", rng) as engine:
        with pytest.raises(NotFoundError) as wrong:
            await get(engine, str(root))
        assert "it answers 403 to a signed URL" in wrong.value.why, "who has the wrong key sees it"
        guarded.cdn.says(500)
        with pytest.raises((NotFoundError, UnavailableError)) as broken:
            await get(engine, str(root))
        for error in (refused.value, absent.value, wrong.value, broken.value):
            told += [error.message, error.why, *error.mend, repr(error)]
    told += [caplog.text, *(path.read_text() for path in engine.home.root.rglob(engine.home.edges.name))]
    everything = "\n".join(told)
    assert "it answers 500" in everything and engine.home.edges.exists(), "what was searched is there"
    assert guarded.signatures and not any(each in everything for each in guarded.signatures)
    assert "Signature=" not in everything and "PRIVATE KEY" not in everything


@pytest.mark.anyio
async def test_an_address_that_is_none_is_told_without_its_signature() -> None:
    signed = sign(KEY, "http://127.0.0.1:port/chunks/x", NOW)
    async with Web() as client:
        for url in (signed, signed.replace("http:", "gopher:").replace(":port", "")):
            with pytest.raises(UsageError, match="no address of a web server") as caught:
                await client.send("GET", url)
            assert "/chunks/x" in str(caught.value) and "Signature" not in f"{caught.value} {caught.value.why}"
