"""index.db: what the store holds, and what holds it.

Here are the schema and its versions; `rage_net.database` opens the file. The rules that the rows obey stand beside
them, in triggers, so that no caller can forget one: totals follow the chunks; a chunk that something holds is not
released. Source: design D4, D7, 4.7.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rage_net.database import Ballast, Database

APPLICATION_ID = 0x52414745
"""`RAGE`: tells a store from any other SQLite file."""

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
        kind        TEXT NOT NULL,              -- lease (a running put), document, pin, replica, gone (being released)
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
    """
    ALTER TABLE document ADD COLUMN ruled INTEGER NOT NULL DEFAULT 0;  -- 1: facts say who may; visibility is not all

    CREATE TABLE attested (                     -- fetched from a peer who said which documents the chunk is for
        id           INTEGER PRIMARY KEY,       -- the newest is the greatest
        chunk        INTEGER NOT NULL,
        organisation TEXT NOT NULL,
        doc_id       TEXT NOT NULL,             -- both empty: it only said that a public document holds it
        UNIQUE (chunk, organisation, doc_id)
    );
    CREATE INDEX attested_document ON attested (organisation, doc_id) WHERE doc_id <> '';
    INSERT INTO attested (chunk, organisation, doc_id) SELECT chunk, '', '' FROM vouched;

    DROP TRIGGER chunk_gone;
    CREATE TRIGGER chunk_gone AFTER DELETE ON chunk BEGIN
        DELETE FROM body WHERE chunk = old.id;
        DELETE FROM attested WHERE chunk = old.id;
        UPDATE total SET chunks = chunks - 1, size = size - old.size, stored = stored - old.stored,
            cached_chunks = cached_chunks - old.cached, cached_stored = cached_stored - old.cached * old.stored;
    END;
    DROP TABLE vouched;
    """,
    """
    CREATE UNIQUE INDEX holder_replica ON holder (kind) WHERE kind = 'replica';  -- one of a store

    CREATE TABLE scrub (                        -- one row: how far reading everything again has come
        began_at REAL NOT NULL,                 -- of this pass
        length_s REAL NOT NULL,                 -- what it was drawn to take
        after    BLOB NOT NULL,                 -- the last chunk it has read
        chunks   INTEGER NOT NULL,              -- it has read so far
        size     INTEGER NOT NULL,              -- plain bytes of these
        bad      INTEGER NOT NULL,
        is_done  INTEGER NOT NULL,              -- 1: all were read, the next pass is not due yet
        ended_at REAL                           -- when a pass last came to its end; NULL: none has
    );
    """,
)
"""Each takes a store from version n to n + 1, in one transaction. Never change one that was released: add one."""


class Index(Database):
    """The connections to one index.db: files in the store are published and removed under its lock.

    `path` None keeps everything in memory. Raises as Database does.
    """

    def __init__(
        self, path: Path | None, *, ballast: Ballast | None = None, migrations: Sequence[str] = MIGRATIONS
    ) -> None:
        super().__init__(path, name="index", application_id=APPLICATION_ID, migrations=migrations, ballast=ballast)
