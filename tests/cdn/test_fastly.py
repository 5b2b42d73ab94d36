"""Fastly against its contract fake, and against everything that its API is known to answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rage_net.cdn import fastly as module
from rage_net.cdn import policy
from rage_net.cdn.fastly import judge, judge_history, judge_realtime, key_of, quota_left, reset_s
from rage_net.cdn.provider import Item, Verdict
from rage_net.cid import Cid
from rage_net.config import cdn as config_cdn
from rage_net.web import Web
from tests.cdn.clouds import CID, NOW, SENTINEL, call, fastly
from tests.cdn.fakes.fastly import ContractFakeFastly
from tests.cdn.fakes.server import Purged, Reply
from tests.conftest import Clock

pytestmark = pytest.mark.anyio

SERVICE = "SU1Z0isxPaozGVKXdv0eY"


@pytest.fixture
async def fake(now: Clock) -> AsyncIterator[ContractFakeFastly]:
    async with ContractFakeFastly(now, token=SENTINEL) as fake:
        yield fake


# --- requests ---


def test_one_key_stands_percent_encoded_in_the_path_and_many_in_the_body() -> None:
    one = module.purge_keys("https://api.example", SERVICE, "t", ["doc:a/b?c%"], soft=False)
    assert one.url == f"https://api.example/service/{SERVICE}/purge/doc:a%2Fb%3Fc%25"
    assert one.body is None and one.headers == {"Fastly-Key": "t", "Accept": "application/json"}
    many = module.purge_keys("https://api.example", SERVICE, "t", ["a", "b"], soft=True)
    assert many.url == f"https://api.example/service/{SERVICE}/purge"
    assert many.body == b'{"surrogate_keys":["a","b"]}' and many.headers["Fastly-Soft-Purge"] == "1"
    assert (one.method, many.method) == ("POST", "POST")


def test_a_url_has_no_scheme_and_keeps_what_is_encoded() -> None:
    request = module.purge_url("https://api.example", "t", "cdn.example.org/a%20b?x=1", soft=True)
    assert request.url == "https://api.example/purge/cdn.example.org/a%20b%3Fx%3D1"
    assert request.headers["Fastly-Soft-Purge"] == "1"


def test_a_purge_of_everything_is_never_soft() -> None:
    assert "Fastly-Soft-Purge" not in module.purge_all("https://api.example", SERVICE, "t").headers


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (f"/chunks/{CID}", f"cid:{CID}"),
        (f"/ipfs/{CID}?format=raw", f"cid:{CID}"),
        (f"/ipfs/{CID}/a/b", f"cid:{CID}"),
        ("/embeddings/1", None),
        ("/chunks/", None),
        (f"/x/chunks/{CID}", None),
        (f"/chunks/{CID}/../y", f"cid:{CID}"),
    ],
)
def test_what_the_origin_tags_with_its_cid_is_purged_by_that_key(path: str, key: str | None) -> None:
    assert key_of(path) == key


async def test_other_urls_are_purged_as_host_and_path(fake: ContractFakeFastly, web: Web, now: Clock) -> None:
    provider = fastly(fake.url, web, now, public=("https://CDN.example.org/base", "https://a.example.net"))
    words = provider.words(Item("url", "/embeddings/1?x=2"))
    assert words == ("cdn.example.org/base/embeddings/1?x=2", "a.example.net/embeddings/1?x=2")
    for word in words:
        assert (await provider.purge(call("url", word, soft=True))).state == "accepted"
    assert fake.purged == [Purged("url", word, soft=True) for word in words] and not fake.broken


async def test_a_call_with_such_a_url_among_others_goes_in_halves(
    fake: ContractFakeFastly, web: Web, now: Clock
) -> None:
    provider = fastly(fake.url, web, now)
    verdict = await provider.purge(call("url", "cid:bafkr4iaaaa", "cdn.example.org/embeddings/1"))
    assert verdict.is_too_large and verdict.state == "queued" and not fake.calls


async def test_all_forms_of_a_chunk_are_one_key(web: Web, now: Clock) -> None:
    provider = fastly("http://127.0.0.1:1", web, now, public=("https://a.example", "https://b.example"))
    paths = (f"/chunks/{CID}", f"/ipfs/{CID}?format=raw", f"/ipfs/{CID}?format=car")
    assert {provider.words(Item("url", path)) for path in paths} == {(f"cid:{CID}",)}


async def test_objects_from_a_bucket_have_no_keys_and_go_by_url(fake: ContractFakeFastly, web: Web, now: Clock) -> None:
    config = fastly(fake.url, web, now)._config.replace(bucket=config_cdn.Bucket(uri="s3://b/p"))
    provider = module.Fastly(config, web, now)
    assert provider.abilities.words_max == {"url": 1, "all": 1} and not provider.words(Item("tag", "doc:1"))
    assert provider.words(Item("url", f"/chunks/{CID}")) == (f"cdn.example.org/chunks/{CID}",)
    assert (await provider.purge(call("url", f"cdn.example.org/chunks/{CID}"))).state == "accepted"
    assert fake.purged == [Purged("url", f"cdn.example.org/chunks/{CID}")]


async def test_no_hour_sees_more_than_a_hundred_thousand_keys(web: Web, now: Clock) -> None:
    abilities = fastly("http://127.0.0.1:1", web, now).abilities
    name, quota = abilities.quotas["tag"]
    assert abilities.quotas["url"] == (name, quota) and quota.counts == "words"
    assert quota.burst + 3600 * quota.per_s <= 100_000.001
    _, everything = abilities.quotas["all"]
    assert everything.counts == "calls" and everything.burst + 3600 * everything.per_s <= 1000


# --- purges ---


async def test_what_is_purged_is_what_was_asked(fake: ContractFakeFastly, web: Web, now: Clock) -> None:
    provider = fastly(fake.url, web, now)
    one = await provider.purge(call("tag", "doc:a/b"))
    many = await provider.purge(call("tag", "doc:1", "doc:2", soft=True))
    everything = await provider.purge(call("all", "*"))
    assert (one, many, everything.state) == (
        Verdict("accepted", id="108-1391560174-1"),
        Verdict("accepted", id="108-1391560174-2"),
        "accepted",
    )
    assert fake.purged == [
        Purged("key", "doc:a/b"),
        Purged("key", "doc:1", soft=True),
        Purged("key", "doc:2", soft=True),
        Purged("all", "*"),
    ]
    assert not fake.broken


async def test_ten_thousand_cids_go_in_forty_calls(fake: ContractFakeFastly, web: Web, now: Clock) -> None:
    provider = fastly(fake.url, web, now)
    words = [word for n in range(10_000) for word in provider.words(Item("url", f"/chunks/{CID}{n}"))]
    most = provider.abilities.words_max["url"]
    for at in range(0, len(words), most):
        assert (await provider.purge(call("url", *words[at : at + most]))).state == "accepted"
    assert len(fake.purges) == 40 and not fake.broken
    assert len({purged.word for purged in fake.purged}) == len(fake.purged) == 10_000


async def test_a_quota_that_is_used_up_says_when_it_is_full_again(
    fake: ContractFakeFastly, web: Web, now: Clock
) -> None:
    fake.writes.left = 1
    provider = fastly(fake.url, web, now)
    assert (await provider.purge(call("all", "*"))).state == "accepted"
    verdict = await provider.purge(call("all", "*"))
    assert (verdict.state, verdict.code) == ("queued", "cdn-rate-limited")
    assert verdict.retry_after_s == 3600.0
    assert (await provider.level(NOW - 9000, NOW)).quota_left == "0 writes in this hour"


async def test_a_call_is_made_once_whatever_comes(fake: ContractFakeFastly, web: Web, now: Clock) -> None:
    fake.scripted = [Reply(503)] * 5
    assert (await fastly(fake.url, web, now).purge(call("tag", "a"))).state == "queued"
    assert len(fake.calls) == 1


# --- the table of errors ---


@pytest.mark.parametrize(
    ("status", "body", "state", "code", "is_too_large"),
    [
        (401, {"msg": "Provided credentials are missing or invalid"}, "failed", "cdn-credentials", False),
        (403, {"msg": "You are not authorized to perform this action"}, "failed", "cdn-forbidden", False),
        (404, {"msg": "Record not found", "details": "Cannot find service"}, "failed", "cdn-not-found", False),
        (404, {"msg": "Record not found", "detail": "Couldn't find Service"}, "failed", "cdn-not-found", False),
        (400, {"msg": "Bad request", "detail": "Too many keys"}, "queued", "cdn-rejected", True),
        (400, {"msg": "Bad request"}, "queued", "cdn-rejected", True),
        (400, {"msg": "Invalid"}, "failed", "cdn-rejected", False),
        (405, {"msg": "Method not allowed"}, "failed", "cdn-rejected", False),
        (413, {"msg": "Payload"}, "queued", "cdn-rejected", True),
        (429, {"msg": "You have exceeded your hourly rate limit"}, "queued", "cdn-rate-limited", False),
        (500, {"msg": "Internal error"}, "queued", "cdn-busy", False),
        (503, {"msg": "Unavailable"}, "queued", "cdn-busy", False),
        (200, {"status": "error"}, "failed", "cdn-rejected", False),
        (200, {"a": 1}, "queued", "cdn-answer", False),
        (200, {}, "queued", "cdn-answer", False),
    ],
)
def test_every_error_has_its_verdict(
    status: int, body: dict[str, Any], state: str, code: str, is_too_large: bool
) -> None:
    verdict = judge(status, {}, json.dumps(body).encode(), NOW)
    assert (verdict.state, verdict.code, verdict.is_too_large) == (state, code, is_too_large)
    for text in ("msg", "detail", "details"):
        assert body.get(text, "") in verdict.reason
    assert verdict.mend or code not in ("cdn-credentials", "cdn-forbidden", "cdn-not-found")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"fastly-ratelimit-reset": str(int(NOW) + 77)}, 77.0),
        ({"fastly-ratelimit-reset": str(int(NOW) - 5)}, 0.0),
        ({"fastly-ratelimit-reset": str(int(NOW) + 77), "retry-after": "300"}, 300.0),
        ({"retry-after": "Mon, 21 Sep 2026 14:18:20 GMT"}, 300.0),
        ({"fastly-ratelimit-reset": "soon"}, None),
        ({"fastly-ratelimit-reset": "9" * 12}, 3600.0),
        ({}, None),
    ],
)
def test_429_says_when_by_the_reset_or_by_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert judge(429, headers, b'{"msg": "x"}', NOW).retry_after_s == seconds


def test_a_page_of_html_is_not_quoted() -> None:
    verdict = judge(200, {"content-type": "text/html"}, b"<h1>Log in</h1>", NOW)
    assert (verdict.state, verdict.code) == ("queued", "cdn-answer") and "Log in" not in verdict.reason


def test_headers_of_quota_that_make_no_sense_are_left_out() -> None:
    assert quota_left({"fastly-ratelimit-remaining": "many"}) == "" and reset_s({}, NOW) is None


# --- check ---


async def test_check_changes_nothing(fake: ContractFakeFastly, web: Web, now: Clock) -> None:
    assert await fastly(fake.url, web, now).check() == [("", Verdict("done"))]
    assert {seen.method for seen in fake.calls} == {"GET"} and not fake.purged


@pytest.mark.parametrize("service_id", ["", "a/b", "example.org", "a b"])
async def test_a_service_that_is_none_is_found_before_any_call(
    service_id: str, fake: ContractFakeFastly, web: Web, now: Clock
) -> None:
    provider = fastly(fake.url, web, now, service_id=service_id)
    [(_, verdict)] = await provider.check()
    assert (verdict.state, verdict.code) == ("failed", "cdn-config") and not fake.calls
    assert (await provider.purge(call("tag", "a"))).code == "cdn-config" and not fake.calls


@pytest.mark.parametrize(
    ("scope", "services", "state", "code"),
    [
        ("global", [], "done", ""),
        ("global", [SERVICE], "done", ""),
        ("purge_select", [], "done", ""),
        ("purge_select global:read", [], "done", ""),
        ("purge_all", [], "failed", "cdn-forbidden"),
        ("global:read", [], "failed", "cdn-forbidden"),
        ("global", ["another"], "failed", "cdn-forbidden"),
    ],
)
async def test_check_finds_a_token_without_rights(
    scope: str, services: list[str], state: str, code: str, fake: ContractFakeFastly, web: Web, now: Clock
) -> None:
    fake.scope, fake.services = scope, services
    [(_, verdict)] = await fastly(fake.url, web, now).check()
    assert (verdict.state, verdict.code) == (state, code)


async def test_check_finds_wrong_credentials_and_an_unknown_service(
    fake: ContractFakeFastly, web: Web, now: Clock
) -> None:
    [(_, verdict)] = await fastly(fake.url, web, now, token="another").check()
    assert (verdict.state, verdict.code) == ("failed", "cdn-credentials") and "missing or invalid" in verdict.reason
    [(_, verdict)] = await fastly(fake.url, web, now, service_id="unknown").check()
    assert (verdict.state, verdict.code) == ("failed", "cdn-not-found") and "service_id" in verdict.mend[0]


@pytest.mark.parametrize(
    ("host", "state"),
    [
        ("https://cdn.example.org", "done"),
        ("https://any.example.net", "done"),
        ("https://a.b.example.net", "failed"),
        ("https://example.net", "failed"),
        ("https://other.example.org", "failed"),
    ],
)
async def test_check_finds_a_public_host_that_is_none_of_the_services(
    host: str, state: str, fake: ContractFakeFastly, web: Web, now: Clock
) -> None:
    [(_, verdict)] = await fastly(fake.url, web, now, public=(host,)).check()
    assert verdict.state == state and (state == "done" or host.removeprefix("https://") in verdict.reason)


# --- figures ---


def second(at: float, **centres: tuple[int, int]) -> dict[str, object]:
    figures = {name: {"hits": hits, "miss": miss, "requests": hits + miss} for name, (hits, miss) in centres.items()}
    return {"recorded": int(at), "aggregated": {}, "datacenter": figures}


async def test_figures_of_the_last_two_minutes_come_by_data_centre(
    fake: ContractFakeFastly, web: Web, now: Clock
) -> None:
    fake.realtime = [
        second(NOW - 90, AMS=(9, 9)),
        second(NOW - 10, AMS=(3, 1), FRA=(0, 5)),
        second(NOW - 9, AMS=(3, 1)),
    ]
    level = await fastly(fake.url, web, now).level(NOW - 60, NOW)
    assert level.hit_ratio == {"AMS": 0.75, "FRA": 0.0} and level.basis == "requests" and not level.reason


async def test_older_figures_come_for_all_regions_together(fake: ContractFakeFastly, web: Web, now: Clock) -> None:
    fake.history = [
        {"hits": 30, "miss": 10, "hit_ratio": 0.75},
        {"hits": None, "miss": 0, "hit_ratio": None},
        {"hits": 0, "miss": 20},
    ]
    level = await fastly(fake.url, web, now).level(NOW - 3600, NOW)
    assert level.hit_ratio == {"all": 0.5}
    assert fake.calls[-1].query == {"from": str(int(NOW - 3600)), "to": str(int(NOW)), "by": "minute"}


@pytest.mark.parametrize(("span", "by"), [(7200, "minute"), (86_400, "hour"), (30 * 86_400, "day")])
def test_longer_spans_are_asked_for_in_larger_steps(span: float, by: str) -> None:
    assert module.read_history("https://a", SERVICE, "t", NOW - span, NOW).url.endswith(f"&by={by}")


async def test_figures_that_may_not_be_read_say_so(fake: ContractFakeFastly, web: Web, now: Clock) -> None:
    fake.scope = "purge_select"
    level = await fastly(fake.url, web, now).level(NOW - 60, NOW)
    assert not level.hit_ratio and "global:read" in level.reason


def test_figures_of_another_form_are_no_figures() -> None:
    assert judge_realtime(200, b'{"Data": [{"recorded": 1}]}', 0, 9).reason
    assert judge_history(200, b'{"data": [{"hits": -1}]}').reason
    assert judge_history(200, b'{"data": []}').reason == "no request in this time"


# --- the vendor's own SDK ---


def _sdk_calls(url: str) -> None:
    import fastly as sdk
    from fastly.api import purge_api
    from fastly.model.purge_response import PurgeResponse

    configuration = sdk.Configuration(host=url)
    configuration.api_key["token"] = SENTINEL
    with sdk.ApiClient(configuration) as client:
        api = purge_api.PurgeApi(client)
        assert api.purge_tag(service_id=SERVICE, surrogate_key="doc:1").status == "ok"
        assert api.purge_tag(service_id=SERVICE, surrogate_key="doc:2", fastly_soft_purge=1).status == "ok"
        keys = api.bulk_purge_tag(service_id=SERVICE, purge_response=PurgeResponse(surrogate_keys=["a", "b"]))
        assert set(keys.to_dict()) == {"a", "b"}
        assert api.purge_all(service_id=SERVICE).status == "ok"


async def test_the_vendors_sdk_and_the_fake_agree(fake: ContractFakeFastly) -> None:
    def run() -> None:
        import fastly as sdk
        from fastly.api import purge_api, service_api, tokens_api

        _sdk_calls(fake.url)
        configuration = sdk.Configuration(host=fake.url)
        configuration.api_key["token"] = SENTINEL
        with sdk.ApiClient(configuration) as client:
            api = purge_api.PurgeApi(client)
            assert api.bulk_purge_tag(service_id=SERVICE, surrogate_key="c d")["c"]
            assert api.purge_single_url(cached_url="cdn.example.org/a").status == "ok"
            assert tokens_api.TokensApi(client).get_token_current().scope == "global"
            assert service_api.ServiceApi(client).get_service(service_id=SERVICE).id == SERVICE
            with pytest.raises(sdk.exceptions.NotFoundException):
                api.purge_tag(service_id="unknown", surrogate_key="a")
        configuration.api_key["token"] = "another"
        with sdk.ApiClient(configuration) as client, pytest.raises(sdk.exceptions.UnauthorizedException):
            purge_api.PurgeApi(client).purge_all(service_id=SERVICE)

    await asyncio.to_thread(run)
    assert not fake.broken
    assert [(purged.word, purged.soft) for purged in fake.purged] == [
        ("doc:1", False),
        ("doc:2", True),
        ("a", False),
        ("b", False),
        ("*", False),
        ("c", False),
        ("d", False),
        ("cdn.example.org/a", False),
    ]


async def test_we_send_what_the_vendors_sdk_sends(fake: ContractFakeFastly, web: Web, now: Clock) -> None:
    await asyncio.to_thread(_sdk_calls, fake.url)
    provider = fastly(fake.url, web, now)
    await provider.purge(call("tag", "doc:1"))
    await provider.purge(call("tag", "doc:2", soft=True))
    await provider.purge(call("tag", "a", "b"))
    await provider.purge(call("all", "*"))
    sent = [
        (it.method, it.path, it.headers["fastly-key"], it.headers.get("fastly-soft-purge"), it.json())
        for it in fake.calls
    ]
    assert sent[:4] == sent[4:]


# --- the origin ---


def test_the_key_of_every_path_of_a_chunk_is_the_one_that_the_origin_sends() -> None:
    cid = Cid.parse(CID)
    assert {key_of(path) for path in policy.paths_of(cid)} == {policy.tag_for_cid(cid)}
    assert policy.tag_for_cid(cid) in policy.tags_of(cid)
