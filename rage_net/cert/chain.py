"""From a node's certificate up to an anchor: the one place that decides whether a certificate is believed.

Trust grows from the anchors down: what no trusted key has signed is never looked at twice, so that loops and long
chains of strangers cost one comparison of names each. Every way down is then judged whole, the shortest first, and the
first that holds is the answer; where none does, the first one's reason is.

`cryptography`'s own verifier refuses Ed25519 and constraints on URIs, hence this one. What it holds to beyond RFC 5280:
all certificates of a path name the organisation under which its anchor was trusted, but for `path_max` steps at which
one organisation has cross-signed another's CA; and no CA certifies more capabilities than it has itself.

Source: design D7; RFC 5280 6.1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from rage_net.cert.reading import CA_CACHE_SIZE, CaCertificate, NodeCertificate, load_checked, parse, parse_ca
from rage_net.cert.words import CERTIFICATES_MAX, DEPTH_MAX, LEEWAY_S, PATHS_MAX
from rage_net.errors import CertificateError
from rage_net.libp2p.peer_id import PeerId

IsRevoked = Callable[[str, str, PeerId], bool]
"""(organisation whose CA issued it, serial, peer id of its key): of nodes and of CAs between them and the anchor."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """A CA that is trusted to speak for one organisation, for `scopes`, until `until` (None: no end)."""

    organization: str
    certificate: bytes = field(repr=False)
    """DER."""
    scopes: frozenset[str] = frozenset()
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Verified:
    """A certificate that is believed, the anchor that vouches for it, and the path between them."""

    certificate: NodeCertificate
    anchor: Anchor
    path: tuple[bytes, ...] = field(repr=False)
    """DER, from the certificate up to the anchor's, both included."""
    hops: int
    """Organisations between: 0 where the anchor's own organisation issued it, else by web of trust."""


class _Path(NamedTuple):
    """A way down from an anchor: CAs from the anchor on, each signed by the one before."""

    anchor: Anchor
    cas: tuple[CaCertificate, ...]


class _Candidate(NamedTuple):
    """A CA as both views of it; its names as DER, which compare ten times as fast as the library's."""

    ca: CaCertificate
    x509: x509.Certificate
    subject: bytes
    issuer: bytes


@functools.lru_cache(maxsize=CA_CACHE_SIZE)
def _candidate(der: bytes) -> _Candidate:
    ca, loaded = parse_ca(der), load_checked(der)
    return _Candidate(ca, loaded, loaded.subject.public_bytes(), loaded.issuer.public_bytes())


def verify_chain(
    certificates: Sequence[bytes],
    anchors: Sequence[Anchor],
    now: float | None,
    *,
    peer_id: PeerId | None,
    is_revoked: IsRevoked,
    path_max: int = 0,
) -> Verified:
    """Say whose certificate the first one is, or why it is not believed.

    Args:
        certificates: DER, the node's own first, then CAs in any order, at most CERTIFICATES_MAX.
        anchors: CAs trusted here, each under one organisation's name; an organisation may have several.
        now: seconds since the epoch; None judges no time at all, for what was signed while a certificate held.
        peer_id: whose it must be, as Noise proved; None takes any.
        is_revoked: asked for each certificate below the anchor.
        path_max: cross-signatures that may lie between; 0 is `trust_model: explicit`.

    Raises: CertificateError `cert-missing`, `cert-too-deep`, `cert-malformed`, `cert-not-ed25519`,
        `cert-unknown-critical`, `cert-not-a-node`, `cert-not-a-ca`, `cert-other-peer`, `cert-self-signed`,
        `cert-untrusted`, `cert-wrong-organization`, `cert-over-capabilities`, `cert-not-yet-valid`, `cert-expired`,
        `cert-trust-ended`, `cert-revoked`.
    """
    if not certificates:
        raise CertificateError(
            "there is no certificate",
            why="a node with a CA speaks to certified peers alone",
            mend=["rage cert request | rage cert sign - --yes | rage cert install -"],
            id="cert-missing",
        )
    if len(certificates) > CERTIFICATES_MAX:
        raise _too_deep(f"{len(certificates)} certificates were sent, the limit is {CERTIFICATES_MAX}")
    leaf = parse(certificates[0])
    if peer_id is not None and leaf.peer_id != peer_id:
        raise CertificateError(
            "the certificate is another peer's",
            why=f"it is that of {leaf.peer_id}, and the connection that of {peer_id}",
            mend=["rage cert show    (on that node)"],
            id="cert-other-peer",
        )
    failure: CertificateError | None = None
    for path in _paths_down(leaf, certificates[1:], anchors):
        try:
            hops = _judge(leaf, path, now, is_revoked, path_max)
        except CertificateError as error:
            failure = failure or error
        else:
            return Verified(leaf, path.anchor, (leaf.der, *(ca.der for ca in reversed(path.cas))), hops)
    raise failure or _unbelieved(leaf)


# --- ways down --------------------------------------------------------------------------------------------------------


def _paths_down(leaf: NodeCertificate, others: Sequence[bytes], anchors: Sequence[Anchor]) -> Iterator[_Path]:
    """Every way from an anchor down to the CA that signed `leaf`, the shortest first; signatures and names hold."""
    own = load_checked(leaf.der)
    own_issuer = own.issuer.public_bytes()
    pool = _candidates(others)
    signed: dict[tuple[bytes, bytes], bool] = {}

    def is_signed(below: x509.Certificate, der: bytes, issuer: bytes, above: _Candidate) -> bool:
        if issuer != above.subject:
            return False
        pair = (der, above.ca.der)
        if pair not in signed:
            signed[pair] = _is_issued(below, above.x509)
        return signed[pair]

    level: list[tuple[_Path, _Candidate]] = []
    wanted = {own_issuer, *(candidate.issuer for candidate in pool)}
    for anchor in anchors:
        top = _candidate(anchor.certificate)
        if top.subject in wanted:
            level.append((_Path(anchor, (top.ca,)), top))
    followed = 0
    while level and followed < PATHS_MAX:
        below: list[tuple[_Path, _Candidate]] = []
        for path, last in level:
            followed += 1
            if is_signed(own, leaf.der, own_issuer, last):
                yield path
            if followed >= PATHS_MAX:
                return
            for candidate in pool:
                is_new = candidate.ca not in path.cas
                if is_new and is_signed(candidate.x509, candidate.ca.der, candidate.issuer, last):
                    below.append((_Path(path.anchor, (*path.cas, candidate.ca)), candidate))
        level = below


def _candidates(others: Sequence[bytes]) -> list[_Candidate]:
    """CAs among the certificates that came along. What is none is left out: it cannot help, nor may it harm."""
    found: dict[bytes, _Candidate] = {}
    for der in others:
        try:
            found.setdefault(der, _candidate(der))
        except CertificateError:
            continue
    return list(found.values())


def _is_issued(below: x509.Certificate, above: x509.Certificate) -> bool:
    try:
        below.verify_directly_issued_by(above)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


# --- the judgement of one way -----------------------------------------------------------------------------------------


def _judge(leaf: NodeCertificate, path: _Path, now: float | None, is_revoked: IsRevoked, path_max: int) -> int:
    """Pass when this way holds, with the number of organisations between. Raises CertificateError."""
    anchor, cas = path
    if len(cas) > DEPTH_MAX:
        raise _too_deep(f"{len(cas)} CAs stand above the certificate, the limit is {DEPTH_MAX}")
    top = cas[0]
    if top.organization not in ("", anchor.organization):
        raise _wrong_organization(f"the CA of {top.organization} is trusted under the name {anchor.organization}")
    named = (replace(top, organization=anchor.organization), *cas[1:])
    hops = 0
    for at, (above, ca) in enumerate(pairwise(named)):
        if not ca.organization:
            raise _wrong_organization(f"the CA {ca.name} names no organisation")
        hops += ca.organization != above.organization
        _check_path_length(above, len(cas) - 1 - at)
    if leaf.organization != named[-1].organization:
        raise _wrong_organization(f"a CA of {named[-1].organization} has signed for {leaf.organization}")
    if hops > path_max:
        raise _wrong_organization(
            f"{anchor.organization} has cross-signed {leaf.organization} over {hops} steps, and {path_max} are trusted"
        )
    _check_capabilities(leaf, named)
    _check_revoked(leaf, named, is_revoked)
    if now is not None:
        _check_times(leaf, named, anchor, now)
    return hops


def _check_path_length(above: CaCertificate, below: int) -> None:
    """`below`: CAs that stand between `above` and the node."""
    if above.path_length is not None and above.path_length < below:
        raise _too_deep(f"{above.name} allows {above.path_length} CAs beneath it, and there are {below}")


def _check_capabilities(leaf: NodeCertificate, cas: Sequence[CaCertificate]) -> None:
    for ca in cas:
        over = leaf.capabilities - ca.capabilities if ca.capabilities is not None else frozenset()
        if over:
            raise CertificateError(
                "the certificate has capabilities that its CA may not give",
                why=f"{', '.join(sorted(over))}: {ca.name} gives {', '.join(sorted(ca.capabilities or ())) or 'none'}",
                mend=["rage cert sign CSR    (by the organisation's own CA)"],
                id="cert-over-capabilities",
            )


def _check_revoked(leaf: NodeCertificate, cas: Sequence[CaCertificate], is_revoked: IsRevoked) -> None:
    if is_revoked(leaf.organization, leaf.serial, leaf.peer_id):
        raise CertificateError(
            f"the certificate of {leaf.peer_id} is revoked",
            why=f"{leaf.organization} has withdrawn serial {leaf.serial}, or all of this peer",
            mend=["rage cert request    (and ask who signs for a new one)"],
            id="cert-revoked",
        )
    for above, ca in pairwise(cas):
        if is_revoked(above.organization, ca.serial, _peer_of(ca)):
            raise CertificateError(
                f"the CA {ca.name} is revoked",
                why=f"{above.organization} has withdrawn serial {ca.serial}",
                mend=["rage cert request    (and have it signed by a CA that holds)"],
                id="cert-revoked",
            )


def _check_times(leaf: NodeCertificate, cas: Sequence[CaCertificate], anchor: Anchor, now: float) -> None:
    check_time("the certificate", leaf.not_before, leaf.not_after, now, ["rage cert renew"])
    for ca in reversed(cas):
        check_time(f"the CA {ca.name}", ca.not_before, ca.not_after, now, ["rage cert ca rotate"])
    if anchor.until is not None and now >= anchor.until:
        raise CertificateError(
            f"{anchor.organization} is trusted no longer",
            why=f"that ended {_duration(now - anchor.until)} ago",
            mend=[f"rage trust add {anchor.organization} --ca FILE"],
            id="cert-trust-ended",
        )


def check_time(what: str, not_before: float, not_after: float, now: float, mend: Sequence[str]) -> None:
    """Pass within the life of `what`, with LEEWAY_S at both ends.

    Raises: CertificateError `cert-not-yet-valid` or `cert-expired`.
    """
    if now < not_before - LEEWAY_S:
        raise CertificateError(
            f"{what} is not valid yet",
            why=f"its life begins in {_duration(not_before - now)}: is this machine's clock right?",
            mend=["date -u"],
            id="cert-not-yet-valid",
        )
    if now >= not_after + LEEWAY_S:
        raise CertificateError(
            f"{what} has expired", why=f"its life ended {_duration(now - not_after)} ago", mend=mend, id="cert-expired"
        )


# --- words ------------------------------------------------------------------------------------------------------------


def _unbelieved(leaf: NodeCertificate) -> CertificateError:
    """No anchor leads to it."""
    own = load_checked(leaf.der)
    if own.subject == own.issuer and _is_issued(own, own):
        return CertificateError(
            "the certificate is signed by itself",
            why=f"nobody but {leaf.peer_id} says that it belongs to {leaf.organization}",
            mend=["rage cert request | rage cert sign - --yes | rage cert install -"],
            id="cert-self-signed",
        )
    return CertificateError(
        "the certificate is signed by a CA that is not trusted here",
        why=f"it says {leaf.organization}, signed by {own.issuer.rfc4514_string()}",
        mend=["rage trust list", f"rage trust add {leaf.organization} --ca FILE"],
        id="cert-untrusted",
    )


def _too_deep(why: str) -> CertificateError:
    return CertificateError(
        "the chain of certificates is too long", why=why, mend=["rage cert show FILE"], id="cert-too-deep"
    )


def _wrong_organization(why: str) -> CertificateError:
    return CertificateError(
        "the certificate is of an organisation for which its CA does not speak",
        why=why,
        mend=["rage trust list"],
        id="cert-wrong-organization",
    )


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _peer_of(ca: CaCertificate) -> PeerId:
    key = _candidate(ca.der).x509.public_key()
    assert isinstance(key, Ed25519PublicKey)  # parse_ca has seen to it
    return PeerId.from_public_key(key)
