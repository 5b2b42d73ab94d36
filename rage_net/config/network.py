"""Every key of network.yaml with its type, default, unit and meaning. Nothing here reads a file.

Keys are the specification's, letter for letter; those it lacks are the design's (4.2). Sections whose work is still to
come are typed and checked all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from rage_net.config.section import Section
from rage_net.config.values import (
    Address,
    Between,
    Bytes,
    Endpoint,
    Name,
    PeerAddress,
    PeerName,
    Seconds,
    Secret,
    Share,
    Url,
    is_wire_ready,
)

VERSION = 1
"""The version of all three files."""

NOT_BUILT = (
    "network.cdn",
    "network.geo",
)
"""Sections and keys that are read and checked, and that nothing obeys yet: a file that sets one is told so."""

KIB, MIB = 1 << 10, 1 << 20


class Dht(Section):
    """The Kademlia DHT."""

    enabled: bool = True
    """Take part in the DHT."""
    mode: Literal["server", "client"] = "server"
    """`server` answers others' queries, `client` only asks; one-shot commands are always clients."""


class Mdns(Section):
    """Discovery in the local network."""

    enabled: bool = True
    """Announce this node and look for others by mDNS."""
    interval: Seconds = Seconds(60)
    """Time between two rounds of looking."""


class Gossipsub(Section):
    """Publish and subscribe."""

    topics: tuple[str, ...] = ("rage.global", "rage.org.{organization_id}", "rage.acl.updates")
    """Topics to join; `{organization_id}` stands for this node's organisation; without one the topic is left out."""


class Libp2p(Section):
    """Where the node listens and whom it knows at the start."""

    listen_addresses: tuple[Address, ...] = (Address("/ip4/0.0.0.0/tcp/4001"), Address("/ip6/::/tcp/4001"))
    """Multiaddrs to listen on; port 0 takes a free one."""
    announce_addresses: tuple[Address, ...] = ()
    """Multiaddrs told to others instead of those listened on: for a node behind an address translator."""
    bootstrap_peers: tuple[PeerAddress, ...] = ()
    """Multiaddrs, each ending in `/p2p/<peer id>`, that are dialled at the start."""
    dht: Dht = Dht()
    """The Kademlia DHT."""
    mdns: Mdns = Mdns()
    """Discovery in the local network."""
    gossipsub: Gossipsub = Gossipsub()
    """Publish and subscribe."""


Algorithm = Literal[
    "EdDSA",
    "ES256",
    "ES384",
    "ES512",
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "HS256",
    "HS384",
    "HS512",
]


class Issuer(Section):
    """Whose tokens the HTTP door takes. Nothing in a token changes what stands here."""

    issuer: str
    """What its tokens call it (`iss`), letter for letter."""
    organization: Name
    """The organisation for whose people it speaks, and for no other's."""
    audience: str
    """What this node is called in its tokens (`aud`)."""
    jwks: str = ""
    """Its public keys: a path, or an address that begins with https://."""
    algorithms: tuple[Algorithm, ...] = ("EdDSA", "ES256", "RS256")
    """How its tokens may be signed."""
    groups_claim: str = "groups"
    """Where its tokens list a user's groups."""
    secret: Secret | None = None
    """Instead of jwks: a secret shared with it, as long as the hash of its HS algorithm."""


class Http(Section):
    """The HTTP door: chunks, health, metrics. Control is on the Unix socket alone."""

    listen: Endpoint | None = Endpoint("127.0.0.1:4080")
    """HOST:PORT of chunks and health; null opens no HTTP door."""
    tls_cert: Path | None = None
    """Certificate chain, PEM, of the HTTP door; null speaks plain HTTP. Goes with tls_key."""
    tls_key: Path | None = None
    """Private key, PEM, of the HTTP door."""
    metrics_listen: Endpoint | None = Endpoint("127.0.0.1:4081")
    """HOST:PORT of `/metrics`; may equal `listen`; null serves none."""
    hosts: tuple[str, ...] = ()
    """Host names that requests may carry, besides the addresses listened on and `localhost`."""
    issuers: tuple[Issuer, ...] = ()
    """Whose bearer tokens (JWT) prove users; what they are answered is theirs alone."""


class Control(Section):
    """The Unix socket of operators."""

    group: str | None = None
    """A system group whose members may use the socket (mode 0660); null leaves it to this user and root (0600)."""


class Registration(Section):
    """How the node makes itself known to discovery servers."""

    auto_register: bool = True
    """Register at every server after the start."""
    private: bool = False
    """Servers list this node to members of its organisation alone; with `security.trusted_peers`, to those alone."""
    heartbeat_interval: Seconds = Seconds(30)
    """Time between two signs of life."""
    retry_interval: Seconds = Seconds(60)
    """Time to wait after a failed registration."""


class Discovery(Section):
    """Central discovery servers."""

    enabled: bool = True
    """Ask discovery servers for peers."""
    servers: tuple[Url, ...] = ()
    """Addresses of discovery servers."""
    registration: Registration = Registration()
    """How the node makes itself known."""


class CdnSwitch(Section):
    """Whether CDNs are used, and where they are described."""

    enabled: bool = True
    """Use CDNs; `cdn.enabled` in cdn.yaml must hold too."""
    providers_config_file: Path = Path("config/cdn.yaml")
    """Path of cdn.yaml; it may be missing."""


class ReplicationSwitch(Section):
    """Whether chunks are replicated, and where the policies stand."""

    enabled: bool = True
    """Take part in replication; `replication.enabled` in replication.yaml must hold too."""
    default_factor: Annotated[int, Between(1, 32)] = 3
    """Nodes that hold each chunk, 1 to 32; replication.yaml's `default_factor` wins."""
    policies_file: Path = Path("config/replication.yaml")
    """Path of replication.yaml; it may be missing."""


Strategy = Literal["most-restrictive", "last-write-wins", "merge", "manual"]


class Conflicts(Section):
    """What holds where facts contradict each other whose authors had not seen each other's. Equal on all nodes."""

    doc: Strategy = "most-restrictive"
    """Rights on documents."""
    org: Strategy = "most-restrictive"
    """Rights of whole organisations."""
    topic: Strategy = "most-restrictive"
    """Rights on topics."""


class Sync(Section):
    """Synchronisation of metadata."""

    interval: Seconds = Seconds(300)
    """Time between two rounds with each peer; changes are gossiped at once besides."""
    peers: tuple[PeerName, ...] = ()
    """Peer ids that metadata is exchanged with, such as a hub; empty: every peer that trust allows."""
    tags: tuple[str, ...] = ()
    """Take facts about documents with one of these tags alone; empty: about all."""
    read_only: bool = False
    """This node only reads: no put, no rights; it tells of itself, and acknowledges what it dropped."""
    conflicts: Conflicts = Conflicts()
    """What holds where facts contradict each other, by kind of resource."""


class Enrol(Section):
    """Renewal of others' certificates, on a node with the capability `enrol`."""

    ca_cert: Path = Path("certs/enrol.crt")
    """Certificate of the enrolment CA, PEM; with no file there, this node renews nobody's."""
    ca_key: Path = Path("certs/enrol.key")
    """Its private key, encrypted, PEM, 0600."""
    passphrase_file: Path | None = None
    """File with the passphrase of the key, 0600; null takes the systemd credential `rage-enrol`."""


class Security(Section):
    """Who this node is and whom it trusts."""

    peer_key: Path = Path("identity.key")
    """The Ed25519 identity key, PKCS#8 PEM, 0600."""
    tls_cert: Path | None = None
    """This node's certificate and those that lead to its organisation's CA, PEM: `rage cert install` sets it."""
    tls_key: Path | None = None
    """Private key of tls_cert; the identity key where that is null."""
    ca_cert: Path | None = None
    """Certificates of trusted CAs, PEM. While null the node is open; once set, a file that cannot be read stops it."""
    trust_model: Literal["explicit", "web-of-trust"] = "explicit"
    """`explicit` trusts the organisations named by `rage trust add`; `web-of-trust` those they vouch for, too."""
    trust_path: Annotated[int, Between(1, 3)] = 1
    """With `web-of-trust`: organisations that may vouch, one for the next, between a trusted one and a peer's."""
    max_staleness: Annotated[Seconds, Between(60, 31_536_000)] = Seconds(86_400)
    """Time without a sync with another node of the organisation after which only what is `public` is served."""
    enrol: Enrol = Enrol()
    """Renewal of others' certificates."""
    acl_enforcement: Literal["strict", "permissive", "off"] = "strict"
    """`permissive` logs what it would deny, `off` checks nothing: for certified peers only, never for strangers."""
    public_access: bool = False
    """With a CA set: strangers may read what is `public`."""
    trusted_peers: tuple[PeerName, ...] = ()
    """Peer ids that an open node (no CA set) serves everything; ignored once a CA is set."""

    @property
    def is_closed(self) -> bool:
        """Whether strangers, and so CDNs, are given nothing in the clear, not what is public either."""
        return self.ca_cert is not None and not self.public_access


class Split(Section):
    """Sizes of chunks. Nodes with other sizes cut the same bytes into other chunks, which then are not shared."""

    min_size: Bytes = Bytes(256 * KIB)
    """Smallest chunk but the last, bytes; multiples of 1 KiB, at most 1 MiB."""
    target_size: Bytes = Bytes(1 * MIB)
    """Size aimed at, bytes."""
    max_size: Bytes = Bytes(4 * MIB)
    """Largest chunk, bytes; at least twice the target, at most 4 MiB."""


class Store(Section):
    """Where chunks lie and how much room they may take."""

    path: Path = Path("store")
    """Directory of chunk files."""
    uri: str | None = None
    """Object store instead of the directory, `s3://bucket/prefix`, one prefix a home; null uses `path`."""
    endpoint: Url | None = None
    """Address of an object store that is not AWS's, such as `https://minio.example.org:9000`."""
    region: Name = Name("")
    """Region of the object store; empty takes AWS's own settings, then `us-east-1`."""
    credentials_file: Path | None = None
    """Keys for the object store, in the form of AWS's `credentials`, 0600; null takes AWS's variables and files."""
    cache: Bytes = Bytes(4 << 30)
    """With an object store: bytes of chunks kept in `path` too, the least recently used go first; 0 keeps none."""
    quota: Bytes | None = None
    """Bytes at rest that all chunks may take; null sets no limit but the disk."""
    reserve: Bytes = Bytes(64 * MIB)
    """Bytes that stay free on the file system: a put that would leave less is refused."""
    grace: Seconds = Seconds(86_400)
    """Time for which garbage collection keeps what nothing holds any more."""
    scrub: Annotated[Seconds, Between(0, 315_360_000)] = Seconds(30 * 86_400)
    """Time in which everything stored is read again, to find rot; each pass takes 5/6 to 7/6 of it. 0 never does."""
    split: Split = Split()
    """Sizes of chunks."""


class Limits(Section):
    """Bounds on what peers and clients can make this node hold. Checked before memory is allocated."""

    connections: Annotated[int, Between(1, 65_536)] = 512
    """Open connections with peers, both directions."""
    connections_per_address: Annotated[int, Between(1, 65_536)] = 64
    """Inbound connections from one IP address."""
    handshakes: Annotated[int, Between(1, 4096)] = 128
    """Inbound connections that have not proved their peer id yet."""
    streams: Annotated[int, Between(1, 1_048_576)] = 8192
    """Inbound streams being answered, all connections together."""
    streams_per_connection: Annotated[int, Between(1, 65_536)] = 1024
    """Open inbound streams of one connection."""
    unread_bytes: Annotated[Bytes, Between(1 * MIB, 1 << 34)] = Bytes(24 * MIB)
    """Bytes that arrived and that nobody has read yet, the whole node; beyond it the greediest connection is reset."""
    dial_timeout: Annotated[Seconds, Between(0.1, 600)] = Seconds(15)
    """Time for a dial, all addresses of the peer together."""
    handshake_timeout: Annotated[Seconds, Between(0.1, 600)] = Seconds(10)
    """Time for an inbound connection to prove its peer id."""
    request_timeout: Annotated[Seconds, Between(0.1, 600)] = Seconds(10)
    """Time for a peer to begin its answer."""
    idle_timeout: Annotated[Seconds, Between(1, 86_400)] = Seconds(300)
    """Time after which a connection without streams is closed."""
    http_connections: Annotated[int, Between(1, 65_536)] = 256
    """Open connections of the HTTP door."""
    control_connections: Annotated[int, Between(1, 4096)] = 64
    """Open connections of the Unix socket."""


class Rates(Section):
    """Rates of the whole node."""

    upload_mbps: Annotated[float, Between(0.1, 1_000_000)] | None = None
    """Megabits a second of chunks and logs sent to peers; null sets no limit."""
    download_mbps: Annotated[float, Between(0.1, 1_000_000)] | None = None
    """Megabits a second of chunks and logs fetched from peers; null sets no limit."""


class Lane(Section):
    """A kind of traffic and its part of the rates."""

    priority: Annotated[int, Between(1, 100)]
    """Order of the lanes; 1 goes first. One that is not listed comes last."""
    traffic: Literal["user_queries", "replication", "background_sync"]
    """What travels in this lane."""
    max_bandwidth: Share = Share(1.0)
    """Largest part of the rate while others want it, above 0% to 100%; lanes borrow what others leave, and keep 5 %."""


class Bandwidth(Section):
    """Rates and who goes first. May stand under `network:` or, as the specification prints it, beside it."""

    limits: Rates = Rates()
    """Rates of the whole node."""
    prioritization: tuple[Lane, ...] = (
        Lane(priority=1, traffic="user_queries", max_bandwidth=Share(0.8)),
        Lane(priority=2, traffic="replication", max_bandwidth=Share(0.4)),
        Lane(priority=3, traffic="background_sync", max_bandwidth=Share(0.2)),
    )
    """The lanes."""


class Network(Section):
    """All of network.yaml."""

    version: int = VERSION
    """Version of the file's keys."""
    node_id: Name = Name("")
    """A name for people, in logs and tables; empty shows the end of the peer id."""
    organization_id: Name = Name("")
    """The organisation this node belongs to; empty while it belongs to none."""
    region: Name = Name("")
    """Region, such as `us-west-2`: replicas go to distinct regions first."""
    zone: Name = Name("")
    """Availability zone within the region: replicas go to distinct zones next."""
    geo: Name = Name("")
    """Part of the world, such as `europe`: matched with the routing regions of CDN providers."""
    libp2p: Libp2p = Libp2p()
    """Where the node listens and whom it knows at the start."""
    http: Http = Http()
    """The HTTP door."""
    control: Control = Control()
    """The Unix socket of operators."""
    discovery: Discovery = Discovery()
    """Central discovery servers."""
    cdn: CdnSwitch = CdnSwitch()
    """Whether CDNs are used, and where they are described."""
    replication: ReplicationSwitch = ReplicationSwitch()
    """Whether chunks are replicated, and where the policies stand."""
    sync: Sync = Sync()
    """Synchronisation of metadata."""
    security: Security = Security()
    """Who this node is and whom it trusts."""
    store: Store = Store()
    """Where chunks lie and how much room they may take."""
    limits: Limits = Limits()
    """Bounds on what others can make this node hold."""
    bandwidth: Bandwidth = Bandwidth()
    """Rates and who goes first."""


def check(network: Network) -> Iterator[tuple[str, str, str, bool]]:
    """What no single value tells: (key, message, mend, whether it is an error rather than a warning)."""
    split = network.store.split
    if any(size % KIB or size < KIB for size in (split.min_size, split.target_size, split.max_size)):
        yield "network.store.split", "sizes of chunks are multiples of 1 KiB", "", True
    elif not (split.min_size <= split.target_size <= split.max_size // 2):
        yield "network.store.split", "min_size <= target_size <= max_size / 2 is wanted", "", True
    elif split.min_size > MIB or split.max_size > 4 * MIB:
        yield "network.store.split", "min_size is at most 1MiB and max_size at most 4MiB", "", True
    if (network.http.tls_cert is None) != (network.http.tls_key is None):
        there, missing = ("tls_cert", "tls_key") if network.http.tls_cert else ("tls_key", "tls_cert")
        yield f"network.http.{there}", f"{there} is set and {missing} is not", f"set {missing} too", True
    if network.security.tls_key is not None and network.security.tls_cert is None:
        yield "network.security.tls_key", "tls_key is set and tls_cert is not", "set tls_cert too", True
    yield from _check_store(network.store)
    yield from _check_issuers(network)
    traffic = [lane.traffic for lane in network.bandwidth.prioritization]
    for name in sorted({name for name in traffic if traffic.count(name) > 1}):
        yield "network.bandwidth.prioritization", f"{name} has two lanes", "keep one", True
    for key in ("listen_addresses", "announce_addresses", "bootstrap_peers"):
        for at, address in enumerate(getattr(network.libp2p, key)):
            if not is_wire_ready(address):
                message = f"{address} is not used: its transport is not built yet"
                yield f"network.libp2p.{key}[{at}]", message, "an address with /tcp/ works", False


def _check_store(store: Store) -> Iterator[tuple[str, str, str, bool]]:
    if store.uri is None:
        for key in ("endpoint", "region", "credentials_file"):
            if getattr(store, key):
                yield f"network.store.{key}", f"{key} is set and uri is not: chunks lie in `path`", "set uri too", False
        return
    bucket, _, prefix = store.uri.removeprefix("s3://").partition("/")
    if not store.uri.startswith("s3://") or not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket):
        yield "network.store.uri", "s3://bucket/prefix is wanted", "3 to 63 of a-z, 0-9, `.`, `-` are a bucket", True
    elif not re.fullmatch(r"(?:[A-Za-z0-9._=-]+(?:/[A-Za-z0-9._=-]+)*)?/?", prefix) or len(prefix) > 512:
        yield "network.store.uri", "a prefix is letters, digits, `.`, `_`, `-`, `=` and `/`", "s3://bucket/rage", True
    if store.endpoint is not None and store.endpoint.startswith("http://") and not is_loopback(store.endpoint):
        message = "http:// shows every chunk to whoever is on the way"
        yield "network.store.endpoint", message, "https://, or a tunnel", False


def is_loopback(url: str) -> bool:
    """Whether a http:// URL leads to this machine."""
    host = url.removeprefix("http://")
    return host.startswith(("127.", "localhost", "[::1]"))


def _check_issuers(network: Network) -> Iterator[tuple[str, str, str, bool]]:
    issuers = network.http.issuers
    for at, issuer in enumerate(issuers):
        key = f"network.http.issuers[{at}]"
        for name in ("issuer", "organization", "audience"):
            if not getattr(issuer, name):
                yield f"{key}.{name}", f"{name} is empty", f"set {name}", True
        if issuer.issuer in [other.issuer for other in issuers[:at]]:
            yield f"{key}.issuer", f"{issuer.issuer} has two entries: it speaks for one organisation", "keep one", True
        by_secret = [word for word in issuer.algorithms if word.startswith("HS")]
        if not issuer.algorithms:
            yield f"{key}.algorithms", "no algorithm is named", "algorithms: [EdDSA]", True
        if issuer.secret is None and by_secret:
            yield f"{key}.algorithms", f"{by_secret[0]} needs a secret, and no public key is one", "EdDSA, ES256", True
        if issuer.secret is not None and len(by_secret) < len(issuer.algorithms):
            yield f"{key}.algorithms", "with a secret, HS256, HS384 and HS512 alone are of use", "[HS256]", True
        elif issuer.secret is not None:
            least = max((int(word[2:]) // 8 for word in by_secret), default=32)
            if len(issuer.secret.reveal().encode()) < least:
                yield f"{key}.secret", f"it is shorter than {least} bytes", f"openssl rand -base64 {least}", True
        if (issuer.secret is None) == (not issuer.jwks):
            yield f"{key}.jwks", "either jwks or a secret is wanted", "jwks: https://...", True
        if "://" in issuer.jwks and not issuer.jwks.startswith("https://"):
            yield f"{key}.jwks", "a path or an https:// address is wanted", "others could send keys of their own", True
    if issuers and network.security.ca_cert is None:
        message = "without a CA the node is open: users get what is public, as anyone does"
        yield "network.http.issuers", message, "set network.security.ca_cert", False
