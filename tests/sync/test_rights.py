"""Who counts: owners, admins, delegates, editors; as functions of a set."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rage_net.libp2p.peer_id import PeerId
from rage_net.sync.envelope import ChainId
from rage_net.sync.facts import (
    Access,
    Acknowledgement,
    Body,
    Certificate,
    Closing,
    Document,
    Edit,
    Fact,
    NodeRecord,
    Revocation,
    Tombstone,
    Trust,
    Unknown,
    current,
    key_of,
)
from rage_net.sync.rights import counting
from rage_net.sync.vocabulary import document_id
from tests.sync.world import Forger, document, grant

SEED = random.Random(11)
ADMIN, OWNER, DELEGATE, WRITER, READER, SPOKE, STRANGER = (Forger(SEED).id for _ in range(7))
PEOPLE = (ADMIN, OWNER, DELEGATE, WRITER, READER, SPOKE, STRANGER)
CAPABILITIES = {
    ADMIN: frozenset({"admin"}),
    OWNER: frozenset({"storage"}),
    DELEGATE: frozenset({"storage"}),
    WRITER: frozenset({"storage"}),
    READER: frozenset({"storage"}),
    SPOKE: frozenset({"search"}),
}
DOC = f"doc:{document_id(OWNER, 3)}"
LOOSE = "doc:" + "a" * 26


@dataclass
class Board:
    """Facts about one resource, said one after the other."""

    resource: str = DOC
    facts: list[Fact] = field(default_factory=list)

    def say(self, author: PeerId, body: Body, over: Sequence[Fact] = (), lamport: int | None = None) -> Fact:
        at = len(self.facts) + 1
        fact = Fact(
            id=at.to_bytes(16, "big"),
            organization="acme",
            author=author,
            chain=ChainId(author, 1),
            sequence=at,
            lamport=at if lamport is None else lamport,
            nonce=at,
            resource=self.resource,
            over=tuple(one.id for one in over),
            body=body,
        )
        self.facts.append(fact)
        return fact

    def counts(self, fact: Fact, now: float | None = None) -> bool:
        return fact in counting(self.facts, CAPABILITIES.get, now=now).facts


@pytest.fixture
def board() -> Board:
    board = Board()
    board.say(OWNER, document())
    return board


def test_the_owner_and_admins_say_what_they_like(board: Board) -> None:
    for author in (OWNER, ADMIN):
        for body in (
            grant(READER),
            grant(READER, "admin"),
            Access(visibility="public"),
            Edit(b"x"),
            Tombstone("removed"),
        ):
            assert board.counts(board.say(author, body))


def test_others_say_nothing_but_that_they_dropped_it(board: Board) -> None:
    for body in (grant(READER), Access(visibility="public"), Edit(b"x"), Tombstone("removed"), document(), Unknown(18)):
        assert not board.counts(board.say(READER, body))
    assert board.counts(board.say(READER, Acknowledgement(bytes(16))))
    assert not board.counts(board.say(STRANGER, Acknowledgement(bytes(16))))


def test_whoever_was_made_an_admin_gives_anything_but_that(board: Board) -> None:
    board.say(OWNER, grant(DELEGATE, "admin"))
    assert board.counts(board.say(DELEGATE, grant(READER, "write")))
    assert board.counts(board.say(DELEGATE, Access(visibility="public")))
    passed_on = board.say(DELEGATE, grant(READER, "admin"))
    assert not board.counts(passed_on)
    assert not board.counts(board.say(READER, grant(STRANGER)))


def test_a_delegate_cannot_keep_its_owner_from_taking_the_right_back(board: Board) -> None:
    given = board.say(OWNER, grant(DELEGATE, "admin"))
    taken = board.say(OWNER, grant(DELEGATE, "admin", allowed=False), over=[given])
    board.say(DELEGATE, grant(DELEGATE, "admin"), over=[taken])
    assert not board.counts(board.say(DELEGATE, grant(READER)))


def test_what_a_delegate_denied_stays_denied_when_it_is_one_no_more(board: Board) -> None:
    given = board.say(OWNER, grant(DELEGATE, "admin"))
    allowed, denied = board.say(DELEGATE, grant(READER)), board.say(DELEGATE, grant(WRITER, allowed=False))
    board.say(OWNER, grant(DELEGATE, "admin", allowed=False), over=[given])
    assert board.counts(denied)
    assert not board.counts(allowed)


def test_a_delegation_that_expired_gives_no_more(board: Board) -> None:
    board.say(OWNER, grant(DELEGATE, "admin", expires_at=100))
    fact = board.say(DELEGATE, grant(READER))
    assert board.counts(fact, now=99)
    assert not board.counts(fact, now=100)
    assert board.counts(fact)


def test_a_denial_beside_a_delegation_wins(board: Board) -> None:
    board.say(OWNER, grant(DELEGATE, "admin"))
    board.say(ADMIN, grant(DELEGATE, "admin", allowed=False))
    assert not board.counts(board.say(DELEGATE, grant(READER)))


def test_edits_count_of_whoever_was_ever_given_write(board: Board) -> None:
    early = board.say(WRITER, Edit(b"early"))
    given = board.say(OWNER, grant(WRITER, "write"))
    board.say(OWNER, grant(WRITER, "write", allowed=False), over=[given])
    late = board.say(WRITER, Edit(b"late"))
    assert board.counts(early)
    assert board.counts(late)
    assert not board.counts(board.say(READER, Edit(b"x")))


def test_an_organisation_that_may_write_is_all_its_authors(board: Board) -> None:
    board.say(OWNER, grant("org:other", "write"))
    edit = board.say(READER, Edit(b"x"))
    assert not board.counts(edit)
    board.say(OWNER, grant("org:acme", "write"))
    assert board.counts(edit)


def test_a_spoke_without_storage_writes_nothing_not_even_as_admin_of_the_document(board: Board) -> None:
    board.say(OWNER, grant(SPOKE, "admin"))
    for body in (grant(READER), Edit(b"x"), Tombstone("removed"), document()):
        assert not board.counts(board.say(SPOKE, body))
    assert board.counts(board.say(SPOKE, Acknowledgement(bytes(16))))


def test_nobody_takes_a_document_by_claiming_to_have_been_first(board: Board) -> None:
    board.say(READER, document(b"mine"), lamport=1)
    board.say(ADMIN, document(b"moved"), lamport=1)
    assert counting(board.facts, CAPABILITIES.get).owner == OWNER


def test_without_a_name_in_its_id_a_document_is_the_first_authors() -> None:
    board = Board(LOOSE)
    board.say(WRITER, document(), lamport=5)
    board.say(READER, document(), lamport=4)
    board.say(STRANGER, document(), lamport=1)
    board.say(SPOKE, document(), lamport=1)
    assert counting(board.facts, CAPABILITIES.get).owner == READER


def test_a_document_that_nobody_wrote_has_no_owner_and_admins_rights_alone() -> None:
    board = Board(DOC)
    assert not board.counts(board.say(OWNER, grant(READER)))
    assert board.counts(board.say(ADMIN, grant(READER)))
    assert counting(board.facts, CAPABILITIES.get).owner is None


def test_what_is_unknown_counts_from_those_who_rule(board: Board) -> None:
    board.say(OWNER, grant(DELEGATE, "admin"))
    assert board.counts(board.say(OWNER, Unknown(18)))
    assert board.counts(board.say(DELEGATE, Unknown(18)))
    assert not board.counts(board.say(READER, Unknown(18)))


@pytest.mark.parametrize("resource", ["org:acme", "topic:rage.global", "cert:01", f"peer:{READER}"])
def test_elsewhere_admins_alone_are_heard(resource: str) -> None:
    board = Board(resource)
    body: Body = Revocation(READER) if resource.startswith(("cert:", "peer:")) else grant(READER)
    assert board.counts(board.say(ADMIN, body))
    assert not board.counts(board.say(OWNER, body))


def test_a_peer_speaks_for_itself() -> None:
    board = Board(f"peer:{READER}")
    for body in (NodeRecord(), Certificate((b"x",)), Closing(READER, ())):
        assert board.counts(board.say(READER, body))
        assert not board.counts(board.say(WRITER, body))
    assert board.counts(board.say(ADMIN, NodeRecord(state="lost")))
    assert not board.counts(board.say(ADMIN, Certificate((b"x",))))


def test_a_nodes_own_trust_counts_for_itself_alone() -> None:
    board = Board("org:globex")
    fact = board.say(READER, Trust(b"DER", ("query",)))
    assert counting(board.facts, CAPABILITIES.get, own=READER).facts == (fact,)
    assert counting(board.facts, CAPABILITIES.get, own=WRITER).facts == ()


def test_a_fact_replaces_only_what_is_about_the_same_thing(board: Board) -> None:
    one, other = board.say(OWNER, grant(READER)), board.say(OWNER, grant(WRITER))
    last = board.say(OWNER, grant(READER, allowed=False), over=[one, other])
    standing = counting(board.facts, CAPABILITIES.get).current
    assert last in standing
    assert other in standing
    assert one not in standing


def test_what_does_not_count_replaces_nothing(board: Board) -> None:
    denied = board.say(OWNER, grant(READER, allowed=False))
    board.say(READER, grant(READER), over=[denied])
    assert denied in counting(board.facts, CAPABILITIES.get).current


def test_nothing_replaces_a_tombstone(board: Board) -> None:
    tombstone = board.say(OWNER, Tombstone("removed"))
    board.say(OWNER, Tombstone("expired"), over=[tombstone])
    board.say(OWNER, document(), over=[tombstone])
    assert tombstone in counting(board.facts, CAPABILITIES.get).current


bodies = st.one_of(
    st.builds(
        grant,
        st.sampled_from([*PEOPLE, "org:acme", "anyone"]),
        st.sampled_from(["read", "write", "admin"]),
        st.booleans(),
    ),
    st.builds(lambda word: Access(visibility=word), st.sampled_from(["public", "org", "private"])),
    st.just(document()),
    st.just(Tombstone("removed")),
    st.just(Edit(b"x")),
    st.just(Unknown(18)),
)


@st.composite
def boards(draw: st.DrawFn) -> list[Fact]:
    board = Board(draw(st.sampled_from([DOC, LOOSE])))
    for _ in range(draw(st.integers(1, 14))):
        body = draw(bodies)
        same = [fact for fact in board.facts if key_of(fact)[:-1] == key_of(board.facts[0])[:-1]] or board.facts
        over = draw(st.lists(st.sampled_from(same), max_size=3)) if same else []
        board.say(draw(st.sampled_from(PEOPLE)), body, over, draw(st.integers(1, 6)))
    return board.facts


@given(boards(), st.randoms(use_true_random=False))
def test_order_and_duplicates_do_not_matter(facts: list[Fact], chance: random.Random) -> None:
    shuffled = facts * 2
    chance.shuffle(shuffled)
    assert counting(shuffled, CAPABILITIES.get) == counting(facts, CAPABILITIES.get)
    assert current(shuffled) == current(facts)


@given(boards(), st.integers(0, 14))
def test_it_does_not_matter_in_which_parts_the_facts_came(facts: list[Fact], cut: int) -> None:
    one, other = set(facts[:cut]), set(facts[cut // 2 :])
    assert counting(one | other, CAPABILITIES.get) == counting(facts, CAPABILITIES.get)
    again = counting(one | other, CAPABILITIES.get).facts
    assert set(again) <= set(facts)


@given(boards())
def test_facts_of_those_without_a_right_change_nothing(facts: list[Fact]) -> None:
    """Whatever strangers and spokes say, the others' facts count as if it were not there."""
    heard = [fact for fact in facts if fact.author != STRANGER]
    assert counting(heard, CAPABILITIES.get) == counting(facts, CAPABILITIES.get)


def test_documents_that_moved_show_where(board: Board) -> None:
    moved = board.say(OWNER, document(b"new"), over=[board.facts[0]])
    standing = [fact for fact in counting(board.facts, CAPABILITIES.get).current if isinstance(fact.body, Document)]
    assert standing == [moved]
