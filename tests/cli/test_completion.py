"""Completion: the generated files are fresh, the answers right, and the real shells show them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pexpect
import pytest
from conftest_cli import RAGE, Rage, environment, runner

from rage_cli import complete
from rage_cli.completions import files
from rage_net import home as homes
from rage_net.config.network import Gossipsub
from rage_net.verbs.diagnose import DOCTOR_CHECKS

COMPLETIONS = Path(__file__).parent.parent.parent / "completions"


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_a_generated_file_is_fresh(path: Path) -> None:
    assert path.read_text("utf-8") == files()[path], "stale: run `make completions`"


def words(*line: str) -> list[str]:
    return [candidate.partition("\t")[0] for candidate in complete.candidates(list(line))]


def test_commands_and_their_members_are_offered() -> None:
    assert {"chunk", "node", "peer", "status"} <= set(words(""))
    assert words("chunk", "p") == ["put", "providers", "pin"]
    assert words("node", "service", "") == ["print"]
    assert words("chunk", "nosuch", "") == []


def test_options_are_offered_own_ones_first() -> None:
    assert words("chunk", "put", "--v") == ["--visibility"]
    assert words("chunk", "put", "--ver") == ["--version"]
    assert words("--js") == ["--json"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (["--format", ""], ["auto", "table", "json", "ndjson", "id"]),
        (["chunk", "put", "--visibility", "p"], ["public", "private"]),
        (["chunk", "put", "--visibility=p"], ["--visibility=public", "--visibility=private"]),
        (["--json", "chunk", "put", ""], [":files"]),
        (["chunk", "put", "--", "-x"], [":files"]),
        (["--home", ""], [":dirs"]),
        (["chunk", "get", "x", "-o", ""], [":files"]),
        (["chunk", "put", "one", ""], []),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["chunk", "put", "--name", ""], []),
        (["chunk", "get", "x", "--from", "local,p"], ["local,p2p"]),
        (["peer", "discover", "--via", ""], ["server", "dht", "mdns"]),
        (["peer", "discover", "--via=server,m"], ["--via=server,mdns"]),
        (["peer", "list", "--state", "s"], ["suspect"]),
        (["doctor", "--fail-on", ""], ["warning", "error"]),
        (["doctor", "--only", "d"], ["disk", "discovery", "dht"]),
        (["topic", "tail", ""], ["rage.acl.updates", "rage.global"]),
        (["topic", "publish", "rage.global", ""], [":files"]),
        (["dht", "t"], ["table", "trace"]),
        (["replication", "policy", ""], ["list", "test", "lint"]),
        (["replication", "policy", "lint", ""], [":files"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_values_are_offered_by_their_kind(line: list[str], found: list[str]) -> None:
    assert words(*line) == found


def test_documents_and_roots_complete_from_the_index(rage: Rage, home: Path) -> None:
    root = rage("chunk", "put", "-", "--name", "report.md", "-q", stdin=b"x").stdout.decode().strip()
    rage("chunk", "put", "-", "--name", "other.md", stdin=b"y")
    assert words("--home", str(home), "chunk", "get", "") == ["other.md", "report.md"]
    assert words("--home", str(home), "chunk", "get", "rep") == ["report.md"]
    for length in (4, 7, 8, 20, 58, 59):
        assert words(f"--home={home}", "chunk", "stat", root[:length])[-1] == root or length < 20
        assert root in words(f"--home={home}", "chunk", "stat", root[:length])


def test_known_peers_complete_from_their_file(home: Path) -> None:
    homes.Home(home).peers.write_text(
        "12D3KooWabc 17 /ip4/192.0.2.1/tcp/4001\n12D3KooWxyz 16 /dns4/a/tcp/1,/ip4/192.0.2.2/tcp/2\n"
    )
    assert words("--home", str(home), "peer", "ping", "12D3KooWx") == ["12D3KooWxyz"]
    assert words("--home", str(home), "peer", "connect", "/ip4") == [
        "/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWabc",
        "/ip4/192.0.2.2/tcp/2/p2p/12D3KooWxyz",
    ]


def test_what_may_be_a_document_or_a_peer_completes_from_both(rage: Rage, home: Path) -> None:
    root = rage("chunk", "put", "-", "--name", "report.md", "-q", stdin=b"x").stdout.decode().strip()
    homes.Home(home).peers.write_text("12D3KooWabc 17 /ip4/192.0.2.1/tcp/4001\n")
    at = ["--home", str(home)]
    assert words(*at, "why", "") == ["report.md", "12D3KooWabc"]
    assert words(*at, "why", "1") == ["12D3KooWabc"]
    assert words(*at, "dht", "find", "") == ["12D3KooWabc"]  # which takes no names
    assert words(*at, "dht", "trace", root[:8]) == [root]
    (home / "index.db").write_bytes(b"garbage")
    assert words(*at, "why", "") == ["12D3KooWabc"]


def test_nodes_and_policies_complete(home: Path) -> None:
    at = ["--home", str(home), "replication"]
    homes.Home(home).peers.write_text("12D3KooWabc 17 /ip4/192.0.2.1/tcp/4001\n")
    assert words(*at, "drain", "") == words(*at, "replace", "12D") == ["12D3KooWabc"]
    assert words(*at, "drain", "12D3KooWabc", "") == []
    file = home / "config" / "replication.yaml"
    file.write_text('replication:\n  policies:\n    - name: "legal"   # five\n      factor: 5\n    - name: short\n')
    assert words(*at, "audit", "--policy", "") == ["legal", "short", "default"]
    assert words(*at, "audit", "--policy=s") == ["--policy=short"]
    file.unlink()
    assert words(*at, "audit", "--policy", "") == []


def test_what_is_written_down_twice_is_the_same() -> None:
    assert complete.CHECKS == DOCTOR_CHECKS
    assert set(complete.TOPICS) <= set(Gossipsub().topics)


@pytest.mark.parametrize(
    ("flag", "environ"),
    [
        ("", {"HOME": "/u"}),
        ("~/x", {"HOME": "/u"}),
        ("x", {}),
        ("", {"RAGE_HOME": "/r"}),
        ("", {"XDG_DATA_HOME": "/d", "HOME": "/u"}),
        ("", {"XDG_DATA_HOME": "rel", "HOME": "/u"}),
    ],
)
def test_the_home_is_where_everything_else_finds_it(
    flag: str, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "HOME" in environ:
        monkeypatch.setenv("HOME", environ["HOME"])
    assert complete.home_directory(flag, environ) == str(homes.locate(flag or None, environ).root)


def test_a_home_with_odd_characters_completes_too(tmp_path: Path) -> None:
    home = tmp_path / "50% #1?mode=rw"
    rage = runner(home)
    rage("init")
    rage("chunk", "put", "-", "--name", "a.md", stdin=b"x")
    assert words("--home", str(home), "chunk", "get", "") == ["a.md"]


@pytest.mark.parametrize("break_it", ["no home", "no index", "garbage", "locked"])
def test_whatever_is_wrong_the_answer_is_empty_and_silent(rage: Rage, home: Path, break_it: str) -> None:
    match break_it:
        case "no home":
            shutil.rmtree(home)
        case "garbage":
            (home / "index.db").write_bytes(os.urandom(5000))
        case "locked":
            import sqlite3

            holder = sqlite3.connect(home / "index.db")
            holder.execute("CREATE TABLE document (name TEXT, size INTEGER, root BLOB)")
            holder.execute("BEGIN EXCLUSIVE")
    done = rage("__complete", "chunk", "get", "")
    assert (done.stdout, done.stderr) == (b"", b"")
    if break_it == "locked":
        holder.close()


def need(shell: str) -> str:
    path = shutil.which(shell)
    if path is None:
        assert os.environ.get("CI") != "true", f"{shell} is missing in CI"
        pytest.skip(f"{shell} is not installed")
    return path


@pytest.fixture
def shell_env(home: Path, tmp_path: Path) -> dict[str, str]:
    """An environment in which `rage` is this checkout's."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "rage"
    program.write_text(f'#!/bin/sh\nexec {" ".join(RAGE)} "$@"\n')
    program.chmod(0o755)
    (tmp_path / "paper one.md").touch()
    (tmp_path / "paper-two.md").touch()
    return environment(home, PATH=f"{program.parent}:{os.environ['PATH']}", HOME=str(tmp_path))


LINES = [
    ("rage chu", ["chunk"]),
    ("rage chunk pu", ["put"]),
    ("rage chunk put --visibility p", ["public", "private"]),
    ("rage chunk get rep", ["report.md"]),
    ("rage chunk put pap", ["paper one.md", "paper-two.md"]),
]

BASH = """
source "$1"; cd "$2"
COMP_LINE="$3"; COMP_POINT=${#3}; read -r -a COMP_WORDS <<< "$3"; COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
compopt() { :; }
_rage rage
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(("line", "found"), LINES, ids=[line for line, _ in LINES])
def test_bash_completes(rage: Rage, shell_env: dict[str, str], tmp_path: Path, line: str, found: list[str]) -> None:
    rage("chunk", "put", "-", "--name", "report.md", stdin=b"x")
    done = subprocess.run(
        [need("bash"), "-c", BASH, "bash", COMPLETIONS / "rage.bash", tmp_path, line],
        capture_output=True,
        text=True,
        env=shell_env,
        check=True,
    )
    assert sorted(done.stdout.splitlines()) == sorted(found), done.stderr


def test_bash_at_a_real_prompt(rage: Rage, shell_env: dict[str, str], tmp_path: Path) -> None:
    """Readline's own view: words with `=` and `:` cut, names with blanks quoted."""
    child = spawn([need("bash"), "--norc", "--noprofile", "-i"], shell_env, tmp_path)
    child.sendline(f"source {COMPLETIONS / 'rage.bash'}; bind 'set enable-bracketed-paste off'; echo rea''dy")
    child.expect("ready")
    for typed, shown in (("rage sta", "tus"), ("rage --format=js", "on"), ("rage chunk put paper\\ o", "ne.md")):
        child.send(f"{typed}\t")
        child.expect_exact(shown)
        child.sendcontrol("u")
    child.close(force=True)


@pytest.mark.parametrize(("line", "found"), LINES, ids=[line for line, _ in LINES])
def test_fish_completes(rage: Rage, shell_env: dict[str, str], tmp_path: Path, line: str, found: list[str]) -> None:
    rage("chunk", "put", "-", "--name", "report.md", stdin=b"x")
    done = subprocess.run(
        [need("fish"), "--no-config", "-c", f"source {COMPLETIONS / 'rage.fish'}; complete -C '{line}'"],
        capture_output=True,
        text=True,
        env=shell_env,
        cwd=tmp_path,
        check=True,
    )
    candidates = [candidate.partition("\t")[0].replace("\\ ", " ") for candidate in done.stdout.splitlines()]
    assert sorted(candidates) == sorted(found), done.stderr


@pytest.mark.parametrize(
    ("typed", "shown"),
    [("rage chu", "nk"), ("rage chunk pu", "t"), ("rage chunk get rep", "ort.md"), ("rage chunk put paper-", "two.md")],
)
def test_zsh_completes(rage: Rage, shell_env: dict[str, str], tmp_path: Path, typed: str, shown: str) -> None:
    rage("chunk", "put", "-", "--name", "report.md", stdin=b"x")
    child = spawn([need("zsh"), "-f", "-i"], {**shell_env, "ZDOTDIR": str(tmp_path)}, tmp_path)
    child.sendline(f"fpath=({COMPLETIONS} $fpath); autoload -U compinit; compinit -u -D; PS1='> '; echo rea''dy")
    child.expect("ready")
    child.send(f"{typed}\t")
    child.expect_exact(shown)
    child.close(force=True)


def spawn(command: list[str], env: dict[str, str], cwd: Path) -> Any:
    return pexpect.spawn(
        command[0], command[1:], env=env, cwd=str(cwd), timeout=20, encoding="utf-8", dimensions=(24, 200)
    )


def test_the_command_prints_the_shipped_script(rage: Rage) -> None:
    for shell, name in complete.SCRIPTS.items():
        assert rage("completion", shell).stdout == (COMPLETIONS / name).read_bytes()


def test_it_runs_without_site_packages() -> None:
    """Standard library only: no third-party module is needed to answer."""
    root = str(COMPLETIONS.parent)
    code = f"import sys; sys.path.insert(0, {root!r}); sys.argv = ['rage', '__complete', 'chunk', 'pu']; "
    code += "from rage_cli.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("put\t")
