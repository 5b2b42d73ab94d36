"""Compaction and adoption: what is wanted stays, under the same ids; the rest goes, everywhere."""

from __future__ import annotations

import random

import pytest

from rage_net.errors import AccessDeniedError
from rage_net.sync.catalog import Changes
from rage_net.sync.facts import (
    Access,
    Acknowledgement,
    Adoption,
    Closing,
    Edit,
    Fact,
    New,
    NodeRecord,
    Revocation,
    Tombstone,
)
from rage_net.sync.log import Log
from tests.sync.world import (
    NOW,
    ORGANIZATION,
    WHOLE,
    Forger,
    World,
    certificate,
    document,
    give,
    grant,
    judge,
    make_log,
    meet,
    pull,
    put_document,
    state,
)


def standing(log: Log, resource: str) -> set[bytes]:
    return {fact.id for fact in log.counting(ORGANIZATION, resource).current if not isinstance(fact.body, Edit)}


def bodies(log: Log, resource: str) -> list[object]:
    return [fact.body for fact in log.facts(ORGANIZATION, resource)]


@pytest.fixture
def log(rng: random.Random) -> Log:
    return make_log(rng, "storage")


@pytest.fixture
def peer(rng: random.Random) -> Log:
    return make_log(rng, "storage")


def churn(log: Log, resource: str, times: int = 40) -> None:
    for at in range(times):
        log.append(ORGANIZATION, [New(resource, grant("user:acme/ann", allowed=bool(at % 2)))])
        log.append(ORGANIZATION, [New(f"peer:{log.author}", NodeRecord(weight=1 + at % 16))])
        log.edit(ORGANIZATION, resource[4:], Changes(name=f"name {at}"))


def test_a_compacted_chain_comes_to_the_same_with_fewer_entries(log: Log, peer: Log, rng: random.Random) -> None:
    resource = put_document(log, rng)
    churn(log, resource)
    meet(log, peer)
    before, documents = standing(log, resource), log.documents(ORGANIZATION)
    shed = log.compact(ORGANIZATION)
    assert shed > 100
    assert standing(log, resource) == before
    assert log.documents(ORGANIZATION) == documents
    meet(log, peer)
    assert state(log) == state(peer)
    assert peer.documents(ORGANIZATION) == documents
    assert log.epoch(ORGANIZATION) == peer.epoch(ORGANIZATION) != ""
    with peer._file.read() as db:
        assert db.execute("SELECT count(*) FROM entry").fetchone()[0] < 15


def test_a_newcomer_gets_only_what_is_left(log: Log, rng: random.Random) -> None:
    resource = put_document(log, rng)
    churn(log, resource)
    log.compact(ORGANIZATION)
    newcomer = make_log(rng, "storage")
    pull(newcomer, log)
    assert newcomer.documents(ORGANIZATION) == log.documents(ORGANIZATION)
    assert newcomer.counts(ORGANIZATION).entries < 15
    meet(newcomer, log)
    assert state(newcomer) == state(log)
    assert newcomer.digest(ORGANIZATION) == log.digest(ORGANIZATION)


def test_work_goes_on_after_a_compaction_and_others_edits_hold(log: Log, peer: Log, rng: random.Random) -> None:
    resource = put_document(log, rng)
    log.append(ORGANIZATION, [New(resource, grant(peer.author, "write"))])
    churn(log, resource, 10)
    meet(log, peer)
    peer.edit(ORGANIZATION, resource[4:], Changes(name="peers", tags_added=("x",)))
    log.compact(ORGANIZATION)
    meet(log, peer)
    log.edit(ORGANIZATION, resource[4:], Changes(policy="hot"))
    peer.edit(ORGANIZATION, resource[4:], Changes(tags_added=("y",)))
    meet(log, peer)
    for _ in range(3):
        churn(log, resource, 10)
        log.compact(ORGANIZATION)
    meet(log, peer)
    assert state(log) == state(peer)
    (row,) = peer.documents(ORGANIZATION)
    assert (row.tags, row.policy) == (("x", "y"), "hot")


def test_nothing_is_done_when_nothing_would_be_shed(log: Log, rng: random.Random) -> None:
    put_document(log, rng)
    heads = log.heads(ORGANIZATION)
    assert log.compact(ORGANIZATION) == 0
    assert log.heads(ORGANIZATION) == heads


def test_denials_revocations_tombstones_and_what_decides_are_never_shed(rng: random.Random) -> None:
    world = World(rng)
    log = make_log(rng, "storage", "admin", world=world)
    leaver = Forger(rng)
    give(log, leaver.certify())
    dead, alive = put_document(log, rng), put_document(log, rng, b"first")
    log.append(
        ORGANIZATION,
        [
            New(alive, grant("user:acme/eve", allowed=False)),
            New(alive, grant("user:acme/old", expires_at=int(NOW) - 10 * 86_400)),
            New(alive, grant("user:acme/new", expires_at=int(NOW) + 10)),
            New(alive, grant(leaver.id, "write")),
            New(dead, grant("user:acme/ann")),
            New(dead, Tombstone("removed")),
            New(f"peer:{leaver.id}", Revocation(leaver.id, is_author=True)),
        ],
    )
    log.append(ORGANIZATION, [New(alive, grant(leaver.id, "write", allowed=False))])
    log.edit(ORGANIZATION, dead[4:], Changes(name="dead"))
    churn(log, alive)
    assert log.compact(ORGANIZATION)
    kept = bodies(log, alive)
    assert grant("user:acme/eve", allowed=False) in kept
    assert grant("user:acme/new", expires_at=int(NOW) + 10) in kept
    assert grant(leaver.id, "write") in kept
    assert grant("user:acme/old", expires_at=int(NOW) - 10 * 86_400) not in kept
    assert [type(body) for body in bodies(log, dead)] == [type(one) for one in bodies(log, dead)[:1]] + [Tombstone]
    assert log.documents(ORGANIZATION, doc_id=dead[4:])[0].is_dead
    assert log.counting(ORGANIZATION, dead).owner == log.author
    assert bodies(log, f"peer:{leaver.id}")[-1] == Revocation(leaver.id, is_author=True)


def test_capabilities_that_the_newest_certificate_lacks_are_kept(rng: random.Random, peer: Log) -> None:
    log = make_log(rng, "storage", "admin")
    log.append(ORGANIZATION, [New(f"peer:{log.author}", certificate(log.author, "storage"))], judge=judge)
    churn(log, put_document(log, rng))
    meet(log, peer)
    assert log.compact(ORGANIZATION)
    newcomer = make_log(rng, "storage")
    meet(log, peer, newcomer)
    for one in (log, peer, newcomer):
        assert one.capabilities(ORGANIZATION, log.author) == frozenset({"storage", "admin"})


def test_whoever_has_not_heard_of_a_closing_is_told_and_cannot_bring_the_old_chain_back(
    log: Log, peer: Log, rng: random.Random
) -> None:
    resource = put_document(log, rng)
    churn(log, resource)
    meet(log, peer)
    behind = make_log(rng, "storage")
    pull(behind, peer)
    log.compact(ORGANIZATION)
    pull(peer, log)
    pull(peer, behind)
    newcomer = make_log(rng, "storage")
    pull(newcomer, log)
    pull(newcomer, behind)
    meet(log, peer, behind, newcomer)
    assert state(log) == state(peer) == state(behind) == state(newcomer)


def test_what_was_hidden_in_the_new_chain_is_found_in_the_old_one(log: Log, peer: Log, rng: random.Random) -> None:
    resource = put_document(log, rng)
    churn(log, resource)
    pull(peer, log)
    log.compact(ORGANIZATION)
    hidden = log.missing(
        ORGANIZATION,
        peer.heads(ORGANIZATION),
        is_complete=True,
        bytes_max=WHOLE,
        may_see=lambda fact: not fact.resource.startswith("doc:"),
    )
    give(peer, *hidden)
    assert standing(peer, resource) == standing(log, resource)
    assert len(peer.holes(ORGANIZATION)) == 1  # the merged edit is new, and was hidden


def test_an_admin_adopts_what_a_departed_author_wrote(log: Log, peer: Log, rng: random.Random) -> None:
    admin = make_log(rng, "admin", "storage")
    resource = put_document(log, rng)
    log.append(ORGANIZATION, [New(resource, grant(peer.author, "write"))])
    churn(log, resource)
    meet(log, peer, admin)
    peer.edit(ORGANIZATION, resource[4:], Changes(tags_added=("peers",)))
    meet(log, peer, admin)
    before = (standing(peer, resource), peer.documents(ORGANIZATION))
    assert admin.adopt(ORGANIZATION, log.author) > 50
    newcomer = make_log(rng, "storage")
    meet(peer, admin)
    pull(newcomer, peer)
    meet(peer, admin, newcomer)
    for one in (peer, admin, newcomer):
        assert (standing(one, resource), one.documents(ORGANIZATION)) == before
        assert one.counting(ORGANIZATION, resource).owner == log.author
    assert state(peer) == state(admin) == state(newcomer)
    assert newcomer.counts(ORGANIZATION).authors == 3


def test_a_departed_author_that_returns_writes_in_a_new_chain(log: Log, peer: Log, rng: random.Random) -> None:
    admin = make_log(rng, "admin")
    resource = put_document(log, rng)
    meet(log, peer, admin)
    admin.adopt(ORGANIZATION, log.author)
    meet(log, peer, admin)
    (fact,) = log.append(ORGANIZATION, [New(resource, grant("anyone"))])
    log.edit(ORGANIZATION, resource[4:], Changes(name="back"))
    meet(log, peer, admin)
    assert fact.id in standing(peer, resource)
    assert peer.documents(ORGANIZATION)[0].name == "back"
    assert state(log) == state(peer) == state(admin)


def test_only_an_admin_adopts(log: Log, peer: Log) -> None:
    meet(log, peer)
    with pytest.raises(AccessDeniedError):
        log.adopt(ORGANIZATION, peer.author)
    assert log.author != peer.author


def test_an_adoption_by_someone_else_counts_for_nothing(log: Log, peer: Log, rng: random.Random) -> None:
    resource, forger = put_document(log, rng), Forger(rng)
    forged = forger.payload(resource, grant(forger.id, "admin"))
    meet(log, peer)
    closing = Closing(log.author, log.heads(ORGANIZATION)[:1])
    adoption = forger.payload(f"peer:{log.author}", Adoption(log.author, 1, (forged,)))
    give(peer, forger.certify(), forger.say(adoption, forger.payload(f"peer:{log.author}", closing)))
    assert not any(fact.body == grant(forger.id, "admin") for fact in peer.facts(ORGANIZATION, resource))
    assert peer.epoch(ORGANIZATION) == ""


def test_what_an_author_closed_comes_back_when_the_closing_counts_no_more(
    log: Log, peer: Log, rng: random.Random
) -> None:
    """The author is revoked up to before it compacted: the old chain counts, and is fetched from who still has it."""
    admin, late = make_log(rng, "admin"), make_log(rng, "storage")
    resource = put_document(log, rng)
    churn(log, resource)
    meet(log, peer, admin, late)
    old = next(head for head in log.heads(ORGANIZATION) if head.chain.author == log.author)
    before = standing(admin, resource)
    log.compact(ORGANIZATION)
    meet(log, peer)
    admin.append(ORGANIZATION, [New(f"peer:{log.author}", Revocation(log.author, is_author=True, accepted=(old,)))])
    meet(admin, late, peer)
    for one in (admin, late, peer):
        assert standing(one, resource) == before
    assert state(admin) == state(peer) == state(late)


def test_acknowledgements_of_several_stand_beside_each_other(log: Log, peer: Log, rng: random.Random) -> None:
    resource = put_document(log, rng)
    (tombstone,) = log.append(ORGANIZATION, [New(resource, Tombstone("removed"))])
    meet(log, peer)
    for one in (log, peer):
        one.append(ORGANIZATION, [New(resource, Acknowledgement(tombstone.id)) for _ in range(2)])
    meet(log, peer)
    acks: list[Fact] = [
        fact for fact in log.counting(ORGANIZATION, resource).current if isinstance(fact.body, Acknowledgement)
    ]
    assert {fact.author for fact in acks} == {log.author, peer.author}
    assert len(acks) == 2


def test_what_replaced_anothers_fact_is_kept_even_when_it_was_replaced_itself(log: Log, rng: random.Random) -> None:
    """Public by an admin, then for the organisation, then private by the owner: public must not come back."""
    admin = make_log(rng, "admin")
    resource = put_document(log, rng)
    meet(log, admin)
    admin.append(ORGANIZATION, [New(resource, Access(visibility="public"))])
    meet(log, admin)
    churn(log, resource)
    log.append(ORGANIZATION, [New(resource, Access(visibility="org"))])
    log.append(ORGANIZATION, [New(resource, Access(visibility="private"))])
    before = standing(log, resource)
    assert log.compact(ORGANIZATION)
    meet(log, admin)
    assert standing(log, resource) == standing(admin, resource) == before


def test_a_document_that_moved_twice_stays_where_it_is(log: Log, rng: random.Random) -> None:
    resource = put_document(log, rng, b"one")
    for content in (b"two", b"three"):
        log.append(ORGANIZATION, [New(resource, document(content, created_at=9))])
    churn(log, resource)
    before = log.documents(ORGANIZATION)
    assert log.compact(ORGANIZATION)
    assert log.documents(ORGANIZATION) == before
    assert before[0].root == document(b"three").root
    assert before[0].created_at == 5


def test_a_revoked_author_does_not_compact_what_is_still_heard_of_it(log: Log, rng: random.Random) -> None:
    """Its new chain would not be heard, and its old ones be closed: everything it said would be gone."""
    admin = make_log(rng, "admin")
    resource = put_document(log, rng)
    churn(log, resource, 5)
    meet(log, admin)
    heads = tuple(head for head in admin.heads(ORGANIZATION) if head.chain.author == log.author)
    admin.append(ORGANIZATION, [New(f"peer:{log.author}", Revocation(log.author, is_author=True, accepted=heads))])
    meet(log, admin)
    before = standing(log, resource)
    assert log.compact(ORGANIZATION) == 0
    assert standing(log, resource) == before


def test_a_tombstone_by_an_admin_of_the_document_counts_after_its_owner_compacted(
    log: Log, peer: Log, rng: random.Random
) -> None:
    resource = put_document(log, rng)
    log.append(ORGANIZATION, [New(resource, grant(peer.author, "admin"))])
    churn(log, resource, 5)
    meet(log, peer)
    peer.append(ORGANIZATION, [New(resource, Tombstone("removed"))])
    meet(log, peer)
    assert log.compact(ORGANIZATION)
    meet(log, peer)
    assert all(one.documents(ORGANIZATION)[0].is_dead for one in (log, peer))


def test_contradictions_with_an_adopted_author_are_still_found(log: Log, peer: Log, rng: random.Random) -> None:
    admin = make_log(rng, "admin")
    resource = put_document(log, rng)
    meet(log, peer, admin)
    log.append(ORGANIZATION, [New(resource, grant("anyone"))])
    admin.append(ORGANIZATION, [New(resource, grant("anyone", allowed=False))])
    meet(log, peer, admin)
    admin.adopt(ORGANIZATION, log.author)
    newcomer = make_log(rng, "storage")
    meet(admin, peer, newcomer)
    assert [one.disputed(ORGANIZATION) for one in (admin, peer, newcomer)] == [(resource,)] * 3
