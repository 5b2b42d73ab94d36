"""`rage config` as a process: what it prints where, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

SENTINEL = "s3cret-Sentinel-7f3a"
SPECIFICATION = Path(__file__).parent / "specification"

Rage = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def rage(tmp_path: Path) -> Rage:
    """Run a command line on a home of its own, without a terminal."""
    (tmp_path / "home" / "config").mkdir(parents=True)

    def rage(
        *words: str, environ: Mapping[str, str] | None = None, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAGE_", "CLOUDFLARE_"))}
        return subprocess.run(
            [sys.executable, "-m", "rage_cli", "config", *words],
            env={**clean, "RAGE_HOME": str(tmp_path / "home"), **(environ or {})},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return rage


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return tmp_path / "home" / "config"


def test_show_tells_values_and_where_they_came_from(rage: Rage, files: Path) -> None:
    (files / "network.yaml").write_text("network:\n  region: eu-west\n")
    done = rage("show", "--origin", environ={"RAGE_NODE_ID": "n1"})
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert f"network.region\teu-west\t{files}/network.yaml:2" in lines
    assert "network.node_id\tn1\tenv RAGE_NODE_ID" in lines
    assert "network.http.listen\t127.0.0.1:4080\tdefault" in lines
    assert "replication.default_factor\t3\tdefault" in lines


def test_show_of_one_key_reads_only_its_file_and_masks_secrets(rage: Rage, files: Path) -> None:
    (files / "replication.yaml").write_text("\tbroken")
    (files / "cdn.yaml").write_bytes((SPECIFICATION / "cdn.yaml").read_bytes())
    names = ("CLOUDFLARE_TOKEN", "FASTLY_API_KEY", "AWS_ACCESS_KEY", "AWS_SECRET_KEY", "VARNISH_TOKEN")
    done = rage("show", "cdn.providers", "--json", environ=dict.fromkeys(names, SENTINEL))
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert (answer["kind"], answer["v"]) == ("Config", 1)
    values = {item["key"]: item["value"] for item in answer["items"]}
    assert values["cdn.providers[0].config.api_token"] == "<set>"
    assert values["cdn.providers[0].config.zone_id"] == "abc123"
    assert SENTINEL not in done.stdout


def test_show_of_an_unknown_key_is_not_found(rage: Rage) -> None:
    done = rage("show", "region")
    assert (done.returncode, done.stdout) == (5, "")
    assert "rage config show network.region" in done.stderr


def test_check_finds_the_problems_of_all_three_files_at_once(rage: Rage, files: Path) -> None:
    (files / "network.yaml").write_text("network:\n  regoin: a\n  sync: {interval: soon}\n")
    (files / "cdn.yaml").write_text("cdn:\n\tenabled: true\n")
    (files / "replication.yaml").write_bytes((SPECIFICATION / "replication-as-printed.yaml").read_bytes())
    done = rage("check")
    assert done.returncode == 10
    for place in ("network.yaml:2:", "network.yaml:3:", "cdn.yaml:2:", "replication.yaml:18:"):
        assert f"{files}/{place}" in done.stdout
    assert "mend: did you mean `region`?" in done.stdout


def test_check_of_good_files_says_nothing_and_is_zero(rage: Rage, files: Path) -> None:
    done = rage("check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = rage("check", "--json")
    answer = json.loads(done.stdout)
    assert answer["problems"] == []
    assert [Path(file["path"]).name for file in answer["files"]] == ["network.yaml", "cdn.yaml", "replication.yaml"]


def test_check_knows_a_file_by_its_first_key_and_reads_stdin(rage: Rage) -> None:
    done = rage("check", str(SPECIFICATION / "replication.yaml"), str(SPECIFICATION / "bandwidth.yaml"))
    assert (done.returncode, done.stdout) == (0, "")
    done = rage("check", "-", stdin="cdn:\n  enabeld: true\n")
    assert done.returncode == 10
    assert done.stdout.startswith("-:2: cdn.enabeld: unknown key\n")


def test_check_warns_of_a_transport_that_is_not_built_and_is_zero(rage: Rage) -> None:
    done = rage("check", str(SPECIFICATION / "network.yaml"))
    assert done.returncode == 0
    assert done.stdout.startswith("warning: ")
    assert "quic-v1" in done.stdout


def test_check_of_a_missing_file_is_invalid(rage: Rage, tmp_path: Path) -> None:
    done = rage("check", str(tmp_path / "none.yaml"))
    assert done.returncode == 10
    assert "no such file" in done.stdout


def test_path_names_the_files_even_when_they_are_invalid(rage: Rage, files: Path) -> None:
    (files / "network.yaml").write_text("\tbroken")
    done = rage("path")
    assert done.returncode == 0
    assert done.stdout.splitlines()[:2] == [
        f"network\t{files}/network.yaml\ttrue",
        f"cdn\t{files}/cdn.yaml\tfalse",
    ]


def test_migrate_previews_then_rewrites_and_keeps_a_copy(rage: Rage, files: Path) -> None:
    (files / "network.yaml").write_text("network:\n  region: a\n")
    preview = rage("migrate", "--dry-run", "--json")
    assert json.loads(preview.stdout)["dry_run"] is True
    assert (files / "network.yaml").read_text() == "network:\n  region: a\n"
    done = rage("migrate")
    assert done.stdout == f"{files}/network.yaml\t0\t1\t{files}/network.yaml.v0.bak\n"
    assert (files / "network.yaml").read_text() == "network:\n  version: 1\n  region: a\n"


def test_an_invalid_file_stops_with_three_lines_and_10(rage: Rage, files: Path) -> None:
    (files / "network.yaml").write_text("network:\n  regoin: a\n")
    done = rage("show")
    assert (done.returncode, done.stdout) == (10, "")
    assert done.stderr.splitlines() == [
        f"error[config-invalid]: {files}/network.yaml:2: network.regoin: unknown key",
        "  mend: did you mean `region`?  |  rage config check",
    ]
