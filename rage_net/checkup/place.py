"""A home by itself: whether it is there and ours, whether its secrets are, and whether its configuration is valid."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from rage_net import config as configuration
from rage_net import home as homes
from rage_net.checkup.outcomes import failed, ok
from rage_net.config import Config, audit
from rage_net.durable import describe
from rage_net.errors import RageError
from rage_net.home import Home
from rage_net.verbs.diagnose import Check


def check_place(home: Home) -> Check:
    """Whether there is a home, with a key that can be read, and we may write in it."""
    try:
        homes.require(home)
        homes.load_identity(home.identity)
    except RageError as error:
        return failed("home", error)
    except OSError as error:
        return Check("home", "error", f"{home.root} cannot be looked into", describe(error), (f"ls -ld {home.root}",))
    if not os.access(home.root, os.W_OK | os.X_OK):
        return Check(
            "home",
            "error",
            f"{home.root} cannot be written to",
            "this user may not, or its file system is read-only",
            (f"ls -ld {home.root}", f"findmnt -T {home.root}"),
        )
    return ok("home", str(home.root))


def check_permissions(home: Home) -> Check:
    """Whether others can read keys, or write where only the node should."""
    # A group that may operate the node passes through the home, and reads nothing in it.
    looked_at = [(home.root, 0o027), (home.identity, 0o077), (home.certs, 0o027), (home.config, 0o022)]
    looked_at += [(path, 0o077) for path in sorted(home.certs.glob("*.key"))]
    problems = [found for path, forbidden in looked_at if (found := _open_to_others(path, forbidden)) is not None]
    if not problems:
        return ok("permissions", "keys and home are this user's alone")
    paths = [path for path, _ in problems]
    return Check(
        "permissions",
        "error",
        f"{len(problems)} of the home's files are open to others",
        "; ".join(why for _, why in problems),
        tuple(f"chmod {_CLOSING[dict(looked_at)[path]]} {path}" for path in paths),
    )


_CLOSING = {0o027: "g-w,o-rwx", 0o077: "go-rwx", 0o022: "go-w"}
"""Bits -> what chmod takes away."""


def _open_to_others(path: Path, forbidden: int) -> tuple[Path, str] | None:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:  # what is not there is open to nobody
        return None
    return (path, f"{path} has mode {mode:04o}") if mode & forbidden else None


def check_config(home: Home, environ: Mapping[str, str], file: Path | None) -> tuple[Config, Check]:
    """Whether all three files are valid; and the configuration that holds, or the defaults where it is invalid."""
    result = audit.check(home.root, environ=environ, file=file)
    try:
        config = configuration.load(home.root, environ=environ, file=file)
    except RageError:
        config = configuration.defaults(home.root)
    errors = [problem for problem in result.problems if problem.is_error]
    if not result.problems:
        return config, ok("config", f"{sum(one.exists for one in result.files)} files, all valid")
    worst = errors or list(result.problems)
    mends = tuple(dict.fromkeys([*(one.mend for one in worst if one.mend), "rage config check"]))
    what = "errors" if errors else "warnings"
    level = "error" if errors else "warning"
    return config, Check(
        "config", level, f"the configuration has {len(worst)} {what}", "; ".join(map(str, worst)), mends
    )
