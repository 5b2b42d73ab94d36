"""Verbs of the noun cert that need a log or a node: revocation as a fact, and renewal by a node that enrols.

The others work on files alone (certfiles). Source: issue 4, A.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from rage_net import refusals, sharing
from rage_net.errors import CertificateError, NotFoundError, UsageError
from rage_net.verbs import Verb
from rage_net.verbs import cert as verbs

if TYPE_CHECKING:
    from rage_net.engine import Engine, Io
    from rage_net.libp2p.peer_id import PeerId
    from rage_net.metadata import Metadata
    from rage_net.sync.facts import Fact


async def revoke_certificate(engine: Engine, verb: verbs.RevokeCertificate, io: Io) -> verbs.RevokeCertificateResult:
    """Write that a certificate, or all of a peer's, is refused from now on."""
    metadata = engine.metadata
    if metadata is None:
        raise refusals.no_ca()
    serial, peer, fact = await engine.env.blocking(_revoke, metadata, verb)
    await sharing.written(engine, metadata.organization, [fact])
    return verbs.RevokeCertificateResult(serial, str(peer), verb.reason, True, fact.id.hex())


def _revoke(metadata: Metadata, verb: verbs.RevokeCertificate) -> tuple[str, PeerId, Fact]:
    from rage_net.cert.words import read_serial, serial_text
    from rage_net.libp2p.peer_id import PeerId, PeerIdError
    from rage_net.sync.facts import New, Revocation

    organization = metadata.organization
    if not metadata.authority.is_admin(organization, metadata.own):
        raise refusals.not_an_admin()
    serial = read_serial(verb.serial) if verb.serial else ""
    if serial is None:
        raise UsageError(f"{verb.serial!r} is no serial", mend=["rage cert list"])
    if verb.peer_id:
        try:
            peer = PeerId.parse(verb.peer_id)
        except PeerIdError as error:
            raise UsageError(f"{verb.peer_id!r} is no peer id", why=str(error), mend=["rage cert list"]) from None
    else:
        peer = _holder(metadata, serial)
    if peer == metadata.own and not serial:
        raise UsageError(
            "this is the node itself: nobody could take it back",
            mend=["on another admin's node: rage cert revoke " + str(peer)],
            id="revoke-self",
        )
    if serial:
        number = int(serial, 16)
        raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
        body = Revocation(peer, raw, verb.reason)
        resource = f"cert:{serial_text(number)}"
    else:
        heads = tuple(head for head in metadata.log.heads(organization) if head.chain.author == peer)
        body = Revocation(peer, b"", verb.reason, is_author=True, accepted=heads)
        resource = f"peer:{peer}"
    (fact,) = metadata.log.append(organization, [New(resource, body)])
    return serial, peer, fact


def _holder(metadata: Metadata, serial: str) -> PeerId:
    """Whose certificate has this serial, as the log knows. Raises NotFoundError."""
    from rage_net.cert import parse
    from rage_net.sync.facts import Certificate

    for fact in metadata.log.by_kind(metadata.organization, Certificate):
        if isinstance(fact.body, Certificate):
            try:
                certificate = parse(fact.body.certificates[0])
            except CertificateError:
                continue
            if certificate.serial == serial:
                return certificate.peer_id
    raise NotFoundError(
        f"no certificate {serial} is known to the log",
        why="its node has not been met since it was signed",
        mend=["rage cert list", "rage cert revoke 12D3KooW...    (all of its peer)"],
        id="certificate-not-found",
    )


async def renew_certificate(engine: Engine, verb: verbs.RenewCertificate, io: Io) -> verbs.RenewCertificateResult:
    """Have this node's certificate renewed by a node that enrols."""
    metadata = engine.metadata
    if metadata is None:
        raise refusals.no_ca()
    online = await engine.online()
    await online.trust.refresh()
    certificate, by = online.trust.credentials.certificate, ""
    is_wanted = not verb.if_needed or online.renewal.is_due(engine.env.now())
    if certificate is None or is_wanted:
        renewed = await online.renewal.renew()
        certificate, by = renewed.certificate, str(renewed.by)
        await sharing.written(engine, metadata.organization, await engine.env.blocking(metadata.reload))
    return verbs.RenewCertificateResult(
        is_wanted,
        certificate.serial,
        certificate.organization,
        str(certificate.peer_id),
        tuple(sorted(certificate.capabilities)),
        certificate.not_before,
        certificate.not_after,
        certificate.renew_until,
        certificate.fingerprint.hex(),
        by,
    )


VERBS: dict[type[Verb[Any]], Callable[[Engine, Any, Io], Awaitable[Any]]] = {
    verbs.RenewCertificate: renew_certificate,
    verbs.RevokeCertificate: revoke_certificate,
}
