"""js-libp2p and py-libp2p as real processes over TCP: each dials rage, and is dialled by it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import pytest
from foreign_peers import ECHO, RESET, SINK, SOURCE, ForeignError, Peer, pattern, pattern_sha256
from rage_side import hash_all, make_swarm, read_all

from rage_net.libp2p.errors import (
    NegotiationError,
    PeerIdMismatchError,
    RemoteProtocolError,
    StreamClosedError,
    StreamResetError,
)
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.swarm import Connection, Swarm

pytestmark = [pytest.mark.anyio, pytest.mark.foreign("js-libp2p", "py-libp2p")]

T = TypeVar("T")
Join = Callable[[Swarm, Peer], Awaitable[Connection]]

BULK = 64 << 20
BULK_SHA256 = pattern_sha256(BULK)
TIMEOUT_S = 30.0
PROTOCOLS = {"/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", ECHO, SINK, SOURCE, RESET}


async def until(look: Callable[[], T | None], swarm: Swarm) -> T:
    """What `look` gives once it gives something; it looks again after each event of the swarm."""
    changed = asyncio.Event()
    swarm.on_event(lambda _: changed.set())
    async with asyncio.timeout(TIMEOUT_S):
        while (found := look()) is None:
            await changed.wait()
            changed.clear()
    return found


async def rage_dials(swarm: Swarm, peer: Peer) -> Connection:
    connection = await swarm.dial(PeerId.parse(peer.peer_id), [Multiaddr.parse(peer.address)], timeout_s=TIMEOUT_S)
    await peer.call("met", peer=str(swarm.peer_id))  # the dialler has its connection first
    return connection


async def it_dials(swarm: Swarm, peer: Peer) -> Connection:
    address = swarm.listen_addresses()[0].with_peer_id(swarm.peer_id)
    assert (await peer.call("dial", address=str(address)))["peer_id"] == str(swarm.peer_id)
    return await until(lambda: swarm.connection(PeerId.parse(peer.peer_id)), swarm)


@pytest.fixture(params=[rage_dials, it_dials], ids=lambda join: join.__name__)
def join(request: pytest.FixtureRequest) -> Join:
    return request.param


@pytest.fixture
async def sides() -> AsyncIterator[tuple[Swarm, list[str]]]:
    """A running swarm that listens on loopback, and who reset its echo."""
    swarm, resets = make_swarm()
    async with swarm:
        await swarm.listen(Multiaddr.parse("/ip4/127.0.0.1/tcp/0"))
        yield swarm, resets


@pytest.fixture
def swarm(sides: tuple[Swarm, list[str]]) -> Swarm:
    return sides[0]


async def test_each_identifies_the_other(swarm: Swarm, foreign: Peer, join: Join) -> None:
    connection = await join(swarm, foreign)
    assert connection.inbound == (join is it_dials)

    told = await foreign.call("identify", peer=str(swarm.peer_id))
    assert told["agent"] == "rage/test"
    assert set(told["protocols"]) == PROTOCOLS | {"/ipfs/id/push/1.0.0"}
    assert str(swarm.listen_addresses()[0]) in told["addresses"]
    assert Multiaddr.parse(told["observed"]).parts[0] == ("ip4", "127.0.0.1")

    known = await until(lambda: connection.identify, swarm)
    assert foreign.program in (known.agent_version or "")
    assert set(known.protocols) >= PROTOCOLS
    assert Multiaddr.parse(foreign.address).without_peer_id() in [
        Multiaddr(address.transport_parts()) for address in known.listen_addresses
    ]


async def test_each_pings_the_other(swarm: Swarm, foreign: Peer, join: Join) -> None:
    await join(swarm, foreign)
    assert 0 < await swarm.ping(PeerId.parse(foreign.peer_id)) < TIMEOUT_S
    assert (await foreign.call("ping", peer=str(swarm.peer_id)))["rtt_ms"] >= 0


async def test_64_mib_on_one_stream_arrive_byte_for_byte_from_it(swarm: Swarm, foreign: Peer, join: Join) -> None:
    connection = await join(swarm, foreign)
    stream = await connection.open_stream([SOURCE], initial=BULK.to_bytes(8, "big"))
    await stream.close_write()
    async with asyncio.timeout(TIMEOUT_S):
        assert await hash_all(stream) == {"bytes": BULK, "sha256": BULK_SHA256}


async def test_64_mib_on_one_stream_arrive_byte_for_byte_at_it(swarm: Swarm, foreign: Peer, join: Join) -> None:
    await join(swarm, foreign)
    assert await foreign.call("get", peer=str(swarm.peer_id), size=BULK) == {"bytes": BULK, "sha256": BULK_SHA256}


async def test_a_half_closed_stream_still_brings_the_answer(swarm: Swarm, foreign: Peer, join: Join) -> None:
    """The sink answers only when it has seen the end of what was sent."""
    size = 3_000_001
    connection = await join(swarm, foreign)
    stream = await connection.open_stream([SINK])
    for block in pattern(size):
        await stream.write(block)
    await stream.close_write()
    async with asyncio.timeout(TIMEOUT_S):
        answer = json.loads(await read_all(stream))
    assert answer == {"bytes": size, "sha256": pattern_sha256(size)}

    theirs = await foreign.call("put", peer=str(swarm.peer_id), size=size)
    assert theirs == {"sha256": answer["sha256"], "answer": answer}


async def test_a_hundred_streams_at_once_each_way(swarm: Swarm, foreign: Peer, join: Join) -> None:
    connection = await join(swarm, foreign)

    async def one(number: int) -> bool:
        sent = bytes((number,)) * 5_000
        stream = await connection.open_stream([ECHO], initial=sent, timeout_s=TIMEOUT_S)
        await stream.close_write()
        return await read_all(stream) == sent

    async with asyncio.timeout(TIMEOUT_S):
        ours, theirs = await asyncio.gather(
            asyncio.gather(*(one(number) for number in range(100))),
            foreign.call("streams", peer=str(swarm.peer_id), count=100, size=5_000),
        )
    assert sum(ours) == 100
    assert theirs == {"good": 100}


async def test_a_reset_by_one_is_seen_as_such_by_the_other(
    sides: tuple[Swarm, list[str]], foreign: Peer, join: Join
) -> None:
    swarm, resets = sides
    connection = await join(swarm, foreign)
    stream = await connection.open_stream([RESET], initial=b"x")
    with pytest.raises(StreamResetError):
        async with asyncio.timeout(TIMEOUT_S):
            await read_all(stream)

    assert await foreign.call("get_reset", peer=str(swarm.peer_id)) == {"is_reset": True}
    await foreign.call("reset", peer=str(swarm.peer_id))
    await swarm.ping(PeerId.parse(foreign.peer_id))  # the reset went before the answer to this
    assert resets == [foreign.peer_id]
    assert swarm.counts["handler_errors"] == 0


async def test_a_protocol_that_one_does_not_speak_costs_the_stream_alone(
    swarm: Swarm, foreign: Peer, join: Join
) -> None:
    connection = await join(swarm, foreign)
    stream = await connection.open_stream(["/foreign/unheard-of"], initial=b"early")
    with pytest.raises((NegotiationError, StreamResetError, RemoteProtocolError)):
        async with asyncio.timeout(TIMEOUT_S):
            await read_all(stream)
    second = await connection.open_stream(["/foreign/unheard-of", ECHO], timeout_s=TIMEOUT_S)
    assert second.protocol == ECHO
    await second.close()
    with pytest.raises(ForeignError):
        await foreign.call("open", peer=str(swarm.peer_id), protocol="/foreign/unheard-of")
    assert await swarm.ping(PeerId.parse(foreign.peer_id)) > 0


async def test_a_stranger_at_a_known_address_is_not_taken_for_the_peer(swarm: Swarm, foreign: Peer) -> None:
    expected = PeerId.parse("12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA")
    place = Multiaddr.parse(foreign.address).without_peer_id()
    with pytest.raises(PeerIdMismatchError, match=foreign.peer_id[-8:]):
        await swarm.dial(expected, [place], timeout_s=TIMEOUT_S)
    assert swarm.connections() == []


async def test_a_peer_that_hangs_up_is_noticed(swarm: Swarm, foreign: Peer, join: Join) -> None:
    await join(swarm, foreign)
    await foreign.call("hang_up", peer=str(swarm.peer_id))
    await until(lambda: True if swarm.connection(PeerId.parse(foreign.peer_id)) is None else None, swarm)


async def test_a_peer_that_dies_while_it_sends_ends_the_read_and_rage_lives(
    swarm: Swarm, mortal: Peer, join: Join
) -> None:
    connection = await join(swarm, mortal)
    stream = await connection.open_stream([SOURCE], initial=(1 << 40).to_bytes(8, "big"))
    got = 0
    with pytest.raises(StreamClosedError):
        async with asyncio.timeout(TIMEOUT_S):
            while buffers := await stream.read():
                if got == 0:
                    mortal.kill()
                got += sum(map(len, buffers))
    assert got > 0
    await until(lambda: True if not swarm.connections() else None, swarm)
    assert swarm.counts["task_errors"] == 0


async def test_a_peer_that_dies_while_it_takes_ends_the_write_and_rage_lives(
    swarm: Swarm, mortal: Peer, join: Join
) -> None:
    connection = await join(swarm, mortal)
    stream = await connection.open_stream([SINK])
    with pytest.raises(StreamClosedError):
        async with asyncio.timeout(TIMEOUT_S):
            for number, block in enumerate(pattern(1 << 40)):
                if number == 100:
                    mortal.kill()
                await stream.write(block)
    await until(lambda: True if not swarm.connections() else None, swarm)
    assert swarm.counts["task_errors"] == 0
