"""Records: any order comes to the same; what is no edit of a record never reaches pycrdt, or is refused by all."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycrdt import Array, Doc, Map, Text

from rage_net.sync import catalog
from rage_net.sync.catalog import (
    EDITS_MAX,
    TAGS_MAX,
    ChangeError,
    Changes,
    CountedEdit,
    Record,
    Refused,
    build,
    make_edit,
    merge,
)
from rage_net.sync.updates import UpdateError, read_update

VECTORS = json.loads((Path(__file__).parents[2] / "contracts/vectors/log.json").read_text())


def edit(number: int, client: int, update: bytes, lamport: int | None = None) -> CountedEdit:
    return CountedEdit(number.to_bytes(16, "big"), number if lamport is None else lamport, frozenset({client}), update)


def write(*steps: tuple[int, Changes]) -> list[CountedEdit]:
    """Edits one after the other, each having seen those before it."""
    edits: list[CountedEdit] = []
    for number, (client, changes) in enumerate(steps, 1):
        edits.append(edit(number, client, make_edit(client, edits, changes)))
    return edits


def raw(client: int, change: object) -> bytes:
    """What pycrdt writes when `change(doc)` is done by this client."""
    doc: Doc[object] = Doc(client_id=client)
    with doc.transaction():
        change(doc)  # type: ignore[operator]
    return doc.get_update()


def test_the_committed_edits_come_to_the_committed_record() -> None:
    for one in VECTORS["records"]:
        edits = [
            CountedEdit(bytes.fromhex(e["id"]), e["lamport"], frozenset({e["client_id"]}), bytes.fromhex(e["update"]))
            for e in one["edits"]
        ]
        wanted = one["record"]
        record, refused = build(edits)
        assert not refused
        assert record == Record(wanted["name"], tuple(wanted["tags"]), wanted["policy"], wanted["retention_until"])


def test_a_record_holds_what_was_set_last_by_whoever_saw_the_rest() -> None:
    edits = write(
        (5, Changes(name="draft", tags_added=("x", "y"))),
        (9, Changes(name="final", tags_removed=("x",), policy="hot", retention_until=1_900_000_001)),
    )
    assert build(edits) == (Record("final", ("y",), "hot", 1_900_000_001), ())
    assert make_edit(5, edits, Changes(name="final", tags_added=("y",), tags_removed=("x",))) == b""


changes = st.builds(
    Changes,
    name=st.none() | st.sampled_from(["a", "b", "ü"]),
    policy=st.none() | st.sampled_from(["hot", ""]),
    retention_until=st.none() | st.integers(0, 1 << 40),
    tags_added=st.lists(st.sampled_from("xyz"), max_size=2).map(tuple),
    tags_removed=st.lists(st.sampled_from("xyz"), max_size=2).map(tuple),
)


@given(st.lists(st.tuples(st.integers(0, 2), changes, st.sets(st.integers(0, 2))), max_size=10), st.randoms())
def test_edits_come_to_the_same_in_any_order_twice_or_once(
    steps: list[tuple[int, Changes, set[int]]], chance: random.Random
) -> None:
    """Three authors edit, each having seen its own and what it met; then all edits are given in any order."""
    seen: list[list[CountedEdit]] = [[], [], []]
    everything: list[CountedEdit] = []
    for author, change, met in steps:
        for other in met:
            known = {one.id for one in seen[author]}
            seen[author] += [one for one in seen[other] if one.id not in known]
        update = make_edit(author + 1, seen[author], change)
        if update:
            lamport = max((one.lamport for one in seen[author]), default=0) + 1
            made = edit(len(everything) + 1, author + 1, update, lamport)
            everything.append(made)
            seen[author].append(made)
    record, refused = build(everything)
    assert not refused
    shuffled = everything * 2
    chance.shuffle(shuffled)
    assert build(shuffled) == (record, ())
    merged = CountedEdit(b"m" * 16, 1, frozenset({1, 2, 3}), merge(everything)) if everything else None
    assert merged is None or build([merged]) == (record, ())


def test_an_edit_waits_for_those_it_follows_and_is_incomplete_without_them() -> None:
    first, second = write((5, Changes(name="a")), (9, Changes(name="b")))
    assert build([second]) == (Record(), (Refused(second.id, "incomplete"),))
    early = CountedEdit(second.id, 0, second.clients, second.update)
    assert build([early, first]) == (Record(name="b"), ())


def test_an_edit_that_advances_another_authors_client_id_is_refused() -> None:
    edits = write((5, Changes(name="a")))
    forged = edit(2, 9, make_edit(5, edits, Changes(name="forged")))
    assert build([*edits, forged]) == (Record(name="a"), (Refused(forged.id, "client"),))


def test_a_clock_that_is_taken_is_refused_whoever_comes_later() -> None:
    edits = write((5, Changes(name="a")))
    one, other = (edit(number, 5, make_edit(5, edits, Changes(name=name))) for number, name in ((2, "b"), (3, "c")))
    for given_in in ([*edits, one, other], [other, one, *edits]):
        assert build(given_in) == (Record(name="b"), (Refused(other.id, "clock-taken"),))


def test_what_deletes_items_that_are_not_there_yet_waits_for_them() -> None:
    """A deletion ahead of its item would take effect when the item comes: it must not apply before."""
    (first,) = write((5, Changes(name="a")))
    ahead = edit(2, 9, bytes((0, 1, 5, 1, 0, 1)))  # no items; of client 5: from clock 0, one
    assert build([ahead]) == (Record(), (Refused(ahead.id, "incomplete"),))
    assert build([ahead, first]) == (Record(), ())


@pytest.mark.parametrize(
    "change",
    [
        lambda doc: doc.get("other", type=Map).update({"name": "x"}),
        lambda doc: doc.get("record", type=Map).update({"unknown": "x"}),
        lambda doc: doc.get("record", type=Map).update({"tag/a\u202eb": True}),
        lambda doc: doc.get("record", type=Map).update({"name": Map({"deep": Map({"er": 1.0})})}),
        lambda doc: doc.get("record", type=Map).update({"name": Text("text")}),
        lambda doc: doc.get("record", type=Map).update({"name": [[[["deep"]]]]}),
        lambda doc: doc.get("record", type=Map).update({"name": {"a": {"b": "c"}}}),
        lambda doc: doc.get("record", type=Map).update({"name": b"bytes"}),
        lambda doc: doc.get("record", type=Map).update({"name": "x" * 2000}),
        lambda doc: doc.get("record", type=Map).update({"name": Doc()}),
        lambda doc: doc.get("record", type=Array).append("x"),
        lambda doc: doc.get("record", type=Text).insert(0, "x"),
    ],
)
def test_what_no_record_has_is_refused_unread(change: object) -> None:
    bad = edit(1, 5, raw(5, change))
    assert build([bad]) == (Record(), (Refused(bad.id, "malformed"),))


def test_values_of_another_type_are_as_if_they_were_not_set() -> None:
    odd = edit(
        1, 5, raw(5, lambda doc: doc.get("record", type=Map).update({"name": 5.0, "tag/x": "yes", "policy": True}))
    )
    assert build([odd]) == (Record(), ())
    far = edit(1, 5, raw(5, lambda doc: doc.get("record", type=Map).update({"retention_until": -1.0})))
    nan = edit(1, 5, raw(5, lambda doc: doc.get("record", type=Map).update({"retention_until": float("nan")})))
    endless = edit(1, 5, raw(5, lambda doc: doc.get("record", type=Map).update({"retention_until": float("inf")})))
    for one in (far, nan, endless):
        assert build([one]) == (Record(), ())


@given(st.binary(max_size=120))
def test_garbage_never_reaches_pycrdt(data: bytes) -> None:
    bad = edit(1, 5, data or b"\0")
    record, refused = build([bad])
    assert record == Record()
    assert [one.reason for one in refused] in (["malformed"], ["client"], ["incomplete"])


@given(st.data())
def test_a_good_update_with_bytes_changed_is_judged_alike_and_never_panics(data: st.DataObject) -> None:
    edits = write((5, Changes(name="draft", tags_added=("x",))), (9, Changes(name="b")), (5, Changes(name="c")))
    changed = bytearray(edits[2].update)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    bad = edit(3, 5, bytes(changed))
    once = build([*edits[:2], bad])
    assert build([bad, *reversed(edits[:2])]) == once


def test_an_item_that_refers_to_itself_or_in_a_ring_is_refused() -> None:
    def item(client: int, origin: tuple[int, int]) -> bytes:
        return bytes((1, client, 0, 0xA8, *origin, 1, 0x78))

    itself = bytes((1,)) + item(5, (5, 0)) + b"\0"
    ring = bytes((2,)) + item(5, (9, 0)) + item(9, (5, 0)) + b"\0"
    for update in (itself, ring):
        with pytest.raises(UpdateError):
            read_update(update, "record", lambda key: True)


def test_more_edits_than_a_record_takes_are_refused_the_last_in_order() -> None:
    (first,) = write((5, Changes(name="a")))
    many = [edit(number, 5, b"\0") for number in range(2, EDITS_MAX + 2)]
    record, refused = build([*many, first])
    assert record == Record(name="a")
    assert refused[-1] == Refused(many[-1].id, "too-many")


def test_more_tags_than_are_shown_are_left_out() -> None:
    edits = write((5, Changes(tags_added=tuple(f"tag{number:04}" for number in range(TAGS_MAX + 1)))))
    assert len(build(edits)[0].tags) == TAGS_MAX


@pytest.mark.parametrize(
    "bad",
    [
        Changes(name="x" * 600),
        Changes(name="a\nb"),
        Changes(tags_added=("",)),
        Changes(tags_added=("a\u200bb",)),
        Changes(policy=" x"),
        Changes(retention_until=-1),
    ],
)
def test_changes_that_no_record_takes_are_refused_when_they_are_made(bad: Changes) -> None:
    with pytest.raises(ChangeError):
        make_edit(5, (), bad)


def test_a_panic_of_the_library_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    panic = type("PanicException", (BaseException,), {})

    def apply_update(self: object, update: bytes) -> None:
        raise panic("index out of bounds")

    edits = write((5, Changes(name="a")))
    monkeypatch.setattr(Doc, "apply_update", apply_update)
    assert build(edits) == (Record(), (Refused(edits[0].id, "malformed"),))


def test_an_interrupt_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def apply_update(self: object, update: bytes) -> None:
        raise KeyboardInterrupt

    edits = write((5, Changes(name="a")))
    monkeypatch.setattr(Doc, "apply_update", apply_update)
    with pytest.raises(KeyboardInterrupt):
        build(edits)


def test_merging_sheds_what_was_overwritten() -> None:
    edits = write(*[(5, Changes(name=f"name {number} " + "x" * 100)) for number in range(50)])
    merged = merge(edits)
    assert len(merged) < len(edits[0].update) + 60
    assert build([edit(1, 5, merged)])[0] == build(edits)[0]


def test_pycrdt_is_imported_when_a_record_is_first_built() -> None:
    script = "import sys, rage_net.sync.log; print('pycrdt' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
    assert catalog.build(()) == (Record(), ())
