"""What a peer is to us, and what that opens: values and rules, no I/O.

Source: design D7, 4.4; issue 4, B.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from rage_net.acl import SCOPES, Principal
from rage_net.libp2p import identify, ping
from rage_net.libp2p.gossipsub import PROTOCOLS as GOSSIP_PROTOCOLS
from rage_net.libp2p.kad.messages import PROTOCOL as KAD_PROTOCOL
from rage_net.libp2p.peer_id import PeerId
from rage_net.messages import (
    AUDIT_PROTOCOL,
    CHUNK_PROTOCOL,
    KEY_PROTOCOL,
    QUERY_PROTOCOL,
    SYNC_PROTOCOL,
    TRUST_PROTOCOL,
)

if TYPE_CHECKING:
    from rage_net.cert import Anchor, NodeCertificate

VOUCHED_SCOPES = SCOPES - {"sync"}
"""The most for an organisation that another vouches for (`trust_model: web-of-trust`): it was not named here."""
OPEN_TO_ALL = frozenset({identify.PROTOCOL, identify.PUSH_PROTOCOL, ping.PROTOCOL, TRUST_PROTOCOL})
"""Protocols that anybody may open."""
NEEDED = {
    CHUNK_PROTOCOL: "chunks",
    AUDIT_PROTOCOL: "chunks",
    KEY_PROTOCOL: "chunks",
    KAD_PROTOCOL: "chunks",
    QUERY_PROTOCOL: "query",
    SYNC_PROTOCOL: "sync",
    **dict.fromkeys(GOSSIP_PROTOCOLS, "sync"),
}
"""The scope that opens a protocol. One that is not named here is for our own organisation."""
ORGANIZATION_TOPICS, RIGHTS_TOPICS = "rage.org.", "rage.acl."


@dataclass(frozen=True, slots=True)
class Standing:
    """A connected peer as we judge it."""

    peer_id: PeerId
    is_trusted: bool
    reason: str
    """A stable word: `own-organization`, `federated`, `vouched`, or why not, such as `cert-expired`."""
    message: str
    """For people, where the answer is no."""
    since: float
    """Wall clock."""
    organization: str = ""
    capabilities: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    certificate: NodeCertificate | None = None
    chain: tuple[bytes, ...] = field(default=(), repr=False)
    """As it was sent: judged again when something changes."""

    @property
    def principal(self) -> Principal:
        """The peer as access control knows it."""
        return Principal(
            "peer",
            str(self.peer_id),
            organization=self.organization,
            capabilities=self.capabilities,
            scopes=self.scopes,
        )


class TrustStore(Protocol):
    """What the log says of trust. Asked often: answers from memory."""

    def foreign(self) -> Sequence[Anchor]:
        """CAs of other organisations that are trusted here, with scopes and end; none that is withdrawn."""
        ...

    def is_revoked(self, organization: str, serial: str, peer: PeerId) -> bool:
        """Whether an organisation has withdrawn a certificate, or all of a peer."""
        ...

    def synced_at(self) -> float | None:
        """When our organisation's log was last compared with another of its nodes; None where none was ever known."""
        ...


class NoStore:
    """No log: nobody else is trusted, and nothing is revoked."""

    def foreign(self) -> Sequence[Anchor]:
        """See `TrustStore`."""
        return ()

    def is_revoked(self, organization: str, serial: str, peer: PeerId) -> bool:
        """See `TrustStore`."""
        return False

    def synced_at(self) -> float | None:
        """See `TrustStore`."""
        return None


def may_open(standing: Standing | None, protocol: str, *, own: str, public_access: bool) -> bool:
    """Whether a peer of this standing (None: a stranger) may open `protocol` at a node with a CA."""
    if protocol in OPEN_TO_ALL or (public_access and protocol == CHUNK_PROTOCOL):
        return True
    if standing is None or not standing.is_trusted:
        return False
    return standing.organization == own or NEEDED.get(protocol) in standing.scopes


def may_join(standing: Standing | None, topic: str, *, own: str) -> bool:
    """Whether a peer of this standing may know of a topic at a node with a CA."""
    if standing is None or not standing.is_trusted:
        return False
    if topic.startswith(ORGANIZATION_TOPICS):
        return standing.organization == own == topic.removeprefix(ORGANIZATION_TOPICS)
    return not topic.startswith(RIGHTS_TOPICS) or "sync" in standing.scopes
