"""Retrieval: a root's bytes, in order, from the local store first, then from whoever has them, in parallel.

    source   what may be asked: a peer, a CDN, in stages
    remote   the sources of one download, hedged

The flow only: which chunk is asked of whom is decided by `chunk.schedule`, what a peer says by `exchange`, and whether
bytes are right by the store's gate. At most WINDOW_BYTES are on their way or wait for the reader. What was fetched is
kept as cache, so that a download that was interrupted goes on where it stopped.

Source: seed, "Retrieval Flow"; design D3, D4, 5.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rage_net.chunk.manifest import Walk
from rage_net.chunk.source import Kind, Source
from rage_net.chunk.store import ChunkStore
from rage_net.cid import Cid
from rage_net.env import Env
from rage_net.errors import ConfigError, IntegrityError, NotFoundError, RageError, UnavailableError
from rage_net.messages import Traffic
from rage_net.services.retrieval.remote import Remote
from rage_net.services.retrieval.source import Stage, Way, known, later
from rage_net.verbs import Sink

if TYPE_CHECKING:
    from rage_net.metrics import Metrics

__all__ = ["Kind", "Outcomes", "Retrieval", "Source", "Stage", "Want", "Way", "known", "later"]

WINDOW_BYTES = 16 << 20
"""Plain bytes on their way or waiting for the reader: what keeps two sources busy, in flat memory."""
WINDOW_CHUNKS = 512
"""Chunks in the window, however small a manifest says they are."""
SURVEY_CHUNKS = 256
"""Chunks asked about in one `have`; 10 KiB on the wire."""
DISTRUST_S = 3600.0
"""A source that sent wrong bytes is not asked again for so long."""
DISTRUSTED_MAX = 4096
ROOTS_MAX = 1024
"""Roots whose holders are remembered."""
HOLDERS_MAX = 8
"""Holders remembered of each."""


@dataclass(frozen=True, slots=True)
class Want:
    """What to fetch and how. `join` follows a manifest; without it the block itself is delivered."""

    root: Cid
    join: bool = True
    local: bool = True
    elsewhere: bool = True
    cache: bool = True
    traffic: Traffic = "user"
    """Why: peers decide by it, and send in the lane of that name."""


@dataclass(slots=True)
class Outcomes:
    """What became of a download: chunks by kind of source, and what each said when it had nothing."""

    size: int = 0
    sources: dict[str, int] = field(default_factory=lambda: {"local": 0, "cdn": 0, "p2p": 0})
    said: dict[str, RageError] = field(default_factory=dict)
    gave: dict[Hashable, Kind] = field(default_factory=dict)
    """The sources that gave at least one chunk, by their keys."""


class Retrieval:
    """Fetches roots; remembers peers that sent wrong bytes."""

    def __init__(self, store: ChunkStore, env: Env, metrics: Metrics) -> None:
        self.store = store
        self.env = env
        self.metrics = metrics
        self._distrusted: dict[Hashable, float] = {}
        self._holders: OrderedDict[Cid, tuple[Hashable, ...]] = OrderedDict()

    async def fetch(self, want: Want, stages: Callable[[], Awaitable[Sequence[Stage]]], sink: Sink) -> Outcomes:
        """Deliver the bytes of a root, in order.

        `stages`, best first, is called once something is missing here: a download that is all local starts no network.
        Raises: NotFoundError, or UnavailableError when nobody could be asked, naming each way that was tried and what
        it said; IntegrityError when a manifest lies, or nobody has bytes that match.
        """
        outcomes = Outcomes()
        try:
            async with asyncio.TaskGroup() as tasks:
                remote = Remote(self, want, stages, outcomes, tasks)
                try:
                    await _Download(self, want, outcomes, remote, tasks).run(sink)
                finally:
                    remote.stop()
                    await remote.finish()
        except BaseExceptionGroup as group:
            raise _first(group) from None
        self._remember(want.root, outcomes)
        return outcomes

    def holders(self, root: Cid) -> tuple[Hashable, ...]:
        """Peers that gave us chunks of this root before, by their keys."""
        return self._holders.get(root, ())

    def _remember(self, root: Cid, outcomes: Outcomes) -> None:
        gave = tuple(key for key, kind in outcomes.gave.items() if kind == "p2p")[:HOLDERS_MAX]
        if gave:
            self._holders.pop(root, None)
            self._holders[root] = gave
            while len(self._holders) > ROOTS_MAX:
                self._holders.popitem(last=False)

    def distrust(self, source: Hashable) -> None:
        """Ask this source for nothing until DISTRUST_S have passed."""
        while len(self._distrusted) >= DISTRUSTED_MAX:
            self._distrusted.pop(next(iter(self._distrusted)))
        self._distrusted[source] = self.env.monotonic() + DISTRUST_S

    def is_distrusted(self, source: Hashable) -> bool:
        """Whether the source sent wrong bytes lately."""
        return self._distrusted.get(source, 0.0) > self.env.monotonic()


class _Download:
    """The document in order: local chunks are read, missing ones wanted, and both delivered through one window."""

    def __init__(
        self, service: Retrieval, want: Want, outcomes: Outcomes, remote: Remote, tasks: asyncio.TaskGroup
    ) -> None:
        self._service = service
        self._want = want
        self._outcomes = outcomes
        self._remote = remote
        self._tasks = tasks

    async def run(self, sink: Sink) -> None:
        block = await self._block(self._want.root)
        if not (self._want.join and self._want.root.is_manifest()):
            self._outcomes.size = len(block)
            await self._service.env.waiting(_give, sink, block)
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
        except (ConfigError, IntegrityError, NotFoundError, UnavailableError):
            # Rotten, gone since we looked, or in an object store that is out of reach: a peer may have it.
            if not self._want.elsewhere:
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


def _give(sink: Sink, block: bytes) -> None:
    """All of it, in one go. Blocking."""
    sink.begin(len(block))
    sink.write(block)


def _check_size(cid: Cid, size: int | None, data: bytes) -> None:
    if size is not None and len(data) != size:
        raise IntegrityError(f"the manifest says {size} bytes of {cid}, which has {len(data)}")


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
