"""What only an object store can suffer: a server that fails in every way it can, a cache that rots, a second home.

That it keeps what a chunk store promises, the suites beside this one say (`make_store`).
"""

from __future__ import annotations

import io
import json
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rage_net.aws import SAID_CHARS_MAX, said_by
from rage_net.chunk import bucket as calls
from rage_net.chunk.bucket import Bucket, Place
from rage_net.chunk.disk_cache import DiskCache
from rage_net.chunk.documents import Documents
from rage_net.chunk.gc import collect
from rage_net.chunk.ingest import ingest
from rage_net.chunk.objects import ObjectBodies, checksum_of
from rage_net.chunk.scrub import Scrub
from rage_net.chunk.split import Sizes
from rage_net.chunk.store import ChunkStore, Quota, open_store
from rage_net.chunk.verify import verify
from rage_net.cid import Cid
from rage_net.errors import (
    AccessDeniedError,
    ConfigError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    RageError,
    StorageFullError,
    UnavailableError,
)
from tests import aws_server

ROOMY = Quota(free_bytes_min=0, free_inodes_min=0)
CACHE_BYTES = 1_000_000

Open = Callable[..., ChunkStore]


@pytest.fixture
def proxy(object_place: Place) -> Iterator[aws_server.Proxy]:
    assert object_place.endpoint is not None
    made = aws_server.Proxy(object_place.endpoint)
    yield made
    made.close()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds between attempts, which nobody waits for here."""
    found: list[float] = []
    monkeypatch.setattr(Bucket.__init__, "__kwdefaults__", {"attempts": calls.ATTEMPTS, "pause": found.append})
    return found


@pytest.fixture
def opened(
    proxy: aws_server.Proxy, object_place: Place, world: object, tmp_path: Path, waits: list[float]
) -> Iterator[Open]:
    """Opens the store of a home, through the proxy."""
    stores: list[ChunkStore] = []

    def make(home: str = "home", *, cache_bytes: int = 0, **more: object) -> ChunkStore:
        (tmp_path / home).mkdir(exist_ok=True)
        place = Place(object_place.bucket, "p", **{"endpoint": proxy.url, **more})  # type: ignore[arg-type]
        store = open_store(tmp_path / home, world, quota=ROOMY, objects=place, cache_bytes=cache_bytes)  # type: ignore[arg-type]
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()


def bodies_of(store: ChunkStore) -> ObjectBodies:
    assert isinstance(store.bodies, ObjectBodies)
    return store.bodies


def keys_of(store: ChunkStore) -> set[str]:
    return set(bodies_of(store).bucket.list("", 10))


def key_of(cid: Cid) -> str:
    return f"{cid.digest[0]:02x}/{cid}"


def overwrite(store: ChunkStore, cid: Cid, data: bytes) -> None:
    """As rot does it: other bytes beside the checksum of the right ones."""
    found = bodies_of(store).bucket.head(key_of(cid))
    assert found is not None
    bodies_of(store).bucket.put(key_of(cid), data, found[1], replace=True)


def rotten(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


# --- what is written, and when ---


def test_objects_are_named_as_files_are_and_carry_their_checksum(opened: Open, rng: random.Random) -> None:
    store = opened()
    data = rng.randbytes(50_000)
    cid = Cid.of(data)
    store.put(cid, data)
    store.put(Cid.of(b"small"), b"small")
    assert keys_of(store) == {key_of(cid), "owner.json"}
    assert bodies_of(store).bucket.head(key_of(cid)) == (50_000, checksum_of(data))


def test_an_object_is_durable_before_its_row_and_the_lock_waits_for_no_write(
    opened: Open, proxy: aws_server.Proxy, rng: random.Random
) -> None:
    store = opened()
    data = rng.randbytes(50_000)
    with store.batch() as batch:
        batch.add_data(data)
        assert key_of(Cid.of(data)) in keys_of(store) and not store.has(Cid.of(data))
        before = len(proxy.asked)
        batch.commit()
        assert len(proxy.asked) == before
    assert store.get(Cid.of(data)) == data


def test_a_put_is_conditional_and_signed_and_has_one_part(
    opened: Open, proxy: aws_server.Proxy, rng: random.Random
) -> None:
    store = opened()
    data = rng.randbytes(4 << 20)
    store.put(Cid.of(data), data)
    (at,) = [at for at, (method, path) in enumerate(proxy.asked) if method == "PUT" and str(Cid.of(data)) in path]
    headers = {name.lower(): text for name, text in proxy.headers[at].items()}
    assert headers["if-none-match"] == "*"
    assert headers["x-amz-content-sha256"] not in ("UNSIGNED-PAYLOAD", "")
    assert "uploads" not in proxy.asked[at][1]


def test_what_is_there_already_is_written_again_only_when_it_differs(
    opened: Open, proxy: aws_server.Proxy, rng: random.Random
) -> None:
    store = opened()
    for there, puts in (("whole", 1), ("torn", 2), ("foreign", 2)):
        data = rng.randbytes(50_000)
        cid = Cid.of(data)
        found = {"whole": data, "torn": data[:-1], "foreign": data}[there]
        checksum = "" if there == "foreign" else checksum_of(data)
        bodies_of(store).bucket.put(key_of(cid), found, checksum, replace=True)
        before = len(proxy.asked)
        store.put(cid, data)
        assert [method for method, _ in proxy.asked[before:]].count("PUT") == puts, there
        assert store.get(cid) == data


def test_a_server_without_conditional_writes_is_written_to_all_the_same(
    opened: Open, proxy: aws_server.Proxy, rng: random.Random
) -> None:
    store = opened()
    proxy.fail(501, method="PUT", times=1)
    data = rng.randbytes(50_000)
    store.put(Cid.of(data), data)
    assert store.get(Cid.of(data)) == data
    assert "If-None-Match" not in proxy.headers[-2]


def test_what_a_put_has_staged_is_not_taken_away_by_who_removes_it(opened: Open, rng: random.Random) -> None:
    store = opened()
    data = rng.randbytes(50_000)
    cid = Cid.of(data)
    with store.batch() as batch:
        batch.add_data(data)
        collect(store, Documents(store), grace_s=0)  # no row names it yet
        assert store.bodies.delete(cid) is False
        store.bodies.quarantine(cid, None)
        batch.commit()
    assert store.get(cid) == data
    assert store.bodies.delete(cid) is True


def test_staging_waits_for_a_removal_that_is_under_way(opened: Open, rng: random.Random) -> None:
    store = opened()
    bodies = bodies_of(store)
    data = rng.randbytes(50_000)
    cid = Cid.of(data)
    store.put(cid, data)
    under_way, go_on = threading.Event(), threading.Event()
    real = bodies.bucket.delete

    def slow(key: str) -> None:
        under_way.set()
        assert go_on.wait(10)
        real(key)

    bodies.bucket.delete = slow  # type: ignore[method-assign]
    removing = threading.Thread(target=bodies.delete, args=(cid,))
    removing.start()
    assert under_way.wait(10)
    staging = threading.Thread(target=bodies.stage, args=(cid, data))
    staging.start()
    go_on.set()
    removing.join()
    staging.join()
    assert bodies.has(cid, len(data))


def test_an_aborted_put_leaves_objects_to_gc(opened: Open, rng: random.Random) -> None:
    store = opened()
    kept, dropped = rng.randbytes(50_000), [rng.randbytes(50_000) for _ in range(5)]
    store.put(Cid.of(kept), kept)
    with store.batch() as batch:
        for block in dropped:
            batch.add_data(block)
    bodies_of(store).bucket.put("ab/somebody-elses", b"left alone", "", replace=True)
    assert len(keys_of(store)) == 8
    collect(store, Documents(store), grace_s=3600)
    assert keys_of(store) == {key_of(Cid.of(kept)), "owner.json", "ab/somebody-elses"}


def test_shards_are_listed_in_pages(
    opened: Open, proxy: aws_server.Proxy, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    blocks = [rng.randbytes(20_000) for _ in range(60)]
    for block in blocks:
        store.put(Cid.of(block), block)
    wanted = {Cid.of(block) for block in blocks}
    for page, first in ((7, 200), (1000, 0)):
        monkeypatch.setattr(Bucket.page, "__defaults__", ("", page))
        store.bodies.sweep(0)
        before = len(proxy.asked)
        found = {number % 256: store.bodies.shard(number % 256) for number in range(first, first + 256)}
        assert {cid for cids in found.values() for cid in cids} == wanted
        assert all(cid.digest[0] == number for number, cids in found.items() for cid in cids)
        assert len(proxy.asked) - before <= {7: 64, 1000: 1}[page]
    monkeypatch.setattr(Bucket.page, "__defaults__", ("", 1))  # a shard that no page holds whole
    store.bodies.sweep(0)
    number = Cid.of(blocks[0]).digest[0]
    assert Cid.of(blocks[0]) in store.bodies.shard(number)


# --- the server fails ---


@pytest.mark.parametrize("fault", [500, 503, "drop"])
def test_what_passes_by_itself_is_tried_again(
    opened: Open, proxy: aws_server.Proxy, waits: list[float], rng: random.Random, fault: int | str
) -> None:
    store = opened()
    data = rng.randbytes(50_000)
    proxy.fail(fault, times=2)
    store.put(Cid.of(data), data)
    proxy.fail(fault, times=2)
    assert store.get(Cid.of(data)) == data
    assert len(waits) == 4
    assert all(0 < wait <= 1.5 * calls.BACKOFF_S_MAX for wait in waits)
    assert store.bodies.problem == ""


@pytest.mark.parametrize("fault", [500, 503, "drop"])
def test_what_does_not_pass_is_unavailable_and_no_chunk_is_given_up_for_it(
    opened: Open, proxy: aws_server.Proxy, world: object, rng: random.Random, fault: int | str
) -> None:
    store = opened()
    data, other = rng.randbytes(50_000), rng.randbytes(50_000)
    store.put(Cid.of(data), data)
    proxy.fail(fault)
    for ask in (
        lambda: store.get(Cid.of(data)),
        lambda: store.get_stored(Cid.of(data)),
        lambda: store.put(Cid.of(other), other),
        lambda: store.put(Cid.of(data), data),
        lambda: store.bodies.shard(0),
    ):
        with pytest.raises(UnavailableError) as caught:
            ask()
        assert (caught.value.exit_code, caught.value.retryable, bool(caught.value.mend)) == (7, True, True)
    assert store.bodies.problem
    assert [bad.reason for bad in verify(store).bad] == ["unreadable"]
    assert store.has(Cid.of(data)) and not store.has(Cid.of(other))
    proxy.heal()
    for _ in range(20):  # the clock of this world moves as it is asked: the rest after failures ends
        world.monotonic()  # type: ignore[attr-defined]
    assert store.get(Cid.of(data)) == data
    assert store.bodies.problem == ""


def test_a_store_that_is_down_is_not_asked_by_every_thread_in_turn(
    opened: Open, proxy: aws_server.Proxy, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    data = rng.randbytes(50_000)
    store.put(Cid.of(data), data)
    monkeypatch.setattr(calls, "REST_S", 1000.0)
    proxy.fail(503)
    with pytest.raises(UnavailableError):
        store.get(Cid.of(data))
    before = len(proxy.asked)
    for _ in range(10):
        with pytest.raises(UnavailableError, match="cannot read"):
            store.get(Cid.of(data))
    assert len(proxy.asked) == before


def test_a_body_that_breaks_off_is_read_again_and_is_no_rot(
    opened: Open, proxy: aws_server.Proxy, rng: random.Random
) -> None:
    store = opened()
    data = rng.randbytes(200_000)
    store.put(Cid.of(data), data)
    proxy.fail("cut", method="GET", times=2)
    assert store.get(Cid.of(data)) == data
    proxy.fail("cut", method="GET")
    with pytest.raises(UnavailableError, match="cannot read"):
        store.get(Cid.of(data))
    proxy.heal()
    assert store.get(Cid.of(data)) == data
    assert not [key for key in keys_of(store) if key.startswith("quarantine/")]


def test_a_body_that_is_shortened_with_its_length_is_read_again_and_is_rot_when_it_stays_so(
    opened: Open, proxy: aws_server.Proxy, rng: random.Random
) -> None:
    store = opened(cache_bytes=CACHE_BYTES)
    data = rng.randbytes(200_000)
    cid = Cid.of(data)
    store.put(cid, data)
    proxy.fail("trim", method="GET", path="bafk", times=1)
    assert store.get(cid, at_rest=True) == data
    proxy.fail("trim", method="GET", path="bafk", times=3)  # the store looks again, alone
    assert store.get(cid, at_rest=True) == data
    proxy.fail("trim", method="GET", path="bafk")
    with pytest.raises(IntegrityError):
        store.get(cid, at_rest=True)
    assert not store.has(cid)
    proxy.heal()
    store.put(cid, data)
    assert store.get(cid, at_rest=True) == data


def test_credentials_that_are_lost_midway_are_a_matter_of_configuration(
    opened: Open, proxy: aws_server.Proxy, rng: random.Random
) -> None:
    store = opened()
    data = rng.randbytes(50_000)
    store.put(Cid.of(data), data)
    proxy.fail(403)
    other = rng.randbytes(50_000)
    for ask in (lambda: store.get(Cid.of(data)), lambda: store.put(Cid.of(other), other)):
        with pytest.raises(RageError) as caught:
            ask()
        error = caught.value
        assert isinstance(error, ConfigError) and error.id == "objects-refused"
        assert "ExpiredToken" in error.why and "credentials_file" in error.mend[0]
        assert "test-secret" not in str(error.to_plain()) and "test-key" not in str(error.to_plain())
    assert store.has(Cid.of(data))
    proxy.heal()
    assert store.get(Cid.of(data)) == data


def test_credentials_are_read_again_when_they_are_refused(
    opened: Open, proxy: aws_server.Proxy, tmp_path: Path, rng: random.Random
) -> None:
    path = tmp_path / "keys"

    def write(key: str) -> None:
        path.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s\n")
        path.chmod(0o600)

    write("first")
    store = opened(credentials_file=path)
    data = rng.randbytes(50_000)
    store.put(Cid.of(data), data)
    assert "Credential=first/" in proxy.headers[-1]["Authorization"]
    write("second")
    proxy.fail(403, times=1)
    assert store.get(Cid.of(data)) == data
    assert "Credential=second/" in proxy.headers[-1]["Authorization"]


def test_a_file_of_keys_must_be_there_private_and_hold_some(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    with pytest.raises(ConfigError, match="cannot be read"):
        opened(credentials_file=path)
    path.write_text("[default]\naws_access_key_id = k\naws_secret_access_key = s\n")
    path.chmod(0o644)
    with pytest.raises(AccessDeniedError) as caught:
        opened(credentials_file=path)
    assert caught.value.id == "key-exposed"
    path.chmod(0o600)
    for text in ("[other]\n", "[default]\naws_access_key_id = k\n", "no keys at all\n"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="holds no keys"):
            opened(credentials_file=path)


def test_without_any_credentials_it_says_where_they_belong(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in aws_server.KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ConfigError) as caught:
        opened()
    assert "AWS_ACCESS_KEY_ID" in caught.value.mend[0]


def test_a_bucket_that_is_missing_is_named_with_its_key(proxy: aws_server.Proxy, world: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(tmp_path, world, objects=Place("nowhere", "p", endpoint=proxy.url))  # type: ignore[arg-type]
    assert caught.value.exit_code == 10
    assert "s3://nowhere/p" in caught.value.message and "NoSuchBucket" in caught.value.why
    assert "network.store.uri" in " ".join(caught.value.mend)
    assert not (tmp_path / "index.db").exists()


def test_a_bucket_that_goes_missing_is_no_missing_chunk(
    opened: Open, proxy: aws_server.Proxy, rng: random.Random
) -> None:
    store = opened()
    data = rng.randbytes(50_000)
    store.put(Cid.of(data), data)
    bucket = bodies_of(store).bucket
    place = bucket.place
    bucket.place = Place("nowhere", place.prefix, endpoint=place.endpoint)
    with pytest.raises(ConfigError, match="nowhere"):
        store.get(Cid.of(data))
    bucket.place = place
    assert store.get(Cid.of(data)) == data


def test_a_store_that_nobody_answers_for_is_unavailable_at_the_start(
    world: object, tmp_path: Path, object_place: Place, waits: list[float]
) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(UnavailableError) as caught:
        open_store(tmp_path, world, objects=Place("chunks", endpoint=f"http://127.0.0.1:{port}"))  # type: ignore[arg-type]
    assert caught.value.id == "objects-unavailable"
    assert len(waits) == calls.ATTEMPTS - 1
    assert not (tmp_path / "index.db").exists()


def test_a_server_without_room_is_a_full_store(opened: Open, proxy: aws_server.Proxy, rng: random.Random) -> None:
    store = opened()
    proxy.fail(507, method="PUT")
    data = rng.randbytes(50_000)
    with pytest.raises(StorageFullError) as caught:
        store.put(Cid.of(data), data)
    assert caught.value.exit_code == 11
    assert store.totals().chunks == 0


def test_words_of_a_server_are_one_printable_line() -> None:
    from botocore.exceptions import ClientError

    answer = {"Error": {"Code": "X", "Message": "a\x1b[2J\nb" * 1000}, "ResponseMetadata": {"HTTPStatusCode": 400}}
    said = said_by(ClientError(answer, "GetObject"))
    assert said.isprintable() and len(said) <= SAID_CHARS_MAX + 1


def test_an_object_larger_than_any_chunk_is_not_read(opened: Open, rng: random.Random) -> None:
    store = opened()
    data = rng.randbytes(50_000)
    cid = Cid.of(data)
    store.put(cid, data)
    overwrite(store, cid, bytes(5 << 20))
    with pytest.raises(IntegrityError):
        store.get(cid)
    assert f"quarantine/{cid}" in keys_of(store)


# --- rot, and the cache ---


def test_rot_in_an_object_is_found_and_quarantined(opened: Open, rng: random.Random) -> None:
    store = opened()
    for ask in (store.get, store.get_stored):
        data = rng.randbytes(50_000)
        cid = Cid.of(data)
        store.put(cid, data)
        overwrite(store, cid, rotten(data))
        with pytest.raises(IntegrityError):
            ask(cid)
        assert not store.has(cid)
        assert key_of(cid) not in keys_of(store) and f"quarantine/{cid}" in keys_of(store)
        store.put(cid, data)
        assert store.get(cid) == data


def test_rot_that_cannot_be_removed_keeps_its_row(opened: Open, proxy: aws_server.Proxy, rng: random.Random) -> None:
    store = opened()
    data = rng.randbytes(50_000)
    cid = Cid.of(data)
    store.put(cid, data)
    overwrite(store, cid, rotten(data))
    proxy.fail(503, method="DELETE")
    with pytest.raises(UnavailableError):
        store.get(cid)
    assert store.has(cid)


def test_a_missing_object_is_not_found_and_a_put_brings_it_back(opened: Open, rng: random.Random) -> None:
    store = opened()
    data = rng.randbytes(50_000)
    cid = Cid.of(data)
    store.put(cid, data)
    bodies_of(store).bucket.delete(key_of(cid))
    store.put(cid, data)
    assert store.get(cid) == data
    bodies_of(store).bucket.delete(key_of(cid))
    with pytest.raises(NotFoundError) as caught:
        store.get(cid)
    assert caught.value.id == "chunk-missing"
    assert not store.has(cid)


def test_what_was_read_once_comes_from_the_cache_and_after_a_restart_too(
    opened: Open, proxy: aws_server.Proxy, rng: random.Random
) -> None:
    data = rng.randbytes(50_000)
    store = opened()
    store.put(Cid.of(data), data)
    store.close()
    store = opened(cache_bytes=CACHE_BYTES)
    assert store.get(Cid.of(data)) == data
    store.close()
    store = opened(cache_bytes=CACHE_BYTES)
    before = len(proxy.asked)
    assert store.get(Cid.of(data)) == data
    assert len(proxy.asked) == before
    proxy.fail(503)
    assert store.get(Cid.of(data)) == data


@pytest.mark.parametrize("harm", ["flipped", "torn", "emptied", "longer"])
def test_a_cache_that_rots_is_healed_from_the_object(
    opened: Open, tmp_path: Path, rng: random.Random, harm: str
) -> None:
    store = opened(cache_bytes=CACHE_BYTES)
    data = rng.randbytes(50_000)
    cid = Cid.of(data)
    store.put(cid, data)
    path = tmp_path / "home" / "store" / "cache" / key_of(cid)
    kept = path.read_bytes()
    path.write_bytes({"flipped": rotten(kept), "torn": kept[:-100], "emptied": b"", "longer": kept + b"x"}[harm])
    assert store.get(cid) == data
    assert path.read_bytes() == kept
    assert store.has(cid) and not [key for key in keys_of(store) if key.startswith("quarantine/")]


def test_verify_reads_the_objects_and_not_the_cache(opened: Open, rng: random.Random) -> None:
    store = opened(cache_bytes=CACHE_BYTES)
    data = rng.randbytes(50_000)
    store.put(Cid.of(data), data)
    overwrite(store, Cid.of(data), rotten(data))
    assert store.get(Cid.of(data)) == data
    assert [bad.reason for bad in verify(store).bad] == ["rot"]


def test_a_scrub_reads_the_objects_and_pauses_while_they_are_out_of_reach(
    opened: Open, proxy: aws_server.Proxy, world: Any, rng: random.Random
) -> None:
    store = opened(cache_bytes=CACHE_BYTES)
    blocks = [rng.randbytes(50_000) for _ in range(4)]
    for block in blocks:
        store.put(Cid.of(block), block)
    lost: list[Cid] = []
    store.on_lost.append(lambda cid, found_by: lost.append(cid))
    scrub = Scrub(store, 86_400.0)
    scrub.slice()
    world.time += 40 * 86_400
    proxy.fail(503)
    assert scrub.slice().chunks == 0
    assert lost == []
    proxy.heal()
    for _ in range(20):  # the rest after failures ends
        world.monotonic()
    overwrite(store, Cid.of(blocks[0]), rotten(blocks[0]))
    for _ in range(50):  # slices are short, and wait until they are due
        world.time += 86_400
        scrub.slice()
    assert lost == [Cid.of(blocks[0])]


def test_the_cache_is_bounded_and_the_least_recently_used_go_first(tmp_path: Path, rng: random.Random) -> None:
    cache = DiskCache(tmp_path, 100_000, "a")
    blocks = [rng.randbytes(20_000) for _ in range(6)]
    for number, block in enumerate(blocks[:4]):
        cache.put(Cid.of(block), block)
        os.utime(next(tmp_path.rglob(str(Cid.of(block)))), (number, number))
    assert cache.get(Cid.of(blocks[0])) == blocks[0]
    cache.put(Cid.of(blocks[4]), blocks[4])
    assert cache.get(Cid.of(blocks[1])) is None
    assert cache.get(Cid.of(blocks[0])) == blocks[0]
    again = DiskCache(tmp_path, 100_000, "b")  # a restart knows the order by the times of the files
    again.put(Cid.of(blocks[5]), blocks[5])
    assert again.get(Cid.of(blocks[2])) is None
    assert again.get(Cid.of(blocks[0])) == blocks[0]
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 100_000
    smaller = DiskCache(tmp_path, 50_000, "c")
    smaller.put(Cid.of(b"x"), b"x")
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 50_000
    large = rng.randbytes(60_000)
    smaller.put(Cid.of(large), large)
    assert smaller.get(Cid.of(large)) is None


def test_the_cache_makes_way_on_a_disk_that_fills_and_forgets_half_written_files(
    tmp_path: Path, rng: random.Random
) -> None:
    cache = DiskCache(tmp_path, 1_000_000, "a")
    blocks = [rng.randbytes(1000) for _ in range(70)]
    for block in blocks:
        cache.put(Cid.of(block), block)
    cache.give_way(0)
    assert all(cache.get(Cid.of(block)) for block in blocks)
    cache.give_way(1 << 62)
    assert sum(cache.get(Cid.of(block)) is not None for block in blocks) == 6
    (tmp_path / "tmp" / "dead-1").write_bytes(b"half")
    assert cache.sweep(10) == 1
    assert not list((tmp_path / "tmp").iterdir())


def test_a_cache_that_cannot_be_written_only_misses(tmp_path: Path, rng: random.Random) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = DiskCache(tmp_path / "file" / "below", 1_000_000, "a")
    data = rng.randbytes(1000)
    cache.put(Cid.of(data), data)
    assert cache.get(Cid.of(data)) is None


# --- whose a prefix is ---


def test_two_homes_do_not_share_a_prefix(opened: Open, tmp_path: Path, rng: random.Random) -> None:
    first = opened("first")
    data = rng.randbytes(50_000)
    first.put(Cid.of(data), data)
    with pytest.raises(ConflictError) as caught:
        opened("second")
    assert caught.value.exit_code == 9 and caught.value.id == "objects-owned"
    assert str(tmp_path / "first") in caught.value.why and "network.store.uri" in caught.value.mend[0]
    assert not (tmp_path / "second" / "index.db").exists()
    first.close()
    assert opened("first").get(Cid.of(data)) == data


def test_a_prefix_that_changes_hands_under_a_running_home_is_not_swept(opened: Open, rng: random.Random) -> None:
    store = opened()
    orphan = rng.randbytes(50_000)
    with store.batch() as batch:
        batch.add_data(orphan)
    for mark in (b'{"v": 1, "id": "another"}', b"no mark", None):
        if mark is None:
            bodies_of(store).bucket.delete("owner.json")
        else:
            bodies_of(store).bucket.put("owner.json", mark, "", replace=True)
        with pytest.raises(ConflictError):
            collect(store, Documents(store), grace_s=0)
        assert key_of(Cid.of(orphan)) in keys_of(store)


def test_a_home_whose_chunks_are_elsewhere_is_not_opened(
    opened: Open, proxy: aws_server.Proxy, world: object, tmp_path: Path, rng: random.Random, object_place: Place
) -> None:
    data = rng.randbytes(50_000)
    (tmp_path / "home").mkdir()
    files = open_store(tmp_path / "home", world, quota=ROOMY)  # type: ignore[arg-type]
    files.put(Cid.of(data), data)
    files.close()
    with pytest.raises(ConfigError) as caught:
        opened()
    assert caught.value.id == "objects-elsewhere" and "aws s3 sync" in caught.value.mend[1]
    # what that command does
    bucket = Bucket(Place(object_place.bucket, "p", endpoint=proxy.url), world)  # type: ignore[arg-type]
    for path in (tmp_path / "home" / "store").glob("??/bafk*"):
        bucket.put(f"{path.parent.name}/{path.name}", path.read_bytes(), "", replace=True)
    bucket.close()
    store = opened(cache_bytes=CACHE_BYTES)
    assert store.get(Cid.of(data)) == data
    assert verify(store).bad == ()
    store.close()
    with pytest.raises(ConfigError) as caught:
        open_store(tmp_path / "home", world, quota=ROOMY)  # type: ignore[arg-type]
    assert caught.value.id == "objects-elsewhere" and f"s3://{object_place.bucket}/p" in caught.value.mend[0]


def test_a_lost_index_beside_objects_is_refused(opened: Open, tmp_path: Path, rng: random.Random) -> None:
    store = opened()
    data = rng.randbytes(50_000)
    store.put(Cid.of(data), data)
    store.close()
    for path in (tmp_path / "home").glob("index.db*"):
        path.unlink()
    with pytest.raises(IntegrityError) as caught:
        opened()
    assert caught.value.id == "index-missing"
    assert not (tmp_path / "home" / "index.db").exists()


def test_chunks_that_nobody_marked_are_not_taken_for_garbage(opened: Open, tmp_path: Path, rng: random.Random) -> None:
    store = opened("first")
    data = rng.randbytes(50_000)
    store.put(Cid.of(data), data)
    bodies_of(store).bucket.delete("owner.json")
    with pytest.raises(IntegrityError):
        opened("second")
    empty = open_store(tmp_path / "second", store.env, quota=ROOMY)
    empty.put(Cid.of(b"small"), b"small")
    empty.close()
    with pytest.raises(ConflictError, match="does not know"):
        opened("second")


def test_a_mark_that_went_is_written_again_when_the_chunks_are_there(opened: Open, rng: random.Random) -> None:
    store = opened()
    data = rng.randbytes(50_000)
    store.put(Cid.of(data), data)
    bodies_of(store).bucket.delete("owner.json")
    store.close()
    store = opened()
    mark = json.loads(bodies_of(store).bucket.get("owner.json", 4096).data)
    assert mark["path"].endswith("/home")
    bodies_of(store).bucket.delete("owner.json")
    bodies_of(store).bucket.delete(key_of(Cid.of(data)))
    store.close()
    with pytest.raises(ConfigError) as caught:
        opened()
    assert caught.value.id == "objects-elsewhere"


# --- whole documents ---


def test_a_document_goes_in_by_several_workers_while_the_server_stumbles(
    opened: Open, proxy: aws_server.Proxy, rng: random.Random
) -> None:
    store = opened(cache_bytes=CACHE_BYTES)
    documents = Documents(store)
    data = rng.randbytes(1_500_000)
    proxy.fail(503, method="PUT", times=3)
    proxy.faults["GET", ""] = ["cut", 500]
    with documents.lease() as lease:
        found = ingest(io.BytesIO(data), store, lease, sizes=Sizes(16 * 1024, 32 * 1024, 128 * 1024))
        documents.put(lease, found.root, size=found.size, chunks=found.chunks, name="d")
    assert verify(store).bad == ()
    documents.remove(documents.list()[0][0])
    collect(store, documents, grace_s=0)
    assert keys_of(store) == {"owner.json"}
    assert store.totals().chunks == 0
