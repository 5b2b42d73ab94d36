"""Membership: the swarm, the peers this node knows, and how to reach them.

A thin flow between the network stack and the peer store: dials become connections or errors people can act on, and what
was reached is remembered. Source: design D1, D8 ("dials bootstrap"); discovery, DHT and mDNS join here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from rage_net.env import Env
from rage_net.errors import NotFoundError, RageError, UnavailableError, UsageError
from rage_net.libp2p.errors import DialError, Libp2pError, PeerIdMismatchError
from rage_net.libp2p.multiaddr import Multiaddr, MultiaddrError
from rage_net.libp2p.peer_id import PeerId, PeerIdError
from rage_net.peerstore import Peerstore
from rage_net.verbs.peer import PeerRow

if TYPE_CHECKING:
    from rage_net.libp2p.swarm import Connection, Swarm

log = logging.getLogger("rage.membership")

Reach = Callable[[], Awaitable["Connection"]]

SOURCES_MAX = 32
"""Peers that one download asks: more would cost more questions than they bring bytes."""
KNOWN_DIALLED_MAX = 8
"""Peers of the peer store that a command without a node tries, newest first."""
PING_S_MAX = 10.0


class Membership:
    """The peers of one node."""

    def __init__(
        self, swarm: Swarm, peerstore: Peerstore, env: Env, bootstrap: Sequence[Multiaddr], dial_timeout_s: float
    ) -> None:
        self.swarm = swarm
        self.peerstore = peerstore
        self._env = env
        self._bootstrap = tuple(bootstrap)
        self._dial_timeout_s = dial_timeout_s

    async def connect(self, address: Multiaddr) -> Connection:
        """A connection to the peer that the address names, live or new.

        Raises: UsageError without a peer id in the address; UnavailableError naming each address that was tried.
        """
        peer = address.peer_id
        if peer is None:
            raise UsageError(
                f"{address} does not say which peer is wanted",
                why="an address without /p2p/ could be answered by anyone",
                mend=[f"{address}/p2p/12D3KooW..."],
            )
        return await self._dial(peer, [address.without_peer_id()])

    async def find(self, text: str) -> Connection:
        """A connection to a peer by multiaddr, peer id, or a beginning or end of the id that is unique among the known.

        Raises: UsageError, NotFoundError, UnavailableError.
        """
        if text.startswith("/"):
            return await self.connect(parse_address(text))
        peer = self._match(text)
        live = self.swarm.connection(peer)
        if live is not None:
            return live
        known = self.peerstore.get(peer)
        if known is None or not known.addresses:
            raise NotFoundError(
                f"no address of {peer} is known", mend=[f"rage peer connect /ip4/HOST/tcp/4001/p2p/{peer}"]
            )
        return await self._dial(peer, known.addresses)

    def reaches(self, named: Sequence[str], *, dial_known: bool) -> list[tuple[str, Reach]]:
        """Ways to sources of chunks, best first: peers the caller names, connected ones, bootstrap peers, known ones.

        Each is a name for people and a function that gives the connection or raises RageError.
        """
        ways: dict[str, Reach] = {text: partial(self.find, text) for text in named}
        for connection in self.swarm.connections():
            ways[str(connection.peer_id)] = partial(_at_once, connection)
        for address in self._bootstrap:
            if str(address.peer_id) not in ways:
                ways[str(address)] = partial(self.connect, address)
        if dial_known:
            known = [peer for peer in self.peerstore if str(peer.peer_id) not in ways]
            for peer in known[:KNOWN_DIALLED_MAX]:
                ways[str(peer.peer_id)] = partial(self._dial, peer.peer_id, peer.addresses)
        return list(ways.items())[:SOURCES_MAX]

    async def connect_to_bootstrap(self) -> None:
        """Dial the bootstrap peers that are not connected, all at once: one that is dead keeps no other waiting."""
        async with asyncio.TaskGroup() as tasks:
            for address in self._bootstrap:
                if address.peer_id is not None and self.swarm.connection(address.peer_id) is None:
                    tasks.create_task(self._meet(address))

    async def _meet(self, address: Multiaddr) -> None:
        try:
            await self.connect(address)
        except RageError as error:  # it may come back: the next round tries again
            log.debug("bootstrap peer %s: %s", address, error)

    async def ping(self, connection: Connection) -> float:
        """One round trip, in seconds. Raises UnavailableError."""
        try:
            return await self.swarm.ping(connection.peer_id, timeout_s=PING_S_MAX)
        except (Libp2pError, TimeoutError) as error:
            raise UnavailableError(f"{connection.peer_id} did not answer the ping", why=str(error)) from error

    async def examine(self, connection: Connection, now: float) -> PeerRow:
        """A connected peer with a round trip, and what it says of itself."""
        rtt_s = await self.ping(connection)
        return show_connection(connection, now, rtt_s)

    async def _dial(self, peer: PeerId, addresses: Sequence[Multiaddr]) -> Connection:
        try:
            connection = await self.swarm.dial(peer, addresses, timeout_s=self._dial_timeout_s)
        except PeerIdMismatchError as error:
            raise UnavailableError(
                f"{addresses[0]} is answered by another peer than {peer}",
                why=str(error),
                mend=["ask its operator for the peer id: rage node id"],
                id="peer-mismatch",
            ) from error
        except DialError as error:
            reasons = "; ".join(f"{where}: {what}" for where, what in error.reasons) or str(error)
            raise UnavailableError(
                f"{peer} cannot be reached",
                why=reasons,
                mend=["rage peer list", "is it running? rage node status"],
                id="peer-unreachable",
            ) from error
        except Libp2pError as error:
            raise UnavailableError(f"{peer} cannot be reached", why=str(error), id="peer-unreachable") from error
        self.peerstore.add(peer, [connection.remote_address.without_peer_id()], self._env.now())
        return connection

    def _match(self, text: str) -> PeerId:
        try:
            return PeerId.parse(text)
        except PeerIdError:
            pass
        found = {peer for peer in self._known() if str(peer).startswith(text) or str(peer).endswith(text)}
        if len(found) == 1:
            return found.pop()
        if found:
            raise UsageError(
                f"{text!r} fits {len(found)} peers",
                mend=[f"rage peer info {peer}" for peer in sorted(found, key=str)[:3]],
            )
        raise NotFoundError(f"no peer {text!r} is known", mend=["rage peer list --known"], id="peer-not-found")

    def _known(self) -> Iterator[PeerId]:
        for connection in self.swarm.connections():
            yield connection.peer_id
        for peer in self.peerstore:
            yield peer.peer_id


def parse_address(text: str) -> Multiaddr:
    """A multiaddr as people write it. Raises UsageError."""
    try:
        return Multiaddr.parse(text)
    except MultiaddrError as error:
        raise UsageError(
            f"{text!r} is no multiaddr", why=str(error), mend=["/ip4/192.0.2.7/tcp/4001/p2p/12D3KooW..."]
        ) from None


async def _at_once(connection: Connection) -> Connection:
    return connection


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


def show_peers(membership: Membership, now: float, *, known: bool) -> Iterator[PeerRow]:
    """Connected peers, longest first; then, with `known`, those of the peer store."""
    connections = sorted(membership.swarm.connections(), key=lambda connection: connection.opened_at)
    live = {connection.peer_id for connection in connections}
    yield from (show_connection(connection, now) for connection in connections)
    for peer in membership.peerstore if known else ():
        if peer.peer_id not in live:
            addresses = tuple(str(address.with_peer_id(peer.peer_id)) for address in peer.addresses)
            yield PeerRow(str(peer.peer_id), "known", "", addresses, "", (), None, 0.0, 0, 0, 0)
