"""From where an address can be reached: what is told to whom, and taken from whom, is held against it. No state.

An address is told only to whom it can serve, and believed only from where it can be known: loopback to who came over
loopback, private ones to who came from as near. So nobody far away makes us dial into our own network.

Source: RFC 1918, 3927, 4193, 4291, 6598; the IANA special-purpose address registries, as `ipaddress` has them.
"""

from __future__ import annotations

import functools
import ipaddress
from enum import IntEnum

from rage_net.libp2p.multiaddr import Multiaddr

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

HOST_PREFIX_BITS = {4: 32, 6: 64}
"""What counts as one host: one of IPv6 has a whole /64."""
SITE_PREFIX_BITS = {4: 24, 6: 48}
"""What counts as one site."""

_PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)


class Scope(IntEnum):
    """From where an address can be reached; each includes those before it. A registry's file holds these numbers."""

    NOWHERE = 0
    """Unspecified, multicast, reserved, for documentation, or of a kind that nobody dials."""
    MACHINE = 1
    LINK = 2
    NETWORK = 3
    """Addresses of one organisation or provider (RFC 1918, 4193, 6598)."""
    WORLD = 4


def parse_ip(text: str) -> IpAddress | None:
    """The address, an IPv4 one that is written as IPv6 as what it is; None when the text is none."""
    try:
        ip = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def ip_of(address: Multiaddr) -> IpAddress | None:
    """The IP address that a multiaddr begins with."""
    first = address.parts[0]
    return parse_ip(first.value) if first.protocol in ("ip4", "ip6") else None


def scope_of_ip(ip: IpAddress) -> Scope:
    """How far an IP address reaches."""
    if ip.is_loopback:
        return Scope.MACHINE
    if ip.is_unspecified or ip.is_multicast or ip.is_reserved:
        return Scope.NOWHERE
    if ip.is_link_local:
        return Scope.LINK
    if any(ip.version == network.version and ip in network for network in _PRIVATE):
        return Scope.NETWORK
    return Scope.WORLD if ip.is_global else Scope.NOWHERE


@functools.lru_cache(maxsize=4096)
def scope_of(address: Multiaddr) -> Scope:
    """How far `address` reaches; a host name is taken for the world's, but that of this machine."""
    kind, value = address.parts[0]
    if kind in ("memory", "unix"):
        return Scope.MACHINE
    if kind in ("dns", "dns4", "dns6", "dnsaddr"):
        name = value.rstrip(".").lower()
        return Scope.MACHINE if name == "localhost" or name.endswith(".localhost") else Scope.WORLD
    ip = ip_of(address)
    if ip is None:
        return Scope.NOWHERE
    scope = scope_of_ip(ip)
    return scope if scope == Scope.MACHINE or _port(address) != 0 else Scope.NOWHERE


def may_tell(address: Multiaddr, to: Multiaddr) -> bool:
    """Whether `address` may be told to, or believed from, a peer that is reached at `to`."""
    scope, reached = scope_of(address), scope_of(to)
    return scope != Scope.NOWHERE and scope >= (reached if reached != Scope.NOWHERE else Scope.WORLD)


def same_host(address: Multiaddr, reached: Multiaddr) -> bool:
    """Whether `address` is at the very host that `reached` is: the ports may differ."""
    return address.parts[0] == reached.parts[0]


def prefix(ip: IpAddress, bits: dict[int, int]) -> str:
    """The network that the address lies in, as text, with so many bits for its version."""
    return str(ipaddress.ip_network((int(ip), bits[ip.version]), strict=False))


def _port(address: Multiaddr) -> int | None:
    for kind, value in address.parts[1:]:
        if kind in ("tcp", "udp"):
            return int(value)
    return None
