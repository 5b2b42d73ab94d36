"""Records shown one at a time, as they come: what a topic says, the hops of a look-up, peers as they are found.

The rules are those of `output`, but for these: each record is written out at once, so that the next program in a pipe
has it; the columns of a table have widths of their own, since nobody knows what comes; and a command whose records
never end prints them as NDJSON for `--json` too, since its one object would never come.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rage_cli import text
from rage_cli.output import (
    GAP,
    PIPED_TABLE_COLUMNS,
    TEXT_COLUMNS_MIN,
    WIDE_COLUMNS_MIN,
    Column,
    chosen_format,
    human,
    is_colored,
    to_json,
    to_tsv,
)

LAST_COLUMNS_MIN = 16
"""What the last column of a table takes at least, while other words can give way to it."""


class Rows:
    """Call it with each record. `widths` are those of the columns in a table, but for the last, which takes the rest.

    Args: endless: `--json` is NDJSON; else records are not shown with it, and the caller renders its one object.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        widths: Sequence[int],
        *,
        identifier: Callable[[Any], str],
        endless: bool = False,
    ) -> None:
        self._columns = columns
        self._widths = widths
        self._identifier = identifier
        self._endless = endless
        self._format = chosen_format()
        self._is_first = True

    def __call__(self, record: Any) -> None:
        """Show one record, now. Raises BrokenPipeError when the reader is gone."""
        match self._format:
            case "json" if not self._endless:
                return
            case "json" | "ndjson":
                out = to_json(record)
            case "id":
                out = text.safe(self._identifier(record)) + "\n"
            case "table":
                out = self._row(record)
            case _:
                out = to_tsv(record, self._columns)
        sys.stdout.write(out)
        sys.stdout.flush()

    def _row(self, record: Any) -> str:
        room = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPED_TABLE_COLUMNS
        pairs = list(zip(self._columns, (*self._widths, 0), strict=True))
        shown = [(column, width) for column, width in pairs if not column.wide or room >= WIDE_COLUMNS_MIN]
        widths = _fitting([column for column, _ in shown], [width for _, width in shown], room)
        head = ""
        if self._is_first:
            self._is_first = False
            titles = _line([column.title.upper() for column, _ in shown], widths)
            head = f"\x1b[1m{titles}\x1b[0m\n" if is_colored() else titles + "\n"
        return head + _line([human(column.value(record), column.kind) for column, _ in shown], widths) + "\n"


def _fitting(columns: Sequence[Column], widths: Sequence[int], room: int) -> list[int]:
    """Widths for `room`: the last column takes what is left, and where that is too little the widest words give way."""
    found = [*widths[:-1], LAST_COLUMNS_MIN]
    words = [at for at, column in enumerate(columns[:-1]) if column.kind == "text"]
    left = room - sum(found) - GAP * (len(found) - 1)
    while left < 0 and words:
        widest = max(words, key=found.__getitem__)
        if found[widest] <= TEXT_COLUMNS_MIN:
            break
        found[widest] -= 1
        left += 1
    found[-1] = max(found[-1] + left, TEXT_COLUMNS_MIN)
    return found


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Cells, each as wide as its column, or cut to it: a record is a line."""
    return (" " * GAP).join(_fit(cell, width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _fit(cell: str, width: int) -> str:
    from rich.cells import cell_len, set_cell_size

    return set_cell_size(cell, width - 1) + "…" if cell_len(cell) > width else set_cell_size(cell, width)
