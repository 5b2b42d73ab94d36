"""CAR archives in and out of the store. Blocking code; the format itself is `car`.

On the way in every block passes the store's gate, and a root becomes a document only with blocks that the archive
itself brought: naming a CID grants nothing (design D7).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass

from rage_net.chunk import car, manifest
from rage_net.chunk.documents import Document, Documents
from rage_net.chunk.holds import Lease
from rage_net.chunk.store import ChunkStore
from rage_net.cid import Cid
from rage_net.errors import IntegrityError, NotFoundError
from rage_net.verbs import Progress, Sink, Source
from rage_net.verbs.chunk import ExportChunkResult, Visibility

READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Imported:
    """What an archive brought. `skipped` counts blocks and roots of hashes or codecs that rage does not keep."""

    documents: tuple[Document, ...]
    blocks: int
    new_blocks: int
    skipped: int
    size: int


def export_archive(
    store: ChunkStore, root: Cid, sink: Sink, progress: Callable[[Progress], None], cancelled: Callable[[], bool]
) -> ExportChunkResult:
    """Write a root and all its blocks to `sink`. Raises NotFoundError, before a byte went, when a block is not here."""
    blocks = 0
    size = len(car.encode_header([root]))
    for cid in manifest.blocks(root, store.get):
        size += car.section_bytes(store.stat(cid).size)
        blocks += 1
    sink.begin(size)
    done = 0
    for buffer in car.export(root, store.get):
        if cancelled():
            raise CancelledError
        sink.write(buffer)
        done += len(buffer)
        progress(Progress(done, size))
    return ExportChunkResult(root=str(root), blocks=blocks, bytes=size, path="")


def import_archive(
    store: ChunkStore,
    documents: Documents,
    source: Source,
    *,
    organisation: str,
    owner: str,
    name: str,
    tags: Sequence[str],
    visibility: Visibility,
    progress: Callable[[Progress], None],
    cancelled: Callable[[], bool],
) -> Imported:
    """Read an archive; each of its roots becomes a document, `name` goes to the first.

    Raises: IntegrityError for a broken archive, for a block that does not match its CID, and for a root whose blocks
    are not all in the archive. Then no document is recorded.
    """
    reader = car.CarReader()
    buffer = bytearray(READ_BYTES)
    blocks = new_blocks = size = 0
    made: list[Document] = []
    with documents.lease(organisation) as brought:
        ended = False
        while not ended:
            with store.batch(lease=brought) as batch:
                while not ended and not batch.is_full:
                    if cancelled():
                        raise CancelledError
                    count = source.readinto(memoryview(buffer)) or 0
                    ended = count == 0
                    for block in reader.receive(memoryview(buffer)[:count]):
                        batch.add(block.cid, block.data)
                        blocks += 1
                        size += len(block.data)
                new_blocks += batch.commit()
            progress(Progress(size))
        reader.finish()
        roots = [(root, *_measure(store, brought, root)) for root in dict.fromkeys(reader.roots)]
        for root, root_size, chunks in roots:
            with documents.lease(organisation) as lease:
                lease.hold(manifest.blocks(root, store.get), counts=True)
                made.append(
                    documents.put(
                        lease,
                        root,
                        size=root_size,
                        chunks=chunks,
                        name="" if made else name,
                        owner=owner,
                        visibility=visibility,
                        tags=tags,
                    )
                )
    return Imported(tuple(made), blocks, new_blocks, reader.skipped + reader.foreign_roots, size)


def _measure(store: ChunkStore, brought: Lease, root: Cid) -> tuple[int, int]:
    """Bytes and chunks of a root, all of whose blocks the archive brought. Raises IntegrityError."""
    try:
        for cid in manifest.blocks(root, store.get):
            if not brought.has(cid):
                raise NotFoundError(str(cid))
        if not root.is_manifest():
            return store.stat(root).size, 1
        size = chunks = 0
        for piece in manifest.pieces(root, store.get):
            size += piece.size
            chunks += 1
    except NotFoundError as error:
        raise IntegrityError(
            f"the archive does not hold all of its root {root}", why=error.message, id="archive-incomplete"
        ) from error
    return size, chunks
