"""Which peers count as one hand: nothing that they say of themselves makes them two. No state.

Two peers in one public /24 or /48 may be one operator with many keys; of the peers that matter few may share one.
Private networks are one hand by nature, and are not counted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterable
from typing import TypeAlias

from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.scope import SITE_PREFIX_BITS, Scope, ip_of, prefix, scope_of

GROUP_MAX = 2
"""Peers of one group among those that matter: the k nearest, or a bucket."""

Group: TypeAlias = Callable[[PeerId], Hashable | None]
"""What a peer belongs to beyond its address: an organisation that no certificate proves; None where nothing is to be
held against it."""
MayTell: TypeAlias = Callable[[Multiaddr, Multiaddr], bool]
"""`may_tell(address, to)`: whether `address` is for a peer that is reached at `to`."""


@functools.lru_cache(maxsize=4096)
def network_of(address: Multiaddr) -> Hashable | None:
    """The public /24 or /48 that an address lies in; None for all others."""
    ip = ip_of(address)
    return prefix(ip, SITE_PREFIX_BITS) if ip is not None and scope_of(address) == Scope.WORLD else None


def groups_of(peer_id: PeerId, addresses: Iterable[Multiaddr], group: Group | None) -> tuple[Hashable, ...]:
    """All that a peer is counted under."""
    found: dict[Hashable, None] = {
        network: None for address in addresses if (network := network_of(address)) is not None
    }
    if group is not None and (more := group(peer_id)) is not None:
        found[("group", more)] = None
    return tuple(found)
