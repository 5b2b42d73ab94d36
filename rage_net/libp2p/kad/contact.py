"""A peer of the DHT, and where to dial it. No state."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from rage_net.libp2p.kad.keys import place_of
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId

ADDRESSES_MAX = 8
"""Kept for one peer: a host with many interfaces announces more than can be tried."""


@dataclass(frozen=True, slots=True)
class Contact:
    """One peer; addresses best first, without its peer id. `groups`: see `scope.groups_of`."""

    peer_id: PeerId
    addresses: tuple[Multiaddr, ...]
    place: int
    groups: tuple[Hashable, ...] = ()

    @classmethod
    def of(cls, peer_id: PeerId, addresses: Iterable[Multiaddr], groups: tuple[Hashable, ...] = ()) -> Contact:
        """A contact with its place computed; addresses beyond ADDRESSES_MAX are left out."""
        kept = tuple(dict.fromkeys(addresses))[:ADDRESSES_MAX]
        return cls(peer_id, kept, place_of(bytes(peer_id)), groups)


def place_addresses(peer_id: PeerId, addresses: Iterable[Multiaddr]) -> tuple[Multiaddr, ...]:
    """Addresses of `peer_id` without the peer's name; those that name another peer are left out."""
    kept = []
    for address in addresses:
        named = address.peer_id
        if named is None:
            kept.append(address)
        elif named == peer_id and len(address.parts) > 1:
            kept.append(address.without_peer_id())
    return tuple(dict.fromkeys(kept))[:ADDRESSES_MAX]
