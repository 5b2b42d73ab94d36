"""rage lab: what it lists, what it refuses, and the exit code of a broken promise."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rage_cli import app
from rage_cli.options import options
from rage_lab import scenarios
from rage_lab.checker import Judgement, Violation
from rage_lab.scenarios import Found, Row, Scenario


def test_the_list_names_every_scenario(rage: Any) -> None:
    done = rage("lab", "run", "--list", "--json")
    listed = json.loads(done.stdout)
    assert [item["name"] for item in listed["items"]] == list(scenarios.SCENARIOS)


@pytest.mark.parametrize("words", [("nonsense",), ("sim", "--seeds", "0"), ("soak", "--minutes", "0")])
def test_what_cannot_be_run_is_refused(rage: Any, words: tuple[str, ...]) -> None:
    done = rage("lab", "run", *words, code=2)
    assert b"mend" in done.stderr


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_broken_promise_is_exit_6_with_the_command_that_repeats_it(
    is_broken: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    violations = (Violation("lost", "doc", "no node gives it"),) if is_broken else ()
    judged = Judgement(violations, 10, 5, 1, 0, 0, 3, 2.5)

    def run(name: str, options: Any, tell: Any, progress: Any) -> Any:
        found = [Found(name, options.seed, tuple(map(str, violations)), "rage lab run kill --seed 7")]
        yield Row(name).with_run(judged, 2, 30.0, ("clock: none",)), found if is_broken else []

    monkeypatch.setitem(scenarios.SCENARIOS, "kill", Scenario("kill", "", run))
    monkeypatch.setattr(options, "format", "auto")
    code = app.main(["lab", "run", "kill", "--seed", "7"])
    told = capsys.readouterr()
    assert code == (6 if is_broken else 0)
    assert told.out.split("\t")[:6] == ["kill", "1", "2", "10", "5", str(int(is_broken))]
    assert told.out.rstrip("\n").endswith("clock: none")
    assert ("repeat: rage lab run kill --seed 7" in told.err) is is_broken
