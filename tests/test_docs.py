"""Every command, option, exit code, error, key and metric is documented, and what pages show is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rage_cli import reference
from rage_cli.app import root
from rage_cli.commands.help import error_pages
from rage_cli.exits import EXITS
from rage_cli.options import ENVIRONMENT
from rage_net import config
from rage_net.config.section import fields
from rage_net.metrics import Metrics

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reference.md").read_text("utf-8")
PAGES = (
    "CDN.md",
    "operators.md",
    "DISTRIBUTED_DEPLOYMENT.md",
    "FEDERATION_GUIDE.md",
    "REPLICATION.md",
    "SECURITY_ACL.md",
)
PROSE = [ROOT / "README.md", *(ROOT / "docs" / name for name in PAGES)]
COMMANDS = {" ".join(words): (command, context) for words, command, context in reference.commands(root(), ("rage",))}


GLOBAL = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE.partition("### rage")[0]))


def options_of(name: str | None) -> set[str]:
    """Options that a command takes, the global ones among them; of no command: any that there is."""
    if name is None:
        return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE))
    command, context = COMMANDS[name]
    return GLOBAL | {option for param in command.get_params(context) for option in (*param.opts, *param.secondary_opts)}


def test_the_reference_is_fresh() -> None:
    assert reference.reference() == PAGE, "stale: run `make docs`"


def test_every_command_and_option_is_in_the_reference() -> None:
    assert len(COMMANDS) > 25
    for words, (command, context) in COMMANDS.items():
        assert f"### {words}\n" in PAGE
        for param in command.get_params(context):
            if param.param_type_name == "option":
                assert re.search(rf"`[^`\n]*{re.escape(max(param.opts, key=len))}\b[^`\n]*`", PAGE), (words, param.opts)


def test_every_exit_code_error_and_variable_is_in_the_reference() -> None:
    for row in [*map(str, EXITS), *error_pages(), *ENVIRONMENT, *config.ENVIRONMENT]:
        assert f"| `{row}` |" in PAGE, row


def test_every_configuration_key_has_a_meaning() -> None:
    found = [
        row for name in ("Network", "Cdn", "Replication") for row in reference.keys(getattr(reference, name), name)
    ]
    assert len(found) > 100
    for key, _, meaning in found:
        assert meaning.endswith("."), key
        assert f"| `{key[0].lower()}{key[1:]}` |" in PAGE


def test_every_key_of_the_shipped_files_is_in_the_reference() -> None:
    """Keys are commented out by a bare `#`; prose has a blank behind it."""
    known = set(re.findall(r"^\| `[\w.\[\]]*?(\w+)(?:\[\])?` \|", PAGE, re.M))
    known |= {part for key in re.findall(r"^\| `([\w.\[\]]+)` \|", PAGE, re.M) for part in re.split(r"[.\[\]]+", key)}
    for path in sorted((ROOT / "config").glob("*.yaml")):
        for key in re.findall(r"^\s*#?(?:- )?([a-z_]+):(?: |$)", path.read_text("utf-8"), re.M):
            assert key in known, f"{path.name}: {key}"


def test_every_metric_is_in_the_reference() -> None:
    for family in Metrics()._families:
        assert f"| `{family.name}` | {family.kind} |" in PAGE


def test_every_field_of_a_section_is_reached() -> None:
    top = {key.split(".")[1].removesuffix("[]") for key, _, _ in reference.keys(reference.Network, "network")}
    assert top == set(fields(reference.Network))


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_what_the_pages_show_exists(path: Path) -> None:
    """Commands, options, metrics, keys and links that stand in prose."""
    text = path.read_text("utf-8")
    nouns = root().members
    shown = 0
    for line in re.findall(r"(?<![\w/.-])rage ((?:--home \S+ )?[a-z][^`|\n\],;<]*)", text):
        words = [word for word in re.sub(r"--home \S+ ", "", line).split() if re.fullmatch(r"[a-z][a-z-]*", word)]
        if words and words[0] in nouns:
            shown += 1
            names = [f"rage {' '.join(words[:count])}" for count in (3, 2, 1)]
            name = next((name for name in names if name in COMMANDS), None)
            known = name is not None or len(words) == 1 or any(one.startswith(f"{names[1]} ") for one in COMMANDS)
            assert known, line
            for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", line.partition("#")[0]):
                assert option in options_of(name), (option, line)
    assert shown > 10
    for metric in re.findall(r"\brage_[a-z_]+", text):
        assert f"`{metric}" in PAGE or metric in ("rage_cli", "rage_net"), metric
    for key in re.findall(r"`(network\.[a-z_.]+)`", text):
        assert f"`{key}" in PAGE, key
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in link or (path.parent / link).exists(), link


def test_every_test_that_the_page_on_reliability_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "reliability.md").read_text("utf-8")))
    there = {
        name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert len(named) > 50
    assert not named - there


def test_the_first_screen_of_the_readme_holds_the_two_commands_that_do_all() -> None:
    first = (ROOT / "README.md").read_text("utf-8").splitlines()[:40]
    assert any(line.startswith("$ make demo") for line in first) and any(
        line.startswith("$ make test") for line in first
    )
    assert any("chunk put" in line for line in first) and any("chunk get" in line for line in first)
