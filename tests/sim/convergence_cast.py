"""Who takes part in the runs of `convergence`: two organisations, their CAs, and people with keys and certificates.

Made once for a process and the same in every run, because keys and X.509 are slow. Each author has a certificate and a
renewed one that gives more or less; an impostor has one of a CA that merely calls itself by the organisation's name.
"""

from __future__ import annotations

import functools
import random
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rage_net import keys
from rage_net.acl import Principal, Rules, Strategy
from rage_net.cert import Anchor, issue, parse_ca, read_csr, verify_chain
from rage_net.libp2p.peer_id import PeerId
from rage_net.services.ledger import Access, Authority
from rage_net.sync import schema
from rage_net.sync.envelope import ChainId, Segment
from rage_net.sync.facts import Certificate, Closing, Fact, New, Revocation, Trust
from rage_net.sync.log import Log, Taken

EPOCH_S = 1_800_000_000.0
ORGANIZATIONS = ("acme", "beta")
SCOPES = ("chunks", "query", "sync")
CAPABILITIES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("admin", "storage"), ("admin", "storage")),
    (("admin",), ("admin", "storage")),
    (("storage",), ("storage",)),
    (("storage",), ("admin", "storage")),
    (("storage",), ()),
    ((), ("storage",)),
    (("storage",), ("storage",)),
    ((), ()),
)
"""Of each author of an organisation: by its first certificate, and by the renewed one."""


@dataclass(frozen=True)
class Author:
    name: str
    organization: str
    key: Ed25519PrivateKey
    id: PeerId
    certificates: tuple[bytes, ...]
    """In DER: the first, the renewed one."""
    serials: tuple[bytes, ...]


@dataclass(frozen=True)
class Cast:
    anchors: dict[str, Anchor]
    authors: dict[str, tuple[Author, ...]]
    impostors: dict[str, Author]
    given: dict[bytes, tuple[str, PeerId, frozenset[str]]]
    """What each genuine certificate gives: organisation, peer, capabilities."""

    def find(self, peer: PeerId) -> Author | None:
        return next((one for each in self.authors.values() for one in each if one.id == peer), None)


@functools.cache
def cast() -> Cast:
    rng = random.Random("the cast")
    anchors: dict[str, Anchor] = {}
    authors: dict[str, tuple[Author, ...]] = {}
    impostors = {}
    given: dict[bytes, tuple[str, PeerId, frozenset[str]]] = {}
    for organization in ORGANIZATIONS:
        for is_genuine in (True, False):
            ca_key = keys.generate(rng)
            ca_der = issue.make_ca(organization, ca_key, now=EPOCH_S, serial=issue.draw_serial(rng))
            ca = parse_ca(ca_der)
            made = []
            for at, both in enumerate(CAPABILITIES if is_genuine else CAPABILITIES[:1]):
                key = keys.generate(rng)
                ders, serials = [], []
                for capabilities in both:
                    request = read_csr(issue.make_csr(key, organization, "eu", frozenset(capabilities)))
                    serial = issue.draw_serial(rng)
                    certificate = issue.sign(request, ca, ca_key, now=EPOCH_S, serial=serial)
                    ders.append(certificate.der)
                    serials.append(serial.to_bytes((serial.bit_length() + 7) // 8, "big"))
                    if is_genuine:
                        given[certificate.der] = organization, request.peer_id, frozenset(capabilities)
                name = f"{organization}{at}" if is_genuine else f"{organization}?"
                made.append(
                    Author(
                        name,
                        organization,
                        key,
                        PeerId.from_public_key(key.public_key()),
                        tuple(ders),
                        tuple(serials),
                    )
                )
            if is_genuine:
                anchors[organization] = Anchor(organization, ca_der, frozenset(SCOPES))
                authors[organization] = tuple(made)
            else:
                impostors[organization] = made[0]
    return Cast(anchors, authors, impostors, given)


verify_once = functools.lru_cache(maxsize=None)(verify_chain)
"""Certificates, anchors and peer in, verdict out, whatever the time: the same in every run, and 0.3 ms each."""


class MemoryFile(schema.LogFile):
    """A log in memory that can be copied as it stands: a backup, or what a restart finds."""

    def __init__(self, image: bytes | None = None) -> None:
        self._image = image or _empty()
        super().__init__(None)

    def _open(self, migrations: Sequence[str]) -> sqlite3.Connection:
        db = self._connect()
        db.deserialize(self._image)
        return db

    def image(self) -> bytes:
        with self.read() as db:
            return bytes(db.serialize())


@functools.cache
def _empty() -> bytes:
    file = schema.LogFile(None)
    try:
        with file.read() as db:
            return bytes(db.serialize())
    finally:
        file.close()


class NodeEnv:
    """A node's clock, which is off, and its chance."""

    def __init__(self, seed: str, clock: Clock, skew_s: float) -> None:
        self.random = random.Random(seed)
        self._clock = clock
        self.skew_s = skew_s

    def now(self) -> float:
        return self._clock.now + self.skew_s


class Clock:
    def __init__(self) -> None:
        self.now = EPOCH_S


class Node:
    """One node's log, and what is read from it, wired as an engine does it."""

    def __init__(self, author: Author, env: NodeEnv, strategy: Strategy) -> None:
        self.author = author
        self.env = env
        self.strategy: Strategy = strategy
        self.is_up = True
        self.backup: bytes | None = None
        self.learnt: dict[str, dict[bytes, frozenset[tuple[object, ...]]]] = {}
        """Facts that were here, with the chains where they stood, by organisation."""
        self.closed: dict[str, set[ChainId]] = {}
        """Chains that a closing named, even if it came to count no more."""
        self.rules = Rules(public_to_strangers=False, is_open=False, organization=author.organization)
        self._open(None)

    def _open(self, image: bytes | None) -> None:
        organization = self.author.organization
        self.file = MemoryFile(image)
        self.log = Log(self.file, key=self.author.key, env=self.env)
        anchors = [cast().anchors[organization]]
        self.authority = Authority(self.log, organization, self.author.id, anchors, self.env.now)
        strategies: dict[str, Strategy] = dict.fromkeys(("doc", "org", "topic"), self.strategy)
        self.access = Access(self.log, self.authority, self.author.id, strategies, self.env.now)

    def restart(self, image: bytes) -> None:
        self.log.close()
        self._open(image)

    @property
    def organization(self) -> str:
        return self.author.organization

    # --- what changes a log ---

    def judge(self, organization: str, author: PeerId, certificates: tuple[bytes, ...]) -> frozenset[str] | None:
        return self.authority.judge(organization, author, certificates)

    def certify(self, which: int) -> list[Fact]:
        """Tell the log of our certificate: the first, or the renewed one."""
        new = New(f"peer:{self.author.id}", Certificate((self.author.certificates[which],)))
        facts = self.log.append(self.organization, [new], judge=functools.partial(self.judge, self.organization))
        self.note(facts)
        return facts

    def write(self, *news: New) -> list[Fact]:
        facts = self.log.append(self.organization, news)
        self.note(facts)
        return facts

    def take(self, organization: str, segments: Sequence[Segment]) -> Taken:
        taken = self.log.take(organization, segments, authority=functools.partial(self.judge, organization))
        self.note(taken.new, is_rejudged=taken.is_rejudged)
        return taken

    def note(self, facts: Sequence[Fact] | object, *, is_rejudged: bool = False) -> None:
        """Facts have come: what was concluded without them is forgotten."""
        found = list(facts)  # type: ignore[call-overload]
        self.access.forget(found)
        if is_rejudged or any(isinstance(each.body, Certificate | Revocation | Trust | Closing) for each in found):
            self.authority.refresh()
            self.access.forget_all()

    # --- who asks ---

    def principal_of(self, author: Author) -> Principal:
        """Who a peer is here, with the newest certificate that it told the log of; a stranger if that was revoked."""
        name, organization = str(author.id), author.organization
        if self.is_revoked(author):
            return Principal("peer", name)
        if organization == self.organization:
            has = self.log.capabilities(organization, author.id) or frozenset()
            return Principal("peer", name, organization, capabilities=has, scopes=frozenset(SCOPES))
        scopes = [anchor.scopes for anchor in self.authority.foreign_anchors() if anchor.organization == organization]
        if not scopes:
            return Principal("peer", name)
        return Principal("peer", name, organization, scopes=frozenset.intersection(*scopes))

    def is_revoked(self, author: Author) -> bool:
        serial = author.serials[0].hex()
        return self.authority.is_revoked(author.organization, serial, author.id)
