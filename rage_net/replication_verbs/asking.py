"""What the verbs of replication share: this engine's replication, chunks a page at a time, and asking who has them."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rage_net import refusals, sharing
from rage_net.cid import Cid
from rage_net.errors import (
    NotFoundError,
    UnavailableError,
)
from rage_net.replication.audit import Answer

if TYPE_CHECKING:
    from rage_net.engine import Engine
    from rage_net.libp2p.peer_id import PeerId
    from rage_net.metadata import Metadata
    from rage_net.replication.inventory import Item, Known
    from rage_net.services.replicating import Replicating
    from rage_net.services.replicating.view import View

PAGE = 1000
ALL_ASKED_MAX = 16
"""Nodes up to which every one is asked about every chunk: so copies too many are found. Of more, those that placement
or a proof names."""


async def replication_of(engine: Engine) -> Replicating:
    """The engine's replication; a command that opened the home itself looks around first. Raises RageError."""
    metadata_of(engine)
    online = await engine.online()
    if online.replicating is None:
        raise UnavailableError(
            "this node takes no part in replication",
            why="replication is switched off in its configuration",
            mend=["set enabled in replication.yaml, and network.replication.enabled"],
            id="replication-off",
        )
    if not engine.serves:
        await online.membership.keep_connected()
        if online.syncing is not None:
            for connection in online.swarm.connections():
                await online.syncing.exchange(connection)
        await online.replicating.watch()
        await online.replicating.check()
        await online.replicating.reconcile()
    return online.replicating


def metadata_of(engine: Engine) -> Metadata:
    """The log and what is read from it. Raises RageError on an open node."""
    if engine.metadata is None:
        raise refusals.no_ca()
    return engine.metadata


def counted(count: int) -> str:
    """So many chunks, in words."""
    return f"{count} chunk{'s' if count != 1 else ''}"


async def pages(
    engine: Engine, replicating: Replicating, *, policy: str = "", doc_ids: Sequence[str] = ()
) -> AsyncIterator[list[Item]]:
    """The inventory, a page at a time: all of it, or what a policy or documents have."""
    after = 0
    while True:
        read = functools.partial(replicating.inventory.page, after, PAGE, policy=policy, documents=doc_ids)
        page = await engine.env.blocking(read)
        if not page:
            return
        after = page[-1].id
        yield page


async def find_whom_to_ask(
    engine: Engine, replicating: Replicating, items: Sequence[Item], *, every: bool = False
) -> dict[PeerId, list[Cid]]:
    """See `whom_to_ask`, with what is known of the holders."""
    known = await engine.env.blocking(replicating.inventory.proofs, [item.id for item in items])
    return whom_to_ask(replicating.view, items, known, every=every)


def whom_to_ask(
    view: View, items: Sequence[Item], known: Mapping[int, Sequence[Known]], *, every: bool = False
) -> dict[PeerId, list[Cid]]:
    """Nodes that may hold each chunk: the home set, whoever was known to, and in a small network all."""
    there = [peer for peer, node in view.nodes.items() if node.state != "lost"]
    everyone = there if every or len(there) <= ALL_ASKED_MAX else ()
    asks: dict[PeerId, list[Cid]] = {peer: [] for peer in there}
    for item in items:
        named = [*item.home, *(each.peer for each in known[item.id]), item.owner, *everyone]
        for peer in dict.fromkeys(named):
            if (asked := asks.get(peer)) is not None:
                asked.append(item.cid)
    return {peer: cids for peer, cids in asks.items() if cids}


async def ask(
    replicating: Replicating, asks: Mapping[PeerId, Sequence[Cid]], *, prove: bool
) -> dict[tuple[PeerId, Cid], Answer]:
    """What each node says; with `prove`, what those that claim can prove."""
    away = {peer for peer in asks if not replicating.view.is_there(peer)}
    answers = {(peer, cid): Answer("unreachable") for peer in away for cid in asks[peer]}
    claims = await replicating.prover.ask({peer: cids for peer, cids in asks.items() if peer not in away})
    answers.update(claims)
    if prove:
        claiming: dict[PeerId, list[Cid]] = {}
        for (peer, cid), answer in claims.items():
            if answer.outcome == "claims":
                claiming.setdefault(peer, []).append(cid)
        proofs = await replicating.prover.prove(claiming)
        answers.update({key: answer for key, answer in proofs.items() if answer.outcome != "unknown"})
    return answers


async def documents_of(engine: Engine, ref: str) -> tuple[str, ...]:
    """The ids of the documents that an id, a root or a name means. Raises NotFoundError."""
    metadata = metadata_of(engine)
    rows = await engine.env.blocking(sharing.catalog_rows, metadata, ref)
    found = tuple(row.doc_id for row in rows if not row.is_dead)
    if not found:
        raise NotFoundError(
            f"no document {ref!r} in the log of {engine.organization}",
            mend=["rage chunk list --catalog"],
            id="document-not-found",
        )
    return found
