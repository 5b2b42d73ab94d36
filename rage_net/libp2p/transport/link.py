"""What a transport is: four Protocols, no body."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from rage_net.libp2p.multiaddr import Multiaddr


class Receiver(Protocol):
    """What a link tells."""

    def data_received(self, data: memoryview) -> int:
        """Bytes arrived; the number used is the answer. The view is valid during the call only."""
        ...

    def room_made(self) -> None:
        """The link is no longer full."""
        ...

    def connection_lost(self, error: Exception | None) -> None:
        """The link is gone: once, last. None when either side closed it in order."""
        ...


class Link(Protocol):
    """One connection, not yet secured."""

    local_address: Multiaddr
    remote_address: Multiaddr

    def start(self, receiver: Receiver) -> None:
        """Deliver to `receiver` from now on, beginning with what the one before it left unused."""
        ...

    def pause(self) -> None:
        """Deliver nothing until the next `start`."""
        ...

    def write(self, buffers: Iterable[bytes]) -> None:
        """Send, in order. What the network does not take at once is kept: look at `is_full` first."""
        ...

    @property
    def is_full(self) -> bool:
        """True from when too much waits to be sent until `room_made`."""
        ...

    @property
    def waiting(self) -> int:
        """Bytes written that the network has not taken yet."""
        ...

    def close(self) -> None:
        """Send what waits, then close."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...


class Listener(Protocol):
    """An address at which links are accepted."""

    @property
    def addresses(self) -> list[Multiaddr]:
        """Where peers can dial, with real ports."""
        ...

    @property
    def bound(self) -> list[Multiaddr]:
        """What is listened at, with real ports; a wildcard as such, for those who know the interfaces."""
        ...

    def close(self) -> None:
        """Accept no more."""
        ...


class Transport(Protocol):
    """A way to make links."""

    def can_dial(self, address: Multiaddr) -> bool:
        """Whether `address` (without its peer id) is of this kind."""
        ...

    async def resolve(self, address: Multiaddr) -> list[Multiaddr]:
        """Addresses without names, best first. Raises OSError."""
        ...

    async def dial(self, address: Multiaddr) -> Link:
        """A link to a resolved address. Raises OSError."""
        ...

    async def listen(self, address: Multiaddr, accept: Callable[[Link], None]) -> Listener:
        """Call `accept` with each link that is dialled to `address`. Raises OSError."""
        ...
