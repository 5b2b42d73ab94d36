"""What a request for a chunk needs to know, in one look: who vouches for it, how it is stored, and small bytes at once.

The visibilities are those of the documents that count for the chunk (design D7), and `public` where the peer it was
fetched from said so: that peer sent the bytes, so it could hand them to anyone itself. Blocking code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from blake3 import blake3

from rage_net.chunk.stat import CHECKSUM_BYTES, Stat
from rage_net.chunk.store import ChunkStore
from rage_net.cid import Cid

_CHUNK = (
    "SELECT id, size, stored, encoding, cached, checksum,"
    " EXISTS (SELECT 1 FROM vouched WHERE vouched.chunk = chunk.id) FROM chunk WHERE cid = ?"
)
_VISIBILITIES = (
    "SELECT DISTINCT visibility FROM hold JOIN document USING (holder)"
    " WHERE cid = ? AND hold.organisation IS NOT NULL AND (expires_at IS NULL OR expires_at > ?)"
)
_BODY = "SELECT stored FROM body WHERE chunk = ?"


@dataclass(frozen=True, slots=True)
class Seen:
    """A chunk that is here. `small` holds the stored form when it lies in the index, sound."""

    stat: Stat
    visibilities: frozenset[str]
    small: bytes | None


def look(store: ChunkStore, cid: Cid, may_see: Callable[[frozenset[str]], bool]) -> Seen | None:
    """The chunk, or None when it is not here or `may_see`, given the visibilities, says no.

    Both cost the same steps, so that the time of an answer does not tell one from the other.
    """
    key = bytes(cid)
    with store.index.read() as db:
        row = db.execute(_CHUNK, (key,)).fetchone()
        found = frozenset(visibility for (visibility,) in db.execute(_VISIBILITIES, (key, store.env.now())))
        if row is not None and row[-1]:
            found |= {"public"}
        if not may_see(found) or row is None:
            return None
        chunk, size, stored, encoding, cached, checksum, _ = row
        body = db.execute(_BODY, (chunk,)).fetchone()
    small = None if body is None else body[0]
    if small is not None and blake3(small).digest(length=CHECKSUM_BYTES) != checksum:
        small = None  # the store's own reading will find the rot, and deal with it
    return Seen(Stat(cid, size, stored, encoding, bool(cached)), found, small)


def vouch(store: ChunkStore, cids: Iterable[Cid]) -> None:
    """Note that the peer some chunks came from called them public. A memory aid of cache: not synced."""
    keys = [(bytes(cid),) for cid in cids]
    if keys:
        with store.index.write(durable=False) as db:
            db.executemany("INSERT OR IGNORE INTO vouched SELECT id FROM chunk WHERE cid = ?", keys)
