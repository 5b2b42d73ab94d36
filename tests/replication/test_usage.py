"""Usage: rates that decay, bounded, and a policy that changes only when a rate is far beyond its bound."""

from __future__ import annotations

import random

import pytest

from rage_net.config.replication import Policy, Replication, Selector
from rage_net.config.values import parse_comparison
from rage_net.replication import usage
from rage_net.replication.policy import Policies, Subject
from rage_net.replication.usage import DAY_S, HALF_LIFE_S, Rates, changed_policy, demoted, promoted, total


def test_a_steady_rate_is_shown_as_it_is() -> None:
    rates = Rates()
    for hour in range(24 * 6):
        rates.used("doc", hour * 3600.0, 50)
    assert rates.per_day("doc", 24 * 6 * 3600.0 - 1800) == pytest.approx(1200, rel=0.03)


def test_a_rate_halves_in_twelve_hours() -> None:
    rates = Rates()
    rates.used("doc", 0.0, 100)
    now = rates.per_day("doc", 0.0)
    assert rates.per_day("doc", HALF_LIFE_S) == pytest.approx(now / 2)
    assert rates.per_day("doc", 2 * DAY_S) == pytest.approx(now / 16)
    assert rates.per_day("other", 0.0) == 0


def test_the_busiest_come_first_and_those_that_faded_are_left_out() -> None:
    rates = Rates()
    for at in range(20):
        rates.used(f"doc {at:02}", 0.0, at + 1)
    assert [doc_id for doc_id, _ in rates.top(3, 0.0)] == ["doc 19", "doc 18", "doc 17"]
    assert rates.top(1, 0.0) == [("doc 19", round(20 * usage.PER_DAY))]
    assert all(per_day >= 1 for _, per_day in rates.top(100, DAY_S * 2))
    assert rates.top(100, DAY_S * 30) == []


def test_the_number_of_documents_is_bounded_and_the_busy_ones_stay(
    rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "DOCUMENTS_MAX", 100)
    rates = Rates()
    for at in range(20):
        rates.used(f"busy {at}", 0.0, 1000)
    for at in range(5000):
        rates.used(f"rare {rng.random()}", at / 10)
        assert len(rates) <= 100
    assert {doc_id for doc_id, _ in rates.top(20, 500.0)} == {f"busy {at}" for at in range(20)}


def test_a_clock_that_goes_back_counts_on_and_one_that_leaps_a_day_lets_rates_fade() -> None:
    rates = Rates()
    rates.used("doc", DAY_S, 10)
    rates.used("doc", 0.0, 10)
    assert rates.per_day("doc", DAY_S) == pytest.approx(20 * usage.PER_DAY)
    assert rates.per_day("doc", 0.0) == pytest.approx(20 * usage.PER_DAY)
    assert rates.per_day("doc", 2 * DAY_S) == pytest.approx(5 * usage.PER_DAY)


def test_rates_of_all_nodes_are_added() -> None:
    assert total([{"a": 3, "b": 1}, {}, {"a": 4}]) == {"a": 7, "b": 1}


@pytest.mark.parametrize(
    ("bound", "rate", "up", "down"),
    [
        ("> 1000/day", 2001, True, False),
        ("> 1000/day", 2000, False, False),
        ("> 1000/day", 501, False, False),
        ("> 1000/day", 500, False, True),
        (">= 7/week", 2, True, False),
        (">= 7/week", 0.4, False, True),
        ("> 1/minute", 2 * 1440 + 1, True, False),
        ("< 10/day", 4, True, False),
        ("< 10/day", 6, False, False),
        ("< 10/day", 21, False, True),
        ("= 10/day", 10, False, True),
    ],
)
def test_up_at_twice_the_bound_and_down_at_half(bound: str, rate: float, up: bool, down: bool) -> None:
    found = parse_comparison(bound)
    assert (promoted(found, rate), demoted(found, rate)) == (up, down)


def measured(name: str, factor: int, bound: str, *tags: str) -> Policy:
    return Policy(name=name, factor=factor, selector=Selector(tags=tags, query_count=parse_comparison(bound)))


POLICIES = Policies(
    Replication(
        policies=(
            measured("warm", 4, "> 100/day"),
            measured("hot", 7, "> 1000/day"),
            measured("legal-hot", 8, "> 1000/day", "legal"),
            Policy(name="named", factor=9),
        )
    ),
    3,
)


@pytest.mark.parametrize(
    ("policy", "rate", "tags", "wanted"),
    [
        ("", 150, (), None),
        ("", 201, (), "warm"),
        ("warm", 60, (), None),
        ("warm", 50, (), ""),
        ("", 5000, (), "hot"),
        ("warm", 5000, (), "hot"),
        ("hot", 600, (), None),
        ("hot", 400, (), "warm"),
        ("hot", 120, (), ""),
        ("hot", 5000, ("legal",), "legal-hot"),
        ("legal-hot", 5000, (), "hot"),  # the tag is gone
        ("named", 5000, (), None),
        ("of other nodes", 5000, (), None),
    ],
)
def test_what_a_record_should_name(policy: str, rate: float, tags: tuple[str, ...], wanted: str | None) -> None:
    subject = Subject(tags, None, policy)
    assert changed_policy(POLICIES, subject, rate, None, 0.0) == wanted


def test_a_document_changes_at_most_once_a_day() -> None:
    hot = Subject((), None, "hot")
    assert changed_policy(POLICIES, hot, 0, 1000.0, 1000.0 + DAY_S - 1) is None
    assert changed_policy(POLICIES, hot, 0, 1000.0, 1000.0 + DAY_S) == ""
    assert changed_policy(POLICIES, hot, 0, 1000.0 + DAY_S / 2, 1000.0) is None  # the clock went back
    assert changed_policy(POLICIES, hot, 0, 1000.0 + 9 * DAY_S, 1000.0) == ""  # and by more: it is no bar for ever


def test_a_rate_that_goes_round_its_bound_changes_nothing(rng: random.Random) -> None:
    subject, changes = Subject(), 0
    for day in range(200):
        word = changed_policy(POLICIES, subject, rng.uniform(101, 199), None, day * DAY_S)
        changes += word is not None
    assert changes == 0
