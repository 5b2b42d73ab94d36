"""The multicast sockets: one for each IP version, a member of the mDNS group on every interface. No DNS here.

The port is shared with whoever else speaks mDNS on this machine (avahi, a browser, another node): each gets a copy of
what is sent to the group. So nothing is asked for by unicast, which only one of them would get. Packets leave by the
interface that is named, whatever the routes say; a namespace without a multicast route needs none.
Source: RFC 6762, sections 5, 11 and 15.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

log = logging.getLogger(__name__)

PORT = 5353
PACKET_BYTES_MAX = 9000
"""Of a packet (RFC 6762, 17); longer ones are not read."""
INTERFACES_MAX = 32
"""A machine with more containers than that has the first ones joined; Linux allows a socket 20 groups by default."""
READS_TURN = 32
"""Packets read before other work has its turn."""
READS_S_MAX = 4000
"""Packets taken from a socket in one second: 20 ms of work. Then it rests until the second is over, and the kernel
drops what its buffer cannot hold."""


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface and its addresses."""

    name: str
    index: int
    networks: tuple[ipaddress.IPv4Interface | ipaddress.IPv6Interface, ...]

    @property
    def is_loopback(self) -> bool:
        """Whether it leads to this machine alone."""
        return any(net.ip.is_loopback for net in self.networks)


def read_interfaces() -> list[Interface]:
    """The interfaces that have an address. Raises OSError."""
    from ifaddr import get_adapters

    found = []
    for adapter in get_adapters():
        nets = [f"{ip.ip[0] if isinstance(ip.ip, tuple) else ip.ip}/{ip.network_prefix}" for ip in adapter.ips]
        if adapter.index is not None and nets:
            networks = tuple(ipaddress.ip_interface(net) for net in nets)
            found.append(Interface(adapter.name, adapter.index, networks))
    return found[:INTERFACES_MAX]


class _Family(NamedTuple):
    """How one version of IP names what mDNS needs. `pack` makes a membership of (group, interface index)."""

    version: int
    family: int
    level: int
    group: str
    pack: Callable[[bytes, int], bytes]
    join: int
    leave: int
    leave_by: int
    hops: int
    loop: int


_FAMILIES = (
    _Family(
        4,
        socket.AF_INET,
        socket.IPPROTO_IP,
        "224.0.0.251",
        lambda group, index: struct.pack("=4s4si", group, bytes(4), index),
        socket.IP_ADD_MEMBERSHIP,
        socket.IP_DROP_MEMBERSHIP,
        socket.IP_MULTICAST_IF,
        socket.IP_MULTICAST_TTL,
        socket.IP_MULTICAST_LOOP,
    ),
    _Family(
        6,
        socket.AF_INET6,
        socket.IPPROTO_IPV6,
        "ff02::fb",
        lambda group, index: struct.pack("=16sI", group, index),
        socket.IPV6_JOIN_GROUP,
        socket.IPV6_LEAVE_GROUP,
        socket.IPV6_MULTICAST_IF,
        socket.IPV6_MULTICAST_HOPS,
        socket.IPV6_MULTICAST_LOOP,
    ),
)


class _Socket:
    """One version's socket, and the interfaces by index on which it is a member."""

    def __init__(self, family: _Family, port: int) -> None:
        self.family = family
        self.to = (family.group, port)
        self.members: set[int] = set()
        self.is_resting = False
        self.sock = socket.socket(family.family, socket.SOCK_DGRAM)
        try:
            self.sock.setblocking(False)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError, AttributeError):  # old kernels; the one above is enough there
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family.version == 6:
                self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self.sock.setsockopt(family.level, family.hops, 255)
            self.sock.setsockopt(family.level, family.loop, 1)
            if family.version == 4 and hasattr(socket, "IP_MULTICAST_ALL"):
                self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_ALL, 0)
            self.sock.bind(("", port))
        except OSError:
            self.sock.close()
            raise

    def change(self, option: int, index: int) -> None:
        """Join or leave the group on an interface. Raises OSError."""
        group = socket.inet_pton(self.family.family, self.family.group)
        self.sock.setsockopt(self.family.level, option, self.family.pack(group, index))

    def send(self, packet: bytes, face: Interface) -> None:
        """Send to the group on an interface, from its first address. Raises OSError."""
        if self.family.version == 4:
            own = next(net.ip for net in face.networks if net.version == 4)
            by = struct.pack("=4s4si", bytes(4), own.packed, face.index)
        else:
            by = struct.pack("=I", face.index)
        self.sock.setsockopt(self.family.level, self.family.leave_by, by)
        self.sock.sendto(packet, self.to)


class Group:
    """The mDNS group, joined on each interface that lets us. All methods belong to one event loop.

    Args: take: called with each packet, the interface it came by and the IP address it came from. interfaces: which
    there are; asked again by each `refresh`.
    """

    def __init__(
        self,
        take: Callable[[bytes, Interface, str], None],
        counts: Counter[str],
        *,
        port: int = PORT,
        interfaces: Callable[[], Sequence[Interface]] = read_interfaces,
    ) -> None:
        self.interfaces: tuple[Interface, ...] = ()
        self.failures: dict[str, str] = {}
        """What is wrong, by interface; "" stands for all."""
        self._take = take
        self._counts = counts
        self._port = port
        self._read_interfaces = interfaces
        self._sockets: list[_Socket] = []
        self._second = 0
        self._reads = 0

    @property
    def usable(self) -> list[Interface]:
        """The interfaces on which we are a member and the last packet could be sent."""
        joined = {index for sock in self._sockets for index in sock.members}
        return [face for face in self.interfaces if face.index in joined and face.name not in self.failures]

    def refresh(self) -> None:
        """Look which interfaces there are now; join the new, leave those that are gone. Never raises."""
        self.failures.pop("", None)
        try:
            self.interfaces = tuple(self._read_interfaces())
            if not self._sockets and self.interfaces:
                self._open()
        except OSError as error:
            self.failures[""] = str(error)
        present = {face.index for face in self.interfaces}
        names = {face.name for face in self.interfaces} | {""}
        self.failures = {name: why for name, why in self.failures.items() if name in names}
        for sock in self._sockets:
            for index in sock.members - present:
                with contextlib.suppress(OSError):  # the kernel has done so where the interface is no more
                    sock.change(sock.family.leave, index)
                sock.members.discard(index)
            for face in self.interfaces:
                self._join(sock, face)

    def send(self, packet: bytes, interface: Interface) -> bool:
        """Send to everyone on a link; True when at least one version of IP took it. Never raises."""
        sent, why = False, ""
        for sock in self._sockets:
            if interface.index in sock.members:
                try:
                    sock.send(packet, interface)
                    sent = True
                except BlockingIOError:
                    sent = True  # the kernel's queue is full: as good as lost on the way
                except OSError as error:
                    why = error.strerror or str(error)
        if sent:
            self.failures.pop(interface.name, None)
        else:
            self._counts["send_failures"] += 1
            self.failures[interface.name] = why or self.failures.get(interface.name, "not a member of the group")
        return sent

    def close(self) -> None:
        """Leave and hear no more."""
        for sock in self._sockets:
            asyncio.get_running_loop().remove_reader(sock.sock)
            sock.sock.close()
        self._sockets.clear()

    def _open(self) -> None:
        """Open a socket for each version of IP; OSError when there is none."""
        reason: OSError | None = None
        for family in _FAMILIES:
            try:
                sock = _Socket(family, self._port)
            except OSError as error:
                reason = reason or error
                continue
            self._sockets.append(sock)
            asyncio.get_running_loop().add_reader(sock.sock, self._ready, sock)
        if not self._sockets and reason is not None:
            raise reason

    def _join(self, sock: _Socket, face: Interface) -> None:
        versions = {net.version for net in face.networks}
        if face.index in sock.members or sock.family.version not in versions:
            return
        try:
            sock.change(sock.family.join, face.index)
        except OSError as error:
            self.failures.setdefault(face.name, error.strerror or str(error))
        else:
            sock.members.add(face.index)
            self.failures.pop(face.name, None)

    def _ready(self, sock: _Socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(READS_TURN):
            if int(loop.time()) != self._second:
                self._second, self._reads = int(loop.time()), 0
            if self._reads >= READS_S_MAX:
                self._rest(sock)
                return
            try:
                data, source = sock.sock.recvfrom(PACKET_BYTES_MAX + 1)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # what an earlier packet came to
                self._counts["receive_failures"] += 1
                return
            self._reads += 1
            face = self._came_by(source)
            if face is None or len(data) > PACKET_BYTES_MAX:
                self._counts["packets_refused"] += 1
            else:
                self._take(data, face, source[0].partition("%")[0])

    def _rest(self, sock: _Socket) -> None:
        """Leave the socket alone until the second is over."""
        self._counts["floods"] += 1
        loop = asyncio.get_running_loop()
        loop.remove_reader(sock.sock)
        loop.call_at(self._second + 1, self._wake, sock)

    def _wake(self, sock: _Socket) -> None:
        if sock in self._sockets:
            asyncio.get_running_loop().add_reader(sock.sock, self._ready, sock)

    def _came_by(self, source: tuple[object, ...]) -> Interface | None:
        """The interface whose link the sender is on; None for a packet that a router has passed on (RFC 6762, 11)."""
        if len(source) == 4 and source[3]:
            return next((face for face in self.interfaces if face.index == source[3]), None)
        ip = ipaddress.ip_address(str(source[0]))
        return next((face for face in self.interfaces if any(ip in net.network for net in face.networks)), None)
