"""When the end of a stream may leave with the name of its protocol: js-libp2p loses one that does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rage_net.libp2p.errors import StreamClosedError
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.swarm import Connection, Identified, Stream, Swarm

pytestmark = pytest.mark.anyio

COUNT = "/test/count/1.0.0"


async def count(stream: Stream) -> None:
    """Answers after the end with how many bytes came before it."""
    size = 0
    while buffers := await stream.read():
        size += sum(map(len, buffers))
    await stream.write(b"%d" % size)


@asynccontextmanager
async def identified(agent: str) -> AsyncIterator[Connection]:
    """A connection to a peer that calls itself `agent`, from one that is `rage`; both know who the other is."""
    ours = Swarm(Ed25519PrivateKey.generate(), agent_version="rage/1")
    theirs = Swarm(Ed25519PrivateKey.generate(), agent_version=agent)
    theirs.handle(COUNT, count)
    known = asyncio.Event()
    ours.on_event(lambda event: known.set() if isinstance(event, Identified) else None)
    async with asyncio.timeout(10), ours, theirs:
        await theirs.listen(Multiaddr.parse("/ip4/127.0.0.1/tcp/0"))
        connection = await ours.dial(theirs.peer_id, theirs.listen_addresses())
        await known.wait()
        yield connection


async def test_it_leaves_at_once_to_a_peer_of_our_own_kind() -> None:
    async with identified("rage/2") as connection:
        stream = await connection.open_stream([COUNT], initial=b"12345")
        await stream.close_write()
        assert stream.raw.is_closing
        assert b"".join(await stream.read()) == b"5"


async def test_it_waits_for_the_answer_of_any_other() -> None:
    async with identified("js-libp2p/3.3.11") as connection:
        stream = await connection.open_stream([COUNT], initial=b"12345")
        await stream.close_write()
        assert not stream.raw.is_closing
        with pytest.raises(StreamClosedError):
            await stream.write(b"after the end")
        assert b"".join(await stream.read()) == b"5"
        assert stream.raw.is_closing


async def test_who_reads_no_answer_ends_the_stream_all_the_same() -> None:
    async with identified("js-libp2p/3.3.11") as connection:
        stream = await connection.open_stream([COUNT], initial=b"12345")
        await stream.close_write()
        await stream.close()
        assert stream.raw.is_closing or stream.raw.is_write_closed
