"""What both HTTP doors share: an aiohttp server on sockets we bound ourselves, with limits, deadlines and a drain.

It is aiohttp's low-level `web.Server`: one handler function, no router, no application, no signal handlers. A client
must bring a whole request head within `HEAD_TIMEOUT_S`, at first and between requests, so that a client that trickles
its header costs one slot for that long and no more. Answers name no server and no version.

Not here: routes, authorization (`control`, `http`).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from aiohttp import StreamReader, web

from rage_net.cdn.policy import NO_STORE
from rage_net.errors import RageError

log = logging.getLogger("rage.http")

HEAD_TIMEOUT_S = 15.0
"""For a whole request head to arrive, and how long an idle connection is kept."""

HEADS_BYTES_MAX = 128 * 1024
"""For a whole request head, all its fields together: a client that sends more is cut off."""

SHUTDOWN_S = 1.0
"""For answers under way to leave once their work is done."""

TLS_HANDSHAKE_S = 10.0

HEADERS = {"Server": "rage", "X-Content-Type-Options": "nosniff"}
"""On every answer: a name without a version, which aiohttp would add, and no guessing of types by browsers."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Listener:
    """Serve `handle` on any number of bound sockets.

    Args: connections_max: further connections are closed at once. head_bytes_max: for a request line or one header
    field; longer ones are answered 400 and the connection closed.
    """

    def __init__(
        self,
        handle: Handler,
        *,
        connections_max: int,
        head_bytes_max: int = 8190,
        read_bytes: int = 64 * 1024,
        count: Callable[[str], None] = lambda event: None,
    ) -> None:
        self._handle = handle
        self._connections_max = connections_max
        self._limits = {"max_line_size": head_bytes_max, "max_field_size": head_bytes_max, "read_bufsize": read_bytes}
        self._count = count
        self._servers: list[asyncio.Server] = []
        self._web: web.Server | None = None

    async def start(self, bound: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Serve connections of a socket that is bound (and listens, where its mode matters). May be called again."""
        loop = asyncio.get_running_loop()
        if self._web is None:
            # A client that leaves cancels its handler; what outlives it must be a task of its own.
            self._web = web.Server(self._handle, handler_cancellation=True, loop=loop)
        if bound.family == socket.AF_UNIX:
            server = await loop.create_unix_server(self._connect, sock=bound)
        else:
            server = await loop.create_server(
                self._connect, sock=bound, ssl=tls, ssl_handshake_timeout=TLS_HANDSHAKE_S if tls else None
            )
        self._servers.append(server)

    async def stop(self) -> None:
        """Accept no more, end idle connections, give answers under way `SHUTDOWN_S`, then close everything."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self._web is not None:
            self._web.pre_shutdown()
            await self._web.shutdown(SHUTDOWN_S)

    def connections(self) -> int:
        """How many connections are open."""
        return len(self._web.connections) if self._web is not None else 0

    def _connect(self) -> asyncio.Protocol:
        assert self._web is not None
        if self.connections() >= self._connections_max:
            self._count("refused")
            return _Refused()
        return _Connection(
            self._web,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=HEAD_TIMEOUT_S,
            lingering_time=0,  # a body that nobody wants ends the connection, it is not read to its end
            auto_decompress=False,  # nobody sends us compressed requests; a bomb stays small
            access_log=None,
            **self._limits,
        )


class _Refused(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class _Connection(web.RequestHandler):
    """aiohttp's connection, with our words for what never reached a handler."""

    __slots__ = ("_body", "_head_bytes")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_bytes = 0
        self._body: StreamReader | None = None  # of the last request whose head is here

    def data_received(self, data: bytes) -> None:
        """Bytes arrived. aiohttp bounds each field of a head, and here is the bound of all together."""
        is_head = self._body is None or self._body.is_eof()
        super().data_received(data)
        if self._messages:
            self._body = self._messages[-1][1]
            self._head_bytes = 0
        elif is_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEADS_BYTES_MAX and self.transport is not None:
                self.transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun; only closing the connection can tell the client")
        if status < 500:
            log.debug("request refused: %s", type(exc).__name__)
            error = RageError("the request is no HTTP that is understood here", id="usage")
            error.exit_code = 2
        else:
            log.error("a handler failed", exc_info=exc)
            error = bug(exc)
        answer = error_response(error, status=status)
        answer.headers.update(NO_STORE)  # some CDNs keep a 400 that says nothing, and a client can have one provoked
        answer.force_close()
        return answer


def bug(exc: BaseException | None, during: str = "a request") -> RageError:
    """What a client is told of an exception outside the tree: its class, and where to look; the log has the rest."""
    return RageError(
        f"{during} failed inside the node" + (f": {type(exc).__name__}" if exc is not None else ""),
        why="this is a bug in rage; the node's log has the details",
        mend=["look into the node's log: logs/node.log of its home, or `journalctl -u rage`"],
        id="bug",
    )


def error_response(error: RageError, *, status: int | None = None) -> web.Response:
    """One line of JSON with the error's status on the wire."""
    return respond(
        status or error.wire_code, msgspec.json.encode(error.to_plain()) + b"\n", content_type="application/json"
    )


def respond(status: int, body: bytes, *, content_type: str, headers: Mapping[str, str] = HEADERS) -> web.Response:
    """An answer of known length."""
    return web.Response(status=status, body=body, content_type=content_type, headers=headers)
