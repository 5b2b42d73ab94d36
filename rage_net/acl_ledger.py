"""Where `rage acl` reads and writes: facts of the log. See acl_verbs.Rights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rage_net import sharing
from rage_net.acl import AccessList, Change, Entry, Principal
from rage_net.libp2p.peer_id import PeerId

if TYPE_CHECKING:
    from rage_net.acl_verbs import Named
    from rage_net.engine import Engine
    from rage_net.metadata import Metadata


class LogRights:
    """Rights on documents, as the log of one engine has them."""

    def __init__(self, engine: Engine, metadata: Metadata) -> None:
        self._engine = engine
        self._metadata = metadata

    def find(self, ref: str) -> list[Named]:
        """Documents of our organisation that an id, a root or a name means, here or not; without the removed."""
        from rage_net.acl_verbs import Named

        return [
            Named(row.doc_id, row.name, row.organization, str(row.owner), "", True)
            for row in sharing.catalog_rows(self._metadata, ref)
            if not row.is_dead
        ]

    def facts(self, organization: str, resource: str) -> Sequence[Entry]:
        """See acl_verbs.Rights."""
        return self._metadata.access.rights(organization, resource).entries

    def access(self, organization: str, doc_id: str) -> AccessList | None:
        """See acl_verbs.Rights."""
        return self._metadata.access.access_of(organization, doc_id)

    def principal(self, peer_id: str) -> Principal | None:
        """See acl_verbs.Rights: of our organisation, or of one that is trusted and whose log is here."""
        authority, peer = self._metadata.authority, PeerId.parse(peer_id)
        trusted = dict.fromkeys(anchor.organization for anchor in authority.foreign_anchors())
        for organization in (*trusted, self._metadata.organization):
            capabilities = authority.capabilities(organization, peer)
            if capabilities is not None and not authority.is_revoked(organization, "", peer):
                scopes = authority.scopes(organization)
                return Principal("peer", peer_id, organization, capabilities=capabilities, scopes=scopes)
        return None

    def require_admin(self, organization: str, resource: str) -> None:
        """See acl_verbs.Rights."""
        self._metadata.access.require_admin(organization, resource)

    def cdn(self, organization: str, doc_id: str) -> str:
        """See acl_verbs.Rights."""
        return self._metadata.cdns.mode(doc_id, organization)

    async def rule_cdn(self, doc_id: str, mode: str) -> int:
        """See acl_verbs.Rights."""
        facts = await self._engine.env.blocking(self._metadata.cdns.rule, doc_id, mode)
        await sharing.written(self._engine, self._metadata.organization, facts)
        return len(facts)

    async def append(self, organization: str, resource: str, changes: Sequence[Change]) -> None:
        """See acl_verbs.Rights. What a fact replaces, the log itself finds: all that is in force under its key."""
        entries = [
            Entry(b"", change.principal, change.action, change.allowed, change.expires_at, change.visibility)
            for change in changes
        ]
        facts = await self._engine.env.blocking(self._metadata.access.append, organization, resource, entries)
        await sharing.written(self._engine, organization, facts)
