"""Every number that bounds a swarm. No code."""

from __future__ import annotations

from dataclasses import dataclass

from rage_net.libp2p import yamux


@dataclass(frozen=True)
class Limits:
    """What a swarm allows; the defaults suit a node with 1 GiB to spare."""

    connections: int = 512
    """In all, both directions; an eighth is kept for those that we dial."""
    connections_per_ip: int = 64
    """Inbound, from one address: many nodes may stand behind one gateway."""
    handshakes: int = 128
    """Inbound connections that have not proved who they are; one more, and one of the busiest host makes way."""
    handshakes_per_ip: int = 16
    """Of those, from one address."""
    streams: int = yamux.STREAMS_MAX
    """Open at once on one connection, for each direction."""
    streams_total: int = 8_192
    """Inbound streams with a handler at work, on all connections."""
    unread_bytes: int = yamux.BUDGET_BYTES
    """Unread stream bytes of the whole swarm."""
    window_bytes: int = yamux.WINDOW_BYTES_MAX
    """The widest window of one stream."""
    queue_bytes: int = 512 * 1024
    """A writer waits while its stream has more than this to send."""
    queue_bytes_connection: int = 8 * 1024 * 1024
    """Every writer of a connection waits while all its streams together have more than this to send."""
    queue_bytes_look: int = 256 * 1024
    """From so much on, a connection's writes look at what waits in the whole swarm."""
    queue_bytes_total: int = 64 * 1024 * 1024
    """Bytes that wait to be sent on all connections; beyond it, the connection with the most of them is dropped."""
    dial_parallel: int = 8
    """Addresses of one peer tried at once."""
    dial_addresses: int = 32
    """Addresses tried in one dial, names resolved; the others are left out."""
    dial_stagger_s: float = 0.25
    """Each further address gets so much less of a start (RFC 8305)."""
    dial_timeout_s: float = 15.0
    """A whole dial, when the caller does not say."""
    handshake_timeout_s: float = 10.0
    """From a link to a secure, multiplexed connection."""
    introduction_s: float = 15.0
    """From a connection to its introduction's end, where the host wants one."""
    negotiate_timeout_s: float = 10.0
    """From a new stream to its protocol."""
    slowest_bytes_s: int = 1024
    """A peer that takes bytes more slowly than this is stalled: GPRS gave ten times as much."""
    write_stall_s: float = 60.0
    """How long a stream's waiting writer puts up with that before it resets the stream."""
    link_stall_s: float = 30.0
    """How long a full link puts up with that before it is dropped."""
    linger_s: float = 60.0
    """A stream that we have closed is reset when in so long the peer neither ends it nor takes what waits."""
    idle_s: float = 300.0
    """A connection without streams is closed after this."""
    retire_s: float = 10.0
    """The lesser of two connections to one peer takes new streams for so long, and has `linger_s` more to end them."""
    close_s: float = 2.0
    """What a closing swarm gives its connections to send what waits."""
