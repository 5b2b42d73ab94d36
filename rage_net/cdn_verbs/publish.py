"""Publish: a document's blocks, pushed to the stores that CDNs read. Write-once, and only what anyone may read.

Source: issue 6, C; cdn-apis 1 and 2 ("PUT").
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rage_net import sealings
from rage_net.acl import ANYONE
from rage_net.cdn import policy
from rage_net.cdn.buckets import Bucket, key_of
from rage_net.cdn.filling import Filling
from rage_net.cdn.plan import Target
from rage_net.cdn_verbs import targets
from rage_net.cdn_verbs.probing import public_root
from rage_net.cdn_verbs.purge import sections_of
from rage_net.cid import Cid
from rage_net.errors import ConfigError, NotFoundError, RageError
from rage_net.services.purging import Wish
from rage_net.verbs import Progress
from rage_net.verbs import cdn as verbs

if TYPE_CHECKING:
    from rage_net.cdns import Cdns
    from rage_net.chunk.documents import Document
    from rage_net.engine import Engine, Io
    from rage_net.gate import Served

log = logging.getLogger("rage.cdn")

Store = tuple[str, Bucket]
"""A provider's name, and a bucket that it reads."""

PUTS_AT_ONCE = 8
"""Blocks under way to one bucket; each is in memory."""


async def publish_cdn(engine: Engine, verb: verbs.PublishCdn, io: Io) -> verbs.PublishCdnResult:
    """Every block of a public document into every bucket. Raises AccessDeniedError for what is not public."""
    cdns = await engine.cdns()
    names = sections_of(cdns, verb.providers)
    stores = [(name, bucket) for name in names for bucket in _buckets(cdns, name)]
    if not stores:
        raise ConfigError(
            "no CDN reads a bucket",
            why="the providers have neither `bucket` nor `dav_path`: their edges fill themselves from this node",
            mend=["set bucket of a provider in cdn.yaml", "rage cdn warm DOC"],
            id="cdn-no-bucket",
        )
    sealed = await _sealed(engine, verb.ref)
    if sealed is not None:
        return await _publish_sealed(engine, sealed, names, stores, verb.dry_run, io)
    root = await public_root(engine, verb.ref)
    blocks = await engine.env.blocking(targets.blocks_of, engine, root)
    if blocks is None:
        raise NotFoundError(
            f"the blocks of {verb.ref} are not all here",
            why="a manifest is missing, or it has more blocks than are named",
            mend=[f"rage chunk get {verb.ref} -o FILE", f"rage why {verb.ref}"],
        )
    size = sum(await engine.env.blocking(_sizes, engine, blocks))
    if verb.dry_run:
        return _planned(stores, root, len(blocks), size)
    tell = _telling(io, len(blocks) * len(stores))
    fillings = [Filling(name, bucket) for name, bucket in stores]
    run = await _note(engine, cdns, blocks)
    await asyncio.gather(*(_fill(engine, filling, blocks, tell) for filling in fillings))
    await engine.env.blocking(cdns.holdings.filled, run)
    return _published(root, len(blocks), size, fillings)


def _planned(stores: Sequence[Store], root: Cid, objects: int, size: int) -> verbs.PublishCdnResult:
    """What a dry run answers."""
    rows = tuple(verbs.PublishRow(name, str(bucket), objects, 0, 0, size) for name, bucket in stores)
    return verbs.PublishCdnResult(str(root), objects, size, rows, True)


def _published(root: Cid, objects: int, size: int, fillings: Sequence[Filling]) -> verbs.PublishCdnResult:
    """What became of a document, in the clear or sealed, at each bucket."""
    rows = tuple(map(_row, fillings))
    return verbs.PublishCdnResult(str(root), objects, size, rows, False)


def _row(filling: Filling) -> verbs.PublishRow:
    last = filling.errors[-1] if filling.errors else None
    reason = "" if last is None else f"{last.message}: {last.why}" if last.why else last.message
    return verbs.PublishRow(
        filling.provider, str(filling.bucket), filling.put, filling.existed, filling.failed, filling.bytes, reason,
        "" if last is None else last.id,
    )  # fmt: skip


def _telling(io: Io, total: int | None) -> Callable[[], None]:
    """To be called for each block that was dealt with, at any bucket."""
    done = 0

    def tell() -> None:
        nonlocal done
        done += 1
        io.report(Progress(done, total, "items", "publish"))

    return tell


async def _sealed(engine: Engine, ref: str) -> Document | None:
    """The document, where it goes to CDNs encrypted. Raises AccessDeniedError where it goes there not at all."""
    metadata = engine.metadata
    if metadata is None:
        return None

    def find() -> Document | None:
        found = [it for it in engine.documents.resolve(ref) if metadata.cdns.way(it.doc_id) == "encrypted"]
        return found[0] if found else None

    try:
        return await engine.env.blocking(find)
    except NotFoundError:
        return None


async def _publish_sealed(
    engine: Engine, document: Document, names: Sequence[str], stores: Sequence[Store], dry_run: bool, io: Io
) -> verbs.PublishCdnResult:
    """Ciphertext into every bucket, and the word to readers; where nothing has changed, what is there."""
    assert engine.metadata is not None  # else it would not be sealed
    due = await engine.env.blocking(engine.metadata.cdns.due, document.doc_id)
    if due is not None and dry_run:
        return _planned(stores, document.root, document.chunks + 1, document.size)
    found = None if due is None else await engine.publish_sealed(document.doc_id, names, _telling(io, None))
    if found is None:
        return await _current(engine, document, stores, dry_run, _telling(io, None))
    return _published(document.root, found.objects, document.size, found.stores)


async def _current(
    engine: Engine, document: Document, stores: Sequence[Store], dry_run: bool, tell: Callable[[], None]
) -> verbs.PublishCdnResult:
    """A sealed document that has not changed: buckets that came into cdn.yaml later are given it, too.

    Each is asked for the root page, the last that is ever put. Objects are those that this node put; where another did,
    as many as there are at least.
    """
    assert engine.metadata is not None
    (held,) = (await engine.env.blocking(engine.metadata.cdns.held, document.doc_id))[:1]
    holdings = (await engine.cdns()).holdings
    objects = await engine.env.blocking(holdings.count_sealed, held.epoch.hex()) or document.chunks + 1
    fillings = [Filling(name, bucket) for name, bucket in stores]
    lacking: list[Filling] = []

    async def look(filling: Filling) -> None:
        try:
            if await filling.bucket.head(key_of(held.sealed)) is not None:
                filling.existed = objects
            else:
                lacking.append(filling)
        except RageError as error:
            filling.failed = objects
            filling.errors.append(error)

    await asyncio.gather(*map(look, fillings))
    if lacking and await sealings.standing(engine, document.doc_id) is None:
        why = f"it came into cdn.yaml after {held.author} had sealed the document, and only that node can put it there"
        for filling in lacking:
            filling.failed = objects
            filling.errors.append(NotFoundError(f"{filling.bucket} has not got it", why=why, id="cdn-unsealed"))
    elif dry_run:
        for filling in lacking:
            filling.put, filling.bytes = objects, document.size
    elif lacking:
        await engine.refill_sealed(document.doc_id, lacking, tell)
    return replace(_published(document.root, objects, document.size, fillings), dry_run=dry_run, is_current=True)


def _buckets(cdns: Cdns, name: str) -> Sequence[Bucket]:
    return [bucket for it in cdns.buckets.values() if it.provider == name for bucket in it.buckets.values()]


def _sizes(engine: Engine, blocks: Sequence[Cid]) -> list[int]:
    return [stat.size if (stat := engine.store.stat(cid)) is not None else 0 for cid in blocks]


async def _fill(engine: Engine, filling: Filling, blocks: Sequence[Cid], tell: Callable[[], None]) -> None:
    """Blocks that anyone may read into one bucket."""
    work: Iterator[Cid] = iter(blocks)

    async def put() -> None:
        for cid in work:
            if filling.is_given_up:
                filling.failed += 1
                continue
            try:
                size, existed = await put_block(engine, filling.bucket, cid)
            except RageError as error:
                filling.failed += 1
                filling.errors.append(error)
            else:
                filling.existed += existed
                filling.put += not existed
                filling.bytes += 0 if existed else size
            tell()

    await asyncio.gather(*(put() for _ in range(PUTS_AT_ONCE)))


async def fill_buckets(engine: Engine, cdns: Cdns, cid: Cid) -> bool:
    """One public block into every bucket; whether one of them has it now. What fails is left for the next download."""
    if not cdns.buckets:
        return False
    is_there = False
    run = await _note(engine, cdns, [cid])
    for bucket in (bucket for it in cdns.buckets.values() for bucket in it.buckets.values()):
        try:
            await put_block(engine, bucket, cid)
        except RageError as error:
            log.info("%s was not filled: %s", bucket, error.message)
        else:
            is_there = True
    await engine.env.blocking(cdns.holdings.filled, run)
    return is_there


async def _note(engine: Engine, cdns: Cdns, cids: Sequence[Cid]) -> str:
    """Blocks are about to be put. Who is killed before `filled` has the next process look whether they are public."""
    run = f"{engine.env.random.getrandbits(60):015x}"
    await engine.env.blocking(cdns.holdings.note_filling, run, [str(cid) for cid in cids])
    return run


async def finish(engine: Engine, cdns: Cdns, fillings: Mapping[str, Sequence[str]]) -> None:
    """What earlier processes were putting when they ended: what is not public any more is deleted."""
    for run, names in fillings.items():
        cids = [Cid.parse(name) for name in names]
        gone = [cid for cid in cids if await _public(engine, cid) is None]
        if gone:
            await _take_back(engine, cdns, gone)
        await engine.env.blocking(cdns.holdings.filled, run)


async def _public(engine: Engine, cid: Cid) -> Served | None:
    """A block of a document that is public; what anyone may read by a grant is not, and is purged by nobody."""
    served = await engine.stat_served(cid, ANYONE)
    return served if served is not None and served.is_public else None


async def put_block(engine: Engine, bucket: Bucket, cid: Cid) -> tuple[int, bool]:
    """One block that anyone may read, with the headers that the node would send. Size, and whether it was there."""
    served = await _public(engine, cid)
    data = await engine.read_served(cid, ANYONE)
    if served is None or data is None:
        raise NotFoundError(
            f"{cid} is not public any more, or not here", why="it went while it was published", mend=["rage chunk list"]
        )
    path = targets.paths_of(cid)[0]
    rules = (await engine.env.blocking(lambda: engine.cdn_config)).cache_policy
    headers = policy.headers_for(rules, path, is_permanent=served.is_permanent, edges="plain")
    tags = policy.tags_of(cid, served.documents, served.words, has_more=served.has_more)
    put = await bucket.put(
        key_of(cid),
        data,
        content_type="application/vnd.ipld.dag-cbor" if cid.is_manifest() else "application/vnd.ipld.raw",
        cache_control=headers["Cache-Control"],
        tags=tags,
    )
    if await _public(engine, cid) is None:  # what emptied the bucket may have come before the put's end
        await _take_back(engine, await engine.cdns(), [cid])
        raise NotFoundError(f"{cid} ceased to be public while it was put", why="it is deleted from the buckets again")
    return len(data), put.existed


async def _take_back(engine: Engine, cdns: Cdns, cids: Sequence[Cid]) -> None:
    """Delete blocks from all buckets: journalled, so that they go even if a bucket is away or we are killed."""
    names = f"block {cids[0]}" + (f" and {len(cids) - 1} more" if len(cids) > 1 else "")
    target = Target(names, (targets.items_of(cids),))
    id, label = f"b{engine.env.random.getrandbits(60):015x}", f"{names} ceased to be public while it was put"
    await cdns.purging.ask(Wish(id, (target,), label, "narrowed", soft=False, only=tuple(cdns.buckets)))
