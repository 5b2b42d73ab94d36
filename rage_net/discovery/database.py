"""The file of a registry: its schema and versions, how it is opened, and what SQLite says when it fails.

A file that is damaged is put aside, for an empty registry fills again within a heartbeat. One that a newer rage wrote
is refused, never altered. Blocking.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from rage_net.errors import ConflictError, IntegrityError, StorageFullError, UnavailableError

log = logging.getLogger("rage.discovery")

APPLICATION_ID = 0x52414744
"""`RAGD`."""
BUSY_TIMEOUT_S = 5.0
WAL_BYTES_MAX = 4 * 1024 * 1024

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE peer (
        peer_id       BLOB PRIMARY KEY,     -- multihash
        addresses     TEXT NOT NULL,        -- multiaddrs, by blanks
        scope         INTEGER NOT NULL,     -- the widest of them
        organization  TEXT NOT NULL,        -- claimed
        region        TEXT NOT NULL,
        zone          TEXT NOT NULL,
        capabilities  TEXT NOT NULL,        -- by blanks
        private       INTEGER NOT NULL,
        members       TEXT NOT NULL,        -- peer ids, by blanks
        instance      TEXT NOT NULL,
        sequence      INTEGER NOT NULL,
        source        TEXT NOT NULL,        -- the address it was registered from
        address       TEXT NOT NULL,        -- that as one host counts
        site          TEXT NOT NULL,        -- that as one site counts
        seen_at       REAL NOT NULL,
        expires_at    REAL NOT NULL,
        rank          INTEGER NOT NULL,     -- 0 reached, 1 not tried, 2 tried in vain
        checked_at    REAL,                 -- when that was found
        draw          INTEGER NOT NULL      -- random: where a sample begins
    ) WITHOUT ROWID;
    CREATE INDEX peer_order ON peer (rank, peer_id);
    CREATE INDEX peer_draw ON peer (rank, draw);
    CREATE INDEX peer_expires ON peer (expires_at, rank);
    CREATE INDEX peer_organization ON peer (organization, rank, peer_id);
    CREATE INDEX peer_region ON peer (region, rank, peer_id);
    CREATE INDEX peer_address ON peer (address);
    CREATE INDEX peer_site ON peer (site);

    CREATE TABLE capability (               -- the same as in `peer`, to be found by
        name          TEXT NOT NULL,
        peer_id       BLOB NOT NULL,
        PRIMARY KEY (name, peer_id)
    ) WITHOUT ROWID;
    CREATE INDEX capability_peer ON capability (peer_id);
    CREATE TRIGGER peer_gone AFTER DELETE ON peer BEGIN
        DELETE FROM capability WHERE peer_id = old.peer_id;
    END;
    """,
)
"""Each takes a registry from version n to n + 1. Never change one that was released: add one."""


def open_file(path: Path | None) -> sqlite3.Connection:
    """The one connection to a registry, migrated; None keeps it in memory. Call it within `disk`.

    Raises: ConflictError `newer-store`; IntegrityError for another program's file.
    """
    if path is None:
        return _prepare(sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False), path)
    try:
        return _connect(path)
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise
    aside = path.with_name(path.name + ".damaged")
    log.warning("%s is damaged and put aside as %s; peers register again at their next heartbeat", path, aside.name)
    path.replace(aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        return _prepare(db, path)
    except BaseException:
        db.close()
        raise


def _prepare(db: sqlite3.Connection, path: Path | None) -> sqlite3.Connection:
    db.execute("PRAGMA trusted_schema = OFF")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    application = db.execute("PRAGMA application_id").fetchone()[0]
    if (version or application) and application != APPLICATION_ID:
        raise IntegrityError(f"{path} is no registry of rage", why="another program wrote it", id="registry-foreign")
    if version > len(MIGRATIONS):
        raise ConflictError(
            f"{path} is of version {version}; this rage reads up to {len(MIGRATIONS)}",
            why="a newer rage wrote it; it was not altered",
            mend=["pip install --upgrade rage-network"],
            id="newer-store",
        )
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_MAX}")
    for step in range(version, len(MIGRATIONS)):
        script = f"BEGIN IMMEDIATE; {MIGRATIONS[step]}; PRAGMA application_id = {APPLICATION_ID};"
        db.executescript(f"{script} PRAGMA user_version = {step + 1}; COMMIT;")
    db.execute("SELECT count(*) FROM peer").fetchone()  # damage shows now, not at the first request
    return db


@contextlib.contextmanager
def disk() -> Iterator[None]:
    """What SQLite says, as what the caller can do about it."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            raise StorageFullError("the registry has no room", why=str(error), mend=["df -h"]) from error
        raise UnavailableError("the registry cannot be used", why=str(error), id="storage-unavailable") from error
    except sqlite3.DatabaseError as error:
        raise IntegrityError(
            "the registry is damaged", why=str(error), mend=["restart: it is put aside"], id="registry-damaged"
        ) from error
