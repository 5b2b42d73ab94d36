"""A small PKI from the test's seed; `forge` makes the certificates that `rage_net.cert.issue` refuses to make."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from rage_net import keys
from rage_net.cert import Anchor, CaCertificate, NodeCertificate, Verified, issue, parse_ca, read_csr, verify_chain
from rage_net.cert.reading import encode_capabilities
from rage_net.libp2p.peer_id import PeerId

NOW = 1_800_000_000.0
DAY = 86_400.0
YEAR = 365 * DAY


def nobody(organization: str, serial: str, peer: PeerId) -> bool:
    return False


@dataclass
class Authority:
    """A CA with its key."""

    key: Ed25519PrivateKey
    certificate: CaCertificate

    @property
    def der(self) -> bytes:
        return self.certificate.der

    def anchor(self, **more: Any) -> Anchor:
        return Anchor(more.pop("organization", self.certificate.organization), self.der, **more)


@dataclass
class Pki:
    rng: random.Random
    made: list[Any] = field(default_factory=list)

    def key(self) -> Ed25519PrivateKey:
        return keys.generate(self.rng)

    def serial(self) -> int:
        return issue.draw_serial(self.rng)

    def ca(self, organization: str = "acme", *, now: float = NOW - YEAR, years: float = 10) -> Authority:
        key = self.key()
        return Authority(key, parse_ca(issue.make_ca(organization, key, now=now, serial=self.serial(), years=years)))

    def enrol(self, ca: Authority, *capabilities: str, now: float = NOW, days: float = 365) -> Authority:
        key = self.key()
        der = issue.make_intermediate(
            ca.certificate,
            ca.key,
            key.public_key(),
            now=now,
            serial=self.serial(),
            capabilities=frozenset(capabilities or ("storage", "search")),
            days=days,
        )
        return Authority(key, parse_ca(der))

    def cross(self, theirs: Authority, ca: Authority, *, path: int = 1) -> bytes:
        return issue.cross_sign(theirs.certificate, ca.certificate, ca.key, now=NOW, serial=self.serial(), path=path)

    def csr(self, key: Ed25519PrivateKey, organization: str = "acme", *capabilities: str, region: str = "") -> Any:
        return read_csr(issue.make_csr(key, organization, region, frozenset(capabilities)))

    def node(
        self,
        ca: Authority,
        *capabilities: str,
        key: Ed25519PrivateKey | None = None,
        region: str = "eu-west",
        now: float = NOW,
        **more: Any,
    ) -> NodeCertificate:
        request = self.csr(
            key or self.key(), ca.certificate.organization, *(capabilities or ("storage",)), region=region
        )
        return issue.sign(request, ca.certificate, ca.key, now=now, serial=self.serial(), **more)

    def forge(
        self,
        *,
        issuer: Authority | None = None,
        key: Ed25519PrivateKey | None = None,
        organization: str = "acme",
        signer: Ed25519PrivateKey | None = None,
        is_ca: bool | None = False,
        path: int | None = None,
        uris: Sequence[str] | None = None,
        begin: float = NOW - DAY,
        end: float = NOW + DAY,
        usage: x509.KeyUsage | None = None,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
        name: str = "",
        capabilities: frozenset[str] | None = None,
    ) -> tuple[bytes, Ed25519PrivateKey]:
        """Any certificate at all, and its key; without an issuer it signs itself."""
        key = key or self.key()
        peer = str(PeerId.from_public_key(key.public_key()))
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
                x509.NameAttribute(NameOID.COMMON_NAME, name or peer),
            ]
        )
        above = x509.load_der_x509_certificate(issuer.der).subject if issuer else subject
        if uris is None:
            uris = [f"rage:org:{organization}", *([] if is_ca else [f"rage:peer:{peer}"])]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(above)
            .public_key(key.public_key())
            .serial_number(self.serial())
            .not_valid_before(datetime.fromtimestamp(int(begin), UTC))
            .not_valid_after(datetime.fromtimestamp(int(end), UTC))
        )
        if is_ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(is_ca, path if is_ca else None), critical=True)
        builder = builder.add_extension(usage or key_usage(is_ca=bool(is_ca)), critical=True)
        if uris:
            names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
            builder = builder.add_extension(names, critical=False)
        if capabilities is not None:
            builder = builder.add_extension(encode_capabilities(capabilities), critical=False)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        signer = signer or (issuer.key if issuer else key)
        return builder.sign(signer, None).public_bytes(Encoding.DER), key

    def forge_ca(self, **more: Any) -> Authority:
        der, key = self.forge(is_ca=True, name=more.pop("name", f"CA {self.rng.getrandbits(32):08x}"), **more)
        return Authority(key, parse_ca(der))


def key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(not is_ca, False, False, False, False, is_ca, is_ca, False, False)


def believe(chain: Sequence[bytes], *anchors: Anchor, now: float | None = NOW, **more: Any) -> Verified:
    more.setdefault("peer_id", None)
    more.setdefault("is_revoked", nobody)
    return verify_chain(chain, anchors, now, **more)


@pytest.fixture
def pki(rng: random.Random) -> Pki:
    return Pki(rng)
