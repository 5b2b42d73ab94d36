"""Many CIDs over six CDNs at once: within each quota, no word twice, in the fewest calls, told as it goes.

`python -m bench.cdn_purge` does it with 10,000 and weighs the process.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from rage_net import home as homes
from rage_net.cdn.journal import Asked, Journal
from rage_net.cdn.plan import plan
from rage_net.cdn.provider import Verdict
from rage_net.cdn_verbs import targets
from rage_net.engine import Engine
from rage_net.home import Home
from rage_net.verbs import Progress
from rage_net.verbs.cdn import ListPurges, PurgeCdn
from rage_net.web import Web
from tests.cdn import clouds
from tests.cdn.fakes.server import Bucket
from tests.cdn.six import fewest, serving, some_cids

CIDS = 400
MORE_CALLS_MAX = 1.05


@pytest.mark.anyio
async def test_six_cdns_are_told_each_word_once_within_its_quota_in_the_fewest_calls(tmp_path: Path) -> None:
    cids = some_cids(CIDS, 1)
    home = Home(tmp_path / "home")
    homes.init(home)
    told: list[Progress] = []
    with serving() as six:
        (home.config / "cdn.yaml").write_text(six.cdn_yaml)
        async with Engine.open(home) as engine:
            names = (*map(str, cids), *map(str, cids[:100]))  # named twice: told once
            result = await engine.run(PurgeCdn(cids=names), progress=told.append)
            (kept,) = (await engine.run(ListPurges(purge_id=result.purge_id))).items
        found = six.figures()
    assert {row.provider for row in result.rows} == set(found) and not result.impossible
    assert all(row.state in ("accepted", "pending", "done") for row in result.rows), result.rows
    least = fewest(CIDS, six.plan, cids[0])
    for name, figures in found.items():
        assert figures.calls <= least[name] * MORE_CALLS_MAX, (name, figures, least[name])
        assert (figures.again, figures.refused, figures.broken) == (0, {}, ()), (name, figures)
    assert sum(row.words for row in kept.rows) == sum(figures.words for figures in found.values())
    assert told and all(it.label.startswith("purge p") and it.done <= it.total for it in told)
    assert [it.done for it in told] == sorted(it.done for it in told), "the bar never goes back"


@pytest.mark.anyio
@pytest.mark.parametrize("tier", ["free", "business"])
async def test_ten_thousand_cids_keep_to_cloudflares_quota_by_the_clock(tier: str) -> None:
    """With its real quota, on a clock of the test: by URL, since 5 calls by tag a minute would take 15 minutes."""
    cids = some_cids(10_000, 2)
    async with Web() as web:
        provider = clouds.cloudflare("http://127.0.0.1:9", web, lambda: now, plan=tier)
    now = began = clouds.NOW
    # What the vendor has: cdn-apis 3.
    per_s, burst, urls_per_s = {"free": (5 / 60, 25, 800), "business": (10, 50, 1500)}[tier]
    coarse = 0.01  # of a token: what seconds since the epoch cannot tell apart
    calls, urls = Bucket(per_s, burst + coarse, lambda: now), Bucket(urls_per_s, urls_per_s + coarse, lambda: now)
    wanted = [targets.of_blocks(cid, [cid]) for cid in cids]
    planned = plan(provider, wanted, soft=False)
    journal = Journal(None)
    journal.ask(Asked("1", now, "manual", ""), [(planned, ("",))])
    sent: list[str] = []
    made = 0
    while True:
        taken = journal.take("cloudflare-1", "", provider.abilities, now)
        if taken.call is None:
            if taken.due_at is None:
                break
            assert taken.due_at > now
            now = taken.due_at
            continue
        made += 1
        sent += taken.call.words
        bucket, tokens = (urls, len(taken.call.words)) if taken.call.kind == "url" else (calls, 1)
        assert bucket.take(tokens) == 0, "the vendor would have answered 429"
        journal.settle(taken.call.reference, Verdict("accepted"), now)
    journal.close()
    assert len(sent) == len(set(sent)) == (30_000 if tier == "free" else 10_000)
    assert made == (1000 if tier == "free" else 100)
    assert now - began <= planned.seconds + 1 <= 40
