"""Room on the disk: the quota, the ballast, and what a disk that is full or failing says to people.

Not here: what to delete (gc). A store refuses early, by quota and by the space it leaves to others; the ballast is the
room that deleting itself needs on a disk that somebody else has filled. Source: design 5; issue 2 "A full disk".
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rage_net.durable import NO_ROOM
from rage_net.errors import IntegrityError, RageError, StorageFullError, UnavailableError

MIB = 1024 * 1024

BALLAST_BYTES = 4 * MIB
"""What a small transaction, the shared memory of the index and its write-ahead log need, several times over."""

_MEND = ("rage chunk gc", "rage chunk gc --cache", "df -h")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Quota:
    """How much a store may take."""

    bytes_max: int | None = None
    """Bytes at rest of all chunks; None sets no limit."""
    free_bytes_min: int = 64 * MIB
    """Bytes that stay free on the file system: a put that would leave less is refused."""
    free_inodes_min: int = 1000
    """Inodes that stay free, where the file system counts them."""


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
