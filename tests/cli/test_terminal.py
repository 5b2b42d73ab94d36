"""What a person at a terminal sees, on a real pseudo-terminal."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pexpect
import pytest
from conftest_cli import RAGE, Rage, environment
from conftest_terminal import Terminal, finish


def test_the_answer_is_a_table(rage: Rage, terminal: Terminal) -> None:
    rage("chunk", "put", "-", "--name", "a.txt", stdin=b"x" * 2048)
    shown, code = finish(terminal("chunk", "list", "--color", "never"))
    assert code == 0
    head, row = shown.splitlines()
    assert head.split() == ["NAME", "SIZE", "CHUNKS", "VISIBILITY", "CREATED"]
    assert row.split()[:5] == ["a.txt", "2.0", "KiB", "1", "org"]


@pytest.mark.parametrize("columns", [40, 80, 300])
def test_a_number_is_never_cut(rage: Rage, terminal: Terminal, columns: int) -> None:
    rage("chunk", "put", "-", "--name", "n" * 100, stdin=b"x" * 2048)
    shown, _ = finish(terminal("chunk", "list", "--color", "never", columns=columns))
    assert "2.0 KiB" in shown and all(len(line) <= columns for line in shown.splitlines())


def test_a_nodes_addresses_are_shown_whole_and_ctrl_c_ends_it(terminal: Terminal) -> None:
    child = terminal("node", "start", columns=60)
    child.expect(r"(12D3KooW\w{44})  /ip4/127.0.0.1/tcp/\d+/p2p/(12D3KooW\w{44})\r\n")
    assert child.match[1] == child.match[2]
    child.sendintr()
    assert finish(child)[1] == 0


def test_no_color_is_honoured(rage: Rage, terminal: Terminal) -> None:
    rage("chunk", "put", "-", "--name", "a", stdin=b"x")
    assert "\x1b[1m" in finish(terminal("chunk", "list"))[0]
    assert "\x1b[" not in finish(terminal("chunk", "list", NO_COLOR="1"))[0]
    assert "\x1b[" not in finish(terminal("nosuch", NO_COLOR="1"))[0]
    assert "\x1b[1;31merror[usage]\x1b[0m" in finish(terminal("nosuch"))[0]


@pytest.mark.parametrize(("answer", "code", "left"), [("y", 0, 0), ("n", 2, 1), ("", 2, 1)])
def test_a_removal_asks_first(rage: Rage, terminal: Terminal, answer: str, code: int, left: int) -> None:
    rage("chunk", "put", "-", "--name", "a", stdin=b"x")
    child = terminal("chunk", "rm", "a")
    child.expect_exact("Remove a, which lets 1 B go? [y/N] ")
    child.sendline(answer)
    assert finish(child)[1] == code
    assert len(rage("chunk", "list").stdout.splitlines()) == left


def test_ctrl_c_at_a_question_changes_nothing(rage: Rage, terminal: Terminal) -> None:
    rage("chunk", "put", "-", "--name", "a", stdin=b"x")
    child = terminal("chunk", "rm", "a")
    child.expect_exact("[y/N] ")
    child.sendintr()
    assert finish(child)[1] == 130
    assert rage("chunk", "list").stdout


@pytest.mark.parametrize("command", [["chunk", "rm", "a"], ["chunk", "gc"]], ids=" ".join)
def test_without_a_terminal_nothing_asks_and_yes_is_wanted(rage: Rage, command: list[str]) -> None:
    rage("chunk", "put", "-", "--name", "a", stdin=b"x")
    assert b"this needs --yes" in rage(*command, code=2).stderr
    assert rage("chunk", "list").stdout
    rage(*command, "--dry-run")
    assert rage("chunk", "list").stdout
    rage(*command, "--yes")


def test_bytes_are_never_written_to_a_terminal(rage: Rage, terminal: Terminal) -> None:
    rage("chunk", "put", "-", "--name", "a", stdin=b"\x1b]secret")
    shown, code = finish(terminal("chunk", "get", "a"))
    assert code == 2 and "error" in shown and "secret" not in shown


def test_a_get_to_a_file_says_in_words_what_came(rage: Rage, terminal: Terminal, tmp_path: Path) -> None:
    rage("chunk", "put", "-", "--name", "a", stdin=b"x")
    shown, code = finish(terminal("chunk", "get", "a", "-o", "out"))
    assert code == 0 and "out: 1 B in" in shown and "1 from local" in shown
    assert (tmp_path / "out").read_bytes() == b"x"


def test_a_bar_shows_rate_and_time_left_and_is_gone_at_the_end(terminal: Terminal, tmp_path: Path) -> None:
    """The source is a pipe we feed, so that the put waits for us and not for a clock."""
    os.mkfifo(tmp_path / "slow")
    child = terminal("chunk", "put", "slow")
    with (tmp_path / "slow").open("wb", buffering=0) as pipe:
        for _ in range(300):
            pipe.write(os.urandom(65536))
            if child.expect([r"slow  [\d.]+ [KM]iB  [\d.]+ [KM]iB/s", pexpect.TIMEOUT], timeout=0.05) == 0:
                break
        else:
            raise AssertionError("no bar was drawn")
    shown, code = finish(child)
    assert code == 0
    assert "/s" not in shown.rpartition("\r\x1b[K")[2], "the bar is still there"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_put_cleanly_and_records_nothing(
    rage: Rage, home: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    os.mkfifo(tmp_path / "endless")
    put = subprocess.Popen(
        [*RAGE, "chunk", "put", "endless"], env=environment(home), cwd=tmp_path, stderr=subprocess.PIPE
    )
    # Opens when the command reads: it is at work. Unbuffered, as what is left would be written when it is closed.
    with (tmp_path / "endless").open("wb", buffering=0) as pipe:
        for _ in range(640):  # 40 MiB, more than it buffers: it has begun to store
            pipe.write(os.urandom(65536))
        put.send_signal(number)
        with pytest.raises(BrokenPipeError):
            for _ in range(16_384):  # a GiB: it must not end by reading all of it
                pipe.write(b"x" * 65536)
    assert put.wait(30) == code
    assert put.stderr is not None and put.stderr.read() == b""
    put.stderr.close()
    assert rage("chunk", "list").stdout == b""
