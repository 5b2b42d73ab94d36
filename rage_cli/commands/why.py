"""rage why."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from rage_cli.command import noun, page
from rage_cli.output import Column, chosen_format, render
from rage_cli.session import run
from rage_cli.text import safe
from rage_net.errors import EXIT_FINDINGS, EXIT_OK
from rage_net.verbs.diagnose import Why, WhyResult

app = noun("Why a document, chunk or peer can or cannot be had, link by link.")

STEP = (
    Column("state", lambda it: it.state),
    Column("link", lambda it: it.name),
    Column("message", lambda it: it.message),
    Column("seconds", lambda it: it.seconds, "seconds"),
    Column("mend", lambda it: it.mend),
)


@app.command()
@page(
    examples=(
        "rage why bafkr4i...",
        "rage why report.md",
        "rage why 12D3KooWQ7",
        "rage why $CID --json | jq -r .broken    # in CI: exit 6 when it cannot be had, with the first broken link",
    ),
    exits=(5, 6, 7),
)
def why(
    subject: Annotated[str, typer.Argument(metavar="CID|DOC|PEER", help="A CID, a document, or a peer.")],
    peer: Annotated[list[str], typer.Option(metavar="MULTIADDR", help="Ask this peer too; may be repeated.")] = [],  # noqa: B006
) -> int:
    """Walk every link from here to a document, chunk or peer, and name the first broken one with what mends it."""
    if peer:
        from rage_cli.daemon import check_peers

        check_peers("--peer", [address for address in peer if address.startswith("/")])  # else it is a known peer's id
    result = run(Why(subject, tuple(peer)), label=f"why {subject}")
    if chosen_format() == "table":
        _write_chain(result)
    elif chosen_format() == "id":
        sys.stdout.write(safe(result.broken or "ok") + "\n")
    else:
        render(result, STEP, items=result.steps, identifier=lambda it: it.name)
    return EXIT_OK if result.is_ok else EXIT_FINDINGS


def _write_chain(result: WhyResult) -> None:
    from rage_cli.marks import Mark, write_marks

    sys.stdout.write(safe(f"{result.kind} {result.subject}") + "\n")
    write_marks([Mark(step.state, step.name, step.message, "", step.mend) for step in result.steps])
    sys.stdout.write(safe(result.verdict) + "\n")
    if result.mend and not result.is_ok:
        sys.stdout.write(f"mend: {safe('  |  '.join(result.mend))}\n")
