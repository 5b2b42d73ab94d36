"""The swarm over real sockets on loopback: what memory cannot show."""

from __future__ import annotations

import asyncio

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rage_net.libp2p.errors import DialError
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.swarm import Stream, Swarm
from rage_net.libp2p.transport import TcpTransport
from tests.listening import listening

pytestmark = pytest.mark.anyio

ECHO = "/echo/1.0.0"
LOOPBACK = Multiaddr.parse("/ip4/127.0.0.1/tcp/0")


async def echo(stream: Stream) -> None:
    while buffers := await stream.read():
        await stream.write(*buffers)


def swarm() -> Swarm:
    one = Swarm(Ed25519PrivateKey.generate(), agent_version="test")
    one.handle(ECHO, echo)
    return one


async def test_eight_streams_of_a_mebibyte_each_way_keep_their_bytes_apart() -> None:
    async with asyncio.timeout(20), swarm() as a, swarm() as b:
        await b.listen(LOOPBACK)
        connection = await a.dial(b.peer_id, b.listen_addresses())

        async def one(index: int) -> None:
            payload = bytes([index]) * (1 << 20)
            stream = await connection.open_stream([ECHO])

            async def send() -> None:
                await stream.write(payload)
                await stream.close_write()

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(send())
                assert await stream.read_exactly(len(payload)) == payload
                assert await stream.read() == []

        async with asyncio.TaskGroup() as tasks:
            for index in range(8):
                tasks.create_task(one(index))
        assert connection.streams == [] and a.budget.unread == b.budget.unread == 0
        assert a.budget.promised == b.budget.promised == 0
        assert connection.bytes_in > 8 << 20 and connection.bytes_out > 8 << 20


async def test_names_are_dialled_and_dead_addresses_passed_over() -> None:
    async with asyncio.timeout(20), swarm() as a, swarm() as b:
        gone = await TcpTransport().listen(LOOPBACK, lambda link: link.abort())
        dead = gone.addresses[0]
        gone.close()
        await b.listen(LOOPBACK)
        port = b.listen_addresses()[0].parts[1].value
        named = Multiaddr.parse(f"/dns4/localhost/tcp/{port}/p2p/{b.peer_id}")
        connection = await a.dial(b.peer_id, [dead, named])
        assert connection.remote_address == b.listen_addresses()[0]
        assert await a.ping(b.peer_id) < 5


async def test_a_refused_dial_says_so() -> None:
    async with asyncio.timeout(20), swarm() as a, swarm() as b:
        gone = await TcpTransport().listen(LOOPBACK, lambda link: link.abort())
        dead = gone.addresses[0]
        gone.close()
        await asyncio.sleep(0)
        with pytest.raises(DialError) as caught:
            await a.dial(b.peer_id, [dead])
        assert caught.value.reasons == ((str(dead), "connection refused"),)


async def test_something_else_at_the_port_is_no_peer() -> None:
    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with asyncio.timeout(20), listening(web) as port, swarm() as a, swarm() as b:
        with pytest.raises(DialError):
            await a.dial(b.peer_id, [Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}")])


async def test_a_wildcard_is_bound_as_such_and_told_as_what_can_be_dialled() -> None:
    async with swarm() as a:
        await a.listen(Multiaddr.parse("/ip4/0.0.0.0/tcp/0"))
        await a.listen(LOOPBACK)
        wild, plain = a.bound_addresses()
        port = wild.parts[1].value
        assert wild.parts[0].value == "0.0.0.0" and port != "0"
        assert a.listen_addresses()[0] == Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}")
        assert plain == a.listen_addresses()[-1]
