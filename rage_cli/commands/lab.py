"""rage lab: harm nodes on purpose, and see whether what rage promises holds."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rage_cli.command import not_one_of, noun, page
from rage_cli.output import Column, render, say
from rage_cli.progress import Display
from rage_net.errors import EXIT_FINDINGS, EXIT_OK, UsageError
from rage_net.verbs import Progress

if TYPE_CHECKING:
    from rage_lab.scenarios import Found, Row, Scenario

app = noun("Harm nodes on purpose, and see whether what rage promises holds.")

SEED_MAX = 1 << 31

ROW = (
    Column("scenario", lambda it: it.scenario),
    Column("runs", lambda it: it.runs, "count"),
    Column("faults", lambda it: it.faults, "count"),
    Column("operations", lambda it: it.operations, "count"),
    Column("acknowledged", lambda it: it.acknowledged, "count"),
    Column("violations", lambda it: it.violations, "count"),
    Column("well after", lambda it: it.converged_s, "seconds"),
    Column("took", lambda it: it.seconds, "seconds", wide=True),
    Column("refused", lambda it: it.refused, "count", wide=True),
    Column("unknown", lambda it: it.unknown, "count", wide=True),
    Column("excused", lambda it: it.excused, "count", wide=True),
    Column("peeks", lambda it: it.peeks, "count", wide=True),
    Column("left out", lambda it: it.left_out, "prose"),
)
LISTED = (
    Column("scenario", lambda it: it.name),
    Column("what", lambda it: it.words, "prose"),
    Column("left out here", lambda it: it.lacks, "prose"),
)


@dataclass(frozen=True, slots=True)
class LabRun:
    """A row for each scenario; `found` are the runs that broke a promise."""

    items: tuple[Row, ...]
    found: tuple[Found, ...]
    seed: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Listed:
    """A scenario, and why this machine cannot run it; empty where it can."""

    name: str
    words: str
    lacks: str


@dataclass(frozen=True, slots=True)
class LabScenarios:
    """All that there are."""

    items: tuple[Listed, ...]


@app.command("run")
@page(
    examples=(
        "rage lab run --quick",
        "sudo rage lab run partition kill mix --runs 10",
        "rage lab run sim --seeds 10000 --jobs 2 || echo a promise was broken    # in CI: exit 6",
    ),
    exits=(6, 7, 8),
)
def run(
    scenarios: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SCENARIO]...", help="What to run; all but quick and soak without it."),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", help="Simulated runs.")] = 1000,
    runs: Annotated[int, typer.Option("--runs", metavar="N", help="Runs of each with real nodes.")] = 1,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="The first seed; drawn without it.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", metavar="N", help="Processes that simulate.")] = 2,
    quick: Annotated[bool, typer.Option("--quick", help="A bit of each, within two minutes.")] = False,
    minutes: Annotated[float, typer.Option("--minutes", metavar="N", help="How long to soak.")] = 60.0,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="For the soak's samples and picture.")] = Path(
        "lab"
    ),
    list_: Annotated[bool, typer.Option("--list", help="List the scenarios, and what this machine cannot do.")] = False,
) -> int:
    """Put, get and remove documents while nodes are harmed, and hold what they answered against what is promised."""
    from rage_lab import scenarios as lab

    known = lab.SCENARIOS
    if list_:
        items = tuple(Listed(name, it.words, _lacks(name)) for name, it in known.items())
        render(LabScenarios(items), LISTED, items=items, identifier=lambda it: it.name)
        return EXIT_OK
    for name in scenarios or ():
        if name not in known:
            raise not_one_of("rage lab run", name, tuple(known))
    if min(seeds, runs, jobs) < 1 or minutes <= 0:
        raise UsageError("--seeds, --runs, --jobs and --minutes begin at 1", mend=["rage lab run --help"])
    if scenarios:
        names = tuple(dict.fromkeys(scenarios))
    else:
        names = lab.QUICK if quick else tuple(name for name, it in known.items() if it.is_default)
    first = random.SystemRandom().randrange(SEED_MAX) if seed is None else seed
    options = lab.Options(
        first, lab.QUICK_SEEDS if quick else seeds, runs, jobs, minutes, lab.REAL_S, out.resolve(), is_quick=quick
    )
    say(f"seed {first}")
    began = time.monotonic()
    rows: dict[str, Row] = {}
    found: list[Found] = []
    for name in names:
        _play(known[name], options, rows, found)
    result = LabRun(tuple(rows.values()), tuple(found), first, time.monotonic() - began)
    render(result, ROW, items=result.items, identifier=lambda it: it.scenario)
    for one in found:
        _tell(one)
    return EXIT_FINDINGS if found else EXIT_OK


def _play(scenario: Scenario, options: Any, rows: dict[str, Row], found: list[Found]) -> None:
    with Display(scenario.name) as display:

        def show(done: int, total: int) -> None:
            display(Progress(done, total, "runs"))

        for row, more in scenario.run(scenario.name, options, say, show):
            rows[row.scenario] = row
            found += more


def _lacks(name: str) -> str:
    """Why this machine cannot run a scenario."""
    from rage_lab import rungs
    from rage_lab.nemesis import FAULTS
    from rage_lab.trial import lacking

    if name == "rungs":
        return rungs.missing()
    if name in FAULTS:
        return lacking(name)
    return "; ".join(
        f"{fault}: {why}" for fault in FAULTS if name in ("mix", "quick", "soak") and (why := lacking(fault))
    )


def _tell(one: Found) -> None:
    import sys

    from rage_cli.text import safe

    lines = [f"seed {one.seed} of {one.scenario} broke a promise:", *(f"  {words}" for words in one.words)]
    lines += [f"  logs: {one.kept}"] if one.kept else []
    sys.stderr.write("".join(f"{safe(line)}\n" for line in [*lines, f"  repeat: {one.repeat}"]))
