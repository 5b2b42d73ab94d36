"""The swarm: secure, multiplexed connections to peers, and streams on them.

    swarm       listeners, dials, which connection is kept, handlers: tasks and timers
    connection  one connection: Noise and yamux over a link
    stream      one stream: read, write, close
    upgrade     from a raw link to a secure, multiplexed one
    dial        a peer's addresses in a staggered race
    services    identify and ping
    limits      every number that bounds the above

Not here: bytes on the wire (`noise`, `yamux`, `multistream`), sockets (`transport`).
"""

from __future__ import annotations

from rage_net.libp2p.swarm.connection import Connection
from rage_net.libp2p.swarm.limits import Limits
from rage_net.libp2p.swarm.stream import Stream
from rage_net.libp2p.swarm.swarm import Connected, Disconnected, Event, Handler, Identified, Swarm

__all__ = ["Connected", "Connection", "Disconnected", "Event", "Handler", "Identified", "Limits", "Stream", "Swarm"]
