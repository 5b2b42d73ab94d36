"""A purge is proved within its time, however many places hang."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from rage_net.cdn.journal import Asked, Journal, Standing
from rage_net.cdn_verbs import purge
from rage_net.cdn_verbs.purge import PROVE_LATE_S, prove
from rage_net.config import cdn as config_cdn
from rage_net.config.values import Secret, Url
from rage_net.env import SystemEnv
from rage_net.errors import UnavailableError
from rage_net.services.purging import Purging, Wish
from rage_net.verbs.cdn import ProofRow
from rage_net.web import Answer
from tests.cdn.scripted import Scripted

pytestmark = pytest.mark.anyio
URLS = tuple(Url(f"https://cdn{at}.example.org") for at in range(40))


class Hanging:
    """Clock and network: nobody answers, and each question takes all the time that it is given."""

    def __init__(self) -> None:
        self.at = 1000.0
        self.asked = 0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    async def send(self, *_: object, timeout_s: float, **__: object) -> Any:
        self.asked += 1
        self.at += timeout_s
        raise UnavailableError("no answer")


async def proofs(world: Any, ends: float, soft: Sequence[str] = ()) -> Sequence[ProofRow]:
    """Of a purge ten seconds ago, at all URLs."""
    keys = config_cdn.Cloudflare(zone_id="0" * 32, api_token=Secret("s"))
    section = config_cdn.Provider(name="main", type="commercial", software="cloudflare", config=keys, public_urls=URLS)
    cdns: Any = SimpleNamespace(sections={"main": section}, webs={"main": world})
    asked = Asked("p1", 900.0, "manual", "a test", objects=("/chunks/a",))
    state = Standing("main", "", "accepted", 1, 1, 1, None, "", "", "", (), 0.0, 990.0)
    engine: Any = SimpleNamespace(env=world)
    return await prove(engine, cdns, asked, [state], ends, soft=soft)


@pytest.mark.parametrize("time_s", [-5.0, 0.0, 15.0])
async def test_places_that_hang_take_no_more_than_the_time_of_a_proof_and_each_has_its_row(
    time_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "PROVE_AGAIN_S", 0.0)
    world: Any = Hanging()
    rows = await proofs(world, 1000.0 + time_s)
    assert world.at == 1000.0 + max(0.0, time_s) + PROVE_LATE_S and world.asked >= 1
    assert len(rows) == len(URLS) and {row.proof for row in rows} == {"unproven"}
    assert sum("not asked" in row.reason for row in rows) == len(URLS) - world.asked


class Stale(Hanging):
    """Each answers at once, with what it marked as outdated."""

    async def send(self, *_: object, **__: object) -> Any:
        return Answer(200, {"cf-cache-status": "STALE"}, b"x", 0.0, None)


async def test_what_is_given_though_outdated_is_gone_where_it_was_to_be_marked_and_there_where_not() -> None:
    env = SystemEnv()
    purging = Purging(Journal(None), [Scripted("main"), Scripted("other")], env, soft_by_default=["main"])
    for soft, names in ((None, {"main"}), (True, {"main", "other"}), (False, set())):
        found = purging.soft(Wish("p1", (), "a test", soft=soft))
        assert found == names
        state = "gone" if "main" in found else "stays"
        assert {row.proof for row in await proofs(Stale(), 1000.0, tuple(found))} == {state}
    env.close()
