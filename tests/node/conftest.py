"""Real `rage` processes on loopback, each in a home of its own, ended by their ids."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

RAGE = [sys.executable, "-m", "rage_cli"]
READY_S = 30
NETWORK = """\
network:
  version: 1
  http: {listen: "127.0.0.1:0", metrics_listen: "127.0.0.1:0"}
  libp2p: {mdns: {enabled: false}}
"""
"""Nodes of other tests on this machine are not to be met."""


class Home:
    """A home, the commands in it, and its node if one runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.node: subprocess.Popen[str] | None = None
        self.environ = {name: text for name, text in os.environ.items() if not name.startswith("RAGE_")}

    def run(self, *words: str, data: bytes | None = None, timeout: float = 60) -> subprocess.CompletedProcess[bytes]:
        command = [*RAGE, "--home", str(self.path), *words]
        return subprocess.run(command, input=data, capture_output=True, timeout=timeout, env=self.environ, check=False)

    def ok(self, *words: str, data: bytes | None = None) -> Any:
        done = self.run(*words, "--json", data=data)
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    def init(self, config: str = "") -> None:
        self.ok("init")
        (self.path / "config" / "network.yaml").write_text(NETWORK + config)

    def start(self, *words: str) -> dict[str, Any]:
        """Start the node and wait for its line; its status."""
        command = [
            *RAGE,
            "--home",
            str(self.path),
            "--json",
            "node",
            "start",
            "--listen",
            "/ip4/127.0.0.1/tcp/0",
            *words,
        ]
        log = (self.path / "node.err").open("ab")
        self.node = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=self.environ)
        log.close()
        assert self.node.stdout is not None
        line = self.node.stdout.readline()
        assert line, (self.path / "node.err").read_text()
        return json.loads(line)  # type: ignore[no-any-return]

    def stop(self, number: int = signal.SIGTERM, timeout: float = 15) -> int:
        assert self.node is not None and self.node.stdout is not None
        self.node.send_signal(number)
        code = self.node.wait(timeout)
        self.node.stdout.close()
        self.node = None
        return code


class Homes:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._made: list[Home] = []

    def new(self, config: str = "", name: str = "") -> Home:
        home = Home(self._directory / (name or f"home{len(self._made)}"))
        self._made.append(home)
        home.init(config)
        return home

    def close(self) -> None:
        for home in self._made:
            if home.node is not None:
                home.stop(signal.SIGKILL)


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[Homes]:
    made = Homes(tmp_path)
    try:
        yield made
    finally:
        made.close()


def errors(done: subprocess.CompletedProcess[bytes]) -> Sequence[str]:
    return done.stderr.decode().splitlines()
