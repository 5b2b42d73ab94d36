"""What CDNs and their buckets may hold of us, and the purges that are owed when they may hold it no longer.

    exposed   documents that CDNs may hold, as they are public now       owed      purges that their changes ask for
    sealed    ciphertexts that were put into buckets, by epoch           filling   public blocks that are being put

Tables of the journal's file, so that what is owed is as durable as what was asked. What is about to leave this node is
noted before it goes: a process that is killed leaves nothing in a bucket of which nobody knows.

Source: issue 6, B and C. Blocking; safe from any thread. Not here: purges and calls (cdn.journal).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rage_net.database import Database

OWED_AT_ONCE = 1000
"""Rows that are read at once, the next that are due first."""

TABLES = """
    CREATE TABLE exposed (
        doc_id TEXT PRIMARY KEY,
        organization TEXT NOT NULL,
        root TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE owed (
        id TEXT NOT NULL,
        provider TEXT NOT NULL,
        doc_id TEXT NOT NULL,
        organization TEXT NOT NULL,
        root TEXT NOT NULL,
        cause TEXT NOT NULL,
        events TEXT NOT NULL,
        due_at REAL NOT NULL,
        step INTEGER NOT NULL,
        since REAL NOT NULL,
        purge TEXT NOT NULL,
        PRIMARY KEY (id, provider)
    ) WITHOUT ROWID;
    CREATE INDEX owed_by_time ON owed (due_at);
    CREATE INDEX owed_by_document ON owed (doc_id) WHERE step = 0;
    CREATE TABLE sealed (
        epoch TEXT NOT NULL,
        cid TEXT NOT NULL,
        doc_id TEXT NOT NULL,
        PRIMARY KEY (epoch, cid)
    ) WITHOUT ROWID;
    CREATE INDEX sealed_by_document ON sealed (doc_id, epoch);
    CREATE TABLE filling (
        run TEXT NOT NULL,
        cid TEXT NOT NULL,
        PRIMARY KEY (run, cid)
    ) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Exposed:
    """A document that CDNs may hold, and the root under which they may."""

    doc_id: str
    organization: str
    root: str


@dataclass(frozen=True, slots=True)
class Owed:
    """A purge that a document's change asks for by itself, until it is proved: first as a whole, then at each CDN.

    `cause`: narrowed, removed or moved. `events`: ids of the facts that asked for it, hex. Of one that has begun:
    `provider`, the `step` it has come to there (`owing`), since when, and the id of the `purge` that must end for it.
    """

    id: str
    document: Exposed
    cause: str
    events: tuple[str, ...]
    due_at: float
    provider: str = ""
    step: int = 0
    since: float = 0.0
    purge: str = ""


class Holdings:
    """Those of one home; `db` is the journal's."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # --- what CDNs may hold ---

    def exposed(self, doc_ids: Sequence[str] | None = None) -> list[Exposed]:
        """Documents that CDNs may hold: all, or those of these."""
        with self._db.read() as db:
            if doc_ids is None:
                rows = db.execute("SELECT doc_id, organization, root FROM exposed").fetchall()
            else:
                rows = [
                    row
                    for doc_id in doc_ids
                    for row in db.execute(
                        "SELECT doc_id, organization, root FROM exposed WHERE doc_id = ?", (doc_id,)
                    ).fetchall()
                ]
        return [Exposed(*row) for row in rows]

    def expose(self, now_public: Sequence[Exposed], owed: Sequence[Owed], gone: Sequence[str]) -> None:
        """Note at once what CDNs may hold from now on, what they may not, and the purges that this asks for.

        A purge that has not begun is joined with the next one of the same document and bytes: whoever shows and hides a
        document again and again brings about one purge in the time that others wait, not one each time.
        """
        with self._db.write() as db:
            db.executemany(
                "INSERT OR REPLACE INTO exposed VALUES (?, ?, ?)",
                ((it.doc_id, it.organization, it.root) for it in now_public),
            )
            db.executemany("DELETE FROM exposed WHERE doc_id = ?", ((doc_id,) for doc_id in gone))
            for it in owed:
                _owe(db, it)

    # --- what is owed ---

    def owed(self) -> list[Owed]:
        """Purges that are owed, the next that is due first; OWED_AT_ONCE at most."""
        return self._owed("", ())

    def due(self, now: float, late: float) -> list[Owed]:
        """Those of them whose time has come: `late` is when none is due, so that the clock was set back since."""
        return self._owed("WHERE due_at <= ? OR due_at > ?", (now, late))

    def _owed(self, where: str, values: Sequence[float]) -> list[Owed]:
        with self._db.read() as db:
            rows = db.execute(
                "SELECT id, doc_id, organization, root, cause, events, due_at, provider, step, since, purge FROM owed"  # noqa: S608  constants
                f" {where} ORDER BY due_at LIMIT ?",
                (*values, OWED_AT_ONCE),
            ).fetchall()
        return [Owed(row[0], Exposed(*row[1:4]), row[4], tuple(json.loads(row[5])), *row[6:]) for row in rows]

    def next_owed(self, after: float = 0.0) -> float | None:
        """When the next owed purge is due that is due after this; None when none is."""
        with self._db.read() as db:
            row = db.execute("SELECT min(due_at) FROM owed WHERE due_at > ?", (after,)).fetchone()
        return None if row[0] is None else float(row[0])

    def turn(self, before: Sequence[Owed], after: Sequence[Owed]) -> None:
        """What was owed has become this; without a successor it is owed no more."""
        with self._db.write() as db:
            db.executemany(
                "DELETE FROM owed WHERE id = ? AND provider = ?", [(owed.id, owed.provider) for owed in before]
            )
            db.executemany(_INSERT, [_row(owed) for owed in after])

    # --- what was put into buckets as ciphertext ---

    def note_sealed(self, doc_id: str, epoch: str, names: Sequence[str]) -> None:
        """Ciphertexts are about to be put; durable when it returns."""
        with self._db.write() as db:
            db.executemany(
                "INSERT OR IGNORE INTO sealed (epoch, cid, doc_id) VALUES (?, ?, ?)",
                ((epoch, name, doc_id) for name in names),
            )

    def sealed_documents(self) -> list[str]:
        """Documents of which buckets may hold ciphertexts that we put there."""
        with self._db.read() as db:
            return [row[0] for row in db.execute("SELECT DISTINCT doc_id FROM sealed ORDER BY doc_id")]

    def sealed_epochs(self, doc_id: str) -> list[str]:
        """Epochs of a document of which buckets may hold something."""
        with self._db.read() as db:
            return [row[0] for row in db.execute("SELECT DISTINCT epoch FROM sealed WHERE doc_id = ?", (doc_id,))]

    def sealed_names(self, epoch: str, limit: int) -> list[str]:
        """CIDs of what was put for an epoch: the first `limit` that are not forgotten, in order."""
        with self._db.read() as db:
            rows = db.execute("SELECT cid FROM sealed WHERE epoch = ? ORDER BY cid LIMIT ?", (epoch, limit))
            return [row[0] for row in rows]

    def count_sealed(self, epoch: str) -> int:
        """How many were put for an epoch and are not forgotten."""
        with self._db.read() as db:
            row = db.execute("SELECT count(*) FROM sealed WHERE epoch = ?", (epoch,)).fetchone()
        return int(row[0])

    def forget_sealed(self, epoch: str, last: str) -> None:
        """Those up to this one are gone everywhere."""
        with self._db.write() as db:
            db.execute("DELETE FROM sealed WHERE epoch = ? AND cid <= ?", (epoch, last))

    # --- public blocks that are being put into buckets ---

    def note_filling(self, run: str, names: Sequence[str]) -> None:
        """Public blocks are about to be put by one run of one process; durable when it returns."""
        with self._db.write() as db:
            db.executemany("INSERT OR IGNORE INTO filling VALUES (?, ?)", ((run, name) for name in names))

    def filled(self, run: str) -> None:
        """Each of them was public still after it had been put, or is being deleted."""
        with self._db.write(durable=False) as db:
            db.execute("DELETE FROM filling WHERE run = ?", (run,))

    def fillings(self) -> dict[str, tuple[str, ...]]:
        """CIDs by run: right after the start, what earlier processes did not see to an end."""
        found: dict[str, list[str]] = {}
        with self._db.read() as db:
            for run, name in db.execute("SELECT run, cid FROM filling ORDER BY run, cid"):
                found.setdefault(run, []).append(name)
        return {run: tuple(names) for run, names in found.items()}


_INSERT = (
    "INSERT OR REPLACE INTO owed"
    " (id, provider, doc_id, organization, root, cause, events, due_at, step, since, purge)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def _row(owed: Owed) -> tuple[object, ...]:
    shown = owed.document
    whose = (owed.id, owed.provider, shown.doc_id, shown.organization, shown.root)
    return (*whose, owed.cause, json.dumps(owed.events), owed.due_at, owed.step, owed.since, owed.purge)


def _owe(db: sqlite3.Connection, owed: Owed) -> None:
    """One purge more; one that has not begun goes into it, with its time and, where this one is a move, its cause."""
    if db.execute("SELECT 1 FROM owed WHERE id = ?", (owed.id,)).fetchone():
        return
    where = "doc_id = ? AND organization = ? AND root = ? AND step = 0"
    document = (owed.document.doc_id, owed.document.organization, owed.document.root)
    cause, due_at = owed.cause, owed.due_at
    for earlier, due in db.execute(f"SELECT cause, due_at FROM owed WHERE {where}", document):  # noqa: S608  constant
        cause = earlier if cause == "moved" else cause
        due_at = min(due_at, due)
    db.execute(f"DELETE FROM owed WHERE {where}", document)  # noqa: S608  a constant
    db.execute(_INSERT, _row(replace(owed, cause=cause, due_at=due_at)))
