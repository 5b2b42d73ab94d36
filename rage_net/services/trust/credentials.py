"""A node's own certificate, and its organisation's CAs, as the home's files say. Blocking: call it in a thread.

A CA file that is named and cannot be read stops the node (design D7): it never makes it open. While the node runs, the
last that could be read counts. A certificate that is missing does not stop it: then it knows others, and is a stranger
to all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rage_net.durable import describe
from rage_net.errors import CertificateError, ConfigError
from rage_net.messages import CERTIFICATE_BYTES_MAX, CERTIFICATES_MAX
from rage_net.services.trust.standing import SCOPES

if TYPE_CHECKING:
    from rage_net.cert import Anchor, NodeCertificate

FILE_BYTES_MAX = 256 << 10
"""Of a PEM file: 8 certificates take 16 KiB, and people write notes between them."""
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
    """As the configuration has it; empty takes the CA's word."""

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
            chain = read_certificates(self.certificate)
            certificate = parse(chain[0]) if chain else None
        except FileNotFoundError:
            return Credentials(organization, anchors, problem="this node has no certificate" if anchors else "")
        except (OSError, ValueError, CertificateError) as error:
            return Credentials(organization, anchors, problem=f"{self.certificate} cannot be used: {_words(error)}")
        return Credentials(organization, anchors, chain[:CERTIFICATES_MAX], certificate)


def read_certificates(path: Path) -> tuple[bytes, ...]:
    """The certificates of a PEM file as DER, in its order. Raises OSError, ValueError."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    with path.open("rb") as file:
        pem = file.read(FILE_BYTES_MAX + 1)
    if len(pem) > FILE_BYTES_MAX:
        raise ValueError(f"it has more than {FILE_BYTES_MAX >> 10} KiB")
    found = tuple(each.public_bytes(Encoding.DER) for each in x509.load_pem_x509_certificates(pem))
    if any(len(der) > CERTIFICATE_BYTES_MAX for der in found):
        raise ValueError(f"one of its certificates has more than {CERTIFICATE_BYTES_MAX} bytes")
    return found


def _read_anchors(path: Path, organization: str) -> tuple[str, tuple[Anchor, ...]]:
    from rage_net.cert import Anchor, parse_ca

    try:
        ders = read_certificates(path)
        named = [parse_ca(der).organization for der in ders]
    except (OSError, ValueError, CertificateError) as error:
        raise _unusable(path, _words(error)) from None
    if not 0 < len(ders) <= ANCHORS_MAX:
        raise _unusable(path, f"it holds {len(ders)} certificates, and 1 to {ANCHORS_MAX} are wanted")
    organization = organization or next(filter(None, named), "")
    if not organization:
        raise _unusable(path, "neither the CA nor network.organization_id names an organisation")
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


def _words(error: Exception) -> str:
    if isinstance(error, OSError):
        return describe(error)
    if isinstance(error, CertificateError):
        return f"{error.message} ({error.why})"
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def stamp_of(path: Path | None) -> tuple[int, int, int] | None:
    """What changes when a file does; None where there is none."""
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
