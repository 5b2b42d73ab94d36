"""Documents: catalog records that give a root a name, rules and an owner, and hold its chunks. Pins only hold.

Several documents may share a root. A name is unique within its organisation; putting it again moves the document,
which keeps its id, to the new root. Which document counts for which chunk is recorded here and nowhere else:
`authorize` reads `counting`, and naming a CID grants nothing. Not here: who may do it (acl), how records travel (sync).
Source: design D3, D7; issue 2, "Documents".
"""

from __future__ import annotations

import base64
import contextlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from sqlite3 import Connection

from rage_net.chunk.holds import Lease, finish_release, measure_release, release
from rage_net.chunk.store import DELETE_BATCH, ChunkStore
from rage_net.cid import Cid, CidError
from rage_net.errors import ConflictError, NotFoundError, UsageError
from rage_net.verbs.chunk import Visibility

NAME_CHARS_MAX = 1024
TAG_CHARS_MAX = 256
TAGS_MAX = 64
LIST_MAX = 1000
"""Documents in one page."""
DOC_ID = re.compile(r"[a-z2-7]{26}")
"""128 random bits in base32."""

_COLUMNS = (
    "document.doc_id, document.holder, document.root, document.name, document.size, document.chunks, document.owner,"
    " document.organisation, document.visibility, document.policy, document.created_at, document.expires_at,"
    " (SELECT group_concat(tag, char(10)) FROM (SELECT tag FROM tag WHERE tag.doc_id = document.doc_id ORDER BY tag)),"
    " document.ruled"
)


@dataclass(frozen=True, slots=True)
class Document:
    """A catalog record. `size` and `chunks` describe the root; `expires_at` None keeps it for ever."""

    doc_id: str
    holder: int
    root: Cid
    name: str
    size: int
    chunks: int
    owner: str
    organisation: str
    visibility: Visibility
    policy: str
    created_at: float
    expires_at: float | None
    tags: tuple[str, ...]
    is_ruled: bool = False
    """Facts say who may; `visibility` is what they come to, and not all of it."""


class Documents:
    """The catalog of one store. Every method is safe from any thread. Documents that have expired are not seen."""

    def __init__(self, store: ChunkStore) -> None:
        self._store = store
        self.new_id: Callable[[], str] = self._random_id
        """Draws a new document's id. The engine gives one whose ids name their owner."""

    def lease(self, organisation: str = "") -> Lease:
        """Begin a put: `with documents.lease(org) as lease`, chunks under it, then `put` or `pin`."""
        return Lease(self._store, organisation)

    def put(
        self,
        lease: Lease,
        root: Cid,
        *,
        size: int,
        chunks: int,
        name: str = "",
        owner: str = "",
        visibility: Visibility = "org",
        tags: Sequence[str] = (),
        policy: str = "",
        expires_at: float | None = None,
    ) -> Document:
        """Record a document that holds all that `lease` holds; durable when it returns.

        A name that the organisation has already moves: that document gets the new root and rules, keeps its id and its
        date, and lets go of what it held. Raises UsageError for a name or tags that are no good; ConflictError when the
        lease is used up.
        """
        tags = check_words(name, tags)
        now = self._store.env.now()
        organisation = lease.organisation
        left: list[int] = []
        with self._store.index.write() as db:
            if not db.execute(
                "UPDATE holder SET kind = 'document' WHERE id = ? AND kind = 'lease'", (lease.id,)
            ).rowcount:
                raise ConflictError("the lease of this put is used up")
            doc_id, created_at, is_ruled = self.new_id(), now, False
            for old in _named(db, organisation, name):
                left.append(old.holder)
                db.execute("DELETE FROM document WHERE doc_id = ?", (old.doc_id,))
                db.execute("UPDATE holder SET kind = 'gone' WHERE id = ?", (old.holder,))
                if old.expires_at is None or old.expires_at > now:
                    doc_id, created_at, is_ruled = old.doc_id, old.created_at, old.is_ruled
            row = (doc_id, lease.id, bytes(root), name, size, chunks, owner, organisation, visibility, policy)
            db.execute(
                f"INSERT INTO document VALUES ({', '.join('?' * 13)})",  # noqa: S608
                (*row, created_at, expires_at, is_ruled),
            )
            db.executemany("INSERT INTO tag (doc_id, tag) VALUES (?, ?)", [(doc_id, tag) for tag in tags])
        for holder in left:
            finish_release(self._store, holder, now)
        return self.get(doc_id, expired=True)

    def set_access(self, organisation: str, doc_id: str, visibility: Visibility, *, is_ruled: bool) -> bool:
        """Note what the facts on a document come to; False when it is not here, or is another organisation's."""
        with self._store.index.write() as db:
            return bool(
                db.execute(
                    "UPDATE document SET visibility = ?, ruled = ? WHERE doc_id = ? AND organisation = ?",
                    (visibility, is_ruled, doc_id, organisation),
                ).rowcount
            )

    def amend(
        self,
        organisation: str,
        doc_id: str,
        *,
        name: str,
        tags: Sequence[str],
        policy: str,
        expires_at: float | None,
    ) -> bool:
        """Take over what another node wrote of a document; False when it is not here, or its new name is taken here."""
        with self._store.index.write() as db:
            mine = (doc_id, organisation)
            if not db.execute("SELECT 1 FROM document WHERE doc_id = ? AND organisation = ?", mine).fetchone():
                return False
            taken = (
                name
                and db.execute(
                    "SELECT 1 FROM document WHERE organisation = ? AND name = ? AND doc_id <> ?",
                    (organisation, name, doc_id),
                ).fetchone()
            )
            if taken:
                return False
            db.execute(
                "UPDATE document SET name = ?, policy = ?, expires_at = ? WHERE doc_id = ? AND organisation = ?",
                (name, policy, expires_at, *mine),
            )
            db.execute("DELETE FROM tag WHERE doc_id = ?", (doc_id,))
            db.executemany("INSERT INTO tag (doc_id, tag) VALUES (?, ?)", [(doc_id, tag) for tag in sorted(set(tags))])
        return True

    def set_policy(self, organization: str, doc_id: str, policy: str) -> None:
        """Note a document's policy, where it is here."""
        with self._store.index.write(durable=False) as db:
            db.execute(
                "UPDATE document SET policy = ? WHERE doc_id = ? AND organisation = ?", (policy, doc_id, organization)
            )

    def get(self, doc_id: str, *, expired: bool = False) -> Document:
        """By id. Raises NotFoundError."""
        found = self._select("document.doc_id = ?", (doc_id,), expired=expired)
        if not found:
            raise NotFoundError(f"no document {doc_id}")
        return found[0]

    def resolve(self, ref: str) -> Sequence[Document]:
        """The documents that `ref` means: an id, else a root's CID, else a name. Raises NotFoundError for none.

        A root may have several documents, and so may a name, one in each organisation; in the order of their ids.
        """
        found: Sequence[Document] = ()
        if DOC_ID.fullmatch(ref):
            found = self._select("document.doc_id = ?", (ref,))
        if not found:
            with contextlib.suppress(CidError):
                found = self._select("root = ?", (bytes(Cid.parse(ref)),))
        if not found and ref:
            found = self._select("name = ?", (ref,))
        if not found:
            raise NotFoundError(
                f"no document {ref!r} here",
                why="it is no id, root or name of a document of this node",
                mend=["rage chunk list"],
                id="document-not-found",
            )
        return found

    def list(
        self, *, after: str = "", limit: int = LIST_MAX, tag: str = "", prefix: str = ""
    ) -> tuple[Sequence[Document], str]:
        """A page of documents by name, then id, and the cursor for the next page: empty at the end.

        `tag` and `prefix` (of the name) choose. `after` is the cursor of the page before.
        """
        where, values = "(name, document.doc_id) > (?, ?)", [after[26:], after[:26]]
        if prefix:
            where, values = f"{where} AND substr(name, 1, ?) = ?", [*values, str(len(prefix)), prefix]
        if tag:
            where, values = f"{where} AND document.doc_id IN (SELECT doc_id FROM tag WHERE tag = ?)", [*values, tag]  # noqa: S608
        limit = max(1, min(limit, LIST_MAX))
        page = self._select(where, values, order="name, document.doc_id", limit=limit)
        return page, (page[-1].doc_id + page[-1].name if len(page) == limit else "")

    def count(self) -> int:
        """How many documents there are, expired ones that gc has not met yet included."""
        with self._store.index.read() as db:
            row: tuple[int] = db.execute("SELECT count(*) FROM document").fetchone()
        return row[0]

    def counting(self, cid: Cid) -> Sequence[tuple[Document, str]]:
        """The documents that count for a chunk, each with the organisation for which it does (design D7)."""
        query = (
            f"SELECT {_COLUMNS}, hold.organisation FROM hold JOIN document USING (holder)"  # noqa: S608
            " WHERE cid = ? AND hold.organisation IS NOT NULL AND (expires_at IS NULL OR expires_at > ?)"
            " ORDER BY document.doc_id"
        )
        with self._store.index.read() as db:
            rows = db.execute(query, (bytes(cid), self._store.env.now()))
            return [(_document(row), row[14]) for row in rows]

    def remove(self, document: Document) -> bool:
        """Forget a document and let go of its chunks; gc deletes them after the grace time. False when it was gone."""

        def change(db: Connection) -> bool:
            gone = db.execute(
                "DELETE FROM document WHERE doc_id = ? AND holder = ?", (document.doc_id, document.holder)
            ).rowcount
            if gone:
                db.execute("UPDATE holder SET kind = 'gone' WHERE id = ?", (document.holder,))
            return bool(gone)

        if not self._store.index.shrink(change):
            return False
        finish_release(self._store, document.holder, self._store.env.now())
        return True

    def destroy(self, document: Document) -> bool:
        """As `remove`, but bytes that nothing else holds go at once, without grace: it was removed everywhere."""
        with self._store.index.read() as db:
            rows = db.execute("SELECT cid FROM hold WHERE holder = ?", (document.holder,)).fetchall()
        if not self.remove(document):
            return False
        cids = [Cid.from_bytes(cid) for (cid,) in rows]
        for at in range(0, len(cids), DELETE_BATCH):
            self._store.discard(cids[at : at + DELETE_BATCH], before=math.inf)
        return True

    def measure_release(self, document: Document) -> tuple[int, int]:
        """Chunks, and bytes at rest, that only this document holds."""
        return measure_release(self._store, document.holder)

    def expired(self, limit: int = LIST_MAX) -> Sequence[Document]:
        """Documents whose retention is over, for gc to remove."""
        with self._store.index.read() as db:
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM document WHERE expires_at <= ? ORDER BY expires_at, doc_id LIMIT ?",  # noqa: S608
                (self._store.env.now(), limit),
            )
            return [_document(row) for row in rows]

    def pin(self, lease: Lease, root: Cid) -> bool:
        """Hold a root for good, with all that `lease` holds; False when it was pinned already."""
        with self._store.index.write() as db:
            if db.execute("SELECT 1 FROM holder WHERE kind = 'pin' AND root = ?", (bytes(root),)).fetchone():
                return False
            changed = db.execute(
                "UPDATE holder SET kind = 'pin', root = ? WHERE id = ? AND kind = 'lease'", (bytes(root), lease.id)
            ).rowcount
        if not changed:
            raise ConflictError("the lease of this pin is used up")
        return True

    def unpin(self, root: Cid) -> bool:
        """Let a pinned root go; False when it was not pinned."""
        holder = self._pin(root)
        if holder is None:
            return False
        release(self._store, holder, self._store.env.now())
        return True

    def is_pinned(self, root: Cid) -> bool:
        """Whether a pin holds this root."""
        return self._pin(root) is not None

    def _pin(self, root: Cid) -> int | None:
        with self._store.index.read() as db:
            row = db.execute("SELECT id FROM holder WHERE kind = 'pin' AND root = ?", (bytes(root),)).fetchone()
        return None if row is None else int(row[0])

    def _select(
        self,
        where: str,
        values: Sequence[str | bytes],
        *,
        order: str = "document.doc_id",
        limit: int = LIST_MAX,
        expired: bool = False,
    ) -> Sequence[Document]:
        alive = "1" if expired else "(expires_at IS NULL OR expires_at > ?)"
        query = f"SELECT {_COLUMNS} FROM document WHERE {where} AND {alive} ORDER BY {order} LIMIT ?"  # noqa: S608
        with self._store.index.read() as db:
            rows = db.execute(query, (*values, *(() if expired else (self._store.env.now(),)), limit)).fetchall()
        return [_document(row) for row in rows]

    def _random_id(self) -> str:
        return base64.b32encode(self._store.env.random.randbytes(16)).decode().rstrip("=").lower()


def _named(db: Connection, organisation: str, name: str) -> list[Document]:
    if not name:
        return []
    query = f"SELECT {_COLUMNS} FROM document WHERE organisation = ? AND name = ?"  # noqa: S608
    return [_document(row) for row in db.execute(query, (organisation, name)).fetchall()]


def _document(row: tuple[object, ...]) -> Document:
    doc_id, holder, root, *rest = row[:12]
    tags = tuple(str(row[12]).split("\n")) if row[12] is not None else ()
    return Document(str(doc_id), holder, Cid.from_bytes(root), *rest, tags=tags, is_ruled=bool(row[13]))  # type: ignore[arg-type, misc]


def check_words(name: str, tags: Sequence[str]) -> list[str]:
    """The tags, each once and in order. Raises UsageError."""
    if len(name) > NAME_CHARS_MAX or not name.isprintable():
        printable = "".join(char for char in name if char.isprintable())[:NAME_CHARS_MAX] or "NAME"
        raise UsageError(
            f"a name has at most {NAME_CHARS_MAX} printable characters: {name[:80]!r}", mend=[f"--name {printable}"]
        )
    for tag in tags:
        if not tag or len(tag) > TAG_CHARS_MAX or not tag.isprintable():
            raise UsageError(f"a tag has 1 to {TAG_CHARS_MAX} printable characters: {tag[:80]!r}")
    if len(tags) > TAGS_MAX:
        raise UsageError(f"a document has at most {TAGS_MAX} tags, this has {len(tags)}")
    return sorted(set(tags))
