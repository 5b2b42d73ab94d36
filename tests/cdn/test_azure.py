"""Azure Front Door and classic against their contract fake, and against everything that Azure is known to answer."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl

import pytest

from rage_net.cdn import azure as module
from rage_net.cdn import azure_login
from rage_net.cdn.azure import (
    Place,
    judge,
    judge_figures,
    judge_operation,
    judge_permissions,
    operation_url,
    quota_left,
)
from rage_net.cdn.azure_login import Token, judge_token
from rage_net.cdn.provider import Item, Verdict
from rage_net.web import Web
from tests.cdn.clouds import CID, NOW, SENTINEL, azure, call
from tests.cdn.fakes.azure import ContractFakeAzure
from tests.cdn.fakes.server import Purged, Reply
from tests.conftest import Clock

pytestmark = pytest.mark.anyio

PLACE = Place("https://management.azure.com", "sub", "r g", "profile", "endpoint")
ABOVE = "https://management.azure.com/subscriptions/sub/resourceGroups/r%20g/providers/Microsoft.Cdn/profiles/profile"


@pytest.fixture
async def fake(now: Clock) -> AsyncIterator[ContractFakeAzure]:
    async with ContractFakeAzure(now, secret=SENTINEL) as fake:
        yield fake


def failure(code: str, message: str = "no") -> bytes:
    return json.dumps({"error": {"code": code, "message": message, "details": []}}).encode()


# --- requests ---


def test_a_purge_names_paths_and_domains() -> None:
    request = module.purge(PLACE, "t", ["/a", "/b/*"], ["cdn.example.org"])
    assert (request.method, request.url) == (
        "POST",
        f"{ABOVE}/afdEndpoints/endpoint/purge?api-version=2025-06-01",
    )
    assert request.body == b'{"contentPaths":["/a","/b/*"],"domains":["cdn.example.org"]}'
    assert request.headers["Authorization"] == "Bearer t" and request.headers["Content-Type"] == "application/json"
    assert module.purge(PLACE, "t", ["/a"]).body == b'{"contentPaths":["/a"]}'


def test_classic_is_another_address_and_knows_no_domains() -> None:
    place = Place("https://management.azure.com", "sub", "r g", "profile", "endpoint", is_classic=True)
    request = module.purge(place, "t", ["/a"], ["cdn.example.org"])
    assert request.url == f"{ABOVE}/endpoints/endpoint/purge?api-version=2025-06-01"
    assert request.body == b'{"contentPaths":["/a"]}'


def test_a_login_asks_for_the_scope_that_the_vendors_sdk_asks_for() -> None:
    request = azure_login.ask_login("https://login.example", "t/1", "c", "s&x", "https://management.azure.com")
    assert request.url == "https://login.example/t%2F1/oauth2/v2.0/token"
    assert request.body is not None
    assert dict(parse_qsl(request.body.decode())) == {
        "grant_type": "client_credentials",
        "client_id": "c",
        "client_secret": "s&x",
        "scope": "https://management.azure.com/.default",
    }
    assert "s&x" not in repr(request)


def test_a_managed_identity_is_asked_of_the_machine() -> None:
    request = azure_login.ask_identity(azure_login.IMDS_URL, None, "https://management.azure.com")
    assert (request.method, request.headers["Metadata"]) == ("GET", "true")
    assert request.url == (
        "http://169.254.169.254/metadata/identity/oauth2/token"
        "?api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com%2F"
    )
    assert azure_login.ask_identity(azure_login.IMDS_URL, "c-9", "https://a").url.endswith("&client_id=c-9")


async def test_words_are_paths_without_host_and_query(web: Web, now: Clock) -> None:
    provider = azure("http://127.0.0.1:1", web, now, public=("https://a.example", "https://b.example/base/"))
    assert provider.words(Item("url", "/a/b?format=raw")) == ("/a/b", "/base/a/b")
    assert provider.words(Item("prefix", "/chunks/")) == ("/chunks/*", "/base/chunks/*")
    assert provider.words(Item("prefix", "/chunks/baf")) == ("/chunks/*", "/base/chunks/*")
    assert provider.words(Item("all")) == ("/*",)
    assert provider.words(Item("host", "A.example")) == ("a.example",)
    assert not provider.words(Item("host", "*.example"))
    assert not provider.words(Item("tag", "doc:1"))
    assert azure("http://127.0.0.1:1", web, now, public=()).words(Item("url", "/a")) == ("/a",)


async def test_it_does_what_azure_can(web: Web, now: Clock) -> None:
    abilities = azure("http://127.0.0.1:1", web, now).abilities
    assert abilities.words_max == {"url": 100, "prefix": 100, "all": 1, "host": 1}
    assert not abilities.soft and abilities.answer == "pending" and abilities.mixed == {"url", "prefix"}
    assert "host" not in azure("http://127.0.0.1:1", web, now, classic=True).abilities.words_max
    assert len({abilities.quotas[kind] for kind in abilities.words_max}) == 1


# --- purges and their end ---


async def test_a_purge_is_pending_until_azure_says_that_it_succeeded(
    fake: ContractFakeAzure, web: Web, now: Clock
) -> None:
    fake.lasts_s = 600
    provider = azure(fake.url, web, now)
    verdict = await provider.purge(call("url", f"/chunks/{CID}", "/chunks/*"))
    assert (verdict.state, verdict.retry_after_s) == ("pending", 10.0)
    assert verdict.id.startswith(f"{fake.url}/operations/")
    waiting = await provider.ask("", verdict.id)
    assert (waiting.state, waiting.id, waiting.retry_after_s) == ("pending", verdict.id, 10.0)
    now.advance(600)
    assert await provider.ask("", verdict.id) == Verdict("done", id=verdict.id)
    assert fake.purged == [Purged("cdn.example.org", f"/chunks/{CID}"), Purged("cdn.example.org", "/chunks/*")]
    assert not fake.broken


@pytest.mark.parametrize("ends", ["Failed", "Canceled"])
async def test_a_purge_that_azure_gave_up_has_failed(ends: str, fake: ContractFakeAzure, web: Web, now: Clock) -> None:
    fake.ends = ends
    provider = azure(fake.url, web, now)
    verdict = await provider.ask("", (await provider.purge(call("all", "/*"))).id)
    assert (verdict.state, verdict.code) == ("failed", "cdn-rejected")
    assert ends.lower() in verdict.reason and "did not reach all edges" in verdict.reason


async def test_classic_tells_its_end_by_location(fake: ContractFakeAzure, web: Web, now: Clock) -> None:
    fake.kind, fake.lasts_s = "endpoints", 60
    provider = azure(fake.url, web, now, classic=True)
    verdict = await provider.purge(call("url", "/a"))
    assert verdict.state == "pending"
    assert (await provider.ask("", verdict.id)).state == "pending"
    now.advance(60)
    assert (await provider.ask("", verdict.id)).state == "done"
    assert fake.purged == [Purged("", "/a")] and not fake.broken


async def test_a_host_is_everything_on_one_domain(fake: ContractFakeAzure, web: Web, now: Clock) -> None:
    await azure(fake.url, web, now).purge(call("host", "cdn.example.org"))
    await azure(fake.url, web, now).purge(call("all", "/*"))
    assert fake.purged == [Purged("cdn.example.org", "/*"), Purged("", "/*")]


async def test_a_question_that_fails_leaves_the_purge_pending(fake: ContractFakeAzure, web: Web, now: Clock) -> None:
    provider = azure(fake.url, web, now)
    id = (await provider.purge(call("all", "/*"))).id
    fake.may_purge = False
    fake.secret = "changed"
    fake.tokens.clear()
    verdict = await provider.ask("", id)
    assert (verdict.state, verdict.id, verdict.code) == ("pending", id, "cdn-credentials")
    assert verdict.reason and verdict.retry_after_s


@pytest.mark.parametrize("status", [400, 401, 403, 409, 429, 500, 503])
def test_what_is_answered_to_a_question_never_makes_a_purge_fail(status: int) -> None:
    verdict = judge_operation(status, {"retry-after": "77"}, failure("X"), NOW)
    assert (verdict.state, verdict.retry_after_s) == ("pending", 77.0) and verdict.reason
    assert judge_operation(200, {"content-type": "text/html"}, b"<html>", NOW).state == "pending"


def test_an_end_that_is_told_no_more_is_an_accepted_purge() -> None:
    assert judge_operation(404, {}, failure("NotFound")).state == "accepted"


@pytest.mark.parametrize(
    "url",
    [
        "https://elsewhere.example/operations/1",
        "http://management.azure.com/operations/1",
        "https://management.azure.com:444/operations/1",
        "https://management.azure.com:x/operations/1",
        "https://management.azure.com:99999/operations/1",
        "https://[::1/operations/1",
        "https://management.azure.com@elsewhere.example/",
        "https://management.azure.com.elsewhere.example/",
        "https://user@management.azure.com/",
        "//elsewhere.example/operations/1",
        "https:\\\\elsewhere.example/",
        "https://management.azure.com\\@elsewhere.example/",
        "javascript:alert(1)",
        "https://management.azure.com/a b",
        "https://management.azure.com/\n",
        "https://management.azure.com/" + "a" * 9000,
    ],
)
async def test_the_token_goes_to_no_other_host(url: str, fake: ContractFakeAzure, web: Web, now: Clock) -> None:
    assert operation_url("https://management.azure.com", url) is None
    provider = azure(fake.url, web, now)
    verdict = await provider.ask("", url)
    assert (verdict.state, verdict.id, verdict.code) == ("pending", url, "cdn-config")
    assert not fake.calls


async def test_an_end_that_another_host_tells_is_not_asked_for(fake: ContractFakeAzure, web: Web, now: Clock) -> None:
    fake.scripted = [Reply(202, None, {"Azure-AsyncOperation": "https://elsewhere.example/1"}), Reply(202)]
    provider = azure(fake.url, web, now)
    verdict = await provider.purge(call("all", "/*"))
    assert (verdict.state, verdict.id) == ("accepted", "") and "another host" in verdict.reason
    assert (await provider.purge(call("all", "/*"))).state == "accepted"


def test_a_relative_address_is_the_resource_managers() -> None:
    assert operation_url("https://management.azure.com", "/operations/1?x=2") == (
        "https://management.azure.com/operations/1?x=2"
    )
    for url in ("https://MANAGEMENT.azure.com/o", "https://management.azure.com:443/o"):
        assert operation_url("https://management.azure.com", url) == url


async def test_ten_thousand_paths_keep_the_quota_in_the_fewest_calls(
    fake: ContractFakeAzure, web: Web, now: Clock
) -> None:
    provider = azure(fake.url, web, now)
    words = [word for n in range(10_000) for word in provider.words(Item("url", f"/chunks/{CID}{n}"))]
    for at in range(0, len(words), 100):
        assert (await provider.purge(call("url", *words[at : at + 100]))).state == "pending"
    assert len(fake.purges) == math.ceil(10_000 / 100) and not fake.broken and fake.logins == 1
    assert len({purged.word for purged in fake.purged}) == len(fake.purged) == 10_000


async def test_a_bucket_that_is_empty_answers_429_with_the_seconds_to_wait(
    fake: ContractFakeAzure, web: Web, now: Clock
) -> None:
    fake.writes.left = 0
    verdict = await azure(fake.url, web, now).purge(call("url", "/a"))
    assert (verdict.state, verdict.code, verdict.retry_after_s) == ("queued", "cdn-rate-limited", 1.0)


# --- the table of errors ---


@pytest.mark.parametrize(
    ("status", "code", "message", "state", "our_code", "is_too_large"),
    [
        (401, "InvalidAuthenticationToken", "The access token is invalid.", "failed", "cdn-credentials", False),
        (401, "ExpiredAuthenticationToken", "The access token expired.", "failed", "cdn-credentials", False),
        (403, "AuthorizationFailed", "does not have authorization", "failed", "cdn-forbidden", False),
        (404, "SubscriptionNotFound", "could not be found", "failed", "cdn-not-found", False),
        (404, "ResourceGroupNotFound", "could not be found", "failed", "cdn-not-found", False),
        (404, "ResourceNotFound", "was not found", "failed", "cdn-not-found", False),
        (400, "BadRequest", "The path is invalid", "failed", "cdn-rejected", False),
        (400, "BadRequest", "ContentPaths has more than 100 paths", "queued", "cdn-rejected", True),
        (413, "RequestEntityTooLarge", "large", "queued", "cdn-rejected", True),
        (409, "Conflict", "The profile is being changed", "queued", "cdn-busy", False),
        (429, "TooManyRequests", "The request is being throttled", "queued", "cdn-rate-limited", False),
        (500, "InternalServerError", "An error has occurred", "queued", "cdn-busy", False),
        (503, "ServiceUnavailable", "Unavailable", "queued", "cdn-busy", False),
    ],
)
def test_every_error_has_its_verdict(
    status: int, code: str, message: str, state: str, our_code: str, is_too_large: bool
) -> None:
    verdict = judge(status, {}, failure(code, message), NOW)
    assert (verdict.state, verdict.code, verdict.is_too_large) == (state, our_code, is_too_large)
    assert code in verdict.reason and message in verdict.reason
    assert verdict.mend or our_code not in ("cdn-credentials", "cdn-forbidden", "cdn-not-found")


@pytest.mark.parametrize(("text", "seconds"), [("", 30.0), ("5", 30.0), ("45", 45.0)])
def test_a_conflict_is_tried_again_after_half_a_minute(text: str, seconds: float) -> None:
    assert judge(409, {"retry-after": text}, failure("Conflict"), NOW).retry_after_s == seconds


@pytest.mark.parametrize(("text", "seconds"), [("300", 300.0), ("Mon, 21 Sep 2026 14:18:20 GMT", 300.0), ("", None)])
def test_429_says_how_long_in_seconds_or_as_a_date(text: str, seconds: float | None) -> None:
    assert judge(429, {"retry-after": text}, failure("TooManyRequests"), NOW).retry_after_s == seconds


@pytest.mark.parametrize(("status", "body"), [(200, b""), (200, b"{}"), (204, b"")])
def test_a_purge_that_is_over_at_once_is_done(status: int, body: bytes) -> None:
    assert judge(status, {}, body) == Verdict("done")


def test_a_page_of_html_is_not_quoted() -> None:
    verdict = judge(200, {"content-type": "text/html"}, b"<h1>Log in</h1>", NOW)
    assert (verdict.state, verdict.code) == ("queued", "cdn-answer") and "Log in" not in verdict.reason


def test_the_first_detail_of_an_error_is_told() -> None:
    body = {"error": {"code": "BadRequest", "message": "m", "details": [{"code": "Inner", "message": "why"}]}}
    assert "BadRequest m; Inner why" in judge(400, {}, json.dumps(body).encode()).reason


# --- tokens ---


async def test_one_token_is_fetched_for_all_that_want_it_at_once(fake: ContractFakeAzure, web: Web, now: Clock) -> None:
    provider = azure(fake.url, web, now)
    verdicts = await asyncio.gather(*(provider.purge(call("url", f"/{n}")) for n in range(20)))
    assert {verdict.state for verdict in verdicts} == {"pending"} and fake.logins == 1


async def test_a_token_is_renewed_shortly_before_its_end(fake: ContractFakeAzure, web: Web, now: Clock) -> None:
    provider = azure(fake.url, web, now)
    await provider.purge(call("url", "/1"))
    now.advance(3600 - azure_login.TOKEN_EARLY_S - 1)
    await provider.purge(call("url", "/2"))
    assert fake.logins == 1
    now.advance(2)
    await provider.purge(call("url", "/3"))
    assert fake.logins == 2


async def test_a_refused_token_is_fetched_anew_once(fake: ContractFakeAzure, web: Web, now: Clock) -> None:
    provider = azure(fake.url, web, now)
    await provider.purge(call("url", "/1"))
    fake.tokens.clear()
    assert (await provider.purge(call("url", "/2"))).state == "pending"
    assert fake.logins == 2
    before = len(fake.purges)
    fake.scripted = [Reply(401, {"error": {"code": "InvalidAuthenticationToken", "message": "x"}})] * 2
    verdict = await provider.purge(call("url", "/3"))
    assert (verdict.state, verdict.code) == ("failed", "cdn-credentials")
    assert (len(fake.purges) - before, fake.logins) == (2, 3)


async def test_many_that_are_refused_at_once_fetch_one_new_token(fake: ContractFakeAzure, web: Web, now: Clock) -> None:
    provider = azure(fake.url, web, now)
    await provider.purge(call("url", "/1"))
    fake.tokens.clear()
    verdicts = await asyncio.gather(*(provider.purge(call("url", f"/{n}")) for n in range(10)))
    assert {verdict.state for verdict in verdicts} == {"pending"} and fake.logins == 2


@pytest.mark.parametrize("client_id", [None, "c-9"])
async def test_without_a_tenant_the_machines_identity_is_used(
    client_id: str | None, fake: ContractFakeAzure, web: Web, now: Clock
) -> None:
    provider = azure(fake.url, web, now, tenant_id=None, client_id=client_id, client_secret=None)
    assert (await provider.purge(call("url", "/1"))).state == "pending"
    assert fake.calls[0].query.get("client_id") == client_id and not fake.broken
    assert fake.calls[1].headers["authorization"] == "Bearer identity-token-1"


@pytest.mark.parametrize(
    ("keys", "code", "told"),
    [
        ({"token": "wrong"}, "cdn-credentials", "AADSTS7000215"),
        ({"tenant_id": "nobody"}, "cdn-config", "AADSTS90002"),
        ({"client_id": "nobody"}, "cdn-config", "AADSTS700016"),
        ({"client_secret": None}, "cdn-config", "client_secret"),
        ({"client_id": None}, "cdn-config", "client_id"),
    ],
)
async def test_credentials_that_are_wrong_say_which(
    keys: dict[str, Any], code: str, told: str, fake: ContractFakeAzure, web: Web, now: Clock
) -> None:
    provider = azure(fake.url, web, now, **keys)
    for verdict in (await provider.purge(call("all", "/*")), *(it for _, it in await provider.check())):
        assert (verdict.state, verdict.code) == ("failed", code)
        assert told in verdict.reason and verdict.reason.isprintable() and verdict.mend


@pytest.mark.parametrize(("status", "code"), [(429, "cdn-rate-limited"), (500, "cdn-busy"), (503, "cdn-busy")])
def test_a_login_that_is_busy_is_asked_again(status: int, code: str) -> None:
    verdict = judge_token(status, {"retry-after": "3"}, b'{"error": "temporarily_unavailable"}', NOW)
    assert isinstance(verdict, Verdict)
    assert (verdict.state, verdict.code, verdict.retry_after_s) == ("queued", code, 3.0)


@pytest.mark.parametrize(
    ("lasts", "until"),
    [(3600, NOW + 3300), ("3600", NOW + 3300), (1, NOW + 30), ("x", NOW + 30), (10**7, NOW + 86_100)],
)
def test_a_token_is_good_until_shortly_before_its_end(lasts: object, until: float) -> None:
    token = judge_token(200, {}, json.dumps({"access_token": "abc", "expires_in": lasts}).encode(), NOW)
    assert token == Token("abc", until) and "abc" not in repr(token)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"access_token": "a b"}', b'{"access_token": 5}', b"<html>"])
def test_an_answer_without_a_token_is_asked_for_again(body: bytes) -> None:
    verdict = judge_token(200, {}, body, NOW)
    assert isinstance(verdict, Verdict) and verdict.state == "queued" and verdict.code == "cdn-answer"


# --- check ---


async def test_check_changes_nothing(fake: ContractFakeAzure, web: Web, now: Clock) -> None:
    assert await azure(fake.url, web, now).check() == [("", Verdict("done"))]
    assert not fake.purges and {seen.method for seen in fake.calls[1:]} == {"GET"}


async def test_check_of_classic_reads_the_classic_endpoint(fake: ContractFakeAzure, web: Web, now: Clock) -> None:
    fake.kind = "endpoints"
    assert await azure(fake.url, web, now, classic=True).check() == [("", Verdict("done"))]
    [(_, verdict)] = await azure(fake.url, web, now).check()
    assert (verdict.state, verdict.code) == ("failed", "cdn-not-found") and "classic" in verdict.mend[0]


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("subscription_id", "SubscriptionNotFound"),
        ("resource_group", "ResourceGroupNotFound"),
        ("profile_name", "ResourceNotFound"),
        ("endpoint_name", "ResourceNotFound"),
    ],
)
async def test_check_finds_an_id_that_is_wrong(
    key: str, told: str, fake: ContractFakeAzure, web: Web, now: Clock
) -> None:
    [(_, verdict)] = await azure(fake.url, web, now, **{key: "another"}).check()
    assert (verdict.state, verdict.code) == ("failed", "cdn-not-found")
    assert told in verdict.reason and key in verdict.mend[0]


async def test_check_finds_a_principal_without_rights(fake: ContractFakeAzure, web: Web, now: Clock) -> None:
    fake.actions = ["Microsoft.Cdn/profiles/endpoints/*", "Microsoft.Cdn/*/read"]
    [(_, verdict)] = await azure(fake.url, web, now).check()
    assert (verdict.state, verdict.code) == ("failed", "cdn-forbidden") and "Purge/action" in verdict.reason
    fake.may_purge = False
    assert (await azure(fake.url, web, now).purge(call("all", "/*"))).code == "cdn-forbidden"


@pytest.mark.parametrize(
    ("role", "state"),
    [
        ({"actions": ["*"]}, "done"),
        ({"actions": ["microsoft.cdn/profiles/afdendpoints/purge/ACTION"]}, "done"),
        ({"actions": ["*"], "notActions": ["Microsoft.Cdn/profiles/*/Purge/action"]}, "failed"),
        ({"actions": ["*/read"]}, "failed"),
        ({}, "failed"),
    ],
)
def test_rights_are_matched_as_azure_does(role: dict[str, Any], state: str) -> None:
    assert judge_permissions({"value": [role]}, module.PURGE_ACTION[False]).state == state
    assert judge_permissions(None, module.PURGE_ACTION[False]).state == "done"


async def test_check_finds_a_public_host_that_is_none_of_the_endpoints(
    fake: ContractFakeAzure, web: Web, now: Clock
) -> None:
    public = ("https://endpoint1-abc.z01.azurefd.net", "https://cdn.example.org")
    assert await azure(fake.url, web, now, public=public).check() == [("", Verdict("done"))]
    [(_, verdict)] = await azure(fake.url, web, now, public=("https://cdn.example.net",)).check()
    assert (verdict.state, verdict.code) == ("failed", "cdn-config") and "cdn.example.net" in verdict.reason


# --- figures ---


def series(endpoint: str, *averages: float | None) -> dict[str, object]:
    names = [{"name": {"value": "endpoint"}, "value": endpoint}]
    return {"metadatavalues": names, "data": [{"timeStamp": "x", "average": it} for it in averages]}


async def test_the_ratio_is_by_bytes_of_this_endpoint(fake: ContractFakeAzure, web: Web, now: Clock) -> None:
    fake.series = [series("endpoint1-abc.z01.azurefd.net", 80.0, None, 40.0), series("other.azurefd.net", 0.0)]
    provider = azure(fake.url, web, now)
    await provider.purge(call("url", "/a"))
    level = await provider.level(NOW - 3600, NOW)
    assert level.hit_ratio == {"all": 0.6} and level.basis == "bytes" and level.quota_left == "199 writes"
    query = fake.calls[-1].query
    assert query["interval"] == "PT1M" and query["timespan"] == "2026-09-21T13:13:20Z/2026-09-21T14:13:20Z"
    assert query["api-version"] == "2018-01-01" and not fake.broken


def test_figures_that_are_none_say_why() -> None:
    def judged(status: int, body: object) -> str:
        return judge_figures(status, {}, json.dumps(body).encode(), "e", ()).reason

    assert "three minutes" in judged(200, {"value": [{"timeseries": []}]})
    assert "form" in judged(200, {"value": [{"timeseries": [series("e", 180.0)]}]})
    assert "form" in judged(200, {"value": 3})
    assert "AuthorizationFailed" in judged(403, {"error": {"code": "AuthorizationFailed", "message": "no"}})


def test_what_is_left_of_the_quota_is_read_from_its_headers() -> None:
    assert quota_left({"x-ms-ratelimit-remaining-subscription-reads": "11999"}) == "11999 reads"
    assert quota_left({"x-ms-ratelimit-remaining-subscription-writes": "many"}) == ""


# --- the vendor's own SDK ---


PLAIN: Any = {"enforce_https": False}
"""The SDK sends no token without TLS, unless each call says so."""


class StaticCredential:
    """A token that is there already, as the SDK wants one. `scopes` are those that it was asked for."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.scopes: list[str] = []

    def get_token(self, *scopes: str, **options: object) -> Any:
        from azure.core.credentials import AccessToken

        self.scopes += scopes
        return AccessToken(self.token, int(time.time()) + 3600)


def _sdk(fake: ContractFakeAzure, credential: StaticCredential) -> Any:
    from azure.mgmt.cdn import CdnManagementClient

    return CdnManagementClient(credential, fake.subscription_id, base_url=fake.url, polling_interval=0, retry_total=0)


async def test_the_vendors_sdk_and_the_fake_agree(fake: ContractFakeAzure) -> None:
    fake.retry_after = 0
    credential = StaticCredential(fake.issue("sdk-token"))

    def run() -> None:
        from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError

        names = (fake.resource_group, fake.profile_name, fake.endpoint_name)
        with _sdk(fake, credential) as client:
            paths = {"contentPaths": ["/a", "/b/*"], "domains": ["cdn.example.org"]}
            client.afd_endpoints.begin_purge_content(*names, paths, **PLAIN).result(10)
            assert client.afd_endpoints.get(*names, **PLAIN).name == fake.endpoint_name
            with pytest.raises(ResourceNotFoundError) as missing:
                client.afd_endpoints.begin_purge_content("another", *names[1:], paths, **PLAIN)
            assert missing.value.error.code == "ResourceGroupNotFound"
            fake.ends = "Failed"
            with pytest.raises(HttpResponseError):
                client.afd_endpoints.begin_purge_content(*names, paths, **PLAIN).result(10)
            fake.kind, fake.ends = "endpoints", "Succeeded"
            client.endpoints.begin_purge_content(*names, {"contentPaths": ["/c"]}, **PLAIN).result(10)
        with _sdk(fake, StaticCredential("another")) as client, pytest.raises(ClientAuthenticationError):
            client.endpoints.begin_purge_content(*names, {"contentPaths": ["/c"]}, **PLAIN)

    await asyncio.to_thread(run)
    assert not fake.broken
    assert [purged.word for purged in fake.purged] == ["/a", "/b/*", "/a", "/b/*", "/c"]
    assert set(credential.scopes) == {"https://management.azure.com/.default"}


async def test_we_send_what_the_vendors_sdk_sends(fake: ContractFakeAzure, web: Web, now: Clock) -> None:
    credential = StaticCredential(fake.issue("sdk-token"))

    def run() -> None:
        with _sdk(fake, credential) as client:
            names = (fake.resource_group, fake.profile_name, fake.endpoint_name)
            paths = {"contentPaths": ["/a", "/b/*"], "domains": ["cdn.example.org"]}
            client.afd_endpoints.begin_purge_content(*names, paths, polling=False, **PLAIN)

    await asyncio.to_thread(run)
    await azure(fake.url, web, now).purge(call("url", "/a", "/b/*"))
    theirs, ours = fake.purges
    assert (theirs.method, theirs.path, theirs.json()) == (ours.method, ours.path, ours.json())
    assert theirs.headers["content-type"] == ours.headers["content-type"] == "application/json"
    assert set(theirs.query) == set(ours.query) == {"api-version"}
