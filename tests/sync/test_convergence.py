"""Whatever happens between them, logs that heard the same come to the same: worlds of a seed."""

from __future__ import annotations

import random

import pytest

from rage_net.errors import AccessDeniedError
from rage_net.sync.catalog import Changes
from rage_net.sync.documents import DocumentRow, rebuild
from rage_net.sync.envelope import Head, Segment
from rage_net.sync.facts import Access, Certificate, Closing, Edit, New, NodeRecord, Revocation, Tombstone
from rage_net.sync.log import Log
from tests.sync.world import (
    ORGANIZATION,
    Forger,
    document,
    end_of,
    give,
    grant,
    make_log,
    meet,
    put_document,
    state,
)

STEPS = 60
WORLDS = 6


def act(rng: random.Random, logs: list[Log], documents: list[str], *, revokes: bool = True) -> None:
    """One thing that one author does."""
    log = rng.choice(logs)
    resource = rng.choice(documents)
    whom = rng.choice(logs).author
    match rng.randrange(12):
        case 0:
            documents.append(put_document(log, rng, rng.randbytes(4)))
        case 1 | 2 | 3:
            action = rng.choice(["read", "write", "admin"])
            log.append(ORGANIZATION, [New(resource, grant(whom, action, rng.random() < 0.6))])
        case 4:
            log.append(ORGANIZATION, [New(resource, Access(visibility=rng.choice(["public", "org", "private"])))])
        case 5 | 6:
            changes = Changes(
                name=rng.choice("abc"), tags_added=(rng.choice("xyz"),), tags_removed=(rng.choice("xyz"),)
            )
            log.edit(ORGANIZATION, resource[4:], changes)
        case 7:
            log.append(ORGANIZATION, [New(resource, document(rng.randbytes(4)))])
        case 8:
            log.append(ORGANIZATION, [New(f"peer:{log.author}", NodeRecord(weight=rng.randint(1, 16)))])
        case 9:
            compact(log)
        case 10 if rng.random() < 0.2:
            log.append(ORGANIZATION, [New(resource, Tombstone("removed"))])
        case 11 if revokes and rng.random() < 0.3:
            accepted = tuple(head for head in log.heads(ORGANIZATION) if head.chain.author == whom)
            body = Revocation(whom, is_author=True, accepted=accepted[: rng.randint(0, 2)])
            log.append(ORGANIZATION, [New(f"peer:{whom}", body)])


def compact(log: Log) -> None:
    """Compaction changes nothing that is in force, but on documents that are dead."""
    before, rows = in_force(log), living(log)
    log.compact(ORGANIZATION)
    assert in_force(log) == before
    assert living(log) == rows


def living(log: Log) -> list[DocumentRow]:
    return [row for row in log.documents(ORGANIZATION) if not row.is_dead]


def in_force(log: Log) -> dict[str, set[bytes]]:
    found = {}
    for resource in log.resources(ORGANIZATION):
        current = log.counting(ORGANIZATION, resource).current
        if not any(isinstance(fact.body, Tombstone) for fact in current):
            found[resource] = {fact.id for fact in current if not isinstance(fact.body, Edit | Certificate | Closing)}
    return found


def exchange(rng: random.Random, to: Log, source: Log) -> None:
    """One answer, perhaps cut short, out of order, twice, with hashes in the place of payloads."""

    def may_see(fact: object) -> bool:
        return True

    hides = rng.random() < 0.2
    segments: list[Segment] = list(
        source.missing(
            ORGANIZATION,
            to.holes(ORGANIZATION) if rng.random() < 0.2 else to.heads(ORGANIZATION),
            is_complete=True,
            bytes_max=rng.choice([1, 2000, 1 << 30]),
            may_see=(lambda fact: rng.random() < 0.7) if hides else may_see,
        )
    )
    if rng.random() < 0.3:
        rng.shuffle(segments)
    if rng.random() < 0.3:
        segments += segments
    if rng.random() < 0.2:
        del segments[rng.randrange(len(segments) + 1) :]
    give(to, *segments)


def fill_holes(logs: list[Log]) -> None:
    for to in logs:
        for source in logs:
            holes = to.holes(ORGANIZATION)
            if holes and to is not source:
                give(to, *source.missing(ORGANIZATION, holes, is_complete=False, bytes_max=1 << 40))


@pytest.mark.parametrize("world", range(WORLDS))
def test_logs_that_met_agree_whatever_came_between(rng: random.Random, world: int) -> None:
    logs = [make_log(rng, "storage", *(["admin"] if at < 2 else [])) for at in range(4)]
    forger = Forger(rng, "storage", *(["admin"] if rng.random() < 0.5 else []))
    forger.certify()
    meet(*logs)
    documents = [put_document(log, rng) for log in logs]
    forked = False
    for _ in range(STEPS):
        if rng.random() < 0.5:
            act(rng, logs, documents)
        else:
            exchange(rng, *rng.sample(logs, 2))
        if rng.random() < 0.05:
            forger.say(forger.payload(rng.choice(documents), grant(rng.choice(logs).author), rng.randint(1, 500)))
            give(rng.choice(logs), *forger.segments)
        if rng.random() < 0.03 and not forked and len(forger.segments) > 1:
            forked = True
            before = _head_before(forger, rng.randrange(1, len(forger.segments)))
            branch = forger.branch(before, forger.payload(documents[0], grant("anyone"), rng.randint(1, 500)))
            give(rng.choice(logs), *forger.segments[: before.sequence], branch)
    for _ in range(4):
        meet(*logs)
        fill_holes(logs)
    for log in logs:
        assert_rows_are_fresh(log)
    newcomer = make_log(rng, "storage")
    for _ in range(2):
        meet(*logs, newcomer)
    states = [state(log) for log in (*logs, newcomer)]
    for at, other in enumerate(states[1:], 1):
        different = {key for key in states[0].keys() | other.keys() if states[0].get(key) != other.get(key)}
        assert not different, (at, different)


def assert_rows_are_fresh(log: Log) -> None:
    """What is kept of documents is what building them again would give."""
    kept = log.documents(ORGANIZATION)
    with log._file.write() as db:
        db.execute("INSERT INTO dirty SELECT organization, substr(name, 5) FROM resource WHERE name LIKE 'doc:%'")
        rebuild(db, log._views[ORGANIZATION], 10_000)
    assert log.documents(ORGANIZATION) == kept


def _head_before(forger: Forger, count: int) -> Head:
    head: Head | None = None
    for segment in forger.segments[:count]:
        head = end_of(segment, head)
    assert head is not None
    return head


def test_an_admins_chains_are_closed_by_nobody_else_and_all_agree(rng: random.Random) -> None:
    logs = [make_log(rng, "storage", "admin") for _ in range(3)]
    documents = [put_document(log, rng) for log in logs]
    meet(*logs)
    for _ in range(30):
        act(rng, logs, documents, revokes=False)
    meet(*logs)
    with pytest.raises(AccessDeniedError):
        logs[0].adopt(ORGANIZATION, logs[1].author)
    chains = tuple(head for head in logs[1].heads(ORGANIZATION) if head.chain.author == logs[1].author)
    logs[0].append(ORGANIZATION, [New(f"peer:{logs[1].author}", Closing(logs[1].author, chains))])
    meet(*logs)
    assert state(logs[0]) == state(logs[1]) == state(logs[2])
    assert logs[0].capabilities(ORGANIZATION, logs[1].author) == {"storage", "admin"}
    for log in logs:
        assert_rows_are_fresh(log)
