"""From a file's bytes to YAML nodes, nothing constructed, and what is wrong with a file that is no YAML.

A complaint never quotes more of the file than a key, because the rest of the line may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rage_net.config.values import FILE_BYTES_MAX

if TYPE_CHECKING:
    import yaml

DEPTH_MAX = 32
"""Nesting of one file; the deepest key stands at 7."""

Complain = Callable[..., object]
"""Takes line, key, message and, perhaps, how to mend it."""

_TOO_DEEP = f"values are nested deeper than {DEPTH_MAX}"
_KEY_OF_LINE = re.compile(r"\s*(?:- +)?[\"']?([A-Za-z_][\w-]*)[\"']?\s*:(?:\s+(.*))?$")


def compose(data: bytes, complain: Complain) -> yaml.Node | None:
    """The nodes of a file, nothing constructed; None when it is empty or its problem is noted.

    A file of blanks and comments, as `rage init` writes it, does not cost the import of yaml.
    """
    if len(data) > FILE_BYTES_MAX:
        complain(1, "", f"the file is larger than {FILE_BYTES_MAX >> 10} KiB")
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        complain(data.count(b"\n", 0, error.start) + 1, "", "the file is no UTF-8 text")
        return None
    if not any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines()):
        return None
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        depth = 0
        for event in yaml.parse(text, Loader=loader):  # composing recurses, so a hostile depth must be seen before
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH_MAX:
                complain(event.start_mark.line + 1 if event.start_mark else 1, "", _TOO_DEEP)
                return None
        return yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        if "nesting depth" in (error.problem or ""):  # libyaml counts too, and may be first
            complain(error.problem_mark.line + 1 if error.problem_mark else 1, "", _TOO_DEEP)
            return None
        _explain(error, text, complain)
    except yaml.YAMLError:
        complain(1, "", "the file holds characters that YAML does not allow")
    return None


def _explain(error: yaml.MarkedYAMLError, text: str, complain: Complain) -> None:
    """Say what is wrong without quoting more of the file than a key: the rest of the line may be a secret."""
    mark = error.problem_mark or error.context_mark
    at_line, column = (mark.line, mark.column) if mark else (0, 0)
    lines = text.splitlines()
    number = min(at_line, len(lines) - 1)
    line = lines[number]
    key = _KEY_OF_LINE.match(line)
    name, rest = (key[1], key[2] or "") if key else ("", "")
    if "\t" in line[: len(line) - len(line.lstrip())] or line[column : column + 1] == "\t":
        complain(number + 1, name, "a tab; YAML is indented with blanks", "replace each tab by two blanks")
    elif rest.startswith((">", "|")):
        complain(number + 1, name, f"a bare {rest[0]} begins a block of text in YAML", f'quote it: {name}: "..."')
    elif rest[:1] in tuple("*&!%@`{[}],?"):
        message = f"a value that begins with {rest[0]} means something else in YAML"
        complain(number + 1, name, message, f'quote it: {name}: "..."')
    else:
        words = re.sub(r"'[^']*'|\"[^\"]*\"", "...", error.problem or "it cannot be read")
        complain(
            number + 1,
            name,
            f"no YAML in column {column + 1}: {words}",
            "look at the indentation and the quotes here and above",
        )
