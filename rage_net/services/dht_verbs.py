"""The verbs of the noun dht, over a `Dht`: the table as rows, look-ups with or without their hops."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from rage_net.cid import Cid, CidError
from rage_net.errors import UsageError
from rage_net.libp2p.kad.keys import distance_bits, place_of
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId, PeerIdError
from rage_net.verbs import dht as verbs

if TYPE_CHECKING:
    from rage_net.libp2p.dht import Dht, Found, Hop

Match = Callable[[str], PeerId]
"""A peer by its id or a part of it. Raises RageError."""
PROVIDERS_MAX = 100


def show_table(dht: Dht) -> verbs.ShowTableResult:
    """The routing table, nearest bucket first."""
    view = dht.view()
    buckets = tuple(
        verbs.Bucket(
            bucket.distance_bits,
            tuple(
                verbs.Contact(
                    str(row.contact.peer_id),
                    _texts(row.contact.peer_id, row.contact.addresses),
                    row.distance_bits,
                    None if row.age_s is None else round(row.age_s, 3),
                )
                for row in bucket.contacts
            ),
            bucket.replacements,
        )
        for bucket in view.buckets
    )
    return verbs.ShowTableResult(
        str(view.peer_id),
        view.mode,
        view.contacts,
        view.replacements,
        view.provider_records,
        view.value_records,
        buckets,
    )


async def find_nearest(dht: Dht, target: str, match: Match) -> verbs.LookUpResult:
    """The peers nearest to a peer id or CID."""
    kind, key = parse_target(target, match)
    return _result(target, kind, key, await dht.find_nearest(key))


async def find_providers(dht: Dht, text: str, limit: int) -> verbs.LookUpResult:
    """Peers that are said to provide a CID."""
    if not 1 <= limit <= PROVIDERS_MAX:
        raise UsageError(f"a limit is 1 to {PROVIDERS_MAX}", mend=["--limit 20"])
    key = _parse_cid(text).multihash
    return _result(text, "cid", key, await dht.look_for_providers(key, limit))


async def trace(dht: Dht, target: str, match: Match, tell: Callable[[verbs.Hop], None]) -> verbs.LookUpResult:
    """A look-up that tells each hop: for providers of a CID, for the address of a peer."""
    kind, key = parse_target(target, match)

    def on_hop(hop: Hop) -> None:
        tell(
            verbs.Hop(
                hop.number,
                hop.depth,
                str(hop.contact.peer_id),
                "" if hop.address is None else str(hop.address),
                hop.distance_bits,
                hop.outcome,
                hop.error,
                round(hop.seconds * 1000, 3),
                hop.closer,
                hop.providers,
            )
        )

    if kind == "cid":
        found = await dht.look_for_providers(key, on_hop=on_hop)
    else:
        found = await dht.find_nearest(key, on_hop=on_hop)
    return _result(target, kind, key, found)


def parse_target(text: str, match: Match) -> tuple[str, bytes]:
    """`peer` or `cid`, and the raw key that the DHT knows it by. Raises RageError."""
    try:
        return "cid", Cid.parse(text).multihash
    except CidError:
        pass
    try:
        return "peer", bytes(PeerId.parse(text))
    except PeerIdError:
        return "peer", bytes(match(text))


def _parse_cid(text: str) -> Cid:
    try:
        return Cid.parse(text)
    except CidError as error:
        raise UsageError(f"{text!r} is no CID", why=str(error), mend=["rage chunk list"]) from None


def _result(target: str, kind: str, key: bytes, found: Found) -> verbs.LookUpResult:
    place = place_of(key)

    def row(peer: PeerId, addresses: Iterable[Multiaddr]) -> verbs.Contact:
        bits = distance_bits(place_of(bytes(peer)), place)
        return verbs.Contact(str(peer), _texts(peer, addresses), bits)

    return verbs.LookUpResult(
        target,
        kind,
        tuple(row(contact.peer_id, contact.addresses) for contact in found.nearest),
        tuple(row(provider.peer_id, provider.addresses) for provider in found.providers),
        found.asked,
        found.failed,
        found.depth,
        round(found.seconds, 3),
    )


def _texts(peer: PeerId, addresses: Iterable[Multiaddr]) -> tuple[str, ...]:
    return tuple(str(address.with_peer_id(peer)) for address in addresses)
