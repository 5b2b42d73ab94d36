"""The verbs of the network: peers, content routing, topics, discovery servers, diagnosis. A plain function a verb.

The engine takes `VERBS` into its own table. What a verb does stands in `services`, `lookups` and `diagnose`: here its
arguments are checked, and the parts of the network half that it needs are found or refused.

All that speaks over the network is imported by the function that needs it: the engine imports this module, and a
command that only looks at the store must not load the network.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rage_net import refusals
from rage_net.chunk import views
from rage_net.errors import UnavailableError, UsageError
from rage_net.verbs import Progress, Verb
from rage_net.verbs import chunk as chunks
from rage_net.verbs import dht as dhts
from rage_net.verbs import diagnose as diagnoses
from rage_net.verbs import discovery as servers
from rage_net.verbs import peer as peers
from rage_net.verbs import topic as topics

if TYPE_CHECKING:
    from rage_net.discovery.client import Client
    from rage_net.engine import Engine, Io
    from rage_net.libp2p.pubsub import PubSub
    from rage_net.online import Online
    from rage_net.services.membership import Membership
    from rage_net.services.routing import Routing

PINGS_MAX = 1000
DISCOVER_S_MAX = 3600.0
"""Longer than anybody watches: a node discovers by itself."""


# --- peers ---


async def list_peers(engine: Engine, verb: peers.ListPeers, io: Io) -> peers.ListPeersResult:
    """Connected peers, and with `known` those of the peer store."""
    from rage_net.services.membership.views import show_peers

    online = await engine.online()
    rows = show_peers(
        online.membership,
        verb,
        now=engine.env.now(),
        monotonic=engine.env.monotonic(),
        proven=online.trust.proof_of,
    )
    return peers.ListPeersResult(tuple(_with_standings(online, rows)))


async def show_peer(engine: Engine, verb: peers.ShowPeer, io: Io) -> peers.PeerRow:
    """One peer, dialled if need be, with its identity and a round trip."""
    return await _examine(engine, verb.peer)


async def connect_peer(engine: Engine, verb: peers.ConnectPeer, io: Io) -> peers.PeerRow:
    """Dial a peer."""
    return await _examine(engine, verb.address)


async def _examine(engine: Engine, peer: str) -> peers.PeerRow:
    online = await engine.online()
    members = online.membership
    row = await members.examine(await members.find(peer), engine.env.monotonic())
    return next(_with_standings(online, [row]))


def _with_standings(online: Online, rows: Iterable[peers.PeerRow]) -> Iterator[peers.PeerRow]:
    """The rows, with what certificates prove, what trust opens, and how far copies of the log are."""
    standings = {str(one.peer_id): one for one in online.trust.standings()}
    copies = online.syncing.rows() if online.syncing is not None else []
    for row in rows:
        standing = standings.get(row.peer_id)
        certificate = standing.certificate if standing is not None else None
        if standing is None or certificate is None:
            yield row
            continue
        own = [copy for copy in copies if copy.peer_id == row.peer_id and copy.synced_at]
        yield replace(
            row,
            organization=standing.organization,
            region=certificate.region,
            capabilities=tuple(sorted(standing.capabilities)),
            trust=standing.reason,
            scopes=tuple(sorted(standing.scopes)),
            certified_until=certificate.not_after,
            synced_at=max((copy.synced_at for copy in own), default=None),
            behind=sum(copy.behind for copy in own),
        )


async def ping_peer(engine: Engine, verb: peers.PingPeer, io: Io) -> peers.PingPeerResult:
    """Measure round trips."""
    if not 1 <= verb.count <= PINGS_MAX:
        raise UsageError(f"a count is 1 to {PINGS_MAX}", mend=["--count 5"])
    members = await _members(engine)
    connection = await members.find(verb.peer)
    rtts: list[float] = []
    for number in range(verb.count):
        if number:
            await asyncio.sleep(verb.interval_s)
        with suppress(UnavailableError):
            rtts.append(round(await members.ping(connection) * 1000, 3))
        io.report(Progress(number + 1, verb.count, "pings"))
    if not rtts:
        raise UnavailableError(f"{connection.peer_id} answered none of {verb.count} pings", id="peer-unreachable")
    address = str(connection.remote_address)
    return peers.PingPeerResult(str(connection.peer_id), address, tuple(rtts), verb.count - len(rtts))


async def discover_peers(engine: Engine, verb: peers.DiscoverPeers, io: Io) -> peers.DiscoverPeersResult:
    """Look for peers in several ways at once."""
    unknown = sorted(set(verb.via) - set(peers.VIAS))
    if unknown or not verb.via or not 0 < verb.for_s <= DISCOVER_S_MAX:
        raise UsageError(
            f"unknown ways {', '.join(unknown)}" if unknown else f"0 to {DISCOVER_S_MAX:.0f} s, in one way or more",
            mend=["--via server,dht,mdns --for 10s"],
        )
    return await (await engine.online()).discovering.discover(verb, io.tell)


async def find_peer(engine: Engine, verb: peers.FindPeer, io: Io) -> peers.FindPeerResult:
    """Where a peer may be dialled."""
    from rage_net import lookups

    return await lookups.find_peer(await engine.online(), verb.peer)


async def ban_peer(engine: Engine, verb: peers.BanPeer, io: Io) -> peers.BanResult:
    """Drop a peer, and have nothing to do with it."""
    if verb.for_s is not None and verb.for_s <= 0:
        raise UsageError("a ban lasts longer than 0 seconds", mend=["--for 1h"])
    return await (await _members(engine)).ban(verb.peer, verb.for_s, verb.reason)


async def unban_peer(engine: Engine, verb: peers.UnbanPeer, io: Io) -> peers.BanResult:
    """Lift a ban."""
    return await (await _members(engine)).unban(verb.peer)


async def _members(engine: Engine) -> Membership:
    return (await engine.online()).membership


# --- content routing ---


async def list_providers(engine: Engine, verb: chunks.ChunkProviders, io: Io) -> chunks.ChunkProvidersResult:
    """Who has a root."""
    from rage_net import lookups

    root = await engine.env.blocking(views.find_root, engine.documents, verb.ref)
    may_ask = await engine.may_ask(root)
    is_here = await engine.env.blocking(engine.store.has, root)
    return await lookups.list_providers(await engine.online(), root, verb.limit, is_here=is_here, may_ask=may_ask)


async def show_table(engine: Engine, verb: dhts.ShowTable, io: Io) -> dhts.ShowTableResult:
    """The DHT's routing table."""
    from rage_net.services import dht_verbs

    return dht_verbs.show_table((await _routing(engine)).dht)


async def find_nearest(engine: Engine, verb: dhts.FindNearest, io: Io) -> dhts.LookUpResult:
    """The peers nearest to a peer id or CID."""
    from rage_net.services import dht_verbs

    routing = await _ready_routing(engine)
    return await dht_verbs.find_nearest(routing.dht, verb.target, (await _members(engine)).match)


async def find_providers(engine: Engine, verb: dhts.FindProviders, io: Io) -> dhts.LookUpResult:
    """Who provides a CID, as the DHT has it."""
    from rage_net.services import dht_verbs

    routing = await _ready_routing(engine)
    return await dht_verbs.find_providers(routing.dht, verb.cid, verb.limit)


async def trace_look_up(engine: Engine, verb: dhts.TraceLookUp, io: Io) -> dhts.LookUpResult:
    """A look-up, hop by hop."""
    from rage_net.services import dht_verbs

    routing = await _ready_routing(engine)
    return await dht_verbs.trace(routing.dht, verb.target, (await _members(engine)).match, io.tell)


async def _routing(engine: Engine) -> Routing:
    routing = (await engine.online()).routing
    if routing is None:
        raise refusals.dht_off()
    return routing


async def _ready_routing(engine: Engine) -> Routing:
    """As `_routing`, once there is somebody to ask."""
    routing = await _routing(engine)
    await routing.ready()
    return routing


# --- topics ---


async def list_topics(engine: Engine, verb: topics.ListTopics, io: Io) -> topics.ListTopicsResult:
    """Topics of this node and its peers."""
    from rage_net.services import topic_verbs

    return topic_verbs.list_topics(await _pubsub(engine))


async def tail_topic(engine: Engine, verb: topics.TailTopic, io: Io) -> topics.TailTopicResult:
    """Messages of a topic as they come."""
    from rage_net.services import topic_verbs

    may_join = (await engine.online()).trust.may_join_ourselves
    return await topic_verbs.tail(await _pubsub(engine), engine.env, verb, may_join, io.tell)


async def publish_topic(engine: Engine, verb: topics.PublishTopic, io: Io) -> topics.PublishTopicResult:
    """One message to a topic."""
    from rage_net.services import topic_verbs

    may_join = (await engine.online()).trust.may_join_ourselves
    return await topic_verbs.publish(await _pubsub(engine), engine.env, verb, io.source, may_join)


async def _pubsub(engine: Engine) -> PubSub:
    pubsub = (await engine.online()).pubsub
    if pubsub is None:  # an engine of one command does not gossip
        raise refusals.no_node()
    return pubsub


# --- discovery servers ---


async def list_servers(engine: Engine, verb: servers.ListServers, io: Io) -> servers.ListServersResult:
    """The configured discovery servers, asked now."""
    from rage_net.services import server_verbs

    return await server_verbs.list_servers(await _servers(engine), engine.env.now())


async def list_registered(engine: Engine, verb: servers.ListRegistered, io: Io) -> servers.ListRegisteredResult:
    """What the discovery servers list."""
    from rage_net.services import server_verbs

    return await server_verbs.list_registered(await _servers(engine), verb)


async def register_peer(engine: Engine, verb: servers.Register, io: Io) -> servers.RegisterResult:
    """Register at every discovery server now."""
    from rage_net.services import server_verbs

    if not engine.serves:
        raise refusals.no_node()
    keys = engine.config.network.discovery.registration
    return await server_verbs.register(
        await _servers(engine),
        (await engine.online()).about(),
        heartbeat_interval_s=keys.heartbeat_interval,
        retry_interval_s=keys.retry_interval,
        now=engine.env.now(),
    )


async def _servers(engine: Engine) -> Client:
    from rage_net.services import server_verbs

    return server_verbs.require((await engine.online()).servers)


# --- diagnosis ---


async def explain(engine: Engine, verb: diagnoses.Why, io: Io) -> diagnoses.WhyResult:
    """Every link from here to a chunk, document or peer."""
    from rage_net import diagnose

    return await diagnose.explain(engine, verb)


async def examine(engine: Engine, verb: diagnoses.Doctor, io: Io) -> diagnoses.DoctorResult:
    """What a doctor sees of the network; home and machine are `checkup`'s."""
    from rage_net import diagnose

    return await diagnose.examine(engine, verb)


VERBS: dict[type[Verb[Any]], Callable[[Engine, Any, Io], Awaitable[Any]]] = {
    peers.ListPeers: list_peers,
    peers.ShowPeer: show_peer,
    peers.ConnectPeer: connect_peer,
    peers.PingPeer: ping_peer,
    peers.DiscoverPeers: discover_peers,
    peers.FindPeer: find_peer,
    peers.BanPeer: ban_peer,
    peers.UnbanPeer: unban_peer,
    chunks.ChunkProviders: list_providers,
    dhts.ShowTable: show_table,
    dhts.FindNearest: find_nearest,
    dhts.FindProviders: find_providers,
    dhts.TraceLookUp: trace_look_up,
    topics.ListTopics: list_topics,
    topics.TailTopic: tail_topic,
    topics.PublishTopic: publish_topic,
    servers.ListServers: list_servers,
    servers.ListRegistered: list_registered,
    servers.Register: register_peer,
    diagnoses.Why: explain,
    diagnoses.Doctor: examine,
}
