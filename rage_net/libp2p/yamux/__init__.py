"""yamux: many streams over one ordered, reliable connection.

Sans-I/O: `Session.receive(plaintexts, now)` gives events, `Session.data_to_send(limit)` gives buffers. A `Stream` holds
what has arrived and was not read, and what was written and not sent. Four frames, with a 12-byte header:

    version 0 | type | flags (2 bytes) | stream id (4) | length (4)       ids: the dialer's are odd, the other's even

    type           length is            flags that matter
    DATA           bytes that follow    SYN opens, ACK accepts, FIN ends this direction, RST ends both
    WINDOW_UPDATE  room added           the same
    PING           an opaque value      SYN asks, ACK answers         (stream id 0)
    GO_AWAY        a reason             none                          (stream id 0)

A stream's two halves are independent; it is forgotten when both are closed, or at once by a reset:

    half      state    on                             becomes
    sending   OPEN     close_write(), queue empty     CLOSED  after a frame with FIN
    receiving OPEN     frame with FIN                 CLOSED
    both      any      reset(), or frame with RST     CLOSED, `is_reset`; unread and unsent bytes are dropped
    frames for a stream that was forgotten are dropped; for one that never was, the session fails

Flow control. A peer may send what its window allows: 256 KiB at first. Each time half of a window has been read, the
difference is granted again, and the window doubles when that half took less than four round trips, up to 16 MiB and
inside a `Budget` shared by all connections. What lies unread is charged to the budget; when it is exhausted, the
connection with the most unread bytes is evicted. Sending is round robin, one frame a turn.

Not here: sockets, tasks, deadlines on streams (`swarm`). Source: hashicorp/yamux spec.md; libp2p/specs yamux/README.md.
"""

from __future__ import annotations

from rage_net.libp2p.yamux.budget import BUDGET_BYTES, Account, Budget
from rage_net.libp2p.yamux.frames import PROTOCOL_ID, WINDOW_BYTES_INITIAL, Flag, Reason, Type
from rage_net.libp2p.yamux.session import (
    ACK_BACKLOG_MAX,
    CONTROL_FRAMES_MAX,
    FRAME_BYTES_MAX,
    PING_TIMEOUT_S,
    REFUSED_MAX,
    STREAMS_MAX,
    WINDOW_BYTES_MAX,
    Session,
)
from rage_net.libp2p.yamux.stream import Changed, Event, GoneAway, Opened, Pong, Stream

__all__ = [
    "ACK_BACKLOG_MAX",
    "BUDGET_BYTES",
    "CONTROL_FRAMES_MAX",
    "FRAME_BYTES_MAX",
    "PING_TIMEOUT_S",
    "PROTOCOL_ID",
    "REFUSED_MAX",
    "STREAMS_MAX",
    "WINDOW_BYTES_INITIAL",
    "WINDOW_BYTES_MAX",
    "Account",
    "Budget",
    "Changed",
    "Event",
    "Flag",
    "GoneAway",
    "Opened",
    "Pong",
    "Reason",
    "Session",
    "Stream",
    "Type",
]
