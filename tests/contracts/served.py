"""Real doors in a thread of their own, for tests that speak to them as any program would: blocking, by requests."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import requests
import requests.adapters
import urllib3
import urllib3.connection


@contextmanager
def in_thread(serve: Callable[[Callable[[Any], None], asyncio.Event], Coroutine[Any, Any, None]]) -> Iterator[Any]:
    """Run `serve(ready, stop)` in a loop of its own; gives what it calls `ready` with."""
    told: list[Any] = []
    is_ready = threading.Event()
    failures: list[BaseException] = []
    handles: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def ready(value: Any) -> None:
        told.append(value)
        is_ready.set()

    async def main() -> None:
        stop = asyncio.Event()
        handles.append((asyncio.get_running_loop(), stop))
        await serve(ready, stop)

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failures.append(error)
        finally:
            is_ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert is_ready.wait(30) and not failures, failures
    try:
        yield told[0]
    finally:
        loop, stop = handles[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        assert not failures and not thread.is_alive(), failures


class _Connection(urllib3.connection.HTTPConnection):
    """HTTP over the Unix socket whose path, quoted, stands as the host."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(20)
        self.sock.connect(unquote(self.host))


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class UnixAdapter(requests.adapters.HTTPAdapter):
    """Sends every request of a session to one Unix socket."""

    def __init__(self, path: str) -> None:
        self._pool = _Pool(quote(path, safe=""))
        super().__init__()

    def get_connection_with_tls_context(self, request: Any, verify: Any, proxies: Any = None, cert: Any = None) -> Any:
        return self._pool

    def request_url(self, request: Any, proxies: Any) -> str:
        parts = urlsplit(request.url)
        return parts.path + (f"?{parts.query}" if parts.query else "")

    def close(self) -> None:
        self._pool.close()
        super().close()
