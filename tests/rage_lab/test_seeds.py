"""A seed of the simulated lab is one run, whatever process plays it; and a broken promise is told with its seed."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rage_lab import scenarios, seeds
from rage_lab.checker import Violation
from rage_lab.scenarios import Options
from rage_lab.sim import promises
from rage_lab.sim.promises import play_seed


def test_a_seed_repeats_exactly_also_in_another_process_and_breaks_nothing(rng: random.Random) -> None:
    seed = rng.getrandbits(31)
    first = play_seed(seed)
    (again,) = [run for run in seeds.play_many(seed, 2, 2) if run.seed == seed]
    assert again.digest == first.digest, f"seed {seed} did not repeat"
    assert replace(again, cpu_s=0) == replace(first, cpu_s=0)
    assert not first.judgement.violations, f"rage lab run sim --seeds 1 --seed {seed}: {first.judgement.violations}"
    assert first.judgement.operations and first.judgement.peeks


def test_a_store_that_says_it_has_what_it_has_not_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The audit is not believed: the stores are looked into."""
    monkeypatch.setattr(promises, "_holds", lambda node, cid: node.name in ("n1", "n2"))
    monkeypatch.setattr(promises, "WITHIN_S", 10.0)
    run = play_seed(1)
    assert run.judgement.acknowledged
    assert {violation.broken for violation in run.judgement.violations} == {"short"}


def test_what_was_found_says_how_to_repeat_it(monkeypatch: pytest.MonkeyPatch) -> None:
    run = seeds._crashed(4711, "ValueError: no")
    monkeypatch.setattr(seeds, "play_many", lambda first, count, jobs: iter([run]))
    told: list[Any] = []
    options = Options(4711, seeds=1, out=Path())
    outcomes = list(scenarios.SCENARIOS["sim"].run("sim", options, told.append, lambda done, total: told.append(done)))
    row, found = outcomes[-1]
    assert row.violations == 1 and told == [1]
    assert found[0].repeat == "rage lab run sim --seed 4711 --seeds 1"
    assert found[0].words == (str(Violation("down", "the run itself", "ValueError: no")),)


def test_a_run_that_raises_is_a_finding_and_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(seed: int) -> None:
        raise ValueError("no")

    monkeypatch.setattr(seeds, "play_seed", fail)
    assert [violation.broken for violation in seeds.try_seed(1).judgement.violations] == ["down"]
