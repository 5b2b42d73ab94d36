"""One connection in memory, from both ends.

write -> the host's line up -> the way (delay, jitter, loss) -> the other host's line down -> inbox -> the receiver

A way that is cut keeps what is on it, as a TCP sender would, until it can be repeated. A receiver is always called in
the context in which its link was made, as asyncio's own transports do: whatever it starts belongs to its own side.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.transport.link import Receiver
from rage_net.libp2p.transport.memory.conditions import DELIVERY_BYTES, Conditions, recovery_s, retried_at

if TYPE_CHECKING:
    from rage_net.libp2p.transport.memory.network import Host, MemoryNetwork


class MemoryLink:
    """One end of a pair."""

    def __init__(
        self, network: MemoryNetwork, host: Host, local: Multiaddr, remote: Multiaddr, context: Context
    ) -> None:
        self.host = host
        self.local_address = local
        self.remote_address = remote
        self.is_full = False
        self.other: MemoryLink
        self._network = network
        self._context = context
        self._receiver: Receiver | None = None
        self._on_way: deque[bytes | None] = deque()  # to the other end; None is our end of the link
        self._due_at = 0.0  # when the last of it arrives
        self._silent_since: float | None = None  # since when nothing of it gets through
        self._late = 0  # parts of it that would have arrived since
        self._inbox = bytearray()  # arrived, not delivered
        self._rest = b""  # delivered, not used
        self._waiting = 0
        self._sent = 0
        self._is_paused = True
        self._is_lost = False
        self._is_closing = False
        self._is_cut = False
        self._is_due = False
        host.ends[self] = None

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
        conditions = self._conditions
        self._sent += len(data)
        self._waiting += len(data)
        self.is_full = self._waiting > conditions.capacity_bytes
        if self._network.observe is not None:
            self._network.observe(self, data)
        self._send(data)
        if conditions.break_after_bytes is not None and self._sent >= conditions.break_after_bytes:
            loop = asyncio.get_running_loop()
            loop.call_later(conditions.delay_s, self._break, context=self._network.context)

    @property
    def waiting(self) -> int:
        """See `Link`."""
        return self._waiting

    def close(self) -> None:
        """See `Link`."""
        if not self._is_closing and not self._is_lost:
            self._is_closing = True
            if not self._waiting:
                self._finish()

    def abort(self) -> None:
        """See `Link`."""
        if self._is_lost:
            return
        self._lose_soon(None)
        if self._silent_since is not None:
            self._on_way.clear()  # it would have been repeated
        if not self._is_cut:
            self._notify(None)

    # -- for the network

    def cut(self) -> None:
        """The host is without power: what has not left it never does, and the end is closed for nobody but itself."""
        self._is_cut = True
        self._on_way.clear()
        self._network.stalled.pop(self, None)
        self.host.ends.pop(self, None)

    def recover(self) -> None:
        """The way may be open again: repeat what did not get through when the sender's timer ends."""
        if self._silent_since is None or not self._network.reaches(self.host, self.other.host):
            return
        loop = asyncio.get_running_loop()
        at = retried_at(self._silent_since, loop.time(), self._conditions.retry_s) + self._conditions.delay_s
        self._due_at = max(self._due_at, at)
        loop.call_at(at, self._repeat, context=self._network.context)

    # -- to the other end

    @property
    def _conditions(self) -> Conditions:
        return self._network.between(self.host.name, self.other.host.name)

    def _send(self, data: bytes) -> None:
        if self._is_cut:
            return
        if self.host.is_paused:
            self.host.kept.append(partial(self._send, data))
        elif self.host.up is None:
            self._depart(data)
        else:
            self.host.up.push(self, data, self._depart)

    def _depart(self, item: bytes | None) -> None:
        """On the way, behind what is on it already."""
        if self._is_cut:
            return
        loop, conditions, random = asyncio.get_running_loop(), self._conditions, self._network.random
        at = loop.time() + conditions.delay_s
        if conditions.jitter_s:
            at += random.uniform(0, conditions.jitter_s)
        if conditions.loss:
            at += recovery_s(len(item) if item else 1, conditions, random)
        self._due_at = at = max(at, self._due_at)
        self._on_way.append(item)
        loop.call_at(at, self._arrive, context=self._network.context)

    def _arrive(self) -> None:
        """The first on the way is there, if the way is open."""
        if self._silent_since is None and not self._network.reaches(self.host, self.other.host):
            self._silent_since = asyncio.get_running_loop().time()
            self._network.stalled[self] = None
        if self._silent_since is None:
            self._pass_on()
        else:
            self._late += 1

    def _repeat(self) -> None:
        if self._silent_since is None or not self._network.reaches(self.host, self.other.host):
            return  # done already, or cut once more
        self._network.stalled.pop(self, None)
        self._silent_since = None
        late, self._late = self._late, 0
        for _ in range(late):
            self._pass_on()

    def _pass_on(self) -> None:
        if not self._on_way:  # taken back meanwhile
            return
        item, other = self._on_way.popleft(), self.other
        if item is None:
            other._lose_soon(None)
        elif other.host.down is None:
            self._hand_over(item)
        else:
            other.host.down.push(self, item, self._hand_over)

    def _hand_over(self, data: bytes) -> None:
        other = self.other
        if other._is_cut or other._is_lost:  # where nothing is left of the link, its sender is told so
            other._notify(ConnectionResetError("the other end knows this link no more"))
            return
        other._inbox += data
        other._schedule()

    def _finish(self) -> None:
        self._lose_soon(None)
        self._depart(None)

    def _notify(self, error: Exception | None) -> None:
        """Tell the other end that this one is gone: once, and in vain when the way is cut."""
        if self.host.is_paused:
            self.host.kept.append(partial(self._notify, error))
            return
        loop = asyncio.get_running_loop()
        at = max(loop.time() + self._conditions.delay_s, self._due_at if self._silent_since is None else 0.0)
        loop.call_at(at, self._notified, error, context=self._network.context)

    def _notified(self, error: Exception | None) -> None:
        if self._network.reaches(self.host, self.other.host):
            self.other._lose_soon(error)

    def _break(self) -> None:
        for end in (self, self.other):
            end._lose_soon(ConnectionResetError("the link broke"))

    # -- to our receiver

    def _soon(self, do: Callable[..., None], *args: Any) -> None:
        """Do it in our own turn and context."""
        if self.host.is_paused:
            self.host.kept.append(partial(self._soon, do, *args))
        else:
            asyncio.get_running_loop().call_soon(do, *args, context=self._context)

    def accepted(self, accept: Callable[[MemoryLink], None]) -> None:
        """Give this end to who listens."""
        self._soon(accept, self)

    def _lose_soon(self, error: Exception | None) -> None:
        if not self._is_lost:
            self._soon(self._lose, error)

    def _lose(self, error: Exception | None) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        self._inbox.clear()
        self.host.ends.pop(self, None)
        if self._receiver is not None:
            self._receiver.connection_lost(error)
            self._receiver = None

    def _schedule(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._soon(self._deliver)

    def _deliver(self) -> None:
        self._is_due = False
        if self._receiver is None or self._is_paused or self._is_lost:
            return
        if self.host.is_paused:
            self._schedule()
            return
        most = min(len(self._inbox), self.other._conditions.piece_bytes_max, DELIVERY_BYTES)
        piece = self._network.random.randint(1, most) if 1 < most < len(self._inbox) else most
        shown = self._rest + self._inbox[:piece]
        del self._inbox[:piece]
        used = self._receiver.data_received(memoryview(shown)) if shown else 0
        self._rest = shown[used:]
        self.other._taken(piece)
        if self._inbox:
            self._schedule()

    def _taken(self, size: int) -> None:
        """The other end has so many bytes of ours."""
        self._waiting -= size
        if self._is_closing and not self._waiting:
            self._finish()
        elif self.is_full and self._waiting <= self._conditions.capacity_bytes // 2:
            self.is_full = False
            self._soon(self._tell_room)

    def _tell_room(self) -> None:
        if self._receiver is not None and not self.is_full:
            self._receiver.room_made()
