"""mDNS: peers on the same link find each other without being told of anyone. Hints only: Noise proves who answers.

`async with Mdns(...)` asks `_p2p._udp.local` by multicast, answers those who ask, and calls back with who was heard.
Addresses stay on their link: what is announced on an interface can be reached through it, and what is heard is believed
only when it could be. Loopback addresses are announced on the loopback interface alone, so that nodes of one machine
find each other and nobody else is sent to himself.

The wire format is zeroconf's; its browser, registry and cache are not used: they want an SRV record, which js-libp2p
does not send, take one value for each key of a TXT record, where libp2p has several `dnsaddr`, and remember what
every device in the network says. Not here: dialling, addresses behind a NAT.
Source: libp2p/specs discovery/mdns (r2), RFC 6762, RFC 6763.
"""

from rage_net.libp2p.mdns.links import PORT, Interface, read_interfaces
from rage_net.libp2p.mdns.records import SERVICE
from rage_net.libp2p.mdns.service import Mdns

__all__ = ["PORT", "SERVICE", "Interface", "Mdns", "read_interfaces"]
