"""rage acl on nodes with certificates, in one simulated world: what is written on one is what all doors obey."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from rage_lab.sim.organizations import Organization
from rage_lab.sim.world import World, play
from rage_net.errors import RageError
from rage_net.verbs import acl

Play = Callable[[Callable[[World], Awaitable[Any]]], Any]
SETTLE_S = 20.0
SOON_S = 3.0


@pytest.fixture
def run(rng: random.Random, tmp_path: Path) -> Play:
    """Play a scenario once; a failure names its seed."""
    seed = rng.getrandbits(32)
    return lambda scenario: play(scenario, seed, tmp_path).result


def test_what_is_granted_and_revoked_on_one_node_is_obeyed_by_the_others(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        owner = await world.node("owner", organization=acme)
        reader = await world.node("reader", organization=acme, bootstrap=[owner])
        await asyncio.sleep(SETTLE_S)
        data = world.random.randbytes(50_000)
        root = await owner.put(data, "plan.md", "private")
        principal = f"peer:{reader.engine.peer_id_text()}"

        async def may(node: Any) -> bool:
            return bool((await node.engine.run(acl.CheckAcl("plan.md", principal, "read"))).allowed)

        async def get() -> bool:
            try:
                return bool((await reader.get(root, owner, keep=False)).data == data)
            except RageError:
                return False

        assert not await may(owner) and not await get()
        done = await owner.engine.run(acl.GrantAcl("plan.md", principal, "read"))
        assert [row.principal for row in done.changes] == [principal]
        assert await may(owner) and await get()
        await owner.engine.run(acl.RevokeAcl("plan.md", principal, "read"))
        assert not await may(owner) and not await get()
        shown = await owner.engine.run(acl.ShowAcl("plan.md"))
        assert [(fact.allowed, fact.in_force) for fact in shown.facts if fact.principal] == [(False, True)]
        assert shown.conflicts == 0 and shown.visibility == "private"
        assert (await owner.engine.run(acl.SetAcl("plan.md", shown.rights))).changes == ()
        await asyncio.sleep(SOON_S)
        seen = await reader.engine.run(acl.ShowAcl("plan.md"))
        assert seen.facts == shown.facts, "the other node knows the document by the log alone"
        with pytest.raises(RageError) as caught:
            await reader.engine.run(acl.GrantAcl("plan.md", principal, "read"))
        assert caught.value.id == "not-admin"

    run(scenario)
