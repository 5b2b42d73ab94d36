"""What the headers of an answer say of the cache that gave it, and when that proves a purge. Pure.

Caches speak dialects: one word in a header of their own, a list of words where caches stand behind each other
(shielding), or the Cache-Status of RFC 9211. `read` makes one word of each; `judge` decides from that word and from
`Age` whether an edge still gives what it had before a purge.

What it proves, it proves for the edge that answered: one place of a cloud's many. Source: cdn-apis 3 to 9; RFC 9111,
5.1; RFC 9211.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

CacheState = Literal["hit", "miss", "stale", "revalidated", "bypass", "unknown"]
"""hit: from the cache, fresh. stale: from the cache, though outdated. revalidated: from the cache, and the origin was
asked whether it still holds. miss: from the origin, and perhaps kept now. bypass: from the origin, never kept."""

LINE_CHARS_MAX = 200
AGE_DIGITS_MAX = 10
"""More is no age: RFC 9111 lets caches stop at 2^31."""
ORIGIN = "rage"
"""As a node names itself in Cache-Status; a cache keeps that word with the object."""
GONE = frozenset({404, 410, 451})
DENIED = frozenset({401, 403})

_WORDS: Mapping[str, CacheState] = {
    "hit": "hit",
    "miss": "miss",
    "expired": "miss",
    "stale": "stale",
    "updating": "stale",
    "revalidated": "revalidated",
    "bypass": "bypass",
    "dynamic": "bypass",
    "pass": "bypass",
    "tcp_hit": "hit",
    "tcp_mem_hit": "hit",
    "tcp_remote_hit": "hit",
    "tcp_miss": "miss",
    "tcp_expired_miss": "miss",
    "tcp_expired_hit": "stale",
    "tcp_refresh_hit": "revalidated",
    "tcp_refresh_miss": "miss",
    "private_nostore": "bypass",
    "config_nocache": "bypass",
    "uncacheable": "bypass",
    "refreshhit": "revalidated",
    "originshieldhit": "hit",
    "lambdageneratedresponse": "bypass",
    "functiongeneratedresponse": "bypass",
    "hit-stale": "stale",
    "hit-clustered": "hit",
    "hit-wait": "hit",
    "miss-clustered": "miss",
    "miss-wait": "miss",
}
"""What each word of each vendor means; a word that is not here says nothing."""

_HEADERS: Mapping[str, Sequence[str]] = {
    "cloudflare": ("cf-cache-status",),
    "fastly": ("x-cache",),
    "cloudfront": ("x-cache",),
    "azure": ("x-cache",),
    "varnish": ("x-cache", "x-cache-status"),
    "nginx": ("x-cache-status", "x-cache"),
}
_ANY = ("cf-cache-status", "x-cache-status", "x-cache")
_SERVED: Sequence[CacheState] = ("stale", "hit", "revalidated")
_MEMBER = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')
_NAME = re.compile(r'\s*(?:"(?:[^"\\]|\\.)*"|[^;"]+)')
_PARAMETER = re.compile(r';\s*([a-z*][a-z0-9_.*-]*)(?:\s*=\s*("(?:[^"\\]|\\.)*"|[^;,\s]*))?')


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an answer says of its cache. `line` is the header that says it, printable and short; "" where none does."""

    state: CacheState
    age_s: float | None = None
    """How long ago the origin gave it, by the cache; None where it does not say."""
    line: str = ""


NOTHING = Evidence("unknown")


@dataclass(frozen=True, slots=True)
class Look:
    """One answer to a request for an object, as far as `judge` needs it."""

    status: int
    evidence: Evidence = NOTHING


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether an edge still gives what it had before the purge. `unproven`: its headers do not tell."""

    state: Literal["gone", "there", "unproven"]
    reason: str


def read(headers: Mapping[str, str], software: str) -> Evidence:
    """What `headers` (names in any case) say of a cache that is `software`, one of `config.cdn.SOFTWARE`.

    A vendor's own header counts before Cache-Status, which an origin may have sent and a cache have kept with the
    object. Headers that contradict themselves or are no words we know say nothing: "unknown".
    """
    by_name = {name.lower(): text for name, text in headers.items()}
    age_s = _age(by_name.get("age", ""))
    for name in _HEADERS.get(software, _ANY):
        text = by_name.get(name)
        if text is not None and (state := _of_words(text)) != "unknown":
            return Evidence(state, age_s, _line(name, text, by_name))
    if (text := by_name.get("cache-status")) is not None and (state := _of_cache_status(text)) != "unknown":
        return Evidence(state, age_s, _line("cache-status", text, by_name))
    named = next((name for name in (*_HEADERS.get(software, _ANY), "cache-status") if name in by_name), "")
    return Evidence("unknown", age_s, _line(named, by_name[named], by_name) if named else _line("", "", by_name))


def judge(after: Look, since_s: float) -> Judgement:
    """Whether the edge that gave `after` still has what was purged `since_s` seconds before it was asked.

    Args: since_s: measured here, so that no two clocks are compared.
    An `Age` below the time since the purge is of an object that came after it, one above it of one that was there
    before; caches round it to whole seconds, so one that is equal proves neither.
    """
    evidence, status = after.evidence, after.status
    if status in GONE:
        return Judgement("gone", f"the answer is {status}")
    if status in DENIED:
        if evidence.state in ("miss", "bypass"):
            return Judgement("gone", f"the answer is {status}")
        return Judgement(
            "unproven", f"the answer is {status}, which may be the edge's own and say nothing of its cache"
        )
    if not 200 <= status < 300:
        return Judgement("unproven", f"the answer is {status}, which says nothing of the cache")
    said = evidence.line or "no header"
    age = _compare(evidence.age_s, since_s)
    if age == "older":
        return Judgement("there", f"it is older than the purge, {since_s:.0f} s ago: {said}")
    if evidence.state == "stale":
        return Judgement("there", f"it is given though outdated: {said}")
    if evidence.state == "miss":
        return Judgement("gone", f"it came from the origin: {said}")
    if evidence.state == "bypass":
        return Judgement("gone", f"this edge does not keep it: {said}")
    if age == "younger":
        return Judgement("gone", f"it came after the purge, {since_s:.0f} s ago: {said}")
    if evidence.state == "revalidated":
        return Judgement("gone", f"the origin was asked: {said}")
    if evidence.state == "hit":
        return Judgement("unproven", f"from the cache, and nothing tells since when: {said}")
    return Judgement("unproven", f"nothing tells whether a cache gave it: {said}")


def _of_words(text: str) -> CacheState:
    """A list of words, a cache each. One that had the object decides: whatever stands before it got it from there."""
    states = [_WORDS.get(part.split(None, 1)[0].lower(), "unknown") for part in text.split(",") if part.strip()]
    for served in _SERVED:
        if served in states:
            return served
    return next((state for state in reversed(states) if state != "unknown"), "unknown")


def _of_cache_status(text: str) -> CacheState:
    """RFC 9211: members, the cache nearest to the origin first. The one of a rage node is the origin's own."""
    states = []
    for member in _MEMBER.findall(text):
        name = _NAME.match(member)
        if name is None or name[0].strip(' "').lower() == ORIGIN:
            continue
        states.append(_of_member(dict(_PARAMETER.findall(member[name.end() :]))))
    for served in _SERVED:
        if served in states:
            return served
    return next((state for state in reversed(states) if state != "unknown"), "unknown")


def _of_member(parameters: Mapping[str, str]) -> CacheState:
    if "hit" in parameters and parameters["hit"] in ("", "?1"):
        if "fwd" in parameters:  # they exclude each other
            return "unknown"
        return "stale" if parameters.get("ttl", "").startswith("-") else "hit"
    fwd = parameters.get("fwd", "")
    if fwd in ("bypass", "method", "request"):
        return "bypass"
    if fwd == "stale" and parameters.get("fwd-status") == "304":
        return "revalidated"
    return "miss" if fwd in ("uri-miss", "vary-miss", "miss", "stale", "partial") else "unknown"


def _age(text: str) -> float | None:
    text = text.strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) <= AGE_DIGITS_MAX else None


def _compare(age_s: float | None, since_s: float) -> Literal["younger", "older", ""]:
    if age_s is None:
        return ""
    if age_s > since_s:
        return "older"
    return "younger" if age_s + 1 < since_s else ""


def _line(name: str, text: str, by_name: Mapping[str, str]) -> str:
    parts = [f"{name}: {text}"] if name else []
    if "age" in by_name:
        parts.append(f"age: {by_name['age']}")
    shown = "".join(char if char.isprintable() else " " for char in ", ".join(parts))
    return shown if len(shown) <= LINE_CHARS_MAX else f"{shown[: LINE_CHARS_MAX - 1]}…"
