"""The scrub: all is read within a pass, evenly, over restarts and clocks that jump; what is bad is told, once each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from rage_net.chunk import scrub
from rage_net.chunk.scrub import Scrub
from rage_net.chunk.store import ChunkStore, Quota, open_store
from rage_net.cid import Cid
from rage_net.errors import StorageFullError, UnavailableError

DAY_S = 86_400.0
PERIOD_S = 30 * DAY_S
ROOMY = Quota(free_bytes_min=0, free_inodes_min=0)


class Clocks:
    """A wall clock and a monotonic one, moved by hand; each read of a chunk may take `read_s` of the latter."""

    def __init__(self, rng: Random) -> None:
        self.random = rng
        self.time = 1_700_000_000.0
        self.ticks = 0.0
        self.tick_s = 0.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        self.ticks += self.tick_s
        return self.ticks


@pytest.fixture
def clocks(rng: Random) -> Clocks:
    return Clocks(rng)


@pytest.fixture
def reopen(clocks: Clocks, tmp_path: Path) -> Iterator[Callable[[], ChunkStore]]:
    opened: list[ChunkStore] = []

    def again() -> ChunkStore:
        while opened:
            opened.pop().close()
        opened.append(open_store(tmp_path, clocks, quota=ROOMY))  # type: ignore[arg-type]
        return opened[-1]

    yield again
    again().close()


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' stores are a thousandth of real ones."""
    monkeypatch.setattr(scrub, "SLICE_BYTES_MIN", 30_000)
    monkeypatch.setattr(scrub, "SLICE_BYTES_MAX", 200_000)


def fill(store: ChunkStore, rng: Random, count: int = 60) -> list[Cid]:
    """Small chunks and files, in the order they are read."""
    blocks = [rng.randbytes(20_000 if number % 2 else 4000) for number in range(count)]
    with store.batch() as batch:
        for block in blocks:
            batch.add_data(block)
        batch.commit()
    return sorted(map(Cid.of, blocks), key=bytes)


def reads(store: ChunkStore, monkeypatch: pytest.MonkeyPatch) -> list[Cid]:
    """What the scrub reads from now on."""
    seen: list[Cid] = []
    real = store.get

    def get(cid: Cid, *, found_by: str = "read", at_rest: bool = False) -> bytes:
        if found_by == "scrub":
            assert at_rest, "a cache tells nothing of what is behind it"
            seen.append(cid)
        return real(cid, found_by=found_by, at_rest=at_rest)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "get", get)
    return seen


def catch_up(it: Scrub) -> int:
    """Slices until nothing more is due; how many."""
    count = 1
    while it.slice().rest_s is not None:
        count += 1
    return count


class TestPace:
    def test_a_pass_reads_everything_once_and_evenly_and_takes_25_to_35_days(
        self, reopen: Callable[[], ChunkStore], clocks: Clocks, rng: Random, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = reopen()
        cids = fill(store, rng)
        total = store.totals().size
        seen, it = reads(store, monkeypatch), Scrub(store, PERIOD_S)
        began = clocks.time
        catch_up(it)
        assert seen == [], "nothing is due at once"
        lengths = []
        for _ in range(3):
            state = scrub.load(store)
            assert state is not None and state.began_at == clocks.time
            lengths.append(state.length_s)
            assert 25 * DAY_S <= state.length_s <= 35 * DAY_S
            while not state.is_done:
                clocks.time = min(clocks.time + 7 * 3600, state.due_at)
                catch_up(it)
                share = min(1.0, (clocks.time - state.began_at) / state.length_s)
                read = sum(store.stat(cid).size for cid in seen)
                assert share * total - 30_000 - 20_000 <= read <= share * total + 20_000 or share == 1.0
                state = scrub.load(store)
                assert state is not None
            assert seen == cids, "each once, in order"
            assert state.ended_at == clocks.time and clocks.time > state.due_at - 3 * DAY_S
            clocks.time = state.due_at
            seen.clear()
            catch_up(it)
        assert len(set(lengths)) == 3, "each pass is drawn anew"
        assert clocks.time - began == pytest.approx(sum(lengths))

    def test_a_small_store_is_left_alone_until_its_pass_ends(
        self, reopen: Callable[[], ChunkStore], clocks: Clocks, rng: Random, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = reopen()
        cids = fill(store, rng, 2)
        seen, it = reads(store, monkeypatch), Scrub(store, PERIOD_S)
        for _ in range(24):
            catch_up(it)
            clocks.time += DAY_S
        assert seen == []
        clocks.time += 12 * DAY_S
        catch_up(it)
        assert seen == cids

    def test_an_empty_store_has_passes_too(self, reopen: Callable[[], ChunkStore], clocks: Clocks) -> None:
        store = reopen()
        it = Scrub(store, PERIOD_S)
        catch_up(it)
        clocks.time += 36 * DAY_S
        assert it.slice() == scrub.Slice(0, 0, 0, None)
        state = scrub.load(store)
        assert state is not None and state.ended_at == clocks.time

    def test_a_slice_is_bounded_in_bytes_and_in_time_and_the_next_rests(
        self, reopen: Callable[[], ChunkStore], clocks: Clocks, rng: Random
    ) -> None:
        store = reopen()
        fill(store, rng)
        it = Scrub(store, PERIOD_S)
        it.slice()
        clocks.time += 36 * DAY_S
        by_bytes = it.slice()
        assert 200_000 <= by_bytes.size < 220_000
        clocks.tick_s = 0.05
        by_time = it.slice()
        assert 1 <= by_time.chunks <= 5
        assert by_time.rest_s is not None and by_time.rest_s >= scrub.REST * scrub.SLICE_S_MAX
        clocks.tick_s = 100.0
        assert it.slice().chunks == 1, "on the slowest disk it goes on"
        assert it.slice(lambda: True).chunks == 0

    def test_chunks_that_are_tiny_end_a_slice_too(
        self, reopen: Callable[[], ChunkStore], clocks: Clocks, rng: Random, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scrub, "SLICE_CHUNKS_MAX", 7)
        store = reopen()
        with store.batch() as batch:
            for number in range(21):
                batch.add_data(number.to_bytes(2))
            batch.commit()
        it = Scrub(store, PERIOD_S)
        it.slice()
        clocks.time += 36 * DAY_S
        assert [it.slice().chunks for _ in range(4)] == [7, 7, 7, 0]
        state = scrub.load(store)
        assert state is not None and state.is_done and state.chunks == 21

    def test_a_period_of_nothing_is_refused(self, reopen: Callable[[], ChunkStore]) -> None:
        with pytest.raises(ValueError, match="above 0"):
            Scrub(reopen(), 0)


class TestGoingOn:
    def test_over_a_restart_it_goes_on_where_it_was(
        self, reopen: Callable[[], ChunkStore], clocks: Clocks, rng: Random, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = reopen()
        cids = fill(store, rng)
        it = Scrub(store, PERIOD_S)
        it.slice()
        seen: list[Cid] = []
        for _ in range(40):
            clocks.time += DAY_S
            store = reopen()
            once, it = reads(store, monkeypatch), Scrub(store, PERIOD_S)
            catch_up(it)
            seen += once
            if len(seen) >= len(cids):
                break
        assert seen == cids

    def test_on_a_full_disk_it_goes_on_in_memory(
        self, reopen: Callable[[], ChunkStore], clocks: Clocks, rng: Random, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = reopen()
        cids = fill(store, rng)
        seen, it = reads(store, monkeypatch), Scrub(store, PERIOD_S)
        it.slice()

        def full(**_: object) -> None:
            raise StorageFullError("no room")

        monkeypatch.setattr(store.index, "write", full)
        clocks.time += 36 * DAY_S
        catch_up(it)
        assert seen == cids

    @pytest.mark.parametrize("jump_s", [-400 * DAY_S, -5 * DAY_S, DAY_S, 400 * DAY_S])
    def test_a_clock_that_jumps_neither_stops_it_nor_makes_it_read_twice(
        self,
        reopen: Callable[[], ChunkStore],
        clocks: Clocks,
        rng: Random,
        monkeypatch: pytest.MonkeyPatch,
        jump_s: float,
    ) -> None:
        store = reopen()
        cids = fill(store, rng)
        seen, it = reads(store, monkeypatch), Scrub(store, PERIOD_S)
        it.slice()
        for _ in range(10):
            clocks.time += DAY_S
            catch_up(it)
        assert 0 < len(seen) < 50
        clocks.time += jump_s
        catch_up(it)
        days = 0
        while len(seen) < len(cids):
            clocks.time += DAY_S
            catch_up(it)
            days += 1
            assert days <= 36
        assert seen == cids

    def test_a_shorter_period_counts_at_once(
        self, reopen: Callable[[], ChunkStore], clocks: Clocks, rng: Random, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = reopen()
        cids = fill(store, rng)
        Scrub(store, 300 * DAY_S).slice()
        seen, it = reads(store, monkeypatch), Scrub(store, PERIOD_S)
        it.slice()
        clocks.time += 36 * DAY_S
        catch_up(it)
        assert seen == cids


class TestFinding:
    def test_what_is_bad_is_told_quarantined_and_counted(
        self, reopen: Callable[[], ChunkStore], clocks: Clocks, rng: Random, tmp_path: Path
    ) -> None:
        store = reopen()
        cids = fill(store, rng)
        files = [cid for cid in cids if store.stat(cid).size == 20_000]
        small = [cid for cid in cids if store.stat(cid).size == 4000]
        for cid, change in ((files[0], "flip"), (files[1], "cut"), (files[2], "gone")):
            path = tmp_path / "store" / f"{cid.digest[0]:02x}" / str(cid)
            data = bytearray(path.read_bytes())
            data[7] ^= 4
            path.unlink() if change == "gone" else path.write_bytes(data if change == "flip" else data[:100])
        rotten = b"not what was stored"
        with store.index.write() as db:
            db.execute(
                "UPDATE body SET stored = ? WHERE chunk = (SELECT id FROM chunk WHERE cid = ?)",
                (rotten, bytes(small[0])),
            )
        told: list[tuple[Cid, str]] = []
        store.on_lost.append(lambda cid, found_by: told.append((cid, found_by)))
        it = Scrub(store, PERIOD_S)
        it.slice()
        clocks.time += 36 * DAY_S
        catch_up(it)
        bad = {*files[:3], small[0]}
        assert sorted(told, key=lambda it: bytes(it[0])) == [(cid, "scrub") for cid in sorted(bad, key=bytes)]
        assert {path.name for path in (tmp_path / "store" / "quarantine").iterdir()} == {
            str(cid) for cid in bad - {files[2]}
        }
        state = scrub.load(store)
        assert state is not None and (state.bad, state.chunks) == (4, len(cids))

    def test_one_chunk_that_the_disk_does_not_give_is_told_and_many_end_the_slice(
        self, reopen: Callable[[], ChunkStore], clocks: Clocks, rng: Random, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = reopen()
        cids = fill(store, rng)
        dead = {cids[3]}
        real = store.get

        def get(cid: Cid, **more: object) -> bytes:
            if cid in dead:
                raise UnavailableError("the disk fails")
            return real(cid, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(store, "get", get)
        told: list[Cid] = []
        store.on_lost.append(lambda cid, found_by: told.append(cid))
        it = Scrub(store, PERIOD_S)
        it.slice()
        clocks.time += 36 * DAY_S
        dead.update(cids[30:])
        catch_up(it)
        state = scrub.load(store)
        assert state is not None and not state.is_done
        assert told == [cids[3], *cids[30:37]]
        catch_up(it)
        assert len(told) == 8, "while the disk is dead, it asks once a turn and tells nobody"
        dead.clear()
        catch_up(it)
        state = scrub.load(store)
        assert state is not None and state.is_done and state.chunks == len(cids)

    def test_what_is_deleted_while_it_reads_is_not_bad(
        self, reopen: Callable[[], ChunkStore], clocks: Clocks, rng: Random, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = reopen()
        cids = fill(store, rng, 9)
        real = store.get

        def get(cid: Cid, **more: object) -> bytes:
            if cid == cids[2]:
                store.delete(cids[2])
            return real(cid, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(store, "get", get)
        it = Scrub(store, PERIOD_S)
        it.slice()
        clocks.time += 36 * DAY_S
        catch_up(it)
        state = scrub.load(store)
        assert state is not None and state.is_done and state.bad == 0
