"""Verbs of the noun trust: other organisations, and what their certificates open here."""

from __future__ import annotations

from typing import ClassVar

from rage_net.verbs import Verb, dataclass

SCOPES = ("query", "chunks", "sync")
"""What trust can open, in the order of the specification."""


@dataclass(frozen=True, slots=True)
class TrustRow:
    """One CA that is trusted. Times are seconds since the epoch."""

    organization: str
    scopes: tuple[str, ...]
    until: float | None
    """None: no end."""
    state: str
    """`own`, `trusted`, `ended`, or `expired` where the CA's own life is over."""
    ca_sha256: str
    """Of the DER, in hexadecimal."""
    ca_name: str
    ca_not_after: float


@dataclass(frozen=True, slots=True)
class ListTrustResult:
    """Our own CAs first, then other organisations by name."""

    items: tuple[TrustRow, ...]


@dataclass(frozen=True, slots=True)
class ListTrust(Verb[ListTrustResult]):
    """Every CA that is trusted here."""

    route: ClassVar[str] = "trust/list"
    result: ClassVar[type] = ListTrustResult


@dataclass(frozen=True, slots=True)
class ShowTrustResult:
    """One organisation: its CAs, and its peers that are connected."""

    organization: str
    items: tuple[TrustRow, ...]
    peers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ShowTrust(Verb[ShowTrustResult]):
    """One organisation that is trusted."""

    route: ClassVar[str] = "trust/show"
    result: ClassVar[type] = ShowTrustResult

    organization: str


@dataclass(frozen=True, slots=True)
class AddTrustResult:
    """The organisation's CAs as they are trusted now. `added`: those that were not, or otherwise."""

    organization: str
    items: tuple[TrustRow, ...]
    added: int
    reaches: str
    """`organization` where this node is an admin's, so that all its nodes obey; else `node`."""
    dry_run: bool


@dataclass(frozen=True, slots=True)
class AddTrust(Verb[AddTrustResult]):
    """Trust another organisation's CAs for some scopes; what was said of them before counts no more."""

    route: ClassVar[str] = "trust/add"
    result: ClassVar[type] = AddTrustResult
    mutates: ClassVar[bool] = True

    organization: str
    ca: str
    """PEM of one CA or more."""
    scopes: tuple[str, ...]
    until: float | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class RemoveTrustResult:
    """What is trusted no longer, and whose connections that ends."""

    organization: str
    removed: int
    peers: tuple[str, ...]
    reaches: str
    dry_run: bool


@dataclass(frozen=True, slots=True)
class RemoveTrust(Verb[RemoveTrustResult]):
    """Trust an organisation no longer; connections to its peers are cut."""

    route: ClassVar[str] = "trust/remove"
    result: ClassVar[type] = RemoveTrustResult
    mutates: ClassVar[bool] = True

    organization: str
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class ProbeTrustResult:
    """How this node and a peer judge each other. `opens` is what the peer may open here."""

    peer_id: str
    is_trusted: bool
    reason: str
    message: str
    organization: str
    region: str
    capabilities: tuple[str, ...]
    scopes: tuple[str, ...]
    serial: str
    expires_at: float | None
    opens: tuple[str, ...]
    refused_by_peer: str
    """Why the peer does not trust this node; empty where it does, or has not said."""


@dataclass(frozen=True, slots=True)
class ProbeTrust(Verb[ProbeTrustResult]):
    """Connect to a peer, exchange certificates, and say what comes of it."""

    route: ClassVar[str] = "trust/test"
    result: ClassVar[type] = ProbeTrustResult

    peer: str
