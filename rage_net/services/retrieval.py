"""Retrieval: a root's bytes, in order, from the local store first, then from every peer that has them, in parallel.

The flow only: which chunk is asked of whom is decided by `chunk.schedule`, what a peer says by `exchange`, and whether
bytes are right by the store's gate. At most WINDOW_BYTES are on their way or wait for the reader. What was fetched is
kept as cache, so that a download that was interrupted goes on where it stopped.

Source: seed, "Retrieval Flow"; design D3, D4, 5.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from rage_net.chunk.manifest import Walk
from rage_net.chunk.schedule import Ask, Outcome, Schedule
from rage_net.chunk.shelf import vouch
from rage_net.chunk.store import Admitted, ChunkStore, admit
from rage_net.cid import BLOCK_BYTES_MAX, Cid
from rage_net.env import Env
from rage_net.errors import (
    IntegrityError,
    NotFoundError,
    PeerProtocolError,
    RageError,
    StorageFullError,
    UnavailableError,
)
from rage_net.verbs import Sink

if TYPE_CHECKING:
    from rage_net.libp2p.peer_id import PeerId
    from rage_net.libp2p.swarm import Connection
    from rage_net.metrics import Metrics
    from rage_net.services.exchange import Exchange, Received

WINDOW_BYTES = 16 << 20
"""Plain bytes on their way or waiting for the reader: what keeps two sources busy, in flat memory."""
WINDOW_CHUNKS = 512
"""Chunks in the window, however small a manifest says they are."""
KEEP_BYTES = 4 << 20
"""Stored bytes that are kept as cache in one commit."""
SURVEY_CHUNKS = 256
"""Chunks asked about in one `have`; 10 KiB on the wire."""
SIZE_GUESSED = 1 << 20
"""What a block of unknown size is taken for until it has come: the size most chunks have."""
DISTRUST_S = 3600.0
"""A peer that sent wrong bytes is not asked again for so long."""
DISTRUSTED_MAX = 4096
SAID_MAX = 8
"""Sources named in an error."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to a source: its name for people, and how to get a connection. `reach` raises RageError when it cannot."""

    name: str
    reach: Callable[[], Awaitable[Connection]]


@dataclass(frozen=True, slots=True)
class Network:
    """What a download needs once something is missing here: the exchange, and ways to sources."""

    exchange: Exchange
    ways: Sequence[Way]


@dataclass(frozen=True, slots=True)
class Want:
    """What to fetch and how. `join` follows a manifest; without it the block itself is delivered."""

    root: Cid
    join: bool = True
    local: bool = True
    peers: bool = True
    cache: bool = True


@dataclass(slots=True)
class Outcomes:
    """What became of a download: chunks by source, and what each way said when it had nothing."""

    size: int = 0
    sources: dict[str, int] = field(default_factory=lambda: {"local": 0, "cdn": 0, "p2p": 0})
    said: dict[str, RageError] = field(default_factory=dict)


class Retrieval:
    """Fetches roots; remembers peers that sent wrong bytes."""

    def __init__(self, store: ChunkStore, env: Env, metrics: Metrics) -> None:
        self.store = store
        self.env = env
        self.metrics = metrics
        self._distrusted: dict[PeerId, float] = {}

    async def fetch(self, want: Want, network: Callable[[], Awaitable[Network]], sink: Sink) -> Outcomes:
        """Deliver the bytes of a root, in order.

        `network` is called once something is missing here: a download that is all local starts none.
        Raises: NotFoundError, or UnavailableError when nobody could be asked, naming each way that was tried and what
        it said; IntegrityError when a manifest lies, or nobody has bytes that match.
        """
        outcomes = Outcomes()
        try:
            async with asyncio.TaskGroup() as tasks:
                remote = _Remote(self, want, network, outcomes, tasks)
                try:
                    await _Download(self, want, outcomes, remote, tasks).run(sink)
                finally:
                    remote.stop()
                    await remote.finish()
        except BaseExceptionGroup as group:
            raise _first(group) from None
        return outcomes

    def distrust(self, peer: PeerId) -> None:
        """Ask this peer for nothing until DISTRUST_S have passed."""
        while len(self._distrusted) >= DISTRUSTED_MAX:
            self._distrusted.pop(next(iter(self._distrusted)))
        self._distrusted[peer] = self.env.monotonic() + DISTRUST_S

    def is_distrusted(self, peer: PeerId) -> bool:
        """Whether the peer sent wrong bytes lately."""
        return self._distrusted.get(peer, 0.0) > self.env.monotonic()


class _Download:
    """The document in order: local chunks are read, missing ones wanted, and both delivered through one window."""

    def __init__(
        self, service: Retrieval, want: Want, outcomes: Outcomes, remote: _Remote, tasks: asyncio.TaskGroup
    ) -> None:
        self._service = service
        self._want = want
        self._outcomes = outcomes
        self._remote = remote
        self._tasks = tasks

    async def run(self, sink: Sink) -> None:
        block = await self._block(self._want.root)
        if not (self._want.join and self._want.root.is_manifest()):
            await self._begin(sink, len(block))
            await self._service.env.waiting(sink.write, block)
            return
        walk = Walk(self._want.root)
        window: deque[tuple[Cid, int, asyncio.Future[bytes]]] = deque()
        held = 0
        while walk.wanted is not None:
            manifest = block if walk.root is None else await self._block(walk.wanted)
            pieces = await self._service.env.blocking(walk.receive, manifest)  # 65,536 links take 100 ms
            if not self._outcomes.size and walk.root is not None:
                await self._begin(sink, walk.root.size)
            for at in range(0, len(pieces), SURVEY_CHUNKS):
                batch = pieces[at : at + SURVEY_CHUNKS]
                for piece, is_here in zip(batch, await self._here([piece.cid for piece in batch]), strict=True):
                    while window and (held + piece.size > WINDOW_BYTES or len(window) >= WINDOW_CHUNKS):
                        held -= await self._deliver(*window.popleft(), sink)
                    window.append((piece.cid, piece.size, self._start(piece.cid, piece.size, is_here)))
                    held += piece.size
        while window:
            held -= await self._deliver(*window.popleft(), sink)

    async def _begin(self, sink: Sink, size: int) -> None:
        self._outcomes.size = size
        await self._service.env.waiting(sink.begin, size)

    async def _here(self, cids: Sequence[Cid]) -> list[bool]:
        """Which chunks are here; peers are asked about the others before they are wanted."""
        store = self._service.store
        if self._want.local:
            here = await self._service.env.blocking(lambda: [store.has(cid) for cid in cids])
        else:
            here = [False] * len(cids)
        self._remote.survey([cid for cid, is_here in zip(cids, here, strict=True) if not is_here])
        return here

    async def _block(self, cid: Cid) -> bytes:
        (is_here,) = await self._here([cid])
        return await self._start(cid, None, is_here)

    def _start(self, cid: Cid, size: int | None, is_here: bool) -> asyncio.Future[bytes]:
        return self._tasks.create_task(self._read(cid, size)) if is_here else self._remote.want(cid, size)

    async def _read(self, cid: Cid, size: int | None) -> bytes:
        started = self._service.env.monotonic()
        try:
            data = await self._service.env.blocking(self._service.store.get, cid)
        except (IntegrityError, NotFoundError):  # rotten, or gone since we looked: a peer may have it
            if not self._want.peers:
                raise
            return await self._remote.want(cid, size)
        _check_size(cid, size, data)
        self._outcomes.sources["local"] += 1
        self._service.metrics.retrieval.observe(self._service.env.monotonic() - started, "local")
        return data

    async def _deliver(self, cid: Cid, size: int, future: asyncio.Future[bytes], sink: Sink) -> int:
        data = await future
        _check_size(cid, size, data)
        await self._service.env.waiting(sink.write, data)
        return size


class _Remote:
    """Chunks from peers: finds sources, asks what they hold, carries out what the schedule decides."""

    def __init__(
        self,
        service: Retrieval,
        want: Want,
        network: Callable[[], Awaitable[Network]],
        outcomes: Outcomes,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._service = service
        self._want = want
        self._network = network
        self._outcomes = outcomes
        self._tasks = tasks
        self._cache = want.cache
        self._schedule = Schedule()
        self._wanted: dict[Cid, asyncio.Future[bytes]] = {}
        self._sizes_max: dict[Cid, int] = {}  # of those wanted whose size a manifest says
        self._surveyed: list[Cid] = []
        self._connections: dict[PeerId, Connection] = {}
        self._asks: dict[Ask, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._fresh: list[tuple[Admitted, bool]] = []
        """What has come and is not kept yet, and whether the peer called it public."""
        self._fresh_bytes = 0
        self._keeping = asyncio.Lock()
        self._is_searching = False
        self._has_begun = False
        self._wake = asyncio.Event()

    def want(self, cid: Cid, size: int | None) -> asyncio.Future[bytes]:
        """The plain bytes of a chunk, verified; the same future for a chunk that is wanted already.

        More bytes than `size` are not accepted from anybody, so that the window holds what it counts.
        """
        future = self._wanted.get(cid)
        if future is None:
            future = self._wanted[cid] = asyncio.get_running_loop().create_future()
            if size is not None:
                self._sizes_max[cid] = size
            self._schedule.want(cid, SIZE_GUESSED if size is None else size)
            self._begin()
            self._wake.set()
        return future

    def survey(self, cids: list[Cid]) -> None:
        """These will be wanted soon: ask every source which of them it has."""
        self._surveyed = cids
        for connection in self._connections.values() if len(self._connections) > 1 else ():
            self._spawn(self._ask_what_it_has(connection))

    def stop(self) -> None:
        """Nothing more is wanted."""
        for task in (*self._asks.values(), *self._background):
            task.cancel()

    def _begin(self) -> None:
        if not self._has_begun:
            self._has_begun = self._is_searching = True
            self._spawn(self._drive())
            self._spawn(self._search())

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._tasks.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # --- finding sources ---

    async def _search(self) -> None:
        if self._want.peers:
            network = await self._network()
            self._exchange = network.exchange
            await asyncio.gather(*(self._reach(way, alone=len(network.ways) == 1) for way in network.ways))
            if not network.ways:
                self._outcomes.said["peers"] = NotFoundError("none is connected or configured")
        self._is_searching = False
        self._wake.set()

    async def _reach(self, way: Way, *, alone: bool) -> None:
        try:
            connection = await way.reach()
        except RageError as error:
            self._outcomes.said[way.name] = error
            return
        peer = connection.peer_id
        if peer in self._connections:
            return
        if self._service.is_distrusted(peer):
            self._outcomes.said[way.name] = IntegrityError("sent wrong bytes lately; not asked")
            return
        self._connections[peer] = connection
        if not alone:  # with one source there is nothing to choose: it may as well be asked for the chunk at once
            await self._ask_what_it_has(connection)
        self._schedule.add_source(peer)
        self._wake.set()

    async def _ask_what_it_has(self, connection: Connection) -> None:
        peer, cids = connection.peer_id, self._surveyed
        if not cids:
            return
        try:
            answers = await self._exchange.have(connection, cids)
        except RageError as error:
            self._schedule.add_source(peer)
            self._outcomes.said[str(peer)] = error
            if _outcome_of(error) in ("dead", "slow"):
                self._schedule.drop(peer, error.message)
        else:
            self._schedule.add_source(peer)
            self._schedule.learn(peer, dict(zip(cids, answers, strict=True)))
            if not any(answers):
                self._outcomes.said[str(peer)] = NotFoundError("not found")
        self._wake.set()

    # --- asking ---

    async def _drive(self) -> None:
        clock = self._service.env.monotonic
        while True:
            self._wake.clear()
            is_disk_behind = self._fresh_bytes > 2 * KEEP_BYTES
            for ask in () if is_disk_behind else self._schedule.assign(clock()):
                task = self._tasks.create_task(self._carry_out(ask))
                self._asks[ask] = task
                task.add_done_callback(partial(self._forget, ask))
            if not self._is_searching:
                for cid in self._schedule.hopeless():
                    self._give_up(cid)
            wait_until = self._schedule.next_timeout(clock())
            try:
                async with asyncio.timeout(None if wait_until is None else max(0.001, wait_until - clock())):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _forget(self, ask: Ask, task: asyncio.Task[None]) -> None:
        if self._asks.get(ask) is task:
            del self._asks[ask]

    async def _carry_out(self, ask: Ask) -> None:
        peer: PeerId = ask.source  # type: ignore[assignment]
        started = self._service.env.monotonic()
        try:
            size_max = self._sizes_max.get(ask.cid, BLOCK_BYTES_MAX)
            received = await self._exchange.fetch(self._connections[peer], ask.cid, size_max)
            item, data = await self._service.env.blocking(_admit, ask.cid, received)
        except RageError as error:
            await self._note_failure(ask, error)
        else:
            now = self._service.env.monotonic()
            for other in self._schedule.arrived(ask, now):
                if (task := self._asks.get(other)) is not None:
                    task.cancel()
            self._service.metrics.retrieval.observe(now - started, "p2p")
            future = self._wanted.pop(ask.cid, None)
            self._sizes_max.pop(ask.cid, None)
            if future is not None and not future.done():
                self._outcomes.sources["p2p"] += 1
                future.set_result(data)
                if self._cache:
                    self._fresh.append((item, received.header.is_public))
                    self._fresh_bytes += len(item.stored)
        self._wake.set()
        await self._keep(KEEP_BYTES)

    async def finish(self) -> None:
        """Keep what has come and is not kept yet, also when the download failed: the next one goes on from there."""
        await self._keep(0)

    async def _keep(self, enough: int) -> None:
        """Store what has come, as cache, once `enough` bytes of it wait. A commit for many: each costs 1 ms."""
        async with self._keeping:
            if not self._fresh or self._fresh_bytes < enough:
                return
            fresh, self._fresh, self._fresh_bytes = self._fresh, [], 0
            try:
                await self._service.env.blocking(self._store_fresh, fresh)
            except StorageFullError:
                self._cache = False  # a full disk must not keep bytes from who asks for them
        self._wake.set()

    def _store_fresh(self, fresh: list[tuple[Admitted, bool]]) -> None:
        self._service.store.keep(item for item, _ in fresh)
        vouch(self._service.store, [item.cid for item, is_public in fresh if is_public])

    async def _note_failure(self, ask: Ask, error: RageError) -> None:
        peer: PeerId = ask.source  # type: ignore[assignment]
        outcome = _outcome_of(error)
        self._schedule.failed(ask, outcome, self._service.env.monotonic(), error.message)
        is_absent = outcome == "missing" and not isinstance(error, IntegrityError)
        self._outcomes.said[str(peer)] = NotFoundError("not found") if is_absent else error
        if outcome == "wrong":
            self._service.distrust(peer)
            self._service.metrics.failures.add(1, "wrong_bytes")
            await self._connections[peer].close(f"sent bytes that are not {ask.cid}")

    def _give_up(self, cid: Cid) -> None:
        future = self._wanted.pop(cid)
        self._sizes_max.pop(cid, None)
        self._schedule.forget(cid)
        if not future.done():
            future.set_exception(_not_to_be_had(cid, self._want.root, self._outcomes.said))
            future.exception()  # whoever waits for it will see it; if nobody does, that is no bug


def _admit(cid: Cid, received: Received) -> tuple[Admitted, bytes]:
    """Through the gate. Blocking."""
    header, buffers = received.header, received.buffers
    stored = buffers[0] if len(buffers) == 1 else b"".join(buffers)
    return admit(cid, header.encoding, stored, header.size)


def _not_to_be_had(cid: Cid, root: Cid, said: Mapping[str, RageError]) -> RageError:
    """Why a chunk could not be had, in the class that tells the caller what to do next.

    One source that looked and has it not makes it not found; else wrong bytes an integrity error; else sources that
    could not be asked mean: try again.
    """
    kind: type[RageError] = NotFoundError
    code = "chunk-not-found"
    if not any(isinstance(error, NotFoundError) for error in said.values()):
        if any(isinstance(error, IntegrityError) for error in said.values()):
            kind, code = IntegrityError, "wrong-bytes"
        elif said:
            kind, code = UnavailableError, "sources-unreachable"
    words = "; ".join(f"{name}: {error.message}" for name, error in list(said.items())[:SAID_MAX])
    return kind(
        f"{cid} is not to be had",
        id=code,
        why=f"not in the local store; {words}" if words else "not in the local store, and no peer was asked",
        mend=("rage peer list", f"rage chunk get {root} --peer MULTIADDR"),
    )


def _check_size(cid: Cid, size: int | None, data: bytes) -> None:
    if size is not None and len(data) != size:
        raise IntegrityError(f"the manifest says {size} bytes of {cid}, which has {len(data)}")


def _outcome_of(error: RageError) -> Outcome:
    if error.id == "size-differs":  # the manifest may be what lies, so the peer is not to blame
        return "missing"
    if isinstance(error, IntegrityError):
        return "wrong"
    if isinstance(error, PeerProtocolError) or error.id == "peer-gone":
        return "dead"
    if error.id == "stalled":
        return "slow"
    return "busy" if error.retryable else "missing"


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The exception to tell of: an error of ours before any other."""
    leaves: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop()
        if isinstance(error, BaseExceptionGroup):
            pending.extend(reversed(error.exceptions))
        else:
            leaves.append(error)
    return next((error for error in leaves if isinstance(error, RageError)), leaves[0])
