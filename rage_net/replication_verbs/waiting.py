"""A put that waits until so many nodes have proved what was put."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rage_net.cid import Cid
from rage_net.errors import (
    DeadlineError,
    RageError,
    UnavailableError,
)
from rage_net.replication_verbs.asking import (
    pages,
    replication_of,
)
from rage_net.verbs import Progress

if TYPE_CHECKING:
    from rage_net.engine import Engine
    from rage_net.libp2p.peer_id import PeerId

ANSWER_S = 1.0
"""Nodes are given so long to prove, before what others proved meanwhile is looked at."""


async def wait_for_copies(
    engine: Engine, doc_id: str, wanted: int, within_s: float, report: Callable[[Progress], None]
) -> tuple[tuple[str, ...], int]:
    """Until each chunk of a document is proved by `wanted` nodes that placement names.

    Returns: the nodes that proved chunks of it, and how many copies its policy wants. Raises DeadlineError, which says
    that the document is stored; UnavailableError when there are fewer such nodes.
    """
    began = engine.env.monotonic()
    if not engine.serves:  # what only this command has, it gives for as long as it waits
        (await engine.online()).offer()
    replicating = await replication_of(engine)
    proved: dict[Cid, set[PeerId]] = {}
    factor = 0

    asking: dict[PeerId, asyncio.Task[None]] = {}

    async def ask(peer: PeerId, cids: Sequence[Cid]) -> None:
        """One node, by itself: one that stands still must not keep the proofs of others waiting."""
        for (_, cid), answer in (await replicating.prover.prove({peer: cids})).items():
            if answer.outcome == "proved" and (answer.is_kept or peer == replicating.own):
                proved[cid].add(peer)

    async def look() -> bool:
        nonlocal factor
        if not await engine.env.blocking(replicating.inventory.is_read, engine.organization, doc_id):
            await replicating.look_at([doc_id])
            if not await engine.env.blocking(replicating.inventory.is_read, engine.organization, doc_id):
                return False
        is_done = True
        asks: dict[PeerId, list[Cid]] = {}
        async for page in pages(engine, replicating, doc_ids=[doc_id]):
            for item in page:
                factor = max(factor, item.factor)
                acting = replicating.view.acting(item)
                has = proved.setdefault(item.cid, set())
                has.intersection_update(acting)
                if len(acting) < wanted:
                    raise _too_few(doc_id, wanted, len(acting))
                if len(has) < wanted:
                    is_done = False
                    for peer in acting:
                        if peer not in has:
                            asks.setdefault(peer, []).append(item.cid)
        report(Progress(sum(min(wanted, len(has)) for has in proved.values()), wanted * len(proved), "copies"))
        if is_done:
            return True
        await replicating.watch()
        for peer, cids in asks.items():
            if peer not in asking:
                asking[peer] = asyncio.get_running_loop().create_task(ask(peer, cids))
        done, _ = await asyncio.wait(asking.values(), timeout=ANSWER_S)
        for task in done:
            task.result()  # what is wrong with us is not passed over
        for peer in [peer for peer, task in asking.items() if task in done]:
            del asking[peer]
        return all(len(has) >= wanted for has in proved.values())

    try:
        is_settled = await replicating.settle(look, within_s - (engine.env.monotonic() - began))
    finally:
        for task in asking.values():
            task.cancel()
        await asyncio.gather(*asking.values(), return_exceptions=True)
    if not is_settled:
        counts = [len(has) for has in proved.values()]
        least = min(counts, default=0)
        raise DeadlineError(
            f"the document is stored, and {least} of {wanted} nodes have proved that they hold all of it",
            why=f"{sum(count < wanted for count in counts)} of {len(counts)} chunks lack proof; nodes go on with it",
            mend=[f"rage replication audit --doc {doc_id} --prove", "rage replication status"],
            id="copies-not-proved",
        )
    return tuple(sorted({str(peer) for has in proved.values() for peer in has})), factor


def _too_few(doc_id: str, wanted: int, there: int) -> RageError:
    return UnavailableError(
        f"the document {doc_id} is stored, and {wanted} copies cannot be had: placement gives it {there}",
        why="fewer nodes that store are there, or its policy wants fewer copies",
        mend=["rage replication status --nodes", f"rage replication policy test {doc_id}"],
        id="replication-short",
    )
