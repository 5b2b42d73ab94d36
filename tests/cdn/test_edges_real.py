"""Real Varnish and nginx, configured by what rage renders, purged by rage's own providers."""

from __future__ import annotations

import asyncio
import http.client
import os
import random
import re
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from rage_net.cdn.buckets import Dav
from rage_net.cdn.journal import Journal
from rage_net.cdn.nginx import Nginx
from rage_net.cdn.plan import Target
from rage_net.cdn.policy import headers_for, paths_of, tags_of
from rage_net.cdn.provider import Call, Item, Verdict
from rage_net.cdn.varnish import Varnish
from rage_net.cid import Cid
from rage_net.config.cdn import CachePolicy
from rage_net.config.values import Secret
from rage_net.env import SystemEnv
from rage_net.errors import RageError
from rage_net.services.purging import Purging, Wish
from rage_net.web import Web
from tests.cdn import servers
from tests.cdn.servers import HOST, OTHER_HOST, TOKEN, Authority, NginxServer, Origin, VarnishServer

pytestmark = [pytest.mark.anyio, pytest.mark.foreign("varnishd", "nginx")]

EDGE = {"CDN-Cache-Control": "max-age=3600", "Cache-Control": "public, max-age=60"}
"""As a node answers: browsers a minute, edges longer."""


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def cache(self) -> str:
        """What the edge says of its cache."""
        return self.headers.get("x-cache") or self.headers.get("x-cache-status", "")


def fetch(
    server: VarnishServer | NginxServer,
    path: str,
    method: str = "GET",
    *,
    host: str = HOST,
    body: bytes | None = None,
    ca: Authority | None = None,
    source: str = "127.0.0.1",
    **headers: str,
) -> Answer:
    """One request as any client makes it. Underscores in header names stand for hyphens."""
    here = ("127.0.0.1", server.port)
    bound = (source, 0)
    if ca is None:
        conn = http.client.HTTPConnection(*here, timeout=20, source_address=bound)
    else:
        trust = ssl.create_default_context(cafile=ca.ca_file)
        conn = http.client.HTTPSConnection(*here, timeout=20, source_address=bound, context=trust)
    try:
        sent = {"Host": host, **{name.replace("_", "-"): text for name, text in headers.items()}}
        conn.request(method, path, body=body, headers=sent)
        got = conn.getresponse()
        return Answer(got.status, {name.lower(): text for name, text in got.getheaders()}, got.read())
    finally:
        conn.close()


NOW = time.time
BEARER = f"Bearer {TOKEN}"


@pytest.fixture(scope="module")
def pair(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[VarnishServer, VarnishServer]]:
    """Two Varnish edges."""
    servers.need("varnishd", os.environ.get("CI") == "true")
    where = tmp_path_factory.mktemp("v")
    with servers.closing_all() as running:
        first = servers.start_varnish(where / "1", origin.url, object_bytes_max=8 << 20)
        running.append(first)
        second = servers.start_varnish(where / "2", origin.url, object_bytes_max=8 << 20)
        running.append(second)
        yield first, second


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return servers.make_authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def ngx(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NginxServer]:
    servers.need("nginx", os.environ.get("CI") == "true")
    with servers.closing_all() as running:
        one = servers.start_nginx(
            tmp_path_factory.mktemp("n"), origin.url, object_bytes_max=8 << 20, put_bytes_max=5 << 20
        )
        running.append(one)
        yield one
        assert one.faults() == [], "a worker ended with a fault"


@pytest.fixture
def varnish(pair: tuple[VarnishServer, VarnishServer], web: Web) -> Varnish:
    return Varnish(servers.settings("varnish", [edge.url for edge in pair]), web, NOW)


@pytest.fixture
def nginx(ngx: NginxServer, web: Web) -> Nginx:
    return Nginx(servers.settings("nginx", [ngx.url]), web, NOW)


def both(
    first: VarnishServer, varnish: Varnish, ngx: NginxServer, nginx: Nginx
) -> list[tuple[VarnishServer | NginxServer, Varnish | Nginx]]:
    """An edge of each kind, with its provider."""
    return [(first, varnish), (ngx, nginx)]


async def purge(provider: Varnish | Nginx, *items: Item, soft: bool = False) -> list[Verdict]:
    """Everything in one call to each edge."""
    words = tuple(word for item in items for word in provider.words(item))
    return [await provider.purge(Call(edge, items[0].kind, words, soft, reference="r")) for edge in provider.edges]


# --- Varnish --------------------------------------------------------------------------------------------------------


async def test_both_edges_miss_then_hit_and_a_purge_by_tag_counts_one_on_each(
    origin: Origin, pair: tuple[VarnishServer, VarnishServer], varnish: Varnish
) -> None:
    path = origin.put("/chunks/one", b"one" * 100, Surrogate_Key="doc:one cid:one", **EDGE)
    for edge in pair:
        assert [fetch(edge, path).cache for _ in range(3)] == ["MISS", "HIT", "HIT"]
    assert origin.count(path) == 2
    assert await purge(varnish, Item("tag", "doc:one")) == [Verdict("done", count=1)] * 2
    assert [fetch(edge, path).cache for edge in pair] == ["MISS", "MISS"]
    assert await purge(varnish, Item("tag", "doc:two")) == [Verdict("done", count=0)] * 2
    assert fetch(pair[0], path).cache == "HIT", "another document's tag takes nothing"


async def test_urls_and_tags_go_together_in_one_call_whatever_the_host(
    origin: Origin, pair: tuple[VarnishServer, VarnishServer], varnish: Varnish
) -> None:
    paths = [origin.put(f"/chunks/many-{i}", b"x", xkey=f"cid:many-{i}", **EDGE) for i in range(5)]
    gateway = origin.put("/ipfs/bafymany?format=raw", b"raw", **EDGE)
    for path in (*paths, gateway):
        fetch(pair[0], path)
    fetch(pair[0], paths[0], host=OTHER_HOST)
    items = [*(Item("url", path) for path in (*paths[:3], gateway)), Item("tag", "cid:many-3")]
    first, second = await purge(varnish, *items)
    assert (first, second) == (Verdict("done", count=6), Verdict("done", count=0)), "the second edge held none"
    assert fetch(pair[0], paths[4]).cache == "HIT"
    assert fetch(pair[0], paths[0], host=OTHER_HOST).cache == "MISS"


async def test_as_many_words_as_a_call_holds_go_through_in_one_header(
    origin: Origin, pair: tuple[VarnishServer, VarnishServer], varnish: Varnish
) -> None:
    path = origin.put("/chunks/last", b"x", **EDGE)
    fetch(pair[0], path)
    words = [varnish.words(Item("url", path))[0]]
    room = varnish.abilities.bytes_max
    assert room is not None
    number = 0
    while sum(len(word) + 1 for word in words) + 78 <= room:
        words.insert(0, varnish.words(Item("url", f"/chunks/{number:059d}"))[0])
        number += 1
    assert len(words) > 70
    verdict = await varnish.purge(Call(varnish.edges[0], "url", tuple(words), False, "r"))
    assert verdict == Verdict("done", count=1)


async def test_a_header_that_is_too_long_is_to_be_sent_in_halves(varnish: Varnish) -> None:
    words = tuple(f"cid:{number:060d}" for number in range(150))
    verdict = await varnish.purge(Call(varnish.edges[0], "tag", words, False, "r"))
    assert (verdict.state, verdict.is_too_large, verdict.code) == ("queued", True, "cdn-rejected")


async def test_a_soft_purge_serves_the_old_once_more_while_it_fetches_the_new(
    origin: Origin, pair: tuple[VarnishServer, VarnishServer], varnish: Varnish
) -> None:
    header = {"CDN-Cache-Control": "max-age=3600, stale-while-revalidate=60"}
    path = origin.put("/chunks/soft", b"old", Surrogate_Key="doc:soft", **header)
    fetch(pair[0], path)
    origin.put(path, b"new", Surrogate_Key="doc:soft", **header)
    assert (await purge(varnish, Item("tag", "doc:soft"), soft=True))[0] == Verdict("done", count=1)
    stale = fetch(pair[0], path)
    assert (stale.body, stale.cache) == (b"old", "STALE")
    assert "hit; ttl=-" in stale.headers["cache-status"]
    for _ in range(500):  # the refresh runs in the background: bounded by requests, not by a clock
        if fetch(pair[0], path).body == b"new":
            break
    assert fetch(pair[0], path).body == b"new"
    assert (await purge(varnish, Item("url", path), soft=False))[0].count == 1
    assert fetch(pair[0], path).cache == "MISS"


async def test_prefixes_hosts_and_everything_go_by_bans(
    origin: Origin, pair: tuple[VarnishServer, VarnishServer], varnish: Varnish
) -> None:
    names = ("/chunks/a.b-1", "/chunks/a.b-2", "/chunks/axb-3", "/ipfs/cxd")
    for name in names:
        origin.put(name, b"x", **EDGE)

    def fill() -> None:
        for name in names:
            fetch(pair[0], name)
            fetch(pair[0], name, host=OTHER_HOST)

    def states(host: str = HOST) -> list[str]:
        return [fetch(pair[0], name, host=host).cache for name in names]

    fill()
    assert await purge(varnish, Item("prefix", "/chunks/a.b"), Item("prefix", "/ipfs/q")) == [Verdict("done")] * 2
    assert states() == ["MISS", "MISS", "HIT", "HIT"], "a dot is a dot"
    assert await purge(varnish, Item("host", OTHER_HOST)) == [Verdict("done")] * 2
    assert (states(), states(OTHER_HOST)) == (["HIT"] * 4, ["MISS"] * 4)
    assert await purge(varnish, Item("all")) == [Verdict("done")] * 2
    assert (states(), states(OTHER_HOST)) == (["MISS"] * 4, ["MISS"] * 4)


@pytest.mark.parametrize(
    "text",
    [
        "/a && obj.status == 200",
        "/a\t&&\tobj.status!=0",
        '/a"b',
        "/a'b",
        "/a.*",
        "/(a",
        "/a&&b",
        "/a\\d",
        "/ä",
        "a b",
        "|&",
    ],
)
def test_a_ban_takes_literal_text_and_no_second_condition(
    text: str, origin: Origin, pair: tuple[VarnishServer, VarnishServer]
) -> None:
    path = origin.put("/chunks/kept", b"x", **EDGE)
    fetch(pair[0], path)
    refused = fetch(pair[0], "/", "BAN", Authorization=BEARER, X_Ban_Prefix=text.encode().decode("latin-1"))
    assert refused.status == 400
    assert fetch(pair[0], path).cache == "HIT"


def test_a_ban_names_what_it_bans(pair: tuple[VarnishServer, VarnishServer]) -> None:
    answer = fetch(pair[0], "/", "BAN", Authorization=BEARER)
    assert (answer.status, b"say what to ban" in answer.body) == (400, True)
    assert fetch(pair[0], "/", "BAN", Authorization=BEARER, X_Ban_Host="a b").status == 400


async def test_a_wrong_token_and_a_wrong_address_purge_nothing(
    origin: Origin, pair: tuple[VarnishServer, VarnishServer], web: Web
) -> None:
    path = origin.put("/chunks/guarded", b"x", Surrogate_Key="doc:guarded", **EDGE)
    fetch(pair[0], path)
    for token in ("", "Bearer ", "Bearer wrong", f"bearer {TOKEN}", f"Bearer {TOKEN} ", f"Basic {TOKEN}", BEARER + "x"):
        for method in ("PURGE", "BAN"):
            answer = fetch(
                pair[0], path, method, xkey="doc:guarded", X_Ban_All="1", **({"Authorization": token} if token else {})
            )
            # Blanks at a header's end are no part of it.
            expected = 200 if token.strip() == BEARER else 401
            if expected == 401:
                assert (answer.status, answer.headers.get("x-purged")) == (401, None), token
    fetch(pair[0], path)
    assert fetch(pair[0], path, "PURGE", source="127.0.0.2", Authorization=BEARER).status == 403
    assert fetch(pair[0], path).cache == "HIT"
    wrong = servers.settings("varnish", [pair[0].url], auth_token=Secret("sentinel-4711"))
    verdict = (await purge(Varnish(wrong, web, NOW), Item("tag", "doc:guarded")))[0]
    assert (verdict.state, verdict.code) == ("failed", "cdn-credentials")
    assert "sentinel-4711" not in repr(verdict)
    checked = await Varnish(wrong, web, NOW).check()
    assert [(edge, one.code) for edge, one in checked] == [(pair[0].url, "cdn-credentials")]


async def test_a_wrong_public_host_is_found_by_check_and_no_purge_calls_it_done(
    pair: tuple[VarnishServer, VarnishServer], varnish: Varnish, web: Web
) -> None:
    assert [verdict for _, verdict in await varnish.check()] == [Verdict("done")] * 2
    wrong = Varnish(servers.settings("varnish", [pair[0].url], hosts=(HOST, "www.example.org")), web, NOW)
    ((edge, verdict),) = await wrong.check()
    assert (edge, verdict.state, verdict.code) == (pair[0].url, "failed", "cdn-config")
    assert "www.example.org" in verdict.reason
    only_wrong = Varnish(servers.settings("varnish", [pair[0].url], hosts=("www.example.org",)), web, NOW)
    assert (await purge(only_wrong, Item("tag", "doc:x")))[0].code == "cdn-config"
    assert fetch(pair[0], "/chunks/one", host="www.example.org").status == 421


async def test_a_put_neither_changes_nor_drops_what_is_kept(
    origin: Origin, pair: tuple[VarnishServer, VarnishServer]
) -> None:
    path = origin.put("/chunks/put", b"x", **EDGE)
    fetch(pair[0], path)
    assert fetch(pair[0], path, "PUT", body=b"other").status == 405
    assert (fetch(pair[0], path).cache, origin.count(path, "PUT")) == ("HIT", 0)


def test_the_edge_obeys_the_field_for_edges_and_the_browser_sees_its_minute(
    origin: Origin, pair: tuple[VarnishServer, VarnishServer]
) -> None:
    def ttl(path: str, **headers: str) -> int | None:
        """Seconds that the edge keeps it, as its own Cache-Status says; None when it does not keep it."""
        origin.put(path, b"x", **headers)
        first, second = fetch(pair[0], path), fetch(pair[0], path)
        if "Cache_Control" in headers:
            assert second.headers["cache-control"] == headers["Cache_Control"].partition(", s-maxage")[0]
        for name in ("cdn-cache-control", "surrogate-control", "surrogate-key", "xkey", "x-rage-url", "x-rage-host"):
            assert name not in second.headers
        found = re.search(r"hit; ttl=(-?\d+)", second.headers["cache-status"])
        assert first.cache == ("MISS" if found else "BYPASS")
        return int(found[1]) if found else None

    minute = "public, max-age=60"
    near = pytest.approx
    assert ttl("/chunks/t1", CDN_Cache_Control="max-age=7200", Cache_Control=minute) == near(7200, abs=30)
    assert ttl("/chunks/t2", Surrogate_Control="max-age=3000", Cache_Control=minute) == near(3000, abs=30)
    both = {"CDN_Cache_Control": "max-age=7200", "Surrogate_Control": "max-age=3000"}
    assert ttl("/chunks/t3", **both) == near(7200, abs=30)
    assert ttl("/chunks/t4", Cache_Control="public, max-age=600, s-maxage=1200") == near(1200, abs=30)
    assert ttl("/chunks/t5", CDN_Cache_Control="max-age=soon", Cache_Control="max-age=600") == near(600, abs=30)
    assert ttl("/chunks/t6", CDN_Cache_Control="max-age=999999999") == near(86_400, abs=30), "max_ttl"
    assert ttl("/chunks/t7") == near(86_400, abs=30), "the rule of the path"
    assert ttl("/embeddings/t8") == near(7200, abs=30)
    assert ttl("/ipfs/t9") == near(3600, abs=30), "default_ttl"
    assert ttl("/chunks/t10", CDN_Cache_Control="max-age=0") is None, "not kept at all"


@pytest.mark.parametrize("software", ["varnish", "nginx"])
def test_what_a_node_says_is_obeyed_and_no_cache_behind_the_edge_hears_of_the_long_time(
    software: str, origin: Origin, pair: tuple[VarnishServer, VarnishServer], ngx: NginxServer
) -> None:
    edge = pair[1] if software == "varnish" else ngx
    cid = Cid.of(software.encode())
    tags = tags_of(cid, (f"document-{n}" for n in range(99)), (f"word-{n}" for n in range(99)))
    for path in paths_of(cid)[:2]:
        sent = headers_for(CachePolicy(), path.partition("?")[0], tags=tags, edges="plain")
        assert "s-maxage" in sent["Cache-Control"]
        origin.pages[path] = servers.Page(b"x", sent)
        answers = [fetch(edge, path) for _ in range(2)]
        assert [answer.cache for answer in answers] == ["MISS", "HIT"]
        assert {answer.headers["cache-control"] for answer in answers} == {"public, max-age=60"}
        assert not answers[1].headers.keys() & {"x-accel-expires", "xkey", "cache-tag", "surrogate-control"}
    for at, text in enumerate(("s-maxage=9, max-age=60", "max-age=60, S-MaxAge=9, immutable", "s-maxage=9")):
        path = origin.put(f"/chunks/shared-{software}-{at}", b"x", Cache_Control=text)
        shown = fetch(edge, path).headers.get("cache-control", "")
        assert shown == ("max-age=60", "max-age=60, immutable", "")[at]
    kept = origin.put("/chunks/permanent", b"x", **headers_for(CachePolicy(), "/chunks/x", is_permanent=True))
    assert fetch(edge, kept).headers["cache-control"] == "public, max-age=29030400, immutable"
    alone = headers_for(CachePolicy(), "/ipfs/x", is_shared=False)
    own = origin.put(f"/ipfs/{software}?format=car", b"x", **alone)
    assert [fetch(edge, own).cache for _ in range(2)] == ["BYPASS" if software == "varnish" else "MISS"] * 2


def test_a_request_without_a_host_gets_nothing(pair: tuple[VarnishServer, VarnishServer], ngx: NginxServer) -> None:
    for edge in (pair[0], ngx):
        for head in (b"GET /chunks/one HTTP/1.0\r\n\r\n", b"GET /chunks/one HTTP/1.1\r\nHost:\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", edge.port), 10) as line:
                line.sendall(head)
                line.shutdown(socket.SHUT_WR)
                assert int(line.makefile("rb").readline().split()[1]) in (400, 421)


def test_a_client_cannot_speak_in_the_edges_own_words(
    origin: Origin, pair: tuple[VarnishServer, VarnishServer]
) -> None:
    path = origin.put("/chunks/words", b"x", **EDGE)
    ours = {"X_Rage_Error": "odd", "X_Rage_Count": "7", "X_Rage_Banned": "1", "X_Rage_Pass": "x", "X_Rage_Rule": "pass"}
    answers = [fetch(pair[0], path, X_Rage_Host="evil.example", xkey="doc:x", **ours) for _ in range(2)]
    assert [answer.cache for answer in answers] == ["MISS", "HIT"]
    refused = fetch(pair[0], "/none", **ours)
    assert not refused.headers.keys() & {"x-purged", "x-banned", "x-purge-error"}
    assert fetch(pair[0], "/", "BAN", Authorization=BEARER, X_Ban_Host=r"evil\.example").status == 200
    assert fetch(pair[0], path).cache == "HIT"


@pytest.mark.parametrize(
    "headers",
    [
        {"Cache-Control": "private, max-age=60"},
        {"Cache-Control": "private", "CDN-Cache-Control": "max-age=3600"},
        {"Cache-Control": "no-store", "Surrogate-Control": "max-age=3600"},
        {"Cache-Control": "max-age=60", "CDN-Cache-Control": "no-store"},
        {"Cache-Control": "max-age=60", "CDN-Cache-Control": "max-age=60, private"},
        {"Cache-Control": "max-age=60", "Surrogate-Control": "no-store"},
        {"Cache-Control": "no-cache"},
        {"Cache-Control": "max-age=60", "Set-Cookie": "a=b"},
        {"Cache-Control": "max-age=60", "Vary": "Authorization"},
    ],
    ids=lambda headers: "; ".join(f"{name}: {text}" for name, text in headers.items()),
)
@pytest.mark.parametrize("software", ["varnish", "nginx"])
def test_what_is_private_is_never_kept(
    headers: dict[str, str],
    software: str,
    origin: Origin,
    pair: tuple[VarnishServer, VarnishServer],
    ngx: NginxServer,
) -> None:
    edge = pair[1] if software == "varnish" else ngx
    path = origin.put(f"/chunks/private-{software}-{abs(hash(str(headers)))}", b"x", **headers)
    for _ in range(3):
        assert fetch(edge, path).cache == ("BYPASS" if software == "varnish" else "MISS")
    assert origin.count(path) == 3


@pytest.mark.parametrize("software", ["varnish", "nginx"])
def test_a_request_with_credentials_passes_and_leaves_nothing_behind(
    software: str, origin: Origin, pair: tuple[VarnishServer, VarnishServer], ngx: NginxServer
) -> None:
    edge = pair[1] if software == "varnish" else ngx
    path = origin.put(f"/chunks/credentials-{software}", b"mine", **EDGE)
    for _ in range(2):
        assert fetch(edge, path, Authorization="Bearer somebody").cache == "BYPASS"
    assert origin.last(path)["authorization"] == "Bearer somebody"
    assert fetch(edge, path).cache == "MISS"
    assert "authorization" not in origin.last(path)


@pytest.mark.parametrize("software", ["varnish", "nginx"])
def test_what_is_not_here_is_kept_for_five_seconds_at_most(
    software: str, origin: Origin, pair: tuple[VarnishServer, VarnishServer], ngx: NginxServer
) -> None:
    edge = pair[1] if software == "varnish" else ngx
    path = f"/chunks/absent-{software}"
    origin.put(path, b"not here", 404, **EDGE)
    first, second = fetch(edge, path), fetch(edge, path)
    assert (first.status, second.status, second.cache) == (404, 404, "HIT")
    if software == "varnish":
        found = re.search(r"hit; ttl=(\d+)", second.headers["cache-status"])
        assert found is not None
        assert int(found[1]) <= 5
    else:
        (stored,) = [text for text in _stored(edge) if f"KEY: {path}|".encode() in text]
        assert _valid_for(stored) <= 5


def _stored(edge: VarnishServer | NginxServer) -> list[bytes]:
    """nginx's files of kept answers."""
    return [file.read_bytes() for file in (edge.where / "cache").rglob("*") if file.is_file()]


def _valid_for(stored: bytes) -> int:
    """Seconds between a file's begin and its end, by nginx's own header: version, valid, updating, error, modified,
    date, as 8 bytes each."""
    valid, date = (int.from_bytes(stored[at : at + 8], "little") for at in (8, 40))
    return valid - date


def test_a_key_has_the_format_and_nothing_else_of_a_query(
    origin: Origin, pair: tuple[VarnishServer, VarnishServer], ngx: NginxServer
) -> None:
    for edge, name in ((pair[0], "v"), (ngx, "n")):
        path = f"/ipfs/bafy{name}"
        raw, car = origin.put(f"{path}?format=raw", b"raw", **EDGE), origin.put(f"{path}?format=car", b"car", **EDGE)
        origin.put(path, b"page", **EDGE)
        assert fetch(edge, raw).body == b"raw"
        assert [fetch(edge, f"{path}?utm=1&format=raw&x=2").cache, fetch(edge, f"{path}?x").body] == ["HIT", b"page"]
        assert fetch(edge, car).body == b"car"
        by_accept = fetch(edge, path, Accept="application/vnd.ipld.raw")
        assert (by_accept.body, by_accept.cache) == (b"raw", "HIT")
        assert origin.count(raw) == 1
        part = origin.put(f"{path}?format=car&dag-scope=block", b"part", **EDGE)
        assert [fetch(edge, part).body for _ in range(2)] == [b"part"] * 2
        assert origin.count(part) == 2, "parts pass, with their whole query"
        odd = origin.put(f"{path}?format=tar", b"odd", **EDGE)
        assert fetch(edge, odd).body == b"odd"
        assert fetch(edge, path).body == b"page"


async def test_another_spelling_of_a_path_does_not_outlive_its_purge(
    origin: Origin,
    pair: tuple[VarnishServer, VarnishServer],
    ngx: NginxServer,
    varnish: Varnish,
    nginx: Nginx,
) -> None:
    path = origin.put("/chunks/spelled", b"x", **EDGE)
    for edge, provider in both(pair[0], varnish, ngx, nginx):
        for spelled in ("/chunks/spelled", "/chunks/%73pelled"):
            for _ in range(2):
                assert fetch(edge, spelled).body == b"x"
        origin.asked.clear()
        assert (await purge(provider, Item("url", path)))[0].count == 1
        for spelled in ("/chunks/%73pelled", "/chunks/spelled"):
            fetch(edge, spelled)
        # nginx has one key for both spellings, so the second finds what the first brought.
        assert len(origin.asked) == (2 if provider is varnish else 1)


@pytest.mark.parametrize("name", ["a b", "ä", "a,b", "a;b", "a%b", "a&b", "(a)", "a'b", "a+b", "~a", "a|raw", "€/x"])
async def test_unsafe_characters_in_a_path_do_not_keep_it_from_its_purge(
    name: str,
    origin: Origin,
    pair: tuple[VarnishServer, VarnishServer],
    ngx: NginxServer,
    varnish: Varnish,
    nginx: Nginx,
) -> None:
    path = origin.put("/chunks/" + name, b"x", **EDGE)
    plain = "/chunks/" + quote(name, safe="/,;&()'+~|")
    item = Item("url", path.replace("%", "%25"))
    for edge, provider in both(pair[0], varnish, ngx, nginx):
        for sent in dict.fromkeys((plain, "/chunks/" + quote(name))):
            before = [fetch(edge, sent) for _ in range(2)]
            assert [answer.status for answer in before] == [200, 200]
            is_kept = provider is nginx or not set(sent) & set("%|")
            assert before[1].cache == ("HIT" if is_kept else "BYPASS")
            verdict = (await purge(provider, item))[0]
            assert verdict == Verdict("done", count=int(is_kept or (sent != plain and not set(plain) & set("%|"))))
            origin.asked.clear()
            assert fetch(edge, sent).status == 200
            assert len(origin.asked) == 1


@pytest.mark.parametrize("software", ["varnish", "nginx"])
def test_large_objects_are_whole_ranges_are_parts_and_the_largest_are_not_kept(
    software: str, origin: Origin, pair: tuple[VarnishServer, VarnishServer], ngx: NginxServer
) -> None:
    edge = pair[1] if software == "varnish" else ngx
    data = os.urandom(4 << 20)
    path = origin.put(f"/chunks/big-{software}", data, ETag='"big"', **EDGE)
    part = fetch(edge, path, Range="bytes=100-199")
    assert (part.status, part.body) == (206, data[100:200])
    for _ in range(100):  # a part may be given while the rest still comes
        if (whole := fetch(edge, path)).cache == "HIT":
            break
    assert (whole.cache, whole.body == data) == ("HIT", True)
    tail = fetch(edge, path, Range="bytes=-7")
    assert (tail.status, tail.body, tail.cache) == (206, data[-7:], "HIT")
    assert fetch(edge, path, Range="bytes=99999999-").status == 416
    assert fetch(edge, path, If_None_Match='"big"').status == 304
    assert origin.count(path) == 1
    huge = origin.put(f"/chunks/huge-{software}", bytes((8 << 20) + 1), **EDGE)
    assert {fetch(edge, huge).cache for _ in range(2)} == {"BYPASS" if software == "varnish" else "MISS"}


@pytest.mark.parametrize("software", ["varnish", "nginx"])
def test_paths_without_a_rule_are_not_served_and_rules_that_keep_nothing_pass(
    software: str, origin: Origin, pair: tuple[VarnishServer, VarnishServer], ngx: NginxServer
) -> None:
    edge = pair[1] if software == "varnish" else ngx
    origin.put("/metrics", b"secret figures")
    assert fetch(edge, "/metrics").status == 404
    assert origin.count("/metrics") == 0
    api = origin.put(f"/api/{software}", b"live")
    for _ in range(2):
        answer = fetch(edge, api, "POST", body=b"{}")
        assert (answer.body, answer.cache, answer.headers["cache-control"]) == (
            b"live",
            "BYPASS",
            "no-store",
        )
    assert origin.count(api, "POST") == 2
    page = origin.put(f"/embeddings/{software}", b"x")
    assert fetch(edge, page).headers["cache-control"] == "public, max-age=7200, immutable"
    chunk = origin.put(f"/chunks/plain-{software}", b"x")
    assert fetch(edge, chunk).headers["cache-control"] == "public, max-age=60"


async def test_an_edge_that_is_away_leaves_its_purge_queued_until_it_is_back(
    origin: Origin, tmp_path: Path, pair: tuple[VarnishServer, VarnishServer], web: Web
) -> None:
    with servers.closing_all() as running:
        mortal = servers.start_varnish(tmp_path / "m", origin.url)
        running.append(mortal)
        provider = Varnish(servers.settings("varnish", [pair[0].url, mortal.url]), web, NOW)
        path = origin.put("/chunks/mortal", b"x", Surrogate_Key="doc:mortal", **EDGE)
        for edge in (pair[0], mortal):
            fetch(edge, path)
        mortal.kill()
        first, second = await purge(provider, Item("tag", "doc:mortal"))
        assert first == Verdict("done", count=1)
        assert (second.state, second.code) == ("queued", "cdn-unreachable")
        assert [verdict.state for _, verdict in await provider.check()] == ["done", "queued"]
        mortal.start()
        assert await purge(provider, Item("tag", "doc:mortal")) == [Verdict("done", count=0)] * 2
        assert fetch(mortal, path).cache == "MISS", "it came back empty"


async def test_a_journal_replays_a_purge_once_its_edge_is_back(
    origin: Origin, tmp_path: Path, pair: tuple[VarnishServer, VarnishServer], web: Web
) -> None:
    env = SystemEnv(workers=2)
    env.random = NoPause()
    work = None
    try:
        with servers.closing_all() as running:
            mortal = servers.start_varnish(tmp_path / "m", origin.url)
            running.append(mortal)
            provider = Varnish(servers.settings("varnish", [pair[0].url, mortal.url]), web, NOW)
            path = origin.put("/chunks/replayed", b"x", Surrogate_Key="doc:replayed", **EDGE)
            for edge in (pair[0], mortal):
                fetch(edge, path)
            mortal.kill()
            purging = Purging(Journal(None), [provider], env)
            work = asyncio.create_task(purging.work())
            await purging.ask(Wish("1", (Target("doc:replayed", ((Item("tag", "doc:replayed"),),)),), "a test"))
            for _ in range(200):  # the call to the other edge may still be on its way
                states = await purging.wait("1", 0.1, to_the_end=True)
                if any(it.state == "done" for it in states):
                    break
            assert {it.edge: it.state for it in states} == {pair[0].url: "done", mortal.url: "queued"}
            await asyncio.to_thread(mortal.start)
            states = await purging.wait("1", 20, to_the_end=True)
            assert {it.edge: it.state for it in states} == {pair[0].url: "done", mortal.url: "done"}
            assert [fetch(edge, path).cache for edge in (pair[0], mortal)] == ["MISS", "MISS"]
    finally:
        if work is not None:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        env.close()


class NoPause(random.Random):
    """Chance that makes every pause before a retry the shortest."""

    def random(self) -> float:
        return 0.0


async def test_the_hit_ratio_is_that_of_the_requests_since_the_last_question(
    origin: Origin, pair: tuple[VarnishServer, VarnishServer], web: Web
) -> None:
    settings = servers.settings("varnish", [pair[0].url], stats_name=pair[0].name)
    provider = Varnish(settings, web, NOW)
    first = await provider.level(0, 1)
    assert 0 <= first.hit_ratio.get("all", 0) <= 1
    path = origin.put("/chunks/ratio", b"x", **EDGE)
    before = pair[0].lookups()
    for _ in range(4):
        fetch(pair[0], path)
    ends = time.monotonic() + 20
    while pair[0].lookups() < before + 4:
        assert time.monotonic() < ends
    assert (await provider.level(1, 2)).hit_ratio == {"all": 0.75}
    idle = await provider.level(2, 3)
    assert (dict(idle.hit_ratio), idle.reason, idle.is_fault) == ({}, "nothing was asked for since", False)
    nobody = Varnish(servers.settings("varnish", [pair[0].url], stats_name="/nowhere/at-all"), web, NOW)
    wrong = await nobody.level(0, 1)
    assert "no such instance" in wrong.reason and wrong.is_fault
    unnamed = await Varnish(servers.settings("varnish", [pair[0].url]), web, NOW).level(0, 1)
    assert "stats_name" in unnamed.reason and not unnamed.is_fault
    absent = Varnish(settings, web, NOW, stats="no-such-varnishstat")
    assert "no-such-varnishstat" in (await absent.level(0, 1)).reason


def test_a_person_with_curl_purges_one_url_of_one_host(
    origin: Origin, pair: tuple[VarnishServer, VarnishServer]
) -> None:
    path = origin.put("/chunks/curl", b"x", **EDGE)
    for host in (HOST, OTHER_HOST):
        fetch(pair[0], path, host=host)
    answer = fetch(pair[0], path, "PURGE", Authorization=BEARER)
    assert (answer.status, answer.headers["x-purged"], answer.body) == (200, "1", b"Purged: 1\n")
    assert [fetch(pair[0], path, host=host).cache for host in (HOST, OTHER_HOST)] == ["MISS", "HIT"]
    assert fetch(pair[0], "/chunks/never", "PURGE", Authorization=BEARER).headers["x-purged"] == "0"


async def test_over_tls_an_edge_proves_its_name_and_its_front_lets_only_callers_purge(
    origin: Origin, tmp_path: Path, pair: tuple[VarnishServer, VarnishServer], authority: Authority
) -> None:
    servers.need("nginx", os.environ.get("CI") == "true")
    with servers.closing_all() as running:
        front = servers.start_tls_front(tmp_path, pair[0], authority, ("127.0.0.1",))
        running.append(front)
        path = origin.put("/chunks/tls", b"x", Surrogate_Key="doc:tls", **EDGE)
        assert [fetch(front, path, ca=authority).cache for _ in range(2)] == ["MISS", "HIT"]
        settings = servers.settings("varnish", [front.url], ca_file=authority.ca_file)
        async with Web(ca_file=authority.ca_file) as web:
            provider = Varnish(settings, web, NOW)
            assert [verdict for _, verdict in await provider.check()] == [Verdict("done")]
            assert await purge(provider, Item("tag", "doc:tls")) == [Verdict("done", count=1)]
        assert fetch(front, path, "PURGE", ca=authority, source="127.0.0.2", Authorization=BEARER).status == 403
        async with Web() as web:
            (verdict,) = await purge(Varnish(settings, web, NOW), Item("tag", "doc:tls"))
            assert (verdict.state, verdict.code) == ("queued", "cdn-unreachable")
            assert "cannot prove" in verdict.reason


# --- nginx ----------------------------------------------------------------------------------------------------------


async def test_nginx_purges_what_it_keeps_and_says_when_it_kept_nothing(
    origin: Origin, ngx: NginxServer, nginx: Nginx
) -> None:
    path = origin.put("/chunks/ngx", b"x", **EDGE)
    assert [fetch(ngx, path).cache for _ in range(2)] == ["MISS", "HIT"]
    assert fetch(ngx, path, host=OTHER_HOST).cache == "HIT", "public hosts share the key"
    assert await purge(nginx, Item("url", path)) == [Verdict("done", count=1)]
    assert await purge(nginx, Item("url", path)) == [Verdict("done", count=0)]
    assert fetch(ngx, path).cache == "MISS"
    raw, car = (origin.put(f"/ipfs/bafyp?format={word}", b"x", **EDGE) for word in ("raw", "car"))
    for each in (raw, car):
        fetch(ngx, each)
    assert await purge(nginx, Item("url", raw)) == [Verdict("done", count=1)]
    assert [fetch(ngx, each).cache for each in (raw, car)] == ["MISS", "HIT"]
    assert [nginx.words(item) for item in (Item("tag", "doc:x"), Item("prefix", "/x"), Item("all"))] == [()] * 3
    assert (await nginx.level(0, 1)).reason.startswith("nginx counts no hits")


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "PURGE", "PUT"])
async def test_nginx_purges_by_post_with_the_token_and_by_nothing_else(
    method: str, origin: Origin, ngx: NginxServer, web: Web
) -> None:
    path = origin.put("/chunks/ngx-guarded", b"x", **EDGE)
    fetch(ngx, path)
    assert fetch(ngx, f"/purge{path}", method, Authorization=BEARER).status == 405
    assert fetch(ngx, f"/purge{path}", method).status == 405
    for token in ("Bearer wrong", BEARER.lower(), BEARER + "x", f"x{BEARER}"):
        assert fetch(ngx, f"/purge{path}", "POST", Authorization=token).status == 401
    assert fetch(ngx, f"/purge{path}", "POST").status == 401
    assert fetch(ngx, f"/purge{path}", "POST", source="127.0.0.2", Authorization=BEARER).status == 403
    assert fetch(ngx, path).cache == "HIT"
    wrong = Nginx(servers.settings("nginx", [ngx.url], auth_token=Secret("wrong")), web, NOW)
    assert (await purge(wrong, Item("url", path)))[0].code == "cdn-credentials"


async def test_nginx_check_finds_a_wrong_host_and_a_wrong_purge_location(
    ngx: NginxServer, nginx: Nginx, web: Web
) -> None:
    assert await nginx.check() == [(ngx.url, Verdict("done"))]
    hosts = Nginx(servers.settings("nginx", [ngx.url], hosts=(HOST, "www.example.org")), web, NOW)
    ((_, verdict),) = await hosts.check()
    assert (verdict.code, "www.example.org" in verdict.reason) == ("cdn-config", True)
    path = Nginx(servers.settings("nginx", [ngx.url], purge_path="/clear"), web, NOW)
    ((_, verdict),) = await path.check()
    assert (verdict.state, verdict.code) == ("failed", "cdn-config"), "its 404 is no purge"
    assert (await purge(path, Item("url", "/chunks/x")))[0].state == "failed"


def test_nginx_obeys_the_field_for_edges_and_the_browser_sees_its_minute(origin: Origin, ngx: NginxServer) -> None:
    def ttl(path: str, **headers: str) -> int:
        origin.put(path, b"x", **headers)
        first, second = fetch(ngx, path), fetch(ngx, path)
        assert (first.cache, second.cache) == ("MISS", "HIT")
        if "Cache_Control" in headers:
            assert second.headers["cache-control"] == headers["Cache_Control"].partition(", s-maxage")[0]
        for name in ("cdn-cache-control", "surrogate-control", "surrogate-key", "xkey", "x-rage-browser", "expires"):
            assert name not in second.headers
        (stored,) = [text for text in _stored(ngx) if f"KEY: {path}|".encode() in text]
        return _valid_for(stored)

    minute = "public, max-age=60"
    assert abs(ttl("/chunks/n1", CDN_Cache_Control="max-age=7200", Cache_Control=minute) - 7200) <= 2
    assert abs(ttl("/chunks/n2", Surrogate_Control="max-age=3000", Cache_Control=minute) - 3000) <= 2
    assert abs(ttl("/chunks/n3", CDN_Cache_Control="max-age=7200", Surrogate_Control="max-age=3000") - 7200) <= 2
    assert abs(ttl("/chunks/n4", Cache_Control="public, max-age=600, s-maxage=1200") - 1200) <= 2
    assert abs(ttl("/chunks/n5", CDN_Cache_Control="max-age=soon", Cache_Control="max-age=600") - 600) <= 2
    assert abs(ttl("/chunks/n6", CDN_Cache_Control="max-age=86401") - 86_400) <= 2
    assert abs(ttl("/chunks/n7", CDN_Cache_Control="max-age=86399") - 86_399) <= 2
    assert abs(ttl("/chunks/n8") - 86_400) <= 2
    assert abs(ttl("/embeddings/n9") - 7200) <= 2
    assert abs(ttl("/ipfs/n10") - 3600) <= 2


def test_nginx_serves_stale_only_where_the_origin_allows_it(origin: Origin, ngx: NginxServer) -> None:
    stale = origin.put("/chunks/stale", b"old", CDN_Cache_Control="max-age=1, stale-while-revalidate=60")
    strict = origin.put("/chunks/strict", b"old", CDN_Cache_Control="max-age=1")
    fetch(ngx, stale), fetch(ngx, strict)
    origin.put(stale, b"new", CDN_Cache_Control="max-age=600")
    origin.put(strict, b"new", CDN_Cache_Control="max-age=600")
    seen: dict[str, list[Answer]] = {stale: [], strict: []}
    for path, answers in seen.items():
        for _ in range(100_000):  # until its second is over: nginx counts whole seconds, and takes no other clock
            answers.append(fetch(ngx, path))
            if answers[-1].body == b"new":
                break
    kinds = {path: list(dict.fromkeys((one.cache, one.body) for one in answers)) for path, answers in seen.items()}
    assert ("STALE", b"old") in kinds[stale]
    assert kinds[stale][-1][1] == b"new"
    assert kinds[strict][-1] == ("EXPIRED", b"new")
    assert not [kind for kind in kinds[strict] if kind[0] == "STALE"]


def test_nginx_takes_puts_and_deletes_and_serves_what_was_put(origin: Origin, ngx: NginxServer) -> None:
    path, data = "/dav/chunks/pushed", os.urandom(3 << 20)

    def put(**more: str) -> int:
        return fetch(ngx, path, "PUT", body=data, **more).status

    assert put() == 401
    assert put(Authorization="Bearer wrong") == 401
    assert fetch(ngx, path, "PUT", body=b"x", source="127.0.0.2", Authorization=BEARER).status == 403
    assert [put(Authorization=BEARER) for _ in range(2)] == [201, 204]
    served = fetch(ngx, "/chunks/pushed")
    assert (served.body == data, served.cache, served.headers["cache-control"]) == (
        True,
        "HIT",
        "public, max-age=60",
    )
    assert origin.count("/chunks/pushed") == 0
    assert fetch(ngx, path, "HEAD", Authorization=BEARER).headers["content-length"] == str(len(data))
    assert fetch(ngx, path, "GET").status == 401
    assert fetch(ngx, path, "MKCOL", Authorization=BEARER).status == 405
    assert fetch(ngx, path, "DELETE").status == 401
    assert [fetch(ngx, path, "DELETE", Authorization=BEARER).status for _ in range(2)] == [204, 404]
    assert fetch(ngx, "/chunks/pushed").status == 404
    large = {"Authorization": BEARER, "Content_Length": str((5 << 20) + 1), "Expect": "100-continue"}
    assert fetch(ngx, path, "PUT", body=b"", **large).status == 413
    assert fetch(ngx, "/dav/../../nginx.conf", "PUT", body=b"x", Authorization=BEARER).status in (400, 405)


async def test_what_publish_puts_and_deletes_over_dav_is_served_and_gone(
    origin: Origin, ngx: NginxServer, web: Web
) -> None:
    store = Dav(ngx.url, "/dav", web=web, token=TOKEN)
    data = os.urandom(1 << 20)

    async def put(bytes_: bytes) -> bool:
        return (
            await store.put("chunks/dav", bytes_, content_type="application/octet-stream", cache_control="")
        ).existed

    assert [await put(data), await put(data)] == [False, True]
    found = await store.head("chunks/dav")
    assert found is not None
    served = fetch(ngx, "/chunks/dav")
    assert served.body == data
    assert served.headers["x-content-type-options"] == "nosniff", "as the node says: it may be anybody's script"
    with pytest.raises(RageError):
        await put(bytes((5 << 20) + 1))
    assert dict(await store.delete(["chunks/dav", "chunks/never"])) == {"chunks/dav": None, "chunks/never": None}
    assert await store.head("chunks/dav") is None
    assert fetch(ngx, "/chunks/dav").status == 404
    with pytest.raises(RageError):
        await Dav(ngx.url, "/dav", web=web, token="wrong").put(
            "chunks/dav", b"x", content_type="application/octet-stream", cache_control=""
        )


async def test_nginx_over_tls_with_a_ca_of_ones_own(origin: Origin, tmp_path: Path, authority: Authority) -> None:
    servers.need("nginx", os.environ.get("CI") == "true")
    with servers.closing_all() as running:
        edge = servers.start_nginx(tmp_path, origin.url, ca=authority)
        running.append(edge)
        path = origin.put("/chunks/ngx-tls", b"x", **EDGE)
        assert [fetch(edge, path, ca=authority).cache for _ in range(2)] == ["MISS", "HIT"]
        settings = servers.settings("nginx", [edge.url], ca_file=authority.ca_file)
        async with Web(ca_file=authority.ca_file) as web:
            provider = Nginx(settings, web, NOW)
            assert await provider.check() == [(edge.url, Verdict("done"))]
            assert await purge(provider, Item("url", path)) == [Verdict("done", count=1)]
        async with Web() as web:
            (verdict,) = await purge(Nginx(settings, web, NOW), Item("url", path))
            assert (verdict.state, verdict.code) == ("queued", "cdn-unreachable")
        edge.close()
        async with Web(ca_file=authority.ca_file) as web:
            (verdict,) = await purge(Nginx(settings, web, NOW), Item("url", path))
            assert (verdict.state, verdict.code) == ("queued", "cdn-unreachable")
