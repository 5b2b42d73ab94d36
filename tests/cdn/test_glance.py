"""How purges stand at a glance, and what doctor and status make of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rage_net import home as homes
from rage_net.cdn.glance import LONG_S, Glance, look
from rage_net.cdn.journal import Asked, Journal
from rage_net.cdn.plan import Planned, Word
from rage_net.cdn.provider import Abilities, Verdict
from rage_net.config.cdn import Cdn
from rage_net.engine import Engine
from rage_net.home import Home
from rage_net.verbs.diagnose import Check, Doctor
from rage_net.verbs.node import CdnGlance, ShowStatus
from tests.cdn.servers import settings
from tests.cdn.six import SECRET, StandIn

NOW = 1_790_000_000.0
EDGE = "http://127.0.0.1:9"
ABLE = Abilities({"tag": 100}, answer="done")
YAML = """\
cdn:
  providers:
    - name: varnish
      type: self-hosted
      config: {{endpoints: [{edges}], auth_token: "{token}"}}
"""


def ask(journal: Journal, id: str, at: float, *tags: str, provider: str = "varnish", edge: str = EDGE) -> None:
    words = tuple(Word("tag", tag) for tag in tags)
    journal.ask(Asked(id, at, "manual", id), [(Planned(provider, words, frozenset(), 1, 1.0), (edge,))])


def end(
    journal: Journal, state: str, now: float, provider: str = "varnish", edge: str = EDGE, *, one: bool = False
) -> None:
    taken = journal.take(provider, edge, Abilities({"tag": 1}, answer="done") if one else ABLE, now)
    assert taken.call is not None
    journal.settle(taken.call.reference, Verdict(state, reason="refused"), now)  # type: ignore[arg-type]


def test_what_waits_and_what_failed_and_was_not_purged_since() -> None:
    journal = Journal(None)
    config = Cdn(providers=(settings("varnish", [EDGE]).replace(name="varnish"),))
    assert look(journal, config) == Glance()
    ask(journal, "p1", NOW, "a", "b")
    end(journal, "failed", NOW)
    ask(journal, "p2", NOW + 1, "a")
    end(journal, "done", NOW + 1)
    ask(journal, "p3", NOW + 2, "c")
    ask(journal, "p4", NOW + 3, "d")
    assert look(journal, config) == Glance(2, NOW + 2, "p3", {"varnish": 1}), "b failed, and a went later"
    for word, soft in (("b", True), ("e", False)):
        planned = Planned("varnish", (Word("tag", word),), frozenset({"tag"} if soft else ()), 1, 1.0)
        journal.ask(Asked(f"s-{word}", NOW + 4, "manual", ""), [(planned, (EDGE,))])
    for state in ("done", "failed", "done"):
        end(journal, state, NOW + 5, one=True)
    told = look(journal, config).failed["varnish"]
    assert told == sum(len(words) for *_, words in journal.failed()), "as what purges it again has it"
    journal.close()


def test_of_edges_that_left_cdn_yaml_nothing_is_told_and_of_buckets_it_is() -> None:
    journal = Journal(None)
    config = Cdn(providers=(settings("varnish", [EDGE + "/"]).replace(name="varnish"),))
    for provider, edge in (
        ("varnish", "http://gone"),
        ("gone", ""),
        ("gone-bucket", "s3://b"),
        ("varnish-bucket", "x"),
    ):
        ask(journal, f"{provider} {edge}", NOW, "a", provider=provider, edge=edge)
        end(journal, "failed", NOW, provider, edge)
    assert look(journal, config) == Glance(failed={"varnish-bucket": 1})
    journal.close()


# --- doctor and status ---


def made(where: Path, *edges: str, token: str = SECRET) -> Home:
    home = Home(where / "home")
    homes.init(home)
    named = ", ".join(f'"{edge}"' for edge in edges)
    (home.config / "cdn.yaml").write_text(YAML.format(edges=named, token=token))
    return home


async def doctor(home: Home) -> dict[str, Check]:
    async with Engine.open(home) as engine:
        return {check.id: check for check in (await engine.run(Doctor(("cdn", "purges")))).checks}


@pytest.mark.anyio
async def test_the_doctor_asks_every_edge_and_tells_which_does_not_answer(tmp_path: Path) -> None:
    async with StandIn(time.time) as edge:
        found = await doctor(made(tmp_path / "both", edge.url))
        assert (found["cdn"].level, found["purges"].level) == ("ok", "ok"), found
        one = (await doctor(made(tmp_path / "one", edge.url, EDGE)))["cdn"]
        assert (one.level, one.message) == ("warning", "1 of 2 does not answer")
        assert EDGE in one.why and "rage cdn check" in one.mend
        refused = (await doctor(made(tmp_path / "refused", edge.url, token="another")))["cdn"]
        assert refused.level == "error" and "token" in refused.why and "another" not in str(refused)
    assert (await doctor(made(tmp_path / "none", EDGE)))["cdn"].level == "error"


@pytest.mark.anyio
async def test_a_purge_that_waits_long_or_failed_is_told_by_doctor_and_status(tmp_path: Path) -> None:
    home = made(tmp_path, EDGE)
    now = time.time()
    journal = Journal(home.purges)
    ask(journal, "p1", now - LONG_S - 5, "a")
    journal.close()
    async with Engine.open(home) as engine:
        status = await engine.run(ShowStatus())
        assert status.cdn == CdnGlance(1, 1, pytest.approx(now - LONG_S - 5), 0, ())
        assert [it for it in status.problems if "rage cdn journal p1" in it]
        assert engine._cdns is None, "no client is made for it"
        (check,) = (await engine.run(Doctor(("purges",)))).checks
    assert check.level == "warning" and "1 waits, the oldest for 60 min" in check.message and "varnish" in check.why
    assert check.mend[0] == "rage cdn journal p1"

    journal = Journal(home.purges)
    end(journal, "failed", now + 1000)
    journal.close()
    async with Engine.open(home) as engine:
        status = await engine.run(ShowStatus())
        assert status.cdn == CdnGlance(1, 0, 0.0, 1, ("varnish",)) and "varnish" in status.problems[0]
        (check,) = (await engine.run(Doctor(("purges",)))).checks
    assert check.level == "error" and "rage cdn purge --failed --wait 2m" in check.mend


@pytest.mark.anyio
async def test_without_cdns_status_is_as_it_was_and_the_doctor_has_nothing_to_look_at(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    homes.init(home)
    async with Engine.open(home) as engine:
        before = await engine.run(ShowStatus())
        assert before.cdn is None and not before.problems
        (home.config / "cdn.yaml").write_text("cdn: {enabled: yes please}\n")
        after = await engine.run(ShowStatus())
        assert after.cdn is None and not after.problems, "config check tells of it"
    (home.config / "cdn.yaml").unlink()
    found = await doctor(home)
    assert {check.level for check in found.values()} == {"skipped"}
    assert not home.purges.exists()
