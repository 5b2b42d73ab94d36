"""Verbs of the noun peer."""

from __future__ import annotations

from typing import ClassVar

from rage_net.verbs import Verb, dataclass


@dataclass(frozen=True, slots=True)
class PeerRow:
    """One peer. `state` is connected, known or banned; `rtt_ms` is None until a ping has measured it."""

    peer_id: str
    state: str
    direction: str
    addresses: tuple[str, ...]
    agent: str
    protocols: tuple[str, ...]
    rtt_ms: float | None
    connected_s: float
    streams: int
    bytes_in: int
    bytes_out: int
    liveness: str = ""
    """alive, suspect or gone, as the network sees it; empty where nothing is known."""
    organization: str = ""
    """Proven by its certificate where `trust` is not empty; else as the peer says."""
    region: str = ""
    zone: str = ""
    capabilities: tuple[str, ...] = ()
    source: str = ""
    """How we came to know it: configured, server, dht, mdns, gossip or inbound."""
    trust: str = ""
    """Of a connected peer with a certificate that is trusted: own-organization, federated or vouched."""
    scopes: tuple[str, ...] = ()
    """What trust opens to it here: query, chunks, sync; all of them to our own organisation."""
    certified_until: float | None = None
    """When its certificate ends, seconds since the epoch."""
    synced_at: float | None = None
    """When its copy of a log was last compared with ours, since this node's start."""
    behind: int = 0
    """Envelopes of ours that it had not told of by then."""
    until: float | None = None
    """Of a ban: when it ends, seconds since the epoch; None is never."""
    reason: str = ""
    """Of a ban."""


@dataclass(frozen=True, slots=True)
class ListPeersResult:
    """The peers, connected ones first."""

    items: tuple[PeerRow, ...]


@dataclass(frozen=True, slots=True)
class ListPeers(Verb[ListPeersResult]):
    """Connected peers; with `known`, those of the address book and the banned ones too. Empty words do not filter."""

    route: ClassVar[str] = "peer/list"
    result: ClassVar[type] = ListPeersResult

    known: bool = False
    state: str = ""
    """connected, known, banned, alive, suspect or gone."""
    organization: str = ""
    region: str = ""
    capability: str = ""


@dataclass(frozen=True, slots=True)
class ShowPeer(Verb[PeerRow]):
    """One peer by its id, a unique beginning or end of it, or a multiaddr (then it is dialled)."""

    route: ClassVar[str] = "peer/info"
    result: ClassVar[type] = PeerRow

    peer: str


@dataclass(frozen=True, slots=True)
class ConnectPeer(Verb[PeerRow]):
    """Dial a multiaddr that ends in `/p2p/<peer id>`."""

    route: ClassVar[str] = "peer/connect"
    result: ClassVar[type] = PeerRow
    mutates: ClassVar[bool] = True

    address: str


@dataclass(frozen=True, slots=True)
class PingPeerResult:
    """Round trips in milliseconds, in order; `lost` counts those that had no answer."""

    peer_id: str
    address: str
    rtt_ms: tuple[float, ...]
    lost: int


@dataclass(frozen=True, slots=True)
class PingPeer(Verb[PingPeerResult]):
    """Ping a peer `count` times over an encrypted connection."""

    route: ClassVar[str] = "peer/ping"
    result: ClassVar[type] = PingPeerResult

    peer: str
    count: int = 5
    interval_s: float = 0.2


VIAS = ("server", "dht", "mdns")
"""Ways to discover peers."""


@dataclass(frozen=True, slots=True)
class FoundPeer:
    """A peer that was discovered. `via` lists each way that named it; `is_connected` after `connect`."""

    peer_id: str
    addresses: tuple[str, ...]
    via: tuple[str, ...]
    organization: str = ""
    region: str = ""
    capabilities: tuple[str, ...] = ()
    is_connected: bool = False
    error: str = ""
    """Why the dial failed."""


@dataclass(frozen=True, slots=True)
class ViaOutcome:
    """What one way gave: how many peers after how long, or an error (`code` and words)."""

    via: str
    found: int
    seconds: float
    code: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class DiscoverPeersResult:
    """All peers found, in the order in which they were first named."""

    items: tuple[FoundPeer, ...]
    ways: tuple[ViaOutcome, ...]


@dataclass(frozen=True, slots=True)
class DiscoverPeers(Verb[DiscoverPeersResult]):
    """Look for peers in several ways at once. Works with and without a node.

    It tells each peer once: when it is first named, or with `connect` when it has been dialled. It ends after `for_s`,
    or sooner once every way has said all it has to say (mDNS listens to the end).
    """

    route: ClassVar[str] = "peer/discover"
    result: ClassVar[type] = DiscoverPeersResult
    item: ClassVar[type] = FoundPeer

    via: tuple[str, ...] = VIAS
    for_s: float = 10.0
    connect: bool = False
    organization: str = ""
    region: str = ""


@dataclass(frozen=True, slots=True)
class FindPeerResult:
    """Where a peer may be dialled, and which of connected, known, server, dht, mdns said so."""

    peer_id: str
    addresses: tuple[str, ...]
    source: str
    is_connected: bool
    seconds: float
    asked: tuple[str, ...]
    """Each way that was tried and what it said."""


@dataclass(frozen=True, slots=True)
class FindPeer(Verb[FindPeerResult]):
    """The addresses of a peer id, from here, discovery servers and the DHT."""

    route: ClassVar[str] = "peer/find"
    result: ClassVar[type] = FindPeerResult

    peer: str


@dataclass(frozen=True, slots=True)
class BanResult:
    """A ban as it stands now; `until` is None when it does not end, `is_banned` False after an unban."""

    peer_id: str
    is_banned: bool
    until: float | None
    reason: str
    was_connected: bool = False


@dataclass(frozen=True, slots=True)
class BanPeer(Verb[BanResult]):
    """Drop a peer and have nothing to do with it, for `for_s` seconds or for good; survives a restart."""

    route: ClassVar[str] = "peer/ban"
    result: ClassVar[type] = BanResult
    mutates: ClassVar[bool] = True

    peer: str
    for_s: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class UnbanPeer(Verb[BanResult]):
    """Lift a ban."""

    route: ClassVar[str] = "peer/unban"
    result: ClassVar[type] = BanResult
    mutates: ClassVar[bool] = True

    peer: str
