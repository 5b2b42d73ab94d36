"""Fastly: its purge, checks and figures as requests and verdicts, and a thin client.

A good answer means that the purge was accepted, for unknown keys too. Words: a key (the vendor's word for a tag), also
for a URL under which the origin answers with a key of its own; `host/path` for any other URL; `*` for everything.

URLs go by key where they can: 256 keys go in one call against one URL, and purges of URLs through the API are reported
to fail where an account has several services (404, "Cannot find service").

Source: cdn-apis 4; the documents of `fastly/fastly-py` (PurgeApi, TokensApi, RealtimeApi, HistoricalApi).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlsplit

from rage_net.cdn.answers import (
    ID_CHARS_MAX,
    Request,
    exchange,
    halved,
    judge_status,
    parse,
    refuse_token,
    said,
    text_of,
)
from rage_net.cdn.cloud import Cloud, Tally, judge_hosts
from rage_net.cdn.provider import Abilities, Call, Item, Kind, Level, Quota, Verdict
from rage_net.config import cdn as config_cdn
from rage_net.web import Web

KEYS_MAX = 256
"""Keys in one call."""
KEYS = Quota(80_000 / 3600, 20_000, "words")
"""Keys and URLs: so many that no hour sees more than the 100,000 which a customer has, on average."""
EVERYTHING = Quota(900 / 3600, 100)
"""Purges of everything count as writes, 1,000 an hour and user."""
REALTIME_S = 120.0
"""How far back the figures in real time go."""
REALTIME_BYTES_MAX = 8 * 1024 * 1024
"""Of them: a second has a row for each data centre. Where there is more, the historical figures tell, all in one."""
MINUTES_S_MAX, HOURS_S_MAX = 2 * 3600.0, 7 * 86_400.0
"""Spans of which the historical figures are asked by the minute, by the hour; longer ones by the day."""
RESET_S_MAX = 3600.0
SERVICE_ID = re.compile("[A-Za-z0-9]{1,64}")
KEY = re.compile("cid:[a-z0-9]{8,128}")
KEYED_PATH = re.compile(r"/(?:chunks|ipfs)/([a-z0-9]{8,128})(?:[/?].*)?")

TOKEN_MENDS = ("give cdn.providers[].config.api_key a new API token", "it needs the scope purge_select, or global")
SERVICE_MENDS = ("see cdn.providers[].config.service_id: it is on the service's page",)


def key_of(path: str) -> str | None:
    """The key that the origin gives to what it answers at a path: `cid:<cid>` below /chunks/ and /ipfs/; else None."""
    match = KEYED_PATH.fullmatch(path)
    return f"cid:{match[1]}" if match is not None else None


def purge_keys(api_url: str, service_id: str, token: str, keys: Sequence[str], *, soft: bool) -> Request:
    """Everything that has one of these keys; at most KEYS_MAX of them. One key alone goes in the path."""
    if len(keys) == 1:
        url = f"{api_url}/service/{quote(service_id, safe='')}/purge/{quote(keys[0], safe=':')}"
        return Request("POST", url, _headers(token, soft=soft))
    url = f"{api_url}/service/{quote(service_id, safe='')}/purge"
    headers = {**_headers(token, soft=soft), "Content-Type": "application/json"}
    return Request("POST", url, headers, json.dumps({"surrogate_keys": list(keys)}, separators=(",", ":")).encode())


def purge_url(api_url: str, token: str, host_and_path: str, *, soft: bool) -> Request:
    """What is at one URL, which is given without its scheme. What is percent-encoded in it stays so."""
    return Request("POST", f"{api_url}/purge/{quote(host_and_path, safe='/:%')}", _headers(token, soft=soft))


def purge_all(api_url: str, service_id: str, token: str) -> Request:
    """Everything; never soft."""
    return Request("POST", f"{api_url}/service/{quote(service_id, safe='')}/purge_all", _headers(token, soft=False))


def read_token(api_url: str, token: str) -> Request:
    """The token's own scope and services."""
    return Request("GET", f"{api_url}/tokens/self", _headers(token, soft=False))


def read_service(api_url: str, service_id: str, token: str) -> Request:
    """The service."""
    return Request("GET", f"{api_url}/service/{quote(service_id, safe='')}", _headers(token, soft=False))


def read_domains(api_url: str, service_id: str, token: str) -> Request:
    """Host names of the service's active version."""
    return Request("GET", f"{api_url}/service/{quote(service_id, safe='')}/domain", _headers(token, soft=False))


def read_realtime(stats_url: str, service_id: str, token: str) -> Request:
    """Figures of the last 120 s, by the second and by data centre."""
    url = f"{stats_url}/v1/channel/{quote(service_id, safe='')}/ts/h"
    return Request("GET", url, _headers(token, soft=False))


def read_history(api_url: str, service_id: str, token: str, since: float, until: float) -> Request:
    """Figures by the minute, hour or day, as the span is. Times: seconds since the epoch."""
    span = until - since
    by = "minute" if span <= MINUTES_S_MAX else "hour" if span <= HOURS_S_MAX else "day"
    url = f"{api_url}/stats/service/{quote(service_id, safe='')}?from={since:.0f}&to={until:.0f}&by={by}"
    return Request("GET", url, _headers(token, soft=False))


def _headers(token: str, *, soft: bool) -> dict[str, str]:
    headers = {"Fastly-Key": token, "Accept": "application/json"}
    return {**headers, "Fastly-Soft-Purge": "1"} if soft else headers


def judge(
    status: int, headers: Mapping[str, str], body: bytes, now: float = 0.0, secrets: Sequence[str] = ()
) -> Verdict:
    """What became of a purge, by the answer to it: of one key or URL, of many, of everything.

    Args: headers: by lower-case name. now: seconds since the epoch, for the time at which a quota is full again.
    """
    plain = parse(body)
    if status == 200 and plain is not None:
        return _accepted(plain, secrets)
    told = "" if plain is None else said(_told(plain), secrets)
    usual = judge_status(status, headers, told, now, "Fastly", secrets)
    match usual.code:
        case "cdn-rate-limited":
            after = usual.retry_after_s if usual.retry_after_s is not None else reset_s(headers, now)
            return Verdict("queued", reason=usual.reason, code=usual.code, retry_after_s=after)
        case "cdn-credentials" | "cdn-forbidden":
            return Verdict("failed", reason=usual.reason, code=usual.code, mend=TOKEN_MENDS)
        case "cdn-not-found":
            mend = (*SERVICE_MENDS, "a URL has one service: see public_urls, and purge by --tag or --doc")
            return Verdict("failed", reason=usual.reason, code=usual.code, mend=mend)
        case "cdn-rejected" if status == 400 and is_bad_request(told):
            return Verdict("queued", reason=usual.reason, code=usual.code, is_too_large=True)
    return usual


def is_bad_request(told: str) -> bool:
    """Whether a 400 is the one for too many keys, or a key too long: in halves, down to the word that is refused."""
    return told.lower().startswith("bad request")


def _accepted(plain: Mapping[str, Any], secrets: Sequence[str]) -> Verdict:
    """Of one: `{"status": "ok", "id": ..}`; of many a flat map of key to id."""
    if "status" in plain and plain["status"] != "ok":
        reason = f"Fastly answers 200, but with the status {said(str(plain['status']), secrets, 60)}"
        return Verdict("failed", reason=reason, code="cdn-rejected")
    if not all(isinstance(value, str) for value in plain.values()) or not plain:
        return Verdict("queued", reason="Fastly answers 200 with JSON that is no purge's answer", code="cdn-answer")
    id = plain.get("id", "") if "status" in plain else next(iter(plain.values()))
    return Verdict("accepted", id=said(id, secrets, ID_CHARS_MAX))


def _told(plain: Mapping[str, Any]) -> str:
    parts = (text_of(plain, "msg", "message", "title", "error"), text_of(plain, "details", "detail"))
    return ": ".join(part for part in parts if part)


def reset_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds until the quota is full again, from `Fastly-RateLimit-Reset`, which is a time since the epoch."""
    text = headers.get("fastly-ratelimit-reset", "").strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        return None
    return min(max(0.0, float(text) - now), RESET_S_MAX)


def quota_left(headers: Mapping[str, str]) -> str:
    """What is left of the hour's writes, as people read it; empty where the answer does not say."""
    text = headers.get("fastly-ratelimit-remaining", "").strip()
    return f"{text} writes in this hour" if text.isascii() and text.isdigit() and len(text) <= 9 else ""


def judge_token(token: object, service_id: str) -> Verdict:
    """Whether a token's scope and services let it purge this service by key."""
    scopes = set(text_of(token, "scope").split())
    services = token.get("services") if isinstance(token, dict) else None
    if scopes and not scopes & {"global", "purge_select"}:
        reason = f"the token's scope is {said(' '.join(sorted(scopes)), (), 60)}: it may not purge by key or URL"
        return Verdict("failed", reason=reason, code="cdn-forbidden", mend=TOKEN_MENDS)
    if isinstance(services, list) and services and service_id not in services:
        reason = "the token is for other services than this one"
        return Verdict("failed", reason=reason, code="cdn-forbidden", mend=(*TOKEN_MENDS, *SERVICE_MENDS))
    return Verdict("done")


def judge_domains(domains: object, public_urls: Sequence[str]) -> Verdict:
    """Whether each public host is one of the service's; `*.example.org` stands for one label."""
    found = [text_of(domain, "name").lower() for domain in domains] if isinstance(domains, list) else []

    def is_ours(name: str) -> bool:
        wildcard = f"*.{name.partition('.')[2]}"
        return not found or name in found or wildcard in found

    return judge_hosts(public_urls, is_ours, "none of the service's: purges of its URLs", "service_id")


def judge_realtime(status: int, body: bytes, since: float, until: float) -> Level:
    """Hit ratios by data centre from the figures in real time: hits of hits and misses."""
    plain = parse(body) if status == 200 else None
    rows = plain.get("Data") if plain is not None else None
    if not isinstance(rows, list):
        return Level(reason=f"Fastly's figures in real time: {status}, without the form that its API promises")
    tally = Tally()
    try:
        for row in rows:
            if not since <= float(row["recorded"]) < until:
                continue
            for centre, figures in row["datacenter"].items():
                _add(tally, said(centre, (), 16) or "all", figures)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return Level(reason="Fastly's figures in real time do not have the form that its API promises")
    return tally.level()


def judge_history(status: int, body: bytes) -> Level:
    """The hit ratio of all regions from the historical figures."""
    plain = parse(body) if status == 200 else None
    rows = plain.get("data") if plain is not None else None
    if not isinstance(rows, list):
        return Level(
            reason=f"Fastly's figures: {status}, without the form that its API promises; global:read is needed"
        )
    tally = Tally()
    try:
        for row in rows:
            _add(tally, "all", row)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return Level(reason="Fastly's figures do not have the form that its API promises")
    return tally.level()


def _add(tally: Tally, region: str, figures: Mapping[str, Any]) -> None:
    hits, misses = float(figures.get("hits") or 0), float(figures.get("miss") or 0)
    tally.add(region, hits, hits + misses)


class Fastly(Cloud):
    """One service. See Provider."""

    def __init__(self, config: config_cdn.Provider, web: Web, now: Callable[[], float]) -> None:
        """Nothing is sent. Args: now: seconds since the epoch."""
        assert isinstance(config.config, config_cdn.Fastly)
        self._keys = config.config
        super().__init__(config, web, now)
        self._token = self._keys.api_key.reveal()
        self._left = ""
        self._has_keys = config.bucket is None
        self._wrong = refuse_token(self._token, "cdn.providers[].config.api_key")
        if not SERVICE_ID.fullmatch(self._keys.service_id):
            reason = f"{said(self._keys.service_id, self._secrets, 64)!r} is no service id: it has letters and digits"
            self._wrong = Verdict("failed", reason=reason, code="cdn-config", mend=SERVICE_MENDS)

    @property
    def _secrets(self) -> Sequence[str]:
        return (self._token,)

    @property
    def abilities(self) -> Abilities:
        """Keys, URLs by their keys, everything; nothing by prefix or host: these are tags that objects must have.

        Objects from a bucket have no keys: their URLs go one by one.
        """
        words_max: dict[Kind, int] = {"url": KEYS_MAX if self._has_keys else 1, "all": 1}
        if self._has_keys:
            words_max["tag"] = KEYS_MAX
        return Abilities(
            words_max,
            soft=frozenset(words_max.keys() - {"all"}),
            answer="accepted",
            quotas={kind: ("everything", EVERYTHING) if kind == "all" else ("keys", KEYS) for kind in words_max},
        )

    def words(self, item: Item) -> Sequence[str]:
        """A key for a tag and for what has one of its own; `host/path` for each public address for any other URL."""
        match item.kind:
            case "all":
                return ("*",)
            case "tag":
                return (item.value,) if self._has_keys else ()
            case "url":
                key = key_of(item.value) if self._has_keys else None
                if key is not None:
                    return (key,)
                places = (urlsplit(url) for url in self._config.public_urls)
                words = (f"{it.netloc.lower()}{it.path.rstrip('/')}{item.value}" for it in places)
                return tuple(dict.fromkeys(words))
        return ()

    async def purge(self, call: Call) -> Verdict:
        """See Provider. A URL without a key goes alone: a call that has one among others asks to be halved."""
        if self._wrong is not None:
            return self._wrong
        keys = self._keys
        has_url = call.kind == "url" and any(is_url(word) for word in call.words)
        if call.kind == "all":
            request = purge_all(keys.api_url, keys.service_id, self._token)
        elif has_url and len(call.words) > 1:
            return Verdict("queued", reason="one URL goes in one call", code="cdn-rejected", is_too_large=True)
        elif has_url:
            request = purge_url(keys.api_url, self._token, call.words[0], soft=call.soft)
        else:
            request = purge_keys(keys.api_url, keys.service_id, self._token, call.words, soft=call.soft)
        answer = await self._send(request)
        if isinstance(answer, Verdict):
            return answer
        verdict = judge(answer.status, answer.headers, answer.body, self._now(), self._secrets)
        return halved(verdict, len(call.words))

    async def _check(self) -> Verdict:
        keys = self._keys
        found = await self._read(read_token(keys.api_url, self._token))
        if isinstance(found, Verdict):
            return found
        verdict = judge_token(found, keys.service_id)
        if verdict.state != "done":
            return verdict
        service = await self._read(read_service(keys.api_url, keys.service_id, self._token))
        if isinstance(service, Verdict):
            # A token that may only purge may not read the service either: then its own scope is all that can be known.
            return Verdict("done") if service.code == "cdn-forbidden" and text_of(found, "scope") else service
        domains = await self._read(read_domains(keys.api_url, keys.service_id, self._token))
        if isinstance(domains, Verdict):
            return Verdict("done") if domains.code == "cdn-forbidden" else domains
        return judge_domains(domains, self._config.public_urls)

    async def _read(self, request: Request) -> object:
        """What the API tells, as JSON; or the verdict that it does not."""
        answer = await self._send(request)
        if isinstance(answer, Verdict):
            return answer
        if answer.status == 200:
            try:
                plain = json.loads(answer.body)
            except (ValueError, RecursionError):
                plain = None
            if isinstance(plain, dict | list):
                return plain
        return judge(
            answer.status, answer.headers, b"" if answer.status == 200 else answer.body, self._now(), self._secrets
        )

    async def level(self, since: float, until: float) -> Level:
        """By data centre for the last two minutes, else of all together."""
        if self._wrong is not None:
            return Level(reason=self._wrong.reason)
        keys = self._keys
        if since >= self._now() - REALTIME_S:
            request = read_realtime(keys.stats_url, keys.service_id, self._token)
            answer = await exchange(self._web, request, self._secrets, bytes_max=REALTIME_BYTES_MAX)
            if not isinstance(answer, Verdict):
                level = judge_realtime(answer.status, answer.body, since, until)
                if level.hit_ratio:
                    return replace(level, quota_left=self._left)
        answer = await self._send(read_history(keys.api_url, keys.service_id, self._token, since, until))
        if isinstance(answer, Verdict):
            return Level(quota_left=self._left, reason=answer.reason)
        level = judge_history(answer.status, answer.body)
        return replace(level, quota_left=self._left)

    def _note_quota(self, headers: Mapping[str, str]) -> None:
        self._left = quota_left(headers) or self._left


def is_url(word: str) -> bool:
    """Whether the word of a URL is `host/path`, rather than the key of what is there."""
    return KEY.fullmatch(word) is None
