"""How CDNs look to a person: what failed first, by provider and edge; the command that mends it beside it.

Columns for every form of output, and words that stand beside a table. Not here: what is asked (`commands.cdn`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rage_cli.output import Column
from rage_cli.text import counted, format_duration
from rage_net.verbs import cdn as verbs

ORDER = ("failed", "queued", "pending", "planned", "accepted", "done")

PURGE = (
    Column("provider", lambda it: it.provider),
    Column("edge", lambda it: it.edge, "address"),
    Column("state", lambda it: it.state),
    Column("names", lambda it: it.words, "count"),
    Column("calls", lambda it: it.calls, "count"),
    Column("objects", lambda it: it.objects, "count"),
    Column("reason", lambda it: it.reason, "prose"),
    Column("tries", lambda it: it.tries, "count", wide=True),
    Column("id", lambda it: it.vendor_id, wide=True),
)
PROOF = (
    Column("provider", lambda it: it.provider),
    Column("edge", lambda it: it.edge, "address"),
    Column("path", lambda it: it.path),
    Column("proof", lambda it: it.proof),
    Column("evidence", lambda it: it.evidence, "prose"),
    Column("reason", lambda it: it.reason, "prose", wide=True),
)
JOURNAL = (
    Column("purge", lambda it: it.purge_id, "id"),
    Column("asked", lambda it: it.asked_at, "time", spare=2),
    Column("cause", lambda it: it.cause, spare=1),
    Column("what", lambda it: it.label, "prose", spare=3),
    Column("states", lambda it: states_in_words(it)),
)
PROVIDER = (
    Column("provider", lambda it: it.provider),
    Column("hit ratio", lambda it: "" if it.hit_ratio is None else f"{100 * it.hit_ratio:.1f}%"),
    Column("waiting", lambda it: it.waiting, "count"),
    Column("quota left", lambda it: it.quota_left),
    Column("regions", lambda it: ", ".join(it.regions) or "all"),
    Column("priority", lambda it: it.priority, "count"),
    Column("problem", lambda it: it.problem, "prose"),
    Column("software", lambda it: it.software, wide=True),
    Column("edges", lambda it: ", ".join(it.edges or it.public_urls), wide=True),
)
CHECK = (
    Column("provider", lambda it: it.provider),
    Column("edge", lambda it: it.edge, "address"),
    Column("ok", lambda it: "yes" if it.ok else "no"),
    Column("message", lambda it: it.message, "prose"),
)
STEP = (
    Column("provider", lambda it: it.provider),
    Column("edge", lambda it: it.edge, "address"),
    Column("step", lambda it: it.step),
    Column("ok", lambda it: "yes" if it.ok else "pending" if it.is_pending else "no"),
    Column("status", lambda it: it.status or None, "count"),
    Column("evidence", lambda it: it.evidence, "prose"),
    Column("time", lambda it: it.seconds or None, "seconds"),
    Column("reason", lambda it: it.reason, "prose"),
)
WARM = (
    Column("provider", lambda it: it.provider),
    Column("edge", lambda it: it.edge, "address"),
    Column("hits", lambda it: it.hits, "count"),
    Column("fills", lambda it: it.fills, "count"),
    Column("failed", lambda it: it.failed, "count"),
    Column("reason", lambda it: it.reason, "prose"),
)
PUBLISH = (
    Column("provider", lambda it: it.provider),
    Column("bucket", lambda it: it.bucket, "address"),
    Column("put", lambda it: it.put, "count"),
    Column("existed", lambda it: it.existed, "count"),
    Column("failed", lambda it: it.failed, "count"),
    Column("size", lambda it: it.bytes, "size"),
    Column("reason", lambda it: it.reason, "prose"),
)
RULE = (
    Column("path", lambda it: it.path),
    Column("rule", lambda it: it.rule),
    Column("ttl", lambda it: it.ttl_s, "seconds"),
    Column("headers", lambda it: "; ".join(f"{name}: {text}" for name, text in it.headers.items()), "prose"),
)
HEADER = (Column("header", lambda it: it[0]), Column("value", lambda it: it[1], "prose"))


def worst_first(rows: Sequence[verbs.PurgeRow]) -> list[verbs.PurgeRow]:
    """What failed, then what waits, then what went."""
    return sorted(rows, key=lambda it: (ORDER.index(it.state), it.provider, it.edge))


def states_in_words(result: verbs.PurgeResult) -> str:
    """`2 done, 1 queued`, the worst first; edges are counted."""
    counts = {state: sum(row.state == state for row in result.rows) for state in ORDER}
    parts = [f"{len(result.impossible)} not possible"] if result.impossible else []
    parts += [f"{count} {state}" for state, count in counts.items() if count]
    return ", ".join(parts) or "nothing to do"


def purge_in_words(result: verbs.PurgeResult) -> Iterator[str]:
    """What stands beside the table of a purge."""
    if result.dry_run:
        calls = sum(row.calls for row in result.rows)
        when = f"the last in {format_duration(result.seconds)}, by the quotas" if result.seconds else "all at once"
        yield f"{result.label}: {counted(calls, 'call')}{f', {when}' if calls > 1 else ''}"
        return
    yield f"{result.purge_id}: {result.label}: {states_in_words(result)}"
    proved = sum(proof.proof == "gone" for proof in result.proofs)
    if result.proofs:
        yield f"proved at {proved} of {counted(len(result.proofs), 'place')}"
    if any(row.state in ("queued", "pending") for row in result.rows):
        yield f"what waits is sent by the node, or by the next rage cdn command: rage cdn journal {result.purge_id}"
