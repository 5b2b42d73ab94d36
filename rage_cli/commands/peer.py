"""rage peer: the other nodes."""

from __future__ import annotations

from typing import Annotated

import typer

from rage_cli.command import noun, page
from rage_cli.output import Column, render
from rage_cli.session import run, run_in_node
from rage_net.errors import UnavailableError
from rage_net.verbs import peer as verbs

app = noun("Look at peers, connect to them, ping them.")

Peer = Annotated[
    str, typer.Argument(metavar="PEER", help="A peer id, a unique beginning or end of it, or a multiaddr.")
]

ROW = (
    Column("peer id", lambda it: it.peer_id),
    Column("state", lambda it: it.state),
    Column("rtt ms", lambda it: None if it.rtt_ms is None else round(it.rtt_ms, 2)),
    Column("connected", lambda it: it.connected_s, "seconds"),
    Column("direction", lambda it: it.direction, wide=True),
    Column("in", lambda it: it.bytes_in, "size", wide=True),
    Column("out", lambda it: it.bytes_out, "size", wide=True),
    Column("streams", lambda it: it.streams, "count", wide=True),
    Column("agent", lambda it: it.agent, wide=True),
    Column("addresses", lambda it: it.addresses, wide=True),
)
CARD = (*ROW, Column("protocols", lambda it: it.protocols))


@app.command("list")
@page(
    examples=("rage peer list", "rage peer list --known", "rage peer list -q | wc -l    # in CI: one peer id a line"),
    exits=(7,),
)
def list_(
    known: Annotated[bool, typer.Option("--known", help="Those of the address book too.")] = False,
) -> None:
    """List the peers that the node is connected to."""
    result = run_in_node(verbs.ListPeers(known))
    render(result, ROW, items=result.items, identifier=lambda it: it.peer_id)


@app.command()
@page(
    examples=(
        "rage peer info 12D3KooWQ7",
        "rage peer info /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW...",
        "rage peer info $PEER --json | jq -r .agent    # in CI",
    ),
    exits=(5, 7),
)
def info(peer: Peer) -> None:
    """Show one peer; a multiaddr is dialled."""
    render(run(verbs.ShowPeer(peer)), CARD, identifier=lambda it: it.peer_id)


@app.command()
@page(
    examples=(
        "rage peer connect /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW...",
        "rage peer connect /dns4/node.example/tcp/4001/p2p/12D3KooW...",
        "rage peer connect $ADDRESS --timeout 10s -q    # in CI: exit 7 when nobody answers",
    ),
    exits=(7,),
)
def connect(
    address: Annotated[str, typer.Argument(metavar="MULTIADDR", help="Where the peer listens, with /p2p/ and its id.")],
) -> None:
    """Connect the node to a peer."""
    render(run_in_node(verbs.ConnectPeer(address)), CARD, identifier=lambda it: it.peer_id)


PING = (
    Column("peer id", lambda it: it.peer_id),
    Column("address", lambda it: it.address),
    Column("round trips ms", lambda it: [round(rtt, 2) for rtt in it.rtt_ms]),
    Column("median ms", lambda it: round(sorted(it.rtt_ms)[len(it.rtt_ms) // 2], 2) if it.rtt_ms else None),
    Column("lost", lambda it: it.lost, "count"),
)


@app.command()
@page(
    examples=(
        "rage peer ping 12D3KooWQ7",
        "rage peer ping /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW... -c 10",
        "rage peer ping $ADDRESS -c 1 --timeout 5s    # in CI: exit 7 when it does not answer",
    ),
    exits=(5, 7),
)
def ping(
    peer: Peer,
    count: Annotated[int, typer.Option("-c", "--count", metavar="N", help="How many times.", min=1, max=10_000)] = 5,
    interval: Annotated[float, typer.Option(metavar="SECONDS", help="Between two pings.", min=0.0)] = 0.2,
) -> None:
    """Measure round trips to a peer over an encrypted connection; works without a node too."""
    result = run(verbs.PingPeer(peer, count, interval))
    render(result, PING, identifier=lambda it: it.peer_id)
    if not result.rtt_ms:
        raise UnavailableError(f"{peer} answered none of {count} pings", mend=[f"rage peer info {peer}"])
