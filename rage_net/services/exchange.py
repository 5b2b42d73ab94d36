"""The chunk exchange, `/rage/chunk/1.0.0`: one request a stream, from both ends.

As a holder: decode, authorize once, answer in the stored form, so nothing is compressed twice. As a client: ask, and
take the stored bytes with a deadline on every wait; whether they are the right bytes is for the store's gate to decide,
not here. A refusal is `not found`, the same as absence, but to whom its own organisation's documents are denied (D7).

Source: contracts/rage.proto; design D4, D7, D9, 4.3.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from rage_net import bandwidth, messages
from rage_net.acl import Action, Principal, Rules
from rage_net.chunk.shelf import Hidden, Seen
from rage_net.chunk.source import Received
from rage_net.chunk.store import ChunkStore
from rage_net.cid import BLOCK_BYTES_MAX, Cid
from rage_net.denials import Denials
from rage_net.env import Env
from rage_net.errors import (
    ConfigError,
    IntegrityError,
    NotFoundError,
    PeerProtocolError,
    RemoteProtocolError,
    UnavailableError,
    from_wire,
)
from rage_net.gate import AccessOf, Answer, Gate
from rage_net.libp2p import varint
from rage_net.libp2p.errors import Libp2pError, NegotiationError
from rage_net.messages import ChunkHeader, ChunkResponse, DocumentName, GetRequest, HaveRequest, Traffic
from rage_net.pacing import Pacing, Taken

if TYPE_CHECKING:
    from rage_net.libp2p.peer_id import PeerId
    from rage_net.libp2p.swarm import Connection, Stream
    from rage_net.metrics import Metrics

REQUEST_S_MAX = 10.0
"""A stranger who opened a stream has this long to say what it wants."""
STALL_S_MAX = 10.0
"""No byte for so long, and the source counts as dead."""
CHUNK_S_MAX = 120.0
"""One chunk, whatever happens: 4 MiB at 35 KB/s. Slower peers are outrun by others long before."""
FRAGMENTS_MAX = 256
"""Buffers of an answer that are joined into one: a chunk comes in some 70, unless its sender wants to waste memory."""
HAVE_S_MAX = 5.0
HAVES_MAX = 4
"""`have` requests of one peer under way or waiting; more are told to come back. One takes 30 ms of a thread, and they
are answered one at a time, so that a flood of them leaves the other threads to chunks."""
SERVED_BYTES_MAX = 16 << 20
"""Stored bytes in memory for all answers under way: beyond it, requests wait."""
PEER_BYTES_MAX = 8 << 20
"""The share of one peer, as much as it asks for at a time: a peer that does not read cannot starve the others."""
LOOK_S_MAX = 0.001
"""A look at the index takes 25 us while its pages are in memory; the way to a thread and back takes 70 in a busy node,
and 300 in an idle one, where four sleepers must be woken. So the event loop looks itself, until looks take longer."""
LOOKS_A_TURN = 4
"""So many looks, then the event loop goes round: a packet full of requests keeps nobody waiting for long."""
SLOW_S = 1.0
"""For so long from then on threads look: the disk is asked, and the event loop must not wait for it."""
WAITING_MAX = 512
"""Requests that wait for memory; more are told to come back."""
CROWDED_S = 1.0
CROWDED_BYTES = 64 << 10
"""An answer that sheds fewer bytes in CROWDED_S is given up while others wait: its peer does not read."""
WAITING_S_MAX = 5.0
"""And those that waited so long, before their askers take us for dead."""
READERS_S = 2.0
"""After the last bytes for people, so long they are taken to read on."""
UNKNOWN_BYTES = 64 << 10
"""What a chunk of unknown size takes of the lane before it is asked for; the rest once its size has been told."""

_LANES: dict[Traffic, bandwidth.Traffic] = {
    "user": "user_queries",
    "replication": "replication",
    "background": "background_sync",
}


@dataclass(frozen=True, slots=True)
class PeerSource:
    """A connected peer as a source of chunks."""

    exchange: Exchange
    connection: Connection
    kind: Literal["p2p"] = "p2p"

    @property
    def key(self) -> PeerId:
        """Who it is."""
        return self.connection.peer_id

    @property
    def name(self) -> str:
        """For people."""
        return str(self.connection.peer_id)

    async def have(self, cids: Sequence[Cid], traffic: Traffic = "user") -> Sequence[bool]:
        """See `Exchange.have`."""
        return await self.exchange.have(self.connection, cids, traffic=traffic)

    async def fetch(self, cid: Cid, size_max: int, traffic: Traffic = "user") -> Received:
        """See `Exchange.fetch`."""
        return await self.exchange.fetch(self.connection, cid, size_max, traffic=traffic)

    async def drop(self, reason: str) -> None:
        """Close the connection."""
        await self.connection.close(reason)


class Room:
    """Memory for answers under way: SERVED_BYTES_MAX in all, PEER_BYTES_MAX for one peer.

    A peer that has some never gets more than what is then left for others, and waits with no more requests than there
    are places left; who waits is served peer by peer in turn. While somebody waits, an answer that its peer does not
    take is given up.
    """

    def __init__(self) -> None:
        self._free = SERVED_BYTES_MAX
        self._by_peer: dict[PeerId, int] = {}
        self._waiting: dict[PeerId, deque[tuple[int, asyncio.Future[None]]]] = {}  # whose turn is next comes first
        self._places = WAITING_MAX
        self._sending: dict[asyncio.Timeout, tuple[Stream, float, int | None]] = {}  # looked at when, bytes queued then

    async def take(self, peer: PeerId, size: int) -> bool:
        """Wait for room; False at once when too many wait already, and after WAITING_S_MAX."""
        if len(self._waiting.get(peer, ())) >= self._places:
            return False
        loop = asyncio.get_running_loop()
        waiter = size, loop.create_future()
        self._waiting.setdefault(peer, deque()).append(waiter)
        self._places -= 1
        self._grant()
        try:
            async with asyncio.timeout(WAITING_S_MAX):
                while not waiter[1].done():
                    self._give_up_stalled(loop.time())
                    await asyncio.wait([waiter[1]], timeout=CROWDED_S)
        except TimeoutError:
            pass
        except BaseException:
            if waiter[1].done():
                await self.give_back(peer, size)
            raise
        finally:
            if not waiter[1].done():
                self._leave(peer, waiter)
        return waiter[1].done()

    async def give_back(self, peer: PeerId, size: int) -> None:
        """The answer is gone, or never will be."""
        self._free += size
        self._by_peer[peer] -= size
        if not self._by_peer[peer]:
            del self._by_peer[peer]
        self._grant()

    @asynccontextmanager
    async def sending(self, stream: Stream) -> AsyncIterator[None]:
        """The time an answer may take. Raises TimeoutError when it is over."""
        async with asyncio.timeout(CHUNK_S_MAX) as deadline:
            self._sending[deadline] = stream, 0.0, None
            try:
                yield
            finally:
                self._sending.pop(deadline, None)

    @contextmanager
    def held_up(self, stream: Stream) -> Iterator[None]:
        """The time in which we keep an answer back ourselves: it says nothing of whether its peer reads."""
        mine = [deadline for deadline, (each, _, _) in self._sending.items() if each is stream]
        for deadline in mine:
            del self._sending[deadline]
        yield
        for deadline in mine:
            self._sending[deadline] = stream, 0.0, None

    def _grant(self) -> None:
        """Give room to those who wait, in turn; the first for whom there is too little makes the others wait too."""
        at_their_share = 0
        while at_their_share < len(self._waiting):
            peer, queue = next(iter(self._waiting.items()))
            if queue and queue[0][0] > self._free:
                return
            del self._waiting[peer]
            if not queue:
                continue
            self._waiting[peer] = queue
            size, future = queue[0]
            if not self._is_within_share(peer, size):
                at_their_share += 1
                continue
            at_their_share = 0
            self._leave(peer, queue[0])
            self._free -= size
            self._by_peer[peer] = self._by_peer.get(peer, 0) + size
            future.set_result(None)

    def _leave(self, peer: PeerId, waiter: tuple[int, asyncio.Future[None]]) -> None:
        self._places += 1
        queue = self._waiting[peer]
        queue.remove(waiter)
        if not queue:
            del self._waiting[peer]

    def _is_within_share(self, peer: PeerId, size: int) -> bool:
        mine = self._by_peer.get(peer, 0)
        return not mine or mine + size <= min(PEER_BYTES_MAX, self._free - size)

    def _give_up_stalled(self, now: float) -> None:
        for deadline, (stream, looked_at, before) in self._sending.items():
            if now - looked_at >= CROWDED_S:
                queued = stream.raw.queued
                if before is not None and before - queued < CROWDED_BYTES and not deadline.expired():
                    deadline.reschedule(now)
                self._sending[deadline] = stream, now, queued


def stranger(peer_id: PeerId) -> Principal:
    """A peer of whom its id alone is known."""
    return Principal("peer", str(peer_id))


class Exchange:
    """Both ends of the chunk protocol.

    Args: principal_of: who a connected peer is, by its certificate. access_of: see `Gate`. denials: where they are
    noted; without one they are counted alone. pacing: the lanes of this node; without it nothing is limited.
    """

    def __init__(
        self,
        store: ChunkStore,
        env: Env,
        rules: Rules,
        metrics: Metrics,
        *,
        principal_of: Callable[[PeerId], Principal] = stranger,
        access_of: AccessOf = lambda organization, doc_id: None,
        denials: Denials | None = None,
        pacing: Pacing | None = None,
    ) -> None:
        self.gate = Gate(store, env, rules, access_of)
        self._store = store
        self._env = env
        self._metrics = metrics
        self._principal_of = principal_of
        self._denials = denials or Denials(None, env, metrics)
        pacing = pacing or Pacing(env.monotonic, metrics)
        self._upload, self._download = pacing.upload, pacing.download
        self._room = Room()
        self._haves: Counter[PeerId] = Counter()
        self._having = asyncio.Lock()
        self._looks = 0  # in this turn of the loop
        self._look_s = 0.0  # of late, on average
        self._slow_until = 0.0

    def has_readers(self) -> bool:
        """Whether chunks for people came or went of late: what nobody waits for gives way."""
        return any(lanes.was_used("user_queries", READERS_S) for lanes in (self._upload, self._download))

    # --- the holder ---

    async def serve(self, stream: Stream) -> None:
        """Answer one request: the handler of CHUNK_PROTOCOL."""
        async with asyncio.timeout(REQUEST_S_MAX):
            data = await stream.read_message(messages.REQUEST_BYTES_MAX)
        peer = stream.remote_peer
        self._metrics.bytes_received.add(len(data), str(peer), "chunk_request")
        try:
            request = messages.decode_request(data)
        except RemoteProtocolError as error:
            await self._answer(stream, ChunkResponse(messages.BAD_REQUEST, message=str(error)))
            raise
        principal = self._principal_of(peer)
        action: Action = "replicate" if request.traffic == "replication" else "read"
        if isinstance(request, HaveRequest):
            await self._serve_have(stream, request, principal, action)
            return
        answer = await self._look_soon(request.cid, principal, action)
        seen = answer.found
        if not isinstance(seen, Seen):
            await self._answer(stream, _DENIED if answer.is_told else _ABSENT)
        elif self._upload.is_limited:
            await self._serve_limited(stream, _header(seen, answer), request, seen.small)
        else:
            await self._serve_chunk(stream, _header(seen, answer), request, seen.small)
        if isinstance(seen, Hidden) or (
            seen and answer.decision.would_deny
        ):  # after the answer: its time tells nothing
            self._note(principal, request.cid, answer)

    async def _serve_have(self, stream: Stream, request: HaveRequest, principal: Principal, action: Action) -> None:
        peer = stream.remote_peer
        if self._haves[peer] >= HAVES_MAX:
            self._metrics.shed.add(1, "chunk_have")
            await self._answer(stream, ChunkResponse(messages.BUSY))
            return
        self._haves[peer] += 1
        try:
            async with self._having:
                answers = await self._env.blocking(self._look_at_all, request.cids, principal, action)
        finally:
            self._haves[peer] -= 1
            if not self._haves[peer]:
                del self._haves[peer]
        here = [
            isinstance(seen := answer.found, Seen) and not (request.durable and seen.stat.cached) for answer in answers
        ]
        await self._answer(stream, ChunkResponse(messages.OK, have=messages.encode_have(here)))
        denied = [
            (cid, answer)
            for cid, answer in zip(request.cids, answers, strict=True)
            if isinstance(answer.found, Hidden) or (answer.found and answer.decision.would_deny)
        ]
        if denied:
            self._note(principal, *denied[0], count=len(denied))

    async def _serve_limited(
        self, stream: Stream, header: ChunkHeader, request: GetRequest, small: bytes | None
    ) -> None:
        """Bytes that must wait for their lane are promised only where not too many wait there already."""
        with self._upload.queue(_LANES[request.traffic], header.stored_size) as has_place:
            if has_place:
                await self._serve_chunk(stream, header, request, small)
                return
        self._metrics.shed.add(1, "chunk_lane")
        await self._answer(stream, ChunkResponse(messages.BUSY))

    async def _serve_chunk(self, stream: Stream, header: ChunkHeader, request: GetRequest, small: bytes | None) -> None:
        lane = _LANES[request.traffic]
        if small is not None:
            await self._answer(stream, ChunkResponse(messages.OK, header), small, lane)
            return
        peer, size = stream.remote_peer, header.stored_size
        if not await self._room.take(peer, size):
            self._metrics.shed.add(1, "chunk_serve")
            await self._answer(stream, ChunkResponse(messages.BUSY))
            return
        try:
            try:
                _, stored = await self._env.blocking(self._store.get_stored, request.cid)
            except (NotFoundError, IntegrityError):  # evicted, or found rotten, since we looked
                await self._answer(stream, ChunkResponse(messages.NOT_FOUND))
                return
            except (UnavailableError, ConfigError):  # an object store is out of reach: later, or from somebody else
                await self._answer(stream, ChunkResponse(messages.BUSY))
                return
            async with self._room.sending(stream):
                await self._answer(stream, ChunkResponse(messages.OK, header), stored, lane)
        finally:
            await self._room.give_back(peer, size)

    async def _answer(
        self,
        stream: Stream,
        response: ChunkResponse,
        stored: bytes = b"",
        lane: bandwidth.Traffic = "user_queries",
    ) -> None:
        head = messages.encode_response(response)
        start = varint.encode(len(head)) + head
        if not stored:
            await stream.write(start)
        elif not self._upload.is_limited:
            await stream.write(start, stored)
            self._upload.count(lane, len(stored))
        else:
            rest, piece = memoryview(stored), self._upload.piece
            for at in range(0, len(stored), piece):
                with self._room.held_up(stream):
                    await self._upload.take(lane, len(rest[at : at + piece]))
                await stream.write(start, rest[at : at + piece])
                start = b""
                self._upload.count(lane, len(rest[at : at + piece]))
        await stream.close_write()
        self._metrics.bytes_sent.add(len(head) + len(stored), str(stream.remote_peer), "chunk_response")

    def _note(self, principal: Principal, cid: Cid, answer: Answer, *, count: int = 1) -> None:
        decision = answer.decision
        why = decision.would_deny or decision.reason
        self._denials.note("chunk", str(principal), f"chunk:{cid}", why, count=count, allowed=decision.allowed)

    async def _look_soon(self, cid: Cid, principal: Principal, action: Action) -> Answer:
        """As `_look`; on the event loop as long as the index lies in memory."""
        while self._looks >= LOOKS_A_TURN:  # noqa: ASYNC110  a turn is not worth an event
            await asyncio.sleep(0)  # what was answered leaves first, and its asker works on it meanwhile
        if not self._looks:
            asyncio.get_running_loop().call_soon(self._begin_turn)
        self._looks += 1
        now = self._env.monotonic
        started = now()
        if started < self._slow_until:
            return await self._env.blocking(self._look, cid, principal, action)
        answer = self._look(cid, principal, action)
        self._look_s += (now() - started - self._look_s) / 8  # one that another process held up is no sign yet
        if self._look_s > LOOK_S_MAX:
            self._look_s, self._slow_until = 0.0, now() + SLOW_S
        return answer

    def _begin_turn(self) -> None:
        self._looks = 0

    def _look(self, cid: Cid, principal: Principal, action: Action) -> Answer:
        """The chunk, if it is here and `principal` may do that with it, with its documents for holders of certificates.

        Documents are told to whom the same action is open: who replicates needs to know what for.
        """
        is_certified = bool(principal.organization) and not self.gate.rules.is_open
        return self.gate.look(cid, principal, action, tell=messages.DOCUMENTS_MAX if is_certified else 0)

    def _look_at_all(self, cids: Iterable[Cid], principal: Principal, action: Action) -> list[Answer]:
        return [self.gate.look(cid, principal, action) for cid in cids]

    # --- the client ---

    async def fetch(
        self, connection: Connection, cid: Cid, size_max: int = BLOCK_BYTES_MAX, *, traffic: Traffic = "user"
    ) -> Received:
        """One chunk from a peer, in the stored form, not verified.

        Args: traffic: why; with `replication` it is given by the right to replicate it, not to read it.
        Raises: NotFoundError (it lacks the chunk or will not say), AccessDeniedError, UnavailableError (busy, gone, or
        no byte for STALL_S_MAX), PeerProtocolError; IntegrityError `size-differs` when it announces more plain bytes
        than `size_max`, before they are read.
        """
        lane, download = _LANES[traffic], self._download
        if not download.is_limited:
            received = await self._fetch(connection, GetRequest(cid, traffic), size_max, None)
        else:
            paid = Taken(download, lane)
            try:
                await paid.take(size_max if size_max < BLOCK_BYTES_MAX else UNKNOWN_BYTES)
                received = await self._fetch(connection, GetRequest(cid, traffic), size_max, paid)
            finally:
                paid.settle()
        download.count(lane, received.header.stored_size)
        self._metrics.bytes_received.add(received.header.stored_size, str(connection.peer_id), "chunk_response")
        if self.gate.rules.is_open and received.header.documents:  # an open node takes no claim of an organisation (D7)
            return Received(replace(received.header, documents=()), received.buffers)
        return received

    async def _fetch(self, connection: Connection, request: GetRequest, size_max: int, paid: Taken | None) -> Received:
        loop = asyncio.get_running_loop()
        ends = loop.time() + CHUNK_S_MAX
        async with self._ask(connection, request, STALL_S_MAX) as (stream, deadline):
            response = await self._response(stream, "chunk_request")
            if response.header is None:
                raise RemoteProtocolError("a chunk without its metadata")
            if response.header.size > size_max:
                raise IntegrityError(
                    f"it has {response.header.size} bytes where {size_max} are wanted", id="size-differs"
                )
            left = response.header.stored_size
            if paid is not None and left > paid.taken:
                deadline.reschedule(ends)  # while we do not read, the peer is not to blame
                await paid.take(left - paid.taken)
                deadline.reschedule(min(loop.time() + STALL_S_MAX, ends))
            buffers: list[bytes | memoryview] = []
            joined = 0
            while left:
                arrived = await stream.read()
                if not arrived:
                    raise RemoteProtocolError(f"the stream ended {left} bytes early")
                size = sum(map(len, arrived))
                left -= size
                if paid is not None:
                    paid.used += size
                if left < 0:
                    raise RemoteProtocolError("more bytes than announced")
                buffers += arrived
                if len(buffers) - joined >= FRAGMENTS_MAX:  # else a peer that sends two bytes a frame costs 40 for each
                    buffers[joined:] = [b"".join(buffers[joined:])]
                    joined += 1
                deadline.reschedule(min(loop.time() + STALL_S_MAX, ends))
        return Received(response.header, buffers)

    async def have(
        self, connection: Connection, cids: Sequence[Cid], *, traffic: Traffic = "user", durable: bool = False
    ) -> tuple[bool, ...]:
        """Which of `cids` (at most HAVE_MAX) the peer holds and lets us read; with `replication`, lets us replicate.

        With `durable` its cache does not count. Raises as `fetch` does.
        """
        async with self._ask(connection, HaveRequest(tuple(cids), traffic, durable), HAVE_S_MAX) as (stream, _):
            response = await self._response(stream, "have_request")
            return messages.decode_have(response.have, len(cids))

    async def _response(self, stream: Stream, message_type: str) -> ChunkResponse:
        """The peer's answer when it is yes; raises what else it stands for. Notes the round trip."""
        started = self._env.monotonic()
        response = messages.decode_response(await stream.read_message(messages.RESPONSE_BYTES_MAX))
        self._metrics.latency.observe(self._env.monotonic() - started, str(stream.remote_peer), message_type)
        if response.status != messages.OK:
            raise from_wire(response.status, response.message or f"the peer answered {response.status}")
        return response

    @asynccontextmanager
    async def _ask(
        self, connection: Connection, request: GetRequest | HaveRequest, within_s: float
    ) -> AsyncIterator[tuple[Stream, asyncio.Timeout]]:
        """A stream on which `request` is sent, and its deadline; what goes wrong with the peer becomes a RageError."""
        data = messages.encode_request(request)
        self._metrics.bytes_sent.add(len(data), str(connection.peer_id), "chunk_request")
        try:
            async with asyncio.timeout(within_s) as deadline:
                stream = await connection.open_stream(
                    (messages.CHUNK_PROTOCOL,),
                    timeout_s=within_s,
                    initial=varint.encode(len(data)) + data,
                )
                try:
                    await stream.close_write()  # leaves in the same frame
                    yield stream, deadline
                except BaseException:
                    await stream.reset()  # a loser of a hedge must not go on sending
                    raise
                await stream.close()
        except TimeoutError:
            raise UnavailableError(f"{connection.peer_id} sent nothing for {within_s:.0f} s", id="stalled") from None
        except NegotiationError as error:
            raise NotFoundError(f"{connection.peer_id} does not exchange chunks: {error}") from error
        except RemoteProtocolError as error:
            raise PeerProtocolError(f"{connection.peer_id}: {error}") from error
        except Libp2pError as error:
            words = "it hung up; it may not trust this node" if self.gate.rules.is_open else str(error)
            raise UnavailableError(f"{connection.peer_id}: {words}", id="peer-gone") from error


_ABSENT = ChunkResponse(messages.NOT_FOUND)
_DENIED = ChunkResponse(messages.DENIED)


def _header(seen: Seen, answer: Answer) -> ChunkHeader:
    documents = tuple(DocumentName(organization, doc_id) for organization, doc_id in answer.documents)
    return ChunkHeader(seen.stat.size, seen.stat.stored, seen.stat.encoding, answer.is_public, documents)
