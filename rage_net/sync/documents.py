"""The catalog as rows: what the facts about each document come to, kept beside the log so that it can be paged.

A document that facts touched is marked in the same transaction and built again soon after, so a kill loses nothing.
Blocking; internal to the log but for `DocumentRow`.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from rage_net.cid import Cid
from rage_net.libp2p.peer_id import PeerId
from rage_net.sync.catalog import CountedEdit, build
from rage_net.sync.chains import View, facts_about
from rage_net.sync.facts import Document, Edit, Tombstone
from rage_net.sync.rights import Counting, counting

_COLUMNS = "doc_id, root, size, chunks, owner, name, tags, policy, retention_until, created_at, is_dead"


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """A document as the log has it."""

    organization: str
    doc_id: str
    root: Cid
    size: int
    chunks: int
    owner: PeerId
    name: str
    tags: tuple[str, ...]
    policy: str
    retention_until: int
    """Seconds since the epoch; 0 for good."""
    created_at: int
    is_dead: bool
    """A tombstone stands: its bytes go."""


def counted_edits(view: View, counted: Counting) -> tuple[CountedEdit, ...]:
    """The edits among what counts, with the client ids that each may advance."""
    return tuple(
        CountedEdit(fact.id, fact.lamport, view.clients(fact.author), fact.body.update)
        for fact in counted.facts
        if isinstance(fact.body, Edit)
    )


def rebuild(db: sqlite3.Connection, view: View, count: int) -> int:
    """Build again at most `count` documents that are marked. Returns: how many were."""
    marked = [
        row[0]
        for row in db.execute(
            "SELECT doc_id FROM dirty WHERE organization = ? ORDER BY doc_id LIMIT ?", (view.key, count)
        ).fetchall()
    ]
    for doc_id in marked:
        _rebuild_one(db, view, doc_id)
    db.executemany("DELETE FROM dirty WHERE organization = ? AND doc_id = ?", [(view.key, doc_id) for doc_id in marked])
    return len(marked)


def _rebuild_one(db: sqlite3.Connection, view: View, doc_id: str) -> None:
    counted = counting(facts_about(db, view, f"doc:{doc_id}"), view.authority)
    moves = [fact for fact in counted.current if isinstance(fact.body, Document)]
    if counted.owner is None or not moves:
        db.execute("DELETE FROM document WHERE organization = ? AND doc_id = ?", (view.key, doc_id))
        return
    newest = moves[-1].body
    first = next(
        fact.body for fact in counted.facts if fact.author == counted.owner and isinstance(fact.body, Document)
    )
    assert isinstance(newest, Document) and isinstance(first, Document)
    record, _ = build(counted_edits(view, counted))
    is_dead = any(isinstance(fact.body, Tombstone) for fact in counted.facts)
    db.execute(
        f"INSERT OR REPLACE INTO document (organization, {_COLUMNS})"  # noqa: S608
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            view.key,
            doc_id,
            bytes(newest.root),
            newest.size,
            newest.chunks,
            counted.owner.multihash,
            record.name,
            "\n".join(record.tags),
            record.policy,
            record.retention_until,
            first.created_at,
            is_dead,
        ),
    )


def read_documents(
    db: sqlite3.Connection,
    organization: int,
    name_of: str,
    *,
    doc_id: str | None,
    name: str | None,
    root: Cid | None,
    tag: str | None,
    after: tuple[str, str] | None,
    limit: int,
) -> tuple[DocumentRow, ...]:
    """A page of documents, by name then id."""
    where, values = ["organization = ?"], [organization]
    given: list[tuple[str, object]] = [
        ("doc_id = ?", doc_id),
        ("name = ?", name),
        ("root = ?", None if root is None else bytes(root)),
        ("instr(char(10) || tags || char(10), char(10) || ? || char(10)) > 0", tag),
    ]
    more: list[object] = list(values)
    for condition, value in given:
        if value is not None:
            where.append(condition)
            more.append(value)
    if after is not None:
        where.append("(name, doc_id) > (?, ?)")
        more += after
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM document WHERE {' AND '.join(where)} ORDER BY name, doc_id LIMIT ?",  # noqa: S608
        (*more, limit),
    ).fetchall()
    return tuple(
        DocumentRow(
            organization=name_of,
            doc_id=row[0],
            root=Cid.from_bytes(row[1]),
            size=row[2],
            chunks=row[3],
            owner=PeerId(row[4]),
            name=row[5],
            tags=tuple(row[6].split("\n")) if row[6] else (),
            policy=row[7],
            retention_until=row[8],
            created_at=row[9],
            is_dead=bool(row[10]),
        )
        for row in rows
    )
