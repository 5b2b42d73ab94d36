"""The doctor's checks of the network; `ledger` has those of certificate, trust, rights and log, `cdns` of CDNs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from rage_net.diagnose import cdns, ledger
from rage_net.errors import RageError
from rage_net.libp2p.scope import Scope, scope_of
from rage_net.online import Online
from rage_net.verbs.diagnose import Check, Doctor, DoctorResult

if TYPE_CHECKING:
    from rage_net.engine import Engine

CHECK_S_MAX = 20.0
"""For one check: a dial that nobody answers takes 15."""


async def examine(engine: Engine, verb: Doctor) -> DoctorResult:
    """The checks of the network, those of `only` where it names some."""
    online = await engine.online()
    checks: dict[str, Callable[[], Awaitable[Check]]] = {
        "clock": lambda: _check_clock(online),
        "addresses": lambda: _check_addresses(engine, online),
        "bootstrap": lambda: _check_bootstrap(online),
        "discovery": lambda: _check_discovery(online),
        "dht": lambda: _check_dht(engine, online),
        "mdns": lambda: _check_mdns(engine, online),
        "certificate": lambda: ledger.check_certificate(online),
        "trust": lambda: ledger.check_trust(engine, online),
        "acl": lambda: ledger.check_acl(engine),
        "sync": lambda: ledger.check_sync(engine, online),
        "cdn": lambda: cdns.check_cdn(engine),
        "purges": lambda: cdns.check_purges(engine),
    }
    names = [name for name in checks if not verb.only or name in verb.only]

    async def make(name: str) -> Check:
        try:
            async with asyncio.timeout(CHECK_S_MAX):
                return await checks[name]()
        except RageError as error:
            return Check(name, "error", error.message, error.why, error.mend)
        except TimeoutError:
            return _check(name, "warning", f"no answer within {CHECK_S_MAX:.0f} s")

    made = await asyncio.gather(*map(make, names))
    errors, warnings = (sum(check.level == level for check in made) for level in ("error", "warning"))
    return DoctorResult(tuple(made), errors, warnings)


def _check(name: str, level: str, message: str, why: str = "", mend: Sequence[str] = ()) -> Check:
    return Check(name, level, message, why, tuple(mend))


async def _check_clock(online: Online) -> Check:
    rows = online.servers.registrations() if online.servers is not None else ()
    stale = next((row for row in rows if row.error is not None and row.error.id == "stale-registration"), None)
    if stale is not None and stale.error is not None:
        mend = ("date -u", "timedatectl set-ntp true")
        return _check("clock", "error", f"{stale.url} takes this clock for wrong", stale.error.message, mend)
    doubted = ledger.clock_doubts(online)
    if doubted:
        message = "this clock and a peer's differ by more than certificates allow"
        return _check("clock", "warning", message, doubted, ("date -u", "timedatectl set-ntp true", "there: date -u"))
    if any(row.error is None for row in rows):
        return _check("clock", "ok", "discovery servers agree with this clock within a minute")
    return _check("clock", "skipped", "no discovery server to compare with")


async def _check_addresses(engine: Engine, online: Online) -> Check:
    if not engine.serves:
        return _check(
            "addresses", "skipped", "no node runs: nothing is listened on", mend=("rage node start --detach",)
        )
    addresses = online.swarm.listen_addresses() if online.swarm.bound_addresses() else []
    if not addresses:
        again = ("rage node start --listen /ip4/0.0.0.0/tcp/4001",)
        return _check("addresses", "error", "no listener is open", mend=again)
    if all(scope_of(address) <= Scope.MACHINE for address in addresses):
        wider = ("set network.libp2p.listen_addresses to /ip4/0.0.0.0/tcp/4001",)
        why = f"it listens on {addresses[0]}"
        return _check("addresses", "warning", "only this machine can reach this node", why, wider)
    rows = online.servers.registrations() if online.servers is not None else ()
    failed = [row.url for row in rows if row.reachable is False]
    if failed:
        mend = ("open the port in the firewall, or forward it", "rage discovery list")
        return _check("addresses", "warning", "a discovery server could not dial back", ", ".join(failed), mend)
    shown = ", ".join(map(str, addresses[:3]))
    proved = " and was dialled back" if any(row.reachable for row in rows) else ""
    return _check("addresses", "ok", f"listens on {shown}{proved}")


async def _check_bootstrap(online: Online) -> Check:
    members = online.membership
    if not members.bootstrap:
        return _check("bootstrap", "skipped", "no bootstrap peer is configured")
    await members.connect_to_bootstrap()
    dead = [str(it) for it in members.bootstrap if it.peer_id is None or online.swarm.connection(it.peer_id) is None]
    if not dead:
        return _check("bootstrap", "ok", f"all {len(members.bootstrap)} are connected")
    level = "error" if len(dead) == len(members.bootstrap) and not online.swarm.connections() else "warning"
    mend = (f"rage peer connect {dead[0]}", "rage config show network.libp2p.bootstrap_peers")
    return Check(
        "bootstrap", level, f"{len(dead)} of {len(members.bootstrap)} cannot be reached", ", ".join(dead[:3]), mend
    )


async def _check_discovery(online: Online) -> Check:
    if online.servers is None:
        return _check("discovery", "skipped", "switched off")
    if not online.servers.servers:
        return _check("discovery", "skipped", "no server is configured")
    found = await online.servers.bootstrap()
    failed = [outcome for outcome in found.outcomes if outcome.error is not None]
    twin = next((row for row in online.servers.registrations() if row.twin), None)
    if twin is not None:
        mend = ("give each node its own key: rage init in a home of its own",)
        return _check("discovery", "error", "another node registers with this node's key", twin.twin, mend)
    if not failed:
        return Check(
            "discovery", "ok", f"{len(found.outcomes)} servers answer, and name {len(found.peers)} peers", "", ()
        )
    level = "error" if len(failed) == len(found.outcomes) else "warning"
    why = "; ".join(f"{outcome.url}: {outcome.error}" for outcome in failed[:3])
    return Check(
        "discovery",
        level,
        f"{len(failed)} of {len(found.outcomes)} servers do not answer",
        why,
        ("rage discovery list",),
    )


async def _check_dht(engine: Engine, online: Online) -> Check:
    if online.routing is None or online.dht is None:
        return _check("dht", "skipped", "switched off")
    is_lonely = not online.swarm.connections() and not online.membership.bootstrap and not engine.serves
    if is_lonely and not (online.servers is not None and online.servers.servers):
        return Check(
            "dht", "skipped", "no peer, bootstrap peer or server is known to begin with", "", ("rage peer discover",)
        )
    try:
        await online.routing.ready()
    except RageError as error:  # a first node has nobody to ask, and works
        return _check("dht", "warning", error.message, error.why, error.mend)
    view = online.dht.view()
    return _check("dht", "ok", f"{view.mode}, {view.contacts} peers in the table")


async def _check_mdns(engine: Engine, online: Online) -> Check:
    if not engine.config.network.libp2p.mdns.enabled:
        return _check("mdns", "skipped", "switched off")
    if online.mdns is None:
        return _check("mdns", "skipped", "no node runs: nobody announces it")
    if online.mdns.state == "unavailable":
        return Check(
            "mdns",
            "warning",
            "the local network cannot be asked",
            online.mdns.reason,
            ("ip -4 route show table all | grep 224",),
        )
    names = ", ".join(online.mdns.interfaces) or "no interface"
    return _check("mdns", "ok", f"on {names}; {len(online.mdns)} peers heard")
