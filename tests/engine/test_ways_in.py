"""CDNs as whole engines use them: cdn.yaml, `--from cdn`, peers behind, what may be asked, and `rage why`."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rage_lab.sim.organizations import Organization
from rage_lab.sim.world import World, play, unreplicated
from rage_net import home as homes
from rage_net.chunk.manifest import blocks
from rage_net.cid import Cid
from rage_net.engine import Engine
from rage_net.errors import ConfigError, IntegrityError, NotFoundError, UnavailableError
from rage_net.home import Home
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.verbs.chunk import GetChunk, GetChunkResult, PutChunk, Source
from rage_net.verbs.diagnose import Why
from tests.cdn.loopback import LOGIN, Cdn, refusing, serving

pytestmark = pytest.mark.anyio


class Sink:
    def __init__(self) -> None:
        self.data = bytearray()

    def begin(self, size: int, /) -> None:
        self.data.clear()

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        self.data += data


@pytest.fixture
async def cdn() -> AsyncIterator[Cdn]:
    async with serving() as made:
        yield made


@asynccontextmanager
async def opened(path: Path, *urls: str, yaml: str = "", serves: bool = False) -> AsyncIterator[Engine]:
    """An engine whose cdn.yaml names `urls` as plain CDNs."""
    home = Home(path)
    if not path.exists():
        homes.init(home)
        rows = "".join(
            f'  - {{name: cdn{at}, type: commercial, software: http, public_urls: ["{url}"],'
            f" routing: {{priority: {at}}}}}\n"
            for at, url in enumerate(urls)
        )
        text = yaml or f"cdn:\n  version: 1\n  providers:\n{rows}" if urls or yaml else ""
        if text:
            (home.config / "cdn.yaml").write_text(text)
    async with Engine.open(home, serves=serves) as engine:
        yield engine


async def get(engine: Engine, root: str, *sources: Source, peers: tuple[str, ...] = ()) -> tuple[bytes, GetChunkResult]:
    sink = Sink()
    result = await engine.run(GetChunk(root, sources=sources or ("local", "cdn", "p2p"), peers=peers), sink=sink)
    return bytes(sink.data), result


async def publish(engine: Engine, cdn: Cdn | None, data: bytes) -> str:
    root = (await engine.run(PutChunk(visibility="public"), source=io.BytesIO(data))).root
    if cdn is not None:
        for cid in blocks(Cid.parse(root), engine.store.get):
            cdn.objects[str(cid)] = engine.store.get(cid)
    return root


async def address(engine: Engine) -> str:
    online = await engine.online()
    await online.swarm.listen(Multiaddr.parse("/ip4/127.0.0.1/tcp/0"))
    return str(online.swarm.listen_addresses()[0].with_peer_id(online.swarm.peer_id))


async def test_what_a_cdn_has_comes_from_there_and_no_network_is_started(
    cdn: Cdn, tmp_path: Path, rng: random.Random
) -> None:
    data = rng.randbytes(300_000)
    async with opened(tmp_path / "a") as holder, opened(tmp_path / "b", cdn.url) as reader:
        root = await publish(holder, cdn, data)
        got, result = await get(reader, root)
        assert got == data and result.sources["cdn"] > 0 and result.sources["p2p"] == 0
        assert not reader.is_online
        assert (await get(reader, root, "local"))[0] == data


async def test_wrong_bytes_reach_nobody_the_peer_serves_and_the_next_process_does_not_ask(
    cdn: Cdn, tmp_path: Path, rng: random.Random
) -> None:
    data = rng.randbytes(100_000)
    async with opened(tmp_path / "a", serves=True) as holder:
        root, other = await publish(holder, cdn, data), await publish(holder, cdn, data[:5000])
        peers = (await address(holder),)
        cdn.answer = cdn.wrong
        async with opened(tmp_path / "b", cdn.url) as reader:
            got, result = await get(reader, root, peers=peers)
            assert got == data and result.sources["cdn"] == 0 and result.sources["p2p"] > 0
        asked = len(cdn.asked)
        async with opened(tmp_path / "b", cdn.url) as reader:
            assert (await get(reader, other, peers=peers))[0] == data[:5000]
        assert len(cdn.asked) == asked


async def test_from_cdn_alone_tells_what_the_cdn_did(cdn: Cdn, tmp_path: Path) -> None:
    cid = cdn.put(b"what was put")
    async with opened(tmp_path / "b", cdn.url) as reader:
        assert (await get(reader, str(cid), "cdn"))[0] == b"what was put"
        with pytest.raises(NotFoundError) as absent:
            await get(reader, str(Cid.of(b"absent")), "cdn")
        assert "cdn cdn0: not found" in absent.value.why
        cdn.says(200, LOGIN, Content_Type="text/html")
        with pytest.raises(IntegrityError) as wrong:
            await get(reader, str(cid), "cdn")
        assert "web page" in wrong.value.why
        with pytest.raises(UnavailableError) as resting:
            await get(reader, str(cid), "cdn")
        assert "not asked for 3" in resting.value.why
        assert not reader.is_online


async def test_a_lower_priority_serves_when_a_higher_one_is_away(cdn: Cdn, tmp_path: Path) -> None:
    cid = cdn.put(b"what was put")
    with refusing() as away:
        async with opened(tmp_path / "b", away, cdn.url) as reader:
            assert (await get(reader, str(cid), "cdn"))[1].sources["cdn"] == 1


async def test_without_a_cdn_from_cdn_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path / "b") as reader:
        with pytest.raises(NotFoundError) as error:
            await get(reader, str(Cid.of(b"x")), "cdn")
        assert "no CDN is configured" in error.value.why


async def test_a_cdn_yaml_that_is_wrong_stops_only_who_names_the_cdn(tmp_path: Path, rng: random.Random) -> None:
    data = rng.randbytes(10_000)
    async with (
        opened(tmp_path / "a", serves=True) as holder,
        opened(tmp_path / "b", yaml="cdn:\n  version: 1\n  providers: [{name: x}]\n") as reader,
    ):
        root = await publish(holder, None, data)
        with pytest.raises(ConfigError, match="cdn"):
            await get(reader, root, "cdn")
        peers = (await address(holder),)
        assert (await get(reader, root, peers=peers))[0] == data
        with pytest.raises(NotFoundError) as error:
            await get(reader, str(Cid.of(b"x")), peers=peers)
        assert "cdn.yaml" in error.value.why


async def test_cdns_switched_off_are_not_asked(cdn: Cdn, tmp_path: Path) -> None:
    cid = cdn.put(b"what was put")
    async with opened(tmp_path / "b", cdn.url):
        pass
    path = tmp_path / "b" / "config" / "cdn.yaml"
    path.write_text(path.read_text().replace("version: 1\n", "version: 1\n  enabled: false\n"))
    async with opened(tmp_path / "b") as reader:
        with pytest.raises(NotFoundError):
            await get(reader, str(cid), "cdn")
    assert not cdn.asked


async def test_a_node_queues_what_peers_gave_to_be_filled_in(cdn: Cdn, tmp_path: Path, rng: random.Random) -> None:
    data = rng.randbytes(60_000)
    async with (
        opened(tmp_path / "a", serves=True) as holder,
        opened(tmp_path / "b", cdn.url, serves=True) as reader,
    ):
        root = await publish(holder, None, data)
        await get(reader, root, peers=(await address(holder),))
        asked = len(cdn.asked)
        for cid in blocks(Cid.parse(root), holder.store.get):
            cdn.objects[str(cid)] = holder.store.get(cid)
        await reader.ways_in.fill()
        filled = {path for _, path in cdn.asked[asked:]}
        assert filled == {f"/chunks/{cid}" for cid in blocks(Cid.parse(root), holder.store.get)}


async def test_why_says_what_each_cdn_answered(cdn: Cdn, tmp_path: Path) -> None:
    cid = cdn.put(b"what was put")
    with refusing() as away:
        async with opened(tmp_path / "b", away, cdn.url) as reader:
            result = await reader.run(Why(str(cid)))
            first, second = [step for step in result.steps if step.name.startswith("cdn ")]
            assert (first.name, first.state) == ("cdn cdn0", "broken") and away in first.message
            assert (second.name, second.state) == ("cdn cdn1", "ok")
            assert second.message == f"{cdn.url}: has it (x-cache: HIT, age: 5)"
            assert result.is_ok and "can be had from cdn cdn1" in result.verdict


def test_a_node_of_an_organisation_asks_third_parties_for_what_is_public_alone(
    rng: random.Random, tmp_path: Path
) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        alpha = await world.node("alpha", organization=acme)
        beta = await world.node("beta", organization=acme, bootstrap=[alpha])
        await asyncio.sleep(20)
        public, private = [
            Cid.parse(await alpha.put(world.random.randbytes(5000), name, visibility))
            for name, visibility in (("public.md", "public"), ("private.md", "org"))
        ]
        await world.until(
            lambda: bool(beta.engine.metadata.log.documents("acme", name="private.md")), within_s=5, what="beta knows"
        )
        unknown = Cid.of(b"nobody knows it")
        may_ask = beta.engine.ways_in.may_ask
        for is_named in (False, True):
            assert await may_ask(public, is_named=is_named), "its catalog says so, though it is not here"
            assert not await may_ask(private, is_named=is_named)
            assert await may_ask(unknown, is_named=is_named) is is_named

    play(unreplicated(scenario), rng.getrandbits(32), tmp_path)


async def test_the_own_edges_of_an_operator_are_no_third_party(
    cdn: Cdn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cid = cdn.put(b"what was put")

    async def refuse(root: Cid, *, is_named: bool) -> bool:
        return False

    rows = f'{{name: edge, type: self-hosted, software: http, public_urls: ["{cdn.url}"]}}'
    async with (
        opened(tmp_path / "b", yaml=f"cdn:\n  version: 1\n  providers: [{rows}]\n") as own,
        opened(tmp_path / "c", cdn.url) as third,
    ):
        monkeypatch.setattr(own.ways_in, "may_ask", refuse)
        monkeypatch.setattr(third.ways_in, "may_ask", refuse)
        assert (await get(own, str(cid), "cdn"))[0] == b"what was put"
        asked = len(cdn.asked)
        with pytest.raises(NotFoundError, match="not to be had") as error:
            await get(third, str(cid), "cdn")
        assert "not known to be public" in error.value.why and len(cdn.asked) == asked
