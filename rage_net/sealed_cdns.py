"""Documents that CDNs hold as ciphertext: published by hand, sealed anew by itself, and the old deleted and purged.

Each name is journalled before it is put, so that whatever a process that dies leaves in a bucket is deleted later. A
narrowing, in this order: it holds at the origin, whose nodes give no more keys to who may no longer read; a new epoch
is published; the log says so; what the old one put is deleted from every bucket; the edges are purged of it; its key
goes. Only the node that published a document does so, for only it knows the names.

Source: issue 6, C; ADR 24. Not here: ciphertexts, keys and epochs (cdn.sealing, sealings), sending (services.purging).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from blake3 import blake3

from rage_net import sealings
from rage_net.cdn.buckets import key_of
from rage_net.cdn.filling import Filling
from rage_net.cdn.plan import Target
from rage_net.cdn.sealing import SealedBlock
from rage_net.cdn_verbs import targets
from rage_net.cid import Cid
from rage_net.errors import RageError
from rage_net.sealings import Sealing
from rage_net.services.purging import Wish

if TYPE_CHECKING:
    from rage_net.cdns import Cdns
    from rage_net.engine import Engine

log = logging.getLogger("rage.cdn")

BATCH = 16
"""Ciphertexts that are in memory at once."""
CACHE_CONTROL = "public, max-age=60, s-maxage=86400"
"""Its name is the hash of its bytes; what is revoked is purged."""
IDLE_S = 60.0
"""Between two rounds when nothing happens."""
PART = 20_000
"""Ciphertexts of an old epoch that one purge names: each has three paths, at each of 16 public hosts, and a purge names
`plan.WORDS_MAX`."""
STEP_S = 5.0
"""How long one round waits for one step."""
PUBLISHED_AT_ONCE = 4
"""Documents that are sealed at once, each with BATCH ciphertexts in memory: a bucket that is slow takes minutes."""
CLEARED_AT_ONCE = 32
"""Documents whose old ciphertexts go in one round at once: each waits STEP_S for an edge that is away."""
ASKED_AGAIN_S = 86_400.0
"""What failed is asked for anew after so long at the most; `rage cdn purge --failed` does it at once."""


@dataclass(frozen=True, slots=True)
class Publication:
    """A document that was sealed, and what became of it at each bucket."""

    sealing: Sealing
    stores: tuple[Filling, ...]
    objects: int


async def publish(
    engine: Engine, cdns: Cdns, doc_id: str, only: Sequence[str] = (), tell: Callable[[], None] = lambda: None
) -> Publication | None:
    """Seal a document into every bucket, and tell readers when all have it; None where they have it as it is.

    Raises: AccessDeniedError, ConfigError, NotFoundError as `sealings.begin`.
    """
    sealing = await sealings.begin(engine, doc_id)
    if sealing is None:
        return None
    stores = [
        Filling(it.provider, bucket)
        for it in cdns.buckets.values()
        if not only or it.provider in only
        for bucket in it.buckets.values()
    ]
    root_page, objects = await _fill(engine, cdns, doc_id, sealing, stores, tell)
    if root_page is not None and stores and not any(store.failed for store in stores):
        await sealings.finish(engine, sealing, root_page)
    return Publication(sealing, tuple(stores), objects)


async def refill(
    engine: Engine, cdns: Cdns, doc_id: str, stores: Sequence[Filling], tell: Callable[[], None] = lambda: None
) -> None:
    """Put what CDNs hold already into buckets that lack it. Does nothing where `sealings.standing` has nothing."""
    sealing = await sealings.standing(engine, doc_id)
    if sealing is not None:
        await _fill(engine, cdns, doc_id, sealing, stores, tell)


async def _fill(
    engine: Engine, cdns: Cdns, doc_id: str, sealing: Sealing, stores: Sequence[Filling], tell: Callable[[], None]
) -> tuple[Cid | None, int]:
    """The CID of the root page, and how many objects there are.

    The root page goes last, and only where all else went: whoever finds it finds the rest.
    """
    blocks = sealing.blocks()
    root_page: SealedBlock | None = None
    objects = 0
    while stores and not all(store.is_given_up for store in stores):
        batch = await engine.env.waiting(functools.partial(_take, blocks))
        if not batch:
            break
        names = [str(block.cid) for block in batch]
        await engine.env.blocking(cdns.holdings.note_sealed, doc_id, sealing.epoch.id.hex(), names)
        known = [*([root_page] if root_page is not None else []), *batch[:-1]]
        await asyncio.gather(*(_put(store, block, tell) for store in stores for block in known))
        root_page = batch[-1]
        objects += len(batch)
    if root_page is None:
        return None, objects
    for store in stores:
        if store.failed:
            store.failed += 1
    await asyncio.gather(*(_put(store, root_page, tell) for store in stores if not store.failed))
    return root_page.cid, objects


def _take(blocks: Iterator[SealedBlock]) -> list[SealedBlock]:
    return list(islice(blocks, BATCH))


async def _put(store: Filling, block: SealedBlock, tell: Callable[[], None]) -> None:
    if store.is_given_up:
        store.failed += 1
        tell()
        return
    try:
        put = await store.bucket.put(
            key_of(block.cid),
            block.data,
            content_type="application/octet-stream",
            cache_control=CACHE_CONTROL,
        )
    except RageError as error:
        store.failed += 1
        store.errors.append(error)
    else:
        store.existed += put.existed
        store.put += not put.existed
        store.bytes += 0 if put.existed else len(block.data)
    tell()


async def work(engine: Engine, cdns: Cdns) -> None:
    """Rounds, for as long as this task lives: at once, when rights have changed, and once in a while."""
    while True:
        cdns.wake_sealed.clear()
        await settle(engine, cdns)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(IDLE_S):
                await cdns.wake_sealed.wait()


async def settle(engine: Engine, cdns: Cdns) -> None:
    """One round over all that this node has published: seal anew what is due, delete and purge what is old."""
    if engine.metadata is None:
        return
    doc_ids = await engine.env.blocking(cdns.holdings.sealed_documents)
    # All are sealed before any of them waits for what is old to go: an edge that is away holds that up.
    for step, at_once in ((_publish_anew, PUBLISHED_AT_ONCE), (_clear_old, CLEARED_AT_ONCE)):
        await _each(engine, cdns, doc_ids, step, asyncio.Semaphore(at_once))


async def _each(
    engine: Engine,
    cdns: Cdns,
    doc_ids: Sequence[str],
    step: Callable[[Engine, Cdns, str], Awaitable[None]],
    at_once: asyncio.Semaphore,
) -> None:
    """A step for every document: one that we cannot do right by holds up no other."""

    async def one(doc_id: str) -> None:
        async with at_once:
            try:
                await step(engine, cdns, doc_id)
            except Exception:
                log.exception("the ciphertexts of document %s", doc_id)
                engine.metrics.failures.add(1, "cdn")

    await asyncio.gather(*map(one, doc_ids))


async def _publish_anew(engine: Engine, cdns: Cdns, doc_id: str) -> None:
    try:
        filled = await publish(engine, cdns, doc_id)
    except RageError as error:
        log.warning("document %s cannot be sealed anew: %s", doc_id, error.message)
        filled = None
    for store in filled.stores if filled is not None else ():
        if store.errors:
            log.warning("document %s: %s: %s", doc_id, store.bucket, store.errors[-1].message)


async def _clear_old(engine: Engine, cdns: Cdns, doc_id: str) -> None:
    epochs = await engine.env.blocking(cdns.holdings.sealed_epochs, doc_id)
    right = await engine.env.blocking(_right, engine, doc_id)  # after them: one that is begun meanwhile is not old
    for epoch in epochs:
        if epoch not in right:
            await _clear(engine, cdns, doc_id, epoch)


def _right(engine: Engine, doc_id: str) -> set[str]:
    """Epochs that CDNs may hold: the last one, and one that is being published. Blocking."""
    metadata = engine.metadata
    assert metadata is not None
    if not metadata.cdns.is_encrypted(doc_id):
        return set()
    due = metadata.cdns.due(doc_id)
    held = metadata.cdns.held(doc_id)[:1]
    if due is None or due.reason != "narrowed":
        return {one.epoch.hex() for one in held} | _begun(engine, doc_id)
    return _begun(engine, doc_id)


def _begun(engine: Engine, doc_id: str) -> set[str]:
    """Those that were begun for the document as it is, and are not published yet."""
    return {epoch.hex() for epoch in sealings.under_way(engine, doc_id)}


async def _clear(engine: Engine, cdns: Cdns, doc_id: str, epoch: str) -> None:
    """Delete an old epoch, a part at a time, then its key; what takes long goes on in the next round."""
    while names := await engine.env.blocking(cdns.holdings.sealed_names, epoch, PART):
        if not await _clear_part(engine, cdns, doc_id, epoch, names):
            return
        await engine.env.blocking(cdns.holdings.forget_sealed, epoch, names[-1])
    await sealings.forget_epoch(engine, doc_id, bytes.fromhex(epoch))


async def _clear_part(engine: Engine, cdns: Cdns, doc_id: str, epoch: str, names: Sequence[str]) -> bool:
    """From the buckets, then from the edges; whether it is gone everywhere."""
    target = Target(f"sealed document {doc_id}", (targets.items_of([Cid.parse(name) for name in names]),))
    part = blake3("\n".join(names).encode()).hexdigest(8)
    edges = tuple(name for name in cdns.purging.providers if name not in cdns.buckets)
    for step, providers in (("buckets", tuple(cdns.buckets)), ("edges", edges)):
        if not providers:
            continue
        id = f"x{epoch}-{step}-{part}-{int(engine.env.now() // ASKED_AGAIN_S)}"
        if await engine.env.blocking(cdns.journal.find, id) is None:
            wish = Wish(id, (target,), f"document {doc_id} was sealed anew", "sealed", doc_id, (), False, providers)
            asked = await cdns.purging.ask(wish)
            for name, what in asked.impossible:
                log.warning("%s has no way to purge %s: rage cdn purge --all --provider %s", name, what, name)
        states = cdns.of_now(await cdns.purging.wait(id, STEP_S, to_the_end=True))
        if any(it.state in ("queued", "pending") for it in states):
            return False
        if any(it.state == "failed" for it in states):
            log.warning("what is old of document %s is not gone from all %s", doc_id, step)
            return False  # its names are all that is known of it, and are kept
    return True
