"""What servers said, united: one list of peers from many answers, and its form in a file. Pure.

Not here: asking (`client`), what is checked in one peer (`records`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import msgspec

from rage_net.discovery.records import ADDRESSES_LISTED_MAX, ListedPeer, decode_listed, encode_listed
from rage_net.errors import RageError
from rage_net.libp2p.peer_id import PeerId

PEERS_MAX = 1000
"""Of all servers together."""
REMEMBERED_MAX = 200
"""Peers kept in the file."""
MEMORY_BYTES_MAX = 512 * 1024
"""Read of the file."""
NAMED_MAX = 16
"""Servers kept with one peer."""
URL_CHARS_MAX = 300


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one server answered. `error` None is good."""

    url: str
    latency_s: float | None
    peers: int = 0
    """Usable peers in its answer."""
    error: RageError | None = None

    @property
    def ok(self) -> bool:
        """Whether it answered as it should."""
        return self.error is None


@dataclass(frozen=True, slots=True)
class FoundPeer:
    """A peer that servers list, and which of them do. Its addresses are those of all, its words of the first."""

    listed: ListedPeer
    servers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """The servers' answers united: the reached first. `is_remembered`: no server answered, these are from the file."""

    peers: tuple[FoundPeer, ...]
    outcomes: tuple[Outcome, ...]
    is_remembered: bool = False


def unite(answers: Sequence[tuple[str, Sequence[ListedPeer]]]) -> list[FoundPeer]:
    """Each server's first, then each one's second, and so on; one entry a peer; at most `PEERS_MAX`, reached first."""
    merged: dict[PeerId, FoundPeer] = {}
    columns = [[(url, peer) for peer in peers] for url, peers in answers]
    for row in zip_longest(*columns):
        for url, peer in filter(None, row):
            old = merged.get(peer.peer_id)
            if old is not None:
                merged[peer.peer_id] = FoundPeer(_merge(old.listed, peer), (*old.servers, url))
            elif len(merged) < PEERS_MAX:
                merged[peer.peer_id] = FoundPeer(peer, (url,))
    ranks = {True: 0, None: 1, False: 2}
    return sorted(merged.values(), key=lambda found: ranks[found.listed.reachable])


def _merge(one: ListedPeer, other: ListedPeer) -> ListedPeer:
    """The words of the first, the addresses of both in turns; reached when either reached it."""
    both = [address for pair in zip_longest(one.addresses, other.addresses) for address in pair if address is not None]
    said = {one.reachable, other.reachable}
    return dataclasses.replace(
        one,
        addresses=tuple(dict.fromkeys(both))[:ADDRESSES_LISTED_MAX],
        reachable=True if True in said else False if False in said else None,
        expires_at=max(one.expires_at, other.expires_at),
    )


def encode_found(found: Found, now: float) -> bytes:
    """The content of the file: the first `REMEMBERED_MAX` peers."""
    peers = [{**encode_listed(peer.listed), "servers": list(peer.servers)} for peer in found.peers[:REMEMBERED_MAX]]
    plain = {"v": 1, "saved_at": round(now), "peers": peers}
    return msgspec.json.format(msgspec.json.encode(plain), indent=1) + b"\n"


def decode_found(text: bytes) -> tuple[FoundPeer, ...]:
    """The peers of the file; what cannot be read is left out, as it is only a memory aid."""
    try:
        plain = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return ()
    listed = plain.get("peers") if isinstance(plain, dict) else None
    found = []
    for one in listed[:REMEMBERED_MAX] if isinstance(listed, list) else []:
        peer = decode_listed(one) if isinstance(one, dict) else None
        if peer is not None:
            servers = one.get("servers")
            urls = servers[:NAMED_MAX] if isinstance(servers, list) else []
            found.append(FoundPeer(peer, tuple(str(url)[:URL_CHARS_MAX] for url in urls)))
    return tuple(found)
