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

from rage_cli import demonstration, edges, staging
from rage_cli.edges import VarnishEdge
from rage_cli.staging import DemoNode, Organization
from rage_net.errors import DeadlineError, FindingsError, IntegrityError, RageError
from rage_net.home import Home
from rage_net.verbs.cdn import PurgeCdn
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
    if edges.missing():
        assert os.environ.get("CI") != "true", f"{edges.missing()}: as root, `make deps` installs it"
        assert said["purge a CDN"] == f"not shown: no {edges.missing()} here"
    else:
        assert said["get notice.txt of a CDN"] == "MISS, then HIT, on both"
        assert said["cdn purge --doc DOC"] == "1 object gone from each"
        assert said["kill edge-2, and purge"] == "1 done, 1 queued"
        assert said["start edge-2"] == "told by the journal"
        assert said["cdn purge --wait"] == "gone, proved at both"
    for what in ("grant plan.txt to birch", "revoke it", "revoke delta's certificate"):
        assert 0 < steps[what]["seconds"] <= demonstration.SOON_S
    assert result["seconds"] < demonstration.PLAY_S_MAX + staging.STOP_S
    assert left_behind(tmp_path) == ([], [])


# --- what does not hold is found out ---


def admit_the_outsider(patch: pytest.MonkeyPatch) -> None:
    """The outsider gets a certificate of acme."""
    certify = Organization.certify
    members: list[Organization] = []

    def of_acme(self: Organization, node: DemoNode, *capabilities: str, **more: bool) -> None:
        members.append(self)
        certify(members[0] if node.name == "crow" else self, node, *capabilities, **more)

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


def spare_the_edge(patch: pytest.MonkeyPatch) -> None:
    """The second edge lives on, and is purged at once. Nothing else is played."""
    play_the_cdn_alone(patch)
    patch.setattr(VarnishEdge, "kill", lambda self: None)


def purge_nothing(patch: pytest.MonkeyPatch) -> None:
    """No edge is told of the purge. Nothing else is played."""
    play_the_cdn_alone(patch)
    patch.setattr(demonstration, "PurgeCdn", lambda **more: PurgeCdn(**more, dry_run=True))


def need_edges() -> None:
    """Fail in CI, skip elsewhere, without Varnish."""
    if edges.missing():
        why = f"{edges.missing()} is not installed: as root, `make deps` installs it"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)


def play_the_cdn_alone(patch: pytest.MonkeyPatch) -> None:
    """Leave the other acts out."""
    need_edges()
    for act in ("start", "trust", "put", "share", "shut_out", "grant", "remove", "kill", "welcome", "repair", "revoke"):
        patch.setattr(demonstration._Story, f"_{act}", lambda self: ())


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (admit_the_outsider, FindingsError, "crow got"),
        (forget_to_revoke, FindingsError, "beta and gamma cut delta"),
        (spoil_a_byte, IntegrityError, "came out different on beta"),
        (run_out_of_time, DeadlineError, "not over within"),
        (spare_the_edge, FindingsError, "does not stand as it must"),
        (purge_nothing, FindingsError, "does not stand as it must"),
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


def test_without_varnish_one_line_says_so_and_the_demonstration_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edges, "SYSTEM_PLACES", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    nodes = tuple(DemoNode(name, Home(tmp_path), "") for name in ("server", "a", "b", "c", "crow", "d", "echo"))
    (step,) = demonstration._Story(tmp_path, nodes, (), lambda _: None)._purge()
    assert step.outcome == "not shown: no varnishd here"


@pytest.mark.parametrize(
    ("number", "code", "after"),
    [
        (signal.SIGINT, 130, "starting"),
        (signal.SIGTERM, 143, "starting"),
        (signal.SIGINT, 130, "fetching"),
        (signal.SIGTERM, 143, "fetching"),
        (signal.SIGINT, 130, "purging"),
    ],
)
def test_an_interrupted_demonstration_leaves_nothing(
    tmp_path: Path, number: signal.Signals, code: int, after: str
) -> None:
    """The words that a terminal would show say where it is; a pseudo-terminal is what makes it say them."""
    if after == "purging":
        need_edges()
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
