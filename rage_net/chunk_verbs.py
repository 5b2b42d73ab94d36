"""The verbs of chunk: what each takes, in which order things are asked, and what it answers.

The engine takes `VERBS` into its own table. Documents, chunks and how they are cut stand in `chunk`; what becomes of
them in the log, at peers and at CDNs in `sharing`, `services.retrieval` and `exposing`. Source: issue 2; design 1, D2.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rage_net import replication_verbs, sharing
from rage_net.chunk import views
from rage_net.chunk.documents import check_words
from rage_net.cid import Cid
from rage_net.errors import NotFoundError, UnavailableError, UsageError
from rage_net.services.retrieval import Want
from rage_net.services.retrieval.counted import Counted
from rage_net.verbs import Verb
from rage_net.verbs import chunk as chunks

if TYPE_CHECKING:
    from rage_net.engine import Engine, Io

Cancelled = Callable[[], bool]


async def put_chunk(engine: Engine, verb: chunks.PutChunk, io: Io) -> chunks.PutChunkResult:
    """Cut, store and record what the caller's source gives; durable when it returns."""
    started = engine.env.monotonic()
    if engine.metadata is not None and engine.metadata.is_read_only:
        engine.metadata.require_writer()
    sharing.check_words(engine, verb.name, verb.tags)
    if verb.cdn:
        sharing.check_cdn(engine, verb.cdn)
    result = await engine.stoppable(functools.partial(_put, engine, verb, io))
    await sharing.publish(engine, result.doc_id)
    if verb.cdn:
        await sharing.rule_cdn(engine, result.doc_id, verb.cdn)
    if engine.metadata is None:
        await engine.reconsider_cdns([result.doc_id], is_ours=True)
    if verb.wait:
        within_s = verb.wait_s - (engine.env.monotonic() - started)
        replicas, wanted = await replication_verbs.wait_for_copies(
            engine, result.doc_id, verb.wait, within_s, io.report
        )
        result = replace(result, replicas=replicas, wanted=wanted)
    if verb.visibility == "public":
        engine.announce(Cid.parse(result.root))
    return result


async def get_chunk(engine: Engine, verb: chunks.GetChunk, io: Io) -> chunks.GetChunkResult:
    """Give the caller's sink the bytes of a root, verified, from here and from peers."""
    started = engine.env.monotonic()
    root = await sharing.find_root(engine, verb.ref)
    elsewhere = any(kind in verb.sources for kind in ("cdn", "p2p"))
    want = Want(root, not verb.raw, "local" in verb.sources, elsewhere, verb.cache)
    stages = functools.partial(engine.stages, root, verb.sources, verb.peers)
    try:
        outcomes = await engine.retrieval.fetch(want, stages, Counted(io.sink, io.report))
    except (NotFoundError, UnavailableError) as error:
        raise await sharing.explain_absence(engine, root, error) from error
    if outcomes.gave and outcomes.sources["local"] and want.join and want.cache:
        await sharing.count_local(engine, root)
    if want.join:
        await _count_use(engine, root)
    is_kept = bool(outcomes.gave) and want.join and want.cache
    if engine.serves and is_kept and await engine.env.blocking(engine.is_public, root):
        engine.announce(root, is_fetched=True)
        if outcomes.sources["p2p"]:
            engine.ways_in.note_fill(root)
    seconds = round(engine.env.monotonic() - started, 3)
    return chunks.GetChunkResult(str(root), outcomes.size, "", outcomes.sources, seconds)


async def list_chunks(engine: Engine, verb: chunks.ListChunks, io: Io) -> chunks.ListChunksResult:
    """Documents, or chunks, a page at a time."""
    if verb.catalog:
        return await sharing.list_catalog(engine, verb)
    return await engine.env.blocking(views.list_chunks, engine.store, engine.documents, verb)


async def stat_chunk(engine: Engine, verb: chunks.StatChunk, io: Io) -> chunks.StatChunkResult:
    """What is known here of one root."""
    return await engine.env.blocking(views.stat_root, engine.store, engine.documents, verb.ref)


async def remove_chunk(engine: Engine, verb: chunks.RemoveChunk, io: Io) -> chunks.RemoveChunkResult:
    """Remove documents; gc deletes what they held."""
    if verb.everywhere:
        return await sharing.remove_everywhere(engine, verb)
    removed = await engine.env.blocking(views.remove_documents, engine.documents, verb)
    engine.read_roots_anew()
    if not verb.dry_run:
        await engine.reconsider_cdns([document.doc_id for document in removed.removed], is_ours=True)
    return removed


async def verify_chunks(engine: Engine, verb: chunks.VerifyChunks, io: Io) -> chunks.VerifyChunksResult:
    """Re-hash what is stored; what is rotten goes to quarantine."""
    return await engine.stoppable(functools.partial(_verify, engine, verb, io))


async def pin_chunk(engine: Engine, verb: chunks.PinChunk, io: Io) -> chunks.PinResult:
    """Hold a root and all its chunks for good."""
    return await engine.env.blocking(views.pin_root, engine.store, engine.documents, verb.ref)


async def unpin_chunk(engine: Engine, verb: chunks.UnpinChunk, io: Io) -> chunks.PinResult:
    """Let a pinned root go."""
    return await engine.env.blocking(views.unpin_root, engine.documents, verb.ref)


async def collect_garbage(engine: Engine, verb: chunks.CollectGarbage, io: Io) -> chunks.CollectGarbageResult:
    """Delete what nothing has held for the grace time."""
    return await engine.stoppable(functools.partial(_collect, engine, verb, io))


async def export_chunk(engine: Engine, verb: chunks.ExportChunk, io: Io) -> chunks.ExportChunkResult:
    """A CAR of a root and all its blocks."""
    from rage_net.chunk.archive import export_archive

    root = await engine.env.blocking(views.find_root, engine.documents, verb.ref)
    return await engine.stoppable(functools.partial(export_archive, engine.store, root, io.sink, io.report))


async def import_chunks(engine: Engine, verb: chunks.ImportChunks, io: Io) -> chunks.ImportChunksResult:
    """Read a CAR; its roots become documents."""
    if engine.metadata is not None and engine.metadata.is_read_only:
        engine.metadata.require_writer()
    sharing.check_words(engine, verb.name, verb.tags)
    result = await engine.stoppable(functools.partial(_import, engine, verb, io))
    for document in result.documents:
        await sharing.publish(engine, document.doc_id)
    return result


async def _count_use(engine: Engine, root: Cid) -> None:
    """A document was asked for here: what is asked for often may come under another policy."""
    replicating = engine.replicating()
    if replicating is not None and engine.serves:
        for doc_id in await engine.env.blocking(replicating.inventory.documents_with, root):
            replicating.usage.used(doc_id, replicating.now())


# --- their blocking halves ---


def _put(engine: Engine, verb: chunks.PutChunk, io: Io, cancelled: Cancelled) -> chunks.PutChunkResult:
    from rage_net.chunk.put import put_document
    from rage_net.chunk.split import Sizes

    cut = engine.config.network.store.split
    return put_document(
        engine.store,
        engine.documents,
        io.source,
        verb,
        sizes=Sizes(cut.min_size, cut.target_size, cut.max_size),
        organization=engine.organization,
        owner=engine.peer_id_text(),
        clock=engine.env.now,
        progress=io.report,
        cancelled=cancelled,
    )


def _verify(engine: Engine, verb: chunks.VerifyChunks, io: Io, cancelled: Cancelled) -> chunks.VerifyChunksResult:
    from rage_net.chunk.verify import blocks_here, verify

    if not 0 < verb.sample <= 1:
        raise UsageError("a sample is above 0 and at most 1", mend=["--sample 5%"])
    cids = None
    if verb.ref:
        cids = blocks_here(engine.store, views.find_root(engine.documents, verb.ref))
    return verify(engine.store, cids, sample=verb.sample, progress=io.report, cancelled=cancelled)


def _collect(engine: Engine, verb: chunks.CollectGarbage, io: Io, cancelled: Cancelled) -> chunks.CollectGarbageResult:
    from rage_net.chunk.gc import collect

    grace_s = engine.config.network.store.grace if verb.grace_s is None else verb.grace_s
    return collect(
        engine.store,
        engine.documents,
        grace_s=grace_s,
        dry_run=verb.dry_run,
        plan=verb.plan,
        cache=verb.cache,
        progress=io.report,
        cancelled=cancelled,
    )


def _import(engine: Engine, verb: chunks.ImportChunks, io: Io, cancelled: Cancelled) -> chunks.ImportChunksResult:
    from rage_net.chunk.archive import import_archive

    check_words(verb.name, verb.tags)
    found = import_archive(
        engine.store,
        engine.documents,
        io.source,
        organisation=engine.organization,
        owner=engine.peer_id_text(),
        name=verb.name,
        tags=verb.tags,
        visibility=verb.visibility,
        progress=io.report,
        cancelled=cancelled,
    )
    documents = tuple(map(views.show_document, found.documents))
    roots = tuple(document.root for document in documents)
    return chunks.ImportChunksResult(roots, documents, found.blocks, found.new_blocks, found.skipped, found.size)


VERBS: dict[type[Verb[Any]], Callable[[Engine, Any, Io], Awaitable[Any]]] = {
    chunks.PutChunk: put_chunk,
    chunks.GetChunk: get_chunk,
    chunks.ListChunks: list_chunks,
    chunks.StatChunk: stat_chunk,
    chunks.RemoveChunk: remove_chunk,
    chunks.VerifyChunks: verify_chunks,
    chunks.PinChunk: pin_chunk,
    chunks.UnpinChunk: unpin_chunk,
    chunks.CollectGarbage: collect_garbage,
    chunks.ExportChunk: export_chunk,
    chunks.ImportChunks: import_chunks,
}
