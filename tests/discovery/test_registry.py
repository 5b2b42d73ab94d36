"""discovery.db: what survives a restart, what is refused, what is put aside."""

from __future__ import annotations

import random
import sqlite3
import threading
from pathlib import Path

import pytest

from rage_net.discovery import database
from rage_net.discovery.registry import REMEMBERED_S, SWEPT_MAX, Filter, Registry
from rage_net.errors import ConflictError, IntegrityError, RageError, UnavailableError
from rage_net.libp2p.scope import parse_ip

from .world import EPOCH, FAR, Env, Peer

SOURCE = parse_ip(FAR)
assert SOURCE is not None


def put(registry: Registry, env: Env, peer: Peer | None = None, ttl_s: float = 90.0) -> Peer:
    peer = peer or Peer(env)
    registry.put(peer.registration(), source=SOURCE, now=env.now(), ttl_s=ttl_s, draw=env.random.getrandbits(62))
    return peer


def listed(registry: Registry, env: Env) -> set[str]:
    entries, _ = registry.page(Filter(), now=env.now(), limit=100, after=None)
    return {str(entry.peer_id) for entry in entries}


def test_registrations_and_what_was_found_of_them_survive_a_restart(env: Env, tmp_path: Path) -> None:
    path = tmp_path / "discovery.db"
    first = Registry(path)
    peer = put(first, env)
    first.note_check(peer.peer_id, peer.instance, FAR, True, env.now())
    first.close()
    assert path.stat().st_mode & 0o077 == 0
    second = Registry(path)
    entry = second.get(peer.peer_id, env.now())
    assert entry is not None and entry.reachable is True and entry.seen_at == EPOCH
    with pytest.raises(ConflictError):  # the sequence, too
        second.put(peer.registration(sequence=1), source=SOURCE, now=env.now(), ttl_s=90, draw=1)
    second.close()
    second.close()


def test_a_finding_about_an_earlier_registration_is_not_kept_for_a_later_one(env: Env) -> None:
    registry = Registry(None)
    peer = put(registry, env)
    registry.note_check(peer.peer_id, "0" * 16, FAR, True, env.now())
    registry.note_check(peer.peer_id, peer.instance, "9.9.9.9", True, env.now())
    entry = registry.get(peer.peer_id, env.now())
    assert entry is not None and entry.reachable is None


def test_what_has_expired_is_forgotten_step_by_step_after_its_sequence_is_of_no_use(env: Env) -> None:
    registry = Registry(None, per_address_max=10_000, per_site_max=10_000)
    for _ in range(SWEPT_MAX + 10):
        put(registry, env, ttl_s=30.0)
    env.time += 30 + REMEMBERED_S - 1
    assert registry.sweep(env.now()) == 0 and listed(registry, env) == set()
    env.time += 2
    assert [registry.sweep(env.now()) for _ in range(3)] == [SWEPT_MAX, 10, 0]


def test_a_newer_registry_is_refused_and_not_altered(env: Env, tmp_path: Path) -> None:
    path = tmp_path / "discovery.db"
    Registry(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    before = path.read_bytes()
    with pytest.raises(ConflictError) as caught:
        Registry(path)
    assert caught.value.id == "newer-store" and path.read_bytes() == before


def test_another_programs_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "discovery.db"
    db = sqlite3.connect(path)
    db.executescript("CREATE TABLE a (b); PRAGMA user_version = 1;")
    db.close()
    with pytest.raises(IntegrityError) as caught:
        Registry(path)
    assert caught.value.id == "registry-foreign"


def test_a_damaged_registry_is_put_aside_and_begun_anew(env: Env, tmp_path: Path, rng: random.Random) -> None:
    path = tmp_path / "discovery.db"
    for damage in (b"no database at all" * 500, None):
        registry = Registry(path)
        put(registry, env)
        registry.close()
        raw = bytearray(path.read_bytes())
        if damage is None:
            raw[4096:] = rng.randbytes(len(raw) - 4096)
        path.write_bytes(damage or raw)
        registry = Registry(path)
        assert listed(registry, env) == set()
        assert path.with_name("discovery.db.damaged").exists()
        peer = put(registry, env)
        assert listed(registry, env) == {str(peer.peer_id)}
        registry.close()


def test_a_migration_that_fails_leaves_the_file_as_it_was(
    env: Env, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "discovery.db"
    registry = Registry(path)
    peer = put(registry, env)
    registry.close()
    good = database.MIGRATIONS
    monkeypatch.setattr(database, "MIGRATIONS", (*good, "CREATE TABLE a (b); nonsense"))
    with pytest.raises(RageError):
        Registry(path)
    monkeypatch.setattr(database, "MIGRATIONS", (*good, "ALTER TABLE peer ADD COLUMN later TEXT"))
    registry = Registry(path)
    assert listed(registry, env) == {str(peer.peer_id)}
    registry.close()


def test_a_disk_that_fails_is_told_as_such(env: Env, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Registry(tmp_path / "missing" / "discovery.db")
    registry = Registry(tmp_path / "discovery.db")
    blocker = sqlite3.connect(tmp_path / "discovery.db", isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    registry._db.execute("PRAGMA busy_timeout = 1")
    with pytest.raises(UnavailableError):
        put(registry, env)
    blocker.execute("ROLLBACK")
    blocker.close()
    put(registry, env)
    registry.close()


def test_threads_may_share_a_registry(env: Env) -> None:
    registry = Registry(None, per_address_max=10_000)
    peers = [[Peer(env) for _ in range(25)] for _ in range(4)]
    failures: list[BaseException] = []

    def work(own: list[Peer]) -> None:
        try:
            for peer in own:
                registry.put(peer.registration(), source=SOURCE, now=EPOCH, ttl_s=90.0, draw=1)
                registry.page(Filter(), now=EPOCH, limit=10, after=None)
                registry.counts(EPOCH)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(own,)) for own in peers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and registry.counts(EPOCH) == {"yes": 0, "unknown": 100, "no": 0}


def test_a_sample_is_drawn_from_all_and_worse_ones_only_when_the_better_are_few(env: Env, rng: random.Random) -> None:
    registry = Registry(None, per_address_max=10_000, per_site_max=10_000)
    peers = [put(registry, env) for _ in range(60)]
    for at, peer in enumerate(peers[:40]):
        registry.note_check(peer.peer_id, peer.instance, FAR, at < 30, env.now())
    drawn = {entry.peer_id for entry in registry.pool(Filter(), now=env.now(), count=20, draw=rng.getrandbits(62))}
    assert drawn == {peer.peer_id for peer in peers[:30]}
    assert len(registry.pool(Filter(), now=env.now(), count=31, draw=0)) == 50
    assert len(registry.pool(Filter(), now=env.now(), count=60, draw=1 << 62)) == 60
