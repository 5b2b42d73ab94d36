"""What a CID, a document or a tag means to CDNs: the items that purge all of it, best first, and paths that prove it.

A block lies at a CDN under each path by which it can be asked for, and under the tags of the documents that it counts
for. Source: issue 6, B; cdn-apis 1 and 10.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rage_net import sharing
from rage_net.cdn import policy
from rage_net.cdn.plan import Target
from rage_net.cdn.provider import Item, ItemError, check_prefix
from rage_net.chunk import manifest
from rage_net.cid import Cid, CidError
from rage_net.errors import NotFoundError, RageError, UsageError
from rage_net.gate import is_public_access

if TYPE_CHECKING:
    from rage_net.engine import Engine
    from rage_net.verbs.cdn import PurgeCdn

BLOCKS_MAX = 200_000
"""Of one document that are purged by URL: 200 GiB; larger ones go by tag or prefix."""
OBJECTS_MAX = 16
"""Paths of one purge by which it is proved."""
PREFIXES = (Item("prefix", "/chunks/"), Item("prefix", "/ipfs/"))
"""Everything that a node serves: the last way, where neither tags nor a list of URLs are to be had."""


def paths_of(cid: Cid) -> tuple[str, ...]:
    """The paths under which a CDN may keep a block."""
    return tuple(policy.paths_of(cid))


def items_of(cids: Iterable[Cid]) -> tuple[Item, ...]:
    """The URLs of blocks."""
    return tuple(Item("url", path) for cid in cids for path in paths_of(cid))


def blocks_of(engine: Engine, root: Cid) -> tuple[Cid, ...] | None:
    """All blocks of a root; None when a manifest of it is not here, or there are too many to name. Blocking."""
    try:
        found = tuple(islice(manifest.blocks(root, engine.store.get), BLOCKS_MAX + 1))
    except RageError:
        return None
    return found if len(found) <= BLOCKS_MAX else None


def of_cid(engine: Engine, cid: Cid) -> Target:
    """One block or, of a manifest that is here, all blocks of it. Blocking."""
    return of_blocks(cid, (blocks_of(engine, cid) or (cid,)) if cid.is_manifest() else (cid,))


def of_blocks(cid: Cid, blocks: Sequence[Cid]) -> Target:
    """What a CID stands for, by tags, else by URLs."""
    tags = tuple(Item("tag", policy.tag_for_cid(each)) for each in blocks)
    return Target(str(cid), (tags, items_of(blocks)))


def of_document(engine: Engine, doc_id: str, roots: Sequence[Cid]) -> Target:
    """A document by its tag; else its blocks' URLs; else, when it cannot be read here, everything. Blocking."""
    found = [blocks_of(engine, root) for root in roots]
    known = [blocks for blocks in found if blocks is not None]
    urls = items_of(dict.fromkeys(cid for blocks in known for cid in blocks))
    last = (urls,) if urls and len(known) == len(found) else (PREFIXES, (Item("all"),))
    return Target(f"document {doc_id}", (_tags(policy.tag_for_document(doc_id), policy.MANY_DOCUMENTS), *last))


def of_bucket(engine: Engine, doc_id: str, roots: Sequence[Cid]) -> Target | None:
    """Of a document's blocks those that no other public document has: a bucket loses nothing else. Blocking.

    Returns: None where there is none; a target without a choice where its blocks are not known here.
    """
    listed = [blocks_of(engine, root) for root in roots]
    if not all(blocks is not None for blocks in listed):
        return Target(f"document {doc_id}", ())
    blocks = dict.fromkeys(cid for those in listed for cid in those or ())
    counting = (engine.gate.counting(cid) or () for cid in blocks)  # not `look`: this node may serve nobody unknown
    kept = [any(is_public_access(access) for _, access in rows) for rows in counting]
    gone = [cid for cid, is_kept in zip(blocks, kept, strict=True) if not is_kept]
    return Target(f"document {doc_id}", (items_of(gone),)) if gone else None


async def of_verb(engine: Engine, verb: PurgeCdn) -> tuple[list[Target], tuple[str, ...], str]:
    """Targets, paths that prove the purge, and the document's id where it is of one alone. Raises UsageError."""
    targets: list[Target] = []
    objects: list[Cid] = []
    documents: list[str] = []
    for text in verb.cids:
        try:
            cid = Cid.parse(text)
        except CidError as error:
            raise UsageError(f"{text!r} is no CID", why=str(error), mend=_meant(text)) from error
        targets.append(await engine.env.blocking(of_cid, engine, cid))
        objects.append(cid)
    for ref in verb.docs:
        for doc_id, root in await _documents(engine, ref):
            targets.append(await engine.env.blocking(of_document, engine, doc_id, [root]))
            objects.append(root)
            documents.append(doc_id)
    for word in verb.tags:
        targets.append(await _of_tag(engine, word, objects))
    for prefix in verb.prefixes:
        targets.append(Target(f"prefix {prefix}", ((Item("prefix", _prefix(prefix)),),)))
    for host in verb.hosts:
        name = host.strip().lower().rstrip(".")
        if (
            not name
            or len(name) > 253
            or not all(char.isascii() and (char.isalnum() or char in ".-:") for char in name)
        ):
            raise UsageError(
                f"{host!r} is no host name",
                why="letters, digits, - and . can stand there, 253 at most: no https://, no path",
                mend=["--host cdn.example.org", "rage cdn purge --prefix /chunks/"],
            )
        targets.append(Target(f"host {name}", ((Item("host", name),),)))
    if verb.everything:
        targets.append(Target("everything", ((Item("all"),), (Item("tag", policy.ALL),), PREFIXES)))
    if verb.everything or verb.prefixes or verb.hosts:
        objects += await engine.env.blocking(_some_roots, engine)
    paths = tuple(dict.fromkeys(path for cid in objects[:OBJECTS_MAX] for path in paths_of(cid)[:1]))
    return targets, paths, documents[0] if len(documents) == len(targets) == 1 else ""


async def _documents(engine: Engine, ref: str) -> list[tuple[str, Cid]]:
    """Ids and roots of the documents that a reference means, removed ones of the log included."""
    metadata = engine.metadata
    if metadata is not None:
        rows = await engine.env.blocking(sharing.catalog_rows, metadata, ref)
        if rows:
            return [(row.doc_id, row.root) for row in rows]
    try:
        found = await engine.env.blocking(engine.documents.resolve, ref)
    except NotFoundError as error:
        raise NotFoundError(
            f"no document {ref!r}",
            why="neither the store nor the log has one of that name or id",
            mend=["rage chunk list", "rage cdn purge CID"],
            id="document-not-found",
        ) from error
    return [(document.doc_id, document.root) for document in found]


async def _of_tag(engine: Engine, word: str, objects: list[Cid]) -> Target:
    """An operator's tag: as edges have it; else the URLs of the documents here that carry it."""

    def find() -> list[Cid]:
        roots: list[Cid] = []
        after = ""
        while len(roots) < 10_000:
            page, after = engine.documents.list(after=after, limit=1000)
            roots += [document.root for document in page if word in document.tags]
            if not after:
                break
        return roots

    if not word.strip():
        raise UsageError("a tag is empty", why="no document has it", mend=["--tag legal", "rage cdn purge --all"])
    roots = await engine.env.blocking(find)
    objects += roots[:OBJECTS_MAX]
    listed = [await engine.env.blocking(blocks_of, engine, root) for root in roots]
    urls = items_of(dict.fromkeys(cid for blocks in listed if blocks is not None for cid in blocks))
    return Target(f"tag {word}", (_tags(policy.tag_for_word(word), policy.MANY_WORDS), *((urls,) if urls else ())))


def _meant(text: str) -> list[str]:
    """What somebody may have meant by a word that is no CID: a URL, a path, a document."""
    path = urlsplit(text).path
    try:
        return [f"rage cdn purge {Cid.parse(path.rpartition('/')[2])}"]
    except CidError:
        if "/" in text and path.startswith("/"):
            return [f"rage cdn purge --prefix {shlex.quote(path)}"]
        return [f"rage cdn purge --doc {shlex.quote(text)}"]


def _tags(*names: str) -> tuple[Item, ...]:
    return tuple(Item("tag", name) for name in names)


def _some_roots(engine: Engine) -> list[Cid]:
    page, _ = engine.documents.list(limit=100)
    return [document.root for document in page if document.visibility == "public"][:4]


def _prefix(text: str) -> str:
    try:
        return check_prefix(text)
    except ItemError as error:
        raise UsageError(f"{text!r} is no path's begin", why=str(error), mend=["--prefix /chunks/"]) from error
