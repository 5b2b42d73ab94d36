"""Verbs of the noun sync: an organisation's signed log, and how far nodes agree on it. Times are since the epoch."""

from __future__ import annotations

from typing import ClassVar, Literal

from rage_net.verbs import Verb, dataclass

EXPORT_BYTES_MAX = 1 << 30
"""Of an exported log."""


@dataclass(frozen=True, slots=True)
class SyncHead:
    """How far one chain goes: `sequence` envelopes of one author, of one of its incarnations (16 hex digits)."""

    author: str
    incarnation: str
    sequence: int
    hash: str
    is_own: bool


@dataclass(frozen=True, slots=True)
class SyncedPeer:
    """One exchange with one peer, about one organisation's log. `error` is empty when it went well."""

    peer_id: str
    organization: str
    received: int
    """Envelopes that were new here."""
    refused: int
    sent_bytes: int
    received_bytes: int
    seconds: float
    is_equal: bool
    """Whether both hold the same heads now, as far as the peer told."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class RunSyncResult:
    """One round: each peer asked, for each organisation's log."""

    peers: tuple[SyncedPeer, ...]


@dataclass(frozen=True, slots=True)
class RunSync(Verb[RunSyncResult]):
    """Exchange what is new with peers now: those named, or all that are connected and trusted with it."""

    route: ClassVar[str] = "sync/run"
    result: ClassVar[type] = RunSyncResult
    mutates: ClassVar[bool] = True

    peers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SyncPeerRow:
    """What is known of a peer's copy of our organisation's log."""

    peer_id: str
    organization: str
    synced_at: float
    """0 when never since the node's start."""
    behind: int
    """Envelopes of ours that it had not told of yet."""
    error: str


@dataclass(frozen=True, slots=True)
class OrganizationLog:
    """One organisation's log as it is here."""

    organization: str
    facts: int
    chains: int
    authors: int
    documents: int


@dataclass(frozen=True, slots=True)
class SyncStatus:
    """The logs at a glance, problems first. `epoch` is equal on nodes that agree."""

    organization: str
    state: Literal["open", "in sync", "catching up", "stale", "alone"]
    epoch: str
    synced_at: float
    """When we last agreed with a node of our own organisation; 0 never."""
    logs: tuple[OrganizationLog, ...]
    heads: tuple[SyncHead, ...]
    peers: tuple[SyncPeerRow, ...]
    conflicts: int
    forks: int
    refused: int
    """Envelopes refused since the node's start."""
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ShowSync(Verb[SyncStatus]):
    """How far this node and its peers agree."""

    route: ClassVar[str] = "sync/status"
    result: ClassVar[type] = SyncStatus


@dataclass(frozen=True, slots=True)
class LogRow:
    """One fact of the log. `counts` tells whether its author may say so, `in_force` whether nothing replaced it."""

    id: str
    organization: str
    author: str
    incarnation: str
    sequence: int
    lamport: int
    what: str
    resource: str
    text: str
    counts: bool
    in_force: bool


@dataclass(frozen=True, slots=True)
class ShowLogResult:
    """The newest first."""

    items: tuple[LogRow, ...]


@dataclass(frozen=True, slots=True)
class ShowLog(Verb[ShowLogResult]):
    """Facts of a log, the newest first: of our organisation's unless another is named."""

    route: ClassVar[str] = "sync/log"
    result: ClassVar[type] = ShowLogResult

    organization: str = ""
    resource: str = ""
    author: str = ""
    limit: int = 100


@dataclass(frozen=True, slots=True)
class DiffRow:
    """One chain of which the two sides hold different lengths, or different content."""

    author: str
    incarnation: str
    here: int
    there: int
    is_fork: bool


@dataclass(frozen=True, slots=True)
class DiffSyncResult:
    """Chains that differ; none when both agree."""

    peer_id: str
    organization: str
    items: tuple[DiffRow, ...]


@dataclass(frozen=True, slots=True)
class DiffSync(Verb[DiffSyncResult]):
    """Compare our log with a peer's, without changing either."""

    route: ClassVar[str] = "sync/diff"
    result: ClassVar[type] = DiffSyncResult

    peer: str


@dataclass(frozen=True, slots=True)
class ConflictFact:
    """One of the facts that contradict each other."""

    id: str
    author: str
    lamport: int
    text: str


@dataclass(frozen=True, slots=True)
class ConflictRow:
    """Facts about one thing whose authors had not seen each other's. `in_force` is what holds until it is resolved."""

    id: str
    organization: str
    resource: str
    subject: str
    """What they disagree about: `visibility`, or `<principal> <action>`."""
    strategy: str
    in_force: str
    is_queued: bool
    """Whether a person has to decide: the strategy is manual."""
    facts: tuple[ConflictFact, ...]


@dataclass(frozen=True, slots=True)
class ForkRow:
    """Evidence that an author wrote two envelopes with one sequence number. Nothing after it is applied."""

    author: str
    incarnation: str
    sequence: int
    hashes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ListConflictsResult:
    """Conflicts that want a person first, then those that a strategy resolved; and evidence of forks."""

    items: tuple[ConflictRow, ...]
    forks: tuple[ForkRow, ...]


@dataclass(frozen=True, slots=True)
class ListConflicts(Verb[ListConflictsResult]):
    """Concurrent facts that contradict each other: who wrote what."""

    route: ClassVar[str] = "sync/conflicts"
    result: ClassVar[type] = ListConflictsResult

    all: bool = False
    """Those too that a strategy has resolved."""


@dataclass(frozen=True, slots=True)
class ResolveConflictResult:
    """What holds now."""

    id: str
    resource: str
    subject: str
    in_force: str
    fact: str


@dataclass(frozen=True, slots=True)
class ResolveConflict(Verb[ResolveConflictResult]):
    """Decide a conflict: write a fact that has seen all of its facts. `keep` is a fact's id, or `restrictive`."""

    route: ClassVar[str] = "sync/resolve"
    result: ClassVar[type] = ResolveConflictResult
    mutates: ClassVar[bool] = True

    id: str
    keep: str = "restrictive"


@dataclass(frozen=True, slots=True)
class ExportSyncResult:
    """What was written."""

    organization: str
    envelopes: int
    size: int
    path: str = ""


@dataclass(frozen=True, slots=True)
class ExportSync(Verb[ExportSyncResult]):
    """Our organisation's log as octets, for a node that no network reaches."""

    route: ClassVar[str] = "sync/export"
    result: ClassVar[type] = ExportSyncResult
    octets_out: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class ImportSyncResult:
    """What was new. What was refused is named, with why."""

    organization: str
    received: int
    refused: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ImportSync(Verb[ImportSyncResult]):
    """Take an exported log. It is checked as if a stranger had sent it."""

    route: ClassVar[str] = "sync/import"
    result: ClassVar[type] = ImportSyncResult
    octets_in: ClassVar[bool] = True
    mutates: ClassVar[bool] = True

    size: int | None = None


@dataclass(frozen=True, slots=True)
class CompactSyncResult:
    """What is left: of `before` envelopes of our chains, `after` are still wanted."""

    organization: str
    before: int
    after: int
    dry_run: bool


@dataclass(frozen=True, slots=True)
class CompactSync(Verb[CompactSyncResult]):
    """Write what is still wanted of our own chains, or of a departed author's, into a new one, and close the old."""

    route: ClassVar[str] = "sync/compact"
    result: ClassVar[type] = CompactSyncResult
    mutates: ClassVar[bool] = True

    author: str = ""
    dry_run: bool = False
