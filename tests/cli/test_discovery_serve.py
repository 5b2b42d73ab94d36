"""rage discovery serve: a process with a home of its own, as the command line starts, finds and ends it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from conftest_cli import RAGE, Rage, environment
from test_terminal import Terminal, finish

TIMEOUT_S = 20.0
SERVE = ["discovery", "serve", "--listen", "127.0.0.1:0"]


@pytest.fixture
def server(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        [*RAGE, *SERVE, "--json"], env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    yield child
    child.kill()
    child.communicate(timeout=TIMEOUT_S)


def test_it_says_where_it_serves_and_does(rage: Rage, server: subprocess.Popen[bytes]) -> None:
    assert server.stdout is not None
    ready = json.loads(server.stdout.readline())
    assert ready["kind"] == "DiscoveryStatus" and ready["peer_id"] == rage("node", "id", "-q").stdout.decode().strip()
    with urllib.request.urlopen(f"{ready['http'][0]}/api/v1/network/bootstrap", timeout=TIMEOUT_S) as answer:
        assert json.load(answer)["peers"] == []
    refused = rage(*SERVE, code=9).stderr.decode()
    assert "error[home-locked]" in refused and "discovery server (pid" in refused
    server.send_signal(signal.SIGTERM)
    rest, _ = server.communicate(timeout=TIMEOUT_S)
    assert (rest, server.returncode) == (b"", 0)


def test_at_a_terminal_it_is_one_line_and_ctrl_c_ends_it(home: Path) -> None:
    terminal = Terminal(home)
    try:
        child = terminal(*SERVE, columns=40)
        child.expect(r"(12D3KooW\w{44})  http://127.0.0.1:\d+\r\n")
        child.sendintr()
        shown, code = finish(child)
    finally:
        terminal.close()
    assert code == 0, shown
    assert isinstance(child, pexpect.spawn)


def test_a_port_that_is_taken_is_named(rage: Rage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = rage("discovery", "serve", "--listen", f"127.0.0.1:{port}", code=7)
    assert f"127.0.0.1:{port}" in found.stderr.decode() and b"error[listen-failed]" in found.stderr
    assert found.stdout == b""


def test_without_a_home_it_says_how_to_make_one(rage: Rage) -> None:
    assert b"error[home-missing]" in rage("--home", "nowhere", *SERVE, code=5).stderr


@pytest.mark.parametrize(("option", "mend"), [("--listen", "127.0.0.1:4090")])
def test_a_bad_address_is_usage(rage: Rage, option: str, mend: str) -> None:
    found = rage("discovery", "serve", option, "4090", code=2).stderr.decode()
    assert found.startswith(f"error[usage]: {option}: HOST:PORT is wanted")
    assert found.endswith(f"mend: rage discovery serve {option} {mend}\n")
