"""What an engine does so that what it holds stays whole: the scrub of its store, and healing what was lost from peers.

    jobs     a node's: slices of the scrub, rounds of healing
    fetch    a chunk that is held here, from anywhere else
    glance   how far the scrub is, for the node's status

Source: issue 5, section F. Not here: rules of the scrub (chunk.scrub), of healing (services.healing).
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from rage_net.chunk import scrub
from rage_net.chunk.holds import roots_of
from rage_net.cid import Cid
from rage_net.errors import NotFoundError, RageError
from rage_net.guard import every
from rage_net.services.healing import Healing
from rage_net.services.retrieval import Want
from rage_net.verbs.node import ScrubGlance

if TYPE_CHECKING:
    from rage_net.engine import Engine

SCRUB_EVERY_S = 60.0
HEAL_EVERY_S = 10.0
ROOTS_ASKED_MAX = 4
"""Documents under whose roots one chunk is looked for."""


def jobs(engine: Engine, healing: Healing) -> list[Coroutine[Any, Any, None]]:
    """Runs for as long as the node does; each round guarded. From now on healing is told of what is lost."""
    engine.store.on_lost.append(healing.note)
    replicating = engine.replicating()
    if replicating is not None:
        engine.store.on_lost.append(replicating.note_lost)
    found = [every(HEAL_EVERY_S, healing.round, name="healing", env=engine.env, metrics=engine.metrics, at_once=True)]
    period_s = engine.config.network.store.scrub
    if period_s:
        work = functools.partial(read_again, engine, scrub.Scrub(engine.store, period_s))
        found.append(every(SCRUB_EVERY_S, work, name="scrub", env=engine.env, metrics=engine.metrics))
    return found


def healing_of(engine: Engine) -> Healing:
    """Healing from whoever serves the chunk: connected peers, CDNs, providers of the documents it is of."""
    return Healing(engine.store, engine.env, engine.metrics, functools.partial(fetch, engine))


async def read_again(engine: Engine, it: scrub.Scrub) -> None:
    """Slices of the scrub until nothing more is due, with rests between them."""
    while True:
        read = await engine.env.blocking(it.slice)
        engine.metrics.scrub_bytes.add(read.size)
        if read.rest_s is None:
            break
        await asyncio.sleep(read.rest_s)
    state = await engine.env.blocking(scrub.load, engine.store)
    if state is not None:
        since = state.began_at if state.ended_at is None else state.ended_at
        engine.metrics.scrub_age.set(max(0.0, engine.env.now() - since))


class _Collect:
    """A sink for one block."""

    def __init__(self) -> None:
        self.data = bytearray()

    def begin(self, size: int, /) -> None:
        """Nothing to prepare."""

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        self.data += data


async def fetch(engine: Engine, cid: Cid) -> bytes:
    """A block from elsewhere, verified, and kept here where there is room. Raises RageError when nobody has it.

    The DHT names providers of roots alone, so it is looked for under the roots of what holds it here.
    """
    replicating = engine.replicating()
    if replicating is not None:  # nodes that store give what they may not read
        found = await replicating.obtain(cid)
        if found is not None:
            return found
    roots = await engine.env.blocking(roots_of, engine.store, cid, ROOTS_ASKED_MAX)
    last: RageError = NotFoundError(f"nobody was asked for {cid}")
    for root in roots or [cid]:
        sink = _Collect()
        stages = functools.partial(engine.stages, root, ("cdn", "p2p"), ())
        try:
            await engine.retrieval.fetch(Want(cid, join=False, local=False), stages, sink)
        except RageError as error:
            last = error
        else:
            return bytes(sink.data)
    raise last


def glance(engine: Engine) -> ScrubGlance | None:
    """How far the scrub is; None where it is off. Blocking."""
    period_s = engine.config.network.store.scrub
    if not period_s:
        return None
    state = scrub.load(engine.store)
    if state is None:
        return ScrubGlance(0.0, 0.0, 0.0, 0)
    total = engine.store.totals().size
    share = 1.0 if state.is_done else min(1.0, state.size / total) if total else 0.0
    return ScrubGlance(state.ended_at or 0.0, round(share, 4), state.due_at, state.bad)
