"""What `rage cert` does with files: a function a command, from arguments to a result. Commands ask and show.

Needs no node. Clock and randomness come in here and go on as values. Not here: X.509 (`rage_net.cert`), where files lie
(`rage_net.certfiles`), CAs (`rage_cli.authorities`).
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rage_cli import session
from rage_cli.files import FileSource
from rage_cli.options import options
from rage_cli.passphrase import ask
from rage_net import certfiles
from rage_net import home as homes
from rage_net.certfiles import CertFiles, IssuedLine
from rage_net.errors import CertificateError, ConflictError, IntegrityError, NotFoundError, UsageError
from rage_net.verbs import dataclass
from rage_net.verbs.cert import RenewCertificate, RenewCertificateResult

if TYPE_CHECKING:
    from rage_net.cert import Anchor, NodeCertificate, Verified
    from rage_net.config.network import Network
    from rage_net.libp2p.peer_id import PeerId

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate. `what` is node or ca; a CA has no peer id. Times are seconds since the epoch."""

    what: str
    serial: str
    organization: str
    peer_id: str
    region: str
    capabilities: tuple[str, ...]
    not_before: float
    not_after: float
    renew_until: float | None
    sha256: str
    name: str = ""
    """Of a CA, its subject."""
    pem: str = ""
    """It and those that belong after it."""
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """What a node asks to be certified."""

    peer_id: str
    organization: str
    region: str
    capabilities: tuple[str, ...]
    pem: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a certificate is not believed here."""

    id: str
    message: str
    why: str
    mend: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CertificateCheck:
    """Whether a certificate is believed here, now."""

    ok: bool
    serial: str
    organization: str
    peer_id: str
    anchor: str
    """The CA that vouches for it; empty where none does."""
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Renewal:
    """Whether a certificate is due. `left_s` is negative once it has expired."""

    needs: bool
    serial: str
    due_at: float
    not_after: float
    left_s: float


@dataclass(frozen=True, slots=True)
class Installation:
    """What this home shows and trusts from now on. `config`: the keys that were set."""

    what: str
    serial: str
    organization: str
    peer_id: str
    certificate: str
    ca: str
    config: tuple[str, ...]
    dry_run: bool


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """One that was signed here. `state` is valid, expired or revoked."""

    serial: str
    what: str
    name: str
    state: str
    not_after: float
    organization: str
    region: str
    capabilities: tuple[str, ...]
    not_before: float
    by: str


@dataclass(frozen=True, slots=True)
class IssuedCertificates:
    """What was signed here, newest first."""

    items: tuple[IssuedCertificate, ...]


# --- what a node does -------------------------------------------------------------------------------------------------


def request(org: str, region: str, capabilities: Sequence[str]) -> CertificateRequest:
    """A CSR of this home's identity; kept as `certs/node.csr`, too."""
    from rage_net.cert import issue, pem
    from rage_net.durable import file_errors, write_replacing

    _, network, files = here()
    org, region = org or network.organization_id, region or network.region
    if not org:
        raise UsageError("--org: a certificate names an organisation, and this home has none", mend=["--org ORG"])
    der = issue.make_csr(homes.load_identity(network.security.peer_key), org, region, frozenset(capabilities))
    text = pem.encode([der], pem.CSR)
    with file_errors(files.request):
        files.root.mkdir(mode=0o700, exist_ok=True)
        write_replacing(files.request, text)
    return CertificateRequest(_own_id(network), org, region, tuple(sorted(capabilities)), text.decode())


def install(path: str, ca_paths: Sequence[str]) -> Installation:
    """Verify a chain, make it this node's, and set the keys of network.yaml that name it.

    Args: path: the certificate, or another organisation's cross-signature of our CA; empty installs CAs alone.
    """
    place, network, files = here()
    cas = [der for name in ca_paths for der in read_pem(name)]
    chain = read_pem(path) if path else ()
    given = _given(chain, files)
    organization = _agreed_organization(network, given.organization if given else _organization_of(cas))
    anchors = anchors_of(organization, (*certfiles.read_optional(files.bundle), *cas))
    if given is not None and not anchors:
        raise NotFoundError(
            f"this home knows no CA of {organization}",
            why="without it nobody can tell whether the certificate is real",
            mend=["--ca FILE", "rage cert ca show --pem    (where the CA is kept)"],
            id="ca-unknown",
        )
    if given is not None and given.peer_id:
        _verify(chain, anchors, files, _peer_id(network))
    keys = {"network.organization_id": organization} if not network.organization_id else {}
    if network.security.tls_cert is None and given is not None:
        keys["network.security.tls_cert"] = str(files.certificate.relative_to(place.root))
    if network.security.ca_cert is None:
        keys["network.security.ca_cert"] = str(files.bundle.relative_to(place.root))
    if not options.dry_run:
        _install(files, chain, given, cas)
        _set_keys(place, keys)
    return Installation(
        (given.what if given else "ca"),
        given.serial if given else "",
        organization,
        given.peer_id if given else "",
        str(files.certificate) if given else "",
        str(files.bundle),
        tuple(keys),
        options.dry_run,
    )


def _given(chain: Sequence[bytes], files: CertFiles) -> Certificate | None:
    if not chain:
        return None
    given = view(chain)
    if given.what == "ca" and not files.certificate.exists():
        raise NotFoundError(
            "a CA's certificate is shown after a node's, and this home has none",
            mend=["rage cert install --ca FILE    (to trust the CA)", "rage cert request"],
            id="cert-file-missing",
        )
    return given


def _install(files: CertFiles, chain: Sequence[bytes], given: Certificate | None, cas: Sequence[bytes]) -> None:
    certfiles.trust(files, cas)
    if given is None:
        return
    if given.what == "ca":
        chain = (*certfiles.read_certificates(files.certificate), *chain)
    certfiles.install_chain(files, chain)


def check(path: str, ca_paths: Sequence[str], peer: str) -> CertificateCheck:
    """Whether the certificate in a file is believed by this home, as a peer's would be.

    Raises: IntegrityError `cert-unreadable` where there is none in it.
    """
    from rage_net.libp2p.peer_id import PeerId, PeerIdError

    _, _, files = here()
    chain = read_pem(path) if path else certfiles.read_certificates(files.certificate)
    try:
        given = view(chain)
    except CertificateError as error:
        raise IntegrityError(error.message, why=error.why, mend=error.mend, id="cert-unreadable") from error
    cas = [der for name in ca_paths for der in read_pem(name)] or certfiles.read_optional(files.bundle)
    try:
        peer_id = PeerId.parse(peer) if peer else None
    except PeerIdError as error:
        raise UsageError(f"--peer: {error}", mend=["rage peer list"]) from error
    anchor = ""
    problems: tuple[Problem, ...] = ()
    try:
        believed = _verify(chain, anchors_of("", cas), files, peer_id)
        anchor = view([believed.anchor.certificate]).name
    except CertificateError as error:
        problems = (Problem(error.id, error.message, error.why, error.mend),)
    return CertificateCheck(not problems, given.serial, given.organization, given.peer_id, anchor, problems)


def renewal(path: str, within: str) -> Renewal:
    """Whether a certificate is due: at two thirds of its life, or where less than `within` is left of it."""
    from rage_net.cert.renewal import renewal_time

    certificate = node_certificate(path)
    life = certificate.not_after - certificate.not_before
    due_at = certificate.not_after - _left(within, life) if within else renewal_time(certificate, 0.0)
    now = time.time()
    return Renewal(now >= due_at, certificate.serial, due_at, certificate.not_after, certificate.not_after - now)


def _left(within: str, life: float) -> float:
    from rage_cli.text import parse_duration

    try:
        if within.endswith("%"):
            share = float(within[:-1])
            if not 0 < share < 100:
                raise ValueError(f"{within} is no part of a life")
            return life * share / 100
        return parse_duration(within)
    except ValueError as error:
        raise UsageError(f"--within: {error}", mend=["--within 33%", "--within 2d"]) from error


def renew(if_needed: bool, passphrase_file: str) -> RenewCertificateResult:
    """The next certificate of this node: signed by the CA that is kept here, else fetched by the running node."""
    from rage_net.cert.renewal import renewal_due

    _, _, files = here()
    old = node_certificate("")
    if if_needed and not renewal_due(old, time.time()):
        return _renewed(old, renewed=False)
    if not files.ca_certificate.exists():
        return session.run_in_node(RenewCertificate(if_needed))
    return _renewed(_renew_here(old, passphrase_file), renewed=True)


def _renew_here(old: NodeCertificate, passphrase_file: str) -> NodeCertificate:
    from rage_net.cert import issue, read_csr, verify_chain

    _, network, files = here()
    ca = certfiles.read_ca(files)
    certfiles.check_key(files.ca_key)
    identity = homes.load_identity(network.security.peer_key)
    csr = read_csr(issue.make_csr(identity, old.organization, old.region, old.capabilities))
    is_revoked = revocations(files, ca.organization)
    chain = certfiles.read_certificates(files.certificate)
    verify_chain(
        chain, anchors_of("", certfiles.read_optional(files.bundle)), None, peer_id=csr.peer_id, is_revoked=is_revoked
    )
    key = certfiles.read_key(files.ca_key, ask(ca.name, passphrase_file))
    serial = issue.draw_serial(random.SystemRandom())
    fresh = issue.renew(csr, old, ca, key, now=time.time(), serial=serial, is_revoked=is_revoked)
    certfiles.record_issued(files, certfiles.line_of(fresh, ca.serial))
    certfiles.install_chain(files, (fresh.der, *certfiles.read_optional(files.link)))
    return fresh


def _renewed(certificate: NodeCertificate, *, renewed: bool) -> RenewCertificateResult:
    return RenewCertificateResult(
        renewed,
        certificate.serial,
        certificate.organization,
        str(certificate.peer_id),
        tuple(sorted(certificate.capabilities)),
        certificate.not_before,
        certificate.not_after,
        certificate.renew_until,
        certificate.fingerprint.hex(),
    )


# --- what they share --------------------------------------------------------------------------------------------------


def here() -> tuple[homes.Home, Network, CertFiles]:
    """The home of this invocation, its configuration (without looking at the files it names), its certificates."""
    from rage_cli.commands.config import network_file
    from rage_net import config

    place = session.home()
    homes.require(place)
    network = config.load(place.root, environ=os.environ, file=network_file(), files=False).network
    return place, network, CertFiles.of(place, network.security.tls_cert, network.security.ca_cert)


def read_pem(path: str) -> tuple[bytes, ...]:
    """DER of the certificates of an operator's file, or stdin."""
    from rage_net.cert import pem

    return pem.decode(read_file(path), name="stdin" if path == "-" else path)


def read_file(path: str) -> bytes:
    """A file of certificates, or stdin; the limit is that of `pem`."""
    from rage_net.cert.pem import FILE_BYTES_MAX

    with FileSource(path) as source:
        found, block = bytearray(), bytearray(65_536)
        while len(found) <= FILE_BYTES_MAX and (size := source.readinto(block)):
            found += block[:size]
    return bytes(found)


def view(chain: Sequence[bytes]) -> Certificate:
    """The first certificate of a chain as it is shown, with the PEM of all. Raises CertificateError."""
    from rage_net.cert import parse, parse_ca, pem

    text = pem.encode(chain).decode()
    try:
        return view_of(parse(chain[0]), text)
    except CertificateError as error:
        if error.id != "cert-not-a-node":
            raise
    ca = parse_ca(chain[0])
    capabilities = tuple(sorted(ca.capabilities or ()))
    return Certificate(
        what="ca",
        serial=ca.serial,
        organization=ca.organization,
        peer_id="",
        region="",
        capabilities=capabilities,
        not_before=ca.not_before,
        not_after=ca.not_after,
        renew_until=None,
        sha256=ca.fingerprint.hex(),
        name=ca.name,
        pem=text,
    )


def view_of(certificate: NodeCertificate, text: str) -> Certificate:
    """A node's certificate as it is shown."""
    return Certificate(
        what="node",
        serial=certificate.serial,
        organization=certificate.organization,
        peer_id=str(certificate.peer_id),
        region=certificate.region,
        capabilities=tuple(sorted(certificate.capabilities)),
        not_before=certificate.not_before,
        not_after=certificate.not_after,
        renew_until=certificate.renew_until,
        sha256=certificate.fingerprint.hex(),
        pem=text,
    )


def node_certificate(path: str) -> NodeCertificate:
    """The node's certificate of a file, this home's by default."""
    from rage_net.cert import parse

    _, _, files = here()
    return parse((read_pem(path) if path else certfiles.read_certificates(files.certificate))[0])


def anchors_of(organization: str, ders: Sequence[bytes]) -> tuple[Anchor, ...]:
    """CAs as anchors, each under its own organisation's name; `organization` is for those that name none."""
    from rage_net.cert import Anchor, parse_ca

    return tuple(Anchor(parse_ca(der).organization or organization, der) for der in dict.fromkeys(ders))


def revocations(files: CertFiles, organization: str) -> Callable[[str, str, PeerId], bool]:
    """Who is revoked, as far as the CA that is kept here knows."""
    lines = certfiles.read_revoked(files)
    serials = {line.serial for line in lines if line.serial}
    peers = {line.peer_id for line in lines if not line.serial}
    return lambda org, serial, peer: org == organization and (serial in serials or str(peer) in peers)


def listed(files: CertFiles, lines: Sequence[IssuedLine], now: float) -> IssuedCertificates:
    """What was signed here with what became of it, newest first."""
    revoked = certfiles.read_revoked(files)
    serials = {line.serial for line in revoked if line.serial}
    peers = {line.peer_id for line in revoked if not line.serial}

    def state(line: IssuedLine) -> str:
        if line.serial in serials or line.name in peers:
            return "revoked"
        return "expired" if line.not_after <= now else "valid"

    return IssuedCertificates(
        tuple(
            IssuedCertificate(
                line.serial,
                line.what,
                line.name,
                state(line),
                line.not_after,
                line.organization,
                line.region,
                line.capabilities,
                line.not_before,
                line.by,
            )
            for line in reversed(lines)
        )
    )


def _verify(chain: Sequence[bytes], anchors: Sequence[Anchor], files: CertFiles, peer_id: PeerId | None) -> Verified:
    from rage_net.cert import verify_chain

    organization = view(chain).organization
    return verify_chain(chain, anchors, time.time(), peer_id=peer_id, is_revoked=revocations(files, organization))


def _agreed_organization(network: Network, organization: str) -> str:
    if network.organization_id and organization and network.organization_id != organization:
        raise ConflictError(
            f"the certificate is of {organization}, and this home of {network.organization_id}",
            why="network.organization_id says so",
            mend=[f"rage cert request --org {network.organization_id}", "rage config show network.organization_id"],
            id="config-differs",
        )
    return organization or network.organization_id


def _organization_of(cas: Sequence[bytes]) -> str:
    from rage_net.cert import parse_ca

    if not cas:
        raise UsageError("there is nothing to install", mend=["rage cert install CRT", "--ca FILE"])
    return next((name for name in (parse_ca(der).organization for der in cas) if name), "")


def _set_keys(place: homes.Home, keys: dict[str, str]) -> None:
    from rage_cli.commands.config import network_file
    from rage_net.config.edit import set_keys

    if keys:
        set_keys(network_file() or place.network_yaml, keys)


def _peer_id(network: Network) -> PeerId:
    from rage_net.libp2p.peer_id import PeerId

    return PeerId.from_public_key(homes.load_identity(network.security.peer_key).public_key())


def _own_id(network: Network) -> str:
    return str(_peer_id(network))
