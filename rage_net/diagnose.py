"""Why something can or cannot be had, and what a doctor sees of the network: every link looked at, in order.

`explain` walks from here to a chunk, a document or a peer, and names the first link that is broken, with what mends it.
`examine` makes the doctor's checks that need an engine; home and machine are `checkup`'s. Both only look: they dial and
ask, and change nothing. Source: issue 3, G; reference of commands, "3 am".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from rage_net import lookups
from rage_net.chunk import manifest, views
from rage_net.cid import Cid, CidError
from rage_net.errors import NotFoundError, RageError
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.scope import Scope, scope_of
from rage_net.messages import CHUNK_PROTOCOL
from rage_net.online import Online
from rage_net.services.membership import parse_address
from rage_net.verbs.chunk import ProviderRow
from rage_net.verbs.diagnose import Check, Doctor, DoctorResult, Why, WhyResult, WhyStep

if TYPE_CHECKING:
    from rage_net.engine import Engine

PROVIDERS_MAX = 20
CHECK_S_MAX = 20.0
"""For one check of the doctor: a dial that nobody answers takes 15."""


class _Walk:
    """The steps so far. A step that is broken ends a walk along a chain; among alternatives the walk goes on."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.steps: list[WhyStep] = []
        self._clock = clock
        self._began = clock()

    def add(self, name: str, state: str, message: str, mend: Sequence[str] = ()) -> None:
        """One link was looked at."""
        now = self._clock()
        self.steps.append(WhyStep(name, state, message, tuple(mend), round(now - self._began, 3)))
        self._began = now

    def result(self, subject: str, kind: str, is_ok: bool, verdict: str) -> WhyResult:
        """The whole walk; when it is not well, the first broken link is what to mend."""
        broken = next((step for step in self.steps if step.state == "broken"), None)
        if is_ok or broken is None:
            return WhyResult(subject, kind, is_ok, verdict, "", (), tuple(self.steps))
        return WhyResult(subject, kind, False, verdict, broken.name, broken.mend, tuple(self.steps))


async def explain(engine: Engine, verb: Why) -> WhyResult:
    """Every link from here to the subject: a CID, a document's id or name, a peer id or multiaddr.

    Raises: NotFoundError when the subject is none of these.
    """
    text = verb.subject
    walk = _Walk(engine.env.monotonic)
    try:
        root = await engine.env.blocking(views.find_root, engine.documents, text)
    except NotFoundError as no_document:
        online = await engine.online()
        try:
            peer = online.membership.named(text)
        except RageError:
            raise no_document from None
        return await _explain_peer(online, peer, text, walk)
    kind = "chunk" if _is_cid(text) else "document"
    return await _explain_root(engine, root, kind, verb, walk)


def _is_cid(text: str) -> bool:
    try:
        Cid.parse(text)
    except CidError:
        return False
    return True


# --- a root ---


async def _explain_root(engine: Engine, root: Cid, kind: str, verb: Why, walk: _Walk) -> WhyResult:
    wanted, here = await engine.env.blocking(_count_blocks, engine, root)
    if wanted and here == wanted:
        walk.add("local", "ok", f"all {wanted} blocks are here")
    else:
        walk.add("local", "warning", f"{here} of {wanted} blocks are here" if wanted else "not here")
    online = await engine.online()
    await _explain_announcement(engine, online, root, walk, is_whole=bool(wanted) and here == wanted)
    walk.add("cdn", "skipped", "no CDN is configured")
    rows = await _ask_peers(engine, online, root, verb, walk)
    has = [row.peer_id for row in rows if row.state == "has"]
    if wanted and here == wanted:
        return walk.result(verb.subject, kind, True, f"{root} can be had: it is here")
    if has:
        return walk.result(verb.subject, kind, True, f"{root} can be had from {', '.join(has[:3])}")
    return walk.result(verb.subject, kind, False, f"{root} cannot be had: nobody who was reached gives it")


def _count_blocks(engine: Engine, root: Cid) -> tuple[int, int]:
    """How many blocks a root has, as far as its manifests are here, and how many of them are. Blocking."""
    wanted = here = 0
    if not engine.store.has(root):
        return 0, 0
    try:
        for cid in manifest.blocks(root, engine.store.get):
            wanted += 1
            here += engine.store.has(cid)
    except RageError:  # a manifest below the root is absent or rotten
        wanted += 1
    return wanted, here


async def _explain_announcement(engine: Engine, online: Online, root: Cid, walk: _Walk, *, is_whole: bool) -> None:
    """Whether others can find what is here."""
    if not is_whole:
        return
    is_public = await engine.env.blocking(engine.is_public, root)
    if not is_public:
        walk.add("visibility", "ok", "not public: served to who may read it, and announced to nobody")
    elif online.routing is None:
        walk.add("announced", "warning", "public, but this node takes no part in the DHT")
    else:
        due = online.routing.due_in_s(root)
        if due is None:
            said = "public; a running node announces it" if not engine.serves else "public, not yet announced"
            walk.add("announced", "warning", said, () if engine.serves else ("rage node start --detach",))
        else:
            walk.add("announced", "ok", f"public; announced, and again in {due / 3600:.1f} h")


async def _ask_peers(engine: Engine, online: Online, root: Cid, verb: Why, walk: _Walk) -> list[ProviderRow]:
    for text in verb.peers:
        try:
            await online.membership.find(text)
        except RageError as error:
            walk.add("peer", "broken", f"{text}: {error.message}: {error.why}", error.mend)
    connected = online.swarm.connections()
    if not connected and not engine.serves:
        await online.membership.keep_connected()
        connected = online.swarm.connections()
    if not connected:
        walk.add("peers", "broken", "no peer is connected", ("rage peer discover --connect", "rage doctor"))
    may_ask = await engine.may_ask(root)
    try:
        found = await lookups.list_providers(online, root, PROVIDERS_MAX, is_here=False, may_ask=may_ask, keep_all=True)
    except RageError as error:
        walk.add("providers", "broken", error.message, error.mend)
        return []
    rows = list(found.items)
    near = [row for row in rows if "connected" in row.via]
    if connected:
        has = sum(row.state == "has" for row in near)
        walk.add("peers", "ok" if has else "warning", f"{len(near)} are connected, {has} of them have it")
    far = [row for row in rows if "dht" in row.via]
    said = next((words for words in found.asked if words.startswith("dht: ")), "dht: not asked").removeprefix("dht: ")
    if far or any(row.state == "has" for row in near):
        walk.add("dht", "ok" if said.startswith("named") else "warning", said)
    else:
        walk.add("dht", "broken", said, _mend_dht(online, root))
    for row in far:
        _explain_provider(row, root, walk)
    return rows


def _mend_dht(online: Online, root: Cid) -> tuple[str, ...]:
    if online.dht is None:
        return ("set network.libp2p.dht.enabled to true",)
    if not len(online.dht.table):
        return ("rage peer discover --connect", "rage dht table")
    return (
        f"where it is: rage chunk stat {root}",
        "there: rage chunk put FILE --visibility public",
        f"rage dht trace {root}",
    )


def _explain_provider(row: ProviderRow, root: Cid, walk: _Walk) -> None:
    name = f"provider {row.peer_id[-8:]}"
    where = row.addresses[0] if row.addresses else row.peer_id
    if row.state == "has":
        walk.add(name, "ok", f"has it, {row.rtt_ms} ms away")
    elif row.state == "unreachable":
        walk.add(
            name, "broken", f"cannot be reached: {row.error}", (f"rage peer ping {where}", f"rage why {row.peer_id}")
        )
    else:
        walk.add(
            name,
            "broken",
            "says it has none: it went, or is not for this node",
            (f"there: rage chunk stat {root}", "there: add this node to network.security.trusted_peers"),
        )


# --- a peer ---


async def _explain_peer(online: Online, peer: PeerId, text: str, walk: _Walk) -> WhyResult:
    members = online.membership
    if peer == online.swarm.peer_id:
        walk.add("identity", "ok", "this node itself")
        return walk.result(text, "peer", True, f"{peer} is this node")
    walk.add("identity", "ok", str(peer))
    ban = members.ban_on(peer)
    if ban is not None:
        walk.add("ban", "broken", f"banned here: {ban.reason or 'no reason given'}", (f"rage peer unban {peer}",))
        return walk.result(text, "peer", False, f"{peer} is banned here")
    state = members.liveness.state(peer)
    if state is not None:
        walk.add("liveness", "ok" if state == "alive" else "warning", f"the network takes it for {state}")
    if online.swarm.connection(peer) is None and not await _dial_peer(online, peer, text, walk):
        return walk.result(text, "peer", False, f"{peer} cannot be reached")
    connection = online.swarm.connection(peer)
    if connection is None:
        walk.add("connection", "broken", "it broke at once", (f"rage peer connect {text}",))
        return walk.result(text, "peer", False, f"{peer} cannot be reached")
    walk.add("connection", "ok", f"{'from' if connection.inbound else 'to'} {connection.remote_address}")
    try:
        rtt_s = await members.ping(connection)
    except RageError as error:
        walk.add("ping", "broken", error.message, (f"rage peer ping {peer}",))
        return walk.result(text, "peer", False, f"{peer} is connected and does not answer")
    walk.add("ping", "ok", f"{rtt_s * 1000:.1f} ms")
    protocols = connection.identify.protocols if connection.identify is not None else ()
    if CHUNK_PROTOCOL in protocols:
        walk.add("protocols", "ok", "exchanges chunks")
    else:
        agent = connection.identify.agent_version if connection.identify is not None else "unknown"
        walk.add("protocols", "warning", f"does not exchange chunks ({agent or 'unknown'})")
    walk.add("certificate", "skipped", "no CA is configured: the node is open")
    return walk.result(text, "peer", True, f"{peer} is reached")


async def _dial_peer(online: Online, peer: PeerId, text: str, walk: _Walk) -> bool:
    members = online.membership
    kept = members.peerstore.get(peer)
    addresses = list(kept.addresses) if kept is not None else []
    if text.startswith("/"):
        addresses.insert(0, parse_address(text).without_peer_id())
    if addresses:
        walk.add("addresses", "ok", f"{len(addresses)} known: {addresses[0]}")
    else:
        try:
            found = await online.discovering.find(peer, (), is_connected=False)
        except NotFoundError as error:
            walk.add("addresses", "broken", f"none is known: {error.why}", error.mend)
            return False
        addresses = [parse_address(one).without_peer_id() for one in found.addresses]
        walk.add("addresses", "ok", f"{found.source} knows {addresses[0]}")
    try:
        await members.reach(peer, addresses, "configured")
    except RageError as error:
        walk.add(
            "dial",
            "broken",
            error.why or error.message,
            ("there: rage node status", "there: rage doctor --only addresses"),
        )
        return False
    return True


# --- the doctor ---


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
