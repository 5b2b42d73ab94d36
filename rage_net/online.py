"""The network half of an engine: the swarm and all that speaks over it, composed. No rule lives here.

    swarm        connections                        libp2p
    exchange     chunks, both ends                  services
    membership   whom we know, who lives
    dht, routing who has what, and that we have ours
    pubsub, presence   gossip: heartbeats, announcements
    mdns         the local links
    servers      discovery servers

A node has all of it, and `jobs`; an engine of one command is a client of the DHT, neither gossips nor announces, and
begins what it needs when it needs it. Source: design D8; ARCHITECTURE.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rage_net import __version__, durable, messages
from rage_net import home as homes
from rage_net.acl import Rules
from rage_net.bans import Bans
from rage_net.chunk.shelf import is_public, public_roots
from rage_net.chunk.store import ChunkStore
from rage_net.config import Config
from rage_net.discovery.client import About, Client
from rage_net.env import Env
from rage_net.errors import RageError
from rage_net.guard import every
from rage_net.home import Home
from rage_net.libp2p.dht import Dht
from rage_net.libp2p.kad.schedule import Schedule
from rage_net.libp2p.mdns import Mdns
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.pubsub import PubSub, Subscription
from rage_net.libp2p.scope import Scope, scope_of
from rage_net.libp2p.swarm import Limits, Swarm
from rage_net.libp2p.transport import tune_malloc
from rage_net.liveness import TURN_S
from rage_net.messages import NodeInfo
from rage_net.metrics import Metrics
from rage_net.peerstore import Peerstore
from rage_net.services.discovering import Discovering
from rage_net.services.exchange import Exchange
from rage_net.services.membership import Membership
from rage_net.services.presence import TOPIC, Presence, Self
from rage_net.services.routing import Routing
from rage_net.web import Web

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from rage_net.libp2p.transport import Transport

log = logging.getLogger("rage.online")

Found = Callable[[PeerId, tuple[Multiaddr, ...]], None]

CAPABILITIES = ("storage",)
"""What a node offers that stores and serves chunks."""
MEET_EVERY_S = 10.0
SPEAK_EVERY_S = 1.0
REGISTER_EVERY_S = 2.0
ASK_SERVERS_EVERY_S = 60.0
ANNOUNCE_EVERY_S = 1.0
BOOTSTRAP_DHT_EVERY_S = 60.0
TABLE_ENOUGH = 20
"""Contacts above which the DHT's own refresh is enough."""
JOB_S_MAX = 600.0
MET_MAX = 64
"""Connections above which peers that mDNS or a server names are not dialled by themselves."""
NAMED_MAX = 256
"""Peers waiting to be met."""
NAMED_DIALS = 8
NAMED_DIAL_S_MAX = 3.0
"""For a peer on the same link: it answers in milliseconds, or not at all."""


@dataclass(frozen=True, slots=True)
class Online:
    """What an engine has once it is online. What the configuration switches off is None."""

    swarm: Swarm
    exchange: Exchange
    membership: Membership
    discovering: Discovering
    servers: Client | None
    dht: Dht | None
    routing: Routing | None
    pubsub: PubSub | None
    presence: Presence | None
    mdns: Mdns | None
    about: Callable[[], About]
    save: Callable[[], Awaitable[None]]
    """Writes down whom we know, for the next start."""
    leave: Callable[[], Awaitable[None]]
    """Takes the registrations at discovery servers back: the node ends."""
    problems: Callable[[], list[str]]
    """What an operator has to mend, for people."""
    jobs: Callable[[], list[Coroutine[Any, Any, None]]]
    """What a node runs in the background, for as long as it lives."""


@asynccontextmanager
async def go_online(
    home: Home,
    config: Config,
    store: ChunkStore,
    env: Env,
    metrics: Metrics,
    rules: Rules,
    *,
    serves: bool,
    transports: Sequence[Transport] | None,
) -> AsyncIterator[Online]:
    """Start the network half; everything has ended when the block is left."""
    tune_malloc()  # else each batch of a download faults its pages in again
    network = config.network
    key = await env.blocking(homes.load_identity, network.security.peer_key)
    async with AsyncExitStack() as stack:
        swarm = await stack.enter_async_context(_swarm(key, config, env, transports))
        exchange = Exchange(store, env, rules, metrics)
        if serves:
            swarm.handle(messages.CHUNK_PROTOCOL, exchange.serve)
        membership = await _membership(home, config, env, swarm)
        addresses = functools.partial(_told_addresses, swarm)
        servers = None
        if network.discovery.enabled:
            web = await stack.enter_async_context(Web())
            servers = Client(
                network.discovery.servers, key, web, env, own=swarm.listen_addresses, memory=home.discovered
            )

        parts = _Parts(home, config, env, metrics, swarm, membership, servers)
        dht = routing = pubsub = presence = mdns = None
        if network.libp2p.dht.enabled:
            dht = await stack.enter_async_context(_dht(config, env, swarm, membership, serves=serves))
            dht.load_text(await env.blocking(_read, home.dht))
            routing = Routing(
                dht,
                Schedule(),
                env,
                meet=parts.meet_somebody,
                is_met=lambda: bool(swarm.connections()),
                roots=functools.partial(public_roots, store),
                is_public=functools.partial(is_public, store),
            )
        listen = functools.partial(_listen, network.libp2p.mdns.interval, env, swarm)
        if serves:
            pubsub = await stack.enter_async_context(_pubsub(env, swarm))
            topics = _topics(config)
            parts.drains = [pubsub.subscribe(topic) for topic in topics if topic != TOPIC]
        if pubsub is not None and TOPIC in topics:
            presence = Presence(
                pubsub,
                env,
                describe=functools.partial(_describe, config, env.random.getrandbits(63), addresses),
                note=membership.note,
                learn=membership.learn_announced,
                nodes=lambda: len(membership.nodes),
                may_speak=membership.admits,
            )
            stack.callback(presence.close)
            parts.presence = presence
        can_listen = network.libp2p.mdns.enabled and transports is None
        if serves and can_listen:
            mdns = await stack.enter_async_context(listen(parts.hear_mdns, announce=True))
        discovering = Discovering(
            env,
            swarm.peer_id,
            servers=servers,
            dht=dht,
            ready=routing.ready if routing is not None else parts.meet_somebody,
            listen=functools.partial(listen, announce=False) if can_listen else None,
            reach=membership.reach,
            claims=parts.claims,
        )
        parts.dht, parts.routing = dht, routing
        about = functools.partial(_about, config, addresses)
        parts.about = about
        yield Online(
            swarm,
            exchange,
            membership,
            discovering,
            servers,
            dht,
            routing,
            pubsub,
            presence,
            mdns,
            about,
            parts.save,
            parts.leave,
            parts.problems,
            parts.jobs,
        )


class _Parts:
    """What the jobs of a node and the callbacks between its parts need of each other."""

    def __init__(
        self,
        home: Home,
        config: Config,
        env: Env,
        metrics: Metrics,
        swarm: Swarm,
        membership: Membership,
        servers: Client | None,
    ) -> None:
        self.presence: Presence | None = None
        self.dht: Dht | None = None
        self.routing: Routing | None = None
        self.drains: list[Subscription] = []
        self.about: Callable[[], About] = lambda: About(addresses=())
        self._home = home
        self._discovery = config.network.discovery
        self._env = env
        self._metrics = metrics
        self._swarm = swarm
        self._membership = membership
        self._servers = servers
        self._named: dict[PeerId, None] = {}
        self._is_named = asyncio.Event()

    # --- what is heard of peers ---

    def hear_mdns(self, peer: PeerId, addresses: tuple[Multiaddr, ...]) -> None:
        """A peer on the link: met by itself, as the specification says."""
        self._membership.learn(peer, addresses, "mdns")
        self._name(peer)

    def _name(self, peer: PeerId) -> None:
        is_needless = self._swarm.connection(peer) is not None or len(self._swarm.connections()) >= MET_MAX
        if is_needless or self._membership.is_resting(peer) or peer in self._named:
            return
        self._named[peer] = None
        if len(self._named) > NAMED_MAX:
            del self._named[next(iter(self._named))]
        self._is_named.set()

    def claims(self, peer: PeerId) -> tuple[str, str, tuple[str, ...]]:
        """Organisation, region and capabilities that a node claims; empty where it said nothing."""
        node = self._membership.nodes.get(peer)
        return ("", "", ()) if node is None else (node.info.organization, node.info.region, node.capabilities)

    # --- jobs, each one bounded round ---

    async def meet_somebody(self) -> None:
        """Bootstrap peers and those that servers name: for who knows nobody yet."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._membership.keep_connected())
            tasks.create_task(self.ask_servers())

    async def ask_servers(self) -> None:
        """Learn and meet peers from the discovery servers, while we have few connections."""
        if self._servers is None or not self._servers.servers or len(self._swarm.connections()) >= MET_MAX // 4:
            return
        found = await self._servers.bootstrap()
        for outcome in found.outcomes:
            if outcome.error is not None:
                log.info("discovery server %s: %s", outcome.url, outcome.error)
        async with asyncio.TaskGroup() as tasks:
            for peer in found.peers[:MET_MAX]:
                self._membership.learn(peer.listed.peer_id, peer.listed.addresses, "server")
                is_met = self._swarm.connection(peer.listed.peer_id) is not None
                if not is_met and not self._membership.is_resting(peer.listed.peer_id):
                    tasks.create_task(self._membership.meet(peer.listed.peer_id))

    async def register(self) -> None:
        """Show the servers that are due a sign of life."""
        keys = self._discovery.registration
        if self._servers is None or not keys.auto_register or not self._swarm.bound_addresses():
            return
        for row in await self._servers.register(
            self.about(),
            heartbeat_interval_s=keys.heartbeat_interval,
            retry_interval_s=keys.retry_interval,
            only_due=True,
        ):
            if row.error is not None:
                log.warning("discovery server %s: %s", row.url, row.error)

    async def meet_named(self) -> None:
        """Meet peers as they are named, for as long as the task lives.

        Several at once, soon given up, the one that was named last first: names on a link cost nothing, and many that
        nobody answers at keep a true one waiting for seconds.
        """

        async def meet() -> None:
            while True:
                while not self._named:
                    self._is_named.clear()
                    await self._is_named.wait()
                peer, _ = self._named.popitem()
                if self._swarm.connection(peer) is None:
                    await self._membership.meet(peer, timeout_s=NAMED_DIAL_S_MAX)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(NAMED_DIALS):
                tasks.create_task(meet())

    async def fill_table(self) -> None:
        """Look for ourselves while the DHT's table is thin: its own refresh is for a table that is full."""
        if self.dht is not None and len(self.dht.table) < TABLE_ENOUGH:
            await self.dht.bootstrap()

    async def save(self) -> None:
        """Write down whom we know, for the next start."""
        await self._env.blocking(self._write, self._membership.peerstore.to_text(), self.dht and self.dht.to_text())

    async def leave(self) -> None:
        """Nobody needs to look for us here any more; servers that do not answer will forget us by themselves."""
        if self._servers is not None:
            await self._servers.leave(self.about())

    def problems(self) -> list[str]:
        """See `Online.problems`."""
        rows = self._servers.registrations() if self._servers is not None else ()
        found = [f"{row.url} knows another node with this node's key, at {row.twin}" for row in rows if row.twin]
        if self.presence is not None and self.presence.twin_at is not None and not found:
            found.append("another node speaks with this node's key: give each a home and a key of its own")
        return found

    def _write(self, peers: str, table: str | None) -> None:
        for path, text in ((self._home.peers, peers), (self._home.dht, table)):
            if text is not None:
                with durable.file_errors(path):
                    durable.write_replacing(path, text.encode())

    def jobs(self) -> list[Coroutine[Any, Any, None]]:
        """See `Online.jobs`."""

        def job(name: str, interval_s: float, work: Callable[[], Awaitable[None]], **more: Any) -> Any:
            settings = {"name": name, "env": self._env, "metrics": self._metrics, "timeout_s": JOB_S_MAX, **more}
            return every(interval_s, work, **settings)

        found = [
            job("meet", MEET_EVERY_S, self._membership.keep_connected, at_once=True),
            job("meet_named", MEET_EVERY_S, self.meet_named, at_once=True, timeout_s=None),
            job("liveness", TURN_S, self._membership.watch),
            job("probe", TURN_S, self._membership.probe),
            job("save_peers", ASK_SERVERS_EVERY_S, self.save),
        ]
        if self._servers is not None and self._servers.servers:
            found += [
                job("ask_servers", ASK_SERVERS_EVERY_S, self.ask_servers, at_once=True),
                job("register", REGISTER_EVERY_S, self.register, at_once=True),
            ]
        if self.presence is not None:
            found += [
                job("presence", SPEAK_EVERY_S, self.presence.speak),
                job("hear_gossip", MEET_EVERY_S, self.presence.listen, at_once=True, timeout_s=None),
            ]
        found += [drain(subscription) for subscription in self.drains]
        if self.routing is not None:
            found += [
                job("fill_table", BOOTSTRAP_DHT_EVERY_S, self._fill_first, at_once=True),
                job("announce", ANNOUNCE_EVERY_S, self.routing.announce, at_once=True),
            ]
        return found

    async def _fill_first(self) -> None:
        """As `fill_table`, once there is anybody to ask."""
        assert self.routing is not None
        try:
            await self.routing.ready()
        except RageError as error:
            log.debug("the DHT has nobody to ask: %s", error)
        else:
            await self.fill_table()


# --- making the parts ---


def _swarm(key: Ed25519PrivateKey, config: Config, env: Env, transports: Sequence[Transport] | None) -> Swarm:
    bounds = config.network.limits
    limits = Limits(
        connections=bounds.connections,
        connections_per_ip=bounds.connections_per_address,
        handshakes=bounds.handshakes,
        streams=bounds.streams_per_connection,
        streams_total=bounds.streams,
        unread_bytes=bounds.unread_bytes,
        dial_timeout_s=bounds.dial_timeout,
        handshake_timeout_s=bounds.handshake_timeout,
        negotiate_timeout_s=bounds.request_timeout,
        idle_s=bounds.idle_timeout,
    )
    return Swarm(
        key,
        transports=transports,
        limits=limits,
        agent_version=f"rage/{__version__}",
        announce=[Multiaddr.parse(text) for text in config.network.libp2p.announce_addresses],
        clock=env.monotonic,
        random=env.random,
    )


async def _membership(home: Home, config: Config, env: Env, swarm: Swarm) -> Membership:
    peerstore = Peerstore.from_text(await env.blocking(_read, home.peers))
    bans = Bans.from_text(await env.blocking(_read_bans, home), str(home.bans))

    def write(text: str) -> None:
        with durable.file_errors(home.bans):
            durable.write_replacing(home.bans, text.encode())

    async def save(text: str) -> None:
        await env.blocking(write, text)

    bootstrap = [Multiaddr.parse(text) for text in config.network.libp2p.bootstrap_peers]
    dial_s = config.network.limits.dial_timeout
    return Membership(swarm, peerstore, env, bootstrap, dial_s, bans=bans, save_bans=save)


def _dht(config: Config, env: Env, swarm: Swarm, membership: Membership, *, serves: bool) -> Dht:
    def group(peer: PeerId) -> str | None:
        """The organisation a peer claims: until a certificate proves it, its peers count as one hand."""
        node = membership.nodes.get(peer)
        return node.info.organization or None if node is not None else None

    return Dht(
        swarm,
        mode=config.network.libp2p.dht.mode if serves else "client",
        clock=env.monotonic,
        wall_clock=env.now,
        random=env.random,
        group=group,
    )


def _pubsub(env: Env, swarm: Swarm) -> PubSub:
    return PubSub(
        swarm,
        clock=env.monotonic,
        wall_clock=env.now,
        random=env.random,
        may_join=lambda peer, topic: may_join(topic),
    )


def may_join(topic: str) -> bool:
    """Whether anyone may join a topic.

    Those of organisations and rights are for holders of certificates (design D6, 4.3): for nobody, until there are any.
    """
    return not topic.startswith(("rage.org.", "rage.acl."))


def _topics(config: Config) -> list[str]:
    """The topics to join, without those of an organisation where there is none."""
    organization = config.network.organization_id
    found = config.network.libp2p.gossipsub.topics
    filled = [topic.replace("{organization_id}", organization) for topic in found if organization or "{" not in topic]
    return list(dict.fromkeys(filled))


async def drain(subscription: Subscription) -> None:
    """Read a topic that is joined for others' sake, so that nothing piles up."""
    async for _ in subscription:
        pass


def _listen(interval_s: float, env: Env, swarm: Swarm, found: Found, *, announce: bool) -> Mdns:
    return Mdns(
        swarm.peer_id,
        swarm.bound_addresses,
        found,
        interval_s=interval_s,
        random=env.random,
        announce=announce,
    )


def _told_addresses(swarm: Swarm) -> tuple[Multiaddr, ...]:
    """Where others can reach us: loopback only where there is nothing else."""
    found = swarm.listen_addresses()
    return tuple([address for address in found if scope_of(address) > Scope.MACHINE] or found)


def _describe(config: Config, instance: int, addresses: Callable[[], tuple[Multiaddr, ...]]) -> Self:
    network = config.network
    free = homes.free_bytes(network.store.path)
    info = NodeInfo(network.organization_id, network.region, network.zone, __version__, free, instance)
    return Self(info, CAPABILITIES, addresses()[: messages.ADDRESSES_MAX])


def _about(config: Config, addresses: Callable[[], tuple[Multiaddr, ...]]) -> About:
    network = config.network
    return About(
        addresses=addresses(),
        organization_id=network.organization_id,
        region=network.region,
        zone=network.zone,
        capabilities=CAPABILITIES,
        private=network.discovery.registration.private,
        members=tuple(PeerId.parse(peer) for peer in network.security.trusted_peers),
    )


def _read_bans(home: Home) -> str:
    """Unlike what is only remembered, bans that cannot be read stop the node. Blocking."""
    if not home.bans.exists():
        return ""
    with durable.file_errors(home.bans):
        return home.bans.read_text("utf-8", "replace")


def _read(path: Any) -> str:
    """A file of the home, empty when there is none. Blocking."""
    try:
        return str(path.read_text("utf-8", "replace"))
    except OSError:  # a first start, or a file that cannot be read: whom we know will be met again
        return ""
