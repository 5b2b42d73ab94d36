"""Verbs of the noun cert that need a node: the others work on files alone."""

from __future__ import annotations

from typing import ClassVar

from rage_net.verbs import Verb, dataclass


@dataclass(frozen=True, slots=True)
class RenewCertificateResult:
    """The certificate that this node has now; times are seconds since the epoch. Not `renewed`: it was not due."""

    renewed: bool
    serial: str
    organization: str
    peer_id: str
    capabilities: tuple[str, ...]
    not_before: float
    not_after: float
    renew_until: float
    sha256: str
    """Of the DER, in hexadecimal."""
    by: str = ""
    """The peer id of the node that renewed it; empty where it was signed here."""


@dataclass(frozen=True, slots=True)
class RenewCertificate(Verb[RenewCertificateResult]):
    """Have a node with the capability `enrol` sign this node's next certificate, and install it."""

    route: ClassVar[str] = "cert/renew"
    result: ClassVar[type] = RenewCertificateResult
    mutates: ClassVar[bool] = True

    if_needed: bool = False
    """Only when two thirds of its life are over."""


@dataclass(frozen=True, slots=True)
class RevokeCertificateResult:
    """What is refused from now on. `published`: whether a signed fact says so to the organisation's nodes."""

    serial: str
    """Empty: all of the peer, for good."""
    peer_id: str
    reason: str
    published: bool
    fact: str = ""
    """The fact's id."""


@dataclass(frozen=True, slots=True)
class RevokeCertificate(Verb[RevokeCertificateResult]):
    """Write the revocation into the organisation's log, as an author with the capability `admin`.

    One of `serial` and `peer_id` may be empty: a serial alone is looked up among known certificates, a peer alone is
    refused with all that it had or will have, and counts no longer as an author beyond what is known of it now.
    """

    route: ClassVar[str] = "cert/revoke"
    result: ClassVar[type] = RevokeCertificateResult
    mutates: ClassVar[bool] = True

    serial: str = ""
    peer_id: str = ""
    reason: str = ""
