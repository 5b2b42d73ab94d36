"""Storing a document whole: what `ingest` cuts and stores becomes one document, under one lease.

Blocking. A kill at any point leaves no document; what was stored by then is gc's.
"""

from __future__ import annotations

from collections.abc import Callable

from rage_net.chunk.documents import Documents, check_words
from rage_net.chunk.ingest import ingest
from rage_net.chunk.split import Sizes
from rage_net.chunk.stat import Stat
from rage_net.chunk.store import ChunkStore
from rage_net.errors import UsageError
from rage_net.verbs import Progress, Source
from rage_net.verbs import chunk as verbs


def put_document(
    store: ChunkStore,
    documents: Documents,
    source: Source,
    verb: verbs.PutChunk,
    *,
    sizes: Sizes,
    organization: str,
    owner: str,
    clock: Callable[[], float],
    progress: Callable[[Progress], None],
    cancelled: Callable[[], bool],
) -> verbs.PutChunkResult:
    """Cut, store and record what `source` gives; durable when it returns. A retention begins then. Raises RageError."""
    if verb.retention_s is not None and verb.retention_s <= 0:
        raise UsageError("a retention is above 0 seconds", mend=["--retention 30d"])
    check_words(verb.name, verb.tags)  # before gigabytes are read, not after
    stored: list[verbs.StoredChunk] = []

    def note(stat: Stat) -> None:
        if len(stored) < verbs.CHUNKS_LISTED_MAX:
            stored.append(verbs.StoredChunk(str(stat.cid), stat.size, stat.stored))

    with documents.lease(organization) as lease:
        found = ingest(
            source,
            store,
            lease,
            sizes=sizes,
            expected_size=verb.size,
            on_chunk=note,
            progress=progress,
            cancelled=cancelled,
        )
        document = documents.put(
            lease,
            found.root,
            size=found.size,
            chunks=found.chunks,
            name=verb.name,
            owner=owner,
            visibility=verb.visibility,
            tags=verb.tags,
            policy=verb.policy,
            expires_at=None if verb.retention_s is None else clock() + verb.retention_s,
        )
    return verbs.PutChunkResult(
        root=str(found.root),
        doc_id=document.doc_id,
        size=found.size,
        chunks=tuple(stored),
        new_chunks=found.new_chunks,
        name=document.name,
        total_chunks=found.chunks,
    )
