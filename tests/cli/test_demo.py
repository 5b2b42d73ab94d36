"""The demonstration runs, is quick, and leaves nothing behind, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from conftest_cli import RAGE, TIMEOUT_S, environment


def left_behind(place: Path) -> tuple[list[str], list[str]]:
    """Homes in `place`, and live processes of nodes whose home is there."""
    processes = subprocess.run(
        ["ps", "-eo", "stat,args"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [path.name for path in place.iterdir()], [
        line for line in processes if str(place) in line and line[0] != "Z"
    ]


def test_four_nodes_two_documents_and_one_death(tmp_path: Path) -> None:
    env = environment(TMPDIR=str(tmp_path))
    done = subprocess.run([*RAGE, "demo", "--json"], capture_output=True, env=env, timeout=TIMEOUT_S, check=True)
    steps = {step["what"].strip().partition(" at ")[0]: step["outcome"] for step in json.loads(done.stdout)["items"]}
    assert steps["get archive.bin on gamma"] == "equal, byte for byte"
    assert "beta gave" in steps["kill alpha"] and "alpha gave 0 MiB" not in steps["kill alpha"]
    outcome, _, found = steps["get report.txt on delta, no peer named"].partition("; ")
    assert outcome == "equal, byte for byte" and found in ("1 peers found", "2 peers found"), "alpha is dead"
    assert left_behind(tmp_path) == ([], [])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("after", ["starting", "copying"])
def test_an_interrupted_demonstration_leaves_nothing(
    tmp_path: Path, number: signal.Signals, code: int, after: str
) -> None:
    """The words that a terminal would show say where it is; a pseudo-terminal is what makes it say them."""
    parent, child = os.openpty()
    demo = subprocess.Popen(
        [*RAGE, "demo"], stdout=subprocess.PIPE, stderr=child, env=environment(TMPDIR=str(tmp_path))
    )
    os.close(child)
    said = b""
    while after.encode() not in said:
        said += os.read(parent, 4096)
    demo.send_signal(number)
    demo.communicate(timeout=TIMEOUT_S)
    os.close(parent)
    assert demo.returncode == code
    assert left_behind(tmp_path) == ([], [])
