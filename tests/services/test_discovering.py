"""Discovering peers when what names them is hostile: under a clock of its own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from rage_lab.sim.env import SimulatedEnv
from rage_lab.sim.virtual_loop import VirtualLoop
from rage_net import keys
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from rage_net.services.discovering import CONNECTING_S_MAX, Discovering
from rage_net.verbs.peer import DiscoverPeers, FoundPeer

pytestmark = pytest.mark.anyio

ADDRESS = Multiaddr.parse("/ip4/192.0.2.7/tcp/4001")


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"loop_factory": VirtualLoop}


def peer(number: int) -> PeerId:
    return PeerId.from_public_key(keys.generate(random.Random(number)).public_key())


async def test_a_server_that_names_a_thousand_unreachable_peers_keeps_nobody_waiting() -> None:
    listed = [
        SimpleNamespace(peer_id=peer(number), addresses=(ADDRESS,), organization_id="", region="", capabilities=())
        for number in range(1000)
    ]

    answered = SimpleNamespace(error=None)

    class Servers:
        servers = ("http://192.0.2.1",)

        async def peers(self, **words: str) -> Any:
            return SimpleNamespace(peers=[SimpleNamespace(listed=one) for one in listed], outcomes=(answered,))

    async def reach(peer: PeerId, addresses: Sequence[Multiaddr], source: str) -> None:
        await asyncio.get_running_loop().create_future()

    async def ready() -> None:
        pass

    servers: Any = Servers()
    discovering = Discovering(
        SimulatedEnv("discover"),
        peer(5000),
        servers=servers,
        dht=None,
        ready=ready,
        listen=None,
        reach=reach,
        claims=lambda peer: ("", "", ()),
    )
    told: list[FoundPeer] = []
    verb = DiscoverPeers(via=("server",), for_s=5.0, connect=True)
    result = await discovering.discover(verb, told.append)
    assert asyncio.get_running_loop().time() <= verb.for_s + CONNECTING_S_MAX + 0.1
    assert len(result.items) == len(told) == 1000 and all(row.error for row in result.items)
