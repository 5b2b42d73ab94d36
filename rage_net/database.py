"""One SQLite file of rage's: one writer, many readers, versions that go forward only, and what a failing disk says.

What is in the file is its owner's business: the store's index (`chunk/index.py`) and the log of metadata
(`sync/schema.py`) give their schema and their mark. Here too is the ballast: the room that deleting itself needs on a
disk that somebody else has filled. Source: design 4.7, 5; sqlite.org/wal.html.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from rage_net.durable import NO_ROOM
from rage_net.errors import ConflictError, IntegrityError, RageError, StorageFullError, UnavailableError

T = TypeVar("T")

BUSY_TIMEOUT_S = 10.0
"""How long SQLite waits for a backup or a shell that reads the file; this process's own threads queue on a lock."""
WAL_BYTES_MAX = 16 * 1024 * 1024
"""The write-ahead log is cut back to this after a checkpoint."""
READERS_KEPT = 8
"""Idle read connections that are kept; each has a page cache of up to 2 MB."""
BALLAST_BYTES = 4 * 1024 * 1024
"""What a small transaction, the shared memory of the index and its write-ahead log need, several times over."""

_MEND = ("rage chunk gc", "rage chunk gc --cache", "df -h")

log = logging.getLogger(__name__)


class Database:
    """The connections to one file. Every method is safe from any thread; one process owns the file.

    `path` None keeps everything in memory, behind one connection. Raises ConflictError for a file written by a newer
    version, which is left as it is; IntegrityError for another program's; StorageFullError when the disk is too full
    even with the ballast gone.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        name: str,
        application_id: int,
        migrations: Sequence[str],
        ballast: Ballast | None = None,
        cache_bytes: int | None = None,
    ) -> None:
        """Open it.

        Args: name: what errors call it. application_id: marks its kind, four ASCII characters. cache_bytes: pages that
            the writer keeps; None leaves it to SQLite (2 MB).
        """
        self._path = path
        self._name = name
        self._application_id = application_id
        self._where = path or Path("memory")
        self._ballast = ballast
        self._cache_bytes = cache_bytes
        self.lock = threading.RLock()
        """Held by the one writer. What must agree with the rows, such as files beside them, changes under it too."""
        self._readers: deque[sqlite3.Connection] = deque()
        self._closed = False
        if path is not None:
            _refuse_newer(path, name, application_id, len(migrations))
            with disk(f"open the {name}", path):
                _create(path)
        try:
            self._writer = self._open(migrations)
        except StorageFullError:
            if ballast is None or not ballast.drop():
                raise
            self._writer = self._open(migrations)
        self._durable = True

    def _open(self, migrations: Sequence[str]) -> sqlite3.Connection:
        with disk(f"open the {self._name}", self._where):
            db = self._connect()
            try:
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = FULL")
                db.execute("PRAGMA fullfsync = ON")  # of use on macOS alone
                if self._cache_bytes is not None:
                    db.execute(f"PRAGMA cache_size = -{self._cache_bytes // 1024}")
                db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_MAX}")
                _migrate(db, self._path, self._application_id, migrations)
            except BaseException:
                db.close()
                raise
        return db

    def _connect(self) -> sqlite3.Connection:
        name = ":memory:" if self._path is None else str(self._path)
        db = sqlite3.connect(name, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA trusted_schema = OFF")
        return db

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection for SELECTs: each sees what was committed before it began."""
        if self._path is None:
            with self.lock:
                yield self._writer
            return
        with disk(f"read the {self._name}", self._where):
            try:
                db = self._readers.pop()
            except IndexError:
                db = self._connect()
            try:
                yield db
            finally:
                self._readers.append(db)
                if self._closed or len(self._readers) > READERS_KEPT:  # asked last: `close` may have run meanwhile
                    with contextlib.suppress(IndexError):
                        self._readers.pop().close()

    @contextlib.contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction, alone: committed at the end, rolled back when the body raises.

        `durable` False leaves the sync to the next durable one: for what is cache.
        """
        with self.lock, disk(f"write the {self._name}", self._where):
            db = self._writer
            if durable != self._durable:  # NORMAL appends to the log without a sync; a later FULL commit syncs it all
                db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._durable = durable
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:  # SQLite itself rolls back when the disk is full
                    db.execute("ROLLBACK")
                raise

    def shrink(self, change: Callable[[sqlite3.Connection], T], *, spend_ballast: bool = True) -> T:
        """One transaction that frees room: on a full disk it is tried again in the room of the ballast."""
        try:
            with self.write() as db:
                return change(db)
        except StorageFullError:
            if not spend_ballast or self._ballast is None or not self._ballast.drop():
                raise
        with self.write() as db:
            return change(db)

    def restore_ballast(self) -> None:
        """Reserve again what a full disk made us drop, if there is room."""
        if self._ballast is not None:
            self._ballast.restore()

    def close(self) -> None:
        """Close every connection; the last one folds the log into the file."""
        with self.lock:
            if self._closed:
                return
            self._closed = True
            while self._readers:
                self._readers.pop().close()
            self._writer.close()


def _create(path: Path) -> None:
    """An empty file for its owner alone: SQLite would leave the mode to the umask; its log takes that of the file.

    Only where there is none. To close any descriptor of a file gives up all locks that the process has on it, those of
    SQLite's connections too; then whoever reads the file beside us takes itself for the last one, and deletes the log
    under our hands (sqlite.org/howtocorrupt.html, 2.2).
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _refuse_newer(path: Path, name: str, application_id: int, known: int) -> None:
    """Raise for a file that is newer or no store of ours, without a write: SQLite opens it read-only."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with disk(f"open the {name}", path):
        mode = "mode=ro" if path.with_name(path.name + "-wal").exists() else "immutable=1"
        db = sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, timeout=BUSY_TIMEOUT_S)
        try:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            application = db.execute("PRAGMA application_id").fetchone()[0]
        finally:
            db.close()
    if version > known:
        raise ConflictError(
            f"{path} is of version {version}; this rage reads up to {known}",
            why="a newer rage wrote it; it was not altered",
            mend=("pip install --upgrade rage-network",),
            id="newer-store",
        )
    if application != application_id and (version or application):  # neither: it was made, and nothing written yet
        raise IntegrityError(f"{path} is no {name} of rage", why="another program wrote it", id="index-damaged")


def _migrate(db: sqlite3.Connection, path: Path | None, application_id: int, migrations: Sequence[str]) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == len(migrations):
        return
    if version and path is not None:
        _keep_copy(db, path, version)
    for step in range(version, len(migrations)):
        script = f"BEGIN IMMEDIATE; {migrations[step]}; PRAGMA application_id = {application_id};"
        try:
            db.executescript(f"{script} PRAGMA user_version = {step + 1}; COMMIT;")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


def _keep_copy(db: sqlite3.Connection, path: Path, version: int) -> None:
    """`index.db.v<version>`: the store as it was, whole or not there at all."""
    kept, part = path.with_name(f"{path.name}.v{version}"), path.with_name(f"{path.name}.v{version}.part")
    if kept.exists():
        return
    part.unlink(missing_ok=True)
    copy = sqlite3.connect(part)
    try:
        db.backup(copy)
    finally:
        copy.close()
    fd = os.open(part, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    part.replace(kept)


@contextlib.contextmanager
def disk(doing: str, where: str | Path) -> Iterator[None]:
    """Map what the disk says: OSError and sqlite3's operational errors become RageErrors that name `doing` and `where`.

    A file that is missing is no fault of the disk: FileNotFoundError passes.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, sqlite3.DatabaseError) as error:
        mapped = explain(error, doing, where)
        if mapped is None:
            raise
        raise mapped from error


def explain(error: OSError | sqlite3.DatabaseError, doing: str, where: str | Path) -> RageError | None:
    """The RageError that a failure of the disk or of SQLite stands for; None when it is a bug in this program."""
    if isinstance(error, OSError):
        if error.errno in NO_ROOM:
            return full(f"cannot {doing}: {error.strerror or error}", f"{where} has no room")
        return _failing(doing, where, error)
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary code
    if code == sqlite3.SQLITE_FULL or (code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and _is_full(where)):
        return full(f"cannot {doing}: {error}", f"{where} has no room")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return IntegrityError(
            f"cannot {doing}: {error}",
            why=f"{where} is damaged",
            mend=("restore it from a backup",),
            id="index-damaged",
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return UnavailableError(
            f"cannot {doing}: {error}",
            why=f"another program has had {where} locked for {BUSY_TIMEOUT_S:.0f} s",
            mend=(f"fuser -v {where}", "end the transaction of the sqlite3 shell that is open on it"),
            id="storage-unavailable",
        )
    if isinstance(error, sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR:
        return _failing(doing, where, error)
    return None


def full(message: str, why: str) -> StorageFullError:
    """The error of a store without room, with how to make some."""
    return StorageFullError(message, why=why, mend=_MEND)


def _failing(doing: str, where: str | Path, error: Exception) -> UnavailableError:
    return UnavailableError(
        f"cannot {doing}: {error}",
        why=f"the disk under {where} fails",
        mend=("dmesg | tail",),
        id="storage-unavailable",
    )


def _is_full(where: str | Path) -> bool:
    """Whether room is what lacks: SQLite calls a file size limit and a full shared memory file an I/O error."""
    if resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
        return True
    try:
        stat = os.statvfs(Path(where).parent)
    except OSError:
        return False
    return stat.f_bavail * stat.f_frsize < 64 * 1024 or (stat.f_files > 0 and stat.f_favail == 0)


class Ballast:
    """A file of reserved bytes, dropped when deleting needs room, made again when there is room."""

    def __init__(self, path: Path, size: int = BALLAST_BYTES) -> None:
        self._path = path
        self._size = size

    def drop(self) -> bool:
        """Give its room away; False when it was not there, so a second try is of no use."""
        try:
            self._path.unlink()
        except OSError:
            return False
        log.warning("the disk is full: dropped %s to make room for deleting", self._path)
        return True

    def restore(self) -> bool:
        """Reserve the bytes again if they are not; False when there is no room, which is no error."""
        fd = -1
        try:
            if self._path.exists():
                return True
            fd = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(fd, 0, self._size)
            else:  # macOS
                os.write(fd, bytes(self._size))
        except OSError:
            if fd >= 0:
                with contextlib.suppress(OSError):
                    self._path.unlink()
            return False
        finally:
            if fd >= 0:
                os.close(fd)
        return True
