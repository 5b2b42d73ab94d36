"""Policies: who matches, who wins, and the words for it."""

from __future__ import annotations

import pytest

from rage_net.config.replication import Policy, Replication, Selector
from rage_net.config.values import parse_comparison
from rage_net.replication.policy import Policies, Subject


def bound(text: str) -> Selector:
    return Selector(retention_days=parse_comparison(text))


CRITICAL = Policy(name="critical", factor=5, selector=Selector(tags=("compliance", "legal")))
EPHEMERAL = Policy(name="ephemeral", factor=1, selector=bound("< 7"))
TRAFFIC = Policy(name="high-traffic", factor=7, selector=Selector(query_count=parse_comparison("> 1000/day")))
PRINTED = Replication(policies=(CRITICAL, EPHEMERAL, TRAFFIC))
"""As the specification prints them."""


@pytest.mark.parametrize(
    ("subject", "policy", "factor", "minimum", "rule"),
    [
        (Subject(), "default", 3, 2, "the default factor: no policy of 3 matches"),
        (Subject(("legal",)), "critical", 5, 2, "the only policy that matches"),
        (Subject(("legal", "x"), 3), "critical", 5, 2, "the highest factor of 2 policies that match"),
        (Subject((), 3), "ephemeral", 1, 1, "the only policy that matches"),
        (Subject((), 7), "default", 3, 2, "the default factor: no policy of 3 matches"),
        (
            Subject(("legal",), None, "high-traffic"),
            "high-traffic",
            7,
            2,
            "the highest factor of 2 policies that match",
        ),
        (Subject(("legal",), None, "ephemeral"), "critical", 5, 2, "the highest factor of 2 policies that match"),
        (
            Subject((), None, "gone"),
            "default",
            3,
            2,
            "the default factor: no policy of 3 matches; the record names gone, and there is no such policy here",
        ),
    ],
)
def test_the_highest_factor_wins(subject: Subject, policy: str, factor: int, minimum: int, rule: str) -> None:
    choice = Policies(PRINTED, 3).choose(subject)
    assert (choice.policy, choice.factor, choice.minimum, choice.rule) == (policy, factor, minimum, rule)


@pytest.mark.parametrize(
    ("subject", "whys"),
    [
        (
            Subject(("compliance",), 3),
            (
                "tags: compliance is one of its tags",
                "retention_days: 3 days are < 7",
                "query_count: the record does not say that it was measured > 1000/day",
            ),
        ),
        (
            Subject(("a",), None, "high-traffic"),
            (
                "tags: none of compliance, legal is one of its tags",
                "retention_days: for ever is not < 7",
                "the record names it",
            ),
        ),
        (
            Subject(("legal", "compliance"), 30),
            (
                "tags: compliance, legal are among its tags",
                "retention_days: 30 days are not < 7",
                "query_count: the record does not say that it was measured > 1000/day",
            ),
        ),
    ],
)
def test_every_policy_says_why(subject: Subject, whys: tuple[str, ...]) -> None:
    considered = Policies(PRINTED, 3).choose(subject).considered
    assert [one.name for one in considered] == ["critical", "ephemeral", "high-traffic"]
    assert tuple(one.why for one in considered) == whys


def test_all_keys_of_a_selector_must_hold_and_those_that_do_not_are_named() -> None:
    selector = Selector(tags=("a", "b"), retention_days=parse_comparison(">= 30"))
    policies = Policies(Replication(policies=(Policy(name="p", factor=2, selector=selector),)), 3)
    (both,) = policies.choose(Subject(("b",), 30)).considered
    assert both.matches and both.why == "tags: b is one of its tags; retention_days: 30 days are >= 30"
    (one,) = policies.choose(Subject(("b",), 1)).considered
    assert not one.matches and one.why == "retention_days: 1 day is not >= 30"
    (none,) = policies.choose(Subject((), 1)).considered
    assert none.why.count("; ") == 1
    assert policies.choose(Subject(("a",))).policy == "p"  # kept for ever is more than any number of days


def test_a_selector_without_a_bound_matches_by_name_alone() -> None:
    policies = Policies(Replication(policies=(Policy(name="p", factor=2),)), 3)
    choice = policies.choose(Subject(("a",), 1))
    assert choice.policy == "default"
    assert choice.considered[0].why == "its selector has no bound, and the record does not name it"
    assert policies.choose(Subject((), None, "p")).policy == "p"


def test_of_equal_factors_the_first_in_the_file_wins() -> None:
    one = Policy(name="one", factor=4, selector=Selector(tags=("a",)))
    other = Policy(name="other", factor=4, min=4, selector=Selector(tags=("b",)))
    for first, second in ((one, other), (other, one)):
        choice = Policies(Replication(policies=(first, second)), 3).choose(Subject(("a", "b")))
        assert choice.policy == first.name
        assert choice.rule == "the first in the file of 2 policies that match with factor 4"


def test_no_policies_say_no_more_than_the_default() -> None:
    choice = Policies(Replication(), 2).choose(Subject(("a",)))
    assert (choice.policy, choice.factor, choice.rule, choice.considered) == ("default", 2, "the default factor", ())


@pytest.mark.parametrize(
    ("factor", "own", "default", "minimum"),
    [(3, None, None, 2), (1, None, None, 1), (3, None, 3, 3), (2, None, 3, 2), (5, 4, 3, 4), (5, 1, 3, 1)],
)
def test_below_which_copies_are_at_risk(factor: int, own: int | None, default: int | None, minimum: int) -> None:
    policy = Policy(name="p", factor=factor, min=own, selector=Selector(tags=("a",)))
    policies = Policies(Replication(policies=(policy,), default_min=default), factor)
    assert policies.choose(Subject(("a",))).minimum == minimum
    if own is None:
        assert policies.choose(Subject()).minimum == minimum


def test_a_factor_above_the_number_of_nodes_is_said_for_each_policy() -> None:
    policies = Policies(PRINTED, 3)
    assert policies.beyond(7) == ()
    assert policies.beyond(4) == (
        "critical wants 5 copies of each chunk, and there are 4 nodes that store",
        "high-traffic wants 7 copies of each chunk, and there are 4 nodes that store",
    )
    assert policies.beyond(1)[0] == "default wants 3 copies of each chunk, and there is 1 node that stores"


def test_the_digest_tells_what_changes_placement_and_nothing_else() -> None:
    first = Policies(PRINTED, 3).digest
    assert len(first) == 16
    assert Policies(PRINTED.replace(enabled=False, grace=1.0, audit_period=0.0, default_min=2), 3).digest == first
    changed = [
        Policies(PRINTED, 4),
        Policies(PRINTED.replace(policies=PRINTED.policies[::-1]), 3),
        Policies(PRINTED.replace(placement=PRINTED.placement.replace(strategy="none")), 3),
        Policies(PRINTED.replace(default_min=3), 3),
        Policies(PRINTED.replace(policies=(CRITICAL.replace(factor=6), EPHEMERAL, TRAFFIC)), 3),
        Policies(PRINTED.replace(policies=(CRITICAL, EPHEMERAL.replace(selector=bound("<= 7")), TRAFFIC)), 3),
    ]
    assert len({first, *(one.digest for one in changed)}) == len(changed) + 1
