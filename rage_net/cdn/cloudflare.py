"""Cloudflare: its purge, checks and figures as requests and verdicts, and a thin client.

A good answer means that the purge was accepted; whether anything was cached is told by requesting the object. Words: a
URL with scheme and host, `host/path/` for a prefix, a tag or a host as it is, `*` for everything.

Source: cdn-apis 3; `cloudflare/api-schemas` and the types of the vendor's SDK 5.9.0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from rage_net.cdn.answers import (
    ID_CHARS_MAX,
    Request,
    halved,
    hosts,
    judge_status,
    parse,
    refuse_token,
    said,
    text_of,
)
from rage_net.cdn.cloud import Cloud, Tally, judge_hosts, time_text
from rage_net.cdn.provider import Abilities, Call, Item, Kind, Level, Quota, Verdict
from rage_net.config import cdn as config_cdn
from rage_net.web import Web

URLS_MAX = 30
"""URLs in one call, but 500 with Enterprise. The vendor's table says 100 of late, yet calls with more than 30 were
still refused in 2025 (cloudflare-docs issue 21338). The quota counts URLs, not calls: small calls cost none of it."""
URLS_MAX_ENTERPRISE = 500
ITEMS_MAX = 100
"""Tags, hosts or prefixes in one call: here the quota counts calls (Free: 5 a minute), so they are filled. An account
that still takes 30 says so, and the call goes in halves."""
URLS: Mapping[str, Quota] = {
    "free": Quota(800, 400, "words"),
    "pro": Quota(1500, 750, "words"),
    "business": Quota(1500, 750, "words"),
    "enterprise": Quota(3000, 1500, "words"),
}
"""URLs, as a moving average; at once only half a second's worth, for the reason below."""
CALLS: Mapping[str, Quota] = {
    "free": Quota(5 / 60, 24),
    "pro": Quota(5, 22),
    "business": Quota(10, 45),
    "enterprise": Quota(50, 475),
}
"""Calls by tag, host, prefix and of everything, in one bucket for the account. The vendor's buckets (25, 25, 50, 500)
are larger by half a second's worth: they are filled from the moment at which a call arrives, and the first ones, which
open connections, take longer than those after them.
"""
SEPARATORS_MAX = 31
"""`/` in a prefix."""
ZONE_ID = re.compile("[0-9a-f]{32}")
TRIES_OF_401_MAX = 3
"""A good token is refused now and then: reported of purges in 2026."""
HITS = frozenset({"hit", "stale", "updating", "revalidated"})
"""Values of `cacheStatus`, whose case differs, that were answered from the cache."""
ROWS_MAX = 5000
BUCKETS_MAX = 8
"""Names of the vendor's quotas that are remembered."""

FIELDS: Mapping[Kind, str] = {"url": "files", "tag": "tags", "host": "hosts", "prefix": "prefixes"}
EVERYTHING = "*"

MALFORMED_TOKEN = frozenset({6003, 6100, 6101, 6102, 6103, 6111})
AUTHENTICATION = frozenset({10000, 1000})
UNAUTHORIZED = frozenset({9109, 9103})
NO_ROUTE = frozenset({7003, 7000})
BUGS = frozenset({1012, 1014})
NOT_IN_PLAN = 1107
NO_CODES = frozenset[int]()

TOKEN_MENDS = ("give cdn.providers[].config.api_token a new API token", "it needs Zone, Cache Purge, Purge")
ZONE_MENDS = ("zone_id is 32 hex digits, from the zone's page Overview; it is not the domain's name",)

QUERY = f"""query HitRatio($zone: string!, $filter: ZoneHttpRequestsAdaptiveGroupsFilter_InputObject!) {{
  viewer {{ zones(filter: {{zoneTag: $zone}}) {{
    httpRequestsAdaptiveGroups(limit: {ROWS_MAX}, filter: $filter) {{ count dimensions {{ cacheStatus coloCode }} }}
  }} }}
}}"""


def purge(api_url: str, zone_id: str, token: str, kind: Kind, words: Sequence[str], *, soft: bool) -> Request:
    """A hard purge, or a soft one: marked as stale. The body has exactly one key."""
    operation = "invalidate_cache" if soft else "purge_cache"
    body = {"purge_everything": True} if kind == "all" else {FIELDS[kind]: list(words)}
    return Request(
        "POST",
        f"{api_url}/zones/{zone_id}/{operation}",
        _headers(token),
        json.dumps(body, separators=(",", ":")).encode(),
    )


def verify_token(api_url: str, token: str) -> Request:
    """Whether a user's token is active. Of a token that belongs to an account it says that it is invalid."""
    return Request("GET", f"{api_url}/user/tokens/verify", _headers(token))


def read_zone(api_url: str, zone_id: str, token: str) -> Request:
    """The zone with its name and what the token may do with it."""
    return Request("GET", f"{api_url}/zones/{zone_id}", _headers(token))


def read_figures(
    api_url: str, zone_id: str, token: str, since: float, until: float, names: Sequence[str] = ()
) -> Request:
    """Requests by cache status and by data centre, of these host names or of all. Times: seconds since the epoch."""
    span = {"datetime_geq": time_text(since), "datetime_lt": time_text(until)}
    chosen: dict[str, Any] = {**span, "requestSource": "eyeball"}
    if names:
        chosen["clientRequestHTTPHost_in"] = list(names)
    body = {"query": QUERY, "variables": {"zone": zone_id, "filter": chosen}}
    return Request("POST", f"{api_url}/graphql", _headers(token), json.dumps(body).encode())


def _headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Accept": "application/json"}


def judge(
    status: int, headers: Mapping[str, str], body: bytes, now: float = 0.0, secrets: Sequence[str] = ()
) -> Verdict:
    """What became of a purge, by the answer to it.

    Args: headers: by lower-case name. now: seconds since the epoch, for a `Retry-After` that is a date.
    """
    plain = parse(body)
    is_its_own = plain is not None and isinstance(plain.get("success"), bool)
    if plain is not None and is_its_own and plain["success"] and 200 <= status < 300:
        return Verdict("accepted", id=said(text_of(plain.get("result"), "id"), secrets, ID_CHARS_MAX))
    codes, told = _errors(plain, secrets) if plain is not None and is_its_own else (NO_CODES, "")
    usual = judge_status(status, headers, told, now, "Cloudflare", secrets)
    if usual.is_too_large or usual.code in ("cdn-rate-limited", "cdn-busy") or (status < 400 and not is_its_own):
        return usual
    reason = usual.reason
    if status == 401:
        return Verdict("queued", reason=reason, code="cdn-credentials", mend=TOKEN_MENDS, tries_max=TRIES_OF_401_MAX)
    if codes & (MALFORMED_TOKEN | AUTHENTICATION):
        return Verdict("failed", reason=reason, code="cdn-credentials", mend=TOKEN_MENDS)
    if codes & UNAUTHORIZED or status == 403:
        return Verdict("failed", reason=reason, code="cdn-forbidden", mend=TOKEN_MENDS)
    if codes & NO_ROUTE:
        return Verdict("failed", reason=reason, code="cdn-config", mend=ZONE_MENDS)
    if NOT_IN_PLAN in codes:
        mend = ("purge by CID or --doc: URLs are purged with every plan",)
        return Verdict("failed", reason=reason, code="cdn-rejected", mend=mend)
    if status == 404:
        return Verdict("failed", reason=reason, code="cdn-not-found", mend=ZONE_MENDS)
    bug = ("report it: rage sent what the API does not take",)
    return Verdict("failed", reason=reason, code="cdn-rejected", mend=bug if codes & BUGS else ())


def _errors(plain: Mapping[str, Any], secrets: Sequence[str]) -> tuple[frozenset[int], str]:
    """Codes of all errors with those that caused them, and the errors as one line."""
    found = plain.get("errors")
    errors = [error for error in found if isinstance(error, dict)][:10] if isinstance(found, list) else []
    chains = [error["error_chain"] for error in errors if isinstance(error.get("error_chain"), list)]
    causes = [cause for chain in chains for cause in chain[:10] if isinstance(cause, dict)]
    codes = frozenset(error["code"] for error in [*errors, *causes] if isinstance(error.get("code"), int))
    texts = [f"{text_of(error, 'code')} {text_of(error, 'message')}".strip() for error in [*errors, *causes]]
    return codes, said("; ".join(text for text in texts if text) or "no success, and no error told", secrets)


def quota_left(headers: Mapping[str, str]) -> tuple[str, str] | None:
    """The quota's name and what is left of it, as people read it, from `Ratelimit: "name";r=4;t=12`."""
    match = re.match(r'\s*"([^"]{1,64})"\s*;\s*r=(\d{1,9})(?:\s*;\s*t=(\d{1,9}))?', headers.get("ratelimit", ""))
    if match is None:
        return None
    name = said(match[1])
    return name, f"{match[2]} calls of {name}" + (f", all again in {match[3]} s" if match[3] else "")


def judge_figures(status: int, headers: Mapping[str, str], body: bytes, secrets: Sequence[str] = ()) -> Level:
    """Hit ratios by data centre from an answer of GraphQL, whose errors come with status 200 too."""
    plain = parse(body)
    if plain is None or status != 200 or plain.get("errors"):
        _, told = _errors(plain or {}, secrets)
        reason = told if plain is not None else judge_status(status, headers, "", 0.0, "Cloudflare", secrets).reason
        return Level(reason=f"{reason}; the token needs Zone, Analytics, Read for figures")
    tally = Tally()
    try:
        for row in plain["data"]["viewer"]["zones"][0]["httpRequestsAdaptiveGroups"]:
            colo, count = said(str(row["dimensions"]["coloCode"]), chars_max=16) or "all", float(row["count"])
            tally.add(colo, count if str(row["dimensions"]["cacheStatus"]).lower() in HITS else 0.0, count)
    except (KeyError, IndexError, TypeError, ValueError, OverflowError):
        return Level(reason="Cloudflare's figures do not have the form that its API promises")
    return tally.level()


class Cloudflare(Cloud):
    """One zone. See Provider."""

    def __init__(self, config: config_cdn.Provider, web: Web, now: Callable[[], float]) -> None:
        """Nothing is sent. Args: now: seconds since the epoch."""
        assert isinstance(config.config, config_cdn.Cloudflare)
        self._keys = config.config
        super().__init__(config, web, now)
        self._token = self._keys.api_token.reveal()
        self._left = dict[str, str]()
        self._has_tags = config.bucket is None
        self._wrong = refuse_token(self._token, "cdn.providers[].config.api_token")
        if not ZONE_ID.fullmatch(self._keys.zone_id):
            reason = f"{said(self._keys.zone_id, self._secrets, 64)!r} is no zone id"
            self._wrong = Verdict("failed", reason=reason, code="cdn-config", mend=ZONE_MENDS)

    @property
    def _secrets(self) -> Sequence[str]:
        return (self._token,)

    @property
    def abilities(self) -> Abilities:
        """By the zone's plan.

        Without tags where objects come from a bucket, which sends none (R2); and once the API said that the plan has
        none: purges that are planned from then on go by URL.
        """
        plan = self._keys.plan
        urls_max = URLS_MAX_ENTERPRISE if plan == "enterprise" else URLS_MAX
        words_max: dict[Kind, int] = {"url": urls_max, "host": ITEMS_MAX, "prefix": ITEMS_MAX, "all": 1}
        if self._has_tags:
            words_max["tag"] = ITEMS_MAX
        urls, others = ("urls", URLS[plan]), ("calls", CALLS[plan])
        return Abilities(
            words_max,
            soft=frozenset(words_max),
            answer="accepted",
            quotas={kind: urls if kind == "url" else others for kind in words_max},
        )

    def words(self, item: Item) -> Sequence[str]:
        """A URL or a prefix for each public address. Of a prefix with too many `/` one that is shorter: more goes."""
        match item.kind:
            case "all":
                return (EVERYTHING,)
            case "tag":
                return (item.value,) if self._has_tags else ()
            case "host":
                return (item.value.lower(),)
        words = list[str]()
        for url in self._config.public_urls:
            parts = urlsplit(url)
            base = f"{parts.netloc.lower()}{parts.path.rstrip('/')}"
            if item.kind == "url":
                words.append(f"{parts.scheme}://{base}{item.value}")
            else:
                pieces = f"{base}{item.value}".split("/")
                is_short = len(pieces) - 1 <= SEPARATORS_MAX
                words.append("/".join(pieces) if is_short else "/".join([*pieces[:SEPARATORS_MAX], ""]))
        return tuple(dict.fromkeys(words))

    async def purge(self, call: Call) -> Verdict:
        """See Provider."""
        keys = self._keys
        answer = await self._send(purge(keys.api_url, keys.zone_id, self._token, call.kind, call.words, soft=call.soft))
        if isinstance(answer, Verdict):
            return answer
        verdict = judge(answer.status, answer.headers, answer.body, self._now(), self._secrets)
        if call.kind == "tag" and verdict.state == "failed" and NOT_IN_PLAN in _codes(answer.body):
            self._has_tags = False
        return halved(verdict, len(call.words))

    async def _check(self) -> Verdict:
        keys = self._keys
        answer = await self._send(verify_token(keys.api_url, self._token))
        if isinstance(answer, Verdict):
            return answer
        token = judge(answer.status, answer.headers, answer.body, self._now(), self._secrets)
        if token.state == "queued" and token.code != "cdn-credentials":
            return token
        status = text_of((parse(answer.body) or {}).get("result"), "status")
        if token.state == "accepted" and status != "active":
            reason = f"Cloudflare says that the token is {said(status, self._secrets, 40) or 'not known'}"
            return Verdict("failed", reason=reason, code="cdn-credentials", mend=TOKEN_MENDS)
        for _ in range(TRIES_OF_401_MAX):
            answer = await self._send(read_zone(keys.api_url, keys.zone_id, self._token))
            if isinstance(answer, Verdict):
                return answer
            zone = judge(answer.status, answer.headers, answer.body, self._now(), self._secrets)
            if zone.tries_max is None:
                break
        if zone.state == "accepted":
            return judge_zone((parse(answer.body) or {}).get("result"), self._config.public_urls)
        if token.state == "accepted" and zone.code in ("cdn-forbidden", "cdn-credentials"):
            reason = f"the token is good, but not for this zone, or it may not read the zone: {zone.reason}"
            mend = ("give the token Zone, Zone, Read beside Zone, Cache Purge, Purge, for this zone",)
            return Verdict("failed", reason=reason, code="cdn-forbidden", mend=mend)
        return replace(zone, state="failed") if zone.tries_max is not None else zone

    async def level(self, since: float, until: float) -> Level:
        """By data centre; of the public hosts, or of the whole zone where none is configured."""
        names = hosts(self._config.public_urls)
        answer = await self._send(
            read_figures(self._keys.api_url, self._keys.zone_id, self._token, since, until, names)
        )
        left = "; ".join(self._left.values())
        if isinstance(answer, Verdict):
            return Level(quota_left=left, reason=answer.reason)
        level = judge_figures(answer.status, answer.headers, answer.body, self._secrets)
        return replace(level, quota_left=left)

    def _note_quota(self, headers: Mapping[str, str]) -> None:
        left = quota_left(headers)
        if left is not None and (left[0] in self._left or len(self._left) < BUCKETS_MAX):
            self._left[left[0]] = left[1]


def judge_zone(zone: object, public_urls: Sequence[str]) -> Verdict:
    """Whether the token may purge the zone, and whether the public hosts are the zone's: another's purge is nothing."""
    allowed = zone.get("permissions") if isinstance(zone, dict) else None
    if isinstance(allowed, list) and allowed and "#cache_purge:edit" not in allowed:
        reason = "Cloudflare says that the token may read this zone, but not purge it"
        return Verdict("failed", reason=reason, code="cdn-forbidden", mend=TOKEN_MENDS)
    domain = said(text_of(zone, "name"), chars_max=253).lower()

    def is_ours(name: str) -> bool:
        return not domain or name == domain or name.endswith(f".{domain}")

    return judge_hosts(public_urls, is_ours, f"not in the zone {domain}: purges of its URLs", "zone_id")


def _codes(body: bytes) -> frozenset[int]:
    return _errors(parse(body) or {}, ())[0]
