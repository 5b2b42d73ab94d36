"""Bandwidth: the rate holds, lanes get what is theirs, borrow what is left, and hold nobody up once they have gone."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rage_net.bandwidth import BURST_S, FLOOR, LATE_S, TRAFFIC, Bandwidth, Lane, Traffic

RATES = st.sampled_from([12_500.0, 125_000.0, 1.25e6, 12.5e6, 125e6])
LANES = st.lists(st.sampled_from(TRAFFIC), unique=True, max_size=3).flatmap(
    lambda names: st.tuples(
        *(
            st.builds(Lane, st.just(name), st.integers(1, 3), st.sampled_from([0.05, 0.2, 0.4, 0.8, 1.0]))
            for name in names
        )
    )
)
SECONDS = 20.0
Demands = Mapping[Traffic, tuple[float, float]]
"""From when to when a lane wants more than there is."""
DEMANDS = st.dictionaries(
    st.sampled_from(TRAFFIC),
    st.tuples(st.sampled_from([0.0, 3.0, 7.5]), st.sampled_from([10.0, SECONDS])),
    min_size=1,
)


@dataclass
class Run:
    """Who took what when."""

    taken: list[tuple[float, Traffic, int]] = field(default_factory=list)
    longest_wait_s: float = 0.0

    def bytes(self, begin: float, end: float, *lanes: Traffic) -> int:
        return sum(size for at, lane, size in self.taken if begin <= at < end and (not lanes or lane in lanes))


def drive(bandwidth: Bandwidth, demands: Demands, rng: random.Random) -> Run:
    """Each lane asks again when it was told to, a little late, as event loops are; sizes vary."""
    run = Run()
    queue: list[tuple[float, int, Traffic]] = []
    for at, (lane, (begin, _)) in enumerate(sorted(demands.items())):
        heappush(queue, (begin, at, lane))
    count = len(queue)
    while queue:
        now, _, lane = heappop(queue)
        if now >= demands[lane][1]:
            bandwidth.leave(lane)
            continue
        size = bandwidth.piece if rng.random() < 0.5 else rng.randint(1, bandwidth.piece)
        wait_s = bandwidth.reserve(lane, size, now)
        if wait_s:
            run.longest_wait_s = max(run.longest_wait_s, wait_s)
            now += wait_s + rng.random() * 0.002
        else:
            run.taken.append((now, lane, size))
        count += 1
        heappush(queue, (now, count, lane))
    return run


def slack(bandwidth: Bandwidth, rate: float) -> float:
    """What buckets hold, and pieces overshoot."""
    return 2 * max(2 * bandwidth.piece, rate * BURST_S) + 4 * bandwidth.piece


@settings(max_examples=30, deadline=None)
@given(RATES.filter(lambda rate: rate < 1e8), LANES, DEMANDS, st.integers(0, 1 << 32))
def test_the_rate_holds_and_is_used_whatever_the_lanes(
    rate: float, lanes: tuple[Lane, ...], demands: Demands, seed: int
) -> None:
    bandwidth = Bandwidth(rate, lanes)
    run = drive(bandwidth, demands, random.Random(seed))
    for begin in range(0, int(SECONDS), 2):
        for length in (1, 5, 20):
            assert run.bytes(begin, begin + length) <= rate * length + slack(bandwidth, rate)
    begin = min(begin for begin, _ in demands.values())
    end = max(end for begin_, end in demands.values() if begin_ == begin)
    assert run.bytes(begin, end) >= 0.95 * rate * (end - begin) - slack(bandwidth, rate), "nothing is left unused"
    assert run.longest_wait_s <= 3 * bandwidth.piece / rate + 0.002


@settings(max_examples=30, deadline=None)
@given(RATES.filter(lambda rate: rate < 1e8), LANES, DEMANDS, st.integers(0, 1 << 32))
def test_each_lane_that_wants_gets_what_those_before_it_leave_up_to_its_share_and_never_less_than_the_floor(
    rate: float, lanes: tuple[Lane, ...], demands: Demands, seed: int
) -> None:
    bandwidth = Bandwidth(rate, lanes)
    run = drive(bandwidth, demands, random.Random(seed))
    begin, end = max(begin for begin, _ in demands.values()), min(end for _, end in demands.values())
    left = 1.0
    wanting = [(lane, share) for lane, share in bandwidth.shares.items() if lane in demands]
    for at, (lane, share) in enumerate(wanting):
        floors = FLOOR * (len(wanting) - at - 1)
        due = max(FLOOR, min(share, left - floors))
        left -= due
        got = run.bytes(begin, end, lane)
        assert got >= 0.93 * due * rate * (end - begin) - slack(bandwidth, rate), (
            lane,
            due,
            got / rate / (end - begin),
        )


@pytest.mark.parametrize("lane", TRAFFIC)
def test_a_lane_alone_has_all_and_falls_to_its_share_as_soon_as_others_want_it(
    lane: Traffic, rng: random.Random
) -> None:
    rate = 1.25e6
    bandwidth = Bandwidth(rate)
    others: tuple[Traffic, ...] = tuple(each for each in TRAFFIC if each != lane)
    run = drive(bandwidth, {lane: (0.0, 20.0), others[0]: (10.0, 20.0), others[1]: (10.0, 20.0)}, rng)
    assert run.bytes(0, 10, lane) >= 0.95 * 10 * rate
    assert run.bytes(10, 20, lane) <= (bandwidth.shares[lane] + 0.02) * 10 * rate
    assert run.bytes(10, 10.5, lane) <= (bandwidth.shares[lane] + 0.2) * 0.5 * rate, "at once"


def test_the_specifications_lanes_under_full_load(rng: random.Random) -> None:
    bandwidth = Bandwidth(12.5e6)
    run = drive(bandwidth, dict.fromkeys(TRAFFIC, (0.0, SECONDS)), rng)
    parts = [run.bytes(0, SECONDS, lane) / 12.5e6 / SECONDS for lane in TRAFFIC]
    assert parts == pytest.approx([0.8, 0.15, 0.05], abs=0.02)


def test_a_users_first_byte_waits_for_one_piece_of_a_busy_lane_and_no_longer(rng: random.Random) -> None:
    bandwidth = Bandwidth(1.25e6)
    now = 0.0
    while now < 5:
        now += bandwidth.reserve("replication", bandwidth.piece, now)
    waited = 0.0
    while wait_s := bandwidth.reserve("user_queries", 4096, now + waited):
        waited += wait_s
        assert bandwidth.reserve("replication", bandwidth.piece, now + waited) > 0
    assert waited <= 2 * bandwidth.piece / 1.25e6


def test_who_has_gone_holds_nobody_up() -> None:
    bandwidth = Bandwidth(125_000.0)
    piece = bandwidth.piece
    now = 0.0

    def user_waits(now: float) -> float:
        """Replication has taken what there was; when a user's bytes, which came next, may go."""
        while not bandwidth.reserve("replication", piece, now):
            pass
        bandwidth.leave("replication")
        wait_s = bandwidth.reserve("user_queries", piece, now)
        assert wait_s > 0
        return now + wait_s

    now = user_waits(now)
    assert bandwidth.reserve("replication", piece, now + 0.01) > 0, "there are bytes, and they are the user's"
    bandwidth.leave("user_queries")
    assert bandwidth.reserve("replication", piece, now + 0.01) == 0
    now = user_waits(now + 5)
    assert bandwidth.reserve("replication", piece, now + LATE_S * 0.9) > 0
    assert bandwidth.reserve("replication", piece, now + LATE_S * 1.01) == 0, "it did not come back in time"


def test_what_is_given_back_is_there_again_and_no_more_than_a_burst() -> None:
    bandwidth = Bandwidth(125_000.0)
    taken = 0
    while not bandwidth.reserve("replication", bandwidth.piece, 0.0):
        taken += bandwidth.piece
    bandwidth.give_back("replication", 1 << 40)
    again = 0
    while not bandwidth.reserve("replication", bandwidth.piece, 0.0):
        again += bandwidth.piece
    assert taken == again <= 2 * 125_000 * BURST_S


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_a_clock_that_jumps_back_gives_nothing(times: list[float]) -> None:
    bandwidth = Bandwidth(125_000.0)
    taken = 0
    for now in times:
        if not bandwidth.reserve("user_queries", 4096, now):
            taken += 4096
    forward = max(0.0, max(times) - times[0])
    assert taken <= 125_000 * (forward + BURST_S) + 3 * bandwidth.piece


def test_without_a_rate_everything_goes_at_once() -> None:
    bandwidth = Bandwidth(None)
    assert all(bandwidth.reserve(lane, 1 << 40, 0.0) == 0 for lane in TRAFFIC for _ in range(100))


@pytest.mark.parametrize("rate", [0.0, -1.0])
def test_a_rate_of_nothing_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        Bandwidth(rate)


@pytest.mark.parametrize("size", [-1, (64 << 10) + 1])
def test_more_than_a_piece_at_once_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="at once"):
        Bandwidth(1e9).reserve("user_queries", size, 0.0)
