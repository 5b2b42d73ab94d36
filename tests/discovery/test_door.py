"""Discovery at the HTTP door, over real TCP on loopback: methods, bodies, floods, and what is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from rage_net import network_api
from rage_net.discovery import api
from rage_net.discovery.proofs import SIGNATURE
from rage_net.discovery.records import BODY_BYTES_MAX
from rage_net.discovery.registry import Registry
from rage_net.discovery.server import Server
from rage_net.errors import IntegrityError, UnavailableError
from rage_net.http import Http
from rage_net.metrics import Metrics

from .world import Dials, Env, Peer

pytestmark = pytest.mark.anyio

TIMEOUT_S = 20.0
JSON = "application/json"


class NoChunks:
    async def stat_served(self, cid: object, principal: object) -> None:
        return None

    async def sizes_served(self, cids: object, principal: object) -> list[int | None]:
        return []

    async def read_served(self, cid: object, principal: object) -> None:
        return None


class Door:
    def __init__(self, http: Http, server: Server, metrics: Metrics, session: aiohttp.ClientSession) -> None:
        self.server, self.metrics, self.session = server, metrics, session
        self.url = http.addresses[0]
        self.audience = self.url
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        self.address = host, int(port)

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any, dict[str, str]]:
        async with self.session.request(method, f"{self.url}{path}", **options) as answer:
            body = await answer.read()
            headers = {name.lower(): text for name, text in answer.headers.items()}
            return answer.status, json.loads(body) if body else None, headers

    async def register(self, peer: Peer, **words: Any) -> tuple[int, Any, dict[str, str]]:
        body, signature = peer.signed("/ip4/127.0.0.1/tcp/4001", **{"audience": self.audience, **words})
        return await self.ask("POST", api.REGISTER, data=body, headers={SIGNATURE: signature, "Content-Type": JSON})

    async def raw(self, head: str, body: bytes = b"") -> bytes:
        reader, writer = await asyncio.open_connection(*self.address)
        writer.write(head.replace("\n", "\r\n").encode() + body)
        answer = await asyncio.wait_for(reader.read(), TIMEOUT_S)
        writer.close()
        return answer


@asynccontextmanager
async def opened(env: Env, registry: Registry | None = None, **settings: Any) -> AsyncIterator[Door]:
    metrics = Metrics()
    server = Server(registry or Registry(None), env, metrics, dial_back=Dials())
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    settings = {"discovery": server, **settings}
    async with (
        server,
        Http(NoChunks(), metrics, listen="127.0.0.1:0", ready=list, **settings) as http,
        aiohttp.ClientSession(timeout=timeout) as session,
    ):
        yield Door(http, server, metrics, session)


async def test_a_peer_registers_and_is_found_over_http(env: Env) -> None:
    async with opened(env) as door:
        peer = Peer(env)
        status, plain, headers = await door.register(peer, organization_id="org_123")
        assert (status, plain["observed"], headers["content-type"]) == (200, "127.0.0.1", JSON)
        assert headers["cache-control"] == "no-store" and headers["server"] == "rage"
        status, plain, headers = await door.ask("GET", f"{api.PEERS}?organization=org_123")
        assert [one["peer_id"] for one in plain["peers"]] == [str(peer.peer_id)]
        assert (await door.ask("HEAD", api.BOOTSTRAP))[:2] == (200, None)
        text, _ = door.metrics.render()
        assert b'rage_http_requests_total{code="200",route="api"} 3.0' in text


async def test_without_a_discovery_server_its_routes_do_not_exist(env: Env) -> None:
    async with opened(env, discovery=None) as door:
        for path in api.METHODS:
            assert (await door.ask("GET", path))[0] == 404
        assert (await door.ask("POST", api.REGISTER, data=b"{}"))[0] == 405


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("POST", api.PEERS, 405, "GET, HEAD"),
        ("POST", api.BOOTSTRAP, 405, "GET, HEAD"),
        ("POST", "/healthz", 405, "GET, HEAD"),
        ("GET", api.REGISTER, 405, "POST"),
        ("HEAD", api.REGISTER, 405, "POST"),
        ("PUT", api.REGISTER, 405, "POST"),
        ("DELETE", api.PEERS, 405, "GET, HEAD"),
        ("GET", "/api", 404, None),
        ("GET", "/api/v1/network", 404, None),
        ("GET", "/api/v1/network/peers/", 404, None),
        ("GET", "/api/v1/network/peers/x", 404, None),
        ("GET", "/api/v2/network/peers", 404, None),
    ],
)
async def test_only_the_routes_and_methods_there_are_are_served(
    env: Env, method: str, path: str, status: int, allow: str | None
) -> None:
    async with opened(env) as door:
        found, _, headers = await door.ask(method, path)
        assert (found, headers.get("allow")) == (status, allow)


async def test_a_registration_over_http_must_be_signed_for_this_very_door(env: Env) -> None:
    async with opened(env) as one, opened(env) as other:
        peer = Peer(env)
        assert (await one.register(peer))[0] == 200
        one.audience = other.url
        status, plain, _ = await one.register(peer)
        assert (status, plain["code"]) == (403, "wrong-audience")


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"data": b"x" * (BODY_BYTES_MAX + 1)}, 413),
        ({"data": b"{}", "headers": {"Content-Type": "text/plain"}}, 415),
        ({"data": b"{}", "headers": {"Content-Type": JSON, "Content-Encoding": "gzip"}}, 415),
        ({"data": b""}, 422),
        ({"data": b"x" * BODY_BYTES_MAX}, 422),
    ],
)
async def test_a_body_that_is_none_is_refused(env: Env, options: dict[str, Any], status: int) -> None:
    async with opened(env) as door:
        found, plain, _ = await door.ask("POST", api.REGISTER, **{"headers": {"Content-Type": JSON}, **options})
        assert found == status and plain["type"] == "error"


async def test_a_body_flood_is_cut_off_at_the_limit(env: Env) -> None:
    """Chunked, so that no length tells beforehand; the server takes 16 KiB of it, then closes."""
    async with opened(env) as door:
        _, writer = await asyncio.open_connection(*door.address)
        head = f"POST {api.REGISTER} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {JSON}\r\n"
        writer.write(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        sent = 0
        try:
            while sent < 64 * 1024 * 1024:
                writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
                sent += 65_536
                await writer.drain()
        except ConnectionError:
            pass
        assert sent < 16 * 1024 * 1024  # what sockets hold
        writer.transport.abort()
        assert (await door.register(Peer(env)))[0] == 200


async def test_a_body_that_drips_costs_its_deadline_and_no_more(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_api, "BODY_TIMEOUT_S", 0.1)
    head = f"POST {api.REGISTER} HTTP/1.1\nHost: 127.0.0.1\nContent-Type: {JSON}\nContent-Length: 500\n\n"
    async with opened(env) as door:
        assert (await door.raw(head, b"{")).startswith(b"HTTP/1.1 408 ")


async def test_many_bodies_at_once_hold_bounded_memory_and_others_are_served(env: Env) -> None:
    head = f"POST {api.REGISTER} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {JSON}\r\nContent-Length: 16384\r\n\r\n"
    async with opened(env) as door:
        held = []
        for _ in range(100):
            _, writer = await asyncio.open_connection(*door.address)
            writer.write(head.encode() + b"x" * 8000)
            held.append(writer)
        assert (await door.register(Peer(env)))[0] == 200
        assert (await door.ask("GET", api.PEERS))[0] == 200
        for writer in held:
            writer.transport.abort()


async def test_whoever_asks_too_often_is_told_when_to_come_again(env: Env) -> None:
    async with opened(env) as door:
        statuses = [(await door.ask("GET", api.PEERS))[0] for _ in range(70)]
        assert statuses.count(200) == 60
        status, plain, headers = await door.ask("GET", api.PEERS)
        assert (status, plain["code"], headers["retry-after"]) == (429, "rate-limited", "1")


async def test_a_host_name_that_is_not_ours_is_refused_here_too(env: Env) -> None:
    async with opened(env) as door:
        assert (await door.ask("GET", api.PEERS, headers={"Host": "evil.example"}))[0] == 421


async def test_what_is_wrong_inside_is_not_told(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(env) as door:
        for error in (
            UnavailableError("the registry at /secret/path cannot be used"),
            IntegrityError("/secret/path is damaged", id="registry-damaged"),
            KeyError("/secret/path"),
        ):

            async def fail(request: object, error: Exception = error) -> None:
                raise error

            monkeypatch.setattr(door.server, "handle", fail)
            status, plain, _ = await door.ask("GET", api.PEERS)
            assert status in (422, 500, 503) and "/secret" not in json.dumps(plain)


async def test_a_full_registry_says_when_to_come_again(env: Env) -> None:
    async with opened(env, Registry(None, records_max=1)) as door:
        assert (await door.register(Peer(env)))[0] == 200
        status, plain, headers = await door.register(Peer(env))
        assert (status, plain["code"], headers["retry-after"]) == (503, "registry-full", "60")
