"""Start-up of whole processes, as ratios to `python -c pass` with the same interpreter."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import documents
from bench.measure import Result, Setting, alternate
from bench.processes import RAGE, environment, make_home, put, seconds

ROW = "start-up"
RUNS_A_ROUND = 10
"""A start takes milliseconds; so many runs a round make the median steady."""
ACCEPT_S = 20.0


def run(setting: Setting) -> Iterator[Result]:
    home = make_home(setting.directory / "startup")
    small = setting.directory / "startup.md"
    documents.write_text(small, 10_000)
    put(home, small)
    env = environment(RAGE_HOME=str(home))

    def milliseconds(*command: str) -> float:
        return 1e3 * seconds(command, env)

    # The checkout's own path may be too long for a socket.
    with tempfile.TemporaryDirectory(prefix="rage-") as short, socket.socket(socket.AF_UNIX) as node:
        listening = make_home(Path(short) / "home")
        node.bind(str(listening / "node.sock"))
        node.listen(8)
        node.settimeout(ACCEPT_S)
        samples = alternate(
            {
                "python -c pass": lambda: milliseconds(sys.executable, "-c", "pass"),
                "rage --version": lambda: milliseconds(RAGE, "--version"),
                "completion of a command": lambda: milliseconds(RAGE, "__complete", "chunk", "g"),
                "completion of a document": lambda: milliseconds(RAGE, "__complete", "chunk", "get", "start"),
                "rage chunk list, to the node": lambda: _until_asked(node, listening),
                "rage --help": lambda: milliseconds(RAGE, "--help"),
            },
            setting.rounds * RUNS_A_ROUND,
        )
    targets = {
        "rage --version": 1.3,
        "completion of a command": 2.5,
        "completion of a document": 2.5,
        "rage chunk list, to the node": 7.0,
        "rage --help": 8.0,
    }
    for what, target in targets.items():
        yield Result(ROW, what, "ms", samples[what], "at most", target, "python -c pass", samples["python -c pass"])


def _until_asked(node: socket.socket, home: Path) -> float:
    """Milliseconds from the start of a command to its whole request at the node's socket; then the command is ended."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [RAGE, "--home", home, "chunk", "list"], env=environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        connection, _ = node.accept()
        with connection:
            connection.settimeout(ACCEPT_S)
            data = b""
            while not data.endswith(b"}"):
                received = connection.recv(65536)
                if not received:
                    raise AssertionError("the command left before its request was sent")
                data += received
            return 1e3 * (time.perf_counter() - started)
    finally:
        process.kill()
        process.wait()
