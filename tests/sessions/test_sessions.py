"""Shell sessions against the real `rage`: each `*.txt` beside this file is one, run from top to bottom.

    # a comment
    $ a line of bash                what stands after `$ ` is run, in one home and one directory for the whole file
    what it prints                  stdout and stderr, in the order they came; `[exit 5]` last where it is not 0

Placeholders stand for what varies: `<cid>` `<manifest>` `<peer>` `<doc>` `<int>` `<float>` `<size>` `<home>` `<any>`
(the rest of a line). The second and later uses of `<name=kind>` must equal the first, so that a session can tell that
what was put is what comes out.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cdn.servers import need

HERE = Path(__file__).parent
SCRIPT = HERE.parents[1] / "scripts" / "rage"
"""What is installed as `rage`."""
TIMEOUT_S = 60.0

KINDS = {
    "cid": r"bafkr4i[a-z2-7]{52}",
    "manifest": r"bafyr4i[a-z2-7]{52}",
    "peer": r"12D3KooW[1-9A-HJ-NP-Za-km-z]{44}",
    "doc": r"[a-z2-7]{26}",
    "int": r"\d+",
    "float": r"\d+(?:\.\d+)?(?:e-\d+)?",
    "size": r"[\d.]+ [KMGT]?i?B",
    "home": r"/\S*?/home",
    "any": r".*",
}
NEEDS = re.compile(r"Needs (\w+)\.")
"""In a session's first line: a program without which it is skipped, and fails in CI."""
PLACEHOLDER = re.compile(rf"<(?:(\w+)=)?({'|'.join(KINDS)})>")


def steps(text: str) -> Iterator[tuple[int, str, list[str]]]:
    """Line number, command, expected lines."""
    found: list[tuple[int, str, list[str]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("$ "):
            found.append((number, line[2:], []))
        elif found and not line.startswith("#"):
            found[-1][2].append(line)
    for number, command, expected in found:
        while expected and not expected[-1].strip():
            expected.pop()
        yield number, command, expected


def pattern(line: str, known: dict[str, str]) -> str:
    """A regular expression for an expected line; names seen before stand for what they were."""
    out, at = "", 0
    for match in PLACEHOLDER.finditer(line):
        out += re.escape(line[at : match.start()])
        name, kind = match.groups()
        if name is None:
            out += KINDS[kind]
        elif name in known:
            out += re.escape(known[name])
        else:
            out += f"(?P<{name}>{KINDS[kind]})"
        at = match.end()
    return out + re.escape(line[at:])


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment with `rage` of this checkout and a home of its own; nodes left running are stopped."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "work").mkdir()
    program = tmp_path / "bin" / "rage"
    program.write_text(SCRIPT.read_text("utf-8").replace("#!python", f"#!{sys.executable} -P", 1))
    program.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAGE_")}
    env = {**kept, "RAGE_HOME": str(tmp_path / "home"), "PATH": f"{program.parent}:{os.environ['PATH']}", "LC_ALL": "C"}
    env |= {"PWD": str(tmp_path / "work")}
    yield env
    for left in (tmp_path / "work").glob("*.pid"):
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.kill(int(left.read_text()), signal.SIGTERM)
    for key in tmp_path.rglob("identity.key"):
        words = [program, "--home", key.parent, "node", "stop"]
        subprocess.run(words, env=env, capture_output=True, timeout=TIMEOUT_S, check=False)


@pytest.mark.parametrize("path", sorted(HERE.glob("*.txt")), ids=lambda path: path.stem)
def test_session(path: Path, shell: dict[str, str]) -> None:
    text = path.read_text("utf-8")
    for program in NEEDS.findall(text.partition("\n")[0]):
        need(program, os.environ.get("CI") == "true")
    known: dict[str, str] = {}
    variables = Path(shell["PWD"]) / ".variables"
    variables.touch()
    for number, command, expected in steps(text):
        # One bash a step, which takes over the variables of the one before: each step's output is its own.
        script = (
            f"source {variables}; {{ {command}\n}} 2>&1; code=$?; declare -p root 2>/dev/null >{variables}; exit $code"
        )
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", script],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env=shell,
            cwd=shell["PWD"],
            timeout=TIMEOUT_S,
            check=False,
        )
        lines = done.stdout.decode("utf-8", "replace").splitlines()
        lines += [f"[exit {done.returncode}]"] if done.returncode else []
        where = f"{path.name}:{number}: $ {command}"
        assert len(lines) == len(expected), f"{where}\nprinted:\n" + "\n".join(lines)
        for line, wanted in zip(lines, expected, strict=True):
            match = re.fullmatch(pattern(wanted, known), line)
            assert match, f"{where}\n  wanted:  {wanted}\n  printed: {line}"
            known |= match.groupdict()


def test_a_session_that_prints_something_else_fails(tmp_path: Path) -> None:
    assert not re.fullmatch(pattern("a <int> b", {}), "a x b")
    assert not re.fullmatch(pattern("<r=cid>", {"r": "bafkr4i" + "a" * 52}), "bafkr4i" + "b" * 52)
