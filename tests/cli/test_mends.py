"""What errors advise can be typed: every command in a `mend` exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from rage_cli._tree import TREE

ROOT = Path(__file__).parents[2]
COMMAND = re.compile(r"(?<!\w)rage (?:--home \S+ )?(?!-)([a-z]+)(?: ([a-z]+))?")


def advice(path: Path) -> Iterator[tuple[int, str]]:
    """The texts of every `mend=...`; what an f-string fills in stands as X."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.keyword) and node.arg == "mend":
            for text in ast.walk(node.value):
                if isinstance(text, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else "X" for part in text.values)
                    yield text.lineno, "".join(map(str, parts))
                elif isinstance(text, ast.Constant) and isinstance(text.value, str):
                    yield text.lineno, text.value


def said(path: Path) -> Iterator[tuple[int, str]]:
    """Texts that begin as a command to copy does, wherever they stand: checks and links are given theirs by place."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
            text = "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        if text.removeprefix("there: ").startswith("rage "):
            yield node.lineno, text


def test_every_command_that_a_check_or_a_link_advises_exists() -> None:
    commands = TREE[3]
    assert isinstance(commands, dict)
    found = 0
    for package in ("checkup", "diagnose"):
        for path in sorted((ROOT / "rage_net" / package).rglob("*.py")):
            for line, text in said(path):
                for noun, verb in COMMAND.findall(text):
                    found += 1
                    where = f"{path.relative_to(ROOT)}:{line}: {text!r}"
                    assert noun in commands, where
                    members = commands[noun][3]
                    assert not isinstance(members, dict) or verb in members, where
    assert found > 50


def test_every_command_that_an_error_advises_exists() -> None:
    commands = TREE[3]
    assert isinstance(commands, dict)
    found = 0
    for package in ("rage_net", "rage_cli"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for line, text in advice(path):
                for noun, verb in COMMAND.findall(text):
                    found += 1
                    where = f"{path.relative_to(ROOT)}:{line}: {text!r}"
                    assert noun in commands, where
                    members = commands[noun][3]
                    assert not isinstance(members, dict) or verb in members, where
    assert found > 50
