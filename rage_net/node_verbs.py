"""The verbs of node: how it stands, and its end. Source: issue 2; design 1, D8."""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from rage_net import __version__, glance, refusals, upkeep
from rage_net import home as homes
from rage_net.errors import StorageFullError
from rage_net.verbs import Verb
from rage_net.verbs import node as nodes

if TYPE_CHECKING:
    from rage_net.engine import Engine, Io


async def show_status(engine: Engine, verb: nodes.ShowStatus, io: Io) -> nodes.NodeStatus:
    """The home at a glance; a node adds what only it knows."""
    totals = await engine.env.blocking(engine.store.totals)
    documents = await engine.env.blocking(engine.documents.count)
    network = engine.config.network
    free = await engine.env.blocking(homes.free_bytes, network.store.path)
    status = nodes.NodeStatus(
        peer_id=await engine.env.blocking(engine.peer_id_text),
        state="stopped",
        listen=(),
        http=(),
        peers=0,
        documents=documents,
        chunks=totals.chunks,
        bytes=totals.stored,
        free_bytes=free,
        uptime_s=round(engine.env.monotonic() - engine.started_at, 3),
        version=__version__,
        pid=0,
        organization=network.organization_id,
        region=network.region,
        problems=(*(await _room_problems(engine)), *map(str, engine.config.warnings)),
        scrub=await engine.env.blocking(upkeep.glance, engine),
    )
    return engine.node_status(await glance.complete(engine, status))


async def _room_problems(engine: Engine) -> list[str]:
    """That chunks are out of reach; and that nothing can be put, where no node runs that watches for it."""
    if engine.store.bodies.problem:
        return [engine.store.bodies.problem]
    if engine.serves:
        return []
    try:
        await engine.env.blocking(functools.partial(engine.store.check_room, 0, evict=False))
    except StorageFullError as error:
        return [f"{error.message}: nothing can be put ({error.why})"]
    return []


async def stop_node(engine: Engine, verb: nodes.StopNode, io: Io) -> nodes.StopNodeResult:
    """Begin to drain."""
    if not engine.serves:
        raise refusals.no_node()
    engine.stop_requested.set()
    return nodes.StopNodeResult(os.getpid(), nodes.STOP_WITHIN_S)


VERBS: dict[type[Verb[Any]], Callable[[Engine, Any, Io], Awaitable[Any]]] = {
    nodes.ShowStatus: show_status,
    nodes.StopNode: stop_node,
}
