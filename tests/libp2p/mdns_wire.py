"""A voice on the loopback interface that says what it likes, in DNS made by hand; and names for who listens."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Sequence
from random import Random

from rage_net.libp2p.mdns import SERVICE, Interface, Mdns, read_interfaces
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId

GROUP = "224.0.0.251"
META = "_services._dns-sd._udp.local."
PTR, TXT, SRV, IN = 12, 16, 33, 1
TIMEOUT_S = 10.0


def loopback() -> list[Interface]:
    return [face for face in read_interfaces() if face.is_loopback]


def peer(rng: Random) -> PeerId:
    return PeerId(bytes((0, 36, 8, 1, 18, 32)) + rng.randbytes(32))


def name(text: str) -> bytes:
    labels = [label.encode() for label in text.rstrip(".").split(".")]
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def strings(*texts: bytes) -> bytes:
    return b"".join(bytes((len(text),)) + text for text in texts)


def record(owner: str, kind: int, data: bytes, ttl: int = 120) -> bytes:
    return name(owner) + struct.pack(">HHIH", kind, IN, ttl, len(data)) + data


def response(answers: Sequence[bytes], additionals: Sequence[bytes] = ()) -> bytes:
    header = struct.pack(">6H", 0, 0x8400, 0, len(answers), 0, len(additionals))
    return header + b"".join(answers) + b"".join(additionals)


def question(owner: str, kind: int, known: Sequence[bytes] = ()) -> bytes:
    return struct.pack(">6H", 0, 0, 1, len(known), 0, 0) + name(owner) + struct.pack(">HH", kind, IN) + b"".join(known)


def as_js(who: str, addresses: Sequence[str], service: str = SERVICE) -> bytes:
    """As js-libp2p says it: a TXT record for each address, and all of it as answers."""
    texts = [record(f"{who}.{service}", TXT, strings(f"dnsaddr={address}".encode())) for address in addresses]
    return response([record(service, PTR, name(f"{who}.{service}")), *texts])


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Voice:
    """A sender, and a listener, on loopback; `source` is its address there."""

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        self._to = (GROUP, port)
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(source))
        group = socket.inet_aton(GROUP) + socket.inet_aton("127.0.0.1")
        self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        self.sock.bind(("", port))

    def __enter__(self) -> Voice:
        return self

    def __exit__(self, *error: object) -> None:
        self.sock.close()

    def say(self, packet: bytes) -> None:
        self.sock.sendto(packet, self._to)

    async def hear(self, *parts: bytes) -> bytes:
        """The next response that holds all of `parts`."""
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                data = await asyncio.get_running_loop().sock_recv(self.sock, 9000)
                if data[2] & 0x80 and all(part in data for part in parts):
                    return data


class Ear:
    """An `on_found` that remembers, and can be waited for."""

    def __init__(self) -> None:
        self.found: list[tuple[PeerId, tuple[str, ...]]] = []
        self._changed = asyncio.Event()

    def __call__(self, peer_id: PeerId, addresses: tuple[Multiaddr, ...]) -> None:
        self.found.append((peer_id, tuple(map(str, addresses))))
        self._changed.set()

    def of(self, peer_id: PeerId) -> list[tuple[str, ...]]:
        return [addresses for other, addresses in self.found if other == peer_id]

    async def wait(self, peer_id: PeerId, times: int = 1) -> tuple[str, ...]:
        """The addresses of a peer, once it was told of so often."""
        async with asyncio.timeout(TIMEOUT_S):
            while len(self.of(peer_id)) < times:
                self._changed.clear()
                await self._changed.wait()
        return self.of(peer_id)[-1]


class Marker:
    """An honest peer that speaks when asked to: what was said before has been heard once it is found."""

    def __init__(self, voice: Voice, ear: Ear, rng: Random) -> None:
        self._voice, self._ear, self._rng = voice, ear, rng

    async def pass_by(self) -> None:
        peer_id = peer(self._rng)
        packet = as_js(f"marker{self._rng.getrandbits(64):x}", [f"/ip4/127.0.0.1/tcp/9/p2p/{peer_id}"])
        async with asyncio.timeout(TIMEOUT_S):
            while not self._ear.of(peer_id):  # lost where the listener is flooded
                self._voice.say(packet)
                try:
                    async with asyncio.timeout(0.2):
                        await self._ear.wait(peer_id)
                except TimeoutError:
                    continue


def node(rng: Random, port: int, ear: Ear, *listen: str, **options: object) -> Mdns:
    addresses = [Multiaddr.parse(text) for text in listen]
    options = {"interval_s": 60.0, "random": rng, "port": port, "interfaces": loopback} | options
    return Mdns(peer(rng), lambda: addresses, ear, **options)  # type: ignore[arg-type]
