"""rage peer: the other nodes."""

from __future__ import annotations

from typing import Annotated

import typer

from rage_cli.command import duration_of, not_one_of, noun, page, words_of
from rage_cli.output import Column, chosen_format, render, say
from rage_cli.session import run, run_in_node
from rage_cli.text import format_duration
from rage_net.errors import UnavailableError
from rage_net.verbs import peer as verbs

app = noun("Look at peers, find them, connect to them, ping and ban them.")

Peer = Annotated[
    str, typer.Argument(metavar="PEER", help="A peer id, a unique beginning or end of it, or a multiaddr.")
]
PeerIdArgument = Annotated[str, typer.Argument(metavar="PEER", help="A peer id, or a unique beginning or end of it.")]
Org = Annotated[str, typer.Option("--org", metavar="ORG", help="Only peers of this organisation.")]
Region = Annotated[str, typer.Option("--region", metavar="REGION", help="Only peers of this region.")]
Cap = Annotated[str, typer.Option("--cap", metavar="NAME", help="Only peers with this capability.")]

STATES = ("connected", "known", "banned", "alive", "suspect", "gone")

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
    Column("liveness", lambda it: it.liveness),
    Column("org", lambda it: it.organization),
    Column("region", lambda it: it.region),
    Column("capabilities", lambda it: it.capabilities, wide=True),
    Column("source", lambda it: it.source, wide=True),
    Column("trust", lambda it: it.trust),
)
CARD = (
    *ROW,
    Column("scopes", lambda it: it.scopes),
    Column("certified until", lambda it: it.certified_until, "time"),
    Column("synced at", lambda it: it.synced_at, "time"),
    Column("behind", lambda it: it.behind if it.synced_at else None, "count"),
    Column("zone", lambda it: it.zone),
    Column("banned until", lambda it: it.until, "time"),
    Column("reason", lambda it: it.reason),
    Column("protocols", lambda it: it.protocols),
)


@app.command("list")
@page(
    examples=(
        "rage peer list",
        "rage peer list --known --region eu-west",
        "rage peer list --state banned",
        "rage peer list -q | wc -l    # in CI: one peer id a line",
    ),
    exits=(7,),
)
def list_(
    known: Annotated[bool, typer.Option("--known", help="Those of the address book, and the banned, too.")] = False,
    state: Annotated[
        str, typer.Option(metavar="|".join(STATES), help="Only peers in this state, known ones among them.")
    ] = "",
    org: Org = "",
    region: Region = "",
    cap: Cap = "",
) -> None:
    """List the peers that the node is connected to."""
    if state and state not in STATES:
        raise not_one_of("--state", state, STATES)
    result = run_in_node(verbs.ListPeers(known or state not in ("", "connected"), state, org, region, cap))
    render(result, ROW, items=result.items, identifier=lambda it: it.peer_id)


@app.command()
@page(
    examples=(
        "rage peer info 12D3KooWQ7",
        "rage peer info /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW...",
        "rage peer info $PEER --json | jq -r .agent    # in CI",
    ),
    exits=(4, 5, 7),
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
    exits=(4, 7),
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
    exits=(4, 5, 7),
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


FOUND = (
    Column("peer id", lambda it: it.peer_id),
    Column("via", lambda it: it.via),
    Column("org", lambda it: it.organization),
    Column("region", lambda it: it.region),
    Column("connected", lambda it: it.is_connected),
    Column("capabilities", lambda it: it.capabilities, wide=True),
    Column("addresses", lambda it: it.addresses, wide=True),
    Column("error", lambda it: it.error),
)
FOUND_WIDTHS = (52, 17, 10, 10, 9, 16, 48)


@app.command()
@page(
    examples=(
        "rage peer discover",
        "rage peer discover --via mdns --for 3s",
        "rage peer discover --via server,dht --org acme --connect",
        "rage peer discover --for 5s --json > peers.json || [ $? -eq 3 ]    # in CI: 3 is some ways failed",
    ),
    exits=(3, 5, 6, 7),
)
def discover(
    via: Annotated[
        str,
        typer.Option(
            metavar=",".join(verbs.VIAS), help="Ways to look, all at once; without it those that are switched on."
        ),
    ] = "",
    for_: Annotated[str, typer.Option("--for", metavar="DURATION", help="How long to look at most.")] = "10s",
    connect: Annotated[bool, typer.Option("--connect", help="Dial each peer that is found.")] = False,
    org: Org = "",
    region: Region = "",
) -> None:
    """Look for peers by discovery servers, the DHT and mDNS, and print each as it is found; needs no node."""
    from rage_cli.partial import failure, raise_failures
    from rage_cli.rows import Rows
    from rage_net.refusals import no_peers_found

    ways = words_of("--via", via, verbs.VIAS) if via else verbs.VIAS
    verb = verbs.DiscoverPeers(ways, duration_of("--for", for_, "10s") or 0.0, connect, org, region)
    rows = Rows(FOUND, FOUND_WIDTHS, identifier=lambda it: it.peer_id)
    result = run(verb, on_item=rows)
    if chosen_format() == "json":
        render(result, FOUND, identifier=lambda it: it.peer_id)
    for way in result.ways:
        say(f"{way.via}: {way.error or f'{way.found} found'} after {format_duration(way.seconds)}")
    failed = [way for way in result.ways if way.code or way.error]
    asked = [way for way in result.ways if via or way.code not in SWITCHED_OFF]
    if asked:  # what is switched off has failed only where it was named
        failed = [way for way in failed if way in asked]
    raise_failures(
        f"{len(failed)} of {len(asked or failed)} ways to discover peers failed",
        [(way.via, failure(way.code, way.error)) for way in failed],
        len(asked or failed),
        mend=[f"rage doctor {' '.join(f'--only {CHECKS[way.via]}' for way in failed if way.via in CHECKS)}".strip()],
    )
    if not result.items:
        raise no_peers_found(
            ", ".join(f"{way.via}: {way.error or f'nobody in {format_duration(way.seconds)}'}" for way in result.ways)
        )


SWITCHED_OFF = ("no-servers", "discovery-off", "dht-off", "mdns-off")
"""Errors of a way that the configuration, or this network, does not offer."""

CHECKS = {"server": "discovery", "dht": "dht", "mdns": "mdns"}
"""Way -> the doctor's check of it."""

PLACE = (
    Column("peer id", lambda it: it.peer_id),
    Column("addresses", lambda it: it.addresses),
    Column("source", lambda it: it.source),
    Column("connected", lambda it: it.is_connected),
    Column("seconds", lambda it: it.seconds, "seconds"),
    Column("asked", lambda it: it.asked),
)


@app.command()
@page(
    examples=(
        "rage peer find 12D3KooWQ7",
        "rage peer find 12D3KooW... --json | jq -r '.addresses[]'",
        "rage peer find $PEER --timeout 10s -q    # in CI: exit 5 when nobody knows where it is",
    ),
    exits=(4, 5, 7),
)
def find(peer: PeerIdArgument) -> None:
    """Find where a peer can be dialled: from here, discovery servers, and the DHT."""
    render(run(verbs.FindPeer(peer), label=f"find {peer}"), PLACE, identifier=lambda it: it.peer_id)


BAN = (
    Column("peer id", lambda it: it.peer_id),
    Column("banned", lambda it: it.is_banned),
    Column("until", lambda it: it.until, "time"),
    Column("reason", lambda it: it.reason),
    Column("was connected", lambda it: it.was_connected),
)


@app.command()
@page(
    examples=(
        "rage peer ban 12D3KooWQ7 --for 1h --reason 'sends wrong bytes'",
        "rage peer ban 12D3KooW...",
        "rage peer ban $PEER --for 7d -q    # in CI",
    ),
    exits=(5,),
)
def ban(
    peer: PeerIdArgument,
    for_: Annotated[str, typer.Option("--for", metavar="DURATION", help="How long; for good without it.")] = "",
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for whoever meets the ban later.")] = "",
) -> None:
    """Drop a peer and have nothing to do with it any more; a ban survives a restart."""
    render(run(verbs.BanPeer(peer, duration_of("--for", for_, "1h"), reason)), BAN, identifier=lambda it: it.peer_id)


@app.command()
@page(
    examples=(
        "rage peer unban 12D3KooWQ7",
        "rage peer list --state banned -q | xargs -n1 rage peer unban",
        "rage peer unban $PEER || [ $? -eq 5 ]    # in CI: 5 is there was no ban",
    ),
    exits=(5,),
)
def unban(peer: PeerIdArgument) -> None:
    """Lift a ban."""
    render(run(verbs.UnbanPeer(peer)), BAN, identifier=lambda it: it.peer_id)
