"""Streams of rage beside the bare prototype: two processes, loopback TCP, alternating runs, medians.

    python -m bench.stream [--rounds 5] [--mib 512] [--requests 5000] [--json]

Rows: bytes a second on one stream and on eight, as a ratio to `bench/bare_stream.py`; requests for 4 KiB a second at
1, 16 and 64 in flight, a stream each, with the median latency.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench import bare_stream
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.swarm import Connection, Stream, Swarm
from rage_net.libp2p.transport import tune_malloc

SOURCE = "/bench/source/1.0.0"
SMALL = "/bench/small/1.0.0"
WRITE_BYTES = 256 * 1024
SMALL_BYTES = 4096
STREAMS = 8


async def source(stream: Stream) -> None:
    """Sends as many bytes as it is asked for."""
    count = int.from_bytes(await stream.read_exactly(8), "big")
    buffer = memoryview(b"x" * WRITE_BYTES)
    while count > 0:
        size = min(count, WRITE_BYTES)
        await stream.write(buffer[:size])
        count -= size


async def small(stream: Stream) -> None:
    """Answers a request of 36 bytes with 4 KiB."""
    await stream.read_exactly(36)
    await stream.write(b"y" * SMALL_BYTES)


async def serve() -> None:
    """Print the peer id and the address, and serve until standard input ends."""
    tune_malloc()
    async with Swarm(Ed25519PrivateKey.generate(), agent_version="bench") as swarm:
        swarm.handle(SOURCE, source)
        swarm.handle(SMALL, small)
        await swarm.listen(Multiaddr.parse("/ip4/127.0.0.1/tcp/0"))
        print(swarm.peer_id, swarm.listen_addresses()[0], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def receive(connection: Connection, size: int) -> None:
    stream = await connection.open_stream([SOURCE], initial=size.to_bytes(8, "big"))
    await stream.close_write()
    got = 0
    while buffers := await stream.read():
        got += sum(map(len, buffers))
    assert got == size, f"{got} of {size} bytes"


async def measure_streams(connection: Connection, size: int, streams: int) -> float:
    """MB/s over so many streams at once."""
    begin = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(streams):
            tasks.create_task(receive(connection, size // streams))
    return size / 1e6 / (time.perf_counter() - begin)


async def measure_requests(connection: Connection, count: int, in_flight: int) -> tuple[float, float]:
    """Requests a second, and the median latency in ms."""
    latencies: list[float] = []

    async def worker() -> None:
        for _ in range(count // in_flight):
            begin = time.perf_counter()
            stream = await connection.open_stream([SMALL], initial=b"q" * 36)
            await stream.close_write()
            got = 0
            while buffers := await stream.read():
                got += sum(map(len, buffers))
            assert got == SMALL_BYTES
            latencies.append(time.perf_counter() - begin)

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(in_flight):
            tasks.create_task(worker())
    return len(latencies) / (time.perf_counter() - begin), statistics.median(latencies) * 1e3


@contextlib.asynccontextmanager
async def server(*arguments: str) -> AsyncIterator[list[str]]:
    """A process of ours; gives the words it prints first."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().split()
    finally:
        process.stdin.close()
        await process.wait()


async def _main(rounds: int, size: int, requests: int) -> dict[str, Any]:
    async with (
        server("bench.bare_stream") as (bare_port,),
        server("bench.stream", "--serve") as (peer, address),
        Swarm(Ed25519PrivateKey.generate(), agent_version="bench") as swarm,
    ):
        connection = await swarm.dial(PeerId.parse(peer), [Multiaddr.parse(address)])
        sink = await bare_stream.connect(int(bare_port))

        async def bare() -> float:
            return size / 1e6 / await sink.measure(size)

        bulk: dict[str, Callable[[], Awaitable[float]]] = {
            "bare": bare,
            "rage, 1 stream": lambda: measure_streams(connection, size, 1),
            f"rage, {STREAMS} streams": lambda: measure_streams(connection, size, STREAMS),
        }
        runs: dict[str, list[float]] = {name: [] for name in bulk}
        faults: dict[str, list[int]] = {name: [] for name in bulk}
        for turn in range(rounds + 1):
            for name, measure in bulk.items():
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
                rate = await measure()
                if turn:  # the first warms up
                    runs[name].append(rate)
                    faults[name].append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        rows = [
            {
                "name": name,
                "unit": "MB/s",
                "median": statistics.median(rates),
                "min": min(rates),
                "max": max(rates),
                "ratio_to_bare": statistics.median(rates) / statistics.median(runs["bare"]),
                "minor_faults": statistics.median(faults[name]),
            }
            for name, rates in runs.items()
        ]
        for in_flight in (1, 16, 64):
            count = requests // 4 if in_flight == 1 else requests
            results = [await measure_requests(connection, count, in_flight) for _ in range(rounds)]
            rows.append(
                {
                    "name": f"4 KiB requests, {in_flight} in flight",
                    "unit": "requests/s",
                    "median": statistics.median(rate for rate, _ in results),
                    "min": min(rate for rate, _ in results),
                    "max": max(rate for rate, _ in results),
                    "latency_ms": statistics.median(latency for _, latency in results),
                }
            )
    return {"rounds": rounds, "bytes": size, "rows": rows}


def run(rounds: int = 5, mib: int = 512, requests: int = 5000) -> dict[str, Any]:
    """All rows, as JSON values."""
    tune_malloc()
    return asyncio.run(_main(rounds, mib << 20, requests))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        asyncio.run(serve())
        return
    result = run(chosen.rounds, chosen.mib, chosen.requests)
    if chosen.json:
        print(json.dumps(result))
        return
    for row in result["rows"]:
        more = (
            f"{row['ratio_to_bare']:5.2f} of bare, {row['minor_faults']:,.0f} faults" if "ratio_to_bare" in row else ""
        )
        more = more or f"median {row['latency_ms']:.2f} ms"
        print(f"{row['name']:28} {row['median']:8,.0f} {row['unit']:10} ({row['min']:,.0f}-{row['max']:,.0f})  {more}")


if __name__ == "__main__":
    main()
