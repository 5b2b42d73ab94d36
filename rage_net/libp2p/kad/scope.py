"""How far an address reaches, and which peers count as one hand. Claims of peers are held against this; no state.

An address is told only to whom it can serve: loopback to who came over loopback, private ones to who came from as near.
The same rule holds for what we are told, so that nobody far away makes us dial into our own network.

Two peers in one public /24 or /48 may be one operator with many keys; of the peers that matter few may share one.
Private networks are one hand by nature, and are not counted.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable, Hashable, Iterable
from enum import IntEnum
from typing import TypeAlias

from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId

GROUP_MAX = 2
"""Peers of one group among those that matter: the k nearest, or a bucket."""

Group: TypeAlias = Callable[[PeerId], Hashable | None]
"""What a peer belongs to beyond its address: an organisation that no certificate proves; None where nothing is to be
held against it."""
MayTell: TypeAlias = Callable[[Multiaddr, Multiaddr], bool]
"""`may_tell(address, to)`: whether `address` is for a peer that is reached at `to`."""


class Scope(IntEnum):
    """From where an address can be reached; each includes those before it."""

    NOWHERE = 0
    """Unspecified, multicast, reserved, or of a kind that nobody dials."""
    MACHINE = 1
    NETWORK = 2
    """Private, link-local or shared (RFC 6598) addresses."""
    WORLD = 3


@functools.lru_cache(maxsize=4096)
def scope_of(address: Multiaddr) -> Scope:
    """How far `address` reaches."""
    kind, value = address.parts[0]
    if kind in ("memory", "unix"):
        return Scope.MACHINE
    if kind in ("dns", "dns4", "dns6", "dnsaddr"):
        name = value.rstrip(".").lower()
        return Scope.MACHINE if name == "localhost" or name.endswith(".localhost") else Scope.WORLD
    if kind not in ("ip4", "ip6"):
        return Scope.NOWHERE
    ip = ipaddress.ip_address(value)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_loopback:
        return Scope.MACHINE
    if ip.is_unspecified or ip.is_multicast or (ip.is_reserved and ip.version == 4) or _port(address) == 0:
        return Scope.NOWHERE
    return Scope.WORLD if ip.is_global else Scope.NETWORK


def may_tell(address: Multiaddr, to: Multiaddr) -> bool:
    """Whether `address` may be told to, or believed from, a peer that is reached at `to`."""
    scope, reached = scope_of(address), scope_of(to)
    return scope != Scope.NOWHERE and scope >= (reached if reached != Scope.NOWHERE else Scope.WORLD)


@functools.lru_cache(maxsize=4096)
def network_of(address: Multiaddr) -> Hashable | None:
    """The public /24 or /48 that an address lies in; None for all others."""
    if address.parts[0].protocol not in ("ip4", "ip6") or scope_of(address) != Scope.WORLD:
        return None
    ip = ipaddress.ip_address(address.parts[0].value)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return (ip.version, int(ip) >> (8 if ip.version == 4 else 80))


def groups_of(peer_id: PeerId, addresses: Iterable[Multiaddr], group: Group | None) -> tuple[Hashable, ...]:
    """All that a peer is counted under."""
    found = {network: None for address in addresses if (network := network_of(address)) is not None}
    if group is not None and (more := group(peer_id)) is not None:
        found[("group", more)] = None
    return tuple(found)


def same_host(address: Multiaddr, reached: Multiaddr) -> bool:
    """Whether `address` is at the very host that `reached` is: the ports may differ."""
    return address.parts[0] == reached.parts[0]


def _port(address: Multiaddr) -> int | None:
    for kind, value in address.parts[1:]:
        if kind in ("tcp", "udp"):
            return int(value)
    return None
