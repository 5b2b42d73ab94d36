"""rage trust: which other organisations' certificates open what here."""

from __future__ import annotations

from typing import Annotated

import typer

from rage_cli.command import duration_of, noun, page, words_of
from rage_cli.options import options
from rage_cli.output import Column, confirm, render, say
from rage_cli.session import run
from rage_cli.text import counted
from rage_net.errors import EXIT_FINDINGS, EXIT_OK, UsageError
from rage_net.verbs import trust as verbs

app = noun("Say which other organisations are trusted, and for what.")

Org = Annotated[str, typer.Argument(metavar="ORG", help="An organisation by its name, as its CA has it.")]

ROW = (
    Column("organization", lambda it: it.organization),
    Column("state", lambda it: it.state),
    Column("scopes", lambda it: it.scopes),
    Column("until", lambda it: it.until, "time"),
    Column("ca", lambda it: it.ca_name),
    Column("ca sha256", lambda it: it.ca_sha256, wide=True),
    Column("ca until", lambda it: it.ca_not_after, "time", wide=True),
)


@app.command("list")
@page(
    examples=(
        "rage trust list",
        "rage trust list --json | jq '.items[] | {organization, scopes, state}'",
        "rage trust list -q | sort -u    # in CI: one organisation a line",
    ),
    exits=(10,),
)
def list_() -> None:
    """List every CA that is trusted here: those of this node's own organisation first."""
    result = run(verbs.ListTrust())
    render(result, ROW, items=result.items, identifier=lambda it: it.organization)


@app.command()
@page(
    examples=(
        "rage trust show partner",
        "rage trust show partner --json | jq -r '.peers[]'",
        "rage trust show partner -q || echo stranger    # in CI: exit 5 when it is not trusted",
    ),
    exits=(5, 10),
)
def show(organization: Org) -> None:
    """Show one organisation: its CAs, what they open, and its connected peers."""
    result = run(verbs.ShowTrust(organization))
    render(result, ROW, items=result.items, identifier=lambda it: it.organization)
    say(f"connected now: {counted(len(result.peers), 'peer')} of it")


@app.command()
@page(
    examples=(
        "rage trust add partner --ca partner-ca.crt --scope query",
        "rage trust add partner --ca partner-ca.crt --scope query,chunks,sync --until 90d",
        "rage trust add partner --ca partner-ca.crt --scope chunks --dry-run",
        "rage trust add $ORG --ca ca.crt --scope query -q    # in CI: again changes nothing",
    ),
    exits=(4, 5, 8, 9, 10),
)
def add(
    organization: Org,
    ca: Annotated[str, typer.Option("--ca", metavar="FILE|-", help="Its CA's certificate, PEM; several in one file.")],
    scope: Annotated[
        str, typer.Option(metavar=",".join(verbs.SCOPES), help="What its peers may open here: one or more of these.")
    ],
    until: Annotated[
        str, typer.Option(metavar="DURATION|DATE", help="When trust ends: 90d, or 2027-01-31; never without it.")
    ] = "",
) -> None:
    """Trust another organisation's certificates; from an admin's node, on all nodes of this organisation."""
    from rage_cli.certificates import read_file

    pem = read_file(ca).decode("utf-8", "replace")
    scopes = words_of("--scope", scope, verbs.SCOPES)
    result = run(verbs.AddTrust(organization, pem, scopes, _moment(until), options.dry_run))
    render(result, ROW, items=result.items, identifier=lambda it: it.organization)
    whose = "every node of this organisation" if result.reaches == "organization" else "this node alone"
    say(f"{'would trust' if result.dry_run else 'trusted'}: {counted(result.added, 'CA')} new or changed, by {whose}")


REMOVED = (
    Column("organization", lambda it: it.organization),
    Column("removed", lambda it: it.removed, "count"),
    Column("peers", lambda it: it.peers),
    Column("reaches", lambda it: it.reaches),
    Column("dry run", lambda it: it.dry_run),
)


@app.command()
@page(
    examples=(
        "rage trust remove partner",
        "rage trust remove partner --dry-run",
        "rage trust remove partner --yes    # in CI",
    ),
    exits=(4, 5, 9, 10),
)
def remove(organization: Org) -> None:
    """Trust an organisation no longer; connections to its peers are cut at once."""
    plan = run(verbs.RemoveTrust(organization, dry_run=True))
    if not options.dry_run:
        cas, connections = counted(plan.removed, "CA"), counted(len(plan.peers), "connection")
        confirm(f"Trust {organization} no longer ({cas}), and cut {connections}?")
        plan = run(verbs.RemoveTrust(organization))
    render(plan, REMOVED, identifier=lambda it: it.organization)


TEST = (
    Column("peer id", lambda it: it.peer_id),
    Column("trusted", lambda it: it.is_trusted),
    Column("reason", lambda it: it.reason),
    Column("why", lambda it: it.message, "prose"),
    Column("organization", lambda it: it.organization),
    Column("region", lambda it: it.region),
    Column("capabilities", lambda it: it.capabilities),
    Column("scopes", lambda it: it.scopes),
    Column("opens", lambda it: it.opens),
    Column("serial", lambda it: it.serial),
    Column("certified until", lambda it: it.expires_at, "time"),
    Column("it refuses us", lambda it: it.refused_by_peer),
)


@app.command()
@page(
    examples=(
        "rage trust test 12D3KooWQ7",
        "rage trust test /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW...",
        "rage trust test $PEER -q || rage trust test $PEER --json    # in CI: exit 6 when one distrusts the other",
    ),
    exits=(4, 5, 6, 7, 10),
)
def test(
    peer: Annotated[str, typer.Argument(metavar="PEER|MULTIADDR", help="A peer id, a part of one, or a multiaddr.")],
) -> int:
    """Connect to a peer, exchange certificates, and say how each judges the other."""
    result = run(verbs.ProbeTrust(peer), label=f"test {peer}")
    render(result, TEST, identifier=lambda it: it.reason)
    return EXIT_OK if result.is_trusted and not result.refused_by_peer else EXIT_FINDINGS


def _moment(until: str) -> float | None:
    """Seconds since the epoch of a duration from now, or of the end of a day in UTC."""
    import time
    from datetime import UTC, datetime, timedelta

    if not until:
        return None
    try:
        day = datetime.strptime(until, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        seconds = duration_of("--until", until, "90d")
        if seconds is None or seconds <= 0:
            raise UsageError("--until is a time to come", mend=["--until 90d"]) from None
        return time.time() + seconds
    return (day + timedelta(days=1)).timestamp()
