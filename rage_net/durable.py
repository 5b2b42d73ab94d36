"""Small files written whole and durable, and what the file system says when it cannot. Not for chunks: those are many.

Standard library only: clients load it. Source: design 4.1 and 5.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
from collections.abc import Iterator
from pathlib import Path

from rage_net.errors import AccessDeniedError, ConfigError, RageError, StorageFullError

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a write says when there is no room for it."""

SECRET = 0o600
"""The mode of a file that only its owner may read."""


def write_new(path: Path, data: bytes, *, mode: int = SECRET) -> bool:
    """Write a file that is not there, whole and durable, or leave the one that is; True when it was written."""
    temporary = _write_temporary(path, data, mode)
    try:
        os.link(temporary, path)  # fails where a rename would replace
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    sync_directory(path.parent)
    return True


def write_replacing(path: Path, data: bytes, *, mode: int = SECRET) -> None:
    """Write a file whole and durable in the place of what was there: readers see the old or the new, never a part."""
    temporary = _write_temporary(path, data, mode)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def _write_temporary(path: Path, data: bytes, mode: int) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{random.SystemRandom().getrandbits(32):08x}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, SECRET)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            sync_data(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def sync_data(handle: int) -> None:
    """Make what was written to an open file durable, the drive's own cache included."""
    if hasattr(os, "fdatasync"):
        os.fdatasync(handle)
    else:  # macOS, where fsync leaves the bytes in the drive's cache
        fcntl.fcntl(handle, getattr(fcntl, "F_FULLFSYNC", 51))


def sync_directory(path: str | Path) -> None:
    """Make what was created, renamed or removed in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn what the file system says into the class that tells the caller what to do next."""
    try:
        yield
    except OSError as error:
        raise _mapped(error, path) from error


def _mapped(error: OSError, path: Path) -> RageError:
    where = error.filename if isinstance(error.filename, str) else str(path)
    message = f"cannot write {where}"
    if error.errno in NO_ROOM:
        return StorageFullError(message, why=describe(error), mend=[f"df -h {path.parent}", "rage chunk gc"])
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AccessDeniedError(message, why=describe(error), mend=[f"ls -ld {path}"])
    return ConfigError(message, why=describe(error), mend=["choose another directory with --home"], id="home-unusable")


def describe(error: OSError) -> str:
    """What the operating system says, in words."""
    return (error.strerror or type(error).__name__).lower()
