"""Hostile peers, one test an attack: each costs its connection, never the swarm, never memory."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
import tracemalloc
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rage_lab.sim.virtual_loop import VirtualLoop
from rage_net.libp2p import identify, multistream, ping, varint
from rage_net.libp2p.errors import Libp2pError
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.noise import NoiseTransport
from rage_net.libp2p.swarm import Identified, Limits, Stream, Swarm
from rage_net.libp2p.swarm.services import PING_STREAMS_MAX, PUSHES_MAX
from rage_net.libp2p.swarm.upgrade import upgrade
from rage_net.libp2p.transport import Link, MemoryNetwork, MemoryTransport
from rage_net.libp2p.yamux import Flag, Type

pytestmark = pytest.mark.anyio

ECHO = "/echo/1.0.0"
MIB = 1024 * 1024
PROPOSAL = multistream.encode_message(multistream.MULTISTREAM) + multistream.encode_message(ECHO)


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"loop_factory": VirtualLoop}


async def echo(stream: Stream) -> None:
    while buffers := await stream.read():
        await stream.write(*buffers)


def frame(kind: int, flags: int, stream_id: int, length: int, payload: bytes = b"") -> bytes:
    return struct.pack(">BBHII", 0, kind, flags, stream_id, length) + payload


def data(stream_id: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return frame(Type.DATA, flags, stream_id, len(payload), payload)


class Attacker:
    """A raw link to the victim, and whatever one likes to send over it."""

    def __init__(self, link: Link, does_read: bool = True) -> None:
        self.link = link
        self.noise: NoiseTransport
        self.got = bytearray()
        self.plain = bytearray()
        self.lost_at: float | None = None
        self.is_secure = False
        self.does_read = does_read

    def data_received(self, view: memoryview) -> int:
        if not self.is_secure:
            self.got += view
            return len(view)
        plaintexts, used = self.noise.decrypt(view)
        self.plain += b"".join(plaintexts)
        return used

    def room_made(self) -> None:
        pass

    def connection_lost(self, error: Exception | None) -> None:
        self.lost_at = asyncio.get_running_loop().time()

    async def secure(self, rng: random.Random) -> None:
        key = Ed25519PrivateKey.from_private_bytes(rng.randbytes(32))
        done = await upgrade(self.link, key, is_dialer=True, random=rng, remote=None, timeout_s=5)
        self.noise = done.secured.transport
        self.is_secure = True
        if self.does_read:
            self.link.start(self)

    def send(self, *frames: bytes) -> None:
        self.link.write(self.noise.encrypt(frames))

    async def wait_lost(self, timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            while self.lost_at is None:
                await asyncio.sleep(0.1)


class Scene:
    """A victim, an honest peer connected to it, and attackers."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.network = MemoryNetwork(random=rng)

    def swarm(self, name: str, **limits: Any) -> Swarm:
        swarm = Swarm(
            Ed25519PrivateKey.from_private_bytes(self.rng.randbytes(32)),
            transports=[MemoryTransport(self.network, name)],
            limits=Limits(**limits),
            agent_version=name,
            clock=asyncio.get_running_loop().time,
            random=self.rng,
        )
        swarm.handle(ECHO, echo)
        return swarm

    async def attack(self, victim: Swarm, *, secure: bool = True, does_read: bool = True) -> Attacker:
        transport = MemoryTransport(self.network, "attacker")
        attacker = Attacker(await transport.dial(victim.listen_addresses()[0]), does_read)
        if secure:
            await attacker.secure(self.rng)
        elif does_read:
            attacker.link.start(attacker)
        return attacker


@pytest.fixture
def scene(rng: random.Random) -> Scene:
    return Scene(rng)


async def victim_of(scene: Scene, victim: Swarm) -> None:
    await victim.listen(Multiaddr.parse("/memory/victim"))


async def still_serves(scene: Scene, victim: Swarm) -> None:
    """An honest peer is served as ever."""
    async with scene.swarm("honest") as honest:
        connection = await honest.dial(victim.peer_id, victim.listen_addresses())
        stream = await connection.open_stream([ECHO], initial=b"hello")
        await stream.close_write()
        assert await stream.read_exactly(5) == b"hello"
        assert await stream.read() == []
    assert victim.counts["handler_errors"] == victim.counts["task_errors"] == 0


async def test_a_peer_that_says_nothing_is_dropped_at_the_deadline(scene: Scene) -> None:
    async with scene.swarm("victim", handshake_timeout_s=10) as victim:
        await victim_of(scene, victim)
        attacker = await scene.attack(victim, secure=False)
        await attacker.wait_lost(11)
        assert victim.counts["handshake_failures"] == 1
        await still_serves(scene, victim)


async def test_a_peer_that_sends_one_byte_a_second_gets_no_more_time(scene: Scene) -> None:
    async with scene.swarm("victim", handshake_timeout_s=10) as victim:
        await victim_of(scene, victim)
        attacker = await scene.attack(victim, secure=False)
        begin = asyncio.get_running_loop().time()
        for byte in PROPOSAL:
            attacker.link.write([bytes([byte])])
            await asyncio.sleep(1)
            if attacker.lost_at is not None:
                break
        assert attacker.lost_at is not None and attacker.lost_at - begin < 11
        await still_serves(scene, victim)


async def test_a_stream_that_proposes_one_byte_a_second_is_reset(scene: Scene) -> None:
    async with scene.swarm("victim", negotiate_timeout_s=10) as victim:
        await victim_of(scene, victim)
        attacker = await scene.attack(victim)
        attacker.send(data(1, b"", Flag.SYN))
        for byte in PROPOSAL[:15]:
            attacker.send(data(1, bytes([byte])))
            await asyncio.sleep(1)
        assert victim.counts["stream_errors"] == 1 and victim.connections()[0].session.inbound == 0
        await still_serves(scene, victim)


async def test_silent_handshakes_do_not_keep_others_out_for_long(scene: Scene) -> None:
    async with scene.swarm("victim", handshakes=8, handshakes_per_ip=4) as victim:
        await victim_of(scene, victim)
        for _ in range(20):
            await scene.attack(victim, secure=False)
        assert victim._handshakes.total() == 4 and victim.counts["refused"] == 16
        await still_serves(scene, victim)  # from another host
        await asyncio.sleep(11)
        assert victim._handshakes.total() == 0 and not victim._handshakes


async def test_silent_handshakes_from_many_hosts_make_way_for_one_that_speaks(scene: Scene) -> None:
    async with scene.swarm("victim", handshakes=8, handshakes_per_ip=100) as victim:
        await victim_of(scene, victim)
        silent = [await scene.attack(victim, secure=False) for _ in range(8)]
        await still_serves(scene, victim)
        await asyncio.sleep(0.1)
        assert [attacker.lost_at is not None for attacker in silent] == [True] + [False] * 7


async def test_peers_that_come_in_leave_places_for_those_we_dial(scene: Scene) -> None:
    async with scene.swarm("victim", connections=8) as victim, scene.swarm("friend") as friend:
        await victim_of(scene, victim)
        await friend.listen(Multiaddr.parse("/memory/friend"))
        for _ in range(20):
            with contextlib.suppress(Libp2pError):
                await scene.attack(victim)
        assert len(victim.connections()) == 7
        await victim.dial(friend.peer_id, friend.listen_addresses())


@pytest.mark.parametrize("layer", ["multistream", "noise", "frames", "yamux", "stream"])
async def test_garbage_at_any_layer_ends_there(scene: Scene, layer: str) -> None:
    async with scene.swarm("victim") as victim:
        await victim_of(scene, victim)
        for _ in range(20):
            garbage = scene.rng.randbytes(scene.rng.choice([1, 20, 2000, 70_000]))
            attacker = await scene.attack(victim, secure=layer in ("frames", "yamux", "stream"))
            if layer == "multistream":
                attacker.link.write([b"\x13" + garbage])
            elif layer == "noise":
                hello = multistream.encode_message(multistream.MULTISTREAM) + multistream.encode_message("/noise")
                attacker.link.write([hello + garbage])
            elif layer == "frames":
                attacker.link.write([garbage])
            elif layer == "yamux":
                attacker.send(garbage)
            else:
                attacker.send(data(1, b"\xff" + garbage[:1000], Flag.SYN | Flag.FIN))
            await asyncio.sleep(0.5)
            attacker.link.abort()
        await asyncio.sleep(15)
        assert victim.connections() == [] and victim.budget.unread == 0 and not victim._handshakes
        assert victim.counts["protocol_errors"] + victim.counts["handshake_failures"] + victim.counts["stream_errors"]
        await still_serves(scene, victim)


async def test_an_endless_multistream_message_is_refused_from_its_length(scene: Scene) -> None:
    async with scene.swarm("victim") as victim:
        await victim_of(scene, victim)
        attacker = await scene.attack(victim, secure=False)
        attacker.link.write([b"\xff\xff\xff\x7f"])
        await attacker.wait_lost(1)
        await still_serves(scene, victim)


async def test_a_frame_longer_than_its_window_ends_the_connection_with_a_reason(scene: Scene) -> None:
    async with scene.swarm("victim") as victim:
        await victim_of(scene, victim)
        attacker = await scene.attack(victim)
        await asyncio.sleep(0.5)
        attacker.plain.clear()
        attacker.send(frame(Type.DATA, Flag.SYN, 1, 2**32 - 1))
        await attacker.wait_lost(1)
        assert frame(Type.GO_AWAY, 0, 0, 1) in attacker.plain
        await still_serves(scene, victim)


async def test_a_truncated_frame_is_waited_for_until_the_keepalive_gives_up(scene: Scene) -> None:
    async with scene.swarm("victim") as victim:
        await victim_of(scene, victim)
        attacker = await scene.attack(victim)
        attacker.link.write([b"\xff\xff only the beginning"])
        await asyncio.sleep(15)
        assert attacker.lost_at is None
        await attacker.wait_lost(10)
        assert victim.counts["silent_peers"] == 1
        await still_serves(scene, victim)


async def test_a_peer_that_opens_100_000_streams_is_dropped_and_costs_little(scene: Scene) -> None:
    async with scene.swarm("victim") as victim:
        await victim_of(scene, victim)
        attacker = await scene.attack(victim)
        tracemalloc.start()
        try:
            for stream_id in range(1, 200_001, 2):
                attacker.send(data(stream_id, b"", Flag.SYN))
                if stream_id % 256 == 1:
                    await asyncio.sleep(0)
                if attacker.lost_at is not None:
                    break
            await attacker.wait_lost(5)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert stream_id < 20_000 and peak < 8 * MIB
        assert victim._serving == 0
        await still_serves(scene, victim)


async def test_streams_opened_and_reset_at_once_leave_nothing_behind(scene: Scene) -> None:
    async with scene.swarm("victim") as victim:
        await victim_of(scene, victim)
        attacker = await scene.attack(victim)
        for stream_id in range(1, 6001, 2):
            attacker.send(data(stream_id, PROPOSAL, Flag.SYN), data(stream_id, b"", Flag.RST))
            if stream_id % 100 == 1:
                await asyncio.sleep(0)
        await asyncio.sleep(1)
        assert victim._serving == 0 and victim.connections()[0].session.inbound == 0
        await still_serves(scene, victim)


@pytest.mark.parametrize("pieces", [1, 40])
async def test_bytes_of_requests_that_never_end_count_as_unread(scene: Scene, pieces: int) -> None:
    async def ask(stream: Stream) -> None:
        await stream.read_message(64 * 1024)

    async with scene.swarm("victim", negotiate_timeout_s=10) as victim:
        victim.handle("/ask/1.0.0", ask)
        await victim_of(scene, victim)
        attacker = await scene.attack(victim)
        proposal = PROPOSAL[:20] + multistream.encode_message("/ask/1.0.0")
        half = proposal + varint.encode(60_000) + bytes(50_000)
        step = len(half) // pieces + 1
        for stream_id in range(1, 41, 2):
            attacker.send(data(stream_id, b"", Flag.SYN))
            for at in range(0, len(half), step):
                attacker.send(data(stream_id, half[at : at + step]))
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.1)
        assert victim._serving == 20
        assert victim.budget.unread > 20 * 45_000, "the streams hold bytes that the budget does not know of"
        await still_serves(scene, victim)


async def test_a_message_and_what_follows_it_come_in_order_however_they_are_cut(scene: Scene) -> None:
    got: list[bytes] = []

    async def ask(stream: Stream) -> None:
        got.append(await stream.read_message(64 * 1024))
        got.append(await stream.read_exactly(70_000))
        got.append(await stream.read_exactly(9_000))

    async with scene.swarm("victim") as victim:
        victim.handle("/ask/1.0.0", ask)
        await victim_of(scene, victim)
        attacker = await scene.attack(victim)
        first, second, third = (scene.rng.randbytes(size) for size in (50_000, 70_000, 9_000))
        proposal = PROPOSAL[:20] + multistream.encode_message("/ask/1.0.0")
        whole = proposal + varint.encode(len(first)) + first + second + third
        cut = scene.rng.randrange(1, len(whole))
        attacker.send(data(1, whole[:cut], Flag.SYN), data(1, whole[cut:], Flag.FIN))
        await asyncio.sleep(0.1)
        assert got == [first, second, third] and victim.budget.unread == 0
        await still_serves(scene, victim)


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_peer_that_opens_streams_only_to_reset_them_is_dropped(scene: Scene, at_once: bool) -> None:
    async with scene.swarm("victim") as victim:
        await victim_of(scene, victim)
        attacker = await scene.attack(victim)
        for stream_id in range(1, 20_001, 2):
            attacker.send(data(stream_id, b"", Flag.SYN))
            if not at_once:
                await asyncio.sleep(0)
            attacker.send(data(stream_id, b"", Flag.RST))
            if stream_id % 100 == 1:
                await asyncio.sleep(0)
            if attacker.lost_at is not None:
                break
        await attacker.wait_lost(5)
        assert stream_id < 12_000 and victim.counts["protocol_errors"] == 1 and victim._serving == 0
        await still_serves(scene, victim)


async def test_streams_that_are_served_outweigh_those_that_are_taken_back(scene: Scene) -> None:
    async with scene.swarm("victim") as victim:
        await victim_of(scene, victim)
        attacker = await scene.attack(victim)
        for stream_id in range(1, 20_001, 4):  # a client that gives up every second request
            attacker.send(data(stream_id, PROPOSAL, Flag.SYN | Flag.FIN), data(stream_id + 2, b"", Flag.SYN))
            attacker.send(data(stream_id + 2, b"", Flag.RST))
            if stream_id % 100 == 1:
                await asyncio.sleep(0.1)
        assert attacker.lost_at is None
        await still_serves(scene, victim)


async def test_a_peer_that_asks_and_never_reads_is_dropped(scene: Scene) -> None:
    async def pour(stream: Stream) -> None:
        await stream.read()
        while True:
            await stream.write(bytes(MIB))

    async with scene.swarm("victim", link_stall_s=30) as victim:
        victim.handle("/pour/1.0.0", pour)
        await victim_of(scene, victim)
        attacker = await scene.attack(victim, does_read=False)
        proposal = PROPOSAL[:20] + multistream.encode_message("/pour/1.0.0")
        for stream_id in (1, 3, 5):
            attacker.send(data(stream_id, proposal + b"go", Flag.SYN), frame(Type.WINDOW_UPDATE, 0, stream_id, 1 << 30))
        for _ in range(70):  # it keeps talking, so that no keepalive gives it away
            attacker.send(frame(Type.WINDOW_UPDATE, 0, 1, 1))
            await asyncio.sleep(1)
        assert victim.counts["link_stalls"] == 1 and victim.connections() == [] and victim._serving == 0
        await still_serves(scene, victim)


async def test_a_peer_that_reads_the_link_and_grants_no_window_costs_its_stream(scene: Scene) -> None:
    failures: list[Exception] = []

    async def pour(stream: Stream) -> None:
        await stream.read()
        try:
            await stream.write(bytes(MIB))
        except Libp2pError as error:
            failures.append(error)
            raise

    async with scene.swarm("victim", write_stall_s=60) as victim:
        victim.handle("/pour/1.0.0", pour)
        await victim_of(scene, victim)
        attacker = await scene.attack(victim)
        attacker.send(data(1, PROPOSAL[:20] + multistream.encode_message("/pour/1.0.0") + b"go", Flag.SYN))
        for _ in range(130):
            attacker.send(frame(Type.PING, Flag.SYN, 0, 1))
            await asyncio.sleep(1)
        assert victim.counts["write_stalls"] == 1 and len(failures) == 1 and "takes nothing" in str(failures[0])
        assert frame(Type.WINDOW_UPDATE, Flag.RST, 1, 0) in attacker.plain
        await still_serves(scene, victim)


async def test_a_window_that_opens_by_one_byte_a_second_does_not_hold_a_stream_for_ever(scene: Scene) -> None:
    async def pour(stream: Stream) -> None:
        await stream.read()
        await stream.write(bytes(MIB))

    async with scene.swarm("victim", write_stall_s=60) as victim:
        victim.handle("/pour/1.0.0", pour)
        await victim_of(scene, victim)
        attacker = await scene.attack(victim)
        attacker.send(data(1, PROPOSAL[:20] + multistream.encode_message("/pour/1.0.0") + b"go", Flag.SYN))
        for _ in range(130):
            attacker.send(frame(Type.WINDOW_UPDATE, 0, 1, 1))
            await asyncio.sleep(1)
        assert victim.counts["write_stalls"] == 1 and victim._serving == 0
        await still_serves(scene, victim)


async def test_pings_without_end_by_a_peer_that_never_reads_are_cut_off(scene: Scene) -> None:
    async with scene.swarm("victim") as victim:
        await victim_of(scene, victim)
        attacker = await scene.attack(victim, does_read=False)
        for _ in range(400):
            attacker.send(*[frame(Type.PING, Flag.SYN, 0, 1)] * 1000)
            await asyncio.sleep(0.001)
            if not victim.connections()[0].is_usable:
                break
        assert victim.counts["protocol_errors"] == 1
        await asyncio.sleep(3)  # it gets so long to take the reason
        assert victim.connections() == []
        await still_serves(scene, victim)


async def test_ping_streams_that_are_never_read_hold_next_to_nothing(scene: Scene) -> None:
    async with scene.swarm("victim") as victim:
        await victim_of(scene, victim)
        attacker = await scene.attack(victim)
        proposal = PROPOSAL[:20] + multistream.encode_message(ping.PROTOCOL)
        for stream_id in range(1, 101, 2):
            attacker.send(data(stream_id, proposal + bytes(200_000 // 32 * 32), Flag.SYN))
        await asyncio.sleep(0.1)
        for stream_id in range(1, 101, 2):
            attacker.send(data(stream_id, bytes(50_000 // 32 * 32)))
        await asyncio.sleep(1)
        (connection,) = victim.connections()
        assert connection.pings == PING_STREAMS_MAX and connection.session.queued < 8 * 300_000
        await asyncio.sleep(65)
        assert victim._serving == 0 and connection.pings == 0
        await still_serves(scene, victim)


async def test_a_flood_of_identify_pushes_is_read_no_faster_than_peers_change(scene: Scene) -> None:
    told = 0

    def count(event: object) -> None:
        nonlocal told
        told += isinstance(event, Identified)

    async with scene.swarm("victim") as victim:
        victim.on_event(count)
        await victim_of(scene, victim)
        attacker = await scene.attack(victim)
        raw = identify.encode(identify.Identify(agent_version="loud"))
        proposal = PROPOSAL[:20] + multistream.encode_message(identify.PUSH_PROTOCOL)
        for stream_id in range(1, 2001, 2):
            attacker.send(data(stream_id, proposal + varint.encode(len(raw)) + raw, Flag.SYN | Flag.FIN))
            await asyncio.sleep(0.01)
        assert PUSHES_MAX <= told <= PUSHES_MAX + 12  # it lasted ten seconds
        await still_serves(scene, victim)


async def test_a_stream_opened_by_a_peer_that_leaves_midway_ends_its_handler(scene: Scene) -> None:
    async with scene.swarm("victim") as victim:
        await victim_of(scene, victim)
        attacker = await scene.attack(victim)
        attacker.send(data(1, PROPOSAL + b"half a mess", Flag.SYN))
        await asyncio.sleep(1)
        assert victim._serving == 1
        attacker.link.abort()
        await asyncio.sleep(1)
        assert victim._serving == 0 and victim.connections() == []
        await still_serves(scene, victim)


async def test_answers_that_are_never_taken_are_dropped_though_their_handlers_are_done(scene: Scene) -> None:
    async def answer(stream: Stream) -> None:
        await stream.read()
        await stream.write(bytes(400_000))

    async with scene.swarm("victim", linger_s=60, queue_bytes_connection=2 * MIB) as victim:
        victim.handle("/answer/1.0.0", answer)
        await victim_of(scene, victim)
        attacker = await scene.attack(victim)
        proposal = PROPOSAL[:20] + multistream.encode_message("/answer/1.0.0")
        for stream_id in range(1, 101, 2):
            attacker.send(data(stream_id, proposal + b"go", Flag.SYN | Flag.FIN))
        await asyncio.sleep(1)
        session = victim.connections()[0].session
        assert session.inbound == 50 and victim._serving > 0  # some answer, the others wait
        for _ in range(130):
            attacker.send(frame(Type.PING, Flag.SYN, 0, 1))
            await asyncio.sleep(1)
        assert session.inbound == 0 and session.queued == 0 and victim._serving == 0
        await still_serves(scene, victim)


async def test_what_waits_to_be_sent_is_bounded_for_the_whole_swarm_and_the_greediest_is_dropped(scene: Scene) -> None:
    async def answer(stream: Stream) -> None:
        await stream.write(bytes(600_000))

    limits = {"queue_bytes_total": 2 * MIB, "queue_bytes_look": 64 * 1024}
    async with scene.swarm("victim", **limits) as victim:
        victim.handle("/answer/1.0.0", answer)
        await victim_of(scene, victim)
        proposal = PROPOSAL[:20] + multistream.encode_message("/answer/1.0.0")
        modest, greedy = await scene.attack(victim), await scene.attack(victim)
        modest.send(data(1, proposal, Flag.SYN))
        await asyncio.sleep(1)
        for stream_id in range(1, 21, 2):
            greedy.send(data(stream_id, proposal, Flag.SYN))
            await asyncio.sleep(0.1)
            assert sum(connection.session.queued for connection in victim.connections()) <= 2 * MIB
        await asyncio.sleep(1)
        assert victim.counts["evictions"] == 1
        (kept,) = victim.connections()
        assert 0 < kept.session.queued < 700_000, "the modest one stays"
        await still_serves(scene, victim)


async def test_a_slow_reader_gets_all_of_an_answer_whose_handler_is_done(scene: Scene) -> None:
    async def answer(stream: Stream) -> None:
        await stream.write(bytes(500_000))

    async with scene.swarm("victim", linger_s=10) as victim:
        victim.handle("/answer/1.0.0", answer)
        await victim_of(scene, victim)
        attacker = await scene.attack(victim)
        proposal = PROPOSAL[:20] + multistream.encode_message("/answer/1.0.0")
        attacker.send(data(1, proposal, Flag.SYN))
        for _ in range(70):
            attacker.send(frame(Type.WINDOW_UPDATE, 0, 1, 4096))
            await asyncio.sleep(1)
        assert frame(Type.WINDOW_UPDATE, Flag.FIN, 1, 0) in attacker.plain
        assert len(attacker.plain) > 500_000 and victim.counts["stream_errors"] == 0
