"""The verbs of the noun sync: a plain function each. The engine takes `VERBS` into its own table.

What happens stands in `services.syncing` and `services.ledger`; here arguments are checked, and rows are made.
"""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from blake3 import blake3

from rage_net import refusals, sharing
from rage_net.env import finished
from rage_net.errors import ConflictError, IntegrityError, NotFoundError, RemoteProtocolError, UsageError
from rage_net.glance import state_of
from rage_net.verbs import Sink, Source, Verb
from rage_net.verbs import sync as verbs

if TYPE_CHECKING:
    from rage_net.acl import Conflict, Entry
    from rage_net.engine import Engine, Io
    from rage_net.metadata import Metadata
    from rage_net.services.syncing import Syncing
    from rage_net.sync.facts import Fact
    from rage_net.sync.log import Taken

SPOOL_BYTES = 8 << 20
"""Of an export in memory; what is more lies in a temporary file."""
REFUSED_S = 900.0
"""A refusal is a problem for so long: peers that hold what we refuse show it again at each round."""
REASONS_MAX = 20
"""Reasons for refusing parts of a file that are told."""


async def run_sync(engine: Engine, verb: verbs.RunSync, io: Io) -> verbs.RunSyncResult:
    """Exchange with peers now."""
    syncing = await _syncing(engine)
    online = await engine.online()
    if not engine.serves:
        await online.membership.keep_connected()
    if verb.peers:
        connections = [await online.membership.find(text) for text in verb.peers]
    else:
        connections = online.swarm.connections()
    rows: list[verbs.SyncedPeer] = []
    for connection in connections:
        rows += await syncing.exchange(connection)
    if not rows:
        raise refusals.no_sync_peers([str(connection.peer_id) for connection in connections])
    return verbs.RunSyncResult(tuple(rows))


async def show_sync(engine: Engine, verb: verbs.ShowSync, io: Io) -> verbs.SyncStatus:
    """The logs, and what peers told of theirs."""
    metadata = engine.metadata
    if metadata is None:
        words = ("no CA is set: this node keeps no log, and shares no metadata",)
        return verbs.SyncStatus(engine.organization, "open", "", 0.0, (), (), (), 0, 0, 0, words)
    syncing = engine.syncing()
    rows = tuple(row for row in syncing.rows() if not _is_revoked(metadata, row)) if syncing is not None else ()
    found = await engine.env.blocking(_describe_logs, metadata)
    logs, heads, conflicts, forks = found
    problems = list(_sync_problems(engine, rows, conflicts, forks))
    refused = sum(syncing.refused.values()) if syncing is not None else 0
    waiting = sum(conflict.is_open for _, conflict in conflicts)
    return verbs.SyncStatus(
        metadata.organization,
        state_of(engine, metadata, rows),
        metadata.log.digest(metadata.organization),
        metadata.agreed_at,
        tuple(logs),
        tuple(heads),
        rows,
        waiting,
        forks,
        refused,
        tuple(problems),
    )


def _is_revoked(metadata: Metadata, row: verbs.SyncPeerRow) -> bool:
    from rage_net.libp2p.peer_id import PeerId

    peer = PeerId.parse(row.peer_id)
    return any(metadata.is_revoked(each, "", peer) for each in (metadata.organization, row.organization))


def _sync_problems(
    engine: Engine, rows: Sequence[verbs.SyncPeerRow], conflicts: Sequence[tuple[str, Conflict]], forks: int
) -> Iterator[str]:
    if engine.is_stale():
        yield "no node of the organisation was met for too long: only what is public is served (rage sync run)"
    waiting = sum(conflict.is_open for _, conflict in conflicts)
    if waiting:
        noun = "conflict waits" if waiting == 1 else "conflicts wait"
        yield f"{waiting} {noun} for a person (rage sync conflicts)"
    if forks:
        noun = "author" if forks == 1 else "authors"
        yield f"{forks} {noun} wrote two histories (rage sync conflicts)"
    syncing = engine.syncing()
    lately = syncing.refused_lately if syncing is not None else None
    if lately is not None and engine.env.monotonic() - lately[1] < REFUSED_S:
        yield f"what an author wrote is refused here: {lately[0]} (rage sync log, rage doctor --only sync)"
    for row in rows:
        if row.error and row.organization == engine.organization:  # what others do not open is theirs to decide
            yield f"{row.peer_id[-8:]}: {row.error}"


def _describe_logs(
    metadata: Metadata,
) -> tuple[list[verbs.OrganizationLog], list[verbs.SyncHead], list[tuple[str, Conflict]], int]:
    log = metadata.log
    logs = []
    for organization in log.organizations():
        size = log.counts(organization)
        logs.append(verbs.OrganizationLog(organization, size.entries, size.chains, size.authors, size.documents))
    heads = [
        verbs.SyncHead(
            str(head.chain.author),
            f"{head.chain.incarnation:016x}",
            head.sequence,
            head.hash.hex(),
            head.chain.author == metadata.own,
        )
        for head in log.heads(metadata.organization)
    ]
    return logs, heads, metadata.access.conflicts(metadata.organization), len(log.evidence())


async def show_log(engine: Engine, verb: verbs.ShowLog, io: Io) -> verbs.ShowLogResult:
    """Facts, the newest first."""
    metadata = _metadata(engine)
    return verbs.ShowLogResult(tuple(await engine.env.blocking(_log_rows, metadata, verb)))


def _log_rows(metadata: Metadata, verb: verbs.ShowLog) -> list[verbs.LogRow]:
    organization = verb.organization or metadata.organization
    if organization not in metadata.log.organizations():
        raise NotFoundError(f"no log of {organization} is here", mend=["rage sync status"], id="log-not-found")
    if verb.resource:
        found = sorted(metadata.log.facts(organization, verb.resource), key=lambda fact: (-fact.lamport, fact.id))
    else:
        newest = metadata.log.log(organization, limit=10_000 if verb.author else verb.limit)
        found = [fact for _, fact in newest]
    found = [fact for fact in found if not verb.author or verb.author in str(fact.author)][: verb.limit]
    counts: dict[str, tuple[set[bytes], set[bytes]]] = {}
    rows = []
    for fact in found:
        if fact.resource not in counts:
            rights = metadata.access.rights(organization, fact.resource)
            counts[fact.resource] = {one.id for one in rights.facts}, {one.id for one in rights.in_force}
        counted, in_force = counts[fact.resource]
        what, text = describe(fact)
        rows.append(
            verbs.LogRow(
                fact.id.hex(),
                organization,
                str(fact.author),
                f"{fact.chain.incarnation:016x}",
                fact.sequence,
                fact.lamport,
                what,
                fact.resource,
                text,
                fact.id in counted,
                fact.id in in_force,
            )
        )
    return rows


def describe(fact: Fact) -> tuple[str, str]:
    """What kind of fact it is, and what it says, for people."""
    from rage_net.cert.words import serial_text
    from rage_net.sync import facts as kinds

    match fact.body:
        case kinds.Access() as body if body.visibility:
            return "visibility", body.visibility
        case kinds.Access() as body:
            until = f" until {_date(body.expires_at)}" if body.expires_at else ""
            return ("grant" if body.allowed else "denial"), f"{body.principal} {body.action}{until}"
        case kinds.Certificate() as body:
            return "certificate", _describe_certificate(body.certificates)
        case kinds.Revocation() as body:
            serial = serial_text(int.from_bytes(body.serial, "big"))
            what = f"certificate {serial}" if body.serial else "all certificates"
            return "revocation", f"{what} of {body.peer}{': ' + body.reason if body.reason else ''}"
        case kinds.NodeRecord() as body:
            return "node", f"{body.region or '-'} {body.zone or '-'} weight {body.weight} {body.state}"
        case kinds.Document() as body:
            return "document", f"{body.root} {body.size} bytes"
        case kinds.Edit() as body:
            return "edit", f"{len(body.update)} bytes"
        case kinds.Tombstone() as body:
            return "tombstone", body.reason
        case kinds.Acknowledgement():
            return "acknowledgement", "dropped"
        case kinds.Purged() as body:
            last = body.purges[-1]
            return "purged", f"from {', '.join(one.name for one in last.providers)}"
        case kinds.Cdn() as body:
            way = body.mode or "not unless it is public"
            return "cdn", f"{way}, epoch {body.epoch.hex()[:8]}" if body.epoch else way
        case kinds.Trust() as body:
            return "trust", "withdrawn" if body.withdrawn else ",".join(body.scopes)
        case kinds.Adoption() as body:
            return "adoption", f"{len(body.payloads)} facts of {body.author}"
        case kinds.Closing() as body:
            return "closing", f"{len(body.chains)} chains of {body.author}"
    return "unknown", "of a newer version"


def _date(at: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if at < 1 << 37 else str(at)


def _describe_certificate(certificates: Sequence[bytes]) -> str:
    from rage_net.cert import parse
    from rage_net.errors import CertificateError

    try:
        found = parse(certificates[0])
    except (CertificateError, IndexError):
        return "unreadable"
    return f"{found.serial} {','.join(sorted(found.capabilities)) or '-'} until {_date(int(found.not_after))}"


async def diff_sync(engine: Engine, verb: verbs.DiffSync, io: Io) -> verbs.DiffSyncResult:
    """Our chains and a peer's."""
    syncing = await _syncing(engine)
    organization = _metadata(engine).organization
    connection = await (await engine.online()).membership.find(verb.peer)
    rows = await syncing.diff(connection, organization)
    return verbs.DiffSyncResult(str(connection.peer_id), organization, tuple(rows))


# --- contradictions ---


async def list_conflicts(engine: Engine, verb: verbs.ListConflicts, io: Io) -> verbs.ListConflictsResult:
    """Contradictions that wait, and with `all` those that a strategy settled."""
    metadata = _metadata(engine)
    found = await engine.env.blocking(metadata.access.conflicts, metadata.organization)
    rows = [_conflict_row(metadata.organization, *each) for each in found if verb.all or each[1].is_open]
    forks = [
        verbs.ForkRow(
            str(fork.chain.author),
            f"{fork.chain.incarnation:016x}",
            fork.sequence,
            tuple(segment.entries[-1].payload_hash.hex() for segment in (fork.ours, fork.theirs)),
        )
        for fork in await engine.env.blocking(metadata.log.evidence)
    ]
    return verbs.ListConflictsResult(tuple(rows), tuple(forks))


def _conflict_row(organization: str, resource: str, conflict: Conflict) -> verbs.ConflictRow:
    facts = [verbs.ConflictFact(entry.id.hex(), entry.author, entry.lamport, _say(entry)) for entry in conflict.entries]
    subject = "visibility" if conflict.winner.visibility else " ".join(conflict.key)
    return verbs.ConflictRow(
        conflict_id(resource, conflict),
        organization,
        resource,
        subject,
        conflict.strategy,
        _say(conflict.winner),
        conflict.is_open,
        tuple(facts),
    )


def conflict_id(resource: str, conflict: Conflict) -> str:
    """A name for a contradiction: it changes when another fact joins it."""
    hasher = blake3(resource.encode())
    for entry in sorted(conflict.entries, key=lambda entry: entry.id):
        hasher.update(entry.id)
    return hasher.hexdigest()[:16]


def _say(entry: Entry) -> str:
    if entry.visibility:
        return entry.visibility
    return "allowed" if entry.allowed else "denied"


async def resolve_conflict(engine: Engine, verb: verbs.ResolveConflict, io: Io) -> verbs.ResolveConflictResult:
    """Write a fact that has seen all of a contradiction's."""
    metadata = _metadata(engine)
    metadata.require_writer()
    fact, result = await engine.env.blocking(_resolve, metadata, verb)
    await sharing.written(engine, metadata.organization, [fact])
    return result


def _resolve(metadata: Metadata, verb: verbs.ResolveConflict) -> tuple[Fact, verbs.ResolveConflictResult]:
    from rage_net.acl import resolve

    organization = metadata.organization
    found = [
        (resource, conflict)
        for resource, conflict in metadata.access.conflicts(organization)
        if conflict_id(resource, conflict).startswith(verb.id)
    ]
    if len(found) != 1:
        if found:
            raise UsageError(f"{verb.id!r} fits {len(found)} conflicts", mend=["rage sync conflicts --all"])
        raise NotFoundError(
            f"no conflict {verb.id!r}",
            why="it is resolved, or another fact has joined it, which gave it a new id",
            mend=["rage sync conflicts --all"],
            id="conflict-not-found",
        )
    ((resource, conflict),) = found
    if verb.keep == "restrictive":
        kept = resolve(conflict.entries, "most-restrictive")
    else:
        chosen = [entry for entry in conflict.entries if entry.id.hex().startswith(verb.keep)]
        if len(chosen) != 1:
            raise NotFoundError(
                f"conflict {verb.id} has no one fact {verb.keep!r}",
                mend=[f"rage sync resolve {verb.id} --keep {entry.id.hex()[:16]}" for entry in conflict.entries[:3]],
                id="fact-not-found",
            )
        kept = chosen[0]
    (fact,) = metadata.access.append(organization, resource, [kept])  # it has seen, and replaces, all in force
    subject = "visibility" if kept.visibility else " ".join(conflict.key)
    return fact, verbs.ResolveConflictResult(verb.id, resource, subject, _say(kept), fact.id.hex())


# --- by hand ---


async def export_sync(engine: Engine, verb: verbs.ExportSync, io: Io) -> verbs.ExportSyncResult:
    """The log as a file: a SyncRequest that names it, then SyncResponses, each behind its length."""
    return await engine.env.waiting(_export, _metadata(engine), cast(Sink, io.sink))


def _export(metadata: Metadata, sink: Sink) -> verbs.ExportSyncResult:
    from rage_net.libp2p import varint
    from rage_net.sync import wire

    organization, envelopes = metadata.organization, 0
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:

        def write(data: bytes) -> None:
            spool.write(varint.encode(len(data)) + data)

        write(wire.encode_request(wire.Request(organization, (), True)))
        segments = metadata.log.missing(organization, (), is_complete=True, bytes_max=verbs.EXPORT_BYTES_MAX)
        for segment in segments:
            envelopes += len(segment.entries)
            write(wire.encode_response(wire.Response(wire.OK, [segment])))
        size = spool.tell()
        if size > verbs.EXPORT_BYTES_MAX:
            raise ConflictError("the log is too large to export", mend=["rage sync compact"])
        sink.begin(size)
        spool.seek(0)
        while part := spool.read(1 << 20):
            sink.write(part)
    return verbs.ExportSyncResult(organization, envelopes, size)


async def import_sync(engine: Engine, verb: verbs.ImportSync, io: Io) -> verbs.ImportSyncResult:
    """Take a file that `export` wrote; what is new is told to peers as if it had been fetched.

    A part at a time: what stands before damage is taken, and obeyed, and a file of any size costs the memory of one.
    """
    from rage_net.sync import wire

    metadata = _metadata(engine)
    messages = _messages(cast(Source, io.source), wire.RESPONSE_BYTES_MAX)
    received = refused = 0
    reasons: set[str] = set()
    try:
        organization = await engine.env.waiting(_read_whose, metadata, messages)
        while (data := await engine.env.waiting(next, messages, None)) is not None:
            taken = await finished(_take_part(engine, metadata, organization, data))
            received += len(taken.new)
            refused += len(taken.refused)
            if len(reasons) < REASONS_MAX:
                reasons |= {f"{head.chain.author}: {why}" for head, why in taken.refused}
    except RemoteProtocolError as error:
        raise IntegrityError("the file is no exported log", why=str(error), mend=["rage sync export"]) from error
    return verbs.ImportSyncResult(organization, received, refused, tuple(sorted(reasons)[:REASONS_MAX]))


def _read_whose(metadata: Metadata, messages: Iterator[bytes]) -> str:
    """Whose log the file is. Raises RemoteProtocolError, and when nobody here trusts that organisation."""
    from rage_net.sync import wire

    request = wire.decode_request(next(messages, b""))
    if not request.organization:
        raise RemoteProtocolError("it names no organisation")
    is_known = request.organization == metadata.organization or any(
        anchor.organization == request.organization and "sync" in anchor.scopes
        for anchor in metadata.authority.foreign_anchors()
    )
    if not is_known:
        raise refusals.untrusted_log(request.organization)
    return request.organization


async def _take_part(engine: Engine, metadata: Metadata, organization: str, data: bytes) -> Taken:
    from rage_net.sync import wire

    def authority(author: Any, certificates: tuple[bytes, ...]) -> frozenset[str] | None:
        return metadata.authority.judge(organization, author, certificates)

    def take() -> Taken:
        return metadata.log.take(organization, wire.decode_response(data).changes, authority=authority)

    taken = await engine.env.waiting(take)
    if taken.is_rejudged:
        metadata.conclude()
    if len(taken.new):
        await sharing.take(engine, organization, list(taken.new))
    return taken


def _messages(source: Source, size_max: int) -> Iterator[bytes]:
    """Messages behind their lengths, each bounded before it is read. Raises RemoteProtocolError."""

    def read(size: int) -> bytes:
        data = bytearray(size)
        view, done = memoryview(data), 0
        while done < size:
            count = source.readinto(view[done:]) or 0
            if not count:
                break
            done += count
        return bytes(view[:done])

    while True:
        size = shift = 0
        while True:
            byte = read(1)
            if not byte:
                if shift:
                    raise RemoteProtocolError("it ends within a length")
                return
            size |= (byte[0] & 0x7F) << shift
            shift += 7
            if not byte[0] & 0x80:
                break
            if shift > 28:
                raise RemoteProtocolError("a length of more than four bytes")
        if size > size_max:
            raise RemoteProtocolError(f"a message of {size} bytes; {size_max} is the most")
        data = read(size)
        if len(data) < size:
            raise RemoteProtocolError(f"it ends {size - len(data)} bytes early")
        yield data


async def compact_sync(engine: Engine, verb: verbs.CompactSync, io: Io) -> verbs.CompactSyncResult:
    """Shed what is no longer wanted of our chains, or of a departed author's."""
    metadata = _metadata(engine)
    metadata.require_writer()
    author = (await engine.online()).membership.match(verb.author) if verb.author else None
    before, after = await engine.env.waiting(_compact, metadata, author, verb.dry_run)
    syncing = engine.syncing()
    if syncing is not None and not verb.dry_run:
        heads = metadata.log.heads(metadata.organization)
        syncing.announce(metadata.organization, [head for head in heads if head.chain.author == metadata.own])
    return verbs.CompactSyncResult(metadata.organization, before, after, verb.dry_run)


def _compact(metadata: Metadata, author: Any, dry_run: bool) -> tuple[int, int]:
    organization = metadata.organization
    whose = metadata.own if author is None else author
    heads = metadata.log.heads(organization)
    before = sum(head.sequence for head in heads if head.chain.author == whose)
    if whose == metadata.own:
        shed = metadata.log.compact(organization, dry_run=dry_run)
    elif metadata.authority.is_admin(organization, metadata.own):
        shed = metadata.log.adopt(organization, whose, dry_run=dry_run)
    else:
        raise refusals.not_an_admin()
    metadata.access.forget_all()
    return before, before - shed


def _metadata(engine: Engine) -> Metadata:
    if engine.metadata is None:
        raise refusals.no_ca()
    return engine.metadata


async def _syncing(engine: Engine) -> Syncing:
    _metadata(engine)
    syncing = (await engine.online()).syncing
    assert syncing is not None
    return syncing


VERBS: dict[type[Verb[Any]], Callable[[Engine, Any, Io], Awaitable[Any]]] = {
    verbs.RunSync: run_sync,
    verbs.ShowSync: show_sync,
    verbs.ShowLog: show_log,
    verbs.DiffSync: diff_sync,
    verbs.ListConflicts: list_conflicts,
    verbs.ResolveConflict: resolve_conflict,
    verbs.ExportSync: export_sync,
    verbs.ImportSync: import_sync,
    verbs.CompactSync: compact_sync,
}
