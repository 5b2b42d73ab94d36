"""The client of a node's control API: as much of HTTP/1.1 over a Unix socket as the protocol needs.

Standard library alone and no `http.client`, whose import costs as much as the rest of a command. The protocol is
written down in `rage_net.control`. Octets go in as chunked encoding: the last, empty chunk is what makes a put count,
so a source that fails midway leaves nothing behind. Octets come out with their length.

Not here: where the socket lies (`rage_net.home`), what to do without a node (`session`).
"""

from __future__ import annotations

import binascii
import contextlib
import errno
import json
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from rage_cli.options import options
from rage_net.errors import (
    AccessDeniedError,
    DeadlineError,
    RageError,
    UnavailableError,
    from_plain,
)
from rage_net.verbs import DecodeError, Progress, Verb, decode, encode

if TYPE_CHECKING:
    from rage_net.verbs import Sink, Source

R = TypeVar("R")

HEAD_BYTES_MAX = 64 * 1024
LINE_BYTES_MAX = 64 * 1024 * 1024
"""Of one line of the answer: a page of 1,000 documents with all the tags they may have; a put lists 8 MiB at most."""
BLOCK_BYTES = 1024 * 1024
"""Octets moved at a time: large enough that system calls do not count, small enough for the cache."""
CONNECT_TIMEOUT_S = 2.0
"""A local node accepts at once; one that does not hangs, and there is nobody else to ask."""

_NO_NODE = {errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR, errno.ENOTSOCK}


def connect(path: Path, timeout_s: float | None = None) -> Node | None:
    """A connection to the node that listens at `path`; None when nobody does (no file, or one left by a dead node).

    Raises: AccessDeniedError when the socket is another user's; UnavailableError when it does not accept.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(CONNECT_TIMEOUT_S)
    try:
        connection.connect(os.fspath(path))
    except OSError as error:
        connection.close()
        if error.errno in _NO_NODE or "path too long" in str(error):
            return None
        if isinstance(error, PermissionError):
            raise AccessDeniedError(
                f"the node's socket {path} is not open to this user",
                mend=[f"ls -l {path}", f"sudo -u '#{_owner(path)}' rage status"],
            ) from error
        raise UnavailableError(
            f"the node's socket {path} does not accept", why=str(error), mend=["rage node status"]
        ) from error
    return Node(connection, path, timeout_s)


class Node:
    """One connection to a node; a context manager."""

    def __init__(self, connection: socket.socket, path: Path, timeout_s: float | None) -> None:
        self._socket = connection
        self._path = path
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._timeout_s = timeout_s
        self._buffer = bytearray()

    def __enter__(self) -> Node:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def run(
        self,
        verb: Verb[R],
        *,
        source: Source | None = None,
        sink: Sink | None = None,
        progress: Callable[[Progress], None] = lambda _: None,
        on_item: Callable[[Any], None] = lambda _: None,
        on_dropped: Callable[[int], None] = lambda _: None,
    ) -> R:
        """Send `verb`, move its octets, and give its result; each item it tells goes to `on_item` as it comes.

        Where this side was too slow for some, `on_dropped` is told how many are missing before the next.

        Raises: what the node answers, as the same RageError; UnavailableError when it goes away midway; DeadlineError;
            and what source and sink raise.
        """
        try:
            if verb.octets_in:
                assert source is not None
                self._send_octets(verb, source, progress)
            else:
                self._send(_head("POST", verb, len(body := _dump(verb))) + body)
            return self._receive(verb, sink, progress, on_item, on_dropped)
        except TimeoutError as error:
            raise DeadlineError(
                f"the node did not finish within {self._timeout_s:g} s",
                why="a change that was sent may still be carried out" if verb.mutates else "",
                mend=[options.longer_timeout(), "rage status"],
            ) from error

    # --- out ---

    def _send(self, *buffers: bytes | memoryview) -> None:
        for buffer in buffers:
            self._arm()
            try:
                self._socket.sendall(buffer)
            except TimeoutError:
                raise
            except OSError as error:
                raise _gone(error) from error

    def _send_octets(self, verb: Verb[Any], source: Source, progress: Callable[[Progress], None]) -> None:
        """The body, chunk by chunk. An answer that begins before the end is an error: the rest is not sent."""
        total = getattr(verb, "size", None)
        block, done = memoryview(bytearray(BLOCK_BYTES)), 0
        self._send(_head("POST", verb, None))
        while size := source.readinto(block):
            try:
                self._send(b"%x\r\n" % size, block[:size], b"\r\n")
            except UnavailableError:
                if self._has_answer():
                    return
                raise
            done += size
            progress(Progress(done, total))
            if self._has_failed_early():
                return
        with contextlib.suppress(UnavailableError):  # the answer says more than the failure to send
            self._send(b"0\r\n\r\n")

    def _has_answer(self) -> bool:
        """Whether something of an answer has come; what is there is read, so that the node never waits for us."""
        while select.select([self._socket], [], [], 0)[0]:
            try:
                data = self._socket.recv(BLOCK_BYTES)
            except OSError:
                break
            if not data:
                break
            self._buffer += data
        return bool(self._buffer)

    def _has_failed_early(self) -> bool:
        return self._has_answer() and not self._buffer.startswith(b"HTTP/1.1 200")

    # --- in ---

    def _receive(
        self,
        verb: Verb[R],
        sink: Sink | None,
        progress: Callable[[Progress], None],
        on_item: Callable[[Any], None],
        on_dropped: Callable[[int], None],
    ) -> R:
        status, headers = self._read_head()
        if status == 200 and headers.get("content-type") == "application/octet-stream":
            assert sink is not None
            size = int(headers.get("content-length", -1))
            try:
                self._copy(size, sink, progress)
            except UnavailableError:
                self._raise_outcome(headers.get("x-rage-op", ""))
                raise
            self._send(b"GET /v1/op/%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % headers.get("x-rage-op", "").encode())
            _, headers = self._read_head()
        for line in self._read_lines(headers):
            match line.get("type"):
                case "progress":
                    progress(decode(Progress, line))
                case "item" if verb.item is not None:
                    on_item(_decode_answer(verb.item, line.get("item")))
                case "dropped":
                    on_dropped(int(line.get("count", 0)))
                case "result":
                    result: R = _decode_answer(verb.result, line.get("result"))
                    return result
                case "error":
                    raise from_plain(line)
        raise _gone(None)

    def _raise_outcome(self, operation: str) -> None:
        """Ask, over a fresh connection, why octets broke off, and raise that."""
        fresh = connect(self._path, CONNECT_TIMEOUT_S)
        if fresh is None or not operation:
            return
        with fresh, contextlib.suppress(OSError, UnavailableError):
            fresh._send(b"GET /v1/op/%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % operation.encode())
            _, headers = fresh._read_head()
            for line in fresh._read_lines(headers):
                if line.get("type") == "error" and line.get("code") != "client-left":
                    failure = from_plain(line)
                    break
            else:
                return
        raise failure

    def _read_head(self) -> tuple[int, dict[str, str]]:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > HEAD_BYTES_MAX:
                raise UnavailableError("what answers on the node's socket is no rage node")
            self._fill()
        lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        try:
            status = int(lines[0].split(" ")[1])
        except (IndexError, ValueError):
            raise UnavailableError("what answers on the node's socket is no rage node") from None
        pairs = (line.partition(":") for line in lines[1:])
        return status, {name.strip().lower(): value.strip() for name, _, value in pairs}

    def _copy(self, size: int, sink: Sink, progress: Callable[[Progress], None]) -> None:
        """`size` octets from the socket to the sink, through one buffer."""
        sink.begin(size)
        done = min(len(self._buffer), size)
        if done:
            sink.write(bytes(self._buffer[:done]))
            del self._buffer[:done]
        block = memoryview(bytearray(BLOCK_BYTES))
        while done < size:
            self._arm()
            try:
                count = self._socket.recv_into(block[: size - done])
            except TimeoutError:
                raise
            except OSError as error:
                raise _gone(error) from error
            if not count:
                raise _gone(None)
            sink.write(block[:count])
            done += count
            progress(Progress(done, size))

    def _read_lines(self, headers: dict[str, str]) -> Iterator[dict[str, Any]]:
        line = bytearray()
        for data in self._read_body(headers):
            line += data
            if len(line) > LINE_BYTES_MAX:
                raise UnavailableError(f"the node's answer has a line of more than {LINE_BYTES_MAX} bytes")
            *whole, line = line.split(b"\n")
            yield from map(_parse, whole)
        if line:
            yield _parse(line)

    def _read_body(self, headers: dict[str, str]) -> Iterator[bytes]:
        """The body as it comes, by its length or chunk by chunk."""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int(self._take_line().split(b";")[0], 16):
                yield self._take(size)
                self._take(2)
            self._take(2)
        else:
            yield self._take(int(headers.get("content-length", 0)))

    def _take_line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            self._fill()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _take(self, size: int) -> bytes:
        if size > LINE_BYTES_MAX:
            raise UnavailableError(f"the node's answer has a line of more than {LINE_BYTES_MAX} bytes")
        while len(self._buffer) < size:
            self._fill()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _fill(self) -> None:
        self._arm()
        try:
            data = self._socket.recv(BLOCK_BYTES)
        except TimeoutError:
            raise
        except OSError as error:
            raise _gone(error) from error
        if not data:
            raise _gone(None)
        self._buffer += data

    def _arm(self) -> None:
        """Give the next system call what is left of the time."""
        if self._deadline is None:
            self._socket.settimeout(None)
            return
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)


def _dump(verb: Verb[Any]) -> bytes:
    return json.dumps(encode(verb), separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogateescape")


def _head(method: str, verb: Verb[Any], length: int | None) -> bytes:
    lines = [f"{method} /v1/{verb.route} HTTP/1.1", "Host: localhost"]
    if length is None:
        text = binascii.b2a_base64(_dump(verb), newline=False).decode().translate({43: "-", 47: "_"})  # base64url
        lines += ["Transfer-Encoding: chunked", f"X-Rage-Verb: {text}"]
    else:
        lines += [f"Content-Length: {length}", "Content-Type: application/json"]
    return "\r\n".join([*lines, "", ""]).encode()


def _parse(line: bytes | bytearray) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UnavailableError("the node's answer is no JSON; is it another version?", mend=["rage node status"])
    return value


def _decode_answer(kind: type[Any], plain: Any) -> Any:
    try:
        return decode(kind, plain)
    except DecodeError as error:
        raise UnavailableError(
            "the node's answer does not fit this command; is it another version?",
            why=str(error),
            mend=["rage --version", "rage node status", "rage node stop && rage node start"],
        ) from error


def _owner(path: Path) -> int:
    """The user that a socket or its directory belongs to."""
    try:
        return path.stat().st_uid
    except OSError:
        return path.parent.stat().st_uid


def _gone(error: OSError | None) -> RageError:
    return UnavailableError(
        "the node went away before it had answered",
        why=str(error or "it closed the connection"),
        mend=["rage node status", "rage node start"],
        id="node-gone",
    )
