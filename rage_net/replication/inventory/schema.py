"""replicas.db: its tables, and the queries that several methods share."""

from __future__ import annotations

APPLICATION_ID = 0x52475250
"""`RGRP`."""

MIGRATIONS = (
    """
    CREATE TABLE node (
        id      INTEGER PRIMARY KEY,            -- the number in home sets
        peer    BLOB NOT NULL UNIQUE            -- multihash
    );
    CREATE TABLE document (
        id           INTEGER PRIMARY KEY,
        organization TEXT NOT NULL,
        doc_id       TEXT NOT NULL,
        root         BLOB NOT NULL,
        owner        BLOB NOT NULL,
        policy       TEXT NOT NULL,
        factor       INTEGER NOT NULL,
        minimum      INTEGER NOT NULL,
        topology     TEXT NOT NULL,             -- which candidates: the organisations beside its own, by comma
        is_read      INTEGER NOT NULL DEFAULT 0,-- its manifest was read: all its chunks are members
        read_at      REAL NOT NULL DEFAULT 0,   -- when reading it is due
        tries        INTEGER NOT NULL DEFAULT 0,
        seen         INTEGER NOT NULL,          -- the round of reconciling that saw it
        UNIQUE (organization, doc_id)
    );
    CREATE INDEX document_root ON document (root);
    CREATE INDEX document_unread ON document (read_at) WHERE is_read = 0;
    CREATE TABLE chunk (
        id       INTEGER PRIMARY KEY,
        cid      BLOB NOT NULL UNIQUE,
        size     INTEGER NOT NULL,              -- plain bytes; an estimate for manifests
        document INTEGER NOT NULL,              -- the one whose policy governs it
        home     BLOB NOT NULL DEFAULT x'',     -- node numbers, best first
        first    INTEGER NOT NULL DEFAULT 0,    -- the first of them
        epoch    INTEGER NOT NULL DEFAULT 0,    -- of the topology that `home` was computed for; 0: not yet
        mine     INTEGER NOT NULL DEFAULT 0,    -- 1: home names us, 2: we were asked to hold it
        have     INTEGER NOT NULL DEFAULT 0,    -- 1: here, durable and held; 2: here, and kept whatever placement says
        since    REAL NOT NULL,                 -- when it became what `mine` and `have` are
        next_at  REAL NOT NULL DEFAULT 0,       -- when fetching or dropping it is due
        tries    INTEGER NOT NULL DEFAULT 0,
        audit_at REAL NOT NULL DEFAULT 0,       -- when its holders are to be asked again
        audits   INTEGER NOT NULL DEFAULT 0     -- rounds that did not find all copies proved, one after another
    );
    CREATE INDEX chunk_stale ON chunk (epoch);
    CREATE INDEX chunk_wanted ON chunk (next_at) WHERE mine > 0 AND have = 0;
    CREATE INDEX chunk_surplus ON chunk (next_at) WHERE mine = 0 AND have = 1;
    CREATE INDEX chunk_audit ON chunk (first, audit_at);
    CREATE INDEX chunk_document ON chunk (document);
    CREATE TABLE member (
        document INTEGER NOT NULL,
        chunk    INTEGER NOT NULL,
        PRIMARY KEY (document, chunk)
    ) WITHOUT ROWID;
    CREATE INDEX member_chunk ON member (chunk, document);
    CREATE TABLE proof (
        chunk    INTEGER NOT NULL,
        node     INTEGER NOT NULL,
        at       REAL NOT NULL,                 -- when it was asked last
        outcome  INTEGER NOT NULL,              -- see OUTCOMES
        since    REAL NOT NULL,                 -- since when it has proved, or has failed to
        PRIMARY KEY (chunk, node)
    ) WITHOUT ROWID;
    CREATE TABLE evidence (
        id        INTEGER PRIMARY KEY,
        peer      BLOB NOT NULL,
        at        REAL NOT NULL,
        cid       BLOB NOT NULL,
        statement BLOB NOT NULL,
        signature BLOB NOT NULL
    );
    CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    """,
    """
    ALTER TABLE chunk ADD COLUMN also TEXT NOT NULL DEFAULT '';    -- what other documents want: see Demand
    UPDATE chunk SET home = x'', first = 0, epoch = 0;             -- node numbers in `home` are u32 from here on
    CREATE INDEX chunk_orphan ON chunk (next_at) WHERE document = 0;
    """,
    """
    CREATE INDEX chunk_guest ON chunk (next_at) WHERE mine = 2;
    """,
)

CHUNK = (
    "chunk.id, chunk.cid, chunk.size, chunk.home, chunk.mine, chunk.have, chunk.tries, chunk.audits, chunk.since,"
    " document.organization, document.doc_id, document.owner, document.policy, document.factor, document.minimum,"
    " document.topology, chunk.also"
)
SHARED = (
    "SELECT mine.chunk FROM member AS mine WHERE mine.document = ? AND EXISTS"
    " (SELECT 1 FROM member AS other WHERE other.chunk = mine.chunk AND other.document <> mine.document)"
)
JOINED = f"SELECT {CHUNK} FROM chunk JOIN document ON document.id = chunk.document"  # noqa: S608
