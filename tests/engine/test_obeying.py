"""What arrived in the log is obeyed, however the exchange that brought it ends."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from rage_lab.sim.organizations import Organization
from rage_lab.sim.world import World, play
from rage_net.errors import RemoteProtocolError
from rage_net.services.syncing import Syncing
from rage_net.verbs.acl import SetAcl

SETTLE_S = 20.0


def test_what_arrived_is_obeyed_even_where_the_exchange_broke_off(
    rng: random.Random, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is durable, and does not come as new again."""

    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        alpha = await world.node("alpha", organization=acme, capabilities=("storage", "admin"))
        beta = await world.node("beta", organization=acme, bootstrap=[alpha])
        await asyncio.sleep(SETTLE_S)
        await alpha.put(world.random.randbytes(1000), "plan.md", "org")
        log = beta.engine.metadata.log
        await world.until(lambda: bool(log.documents("acme", name="plan.md")), within_s=2, what="beta knows it")
        doc_id = log.documents("acme", name="plan.md")[0].doc_id
        assert beta.engine.metadata.access.access_of("acme", doc_id).visibility == "org"

        async def break_off(*_: object) -> int:
            raise RemoteProtocolError("the stream ends")

        monkeypatch.setattr(Syncing, "_acknowledge", break_off)
        await alpha.run(SetAcl("plan.md", visibility="private"))
        await world.until(
            lambda: beta.engine.metadata.access.access_of("acme", doc_id).visibility == "private",
            within_s=5,
            what="beta obeys",
        )

    play(scenario, rng.getrandbits(32), tmp_path)
