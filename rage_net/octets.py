"""Octets between a client of the control API and the engine's blocking threads: a source to read, a sink to write.

The engine reads a `Source` and writes a `Sink` in threads of its own; here they meet a request body and a response.
Neither holds more than the connection's own buffers: who reads or writes slowly slows the other side.

The sink sends on the connection's socket itself, from the engine's writer thread: the event loop, which decrypts what
comes from peers meanwhile, does not touch the bytes.

Not here: routes and results (`control`).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError as FutureCancelled
from typing import Any, TypeVar

from aiohttp import web

from rage_net.errors import DeadlineError, UnavailableError
from rage_net.listener import HEADERS

T = TypeVar("T")

STALL_S = 600.0
"""How long a client may neither send nor read before its operation ends: long, because a person may look at a pager."""


class ClientLeftError(UnavailableError):
    """The client went away before all its octets came or went."""

    id = "client-left"

    def __init__(self) -> None:
        super().__init__("the client left before its octets were through", why="nothing of the operation was recorded")


class RequestSource:
    """The body of a request, as a `Source`. The body's stream is itself the bounded queue."""

    def __init__(self, request: web.BaseRequest, stall_s: float = STALL_S) -> None:
        self._content = request.content
        self._loop = asyncio.get_running_loop()
        self._stall_s = stall_s
        self._rest = memoryview(b"")

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        """Fill `buffer` as far as what has arrived goes; 0 at the end. Raises ClientLeftError, DeadlineError."""
        if not self._rest:
            self._rest = memoryview(_from_thread(self._loop, self._read()))
        size = min(len(self._rest), len(buffer))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    async def _read(self) -> bytes:
        try:
            async with asyncio.timeout(self._stall_s):
                return await self._content.readany()
        except TimeoutError as error:
            raise DeadlineError(f"the client sent nothing for {self._stall_s:g} s") from error
        except Exception as error:  # aiohttp sets what it will here: a reset, a bad chunk, too few octets
            raise ClientLeftError from error


class ResponseSink:
    """The body of a response, as a `Sink`. Nothing has been sent, and any answer is possible, until `begin`."""

    def __init__(self, request: web.BaseRequest, headers: dict[str, str], stall_s: float = STALL_S) -> None:
        self.begun = asyncio.Event()
        self.response: web.StreamResponse | None = None
        self._request = request
        self._headers = headers
        self._loop = asyncio.get_running_loop()
        self._stall_s = stall_s
        self._socket: socket.socket | None = None
        self._sending = threading.Lock()
        self._left = 0
        self._failed = False

    def begin(self, size: int, /) -> None:
        """Send the head of the answer with `size` as its length."""
        _from_thread(self._loop, self._begin(size))

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Send all of `data`. Raises ClientLeftError, DeadlineError; ValueError past the size that was begun."""
        size = len(data)
        if size > self._left:
            raise ValueError(f"{size} octets written where {self._left} are left of the size that was begun")
        with self._sending:
            if self._failed or self._socket is None:
                raise ClientLeftError
            try:
                self._socket.sendall(data)
            except TimeoutError as error:
                self._failed = True
                raise DeadlineError(f"the client read nothing for {self._stall_s:g} s") from error
            except OSError as error:
                self._failed = True
                raise ClientLeftError from error
        self._left -= size
        return size

    def is_complete(self) -> bool:
        """Whether every octet that was announced has been sent."""
        return self.response is not None and self._left == 0 and not self._failed

    def fail(self) -> None:
        """Let the next write, and one under way, raise: the client left or the node ends."""
        self._failed = True
        if self._socket is not None:
            with contextlib.suppress(OSError):  # gone already, which is what we want
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the socket. A thread that still writes fails first, so that its descriptor is never another's."""
        if not self.is_complete():
            self.fail()
        with self._sending:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    async def _begin(self, size: int) -> None:
        if self.response is not None:
            raise ValueError("the answer has begun already")
        transport = self._request.transport
        if transport is None or self._failed:
            raise ClientLeftError
        assert isinstance(transport, asyncio.WriteTransport)
        response = web.StreamResponse(headers={**HEADERS, **self._headers})
        response.content_type = "application/octet-stream"
        response.content_length = size
        self.response = response
        try:
            transport.set_write_buffer_limits(0)  # so that `drain` means: the kernel has all of the head
            writer = await response.prepare(self._request)
            if writer is not None:
                async with asyncio.timeout(self._stall_s):
                    await writer.drain()
            transport.set_write_buffer_limits()
        except (OSError, TimeoutError) as error:
            raise ClientLeftError from error
        # `dup` keeps the descriptor ours when the loop closes the connection while a thread writes.
        self._socket = transport.get_extra_info("socket").dup()
        assert self._socket is not None
        self._socket.settimeout(self._stall_s)
        self._left = size
        self.begun.set()


def _from_thread(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, T]) -> T:
    """Run `coro` on `loop` from another thread and wait for it; `coro` has its own deadline."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass  # a plain thread, as it should be
    else:
        coro.close()
        raise RuntimeError("blocking octets were used on an event loop; call them from a thread")
    try:
        future = asyncio.run_coroutine_threadsafe(coro, loop)
    except RuntimeError as error:  # the loop is closed
        coro.close()
        raise ClientLeftError from error
    try:
        return future.result()
    except FutureCancelled as error:
        raise ClientLeftError from error
