"""The demonstration runs, is quick, finds out what does not hold, and leaves nothing behind, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest_cli import RAGE, TIMEOUT_S, environment

from rage_cli import demonstration, staging
from rage_cli.staging import DemoNode, Organization
from rage_net.errors import DeadlineError, FindingsError, IntegrityError, RageError
from rage_net.verbs.trust import ListTrust

EQUAL = "equal, byte for byte"


def left_behind(place: Path) -> tuple[list[str], list[str]]:
    """Homes in `place`, and live processes of nodes whose home is there."""
    processes = subprocess.run(
        ["ps", "-eo", "stat,args"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [path.name for path in place.iterdir()], [
        line for line in processes if str(place) in line and line[0] != "Z"
    ]


def test_two_organisations_an_outsider_and_one_death(tmp_path: Path) -> None:
    env = environment(TMPDIR=str(tmp_path))
    done = subprocess.run([*RAGE, "demo", "--json"], capture_output=True, env=env, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr.decode()
    result = json.loads(done.stdout)
    steps = {step["what"].strip().partition(" at ")[0]: step for step in result["items"]}
    said = {what: step["outcome"] for what, step in steps.items()}
    assert said["get plan.txt, archive.bin on beta"] == said["get report.txt on gamma, by name"] == EQUAL
    assert said["get archive.bin on gamma, by name"] == said["get report.txt on delta, by name"] == EQUAL
    assert said["get plan.txt on gamma"].startswith("nothing")
    assert said["get all on crow, by CID"] == "nothing; alpha says cert-untrusted"
    assert said["grant plan.txt to birch"].endswith(EQUAL) and said["revoke it"].startswith("gamma gets nothing")
    assert said["remove plan.txt everywhere"].startswith("beta has dropped it")
    assert "beta gave" in said["kill alpha"] and "alpha gave 0 MiB" not in said["kill alpha"]
    assert said["revoke delta's certificate"].startswith("cut by beta and by gamma")
    for what in ("grant plan.txt to birch", "revoke it", "revoke delta's certificate"):
        assert 0 < steps[what]["seconds"] <= demonstration.SOON_S
    assert result["seconds"] < demonstration.PLAY_S_MAX + staging.STOP_S
    assert left_behind(tmp_path) == ([], [])


# --- what does not hold is found out ---


def admit_the_outsider(patch: pytest.MonkeyPatch) -> None:
    """The outsider gets a certificate of acme."""
    certify = Organization.certify
    members: list[Organization] = []

    def of_acme(self: Organization, node: DemoNode, *capabilities: str) -> None:
        members.append(self)
        certify(members[0] if node.name == "crow" else self, node, *capabilities)

    patch.setattr(Organization, "certify", of_acme)


def spoil_a_byte(patch: pytest.MonkeyPatch) -> None:
    """The document changes after it was put."""
    digest = demonstration._digest
    patch.setattr(demonstration, "_digest", lambda path: digest(path)[::-1] if path.suffix == ".out" else digest(path))


def run_out_of_time(patch: pytest.MonkeyPatch) -> None:
    """All of it has no more than a moment."""
    patch.setattr(demonstration, "PLAY_S_MAX", 0.1)


def forget_to_revoke(patch: pytest.MonkeyPatch) -> None:
    """The certificate stays good."""
    patch.setattr(demonstration, "RevokeCertificate", lambda *_: ListTrust())
    patch.setattr(demonstration, "SOON_S", 2.0)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (admit_the_outsider, FindingsError, "crow got"),
        (forget_to_revoke, FindingsError, "beta and gamma cut delta"),
        (spoil_a_byte, IntegrityError, "came out different on beta"),
        (run_out_of_time, DeadlineError, "not over within"),
    ],
)
def test_a_claim_that_does_not_hold_ends_it(
    change: Callable[[pytest.MonkeyPatch], None],
    kind: type[RageError],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    change(monkeypatch)
    with pytest.raises(kind) as error:
        list(demonstration.perform(lambda _: None))
    assert words in error.value.message
    assert left_behind(tmp_path) == ([], [])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("after", ["starting", "fetching"])
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
