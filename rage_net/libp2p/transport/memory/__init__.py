"""Links within one process, with faults: bytes cut, late, lost and sent again, hosts apart, stalled or gone.

    conditions  how a way between two hosts behaves: rules, no state
    line        a host's access line: so many bytes a second, its links served in turn
    network     hosts, who listens where, and what is done to them: partitions, power cuts, stalls
    link        one connection, from both ends
    transport   `/memory/NAME`, and `/ip4` and `/ip6` with `/tcp` for hosts that are named by an IP address

Behaves as TCP does: no byte is lost or overtakes another; what the network loses comes late. There is no congestion
control: a link sends what its capacity and its hosts' lines take. Time passes only through the event loop and chance
comes from one generator, so that a loop with a virtual clock repeats a run exactly.
"""

from __future__ import annotations

from rage_net.libp2p.transport.memory.conditions import DELIVERY_BYTES, Conditions
from rage_net.libp2p.transport.memory.link import MemoryLink
from rage_net.libp2p.transport.memory.network import Host, MemoryNetwork
from rage_net.libp2p.transport.memory.transport import MemoryListener, MemoryTransport

__all__ = ["DELIVERY_BYTES", "Conditions", "Host", "MemoryLink", "MemoryListener", "MemoryNetwork", "MemoryTransport"]
