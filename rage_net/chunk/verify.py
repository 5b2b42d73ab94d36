"""Scrub: read chunks again, hash them, and put rot into quarantine. Reads only, unless it finds some.

Not here: fetching good copies (repair). Source: peers.md 1b ("Scheduled scrub, throttled"), issue 2, section C.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rage_net.chunk.store import ChunkStore, walk_chunks
from rage_net.cid import Cid
from rage_net.errors import IntegrityError, NotFoundError, UnavailableError
from rage_net.verbs import Progress
from rage_net.verbs.chunk import BadChunk, VerifyChunksResult

BAD_MAX = 10_000
"""Bad chunks named in one result; a disk that loses more is better read from its log."""


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
    """Re-hash chunks: those of `cids` (one that is absent is bad), or every one of the store.

    Args: sample: the share of them to read, above 0 to 1, chosen at random. rate_bytes_s: plain bytes a second at
        most, 0 for no limit; `pause` is called to wait. progress: after each chunk, in chunks.
    Returns: what was read, and each bad chunk with its reason: rot, missing (its file is gone) or unreadable.
    """
    if not 0 < sample <= 1:
        raise ValueError("sample is a share above 0 to 1")
    started = store.env.monotonic()
    checked = size = 0
    total = store.totals().chunks if cids is None and sample == 1 else None
    bad: list[BadChunk] = []
    for cid in (stat.cid for stat in walk_chunks(store)) if cids is None else cids:
        if cancelled():
            break
        if sample < 1 and store.env.random.random() >= sample:
            continue
        checked += 1
        try:
            size += len(store.get(cid))
        except NotFoundError as error:
            if cids is not None or error.id == "chunk-missing":  # else it was deleted since the page was read
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
    return VerifyChunksResult(checked, size, tuple(bad), store.env.monotonic() - started)
