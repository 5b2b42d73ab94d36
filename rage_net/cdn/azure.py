"""Azure Front Door (and Azure CDN classic, at another address): purge, checks, figures; and a thin client.

A good answer means that the purge is under way: its id is the address that tells its end. It takes minutes, and each
purge queues behind the one before. Words: paths without scheme, host and query; a prefix is `/dir/*`, everything `/*`.
The token is sent to the resource manager and to no other host, whatever an answer says.

Source: cdn-apis 6; azure-rest-api-specs, `AFDEndpoints_PurgeContent` and `Endpoints_PurgeContent` of 2025-06-01;
Microsoft's page on metrics of Microsoft.Cdn/profiles. Not here: tokens (azure_login).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import SplitResult, quote, urlencode, urljoin, urlsplit

from rage_net.cdn.answers import (
    Request,
    bases_of,
    halved,
    hosts,
    judge_status,
    parse,
    retry_after_s,
    said,
    text_of,
)
from rage_net.cdn.azure_login import IMDS_URL, LOGIN_MENDS, Login
from rage_net.cdn.cloud import Cloud, judge_hosts, time_text
from rage_net.cdn.provider import Abilities, Call, Item, Level, Quota, Verdict
from rage_net.config import cdn as config_cdn
from rage_net.web import Answer, Web

API_VERSION = "2025-06-01"
METRICS_VERSION = "2018-01-01"
PERMISSIONS_VERSION = "2022-04-01"
PATHS_MAX = 100
"""Paths in one call."""
WRITES = Quota(10, 190)
"""Of the resource manager, by subscription and principal; a purge counts as one. Its own bucket holds 200, which are
filled from the moment at which a call arrives, ours from the one at which it is sent."""
CONFLICT_S = 30.0
"""Until the next try while somebody changes the profile."""
ASK_AGAIN_S = 10.0
"""Until the next question for the end of a purge, where the answer does not say."""
ID_CHARS_MAX = 8192
"""Of the address that tells the end of a purge: newer ones carry a signature."""
MINUTES_S_MAX = 86_400.0
"""A longer span is asked for by the hour."""

PURGE_ACTION = {
    False: "Microsoft.Cdn/profiles/afdEndpoints/Purge/action",
    True: "Microsoft.Cdn/profiles/endpoints/Purge/action",
}
ROLE_MENDS = (
    "give the principal a role on the profile with the action Microsoft.Cdn/profiles/afdEndpoints/Purge/action",
    "the role CDN Endpoint Contributor is for classic endpoints alone",
)
IDS_MENDS = ("see subscription_id, resource_group, profile_name, endpoint_name and classic in cdn.yaml",)


@dataclass(frozen=True, slots=True)
class Place:
    """An endpoint, as Azure names it."""

    api_url: str
    subscription_id: str
    resource_group: str
    profile_name: str
    endpoint_name: str
    is_classic: bool = False

    @property
    def profile(self) -> str:
        """The address of its profile."""
        return (
            f"{self.api_url}/subscriptions/{quote(self.subscription_id, safe='')}"
            f"/resourceGroups/{quote(self.resource_group, safe='')}"
            f"/providers/Microsoft.Cdn/profiles/{quote(self.profile_name, safe='')}"
        )

    @property
    def endpoint(self) -> str:
        """The address of the endpoint."""
        kind = "endpoints" if self.is_classic else "afdEndpoints"
        return f"{self.profile}/{kind}/{quote(self.endpoint_name, safe='')}"


# --- purges ---


def purge(place: Place, token: str, paths: Sequence[str], domains: Sequence[str] = ()) -> Request:
    """Paths of an endpoint on these domains, or on all of them. Classic endpoints know no domains."""
    body: dict[str, Any] = {"contentPaths": list(paths)}
    if domains and not place.is_classic:
        body["domains"] = list(domains)
    return Request(
        "POST",
        f"{place.endpoint}/purge?api-version={API_VERSION}",
        {**_headers(token), "Content-Type": "application/json"},
        json.dumps(body, separators=(",", ":")).encode(),
    )


def read(url: str, token: str, query: Mapping[str, str] | None = None) -> Request:
    """GET of a resource."""
    asked = urlencode({"api-version": API_VERSION, **(query or {})})
    return Request("GET", f"{url}?{asked}", _headers(token))


def read_operation(url: str, token: str) -> Request:
    """The state of a purge, at the address that its answer gave."""
    return Request("GET", url, _headers(token))


def read_figures(place: Place, token: str, since: float, until: float) -> Request:
    """The byte hit ratio of the profile by endpoint. Times: seconds since the epoch."""
    query = {
        "api-version": METRICS_VERSION,
        "metricnames": "ByteHitRatio",
        "aggregation": "Average",
        "interval": "PT1M" if until - since <= MINUTES_S_MAX else "PT1H",
        "timespan": f"{time_text(since)}/{time_text(until)}",
        "$filter": "Endpoint eq '*'",
    }
    return read(f"{place.profile}/providers/Microsoft.Insights/metrics", token, query)


def _headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "Accept": "application/json"}


def judge(
    status: int, headers: Mapping[str, str], body: bytes, now: float = 0.0, secrets: Sequence[str] = ()
) -> Verdict:
    """What became of a purge, by the answer to it. The id of a pending one is the address that tells its end.

    Args: headers: by lower-case name. now: seconds since the epoch, for a `Retry-After` that is a date.
    """
    if status == 202:
        url = headers.get("azure-asyncoperation", "") or headers.get("location", "")
        if not url:
            return Verdict("accepted", reason="Azure does not say where the end of this purge is told")
        return Verdict("pending", id=url, retry_after_s=_again_s(headers, now))
    plain = parse(body)
    if status == 204 or (status == 200 and (plain is not None or not body.strip())):
        return Verdict("done")
    return _refused(status, headers, plain, now, secrets)


def judge_operation(
    status: int, headers: Mapping[str, str], body: bytes, now: float = 0.0, secrets: Sequence[str] = ()
) -> Verdict:
    """What became of a pending purge. What tells no end leaves it pending: unknown is not failed."""
    plain = parse(body)
    state = text_of(plain, "status").lower()
    if status == 204 or (status == 200 and (state == "succeeded" or not body.strip())):
        return Verdict("done")
    if status == 200 and state in ("failed", "canceled", "cancelled"):
        told = _told(plain or {}, secrets) or "no reason told"
        return Verdict("failed", reason=f"Azure says that the purge has {state}: {told}", code="cdn-rejected")
    if status == 202 or (status == 200 and state):
        return Verdict("pending", retry_after_s=_again_s(headers, now))
    if status in (404, 410):
        reason = f"Azure answers {status} to the question for its end: it accepted the purge, and tells no more"
        return Verdict("accepted", reason=reason)
    usual = _refused(status, headers, plain, now, secrets)
    after = _again_s(headers, now)
    return Verdict("pending", reason=usual.reason, code=usual.code, mend=usual.mend, retry_after_s=after)


def _again_s(headers: Mapping[str, str], now: float) -> float:
    after = retry_after_s(headers, now)
    return ASK_AGAIN_S if after is None else after


def _refused(
    status: int, headers: Mapping[str, str], plain: Mapping[str, Any] | None, now: float, secrets: Sequence[str]
) -> Verdict:
    told = "" if plain is None else _told(plain, secrets)
    usual = judge_status(status, headers, told, now, "Azure", secrets)
    match status:
        case 401:
            return replace(usual, mend=LOGIN_MENDS)
        case 403:
            return replace(usual, mend=ROLE_MENDS)
        case 404:
            return replace(usual, mend=IDS_MENDS)
        case 409:
            after = max(CONFLICT_S, retry_after_s(headers, now) or 0.0)
            return Verdict("queued", reason=usual.reason, code="cdn-busy", retry_after_s=after)
    return usual


def _told(plain: Mapping[str, Any], secrets: Sequence[str]) -> str:
    """Code and message of `{"error": {..}}`, with those of its first detail."""
    error = plain.get("error")
    if not isinstance(error, dict):
        return ""
    found = error.get("details")
    details = [it for it in found if isinstance(it, dict)][:1] if isinstance(found, list) else []
    texts = [f"{text_of(it, 'code')} {text_of(it, 'message')}".strip() for it in [error, *details]]
    return said("; ".join(text for text in texts if text), secrets)


def operation_url(api_url: str, url: str) -> str | None:
    """The address that tells a purge's end, if it is the resource manager's: the token goes to no other host."""
    if len(url) > ID_CHARS_MAX or not all("!" <= char <= "~" for char in url):
        return None
    try:
        whole = urljoin(f"{api_url}/", url)
        ours, theirs = urlsplit(api_url), urlsplit(whole)
        is_same = (ours.scheme, ours.hostname, _port(ours)) == (theirs.scheme, theirs.hostname, _port(theirs))
    except ValueError:  # a port or an address that is none
        return None
    return whole if is_same and "@" not in theirs.netloc and "\\" not in whole else None


def _port(parts: SplitResult) -> int | None:
    return parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def path_of(kind: str, value: str) -> str:
    """A URL's path without its query, which all go; a prefix up to its last `/`, since `*` stands for whole names."""
    if kind == "url":
        return value.partition("?")[0]
    return f"{value.rpartition('/')[0]}/*"


# --- checks and figures ---


def judge_permissions(plain: Mapping[str, Any] | None, action: str) -> Verdict:
    """Whether a principal's roles on the endpoint hold an action; `done` where they cannot be read."""
    found = plain.get("value") if plain is not None else None
    roles = [role for role in found if isinstance(role, dict)] if isinstance(found, list) else []
    if not roles or any(
        _holds(role.get("actions"), action) and not _holds(role.get("notActions"), action) for role in roles
    ):
        return Verdict("done")
    return Verdict("failed", reason=f"no role of the principal holds {action}", code="cdn-forbidden", mend=ROLE_MENDS)


def _holds(actions: object, action: str) -> bool:
    patterns = [it.lower() for it in actions if isinstance(it, str)] if isinstance(actions, list) else []
    return any(fnmatchcase(action.lower(), pattern) for pattern in patterns)


def judge_domains(resources: Sequence[Mapping[str, Any]], public_urls: Sequence[str]) -> Verdict:
    """Whether each public host is the endpoint's own or one of the custom domains."""
    found = {text_of(it.get("properties"), "hostName").lower() for it in resources} - {""}

    def is_ours(name: str) -> bool:
        return not found or name in found

    return judge_hosts(public_urls, is_ours, "none of the endpoint's: purges of its paths", "endpoint_name")


def judge_figures(status: int, headers: Mapping[str, str], body: bytes, endpoint: str, secrets: Sequence[str]) -> Level:
    """The byte hit ratio of one endpoint, or of all where none is named like it: percent by bytes, made 0 to 1."""
    plain = parse(body)
    if status != 200 or plain is None:
        reason = _refused(status, headers, plain, 0.0, secrets).reason
        return Level(basis="bytes", reason=reason)
    own, others = list[float](), list[float]()
    try:
        for metric in plain["value"]:
            for series in metric["timeseries"]:
                names = [str(it["value"]).lower() for it in series.get("metadatavalues") or []]
                points = [float(it["average"]) for it in series["data"] if it.get("average") is not None]
                if not all(0 <= point <= 100 for point in points):
                    raise ValueError("no percentage")
                is_own = any(name == endpoint.lower() or name.startswith(f"{endpoint.lower()}-") for name in names)
                (own if is_own else others).extend(points)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return Level(basis="bytes", reason="Azure's figures do not have the form that its API promises")
    points = own or others
    if not points:
        reason = "no request in this time; the figures come up to three minutes late"
        return Level(basis="bytes", reason=reason, is_fault=False)
    return Level({"all": sum(points) / len(points) / 100}, basis="bytes")


def quota_left(headers: Mapping[str, str]) -> str:
    """What is left of the resource manager's calls, as people read it; empty where the answer does not say."""
    names = ("x-ms-ratelimit-remaining-subscription-writes", "x-ms-ratelimit-remaining-subscription-reads")
    found = [(name.rpartition("-")[2], headers.get(name, "").strip()) for name in names]
    return "; ".join(f"{text} {kind}" for kind, text in found if text.isascii() and text.isdigit() and len(text) < 10)


# --- the client ---


class Azure(Cloud):
    """One endpoint. See Provider."""

    def __init__(
        self, config: config_cdn.Provider, web: Web, now: Callable[[], float], *, imds_url: str = IMDS_URL
    ) -> None:
        """Nothing is sent. Args: now: seconds since the epoch. imds_url: where managed identities get their tokens."""
        assert isinstance(config.config, config_cdn.Azure)
        self._keys = keys = config.config
        super().__init__(config, web, now)
        self._place = Place(
            keys.api_url.rstrip("/"),
            keys.subscription_id,
            keys.resource_group,
            keys.profile_name,
            keys.endpoint_name,
            keys.classic,
        )
        self._login = Login(keys, self._place.api_url, web, now, imds_url)
        self._left = ""

    @property
    def abilities(self) -> Abilities:
        """Paths, prefixes, everything, and hosts but for classic; no tags, nothing soft."""
        words_max = {"url": PATHS_MAX, "prefix": PATHS_MAX, "all": 1} | ({} if self._keys.classic else {"host": 1})
        return Abilities(
            words_max,  # type: ignore[arg-type]  # the keys are kinds
            answer="pending",
            mixed=frozenset({"url", "prefix"}),
            quotas={"url": _QUOTA, "prefix": _QUOTA, "all": _QUOTA, "host": _QUOTA},
        )

    def words(self, item: Item) -> Sequence[str]:
        """A path for each way to it that public addresses have; of a host its name, but for one with `*`."""
        match item.kind:
            case "all":
                return ("/*",)
            case "host":
                return () if "*" in item.value else (item.value.lower(),)
            case "tag":
                return ()
        found = (path_of(item.kind, f"{base}{item.value}") for base in bases_of(self._config.public_urls))
        return tuple(dict.fromkeys(found))

    async def purge(self, call: Call) -> Verdict:
        """See Provider. A token that is refused is fetched anew, and the call made a second time."""
        if call.kind == "host":
            paths, domains = ["/*"], tuple(call.words)
        else:
            paths = list(call.words)
            domains = () if call.kind == "all" else _domains(self._config.public_urls)
        answer = await self._with_token(lambda token: purge(self._place, token, paths, domains))
        if isinstance(answer, Verdict):
            return answer
        verdict = judge(answer.status, answer.headers, answer.body, self._now(), self._secrets)
        if verdict.state == "pending":
            has_secret = any(secret and secret in verdict.id for secret in self._secrets)
            url = None if has_secret else operation_url(self._place.api_url, verdict.id)
            if url is None:
                reason = "Azure accepted the purge, but its end is told at another host, which gets no token"
                return Verdict("accepted", reason=reason)
            return replace(verdict, id=url)
        return halved(verdict, len(call.words))

    async def ask(self, edge: str, id: str) -> Verdict:
        """See Provider. Args: id: the address that the purge's answer gave."""
        url = operation_url(self._place.api_url, id)
        if url is None:
            reason = f"the address that tells its end is not below {self._place.api_url}: it gets no token"
            return Verdict("pending", id=id, reason=reason, code="cdn-config", mend=("see api_url in cdn.yaml",))
        answer = await self._with_token(lambda token: read_operation(url, token))
        if isinstance(answer, Verdict):
            after = answer.retry_after_s if answer.retry_after_s is not None else ASK_AGAIN_S
            return replace(answer, state="pending", id=id, retry_after_s=after)
        return replace(judge_operation(answer.status, answer.headers, answer.body, self._now(), self._secrets), id=id)

    async def _check(self) -> Verdict:
        endpoint = await self._read(self._place.endpoint)
        if isinstance(endpoint, Verdict):
            return endpoint
        permissions = await self._read(
            f"{self._place.endpoint}/providers/Microsoft.Authorization/permissions",
            {"api-version": PERMISSIONS_VERSION},
        )
        action = PURGE_ACTION[self._keys.classic]
        rights = judge_permissions(None if isinstance(permissions, Verdict) else permissions, action)
        if rights.state != "done":
            return rights
        place = self._place
        domains = await self._read(f"{place.endpoint if place.is_classic else place.profile}/customDomains")
        if isinstance(domains, Verdict):
            return Verdict("done") if domains.code in ("cdn-forbidden", "cdn-not-found") else domains
        found = domains.get("value")
        customs = [it for it in found if isinstance(it, dict)] if isinstance(found, list) else []
        return judge_domains([endpoint, *customs], self._config.public_urls)

    async def level(self, since: float, until: float) -> Level:
        """By bytes, for the whole endpoint."""
        answer = await self._with_token(lambda token: read_figures(self._place, token, since, until))
        if isinstance(answer, Verdict):
            return Level(basis="bytes", quota_left=self._left, reason=answer.reason)
        level = judge_figures(answer.status, answer.headers, answer.body, self._keys.endpoint_name, self._secrets)
        return replace(level, quota_left=self._left)

    @property
    def _secrets(self) -> Sequence[str]:
        return self._login.secrets

    async def _read(self, url: str, query: Mapping[str, str] | None = None) -> Mapping[str, Any] | Verdict:
        """A resource as JSON, or the verdict that there is none."""
        answer = await self._with_token(lambda token: read(url, token, query))
        if isinstance(answer, Verdict):
            return answer
        plain = parse(answer.body)
        if answer.status == 200 and plain is not None:
            return plain
        return _refused(answer.status, answer.headers, plain, self._now(), self._secrets)

    async def _with_token(self, request: Callable[[str], Request]) -> Answer | Verdict:
        """Send with the token at hand; once more with a new one where it is refused."""
        token = await self._login.token()
        if isinstance(token, Verdict):
            return token
        answer = await self._send(request(token.text))
        if isinstance(answer, Verdict) or answer.status != 401:
            return answer
        token = await self._login.token(refused=token)
        return token if isinstance(token, Verdict) else await self._send(request(token.text))

    def _note_quota(self, headers: Mapping[str, str]) -> None:
        self._left = quota_left(headers) or self._left


_QUOTA = ("writes", WRITES)


def _domains(public_urls: Sequence[str]) -> tuple[str, ...]:
    """Host names for `domains`: Azure takes no wildcards there."""
    return tuple(name for name in hosts(public_urls) if "*" not in name)
