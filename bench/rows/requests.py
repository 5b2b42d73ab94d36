"""Requests for 4 KiB chunks on an open connection: a real node serves from a real store, a stream a request.

The client is the exchange as `chunk get` uses it, and checks every chunk against its CID.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from bench.measure import Result, Samples, Setting
from bench.processes import Node, make_home, node

ROW = "requests"
CHUNKS = 512
CHUNK_BYTES = 4096


def run(setting: Setting) -> Iterator[Result]:
    count = setting.size(20_000, 4_000)
    home = make_home(setting.directory / "requests")
    with node(home) as holder:
        cids = _put_small(home)
        alone, many = asyncio.run(_measure(holder, cids, count, setting.rounds))
    what = f"{CHUNK_BYTES} B chunks, a stream a request"
    yield Result(ROW, f"{what}, 16 in flight", "requests/s", many, "at least", 5000)
    yield Result(ROW, f"{what}, 1 in flight, median latency", "ms", alone, "at most", 0.5)


def _put_small(home: Path) -> list[str]:
    """Public documents of one incompressible chunk each, put through the running node; gives their CIDs."""
    from rage_cli import client
    from rage_net import home as homes
    from rage_net.verbs.chunk import PutChunk

    rng = random.Random("small chunks")
    cids = []
    for number in range(CHUNKS):
        connection = client.connect(homes.socket_path(homes.locate(str(home), {})))
        assert connection is not None
        source = _Bytes(rng.randbytes(CHUNK_BYTES))
        with connection:
            cids.append(connection.run(PutChunk(f"small{number}", visibility="public"), source=source).root)
    return cids


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self._rest = data

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        part, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


async def _measure(holder: Node, texts: list[str], count: int, rounds: int) -> tuple[Samples, Samples]:
    """Median latencies in ms one at a time, and requests a second with 16 in flight; the first round is dropped."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from rage_net.acl import Rules
    from rage_net.chunk.encoding import decode
    from rage_net.chunk.store import memory_store
    from rage_net.cid import Cid
    from rage_net.env import SystemEnv
    from rage_net.libp2p.multiaddr import Multiaddr
    from rage_net.libp2p.swarm import Swarm
    from rage_net.metrics import Metrics
    from rage_net.services.exchange import Exchange

    env = SystemEnv()
    exchange = Exchange(memory_store(env), env, Rules(), Metrics())
    cids = itertools.cycle([Cid.parse(text) for text in texts])
    latencies: Samples = []

    async with Swarm(Ed25519PrivateKey.generate(), agent_version="bench") as swarm:
        address = Multiaddr.parse(holder.address)
        peer_id = address.peer_id
        assert peer_id is not None
        connection = await swarm.dial(peer_id, [address], timeout_s=10)

        async def ask(times: int) -> None:
            for _ in range(times):
                cid = next(cids)
                begin = time.perf_counter()
                received = await exchange.fetch(connection, cid)
                data = decode(received.header.encoding, b"".join(received.buffers), received.header.size)
                assert cid.matches(data)
                latencies.append(time.perf_counter() - begin)

        alone, many = [], []
        for turn in range(rounds + 1):
            latencies.clear()
            await ask(count // 10)
            median = statistics.median(latencies) * 1e3
            begin = time.perf_counter()
            async with asyncio.TaskGroup() as tasks:
                for _ in range(16):
                    tasks.create_task(ask(count // 16))
            if turn:
                alone.append(median)
                many.append(count // 16 * 16 / (time.perf_counter() - begin))
    env.close()
    return alone, many
