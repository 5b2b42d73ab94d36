"""The doctor's checks of CDNs: whether each answers and is as cdn.yaml says, and whether purges get through.

Files are `checkup`'s. Source: issue 6, B.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rage_net.cdn.glance import LONG_S
from rage_net.checkup.outcomes import ok, skipped, span
from rage_net.verbs.cdn import CheckCdn
from rage_net.verbs.diagnose import Check

if TYPE_CHECKING:
    from rage_net.engine import Engine

ANSWER_S = 18.0
"""For all CDNs, which are asked at once: less than the doctor gives a check."""
SHOWN_MAX = 3


async def check_cdn(engine: Engine) -> Check:
    """Whether credentials, ids, rights and edges are right, without a change. Raises ConfigError."""
    config = await engine.env.blocking(lambda: engine.cdn_config)
    if not config.providers:
        return skipped("cdn", "no CDN is configured")
    if not config.enabled:
        return skipped("cdn", "CDNs are switched off")
    try:
        async with asyncio.timeout(ANSWER_S):
            rows = (await engine.run(CheckCdn())).items
    except TimeoutError:
        why = "each is asked with a deadline of its own by rage cdn check"
        return Check("cdn", "warning", f"not all CDNs answered within {ANSWER_S:.0f} s", why, ("rage cdn check",))
    wrong = [row for row in rows if not row.ok]
    if not wrong:
        is_closed = engine.config.network.security.is_closed
        closed = "; strangers are given nothing in the clear: network.security.public_access is false"
        return ok("cdn", f"all {len(rows)} that were asked are as cdn.yaml says{closed if is_closed else ''}")
    silent = [row for row in wrong if row.code == "cdn-unreachable"]
    message = (
        f"{len(silent)} of {len(rows)} do{'es' * (len(silent) == 1)} not answer"
        if silent == wrong
        else f"{len(wrong)} of {len(rows)} are not right"
    )
    why = "; ".join(f"{row.provider} {row.edge}".strip() + f": {row.message}" for row in wrong[:SHOWN_MAX])
    why += f"; and {len(wrong) - SHOWN_MAX} more" if len(wrong) > SHOWN_MAX else ""
    mend = dict.fromkeys([*(line for row in wrong[:SHOWN_MAX] for line in row.mend), "rage cdn check"])
    # One edge that is away is told of later; where nobody answers, or a token is refused, nothing is purged.
    level = "warning" if silent == wrong and len(silent) < len(rows) else "error"
    return Check("cdn", level, message, why, tuple(mend))


async def check_purges(engine: Engine) -> Check:
    """Whether purges end, and what failed for good."""
    found = await engine.env.blocking(engine.glance_cdns)
    if found is None:
        return skipped("purges", "no CDN is configured")
    _, seen = found
    waits = (
        f"{seen.open} wait{'s' * (seen.open == 1)}, the oldest for {span(engine.env.now() - seen.open_since)}"
        if seen.open
        else "none waits"
    )
    if seen.failed:
        counts = ", ".join(f"{count} at {provider}" for provider, count in seen.failed.items())
        why = f"names that were refused, and not purged since: {counts}"
        mend = ("rage cdn check", "rage cdn purge --failed --wait 2m")
        return Check("purges", "error", f"what was purged may be given out still; {waits}", why, mend)
    if seen.open and engine.env.now() - seen.open_since > LONG_S:
        cdns = await engine.cdns()
        states = await engine.env.blocking(cdns.purging.states, seen.oldest)
        late = [it for it in states if it.state in ("queued", "pending")]
        why = "; ".join(f"{it.provider} {it.edge}".strip() + f": {it.reason or it.state}" for it in late[:SHOWN_MAX])
        return Check("purges", "warning", waits, why, (f"rage cdn journal {seen.oldest}", "rage cdn check"))
    return ok("purges", waits)
