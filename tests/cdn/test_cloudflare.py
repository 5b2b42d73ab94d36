"""Cloudflare against its contract fake, and against everything that its API is known to answer."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rage_net.cdn import cloudflare as module
from rage_net.cdn.cloudflare import judge, judge_figures, judge_zone, quota_left
from rage_net.cdn.provider import Item, Verdict
from rage_net.config import cdn as config_cdn
from rage_net.config.values import Url
from rage_net.web import Web
from tests.cdn.clouds import CID, NOW, SENTINEL, ZONE, call, cloudflare
from tests.cdn.fakes.cloudflare import PLANS, ContractFakeCloudflare
from tests.cdn.fakes.server import Bucket, Purged, Reply
from tests.conftest import Clock

pytestmark = pytest.mark.anyio


@pytest.fixture
async def fake(now: Clock) -> AsyncIterator[ContractFakeCloudflare]:
    async with ContractFakeCloudflare(now, token=SENTINEL) as fake:
        yield fake


def failure(*errors: dict[str, Any]) -> bytes:
    return json.dumps({"success": False, "errors": list(errors), "messages": [], "result": None}).encode()


# --- requests ---


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("url", {"files": ["w"]}),
        ("tag", {"tags": ["w"]}),
        ("host", {"hosts": ["w"]}),
        ("prefix", {"prefixes": ["w"]}),
        ("all", {"purge_everything": True}),
    ],
)
@pytest.mark.parametrize(("soft", "operation"), [(False, "purge_cache"), (True, "invalidate_cache")])
def test_a_purge_is_one_key_at_one_of_two_addresses(kind: Any, body: object, soft: bool, operation: str) -> None:
    request = module.purge("https://api.example/v4", ZONE, "t", kind, ["w"], soft=soft)
    assert (request.method, request.url) == ("POST", f"https://api.example/v4/zones/{ZONE}/{operation}")
    assert request.headers["Authorization"] == "Bearer t"
    assert request.headers["Content-Type"] == "application/json"
    assert request.body is not None and json.loads(request.body) == body


async def test_words_name_every_public_host_as_the_api_wants_them(web: Web, now: Clock) -> None:
    public = ("https://CDN.example.org", "https://b.example.org/base/", "https://cdn.example.org")
    provider = cloudflare("http://127.0.0.1:1", web, now, public=public)
    assert provider.words(Item("url", "/a?format=raw")) == (
        "https://cdn.example.org/a?format=raw",
        "https://b.example.org/base/a?format=raw",
    )
    assert provider.words(Item("prefix", "/chunks/")) == ("cdn.example.org/chunks/", "b.example.org/base/chunks/")
    assert provider.words(Item("host", "CDN.example.org")) == ("cdn.example.org",)
    assert not cloudflare("http://127.0.0.1:1", web, now, public=()).words(Item("url", "/a"))


async def test_a_prefix_with_too_many_separators_is_made_shorter_so_that_more_goes(
    fake: ContractFakeCloudflare, web: Web, now: Clock
) -> None:
    provider = cloudflare(fake.url, web, now)
    [word] = provider.words(Item("prefix", "/d" * 40 + "/"))
    assert word.count("/") == module.SEPARATORS_MAX and word.endswith("/d/")
    assert (await provider.purge(call("prefix", word))).state == "accepted"
    assert not fake.broken


@pytest.mark.parametrize(
    ("plan", "urls", "urls_per_s", "per_s", "burst"),
    [
        ("free", 30, 800, 5 / 60, 24),
        ("pro", 30, 1500, 5, 22),
        ("business", 30, 1500, 10, 45),
        ("enterprise", 500, 3000, 50, 475),
    ],
)
async def test_quotas_are_those_of_the_plan(
    plan: str, urls: int, urls_per_s: float, per_s: float, burst: float, web: Web, now: Clock
) -> None:
    abilities = cloudflare("http://127.0.0.1:1", web, now, plan=plan).abilities
    assert abilities.words_max == {"url": urls, "tag": 100, "host": 100, "prefix": 100, "all": 1}
    assert abilities.quotas["url"][1].per_s == urls_per_s and abilities.quotas["url"][1].counts == "words"
    others = {abilities.quotas[kind] for kind in ("tag", "host", "prefix", "all")}
    assert len(others) == 1
    [(_, quota)] = others
    assert (quota.per_s, quota.burst, quota.counts) == (per_s, burst, "calls")


@pytest.mark.parametrize("kind", ["url", "tag"])
@pytest.mark.parametrize("plan", PLANS)
async def test_our_quota_stays_within_the_vendors_however_late_calls_arrive(
    plan: str, kind: Any, rng: random.Random, web: Web, now: Clock
) -> None:
    abilities = cloudflare("http://127.0.0.1:1", web, now, plan=plan).abilities
    _, quota = abilities.quotas[kind]
    tokens = abilities.words_max[kind] if quota.counts == "words" else 1
    ours, at = Bucket(quota.per_s, quota.burst, now), list[float]()
    for _ in range(300):
        while wait := ours.take(tokens):
            now.advance(wait + 1e-6)  # a wait that is too short for the float would never end
        at.append(now() + (rng.uniform(0.3, 0.4) if now() < NOW + 0.2 else rng.uniform(0, 0.05)))
    late = Clock(NOW)
    theirs = ContractFakeCloudflare(late, plan=plan).buckets["urls" if kind == "url" else "others"]
    for late.now in sorted(at):
        assert theirs.take(tokens) == 0.0


async def test_objects_from_a_bucket_have_no_tags(web: Web, now: Clock) -> None:
    provider = cloudflare("http://127.0.0.1:1", web, now)
    config = provider._config.replace(bucket=config_cdn.Bucket(uri="s3://b/p", endpoint=Url("https://r2.example")))
    with_bucket = module.Cloudflare(config, web, now)
    assert "tag" not in with_bucket.abilities.words_max and not with_bucket.words(Item("tag", "doc:1"))


# --- purges ---


async def test_what_is_purged_is_what_was_asked(fake: ContractFakeCloudflare, web: Web, now: Clock) -> None:
    provider = cloudflare(fake.url, web, now)
    await provider.purge(call("tag", "doc:1", "doc:2"))
    verdict = await provider.purge(call("url", *provider.words(Item("url", f"/chunks/{CID}")), soft=True))
    assert verdict == Verdict("accepted", id=fake.zone_id)
    assert fake.purged == [
        Purged("tags", "doc:1"),
        Purged("tags", "doc:2"),
        Purged("files", f"https://cdn.example.org/chunks/{CID}", soft=True),
    ]
    assert not fake.broken


async def test_a_call_is_made_once_whatever_comes(fake: ContractFakeCloudflare, web: Web, now: Clock) -> None:
    provider = cloudflare(fake.url, web, now)
    fake.scripted = [Reply(503)] * 5
    assert (await provider.purge(call("tag", "a"))).state == "queued"
    assert len(fake.calls) == 1


async def test_a_bucket_that_is_empty_answers_429_with_the_seconds_to_wait(
    fake: ContractFakeCloudflare, web: Web, now: Clock
) -> None:
    provider = cloudflare(fake.url, web, now)
    verdicts = [await provider.purge(call("tag", f"t{n}")) for n in range(26)]
    assert [verdict.state for verdict in verdicts] == ["accepted"] * 25 + ["queued"]
    assert (verdicts[-1].code, verdicts[-1].retry_after_s) == ("cdn-rate-limited", 12.0)
    now.advance(12)
    assert (await provider.purge(call("tag", "t26"))).state == "accepted"


async def test_ten_thousand_urls_keep_the_quota_in_the_fewest_calls(
    fake: ContractFakeCloudflare, web: Web, now: Clock
) -> None:
    provider = cloudflare(fake.url, web, now)
    abilities = provider.abilities
    most, (_, quota) = abilities.words_max["url"], abilities.quotas["url"]
    words = [word for n in range(10_000) for word in provider.words(Item("url", f"/chunks/{CID}{n}"))]
    for at in range(0, len(words), most):
        batch = words[at : at + most]
        assert (await provider.purge(call("url", *batch))).state == "accepted"
        now.advance(len(batch) / quota.per_s)
    assert len(fake.purges) == math.ceil(10_000 / most) and not fake.broken
    assert len({purged.word for purged in fake.purged}) == len(fake.purged) == 10_000


async def test_an_account_that_takes_fewer_items_gets_halves(
    fake: ContractFakeCloudflare, web: Web, now: Clock
) -> None:
    fake.item_limit = 30
    verdict = await cloudflare(fake.url, web, now).purge(call("tag", *(f"t{n}" for n in range(100))))
    assert (verdict.state, verdict.is_too_large) == ("queued", True)
    fake.item_limit = 0
    verdict = await cloudflare(fake.url, web, now).purge(call("tag", "t"))
    assert (verdict.state, verdict.is_too_large, verdict.code) == ("failed", False, "cdn-rejected")


async def test_a_plan_without_tags_is_told_and_the_next_plan_goes_by_url(
    fake: ContractFakeCloudflare, web: Web, now: Clock
) -> None:
    fake.tags_in_plan = False
    provider = cloudflare(fake.url, web, now)
    verdict = await provider.purge(call("tag", "doc:1"))
    assert (verdict.state, verdict.code) == ("failed", "cdn-rejected")
    assert "1107" in verdict.reason and "URLs" in verdict.mend[0]
    assert "tag" not in provider.abilities.words_max and "url" in provider.abilities.words_max


async def test_a_token_that_is_refused_now_and_then_is_tried_three_times(
    fake: ContractFakeCloudflare, web: Web, now: Clock
) -> None:
    provider = cloudflare(fake.url, web, now)
    fake.scripted = [Reply(401, {"success": False, "errors": [{"code": 10000, "message": "Authentication error"}]})]
    first, second = await provider.purge(call("tag", "a")), await provider.purge(call("tag", "a"))
    assert (first.state, first.code, first.tries_max) == ("queued", "cdn-credentials", 3)
    assert second.state == "accepted"


# --- the table of errors ---


@pytest.mark.parametrize(
    ("status", "errors", "state", "code"),
    [
        (
            400,
            [{"code": 6003, "message": "Invalid request headers", "error_chain": [{"code": 6103, "message": "key"}]}],
            "failed",
            "cdn-credentials",
        ),
        (400, [{"code": 6111, "message": "Invalid format for Authorization header"}], "failed", "cdn-credentials"),
        (401, [{"code": 10000, "message": "Authentication error"}], "queued", "cdn-credentials"),
        (403, [{"code": 10000, "message": "Authentication error"}], "failed", "cdn-credentials"),
        (400, [{"code": 10000, "message": "Authentication error"}], "failed", "cdn-credentials"),
        (403, [{"code": 9109, "message": "Unauthorized to access requested resource"}], "failed", "cdn-forbidden"),
        (401, [{"code": 9109, "message": "Unauthorized to access requested resource"}], "queued", "cdn-credentials"),
        (403, [{"code": 4711, "message": "forbidden"}], "failed", "cdn-forbidden"),
        (400, [{"code": 7003, "message": "Could not route"}, {"code": 7000, "message": "No"}], "failed", "cdn-config"),
        (404, [{"code": 7003, "message": "Could not route to /zones/example.org"}], "failed", "cdn-config"),
        (404, [{"code": 4712, "message": "gone"}], "failed", "cdn-not-found"),
        (400, [{"code": 1012, "message": "Request must contain one of"}], "failed", "cdn-rejected"),
        (400, [{"code": 1014, "message": "Invalid type for key"}], "failed", "cdn-rejected"),
        (400, [{"code": 1107, "message": "Only enterprise zones can purge by tag"}], "failed", "cdn-rejected"),
        (400, [{"code": 4713, "message": "no"}], "failed", "cdn-rejected"),
        (429, [{"code": 10429, "message": "Rate limited"}], "queued", "cdn-rate-limited"),
        (500, [{"code": 10500, "message": "Internal"}], "queued", "cdn-busy"),
        (502, [{"code": 10502, "message": "Bad gateway"}], "queued", "cdn-busy"),
        (200, [{"code": 10000, "message": "Authentication error"}], "failed", "cdn-credentials"),
        (200, [{"code": 4714, "message": "not now"}], "failed", "cdn-rejected"),
        (200, [], "failed", "cdn-rejected"),
    ],
)
def test_every_error_has_its_verdict(status: int, errors: list[dict[str, Any]], state: str, code: str) -> None:
    verdict = judge(status, {}, failure(*errors), NOW)
    assert (verdict.state, verdict.code) == (state, code)
    assert verdict.tries_max == (3 if status == 401 else None)
    for error in errors:
        assert error["message"] in verdict.reason and str(error["code"]) in verdict.reason
    assert verdict.mend or code not in ("cdn-credentials", "cdn-forbidden", "cdn-config")


@pytest.mark.parametrize(
    ("status", "state", "code"),
    [
        (200, "queued", "cdn-answer"),
        (301, "queued", "cdn-answer"),
        (401, "queued", "cdn-credentials"),
        (403, "failed", "cdn-forbidden"),
        (404, "failed", "cdn-not-found"),
        (405, "failed", "cdn-rejected"),
        (429, "queued", "cdn-rate-limited"),
        (503, "queued", "cdn-busy"),
    ],
)
def test_a_body_of_html_is_judged_by_its_status_and_not_quoted(status: int, state: str, code: str) -> None:
    verdict = judge(status, {"content-type": "text/html; charset=utf-8"}, b"<h1>Sorry</h1>", NOW)
    assert (verdict.state, verdict.code) == (state, code)
    assert "Sorry" not in verdict.reason and "text/html" in verdict.reason


@pytest.mark.parametrize(("text", "seconds"), [("300", 300.0), ("Mon, 21 Sep 2026 14:18:20 GMT", 300.0), ("", None)])
def test_429_says_how_long_in_seconds_or_as_a_date(text: str, seconds: float | None) -> None:
    headers = {"retry-after": text} if text else {}
    verdict = judge(429, headers, failure({"code": 10429, "message": "Rate limited"}), NOW)
    assert verdict.retry_after_s == seconds


@pytest.mark.parametrize("result", [None, {"id": "a" * 32}, {}])
def test_success_is_accepted_with_or_without_an_id(result: Any) -> None:
    body = json.dumps({"success": True, "errors": [], "messages": [], "result": result}).encode()
    assert judge(200, {}, body) == Verdict("accepted", id=(result or {}).get("id", ""))


def test_success_with_an_error_status_is_no_success() -> None:
    assert judge(500, {}, b'{"success": true, "errors": []}').state == "queued"


# --- check ---


@pytest.mark.parametrize("zone_id", ["example.org", "0123456789ABCDEF0123456789ABCDEF", "", "0" * 31, "0" * 32 + "/x"])
async def test_a_zone_that_is_a_name_is_found_before_any_call(
    zone_id: str, fake: ContractFakeCloudflare, web: Web, now: Clock
) -> None:
    provider = cloudflare(fake.url, web, now, zone_id=zone_id)
    [(_, verdict)] = await provider.check()
    assert (verdict.state, verdict.code) == ("failed", "cdn-config")
    assert "32 hex digits" in verdict.mend[0]
    assert (await provider.purge(call("tag", "a"))).code == "cdn-config"
    assert not fake.calls


async def test_check_changes_nothing(fake: ContractFakeCloudflare, web: Web, now: Clock) -> None:
    assert (await cloudflare(fake.url, web, now).check()) == [("", Verdict("done"))]
    assert [seen.method for seen in fake.calls] == ["GET", "GET"] and not fake.purged


async def test_check_finds_a_token_that_is_wrong_or_at_its_end(
    fake: ContractFakeCloudflare, web: Web, now: Clock
) -> None:
    [(_, verdict)] = await cloudflare(fake.url, web, now, token="another").check()
    assert (verdict.state, verdict.code) == ("failed", "cdn-credentials")
    fake.token_status = "expired"
    [(_, verdict)] = await cloudflare(fake.url, web, now).check()
    assert (verdict.state, verdict.code) == ("failed", "cdn-credentials") and "expired" in verdict.reason


async def test_a_token_of_an_account_is_good_though_verify_does_not_know_it(
    fake: ContractFakeCloudflare, web: Web, now: Clock
) -> None:
    fake.is_account_token = True
    assert await cloudflare(fake.url, web, now).check() == [("", Verdict("done"))]


async def test_check_asks_again_when_a_good_token_is_refused_now_and_then(
    fake: ContractFakeCloudflare, web: Web, now: Clock
) -> None:
    refused = Reply(401, {"success": False, "errors": [{"code": 10000, "message": "Authentication error"}]})
    fake.sporadic = [refused] * 3
    assert await cloudflare(fake.url, web, now).check() == [("", Verdict("done"))]
    fake.sporadic = [refused] * 4
    [(_, verdict)] = await cloudflare(fake.url, web, now).check()
    assert (verdict.state, verdict.code) == ("failed", "cdn-credentials")


@pytest.mark.parametrize("permissions", [["#zone:read"], ["#cache_purge:edit"], []])
async def test_check_finds_a_token_without_rights(
    permissions: list[str], fake: ContractFakeCloudflare, web: Web, now: Clock
) -> None:
    fake.permissions = permissions
    [(_, verdict)] = await cloudflare(fake.url, web, now).check()
    assert (verdict.state, verdict.code) == ("failed", "cdn-forbidden") and verdict.mend


async def test_check_finds_a_zone_of_somebody_else(fake: ContractFakeCloudflare, web: Web, now: Clock) -> None:
    [(_, verdict)] = await cloudflare(fake.url, web, now, zone_id="f" * 32).check()
    assert (verdict.state, verdict.code) == ("failed", "cdn-forbidden") and "9109" in verdict.reason


@pytest.mark.parametrize("host", ["https://cdn.example.net", "https://notexample.org"])
async def test_check_finds_a_public_host_that_is_not_in_the_zone(
    host: str, fake: ContractFakeCloudflare, web: Web, now: Clock
) -> None:
    [(_, verdict)] = await cloudflare(fake.url, web, now, public=("https://cdn.example.org", host)).check()
    assert (verdict.state, verdict.code) == ("failed", "cdn-config")
    assert host.removeprefix("https://") in verdict.reason


def test_a_zone_that_tells_nothing_is_no_finding() -> None:
    assert judge_zone({}, ["https://a.example"]) == judge_zone(None, []) == Verdict("done")


# --- figures ---


def row(colo: str, status: str, count: int) -> dict[str, object]:
    return {"count": count, "dimensions": {"coloCode": colo, "cacheStatus": status}}


async def test_hit_ratios_come_by_data_centre_whatever_the_case_of_the_status(
    fake: ContractFakeCloudflare, web: Web, now: Clock
) -> None:
    fake.rows = [
        *(row("AMS", status, 10) for status in ("hit", "HIT", "Stale", "updating", "revalidated")),
        *(row("AMS", status, 10) for status in ("miss", "expired", "dynamic", "bypass", "none")),
        row("FRA", "MISS", 4),
        row("ZRH", "hit", 0),
    ]
    provider = cloudflare(fake.url, web, now)
    await provider.purge(call("tag", "a"))
    level = await provider.level(NOW - 3600, NOW)
    assert level.hit_ratio == {"AMS": 0.5, "FRA": 0.0} and level.basis == "requests" and not level.reason
    assert level.overall == pytest.approx(50 / 104), "by requests, not the mean of both"
    assert level.quota_left == "24 calls of others, all again in 12 s"
    variables = fake.calls[-1].json()["variables"]["filter"]
    assert variables["clientRequestHTTPHost_in"] == ["cdn.example.org"]
    assert variables["datetime_geq"] == "2026-09-21T13:13:20Z" and variables["datetime_lt"] == "2026-09-21T14:13:20Z"
    assert not fake.broken


async def test_errors_of_graphql_come_with_200_and_are_told(fake: ContractFakeCloudflare, web: Web, now: Clock) -> None:
    fake.figures_error = "not authorized for that account"
    level = await cloudflare(fake.url, web, now).level(NOW - 60, NOW)
    assert not level.hit_ratio and "not authorized" in level.reason and "Analytics" in level.reason


def test_no_request_is_no_ratio() -> None:
    body = {"data": {"viewer": {"zones": [{"httpRequestsAdaptiveGroups": []}]}}, "errors": None}
    assert judge_figures(200, {}, json.dumps(body).encode()).reason == "no request in this time"
    assert judge_figures(200, {}, b'{"data": {"viewer": {"zones": []}}, "errors": null}').reason


def test_what_is_left_of_a_quota_is_read_from_its_header() -> None:
    assert quota_left({"ratelimit": '"default";r=50;t=30'}) == ("default", "50 calls of default, all again in 30 s")
    assert quota_left({"ratelimit": '"a";r=1'}) == ("a", "1 calls of a")
    assert quota_left({"ratelimit": "50"}) is None and quota_left({}) is None


# --- the vendor's own SDK ---


async def test_the_vendors_sdk_and_the_fake_agree(fake: ContractFakeCloudflare) -> None:
    import cloudflare as sdk

    def run() -> None:
        with sdk.Cloudflare(api_token=SENTINEL, base_url=fake.api_url, max_retries=0) as client:
            assert client.cache.purge(zone_id=ZONE, tags=["doc:1"]).id == ZONE
            assert client.cache.purge(zone_id=ZONE, files=["https://cdn.example.org/a"]).id == ZONE
            assert client.cache.purge(zone_id=ZONE, prefixes=["cdn.example.org/chunks/"]).id == ZONE
            assert client.cache.purge(zone_id=ZONE, hosts=["cdn.example.org"]).id == ZONE
            assert client.cache.purge(zone_id=ZONE, purge_everything=True).id == ZONE
            assert client.cache.invalidate(zone_id=ZONE, tags=["doc:2"]).id == ZONE
            assert client.user.tokens.verify().status == "active"
            zone = client.zones.get(zone_id=ZONE)
            assert zone.name == fake.domain and "#cache_purge:edit" in zone.permissions
            with pytest.raises((sdk.BadRequestError, sdk.NotFoundError)):
                client.zones.get(zone_id="example.org")
        assert not fake.broken
        with (
            sdk.Cloudflare(api_token=SENTINEL, base_url=fake.api_url, max_retries=0) as client,
            pytest.raises(sdk.BadRequestError) as wrong,
        ):
            client.cache.purge(zone_id=ZONE, extra_body={})
        assert wrong.value.errors[0].code == 1012
        with (
            sdk.Cloudflare(api_token="another", base_url=fake.api_url, max_retries=0) as client,
            pytest.raises(sdk.AuthenticationError),
        ):
            client.cache.purge(zone_id=ZONE, tags=["a"])

    await asyncio.to_thread(run)
    assert [purged.kind for purged in fake.purged] == ["tags", "files", "prefixes", "hosts", "purge_everything", "tags"]
    assert [purged.soft for purged in fake.purged] == [False] * 5 + [True]


async def test_we_send_what_the_vendors_sdk_sends(fake: ContractFakeCloudflare, web: Web, now: Clock) -> None:
    import cloudflare as sdk

    def run() -> None:
        with sdk.Cloudflare(api_token=SENTINEL, base_url=fake.api_url, max_retries=0) as client:
            client.cache.purge(zone_id=ZONE, tags=["doc:1"])
            client.cache.invalidate(zone_id=ZONE, files=["https://cdn.example.org/a"])
            client.cache.purge(zone_id=ZONE, purge_everything=True)

    await asyncio.to_thread(run)
    provider = cloudflare(fake.url, web, now)
    await provider.purge(call("tag", "doc:1"))
    await provider.purge(call("url", "https://cdn.example.org/a", soft=True))
    await provider.purge(call("all", "*"))
    sent = [
        (it.method, it.path, it.headers["authorization"], it.headers["content-type"], it.json()) for it in fake.calls
    ]
    assert sent[:3] == sent[3:]
