"""Peers as operators see them: rows for the command line. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from rage_net.libp2p.peer_id import PeerId
from rage_net.verbs.peer import ListPeers, PeerRow

if TYPE_CHECKING:
    from rage_net.libp2p.swarm import Connection
    from rage_net.services.membership import Membership


Proven = Callable[[PeerId], tuple[str, str, tuple[str, ...], str] | None]
"""Organisation, region and capabilities that a certificate proves of a peer, and how it is trusted."""


def show_connection(connection: Connection, now: float, rtt_s: float | None = None) -> PeerRow:
    """A connected peer as operators see it. `now` is of the swarm's clock."""
    said = connection.identify
    address = connection.remote_address.with_peer_id(connection.peer_id)
    return PeerRow(
        peer_id=str(connection.peer_id),
        state="connected",
        direction="inbound" if connection.inbound else "outbound",
        addresses=(str(address),),
        agent=(said.agent_version or "") if said else "",
        protocols=said.protocols if said else (),
        rtt_ms=None if rtt_s is None else round(rtt_s * 1000, 3),
        connected_s=round(now - connection.opened_at, 3),
        streams=len(connection.streams),
        bytes_in=connection.bytes_in,
        bytes_out=connection.bytes_out,
    )


def show_peers(
    membership: Membership, verb: ListPeers, *, now: float, monotonic: float, proven: Proven = lambda peer: None
) -> Iterator[PeerRow]:
    """Connected peers, longest first; then known and banned ones, where the verb asks for them."""
    wanted = verb.state
    for row in _all_peers(membership, now, monotonic, known=verb.known or wanted not in ("", "connected")):
        row = _with_proof(row, proven)
        if wanted and wanted not in (row.state, row.liveness):
            continue
        if (verb.organization or row.organization) != row.organization or (verb.region or row.region) != row.region:
            continue
        if verb.capability and verb.capability not in row.capabilities:
            continue
        yield row


def _all_peers(membership: Membership, now: float, monotonic: float, *, known: bool) -> Iterator[PeerRow]:
    connections = sorted(membership.swarm.connections(), key=lambda connection: connection.opened_at)
    live = {connection.peer_id for connection in connections}
    for connection in connections:
        yield _complete(membership, connection.peer_id, show_connection(connection, monotonic))
    if not known:
        return
    bans = membership.bans.listed(now)
    banned = {ban.peer_id for ban in bans}
    for peer in membership.peerstore:
        if peer.peer_id not in live and peer.peer_id not in banned:
            addresses = tuple(str(address.with_peer_id(peer.peer_id)) for address in peer.addresses)
            row = PeerRow(str(peer.peer_id), "known", "", addresses, "", (), None, 0.0, 0, 0, 0)
            yield _complete(membership, peer.peer_id, row)
    for ban in bans:
        row = PeerRow(str(ban.peer_id), "banned", "", (), "", (), None, 0.0, 0, 0, 0)
        yield replace(row, until=ban.until, reason=ban.reason)


def _with_proof(row: PeerRow, proven: Proven) -> PeerRow:
    """The row, with what a certificate proves in the place of what the peer says."""
    proof = proven(PeerId.parse(row.peer_id)) if row.state == "connected" else None
    if proof is None:
        return row
    organization, region, capabilities, trust = proof
    return replace(row, organization=organization, region=region, capabilities=capabilities, trust=trust)


def _complete(membership: Membership, peer: PeerId, row: PeerRow) -> PeerRow:
    """The row, with what gossip and the failure detector know."""
    known, node = membership.peerstore.get(peer), membership.nodes.get(peer)
    row = replace(row, liveness=membership.liveness.state(peer) or "", source=known.source if known else "")
    if node is None:
        return row
    info = node.info
    return replace(
        row,
        organization=info.organization,
        region=info.region,
        zone=info.zone,
        capabilities=node.capabilities,
    )
