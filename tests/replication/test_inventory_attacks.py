"""The inventory and who would misuse it: documents that name others' chunks, and policies that change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from rage_net.cid import Cid
from rage_net.libp2p.peer_id import PeerId
from rage_net.replication.inventory import DEMANDS_MAX, MOVED_S, VANISHED_S, Inventory, Item, Wanted
from rage_net.services.replicating.view import Node, View

from .world import cid, node, peer

OWN = peer(0)


@pytest.fixture
def inventory() -> Iterator[Inventory]:
    opened = Inventory(None, OWN)
    yield opened
    opened.close()


def wanted(
    doc_id: str, factor: int, *, organization: str = "acme", topology: str = "", root: Cid | None = None, owner: int = 1
) -> Wanted:
    return Wanted(organization, doc_id, root or cid(1000 + owner), peer(owner), "some", factor, 1, topology)


def tell(inventory: Inventory, each: Wanted, chunks: Sequence[Cid], now: float = 1.0) -> None:
    """A document is in the log, and its manifest has been read."""
    inventory.see([each], inventory.same_round(), now)
    for unread in inventory.unread(now, 100):
        if unread.doc_id == each.doc_id:
            inventory.read(unread.id, unread.root, [(chunk, 100) for chunk in chunks], now)


def placed(inventory: Inventory, view: View, chunk: Cid) -> Item:
    while items := inventory.unplaced():
        inventory.place([(item, view.homes(item.cid, item.demands), False) for item in items], 1.0)
    found = inventory.find(chunk)
    assert found is not None
    return found


@pytest.fixture
def view() -> View:
    made = View(OWN, "none", 10.0, 0.0)
    made.set_nodes([Node(node(number), "active") for number in range(8)])
    return made


def denied_all_but(*numbers: int) -> str:
    return ",".join(sorted(f"-{peer(each)}" for each in range(8) if each not in numbers))


def test_a_document_that_names_a_chunk_cannot_say_where_the_other_is_held(inventory: Inventory, view: View) -> None:
    tell(inventory, wanted("bbb", 3), [cid(1)])
    alone = placed(inventory, view, cid(1)).home
    tell(inventory, wanted("aaa", 3, topology=denied_all_but(6), owner=6), [cid(1)])
    item = placed(inventory, view, cid(1))
    assert item.doc_id == "aaa", "equal factors go by id, which its author chooses"
    assert set(alone) <= set(item.home) and peer(6) in item.home
    assert item.copies == len(item.home)


def test_another_organisations_document_that_wants_more_takes_no_chunk_from_ours(
    inventory: Inventory, view: View
) -> None:
    from dataclasses import replace

    foreign = [replace(node(number), organization="globex") for number in range(20, 26)]
    view.set_nodes([*view.nodes.values(), *(Node(each, "active") for each in foreign)])
    tell(inventory, wanted("ours", 3), [cid(1)])
    alone = placed(inventory, view, cid(1)).home
    tell(inventory, wanted("theirs", 5, organization="globex", owner=20), [cid(1)])
    item = placed(inventory, view, cid(1))
    assert item.organization == "globex" and set(alone) <= set(item.home)
    assert inventory.ask_to_hold("acme", [cid(1)], 1.0) == 1, "it is acme's, too, whoever governs it"


def test_a_policy_that_wants_less_afterwards_takes_no_copies_of_another_document(
    inventory: Inventory, view: View
) -> None:
    tell(inventory, wanted("ours", 3), [cid(1), cid(2)])
    alone = placed(inventory, view, cid(1)).home
    tell(inventory, wanted("other", 5, owner=6), [cid(1), cid(3)])
    assert placed(inventory, view, cid(1)).factor == 5
    tell(inventory, wanted("other", 1, owner=6), [])
    item = placed(inventory, view, cid(1))
    assert (item.doc_id, item.factor) == ("ours", 3) and item.home == alone
    assert placed(inventory, view, cid(3)).factor == 1, "what is its own follows it"


def test_a_document_that_goes_takes_nothing_of_what_others_name(inventory: Inventory, view: View) -> None:
    tell(inventory, wanted("ours", 3), [cid(1)])
    alone = placed(inventory, view, cid(1)).home
    tell(inventory, wanted("other", 5, owner=6), [cid(1), cid(2)])
    placed(inventory, view, cid(1))
    inventory.forget("acme", "other", 2.0, is_told=True)
    assert placed(inventory, view, cid(1)).home == alone
    assert inventory.find(cid(2)) is None and inventory.orphans(3.0, 10) == []


def test_ever_new_words_of_one_author_push_nothing_out_and_are_bounded(inventory: Inventory, view: View) -> None:
    tell(inventory, wanted("ours", 3), [cid(1)])
    alone = placed(inventory, view, cid(1)).home
    for number in range(4 * DEMANDS_MAX):
        words = denied_all_but(5, 6, 7) + f",org{number}"
        tell(inventory, wanted(f"{number:03}", 4, topology=words, owner=6), [cid(1)])
    item = placed(inventory, view, cid(1))
    assert len(item.demands) <= DEMANDS_MAX + 1
    assert set(alone) <= set(item.home)


def test_more_peers_than_sixteen_bits_count_are_told_apart(tmp_path: Path, view: View) -> None:
    inventory = Inventory(tmp_path / "replicas.db", OWN)
    try:
        with inventory._db.write(durable=False) as db:
            db.execute("INSERT INTO node (id, peer) VALUES (70000, ?)", (peer(99).multihash,))
        tell(inventory, wanted("ours", 3), [cid(1)])
        assert len(placed(inventory, view, cid(1)).home) == 3
        assert all(inventory.number(each) > 0xFFFF for each in placed(inventory, view, cid(1)).home)
        some: PeerId = placed(inventory, view, cid(1)).home[0]
        assert inventory.hasten(some, 5.0) == 1
    finally:
        inventory.close()


def test_what_was_removed_goes_at_once_and_what_only_vanished_is_kept_for_a_while(
    inventory: Inventory, view: View
) -> None:
    """A log that was lost, or a CA file that is wrong on all nodes, makes every document vanish at once."""
    for doc_id, chunk in (("removed", cid(1)), ("vanished", cid(2))):
        tell(inventory, wanted(doc_id, 3), [chunk])
    items = [placed(inventory, view, cid(number)) for number in (1, 2)]
    assert inventory.set_have(items, 1, 2.0) == []
    seen = inventory.begin_round()
    assert sorted(inventory.unseen(seen)) == [("acme", "removed"), ("acme", "vanished")]
    inventory.forget("acme", "removed", 10.0, is_told=True)
    inventory.forget("acme", "vanished", 10.0, is_told=False)
    assert inventory.orphans(11.0, 10) == [cid(1)]
    inventory.drop_orphans([cid(1)])
    assert inventory.orphans(9.0 + VANISHED_S, 10) == []
    tell(inventory, wanted("vanished", 3), [cid(2)])
    assert placed(inventory, view, cid(2)).have == 1, "it is back, and so are its bytes"
    inventory.forget("acme", "vanished", 20.0, is_told=False)
    assert inventory.orphans(21.0 + VANISHED_S, 10) == [cid(2)]


def test_a_document_that_moves_to_another_root_keeps_what_both_have(inventory: Inventory, view: View) -> None:
    """Else all nodes let go of a document of which one byte was changed, before its new manifest can be read."""
    tell(inventory, wanted("ours", 3), [cid(1), cid(2)])
    assert inventory.set_have([placed(inventory, view, cid(number)) for number in (1, 2)], 1, 2.0) == []
    inventory.see([wanted("ours", 3, root=cid(500))], inventory.same_round(), 10.0)
    assert inventory.orphans(100.0, 10) == [], "its new manifest is still to come"
    tell(inventory, wanted("ours", 3, root=cid(500)), [cid(1), cid(3)], 100.0)
    assert placed(inventory, view, cid(1)).have == 1
    assert inventory.orphans(11.0 + MOVED_S, 10) == [cid(2)]


def test_an_orphan_that_is_named_again_while_it_goes_is_wanted_anew(inventory: Inventory, view: View) -> None:
    tell(inventory, wanted("ours", 8), [cid(1)])
    inventory.set_have([placed(inventory, view, cid(1))], 1, 2.0)
    inventory.forget("acme", "ours", 3.0, is_told=True)
    assert inventory.orphans(4.0, 10) == [cid(1)]
    tell(inventory, wanted("again", 8), [cid(1)])
    inventory.drop_orphans([cid(1)])
    item = placed(inventory, view, cid(1))
    assert (item.mine, item.have) == (1, 0), "it was let go, and is fetched again"


def test_what_arrives_for_a_document_that_went_meanwhile_is_told(inventory: Inventory, view: View) -> None:
    tell(inventory, wanted("ours", 8), [cid(1)])
    item = placed(inventory, view, cid(1))
    inventory.forget("acme", "ours", 3.0, is_told=True)
    assert inventory.set_have([item], 1, 4.0) == [cid(1)]
    tell(inventory, wanted("other", 8), [cid(2)])
    taken = placed(inventory, view, cid(2))
    assert taken.id == item.id, "numbers are given again"
    assert inventory.set_have([item], 1, 4.0) == [cid(1)]
    assert placed(inventory, view, cid(2)).have == 0


def test_a_held_chunk_that_nothing_names_is_kept_for_a_while_and_then_goes(inventory: Inventory, view: View) -> None:
    """The file was deleted, or a backup of it restored: documents come again, or were removed meanwhile."""
    assert inventory.noted([cid(1), cid(2)], 1.0) == 2
    assert inventory.noted([cid(1), cid(2)], 50.0) == 0
    tell(inventory, wanted("ours", 8), [cid(1)], 2.0)
    item = placed(inventory, view, cid(1))
    assert (item.have, item.size) == (1, 100)
    assert inventory.orphans(VANISHED_S, 10) == []
    assert inventory.orphans(2.0 + VANISHED_S, 10) == [cid(2)]


def test_another_organisations_document_with_the_id_of_ours_shares_nothing_with_it(
    inventory: Inventory, view: View
) -> None:
    tell(inventory, wanted("same", 3), [cid(1)])
    tell(inventory, wanted("same", 3, organization="globex", owner=6), [cid(2)])
    assert sorted(inventory.organizations_of("same")) == ["acme", "globex"]
    inventory.forget("globex", "same", 2.0, is_told=True)
    assert placed(inventory, view, cid(1)).home and inventory.find(cid(2)) is None


def test_nobody_is_to_hold_what_it_may_not_or_on_behalf_of_who_may_not(view: View) -> None:
    denied = f"-{peer(3)},birch"
    assert view.may_hold(peer(2), "acme", denied) and not view.may_hold(peer(3), "acme", denied)
    assert not view.may_hold(peer(99), "acme", ""), "nobody knows it"
    assert not view.may_hold(peer(2), "acme", "-org:acme")
    assert not view.may_hold(peer(2), "globex", "") and view.may_hold(peer(2), "globex", "acme")
