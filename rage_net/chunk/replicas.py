"""Which chunks this node keeps because others count on it: its replicas, held by the one holder of their kind.

A hold is the promise, the chunk its keeping: a held chunk that is absent is wanted, and `missing` finds it. Not here:
which chunks those are (replication), from where they come (services), which documents count for them (shelf.attest, by
who fetched them: being a replica lets nobody read). Blocking code.
Source: design D4, D5; issue 5, sections C and F.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from sqlite3 import Connection

from rage_net.chunk.batch import BATCH_CHUNKS_MAX, Admitted
from rage_net.chunk.batch import hold as hold_rows
from rage_net.chunk.holds import HOLD_BATCH, release_some
from rage_net.chunk.store import ChunkStore
from rage_net.cid import Cid
from rage_net.errors import IntegrityError, NotFoundError

MISSING_MAX = 10_000
"""Chunks in one page of `missing`."""

_HOLDER = "SELECT id FROM holder WHERE kind = 'replica'"
_MISSING = (
    "SELECT DISTINCT cid FROM hold WHERE cid > ? AND NOT EXISTS (SELECT 1 FROM chunk WHERE chunk.cid = hold.cid)"
    " AND (SELECT kind FROM holder WHERE holder.id = hold.holder) IN ('document', 'pin', 'replica')"
    " ORDER BY cid LIMIT ?"
)


@dataclass(frozen=True, slots=True)
class Replicas:
    """The holder of a store's replicas, for a batch. It says nothing of who may read them."""

    id: int
    organisation: None = None


def holder_of(store: ChunkStore) -> Replicas:
    """The store's replica holder, made now if there was none."""
    with store.index.read() as db:
        row = db.execute(_HOLDER).fetchone()
    if row is None:
        with store.index.write() as db:
            return Replicas(_require(db))
    return Replicas(row[0])


def hold(store: ChunkStore, cids: Iterable[Cid], *, durable: bool = True) -> None:
    """Count chunks as replicas of this node; those that are absent are wanted from now on.

    Cached ones are made durable first; one that did not survive is wanted like an absent one. `durable` False leaves
    the sync to a later commit: for what a coordinator or placement will say again. Raises StorageFullError.
    """
    holder = holder_of(store)
    todo = iter(cids)
    while some := list(islice(todo, HOLD_BATCH)):
        with store.claim(some):
            _promote(store, some)
            with store.index.write(durable=durable) as db:
                hold_rows(db, holder.id, some, None)


def keep_replicas(store: ChunkStore, items: Sequence[Admitted]) -> int:
    """Store what `admit` let in, and hold it as replicas: durable together. How many were new here.

    Up to BATCH_CHUNKS_MAX are one commit. Raises StorageFullError or UnavailableError, and then nothing of the commit
    that failed is stored or held.
    """
    holder, new = holder_of(store), 0
    for at in range(0, len(items), BATCH_CHUNKS_MAX):
        with store.batch(lease=holder) as batch:
            for item in items[at : at + BATCH_CHUNKS_MAX]:
                batch.add_admitted(item)
            new += batch.commit()
    return new


def let_go(store: ChunkStore, cids: Sequence[Cid], *, now: float, at_once: bool) -> int:
    """They are this node's replicas no longer. Gives bytes, and raises, as `holds.release_some` does."""
    return release_some(store, holder_of(store).id, cids, now=now, at_once=at_once)


def release_document_holds(
    store: ChunkStore, document_holder: int, cids: Sequence[Cid], *, now: float, at_once: bool
) -> int:
    """Take chunks from a document that stays: other nodes keep them. Gives bytes, and raises, as `let_go` does.

    What a download of it needs comes from them, as cache.
    """
    return release_some(store, document_holder, cids, now=now, at_once=at_once)


def document_holders(store: ChunkStore, documents: Iterable[tuple[str, str]]) -> list[int]:
    """The holders of those documents, by organisation and id, that are here."""
    query = "SELECT holder FROM document WHERE organisation = ? AND doc_id = ?"
    with store.index.read() as db:
        rows = [db.execute(query, key).fetchone() for key in documents]
    return [row[0] for row in rows if row is not None]


def is_held(store: ChunkStore, cid: Cid) -> bool:
    """Whether a chunk is a replica of this node, here or wanted."""
    query = "SELECT 1 FROM hold JOIN holder ON holder.id = holder WHERE hold.cid = ? AND kind = 'replica'"
    with store.index.read() as db:
        return db.execute(query, (bytes(cid),)).fetchone() is not None


def walk(store: ChunkStore) -> Iterator[Cid]:
    """Every replica of this node, here or wanted, in the order of their binary CIDs; a page at a time."""
    query = f"SELECT cid FROM hold WHERE holder = ({_HOLDER}) AND cid > ? ORDER BY cid LIMIT {MISSING_MAX}"  # noqa: S608
    after = b""
    while True:
        with store.index.read() as db:
            page: list[bytes] = [cid for (cid,) in db.execute(query, (after,))]
        if not page:
            return
        yield from map(Cid.from_bytes, page)
        after = page[-1]


def missing(store: ChunkStore, after: Cid | None = None, limit: int = MISSING_MAX) -> list[Cid]:
    """A page of what documents, pins or replicas hold and what is not here, in the order of `walk`.

    Reads the holds up to the page's end: half a second for a million.
    """
    with store.index.read() as db:
        rows = db.execute(_MISSING, (_key(after), min(limit, MISSING_MAX))).fetchall()
    return [Cid.from_bytes(cid) for (cid,) in rows]


def is_wanted(store: ChunkStore, cid: Cid) -> bool:
    """Whether a document, a pin or this node's share of replicas holds a chunk, here or not."""
    query = (
        "SELECT 1 FROM hold JOIN holder ON holder.id = holder WHERE hold.cid = ?"
        " AND kind IN ('document', 'pin', 'replica') LIMIT 1"
    )
    with store.index.read() as db:
        return db.execute(query, (bytes(cid),)).fetchone() is not None


def _require(db: Connection) -> int:
    db.execute("INSERT OR IGNORE INTO holder (kind) VALUES ('replica')")  # another thread may have been first
    row: tuple[int] = db.execute(_HOLDER).fetchone()
    return row[0]


def _promote(store: ChunkStore, cids: Sequence[Cid]) -> None:
    """As the store does, but what did not survive is passed over: reading it has taken it away."""
    try:
        store.promote(cids)
    except (IntegrityError, NotFoundError):
        for cid in cids:
            with suppress(IntegrityError, NotFoundError):
                store.promote([cid])


def _key(after: Cid | None) -> bytes:
    return b"" if after is None else bytes(after)
