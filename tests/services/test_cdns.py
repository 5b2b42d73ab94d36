"""How documents may go to CDNs by the log, what these hold, and when it must be sealed anew."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from rage_net.acl import Principal
from rage_net.cdn.sealing import Epoch
from rage_net.cid import Cid
from rage_net.errors import AccessDeniedError
from rage_net.services.ledger.cdns import Cdns, Due
from rage_net.sync import facts as kinds
from rage_net.sync.epochs import epoch_due, taken
from rage_net.sync.payloads import TAKEN_MAX
from rage_net.sync.rights import counting
from tests.services.test_ledger_attacks import Node, share
from tests.sync.test_rights import CAPABILITIES, OWNER, Board
from tests.sync.world import ORGANIZATION, document, grant, make_log, put_document

PAGE = Cid.of(b"the root page")


def cdns(node: Node) -> Cdns:
    node.access.forget_all()
    return Cdns(node.log, node.access, node.authority, ORGANIZATION, node.id, node.world.now)


def refusal(node: Node, resource: str) -> AccessDeniedError:
    with pytest.raises(AccessDeniedError) as caught:
        cdns(node).way(resource[4:])
    return caught.value


@pytest.fixture
def owner(rng: random.Random) -> Node:
    return Node(rng, "storage")


@pytest.fixture
def admin(rng: random.Random) -> Node:
    return Node(rng, "admin")


@pytest.fixture
def member(rng: random.Random) -> Node:
    return Node(rng, "storage")


@pytest.fixture
def resource(owner: Node, rng: random.Random) -> str:
    resource = put_document(owner.log, rng)
    owner.say(resource, kinds.Access(visibility="org"))
    return resource


# --- nothing that is not public goes in the clear ---------------------------------------------------------------------


@pytest.mark.parametrize("visibility", ["org", "federated", "private", ""])
def test_what_is_not_public_does_not_go(owner: Node, rng: random.Random, visibility: str) -> None:
    resource = put_document(owner.log, rng)
    if visibility:
        owner.say(resource, kinds.Access(visibility=visibility))
    error = refusal(owner, resource)
    assert error.id == "cdn-not-public"
    assert any("--cdn encrypted" in line for line in error.mend)


def test_what_is_public_goes_in_the_clear_be_it_sealed_or_not(owner: Node, resource: str) -> None:
    owner.say(resource, kinds.Access(visibility="public"))
    assert cdns(owner).way(resource[4:]) == "clear"
    cdns(owner).rule(resource[4:], "encrypted")
    assert cdns(owner).way(resource[4:]) == "clear"


def test_what_is_public_but_for_one_who_is_denied_does_not_go_in_the_clear(
    owner: Node, member: Node, resource: str
) -> None:
    owner.say(resource, kinds.Access(visibility="public"), grant(member.id, allowed=False))
    assert "denied" in refusal(owner, resource).why
    cdns(owner).rule(resource[4:], "encrypted")
    assert cdns(owner).way(resource[4:]) == "encrypted"


def test_a_document_that_was_removed_does_not_go(owner: Node, resource: str) -> None:
    cdns(owner).rule(resource[4:], "encrypted")
    owner.say(resource, kinds.Access(visibility="public"), kinds.Tombstone("removed"))
    assert refusal(owner, resource).why == "it was removed"


def test_a_document_that_the_log_does_not_know_does_not_go(owner: Node) -> None:
    assert refusal(owner, "doc:" + "a" * 26).id == "cdn-not-public"


def test_with_its_owners_word_it_goes_encrypted_and_without_it_no_longer(owner: Node, resource: str) -> None:
    (fact,) = cdns(owner).rule(resource[4:], "encrypted")
    assert fact.body == kinds.Cdn("encrypted")
    assert cdns(owner).rule(resource[4:], "encrypted") == [], "it is so already"
    assert cdns(owner).way(resource[4:]) == "encrypted"
    cdns(owner).rule(resource[4:], "")
    assert refusal(owner, resource).id == "cdn-not-public"


def test_a_member_that_does_not_rule_it_opens_no_way(owner: Node, member: Node, resource: str) -> None:
    share(owner, member)
    with pytest.raises(AccessDeniedError):
        cdns(member).rule(resource[4:], "encrypted")
    member.say(resource, kinds.Cdn("encrypted", bytes(16), Cid.of(b"content"), PAGE, bytes(32)))
    share(owner, member)
    for node in (owner, member):
        assert refusal(node, resource).id == "cdn-not-public"
        assert cdns(node).held(resource[4:]) == ()


def test_who_may_edit_the_record_opens_no_way(owner: Node, member: Node, resource: str) -> None:
    owner.say(resource, grant(member.id, "write"))
    share(owner, member)
    member.say(resource, kinds.Cdn("encrypted"))
    share(owner, member)
    assert refusal(owner, resource).id == "cdn-not-public"


def test_where_two_disagree_it_stays_shut_until_one_has_seen_the_other(owner: Node, admin: Node, resource: str) -> None:
    cdns(owner).rule(resource[4:], "encrypted")
    share(owner, admin)
    cdns(admin).rule(resource[4:], "")
    owner.say(resource, kinds.Cdn("encrypted", bytes(16), Cid.of(b"content"), PAGE, bytes(32)))  # sealed meanwhile
    share(owner, admin)
    for node in (owner, admin):
        assert refusal(node, resource).id == "cdn-not-public"
        assert len(cdns(node).held(resource[4:])) == 1, "what is held is known, or it could not be deleted"
    cdns(owner).rule(resource[4:], "encrypted")
    share(owner, admin)
    assert cdns(admin).way(resource[4:]) == "encrypted"


# --- when it is due ---------------------------------------------------------------------------------------------------


def seal(node: Node, resource: str, epoch: bytes = bytes(16)) -> Due:
    if not cdns(node).mode(resource[4:]):
        cdns(node).rule(resource[4:], "encrypted")
    due = cdns(node).due(resource[4:])
    assert due is not None
    assert cdns(node).tell_sealed(due, Epoch(ORGANIZATION, resource[4:], epoch, bytes(32)), PAGE)
    assert cdns(node).due(resource[4:]) is None
    return due


def why(node: Node, resource: str) -> str:
    due = cdns(node).due(resource[4:])
    return due.reason if due is not None else ""


def test_what_may_not_go_is_never_due(owner: Node, resource: str) -> None:
    assert cdns(owner).due(resource[4:]) is None
    owner.say(resource, kinds.Access(visibility="public"))
    assert cdns(owner).due(resource[4:]) is None


def test_the_first_epoch_is_due_at_once_and_readers_find_it_by_the_root(
    owner: Node, member: Node, resource: str
) -> None:
    assert seal(owner, resource).reason == "never-sealed"
    share(owner, member)
    (sealed,) = cdns(member).of_root(Cid.of(b"content"))
    assert (sealed.doc_id, sealed.epoch, sealed.sealed, sealed.author) == (
        resource[4:],
        bytes(16),
        PAGE,
        str(owner.id),
    )
    assert cdns(member).of_root(Cid.of(b"something else")) == ()
    assert cdns(member).documents() == (resource[4:],)


Change = Callable[[Node, Node, str], object]


def deny(node: Node, member: Node, resource: str) -> object:
    return node.say(resource, grant(member.id, allowed=False))


def narrow(node: Node, member: Node, resource: str) -> object:
    return node.say(resource, kinds.Access(visibility="private"))


def take_admin(node: Node, member: Node, resource: str) -> object:
    return node.say(resource, grant(member.id, "admin", allowed=False))


def shorten(node: Node, member: Node, resource: str) -> object:
    return node.say(resource, grant(member.id, expires_at=int(node.world.time) + 100))


@pytest.mark.parametrize("change", [deny, narrow, take_admin, shorten], ids=lambda each: each.__name__)
def test_what_takes_a_right_to_read_away_makes_a_new_epoch_due(
    owner: Node, admin: Node, member: Node, resource: str, change: Change
) -> None:
    owner.say(resource, grant(member.id), grant(member.id, "admin"))
    seal(owner, resource)
    change(owner, member, resource)
    share(owner, admin)
    assert why(owner, resource) == why(admin, resource) == "narrowed"
    seal(admin, resource, b"b" * 16)
    share(owner, admin)
    assert why(owner, resource) == ""
    (sealed,) = cdns(owner).held(resource[4:])
    assert sealed.epoch == b"b" * 16


@pytest.mark.parametrize(
    "body",
    [
        grant("org:birch"),
        grant("anyone"),
        grant("org:acme", "write", allowed=False),
        grant("org:acme", "replicate", allowed=False),
        kinds.Edit(b"x"),
    ],
    ids=["org", "anyone", "write", "replicate", "edit"],
)
def test_what_takes_no_right_to_read_away_makes_none_due(owner: Node, resource: str, body: kinds.Body) -> None:
    seal(owner, resource)
    owner.say(resource, body)
    assert why(owner, resource) == ""


def test_a_fact_of_a_later_version_that_shuts_the_document_makes_one_due() -> None:
    board = Board()
    board.say(OWNER, document())
    before = taken(counting(board.facts, CAPABILITIES.get), (), (), (), 0.0)
    board.say(OWNER, kinds.Unknown(99))
    after = taken(counting(board.facts, CAPABILITIES.get), (), (), (), 0.0)
    assert (
        epoch_due(kinds.Cdn("encrypted", bytes(16), Cid.of(b"content"), PAGE, bytes(32), before), PAGE, after)
        == "narrowed"
    )


def test_a_right_that_has_run_out_makes_one_due(owner: Node, member: Node, resource: str) -> None:
    owner.say(resource, grant(member.id, expires_at=int(owner.world.time) + 1000))
    seal(owner, resource)
    owner.world.time += 1030
    assert why(owner, resource) == "", "clocks differ, and it still counts"
    owner.world.time += 100
    assert why(owner, resource) == "narrowed"


def test_a_document_that_moves_makes_one_due(owner: Node, resource: str) -> None:
    seal(owner, resource)
    owner.say(resource, document(b"a later text"))
    due = cdns(owner).due(resource[4:])
    assert due is not None and (due.reason, due.root) == ("root-moved", Cid.of(b"a later text"))
    assert cdns(owner).of_root(Cid.of(b"a later text")) == ()


def revoke(admin: Node, peer: Node) -> None:
    heads = tuple(head for head in admin.log.heads(ORGANIZATION) if head.chain.author == peer.id)
    admin.say(f"peer:{peer.id}", kinds.Revocation(peer.id, b"", "stolen", True, heads))


def test_the_revocation_of_a_node_that_could_read_makes_one_due(
    owner: Node, admin: Node, member: Node, resource: str
) -> None:
    share(owner, admin, member)
    seal(owner, resource)
    share(owner, admin, member)
    revoke(admin, member)
    share(owner, admin)
    assert why(owner, resource) == "narrowed"
    seal(owner, resource, b"b" * 16)


def test_the_revocation_of_a_node_that_never_could_makes_none_due(
    owner: Node, admin: Node, member: Node, rng: random.Random
) -> None:
    resource = put_document(owner.log, rng)
    owner.say(resource, kinds.Access(visibility="private"))
    share(owner, admin, member)
    seal(owner, resource)
    share(owner, admin)
    revoke(admin, member)
    share(owner, admin)
    assert why(owner, resource) == ""
    thief = Node(rng, "admin")
    share(owner, admin, thief)
    revoke(admin, thief)
    share(owner, admin)
    assert why(owner, resource) == "narrowed", "admins read everything"


def test_trust_that_is_withdrawn_makes_one_due(owner: Node, admin: Node, resource: str) -> None:
    admin.say("org:birch", kinds.Trust(b"DER", ("chunks",)))
    share(owner, admin)
    seal(owner, resource)
    admin.say("org:cedar", kinds.Trust(b"other DER", ("chunks",)))
    share(owner, admin)
    assert why(owner, resource) == ""
    admin.say("org:birch", kinds.Trust(b"DER", (), 0, True))
    share(owner, admin)
    assert why(owner, resource) == "narrowed"


def test_what_is_taken_away_while_it_is_sealed_asks_again(owner: Node, member: Node, resource: str) -> None:
    cdns(owner).rule(resource[4:], "encrypted")
    due = cdns(owner).due(resource[4:])
    assert due is not None
    deny(owner, member, resource)
    cdns(owner).tell_sealed(due, Epoch(ORGANIZATION, resource[4:], bytes(16), bytes(32)), PAGE)
    assert why(owner, resource) == "narrowed"


def test_what_ceases_to_be_encrypted_while_it_is_sealed_is_not_said(owner: Node, resource: str) -> None:
    cdns(owner).rule(resource[4:], "encrypted")
    due = cdns(owner).due(resource[4:])
    assert due is not None
    cdns(owner).rule(resource[4:], "")
    with pytest.raises(AccessDeniedError):
        cdns(owner).tell_sealed(due, Epoch(ORGANIZATION, resource[4:], bytes(16), bytes(32)), PAGE)


def test_compaction_makes_nothing_due(owner: Node, member: Node, resource: str) -> None:
    deny(owner, member, resource)
    owner.say(resource, grant(member.id))
    deny(owner, member, resource)
    seal(owner, resource)
    assert owner.log.compact(ORGANIZATION)
    assert why(owner, resource) == ""
    assert len(cdns(owner).held(resource[4:])) == 1


def test_very_many_that_were_denied_are_remembered_as_one(
    owner: Node, resource: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rage_net.sync.epochs.TAKEN_MAX", 10)
    owner.say(resource, *(grant(f"user:acme/u{at}", allowed=False) for at in range(20)))
    assert len(seal(owner, resource).taken) == 1
    owner.say(resource, grant("user:acme/one-more", allowed=False))
    assert why(owner, resource) == "narrowed"
    assert TAKEN_MAX * 8 < 64 << 10
    assert taken(owner.log.counting(ORGANIZATION, resource), (), (), (), 0.0)


def test_what_was_held_is_told_until_somebody_says_that_it_is_gone(owner: Node, resource: str) -> None:
    seal(owner, resource)
    owner.say(resource, kinds.Tombstone("removed"))
    assert len(cdns(owner).held(resource[4:])) == 1
    assert cdns(owner).of_root(Cid.of(b"content")) == (), "nobody reads it any more"
    assert cdns(owner).tell_unsealed(resource[4:])
    assert cdns(owner).held(resource[4:]) == ()
    assert cdns(owner).tell_unsealed(resource[4:]) == []


def test_another_organisation_sees_how_to_read_what_it_may_read(owner: Node, resource: str, rng: random.Random) -> None:
    owner.say(resource, kinds.Access(visibility="federated"))
    seal(owner, resource)
    (fact,) = [
        one for one in owner.log.facts(ORGANIZATION, resource) if isinstance(one.body, kinds.Cdn) and one.body.epoch
    ]
    theirs = Principal("peer", str(make_log(rng).author), "birch", scopes=frozenset({"sync", "chunks"}))
    may = owner.access.may_see(theirs, ORGANIZATION, ())
    assert may is not None and may(fact)
    owner.say(resource, kinds.Access(visibility="private"))
    assert not may(fact)
