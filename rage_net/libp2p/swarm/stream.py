"""A stream as its user sees it: reads, writes, the end of each half, and the protocol agreed on.

Deadlines: a writer that makes no progress resets its stream; a reader waits as long as its caller lets it
(`asyncio.timeout`), because a quiet stream is no fault.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING

from rage_net.libp2p import multistream, varint, yamux
from rage_net.libp2p.errors import Libp2pError, RemoteProtocolError, StreamClosedError, StreamResetError
from rage_net.libp2p.peer_id import PeerId

if TYPE_CHECKING:
    from rage_net.libp2p.swarm.connection import Connection

KEPT_BYTES_MAX = 2048
"""What a stream keeps of bytes that came along with others; more goes back to the session, and counts as unread."""
GATHERED_BYTES_MAX = 64 * 1024
"""Of a part that is wanted whole, so much waits in the session; half a window is always open to the peer."""
LENGTH_BYTES_MAX = 5
"""Of a message's varint length: messages are at most 4 GiB, and callers allow far less."""


class Stream:
    """Full duplex, one protocol. One task may read and another write."""

    __slots__ = (
        "_greeting",
        "_is_end_due",
        "_negotiation",
        "_rest",
        "_waiting_reader",
        "_waiting_writer",
        "connection",
        "protocol",
        "raw",
    )

    def __init__(self, connection: Connection, raw: yamux.Stream, protocol: str = "") -> None:
        self.protocol = protocol
        self.connection = connection
        self.raw = raw
        raw.on_change = self.wake
        self._rest: list[bytes | memoryview] = []  # taken from the session, not from us
        self._negotiation: multistream.Initiator | None = None  # whose answer has not come yet
        self._greeting = b""  # our answer, waiting for first bytes to leave with
        self._is_end_due = False  # our half ends with the answer of `_negotiation`
        self._waiting_reader: asyncio.Future[None] | None = None
        self._waiting_writer: asyncio.Future[None] | None = None

    @property
    def remote_peer(self) -> PeerId:
        """Who is at the other end, as Noise proved."""
        return self.connection.peer_id

    # -- reading

    async def read(self) -> list[bytes | memoryview]:
        """All that has arrived, waiting for the first byte; empty at the end of the peer's half.

        Raises: StreamResetError; StreamClosedError when the connection is gone; NegotiationError when the peer refused
        the only protocol proposed.
        """
        return await self._read(None)

    async def read_some(self, limit: int) -> list[bytes | memoryview]:
        """As `read`, but no more than the buffer that reaches `limit` bytes: what is left counts as unread."""
        return await self._read(limit)

    async def read_exactly(self, size: int) -> bytes:
        """`size` bytes; the caller bounds it. Raises as `read`, and RemoteProtocolError when the half ends before."""
        parts: list[bytes | memoryview] = []
        missing = size
        while missing > 0:
            buffers = await self._read(missing, at_least=min(missing, GATHERED_BYTES_MAX))
            if not buffers:
                raise RemoteProtocolError(f"a stream ended {missing} bytes early")
            for index, buffer in enumerate(buffers):
                if len(buffer) > missing:
                    view = memoryview(buffer)
                    parts.append(view[:missing])
                    self._keep([view[missing:], *buffers[index + 1 :]])
                    missing = 0
                    break
                parts.append(buffer)
                missing -= len(buffer)
                if not missing:
                    self._keep(buffers[index + 1 :])
                    break
        return b"".join(parts)

    async def read_message(self, limit: int) -> bytes:
        """One message with a varint length before it; refused above `limit` bytes before any of it is kept.

        Raises: StreamResetError; RemoteProtocolError when it is too long or the half ends, between messages too.
        """
        head = b""
        while True:
            buffers = await self._read(1)
            if not buffers:
                raise RemoteProtocolError("a stream ended where a message should begin")
            first = buffers[0]
            length = varint.decode(head + bytes(first[:LENGTH_BYTES_MAX]), maximum=limit)
            if length is not None:
                size, end = length
                used = end - len(head)
                self._keep([memoryview(first)[used:], *buffers[1:]] if used < len(first) else buffers[1:])
                return await self.read_exactly(size)
            head += bytes(first)
            if len(head) >= LENGTH_BYTES_MAX:
                raise RemoteProtocolError("a message's length does not end")
            self._keep(buffers[1:])

    def _keep(self, rest: list[bytes | memoryview]) -> None:
        """What was taken and not used yet. A view is copied where it would keep alive far more than it shows."""
        rest = [
            bytes(part) if isinstance(part, memoryview) and 2 * part.nbytes < memoryview(part.obj).nbytes else part
            for part in rest
        ]
        if sum(map(len, rest)) <= KEPT_BYTES_MAX:
            self._rest = rest
        else:
            self.connection.session.put_back(self.raw, rest)

    async def _read(self, limit: int | None, at_least: int = 1) -> list[bytes | memoryview]:
        if self._rest:
            rest, self._rest = self._rest, []
            return rest
        raw, connection = self.raw, self.connection
        while True:
            if raw.unread >= at_least or (raw.is_read_closed and raw.buffers):
                buffers = connection.take(raw, limit)
                if self._negotiation is None:
                    return buffers
                self._check_answer(self._negotiation, buffers)
                if self._rest:
                    buffers, self._rest = self._rest, []
                    return buffers
                continue
            if raw.is_reset:
                raise self._gone()
            if raw.is_read_closed:
                if self._negotiation is not None:
                    raise RemoteProtocolError(f"the stream ended before the peer agreed on {self.protocol}")
                return []
            self.send_greeting()
            self._waiting_reader = asyncio.get_running_loop().create_future()
            try:
                await self._waiting_reader
            finally:
                self._waiting_reader = None

    def _check_answer(self, negotiation: multistream.Initiator, buffers: list[bytes | memoryview]) -> None:
        try:
            self.settle(negotiation, buffers)
        except Libp2pError:
            self._abort()
            raise

    def propose(self, protocol: str) -> None:
        """Name the only protocol with the first bytes that leave; the first read takes the answer."""
        self.protocol = protocol
        self._negotiation = multistream.Initiator([protocol])
        self.connection.session.send(self.raw, (self._negotiation.data_to_send(),))
        self.connection.schedule_flush()

    def settle(
        self, negotiation: multistream.Initiator | multistream.Responder, buffers: list[bytes | memoryview]
    ) -> bytes:
        """Give `buffers` to a negotiation. Once it agrees, `protocol` is set and what is left over is read next.

        Returns: what the negotiation has to say.
        """
        for index, buffer in enumerate(buffers):
            selected = negotiation.receive(buffer)
            if selected is not None:
                self.protocol = selected.protocol
                self._keep([selected.rest, *buffers[index + 1 :]] if selected.rest else buffers[index + 1 :])
                self._negotiation = None
                if self._is_end_due:
                    self._end_write()
                break
        return negotiation.data_to_send()

    # -- writing

    async def write(self, *buffers: bytes | bytearray | memoryview) -> None:
        """Queue bytes, and wait while the stream, or the connection, has more to send than `Limits` allow.

        The buffers are not copied: leave them as they are until the stream is closed.
        Raises: StreamResetError, also when the peer takes less than `Limits.slowest_bytes_s` for `write_stall_s`;
        StreamClosedError after `close_write`, or when the connection is gone.
        """
        raw, connection = self.raw, self.connection
        if raw.is_reset:
            raise self._gone()
        if self._is_end_due:
            raise StreamClosedError(f"stream {raw.id} ({self.protocol}) is closed for writing")
        if self._greeting:
            buffers, self._greeting = (self._greeting, *buffers), b""
        connection.session.send(raw, buffers)
        connection.schedule_flush()
        limits = connection.limits
        if connection.session.queued > limits.queue_bytes_look:
            connection.on_crowded()
        if raw.queued > limits.queue_bytes or connection.session.queued > limits.queue_bytes_connection:
            await self._wait_drained()

    async def drain(self) -> None:
        """Wait until the connection has taken all that was written. Raises as `write`."""
        if self.raw.queued:
            await self._wait_drained()

    async def _wait_drained(self) -> None:
        raw, connection = self.raw, self.connection
        loop = asyncio.get_running_loop()
        while raw.queued and not raw.is_reset:
            before = raw.queued
            self._waiting_writer = loop.create_future()
            try:
                async with asyncio.timeout(connection.limits.write_stall_s):
                    await self._waiting_writer
            except TimeoutError:
                if before - raw.queued < connection.limits.slowest_bytes_s * connection.limits.write_stall_s:
                    connection.count("write_stalls")
                    self._abort()
                    raise StreamResetError("the peer takes nothing, or next to it") from None
            finally:
                self._waiting_writer = None
        if raw.is_reset:
            raise self._gone()

    async def close_write(self) -> None:
        """End our half; the peer reads what was written, then the end.

        While the answer to a lone proposal is out, the end leaves with the read that takes it, unless the peer is known
        to bear an earlier one: js-libp2p never tells its handler of an end that came along with the protocol's name.
        """
        if self._negotiation is not None and not self.connection.takes_early_end:
            self._is_end_due = True
        else:
            self._end_write()

    async def close(self) -> None:
        """End our half and read no more. What was written is still sent; should the peer send much, it gets a reset."""
        self._end_write()
        self._rest = []
        self.connection.linger(self.raw)

    async def reset(self) -> None:
        """End both halves at once; what waits to be sent is dropped."""
        self._abort()

    async def __aenter__(self) -> Stream:
        """`async with stream:` closes it at the end, and resets it on an error."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await (self.close() if error is None else self.reset())

    # -- called by the connection

    def wake(self) -> None:
        """The state below has changed."""
        raw = self.raw
        reader, writer = self._waiting_reader, self._waiting_writer
        if reader is not None and not reader.done() and (raw.buffers or raw.is_read_closed):
            reader.set_result(None)
        if writer is not None and not writer.done() and (not raw.queued or raw.is_reset):
            writer.set_result(None)

    def hold_greeting(self, greeting: bytes) -> None:
        """Our answer, which may leave with the first bytes of the handler."""
        self._greeting = greeting
        self.connection.hold(self)

    def send_greeting(self) -> None:
        """Wait no longer for bytes to go with it."""
        if self._greeting:
            greeting, self._greeting = self._greeting, b""
            if not self.raw.is_closing and not self.raw.is_write_closed:
                self.connection.session.send(self.raw, (greeting,))
                self.connection.schedule_flush()

    def _gone(self) -> StreamResetError | StreamClosedError:
        if self.connection.close_reason:
            return StreamClosedError(f"the connection to {self.remote_peer} is gone: {self.connection.close_reason}")
        return StreamResetError(f"stream {self.raw.id} ({self.protocol}) was reset")

    def _end_write(self) -> None:
        self._is_end_due = False
        self.send_greeting()
        self.connection.session.close_write(self.raw)
        self.connection.schedule_flush()

    def _abort(self) -> None:
        self._greeting = b""
        self._rest = []
        self.connection.session.reset(self.raw)
        self.wake()
        self.connection.schedule_flush()
