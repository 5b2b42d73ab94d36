"""js-libp2p's mDNS and rage's see each other: real processes in a network of their own, on two hosts and on one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest
from foreign_peers import Peer, missing
from rage_side import make_swarm

from rage_lab.net import namespaces
from rage_lab.net.lab import Host, Lab
from rage_net.libp2p.mdns import Mdns
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId

pytestmark = [pytest.mark.anyio, pytest.mark.foreign("js-libp2p", "ip")]

TIMEOUT_S = 20.0


@pytest.fixture
def lab(in_ci: bool) -> Iterator[Lab]:
    if why := missing("js-libp2p") or namespaces.missing():
        (pytest.fail if in_ci else pytest.skip)(why)
    with Lab() as made:
        yield made


class Ear:
    """Who was found, and where; can be waited for."""

    def __init__(self) -> None:
        self.found: dict[PeerId, tuple[Multiaddr, ...]] = {}
        self._changed = asyncio.Event()

    def __call__(self, peer_id: PeerId, addresses: tuple[Multiaddr, ...]) -> None:
        self.found[peer_id] = addresses
        self._changed.set()

    async def wait(self, peer_id: PeerId) -> tuple[Multiaddr, ...]:
        async with asyncio.timeout(TIMEOUT_S):
            while peer_id not in self.found:
                self._changed.clear()
                await self._changed.wait()
        return self.found[peer_id]


def foreign(host: Host) -> Peer:
    with host.inside():  # a process begins where the thread is that starts it
        return Peer("js-libp2p", "mdns")


@pytest.mark.parametrize("first", ["rage", "js"])
@pytest.mark.parametrize("place", ["one host", "two hosts"])
async def test_each_finds_the_other_and_reaches_it_where_it_said(
    lab: Lab, rng: random.Random, first: str, place: str
) -> None:
    """Whoever comes second asks, and both learn: one from the answer, the other from what the asker says of itself."""
    here, there = lab.host("here"), lab.host("there")
    addresses = lab.lan(here, there)
    host, address = (here, addresses[0]) if place == "one host" else (there, addresses[1])
    swarm, _ = make_swarm()
    ear = Ear()
    mdns = Mdns(swarm.peer_id, swarm.listen_addresses, ear, interval_s=60.0, random=rng)
    foreigner = foreign(host) if first == "js" else None
    try:
        with here.inside():
            async with swarm:
                await swarm.listen(Multiaddr.parse(f"/ip4/{addresses[0]}/tcp/0"))
                async with mdns:
                    assert await mdns.wait_state() == "running"
                    foreigner = foreigner or foreign(host)
                    them = PeerId.parse(foreigner.peer_id)

                    heard = await ear.wait(them)
                    assert {part.value for said in heard for part in said.parts[:1]} >= {address}
                    assert all(said.peer_id == them for said in heard)
                    told = await foreigner.call("found", peer=str(swarm.peer_id), timeout_s=TIMEOUT_S)
                    ours = [str(listening) for listening in swarm.listen_addresses()]
                    assert [said.partition("/p2p/")[0] for said in told["addresses"]] == ours
                    await swarm.dial(them, heard, timeout_s=TIMEOUT_S)
                    assert (await foreigner.call("ping", peer=str(swarm.peer_id)))["rtt_ms"] >= 0
                    assert mdns.counts["refused"] == mdns.counts["task_errors"] == 0
    finally:
        if foreigner is not None:
            foreigner.close()


async def test_one_that_only_looks_is_not_seen_by_js(lab: Lab, rng: random.Random) -> None:
    here, there = lab.host("here"), lab.host("there")
    addresses = lab.lan(here, there)
    foreigner = foreign(there)
    try:
        with here.inside():
            looking, showing = Ear(), Ear()
            swarm, _ = make_swarm()
            other, _ = make_swarm()
            listen = [Multiaddr.parse(f"/ip4/{addresses[0]}/tcp/4001")]
            quiet = Mdns(swarm.peer_id, lambda: listen, looking, interval_s=60.0, random=rng, announce=False)
            async with quiet:
                await looking.wait(PeerId.parse(foreigner.peer_id))
                async with Mdns(other.peer_id, lambda: listen, showing, interval_s=60.0, random=rng):
                    await foreigner.call("found", peer=str(other.peer_id), timeout_s=TIMEOUT_S)
            assert (await foreigner.call("all_found"))["peers"] == [str(other.peer_id)]
    finally:
        foreigner.close()
