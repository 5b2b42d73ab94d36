"""Rage's side of a foreign test: a swarm with the same four protocols as the foreign programs have."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from foreign_peers import ECHO, RESET, SINK, SOURCE, pattern

from rage_net.libp2p.errors import StreamResetError
from rage_net.libp2p.swarm import Stream, Swarm


def make_swarm() -> tuple[Swarm, list[str]]:
    """A swarm that is not running yet, and the list where its echo handler notes each reset by a peer."""
    swarm = Swarm(Ed25519PrivateKey.generate(), agent_version="rage/test")
    resets: list[str] = []

    async def echo(stream: Stream) -> None:
        try:
            while buffers := await stream.read():
                await stream.write(*buffers)
        except StreamResetError:
            resets.append(str(stream.remote_peer))

    for protocol, handler in ((ECHO, echo), (SINK, _sink), (SOURCE, _source), (RESET, _reset)):
        swarm.handle(protocol, handler)
    return swarm, resets


async def read_all(stream: Stream) -> bytes:
    parts: list[bytes | memoryview] = []
    while buffers := await stream.read():
        parts += buffers
    return b"".join(parts)


async def hash_all(stream: Stream) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    while buffers := await stream.read():
        for buffer in buffers:
            digest.update(buffer)
            size += len(buffer)
    return {"bytes": size, "sha256": digest.hexdigest()}


async def _sink(stream: Stream) -> None:
    await stream.write(json.dumps(await hash_all(stream)).encode())


async def _source(stream: Stream) -> None:
    for block in pattern(int.from_bytes(await stream.read_exactly(8), "big")):
        await stream.write(block)


async def _reset(stream: Stream) -> None:
    await stream.read()
    await stream.reset()
