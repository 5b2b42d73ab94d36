"""What every provider does, whatever its vendor: add yours to PROVIDERS."""

from __future__ import annotations

import io
import json
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from rage_net import log
from rage_net.cdn.plan import Word, batches
from rage_net.cdn.provider import Item, Kind, Level, Verdict
from rage_net.web import Web
from tests.cdn.clouds import CID, CLOUDS, NOW, SENTINEL, Babbler, Case, call
from tests.cdn.edge_cases import EDGES
from tests.cdn.fakes.server import Reply
from tests.conftest import Clock

pytestmark = pytest.mark.anyio

PROVIDERS: list[Case] = [*CLOUDS, *EDGES]

ITEMS: dict[Kind, Item] = {
    "url": Item("url", f"/chunks/{CID}"),
    "prefix": Item("prefix", "/chunks/"),
    "tag": Item("tag", "doc:42"),
    "host": Item("host", "cdn.example.org"),
    "all": Item("all"),
}
STATES = {"queued", "accepted", "done", "pending", "failed"}
CODES = {
    *("", "cdn-credentials", "cdn-forbidden", "cdn-not-found", "cdn-config", "cdn-rejected", "cdn-rate-limited"),
    *("cdn-busy", "cdn-unreachable", "cdn-answer"),
}
JSON = {"Content-Type": "application/json"}
GARBAGE = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b"0",
    b'"text"',
    b"<html><body>Log in</body></html>",
    b"\xff\xfe\x00\x01",
    b"{" * 5000,
    b"[" * 100_000,
    b'{"success": "yes", "errors": 7, "result": []}',
    b'{"success": false, "errors": [null, 7, {"code": "x", "message": {}}, {"error_chain": 3}]}',
    b'{"success": true, "result": {"id": {"a": 1}, "status": []}}',
    b'{"status": 3, "error": {"code": [], "message": null, "details": [null]}}',
    b'{"status": "Failed", "error": []}',
    b'{"access_token": "x y", "expires_in": "never"}',
    b'{"access_token": "t", "expires_in": 1e400}',
    b'{"access_token": "t", "expires_in": "99999999", "status": "ok", "id": 5}',
    b'{"errors": {"a": 1}, "data": {"viewer": {"zones": [{"httpRequestsAdaptiveGroups": [{"count": -1}]}]}}}',
    b'{"Data": [{"recorded": "x"}], "data": [7], "value": [{"timeseries": [{"data": [{"average": "NaN"}]}]}]}',
]


@pytest.fixture(params=PROVIDERS, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
async def served(case: Case, now: Clock) -> AsyncIterator[Any]:
    """What the provider talks to. Where it checks a contract, nothing may have broken it when the test ends."""
    async with case.serve(now) as served:
        yield served
        assert not getattr(served, "broken", None)


def nowhere() -> str:
    """An address on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


async def test_it_has_words_for_every_kind_that_it_can_purge_by(case: Case, served: Any, web: Web, now: Clock) -> None:
    provider = case.make(served.url, web, now)
    assert provider.name
    assert provider.edges
    for kind in provider.abilities.words_max:
        words = provider.words(ITEMS[kind])
        assert words and all(words) and len(set(words)) == len(words), kind


async def test_it_has_no_words_for_other_kinds(case: Case, served: Any, web: Web, now: Clock) -> None:
    provider = case.make(served.url, web, now)
    for kind in ITEMS.keys() - provider.abilities.words_max.keys():
        assert not provider.words(ITEMS[kind]), kind


async def test_it_purges_by_every_kind_that_it_can(case: Case, served: Any, web: Web, now: Clock) -> None:
    provider = case.make(served.url, web, now)
    for kind in provider.abilities.words_max:
        for edge in provider.edges:
            verdict = await provider.purge(call(kind, *provider.words(ITEMS[kind])[:1]))
            assert verdict.state == provider.abilities.answer, (kind, edge, verdict)
            if verdict.state == "pending":
                assert (await provider.ask(edge, verdict.id)).state == "done"


async def test_it_marks_as_stale_what_it_can(case: Case, served: Any, web: Web, now: Clock) -> None:
    provider = case.make(served.url, web, now)
    for kind in provider.abilities.soft:
        verdict = await provider.purge(call(kind, *provider.words(ITEMS[kind])[:1], soft=True))
        assert verdict.state == provider.abilities.answer, (kind, verdict)


async def test_a_call_as_large_as_it_says_is_taken(case: Case, served: Any, web: Web, now: Clock) -> None:
    provider = case.make(served.url, web, now)
    for kind in provider.abilities.words_max.keys() - {"all", "host"}:
        most = provider.abilities.words_max[kind]
        words: dict[str, None] = {}
        for number in range(most):
            value = {"url": f"/chunks/{CID}{number}", "tag": f"doc:{number}", "prefix": f"/chunks/{number}/"}[kind]
            words.update(dict.fromkeys(provider.words(Item(kind, value))))
        whole = next(batches([Word(kind, word) for word in words], provider.abilities))
        assert len(whole) == most or provider.abilities.bytes_max is not None
        verdict = await provider.purge(call(kind, *(word.text for word in whole)))
        assert verdict.state == provider.abilities.answer, (kind, verdict)


async def test_every_kind_has_a_quota_that_a_whole_call_fits_into(
    case: Case, served: Any, web: Web, now: Clock
) -> None:
    abilities = case.make(served.url, web, now).abilities
    for kind, (name, quota) in abilities.quotas.items():
        assert kind in ITEMS and name
        needed = abilities.words_max.get(kind, 1) if quota.counts == "words" else 1
        assert quota.burst >= needed and quota.per_s > 0


async def test_its_check_says_that_all_is_well(case: Case, served: Any, web: Web, now: Clock) -> None:
    provider = case.make(served.url, web, now)
    assert [(edge, verdict.state) for edge, verdict in await provider.check()] == [
        (edge, "done") for edge in provider.edges
    ]


@pytest.mark.parametrize("status", [200, 201, 202, 204, 301, 302, 400, 401, 403, 404, 409, 418, 429, 500, 503])
async def test_no_answer_makes_it_raise(case: Case, status: int, web: Web, now: Clock) -> None:
    async with Babbler(now) as babbler:
        provider = case.make(babbler.url, web, now)
        bodies = GARBAGE if case in CLOUDS else GARBAGE[:8]  # an edge's bodies are never read
        for body in bodies if status != 204 else [b""]:
            babbler.reply = Reply(
                status, body, {**JSON, "Location": "https://elsewhere.example/", "Retry-After": "soon"}
            )
            for kind in provider.abilities.words_max:
                verdict = await provider.purge(call(kind, *provider.words(ITEMS[kind])[:1]))
                is_known = verdict.state in STATES and verdict.code in CODES
                assert is_known and len(verdict.reason) < 500 and verdict.reason.isprintable(), verdict
                assert verdict.state not in ("failed", "queued") or (verdict.reason and verdict.code), verdict
            assert (await provider.ask(provider.edges[0], f"{babbler.url}/operations/1")).state in STATES
            assert all(verdict.state in STATES for _, verdict in await provider.check())
            level = await provider.level(NOW - 60, NOW)
            assert isinstance(level, Level) and all(0 <= ratio <= 1 for ratio in level.hit_ratio.values())


async def test_a_page_of_html_with_status_200_is_no_purge(case: Case, web: Web, now: Clock) -> None:
    async with Babbler(now) as babbler:
        babbler.reply = Reply(200, b"<html><title>Log in</title></html>", {"Content-Type": "text/html"})
        provider = case.make(babbler.url, web, now)
        verdict = await provider.purge(call("url", *provider.words(ITEMS["url"])[:1]))
        assert (verdict.state, verdict.code) == ("queued", "cdn-answer")
        assert "Log in" not in verdict.reason


async def test_who_cannot_be_reached_is_asked_again(case: Case, web: Web, now: Clock) -> None:
    provider = case.make(nowhere(), web, now)
    verdict = await provider.purge(call("url", *provider.words(ITEMS["url"])[:1]))
    assert (verdict.state, verdict.code, verdict.tries_max) == ("queued", "cdn-unreachable", None)
    assert verdict.reason and verdict.mend
    assert [verdict.code for _, verdict in await provider.check()] == ["cdn-unreachable"] * len(provider.edges)
    assert (await provider.level(NOW - 60, NOW)).reason


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """All that is logged, as a node writes it when it is told to write everything."""
    root, stream = logging.getLogger(), io.StringIO()
    before, level = root.handlers[:], root.level
    log.set_up(level="DEBUG", secrets=[SENTINEL], stream=stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)


async def test_no_secret_is_shown_whatever_is_answered(case: Case, web: Web, now: Clock, logged: io.StringIO) -> None:
    shown: list[object] = []
    async with Babbler(now) as babbler:
        provider = case.make(babbler.url, web, now)
        shown.append(repr(provider))
        for status in (200, 202, 302, 400, 401, 403, 404, 409, 413, 429, 500):
            for form in (_plain, _error, _errors, _msg, _login, _page, _header):
                babbler.echo = lambda text, form=form, status=status: form(status, text)  # type: ignore[misc]
                shown += [await provider.purge(call("all", "/*")), await provider.check()]
                shown += [await provider.level(NOW - 60, NOW), await provider.ask("", f"{babbler.url}/operations/1")]
        assert any(SENTINEL in repr((seen.headers, seen.body)) for seen in babbler.calls)
    for it in shown:
        assert SENTINEL not in str(it) and SENTINEL not in repr(it)
    assert logged.getvalue() and SENTINEL not in logged.getvalue()


def _plain(status: int, text: str) -> Reply:
    return Reply(status, {"success": True, "status": text, "id": text, "result": {"id": text, "status": text}})


def _error(status: int, text: str) -> Reply:
    return Reply(status, {"error": {"code": text[:20], "message": text, "details": [{"code": text, "message": text}]}})


def _errors(status: int, text: str) -> Reply:
    return Reply(status, {"success": False, "errors": [{"code": 10000, "message": text}], "result": None})


def _msg(status: int, text: str) -> Reply:
    return Reply(status, {"msg": text, "detail": text})


def _login(status: int, text: str) -> Reply:
    return Reply(status, {"error": "invalid_client", "error_description": text})


def _page(status: int, text: str) -> Reply:
    return Reply(status, f"<html>{json.dumps(text)}</html>".encode(), {"Content-Type": "text/html"})


def _header(status: int, text: str) -> Reply:
    line = "".join(char if char.isprintable() and char.isascii() else " " for char in text)[:4000]
    return Reply(
        status, {}, {"Location": f"/{line}", "Azure-AsyncOperation": f"/{line}", "Ratelimit": f'"{line[:60]}";r=1'}
    )


@pytest.mark.parametrize("secret", ["with a blank", "line\nbreak", "gr\u00f6\u00dfe", ""])
async def test_a_secret_that_no_header_takes_is_told_and_not_shown(
    case: Case, secret: str, served: Any, web: Web, now: Clock
) -> None:
    made = case.make(served.url, web, now, token=secret)
    for verdict in (await made.purge(call("all", "/*")), *(verdict for _, verdict in await made.check())):
        assert isinstance(verdict, Verdict)
        assert verdict.state == "failed" and verdict.code in ("cdn-credentials", "cdn-config"), verdict
        assert not secret or secret not in repr(verdict)
