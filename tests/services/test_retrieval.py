"""Downloads between real swarms in memory: parallel, verified, and past the slow, the dead and the liars."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import pytest

from rage_net import messages
from rage_net.chunk.manifest import Link, Manifest
from rage_net.cid import BLOCK_BYTES_MAX, DAG_CBOR, Cid
from rage_net.errors import IntegrityError, NotFoundError, UnavailableError
from rage_net.libp2p import varint
from rage_net.libp2p.swarm import Connection, Stream
from rage_net.messages import ChunkHeader, ChunkResponse, GetRequest, Traffic
from rage_net.services import exchange, retrieval
from rage_net.services.retrieval import remote

from .conftest import Peer, World

pytestmark = pytest.mark.anyio


async def read_request(stream: Stream) -> messages.GetRequest | messages.HaveRequest:
    return messages.decode_request(await stream.read_message(messages.REQUEST_BYTES_MAX))


async def respond(stream: Stream, response: ChunkResponse, body: bytes = b"") -> None:
    head = messages.encode_response(response)
    await stream.write(varint.encode(len(head)) + head, body)
    await stream.close_write()


def lying(peer: Peer, make: Callable[[bytes], bytes]) -> None:
    """Answer every request for a chunk with `make(chunk)` instead."""

    async def serve(stream: Stream) -> None:
        request = await read_request(stream)
        if isinstance(request, GetRequest):
            data = make(peer.store.get(request.cid))
            await respond(stream, ChunkResponse(200, ChunkHeader(len(data), len(data), "raw")), data)
        else:
            await respond(stream, ChunkResponse(200, have=messages.encode_have([True] * len(request.cids))))

    peer.answer(serve)


def silent(peer: Peer) -> None:
    """Say yes to everything, and then send nothing."""

    async def serve(stream: Stream) -> None:
        request = await read_request(stream)
        if isinstance(request, GetRequest):
            await asyncio.get_running_loop().create_future()
        await respond(stream, ChunkResponse(200, have=messages.encode_have([True] * len(request.cids))))  # type: ignore[union-attr]

    peer.answer(serve)


async def test_a_document_comes_out_as_it_went_in_and_stays_as_cache(world: World) -> None:
    holder, reader = await world.peer(), await world.peer()
    data = world.rng.randbytes(700_000)
    root = holder.put(data).root
    assert root.is_manifest()
    got, outcomes = await reader.fetch(root, [holder])
    assert got == data
    assert outcomes.sources["local"] == 0 and outcomes.sources["p2p"] > 10
    again, outcomes = await reader.fetch(root, [])
    assert again == data
    assert outcomes.sources["p2p"] == 0


async def test_round_trips_and_retrievals_are_measured(world: World) -> None:
    holder, reader = await world.peer(), await world.peer()
    await reader.fetch(holder.put(world.rng.randbytes(100_000)).root, [holder])
    peer = str(holder.swarm.peer_id)
    assert sum(reader.metrics.latency.read()[(peer, "chunk_request")][1:]) > 0
    assert sum(reader.metrics.retrieval.read()[("p2p",)][1:]) > 0


async def test_without_cache_nothing_is_kept(world: World) -> None:
    holder, reader = await world.peer(), await world.peer()
    data = world.rng.randbytes(100_000)
    got, _ = await reader.fetch(holder.put(data).root, [holder], cache=False)
    assert got == data
    assert reader.store.totals().chunks == 0


async def test_small_and_empty_documents_are_their_own_root(world: World) -> None:
    holder, reader = await world.peer(), await world.peer()
    for data in (b"", b"one line\n"):
        root = holder.put(data).root
        assert root == Cid.of(data)
        assert (await reader.fetch(root, [holder]))[0] == data


async def test_a_document_that_repeats_itself_is_fetched_once(world: World) -> None:
    holder, reader = await world.peer(), await world.peer()
    data = bytes(65536 * 40)
    got, outcomes = await reader.fetch(holder.put(data).root, [holder])
    assert got == data
    assert outcomes.sources["p2p"] <= 3


async def test_raw_gives_the_manifest_itself(world: World) -> None:
    holder, reader = await world.peer(), await world.peer()
    root = holder.put(world.rng.randbytes(300_000)).root
    got, _ = await reader.fetch(root, [holder], join=False)
    assert root.matches(got)


async def test_two_holders_share_the_work(world: World) -> None:
    first, second, reader = await world.peer(), await world.peer(), await world.peer()
    data = world.rng.randbytes(1_500_000)
    root = first.put(data).root
    second.put(data)
    got, _ = await reader.fetch(root, [first, second])
    assert got == data
    served = [peer.metrics.bytes_sent.read() for peer in (first, second)]
    assert all(sum(cell[0] for cell in cells.values()) > 100_000 for cells in served)


async def test_chunks_that_only_some_peers_hold_are_found_by_asking(world: World) -> None:
    whole, part, reader = await world.peer(), await world.peer(), await world.peer()
    data = world.rng.randbytes(600_000)
    root = whole.put(data).root
    part.put(data[:200_000])
    assert (await reader.fetch(root, [part, whole]))[0] == data


async def test_what_is_not_public_is_not_found_by_a_stranger_and_told_like_absence(world: World) -> None:
    holder, reader = await world.peer(), await world.peer()
    secret = holder.put(b"for the organisation only", "org").root
    with pytest.raises(NotFoundError) as denied:
        await reader.fetch(secret, [holder])
    with pytest.raises(NotFoundError) as absent:
        await reader.fetch(Cid.of(b"nobody has this"), [holder])
    assert str(holder.swarm.peer_id) in denied.value.why and denied.value.why == absent.value.why
    connection = await reader.connect(holder)
    assert await reader.exchange.have(connection, [secret, Cid.of(b"nobody has this")]) == (False, False)


async def test_a_refusal_asks_the_index_for_no_more_than_absence_does(world: World) -> None:
    holder, stranger = await world.peer(), await world.peer()
    private = holder.put(b"private", visibility="org").root
    connection = await stranger.connect(holder)
    asked: list[str] = []
    with holder.store.index.read() as db:  # the one idle reader, which the next reading takes
        db.set_trace_callback(asked.append)

    async def steps(cid: Cid) -> list[str]:
        asked.clear()
        with pytest.raises(NotFoundError):
            await stranger.exchange.fetch(connection, cid)
        return [re.sub(r"[xX]'\w+'|\b\d+(\.\d+)?", "?", sql) for sql in asked]  # but for the values

    assert await steps(private) == await steps(Cid.of(b"absent")) != []


async def test_a_trusted_peer_gets_everything(world: World) -> None:
    reader = await world.peer()
    holder = await world.peer(trusted=[str(reader.swarm.peer_id)])
    root = holder.put(b"for the organisation only", "private").root
    assert (await reader.fetch(root, [holder]))[0] == b"for the organisation only"


async def test_what_came_as_public_is_passed_on_and_what_came_by_trust_is_not(world: World) -> None:
    middle = await world.peer()
    holder = await world.peer(trusted=[str(middle.swarm.peer_id)])
    third = await world.peer()
    public, private = holder.put(b"for all", "public").root, holder.put(b"for friends", "org").root
    for root in (public, private):
        await middle.fetch(root, [holder])
    assert (await third.fetch(public, [middle]))[0] == b"for all"
    with pytest.raises(NotFoundError):
        await third.fetch(private, [middle])


async def test_wrong_bytes_reach_nobody_and_the_liar_is_dropped_and_remembered(world: World) -> None:
    liar, honest, reader = await world.peer(), await world.peer(), await world.peer()
    data = world.rng.randbytes(500_000)
    root = honest.put(data).root
    liar.put(data)
    lying(liar, lambda chunk: chunk[:-1] + bytes([chunk[-1] ^ 1]))
    assert (await reader.fetch(root, [liar, honest]))[0] == data
    assert reader.retrieval.is_distrusted(liar.swarm.peer_id)
    assert not reader.retrieval.is_distrusted(honest.swarm.peer_id)
    assert reader.swarm.connection(liar.swarm.peer_id) is None
    with pytest.raises(IntegrityError, match="is not to be had") as refused:
        await reader.fetch(liar.put(b"another").root, [liar])
    assert "wrong bytes" in refused.value.why


async def test_a_lone_liar_leaves_nothing_behind(world: World) -> None:
    liar, reader = await world.peer(), await world.peer()
    root = liar.put(b"truth").root
    lying(liar, lambda chunk: b"fables")
    with pytest.raises(IntegrityError):
        await reader.fetch(root, [liar])
    assert reader.store.totals().chunks == 0


async def test_a_zstd_bomb_is_refused_before_it_unpacks(world: World) -> None:
    import zstandard

    bomber, reader = await world.peer(), await world.peer()
    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    cid = Cid.of(b"innocent")

    async def serve(stream: Stream) -> None:
        await read_request(stream)
        await respond(stream, ChunkResponse(200, ChunkHeader(4 << 20, len(bomb), "zstd")), bomb)

    bomber.answer(serve)
    with pytest.raises(IntegrityError):
        await reader.fetch(cid, [bomber])
    assert reader.retrieval.is_distrusted(bomber.swarm.peer_id)


@pytest.mark.parametrize("size", [BLOCK_BYTES_MAX + 1, 1 << 50])
async def test_an_announcement_of_too_many_bytes_is_refused_unread(world: World, size: int) -> None:
    from rage_net.pb import rage_pb2 as pb

    boaster, reader = await world.peer(), await world.peer()

    async def serve(stream: Stream) -> None:
        await read_request(stream)
        head = pb.ChunkResponse(status=200, metadata=pb.ChunkMetadata(size=size, stored_size=size)).SerializeToString()
        await stream.write(varint.encode(len(head)) + head)
        await stream.close_write()

    boaster.answer(serve)
    with pytest.raises(UnavailableError) as error:
        await reader.fetch(Cid.of(b"x"), [boaster])
    assert "announces" in error.value.why


@pytest.mark.parametrize("garbage", [b"", b"\xff" * 5000, b"\x80\x80\x80\x80\x80\x80", b"\x03abc"])
async def test_garbage_for_an_answer_drops_the_peer(world: World, garbage: bytes) -> None:
    madman, honest, reader = await world.peer(), await world.peer(), await world.peer()
    data = world.rng.randbytes(50_000)
    root = honest.put(data).root

    async def serve(stream: Stream) -> None:
        await read_request(stream)
        await stream.write(garbage)
        await stream.close_write()

    madman.answer(serve)
    assert (await reader.fetch(root, [madman, honest]))[0] == data


async def test_more_or_fewer_bytes_than_announced_drop_the_peer(world: World) -> None:
    reader, honest = await world.peer(), await world.peer()
    data = b"some bytes"
    root = honest.put(data).root
    for body in (data + b"!", data[:-1]):
        peer = await world.peer()

        async def serve(stream: Stream, body: bytes = body) -> None:
            await read_request(stream)
            await respond(stream, ChunkResponse(200, ChunkHeader(len(data), len(data), "raw")), body)

        peer.answer(serve)
        with pytest.raises(UnavailableError):
            await reader.fetch(root, [peer], cache=False)


async def test_a_silent_holder_is_overtaken(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rage_net.chunk.schedule.HEDGE_FLOOR_S", 0.05)
    mute, honest, reader = await world.peer(), await world.peer(), await world.peer()
    data = world.rng.randbytes(300_000)
    root = honest.put(data).root
    mute.put(data)
    silent(mute)
    assert (await reader.fetch(root, [mute, honest]))[0] == data


async def test_a_lone_silent_holder_ends_in_unavailable_not_in_a_hang(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "STALL_S_MAX", 0.1)
    mute, reader = await world.peer(), await world.peer()
    root = mute.put(b"data").root
    silent(mute)
    with pytest.raises(UnavailableError) as error:
        await reader.fetch(root, [mute])
    assert "sent nothing" in error.value.why


async def test_a_holder_that_dies_midway_is_replaced(world: World) -> None:
    dying, honest, reader = await world.peer(), await world.peer(), await world.peer()
    data = world.rng.randbytes(900_000)
    root = honest.put(data).root
    dying.put(data)
    served = 0

    async def serve(stream: Stream) -> None:
        nonlocal served
        served += 1
        if served > 5:
            await dying.swarm.close()
        await dying.exchange.serve(stream)

    dying.answer(serve)
    assert (await reader.fetch(root, [dying, honest]))[0] == data


async def test_an_interrupted_download_goes_on_without_fetching_a_chunk_twice(world: World) -> None:
    holder, reader = await world.peer(), await world.peer()
    data = world.rng.randbytes(900_000)
    document = holder.put(data)
    asked: list[Cid] = []
    gate = 12

    async def serve(stream: Stream) -> None:
        if len(asked) >= gate:
            await stream.reset()
            return
        await holder.exchange.serve(stream)

    looked = holder.exchange._look

    def look(cid: Cid, *who: object) -> object:
        asked.append(cid)
        return looked(cid, *who)  # type: ignore[arg-type]

    holder.exchange._look = look  # type: ignore[method-assign, assignment]
    holder.answer(serve)
    with pytest.raises(UnavailableError):
        await reader.fetch(document.root, [holder])
    fetched_before = {stat.cid for stat in reader.store.list()}
    assert fetched_before, "the first try must have fetched something"
    asked.clear()
    gate = 10_000
    got, outcomes = await reader.fetch(document.root, [holder])
    assert got == data
    assert outcomes.sources["local"] > 0
    assert not fetched_before & set(asked), "a chunk was fetched twice"


async def test_rot_in_the_local_store_is_healed_from_a_peer(world: World) -> None:
    holder, reader = await world.peer(), await world.peer()
    data = world.rng.randbytes(200_000)
    root = holder.put(data).root
    reader.put(data)
    rotten = next(stat.cid for stat in reader.store.list() if not stat.cid.is_manifest() and stat.stored > 16384)
    body = reader.store.bodies._published  # type: ignore[attr-defined]
    body[rotten] = bytes([body[rotten][0] ^ 1]) + body[rotten][1:]
    got, outcomes = await reader.fetch(root, [holder])
    assert got == data
    assert outcomes.sources["p2p"] == 1


async def test_rot_without_a_peer_is_an_integrity_error(world: World) -> None:
    reader = await world.peer()
    root = reader.put(world.rng.randbytes(400_000)).root
    body = reader.store.bodies._published  # type: ignore[attr-defined]
    assert body
    for cid in body:
        body[cid] = bytes([body[cid][0] ^ 1]) + body[cid][1:]
    with pytest.raises(IntegrityError):
        await reader.fetch(root, [], elsewhere=False)


def manifest(*links: tuple[Cid, int], size: int | None = None, level: int = 1) -> bytes:
    made = Manifest(
        "cdc-1", sum(n for _, n in links) if size is None else size, level, tuple(Link(*li) for li in links)
    )
    return made.encode()


async def serve_block(world: World, *blocks: bytes) -> tuple[Peer, Cid]:
    """A holder whose store has these blocks, the last a manifest, as a public document."""
    holder = await world.peer()
    with holder.documents.lease() as lease:
        with holder.store.batch(lease=lease) as batch:
            for block in blocks[:-1]:
                batch.add(Cid.of(block), block)
            root = Cid.of(blocks[-1], DAG_CBOR)
            batch.add(root, blocks[-1])
            batch.commit()
        holder.documents.put(lease, root, size=1, chunks=1, visibility="public")
    return holder, root


def store_blocks(peer: Peer, blocks: list[bytes]) -> None:
    with peer.store.batch() as batch:
        for block in blocks:
            batch.add(Cid.of(block), block)
        batch.commit()


async def test_a_manifest_that_lies_about_sizes_is_an_integrity_error(world: World) -> None:
    one, two = b"a" * 100, b"b" * 100
    holder, root = await serve_block(world, one, two, manifest((Cid.of(one), 100), (Cid.of(two), 4_000_000)))
    reader = await world.peer()
    with pytest.raises(IntegrityError, match="manifest says"):
        await reader.fetch(root, [holder])


@pytest.mark.parametrize("is_here", [False, True])
async def test_a_manifest_that_belittles_its_chunks_cannot_make_the_window_hold_more(
    world: World, monkeypatch: pytest.MonkeyPatch, is_here: bool
) -> None:
    chunks = [bytes([number]) * 100_000 for number in range(8)]
    holder, root = await serve_block(world, *chunks, manifest(*((Cid.of(chunk), 1) for chunk in chunks)))
    reader = await world.peer()
    if is_here:
        store_blocks(reader, chunks)
    read = 0
    fetch = exchange.Exchange.fetch

    async def counted(
        self: exchange.Exchange, connection: Connection, cid: Cid, size_max: int, *, traffic: Traffic
    ) -> exchange.Received:
        nonlocal read
        received = await fetch(self, connection, cid, size_max, traffic=traffic)
        read += received.header.size
        return received

    monkeypatch.setattr(exchange.Exchange, "fetch", counted)
    with pytest.raises(IntegrityError) as error:
        await reader.fetch(root, [holder])
    assert error.value.id in ("integrity", "wrong-bytes")
    assert read < 10_000, "a chunk was read that is larger than the manifest says"
    assert not reader.retrieval.is_distrusted(holder.swarm.peer_id), "the holder did not write the manifest"


async def test_requests_that_wait_too_long_for_memory_are_told_to_come_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "WAITING_S_MAX", 0.05)
    room = exchange.Room()
    peers = [(await world.peer()).swarm.peer_id for _ in range(5)]
    for peer in peers[:4]:
        assert await room.take(peer, exchange.SERVED_BYTES_MAX // 4)
    assert not await room.take(peers[4], 1)
    await room.give_back(peers[0], exchange.SERVED_BYTES_MAX // 4)
    assert await room.take(peers[4], 1)


async def test_a_peer_that_waits_with_all_its_requests_leaves_places_for_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "WAITING_S_MAX", 0.2)
    room = exchange.Room()
    greedy, honest = [(await world.peer()).swarm.peer_id for _ in range(2)]
    crowd = [asyncio.create_task(room.take(greedy, 4 << 20)) for _ in range(2 * exchange.WAITING_MAX)]
    await asyncio.sleep(0)
    assert await room.take(honest, 4 << 20), "one peer kept another out"
    assert sum(await asyncio.gather(*crowd)) <= 2, "one peer had more than others could have"


async def test_room_is_given_peer_by_peer_in_turn(world: World) -> None:
    room = exchange.Room()
    busy, *others = [(await world.peer()).swarm.peer_id for _ in range(4)]
    for peer in others:
        assert await room.take(peer, 5 << 20)
    order: list[object] = []

    async def ask(peer: object) -> None:
        assert await room.take(peer, 5 << 20)  # type: ignore[arg-type]
        order.append(peer)

    asks = [asyncio.create_task(ask(peer)) for peer in (busy, busy, others[0])]
    await asyncio.sleep(0)
    for peer in others:
        await room.give_back(peer, 5 << 20)
        await asyncio.sleep(0.001)
    assert order[:2] == [busy, others[0]]
    for task in asks:
        task.cancel()


async def test_an_answer_that_nobody_takes_makes_way_when_others_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "SERVED_BYTES_MAX", 1 << 20)
    monkeypatch.setattr(exchange, "CROWDED_S", 0.05)
    holder, hog, honest = await world.peer(), await world.peer(), await world.peer()
    chunk = world.rng.randbytes(900_000)
    with holder.documents.lease() as lease:
        with holder.store.batch(lease=lease) as batch:
            batch.add(Cid.of(chunk), chunk)
            batch.commit()
        holder.documents.put(lease, Cid.of(chunk), size=len(chunk), chunks=1, visibility="public")
    connection = await hog.connect(holder)
    request = messages.encode_request(GetRequest(Cid.of(chunk)))
    silent_one = await connection.open_stream((messages.CHUNK_PROTOCOL,), initial=varint.encode(len(request)) + request)
    while silent_one.raw.unread < 200_000:  # it fills the window of a reader that never reads
        await asyncio.sleep(0.001)
    data, _ = await honest.fetch(Cid.of(chunk), [holder])
    assert data == chunk


async def test_questions_of_one_peer_are_answered_a_few_at_a_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, curious = await world.peer(), await world.peer()
    root = holder.put(b"here").root
    connection = await curious.connect(holder)
    at_once = most = 0
    blocking = holder.env.blocking

    async def counted(fn: Callable[..., object], *args: object) -> object:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            return await blocking(fn, *args)
        finally:
            at_once -= 1

    monkeypatch.setattr(holder.env, "blocking", counted)
    asks = (curious.exchange.have(connection, [root]) for _ in range(20))
    answers = await asyncio.gather(*asks, return_exceptions=True)
    assert most == 1, "questions took the threads that chunks are read with"
    assert answers.count((True,)) == exchange.HAVES_MAX
    assert sum(isinstance(answer, UnavailableError) for answer in answers) == 20 - exchange.HAVES_MAX
    assert await curious.exchange.have(connection, [root]) == (True,)


async def test_a_chunk_that_comes_in_crumbs_is_kept_in_few_buffers(world: World) -> None:
    holder, reader = await world.peer(), await world.peer()
    chunk = world.rng.randbytes(4000)

    async def crumble(stream: Stream) -> None:
        await read_request(stream)
        head = messages.encode_response(ChunkResponse(200, ChunkHeader(len(chunk), len(chunk), "raw")))
        await stream.write(varint.encode(len(head)) + head)
        for at in range(0, len(chunk), 2):
            await stream.write(chunk[at : at + 2])
            await asyncio.sleep(0)

    holder.answer(crumble)
    received = await reader.exchange.fetch(await reader.connect(holder), Cid.of(chunk))
    assert b"".join(received.buffers) == chunk
    assert len(received.buffers) < exchange.FRAGMENTS_MAX + 10


async def test_a_manifest_of_manifests_of_manifests_is_refused(world: World) -> None:
    chunk = b"c" * 10
    low = manifest((Cid.of(chunk), 10), (Cid.of(chunk), 10))
    middle = manifest((Cid.of(low, DAG_CBOR), 20), (Cid.of(low, DAG_CBOR), 20), level=2)
    top = manifest((Cid.of(middle, DAG_CBOR), 40), (Cid.of(middle, DAG_CBOR), 40), level=2)
    holder, _ = await serve_block(world, chunk, top)
    with holder.documents.lease() as lease:
        with holder.store.batch(lease=lease) as batch:
            for block in (low, middle):
                batch.add(Cid.of(block, DAG_CBOR), block)
            batch.commit()
        holder.documents.put(lease, Cid.of(middle, DAG_CBOR), size=1, chunks=1, visibility="public")
    reader = await world.peer()
    with pytest.raises(IntegrityError):
        await reader.fetch(Cid.of(top, DAG_CBOR), [holder])


async def test_bytes_that_are_no_manifest_are_refused_under_a_manifests_cid(world: World) -> None:
    holder, root = await serve_block(world, b"this is no manifest at all")
    reader = await world.peer()
    with pytest.raises(IntegrityError):
        await reader.fetch(root, [holder])


async def test_memory_in_flight_is_bounded_by_the_window(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "WINDOW_BYTES", 200_000)
    holder, reader = await world.peer(), await world.peer()
    data = world.rng.randbytes(3_000_000)
    root = holder.put(data).root
    most = 0

    class Watching(remote.Remote):
        def want(self, cid: Cid, size: int | None) -> asyncio.Future[bytes]:
            nonlocal most
            future = super().want(cid, size)
            most = max(most, sum(wanted.size for wanted in self._schedule._wanted.values()))
            return future

    monkeypatch.setattr(retrieval, "Remote", Watching)
    assert (await reader.fetch(root, [holder]))[0] == data
    assert 0 < most <= 200_000 + remote.SIZE_GUESSED


async def test_a_download_that_is_given_up_leaves_no_task_behind(world: World) -> None:
    mute, reader = await world.peer(), await world.peer()
    root = mute.put(b"data").root
    silent(mute)
    before = asyncio.all_tasks()
    task = asyncio.create_task(reader.fetch(root, [mute]))
    while not reader.swarm.connections() or not reader.swarm.connections()[0].streams:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    left = {task for task in asyncio.all_tasks() - before if "fetch" in repr(task) or "Remote" in repr(task)}
    assert not left
