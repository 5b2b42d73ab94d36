"""Sealed documents of an engine: sealing one for the CDNs, and reading one from them.

    begin         a new epoch, where one is due: its key is kept, and what CDNs are to hold can be read, block by block
    standing      what they hold already, as this node sealed it: the same blocks once more
    finish        CDNs hold it: the log says so, so that readers find it
    under_way     what was begun, and is to go on
    forget_epoch  what it put to CDNs is gone: so is its key
    way           a CDN as a source of a sealed document's plain chunks

Whoever is killed in between begins with `begin` again: an epoch that was begun for the document as it is goes on, and
the same blocks come out. Not here: what is sent where, in which order, and when (sealed_cdns). Source: issue 6, C;
ADR 24.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blake3 import blake3

from rage_net import refusals, sharing
from rage_net.cdn.sealing import Epoch, Sealed, SealedBlock, seal
from rage_net.chunk import manifest
from rage_net.cid import Cid
from rage_net.errors import AccessDeniedError

if TYPE_CHECKING:
    from rage_net.chunk.source import Source
    from rage_net.engine import Engine
    from rage_net.libp2p.peer_id import PeerId
    from rage_net.metadata import Metadata
    from rage_net.services.ledger.cdns import Due
    from rage_net.services.sealing.source import SealedSource
    from rage_net.sync.facts import Fact

_STATE = b"rage:sealing:1\0"


@dataclass(frozen=True, slots=True)
class Sealing:
    """A document that is being sealed, or was: then nothing is `due`."""

    root: Cid
    due: Due | None
    epoch: Epoch
    load: Callable[[Cid], bytes]

    def blocks(self) -> Iterator[SealedBlock]:
        """All that CDNs are to hold, as it is read: the last one is the root page, without which nothing is found.

        Blocking; one block is in memory. Read again, it is the same. Raises NotFoundError for a block that is not here,
        UsageError `cdn-too-large`.
        """
        return seal(self.epoch, manifest.blocks(self.root, self.load), self.load)


async def begin(engine: Engine, doc_id: str) -> Sealing | None:
    """Seal a document of our organisation; None where what CDNs hold is right, or it does not go there encrypted.

    Raises: ConfigError `no-ca`; AccessDeniedError `read-only`; `not-admin` where this node does not rule the document,
    for nobody would heed what it says of it.
    """
    metadata = _metadata(engine)

    def draw() -> Sealing | None:
        from rage_net.services.sealing import draw_epoch

        due = metadata.cdns.due(doc_id)
        if due is None:
            return None
        metadata.require_writer()
        metadata.access.require_admin(metadata.organization, f"doc:{doc_id}")
        state = _state_of(due)
        names = {one.epoch for one in metadata.cdns.held(doc_id)}
        begun = [
            epoch for epoch in metadata.sealed.begun(metadata.organization, doc_id, state) if epoch.id not in names
        ]
        if not begun:
            begun = [draw_epoch(engine.env.random, metadata.organization, doc_id)]
            metadata.sealed.put(begun[0], state)
        return Sealing(due.root, due, begun[0], engine.store.get)

    return await engine.env.blocking(draw)


async def standing(engine: Engine, doc_id: str) -> Sealing | None:
    """What CDNs hold of a document, to be put once more; None where another node sealed it, or nobody has.

    Only who sealed it knows all the names, and deletes them when somebody may read it no longer.
    """
    metadata = _metadata(engine)

    def find() -> Sealing | None:
        for sealed in metadata.cdns.held(doc_id)[:1]:
            epoch = metadata.sealed.get(sealed.organization, doc_id, sealed.epoch)
            if epoch is not None and sealed.author == str(metadata.own):
                return Sealing(sealed.root, None, epoch, engine.store.get)
        return None

    return await engine.env.blocking(find)


async def finish(engine: Engine, sealing: Sealing, root_page: Cid) -> None:
    """CDNs hold all of it: readers find it from now on. Raises AccessDeniedError where it may not be there any more."""
    assert sealing.due is not None
    metadata = _metadata(engine)
    tell = metadata.cdns.tell_sealed
    facts = await engine.env.blocking(tell, sealing.due, sealing.epoch, root_page)
    await sharing.written(engine, metadata.organization, facts)


def under_way(engine: Engine, doc_id: str) -> tuple[bytes, ...]:
    """Epochs that were begun here for the document as it is, and that the log does not name yet. Blocking."""
    metadata = _metadata(engine)
    due = metadata.cdns.due(doc_id)
    if due is None:
        return ()
    return tuple(epoch.id for epoch in metadata.sealed.begun(metadata.organization, doc_id, _state_of(due)))


async def forget_epoch(engine: Engine, doc_id: str, id: bytes) -> None:
    """What an epoch put to CDNs is gone there: so is its key, and its name in the log if it still stands there."""
    metadata = _metadata(engine)

    def drop() -> list[Fact]:
        facts: list[Fact] = []
        if id in {one.epoch for one in metadata.cdns.held(doc_id)[:1]}:
            try:
                facts = metadata.cdns.tell_unsealed(doc_id)
            except AccessDeniedError:
                facts = []  # it rules the document no more: whoever does says so
        epoch = metadata.sealed.get(metadata.organization, doc_id, id)
        if epoch is not None:
            metadata.sealed.drop(epoch)
        return facts

    await sharing.written(engine, metadata.organization, await engine.env.blocking(drop))


# --- reading ---


async def readable(engine: Engine, root: Cid) -> tuple[Sealed, ...]:
    """What CDNs hold, encrypted, of documents with this root; nothing on an open node."""
    if engine.metadata is None:
        return ()
    return await engine.env.blocking(engine.metadata.cdns.of_root, root)


def way(
    engine: Engine, sealed: Sealed, reach: Callable[[], Awaitable[Source]]
) -> Callable[[], Awaitable[SealedSource]]:
    """How to get to a CDN as a source of the plain chunks of one sealed document.

    It raises what `reach` raises, and NotFoundError `key-not-found` where no node gives the key to this one.
    """

    async def open_() -> SealedSource:
        from rage_net.services.sealing import SealedSource

        source = await reach()
        return SealedSource(source, sealed, await key_of(engine, sealed), engine.env)

    return open_


async def key_of(engine: Engine, sealed: Sealed) -> Epoch:
    """The key of an epoch, from here or from a node that has it. Raises NotFoundError `key-not-found`."""
    metadata = _metadata(engine)
    found = await engine.env.blocking(metadata.sealed.get, sealed.organization, sealed.doc_id, sealed.epoch)
    if found is not None:
        return found
    online = await engine.online()
    assert online.keys is not None  # there is a CA
    return await online.keys.find(sealed, await engine.env.blocking(_holders, metadata, sealed))


def _holders(metadata: Metadata, sealed: Sealed) -> list[PeerId]:
    """Who may have the key, the likeliest first: who sealed it, the owner, then nodes of our organisation."""
    from rage_net.libp2p.peer_id import PeerId

    rows = metadata.log.documents(sealed.organization, doc_id=sealed.doc_id)
    named = [PeerId.parse(sealed.author)] if sealed.author else []
    known = sharing.known_nodes(metadata)
    return [peer for peer in dict.fromkeys([*named, *(row.owner for row in rows), *known]) if peer != metadata.own]


def _state_of(due: Due) -> bytes:
    return blake3(_STATE + bytes(due.root) + b"".join(due.taken)).digest(16)


def _metadata(engine: Engine) -> Metadata:
    if engine.metadata is None:
        raise refusals.no_ca()
    return engine.metadata
