"""The real `rage` on a real pseudo-terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest
from conftest_cli import RAGE, environment

TIMEOUT_S = 30


class Terminal:
    """Starts `rage` on a terminal of 100 columns."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._children: list[Any] = []

    def __call__(self, *words: str, columns: int = 100, **env: str) -> Any:
        child = pexpect.spawn(
            RAGE[0],
            [*RAGE[1:], *words],
            env=environment(self._home, **env),
            cwd=str(self._home.parent),
            dimensions=(40, columns),
            timeout=TIMEOUT_S,
            encoding="utf-8",
        )
        self._children.append(child)
        return child

    def close(self) -> None:
        for child in self._children:
            child.close(force=True)


@pytest.fixture
def terminal(home: Path) -> Iterator[Terminal]:
    terminal = Terminal(home)
    yield terminal
    terminal.close()


def finish(child: Any) -> tuple[str, int]:
    """All it still says, and its exit code."""
    child.expect(pexpect.EOF)
    child.wait()
    return child.before, child.exitstatus
