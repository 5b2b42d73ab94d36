"""Healing: flipped bits, torn and missing files come back from a peer, durable; what fails rests, and nothing ends."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from rage_net import messages
from rage_net.chunk import replicas
from rage_net.chunk.documents import Documents
from rage_net.chunk.store import Admitted, ChunkStore, Quota, open_store
from rage_net.cid import Cid
from rage_net.errors import IntegrityError, NotFoundError, StorageFullError, UnavailableError
from rage_net.libp2p import varint
from rage_net.libp2p.swarm import Stream
from rage_net.metrics import Metrics
from rage_net.services import healing
from rage_net.services.exchange import PeerSource
from rage_net.services.healing import Healing
from rage_net.services.retrieval import Retrieval, Stage, Want, Way, known

from .conftest import Collect, Peer, World

pytestmark = pytest.mark.anyio

ROOMY = Quota(free_bytes_min=0, free_inodes_min=0)


class Clock:
    """An `Env` whose clocks are moved by hand, and whose work is done in line."""

    def __init__(self, rng: Random) -> None:
        self.random = rng
        self.time = 1_000_000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def blocking(self, fn: Callable[..., object], *args: object) -> object:
        return fn(*args)

    waiting = blocking

    def close(self) -> None: ...


class Elsewhere:
    """Where chunks may be had: what it has, how it fails, and what it was asked."""

    def __init__(self) -> None:
        self.chunks: dict[Cid, bytes] = {}
        self.error: Exception | None = None
        self.asked: list[Cid] = []

    async def __call__(self, cid: Cid) -> bytes:
        self.asked.append(cid)
        if self.error is not None:
            raise self.error
        if cid not in self.chunks:
            raise NotFoundError(f"{cid} is not to be had")
        return self.chunks[cid]


@pytest.fixture
def clock(rng: Random) -> Clock:
    return Clock(rng)


@pytest.fixture
def store(clock: Clock, tmp_path: Path) -> Iterator[ChunkStore]:
    opened = open_store(tmp_path, clock, quota=ROOMY)  # type: ignore[arg-type]
    yield opened
    opened.close()


@pytest.fixture
def elsewhere() -> Elsewhere:
    return Elsewhere()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def healer(store: ChunkStore, clock: Clock, metrics: Metrics, elsewhere: Elsewhere) -> Healing:
    made = Healing(store, clock, metrics, elsewhere)  # type: ignore[arg-type]
    store.on_lost.append(made.note)
    return made


def keep(store: ChunkStore, elsewhere: Elsewhere, rng: Random, *sizes: int) -> list[Cid]:
    """Replicas of this node that are elsewhere too."""
    blocks = [rng.randbytes(size) for size in sizes]
    replicas.keep_replicas(store, [Admitted(Cid.of(block), "raw", block, len(block)) for block in blocks])
    elsewhere.chunks |= {Cid.of(block): block for block in blocks}
    return [*map(Cid.of, blocks)]


def path_of(store: ChunkStore, cid: Cid) -> Path:
    return Path(store.bodies._path(cid))  # type: ignore[attr-defined]


def spoil(store: ChunkStore, cid: Cid, rng: Random, how: str) -> None:
    """One flipped bit, a torn end, or nothing left."""
    data = bytearray(store.get(cid))
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    if store.stat(cid).stored <= 16_384:
        spoilt = {"flip": bytes(data), "cut": bytes(data[: len(data) // 2]), "gone": b""}[how]
        with store.index.write() as db:
            db.execute(
                "UPDATE body SET stored = ? WHERE chunk = (SELECT id FROM chunk WHERE cid = ?)", (spoilt, bytes(cid))
            )
    elif how == "gone":
        path_of(store, cid).unlink()
    else:
        path_of(store, cid).write_bytes(data if how == "flip" else data[: len(data) // 2])


def outcomes(metrics: Metrics) -> dict[str, float]:
    return {labels[0]: cell[0] for labels, cell in metrics.healing.read().items()}


class TestHealed:
    @pytest.mark.parametrize("how", ["flip", "cut", "gone"])
    @pytest.mark.parametrize("size", [3000, 50_000])
    async def test_what_a_reader_finds_spoilt_comes_back_durable(
        self,
        how: str,
        size: int,
        store: ChunkStore,
        elsewhere: Elsewhere,
        healer: Healing,
        metrics: Metrics,
        rng: Random,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.INFO)
        (cid,) = keep(store, elsewhere, rng, size)
        spoil(store, cid, rng, how)
        with pytest.raises((IntegrityError, NotFoundError)):
            store.get(cid)
        assert not store.has(cid) and len(healer) == 1
        await healer.round()
        assert store.get(cid) == elsewhere.chunks[cid]
        assert not store.stat(cid).cached and replicas.missing(store) == []
        assert len(healer) == 0 and outcomes(metrics) == {"healed": 1}
        assert [record.message for record in caplog.records if record.name == "rage.healing"] == [
            f"chunk {cid} is whole again, from a peer"
        ]
        quarantine = path_of(store, cid).parent.parent / "quarantine" / str(cid)
        assert quarantine.exists() == (how != "gone" or size == 3000)

    async def test_what_was_missing_before_the_start_comes_back(
        self, store: ChunkStore, elsewhere: Elsewhere, rng: Random, clock: Clock, metrics: Metrics
    ) -> None:
        cids = keep(store, elsewhere, rng, 100, 20_000, 30_000)
        for cid in cids:
            store.condemn(cid)
        healer = Healing(store, clock, metrics, elsewhere)  # type: ignore[arg-type]
        await healer.round()
        assert all(store.get(cid) == elsewhere.chunks[cid] for cid in cids)
        assert outcomes(metrics) == {"healed": 3}

    async def test_the_survey_goes_page_by_page_and_again_after_a_while(
        self,
        store: ChunkStore,
        elsewhere: Elsewhere,
        healer: Healing,
        clock: Clock,
        rng: Random,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(healing, "SURVEY_PAGE", 4)
        cids = keep(store, elsewhere, rng, *([100] * 10))
        for cid in cids:
            store.condemn(cid)
        for left in (6, 2, 0):
            await healer.round()
            assert len(replicas.missing(store)) == left
        store.condemn(cids[0])
        await healer.round()
        assert not store.has(cids[0]), "not surveyed anew at once"
        clock.time += 1.5 * healing.SURVEY_EVERY_S
        await healer.round()
        assert store.has(cids[0])

    async def test_what_nothing_holds_is_not_fetched(
        self, store: ChunkStore, elsewhere: Elsewhere, healer: Healing, rng: Random
    ) -> None:
        data = rng.randbytes(50_000)
        store.put(Cid.of(data), data)
        spoil(store, Cid.of(data), rng, "flip")
        with pytest.raises(IntegrityError):
            store.get(Cid.of(data))
        await healer.round()
        assert elsewhere.asked == [] and len(healer) == 0

    async def test_what_is_sound_or_was_let_go_meanwhile_is_not_fetched(
        self, store: ChunkStore, elsewhere: Elsewhere, healer: Healing, clock: Clock, rng: Random
    ) -> None:
        sound, gone = keep(store, elsewhere, rng, 50_000, 50_000)
        replicas.let_go(store, [gone], now=clock.time, at_once=True)
        healer.note(sound)
        healer.note(gone)
        await healer.round()
        assert elsewhere.asked == [] and len(healer) == 0

    async def test_a_fetch_that_stores_as_cache_is_made_durable(
        self, store: ChunkStore, elsewhere: Elsewhere, clock: Clock, metrics: Metrics, rng: Random
    ) -> None:
        (cid,) = keep(store, elsewhere, rng, 50_000)

        async def fetch(cid: Cid) -> bytes:
            data = await elsewhere(cid)
            store.put(cid, data, cache=True)
            return data

        store.condemn(cid)
        await Healing(store, clock, metrics, fetch).round()  # type: ignore[arg-type]
        assert not store.stat(cid).cached

    async def test_one_that_the_disk_does_not_give_is_replaced_once_good_bytes_are_at_hand(
        self,
        store: ChunkStore,
        elsewhere: Elsewhere,
        healer: Healing,
        rng: Random,
        clock: Clock,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        (cid,) = keep(store, elsewhere, rng, 50_000)
        inode = path_of(store, cid).stat().st_ino
        real = store.bodies.read

        def read(wanted: Cid, *, at_rest: bool = False) -> bytes:
            if path_of(store, wanted).stat().st_ino == inode:
                raise UnavailableError("cannot read a chunk: Input/output error")
            return real(wanted, at_rest=at_rest)

        monkeypatch.setattr(store.bodies, "read", read)
        elsewhere.error = UnavailableError("nobody is there")
        healer.note(cid)
        await healer.round()
        assert path_of(store, cid).stat().st_ino == inode, "without another copy it stays"
        elsewhere.error = None
        clock.time += 100
        await healer.round()
        assert store.get(cid) == elsewhere.chunks[cid]


class TestFailing:
    async def test_what_nobody_has_is_asked_for_more_and_more_rarely(
        self,
        store: ChunkStore,
        elsewhere: Elsewhere,
        healer: Healing,
        clock: Clock,
        metrics: Metrics,
        rng: Random,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        (cid,) = keep(store, elsewhere, rng, 50_000)
        data = elsewhere.chunks.pop(cid)
        store.condemn(cid)
        asked_at: list[float] = []
        for _ in range(6 * 60 * 48):
            before = len(elsewhere.asked)
            await healer.round()
            if len(elsewhere.asked) > before:
                asked_at.append(clock.time)
            clock.time += 10
        rests = [after - before for before, after in itertools.pairwise(asked_at)]
        assert 12 < len(rests) < 30
        assert healing.FIRST_REST_S / 2 <= rests[0] <= healing.FIRST_REST_S * 1.5 + 10
        assert max(rests) > 2 * 3600
        assert all(rest <= healing.LAST_REST_S * 1.5 + 10 for rest in rests)
        warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert len([record for record in warned if record.name == "rage.healing"]) == 1
        elsewhere.chunks[cid] = data
        clock.time += healing.LAST_REST_S * 1.5
        await healer.round()
        assert store.get(cid) == data
        assert outcomes(metrics) == {"failed": len(asked_at), "healed": 1}

    async def test_one_hour_has_so_many_attempts(
        self,
        store: ChunkStore,
        elsewhere: Elsewhere,
        healer: Healing,
        clock: Clock,
        rng: Random,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(healing, "ATTEMPTS_AN_HOUR", 400)
        healer._credit = 400.0
        replicas.hold(store, [Cid.of(rng.randbytes(8)) for _ in range(200)])
        for _ in range(360):
            await healer.round()
            clock.time += 10
        assert 20 <= len(elsewhere.asked) <= 48

    async def test_too_many_are_left_to_a_later_survey_and_none_for_ever(
        self,
        store: ChunkStore,
        elsewhere: Elsewhere,
        healer: Healing,
        clock: Clock,
        rng: Random,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(healing, "WAITING_MAX", 10)
        monkeypatch.setattr(healing, "FAILURE_COST", 1)
        blocks = {Cid.of(block): block for block in (rng.randbytes(100) for _ in range(40))}
        replicas.hold(store, blocks)
        wanted = sorted(blocks, key=bytes)
        elsewhere.chunks = {cid: blocks[cid] for cid in wanted[35:]}
        assert [healer.note(cid) for cid in wanted[:11]] == [True] * 10 + [False]
        hours = 0
        while not all(store.has(cid) for cid in wanted[35:]):
            await healer.round()
            clock.time += 600
            assert len(healer) <= 10
            hours += 1
            assert hours < 6 * 24 * 5, "those that nobody has keep out the others"

    async def test_wrong_bytes_are_not_stored(
        self, store: ChunkStore, elsewhere: Elsewhere, healer: Healing, metrics: Metrics, rng: Random
    ) -> None:
        (cid,) = keep(store, elsewhere, rng, 50_000)
        elsewhere.chunks[cid] = rng.randbytes(50_000)
        store.condemn(cid)
        await healer.round()
        assert not store.has(cid) and outcomes(metrics) == {"failed": 1}

    async def test_a_bug_or_a_source_that_never_answers_ends_nothing(
        self,
        store: ChunkStore,
        elsewhere: Elsewhere,
        clock: Clock,
        metrics: Metrics,
        rng: Random,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(healing, "FETCH_S_MAX", 0.01)
        stuck, broken, good = keep(store, elsewhere, rng, 100, 200, 300)

        async def fetch(cid: Cid) -> bytes:
            if cid == stuck:
                await asyncio.get_running_loop().create_future()
            if cid == broken:
                raise ZeroDivisionError
            return await elsewhere(cid)

        for cid in (stuck, broken, good):
            store.condemn(cid)
        healer = Healing(store, clock, metrics, fetch)  # type: ignore[arg-type]
        await healer.round()
        assert store.has(good) and len(healer) == 2
        assert outcomes(metrics) == {"healed": 1, "failed": 2}

    async def test_on_a_full_store_it_rests_and_goes_on_when_there_is_room(
        self, elsewhere: Elsewhere, clock: Clock, metrics: Metrics, rng: Random, tmp_path: Path
    ) -> None:
        (tmp_path / "full").mkdir()
        quota = Quota(bytes_max=160_000, free_bytes_min=0, free_inodes_min=0)
        store = open_store(tmp_path / "full", clock, quota=quota)  # type: ignore[arg-type]
        try:
            lost = keep(store, elsewhere, rng, 50_000, 50_000)
            for cid in lost:
                store.condemn(cid)
            (filler,) = keep(store, elsewhere, rng, 150_000)
            healer = Healing(store, clock, metrics, elsewhere)  # type: ignore[arg-type]
            await healer.round()
            assert not any(map(store.has, lost)) and store.has(filler)
            assert outcomes(metrics) == {"full": 2}
            asked = len(elsewhere.asked)
            clock.time += healing.FULL_REST_S / 2
            await healer.round()
            assert len(elsewhere.asked) == asked, "it does not fetch what it cannot keep"
            replicas.let_go(store, [filler], now=clock.time, at_once=True)
            clock.time += 100
            await healer.round()
            assert all(store.get(cid) == elsewhere.chunks[cid] for cid in lost)
        finally:
            store.close()

    async def test_rot_that_a_full_disk_keeps_in_place_rests_and_is_healed_later(
        self,
        store: ChunkStore,
        elsewhere: Elsewhere,
        healer: Healing,
        clock: Clock,
        metrics: Metrics,
        rng: Random,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        (cid,) = keep(store, elsewhere, rng, 50_000)
        spoil(store, cid, rng, "flip")
        with monkeypatch.context() as patched:

            def full(**_: object) -> None:
                raise StorageFullError("no room")

            patched.setattr(store.index, "write", full)
            with pytest.raises(IntegrityError):
                store.get(cid)
            await healer.round()
            assert outcomes(metrics) == {"full": 1} and elsewhere.asked == []
        clock.time += 100
        await healer.round()
        assert store.get(cid) == elsewhere.chunks[cid]


class TestBetweenPeers:
    """With the real exchange and retrieval, over swarms in memory."""

    @pytest.fixture
    def mend(self, store: ChunkStore) -> Callable[[World, Sequence[Peer]], Awaitable[Healing]]:
        async def make(world: World, holders: Sequence[Peer]) -> Healing:
            here = await world.peer()
            retrieval = Retrieval(store, here.env, here.metrics)

            def way(peer: Peer) -> Way:
                async def reach() -> PeerSource:
                    return PeerSource(here.exchange, await here.connect(peer))

                return Way(str(peer.swarm.peer_id), reach)

            async def stages() -> Sequence[Stage]:
                return [known("peers", [way(peer) for peer in holders])]

            async def fetch(cid: Cid) -> bytes:
                sink = Collect()
                await retrieval.fetch(Want(cid, join=False, local=False), stages, sink)
                return bytes(sink.data)

            healer = Healing(store, here.env, here.metrics, fetch)
            store.on_lost.append(healer.note)
            return healer

        return make

    async def test_every_chunk_of_a_document_spoilt_in_any_way_comes_back(
        self, world: World, store: ChunkStore, mend: Callable[..., Awaitable[Healing]], rng: Random
    ) -> None:
        holder = await world.peer()
        document = holder.put(rng.randbytes(300_000), "public")
        held = [stat.cid for stat in holder.store.list()]
        documents = Documents(store)
        with documents.lease("acme") as lease:
            with store.batch(lease=lease) as batch:
                for cid in held:
                    batch.add(cid, holder.store.get(cid))
                batch.commit()
            documents.put(lease, document.root, size=document.size, chunks=document.chunks)
        healer = await mend(world, [holder])
        for cid in held:
            if rng.random() < 0.7:
                spoil(store, cid, rng, rng.choice(["flip", "cut", "gone"]))
        for cid in held:
            try:
                store.get(cid)
            except (IntegrityError, NotFoundError):
                continue
        await healer.round()
        for cid in held:
            assert store.get(cid) == holder.store.get(cid)
            assert not store.stat(cid).cached
            assert len(documents.counting(cid)) == 1, "it counts for its document as before"

    async def test_a_peer_that_lies_heals_nothing_and_an_honest_one_does(
        self, world: World, store: ChunkStore, mend: Callable[..., Awaitable[Healing]], rng: Random
    ) -> None:
        honest, liar = await world.peer(), await world.peer()
        cid = honest.put(rng.randbytes(4000), "public").root
        served: list[Cid] = []

        async def serve(stream: Stream) -> None:
            request = messages.decode_request(await stream.read_message(messages.REQUEST_BYTES_MAX))
            answer, body = messages.ChunkResponse(200, have=messages.encode_have([True])), b""
            if isinstance(request, messages.GetRequest):
                served.append(request.cid)
                answer, body = messages.ChunkResponse(200, messages.ChunkHeader(4000, 4000, "raw")), bytes(4000)
            head = messages.encode_response(answer)
            await stream.write(varint.encode(len(head)) + head, body)
            await stream.close_write()

        liar.answer(serve)
        replicas.hold(store, [cid])
        healer = await mend(world, [liar])
        await healer.round()
        assert served == [cid] and not store.has(cid)
        healer = await mend(world, [liar, honest])
        await healer.round()
        assert store.get(cid) == honest.store.get(cid) and not store.stat(cid).cached


def test_notes_come_from_any_thread(store: ChunkStore, healer: Healing, rng: Random) -> None:
    cids = [Cid.of(rng.randbytes(8)) for _ in range(200)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(healer.note, cids * 3))
    assert len(healer) == 200
