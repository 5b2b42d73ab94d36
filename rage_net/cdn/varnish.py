"""Varnish as the edge: purges by URL, tag, prefix, host and all, each done on one instance when it answers.

The rules that `rage cdn render varnish` writes give each object its path as a tag, beside those of the origin. So URLs
and tags go together, as many as a header's line holds, in one PURGE, whatever the host. Varnish counts what went: an
object as often as words of the call name it. Prefixes and hosts are bans on headers that are stored with the object,
which the ban lurker can work off; Varnish does not count these. Every instance is called: none knows of another.
Source: cdn-apis 7; vmod_xkey(3), vmod_std(3), varnishstat(1).
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import quote

from rage_net.cdn import edges
from rage_net.cdn.answers import Request
from rage_net.cdn.provider import Abilities, Call, Item, ItemError, Level, Verdict, check_prefix, check_tag
from rage_net.config import cdn as config_cdn
from rage_net.web import Answer, Web

WORDS_BYTES_MAX = 6000
"""Of one call. Varnish takes 8192 bytes for a header's line."""
TAGS_MAX = 1000
PATTERNS_MAX = 50
"""Prefixes or hosts in one ban: a lookup tries all of them on each older object."""
STATS_S = 5.0
STATS_BYTES_MAX = 1024 * 1024
NO_STATS = "stats_name is not set: the name of an instance on this machine (`varnishd -n`), the only one that is read"
NOTHING = "CHECK:nothing"
"""A tag that no object has: an origin's tags are in lower case."""

ABILITIES = Abilities(
    words_max={"url": TAGS_MAX, "tag": TAGS_MAX, "prefix": PATTERNS_MAX, "host": PATTERNS_MAX, "all": 1},
    soft=frozenset({"url", "tag"}),
    answer="done",
    bytes_max=WORDS_BYTES_MAX,
    mixed=frozenset({"url", "tag"}),
)


def path_tag(path: str) -> str:
    """The tag that the edge itself gives an object: `URL:` and its path, encoded so that no separator is left in it.

    `%2F` in upper case keeps it apart from every tag of an origin, which has none.
    """
    return "URL:" + quote(path, safe="")


def literal(text: str) -> str:
    """A regular expression for just this text. The edge takes no other: no condition can be put into a ban."""
    return re.sub(r"[.+*?()\[\]{}|^$\\]", r"\\\g<0>", text)


def words(item: Item, bases: Sequence[str]) -> tuple[str, ...]:
    """How calls name an item: one word, or one for each path that public addresses begin with. Raises: ItemError."""
    match item.kind:
        case "url":
            named = tuple(path_tag(edges.cached_path(base + item.value)) for base in bases)
        case "tag":
            named = (check_tag(item.value),)
        case "prefix":
            named = tuple(literal(check_prefix(base + item.value)) for base in bases)
        case "host":
            host = item.value.lower().rstrip(".")
            if not re.fullmatch(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?", host):
                raise ItemError("a host is named by letters, digits, - and .")
            named = (literal(host),)
        case "all":
            named = ("*",)
    if any(len(word) >= WORDS_BYTES_MAX for word in named):
        raise ItemError("it is too long for one header of a call")
    return named


def request(call: Call, host: str, token: str) -> Request:
    """The request of one call. Args: host: see `edges.headers_of`."""
    headers = edges.headers_of(host, token)
    match call.kind:
        case "url" | "tag":
            headers["xkey"] = " ".join(call.words)
            if call.soft:
                headers["X-Purge-Soft"] = "1"
            return Request("PURGE", f"{call.edge}/", headers)
        case "prefix":
            headers["X-Ban-Prefix"] = "|".join(call.words)
        case "host":
            headers["X-Ban-Host"] = "|".join(call.words)
        case "all":
            headers["X-Ban-All"] = "1"
    return Request("BAN", f"{call.edge}/", headers)


def judge(call: Call, answer: Answer, now: float, secrets: Sequence[str] = ()) -> Verdict:
    """What an edge's answer means: done with its count, done by a ban (no count), else as `edges` says."""
    if answer.status == 200:
        count = edges.parse_count(answer.headers.get("x-purged"))
        if call.kind in ("url", "tag") and count is not None:
            return Verdict("done", count=count)
        if call.kind not in ("url", "tag") and "x-banned" in answer.headers:
            return Verdict("done")
    return edges.judge_refusal(answer, len(call.words), "Varnish", now, secrets)


class Counters(NamedTuple):
    """What varnishstat counts since the child process began, and for how many seconds that is."""

    hits: int
    misses: int
    uptime_s: int


def parse_counters(text: bytes) -> Counters:
    """Of `varnishstat -1 -j`. Raises: ValueError for anything else."""
    try:
        counted = json.loads(text)["counters"]
        values = [counted[f"MAIN.{name}"]["value"] for name in ("cache_hit", "cache_miss", "uptime")]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("varnishstat gives no counters") from error
    if not all(isinstance(value, int) and value >= 0 for value in values):
        raise ValueError("varnishstat counts something else than numbers")
    return Counters(*values)


def ratio(before: Counters | None, after: Counters) -> float | None:
    """Hits of all lookups since `before`; since the child began when it has begun anew. None without a lookup."""
    began = before if before is not None and all(new >= old for new, old in zip(after, before, strict=True)) else None
    hits = after.hits - (began.hits if began else 0)
    misses = after.misses - (began.misses if began else 0)
    return hits / (hits + misses) if hits + misses else None


class Varnish(edges.SelfHosted):
    """Varnish instances as cdn.yaml names them: all kinds, URLs and tags in one call.

    Args: stats: the program that reads an instance's counters.
    """

    software = "varnish"
    abilities = ABILITIES

    def __init__(
        self, config: config_cdn.Provider, web: Web, now: Callable[[], float], *, stats: str = "varnishstat"
    ) -> None:
        """See `SelfHosted`."""
        super().__init__(config, web, now)
        self._stats = stats
        self._counters: Counters | None = None

    def _words(self, item: Item) -> Sequence[str]:
        return words(item, self._bases)

    def _request(self, call: Call, host: str, token: str) -> Request:
        return request(call, host, token)

    def _judge(self, call: Call, answer: Answer) -> Verdict:
        return judge(call, answer, self._now(), self._secrets)

    def _nothing(self, edge: str) -> Call:
        return Call(edge, "tag", (NOTHING,), soft=False, reference="")

    async def level(self, since: float, until: float) -> Level:
        """Hits of lookups since the last call, or since the instance began: Varnish counts, and keeps no history."""
        if self._keys.stats_name is None:
            return Level(reason=NO_STATS, is_fault=False)
        try:
            counters = parse_counters(await _read_stats(self._stats, self._keys.stats_name))
        except (OSError, ValueError, TimeoutError) as error:
            return Level(reason=f"{self._stats} -n {self._keys.stats_name}: {str(error) or 'no answer in time'}")
        before, self._counters = self._counters, counters
        share = ratio(before, counters)
        if share is None:
            return Level(reason="nothing was asked for since", is_fault=False)
        return Level(hit_ratio={"all": share})


async def _read_stats(program: str, name: str) -> bytes:
    """What varnishstat prints. Raises: OSError, ValueError, TimeoutError."""
    process = await asyncio.create_subprocess_exec(
        *(program, "-1", "-j", "-t", "1", "-n", name),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=STATS_BYTES_MAX,
    )
    assert process.stdout is not None
    parts, size = [], 0
    try:
        async with asyncio.timeout(STATS_S):
            while part := await process.stdout.read(65536):
                size += len(part)
                if size > STATS_BYTES_MAX:
                    raise ValueError("it prints too much")
                parts.append(part)
            code = await process.wait()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if code != 0:
        raise ValueError(f"it ends with {code}: no such instance, or it may not be read")
    return b"".join(parts)
