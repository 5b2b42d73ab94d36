"""What a hostile device may say, and what it costs: a counter; never memory, never the loop, never a traceback."""

from __future__ import annotations

import asyncio
import logging
import random
import struct
import tracemalloc
from collections.abc import AsyncIterator

import pytest
from mdns_wire import (
    PTR,
    SERVICE,
    TXT,
    Ear,
    Marker,
    Voice,
    as_js,
    free_port,
    name,
    node,
    peer,
    record,
    response,
    strings,
)

from rage_net.libp2p.mdns import Mdns, links
from rage_net.libp2p.mdns.neighbours import NEIGHBOURS_MAX, TOLD_SOURCE_S_MAX

pytestmark = pytest.mark.anyio

HERE = "/ip4/127.0.0.1/tcp/4001"


class Stage:
    """A node that listens, and two voices: a hostile one, and an honest one from another address."""

    def __init__(self, rng: random.Random) -> None:
        port = free_port()
        self.rng = rng
        self.ear = Ear()
        self.mdns: Mdns = node(rng, port, self.ear, HERE)
        self.hostile = Voice(port)
        self.honest = Voice(port, "127.0.0.2")
        self.marker = Marker(self.honest, self.ear, rng)

    def strangers(self) -> int:
        """Peers told of besides the markers."""
        return sum(1 for _, addresses in self.ear.found if "/tcp/9/" not in addresses[0])


@pytest.fixture
async def stage(rng: random.Random, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Stage]:
    made = Stage(rng)
    with caplog.at_level(logging.INFO), made.hostile, made.honest:
        async with made.mdns:
            await made.mdns.wait_state()
            yield made
            await made.marker.pass_by()  # it still hears
            assert made.mdns.counts["task_errors"] == 0
    assert [line.getMessage() for line in caplog.records if line.levelno > logging.INFO] == []


async def test_a_giant_text_is_refused(stage: Stage) -> None:
    them = peer(stage.rng)
    many = [f"/ip4/127.0.0.1/tcp/{port}/p2p/{them}" for port in range(1, 60)]
    packet = as_js("giant", many)
    assert links.PACKET_BYTES_MAX > len(packet) > 4096
    stage.hostile.say(packet)
    await stage.marker.pass_by()
    assert stage.ear.of(them) == [] and stage.mdns.counts["refused"] == 1


async def test_a_packet_that_is_longer_than_any_is_not_read(stage: Stage) -> None:
    them = peer(stage.rng)
    filling = record(f"long.{SERVICE}", TXT, bytes(60_000 - 1000))
    stage.hostile.say(as_js("long", [f"{HERE}/p2p/{them}"]) + filling)
    await stage.marker.pass_by()
    assert stage.ear.of(them) == [] and stage.mdns.counts["packets_refused"] == 1


async def test_thousands_of_peers_are_told_of_a_few_at_a_time(stage: Stage) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in range(3000):
        stage.hostile.say(as_js(f"n{number}", [f"{HERE}/p2p/{peer(stage.rng)}"]))
        if not number % 50:
            await asyncio.sleep(0)
    await stage.marker.pass_by()
    seconds = int(loop.time() - began) + 2
    assert 0 < stage.strangers() <= TOLD_SOURCE_S_MAX * seconds
    assert stage.mdns.counts["packets_dropped"] > 0
    assert stage.mdns.counts["heard"] <= 110 * seconds
    assert len(stage.mdns) <= NEIGHBOURS_MAX


async def test_thousands_of_answers_in_one_packet_count_as_a_few(stage: Stage) -> None:
    pointer = b"\xc0\x0c" + struct.pack(">HHIH", PTR, 1, 120, 4) + b"\x01x\xc0\x0c"
    first = record(SERVICE, PTR, name(f"first.{SERVICE}"))
    answers = [first, *[pointer.replace(b"x", bytes((97 + n % 26,))) for n in range(550)]]
    packet = response(answers)
    assert 8000 < len(packet) < links.PACKET_BYTES_MAX
    stage.hostile.say(packet)
    them = peer(stage.rng)
    texts = [record(f"many.{SERVICE}", TXT, strings(f"dnsaddr={HERE}/p2p/{them}".encode()))] * 60
    stage.hostile.say(response([record(SERVICE, PTR, name(f"many.{SERVICE}")), *texts]))
    await stage.marker.pass_by()
    assert stage.strangers() == 0 and stage.mdns.counts["refused"] == 1


async def test_garbage_costs_a_counter(stage: Stage) -> None:
    good = as_js("good", [f"/ip4/127.0.0.1/tcp/9/p2p/{peer(stage.rng)}"])
    said = 0
    for _ in range(90):
        packet = bytearray(good)
        match stage.rng.randrange(4):
            case 0:
                packet = bytearray(stage.rng.randbytes(stage.rng.randrange(200)))
            case 1:
                del packet[stage.rng.randrange(len(packet)) :]
            case 2:
                for _ in range(5):
                    packet[stage.rng.randrange(len(packet))] = stage.rng.randrange(256)
            case 3:  # names that lead to themselves and round in circles
                packet[12:14] = struct.pack(">H", 0xC000 | stage.rng.randrange(len(packet)))
        stage.hostile.say(bytes(packet) + b"\x04_p2p")
        said += 1
    await stage.marker.pass_by()
    assert 0 < stage.mdns.counts["refused"] <= said


async def test_an_answer_in_our_own_name_is_no_news(stage: Stage) -> None:
    us = stage.mdns._peer_id
    stage.hostile.say(as_js("impostor", [f"/ip4/127.0.0.1/tcp/6666/p2p/{us}"]))
    stage.hostile.say(as_js(stage.mdns.name, [f"/ip4/127.0.0.1/tcp/6666/p2p/{peer(stage.rng)}"]))
    await stage.marker.pass_by()
    assert stage.strangers() == 0 and stage.mdns.counts["own"] == 1


async def test_an_answer_that_mixes_peers_is_refused(stage: Stage) -> None:
    one, other = peer(stage.rng), peer(stage.rng)
    stage.hostile.say(as_js("mixed", [f"{HERE}/p2p/{one}", f"{HERE}/p2p/{other}"]))
    await stage.marker.pass_by()
    assert stage.strangers() == 0 and stage.mdns.counts["refused"] == 1


async def test_an_answer_cannot_send_us_elsewhere(stage: Stage) -> None:
    them = peer(stage.rng)
    elsewhere = [
        "/ip4/203.0.113.9/tcp/22",
        "/ip4/10.255.0.1/tcp/80",
        "/dns4/example.com/tcp/80",
        "/ip6/2001:db8::1/tcp/1",
    ]
    stage.hostile.say(as_js("elsewhere", [f"{place}/p2p/{them}" for place in elsewhere]))
    other = peer(stage.rng)
    stage.hostile.say(as_js("partly", [f"{place}/p2p/{other}" for place in [*elsewhere, HERE]]))
    assert await stage.ear.wait(other) == (f"{HERE}/p2p/{other}",)
    assert stage.ear.of(them) == [] and stage.mdns.counts["off_link"] == 1


async def test_a_peer_that_changes_its_address_all_the_time_is_told_of_once_a_second(stage: Stage) -> None:
    loop = asyncio.get_running_loop()
    began, them = loop.time(), peer(stage.rng)
    for port in range(1, 80):
        stage.hostile.say(as_js("flip", [f"/ip4/127.0.0.1/tcp/{port}/p2p/{them}"]))
    await stage.marker.pass_by()
    assert 1 <= len(stage.ear.of(them)) <= loop.time() - began + 1


async def test_questions_by_the_hundred_have_one_answer_a_second(stage: Stage) -> None:
    from mdns_wire import question

    loop = asyncio.get_running_loop()
    began, before = loop.time(), stage.mdns.counts["answers_sent"]
    for _ in range(500):
        stage.hostile.say(question(SERVICE, PTR))
    await stage.marker.pass_by()
    assert stage.mdns.counts["answers_sent"] - before <= loop.time() - began + 1


async def test_a_flood_grows_no_memory_and_the_loop_goes_on(stage: Stage) -> None:
    packets = []
    for number in range(40):  # large, and as dear to parse as can be
        texts = [f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer(stage.rng)}" for port in range(1, 60)]
        packets.append(as_js(f"flood{number}", texts))
    turns = 0

    async def live() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    tracemalloc.start()
    try:
        living = asyncio.create_task(live())
        for round in range(200):
            for packet in packets:
                stage.hostile.say(packet)
            at = turns
            while turns < at + 2:
                await asyncio.sleep(0)
            if round == 20:
                tracemalloc.reset_peak()
                base, _ = tracemalloc.get_traced_memory()
        await stage.marker.pass_by()
        _, peak = tracemalloc.get_traced_memory()
        living.cancel()
    finally:
        tracemalloc.stop()
    assert peak - base < 2 << 20
    assert stage.mdns.counts["packets_dropped"] > 0
    assert stage.strangers() == 0


async def test_a_socket_that_is_flooded_rests_until_the_second_is_over(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "READS_S_MAX", 50)
    for _ in range(120):
        stage.hostile.say(b"no DNS at all")
    async with asyncio.timeout(5):
        while not stage.mdns.counts["floods"]:
            await asyncio.sleep(0)
    await stage.marker.pass_by()
    assert 1 <= stage.mdns.counts["floods"] <= 4
