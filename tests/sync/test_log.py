"""One log, and two: what is said is there, is told to others, and comes to the same."""

from __future__ import annotations

import random
import sqlite3
import threading
from pathlib import Path

import pytest

from rage_net.errors import CertificateError, ConflictError, IntegrityError
from rage_net.sync.catalog import ChangeError, Changes
from rage_net.sync.envelope import Entry, Head, encode_segment, fact_id
from rage_net.sync.facts import Access, Certificate, Edit, Fact, New, Revocation, Tombstone
from rage_net.sync.log import Log, open_log
from rage_net.sync.schema import MIGRATIONS, LogFile
from rage_net.sync.vocabulary import FactError
from tests.sync.world import (
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

GRANT_BYTES_MAX = 350


@pytest.fixture
def log(rng: random.Random) -> Log:
    return make_log(rng, "storage")


@pytest.fixture
def other(rng: random.Random) -> Log:
    return make_log(rng, "storage")


def test_a_chain_begins_with_a_certificate(rng: random.Random) -> None:
    log = make_log(rng)
    with pytest.raises(CertificateError):
        log.append(ORGANIZATION, [New("org:acme", grant("anyone"))])
    assert log.heads(ORGANIZATION) == ()
    assert log.append(ORGANIZATION, []) == []


def test_what_is_appended_is_there_with_all_that_was_filled_in(log: Log, rng: random.Random) -> None:
    resource = put_document(log, rng)
    one, two = log.append(ORGANIZATION, [New(resource, grant("anyone")), New(resource, Access(visibility="org"))])
    assert (one.sequence, two.sequence) == (3, 4)
    assert one.lamport < two.lamport
    assert one.nonce != two.nonce
    assert set(log.facts(ORGANIZATION, resource)) >= {one, two}
    assert log.fact(one.id) == one
    assert log.fact(bytes(16)) is None
    assert log.counting(ORGANIZATION, resource).owner == log.author


def test_a_later_fact_replaces_what_was_in_force_also_within_one_batch(log: Log, rng: random.Random) -> None:
    resource = put_document(log, rng)
    one, two = log.append(ORGANIZATION, [New(resource, grant("anyone")), New(resource, grant("anyone", allowed=False))])
    (three,) = log.append(ORGANIZATION, [New(resource, grant("anyone"))])
    assert (one.over, two.over, three.over) == ((), (one.id,), (two.id,))
    standing = [fact for fact in log.counting(ORGANIZATION, resource).current if isinstance(fact.body, Access)]
    assert standing == [three]


def test_what_is_malformed_is_not_appended_and_nothing_of_its_batch_is(log: Log) -> None:
    before = log.heads(ORGANIZATION)
    with pytest.raises(FactError):
        log.append(ORGANIZATION, [New("org:acme", grant("anyone")), New("org:acme", grant("someone"))])
    assert log.heads(ORGANIZATION) == before


def test_a_log_reopens_as_it_was(rng: random.Random, tmp_path: Path) -> None:
    path, world, forger = tmp_path / "log.db", World(rng), Forger(rng)
    log = make_log(rng, "storage", path=path, key=forger.key, world=world)
    resource = put_document(log, rng)
    log.edit(ORGANIZATION, resource[4:], Changes(name="a"))
    before, heads = state(log), log.heads(ORGANIZATION)
    log.close()
    assert path.stat().st_mode & 0o077 == 0
    again = open_log(path, key=forger.key, env=world)
    assert (state(again), again.heads(ORGANIZATION)) == (before, heads)
    again.append(ORGANIZATION, [New(resource, grant("anyone"))])
    assert again.heads(ORGANIZATION)[0].chain == heads[0].chain
    again.close()


def test_a_newer_or_foreign_file_is_refused(rng: random.Random, tmp_path: Path) -> None:
    LogFile(tmp_path / "log.db", migrations=(*MIGRATIONS, "CREATE TABLE later (a)")).close()
    with pytest.raises(ConflictError):
        make_log(rng, path=tmp_path / "log.db")
    db = sqlite3.connect(tmp_path / "theirs.db")
    db.executescript("CREATE TABLE theirs (a); PRAGMA user_version = 1")
    db.close()
    with pytest.raises(IntegrityError):
        make_log(rng, path=tmp_path / "theirs.db")


def test_a_newcomer_gets_all_in_answers_of_bounded_size(log: Log, other: Log, rng: random.Random) -> None:
    resource = put_document(log, rng)
    log.append(ORGANIZATION, [New(resource, grant(f"user:acme/{at}")) for at in range(3000)])
    rounds = 0
    while pull(other, log, bytes_max=20_000).new:
        rounds += 1
    assert rounds >= 3
    assert len(other.facts(ORGANIZATION, resource)) == 3001
    meet(log, other)
    assert log.digest(ORGANIZATION) == other.digest(ORGANIZATION)
    assert state(log) == state(other)


def test_segments_end_at_signatures_that_are_kept_and_many_are_let_go(log: Log, rng: random.Random) -> None:
    for _ in range(60):
        log.append(ORGANIZATION, [New("org:acme", grant("anyone"))])
    with log._file.read() as db:
        assert db.execute("SELECT count(*) FROM checkpoint").fetchone() == (1,)
    segments = list(log.missing(ORGANIZATION, (), is_complete=True, bytes_max=WHOLE))
    assert [(segment.first, segment.last) for segment in segments] == [(1, 61)]
    log.append(ORGANIZATION, [New("org:acme", grant("anyone", allowed=bool(at % 2))) for at in range(2100)])
    segments = list(log.missing(ORGANIZATION, (), is_complete=True, bytes_max=WHOLE))
    assert max(len(segment.entries) for segment in segments) <= 1100
    assert segments[-1].last == 2161


def test_what_is_missing_is_told_from_where_the_other_ends(log: Log, other: Log, rng: random.Random) -> None:
    resource = put_document(log, rng)
    pull(other, log)
    log.append(ORGANIZATION, [New(resource, grant("anyone"))])
    (segment,) = log.missing(ORGANIZATION, other.heads(ORGANIZATION), is_complete=True, bytes_max=WHOLE)
    assert (segment.first, segment.last) == (3, 3)
    assert len(encode_segment(segment)) <= GRANT_BYTES_MAX
    assert list(log.missing(ORGANIZATION, log.heads(ORGANIZATION), is_complete=True, bytes_max=WHOLE)) == []


def test_chains_that_are_not_named_are_told_only_to_who_has_nothing_else(log: Log, other: Log) -> None:
    assert list(log.missing(ORGANIZATION, other.heads(ORGANIZATION), is_complete=False, bytes_max=WHOLE)) == []
    assert list(log.missing(ORGANIZATION, (), is_complete=True, bytes_max=WHOLE))
    assert list(log.missing("nobody", (), is_complete=True, bytes_max=WHOLE)) == []


def test_what_is_not_for_the_asker_goes_as_a_hash_and_can_be_had_later(
    log: Log, other: Log, rng: random.Random
) -> None:
    secret, shown = put_document(log, rng), put_document(log, rng)
    log.append(ORGANIZATION, [New(secret, grant("anyone")), New(shown, grant("anyone"))])

    def may_see(fact: Fact) -> bool:
        return fact.resource != secret

    sent = list(log.missing(ORGANIZATION, (), is_complete=True, bytes_max=WHOLE, may_see=may_see))
    assert b"".join(entry.payload or b"" for entry in sent[0].entries).count(secret.encode()) == 0
    assert not give(other, *sent).refused
    assert other.facts(ORGANIZATION, secret) == ()
    assert len(other.facts(ORGANIZATION, shown)) == 2
    assert secret not in other.resources(ORGANIZATION)
    (hole,) = other.holes(ORGANIZATION)
    assert hole.sequence == 1
    relayed = make_log(rng, "storage")
    pull(relayed, other)
    assert relayed.facts(ORGANIZATION, secret) == ()
    for log_of_holes in (other, relayed):
        taken = pull(log_of_holes, log, known=log_of_holes.holes(ORGANIZATION))
        assert {fact.resource for fact in taken.new} == {secret}
        assert log_of_holes.holes(ORGANIZATION) == ()
    assert len(other.facts(ORGANIZATION, secret)) == 2
    assert [row.doc_id for row in other.documents(ORGANIZATION, doc_id=secret[4:])] == [secret[4:]]


def test_the_catalog_follows_the_facts(log: Log, other: Log, rng: random.Random) -> None:
    resource = put_document(log, rng, b"one")
    doc = resource[4:]
    log.edit(ORGANIZATION, doc, Changes(name="report", tags_added=("x",), policy="hot", retention_until=2_000_000_000))
    (row,) = log.documents(ORGANIZATION)
    assert (row.name, row.tags, row.policy, row.retention_until) == ("report", ("x",), "hot", 2_000_000_000)
    assert (row.owner, row.created_at, row.is_dead) == (log.author, 5, False)
    log.append(ORGANIZATION, [New(resource, document(b"two", created_at=9))])
    (moved,) = log.documents(ORGANIZATION, doc_id=doc)
    assert (moved.root, moved.created_at) == (document(b"two").root, 5)
    assert log.documents(ORGANIZATION, root=document(b"one").root) == ()
    assert log.documents(ORGANIZATION, root=moved.root, name="report", tag="x") == (moved,)
    log.append(ORGANIZATION, [New(resource, Tombstone("removed"))])
    assert log.documents(ORGANIZATION)[0].is_dead
    pull(other, log)
    assert other.documents(ORGANIZATION) == log.documents(ORGANIZATION)


def test_documents_are_paged_by_name_then_id(log: Log, rng: random.Random) -> None:
    for name in ("b", "a", "c", "a"):
        log.edit(ORGANIZATION, put_document(log, rng)[4:], Changes(name=name))
    rows, after = [], None
    while page := log.documents(ORGANIZATION, after=after, limit=3):
        rows += page
        after = (page[-1].name, page[-1].doc_id)
    assert [row.name for row in rows] == ["a", "a", "b", "c"]
    assert rows == sorted(rows, key=lambda row: (row.name, row.doc_id))


def test_an_edit_that_changes_nothing_is_none_and_a_bad_one_is_refused(log: Log, rng: random.Random) -> None:
    doc = put_document(log, rng)[4:]
    assert log.edit(ORGANIZATION, doc, Changes(name="a")) is not None
    assert log.edit(ORGANIZATION, doc, Changes(name="a")) is None
    with pytest.raises(ChangeError):
        log.edit(ORGANIZATION, doc, Changes(name="a\n"))


def test_two_who_edit_at_once_come_to_one_record(log: Log, other: Log, rng: random.Random) -> None:
    resource = put_document(log, rng)
    log.append(ORGANIZATION, [New(resource, grant(other.author, "write"))])
    meet(log, other)
    log.edit(ORGANIZATION, resource[4:], Changes(name="ours", tags_added=("x",)))
    other.edit(ORGANIZATION, resource[4:], Changes(name="theirs", tags_added=("y",)))
    meet(log, other)
    assert log.documents(ORGANIZATION) == other.documents(ORGANIZATION)
    (row,) = log.documents(ORGANIZATION)
    assert row.name in ("ours", "theirs")
    assert row.tags == ("x", "y")


def test_an_edit_counts_from_when_its_author_was_given_the_right(log: Log, other: Log, rng: random.Random) -> None:
    resource = put_document(log, rng)
    meet(log, other)
    other.edit(ORGANIZATION, resource[4:], Changes(name="early"))
    meet(log, other)
    assert log.documents(ORGANIZATION)[0].name == ""
    log.append(ORGANIZATION, [New(resource, grant(other.author, "write"))])
    assert log.documents(ORGANIZATION)[0].name == "early"


def test_organisations_are_kept_apart(log: Log, rng: random.Random) -> None:
    log.append("globex", [New(f"peer:{log.author}", certificate(log.author, "admin"))], judge=judge)
    log.append("globex", [New("org:acme", grant("anyone"))])
    assert log.organizations() == (ORGANIZATION, "globex")
    assert log.facts(ORGANIZATION, "org:acme") == ()
    assert len(log.facts("globex", "org:acme")) == 1
    assert log.capabilities(ORGANIZATION, log.author) == frozenset({"storage"})
    assert log.capabilities("globex", log.author) == frozenset({"admin"})
    assert log.heads(ORGANIZATION)[0].chain != log.heads("globex")[0].chain


def test_resources_kinds_and_newest_rows_are_found(log: Log, rng: random.Random) -> None:
    docs = sorted(put_document(log, rng) for _ in range(5))
    assert log.resources(ORGANIZATION, "doc:") == tuple(docs)
    assert log.resources(ORGANIZATION, "doc:", after=docs[1], limit=2) == tuple(docs[2:4])
    assert log.resources(ORGANIZATION, "topic:") == ()
    assert [type(fact.body) for fact in log.by_kind(ORGANIZATION, Certificate)] == [Certificate]
    newest = log.log(ORGANIZATION, limit=2)
    assert [fact.sequence for _, fact in newest] == [6, 5]
    assert [fact.sequence for _, fact in log.log(ORGANIZATION, after=newest[-1][0], limit=9)] == [4, 3, 2, 1]
    counts = log.counts(ORGANIZATION)
    assert (counts.entries, counts.chains, counts.authors, counts.documents) == (6, 1, 1, 5)
    assert log.counts("nobody").entries == 0


def test_certificates_are_judged_again_when_cas_change(log: Log, other: Log, rng: random.Random) -> None:
    resource = put_document(log, rng)
    pull(other, log)
    assert other.rejudge(ORGANIZATION, lambda author, chain: None)
    assert other.capabilities(ORGANIZATION, log.author) is None
    assert other.documents(ORGANIZATION) == ()
    assert other.counting(ORGANIZATION, resource).facts == ()
    assert other.rejudge(ORGANIZATION, judge)
    assert len(other.documents(ORGANIZATION)) == 1
    assert not other.rejudge(ORGANIZATION, judge)


def test_a_later_certificate_adds_to_what_its_author_may(log: Log, other: Log) -> None:
    log.append(ORGANIZATION, [New(f"peer:{log.author}", certificate(log.author, "admin"))], judge=judge)
    pull(other, log)
    assert other.capabilities(ORGANIZATION, log.author) == frozenset({"storage", "admin"})


def test_what_take_tells_says_what_to_forget(log: Log, other: Log, rng: random.Random) -> None:
    resource = put_document(log, rng)
    taken = pull(other, log)
    assert [fact.sequence for fact in taken.new] == [1, 2]
    assert len(taken.new) == 2
    assert taken.resources == {resource, f"peer:{log.author}"}
    assert not taken.is_rejudged


def test_the_key_of_an_author_that_writes_from_many_threads_signs_one_chain(log: Log, other: Log) -> None:
    def say() -> None:
        for _ in range(20):
            log.append(ORGANIZATION, [New("org:acme", grant("anyone"))])

    threads = [threading.Thread(target=say) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not pull(other, log).refused
    assert other.counts(ORGANIZATION).entries == 81 + 1


def test_a_payload_of_nonsense_is_kept_in_its_chain_and_never_counts(log: Log, rng: random.Random) -> None:
    forger = Forger(rng, "admin")
    good = forger.payload("org:acme", grant("anyone"))
    taken = give(log, forger.certify(), forger.say(b"\xff\xfe garbage", b"", good))
    assert not taken.refused
    assert [fact.id for fact in log.facts(ORGANIZATION, "org:acme")] == [fact_id(forger.id, good)]
    (segment, *_) = log.missing(ORGANIZATION, [Head(forger.chain, 0, bytes(32))], is_complete=False, bytes_max=WHOLE)
    assert Entry(b"\xff\xfe garbage") in segment.entries


def test_an_edit_of_ours_that_can_never_apply_does_not_block_those_that_follow(log: Log, rng: random.Random) -> None:
    """Built on another author's edit that counts no more: our clock in that document is taken by it."""
    admin, writer = make_log(rng, "admin"), make_log(rng, "storage")
    resource = put_document(log, rng)
    log.append(ORGANIZATION, [New(resource, grant(writer.author, "write"))])
    meet(admin, log, writer)
    heads = {head.chain.author: head for head in admin.heads(ORGANIZATION)}
    writer.edit(ORGANIZATION, resource[4:], Changes(name="theirs"))
    meet(admin, log, writer)
    assert log.edit(ORGANIZATION, resource[4:], Changes(name="built on theirs")) is not None
    revoked = Revocation(writer.author, is_author=True, accepted=(heads[writer.author],))
    admin.append(ORGANIZATION, [New(f"peer:{writer.author}", revoked)])
    meet(admin, log)
    assert log.documents(ORGANIZATION)[0].name == ""
    log.edit(ORGANIZATION, resource[4:], Changes(name="again"))
    meet(admin, log)
    assert [one.documents(ORGANIZATION)[0].name for one in (log, admin)] == ["again", "again"]
    assert any(isinstance(fact.body, Edit) for fact in log.facts(ORGANIZATION, resource))
