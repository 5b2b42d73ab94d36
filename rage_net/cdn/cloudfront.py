"""AWS CloudFront: invalidations by path, prefix and tag, and the hit ratio from CloudWatch, by boto3 in threads.

A purge is queued there and can be asked for by its id. It is safe to send again: the CallerReference is made of the
call's reference, the distribution and the items, so that CloudFront gives the purge it has instead of a second one,
which would cost money. Quotas count what is *in progress*, which nobody tells beforehand: the token buckets below
assume that a purge takes a minute, and where it takes longer CloudFront says TooManyInvalidationsInProgress, and the
call waits. No soft purge is there.

A path with a query is two words: CloudFront has the query in its key or not, as the distribution says.

Not here: credentials and transport (aws). Source: issue 6, A; cdn-apis 5; CloudFront's API of 2020-05-31.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from rage_net.aws import NO_ANSWER, Account, Blocking, Failure
from rage_net.cdn.answers import bases_of, hosts, refuse_token, retry_after_s, said
from rage_net.cdn.provider import Abilities, Call, Item, Kind, Level, Quota, Verdict

if TYPE_CHECKING:
    from rage_net.config.cdn import CloudFront as Keys
    from rage_net.config.cdn import Provider as Entry

PATHS_MAX = 3000
"""Paths and tags in progress, of one distribution."""
WILDCARDS_MAX = 15
"""Paths that end in `*` in progress, counted apart."""
PATH_CHARS_MAX = 4000
CALL_S = 25.0
"""For a call to CloudFront, from a thread's begin to the verdict."""
PURGE_S = 60.0
"""How long a purge is taken to be in progress: it gives its words back after that."""
BUSY_S = 30.0
"""Until a call is made again that was too much at once: 20 to 60 s, says cdn-apis 5."""
ASK_S = 5.0
"""Between two questions for the end of a purge, which comes after seconds or minutes."""
UNKNOWN_TRIES_MAX = 3
"""Of a purge whose id CloudFront does not know, though it gave it."""
READ_MAX = 10
"""Purges that are read to find the one that has our reference."""
LISTED_MAX = 100
"""Purges in one page of their list."""
TAG_HEADER = "x-amz-meta-cache-tag"
"""Where the origin, and S3 from an object's metadata, name an object's tags."""
REGION = "us-east-1"
"""Where CloudFront and its figures are, whatever is nearest."""

_SAFE = "%/:?@!$&'()+,;=-._~[]"
"""Stand in a path as they are. `*` is a wildcard and `#` begins a tag: of a name they are encoded."""


class CloudFront:
    """One distribution. See `provider.Provider`.

    Args: entry: the part of cdn.yaml. blocking: where boto3 runs, such as `Env.waiting`. now: seconds since the epoch.
    """

    edges: Sequence[str] = ("",)

    def __init__(self, entry: Entry, blocking: Blocking, now: Callable[[], float]) -> None:
        keys: Keys = entry.config  # type: ignore[assignment]  # `software` says so
        self.name = entry.name
        self._public_urls = entry.public_urls
        self._distribution = keys.distribution_id
        self._has_tags = keys.cache_tags
        self._bases = bases_of(entry.public_urls)
        self._now = now
        found = None
        if keys.access_key_id is not None and keys.secret_access_key is not None:
            found = (keys.access_key_id.reveal(), keys.secret_access_key.reveal())
        self._refused = _refuse(found)
        self._cloudfront, self._cloudwatch = (
            Account(service, blocking=blocking, keys=found, endpoint=keys.api_url, region=REGION, call_s=CALL_S)
            for service in ("cloudfront", "cloudwatch")
        )
        self.abilities = abilities(has_tags=keys.cache_tags)

    def words(self, item: Item) -> Sequence[str]:
        """How an invalidation names an item; nothing for what it cannot, such as a path of over 4,000 characters."""
        return words(item, self._bases, has_tags=self._has_tags)

    async def purge(self, call: Call) -> Verdict:
        """CreateInvalidation: pending, with its id."""
        if self._refused is not None:
            return self._refused
        items = sorted(set(call.words))
        reference = reference_of(self._distribution, items, call.reference)
        batch = {"Paths": {"Quantity": len(items), "Items": items}, "CallerReference": reference}
        try:
            answer = await self._cloudfront.ask(
                "create_invalidation", DistributionId=self._distribution, InvalidationBatch=batch
            )
        except Failure as failure:
            if failure.code == "InvalidationBatchAlreadyExists":
                return await self._find(reference, items, failure)
            return self._verdict(failure)
        return _progress(answer.get("Invalidation"))

    async def ask(self, edge: str, id: str) -> Verdict:
        """GetInvalidation: pending, or done."""
        try:
            answer = await self._cloudfront.ask("get_invalidation", DistributionId=self._distribution, Id=id)
        except Failure as failure:
            verdict = self._verdict(failure)
            if failure.code == "NoSuchInvalidation":
                return verdict
            return Verdict(
                "pending",
                id,
                reason=verdict.reason,
                code=verdict.code,
                mend=verdict.mend,
                retry_after_s=verdict.retry_after_s,
            )
        found = _progress(answer.get("Invalidation"))
        return found if found.state != "queued" else Verdict("pending", id, reason=found.reason, code=found.code)

    async def check(self) -> Sequence[tuple[str, Verdict]]:
        """Whether the credentials see the distribution, and it is as cdn.yaml says: on, its host names, its tags.

        Whether they may purge is known when they do. Credentials that may only list purges are enough.
        """
        if self._refused is not None:
            return [("", self._refused)]
        try:
            answer = await self._cloudfront.ask("get_distribution", Id=self._distribution)
        except Failure as failure:
            if failure.code in ("AccessDenied", "AccessDeniedException"):
                return [("", await self._check_by_list())]
            return [("", self._verdict(failure))]
        return [("", check_distribution(answer.get("Distribution"), self._public_urls, has_tags=self._has_tags))]

    async def level(self, since: float, until: float) -> Level:
        """The part of requests that were hits, of the whole world, from CloudWatch; and purges in progress."""
        if self._refused is not None:
            return Level(reason=self._refused.reason)
        quota_left = await self._in_progress()
        period_s = period_of(since, until)
        try:
            answer = await self._cloudwatch.ask(
                "get_metric_statistics",
                Namespace="AWS/CloudFront",
                MetricName="CacheHitRate",
                Dimensions=[
                    {"Name": "DistributionId", "Value": self._distribution},
                    {"Name": "Region", "Value": "Global"},
                ],
                StartTime=datetime.fromtimestamp(since, UTC),
                EndTime=datetime.fromtimestamp(until, UTC),
                Period=period_s,
                Statistics=["Average", "SampleCount"],
            )
        except Failure as failure:
            return Level(quota_left=quota_left, reason=self._verdict(failure).reason)
        return level_of(answer.get("Datapoints"), self._distribution, quota_left)

    def close(self) -> None:
        """Close the connections."""
        self._cloudfront.close()
        self._cloudwatch.close()

    def _verdict(self, failure: Failure) -> Verdict:
        return verdict_of(failure, self._distribution, self._now())

    async def _find(self, reference: str, items: Sequence[str], failure: Failure) -> Verdict:
        """The purge that has our reference: ours, if its paths are the same written otherwise; else none of ours."""
        with suppress(Failure):
            answer = await self._cloudfront.ask(
                "list_invalidations", DistributionId=self._distribution, MaxItems=str(READ_MAX)
            )
            for summary in _entries(answer.get("InvalidationList"))[:READ_MAX]:
                read = await self._cloudfront.ask(
                    "get_invalidation", DistributionId=self._distribution, Id=str(summary.get("Id", ""))
                )
                found = _mapping(read.get("Invalidation"))
                batch = _mapping(found.get("InvalidationBatch"))
                if batch.get("CallerReference") != reference:
                    continue
                if is_same(_entries(batch.get("Paths")), items):
                    return _progress(found)
                break
        return self._verdict(failure)

    async def _check_by_list(self) -> Verdict:
        try:
            await self._cloudfront.ask("list_invalidations", DistributionId=self._distribution, MaxItems="1")
        except Failure as failure:
            return self._verdict(failure)
        return Verdict("done", reason="the keys may not read the distribution: its host names were not compared")

    async def _in_progress(self) -> str:
        """How many of the last purges are in progress; empty when it cannot be asked."""
        try:
            answer = await self._cloudfront.ask(
                "list_invalidations", DistributionId=self._distribution, MaxItems=str(LISTED_MAX)
            )
        except Failure:
            return ""
        found = _entries(answer.get("InvalidationList"))
        count = sum(not _is_completed(summary.get("Status")) for summary in found)
        return f"{count} purges in progress; {PATHS_MAX} paths and {WILDCARDS_MAX} wildcards may be"


def abilities(*, has_tags: bool) -> Abilities:
    """What a distribution can do. A call takes no more than the quota of what is in progress."""
    most: dict[Kind, int] = {"url": PATHS_MAX, "prefix": WILDCARDS_MAX, "all": 1}
    paths = ("paths", Quota(PATHS_MAX / PURGE_S, PATHS_MAX, "words"))
    wildcards = ("wildcards", Quota(WILDCARDS_MAX / PURGE_S, WILDCARDS_MAX, "words"))
    quotas: dict[Kind, tuple[str, Quota]] = {"url": paths, "prefix": wildcards, "all": wildcards}
    if has_tags:
        most["tag"] = PATHS_MAX
        quotas["tag"] = paths
    mixed: frozenset[Kind] = frozenset({"url", "tag"} if has_tags else ())  # prefixes have a bound of their own
    return Abilities(most, answer="pending", mixed=mixed, quotas=quotas)


def words(item: Item, bases: Sequence[str] = ("",), *, has_tags: bool) -> tuple[str, ...]:
    """How an invalidation names an item. Source: cdn-apis 5, path rules and "By tag".

    Args: bases: what public addresses put before our paths.
    """
    match item.kind:
        case "all":
            return ("/*",)
        case "tag":
            return (f"#{item.value}",) if has_tags else ()
        case "prefix":
            found = [f"{encoded(base + item.value)}*" for base in bases]
        case "url":
            path = item.value.partition("?")[0]
            named = dict.fromkeys((path, item.value))
            found = [encoded(base + name) for base in bases for name in named]
        case _:
            return ()
    return (
        tuple(dict.fromkeys(found))
        if item.value.startswith("/") and all(len(word) <= PATH_CHARS_MAX for word in found)
        else ()
    )


def encoded(path: str) -> str:
    """A path as CloudFront wants it: RFC 3986's unsafe characters, `*` and `#` as %XX; what is so already stays."""
    safe = quote(path, safe=_SAFE, errors="surrogatepass")
    parts = safe.split("%")
    return parts[0] + "".join(f"%{part}" if _is_hex(part[:2]) else f"%25{part}" for part in parts[1:])


def _is_hex(text: str) -> bool:
    return len(text) == 2 and all(char in "0123456789abcdefABCDEF" for char in text)


def reference_of(distribution: str, items: Sequence[str], reference: str) -> str:
    """The CallerReference: the same for the same items of the same call, and for no others. `items` sorted."""
    digest = hashlib.sha256("\n".join((distribution, reference, *items)).encode("utf-8", "surrogatepass"))
    return f"rage-{digest.hexdigest()}"


def is_same(found: Sequence[Any], items: Sequence[str]) -> bool:
    """Whether both name the same, with `%c3` for `%C3` and in any order."""

    def plain(path: str) -> str:
        return re.sub("%[0-9a-f]{2}", lambda match: match[0].upper(), encoded(path), flags=re.IGNORECASE)

    return {plain(str(path)) for path in found} == {plain(path) for path in items}


def verdict_of(failure: Failure, distribution: str, now: float) -> Verdict:
    """What a failure means for a purge: a row of ROWS, with the vendor's words and the pause it asks for."""
    row = ROWS[row_of(failure)]
    asked = retry_after_s(failure.headers, now)
    return replace(
        row,
        reason=f"CloudFront says {failure.said}" if failure.status else failure.said,
        mend=tuple(line.replace("DISTRIBUTION", distribution) for line in row.mend),
        retry_after_s=asked if asked is not None and row.state == "queued" else row.retry_after_s,
    )


def row_of(failure: Failure) -> str:
    """Which row of ROWS a failure is: by its code, else by its status, else by what the library says of it."""
    code, status = failure.code, failure.status
    named = next((row for row, codes in CODES.items() if code in codes), None)
    if named is not None:
        is_late = named == "keys" and "ignature expired" in failure.said  # AWS's code for a clock that is wrong
        return "clock" if is_late else named
    by_status = {401: "keys", 403: "rights", 408: "busy", 413: "large", 425: "busy", 429: "throttled"}
    if status in by_status:
        return by_status[status]
    if 300 <= status < 400:
        return "answer"
    if status >= 500:
        return "busy"
    if status:
        return "rights" if failure.outcome == "refused" else "rejected"
    if failure.outcome == "busy":
        return "unreachable"
    return "answer" if failure.outcome == "broken" else "setup"


_KEYS = "config.access_key_id and config.secret_access_key of this provider in cdn.yaml"

CODES: Mapping[str, frozenset[str]] = {
    "none": frozenset(["NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"]),
    "source": frozenset(["CredentialRetrievalError", "MetadataRetrievalError"]),
    "clock": frozenset(["RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"]),
    "keys": frozenset(
        {
            *("InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch"),
            *("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "IncompleteSignature"),
            *("MissingAuthenticationToken", "MissingAuthenticationTokenException", "InvalidSignatureException"),
        }
    ),
    "rights": frozenset(["AccessDenied", "AccessDeniedException"]),
    "distribution": frozenset(["NoSuchDistribution"]),
    "purge": frozenset(["NoSuchInvalidation"]),
    "many": frozenset(["TooManyInvalidationsInProgress"]),
    "large": frozenset(["BatchTooLarge"]),
    "throttled": frozenset(
        {
            *("Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled"),
            *("RequestThrottledException", "TooManyRequests", "TooManyRequestsException", "RequestLimitExceeded"),
            "SlowDown",
        }
    ),
    "exists": frozenset(["InvalidationBatchAlreadyExists"]),
    "rejected": frozenset(["InvalidArgument", "InconsistentQuantities", "MissingBody", "ParamValidationError"]),
    "answer": frozenset([NO_ANSWER]),
}
"""Codes of CloudFront and CloudWatch, and exceptions of the library, by row."""

ROWS: Mapping[str, Verdict] = {
    "none": Verdict(
        "failed",
        code="cdn-credentials",
        mend=(f"set {_KEYS}, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", "aws sts get-caller-identity"),
    ),
    "source": Verdict("queued", code="cdn-credentials", mend=("aws sts get-caller-identity",)),
    "clock": Verdict("failed", code="cdn-credentials", mend=("date -u", "timedatectl set-ntp true")),
    "keys": Verdict(
        "failed",
        code="cdn-credentials",
        mend=(f"renew {_KEYS}, or those in the environment or ~/.aws/credentials", "aws sts get-caller-identity"),
    ),
    "rights": Verdict(
        "failed",
        code="cdn-forbidden",
        mend=(
            "the keys need cloudfront:CreateInvalidation, GetInvalidation and ListInvalidations on distribution "
            "DISTRIBUTION, and cloudwatch:GetMetricStatistics for its hit ratio",
        ),
    ),
    "distribution": Verdict(
        "failed",
        code="cdn-not-found",
        mend=(
            "DISTRIBUTION is no distribution of these keys: see config.distribution_id in cdn.yaml",
            "aws cloudfront list-distributions --query 'DistributionList.Items[].Id'",
        ),
    ),
    "purge": Verdict("queued", code="cdn-not-found", tries_max=UNKNOWN_TRIES_MAX),
    "many": Verdict("queued", code="cdn-busy", retry_after_s=BUSY_S),
    "large": Verdict("queued", code="cdn-rejected", is_too_large=True),
    "throttled": Verdict("queued", code="cdn-rate-limited"),
    "exists": Verdict("failed", code="cdn-rejected", mend=("purge again: a new purge has another reference",)),
    "rejected": Verdict("failed", code="cdn-rejected", mend=("rage cdn check", "purge by tag, or by other paths")),
    "busy": Verdict("queued", code="cdn-busy"),
    "unreachable": Verdict("queued", code="cdn-unreachable", mend=("rage cdn check",)),
    "answer": Verdict("queued", code="cdn-answer", mend=("see config.api_url: what answers there is not AWS",)),
    "setup": Verdict("failed", code="cdn-config", mend=("rage config check", "see this provider in cdn.yaml")),
}
"""cdn-apis 5, the table of errors, and what can happen before an answer comes."""


def check_distribution(found: Any, public_urls: Sequence[str], *, has_tags: bool) -> Verdict:
    """Whether a distribution is the one that cdn.yaml describes."""
    distribution = _mapping(found)
    keys = _mapping(distribution.get("DistributionConfig"))
    if not distribution.get("Id"):
        return Verdict("queued", reason="CloudFront's answer holds no distribution", code="cdn-answer")
    if keys.get("Enabled") is False:
        return Verdict(
            "failed",
            reason="the distribution is disabled: it answers nobody",
            code="cdn-config",
            mend=("enable it, or set enabled: false in cdn.yaml",),
        )
    names = [str(distribution.get("DomainName", "")), *map(str, _entries(keys.get("Aliases")))]
    for host in hosts(public_urls):
        if not any(is_name(host, name) for name in names):
            return Verdict(
                "failed",
                reason=f"{host} is no name of the distribution, which has {said(', '.join(names))}: a purge would not "
                "reach what clients are given",
                code="cdn-config",
                mend=("see public_urls of this provider in cdn.yaml, and the distribution's alternate domain names",),
            )
    header = str(_mapping(keys.get("CacheTagConfig")).get("HeaderName", ""))
    if has_tags and header.lower() != TAG_HEADER:
        return Verdict(
            "failed",
            reason=f"cache_tags is on, and the distribution reads tags from {said(header) or 'no header'}: a purge by "
            "tag would purge nothing",
            code="cdn-config",
            mend=(f"set CacheTagConfig.HeaderName of the distribution to {TAG_HEADER}", "or cache_tags: false"),
        )
    return Verdict("done")


def is_name(host: str, name: str) -> bool:
    """Whether a host is named by a distribution's name, which may be `*.example.org`: one label for the `*`."""
    host, name = host.lower().rstrip("."), name.lower().rstrip(".")
    return host == name or (name.startswith("*.") and host.partition(".")[2] == name[2:])


def period_of(since: float, until: float) -> int:
    """Seconds of a period of CloudWatch that holds the whole time: of minutes up to an hour, else of hours."""
    unit = 60 if until - since <= 3600 else 3600
    return max(1, math.ceil((until - since) / unit)) * unit


def level_of(found: Any, distribution: str, quota_left: str) -> Level:
    """The hit ratio from CloudWatch's points, each by its samples."""
    points = [
        (float(point.get("Average", math.nan)), float(point.get("SampleCount", 1.0)))
        for point in (found if isinstance(found, list) else ())
    ]
    weight = sum(samples for _, samples in points)
    if not points or weight <= 0:
        return Level(
            quota_left=quota_left,
            reason="CloudWatch has no CacheHitRate: the distribution had no request, or its additional metrics, which "
            f"cost money, are off: aws cloudfront create-monitoring-subscription --distribution-id {distribution} "
            "--monitoring-subscription "
            "RealtimeMetricsSubscriptionConfig={RealtimeMetricsSubscriptionStatus=Enabled}",
            is_fault=False,
        )
    percent = sum(average * samples for average, samples in points) / weight
    if not 0 <= percent <= 100:
        return Level(quota_left=quota_left, reason="CloudWatch's CacheHitRate is no percentage")
    return Level({"all": percent / 100}, quota_left=quota_left)


def _refuse(keys: tuple[str, str] | None) -> Verdict | None:
    """The verdict on keys that no header takes; None for those that may be right."""
    names = ("config.access_key_id", "config.secret_access_key")
    refusals = (refuse_token(key, name) for key, name in zip(keys or (), names, strict=False))
    return next((refusal for refusal in refusals if refusal is not None), None)


def _progress(found: Any) -> Verdict:
    """What CloudFront says of a purge. Its words for states are compared without their case: moto writes COMPLETED."""
    purge = _mapping(found)
    id = str(purge.get("Id") or "")
    if not id or not purge.get("Status"):
        return Verdict("queued", reason="CloudFront's answer names no purge", code="cdn-answer")
    return Verdict("done", id) if _is_completed(purge["Status"]) else Verdict("pending", id, retry_after_s=ASK_S)


def _is_completed(status: Any) -> bool:
    return str(status).lower() == "completed"


def _mapping(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {}


def _entries(found: Any) -> Sequence[Any]:
    """The `Items` of one of CloudFront's lists."""
    items = _mapping(found).get("Items")
    return items if isinstance(items, list) else ()
