"""Looking for content and peers with all that an engine has online: the stages of a download, and who has a root.

Here the parts of the network half meet: connected peers, known holders, discovery servers, the DHT. What each knows is
a hint; whoever is reached proves itself. Source: seed, "Retrieval Flow"; design D7; issue 3, E and G.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from dataclasses import replace

from rage_net import refusals
from rage_net.cid import Cid
from rage_net.errors import AccessDeniedError, NotFoundError, RageError, UsageError
from rage_net.libp2p.kad.messages import PeerInfo
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.swarm import Connection
from rage_net.online import Online
from rage_net.services.exchange import PeerSource
from rage_net.services.retrieval import Source, Stage, Way, known
from rage_net.verbs.chunk import ChunkProvidersResult, ProviderRow
from rage_net.verbs.peer import FindPeerResult

SERVER_PEERS_MAX = 8
"""Peers named by discovery servers that one download asks: they know nothing of the root."""
PROVIDERS_LISTED_MAX = 100
ASKING_S_MAX = 5.0
"""For one peer to be reached and to say whether it has a root."""
ASKING_MAX = 16
ASKING_ALL_S_MAX = 40.0
"""For all peers together, the DHT's look-up with them: hundreds that are connected and silent are not waited for."""
RTT_S_MAX = 2.0


def stages(
    online: Online,
    root: Cid,
    named: Sequence[str],
    holders: Sequence[Hashable],
    *,
    dial_known: bool,
    may_ask: bool,
) -> list[Stage]:
    """Where a download of `root` looks among peers, best first.

    Args: named: peers of the caller. holders: peers that gave chunks of it before. dial_known: known peers are dialled
    too. may_ask: whether it may be asked for outside the organisation (D7).
    """
    peers = [peer for peer in holders if isinstance(peer, PeerId)]
    reaches = online.membership.reaches(named, peers, dial_known=dial_known)
    held_before = {str(peer) for peer in peers}
    ways = [_way(online, name, connect, is_holder=name in held_before) for name, connect in reaches]
    found = [known("peers", ways, "none is connected or known")]
    if not may_ask:
        return [*found, Stage("dht", _keep_within)]
    if online.servers is not None and online.servers.servers:
        found.append(Stage("servers", lambda: _from_servers(online), "name nobody that is not connected"))
    if online.routing is not None:
        found.append(Stage("dht", lambda: _from_dht(online, root)))
    return found


def _way(online: Online, name: str, connect: Callable[[], Awaitable[Connection]], *, is_holder: bool = False) -> Way:
    async def reach() -> Source:
        return PeerSource(online.exchange, await connect())

    return Way(name, reach, is_holder)


async def _from_servers(online: Online) -> AsyncIterator[Way]:
    assert online.servers is not None
    answer = await online.servers.bootstrap()
    fresh = [peer.listed for peer in answer.peers if online.swarm.connection(peer.listed.peer_id) is None]
    for it in fresh[:SERVER_PEERS_MAX]:
        yield _way(online, str(it.peer_id), _reach(online, PeerInfo(it.peer_id, it.addresses), "server"))
    errors = [outcome.error for outcome in answer.outcomes if outcome.error is not None]
    if len(errors) == len(answer.outcomes):
        raise errors[0]


async def _from_dht(online: Online, root: Cid) -> AsyncIterator[Way]:
    assert online.routing is not None
    async for provider in online.routing.providers(root):
        yield _way(online, str(provider.peer_id), _reach(online, provider, "dht"), is_holder=True)


async def _keep_within() -> AsyncIterator[Way]:
    """In place of the DHT where asking would tell strangers what the organisation reads."""
    raise AccessDeniedError("not asked: the chunk is not known to be public", id="not-public")
    yield  # an asynchronous generator, as every stage's ways are


def _reach(online: Online, peer: PeerInfo, source: str) -> Callable[[], Awaitable[Connection]]:
    """A connection to a peer that somebody named; where no address came along, the DHT is asked for one."""

    async def reach() -> Connection:
        live = online.swarm.connection(peer.peer_id)
        if live is not None:
            return live
        addresses = peer.addresses
        if not addresses and online.dht is not None:
            contact, _ = await online.dht.find_peer(peer.peer_id)
            addresses = contact.addresses if contact is not None else ()
        return await online.membership.reach(peer.peer_id, addresses, source)

    return reach


async def find_peer(online: Online, text: str) -> FindPeerResult:
    """Where a peer may be dialled: from here, else from servers and the DHT. Raises RageError."""
    try:
        peer = online.membership.match(text)
    except NotFoundError:
        raise refusals.peer_id_needed(text) from None
    connection = online.swarm.connection(peer)
    kept = online.membership.peerstore.get(peer)
    addresses = list(kept.addresses) if kept is not None else []
    if connection is not None and not connection.inbound:  # an inbound one came from a port that nobody listens at
        addresses.insert(0, connection.remote_address.without_peer_id())
    return await online.discovering.find(peer, list(dict.fromkeys(addresses)), is_connected=connection is not None)


async def list_providers(
    online: Online, root: Cid, limit: int, *, is_here: bool, may_ask: bool, keep_all: bool = False
) -> ChunkProvidersResult:
    """Who has `root`: this store, connected peers and those that the DHT names, each asked itself.

    Args: keep_all: those that lack it too, and no error when nobody has it.
    Raises: UsageError; NotFoundError when nobody is known to have it, with what each way said.
    """
    if not 1 <= limit <= PROVIDERS_LISTED_MAX:
        raise UsageError(f"a limit is 1 to {PROVIDERS_LISTED_MAX}", mend=["--limit 20"])
    rows: dict[PeerId, ProviderRow] = {}
    asked = [f"local: {'here' if is_here else 'not here'}"]
    if is_here:
        own = tuple(str(address.with_peer_id(online.swarm.peer_id)) for address in online.swarm.listen_addresses())
        rows[online.swarm.peer_id] = ProviderRow(str(online.swarm.peer_id), "here", ("local",), own, None, "")
    places = asyncio.Semaphore(ASKING_MAX)

    async def ask(peer: PeerInfo, via: str) -> None:
        row = rows[peer.peer_id] = _row(peer, via)
        async with places:
            rows[peer.peer_id] = await _ask_provider(online, peer, row, root)

    connected = [PeerInfo(each.peer_id, _dialable(online, each)) for each in online.swarm.connections()]
    try:
        async with asyncio.timeout(ASKING_ALL_S_MAX), asyncio.TaskGroup() as tasks:
            dht = tasks.create_task(
                _ask_dht(online, root, limit, may_ask, lambda peer: tasks.create_task(ask(peer, "dht")))
            )
            for peer in connected:
                tasks.create_task(ask(peer, "connected"))
        asked.append(dht.result())
    except TimeoutError:
        asked.append(dht.result() if dht.done() and not dht.cancelled() else "dht: not done in time")
    has = sum(row.state == "has" for row in rows.values())
    asked.insert(1, f"connected: {len(connected)} asked, {has} have it")
    order = ("here", "has", "said", "unreachable", "lacks")
    found = sorted(rows.values(), key=lambda row: order.index(row.state))[:limit]
    kept = tuple(row for row in found if keep_all or row.state != "lacks")
    if not kept and not keep_all:
        raise refusals.no_providers(str(root), "; ".join(asked))
    return ChunkProvidersResult(str(root), kept, tuple(asked))


def _dialable(online: Online, connection: Connection) -> tuple[Multiaddr, ...]:
    """Where a connected peer can be dialled: of an inbound connection only what the peer says."""
    if not connection.inbound:
        return (connection.remote_address,)
    kept = online.membership.peerstore.get(connection.peer_id)
    return kept.addresses if kept is not None else ()


async def _ask_dht(online: Online, root: Cid, limit: int, may_ask: bool, begin: Callable[[PeerInfo], object]) -> str:
    """Begin a question to each provider that the DHT names and that is not connected; what it said in all."""
    if online.routing is None:
        return "dht: switched off"
    if not may_ask:
        return "dht: not asked, the root is not known to be public"
    count = 0
    try:
        async for provider in online.routing.providers(root, limit):
            count += 1
            if online.swarm.connection(provider.peer_id) is None:
                begin(provider)
    except RageError as error:
        return f"dht: {error.message}"
    return f"dht: named {count}"


def _row(peer: PeerInfo, via: str) -> ProviderRow:
    """Of a peer that has not been asked yet."""
    shown = tuple(str(address.with_peer_id(peer.peer_id)) for address in peer.addresses)
    return ProviderRow(str(peer.peer_id), "said", (via,), shown, None, "")


async def _ask_provider(online: Online, peer: PeerInfo, row: ProviderRow, root: Cid) -> ProviderRow:
    """What one peer says of a root, and how far it is."""
    (via,) = row.via
    try:
        async with asyncio.timeout(ASKING_S_MAX):
            connection = await _reach(online, peer, via)()
            (has,) = await online.exchange.have(connection, [root])
            rtt_s = await online.swarm.ping(peer.peer_id, timeout_s=RTT_S_MAX) if has else None
    except RageError as error:
        return replace(row, state="unreachable" if via == "dht" else "lacks", error=error.why or error.message)
    except TimeoutError:
        return replace(row, state="unreachable", error=f"no answer within {ASKING_S_MAX:.0f} s")
    rtt_ms = None if rtt_s is None else round(rtt_s * 1000, 3)
    return replace(row, state="has" if has else "lacks", rtt_ms=rtt_ms)
