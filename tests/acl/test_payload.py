"""Rights as people write them: what is refused and how it is told, and what must change for them to hold."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rage_net.acl import (
    AclPayload,
    Change,
    Entry,
    check_name,
    parse_payloads,
    parse_principal,
    payloads_of,
    plan_changes,
)
from rage_net.acl.payload import ENDED, OVER_MAX, PRINCIPALS_MAX
from rage_net.errors import UsageError

NOW = 1_800_000_000.0
PEER = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"


def refuse(plain: Any) -> str:
    with pytest.raises(UsageError) as caught:
        parse_payloads(plain, NOW)
    return f"{caught.value.message} ({caught.value.why})"


def test_a_file_is_read_word_for_word() -> None:
    plain = {
        "visibility": "private",
        "users": ["acme/alice", "acme/alice"],
        "groups": ["acme/research"],
        "organizations": ["globex"],
        "peers": [PEER],
        "denied": ["user:acme/mallory"],
        "actions": ["read", "query"],
        "expires_at": "2027-06-01T00:00:00Z",
    }
    (payload,) = parse_payloads(plain, NOW)
    assert payload.users == ("acme/alice",) and payload.expires_at == 1_811_808_000
    assert ("user:acme/mallory", "read", False) in set(payload.rights())
    assert ("group:acme/research", "query", True) in set(payload.rights())


@pytest.mark.parametrize(
    ("plain", "told"),
    [
        (None, "is nothing"),
        ("public", "is a text"),
        ([["x"]], "is a list"),
        ({"visibillity": "org"}, "is visibility meant?"),
        ({"visibility": "world"}, "public, federated, org, private"),
        ({"users": "acme/alice", "actions": ["read"]}, "a list of texts"),
        ({"users": [7], "actions": ["read"]}, "a list of texts"),
        ({"users": ["alice"], "actions": ["read"]}, "belong to an organisation"),
        ({"organizations": ["a/b"], "actions": ["read"]}, "has no /"),
        ({"peers": ["alice"], "actions": ["read"]}, "is no principal"),
        ({"users": ["acme/alice"], "actions": ["fly"]}, "read, write, admin, query, replicate"),
        ({"users": ["acme/alice"]}, "no actions"),
        ({"actions": ["read"]}, "nobody"),
        ({"anyone": "yes", "actions": ["read"]}, "true or false"),
        ({"anyone": True, "actions": ["read"], "expires_at": "tomorrow"}, "with its time zone"),
        ({"anyone": True, "actions": ["read"], "expires_at": "2027-01-01T00:00:00"}, "with its time zone"),
        ({"anyone": True, "actions": ["read"], "expires_at": True}, "with its time zone"),
        ({"anyone": True, "actions": ["read"], "expires_at": NOW - 1}, "ended before they begin"),
        ([{}] * 1000, "256 are the most"),
    ],
)
def test_what_is_no_list_of_rights_is_refused_with_what_is_wrong(plain: Any, told: str) -> None:
    assert told in refuse(plain)


@pytest.mark.parametrize(
    ("plain", "told"),
    [
        (
            {"users": ["acme/bob"], "denied": ["user:acme/bob"], "actions": ["read"]},
            "user:acme/bob is both granted and denied read",
        ),
        ([{"visibility": "org"}, {"visibility": "public"}], "visibility is both org and public"),
        (
            [
                {"users": ["acme/bob"], "actions": ["read"]},
                {"users": ["acme/bob"], "actions": ["read"], "expires_at": NOW + 60},
            ],
            "read of user:acme/bob ends at two moments",
        ),
        ({"visibility": "private", "anyone": True, "actions": ["read"]}, "private, and anyone may read"),
        ({"visibility": "public", "denied": ["anyone"], "actions": ["read"]}, "anyone is denied read"),
    ],
)
def test_rights_that_contradict_themselves_are_refused_with_the_contradiction(plain: Any, told: str) -> None:
    assert told in refuse(plain)


def test_a_million_users_are_refused_before_one_of_them_is_read() -> None:
    class Never(str):
        def partition(self, _: str) -> Any:
            raise AssertionError("read")

    assert str(PRINCIPALS_MAX) in refuse({"users": [Never()] * 1_000_000, "actions": ["read"]})
    halves = [{"users": [Never()] * PRINCIPALS_MAX, "actions": ["read"]}, {"denied": [Never()], "actions": ["read"]}]
    assert str(PRINCIPALS_MAX) in refuse(halves)


# --- names ---


@pytest.mark.parametrize(
    "name",
    [
        "аcme",  # Cyrillic a, Latin rest
        "αcme",  # Greek
        "ａｃｍｅ",  # full width
        "acme\u200b",  # zero width space
        "ac\u00adme",  # soft hyphen
        "acme\u202e",  # right to left
        "acme\ufe0f",  # variation selector
        "\u3164acme",  # Hangul filler
        "cafe\u0301",  # e and a combining accent
        "ﬁn",  # a ligature
        " acme",
        "acme\n",
        "a" * 256,
        "é" * 128,
        "\ud800",
        "",
    ],
)
def test_names_that_could_pass_for_others_are_refused(name: str) -> None:
    assert check_name(name)
    for principal in (f"org:{name}", f"user:{name}/alice", f"group:acme/{name}"):
        with pytest.raises(UsageError):
            parse_principal(principal)


@pytest.mark.parametrize(
    "name", ["acme", "Acme", "акме", "acmé", "株式会社", "auth0|5f7c", "a b", "alice@acme.com", "x/y"]
)
def test_names_of_any_one_alphabet_are_themselves(name: str) -> None:
    assert parse_principal(f"user:acme/{name}") == f"user:acme/{name}"


def test_names_that_look_alike_stay_distinct() -> None:
    latin, cyrillic = "user:acme/cop", "user:acme/сор"
    plain = {"users": ["acme/cop"], "denied": [cyrillic], "actions": ["read"]}
    assert {name: allowed for name, _, allowed in parse_payloads(plain, NOW)[0].rights()} == {
        latin: True,
        cyrillic: False,
    }


@given(st.text(max_size=20))
def test_any_text_is_a_principal_as_it_stands_or_none_at_all(text: str) -> None:
    for kind in ("user:acme/", "group:", "org:", "peer:", ""):
        with contextlib.suppress(UsageError):
            assert parse_principal(kind + text) == kind + text


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda part: (
            st.lists(part)
            | st.dictionaries(
                st.sampled_from(("visibility", "users", "groups", "denied", "actions", "expires_at", "anyone")), part
            )
        ),
    )
)
def test_any_values_are_read_or_refused(plain: Any) -> None:
    with contextlib.suppress(UsageError):
        parse_payloads(plain, NOW)


# --- changes ---

NAMES = st.sampled_from(("user:acme/alice", "group:acme/research", "org:globex", "anyone", f"peer:{PEER}"))
ENTRIES = st.lists(
    st.builds(
        lambda at, principal, action, allowed, until: Entry(
            bytes([at]), principal, action, allowed, until, "", at, "a"
        ),
        st.integers(0, 255),
        NAMES,
        st.sampled_from(("read", "write", "query")),
        st.booleans(),
        st.sampled_from((0, ENDED, NOW + 60.0)),
    ),
    max_size=12,
    unique_by=lambda entry: entry.id,
)


def carry_out(current: list[Entry], changes: tuple[Change, ...]) -> list[Entry]:
    gone = {name for change in changes for name in change.over}
    made = [
        Entry(
            f"new{at}".encode(), change.principal, change.action, change.allowed, change.expires_at, change.visibility
        )
        for at, change in enumerate(changes)
    ]
    return [entry for entry in current if entry.id not in gone] + made


@given(ENTRIES, ENTRIES)
def test_changes_make_hold_what_is_wanted_and_nothing_besides(current: list[Entry], pattern: list[Entry]) -> None:
    wanted = payloads_of({entry.key: entry for entry in pattern}.values(), "org")
    after = carry_out(current, plan_changes(current, wanted))
    assert plan_changes(after, wanted) == ()
    assert payloads_of(after, "org") == wanted
    lasting = [entry for entry in after if entry.expires_at != ENDED]
    assert len({entry.key for entry in lasting}) == len({(entry.key, entry.effect) for entry in lasting})


@given(ENTRIES)
def test_what_is_printed_is_read_back(pattern: list[Entry]) -> None:
    printed = payloads_of({entry.key: entry for entry in pattern}.values(), "")
    plain = [
        {
            key: list(value) if isinstance(value, tuple) else value
            for key in AclPayload.__slots__
            if (value := getattr(one, key))
        }
        for one in printed
    ]
    if plain:
        assert set(parse_payloads(plain, NOW)) == set(printed)


def test_a_right_that_is_no_longer_wanted_ends_without_a_denial_that_would_outlive_it() -> None:
    current = [Entry(b"1", "group:acme/research", "read", True, 0, "", 1, "a")]
    (change,) = plan_changes(current, parse_payloads({"visibility": "private"}, NOW))[1:]
    assert not change.allowed and change.expires_at == ENDED and change.over == (b"1",)


def test_one_fact_replaces_no_more_than_fits_into_it() -> None:
    current = [Entry(bytes([at]), "org:globex", "read", bool(at % 2), 0, "", at, "a") for at in range(100)]
    (change,) = plan_changes(current, parse_payloads({"organizations": ["globex"], "actions": ["read"]}, NOW))
    assert len(change.over) == OVER_MAX and bytes([99]) in change.over
