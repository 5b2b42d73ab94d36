"""rage cdn test where a vendor takes its time, and what is refused before anything is asked."""

from __future__ import annotations

import asyncio
import io
import random
import time
from pathlib import Path

import pytest

from rage_net import home as homes
from rage_net.cdn.evidence import NOTHING
from rage_net.cdn.probe import Place, Probe
from rage_net.cdn_verbs import probing
from rage_net.chunk.manifest import blocks
from rage_net.cid import Cid
from rage_net.engine import Engine
from rage_net.errors import UsageError
from rage_net.home import Home
from rage_net.verbs import cdn as verbs
from rage_net.verbs.chunk import PutChunk
from tests.cdn.fakes.azure import ContractFakeAzure
from tests.cdn.loopback import serving
from tests.listening import listening

pytestmark = pytest.mark.anyio

YAML = """\
cdn:
  providers:
    - name: azure
      type: commercial
      config:
        {{subscription_id: "00000000-0000-0000-0000-000000000000", resource_group: rg, profile_name: profile1,
         endpoint_name: endpoint1, tenant_id: t-1, client_id: c-1, client_secret: "azure-secret", api_url: "{url}",
         login_url: "{url}"}}
    - name: nginx-edge
      type: self-hosted
      config: {{endpoints: ["http://127.0.0.1:9"]}}
"""

EDGES = """\
cdn:
  providers:
    - {name: one, type: self-hosted, software: varnish, public_urls: ["https://cdn.example.org"],
       config: {endpoints: ["http://127.0.0.1:9"], auth_token: "varnish-secret"}}
    - {name: two, type: self-hosted, software: varnish, public_urls: ["https://two.example.org/base"],
       config: {endpoints: ["http://127.0.0.1:9"], auth_token: "varnish-secret"}}
"""


async def test_a_purge_that_takes_minutes_is_pending_and_one_that_nobody_answers_is_not(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    homes.init(home)
    async with ContractFakeAzure(time.time) as azure:
        azure.lasts_s = 1200.0
        (home.config / "cdn.yaml").write_text(YAML.format(url=azure.url))
        async with Engine.open(home, serves=True) as engine:  # which does not stay for what it removed
            began = time.monotonic()
            result = await engine.run(verbs.TestCdn(("azure",), timeout_s=2.0))
            assert time.monotonic() - began < 30.0, "not a minute"
            (purge,) = result.items
            assert (purge.step, purge.ok, purge.is_pending, purge.evidence) == ("purge", False, True, "pending")
            (kept,) = (await engine.run(verbs.ListPurges(purge_id=purge.purge_id))).items
            assert [row.state for row in kept.rows] == ["pending"], "the journal goes on with it"

            steps = (await engine.run(verbs.TestCdn(("nginx-edge",), timeout_s=1.0))).items
            assert {row.step for row in steps} == {"get", "purge"}
            assert not any(row.ok or row.is_pending for row in steps)

            with pytest.raises(UsageError, match="a test lasts"):
                await engine.run(verbs.TestCdn(timeout_s=1e9))
    assert not azure.broken


async def test_an_edge_that_never_answers_does_not_take_more_than_the_time_there_is(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    homes.init(home)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.get_running_loop().create_future()

    async with listening(silent) as port:
        url = f"http://127.0.0.1:{port}"
        (home.config / "cdn.yaml").write_text(YAML.format(url=url).replace("http://127.0.0.1:9", url))
        async with Engine.open(home, serves=True) as engine:
            rows = (await engine.run(verbs.TestCdn(("nginx-edge",), timeout_s=2.0))).items
    assert [(row.step, row.ok) for row in rows] == [("get", False), ("purge", False)]
    assert "before the time was over" in rows[0].reason


async def test_what_is_warmed_is_counted_in_objects_and_bytes(tmp_path: Path, rng: random.Random) -> None:
    home = Home(tmp_path / "home")
    homes.init(home)
    async with serving() as cdn:
        row = f'{{name: near, type: commercial, software: http, public_urls: ["{cdn.url}"]}}'
        (home.config / "cdn.yaml").write_text(f"cdn: {{version: 1, providers: [{row}]}}\n")
        async with Engine.open(home) as engine:
            put = PutChunk("warm.bin", visibility="public")
            root = Cid.parse((await engine.run(put, source=io.BytesIO(rng.randbytes(3_000_000)))).root)
            held = {cid: engine.store.get(cid) for cid in blocks(root, engine.store.get)}
            cdn.objects |= {str(cid): data for cid, data in held.items() if cid != root}
            (found,) = (await engine.run(verbs.WarmCdn(("warm.bin",)))).items
    assert (found.hits + found.fills, found.failed) == (len(held) - 1, 1) and len(held) > 2
    assert found.bytes == sum(map(len, held.values())) - len(held[root])


async def test_a_host_that_no_cdn_serves_is_refused_for_its_purge_would_look_well(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    homes.init(home)
    (home.config / "cdn.yaml").write_text(EDGES)
    async with Engine.open(home) as engine:
        for more in ({}, {"dry_run": True}, {"providers": ("one",)}):
            with pytest.raises(UsageError, match=r"serves the host old\.example\.org") as refused:
                await engine.run(verbs.PurgeCdn(hosts=("old.example.org",), **more))
            assert "cdn.example.org" in (refused.value.why or "") and refused.value.mend
        with pytest.raises(UsageError, match="serves the host"):
            await engine.run(verbs.PurgeCdn(hosts=("two.example.org",), providers=("one",)))
        assert not (await engine.run(verbs.ListPurges())).items
        for host in ("CDN.example.org.", "two.example.org"):
            (row, *_) = (await engine.run(verbs.PurgeCdn(hosts=(host,), dry_run=True))).rows
            assert row.state == "planned"


def test_an_edge_that_serves_another_host_is_told_from_one_with_another_origin() -> None:
    place = Place("edge", "varnish", "http://10.0.0.1", "http://10.0.0.1", "cnd.example.org")
    for status, is_host in ((421, True), (404, False)):
        found = Probe(place, status, NOTHING, "none", 0.1)
        told, step = probing._judged(place, found), probing._step(place, "get", found, False)
        assert ("public_urls in cdn.yaml" in step.reason) == is_host == ("origin" not in " ".join(told.mend))
        assert any("public_urls" in line for line in told.mend)
