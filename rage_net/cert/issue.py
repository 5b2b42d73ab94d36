"""What a CA makes: itself, certificates of nodes, enrolment CAs, cross-signatures, CRLs; and what a node makes: a CSR.

Times, serials and keys come in. Nothing here asks whether it should: that is the operator's answer (`rage cert sign`),
or a rule (`renew`). Source: RFC 5280, RFC 2986.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from rage_net.cert.reading import (
    CaCertificate,
    NodeCertificate,
    Request,
    encode_capabilities,
    encode_renew_until,
    load_checked,
    parse,
    parse_ca,
)
from rage_net.cert.words import (
    BACKDATE_S,
    CA_YEARS,
    CA_YEARS_MAX,
    CA_YEARS_MIN,
    CAPABILITIES,
    CRL_DAYS,
    CROSS_DAYS,
    CROSS_DAYS_MAX,
    DAYS,
    DAYS_MAX,
    DAYS_MIN,
    ENROL_DAYS,
    ENROL_DAYS_MAX,
    RENEW_DAYS,
    SERIAL_BITS,
    URI_ORG,
    URI_PEER,
    URI_REGION,
    is_name,
)
from rage_net.errors import CertificateError, UsageError
from rage_net.libp2p.peer_id import PeerId

if TYPE_CHECKING:
    import random

DAY_S = 86_400

REASONS: dict[str, x509.ReasonFlags] = {
    "unspecified": x509.ReasonFlags.unspecified,
    "key-compromise": x509.ReasonFlags.key_compromise,
    "superseded": x509.ReasonFlags.superseded,
    "cessation-of-operation": x509.ReasonFlags.cessation_of_operation,
    "affiliation-changed": x509.ReasonFlags.affiliation_changed,
    "privilege-withdrawn": x509.ReasonFlags.privilege_withdrawn,
}
"""What `revoke --reason` may say that X.509 has a number for; other words stand in our own records alone."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """One entry of a CRL. `at` is seconds since the epoch."""

    serial: str
    at: float
    reason: str = ""


def draw_serial(generator: random.Random) -> int:
    """A serial of SERIAL_BITS from `generator`, which is `env.random`; the first bit is set."""
    return generator.getrandbits(SERIAL_BITS - 1) | 1 << (SERIAL_BITS - 1)


def make_ca(organization: str, key: Ed25519PrivateKey, *, now: float, serial: int, years: float = CA_YEARS) -> bytes:
    """An organisation's own CA, DER, signed by itself. Raises UsageError for a name or life out of range."""
    _check_name("organisation", organization)
    _check_range("the life of a CA", years, CA_YEARS_MIN, CA_YEARS_MAX, "years")
    subject = _ca_subject(organization, key.public_key())
    return _sign_ca(
        organization, key.public_key(), subject, subject, key, now=now, days=years * 365, serial=serial, path=None
    )


def make_intermediate(
    ca: CaCertificate,
    ca_key: Ed25519PrivateKey,
    key: Ed25519PublicKey,
    *,
    now: float,
    serial: int,
    capabilities: frozenset[str],
    days: float = ENROL_DAYS,
) -> bytes:
    """An enrolment CA of `ca`'s organisation for `key`, DER: it renews nodes, and gives `capabilities` at most."""
    _check_range("the life of an enrolment CA", days, DAYS_MIN, ENROL_DAYS_MAX, "days")
    check_capabilities(capabilities)
    subject = _ca_subject(ca.organization, key, "enrolment CA")
    return _sign_ca(
        ca.organization,
        key,
        subject,
        load_checked(ca.der).subject,
        ca_key,
        now=now,
        days=days,
        serial=serial,
        path=0,
        above=ca,
        capabilities=capabilities,
    )


def cross_sign(
    theirs: CaCertificate,
    ca: CaCertificate,
    ca_key: Ed25519PrivateKey,
    *,
    now: float,
    serial: int,
    path: int = 1,
    days: float = CROSS_DAYS,
) -> bytes:
    """Another organisation's CA, vouched for by ours, DER: for those who trust us by `web-of-trust`.

    `path` CAs may stand beneath it: 1 is its enrolment CAs, 2 organisations that it vouches for itself.
    Raises: UsageError for a CA that names no organisation or our own one.
    """
    _check_range("the life of a cross-signature", days, DAYS_MIN, CROSS_DAYS_MAX, "days")
    if not theirs.organization or theirs.organization == ca.organization:
        named = f"it is of {ca.organization} itself" if theirs.organization else "it names no organisation"
        raise UsageError(f"{theirs.name} cannot be cross-signed", why=named, id="cert-cross-own")
    loaded = load_checked(theirs.der)
    key = loaded.public_key()
    assert isinstance(key, Ed25519PublicKey)  # parse_ca has seen to it
    return _sign_ca(
        theirs.organization,
        key,
        loaded.subject,
        load_checked(ca.der).subject,
        ca_key,
        now=now,
        days=days,
        serial=serial,
        path=path,
        above=ca,
    )


def link(new: CaCertificate, old: CaCertificate, old_key: Ed25519PrivateKey, *, now: float, serial: int) -> bytes:
    """The CA that replaces `old`, signed by it, DER: nodes that know the old one alone believe the new one by it."""
    loaded = load_checked(new.der)
    key = loaded.public_key()
    assert isinstance(key, Ed25519PublicKey)  # parse_ca has seen to it
    return _sign_ca(
        new.organization,
        key,
        loaded.subject,
        load_checked(old.der).subject,
        old_key,
        now=now,
        days=(old.not_after - now) / DAY_S,
        serial=serial,
        path=None,
        above=old,
    )


def make_csr(
    key: Ed25519PrivateKey, organization: str, region: str = "", capabilities: frozenset[str] = frozenset()
) -> bytes:
    """A CSR of the node whose identity key this is, DER. Raises UsageError for names that cannot be certified."""
    _check_name("organisation", organization)
    if region:
        _check_name("region", region)
    check_capabilities(capabilities)
    peer_id = PeerId.from_public_key(key.public_key())
    builder = x509.CertificateSigningRequestBuilder().subject_name(_node_subject(peer_id, organization))
    builder = builder.add_extension(_alternative_names(organization, peer_id, region), critical=False)
    if capabilities:
        builder = builder.add_extension(encode_capabilities(capabilities), critical=False)
    return builder.sign(key, None).public_bytes(Encoding.DER)


def sign(
    request: Request,
    ca: CaCertificate,
    ca_key: Ed25519PrivateKey,
    *,
    now: float,
    serial: int,
    days: float = DAYS,
    renew_until: float | None = None,
    capabilities: frozenset[str] | None = None,
) -> NodeCertificate:
    """The certificate that `request` asks for.

    It lives `days`, DAYS_MIN to DAYS_MAX, and never longer than the CA; the node may renew it until `renew_until`
    (seconds since the epoch; None is RENEW_DAYS from now). `capabilities` stand in for those that the request names.

    Raises: CertificateError `cert-wrong-organization` for a CA of another one, `cert-over-capabilities` where the CA
        may not give them, `cert-expired` or `cert-not-yet-valid` for the CA itself; UsageError for a life out of range.
    """
    given = request.capabilities if capabilities is None else capabilities
    check_terms(request, ca, given, now, days)
    not_after = min(now + days * DAY_S, ca.not_after)
    until = now + RENEW_DAYS * DAY_S if renew_until is None else renew_until
    return _issue(request, ca, ca_key, given, now, not_after, max(until, not_after), serial)


def renew(
    request: Request,
    old: NodeCertificate,
    ca: CaCertificate,
    ca_key: Ed25519PrivateKey,
    *,
    now: float,
    serial: int,
    is_revoked: Callable[[str, str, PeerId], bool],
) -> NodeCertificate:
    """The next certificate of a node that had `old`, by rule: same peer, organisation, region; never more capabilities.

    `old` was verified by the caller, who may ignore that it has expired: until `renew_until` that is no hindrance.
    The new one lives as long as `old` did, to `renew_until` at most, and has the capabilities that `request` names.

    Raises: CertificateError `renew-refused` when peer, organisation, region or capabilities differ or `renew_until`
        has passed; `cert-revoked`; what `sign` raises.
    """
    if is_revoked(old.organization, old.serial, old.peer_id):
        raise CertificateError(
            "a revoked certificate is not renewed",
            why=f"{old.organization} has withdrawn serial {old.serial}, or all of this peer",
            mend=["rage cert request    (and ask who signs for a new one)"],
            id="cert-revoked",
        )
    if now >= old.renew_until:
        raise _refused("the time within which this node may renew by itself is over")
    for what, before, after in (
        ("peer id", str(old.peer_id), str(request.peer_id)),
        ("organisation", old.organization, request.organization),
        ("region", old.region, request.region),
    ):
        if before != after:
            raise _refused(f"the certificate has the {what} {before or 'none'}, and the request {after or 'none'}")
    more = request.capabilities - old.capabilities
    if more:
        raise _refused(f"the request wants more than the certificate has: {', '.join(sorted(more))}")
    _check_may_issue(request, ca, request.capabilities, now)
    life = min(old.not_after - old.not_before - BACKDATE_S, DAYS_MAX * DAY_S)
    not_after = min(now + life, old.renew_until, ca.not_after)
    return _issue(request, ca, ca_key, request.capabilities, now, not_after, old.renew_until, serial)


def make_crl(
    ca: CaCertificate,
    ca_key: Ed25519PrivateKey,
    revoked: Sequence[Revoked],
    *,
    now: float,
    number: int,
    days: float = CRL_DAYS,
) -> bytes:
    """A CRL of `ca`, DER, for programs that read them; nodes of this network learn revocations as signed facts."""
    issuer = load_checked(ca.der)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(_moment(now))
        .next_update(_moment(now + days * DAY_S))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_authority(issuer), critical=False)
    )
    for entry in revoked:
        one = x509.RevokedCertificateBuilder().serial_number(int(entry.serial, 16)).revocation_date(_moment(entry.at))
        if entry.reason in REASONS and entry.reason != "unspecified":
            one = one.add_extension(x509.CRLReason(REASONS[entry.reason]), critical=False)
        builder = builder.add_revoked_certificate(one.build())
    return builder.sign(ca_key, None).public_bytes(Encoding.DER)


def check_terms(request: Request, ca: CaCertificate, capabilities: frozenset[str], now: float, days: float) -> None:
    """Pass when `sign` would sign this. Raises what it raises."""
    _check_range("the life of a certificate", days, DAYS_MIN, DAYS_MAX, "days")
    _check_may_issue(request, ca, capabilities, now)


def check_capabilities(capabilities: frozenset[str]) -> None:
    """Pass when all are words that this version knows. Raises UsageError with the nearest."""
    import difflib

    for word in sorted(capabilities - set(CAPABILITIES)):
        near = difflib.get_close_matches(word, CAPABILITIES, 1) or CAPABILITIES[:1]
        raise UsageError(
            f"{word!r} is no capability; there are {', '.join(CAPABILITIES)}", mend=[f"--capability {near[0]}"]
        )


# --- making -----------------------------------------------------------------------------------------------------------


def _check_may_issue(request: Request, ca: CaCertificate, capabilities: frozenset[str], now: float) -> None:
    from rage_net.cert.chain import check_time

    check_capabilities(capabilities)
    check_time(f"the CA {ca.name}", ca.not_before, ca.not_after, now, ["rage cert ca rotate"])
    if request.organization != ca.organization:
        raise CertificateError(
            f"a CA of {ca.organization} cannot certify for {request.organization}",
            why="nobody would believe it",
            mend=[f"rage cert request --org {ca.organization}    (on the node)"],
            id="cert-wrong-organization",
        )
    over = capabilities - ca.capabilities if ca.capabilities is not None else frozenset()
    if over:
        raise CertificateError(
            f"{ca.name} may not give {', '.join(sorted(over))}",
            why=f"it is made to give {', '.join(sorted(ca.capabilities or ())) or 'none'}",
            mend=["rage cert sign CSR    (by the organisation's own CA)"],
            id="cert-over-capabilities",
        )


def _issue(
    request: Request,
    ca: CaCertificate,
    ca_key: Ed25519PrivateKey,
    capabilities: frozenset[str],
    now: float,
    not_after: float,
    renew_until: float,
    serial: int,
) -> NodeCertificate:
    issuer = load_checked(ca.der)
    key = request.peer_id.public_key()
    assert isinstance(key, Ed25519PublicKey)  # read_csr has seen to it
    builder = _builder(
        _node_subject(request.peer_id, request.organization), issuer.subject, key, now, not_after, serial
    )
    usage = _key_usage(digital_signature=True)
    names = _alternative_names(request.organization, request.peer_id, request.region)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(names, critical=False)
        .add_extension(_authority(issuer), critical=False)
        .add_extension(encode_renew_until(renew_until), critical=False)
    )
    if capabilities:
        builder = builder.add_extension(encode_capabilities(capabilities), critical=False)
    return parse(builder.sign(ca_key, None).public_bytes(Encoding.DER))


def _sign_ca(
    organization: str,
    key: Ed25519PublicKey,
    subject: x509.Name,
    issuer: x509.Name,
    signer: Ed25519PrivateKey,
    *,
    now: float,
    days: float,
    serial: int,
    path: int | None,
    above: CaCertificate | None = None,
    capabilities: frozenset[str] | None = None,
) -> bytes:
    not_after = now + days * DAY_S
    if above is not None:
        not_after = min(not_after, above.not_after)
    builder = _builder(subject, issuer, key, now, not_after, serial)
    authority = _authority(load_checked(above.der)) if above is not None else _authority_of(key)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(URI_ORG + organization)]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(authority, critical=False)
    )
    if capabilities is not None:
        builder = builder.add_extension(encode_capabilities(capabilities), critical=False)
    der = builder.sign(signer, None).public_bytes(Encoding.DER)
    parse_ca(der)
    return der


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Ed25519PublicKey, now: float, not_after: float, serial: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(_moment(now - BACKDATE_S))
        .not_valid_after(_moment(not_after))
    )


def _node_subject(peer_id: PeerId, organization: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, str(peer_id)),
        ]
    )


def _ca_subject(organization: str, key: Ed25519PublicKey, what: str = "CA") -> x509.Name:
    """The key is in the name, so that a CA and the one that follows it are told apart."""
    digest = x509.SubjectKeyIdentifier.from_public_key(key).digest.hex()
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, f"rage {what} {digest[:8]}"),
        ]
    )


def _alternative_names(organization: str, peer_id: PeerId, region: str) -> x509.SubjectAlternativeName:
    uris = [f"{URI_ORG}{organization}", f"{URI_PEER}{peer_id}", *([f"{URI_REGION}{region}"] if region else [])]
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])


def _authority(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        known = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        key = issuer.public_key()
        assert isinstance(key, Ed25519PublicKey)  # parse_ca has seen to it
        return _authority_of(key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known.value)


def _authority_of(key: Ed25519PublicKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(int(at), UTC)


def _check_name(what: str, name: str) -> None:
    if not is_name(name):
        raise UsageError(
            f"{name!r} cannot be certified as {what}",
            why="letters, digits, '.', '_' and '-', at most 64, a letter or digit first",
            id="cert-name",
        )


def _check_range(what: str, value: float, least: float, most: float, unit: str) -> None:
    if not least <= value <= most:
        raise UsageError(f"{what} is {least:g} to {most:g} {unit}, not {value:g}", mend=[f"--{unit} {least:g}"])


def _refused(why: str) -> CertificateError:
    return CertificateError(
        "the certificate is not renewed",
        why=why,
        mend=["rage cert request    (and have it signed by hand)"],
        id="renew-refused",
    )
