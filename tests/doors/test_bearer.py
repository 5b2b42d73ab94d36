"""Users at the HTTP door: what a token opens, what a bad one is told, and how the issuer's keys are fetched."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import jwt
import pytest
from conftest_doors import TIMEOUT_S
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rage_net import bearer as bearer_module
from rage_net import tokens
from rage_net.acl import AccessList, Entry, Principal, compile_access
from rage_net.bearer import Bearer
from rage_net.cid import Cid
from rage_net.config.network import Issuer
from rage_net.config.values import Name, Secret
from rage_net.denials import Denials
from rage_net.env import SystemEnv
from rage_net.errors import UnavailableError
from rage_net.gate import Served
from rage_net.http import Http
from rage_net.metrics import Metrics
from rage_net.tokens import TokenError
from rage_net.web import Web

pytestmark = pytest.mark.anyio

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
ISSUER = Issuer(issuer="https://login.acme.org", organization=Name("acme"), audience="rage", jwks="keys.json")
DATA = b"for those in research"
CID = Cid.of(DATA)


class Clock(SystemEnv):
    """Time that goes on when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 1_800_000_000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


@pytest.fixture
async def env() -> AsyncIterator[Clock]:
    made = Clock()
    yield made
    made.close()


def key_set(*named: tuple[str, Ed25519PrivateKey]) -> str:
    to_jwk: Any = jwt.algorithms.OKPAlgorithm.to_jwk
    return json.dumps({"keys": [{**to_jwk(key.public_key(), as_dict=True), "kid": kid} for kid, key in named]})


def token(env: Clock, *, key: Ed25519PrivateKey = KEY, kid: str = "a", **claims: object) -> str:
    said = {"iss": ISSUER.issuer, "sub": "alice", "aud": "rage", "exp": env.at + 600, "groups": ["research"], **claims}
    return jwt.encode(said, key, algorithm="EdDSA", headers={"kid": kid})


class Chunks:
    """One chunk, for the group research; asks as the engine does."""

    access: AccessList = compile_access(
        [Entry(b"1", "group:acme/research", "read", True)], "most-restrictive", "owner", "acme", visibility="private"
    )

    def __init__(self) -> None:
        self.asked: list[Principal] = []

    async def stat_served(self, cid: Cid, principal: Principal) -> Served | None:
        from rage_net.acl import ChunkResource, Rules, authorize

        self.asked.append(principal)
        rules = Rules(public_to_strangers=False, is_open=False, organization="acme")
        resource = ChunkResource(cid, (self.access,) if cid == CID else ())
        return Served(len(DATA)) if authorize(resource, principal, "read", rules, 0.0).allowed else None

    async def sizes_served(self, cids: Sequence[Cid], principal: Principal) -> list[int | None]:
        raise NotImplementedError

    async def read_served(self, cid: Cid, principal: Principal) -> bytes | None:
        return DATA if await self.stat_served(cid, principal) is not None else None


Ask = Callable[..., Awaitable[tuple[int, Any, bytes]]]


@asynccontextmanager
async def door(env: Clock, home: Path, issuer: Issuer = ISSUER) -> AsyncIterator[tuple[Ask, Chunks, Metrics]]:
    chunks, metrics = Chunks(), Metrics()
    async with Web() as web, aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session:
        proving = Bearer([issuer], home, web, env)
        denials = Denials(home / "denials.jsonl", env, metrics)
        async with Http(chunks, metrics, listen="127.0.0.1:0", ready=list, bearer=proving, denials=denials) as http:

            async def ask(cid: Cid, *tokens: str, method: str = "GET", **headers: str) -> tuple[int, Any, bytes]:
                sent = [("Authorization", f"Bearer {text}") for text in tokens] + list(headers.items())
                async with session.request(method, f"{http.addresses[0]}/chunks/{cid}", headers=sent) as answer:
                    return answer.status, answer.headers, await answer.read()

            yield ask, chunks, metrics
        await denials.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "keys.json").write_text(key_set(("a", KEY)))
    return tmp_path


async def test_a_user_of_the_group_gets_the_chunk_and_no_cache_may_keep_it(env: Clock, home: Path) -> None:
    async with door(env, home) as (ask, chunks, _):
        status, headers, body = await ask(CID, token(env))
        assert (status, body) == (200, DATA)
        assert headers["Cache-Control"] == "private, no-store"
        status, headers, _ = await ask(CID, token(env), **{"If-None-Match": f'"{CID}"'})
        assert (status, headers["Cache-Control"]) == (304, "private, no-store")
        status, headers, body = await ask(CID, token(env), Range="bytes=0-3")
        assert (status, body, headers["Cache-Control"]) == (206, DATA[:4], "private, no-store")
    assert {str(principal) for principal in chunks.asked} == {"user:acme/alice"}


async def test_hidden_and_absent_are_one_answer_with_and_without_a_token(env: Clock, home: Path) -> None:
    absent = Cid.of(b"absent")
    other = token(env, groups=["sales"])
    async with door(env, home) as (ask, _, _):
        for sent in ((), (other,)):
            for method in ("GET", "HEAD"):
                for headers in ({}, {"If-None-Match": f'"{CID}"'}, {"Range": "bytes=0-3"}):
                    hidden, missing = [await ask(cid, *sent, method=method, **headers) for cid in (CID, absent)]
                    assert hidden[0] == missing[0] == 404
                    assert hidden[2].replace(str(CID).encode(), b"") == missing[2].replace(str(absent).encode(), b"")
                    assert {**hidden[1], "Date": ""} == {**missing[1], "Date": ""}


async def test_a_bad_token_is_told_so_even_for_what_is_public_and_leaves_a_record_without_it(
    env: Clock, home: Path
) -> None:
    async with door(env, home) as (ask, chunks, metrics):
        bad = token(env, key=Ed25519PrivateKey.generate())
        status, headers, _ = await ask(CID, bad)
        assert status == 401
        assert headers["WWW-Authenticate"].startswith('Bearer error="invalid_token"')
        assert headers["Cache-Control"] == "no-store"
        assert (await ask(CID, token(env, exp=env.at - 61)))[0] == 401
        assert (await ask(CID, token(env), token(env)))[0] == 401, "which of two"
        assert (await ask(CID, Authorization="Basic YTpi"))[0] == 401
        assert chunks.asked == []
    record = (home / "denials.jsonl").read_text()
    assert record.count("http-token") == 4 and bad not in record and bad.split(".")[1] not in record
    assert metrics.denied.read() == {("http-token",): [4.0]}


async def test_a_door_that_knows_no_issuer_takes_no_token(env: Clock, home: Path) -> None:
    async with Http(Chunks(), Metrics(), listen="127.0.0.1:0", ready=list) as http, aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bearer {token(env)}"}
        async with session.get(f"{http.addresses[0]}/chunks/{CID}", headers=headers) as answer:
            assert answer.status == 401
        async with session.get(f"{http.addresses[0]}/healthz", headers=headers) as answer:
            assert answer.status == 200


async def test_names_that_no_right_could_be_given_to_are_left_out_or_refused(env: Clock, home: Path) -> None:
    async with Web() as web:
        proving = Bearer([ISSUER], home, web, env)
        found = await proving.principal("bearer  " + token(env, groups=["research", "rese\u0430rch", ""]))
        assert found.groups == {"acme/research"}
        with pytest.raises(TokenError, match="subject"):
            await proving.principal("Bearer " + token(env, sub="al\u0456ce"))


async def test_a_secret_that_was_configured_is_used_and_no_key_set_is_read(env: Clock, tmp_path: Path) -> None:
    issuer = Issuer(
        issuer=ISSUER.issuer,
        organization=Name("acme"),
        audience="rage",
        algorithms=("HS256",),
        secret=Secret("s" * 32),
    )
    said = {"iss": ISSUER.issuer, "sub": "alice", "aud": "rage", "exp": env.at + 600}
    async with Web() as web:
        proving = Bearer([issuer], tmp_path, web, env)
        signed = jwt.encode(said, "s" * 32, algorithm="HS256", headers={"kid": "x"})
        assert str(await proving.principal(f"Bearer {signed}")) == "user:acme/alice"


# --- the issuer's keys ---


class Server:
    """An issuer over HTTPS, without a network."""

    def __init__(self) -> None:
        self.body: bytes | None = key_set(("a", KEY)).encode()
        self.asked = 0

    def web(self) -> Web:
        def answer(request: httpx.Request) -> httpx.Response:
            self.asked += 1
            if self.body is None:
                raise httpx.ConnectError("nobody there", request=request)
            return httpx.Response(200, content=self.body, headers={"content-type": "application/jwk-set+json"})

        return Web(transport=httpx.MockTransport(answer))


REMOTE = Issuer(
    issuer=ISSUER.issuer, organization=Name("acme"), audience="rage", jwks="https://login.acme.org/jwks.json"
)


async def prove(proving: Bearer, text: str) -> str:
    return str(await proving.principal(f"Bearer {text}"))


async def test_keys_are_fetched_once_and_anew_for_a_new_name_at_most_once_a_minute(env: Clock, home: Path) -> None:
    server, second = Server(), Ed25519PrivateKey.generate()
    async with server.web() as web:
        proving = Bearer([REMOTE], home, web, env)
        for number in range(5):
            await prove(proving, token(env, sub=f"u{number}"))
        assert server.asked == 1
        server.body = key_set(("a", KEY), ("b", second)).encode()
        env.at += bearer_module.RETRY_S
        assert await prove(proving, token(env, key=second, kid="b")) == "user:acme/alice"
        assert server.asked == 2
        for number in range(50):  # strangers invent names
            with pytest.raises(TokenError):
                await prove(proving, token(env, kid=f"x{number}"))
        assert server.asked == 2
        env.at += bearer_module.RETRY_S
        with pytest.raises(TokenError):
            await prove(proving, token(env, kid="x"))
        assert server.asked == 3


async def test_a_withdrawn_key_is_not_taken_for_long(env: Clock, home: Path) -> None:
    server = Server()
    async with server.web() as web:
        proving = Bearer([REMOTE], home, web, env)
        signed = token(env, exp=env.at + 86_400)
        await prove(proving, signed)
        server.body = key_set(("b", Ed25519PrivateKey.generate())).encode()
        env.at += bearer_module.KEYS_S + 1
        with pytest.raises(TokenError):
            await prove(proving, signed)


async def test_an_issuer_that_does_not_answer_is_covered_by_its_old_keys_for_hours(env: Clock, home: Path) -> None:
    server = Server()
    async with server.web() as web:
        proving = Bearer([REMOTE], home, web, env)
        await prove(proving, token(env))
        server.body = None
        env.at += bearer_module.STALE_S
        assert await prove(proving, token(env)) == "user:acme/alice"
        env.at += bearer_module.KEYS_S + 1
        with pytest.raises(UnavailableError):
            await prove(proving, token(env))


@pytest.mark.parametrize("body", [b"x" * (tokens.JWKS_BYTES_MAX + 1), b"<html>", None])
async def test_a_key_set_that_cannot_be_had_is_unavailable_and_not_asked_for_again_at_once(
    env: Clock, home: Path, body: bytes | None
) -> None:
    server = Server()
    server.body = body
    async with server.web() as web:
        proving = Bearer([REMOTE], home, web, env)
        for _ in range(20):
            with pytest.raises(UnavailableError):
                await prove(proving, token(env))
    assert server.asked == 1


async def test_a_proven_token_is_remembered_for_a_minute_and_never_past_its_end(
    env: Clock, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = 0
    verify = tokens.verify

    def counted(*args: Any) -> tokens.Claims:
        nonlocal checked
        checked += 1
        return verify(*args)

    monkeypatch.setattr(tokens, "verify", counted)
    monkeypatch.setattr(bearer_module, "PROVEN_MAX", 10)
    async with Web() as web:
        proving = Bearer([ISSUER], home, web, env)
        signed = token(env, exp=env.at - 30)  # half a minute of leeway is left
        for _ in range(5):
            await prove(proving, signed)
        assert checked == 1
        env.at += 30
        with pytest.raises(TokenError):
            await prove(proving, signed)
        for number in range(50):
            await prove(proving, token(env, sub=f"u{number}"))
        assert len(proving._proven) == 10
