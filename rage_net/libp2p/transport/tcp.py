"""TCP links over asyncio: one shared receive buffer, joined writes, names resolved off the loop.

`asyncio` calls `get_buffer`, `recv_into` and `buffer_updated` without a pause between, so all links share one large
buffer, and a link keeps only the part of a frame that has not arrived whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.transport.link import Link, Receiver

RECEIVE_BYTES = 1024 * 1024
"""The shared buffer: sixteen Noise frames a turn."""
REST_BYTES_MAX = 128 * 1024
"""What a receiver may leave unused: more than one Noise frame."""
RECEIVE_BYTES_MIN = 16 * 1024
TURN_S = 0.005
"""A turn that takes longer halves what its link may bring in the next, down to RECEIVE_BYTES_MIN; a shorter one doubles
it. A MiB of payload takes 1 ms, a MiB of empty frames 200, and the other links wait meanwhile."""
WRITE_BYTES_HIGH = 256 * 1024
"""A link is full above this; the kernel's own buffer holds megabytes besides."""
WRITE_BYTES_LOW = 64 * 1024
RESOLVING_MAX = 8
"""Names asked for at once; further ones wait, within their dial's deadline."""
BACKLOG = 256
"""Connections the kernel completes before we accept them."""

WRITELINES_IS_UNBOUNDED = (3, 12) <= sys.version_info < (3, 12, 9) or (3, 13) <= sys.version_info < (3, 13, 2)
"""There `writelines` never pauses its protocol, whatever waits (CVE-2024-12254)."""

_FAMILIES = {"ip4": socket.AF_INET, "ip6": socket.AF_INET6}
_NAMES = {"dns": socket.AF_UNSPEC, "dns4": socket.AF_INET, "dns6": socket.AF_INET6}


class TcpLink(asyncio.BufferedProtocol):
    """A link over one socket."""

    def __init__(self, buffer: memoryview, accept: Callable[[Link], None] | None = None) -> None:
        self.is_full = False
        self.local_address: Multiaddr
        self.remote_address: Multiaddr
        self._accept = accept
        self._buffer = buffer
        self._rest = b""
        self._turn_bytes = RECEIVE_BYTES
        self._receiver: Receiver | None = None
        self._transport: asyncio.Transport
        self._is_lost = False

    # -- called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A socket is connected: read nothing before `start`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.pause_reading()
        transport.set_write_buffer_limits(WRITE_BYTES_HIGH, WRITE_BYTES_LOW)
        sock = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.local_address = _to_multiaddr(transport.get_extra_info("sockname"))
            self.remote_address = _to_multiaddr(transport.get_extra_info("peername"))
        except TypeError:  # the peer was gone before we could ask for its address
            transport.abort()
            return
        if self._accept is not None:
            self._accept(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the kernel writes: behind what is left from before."""
        rest = len(self._rest)
        if rest:
            self._buffer[:rest] = self._rest
        return self._buffer[rest : rest + self._turn_bytes]

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes arrived."""
        started = time.perf_counter()
        self._deliver(len(self._rest) + nbytes)
        if time.perf_counter() - started > TURN_S:
            self._turn_bytes = max(self._turn_bytes // 2, RECEIVE_BYTES_MIN)
        elif self._turn_bytes < RECEIVE_BYTES:
            self._turn_bytes *= 2

    def pause_writing(self) -> None:
        """Asyncio has more to send than WRITE_BYTES_HIGH."""
        self.is_full = True

    def resume_writing(self) -> None:
        """It has less than WRITE_BYTES_LOW."""
        self.is_full = False
        if self._receiver is not None:
            self._receiver.room_made()

    def eof_received(self) -> bool:
        """The peer closed its side: so do we, a muxed connection has no use for one half."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self._is_lost = True
        if self._receiver is not None:
            self._receiver.connection_lost(exc)
            self._receiver = None

    # -- Link

    def start(self, receiver: Receiver) -> None:
        """See `Link`."""
        self._receiver = receiver
        if self._is_lost:
            receiver.connection_lost(None)
            return
        if rest := len(self._rest):
            self._buffer[:rest] = self._rest
            self._deliver(rest)
        if self._receiver is receiver and not self._transport.is_closing():
            self._transport.resume_reading()

    def pause(self) -> None:
        """See `Link`."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def write(self, buffers: Iterable[bytes]) -> None:
        """See `Link`."""
        if not WRITELINES_IS_UNBOUNDED:
            self._transport.writelines(buffers)
            return
        parts = [*buffers]
        self._transport.writelines(parts[:-1])
        self._transport.write(b"".join(parts[-1:]))  # which does look at the limit

    @property
    def waiting(self) -> int:
        """See `Link`."""
        return self._transport.get_write_buffer_size()

    def close(self) -> None:
        """See `Link`."""
        self._transport.close()

    def abort(self) -> None:
        """See `Link`."""
        self._transport.abort()

    def _deliver(self, size: int) -> None:
        assert self._receiver is not None
        used = self._receiver.data_received(self._buffer[:size])
        if size - used > REST_BYTES_MAX:
            self.abort()
            return
        self._rest = bytes(self._buffer[used:size]) if used < size else b""


class TcpListener:
    """A listening socket."""

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        self._sockets = [sock.getsockname() for sock in server.sockets]

    @property
    def addresses(self) -> list[Multiaddr]:
        """See `Listener`: a wildcard stands for loopback and the address of the default route."""
        return [_to_multiaddr((host, name[1])) for name in self._sockets for host in _reachable(name[0])]

    @property
    def bound(self) -> list[Multiaddr]:
        """See `Listener`."""
        return [_to_multiaddr(name) for name in self._sockets]

    def close(self) -> None:
        """See `Listener`."""
        self._server.close()


class TcpTransport:
    """`/ip4`, `/ip6`, `/dns`, `/dns4`, `/dns6`, each with `/tcp`."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        # Not asyncio's own executor: its end waits for every thread, and a name server may be silent for long.
        self._resolvers = ThreadPoolExecutor(RESOLVING_MAX, thread_name_prefix="resolve")

    def can_dial(self, address: Multiaddr) -> bool:
        """See `Transport`."""
        names = [part.protocol for part in address.transport_parts()]
        return len(names) == 2 and (names[0] in _FAMILIES or names[0] in _NAMES) and names[1] == "tcp"

    async def resolve(self, address: Multiaddr) -> list[Multiaddr]:
        """See `Transport`."""
        host, port = address.transport_parts()
        if host.protocol in _FAMILIES:
            return [address]
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                self._resolvers,
                socket.getaddrinfo,
                host.value,
                int(port.value),
                _NAMES[host.protocol],
                socket.SOCK_STREAM,
            )
        except UnicodeError as error:  # a label of a name that is no name
            raise OSError(f"{host.value} is no host name") from error
        return [_to_multiaddr((str(sockaddr[0]), int(sockaddr[1]))) for *_, sockaddr in found]

    async def dial(self, address: Multiaddr) -> Link:
        """See `Transport`."""
        host, port = address.transport_parts()
        loop = asyncio.get_running_loop()
        _, link = await loop.create_connection(lambda: TcpLink(self._buffer), host.value, int(port.value))
        return link

    async def listen(self, address: Multiaddr, accept: Callable[[Link], None]) -> TcpListener:
        """See `Transport`."""
        if not self.can_dial(address):
            raise OSError(f"{address} is no TCP address")
        host, port = address.transport_parts()
        server = await asyncio.get_running_loop().create_server(
            lambda: TcpLink(self._buffer, accept),
            host.value,
            int(port.value),
            family=_FAMILIES.get(host.protocol, _NAMES.get(host.protocol, socket.AF_UNSPEC)),
            backlog=BACKLOG,
        )
        return TcpListener(server)


def _to_multiaddr(sockaddr: tuple[str, int] | tuple[str, int, int, int]) -> Multiaddr:
    host, port = sockaddr[0].partition("%")[0], sockaddr[1]  # without the zone of fe80::1%eth0
    return Multiaddr.of(("ip6" if ":" in host else "ip4", host), ("tcp", str(port)))


def _reachable(host: str) -> list[str]:
    if host not in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return [host]
    family, loopback, anywhere = (
        (socket.AF_INET6, "::1", "2001:db8::1") if ":" in host else (socket.AF_INET, "127.0.0.1", "192.0.2.1")
    )
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((anywhere, 9))  # chooses a route; a datagram socket sends nothing by it
        return list(dict.fromkeys([loopback, probe.getsockname()[0]]))
    return [loopback]


def tune_malloc() -> bool:
    """Tell glibc to keep freed memory at the top of its heap; call once when a node starts.

    Else every batch of frames is faulted in page by page again, and the rate of a stream halves by luck of layout.
    Returns: False where there is no glibc (macOS, musl), where nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 - musl has no such name
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False
    trim_threshold, top_pad, mmap_threshold, arena_max = -1, -2, -3, -8
    mallopt(trim_threshold, 64 << 20)
    mallopt(top_pad, 8 << 20)
    mallopt(mmap_threshold, 32 << 20)
    mallopt(arena_max, 1)  # else each thread keeps what another could use: 10 MiB in a node that passes chunks on
    return True
