"""The keys of epochs that this node knows: `sealed.db`, 0600. They are in no log, in no answer of a verb, in no text.

With a key stands for which state of its document an epoch was begun here, so that a publication that was killed goes
on instead of beginning again.

The file is made when a first key is kept: a node that seals nothing and reads nothing sealed has none. A lost key is
no lost document: the plain bytes lie where they always did, and a new epoch seals them again. Blocking.

Source: issue 6, C; ADR 24.
"""

from __future__ import annotations

import threading
from pathlib import Path

from rage_net.cdn.sealing import Epoch
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

    def put(self, epoch: Epoch, state: bytes) -> None:
        """Keep the key of an epoch that is begun here, durably. Args: state: of what it is begun.

        One that is here stays as it is: whatever it sealed would not open any more.
        """
        database = self._open(is_new=True)
        assert database is not None
        with database.write() as db:
            db.execute(
                "INSERT INTO epoch (organization, doc_id, id, key, state) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT DO NOTHING",
                (epoch.organization, epoch.doc_id, epoch.id, epoch.key, state),
            )

    def receive(self, epoch: Epoch) -> None:
        """Keep a key that another node gave, in the place of those of the document that others gave before."""
        database = self._open(is_new=True)
        assert database is not None
        with database.write() as db:
            name = epoch.organization, epoch.doc_id, epoch.id
            db.execute(
                "DELETE FROM epoch WHERE organization = ? AND doc_id = ? AND id <> ? AND state IS NULL",
                name,
            )
            db.execute(
                "INSERT INTO epoch (organization, doc_id, id, key) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (*name, epoch.key),
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

    def begun(self, organization: str, doc_id: str, state: bytes) -> tuple[Epoch, ...]:
        """Epochs that were begun here for this state of the document."""
        database = self._open(is_new=False)
        if database is None:
            return ()
        with database.read() as db:
            rows = db.execute(
                "SELECT id, key FROM epoch WHERE organization = ? AND doc_id = ? AND state = ? ORDER BY id",
                (organization, doc_id, state),
            ).fetchall()
        return tuple(Epoch(organization, doc_id, *row) for row in rows)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    def _open(self, *, is_new: bool) -> Database | None:
        with self._lock:
            if self._database is None and (is_new or (self._path is not None and self._path.exists())):
                self._database = Database(
                    self._path, name="file of keys", application_id=APPLICATION_ID, migrations=_MIGRATIONS
                )
                with self._database.write(durable=False) as db:
                    db.execute("PRAGMA secure_delete = ON")  # a key that goes is overwritten, not only unlinked
            return self._database
