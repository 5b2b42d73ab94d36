"""Commands that print as things come: promptly, to readers that are slow or leave, until a signal or a deadline."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest_cli import RAGE, Rage, environment
from conftest_engine import ALICE, CID, FOUND, HOPS, LOOK_UP, MESSAGES, WAYS, FakeEngine
from test_terminal import Terminal, finish

import rage_net.engine
from rage_cli import session
from rage_cli.options import options
from rage_net.errors import DeadlineError, IntegrityError
from rage_net.verbs import Verb, dht, peer, topic

TIMEOUT_S = 20.0
RESULT = topic.TailTopicResult("t", 2, 0)


class Running:
    """A `rage` that runs, with pipes."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._children: list[subprocess.Popen[bytes]] = []

    def __call__(self, *words: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [*RAGE, *words], stdout=stdout, stderr=subprocess.PIPE, env=environment(self._home), bufsize=0
        )
        self._children.append(child)
        return child

    def close(self) -> None:
        for child in self._children:
            child.kill()
            child.communicate(timeout=TIMEOUT_S)


@pytest.fixture
def running(home: Path) -> Iterator[Running]:
    running = Running(home)
    yield running
    running.close()


WORDS: list[tuple[list[str], bytes]] = [
    (["topic", "tail", "t"], ALICE.encode()),
    (["topic", "tail", "t", "--json"], b'"kind": "TopicMessage"'),
    (["topic", "tail", "t", "-q"], f"{ALICE}/7".encode()),
    (["dht", "trace", CID], ALICE.encode()),
    (["dht", "trace", CID, "--format", "ndjson"], b'"kind": "Hop"'),
    (["peer", "discover"], ALICE.encode()),
]


def told_then_quiet(engine: FakeEngine) -> None:
    engine.answer(topic.TailTopic, RESULT, *MESSAGES, then="wait")
    engine.answer(dht.TraceLookUp, LOOK_UP, *HOPS, then="wait")
    engine.answer(peer.DiscoverPeers, peer.DiscoverPeersResult(FOUND, WAYS), *FOUND, then="wait")


@pytest.mark.parametrize(("words", "first"), WORDS, ids=[" ".join(words) for words, _ in WORDS])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_record_is_there_at_once_and_a_signal_ends_it_quietly(
    running: Running, engine: FakeEngine, words: list[str], first: bytes, number: int, code: int
) -> None:
    told_then_quiet(engine)
    child = running(*words)
    assert child.stdout is not None
    assert first in child.stdout.readline()
    child.stdout.readline()
    child.send_signal(number)
    rest, errors = child.communicate(timeout=TIMEOUT_S)
    assert (child.returncode, rest, errors) == (code, b"", b"")
    assert engine.cancelled.wait(TIMEOUT_S), "the node went on for nobody"


def test_the_deadline_ends_it_after_what_came(rage: Rage, engine: FakeEngine) -> None:
    told_then_quiet(engine)
    done = rage("topic", "tail", "t", "--timeout", "500ms", code=124)
    assert done.stdout.count(b"\n") == 2
    assert done.stderr.startswith(b"error[deadline]: the node did not finish within 0.5 s")
    assert engine.cancelled.wait(TIMEOUT_S)


def test_a_reader_that_leaves_ends_it_quietly_with_141(home: Path, engine: FakeEngine) -> None:
    engine.answer(topic.TailTopic, RESULT, *(replace(MESSAGES[0], sequence=n) for n in range(1000)), then="wait")
    line = f"{' '.join(RAGE)} topic tail t | head -3; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, env=environment(home), timeout=TIMEOUT_S, check=True
    )
    assert done.stdout.count(ALICE.encode()) == 3
    assert (done.stdout.splitlines()[-1], done.stderr) == (b"141", b"")
    assert engine.cancelled.wait(TIMEOUT_S)


def test_a_pipe_that_nobody_reads_holds_up_neither_node_nor_signal(running: Running, engine: FakeEngine) -> None:
    """The command is stuck in a full pipe: the node drops the oldest, Ctrl-C still works."""
    big = replace(MESSAGES[0], data="x" * 60_000)
    engine.answer(topic.TailTopic, RESULT, *(replace(big, sequence=n) for n in range(1000)), then="wait")
    reader, writer = os.pipe()
    child = running("topic", "tail", "t", "--json", stdout=writer)
    os.close(writer)
    assert engine.told.wait(TIMEOUT_S)
    with os.fdopen(reader, "rb") as out:
        out.read(1)  # it has begun to write, and what it writes is more than a pipe holds
        child.send_signal(signal.SIGINT)
        assert child.wait(TIMEOUT_S) == 130
    assert engine.cancelled.wait(TIMEOUT_S)


def test_a_slow_reader_sees_the_newest_and_is_told_of_the_gap(running: Running, engine: FakeEngine) -> None:
    big = replace(MESSAGES[0], data="x" * 60_000)
    engine.answer(
        topic.TailTopic, topic.TailTopicResult("t", 1000, 0), *(replace(big, sequence=n) for n in range(1000))
    )
    child = running("topic", "tail", "t", "--json")
    assert engine.told.wait(TIMEOUT_S)
    out, errors = child.communicate(timeout=TIMEOUT_S)
    assert child.returncode == 0
    numbers = [json.loads(line)["sequence"] for line in out.splitlines()]
    gaps = [json.loads(line) for line in errors.splitlines()]
    assert gaps and all(gap["type"] == "dropped" for gap in gaps)
    assert numbers[-1] == 999 and len(numbers) + sum(gap["count"] for gap in gaps) == 1000


def test_what_was_dropped_is_said_in_words_to_a_person(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(options, "format", "auto")
    session._say_dropped(7)
    assert capsys.readouterr().err == "... 7 dropped here: the reader is too slow\n"


@pytest.mark.parametrize("columns", [80, 100, 300])
@pytest.mark.parametrize("words", [["topic", "tail", "t"], ["dht", "trace", CID], ["peer", "discover"]], ids=" ".join)
def test_on_a_terminal_they_are_rows_that_fit_it_under_one_head(
    home: Path, engine: FakeEngine, words: list[str], columns: int
) -> None:
    engine.answer(topic.TailTopic, RESULT, *(replace(one, text="words " * 60) for one in MESSAGES))
    engine.answer(dht.TraceLookUp, LOOK_UP, *HOPS)
    engine.answer(peer.DiscoverPeers, peer.DiscoverPeersResult(FOUND, WAYS), *FOUND)
    terminal = Terminal(home)
    try:
        shown, code = finish(terminal(*words, "--color", "never", columns=columns))
    finally:
        terminal.close()
    assert code == 0
    lines = [line.rstrip() for line in shown.splitlines()]
    assert all(len(line) <= columns for line in lines), shown
    heads = [line for line in lines if line == line.upper() and line]
    assert len(heads) == 1 and lines.index(heads[0]) == 0
    assert sum("12D3" in line for line in lines) == 2
    said = {"topic": "2 messages", "dht": "12 asked, 1 failed, 3 deep", "peer": "server: 1 found after 200 ms"}[
        words[0]
    ]
    assert any(said in line for line in lines)


class TestHere:
    """Without a node: the engine runs in the command's own process."""

    @pytest.fixture(autouse=True)
    def _engine(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        for name, value in vars(type(options)()).items():
            monkeypatch.setattr(options, name, value)
        monkeypatch.setattr(options, "home", str(home))
        self.fake = FakeEngine()

        @asynccontextmanager
        async def opened(*_: Any, **__: Any) -> AsyncIterator[FakeEngine]:
            yield self.fake

        monkeypatch.setattr(rage_net.engine.Engine, "open", opened)

    def run(self, verb: Verb[Any], seen: list[Any]) -> Any:
        return session.run(verb, on_item=seen.append)

    def test_items_come_before_the_result(self) -> None:
        seen: list[Any] = []
        self.fake.answer(dht.TraceLookUp, LOOK_UP, *HOPS)
        assert self.run(dht.TraceLookUp(CID), seen) == LOOK_UP
        assert seen == list(HOPS)

    def test_an_error_comes_after_the_items(self) -> None:
        seen: list[Any] = []
        self.fake.answer(dht.TraceLookUp, IntegrityError("rotten"), *HOPS)
        with pytest.raises(IntegrityError):
            self.run(dht.TraceLookUp(CID), seen)
        assert seen == list(HOPS)

    def test_a_reader_that_leaves_ends_the_verb(self) -> None:
        def leave(item: Any) -> None:
            raise BrokenPipeError

        self.fake.answer(dht.TraceLookUp, LOOK_UP, *HOPS, then="wait")
        with pytest.raises(BrokenPipeError):
            session.run(dht.TraceLookUp(CID), on_item=leave)
        assert self.fake.cancelled.is_set()

    def test_the_deadline_ends_the_verb(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[Any] = []
        monkeypatch.setattr(options, "timeout_s", 0.05)
        self.fake.answer(dht.TraceLookUp, LOOK_UP, *HOPS, then="wait")
        with pytest.raises(DeadlineError):
            self.run(dht.TraceLookUp(CID), seen)
        assert seen == list(HOPS) and self.fake.cancelled.is_set()
