"""Who has a root, when those who are asked are hostile: under a clock of its own."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import pytest

from rage_lab.sim.virtual_loop import VirtualLoop
from rage_net import keys, lookups
from rage_net.cid import Cid
from rage_net.libp2p.peer_id import PeerId

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"loop_factory": VirtualLoop}


async def test_hundreds_of_connected_peers_that_are_silent_are_not_waited_for_one_by_one(rng: random.Random) -> None:
    peers = [PeerId.from_public_key(keys.generate(rng).public_key()) for _ in range(500)]
    connections = {peer: SimpleNamespace(peer_id=peer, inbound=True) for peer in peers}

    class Exchange:
        async def have(self, connection: Any, cids: list[Cid]) -> tuple[bool, ...]:
            if connection.peer_id != peers[3]:
                await asyncio.get_running_loop().create_future()
            return (True,)

    async def ping(peer: PeerId, *, timeout_s: float) -> float:
        return 0.01

    online: Any = SimpleNamespace(
        swarm=SimpleNamespace(connections=lambda: list(connections.values()), connection=connections.get, ping=ping),
        membership=SimpleNamespace(peerstore=SimpleNamespace(get=lambda peer: None)),
        exchange=Exchange(),
        routing=None,
    )
    found = await lookups.list_providers(online, Cid.of(b"root"), 100, is_here=False, may_ask=True)
    assert asyncio.get_running_loop().time() <= lookups.ASKING_ALL_S_MAX + 0.1
    assert (found.items[0].peer_id, found.items[0].state) == (str(peers[3]), "has")
    assert found.asked[-1] == "dht: switched off"
