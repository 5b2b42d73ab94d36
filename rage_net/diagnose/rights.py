"""Which documents count for a chunk, who may read them, and which were removed: what the log says, for people.

Providers decide by the same facts, so what a holder will say to us can be foretold: our own principal goes through
`authorize` here. What cannot: trust that the provider's organisation puts into ours, and facts that it lacks still.
Blocking: reads the log and the store. Source: design D6, D7; issue 4, G.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rage_net.acl import SCOPES, AccessList, Decision, DocumentResource, Principal, Rules, authorize
from rage_net.cid import Cid
from rage_net.errors import NotFoundError

if TYPE_CHECKING:
    from rage_net.engine import Engine
    from rage_net.metadata import Metadata
    from rage_net.sync.documents import DocumentRow

SHOWN_MAX = 5
"""Documents of one chunk that are told of, those that let it be read first."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A document that the root is, and whether this node may read it where it lies, as far as the log tells."""

    doc_id: str
    name: str
    access: AccessList
    is_here: bool
    """It counts for the chunk in this store; else the catalog alone knows of it."""
    decision: Decision

    @property
    def label(self) -> str:
        """For people."""
        return self.name or self.doc_id or "somebody's public document"


@dataclass(frozen=True, slots=True)
class Removed:
    """A document that is removed everywhere, by whose fact."""

    doc_id: str
    name: str
    organization: str
    author: str
    reason: str
    fact: str


def catalog_of(metadata: Metadata | None, root: Cid) -> list[DocumentRow]:
    """The documents of all logs here that a root is, the removed ones too."""
    if metadata is None:
        return []
    found: list[DocumentRow] = []
    for organization in dict.fromkeys((metadata.organization, *metadata.log.organizations())):
        found += metadata.log.documents(organization, root=root)
    return found


def claims_on(engine: Engine, root: Cid, rows: Sequence[DocumentRow]) -> list[Claim]:
    """The documents that count for a root here, and those that catalogs name; what lets us read it first."""
    metadata = engine.metadata
    if metadata is None:
        return []
    names = {row.doc_id: row.name for row in rows}
    found: dict[str, tuple[AccessList, bool]] = {}
    for doc_id, access in engine.gate.counting(root) or ():
        found[doc_id] = (access, True)
    for row in rows:
        if row.is_dead or row.doc_id in found:
            continue
        access_or_none = metadata.access.access_of(row.organization, row.doc_id)
        if access_or_none is not None:
            found[row.doc_id] = (access_or_none, False)
    principal, now = own_principal(metadata), engine.env.now()
    claims = []
    for doc_id, (access, is_here) in found.items():
        # As a provider of the document's own organisation decides, strictly.
        rules = Rules(is_open=False, organization=access.organization)
        decision = authorize(DocumentResource(doc_id, access), principal, "read", rules, now)
        claims.append(Claim(doc_id, names.get(doc_id) or _local_name(engine, doc_id), access, is_here, decision))
    return sorted(claims, key=lambda claim: (not claim.decision.allowed, not claim.is_here, claim.doc_id))


def own_principal(metadata: Metadata) -> Principal:
    """Who we are to a provider that trusts our organisation for all; a stranger without a certificate."""
    capabilities = metadata.authority.capabilities(metadata.organization, metadata.own)
    if capabilities is None:
        return Principal("peer", str(metadata.own))
    return Principal("peer", str(metadata.own), metadata.organization, capabilities=capabilities, scopes=SCOPES)


def removed_of(metadata: Metadata | None, rows: Sequence[DocumentRow]) -> list[Removed]:
    """The tombstones of those rows that are dead, with whose they are."""
    from rage_net.sync import facts as kinds

    found = []
    for row in rows:
        if not row.is_dead or metadata is None:
            continue
        rights = metadata.access.rights(row.organization, f"doc:{row.doc_id}")
        for fact in rights.facts:
            if isinstance(fact.body, kinds.Tombstone):
                author, reason = str(fact.author), fact.body.reason
                found.append(Removed(row.doc_id, row.name, row.organization, author, reason, fact.id.hex()))
                break
    return found


def _local_name(engine: Engine, doc_id: str) -> str:
    try:
        return engine.documents.get(doc_id).name
    except NotFoundError:
        return ""
