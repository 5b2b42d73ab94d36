"""What `rage cert` does where a CA is kept: it is made, replaced, and signs; what it signed is withdrawn.

Each function that signs takes what has been decided; the command has told it to the operator and asked. Needs no node.
Not here: a node's own certificate (`rage_cli.certificates`), X.509 (`rage_net.cert`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rage_cli.certificates import DAY_S, Certificate, here, read_file, read_pem, revocations, view, view_of
from rage_cli.options import options
from rage_cli.passphrase import ask
from rage_net import certfiles
from rage_net.certfiles import CertFiles, RevokedLine
from rage_net.errors import CertificateError, ConflictError, NotFoundError, UsageError
from rage_net.verbs import dataclass

if TYPE_CHECKING:
    from rage_net.cert import CaCertificate, Request


@dataclass(frozen=True, slots=True)
class Ca:
    """An organisation's CA as it is kept here. Times are seconds since the epoch."""

    organization: str
    name: str
    serial: str
    sha256: str
    not_before: float
    not_after: float
    certificate: str
    """Path."""
    trusted: tuple[str, ...]
    """SHA-256 of every CA in this home's bundle: two while one replaces the other."""
    retired: tuple[str, ...]
    """Serials of those before this one that were not withdrawn."""
    pem: str
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class EnrolmentCa:
    """A CA with which a node renews others: two files, to lie in its `certs/`."""

    organization: str
    name: str
    serial: str
    capabilities: tuple[str, ...]
    """The most that it gives."""
    not_after: float
    key: str
    certificate: str
    """Paths."""


@dataclass(frozen=True, slots=True)
class Crl:
    """A list of revoked certificates, for programs that read X.509's."""

    organization: str
    number: int
    revoked: int
    next_update: float
    pem: str


def init(org: str, years: float, passphrase_file: str) -> Ca:
    """A CA for the organisation, kept in this home and trusted by it."""
    from rage_net import keys
    from rage_net.cert import issue

    _, network, files = here()
    org = org or network.organization_id
    if not org:
        raise UsageError("--org: a CA is one organisation's, and this home has none", mend=["--org ORG"])
    if network.organization_id not in ("", org):
        raise ConflictError(
            f"this home is of {network.organization_id}, not of {org}",
            why="network.organization_id says so",
            mend=[f"rage cert ca init --org {network.organization_id}", "--home DIR"],
            id="config-differs",
        )
    certfiles.settle(files)
    if files.ca_key.exists() or files.ca_certificate.exists():
        raise ConflictError(
            f"there is a CA in {files.ca}", mend=["rage cert ca show", "rage cert ca rotate"], id="ca-exists"
        )
    system = random.SystemRandom()
    key = keys.generate(system)
    der = issue.make_ca(org, key, now=time.time(), serial=issue.draw_serial(system), years=years)
    if options.dry_run:
        return _shown(files, der, dry_run=True)
    passphrase = ask(f"the new CA of {org}", passphrase_file, is_new=True)
    certfiles.write_key(files.ca_key, key, passphrase, _salt())
    certfiles.write_certificates(files.ca_certificate, [der])
    certfiles.trust(files, [der])
    return _shown(files, der)


def show() -> Ca:
    """The CA that is kept here."""
    _, _, files = here()
    return _shown(files, certfiles.read_ca(files).der)


def rotation_plan() -> tuple[str, CaCertificate]:
    """What `rotate` would do, and to which CA."""
    _, _, files = here()
    ca = certfiles.read_ca(files)
    if certfiles.read_retired(files):
        raise ConflictError(
            "a CA before this one is still trusted",
            why="one is replaced at a time",
            mend=["rage cert ca rotate --withdraw"],
            id="ca-rotating",
        )
    plan = (
        f"Replace {ca.name}? Both are trusted until the old one is withdrawn; nodes get certificates of the new one as"
        " they renew."
    )
    return plan, ca


def rotate(ca: CaCertificate, years: float, passphrase_file: str) -> Ca:
    """Put a new CA in the place of `ca`; the old one vouches for it, so that nodes that do not know it believe it."""
    from rage_net import keys
    from rage_net.cert import issue, parse_ca

    _, _, files = here()
    system, now = random.SystemRandom(), time.time()
    certfiles.check_key(files.ca_key)
    passphrase = ask(ca.name, passphrase_file)
    old_key = certfiles.read_key(files.ca_key, passphrase)
    key = keys.generate(system)
    der = issue.make_ca(ca.organization, key, now=now, serial=issue.draw_serial(system), years=years)
    bridge = issue.link(parse_ca(der), ca, old_key, now=now, serial=issue.draw_serial(system))
    certfiles.trust(files, [ca.der, der])
    certfiles.replace_ca(files, key, der, bridge, passphrase, _salt())
    return _shown(files, der)


def withdrawal_plan() -> tuple[str, tuple[CaCertificate, ...]]:
    """What `rotate --withdraw` would do, and to which CAs. Raises ConflictError where it would shut this node out."""
    from rage_net.cert import parse

    _, _, files = here()
    certfiles.read_ca(files)
    retired = certfiles.read_retired(files)
    if not retired:
        raise NotFoundError("no CA waits to be withdrawn", mend=["rage cert ca show"], id="ca-none-retired")
    serials = {ca.serial for ca in retired}
    newest = {line.name: line for line in certfiles.read_issued(files)}
    behind = [line for line in newest.values() if line.by in serials and line.not_after > time.time()]
    own = certfiles.read_optional(files.certificate)
    if own and parse(own[0]).serial in {line.serial for line in behind}:
        raise ConflictError(
            "this node's own certificate is still of the CA that is to be withdrawn",
            why="nobody would believe it any more, nor what it wrote",
            mend=["rage cert renew", "rage cert request | rage cert sign - --yes | rage cert install -"],
            id="own-certificate-old",
        )
    plan = f"Trust {', '.join(ca.name for ca in retired)} no longer, and forget its key? "
    if behind:
        plan += f"{len(behind)} of its certificates were not replaced yet: {', '.join(x.name for x in behind[:3])}."
    else:
        plan += "None of the certificates that it signed here still holds, or all were replaced."
    return plan, retired


def withdraw(retired: Sequence[CaCertificate]) -> Ca:
    """Trust the current CA alone."""
    _, _, files = here()
    certfiles.distrust(files, [ca.der for ca in retired])
    for ca in retired:
        certfiles.remove_retired(files, ca.serial)
    return show()


def enrol(capabilities: Sequence[str], days: float, directory: str, files_of: tuple[str, str]) -> EnrolmentCa:
    """An enrolment CA in `directory`, this home's `certs/` by default. `files_of`: where the passphrases come from."""
    from rage_net import keys
    from rage_net.cert import issue, parse_ca

    _, _, files = here()
    ca = certfiles.read_ca(files)
    certfiles.check_key(files.ca_key)
    target = Path(directory) if directory else files.root
    key_path, path = target / files.enrol_key.name, target / files.enrol_certificate.name
    if key_path.exists():
        raise ConflictError(
            f"there is an enrolment CA in {target}", mend=[f"mv {key_path} {key_path}.old", "-o DIR"], id="ca-exists"
        )
    system, now = random.SystemRandom(), time.time()
    ca_key = certfiles.read_key(files.ca_key, ask(ca.name, files_of[0]))
    passphrase = ask(
        "the new enrolment CA",
        files_of[1],
        variable="RAGE_ENROL_PASSPHRASE",
        option="--enrol-passphrase-file",
        is_new=True,
    )
    key = keys.generate(system)
    serial = issue.draw_serial(system)
    given = frozenset(capabilities)
    der = issue.make_intermediate(ca, ca_key, key.public_key(), now=now, serial=serial, capabilities=given, days=days)
    made = parse_ca(der)
    certfiles.record_issued(files, certfiles.line_of_ca(made, "enrol", ca.serial))
    certfiles.write_key(key_path, key, passphrase, _salt())
    certfiles.write_certificates(path, [der, *certfiles.read_optional(files.link)])
    names = tuple(sorted(given))
    return EnrolmentCa(made.organization, made.name, made.serial, names, made.not_after, str(key_path), str(path))


def foreign_ca(path: str) -> CaCertificate:
    """The CA of another organisation, from its file."""
    from rage_net.cert import parse_ca

    return parse_ca(read_pem(path)[0])


def cross(theirs: CaCertificate, path_length: int, days: float, passphrase_file: str) -> Certificate:
    """Their CA, vouched for by ours."""
    from rage_net.cert import issue, parse_ca

    _, _, files = here()
    ca = certfiles.read_ca(files)
    certfiles.check_key(files.ca_key)
    key = certfiles.read_key(files.ca_key, ask(ca.name, passphrase_file))
    serial = issue.draw_serial(random.SystemRandom())
    der = issue.cross_sign(theirs, ca, key, now=time.time(), serial=serial, path=path_length, days=days)
    certfiles.record_issued(files, certfiles.line_of_ca(parse_ca(der), "cross", ca.serial))
    return view([der])


@dataclass(frozen=True, slots=True)
class Wish:
    """What is about to be signed: a request, by a CA, on these terms."""

    request: Request
    ca: CaCertificate
    capabilities: tuple[str, ...]
    days: float
    renew_until: float

    def __str__(self) -> str:
        """All that a signature would certify, in a sentence."""
        asked = self.request
        region = f", in {asked.region}" if asked.region else ""
        return (
            f"Certify {asked.peer_id} as a node of {asked.organization}{region}, with the capabilities"
            f" {', '.join(self.capabilities) or 'none'}, for {self.days:g} day{'s' * (self.days != 1)}, renewable for"
            f" {(self.renew_until - time.time()) / DAY_S:.0f}, by {self.ca.name}?"
        )


def wish(path: str, capabilities: Sequence[str] | None, days: float, renew_days: float) -> Wish:
    """What signing the CSR in a file would mean. Raises CertificateError where it must not be signed."""
    from rage_net.cert import issue, pem, read_csr

    _, _, files = here()
    ca = certfiles.read_ca(files)
    certfiles.check_key(files.ca_key)
    (der, *more) = pem.decode(read_file(path), pem.CSR, name="stdin" if path == "-" else path)
    if more:
        raise UsageError(
            f"{path} holds {len(more) + 1} CSRs", why="one is signed at a time", mend=["rage cert sign CSR"]
        )
    asked = read_csr(der)
    if revocations(files, ca.organization)(ca.organization, "", asked.peer_id):
        raise CertificateError(
            f"{asked.peer_id} is revoked for good",
            why=f"{files.revoked} says so: its key may be in other hands",
            mend=["rage init    (a new identity, in a new home on that machine)"],
            id="cert-revoked",
        )
    given = frozenset(asked.capabilities if capabilities is None else capabilities)
    now = time.time()
    issue.check_terms(asked, ca, given, now, days)
    return Wish(asked, ca, tuple(sorted(given)), days, now + max(renew_days, days) * DAY_S)


def sign(wished: Wish, passphrase_file: str, *, stdin_is_free: bool) -> Certificate:
    """Sign it; the certificate and what leads from it to a CA that nodes may know."""
    from rage_net.cert import issue, pem

    _, _, files = here()
    passphrase = ask(wished.ca.name, passphrase_file, stdin_is_free=stdin_is_free)
    key = certfiles.read_key(files.ca_key, passphrase)
    made = issue.sign(
        wished.request,
        wished.ca,
        key,
        now=time.time(),
        serial=issue.draw_serial(random.SystemRandom()),
        days=wished.days,
        renew_until=wished.renew_until,
        capabilities=frozenset(wished.capabilities),
    )
    certfiles.record_issued(files, certfiles.line_of(made, wished.ca.serial))
    return view_of(made, pem.encode([made.der, *certfiles.read_optional(files.link)]).decode())


def unsigned(wished: Wish) -> Certificate:
    """What would be signed, for `--dry-run`."""
    now = time.time()
    return Certificate(
        what="node",
        serial="",
        organization=wished.request.organization,
        peer_id=str(wished.request.peer_id),
        region=wished.request.region,
        capabilities=wished.capabilities,
        not_before=now,
        not_after=now + wished.days * DAY_S,
        renew_until=wished.renew_until,
        sha256="",
        dry_run=True,
    )


def target_of(text: str) -> tuple[str, str]:
    """(serial, peer id) of what `revoke` names: one is empty, but where the CA kept here knows whose a serial is."""
    from rage_net.cert.words import read_serial
    from rage_net.libp2p.peer_id import PeerId, PeerIdError

    try:
        return "", str(PeerId.parse(text))
    except PeerIdError:
        serial = read_serial(text)
    if serial is None:
        raise UsageError(
            f"{text!r} is no serial and no peer id", mend=["rage cert list", "rage cert show FILE"], id="cert-target"
        )
    _, _, files = here()
    owners = [line.name for line in certfiles.read_issued(files) if line.serial == serial and line.what == "node"]
    return serial, owners[-1] if owners else ""


def record(serial: str, peer_id: str, reason: str) -> bool:
    """Write a revocation into the CA's list, where a CA is kept here; whether one is."""
    _, _, files = here()
    certfiles.settle(files)
    if not files.ca_certificate.exists():
        return False
    owner = "" if serial else peer_id
    certfiles.record_revoked(files, RevokedLine(serial, owner, time.time(), reason))
    return True


def crl(days: float, passphrase_file: str) -> Crl:
    """The CA's list of revoked certificates, signed now; peers revoked for good are in it by their serials."""
    from rage_net.cert import issue, pem

    _, _, files = here()
    ca = certfiles.read_ca(files)
    certfiles.check_key(files.ca_key)
    key = certfiles.read_key(files.ca_key, ask(ca.name, passphrase_file))
    now = time.time()
    found = {line.serial: issue.Revoked(line.serial, line.at, line.reason) for line in _revoked_serials(files)}
    der = issue.make_crl(ca, key, tuple(found.values()), now=now, number=int(now), days=days)
    return Crl(ca.organization, int(now), len(found), now + days * DAY_S, pem.encode([der], pem.CRL).decode())


def _revoked_serials(files: CertFiles) -> list[RevokedLine]:
    issued = certfiles.read_issued(files)
    found: list[RevokedLine] = []
    for line in certfiles.read_revoked(files):
        serials = [line.serial] if line.serial else [one.serial for one in issued if one.name == line.peer_id]
        found += [RevokedLine(serial, line.peer_id, line.at, line.reason) for serial in serials]
    return found


def _shown(files: CertFiles, der: bytes, *, dry_run: bool = False) -> Ca:
    from rage_net.cert import parse_ca, pem

    ca = parse_ca(der)
    return Ca(
        ca.organization,
        ca.name,
        ca.serial,
        ca.fingerprint.hex(),
        ca.not_before,
        ca.not_after,
        str(files.ca_certificate),
        tuple(parse_ca(one).fingerprint.hex() for one in certfiles.read_optional(files.bundle)),
        tuple(one.serial for one in certfiles.read_retired(files)),
        pem.encode([der]).decode(),
        dry_run,
    )


def _salt() -> bytes:
    from rage_net.cert.secret import SALT_BYTES

    return random.SystemRandom().randbytes(SALT_BYTES)
