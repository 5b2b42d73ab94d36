"""rage cdn publish into a real S3 server (moto's), and how things leave the bucket when they may be there no more."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest

from rage_net import home as homes
from rage_net.acl import ANYONE
from rage_net.cdn_verbs.publish import fill_buckets, put_block
from rage_net.chunk.manifest import blocks
from rage_net.cid import Cid
from rage_net.diagnose.cdns import check_cdn
from rage_net.engine import Engine
from rage_net.errors import AccessDeniedError, ConfigError, NotFoundError
from rage_net.home import Home
from rage_net.verbs import acl
from rage_net.verbs import cdn as verbs
from rage_net.verbs.cdn import CheckCdn, ListPurges, PublishCdn, PurgeCdn, WarmCdn
from rage_net.verbs.chunk import GetChunk, PutChunk, RemoveChunk
from rage_net.verbs.diagnose import Why
from tests.engine.test_ways_in import Sink
from tests.services.trust_world import certify_home

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_credentials")]

_numbers = itertools.count()
YAML = """\
cdn:
  version: 1
  providers:
    - name: shop
      type: commercial
      software: http
      public_urls: ["{url}/{bucket}"]
      bucket: {{uri: "s3://{bucket}", endpoint: "{url}", access_key_id: "k", secret_access_key: "s"}}
"""


class Shop:
    """A bucket that a CDN reads, and gives to whoever asks."""

    def __init__(self, url: str, client: Any) -> None:
        self.name = f"shop-{next(_numbers)}"
        self.yaml = YAML.format(url=url, bucket=self.name)
        self._client = client
        client.create_bucket(Bucket=self.name)
        anyone = {
            "Effect": "Allow",
            "Principal": "*",
            "Action": "s3:GetObject",
            "Resource": f"arn:aws:s3:::{self.name}/*",
        }
        client.put_bucket_policy(Bucket=self.name, Policy=json.dumps({"Version": "2012-10-17", "Statement": [anyone]}))

    def held(self) -> dict[Cid, bytes]:
        found = {}
        for it in self._client.list_objects_v2(Bucket=self.name).get("Contents", ()):
            with contextlib.suppress(self._client.exceptions.NoSuchKey):  # it went meanwhile
                body = self._client.get_object(Bucket=self.name, Key=it["Key"])["Body"]
                found[Cid.parse(it["Key"].removeprefix("chunks/"))] = body.read()
        return found

    def head(self, cid: Cid) -> dict[str, Any]:
        return self._client.head_object(Bucket=self.name, Key=f"chunks/{cid}")  # type: ignore[no-any-return]


@pytest.fixture
def shop(aws_url: str) -> Iterator[Shop]:
    client = boto3.client(
        "s3", endpoint_url=aws_url, region_name="us-east-1", aws_access_key_id="o", aws_secret_access_key="o"
    )
    yield Shop(aws_url, client)
    client.close()


@asynccontextmanager
async def opened(path: Path, yaml: str, rng: random.Random | None = None) -> AsyncIterator[Engine]:
    """An engine as a node has it, with a certificate where there is an `rng`."""
    home = Home(path)
    if not path.exists():
        homes.init(home, **({"organization_id": "acme"} if rng else {}))
        (home.config / "cdn.yaml").write_text(yaml)
        if rng is not None:
            certify_home(home, rng)
    async with Engine.open(home, serves=True) as engine:
        await engine.cdns()
        yield engine


async def put(engine: Engine, data: bytes, name: str, **more: Any) -> tuple[str, Cid]:
    found = await engine.run(PutChunk(name, **more), source=io.BytesIO(data))
    return found.doc_id, Cid.parse(found.root)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not await asyncio.to_thread(holds):
            await asyncio.sleep(0.05)


async def test_a_public_document_is_put_once_with_what_caches_are_told(
    shop: Shop, tmp_path: Path, rng: random.Random
) -> None:
    async with opened(tmp_path / "a", shop.yaml) as engine:
        doc_id, root = await put(engine, rng.randbytes(3_000_000), "a.bin", visibility="public", tags=("legal",))
        planned = await engine.run(PublishCdn("a.bin", dry_run=True))
        assert planned.dry_run and not await asyncio.to_thread(shop.held)
        done = await engine.run(PublishCdn("a.bin"))
        wanted = {cid: engine.store.get(cid) for cid in blocks(root, engine.store.get)}
        assert await asyncio.to_thread(shop.held) == wanted
        (row,) = done.items
        assert (row.put, row.existed, row.failed, done.objects) == (len(wanted), 0, 0, len(wanted))
        (row,) = (await engine.run(PublishCdn("a.bin"))).items
        assert (row.put, row.existed) == (0, len(wanted))
        head = await asyncio.to_thread(shop.head, root)
        assert "max-age=60" in head["CacheControl"] and "s-maxage=86400" in head["CacheControl"]
        assert f"doc:{doc_id}" in head["Metadata"]["cache-tag"] and "tag:legal" in head["Metadata"]["cache-tag"]


async def test_a_purge_by_hand_leaves_the_origin_of_a_cdn_alone_unless_it_is_named(
    shop: Shop, tmp_path: Path, rng: random.Random
) -> None:
    async with opened(tmp_path / "a", shop.yaml) as engine:
        await put(engine, rng.randbytes(5000), "a.bin", visibility="public")
        await engine.run(PublishCdn("a.bin"))
        before = await asyncio.to_thread(shop.held)
        with pytest.raises(ConfigError) as refused:
            await engine.run(PurgeCdn(docs=("a.bin",)))
        assert refused.value.mend[0] == "--provider shop-bucket" and await asyncio.to_thread(shop.held) == before
        done = await engine.run(PurgeCdn(docs=("a.bin",), providers=("shop-bucket",), wait_s=20.0))
        assert [row.state for row in done.rows] == ["done"] and not await asyncio.to_thread(shop.held)
        checked = await engine.run(CheckCdn())
        assert all(row.ok for row in checked.items) and len(checked.items) == 1


async def test_what_is_not_public_is_refused_before_a_byte_leaves(
    shop: Shop, tmp_path: Path, rng: random.Random
) -> None:
    async with opened(tmp_path / "a", shop.yaml, rng) as engine:
        for visibility in ("org", "private", "federated"):
            await put(engine, rng.randbytes(5000), f"{visibility}.txt", visibility=visibility)
            with pytest.raises(AccessDeniedError) as refused:
                await engine.run(PublishCdn(f"{visibility}.txt"))
            assert refused.value.id == "cdn-not-public" and refused.value.mend
        assert not await asyncio.to_thread(shop.held)


async def test_what_anyone_may_read_for_a_while_without_being_public_goes_into_no_bucket(
    shop: Shop, tmp_path: Path, rng: random.Random
) -> None:
    async with opened(tmp_path / "a", shop.yaml, rng):
        pass
    with Home(tmp_path / "a").network_yaml.open("a") as file:
        file.write("    public_access: true\n")
    async with opened(tmp_path / "a", shop.yaml) as engine:
        _, root = await put(engine, rng.randbytes(5000), "a.txt", visibility="org")
        await engine.run(acl.GrantAcl("a.txt", "anyone", "read", until=time.time() + 3600))
        assert (await engine.stat_served(root, ANYONE)) is not None
        with pytest.raises(AccessDeniedError) as refused:
            await engine.run(PublishCdn("a.txt"))
        assert refused.value.id == "cdn-not-public"
        cdns = await engine.cdns()
        assert not await fill_buckets(engine, cdns, root)
        assert not await asyncio.to_thread(shop.held), "nobody would purge it when the right expires"


async def test_a_node_with_a_ca_says_that_strangers_are_given_nothing_there_and_which_key_opens_it(
    shop: Shop, tmp_path: Path, rng: random.Random
) -> None:
    async with opened(tmp_path / "a", shop.yaml, rng) as engine:
        await put(engine, rng.randbytes(5000), "a.bin", visibility="public")
        for verb in (PublishCdn("a.bin"), CheckCdn("a.bin"), WarmCdn(("a.bin",)), verbs.TestCdn()):
            with pytest.raises(AccessDeniedError) as refused:
                await engine.run(verb)
            assert refused.value.id == "cdn-not-public"
            assert "public_access" in (refused.value.why or "") and "public_access" in refused.value.mend[0]
        assert not await asyncio.to_thread(shop.held)
        assert "public_access" in (await check_cdn(engine)).message


async def test_what_is_removed_leaves_the_bucket_by_itself_and_what_another_public_document_has_stays(
    shop: Shop, tmp_path: Path, rng: random.Random
) -> None:
    shared = rng.randbytes(9_000_000)
    async with opened(tmp_path / "a", shop.yaml) as engine:
        doc_id, root = await put(engine, shared + rng.randbytes(800_000), "gone.bin", visibility="public")
        _, stays = await put(engine, shared + rng.randbytes(900_000), "stays.bin", visibility="public")
        for name in ("gone.bin", "stays.bin"):
            await engine.run(PublishCdn(name))
        wanted = set(blocks(stays, engine.store.get))
        gone = set(blocks(root, engine.store.get)) - wanted
        assert gone and wanted & set(blocks(root, engine.store.get)), "they share something"
        await engine.run(RemoveChunk(doc_id))
        await until(lambda: not gone & set(shop.held()))
        assert wanted <= set(await asyncio.to_thread(shop.held))
        causes = {it.cause for it in (await engine.run(ListPurges())).items}
        assert causes == {"removed"}


async def test_a_block_whose_put_ends_after_the_bucket_was_emptied_is_deleted_again(
    shop: Shop, tmp_path: Path, rng: random.Random
) -> None:
    async with opened(tmp_path / "a", shop.yaml) as engine:
        doc_id, root = await put(engine, rng.randbytes(5000), "a.bin", visibility="public")
        cdns = await engine.cdns()
        (emptying,) = cdns.buckets.values()
        (bucket,) = emptying.buckets.values()

        class Late:
            async def put(self, *args: Any, **more: Any) -> Any:
                await engine.run(RemoveChunk(doc_id))
                await until(lambda: cdns.holdings.owed() == [])
                return await bucket.put(*args, **more)

        with pytest.raises(NotFoundError, match="ceased to be public"):
            await put_block(engine, Late(), root)
        await until(lambda: not shop.held())


async def test_a_sealed_document_is_read_from_a_cdn_that_learns_nothing_and_sealed_anew_when_a_right_goes(
    shop: Shop, tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rage_net.sealed_cdns.PART", 2)  # what is old goes in parts, all of them
    data = rng.randbytes(2_000_000)
    async with opened(tmp_path / "a", shop.yaml, rng) as engine:
        doc_id, root = await put(engine, data, "plan.md", visibility="private", cdn="encrypted")
        await engine.run(acl.GrantAcl("plan.md", "org:birch", "read"))
        done = await engine.run(PublishCdn("plan.md"))
        assert done.items[0].put == done.objects > 1 and not done.items[0].failed
        first = await asyncio.to_thread(shop.held)
        plain = set(blocks(root, engine.store.get))
        assert not plain & set(first) and not any(block in data for block in first.values())
        sink = Sink()
        got = await engine.run(GetChunk(str(root), sources=("cdn",), cache=False), sink=sink)
        assert bytes(sink.data) == data and got.sources["cdn"] > 0
        why = {step.name: step.state for step in (await engine.run(Why(str(root)))).steps}
        assert why["cdn shop"] == "ok", "the ciphertext is asked for"
        for dry_run in (True, False):
            again = await engine.run(PublishCdn("plan.md", dry_run=dry_run))
            assert again.is_current and not done.is_current and again.dry_run == dry_run
            assert [(row.put, row.existed, row.failed) for row in again.items] == [(0, done.objects, 0)]
        assert await asyncio.to_thread(shop.held) == first

        await engine.run(acl.RevokeAcl("plan.md", "org:birch", "read"))
        await until(lambda: not set(first) & set(shop.held()))
        second = await asyncio.to_thread(shop.held)
        assert second and len(second) == len(first)
        sink = Sink()
        await engine.run(GetChunk(str(root), sources=("cdn",), cache=False), sink=sink)
        assert bytes(sink.data) == data

        await engine.run(RemoveChunk(doc_id, everywhere=True))
        await until(lambda: not shop.held())


async def test_a_public_block_that_a_killed_process_was_putting_while_it_was_hidden_is_deleted_by_the_next(
    shop: Shop, tmp_path: Path, rng: random.Random
) -> None:
    async with opened(tmp_path / "a", shop.yaml) as engine:
        doc_id, root = await put(engine, rng.randbytes(5000), "a.bin", visibility="public")
        _, stays = await put(engine, rng.randbytes(5000), "b.bin", visibility="public")
        cdns = await engine.cdns()
        ((bucket,),) = [it.buckets.values() for it in cdns.buckets.values()]

        class Killed:
            """The put ends after what is hidden has left the bucket, and nobody looks again."""

            async def put(self, *args: Any, **more: Any) -> Any:
                if cdns.holdings.exposed([doc_id]):
                    await engine.run(RemoveChunk(doc_id))
                    await until(lambda: cdns.holdings.owed() == [])
                await bucket.put(*args, **more)
                raise asyncio.CancelledError

        for emptying in cdns.buckets.values():
            emptying.buckets = {"killed": Killed()}  # type: ignore[dict-item]
        for cid in (root, stays):
            with pytest.raises(asyncio.CancelledError):
                await fill_buckets(engine, cdns, cid)
        assert set(shop.held()) == {root, stays}
    async with opened(tmp_path / "a", shop.yaml) as engine:
        await until(lambda: set(shop.held()) == {stays})
        holdings = (await engine.cdns()).holdings
        await until(lambda: holdings.fillings() == {})


async def test_a_sealed_document_that_is_current_is_put_into_a_bucket_that_came_later_by_who_sealed_it(
    shop: Shop, aws_url: str, tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "a", shop.yaml, rng) as engine:
        await put(engine, rng.randbytes(3_000_000), "plan.md", visibility="private", cdn="encrypted")
        done = await engine.run(PublishCdn("plan.md"))
        first = await asyncio.to_thread(shop.held)
        assert done.objects == len(first) > 2
    later = shop.yaml.replace("name: shop", "name: late").replace(f"s3://{shop.name}", f"s3://{shop.name}/late")
    both = shop.yaml + later[later.index("    - name") :]
    (tmp_path / "a" / "config" / "cdn.yaml").write_text(both)
    async with opened(tmp_path / "a", both) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(engine.metadata, "own", "another")
            rows = {row.provider: row for row in (await engine.run(PublishCdn("plan.md"))).items}
        assert (rows["shop"].existed, rows["shop"].failed) == (done.objects, 0)
        assert (rows["late"].existed, rows["late"].failed, rows["late"].code) == (0, done.objects, "cdn-unsealed")
        for dry_run in (True, False):
            rows = {row.provider: row for row in (await engine.run(PublishCdn("plan.md", dry_run=dry_run))).items}
            assert (rows["late"].put, rows["late"].failed, rows["shop"].existed) == (done.objects, 0, done.objects)
        rows = {row.provider: row for row in (await engine.run(PublishCdn("plan.md"))).items}
        assert (rows["late"].existed, rows["late"].put) == (done.objects, 0), "the same blocks, under the same names"


async def test_what_a_process_left_half_published_is_deleted_by_the_next(
    shop: Shop, tmp_path: Path, rng: random.Random
) -> None:
    from rage_net import sealed_cdns, sealings

    async with opened(tmp_path / "a", shop.yaml, rng) as engine:
        doc_id, _ = await put(engine, rng.randbytes(900_000), "plan.md", visibility="private", cdn="encrypted")
        cdns = await engine.cdns()
        sealing = await sealings.begin(engine, doc_id)
        assert sealing is not None
        block = next(sealing.blocks())  # it is named, put, and then the process is killed
        cdns.holdings.note_sealed(doc_id, sealing.epoch.id.hex(), [str(block.cid)])
        (bucket,) = cdns.buckets["shop-bucket"].buckets.values()
        await sealed_cdns._put(sealed_cdns.Filling("shop", bucket), block, lambda: None)
        assert set(await asyncio.to_thread(shop.held)) == {block.cid}
        await engine.run(acl.SetAcl("plan.md", cdn="none"))
    async with opened(tmp_path / "a", shop.yaml):
        await until(lambda: not shop.held())
