"""Set keys of a configuration file that people write, and change nothing else of it: comments, order, blank lines stay.

By lines, not by a parser that would write all anew. The result is read back: where it does not say what the file said
before and the new values, and nothing else, nothing is written and the lines to add are told.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rage_net.durable import SECRET, file_errors, write_replacing
from rage_net.errors import ConfigError


def set_keys(path: Path, values: Mapping[str, str]) -> bool:
    """Give keys of a file (dotted, `network.security.ca_cert`) these values; False when they have them already.

    Raises: ConfigError `config-by-hand` when the file's form does not allow it, with what to write.
    """
    from rage_net import config

    data = config.read_bytes(path, must_exist=False)
    text = data.decode("utf-8-sig", "surrogateescape") or "network:\n  version: 1\n"
    before = _read(text)
    wanted = _merged(before, values) if before is not None else None
    if data and wanted is not None and wanted == before:
        return False
    changed = text
    for key, value in values.items():
        changed = _set(changed, key.split("."), json.dumps(value))
    if wanted is None or _read(changed) != wanted:
        raise ConfigError(
            f"{path} has a form that rage does not edit",
            why="nothing was changed",
            mend=[f"set {key}: {value} in it by hand" for key, value in values.items()],
            id="config-by-hand",
        )
    with file_errors(path):
        octets = changed.encode("utf-8", "surrogateescape")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else SECRET
        write_replacing(path, octets, mode=mode)
    return True


def _read(text: str) -> dict[str, Any] | None:
    import yaml

    try:
        found = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506  strings alone, which builds no objects
    except yaml.YAMLError:
        return None
    return found if isinstance(found, dict) else {} if found is None else None


def _merged(before: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, Any] | None:
    merged: dict[str, Any] = json.loads(json.dumps(before))
    for key, value in values.items():
        *parents, last = key.split(".")
        at = merged
        for name in parents:
            at = at.setdefault(name, {})
            if not isinstance(at, dict):
                return None
        at[last] = value
    return merged


def _set(text: str, path: Sequence[str], value: str) -> str:
    """`text` with the key at `path` set: in its place, or where it stands commented out, or first below its parent."""
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    start, end, indent = 0, len(lines), ""
    for depth, name in enumerate(path):
        is_last = depth == len(path) - 1
        at, is_comment = _find(lines, start, end, indent, name)
        if at is None:
            return "".join([*lines[:start], *_fresh(path[depth:], indent, value), *lines[start:]])
        if is_last:
            comment = "" if is_comment else "".join(re.findall(r"\s+#.*$", lines[at].rstrip("\n")))
            lines[at] = f"{indent}{name}: {value}{comment}\n"
        elif is_comment:
            lines[at] = f"{indent}{name}:\n"
        start, end = at + 1, _end(lines, at + 1, end, indent)
        indent = _indent_below(lines, start, end, indent)
    return "".join(lines)


def _find(lines: Sequence[str], start: int, end: int, indent: str, name: str) -> tuple[int | None, bool]:
    """The line of a key, and whether it is commented out as `rage init` does (`#name:`, no blank between)."""
    for mark in ("", "#"):
        pattern = re.compile(rf"{indent}{mark}[\"']?{re.escape(name)}[\"']?\s*:(\s|$)")
        at = next((at for at in range(start, end) if pattern.match(lines[at])), None)
        if at is not None:
            return at, bool(mark)
    return None, False


def _end(lines: Sequence[str], start: int, end: int, indent: str) -> int:
    """Where what stands below a key of `indent` ends, keys that are commented out included."""
    for at in range(start, end):
        bare = lines[at].lstrip()
        is_key = bare.strip() and not re.match(r"#(?!\w+:)", bare)
        if is_key and len(lines[at]) - len(bare) <= len(indent):
            return at
    return end


def _indent_below(lines: Sequence[str], start: int, end: int, indent: str) -> str:
    for at in range(start, end):
        bare = lines[at].lstrip()
        if bare.strip() and not bare.startswith("#"):
            return lines[at][: len(lines[at]) - len(bare)]
    return indent + "  "


def _fresh(path: Sequence[str], indent: str, value: str) -> list[str]:
    *parents, last = path
    lines = []
    for name in parents:
        lines.append(f"{indent}{name}:\n")
        indent += "  "
    return [*lines, f"{indent}{last}: {value}\n"]
