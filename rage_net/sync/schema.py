"""log.db: the rows that the log keeps. `rage_net.database` opens the file.

Everything here can be fetched again from peers but our own chains, and evidence; so it is opened as carefully as the
index. Source: design D6, 4.7.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rage_net.database import Database

APPLICATION_ID = 0x5241474C
"""`RAGL`."""
CACHE_BYTES = 32 << 20
"""Of pages, for the writer: a hundred thousand new facts touch the indexes everywhere."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE organization (
        id          INTEGER PRIMARY KEY,
        name        TEXT NOT NULL UNIQUE,
        incarnation BLOB,                       -- 8 bytes: of our own chain there; NULL: not drawn yet
        lamport     INTEGER NOT NULL DEFAULT 0  -- the highest that was seen
    );

    CREATE TABLE chain (
        id           INTEGER PRIMARY KEY,
        organization INTEGER NOT NULL,
        author       BLOB NOT NULL,             -- peer id
        incarnation  BLOB NOT NULL,             -- 8 bytes
        sequence     INTEGER NOT NULL,          -- of its last entry here; of a closed chain, what its closing names
        hash         BLOB NOT NULL,             -- there
        bytes        INTEGER NOT NULL,          -- of payloads
        forked_at    INTEGER NOT NULL DEFAULT 0,-- the first sequence of which two are known; 0: none
        accepted     INTEGER,                   -- the last sequence that revocations accept; NULL: no limit
        is_closed    INTEGER NOT NULL DEFAULT 0,
        UNIQUE (organization, author, incarnation)
    );

    CREATE TABLE resource (                     -- what facts are, or once were, about
        id           INTEGER PRIMARY KEY,
        organization INTEGER NOT NULL,
        name         TEXT NOT NULL,
        UNIQUE (organization, name)
    );

    CREATE TABLE entry (                        -- in order of arrival
        id           INTEGER PRIMARY KEY,
        organization INTEGER NOT NULL,
        chain        INTEGER NOT NULL,
        sequence     INTEGER NOT NULL,
        part         INTEGER NOT NULL,          -- 0 the entry itself; 1.. payloads that it adopts
        kind         INTEGER NOT NULL,          -- the field number of its body; 0: hidden, or malformed
        resource     INTEGER NOT NULL,          -- 0 with kind 0
        fact         BLOB NOT NULL,             -- 16 bytes; of a hidden one, its payload's hash
        author       BLOB,                      -- of an adopted one
        payload      BLOB                       -- NULL: hidden
    );
    CREATE UNIQUE INDEX entry_place ON entry (chain, sequence, part);
    CREATE INDEX entry_resource ON entry (resource);
    CREATE INDEX entry_kind ON entry (organization, kind);
    CREATE INDEX entry_fact ON entry (fact);
    CREATE INDEX entry_adopted ON entry (organization, author) WHERE author IS NOT NULL;
    CREATE INDEX entry_hidden ON entry (chain, sequence) WHERE payload IS NULL;

    CREATE TABLE checkpoint (                   -- signatures that are kept: segments end at one
        chain        INTEGER NOT NULL,
        sequence     INTEGER NOT NULL,
        hash         BLOB NOT NULL,
        signature    BLOB NOT NULL,
        bytes        INTEGER NOT NULL,          -- of payloads up to here
        PRIMARY KEY (chain, sequence)
    ) WITHOUT ROWID;

    CREATE TABLE certificate (                  -- what was found of authors' certificates
        organization INTEGER NOT NULL,
        author       BLOB NOT NULL,
        fact         BLOB NOT NULL,
        capabilities TEXT,                      -- by blanks; NULL: it does not hold
        PRIMARY KEY (organization, author, fact)
    ) WITHOUT ROWID;

    CREATE TABLE evidence (                     -- of authors that signed two entries with one sequence
        chain        INTEGER PRIMARY KEY,
        sequence     INTEGER NOT NULL,
        ours         BLOB NOT NULL,             -- segments, payloads as hashes
        theirs       BLOB NOT NULL,
        found_at     REAL NOT NULL
    );

    CREATE TABLE document (                     -- what the facts about a document come to
        organization    INTEGER NOT NULL,
        doc_id          TEXT NOT NULL,
        root            BLOB NOT NULL,
        size            INTEGER NOT NULL,
        chunks          INTEGER NOT NULL,
        owner           BLOB NOT NULL,
        name            TEXT NOT NULL,
        tags            TEXT NOT NULL,          -- by line feeds
        policy          TEXT NOT NULL,
        retention_until INTEGER NOT NULL,
        created_at      INTEGER NOT NULL,
        is_dead         INTEGER NOT NULL,
        PRIMARY KEY (organization, doc_id)
    ) WITHOUT ROWID;
    CREATE INDEX document_name ON document (organization, name, doc_id);
    CREATE INDEX document_root ON document (root);

    CREATE TABLE dirty (                        -- documents whose row is older than their facts
        organization INTEGER NOT NULL,
        doc_id       TEXT NOT NULL,
        PRIMARY KEY (organization, doc_id)
    ) WITHOUT ROWID;
    """,
)
"""Each takes a log from version n to n + 1, in one transaction. Never change one that was released: add one."""


class LogFile(Database):
    """The connections to one log.db. `path` None keeps everything in memory. Raises as Database does."""

    def __init__(self, path: Path | None, *, migrations: Sequence[str] = MIGRATIONS) -> None:
        super().__init__(
            path, name="log", application_id=APPLICATION_ID, migrations=migrations, cache_bytes=CACHE_BYTES
        )
