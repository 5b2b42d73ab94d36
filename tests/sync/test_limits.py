"""How far chains are heard: revoked authors, closed chains, and who wins when they revoke each other."""

from __future__ import annotations

import itertools
import random
import time

from hypothesis import given
from hypothesis import strategies as st

from rage_net.libp2p.peer_id import PeerId
from rage_net.sync.envelope import ChainId, Head
from rage_net.sync.facts import Body, Closing, Fact, Revocation
from rage_net.sync.limits import CLOSINGS_MAX, limits
from tests.sync.world import Forger

SEED = random.Random(12)
A, B, C, READER = (Forger(SEED).id for _ in range(4))
ADMINS = {A: frozenset({"admin"}), B: frozenset({"admin"}), C: frozenset({"admin"}), READER: frozenset({"storage"})}
_numbers = itertools.count(1)


def fact(author: PeerId, sequence: int, body: Body, chain: ChainId | None = None, id: int | None = None) -> Fact:
    number = next(_numbers) if id is None else id
    return Fact(
        id=number.to_bytes(16, "big"),
        organization="acme",
        author=author,
        chain=chain or ChainId(author, 1),
        sequence=sequence,
        lamport=sequence,
        nonce=number,
        resource=f"peer:{author}",
        over=(),
        body=body,
    )


def head(author: PeerId, sequence: int, incarnation: int = 1) -> Head:
    return Head(ChainId(author, incarnation), sequence, bytes(32))


def revoke(author: PeerId, sequence: int, peer: PeerId, *accepted: Head) -> Fact:
    return fact(author, sequence, Revocation(peer, is_author=True, accepted=accepted))


def close(author: PeerId, sequence: int, of: PeerId, *chains: Head, incarnation: int = 1) -> Fact:
    return fact(author, sequence, Closing(of, chains), ChainId(author, incarnation))


def test_of_a_revoked_author_only_what_is_named_counts() -> None:
    found = limits([revoke(A, 1, READER, head(READER, 5))], ADMINS.get)
    assert found.of(ChainId(READER, 1)) == 5
    assert found.of(ChainId(READER, 2)) == 0
    assert found.of(ChainId(A, 1)) is None


def test_only_admins_revoke_authors() -> None:
    assert not limits([revoke(READER, 1, A)], ADMINS.get).revoked
    assert not limits([fact(A, 1, Revocation(READER, b"\x01"))], ADMINS.get).revoked


def test_two_revocations_accept_what_both_accept() -> None:
    one = revoke(A, 1, READER, head(READER, 5), head(READER, 9, 2))
    other = revoke(B, 1, READER, head(READER, 3))
    found = limits([one, other], ADMINS.get)
    assert (found.of(ChainId(READER, 1)), found.of(ChainId(READER, 2))) == (3, 0)


def test_a_revoked_admin_revokes_nobody_afterwards() -> None:
    found = limits([revoke(A, 1, B, head(B, 5)), revoke(B, 6, C)], ADMINS.get)
    assert set(found.revoked) == {B}


def test_what_an_admin_revoked_before_it_was_revoked_stands() -> None:
    found = limits([revoke(A, 1, B, head(B, 5)), revoke(B, 5, READER)], ADMINS.get)
    assert set(found.revoked) == {B, READER}


def test_a_stolen_key_does_not_get_out_by_revoking_back() -> None:
    assert B in limits([revoke(A, 7, B, head(B, 5)), revoke(B, 6, A, head(A, 3))], ADMINS.get).revoked


def test_a_key_whose_certificate_holds_no_more_revokes_nobody() -> None:
    without = {**ADMINS, B: frozenset({"storage"})}
    found = limits([revoke(A, 7, B, head(B, 5)), revoke(B, 6, A, head(A, 3))], without.get)
    assert set(found.revoked) == {B}


def test_an_author_closes_its_own_chains_and_an_admin_anyones() -> None:
    assert ChainId(READER, 1) in limits([close(READER, 3, READER, head(READER, 9), incarnation=2)], ADMINS.get).closed
    assert ChainId(READER, 1) in limits([close(A, 3, READER, head(READER, 9))], ADMINS.get).closed
    assert not limits([close(READER, 3, A, head(A, 9))], ADMINS.get).closed


def test_a_closing_does_not_close_the_chain_it_stands_in() -> None:
    assert not limits([close(READER, 3, READER, head(READER, 9))], ADMINS.get).closed


def test_a_closing_beyond_what_is_accepted_closes_nothing() -> None:
    closing = close(READER, 6, READER, head(READER, 9, 1), incarnation=2)
    assert not limits([closing, revoke(A, 1, READER, head(READER, 5, 2))], ADMINS.get).closed
    assert limits([closing, revoke(A, 1, READER, head(READER, 6, 2))], ADMINS.get).closed


def test_a_closing_in_a_chain_that_was_closed_counts_no_more() -> None:
    first = close(READER, 3, READER, head(READER, 9, 1), incarnation=2)
    second = close(READER, 3, READER, head(READER, 3, 2), incarnation=3)
    assert set(limits([first, second], ADMINS.get).closed) == {ChainId(READER, 2)}


def test_an_author_that_closes_its_chains_without_end_costs_no_time() -> None:
    """Weighed against each other, so many took minutes, at every node and with each fact that followed."""
    both = [
        close(READER, at, READER, head(READER, 1 << 40, 2 - incarnation % 2), incarnation=incarnation)
        for at in range(1, 5001)
        for incarnation in (1, 2)
    ]
    last = close(READER, 9999, READER, head(READER, 7, 1), head(READER, 7, 2), incarnation=3)
    begun = time.process_time()
    assert set(limits([last, *both], ADMINS.get).closed) == {ChainId(READER, 1), ChainId(READER, 2)}
    assert time.process_time() - begun < 5


def test_closings_of_others_push_nobodys_out() -> None:
    ours = close(READER, 3, READER, head(READER, 9), incarnation=2)
    theirs = [close(B, at, B, head(B, 1, 9)) for at in range(10, 10 + 2 * CLOSINGS_MAX)]
    assert ChainId(READER, 1) in limits([*theirs, ours], ADMINS.get).closed


def test_a_fact_that_stands_twice_is_heard_if_one_place_is() -> None:
    body = Revocation(READER, is_author=True)
    old, new = fact(B, 9, body, ChainId(B, 1), id=7), fact(B, 2, body, ChainId(B, 2), id=7)
    cut = revoke(A, 1, B, head(B, 5, 1), head(B, 5, 2))
    assert READER in limits([cut, old, new], ADMINS.get).revoked
    assert READER not in limits([cut, old], ADMINS.get).revoked


def test_what_is_adopted_counts_if_an_admin_adopted_it() -> None:
    adopted = fact(B, 4, Revocation(READER, is_author=True), ChainId(A, 1))
    assert READER in limits([adopted], ADMINS.get).revoked
    stolen = fact(B, 4, Revocation(READER, is_author=True), ChainId(READER, 1))
    assert READER not in limits([stolen], ADMINS.get).revoked


authors = st.sampled_from([A, B, C, READER])
heads = st.lists(st.tuples(st.integers(1, 8), st.integers(1, 2)), max_size=2, unique_by=lambda one: one[1])


@st.composite
def said(draw: st.DrawFn) -> Fact:
    author, of, named = draw(authors), draw(authors), draw(heads)
    chains = tuple(head(of, sequence, incarnation) for sequence, incarnation in named)
    is_closing = bool(chains) and draw(st.booleans())
    body: Body = Closing(of, chains) if is_closing else Revocation(of, is_author=True, accepted=chains)
    return fact(author, draw(st.integers(1, 8)), body, ChainId(author, draw(st.integers(1, 2))))


@given(st.lists(said(), max_size=9), st.randoms(use_true_random=False))
def test_order_and_duplicates_do_not_matter(facts: list[Fact], chance: random.Random) -> None:
    shuffled = facts * 2
    chance.shuffle(shuffled)
    assert limits(shuffled, ADMINS.get) == limits(facts, ADMINS.get)


@given(st.lists(said(), max_size=9))
def test_those_without_the_right_limit_nobody_but_themselves(facts: list[Fact]) -> None:
    found = limits([one for one in facts if one.author == READER], ADMINS.get)
    assert not found.revoked
    assert all(chain.author == READER for chain in found.closed)
