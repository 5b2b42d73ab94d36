"""One test an attack on the log: by strangers, by authors of the organisation, by whoever relays."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from rage_net.pb import rage_pb2 as pb
from rage_net.sync.catalog import Changes, make_edit
from rage_net.sync.envelope import (
    SEGMENT_BYTES_MAX,
    ChainId,
    Entry,
    Head,
    client_id,
    encode_segment,
    fact_id,
    payload_hash,
)
from rage_net.sync.facts import Access, Edit, New, Revocation, Unknown
from rage_net.sync.log import Log
from rage_net.sync.payloads import LAMPORT_MAX
from rage_net.sync.vocabulary import document_id
from tests.sync.world import (
    ORGANIZATION,
    WHOLE,
    Forger,
    certificate,
    document,
    end_of,
    give,
    grant,
    make_log,
    meet,
    pull,
    put_document,
    state,
)


@pytest.fixture
def log(rng: random.Random) -> Log:
    return make_log(rng, "storage")


@pytest.fixture
def admin(rng: random.Random) -> Log:
    return make_log(rng, "admin")


@pytest.fixture
def forger(rng: random.Random) -> Forger:
    return Forger(rng)


def reasons(log: Log, *segments: object) -> list[str]:
    return [reason for _, reason in give(log, *segments).refused]  # type: ignore[arg-type]


def test_an_update_signed_by_nobody(log: Log, forger: Forger) -> None:
    before = state(log)
    forged = replace(forger.certify(), signature=bytes(64))
    assert reasons(log, forged) == ["bad-signature"]
    assert state(log) == before


def test_an_update_signed_by_another(log: Log, forger: Forger, rng: random.Random) -> None:
    other = Forger(rng)
    signed = other.certify()
    assert reasons(log, replace(signed, chain=ChainId(forger.id, other.chain.incarnation))) == ["bad-signature"]


def test_an_author_without_a_certificate_that_holds(log: Log, rng: random.Random) -> None:
    bad = Forger(rng, "bad")
    assert reasons(log, bad.certify()) == ["author-unknown"]
    none = Forger(rng)
    assert reasons(log, none.say(none.payload("org:acme", grant("anyone")))) == ["author-unknown"]
    borrowed = Forger(rng)
    of_another = certificate(none.id, "admin")
    assert reasons(log, borrowed.say(borrowed.payload(f"peer:{borrowed.id}", of_another))) == ["author-unknown"]
    assert log.counts(ORGANIZATION).chains == 1


def test_an_author_that_hides_its_certificate(log: Log, forger: Forger) -> None:
    segment = forger.certify()
    (entry,) = segment.entries
    hidden = replace(segment, entries=(Entry(None, payload_hash(entry.payload or b"")),))
    assert reasons(log, hidden) == ["author-unknown"]


def test_an_update_for_another_organisation(log: Log, rng: random.Random) -> None:
    other = Forger(rng, organization="globex")
    assert reasons(log, other.certify()) == ["bad-signature"]


def test_an_update_that_is_replayed(log: Log, forger: Forger) -> None:
    first, second = forger.certify(), forger.say(forger.payload("org:acme", grant("anyone")))
    give(log, first, second)
    before = state(log)
    taken = give(log, second, first, second)
    assert (len(taken.new), taken.refused, taken.forks) == (0, (), ())
    assert state(log) == before


def test_updates_that_are_reordered(log: Log, forger: Forger) -> None:
    first, second, third = forger.certify(), forger.say(b"two"), forger.say(b"three")
    assert reasons(log, third, second) == ["gap", "gap"]
    assert reasons(log, first, third) == ["gap"]
    assert reasons(log, second, third) == []


def test_an_update_whose_entries_are_reordered(log: Log, forger: Forger) -> None:
    give(log, forger.certify())
    segment = forger.say(b"one", b"two")
    assert reasons(log, replace(segment, entries=segment.entries[::-1])) == ["bad-signature"]


def test_an_update_of_100_mib(log: Log, forger: Forger) -> None:
    give(log, forger.certify())
    payload = bytes(64 << 10)
    count = SEGMENT_BYTES_MAX // len(payload) + 1
    large = replace(forger.say(b"x"), entries=tuple(Entry(payload) for _ in range(count)))
    assert reasons(log, large) == ["too-large"]
    single = replace(forger.say(b"x"), entries=(Entry(bytes(100 << 20)),))
    assert reasons(log, single) == ["too-large"]


def test_garbage_to_pycrdt(log: Log, forger: Forger) -> None:
    doc = document_id(forger.id, 1)
    payloads = [forger.payload(f"doc:{doc}", document())]
    payloads += [forger.payload(f"doc:{doc}", Edit(update)) for update in (b"\xff" * 40, bytes(200), b"\x01\x01")]
    assert reasons(log, forger.certify(), forger.say(*payloads)) == []
    (row,) = log.documents(ORGANIZATION)
    assert (row.name, row.tags) == ("", ())


def test_an_author_that_forks_its_own_chain(log: Log, forger: Forger, rng: random.Random) -> None:
    forger.certify()
    good = forger.say(forger.payload("org:acme", grant("anyone")))
    after = end_of(good, end_of(forger.segments[0], None))
    one = forger.say(forger.payload("org:acme", grant("anyone", "write")))
    other = forger.branch(after, forger.payload("org:acme", grant("anyone", "admin")), b"more")
    give(log, forger.segments[0], good, one)
    taken = give(log, other)
    assert taken.forks == (forger.chain,)
    assert len(taken.new) == 0
    assert taken.is_rejudged
    (evidence,) = log.evidence()
    assert (evidence.chain, evidence.sequence, evidence.organization) == (forger.chain, 3, ORGANIZATION)
    assert {evidence.ours.signature, evidence.theirs.signature} == {one.signature, other.signature}
    assert {fact.body for fact in log.facts(ORGANIZATION, "org:acme")} == {grant("anyone")}
    assert [head.sequence for head in log.heads(ORGANIZATION) if head.chain == forger.chain] == [2]
    assert reasons(log, forger.say(b"on")) == ["forked"]
    assert log.counts(ORGANIZATION).forks == 1


def test_a_fork_is_evidence_only_if_the_author_signed_both(log: Log, forger: Forger) -> None:
    give(log, forger.certify(), forger.say(b"one"))
    forged = replace(forger.segments[1], entries=(Entry(b"other"),))
    taken = give(log, forged)
    assert [reason for _, reason in taken.refused] == ["bad-signature"]
    assert log.evidence() == ()


def test_both_branches_of_a_fork_meet_and_all_come_to_the_same(rng: random.Random) -> None:
    """Each half of the network was told another branch; whoever hears of both tells the rest."""
    forger = Forger(rng, "admin")
    forger.certify()
    shared = forger.say(*[forger.payload("org:acme", grant(f"user:acme/{at}")) for at in range(5)])
    after = end_of(shared, end_of(forger.segments[0], None))
    logs = [make_log(rng, "storage") for _ in range(6)]
    for at, log in enumerate(logs):
        side = "left" if at < 3 else "right"
        branch = forger.branch(after, *[forger.payload("org:acme", grant(f"user:acme/{side}")) for _ in range(at + 1)])
        give(log, *forger.segments, branch)
    meet(*logs)
    assert all(len(log.evidence()) == 1 for log in logs)
    assert all(state(log) == state(logs[0]) for log in logs)
    assert len(logs[0].facts(ORGANIZATION, "org:acme")) == 5
    newcomer = make_log(rng, "storage")
    pull(newcomer, logs[3])
    assert len(newcomer.facts(ORGANIZATION, "org:acme")) == 5


def test_a_fork_at_the_first_entry_and_one_earlier_than_what_was_known(log: Log, forger: Forger) -> None:
    forger.certify()
    first_head = end_of(forger.segments[0], None)
    one, two = forger.say(b"one"), forger.say(b"two")
    give(log, forger.segments[0], one, two)
    give(log, forger.branch(end_of(one, first_head), b"other two"))
    assert [evidence.sequence for evidence in log.evidence()] == [3]
    give(log, forger.branch(first_head, b"other one"))
    assert [evidence.sequence for evidence in log.evidence()] == [2]
    again = Forger(random.Random(5))
    again.key, again.id, again.chain = forger.key, forger.id, forger.chain
    give(log, again.certify())
    assert [evidence.sequence for evidence in log.evidence()] == [1]
    assert log.capabilities(ORGANIZATION, forger.id) is None
    assert reasons(log, forger.segments[0]) == ["forked"]


def test_deleting_items_in_anothers_document(log: Log, rng: random.Random) -> None:
    resource = put_document(log, rng)
    log.edit(ORGANIZATION, resource[4:], Changes(name="secret plan"))
    forger = Forger(rng)
    (row,) = log.documents(ORGANIZATION)
    owner = log.heads(ORGANIZATION)[0].chain
    delete = bytes((0, 1)) + _varint(client_id(owner)) + bytes((1, 0, 1))  # of the owner's items: the first
    wipe = forger.payload(resource, Edit(delete))
    assert reasons(log, forger.certify(), forger.say(wipe)) == []
    assert log.documents(ORGANIZATION) == (row,)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes((*out, number))


def test_an_edit_in_the_name_of_anothers_client_id(log: Log, rng: random.Random) -> None:
    resource, forger = put_document(log, rng), Forger(rng)
    log.append(ORGANIZATION, [New(resource, grant(forger.id, "write"))])
    owner = log.heads(ORGANIZATION)[0].chain
    forged = make_edit(client_id(owner), (), Changes(name="forged"))
    give(log, forger.certify(), forger.say(forger.payload(resource, Edit(forged))))
    assert log.documents(ORGANIZATION)[0].name == ""
    log.edit(ORGANIZATION, resource[4:], Changes(name="ours"))
    assert log.documents(ORGANIZATION)[0].name == "ours"


def test_backdating_what_one_had_seen_does_not_undo_a_denial(log: Log, rng: random.Random) -> None:
    """A delegate who claims not to have seen the owner's denial stands beside it, never over it."""
    resource, forger = put_document(log, rng), Forger(rng)
    log.append(ORGANIZATION, [New(resource, grant(forger.id, "admin"))])
    (denied,) = log.append(ORGANIZATION, [New(resource, grant("user:acme/eve", allowed=False))])
    give(log, forger.certify(), forger.say(forger.payload(resource, grant("user:acme/eve"), lamport=1)))
    standing = {fact.body for fact in log.counting(ORGANIZATION, resource).current}
    assert denied.body in standing
    assert grant("user:acme/eve") in standing


def test_backdating_does_not_take_a_document(log: Log, rng: random.Random) -> None:
    resource, forger = put_document(log, rng), Forger(rng)
    claim = forger.payload(resource, document(b"mine"), lamport=1)
    give(log, forger.certify(), forger.say(claim, forger.payload(resource, grant(forger.id, "admin"), lamport=1)))
    assert log.counting(ORGANIZATION, resource).owner == log.author
    assert log.documents(ORGANIZATION)[0].root == document().root


def revoke(admin: Log, forger: Forger, accepted: Head | None) -> None:
    body = Revocation(forger.id, reason="left", is_author=True, accepted=(accepted,) if accepted else ())
    admin.append(ORGANIZATION, [New(f"peer:{forger.id}", body)])


def test_writing_on_after_ones_revocation(log: Log, admin: Log, forger: Forger, rng: random.Random) -> None:
    resource = f"doc:{document_id(forger.id, 1)}"
    forger.certify()
    forger.say(forger.payload(resource, document()))
    accepted = forger.head
    early = make_log(rng, "storage")
    forger.say(forger.payload(resource, grant("anyone"), lamport=1))
    give(early, *forger.segments)
    give(admin, *forger.segments[:2])
    revoke(admin, forger, accepted)
    for one in (log, early):
        give(one, *forger.segments[:2])
        assert pull(one, admin).is_rejudged
        assert [type(fact.body).__name__ for fact in one.facts(ORGANIZATION, resource)] == ["Document"]
    assert reasons(log, forger.segments[2]) == ["author-revoked"]
    again = Forger(rng)
    again.key, again.id = forger.key, forger.id
    again.chain = ChainId(forger.id, 99)
    assert reasons(log, again.certify()) == ["author-revoked"]
    meet(log, early, admin)
    assert state(log) == state(early) == state(admin)


def test_a_revocation_that_comes_before_the_chain_it_is_about(log: Log, admin: Log, forger: Forger) -> None:
    resource = f"doc:{document_id(forger.id, 1)}"
    forger.certify()
    forger.say(forger.payload(resource, document()))
    revoke(admin, forger, forger.head)
    forger.say(forger.payload(resource, grant("anyone")))
    pull(log, admin)
    give(log, *forger.segments)
    assert [type(fact.body).__name__ for fact in log.facts(ORGANIZATION, resource)] == ["Document"]


def test_a_revoked_admin_revokes_nobody(log: Log, admin: Log, rng: random.Random) -> None:
    thief = Forger(rng, "admin")
    give(admin, thief.certify())
    revoke(admin, thief, thief.head)
    back = thief.payload(f"peer:{log.author}", Revocation(log.author, is_author=True))
    meet(log, admin)
    resource = put_document(log, rng)
    give(log, *thief.segments, thief.say(back))
    assert log.counting(ORGANIZATION, resource).owner == log.author


def test_a_revocation_survives_a_restored_backup(log: Log, admin: Log, forger: Forger, rng: random.Random) -> None:
    """A node that lost what it knew learns of the revocation again, and what came after it is not heard meanwhile."""
    forger.certify()
    give(admin, *forger.segments)
    revoke(admin, forger, forger.head)
    restored = make_log(rng, "storage")
    pull(restored, admin)
    assert reasons(restored, forger.say(forger.payload("org:acme", grant("anyone")))) == ["author-revoked"]


def test_a_backup_of_our_own_log_that_was_restored(rng: random.Random) -> None:
    """We forgot what we said, and said more: both is said again in a new chain, and nobody calls it a fork of ours."""
    forger = Forger(rng)
    ours, peer = make_log(rng, "admin", key=forger.key), make_log(rng, "storage")
    ours.append(ORGANIZATION, [New("org:acme", grant("user:acme/one"))])
    pull(peer, ours)
    restored = make_log(rng, key=forger.key)
    pull(restored, ours)
    with restored._file.write() as db:
        incarnation = ours.heads(ORGANIZATION)[0].chain.incarnation.to_bytes(8, "big")
        db.execute("UPDATE organization SET incarnation = ?", (incarnation,))
    restored = _reopened(restored, forger, rng)
    ours.append(ORGANIZATION, [New("org:acme", grant("user:acme/two"))])
    pull(peer, ours)
    assert restored.notice(ORGANIZATION, peer.heads(ORGANIZATION))
    assert not restored.notice(ORGANIZATION, peer.heads(ORGANIZATION))
    restored.append(ORGANIZATION, [New("org:acme", grant("user:acme/three"))])
    meet(restored, peer)
    assert peer.evidence() == restored.evidence() == ()
    names = {fact.body.principal for fact in peer.facts(ORGANIZATION, "org:acme") if isinstance(fact.body, Access)}
    assert names == {"user:acme/one", "user:acme/two", "user:acme/three"}


def test_a_restored_backup_that_wrote_before_it_met_anyone(rng: random.Random) -> None:
    forger = Forger(rng)
    ours, peer = make_log(rng, "admin", key=forger.key), make_log(rng, "storage")
    restored = make_log(rng, key=forger.key)
    pull(restored, ours)
    with restored._file.write() as db:
        incarnation = ours.heads(ORGANIZATION)[0].chain.incarnation.to_bytes(8, "big")
        db.execute("UPDATE organization SET incarnation = ?", (incarnation,))
    restored = _reopened(restored, forger, rng)
    ours.append(ORGANIZATION, [New("org:acme", grant("user:acme/lost"))])
    pull(peer, ours)
    restored.append(ORGANIZATION, [New("org:acme", grant("user:acme/new"))])
    taken = pull(restored, peer)
    assert taken.is_behind_ours
    restored.append(ORGANIZATION, [New("org:acme", grant("user:acme/after"))])
    meet(restored, peer)
    for log in (restored, peer):
        names = {fact.body.principal for fact in log.facts(ORGANIZATION, "org:acme") if isinstance(fact.body, Access)}
        assert names == {"user:acme/lost", "user:acme/new", "user:acme/after"}
    assert state(restored) == state(peer)


def _reopened(log: Log, forger: Forger, rng: random.Random) -> Log:
    from tests.sync.world import World

    return Log(log._file, key=forger.key, env=World(rng))


def test_a_lamport_number_at_the_end_of_the_range(log: Log, rng: random.Random) -> None:
    forger = Forger(rng, "admin")
    far = forger.payload("org:acme", grant("anyone"), lamport=LAMPORT_MAX)
    give(log, forger.certify(), forger.say(far))
    facts = [make_log_append(log, rng) for _ in range(2)]
    assert [fact.lamport for fact in facts] == [LAMPORT_MAX, LAMPORT_MAX]
    admin = make_log(rng, "admin")
    meet(log, admin)
    (denied,) = admin.append(ORGANIZATION, [New("org:acme", grant("anyone", allowed=False))])
    meet(log, admin)
    assert log.counting(ORGANIZATION, "org:acme").current == (denied,)


def make_log_append(log: Log, rng: random.Random):  # type: ignore[no-untyped-def]
    return log.append(ORGANIZATION, [New(f"doc:{document_id(log.author, rng.getrandbits(64))}", document())])[0]


def test_a_kind_that_we_do_not_know_is_relayed_and_shown(log: Log, rng: random.Random) -> None:
    resource = put_document(log, rng)
    forger = Forger(rng, "admin")
    wire = pb.Payload(lamport=9, nonce=1, resource=resource).SerializeToString() + bytes((0x92, 0x01, 2)) + b"hi"
    give(log, forger.certify(), forger.say(wire))
    assert [fact.body for fact in log.counting(ORGANIZATION, resource).facts if fact.author == forger.id] == [
        Unknown(18)
    ]
    other = make_log(rng, "storage")
    pull(other, log)
    assert other.fact(fact_id(forger.id, wire)) is not None


def test_an_author_that_begins_chains_without_end(log: Log, forger: Forger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rage_net.sync.taking.CHAINS_AUTHOR_MAX", 3)
    for incarnation in range(5):
        again = Forger(random.Random(incarnation))
        again.key, again.id, again.chain = forger.key, forger.id, ChainId(forger.id, incarnation)
        assert reasons(log, again.certify()) == ([] if incarnation < 3 else ["too-many-chains"])


def test_an_author_that_fills_the_disk(log: Log, forger: Forger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rage_net.sync.taking.AUTHOR_BYTES_MAX", 10_000)
    assert reasons(log, forger.certify(), forger.say(bytes(20_000))) == []
    assert reasons(log, forger.say(b"more")) == ["author-full"]


def test_an_author_that_fills_the_disk_with_entries_of_no_size(
    log: Log, forger: Forger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rage_net.sync.taking.AUTHOR_ENTRIES_MAX", 10)
    assert reasons(log, forger.certify()) == []
    said = forger.say(*[forger.payload(f"peer:{forger.id}", certificate(forger.id), at) for at in range(1, 21)])
    hidden = replace(said, entries=tuple(Entry(None, payload_hash(one.payload or b"")) for one in said.entries))
    assert reasons(log, hidden) == [], "one run more than fits"
    assert reasons(log, forger.say(b"more")) == ["author-full"]


def test_a_relay_that_leaves_out_or_hides_cannot_lie(log: Log, forger: Forger, rng: random.Random) -> None:
    """Whoever relays may hide payloads, not change them; what it hides can be had elsewhere."""
    forger.certify()
    forger.say(forger.payload("org:acme", grant("anyone")), forger.payload("org:acme", grant("anyone", "write")))
    hidden = replace(
        forger.segments[1],
        entries=tuple(Entry(None, payload_hash(one.payload or b"")) for one in forger.segments[1].entries),
    )
    assert reasons(log, forger.segments[0], hidden) == []
    assert log.facts(ORGANIZATION, "org:acme") == ()
    lie = replace(forger.segments[1], entries=(Entry(b"lie"), hidden.entries[1]))
    assert reasons(log, lie) == ["bad-signature"]
    assert reasons(log, forger.segments[1]) == []
    assert len(log.facts(ORGANIZATION, "org:acme")) == 2


def test_one_bad_segment_costs_nothing_but_itself(log: Log, rng: random.Random) -> None:
    good, bad = Forger(rng), Forger(rng)
    assert reasons(log, replace(bad.certify(), signature=bytes(64)), good.certify()) == ["bad-signature"]
    assert log.capabilities(ORGANIZATION, good.id) is not None
    assert log.capabilities(ORGANIZATION, bad.id) is None


def test_acls_that_contradict_each_other_stand_side_by_side(log: Log, rng: random.Random) -> None:
    resource = put_document(log, rng)
    admins = [Forger(rng, "admin") for _ in range(3)]
    for at, one in enumerate(admins):
        give(log, one.certify(), one.say(one.payload(resource, grant("anyone", allowed=bool(at % 2)))))
    standing = [fact for fact in log.counting(ORGANIZATION, resource).current if isinstance(fact.body, Access)]
    assert len(standing) == 3
    (settled,) = log.append(ORGANIZATION, [New(resource, grant("anyone"))])
    assert set(settled.over) == {fact.id for fact in standing}


def test_what_is_told_of_a_revoked_author_ends_where_it_was_cut_off(log: Log, admin: Log, forger: Forger) -> None:
    forger.certify()
    accepted = forger.head
    give(log, *forger.segments)
    give(admin, *forger.segments)
    for _ in range(3):
        give(log, forger.say(*[bytes(100)] * 1100))
    revoke(admin, forger, accepted)
    pull(log, admin)
    sent = [
        segment
        for segment in log.missing(ORGANIZATION, (), is_complete=True, bytes_max=WHOLE)
        if segment.chain == forger.chain
    ]
    assert [segment.last for segment in sent] == [1]
    assert sum(len(encode_segment(segment)) for segment in sent) < 1000


def test_an_author_whose_first_ca_was_withdrawn_is_taken_by_a_newcomer_for_its_renewed_certificate(
    log: Log, rng: random.Random
) -> None:
    author = Forger(rng)
    first = author.say(author.payload(f"peer:{author.id}", certificate(author.id, "storage", "bad")))
    doc_id = document_id(author.id, rng.getrandbits(64))
    said = author.say(author.payload(f"doc:{doc_id}", document()))
    assert reasons(log, first) == ["author-unknown"]
    renewed = author.say(author.payload(f"peer:{author.id}", certificate(author.id, "storage"), lamport=3))
    assert reasons(log, first, said, renewed) == []
    assert log.capabilities(ORGANIZATION, author.id) == {"storage"}
    assert [row.doc_id for row in log.documents(ORGANIZATION)] == [doc_id]


def test_a_renewed_certificate_without_capabilities_holds_for_a_newcomer(log: Log, rng: random.Random) -> None:
    author = Forger(rng)
    first = author.say(author.payload(f"peer:{author.id}", certificate(author.id, "bad")))
    renewed = author.say(author.payload(f"peer:{author.id}", certificate(author.id), lamport=2))
    assert reasons(log, first, renewed) == []
    assert log.capabilities(ORGANIZATION, author.id) == frozenset()
