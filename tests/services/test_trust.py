"""Trust between nodes: who may open what, and every way to be let in that must not work; under a clock of its own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from rage_net.libp2p.errors import NegotiationError, NotAdmittedError
from rage_net.libp2p.swarm import Connected
from rage_net.messages import CHUNK_PROTOCOL, QUERY_PROTOCOL, SYNC_PROTOCOL
from rage_net.services.trust import TRUST_S_MAX
from tests.services.trust_world import TrustWorld
from tests.sim.virtual_loop import VirtualLoop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"loop_factory": VirtualLoop}


@pytest.fixture
async def world(rng: random.Random, tmp_path: Path) -> AsyncIterator[TrustWorld]:
    async with AsyncExitStack() as stack:
        yield TrustWorld(stack, rng, tmp_path)


async def test_two_nodes_of_one_organisation_trust_each_other_before_either_is_offered(world: TrustWorld) -> None:
    acme = world.authority("acme")
    one, two = await world.node("one", acme), await world.node("two", acme)
    await one.dial(two)
    assert one.reason(two) == "own-organization"
    await asyncio.sleep(1)
    for here, there in ((one, two), (two, one)):
        assert here.sees(there) and here.reason(there) == "own-organization"
        principal = here.trust.principal_of(there.peer_id)
        assert principal.organization == "acme" and principal.capabilities == {"storage"}
        assert principal.scopes == {"chunks", "query", "sync"}
        for protocol in (CHUNK_PROTOCOL, QUERY_PROTOCOL, SYNC_PROTOCOL):
            assert await here.ask(there, protocol) == there.name
        assert [type(event) for event in here.events[:1]] == [Connected]
        assert here.swarm.counts["protocols_refused"] == 0, "nothing is asked for before it may be"
        assert CHUNK_PROTOCOL in here.swarm.connections()[0].identify.protocols  # type: ignore[union-attr]


async def test_a_stranger_gets_identify_and_ping_and_is_dropped(world: TrustWorld) -> None:
    acme = world.authority("acme")
    certified, stranger = await world.node("certified", acme), await world.node("stranger", None)
    connection = await stranger.dial(certified)
    await asyncio.sleep(1)
    assert await stranger.swarm.ping(certified.peer_id) >= 0
    assert connection.identify is not None
    assert set(connection.identify.protocols) == {
        "/ipfs/id/1.0.0",
        "/ipfs/id/push/1.0.0",
        "/ipfs/ping/1.0.0",
        "/rage/trust/1.0.0",
    }
    for protocol in (CHUNK_PROTOCOL, QUERY_PROTOCOL, SYNC_PROTOCOL):
        with pytest.raises(NegotiationError):
            await stranger.ask(certified, protocol)
    assert certified.opened == [] and certified.events == []
    await asyncio.sleep(TRUST_S_MAX)
    assert not certified.is_linked(stranger) and not stranger.is_linked(certified)
    assert certified.trust.counts["dropped"] == 1
    assert certified.events == [], "who was never offered does not leave"


async def test_a_certified_node_does_not_use_an_open_one(world: TrustWorld) -> None:
    certified, opened = await world.node("certified", world.authority("acme")), await world.node("open", None)
    with pytest.raises(NotAdmittedError) as error:
        await certified.dial(opened)
    assert error.value.refusal == "cert-missing"
    with pytest.raises(NotAdmittedError):
        await certified.dial(opened)
    assert certified.swarm.connections() == []
    await asyncio.sleep(TRUST_S_MAX + 1)
    assert not certified.is_linked(opened)
