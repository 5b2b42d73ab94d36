"""rage doctor: local checks and the engine's together, with a node, without one, without a home."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest_cli import Rage, runner
from conftest_engine import FakeEngine

from rage_cli.commands.doctor import OF_THE_NETWORK
from rage_net.errors import UnavailableError
from rage_net.verbs.diagnose import DOCTOR_CHECKS, Check, Doctor, DoctorResult
from rage_net.verbs.node import NodeStatus, ShowStatus

LOCAL = ("home", "permissions", "config", "disk", "files", "node", "ports", "ca", "log")
STATUS = NodeStatus(
    *("12D3KooWQ7", "ready", ("/ip4/127.0.0.1/tcp/4001",), ()), *(0, 0, 0, 0, 1, 1.0, "0.2", 4711, "", "")
)


def result(**levels: str) -> DoctorResult:
    checks = tuple(
        Check(
            name, levels.get(name, "ok"), f"{name} as the network sees it", "because", (f"rage doctor --only {name}",)
        )
        for name in OF_THE_NETWORK
    )
    return DoctorResult(checks, 0, 0)


@pytest.fixture
def healthy(engine: FakeEngine) -> FakeEngine:
    engine.answer(ShowStatus, STATUS)
    engine.answer(Doctor, result())
    return engine


def test_every_check_is_made_in_its_order_with_a_node(rage: Rage, healthy: FakeEngine) -> None:
    value = json.loads(rage("doctor", "--json").stdout)
    assert (value["kind"], value["errors"], value["warnings"]) == ("Doctor", 0, 0)
    assert [check["id"] for check in value["checks"]] == list(DOCTOR_CHECKS)
    assert healthy.asked[-1] == Doctor(OF_THE_NETWORK)


def test_each_is_a_line_and_what_is_wrong_has_why_and_mend(rage: Rage, healthy: FakeEngine) -> None:
    healthy.answer(Doctor, result(dht="error", mdns="skipped"))
    shown = rage("doctor", "--format", "table", code=6).stdout.decode().splitlines()
    assert len(shown) == len(DOCTOR_CHECKS) + 2
    assert shown[0].startswith("✓ home         /")
    at = next(number for number, line in enumerate(shown) if line.startswith("✗ dht"))
    assert shown[at + 1].strip() == "why:  because" and shown[at + 2].strip() == "mend: rage doctor --only dht"
    assert any(line.startswith("- mdns") for line in shown)


def test_q_names_what_is_not_ok(rage: Rage, healthy: FakeEngine) -> None:
    assert rage("doctor", "-q").stdout == b""
    healthy.answer(Doctor, result(dht="error", mdns="warning"))
    assert rage("doctor", "-q", code=6).stdout == b"dht\nmdns\n"


@pytest.mark.parametrize(
    ("levels", "words", "code"),
    [
        ({"dht": "warning"}, [], 0),
        ({"dht": "warning"}, ["--fail-on", "warning"], 6),
        ({"dht": "error"}, ["--fail-on", "error"], 6),
        ({"dht": "error"}, ["--only", "mdns"], 0),
        ({"dht": "skipped"}, ["--fail-on", "warning"], 0),
    ],
)
def test_the_level_that_fails_is_the_callers_choice(
    rage: Rage, healthy: FakeEngine, levels: dict[str, str], words: list[str], code: int
) -> None:
    healthy.answer(Doctor, result(**levels))
    rage("doctor", *words, code=code)


def test_only_what_is_asked_for_is_shown_and_the_engine_is_asked_for_its_part(rage: Rage, healthy: FakeEngine) -> None:
    rows = rage("doctor", "--only", "mdns", "--only", "disk").stdout.decode().splitlines()
    assert [row.split("\t")[1] for row in rows] == ["disk", "mdns"]
    assert healthy.asked[-1] == Doctor(("mdns",))
    healthy.asked.clear()
    rage("doctor", *(word for name in LOCAL for word in ("--only", name)))
    assert not any(isinstance(verb, Doctor) for verb in healthy.asked)


def test_the_graver_word_on_the_clock_holds(rage: Rage, healthy: FakeEngine) -> None:
    healthy.answer(Doctor, result(clock="warning"))
    assert rage("doctor", "--only", "clock").stdout.split(b"\t")[2] == b"clock as the network sees it"
    healthy.answer(Doctor, result(clock="skipped"))
    assert b"UTC" in rage("doctor", "--only", "clock").stdout


def test_a_broken_home_is_a_finding_and_no_engine_is_opened(tmp_path: Path) -> None:
    rage = runner(tmp_path / "none")
    value = json.loads(rage("doctor", "--json", code=6, cwd=tmp_path).stdout)
    levels = {check["id"]: check["level"] for check in value["checks"]}
    assert list(levels) == list(DOCTOR_CHECKS)
    assert levels["home"] == "error"
    assert all(levels[name] == "skipped" for name in (*OF_THE_NETWORK, "ca", "log") if name != "clock")
    assert not (tmp_path / "none").exists()


def test_a_broken_configuration_is_a_finding_with_its_line(rage: Rage, home: Path) -> None:
    (home / "config" / "network.yaml").write_text("network:\n  version: 1\n  regoin: here\n")
    value = json.loads(rage("doctor", "--json", code=6).stdout)
    (check,) = [check for check in value["checks"] if check["id"] == "config"]
    assert "network.yaml:3" in check["why"] and "regoin" in check["why"]


def test_local_checks_need_no_engine(rage: Rage) -> None:
    words = [word for name in LOCAL for word in ("--only", name)]
    rows = [row.split("\t") for row in rage("doctor", *words).stdout.decode().splitlines()]
    assert [row[1] for row in rows] == list(LOCAL) and {row[0] for row in rows} == {"ok", "skipped"}
    assert [row[1] for row in rows if row[0] == "skipped"] == ["ca", "log"]


def test_a_node_that_will_not_look_at_the_network_is_told_as_skipped(rage: Rage, healthy: FakeEngine) -> None:
    healthy.answer(Doctor, UnavailableError("the node is stopping", why="SIGTERM", id="stopping"))
    value = json.loads(rage("doctor", "--only", "dht", "--json").stdout)
    assert value["checks"] == [
        {
            "id": "dht",
            "level": "skipped",
            "message": "not looked at: the node is stopping",
            "why": "SIGTERM",
            "mend": [],
        }
    ]


def test_the_part_of_the_engine_is_a_part_of_all() -> None:
    assert set(LOCAL) | set(OF_THE_NETWORK) == set(DOCTOR_CHECKS)
