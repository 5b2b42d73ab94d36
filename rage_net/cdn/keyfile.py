"""The keys of epochs that this node knows: `sealed.db`, 0600. They are in no log, in no answer of a verb, in no text.

With a key stands what a sealer must not forget: for which state of its document an epoch was begun, so that a
publication that was killed goes on instead of beginning again, and which root page it was published under, so that it
is deleted from the CDNs however often the node falls meanwhile.

The file is made when a first key is kept: a node that seals nothing and reads nothing sealed has none. A lost key is
no lost document: the plain bytes lie where they always did, and a new epoch seals them again. Blocking.

Source: issue 6, C; ADR 24.
"""

from __future__ import annotations

import threading
from pathlib import Path

from rage_net.cdn.sealing import Epoch
from rage_net.cid import Cid
from rage_net.database import Database

APPLICATION_ID = 0x52414753
"""`RAGS`."""

_MIGRATIONS = (
    """
    CREATE TABLE epoch (
        organization TEXT NOT NULL,
        doc_id       TEXT NOT NULL,
        id           BLOB NOT NULL,   -- 16 bytes
        key          BLOB NOT NULL,   -- 32 bytes
        state        BLOB,            -- digest of what it was begun for; NULL: not begun here
        sealed       BLOB,            -- CID of the root page that CDNs may hold; NULL: none that is known here
        PRIMARY KEY (organization, doc_id, id)
    ) WITHOUT ROWID;
    """,
)


class KeyFile:
    """Keys by organisation, document and epoch. `path` None keeps them in memory. Safe from any thread."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._database: Database | None = None
        self._lock = threading.Lock()

    # --- keys ---

    def get(self, organization: str, doc_id: str, id: bytes) -> Epoch | None:
        """An epoch, if its key is here. Raises as Database does."""
        database = self._open(is_new=False)
        if database is None:
            return None
        with database.read() as db:
            row = db.execute(
                "SELECT key FROM epoch WHERE organization = ? AND doc_id = ? AND id = ?", (organization, doc_id, id)
            ).fetchone()
        return None if row is None else Epoch(organization, doc_id, id, row[0])

    def put(self, epoch: Epoch, state: bytes | None = None) -> None:
        """Keep a key, durably. One that is here stays as it is: whatever it sealed would not open any more.

        Args: state: of one that is begun here, of what.
        """
        database = self._open(is_new=True)
        assert database is not None
        with database.write() as db:
            db.execute(
                "INSERT INTO epoch (organization, doc_id, id, key, state) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT DO NOTHING",
                (epoch.organization, epoch.doc_id, epoch.id, epoch.key, state),
            )

    def drop(self, epoch: Epoch) -> bool:
        """Forget a key: what it sealed is gone from the CDNs, or never came there. Whether it was here."""
        database = self._open(is_new=False)
        if database is None:
            return False
        with database.write() as db:
            gone = db.execute(
                "DELETE FROM epoch WHERE organization = ? AND doc_id = ? AND id = ?",
                (epoch.organization, epoch.doc_id, epoch.id),
            ).rowcount
        return bool(gone)

    # --- what a sealer remembers ---

    def begun(self, organization: str, doc_id: str, state: bytes) -> tuple[Epoch, ...]:
        """Epochs that were begun here for this state of the document."""
        rows = self._rows("organization = ? AND doc_id = ? AND state = ?", organization, doc_id, state)
        return tuple(epoch for epoch, _ in rows)

    def note(self, organization: str, doc_id: str, id: bytes, sealed: Cid) -> None:
        """CDNs may hold an epoch, under this root page. Nothing where its key is not here: it could not be read."""
        database = self._open(is_new=False)
        if database is not None:
            with database.write() as db:
                db.execute(
                    "UPDATE epoch SET sealed = ? WHERE organization = ? AND doc_id = ? AND id = ?",
                    (bytes(sealed), organization, doc_id, id),
                )

    def published(self, organization: str, doc_id: str) -> tuple[tuple[Epoch, Cid], ...]:
        """Epochs of a document that CDNs may hold, as was noted here, each with its root page."""
        rows = self._rows("organization = ? AND doc_id = ? AND sealed IS NOT NULL", organization, doc_id)
        return tuple((epoch, Cid.from_bytes(sealed)) for epoch, sealed in rows if sealed is not None)

    def documents(self, organization: str) -> tuple[str, ...]:
        """Ids of documents of which CDNs may hold an epoch, as was noted here: each is to be looked at."""
        rows = self._rows("organization = ? AND sealed IS NOT NULL", organization)
        return tuple(dict.fromkeys(epoch.doc_id for epoch, _ in rows))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    def _rows(self, where: str, *values: object) -> list[tuple[Epoch, bytes | None]]:
        database = self._open(is_new=False)
        if database is None:
            return []
        with database.read() as db:
            rows = db.execute(
                f"SELECT organization, doc_id, id, key, sealed FROM epoch WHERE {where} ORDER BY doc_id, id",  # noqa: S608
                values,
            ).fetchall()
        return [(Epoch(*row[:4]), row[4]) for row in rows]

    def _open(self, *, is_new: bool) -> Database | None:
        with self._lock:
            if self._database is None and (is_new or (self._path is not None and self._path.exists())):
                self._database = Database(
                    self._path, name="file of keys", application_id=APPLICATION_ID, migrations=_MIGRATIONS
                )
                with self._database.write(durable=False) as db:
                    db.execute("PRAGMA secure_delete = ON")  # a key that goes is overwritten, not only unlinked
            return self._database
