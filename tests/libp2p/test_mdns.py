"""mDNS between nodes on the loopback interface: they find each other, and nobody whom they should not."""

from __future__ import annotations

import asyncio
import logging
import random
import socket

import pytest
from mdns_wire import (
    META,
    PTR,
    SERVICE,
    TXT,
    Ear,
    Marker,
    Voice,
    as_js,
    free_port,
    loopback,
    name,
    node,
    peer,
    question,
    record,
    response,
    strings,
)

from rage_net.libp2p.mdns import Interface, service
from rage_net.libp2p.multiaddr import Multiaddr

pytestmark = pytest.mark.anyio

HERE = "/ip4/127.0.0.1/tcp/4001"


@pytest.fixture
def port() -> int:
    return free_port()


async def test_two_nodes_find_each_other_and_say_where_they_are(rng: random.Random, port: int) -> None:
    a_ear, b_ear = Ear(), Ear()
    async with node(rng, port, a_ear, HERE) as a, node(rng, port, b_ear, "/ip4/0.0.0.0/tcp/4002") as b:
        assert await b_ear.wait(a._peer_id) == (f"{HERE}/p2p/{a._peer_id}",)
        assert await a_ear.wait(b._peer_id) == (f"/ip4/127.0.0.1/tcp/4002/p2p/{b._peer_id}",)
        assert await a.wait_state() == "running" and a.interfaces == [face.name for face in loopback()]
        assert a_ear.of(a._peer_id) == []
    assert a.state == "off"


async def test_one_that_only_looks_finds_and_is_not_found(rng: random.Random, port: int) -> None:
    ear, looking = Ear(), Ear()
    async with node(rng, port, ear, HERE) as a, node(rng, port, looking, HERE, announce=False) as b:
        await looking.wait(a._peer_id)
        with Voice(port) as voice:
            await Marker(voice, ear, rng).pass_by()
        async with asyncio.timeout(20):
            while not b.counts["questions"]:  # it may have been found before it asked
                await asyncio.sleep(0.01)
        assert not b._due
    assert ear.of(b._peer_id) == []
    assert b.counts["answers_sent"] == 0


async def test_a_node_that_leaves_is_forgotten_and_told_of_anew_when_it_is_back(rng: random.Random, port: int) -> None:
    ear = Ear()
    with Voice(port) as voice:
        async with node(rng, port, ear) as b:
            async with node(rng, port, Ear(), HERE) as a:
                await ear.wait(a._peer_id)
                assert len(b) == 1
            await Marker(voice, ear, rng).pass_by()
            assert len(b) == 1  # the marker
            async with a:
                await ear.wait(a._peer_id, times=2)


async def test_addresses_that_change_are_told(rng: random.Random, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "LOOK_S", 0.05)
    ear = Ear()
    listen = [Multiaddr.parse(HERE)]
    a = node(rng, port, Ear())
    a._addresses = lambda: listen
    async with node(rng, port, ear), a:
        await ear.wait(a._peer_id)
        listen[:] = [Multiaddr.parse("/ip4/127.0.0.1/tcp/5555")]
        assert await ear.wait(a._peer_id, times=2) == (f"/ip4/127.0.0.1/tcp/5555/p2p/{a._peer_id}",)


async def test_a_service_of_another_name_is_a_network_apart(rng: random.Random, port: int) -> None:
    apart = "_p2p-c0ffee._udp.local."
    ear, apart_ear = Ear(), Ear()
    with Voice(port) as voice:
        async with (
            node(rng, port, ear, HERE) as a,
            node(rng, port, apart_ear, HERE, service=apart) as b,
            node(rng, port, apart_ear, HERE, service=apart) as c,
        ):
            await apart_ear.wait(b._peer_id)
            await apart_ear.wait(c._peer_id)
            await Marker(voice, ear, rng).pass_by()
            assert ear.of(b._peer_id) == ear.of(c._peer_id) == apart_ear.of(a._peer_id) == []


async def test_js_libp2ps_form_and_the_specifications_are_both_read(rng: random.Random, port: int) -> None:
    ear, one, other = Ear(), peer(rng), peer(rng)
    places = ["/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2/ws"]
    with Voice(port) as voice:
        async with node(rng, port, ear) as listening:
            await listening.wait_state()
            voice.say(as_js("j" * 63, [f"{place}/p2p/{one}" for place in places]))
            assert await ear.wait(one) == tuple(f"{place}/p2p/{one}" for place in places)
            texts = strings(*(f"dnsaddr={place}/p2p/{other}".encode() for place in places), b"x=y")
            details = record(f"SPEC.{SERVICE}", TXT, texts)
            voice.say(response([record(SERVICE.upper(), PTR, name(f"spec.{SERVICE}"))], [details]))
            assert await ear.wait(other) == tuple(f"{place}/p2p/{other}" for place in places)


async def test_tools_are_answered_that_ask_for_services_or_for_details(rng: random.Random, port: int) -> None:
    with Voice(port) as voice:
        async with node(rng, port, Ear(), HERE) as a:
            await a.wait_state()
            voice.say(question(META, PTR))
            await voice.hear(name(META)[:9])
            voice.say(question(f"{a.name}.{SERVICE}", TXT))
            assert f"dnsaddr={HERE}/p2p/{a._peer_id}".encode() in await voice.hear(a.name.encode(), b"dnsaddr=")


async def test_who_knows_us_already_gets_no_answer(rng: random.Random, port: int) -> None:
    with Voice(port) as voice:
        async with node(rng, port, Ear(), HERE) as a:
            await voice.hear(a.name.encode())
            a._gaps, a._ask_at = iter(()), float("inf")  # it asks, and so answers, no more by itself
            known = record(SERVICE, PTR, name(f"{a.name}.{SERVICE}"))
            before = a.counts["answers_sent"]
            voice.say(question(SERVICE, PTR, [known]))
            voice.say(question(META, PTR))
            await voice.hear(name(META)[:9])
            assert a.counts["answers_sent"] == before + 1
            assert not a._due


async def test_the_next_answer_on_a_link_waits_for_a_second(rng: random.Random, port: int) -> None:
    with Voice(port) as voice:
        async with node(rng, port, Ear(), HERE) as a:
            await voice.hear(a.name.encode())
            voice.say(question(SERVICE, PTR))
            voice.say(question(META, PTR))
            await voice.hear(name(META)[:9])
            ((where, due),) = a._due.items()
            assert due.when() - a._answered[where] == pytest.approx(1.0)


async def test_without_an_interface_it_is_unavailable_until_one_comes(
    rng: random.Random, port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service, "LOOK_S", 0.05)
    present: list[Interface] = []
    ear = Ear()
    with caplog.at_level(logging.INFO):
        async with node(rng, port, ear, HERE, interfaces=lambda: present) as a, node(rng, port, Ear(), HERE) as b:
            assert await a.wait_state() == "unavailable"
            assert a.reason == "no network interface has an address"
            present += loopback()
            await ear.wait(b._peer_id)
            assert (a.state, a.reason) == ("running", "")
    said = [line for line in caplog.messages if "mDNS is" in line]
    assert len(said) == 3, said  # unavailable, running, and the other node's running
    assert not [line for line in caplog.records if line.levelno > logging.INFO]


async def test_a_port_that_another_program_keeps_to_itself_is_the_reason(
    rng: random.Random, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as four,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six,
    ):
        six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        four.bind(("", port))
        six.bind(("", port))
        async with node(rng, port, Ear(), HERE) as a:
            assert await a.wait_state() == "unavailable"
            assert "in use" in a.reason
    assert not [line for line in caplog.records if line.levelno > logging.INFO]


async def test_an_interface_that_refuses_packets_is_the_reason(rng: random.Random, port: int) -> None:
    nowhere = [Interface("gone0", 99_999, loopback()[0].networks)]
    async with node(rng, port, Ear(), HERE, interfaces=lambda: nowhere) as a:
        assert await a.wait_state() == "unavailable"
        assert a.reason.startswith("gone0: ") and len(a.reason) > len("gone0: ")


async def test_a_callback_that_fails_costs_nothing_but_a_line_in_the_log(
    rng: random.Random, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    ear, first = Ear(), peer(rng)

    def fail_once(peer_id: object, addresses: object) -> None:
        if peer_id == first:
            raise ZeroDivisionError
        ear(peer_id, addresses)  # type: ignore[arg-type]

    with Voice(port) as voice:
        async with node(rng, port, ear) as a:
            a._on_found = fail_once
            await a.wait_state()
            voice.say(as_js("first", [f"{HERE}/p2p/{first}"]))
            await Marker(voice, ear, rng).pass_by()
    assert a.counts["callback_errors"] == 1
    assert "the callback of mDNS failed" in caplog.text


async def test_it_can_be_given_up_while_it_starts(rng: random.Random, port: int) -> None:
    for _ in range(3):
        async with node(rng, port, Ear(), HERE) as a:
            await asyncio.sleep(0)
        assert a.state == "off"
