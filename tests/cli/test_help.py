"""Every command's page: one sentence, examples that are true, exit codes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from rage_cli.app import NOUNS, root
from rage_cli.command import Command, Group, _summary
from rage_cli.exits import EXITS


def walk(command: Any, words: tuple[str, ...], parent: Any = None) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    context = command.context_class(command, info_name=words[-1], parent=parent)
    yield words, command, context
    if isinstance(command, Group):
        for name in command.members:
            yield from walk(command.get_command(context, name), (*words, name), context)


ALL = list(walk(root(), ("rage",)))
COMMANDS = [(words, command, context) for words, command, context in ALL if isinstance(command, Command)]
PAGES = pytest.mark.parametrize(
    ("words", "command", "context"), COMMANDS, ids=[" ".join(words) for words, *_ in COMMANDS]
)


def test_the_tree_holds_every_command_of_this_step() -> None:
    found = {" ".join(words[1:]) for words, *_ in COMMANDS}
    wanted = {
        *("init", "status", "why", "doctor", "demo", "completion", "help"),
        *(f"node {verb}" for verb in ("start", "stop", "status", "id", "service print")),
        *(
            f"chunk {verb}"
            for verb in ["put", "get", "list", "stat", "rm", "verify", "pin", "unpin", "gc", "export", "import", "cid"]
        ),
        "chunk providers",
        *(f"peer {verb}" for verb in ("list", "connect", "ping", "info", "discover", "find", "ban", "unban")),
        *(f"dht {verb}" for verb in ("table", "find", "providers", "trace")),
        *(f"topic {verb}" for verb in ("list", "tail", "publish")),
        *(f"discovery {verb}" for verb in ("serve", "list", "register")),
        *(f"replication {verb}" for verb in ("status", "audit", "plan", "repair", "drain", "replace", "rebalance")),
        *(f"replication policy {verb}" for verb in ("list", "test", "lint")),
        *(f"config {verb}" for verb in ("show", "check", "path", "migrate")),
    }
    assert wanted <= found


@PAGES
def test_a_page_begins_with_one_sentence(words: tuple[str, ...], command: Any, context: Any) -> None:
    sentence = _summary(command.help)
    assert sentence[0].isupper() and sentence.endswith(".") and ". " not in sentence
    assert context.command.get_help(context).replace("\n", " ").startswith(sentence)


@PAGES
def test_a_page_has_three_examples_before_its_options(words: tuple[str, ...], command: Any, context: Any) -> None:
    examples = command.callback.__dict__["examples"]
    assert len(examples) >= 3
    page = command.get_help(context)
    assert page.index("Examples:") < page.index("Usage:")
    assert all(example in page for example in examples)


@PAGES
def test_exit_codes_on_a_page_are_in_the_table(words: tuple[str, ...], command: Any, context: Any) -> None:
    codes = command.callback.__dict__["exits"]
    assert list(codes) == sorted(set(codes))
    assert set(codes) <= set(EXITS) - {0, 1, 2, 124, 130}
    assert all(EXITS[code][0].split()[0] in command.get_help(context) for code in codes)


@PAGES
def test_every_option_says_what_it_does(words: tuple[str, ...], command: Any, context: Any) -> None:
    for param in command.params:
        assert param.help, (words, param.name)
        assert param.help[0].isupper() or param.help.startswith("exit-codes"), param.help


def example_commands() -> Iterator[Any]:
    groups = [(words, group.examples) for words, group, _ in ALL if isinstance(group, Group)]
    for words, examples in [*((w, c.callback.__dict__["examples"]) for w, c, _ in COMMANDS), *groups]:
        for example in examples:
            for part in re.split(r"\|\||&&|[|;]|\$\(|\)|<\(|#.*", example):
                if (at := part.find("rage ")) >= 0 and "xargs" not in part:  # which adds an argument
                    yield pytest.param(
                        shlex.split(part[at:].replace('"', "").replace("]", "")), id=f"{words[-1]}: {part}"
                    )


@pytest.mark.parametrize("line", list(example_commands()))
def test_an_example_parses(line: list[str]) -> None:
    """Redirections aside, each `rage ...` of an example has a command and options that exist."""
    context, command = None, root()
    words = [word for word in line[1:] if word not in (">", "<")]
    context = command.make_context("rage", list(words))
    while isinstance(command, Group):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        extra = {"allow_extra_args": True, "allow_interspersed_args": True}
        context = command.make_context(name, rest, parent=context, **(extra if isinstance(command, Command) else {}))


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_no_line_is_wider_than_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for words, command, context in ALL:
        examples = command.examples if isinstance(command, Group) else command.callback.__dict__["examples"]
        for line in command.get_help(context).splitlines():
            if line.strip() not in examples and "Global options:" not in line and not line.startswith("  rage"):
                assert len(line) <= columns, (words, line)


def test_the_root_page_needs_no_group_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} was loaded for the list of commands")

    monkeypatch.setattr(importlib, "import_module", refuse)
    command = root()
    page = command.get_help(command.context_class(command, info_name="rage"))
    assert all(f"  {noun}" in page for noun in NOUNS)


@pytest.mark.parametrize("noun", NOUNS)
def test_the_line_in_the_root_page_is_the_groups_own(noun: str) -> None:
    command = root()
    found = command.get_command(command.context_class(command, info_name="rage"), noun)
    assert NOUNS[noun] if isinstance(found, Command) else found.help == NOUNS[noun]
