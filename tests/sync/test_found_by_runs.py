"""What simulated runs found (tests/sim/convergence), each as short as it gets."""

from __future__ import annotations

import random
from dataclasses import replace

from rage_net.libp2p.peer_id import PeerId
from rage_net.sync.facts import Access, Adoption, Closing, New, Revocation, Tombstone
from rage_net.sync.log import Log
from tests.sync.world import (
    NOW,
    ORGANIZATION,
    Forger,
    certificate,
    give,
    grant,
    make_log,
    meet,
    pull,
    put_document,
    state,
)


def revoke(log: Log, author: PeerId, *chains: object) -> None:
    """Of these chains of the author what this log holds counts, and nothing else."""
    accepted = tuple(head for head in log.heads(ORGANIZATION) if head.chain in chains)
    log.append(ORGANIZATION, [New(f"peer:{author}", Revocation(author, is_author=True, accepted=accepted))])


def test_disputed_resources_are_named(rng: random.Random) -> None:
    one, other = make_log(rng, "admin", "storage"), make_log(rng, "admin", "storage")
    resource = put_document(one, rng)
    for log in (one, other):
        log.append(ORGANIZATION, [New(resource, grant("anyone"))])
    meet(one, other)
    assert one.disputed(ORGANIZATION) == (resource,)


def test_a_document_whose_tombstone_forked_away_lives_in_the_catalog(rng: random.Random) -> None:
    log, admin = make_log(rng, "storage"), Forger(rng, "admin")
    resource = put_document(log, rng)
    begun = admin.certify()
    head = admin.head
    assert head is not None
    give(log, begun, admin.say(admin.payload(resource, Tombstone("removed"))))
    assert log.documents(ORGANIZATION)[0].is_dead
    taken = give(log, admin.branch(head, admin.payload(resource, grant("anyone"))))
    assert taken.forks and resource in taken.resources
    assert not log.documents(ORGANIZATION)[0].is_dead


def test_a_certificate_comes_back_with_its_chain(rng: random.Random) -> None:
    """Its closing forked away: the chain is heard again, and so is what it began with."""
    log, author, admin = make_log(rng, "storage"), make_log(rng, "storage"), Forger(rng, "admin")
    pull(log, author)
    begun = admin.certify()
    head = admin.head
    assert head is not None
    closing = Closing(author.author, author.heads(ORGANIZATION))
    give(log, begun, admin.say(admin.payload(f"peer:{author.author}", closing)))
    assert log.capabilities(ORGANIZATION, author.author) is None
    give(log, admin.branch(head, admin.payload(f"peer:{admin.id}", certificate(admin.id, "admin"))))
    pull(log, author)
    assert log.capabilities(ORGANIZATION, author.author) == {"storage"}


def test_a_forked_chain_that_was_closed_is_fetched_anew(rng: random.Random) -> None:
    """Its rows went with the closing; the closing forked away. It begins again like any other."""
    log, holder, author, admin = make_log(rng, "storage"), make_log(rng, "storage"), Forger(rng), Forger(rng, "admin")
    begun = author.certify()
    first = author.head
    assert first is not None
    branches = [author.payload(f"peer:{author.id}", certificate(author.id, "storage"), lamport) for lamport in (2, 3)]
    for one in (log, holder):
        give(one, begun, author.branch(first, branches[0]), author.branch(first, branches[1]))
    certified = admin.certify()
    head = admin.head
    assert head is not None
    closing = admin.payload(f"peer:{author.id}", Closing(author.id, (replace(first, sequence=9),)))
    again = admin.branch(head, admin.payload(f"peer:{admin.id}", certificate(admin.id, "admin")))
    give(log, certified, admin.say(closing))
    give(log, again)
    give(holder, *admin.segments, again)
    meet(log, holder)
    assert state(log) == state(holder)
    assert first in log.heads(ORGANIZATION)


def test_a_certificate_that_is_cut_off_makes_nobody_an_admin(rng: random.Random) -> None:
    """Some saw it before the revocation, others never will: they must agree."""
    admin, early, late, author = (
        make_log(rng, "admin"), make_log(rng, "storage"), make_log(rng, "storage"), Forger(rng, "storage")
    )  # fmt: skip
    resource = put_document(admin, rng)
    begun = author.certify()
    granted = author.say(author.payload(resource, grant("anyone")))
    give(admin, begun, granted)
    give(early, begun, granted, author.say(author.payload(f"peer:{author.id}", certificate(author.id, "admin"), 2)))
    revoke(admin, author.id, author.chain)
    for log in (early, late, early, late):
        pull(log, admin)
    meet(early, late)
    assert early.capabilities(ORGANIZATION, author.id) == late.capabilities(ORGANIZATION, author.id) == {"storage"}
    assert state(early) == state(late)
    assert not [fact for fact in early.counting(ORGANIZATION, resource).facts if isinstance(fact.body, Access)]


def test_a_chain_that_a_revocation_accepts_is_taken_after_one_that_it_does_not(rng: random.Random) -> None:
    admin, log, author = make_log(rng, "admin"), make_log(rng, "storage"), Forger(rng)
    again = Forger(rng)
    again.key, again.id = author.key, author.id
    again.chain = replace(author.chain, incarnation=7)
    give(admin, author.certify())
    revoke(admin, author.id, author.chain)
    give(log, again.certify())
    pull(log, admin, known=(head for head in admin.heads(ORGANIZATION) if head.chain.author == author.id))
    assert log.revoked(ORGANIZATION) == {author.id}
    taken = pull(log, admin)
    assert not taken.refused
    assert author.head in log.heads(ORGANIZATION)


def test_an_admin_is_heard_out_by_who_first_hears_of_it_behind_its_revocation(rng: random.Random) -> None:
    """It became an admin after what its revocation accepts, and revoked back: all must know, or none."""
    owner, early, late, author = (
        make_log(rng, "admin"), make_log(rng, "storage"), make_log(rng, "storage"), Forger(rng, "storage")
    )  # fmt: skip
    begun = author.certify()
    give(owner, begun)
    revoke(owner, author.id, author.chain)
    back = author.payload(f"peer:{owner.author}", Revocation(owner.author, is_author=True))
    give(early, begun, author.say(author.payload(f"peer:{author.id}", certificate(author.id, "admin"), 2), back))
    pull(late, owner)
    meet(early, late)
    pull(early, owner)
    meet(early, late)
    assert early.revoked(ORGANIZATION) == late.revoked(ORGANIZATION) == {owner.author, author.id}


def test_a_new_chain_of_a_revoked_admin_is_heard_out_whatever_it_begins_with(rng: random.Random) -> None:
    """It begins with a certificate that gives less, and revokes back: all must know, or none."""
    owner, early, late, author = (
        make_log(rng, "admin"), make_log(rng, "storage"), make_log(rng, "storage"), Forger(rng, "admin")
    )  # fmt: skip
    again = Forger(rng, "storage")
    again.key, again.id = author.key, author.id
    again.chain = replace(author.chain, incarnation=7)
    begun = author.certify()
    back = again.payload(f"peer:{owner.author}", Revocation(owner.author, is_author=True))
    give(early, begun, again.certify(), again.say(back))
    give(owner, begun)
    revoke(owner, author.id, author.chain)
    pull(late, owner)
    meet(early, late)
    pull(early, owner)
    meet(early, late)
    assert early.revoked(ORGANIZATION) == late.revoked(ORGANIZATION) == {owner.author, author.id}


def test_admins_who_revoke_each_other_are_revoked_both(rng: random.Random) -> None:
    """A stolen key does not get its way by revoking back."""
    owner, thief, log = make_log(rng, "admin"), make_log(rng, "admin"), make_log(rng, "storage")
    revoke(owner, thief.author)
    revoke(thief, owner.author)
    meet(owner, thief, log)
    assert log.revoked(ORGANIZATION) == {owner.author, thief.author}


def test_an_admin_whose_chain_a_thief_closed_is_heard(rng: random.Random) -> None:
    """Else a stolen key would close the owner's chain first, and its revocation would reach nobody."""
    owner, log, thief = make_log(rng, "admin"), make_log(rng, "storage"), Forger(rng, "admin")
    give(owner, thief.certify())
    revoke(owner, thief.id)
    stolen = thief.say(thief.payload(f"peer:{owner.author}", Closing(owner.author, owner.heads(ORGANIZATION)[:1])))
    give(log, *thief.segments[:1], stolen)
    meet(log, owner)
    assert log.revoked(ORGANIZATION) == owner.revoked(ORGANIZATION) == {thief.id}
    assert log.capabilities(ORGANIZATION, owner.author) == {"admin"}


def test_what_stands_in_closed_chains_alone_revokes_nobody(rng: random.Random) -> None:
    """Some saw it, others never will: whoever closed its own chain did not say it again."""
    early, late, admin = make_log(rng, "storage"), make_log(rng, "storage"), Forger(rng, "admin")
    victim = early.author
    begun = admin.certify()
    head = admin.head
    assert head is not None
    revocation = admin.say(admin.payload(f"peer:{victim}", Revocation(victim, is_author=True)))
    again = Forger(rng, "admin")
    again.key, again.id = admin.key, admin.id
    again.chain = replace(admin.chain, incarnation=7)
    closed = [again.certify(), again.say(again.payload(f"peer:{admin.id}", Closing(admin.id, (head,))))]
    give(early, begun, revocation)
    assert early.revoked(ORGANIZATION) == {victim}
    give(early, *closed)
    give(late, *closed)
    meet(early, late)
    assert early.revoked(ORGANIZATION) == late.revoked(ORGANIZATION) == frozenset()
    assert early.capabilities(ORGANIZATION, victim) == late.capabilities(ORGANIZATION, victim) == {"storage"}


def test_adopted_rights_contradict_those_of_who_adopted_them(rng: random.Random) -> None:
    admin, author = make_log(rng, "admin"), make_log(rng, "storage")
    resource = put_document(author, rng)
    for log in (admin, author):
        log.append(ORGANIZATION, [New(resource, grant("anyone"))])
    meet(admin, author)
    admin.adopt(ORGANIZATION, author.author)
    late = make_log(rng, "storage")
    meet(admin, late)
    assert late.disputed(ORGANIZATION) == admin.disputed(ORGANIZATION) == (resource,)


def test_what_a_delegate_removed_stays_removed(rng: random.Random) -> None:
    """Its right ends, or is taken away: the bytes went, and do not come back."""
    owner, delegate = make_log(rng, "storage"), make_log(rng, "storage")
    resource = put_document(owner, rng)
    owner.append(ORGANIZATION, [New(resource, grant(delegate.author, "admin", expires_at=int(NOW) + 60))])
    meet(owner, delegate)
    delegate.append(ORGANIZATION, [New(resource, Tombstone("removed"))])
    meet(owner, delegate)

    def is_dead(now: float) -> bool:
        return any(isinstance(fact.body, Tombstone) for fact in owner.counting(ORGANIZATION, resource, now=now).facts)

    assert is_dead(NOW) and is_dead(NOW + 3600)
    owner.append(ORGANIZATION, [New(resource, grant(delegate.author, "admin", allowed=False))])
    assert is_dead(NOW) and owner.documents(ORGANIZATION)[0].is_dead


def test_who_was_a_delegate_removes_nothing_once_it_is_revoked(rng: random.Random) -> None:
    """Its tombstone may be of any time: taking the right away does not keep it from removing, this does."""
    owner, admin, delegate = make_log(rng, "storage"), make_log(rng, "admin"), make_log(rng, "storage")
    resource = put_document(owner, rng)
    owner.append(ORGANIZATION, [New(resource, grant(delegate.author, "admin"))])
    meet(owner, admin, delegate)
    owner.append(ORGANIZATION, [New(resource, grant(delegate.author, "admin", allowed=False))])
    heads = admin.heads(ORGANIZATION)
    revoke(admin, delegate.author, *(head.chain for head in heads if head.chain.author == delegate.author))
    delegate.append(ORGANIZATION, [New(resource, Tombstone("removed"))])
    meet(owner, delegate, admin)
    assert not any(one.documents(ORGANIZATION)[0].is_dead for one in (owner, admin, delegate))


def test_what_is_secret_is_not_told_within_two_adoptions(rng: random.Random) -> None:
    """The outer one is an admin's, who adopted an author that had written the inner one."""
    admin, author = make_log(rng, "admin"), Forger(rng)
    secret = author.payload(put_document(admin, rng), grant("anyone"))
    inner = author.payload(f"peer:{author.id}", Adoption(author.id, 1, (secret,)))
    adopted = Adoption(author.id, author.chain.incarnation, (inner,))
    admin.append(ORGANIZATION, [New(f"peer:{author.id}", adopted)])
    sent = admin.missing(
        ORGANIZATION, (), is_complete=True, bytes_max=1 << 20, may_see=lambda fact: fact.resource.startswith("peer:")
    )
    told = [entry.payload for segment in sent for entry in segment.entries if entry.payload is not None]
    assert told and not any(secret in payload for payload in told)


def test_a_closing_in_the_chain_that_it_closes_closes_it_from_another(rng: random.Random) -> None:
    """Whoever knows the other place alone never hears what stands in this one."""
    one, other, author = make_log(rng, "storage"), make_log(rng, "storage"), Forger(rng)
    certified = author.certify()
    assert author.head is not None
    closing = author.payload(f"peer:{author.id}", Closing(author.id, (author.head,)))
    here = author.say(closing)
    again = Forger(rng)
    again.key, again.id = author.key, author.id
    again.chain = replace(author.chain, incarnation=7)
    there = [again.certify(), again.say(closing)]
    give(one, certified, here, *there)
    give(other, *there)
    give(other, certified, here)
    meet(one, other)
    mine, theirs = ({**state(log), "epoch": ""} for log in (one, other))  # one holds more than the closing names
    assert mine == theirs


def test_what_contradicts_is_listed_whatever_it_came_with(rng: random.Random) -> None:
    """A revocation among the facts that arrive hides none of the others."""
    from rage_net.services.ledger import Access as Rights
    from rage_net.services.ledger import Authority

    one, other = make_log(rng, "admin", "storage"), make_log(rng, "admin", "storage")
    resource = put_document(one, rng)
    rights = Rights(one, Authority(one, ORGANIZATION, one.author, (), lambda: 0.0), one.author, {}, lambda: 0.0)
    one.append(ORGANIZATION, [New(resource, grant("anyone"))])
    assert rights.conflicts(ORGANIZATION) == []
    pull(other, one, known=one.heads(ORGANIZATION)[:0])
    gone = Forger(rng)
    revoke(other, gone.id)
    other.append(ORGANIZATION, [New(resource, Access(visibility="private"))])
    one.append(ORGANIZATION, [New(resource, Access(visibility="public"))])
    rights.forget_all()
    assert rights.conflicts(ORGANIZATION) == []
    rights.forget(pull(one, other).new)
    assert [name for name, _ in rights.conflicts(ORGANIZATION)] == [resource]
