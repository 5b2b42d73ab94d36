"""From where an IP address can be reached. Decides what a server takes from whom, and tells whom.

Source: RFC 1918, 3927, 4193, 4291, 6598; the IANA special-purpose address registries, as `ipaddress` has them.
"""

from __future__ import annotations

import ipaddress
from enum import IntEnum

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

ADDRESS_PREFIX_BITS = {4: 32, 6: 64}
"""What counts as one address: an IPv6 host has a whole /64."""
SITE_PREFIX_BITS = {4: 24, 6: 48}
"""What counts as one site."""

_PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)


class Scope(IntEnum):
    """How far an address reaches: a wider one is greater."""

    LOOPBACK = 1
    LINK = 2
    PRIVATE = 3
    GLOBAL = 4


def parse_ip(text: str) -> IpAddress | None:
    """The address, an IPv4 one that is written as IPv6 as what it is; None when the text is none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def scope_of(address: IpAddress) -> Scope | None:
    """The scope of an address that can be dialled; None for all others: multicast, reserved, documentation."""
    if address.is_loopback:
        return Scope.LOOPBACK
    if address.is_unspecified or address.is_multicast or address.is_reserved:
        return None
    if address.is_link_local:
        return Scope.LINK
    if any(address.version == network.version and address in network for network in _PRIVATE):
        return Scope.PRIVATE
    return Scope.GLOBAL if address.is_global else None


def prefix(address: IpAddress, bits: dict[int, int]) -> str:
    """The network that the address lies in, as text, with so many bits for its version."""
    return str(ipaddress.ip_network((address, bits[address.version]), strict=False))
