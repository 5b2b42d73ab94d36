"""Documents that go to CDNs encrypted, in whole engines: put, sealed, read by who may, sealed anew for who may not."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rage_lab.sim.node import Node
from rage_lab.sim.organizations import Organization
from rage_lab.sim.world import World, play
from rage_net import home as homes
from rage_net import sealed_cdns, sealings
from rage_net.cdn import filling
from rage_net.cdn.buckets import PutOutcome
from rage_net.cdn.emptying import Emptying
from rage_net.cdn.filling import Filling
from rage_net.cdn.journal import Journal
from rage_net.cdn.provider import Abilities
from rage_net.cdn.sealing import open_page
from rage_net.cdns import Cdns
from rage_net.chunk import manifest
from rage_net.cid import Cid
from rage_net.config import cdn as keys
from rage_net.engine import Engine
from rage_net.errors import (
    AccessDeniedError,
    ConfigError,
    IntegrityError,
    NotFoundError,
    RageError,
    UnavailableError,
    UsageError,
)
from rage_net.home import Home
from rage_net.services.purging import Purging
from rage_net.verbs import acl
from rage_net.verbs.chunk import GetChunk, PutChunk, RemoveChunk
from tests.cdn.loopback import Cdn, serving
from tests.cdn.scripted import Scripted
from tests.engine.test_ways_in import Sink
from tests.services.test_sealed_source import Cdn as Cache
from tests.services.trust_world import certify_home

Play = Callable[[Callable[[World], Awaitable[Any]]], Any]
SETTLE_S = 20.0
SOON_S = 3.0


@pytest.fixture
def run(rng: random.Random, tmp_path: Path) -> Play:
    """Play a scenario once; a failure names its seed."""
    seed = rng.getrandbits(32)
    return lambda scenario: play(scenario, seed, tmp_path).result


class Shelf:
    """A bucket in memory: what a CDN of a test reads."""

    def __init__(self, held: dict[Cid, bytes]) -> None:
        self.held = held

    def __str__(self) -> str:
        return "shelf"

    async def put(self, key: str, data: bytes, **_: Any) -> PutOutcome:
        existed = _named(key) in self.held
        self.held.setdefault(_named(key), data)
        return PutOutcome(existed)

    async def delete(self, keys: Sequence[str]) -> dict[str, RageError | None]:
        return {key: self.held.pop(_named(key), None) and None for key in keys}


def _named(key: str) -> Cid:
    return Cid.parse(key.removeprefix("chunks/"))


_journals: dict[int, tuple[dict[Cid, bytes], Journal]] = {}
"""By the shelf they are of, which is kept so that no other has its number."""


@asynccontextmanager
async def fronted(engine: Engine, held: dict[Cid, bytes], *others: Scripted) -> AsyncIterator[Cdns]:
    """The engine with one CDN that reads `held`, and others; its journal outlives the engine."""
    emptying = Emptying("shop", [Shelf(held)])  # type: ignore[list-item]
    _, journal = _journals.setdefault(id(held), (held, Journal(None)))
    purging = Purging(journal, [emptying, *others], engine.env)
    working = asyncio.create_task(purging.work())
    try:
        yield Cdns(keys.Cdn(), {}, {}, {emptying.name: emptying}, purging)
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def publish(engine: Engine, doc_id: str, held: dict[Cid, bytes]) -> sealings.Sealing | None:
    """As `rage cdn publish` does it: all of it, then the word in the log."""
    async with fronted(engine, held) as cdns:
        found = await sealed_cdns.publish(engine, cdns, doc_id)
    return None if found is None else found.sealing


async def empty(engine: Engine, doc_id: str, held: dict[Cid, bytes]) -> int:
    """A round of a node: what CDNs should not hold is deleted. Returns: how many objects went."""
    before = set(held)
    async with fronted(engine, held) as cdns:
        await sealed_cdns.settle(engine, cdns)
    return len(before - set(held))


async def read(engine: Engine, root: Cid, cache: Cache) -> bytes:
    """The document, from a CDN alone."""
    (sealed,) = await sealings.readable(engine, root)

    async def reach() -> Cache:
        return cache

    source = await sealings.way(engine, sealed, reach)()
    blocks = {}
    wanted = [root]
    for cid in wanted:
        blocks[cid] = b"".join((await source.fetch(cid)).buffers)
        assert cid.matches(blocks[cid])
        wanted += [each for each in manifest.blocks(cid, blocks.__getitem__) if each not in wanted]
    return b"".join(blocks[piece.cid] for piece in manifest.pieces(root, blocks.__getitem__))


async def trio(world: World) -> tuple[Node, Node, Node]:
    acme = Organization("acme", world.seed)
    owner = await world.node("owner", organization=acme)
    others = [await world.node(name, organization=acme, bootstrap=[owner]) for name in ("reader", "other")]
    await asyncio.sleep(SETTLE_S)
    return owner, others[0], others[1]


async def put(node: Node, data: bytes, *readers: Node) -> tuple[str, Cid]:
    root = await node.put(data, "plan.md", "private", cdn="encrypted")
    for reader in readers:
        await node.engine.run(acl.GrantAcl("plan.md", f"peer:{reader.engine.peer_id_text()}", "read"))
    (document,) = node.engine.documents.resolve("plan.md")
    await asyncio.sleep(SOON_S)
    return document.doc_id, Cid.parse(root)


def test_who_may_read_reads_it_from_a_cdn_and_who_may_no_longer_cannot_read_what_comes_after(run: Play) -> None:
    async def scenario(world: World) -> None:
        owner, reader, other = await trio(world)
        data, cache = world.random.randbytes(3_000_000), Cache()
        doc_id, root = await put(owner, data, reader, other)
        first = await publish(owner.engine, doc_id, cache.held)
        assert first is not None and await publish(owner.engine, doc_id, cache.held) is None, "once is enough"
        await asyncio.sleep(SOON_S)
        assert await read(reader.engine, root, cache) == data
        assert await read(other.engine, root, cache) == data

        await owner.engine.run(acl.RevokeAcl("plan.md", f"peer:{other.engine.peer_id_text()}", "read"))
        await asyncio.sleep(SOON_S)
        before = set(cache.held)
        second = await publish(owner.engine, doc_id, cache.held)
        assert second is not None and second.due.reason == "narrowed" and second.epoch.key != first.epoch.key
        assert await empty(owner.engine, doc_id, cache.held) == len(before)
        assert not before & set(cache.held), "nothing of the old epoch is left"
        assert await empty(owner.engine, doc_id, cache.held) == 0
        await asyncio.sleep(SOON_S)
        assert await read(reader.engine, root, cache) == data
        with pytest.raises(NotFoundError) as caught:
            await read(other.engine, root, cache)
        assert caught.value.id == "key-not-found"
        old = other.engine.metadata.sealed.get("acme", doc_id, first.epoch.id)  # type: ignore[union-attr]
        assert old == first.epoch, "what it once had it has, and it opens nothing that is left"
        kept = reader.engine.metadata.sealed  # type: ignore[union-attr]
        assert kept.get("acme", doc_id, first.epoch.id) is None, "a reader has no use for it any more"
        for block in cache.held.values():
            with pytest.raises(IntegrityError):
                open_page(old, block)

    run(scenario)


def test_a_reader_asks_another_reader_where_who_sealed_it_is_away(run: Play) -> None:
    async def scenario(world: World) -> None:
        owner, reader, other = await trio(world)
        data, cache = world.random.randbytes(40_000), Cache()
        doc_id, root = await put(owner, data, reader, other)
        await publish(owner.engine, doc_id, cache.held)
        await asyncio.sleep(SOON_S)
        assert await read(reader.engine, root, cache) == data
        await world.leave(owner)
        assert await read(other.engine, root, cache) == data

    run(scenario)


def test_a_removal_leaves_nothing_on_the_cdn_and_no_key(run: Play) -> None:
    async def scenario(world: World) -> None:
        owner, reader, _ = await trio(world)
        cache = Cache()
        doc_id, root = await put(owner, world.random.randbytes(40_000), reader)
        await publish(owner.engine, doc_id, cache.held)
        await asyncio.sleep(SOON_S)
        (sealed,) = await sealings.readable(reader.engine, root)
        await owner.engine.run(RemoveChunk("plan.md", everywhere=True))
        assert await publish(owner.engine, doc_id, {}) is None
        assert await empty(owner.engine, doc_id, cache.held) and not cache.held
        await asyncio.sleep(SOON_S)
        assert await sealings.readable(reader.engine, root) == ()
        with pytest.raises(NotFoundError):
            await sealings.key_of(reader.engine, sealed)
        assert owner.engine.metadata is not None
        assert owner.engine.metadata.sealed.get("acme", doc_id, sealed.epoch) is None

    run(scenario)


# --- one engine, real time --------------------------------------------------------------------------------------------


@asynccontextmanager
async def opened(path: Path, rng: random.Random, *urls: str) -> AsyncIterator[Engine]:
    """An engine with a certificate, whose cdn.yaml names `urls` as clouds."""
    home = Home(path)
    if not path.exists():
        homes.init(home, organization_id="acme")
        certify_home(home, rng)
        rows = "".join(
            f'  - {{name: c{at}, type: commercial, software: http, public_urls: ["{url}"]}}\n'
            for at, url in enumerate(urls)
        )
        (home.config / "cdn.yaml").write_text(f"cdn:\n  version: 1\n  providers:\n{rows}" if urls else "cdn: {}\n")
    async with Engine.open(home) as engine:
        yield engine


@pytest.fixture
async def cdn() -> AsyncIterator[Cdn]:
    async with serving() as made:
        yield made


async def put_here(engine: Engine, data: bytes, **more: Any) -> tuple[str, Cid]:
    found = await engine.run(PutChunk("plan.md", visibility="private", **more), source=io.BytesIO(data))
    return found.doc_id, Cid.parse(found.root)


@pytest.mark.anyio
async def test_a_download_asks_a_cloud_for_ciphertext_and_tells_it_nothing(
    cdn: Cdn, tmp_path: Path, rng: random.Random
) -> None:
    data = rng.randbytes(300_000)
    async with opened(tmp_path / "a", rng, cdn.url) as engine:
        doc_id, root = await put_here(engine, data, cdn="encrypted")
        with pytest.raises(NotFoundError):
            await engine.run(GetChunk(str(root), sources=("cdn",)), sink=Sink())
        assert not cdn.asked, "what is private is not even looked for"
        held: dict[Cid, bytes] = {}
        await publish(engine, doc_id, held)
        cdn.objects |= {str(cid): block for cid, block in held.items()}
        sink = Sink()
        result = await engine.run(GetChunk(str(root), sources=("cdn",), cache=False), sink=sink)
        assert bytes(sink.data) == data and result.sources["cdn"] > 0
        asked = {path.removeprefix("/chunks/") for _, path in cdn.asked}
        assert asked <= set(cdn.objects) and str(root) not in asked
        cdn.asked.clear()
        cdn.answer = cdn.wrong
        with pytest.raises(RageError):
            await engine.run(GetChunk(str(root), sources=("cdn",), cache=False), sink=Sink())


@pytest.mark.anyio
async def test_a_publication_that_was_killed_goes_on_with_the_same_blocks(tmp_path: Path, rng: random.Random) -> None:
    held: dict[Cid, bytes] = {}
    async with opened(tmp_path / "a", rng) as engine:
        doc_id, _ = await put_here(engine, rng.randbytes(5_000_000), cdn="encrypted")
        sealing = await sealings.begin(engine, doc_id)
        assert sealing is not None
        block = next(sealing.blocks())
        held[block.cid] = block.data
    async with opened(tmp_path / "a", rng) as engine:
        again = await sealings.begin(engine, doc_id)
        assert again is not None and again.epoch == sealing.epoch
        assert next(again.blocks()).cid in held
        await publish(engine, doc_id, held)
        assert await empty(engine, doc_id, held) == 0
        assert await sealings.begin(engine, doc_id) is None


@pytest.mark.anyio
async def test_who_is_killed_before_it_deletes_deletes_after_its_restart(tmp_path: Path, rng: random.Random) -> None:
    held: dict[Cid, bytes] = {}
    async with opened(tmp_path / "a", rng) as engine:
        doc_id, _ = await put_here(engine, rng.randbytes(10_000), cdn="encrypted")
        await publish(engine, doc_id, held)
        first = set(held)
        await engine.run(acl.RevokeAcl("plan.md", "org:birch", "read"))
        await publish(engine, doc_id, held)
    async with opened(tmp_path / "a", rng) as engine:
        assert await empty(engine, doc_id, held) == len(first) and not first & set(held)
        await engine.run(acl.SetAcl("plan.md", cdn="none"))
        assert await sealings.begin(engine, doc_id) is None
    async with opened(tmp_path / "a", rng) as engine:
        assert await empty(engine, doc_id, held) and not held, "what may go there no longer is deleted, too"
        assert engine.metadata is not None and engine.metadata.cdns.held(doc_id) == ()


@pytest.mark.anyio
async def test_an_epoch_that_is_begun_while_old_ones_are_looked_for_is_not_taken_for_one(
    tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: dict[Cid, bytes] = {}
    async with opened(tmp_path / "a", rng) as engine, fronted(engine, held) as cdns:
        doc_id, _ = await put_here(engine, rng.randbytes(10_000), cdn="encrypted")
        await sealed_cdns.publish(engine, cdns, doc_id)
        published, begun, right = set(held), "ff" * 16, sealed_cdns._right

        def look(*of: Any) -> set[str]:
            found = right(*of)
            cdns.holdings.note_sealed(doc_id, begun, [str(cid) for cid in held])  # as rage cdn publish does
            return found

        monkeypatch.setattr(sealed_cdns, "_right", look)
        await sealed_cdns.settle(engine, cdns)
        assert set(held) == published and begun in cdns.holdings.sealed_epochs(doc_id)


@pytest.mark.anyio
async def test_a_bucket_that_takes_nothing_is_given_up_and_one_that_has_it_is_not(
    tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def away(*_: object, **__: object) -> PutOutcome:
        nonlocal asked
        asked += 1
        raise UnavailableError("the shelf is away")

    monkeypatch.setattr(sealed_cdns, "BATCH", 1)
    monkeypatch.setattr(filling, "FAILURES_MAX", 2)
    held: dict[Cid, bytes] = {}
    async with opened(tmp_path / "a", rng) as engine, fronted(engine, held) as cdns:
        doc_id, _ = await put_here(engine, rng.randbytes(5_000_000), cdn="encrypted")
        with monkeypatch.context() as broken:
            broken.setattr(Shelf, "put", away)
            found = await sealed_cdns.publish(engine, cdns, doc_id)
        assert found is not None and (asked, found.stores[0].failed) == (2, found.objects)
        again = await sealed_cdns.publish(engine, cdns, doc_id)
        assert again is not None and not again.stores[0].failed and len(held) == again.objects > 2
    full = Filling("shop", Shelf(held), existed=1, failed=9)  # type: ignore[arg-type]
    assert not full.is_given_up


@pytest.mark.anyio
async def test_a_bucket_that_lacks_one_block_is_not_given_the_root_page(
    tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, asked = Shelf.put, 0

    async def busy_once(shelf: Shelf, key: str, data: bytes, **more: Any) -> PutOutcome:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise UnavailableError("the shelf is busy")
        return await take(shelf, key, data, **more)

    held: dict[Cid, bytes] = {}
    async with opened(tmp_path / "a", rng) as engine, fronted(engine, held) as cdns:
        doc_id, _ = await put_here(engine, rng.randbytes(5_000_000), cdn="encrypted")
        with monkeypatch.context() as broken:
            broken.setattr(Shelf, "put", busy_once)
            found = await sealed_cdns.publish(engine, cdns, doc_id)
        assert found is not None and found.stores[0].failed == 2 and len(held) == found.objects - 2
        assert engine.metadata is not None and not engine.metadata.cdns.held(doc_id), "and no reader is told"
        again = await sealed_cdns.publish(engine, cdns, doc_id)
        assert again is not None and not again.stores[0].failed and len(held) == again.objects
        assert engine.metadata.cdns.held(doc_id)[0].sealed in held


@pytest.mark.anyio
async def test_a_cdn_that_cannot_be_asked_to_forget_old_ciphertexts_is_told_of(
    tmp_path: Path, rng: random.Random, caplog: pytest.LogCaptureFixture
) -> None:
    held: dict[Cid, bytes] = {}
    mute = Scripted("mute", abilities=Abilities({"host": 1}))
    async with opened(tmp_path / "a", rng) as engine, fronted(engine, held, mute) as cdns:
        doc_id, _ = await put_here(engine, rng.randbytes(10_000), cdn="encrypted")
        await sealed_cdns.publish(engine, cdns, doc_id)
        await engine.run(acl.SetAcl("plan.md", cdn="none"))
        await sealed_cdns.settle(engine, cdns)
        assert not held and f"mute has no way to purge sealed document {doc_id}" in caplog.text


@pytest.mark.anyio
async def test_without_a_word_nothing_private_is_sealed_and_an_open_node_cannot_say_one(
    tmp_path: Path, rng: random.Random
) -> None:
    async with opened(tmp_path / "a", rng) as engine:
        doc_id, _ = await put_here(engine, b"secret")
        assert await sealings.begin(engine, doc_id) is None
        assert engine.metadata is not None
        with pytest.raises(AccessDeniedError) as caught:
            engine.metadata.cdns.way(doc_id)
        assert caught.value.id == "cdn-not-public"
        with pytest.raises(UsageError) as wrong:
            await put_here(engine, b"secret", cdn="rot13")
        assert wrong.value.id == "bad-cdn"
        await put_here(engine, b"secret and longer", cdn="encrypted")
        assert engine.metadata.cdns.way(doc_id) == "encrypted"
        await put_here(engine, b"secret and longer still")
        assert engine.metadata.cdns.way(doc_id) == "encrypted", "a put that says nothing leaves it as it is"
    home = Home(tmp_path / "open")
    homes.init(home)
    async with Engine.open(home) as engine:
        with pytest.raises(ConfigError) as open_:
            await put_here(engine, b"secret", cdn="encrypted")
        assert open_.value.id == "no-ca"
        assert not engine.documents.list()[0], "and nothing was put"
