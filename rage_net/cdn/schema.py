"""The journal of purges as SQLite has it: its tables, and the two questions about all of them.

Source: issue 6, B. Not here: what is written and when (cdn.journal), the tables of `holdings`.
"""

from __future__ import annotations

from rage_net.cdn.holdings import TABLES

APPLICATION_ID = int.from_bytes(b"rCDN", "big")

MIGRATIONS = (
    """
    CREATE TABLE purge (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        asked_at REAL NOT NULL,
        cause TEXT NOT NULL,
        label TEXT NOT NULL,
        doc_id TEXT NOT NULL,
        objects TEXT NOT NULL,
        impossible TEXT NOT NULL
    );
    CREATE INDEX purge_by_time ON purge (asked_at);
    CREATE TABLE call (
        reference TEXT PRIMARY KEY,
        provider TEXT NOT NULL,
        edge TEXT NOT NULL,
        soft INTEGER NOT NULL,
        state TEXT NOT NULL,
        vendor_id TEXT NOT NULL DEFAULT '',
        objects INTEGER,
        reason TEXT NOT NULL DEFAULT '',
        code TEXT NOT NULL DEFAULT '',
        mend TEXT NOT NULL DEFAULT '[]',
        tries INTEGER NOT NULL DEFAULT 0,
        due_at REAL NOT NULL,
        sent_at REAL NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
    CREATE INDEX call_open ON call (provider, edge, state, due_at) WHERE state IN ('queued', 'pending');
    CREATE TABLE work (
        number INTEGER PRIMARY KEY,
        provider TEXT NOT NULL,
        edge TEXT NOT NULL,
        kind TEXT NOT NULL,
        word TEXT NOT NULL,
        soft INTEGER NOT NULL,
        reference TEXT NOT NULL DEFAULT ''
    );
    CREATE UNIQUE INDEX work_unsent ON work (provider, edge, kind, word, soft) WHERE reference = '';
    CREATE INDEX work_in_order ON work (provider, edge, soft, kind, number) WHERE reference = '';
    CREATE INDEX work_of_call ON work (reference) WHERE reference != '';
    CREATE TABLE wanted (
        purge INTEGER NOT NULL,
        work INTEGER NOT NULL,
        PRIMARY KEY (purge, work)
    ) WITHOUT ROWID;
    CREATE INDEX wanted_of_work ON wanted (work);
    CREATE TABLE quota (
        provider TEXT NOT NULL,
        bucket TEXT NOT NULL,
        tokens REAL NOT NULL,
        at REAL NOT NULL,
        PRIMARY KEY (provider, bucket)
    ) WITHOUT ROWID;
    """
    + TABLES,
)


OPEN = (
    "SELECT wanted.purge FROM work JOIN wanted ON wanted.work = work.number WHERE work.reference = ''"
    " UNION SELECT wanted.purge FROM call JOIN work ON work.reference = call.reference AND work.reference != ''"
    " JOIN wanted ON wanted.work = work.number WHERE call.state IN ('queued', 'pending')"
)
"""Numbers of purges that have not ended: from what waits, for most work has gone."""
FAILED = """
    WITH refused AS MATERIALIZED (
        SELECT work.number, work.provider, work.edge, work.kind, work.word
        FROM call JOIN work ON work.reference = call.reference AND work.reference != ''
        WHERE call.state = 'failed'
    ), words AS (
        SELECT provider, edge, kind, word,
            max(CASE WHEN soft = 0 AND state = 'failed' THEN number ELSE 0 END) AS failed,
            max(CASE WHEN soft = 0 AND state != 'failed' THEN number ELSE 0 END) AS taken,
            max(CASE WHEN soft = 1 AND state = 'failed' THEN number ELSE 0 END) AS soft_failed,
            max(CASE WHEN soft = 1 AND state != 'failed' THEN number ELSE 0 END) AS soft_taken
        FROM (
            SELECT work.*, coalesce(call.state, 'queued') AS state
            FROM work LEFT JOIN call ON call.reference = work.reference AND work.reference != ''
            WHERE work.number >= (SELECT min(number) FROM refused)
            AND (work.provider, work.edge, work.kind, work.word) IN (
                SELECT provider, edge, kind, word FROM refused
            )
        )
        GROUP BY provider, edge, kind, word
    )
    SELECT provider, edge, 0 AS soft, kind, word FROM words WHERE failed > taken
    UNION ALL
    SELECT provider, edge, 1, kind, word FROM words WHERE soft_failed > max(taken, soft_taken)
"""
"""Words whose last refusal is later than what was taken. One pass, and none where nothing was refused: a look for later
rows from each row would take minutes where a token was refused for ten thousand words."""
