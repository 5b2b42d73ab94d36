"""What a server says to each request: from its table and its stores, within the scope of who asks. Sans-I/O.

The asker is who Noise proved it to be, reached at the connection's remote address. It may announce itself alone, at
addresses of the host that it speaks from, or that we have dialled it at.
Source: libp2p/specs kad-dht, "RPC messages".
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rage_net.libp2p.errors import LimitError, RemoteProtocolError
from rage_net.libp2p.kad.contact import Contact
from rage_net.libp2p.kad.groups import Group, MayTell, groups_of
from rage_net.libp2p.kad.keys import K, place_of
from rage_net.libp2p.kad.messages import Kind, Message, PeerInfo, Record
from rage_net.libp2p.kad.records import Providers
from rage_net.libp2p.kad.values import Values
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId, PeerIdError
from rage_net.libp2p.scope import same_host


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, where it is reached, and addresses at which it was dialled with success."""

    peer_id: PeerId
    address: Multiaddr
    dialled: tuple[Multiaddr, ...] = ()


@dataclass(slots=True)
class Answers:
    """One server's. `choose(place, count)` gives contacts of the table; `known(peer)` a connected peer's addresses."""

    own: PeerId
    choose: Callable[[int, int], list[Contact]]
    providers: Providers
    values: Values
    may_tell: MayTell
    own_addresses: Callable[[], Iterable[Multiaddr]] = lambda: ()
    known: Callable[[PeerId], tuple[Multiaddr, ...]] = lambda peer_id: ()
    group: Group | None = None
    counts: Counter[str] = field(default_factory=Counter)

    def answer(self, request: Message, asker: Asker, now: float, wall_now: float) -> Message | None:
        """What to say; None where nothing is said. Raises: RemoteProtocolError, LimitError, ValueRefusedError."""
        self.counts[request.kind.name.lower()] += 1
        if request.kind is Kind.PING:
            return Message(Kind.PING)
        if not request.key:
            raise RemoteProtocolError("a DHT request without a key")
        match request.kind:
            case Kind.FIND_NODE:
                return Message(Kind.FIND_NODE, request.key, closer=self._find(request.key, asker))
            case Kind.GET_PROVIDERS:
                closer = self._closer(request.key, asker)
                return Message(
                    request.kind, request.key, closer=closer, providers=self._provide(request.key, asker, now)
                )
            case Kind.ADD_PROVIDER:
                self._add_provider(request, asker, now)
                return None
            case Kind.GET_VALUE:
                value = self.values.get(request.key, now)
                record = None if value is None else Record(request.key, value, rfc3339(wall_now))
                return Message(Kind.GET_VALUE, request.key, record, closer=self._closer(request.key, asker))
            case Kind.PUT_VALUE:
                if request.record is None or request.record.key != request.key:
                    raise RemoteProtocolError("a value that stands under another key than the message names")
                self.values.put(request.key, request.record.value, asker.peer_id, now)
                return request

    def _closer(self, key: bytes, asker: Asker, *, but: PeerId | None = None) -> tuple[PeerInfo, ...]:
        contacts = self.choose(place_of(key), K + 2)
        told = (self._tell(contact.peer_id, contact.addresses, asker) for contact in contacts)
        return tuple(one for one in told if one.addresses and one.peer_id not in (asker.peer_id, but))[:K]

    def _find(self, key: bytes, asker: Asker) -> tuple[PeerInfo, ...]:
        """The nearest; before them the peer itself, whom we may know although it is no server."""
        try:
            wanted = PeerId.from_bytes(key)
        except PeerIdError:
            return self._closer(key, asker)
        addresses = tuple(self.own_addresses()) if wanted == self.own else self.known(wanted)
        exact = self._tell(wanted, addresses, asker)
        if not exact.addresses:
            return self._closer(key, asker)
        return (exact, *self._closer(key, asker, but=wanted))[:K]

    def _provide(self, key: bytes, asker: Asker, now: float) -> tuple[PeerInfo, ...]:
        told = (self._tell(one.peer_id, one.addresses, asker) for one in self.providers.get(key, now))
        return tuple(told)

    def _tell(self, peer_id: PeerId, addresses: Iterable[Multiaddr], asker: Asker) -> PeerInfo:
        return PeerInfo(peer_id, tuple(one for one in addresses if self.may_tell(one, asker.address)))

    def _add_provider(self, request: Message, asker: Asker, now: float) -> None:
        claimed = next((told for told in request.providers if told.peer_id == asker.peer_id), None)
        if claimed is None:
            self.counts["foreign_records"] += 1
            raise RemoteProtocolError(f"{asker.peer_id} announces others, or nobody")
        addresses = proven(claimed.addresses, asker, self.may_tell)
        groups = groups_of(asker.peer_id, (asker.address,), self.group)
        if not self.providers.add(request.key, asker.peer_id, addresses, now, group=groups[0] if groups else None):
            self.counts["records_refused"] += 1
            raise LimitError(f"no room for more records of {asker.peer_id}")


def proven(claimed: Iterable[Multiaddr], asker: Asker, may_tell: MayTell) -> tuple[Multiaddr, ...]:
    """Of what a peer says of itself: addresses of the host it speaks from, and those it was dialled at."""
    return tuple(
        address
        for address in claimed
        if may_tell(address, asker.address) and (same_host(address, asker.address) or address in asker.dialled)
    )


def rfc3339(wall_now: float) -> str:
    """A time as records carry it."""
    return datetime.datetime.fromtimestamp(wall_now, datetime.UTC).isoformat(timespec="microseconds")[:-6] + "Z"
