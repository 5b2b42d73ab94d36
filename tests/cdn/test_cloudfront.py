"""CloudFront: against moto's server, which proves transport, signatures and XML, and a stub for what moto lacks."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import boto3
import pytest

from rage_net import aws
from rage_net.cdn import cloudfront
from rage_net.cdn.cloudfront import CloudFront, encoded, period_of, reference_of, words
from rage_net.cdn.plan import Target, batches, plan
from rage_net.cdn.provider import Call, Item, Kind, Level, Verdict
from rage_net.cdn.retry import pause_s
from rage_net.cdns import make as make_client
from rage_net.config.cdn import CloudFront as Keys
from rage_net.config.cdn import Provider as Entry
from rage_net.config.values import Secret, Url
from rage_net.env import SystemEnv
from rage_net.web import Web
from tests.cdn.fakes.cloudfront_stub import CloudFrontStub, Raw, Refused, check_item

KEY, SECRET = "AKIASENTINELKEY00001", "sentinel/of+the/secret+that/nobody+may/see"  # in the form of AWS's
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC).timestamp()

pytestmark = pytest.mark.usefixtures("no_credentials")


def entry(
    url: str,
    distribution: str,
    *,
    keys: tuple[str, str] | None = (KEY, SECRET),
    cache_tags: bool = True,
    public_urls: tuple[Url, ...] = (),
) -> Entry:
    pair = {} if keys is None else {"access_key_id": Secret(keys[0]), "secret_access_key": Secret(keys[1])}
    config = Keys(distribution_id=distribution, cache_tags=cache_tags, api_url=Url(url), **pair)
    return Entry(name="cloudfront", type="commercial", software="cloudfront", config=config, public_urls=public_urls)


def make(url: str, distribution: str, **more: Any) -> CloudFront:
    return CloudFront(entry(url, distribution, **more), asyncio.to_thread, lambda: NOW)


def call(*texts: str, kind: Kind = "url", reference: str = "purge-1") -> Call:
    return Call("", kind, texts, False, reference)


@pytest.fixture
def stub() -> Iterator[CloudFrontStub]:
    made = CloudFrontStub(KEY, SECRET)
    yield made
    made.close()


@pytest.fixture
def provider(stub: CloudFrontStub) -> Iterator[CloudFront]:
    made = make(stub.url, stub.distribution)
    yield made
    made.close()


@pytest.fixture
def moto(aws_url: str) -> Iterator[Callable[[str], Any]]:
    """Clients of moto's server, as an operator has them."""
    opened = []

    def open_client(service: str) -> Any:
        opened.append(
            boto3.client(
                service,
                endpoint_url=aws_url,
                region_name="us-east-1",
                aws_access_key_id="operator",
                aws_secret_access_key="operator",
            )
        )
        return opened[-1]

    yield open_client
    for client in opened:
        client.close()


@pytest.fixture
def distribution(moto: Callable[[str], Any], rng: random.Random) -> str:
    ports = {"HTTPPort": 80, "HTTPSPort": 443, "OriginProtocolPolicy": "https-only"}
    origin = {"Id": "node", "DomainName": "node.example.org", "CustomOriginConfig": ports}
    made = moto("cloudfront").create_distribution(
        DistributionConfig={
            "CallerReference": str(rng.random()),
            "Origins": {"Quantity": 1, "Items": [origin]},
            "DefaultCacheBehavior": {
                "TargetOriginId": "node",
                "ViewerProtocolPolicy": "https-only",
                "ForwardedValues": {"QueryString": True, "Cookies": {"Forward": "none"}},
                "MinTTL": 0,
            },
            "Aliases": {"Quantity": 1, "Items": ["cdn.example.org"]},
            "CacheTagConfig": {"HeaderName": "x-amz-meta-cache-tag"},
            "Comment": "",
            "Enabled": True,
        }
    )
    return str(made["Distribution"]["Id"])


# --- words ---


@pytest.mark.parametrize(
    ("item", "wanted"),
    [
        (Item("url", "/chunks/bafk"), ["/chunks/bafk"]),
        (Item("url", "/ipfs/bafk?format=raw"), ["/ipfs/bafk", "/ipfs/bafk?format=raw"]),
        (Item("url", "/a b/ü"), ["/a%20b/%C3%BC"]),
        (Item("url", "/a%20b"), ["/a%20b"]),
        (Item("url", "/100%"), ["/100%25"]),
        (Item("url", "/all/*"), ["/all/%2A"]),
        (Item("url", "/a#b"), ["/a%23b"]),
        (Item("url", "no/path"), []),
        (Item("url", "/" + "x" * 4000), []),
        (Item("prefix", "/chunks/"), ["/chunks/*"]),
        (Item("tag", "doc:42"), ["#doc:42"]),
        (Item("all"), ["/*"]),
        (Item("host", "cdn.example.org"), []),
    ],
)
def test_an_item_has_the_words_that_an_invalidation_takes(item: Item, wanted: list[str]) -> None:
    found = words(item, has_tags=True)
    assert list(found) == wanted
    for word in found:
        check_item(word)  # the stub's rules


def test_random_paths_become_words_that_mean_the_same_and_never_a_wildcard(rng: random.Random) -> None:
    for _ in range(300):
        path = "/" + "".join(chr(rng.choice((rng.randrange(33, 127), rng.randrange(128, 0xD000)))) for _ in range(20))
        path = path.replace("%", "").replace("?", "")
        (word,) = words(Item("url", path), has_tags=False)
        check_item(word)
        assert unquote(word) == path and not word.endswith("*") and encoded(word) == word


def test_without_cache_tags_a_distribution_cannot_purge_by_tag() -> None:
    provider = make("http://127.0.0.1:9", "E1", cache_tags=False)
    assert provider.words(Item("tag", "doc:42")) == ()
    assert "tag" not in provider.abilities.words_max and "tag" in make("http://127.0.0.1:9", "E1").abilities.words_max
    assert provider.name == "cloudfront" and list(provider.edges) == [""] and not provider.abilities.soft


def test_ten_thousand_paths_are_four_calls_and_tags_go_with_paths_in_one() -> None:
    provider = make("http://127.0.0.1:9", "E1")
    many = [Target(f"{at}", ((Item("url", f"/chunks/{at}"),),)) for at in range(10_000)]
    assert plan(provider, many, soft=True).calls == 4
    both = [Target("tag", ((Item("tag", "doc:1"),),)), Target("path", ((Item("url", "/chunks/1"),),))]
    assert plan(provider, both, soft=False).calls == 1
    prefixes = [Target(f"{at}", ((Item("prefix", f"/{at}/"),),)) for at in range(31)]
    found = list(batches(plan(provider, prefixes, soft=False).words, provider.abilities))
    assert [len(batch) for batch in found] == [15, 15, 1]


def test_a_reference_is_bound_to_the_distribution_the_items_and_the_purge() -> None:
    found = {
        reference_of(*given)
        for given in (
            ("E1", ["/a"], "p"),
            ("E2", ["/a"], "p"),
            ("E1", ["/b"], "p"),
            ("E1", ["/a", "/b"], "p"),
            ("E1", ["/a"], "q"),
        )
    }
    assert len(found) == 5 and reference_of("E1", ["/a"], "p") in found
    assert all(text.startswith("rage-") and len(text) == 69 for text in found)


def test_public_addresses_with_a_path_stand_before_ours() -> None:
    bases = (Url("https://a.example.org/rage/"), Url("https://b.example.org"), Url("https://c.example.org/rage"))
    provider = make("http://127.0.0.1:9", "E1", public_urls=bases)
    assert provider.words(Item("url", "/chunks/x")) == ("/rage/chunks/x", "/chunks/x")
    assert provider.words(Item("prefix", "/chunks/")) == ("/rage/chunks/*", "/chunks/*")
    assert provider.words(Item("url", "chunks/x")) == (), "a path begins with /"


@pytest.mark.anyio
async def test_cdn_yaml_makes_it_and_its_connections_end_with_what_they_were_made_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[CloudFront] = []
    close = CloudFront.close
    monkeypatch.setattr(CloudFront, "close", lambda client: (ended.append(client), close(client)))
    env = SystemEnv()
    async with AsyncExitStack() as stack:
        made = make_client(entry("http://127.0.0.1:9", "E1"), Web(), env, stack)
        assert isinstance(made, CloudFront) and not ended
    assert ended == [made]
    env.close()


# --- against moto ---


@pytest.mark.anyio
async def test_a_purge_on_a_real_server_is_taken_and_can_be_asked_for(
    aws_url: str, distribution: str, moto: Callable[[str], Any]
) -> None:
    provider = make(aws_url, distribution)
    made = await provider.purge(call("/chunks/b", "#doc:42", "/chunks/a*"))
    assert made.state == "done" and made.id, "moto says COMPLETED, in capitals and at once"
    found = moto("cloudfront").get_invalidation(DistributionId=distribution, Id=made.id)["Invalidation"]
    assert found["InvalidationBatch"]["Paths"] == {"Quantity": 3, "Items": ["#doc:42", "/chunks/a*", "/chunks/b"]}
    assert await provider.ask("", made.id) == Verdict("done", made.id)
    unknown = await provider.purge(call("/a"))
    assert unknown.id != made.id
    provider.close()


@pytest.mark.anyio
async def test_a_real_server_tells_of_an_unknown_distribution_and_an_unknown_purge(
    aws_url: str, distribution: str
) -> None:
    lost = make(aws_url, "ENONE")
    made = await lost.purge(call("/a"))
    assert (made.state, made.code) == ("failed", "cdn-not-found") and "ENONE" in made.mend[0]
    assert "NoSuchDistribution" in made.reason
    ((_, checked),) = await lost.check()
    assert (checked.state, checked.code) == ("failed", "cdn-not-found")
    provider = make(aws_url, distribution)
    asked = await provider.ask("", "INONE")
    assert (asked.state, asked.code, asked.tries_max) == ("queued", "cdn-not-found", 3), "it is made again"
    lost.close()
    provider.close()


@pytest.mark.anyio
async def test_check_on_a_real_server_finds_a_wrong_public_host(aws_url: str, distribution: str) -> None:
    good = make(aws_url, distribution, public_urls=(Url("https://CDN.example.org"),))
    assert await good.check() == [("", Verdict("done"))]
    wrong = make(aws_url, distribution, public_urls=(Url("https://other.example.org"),))
    ((_, checked),) = await wrong.check()
    assert (checked.state, checked.code) == ("failed", "cdn-config")
    assert "other.example.org" in checked.reason and "cdn.example.org" in checked.reason
    good.close()
    wrong.close()


@pytest.mark.anyio
async def test_the_hit_ratio_comes_from_cloudwatch_by_its_samples(
    aws_url: str, distribution: str, moto: Callable[[str], Any]
) -> None:
    until = 1_800_000_000.0
    provider = make(aws_url, distribution)
    none = await provider.level(until - 3600, until)
    assert not none.hit_ratio and "create-monitoring-subscription" in none.reason and distribution in none.reason
    dimensions = [{"Name": "DistributionId", "Value": distribution}, {"Name": "Region", "Value": "Global"}]
    for ago, percent in ((600, 90.0), (900, 80.0), (90_000, 1.0)):
        datum = {
            "MetricName": "CacheHitRate",
            "Dimensions": dimensions,
            "Timestamp": datetime.fromtimestamp(until - ago, UTC),
            "Value": percent,
            "Unit": "Percent",
        }
        moto("cloudwatch").put_metric_data(Namespace="AWS/CloudFront", MetricData=[datum])
    found = await provider.level(until - 3600, until)
    assert found.hit_ratio == {"all": pytest.approx(0.85)} and found.basis == "requests" and not found.reason
    assert found.quota_left == "0 purges in progress; 3000 paths and 15 wildcards may be"
    provider.close()


def test_a_period_holds_the_time_and_is_one_that_cloudwatch_knows() -> None:
    assert [period_of(0, seconds) for seconds in (0, 1, 60, 61, 3600, 3601, 86_400)] == [
        *(60, 60, 60, 120, 3600, 7200, 86_400)
    ]


# --- what moto lacks, against the stub ---


@pytest.mark.anyio
async def test_a_purge_is_pending_until_it_is_completed(stub: CloudFrontStub, provider: CloudFront) -> None:
    made = await provider.purge(call("/chunks/a"))
    assert made.state == "pending" and made.id == stub.purges[0].id
    assert (await provider.ask("", made.id)).state == "pending"
    stub.complete()
    assert await provider.ask("", made.id) == Verdict("done", made.id)


@pytest.mark.anyio
async def test_the_same_call_again_is_the_same_purge(stub: CloudFrontStub, provider: CloudFront) -> None:
    first = await provider.purge(call("/b", "/a"))
    again = await provider.purge(call("/a", "/b", "/a"))
    assert first == again and len(stub.purges) == 1 and stub.purges[0].items == ["/a", "/b"]
    other = await provider.purge(call("/a", "/b", reference="purge-2"))
    half = await provider.purge(call("/a"))
    assert len({first.id, other.id, half.id}) == 3


@pytest.mark.anyio
async def test_quota_is_counted_and_paths_over_it_wait(stub: CloudFrontStub, provider: CloudFront) -> None:
    full = await provider.purge(call(*(f"/chunks/{at}" for at in range(3000))))
    assert full.state == "pending"
    over = await provider.purge(call("/one/more"))
    assert (over.state, over.code) == ("queued", "cdn-busy")
    assert 20 <= pause_s(1, over, 0.0) <= pause_s(9, over, 1.0) <= 60
    wildcards = await provider.purge(call(*(f"/{at}/*" for at in range(15)), kind="prefix"))
    assert wildcards.state == "pending", "they are counted apart"
    assert (await provider.purge(call("/16/*", kind="prefix"))).code == "cdn-busy"
    level = await provider.level(0, 60)
    assert level.quota_left.startswith("2 purges in progress")
    stub.complete()
    assert (await provider.purge(call("/one/more"))).state == "pending"


@pytest.mark.anyio
async def test_a_batch_that_is_too_large_goes_in_halves(stub: CloudFrontStub, provider: CloudFront) -> None:
    large = await provider.purge(call(*(f"/chunks/{at}" for at in range(3001))))
    assert large.is_too_large and large.state == "queued"


@pytest.mark.anyio
async def test_a_reference_that_was_used_is_read_and_is_ours_when_the_paths_are(
    stub: CloudFrontStub, provider: CloudFront
) -> None:
    made = await provider.purge(call("/a", "/%C3%BC"))
    stub.purges[0].items = ["/%c3%bc", "/a"]  # as CloudFront wrote them
    stub.faults = [Refused("InvalidationBatchAlreadyExists", 400)]
    assert [item.upper() for item in stub.purges[0].items] == ["/%C3%BC", "/A"]
    assert (await provider.purge(call("/a", "/%C3%BC"))).id == made.id
    stub.purges[0].items = ["/another"]
    other = await provider.purge(call("/a", "/%C3%BC"))
    assert (other.state, other.code) == ("failed", "cdn-rejected") and "purge again" in other.mend[0]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("code", "status", "state", "wanted"),
    [
        ("NoSuchDistribution", 404, "failed", "cdn-not-found"),
        ("NoSuchInvalidation", 404, "queued", "cdn-not-found"),
        ("AccessDenied", 403, "failed", "cdn-forbidden"),
        ("SomethingElse", 403, "failed", "cdn-forbidden"),
        ("SignatureDoesNotMatch", 403, "failed", "cdn-credentials"),
        ("InvalidClientTokenId", 403, "failed", "cdn-credentials"),
        ("ExpiredToken", 403, "failed", "cdn-credentials"),
        ("IncompleteSignature", 400, "failed", "cdn-credentials"),
        ("UnrecognizedClientException", 400, "failed", "cdn-credentials"),
        ("RequestExpired", 400, "failed", "cdn-credentials"),
        ("RequestTimeTooSkewed", 403, "failed", "cdn-credentials"),
        ("InvalidArgument", 400, "failed", "cdn-rejected"),
        ("InconsistentQuantities", 400, "failed", "cdn-rejected"),
        ("MissingBody", 400, "failed", "cdn-rejected"),
        ("NobodyKnows", 400, "failed", "cdn-rejected"),
        ("BatchTooLarge", 413, "queued", "cdn-rejected"),
        ("TooManyInvalidationsInProgress", 400, "queued", "cdn-busy"),
        ("InvalidationBatchAlreadyExists", 400, "failed", "cdn-rejected"),
        ("InvalidationBatchAlreadyExists", 409, "failed", "cdn-rejected"),
        ("Throttling", 400, "queued", "cdn-rate-limited"),
        ("ThrottlingException", 400, "queued", "cdn-rate-limited"),
        ("TooManyRequestsException", 429, "queued", "cdn-rate-limited"),
        ("Whatever", 429, "queued", "cdn-rate-limited"),
        ("ServiceUnavailable", 503, "queued", "cdn-busy"),
        ("InternalError", 500, "queued", "cdn-busy"),
        ("RequestTimeout", 408, "queued", "cdn-busy"),
        ("Whatever", 425, "queued", "cdn-busy"),
    ],
)
async def test_each_error_of_cloudfront_has_its_verdict(
    stub: CloudFrontStub, provider: CloudFront, code: str, status: int, state: str, wanted: str
) -> None:
    stub.faults = [Refused(code, status, f"because of {SECRET}, said of {KEY}")]
    made = await provider.purge(call("/a"))
    assert (made.state, made.code) == (state, wanted)
    assert code in made.reason and str(status) in made.reason and "<set>" in made.reason
    assert made.is_too_large == (code == "BatchTooLarge")
    assert made.mend or made.state == "queued"
    assert SECRET not in repr(made) and KEY not in repr(made)
    assert not stub.purges and not stub.faults, "one attempt"
    assert (await provider.purge(call("/a"))).state == "pending", "and the next goes through"


@pytest.mark.anyio
async def test_a_clock_that_is_wrong_is_told_from_a_wrong_secret(stub: CloudFrontStub, provider: CloudFront) -> None:
    stub.faults = [Refused("SignatureDoesNotMatch", 403, "Signature expired: 20261127T110000Z is now earlier than")]
    assert (await provider.purge(call("/a"))).mend[0] == "date -u"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (Raw(201, b"<html><body>Please log in</body></html>", {"Content-Type": "text/html"}), "cdn-answer"),
        (Raw(200, b"<html>Please log in<br>", {"Content-Type": "text/html"}), "cdn-answer"),
        (Raw(201, b""), "cdn-answer"),
        (Raw(201, b"<Invalidation><Id>I1</Id>"), "cdn-answer"),
        (Raw(201, b"<Invalidation><Id>I1</Id></Invalidation>"), "cdn-answer"),
        (Raw(302, b"", {"Location": "https://login.example.org"}), "cdn-answer"),
        (Raw(201, b"x" * (aws.ANSWER_BYTES_MAX + 1)), "cdn-answer"),
        (Raw(502, b"<html>Bad Gateway</html>", {"Content-Type": "text/html"}), "cdn-busy"),
        (Raw(503, b""), "cdn-busy"),
        (Raw(401, b""), "cdn-credentials"),
        (Raw(403, b""), "cdn-forbidden"),
        (Raw(413, b""), "cdn-rejected"),
    ],
)
async def test_what_is_no_answer_of_aws_is_a_verdict(
    stub: CloudFrontStub, provider: CloudFront, answer: Raw, wanted: str
) -> None:
    stub.faults = [answer]
    made = await provider.purge(call("/a"))
    assert made.code == wanted and made.reason and made.reason.isprintable()
    assert made.state == ("failed" if wanted in ("cdn-credentials", "cdn-forbidden") else "queued")
    stub.faults = [answer]
    asked = await provider.ask("", "I1")
    assert asked.state == "pending" and asked.id == "I1", "a question that fails leaves it pending"
    stub.faults = [answer] * 2
    assert (await provider.check())[0][1].state != "done"
    stub.faults = [answer] * 2
    level = await provider.level(0, 60)
    assert level.reason and not level.hit_ratio


@pytest.mark.anyio
async def test_an_answer_that_asks_for_a_pause_is_heard_in_seconds_and_as_a_date(
    stub: CloudFrontStub, provider: CloudFront
) -> None:
    dated = {"Retry-After": "Fri, 27 Nov 2026 12:05:00 GMT"}
    for headers, wanted in (
        ({"Retry-After": "300"}, 300.0),
        (dated, 300.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-1"}, None),
    ):
        stub.faults = [Raw(503, b"", headers)]
        assert (await provider.purge(call("/a"))).retry_after_s == wanted, headers


@pytest.mark.anyio
async def test_nobody_there_and_a_server_that_drips_are_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and never listens
        provider = make(f"http://127.0.0.1:{held.getsockname()[1]}", "E1")
        made = await provider.purge(call("/a"))
        assert (made.state, made.code) == ("queued", "cdn-unreachable")
        assert (await provider.ask("", "I1")).state == "pending"
    started = asyncio.Event()

    async def never(function: Any, *args: Any) -> Any:
        started.set()
        await asyncio.Event().wait()

    slow = CloudFront(entry("http://127.0.0.1:9", "E1"), never, lambda: NOW)
    monkeypatch.setattr(slow._cloudfront, "_call_s", 0.01)
    made = await slow.purge(call("/a"))
    assert started.is_set() and (made.state, made.code) == ("queued", "cdn-unreachable")


# --- credentials ---


@pytest.mark.anyio
async def test_without_any_credentials_a_purge_fails_and_says_where_they_go(stub: CloudFrontStub) -> None:
    provider = make(stub.url, stub.distribution, keys=None)
    made = await provider.purge(call("/a"))
    assert (made.state, made.code) == ("failed", "cdn-credentials")
    assert "config.access_key_id" in made.mend[0] and "AWS_ACCESS_KEY_ID" in made.mend[0]
    assert not stub.calls, "nothing was sent"
    ((_, checked),) = await provider.check()
    assert (checked.state, checked.code) == ("failed", "cdn-credentials")
    level = await provider.level(0, 60)
    assert level.reason and not level.hit_ratio and not level.quota_left
    provider.close()


@pytest.mark.anyio
async def test_credentials_come_from_the_environment_and_new_ones_count_after_a_refusal(
    stub: CloudFrontStub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "credentials"
    file.write_text(f"[default]\naws_access_key_id = {KEY}\naws_secret_access_key = wrong-{SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    provider = make(stub.url, stub.distribution, keys=None)
    refused = await provider.purge(call("/a"))
    assert (refused.state, refused.code) == ("failed", "cdn-credentials")
    assert f"wrong-{SECRET}" not in repr(refused) and KEY not in repr(refused)
    file.write_text(f"[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
    made = await provider.purge(call("/a"))
    assert made.state == "pending"
    stub.faults = [Refused("ExpiredToken", 403)]
    lost = await provider.ask("", made.id)
    assert (lost.state, lost.id, lost.code) == ("pending", made.id, "cdn-credentials")
    assert (await provider.ask("", made.id)).code == ""
    provider.close()


@pytest.mark.anyio
@pytest.mark.parametrize("keys", [("AKIAANOTHERKEY000002", SECRET), (KEY, "another-secret")])
async def test_wrong_keys_are_refused_by_their_signature(stub: CloudFrontStub, keys: tuple[str, str]) -> None:
    provider = make(stub.url, stub.distribution, keys=keys)
    made = await provider.purge(call("/a"))
    assert (made.state, made.code) == ("failed", "cdn-credentials") and not stub.purges
    assert "<set>" in made.reason and not any(key in repr(made) for key in keys)
    provider.close()


# --- check ---


@pytest.mark.anyio
async def test_keys_that_may_only_purge_are_right_though_host_names_are_not_compared(
    stub: CloudFrontStub, provider: CloudFront
) -> None:
    stub.may.discard("GetDistribution")
    ((edge, checked),) = await provider.check()
    assert edge == "" and checked.state == "done" and "not compared" in checked.reason
    stub.may.discard("ListInvalidations")
    ((_, checked),) = await provider.check()
    assert (checked.state, checked.code) == ("failed", "cdn-forbidden")
    assert "cloudfront:CreateInvalidation" in checked.mend[0]
    assert (await provider.level(0, 60)).quota_left == ""


@pytest.mark.anyio
async def test_check_finds_a_distribution_that_is_off_has_no_tags_or_other_names(stub: CloudFrontStub) -> None:
    async def checked(**more: Any) -> Verdict:
        provider = make(stub.url, stub.distribution, **more)
        ((_, found),) = await provider.check()
        provider.close()
        return found

    for host in ("d111.cloudfront.net", "cdn.example.org", "a.edge.example.org"):
        assert await checked(public_urls=(Url(f"https://{host}"),)) == Verdict("done"), host
    for host in ("example.org", "edge.example.org", "a.b.edge.example.org", "d111.cloudfront.net.example.org"):
        assert (await checked(public_urls=(Url(f"https://{host}/x"),))).code == "cdn-config", host
    stub.tag_header = "Cache-Tag"
    assert "Cache-Tag" in (await checked()).reason and "x-amz-meta-cache-tag" in (await checked()).mend[0]
    stub.tag_header = None
    assert "no header" in (await checked()).reason
    assert await checked(cache_tags=False) == Verdict("done")
    stub.is_enabled = False
    off = await checked(cache_tags=False)
    assert (off.state, off.code) == ("failed", "cdn-config") and "disabled" in off.reason
    assert not stub.purges, "without a change"


# --- figures ---


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("points", "ratio"),
    [
        ([{"Average": 50.0, "SampleCount": 1.0}, {"Average": 100.0, "SampleCount": 3.0}], 0.875),
        ([{"Average": 0.0, "SampleCount": 1.0}], 0.0),
        ([{"Average": 101.0, "SampleCount": 1.0}], None),
        ([{"Average": float("nan"), "SampleCount": 1.0}], None),
        ([{"SampleCount": 1.0}], None),
        ([{"Average": 50.0, "SampleCount": 0.0}], None),
        ([], None),
        (None, None),
    ],
)
async def test_figures_that_are_none_are_told_as_none(points: Any, ratio: float | None) -> None:
    level = cloudfront.level_of(points, "E1", "")
    assert level.hit_ratio == ({} if ratio is None else {"all": ratio})
    assert bool(level.reason) == (ratio is None)


@pytest.mark.anyio
async def test_cloudwatch_that_refuses_or_talks_nonsense_gives_a_reason(stub: CloudFrontStub) -> None:
    provider = make(stub.url, stub.distribution)
    denied = json.dumps({"__type": "AccessDeniedException", "message": f"{KEY} may not"}).encode()
    for fault in (
        Raw(403, denied, {"Content-Type": "application/json"}),
        Raw(200, b"\xff\xff\xff", {"Content-Type": "application/cbor", "smithy-protocol": "rpc-v2-cbor"}),
        Raw(200, b"<html>", {"Content-Type": "text/html"}),
        Raw(500, b"", {}),
    ):
        empty = Raw(503, b"")
        stub.faults = [empty, fault]
        level = await provider.level(1_800_000_000, 1_800_003_600)
        assert isinstance(level, Level) and level.reason and not level.hit_ratio and KEY not in repr(level)
    provider.close()


# --- secrets ---


@pytest.mark.anyio
async def test_the_secret_is_in_no_verdict_repr_or_log(stub: CloudFrontStub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    given = entry(stub.url, stub.distribution)
    provider = CloudFront(given, asyncio.to_thread, lambda: NOW)
    seen: list[object] = [given, provider, vars(provider)["_cloudfront"]]
    for fault in (None, Refused("SignatureDoesNotMatch", 403, f"Credential={KEY}/x, {SECRET}"), Raw(500, b"")):
        stub.faults = [] if fault is None else [fault] * 3
        seen += [await provider.purge(call("/a")), await provider.check(), await provider.level(0, 60)]
        stub.faults = [] if fault is None else [fault]
        seen.append(await provider.ask("", "I0000000000001"))
    told = "\n".join(map(repr, seen)) + caplog.text
    assert "I0000000000001" in told, "the search sees what was said"
    assert SECRET not in told and KEY not in told and "Signature=" not in told
    provider.close()
