"""How purges stand at a glance, for status and doctor: how many wait, since when, and what failed for good.

From the journal and cdn.yaml alone: no client is made, nobody is asked. Blocking. Source: issue 6, F.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rage_net.cdn.journal import Journal
from rage_net.config.cdn import Cdn, Edge

OPEN_MAX = 1000
"""Purges that are counted; of more the oldest of these is told."""
LONG_S = 3600.0
"""A purge that waits longer is told of: the slowest vendors take twenty minutes, behind those that came before."""
OF_BUCKET = "-bucket"
"""After a provider's name: its buckets in the journal, as `emptying.SUFFIX`, whose module loads their clients."""
_FAILED = (
    "WITH bad AS MATERIALIZED ("
    " SELECT work.provider, work.edge, work.kind, work.word, work.soft, max(work.number) AS number"
    " FROM call JOIN work ON work.reference = call.reference AND work.reference != ''"
    " WHERE call.state = 'failed' GROUP BY 1, 2, 3, 4, 5),"
    " later AS MATERIALIZED ("
    " SELECT work.provider, work.edge, work.kind, work.word, work.soft, max(work.number) AS number"
    " FROM work LEFT JOIN call ON call.reference = work.reference"
    " WHERE work.number > (SELECT min(number) FROM bad) AND coalesce(call.state, 'queued') != 'failed'"
    " GROUP BY 1, 2, 3, 4, 5),"
    " judged AS ("
    " SELECT bad.provider, bad.edge, max(coalesce(later.number > bad.number, 0)) AS is_mended"
    " FROM bad LEFT JOIN later ON later.provider = bad.provider AND later.edge = bad.edge AND later.kind = bad.kind"
    " AND later.word = bad.word AND later.soft <= bad.soft"
    " GROUP BY bad.provider, bad.edge, bad.kind, bad.word, bad.soft)"
    " SELECT provider, edge, count(*) FROM judged WHERE NOT is_mended GROUP BY 1, 2"
)
"""As `Journal.failed`, counted alone, and in one pass: it is asked every few seconds."""


@dataclass(frozen=True, slots=True)
class Glance:
    """`open`: purges that have not ended, OPEN_MAX at most. Of CDNs and edges that left cdn.yaml nothing is told."""

    open: int = 0
    open_since: float = 0.0
    """When the oldest of them was asked, since the epoch; 0 without one."""
    oldest: str = ""
    """Its id."""
    failed: Mapping[str, int] = field(default_factory=dict)
    """Names (URLs, tags, ...) that were refused and not purged since, by provider."""


def look(journal: Journal, config: Cdn) -> Glance:
    """What waits, and what failed and was not purged since."""
    edges = {
        str(it.name): {url.rstrip("/") for url in it.config.endpoints} if isinstance(it.config, Edge) else {""}
        for it in config.providers
    }

    def is_asked(provider: str, edge: str) -> bool:
        return edge in edges.get(provider, ()) or provider.removesuffix(OF_BUCKET) in edges.keys() - {provider}

    failed: dict[str, int] = {}
    with journal._db.read() as db:
        rows = db.execute(_FAILED).fetchall()
    for provider, edge, words in rows:
        if is_asked(provider, edge):
            failed[provider] = failed.get(provider, 0) + words
    open_ = journal.newest(OPEN_MAX, is_open=True)
    if not open_:
        return Glance(failed=failed)
    return Glance(len(open_), open_[-1].asked_at, open_[-1].id, failed)
