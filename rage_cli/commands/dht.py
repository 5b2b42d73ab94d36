"""rage dht: the distributed hash table, and look-ups hop by hop."""

from __future__ import annotations

from typing import Annotated

import typer

from rage_cli.command import noun, page
from rage_cli.output import Column, chosen_format, is_json, render, say, to_json
from rage_cli.session import run, run_in_node
from rage_cli.text import format_duration
from rage_net.refusals import dht_empty, no_providers
from rage_net.verbs import dataclass
from rage_net.verbs import dht as verbs

app = noun("Look into the DHT: its table, look-ups, each hop of one.")

Target = Annotated[str, typer.Argument(metavar="PEER|CID", help="A peer id or a CID.")]

CONTACT = (
    Column("distance", lambda it: it.distance_bits, "count"),
    Column("peer id", lambda it: it.peer_id),
    Column("age", lambda it: it.age_s, "seconds"),
    Column("addresses", lambda it: it.addresses, wide=True),
)
BUCKET = (
    Column("distance", lambda it: it.distance_bits, "count"),
    Column("contacts", lambda it: len(it.contacts), "count"),
    Column("replacements", lambda it: it.replacements, "count"),
)
HOP = (
    Column("hop", lambda it: it.number, "count"),
    Column("depth", lambda it: it.depth, "count"),
    Column("outcome", lambda it: it.outcome),
    Column("ms", lambda it: round(it.ms, 1)),
    Column("distance", lambda it: it.distance_bits, "count"),
    Column("closer", lambda it: it.closer, "count"),
    Column("providers", lambda it: it.providers, "count", wide=True),
    Column("peer id", lambda it: it.peer_id),
    Column("address", lambda it: it.address, wide=True),
    Column("error", lambda it: it.error),
)
HOP_WIDTHS = (4, 5, 8, 7, 8, 6, 9, 52, 40)


@app.command()
@page(
    examples=(
        "rage dht table",
        "rage dht table --buckets",
        "rage dht table --json | jq .contacts    # in CI",
    ),
    exits=(7,),
)
def table(
    buckets: Annotated[bool, typer.Option("--buckets", help="A line a bucket instead of a line a contact.")] = False,
) -> None:
    """Show the node's routing table, nearest first; distances are bits in which a key differs from ours."""
    result = run_in_node(verbs.ShowTable())
    contacts = [contact for bucket in result.buckets for contact in bucket.contacts]
    if buckets:
        render(result, BUCKET, items=result.buckets, identifier=lambda it: str(it.distance_bits))
    else:
        render(result, CONTACT, items=contacts, identifier=lambda it: it.peer_id)
    say(
        f"mode {result.mode}: {result.contacts} contacts, {result.replacements} replacements; "
        f"stored here: {result.provider_records} provider records, {result.value_records} values"
    )


@app.command()
@page(
    examples=(
        "rage dht find 12D3KooW...",
        "rage dht find bafkr4i...",
        "rage dht find $CID -q | head -3    # in CI: the three peers nearest to it",
    ),
    exits=(7,),
)
def find(target: Target) -> None:
    """Find the peers nearest to a peer id or CID, at most 20; works without a node too."""
    result = run(verbs.FindNearest(target), label=f"find {target}")
    _show_contacts(result, result.found)
    if not result.found:
        raise dht_empty()


@app.command()
@page(
    examples=(
        "rage dht providers bafkr4i...",
        "rage dht providers bafkr4i... --limit 3 --json",
        "rage dht providers $CID -q | head -1    # in CI: exit 5 when nobody provides it",
    ),
    exits=(5, 7),
)
def providers(
    cid: Annotated[str, typer.Argument(metavar="CID", help="The root of a document, or a pinned one.")],
    limit: Annotated[int, typer.Option(metavar="N", help="At most this many.", min=1, max=1000)] = 20,
) -> None:
    """Find the peers that the DHT says provide a CID; works without a node too."""
    result = run(verbs.FindProviders(cid, limit), label=f"providers of {cid}")
    _show_contacts(result, result.providers)
    if not result.providers:
        raise _nobody_provides(result)


@dataclass(frozen=True, slots=True)
class Trace:
    """A look-up and all its hops."""

    target: str
    kind: str
    hops: tuple[verbs.Hop, ...]
    found: tuple[verbs.Contact, ...]
    providers: tuple[verbs.Contact, ...]
    asked: int
    failed: int
    depth: int
    seconds: float


@app.command()
@page(
    examples=(
        "rage dht trace bafkr4i...",
        "rage dht trace 12D3KooW... --format ndjson    # a Hop a line as it happens, then the LookUp",
        "rage dht trace $CID --json | jq '.hops | length'    # in CI: one object, when all is over",
    ),
    exits=(5, 7),
)
def trace(target: Target) -> None:
    """Look something up in the DHT and print each hop as it happens; works without a node too."""
    import sys

    from rage_cli.rows import Rows

    rows = Rows(HOP, HOP_WIDTHS, identifier=lambda it: it.peer_id)
    hops: list[verbs.Hop] = []

    def note(hop: verbs.Hop) -> None:
        if len(hops) < HOPS_KEPT_MAX:
            hops.append(hop)
        rows(hop)

    result = run(verbs.TraceLookUp(target), on_item=note)
    match chosen_format():
        case "json":
            whole = Trace(
                result.target,
                result.kind,
                tuple(hops),
                result.found,
                result.providers,
                result.asked,
                result.failed,
                result.depth,
                result.seconds,
            )
            render(whole, HOP, identifier=lambda it: it.target)
        case "ndjson":
            sys.stdout.write(to_json(result))
    _say_cost(result)
    if not result.asked:
        raise dht_empty()
    if result.kind == "cid" and not result.providers:
        raise _nobody_provides(result)


HOPS_KEPT_MAX = 10_000
"""Of a trace's one object: far more than a look-up asks."""


def _show_contacts(result: verbs.LookUpResult, contacts: tuple[verbs.Contact, ...]) -> None:
    if contacts or is_json():
        render(result, CONTACT, items=contacts, identifier=lambda it: it.peer_id)
    _say_cost(result)


def _say_cost(result: verbs.LookUpResult) -> None:
    say(
        f"{len(result.found)} nearest, {len(result.providers)} providers; "
        f"{result.asked} asked, {result.failed} failed, {result.depth} deep, {format_duration(result.seconds)}"
    )


def _nobody_provides(result: verbs.LookUpResult) -> Exception:
    return no_providers(
        result.target, f"the DHT was asked: {result.asked} peers, of which {result.failed} did not answer"
    )
