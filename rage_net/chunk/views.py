"""What operators see of the store: documents, chunks and roots as the verbs' results. Blocking code.

Not here: how the results look (the command line), what changes the store (documents, ingest, gc).
"""

from __future__ import annotations

from rage_net.chunk import manifest
from rage_net.chunk.documents import Document, Documents
from rage_net.chunk.holds import count_holds
from rage_net.chunk.stat import Stat
from rage_net.chunk.store import ChunkStore
from rage_net.cid import Cid, CidError
from rage_net.errors import NotFoundError, UsageError
from rage_net.verbs import chunk as verbs

PAGE_MAX = 1000


def show_document(document: Document) -> verbs.Document:
    """A catalog record as operators see it."""
    return verbs.Document(
        doc_id=document.doc_id,
        root=str(document.root),
        name=document.name,
        size=document.size,
        chunks=document.chunks,
        owner=document.owner,
        visibility=document.visibility,
        tags=document.tags,
        created_at=document.created_at,
        expires_at=document.expires_at,
    )


def find_root(documents: Documents, ref: str) -> Cid:
    """The root that a CID, document id or name means; a CID need not be here.

    Raises: NotFoundError; UsageError when a name means documents of several roots.
    """
    try:
        return Cid.parse(ref)
    except CidError as no_cid:
        try:
            found = documents.resolve(ref)
        except NotFoundError as error:
            looks_like_cid = ref.startswith(("baf", "Qm"))
            raise NotFoundError(
                f"no document {ref!r} here",
                why=str(no_cid) if looks_like_cid else "it is no CID, and no id or name of a document of this node",
                mend=["rage chunk list"],
                id="document-not-found",
            ) from error
    roots = {document.root for document in found}
    if len(roots) > 1:
        raise UsageError(
            f"{ref!r} means {len(roots)} documents",
            mend=[f"rage chunk get {document.doc_id}" for document in found[:3]],
        )
    return found[0].root


def list_chunks(store: ChunkStore, documents: Documents, verb: verbs.ListChunks) -> verbs.ListChunksResult:
    """A page of documents, or of chunks, in order. Raises UsageError for a cursor that is none."""
    limit = max(1, min(verb.limit, PAGE_MAX))
    if not verb.chunks:
        page, cursor = documents.list(after=verb.cursor, limit=limit, tag=verb.tag, prefix=verb.prefix)
        return verbs.ListChunksResult((), tuple(map(show_document, page)), cursor)
    try:
        after = Cid.parse(verb.cursor) if verb.cursor else None
    except CidError as error:
        raise UsageError(f"{verb.cursor!r} is no cursor of this list", why=str(error)) from None
    stats = store.list(after, limit)
    rows = tuple(_row(store, stat) for stat in stats if str(stat.cid).startswith(verb.prefix))
    return verbs.ListChunksResult(rows, (), str(stats[-1].cid) if len(stats) == limit else "")


def stat_root(store: ChunkStore, documents: Documents, ref: str) -> verbs.StatChunkResult:
    """What is known of one root, chunk or document. Raises NotFoundError when nothing of it is here."""
    root = find_root(documents, ref)
    stat = store.stat(root)
    try:
        records = documents.resolve(str(root))
    except NotFoundError:
        records = []
    size, stored, chunks, present = stat.size, stat.stored, 1, 1
    if root.is_manifest():
        size = chunks = present = 0
        for piece in manifest.pieces(root, store.get):
            chunks += 1
            size += piece.size
            try:
                stored += store.stat(piece.cid).stored
                present += 1
            except NotFoundError:
                continue
    return verbs.StatChunkResult(
        cid=str(root),
        kind="manifest" if root.is_manifest() else "chunk",
        size=size,
        stored=stored,
        encoding=stat.encoding,
        cached=stat.cached,
        pinned=documents.is_pinned(root),
        chunks=chunks,
        present=present,
        documents=tuple(map(show_document, records)),
    )


def remove_documents(documents: Documents, verb: verbs.RemoveChunk) -> verbs.RemoveChunkResult:
    """Remove the documents that `ref` means. Raises NotFoundError for none."""
    found = documents.resolve(verb.ref)
    released = 0
    for document in found:
        _, size = documents.measure_release(document)
        released += size
        if not verb.dry_run:
            documents.remove(document)
    return verbs.RemoveChunkResult(tuple(map(show_document, found)), released, verb.dry_run)


def pin_root(store: ChunkStore, documents: Documents, ref: str) -> verbs.PinResult:
    """Hold a root for good. Raises NotFoundError unless all of it is here."""
    root = find_root(documents, ref)
    with documents.lease() as lease:
        _require_all(store, root)
        lease.hold(manifest.blocks(root, store.get))
        _require_all(store, root)  # gc may have run between: now it cannot
        changed = documents.pin(lease, root)
    return verbs.PinResult(str(root), True, changed)


def _require_all(store: ChunkStore, root: Cid) -> None:
    for cid in manifest.blocks(root, store.get):
        if not store.has(cid):
            raise NotFoundError(
                f"{cid} of {root} is not here", mend=[f"rage chunk get {root} -o /dev/null"], id="chunk-not-found"
            )


def unpin_root(documents: Documents, ref: str) -> verbs.PinResult:
    """Let a root go; what else holds it still does."""
    root = find_root(documents, ref)
    return verbs.PinResult(str(root), False, documents.unpin(root))


def _row(store: ChunkStore, stat: Stat) -> verbs.ChunkRow:
    return verbs.ChunkRow(
        str(stat.cid), stat.size, stat.stored, stat.encoding, stat.cached, count_holds(store, stat.cid)
    )
