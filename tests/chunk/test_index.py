"""The index: versions forward and never back, what is newer or foreign is left alone, one writer and many readers."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from rage_net.chunk.index import MIGRATIONS, Index
from rage_net.chunk.store import open_store
from rage_net.errors import ConflictError, IntegrityError

NEXT = (*MIGRATIONS, "ALTER TABLE chunk ADD COLUMN colour TEXT NOT NULL DEFAULT 'grey'; CREATE TABLE extra (a)")


def put_row(index: Index, cid: bytes) -> None:
    with index.write() as db:
        db.execute(
            "INSERT INTO chunk (cid, size, stored, encoding, checksum, cached) VALUES (?, 1, 1, 'raw', x'', 0)", (cid,)
        )


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file() and "-shm" not in path.name}


def test_a_migration_goes_forward_and_keeps_a_copy_of_what_was(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.db")
    put_row(index, b"one")
    index.close()
    index = Index(tmp_path / "index.db", migrations=NEXT)
    with index.read() as db:
        assert db.execute("SELECT cid, colour FROM chunk").fetchall() == [(b"one", "grey")]
        assert db.execute("PRAGMA user_version").fetchone() == (len(NEXT),)
    index.close()
    kept = Index(tmp_path / f"index.db.v{len(MIGRATIONS)}")
    with kept.read() as db:
        assert db.execute("SELECT cid FROM chunk").fetchall() == [(b"one",)]
    kept.close()


def test_a_migration_that_fails_leaves_the_version_before_and_can_be_run_again(tmp_path: Path) -> None:
    Index(tmp_path / "index.db").close()
    broken = (*MIGRATIONS, "CREATE TABLE extra (a); INSERT INTO nowhere VALUES (1)")
    with pytest.raises(sqlite3.OperationalError):
        Index(tmp_path / "index.db", migrations=broken)
    index = Index(tmp_path / "index.db", migrations=NEXT)
    with index.read() as db:
        assert db.execute("SELECT count(*) FROM extra").fetchone() == (0,)
    index.close()


@pytest.mark.parametrize("clean", [True, False])
def test_a_newer_store_is_refused_and_not_altered(tmp_path: Path, clean: bool) -> None:
    newer = Index(tmp_path / "index.db", migrations=NEXT)
    put_row(newer, b"one")
    if clean:
        newer.close()
    before = contents(tmp_path)
    with pytest.raises(ConflictError) as caught:
        Index(tmp_path / "index.db")
    assert (caught.value.id, caught.value.exit_code) == ("newer-store", 9)
    assert contents(tmp_path) == before
    newer.close()


def test_another_programs_file_is_refused(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "index.db")
    db.executescript("CREATE TABLE theirs (a); PRAGMA user_version = 1")
    db.close()
    with pytest.raises(IntegrityError):
        Index(tmp_path / "index.db")
    (tmp_path / "garbage.db").write_bytes(b"no SQLite at all" * 1000)
    with pytest.raises(IntegrityError):
        Index(tmp_path / "garbage.db")


def test_a_failed_transaction_changes_nothing(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.db")
    with pytest.raises(ZeroDivisionError), index.write() as db:
        db.execute("INSERT INTO tag VALUES ('a', 'b')")
        raise ZeroDivisionError
    with index.read() as db:
        assert db.execute("SELECT count(*) FROM tag").fetchone() == (0,)
    put_row(index, b"one")
    index.close()


def test_readers_see_what_was_committed_while_a_writer_works(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.db")
    seen: list[int] = []

    def read() -> None:
        with index.read() as db:
            seen.append(db.execute("SELECT chunks FROM total").fetchone()[0])

    with index.write() as db:
        db.execute("UPDATE total SET chunks = 5")
        reader = threading.Thread(target=read)
        reader.start()
        reader.join()
    read()
    assert seen == [0, 5]
    index.close()


def test_a_put_commits_with_full_sync_and_a_cached_one_without(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.db")
    for durable, level in ((True, 2), (False, 1), (True, 2)):
        with index.write(durable=durable) as db:
            assert db.execute("PRAGMA synchronous").fetchone() == (level,)
    assert index._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    index.close()


def test_the_questions_asked_of_a_large_store_use_an_index(tmp_path: Path, world: object) -> None:
    store = open_store(tmp_path, world)  # type: ignore[arg-type]
    questions = (
        "SELECT 1 FROM chunk WHERE cid = ?",
        "SELECT count(*) FROM hold WHERE cid = ?",
        "SELECT cid FROM hold WHERE holder = ? LIMIT 128",
        "SELECT cid FROM chunk WHERE cid > ? ORDER BY cid LIMIT 10",
        "SELECT cid FROM chunk WHERE cached = 0 AND released_at IS NOT NULL AND released_at <= 5"
        " AND (released_at, id) > (?, 1) ORDER BY released_at, id LIMIT 10",
        "SELECT id FROM holder WHERE kind IN ('lease', 'gone') AND (kind = 'gone' OR session <> ?)",
        "SELECT doc_id FROM document WHERE root = ?",
        "SELECT doc_id FROM document WHERE expires_at <= ? ORDER BY expires_at, doc_id",
        "SELECT doc_id FROM document WHERE (name, doc_id) > (?, 'a') ORDER BY name, doc_id LIMIT 10",
        "SELECT 1 FROM holder WHERE kind = 'pin' AND root = ?",
        "SELECT id FROM holder WHERE kind = 'replica' AND root IS ?",
        "SELECT cid FROM hold WHERE holder = (SELECT id FROM holder WHERE kind = 'replica') AND cid > ? ORDER BY cid",
        "SELECT DISTINCT cid FROM hold WHERE cid > ? AND NOT EXISTS (SELECT 1 FROM chunk WHERE chunk.cid = hold.cid)"
        " AND (SELECT kind FROM holder WHERE holder.id = hold.holder) IN ('document', 'pin', 'replica')"
        " ORDER BY cid LIMIT 10",
    )
    with store.index.read() as db:
        for question in questions:
            plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {question}", (b"x",)).fetchall()]
            looks = [step for step in plan if "SCALAR SUBQUERY" not in step]
            assert all("SEARCH" in step or "USING" in step for step in looks), (question, plan)
            assert not any("TEMP B-TREE" in step for step in plan), (question, plan)
    store.close()


def test_a_store_of_the_first_version_keeps_its_documents_and_what_its_sources_called_public(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.db", migrations=MIGRATIONS[:1])
    put_row(index, b"one")
    put_row(index, b"two")
    row = ("d" * 26, 1, b"one", "name", 1, 1, "owner", "acme", "org", "", 0.0, None)
    with index.write() as db:
        db.execute("INSERT INTO vouched SELECT id FROM chunk WHERE cid = ?", (b"one",))
        db.execute(f"INSERT INTO document VALUES ({', '.join('?' * 12)})", row)
    index.close()
    index = Index(tmp_path / "index.db")
    with index.write() as db:
        assert db.execute("SELECT * FROM document").fetchall() == [(*row, 0)]
        attested = "SELECT cid, organisation, doc_id FROM attested JOIN chunk ON chunk.id = attested.chunk"
        assert db.execute(attested).fetchall() == [(b"one", "", "")]
        db.execute("DELETE FROM chunk")
        assert db.execute("SELECT count(*) FROM attested").fetchone() == (0,)
    index.close()
