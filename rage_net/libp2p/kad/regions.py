"""Regions of the space: what one crawl covers, and which of the peers it found keep which keys. Pure functions.

A subtree around a key that holds k peers holds the k nearest to the key. So when a crawl has found every peer of such a
subtree, all keys in it can be handed out without another question. A crawl for the WIDTH peers nearest to a key knows
all that are nearer than the last of them: a whole subtree, of about WIDTH / 2 to WIDTH peers, is among these.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rage_net.libp2p.kad.contact import Contact
from rage_net.libp2p.kad.groups import GROUP_MAX
from rage_net.libp2p.kad.keys import BITS, K

WIDTH = 4 * K
"""Peers that a crawl for a region looks for: a whole subtree among them has 40 to 80 peers, so k for every key."""


@dataclass(frozen=True, slots=True)
class Region:
    """All places that share their first `bits` bits with `target`, and the peers there and near."""

    target: int
    bits: int
    peers: tuple[Contact, ...]

    @property
    def range(self) -> tuple[int, int]:
        """The first place, and the one behind the last."""
        size = 1 << (BITS - self.bits)
        low = self.target // size * size
        return low, low + size

    def __contains__(self, place: int) -> bool:
        low, high = self.range
        return low <= place < high


def region_of(target: int, peers: Sequence[Contact], *, width: int = WIDTH) -> Region:
    """The widest region around `target` for which `peers` are enough.

    Args: peers: nearest first; the first `width` are the nearest there are, those behind a part of the others. Fewer
    than `width` are all there are.
    """
    if len(peers) < width:
        return Region(target, 0, tuple(peers))
    shared = BITS - (peers[width - 1].place ^ target).bit_length()
    return Region(target, min(shared + 1, BITS), tuple(peers))  # of those that share less, some may be missing


def keepers(place: int, peers: Iterable[Contact], count: int = K) -> list[Contact]:
    """Which of `peers` keep a key at `place`, nearest first; of a group at most GROUP_MAX unless places stay empty."""
    chosen: list[Contact] = []
    held_back: list[Contact] = []
    shares: dict[object, int] = {}
    for peer in sorted(peers, key=lambda peer: peer.place ^ place):
        if any(shares.get(group, 0) >= GROUP_MAX for group in peer.groups):
            held_back.append(peer)
            continue
        for group in peer.groups:
            shares[group] = shares.get(group, 0) + 1
        chosen.append(peer)
        if len(chosen) == count:
            return chosen
    return sorted([*chosen, *held_back[: count - len(chosen)]], key=lambda peer: peer.place ^ place)
