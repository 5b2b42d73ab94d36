"""How the CDNs stand: hit ratios by their own figures, quotas, what waits. Source: issue 6, F."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rage_net.cdn.provider import Level
from rage_net.errors import UsageError
from rage_net.verbs import cdn as verbs

if TYPE_CHECKING:
    from rage_net.cdns import Cdns
    from rage_net.engine import Engine, Io

LEVEL_S_MAX = 10.0
PERIOD_S_MIN, PERIOD_S_MAX = 60.0, 30 * 86_400.0


async def show_cdn(engine: Engine, verb: verbs.ShowCdn, io: Io) -> verbs.CdnStatus:
    """A row for each CDN, in the order in which they are asked. Raises: UsageError for a time out of range."""
    if not PERIOD_S_MIN <= verb.hours * 3600.0 <= PERIOD_S_MAX:
        raise UsageError(
            f"figures of {verb.hours:g} hours back cannot be had",
            why=f"from a minute up to {PERIOD_S_MAX / 3600:.0f} hours: vendors keep no more",
            mend=["rage cdn status --hours 24"],
        )
    cdns = await engine.cdns()
    until = engine.env.now()
    since = until - verb.hours * 3600.0
    rows = await asyncio.gather(*(_row(engine, cdns, name, since, until) for name in cdns.sections))
    return verbs.CdnStatus(tuple(rows))


async def _row(engine: Engine, cdns: Cdns, name: str, since: float, until: float) -> verbs.CdnRow:
    section = cdns.sections[name]
    client = cdns.purging.providers.get(name)
    level = await level_of(cdns, name, since, until)
    ratio = _whole(level)
    edges = tuple(client.edges) if client is not None else ()
    waiting = [await engine.env.blocking(cdns.journal.open_words, name, edge) for edge in edges]
    return verbs.CdnRow(
        provider=name,
        software=section.software,
        edges=tuple(edge for edge in edges if edge),
        public_urls=tuple(section.public_urls),
        regions=tuple(section.routing.regions),
        priority=section.routing.priority,
        hit_ratio=ratio,
        basis=level.basis,
        hit_ratios=dict(level.hit_ratio),
        quota_left=level.quota_left,
        waiting=sum(waiting),
        problem=level.reason if ratio is None and level.is_fault else "",
        hint=level.reason if ratio is None and not level.is_fault else "",
    )


async def level_of(cdns: Cdns, name: str, since: float, until: float) -> Level:
    """A provider's own figures, or why there are none."""
    client = cdns.purging.providers.get(name)
    if client is None:
        return Level(reason="chunks are only read from it", is_fault=False)
    try:
        async with asyncio.timeout(LEVEL_S_MAX):
            return await client.level(since, until)
    except TimeoutError:
        return Level(reason=f"it gave no figures within {LEVEL_S_MAX:.0f} s")


async def measure(engine: Engine, cdns: Cdns, period_s: float) -> None:
    """The gauge `rage_cdn_cache_hit_ratio`, from each provider's own figures of the last while. A node's round."""
    until = engine.env.now()
    found: dict[tuple[str, ...], float] = {}
    for name in cdns.sections:
        level = await level_of(cdns, name, until - period_s, until)
        found |= {(name, region): ratio for region, ratio in level.hit_ratio.items()}
    engine.metrics.cdn_hit_ratio.replace(found)


def _whole(level: Level) -> float | None:
    return level.hit_ratio.get("all") if level.overall is None else level.overall
