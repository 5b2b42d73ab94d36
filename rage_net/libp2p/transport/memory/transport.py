"""Dialling and listening in memory: `/memory/NAME`, and `/ip4` or `/ip6` with `/tcp` at hosts named by an IP address.

A dial is TCP's: a round trip, repeated when nothing comes back, refused where a host listens not. A name that nobody
ever used is refused too, as before; an IP address that is nobody's is silent.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass
from ipaddress import ip_address

from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.transport.link import Link
from rage_net.libp2p.transport.memory.conditions import SYN_WAITS_S
from rage_net.libp2p.transport.memory.link import MemoryLink
from rage_net.libp2p.transport.memory.network import LOOPBACKS, Host, MemoryNetwork

WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound


@dataclass(frozen=True, eq=False)
class MemoryListener:
    """An address that is listened at."""

    network: MemoryNetwork
    host: Host
    address: Multiaddr
    addresses: list[Multiaddr]
    """See `Listener`."""
    accept: Callable[[Link], None]
    context: Context

    @property
    def bound(self) -> list[Multiaddr]:
        """See `Listener`."""
        return [self.address]

    def close(self) -> None:
        """See `Listener`."""
        if self.network.listeners.get(str(self.address)) is self:  # else the host came back and listens anew
            del self.network.listeners[str(self.address)]


class MemoryTransport:
    """The network as one host sees it. `host` is a name, or an IP address."""

    def __init__(self, network: MemoryNetwork, host: str) -> None:
        self.host = network.host(host)
        self._network = network
        self._family = _family(host)
        self._address = Multiaddr.of((self._family or "memory", host))

    def can_dial(self, address: Multiaddr) -> bool:
        """See `Transport`."""
        first, *rest = address.transport_parts()
        if first.protocol == "memory":
            return not rest
        return first.protocol == self._family and [part.protocol for part in rest] == ["tcp"]

    async def resolve(self, address: Multiaddr) -> list[Multiaddr]:
        """See `Transport`."""
        return [address]

    async def dial(self, address: Multiaddr) -> Link:
        """See `Transport`."""
        network, here = self._network, self.host
        for wait_s in SYN_WAITS_S:
            there, _ = network.find(address, here)
            ways = network.between(here.name, there.name) if there else network.conditions
            await asyncio.sleep(ways.delay_s)
            there, listener = network.find(address, here)
            if there is None and address.parts[0].protocol == "memory":
                raise ConnectionRefusedError(f"nobody listens at {address}")
            if there is not None and self._is_heard(there, ways.loss):
                back_s = network.between(there.name, here.name).delay_s
                if listener is None:
                    await asyncio.sleep(back_s)
                    raise ConnectionRefusedError(f"nobody listens at {address}")
                return await self._open(listener, address.without_peer_id(), back_s)
            await asyncio.sleep(max(0.0, wait_s - ways.delay_s))
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    async def listen(self, address: Multiaddr, accept: Callable[[Link], None]) -> MemoryListener:
        """See `Transport`. The name 0 stands for a free one, as the port 0 does; a wildcard for all we have."""
        if not self.can_dial(address):
            raise OSError(f"{address} is no address of this network")
        first, *rest = address.transport_parts()
        if first.protocol == "memory":
            name = first.value
            if name == "0":
                name = f"{self.host.name}-{self._network.next_port}"
                self._network.next_port += 1
            bound = Multiaddr.of(("memory", name))
            told = [bound]
        else:
            port = rest[0].value if rest[0].value != "0" else self.host.next_port()
            if first.value not in (self.host.name, *WILDCARDS):
                raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
            bound = Multiaddr.of((first.protocol, self.host.name), ("tcp", port))
            loopback = LOOPBACKS[first.protocol == "ip6"]
            told = (
                [bound] if first.value == self.host.name else [Multiaddr.of((first.protocol, loopback), ("tcp", port))]
            )
            told += [bound] if bound not in told else []
        if str(bound) in self._network.listeners:
            raise OSError(errno.EADDRINUSE, f"{bound} is taken")
        listener = MemoryListener(self._network, self.host, bound, told, accept, copy_context())
        self._network.listeners[str(bound)] = listener
        return listener

    def _is_heard(self, there: Host, loss: float) -> bool:
        if self.host.is_paused or not self._network.reaches(self.host, there):
            return False
        return not loss or self._network.random.random() >= loss

    async def _open(self, listener: MemoryListener, remote: Multiaddr, back_s: float) -> Link:
        network, here = self._network, self.host
        local = self._address
        if self._family is not None and remote.parts[0].protocol == self._family:
            local = Multiaddr.of((self._family, here.name), ("tcp", here.next_port()))
        elif self._family is not None:
            local = Multiaddr.of(("memory", here.name))
        ours = MemoryLink(network, here, local, remote, copy_context())
        theirs = MemoryLink(network, listener.host, remote, local, listener.context)
        ours.other, theirs.other = theirs, ours
        theirs.accepted(listener.accept)
        try:
            await asyncio.sleep(back_s)
        except BaseException:
            ours.abort()
            raise
        return ours


def _family(host: str) -> str | None:
    try:
        return f"ip{ip_address(host).version}"
    except ValueError:
        return None
