"""The network in memory keeps time as TCP over a real one would, and fails as one: links, dials, hosts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import pytest

from rage_lab.sim.virtual_loop import VirtualLoop
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.transport import Conditions, Link, MemoryNetwork, MemoryTransport
from rage_net.libp2p.transport.memory.conditions import PACKET_BYTES, RETRY_S_MAX, RETRY_S_MIN, recovery_s, retried_at
from rage_net.libp2p.transport.memory.line import TURN_BYTES
from rage_net.libp2p.transport.memory.network import FIRST_PORT

pytestmark = pytest.mark.anyio

DELAY_S = 0.05
MB = 1_000_000


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"loop_factory": VirtualLoop}


@pytest.fixture
async def network(rng: random.Random) -> AsyncIterator[MemoryNetwork]:
    yield MemoryNetwork(Conditions(delay_s=DELAY_S), rng)


def now() -> float:
    return asyncio.get_running_loop().time()


class End:
    """Takes everything, notes when, and can send much as a peer does: as long as there is room."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.got = bytearray()
        self.times: list[float] = []
        self.lost_at: float | None = None
        self.error: Exception | None = None
        self._room = asyncio.Event()
        self._change = asyncio.Event()
        link.start(self)

    def data_received(self, data: memoryview) -> int:
        self.got += data
        self.times.append(now())
        self._change.set()
        return len(data)

    def room_made(self) -> None:
        self._room.set()

    def connection_lost(self, error: Exception | None) -> None:
        assert self.lost_at is None, "told twice"
        self.lost_at, self.error = now(), error
        self._change.set()

    async def send(self, data: bytes, part: int = 64 * 1024) -> None:
        for at in range(0, len(data), part):
            self.link.write([data[at : at + part]])
            while self.link.is_full:
                self._room.clear()
                await self._room.wait()

    async def has(self, size: int, within_s: float = 1000) -> float:
        """When so many bytes are here."""
        async with asyncio.timeout(within_s):
            while len(self.got) < size:
                self._change.clear()
                await self._change.wait()
        return self.times[-1]

    async def is_lost(self, within_s: float = 1000) -> float:
        async with asyncio.timeout(within_s):
            while self.lost_at is None:
                self._change.clear()
                await self._change.wait()
        return self.lost_at


async def join(network: MemoryNetwork, here: str = "here", there: str = "there") -> tuple[End, End]:
    """A link between two hosts, from both ends."""
    accepted: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
    listener = await MemoryTransport(network, there).listen(Multiaddr.parse("/memory/0"), accepted.set_result)
    ours = await MemoryTransport(network, here).dial(listener.addresses[0])
    return End(ours), End(await accepted)


# -- time -------------------------------------------------------------------------------------------------------------


async def test_a_dial_is_a_round_trip_and_a_byte_takes_half_of_it(network: MemoryNetwork) -> None:
    ours, theirs = await join(network)
    assert now() == pytest.approx(2 * DELAY_S)
    ours.link.write([b"x"])
    assert await theirs.has(1) == pytest.approx(3 * DELAY_S)


async def test_ways_may_differ_by_pair_and_direction(network: MemoryNetwork) -> None:
    delays = {("here", "there"): 0.01, ("there", "here"): 0.5}
    network.between = lambda here, there: Conditions(delay_s=delays[here, there])
    ours, theirs = await join(network)
    assert now() == pytest.approx(0.51)
    ours.link.write([b"x"])
    theirs.link.write([b"x"])
    assert await theirs.has(1) == pytest.approx(0.52) and await ours.has(1) == pytest.approx(1.01)


async def test_jitter_delays_and_never_reorders(network: MemoryNetwork, rng: random.Random) -> None:
    network.conditions = Conditions(delay_s=DELAY_S, jitter_s=0.1)
    ours, theirs = await join(network)
    begin = now()
    words = [rng.randbytes(rng.randint(1, 9)) for _ in range(200)]
    for word in words:
        ours.link.write([word])
        await asyncio.sleep(0.01)
    await theirs.has(len(b"".join(words)))
    assert theirs.got == b"".join(words)
    late = [at - begin - DELAY_S for at in theirs.times]
    assert min(late) >= 0 and len(set(theirs.times)) > 50


@pytest.mark.parametrize("line", [{"up_bytes_s": MB}, {"down_bytes_s": MB}])
async def test_a_transfer_takes_its_size_over_the_bandwidth(
    network: MemoryNetwork, rng: random.Random, line: dict[str, float]
) -> None:
    network.shape("here" if "up_bytes_s" in line else "there", **line)
    ours, theirs = await join(network)
    data, begin = rng.randbytes(3 * MB), now()
    await ours.send(data)
    assert await theirs.has(len(data)) - begin == pytest.approx(3.0 + DELAY_S, rel=0.02)
    assert theirs.got == data


async def test_links_share_a_line_and_few_bytes_pass_by_many(network: MemoryNetwork) -> None:
    network.shape("there", down_bytes_s=MB)
    (one, at_one), (two, at_two) = await join(network, "one"), await join(network, "two")
    begin = now()
    sending = [asyncio.create_task(end.send(bytes(MB))) for end in (one, two)]
    await asyncio.sleep(0.5)
    third, at_third = await join(network, "third")
    third.link.write([b"ping"])
    assert await at_third.has(4) - now() <= 0
    assert at_third.times[0] - begin < 0.5 + 3 * DELAY_S + 3 * TURN_BYTES / MB, "it waits for a turn, not for all"
    ends = [await at.has(MB) - begin for at in (at_one, at_two)]
    assert ends == [pytest.approx(2.0 + DELAY_S, rel=0.05)] * 2
    await asyncio.gather(*sending)


async def test_a_full_link_has_room_again_when_the_line_has_carried_half(network: MemoryNetwork) -> None:
    network.shape("here", up_bytes_s=MB)
    ours, _ = await join(network)
    ours.link.write([bytes(network.conditions.capacity_bytes + 1)])
    assert ours.link.is_full and ours.link.waiting > network.conditions.capacity_bytes
    await asyncio.sleep(0.1)
    assert ours.link.is_full
    await asyncio.sleep(0.2)
    assert not ours.link.is_full


# -- loss -------------------------------------------------------------------------------------------------------------


async def test_loss_costs_time_and_no_bytes(network: MemoryNetwork, rng: random.Random) -> None:
    network.conditions = Conditions(delay_s=DELAY_S, loss=0.2)
    ours, theirs = await join(network)
    words = [rng.randbytes(100) for _ in range(300)]
    sent = []
    for word in words:
        sent.append(now())
        ours.link.write([word])
        await asyncio.sleep(30)  # longer than a word may be late, so that no two arrive at once
    await theirs.has(30_000)
    assert theirs.got == b"".join(words)
    late = [at - begin - DELAY_S for at, begin in zip(theirs.times, sent, strict=True) if at - begin > DELAY_S + 1e-6]
    assert 30 < len(late) < 90, "a fifth of 300"
    assert min(late) >= RETRY_S_MIN - 1e-6, "a lone packet waits for the timer"


async def test_who_is_lost_keeps_those_behind_it_waiting(network: MemoryNetwork) -> None:
    draws = [0.0, 0.9, 0.99]  # the first is lost, its repetition is not; nor is the second

    class Scripted(random.Random):
        def random(self) -> float:
            return draws.pop(0)

    ours, theirs = await join(network)
    network.conditions, network.random = Conditions(delay_s=DELAY_S, loss=0.5), Scripted()
    begin = now()
    ours.link.write([b"first"])
    await asyncio.sleep(0.01)
    ours.link.write([b"second"])
    await theirs.has(11)
    assert theirs.times[0] - begin == pytest.approx(DELAY_S + RETRY_S_MIN)


def test_a_lost_packet_among_many_costs_a_round_trip_and_at_the_end_the_timer(rng: random.Random) -> None:
    way = Conditions(delay_s=DELAY_S, loss=1e-9)
    assert recovery_s(100 * PACKET_BYTES, way, rng) == 0
    heavy = Conditions(delay_s=DELAY_S, loss=0.01)
    costs = [recovery_s(100 * PACKET_BYTES, heavy, rng) for _ in range(2000)]
    undisturbed = sum(cost == 0 for cost in costs) / 2000
    assert undisturbed == pytest.approx(0.99**100, abs=0.06)
    assert sum(cost == pytest.approx(2 * DELAY_S) for cost in costs) > 1000
    tail = {round(recovery_s(1, Conditions(delay_s=DELAY_S, loss=0.5), rng), 6) for _ in range(2000)}
    assert tail >= {0.0, 0.2, 0.4, 0.8}, "the timer doubles: 0.2, then 0.2 + 0.2, then 0.2 + 0.2 + 0.4"


def test_who_was_silent_for_long_is_tried_seldom() -> None:
    assert retried_at(10.0, 10.1, 0.2) == pytest.approx(10.2)
    assert retried_at(10.0, 10.3, 0.2) == pytest.approx(10.6)
    assert retried_at(10.0, 20.0, 0.2) == pytest.approx(10 + 0.2 * 63)
    assert retried_at(0.0, 10_000.0, 0.2) - 10_000 <= RETRY_S_MAX


# -- partitions -------------------------------------------------------------------------------------------------------


async def test_a_partition_stalls_links_in_silence_and_they_go_on_after_it(network: MemoryNetwork) -> None:
    ours, theirs = await join(network)
    network.partition(["here"], ["there"])
    begin = now()
    ours.link.write([b"one"])
    await asyncio.sleep(3)
    ours.link.write([b"two"])
    assert theirs.got == b"" and ours.lost_at is None and theirs.lost_at is None
    assert ours.link.waiting == 6
    network.heal()
    arrived = await theirs.has(6)
    assert arrived == pytest.approx(retried_at(begin + DELAY_S, begin + 3, RETRY_S_MIN) + DELAY_S)
    ours.link.write([b"three"])
    await theirs.has(11)
    assert theirs.got == b"onetwothree"


async def test_what_was_on_its_way_when_the_partition_came_is_not_lost(network: MemoryNetwork) -> None:
    ours, theirs = await join(network)
    for word in (b"a", b"b", b"c"):
        ours.link.write([word])
        await asyncio.sleep(DELAY_S / 2)
    network.partition(["here"])
    await asyncio.sleep(1)
    network.heal()
    await asyncio.sleep(0.001)
    network.partition(["here"])  # healed for less than the sender's timer: nobody noticed
    await asyncio.sleep(5)
    assert len(theirs.got) < 3
    network.heal()
    await theirs.has(3)
    assert theirs.got == b"abc"


async def test_groups_hear_their_own_and_the_unnamed_are_one_more(network: MemoryNetwork) -> None:
    hosts = {name: network.host(name) for name in ("a", "b", "c", "d", "e", "f")}
    network.partition("ab", "cd")
    heard = {(x, y) for x in hosts for y in hosts if x < y and network.reaches(hosts[x], hosts[y])}
    assert heard == {("a", "b"), ("c", "d"), ("e", "f")}
    network.heal()
    assert all(network.reaches(x, y) for x in hosts.values() for y in hosts.values())


async def test_a_new_partition_lets_those_through_who_are_together_now(network: MemoryNetwork) -> None:
    ours, theirs = await join(network)
    network.partition(["here"])
    ours.link.write([b"x"])
    await asyncio.sleep(1)
    network.partition(["here", "there"])
    await theirs.has(1, within_s=5)


async def test_a_dial_across_a_partition_is_repeated_and_succeeds_after_it(network: MemoryNetwork) -> None:
    network.partition(["here"])
    joining = asyncio.create_task(join(network))
    await asyncio.sleep(2)
    assert not joining.done()
    network.heal()
    await joining
    assert now() == pytest.approx(3 + 2 * DELAY_S), "after 1 and after 3 s"


async def test_a_dial_that_nobody_answers_is_given_up_after_two_minutes(network: MemoryNetwork) -> None:
    network.partition(["here"])
    with pytest.raises(TimeoutError):
        await join(network)
    assert now() == pytest.approx(127)


async def test_a_reset_is_not_heard_across_a_partition_and_learnt_of_by_the_next_write(
    network: MemoryNetwork,
) -> None:
    ours, theirs = await join(network)
    network.partition(["here"])
    theirs.link.abort()
    await theirs.is_lost(1)
    await asyncio.sleep(10)
    network.heal()
    await asyncio.sleep(10)
    assert ours.lost_at is None
    begin = now()
    ours.link.write([b"anyone?"])
    assert await ours.is_lost(5) - begin == pytest.approx(2 * DELAY_S)
    assert isinstance(ours.error, ConnectionResetError)


async def test_what_did_not_get_through_dies_with_the_link(network: MemoryNetwork) -> None:
    ours, theirs = await join(network)
    network.partition(["here"])
    ours.link.write([b"too late"])
    await asyncio.sleep(1)
    ours.link.abort()
    await asyncio.sleep(1)
    network.heal()
    await asyncio.sleep(200)
    assert theirs.got == b"" and theirs.lost_at is None


async def test_an_orderly_end_is_repeated_until_it_is_heard(network: MemoryNetwork) -> None:
    ours, theirs = await join(network)
    network.partition(["here"])
    theirs.link.close()
    await asyncio.sleep(10)
    assert ours.lost_at is None
    network.heal()
    await ours.is_lost(15)
    assert ours.error is None


# -- hosts ------------------------------------------------------------------------------------------------------------


async def test_a_host_that_vanished_is_silent_and_does_not_answer_dials(network: MemoryNetwork) -> None:
    ours, theirs = await join(network)
    network.vanish("there")
    theirs.link.write([b"never leaves"])
    theirs.link.abort()
    ours.link.write([b"never arrives"])
    await asyncio.sleep(200)
    assert ours.lost_at is None and ours.got == b"" and theirs.got == b""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(30):
            await MemoryTransport(network, "here").dial(Multiaddr.parse("/memory/there"))


async def test_a_host_that_came_back_knows_nothing_of_its_links_and_can_be_dialled(network: MemoryNetwork) -> None:
    ours, theirs = await join(network)
    network.vanish("there")
    ours.link.write([b"hello?"])
    await asyncio.sleep(5)
    network.restore("there")
    assert await ours.is_lost(10) > 5
    assert isinstance(ours.error, ConnectionResetError) and theirs.got == b""
    again, at_again = await join(network)
    again.link.write([b"hello"])
    await at_again.has(5)


async def test_a_listener_of_an_earlier_life_takes_nothing_from_the_next(network: MemoryNetwork) -> None:
    transport, address = MemoryTransport(network, "there"), Multiaddr.parse("/memory/there")
    before = await transport.listen(address, lambda link: None)
    network.vanish("there")
    network.restore("there")
    with pytest.raises(ConnectionRefusedError):
        await MemoryTransport(network, "here").dial(address)
    accepted: list[Link] = []
    await transport.listen(address, accepted.append)
    before.close()
    await MemoryTransport(network, "here").dial(address)
    assert len(accepted) == 1


async def test_a_paused_host_reads_and_says_nothing_until_it_goes_on(network: MemoryNetwork) -> None:
    ours, theirs = await join(network)
    network.pause("there")
    ours.link.write([b"in"])
    theirs.link.write([b"out"])
    late = asyncio.create_task(join(network))
    await asyncio.sleep(20)
    assert theirs.got == ours.got == b"" and not late.done()
    network.resume("there")
    begin = now()
    assert await theirs.has(2) == begin and await ours.has(3) == pytest.approx(begin + DELAY_S)
    await late
    ours.link.write([b"more"])
    await theirs.has(6)


async def test_a_receiver_is_called_in_the_context_of_its_own_side(network: MemoryNetwork) -> None:
    side: ContextVar[str] = ContextVar("side", default="nobody's")
    seen: dict[str, list[str]] = {"ours": [], "theirs": []}

    class Noting(End):
        def __init__(self, link: Link, name: str) -> None:
            self.name = name
            super().__init__(link)

        def data_received(self, data: memoryview) -> int:
            seen[self.name].append(side.get())
            return super().data_received(data)

        def room_made(self) -> None:
            seen[self.name].append(side.get())
            super().room_made()

        def connection_lost(self, error: Exception | None) -> None:
            seen[self.name].append(side.get())
            super().connection_lost(error)

    side.set("there")
    accepted: list[Noting] = []
    listener = await MemoryTransport(network, "there").listen(
        Multiaddr.parse("/memory/there"), lambda link: accepted.append(Noting(link, "theirs"))
    )
    side.set("here")
    ours = Noting(await MemoryTransport(network, "here").dial(listener.addresses[0]), "ours")
    side.set("nobody's")
    await ours.send(bytes(600_000))
    await accepted[0].has(600_000)
    accepted[0].link.write([b"back"])
    await ours.has(4)
    ours.link.close()
    await ours.is_lost()
    await accepted[0].is_lost()
    assert set(seen["ours"]) == {"here"} and set(seen["theirs"]) == {"there"}


async def test_the_network_tells_what_is_written_on_which_end(network: MemoryNetwork) -> None:
    ours, theirs = await join(network)
    told: list[tuple[str, str, bytes]] = []
    network.observe = lambda end, data: told.append((end.host.name, end.other.host.name, data))
    ours.link.write([b"a", b"b"])
    theirs.link.write([b"c"])
    assert told == [("here", "there", b"ab"), ("there", "here", b"c")]


# -- IP addresses -----------------------------------------------------------------------------------------------------


async def test_hosts_named_by_ip_addresses_are_dialled_by_them(network: MemoryNetwork) -> None:
    here, there = MemoryTransport(network, "192.0.2.1"), MemoryTransport(network, "198.51.100.7")
    links: list[Link] = []
    listener = await there.listen(Multiaddr.parse("/ip4/0.0.0.0/tcp/4001"), links.append)
    assert [str(address) for address in listener.addresses] == ["/ip4/127.0.0.1/tcp/4001", "/ip4/198.51.100.7/tcp/4001"]
    link = await here.dial(listener.addresses[1])
    assert str(link.local_address) == str(links[0].remote_address) == f"/ip4/192.0.2.1/tcp/{FIRST_PORT}"
    assert str(link.remote_address) == str(links[0].local_address) == "/ip4/198.51.100.7/tcp/4001"
    with pytest.raises(ConnectionRefusedError):
        await here.dial(Multiaddr.parse("/ip4/127.0.0.1/tcp/4001"))
    await there.dial(listener.addresses[0])
    assert len(links) == 2
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10):
            await here.dial(Multiaddr.parse("/ip4/203.0.113.9/tcp/4001"))


async def test_a_host_listens_at_its_own_addresses_only_and_once(network: MemoryNetwork) -> None:
    host = MemoryTransport(network, "2001:db8::7")
    listener = await host.listen(Multiaddr.parse("/ip6/2001:db8::7/tcp/4001"), lambda link: None)
    assert [str(address) for address in listener.addresses] == ["/ip6/2001:db8::7/tcp/4001"]
    for taken in ("/ip6/2001:db8::7/tcp/4001", "/ip6/::/tcp/4001", "/ip6/2001:db8::8/tcp/4001", "/ip4/0.0.0.0/tcp/1"):
        with pytest.raises(OSError):
            await host.listen(Multiaddr.parse(taken), lambda link: None)
    free = await host.listen(Multiaddr.parse("/ip6/::/tcp/0"), lambda link: None)
    assert [str(address) for address in free.addresses] == [
        f"/ip6/::1/tcp/{FIRST_PORT}",
        f"/ip6/2001:db8::7/tcp/{FIRST_PORT}",
    ]
    listener.close()
    await host.listen(Multiaddr.parse("/ip6/::/tcp/4001"), lambda link: None)


@pytest.mark.parametrize(
    ("host", "address", "expected"),
    [
        ("name", "/memory/x", True),
        ("192.0.2.1", "/memory/x", True),
        ("192.0.2.1", "/ip4/198.51.100.7/tcp/1", True),
        ("2001:db8::1", "/ip6/2001:db8::2/tcp/1", True),
        ("192.0.2.1", "/ip6/2001:db8::2/tcp/1", False),
        ("name", "/ip4/198.51.100.7/tcp/1", False),
        ("192.0.2.1", "/ip4/198.51.100.7/udp/1", False),
        ("192.0.2.1", "/dns4/example.org/tcp/1", False),
    ],
)
async def test_a_host_knows_which_addresses_it_can_dial(
    network: MemoryNetwork, host: str, address: str, expected: bool
) -> None:
    assert MemoryTransport(network, host).can_dial(Multiaddr.parse(address)) is expected
