"""The rules of a download: who is asked for what, and what becomes of the slow, the dead and the liars."""

from __future__ import annotations

import itertools
import random

import pytest

from rage_net.chunk.schedule import (
    ASKS_OF_SILENT_MAX,
    HEDGE_CEILING_S,
    HEDGE_FLOOR_S,
    HEDGE_MORE_S,
    IN_FLIGHT_MAX,
    STALLS_MAX,
    Ask,
    Schedule,
)
from rage_net.cid import Cid

CIDS = [Cid.of(bytes([at])) for at in range(64)]
MIB = 1 << 20


def schedule(chunks: int, *sources: str) -> Schedule:
    made = Schedule()
    for cid in CIDS[:chunks]:
        made.want(cid, MIB)
    for source in sources:
        made.add_source(source)
    return made


def test_nothing_is_asked_without_a_source() -> None:
    made = schedule(3)
    assert made.assign(0.0) == []
    assert made.hopeless() == CIDS[:3]


def test_a_source_has_at_most_so_many_asks_in_flight_and_gets_them_in_order() -> None:
    made = schedule(20, "a")
    assert [ask.cid for ask in made.assign(0.0)] == CIDS[:IN_FLIGHT_MAX]
    assert made.assign(0.0) == []
    made.arrived(Ask(CIDS[0], "a"), 0.1)
    assert made.assign(0.1) == [Ask(CIDS[IN_FLIGHT_MAX], "a")]


def test_two_sources_share_the_work() -> None:
    asks = schedule(8, "a", "b").assign(0.0)
    assert {source: sum(ask.source == source for ask in asks) for source in "ab"} == {"a": 4, "b": 4}


def test_a_source_that_lacks_a_chunk_is_not_asked_and_one_that_has_it_is_preferred() -> None:
    made = schedule(2, "a", "b")
    made.learn("a", {CIDS[0]: False, CIDS[1]: True})
    assert made.assign(0.0) == [Ask(CIDS[0], "b"), Ask(CIDS[1], "a")]


def test_a_slow_source_is_overtaken_and_the_loser_is_named() -> None:
    made = schedule(1, "slow", "fast")
    made.learn("slow", {CIDS[0]: True})
    (first,) = made.assign(0.0)
    assert first.source == "slow"
    when = made.next_timeout(0.0)
    assert when is not None and 0 < when <= HEDGE_CEILING_S
    assert made.assign(when - 0.001) == []
    (second,) = made.assign(when)
    assert second == Ask(CIDS[0], "fast")
    assert made.assign(when + 100) == []  # never a third
    assert made.arrived(second, when + 0.01) == [first]


def test_a_busy_source_rests_longer_each_time() -> None:
    made, now, waits = schedule(1, "a"), 0.0, []
    for _ in range(4):
        (ask,) = made.assign(now)
        made.failed(ask, "busy", now)
        assert made.assign(now) == [] and made.hopeless() == []
        when = made.next_timeout(now)
        assert when is not None
        waits.append(when - now)
        now = when
    assert waits == sorted(waits) and waits[-1] > 4 * waits[0]


def test_a_source_that_stalls_again_is_dropped_and_its_chunks_go_elsewhere() -> None:
    made = schedule(8, "a", "b")
    asks = [ask for ask in made.assign(0.0) if ask.source == "a"]
    for ask in asks[:STALLS_MAX]:
        made.failed(ask, "slow", 1.0, "no byte for 10 s")
    assert made.reasons == {"a": "no byte for 10 s"}
    made.add_source("a")  # not for this download any more
    assert {ask.source for ask in made.assign(1.0)} == {"b"}


def test_wrong_bytes_drop_a_source_at_once() -> None:
    made = schedule(2, "liar", "b")
    asks = made.assign(0.0)
    made.failed(next(ask for ask in asks if ask.source == "liar"), "wrong", 0.1, "bytes do not match")
    assert {ask.source for ask in made.assign(0.1)} == {"b"}


def test_a_chunk_that_every_source_lacks_is_hopeless() -> None:
    made = schedule(2, "a", "b")
    for source in "ab":
        made.learn(source, {CIDS[0]: False})
    assert made.hopeless() == [CIDS[0]]


def test_whatever_sources_do_a_download_ends_and_no_chunk_is_lost(rng: random.Random) -> None:
    """A simulated world: sources of any speed, that lie, die, stall or lack chunks, and one that is honest."""
    for _ in range(200):
        made, now, arrived = Schedule(), 0.0, []
        cids = CIDS[: rng.randrange(1, 40)]
        for cid in cids:
            made.want(cid, rng.randrange(1, 4 * MIB))
        sources = {f"s{at}": rng.choice(["fast", "slow", "dead", "wrong", "missing", "busy"]) for at in range(6)}
        sources["honest"] = "fast"
        for source in sources:
            made.add_source(source)
        in_flight: dict[Ask, tuple[float, str]] = {}
        for _step in range(10_000):
            for ask in made.assign(now):
                assert ask not in in_flight
                kind = sources[ask.source]  # type: ignore[index]
                in_flight[ask] = (now + rng.uniform(0.001, 0.3 if kind != "slow" else 12.0), kind)
            if len(arrived) == len(cids):
                break
            timeout = made.next_timeout(now)
            moments = [at for at, _ in in_flight.values()] + ([] if timeout is None else [timeout])
            assert moments, f"stuck with {len(arrived)} of {len(cids)}: {sources}"
            now = max(now, min(moments))
            for ask, (at, kind) in list(in_flight.items()):
                if at > now or ask not in in_flight:
                    continue
                del in_flight[ask]
                if kind in ("fast", "slow"):
                    if ask.cid not in arrived:
                        arrived.append(ask.cid)
                    for other in made.arrived(ask, now):
                        in_flight.pop(other, None)
                else:
                    made.failed(ask, kind, now)  # type: ignore[arg-type]
        assert sorted(arrived) == sorted(cids)
        assert made.hopeless() == []


def test_a_third_source_is_asked_only_while_those_asked_have_never_given_anything() -> None:
    made = schedule(1, *(f"source-{number}" for number in range(ASKS_OF_SILENT_MAX + 2)))
    moments, now = [], 0.0
    while made.assign(now):
        moments.append(now)
        when = made.next_timeout(now)
        if when is None:
            break
        now = when
    assert len(moments) == ASKS_OF_SILENT_MAX and made.assign(now + 100) == []
    assert min(b - a for a, b in itertools.pairwise(moments[1:])) >= HEDGE_MORE_S - 1e-9

    proven = schedule(1, "a")
    (first,) = proven.assign(0.0)
    proven.arrived(first, 0.1)
    proven.add_source("b")
    proven.add_source("c")
    proven.want(CIDS[1], MIB)
    proven.learn("a", {CIDS[1]: True})
    assert [ask.source for ask in proven.assign(1.0)] == ["a"]
    assert len(proven.assign(100.0)) == 1
    assert proven.assign(200.0) == [], "one of the two has given before: it may be our line that is slow"
    assert proven.next_timeout(200.0) is None


def test_a_source_on_trial_is_hedged_soon_and_counts_for_nothing_until_it_gives() -> None:
    made = schedule(2)
    for name in ("cdn one", "cdn two"):
        made.add_source(name, 0.05)
    asked = {ask.cid: ask.source for ask in made.assign(0.0)}
    assert len(asked) == 2 and made.next_timeout(0.0) == pytest.approx(0.05)
    assert len(made.assign(0.05)) == 2, "each chunk of the other one, too"
    made.add_source("peer")
    assert made.assign(0.09) == []
    assert [ask.source for ask in made.assign(0.1)] == ["peer", "peer"]
    made.add_source("second peer")
    assert made.assign(0.1 + HEDGE_FLOOR_S - 0.01) == []
    assert [ask.source for ask in made.assign(0.1 + HEDGE_FLOOR_S)] == ["second peer", "second peer"]


def test_a_source_on_trial_that_has_given_is_hedged_as_any_other() -> None:
    made = schedule(1)
    made.add_source("cdn", 0.05)
    (ask,) = made.assign(0.0)
    made.arrived(ask, 0.01)
    made.add_source("peer")
    made.learn("cdn", {CIDS[1]: True})
    made.want(CIDS[1], 1000)
    (again,) = made.assign(1.0)
    assert again.source == "cdn"
    assert made.assign(1.06) == [] and [ask.source for ask in made.assign(1.0 + HEDGE_FLOOR_S)] == ["peer"]
