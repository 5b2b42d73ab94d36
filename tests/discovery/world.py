"""A small world of discovery: keys, a clock that moves when told to, servers and clients joined without sockets."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rage_net.discovery import api
from rage_net.discovery.api import Answer, Request
from rage_net.discovery.client import About, Client
from rage_net.discovery.proofs import SIGNATURE, sign_query, sign_registration
from rage_net.discovery.records import Registration
from rage_net.discovery.registry import Registry
from rage_net.discovery.server import Server
from rage_net.errors import RageError
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.scope import parse_ip
from rage_net.metrics import Metrics
from rage_net.web import Web

T = TypeVar("T")

EPOCH = 1_800_000_000.0
URL = "http://discovery.example"
FAR, FAR_2, NEAR, HERE = "8.8.4.4", "9.9.9.9", "10.0.0.7", "127.0.0.1"


class Env:
    """Time stands still until told; work is done at once."""

    def __init__(self, rng: random.Random) -> None:
        self.random = rng
        self.time = 0.0

    def now(self) -> float:
        return EPOCH + self.time

    def monotonic(self) -> float:
        return self.time

    async def blocking(self, fn: Callable[..., T], *args: object) -> T:
        return fn(*args)

    async def waiting(self, fn: Callable[..., T], *args: object) -> T:
        return fn(*args)

    def close(self) -> None:
        pass


class Peer:
    """A key, and what it signs."""

    def __init__(self, env: Env) -> None:
        self.env = env
        self.key = Ed25519PrivateKey.from_private_bytes(env.random.randbytes(32))
        self.peer_id = PeerId.from_public_key(self.key.public_key())
        self.instance = f"{env.random.getrandbits(64):016x}"
        self.sequence = 0

    def registration(self, *addresses: str, **words: Any) -> Registration:
        self.sequence = max(self.sequence + 1, int(self.env.now() * 1000))
        fields: dict[str, Any] = {
            "peer_id": self.peer_id,
            "addresses": tuple(map(Multiaddr.parse, addresses or (f"/ip4/{FAR}/tcp/4001",))),
            "audience": URL,
            "instance": self.instance,
            "sequence": self.sequence,
            "ttl_s": 90.0,
        }
        return Registration(**{**fields, **words})

    def signed(self, *addresses: str, **words: Any) -> tuple[bytes, str]:
        return sign_registration(self.key, self.registration(*addresses, **words))


class Dials:
    """A dial-back that notes what it is asked to dial and says what the test wants."""

    def __init__(self) -> None:
        self.dialled: list[tuple[PeerId, tuple[str, ...]]] = []
        self.answer: Callable[[PeerId], bool] = lambda peer_id: True

    async def __call__(self, peer_id: PeerId, addresses: Sequence[Multiaddr]) -> bool:
        self.dialled.append((peer_id, tuple(map(str, addresses))))
        return self.answer(peer_id)


class Net:
    """Servers by host name, and a transport that leads to them."""

    def __init__(self, env: Env) -> None:
        self.env = env
        self.hosts: dict[str, Server | Callable[[httpx.Request], httpx.Response]] = {}
        self.source = FAR
        self.asked: list[str] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(str(request.url))
        there = self.hosts.get(request.url.host)
        if there is None:
            raise httpx.ConnectError("nobody listens there")
        if not isinstance(there, Server):
            return there(request)
        answer = await ask(
            there,
            request.url.path,
            query=request.url.query.decode(),
            method=request.method,
            headers=dict(request.headers),
            body=request.content,
            source=self.source,
        )
        return httpx.Response(answer.status, json=answer.plain, headers=dict(answer.headers))

    def web(self) -> Web:
        return Web(transport=httpx.MockTransport(self))

    def client(self, *servers: str, **words: Any) -> Client:
        key = Ed25519PrivateKey.from_private_bytes(self.env.random.randbytes(32))
        return Client(servers or tuple(f"http://{host}" for host in self.hosts), key, self.web(), self.env, **words)


def make_server(env: Env, *, dials: Dials | None = None, registry: Registry | None = None, host: str = URL) -> Server:
    return Server(
        registry or Registry(None), env, Metrics(), hosts=[urlsplit(host).hostname or ""], dial_back=dials or Dials()
    )


async def ask(
    server: Server,
    path: str = api.PEERS,
    *,
    query: str = "",
    method: str = "GET",
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    source: str = FAR,
) -> Answer:
    """The answer, an error as what the door makes of it."""
    request = Request(method, path, query, headers or {}, parse_ip(source), (parse_ip("1.1.1.1"), 80), body)
    try:
        return await server.handle(request)
    except RageError as error:
        return Answer(error.wire_code, error.to_plain())


async def register(
    server: Server, body: bytes, signature: str, *, source: str = FAR, headers: dict[str, str] | None = None
) -> Answer:
    headers = {SIGNATURE: signature, **(headers or {})}
    return await ask(server, api.REGISTER, method="POST", headers=headers, body=body, source=source)


async def ask_as(server: Server, peer: Peer, path: str = api.PEERS, query: str = "", **words: Any) -> Answer:
    headers = sign_query(peer.key, peer.peer_id, method="GET", audience=URL, path=path, query=query, now=peer.env.now())
    return await ask(server, path, query=query, headers=headers, **words)


def ids(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.plain
    return [peer["peer_id"] for peer in answer.plain["peers"]]


def about(*addresses: str, **words: Any) -> About:
    return About(addresses=tuple(map(Multiaddr.parse, addresses or (f"/ip4/{FAR}/tcp/4001",))), **words)
