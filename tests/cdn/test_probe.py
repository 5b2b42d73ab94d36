"""One object asked of one edge of a real HTTP server: what is right, what is not, and what is no answer."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from rage_net.cdn.evidence import judge
from rage_net.cdn.probe import Place, Probe, places, probe
from rage_net.cid import BLOCK_BYTES_MAX, Cid
from rage_net.config.cdn import Cloudflare, Edge, Provider
from rage_net.config.values import Name, Secret, Url
from rage_net.web import Web
from tests.cdn.loopback import LOGIN, Cdn, refusing, serving, silent

pytestmark = pytest.mark.anyio


@pytest.fixture
async def cdn() -> AsyncIterator[Cdn]:
    async with serving() as made:
        yield made


async def ask(cdn: Cdn, cid: Cid, host: str = "") -> Probe:
    async with Web() as web:
        return await probe(web, Place("edge", "varnish", cdn.url, cdn.url, host), f"/chunks/{cid}", cid=cid)


async def test_right_bytes_are_told_with_what_the_cache_says(cdn: Cdn, rng: random.Random) -> None:
    found = await ask(cdn, cdn.put(rng.randbytes(50_000)))
    assert (found.status, found.body, found.reason, found.code) == (200, "right", "", "")
    assert (found.evidence.state, found.evidence.age_s, found.seconds > 0) == ("hit", 5, True)
    assert (found.size_bytes, found.evidence.line) == (50_000, "x-cache: HIT, age: 5")


async def test_an_edge_is_asked_with_the_public_host(cdn: Cdn) -> None:
    await ask(cdn, cdn.put(b"x"), "cdn.example.org")
    assert cdn.asked[0][0] == "cdn.example.org"


async def test_a_cached_404_is_an_absence_that_proves_a_purge(cdn: Cdn) -> None:
    found = await ask(cdn, Cid.of(b"nobody has it"))
    assert (found.status, found.body, found.reason) == (404, "none", "")
    assert found.look is not None and judge(found.look, 10).state == "gone"


async def test_a_login_page_with_200_is_recognised(cdn: Cdn) -> None:
    cdn.says(200, LOGIN, Content_Type="text/html")
    found = await ask(cdn, Cid.of(b"x"))
    assert (found.body, found.code) == ("page", "cdn-answer") and "login" in found.reason


async def test_a_document_that_is_html_is_right(cdn: Cdn) -> None:
    found = await ask(cdn, cdn.put(LOGIN))
    assert found.body == "right"


async def test_wrong_bytes_and_another_object_are_wrong(cdn: Cdn) -> None:
    cid = cdn.put(b"what was put")
    cdn.answer = cdn.wrong
    assert (await ask(cdn, cid)).body == "wrong"
    cdn.says(200, b"another object")
    found = await ask(cdn, cid)
    assert (found.body, found.code) == ("wrong", "cdn-answer") and str(cid) in found.reason


async def test_truncated_bytes_are_recognised(cdn: Cdn, rng: random.Random) -> None:
    cid = cdn.put(rng.randbytes(100_000))
    cdn.answer = cdn.cut
    found = await ask(cdn, cid)
    assert (found.status, found.body, found.code) == (None, "truncated", "cdn-answer")
    cdn.says(200, cdn.objects[str(cid)][:1000])  # and announced so
    assert (await ask(cdn, cid)).body == "wrong"


async def test_more_than_a_chunk_is_not_read(cdn: Cdn) -> None:
    cdn.says(200, bytes(BLOCK_BYTES_MAX + 1))
    found = await ask(cdn, Cid.of(b"x"))
    assert found.status is None and found.code == "cdn-answer" and str(BLOCK_BYTES_MAX) in found.reason


async def test_a_redirect_loop_is_one_answer(cdn: Cdn) -> None:
    cdn.answer = cdn.loop
    found = await ask(cdn, Cid.of(b"x"))
    assert (found.status, found.code, len(cdn.asked)) == (302, "cdn-config", 1)
    assert found.look is not None and judge(found.look, 10).state == "unproven"


@pytest.mark.parametrize(("status", "code"), [(401, "cdn-forbidden"), (403, "cdn-forbidden"), (429, "cdn-busy")])
async def test_refusals_are_told(cdn: Cdn, status: int, code: str) -> None:
    cdn.says(status)
    assert (await ask(cdn, Cid.of(b"x"))).code == code


async def test_nobody_there_and_nobody_answering_are_results() -> None:
    async with Web() as web:
        with refusing() as url:
            found = await probe(web, Place("edge", "varnish", url, url), "/chunks/x")
            assert (found.status, found.code, found.look) == (None, "cdn-unreachable", None) and found.reason
        with silent() as url:
            found = await probe(web, Place("edge", "varnish", url, url), "/chunks/x", timeout_s=0.1)
            assert (found.status, found.code) == (None, "cdn-unreachable")


def test_each_self_hosted_edge_is_a_place_under_each_public_host() -> None:
    edge = Provider(
        name=Name("varnish-edge"),
        type="self-hosted",
        software="varnish",
        config=Edge(endpoints=(Url("http://one:6081/"), Url("http://two:6081"))),
        public_urls=(Url("https://cdn.example.org"),),
    )
    assert [(place.edge, place.url, place.host) for place in places(edge)] == [
        ("http://one:6081/", "http://one:6081", "cdn.example.org"),
        ("http://two:6081", "http://two:6081", "cdn.example.org"),
    ]
    cloud = Provider(
        name=Name("cloudflare"),
        type="commercial",
        software="cloudflare",
        config=Cloudflare(zone_id="0" * 32, api_token=Secret("s")),
        public_urls=(Url("https://cdn.example.org/"),),
    )
    assert [(place.edge, place.url, place.host) for place in places(cloud)] == [("", "https://cdn.example.org", "")]
