"""Garbage collection: delete what nothing has held for the grace time, a bounded batch at a time, beside writers.

Nothing is scanned for: the index keeps released chunks in an order of their own. A batch is one short transaction that
looks again at each chunk, so what a put has held or claimed meanwhile stays. Also swept: leases of dead processes,
expired documents, temporary files, and files without a row (what a crash between two steps leaves).
Source: peers.md 7 to 10; design D11; issue 2, section C.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from blake3 import blake3

from rage_net.chunk.documents import Documents
from rage_net.chunk.files import SHARDS
from rage_net.chunk.holds import finish_release
from rage_net.chunk.stat import Stat, find
from rage_net.chunk.store import DELETE_BATCH, ChunkStore
from rage_net.cid import Cid
from rage_net.errors import ConflictError
from rage_net.verbs import Progress
from rage_net.verbs.chunk import CollectGarbageResult

STRAYS_MAX = 10_000
"""Temporary files removed in one run."""
SWEEP_CHUNKS_MAX = 50_000
"""Up to so many chunks a run looks for files without rows in every shard; in a larger store in SWEEP_SHARDS of them,
others at each run, so that a run stays short."""
SWEEP_SHARDS = 16


def collect(
    store: ChunkStore,
    documents: Documents,
    *,
    grace_s: float,
    dry_run: bool = False,
    plan: str = "",
    cache: bool = False,
    progress: Callable[[Progress], None] = lambda progress: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> CollectGarbageResult:
    """Remove expired documents and delete released chunks; with `cache`, cached ones too, however young.

    `dry_run` changes nothing and names what would go with a plan id. `plan`, such an id, deletes exactly that, or
    raises ConflictError because the store has moved since. Chunks of documents that expire in this run begin their
    grace time now. `cancelled` is asked between batches, and between what else takes time. What went, counts and bytes
    at rest, is in the result.
    """
    started, now = store.env.monotonic(), store.env.now()
    cutoff, cache = _read_plan(plan) if plan else (math.ceil((now - grace_s) * 1000) / 1000, cache)
    if dry_run or plan:
        expired = documents.expired()
        chunks, size, plan_id = _plan(store, cutoff, cache, [document.doc_id for document in expired])
        if plan and plan_id != plan:
            raise ConflictError(
                f"plan {plan} no longer fits",
                why="the store has moved since it was made",
                mend=("rage chunk gc --dry-run",),
            )
        if dry_run:
            waiting = _count_released(store) - chunks
            return CollectGarbageResult(
                chunks, size, len(expired), waiting, plan_id, True, store.env.monotonic() - started
            )
    expired_count = _release_leftovers(store, documents, now, cancelled)
    chunks = size = 0
    for page in _released(store, cutoff, cache):
        gone = store.discard([stat.cid for stat in page], before=None if page[0].cached else cutoff)
        chunks += len(gone)
        size += sum(stat.stored for stat in gone)
        progress(Progress(chunks, None, "chunks"))
        if cancelled():
            break
    _sweep(store, cancelled)
    store.index.restore_ballast()
    return CollectGarbageResult(
        chunks, size, expired_count, _count_released(store), plan, False, store.env.monotonic() - started
    )


def _released(store: ChunkStore, cutoff: float, cache: bool) -> Iterator[list[Stat]]:
    """Pages of what may go, oldest first: durable chunks released by `cutoff`; with `cache` all cached ones too."""
    for cached, before in ((0, cutoff), (1, float("inf")))[: 2 if cache else 1]:
        released, last = float("-inf"), 0
        while True:
            with store.index.read() as db:
                rows = db.execute(
                    "SELECT cid, size, stored, encoding, cached, released_at, id FROM chunk"
                    " WHERE cached = ? AND released_at IS NOT NULL AND released_at <= ? AND (released_at, id) > (?, ?)"
                    " ORDER BY released_at, id LIMIT ?",
                    (cached, before, released, last, DELETE_BATCH),
                ).fetchall()
            if not rows:
                break
            yield [Stat(Cid.from_bytes(row[0]), row[1], row[2], row[3], bool(row[4])) for row in rows]
            released, last = rows[-1][5:]


def _count_released(store: ChunkStore) -> int:
    """Durable chunks that nothing holds."""
    with store.index.read() as db:
        row: tuple[int] = db.execute(
            "SELECT count(*) FROM chunk WHERE cached = 0 AND released_at IS NOT NULL"
        ).fetchone()
    return row[0]


def _plan(store: ChunkStore, cutoff: float, cache: bool, expired: list[str]) -> tuple[int, int, str]:
    """Chunks, bytes at rest, and the plan's id: the moment it is of, and a hash of all it would delete."""
    digest, chunks, size = blake3("\n".join(expired).encode()), 0, 0
    for page in _released(store, cutoff, cache):
        for stat in page:
            digest.update(bytes(stat.cid))
            chunks += 1
            size += stat.stored
    return chunks, size, f"gc-{round(cutoff * 1000):x}-{int(cache)}-{digest.hexdigest(8)}"


def _read_plan(plan: str) -> tuple[float, bool]:
    try:
        _, rest = plan.split("gc-", 1)
        cutoff, cache, _ = rest.rsplit("-", 2)
        return int(cutoff, 16) / 1000, cache == "1"
    except ValueError:
        raise ConflictError(f"{plan!r} is no plan of gc", mend=("rage chunk gc --dry-run",)) from None


def _release_leftovers(store: ChunkStore, documents: Documents, now: float, cancelled: Callable[[], bool]) -> int:
    """Let go for holders that no longer can: half-released ones, leases of dead processes, expired documents."""
    with store.index.read() as db:
        left = db.execute(
            "SELECT id FROM holder WHERE kind IN ('lease', 'gone') AND (kind = 'gone' OR session <> ?)",
            (store.session,),
        ).fetchall()
    for holder in [*(row[0] for row in left), *store.lost_leases]:
        if cancelled():
            return 0
        finish_release(store, holder, now)
        store.lost_leases.discard(holder)
    count = 0
    while expired := documents.expired():
        for document in expired:
            if cancelled():
                return count
            count += documents.remove(document)
    return count


def _sweep(store: ChunkStore, cancelled: Callable[[], bool]) -> None:
    """Remove temporary files of dead processes, and files that no row names."""
    store.bodies.sweep(STRAYS_MAX)
    first, count = int(store.env.now()) % SHARDS, SHARDS
    if store.totals().chunks > SWEEP_CHUNKS_MAX:
        count = SWEEP_SHARDS
    for number in range(first, first + count):
        if cancelled():
            return
        sweep_shard(store, number % SHARDS)


def sweep_shard(store: ChunkStore, number: int) -> int:
    """Delete the files of one shard that no row names; how many went."""
    found = store.bodies.shard(number)
    gone = 0
    for start in range(0, len(found), DELETE_BATCH):
        with store.index.lock, store.index.read() as db:  # nothing is published meanwhile: no row means an orphan
            orphans = [cid for cid in found[start : start + DELETE_BATCH] if find(db, cid) is None]
            gone += store.bodies.delete_all(orphans)
    return gone
