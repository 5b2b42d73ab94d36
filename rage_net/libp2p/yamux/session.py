"""One side of a yamux connection; the package says the rules. Not here: sockets, tasks, deadlines of streams."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from rage_net.libp2p.errors import LimitError, RemoteProtocolError, StreamClosedError
from rage_net.libp2p.yamux.budget import BUFFER_COST, Account
from rage_net.libp2p.yamux.frames import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    HEADER_BYTES,
    PING,
    RST,
    SEND_WINDOW_BYTES_MAX,
    SYN,
    WINDOW_BYTES_INITIAL,
    WINDOW_UPDATE,
    Buffer,
    Reason,
    header,
    pack,
)
from rage_net.libp2p.yamux.stream import Changed, Event, GoneAway, Opened, Pong, Stream

WINDOW_BYTES_MAX = 16 * 1024 * 1024
"""The largest window of one stream: 1.3 GB/s at 12 ms."""
FRAME_BYTES_MAX = 4 * 65_519
"""Payload of one DATA frame of ours: fills four Noise frames exactly."""
ACK_BACKLOG_MAX = 256
"""Streams open and not acknowledged, each way; the specification's own number."""
STREAMS_MAX = 1_024
"""Streams a peer may have open at once on one connection; more are reset as they come."""
REFUSED_MAX = 4_096
"""Streams refused on one connection, or opened and reset at once, more than were served, before it ends: a flood."""
CONTROL_FRAMES_MAX = 8_192
"""Control frames that wait to be sent, 96 KiB: a peer that makes us answer and never reads ends its connection."""
DISCARD_BYTES_MAX = 64 * 1024
"""What may still come for a stream that nobody reads before it is reset."""
GROW_ROUND_TRIPS = 4
"""A window read in less time than this many round trips is the bottleneck: it doubles."""
ROUND_TRIP_S_MIN = 0.005
"""A shorter round trip says nothing: an event loop with work to do is late by as much."""
KEEPALIVE_S = 30.0
"""After such a silence the peer is pinged."""
PING_TIMEOUT_S = 20.0
"""A peer that sends nothing at all this long after a ping is gone."""


class Session:
    """One side of a yamux connection.

    Args: is_dialer: which ids are ours. account: this connection's part of the node's budget. now: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        is_dialer: bool,
        account: Account,
        now: float,
        streams_max: int = STREAMS_MAX,
        window_max: int = WINDOW_BYTES_MAX,
    ) -> None:
        self.streams: dict[int, Stream] = {}
        self.inbound = 0
        """Streams the peer opened and that are still known."""
        self.queued = 0
        """Bytes of all streams that wait to be sent."""
        self.refused = 0
        self.rtt_s: float | None = None
        self.is_going_away = False
        self.is_gone_away = False
        self.ping_sent_at: float | None = None
        self._account = account
        self._now = now
        self._streams_max = streams_max
        self._window_max = window_max
        self._next_id = 1 if is_dialer else 2
        self._last_remote_id = 0
        self._parity = self._next_id & 1
        self._unacked_ours = 0
        self._unacked_theirs = 0
        self._ping_value = 0
        self._control: deque[bytes] = deque()
        self._ready: deque[Stream] = deque()
        self._drained: list[Stream] = []
        self._partial = b""  # a header cut by the end of a plaintext
        self._missing = 0  # payload bytes of the frame at hand still to come
        self._target: Stream | None = None  # whose payload it is; None drops it
        self._is_final = False  # the frame at hand carries FIN: its stream ends with its last byte
        self._events: list[Event] = []
        self._changed: dict[Stream, None] = {}

    # -- opening and closing ------------------------------------------------------------------------------------------

    @property
    def has_backlog(self) -> bool:
        """True when no stream may be opened until the peer acknowledges one."""
        return self._unacked_ours >= ACK_BACKLOG_MAX

    def open(self, now: float) -> Stream:
        """A new stream; its SYN leaves with the first bytes that are sent in the same turn.

        Raises: LimitError on a full acknowledgement backlog; StreamClosedError when either side goes away.
        """
        if self.is_gone_away or self.is_going_away:
            raise StreamClosedError("yamux: the session is going away")
        if self.has_backlog:
            raise LimitError(f"yamux: {ACK_BACKLOG_MAX} streams wait for the peer's acknowledgement")
        if self._next_id >= 2**32:
            raise StreamClosedError("yamux: the stream ids of this session are used up")
        stream = Stream(self._next_id, is_inbound=False, now=now)
        self._next_id += 2
        self._unacked_ours += 1
        self.streams[stream.id] = stream
        self._make_ready(stream)
        return stream

    def close_write(self, stream: Stream) -> None:
        """End our half once the queue is sent."""
        if not stream.is_closing and not stream.is_write_closed:
            stream.is_closing = True
            self._make_ready(stream)

    def discard_read(self, stream: Stream) -> None:
        """Nobody reads any more: drop what is here and what comes, and reset the stream if that is much.

        A little may come: the peer's agreement to a protocol, or the end of an answer.
        """
        self._drop_unread(stream)
        stream.discard_left = DISCARD_BYTES_MAX

    def reset(self, stream: Stream) -> None:
        """End both halves at once and tell the peer."""
        if stream.is_forgotten:
            self._drop_unread(stream)
            return
        if stream.is_inbound or not stream.flags & SYN:  # else the peer has never heard of it
            self._control.append(pack(0, WINDOW_UPDATE, RST, stream.id, 0))
        self._kill(stream)

    def go_away(self, reason: Reason) -> None:
        """Tell the peer to open no more streams. Open ones go on."""
        if not self.is_going_away:
            self.is_going_away = True
            self._control.append(pack(0, GO_AWAY, 0, 0, reason))

    def abandon(self) -> list[Stream]:
        """The connection is gone: reset every stream without a word. Gives those that were open."""
        streams = list(self.streams.values())
        for stream in streams:
            self._kill(stream)
        self._control.clear()
        self._ready.clear()
        self._account.close()
        return streams

    # -- sending ------------------------------------------------------------------------------------------------------

    def send(self, stream: Stream, buffers: Iterable[Buffer]) -> None:
        """Queue bytes. They are not copied: leave them as they are until `queued` is 0. Raises StreamClosedError."""
        if stream.is_closing or stream.is_write_closed:
            raise StreamClosedError("yamux: this half of the stream is closed")
        for buffer in buffers:
            if size := len(buffer):
                stream.queue.append(buffer)
                stream.queued += size
                self.queued += size
        if not stream.is_ready and stream.queued:
            self._make_ready(stream)

    def ping(self, now: float) -> None:
        """Ask for a Pong. One at a time: a second call waits for the same answer."""
        if self.ping_sent_at is None:
            self.ping_sent_at = now
            self._ping_value = (self._ping_value + 1) & 0xFFFFFFFF
            self._control.append(pack(0, PING, SYN, 0, self._ping_value))

    def next_timeout(self) -> float:
        """When `on_timeout` is due."""
        return (
            self._now + KEEPALIVE_S if self.ping_sent_at is None else max(self.ping_sent_at, self._now) + PING_TIMEOUT_S
        )

    def on_timeout(self, now: float) -> None:
        """Ping a silent peer. Raises RemoteProtocolError when it has not answered the last one with anything."""
        if now < self.next_timeout():
            return
        if self.ping_sent_at is not None:
            raise RemoteProtocolError(f"yamux: the peer was silent for {PING_TIMEOUT_S:.0f} s after a ping")
        self.ping(now)

    def data_to_send(self, limit: int) -> list[Buffer]:
        """Headers and payloads, at least `limit` bytes when there are as many; empty when nothing may be sent.

        Control frames go first, then the streams in turn, one frame each.
        """
        out: list[Buffer] = []
        size = 0
        if self._control:
            out.extend(self._control)
            size = HEADER_BYTES * len(self._control)
            self._control.clear()
        ready = self._ready
        while ready and size < limit:
            stream = ready.popleft()
            stream.is_ready = False
            size += self._next_frame(stream, out)
        return out

    def take_drained(self) -> list[Stream]:
        """Streams whose queue ran dry in `data_to_send` since the last call: their writers may go on."""
        drained, self._drained = self._drained, []
        return drained

    @property
    def has_data_to_send(self) -> bool:
        """False when `data_to_send` would give nothing."""
        return bool(self._control or self._ready)

    def _next_frame(self, stream: Stream, out: list[Buffer]) -> int:
        """One DATA frame; then, behind the last byte, the end.

        The end has a header of its own, which costs nothing (the two share a Noise frame): js-libp2p drops a payload
        that comes with FIN.
        """
        if stream.is_write_closed:
            return 0
        size = min(stream.queued, stream.send_window, FRAME_BYTES_MAX)
        flags = stream.flags
        is_last = stream.is_closing and size == stream.queued
        self._sent_flags(stream)
        if size or (flags and not is_last):
            out.append(pack(0, DATA, flags, stream.id, size))
            flags = 0
        if size:
            self._take_from_queue(stream, size, out)
            if not stream.queued:
                self._drained.append(stream)
        if is_last:
            out.append(pack(0, WINDOW_UPDATE, flags | FIN, stream.id, 0))
            stream.is_write_closed = True
            self._forget_if_done(stream)
        elif stream.queued and stream.send_window:
            self._make_ready(stream)
        return HEADER_BYTES + size

    def _take_from_queue(self, stream: Stream, size: int, out: list[Buffer]) -> None:
        stream.send_window -= size
        stream.queued -= size
        self.queued -= size
        queue = stream.queue
        while size:
            buffer = queue[0]
            if len(buffer) <= size:
                out.append(queue.popleft())
                size -= len(buffer)
            else:
                view = memoryview(buffer)
                out.append(view[:size])
                queue[0] = view[size:]
                return

    def _make_ready(self, stream: Stream) -> None:
        if not stream.is_ready:
            stream.is_ready = True
            self._ready.append(stream)

    def _sent_flags(self, stream: Stream) -> None:
        if stream.flags & ACK:
            stream.is_acked = True
            self._unacked_theirs -= 1
            self.refused = max(0, self.refused - 1)
        stream.flags = 0

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, stream: Stream, now: float, limit: int | None = None) -> list[bytes | memoryview]:
        """What has arrived, and room for the peer to send as much again. Empty when there is nothing.

        Args: limit: stop with the buffer that reaches so many bytes; None takes all.
        """
        buffers = stream.buffers
        if not buffers:
            return []
        if limit is None or limit >= stream.unread:
            stream.buffers = []
            size, cost = stream.unread, stream.cost
        else:
            count = size = 0
            while size < limit:
                size += len(buffers[count])
                count += 1
            cost = size + count * BUFFER_COST
            buffers, stream.buffers = buffers[:count], buffers[count:]
        self._account.release(cost)
        stream.unread -= size
        stream.cost -= cost
        if not stream.is_read_closed:
            used = stream.window - stream.receive_window - stream.unread
            if used * 2 >= stream.window:
                self._grant(stream, used, now)
        return buffers

    def put_back(self, stream: Stream, buffers: list[bytes | memoryview]) -> None:
        """Bytes that were read too soon are unread again, and count as such."""
        size = sum(map(len, buffers))
        cost = size + len(buffers) * BUFFER_COST
        if stream.is_reset or stream.discard_left is not None or not self._account.charge(cost):
            return
        stream.buffers = [*buffers, *stream.buffers]
        stream.unread += size
        stream.cost += cost

    def _grant(self, stream: Stream, used: int, now: float) -> None:
        round_trip = max(self.rtt_s or 0.0, ROUND_TRIP_S_MIN)
        wider = min(2 * stream.window, self._window_max) - stream.window
        if wider > 0 and now - stream.granted_at < GROW_ROUND_TRIPS * round_trip and self._account.promise(wider):
            stream.window += wider
            used += wider
        stream.granted_at = now
        stream.receive_window += used
        flags = stream.flags
        self._sent_flags(stream)
        self._control.append(pack(0, WINDOW_UPDATE, flags, stream.id, used))

    def _drop_unread(self, stream: Stream) -> None:
        self._account.release(stream.cost)
        stream.buffers = []
        stream.unread = stream.cost = 0

    # -- receiving ----------------------------------------------------------------------------------------------------

    def receive(self, plaintexts: Iterable[bytes], now: float) -> list[Event]:
        """Take what arrived, cut anywhere; tell what became of it, in order.

        Raises: RemoteProtocolError for a malformed frame, a payload beyond its window, a flag or an id out of place, a
        flood. The session is then of no more use but to `go_away`.
        """
        self._now = now
        for plaintext in plaintexts:
            size = len(plaintext)
            if self._missing >= size > 0:  # all payload: the bulk path
                self._payload(plaintext, size)
            else:
                self._parse(plaintext, size)
        events, self._events = self._events, []
        if self._changed:
            events.extend(map(Changed, self._changed))
            self._changed = {}
        return events

    def _parse(self, plaintext: bytes, size: int) -> None:
        at = 0
        while at < size:
            if self._missing:
                end = min(size, at + self._missing)
                # A view would keep the whole plaintext alive: worth it only where it is most of it.
                part = memoryview(plaintext)[at:end] if 2 * (end - at) >= size else plaintext[at:end]
                self._payload(part, end - at)
                at = end
                continue
            if not self._partial and size - at >= HEADER_BYTES:
                fields = header.unpack_from(plaintext, at)
                at += HEADER_BYTES
            else:
                end = min(size, at + HEADER_BYTES - len(self._partial))
                self._partial += plaintext[at:end]
                at = end
                if len(self._partial) < HEADER_BYTES:
                    return
                fields = header.unpack(self._partial)
                self._partial = b""
            self._frame(*fields)

    def _payload(self, buffer: bytes | memoryview, size: int) -> None:
        self._missing -= size
        stream = self._target
        if stream is None or stream.is_reset:
            return
        if stream.discard_left is None:
            cost = size + BUFFER_COST
            if not self._account.charge(cost):
                raise LimitError("yamux: the budget of unread bytes is used up, most of it by this connection")
            stream.buffers.append(buffer)
            stream.unread += size
            stream.cost += cost
            self._changed[stream] = None
        if not self._missing and self._is_final:
            self._end(stream)

    def _frame(self, version: int, kind: int, flags: int, stream_id: int, length: int) -> None:
        if version != 0 or kind > GO_AWAY or flags > 15:
            raise RemoteProtocolError(f"yamux: a frame of version {version}, type {kind}, flags {flags:#x}")
        if len(self._control) > CONTROL_FRAMES_MAX:
            raise RemoteProtocolError(f"yamux: {CONTROL_FRAMES_MAX} control frames wait, the peer does not read")
        if kind >= PING:
            if stream_id:
                raise RemoteProtocolError("yamux: a session's frame names a stream")
            self._session_frame(kind, flags, length)
            return
        stream = self._accept(stream_id) if flags & SYN else self._find(stream_id)
        if kind == DATA:
            if length > WINDOW_BYTES_MAX or (length and flags & RST):
                raise RemoteProtocolError(f"yamux: a frame of {length} bytes with flags {flags:#x}")
            if stream is not None and length:
                stream = self._expect(stream, length)
            self._missing, self._target, self._is_final = length, stream, bool(flags & FIN)
        if stream is None:
            return
        if flags & ACK and not stream.is_inbound and not stream.is_acked:
            stream.is_acked = True
            self._unacked_ours -= 1
            self._changed[stream] = None
        if flags & RST:
            if stream.is_inbound and not stream.is_acked:
                self._count_refused()  # opened and taken back before we could answer: work for nothing
            self._kill(stream)
            return
        if kind == WINDOW_UPDATE:
            self._widen(stream, length)
        if flags & FIN and not (kind == DATA and length):
            self._end(stream)

    def _expect(self, stream: Stream, length: int) -> Stream | None:
        """Account for a payload about to come. None when the stream was reset for it."""
        if stream.is_read_closed:
            raise RemoteProtocolError("yamux: bytes after the end of a stream")
        if length > stream.receive_window:
            raise RemoteProtocolError(f"yamux: {length} bytes, the window has {stream.receive_window}")
        stream.receive_window -= length
        if stream.discard_left is not None:
            stream.discard_left -= length
            if stream.discard_left < 0:
                self.reset(stream)
                return None
        return stream

    def _widen(self, stream: Stream, length: int) -> None:
        stream.send_window += length
        if stream.send_window > SEND_WINDOW_BYTES_MAX:
            raise RemoteProtocolError("yamux: a window of more than 4 GiB")
        if length and stream.queued:
            self._make_ready(stream)

    def _end(self, stream: Stream) -> None:
        if stream.is_read_closed:
            raise RemoteProtocolError("yamux: a stream ended twice")
        stream.is_read_closed = True
        self._changed[stream] = None
        self._forget_if_done(stream)

    def _accept(self, stream_id: int) -> Stream | None:
        """A stream the peer opens. None when it is refused; its payload is then dropped."""
        if stream_id & 1 == self._parity or stream_id <= self._last_remote_id:
            raise RemoteProtocolError(f"yamux: stream {stream_id} is not the peer's to open")
        self._last_remote_id = stream_id
        if self.inbound >= self._streams_max or self._unacked_theirs >= ACK_BACKLOG_MAX or self.is_going_away:
            self._count_refused()
            self._control.append(pack(0, WINDOW_UPDATE, RST, stream_id, 0))
            return None
        stream = Stream(stream_id, is_inbound=True, now=self._now)
        self.streams[stream_id] = stream
        self.inbound += 1
        self._unacked_theirs += 1
        self._events.append(Opened(stream))
        return stream

    def _count_refused(self) -> None:
        self.refused += 1
        if self.refused > REFUSED_MAX:
            raise RemoteProtocolError(f"yamux: {REFUSED_MAX} streams were refused or taken back at once")

    def _find(self, stream_id: int) -> Stream | None:
        stream = self.streams.get(stream_id)
        if stream is None:
            is_ours = stream_id & 1 == self._parity
            if stream_id == 0 or stream_id >= self._next_id if is_ours else stream_id > self._last_remote_id:
                raise RemoteProtocolError(f"yamux: a frame for stream {stream_id}, which was never opened")
        return stream

    def _session_frame(self, kind: int, flags: int, value: int) -> None:
        if kind == GO_AWAY:
            self.is_gone_away = True
            self._events.append(GoneAway(value))
        elif flags & SYN:
            self._control.append(pack(0, PING, ACK, 0, value))
        elif flags & ACK and self.ping_sent_at is not None and value == self._ping_value:
            rtt = self._now - self.ping_sent_at
            self.rtt_s = rtt if self.rtt_s is None else min(self.rtt_s, rtt)  # the path's own, without our queues
            self.ping_sent_at = None
            self._events.append(Pong(rtt))

    # -- forgetting ---------------------------------------------------------------------------------------------------

    def _kill(self, stream: Stream) -> None:
        stream.is_reset = True
        stream.is_read_closed = stream.is_write_closed = True
        self._drop_unread(stream)
        stream.queue.clear()
        self.queued -= stream.queued
        stream.queued = 0
        self._changed[stream] = None
        self._forget_if_done(stream)

    def _forget_if_done(self, stream: Stream) -> None:
        if not stream.is_forgotten or self.streams.pop(stream.id, None) is None:
            return
        self._account.withdraw(stream.window - WINDOW_BYTES_INITIAL)
        if stream.is_inbound:
            self.inbound -= 1
            if stream.flags & ACK:
                self._unacked_theirs -= 1
        elif not stream.is_acked:
            self._unacked_ours -= 1
