"""Which policy is for what, and why."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from rage_net import sharing
from rage_net.cid import Cid, CidError
from rage_net.errors import (
    NotFoundError,
)
from rage_net.replication.policy import Choice, Subject
from rage_net.replication_verbs.asking import (
    metadata_of,
    replication_of,
)
from rage_net.replication_verbs.status import disagreeing
from rage_net.verbs import replication as verbs

if TYPE_CHECKING:
    from rage_net.engine import Engine, Io

DAY_S = 86_400.0


async def list_policies(engine: Engine, verb: verbs.ListPolicies, io: Io) -> verbs.ListPoliciesResult:
    """The policies of this node's files, and who has others."""
    replicating = await replication_of(engine)
    rows = await engine.env.blocking(replicating.inventory.totals)
    documents = {row.policy: row.documents for row in rows}
    return verbs.ListPoliciesResult(
        tuple(
            verbs.PolicyDefinition(name, factor, minimum, selector, documents.get(name, 0))
            for name, factor, minimum, selector in replicating.policies.rows()
        ),
        replicating.view.strategy,
        str(engine.config.network.replication.policies_file),
        tuple(disagreeing(replicating)),
    )


async def test_policy(engine: Engine, verb: verbs.TestPolicy, io: Io) -> verbs.PolicyMatch:
    """Explain which policy is for something, and who should hold it."""
    replicating = await replication_of(engine)
    if not verb.ref:
        days = None if verb.retention_s is None else verb.retention_s / DAY_S
        return _match(replicating.policies.choose(Subject(verb.tags, days, "")), "", "", 0.0, ())
    metadata = metadata_of(engine)
    item = None
    with suppress(CidError):
        item = await engine.env.blocking(replicating.inventory.find, Cid.parse(verb.ref))
    ref = item.doc_id if item is not None else verb.ref
    rows = [row for row in await engine.env.blocking(sharing.catalog_rows, metadata, ref) if not row.is_dead]
    if not rows:
        raise NotFoundError(
            f"no document or chunk {verb.ref!r} in the log of {engine.organization}",
            mend=["rage chunk list --catalog"],
            id="document-not-found",
        )
    row = rows[0]
    from rage_net.online.placing import subject_of

    choice = replicating.policies.choose(subject_of(row))
    cid = item.cid if item is not None else row.root
    found = item or await engine.env.blocking(replicating.inventory.find, cid)
    view = replicating.view
    holders = tuple(
        verbs.HolderRow(str(peer), view.nodes[peer].candidate.region if peer in view.nodes else "", "unknown", True)
        for peer in (found.home if found is not None else ())
    )
    per_day = replicating.used_per_day().get(row.doc_id, 0)
    return _match(choice, str(cid), row.doc_id, float(per_day), holders)


def _match(
    choice: Choice, cid: str, doc_id: str, per_day: float, holders: tuple[verbs.HolderRow, ...]
) -> verbs.PolicyMatch:
    considered = tuple(verbs.ConsideredPolicy(one.name, one.factor, one.matches, one.why) for one in choice.considered)
    return verbs.PolicyMatch(
        cid, doc_id, choice.policy, choice.factor, choice.minimum, choice.rule, considered, per_day, holders
    )
