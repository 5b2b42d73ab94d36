"""rage demo."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rage_cli.command import noun, page
from rage_cli.demonstration import Step
from rage_cli.output import Column, render, say

app = noun("Two organisations, an outsider, a CDN, real documents: see it work in a third of a minute.")


@dataclass(frozen=True, slots=True)
class Demo:
    """What happened, in order."""

    items: tuple[Step, ...]
    seconds: float


COLUMNS = (
    Column("step", lambda it: it.what, "prose"),
    Column("size", lambda it: it.size, "size"),
    Column("time", lambda it: it.seconds, "seconds"),
    Column("MB/s", lambda it: it.size and round(it.size / it.seconds / 1e6), "count"),
    Column("outcome", lambda it: it.outcome, "prose"),
)


@app.command()
@page(
    examples=("rage demo", "rage demo --json | jq '.items[].outcome'", "rage demo && echo it works here    # in CI"),
    exits=(6, 7, 8),
)
def demo() -> None:
    """Play two organisations and an outsider: share, refuse, grant, kill a node, purge a CDN; leave nothing."""
    from rage_cli.demonstration import perform

    started = time.monotonic()
    steps = tuple(perform(lambda words: say(f"{words} ...")))
    result = Demo(steps, time.monotonic() - started)
    render(result, COLUMNS, items=steps, identifier=lambda it: it.outcome)
    say(f"{result.seconds:.1f} s in all; nodes, edges and homes are gone again")
