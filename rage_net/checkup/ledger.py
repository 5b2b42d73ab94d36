"""The log's file, from outside: whether it is the log of this version, can be read, and how large it is.

Read-only: a node may have it open. What the log says is the engine's to look at. Source: issue 4, G.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from rage_net.checkup.outcomes import failed, ok, skipped
from rage_net.database import explain
from rage_net.durable import describe
from rage_net.home import Home
from rage_net.sync.schema import APPLICATION_ID, MIGRATIONS
from rage_net.verbs.diagnose import Check

CHECKED_BYTES_MAX = 64 << 20
"""A file up to this is read as a whole, in some tenths of a second; of a larger one the beginning is."""
WAIT_S = 1.0
"""For a writer that is just committing."""


def check_log(home: Home, *, has_ca: bool) -> Check:
    """Whether log.db is sound. A node without a CA keeps none."""
    path = home.log
    if not path.exists():
        return skipped("log", "none yet: it begins with the node" if has_ca else "no CA is configured: none is kept")
    try:
        size = path.stat().st_size
        version, application, chains, problem = _look(path, size)
    except sqlite3.DatabaseError as error:
        mapped = explain(error, "read the log", path)
        if mapped is None:
            return Check("log", "error", f"{path} is no log of rage", str(error), (f"file {path}",))
        mend = (f"mv {path} {path}.damaged    (peers give all of it again but what only this node had)",)
        return Check("log", "error", mapped.message, mapped.why, mend) if size else failed("log", mapped)
    except OSError as error:
        return Check("log", "error", f"{path} cannot be read", describe(error), (f"ls -l {path}",))
    if version > len(MIGRATIONS):
        why = f"{path} is of version {version}, and this rage reads up to {len(MIGRATIONS)}"
        return Check("log", "error", "a newer rage wrote the log", why, ("pip install --upgrade rage-network",))
    if application != APPLICATION_ID or problem != "ok":
        mend = (f"mv {path} {path}.damaged    (peers give all of it again but what only this node had)",)
        why = problem if application == APPLICATION_ID else "another program wrote it"
        return Check("log", "error", f"{path} is damaged", why, mend)
    return ok("log", f"{size / 2**20:.1f} MiB, {chains} chains")


def _look(path: Path, size: int) -> tuple[int, int, int, str]:
    """Version, mark, chains, and what SQLite finds wrong. Raises sqlite3.DatabaseError, OSError."""
    # Without a write-ahead log no process has it open, and SQLite need not make one beside it.
    mode = "mode=ro" if path.with_name(path.name + "-wal").exists() else "immutable=1"
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, timeout=WAIT_S)) as db:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        application = db.execute("PRAGMA application_id").fetchone()[0]
        if application != APPLICATION_ID or version > len(MIGRATIONS):
            return version, application, 0, "ok"
        problem = db.execute("PRAGMA quick_check(1)").fetchone()[0] if size <= CHECKED_BYTES_MAX else "ok"
        return version, application, db.execute("SELECT count(*) FROM chain WHERE sequence > 0").fetchone()[0], problem
