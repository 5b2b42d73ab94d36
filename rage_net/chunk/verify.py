"""Scrub: read chunks again, hash them, and put rot into quarantine. Reads only, unless it finds some.

Not here: fetching good copies (repair). Source: peers.md 1b ("Scheduled scrub, throttled"), issue 2, section C.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from rage_net.chunk import manifest
from rage_net.chunk.holds import is_held
from rage_net.chunk.store import ChunkStore, absent, walk_chunks
from rage_net.cid import Cid
from rage_net.errors import IntegrityError, NotFoundError, UnavailableError
from rage_net.verbs import Progress
from rage_net.verbs.chunk import BadChunk, VerifyChunksResult

BAD_MAX = 10_000
"""Bad chunks named in one result; a disk that loses more is better read from its log."""
PAGE = 1000

_HELD_FOR = (
    "SELECT DISTINCT cid FROM hold WHERE cid > ?1 AND holder IN (SELECT holder FROM document WHERE root = ?2"
    " UNION ALL SELECT id FROM holder WHERE kind = 'pin' AND root = ?2) ORDER BY cid LIMIT ?3"
)


def verify(
    store: ChunkStore,
    cids: Iterable[Cid] | None = None,
    *,
    sample: float = 1.0,
    rate_bytes_s: float = 0.0,
    pause: Callable[[float], object] = lambda seconds: None,
    progress: Callable[[Progress], None] = lambda progress: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> VerifyChunksResult:
    """Re-hash chunks: those of `cids`, or every one of the store.

    One of `cids` that is absent is bad if anything holds it; if nothing does it is not meant to be here, and counted as
    kept elsewhere.

    Args: sample: the share of them to read, above 0 to 1, chosen at random. rate_bytes_s: plain bytes a second at
        most, 0 for no limit; `pause` is called to wait. progress: after each chunk, in chunks.
    Returns: what was read, and each bad chunk with its reason: rot, missing (its file is gone) or unreadable.
    """
    if not 0 < sample <= 1:
        raise ValueError("sample is a share above 0 to 1")
    started = store.env.monotonic()
    checked = size = elsewhere = 0
    total = store.totals().chunks if cids is None and sample == 1 else None
    bad: list[BadChunk] = []
    for cid in (stat.cid for stat in walk_chunks(store)) if cids is None else cids:
        if cancelled():
            break
        if sample < 1 and store.env.random.random() >= sample:
            continue
        checked += 1
        try:
            size += len(store.get(cid, at_rest=True))
        except NotFoundError as error:
            is_lost = error.id == "chunk-missing"
            if cids is not None and not is_lost and not is_held(store, cid):
                elsewhere += 1
                checked -= 1
            elif is_lost or cids is not None:  # else it was deleted since the page was read
                bad.append(BadChunk(str(cid), "missing"))
        except IntegrityError:
            bad.append(BadChunk(str(cid), "rot"))
        except UnavailableError:
            bad.append(BadChunk(str(cid), "unreadable"))
        progress(Progress(checked, total, "chunks"))
        if len(bad) >= BAD_MAX:
            break
        if rate_bytes_s:
            ahead = size / rate_bytes_s - (store.env.monotonic() - started)
            if ahead > 0:
                pause(ahead)
    return VerifyChunksResult(checked, size, tuple(bad), store.env.monotonic() - started, elsewhere)


def blocks_here(store: ChunkStore, root: Cid) -> Iterator[Cid]:
    """The blocks of a root for `verify`: as its manifests say; where one cannot be read, as its documents and pins do.

    What these hold is what is meant to be here of it. Some may come twice then. Raises NotFoundError when nothing is
    known of the root.
    """
    if not store.has(root) and not is_held(store, root) and not any(_held_for(store, root)):
        raise absent(root)
    try:
        yield from manifest.blocks(root, store.get)
    except (NotFoundError, IntegrityError):  # of a manifest, which has been given
        yield from _held_for(store, root)


def _held_for(store: ChunkStore, root: Cid) -> Iterator[Cid]:
    after = b""
    while True:
        with store.index.read() as db:
            rows = db.execute(_HELD_FOR, (after, bytes(root), PAGE)).fetchall()
        yield from (Cid.from_bytes(cid) for (cid,) in rows)
        if len(rows) < PAGE:
            return
        after = rows[-1][0]
