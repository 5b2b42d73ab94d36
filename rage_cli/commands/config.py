"""rage config: what holds, where it came from, and what is wrong. Works on files alone: needs no store and no node."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rage_cli import session
from rage_cli.command import noun, page
from rage_cli.options import options
from rage_cli.output import Column, is_json, render, say
from rage_cli.text import safe
from rage_net.errors import ConfigError

if TYPE_CHECKING:
    from rage_net.config.audit import CheckResult, Row
    from rage_net.config.migrate import MigratedFile

app = noun("Show, check and migrate the configuration.")

EXIT_INVALID = 10


@dataclass(frozen=True, slots=True)
class Config:
    """The values that hold."""

    items: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class ConfigPath:
    """One file of the configuration."""

    name: str
    path: str
    exists: bool


@dataclass(frozen=True, slots=True)
class ConfigPaths:
    """The files of the configuration."""

    items: tuple[ConfigPath, ...]


@dataclass(frozen=True, slots=True)
class ConfigMigration:
    """The files that set something; one that was not older has no backup."""

    items: tuple[MigratedFile, ...]
    dry_run: bool


VALUE = (Column("key", lambda row: row.key), Column("value", lambda row: _shown(row.value)))
ORIGIN = (*VALUE, Column("origin", lambda row: row.origin))
PATH = (
    Column("name", lambda row: row.name),
    Column("path", lambda row: row.path),
    Column("exists", lambda row: row.exists),
)
MIGRATION = (
    Column("path", lambda row: row.path),
    Column("from", lambda row: row.from_version),
    Column("to", lambda row: row.to_version),
    Column("backup", lambda row: row.backup),
)


@app.command()
@page(
    examples=(
        "rage config show",
        "rage config show --origin network.libp2p",
        "rage config show network.region -q --json | jq -r '.items[0].value'    # in CI",
    ),
    exits=(5, 10),
)
def show(
    key: Annotated[str, typer.Argument(metavar="[KEY]", help="A key, or what it stands under.")] = "",
    origin: Annotated[bool, typer.Option("--origin", help="Where each value came from.")] = False,
) -> None:
    """Show every value that holds, secrets masked."""
    from rage_net.config import audit

    rows = audit.show(session.home().root, environ=os.environ, file=network_file(), prefix=key)
    render(Config(rows), ORIGIN if origin else VALUE, items=rows, identifier=lambda row: row.key)


@app.command()
@page(
    examples=(
        "rage config check",
        "rage config check --json | jq '.problems[]'",
        "rage config check deploy/network.yaml deploy/cdn.yaml    # in CI: 10 stops the job, file:line is in the log",
    ),
    exits=(10,),
)
def check(
    files: Annotated[list[str] | None, typer.Argument(metavar="[FILE]...", help="Files instead; - is stdin.")] = None,
) -> None:
    """Check all configuration files, and say every problem with file, line, key and how to mend it."""
    from rage_net.config import audit

    home = session.home().root
    if files:
        one = [
            audit.check_file(Path(name), stdin_octets() if name == "-" else None, home=home, environ=os.environ)
            for name in files
        ]
        result = audit.CheckResult(
            tuple(file for part in one for file in part.files), tuple(p for part in one for p in part.problems)
        )
    else:
        result = audit.check(home, environ=os.environ, file=network_file())
    show_check(result)
    if not result.is_valid:
        raise typer.Exit(EXIT_INVALID)


@app.command()
@page(
    examples=(
        "rage config path",
        "$EDITOR $(rage config path -q | head -1)    # network.yaml comes first",
        "rage config path --json    # in CI: which files there are",
    )
)
def path() -> None:
    """Show where the configuration files are."""
    from rage_net import config

    home = session.home()
    network = network_file() or home.network_yaml
    try:
        found = config.load(home.root, environ=os.environ, file=network_file(), files=False).network
    except ConfigError:  # an invalid file must not hide its own path
        found = config.defaults(home.root).network
    places = {
        "network": network,
        "cdn": found.cdn.providers_config_file,
        "replication": found.replication.policies_file,
    }
    rows = tuple(ConfigPath(name, str(place), place.exists()) for name, place in places.items())
    render(ConfigPaths(rows), PATH, items=rows, identifier=lambda row: row.path)


@app.command()
@page(
    examples=("rage config migrate --dry-run", "rage config migrate", "rage config migrate --json    # in CI"),
    exits=(4, 10, 11),
)
def migrate() -> None:
    """Rewrite older configuration files for this version; comments stay, and a copy of each is kept."""
    from rage_net import config
    from rage_net.config.migrate import migrate as migrate_file

    home = session.home().root
    file = network_file()
    network = config.load(home, environ=os.environ, file=file, files=False).network
    places = {
        "network": file or session.home().network_yaml,
        "cdn": network.cdn.providers_config_file,
        "replication": network.replication.policies_file,
    }
    done = [
        migrate_file(place, root, environ=os.environ, home=home, dry_run=options.dry_run)
        for root, place in places.items()
    ]
    rows = tuple(row for row in done if row is not None)
    render(ConfigMigration(rows, options.dry_run), MIGRATION, items=rows, identifier=lambda row: row.path)
    say("dry run: nothing was written" if options.dry_run else "done")


def network_file() -> Path | None:
    """The network.yaml that `--config` names, from where the user stands."""
    return Path(options.config).expanduser().absolute() if options.config else None


def stdin_octets() -> bytes:
    """A file that comes by stdin: one octet more than may be read is enough to refuse it."""
    from rage_net.config.values import FILE_BYTES_MAX

    return sys.stdin.buffer.read(FILE_BYTES_MAX + 1)


def _shown(value: object) -> object:
    if value is None:
        return "null"
    return {"": '""', (): "[]"}.get(value, value) if isinstance(value, str | tuple) else value


def show_check(result: CheckResult) -> None:
    """JSON as everywhere; else a line a problem, `FILE:LINE: KEY: what`, which editors and CI logs understand."""
    if is_json():
        render(result, (), identifier=str)
        return
    for problem in result.problems:
        level = "" if problem.is_error else "warning: "
        sys.stdout.write(safe(f"{level}{problem}") + "\n")
        if problem.mend:
            sys.stdout.write(safe(f"    mend: {problem.mend}") + "\n")
    for file in result.files:
        bad = any(problem.is_error and problem.file == file.path for problem in result.problems)
        state = "invalid" if bad else "valid" if file.exists else "not there, defaults hold"
        say(f"{file.path}: {state}")
