"""Sync against peers that lie, dawdle, flood and repeat themselves: one side is real, the other is written by hand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Any

import pytest

from rage_lab.sim.env import SimulatedEnv
from rage_lab.sim.virtual_loop import VirtualLoop
from rage_net import keys
from rage_net.acl import Principal
from rage_net.bandwidth import Bandwidth
from rage_net.libp2p import varint
from rage_net.libp2p.errors import Libp2pError
from rage_net.libp2p.gossipsub import Message
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.swarm import Connection, Stream, Swarm
from rage_net.libp2p.transport import MemoryNetwork, MemoryTransport
from rage_net.metrics import Metrics
from rage_net.pacing import Pacing
from rage_net.services import syncing
from rage_net.services.syncing import Rules, Syncing
from rage_net.sync import wire
from rage_net.sync.envelope import SEGMENT_ENTRIES_MAX, ChainId, Entry, Head, Segment, payload_hash
from rage_net.sync.facts import Fact, New
from rage_net.sync.log import Log, open_log
from tests.sync.world import ORGANIZATION, Forger, certificate, grant, judge, put_document

pytestmark = pytest.mark.anyio

Script = Callable[[Stream], Awaitable[None]]


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"loop_factory": VirtualLoop}


class Side:
    """A node: its swarm and log, and what it was told to obey."""

    def __init__(self, swarm: Swarm, key: Any, rng: random.Random, organization: str = ORGANIZATION) -> None:
        env = SimulatedEnv(f"{rng.random()}")
        self.swarm = swarm
        self.log: Log = open_log(None, key=key, env=env)
        self.obeyed: list[Fact] = []
        self.rejudged = 0
        self.agreed: list[float] = []
        self.organizations: dict[PeerId, str] = {}
        self.slow_s = 0.0

        async def obey(organization: str, facts: Sequence[Fact]) -> None:
            await asyncio.sleep(self.slow_s)
            self.obeyed += facts

        def rejudge() -> None:
            self.rejudged += 1

        rules = Rules(
            authority=lambda _: judge,
            principal_of=self._principal,
            may_sync=lambda principal, organization: bool(principal.organization),
            may_see=lambda principal, organization, tags: None,
            on_facts=obey,
            conflicts=lambda organization, resources: (),
            on_agreed=self.agreed.append,
            has_others=lambda: False,
            on_rejudged=rejudge,
        )
        self.syncing = Syncing(self.log, organization, swarm, env, Metrics(), rules)
        swarm.handle(wire.PROTOCOL, self.syncing.serve)

    def _principal(self, peer: PeerId) -> Principal:
        organization = self.organizations.get(peer, ORGANIZATION)
        return Principal("peer", str(peer), organization, scopes=frozenset({"sync"}))

    def certify(self, *capabilities: str) -> None:
        body = certificate(self.log.author, *capabilities)
        self.log.append(ORGANIZATION, [New(f"peer:{self.log.author}", body)], judge=judge)


class World:
    """Makes sides, and peers that do as a script says."""

    def __init__(self, stack: AsyncExitStack, rng: random.Random) -> None:
        self.rng = rng
        self._network = MemoryNetwork(random=rng)
        self._stack = stack
        self._count = 0

    async def swarm(self, key: Any) -> Swarm:
        self._count += 1
        name = f"n{self._count}"
        swarm = Swarm(
            key,
            transports=[MemoryTransport(self._network, name)],
            agent_version="rage/test",
            clock=asyncio.get_running_loop().time,
            random=self.rng,
        )
        await self._stack.enter_async_context(swarm)
        await swarm.listen(Multiaddr.parse(f"/memory/{name}"))
        return swarm

    async def side(self, *capabilities: str) -> Side:
        key = keys.generate(self.rng)
        side = Side(await self.swarm(key), key, self.rng)
        if capabilities:
            side.certify(*capabilities)
        return side

    async def liar(self, side: Side, script: Script) -> Connection:
        """A peer that answers exchanges by `script`, connected to `side`. Gives the side's end."""
        swarm = await self.swarm(keys.generate(self.rng))
        swarm.handle(wire.PROTOCOL, script)
        return await side.swarm.dial(swarm.peer_id, swarm.listen_addresses(), timeout_s=5)


@pytest.fixture
async def world(rng: random.Random) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield World(stack, rng)


async def meet(one: Side, other: Side) -> Connection:
    return await one.swarm.dial(other.swarm.peer_id, other.swarm.listen_addresses(), timeout_s=5)


async def send(stream: Stream, data: bytes) -> None:
    await stream.write(varint.encode(len(data)) + data)


async def hear(stream: Stream) -> wire.Request:
    return wire.decode_request(await stream.read_message(wire.REQUEST_BYTES_MAX))


async def answer(stream: Stream, *segments: Segment, heads: Sequence[Head] = (), more: bool = False) -> None:
    await send(stream, wire.encode_response(wire.Response(wire.OK, segments, tuple(heads), more)))


def invented(rng: random.Random, count: int, sequence: int = 9) -> tuple[Head, ...]:
    """Heads of chains that nobody wrote."""
    author = PeerId.from_public_key(keys.generate(rng).public_key())
    return tuple(Head(ChainId(author, rng.getrandbits(64)), sequence, rng.randbytes(32)) for _ in range(count))


# --- the holder lies --------------------------------------------------------------------------------------------------


async def test_what_came_before_the_exchange_broke_off_is_obeyed(world: World) -> None:
    side, forger = await world.side("storage"), Forger(world.rng, "admin")
    certified, said = forger.certify(), forger.say(forger.payload("org:acme", grant("anyone", "query", allowed=False)))

    async def script(stream: Stream) -> None:
        await hear(stream)
        await answer(stream, certified, said, more=True)
        await send(stream, b"\xff garbage")

    done = await side.syncing.pull(await world.liar(side, script), ORGANIZATION)
    assert done.error and done.received == 2
    assert [fact.resource for fact in side.obeyed] == [f"peer:{forger.id}", "org:acme"]


async def test_what_was_taken_as_time_ran_out_is_obeyed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    side, forger = await world.side("storage"), Forger(world.rng)
    certified = forger.certify()
    side.slow_s = 5.0

    async def script(stream: Stream) -> None:
        await hear(stream)
        await answer(stream, certified)

    done = await side.syncing.pull(await world.liar(side, script), ORGANIZATION, within_s=1.0)
    assert done.error == "no answer in time"
    assert [fact.author for fact in side.obeyed] == [forger.id]


async def test_a_fork_makes_what_stood_before_be_judged_anew(world: World) -> None:
    side, forger = await world.side("storage"), Forger(world.rng, "admin")
    certified = forger.certify()
    head = forger.head
    assert head is not None
    said = forger.say(forger.payload("org:acme", grant("anyone", "query")))
    other = forger.branch(head, forger.payload("org:acme", grant("anyone", "query", allowed=False)))
    to_say = [(certified, said), (other,)]

    async def script(stream: Stream) -> None:
        await hear(stream)
        await answer(stream, *to_say.pop(0))
        await stream.read_message(wire.REPORT_BYTES_MAX)

    connection = await world.liar(side, script)
    await side.syncing.pull(connection, ORGANIZATION)
    assert side.rejudged == 0
    await side.syncing.pull(connection, ORGANIZATION)
    assert side.rejudged == 1 and side.log.evidence()


async def test_answers_without_end_that_bring_nothing_end_the_exchange(world: World) -> None:
    side, forger = await world.side("storage"), Forger(world.rng)
    certified = forger.certify()
    sent = 0

    async def script(stream: Stream) -> None:
        nonlocal sent
        await hear(stream)
        while True:
            await answer(stream, certified, more=True)
            sent += 1

    done = await side.syncing.pull(await world.liar(side, script), ORGANIZATION)
    assert "without bringing anything new" in done.error and done.received == 1
    assert done.received_bytes < 20 * len(wire.encode_response(wire.Response(wire.OK, [certified])))


async def test_a_holder_that_dawdles_keeps_no_revocation_from_us_that_another_has(world: World) -> None:
    side, honest = await world.side("storage"), await world.side("admin", "storage")
    forger = Forger(world.rng)

    async def dawdle(stream: Stream) -> None:
        await hear(stream)
        with suppress(Libp2pError):
            await answer(stream, forger.certify(), more=True)
            while True:  # something new, just before we would lose patience
                await asyncio.sleep(syncing.RESPONSE_S_MAX - 1)
                await answer(stream, forger.say(forger.payload(f"peer:{forger.id}", certificate(forger.id))), more=True)

    slow = asyncio.create_task(side.syncing.pull(await world.liar(side, dawdle), ORGANIZATION))
    await asyncio.sleep(1)
    begun = asyncio.get_running_loop().time()
    connection = await meet(side, honest)
    assert (await side.syncing.pull(connection, ORGANIZATION)).received
    assert asyncio.get_running_loop().time() - begun < syncing.TURN_S_MAX + 1
    put_document(honest.log, world.rng)
    await side.syncing.round()
    assert asyncio.get_running_loop().time() - begun < syncing.SLICE_S_MAX + 2 * syncing.TURN_S_MAX + 1
    assert side.log.documents(ORGANIZATION) and not slow.done()
    slow.cancel()


async def test_gossip_of_chains_that_are_not_there_holds_up_nobodys_news(world: World) -> None:
    side, honest = await world.side("storage"), await world.side("storage")

    async def silent(stream: Stream) -> None:
        await hear(stream)
        await asyncio.sleep(3600)

    liar = await world.liar(side, silent)
    await meet(side, honest)
    for _ in range(200):  # a flood: more chains than are remembered
        data = wire.encode_announcement(ORGANIZATION, invented(world.rng, wire.HEADS_ANNOUNCED_MAX))
        side.syncing.hear(Message("topic", data, liar.peer_id.multihash, bytes(8)))
    assert len(side.syncing._wanted) == syncing.WANTED_OF_ONE_MAX
    fetching = asyncio.create_task(side.syncing.fetch_wanted())
    put_document(honest.log, world.rng)
    heads = honest.log.heads(ORGANIZATION)
    side.syncing.hear(
        Message("topic", wire.encode_announcement(ORGANIZATION, heads), honest.swarm.peer_id.multihash, bytes(8))
    )
    begun = asyncio.get_running_loop().time()
    while not side.log.capabilities(ORGANIZATION, honest.log.author):
        await asyncio.sleep(0.1)
        assert asyncio.get_running_loop().time() - begun < syncing.TURN_S_MAX + syncing.FETCH_S_MAX + 1
    fetching.cancel()


async def test_a_log_of_any_size_comes_in_one_exchange(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncing, "RESPONSE_PAYLOAD_BYTES", 4096)
    side, honest = await world.side("storage"), await world.side("storage")
    for _ in range(200):
        put_document(honest.log, world.rng)
    done = await side.syncing.pull(await meet(side, honest), ORGANIZATION)
    assert (done.error, done.received) == ("", 201)
    assert {head.chain: head for head in side.log.heads(ORGANIZATION)}.items() >= {
        head.chain: head for head in honest.log.heads(ORGANIZATION)
    }.items()


async def test_a_limit_slows_down_who_catches_up_and_neither_stops_it_nor_holds_up_news(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncing, "RESPONSE_PAYLOAD_BYTES", 4096)
    loop = asyncio.get_running_loop()
    metrics = Metrics()
    slow, reader = await world.side("storage"), await world.side("storage")
    slow.syncing._pacing = Pacing(loop.time, metrics, Bandwidth(12_500.0))
    connection = await meet(reader, slow)
    began = loop.time()
    assert (await reader.syncing.pull(connection, ORGANIZATION)).received == 1
    assert loop.time() - began < 0.1, "the first answer waits for nothing"
    for _ in range(600):
        put_document(slow.log, world.rng)
    began = loop.time()
    done = await reader.syncing.pull(connection, ORGANIZATION)
    assert (done.received, done.error) == (600, "")
    assert metrics.lane_bytes.read()["background_sync", "sent"][0] > done.received_bytes > 30_000
    assert loop.time() - began >= (done.received_bytes - 20_000) / 12_500, "but for the burst, and the last answer"


async def test_an_answer_of_100_mib_is_not_read(world: World) -> None:
    side = await world.side("storage")

    async def script(stream: Stream) -> None:
        await hear(stream)
        await stream.write(varint.encode(100 << 20))
        with suppress(Libp2pError):
            for _ in range(100):
                await stream.write(bytes(1 << 20))

    done = await side.syncing.pull(await world.liar(side, script), ORGANIZATION)
    assert done.error and done.received_bytes == 0


async def test_an_answer_full_of_hashes_is_taken_for_what_it_is(world: World) -> None:
    """Five mebibytes of entries that say nothing: of one author, who signs for them, and of nobody."""
    side, forger = await world.side("storage"), Forger(world.rng)
    certified = forger.certify()
    said = forger.say(*[world.rng.randbytes(8) for _ in range(SEGMENT_ENTRIES_MAX)])
    hidden = replace(said, entries=tuple(Entry(None, payload_hash(one.payload or b"")) for one in said.entries))
    unsigned = replace(hidden, first=said.last + 1)

    async def script(stream: Stream) -> None:
        await hear(stream)
        await answer(stream, certified, hidden, *[unsigned] * 30)
        await stream.read_message(wire.REPORT_BYTES_MAX)

    done = await side.syncing.pull(await world.liar(side, script), ORGANIZATION)
    assert (done.error, done.received, done.refused) == ("", 1, 30)
    assert {head.sequence for head in side.log.heads(ORGANIZATION)} == {1, said.last}


async def test_heads_of_chains_that_nobody_has_cost_no_memory(world: World) -> None:
    side = await world.side("storage")

    async def script(stream: Stream) -> None:
        await hear(stream)
        await answer(stream, heads=invented(world.rng, 5000))
        await stream.read_message(wire.REPORT_BYTES_MAX)

    done = await side.syncing.pull(await world.liar(side, script), ORGANIZATION)
    assert (done.error, done.is_equal) == ("", False)
    (state,) = side.syncing._states.values()
    assert not state.heads


# --- how fresh our log is ---------------------------------------------------------------------------------------------


async def test_a_peer_that_lags_behind_the_admins_makes_no_log_fresh(world: World) -> None:
    side, admin = await world.side("storage"), await world.side("admin", "storage")
    empty = await world.side("storage")
    await side.syncing.pull(await meet(side, admin), ORGANIZATION)
    assert len(side.agreed) == 1

    async def nothing(stream: Stream) -> None:
        await hear(stream)
        await answer(stream)
        await stream.read_message(wire.REPORT_BYTES_MAX)

    assert not (await side.syncing.pull(await world.liar(side, nothing), ORGANIZATION)).error
    assert not (await side.syncing.pull(await meet(side, empty), ORGANIZATION)).error
    assert len(side.agreed) == 1, "neither knows what an admin said"
    await empty.syncing.pull(await meet(empty, admin), ORGANIZATION)
    await side.syncing.pull(await meet(side, empty), ORGANIZATION)
    assert len(side.agreed) == 2


async def test_another_organisations_peer_makes_no_log_fresh(world: World) -> None:
    side, admin = await world.side("storage"), await world.side("admin", "storage")
    side.organizations[admin.swarm.peer_id] = "birch"
    assert not (await side.syncing.pull(await meet(side, admin), ORGANIZATION)).error
    assert not side.agreed


# --- the caller lies --------------------------------------------------------------------------------------------------


async def ask(world: World, side: Side, request: bytes, *closings: bytes) -> list[wire.Response]:
    """What a caller of our own making gets."""
    swarm = await world.swarm(keys.generate(world.rng))
    connection = await swarm.dial(side.swarm.peer_id, side.swarm.listen_addresses(), timeout_s=5)
    return await ask_on(connection, request, *closings)


async def ask_on(connection: Connection, request: bytes, *closings: bytes) -> list[wire.Response]:
    found = []
    async with await connection.open_stream([wire.PROTOCOL]) as stream:
        await send(stream, request)
        while not found or found[-1].more:
            found.append(wire.decode_response(await stream.read_message(wire.RESPONSE_BYTES_MAX)))
        for closing in closings:
            await send(stream, closing)
        await stream.close_write()
        with suppress(Libp2pError):
            await stream.read()
    return found


async def test_acknowledged_heads_of_chains_that_nobody_has_cost_no_memory(world: World) -> None:
    side = await world.side("storage")
    swarm = await world.swarm(keys.generate(world.rng))
    connection = await swarm.dial(side.swarm.peer_id, side.swarm.listen_addresses(), timeout_s=5)
    request = wire.encode_request(wire.Request(ORGANIZATION, (), True))
    for _ in range(3):
        await ask_on(connection, request, wire.encode_ack(invented(world.rng, 3000)))
    (state,) = side.syncing._states.values()
    assert not state.heads


async def test_who_acknowledges_a_head_vouches_for_itself_alone(world: World) -> None:
    side, other = await world.side("storage"), await world.side("storage")
    (head,) = side.log.heads(ORGANIZATION)
    swarm = await world.swarm(keys.generate(world.rng))
    connection = await swarm.dial(side.swarm.peer_id, side.swarm.listen_addresses(), timeout_s=5)
    await ask_on(connection, wire.encode_request(wire.Request(ORGANIZATION, (), True)), wire.encode_ack([head]))
    assert side.syncing.has_seen(swarm.peer_id, ORGANIZATION, head)
    assert not side.syncing.has_seen(other.swarm.peer_id, ORGANIZATION, head)


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, b"\x12\x04\x0a\x02hi"])
async def test_what_is_no_request_costs_the_stream(world: World, data: bytes) -> None:
    side = await world.side("storage")
    if not data:  # asks for the log of nobody
        (response,) = await ask(world, side, data)
        assert (response.status, response.changes, response.heads) == (wire.OK, (), ())
        return
    with pytest.raises(Libp2pError):
        await ask(world, side, data)
    assert side.swarm.counts["handler_errors"] == 0


async def test_a_request_that_is_too_long_is_not_read(world: World) -> None:
    side = await world.side("storage")
    swarm = await world.swarm(keys.generate(world.rng))
    connection = await swarm.dial(side.swarm.peer_id, side.swarm.listen_addresses(), timeout_s=5)
    with pytest.raises(Libp2pError):
        async with await connection.open_stream([wire.PROTOCOL]) as stream:
            await stream.write(varint.encode(wire.REQUEST_BYTES_MAX + 1))
            await stream.read()


async def test_an_exchange_that_ends_without_a_closing_is_forgotten(world: World) -> None:
    side = await world.side("storage")
    request = wire.encode_request(wire.Request(ORGANIZATION, (), True))
    await ask(world, side, request, wire.encode_report([]), wire.encode_report([]))
    assert not side.syncing._states and not side.syncing._serving
    assert side.swarm.counts["handler_errors"] == 0


async def test_who_takes_all_places_leaves_some_for_our_own(world: World) -> None:
    side = await world.side("storage")
    request = wire.encode_request(wire.Request(ORGANIZATION, (), True))
    streams = []
    for _ in range(syncing.SERVED_OTHERS_MAX):
        swarm = await world.swarm(keys.generate(world.rng))
        side.organizations[swarm.peer_id] = "birch"
        connection = await swarm.dial(side.swarm.peer_id, side.swarm.listen_addresses(), timeout_s=5)
        for _ in range(syncing.SERVED_PEER_MAX):
            streams.append(await connection.open_stream([wire.PROTOCOL]))  # and says nothing
    await asyncio.sleep(0.5)
    assert side.syncing._serving_others == syncing.SERVED_OTHERS_MAX
    (response,) = await ask(world, side, request, wire.encode_ack([]))
    assert response.status == wire.OK and response.changes
    await asyncio.sleep(syncing.REQUEST_S_MAX + 1)
    assert not side.syncing._serving and side.syncing._serving_others == 0, "who says nothing is given up"


async def test_a_caller_that_does_not_read_is_given_up(world: World) -> None:
    side = await world.side("storage")
    side.log.append(
        ORGANIZATION,
        [New(f"doc:{'a' * 26}", grant(f"user:acme/{'x' * 250}", expires_at=at + 1)) for at in range(4000)],
    )
    swarm = await world.swarm(keys.generate(world.rng))
    connection = await swarm.dial(side.swarm.peer_id, side.swarm.listen_addresses(), timeout_s=5)
    stream = await connection.open_stream([wire.PROTOCOL])
    await send(stream, wire.encode_request(wire.Request(ORGANIZATION, (), True)))
    await asyncio.sleep(5)
    assert side.syncing._serving
    await asyncio.sleep(2 * syncing.RESPONSE_S_MAX)
    assert not side.syncing._serving
    await stream.reset()
