"""Who provides what: records that other peers left here, in memory, bounded and expiring.

They are not kept over a restart, as their owners announce them again. A record is (key, provider); addresses are kept
once for a provider. One peer has at most half of what is free, so that no few have all; a key that is full lets go
of the group with the most records first, so that many names of one hand push out each other.
Source: libp2p/specs kad-dht, "Content routing".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rage_net.libp2p.kad.contact import ADDRESSES_MAX
from rage_net.libp2p.kad.groups import GROUP_MAX
from rage_net.libp2p.kad.messages import PeerInfo
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId

if TYPE_CHECKING:
    from random import Random

EXPIRY_S = 48 * 3600.0
"""libp2p's hosts drop a provider record after so long."""
REPUBLISH_S = 22 * 3600.0
"""And announce again after so long: one miss is borne."""
RECORDS_MAX = 1 << 18
"""In all: about 70 MiB, of which one peer can have half. 100,000 roots of one owner fit even where three nodes are
all."""
PROVIDERS_PER_KEY_MAX = 64
TOLD_MAX = 20
"""Providers named in one answer, drawn anew each time."""
GRAIN_S = 600.0
"""Expiry is rounded up to so much; records of one grain are looked at together."""


@dataclass(slots=True)
class _Owner:
    """One provider: what is known of it once, for all its records."""

    peer_id: PeerId
    addresses: tuple[Multiaddr, ...]
    group: Hashable | None
    records: int = 0


_Held = tuple[_Owner, float]
"""Who provides a key, and until when."""


class Providers:
    """The provider records of one node."""

    def __init__(self, random: Random, *, records_max: int = RECORDS_MAX) -> None:
        self._random = random
        self._records_max = records_max
        self._held: dict[bytes, tuple[_Held, ...]] = {}
        self._owners: dict[PeerId, _Owner] = {}
        self._due: dict[float, list[bytes]] = {}  # by expiry, in order of time
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(
        self,
        key: bytes,
        provider: PeerId,
        addresses: tuple[Multiaddr, ...],
        now: float,
        *,
        group: Hashable | None = None,
        expiry_s: float = EXPIRY_S,
    ) -> bool:
        """Remember that `provider` has `key`. False when it has its share already, or there is no room."""
        owner = self._owners.get(provider) or _Owner(provider, (), group)
        expires = -(-(now + expiry_s) // GRAIN_S) * GRAIN_S
        kept = [held for held in self._held.get(key, ()) if held[1] > now]
        mine = next((held for held in kept if held[0] is owner), None)
        if mine is None and owner.records + self._count >= self._records_max:
            return False
        if addresses:
            owner.addresses = addresses[:ADDRESSES_MAX]
        owner.group = group
        if mine is not None and mine[1] == expires:
            return True
        if mine is not None:
            kept.remove(mine)
        elif len(kept) >= PROVIDERS_PER_KEY_MAX:
            kept.remove(_most_dispensable(kept))
        self._keep(key, (*kept, (owner, expires)))
        self._due.setdefault(expires, []).append(key)
        return True

    def get(self, key: bytes, now: float, *, most: int = TOLD_MAX) -> list[PeerInfo]:
        """Who provides `key`, at most `most` drawn at random; of one group no more than GROUP_MAX before others."""
        owners = [owner for owner, expires in self._held.get(key, ()) if expires > now]
        if len(owners) > most:
            shares: Counter[Hashable] = Counter()
            ranked = []
            for owner in self._random.sample(owners, len(owners)):
                group = owner.group if owner.group is not None else owner.peer_id
                ranked.append((shares[group] >= GROUP_MAX, owner))
                shares[group] += 1
            owners = [owner for _, owner in sorted(ranked, key=lambda one: one[0])][:most]
        return [PeerInfo(owner.peer_id, owner.addresses) for owner in owners]

    def expire(self, now: float) -> int:
        """Forget what is over. Returns how many records went."""
        before = self._count
        for expires in [expires for expires in self._due if expires <= now]:
            for key in self._due.pop(expires):
                held = self._held.get(key, ())
                kept = tuple(one for one in held if one[1] > now)
                if len(kept) != len(held):
                    self._keep(key, kept)
        return before - self._count

    def _keep(self, key: bytes, held: tuple[_Held, ...]) -> None:
        """Put `held` in the place of what was kept of `key`, and count."""
        for owner, _ in self._held.get(key, ()):
            owner.records -= 1
            self._count -= 1
            if not owner.records:
                self._owners.pop(owner.peer_id, None)
        for owner, _ in held:
            owner.records += 1
            self._count += 1
            self._owners[owner.peer_id] = owner
        if held:
            self._held[key] = held
        else:
            self._held.pop(key, None)


def _most_dispensable(held: list[_Held]) -> _Held:
    """The oldest record of the group with the most; peers without a group are one each."""
    counts = Counter(owner.group if owner.group is not None else owner for owner, _ in held)
    return max(held, key=lambda one: (counts[one[0].group if one[0].group is not None else one[0]], -one[1]))
