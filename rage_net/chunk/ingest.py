"""A document into the store: one streaming pass from anything with `readinto`, bounded memory, both cores.

The calling thread reads into a few reused buffers and finds the cuts; workers each hash, pack and write a chunk; one
commit for many chunks. Everything lands under a lease, which the caller turns into a document or a pin. Not here: where
cuts lie (split), what is durable when (store, batch), who may do it.
Source: feasibility.md "chunk put"; issue 2, section C.
"""

from __future__ import annotations

import os
import stat as file_modes
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from mmap import mmap

from rage_net.chunk.batch import Batch
from rage_net.chunk.holds import Lease
from rage_net.chunk.manifest import ManifestBuilder
from rage_net.chunk.split import DEFAULT_SIZES, Sizes, Splitter
from rage_net.chunk.stat import Stat
from rage_net.chunk.store import ChunkStore
from rage_net.cid import Cid
from rage_net.errors import ConflictError, UsageError
from rage_net.verbs import Progress, Source

BUFFERS = 3
"""One is read into while two are worked on. Reused: a fresh 16 MiB a block costs 20 % in page faults."""
BUFFER_BYTES = 16 * 1024 * 1024
"""Four of the largest chunks, so that the carried rest is a small part."""
WORKERS = 3
"""One more than the cores measured: one waits for the disk."""


@dataclass(frozen=True, slots=True)
class Ingested:
    """What is in the store now, under the lease.

    `chunks` counts the document's chunks without manifests, repeats included; `new_chunks` all blocks that the store
    did not have; `split` is how it was cut.
    """

    root: Cid
    size: int
    chunks: int
    new_chunks: int
    split: str


def ingest(
    source: Source,
    store: ChunkStore,
    lease: Lease,
    *,
    sizes: Sizes = DEFAULT_SIZES,
    expected_size: int | None = None,
    on_chunk: Callable[[Stat], None] = lambda stat: None,
    progress: Callable[[Progress], None] = lambda progress: None,
    cancelled: Callable[[], bool] = lambda: False,
    workers: int = WORKERS,
    buffer_bytes: int = BUFFER_BYTES,
) -> Ingested:
    """Cut, hash, pack and store all of `source`, with its manifest; durable when it returns.

    Args: expected_size: as the sender knows it. on_chunk: told of each chunk in the document's order, from the calling
        thread. progress: bytes cut. cancelled: asked once a block.
    Raises: ConflictError (`source-changed`) when the source is not as long as expected, or is a file that changed
        meanwhile; StorageFullError; OSError of the source; CancelledError. Chunks stored until then go with the lease.
    """
    before = _fingerprint(source)
    splitter = Splitter(sizes)
    size = 0
    with (
        ThreadPoolExecutor(workers, thread_name_prefix="rage-ingest") as pool,
        _Intake(store, lease, pool, on_chunk, splitter) as intake,
    ):
        for block, lengths in _blocks(
            source, splitter, intake.drain, _buffer_bytes(buffer_bytes, splitter, expected_size)
        ):
            if cancelled():
                raise CancelledError
            at = 0
            for length in lengths:
                intake.start(block[at : at + length])
                at += length
            size += at
            progress(Progress(size, expected_size))
        intake.drain(0)
        if _fingerprint(source) != before or expected_size not in (None, size):
            raise ConflictError(
                "the source changed while it was read",
                why=f"{size} bytes came, {size if expected_size is None else expected_size} were expected",
                mend=("put it again when nobody writes to it",),
                id="source-changed",
            )
        root = intake.finish()
    return Ingested(root, size, intake.chunks, intake.new_chunks, splitter.scheme)


class _Intake:
    """Chunks in work, in the document's order, and the batch they go into."""

    def __init__(
        self,
        store: ChunkStore,
        lease: Lease,
        pool: ThreadPoolExecutor,
        on_chunk: Callable[[Stat], None],
        splitter: Splitter,
    ) -> None:
        self.chunks = 0
        self.new_chunks = 0
        self._store = store
        self._lease = lease
        self._pool = pool
        self._on_chunk = on_chunk
        self._splitter = splitter
        self._builder: ManifestBuilder | None = None
        self._working: deque[Future[Stat]] = deque()
        self._batch = store.batch(lease=lease)
        self._commit: Future[int] | None = None

    def __enter__(self) -> _Intake:
        return self

    def __exit__(self, *_: object) -> None:
        for future in self._working:
            future.cancel()
        wait([*self._working, *([self._commit] if self._commit else ())])
        self._batch.__exit__()

    def start(self, data: memoryview) -> None:
        """Hand a chunk to a worker."""
        self._working.append(self._pool.submit(self._batch.add_data, data))

    def drain(self, most: int) -> None:
        """Wait until at most `most` chunks are in work: the oldest are done then, and known to the manifest."""
        while len(self._working) > most:
            self._done(self._working.popleft().result())
        if self._batch.is_full:
            self._turn_over()

    def finish(self) -> Cid:
        """Store the manifests and commit what is left; the root."""
        if self._builder is None:
            raise ValueError("a document has at least one chunk")
        root, blocks = self._builder.finish()
        for block in blocks:
            self._batch.add(block.cid, block.data)
        if self._commit is not None:
            self.new_chunks += self._commit.result()
        self.new_chunks += self._batch.commit(self._pool.map)
        return root

    def _done(self, stat: Stat) -> None:
        if self._builder is None:
            self._builder = ManifestBuilder(self._splitter.scheme)
        self.chunks += 1
        self._on_chunk(stat)
        try:
            full = self._builder.add(stat.cid, stat.size)
        except ValueError as error:
            raise UsageError(str(error)) from error
        if full is not None:
            self._batch.add(full.cid, full.data)

    def _turn_over(self) -> None:
        """Commit the full batch in the pool while the next one fills; one such commit at a time."""
        while self._working:
            self._done(self._working.popleft().result())
        if self._commit is not None:
            self.new_chunks += self._commit.result()
        self._commit = self._pool.submit(_commit, self._batch)
        self._batch = self._store.batch(lease=self._lease)


def _commit(batch: Batch) -> int:
    with batch:
        return batch.commit()


def _blocks(
    source: Source, splitter: Splitter, drain: Callable[[int], None], buffer_bytes: int
) -> Iterator[tuple[memoryview, list[int]]]:
    """Views that begin at a cut, with the lengths of the chunks complete in them. A view is good until BUFFERS more.

    `drain(n)` waits until only the newest n chunks use their views.
    """
    buffers: deque[tuple[memoryview, int]] = deque()  # the oldest first, each with how many chunks were cut from it
    rest, at_end = memoryview(b""), False
    while not at_end:
        if len(buffers) < BUFFERS:
            buffer = memoryview(mmap(-1, buffer_bytes))  # anonymous pages, touched as they are used
        else:
            buffer, _ = buffers.popleft()
            drain(sum(count for _, count in buffers))
        filled = len(rest)
        buffer[:filled] = rest
        while filled < buffer_bytes and not at_end:
            count = source.readinto(buffer[filled:])
            if count is None:
                raise BlockingIOError("the source does not block: it cannot be read to its end")
            at_end = count == 0
            filled += count
        lengths = splitter.cuts(buffer[:filled], at_end)
        yield buffer[:filled], lengths
        rest = buffer[sum(lengths) : filled]
        buffers.append((buffer, len(lengths)))


def _buffer_bytes(wanted: int, splitter: Splitter, expected_size: int | None) -> int:
    """`wanted`, less for a source that is known to be small, never less than the splitter needs."""
    if expected_size is not None:
        wanted = min(wanted, expected_size + 1)
    return max(wanted, 2 * splitter.lookahead)


def _fingerprint(source: Source) -> tuple[int, int] | None:
    """Size and time of change of a regular file; None for a source that is none."""
    try:
        status = os.fstat(source.fileno())  # type: ignore[attr-defined]
    except (AttributeError, OSError):  # no file; io.UnsupportedOperation is an OSError
        return None
    return (status.st_size, status.st_mtime_ns) if file_modes.S_ISREG(status.st_mode) else None
