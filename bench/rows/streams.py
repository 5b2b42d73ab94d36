"""Streams of rage beside the bare prototype, js-libp2p and py-libp2p: two processes each, TCP, Noise, yamux, loopback.

rage's and the prototype's receivers share this process, the senders and the peers have their own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench import bare_stream, foreign_stream, stream
from bench.measure import Result, Setting, alternate, skip
from bench.programs import MissingError, need_libp2p
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.swarm import Swarm
from rage_net.libp2p.transport import tune_malloc

ROW = "stream"
FOREIGN = ("js-libp2p", "py-libp2p")


def run(setting: Setting) -> Iterator[Result]:
    size, foreign_size = setting.size(1024, 128) << 20, setting.size(256, 64) << 20
    tune_malloc()  # as `rage node start` does
    with contextlib.ExitStack() as stack:
        cases = _ours(stack, size)
        try:
            need_libp2p()
        except MissingError as error:
            for program in FOREIGN:
                yield skip(ROW, "one stream", program, str(error))
        else:
            for program in FOREIGN:
                client = stack.enter_context(foreign_stream.pair(program))
                cases[program] = lambda client=client: float(foreign_stream.ask(client, str(foreign_size)))  # type: ignore[misc]
        samples = alternate(cases, setting.rounds)
    for what in ("one stream", "eight streams"):
        yield Result(ROW, what, "MB/s", samples[what], "at least", 0.85, "bare prototype", samples["bare"])
        for program in FOREIGN:
            if program in samples:
                note = "" if what == "one stream" else "the peer has one stream"
                yield Result(ROW, what, "MB/s", samples[what], "at least", 4.0, program, samples[program], note)


def _ours(stack: contextlib.ExitStack, size: int) -> dict[str, Callable[[], float]]:
    """Cases of ours, each MB/s; their connections and processes live as long as `stack`."""
    loop = stack.enter_context(asyncio.Runner())
    closing = contextlib.AsyncExitStack()
    stack.callback(lambda: loop.run(closing.aclose()))

    async def connect() -> dict[str, Callable[[], float]]:
        (bare_port,) = await closing.enter_async_context(stream.server("bench.bare_stream"))
        peer, address = await closing.enter_async_context(stream.server("bench.stream", "--serve"))
        swarm = await closing.enter_async_context(Swarm(Ed25519PrivateKey.generate(), agent_version="bench"))
        connection = await swarm.dial(PeerId.parse(peer), [Multiaddr.parse(address)])
        sink = await bare_stream.connect(int(bare_port))
        return {
            "bare": lambda: size / 1e6 / loop.run(sink.measure(size)),
            "one stream": lambda: loop.run(stream.measure_streams(connection, size, 1)),
            "eight streams": lambda: loop.run(stream.measure_streams(connection, size, stream.STREAMS)),
        }

    return loop.run(connect())
