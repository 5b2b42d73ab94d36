"""Access once a CA is set: strangers, members, other organisations, denials, grants, visibility, enforcement."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rage_net.acl import (
    ACTIONS,
    ANYONE,
    OPERATOR,
    AccessList,
    Action,
    ChunkResource,
    Decision,
    DocumentResource,
    Entry,
    OrganizationResource,
    Principal,
    Rules,
    TopicResource,
    authorize,
    compile_access,
)
from rage_net.cid import Cid

CID = Cid.of(b"chunk")
NOW = 1_800_000_000.0
RULES = Rules(public_to_strangers=False, is_open=False, organization="acme")
SCOPES = frozenset(("chunks", "query", "sync"))

OWNER = Principal("peer", "owner", "acme", scopes=SCOPES, capabilities=frozenset({"storage"}))
MEMBER = Principal("peer", "member", "acme", scopes=SCOPES, capabilities=frozenset({"storage"}))
ADMIN = Principal("peer", "boss", "acme", scopes=SCOPES, capabilities=frozenset({"admin"}))
FOREIGN = Principal("peer", "foreign", "globex", scopes=SCOPES, capabilities=frozenset({"admin"}))
STRANGER = Principal("peer", "stranger")
USER = Principal("user", "acme/alice", "acme", frozenset({"acme/research"}))


def facts(*said: tuple[str, str, bool] | tuple[str, str, bool, float] | str) -> list[Entry]:
    found = []
    for at, one in enumerate(said):
        name = bytes([at])
        if isinstance(one, str):
            found.append(Entry(name, "", "", False, 0, one, at, "owner"))
        else:
            found.append(Entry(name, one[0], one[1], one[2], one[3] if len(one) == 4 else 0, "", at, "owner"))
    return found


def document(
    *said: tuple[str, str, bool] | tuple[str, str, bool, float] | str, organization: str = "acme"
) -> AccessList:
    return compile_access(facts(*said), "most-restrictive", "owner", organization)


def decide(
    access: AccessList, principal: Principal, action: Action = "read", rules: Rules = RULES, now: float = NOW
) -> Decision:
    """The decision, which is one for a document and for a chunk for which it alone counts."""
    decision = authorize(DocumentResource("d", access), principal, action, rules, now)
    assert authorize(ChunkResource(CID, (access,)), principal, action, rules, now).allowed == decision.allowed
    return decision


@pytest.mark.parametrize(
    ("visibility", "readers"),
    [
        ("public", {OWNER, MEMBER, ADMIN, FOREIGN, USER}),
        ("federated", {OWNER, MEMBER, ADMIN, FOREIGN, USER}),
        ("org", {OWNER, MEMBER, ADMIN, USER}),
        ("private", {OWNER, ADMIN}),
    ],
)
def test_visibility_says_who_reads_without_a_right(visibility: str, readers: set[Principal]) -> None:
    for principal in (OWNER, MEMBER, ADMIN, FOREIGN, USER, STRANGER, ANYONE):
        assert decide(document(visibility), principal).allowed == (principal in readers), principal


def test_visibility_opens_reading_and_asking_and_nothing_else() -> None:
    for action in ("write", "admin"):
        assert not decide(document("public"), MEMBER, action).allowed  # type: ignore[arg-type]
    assert not decide(document("public"), FOREIGN, "replicate").allowed
    assert decide(document("org"), MEMBER, "query").allowed


def test_a_document_that_says_nothing_is_the_organisations() -> None:
    assert document().visibility == "org"


def test_federated_documents_of_another_organisation_go_to_its_members_and_to_ours_and_to_no_third() -> None:
    theirs = document("federated", organization="globex")
    third = Principal("peer", "third", "initech", scopes=SCOPES)
    assert decide(theirs, FOREIGN).allowed
    assert decide(theirs, MEMBER).allowed
    assert not decide(theirs, third).allowed


def test_an_organisation_admin_may_anything_on_its_own_documents_and_nothing_by_that_on_others() -> None:
    for action in ("read", "write", "admin", "query"):
        assert decide(document("private", ("anyone", action, False)), ADMIN, action).allowed  # type: ignore[arg-type]
        assert not decide(document("private"), FOREIGN, action).allowed  # type: ignore[arg-type]


def test_the_owner_always_may_whatever_the_facts_say() -> None:
    access = document("private", ("peer:owner", "read", False), ("anyone", "read", False))
    assert decide(access, OWNER).allowed
    assert decide(access, OPERATOR).allowed


def test_an_owner_whose_certificate_is_gone_is_a_stranger() -> None:
    assert not decide(document("org"), Principal("peer", "owner")).allowed
    assert not decide(document("org"), Principal("peer", "owner", "globex", scopes=SCOPES)).allowed


@pytest.mark.parametrize("name", ["peer:member", "org:acme", "anyone"])
def test_a_denial_of_any_of_its_names_wins_over_every_grant(name: str) -> None:
    grants = [(each, "read", True) for each in ("peer:member", "org:acme", "anyone") if each != name]
    assert not decide(document("public", (name, "read", False), *grants), MEMBER).allowed
    assert name in decide(document("public", (name, "read", False), *grants), MEMBER).reason


@pytest.mark.parametrize("name", ["user:acme/alice", "group:acme/research", "org:acme", "anyone"])
def test_a_user_is_known_by_its_name_its_groups_and_its_organisation(name: str) -> None:
    assert decide(document("private", (name, "read", True)), USER).allowed
    assert not decide(document("public", (name, "read", False)), USER).allowed


def test_a_group_of_another_organisation_with_the_same_name_is_another_group() -> None:
    assert not decide(document("private", ("group:globex/research", "read", True)), USER).allowed


def test_admin_implies_read_write_and_query_and_write_implies_nothing() -> None:
    right = document("private", ("peer:member", "admin", True))
    assert all(decide(right, MEMBER, action).allowed for action in ("read", "write", "query", "admin"))  # type: ignore[arg-type]
    assert not decide(document("private", ("org:globex", "admin", True)), FOREIGN, "replicate").allowed
    right = document("private", ("peer:member", "write", True))
    assert not any(decide(right, MEMBER, action).allowed for action in ("read", "query", "admin"))  # type: ignore[arg-type]


def test_a_denied_read_holds_against_an_admin_right_and_a_denied_admin_takes_what_it_implies() -> None:
    assert not decide(document("private", ("peer:member", "read", False), ("org:acme", "admin", True)), MEMBER).allowed
    assert not decide(document("private", ("peer:member", "admin", False), ("org:acme", "admin", True)), MEMBER).allowed


def test_rights_and_denials_end_a_minute_after_they_say() -> None:
    granted = document("private", ("peer:member", "read", True, NOW))
    denied = document("org", ("peer:member", "read", False, NOW))
    for later, holds in ((0, True), (60, True), (61, False)):
        assert decide(granted, MEMBER, now=NOW + later).allowed is holds
        assert decide(denied, MEMBER, now=NOW + later).allowed is not holds


def test_a_clock_ten_years_off_ends_rights_and_opens_nothing() -> None:
    ten_years = 10 * 365.25 * 86_400
    granted = document("private", ("peer:member", "read", True, NOW + 3600))
    assert not decide(granted, MEMBER, now=NOW + ten_years).allowed
    for now in (NOW - ten_years, NOW + ten_years, 0.0):
        assert not decide(document("private"), MEMBER, now=now).allowed


@pytest.mark.parametrize(("action", "scope"), [("read", "chunks"), ("query", "query"), ("replicate", "chunks")])
def test_what_trust_does_not_open_no_grant_opens(action: Action, scope: str) -> None:
    access = document("public", ("org:globex", action, True))
    closed = Principal("peer", "foreign", "globex", scopes=SCOPES - {scope})
    assert decide(access, FOREIGN, action).allowed
    assert not decide(access, closed, action).allowed
    assert scope in decide(access, closed, action).reason


def test_a_peer_to_whom_trust_opens_nothing_gets_what_a_stranger_gets() -> None:
    queries = Principal("peer", "foreign", "globex", scopes=frozenset({"query"}))
    public = Rules(public_to_strangers=True, is_open=False, organization="acme")
    assert decide(document("public"), queries, rules=public).allowed
    assert not decide(document("federated"), queries, rules=public).allowed


@pytest.mark.parametrize("principal", [STRANGER, ANYONE])
def test_strangers_get_what_is_public_where_public_access_is_set_and_nothing_else(principal: Principal) -> None:
    public = Rules(public_to_strangers=True, is_open=False, organization="acme", enforcement="off")
    assert decide(document("public"), principal, rules=public).allowed
    assert decide(document("private", ("anyone", "read", True)), principal, rules=public).allowed
    assert not decide(document("public", ("anyone", "read", False)), principal, rules=public).allowed
    for word in ("federated", "org", "private"):
        assert not decide(document(word), principal, rules=public).allowed
    for action in ("write", "admin", "query", "replicate"):
        assert not decide(document("public", ("anyone", action, True)), principal, action, public).allowed  # type: ignore[arg-type]
    assert not decide(document("public"), principal).allowed


def test_a_right_given_to_a_peer_id_is_of_no_use_without_a_certificate() -> None:
    public = Rules(public_to_strangers=True, is_open=False, organization="acme")
    assert not decide(document("private", ("peer:stranger", "read", True)), STRANGER, rules=public).allowed
    assert not decide(document("public", ("peer:stranger", "read", False)), STRANGER, rules=public).allowed


def test_a_stranger_that_claims_capabilities_and_scopes_is_a_stranger() -> None:
    liar = Principal("peer", "owner", "", capabilities=frozenset({"admin"}), scopes=SCOPES)
    assert not decide(document("org"), liar).allowed


def test_a_fact_of_an_unknown_kind_leaves_the_document_to_its_owner_alone() -> None:
    access = compile_access(
        facts("public", ("anyone", "read", True)), "most-restrictive", "owner", "acme", has_unknown=True
    )
    assert decide(access, OWNER).allowed
    for principal in (MEMBER, ADMIN, FOREIGN, USER, STRANGER):
        assert not decide(access, principal).allowed


def test_a_visibility_that_no_version_knows_is_private() -> None:
    assert not decide(document("everyone-and-their-dog"), MEMBER).allowed


def test_one_document_that_may_be_read_opens_a_chunk_that_others_share() -> None:
    lists = (document(("peer:member", "read", False)), document("private"), document(("peer:member", "read", True)))
    assert authorize(ChunkResource(CID, lists), MEMBER, "read", RULES, NOW).allowed
    assert not authorize(ChunkResource(CID, lists[:2]), MEMBER, "read", RULES, NOW).allowed


def test_a_chunk_for_which_no_document_counts_is_for_nobody_but_the_operator() -> None:
    resource = ChunkResource(CID, ())
    assert authorize(resource, OPERATOR, "read", RULES, NOW).allowed
    for principal in (OWNER, ADMIN, MEMBER, FOREIGN, USER, STRANGER, ANYONE):
        assert not authorize(resource, principal, "read", RULES, NOW).allowed


def test_trusted_peers_count_no_more_once_a_ca_is_set() -> None:
    rules = Rules(frozenset({"stranger"}), public_to_strangers=False, is_open=False, organization="acme")
    assert not decide(document("org"), STRANGER, rules=rules).allowed


# --- enforcement ---


@pytest.mark.parametrize("enforcement", ["permissive", "off"])
def test_lenient_enforcement_is_for_certified_peers_that_read_and_for_nobody_else(enforcement: str) -> None:
    rules = Rules(public_to_strangers=False, is_open=False, organization="acme", enforcement=enforcement)  # type: ignore[arg-type]
    access = document("private", ("org:acme", "read", False))
    assert decide(access, MEMBER, rules=rules).allowed
    assert decide(access, FOREIGN, rules=rules).allowed
    for principal in (USER, STRANGER, ANYONE):
        assert not decide(access, principal, rules=rules).allowed
    for action in ("write", "admin"):
        assert not decide(access, MEMBER, action, rules=rules).allowed  # type: ignore[arg-type]
    closed = Principal("peer", "foreign", "globex", scopes=frozenset({"sync"}))
    assert not decide(access, closed, rules=rules).allowed


def test_permissive_says_what_strict_would_deny_and_why() -> None:
    rules = Rules(public_to_strangers=False, is_open=False, organization="acme", enforcement="permissive")
    access = document(("peer:member", "read", False))
    decision = decide(access, MEMBER, rules=rules)
    assert decision.would_deny == decide(access, MEMBER).reason == "peer:member is denied read"
    assert decide(document(), MEMBER, rules=rules).would_deny == ""


# --- replicate ---

PLAIN = Principal("peer", "plain", "acme", scopes=SCOPES)
"""A member that stores nothing for others."""


@pytest.mark.parametrize("visibility", ["public", "federated", "org", "private"])
def test_nodes_of_the_organisation_that_store_hold_its_documents_whatever_their_visibility(visibility: str) -> None:
    for principal in (OWNER, MEMBER, OPERATOR):
        assert decide(document(visibility), principal, "replicate").allowed, principal
    for principal in (PLAIN, ADMIN, FOREIGN, USER, STRANGER, ANYONE):
        assert not decide(document(visibility), principal, "replicate").allowed, principal
    assert "storage" in decide(document(visibility), PLAIN, "replicate").reason
    assert decide(document(visibility, ("peer:plain", "replicate", True)), PLAIN, "replicate").allowed


@pytest.mark.parametrize("name", ["peer:member", "org:acme", "anyone"])
def test_a_denial_of_replicate_keeps_bytes_off_the_nodes_it_names_but_for_the_owners(name: str) -> None:
    access = document("public", (name, "replicate", False), ("peer:boss", "replicate", True))
    assert not decide(access, MEMBER, "replicate").allowed
    assert decide(access, OWNER, "replicate").allowed
    assert decide(access, MEMBER).allowed, "who may not hold it may still read it"
    boss = Principal("peer", "boss", "acme", scopes=SCOPES, capabilities=frozenset({"admin", "storage"}))
    assert decide(access, boss, "replicate").allowed is (name == "peer:member"), "an admin's node is no exception"


def test_a_denial_of_read_says_nothing_of_replicate() -> None:
    assert decide(document("private", ("org:acme", "read", False)), MEMBER, "replicate").allowed


def test_another_organisation_replicates_by_a_grant_alone_and_its_own_documents_from_anyone() -> None:
    stores = Principal("peer", "foreign", "globex", scopes=SCOPES, capabilities=frozenset({"storage"}))
    assert not decide(document("public"), stores, "replicate").allowed
    for name in ("peer:foreign", "org:globex", "anyone"):
        assert decide(document("private", (name, "replicate", True)), stores, "replicate").allowed
    assert decide(document("private", organization="globex"), stores, "replicate").allowed
    assert not decide(document("private", organization="globex"), MEMBER, "replicate").allowed


def test_a_flaw_in_the_facts_leaves_the_copies_to_the_owner_too() -> None:
    access = compile_access(facts("org"), "most-restrictive", "owner", "acme", has_unknown=True)
    assert decide(access, OWNER, "replicate").allowed
    assert not decide(access, MEMBER, "replicate").allowed


def test_a_stale_log_and_an_open_node_let_nobody_replicate() -> None:
    for principal in (Principal("peer", "member", scopes=SCOPES), Principal("peer", "member")):
        assert not decide(document("public"), principal, "replicate").allowed
    open_node = Rules(frozenset({"member"}))
    for principal in (MEMBER, STRANGER, USER, ANYONE):
        assert not decide(document("public"), principal, "replicate", open_node).allowed


@pytest.mark.parametrize("enforcement", ["permissive", "off"])
def test_lenient_enforcement_lets_certified_peers_hold_and_never_those_without(enforcement: str) -> None:
    rules = Rules(public_to_strangers=False, is_open=False, organization="acme", enforcement=enforcement)  # type: ignore[arg-type]
    access = document("private", ("org:acme", "replicate", False))
    assert decide(access, MEMBER, "replicate", rules).allowed
    closed = Principal("peer", "foreign", "globex", scopes=frozenset({"sync"}))
    for principal in (USER, STRANGER, ANYONE, closed):
        assert not decide(access, principal, "replicate", rules).allowed


NAMES = ("peer:owner", "peer:member", "peer:boss", "peer:foreign", "user:acme/alice", "group:acme/research", "anyone")
PRINCIPALS = st.builds(
    Principal,
    st.sampled_from(["peer", "user", "anyone"]),
    st.sampled_from(["owner", "member", "boss", "foreign", "acme/alice", ""]),
    st.sampled_from(["", "acme", "globex", "initech"]),
    st.frozensets(st.just("acme/research")),
    st.frozensets(st.sampled_from(["storage", "admin"])),
    st.frozensets(st.sampled_from(sorted(SCOPES))),
)
SAID = st.lists(
    st.sampled_from(["public", "federated", "org", "private"])
    | st.tuples(
        st.sampled_from([*NAMES, "org:acme", "org:globex", "org:initech"]), st.sampled_from(ACTIONS), st.booleans()
    ),
    max_size=8,
)


@given(PRINCIPALS, SAID, st.sampled_from(["acme", "globex"]), st.booleans())
def test_who_replicates_is_certified_undenied_and_stores_or_was_granted_it(
    principal: Principal, said: list[tuple[str, str, bool] | str], organization: str, has_public_access: bool
) -> None:
    rules = Rules(public_to_strangers=has_public_access, is_open=False, organization="acme")
    access = document(*said, organization=organization)
    found = decide(access, principal, "replicate", rules)
    is_member = principal.organization == organization
    is_owner = is_member and principal.name == "owner"
    granted = not set(principal.names).isdisjoint(access.grants.get("replicate", {}))
    denied = not set(principal.names).isdisjoint(access.denials.get("replicate", {}))
    stores = is_member and "storage" in principal.capabilities
    is_let_in = principal.organization == "acme" or "chunks" in principal.scopes
    is_certified = principal.kind == "peer" and bool(principal.organization)
    assert found.allowed == (is_certified and is_let_in and (is_owner or (not denied and (granted or stores))))


@given(PRINCIPALS, SAID, st.sampled_from(["public", "federated", "org", "private"]))
def test_visibility_says_nothing_of_who_may_hold(
    principal: Principal, said: list[tuple[str, str, bool] | str], visibility: str
) -> None:
    rights = [one for one in said if not isinstance(one, str)]
    of_this = decide(document(visibility, *rights), principal, "replicate").allowed
    assert of_this == decide(document("org", *rights), principal, "replicate").allowed


# --- organisations and topics ---


def ask(organization: str, principal: Principal, action: Action, access: AccessList | None = None) -> bool:
    return authorize(OrganizationResource(organization, access), principal, action, RULES, NOW).allowed


@pytest.mark.parametrize(
    ("action", "scope"), [("sync", "sync"), ("query", "query"), ("audit", "chunks"), ("kad", "chunks")]
)
def test_an_organisation_answers_its_members_and_those_to_whom_trust_opens_it(action: Action, scope: str) -> None:
    closed = Principal("peer", "foreign", "globex", scopes=SCOPES - {scope})
    assert ask("acme", MEMBER, action)
    assert ask("acme", FOREIGN, action)
    assert not ask("acme", closed, action)
    assert not ask("acme", STRANGER, action)
    assert not ask("acme", ANYONE, action)


def test_the_log_of_a_third_organisation_is_not_passed_on_to_a_second() -> None:
    assert ask("globex", FOREIGN, "sync")
    assert ask("initech", MEMBER, "sync")
    assert not ask("initech", FOREIGN, "sync")


def test_an_organisation_can_be_denied_what_trust_opens_and_replicates_only_by_a_right() -> None:
    assert not ask("acme", FOREIGN, "query", document(("org:globex", "query", False)))
    assert not ask("acme", FOREIGN, "replicate")
    assert ask("acme", FOREIGN, "replicate", document(("org:globex", "replicate", True)))
    assert ask("acme", MEMBER, "replicate")


def test_only_admins_change_what_an_organisation_says() -> None:
    assert ask("acme", ADMIN, "admin")
    assert not ask("acme", MEMBER, "admin")
    assert not ask("acme", FOREIGN, "admin")


def test_topics_of_an_organisation_are_its_members_and_all_topics_need_a_certificate() -> None:
    def may_join(topic: str, principal: Principal, rules: Rules = RULES) -> bool:
        return authorize(TopicResource(topic), principal, "read", rules, NOW).allowed

    assert may_join("rage.org.acme", MEMBER)
    assert not may_join("rage.org.acme", FOREIGN)
    assert not may_join("rage.org.acme", USER)
    assert may_join("rage.acl.updates", FOREIGN)
    assert may_join("rage.global", FOREIGN)
    assert not may_join("rage.global", STRANGER)
    assert may_join("rage.global", STRANGER, Rules())
    assert not may_join("rage.org.acme", STRANGER, Rules())
    assert not may_join("rage.acl.updates", STRANGER, Rules())


def test_an_open_node_takes_no_claim_of_an_organisation() -> None:
    assert authorize(OrganizationResource("acme"), STRANGER, "kad", Rules(), NOW).allowed
    for action in ("sync", "query", "audit"):
        assert not authorize(OrganizationResource("acme"), MEMBER, action, Rules(), NOW).allowed  # type: ignore[arg-type]
    assert not authorize(DocumentResource("d", document()), MEMBER, "read", Rules(), NOW).allowed


def test_with_a_stale_log_a_certified_peer_reads_what_is_public_and_nothing_else() -> None:
    nameless = Principal("peer", "member", scopes=SCOPES)
    assert decide(document("public"), nameless).allowed
    for said in (["org"], ["federated"], ["private", ("peer:member", "read", True)]):
        assert not decide(document(*said), nameless).allowed
    assert not decide(document("public", ("peer:member", "read", False)), nameless).allowed
    assert not decide(document("public"), nameless, "write").allowed
    assert not authorize(OrganizationResource("acme"), nameless, "query", RULES, NOW).allowed
