"""Processes that benchmarks start and end: commands, homes and nodes of rage, servers that say a line when ready.

Only processes started here are ended, through their own handles.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

RAGE = str(Path(sys.executable).with_name("rage"))
END_S = 15.0

QUIET_HOME = """\
network:
  version: 1
  http:
    listen: null
    metrics_listen: null
  libp2p:
    mdns:
      enabled: false
"""
"""Two nodes on one machine cannot both have the default HTTP ports, and are not to meet by themselves."""


class FailedError(Exception):
    """A command that a benchmark ran failed: what it said."""


def environment(**more: str) -> dict[str, str]:
    """What a command needs of ours, and nothing that changes how it behaves."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    return {**kept, **more}


def seconds(command: Sequence[str | Path], env: Mapping[str, str] | None = None, cwd: Path | None = None) -> float:
    """How long a whole process takes. Raises FailedError."""
    started = time.perf_counter()
    done = subprocess.run(
        command, env=env or environment(), cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, check=False,
    )  # fmt: skip
    took = time.perf_counter() - started
    if done.returncode:
        raise FailedError(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stderr.decode()}")
    return took


def output(command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> str:
    """What a command prints on stdout. Raises FailedError."""
    done = subprocess.run(command, env=env or environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        raise FailedError(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stderr.decode()}")
    return done.stdout.decode().strip()


@contextmanager
def server(
    command: Sequence[str | Path], cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Iterator[tuple[str, int]]:
    """A process that serves until its stdin ends or SIGTERM comes: the line it prints when ready, and its id."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, cwd=cwd, env=env or environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=errors, text=True,
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        try:
            line = process.stdout.readline().strip()
            if not line:
                process.wait(END_S)
                errors.seek(0)
                raise FailedError(f"{' '.join(map(str, command))}: {errors.read().decode()}")
            yield line, process.pid
        finally:
            process.stdin.close()
            process.terminate()
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


def make_home(path: Path) -> Path:
    """A fresh home of rage whose node opens no HTTP ports."""
    output([RAGE, "--home", path, "init"])
    (path / "config" / "network.yaml").write_text(QUIET_HOME)
    return path


def put(home: Path, path: Path) -> str:
    """Put a public document; gives its root."""
    return output([RAGE, "--home", home, "-q", "chunk", "put", path, "--visibility", "public"])


@dataclass(frozen=True, slots=True)
class Node:
    """A running node: where to reach it, its process."""

    address: str
    pid: int


@contextmanager
def node(home: Path) -> Iterator[Node]:
    """A node on loopback."""
    with server([RAGE, "--home", home, "node", "start", "--listen", "/ip4/127.0.0.1/tcp/0"]) as (line, pid):
        peer_id, address = line.split("\t")[:2]
        address = address.split(",")[0].strip()
        yield Node(address if "/p2p/" in address else f"{address}/p2p/{peer_id}", pid)
