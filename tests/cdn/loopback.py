"""A CDN's public side on loopback: a real HTTP server whose answers a test chooses."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from aiohttp import web

from rage_net.cid import Cid

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
LOGIN = b"<!DOCTYPE html><html><body><form action=/login>Sign in</form></body></html>"


class Cdn:
    """Serves `objects` under /chunks/, with the headers of a cache; `answer` in its place is a test's own."""

    def __init__(self) -> None:
        self.url = ""
        self.objects: dict[str, bytes] = {}
        self.headers = {"X-Cache": "HIT", "Age": "5"}
        self.asked: list[tuple[str, str]] = []
        """Host and path of each request."""
        self.answer: Handler = self.give

    def put(self, data: bytes) -> Cid:
        cid = Cid.of(data)
        self.objects[str(cid)] = data
        return cid

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.headers["Host"], request.path))
        return await self.answer(request)

    async def give(self, request: web.Request) -> web.StreamResponse:
        data = self.objects.get(request.path.removeprefix("/chunks/"))
        if data is None:
            return web.Response(status=404, headers={"X-Cache": "HIT", "Age": "30"})  # a cached one
        return web.Response(body=data, headers=self.headers, content_type="application/octet-stream")

    def says(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Answer everything so from now on."""
        named = {name.replace("_", "-"): text for name, text in headers.items()}

        async def answer(request: web.Request) -> web.StreamResponse:
            return web.Response(status=status, body=body, headers=named)

        self.answer = answer

    async def wrong(self, request: web.Request) -> web.StreamResponse:
        """One bit differs."""
        data = self.objects.get(request.path.removeprefix("/chunks/"), b"nothing of the kind")
        return web.Response(body=bytes([data[0] ^ 1]) + data[1:])

    async def cut(self, request: web.Request) -> web.StreamResponse:
        """Announce all and send half."""
        data = self.objects[request.path.removeprefix("/chunks/")]
        response = web.StreamResponse(headers={"Content-Length": str(len(data))})
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        assert request.transport is not None
        request.transport.close()
        return response

    async def hang(self, request: web.Request) -> web.StreamResponse:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async def loop(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": str(request.url)})


@asynccontextmanager
async def serving() -> AsyncIterator[Cdn]:
    cdn = Cdn()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", cdn.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        cdn.url = f"http://{host}:{port}"
        yield cdn
    finally:
        await runner.cleanup()


@contextmanager
def refusing() -> Iterator[str]:
    """The address of a port that nobody listens at, and that nobody else gets meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@contextmanager
def silent() -> Iterator[str]:
    """The address of a port that takes connections and never says a word."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen(64)
        yield f"http://127.0.0.1:{held.getsockname()[1]}"
