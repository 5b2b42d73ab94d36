"""Renewal of certificates over `/rage/trust/1.0.0`: the node that asks, and the one with the capability `enrol`.

The peer id is proved by the connection and by the CSR; the right to be certified anew by the certificate that the peer
has shown on it, whether or not that has expired: until its `renew_until`, never for more than it had. A first
certificate needs a person (`rage cert sign`).

The enrolment CA is one organisation's, with a key of its own: what it may certify is written in it, and it is withdrawn
by revoking it. Source: issue 4, A.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rage_net import certfiles, durable, messages
from rage_net.certfiles import CertFiles
from rage_net.env import Env
from rage_net.errors import (
    AccessDeniedError,
    CertificateError,
    ConfigError,
    PeerProtocolError,
    RageError,
    UnavailableError,
)
from rage_net.libp2p import varint
from rage_net.libp2p.errors import Libp2pError, RemoteProtocolError
from rage_net.libp2p.peer_id import PeerId
from rage_net.messages import TRUST_PROTOCOL, Renew, TrustResponse
from rage_net.services.trust.credentials import Stamp, stamp_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from rage_net.cert import CaCertificate, NodeCertificate
    from rage_net.libp2p.swarm import Connection, Swarm
    from rage_net.services.trust import Trust

log = logging.getLogger("rage.trust")

ENROL = "enrol"
"""The capability."""
CREDENTIAL = "rage-enrol"
"""The name of the passphrase among systemd's credentials."""
RENEW_EVERY_S = 60.0
"""How often a node looks whether its certificate is due."""
RENEW_S_MAX = 20.0
"""For one enrolment node to answer."""
RETRY_S, RETRY_S_MAX = 60.0, 3600.0
"""After a round in which nobody renewed; doubles."""
ASKED_MAX = 4
"""Enrolment nodes asked in one round."""
PASSPHRASE_BYTES_MAX = 4096
"""Read of the file; a passphrase has 1024 at most."""

MakeCsr = Callable[["NodeCertificate"], bytes]
"""A CSR for the same again, signed by the identity key."""


@dataclass(frozen=True, slots=True)
class EnrolFiles:
    """Where the enrolment CA lies."""

    certificate: Path
    key: Path
    passphrase: Path | None
    """A file of its own, or systemd's credential; None where there is neither."""

    def stamp(self) -> Stamp:
        """What changes when a file does."""
        return tuple(stamp_of(path) for path in (self.certificate, self.key, self.passphrase))


@dataclass(frozen=True, slots=True)
class _Issuer:
    """The enrolment CA, opened."""

    ca: CaCertificate
    key: Ed25519PrivateKey = field(repr=False)
    chain: tuple[bytes, ...] = field(repr=False)


class Enrolment:
    """The side that certifies anew, on a node with the capability `enrol` and an enrolment CA."""

    def __init__(self, trust: Trust, env: Env, files: EnrolFiles) -> None:
        self._trust = trust
        self._env = env
        self._files = files
        self._issuer: tuple[object, _Issuer] | None = None  # with the files' stamp
        self.problem = ""
        """Why nobody can be certified anew, where that is a fault."""

    @property
    def is_due(self) -> bool:
        """Whether this node's certificate says that it enrols."""
        certificate = self._trust.credentials.certificate
        return not self._trust.is_open and certificate is not None and ENROL in certificate.capabilities

    async def answer(self, peer: PeerId, chain: Sequence[bytes], csr: bytes) -> TrustResponse:
        """The response to a peer that has shown `chain`."""
        if not self.is_due:
            return TrustResponse(messages.NOT_FOUND, reason="no-enrolment", message="this node enrols nobody")
        try:
            issuer = await self._open()
        except RageError as error:  # ours to mend: the peer learns no more than that
            self.problem = f"nobody can be certified anew: {error.message}"
            log.error("%s (%s)", self.problem, error.why)
            return TrustResponse(messages.BUSY, reason="enrolment-broken", message="its operator has to mend it")
        try:
            renewed = self._renew(issuer, peer, chain, csr)
        except CertificateError as error:
            log.info("%s is not certified anew: %s", peer, error.id)
            return TrustResponse(messages.DENIED, reason=error.id, message=f"{error.message}: {error.why}")
        self.problem = ""
        log.info("%s is certified anew, serial %s", peer, renewed.serial)
        return TrustResponse(messages.OK, (renewed.der, *issuer.chain), "renewed")

    def _renew(self, issuer: _Issuer, peer: PeerId, chain: Sequence[bytes], csr: bytes) -> NodeCertificate:
        """Raises CertificateError."""
        from rage_net.cert import issue, read_csr, verify_chain

        anchors, is_revoked = self._trust.credentials.anchors, self._trust.store.is_revoked
        old = verify_chain(chain, anchors, None, peer_id=peer, is_revoked=is_revoked).certificate
        now = self._env.now()
        serial = issue.draw_serial(self._env.random)
        renewed = issue.renew(read_csr(csr), old, issuer.ca, issuer.key, now=now, serial=serial, is_revoked=is_revoked)
        # An enrolment CA that nobody believes certifies nobody.
        verify_chain((renewed.der, *issuer.chain), anchors, now, peer_id=peer, is_revoked=is_revoked)
        return renewed

    async def _open(self) -> _Issuer:
        """The enrolment CA; its key is decrypted anew when a file has changed. Raises RageError."""
        stamp = await self._env.blocking(self._files.stamp)
        if self._issuer is None or self._issuer[0] != stamp:
            self._issuer = stamp, await self._env.blocking(_load_issuer, self._files)
        return self._issuer[1]


@dataclass(frozen=True, slots=True)
class Renewed:
    """A certificate that is in place, and the node that signed it."""

    certificate: NodeCertificate
    by: PeerId


class Renewal:
    """The side that asks: a node whose certificate is due."""

    def __init__(
        self,
        trust: Trust,
        swarm: Swarm,
        env: Env,
        *,
        make_csr: MakeCsr,
        files: CertFiles,
        meet: Callable[[], Awaitable[None]],
        own: Enrolment | None = None,
    ) -> None:
        """Renewal of the certificate in `files`.

        Args: make_csr: a CSR for the same again. meet: connects to whoever may enrol, as far as it can. own: this
        node's enrolment, which serves itself, too.
        """
        self._trust = trust
        self._swarm = swarm
        self._env = env
        self._make_csr = make_csr
        self._files = files
        self._meet = meet
        self._own = own
        self._jitter: tuple[str, float] = ("", 0.0)  # of the certificate with this serial
        self._rest_until = 0.0
        self._rest_s = RETRY_S
        self.problem = ""
        """Why the last round failed."""

    def is_due(self, now: float) -> bool:
        """Whether the certificate is to be renewed; each node has a moment of its own."""
        from rage_net.cert.renewal import renewal_due

        certificate = self._trust.credentials.certificate
        if certificate is None or self._trust.is_open:
            return False
        if self._jitter[0] != certificate.serial:
            self._jitter = certificate.serial, self._env.random.random()
        return renewal_due(certificate, now, self._jitter[1])

    async def renew_if_due(self) -> None:
        """One round of the job. What fails is tried again, more and more seldom."""
        now = self._env.now()
        if self._env.monotonic() < self._rest_until or not self.is_due(now):
            return
        try:
            await self.renew()
        except RageError as error:
            self.problem = error.message
            self._rest_until = self._env.monotonic() + self._rest_s * self._env.random.uniform(0.75, 1.25)
            self._rest_s = min(2 * self._rest_s, RETRY_S_MAX)
            self._trust.counts["renewals_failed"] += 1
            log.warning("the certificate was not renewed: %s", error.message)
        else:
            self.problem, self._rest_s = "", RETRY_S

    async def renew(self) -> Renewed:
        """Have the certificate renewed now, write it, and show it to all.

        Raises: CertificateError when there is none, or all who enrol refuse; UnavailableError when none can be reached.
        """
        old = self._trust.credentials.certificate
        if old is None:
            raise CertificateError("there is no certificate to renew", mend=["rage cert request"], id="cert-missing")
        csr = self._make_csr(old)
        chain, by = await self._ask_all(csr)
        self._check(old, chain)
        await self._env.blocking(certfiles.install_chain, self._files, chain)
        await self._trust.refresh()
        renewed = self._trust.credentials.certificate
        assert renewed is not None
        self._trust.counts["renewals"] += 1
        log.info("the certificate is renewed, serial %s", renewed.serial)
        return Renewed(renewed, by)

    async def _ask_all(self, csr: bytes) -> tuple[tuple[bytes, ...], PeerId]:
        """A new chain, and who gave it."""
        if self._own is not None and self._own.is_due:
            response = await self._own.answer(self._swarm.peer_id, self._trust.credentials.chain, csr)
            if response.status == messages.OK:
                return response.certificates, self._swarm.peer_id
        errors: list[RageError] = []
        for is_first in (True, False):
            for connection in self._enrolling()[:ASKED_MAX]:
                try:
                    return await self._ask(connection, csr), connection.peer_id
                except RageError as error:
                    log.info("%s does not renew: %s", connection.peer_id, error.message)
                    errors.append(error)
            if errors:
                break
            if is_first:
                await self._meet()
        if errors:
            raise errors[0]
        raise UnavailableError(
            "no node that enrols is connected",
            why=f"none of the peers has a certificate with the capability {ENROL}",
            mend=["rage peer list", "rage cert request    (and have it signed by a person)"],
            id="no-enrolment",
        )

    def _enrolling(self) -> list[Connection]:
        """Connections to nodes of our own organisation that enrol, whether they trust us still or not."""
        found = []
        for standing in self._trust.standings():
            connection = self._swarm.connection_unoffered(standing.peer_id)
            is_ours = standing.is_trusted and standing.organization == self._trust.organization
            if is_ours and ENROL in standing.capabilities and connection is not None:
                found.append(connection)
        return found

    async def _ask(self, connection: Connection, csr: bytes) -> tuple[bytes, ...]:
        """The new chain from one peer. Raises RageError."""
        data = messages.encode_trust_request(Renew(csr))
        initial = varint.encode(len(data)) + data
        peer = connection.peer_id
        try:
            async with (
                asyncio.timeout(RENEW_S_MAX),
                await connection.open_stream([TRUST_PROTOCOL], timeout_s=RENEW_S_MAX, initial=initial) as stream,
            ):
                await stream.close_write()
                response = messages.decode_trust_response(await stream.read_message(messages.TRUST_BYTES_MAX))
        except TimeoutError:
            raise UnavailableError(f"{peer} did not answer in {RENEW_S_MAX:.0f} s", id="stalled") from None
        except RemoteProtocolError as error:
            raise PeerProtocolError(f"{peer}: {error}") from error
        except Libp2pError as error:
            raise UnavailableError(f"{peer}: {error}", id="peer-gone") from error
        if response.status == messages.OK:
            return response.certificates
        if response.status == messages.DENIED:
            raise CertificateError(
                f"{peer} does not renew this node's certificate",
                why=response.message or response.reason,
                mend=["rage cert request    (and have it signed by a person)"],
                id="renew-refused",
            )
        raise UnavailableError(f"{peer} cannot renew now", why=response.message or response.reason, id="no-enrolment")

    def _check(self, old: NodeCertificate, chain: Sequence[bytes]) -> None:
        """Pass when `chain` is better than what we have. Raises CertificateError."""
        found = self._trust.judge(self._swarm.peer_id, chain)
        new = found.certificate
        if new is None or new.organization != old.organization or new.not_after <= old.not_after:
            raise CertificateError(
                "what came back is no better certificate",
                why=found.message or "it ends no later than the one there is",
                mend=["rage cert renew    (again, of another node)"],
                id="renew-refused",
            )


def _load_issuer(files: EnrolFiles) -> _Issuer:
    """Open the enrolment CA. Blocking. Raises RageError."""
    from rage_net.cert import parse_ca

    chain = certfiles.read_certificates(files.certificate)
    ca = parse_ca(chain[0])
    if files.passphrase is None:
        raise ConfigError(
            "the enrolment CA has no passphrase",
            why=f"security.enrol.passphrase_file is not set, and systemd hands over no credential {CREDENTIAL}",
            mend=[f"LoadCredentialEncrypted={CREDENTIAL}:PATH    (in the unit)"],
            id="enrol-unusable",
        )
    certfiles.check_key(files.key)  # before its passphrase is read
    key = certfiles.read_key(files.key, _read_passphrase(files.passphrase))
    if bytes(PeerId.from_public_key(key.public_key())) != _key_of(ca):
        raise _unusable(files.key, f"it is not the key of {files.certificate}")
    return _Issuer(ca, key, chain)


def _key_of(ca: CaCertificate) -> bytes:
    """The key of a CA in the form of a peer id."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from rage_net.cert.reading import load_checked

    key = load_checked(ca.der).public_key()
    assert isinstance(key, Ed25519PublicKey)  # parse_ca has seen to it
    return bytes(PeerId.from_public_key(key))


def _read_passphrase(path: Path) -> bytes:
    """A line, without its end. Not for others to read; systemd's credentials are the group's, too."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(PASSPHRASE_BYTES_MAX)
    except OSError as error:
        raise _unusable(path, durable.describe(error)) from None
    if mode & 0o007:
        raise AccessDeniedError(
            f"others can read {path}",
            why=f"its mode is {stat.S_IMODE(mode):04o}, and it opens the enrolment CA",
            mend=[f"chmod 600 {path}"],
            id="key-exposed",
        )
    return data.rstrip(b"\r\n")


def _unusable(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{path} cannot be used to enrol",
        why=why,
        mend=["rage config show network.security.enrol --origin"],
        id="enrol-unusable",
    )
