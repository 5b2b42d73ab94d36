"""Chunks from elsewhere: looks for sources stage by stage, asks what they hold, carries out what the schedule decides.

A stage begins when those before it have no source left to ask, or have brought nothing for a while: a slow source is
hedged like a failed one. Source: issue 3, E.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from rage_net.chunk.schedule import Ask, Outcome, Schedule
from rage_net.chunk.shelf import attest
from rage_net.chunk.source import Received, Source
from rage_net.chunk.store import Admitted, admit
from rage_net.cid import BLOCK_BYTES_MAX, Cid
from rage_net.errors import (
    ConfigError,
    IntegrityError,
    NotFoundError,
    PeerProtocolError,
    RageError,
    StorageFullError,
    UnavailableError,
)
from rage_net.messages import ChunkHeader
from rage_net.services.retrieval.source import Stage, Way

if TYPE_CHECKING:
    from rage_net.services.retrieval import Outcomes, Retrieval, Want

KEEP_BYTES = 4 << 20
"""Stored bytes that are kept as cache in one commit."""
AT_ONCE_BYTES = 64 << 10
"""Plain bytes that are hashed here and now, in 30 us at most: the way to a thread and back takes longer."""
ALONE_BYTES = 1 << 20
"""The same, in 0.2 ms, of a chunk beside which nothing is on its way that threads could hash meanwhile."""
SIZE_GUESSED = 1 << 20
"""What a block of unknown size is taken for until it has come: the size most chunks have."""
PATIENCE_FIRST_S = 0.3
"""A stage that has brought nothing for so long is joined by the next: a round trip around the world, and a look."""
PATIENCE_S = 2.0
"""The same once something has come: sources are at work, and the next stage would mostly ask them again."""
REACHING_MAX = 16
"""Ways of one stage tried at once; with a second address or more each, all the dials a small node bears."""
SOURCES_MAX = 48
"""Sources that one download asks: more would cost more questions than they bring bytes."""
SAID_MAX = 64
"""Answers kept for the error: every source there may be, and the stages."""
SAID_NAMES_MAX = 8
"""Names listed with one answer; the rest are counted."""


class Remote:
    """The sources of one download."""

    def __init__(
        self,
        service: Retrieval,
        want: Want,
        stages: Callable[[], Awaitable[Sequence[Stage]]],
        outcomes: Outcomes,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._service = service
        self._want = want
        self._find_stages = stages
        self._outcomes = outcomes
        self._tasks = tasks
        self._cache = want.cache
        self._traffic = want.traffic
        self._schedule = Schedule()
        self._wanted: dict[Cid, asyncio.Future[bytes]] = {}
        self._sizes_max: dict[Cid, int] = {}  # of those wanted whose size a manifest says
        self._surveyed: list[Cid] = []
        self._sources: dict[Hashable, Source] = {}
        self._asks: dict[Ask, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._fresh: list[tuple[Admitted, ChunkHeader]] = []
        """What has come and is not kept yet, and what its source said of it."""
        self._fresh_bytes = 0
        self._keeping = asyncio.Lock()
        self._stages: deque[Stage] | None = None  # those that have not begun; None until they are known
        self._searching = 0  # stages under way
        self._stage_at = 0.0  # when the next begins, whatever the others do
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
            if not self._schedule.is_wanting():
                self._stage_at = max(self._stage_at, self._service.env.monotonic() + PATIENCE_FIRST_S)
            self._schedule.want(cid, SIZE_GUESSED if size is None else size)
            self._begin()
            self._wake.set()
        return future

    def survey(self, cids: list[Cid]) -> None:
        """These will be wanted soon: ask every source which of them it has."""
        self._surveyed = cids
        for source in self._sources.values() if len(self._sources) > 1 else ():
            self._spawn(self._ask_what_it_has(source))

    def stop(self) -> None:
        """Nothing more is wanted."""
        for task in (*self._asks.values(), *self._background):
            task.cancel()

    async def finish(self) -> None:
        """Keep what has come and is not kept yet, also when the download failed: the next one goes on from there."""
        await self._keep(0)

    def _begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._spawn(self._drive())
            self._spawn(self._prepare())

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._tasks.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # --- finding sources ---

    async def _prepare(self) -> None:
        self._stages = deque(await self._find_stages())
        self._stage_at = 0.0
        self._wake.set()

    def _begin_stages(self, now: float) -> None:
        """The next stage, once those before it have nobody left to ask, or have brought nothing for too long."""
        while self._stages and (now >= self._stage_at or (not self._searching and self._schedule.hopeless())):
            self._searching += 1
            stage = self._stages.popleft()
            self._stage_at = now + (PATIENCE_FIRST_S if stage.patience_s is None else stage.patience_s)
            self._spawn(self._search(stage) if stage.more is None else self._find_more(stage.name, stage.more))

    async def _find_more(self, name: str, more: Callable[[], Awaitable[Sequence[Stage]]]) -> None:
        """Put the stages that one stood for in its place."""
        assert self._stages is not None
        try:
            self._stages.extendleft(reversed(await more()))
            self._stage_at = 0.0
        except RageError as error:
            self._note(name, error)
        finally:
            self._searching -= 1
            self._wake.set()

    async def _search(self, stage: Stage) -> None:
        """Try each way that the stage learns of, several at once."""
        places = asyncio.Semaphore(REACHING_MAX)
        count = 0

        async def reach(way: Way) -> None:
            try:
                await self._reach(way)
            finally:
                places.release()

        try:
            async with asyncio.TaskGroup() as ways:
                try:
                    async for way in stage.ways():
                        if len(self._sources) >= SOURCES_MAX:
                            break
                        await places.acquire()
                        count += 1
                        ways.create_task(reach(way))
                    if not count:
                        self._note(stage.name, NotFoundError(stage.nobody))
                except RageError as error:
                    self._note(stage.name, error)
        finally:
            self._searching -= 1
            self._wake.set()

    async def _reach(self, way: Way) -> None:
        try:
            source = await way.reach()
        except RageError as error:
            self._note(way.name, error)
            return
        if source.key in self._sources:
            return
        if self._service.is_distrusted(source.key):
            self._note(way.name, IntegrityError("sent wrong bytes lately; not asked"))
            return
        is_asked_at_once = way.is_holder or not self._sources  # the first may as well be
        self._sources[source.key] = source
        if not is_asked_at_once:
            await self._ask_what_it_has(source)
        self._schedule.add_source(source.key, way.hedge_s)
        self._wake.set()

    async def _ask_what_it_has(self, source: Source) -> None:
        cids = self._surveyed
        if not cids:
            return
        try:
            answers = await source.have(cids, self._traffic)
        except RageError as error:
            self._schedule.add_source(source.key)
            self._note(source.name, error)
            if _outcome_of(error) in ("dead", "slow"):
                self._schedule.drop(source.key, error.message)
        else:
            self._schedule.add_source(source.key)
            self._schedule.learn(source.key, dict(zip(cids, answers, strict=True)))
            if not any(answers):
                self._note(source.name, NotFoundError("not found"))
        self._wake.set()

    def _note(self, name: str, error: RageError) -> None:
        if name in self._outcomes.said or len(self._outcomes.said) < SAID_MAX:
            self._outcomes.said[name] = error

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
            if self._schedule.is_wanting():
                self._begin_stages(clock())
            if self._stages is not None and not self._stages and not self._searching:
                for cid in self._schedule.hopeless():
                    self._give_up(cid)
            moments = [self._schedule.next_timeout(clock())]
            if self._stages and self._schedule.is_wanting():
                moments.append(self._stage_at)
            wait_until = min((moment for moment in moments if moment is not None), default=None)
            try:
                async with asyncio.timeout(None if wait_until is None else max(0.001, wait_until - clock())):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _forget(self, ask: Ask, task: asyncio.Task[None]) -> None:
        if self._asks.get(ask) is task:
            del self._asks[ask]

    async def _carry_out(self, ask: Ask) -> None:
        source = self._sources[ask.source]
        started = self._service.env.monotonic()
        try:
            size_max = self._sizes_max.get(ask.cid, BLOCK_BYTES_MAX)
            received = await source.fetch(ask.cid, size_max, self._traffic)
            at_once = AT_ONCE_BYTES if len(self._asks) > 1 else ALONE_BYTES
            if received.header.encoding == "raw" and received.header.stored_size <= at_once:
                item, data = _admit(ask.cid, received)
            else:
                item, data = await self._service.env.blocking(_admit, ask.cid, received)
        except RageError as error:
            await self._note_failure(ask, source, error)
        else:
            now = self._service.env.monotonic()
            for other in self._schedule.arrived(ask, now):
                if (task := self._asks.get(other)) is not None:
                    task.cancel()
            self._stage_at = now + PATIENCE_S
            self._service.metrics.retrieval.observe(now - started, source.kind)
            future = self._wanted.pop(ask.cid, None)
            self._sizes_max.pop(ask.cid, None)
            if future is not None and not future.done():
                self._outcomes.sources[source.kind] += 1
                self._outcomes.gave[source.key] = source.kind
                future.set_result(data)
                if self._cache:
                    self._fresh.append((item, received.header))
                    self._fresh_bytes += len(item.stored)
        self._wake.set()
        await self._keep(KEEP_BYTES)

    async def _keep(self, enough: int) -> None:
        """Store what has come, as cache, once `enough` bytes of it wait. A commit for many: each costs 1 ms."""
        async with self._keeping:
            if not self._fresh or self._fresh_bytes < enough:
                return
            fresh, self._fresh, self._fresh_bytes = self._fresh, [], 0
            try:
                await self._service.env.blocking(self._store_fresh, fresh)
            except (ConfigError, StorageFullError, UnavailableError):
                self._cache = False  # a store that takes nothing must not keep bytes from who asks for them
        self._wake.set()

    def _store_fresh(self, fresh: list[tuple[Admitted, ChunkHeader]]) -> None:
        self._service.store.keep(item for item, _ in fresh)
        attest(
            self._service.store,
            (
                (item.cid, header.is_public, [(name.organization, name.doc_id) for name in header.documents])
                for item, header in fresh
            ),
        )

    async def _note_failure(self, ask: Ask, source: Source, error: RageError) -> None:
        outcome = _outcome_of(error)
        self._schedule.failed(ask, outcome, self._service.env.monotonic(), error.message)
        is_absent = outcome == "missing" and not isinstance(error, IntegrityError)
        said = error.message if error.id == "cdn-refused" else "not found"  # a key or a clock of ours may be wrong
        self._note(source.name, NotFoundError(said) if is_absent else error)
        if outcome == "wrong":
            self._service.distrust(source.key)
            self._service.metrics.failures.add(1, "wrong_bytes")
            await source.drop(f"sent bytes that are not {ask.cid}")

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
    words = _tell(said)
    return kind(
        f"{cid} is not to be had",
        id=code,
        why=f"not in the local store; {words}" if words else "not in the local store, and no peer was asked",
        mend=(f"rage why {root}", "rage peer list", f"rage chunk get {root} --peer MULTIADDR"),
    )


def _tell(said: Mapping[str, RageError]) -> str:
    """Every source that was asked and what it said, those that said the same together."""
    names: dict[str, list[str]] = {}
    for name, error in said.items():
        names.setdefault(error.message, []).append(name)
    parts = []
    for words, speakers in names.items():
        more = f" and {len(speakers) - SAID_NAMES_MAX} more" if len(speakers) > SAID_NAMES_MAX else ""
        parts.append(f"{', '.join(speakers[:SAID_NAMES_MAX])}{more}: {words}")
    return "; ".join(parts)


def _outcome_of(error: RageError) -> Outcome:
    if error.id == "size-differs":  # the manifest may be what lies, so the peer is not to blame
        return "missing"
    if isinstance(error, IntegrityError):
        return "wrong"
    if isinstance(error, PeerProtocolError) or error.id in ("peer-gone", "cdn-unreachable"):
        return "dead"
    if error.id == "stalled":
        return "slow"
    return "busy" if error.retryable else "missing"
