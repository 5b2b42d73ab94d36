"""Ctrl-C, SIGTERM and `--timeout` end what waits for somebody else; a node that cannot end is ended."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from .conftest import RAGE, Home, Homes

WITHIN_S = 10
"""Far below the times that these commands would else wait: 30 s for the lock, for ever for a pipe."""
EXITS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@contextmanager
def running(home: Home, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command whose stdin stays quiet and whose stdout nobody reads."""
    command = [*RAGE, "--home", str(home.path), *words]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=home.environ
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_lock(home: Home, process: subprocess.Popen[bytes]) -> None:
    """Until the command holds the home."""
    note = home.path / "node.lock"
    while not (note.exists() and note.read_text()):
        assert process.poll() is None
        os.sched_yield()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_put_of_a_quiet_stdin_ends_at_a_signal(homes: Homes, number: signal.Signals) -> None:
    home = homes.new()
    with running(home, "chunk", "put", "-") as put:
        wait_for_lock(home, put)
        put.send_signal(number)
        assert put.wait(WITHIN_S) == EXITS[number]
    assert home.ok("chunk", "list")["documents"] == []


def test_a_put_of_a_quiet_stdin_ends_at_its_timeout(homes: Homes) -> None:
    with running(homes.new(), "chunk", "put", "-", "--timeout", "0.3s") as put:
        assert put.wait(WITHIN_S) == 124


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_waits_for_the_lock_ends_at_a_signal(homes: Homes, number: signal.Signals) -> None:
    home = homes.new()
    with (home.path / "node.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with running(home, "chunk", "list", "-vv", "--timeout", "60s") as waiting:
            while not _waits_for(waiting.pid, home.path / "node.lock"):
                assert waiting.poll() is None
                os.sched_yield()
            waiting.send_signal(number)
            assert waiting.wait(WITHIN_S) == EXITS[number]


def _waits_for(pid: int, path: os.PathLike[str]) -> bool:
    """Whether a process has a file open."""
    fds = f"/proc/{pid}/fd"
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    try:
        return any(os.path.realpath(f"{fds}/{fd}") == os.path.realpath(path) for fd in os.listdir(fds))
    except OSError:
        return False


def test_a_get_whose_reader_is_stuck_ends_at_a_signal(homes: Homes) -> None:
    home = homes.new()
    root = home.ok("chunk", "put", "-", data=bytes(8 << 20))["root"]
    with running(home, "chunk", "get", root) as get:
        assert get.stdout is not None
        assert select.select([get.stdout], [], [], 30)[0]
        get.send_signal(signal.SIGTERM)
        assert get.wait(WITHIN_S) == 143


HANGS = """
import sys, threading
import rage_net.node
from rage_net.chunk.store import ChunkStore

rage_net.node.STOP_WITHIN_S = 0.5
ChunkStore.close = lambda self: threading.Event().wait()
sys.argv = ["rage", *sys.argv[1:]]
from rage_cli.__main__ import main
main()
"""


def test_a_node_that_cannot_end_is_ended_within_the_time_it_promised(homes: Homes) -> None:
    home = homes.new()
    words = ["--home", str(home.path), "--json", "node", "start", "--listen", "/ip4/127.0.0.1/tcp/0"]
    with subprocess.Popen(
        [sys.executable, "-c", HANGS, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=home.environ
    ) as node:
        try:
            assert node.stdout is not None and node.stdout.readline()
            node.send_signal(signal.SIGTERM)
            assert node.wait(WITHIN_S) == 143
        finally:
            node.kill()
