"""Operators' files as octets of verbs: a source that notices change, a sink that leaves nothing behind on failure.

The command opens these, never the node (design D8). Both remember the error they raised and raise it again when their
block is left, so that whatever carried it cannot blur it. Blocking; called from one thread at a time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from rage_cli.options import options
from rage_net.errors import (
    AccessDeniedError,
    ConflictError,
    DeadlineError,
    NotFoundError,
    RageError,
    StorageFullError,
    UsageError,
)

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


class _Guarded:
    """A context that raises again, on leaving in failure, what its own side raised first."""

    failure: BaseException | None = None

    def _close(self, failed: bool) -> None:
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(error is not None)
        if error is not None and self.failure is not None and error is not self.failure:
            raise self.failure from error


class FileSource(_Guarded):
    """The bytes of a file, or of stdin for `-`. `size` is None where it cannot be known; `name` is for the document.

    Raises: NotFoundError, AccessDeniedError, UsageError for what is no file; ConflictError `source-changed` when the
    file changed while it was read, before its end is told.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.size: int | None = None
        self.name = ""
        if path == "-":
            if sys.stdin is None:
                raise UsageError("stdin is closed", mend=["give a file, or a pipe to stdin"])
            self._file: BinaryIO = sys.stdin.buffer
            return
        self.name = os.fsencode(Path(path).name).decode("utf-8", "replace")
        try:
            _check_kind(path, Path(path).stat().st_mode)
            with options.timed():  # a FIFO opens when somebody writes
                self._file = Path(path).open("rb", buffering=0)  # noqa: SIM115  closed by _close
        except TimeoutError as error:
            raise DeadlineError(
                f"nobody wrote to {path} within {options.timeout_s:g} s", mend=[options.longer_timeout()]
            ) from error
        except OSError as error:
            raise _read_error(path, error) from error
        self._status = os.fstat(self._file.fileno())
        if stat.S_ISREG(self._status.st_mode):
            self.size = self._status.st_size

    def __enter__(self) -> FileSource:
        return self

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        """Fill `buffer` with at least one byte; 0 at the end, once the file has proved to be as it was."""
        try:
            size = self._file.readinto(buffer)  # type: ignore[attr-defined]
            if not size:
                self._check_unchanged()
        except TimeoutError:
            raise
        except OSError as error:
            self.failure = _read_error(self.path, error)
            raise self.failure from error
        except RageError as error:
            self.failure = error
            raise
        return int(size or 0)

    def _check_unchanged(self) -> None:
        if self.size is None:
            return
        now = os.fstat(self._file.fileno())
        if (now.st_size, now.st_mtime_ns) != (self._status.st_size, self._status.st_mtime_ns):
            raise ConflictError(
                f"{self.path} changed while it was read",
                why=f"it had {self._status.st_size} bytes, now {now.st_size}; nothing was recorded",
                mend=["repeat when nobody writes to it"],
                id="source-changed",
            )

    def _close(self, failed: bool) -> None:
        if self._file is not sys.stdin.buffer:
            self._file.close()


class FileSink(_Guarded):
    """A file that appears whole under its name or not at all: written beside it, renamed when the block ends well.

    A path that is a device or a pipe is written to directly.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._part: Path | None = None
        try:
            mode = self.path.stat().st_mode
        except FileNotFoundError:
            mode = stat.S_IFREG
        except OSError as error:
            raise _write_error(path, error) from error
        if stat.S_ISDIR(mode):
            raise UsageError(f"{path} is a directory", mend=[f"--out {Path(path) / 'NAME'}"])
        target = self.path
        if stat.S_ISREG(mode):
            # Through a symbolic link to what it names: the link stays.
            self.path = Path(os.path.realpath(self.path))
            target = self._part = self.path.with_name(f".{self.path.name}.{os.urandom(4).hex()}.part")
        try:
            # "x" follows no link: in a directory that others can write to, one may wait under the part's name.
            self._file = target.open("xb" if self._part else "wb", buffering=0)
        except OSError as error:
            raise _write_error(path, error) from error

    def __enter__(self) -> FileSink:
        return self

    def begin(self, size: int, /) -> None:
        """Nothing to prepare: a full disk shows at the write."""

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        """Write all of `data`. Raises StorageFullError, AccessDeniedError."""
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except TimeoutError:
            raise
        except OSError as error:
            self.failure = _write_error(str(self.path), error)
            raise self.failure from error

    def _close(self, failed: bool) -> None:
        try:
            self._file.close()
            if self._part is not None and not failed:
                self._part.replace(self.path)
                self._part = None
        except OSError as error:
            raise _write_error(str(self.path), error) from error
        finally:
            if self._part is not None:
                with contextlib.suppress(OSError):
                    self._part.unlink()


class StdoutSink(_Guarded):
    """Bytes to stdout, never to a terminal."""

    def __init__(self) -> None:
        if sys.stdout.isatty():
            raise UsageError(
                "bytes are not written to a terminal",
                mend=["--out FILE"],
                id="bytes-to-terminal",
            )

    def __enter__(self) -> StdoutSink:
        return self

    def begin(self, size: int, /) -> None:
        """Nothing to prepare."""

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        """Write all of `data`. BrokenPipeError when the reader is gone."""
        try:
            sys.stdout.buffer.write(data)
        except BrokenPipeError as error:
            self.failure = error
            raise
        except TimeoutError:
            raise
        except OSError as error:
            self.failure = _write_error("stdout", error)
            raise self.failure from error

    def _close(self, failed: bool) -> None:
        if not failed:
            try:
                sys.stdout.buffer.flush()
            except BrokenPipeError:
                raise
            except OSError as error:
                raise _write_error("stdout", error) from error


def open_sink(path: str) -> FileSink | StdoutSink:
    """The sink for `-o PATH`; `-` and nothing are stdout."""
    return StdoutSink() if path in ("", "-") else FileSink(path)


def _check_kind(path: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise UsageError(
            f"{path} is a directory",
            why="a document is one file",
            mend=[f"tar -C {path} -cf - . | rage chunk put - --name {Path(path).name or 'files'}.tar"],
            id="source-directory",
        )
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
        raise UsageError(
            f"{path} is a device or a socket, not a file",
            mend=[f"rage chunk put - < {path}    (reads until it ends)"],
            id="source-device",
        )


def _read_error(path: str, error: OSError) -> RageError:
    if error.errno in _DENIED:
        return AccessDeniedError(f"{path} cannot be read", why=_words(error), mend=[f"ls -l {path}"])
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFoundError(f"there is no file {path}", mend=[f"ls {Path(path).parent}"], id="file-missing")
    return RageError(f"{path} cannot be read", why=_words(error), id="read-failed")


def _write_error(path: str, error: OSError) -> RageError:
    if error.errno in _FULL:
        return StorageFullError(f"no room to write {path}", why=_words(error), mend=[f"df -h {Path(path).parent}"])
    if error.errno in _DENIED:
        return AccessDeniedError(f"{path} cannot be written", why=_words(error), mend=[f"ls -ld {Path(path).parent}"])
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFoundError(
            f"{path} cannot be written: there is no such directory", mend=[f"mkdir -p {Path(path).parent}"]
        )
    return RageError(f"{path} cannot be written", why=_words(error), id="write-failed")


def _words(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
