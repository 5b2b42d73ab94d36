"""Verbs of the noun chunk, and of the documents that hold chunks. Sizes are bytes, times seconds since the epoch."""

from __future__ import annotations

from typing import ClassVar, Literal

from rage_net.verbs import Verb, dataclass

Visibility = Literal["public", "federated", "org", "private"]
Source = Literal["local", "cdn", "p2p"]


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """One chunk as a document names it: its CID, its plain size, and the bytes it takes at rest."""

    cid: str
    size: int
    stored: int


@dataclass(frozen=True, slots=True)
class Document:
    """A catalog record: a name and rules for one root. `expires_at` None keeps it for ever."""

    doc_id: str
    root: str
    name: str
    size: int
    chunks: int
    owner: str
    visibility: Visibility
    tags: tuple[str, ...]
    created_at: float
    expires_at: float | None


CHUNKS_LISTED_MAX = 65_536
"""Chunks that one result names: some 64 GiB, and 20 MiB while the put runs. A manifest lists them all."""


@dataclass(frozen=True, slots=True)
class PutChunkResult:
    """What was stored. `new_chunks` counts those that the store did not have.

    `chunks` are the document's first CHUNKS_LISTED_MAX, `total_chunks` counts all.
    """

    root: str
    doc_id: str
    size: int
    chunks: tuple[StoredChunk, ...]
    new_chunks: int
    name: str
    total_chunks: int = 0
    replicas: tuple[str, ...] = ()
    """Nodes that have proved chunks of it, each chunk by as many as were waited for; only where it was."""
    wanted: int = 0
    """Nodes that should hold it by its policy; 0 where nothing was waited for."""


@dataclass(frozen=True, slots=True)
class PutChunk(Verb[PutChunkResult]):
    """Cut the octets sent along into chunks, store them durably, and record a document. A known name moves."""

    route: ClassVar[str] = "chunk/put"
    result: ClassVar[type] = PutChunkResult
    octets_in: ClassVar[bool] = True
    mutates: ClassVar[bool] = True

    name: str = ""
    tags: tuple[str, ...] = ()
    retention_s: float | None = None
    visibility: Visibility = "org"
    size: int | None = None
    """How many octets will come, where the caller knows: a file that changes while it is read is then found out."""
    policy: str = ""
    """The replication policy that its record names; without one its tags, retention and use choose."""
    cdn: str = ""
    """How it may go to CDNs while it is not public, encrypted or none; empty leaves a known document as it is."""
    wait: int = 0
    """Answer when so many nodes have proved that they hold all of it."""
    wait_s: float = 0.0
    """Time for that, from the beginning of the verb. After it a DeadlineError says how many have: it is stored."""


@dataclass(frozen=True, slots=True)
class GetChunkResult:
    """What was fetched; `sources` counts chunks by where they came from."""

    root: str
    size: int
    path: str
    sources: dict[str, int]
    seconds: float


@dataclass(frozen=True, slots=True)
class GetChunk(Verb[GetChunkResult]):
    """The bytes of a chunk or document, verified. `ref` is a CID, a document id or a name."""

    route: ClassVar[str] = "chunk/get"
    result: ClassVar[type] = GetChunkResult
    octets_out: ClassVar[bool] = True

    ref: str
    peers: tuple[str, ...] = ()
    """Multiaddrs with `/p2p/`, dialled and asked first."""
    sources: tuple[Source, ...] = ("local", "cdn", "p2p")
    raw: bool = False
    """The block itself: a manifest is not joined."""
    cache: bool = True
    """Keep what is fetched in the local store, as cache."""


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """One chunk of the store. `held_by` counts documents, pins, and being a replica; `cached` chunks may be evicted."""

    cid: str
    size: int
    stored: int
    encoding: str
    cached: bool
    held_by: int


@dataclass(frozen=True, slots=True)
class ListChunksResult:
    """A page. `cursor` continues the list; empty at its end."""

    items: tuple[ChunkRow, ...]
    documents: tuple[Document, ...]
    cursor: str = ""


@dataclass(frozen=True, slots=True)
class ListChunks(Verb[ListChunksResult]):
    """Documents (the default) or, with `chunks`, every chunk of the store; in order, a page at a time.

    With `catalog` the documents that the organisation's log knows, here or not.
    """

    route: ClassVar[str] = "chunk/list"
    result: ClassVar[type] = ListChunksResult

    chunks: bool = False
    tag: str = ""
    prefix: str = ""
    limit: int = 1000
    cursor: str = ""
    catalog: bool = False


@dataclass(frozen=True, slots=True)
class StatChunkResult:
    """What is known of one CID, document id or name. `present` counts the root's chunks that are here."""

    cid: str
    kind: Literal["chunk", "manifest"]
    size: int
    stored: int
    encoding: str
    cached: bool
    pinned: bool
    chunks: int
    present: int
    documents: tuple[Document, ...]


@dataclass(frozen=True, slots=True)
class StatChunk(Verb[StatChunkResult]):
    """Look at one chunk or document of the local store."""

    route: ClassVar[str] = "chunk/stat"
    result: ClassVar[type] = StatChunkResult

    ref: str


@dataclass(frozen=True, slots=True)
class RemoveChunkResult:
    """Documents that are gone; their chunks go at a gc after the grace time, unless something else holds them."""

    removed: tuple[Document, ...]
    released_bytes: int
    dry_run: bool
    everywhere: bool = False
    acknowledged: tuple[str, ...] = ()
    """With `everywhere`: peer ids of nodes of the organisation that have seen the removal."""
    awaiting: tuple[str, ...] = ()
    """Those that have not yet, as far as this node knows them."""


@dataclass(frozen=True, slots=True)
class RemoveChunk(Verb[RemoveChunkResult]):
    """Remove a document (by id, name, or root: then all documents of that root).

    With `everywhere` a signed tombstone makes every node of the organisation drop it; `wait_s` waits until all known
    ones have seen it, at most so long: 0 does not wait.
    """

    route: ClassVar[str] = "chunk/rm"
    result: ClassVar[type] = RemoveChunkResult
    mutates: ClassVar[bool] = True

    ref: str
    dry_run: bool = False
    everywhere: bool = False
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class BadChunk:
    """A chunk that failed a check: `reason` is rot, missing or unreadable."""

    cid: str
    reason: str


@dataclass(frozen=True, slots=True)
class VerifyChunksResult:
    """How many chunks were re-hashed and which were bad; those were put into quarantine."""

    checked: int
    bytes: int
    bad: tuple[BadChunk, ...]
    seconds: float
    elsewhere: int = 0
    """Of the document's, those that are not kept here and need not be: other nodes have them."""


@dataclass(frozen=True, slots=True)
class VerifyChunks(Verb[VerifyChunksResult]):
    """Re-hash chunks of the local store: all, a share of them, or those of one document."""

    route: ClassVar[str] = "chunk/verify"
    result: ClassVar[type] = VerifyChunksResult

    ref: str = ""
    sample: float = 1.0
    """The share of chunks to check, above 0 to 1."""


@dataclass(frozen=True, slots=True)
class PinResult:
    """Whether the root is pinned now, and whether that changed."""

    cid: str
    pinned: bool
    changed: bool


@dataclass(frozen=True, slots=True)
class PinChunk(Verb[PinResult]):
    """Hold a root and all its chunks, document or not; `ref` must be here."""

    route: ClassVar[str] = "chunk/pin"
    result: ClassVar[type] = PinResult
    mutates: ClassVar[bool] = True

    ref: str


@dataclass(frozen=True, slots=True)
class UnpinChunk(Verb[PinResult]):
    """Let a pinned root go."""

    route: ClassVar[str] = "chunk/unpin"
    result: ClassVar[type] = PinResult
    mutates: ClassVar[bool] = True

    ref: str


@dataclass(frozen=True, slots=True)
class CollectGarbageResult:
    """What nothing held for the grace time. With `dry_run` nothing was deleted and `plan_id` names the plan."""

    chunks: int
    bytes: int
    expired_documents: int
    waiting: int
    plan_id: str
    dry_run: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class CollectGarbage(Verb[CollectGarbageResult]):
    """Delete chunks that nothing holds and that were let go longer than the grace time ago."""

    route: ClassVar[str] = "chunk/gc"
    result: ClassVar[type] = CollectGarbageResult
    mutates: ClassVar[bool] = True

    dry_run: bool = False
    plan: str = ""
    """Run this plan of a dry run, or fail with a conflict because the store moved on."""
    grace_s: float | None = None
    """Instead of the configured grace time."""
    cache: bool = False
    """Evict cached chunks too."""


@dataclass(frozen=True, slots=True)
class ExportChunkResult:
    """What went into the archive."""

    root: str
    blocks: int
    bytes: int
    path: str


@dataclass(frozen=True, slots=True)
class ExportChunk(Verb[ExportChunkResult]):
    """A CAR (version 1) of a root and all its blocks; every block must be here."""

    route: ClassVar[str] = "chunk/export"
    result: ClassVar[type] = ExportChunkResult
    octets_out: ClassVar[bool] = True

    ref: str


@dataclass(frozen=True, slots=True)
class ImportChunksResult:
    """Roots that were read. `skipped` counts blocks of hashes or codecs that rage does not keep."""

    roots: tuple[str, ...]
    documents: tuple[Document, ...]
    blocks: int
    new_blocks: int
    skipped: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ImportChunks(Verb[ImportChunksResult]):
    """Read a CAR: its blocks pass the same gate as all bytes from outside, and each root becomes a document."""

    route: ClassVar[str] = "chunk/import"
    result: ClassVar[type] = ImportChunksResult
    octets_in: ClassVar[bool] = True
    mutates: ClassVar[bool] = True

    name: str = ""
    tags: tuple[str, ...] = ()
    visibility: Visibility = "org"


@dataclass(frozen=True, slots=True)
class ProviderRow:
    """A peer that has a root, or is said to. `state` is here, has, lacks, said (not asked itself) or unreachable."""

    peer_id: str
    state: str
    via: tuple[str, ...]
    """local, connected, dht or server: who named it."""
    addresses: tuple[str, ...]
    rtt_ms: float | None
    error: str


@dataclass(frozen=True, slots=True)
class ChunkProvidersResult:
    """The peers, those that have it first; `asked` holds each way that was tried and what it said."""

    root: str
    items: tuple[ProviderRow, ...]
    asked: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChunkProviders(Verb[ChunkProvidersResult]):
    """Who has a document or chunk: this store, connected peers, and those that the DHT names."""

    route: ClassVar[str] = "chunk/providers"
    result: ClassVar[type] = ChunkProvidersResult

    ref: str
    limit: int = 20
