"""Verbs of the noun peer."""

from __future__ import annotations

from typing import ClassVar

from rage_net.verbs import Verb, dataclass


@dataclass(frozen=True, slots=True)
class PeerRow:
    """One peer. `state` is connected or known; `rtt_ms` is None until a ping has measured it."""

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


@dataclass(frozen=True, slots=True)
class ListPeersResult:
    """The peers, connected ones first."""

    items: tuple[PeerRow, ...]


@dataclass(frozen=True, slots=True)
class ListPeers(Verb[ListPeersResult]):
    """Connected peers; with `known`, those of the address book too."""

    route: ClassVar[str] = "peer/list"
    result: ClassVar[type] = ListPeersResult

    known: bool = False


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
