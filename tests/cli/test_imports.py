"""What a command loads decides how fast it starts; a clock would only tell how busy the machine is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest_cli import environment
from conftest_engine import FakeEngine, answer_all

from rage_net.cdn.journal import Journal

HEAVY = {"rich", "yaml", "msgspec", "asyncio", "httpx", "aiohttp", "cryptography", "blake3", "zstandard", "google"}
TYPER = {"typer", "click", "dataclasses", "json", "inspect", "pathlib"}

REPLICATION = [
    ["replication", "status"],
    ["replication", "audit", "--prove"],
    ["replication", "plan"],
    ["replication", "repair", "--yes"],
    ["replication", "drain", "x", "--dry-run"],
    ["replication", "policy", "list"],
    ["replication", "policy", "test", "x"],
]

NETWORK = [
    *REPLICATION,
    ["peer", "list", "--state", "known"],
    ["peer", "discover"],
    ["peer", "find", "x"],
    ["peer", "ban", "x", "--for", "1h"],
    ["peer", "unban", "x"],
    ["chunk", "providers", "x"],
    ["topic", "list"],
    ["topic", "tail", "t"],
    ["topic", "publish", "t", "-"],
    ["dht", "table"],
    ["dht", "find", "x"],
    ["dht", "providers", "x"],
    ["dht", "trace", "x"],
    ["discovery", "list"],
    ["discovery", "list", "--peers"],
    ["discovery", "register"],
    ["why", "x"],
]

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


@pytest.mark.parametrize("form", ["auto", "ndjson"])
@pytest.mark.parametrize("words", NETWORK, ids=" ".join)
def test_commands_of_the_network_are_as_light(home: Path, engine: FakeEngine, words: list[str], form: str) -> None:
    answer_all(engine)
    loaded = modules(home, *words, "--format", form)
    assert not loaded & HEAVY
    assert engine.asked, "the node was not asked at all"


def test_each_noun_loads_the_verbs_it_needs_and_no_others(home: Path, engine: FakeEngine) -> None:
    answer_all(engine)
    for words, needed in (
        (["topic", "list"], {"topic"}),
        (["dht", "table"], {"dht"}),
        (["discovery", "list"], {"discovery"}),
        (["peer", "list"], {"peer"}),
        (["why", "x"], {"diagnose"}),
        (["replication", "status"], {"replication"}),
    ):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, env=environment(home), check=True
        )
        loaded = {name.split(".")[2] for name in done.stdout.split() if name.startswith("rage_net.verbs.")}
        assert loaded == needed, words


def test_a_status_that_tells_of_cdns_loads_none_of_their_clients(home: Path) -> None:
    edge = '{name: varnish, type: self-hosted, config: {endpoints: ["http://127.0.0.1:9"]}}'
    keys = "{name: cloudfront, type: commercial, config: {distribution_id: E1}}"
    (home / "config" / "cdn.yaml").write_text(f"cdn: {{providers: [{edge}, {keys}]}}\n")
    Journal(home / "cdn.db").close()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "status"], capture_output=True, text=True, env=environment(home), check=True
    )
    loaded = set(done.stdout.split())
    assert "rage_net.cdn.glance" in loaded
    assert not {name.split(".")[0] for name in loaded} & {"httpx", "boto3", "botocore"}
    assert not loaded & {"rage_net.cdns", "rage_net.cdn.varnish", "rage_net.cdn.cloudfront"}
