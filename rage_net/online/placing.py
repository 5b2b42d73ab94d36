"""Replication, made from the configuration and the log: who may hold what, and which documents there are.

What the log says is read here and nowhere else. A document's candidates are the nodes of its organisation whose
certificates say `storage`, and those of organisations that were granted `replicate` on it; denials of `replicate` take
nodes away. Written down as words: `globex` adds an organisation, `-<peer id>` and `-org:<organisation>` take away.

Source: design D5, D7; issue 5.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from rage_net import config as configuration
from rage_net import env as environment
from rage_net.acl import AccessList
from rage_net.chunk.source import Received
from rage_net.chunk.store import ChunkStore
from rage_net.cid import Cid
from rage_net.config import Config
from rage_net.config.replication import Replication
from rage_net.env import Env
from rage_net.home import Home
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.swarm import Connection, Swarm
from rage_net.metrics import Metrics
from rage_net.replication.audit import PROTOCOL
from rage_net.replication.inventory import Wanted, open_inventory
from rage_net.replication.place import Candidate
from rage_net.replication.policy import Policies, Subject
from rage_net.services.auditing import Auditing
from rage_net.services.exchange import Exchange
from rage_net.services.membership import Membership
from rage_net.services.replicating import Replicating, Sources
from rage_net.services.replicating.view import Node, View
from rage_net.services.trust import Trust
from rage_net.sync import facts as kinds
from rage_net.sync.documents import DocumentRow

if TYPE_CHECKING:
    from rage_net.metadata import Metadata

PAGE = 500
DAY_S = 86_400.0
WORDS_MAX = 64
"""Organisations and peers that a document's candidates are told by."""
_STATES = ("active", "drained", "lost")


def load_policies(config: Config) -> tuple[Replication, Policies]:
    """replication.yaml as it holds here, and its policies. Blocking. Raises ConfigError."""
    replication = configuration.load_replication(config, environ=environment.read_environment())
    assert replication.default_factor is not None
    return replication, Policies(replication, replication.default_factor)


def nodes(metadata: Metadata) -> list[Node]:
    """The nodes that the logs here tell of and whose certificates say that they store. Blocking.

    Of records that contradict each other the one that says least counts: lost, then drained, then active.
    """
    found: list[Node] = []
    for organization in metadata.log.organizations():
        told = dict.fromkeys(fact.resource for fact in metadata.log.by_kind(organization, kinds.NodeRecord))
        for resource in told:
            peer = PeerId.parse(resource.removeprefix("peer:"))
            capabilities = metadata.authority.capabilities(organization, peer)
            if capabilities is None or "storage" not in capabilities:
                continue
            if metadata.authority.is_revoked(organization, "", peer):
                continue
            in_force = metadata.access.rights(organization, resource).in_force
            records = [fact.body for fact in in_force if isinstance(fact.body, kinds.NodeRecord)]
            records = [record for record in records if record.state in _STATES]
            if records:
                record = max(records, key=lambda each: _STATES.index(each.state))
                weight = min(16, max(1, record.weight))
                candidate = Candidate(peer, organization, record.region, record.zone, weight)
                found.append(Node(candidate, record.state))  # type: ignore[arg-type]
    return found


def documents(metadata: Metadata, policies: Policies, doc_ids: Collection[str] | None = None) -> Iterator[Wanted]:
    """The living documents of our organisation, and those of others that we may replicate. Blocking."""
    for organization in metadata.log.organizations():
        if doc_ids is not None:
            rows = [row for each in doc_ids for row in metadata.log.documents(organization, doc_id=each)]
            yield from _wanted(metadata, policies, rows)
            continue
        after: tuple[str, str] | None = None
        while page := metadata.log.documents(organization, after=after, limit=PAGE):
            yield from _wanted(metadata, policies, page)
            after = page[-1].name, page[-1].doc_id


def _wanted(metadata: Metadata, policies: Policies, rows: Collection[DocumentRow]) -> Iterator[Wanted]:
    for row in rows:
        if row.is_dead:
            continue
        access = metadata.access.access_of(row.organization, row.doc_id)
        words = _words(row.organization, access, metadata.now())
        if row.organization != metadata.organization and metadata.organization not in words:
            continue
        choice = policies.choose(subject_of(row))
        yield Wanted(
            row.organization,
            row.doc_id,
            row.root,
            row.owner,
            choice.policy,
            choice.factor,
            choice.minimum,
            ",".join(words[:WORDS_MAX]),
        )


def is_gone(metadata: Metadata, organization: str, doc_id: str) -> bool:
    """Whether the log says that a document is not to be held here: it was removed, or is not ours to hold. Blocking."""
    if metadata.access.rights(organization, f"doc:{doc_id}").is_dead:
        return True
    return bool(metadata.log.documents(organization, doc_id=doc_id))


def subject_of(row: DocumentRow) -> Subject:
    """A document as policies look at it. Its retention counts from when it was put, so that it does not change."""
    days = (row.retention_until - row.created_at) / DAY_S if row.retention_until else None
    return Subject(row.tags, days, row.policy)


def _words(organization: str, access: AccessList | None, now: float) -> list[str]:
    """What is in force at `now`: a right that has run out gives no bytes any more, so it places none."""
    if access is None:
        return []
    granted, denied = (
        {name for name, until in rights.get("replicate", {}).items() if now <= until}
        for rights in (access.grants, access.denials)
    )
    granted = {name[4:] for name in granted if name.startswith("org:")}
    added = sorted(name for name in granted if name != organization and f"org:{name}" not in denied)
    taken = sorted(f"-{name.removeprefix('peer:')}" for name in denied if name.startswith(("peer:", "org:")))
    return [*taken, *added]


async def make_replicating(
    stack: AsyncExitStack,
    home: Home,
    config: Config,
    env: Env,
    metrics: Metrics,
    store: ChunkStore,
    swarm: Swarm,
    trust: Trust,
    exchange: Exchange,
    membership: Membership,
    metadata: Metadata,
) -> Replicating | None:
    """One node's replication; None where it is switched off. Raises ConfigError for policies that cannot be used."""
    replication, policies = await env.blocking(load_policies, config)
    if not replication.enabled:
        return None
    own = swarm.peer_id
    inventory = await env.blocking(open_inventory, home.inventory, own)
    stack.callback(inventory.close)

    async def connect(peer: PeerId) -> Connection:
        return await membership.find(str(peer))

    async def have(peer: PeerId, cids: Sequence[Cid], durable: bool) -> tuple[bool, ...]:
        return await exchange.have(await connect(peer), cids, traffic="replication", durable=durable)

    async def fetch(peer: PeerId, cid: Cid) -> Received:
        return await exchange.fetch(await connect(peer), cid, traffic="replication")

    view = View(own, replication.placement.strategy, float(replication.grace), inventory.clock_at_open)
    late: list[Replicating] = []
    auditing = Auditing(
        store,
        env,
        metrics,
        exchange.gate,
        own,
        principal_of=trust.certified,
        connect=connect,
        sign=swarm.sign,
        kept=lambda cids: late[0].keeps(cids),
        on_hold=lambda peer, organization, cids: late[0].hold(organization, cids, asker=peer),
        is_node=view.is_there,
        on_lacking=lambda peer: late[0].lack(peer),
    )
    swarm.handle(PROTOCOL, auditing.serve)
    sources = Sources(
        nodes=functools.partial(nodes, metadata),
        documents=functools.partial(documents, metadata, policies),
        is_gone=functools.partial(is_gone, metadata),
        liveness=membership.liveness.state,
    )
    late.append(
        Replicating(
            store,
            inventory,
            env,
            metrics,
            own,
            view,
            auditing,
            sources,
            have=have,
            fetch=fetch,
            audit_period_s=float(replication.audit_period),
            policies=policies,
        )
    )
    late[0].pulling.has_readers = exchange.has_readers
    return late[0]
