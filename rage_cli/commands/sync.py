"""rage sync: the signed log that an organisation's nodes share, and how far they agree."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from rage_cli.command import noun, page
from rage_cli.options import options
from rage_cli.output import Column, confirm, render, render_beside, say
from rage_cli.session import run
from rage_cli.text import format_size
from rage_net.errors import EXIT_FINDINGS, EXIT_OK
from rage_net.verbs import sync as verbs

app = noun("Exchange metadata with peers, see who agrees, decide conflicts.")

PEER = (
    Column("peer id", lambda it: it.peer_id),
    Column("org", lambda it: it.organization),
    Column("received", lambda it: it.received, "count"),
    Column("refused", lambda it: it.refused, "count"),
    Column("equal", lambda it: it.is_equal),
    Column("seconds", lambda it: it.seconds, "seconds"),
    Column("sent", lambda it: it.sent_bytes, "size", wide=True),
    Column("got", lambda it: it.received_bytes, "size", wide=True),
    Column("error", lambda it: it.error, "prose"),
)


@app.command("run")
@page(
    examples=(
        "rage sync run",
        "rage sync run --peer 12D3KooWQ7",
        "rage sync run --timeout 30s --json    # in CI: exit 3 when some peers failed",
    ),
    exits=(3, 4, 5, 7),
)
def run_(
    peer: Annotated[list[str], typer.Option("--peer", metavar="PEER", help="This peer alone; repeatable.")] = [],  # noqa: B006
) -> None:
    """Exchange what is new with trusted peers now, instead of at the next round."""
    from rage_cli.partial import failure, raise_failures

    result = run(verbs.RunSync(tuple(peer)))
    render(result, PEER, items=result.peers, identifier=lambda it: it.peer_id)
    failed = [(row.peer_id, failure("unavailable", row.error)) for row in result.peers if row.error]
    raise_failures(
        f"{len(failed)} of {len(result.peers)} peers failed", failed, len(result.peers), mend=["rage sync status"]
    )


STATUS = (
    Column("problems", lambda it: it.problems),
    Column("state", lambda it: it.state),
    Column("organization", lambda it: it.organization),
    Column("last agreed", lambda it: it.synced_at or None, "time"),
    Column("epoch", lambda it: it.epoch, wide=True),
    Column("facts", lambda it: sum(log.facts for log in it.logs), "count"),
    Column("logs", lambda it: [f"{log.organization}: {log.facts} facts by {log.authors}" for log in it.logs]),
    Column("conflicts", lambda it: it.conflicts, "count"),
    Column("forks", lambda it: it.forks, "count"),
    Column("refused", lambda it: it.refused, "count"),
    Column("peers", lambda it: [f"{row.peer_id[-8:]} ({row.organization}) {_lag(row)}" for row in it.peers]),
)
HEADS = (
    Column("author", lambda it: it.author),
    Column("incarnation", lambda it: it.incarnation),
    Column("sequence", lambda it: it.sequence, "count"),
    Column("own", lambda it: it.is_own),
    Column("hash", lambda it: it.hash, wide=True),
)


@app.command()
@page(
    examples=(
        "rage sync status",
        "rage sync status --heads",
        "rage sync status -q || exit    # in CI: exit 6 when this node lags or a conflict waits",
    ),
    exits=(5, 6),
)
def status(
    heads: Annotated[bool, typer.Option("--heads", help="The state vector: how far each author's chain goes.")] = False,
) -> int:
    """Show whether this node agrees with its organisation, problems first."""
    result = run(verbs.ShowSync())
    if heads:
        render(result, HEADS, items=result.heads, identifier=lambda it: f"{it.author}/{it.incarnation}")
    else:
        render(result, STATUS if result.problems else STATUS[1:], identifier=lambda it: it.state)
    return EXIT_FINDINGS if result.problems else EXIT_OK


LOG = (
    Column("author", lambda it: it.author),
    Column("seq", lambda it: it.sequence, "count"),
    Column("what", lambda it: it.what),
    Column("resource", lambda it: it.resource),
    Column("text", lambda it: it.text, "prose"),
    Column("counts", lambda it: it.counts),
    Column("in force", lambda it: it.in_force),
    Column("lamport", lambda it: it.lamport, "count", wide=True),
    Column("id", lambda it: it.id, wide=True),
)


@app.command()
@page(
    examples=(
        "rage sync log",
        "rage sync log doc:4nq7k2v5m6x3c1b9z8a7s6d5f4",
        "rage sync log --json --limit 1000 | jq '.items[] | select(.counts | not)'    # in CI",
    ),
    exits=(5,),
)
def log(
    resource: Annotated[
        str, typer.Argument(metavar="[RESOURCE]", help="Facts about this alone: doc:ID, org:ORG.")
    ] = "",
    author: Annotated[str, typer.Option(metavar="PEER", help="Facts by this author alone.")] = "",
    org: Annotated[str, typer.Option("--org", metavar="ORG", help="Another organisation's log.")] = "",
    limit: Annotated[int, typer.Option(metavar="N", help="So many at most.", min=1, max=10_000)] = 100,
) -> None:
    """Show facts as they were written, the newest first: who said what, and whether it counts."""
    result = run(verbs.ShowLog(org, resource, author, limit))
    render(result, LOG, items=result.items, identifier=lambda it: it.id)


DIFF = (
    Column("author", lambda it: it.author),
    Column("incarnation", lambda it: it.incarnation),
    Column("here", lambda it: it.here, "count"),
    Column("there", lambda it: it.there, "count"),
    Column("fork", lambda it: it.is_fork),
)


@app.command()
@page(
    examples=(
        "rage sync diff 12D3KooWQ7",
        "rage sync diff 12D3KooWQ7 --json | jq '.items[] | select(.is_fork)'",
        "rage sync diff $PEER -q && echo equal    # in CI: exit 6 when they differ",
    ),
    exits=(4, 5, 6, 7),
)
def diff(peer: Annotated[str, typer.Argument(metavar="PEER", help="A peer id, a part of it, or a multiaddr.")]) -> int:
    """Compare this node's log with a peer's, without changing either."""
    result = run(verbs.DiffSync(peer))
    render(result, DIFF, items=result.items, identifier=lambda it: f"{it.author}/{it.incarnation}")
    if not result.items:
        say(f"equal: {result.peer_id} holds the same log of {result.organization}")
    return EXIT_FINDINGS if result.items else EXIT_OK


CONFLICTS = (
    Column("id", lambda it: it.id),
    Column("resource", lambda it: it.resource),
    Column("about", lambda it: it.subject),
    Column(
        "who wrote what", lambda it: [f"{fact.author[-8:]}: {fact.text} ({fact.id[:8]})" for fact in it.facts], "prose"
    ),
    Column("in force", lambda it: it.in_force, "prose"),
    Column("strategy", lambda it: it.strategy),
    Column("waits", lambda it: it.is_queued),
)


@app.command()
@page(
    examples=(
        "rage sync conflicts",
        "rage sync conflicts --all",
        "rage sync conflicts -q    # in CI: exit 6 when one waits for a person",
    ),
    exits=(5, 6),
)
def conflicts(
    all_: Annotated[bool, typer.Option("--all", help="Those too that a strategy has resolved.")] = False,
) -> int:
    """List facts that contradict each other and whose authors had not seen each other's, and evidence of forks."""
    result = run(verbs.ListConflicts(all_))
    render(result, CONFLICTS, items=result.items, identifier=lambda it: it.id)
    if not result.items and not result.forks:
        say("no conflict waits" if not all_ else "there is no conflict")
    for fork in result.forks:
        hashes = " and ".join(one[:16] for one in fork.hashes)
        say(f"fork: {fork.author} wrote two envelopes {fork.sequence} (incarnation {fork.incarnation}): {hashes}")
    return EXIT_FINDINGS if result.forks or any(item.is_queued for item in result.items) else EXIT_OK


RESOLVED = (
    Column("resource", lambda it: it.resource),
    Column("about", lambda it: it.subject),
    Column("in force", lambda it: it.in_force),
    Column("fact", lambda it: it.fact),
)


@app.command()
@page(
    examples=(
        "rage sync resolve 5f3a9c01",
        "rage sync resolve 5f3a9c01 --keep 77b0d1e2",
        "rage sync resolve $ID --keep restrictive --yes    # in CI",
    ),
    exits=(4, 5, 9),
)
def resolve(
    id_: Annotated[str, typer.Argument(metavar="ID", help="A conflict's id, or the beginning of it.")],
    keep: Annotated[
        str, typer.Option(metavar="FACT|restrictive", help="The fact that shall hold, by its id.")
    ] = "restrictive",
) -> None:
    """Decide a conflict for everyone, by a fact that has seen all of its facts."""
    confirm(f"Decide conflict {id_} for the whole organisation, keeping {keep}?")
    render(run(verbs.ResolveConflict(id_, keep)), RESOLVED, identifier=lambda it: it.fact)


EXPORTED = (
    Column("organization", lambda it: it.organization),
    Column("envelopes", lambda it: it.envelopes, "count"),
    Column("size", lambda it: it.size, "size"),
    Column("path", lambda it: it.path),
)


@app.command()
@page(
    examples=(
        "rage sync export -o acme.ragelog",
        "rage sync export | ssh cut-off.example rage sync import -",
        "rage sync export -o acme.ragelog --json    # in CI",
    ),
    exits=(5, 11),
)
def export(
    out: Annotated[str, typer.Option("-o", "--out", metavar="FILE|-", help="Where to; stdout without it.")] = "",
) -> None:
    """Write the organisation's log to a file, for a node that no network reaches."""
    from rage_cli.files import open_sink

    with open_sink(out) as sink:
        result = run(verbs.ExportSync(), sink=sink, label="log")
    result = replace(result, path=out if out not in ("", "-") else "")
    if not result.path:
        render_beside(result)
    elif options.format == "auto":
        say(f"{out}: {result.envelopes} envelopes, {format_size(result.size)}")
    else:
        render(result, EXPORTED, identifier=lambda it: it.path)


IMPORTED = (
    Column("organization", lambda it: it.organization),
    Column("received", lambda it: it.received, "count"),
    Column("refused", lambda it: it.refused, "count"),
    Column("reasons", lambda it: it.reasons),
)


@app.command("import")
@page(
    examples=(
        "rage sync import acme.ragelog",
        "rage sync import - < acme.ragelog",
        "rage sync import acme.ragelog --json    # in CI: exit 6 when something was refused",
    ),
    exits=(4, 5, 6, 8),
)
def import_(
    path: Annotated[str, typer.Argument(metavar="PATH|-", help="A file, or - for stdin.")],
) -> int:
    """Read an exported log; it is checked as if a stranger had sent it."""
    from rage_cli.files import FileSource

    with FileSource(path) as source:
        result = run(verbs.ImportSync(source.size), source=source, label=source.name)
    render(result, IMPORTED, identifier=lambda it: it.organization)
    return EXIT_FINDINGS if result.refused else EXIT_OK


COMPACTED = (
    Column("organization", lambda it: it.organization),
    Column("before", lambda it: it.before, "count"),
    Column("after", lambda it: it.after, "count"),
    Column("dry run", lambda it: it.dry_run),
)


@app.command()
@page(
    examples=(
        "rage sync compact --dry-run",
        "rage sync compact --yes",
        "rage sync compact --author 12D3KooWQ7 --yes    # a departed node's, by an admin",
    ),
    exits=(4, 5, 7),
)
def compact(
    author: Annotated[str, typer.Option(metavar="PEER", help="A departed author's chains, by an admin.")] = "",
) -> None:
    """Write what is still wanted of this node's chains into a new one; the old are closed everywhere."""
    if not options.dry_run:
        confirm("Close this node's chains and begin a new one with what is still wanted?")
    result = run(verbs.CompactSync(author, options.dry_run))
    render(result, COMPACTED, identifier=lambda it: it.organization)


def _lag(row: verbs.SyncPeerRow) -> str:
    if row.error:
        return row.error
    if not row.synced_at:
        return "not met yet"
    return f"{row.behind} behind" if row.behind else "agrees"
