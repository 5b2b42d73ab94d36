"""Transports: byte links between two places. The only modules of the stack that touch sockets or pretend to.

A `Link` pushes: it hands its `Receiver` what arrived, and keeps what the receiver did not use until more comes. Two
bodies: `TcpTransport` (sockets) and `MemoryTransport` (tests and simulations; delays, losses and cuts by seed).
Not here: who is on the other end, and what the bytes mean (`swarm`).
"""

from __future__ import annotations

from rage_net.libp2p.transport.link import Link, Listener, Receiver, Transport
from rage_net.libp2p.transport.memory import Conditions, MemoryNetwork, MemoryTransport
from rage_net.libp2p.transport.tcp import TcpTransport, tune_malloc

__all__ = [
    "Conditions",
    "Link",
    "Listener",
    "MemoryNetwork",
    "MemoryTransport",
    "Receiver",
    "TcpTransport",
    "Transport",
    "tune_malloc",
]
