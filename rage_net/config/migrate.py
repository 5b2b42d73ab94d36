"""Older configuration files as this version writes them: comments, order and values stay, the old file is kept aside.

Version 0 is a file without `version`, as the specification prints it. A migration is a function from text to text; the
result must read to the same values, else nothing is written.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rage_net import config
from rage_net.config.network import VERSION
from rage_net.durable import file_errors, write_new, write_replacing
from rage_net.errors import ConfigError

BACKUPS_MAX = 100
"""Copies kept beside one file; more would mean a loop somewhere."""


@dataclass(frozen=True, slots=True)
class MigratedFile:
    """One file. `backup` is empty where nothing was, or would be, written."""

    path: str
    from_version: int
    to_version: int
    backup: str


def migrate(path: Path, root: str, *, environ: Mapping[str, str], home: Path, dry_run: bool) -> MigratedFile | None:
    """Bring one file to this version, or say what would happen; None when it is missing or sets nothing.

    Raises: ConfigError when the file is invalid, newer, or in a form that must be edited by hand.
    """
    read = {"network": config.read_network, "cdn": config.read_cdn, "replication": config.read_replication}[root]
    data = config.read_bytes(path, must_exist=False)
    section, _, origins = read(path, data, environ, home)
    if root not in origins:
        return None
    version: int = getattr(section, "version", 0) if f"{root}.version" in origins else 0
    if version == VERSION:
        return MigratedFile(str(path), version, VERSION, "")
    text = data.decode("utf-8-sig")
    for step in range(version, VERSION):
        text = _STEPS[step](text, root, path)
    if read(path, text.encode(), environ, home)[0] != section:
        raise ConfigError(f"{path}: cannot be migrated without changing what it says", mend=[_by_hand(root)])
    backup = _free_backup(path, version)
    if not dry_run:
        with file_errors(path):
            mode = stat.S_IMODE(path.stat().st_mode)
            if not write_new(backup, data, mode=mode):
                raise ConfigError(f"{backup} appeared meanwhile", mend=["rage config migrate"])
            write_replacing(path, text.encode(), mode=mode)
    return MigratedFile(str(path), version, VERSION, str(backup))


def _add_version(text: str, root: str, path: Path) -> str:
    """0 -> 1: `version: 1` becomes the first key, as deep as the one that was first."""
    lines = text.splitlines(keepends=True)
    for at, line in enumerate(lines):
        if not re.match(rf"[\"']?{root}[\"']?\s*:\s*(#.*)?$", line):
            continue
        below = (re.match(r"( +)[^\s#]", after) for after in lines[at + 1 :])
        indent = next((match[1] for match in below if match), None)
        if indent is not None:
            end = "\r\n" if line.endswith("\r\n") else "\n"
            return "".join([*lines[: at + 1], f"{indent}version: 1{end}", *lines[at + 1 :]])
    raise ConfigError(f"{path}: `{root}:` is not on a line of its own", mend=[_by_hand(root)])


_STEPS = {0: _add_version}


def _by_hand(root: str) -> str:
    return f"write `version: {VERSION}` below `{root}:` by hand"


def _free_backup(path: Path, version: int) -> Path:
    for number in range(BACKUPS_MAX):
        backup = path.with_name(f"{path.name}.v{version}{f'.{number}' if number else ''}.bak")
        if not backup.exists():
            return backup
    raise ConfigError(f"{path} has {BACKUPS_MAX} backups", mend=[f"rm {path}.v{version}.*.bak"])
