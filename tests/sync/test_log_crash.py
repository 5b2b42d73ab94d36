"""A log that is killed between any two statements, and one whose disk is full: sound, with all it acknowledged."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rage_net.errors import StorageFullError
from rage_net.sync.catalog import Changes
from rage_net.sync.facts import New, Revocation, Tombstone
from rage_net.sync.log import Log, open_log
from rage_net.sync.schema import LogFile
from tests.sync.world import (
    ORGANIZATION,
    Forger,
    World,
    end_of,
    give,
    grant,
    judge,
    make_log,
    meet,
    pull,
    put_document,
    state,
)

FILES = ("log.db", "log.db-wal")


class Camera:
    """Keeps what is on the disk at each statement of the writer: what a kill there would leave."""

    def __init__(self, log: Log, home: Path, shots: Path, every: int) -> None:
        self.count = 0
        self._home, self._shots, self._every = home, shots, every
        shots.mkdir()
        log._file._writer.set_trace_callback(self._shoot)

    def _shoot(self, statement: str) -> None:
        self.count += 1
        if self.count % self._every and not statement.startswith(("COMMIT", "BEGIN")):
            return
        shot = self._shots / f"{self.count:06}"
        shot.mkdir()
        for name in FILES:
            if (self._home / name).exists():
                shutil.copy(self._home / name, shot / name)


def work(log: Log, rng: random.Random, acknowledged: Callable[[str], None]) -> None:
    """Everything that writes."""
    resource = put_document(log, rng)
    acknowledged(resource)
    for at in range(4):
        log.append(ORGANIZATION, [New(resource, grant("user:acme/ann", allowed=bool(at % 2)))])
        log.edit(ORGANIZATION, resource[4:], Changes(name=f"name {at}"))
    forger, leaver = Forger(rng), Forger(rng)
    forger.certify()
    forger.say(*[forger.payload(resource, grant(f"user:acme/{at}")) for at in range(20)])
    give(log, *forger.segments, leaver.certify())
    give(log, forger.branch(end_of(forger.segments[0], None), b"fork"))
    acknowledged(put_document(log, rng))
    log.append(ORGANIZATION, [New(f"peer:{leaver.id}", Revocation(leaver.id, is_author=True))])
    log.compact(ORGANIZATION)
    log.append(ORGANIZATION, [New(resource, Tombstone("removed"))])
    log.redraw(ORGANIZATION)
    acknowledged(put_document(log, rng))


def assert_sound(log: Log, rng: random.Random) -> None:
    """All its chains verify at a stranger's, who comes to the same; and it can be written to."""
    stranger = make_log(rng, "storage")
    assert not pull(stranger, log).refused
    stranger.rejudge(ORGANIZATION, judge)
    put_document(log, rng)
    meet(stranger, log)
    assert state(log) == state(stranger)


def test_a_log_killed_between_any_two_statements_is_sound(rng: random.Random, tmp_path: Path) -> None:
    home, key = tmp_path / "home", Forger(rng).key
    home.mkdir()
    log = make_log(rng, "storage", "admin", path=home / "log.db", key=key)
    camera = Camera(log, home, tmp_path / "shots", every=23)
    acknowledged: dict[str, int] = {}
    work(log, rng, lambda resource: acknowledged.setdefault(resource, camera.count))
    log.close()
    shots = sorted((tmp_path / "shots").iterdir())
    assert len(shots) > 40
    for shot in rng.sample(shots, 14):
        opened = open_log(shot / "log.db", key=key, env=World(rng))
        for resource, count in acknowledged.items():
            if int(shot.name) > count:
                assert opened.facts(ORGANIZATION, resource), shot.name
        assert_sound(opened, rng)
        opened.close()


def test_a_disk_that_is_full_is_said_and_changes_nothing(rng: random.Random, tmp_path: Path) -> None:
    log, peer = make_log(rng, "storage", path=tmp_path / "log.db"), make_log(rng, "storage")
    resource = put_document(log, rng)
    many = [New(resource, grant(f"user:acme/{at}")) for at in range(800)]
    other = put_document(peer, rng)
    peer.append(ORGANIZATION, [New(other, grant(f"user:acme/{at}")) for at in range(800)])
    before, heads = state(log), log.heads(ORGANIZATION)
    writer = log._file._writer
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count = {pages + 4}")
    with pytest.raises(StorageFullError):
        log.append(ORGANIZATION, many)
    with pytest.raises(StorageFullError):
        pull(log, peer)
    assert (state(log), log.heads(ORGANIZATION)) == (before, heads)
    writer.execute("PRAGMA max_page_count = 1000000")
    assert len(log.append(ORGANIZATION, many)) == 800
    assert not pull(log, peer).refused
    assert_sound(log, rng)
    log.close()


def test_documents_that_were_marked_before_a_kill_are_built_after_it(rng: random.Random, tmp_path: Path) -> None:
    """More than are built with the transaction that marks them; killed between that and the rest."""
    home, forger = tmp_path / "home", Forger(rng)
    home.mkdir()
    source = make_log(rng, "storage")
    for _ in range(300):
        put_document(source, rng)
    log = make_log(rng, "storage", path=home / "log.db", key=forger.key)
    camera = Camera(log, home, tmp_path / "shots", every=100_000)
    pull(log, source)
    assert len(log.documents(ORGANIZATION)) == 300
    log.close()
    assert camera.count
    shots = sorted((tmp_path / "shots").iterdir())
    counts = set()
    for shot in shots:
        file = LogFile(shot / "log.db")
        with file.read() as db:
            counts.add(db.execute("SELECT count(*) FROM dirty").fetchone()[0])
        file.close()
        opened = open_log(shot / "log.db", key=forger.key, env=World(rng))
        assert len(opened.documents(ORGANIZATION)) in (0, 300)
        opened.close()
    assert any(counts - {0})
