"""What the clouds' modules share: pauses, words fit to show, what a status means, an exchange that never raises."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rage_net.cdn.answers import (
    SAID_CHARS_MAX,
    Request,
    exchange,
    halved,
    hosts,
    judge_status,
    parse,
    refuse_token,
    retry_after_s,
    said,
)
from rage_net.cdn.provider import Verdict
from rage_net.web import Web
from tests.cdn.clouds import NOW, SENTINEL
from tests.listening import listening


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("300", 300.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("Mon, 21 Sep 2026 14:18:20 GMT", 300.0),
        ("Mon, 21 Sep 2026 14:08:20 GMT", 0.0),
        ("Monday, 21-Sep-26 14:18:20 GMT", 300.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("١٢", None),
        ("Mon, 99 Foo 2026 99:99:99 GMT", None),
        ("9" * 400, 7 * 86_400.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 7 * 86_400.0),
    ],
)
def test_retry_after_is_read_as_seconds_and_as_a_date(text: str, seconds: float | None) -> None:
    assert retry_after_s({"retry-after": text}, NOW) == seconds


@given(st.text(max_size=80))
def test_no_retry_after_raises(text: str) -> None:
    seconds = retry_after_s({"retry-after": text}, NOW)
    assert seconds is None or 0 <= seconds <= 7 * 86_400


@given(st.text(max_size=600), st.integers(0, 600))
def test_words_of_a_stranger_are_one_short_printable_line_without_secrets(text: str, at: int) -> None:
    line = said(text[:at] + SENTINEL + text[at:], [SENTINEL])
    assert line.isprintable() and len(line) <= SAID_CHARS_MAX and SENTINEL not in line


def test_a_secret_is_taken_out_before_the_line_is_cut() -> None:
    line = said("x" * (SAID_CHARS_MAX - 5) + SENTINEL, [SENTINEL])
    assert SENTINEL[:4] not in line and line.endswith("…")


def test_a_longer_secret_goes_before_one_that_it_contains() -> None:
    assert said("abc-secret-def", ["secret", "abc-secret-def", ""]) == "<secret>"


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_what_passes_by_itself_is_asked_again(status: int) -> None:
    verdict = judge_status(status, {"retry-after": "9"}, "", NOW, "A vendor")
    assert (verdict.state, verdict.retry_after_s) == ("queued", 9.0)
    assert verdict.code == ("cdn-rate-limited" if status == 429 else "cdn-busy")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "cdn-rejected"),
        (401, "cdn-credentials"),
        (403, "cdn-forbidden"),
        (404, "cdn-not-found"),
        (410, "cdn-rejected"),
    ],
)
def test_what_does_not_pass_by_itself_fails(status: int, code: str) -> None:
    verdict = judge_status(status, {}, "no", NOW, "A vendor")
    assert (verdict.state, verdict.code, verdict.reason) == ("failed", code, f"A vendor answers {status}: no")


@pytest.mark.parametrize(
    ("status", "told"), [(413, ""), (400, "You may only purge up to 30 files"), (400, "Too many keys")]
)
def test_a_call_that_is_too_large_goes_in_halves_down_to_one_word(status: int, told: str) -> None:
    verdict = judge_status(status, {}, told, NOW, "A vendor")
    assert verdict.is_too_large and verdict.state == "queued"
    assert halved(verdict, 2) == verdict
    assert (halved(verdict, 1).state, halved(verdict, 1).is_too_large) == ("failed", False)


def test_a_redirect_says_where_it_points() -> None:
    verdict = judge_status(302, {"location": "https://portal.example/"}, "", NOW, "A vendor")
    assert (verdict.state, verdict.code) == ("queued", "cdn-answer")
    assert "https://portal.example/" in verdict.reason


def test_a_request_shows_neither_headers_nor_body() -> None:
    shown = repr(Request("POST", "https://a.example/", {"Authorization": SENTINEL}, SENTINEL.encode()))
    assert "https://a.example/" in shown and SENTINEL not in shown


@pytest.mark.parametrize("token", ["", "tok en", "token\n", "\x00", "tokén"])
def test_a_token_that_no_header_takes_is_refused_before_it_is_sent(token: str) -> None:
    verdict = refuse_token(token, "api_token")
    assert verdict is not None and verdict.code == "cdn-credentials" and (not token or token not in verdict.reason)


def test_hosts_are_lower_case_without_ports_each_once() -> None:
    urls = ("https://CDN.example.org/", "http://cdn.example.org:8080/base", "https://b.example")
    assert hosts(urls) == ("cdn.example.org", "b.example")


def test_only_an_object_is_json() -> None:
    assert parse(b'{"a": 1}') == {"a": 1}
    assert [parse(body) for body in (b"", b"[]", b"\xff", b"[" * 100_000)] == [None] * 4


@pytest.mark.anyio
async def test_an_answer_that_does_not_come_in_time_leaves_the_call_queued() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.get_running_loop().create_future()

    async with listening(silent) as port, Web() as web:
        found = await exchange(web, Request("GET", f"http://127.0.0.1:{port}/"), (), timeout_s=0.05)
    assert isinstance(found, Verdict)
    assert (found.state, found.code) == ("queued", "cdn-unreachable")
    assert "0.05 s" in found.reason


@pytest.mark.anyio
@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 0\r\n\r\n",
        b"",
    ],
)
async def test_what_is_no_answer_leaves_the_call_queued(answer: bytes) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    async with listening(babble) as port, Web() as web:
        found = await exchange(web, Request("GET", f"http://127.0.0.1:{port}/"), ())
    assert isinstance(found, Verdict)
    assert (found.state, found.code) == ("queued", "cdn-answer")


@pytest.mark.anyio
async def test_an_address_that_is_none_fails_at_once() -> None:
    async with Web() as web:
        found = await exchange(web, Request("GET", "ftp://a.example/"), ())
    assert isinstance(found, Verdict)
    assert (found.state, found.code) == ("failed", "cdn-config")
