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
    for provider, edge, words in journal.count_failed():
        if is_asked(provider, edge):
            failed[provider] = failed.get(provider, 0) + words
    open_ = journal.newest(OPEN_MAX, is_open=True)
    if not open_:
        return Glance(failed=failed)
    return Glance(len(open_), open_[-1].asked_at, open_[-1].id, failed)
