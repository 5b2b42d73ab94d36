"""The discovery server as a process: what `rage discovery serve` runs.

A home of its own (its lock, its key, `discovery.db`), the HTTP door with discovery, chunks and health, metrics on
loopback, and a swarm that listens nowhere: it dials back peers that register, one check a connection.
Whoever asks is seen by the address of the connection, so no proxy belongs before it; TLS is the door's own.

Source: specification, "Discovery Server API"; design D8.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rage_net import __version__, lifetime
from rage_net import config as configuration
from rage_net import home as homes
from rage_net import log as logs
from rage_net.discovery.registry import Registry
from rage_net.discovery.server import Server
from rage_net.engine import Engine
from rage_net.env import read_environment
from rage_net.guard import every
from rage_net.home import Home
from rage_net.http import Http
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.scope import parse_ip
from rage_net.libp2p.swarm import Limits, Swarm
from rage_net.verbs.node import STOP_WITHIN_S

log = logging.getLogger("rage.discovery")

LISTEN = "0.0.0.0:4090"
"""Beside a node's 4001, 4080 and 4081. Discovery is for others, so it listens to all of them."""
METRICS_LISTEN = "127.0.0.1:4091"
"""Where the configuration does not say otherwise; a door on loopback has its metrics on itself."""
FILE = "discovery.db"
SWEEP_EVERY_S = 15.0
DIAL_S = 4.0
"""For one dial-back, within what the server gives it."""
CONNECTIONS_MAX = 64
"""Dial-backs under way, and those that end."""


@dataclass(frozen=True, slots=True)
class DiscoveryStatus:
    """A discovery server that serves. `http` are URLs; the first is what belongs into `network.discovery.servers`."""

    peer_id: str
    http: tuple[str, ...]
    peers: int
    """Registrations that it had kept from before."""
    pid: int
    version: str


async def run(
    home: Home,
    *,
    listen: str | None = None,
    config_path: str | None = None,
    log_format: Literal["text", "json"] = "text",
    verbose: int = 0,
    ready: Callable[[DiscoveryStatus], None] = lambda status: None,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Run a discovery server in this process until SIGTERM or SIGINT; it ends within `STOP_WITHIN_S`.

    Args: listen: HOST:PORT, port 0 for any; None for `LISTEN`. ready: called once, when it serves.
    Raises: ConflictError when another process holds the home, or a newer rage wrote `discovery.db`; ConfigError;
    UnavailableError when the port is taken.
    """
    environ = read_environment() if environ is None else environ
    config = configuration.load(home.root, environ=environ, file=Path(config_path) if config_path else None)
    logs.set_up(log_format, level="DEBUG" if verbose else "INFO")
    with lifetime.hard_end(STOP_WITHIN_S) as begin_end:
        async with (
            Engine.open(home, config=config, lock_timeout_s=0, kind="discovery server") as engine,
            AsyncExitStack() as stack,
        ):
            env, metrics, keys = engine.env, engine.metrics, config.network.http
            stack.enter_context(lifetime.signals(engine.stop_requested))
            metrics.build.set(1, __version__)
            registry = await env.blocking(Registry, home.root / FILE)
            stack.callback(registry.close)
            key = await env.blocking(homes.load_identity, config.network.security.peer_key)
            swarm = await stack.enter_async_context(
                Swarm(
                    key,
                    limits=Limits(connections=CONNECTIONS_MAX, dial_timeout_s=DIAL_S, handshake_timeout_s=DIAL_S),
                    agent_version=f"rage/{__version__}",
                    clock=env.monotonic,
                    random=env.random,
                )
            )
            server = await stack.enter_async_context(
                Server(registry, env, metrics, hosts=keys.hosts, dial_back=DialBack(swarm))
            )
            http = await stack.enter_async_context(
                Http(
                    engine,
                    metrics,
                    listen=listen or LISTEN,
                    metrics_listen=_metrics_listen(listen or LISTEN, keys.metrics_listen),
                    ready=lambda: ["the discovery server is stopping"] if engine.stop_requested.is_set() else [],
                    hosts=keys.hosts,
                    tls_cert=keys.tls_cert,
                    tls_key=keys.tls_key,
                    connections_max=config.network.limits.http_connections,
                    discovery=server,
                )
            )
            sweep = every(SWEEP_EVERY_S, server.sweep, name="discovery_sweep", env=env, metrics=metrics)
            await stack.enter_async_context(lifetime.running([sweep]))
            await server.sweep()
            counts = await env.blocking(registry.counts, env.now())
            status = DiscoveryStatus(
                str(swarm.peer_id), tuple(http.addresses), sum(counts.values()), os.getpid(), __version__
            )
            log.info("ready: %s", status.peer_id)
            lifetime.notify(environ, "READY=1")
            ready(status)
            await engine.stop_requested.wait()
            begin_end()
            log.info("stopping")
            lifetime.notify(environ, "STOPPING=1")


def _metrics_listen(listen: str, configured: str | None) -> str | None:
    """Where the metrics are: as configured, else beside a door on loopback, else on loopback alone."""
    if configured != configuration.Network().http.metrics_listen:
        return configured
    host = listen.rpartition(":")[0].strip("[]")
    ip = parse_ip(host)
    return listen if host == "localhost" or (ip is not None and ip.is_loopback) else METRICS_LISTEN


class DialBack:
    """Whether a peer proves its id at one of its addresses: one fresh connection, closed at once."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm

    async def __call__(self, peer_id: PeerId, addresses: Sequence[Multiaddr]) -> bool:
        """See `dial_back.DialBack`. Raises DialError with what was found instead."""
        old = self._swarm.connection(peer_id)
        if old is not None:  # it proves an address of before
            old.abort("a fresh dial is wanted")
        connection = await self._swarm.dial(peer_id, addresses, timeout_s=DIAL_S)
        await connection.close("checked")
        return True
