"""What a command loads decides how fast it starts; a clock would only tell how busy the machine is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest_cli import environment

HEAVY = {"rich", "yaml", "msgspec", "asyncio", "httpx", "aiohttp", "cryptography", "blake3", "zstandard", "google"}
TYPER = {"typer", "click", "dataclasses", "json", "inspect", "pathlib"}

PROGRAM = """
import os, sys
def leave(code): raise SystemExit(code)
os._exit = leave
sys.argv = ["rage", *sys.argv[1:]]
sys.stdout, out = open(os.devnull, "w"), sys.stdout
try:
    from rage_cli.__main__ import main
    main()
except SystemExit:
    pass
print("\\n".join(sys.modules), file=out)
"""


def modules(home: Path, *words: str) -> set[str]:
    """The top-level modules that a run of `rage` has loaded."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, env=environment(home), check=True
    )
    return {name.split(".")[0] for name in done.stdout.split()} | {"rage_cli._full"} & set(done.stdout.split())


@pytest.mark.parametrize("words", [["--version"], ["__complete", "chunk", "put", "--vis"]], ids=["version", "complete"])
def test_the_fastest_paths_load_the_bare_minimum(tmp_path: Path, words: list[str]) -> None:
    assert not modules(tmp_path, *words) & (HEAVY | TYPER | {"sqlite3", "re", "rage_net.errors"})


def test_completing_documents_loads_sqlite_alone(home: Path) -> None:
    assert not modules(home, "__complete", "chunk", "get", "b") & (HEAVY | TYPER - {"pathlib"})


@pytest.mark.parametrize("words", [["--help"], ["chunk", "--help"], ["chunk", "put", "--help"], ["help", "exit-codes"]])
def test_help_loads_no_engine_and_no_rich(tmp_path: Path, words: list[str]) -> None:
    assert not modules(tmp_path, *words) & HEAVY


@pytest.mark.parametrize(
    "words",
    [
        ["status", "--json"],
        ["chunk", "list"],
        ["chunk", "get", "missing"],
        ["chunk", "put", "-"],
        ["peer", "list"],
        ["node", "status"],
        ["node", "stop"],
    ],
    ids=" ".join,
)
def test_the_way_to_a_node_is_the_standard_library_and_typer(home: Path, node: str, words: list[str]) -> None:
    assert not modules(home, *words) & HEAVY
