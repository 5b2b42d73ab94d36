"""One certificate or CSR: strict DER in, frozen values out, CertificateError for anything else.

What is not Ed25519 and version 3 is turned away by its first and last bytes, before the general parser sees it. An
extension that is critical and not ours to judge makes a certificate useless: whoever set it meant us to stop.
Nothing here says whether a certificate is believed: that is `chain`.

Source: RFC 5280 4.1 and 4.2, RFC 8410, RFC 2986.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import ExtensionOID

from rage_net.cert.words import (
    CAPABILITIES_MAX,
    CERTIFICATE_BYTES_MAX,
    OID_CAPABILITIES,
    OID_RENEW_UNTIL,
    SERIAL_BYTES_MAX,
    URI_ORG,
    URI_PEER,
    URI_REGION,
    is_capability,
    is_name,
    serial_text,
)
from rage_net.errors import CertificateError
from rage_net.libp2p.peer_id import PeerId, PeerIdError

CA_CACHE_SIZE = 256
"""Parsed CA certificates that are remembered: own, foreign and enrolment CAs come again with every chain."""

CAPABILITIES_OID = x509.ObjectIdentifier(OID_CAPABILITIES)
RENEW_UNTIL_OID = x509.ObjectIdentifier(OID_RENEW_UNTIL)

_JUDGED = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        CAPABILITIES_OID,
        RENEW_UNTIL_OID,
    }
)
"""Extensions that may be critical: this code obeys them."""

_ED25519 = bytes.fromhex("300506032b6570")  # AlgorithmIdentifier without parameters
_VERSION_3 = bytes.fromhex("a003020102")
_SIGNATURE_HEAD = bytes.fromhex("034100")  # BIT STRING of 64 octets
_SEQUENCE, _INTEGER, _UTF8, _TIME = 0x30, 0x02, 0x0C, 0x18

_FOREIGN_ERRORS = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    Warning,
)
"""What `cryptography` raises over bytes it cannot read; warnings are errors where a test makes them so."""

Extensions = Mapping[x509.ObjectIdentifier, x509.Extension[Any]]


@dataclass(frozen=True, slots=True)
class NodeCertificate:
    """What a node's certificate says. Times are seconds since the epoch."""

    peer_id: PeerId
    organization: str
    region: str
    """Empty where it names none."""
    capabilities: frozenset[str]
    not_before: float
    not_after: float
    renew_until: float
    """Until when the node may renew by itself; `not_after` where it names none."""
    serial: str
    """Lower-case hexadecimal."""
    fingerprint: bytes
    """SHA-256 of the DER."""
    der: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CaCertificate:
    """What the certificate of a CA says: an organisation's own, an enrolment CA, or one that another cross-signed."""

    organization: str
    """Empty where it names none: a CA that was not made by rage."""
    name: str
    """Its subject, for people."""
    capabilities: frozenset[str] | None
    """The most that it may certify; None sets no limit."""
    path_length: int | None
    """CAs that may stand between it and a node; None sets no limit."""
    not_before: float
    not_after: float
    serial: str
    fingerprint: bytes
    is_self_issued: bool
    """Subject and issuer have one name; whether it signed itself is for whoever checks signatures."""
    der: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Request:
    """A CSR whose signature holds: the key behind `peer_id` asks for this. Nothing of it is granted yet."""

    peer_id: PeerId
    organization: str
    region: str
    capabilities: frozenset[str]
    der: bytes = field(repr=False)


def parse(der: bytes) -> NodeCertificate:
    """Read a node's certificate.

    Raises: CertificateError `cert-malformed`, `cert-not-ed25519`, `cert-unknown-critical`, `cert-not-a-node`, or
        `cert-other-peer` when it names another peer than that of its own key.
    """
    with readable("certificate"):
        certificate, extensions = _load(der)
        if _is_ca(extensions):
            raise _not_a_node("it is that of a CA")
        usage = _value(extensions, ExtensionOID.KEY_USAGE)
        if usage is not None and (not usage.digital_signature or usage.key_cert_sign):
            raise _not_a_node("its key usage is not that of a node: digitalSignature, and no keyCertSign")
        organization, region, peer = _names(extensions)
        if not organization or not peer:
            raise _not_a_node(f"it has no alternative name {URI_PEER}<peer id> or none {URI_ORG}<organisation>")
        peer_id = _own_peer_id(certificate.public_key(), peer)
        not_after = certificate.not_valid_after_utc.timestamp()
        return NodeCertificate(
            peer_id=peer_id,
            organization=organization,
            region=region,
            capabilities=_capabilities(extensions) or frozenset(),
            not_before=certificate.not_valid_before_utc.timestamp(),
            not_after=not_after,
            renew_until=_renew_until(extensions, not_after),
            serial=serial_text(certificate.serial_number),
            fingerprint=hashlib.sha256(der).digest(),
            der=bytes(der),
        )


@functools.lru_cache(maxsize=CA_CACHE_SIZE)
def parse_ca(der: bytes) -> CaCertificate:
    """Read the certificate of a CA.

    Raises: CertificateError `cert-malformed`, `cert-not-ed25519`, `cert-unknown-critical` or `cert-not-a-ca`.
    """
    with readable("CA certificate"):
        certificate, extensions = _load(der)
        if not _is_ca(extensions):
            raise _not_a_ca("its basic constraints do not say CA:TRUE")
        usage = _value(extensions, ExtensionOID.KEY_USAGE)
        if usage is not None and not usage.key_cert_sign:
            raise _not_a_ca("its key usage lacks keyCertSign")
        organization, _, peer = _names(extensions)
        if peer:
            raise _not_a_ca("it names a peer, too")
        return CaCertificate(
            organization=organization,
            name=certificate.subject.rfc4514_string(),
            capabilities=_capabilities(extensions),
            path_length=_value(extensions, ExtensionOID.BASIC_CONSTRAINTS).path_length,
            not_before=certificate.not_valid_before_utc.timestamp(),
            not_after=certificate.not_valid_after_utc.timestamp(),
            serial=serial_text(certificate.serial_number),
            fingerprint=hashlib.sha256(der).digest(),
            is_self_issued=certificate.subject == certificate.issuer,
            der=bytes(der),
        )


def read_csr(der: bytes) -> Request:
    """Read a CSR and check its signature.

    Raises: CertificateError `cert-malformed`, `cert-not-ed25519`, `cert-not-a-node`, `cert-other-peer`,
        `cert-unknown-critical`, or `csr-signature`.
    """
    _check_length(der, "CSR")
    with readable("CSR"):
        request = x509.load_der_x509_csr(der)
        key = request.public_key()
        if not isinstance(key, Ed25519PublicKey):
            raise _not_ed25519("CSR")
        if not request.is_signature_valid:
            raise CertificateError(
                "the CSR's signature does not hold",
                why="it was changed on its way, or made by another key than the one it names",
                mend=["rage cert request    (on the node that asks)"],
                id="csr-signature",
            )
        extensions = _judged(request.extensions)
        if _is_ca(extensions):
            raise _not_a_node("it asks for a CA")
        organization, region, peer = _names(extensions)
        if not organization or not peer:
            raise _not_a_node("it names no peer, or no organisation")
        peer_id = _own_peer_id(key, peer)
        return Request(peer_id, organization, region, _capabilities(extensions) or frozenset(), bytes(der))


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Turn what `cryptography` says over bytes it cannot read into `cert-malformed`."""
    try:
        yield
    except _FOREIGN_ERRORS as error:
        raise malformed(what, str(error) or type(error).__name__) from error


def malformed(what: str, why: str) -> CertificateError:
    """The bytes are none."""
    return CertificateError(
        f"the {what} cannot be read",
        why=why.splitlines()[0][:200],
        mend=["openssl x509 -text -noout -in FILE    (what it is)"],
        id="cert-malformed",
    )


def load_checked(der: bytes) -> x509.Certificate:
    """The library's view of bytes that `parse` or `parse_ca` has accepted."""
    return x509.load_der_x509_certificate(der)


def encode_capabilities(capabilities: frozenset[str]) -> x509.UnrecognizedExtension:
    """The extension that says what a node may do, or the most that a CA may certify."""
    text = ",".join(sorted(capabilities)).encode("ascii")
    return x509.UnrecognizedExtension(CAPABILITIES_OID, _tlv(_UTF8, text))


def encode_renew_until(at: float) -> x509.UnrecognizedExtension:
    """The extension that says until when a node may renew by itself."""
    text = datetime.fromtimestamp(int(at), UTC).strftime("%Y%m%d%H%M%SZ").encode("ascii")
    return x509.UnrecognizedExtension(RENEW_UNTIL_OID, _tlv(_TIME, text))


# --- inside a certificate ---------------------------------------------------------------------------------------------


def _load(der: bytes) -> tuple[x509.Certificate, Extensions]:
    _check_length(der, "certificate")
    _check_shape(der)
    certificate = x509.load_der_x509_certificate(der)
    if not isinstance(certificate.public_key(), Ed25519PublicKey):
        raise _not_ed25519("certificate")
    _ = certificate.subject, certificate.issuer  # the library reads these when asked: here a failure is caught
    return certificate, _judged(certificate.extensions)


def _judged(extensions: x509.Extensions) -> Extensions:
    for extension in extensions:
        if extension.critical and extension.oid not in _JUDGED:
            raise CertificateError(
                "the certificate has a critical extension that rage does not know",
                why=f"{extension.oid.dotted_string}: whoever set it wants it obeyed or the certificate refused",
                mend=["rage cert request    (and have it signed by rage)"],
                id="cert-unknown-critical",
            )
    return {extension.oid: extension for extension in extensions}


def _value(extensions: Extensions, oid: x509.ObjectIdentifier) -> Any:
    found = extensions.get(oid)
    return None if found is None else found.value


def _is_ca(extensions: Extensions) -> bool:
    constraints = _value(extensions, ExtensionOID.BASIC_CONSTRAINTS)
    return constraints is not None and bool(constraints.ca)


def _names(extensions: Extensions) -> tuple[str, str, str]:
    """Organisation, region and peer of the alternative names, each at most once; empty where there is none."""
    found = {URI_ORG: "", URI_REGION: "", URI_PEER: ""}
    names = _value(extensions, ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else ():
        kind = next((kind for kind in found if uri.startswith(kind)), None)
        if kind is None:
            if uri.startswith("rage:"):
                raise malformed("certificate", "it has an alternative name of rage's that nobody knows")
            continue
        if found[kind]:
            raise malformed("certificate", f"it has two alternative names {kind}")
        found[kind] = uri.removeprefix(kind)
        if kind != URI_PEER and not is_name(found[kind]):
            raise malformed("certificate", f"what follows {kind} is no name")
    return found[URI_ORG], found[URI_REGION], found[URI_PEER]


def _own_peer_id(key: Any, named: str) -> PeerId:
    own = PeerId.from_public_key(key)
    try:
        is_same = PeerId.parse(named) == own and str(own) == named
    except PeerIdError as error:
        raise malformed("certificate", str(error)) from error
    if not is_same:
        raise CertificateError(
            "the certificate names another peer than that of its key",
            why=f"it names {named}, and its key is that of {own}",
            mend=["rage cert request    (on the node itself)"],
            id="cert-other-peer",
        )
    return own


def _capabilities(extensions: Extensions) -> frozenset[str] | None:
    extension = _value(extensions, CAPABILITIES_OID)
    if extension is None:
        return None
    text = _content(extension.value, _UTF8, "capabilities").decode("ascii")
    words = text.split(",") if text else []
    if len(words) > CAPABILITIES_MAX or words != sorted(set(words)) or not all(map(is_capability, words)):
        raise malformed("certificate", "its capabilities are not a sorted list of words")
    return frozenset(words)


def _renew_until(extensions: Extensions, not_after: float) -> float:
    extension = _value(extensions, RENEW_UNTIL_OID)
    if extension is None:
        return not_after
    text = _content(extension.value, _TIME, "end of renewals").decode("ascii")
    moment = datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    if moment.strftime("%Y%m%d%H%M%SZ") != text:
        raise malformed("certificate", "its end of renewals is no time")
    return moment.timestamp()


# --- DER --------------------------------------------------------------------------------------------------------------


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    head = bytes((tag, size)) if size < 128 else bytes((tag, 0x82, size >> 8, size & 0xFF))
    return (bytes((tag, 0x81, size)) if 128 <= size < 256 else head) + content


def _content(der: bytes, tag: int, what: str) -> bytes:
    """The content of the one value that `der` is."""
    begin, end = _span(der, 0, tag, what)
    if end != len(der):
        raise malformed("certificate", f"bytes follow its {what}")
    return der[begin:end]


def _span(der: bytes, at: int, tag: int, what: str) -> tuple[int, int]:
    """Where the content of the value at `at` begins and ends; lengths in their shortest form, below 64 KiB."""
    if at + 2 > len(der) or der[at] != tag:
        raise malformed("certificate", f"its {what} is not where it belongs")
    size, begin = der[at + 1], at + 2
    if size >= 0x80:
        octets = size & 0x7F
        size = int.from_bytes(der[begin : begin + octets], "big")
        begin += octets
        if octets not in (1, 2) or size < (0x80 if octets == 1 else 0x100):
            raise malformed("certificate", f"the length of its {what} is not DER's")
    if begin + size > len(der):
        raise malformed("certificate", f"its {what} is cut short")
    return begin, begin + size


def _check_length(der: bytes, what: str) -> None:
    if len(der) > CERTIFICATE_BYTES_MAX:
        raise malformed(what, f"it has {len(der)} bytes, the limit is {CERTIFICATE_BYTES_MAX}")


def _check_shape(der: bytes) -> None:
    """Version 3, a positive serial, signed by Ed25519: seen from the first and last bytes."""
    begin, end = _span(der, 0, _SEQUENCE, "outer sequence")
    if end != len(der):
        raise malformed("certificate", "bytes follow it")
    inner, signed = _span(der, begin, _SEQUENCE, "content")
    if der[inner : inner + len(_VERSION_3)] != _VERSION_3:
        raise malformed("certificate", "it is not of version 3")
    first, last = _span(der, inner + len(_VERSION_3), _INTEGER, "serial")
    if not 0 < last - first <= SERIAL_BYTES_MAX or der[first] & 0x80 or not any(der[first:last]):
        raise malformed("certificate", "its serial is not a positive number of at most 20 bytes")
    tail = _ED25519 + _SIGNATURE_HEAD
    if der[last : last + len(_ED25519)] != _ED25519 or der[signed : signed + len(tail)] != tail:
        raise _not_ed25519("certificate")
    if end - signed != len(tail) + 64:
        raise malformed("certificate", "its signature has another length than Ed25519's")


def _not_ed25519(what: str) -> CertificateError:
    return CertificateError(
        f"the {what} is not one of Ed25519",
        why="nodes and CAs of this network have Ed25519 keys, and sign with them",
        mend=["rage cert ca init    (a CA that fits)"],
        id="cert-not-ed25519",
    )


def _not_a_node(why: str) -> CertificateError:
    return CertificateError(
        "this is no certificate of a node", why=why, mend=["rage cert show FILE"], id="cert-not-a-node"
    )


def _not_a_ca(why: str) -> CertificateError:
    return CertificateError("this is no certificate of a CA", why=why, mend=["rage cert show FILE"], id="cert-not-a-ca")
