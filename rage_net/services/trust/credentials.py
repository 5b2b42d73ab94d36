"""A node's own certificate, and its organisation's CAs, as the home's files say. Blocking: call it in a thread.

A CA file that is named and cannot be read stops the node (design D7): it never makes it open. While the node runs, the
last that could be read counts. A certificate that is missing does not stop it: then it knows others, and is a stranger
to all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rage_net import certfiles
from rage_net.acl import SCOPES
from rage_net.errors import ConfigError, RageError
from rage_net.messages import CERTIFICATES_MAX

if TYPE_CHECKING:
    from rage_net.cert import Anchor, NodeCertificate

ANCHORS_MAX = 16
"""CAs of one organisation: two while it rotates."""

_NO_ANCHORS: tuple[Anchor, ...] = ()
Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a node shows, and whom it believes in its own organisation's name."""

    organization: str = ""
    anchors: tuple[Anchor, ...] = ()
    chain: tuple[bytes, ...] = field(default=(), repr=False)
    certificate: NodeCertificate | None = None
    problem: str = ""
    """Why there is no certificate to show, where that is a fault."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where they lie. `ca_cert` is None on an open node."""

    ca_cert: Path | None
    certificate: Path
    organization: str
    """As the configuration has it; with a CA it must be set, and be the CA's."""

    def stamp(self) -> Stamp:
        """What changes when a file does."""
        return tuple(stamp_of(path) for path in (self.ca_cert, self.certificate))

    def load(self) -> Credentials:
        """Read both. Raises ConfigError for a CA file that is missing, unreadable or another organisation's."""
        from rage_net.cert import parse

        organization, anchors = self.organization, _NO_ANCHORS
        if self.ca_cert is not None:
            organization, anchors = _read_anchors(self.ca_cert, self.organization)
        try:
            chain = certfiles.read_optional(self.certificate)[:CERTIFICATES_MAX]
            certificate = parse(chain[0]) if chain else None
        except RageError as error:
            return Credentials(organization, anchors, problem=f"{self.certificate} cannot be used: {_words(error)}")
        problem = "this node has no certificate" if anchors and certificate is None else ""
        return Credentials(organization, anchors, chain, certificate, problem)


def _read_anchors(path: Path, organization: str) -> tuple[str, tuple[Anchor, ...]]:
    from rage_net.cert import Anchor, parse_ca

    try:
        ders = certfiles.read_certificates(path)
        named = [parse_ca(der).organization for der in ders]
    except RageError as error:
        raise _unusable(path, _words(error)) from None
    if len(ders) > ANCHORS_MAX:
        raise _unusable(path, f"it holds {len(ders)} certificates, and {ANCHORS_MAX} are the most")
    if not organization:
        raise _unusable(path, "network.organization_id is not set: of whom is this node?")
    others = sorted(set(named) - {"", organization})
    if others:
        raise _unusable(path, f"it holds a CA of {others[0]}, and this node is of {organization}")
    return organization, tuple(Anchor(organization, der, SCOPES) for der in ders)


def _unusable(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"network.security.ca_cert: {path} cannot be used",
        why=why,
        mend=["rage config show network.security --origin", f"openssl x509 -noout -text -in {path}"],
        id="ca-unusable",
    )


def _words(error: RageError) -> str:
    return f"{error.message} ({error.why})" if error.why else error.message


def stamp_of(path: Path | None) -> tuple[int, int, int] | None:
    """What changes when a file does; None where there is none."""
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
