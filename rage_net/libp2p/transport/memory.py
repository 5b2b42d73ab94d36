"""Links within one process, with faults: bytes cut at any place, late, or the link broken, all from one seed.

Time passes only through the event loop, so that a loop with a virtual clock repeats a run exactly.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.transport.link import Link, Receiver

DELIVERY_BYTES = 256 * 1024
"""At most as much arrives at once."""


@dataclass(frozen=True)
class Conditions:
    """How a network behaves."""

    piece_bytes_max: int = DELIVERY_BYTES
    """Bytes arrive in pieces of 1 to this many; 1 cuts everywhere."""
    delay_s: float = 0.0
    """From writing to arrival."""
    capacity_bytes: int = 256 * 1024
    """A link is full when more is on its way."""
    break_after_bytes: int | None = None
    """Each direction breaks the link after so many bytes; None never."""


class MemoryNetwork:
    """Who listens where; give each transport the same one."""

    def __init__(self, conditions: Conditions = Conditions(), random: Random | None = None) -> None:
        self.conditions = conditions
        self.random = random or Random(0)  # noqa: S311 - decides where bytes are cut
        self.listeners: dict[str, Callable[[Link], None]] = {}
        self.next_port = 1


class MemoryLink:
    """One end of a pair."""

    def __init__(self, network: MemoryNetwork, local: Multiaddr, remote: Multiaddr) -> None:
        self.local_address = local
        self.remote_address = remote
        self.is_full = False
        self.other: MemoryLink
        self._network = network
        self._receiver: Receiver | None = None
        self._coming: deque[bytes] = deque()  # on the way
        self._inbox = bytearray()  # arrived, not delivered
        self._rest = b""  # delivered, not used
        self._waiting = 0
        self._sent = 0
        self._is_paused = True
        self._is_lost = False
        self._is_closing = False
        self._is_due = False

    def start(self, receiver: Receiver) -> None:
        """See `Link`."""
        self._receiver = receiver
        self._is_paused = False
        if self._is_lost:
            receiver.connection_lost(None)
        else:
            self._schedule()

    def pause(self) -> None:
        """See `Link`."""
        self._is_paused = True

    def write(self, buffers: Iterable[bytes]) -> None:
        """See `Link`."""
        if self._is_lost or self._is_closing:
            return
        data = b"".join(buffers)
        self._sent += len(data)
        self._waiting += len(data)
        self.is_full = self._waiting > self._network.conditions.capacity_bytes
        limit = self._network.conditions.break_after_bytes
        self.other._coming.append(data)
        asyncio.get_running_loop().call_later(self._network.conditions.delay_s, self.other._arrive)
        if limit is not None and self._sent >= limit:
            asyncio.get_running_loop().call_later(self._network.conditions.delay_s, self._break)

    @property
    def waiting(self) -> int:
        """See `Link`."""
        return self._waiting

    def close(self) -> None:
        """See `Link`."""
        if not self._is_closing and not self._is_lost:
            self._is_closing = True
            if not self._waiting:
                self._end()

    def abort(self) -> None:
        """See `Link`."""
        self._end()

    def _break(self) -> None:
        self._lose(ConnectionResetError("the link broke"))
        self.other._lose(ConnectionResetError("the link broke"))

    def _end(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(self._lose, None)
        loop.call_later(self._network.conditions.delay_s, self.other._lose, None)

    def _lose(self, error: Exception | None) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        self._inbox.clear()
        if self._receiver is not None:
            self._receiver.connection_lost(error)
            self._receiver = None

    def _arrive(self) -> None:
        data = self._coming.popleft()  # timers that are due at one time come in any order
        if not self._is_lost:
            self._inbox += data
            self._schedule()

    def _schedule(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._deliver)

    def _deliver(self) -> None:
        self._is_due = False
        if self._receiver is None or self._is_paused or self._is_lost:
            return
        most = min(len(self._inbox), self._network.conditions.piece_bytes_max, DELIVERY_BYTES)
        piece = self._network.random.randint(1, most) if 1 < most < len(self._inbox) else most
        shown = self._rest + self._inbox[:piece]
        del self._inbox[:piece]
        used = self._receiver.data_received(memoryview(shown)) if shown else 0
        self._rest = shown[used:]
        self.other._taken(piece)
        if self._inbox:
            self._schedule()

    def _taken(self, size: int) -> None:
        self._waiting -= size
        if self._is_closing and not self._waiting:
            self._end()
        elif self.is_full and self._waiting <= self._network.conditions.capacity_bytes // 2:
            self.is_full = False
            if self._receiver is not None:
                self._receiver.room_made()


@dataclass(frozen=True)
class MemoryListener:
    """A name that is listened at."""

    network: MemoryNetwork
    address: Multiaddr

    @property
    def addresses(self) -> list[Multiaddr]:
        """See `Listener`."""
        return [self.address]

    def close(self) -> None:
        """See `Listener`."""
        self.network.listeners.pop(self.address.parts[0].value, None)


class MemoryTransport:
    """`/memory/NAME`, within one `MemoryNetwork`. `host` is what stands for an IP address."""

    def __init__(self, network: MemoryNetwork, host: str) -> None:
        self._network = network
        self._address = Multiaddr.of(("memory", host))

    def can_dial(self, address: Multiaddr) -> bool:
        """See `Transport`."""
        return address.parts[0].protocol == "memory"

    async def resolve(self, address: Multiaddr) -> list[Multiaddr]:
        """See `Transport`."""
        return [address]

    async def dial(self, address: Multiaddr) -> Link:
        """See `Transport`."""
        await asyncio.sleep(self._network.conditions.delay_s)
        accept = self._network.listeners.get(address.parts[0].value)
        if accept is None:
            raise ConnectionRefusedError(f"nobody listens at {address}")
        ours = MemoryLink(self._network, self._address, address.without_peer_id())
        theirs = MemoryLink(self._network, address.without_peer_id(), self._address)
        ours.other, theirs.other = theirs, ours
        accept(theirs)
        return ours

    async def listen(self, address: Multiaddr, accept: Callable[[Link], None]) -> MemoryListener:
        """See `Transport`. The name 0 stands for a free one."""
        name = address.parts[0].value
        if name == "0":
            name = f"{self._address.parts[0].value}-{self._network.next_port}"
            self._network.next_port += 1
        if name in self._network.listeners:
            raise OSError(f"/memory/{name} is taken")
        self._network.listeners[name] = accept
        return MemoryListener(self._network, Multiaddr.of(("memory", name)))
