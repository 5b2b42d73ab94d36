"""What the engine tells the HTTP door of a block: who may have it, and by which documents it is purged."""

from __future__ import annotations

import asyncio
import io
import random
from pathlib import Path

import pytest

from rage_lab.sim.organizations import Organization
from rage_lab.sim.world import World, play, unreplicated
from rage_net import home as homes
from rage_net.acl import ANYONE, OPERATOR
from rage_net.cdn.policy import edges_of
from rage_net.cid import Cid
from rage_net.config import load
from rage_net.engine import Engine
from rage_net.errors import ConfigError
from rage_net.gate import NAMED_MAX, WORDS_MAX, Served
from rage_net.home import Home
from rage_net.verbs.chunk import PutChunk, RemoveChunk

pytestmark = pytest.mark.anyio


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    homes.init(made)
    return made


async def put(engine: Engine, data: bytes, *tags: str, visibility: str = "public") -> str:
    verb = PutChunk(tags=tags, visibility=visibility)  # type: ignore[arg-type]
    found = await engine.run(verb, source=io.BytesIO(data))
    return str(found.doc_id)


async def test_a_public_chunk_names_its_public_documents_and_their_tags_alone(home: Home) -> None:
    cid = Cid.of(b"shared")
    async with Engine.open(home) as engine:
        private = await put(engine, b"shared", "secret", visibility="private")
        assert await engine.stat_served(cid, ANYONE) is None
        assert await engine.stat_served(cid, OPERATOR) == Served(6)
        news = await put(engine, b"shared", "news", "A b")
        plain = await put(engine, b"shared")
        served = await engine.stat_served(cid, ANYONE)
        assert served == Served(6, True, tuple(sorted((news, plain))), ("A b", "news"))
        assert private not in served.documents
        assert await engine.sizes_served([cid, Cid.of(b"absent")], ANYONE) == [6, None]
        for doc_id in (news, plain):
            await engine.run(RemoveChunk(doc_id))
        assert await engine.stat_served(cid, ANYONE) is None
        assert await engine.sizes_served([cid], ANYONE) == [None]


async def test_a_chunk_is_permanent_when_a_public_document_that_holds_it_is(home: Home) -> None:
    cid = Cid.of(b"law")
    async with Engine.open(home) as engine:
        await put(engine, b"law")
        await put(engine, b"law", "permanent", visibility="private")
        served = await engine.stat_served(cid, ANYONE)
        assert served is not None and not served.is_permanent, "a private one says nothing of what is public"
        await put(engine, b"law", "permanent")
        served = await engine.stat_served(cid, ANYONE)
        assert served is not None and served.is_permanent


async def test_more_documents_and_tags_than_are_named_are_said_to_be_more(home: Home) -> None:
    async with Engine.open(home) as engine:
        for number in range(NAMED_MAX):
            await put(engine, b"licence", f"tag-{number}")
        served = await engine.stat_served(Cid.of(b"licence"), ANYONE)
        assert served is not None and (len(served.documents), served.has_more) == (NAMED_MAX, False)
        for _ in range(3):
            await put(engine, b"licence", "permanent")
        served = await engine.stat_served(Cid.of(b"licence"), ANYONE)
        assert served is not None and (len(served.documents), served.has_more) == (NAMED_MAX, True)
        assert served.is_permanent, "though it may not be among those that are named"
        await put(engine, b"words", *(f"w{number}" for number in range(WORDS_MAX)))
        await put(engine, b"words", "one-more")
        served = await engine.stat_served(Cid.of(b"words"), ANYONE)
        assert served is not None and (len(served.words), served.has_more) == (WORDS_MAX, True)


def test_a_node_that_fetched_a_document_tells_its_tags_from_the_log(rng: random.Random, tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        alpha = await world.node("alpha", organization=acme)
        beta = await world.node("beta", organization=acme, bootstrap=[alpha])
        await asyncio.sleep(20.0)
        root = await alpha.put(b"a public paper", "paper", "public", tags=("news", "permanent"))
        (row,) = alpha.engine.metadata.log.documents("acme", name="paper")  # type: ignore[union-attr]
        await world.until(
            lambda: bool(beta.engine.metadata.log.documents("acme", name="paper")),  # type: ignore[union-attr]
            within_s=5,
            what="beta knows it",
        )
        await beta.get(root)
        served = await beta.engine.stat_served(Cid.parse(root), OPERATOR)
        assert served == Served(14, True, (row.doc_id,), ("news", "permanent"), is_permanent=True)

    play(unreplicated(scenario), rng.getrandbits(32), tmp_path)


async def test_a_broken_cdn_file_stops_whoever_uses_it_and_nobody_else(home: Home) -> None:
    path = load(home.root, environ={}).network.cdn.providers_config_file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("cdn: {version: 1, providers: 7}\n")
    async with Engine.open(home) as engine:
        with pytest.raises(ConfigError):
            _ = engine.cdn_config
    home.network_yaml.write_text("network:\n  version: 1\n  cdn: {enabled: false}\n")
    async with Engine.open(home) as engine:
        assert edges_of(engine.cdn_config) == "none"
        assert not engine.cdn_config.enabled
    path.unlink()
    home.network_yaml.write_text("network:\n  version: 1\n")
    async with Engine.open(home) as engine:
        assert engine.cdn_config.cache_policy.max_ttl == 86_400
