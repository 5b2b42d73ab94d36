"""The swarm's gate: what a host lets a peer open, and peers that are offered only once they were introduced."""

from __future__ import annotations

import asyncio

import pytest

from rage_net.libp2p import identify
from rage_net.libp2p.errors import DialError, NegotiationError, NotAdmittedError, StreamResetError
from rage_net.libp2p.swarm import Connected, Connection, Disconnected, Identified, Swarm
from tests.libp2p.test_swarm import ECHO, World, anyio_backend, join, listen, world  # noqa: F401  fixtures

pytestmark = pytest.mark.anyio

INTRODUCTION_S = 15.0


class Host:
    """Introduces peers when a test says so."""

    def __init__(self, swarm: Swarm) -> None:
        self.asked: list[Connection] = []
        self.parted: list[Connection] = []
        self.answers: dict[Connection, asyncio.Future[str]] = {}
        swarm.introduce = self.introduce
        swarm.part = self.parted.append

    async def introduce(self, connection: Connection) -> str:
        self.asked.append(connection)
        return await self.answers.setdefault(connection, asyncio.get_running_loop().create_future())

    async def answer(self, refusal: str = "") -> None:
        """To all that ask."""
        await asyncio.sleep(1)
        for connection in self.asked:
            future = self.answers.setdefault(connection, asyncio.get_running_loop().create_future())
            if not future.done():
                future.set_result(refusal)
        await asyncio.sleep(1)


async def test_what_a_peer_may_not_open_is_answered_as_if_it_were_not_spoken(world: World) -> None:  # noqa: F811
    async with world.swarm("a") as a, world.swarm("b") as b:
        b.may_open = lambda connection, protocol: protocol != ECHO
        connection = await join(a, b)
        stream = await connection.open_stream([ECHO])
        with pytest.raises(NegotiationError):
            await stream.read()
        with pytest.raises(NegotiationError):
            await connection.open_stream([ECHO, "/other/1.0.0"])
        await asyncio.sleep(1)
        assert b.counts["protocols_refused"] == 2 and b.counts["handler_errors"] == 0
        assert connection.identify is not None and ECHO not in connection.identify.protocols
        assert await a.ping(b.peer_id) >= 0
        b.may_open = lambda connection, protocol: True
        b.describe_anew(a.peer_id)
        await asyncio.sleep(1)
        assert ECHO in connection.identify.protocols, "it is told"


async def test_nobody_uses_a_peer_before_it_was_introduced(world: World) -> None:  # noqa: F811
    async with world.swarm("a") as a, world.swarm("b") as b:
        host = Host(a)
        dialling = asyncio.create_task(join(a, b))
        again = asyncio.create_task(a.dial(b.peer_id, await listen(b)))
        await asyncio.sleep(5)
        assert a.connection(b.peer_id) is None and a.connections() == [] and world.events["a"] == []
        assert a.connection_unoffered(b.peer_id) is host.asked[0] and a.is_linked(b.peer_id)
        await host.answer()
        assert await dialling is await again is host.asked[0] is a.connection(b.peer_id)
        assert [type(event) for event in world.events["a"]] == [Connected, Identified]
        assert len(host.asked) == 1, "one connection serves both dials"


async def test_who_is_refused_is_not_offered_and_its_dials_say_why(world: World) -> None:  # noqa: F811
    async with world.swarm("a") as a, world.swarm("b") as b:
        host = Host(a)
        dialling = asyncio.create_task(join(a, b))
        await host.answer("no chain")
        for dial in (dialling, join(a, b)):
            with pytest.raises(NotAdmittedError) as error:
                await dial
            assert error.value.refusal == "no chain"
        assert a.connections() == [] and a.is_linked(b.peer_id) and len(host.asked) == 1
        assert b.connection(a.peer_id) is not None, "the other side has no host to ask"
        a.offer(b.peer_id)
        assert (await join(a, b)) is host.asked[0]
        assert isinstance(world.events["a"][0], Connected)


async def test_an_introduction_that_does_not_end_is_a_refusal(world: World) -> None:  # noqa: F811
    async with world.swarm("a", introduction_s=INTRODUCTION_S) as a, world.swarm("b") as b:
        Host(a)
        with pytest.raises(NotAdmittedError):
            await join(a, b)
        assert asyncio.get_running_loop().time() < INTRODUCTION_S + 2
        assert a.counts["introductions_failed"] == 1


async def test_a_host_that_fails_offers_nobody_and_ends_nothing(world: World) -> None:  # noqa: F811
    async def fail(connection: Connection) -> str:
        raise RuntimeError("a bug")

    async with world.swarm("a") as a, world.swarm("b") as b:
        a.introduce = fail
        with pytest.raises(NotAdmittedError):
            await join(a, b)
        assert a.counts["task_errors"] == 1
        a.introduce = None
        async with world.swarm("c") as c:
            assert await (await join(a, c)).open_stream([ECHO])


async def test_who_leaves_before_it_was_offered_neither_came_nor_went(world: World) -> None:  # noqa: F811
    async with world.swarm("a") as a, world.swarm("b") as b:
        host = Host(a)
        dialling = asyncio.create_task(join(a, b))
        await asyncio.sleep(1)
        for connection in b.connections():
            await connection.close()
        with pytest.raises(DialError):
            await dialling
        assert world.events["a"] == [] and len(host.parted) == 1 and not a.is_linked(b.peer_id)


async def test_a_second_connection_of_an_offered_peer_needs_no_waiting(world: World) -> None:  # noqa: F811
    async with world.swarm("a") as a, world.swarm("b") as b:
        host = Host(a)
        dialling = asyncio.create_task(join(a, b))
        await host.answer()
        first = await dialling
        await asyncio.sleep(20)
        await listen(a)
        b._kept.clear()  # it has forgotten us, as after a crash, and dials
        b._offered.clear()
        await b.dial(a.peer_id, a.listen_addresses())
        assert a.connection(b.peer_id) not in (None, first) and len(host.asked) == 2
        assert sum(isinstance(event, Connected) for event in world.events["a"]) == 1


async def test_a_cut_drops_all_connections_at_once_with_what_waits(world: World) -> None:  # noqa: F811
    async with world.swarm("a") as a, world.swarm("b") as b:
        connection = await join(a, b)
        stream = await connection.open_stream([ECHO])
        await stream.write(bytes(200_000))
        assert a.cut(b.peer_id, "no more") == 1
        assert a.connection(b.peer_id) is None and a.connections() == [] and connection.close_reason == "no more"
        await asyncio.sleep(1)
        assert not b.is_linked(a.peer_id)
        assert [type(event) for event in world.events["a"]].count(Disconnected) == 1
        assert a.cut(b.peer_id, "no more") == 0


async def test_identify_and_ping_are_the_hosts_to_refuse_too(world: World) -> None:  # noqa: F811
    async with world.swarm("a") as a, world.swarm("b") as b:
        b.may_open = lambda connection, protocol: protocol == identify.PROTOCOL
        connection = await join(a, b)
        await asyncio.sleep(1)
        assert connection.identify is not None and connection.identify.protocols == (identify.PROTOCOL,)
        with pytest.raises((NegotiationError, StreamResetError)):  # what came early may be no name at all
            await a.ping(b.peer_id)
