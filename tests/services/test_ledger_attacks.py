"""What the log comes to when members and other organisations write what they should not."""

from __future__ import annotations

import random

import pytest

from rage_net.acl import Entry, Principal
from rage_net.errors import AccessDeniedError
from rage_net.libp2p.peer_id import PeerId
from rage_net.services.ledger import Access, Authority
from rage_net.sync import facts as kinds
from rage_net.sync.facts import Fact, New
from rage_net.sync.log import Log
from tests.sync.world import (
    ORGANIZATION,
    World,
    certificate,
    document,
    give,
    grant,
    judge,
    make_log,
    meet,
    put_document,
)

BIRCH = "birch"


class Node:
    """A log, and what it comes to here."""

    def __init__(self, rng: random.Random, *capabilities: str) -> None:
        self.world = World(rng)
        self.log: Log = make_log(rng, *capabilities, world=self.world)
        self.authority = Authority(self.log, ORGANIZATION, self.log.author, (), self.world.now)
        self.access = Access(self.log, self.authority, self.log.author, {}, self.world.now)

    @property
    def id(self) -> PeerId:
        return self.log.author

    def say(self, resource: str, *bodies: kinds.Body) -> list[Fact]:
        facts = self.log.append(ORGANIZATION, [New(resource, body) for body in bodies])
        self.access.forget(facts)
        return facts

    def grants(self, resource: str, action: str = "read") -> set[str]:
        return set(self.access.rights(ORGANIZATION, resource).access.grants.get(action, ()))


def share(*nodes: Node) -> None:
    """All hear of all, and obey."""
    before = {node: {fact.id for _, fact in node.log.log(ORGANIZATION, limit=10_000)} for node in nodes}
    meet(*(node.log for node in nodes))
    for node in nodes:
        new = [fact for _, fact in node.log.log(ORGANIZATION, limit=10_000) if fact.id not in before[node]]
        node.access.forget(new)


def write(resource: str, node: Node, *, action: str = "read") -> None:
    entry = Entry(b"", "org:acme", action, True)
    node.access.append(ORGANIZATION, resource, [entry])


@pytest.fixture
def owner(rng: random.Random) -> Node:
    return Node(rng, "storage")


@pytest.fixture
def other(rng: random.Random) -> Node:
    return Node(rng, "storage")


# --- members ----------------------------------------------------------------------------------------------------------


def test_a_tombstone_by_somebody_who_may_not_removes_nothing(owner: Node, other: Node, rng: random.Random) -> None:
    resource = put_document(owner.log, rng)
    share(owner, other)
    other.say(resource, kinds.Tombstone("removed"))
    share(owner, other)
    for node in (owner, other):
        assert not node.access.rights(ORGANIZATION, resource).is_dead
        assert not node.log.documents(ORGANIZATION)[0].is_dead


def test_who_may_not_is_told_before_it_writes_what_would_not_count(
    owner: Node, other: Node, rng: random.Random
) -> None:
    resource = put_document(owner.log, rng)
    share(owner, other)
    with pytest.raises(AccessDeniedError, match="may not change rights"):
        write(resource, other)
    owner.say(resource, grant(other.id, "admin"))
    share(owner, other)
    write(resource, other)
    with pytest.raises(AccessDeniedError, match="every right"):
        write(resource, other, action="admin")
    owner.say(resource, grant("org:acme", "admin"), grant(other.id, "admin", allowed=False))
    share(owner, other)
    with pytest.raises(AccessDeniedError, match="may not change rights"):
        write(resource, other)


def test_an_owner_that_may_no_longer_write_is_told_so(rng: random.Random) -> None:
    reader = Node(rng, "query")
    resource = put_document(reader.log, rng)
    with pytest.raises(AccessDeniedError):
        write(resource, reader)


def test_what_somebody_said_whose_right_to_rule_has_ended_ends_with_it(
    owner: Node, other: Node, rng: random.Random
) -> None:
    resource = put_document(owner.log, rng)
    ends = int(owner.world.time) + 3600
    owner.say(resource, grant(other.id, "admin", expires_at=ends))
    share(owner, other)
    other.say(resource, grant("user:acme/eve"))
    share(owner, other)
    assert owner.grants(resource) == other.grants(resource) == {"user:acme/eve"}
    for node in (owner, other):
        node.world.time = ends + 61.0
    assert owner.grants(resource) == other.grants(resource) == set(), "though nothing new was said"
    other.say(resource, grant("user:acme/mallory"))
    share(owner, other)
    assert owner.grants(resource) == set()


# --- other organisations ----------------------------------------------------------------------------------------------


def birch_of(node: Node, rng: random.Random) -> Log:
    """A log of birch's, whose author the node hears of."""
    log = make_log(rng)
    log.append(BIRCH, [New(f"peer:{log.author}", certificate(log.author, "admin", "storage"))], judge=judge)
    return log


def hear_birch(node: Node, log: Log) -> None:
    known = node.log.heads(BIRCH)
    taken = node.log.take(BIRCH, log.missing(BIRCH, known, is_complete=True, bytes_max=1 << 30), authority=judge)
    node.access.forget(list(taken.new))


def test_another_organisations_facts_about_our_document_are_about_another_one(owner: Node, rng: random.Random) -> None:
    resource = put_document(owner.log, rng)
    owner.say(resource, kinds.Access(visibility="private"))
    theirs = birch_of(owner, rng)
    news = (document(), kinds.Access(visibility="public"), grant("anyone"), kinds.Tombstone("removed"))
    theirs.append(BIRCH, [New(resource, body) for body in news])
    hear_birch(owner, theirs)
    rights = owner.access.rights(ORGANIZATION, resource)
    assert (rights.access.visibility, rights.access.grants, rights.is_dead) == ("private", {}, False)
    assert not owner.log.documents(ORGANIZATION)[0].is_dead


def test_another_organisations_certificates_make_us_forget_nothing_of_ours(owner: Node, rng: random.Random) -> None:
    """Else it could have every right compiled anew, at will: slow for us, and the time of an answer would tell."""
    resource = put_document(owner.log, rng)
    theirs = birch_of(owner, rng)
    kept = owner.access.rights(ORGANIZATION, resource)
    hear_birch(owner, theirs)
    assert owner.access.rights(ORGANIZATION, resource) is kept


def test_who_could_read_a_document_learns_that_it_can_no_more_and_nothing_else(owner: Node, rng: random.Random) -> None:
    opened, never = put_document(owner.log, rng), put_document(owner.log, rng)
    owner.say(opened, kinds.Access(visibility="federated"))
    their_peer = Principal("peer", str(make_log(rng).author), BIRCH, scopes=frozenset({"sync", "chunks"}))
    may = owner.access.may_see(their_peer, ORGANIZATION, ())
    assert may is not None
    (narrowed,) = owner.say(opened, kinds.Access(visibility="private"))
    (given, denied, dead) = owner.say(
        opened, grant("user:acme/eve"), grant(their_peer_name(their_peer), allowed=False), kinds.Tombstone("removed")
    )
    assert may(narrowed) and may(dead) and may(denied)
    assert not may(given), "whom we let read it now is nothing to them"
    moved = owner.say(opened, document(b"later"))[0]
    assert not may(moved)
    assert not any(may(fact) for fact in owner.say(never, kinds.Access(visibility="private"), kinds.Tombstone("gone")))


def their_peer_name(principal: Principal) -> str:
    return f"peer:{principal.name}"


# --- forks ------------------------------------------------------------------------------------------------------------


def test_evidence_alone_makes_a_log_say_that_it_is_to_be_judged_anew(owner: Node, rng: random.Random) -> None:
    from tests.sync.world import Forger

    forger = Forger(rng, "admin")
    resource = put_document(owner.log, rng)
    give(owner.log, forger.certify())
    head = forger.head
    assert head is not None
    give(owner.log, forger.say(forger.payload(resource, grant("user:acme/eve"))))
    assert owner.grants(resource) == {"user:acme/eve"}
    taken = give(owner.log, forger.branch(head, forger.payload(resource, grant("anyone"))))
    assert taken.is_rejudged and not len(taken.new)
    owner.access.forget_all()
    assert owner.grants(resource) == set()
