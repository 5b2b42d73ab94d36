"""What caches say of themselves, in every dialect, and what proves a purge."""

from __future__ import annotations

import random

import pytest

from rage_net.cdn.evidence import LINE_CHARS_MAX, CacheState, Evidence, Look, judge, read

DIALECTS: list[tuple[str, dict[str, str], CacheState, float | None]] = [
    ("cloudflare", {"CF-Cache-Status": "HIT", "Age": "12"}, "hit", 12),
    ("cloudflare", {"CF-Cache-Status": "MISS"}, "miss", None),
    ("cloudflare", {"CF-Cache-Status": "EXPIRED"}, "miss", None),
    ("cloudflare", {"CF-Cache-Status": "STALE", "Age": "90"}, "stale", 90),
    ("cloudflare", {"CF-Cache-Status": "UPDATING"}, "stale", None),
    ("cloudflare", {"CF-Cache-Status": "REVALIDATED"}, "revalidated", None),
    ("cloudflare", {"CF-Cache-Status": "BYPASS"}, "bypass", None),
    ("cloudflare", {"CF-Cache-Status": "DYNAMIC"}, "bypass", None),
    ("cloudflare", {"CF-Cache-Status": "NONE/UNKNOWN"}, "unknown", None),
    ("fastly", {"X-Cache": "HIT", "Age": "0"}, "hit", 0),
    ("fastly", {"X-Cache": "MISS"}, "miss", None),
    ("fastly", {"X-Cache": "MISS, MISS"}, "miss", None),
    ("fastly", {"X-Cache": "HIT, MISS", "Age": "40"}, "hit", 40),  # the shield had it, the edge got it from there
    ("fastly", {"X-Cache": "MISS, HIT"}, "hit", None),
    ("fastly", {"X-Cache": "PASS"}, "bypass", None),
    ("cloudfront", {"X-Cache": "Hit from cloudfront", "Age": "5"}, "hit", 5),
    ("cloudfront", {"X-Cache": "Miss from cloudfront"}, "miss", None),
    ("cloudfront", {"X-Cache": "RefreshHit from cloudfront"}, "revalidated", None),
    ("cloudfront", {"X-Cache": "OriginShieldHit from cloudfront"}, "hit", None),
    ("cloudfront", {"X-Cache": "Error from cloudfront"}, "unknown", None),
    ("azure", {"X-Cache": "TCP_HIT"}, "hit", None),
    ("azure", {"X-Cache": "TCP_REMOTE_HIT"}, "hit", None),
    ("azure", {"X-Cache": "TCP_MISS"}, "miss", None),
    ("azure", {"X-Cache": "PRIVATE_NOSTORE"}, "bypass", None),
    ("azure", {"X-Cache": "CONFIG_NOCACHE"}, "bypass", None),
    ("azure", {"X-Cache": "N/A"}, "unknown", None),
    ("varnish", {"X-Cache": "HIT", "Age": "7"}, "hit", 7),
    ("varnish", {"X-Cache": "MISS", "Age": "0"}, "miss", 0),
    ("nginx", {"X-Cache-Status": "HIT"}, "hit", None),
    ("nginx", {"X-Cache-Status": "MISS"}, "miss", None),
    ("nginx", {"X-Cache-Status": "EXPIRED"}, "miss", None),
    ("nginx", {"X-Cache-Status": "STALE"}, "stale", None),
    ("nginx", {"X-Cache-Status": "UPDATING"}, "stale", None),
    ("nginx", {"X-Cache-Status": "REVALIDATED"}, "revalidated", None),
    ("nginx", {"X-Cache-Status": "BYPASS"}, "bypass", None),
    ("http", {"Cache-Status": "edge; hit; ttl=30"}, "hit", None),
    ("http", {"Cache-Status": "edge; hit; ttl=-30"}, "stale", None),
    ("http", {"Cache-Status": '"Edge, of ours; hit"; fwd=uri-miss; stored'}, "miss", None),
    ("http", {"Cache-Status": "edge; fwd=stale; fwd-status=304"}, "revalidated", None),
    ("http", {"Cache-Status": "edge; fwd=stale; fwd-status=200"}, "miss", None),
    ("http", {"Cache-Status": "edge; fwd=bypass"}, "bypass", None),
    ("http", {"Cache-Status": "edge; fwd=request"}, "bypass", None),
    ("http", {"Cache-Status": "edge; hit; fwd=miss"}, "unknown", None),  # they exclude each other
    ("http", {"Cache-Status": "shield; hit, edge; fwd=uri-miss"}, "hit", None),
    ("http", {"Cache-Status": "rage; hit"}, "unknown", None),  # the origin's own, kept with the object
    ("http", {"Cache-Status": "rage; hit, rage-edge; fwd=uri-miss"}, "miss", None),
    ("varnish", {"X-Cache": "MISS", "Cache-Status": "inner; hit"}, "miss", None),
    ("http", {"X-Cache": "HIT"}, "hit", None),
    ("http", {}, "unknown", None),
    ("nginx", {"X-Cache-Status": "", "Age": "9"}, "unknown", 9),
]


@pytest.mark.parametrize(("software", "headers", "state", "age_s"), DIALECTS)
def test_each_dialect_is_read(software: str, headers: dict[str, str], state: CacheState, age_s: float | None) -> None:
    found = read(headers, software)
    assert (found.state, found.age_s) == (state, age_s)
    assert read({name.lower(): text.upper() for name, text in headers.items()}, software).age_s == age_s


def test_the_line_shows_the_header_that_was_read() -> None:
    assert read({"X-Cache": "HIT, MISS", "Age": "3"}, "fastly").line == "x-cache: HIT, MISS, age: 3"
    assert read({}, "fastly").line == ""


@pytest.mark.parametrize("age", ["", "-1", "1.5", "soon", "9" * 40, "٣"])
def test_an_age_that_is_none_says_nothing(age: str) -> None:
    assert read({"Age": age, "X-Cache": "HIT"}, "varnish").age_s is None


def test_strange_headers_neither_fail_nor_grow(rng: random.Random) -> None:
    letters = 'ab;=",\\ \x00\x1b[31mé\u2028hitfwd?-'
    for _ in range(500):
        text = "".join(rng.choice(letters) for _ in range(rng.randrange(400)))
        for software in ("cloudflare", "fastly", "http"):
            found = read({"cf-cache-status": text, "x-cache": text, "cache-status": text, "age": text}, software)
            assert len(found.line) <= LINE_CHARS_MAX and found.line.isprintable()


def look(status: int, state: CacheState, age_s: float | None = None) -> Look:
    return Look(status, Evidence(state, age_s, "x"))


@pytest.mark.parametrize(
    ("after", "gone"),
    [
        (look(404, "unknown"), True),
        (look(410, "hit", 99), True),
        (look(403, "miss"), True),
        (look(403, "unknown"), None),  # a wall before the cache says nothing of it
        (look(503, "miss"), None),
        (look(302, "unknown"), None),
        (look(200, "miss"), True),
        (look(200, "miss", 0), True),
        (look(200, "miss", 500), False),  # a cache behind the edge gave an old one
        (look(200, "bypass"), True),
        (look(200, "revalidated", 0), True),
        (look(200, "revalidated"), True),
        (look(200, "revalidated", 500), False),
        (look(200, "stale"), False),
        (look(200, "hit", 3), True),
        (look(200, "hit", 500), False),
        (look(200, "hit", 60), None),  # whole seconds: it may have come a moment before or after
        (look(200, "hit"), None),
        (look(200, "unknown"), None),
        (look(200, "unknown", 500), False),
        (look(200, "unknown", 3), True),
    ],
)
def test_what_proves_and_disproves_a_purge_of_a_minute_ago(after: Look, gone: bool | None) -> None:
    found = judge(after, 60.4)
    assert found.state == {True: "gone", False: "there", None: "unproven"}[gone] and found.reason


def test_right_after_a_purge_a_hit_proves_nothing() -> None:
    assert judge(look(200, "hit", 0), 0.5).state == "unproven"
    assert judge(look(200, "hit", 0), 1.5).state == "gone"
