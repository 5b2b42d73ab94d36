"""Organisations, nodes that they certify, and strangers: swarms and trust on one network in memory."""

from __future__ import annotations

import asyncio
import base64
import random
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rage_lab.sim.env import EPOCH_S, SimulatedEnv
from rage_net import home as homes
from rage_net import keys, messages
from rage_net.cert import Anchor, CaCertificate, issue, parse_ca, read_csr
from rage_net.home import Home
from rage_net.libp2p import varint
from rage_net.libp2p.errors import Libp2pError
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.swarm import Connection, Event, Stream, Swarm
from rage_net.libp2p.transport import MemoryNetwork, MemoryTransport
from rage_net.messages import (
    CHUNK_PROTOCOL,
    QUERY_PROTOCOL,
    SYNC_PROTOCOL,
    TRUST_PROTOCOL,
    Hello,
    Renew,
    TrustResponse,
)
from rage_net.services.trust import Files, Trust

DAY_S = 86_400.0
PROTOCOLS = (CHUNK_PROTOCOL, QUERY_PROTOCOL, SYNC_PROTOCOL)


class Authority:
    """An organisation's CA."""

    def __init__(
        self,
        organization: str,
        rng: random.Random,
        now: float = EPOCH_S,
        key: Ed25519PrivateKey | None = None,
        **more: Any,
    ) -> None:
        self.organization = organization
        self.rng = rng
        self.key = key or keys.generate(rng)
        self.der = issue.make_ca(organization, self.key, now=now, serial=issue.draw_serial(rng), **more)
        self.ca = parse_ca(self.der)

    def certify(
        self,
        key: Ed25519PrivateKey,
        *,
        now: float = EPOCH_S,
        days: float = 7.0,
        capabilities: Sequence[str] = ("storage",),
        organization: str = "",
        **more: Any,
    ) -> bytes:
        """A node's certificate; with `organization` in the name of another, which no honest CA would sign."""
        ca = replace(self.ca, organization=organization or self.organization)
        csr = issue.make_csr(key, ca.organization, "eu", frozenset(capabilities))
        serial = issue.draw_serial(self.rng)
        return issue.sign(read_csr(csr), ca, self.key, now=now, serial=serial, days=days, **more).der

    def vouch(self, other: CaCertificate) -> bytes:
        """Another's CA, cross-signed."""
        return issue.cross_sign(other, self.ca, self.key, now=EPOCH_S, serial=issue.draw_serial(self.rng))

    def anchor(self, *scopes: str, until: float | None = None) -> Anchor:
        return Anchor(self.organization, self.der, frozenset(scopes), until)


class Store:
    """What a log would say; tests write into it."""

    def __init__(self) -> None:
        self.anchors: list[Anchor] = []
        self.revoked: set[tuple[str, str]] = set()
        self.synced: float | None = None

    def foreign(self) -> Sequence[Anchor]:
        return self.anchors

    def is_revoked(self, organization: str, serial: str, peer: PeerId) -> bool:
        return (organization, serial) in self.revoked

    def synced_at(self) -> float | None:
        return self.synced


class ShiftedEnv(SimulatedEnv):
    """A clock that is off."""

    def __init__(self, seed: str, off_s: float) -> None:
        super().__init__(seed)
        self.off_s = off_s

    def now(self) -> float:
        return super().now() + self.off_s


class Node:
    """A swarm with trust, which answers on PROTOCOLS with its name."""

    def __init__(
        self,
        name: str,
        key: Ed25519PrivateKey,
        swarm: Swarm,
        trust: Trust,
        store: Store,
        env: ShiftedEnv,
        files: Files,
    ) -> None:
        self.name, self.key, self.swarm, self.trust, self.store = name, key, swarm, trust, store
        self.peer_id = swarm.peer_id
        self.env = env
        self.ca_file, self.own_file = files.ca_cert, files.certificate
        self.events: list[Event] = []
        self.opened: list[str] = []
        swarm.on_event(self.events.append)
        for protocol in PROTOCOLS:
            swarm.handle(protocol, self._answer)

    async def _answer(self, stream: Stream) -> None:
        self.opened.append(stream.protocol)
        await stream.write(self.name.encode())

    async def dial(self, other: Node) -> Connection:
        return await self.swarm.dial(other.peer_id, other.swarm.listen_addresses(), timeout_s=15)

    async def ask(self, other: Node, protocol: str = CHUNK_PROTOCOL) -> str:
        """What `other` answers; raises NegotiationError when it does not speak the protocol to us."""
        connection = self.swarm.connection_unoffered(other.peer_id)
        assert connection is not None
        async with asyncio.timeout(5), await connection.open_stream([protocol]) as stream:
            return b"".join(map(bytes, await stream.read())).decode()

    def sees(self, other: Node) -> bool:
        return self.swarm.connection(other.peer_id) is not None

    def is_linked(self, other: Node) -> bool:
        return self.swarm.is_linked(other.peer_id)

    def reason(self, other: Node) -> str:
        standing = self.trust.standing(other.peer_id)
        return standing.reason if standing is not None else "none"


class TrustWorld:
    """Makes nodes."""

    def __init__(self, stack: AsyncExitStack, rng: random.Random, directory: Path) -> None:
        self.rng = rng
        self.directory = directory
        self.network = MemoryNetwork(random=rng)
        self.envs: list[ShiftedEnv] = []
        self._stack = stack

    async def raw(self, name: str, key: Ed25519PrivateKey | None = None) -> Raw:
        return await self._stack.enter_async_context(_started(Raw(self, name, key)))

    def authority(self, organization: str, **more: Any) -> Authority:
        return Authority(organization, self.rng, **more)

    def later(self, seconds: float) -> None:
        """It is so much later by everybody's wall clock."""
        for env in self.envs:
            env.off_s += seconds

    def swarm(self, name: str, key: Ed25519PrivateKey) -> Swarm:
        return Swarm(
            key,
            transports=[MemoryTransport(self.network, name)],
            agent_version="rage/test",
            clock=asyncio.get_running_loop().time,
            random=self.rng,
        )

    async def node(
        self,
        name: str,
        authority: Authority | None,
        *,
        key: Ed25519PrivateKey | None = None,
        chain: Sequence[bytes] | None = None,
        off_s: float = 0.0,
        **more: Any,
    ) -> Node:
        """A node of `authority`'s organisation (None: open) that shows `chain`, by default a certificate of its own."""
        key = key or keys.generate(self.rng)
        ca_file, own_file = self.directory / f"{name}-ca.crt", self.directory / f"{name}.crt"
        if authority is not None:
            write_pem(ca_file, [authority.der])
            chain = [authority.certify(key)] if chain is None else chain
        if chain:
            write_pem(own_file, chain)
        swarm, store = self.swarm(name, key), Store()
        await self._stack.enter_async_context(swarm)
        await swarm.listen(Multiaddr.parse(f"/memory/{name}"))
        files = Files(
            ca_file if authority is not None else None,
            own_file,
            authority.organization if authority is not None else "",
        )
        env = ShiftedEnv(f"{self.rng.random()}", off_s)
        self.envs.append(env)
        trust = Trust(swarm, env, files, store, **more)
        await trust.begin()
        return Node(name, key, swarm, trust, store, env, files)


class Raw:
    """A peer of our own making: a swarm alone, which says on `/rage/trust` what a test wants."""

    def __init__(self, world: TrustWorld, name: str, key: Ed25519PrivateKey | None = None) -> None:
        self.key = key or keys.generate(world.rng)
        self.swarm = world.swarm(name, self.key)
        self.peer_id = self.swarm.peer_id

    async def say(self, node: Node, data: bytes) -> TrustResponse:
        """Send these bytes as a trust request, with their length before them."""
        connection = await self.swarm.dial(node.peer_id, node.swarm.listen_addresses(), timeout_s=15)
        async with asyncio.timeout(10), await connection.open_stream([TRUST_PROTOCOL]) as stream:
            await stream.write(varint.encode(len(data)) + data)
            return messages.decode_trust_response(await stream.read_message(messages.TRUST_BYTES_MAX))

    async def hello(self, node: Node, *chain: bytes) -> TrustResponse:
        return await self.say(node, messages.encode_trust_request(Hello(tuple(chain))))

    async def renew(self, node: Node, csr: bytes) -> TrustResponse:
        return await self.say(node, messages.encode_trust_request(Renew(csr)))

    async def opens(self, node: Node, protocol: str = CHUNK_PROTOCOL) -> bool:
        """Whether `node` answers on a protocol."""
        connection = self.swarm.connection(node.peer_id)
        if connection is None:
            return False
        try:
            async with asyncio.timeout(5), await connection.open_stream([protocol]) as stream:
                return bool(await stream.read())
        except Libp2pError:
            return False


def write_pem(path: Path, ders: Sequence[bytes]) -> None:
    path.write_text("".join(map(pem, ders)))


@asynccontextmanager
async def _started(raw: Raw) -> AsyncIterator[Raw]:
    async with raw.swarm:
        yield raw


def pem(der: bytes) -> str:
    body = base64.encodebytes(der).decode()
    return f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n"


def certify_home(home: Home, rng: random.Random) -> None:
    """Make a fresh home one of an organisation of its own: a CA, and a certificate for the home's key."""
    now = time.time()
    authority = Authority("acme", rng, now - 86_400)
    certificate = authority.certify(homes.load_identity(home.identity), now=now)
    home.certs.mkdir(exist_ok=True)
    (home.certs / "ca.crt").write_text(ssl.DER_cert_to_PEM_cert(authority.der))
    (home.certs / "node.crt").write_text(ssl.DER_cert_to_PEM_cert(certificate))
    text = home.network_yaml.read_text()
    home.network_yaml.write_text(f"{text}  security:\n    ca_cert: {home.certs / 'ca.crt'}\n")
