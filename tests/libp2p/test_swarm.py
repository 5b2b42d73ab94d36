"""The swarm: dialling, streams, identify, ping, one connection a peer, limits; in memory, under a clock of its own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rage_lab.sim.virtual_loop import VirtualLoop
from rage_net.libp2p.errors import (
    DialError,
    NegotiationError,
    PeerIdMismatchError,
    RemoteProtocolError,
    StreamClosedError,
    StreamResetError,
)
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.swarm import Connected, Connection, Disconnected, Event, Identified, Limits, Stream, Swarm
from rage_net.libp2p.transport import Conditions, MemoryNetwork, MemoryTransport

pytestmark = pytest.mark.anyio

ECHO = "/echo/1.0.0"
KIB, MIB = 1024, 1024 * 1024


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"loop_factory": VirtualLoop}


class World:
    """Swarms on one network in memory."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.network = MemoryNetwork(random=rng)
        self.events: dict[str, list[Event]] = {}

    def conditions(self, **more: Any) -> None:
        self.network.conditions = Conditions(**more)

    def swarm(self, name: str, *, key: Ed25519PrivateKey | None = None, **limits: Any) -> Swarm:
        swarm = Swarm(
            key or Ed25519PrivateKey.from_private_bytes(self.rng.randbytes(32)),
            transports=[MemoryTransport(self.network, name)],
            limits=Limits(**limits),
            agent_version=f"test/{name}",
            clock=asyncio.get_running_loop().time,
            random=self.rng,
        )
        self.events[name] = []
        swarm.on_event(self.events[name].append)
        swarm.handle(ECHO, echo)
        return swarm


async def echo(stream: Stream) -> None:
    while buffers := await stream.read():
        await stream.write(*buffers)
    await stream.close_write()


async def read_all(stream: Stream) -> bytes:
    out = b""
    while buffers := await stream.read():
        out += b"".join(bytes(buffer) for buffer in buffers)
    return out


async def listen(swarm: Swarm, name: str = "0") -> list[Multiaddr]:
    await swarm.listen(Multiaddr.parse(f"/memory/{name}"))
    return swarm.listen_addresses()


async def join(a: Swarm, b: Swarm) -> Connection:
    return await a.dial(b.peer_id, b.listen_addresses() or await listen(b))


@pytest.fixture
def world(rng: random.Random) -> World:
    return World(rng)


# -- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [1, 13, 4096, 1 << 20])
async def test_a_message_goes_there_and_back_however_the_bytes_are_cut(world: World, pieces: int) -> None:
    world.conditions(piece_bytes_max=pieces, delay_s=0.01)
    async with world.swarm("a") as a, world.swarm("b") as b:
        connection = await join(a, b)
        stream = await connection.open_stream([ECHO], initial=b"first ")
        await stream.write(b"second")
        await stream.close_write()
        assert await read_all(stream) == b"first second"
        assert stream.remote_peer == b.peer_id and stream.protocol == ECHO
    assert not a.counts and not b.counts


async def test_a_large_stream_goes_through_a_slow_network_both_ways(world: World) -> None:
    world.conditions(piece_bytes_max=100_000, delay_s=0.02)
    payload = world.rng.randbytes(5 * MIB)
    async with world.swarm("a") as a, world.swarm("b") as b:
        stream = await (await join(a, b)).open_stream([ECHO])

        async def send() -> None:
            await stream.write(payload[:MIB], memoryview(payload)[MIB:])
            await stream.close_write()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send())
            got = tasks.create_task(read_all(stream))
        assert got.result() == payload
        assert a.budget.unread == b.budget.unread == 0


async def test_the_first_of_several_protocols_that_the_peer_speaks_is_taken(world: World) -> None:
    async with world.swarm("a") as a, world.swarm("b") as b:
        connection = await join(a, b)
        stream = await connection.open_stream(["/nope/1.0.0", "/neither/1.0.0", ECHO], initial=b"hello")
        assert stream.protocol == ECHO
        await stream.close_write()
        assert await read_all(stream) == b"hello"


async def test_a_protocol_the_peer_does_not_speak_is_an_error(world: World) -> None:
    async with world.swarm("a") as a, world.swarm("b") as b:
        connection = await join(a, b)
        with pytest.raises(NegotiationError):
            await connection.open_stream(["/nope/1.0.0", "/neither/1.0.0"])
        lazy = await connection.open_stream(["/nope/1.0.0"], initial=b"too early")
        with pytest.raises((NegotiationError, StreamResetError)):
            await lazy.read()
        await asyncio.sleep(1)
        assert connection.streams == [] and b.connections()[0].streams == []


async def test_request_and_answer_take_one_frame_and_one_batch_each(world: World) -> None:
    async with world.swarm("a") as a, world.swarm("b") as b:
        connection = await join(a, b)
        await asyncio.sleep(1)
        batches: list[int] = []
        for one in (connection, b.connections()[0]):
            link = one._link
            write = link.write

            def counted(buffers: Any, write: Callable[[Any], None] = write) -> None:
                buffers = list(buffers)
                batches.append(len(buffers))
                write(buffers)

            link.write = counted  # type: ignore[method-assign]
        b.handle("/once/1.0.0", answer_once)
        await asyncio.sleep(1)  # the push of the new protocol goes its own way
        batches.clear()
        stream = await connection.open_stream(["/once/1.0.0"], initial=b"request")
        await stream.close_write()
        assert await read_all(stream) == b"answer to request"
        assert batches == [2, 2]  # a length and a ciphertext, twice


async def answer_once(stream: Stream) -> None:
    await stream.write(b"answer to " + await read_all(stream))


async def test_a_handler_with_nothing_to_say_still_agrees(world: World) -> None:
    gate = asyncio.Event()

    async def silent(stream: Stream) -> None:
        await gate.wait()

    async with world.swarm("a") as a, world.swarm("b") as b:
        b.handle("/silent/1.0.0", silent)
        connection = await join(a, b)
        stream = await connection.open_stream(["/nope/1.0.0", "/silent/1.0.0"], timeout_s=0.5)
        assert stream.protocol == "/silent/1.0.0"
        gate.set()
        assert await read_all(stream) == b""


async def test_half_a_stream_may_end_while_the_other_goes_on(world: World) -> None:
    async def count(stream: Stream) -> None:
        size = len(await read_all(stream))
        for digit in str(size):
            await asyncio.sleep(0.1)
            await stream.write(digit.encode())

    async with world.swarm("a") as a, world.swarm("b") as b:
        b.handle("/count/1.0.0", count)
        stream = await (await join(a, b)).open_stream(["/count/1.0.0"], initial=bytes(1234))
        await stream.close_write()
        with pytest.raises(StreamClosedError):
            await stream.write(b"more")
        assert await read_all(stream) == b"1234"
        assert await stream.read() == []


async def test_a_reset_wakes_both_the_reader_and_the_writer(world: World) -> None:
    async def rude(stream: Stream) -> None:
        await stream.read()
        await asyncio.sleep(0.1)
        await stream.reset()

    async with world.swarm("a") as a, world.swarm("b") as b:
        b.handle("/rude/1.0.0", rude)
        stream = await (await join(a, b)).open_stream(["/rude/1.0.0"])
        writer = asyncio.create_task(stream.write(bytes(4 * MIB)))
        with pytest.raises(StreamResetError):
            while await stream.read():
                pass
        with pytest.raises(StreamResetError):
            await writer
        with pytest.raises(StreamResetError):
            await stream.write(b"more")


async def test_messages_are_cut_out_of_the_stream_and_refused_above_their_limit(world: World) -> None:
    async with world.swarm("a") as a, world.swarm("b") as b:
        connection = await join(a, b)
        stream = await connection.open_stream([ECHO], initial=b"\x03one\x00\x03two\xe8\x07" + b"x" * 1000 + b"tail")
        await stream.close_write()
        assert [await stream.read_message(1000) for _ in range(4)] == [b"one", b"", b"two", b"x" * 1000]
        assert await stream.read_exactly(2) == b"ta"
        with pytest.raises(RemoteProtocolError, match="1 bytes early"):
            await stream.read_exactly(3)
        stream = await connection.open_stream([ECHO])
        for piece in (b"\xe8", b"\x07", b"y" * 999, b"y\x01", b"z"):
            await stream.write(piece)
            await asyncio.sleep(0.1)
        assert await stream.read_message(1000) == b"y" * 1000 and await stream.read_message(1000) == b"z"
        stream = await connection.open_stream([ECHO], initial=b"\xe9\x07")
        with pytest.raises(RemoteProtocolError, match="limit"):
            await stream.read_message(1000)
        stream = await connection.open_stream([ECHO], initial=b"\x05ab")
        await stream.close_write()
        with pytest.raises(RemoteProtocolError, match="early"):
            await stream.read_message(1000)


async def test_a_hundred_streams_at_once_keep_their_bytes_apart(world: World) -> None:
    async with world.swarm("a") as a, world.swarm("b") as b:
        connection = await join(a, b)

        async def one(index: int) -> None:
            payload = bytes([index]) * (1000 * index)
            stream = await connection.open_stream([ECHO], initial=payload)
            await stream.close_write()
            assert await read_all(stream) == payload

        async with asyncio.TaskGroup() as tasks:
            for index in range(100):
                tasks.create_task(one(index))
        assert connection.streams == []


async def test_more_streams_than_the_peer_acknowledges_wait_for_their_turn(world: World) -> None:
    gate = asyncio.Event()

    async def slow(stream: Stream) -> None:
        await gate.wait()

    async with world.swarm("a") as a, world.swarm("b") as b:
        b.handle("/slow/1.0.0", slow)
        connection = await join(a, b)
        streams = [await connection.open_stream(["/slow/1.0.0"]) for _ in range(256)]
        await asyncio.sleep(0)
        late = asyncio.create_task(connection.open_stream(["/slow/1.0.0"]))
        await asyncio.sleep(0)
        assert not late.done()
        await late  # the acknowledgement comes with the greetings, which wait for no handler
        gate.set()
        for stream in streams:
            await stream.close()
    assert a.counts["protocol_errors"] == b.counts["protocol_errors"] == 0


async def test_a_failing_handler_resets_its_stream_and_nothing_else(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def failing(stream: Stream) -> None:
        raise ZeroDivisionError("a bug")

    async with world.swarm("a") as a, world.swarm("b") as b:
        b.handle("/failing/1.0.0", failing)
        connection = await join(a, b)
        good = await connection.open_stream([ECHO], initial=b"still ")
        bad = await connection.open_stream(["/failing/1.0.0"])
        with pytest.raises(StreamResetError):
            await bad.read()
        await good.write(b"here")
        await good.close_write()
        assert await read_all(good) == b"still here"
        assert b.counts["handler_errors"] == 1
    assert "a bug" in caplog.text


async def test_a_failing_callback_harms_nobody(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def failing(event: Event) -> None:
        raise ZeroDivisionError("a bug")

    async with world.swarm("a") as a, world.swarm("b") as b:
        a.on_event(failing)
        await join(a, b)
        assert a.counts["handler_errors"] >= 1
    assert "a bug" in caplog.text


async def test_what_was_written_before_a_close_arrives_though_nobody_read_the_answer(world: World) -> None:
    got: list[bytes] = []

    async def keep(stream: Stream) -> None:
        await stream.write(b"thanks in advance")
        await asyncio.sleep(5)
        got.append(await read_all(stream))

    async with world.swarm("a") as a, world.swarm("b") as b:
        b.handle("/keep/1.0.0", keep)
        stream = await (await join(a, b)).open_stream(["/keep/1.0.0"], initial=b"no answer needed")
        await stream.close()
        await asyncio.sleep(10)
        assert got == [b"no answer needed"] and not b.counts["stream_errors"]


async def test_a_stream_closed_unread_is_reset_when_the_peer_sends_on(world: World) -> None:
    async def talker(stream: Stream) -> None:
        while True:
            await stream.write(bytes(100_000))
            await asyncio.sleep(0.1)

    async with world.swarm("a") as a, world.swarm("b") as b:
        b.handle("/talker/1.0.0", talker)
        connection = await join(a, b)
        stream = await connection.open_stream(["/talker/1.0.0"])
        await stream.read()
        await stream.close()
        await asyncio.sleep(1)
        assert connection.streams == [] and b.counts["stream_errors"] == 1
        assert a.budget.unread == 0


async def test_a_stream_closed_by_us_alone_does_not_linger_for_ever(world: World) -> None:
    async def mute(stream: Stream) -> None:
        await asyncio.sleep(10_000)

    async with world.swarm("a", linger_s=60) as a, world.swarm("b") as b:
        b.handle("/mute/1.0.0", mute)
        connection = await join(a, b)
        stream = await connection.open_stream(["/mute/1.0.0"])
        await stream.close()
        await asyncio.sleep(50)
        assert connection.streams != []
        await asyncio.sleep(20)
        assert connection.streams == []


# -- dialling ---------------------------------------------------------------------------------------------------------


async def test_a_second_dial_gives_the_same_connection(world: World) -> None:
    async with world.swarm("a") as a, world.swarm("b") as b:
        addresses = await listen(b)
        first, second = await asyncio.gather(*(a.dial(b.peer_id, addresses) for _ in range(2)))
        assert first is second is await a.dial(b.peer_id, [])
        assert len(b.connections()) == 1


async def test_the_first_address_that_works_is_taken_and_the_others_do_not_hold_it_up(world: World) -> None:
    async with world.swarm("a") as a, world.swarm("b") as b:
        await black_hole(world, "hole-1")
        await black_hole(world, "hole-2")
        addresses = [Multiaddr.parse(f"/memory/{name}") for name in ("hole-1", "nobody", "hole-2")]
        connection = await a.dial(b.peer_id, [*addresses, *await listen(b)], timeout_s=5)
        assert str(connection.remote_address) == str(b.listen_addresses()[0])
        assert asyncio.get_running_loop().time() < 1.0


async def black_hole(world: World, name: str) -> None:
    """Accepts, and never says a word."""
    transport = MemoryTransport(world.network, name)
    await transport.listen(Multiaddr.parse(f"/memory/{name}"), lambda link: None)


async def test_a_failed_dial_says_why_for_each_address(world: World) -> None:
    async with world.swarm("a") as a, world.swarm("b") as b:
        await black_hole(world, "hole")
        other = world.swarm("c").peer_id
        addresses = [
            Multiaddr.parse("/memory/nobody"),
            Multiaddr.parse("/memory/hole"),
            Multiaddr.parse("/ip4/127.0.0.1/udp/1/quic-v1"),
            Multiaddr.parse(f"/memory/x/p2p/{other}"),
        ]
        with pytest.raises(DialError) as caught:
            await a.dial(b.peer_id, addresses, timeout_s=3)
        reasons = dict(caught.value.reasons)
        assert "nobody listens" in reasons["/memory/nobody"]
        assert reasons["/memory/hole"] == "no answer in time"
        assert reasons["/ip4/127.0.0.1/udp/1/quic-v1"] == "no transport for this address"
        assert reasons[f"/memory/x/p2p/{other}"] == "the address names another peer"
        assert asyncio.get_running_loop().time() == pytest.approx(3, abs=0.1)


async def test_someone_else_at_the_address_is_not_the_peer(world: World) -> None:
    async with world.swarm("a") as a, world.swarm("b") as b, world.swarm("c") as c:
        with pytest.raises(PeerIdMismatchError, match=str(c.peer_id)):
            await a.dial(b.peer_id, await listen(c))
        await asyncio.sleep(1)
        assert a.connections() == [] and c.connections() == []


async def test_an_unknown_peer_may_be_dialled_by_its_address_alone(world: World) -> None:
    async with world.swarm("a") as a, world.swarm("b") as b:
        assert (await a.dial(None, await listen(b))).peer_id == b.peer_id


async def test_nobody_dials_itself(world: World) -> None:
    async with world.swarm("a") as a:
        addresses = await listen(a)
        with pytest.raises(DialError, match="this very node"):
            await a.dial(a.peer_id, addresses)
        with pytest.raises(DialError):
            await a.dial(None, addresses)
        await asyncio.sleep(1)
        assert a.connections() == []


async def test_a_cancelled_dial_leaves_no_link(world: World) -> None:
    async with world.swarm("a") as a, world.swarm("b") as b:
        await black_hole(world, "hole")
        dial = asyncio.create_task(a.dial(None, [Multiaddr.parse("/memory/hole")]))
        await asyncio.sleep(1)
        dial.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dial
        await join(a, b)


# -- one connection a peer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0.0, 0.05])
@pytest.mark.parametrize("turn", range(4))
async def test_a_simultaneous_dial_leaves_one_connection_the_same_on_both_sides(
    world: World, delay: float, turn: int
) -> None:
    world.conditions(delay_s=delay)
    async with world.swarm("a") as a, world.swarm("b") as b:
        to_a, to_b = await listen(a), await listen(b)

        async def talk(one: Swarm, other: Swarm, addresses: list[Multiaddr]) -> None:
            connection = await one.dial(other.peer_id, addresses)
            stream = await connection.open_stream([ECHO], initial=b"hello")
            await stream.close_write()
            assert await read_all(stream) == b"hello"

        await asyncio.gather(talk(a, b, to_b), talk(b, a, to_a))
        await asyncio.sleep(30)
        ours, theirs = a.connection(b.peer_id), b.connection(a.peer_id)
        assert ours is not None and theirs is not None
        assert ours.inbound != theirs.inbound
        assert len(a._all) == len(b._all) == 1
        assert (a.peer_id.multihash < b.peer_id.multihash) == theirs.inbound
        assert [type(event) for event in world.events["a"]].count(Connected) == 1
        assert not any(isinstance(event, Disconnected) for event in world.events["a"] + world.events["b"])
    assert a.counts["stream_errors"] == b.counts["stream_errors"] == 0


async def test_a_peer_that_has_lost_its_connection_and_dials_again_replaces_the_old_one(world: World) -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    async with world.swarm("b") as b:
        await listen(b)
        async with world.swarm("a", key=key) as a:
            await join(a, b)
            await asyncio.sleep(20)
            for connection in a.connections():  # the host loses power: nobody is told
                connection._link.write = lambda buffers: None  # type: ignore[method-assign]
                connection._link.close = connection._link.abort = lambda: None  # type: ignore[method-assign]
            async with world.swarm("a2", key=key) as again:
                await join(again, b)
                await asyncio.sleep(1)
                kept = b.connection(again.peer_id)
                assert kept is not None and str(kept.remote_address) == "/memory/a2"
                assert await b.ping(again.peer_id) < 1


# -- life -------------------------------------------------------------------------------------------------------------


async def test_peers_tell_each_other_what_they_are_and_what_changes(world: World) -> None:
    async with world.swarm("a") as a, world.swarm("b") as b:
        connection = await join(a, b)
        await asyncio.sleep(1)
        assert connection.identify is not None
        assert connection.identify.agent_version == "test/b"
        assert connection.identify.listen_addresses == tuple(b.listen_addresses())
        assert ECHO in connection.identify.protocols
        assert [type(event) for event in world.events["a"]] == [Connected, Identified]
        b.handle("/new/1.0.0", echo)
        await asyncio.sleep(1)
        assert "/new/1.0.0" in connection.identify.protocols and connection.identify.agent_version == "test/b"
        assert [type(event) for event in world.events["a"]] == [Connected, Identified, Identified]


async def test_ping_measures_the_round_trip(world: World) -> None:
    world.conditions(delay_s=0.05)
    async with world.swarm("a") as a, world.swarm("b") as b:
        await join(a, b)
        assert await a.ping(b.peer_id) == pytest.approx(0.1, abs=0.01)
        with pytest.raises(StreamClosedError):
            await a.ping(world.swarm("c").peer_id)


async def test_an_idle_connection_is_closed_and_a_used_one_is_not(world: World) -> None:
    async with world.swarm("a", idle_s=100) as a, world.swarm("b") as b, world.swarm("c") as c:
        await join(a, b)
        stream = await (await join(a, c)).open_stream([ECHO])
        await asyncio.sleep(150)
        assert a.connection(b.peer_id) is None and a.connection(c.peer_id) is not None
        assert Disconnected(b.peer_id, "idle", is_orderly=True) in world.events["a"]
        assert b.connections() == []
        await stream.close()


async def test_a_connection_whose_peer_went_away_is_closed_once_its_streams_have_ended(world: World) -> None:
    async with world.swarm("a") as a, world.swarm("b") as b:
        stream = await (await join(a, b)).open_stream([ECHO])
        await asyncio.sleep(1)
        theirs = b.connections()[0]
        theirs.session.go_away(0)  # type: ignore[arg-type]
        theirs.schedule_flush()
        await asyncio.sleep(5)
        assert a.connection(b.peer_id) is None and len(a.connections()) == 1
        await stream.write(b"still here")
        await stream.close_write()
        assert await read_all(stream) == b"still here"
        await asyncio.sleep(2)
        assert a.connections() == [] and b.connections() == []
        assert Disconnected(b.peer_id, "the peer went away", is_orderly=True) in world.events["a"]


async def test_a_closing_swarm_sends_what_waits_and_its_streams_learn_of_it(world: World) -> None:
    async with world.swarm("b") as b:
        got: list[bytes] = []

        async def keep(stream: Stream) -> None:
            got.append(await stream.read_exactly(3 * MIB))
            await stream.read()

        b.handle("/keep/1.0.0", keep)
        async with world.swarm("a") as a:
            stream = await (await join(a, b)).open_stream(["/keep/1.0.0"])
            await stream.write(bytes(3 * MIB - 200_000))
            await stream.write(bytes(200_000))
        await asyncio.sleep(1)
        assert got == [bytes(3 * MIB)]
        assert b.connections() == [] and b.counts["handler_errors"] == 0
        with pytest.raises(StreamClosedError):
            await stream.read()
        with pytest.raises(StreamClosedError):
            await stream.write(b"more")


async def test_an_error_in_the_body_goes_its_own_way(world: World) -> None:
    with pytest.raises(ZeroDivisionError):
        async with world.swarm("a") as a, world.swarm("b") as b:
            await join(a, b)
            raise ZeroDivisionError


async def test_a_broken_link_ends_its_streams_and_the_swarm_goes_on(world: World) -> None:
    async with world.swarm("a") as a, world.swarm("b") as b:
        await listen(b)
        world.conditions(break_after_bytes=50_000)
        stream = await (await join(a, b)).open_stream([ECHO])
        with pytest.raises((StreamClosedError, StreamResetError)):
            while True:
                await stream.write(bytes(10_000))
                await stream.read()
        assert [type(event) for event in world.events["a"]][-1] is Disconnected
        world.conditions()
        assert (await join(a, b)).peer_id == b.peer_id


async def test_links_that_break_at_any_byte_raise_nothing_but_what_is_said(world: World) -> None:
    for limit in sorted(world.rng.sample(range(1, 3000), 25)):
        world.conditions(break_after_bytes=limit, piece_bytes_max=50)
        async with world.swarm(f"a{limit}") as a, world.swarm(f"b{limit}") as b:
            try:
                stream = await (await join(a, b)).open_stream([ECHO], initial=bytes(1000))
                await stream.close_write()
                await read_all(stream)
            except (DialError, StreamClosedError, StreamResetError, RemoteProtocolError):
                pass
        assert a.counts["task_errors"] == b.counts["task_errors"] == 0
        assert a.counts["handler_errors"] == b.counts["handler_errors"] == 0
        assert a.budget.unread == b.budget.unread == 0


# -- limits -----------------------------------------------------------------------------------------------------------


async def test_connections_over_a_limit_are_refused(world: World) -> None:
    limits: list[dict[str, int]] = [{"connections": 2}, {"connections_per_ip": 2}]
    for limit in limits:
        async with world.swarm("b", **limit) as b:
            addresses = await listen(b)
            swarms = [world.swarm("same-host") for _ in range(3)]
            async with swarms[0], swarms[1], swarms[2]:
                for swarm in swarms[:2]:
                    await swarm.dial(b.peer_id, addresses)
                with pytest.raises(DialError):
                    await swarms[2].dial(b.peer_id, addresses)
                assert b.counts["refused"] == 1 and len(b.connections()) == 2


async def test_streams_over_the_total_limit_are_reset_and_one_peer_leaves_as_many_as_it_has(world: World) -> None:
    async with world.swarm("a") as a, world.swarm("b", streams_total=6) as b, world.swarm("c") as c:
        greedy = await join(a, b)
        await asyncio.sleep(1)
        streams = [await greedy.open_stream([ECHO], initial=b"x") for _ in range(4)]
        for stream in streams[:3]:
            assert await stream.read() == [b"x"]
        with pytest.raises(StreamResetError):
            await streams[3].read()
        assert b.counts["streams_refused"] == 1
        other = await (await join(c, b)).open_stream([ECHO], initial=b"x")
        assert await other.read() == [b"x"]


async def test_a_writer_waits_for_the_reader_and_is_woken_when_its_queue_drains(world: World) -> None:
    gate = asyncio.Event()

    async def late(stream: Stream) -> None:
        await gate.wait()
        assert len(await read_all(stream)) == 2 * MIB

    async with world.swarm("a") as a, world.swarm("b") as b:
        b.handle("/late/1.0.0", late)
        stream = await (await join(a, b)).open_stream(["/late/1.0.0"])
        writer = asyncio.create_task(stream.write(bytes(2 * MIB)))
        await asyncio.sleep(10)
        assert not writer.done()
        assert b.budget.unread < 300 * KIB
        gate.set()
        await writer
        await stream.close_write()
        assert await read_all(stream) == b""
    assert b.counts["handler_errors"] == 0


async def test_the_node_wide_budget_holds_over_many_connections(world: World) -> None:
    async def hoard(stream: Stream) -> None:
        await asyncio.sleep(10_000)

    async with world.swarm("b", unread_bytes=MIB) as b:
        b.handle("/hoard/1.0.0", hoard)
        addresses = await listen(b)
        peak = 0

        async def greedy(index: int) -> None:
            nonlocal peak
            async with world.swarm(f"greedy{index}") as one:
                connection = await one.dial(b.peer_id, addresses)
                try:
                    for _ in range(index):
                        stream = await connection.open_stream(["/hoard/1.0.0"])
                        writer = asyncio.create_task(stream.write(bytes(200 * KIB)))
                        await asyncio.sleep(1)
                        peak = max(peak, b.budget.unread)
                        await writer
                    await asyncio.sleep(30)
                except (StreamClosedError, StreamResetError):
                    assert index > 1, "the one with the least unread bytes goes first"

        await asyncio.gather(*(greedy(index) for index in range(1, 6)))
        assert 0 < peak <= MIB and b.budget.evictions >= 1
        assert b.counts["evictions"] == b.budget.evictions


async def test_a_peer_that_is_not_admitted_is_refused_whoever_dials(world: World) -> None:
    async with world.swarm("a") as a, world.swarm("b") as b:
        await a.listen(Multiaddr.parse("/memory/a"))
        await b.listen(Multiaddr.parse("/memory/b"))
        b.admits = lambda peer_id: peer_id != a.peer_id
        with pytest.raises(DialError, match="not admitted"):
            await b.dial(a.peer_id, a.listen_addresses())
        with pytest.raises(DialError, match="refused or lost"):
            await b.dial(None, a.listen_addresses())
        connection = await a.dial(b.peer_id, b.listen_addresses())
        with pytest.raises((StreamClosedError, StreamResetError)):
            async with asyncio.timeout(5):
                await (await connection.open_stream([ECHO])).read()
        assert not b.connections()


async def test_what_is_announced_is_told_in_place_of_what_is_listened_on(world: World) -> None:
    told = Multiaddr.parse("/ip4/203.0.113.7/tcp/4001")
    a = Swarm(
        Ed25519PrivateKey.from_private_bytes(world.rng.randbytes(32)),
        transports=[MemoryTransport(world.network, "a")],
        agent_version="test/a",
        announce=[told],
        clock=asyncio.get_running_loop().time,
        random=world.rng,
    )
    async with a, world.swarm("b") as b:
        await a.listen(Multiaddr.parse("/memory/a"))
        assert a.listen_addresses() == [told] and a.bound_addresses() == [Multiaddr.parse("/memory/a")]
        connection = await b.dial(a.peer_id, a.bound_addresses())
        await asyncio.sleep(1)
        assert connection.identify is not None and connection.identify.listen_addresses == (told,)
