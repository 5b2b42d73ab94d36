"""rage doctor."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import Annotated

import typer

from rage_cli import session
from rage_cli.command import not_one_of, noun, page
from rage_cli.options import options
from rage_cli.output import Column, chosen_format, render, say
from rage_net.errors import EXIT_FINDINGS, EXIT_OK, RageError
from rage_net.verbs.diagnose import DOCTOR_CHECKS, Check, Doctor, DoctorResult

app = noun("Look at everything a node needs, one line a check.")

OF_THE_NETWORK = (
    *("clock", "certificate", "addresses", "bootstrap", "discovery", "dht", "mdns"),
    *("trust", "acl", "sync", "cdn", "purges"),
)
"""Checks that need an engine. Clock, certificate and cdn are looked at from both sides."""
NEEDED = ("home", "permissions", "config")
"""Where one of these is broken no engine opens."""
RANKS = ("skipped", "ok", "warning", "error")

CHECK = (
    Column("level", lambda it: it.level),
    Column("check", lambda it: it.id),
    Column("message", lambda it: it.message),
    Column("why", lambda it: it.why),
    Column("mend", lambda it: it.mend),
)


@app.command()
@page(
    examples=(
        "rage doctor",
        "rage doctor --only clock --only ports",
        "rage doctor --json | jq -r '.checks[] | select(.level == \"error\") | .mend[0]'",
        "rage doctor --fail-on warning -q    # in CI: the ids of what is not ok, exit 6 when there are some",
    ),
    exits=(6,),
)
def doctor(
    only: Annotated[
        list[str], typer.Option("--only", metavar="CHECK", help="Make this check alone; may be repeated.")
    ] = [],  # noqa: B006
    fail_on: Annotated[
        str, typer.Option("--fail-on", metavar="warning|error", help="The least level that makes it exit 6.")
    ] = "error",
) -> int:
    """Check the home, the machine and the network as a node needs them, and say what mends each; needs no node."""
    for name in only:
        if name not in DOCTOR_CHECKS:
            raise not_one_of("--only", name, DOCTOR_CHECKS)
    if fail_on not in ("warning", "error"):
        raise not_one_of("--fail-on", fail_on, ("warning", "error"))
    wanted = tuple(name for name in DOCTOR_CHECKS if not only or name in only)
    checks = _examine(wanted)
    found = {level: sum(check.level == level for check in checks) for level in RANKS}
    result = DoctorResult(tuple(checks), found["error"], found["warning"])
    bad = [check for check in checks if check.level in ("warning", "error")]
    if chosen_format() == "table":
        _write_checks(checks)
    elif chosen_format() == "id":
        render(result, CHECK, items=bad, identifier=lambda it: it.id)
    else:
        render(result, CHECK, items=checks, identifier=lambda it: it.id)
    say(f"{found['ok']} ok, {found['warning']} warnings, {found['error']} errors, {found['skipped']} skipped")
    counted = result.errors + (result.warnings if fail_on == "warning" else 0)
    return EXIT_FINDINGS if counted else EXIT_OK


def _examine(wanted: Sequence[str]) -> list[Check]:
    """The checks that are wanted, in their order: those of this machine, and those an engine or the node can make."""
    from rage_net.checkup import check_home

    place = session.home()
    local = check_home(place, os.environ, time.time(), file=options.config or None)
    broken = next((check for check in local if check.id in NEEDED and check.level == "error"), None)
    names = tuple(name for name in wanted if name in OF_THE_NETWORK)
    remote: Iterable[Check] = ()
    if names and broken is not None:
        remote = _skipped(names, f"not looked at: {broken.id} comes first")
    elif names:
        try:
            remote = session.run(Doctor(names), label="doctor").checks
        except RageError as error:  # the network cannot be looked at: that is a finding of its own
            remote = _skipped(names, f"not looked at: {error.message}", error)
    return [check for name in wanted if (check := _worst(name, [*local, *remote])) is not None]


def _worst(name: str, checks: Iterable[Check]) -> Check | None:
    """Of several by one name the one that says most: the last of the gravest."""
    named = [check for check in checks if check.id == name]
    return max(reversed(named), key=lambda check: RANKS.index(check.level), default=None)


def _skipped(names: Iterable[str], message: str, error: RageError | None = None) -> list[Check]:
    why, mend = (error.why, error.mend) if error is not None else ("", ())
    return [Check(name, "skipped", message, why, mend) for name in names]


def _write_checks(checks: Sequence[Check]) -> None:
    from rage_cli.marks import Mark, write_marks

    write_marks([Mark(check.level, check.id, check.message, check.why, check.mend) for check in checks])
