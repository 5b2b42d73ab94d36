"""rage status."""

from __future__ import annotations

from rage_cli.command import noun, page
from rage_cli.output import Column, render
from rage_cli.session import run
from rage_cli.text import counted
from rage_net.errors import EXIT_FINDINGS, EXIT_OK
from rage_net.verbs.node import CdnGlance, ShowStatus

app = noun("How this home and its node are, problems first.")

STATUS = (
    Column("problems", lambda it: it.problems),
    Column("state", lambda it: it.state),
    Column("peer id", lambda it: it.peer_id),
    Column("listen", lambda it: it.listen),
    Column("http", lambda it: it.http),
    Column("peers", lambda it: it.peers, "count"),
    Column("documents", lambda it: it.documents, "count"),
    Column("chunks", lambda it: it.chunks, "count"),
    Column("size", lambda it: it.bytes, "size"),
    Column("free", lambda it: it.free_bytes, "size"),
    Column("scrubbed at", lambda it: (it.scrub.ended_at or None) if it.scrub else None, "time"),
    Column("scrub", lambda it: f"{it.scrub.progress:.0%}, {it.scrub.bad} bad" if it.scrub else None),
    Column("uptime", lambda it: it.uptime_s if it.pid else None, "seconds"),
    Column("organization", lambda it: it.organization),
    Column("region", lambda it: it.region),
    Column("version", lambda it: it.version),
    Column("pid", lambda it: it.pid or None),
    Column("certified until", lambda it: it.certificate.expires_at if it.certificate else None, "time"),
    Column("proven", lambda it: it.is_proven if it.sync else None),
    Column("trusts", lambda it: it.trusted or None),
    Column("sync", lambda it: it.sync.state if it.sync else None),
    Column("synced at", lambda it: (it.sync.synced_at or None) if it.sync else None, "time"),
    Column("facts", lambda it: it.sync.facts if it.sync else None, "count"),
    Column("conflicts", lambda it: it.sync.conflicts if it.sync else None, "count"),
    Column("cdn", lambda it: cdn_in_words(it.cdn) if it.cdn else None),
)


def cdn_in_words(cdn: CdnGlance) -> str:
    """`2 providers, 1 purge open, 3 names failed`: what is not so is left out."""
    parts = [counted(cdn.providers, "provider")]
    parts += [f"{counted(cdn.open, 'purge')} open"] if cdn.open else []
    parts += [f"{counted(cdn.failed, 'name')} failed"] if cdn.failed else []
    return ", ".join(parts)


@app.command()
@page(
    examples=(
        "rage status",
        "rage status --json | jq .chunks",
        "rage status -q || exit    # in CI: exit 6 when something is wrong",
    ),
    exits=(5, 6),
)
def status() -> int:
    """Show the node, or without one the store, on one screen; problems first."""
    result = run(ShowStatus())
    render(result, STATUS if result.problems else STATUS[1:], identifier=lambda it: it.state)
    return EXIT_FINDINGS if result.problems else EXIT_OK
