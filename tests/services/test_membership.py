"""Meeting peers: bootstrap, under a clock of its own."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from rage_net import keys
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.swarm import Swarm
from rage_net.libp2p.transport import Link, MemoryNetwork, MemoryTransport
from rage_net.peerstore import Peerstore
from rage_net.services.membership import Membership
from tests.sim.env import SimulatedEnv
from tests.sim.virtual_loop import VirtualLoop

pytestmark = pytest.mark.anyio

DIAL_S = 15.0


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"loop_factory": VirtualLoop}


class Lossy(MemoryTransport):
    """Nobody at a name that begins with `dead` ever answers."""

    async def dial(self, address: Multiaddr) -> Link:
        if address.parts[0].value.startswith("dead"):
            await asyncio.get_running_loop().create_future()
        return await super().dial(address)


async def test_a_dead_bootstrap_peer_keeps_no_other_waiting(rng: random.Random) -> None:
    loop, network, env = asyncio.get_running_loop(), MemoryNetwork(random=rng), SimulatedEnv(str(rng.random()))

    def swarm(name: str) -> Swarm:
        return Swarm(
            keys.generate(rng),
            transports=[Lossy(network, name)],
            agent_version="rage/test",
            clock=loop.time,
            random=rng,
        )

    async with swarm("alive") as alive, swarm("newcomer") as newcomer:
        await alive.listen(Multiaddr.parse("/memory/alive"))
        nobody = str(Swarm(keys.generate(rng), agent_version="rage/test").peer_id)
        addresses = [f"/memory/dead/p2p/{nobody}", f"/memory/alive/p2p/{alive.peer_id}"]
        bootstrap = [Multiaddr.parse(address) for address in addresses]
        members = Membership(newcomer, Peerstore(), env, bootstrap, DIAL_S)
        meeting = asyncio.create_task(members.connect_to_bootstrap())
        await asyncio.wait([meeting], timeout=DIAL_S / 2)
        assert newcomer.connection(alive.peer_id) is not None
        await meeting
        assert loop.time() < DIAL_S + 1, "a dial that nobody answers ends in time, and no error leaves the round"
