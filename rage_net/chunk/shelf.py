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
_PUBLIC_ROOTS = (
    "SELECT root FROM document WHERE root > :after AND visibility = 'public'"
    " AND (expires_at IS NULL OR expires_at > :now)"
    " UNION SELECT root FROM holder JOIN chunk ON chunk.cid = holder.root JOIN vouched ON vouched.chunk = chunk.id"
    " WHERE holder.kind = 'pin' AND root > :after"
    " ORDER BY root LIMIT :limit"
)
_BODY = "SELECT stored FROM body WHERE chunk = ?"

PUBLIC_ROOTS_MAX = 1000
"""Roots in one page: a hundredth of a second."""


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


def public_roots(store: ChunkStore, after: Cid | None = None, limit: int = PUBLIC_ROOTS_MAX) -> list[Cid]:
    """Roots of public documents, and pinned roots that are public, in the order of their CIDs; a page at a time."""
    values = {"after": b"" if after is None else bytes(after), "now": store.env.now(), "limit": limit}
    with store.index.read() as db:
        return [Cid.from_bytes(root) for (root,) in db.execute(_PUBLIC_ROOTS, values)]


def is_public(store: ChunkStore, cid: Cid) -> bool:
    """Whether anyone may know that the chunk is here."""
    return look(store, cid, lambda visibilities: "public" in visibilities) is not None


def vouch(store: ChunkStore, cids: Iterable[Cid]) -> None:
    """Note that the peer some chunks came from called them public. A memory aid of cache: not synced."""
    keys = [(bytes(cid),) for cid in cids]
    if keys:
        with store.index.write(durable=False) as db:
            db.executemany("INSERT OR IGNORE INTO vouched SELECT id FROM chunk WHERE cid = ?", keys)
