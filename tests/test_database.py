"""What one file of rows promises to whoever else looks into it."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from rage_net import database as database_
from rage_net.database import Database
from rage_net.errors import IntegrityError, UnavailableError

TABLE = ("CREATE TABLE t (n INTEGER)",)
SHELL = (
    "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); print(db.execute('SELECT count(*) FROM t').fetchone()[0])"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


def look(path: Path) -> int:
    """As an operator's shell, or a backup: another process opens the file, reads, and closes it."""
    done = subprocess.run(
        [sys.executable, "-c", SHELL + "; db.close()", path], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_another_process_that_reads_the_file_and_closes_it_leaves_the_log_alone(path: Path) -> None:
    with closing(Database(path, name="a", application_id=1, migrations=TABLE)) as database:
        for rows in range(3):
            with database.write() as db:
                db.execute("INSERT INTO t VALUES (1)")
            with database.read() as db, database.read() as other:  # a connection more
                assert (
                    db.execute("SELECT count(*) FROM t").fetchone()
                    == other.execute("SELECT count(*) FROM t").fetchone()
                )
            assert look(path) == rows + 1
            assert path.with_name("a.db-wal").exists(), "it took itself for the last one: our locks are gone"
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("SELECT count(*) FROM t").fetchone() == (3,)


def test_a_shell_that_holds_the_file_locked_is_told_from_a_disk_that_fails(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_, "BUSY_TIMEOUT_S", 0.01)
    with closing(Database(path, name="a", application_id=1, migrations=TABLE)) as database:
        with closing(sqlite3.connect(path, isolation_level=None)) as shell:
            shell.execute("BEGIN IMMEDIATE")
            with pytest.raises(UnavailableError) as caught, database.write():
                pass
        assert "another program" in caught.value.why and "disk" not in caught.value.why
        with database.write() as db:
            db.execute("INSERT INTO t VALUES (1)")


def test_the_file_and_its_log_are_their_owners_alone(path: Path) -> None:
    with closing(Database(path, name="a", application_id=1, migrations=TABLE)) as database, database.write() as db:
        db.execute("INSERT INTO t VALUES (1)")
        modes = {it.name: stat.S_IMODE(it.stat().st_mode) for it in path.parent.iterdir()}
    assert modes == {"a.db": 0o600, "a.db-wal": 0o600, "a.db-shm": 0o600}


@pytest.mark.parametrize("mark", ["application_id", "user_version"])
def test_a_file_of_another_program_is_refused_and_left_as_it_is(path: Path, mark: str) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE kept (word TEXT)")
    other.execute(f"PRAGMA {mark} = 1")
    other.close()
    before = path.read_bytes()
    with pytest.raises(IntegrityError, match="is no test of rage"):
        Database(path, name="test", application_id=0x72616765, migrations=("CREATE TABLE ours (n INTEGER)",))
    assert path.read_bytes() == before
