"""What a request for a chunk needs to know, in one look: for which documents it counts, how it is stored, small bytes.

A document counts for a chunk where its author sent the bytes, or where the peer they were fetched from said that they
are for it, or for the public: that peer could hand them to anyone itself (design D7). Naming a chunk grants nothing.
Not here: who may read a document (acl), who asks (gate). Blocking code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from blake3 import blake3

from rage_net.chunk.stat import CHECKSUM_BYTES, Stat
from rage_net.chunk.store import DELETE_BATCH, ChunkStore
from rage_net.cid import Cid

_CHUNK = "SELECT id, size, stored, encoding, cached, checksum FROM chunk WHERE cid = ?"
_COUNTING = (
    "SELECT document.organisation, doc_id, owner, visibility, ruled FROM hold JOIN document USING (holder)"
    " WHERE cid = ?1 AND hold.organisation IS NOT NULL AND (expires_at IS NULL OR expires_at > ?2)"
)
_ATTESTED = (
    "SELECT attested.organisation, attested.doc_id, COALESCE(owner, ''),"
    " CASE attested.doc_id WHEN '' THEN 'public' ELSE COALESCE(visibility, '') END, COALESCE(ruled, 0)"
    " FROM attested LEFT JOIN document"
    " ON document.doc_id = attested.doc_id AND document.organisation = attested.organisation"
    " WHERE chunk = (SELECT id FROM chunk WHERE cid = ?1) AND (expires_at IS NULL OR expires_at > ?2)"
)
_DOCUMENTS = f"{_ATTESTED} UNION ALL {_COUNTING} LIMIT ?3"  # one query costs a third less than two
_KINDS_OF_DOCUMENTS = (  # those without facts of their own and with the same words are one
    f"{_ATTESTED} UNION ALL SELECT * FROM ({_COUNTING}"  # noqa: S608
    " GROUP BY document.organisation, owner, visibility, CASE ruled WHEN 0 THEN '' ELSE doc_id END) LIMIT ?3"
)
_PUBLIC_ROOTS = (
    "SELECT root FROM document WHERE root > :after AND visibility = 'public'"
    " AND (expires_at IS NULL OR expires_at > :now)"
    " UNION SELECT root FROM holder JOIN chunk ON chunk.cid = holder.root JOIN attested ON attested.chunk = chunk.id"
    " AND attested.organisation = '' AND attested.doc_id = '' WHERE holder.kind = 'pin' AND root > :after"
    " ORDER BY root LIMIT :limit"
)
_BODY = "SELECT stored FROM body WHERE chunk = ?"

PUBLIC_ROOTS_MAX = 1000
"""Roots in one page: a hundredth of a second."""
COUNTING_MAX = 256
"""Documents that are looked at for one chunk: 0.5 ms. Of more, those with the same rights count as one."""
ATTESTED_MAX = 9
"""Kept for one chunk, the newest: what one sender may say, and that it is public."""


class Counting(NamedTuple):
    """A document that counts for a chunk. `doc_id` empty: somebody's public one, by the word of who sent the bytes."""

    organization: str
    doc_id: str
    owner: str
    visibility: str
    """Empty when the document itself is not known here."""
    is_ruled: int
    """1: facts say who may; visibility is not all."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A chunk that is here. `small` holds the stored form when it lies in the index, sound."""

    stat: Stat
    documents: Sequence[Counting]
    small: bytes | None


@dataclass(frozen=True, slots=True)
class Hidden:
    """A chunk that is here and that the asker may not see. Whoever is told of it must have a right to know."""

    documents: Sequence[Counting]


def look(store: ChunkStore, cid: Cid, may_see: Callable[[Sequence[Counting]], bool]) -> Seen | Hidden | None:
    """The chunk; None when it is not here, and `Hidden` when `may_see`, given what counts for it, says no.

    Absent and hidden cost the same steps, so that the time of an answer does not tell one from the other.
    """
    key = bytes(cid)
    values = key, store.env.now(), COUNTING_MAX
    with store.index.read() as db:
        row = db.execute(_CHUNK, (key,)).fetchone()
        rows = db.execute(_DOCUMENTS, values).fetchall()
        if len(rows) == COUNTING_MAX:
            rows = db.execute(_KINDS_OF_DOCUMENTS, values).fetchall()
        documents = [*map(Counting._make, rows)]
        allowed = may_see(documents)
        if row is None:
            return None
        if not allowed:
            return Hidden(documents)
        chunk, size, stored, encoding, cached, checksum = row
        body = db.execute(_BODY, (chunk,)).fetchone()
    small = None if body is None else body[0]
    if small is not None and blake3(small).digest(length=CHECKSUM_BYTES) != checksum:
        small = None  # the store's own reading will find the rot, and deal with it
    return Seen(Stat(cid, size, stored, encoding, bool(cached)), documents, small)


def public_roots(store: ChunkStore, after: Cid | None = None, limit: int = PUBLIC_ROOTS_MAX) -> list[Cid]:
    """Roots of public documents, and pinned roots that are public, in the order of their CIDs; a page at a time."""
    values = {"after": b"" if after is None else bytes(after), "now": store.env.now(), "limit": limit}
    with store.index.read() as db:
        return [Cid.from_bytes(root) for (root,) in db.execute(_PUBLIC_ROOTS, values)]


def words(store: ChunkStore, doc_ids: Sequence[str]) -> dict[str, list[str]]:
    """The tags of those documents that have some here, by their ids, at most `COUNTING_MAX` of which are given."""
    query = f"SELECT doc_id, tag FROM tag WHERE doc_id IN ({', '.join('?' * len(doc_ids))})"  # noqa: S608
    found: dict[str, list[str]] = {}
    with store.index.read() as db:
        for doc_id, tag in db.execute(query, doc_ids):
            found.setdefault(doc_id, []).append(tag)
    return found


def marked(store: ChunkStore, doc_ids: Sequence[str], tag: str) -> bool:
    """Whether one of these documents, at most `COUNTING_MAX`, has the tag."""
    query = f"SELECT 1 FROM tag WHERE tag = ? AND doc_id IN ({', '.join('?' * len(doc_ids))})"  # noqa: S608
    with store.index.read() as db:
        return db.execute(query, (tag, *doc_ids)).fetchone() is not None


def is_public(store: ChunkStore, cid: Cid) -> bool:
    """Whether anyone may know that the chunk is here."""

    def may_see(documents: Sequence[Counting]) -> bool:
        return any(document.visibility == "public" for document in documents)

    return isinstance(look(store, cid, may_see), Seen)


def attest(store: ChunkStore, said: Iterable[tuple[Cid, bool, Sequence[tuple[str, str]]]]) -> None:
    """Note what the peer some chunks came from said of them: public or not, and (organisation, id) of their documents.

    Documents say more than that it is public, so beside them that word is not kept: they may cease to be. A memory
    aid of cache: not synced.
    """
    rows = [
        (organization, doc_id, bytes(cid))
        for cid, is_public, documents in said
        for organization, doc_id in (documents or ([("", "")] if is_public else []))
    ]
    if not rows:
        return
    with store.index.write(durable=False) as db:
        db.executemany(
            "INSERT OR REPLACE INTO attested (chunk, organisation, doc_id) SELECT id, ?, ? FROM chunk WHERE cid = ?",
            rows,
        )
        db.executemany(
            "DELETE FROM attested WHERE id IN (SELECT attested.id FROM attested JOIN chunk ON chunk.id = chunk"
            " WHERE cid = ? ORDER BY attested.id DESC LIMIT -1 OFFSET ?)",
            [(key, ATTESTED_MAX) for key in {key for _, _, key in rows}],
        )


def drop_attested(store: ChunkStore, organisation: str, doc_id: str) -> bool:
    """Forget which chunks were said to be for a document; whether there were any.

    Those that are cache and for nothing else are deleted.
    """
    with store.index.write(durable=False) as db:
        ours = (organisation, doc_id)
        chunks = db.execute("SELECT chunk FROM attested WHERE organisation = ? AND doc_id = ?", ours).fetchall()
        db.execute("DELETE FROM attested WHERE organisation = ? AND doc_id = ?", ours)
        others = "SELECT 1 FROM attested WHERE attested.chunk = chunk.id"
        left = f"SELECT cid FROM chunk WHERE id = ? AND cached AND NOT EXISTS ({others})"  # noqa: S608
        rows = [row for chunk in chunks for row in db.execute(left, chunk)]
    cids = [Cid.from_bytes(cid) for (cid,) in rows]
    for at in range(0, len(cids), DELETE_BATCH):
        store.discard(cids[at : at + DELETE_BATCH])  # but for what something holds
    return bool(chunks)
