"""The network half of an engine: the swarm and all that speaks over it, composed. No rule lives here.

    swarm        connections                        libp2p
    trust        who may open what of them          services
    exchange     chunks, both ends
    membership   whom we know, who lives
    dht, routing who has what, and that we have ours
    pubsub, presence   gossip: heartbeats, announcements
    mdns         the local links
    servers      discovery servers

A node has all of it, and `jobs`; an engine of one command is a client of the DHT, neither gossips nor announces, and
begins what it needs when it needs it. Source: design D8; ARCHITECTURE.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rage_net import home as homes
from rage_net import messages
from rage_net.acl import Rules
from rage_net.chunk.shelf import is_public, public_roots
from rage_net.chunk.store import ChunkStore
from rage_net.config import Config
from rage_net.denials import Denials
from rage_net.discovery.client import About, Client
from rage_net.env import Env
from rage_net.home import Home
from rage_net.libp2p.dht import Dht
from rage_net.libp2p.kad.schedule import Schedule
from rage_net.libp2p.mdns import Mdns
from rage_net.libp2p.pubsub import PubSub
from rage_net.libp2p.swarm import Swarm
from rage_net.libp2p.transport import tune_malloc
from rage_net.metrics import Metrics
from rage_net.online.duties import Duties
from rage_net.online.making import (
    describe_about,
    describe_self,
    make_dht,
    make_mdns,
    make_membership,
    make_pacing,
    make_pubsub,
    make_renewal,
    make_swarm,
    make_syncing,
    make_trust,
    read_or_nothing,
    told_addresses,
    topics_of,
)
from rage_net.online.placing import make_replicating
from rage_net.services.discovering import Discovering
from rage_net.services.exchange import Exchange
from rage_net.services.membership import Membership
from rage_net.services.presence import TOPIC, Presence
from rage_net.services.replicating import Replicating
from rage_net.services.routing import Routing
from rage_net.services.sealing import Keys
from rage_net.services.syncing import OnFacts, Syncing
from rage_net.services.trust import Trust
from rage_net.services.trust.enrolment import Renewal
from rage_net.sync import wire
from rage_net.web import Web

if TYPE_CHECKING:
    from rage_net.libp2p.transport import Transport
    from rage_net.metadata import Metadata


__all__ = ["Online", "go_online"]


@dataclass(frozen=True, slots=True)
class Online:
    """What an engine has once it is online. What the configuration switches off is None."""

    swarm: Swarm
    trust: Trust
    renewal: Renewal
    syncing: Syncing | None
    """On a node with a CA."""
    replicating: Replicating | None
    """On a node with a CA, where replication is not switched off."""
    exchange: Exchange
    keys: Keys | None
    """Of documents that go to CDNs encrypted; on a node with a CA."""
    membership: Membership
    discovering: Discovering
    servers: Client | None
    dht: Dht | None
    routing: Routing | None
    pubsub: PubSub | None
    presence: Presence | None
    mdns: Mdns | None
    offer: Callable[[], None]
    """Gives facts and chunks to those who may have them: a node from its start, a command that waits for copies."""
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
    denials: Denials | None = None,
    metadata: Metadata | None = None,
    on_facts: OnFacts | None = None,
) -> AsyncIterator[Online]:
    """Start the network half; everything has ended when the block is left.

    Args: metadata: of a node with a CA. on_facts: what is to be done with facts that came from others.
    """
    tune_malloc()  # else each batch of a download faults its pages in again
    network = config.network
    key = await env.blocking(homes.load_identity, network.security.peer_key)
    async with AsyncExitStack() as stack:
        swarm = await stack.enter_async_context(make_swarm(key, config, env, transports))
        trust = await make_trust(home, config, env, swarm, metadata)
        pacing = make_pacing(config, env, metrics)
        exchange = Exchange(store, env, rules, metrics, principal_of=trust.principal_of, denials=denials, pacing=pacing)
        syncing = keys = None
        late: list[Membership] = []
        if metadata is not None:
            keys = Keys(
                metadata.sealed,
                env,
                metrics,
                rules,
                principal_of=trust.principal_of,
                connect=lambda peer: late[0].find(str(peer)),
                access_of=metadata.living_access,
                denials=denials,
            )
            exchange.gate.access_of = metadata.access.access_of
            syncing = make_syncing(config, env, metrics, swarm, trust, metadata, rules, denials, on_facts, pacing)

        def offer() -> None:
            swarm.handle(messages.CHUNK_PROTOCOL, exchange.serve)
            if syncing is not None:
                swarm.handle(messages.SYNC_PROTOCOL, syncing.serve)
            if keys is not None:
                swarm.handle(messages.KEY_PROTOCOL, keys.serve)

        if serves:
            offer()
        membership = await make_membership(home, config, env, swarm)
        late.append(membership)
        membership.meet_again = trust.meet_again
        replicating = None
        if metadata is not None:
            replicating = await make_replicating(
                stack, home, config, env, metrics, store, swarm, trust, exchange, membership, metadata
            )
        addresses = functools.partial(told_addresses, swarm)
        servers = None
        if network.discovery.enabled:
            web = await stack.enter_async_context(Web())
            servers = Client(
                network.discovery.servers, key, web, env, own=swarm.listen_addresses, memory=home.discovered
            )

        duties = Duties(home, config, env, metrics, swarm, membership, servers, trust)
        duties.enrolment, duties.renewal = make_renewal(home, config, env, swarm, trust, key, duties.meet_somebody)
        dht = routing = pubsub = presence = mdns = None
        if network.libp2p.dht.enabled:
            dht = await stack.enter_async_context(make_dht(config, env, swarm, membership, trust, serves=serves))
            dht.load_text(await env.blocking(read_or_nothing, home.dht))
            routing = Routing(
                dht,
                Schedule(),
                env,
                meet=duties.meet_somebody,
                is_met=lambda: bool(swarm.connections()),
                roots=functools.partial(public_roots, store),
                is_public=functools.partial(is_public, store),
            )
        listen = functools.partial(make_mdns, network.libp2p.mdns.interval, env, swarm)
        if serves:
            pubsub = await stack.enter_async_context(make_pubsub(env, swarm, trust, metadata, rules))
            topics = topics_of(config)
            heard = {f"rage.org.{syncing.organization}", wire.UPDATES_TOPIC} if syncing is not None else set()
            duties.drains = [pubsub.subscribe(topic) for topic in topics if topic not in {TOPIC, *heard}]
            if syncing is not None:
                syncing.gossip(pubsub)
                duties.heads = [pubsub.subscribe(topic, syncing.judge) for topic in topics if topic in heard]
        if pubsub is not None and TOPIC in topics:
            presence = Presence(
                pubsub,
                env,
                describe=functools.partial(describe_self, config, env.random.getrandbits(63), addresses),
                note=membership.note,
                learn=membership.learn_announced,
                nodes=lambda: len(membership.nodes),
                may_speak=membership.admits,
            )
            stack.callback(presence.close)
            duties.presence = presence
        can_listen = network.libp2p.mdns.enabled and transports is None
        if serves and can_listen:
            mdns = await stack.enter_async_context(listen(duties.hear_mdns, announce=True))
        discovering = Discovering(
            env,
            swarm.peer_id,
            servers=servers,
            dht=dht,
            ready=routing.ready if routing is not None else duties.meet_somebody,
            listen=functools.partial(listen, announce=False) if can_listen else None,
            reach=membership.reach,
            claims=duties.claims,
        )
        duties.dht, duties.routing, duties.pubsub, duties.syncing = dht, routing, pubsub, syncing
        duties.replicating = replicating
        if syncing is not None:
            syncing.on_report = duties.hear_report
            if replicating is not None:
                replicating.ask_for_news = syncing.met
        about = functools.partial(describe_about, config, addresses)
        duties.about = about
        yield Online(
            swarm,
            trust,
            duties.renewal,
            syncing,
            replicating,
            exchange,
            keys,
            membership,
            discovering,
            servers,
            dht,
            routing,
            pubsub,
            presence,
            mdns,
            offer,
            about,
            duties.save,
            duties.leave,
            duties.problems,
            duties.jobs,
        )
