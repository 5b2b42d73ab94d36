"""Words, requests and verdicts of self-hosted edges, and what is not rendered: no server is needed."""

from __future__ import annotations

import asyncio
import re
import stat
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rage_net.cdn import edges, nginx, varnish
from rage_net.cdn.answers import bases_of
from rage_net.cdn.plan import Word, batches
from rage_net.cdn.policy import paths_of, tag_for_cid
from rage_net.cdn.provider import Call, Item, ItemError, Level, Verdict, check_tag
from rage_net.cdn.render import (
    NginxOptions,
    Tls,
    VarnishOptions,
    render_nginx,
    render_tls_front,
    render_token_map,
    render_varnish,
)
from rage_net.cdn.render.plan import above
from rage_net.cid import Cid
from rage_net.config.cdn import CachePolicy, CacheRule, Cdn, Cloudflare, Edge, Provider
from rage_net.config.values import Seconds, Secret, Url
from rage_net.errors import ConfigError
from rage_net.web import Answer, Web
from tests.cdn import servers
from tests.cdn.servers import HOST, TOKEN, settings

NOW = 1_790_000_000.0
EDGE = "http://127.0.0.1:6081"


def answered(status: int, body: bytes = b"", **headers: str) -> Answer:
    return Answer(status, {name.replace("_", "-").lower(): text for name, text in headers.items()}, body, 0.0, None)


def judged(status: int, body: bytes = b"", *, words: int = 1, kind: str = "tag", **headers: str) -> Verdict:
    call = Call(EDGE, kind, ("x",) * words, False, "r")  # type: ignore[arg-type]
    return varnish.judge(call, answered(status, body, **headers), NOW, (TOKEN,))


# --- words ----------------------------------------------------------------------------------------------------------


def test_an_edge_knows_a_path_by_its_format_and_nothing_else_of_its_query() -> None:
    assert edges.cached_path("/chunks/x?utm=1&format=raw&y") == "/chunks/x?format=raw"
    assert edges.cached_path("/ipfs/x?format=tar") == "/ipfs/x"
    assert edges.cached_path("/a b/ä?x") == "/a%20b/%C3%A4"
    for bad in ("chunks/x", "", "/a\nb", "/a/../b", "/./b", "/x\x7f", "/\ud800", "/" + "x" * 2048):
        with pytest.raises(ItemError):
            edges.cached_path(bad)


def test_every_path_of_a_block_is_a_word_of_its_own() -> None:
    cid = Cid.of(b"x")
    words = [varnish.words(Item("url", path), ("",)) for path in paths_of(cid)]
    assert words == [(varnish.path_tag(path),) for path in paths_of(cid)]
    assert varnish.words(Item("tag", tag_for_cid(cid)), ("",)) == (tag_for_cid(cid),)
    assert nginx.words(Item("url", paths_of(cid)[1]), ("",)) == (paths_of(cid)[1],)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60))
def test_a_path_as_a_tag_has_no_separator_and_is_no_tag_of_an_origin(text: str) -> None:
    word = varnish.path_tag("/" + text)
    assert re.fullmatch(r"URL:[A-Za-z0-9._~%-]+", word)
    assert unquote(word.removeprefix("URL:")) == "/" + text
    with pytest.raises(ItemError):
        check_tag(word)


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_literal_matches_its_text_and_no_other(text: str, other: str) -> None:
    assert re.fullmatch(varnish.literal(text), text)
    assert other == text or not re.fullmatch(varnish.literal(text), other)


@pytest.mark.parametrize(
    "item",
    [
        *(Item("tag", text) for text in ("a b", "a,b", "a&&b", "ä", "", "A", "a" * 257, "a\n")),
        *(Item("prefix", text) for text in ("/a b", "/a && obj.status == 200", "x", '/"', "/ä", "/*")),
        *(Item("host", text) for text in ("", "a b", "a|b", "ä.org", "-", 'x"', "a.org/x", "*.example.org")),
        Item("url", "chunks"),
        Item("url", "/" + "ä" * 1000),
    ],
)
def test_what_would_change_the_meaning_of_a_call_is_no_word(item: Item) -> None:
    with pytest.raises(ItemError):
        varnish.words(item, ("",))
    provider = varnish.Varnish(settings("varnish", [EDGE]), Web(), lambda: NOW)
    assert provider.words(item) == (), "one provider that cannot stops no other"


def test_public_addresses_with_a_path_come_before_each_path() -> None:
    bases = bases_of(["https://a.example/x/", "https://b.example", "https://c.example/x"])
    assert bases == ("/x", "")
    assert varnish.words(Item("prefix", "/chunks/a.b"), bases) == (r"/x/chunks/a\.b", r"/chunks/a\.b")
    assert nginx.words(Item("url", "/c"), bases) == ("/x/c", "/c")


def test_ten_thousand_urls_take_as_few_calls_as_a_header_allows() -> None:
    words = [
        Word("url", varnish.words(Item("url", f"/chunks/{Cid.of(n.to_bytes(4))}"), ("",))[0]) for n in range(10_000)
    ]
    calls = list(batches(words, varnish.ABILITIES))
    size = max(len(word.text) + 1 for word in words)
    assert len(calls) == -(-10_000 // (varnish.WORDS_BYTES_MAX // size))
    assert len(calls) <= 130
    sent = varnish.request(Call(EDGE, "url", tuple(word.text for word in calls[0]), False, "r"), HOST, TOKEN)
    assert len(sent.headers["xkey"]) < 8192 - 100


def test_a_request_carries_the_token_and_shows_it_to_nobody() -> None:
    call = Call(EDGE, "tag", ("doc:1", "doc:2"), True, "r")
    sent = varnish.request(call, HOST, TOKEN)
    assert (sent.method, sent.url) == ("PURGE", EDGE + "/")
    assert sent.headers == {
        "Host": HOST,
        "Authorization": f"Bearer {TOKEN}",
        "xkey": "doc:1 doc:2",
        "X-Purge-Soft": "1",
    }
    ban = varnish.request(Call(EDGE, "prefix", ("/a", "/b"), False, "r"), HOST, "")
    assert (ban.method, ban.headers) == ("BAN", {"Host": HOST, "X-Ban-Prefix": "/a|/b"})
    other = nginx.request(EDGE, "/purge/", "/chunks/x?format=raw", HOST, TOKEN)
    assert (other.method, other.url) == ("POST", EDGE + "/purge/chunks/x?format=raw")
    assert TOKEN not in repr((sent, other))


# --- verdicts -------------------------------------------------------------------------------------------------------


def test_only_an_edge_that_says_what_it_purged_has_purged() -> None:
    assert judged(200, X_Purged="3") == Verdict("done", count=3)
    assert judged(200, X_Banned="1", kind="prefix") == Verdict("done")
    for count in ("", "-1", "many", "1e3", "9" * 40, "1;2", "²"):
        assert (judged(200, X_Purged=count).state, judged(200, X_Purged=count).code) == ("queued", "cdn-answer")
    assert judged(200, X_Purged="3", kind="all").state == "queued", "a ban says that it is one"
    assert judged(200, b"<html>Log in</html>", Content_Type="text/html").reason.count("Log in") == 0
    assert judged(302, Location="https://login.example").code == "cdn-answer"
    assert nginx.judge(answered(404), NOW).code == "cdn-config"
    assert nginx.judge(answered(404, X_Purged="0"), NOW) == Verdict("done", count=0)
    assert nginx.judge(answered(200, X_Purged="1"), NOW) == Verdict("done", count=1)
    assert nginx.judge(answered(200, b"<html>Successful purge</html>"), NOW).state == "queued"


@pytest.mark.parametrize(
    ("status", "state", "code"),
    [
        (400, "failed", "cdn-rejected"),
        (401, "failed", "cdn-credentials"),
        (403, "failed", "cdn-forbidden"),
        (404, "failed", "cdn-config"),
        (405, "failed", "cdn-config"),
        (408, "queued", "cdn-busy"),
        (413, "failed", "cdn-rejected"),
        (421, "failed", "cdn-config"),
        (425, "queued", "cdn-busy"),
        (429, "queued", "cdn-rate-limited"),
        (431, "failed", "cdn-rejected"),
        (500, "queued", "cdn-busy"),
        (501, "failed", "cdn-config"),
        (502, "queued", "cdn-busy"),
        (503, "queued", "cdn-busy"),
        (504, "queued", "cdn-busy"),
    ],
)
@pytest.mark.parametrize("software", ["varnish", "nginx"])
def test_every_row_of_the_table_of_errors(status: int, state: str, code: str, software: str) -> None:
    echoed = f"no such token: {TOKEN}"
    if software == "varnish":
        verdict = judged(status, X_Purge_Error=echoed)
    else:
        verdict = nginx.judge(answered(status, X_Purge_Error=echoed), NOW, (TOKEN,))
    assert (verdict.state, verdict.code) == (state, code)
    assert verdict.reason.isprintable()
    assert all(not line.startswith("rage") or line.startswith(f"rage cdn render {software}") for line in verdict.mend)
    assert TOKEN not in repr(verdict)


def test_retry_after_is_a_number_or_a_date() -> None:
    assert judged(503, Retry_After="5").retry_after_s == 5
    assert judged(429, Retry_After="Mon, 21 Sep 2026 14:15:00 GMT").retry_after_s == pytest.approx(1_790_000_100 - NOW)
    assert judged(503, Retry_After="soon").retry_after_s is None


def test_a_head_that_is_too_long_goes_in_halves_and_one_word_alone_does_not() -> None:
    for status in (400, 413, 414, 431):
        assert (judged(status, words=2).state, judged(status, words=2).is_too_large) == ("queued", True)
        assert (judged(status).state, judged(status).is_too_large) == ("failed", False)
    refused = judged(400, words=2, X_Purge_Error="say what to ban")
    assert (refused.state, refused.is_too_large) == ("failed", False), "the rules' own refusal is none of length"


@pytest.mark.anyio
@pytest.mark.parametrize("make", [varnish.Varnish, nginx.Nginx])
async def test_a_token_that_no_header_can_carry_is_never_sent(make: type[varnish.Varnish]) -> None:
    async with Web() as web:
        name = make.__name__.lower()
        provider = make(settings(name, [EDGE], auth_token=Secret("line\nbreak")), web, lambda: NOW)
        verdict = await provider.purge(Call(EDGE, "url", ("/x",), False, "r"))
    assert (verdict.state, verdict.code) == ("failed", "cdn-credentials")
    assert "break" not in repr(verdict).replace("line break", "")


# --- figures --------------------------------------------------------------------------------------------------------


def counted(hits: int, misses: int, uptime: int) -> varnish.Counters:
    return varnish.Counters(hits, misses, uptime)


def test_a_ratio_is_of_what_came_since_and_begins_anew_with_the_process() -> None:
    assert varnish.ratio(None, counted(3, 1, 9)) == 0.75
    assert varnish.ratio(counted(3, 1, 9), counted(4, 2, 10)) == 0.5
    assert varnish.ratio(counted(3, 1, 9), counted(3, 1, 10)) is None
    assert varnish.ratio(counted(300, 100, 900), counted(1, 0, 2)) == 1.0, "restarted"
    assert varnish.ratio(counted(1, 5, 10), counted(2, 1, 10)) == pytest.approx(2 / 3), "restarted as fast"


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b'{"counters": 3}', b'{"counters": {"MAIN.cache_hit": 1}}', b"[" * 99999]
)
def test_no_counters_are_no_ratio(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"counters|numbers"):
        varnish.parse_counters(text)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("exec sleep 60", "no answer in time"),
        ("exit 3", "ends with 3"),
        ("echo '{}'", "no counters"),
        ("exec cat /dev/zero", "prints too much"),
    ],
)
async def test_a_program_that_hangs_fails_or_babbles_gives_a_reason(
    script: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "varnishstat"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    if "sleep" in script:
        monkeypatch.setattr(varnish, "STATS_S", 0.2)
    async with Web() as web:
        one = varnish.Varnish(settings("varnish", [EDGE], stats_name="x"), web, lambda: NOW, stats=str(program))
        level = await asyncio.wait_for(one.level(0, 1), 20)
    assert isinstance(level, Level)
    assert (dict(level.hit_ratio), why in level.reason) == ({}, True), level.reason


# --- rendering ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 10**9), st.integers(1, 10**10))
def test_the_form_for_larger_numbers_knows_them(bound: int, number: int) -> None:
    assert (re.fullmatch(above(bound), str(number)) is not None) == (number > bound)


ORIGIN = "http://127.0.0.1:8471"


def both(cdn: Cdn, origin: str = ORIGIN, **changes: object) -> list[str]:
    """The rendered texts of both kinds."""
    callers = changes.pop("callers", ("127.0.0.1",))
    token = changes.pop("token", "/etc/rage/token")
    kind = {"endpoints": [EDGE], **changes}
    one = settings("varnish", **kind)  # type: ignore[arg-type]
    two = settings("nginx", **kind)  # type: ignore[arg-type]
    return [
        render_varnish(cdn, one, origin, VarnishOptions(token, callers=callers)),  # type: ignore[arg-type]
        render_nginx(cdn, two, origin, NginxOptions(token, callers=callers)),  # type: ignore[arg-type]
    ]


def test_no_secret_is_rendered() -> None:
    for text in both(Cdn()):
        assert TOKEN not in text
        assert HOST in text


@pytest.mark.parametrize(
    "changes",
    [
        {"origin": "https://127.0.0.1:8471"},
        {"origin": "http://127.0.0.1:8471/path"},
        {"origin": "127.0.0.1:8471"},
        {"callers": ("everybody",)},
        {"callers": ('127.0.0.1"; } sub vcl_recv {',)},
        {"token": "relative"},
        {"token": '/etc/x"; return (ok);'},
        {"token": "/etc/x\n"},
        {"hosts": ("a.org/path",)},
    ],
)
def test_what_an_edge_cannot_be_told_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        both(Cdn(), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("pattern", ['/a"b', "/a;b", "/a b", "/a{b", "/a\nb", "/ä", "/a\\b", "/a'b", "/a#b", "/<x>"])
def test_a_pattern_that_would_end_a_text_is_refused(pattern: str) -> None:
    cdn = Cdn(cache_policy=CachePolicy(rules=(CacheRule(pattern=pattern),)))
    for which in ("varnish", "nginx"):
        with pytest.raises(ConfigError):
            if which == "varnish":
                render_varnish(cdn, settings("varnish", [EDGE]), ORIGIN, VarnishOptions("/t"))
            else:
                render_nginx(cdn, settings("nginx", [EDGE]), ORIGIN, NginxOptions("/t"))


def test_a_cloud_is_not_rendered_and_a_wrong_location_neither() -> None:
    cloud = Provider(
        name="cloudflare-1",
        type="commercial",
        software="cloudflare",
        config=Cloudflare(zone_id="z", api_token=Secret("t")),
    )
    with pytest.raises(ConfigError):
        render_varnish(Cdn(), cloud, ORIGIN, VarnishOptions("/t"))
    for keys in ({"purge_path": "/p(.*)"}, {"purge_path": "/p;"}, {"dav_path": "/"}, {"dav_path": "/d{"}):
        with pytest.raises(ConfigError):
            render_nginx(Cdn(), settings("nginx", [EDGE], **keys), ORIGIN, NginxOptions("/t"))
    for token in ("", 'x"', "a b", "x\n", "x;", "$x"):
        with pytest.raises(ConfigError):
            render_token_map(token)
    with pytest.raises(ConfigError):
        render_tls_front(settings("varnish", [EDGE]), "127.0.0.1:1;", ("127.0.0.1",), Tls("/c", "/k"))


def test_without_public_addresses_an_edge_serves_its_endpoints_hosts() -> None:
    plain = Provider(
        name="varnish-x",
        type="self-hosted",
        software="varnish",
        config=Edge(endpoints=(Url("http://Edge1.example:81"),)),
    )
    text = render_varnish(Cdn(), plain, ORIGIN, VarnishOptions("/t"))
    assert 'if (req.http.Host != "edge1.example")' in text


@pytest.mark.foreign("varnishd", "nginx")
@pytest.mark.parametrize("name", ["varnishd", "nginx"])
def test_the_servers_take_odd_but_legal_settings(name: str, in_ci: bool, tmp_path: Path) -> None:
    import subprocess

    servers.need(name, in_ci)
    rules = (
        CacheRule(pattern="/a.b/*/c$(x)[y]|z+?^", ttl=Seconds(0.5)),
        CacheRule(pattern="*", ttl=Seconds(9), cache=True, immutable=True, stale_while_revalidate=Seconds(3)),
        CacheRule(pattern="/plain", cache=False),
    )
    cdn = Cdn(cache_policy=CachePolicy(default_ttl=Seconds(0), max_ttl=Seconds(10), rules=rules))
    found = servers.program(name)
    assert found is not None
    callers = ("10.0.0.0/8", "2001:db8::/32", "192.0.2.7")
    if name == "varnishd":
        text = render_varnish(
            cdn, settings("varnish", [EDGE], hosts=("[::1]", HOST)), ORIGIN, VarnishOptions("/t", callers)
        )
        (tmp_path / "x.vcl").write_text(text)
        command = [found, "-j", "none", "-C", "-n", str(tmp_path / "n"), "-f", str(tmp_path / "x.vcl")]
    else:
        (tmp_path / "t").write_text(render_token_map("a.b+c"))
        options = NginxOptions(
            tmp_path / "t", callers, listen="8080", cache_dir=tmp_path / "c", access_log=tmp_path / "a.log"
        )
        text = render_nginx(cdn, settings("nginx", [EDGE], dav_path="/dav/x"), ORIGIN, options)
        module = servers._purge_module()
        (tmp_path / "x.conf").write_text(
            f"load_module {module};\npid {tmp_path}/p;\nevents {{ }}\nhttp {{\n{text}\n}}\n"
        )
        command = [found, "-t", "-p", str(tmp_path), "-c", str(tmp_path / "x.conf"), "-e", str(tmp_path / "e")]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
