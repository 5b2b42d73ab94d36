"""What a node's status says of certificate, trust, log and CDNs, at a glance.

`rage sync status`, `rage cdn status` and `rage doctor` say more.

Cheap enough to be asked every few seconds. Source: issue 4, G.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from rage_net.checkup.outcomes import span
from rage_net.errors import RageError
from rage_net.verbs.node import CdnGlance, CertificateState, NodeStatus, SyncGlance
from rage_net.verbs.sync import SyncPeerRow

if TYPE_CHECKING:
    from rage_net.cert import NodeCertificate
    from rage_net.engine import Engine
    from rage_net.metadata import Metadata

SyncState = Literal["in sync", "catching up", "stale", "alone"]


def state_of(engine: Engine, metadata: Metadata, rows: Sequence[SyncPeerRow]) -> SyncState:
    """How the log of our organisation is, in a word. Args: rows: what is known of others' copies."""
    if engine.is_stale():
        return "stale"
    own = [row for row in rows if row.organization == metadata.organization and row.synced_at]
    if not own:
        return "alone"
    return "catching up" if any(row.error for row in own) else "in sync"


async def complete(engine: Engine, status: NodeStatus) -> NodeStatus:
    """The status, with what CDNs, certificate and log say; an open node has neither certificate nor log."""
    status = await _complete_cdn(engine, status)
    metadata = engine.metadata
    if metadata is None:
        return status
    problems: list[str] = []
    certificate = None
    try:
        certificate = await engine.env.blocking(metadata.proof)
    except RageError as error:
        if not engine.serves:  # a node says so itself
            problems.append(f"no peer will trust this node: {error.message} (rage doctor --only certificate)")
    sync = await _glance(engine, metadata)
    if sync.conflicts:
        problems.append(f"{sync.conflicts} conflicts wait for a person (rage sync conflicts)")
    if sync.forks:
        problems.append(f"{sync.forks} chains have two histories (rage sync conflicts)")
    replicating = engine.replicating()
    if replicating is not None and replicating.short:
        count = replicating.short
        problems.append(f"{count} chunk{'s lack' if count > 1 else ' lacks'} proved copies (rage replication status)")
    foreign = await engine.env.blocking(metadata.authority.foreign_anchors)
    return replace(
        status,
        problems=(*problems, *status.problems),
        certificate=None if certificate is None else show_certificate(certificate),
        is_proven=certificate is not None,
        trusted=tuple(sorted({anchor.organization for anchor in foreign} - {metadata.organization})),
        sync=sync,
    )


async def _complete_cdn(engine: Engine, status: NodeStatus) -> NodeStatus:
    """How many CDNs, what of purges waits or failed; without cdn.yaml nothing is looked at."""
    try:
        found = await engine.env.blocking(engine.glance_cdns)
    except RageError as error:  # the journal is damaged, or a newer version's
        return replace(status, problems=(f"{error.message} (rage doctor --only purges)", *status.problems))
    if found is None:
        return status
    from rage_net.cdn.glance import LONG_S

    providers, seen = found
    failed = sum(seen.failed.values())
    problems = []
    if failed:
        where = ", ".join(seen.failed)
        names = "a name" if failed == 1 else f"{failed} names"
        problems.append(f"{names} could not be purged at {where}, and may be given out still (rage cdn check)")
    if seen.open and engine.env.now() - seen.open_since > LONG_S:
        problems.append(
            f"a purge waits for {span(engine.env.now() - seen.open_since)} (rage cdn journal {seen.oldest})"
        )
    cdn = CdnGlance(providers, seen.open, seen.open_since, failed, tuple(seen.failed))
    return replace(status, problems=(*problems, *status.problems), cdn=cdn)


async def _glance(engine: Engine, metadata: Metadata) -> SyncGlance:
    syncing = engine.syncing()
    rows = syncing.rows() if syncing is not None else []
    size = await engine.env.blocking(metadata.log.counts, metadata.organization)
    waiting = await engine.env.blocking(metadata.access.waiting, metadata.organization)
    failing = sum(bool(row.error) for row in rows)
    state = state_of(engine, metadata, rows)
    return SyncGlance(state, metadata.agreed_at, size.entries, waiting, size.forks, failing)


def show_certificate(certificate: NodeCertificate) -> CertificateState:
    """A node's own certificate, for operators."""
    return CertificateState(
        certificate.serial,
        certificate.organization,
        tuple(sorted(certificate.capabilities)),
        certificate.not_after,
        certificate.renew_until,
    )
