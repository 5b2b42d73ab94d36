"""The checker catches each kind of broken promise, and no honest history: drawn at random and made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rage_lab.checker import Down, Event, Get, Harm, History, Peek, Put, Remove, Settled, digest_of, judge

A, B = digest_of(b"a"), digest_of(b"b")
PUT = Put("doc", "n0", A, wait=2, outcome="acknowledged", began_at=1, ended_at=2)
READ = Get("doc", "n1", A, 50, 51, is_final=True)
MISSED = replace(READ, digest="", node="n2", why="chunk-not-found")
WELL = Settled(3.0, 60.0, {"n0": "e", "n1": "e"})


def broken(*events: Event) -> list[str]:
    return [violation.broken for violation in judge(History(events)).violations]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([PUT, READ, WELL], []),
        ([PUT, WELL], ["lost"]),
        ([PUT, MISSED, WELL], ["lost"]),
        ([PUT, READ, MISSED, WELL], ["unreadable"]),
        ([PUT, replace(READ, digest=B)], ["wrong-bytes"]),
        ([PUT, replace(READ, digest=B, is_final=False), READ], ["wrong-bytes"]),
        ([replace(READ, is_final=False)], ["wrong-bytes"]),
        ([PUT, READ, Peek("crow", "doc", 1, 30)], ["unauthorised"]),
        ([PUT, READ, Peek("crow", "doc", 0, 30)], []),
        ([PUT, Remove("doc", "acknowledged", 20), READ], ["resurrected"]),
        ([PUT, Remove("doc", "unknown", 20), READ], []),
        ([PUT, Remove("doc", "acknowledged", 20), MISSED], []),
        ([PUT, Remove("doc", "refused", 20), MISSED], ["lost"]),
        ([PUT, READ, replace(WELL, epochs={"n0": "e", "n1": "f"})], ["apart"]),
        ([PUT, READ, replace(WELL, epochs={"n0": "e", "n1": ""})], ["apart"]),
        ([PUT, READ, replace(WELL, short={"doc": "2 of 3"})], ["short"]),
        ([PUT, READ, WELL, Down("n1", 30, "ended with 1")], ["down"]),
    ],
)
def test_each_broken_promise_is_named_and_nothing_else(events: list[Event], expected: list[str]) -> None:
    assert broken(*events) == expected


def test_as_many_harmed_holders_as_were_waited_for_excuse_and_one_fewer_does_not() -> None:
    assert broken(PUT, Harm("n0", 10), MISSED) == ["lost"]
    assert broken(PUT, Harm("n0", 10), Harm("n0", 12, "doc"), MISSED) == ["lost"], "one holder, harmed twice"
    judged = judge(History([PUT, Harm("n0", 10), Harm("n1", 11, "doc"), MISSED]))
    assert not judged.violations and judged.excused == 1
    assert broken(PUT, Harm("n0", 10, "other"), Harm("n1", 11, "other"), MISSED) == ["lost"]
    assert broken(PUT, Harm("n0", 0.5), Harm("n1", 0.6), MISSED) == ["lost"], "before the put: no holder of it"


def test_who_could_not_answer_promises_nothing() -> None:
    for outcome in ("refused", "unknown"):
        put = replace(PUT, outcome=outcome)  # type: ignore[arg-type]
        assert broken(put, MISSED) == []
        assert broken(put, READ) == []
        assert broken(put, replace(READ, digest=B)) == ["wrong-bytes"]


NODES = ("n0", "n1", "n2", "n3")


@st.composite
def honest(draw: st.DrawFn) -> list[Event]:
    """A history of nodes that keep every promise."""
    events: list[Event] = []
    puts = []
    for number in range(draw(st.integers(1, 6))):
        outcome = draw(st.sampled_from(["acknowledged", "acknowledged", "refused", "unknown"]))
        at = draw(st.floats(0, 20))
        put = Put(f"d{number}", draw(st.sampled_from(NODES)), digest_of(b"%d" % number), 2, outcome, at, at + 1)
        puts.append(put)
    harms = [Harm(node, draw(st.floats(0, 30))) for node in draw(st.lists(st.sampled_from(NODES), max_size=3))]
    events += puts + harms
    for put in puts:
        events.append(Peek("crow", put.key, 0, 25))
        if draw(st.booleans()):
            events.append(Get(put.key, "n1", draw(st.sampled_from(["", put.digest])), 21, 22))
        harmed = {harm.node for harm in harms if harm.at >= put.began_at}
        is_gone = (len(harmed) >= 2 or put.outcome != "acknowledged") and draw(st.booleans())
        events += [Get(put.key, node, "" if is_gone else put.digest, 50, 51, is_final=True) for node in NODES]
    events.append(Settled(1.0, 60.0, dict.fromkeys(NODES, "epoch")))
    return events


@given(honest())
def test_an_honest_history_breaks_nothing(events: list[Event]) -> None:
    assert broken(*events) == []


@given(honest(), st.data())
def test_one_lie_in_an_honest_history_is_found(events: list[Event], data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["lost", "wrong-bytes", "unauthorised", "apart", "short", "resurrected"]))
    extra = Put("it", "n0", A, 2, "acknowledged", 40, 41)
    read = [Get("it", node, A, 50, 51, is_final=True) for node in NODES]
    match kind:
        case "lost":
            lie: list[Event] = [extra, *(replace(one, digest="") for one in read)]
        case "wrong-bytes":
            lie = [extra, *read[1:], replace(read[0], digest=B)]
        case "unauthorised":
            lie = [extra, *read, Peek("crow", "it", 16, 45)]
        case "apart":
            lie = [Settled(60.0, 60.0, {"n0": "one", "n1": "two"})]
        case "short":
            lie = [extra, *read, Settled(60.0, 60.0, {"n0": "e"}, {"it": "1 of 3 proved"})]
        case _:
            lie = [extra, Remove("it", "acknowledged", 45), read[0]]
    at = data.draw(st.integers(0, len(events)))
    assert broken(*events[:at], *lie, *events[at:]) == [kind]
