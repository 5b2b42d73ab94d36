"""The real `rage`, as a process of its own, in a home of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

RAGE = [sys.executable, "-P", "-m", "rage_cli"]
TIMEOUT_S = 60.0

LOOPBACK = """\
network:
  version: 1
  http: {listen: null, metrics_listen: null}
  libp2p: {listen_addresses: ["/ip4/127.0.0.1/tcp/0"], mdns: {enabled: false}}
"""


def environment(home: Path | None = None, **more: str) -> dict[str, str]:
    """This process's environment without what would change rage's mind."""
    unset = ("NO_COLOR", "COLUMNS", "LINES", "XDG_RUNTIME_DIR")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAGE_") and name not in unset}
    return {**kept, **({"RAGE_HOME": str(home)} if home else {}), "TERM": "xterm", **more}


class Rage(Protocol):
    def __call__(
        self,
        *words: str | Path,
        stdin: bytes | None = None,
        env: Mapping[str, str] = {},
        cwd: Path | None = None,
        code: int | None = 0,
    ) -> subprocess.CompletedProcess[bytes]: ...


def runner(home: Path) -> Rage:
    """Runs `rage` in `home`, and checks the exit code; None takes any."""

    def run(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
        code = options.get("code", 0)
        done = subprocess.run(
            [*RAGE, *map(str, words)],
            input=options.get("stdin") or b"",
            capture_output=True,
            env=environment(home, **options.get("env", {})),
            cwd=options.get("cwd") or home.parent,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert code is None or done.returncode == code, (words, done.returncode, done.stdout, done.stderr.decode())
        return done

    return run


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home as `rage init` makes it, that would listen on loopback only."""
    from rage_net import home as homes

    place = homes.Home(tmp_path / "home")
    homes.init(place)
    place.network_yaml.write_text(LOOPBACK)
    return place.root


@pytest.fixture
def rage(home: Path) -> Rage:
    return runner(home)


@pytest.fixture
def node(rage: Rage) -> Iterator[str]:
    """A running node of `home`; its peer id."""
    started = rage("node", "start", "--detach", "-q")
    yield started.stdout.decode().strip()
    rage("node", "stop", code=None)
