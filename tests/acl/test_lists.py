"""Which of concurrent facts wins: laws that hold for any facts in any order; and lists too long to mean anything."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from rage_net.acl import AccessList, Entry, Strategy, access_of_row, compile_access, resolve
from rage_net.acl.lists import RIGHTS_MAX

STRATEGIES: tuple[Strategy, ...] = ("most-restrictive", "last-write-wins", "merge", "manual")

WORDS = ("public", "federated", "org", "private", "unheard-of")


def entries(visibility: bool) -> st.SearchStrategy[list[Entry]]:
    """Concurrent facts of one key. Two facts with one id are one fact."""
    one = st.builds(
        lambda name, allowed, until, word, lamport, author: Entry(
            bytes([name]),
            "" if visibility else "org:acme",
            "" if visibility else "read",
            allowed and not visibility,
            0 if visibility else until,
            word if visibility else "",
            lamport,
            author,
        ),
        st.integers(0, 255),
        st.booleans(),
        st.sampled_from((0, 1, 100, 1000)),
        st.sampled_from(WORDS),
        st.integers(1, 3),
        st.sampled_from("abc"),
    )
    return st.lists(one, min_size=1, max_size=8, unique_by=lambda entry: entry.id)


SOME = st.one_of(entries(False), entries(True))


@given(SOME, st.sampled_from(STRATEGIES), st.randoms(use_true_random=False))
def test_the_winner_does_not_depend_on_the_order(found: list[Entry], strategy: Strategy, order: object) -> None:
    shuffled = list(found)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert resolve(shuffled, strategy) == resolve(found, strategy)


@given(SOME, st.sampled_from(STRATEGIES), st.integers(0, 8))
def test_the_winner_does_not_depend_on_the_grouping(found: list[Entry], strategy: Strategy, cut: int) -> None:
    left, right = found[:cut], found[cut:]
    resolved = [resolve(part, strategy) for part in (left, right) if part]
    assert resolve(resolved, strategy) == resolve(found, strategy)


@given(SOME, st.sampled_from(STRATEGIES))
def test_resolving_again_what_was_resolved_changes_nothing(found: list[Entry], strategy: Strategy) -> None:
    winner = resolve(found, strategy)
    assert winner in found
    assert resolve([winner], strategy) == resolve([*found, winner, *found], strategy) == winner


@given(SOME, st.sampled_from(STRATEGIES), st.randoms(use_true_random=False))
def test_a_list_is_one_for_one_set_of_facts(found: list[Entry], strategy: Strategy, order: object) -> None:
    shuffled = [*found, *found]
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert compile_access(shuffled, strategy, "o", "acme") == compile_access(found, strategy, "o", "acme")


@given(entries(False))
def test_most_restrictive_never_allows_what_one_of_them_denies(found: list[Entry]) -> None:
    winner = resolve(found, "most-restrictive")
    assert winner.allowed == all(entry.allowed for entry in found)
    if winner.allowed:
        assert all((winner.expires_at or 1e9) <= (entry.expires_at or 1e9) for entry in found)


@given(entries(False))
def test_merge_allows_what_one_of_them_allows(found: list[Entry]) -> None:
    assert resolve(found, "merge").allowed == any(entry.allowed for entry in found)


def test_last_write_wins_goes_by_lamport_number_then_author() -> None:
    base = Entry(b"9", "org:acme", "read", True, 0, "", 5, "a")
    others = [replace(base, id=b"1", lamport=6, allowed=False), replace(base, id=b"2", lamport=6, author="b")]
    assert resolve([base, *others], "last-write-wins") == others[1]


def test_visibilities_are_ordered_and_an_unknown_one_is_the_narrowest() -> None:
    facts = [Entry(bytes([at]), "", "", False, 0, word) for at, word in enumerate(WORDS)]
    assert resolve(facts[:4], "most-restrictive").visibility == "private"
    assert resolve(facts, "most-restrictive").visibility == "unheard-of"
    assert resolve(facts, "merge").visibility == "public"
    assert compile_access(facts, "most-restrictive", "", "acme").visibility == "private"


def test_concurrent_facts_that_differ_are_told_with_who_wrote_what() -> None:
    grant = Entry(b"1", "org:globex", "read", True, 0, "", 4, "alice")
    denial = Entry(b"2", "org:globex", "read", False, 0, "", 4, "bob")
    same = replace(grant, id=b"3", lamport=3)
    access = compile_access([denial, grant, same], "manual", "o", "acme")
    (conflict,) = access.conflicts
    assert conflict.is_open and conflict.winner == denial
    assert [entry.author for entry in conflict.entries] == ["alice", "alice", "bob"]
    assert not compile_access([denial, grant], "merge", "o", "acme").conflicts[0].is_open
    assert compile_access([grant, same], "manual", "o", "acme").conflicts == ()


def test_more_facts_than_anyone_can_mean_leave_the_document_to_its_owner() -> None:
    endless = (Entry(at.to_bytes(4, "big"), f"user:acme/{at}", "read", True) for at in range(10**9))
    access = compile_access(endless, "most-restrictive", "o", "acme", visibility="public")
    assert str(RIGHTS_MAX) in access.flaw and access.visibility == "private" and not access.grants


def test_a_row_without_facts_is_its_own_list() -> None:
    assert access_of_row("org", "o", "acme") == AccessList("org", "o", "acme")
    assert access_of_row("org", "o", "acme") is access_of_row("org", "o", "acme")
    assert access_of_row("galactic", "o", "acme").visibility == "private"
