"""Links: one conformance suite for TCP and memory, and what is particular to each."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator

import pytest

from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.transport import (
    Conditions,
    Link,
    Listener,
    MemoryNetwork,
    MemoryTransport,
    TcpTransport,
    Transport,
    tcp,
    tune_malloc,
)
from rage_net.libp2p.transport.tcp import REST_BYTES_MAX

pytestmark = pytest.mark.anyio


class Recorder:
    """Takes everything, or whole units of `unit` bytes."""

    def __init__(self, unit: int = 1) -> None:
        self.unit = unit
        self.got = bytearray()
        self.calls: list[int] = []
        self.lost = asyncio.Event()
        self.error: Exception | None = None
        self.room = asyncio.Event()
        self.changed = asyncio.Event()

    def data_received(self, data: memoryview) -> int:
        used = len(data) - len(data) % self.unit
        self.calls.append(len(data))
        self.got += data[:used]
        self.changed.set()
        return used

    def room_made(self) -> None:
        self.room.set()

    def connection_lost(self, error: Exception | None) -> None:
        assert not self.lost.is_set()
        self.error = error
        self.lost.set()

    async def wait_for(self, size: int) -> bytes:
        async with asyncio.timeout(5):
            while len(self.got) < size:
                self.changed.clear()
                await self.changed.wait()
        return bytes(self.got)


@pytest.fixture(params=["tcp", "memory", "memory, one byte at a time"])
def transport(request: pytest.FixtureRequest, rng: random.Random) -> Transport:
    if request.param == "tcp":
        return TcpTransport()
    pieces = 1 if "one byte" in request.param else 256 * 1024
    return MemoryTransport(MemoryNetwork(Conditions(piece_bytes_max=pieces), rng), "here")


Joined = tuple[Link, Link, Listener]


@pytest.fixture
async def joined(transport: Transport) -> AsyncIterator[Joined]:
    accepted: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
    address = "/ip4/127.0.0.1/tcp/0" if isinstance(transport, TcpTransport) else "/memory/0"
    listener = await transport.listen(Multiaddr.parse(address), accepted.set_result)
    ours = await transport.dial(listener.addresses[0])
    theirs = await accepted
    yield ours, theirs, listener
    listener.close()
    ours.abort()
    theirs.abort()
    await asyncio.sleep(0)


async def test_bytes_arrive_in_order_both_ways(joined: Joined) -> None:
    ours, theirs, listener = joined
    assert ours.remote_address == listener.addresses[0] == theirs.local_address
    here, there = Recorder(), Recorder()
    ours.start(here)
    theirs.start(there)
    ours.write([b"a", b"b" * 1000, b"c"])
    theirs.write([b"back"])
    assert await there.wait_for(1002) == b"a" + b"b" * 1000 + b"c"
    assert await here.wait_for(4) == b"back"


async def test_what_a_receiver_does_not_use_is_shown_again(joined: Joined) -> None:
    ours, theirs, _ = joined
    there = Recorder(unit=7)
    theirs.start(there)
    for word in (b"12345", b"67abc", b"defg"):
        ours.write([word])
        await asyncio.sleep(0)
    assert await there.wait_for(14) == b"1234567abcdefg"


async def test_the_next_receiver_begins_with_what_the_first_left(joined: Joined) -> None:
    ours, theirs, _ = joined

    class First(Recorder):
        def data_received(self, data: memoryview) -> int:
            if self.got:
                return 0
            self.got += data[:1]
            self.changed.set()
            theirs.pause()
            return 1

    first, second = First(), Recorder()
    theirs.start(first)
    ours.write([b"123456"])
    await first.wait_for(1)
    ours.write([b"789"])
    theirs.start(second)
    assert await second.wait_for(8) == b"23456789"
    assert first.got == b"1"


async def test_a_link_is_full_until_the_other_end_reads(joined: Joined) -> None:
    ours, theirs, _ = joined
    here, there = Recorder(), Recorder()
    ours.start(here)
    written = 0
    while not ours.is_full:
        ours.write([bytes(65_536)])
        written += 65_536
        assert written < 64 << 20
    assert ours.waiting > 0 and not here.room.is_set()
    theirs.start(there)
    async with asyncio.timeout(10):
        await here.room.wait()
    assert not ours.is_full
    await there.wait_for(written)
    assert ours.waiting == 0


async def test_closing_sends_what_waits_and_both_ends_learn_of_it_once(joined: Joined) -> None:
    ours, theirs, _ = joined
    here, there = Recorder(), Recorder()
    ours.start(here)
    theirs.start(there)
    ours.write([b"last words"])
    ours.close()
    ours.close()
    async with asyncio.timeout(5):
        await here.lost.wait()
        await there.lost.wait()
    assert there.got == b"last words"


async def test_a_receiver_of_a_lost_link_is_told(joined: Joined) -> None:
    ours, theirs, _ = joined
    ours.start(Recorder())
    there = Recorder()
    theirs.start(there)
    theirs.abort()
    async with asyncio.timeout(5):
        await there.lost.wait()
    late = Recorder()
    theirs.start(late)
    assert late.lost.is_set()


async def test_dialling_where_nobody_listens_is_an_os_error(transport: Transport) -> None:
    address = "/ip4/127.0.0.1/tcp/0" if isinstance(transport, TcpTransport) else "/memory/0"
    listener = await transport.listen(Multiaddr.parse(address), lambda link: link.abort())
    gone = listener.addresses[0]
    listener.close()
    await asyncio.sleep(0)
    with pytest.raises(OSError):
        await transport.dial(gone)


async def test_a_memory_link_breaks_where_it_is_told_to() -> None:
    network = MemoryNetwork(Conditions(break_after_bytes=10))
    transport = MemoryTransport(network, "here")
    links: list[Link] = []
    listener = await transport.listen(Multiaddr.parse("/memory/there"), links.append)
    ours = await transport.dial(listener.addresses[0])
    here = Recorder()
    ours.start(here)
    ours.write([b"123456789"])
    await asyncio.sleep(0.001)
    assert not here.lost.is_set()
    ours.write([b"0"])
    async with asyncio.timeout(5):
        await here.lost.wait()
    assert isinstance(here.error, ConnectionResetError)


async def test_a_receiver_that_uses_nothing_loses_its_tcp_link() -> None:
    transport = TcpTransport()
    links: list[Link] = []
    listener = await transport.listen(Multiaddr.parse("/ip4/127.0.0.1/tcp/0"), links.append)
    ours = await transport.dial(listener.addresses[0])
    ours.start(Recorder())
    while not links:
        await asyncio.sleep(0)

    class Sulking(Recorder):
        def data_received(self, data: memoryview) -> int:
            return 0

    there = Sulking()
    links[0].start(there)
    ours.write([bytes(2 * REST_BYTES_MAX)])
    async with asyncio.timeout(5):
        await there.lost.wait()
    listener.close()
    ours.abort()
    await asyncio.sleep(0)


async def test_a_link_whose_bytes_cost_much_time_brings_less_in_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(tcp.time, "perf_counter", lambda: now)

    class Slow(Recorder):
        cost_s = 1.0

        def data_received(self, data: memoryview) -> int:
            nonlocal now
            now += self.cost_s
            return super().data_received(data)

    link = tcp.TcpLink(memoryview(bytearray(tcp.RECEIVE_BYTES)))
    link._receiver = receiver = Slow()

    def turn() -> int:
        size = len(link.get_buffer(-1))
        link.buffer_updated(size)
        return size

    sizes = [turn() for _ in range(10)]
    assert sizes[0] == tcp.RECEIVE_BYTES and sizes[-1] == tcp.RECEIVE_BYTES_MIN
    receiver.cost_s = 0.0
    assert [turn() for _ in range(10)][-1] == tcp.RECEIVE_BYTES


def test_a_silent_name_server_does_not_keep_the_process_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    monkeypatch.setattr(tcp.socket, "getaddrinfo", lambda *_: answers.wait())

    async def resolve() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await TcpTransport().resolve(Multiaddr.parse("/dns4/silent.example/tcp/1"))

    late = threading.Timer(10, answers.set)
    late.start()
    try:
        asyncio.run(resolve())
        assert not answers.is_set(), "the loop waited for the name server"
    finally:
        late.cancel()
        answers.set()


async def test_names_are_resolved() -> None:
    found = await TcpTransport().resolve(Multiaddr.parse("/dns4/localhost/tcp/4001"))
    assert Multiaddr.parse("/ip4/127.0.0.1/tcp/4001") in found


async def test_a_name_that_is_none_is_an_os_error() -> None:
    with pytest.raises(OSError, match="no host name"):
        await TcpTransport().resolve(Multiaddr.of(("dns", "a" * 64 + ".example"), ("tcp", "1")))


async def test_a_wildcard_listener_names_addresses_that_can_be_dialled() -> None:
    links: list[Link] = []
    listener = await TcpTransport().listen(Multiaddr.parse("/ip4/0.0.0.0/tcp/0"), links.append)
    first = listener.addresses[0]
    assert first.parts[0].value == "127.0.0.1" and int(first.parts[1].value) > 0
    assert all(address.parts[0].value != "0.0.0.0" for address in listener.addresses)
    listener.close()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("/ip4/127.0.0.1/tcp/1", True),
        ("/ip6/::1/tcp/1", True),
        ("/dns/example.org/tcp/1", True),
        ("/ip4/127.0.0.1/udp/1/quic-v1", False),
        ("/ip4/127.0.0.1/tcp/1/ws", False),
        ("/memory/x", False),
    ],
)
async def test_tcp_knows_its_addresses(address: str, expected: bool) -> None:
    assert TcpTransport().can_dial(Multiaddr.parse(address)) is expected


def test_malloc_is_tuned_or_left_alone() -> None:
    assert tune_malloc() in (True, False)
