"""What caches are told: rules and clamps, the headers of each kind of cache, and tags that every CDN takes."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rage_net.cdn.policy import (
    AGE_S_MAX,
    ALL,
    MANY_DOCUMENTS,
    MANY_WORDS,
    NO_STORE,
    PERMANENT_AGE_S,
    TAGS_BYTES_MAX,
    Edges,
    edges_of,
    headers_for,
    matches,
    paths_of,
    rule_for,
    tag_for_cid,
    tag_for_document,
    tag_for_word,
    tags_of,
)
from rage_net.cdn.provider import TAGS_MAX, check_tag
from rage_net.cid import DAG_CBOR, Cid
from rage_net.config.cdn import CachePolicy, CacheRule, Cdn, Edge, Fastly, Provider
from rage_net.config.values import Name, Seconds, Secret, Url

CID = Cid.of(b"chunk")
CHUNK = f"/chunks/{CID}"
DEFAULT = CachePolicy()
DOC = "abcdefghijklmnopqrstuvwxyz"


def rule(pattern: str, ttl: float | None = None, **more: object) -> CacheRule:
    return CacheRule(pattern=pattern, ttl=None if ttl is None else Seconds(ttl), **more)  # type: ignore[arg-type]


def policy(*rules: CacheRule, default: float = 3600, most: float = 86_400) -> CachePolicy:
    return CachePolicy(default_ttl=Seconds(default), max_ttl=Seconds(most), rules=rules)


def directives(value: str) -> dict[str, str]:
    return dict((part.strip() + "=").split("=")[:2] for part in value.split(","))  # type: ignore[misc]


# --- rules ---


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("/chunks/*", "/chunks/x", True),
        ("/chunks/*", "/chunks/", True),
        ("/chunks/*", "/chunks", False),
        ("/chunks/*", "/ipfs/chunks/x", False),
        ("*", "", True),
        ("*", "/any/thing\n", True),
        ("/a", "/a", True),
        ("/a", "/ab", False),
        ("/a*b", "/ab", True),
        ("/a*a", "/a", False),
        ("/*/x/*", "/1/x/2/x/3", True),
        ("/*.bin", "/a.bin.bin", True),
        ("/a**b", "/a-b", True),
        ("/a.c", "/abc", False),
        ("/*ab*ab", "/ab", False),
    ],
)
def test_a_star_is_any_text_and_everything_else_is_itself(pattern: str, path: str, fits: bool) -> None:
    assert matches(pattern, path) is fits


@given(pattern=st.text("/*ab.", max_size=8), path=st.text("/ab.", max_size=10))
def test_a_pattern_fits_as_the_regular_expression_would_say(pattern: str, path: str) -> None:
    wanted = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), path, re.DOTALL)
    assert matches(pattern, path) is (wanted is not None)


def test_a_pattern_of_many_stars_costs_no_more_than_its_length() -> None:
    began = time.perf_counter()
    assert not matches("/" + "*a" * 2000 + "*b*c", "/" + "a" * 8000)
    assert time.perf_counter() - began < 1


def test_the_first_rule_that_matches_counts_and_the_defaults_hold_elsewhere() -> None:
    rules = policy(rule("/chunks/b*", 10), rule("/chunks/*", 20), rule("/api/*", cache=False))
    assert [rule_for(rules, path).ttl_s for path in ("/chunks/b", "/chunks/c", "/api/x", "/x")] == [10, 20, 0, 3600]
    assert rule_for(rules, "/x").rule is None
    assert rule_for(policy(rule("/a", most := None)), "/a").ttl_s == 3600 and most is None
    found = rule_for(DEFAULT, "/embeddings/x")
    assert (found.ttl_s, found.is_immutable, found.is_stored) == (7200, True, True)
    assert rule_for(DEFAULT, CHUNK).stale_s == 3600


@given(ttl=st.none() | st.floats(0, 1e9), default=st.floats(0, 1e9), most=st.floats(0, 1e9), stale=st.floats(0, 1e9))
def test_no_cache_is_told_more_than_max_ttl_nor_a_browser_more_than_a_minute(
    ttl: float | None, default: float, most: float, stale: float
) -> None:
    rules = policy(rule("/c/*", ttl, stale_while_revalidate=Seconds(stale)), default=default, most=most)
    found = rule_for(rules, "/c/x")
    assert 0 <= found.ttl_s <= most and 0 <= found.stale_s <= most
    sent = headers_for(rules, "/c/x")
    if not found.is_stored:
        assert sent == NO_STORE
        return
    told = directives(sent["Cache-Control"])
    assert int(told["max-age"]) <= min(AGE_S_MAX, most)
    assert int(told["s-maxage"]) == int(sent["X-Accel-Expires"]) == found.ttl_s
    for name in ("CDN-Cache-Control", "Surrogate-Control"):
        assert int(directives(sent[name])["max-age"]) == found.ttl_s
    assert "stale-while-revalidate" not in told, "browsers would show for an hour what was revoked"
    assert "immutable" not in sent["Cache-Control"]


# --- headers ---


def test_a_public_chunk_is_kept_by_edges_for_long_and_by_browsers_for_a_minute() -> None:
    assert headers_for(DEFAULT, CHUNK, tags=("rage", "cid:x")) == {
        "Cache-Control": "public, max-age=60, s-maxage=86400",
        "CDN-Cache-Control": "max-age=86400, stale-while-revalidate=3600",
        "Surrogate-Control": "max-age=86400, stale-while-revalidate=3600",
        "X-Accel-Expires": "86400",
        "Cache-Tag": "rage,cid:x",
        "Surrogate-Key": "rage cid:x",
        "xkey": "rage cid:x",
        "x-amz-meta-cache-tag": "rage,cid:x",
    }


def test_where_every_cdn_has_its_own_header_no_other_shared_cache_is_told_to_keep_anything_for_long() -> None:
    sent = headers_for(DEFAULT, CHUNK, tags=("rage",), edges="targeted")
    assert sent["Cache-Control"] == "public, max-age=60"
    assert sent["CDN-Cache-Control"].startswith("max-age=86400")


def test_without_a_cdn_nobody_keeps_longer_than_a_minute_and_no_tag_is_told() -> None:
    assert headers_for(DEFAULT, CHUNK, tags=("rage",), edges="none") == {"Cache-Control": "public, max-age=60"}


@pytest.mark.parametrize("edges", ["none", "targeted", "plain"])
def test_a_permanent_document_is_immutable_and_kept_for_long_by_everybody(edges: Edges) -> None:
    sent = headers_for(DEFAULT, CHUNK, tags=("rage",), is_permanent=True, edges=edges)
    assert sent["Cache-Control"] == f"public, max-age={PERMANENT_AGE_S}, immutable"
    assert "CDN-Cache-Control" not in sent
    assert ("xkey" in sent) is (edges != "none")


@pytest.mark.parametrize("is_permanent", [False, True])
def test_what_is_not_for_all_or_must_not_be_kept_is_in_no_cache_and_names_no_tag(is_permanent: bool) -> None:
    for sent in (
        headers_for(DEFAULT, CHUNK, tags=("rage",), is_permanent=is_permanent, is_public=False),
        headers_for(DEFAULT, "/api/x", tags=("rage",), is_permanent=is_permanent),
        headers_for(policy(rule("/chunks/*", 0)), CHUNK, tags=("rage",), is_permanent=is_permanent),
        headers_for(policy(rule("/chunks/*", 9, cache=False)), CHUNK, tags=("rage",), is_permanent=is_permanent),
    ):
        assert set(sent) == set(NO_STORE)
        assert all("no-store" in value and "max-age" not in value for value in sent.values())
    assert headers_for(DEFAULT, CHUNK, is_public=False)["Cache-Control"] == "private, no-store"


@pytest.mark.parametrize("is_permanent", [False, True])
def test_an_answer_that_a_purge_would_not_meet_is_kept_by_browsers_alone(is_permanent: bool) -> None:
    sent = headers_for(DEFAULT, CHUNK, tags=("rage",), is_permanent=is_permanent, is_shared=False)
    assert sent["Cache-Control"].startswith("private, max-age=")
    assert sent["CDN-Cache-Control"] == sent["Surrogate-Control"] == "no-store"
    assert "xkey" not in sent and "X-Accel-Expires" not in sent


def provider(software: str) -> Provider:
    config = Fastly(service_id="s", api_key=Secret("k")) if software == "fastly" else Edge(endpoints=(Url("http://e"),))
    kind = "commercial" if software == "fastly" else "self-hosted"
    return Provider(name=Name(software), type=kind, software=software, config=config)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("software", "edges"),
    [((), "none"), (("fastly",), "targeted"), (("fastly", "nginx"), "targeted"), (("nginx", "varnish"), "plain")],
)
def test_the_configured_cdns_say_which_headers_are_needed(software: tuple[str, ...], edges: str) -> None:
    cdn = Cdn(providers=tuple(map(provider, software)))
    assert edges_of(cdn) == edges
    assert edges_of(cdn.replace(enabled=False)) == "none"


# --- tags ---


def test_a_purge_by_url_names_every_path_under_which_a_cache_may_keep_a_block() -> None:
    assert paths_of(CID) == (CHUNK, f"/ipfs/{CID}?format=raw", f"/ipfs/{CID}?format=car")


@pytest.mark.parametrize(
    ("word", "tag"),
    [("news", "tag:news"), ("2026/q1", "tag:2026/q1"), ("a:b", "tag:a:b"), ("x" * 252, "tag:" + "x" * 252)],
)
def test_a_documents_tag_that_every_cdn_takes_is_a_cache_tag_as_it_is(word: str, tag: str) -> None:
    assert tag_for_word(word) == tag


@pytest.mark.parametrize("word", ["a b", "a,b", "A", "x" * 253, "", "\u00e9", "a&&b", "~abc", "*", "a\r\nb", "\ud800"])
def test_a_documents_tag_that_some_cdn_would_not_take_is_hashed(word: str) -> None:
    assert re.fullmatch(r"tag:~[a-z2-7]{24}", tag_for_word(word)) or word == ""
    assert check_tag(tag_for_word(word))


@given(words=st.lists(st.text(max_size=300), max_size=20, unique=True))
def test_no_two_words_have_one_tag_and_every_tag_fits_every_cdn(words: list[str]) -> None:
    tags = [check_tag(tag_for_word(word)) for word in words]
    assert len(set(tags)) == len(words)


def test_an_id_from_another_node_cannot_bring_a_header_of_its_own() -> None:
    assert check_tag(tag_for_document("x\r\nSet-Cookie: a"))
    assert tag_for_document(DOC) == f"doc:{DOC}"


def test_an_answer_names_everything_itself_its_documents_and_their_tags_in_one_order() -> None:
    wanted = (ALL, tag_for_cid(CID), "doc:a", "doc:b", "tag:x", "tag:y")
    assert tags_of(CID, ("b", "a", "a"), ("y", "x")) == tags_of(CID, ("a", "b"), ("x", "y")) == wanted
    assert tags_of(Cid.of(b"", DAG_CBOR)) == (ALL, tag_for_cid(Cid.of(b"", DAG_CBOR)))
    assert tags_of(CID, has_more=True)[2:] == (MANY_DOCUMENTS, MANY_WORDS)


@given(
    documents=st.lists(st.text(max_size=40), max_size=60),
    words=st.lists(st.text(max_size=300), max_size=60),
    has_more=st.booleans(),
)
def test_however_many_there_are_the_line_stays_short_and_says_what_it_left_out(
    documents: list[str], words: list[str], has_more: bool
) -> None:
    tags = tags_of(CID, documents, words, has_more=has_more)
    assert all(check_tag(tag) for tag in tags)
    assert len(set(tags)) == len(tags) <= TAGS_MAX
    assert len(",".join(tags)) <= TAGS_BYTES_MAX
    assert (MANY_DOCUMENTS in tags) is (has_more or not set(map(tag_for_document, documents)) <= set(tags))
    assert (MANY_WORDS in tags) is (has_more or not set(map(tag_for_word, words)) <= set(tags))


def test_the_longest_headers_fit_into_what_a_plain_nginx_takes() -> None:
    tags = tags_of(CID, [f"{number:026}" for number in range(60)], ["x" * 200] * 60)
    sent = headers_for(DEFAULT, CHUNK, tags=tags)
    assert MANY_DOCUMENTS in tags and len(tags) > 15
    assert sum(len(name) + len(value) + 4 for name, value in sent.items()) < 3000
