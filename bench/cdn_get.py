"""What a CDN costs a get: `python -m bench.cdn_get [--rounds N] [--profile]`.

A hit: an HTTP server in a process of its own, on loopback, stands for the edge. Chunks of one size are got from it in
turn by a bare request (httpx's transport, aiohttp's client; both warm, the body read whole) and by a whole engine that
has none of them: the CDN's stage, the gate, kept as cache, given to a sink. Medians of milliseconds, in pairs.

A dead one: a port that takes connections and never says a word. Chunks are got that a peer has, each by an engine
opened anew, as a script of many commands does, with the CDN and without one.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import os
import pstats
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
import httpx

from rage_net import home as homes
from rage_net.cid import Cid
from rage_net.engine import Engine
from rage_net.home import Home
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.verbs.chunk import GetChunk, PutChunk

SIZES = ((4 << 10, "4 KiB"), (64 << 10, "64 KiB"), (1 << 20, "1 MiB"))
GOAL_MS = 2.0
DEAD_GOAL_MS = 150.0
SERVER = """
import asyncio, sys
from pathlib import Path
from aiohttp import web
OBJECTS = {path.name: path.read_bytes() for path in Path(sys.argv[1]).iterdir()}
async def give(request):
    data = OBJECTS.get(request.match_info["cid"])
    if data is None:
        return web.Response(status=404)
    return web.Response(body=data, headers={"X-Cache": "HIT", "Age": "5"})
async def main():
    app = web.Application()
    app.router.add_get("/chunks/{cid}", give)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
asyncio.run(main())
"""


class Sink:
    """Takes bytes as they come."""

    def begin(self, size: int, /) -> None:
        self.size = size

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        self.size -= len(data)


@contextmanager
def edge(directory: Path) -> Iterator[str]:
    command = [sys.executable, "-c", SERVER, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.stdin.close()


@contextmanager
def silent() -> Iterator[str]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen(64)
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def make_home(path: Path, url: str = "") -> Home:
    home = Home(path)
    homes.init(home)
    if url:
        row = f'{{name: edge, type: commercial, software: http, public_urls: ["{url}"]}}'
        (home.config / "cdn.yaml").write_text(f"cdn:\n  version: 1\n  providers: [{row}]\n")
    return home


async def bare_httpx(transport: httpx.AsyncHTTPTransport, url: str) -> bytes:
    response = await transport.handle_async_request(httpx.Request("GET", url))
    data = b"".join([part async for part in response.stream])  # type: ignore[union-attr]
    await response.aclose()
    return data


async def bare_aiohttp(client: aiohttp.ClientSession, url: str) -> bytes:
    async with client.get(url) as response:
        return await response.read()


async def hits(scratch: Path, rng: random.Random, rounds: int, profile: bool) -> bool:
    is_reached = True
    objects = scratch / "objects"
    objects.mkdir()
    chunks: dict[str, list[Cid]] = {}
    for size, label in SIZES:
        for _ in range(rounds + 3):
            data = rng.randbytes(size)
            cid = Cid.of(data)
            (objects / str(cid)).write_bytes(data)
            chunks.setdefault(label, []).append(cid)
    with edge(objects) as url:
        home = make_home(scratch / "reader", url)
        async with (
            httpx.AsyncHTTPTransport(trust_env=False) as transport,
            aiohttp.ClientSession() as client,
            Engine.open(home) as engine,
        ):
            for label, cids in chunks.items():
                took: dict[str, list[float]] = {"httpx": [], "aiohttp": [], "rage": []}
                profiler = cProfile.Profile()
                for at, cid in enumerate(cids):
                    address = f"{url}/chunks/{cid}"
                    for name, work in (
                        ("httpx", lambda: bare_httpx(transport, address)),  # noqa: B023
                        ("aiohttp", lambda: bare_aiohttp(client, address)),  # noqa: B023
                        ("rage", lambda: engine.run(GetChunk(str(cid)), sink=Sink())),  # noqa: B023
                    ):
                        if profile and name == "rage" and at >= 3:
                            profiler.enable()
                        began = time.perf_counter()
                        await work()
                        seconds = time.perf_counter() - began
                        profiler.disable()
                        if at >= 3:
                            took[name].append(seconds * 1000)
                assert not engine.is_online
                rage, httpx_ms, aiohttp_ms = (statistics.median(took[name]) for name in ("rage", "httpx", "aiohttp"))
                more = statistics.median(r - h for r, h in zip(took["rage"], took["httpx"], strict=True))
                is_reached &= more <= GOAL_MS
                print(
                    f"hit, {label:7} rage {rage:6.2f} ms, bare httpx {httpx_ms:5.2f} ms, bare aiohttp"
                    f" {aiohttp_ms:5.2f} ms: {more:5.2f} ms more than httpx, {rage - aiohttp_ms:5.2f} than aiohttp"
                    f" ({rage / httpx_ms:.2f}x; {rounds} pairs, load {os.getloadavg()[0]:.1f})"
                    f" {'reached' if more <= GOAL_MS else 'MISSED'}",
                    flush=True,
                )
                if profile:
                    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)
    return is_reached


@asynccontextmanager
async def holder(scratch: Path) -> AsyncIterator[tuple[Engine, str]]:
    async with Engine.open(make_home(scratch / "holder"), serves=True) as engine:
        online = await engine.online()
        await online.swarm.listen(Multiaddr.parse("/ip4/127.0.0.1/tcp/0"))
        yield engine, str(online.swarm.listen_addresses()[0].with_peer_id(online.swarm.peer_id))


async def dead(scratch: Path, rng: random.Random, rounds: int) -> bool:
    """A get from a peer by a fresh engine: without a CDN, and with one that is dead."""
    with silent() as url:
        async with holder(scratch) as (engine, address):
            took: dict[str, list[float]] = {}
            for name, home in (
                ("without", make_home(scratch / "without")),
                ("dead", make_home(scratch / "dead", url)),
            ):
                for _ in range(rounds + 1):
                    put = PutChunk(visibility="public")
                    root = (await engine.run(put, source=Octets(rng.randbytes(20_000)))).root
                    async with Engine.open(home) as reader:
                        began = time.perf_counter()
                        await reader.run(GetChunk(root, peers=(address,)), sink=Sink())
                        took.setdefault(name, []).append((time.perf_counter() - began) * 1000)
    without = statistics.median(took["without"][1:])
    once, then = took["dead"][0] - without, statistics.median(took["dead"][1:]) - without
    is_reached = once <= DEAD_GOAL_MS and then <= 10
    print(
        f"dead CDN: a get from a peer takes {without:.1f} ms without one; the first with a dead one {once:.1f} ms more,"
        f" those after it {then:.1f} ms more ({rounds} gets, each engine anew, load {os.getloadavg()[0]:.1f})"
        f" {'reached' if is_reached else 'MISSED'}"
    )
    return is_reached


class Octets:
    """Bytes as a source."""

    def __init__(self, data: bytes) -> None:
        self._rest = memoryview(data)

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.cdn_get", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="rage-bench-", dir=Path(__file__).parent) as directory:
        scratch = Path(directory)
        first = asyncio.run(hits(scratch, rng, options.rounds, options.profile))
        second = asyncio.run(dead(scratch, rng, max(5, options.rounds // 5)))
    return 0 if first and second else 1


if __name__ == "__main__":
    sys.exit(main())
