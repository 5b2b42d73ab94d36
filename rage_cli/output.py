"""How results are shown, by rules that tests hold.

- stdout is the answer and nothing else; words, prompts, progress, logs and errors go to stderr.
- On a terminal the answer is a table, with sizes and times for people. Piped it is tab-separated, one line a record, no
  header, raw numbers (bytes, seconds): the columns are those of the table, in its order, wide ones included.
- `--json` is one object with `kind` and `v`; `--format ndjson` one such object a line; `-q` one identifier a line. What
  a record itself calls its kind (chunk or manifest, heartbeat or announcement) is `what` there.
  Within one `v` fields may be added, never changed. What is shown as it comes is in `rows`.
- Text from elsewhere (names, agents) never moves the cursor of a terminal nor breaks a line of tab-separated output.
- A question is asked on a terminal only, on stderr; elsewhere `--yes` is wanted, exit 2 without it.
- `rich` is imported only when a table is drawn.

Source: design 4.5.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rage_cli import text
from rage_cli.options import options
from rage_net.errors import UsageError
from rage_net.verbs import encode

if TYPE_CHECKING:
    from rich.console import Console

VERSION = 1
"""`v` of every JSON object."""

PIPED_TABLE_COLUMNS = 240
"""`--format table` without a terminal: wide enough that nothing is cut."""

WIDE_COLUMNS_MIN = 120
"""Columns that a terminal needs for wide columns to be shown."""

GAP = 2
"""Blanks between columns."""
BEGINNINGS = ("12D3KooW", "bafkr4i", "bafyr4i", "/chunks/", "/ipfs/")
"""Of peer ids, CIDs and their paths: they all begin alike, so that one which is cut keeps its end."""
TEXT_COLUMNS_MIN = 8
"""A word cut shorter than this says nothing."""
PLIANT_COLUMNS_MIN = 16
"""Prose, CIDs and peer ids give way first, down to this: the one folds, the others keep the end by which they differ,
while of a name that is cut the rest cannot be typed."""

Kind = Literal["text", "id", "address", "prose", "size", "count", "time", "clock", "seconds"]
"""`prose` folds where there is little room; other text is cut, but for an `id` that is copied. An `address` is a URL,
which people see without http."""


class Column(NamedTuple):
    """One column: its title, its value for an item, what kind of value.

    `wide` ones need a terminal of 120 columns; `spare` ones are left out where the others have no room, from 1 upwards.
    """

    title: str
    value: Callable[[Any], Any]
    kind: Kind = "text"
    wide: bool = False
    spare: int = 0


def render(
    result: Any, columns: Sequence[Column], *, items: Sequence[Any] | None = None, identifier: Callable[[Any], str]
) -> None:
    """Print `result`. `items` are its records, where it is a list; else the result is the one record."""
    records = [result] if items is None else items
    match chosen_format():
        case "json":
            _write(to_json(result))
        case "ndjson":
            _write("".join(map(to_json, records)))
        case "id":
            _write("".join(f"{text.safe(identifier(record))}\n" for record in records))
        case "table" if items is None:
            _print_card(result, columns)
        case "table":
            _print_table(records, columns)
        case _:
            _write("".join(to_tsv(record, columns) for record in records))


def render_beside(result: Any) -> None:
    """Where stdout holds the octets asked for: the result on stderr, for `--json` alone."""
    if is_json():
        sys.stderr.write(to_json(result))


def is_json() -> bool:
    """Whether the answer is for a program that reads JSON."""
    return options.format in ("json", "ndjson")


def say(words: str) -> None:
    """A line for the person at the terminal, on stderr; scripts are spared it."""
    if sys.stderr.isatty() and options.format in ("auto", "table"):
        sys.stderr.write(text.safe(words) + "\n")


def confirm(question: str) -> None:
    """Go on only after a yes: `--yes`, or y at the terminal. Raises UsageError, with which nothing has changed."""
    if options.yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "this needs --yes",
            why=f"{question} There is no terminal to ask on.",
            mend=["--yes", "--dry-run"],
            id="needs-yes",
        )
    sys.stderr.write(f"{text.safe(question)} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("not confirmed; nothing was changed", id="not-confirmed")


def chosen_format() -> str:
    """The form that this answer takes."""
    if options.format == "auto":
        return "table" if sys.stdout.isatty() else "tsv"
    return options.format


def _write(output: str) -> None:
    sys.stdout.write(output)


def to_json(value: Any) -> str:
    """A dataclass as one line of JSON, with its `kind` and `v`."""
    kind = type(value).__name__.removesuffix("Result")
    fields = {"what" if name == "kind" else name: field for name, field in encode(value).items()}
    return json.dumps({"kind": kind, "v": VERSION, **fields}, ensure_ascii=False) + "\n"


def to_tsv(record: Any, columns: Sequence[Column]) -> str:
    """A record as one line of raw values."""
    return "\t".join(_raw(column.value(record)) for column in columns) + "\n"


def _raw(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, list)):
        return ",".join(map(_raw, value))
    return text.safe(str(value))


def human(value: Any, kind: Kind) -> str:
    """A value as a person reads it, on one line."""
    if value is None:
        return "-"
    match kind:
        case "size":
            return text.format_size(value)
        case "time":
            return text.format_time(value)
        case "clock":
            return text.format_time_of_day(value)
        case "seconds":
            return text.format_duration(value)
        case "count":
            return f"{value:,}"
        case "address":
            return text.safe(str(value)).removeprefix("https://").removeprefix("http://") or "-"
    if isinstance(value, (tuple, list)):
        return ", ".join(text.safe(str(item)) for item in value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return text.safe(str(value)) or "-"


def is_colored() -> bool:
    """Whether stdout may be coloured."""
    return sys.stdout.isatty() if options.color == "auto" else options.color == "always"


def _console() -> Console:
    from rich.console import Console

    is_terminal = sys.stdout.isatty()
    return Console(
        highlight=False,
        markup=False,
        emoji=False,
        force_terminal=is_colored(),
        width=shutil.get_terminal_size().columns if is_terminal else PIPED_TABLE_COLUMNS,
        soft_wrap=False,
    )


def _print_table(records: Sequence[Any], columns: Sequence[Column]) -> None:
    """One row a record. Cells are cut, not wrapped: a row is a line, but for prose."""
    if not records:
        say("nothing to show")
        return
    from rich.table import Table

    console = _console()
    shown = [column for column in columns if not column.wide or console.width >= WIDE_COLUMNS_MIN]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    rows = [[human(column.value(record), column.kind) for column in shown] for record in records]
    if (said := _saying(shown, rows, console.width)) != shown:
        shown = said
        rows = [[human(column.value(record), column.kind) for column in shown] for record in records]
    widths = _widths(shown, rows, console.width)
    for column, width in zip(shown, widths, strict=False):
        justify: Literal["left", "right"] = "right" if column.kind in ("size", "count", "seconds") else "left"
        is_prose = column.kind == "prose"
        overflow: Literal["fold", "ellipsis"] = "fold" if is_prose else "ellipsis"
        table.add_column(column.title.upper(), justify=justify, no_wrap=not is_prose, overflow=overflow, width=width)
    for row in rows:
        table.add_row(*[_fit(cell, width) for cell, width in zip(row, widths, strict=False)])
    console.print(table)


def _fit(cell: str, width: int) -> str:
    """A peer id or CID where there is no room for all of it keeps its end."""
    is_cut = cell.startswith(BEGINNINGS) and len(cell) > width
    return f"…{cell[len(cell) - width + 1 :]}" if is_cut else cell


def _full_widths(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[int]:
    from rich.cells import cell_len

    cells = zip(*rows, strict=True)
    return [max(map(cell_len, (column.title, *those))) for column, those in zip(columns, cells, strict=True)]


def _saying(columns: list[Column], rows: Sequence[Sequence[str]], room: int) -> list[Column]:
    """The columns; where there is little room without prose that no record has, then without spare ones."""
    full = _full_widths(columns, rows)
    if sum(full) + GAP * len(full) <= room:
        return columns
    kept = [at for at, it in enumerate(columns) if it.kind != "prose" or any(row[at] != "-" for row in rows)]
    narrow = {"prose": PLIANT_COLUMNS_MIN, "text": TEXT_COLUMNS_MIN, "address": TEXT_COLUMNS_MIN}
    least = [min(width, narrow.get(it.kind, width)) for it, width in zip(columns, full, strict=True)]
    for at in sorted((at for at in kept if columns[at].spare), key=lambda at: columns[at].spare):
        if sum(least[it] for it in kept) + GAP * len(kept) > room:
            kept.remove(at)
    return [columns[at] for at in kept]


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]], room: int) -> list[int]:
    """Widths of the columns from the left: where there is little room prose and CIDs give way, then the widest words.

    Never a number. Fewer widths than columns: there is no room for the others.
    """
    widths = _full_widths(columns, rows)
    pliant = [
        at
        for at, column in enumerate(columns)
        if column.kind == "prose" or (column.kind == "text" and any(row[at].startswith(BEGINNINGS) for row in rows))
    ]
    words = [at for at, column in enumerate(columns) if column.kind in ("text", "address", "prose")]
    excess = sum(widths) + GAP * len(widths) - room
    for which, least in ((pliant, PLIANT_COLUMNS_MIN), (words, TEXT_COLUMNS_MIN)):
        while excess > 0 and which and widths[widest := max(which, key=widths.__getitem__)] > least:
            widths[widest] -= 1
            excess -= 1
    while excess > 0 and len(widths) > 1:
        excess -= widths.pop() + GAP
    return widths


def _print_card(record: Any, columns: Sequence[Column]) -> None:
    """One record, a line a field that says something; the terminal folds long ones, so that they are copied whole.

    A list that is longer than a line has a line for each of its items.
    """
    fields = [(column.title, column.value(record), column.kind) for column in columns]
    rows = [(title, value, shown) for title, value, kind in fields if (shown := human(value, kind)) != "-"]
    width = max((len(title) for title, _, _ in rows), default=0) + GAP
    room = shutil.get_terminal_size().columns - width if sys.stdout.isatty() else PIPED_TABLE_COLUMNS
    bold, plain = ("\x1b[1m", "\x1b[0m") if is_colored() else ("", "")
    for title, value, shown in rows:
        is_list = isinstance(value, (tuple, list)) and len(shown) > room
        first, *others = [text.safe(str(item)) for item in value] if is_list else [shown]
        _write(f"{bold}{title:<{width}}{plain}{first}\n")
        _write("".join(f"{' ' * width}{other}\n" for other in others))
