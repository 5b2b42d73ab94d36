"""What a session knows of one stream, and what it tells of it. Changed by `session` alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from rage_net.libp2p.yamux.frames import ACK, SYN, WINDOW_BYTES_INITIAL, Buffer


class Stream:
    """One stream's state. Read it freely; change it through its session."""

    __slots__ = (
        "buffers",
        "cost",
        "discard_left",
        "flags",
        "granted_at",
        "id",
        "is_acked",
        "is_closing",
        "is_inbound",
        "is_read_closed",
        "is_ready",
        "is_reset",
        "is_write_closed",
        "on_change",
        "queue",
        "queued",
        "receive_window",
        "send_window",
        "unread",
        "window",
    )

    def __init__(self, stream_id: int, *, is_inbound: bool, now: float) -> None:
        self.id = stream_id
        self.is_inbound = is_inbound
        self.on_change: Callable[[], None] | None = None
        """For the layer above: what to call on a `Changed` of this stream. The session never calls it."""
        # receiving
        self.buffers: list[bytes | memoryview] = []
        self.unread = 0
        self.cost = 0
        self.window = WINDOW_BYTES_INITIAL
        self.receive_window = WINDOW_BYTES_INITIAL
        self.granted_at = now
        self.is_read_closed = False
        self.discard_left: int | None = None
        # sending
        self.queue: deque[Buffer] = deque()
        self.queued = 0
        self.send_window = WINDOW_BYTES_INITIAL
        self.flags = ACK if is_inbound else SYN
        self.is_acked = False
        self.is_closing = False
        self.is_write_closed = False
        self.is_ready = False
        self.is_reset = False

    @property
    def is_at_end(self) -> bool:
        """Nothing is left to read, and nothing will come."""
        return self.is_read_closed and not self.buffers

    @property
    def is_forgotten(self) -> bool:
        """Both halves are closed: the session knows it no more."""
        return self.is_read_closed and self.is_write_closed


class Opened(NamedTuple):
    """The peer opened a stream."""

    stream: Stream


class Changed(NamedTuple):
    """A stream has new bytes, its end, a reset, or its queue ran dry: look at it."""

    stream: Stream


class Pong(NamedTuple):
    """The peer answered a ping."""

    rtt_s: float


class GoneAway(NamedTuple):
    """The peer opens no more streams and wants no more; open ones may go on."""

    reason: int


Event: TypeAlias = Opened | Changed | Pong | GoneAway
