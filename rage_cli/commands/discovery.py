"""rage discovery: servers that bring peers together, and running one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from rage_cli.command import noun, page
from rage_cli.options import options
from rage_cli.output import Column, is_json, render, say
from rage_cli.session import run, run_in_node
from rage_net.errors import RageError
from rage_net.verbs import discovery as verbs

if TYPE_CHECKING:
    from rage_net.discoverer import DiscoveryStatus

app = noun("Ask discovery servers, register there, run one.")

SERVER = (
    Column("url", lambda it: it.url),
    Column("ok", lambda it: it.ok),
    Column("ms", lambda it: None if it.latency_ms is None else round(it.latency_ms, 1)),
    Column("peers", lambda it: it.peers, "count"),
    Column("registered", lambda it: it.registered),
    Column("expires in", lambda it: it.expires_in_s, "seconds"),
    Column("reachable", lambda it: it.reachable),
    Column("error", lambda it: it.error),
)
REGISTERED = (
    Column("peer id", lambda it: it.peer_id),
    Column("org", lambda it: it.organization),
    Column("proven", lambda it: it.is_proven),
    Column("region", lambda it: it.region),
    Column("reachable", lambda it: it.reachable),
    Column("capabilities", lambda it: it.capabilities, wide=True),
    Column("addresses", lambda it: it.addresses, wide=True),
    Column("servers", lambda it: it.servers, wide=True),
)


READY = (Column("peer id", lambda it: it.peer_id), Column("http", lambda it: it.http))


@app.command()
@page(
    examples=(
        "rage discovery serve",
        "rage --home /var/lib/rage-discovery discovery serve --listen 0.0.0.0:4090",
        "rage discovery serve --listen 127.0.0.1:0 --json &    # in CI: prints where it listens",
    ),
    exits=(4, 5, 7, 8, 9, 10),
)
def serve(
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Serve here instead of at 0.0.0.0:4090; port 0 takes a free one.")
    ] = "",
) -> None:
    """Run a discovery server; prints one line with its addresses when it is ready, and ends on SIGTERM or Ctrl-C."""
    from rage_cli import daemon

    daemon.discover_here(daemon.check_endpoint("--listen", listen, "127.0.0.1:4090"), _show_ready)


def _show_ready(status: DiscoveryStatus) -> None:
    """One line, never cut: an address is there to be copied."""
    if options.format == "auto" and sys.stdout.isatty():
        sys.stdout.write(f"{status.peer_id}  {'  '.join(status.http)}\n")
    else:
        render(status, READY, items=(status,), identifier=lambda it: it.http[0])
    sys.stdout.flush()


@app.command("list")
@page(
    examples=(
        "rage discovery list",
        "rage discovery list --peers --region eu-west",
        "rage discovery list --peers --cap storage -q | wc -l",
        "rage discovery list --json || [ $? -eq 3 ]    # in CI: 3 is some servers did not answer",
    ),
    exits=(3, 4, 5, 7),
)
def list_(
    peers: Annotated[bool, typer.Option("--peers", help="The peers that they list, instead of the servers.")] = False,
    org: Annotated[str, typer.Option("--org", metavar="ORG", help="Only peers of this organisation.")] = "",
    region: Annotated[str, typer.Option("--region", metavar="REGION", help="Only peers of this region.")] = "",
    cap: Annotated[str, typer.Option("--cap", metavar="NAME", help="Only peers with this capability.")] = "",
) -> None:
    """Ask the configured discovery servers how they are, or with --peers whom they list; needs no node."""
    if peers or org or region or cap:
        _list_peers(verbs.ListRegistered(org, region, cap))
    else:
        _show_servers(run(verbs.ListServers()), "did not answer")


def _list_peers(verb: verbs.ListRegistered) -> None:
    from rage_cli.partial import failure, raise_failures

    result = run(verb)
    render(result, REGISTERED, items=result.items, identifier=lambda it: it.peer_id)
    failures = [
        (url, failure("server-unreachable", why)) for url, _, why in (line.partition(": ") for line in result.errors)
    ]
    raise_failures(
        f"{len(failures)} discovery servers did not answer",
        failures,
        len(failures) + 1,  # where none answers, the verb itself fails
        mend=["rage discovery list"],
    )


@app.command()
@page(
    examples=(
        "rage discovery register",
        "rage discovery register --json | jq '.items[].expires_in_s'",
        "rage discovery register -q || [ $? -eq 3 ]    # in CI: 3 is some servers did not take it",
    ),
    exits=(3, 4, 5, 7),
)
def register() -> None:
    """Register the running node at every configured discovery server now."""
    _show_servers(run_in_node(verbs.Register()), "did not register us")


def _show_servers(result: verbs.ListServersResult | verbs.RegisterResult, what: str) -> None:
    from rage_cli.partial import failure, raise_failures

    if result.items or is_json():
        render(result, SERVER, items=result.items, identifier=lambda it: it.url)
    if not result.items:
        raise _no_servers()
    failed = [row for row in result.items if row.error]
    if not failed:
        say(f"{len(result.items)} of {len(result.items)} servers answered")
    raise_failures(
        f"{len(failed)} of {len(result.items)} discovery servers {what}",
        [(row.url, failure(row.code or "server-unreachable", row.error)) for row in failed],
        len(result.items),
        mend=["rage doctor --only discovery"],
    )


def _no_servers() -> RageError:
    from rage_net.refusals import no_servers

    return no_servers()
