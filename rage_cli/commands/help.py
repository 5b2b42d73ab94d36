"""rage help: topics, and any command's page."""

from __future__ import annotations

import difflib
import sys
from dataclasses import dataclass
from typing import Annotated

import typer

from rage_cli.command import noun, page
from rage_cli.error_pages import PAGES, classes
from rage_cli.exits import EXITS
from rage_cli.output import Column, render
from rage_net.errors import NotFoundError

app = noun("Explain exit codes, an error or a command.")


@dataclass(frozen=True, slots=True)
class ExitCode:
    """One exit code, what it means and what the caller does next."""

    code: int
    meaning: str
    next: str


@dataclass(frozen=True, slots=True)
class ExitCodes:
    """All of them."""

    items: tuple[ExitCode, ...]


@dataclass(frozen=True, slots=True)
class ErrorPage:
    """One error: `id` is what stands in `error[id]`."""

    id: str
    exit: int
    meaning: str
    next: str
    retryable: bool


@app.command()
@page(
    examples=(
        "rage help exit-codes",
        "rage help error not-found",
        "rage help chunk put",
        "rage help exit-codes --json",
    ),
    exits=(5,),
)
def help_(
    words: Annotated[list[str], typer.Argument(metavar="[TOPIC]...", help="exit-codes, error ID, or a command.")] = [],  # noqa: B006
) -> None:
    """Explain exit codes, an error, or a command."""
    match words:
        case ["exit-codes"]:
            _show_exit_codes()
        case ["error"]:
            _list_errors()
        case ["error", name]:
            _show_error(name)
        case _:
            _show_command(words)


def _show_exit_codes() -> None:
    columns = (
        Column("code", lambda it: it.code, "count"),
        Column("meaning", lambda it: it.meaning, "prose"),
        Column("next", lambda it: it.next, "prose"),
    )
    rows = tuple(ExitCode(code, meaning, then) for code, (meaning, then) in EXITS.items())
    render(ExitCodes(rows), columns, items=rows, identifier=lambda it: str(it.code))


@dataclass(frozen=True, slots=True)
class ErrorPages:
    """All of them."""

    items: tuple[ErrorPage, ...]


def _list_errors() -> None:
    columns = (
        Column("id", lambda it: it.id),
        Column("exit", lambda it: it.exit, "count"),
        Column("meaning", lambda it: it.meaning, "prose"),
    )
    rows = tuple(error_pages().values())
    render(ErrorPages(rows), columns, items=rows, identifier=lambda it: it.id)


def _show_error(name: str) -> None:
    columns = (
        Column("id", lambda it: it.id),
        Column("exit code", lambda it: it.exit, "count"),
        Column("meaning", lambda it: it.meaning),
        Column("next", lambda it: it.next),
        Column("retryable", lambda it: it.retryable),
    )
    pages = error_pages()
    if name not in pages:
        raise NotFoundError(
            f"no page for the error {name!r}",
            mend=[f"rage help error {near}" for near in difflib.get_close_matches(name, pages, 1)]
            or ["rage help error", "rage help exit-codes"],
        )
    render(pages[name], columns, identifier=lambda it: it.id)


def error_pages() -> dict[str, ErrorPage]:
    """Every error that has an id, in the order of the ids."""
    pages = {
        name: ErrorPage(name, kind.exit_code, meaning, then, kind.retryable)
        for name, (kind, meaning, then) in PAGES.items()
    }
    for name, kind in classes().items():  # a class says itself what it means
        meaning = " ".join((kind.__doc__ or "").partition("\n\n")[0].split())
        pages[name] = ErrorPage(name, kind.exit_code, meaning, EXITS[kind.exit_code][1], kind.retryable)
    return dict(sorted(pages.items()))


def _show_command(words: list[str]) -> None:
    """The help page of a command, as `--help` gives it."""
    from rage_cli.app import root

    command, context = root(), None
    context = command.context_class(command, info_name="rage")
    for word in words:
        found = command.get_command(context, word) if hasattr(command, "get_command") else None
        if found is None:
            raise NotFoundError(
                f"no topic or command {' '.join(words)!r}", mend=["rage --help", "rage help exit-codes"]
            )
        command, context = found, found.context_class(found, info_name=word, parent=context)
    sys.stdout.write(command.get_help(context) + "\n")
