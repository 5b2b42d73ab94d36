"""Whom to believe: chains against the anchors of now. Keeps what it has verified; clock and lists come in.

A chain that held is remembered with the time for which it holds and the certificates that must not be revoked, so that
all standings can be judged anew whenever a fact arrives: what was found wrong is looked at again each time.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rage_net.acl import SCOPES
from rage_net.errors import CertificateError
from rage_net.libp2p.peer_id import PeerId
from rage_net.services.trust.standing import VOUCHED_SCOPES, Standing, TrustStore

if TYPE_CHECKING:
    from rage_net.cert import Anchor, Verified

REMEMBERED_MAX = 1024
"""Chains: twice the connections of a node."""


@dataclass(frozen=True, slots=True)
class _Remembered:
    verified: Verified
    anchors: tuple[Anchor, ...]
    begins: float
    ends: float
    asked: tuple[tuple[str, str, PeerId], ...]
    """Certificates whose revocation was asked about."""


class Judge:
    """One node's judgement. `own` are the CAs of its own organisation; no one else's can speak for that name."""

    def __init__(self, organization: str, store: TrustStore, *, path_max: int) -> None:
        self.organization = organization
        self.own: tuple[Anchor, ...] = ()
        self._store = store
        self._path_max = path_max
        self._remembered: OrderedDict[bytes, _Remembered] = OrderedDict()

    def anchors(self) -> tuple[Anchor, ...]:
        """All CAs that are trusted now, our own first."""
        return (*self.own, *(one for one in self._store.foreign() if one.organization != self.organization))

    def judge(self, peer: PeerId, chain: Sequence[bytes], now: float) -> Standing:
        """What a peer is to us that shows `chain`, at `now`."""
        try:
            verified = self._verify(peer, chain, now)
        except CertificateError as error:
            message = f"{error.message} ({error.why})" if error.why else error.message
            return Standing(peer, False, error.id, message, now, chain=tuple(chain))
        certificate = verified.certificate
        scopes = SCOPES if verified.anchor.organization == self.organization else verified.anchor.scopes & SCOPES
        reason = "own-organization"
        if certificate.organization != self.organization:
            reason = "federated" if not verified.hops else "vouched"
            scopes &= VOUCHED_SCOPES if verified.hops else SCOPES
        return Standing(
            peer,
            True,
            reason,
            "",
            now,
            organization=certificate.organization,
            capabilities=certificate.capabilities,
            scopes=scopes,
            certificate=certificate,
            chain=tuple(chain),
        )

    def remembers(self, peer: PeerId, chain: Sequence[bytes]) -> bool:
        """Whether a peer's chain held not long ago, so that to judge it again costs next to nothing."""
        return _digest(peer, chain) in self._remembered

    def _verify(self, peer: PeerId, chain: Sequence[bytes], now: float) -> Verified:
        """Raises CertificateError."""
        from rage_net.cert import verify_chain

        anchors = self.anchors()
        key = _digest(peer, chain)
        known = self._remembered.pop(key, None)
        is_timely = known is not None and known.begins <= now < known.ends and known.anchors == anchors
        if known is not None and is_timely and not any(self._store.is_revoked(*one) for one in known.asked):
            self._remembered[key] = known
            return known.verified
        asked: list[tuple[str, str, PeerId]] = []

        def is_revoked(organization: str, serial: str, whose: PeerId) -> bool:
            asked.append((organization, serial, whose))
            return self._store.is_revoked(organization, serial, whose)

        verified = verify_chain(chain, anchors, now, peer_id=peer, is_revoked=is_revoked, path_max=self._path_max)
        self._check_voucher(verified, anchors)
        begins, ends = _life(verified)
        self._remembered[key] = _Remembered(verified, anchors, begins, ends, tuple(asked))
        while len(self._remembered) > REMEMBERED_MAX:
            self._remembered.popitem(last=False)
        return verified

    def _check_voucher(self, verified: Verified, anchors: Sequence[Anchor]) -> None:
        """Who vouches for others cannot speak for our own organisation, nor for one that was named here itself."""
        organization = verified.certificate.organization
        if verified.hops and organization in (self.organization, *(anchor.organization for anchor in anchors)):
            raise CertificateError(
                f"the certificate is of a CA of {organization} that is not trusted here",
                why=f"{verified.anchor.organization} vouches for it, and for that name other CAs are trusted",
                mend=["rage trust list"],
                id="cert-wrong-organization",
            )


def _digest(peer: PeerId, chain: Sequence[bytes]) -> bytes:
    digest = hashlib.sha256(bytes(peer))
    for der in chain:
        digest.update(len(der).to_bytes(4, "big") + der)
    return digest.digest()


def _life(verified: Verified) -> tuple[float, float]:
    """From when to when the judgement holds."""
    from rage_net.cert import parse_ca
    from rage_net.cert.words import LEEWAY_S

    cas = [parse_ca(der) for der in verified.path[1:]]
    begins = max(verified.certificate.not_before, *(ca.not_before for ca in cas))
    ends = min(verified.certificate.not_after, *(ca.not_after for ca in cas)) + LEEWAY_S
    until = verified.anchor.until
    return begins - LEEWAY_S, ends if until is None else min(ends, until)
