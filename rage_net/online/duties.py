"""What a node does by itself with the parts of its network half, and what these parts tell each other.

Every job is one bounded round. Composition is the package's; rules are the services'.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from rage_net import durable
from rage_net.config import Config
from rage_net.discovery.client import About, Client
from rage_net.env import Env
from rage_net.errors import RageError
from rage_net.guard import every
from rage_net.home import Home
from rage_net.libp2p.dht import Dht
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.pubsub import PubSub, Subscription
from rage_net.libp2p.swarm import Swarm
from rage_net.liveness import TURN_S
from rage_net.metrics import Metrics
from rage_net.services.membership import Membership
from rage_net.services.presence import Presence
from rage_net.services.replicating import CHECK_EVERY_S, RECONCILE_EVERY_S, REPORT_EVERY_S, Replicating, Report
from rage_net.services.routing import Routing
from rage_net.services.syncing import Syncing
from rage_net.services.trust import REFRESH_EVERY_S, Trust
from rage_net.services.trust.enrolment import RENEW_EVERY_S, Enrolment, Renewal
from rage_net.sync import wire
from rage_net.sync.vocabulary import document_bytes, document_text

log = logging.getLogger("rage.online")

MEET_EVERY_S = 10.0
SPEAK_EVERY_S = 1.0
REGISTER_EVERY_S = 2.0
ASK_SERVERS_EVERY_S = 60.0
LOOK_AGAIN_S = 4.0
"""After the first registration: by then those that were started with us have registered, too."""
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


class Duties:
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
        trust: Trust | None = None,
    ) -> None:
        self.pubsub: PubSub | None = None
        self.presence: Presence | None = None
        self.dht: Dht | None = None
        self.routing: Routing | None = None
        self.enrolment: Enrolment | None = None
        self.renewal: Renewal | None = None
        self.syncing: Syncing | None = None
        self.replicating: Replicating | None = None
        self.drains: list[Subscription] = []
        self.heads: list[Subscription] = []
        """Topics on which nodes say that their chains have grown."""
        self.about: Callable[[], About] = lambda: About(addresses=())
        self._home = home
        self._discovery = config.network.discovery
        self._sync_interval_s = config.network.sync.interval
        self._trusted = {PeerId.parse(peer) for peer in config.network.security.trusted_peers}
        self._env = env
        self._metrics = metrics
        self._swarm = swarm
        self._membership = membership
        self._servers = servers
        self._trust = trust
        self._look_again_at: float | None = None
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
        rows = await self._servers.register(
            self.about(),
            heartbeat_interval_s=keys.heartbeat_interval,
            retry_interval_s=keys.retry_interval,
            only_due=True,
        )
        for row in rows:
            if row.error is not None:
                log.warning("discovery server %s: %s", row.url, row.error)
        await self._look_again(any(row.error is None for row in rows))

    async def _look_again(self, is_registered: bool) -> None:
        """Ask the servers once more soon after the first registration: who starts together registers together."""
        now = self._env.monotonic()
        if self._look_again_at is None and is_registered:
            self._look_again_at = now + LOOK_AGAIN_S
        if self._look_again_at is not None and now >= self._look_again_at:
            self._look_again_at = float("inf")
            await self.ask_servers()

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

    async def trim(self) -> None:
        """Let connections go that gossip and downloads do not need, when they are many."""
        mesh = (
            {peer for state in self.pubsub.topics() for peer in self.pubsub.mesh(state.topic)} if self.pubsub else set()
        )
        closed = await self._membership.trim(mesh | self._trusted)
        if closed:
            log.info("closed %d connections that were little used", closed)

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
        found += self._trust.problems() if self._trust is not None else []
        found += [part.problem for part in (self.enrolment, self.renewal) if part is not None and part.problem]
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
            job("trim", MEET_EVERY_S, self.trim),
            job("save_peers", ASK_SERVERS_EVERY_S, self.save),
        ]
        if self._trust is not None and not self._trust.is_open:
            found.append(job("trust", REFRESH_EVERY_S, self._trust.refresh))
            if self.renewal is not None:
                found.append(job("renew", RENEW_EVERY_S, self.renewal.renew_if_due))
        if self.syncing is not None:
            found += [
                job("sync", self._sync_interval_s, self.syncing.round, at_once=True),
                job("sync_speak", MEET_EVERY_S, self.syncing.speak, at_once=True, timeout_s=None),
                job("sync_fetch", MEET_EVERY_S, self.syncing.fetch_wanted, at_once=True, timeout_s=None),
                job("sync_catch_up", MEET_EVERY_S, self.syncing.catch_up, at_once=True, timeout_s=None),
                *(self._hear(self.syncing, subscription) for subscription in self.heads),
            ]
        if self.replicating is not None:
            replicating = self.replicating
            found += [
                job("replicas_watch", TURN_S, replicating.watch),
                job("replicas_reconcile", RECONCILE_EVERY_S, replicating.reconcile, at_once=True),
                job("replicas_changed", SPEAK_EVERY_S, replicating.reconcile_soon, at_once=True, timeout_s=None),
                job("replicas_pull", SPEAK_EVERY_S, replicating.pulling.run, at_once=True, timeout_s=None),
                job("replicas_audit", SPEAK_EVERY_S, replicating.coordinating.run, at_once=True, timeout_s=None),
                job("replicas_drop", MEET_EVERY_S, replicating.drop),
                job("replicas_check", CHECK_EVERY_S, replicating.check, at_once=True),
                job("replicas_report", REPORT_EVERY_S, self.report, at_once=True),
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

    async def report(self) -> None:
        """Tell our organisation how this node is, and what is asked for here."""
        if self.replicating is not None and self.syncing is not None:
            report = await self.replicating.describe()
            usage = tuple((document_bytes(doc_id), per_day) for doc_id, per_day in report.usage)
            self.syncing.report(wire.NodeReport(report.free_bytes, report.is_full, report.policies, usage))

    def hear_report(self, peer: PeerId, report: wire.NodeReport) -> None:
        """A node of our organisation says how it is."""
        if self.replicating is not None:
            usage = tuple((document_text(raw), per_day) for raw, per_day in report.usage)
            self.replicating.hear(peer, Report(report.free_bytes, report.is_full, report.policies, usage))

    def _hear(self, syncing: Syncing, subscription: Subscription) -> Coroutine[Any, Any, None]:
        """Guarded as the jobs are: what one message does ends neither the node nor the hearing of others."""
        listen = functools.partial(syncing.listen, subscription)
        return every(MEET_EVERY_S, listen, name="sync_hear", env=self._env, metrics=self._metrics, at_once=True)

    async def _fill_first(self) -> None:
        """As `fill_table`, once there is anybody to ask."""
        assert self.routing is not None
        try:
            await self.routing.ready()
        except RageError as error:
            log.debug("the DHT has nobody to ask: %s", error)
        else:
            await self.fill_table()


async def drain(subscription: Subscription) -> None:
    """Read a topic that is joined for others' sake, so that nothing piles up."""
    async for _ in subscription:
        pass
