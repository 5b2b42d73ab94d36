from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rage_net.cdn import retry
from rage_net.cdn.plan import Target, Word, batches, chosen, cost, plan, reference
from rage_net.cdn.provider import Abilities, Item, ItemError, Quota, Verdict, check_prefix, check_tag
from rage_net.errors import ConfigError, NotFoundError
from tests.cdn.scripted import Scripted

TAG = Item("tag", "doc:a")
URLS = tuple(Item("url", f"/chunks/{n}") for n in range(250))


def test_a_tag_goes_before_urls():
    planned = plan(Scripted(), [Target("a", ((TAG,), URLS))], soft=False)
    assert planned.words == (Word("tag", "doc:a"),)
    assert planned.calls == 1 and not planned.impossible


def test_a_cdn_without_tags_gets_the_urls_in_the_fewest_calls():
    provider = Scripted(abilities=Abilities({"url": 100}))
    planned = plan(provider, [Target("a", ((TAG,), URLS))], soft=False)
    assert planned.calls == 3 and len(planned.words) == 250


def test_what_a_cdn_cannot_purge_is_named():
    planned = plan(Scripted(abilities=Abilities({"url": 1})), [Target("tag x", ((Item("tag", "x"),),))], soft=False)
    assert planned.impossible == ("tag x",) and planned.calls == 0


def test_without_a_public_host_urls_are_no_way():
    planned = plan(Scripted(abilities=Abilities({"url": 1}), hosts=()), [Target("a", (URLS,))], soft=False)
    assert planned.impossible == ("a",)


def test_two_targets_with_the_same_urls_cost_them_once():
    provider = Scripted(abilities=Abilities({"url": 100}))
    assert len(plan(provider, [Target("a", (URLS,)), Target("b", (URLS,))], soft=False).words) == 250


def test_a_quota_that_makes_tags_an_hour_late_makes_urls_the_way():
    quotas = {"tag": ("tags", Quota(1 / 12, 25)), "url": ("urls", Quota(800, 800, "words"))}
    provider = Scripted(abilities=Abilities({"tag": 1, "url": 100}, quotas=quotas))
    targets = [Target(str(n), ((Item("tag", f"cid:{n}"),), (Item("url", f"/chunks/{n}"),))) for n in range(1000)]
    planned = plan(provider, targets, soft=False)
    assert {word.kind for word in planned.words} == {"url"} and planned.calls == 10
    few = plan(provider, targets[:20], soft=False)
    assert few.seconds == 0 and few.calls == 1  # one call by URL is fewer than 20 by tag


def test_nothing_wider_than_asked_is_purged_to_save_calls_or_time():
    slow = {"tag": ("tags", Quota(1 / 12, 1)), "all": ("all", Quota(1, 9))}
    provider = Scripted(abilities=Abilities({"tag": 30, "prefix": 1, "all": 1}, quotas=slow))
    wide = ((Item("prefix", "/chunks/"), Item("prefix", "/ipfs/")), (Item("all"),))
    targets = [Target(str(n), ((Item("tag", f"doc:{n}"),), *wide)) for n in range(300)]
    planned = plan(provider, targets, soft=False)
    assert {word.kind for word in planned.words} == {"tag"} and planned.calls == 10
    without = Scripted(abilities=Abilities({"prefix": 1, "all": 1}))
    assert {word.kind for word in plan(without, targets, soft=False).words} == {"prefix"}
    least = Scripted(abilities=Abilities({"all": 1}))
    assert plan(least, targets, soft=False).words == (Word("all", "*"),)


def test_soft_is_for_kinds_that_can_be_marked():
    abilities = Abilities({"tag": 10, "url": 10}, soft=frozenset({"tag"}))
    assert plan(Scripted(abilities=abilities), [Target("a", ((TAG,),))], soft=True).soft == {"tag"}
    assert plan(Scripted(abilities=abilities), [Target("a", ((TAG,),))], soft=False).soft == frozenset()


@given(
    st.lists(st.sampled_from(["tag", "url", "prefix"]), max_size=200),
    st.integers(1, 30),
    st.one_of(st.none(), st.integers(20, 200)),
    st.sampled_from([frozenset(), frozenset({"tag", "url"})]),
)
def test_batches_hold_every_word_once_within_the_limits(kinds, most, size, mixed):
    abilities = Abilities({"tag": most, "url": most, "prefix": most}, bytes_max=size, mixed=mixed)
    words = [Word(kind, f"{kind}:{n}") for n, kind in enumerate(kinds)]
    found = list(batches(words, abilities))
    assert sorted(word for batch in found for word in batch) == sorted(words)
    for batch in found:
        assert len(batch) <= most
        assert size is None or len(batch) == 1 or sum(len(word.text) + 1 for word in batch) <= size
        assert len({word.kind for word in batch}) == 1 or {word.kind for word in batch} <= mixed
    if size is None:
        groups = [kinds.count("tag") + kinds.count("url")] if mixed else [kinds.count("tag"), kinds.count("url")]
        least = sum(math.ceil(count / most) for count in [*groups, kinds.count("prefix")])
        assert len(found) == least == cost(words, abilities)[0]


def test_a_reference_is_of_its_call_alone():
    words = [Word("tag", "a"), Word("tag", "b")]
    assert reference("1", "p", "", words) == reference("1", "p", "", words)
    others = [reference("2", "p", "", words), reference("1", "q", "", words), reference("1", "p", "e", words)]
    assert len({reference("1", "p", "", words), reference("1", "p", "", words[:1]), *others}) == 5


@pytest.mark.parametrize("tag", ["", "a b", "a,b", "a&&b", "A", "ä", "a" * 257, 'a"', "a#", "a*", "a\n", "\ud800"])
def test_a_tag_that_some_cdn_would_not_take_is_refused(tag):
    with pytest.raises(ItemError):
        check_tag(tag)


@pytest.mark.parametrize("prefix", ["", "chunks/", "/a b", "/a*", "/a?b", "/a#", "/a&&b", '/"', "/ä", "/" + "a" * 1024])
def test_a_prefix_that_could_mean_more_is_refused(prefix):
    with pytest.raises(ItemError):
        check_prefix(prefix)


@given(st.integers(1, 100), st.floats(0, 1), st.one_of(st.none(), st.floats(-5, 1e6)))
def test_pauses_are_bounded(tries, chance, asked):
    pause = retry.pause_s(tries, Verdict("queued", retry_after_s=asked), chance)
    assert 0 <= pause <= 330
    if asked is not None and 0 <= asked <= 300:
        assert pause >= asked


def test_providers_are_chosen_by_name_in_their_own_order_and_a_wrong_name_is_told_the_right_one():
    assert chosen(["b", "a"], []) == ["b", "a"] == chosen(["b", "a"], ["a", "b"])
    with pytest.raises(NotFoundError) as unknown:
        chosen({"varnish-edge": 1, "fastly": 2}, ["fastlly"])
    assert unknown.value.id == "cdn-unknown" and unknown.value.why == "there are varnish-edge, fastly"
    assert unknown.value.mend[0] == "--provider fastly"
    with pytest.raises(ConfigError) as none:
        chosen([], ["fastly"])
    assert none.value.id == "cdn-none" and none.value.why and none.value.mend
