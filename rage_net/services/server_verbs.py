"""The verbs of the noun discovery, over the client of the servers: rows for the command line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rage_net import refusals
from rage_net.verbs import discovery as verbs

if TYPE_CHECKING:
    from rage_net.discovery.client import About, Client, Registered


def require(servers: Client | None) -> Client:
    """The client, where there are servers to ask. Raises RageError."""
    if servers is None:
        raise refusals.discovery_off()
    if not servers.servers:
        raise refusals.no_servers()
    return servers


async def list_servers(servers: Client, now: float) -> verbs.ListServersResult:
    """Each server as it answers just now, and what is left of our registration there."""
    found = await servers.bootstrap()
    held = {row.url: row for row in servers.registrations()}
    rows = []
    for outcome in found.outcomes:
        last = held.get(outcome.url)
        row = _registered(last, now) if last is not None else (False, None, None)
        latency_ms = None if outcome.latency_s is None else round(outcome.latency_s * 1000, 3)
        error = "" if outcome.error is None else outcome.error.message
        code = "" if outcome.error is None else outcome.error.id
        rows.append(verbs.ServerRow(outcome.url, outcome.ok, latency_ms, outcome.peers, *row, error, code))
    return verbs.ListServersResult(tuple(rows))


async def list_registered(servers: Client, verb: verbs.ListRegistered) -> verbs.ListRegisteredResult:
    """All peers that the servers list, filtered by them. Raises the error of a server when none answered."""
    found = await servers.peers(organization=verb.organization, region=verb.region, capability=verb.capability)
    failed = [(outcome.url, outcome.error) for outcome in found.outcomes if outcome.error is not None]
    if len(failed) == len(found.outcomes):
        raise failed[0][1]
    rows = []
    for peer in found.peers:
        it = peer.listed
        rows.append(
            verbs.RegisteredPeer(
                str(it.peer_id),
                tuple(str(address.with_peer_id(it.peer_id)) for address in it.addresses),
                it.organization_id,
                it.organization_proven,
                it.region,
                it.capabilities,
                it.reachable,
                peer.servers,
            )
        )
    return verbs.ListRegisteredResult(tuple(rows), tuple(f"{url}: {error.message}" for url, error in failed))


async def register(
    servers: Client, about: About, *, heartbeat_interval_s: float, retry_interval_s: float, now: float
) -> verbs.RegisterResult:
    """Register at every server now."""
    rows: Iterable[Registered] = await servers.register(
        about, heartbeat_interval_s=heartbeat_interval_s, retry_interval_s=retry_interval_s
    )
    return verbs.RegisterResult(
        tuple(
            verbs.ServerRow(
                row.url,
                row.error is None,
                None if row.latency_s is None else round(row.latency_s * 1000, 3),
                0,
                *_registered(row, now),
                "" if row.error is None else row.error.message,
                "" if row.error is None else row.error.id,
            )
            for row in rows
        )
    )


def _registered(row: Registered, now: float) -> tuple[bool, float | None, bool | None]:
    left = None if row.expires_at is None else max(0.0, row.expires_at - now)
    return bool(left), None if left is None else round(left, 3), row.reachable
