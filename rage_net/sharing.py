"""What an engine does when facts are written here or arrive: their effects here, and the word to others.

    written    by us: told to others, done here
    take       from others: done here; what we write in answer is told
    publish    a document that was put
    remove     a document, everywhere, and who has seen it
    find_root  what a name means in the whole organisation

Source: design D6; issue 4, D. Not here: rules (services), the wire (services.syncing).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from rage_net.chunk import views
from rage_net.cid import Cid, CidError
from rage_net.errors import AccessDeniedError, NotFoundError, RageError, UsageError
from rage_net.verbs import chunk as chunks

if TYPE_CHECKING:
    from rage_net.engine import Engine
    from rage_net.libp2p.peer_id import PeerId
    from rage_net.metadata import Metadata
    from rage_net.services.ledger.records import Applied
    from rage_net.sync.documents import DocumentRow
    from rage_net.sync.facts import Fact

PAGE_MAX = 1000
COUNTED_MAX = 65_536
"""Chunks of one document that are looked at: two seconds of a thread."""
ASKED_S_MAX = 2.0
ASKED_MAX = 8
"""Nodes of our organisation that are asked why something cannot be had."""
LOOK_S = 0.2
"""Between two looks at who has seen a removal."""
WAIT_S_MAX = 3600.0


async def written(engine: Engine, organization: str, facts: Sequence[Fact]) -> None:
    """Facts of ours are durable: do here what they say, and tell others."""
    if not facts:
        return
    metadata = engine.metadata
    assert metadata is not None
    _announce(engine, metadata, organization, facts)
    await _apply(engine, metadata, organization, facts)


async def take(engine: Engine, organization: str, facts: Sequence[Fact]) -> None:
    """Facts of others are durable: do here what they say."""
    metadata = engine.metadata
    assert metadata is not None
    await _apply(engine, metadata, organization, facts)


async def _apply(engine: Engine, metadata: Metadata, organization: str, facts: Sequence[Fact]) -> None:
    def apply() -> Applied:
        applied = metadata.records.apply(organization, facts)
        if applied.trust_changed:
            metadata.conclude()
            metadata.rejudge_if_due()
        return applied

    applied = await engine.env.blocking(apply)
    _place_anew(engine, facts)
    if applied.trust_changed:
        engine.reconsider()
    if applied.roots_changed:
        engine.read_roots_anew()
    _announce(engine, metadata, metadata.organization, applied.written)
    doc_ids = _documents_of(facts)
    if doc_ids is None or doc_ids:
        await engine.reconsider_cdns(doc_ids, is_ours=all(fact.author == metadata.own for fact in facts))


def _documents_of(facts: Sequence[Fact]) -> list[str] | None:
    """Documents that facts are about; None when they may concern any."""
    resources = {fact.resource for fact in facts}
    if any(not resource.startswith(("doc:", "peer:", "topic:")) for resource in resources):
        return None
    return [resource[4:] for resource in resources if resource.startswith("doc:")]


def _place_anew(engine: Engine, facts: Sequence[Fact]) -> None:
    """Where chunks belong may have changed: with documents and rights on them, with nodes, with whom to believe."""
    replicating = engine.replicating()
    if replicating is None:
        return
    resources = {fact.resource for fact in facts}
    doc_ids = [resource[4:] for resource in resources if resource.startswith("doc:")]
    replicating.changed(doc_ids if len(doc_ids) == len(resources) else None)


def _announce(engine: Engine, metadata: Metadata, organization: str, facts: Sequence[Fact]) -> None:
    syncing = engine.syncing()
    if syncing is not None and facts:
        chains = {fact.chain for fact in facts}
        syncing.announce(organization, [head for head in metadata.log.heads(organization) if head.chain in chains])


def check_words(engine: Engine, name: str, tags: Sequence[str]) -> None:
    """Pass for a name and tags that the log takes, where this node writes one. Raises UsageError."""
    if engine.metadata is not None and engine.metadata.may_write():
        from rage_net.services.ledger import records

        records.check_words(name, tags)


def check_cdn(engine: Engine, word: str) -> None:
    """Pass where this node may say how its documents go to CDNs, before anything is read. Raises RageError."""
    from rage_net import refusals
    from rage_net.services.ledger.cdns import mode_of_word

    mode_of_word(word)
    if engine.metadata is None:
        raise refusals.no_ca()
    engine.metadata.require_writer()


async def rule_cdn(engine: Engine, doc_id: str, word: str) -> None:
    """Say in the log how a document of ours may go to CDNs while it is not public."""
    from rage_net.services.ledger.cdns import mode_of_word

    metadata = engine.metadata
    assert metadata is not None  # checked before it was put
    facts = await engine.env.blocking(metadata.cdns.rule, doc_id, mode_of_word(word))
    await written(engine, metadata.organization, facts)


async def publish(engine: Engine, doc_id: str) -> None:
    """A document was put here: the log learns of it, where this node may write."""
    metadata = engine.metadata
    if metadata is None:
        return

    def write() -> list[Fact]:
        return metadata.records.publish(engine.documents.get(doc_id)) if metadata.may_write() else []

    await written(engine, metadata.organization, await engine.env.blocking(write))


async def keep(engine: Engine) -> None:
    """A node's round: our certificate, our word of this node, documents that the log lacks, retention that is over."""
    metadata = engine.metadata
    if metadata is None:
        return

    is_narrower = False
    replicating = engine.replicating()
    per_day = replicating.used_per_day() if replicating is not None else {}

    def write() -> list[Fact]:
        nonlocal is_narrower
        facts = metadata.reload()
        facts += metadata.tell_of_node(engine.config.network.region, engine.config.network.zone)
        if metadata.may_write():
            facts += metadata.records.reconcile()
            facts += metadata.records.expire()
            if replicating is not None:
                facts += metadata.records.choose_policies(replicating.policies, per_day)
        is_narrower = metadata.records.align()
        metadata.save_agreed()
        return facts

    await written(engine, metadata.organization, await engine.env.waiting(write))
    if is_narrower:
        engine.read_roots_anew()


# --- removal everywhere ---


async def remove_everywhere(engine: Engine, verb: chunks.RemoveChunk) -> chunks.RemoveChunkResult:
    """Write tombstones, and wait until every known node has seen them, as long as the verb says."""
    from rage_net import refusals

    metadata = engine.metadata
    if metadata is None:
        raise refusals.no_ca()
    if not 0 <= verb.wait_s <= WAIT_S_MAX:
        raise UsageError(f"a wait is 0 to {WAIT_S_MAX:.0f} s", mend=["--wait 30s"])
    metadata.require_writer()
    rows = await engine.env.blocking(_find_documents, metadata, verb.ref)
    local = await engine.env.blocking(_measure, engine, rows)
    rights = [await engine.env.blocking(metadata.access.rights, row.organization, f"doc:{row.doc_id}") for row in rows]
    shown = tuple(_show(row, right.access.visibility) for row, right in zip(rows, rights, strict=True))
    if verb.dry_run:
        for row in rows:
            await engine.env.blocking(metadata.access.require_admin, metadata.organization, f"doc:{row.doc_id}")
        return chunks.RemoveChunkResult(shown, local, True, True)
    living = [row for row in rows if not row.is_dead]
    facts = await engine.env.blocking(metadata.records.remove, living)
    await written(engine, metadata.organization, facts)
    if not living:  # removed before: who has seen it by now?
        facts = await engine.env.blocking(metadata.records.tombstones, [row.doc_id for row in rows])
    nodes = await engine.env.blocking(known_nodes, metadata)
    nodes += [peer for peer in _connected_members(engine, metadata) if peer not in nodes]
    ends = engine.env.monotonic() + verb.wait_s
    while True:
        seen, awaiting = await engine.env.blocking(_sort_nodes, engine, metadata, nodes, facts)
        if not awaiting or engine.env.monotonic() >= ends:
            break
        await _ask_for_heads(engine, metadata, awaiting)
        await asyncio.sleep(LOOK_S)
    return chunks.RemoveChunkResult(shown, local, False, True, tuple(map(str, seen)), tuple(map(str, awaiting)))


async def _ask_for_heads(engine: Engine, metadata: Metadata, nodes: Sequence[PeerId]) -> None:
    """One that took the facts from somebody else, and has nothing to acknowledge, says so when it is asked alone."""
    syncing = engine.syncing()
    online = await engine.online()
    for connection in online.swarm.connections():
        if syncing is not None and connection.peer_id in nodes:
            await syncing.pull(connection, metadata.organization, within_s=ASKED_S_MAX)


def _connected_members(engine: Engine, metadata: Metadata) -> list[PeerId]:
    """Nodes of our organisation that are connected, whether they have told of themselves yet or not."""
    trust = engine.trust()
    if trust is None:
        return []
    own = metadata.organization
    return [each.peer_id for each in trust.standings() if each.is_trusted and each.organization == own]


def _measure(engine: Engine, rows: Sequence[DocumentRow]) -> int:
    total = 0
    for row in rows:
        try:
            total += engine.documents.measure_release(engine.documents.get(row.doc_id))[1]
        except NotFoundError:
            continue
    return total


def _find_documents(metadata: Metadata, ref: str) -> list[DocumentRow]:
    rows = [row for row in catalog_rows(metadata, ref) if row.organization == metadata.organization]
    found = [row for row in rows if not row.is_dead] or rows
    if not found:
        raise NotFoundError(
            f"no document {ref!r} in the log of {metadata.organization}",
            mend=["rage chunk list", "rage sync log"],
            id="document-not-found",
        )
    return found


def catalog_rows(metadata: Metadata, ref: str) -> list[DocumentRow]:
    """The documents that an id, a root's CID or a name means: our organisation's, else others'. Blocking."""
    try:
        root = Cid.parse(ref)
    except CidError:
        root = None
    organizations = [metadata.organization, *metadata.log.organizations()]
    for organization in dict.fromkeys(organizations):
        if root is not None:
            rows = metadata.log.documents(organization, root=root)
        else:
            rows = metadata.log.documents(organization, doc_id=ref) or metadata.log.documents(organization, name=ref)
        if rows:
            return list(rows)
    return []


def known_nodes(metadata: Metadata) -> list[PeerId]:
    """Nodes of our organisation, but for this one, that have told of themselves and are not lost. Blocking."""
    from rage_net.libp2p.peer_id import PeerId
    from rage_net.sync import facts as kinds

    organization, found = metadata.organization, []
    told = dict.fromkeys(fact.resource for fact in metadata.log.by_kind(organization, kinds.NodeRecord))
    for resource in told:
        peer = PeerId.parse(resource.removeprefix("peer:"))
        bodies = [fact.body for fact in metadata.access.rights(organization, resource).in_force]
        states = {body.state for body in bodies if isinstance(body, kinds.NodeRecord)}
        is_here = states and "lost" not in states and not metadata.authority.is_revoked(organization, "", peer)
        if is_here and peer != metadata.own:
            found.append(peer)
    return found


def _sort_nodes(
    engine: Engine, metadata: Metadata, nodes: Sequence[PeerId], facts: Sequence[Fact]
) -> tuple[list[PeerId], list[PeerId]]:
    """Which nodes have seen all of the facts: they said so in the log, or showed heads that hold them."""
    syncing = engine.syncing()
    heads = {head.chain: head for head in metadata.log.heads(metadata.organization)}
    last = max(facts, key=lambda fact: fact.sequence)
    dropped = [metadata.records.acknowledged(doc_id) for doc_id in {fact.resource[4:] for fact in facts}]
    seen: list[PeerId] = []
    awaiting: list[PeerId] = []
    for node in nodes:
        has_acknowledged = all(node in those for those in dropped)
        head = heads.get(last.chain)
        has_seen = syncing is not None and head is not None and syncing.has_seen(node, metadata.organization, head)
        (seen if has_acknowledged or has_seen else awaiting).append(node)
    return seen, awaiting


async def list_catalog(engine: Engine, verb: chunks.ListChunks) -> chunks.ListChunksResult:
    """A page of what the organisation's log knows, living documents alone. The cursor is the last one's name and id."""
    from rage_net import refusals

    metadata = engine.metadata
    if metadata is None:
        raise refusals.no_ca()
    limit = max(1, min(verb.limit, PAGE_MAX))

    def read() -> chunks.ListChunksResult:
        after = (verb.cursor[26:], verb.cursor[:26]) if verb.cursor else None
        page = metadata.log.documents(metadata.organization, tag=verb.tag or None, after=after, limit=limit)
        shown = [
            _show(row, metadata.access.rights(row.organization, f"doc:{row.doc_id}").access.visibility)
            for row in page
            if not row.is_dead and row.name.startswith(verb.prefix)
        ]
        return chunks.ListChunksResult((), tuple(shown), page[-1].doc_id + page[-1].name if len(page) == limit else "")

    return await engine.env.blocking(read)


def _show(row: DocumentRow, visibility: str) -> chunks.Document:
    return chunks.Document(
        doc_id=row.doc_id,
        root=str(row.root),
        name=row.name,
        size=row.size,
        chunks=row.chunks,
        owner=str(row.owner),
        visibility=cast(chunks.Visibility, visibility),
        tags=tuple(row.tags),
        created_at=float(row.created_at),
        expires_at=float(row.retention_until) if row.retention_until else None,
    )


async def count_local(engine: Engine, root: Cid) -> None:
    """A document came whole, and some of its chunks were here already: it counts for those that its author may read.

    What its author cannot read here stays what it was: naming a chunk grants nothing (design D7).
    """
    metadata = engine.metadata
    if metadata is None:
        return

    def count() -> None:
        from rage_net.acl import Principal
        from rage_net.chunk import manifest
        from rage_net.chunk.shelf import attest

        for row in catalog_rows(metadata, str(root)):
            if row.is_dead or row.owner == metadata.own:
                continue
            capabilities = metadata.log.capabilities(row.organization, row.owner) or frozenset()
            scopes = metadata.authority.scopes(row.organization)
            author = Principal("peer", str(row.owner), row.organization, capabilities=capabilities, scopes=scopes)
            blocks = manifest.blocks(root, engine.store.get)
            cids = engine.gate.may_count((cid for cid, _ in zip(blocks, range(COUNTED_MAX), strict=False)), author)
            attest(engine.store, [(cid, False, [(row.organization, row.doc_id)]) for cid in cids])

    await engine.env.blocking(count)


# --- what cannot be had ---


async def explain_absence(engine: Engine, root: Cid, error: RageError) -> RageError:
    """Why a root was not to be had: a node of our own organisation says so when it is denied, if it is asked itself."""
    metadata = engine.metadata
    if metadata is None or error.id not in ("chunk-not-found", "sources-unreachable"):
        return error
    online = await engine.online()
    members = [
        connection
        for connection in online.swarm.connections()
        if online.trust.certified(connection.peer_id).organization == metadata.organization
    ]
    ends = engine.env.monotonic() + ASKED_S_MAX
    for connection in members[:ASKED_MAX]:
        if engine.env.monotonic() >= ends:
            break
        try:
            async with asyncio.timeout(ASKED_S_MAX):
                await online.exchange.fetch(connection, root, 0)
        except AccessDeniedError:
            return AccessDeniedError(
                f"{root} is denied to this node",
                why=f"{connection.peer_id} has it, and no right on a document that it belongs to is this node's",
                mend=[f"there: rage acl grant DOC peer:{metadata.own} read", f"there: rage acl show {root}"],
                id="chunk-denied",
            )
        except (RageError, TimeoutError):
            continue
    return error


# --- names ---


async def find_root(engine: Engine, ref: str) -> Cid:
    """The root that a CID, document id or name means, here or in our organisation. Raises NotFoundError, UsageError."""
    with suppress(CidError):
        return Cid.parse(ref)
    try:
        return await engine.env.blocking(views.find_root, engine.documents, ref)
    except NotFoundError:
        metadata = engine.metadata
        if metadata is None:
            raise
        rows = await engine.env.blocking(catalog_rows, metadata, ref)
        roots = {row.root for row in rows if not row.is_dead}
        if not roots:
            raise
        if len(roots) > 1:
            raise UsageError(
                f"{ref!r} means {len(roots)} documents",
                mend=[f"rage chunk get {row.doc_id}" for row in rows[:3]],
            ) from None
        return roots.pop()
