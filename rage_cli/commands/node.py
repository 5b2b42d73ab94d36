"""rage node: the background node."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rage_cli import session
from rage_cli.command import noun, page
from rage_cli.commands.status import STATUS
from rage_cli.options import options
from rage_cli.output import Column, render, say
from rage_net import home as homes
from rage_net.verbs import dataclass
from rage_net.verbs.node import ShowStatus, StopNode

if TYPE_CHECKING:
    from rage_net.verbs.node import NodeStatus

app = noun("Run the background node, stop it, look at it.")

READY = (Column("peer id", lambda it: it.peer_id), Column("listen", lambda it: it.listen))


@app.command()
@page(
    examples=(
        "rage node start",
        "rage node start --listen /ip4/0.0.0.0/tcp/4001 --bootstrap /dns4/hub.example/tcp/4001/p2p/12D3KooW...",
        "rage node start --listen /ip4/127.0.0.1/tcp/0 --http off    # a second node on one machine",
        "rage node start --detach --timeout 30s    # in CI: returns when the node is ready",
    ),
    exits=(4, 5, 7, 9, 10),
)
def start(
    listen: Annotated[
        list[str], typer.Option(metavar="MULTIADDR", help="Listen here instead of where the configuration says.")
    ] = [],  # noqa: B006
    bootstrap: Annotated[list[str], typer.Option(metavar="MULTIADDR", help="Connect to this peer first.")] = [],  # noqa: B006
    http: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT|off", help="HTTP and metrics here, or not at all, whatever the configuration says."
        ),
    ] = "",
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when the node is ready, and leave it running.")
    ] = False,
) -> None:
    """Run a node; prints one line with its peer id and addresses when it is ready, and ends on SIGTERM or Ctrl-C."""
    from rage_cli import daemon

    door = daemon.check_addresses(listen, bootstrap, http)
    if detach:
        daemon.start_detached(listen, bootstrap, door)
        status = session.run_in_node(ShowStatus())
        _show_ready(status)
        for problem in status.problems:  # such as a cdn.yaml that is wrong: the log, where it stands too, is not seen
            say(f"! {problem}")
    else:
        daemon.run_here(listen, bootstrap, door, _show_ready)


def _show_ready(status: NodeStatus) -> None:
    """One line, never cut: an address is there to be copied."""
    if options.format == "auto" and sys.stdout.isatty():
        sys.stdout.write(f"{status.peer_id}  {'  '.join(status.listen)}\n")
    else:
        render(status, READY, items=(status,), identifier=lambda it: it.peer_id)
    sys.stdout.flush()


@dataclass(frozen=True, slots=True)
class Stopped:
    """The node's process has ended."""

    pid: int
    seconds: float


@app.command()
@page(
    examples=(
        "rage node stop",
        "rage node stop --timeout 30s",
        "rage node stop || [ $? -eq 7 ]    # in CI: 7 is none ran",
    ),
    exits=(7,),
)
def stop() -> None:
    """Let the node finish what it does and end; returns when its process is gone."""
    from rage_cli import daemon

    found = session.run_in_node(StopNode())
    seconds = daemon.wait_until_gone(session.home(), found.pid, options.timeout_s or found.within_s + daemon.SLACK_S)
    columns = (Column("pid", lambda it: it.pid), Column("seconds", lambda it: it.seconds, "seconds"))
    render(Stopped(found.pid, seconds), columns, identifier=lambda it: str(it.pid))


@app.command()
@page(
    examples=(
        "rage node status",
        "rage node status --json | jq .peers",
        "rage node status -q || rage node start --detach",
    ),
    exits=(7,),
)
def status() -> None:
    """Show the running node."""
    result = session.run_in_node(ShowStatus())
    render(result, STATUS if result.problems else STATUS[1:], identifier=lambda it: it.peer_id)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the node of this home is."""

    peer_id: str
    home: str


@app.command("id")
@page(
    examples=("rage node id", "rage node id -q", "PEER=$(rage node id -q)    # in CI: no node needed"),
    exits=(4, 5),
)
def id_() -> None:
    """Print this home's peer id."""
    from rage_net.libp2p.peer_id import PeerId

    place = session.home()
    homes.require(place)
    key = homes.load_identity(place.identity).public_key()
    columns = (Column("peer id", lambda it: it.peer_id), Column("home", lambda it: it.home))
    render(Identity(str(PeerId.from_public_key(key)), str(place.root)), columns, identifier=lambda it: it.peer_id)


service = noun("Run the node as a service of the system.")
app.add_typer(service, name="service", help="Run the node as a service of the system.")


@service.command("print")
@page(
    examples=(
        "rage node service print",
        "rage --home /var/lib/rage node service print | sudo tee /etc/systemd/system/rage.service",
        "rage node service print > rage.service && systemd-analyze verify ./rage.service    # in CI",
    ),
)
def print_() -> None:
    """Print a hardened systemd unit that runs this home's node."""
    from rage_cli.daemon import unit

    program = shutil.which(sys.argv[0]) or sys.argv[0]
    sys.stdout.write(unit(Path(program).absolute(), session.home().root, options.config))
    say("write it to /etc/systemd/system/rage.service, then: systemctl enable --now rage")
