"""The node: an engine with its doors open, and the jobs that run by themselves. What `rage node start` runs.

In order: the home's lock, the store, the control socket (so that operators get answers within a second, whatever comes
later), then listeners, the HTTP door and the jobs. SIGTERM and `node stop` undo it in the reverse order within
`STOP_WITHIN_S`. A failing handler, connection or job becomes a counter and a log line; only the loss of the store or of
all listeners ends a node.

Source: design D8, D9; style, "Concurrency and limits".
"""

from __future__ import annotations

import grp
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rage_net import __version__, lifetime, sharing, upkeep, verbs
from rage_net import config as configuration
from rage_net import home as homes
from rage_net import log as logs
from rage_net.bearer import Bearer
from rage_net.cdn_verbs import status as cdn_status
from rage_net.control import Control
from rage_net.engine import Engine
from rage_net.env import read_environment
from rage_net.errors import ConfigError, StorageFullError, UnavailableError
from rage_net.glance import show_certificate
from rage_net.guard import every, guard
from rage_net.home import Home
from rage_net.http import NO_CDN, Http
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.swarm import Disconnected, Event
from rage_net.libp2p.transport import tune_malloc
from rage_net.online import Online
from rage_net.verbs.chunk import CollectGarbage
from rage_net.verbs.node import STOP_WITHIN_S, NodeStatus, ShowStatus
from rage_net.web import Web

if TYPE_CHECKING:
    from rage_net.config.cdn import Cdn
    from rage_net.metadata import Metadata

log = logging.getLogger("rage.node")

GC_EVERY_S = 3600.0
RECORDS_EVERY_S = 30.0
LEAVE_S_MAX = 1.0
"""For discovery servers to be told that the node ends."""
FILL_EVERY_S = 10.0
"""Between two rounds of filling CDNs with what peers had to give."""
MEASURE_EVERY_S = 10.0
CDN_LEVELS_EVERY_S = 300.0
"""Vendors' figures are minutes late, and asking costs their quota."""
CONFLICTS_REST = 100
"""Times as long as counting conflicts took, they are not counted again: among 100,000 disputed documents it takes
seconds."""
JOB_S_MAX = 6 * 3600.0
"""A job that is not done by then is stuck."""

State = Literal["starting", "ready", "read-only", "draining"]


async def run(
    home: Home,
    *,
    listen: Sequence[str] = (),
    bootstrap: Sequence[str] = (),
    http: str | None = None,
    config_path: str | None = None,
    log_format: Literal["text", "json"] = "text",
    verbose: int = 0,
    ready: Callable[[NodeStatus], None] = lambda status: None,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Run a node in this process until it is told to stop.

    Args: listen, bootstrap, http: instead of the configuration. http is HOST:PORT of the HTTP door and of the metrics,
    empty for neither. ready: called once, when the node serves.
    Raises: ConflictError at once when another process holds the home; ConfigError; UnavailableError when no listener
    could be opened.
    """
    environ = read_environment() if environ is None else environ
    flags: dict[str, str | Sequence[str]] = {}
    if listen:
        flags["network.libp2p.listen_addresses"] = listen
    if bootstrap:
        flags["network.libp2p.bootstrap_peers"] = bootstrap
    if http is not None:
        flags |= {"network.http.listen": http or "null", "network.http.metrics_listen": http or "null"}
    config = configuration.load(
        home.root, environ=environ, file=Path(config_path) if config_path else None, flags=flags
    )
    logs.set_up(log_format, level="DEBUG" if verbose else "INFO")
    for problem in config.warnings:
        log.warning("%s", problem)
    tune_malloc()
    with lifetime.hard_end(STOP_WITHIN_S) as begin_end:
        async with Engine.open(home, config=config, lock_timeout_s=0, kind="node", serves=True) as engine:
            await Node(engine, environ).run(ready, begin_end)


class Node:
    """One running node."""

    def __init__(self, engine: Engine, environ: Mapping[str, str]) -> None:
        self.engine = engine
        self.state: State = "starting"
        self.listen: tuple[Multiaddr, ...] = ()
        self._environ = environ
        self._problems: dict[str, str] = {}
        self._conflicts_due = 0.0
        self._http: Http | None = None
        self._online: Online | None = None
        engine.node_status = self._complete
        engine.metrics.build.set(1, __version__)
        engine.metrics.before_render(self._count_events)

    async def run(self, ready: Callable[[NodeStatus], None], draining: Callable[[], None]) -> None:
        """Serve until the engine's `stop_requested` is set, by a signal or by the verb node/stop.

        `ready` and `draining` are called once each, when the node serves and when it begins to end.
        """
        async with AsyncExitStack() as stack:
            stack.enter_context(lifetime.signals(self.engine.stop_requested))
            await stack.enter_async_context(self._control())
            self._online = online = await self.engine.online()
            online.swarm.on_event(self._note_peer)
            await self._listen(online)
            await self._open_cdns()
            web = await stack.enter_async_context(Web())
            self._http = await stack.enter_async_context(await self._http_door(web))
            await stack.enter_async_context(lifetime.running(self._jobs(online)))
            self.state = "ready"
            status = await self.engine.run(ShowStatus())
            log.info("ready: %s", status.peer_id)  # its addresses are the line on stdout
            lifetime.notify(self._environ, "READY=1")
            ready(status)
            await self.engine.stop_requested.wait()
            self.state = "draining"
            draining()
            log.info("stopping")
            lifetime.notify(self._environ, "STOPPING=1")
            await guard("peers_save", online.save, self.engine.metrics)
            await guard("agreed_save", self._save_agreed, self.engine.metrics)
            await guard("leave", online.leave, self.engine.metrics, timeout_s=LEAVE_S_MAX)

    async def _save_agreed(self) -> None:
        """When our log was last compared: else a node that stopped soon after would be stale at its start."""
        if self.engine.metadata is not None:
            await self.engine.env.blocking(self.engine.metadata.save_agreed)

    # --- doors ---

    @asynccontextmanager
    async def _control(self) -> AsyncIterator[None]:
        engine, group = self.engine, self.engine.config.network.control.group
        gid = None if group is None else _group_id(group)
        path = await engine.env.blocking(homes.claim_socket_path, engine.home, self._environ, gid)
        try:
            async with Control(
                engine,
                verbs.registry(),
                path,
                gid=gid,
                random=engine.env.random,
                connections_max=engine.config.network.limits.control_connections,
                metrics=engine.metrics,
            ):
                yield
        finally:
            homes.release_socket_path(engine.home)

    async def _listen(self, online: Online) -> None:
        """Open the listeners; one that cannot be opened is a problem, none at all the end."""
        failures = []
        for text in self.engine.config.network.libp2p.listen_addresses:
            try:
                await online.swarm.listen(Multiaddr.parse(text))
            except OSError as error:
                failures.append(f"{text}: {error.strerror or error}")
        self.listen = tuple(online.swarm.listen_addresses())
        if failures and not self.listen:
            raise UnavailableError(
                "the node cannot listen for peers",
                why="; ".join(failures),
                mend=["rage node start --listen /ip4/0.0.0.0/tcp/0", "ss -ltnp | grep 4001"],
                id="listen-failed",
            )
        if failures:
            self._problems["listen"] = f"not listening at {'; '.join(failures)}"

    async def _open_cdns(self) -> None:
        """CDNs are read, purges that wait are sent. A node whose cdn.yaml is wrong serves all the same."""
        try:
            await self.engine.ways_in.open()
            if self.engine.config.network.cdn.enabled:
                await self.engine.cdns()
        except ConfigError as error:
            log.warning("%s", error.message)
            self._problems["cdn"] = f"no CDN is asked: {error.message}"

    async def _http_door(self, web: Web) -> Http:
        keys = self.engine.config.network.http
        return Http(
            self.engine,
            self.engine.metrics,
            listen=keys.listen,
            metrics_listen=keys.metrics_listen,
            ready=self._why_not_ready,
            hosts=keys.hosts,
            tls_cert=keys.tls_cert,
            tls_key=keys.tls_key,
            connections_max=self.engine.config.network.limits.http_connections,
            bearer=Bearer(keys.issuers, self.engine.home.root, web, self.engine.env) if keys.issuers else None,
            denials=self.engine.denials,
            cdn=await self._caching(),
        )

    async def _caching(self) -> Cdn:
        """What the HTTP door tells caches. While cdn.yaml is wrong none is purged, and none keeps anything for long."""
        if self.engine.config.network.http.listen is None:
            return NO_CDN
        try:
            return await self.engine.env.blocking(lambda: self.engine.cdn_config)
        except ConfigError:
            # What is wrong is said once, by `_open_cdns`.
            self._problems["caching"] = "caches are told to keep nothing for more than a minute: cdn.yaml is wrong"
            return NO_CDN

    def _why_not_ready(self) -> list[str]:
        reasons = [] if self.state in ("ready", "read-only") else [f"the node is {self.state}"]
        if self._online is not None and not self._online.swarm.bound_addresses():
            reasons.append("no listener is open")
        return reasons

    # --- jobs ---

    def _jobs(self, online: Online) -> list[Coroutine[Any, Any, None]]:
        env, metrics = self.engine.env, self.engine.metrics

        def job(
            name: str, interval_s: float, work: Callable[[], Awaitable[None]], *, at_once: bool = False
        ) -> Coroutine[Any, Any, None]:
            return every(interval_s, work, name=name, env=env, metrics=metrics, timeout_s=JOB_S_MAX, at_once=at_once)

        async def collect() -> None:
            await self.engine.run(CollectGarbage())

        return [
            *online.jobs(),
            *upkeep.jobs(self.engine, upkeep.healing_of(self.engine)),
            job("gc", GC_EVERY_S, collect),
            job("records", RECORDS_EVERY_S, lambda: sharing.keep(self.engine), at_once=True),
            job("measure", MEASURE_EVERY_S, self._measure),
            job("cdn_fill", FILL_EVERY_S, self.engine.ways_in.fill),
            job("cdn-levels", CDN_LEVELS_EVERY_S, self._measure_cdns),
        ]

    async def _measure_cdns(self) -> None:
        """Hit ratios by each provider's own figures."""
        if self.engine.config.network.cdn.enabled:
            await cdn_status.measure(self.engine, await self.engine.cdns(), CDN_LEVELS_EVERY_S)

    async def _measure(self) -> None:
        """Keep the gauges, and notice a disk that filled up or got room again."""
        engine = self.engine
        totals = await engine.env.blocking(engine.store.totals)
        free = await engine.env.blocking(homes.free_bytes, engine.config.network.store.path)
        engine.metrics.store_chunks.set(totals.chunks)
        engine.metrics.store_bytes.set(totals.stored)
        engine.metrics.store_free_bytes.set(free)
        if engine.metadata is not None:
            await engine.env.blocking(self._measure_log, engine.metadata)
        try:
            await engine.env.blocking(engine.store.check_room, 0)
        except StorageFullError as error:
            self._problems["store"] = f"{error.message}: nothing can be put ({error.why})"
            self.state = "read-only" if self.state == "ready" else self.state
        else:
            self._problems.pop("store", None)
            self.state = "ready" if self.state == "read-only" else self.state

    def _measure_log(self, metadata: Metadata) -> None:
        """The gauges of the log. Blocking; looks for conflicts for a hundredth of the time at most."""
        metrics, monotonic = self.engine.metrics, self.engine.env.monotonic
        log_ = metadata.log
        sizes: dict[tuple[str, ...], float] = {
            (name,): sum(head.sequence for head in log_.heads(name)) for name in log_.organizations()
        }
        metrics.sync_facts.replace(sizes)
        metrics.sync_agreed.set(metadata.agreed_at)
        began = monotonic()
        if began >= self._conflicts_due:
            metrics.sync_conflicts.set(metadata.access.waiting(metadata.organization))
            self._conflicts_due = began + CONFLICTS_REST * (monotonic() - began)

    def _count_events(self) -> None:
        if self._online is None:
            return
        online, metrics = self._online, self.engine.metrics
        parts = (
            (metrics.swarm_events, online.swarm.counts),
            (metrics.trust_events, online.trust.counts),
            (metrics.gossip_events, online.pubsub.counts if online.pubsub is not None else {}),
            (metrics.dht_events, online.dht.counts if online.dht is not None else {}),
            (metrics.mdns_events, online.mdns.counts if online.mdns is not None else {}),
        )
        for counter, counts in parts:
            for event, total in counts.items():
                counter.follow(total, event)
        certificate = online.trust.credentials.certificate
        metrics.certificate_expiry.set(certificate.not_after if certificate is not None else 0)
        own = self.engine.config.network
        peers: dict[tuple[str, ...], float] = {(own.organization_id or "none", own.region or "none"): 0}
        for (organization, region), count in online.trust.count_peers().items():
            labels = (organization or "none", region or "none")
            peers[labels] = peers.get(labels, 0) + count
        metrics.peers.replace(peers)
        states = Counter(state for _, state in online.membership.liveness)
        metrics.known_peers.replace({(state,): states[state] for state in ("alive", "suspect", "gone")})
        metrics.dht_contacts.set(len(online.dht.table) if online.dht is not None else 0)
        metrics.announced_roots.set(len(online.routing) if online.routing is not None else 0)

    def _note_peer(self, event: Event) -> None:
        if isinstance(event, Disconnected):
            self.engine.metrics.forget_peer(str(event.peer_id))

    # --- status ---

    def _complete(self, status: NodeStatus) -> NodeStatus:
        online = self._online
        certificate = online.trust.credentials.certificate if online else None
        return replace(
            status,
            state=self.state,
            listen=tuple(f"{address}/p2p/{status.peer_id}" for address in self.listen),
            http=tuple(self._http.addresses) if self._http else (),
            peers=len(online.swarm.connections()) if online else 0,
            pid=os.getpid(),
            certificate=show_certificate(certificate) if certificate is not None else None,
            problems=(*self._problems.values(), *(online.problems() if online else ()), *status.problems),
        )


def _group_id(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(
            f"network.control.group: there is no group {name!r}", mend=[f"groupadd {name}", "rage config check"]
        ) from None
