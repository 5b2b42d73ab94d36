"""What nodes tell each other of purges: believed of whoever rules the document, and of nobody else."""

from __future__ import annotations

import random
from typing import Any, cast

import pytest

from rage_net.acl import Principal
from rage_net.services.ledger.records import Records
from rage_net.sync import facts as kinds
from rage_net.sync.facts import Fact, PurgedProvider
from rage_net.sync.payloads import PURGED_BYTES_MAX, PURGES_MAX
from rage_net.sync.purges import add_purges, covers
from tests.services.test_ledger_attacks import Node, share
from tests.sync.world import ORGANIZATION, grant, make_log, put_document

EDGE = PurgedProvider("main", "varnish", ("a.example.org", "b.example.org"), b"edges")


def records(node: Node) -> Records:
    nothing = cast(Any, None)  # neither store nor documents are asked
    return Records(nothing, nothing, node.log, node.access, ORGANIZATION, node.id, nothing)


def tell(node: Node, resource: str, *events: bytes, providers: tuple[PurgedProvider, ...] = (EDGE,)) -> list[Fact]:
    return records(node).tell_purged(resource[4:], events, providers)


def told(node: Node, resource: str, event: bytes) -> dict[str, tuple[PurgedProvider, ...]]:
    return {str(peer): providers for peer, providers in records(node).purged_by(resource[4:], event)}


@pytest.fixture
def owner(rng: random.Random) -> Node:
    return Node(rng, "storage")


@pytest.fixture
def admin(rng: random.Random) -> Node:
    return Node(rng, "admin")


@pytest.fixture
def member(rng: random.Random) -> Node:
    return Node(rng, "storage")


def test_who_waits_learns_which_cdns_were_purged_for_the_fact_that_asked(
    owner: Node, admin: Node, member: Node, rng: random.Random
) -> None:
    resource = put_document(owner.log, rng)
    (event,) = owner.say(resource, kinds.Access(visibility="private"))
    share(owner, admin, member)
    written = PurgedProvider("main", "varnish", ("B.example.org", "a.example.org", "b.example.org"), b"edges")
    (fact,) = tell(admin, resource, event.id, providers=(written, EDGE))
    share(owner, admin, member)
    for node in (owner, member):
        assert told(node, resource, event.id) == {str(admin.id): (EDGE,)}
        assert told(node, resource, bytes(16)) == {}
    assert told(admin, resource, event.id) == {}, "what it did itself it need not be told"
    assert fact.resource == resource


def test_an_owner_tells_of_its_own_document(owner: Node, member: Node, rng: random.Random) -> None:
    resource = put_document(owner.log, rng)
    share(owner, member)
    tell(owner, resource, bytes(16))
    share(owner, member)
    assert told(member, resource, bytes(16)) == {str(owner.id): (EDGE,)}


def test_a_member_that_does_not_rule_the_document_keeps_nobody_from_purging(
    owner: Node, member: Node, rng: random.Random
) -> None:
    resource = put_document(owner.log, rng)
    (event,) = owner.say(resource, kinds.Access(visibility="private"))
    share(owner, member)
    assert tell(member, resource, event.id) == [], "an honest one is not even written"
    member.say(resource, kinds.Purged((kinds.Purge((event.id,), (EDGE,)),)))  # a lie is, and counts for nothing
    share(owner, member)
    assert told(owner, resource, event.id) == {}


def test_an_admin_of_the_document_is_believed_until_it_is_one_no_more(
    owner: Node, member: Node, admin: Node, rng: random.Random
) -> None:
    resource = put_document(owner.log, rng)
    owner.say(resource, grant(member.id, "admin"))
    share(owner, member, admin)
    assert tell(member, resource, bytes(16))
    share(owner, member, admin)
    assert told(admin, resource, bytes(16)) == {str(member.id): (EDGE,)}
    owner.say(resource, grant(member.id, "admin", allowed=False))
    share(owner, member, admin)
    assert told(admin, resource, bytes(16)) == {}


def test_what_a_revoked_node_says_after_its_revocation_keeps_nobody_from_purging(
    owner: Node, admin: Node, rng: random.Random
) -> None:
    thief = Node(rng, "admin")
    resource = put_document(owner.log, rng)
    share(owner, admin, thief)
    accepted = tuple(head for head in admin.log.heads(ORGANIZATION) if head.chain.author == thief.id)
    (event,) = admin.say(f"peer:{thief.id}", kinds.Revocation(thief.id, b"", "stolen", True, accepted))
    thief.say(resource, kinds.Purged((kinds.Purge((event.id,), (EDGE,)),)))
    share(owner, admin, thief)
    for node in (owner, admin):
        node.access.forget_all()
        assert told(node, resource, event.id) == {}


def test_another_organisation_learns_nothing_of_our_cdns(owner: Node, rng: random.Random) -> None:
    resource = put_document(owner.log, rng)
    owner.say(resource, kinds.Access(visibility="federated"))
    theirs = Principal("peer", str(make_log(rng).author), "birch", scopes=frozenset({"sync", "chunks"}))
    may = owner.access.may_see(theirs, ORGANIZATION, ())
    assert may is not None
    (fact,) = tell(owner, resource, bytes(16))
    assert not may(fact)
    assert all(may(one) for one in owner.log.facts(ORGANIZATION, resource) if one.id != fact.id)


def test_each_author_has_one_fact_of_a_document_in_the_log_and_compaction_sheds_the_rest(
    owner: Node, rng: random.Random
) -> None:
    resource = put_document(owner.log, rng)
    events = [at.to_bytes(16, "big") for at in range(40)]
    for event in events:
        assert tell(owner, resource, event)
    standing = [
        fact for fact in owner.access.rights(ORGANIZATION, resource).in_force if isinstance(fact.body, kinds.Purged)
    ]
    assert len(standing) == 1
    said = [event for purge in standing[0].body.purges for event in purge.events]
    assert said == events[-PURGES_MAX:]
    assert tell(owner, resource, events[-1]) == [], "nothing new"
    owner.log.compact(ORGANIZATION)
    kept = [fact for fact in owner.log.facts(ORGANIZATION, resource) if isinstance(fact.body, kinds.Purged)]
    assert [fact.id for fact in kept] == [standing[0].id]


def test_what_is_told_stays_within_its_bounds_whatever_providers_are_called(owner: Node, rng: random.Random) -> None:
    resource = put_document(owner.log, rng)
    large = tuple(
        PurgedProvider(f"{at:064}", "cloudfront", tuple(f"{at:02}{host:0240}" for host in range(3)), bytes(16))
        for at in range(8)
    )
    for at in range(4):
        (fact,) = tell(owner, resource, at.to_bytes(16, "big"), providers=large)
        assert isinstance(fact.body, kinds.Purged)
        assert fact.body.purges[-1].events == (at.to_bytes(16, "big"),)
        assert len(fact.body.purges) == 1
    many = tuple(f"{host:0240}" for host in range(12))
    too_large = tuple(PurgedProvider(one.name, one.software, many, one.place) for one in large)
    assert add_purges([], [bytes(16)], too_large) is None
    assert add_purges([], [bytes(16)], ()) is None and add_purges([], [], large) is None
    assert PURGED_BYTES_MAX < 64 << 10


def test_very_many_facts_at_once_ask_for_one_purge(owner: Node, rng: random.Random) -> None:
    resource = put_document(owner.log, rng)
    events = tuple(at.to_bytes(16, "big") for at in range(200))
    (fact,) = tell(owner, resource, *events)
    assert isinstance(fact.body, kinds.Purged)
    assert [event for purge in fact.body.purges for event in purge.events] == list(events)


def test_a_purge_stands_for_ours_only_where_it_did_all_that_ours_would() -> None:
    assert covers([EDGE], PurgedProvider("another name", "varnish", ("a.example.org",), b"edges"))
    assert not covers([EDGE], PurgedProvider("main", "varnish", ("a.example.org", "c.example.org"), b"edges"))
    assert not covers([EDGE], PurgedProvider("main", "varnish", ("a.example.org",), b"other edges"))
    assert not covers([EDGE], PurgedProvider("main", "nginx", ("a.example.org",), b"edges"))
    assert not covers([], EDGE)
