"""The inventory: documents come and go, chunks are governed and placed, what is due comes in order, nothing is lost."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from rage_net.cid import DAG_CBOR, Cid
from rage_net.errors import ConflictError, IntegrityError
from rage_net.libp2p.peer_id import PeerId
from rage_net.replication import inventory as inventory_module
from rage_net.replication.inventory import (
    EVIDENCE_MAX,
    EVIDENCE_OF_ONE_MAX,
    MOVED_S,
    OUTCOMES,
    VANISHED_S,
    Inventory,
    Item,
    Wanted,
    open_inventory,
)

from .world import cid, peer

OWN = peer(0)


def root(number: int) -> Cid:
    return Cid(DAG_CBOR, cid(1_000_000 + number).digest)


def wanted(number: int, *, at: int = 0, policy: str = "default", factor: int = 3, topology: str = "") -> Wanted:
    """Document `number`, whose root is `at` of its own roots."""
    return Wanted("acme", f"doc-{number}", root(100 * number + at), peer(9), policy, factor, min(2, factor), topology)


@pytest.fixture
def inventory() -> Iterator[Inventory]:
    made = Inventory(None, OWN)
    made.use("a")
    yield made
    made.close()


def come(inventory: Inventory, document: Wanted, chunks: Sequence[int], now: float = 1.0) -> None:
    """A document is seen and read: its chunks, by number."""
    inventory.see([document], inventory.same_round(), now)
    (unread,) = [each for each in inventory.unread(now, 10_000) if each.doc_id == document.doc_id]
    inventory.read(unread.id, document.root, [(cid(number), 1000 + number) for number in chunks], now)


def remove(inventory: Inventory, number: int, now: float, *, is_told: bool = True) -> None:
    inventory.forget("acme", f"doc-{number}", now, is_told=is_told)


def sweep(inventory: Inventory, seen: int, now: float) -> list[str]:
    """The round is over: what it did not see was removed. Returns: which documents."""
    gone = inventory.unseen(seen)
    for organization, doc_id in gone:
        inventory.forget(organization, doc_id, now, is_told=True)
    return [doc_id for _, doc_id in gone]


def place(inventory: Inventory, home: Sequence[PeerId], now: float = 1.0, *, here: Sequence[int] = ()) -> int:
    """All that is to be placed goes to `home`. Returns: how many that were."""
    count = 0
    while items := inventory.unplaced():
        inventory.place([(item, home, any(item.cid == cid(number) for number in here)) for item in items], now)
        count += len(items)
    return count


def found(inventory: Inventory, number: int) -> Item:
    item = inventory.find(cid(number))
    assert item is not None
    return item


# --- documents ---


def test_a_document_is_read_once_and_its_chunks_are_its_own(inventory: Inventory) -> None:
    assert inventory.see([wanted(1), wanted(2)], inventory.begin_round(), 1.0) == 2
    assert inventory.unread_count() == 2
    assert not inventory.is_read("acme", "doc-1")
    come(inventory, wanted(1), [1, 2, 3])
    assert [each.doc_id for each in inventory.unread(1.0)] == ["doc-2"]
    assert not inventory.is_read("acme", "doc-1")  # not placed yet
    assert place(inventory, [peer(1), peer(2)]) == 3
    assert inventory.is_read("acme", "doc-1")
    assert inventory.see([wanted(1)], inventory.same_round(), 2.0) == 0
    item = found(inventory, 2)
    assert (item.doc_id, item.size, item.factor, item.minimum, item.owner) == ("doc-1", 1002, 3, 2, peer(9))
    assert item.home == (peer(1), peer(2))
    assert inventory.documents_with(root(100)) == ["doc-1"]
    assert inventory.documents_of(item.id) == [("acme", "doc-1")]


def test_reading_that_failed_is_due_later_and_comes_behind_what_was_not_tried(inventory: Inventory) -> None:
    inventory.see([wanted(1), wanted(2)], inventory.begin_round(), 1.0)
    newest, oldest = inventory.unread(1.0)
    assert (newest.doc_id, oldest.doc_id) == ("doc-2", "doc-1")
    inventory.put_off(newest.id, 5.0)
    assert [each.doc_id for each in inventory.unread(4.9)] == ["doc-1"]
    assert [(each.doc_id, each.tries) for each in inventory.unread(5.0)] == [("doc-1", 0), ("doc-2", 1)]
    assert len(inventory.unread(5.0, 1)) == 1


def test_documents_that_a_round_did_not_see_are_gone_and_their_chunks_belong_nowhere(inventory: Inventory) -> None:
    come(inventory, wanted(1), [1, 2])
    come(inventory, wanted(2), [2, 3])
    place(inventory, [OWN, peer(1)])
    inventory.set_have([found(inventory, 1), found(inventory, 2)], 1, 2.0)
    seen = inventory.begin_round()
    inventory.see([wanted(2)], seen, 3.0)
    assert sweep(inventory, seen, 3.0) == ["doc-1"]
    assert inventory.find(cid(1)) is None
    assert found(inventory, 2).doc_id == "doc-2"  # shared, and stays
    assert inventory.orphans(3.0, 10) == [cid(1)]
    assert place(inventory, [OWN, peer(1)], 4.0) == 1
    inventory.drop_orphans([cid(1)])
    assert inventory.orphans(1e9, 10) == []


def test_what_nothing_says_is_gone_is_kept_for_a_while(inventory: Inventory) -> None:
    come(inventory, wanted(1), [1])
    place(inventory, [OWN])
    inventory.set_have([found(inventory, 1)], 1, 2.0)
    remove(inventory, 1, 3.0, is_told=False)
    assert inventory.orphans(3.0 + VANISHED_S - 1, 10) == []
    assert inventory.orphans(3.0 + VANISHED_S, 10) == [cid(1)]


def test_an_orphan_that_a_document_comes_for_while_it_is_let_go_is_wanted_anew(inventory: Inventory) -> None:
    come(inventory, wanted(1), [1])
    place(inventory, [OWN])
    inventory.set_have([found(inventory, 1)], 1, 2.0)
    remove(inventory, 1, 3.0)
    orphans = inventory.orphans(3.0, 10)
    come(inventory, wanted(2), [1], 4.0)
    inventory.drop_orphans(orphans)  # the bytes are gone now
    place(inventory, [OWN], 6.0)
    assert [item.cid for item in inventory.wanted(6.0, 10)] == [cid(1)]


def test_a_chunk_that_comes_when_its_document_is_gone_is_told(inventory: Inventory) -> None:
    come(inventory, wanted(1), [1])
    place(inventory, [OWN])
    item = found(inventory, 1)
    assert inventory.set_have([item], 1, 2.0) == []
    remove(inventory, 1, 3.0)
    assert inventory.set_have([item], 1, 4.0) == [cid(1)]


def test_two_rounds_at_once_forget_nothing_that_either_saw(inventory: Inventory) -> None:
    come(inventory, wanted(1), [1])
    first = inventory.begin_round()
    second = inventory.begin_round()
    inventory.see([wanted(1)], second, 2.0)
    assert sweep(inventory, first, 2.0) == []
    inventory.see([wanted(1)], first, 2.0)
    assert sweep(inventory, second, 2.0) == []
    assert inventory.find(cid(1)) is not None


def test_a_document_that_is_gone_is_forgotten_by_its_id_alone(inventory: Inventory) -> None:
    come(inventory, wanted(1), [1])
    remove(inventory, 1, 2.0)
    remove(inventory, 7, 2.0)
    assert inventory.find(cid(1)) is None
    assert inventory.orphans(9.0, 10) == []  # it was not here: nothing is to be let go
    assert inventory.totals() == []


def test_a_new_root_leaves_the_chunks_of_the_old_one(inventory: Inventory) -> None:
    come(inventory, wanted(1), [1, 2])
    place(inventory, [OWN])
    inventory.set_have([found(inventory, 1), found(inventory, 2)], 1, 2.0)
    assert inventory.see([wanted(1, at=1)], inventory.same_round(), 3.0) == 1
    (unread,) = inventory.unread(3.0)
    inventory.read(unread.id, root(100), [(cid(7), 1)], 3.0)  # a page of the old root, read before it moved
    assert inventory.find(cid(7)) is None
    inventory.read(unread.id, root(101), [(cid(2), 1002), (cid(3), 1003)], 3.0, is_last=False)
    assert not inventory.is_read("acme", "doc-1")
    inventory.read(unread.id, root(101), [(cid(4), 1004)], 3.0)
    assert place(inventory, [OWN], 4.0) == 3
    assert found(inventory, 2).have == 1  # what both roots have is still here
    assert inventory.orphans(4.0, 10) == []  # its new root may be in doubt yet
    assert inventory.orphans(3.0 + MOVED_S, 10) == [cid(1)]
    inventory.read(99, root(101), [(cid(8), 1)], 3.0)  # of a document that is gone
    assert inventory.find(cid(8)) is None


# --- policies ---


def test_a_shared_chunk_is_governed_by_who_wants_most_copies(inventory: Inventory) -> None:
    come(inventory, wanted(1, factor=3), [1])
    come(inventory, wanted(2, factor=5, policy="critical"), [1])
    come(inventory, wanted(3, factor=2), [1])
    assert (found(inventory, 1).factor, found(inventory, 1).policy) == (5, "critical")
    assert inventory.documents_of(found(inventory, 1).id) == [("acme", f"doc-{number}") for number in (1, 2, 3)]
    remove(inventory, 2, 2.0)
    assert found(inventory, 1).factor == 3


def test_a_policy_that_changes_changes_who_governs(inventory: Inventory) -> None:
    come(inventory, wanted(1, factor=3), [1, 2])
    come(inventory, wanted(2, factor=2), [1])
    place(inventory, [OWN])
    assert inventory.see([wanted(2, factor=4, policy="critical")], inventory.same_round(), 2.0) == 1
    assert (found(inventory, 1).factor, found(inventory, 1).doc_id) == (4, "doc-2")
    assert [item.cid for item in inventory.unplaced()] == [cid(1)]
    place(inventory, [OWN])
    inventory.see([wanted(2, factor=1)], inventory.same_round(), 3.0)
    assert (found(inventory, 1).factor, found(inventory, 1).doc_id) == (3, "doc-1")
    assert inventory.is_read("acme", "doc-2") is False  # to be placed anew
    place(inventory, [OWN])
    inventory.see([wanted(1, factor=3, topology="globex")], inventory.same_round(), 4.0)
    assert {item.cid for item in inventory.unplaced()} == {cid(1), cid(2)}
    assert found(inventory, 1).topology == "globex"


def test_totals_are_by_the_policy_that_governs(inventory: Inventory) -> None:
    come(inventory, wanted(1, factor=3), [1, 2])
    come(inventory, wanted(2, factor=5, policy="critical"), [2, 3])
    totals = [(row.policy, row.factor, row.documents, row.chunks, row.size) for row in inventory.totals()]
    assert totals == [("critical", 5, 1, 2, 1002 + 1003), ("default", 3, 1, 1, 1001)]


class Governed(RuleBasedStateMachine):
    """Whatever happens to documents, a chunk is there for as long as one wants it, under the highest factor."""

    def __init__(self) -> None:
        super().__init__()
        self.inventory = Inventory(None, OWN)
        self.inventory.use("a")
        self.documents: dict[int, tuple[Wanted, set[int]]] = {}
        self.here: set[int] = set()
        self.now = 1.0

    def teardown(self) -> None:
        self.inventory.close()

    @rule(number=st.integers(0, 3), chunks=st.sets(st.integers(0, 5)), factor=st.integers(1, 5), at=st.integers(0, 2))
    def come(self, number: int, chunks: set[int], factor: int, at: int) -> None:
        self.now += 1
        known = self.documents.get(number)
        document = wanted(number, factor=factor, at=at)
        if known is not None and known[0].root == document.root:
            chunks = known[1]  # a root names what it names
            self.inventory.see([document], self.inventory.same_round(), self.now)
        else:
            come(self.inventory, document, sorted(chunks), self.now)
        self.documents[number] = document, chunks

    @rule(number=st.integers(0, 3))
    def go(self, number: int) -> None:
        self.now += 1
        self.documents.pop(number, None)
        remove(self.inventory, number, self.now)

    @rule(kept=st.sets(st.integers(0, 3)))
    def compare(self, kept: set[int]) -> None:
        self.now += 1
        seen = self.inventory.begin_round()
        self.documents = {number: value for number, value in self.documents.items() if number in kept}
        self.inventory.see([document for document, _ in self.documents.values()], seen, self.now)
        sweep(self.inventory, seen, self.now)

    @rule(number=st.integers(0, 5))
    def fetch(self, number: int) -> None:
        item = self.inventory.find(cid(number))
        if item is not None:
            self.inventory.set_have([item], 1, self.now)
            self.here.add(number)

    @rule()
    def place(self) -> None:
        place(self.inventory, [OWN, peer(1)], self.now)

    @rule()
    def let_go(self) -> None:
        orphans = self.inventory.orphans(self.now, 100)
        self.inventory.drop_orphans(orphans)
        self.here -= {number for number in range(6) if cid(number) in orphans}

    @invariant()
    def holds(self) -> None:
        wanted_by = {
            number: [document for document, chunks in self.documents.values() if number in chunks]
            for number in range(6)
        }
        for number, documents in wanted_by.items():
            item = self.inventory.find(cid(number))
            assert (item is not None) == bool(documents)
            if item is not None:
                assert item.factor == max(document.factor for document in documents)
                assert set(self.inventory.documents_of(item.id)) == {
                    ("acme", document.doc_id) for document in documents
                }
                assert bool(item.have) == (number in self.here)


def test_any_course_of_documents_leaves_what_is_wanted() -> None:
    run_state_machine_as_test(Governed, settings=settings(max_examples=settings.default.max_examples // 2))


# --- placement ---


def test_a_new_topology_makes_all_home_sets_due_a_page_at_a_time(inventory: Inventory) -> None:
    come(inventory, wanted(1), range(5))
    assert place(inventory, [OWN]) == 5
    assert not inventory.use("a")
    assert inventory.unplaced() == []
    assert inventory.use("b")
    assert len(inventory.unplaced(2)) == 2
    assert not inventory.is_read("acme", "doc-1")
    assert place(inventory, [peer(1)]) == 5
    assert inventory.loads() == {peer(1): (5, 5010)}


def test_a_home_of_another_life_is_not_computed_again(tmp_path: Path) -> None:
    path = tmp_path / "replicas.db"
    first = Inventory(path, OWN)
    first.use("a")
    come(first, wanted(1), [1])
    place(first, [OWN, peer(3)])
    first.close()
    second = Inventory(path, OWN)
    assert not second.use("a")
    assert second.unplaced() == []
    assert found(second, 1).home == (OWN, peer(3))
    assert second.use("b")
    assert len(second.unplaced()) == 1
    second.close()


def test_what_is_ours_is_wanted_and_what_is_not_is_too_many(inventory: Inventory) -> None:
    come(inventory, wanted(1), [1, 2, 3, 4])
    items = {item.cid: item for item in inventory.unplaced()}
    inventory.place(
        [
            (items[cid(1)], [OWN, peer(1)], False),
            (items[cid(2)], [OWN, peer(1)], True),  # a document was put here: it is made a replica, too
            (items[cid(3)], [peer(1)], False),
            (items[cid(4)], [peer(1)], True),
        ],
        2.0,
    )
    assert {item.cid for item in inventory.wanted(2.0, 10)} == {cid(1), cid(2)}
    assert [item.cid for item in inventory.surplus(2.0, 10)] == [cid(4)]
    assert inventory.backlog() == (2, 1001 + 1002)
    inventory.set_have([items[cid(1)], items[cid(2)]], 1, 3.0)
    assert inventory.wanted(9.0, 10) == []
    assert inventory.backlog() == (0, 0)
    assert [each for _, each in inventory.held(0)] == [cid(1), cid(2), cid(4)]
    assert [each for _, each in inventory.held(items[cid(1)].id, 1)] == [cid(2)]


def test_a_home_that_changes_starts_a_new_count_and_one_that_stays_does_not(inventory: Inventory) -> None:
    come(inventory, wanted(1), [1])
    place(inventory, [OWN, peer(1)], 2.0)
    assert found(inventory, 1).since == 2.0
    inventory.set_have([found(inventory, 1)], 1, 3.0)
    inventory.audited([(found(inventory, 1).id, 500.0, True)])
    inventory.use("b")
    place(inventory, [OWN, peer(1)], 9.0)
    assert found(inventory, 1).since == 3.0
    assert inventory.due([OWN], 400.0, 10) == []
    inventory.use("c")
    place(inventory, [OWN, peer(2)], 10.0)
    assert found(inventory, 1).since == 10.0
    assert [item.cid for item in inventory.due([OWN], 10.0, 10)] == [cid(1)]


def test_what_was_kept_for_a_pin_and_becomes_ours_is_made_a_replica(inventory: Inventory) -> None:
    come(inventory, wanted(1), [1])
    place(inventory, [peer(1)], here=[1])
    assert inventory.begin_drop(found(inventory, 1).id)
    inventory.set_have([found(inventory, 1)], 2, 2.0)
    assert inventory.surplus(9.0, 10) == []
    inventory.use("b")
    place(inventory, [OWN], 3.0, here=[1])
    assert [item.cid for item in inventory.wanted(3.0, 10)] == [cid(1)]


def test_what_a_coordinator_asked_for_comes_first_then_the_newest(inventory: Inventory) -> None:
    come(inventory, wanted(1), [1])
    place(inventory, [OWN], 2.0)
    come(inventory, wanted(2), [2], 3.0)
    place(inventory, [OWN], 3.0)
    come(inventory, wanted(3), [3], 1.0)
    place(inventory, [peer(1)], 1.0)
    assert inventory.ask_to_hold("acme", [cid(3), cid(77)], 1.5) == 1
    assert inventory.ask_to_hold("globex", [cid(3)], 1.5) == 0
    assert [item.cid for item in inventory.wanted(4.0, 10)] == [cid(3), cid(2), cid(1)]
    assert [item.cid for item in inventory.wanted(4.0, 2)] == [cid(3), cid(1)]  # half for who has waited longest
    inventory.put_off_chunks([(found(inventory, 3).id, 8.0)])
    assert [item.cid for item in inventory.wanted(7.9, 10)] == [cid(2), cid(1)]
    assert found(inventory, 3).tries == 1
    inventory.set_have([found(inventory, 3)], 1, 9.0)
    assert found(inventory, 3).tries == 0


def test_surplus_that_was_put_off_comes_behind(inventory: Inventory) -> None:
    come(inventory, wanted(1), [1, 2])
    place(inventory, [peer(1)], 2.0, here=[1, 2])
    inventory.put_off_chunks([(found(inventory, 1).id, 5.0)])
    assert [item.cid for item in inventory.surplus(4.0, 10)] == [cid(2)]
    assert [item.cid for item in inventory.surplus(5.0, 10)] == [cid(2), cid(1)]


def test_a_guest_stays_one_through_new_homes_until_it_is_released(inventory: Inventory) -> None:
    come(inventory, wanted(1), [1])
    place(inventory, [peer(1)], 2.0)
    inventory.ask_to_hold("acme", [cid(1)], 3.0)
    inventory.set_have([found(inventory, 1)], 1, 4.0)
    inventory.use("b")
    place(inventory, [peer(2)], 5.0)
    assert [item.cid for item in inventory.guests()] == [cid(1)]
    assert not inventory.begin_drop(found(inventory, 1).id)
    inventory.release_guests([found(inventory, 1).id], 6.0)
    assert inventory.guests() == []
    assert [item.cid for item in inventory.surplus(6.0, 10)] == [cid(1)]
    assert inventory.begin_drop(found(inventory, 1).id)
    assert not inventory.begin_drop(found(inventory, 1).id)
    assert inventory.surplus(9.0, 10) == []


def test_a_chunk_that_became_ours_meanwhile_is_not_dropped(inventory: Inventory) -> None:
    come(inventory, wanted(1), [1])
    place(inventory, [peer(1)], 2.0, here=[1])
    inventory.ask_to_hold("acme", [cid(1)], 3.0)
    assert not inventory.begin_drop(found(inventory, 1).id)
    assert found(inventory, 1).have == 1


def test_rot_makes_it_wanted_and_what_is_found_here_is_noted(inventory: Inventory) -> None:
    come(inventory, wanted(1), [1, 2])
    place(inventory, [OWN], 2.0)
    assert inventory.noted([cid(1), cid(2), cid(77)], 3.0) == 3
    assert inventory.orphans(3.0 + VANISHED_S - 1, 10) == []  # its document may not have been read yet
    assert inventory.orphans(3.0 + VANISHED_S, 10) == [cid(77)]
    assert inventory.wanted(4.0, 10) == []
    assert inventory.lost([cid(1), cid(77)], 5.0) == 1
    assert inventory.lost([cid(1)], 5.0) == 0
    assert [item.cid for item in inventory.wanted(5.0, 10)] == [cid(1)]


# --- audits ---


def test_what_is_due_longest_comes_first_and_only_of_whom_was_asked(inventory: Inventory) -> None:
    for number, first in ((1, OWN), (2, peer(1)), (3, OWN)):
        come(inventory, wanted(number), [number])
        place(inventory, [first, peer(2)], float(10 - number))
    assert [item.cid for item in inventory.due([OWN], 20.0, 10)] == [cid(3), cid(1)]
    assert [item.cid for item in inventory.due([OWN, peer(1)], 20.0, 2)] == [cid(3), cid(2)]
    assert inventory.due([peer(2), peer(55)], 20.0, 10) == []
    assert inventory.due([], 20.0, 10) == []
    inventory.audited([(found(inventory, 3).id, 50.0, False), (found(inventory, 1).id, 30.0, True)])
    assert [(item.cid, item.audits) for item in inventory.due([OWN], 50.0, 10)] == [(cid(1), 0), (cid(3), 1)]
    inventory.audited([(found(inventory, 3).id, 60.0, True)])
    assert found(inventory, 3).audits == 0


def test_a_holder_proves_or_fails_from_when_it_began_to(inventory: Inventory) -> None:
    come(inventory, wanted(1), [1])
    place(inventory, [OWN, peer(1)], 1.0)
    chunk = found(inventory, 1).id
    for now, outcome in ((2.0, "absent"), (5.0, "absent"), (9.0, "proved"), (12.0, "proved")):
        inventory.note([(chunk, peer(1), outcome)], now)  # type: ignore[list-item]
    (known,) = inventory.proofs([chunk])[chunk]
    assert (known.peer, known.outcome, known.at, known.since) == (peer(1), "proved", 12.0, 9.0)
    for at, outcome in enumerate(("late", "unreachable", "absent", "late")):  # it has failed all the while
        inventory.note([(chunk, peer(1), outcome)], 15.0 + at)  # type: ignore[list-item]
    (known,) = inventory.proofs([chunk])[chunk]
    assert (known.outcome, known.at, known.since) == ("late", 18.0, 15.0)
    for outcome in OUTCOMES:
        inventory.note([(chunk, peer(1), outcome)], 20.0)
        assert inventory.proofs([chunk])[chunk][0].outcome == outcome
    assert inventory.proofs([chunk, 99])[99] == []


def test_what_changes_at_a_node_makes_its_chunks_due(inventory: Inventory) -> None:
    # 257 nodes, so that numbers of two bytes overlap in home sets: the pattern of one may lie across two others
    come(inventory, wanted(1), [1])
    place(inventory, [OWN, *map(peer, range(1, 258))], 1.0)
    come(inventory, wanted(2), [2])
    place(inventory, [OWN, peer(256), peer(1)], 1.0)
    for number in (1, 2):
        inventory.audited([(found(inventory, number).id, 1e6, False)])
    assert inventory.hasten(peer(5), 7.0) == 1
    assert [(item.cid, item.audits) for item in inventory.due([OWN], 7.0, 10)] == [(cid(1), 0)]
    assert inventory.hasten(peer(1), 7.0) == 2
    assert inventory.hasten(peer(9999), 7.0) == 0


def test_numbers_of_nodes_do_not_match_across_two_others(inventory: Inventory) -> None:
    for number in range(1, 300):
        inventory.number(peer(number))
    by_number = {inventory.number(peer(number)): peer(number) for number in range(1, 300)}
    come(inventory, wanted(1), [1])
    place(inventory, [by_number[257], by_number[258]], 1.0)  # 01 01 01 02: 0101 also stands across
    come(inventory, wanted(2), [2])
    place(inventory, [by_number[1], by_number[256]], 1.0)  # 00 01 01 00: 0101 stands across only
    assert inventory.hasten(by_number[257], 2.0) == 1


def test_evidence_is_kept_within_bounds(inventory: Inventory, monkeypatch: pytest.MonkeyPatch) -> None:
    assert EVIDENCE_OF_ONE_MAX < EVIDENCE_MAX
    monkeypatch.setattr(inventory_module, "EVIDENCE_MAX", 15)
    kept = [inventory.keep_evidence(peer(1), cid(1), b"statement", b"signature", 1.0) for _ in range(12)]
    assert kept == [True] * EVIDENCE_OF_ONE_MAX + [False] * 2
    kept = [inventory.keep_evidence(peer(2 + number), cid(1), b"statement", b"signature", 1.0) for number in range(7)]
    assert kept == [True] * 5 + [False] * 2
    assert set(inventory.liars()) == {peer(number) for number in (1, 2, 3, 4, 5, 6)}


# --- looking ---


def test_pages_are_by_id_and_of_a_policy_or_documents_alone(inventory: Inventory) -> None:
    come(inventory, wanted(1), [1, 2])
    come(inventory, wanted(2, factor=5, policy="critical"), [2, 3])
    everything = inventory.page()
    assert [item.cid for item in everything] == [cid(1), cid(2), cid(3)]
    assert [item.cid for item in inventory.page(everything[0].id, 1)] == [cid(2)]
    assert [item.cid for item in inventory.page(policy="critical")] == [cid(2), cid(3)]
    assert [item.cid for item in inventory.page(documents=["doc-1"])] == [cid(1), cid(2)]
    assert inventory.page(documents=["doc-1"], policy="default")[0].cid == cid(1)
    assert inventory.page(documents=["doc-9"]) == []


# --- the file ---


def test_its_clock_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "replicas.db"
    first = Inventory(path, OWN)
    assert first.clock_at_open == 1.0
    first.save_clock(1234.5)
    first.close()
    second = Inventory(path, OWN)
    assert second.clock_at_open == 1234.5
    second.close()


@pytest.mark.parametrize("damage", ["gone", "torn", "foreign", "later"])
def test_a_file_that_cannot_be_read_is_made_anew(damage: str, tmp_path: Path, rng: random.Random) -> None:
    path = tmp_path / "replicas.db"
    first = open_inventory(path, OWN)
    come(first, wanted(1), [1])
    first.close()
    if damage == "gone":
        path.unlink()
    elif damage == "torn":
        path.write_bytes(rng.randbytes(path.stat().st_size))
    else:
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA application_id = 7" if damage == "foreign" else "PRAGMA user_version = 99")
        db.close()
    if damage in ("torn", "foreign", "later"):
        with pytest.raises((IntegrityError, ConflictError)):
            Inventory(path, OWN)
    second = open_inventory(path, OWN)
    assert second.totals() == []
    come(second, wanted(1), [1])
    assert second.find(cid(1)) is not None
    second.close()


def test_a_manifest_of_100_000_chunks_is_read_placed_and_left_in_bounded_time(tmp_path: Path) -> None:
    inventory = Inventory(tmp_path / "replicas.db", OWN)
    inventory.use("a")
    inventory.see([wanted(1)], inventory.begin_round(), 1.0)
    (unread,) = inventory.unread(1.0)
    members = [(cid(number), 65536) for number in range(100_000)]
    began = time.process_time()  # making their names is not what is measured
    for at in range(0, 100_000, 10_000):
        inventory.read(unread.id, root(100), members[at : at + 10_000], 1.0, is_last=at == 90_000)
    assert place(inventory, [OWN, peer(1), peer(2)], 1.0) == 100_000
    assert inventory.backlog() == (100_000, 100_000 * 65536)
    assert len(inventory.wanted(2.0, 128)) == 128
    assert inventory.hasten(peer(1), 2.0) == 100_000
    assert inventory.see([wanted(1, factor=5)], inventory.same_round(), 2.0) == 1
    remove(inventory, 1, 3.0)
    assert inventory.backlog() == (0, 0)
    assert time.process_time() - began < 60
    inventory.close()
