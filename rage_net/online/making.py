"""The parts of the network half, each made from the configuration, and what a node says of itself."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rage_net import __version__, durable, messages
from rage_net import env as environment
from rage_net import home as homes
from rage_net.acl import OrganizationResource, Principal, Rules, TopicResource, authorize
from rage_net.bandwidth import Bandwidth, Lane
from rage_net.bans import Bans
from rage_net.certfiles import CertFiles
from rage_net.config import Config
from rage_net.denials import Denials
from rage_net.discovery.client import About
from rage_net.env import Env
from rage_net.home import Home
from rage_net.libp2p.dht import Dht
from rage_net.libp2p.mdns import Mdns
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.pubsub import PubSub
from rage_net.libp2p.scope import Scope, scope_of
from rage_net.libp2p.swarm import Connected, Event, Limits, Swarm
from rage_net.messages import NodeInfo
from rage_net.metrics import Metrics
from rage_net.pacing import Pacing
from rage_net.peerstore import Peerstore
from rage_net.services.membership import Membership
from rage_net.services.presence import Self
from rage_net.services.syncing import OnFacts, Syncing
from rage_net.services.syncing import Rules as SyncRules
from rage_net.services.trust import Files, Trust, TrustStore
from rage_net.services.trust.enrolment import CREDENTIAL, EnrolFiles, Enrolment, Renewal
from rage_net.sync.facts import Fact

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from rage_net.cert import NodeCertificate
    from rage_net.libp2p.transport import Transport
    from rage_net.metadata import Metadata

Found = Callable[[PeerId, tuple[Multiaddr, ...]], None]

BYTES_S_PER_MBPS = 1_000_000 / 8
CAPABILITIES = ("storage",)
"""What a node offers that stores and serves chunks."""


def make_swarm(key: Ed25519PrivateKey, config: Config, env: Env, transports: Sequence[Transport] | None) -> Swarm:
    """A swarm with the configured limits, not started."""
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


def make_pacing(config: Config, env: Env, metrics: Metrics) -> Pacing:
    """The lanes of both directions, as `network.bandwidth` says."""
    said = config.network.bandwidth
    lanes = [Lane(lane.traffic, lane.priority, lane.max_bandwidth) for lane in said.prioritization]

    def bandwidth(mbps: float | None) -> Bandwidth:
        return Bandwidth(None if mbps is None else mbps * BYTES_S_PER_MBPS, lanes)

    limits = said.limits
    return Pacing(env.monotonic, metrics, bandwidth(limits.upload_mbps), bandwidth(limits.download_mbps))


async def make_membership(home: Home, config: Config, env: Env, swarm: Swarm) -> Membership:
    """Whom we know and have banned, as the home's files say. Raises RageError when the bans cannot be read."""
    peerstore = Peerstore.from_text(await env.blocking(read_or_nothing, home.peers))
    bans = Bans.from_text(await env.blocking(_read_bans, home), str(home.bans))

    def write(text: str) -> None:
        with durable.file_errors(home.bans):
            durable.write_replacing(home.bans, text.encode())

    async def save(text: str) -> None:
        await env.blocking(write, text)

    bootstrap = [Multiaddr.parse(text) for text in config.network.libp2p.bootstrap_peers]
    dial_s = config.network.limits.dial_timeout
    return Membership(swarm, peerstore, env, bootstrap, dial_s, bans=bans, save_bans=save)


def make_dht(config: Config, env: Env, swarm: Swarm, membership: Membership, trust: Trust, *, serves: bool) -> Dht:
    """The DHT's end here: a server of it only where a node serves."""

    def group(peer: PeerId) -> str | None:
        """The organisation that a certificate proves, else the one a peer claims: its peers count as one hand."""
        if not trust.is_open:
            return trust.principal_of(peer).organization or None
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


def make_pubsub(env: Env, swarm: Swarm, trust: Trust, metadata: Metadata | None, rules: Rules) -> PubSub:
    """Gossip for whoever may join: trust opens a topic, and no fact on it may deny it."""

    def may_join(peer: PeerId, topic: str) -> bool:
        if metadata is None or not trust.may_join(peer, topic):
            return metadata is None and trust.may_join(peer, topic)
        access = metadata.access.rights(metadata.organization, f"topic:{topic}").access
        return authorize(TopicResource(topic, access), trust.certified(peer), "read", rules, env.now()).allowed

    pubsub = PubSub(swarm, clock=env.monotonic, wall_clock=env.now, random=env.random, may_join=may_join)
    trust.on_change(pubsub.reconsider)
    return pubsub


async def make_trust(home: Home, config: Config, env: Env, swarm: Swarm, store: TrustStore | None) -> Trust:
    """Trust, standing at the swarm's gate. Raises ConfigError for a CA file that cannot be used."""
    network = config.network
    security = network.security
    certificate = CertFiles.of(home, security.tls_cert).certificate
    files = Files(security.ca_cert, certificate, network.organization_id)
    trust = Trust(
        swarm,
        env,
        files,
        store,
        public_access=security.public_access,
        path_max=security.trust_path if security.trust_model == "web-of-trust" else 0,
        staleness_s_max=security.max_staleness,
    )
    await trust.begin()
    return trust


def make_renewal(
    home: Home,
    config: Config,
    env: Env,
    swarm: Swarm,
    trust: Trust,
    key: Ed25519PrivateKey,
    meet: Callable[[], Awaitable[None]],
) -> tuple[Enrolment, Renewal]:
    """Both sides of renewal; the first answers where the node's certificate says that it enrols."""

    def make_csr(old: NodeCertificate) -> bytes:
        from rage_net.cert import issue

        return issue.make_csr(key, old.organization, old.region, old.capabilities)

    security = config.network.security
    credentials = environment.read_environment().get("CREDENTIALS_DIRECTORY")
    passphrase = security.enrol.passphrase_file or (Path(credentials) / CREDENTIAL if credentials else None)
    enrolment = Enrolment(trust, env, EnrolFiles(security.enrol.ca_cert, security.enrol.ca_key, passphrase))
    trust.renew = enrolment.answer
    files = CertFiles.of(home, security.tls_cert, security.ca_cert)
    return enrolment, Renewal(trust, swarm, env, make_csr=make_csr, files=files, meet=meet, own=enrolment)


def make_syncing(
    config: Config,
    env: Env,
    metrics: Metrics,
    swarm: Swarm,
    trust: Trust,
    metadata: Metadata,
    rules: Rules,
    denials: Denials | None,
    on_facts: OnFacts | None,
    pacing: Pacing,
) -> Syncing:
    """The exchange of logs, with what the configuration and the log say of who may have what."""

    async def nothing(organization: str, facts: Sequence[Fact]) -> None:
        metadata.access.forget(facts)

    def authority(organization: str) -> Callable[[PeerId, tuple[bytes, ...]], frozenset[str] | None]:
        return functools.partial(metadata.authority.judge, organization)

    def may_sync(principal: Principal, organization: str) -> bool:
        access = metadata.access.rights(organization, f"org:{organization}").access
        resource = OrganizationResource(organization, access)
        decision = authorize(resource, principal, "sync", rules, env.now())
        if not decision.allowed and denials is not None:
            denials.note("sync", str(principal), str(resource), decision.reason)
        return decision.allowed

    sync = config.network.sync
    syncing = Syncing(
        metadata.log,
        metadata.organization,
        swarm,
        env,
        metrics,
        SyncRules(
            authority,
            trust.certified,
            may_sync,
            metadata.access.may_see,
            on_facts or nothing,
            metadata.access.reported,
            metadata.note_agreed,
            metadata.access.has_others,
            metadata.conclude,
        ),
        peers=[PeerId.parse(peer) for peer in sync.peers],
        tags=sync.tags,
        pacing=pacing,
    )

    def meet(event: Event) -> None:
        if isinstance(event, Connected):
            syncing.met(event.peer_id)

    swarm.on_event(meet)
    trust.on_change(syncing.met)
    return syncing


def topics_of(config: Config) -> list[str]:
    """The topics to join, without those of an organisation where there is none."""
    organization = config.network.organization_id
    found = config.network.libp2p.gossipsub.topics
    filled = [topic.replace("{organization_id}", organization) for topic in found if organization or "{" not in topic]
    return list(dict.fromkeys(filled))


def make_mdns(interval_s: float, env: Env, swarm: Swarm, found: Found, *, announce: bool) -> Mdns:
    """A listener on the local links that tells `found`, not started; with `announce` it answers for us."""
    return Mdns(
        swarm.peer_id,
        swarm.bound_addresses,
        found,
        interval_s=interval_s,
        random=env.random,
        announce=announce,
    )


def told_addresses(swarm: Swarm) -> tuple[Multiaddr, ...]:
    """Where others can reach us: loopback only where there is nothing else."""
    found = swarm.listen_addresses()
    return tuple([address for address in found if scope_of(address) > Scope.MACHINE] or found)


def describe_self(config: Config, instance: int, addresses: Callable[[], tuple[Multiaddr, ...]]) -> Self:
    """What a heartbeat says of this node now. Blocking: looks at the disk."""
    network = config.network
    free = homes.free_bytes(network.store.path)
    info = NodeInfo(network.organization_id, network.region, network.zone, __version__, free, instance)
    return Self(info, CAPABILITIES, addresses()[: messages.ADDRESSES_MAX])


def describe_about(config: Config, addresses: Callable[[], tuple[Multiaddr, ...]]) -> About:
    """What a registration at a discovery server says of this node now."""
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


def read_or_nothing(path: Any) -> str:
    """A file of the home, empty when there is none. Blocking."""
    try:
        return str(path.read_text("utf-8", "replace"))
    except OSError:  # a first start, or a file that cannot be read: whom we know will be met again
        return ""
