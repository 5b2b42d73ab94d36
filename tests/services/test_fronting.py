"""CDNs as sources of a download, over real HTTP on loopback: what they give is verified, what fails is left alone."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rage_net.cdn.breaker import OPEN_FIRST_S
from rage_net.chunk import schedule
from rage_net.cid import BLOCK_BYTES_MAX, Cid
from rage_net.config.cdn import Cloudflare, Edge, Provider, Routing
from rage_net.config.values import Name, Secret, Url
from rage_net.env import SystemEnv
from rage_net.errors import IntegrityError, NotFoundError, UnavailableError
from rage_net.fronts import stage
from rage_net.metrics import Metrics
from rage_net.services import fronting as fronting_module
from rage_net.services.exchange import PeerSource
from rage_net.services.fronting import FILLS_MAX, HEDGE_S, ROUND_CHUNKS_MAX, Fills, Front, Fronting, fronts
from rage_net.services.retrieval import Outcomes, Stage, Want, Way, known, remote
from rage_net.web import Web
from tests.cdn.loopback import LOGIN, Cdn, refusing, serving, silent
from tests.services.conftest import Collect, Peer, World

pytestmark = pytest.mark.anyio


class Reader:
    """A peer that asks CDNs first and then other peers, as an engine does."""

    def __init__(self, peer: Peer, web: Web, urls: Sequence[str], file: Path | None = None) -> None:
        self.peer = peer
        served = [Front(f"cdn{at}", url, 0, True) for at, url in enumerate(urls)]
        self.fronting = Fronting(served, peer.env, peer.metrics, lambda _: web, file=file)
        self.fronting.load()

    async def fetch(self, root: Cid, holders: Sequence[Peer] = (), **options: Any) -> tuple[bytes, Outcomes]:
        sink = Collect()

        def way(holder: Peer) -> Way:
            async def reach() -> PeerSource:
                return PeerSource(self.peer.exchange, await self.peer.connect(holder))

            return Way(str(holder.swarm.peer_id), reach)

        async def stages() -> Sequence[Stage]:
            levels = self.fronting.levels()
            return [
                *(stage(self.fronting, level, len(levels)) for level in levels),
                *([known("peers", [way(holder) for holder in holders])] if holders else []),
            ]

        async with asyncio.timeout(20):
            outcomes = await self.peer.retrieval.fetch(Want(root, **options), stages, sink)
        return bytes(sink.data), outcomes

    @property
    def state(self) -> str:
        return self.fronting.breaker(self.fronting.fronts[0]).state(self.peer.env.now())


@pytest.fixture
async def cdn() -> AsyncIterator[Cdn]:
    async with serving() as made:
        yield made


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with Web() as made:
        yield made


def publish(holder: Peer, cdn: Cdn, data: bytes) -> Cid:
    """Put a document at a peer, and all its blocks at the CDN."""
    from rage_net.chunk.manifest import blocks

    root = holder.put(data).root
    for cid in blocks(root, holder.store.get):
        cdn.objects[str(cid)] = holder.store.get(cid)
    return root


async def test_a_document_comes_from_the_cdn_and_stays_as_cache(
    world: World, cdn: Cdn, web: Web, rng: random.Random
) -> None:
    holder, reader = await world.peer(), Reader(await world.peer(), web, [cdn.url])
    data = rng.randbytes(400_000)
    root = publish(holder, cdn, data)
    got, outcomes = await reader.fetch(root)
    assert got == data and outcomes.sources["cdn"] > 5 and outcomes.sources["p2p"] == 0
    assert sum(reader.peer.metrics.retrieval.read()[("cdn",)][1:]) > 0
    asked = len(cdn.asked)
    again, outcomes = await reader.fetch(root)
    assert again == data and outcomes.sources["cdn"] == 0 and len(cdn.asked) == asked


async def test_a_cached_404_is_no_fault_and_a_peer_is_asked_next(
    world: World, cdn: Cdn, web: Web, rng: random.Random
) -> None:
    holder, reader = await world.peer(), Reader(await world.peer(), web, [cdn.url])
    data = rng.randbytes(400_000)
    got, outcomes = await reader.fetch(holder.put(data).root, [holder])
    assert got == data and outcomes.sources["cdn"] == 0
    assert reader.state == "closed"


@pytest.mark.parametrize("fault", ["wrong", "login", "other", "short"])
async def test_wrong_bytes_reach_nobody_and_the_peer_serves(
    world: World, cdn: Cdn, web: Web, rng: random.Random, fault: str
) -> None:
    holder, reader = await world.peer(), Reader(await world.peer(), web, [cdn.url])
    data = rng.randbytes(100_000)
    root = publish(holder, cdn, data)
    if fault == "wrong":
        cdn.answer = cdn.wrong
    elif fault == "login":
        cdn.says(200, LOGIN, Content_Type="text/html")
    elif fault == "other":
        cdn.says(200, b"another object")
    else:
        cdn.says(200, holder.store.get(root)[:-1])
    got, outcomes = await reader.fetch(root, [holder])
    assert got == data and outcomes.sources["cdn"] == 0
    assert reader.peer.metrics.failures.read()[("wrong_bytes",)] == [1]
    assert reader.state == "open" and len(cdn.asked) == 1
    with pytest.raises(UnavailableError, match="not asked for"):
        await reader.fronting.fetch(reader.fronting.fronts[0], root, BLOCK_BYTES_MAX)
    assert len(cdn.asked) == 1


async def test_without_another_source_wrong_bytes_are_an_integrity_error(world: World, cdn: Cdn, web: Web) -> None:
    reader = Reader(await world.peer(), web, [cdn.url])
    cid = cdn.put(b"what was put")
    cdn.answer = cdn.wrong
    with pytest.raises(IntegrityError, match="not to be had"):
        await reader.fetch(cid)
    assert not reader.peer.store.has(cid)


@pytest.mark.parametrize("fault", ["cut", "loop", "500", "503", "401", "400", "hang"])
async def test_an_edge_of_no_use_is_passed_over(
    world: World, cdn: Cdn, web: Web, rng: random.Random, fault: str
) -> None:
    holder, reader = await world.peer(), Reader(await world.peer(), web, [cdn.url])
    data = rng.randbytes(100_000)
    root = publish(holder, cdn, data)
    if fault.isdigit():
        cdn.says(int(fault), b"told")
    else:
        cdn.answer = getattr(cdn, fault)
    got, outcomes = await reader.fetch(root, [holder])
    assert got == data and outcomes.sources["cdn"] == 0
    assert reader.state == ("closed" if fault == "401" else "open")


async def test_a_pause_that_the_edge_asks_for_is_kept(world: World, cdn: Cdn, web: Web) -> None:
    reader = Reader(await world.peer(), web, [cdn.url])
    cdn.says(429, Retry_After="300")
    with pytest.raises(UnavailableError):
        await reader.fetch(Cid.of(b"x"))
    left_s = reader.fronting.breaker(reader.fronting.fronts[0]).left_s(reader.peer.env.now())
    assert 290 < left_s <= 300


LONG_S = 60.0
"""Longer than any fetch here may take: who waits for so long fails."""


async def test_a_dead_cdn_is_waited_for_once_and_then_not_at_all(
    world: World, web: Web, rng: random.Random, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PATIENCE_FIRST_S", LONG_S)
    monkeypatch.setattr(schedule, "HEDGE_FLOOR_S", LONG_S)
    monkeypatch.setattr(schedule, "HEDGE_CEILING_S", LONG_S)
    holder = await world.peer()
    roots = [holder.put(rng.randbytes(20_000)).root for _ in range(4)]
    file = tmp_path / "edges.json"
    with silent() as url:
        for at, root in enumerate(roots):  # each as a process of its own: what was learnt lies in the file alone
            reader = Reader(await world.peer(), web, [url], file)
            began = time.monotonic()
            await reader.fetch(root, [holder])
            if not at:
                assert time.monotonic() - began >= HEDGE_S * 0.9, "it was waited for"
                assert reader.state == "open"
            reader.fronting.save()
            monkeypatch.setattr(fronting_module, "HEDGE_S", LONG_S)  # now whoever waits for it fails
    assert set(json.loads(file.read_text())) == {f"cdn0 {url}"}


async def test_two_dead_cdns_cost_no_more_than_one(
    world: World, web: Web, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PATIENCE_FIRST_S", LONG_S)
    monkeypatch.setattr(schedule, "HEDGE_FLOOR_S", LONG_S)
    monkeypatch.setattr(schedule, "HEDGE_CEILING_S", LONG_S)
    monkeypatch.setattr(schedule, "HEDGE_MORE_S", LONG_S)
    holder = await world.peer()
    with silent() as one, silent() as two:
        reader = Reader(await world.peer(), web, [one, two])
        reader.fronting.fronts = (reader.fronting.fronts[0], replace(reader.fronting.fronts[1], priority=1))
        assert [reader.fronting.patience_s(level, 2) for level in reader.fronting.levels()] == [HEDGE_S / 2] * 2
        await reader.fetch(holder.put(rng.randbytes(20_000)).root, [holder])
        assert {reader.fronting.breaker(front).state(reader.peer.env.now()) for front in reader.fronting.fronts} == {
            "open"
        }


async def test_one_that_refuses_is_not_waited_for(
    world: World, web: Web, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fronting_module, "HEDGE_S", LONG_S)
    holder = await world.peer()
    with refusing() as url:
        reader = Reader(await world.peer(), web, [url])
        await reader.fetch(holder.put(rng.randbytes(20_000)).root, [holder])
        assert reader.state == "open"


async def test_one_that_is_tried_again_is_not_waited_for_and_closes_when_it_answers(
    world: World, cdn: Cdn, web: Web
) -> None:
    reader = Reader(await world.peer(), web, [cdn.url])
    cid = cdn.put(b"there again")
    front = reader.fronting.fronts[0]
    reader.fronting.breaker(front).failed(reader.peer.env.now() - 31, "it was away")
    assert reader.state == "half-open"
    (level,) = reader.fronting.levels()
    assert reader.fronting.patience_s(level, 1) == 0
    assert (await reader.fetch(cid))[0] == b"there again"
    assert reader.state == "closed"


async def test_a_chunk_larger_than_its_manifest_says_is_nobodys_fault_but_is_not_taken(cdn: Cdn, web: Web) -> None:
    env = SystemEnv()
    fronting = Fronting([Front("cdn", cdn.url, 0, True)], env, Metrics(), lambda _: web)
    cid = cdn.put(bytes(1000))
    with pytest.raises(IntegrityError) as caught:
        await fronting.fetch(fronting.fronts[0], cid, 999)
    assert caught.value.id == "size-differs"
    assert fronting.breaker(fronting.fronts[0]).state(env.now()) == "closed"
    env.close()


def provider(name: str, priority: int, regions: Sequence[str] = (), urls: Sequence[str] = ()) -> Provider:
    routing = Routing(regions=tuple(map(Name, regions)), priority=priority)
    public = tuple(map(Url, urls))
    if name.startswith("varnish"):
        edge = Edge(endpoints=(Url(f"http://{name}-1"), Url(f"http://{name}-2")))
        return Provider(
            name=Name(name), type="self-hosted", software="varnish", config=edge, routing=routing, public_urls=public
        )
    cloud = Cloudflare(zone_id="0" * 32, api_token=Secret("s"))
    return Provider(
        name=Name(name), type="commercial", software="cloudflare", config=cloud, routing=routing, public_urls=public
    )


def test_providers_are_chosen_by_region_and_ordered_by_priority() -> None:
    providers = [
        provider("far", 0, ["asia"], ["https://far"]),
        provider("near", 2, ["Europe"], ["https://near"]),
        provider("anywhere", 1, [], ["https://any"]),
        provider("varnish", 0, ["europe"]),
        provider("unnamed", 0, ["europe"]),  # a cloud that says nowhere where clients get the objects
    ]
    found = [front.url for front in fronts(providers, "europe")]
    assert found == ["http://varnish-1", "http://varnish-2", "https://any", "https://near"]
    assert len(fronts(providers, "")) == 5, "a node that does not say where it is"


async def test_each_priority_is_a_level_and_of_a_cloud_one_address_is_asked(web: Web) -> None:
    env = SystemEnv()
    served = fronts([provider("a", 0, urls=["https://a1", "https://a2"]), provider("varnish", 1)], "")
    fronting = Fronting(served, env, Metrics(), lambda _: web)

    def urls(**options: bool) -> list[list[str]]:
        return [[front.url for front in level] for level in fronting.levels(**options)]

    assert urls() == [["https://a1"], ["http://varnish-1", "http://varnish-2"]]
    fronting.breaker(served[0]).failed(env.now(), "away")
    assert urls()[0] == ["https://a2"]
    assert urls(own_only=True) == [["http://varnish-1", "http://varnish-2"]]
    env.close()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"cdn0 http://x": 7}', b"\xff" * 10, b"[" * 100_000])
async def test_a_damaged_file_of_breakers_says_nothing(web: Web, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "edges.json"
    file.write_bytes(content)
    env = SystemEnv()
    fronting = Fronting([Front("cdn0", "http://x", 0, False)], env, Metrics(), lambda _: web, file=file)
    fronting.load()
    assert fronting.breaker(fronting.fronts[0]).state(env.now()) == "closed"
    env.close()


# --- filling ---


async def test_fills_are_bounded_done_in_rounds_and_end_where_they_are_no_use() -> None:
    env = SystemEnv()
    sent: list[Cid] = []
    blocks = {
        Cid.of(bytes([at])): [Cid.of(bytes([at, number % 256, number // 256])) for number in range(100)]
        for at in range(2)
    }
    first, second = blocks

    async def send(cid: Cid) -> bool:
        sent.append(cid)
        return cid not in blocks[second]

    fills = Fills(env, lambda root: iter(blocks.get(root, [])), send)
    fills.note(first)
    fills.note(first)
    fills.note(second)
    assert len(fills) == 2
    await fills.round()
    assert sent == blocks[first][:ROUND_CHUNKS_MAX]
    await fills.round()
    assert sent[ROUND_CHUNKS_MAX:] == blocks[second][:1], "the CDN does not take it"
    await fills.round()
    assert sent[ROUND_CHUNKS_MAX + 1 :] == blocks[first][ROUND_CHUNKS_MAX:] and not len(fills)
    await fills.round()
    for at in range(FILLS_MAX + 3):
        fills.note(Cid.of(b"root %d" % at))
    assert (len(fills), fills.dropped) == (FILLS_MAX, 3)
    env.close()


async def test_filling_asks_the_cdn_and_distrusts_wrong_bytes(cdn: Cdn, web: Web) -> None:
    async with AsyncExitStack() as stack:
        env = SystemEnv()
        stack.callback(env.close)
        fronting = Fronting([Front("cdn", cdn.url, 0, True)], env, Metrics(), lambda _: web)
        cid = cdn.put(b"filled")
        assert await fronting.fill(cid) and not await fronting.fill(Cid.of(b"absent"))
        cdn.answer = cdn.wrong
        assert not await fronting.fill(cid)
        assert fronting.breaker(fronting.fronts[0]).state(env.now()) == "open"


async def test_absence_everywhere_is_not_found(world: World, cdn: Cdn, web: Web) -> None:
    reader = Reader(await world.peer(), web, [cdn.url])
    with pytest.raises(NotFoundError, match="not to be had") as caught:
        await reader.fetch(Cid.of(b"nobody has it"))
    assert "cdn cdn0: not found" in caught.value.why


async def test_a_bug_while_an_edge_is_tried_again_does_not_keep_it_from_ever_being_tried(rng: random.Random) -> None:
    class Broken(Web):
        async def send(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("a bug")

    front, env = Front("cdn", "https://cdn.example.org", 0, False), SystemEnv()
    fronting = Fronting([front], env, Metrics(), lambda _: Broken())
    breaker = fronting.breaker(front)
    breaker.failed(env.now() - OPEN_FIRST_S - 1, "refused")
    with pytest.raises(RuntimeError):
        await fronting.fetch(front, Cid.of(rng.randbytes(9)), BLOCK_BYTES_MAX)
    assert breaker.admit(env.now())
    env.close()
