"""A raw TCP server of a test that leaves no socket behind: whatever its connections still do ends with it.

`asyncio.start_server` forgets connections that it has accepted and not yet handed out when it is closed, and the next
test stumbles over the warning of an unclosed socket.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """`serve` answers each connection, which is closed once it returns; the port on 127.0.0.1."""
    loop = asyncio.get_running_loop()
    taken: dict[socket.socket, asyncio.Task[None]] = {}

    async def answer(connection: socket.socket) -> None:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, connection, ssl=tls)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            await serve(reader, writer)
            writer.close()  # what was written goes out first
            await writer.wait_closed()
        finally:
            with suppress(AttributeError):  # of 3.11, once its TLS is closed
                transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()  # else the loop may end before the socket is closed

    def accept() -> None:
        with suppress(BlockingIOError, ConnectionError):
            connection, _ = plug.accept()
            connection.setblocking(False)
            taken[connection] = loop.create_task(answer(connection))

    with socket.create_server(("127.0.0.1", 0)) as plug:
        plug.setblocking(False)
        loop.add_reader(plug, accept)
        try:
            yield plug.getsockname()[1]
        finally:
            loop.remove_reader(plug)
            for task in taken.values():
                task.cancel()
            ends = await asyncio.gather(*taken.values(), return_exceptions=True)
            for connection in taken:
                connection.close()  # of a task that had not begun
    expected = (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError)
    for end in ends:
        if end is not None and not isinstance(end, expected):
            raise end
