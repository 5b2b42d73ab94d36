"""Verbs of the node itself."""

from __future__ import annotations

from typing import ClassVar

from rage_net.verbs import Verb, dataclass

STOP_WITHIN_S = 10.0
"""What a node promises from SIGTERM to its end."""


@dataclass(frozen=True, slots=True)
class CertificateState:
    """The node's own certificate. Times are seconds since the epoch; it renews itself until `renew_until`."""

    serial: str
    organization: str
    capabilities: tuple[str, ...]
    expires_at: float
    renew_until: float


@dataclass(frozen=True, slots=True)
class SyncGlance:
    """How far this node's log agrees with others'; `rage sync status` says more."""

    state: str
    """`in sync`, `catching up`, `stale`, or `alone` where no peer's was compared since the start."""
    synced_at: float
    """When it was last compared with another node's of our organisation; 0 never. Since the epoch."""
    facts: int
    conflicts: int
    """That wait for a person."""
    forks: int
    """Authors that wrote two histories."""
    failing: int
    """Peers with which the last exchange failed."""


@dataclass(frozen=True, slots=True)
class ScrubGlance:
    """How far reading the whole store again has come."""

    ended_at: float
    """When it had last read everything; 0 never. Since the epoch."""
    progress: float
    """The share of the store that this pass has read, 0 to 1."""
    due_at: float
    """When this pass should have read everything; 0 before the first has begun."""
    bad: int
    """Chunks that this pass has found rotten or missing."""


@dataclass(frozen=True, slots=True)
class CdnGlance:
    """How the CDNs of cdn.yaml stand; `rage cdn status` and `rage cdn journal` say more."""

    providers: int
    open: int
    """Purges that have not ended; of more than 1,000 so many."""
    open_since: float
    """When the oldest of them was asked, since the epoch; 0 without one."""
    failed: int
    """Names (URLs, tags, ...) that a CDN or an edge refused, and that were not purged since."""
    failed_at: tuple[str, ...]
    """Providers that refused them."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node at a glance. `state` is starting, ready, draining or read-only; `problems` come first for people."""

    peer_id: str
    state: str
    listen: tuple[str, ...]
    http: tuple[str, ...]
    peers: int
    documents: int
    chunks: int
    bytes: int
    free_bytes: int
    uptime_s: float
    version: str
    pid: int
    organization: str
    region: str
    problems: tuple[str, ...] = ()
    certificate: CertificateState | None = None
    """Of a node that has one."""
    is_proven: bool = False
    """Whether the certificate proves the organisation now: by our CAs, and by what the log says of revocations."""
    trusted: tuple[str, ...] = ()
    """Other organisations that are trusted."""
    sync: SyncGlance | None = None
    """Of a node with a CA."""
    scrub: ScrubGlance | None = None
    """Where it is on."""
    cdn: CdnGlance | None = None
    """Where cdn.yaml names CDNs."""


@dataclass(frozen=True, slots=True)
class ShowStatus(Verb[NodeStatus]):
    """How the node is."""

    route: ClassVar[str] = "node/status"
    result: ClassVar[type] = NodeStatus


@dataclass(frozen=True, slots=True)
class StopNodeResult:
    """The node has begun to drain; the process ends within `within_s`."""

    pid: int
    within_s: float


@dataclass(frozen=True, slots=True)
class StopNode(Verb[StopNodeResult]):
    """Drain and end the node."""

    route: ClassVar[str] = "node/stop"
    result: ClassVar[type] = StopNodeResult
    mutates: ClassVar[bool] = True
