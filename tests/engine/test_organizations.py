"""Nodes with certificates, in one simulated world: what organisations share, and what strangers do not get."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from rage_net.errors import RageError
from tests.sim.organizations import Organization
from tests.sim.world import World, play

Play = Callable[[Callable[[World], Awaitable[Any]]], Any]
SETTLE_S = 20.0


@pytest.fixture
def run(rng: random.Random, tmp_path: Path) -> Play:
    """Play a scenario once; a failure names its seed."""
    seed = rng.getrandbits(32)
    return lambda scenario: play(scenario, seed, tmp_path).result


def test_a_document_is_found_by_its_name_in_the_organisation_and_a_stranger_gets_nothing(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        alpha = await world.node("alpha", organization=acme)
        beta = await world.node("beta", organization=acme, bootstrap=[alpha])
        stranger = await world.node("stranger", bootstrap=[alpha, beta])
        await asyncio.sleep(SETTLE_S)
        data = world.random.randbytes(100_000)
        root = await alpha.put(data, "report.md", "org")
        await world.until(
            lambda: bool(beta.engine.metadata.log.documents("acme", name="report.md")), within_s=2, what="beta knows it"
        )
        got = await beta.get("report.md")
        assert got.data == data and got.sources["p2p"]
        with pytest.raises(RageError) as error:
            await stranger.get(root, alpha)
        assert error.value.id in ("sources-unreachable", "chunk-not-found", "peer-unreachable"), error.value.id
        assert "alpha" in world.holders(root) and "stranger" not in world.holders(root)

    run(scenario)
