"""index.db: what the store holds, and what holds it. SQLite, one writer, many readers.

Here are the schema, its versions and the two ways in: `read` and `write`. The rules that the rows obey stand beside
them, in triggers, so that no caller can forget one: totals follow the chunks; a chunk that something holds is not
released. Source: design D4, D7, 4.7; sqlite.org/wal.html.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from rage_net.chunk.room import Ballast, disk
from rage_net.errors import ConflictError, IntegrityError, StorageFullError

T = TypeVar("T")

APPLICATION_ID = 0x52414745
"""`RAGE`: tells a store from any other SQLite file."""
BUSY_TIMEOUT_S = 10.0
"""How long SQLite waits for a backup or a shell that reads the file; this process's own threads queue on a lock."""
WAL_BYTES_MAX = 16 * 1024 * 1024
"""The write-ahead log is cut back to this after a checkpoint."""
READERS_KEPT = 8
"""Idle read connections that are kept; each has a page cache of up to 2 MB."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE chunk (
        id          INTEGER PRIMARY KEY,
        cid         BLOB NOT NULL UNIQUE,       -- 36 bytes
        size        INTEGER NOT NULL,           -- plain bytes
        stored      INTEGER NOT NULL,           -- bytes at rest
        encoding    TEXT NOT NULL,              -- raw or zstd
        checksum    BLOB NOT NULL,              -- of the bytes at rest
        cached      INTEGER NOT NULL,           -- 1: fetched, not synced, evicted first
        released_at REAL                        -- since when nothing holds it; NULL while something does
    );
    CREATE INDEX chunk_released ON chunk (cached, released_at) WHERE released_at IS NOT NULL;

    CREATE TABLE body (                         -- small chunks at rest; the others are files
        chunk       INTEGER PRIMARY KEY,
        stored      BLOB NOT NULL
    );

    CREATE TABLE vouched (                      -- fetched from a peer who said that a public document holds it
        chunk       INTEGER PRIMARY KEY
    );

    CREATE TABLE holder (                       -- what holds chunks
        id          INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again: a release may still run for it
        kind        TEXT NOT NULL,              -- lease (a running put), document, pin, gone (being released)
        session     TEXT NOT NULL DEFAULT '',   -- of a lease: the process that took it
        root        BLOB                        -- of a pin
    );
    CREATE UNIQUE INDEX holder_pin ON holder (root) WHERE kind = 'pin';
    CREATE INDEX holder_passing ON holder (kind) WHERE kind IN ('lease', 'gone');

    CREATE TABLE hold (                         -- the chunk may be absent: then it is wanted
        holder       INTEGER NOT NULL,
        cid          BLOB NOT NULL,
        organisation TEXT,                      -- for which the document counts for the chunk; NULL: it only holds it
        PRIMARY KEY (holder, cid)
    ) WITHOUT ROWID;
    CREATE INDEX hold_cid ON hold (cid);

    CREATE TABLE document (
        doc_id       TEXT PRIMARY KEY,
        holder       INTEGER NOT NULL UNIQUE,
        root         BLOB NOT NULL,
        name         TEXT NOT NULL,
        size         INTEGER NOT NULL,
        chunks       INTEGER NOT NULL,
        owner        TEXT NOT NULL,
        organisation TEXT NOT NULL,
        visibility   TEXT NOT NULL,
        policy       TEXT NOT NULL,
        created_at   REAL NOT NULL,
        expires_at   REAL
    );
    CREATE UNIQUE INDEX document_name ON document (organisation, name) WHERE name <> '';
    CREATE INDEX document_order ON document (name, doc_id);
    CREATE INDEX document_root ON document (root);
    CREATE INDEX document_expires ON document (expires_at, doc_id) WHERE expires_at IS NOT NULL;

    CREATE TABLE tag (
        doc_id      TEXT NOT NULL,
        tag         TEXT NOT NULL,
        PRIMARY KEY (doc_id, tag)
    ) WITHOUT ROWID;
    CREATE INDEX tag_document ON tag (tag, doc_id);

    CREATE TABLE total (
        chunks        INTEGER NOT NULL,
        size          INTEGER NOT NULL,
        stored        INTEGER NOT NULL,
        cached_chunks INTEGER NOT NULL,
        cached_stored INTEGER NOT NULL
    );
    INSERT INTO total VALUES (0, 0, 0, 0, 0);

    CREATE TRIGGER chunk_added AFTER INSERT ON chunk BEGIN
        UPDATE total SET chunks = chunks + 1, size = size + new.size, stored = stored + new.stored,
            cached_chunks = cached_chunks + new.cached, cached_stored = cached_stored + new.cached * new.stored;
    END;
    CREATE TRIGGER chunk_changed AFTER UPDATE OF size, stored, cached ON chunk BEGIN
        UPDATE total SET size = size + new.size - old.size, stored = stored + new.stored - old.stored,
            cached_chunks = cached_chunks + new.cached - old.cached,
            cached_stored = cached_stored + new.cached * new.stored - old.cached * old.stored;
    END;
    CREATE TRIGGER chunk_gone AFTER DELETE ON chunk BEGIN
        DELETE FROM body WHERE chunk = old.id;
        DELETE FROM vouched WHERE chunk = old.id;
        UPDATE total SET chunks = chunks - 1, size = size - old.size, stored = stored - old.stored,
            cached_chunks = cached_chunks - old.cached, cached_stored = cached_stored - old.cached * old.stored;
    END;
    CREATE TRIGGER hold_added AFTER INSERT ON hold BEGIN
        UPDATE chunk SET released_at = NULL WHERE cid = new.cid AND released_at IS NOT NULL;
    END;
    CREATE TRIGGER document_gone AFTER DELETE ON document BEGIN
        DELETE FROM tag WHERE doc_id = old.doc_id;
    END;
    """,
)
"""Each takes a store from version n to n + 1, in one transaction. Never change one that was released: add one."""


class Index:
    """The connections to one index.db. Every method is safe from any thread; one process owns the file.

    `path` None keeps everything in memory, behind one connection. Raises ConflictError for a store written by a newer
    version, which is left as it is; StorageFullError when the disk is too full even with the ballast gone.
    """

    def __init__(
        self, path: Path | None, *, ballast: Ballast | None = None, migrations: Sequence[str] = MIGRATIONS
    ) -> None:
        self._path = path
        self._where = path or Path("memory")
        self._ballast = ballast
        self.lock = threading.RLock()
        """Held by the one writer; whoever holds it sees files and rows agree."""
        self._readers: deque[sqlite3.Connection] = deque()
        self._closed = False
        if path is not None:
            _refuse_newer(path, len(migrations))
        try:
            self._writer = self._open(migrations)
        except StorageFullError:
            if ballast is None or not ballast.drop():
                raise
            self._writer = self._open(migrations)
        self._durable = True

    def _open(self, migrations: Sequence[str]) -> sqlite3.Connection:
        with disk("open the index", self._where):
            db = self._connect()
            try:
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = FULL")
                db.execute("PRAGMA fullfsync = ON")  # of use on macOS alone
                db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_MAX}")
                _migrate(db, self._path, migrations)
            except BaseException:
                db.close()
                raise
        return db

    def _connect(self) -> sqlite3.Connection:
        name = ":memory:" if self._path is None else str(self._path)
        if self._path is not None:  # SQLite would leave the mode to the umask; its log takes the mode of the file
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(name, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA trusted_schema = OFF")
        return db

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection for SELECTs: each sees what was committed before it began."""
        if self._path is None:
            with self.lock:
                yield self._writer
            return
        with disk("read the index", self._where):
            try:
                db = self._readers.pop()
            except IndexError:
                db = self._connect()
            try:
                yield db
            finally:
                self._readers.append(db)
                if self._closed or len(self._readers) > READERS_KEPT:  # asked last: `close` may have run meanwhile
                    with contextlib.suppress(IndexError):
                        self._readers.pop().close()

    @contextlib.contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction, alone: committed at the end, rolled back when the body raises.

        Files in the store are published and removed under it too, so whoever holds it sees files and rows agree.
        `durable` False leaves the sync to the next durable one: for what is cache.
        """
        with self.lock, disk("write the index", self._where):
            db = self._writer
            if durable != self._durable:  # NORMAL appends to the log without a sync; a later FULL commit syncs it all
                db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._durable = durable
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:  # SQLite itself rolls back when the disk is full
                    db.execute("ROLLBACK")
                raise

    def shrink(self, change: Callable[[sqlite3.Connection], T], *, spend_ballast: bool = True) -> T:
        """One transaction that frees room: on a full disk it is tried again in the room of the ballast."""
        try:
            with self.write() as db:
                return change(db)
        except StorageFullError:
            if not spend_ballast or self._ballast is None or not self._ballast.drop():
                raise
        with self.write() as db:
            return change(db)

    def restore_ballast(self) -> None:
        """Reserve again what a full disk made us drop, if there is room."""
        if self._ballast is not None:
            self._ballast.restore()

    def close(self) -> None:
        """Close every connection; the last one folds the log into the file."""
        with self.lock:
            if self._closed:
                return
            self._closed = True
            while self._readers:
                self._readers.pop().close()
            self._writer.close()


def _refuse_newer(path: Path, known: int) -> None:
    """Raise for a file that is newer or no store of ours, without a write: SQLite opens it read-only."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with disk("open the index", path):
        mode = "mode=ro" if path.with_name(path.name + "-wal").exists() else "immutable=1"
        db = sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, timeout=BUSY_TIMEOUT_S)
        try:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            application = db.execute("PRAGMA application_id").fetchone()[0]
        finally:
            db.close()
    if version > known:
        raise ConflictError(
            f"{path} is of version {version}; this rage reads up to {known}",
            why="a newer rage wrote this store; it was not altered",
            mend=("pip install --upgrade rage-network",),
            id="newer-store",
        )
    if version and application != APPLICATION_ID:
        raise IntegrityError(f"{path} is no index of rage", why="another program wrote it", id="index-damaged")


def _migrate(db: sqlite3.Connection, path: Path | None, migrations: Sequence[str]) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == len(migrations):
        return
    if version and path is not None:
        _keep_copy(db, path, version)
    for step in range(version, len(migrations)):
        script = f"BEGIN IMMEDIATE; {migrations[step]}; PRAGMA application_id = {APPLICATION_ID};"
        try:
            db.executescript(f"{script} PRAGMA user_version = {step + 1}; COMMIT;")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


def _keep_copy(db: sqlite3.Connection, path: Path, version: int) -> None:
    """`index.db.v<version>`: the store as it was, whole or not there at all."""
    kept, part = path.with_name(f"{path.name}.v{version}"), path.with_name(f"{path.name}.v{version}.part")
    if kept.exists():
        return
    part.unlink(missing_ok=True)
    copy = sqlite3.connect(part)
    try:
        db.backup(copy)
    finally:
        copy.close()
    fd = os.open(part, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    part.replace(kept)
