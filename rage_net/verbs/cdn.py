"""Verbs of the noun cdn: what CDNs keep of us, what is purged, and the proof. Times are seconds since the epoch."""

from __future__ import annotations

from typing import ClassVar, Literal

from rage_net.verbs import Verb, dataclass

TARGETS_MAX = 100_000
"""CIDs, documents, tags, prefixes and hosts of one purge."""
WAIT_S_MAX = 86_400.0
ROWS_MAX = 10_000

State = Literal["queued", "accepted", "done", "pending", "failed", "planned"]
"""accepted: the vendor took it and tells no more. pending: its end is asked for. planned: of a dry run."""


@dataclass(frozen=True, slots=True)
class PurgeRow:
    """One provider, one edge, one state: so many words (URLs, tags, ...) in so many calls."""

    provider: str
    edge: str
    state: State
    words: int
    calls: int
    tries: int = 0
    objects: int | None = None
    """Objects that went from that cache, where it says."""
    vendor_id: str = ""
    reason: str = ""
    code: str = ""
    mend: tuple[str, ...] = ()
    due_at: float = 0.0


@dataclass(frozen=True, slots=True)
class ProofRow:
    """One object asked through one edge after the purge. `proof`: gone, stays (it is served from before), unproven."""

    provider: str
    edge: str
    path: str
    proof: Literal["gone", "stays", "unproven"]
    evidence: str
    """The cache's own header line, and the status."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PurgeResult:
    """How a purge stands. `impossible`: what a provider has no way to purge. `seconds` of a dry run: by its quotas."""

    purge_id: str
    label: str
    asked_at: float
    cause: str
    rows: tuple[PurgeRow, ...]
    proofs: tuple[ProofRow, ...] = ()
    impossible: tuple[PurgeRow, ...] = ()
    dry_run: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PurgeCdn(Verb[PurgeResult]):
    """Purge at every CDN, or those named; journalled before anything is sent, and sent until it is done.

    `soft` None leaves it to each provider's configuration. `wait_s` above 0 waits for the end and for proof: objects
    are asked for through each edge, and the cache's own headers judged. `failed`: again what has failed and was not
    purged since, and nothing else.
    """

    route: ClassVar[str] = "cdn/purge"
    result: ClassVar[type] = PurgeResult
    mutates: ClassVar[bool] = True

    cids: tuple[str, ...] = ()
    docs: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    everything: bool = False
    providers: tuple[str, ...] = ()
    soft: bool | None = None
    wait_s: float = 0.0
    dry_run: bool = False
    failed: bool = False


@dataclass(frozen=True, slots=True)
class ListPurgesResult:
    """Purges, the newest first."""

    items: tuple[PurgeResult, ...]


@dataclass(frozen=True, slots=True)
class ListPurges(Verb[ListPurgesResult]):
    """The journal: what was asked and how it stands. `purge_id` shows one; `is_open` those that have not ended."""

    route: ClassVar[str] = "cdn/journal"
    result: ClassVar[type] = ListPurgesResult

    purge_id: str = ""
    is_open: bool = False
    limit: int = 20


@dataclass(frozen=True, slots=True)
class CdnRow:
    """One CDN. `hit_ratio` 0 to 1, None when it is not known; `waiting`: words that it has not been told of."""

    provider: str
    software: str
    edges: tuple[str, ...]
    public_urls: tuple[str, ...]
    regions: tuple[str, ...]
    priority: int
    hit_ratio: float | None
    basis: str
    hit_ratios: dict[str, float]
    quota_left: str
    waiting: int
    problem: str
    hint: str = ""
    """Why no hit ratio is known though nothing is wrong: nobody asked, or nothing that counts is configured."""


@dataclass(frozen=True, slots=True)
class CdnStatus:
    """The CDNs in the order in which they are asked."""

    items: tuple[CdnRow, ...]


@dataclass(frozen=True, slots=True)
class ShowCdn(Verb[CdnStatus]):
    """Each CDN: its hit ratio by its own figures, quota left, what waits, and what is wrong."""

    route: ClassVar[str] = "cdn/status"
    result: ClassVar[type] = CdnStatus

    hours: float = 24.0
    """Time back from now that hit ratios are of."""


@dataclass(frozen=True, slots=True)
class CheckRow:
    """One thing that was tried at one edge."""

    provider: str
    edge: str
    ok: bool
    message: str
    code: str = ""
    mend: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckCdnResult:
    """What was tried, in order."""

    items: tuple[CheckRow, ...]


@dataclass(frozen=True, slots=True)
class CheckCdn(Verb[CheckCdnResult]):
    """Whether credentials, ids, rights, edges and public hosts are right; nothing is changed.

    `ref` names a public document: it is asked for through every edge, which finds a public host that is another's.
    """

    route: ClassVar[str] = "cdn/check"
    result: ClassVar[type] = CheckCdnResult

    ref: str = ""
    providers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step with one object at one edge. `status` 0 when there was no answer."""

    provider: str
    edge: str
    step: str
    ok: bool
    status: int
    evidence: str
    seconds: float
    reason: str = ""
    is_pending: bool = False
    """Not ok yet: the vendor is at it, or its quota makes us wait."""
    purge_id: str = ""
    """Of a purge: its name in the journal, which knows how it ends."""


@dataclass(frozen=True, slots=True)
class TestCdnResult:
    """The steps in order."""

    items: tuple[StepRow, ...]


@dataclass(frozen=True, slots=True)
class TestCdn(Verb[TestCdnResult]):
    """Put a public probe, get it twice through every edge, purge it, get it again, remove it: what the caches say.

    `timeout_s`: all of it, the wait for a vendor that takes minutes among it; 0 waits a minute for the purge.
    """

    route: ClassVar[str] = "cdn/test"
    result: ClassVar[type] = TestCdnResult
    mutates: ClassVar[bool] = True

    providers: tuple[str, ...] = ()
    timeout_s: float = 0.0


@dataclass(frozen=True, slots=True)
class WarmRow:
    """One edge: so many objects it had, it fetched, or it did not give; `bytes` of those that it gave."""

    provider: str
    edge: str
    hits: int
    fills: int
    failed: int
    bytes: int
    reason: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class WarmCdnResult:
    """Each edge that was asked."""

    objects: int
    items: tuple[WarmRow, ...]


@dataclass(frozen=True, slots=True)
class WarmCdn(Verb[WarmCdnResult]):
    """Ask for all blocks of public documents through every edge, so that it has them when readers come."""

    route: ClassVar[str] = "cdn/warm"
    result: ClassVar[type] = WarmCdnResult
    mutates: ClassVar[bool] = True

    refs: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PublishRow:
    """One bucket: objects that were put, that were there, that could not be put."""

    provider: str
    bucket: str
    put: int
    existed: int
    failed: int
    bytes: int
    reason: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class PublishCdnResult:
    """Each bucket. `objects` counts blocks of the document, its manifests included."""

    root: str
    objects: int
    bytes: int
    items: tuple[PublishRow, ...]
    dry_run: bool
    is_current: bool = False
    """Of a sealed document: it has not changed since it was sealed; only buckets that lacked it were filled."""


@dataclass(frozen=True, slots=True)
class PublishCdn(Verb[PublishCdnResult]):
    """Push a public document to the buckets that CDNs read, write-once; what is not public is refused."""

    route: ClassVar[str] = "cdn/publish"
    result: ClassVar[type] = PublishCdnResult
    mutates: ClassVar[bool] = True

    ref: str
    providers: tuple[str, ...] = ()
    dry_run: bool = False
