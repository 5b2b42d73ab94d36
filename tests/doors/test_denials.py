"""The record of denials: bounded whatever happens, written off the loop, and never the reason that a node fails."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rage_net import denials
from rage_net.denials import Denials
from rage_net.env import SystemEnv
from rage_net.metrics import Metrics

pytestmark = pytest.mark.anyio


class Clock(SystemEnv):
    at = 1000.0

    def monotonic(self) -> float:
        return self.at


@pytest.fixture
async def env() -> AsyncIterator[Clock]:
    made = Clock()
    yield made
    made.close()


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_a_flood_of_one_principal_is_counted_and_leaves_the_others_their_records(
    env: Clock, tmp_path: Path
) -> None:
    metrics, path = Metrics(), tmp_path / "denials.jsonl"
    log = Denials(path, env, metrics)
    for _ in range(100_000):
        log.note("chunk", "peer:flood", "chunk:x", "no")
    log.note("chunk", "peer:other", "chunk:y", "no")
    env.at += 60
    log.note("chunk", "peer:flood", "chunk:x", "no")
    await log.close()
    found = read(path)
    assert len(found) == denials.OWN_BURST + 2
    assert found[-2]["who"] == "peer:other"
    assert found[-1]["suppressed"] == 100_000 - denials.OWN_BURST
    assert metrics.denied.read() == {("chunk",): [100_002.0]}


async def test_a_flood_of_fresh_principals_has_one_allowance_and_no_memory(env: Clock, tmp_path: Path) -> None:
    path = tmp_path / "denials.jsonl"
    log = Denials(path, env, Metrics())
    for number in range(10_000):
        log.note("chunk", f"peer:{number}", "chunk:x", "no")
    await log.close()
    assert len(read(path)) == denials.BURST
    assert len(log._own) == denials.PRINCIPALS_MAX


async def test_files_take_turns_and_the_oldest_goes(
    env: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denials, "FILE_BYTES_MAX", 1000)
    path = tmp_path / "denials.jsonl"
    for number in range(40):
        denials.append(path, f"{number:0100}\n".encode())
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["denials.jsonl", "denials.jsonl.1", "denials.jsonl.2", "denials.jsonl.3"]
    lines = [int(line) for name in (*names[:0:-1], names[0]) for line in (tmp_path / name).read_text().splitlines()]
    assert lines == list(range(40 - len(lines), 40))
    assert all(file.stat().st_size <= 1000 and file.stat().st_mode & 0o777 == 0o600 for file in tmp_path.iterdir())


async def test_what_strangers_say_cannot_write_a_second_line_or_a_long_one(env: Clock, tmp_path: Path) -> None:
    path = tmp_path / "denials.jsonl"
    log = Denials(path, env, Metrics())
    log.note("http", 'user:a/x\n{"door": "forged"}', "x" * 100_000, "\u2028")
    await log.close()
    (record,) = read(path)
    assert record["door"] == "http" and len(path.read_bytes()) < 2000


async def test_a_file_that_cannot_be_written_is_told_once_and_harms_nobody(
    env: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics()
    log = Denials(tmp_path / "absent" / "denials.jsonl", env, metrics)
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            log.note("chunk", "peer:a", "chunk:x", "no")
            await log._write()
    await log.close()
    assert metrics.failures.read() == {("denials",): [2.0]}
    assert len([record for record in caplog.records if record.name == "rage.denials"]) == 1


async def test_a_link_in_the_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "denials.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        denials.append(tmp_path / "denials.jsonl", b"line\n")
    assert not (tmp_path / "elsewhere").exists()
