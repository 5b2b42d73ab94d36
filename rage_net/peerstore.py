"""The peers a node knows: where they were last reached, and when. Bounded, and kept as a text file between runs.

A line a peer, newest first: peer id, seconds since the epoch (0 when it was only heard of), addresses by comma, and how
we came to know it. It is for people, completion and the next start; nothing is trusted because it stands here.

Source: libp2p's peer store.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest

from rage_net.libp2p.multiaddr import Multiaddr, MultiaddrError
from rage_net.libp2p.peer_id import PeerId, PeerIdError

PEERS_MAX = 1000
HEARD_OF_MAX = 250
"""Of those, peers that were named to us and never reached."""
INBOUND_MAX = 250
"""And peers that came to us and were never dialled: keys cost nothing, and who has many would drive out all others."""
INBOUND = "inbound"
"""The source of a peer that came to us: where it listens is its own word until it has been dialled."""
ADDRESSES_MAX = 8
"""Addresses kept for one peer: a host with many interfaces announces more than can be tried."""
LINE_CHARS_MAX = 4096


@dataclass(frozen=True, slots=True)
class KnownPeer:
    """A peer, where to dial it, best address first, when it was last connected (0: never), and who named it first."""

    peer_id: PeerId
    addresses: tuple[Multiaddr, ...]
    last_seen: float
    source: str = ""

    @property
    def was_dialled(self) -> bool:
        """Whether its first address has led to it: the others, and those of all other peers, are only words."""
        return self.last_seen > 0 and self.source != INBOUND


class Peerstore:
    """Known peers, most recently seen first."""

    def __init__(self, peers: Iterable[KnownPeer] = ()) -> None:
        self._peers: OrderedDict[PeerId, KnownPeer] = OrderedDict()
        for peer in sorted(peers, key=lambda known: known.last_seen):
            self._peers[peer.peer_id] = peer
        self._trim()

    def add(self, peer_id: PeerId, addresses: Iterable[Multiaddr], now: float, source: str = "") -> None:
        """The peer was reached at the first address; or, INBOUND, it came and said where it listens.

        New addresses come before old ones, but what a peer says not before the one that has worked.
        """
        old = self._peers.pop(peer_id, None)
        was_dialled = old is not None and old.was_dialled
        is_claim = source == INBOUND
        proven = old.addresses[:1] if old is not None and is_claim and was_dialled else ()
        if old is not None and (was_dialled if is_claim else old.source not in ("", INBOUND)):
            source = old.source
        merged = list(dict.fromkeys([*proven, *addresses, *(old.addresses if old else ())]))
        self._peers[peer_id] = KnownPeer(peer_id, tuple(merged[:ADDRESSES_MAX]), now, source)
        self._trim()

    def learn(self, peer_id: PeerId, addresses: Iterable[Multiaddr], source: str) -> bool:
        """Somebody named the peer: its addresses come behind the best of one we have met. True when it is new here.

        At most HEARD_OF_MAX peers that were never reached are kept, so that hearsay drives out nobody we have met; the
        source that named most of them loses its oldest, so that none drives out what the others say. New addresses and
        old ones stand in turns, so that neither who spoke first nor who spoke last fills the list.
        """
        old = self._peers.get(peer_id)
        new = list(dict.fromkeys(addresses))[:ADDRESSES_MAX]
        if old is not None:
            first = old.addresses[:1] if old.last_seen else ()
            rest = [address for pair in zip_longest(new, old.addresses) for address in pair if address is not None]
            merged = tuple(dict.fromkeys([*first, *rest]))[:ADDRESSES_MAX]
            self._peers[peer_id] = KnownPeer(peer_id, merged, old.last_seen, old.source or source)
            return False
        self._peers[peer_id] = KnownPeer(peer_id, tuple(new), 0.0, source)
        heard_of = [known for known in self._peers.values() if not known.last_seen]
        if len(heard_of) > HEARD_OF_MAX:
            ((loudest, _),) = Counter(known.source for known in heard_of).most_common(1)
            del self._peers[next(known.peer_id for known in heard_of if known.source == loudest)]
        self._trim()
        return True

    def get(self, peer_id: PeerId) -> KnownPeer | None:
        """What is known of a peer."""
        return self._peers.get(peer_id)

    def __iter__(self) -> Iterator[KnownPeer]:
        return reversed(self._peers.values())

    def __len__(self) -> int:
        return len(self._peers)

    def _trim(self) -> None:
        came = [known.peer_id for known in self._peers.values() if known.source == INBOUND]
        for peer_id in came[: max(0, len(came) - INBOUND_MAX)]:
            del self._peers[peer_id]
        while len(self._peers) > PEERS_MAX:
            self._peers.popitem(last=False)

    def to_text(self) -> str:
        """The file's content."""
        return "".join(
            f"{peer.peer_id} {peer.last_seen:.0f} {','.join(map(str, peer.addresses))} {peer.source}".rstrip() + "\n"
            for peer in reversed(self._peers.values())
        )

    @classmethod
    def from_text(cls, text: str) -> Peerstore:
        """Read the file's content; a line that cannot be read is left out, as the file is only a memory aid."""
        peers = []
        for line in text.splitlines()[:PEERS_MAX]:
            parts = line[:LINE_CHARS_MAX].split()
            if len(parts) not in (3, 4):
                continue
            try:
                addresses = tuple(Multiaddr.parse(part) for part in parts[2].split(",")[:ADDRESSES_MAX])
                peers.append(KnownPeer(PeerId.parse(parts[0]), addresses, float(parts[1]), "".join(parts[3:])))
            except (PeerIdError, MultiaddrError, ValueError):
                continue
        return cls(peers)
