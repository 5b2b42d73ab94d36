"""One failing job never ends the node, and what it logs is a line without secrets."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import random
from collections.abc import Iterator

import pytest

from rage_net.env import SystemEnv
from rage_net.errors import UnavailableError
from rage_net.guard import every, guard
from rage_net.log import LINE_CHARS_MAX, set_up
from rage_net.metrics import Metrics


async def fine() -> None:
    pass


async def down() -> None:
    raise UnavailableError("the peer is away")


async def broken() -> None:
    raise KeyError("a bug")


async def hang() -> None:
    await asyncio.Event().wait()


@pytest.mark.anyio
async def test_a_guard_counts_what_failed_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    assert await guard("gc", fine, metrics)
    assert not await guard("gc", down, metrics)
    assert not await guard("gc", broken, metrics)
    assert not await guard("scrub", hang, metrics, timeout_s=0.001)
    assert metrics.failures.read() == {("gc",): [2.0], ("scrub",): [1.0]}
    known, bug, late = caplog.records
    assert (known.levelname, known.exc_info) == ("WARNING", None)
    assert bug.levelname == "ERROR"
    assert bug.exc_info is not None
    assert "scrub failed" in late.message


@pytest.mark.anyio
async def test_a_guard_lets_cancellation_through() -> None:
    task = asyncio.create_task(guard("job", hang, Metrics()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.anyio
async def test_a_job_runs_again_after_it_failed_and_starts_at_a_random_time(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    runs: list[int] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await real(0)

    async def job() -> None:
        runs.append(len(runs))
        if len(runs) == 4:
            done.set()
        raise ValueError("again and again")

    done, metrics = asyncio.Event(), Metrics()
    monkeypatch.setattr(asyncio, "sleep", sleep)
    env = SystemEnv()
    env.random = random.Random(3)
    task = asyncio.create_task(every(60.0, job, name="job", env=env, metrics=metrics))
    await asyncio.wait_for(done.wait(), 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    env.close()
    assert waits[0] == random.Random(3).uniform(0, 60.0)
    assert waits[1:4] == [60.0, 60.0, 60.0]


@pytest.fixture
def root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, of_asyncio = root.handlers[:], root.level, logging.getLogger("asyncio").level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("asyncio").setLevel(of_asyncio)


def logged(style: str, message: str, *, secrets: tuple[str, ...] = (), error: BaseException | None = None) -> str:
    stream = io.StringIO()
    set_up(style, secrets=secrets, stream=stream)  # type: ignore[arg-type]
    logging.getLogger("rage.test").warning("%s", message, exc_info=error)
    return stream.getvalue()


@pytest.mark.usefixtures("root_logger")
def test_an_event_is_one_line_that_no_peer_can_break_or_colour() -> None:
    line = logged("text", "name\nforged line\r\x1b[31m\u202eevil\u2028\udcff")
    assert line.count("\n") == 1
    assert "warning rage.test: name\\nforged line\\x0d\\x1b[31m" in line
    assert all(char.isprintable() or char == "\n" for char in line)


@pytest.mark.usefixtures("root_logger")
def test_an_event_as_json_is_one_object_a_line() -> None:
    try:
        raise KeyError("why")
    except KeyError as error:
        event = json.loads(logged("json", 'a "b"\nc\udcff', error=error))
    assert (event["level"], event["logger"], event["message"]) == ("warning", "rage.test", 'a "b"\nc\\udcff')
    assert "KeyError" in event["trace"]
    assert event["time"].endswith("Z")


@pytest.mark.usefixtures("root_logger")
@pytest.mark.parametrize("style", ["text", "json"])
def test_secrets_are_masked_in_messages_and_tracebacks(style: str) -> None:
    secret = "tok-4711-sesame"
    try:
        raise ValueError(f"bad {secret}")
    except ValueError as error:
        text = logged(style, f"Bearer {secret}!", secrets=(secret, "a", "", secret[:8]), error=error)
    assert secret not in text
    assert "sesame" not in text
    assert "Bearer ***!" in text


@pytest.mark.usefixtures("root_logger")
def test_an_endless_message_is_cut() -> None:
    assert len(logged("text", "x" * (10 * LINE_CHARS_MAX))) < LINE_CHARS_MAX + 200
