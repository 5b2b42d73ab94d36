"""When an edge is asked, left alone, and tried again."""

from __future__ import annotations

import json

import pytest

from rage_net.cdn.breaker import DISTRUST_S, OPEN_FIRST_S, OPEN_S_MAX, Breaker


def test_a_failure_opens_it_and_its_time_doubles_up_to_ten_minutes() -> None:
    breaker, now, waits = Breaker(), 1000.0, []
    for _ in range(7):
        assert breaker.admit(now)
        breaker.failed(now, "refused")
        assert breaker.state(now) == "open" and not breaker.admit(now)
        waits.append(breaker.left_s(now))
        now += waits[-1]
        assert breaker.state(now) == "half-open"
    assert waits == [30, 60, 120, 240, 480, 600, 600]


def test_asks_that_fail_together_count_once() -> None:
    breaker = Breaker()
    for _ in range(8):
        breaker.failed(1000, "refused")
    assert breaker.left_s(1000) == OPEN_FIRST_S and breaker.failures == 1


def test_half_open_lets_one_in_at_a_time() -> None:
    breaker = Breaker()
    breaker.failed(1000, "refused")
    assert breaker.admit(1030) and not breaker.admit(1030)
    breaker.let_go()
    assert breaker.admit(1031)
    assert breaker.answered(1031) and breaker.state(1031) == "closed" and not breaker.answered(1031)
    breaker.failed(1032, "refused")
    assert breaker.left_s(1032) == OPEN_FIRST_S  # it began anew


def test_one_that_is_outrun_rests_without_growing() -> None:
    breaker = Breaker()
    for now in (1000.0, 1030.0, 1060.0):
        assert breaker.admit(now)
        breaker.outrun(now, "slow")
        assert breaker.left_s(now) == OPEN_FIRST_S


def test_outrunning_does_not_shorten_a_longer_time() -> None:
    breaker = Breaker()
    breaker.distrust(1000, "wrong bytes")
    breaker.outrun(1001, "slow")
    assert breaker.left_s(1001) == pytest.approx(DISTRUST_S - 1)


def test_an_answer_to_what_was_asked_before_it_was_distrusted_changes_nothing() -> None:
    breaker = Breaker()
    breaker.distrust(1000, "wrong bytes")
    assert not breaker.answered(1001)
    assert breaker.left_s(1001) == DISTRUST_S - 1 and breaker.reason == "wrong bytes"
    now = 1000 + DISTRUST_S
    assert breaker.admit(now) and breaker.answered(now) and breaker.state(now) == "closed"
    breaker.failed(now, "refused")
    assert breaker.answered(now) and breaker.state(now) == "closed", "that it was distrusted once is forgotten"


def test_the_pause_that_an_edge_asks_for_is_kept_up_to_ten_minutes() -> None:
    breaker = Breaker()
    breaker.failed(1000, "429", 300)
    assert breaker.left_s(1000) == 300
    breaker = Breaker()
    breaker.failed(1000, "429", 86_400)
    assert breaker.left_s(1000) == OPEN_S_MAX


@pytest.mark.parametrize("act", ["failed", "distrust"])
def test_its_state_outlives_the_process(act: str) -> None:
    breaker = Breaker()
    assert breaker.dump() == {}
    getattr(breaker, act)(1000.5, "why")
    again = Breaker.load(json.loads(json.dumps(breaker.dump())))
    assert (again.left_s(1010), again.failures, again.reason) == (breaker.left_s(1010), 1, "why")


def test_a_clock_that_was_set_back_does_not_keep_it_open() -> None:
    breaker = Breaker()
    breaker.failed(1_000_000, "refused")
    assert Breaker.load(breaker.dump()).state(1000) == "half-open"


@pytest.mark.parametrize(
    "plain",
    [None, 7, [], {}, {"until": "x"}, {"until": True}, {"until": -1}, {"until": 1e300}, {"until": float("nan")}],
)
def test_what_is_no_state_is_closed(plain: object) -> None:
    assert Breaker.load(plain).state(1000) == "closed"


def test_a_state_with_strange_values_is_bounded() -> None:
    breaker = Breaker.load({"until": 1030, "failures": 10**9, "reason": "x" * 10_000})
    assert breaker.failures <= 16 and len(breaker.reason) <= 200
    breaker.failed(1031, "again")
    assert breaker.left_s(1031) == OPEN_S_MAX
