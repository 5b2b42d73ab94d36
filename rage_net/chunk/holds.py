"""What keeps chunks: leases of running puts, documents, pins, this node's share of replicas; and how they let go.

A holder is one row, its holds one row a chunk. A put takes a lease, each of its commits holds the chunks it brought,
and at the end the lease *becomes* the document or the pin, in one row: so gc never sees a chunk of a put unheld, and a
put of any size commits in small steps. A lease that its process did not live to use is released by gc.
Source: design D7 ("naming a CID grants nothing"); peers.md 7 and 10.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from sqlite3 import Connection

from rage_net.chunk.batch import hold
from rage_net.chunk.stat import Stat, find
from rage_net.chunk.store import ChunkStore
from rage_net.chunk.store import is_held as has_hold
from rage_net.cid import Cid
from rage_net.errors import StorageFullError

log = logging.getLogger(__name__)

HOLD_BATCH = 512
"""Chunks held in one transaction."""
RELEASE_BATCH = 128
"""Chunks released in one transaction: it must fit into the ballast (see `store.DELETE_BATCH`)."""


class Lease:
    """A running put, as a context: `documents.put` or `documents.pin` takes it over, else it is released at the end.

    `organisation` is the author's. Chunks that come in by `store.batch(lease=...)` were sent by that author, so the
    document will count for them there; those of `hold` are only held, unless `counts`.
    """

    def __init__(self, store: ChunkStore, organisation: str = "") -> None:
        self._store = store
        self.organisation = organisation
        self.id = 0

    def __enter__(self) -> Lease:
        with self._store.index.write(durable=False) as db:
            row = db.execute("INSERT INTO holder (kind, session) VALUES ('lease', ?)", (self._store.session,)).lastrowid
        self.id = row or 0
        return self

    def __exit__(self, *_: object) -> None:
        with self._store.index.read() as db:
            unused = db.execute("SELECT 1 FROM holder WHERE id = ? AND kind = 'lease'", (self.id,)).fetchone()
        if unused:
            self._let_go()

    def _let_go(self) -> None:
        """A put that failed for want of room must not take the ballast: deleting needs it."""
        try:
            with self._store.index.write(durable=False) as db:
                db.execute("UPDATE holder SET kind = 'gone' WHERE id = ?", (self.id,))
        except StorageFullError:
            self._store.lost_leases.add(self.id)
        else:
            finish_release(self._store, self.id, self._store.env.now(), spend_ballast=False)

    def hold(self, cids: Iterable[Cid], *, counts: bool = False) -> None:
        """Hold chunks that are here, or that will come. Cached ones are made durable first.

        `counts`: the author held `read` on them, which the caller has checked; then the document counts for them.
        """
        todo = iter(cids)
        while some := list(islice(todo, HOLD_BATCH)):
            with self._store.claim(some):
                self._store.promote(some)
                with self._store.index.write() as db:
                    hold(db, self.id, some, self.organisation if counts else None)

    def has(self, cid: Cid) -> bool:
        """Whether this lease holds a chunk."""
        with self._store.index.read() as db:
            return (
                db.execute("SELECT 1 FROM hold WHERE holder = ? AND cid = ?", (self.id, bytes(cid))).fetchone()
                is not None
            )


def release(store: ChunkStore, holder: int, now: float) -> None:
    """Let go of all that `holder` holds, in small transactions; what nothing else holds counts as released at `now`.

    The first transaction decides: after it, a crash leaves the rest to gc.
    """
    with_holder = (holder,)
    store.index.shrink(lambda db: db.execute("UPDATE holder SET kind = 'gone' WHERE id = ?", with_holder))
    finish_release(store, holder, now)


def finish_release(store: ChunkStore, holder: int, now: float, *, spend_ballast: bool = True) -> None:
    """The rest of `release`, for a holder that is `gone` already. Without any room the rest is left to gc."""

    def change(db: Connection) -> bool:
        keys = db.execute("SELECT cid FROM hold WHERE holder = ? LIMIT ?", (holder, RELEASE_BATCH)).fetchall()
        for (cid,) in keys:
            db.execute("DELETE FROM hold WHERE holder = ? AND cid = ?", (holder, cid))
            db.execute(
                "UPDATE chunk SET released_at = ? WHERE cid = ? AND NOT EXISTS (SELECT 1 FROM hold WHERE cid = ?)",
                (now, cid, cid),
            )
        if len(keys) < RELEASE_BATCH:
            db.execute("DELETE FROM holder WHERE id = ?", (holder,))
            return False
        return True

    try:
        while store.index.shrink(change, spend_ballast=spend_ballast):
            pass
    except StorageFullError as error:
        log.warning("holder %d is not released yet, gc will do it: %s", holder, error)


def release_some(store: ChunkStore, holder: int, cids: Sequence[Cid], *, now: float, at_once: bool) -> int:
    """Let go of some of what `holder` holds, RELEASE_BATCH in a transaction; it itself stays.

    `at_once`: what nothing else holds is deleted without grace, but for chunks that a running put counts on. Gives
    bytes at rest of what nothing holds any more: freed with `at_once`, else gc's after the grace. Raises
    StorageFullError on a disk that has no room even for this; what was let go before stays so.
    """
    freed = 0
    for at in range(0, len(cids), RELEASE_BATCH):
        some = cids[at : at + RELEASE_BATCH]
        loose = store.index.shrink(partial(_let_go, holder=holder, cids=some, now=now))
        if at_once:
            freed += sum(stat.stored for stat in store.discard([stat.cid for stat in loose]))
        else:
            freed += sum(stat.stored for stat in loose)
    return freed


def _let_go(db: Connection, holder: int, cids: Sequence[Cid], now: float) -> list[Stat]:
    """Those that are here and that nothing holds any more."""
    loose = []
    for cid in cids:
        key = bytes(cid)
        if not db.execute("DELETE FROM hold WHERE holder = ? AND cid = ?", (holder, key)).rowcount:
            continue
        released = db.execute(
            "UPDATE chunk SET released_at = ? WHERE cid = ? AND NOT EXISTS (SELECT 1 FROM hold WHERE cid = ?)",
            (now, key, key),
        ).rowcount
        if released and (stat := find(db, cid)) is not None:
            loose.append(stat)
    return loose


def is_held(store: ChunkStore, cid: Cid) -> bool:
    """Whether anything holds a chunk, here or not."""
    with store.index.read() as db:
        return has_hold(db, cid)


def roots_of(store: ChunkStore, cid: Cid, limit: int) -> list[Cid]:
    """Roots of documents and pins that hold a chunk: under these others may be found that have it."""
    query = (
        "SELECT root FROM hold JOIN document USING (holder) WHERE cid = ?1"
        " UNION SELECT root FROM hold JOIN holder ON holder.id = holder WHERE cid = ?1 AND kind = 'pin' LIMIT ?2"
    )
    with store.index.read() as db:
        return [Cid.from_bytes(root) for (root,) in db.execute(query, (bytes(cid), limit))]


def count_holds(store: ChunkStore, cid: Cid) -> int:
    """How many documents, pins and running puts hold a chunk; one more where it is a replica."""
    with store.index.read() as db:
        row: tuple[int] = db.execute("SELECT count(*) FROM hold WHERE cid = ?", (bytes(cid),)).fetchone()
    return row[0]


def measure_release(store: ChunkStore, holder: int) -> tuple[int, int]:
    """Chunks, and bytes at rest, that only `holder` holds: what gc would win if it let go."""
    with store.index.read() as db:
        row: tuple[int, int] = db.execute(
            "SELECT count(*), COALESCE(sum(stored), 0) FROM hold JOIN chunk USING (cid) WHERE holder = ?"
            " AND NOT EXISTS (SELECT 1 FROM hold AS other WHERE other.cid = chunk.cid AND other.holder <> ?)",
            (holder, holder),
        ).fetchone()
    return row
