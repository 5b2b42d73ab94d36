"""Whom this node believes: the CAs of its own organisation and of those it trusts, and what an author of facts may do.

Everything here follows from two things, our own CAs (a file) and the facts of our own log (trust given
and withdrawn, certificates revoked); nothing needs the network. Blocking: reads the log. Not here: who is connected
(trust), rights on documents (access).

Source: design D6, D7; issue 4, A and B.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rage_net.acl import SCOPES
from rage_net.cert import Anchor, verify_chain
from rage_net.cert.words import serial_text
from rage_net.errors import CertificateError
from rage_net.libp2p.peer_id import PeerId
from rage_net.sync.facts import Revocation, Trust, current

if TYPE_CHECKING:
    from rage_net.sync.log import Log

JUDGED_MAX = 4096
"""Chains whose verdict is remembered; one takes 0.3 ms to verify."""


class Authority:
    """The anchors and revocations that hold now, kept until the log or the bundle changes.

    Args: anchors: the CAs of our own organisation; several while one replaces another.
    """

    def __init__(
        self, log: Log, organization: str, own: PeerId, anchors: Sequence[Anchor], clock: Callable[[], float]
    ) -> None:
        self.organization = organization
        self.anchors = tuple(anchors)
        """Of our own organisation. Call `refresh` after a change."""
        self._log = log
        self._own = own
        self._clock = clock
        self._lock = threading.RLock()
        self._generation = 0
        self._judged: OrderedDict[tuple[str, PeerId, tuple[bytes, ...]], frozenset[str] | None] = OrderedDict()
        self._foreign: tuple[Anchor, ...] | None = None
        self._revoked: tuple[frozenset[tuple[str, str]], frozenset[tuple[str, PeerId]]] | None = None

    def refresh(self) -> None:
        """The bundle, trust or revocations have changed: forget what was concluded from them."""
        with self._lock:
            self._generation += 1
            self._judged.clear()
            self._foreign = self._revoked = None

    def prepare(self) -> None:
        """Conclude now: whoever judges connected peers asks on the event loop, which is not to wait for the log."""
        with self._lock:
            self._read_foreign()
            self._read_revoked()

    # --- anchors ---

    def foreign_anchors(self) -> tuple[Anchor, ...]:
        """The CAs of organisations that this node, or an admin of ours, trusts, and that trust has not ended."""
        with self._lock:
            foreign, now = self._read_foreign(), self._clock()
            return tuple(anchor for anchor in foreign if anchor.until is None or anchor.until > now)

    def _read_foreign(self) -> tuple[Anchor, ...]:
        if self._foreign is None:
            self._foreign = tuple(
                Anchor(organization, body.ca, frozenset(body.scopes), body.until or None)
                for organization, bodies in self.trusted().items()
                for body in bodies
            )
        return self._foreign

    def scopes(self, organization: str) -> frozenset[str]:
        """What is open here to an organisation's peers: all to our own; what trust in every one of its CAs opens."""
        if organization == self.organization:
            return SCOPES
        opened = [anchor.scopes for anchor in self.foreign_anchors() if anchor.organization == organization]
        return frozenset.intersection(*opened) if opened else frozenset()

    def trusted(self) -> dict[str, list[Trust]]:
        """Trust in force, by organisation, one for each of its CAs; what was withdrawn is left out. Blocking."""
        believed = [
            fact
            for fact in self._log.by_kind(self.organization, Trust)
            if fact.author == self._own or self.is_admin(self.organization, fact.author)
        ]
        by_ca: dict[tuple[str, bytes], list[Trust]] = {}
        for fact in current(believed):
            if isinstance(fact.body, Trust):
                by_ca.setdefault((fact.resource.removeprefix("org:"), fact.body.ca), []).append(fact.body)
        held: dict[str, list[Trust]] = {}
        for (organization, ca), bodies in sorted(by_ca.items()):
            if any(body.withdrawn for body in bodies):  # of concurrent ones the withdrawal holds
                continue
            scopes = frozenset.intersection(*(frozenset(body.scopes) for body in bodies))
            until = min((body.until for body in bodies if body.until), default=0)
            held.setdefault(organization, []).append(Trust(ca, tuple(sorted(scopes)), until))
        return held

    # --- revocations ---

    def is_revoked(self, organization: str, serial: str, peer: PeerId) -> bool:
        """Whether an admin of that organisation revoked the certificate, or all of the peer's."""
        with self._lock:
            serials, peers = self._read_revoked()
        return (organization, serial) in serials or (organization, peer) in peers

    def _read_revoked(self) -> tuple[frozenset[tuple[str, str]], frozenset[tuple[str, PeerId]]]:
        if self._revoked is not None:
            return self._revoked
        serials: set[tuple[str, str]] = set()
        peers: set[tuple[str, PeerId]] = set()
        for organization in self._log.organizations():
            # Who revoked each other are cut off both, so neither is heard here; the log has weighed them.
            peers.update((organization, peer) for peer in self._log.revoked(organization))
            for fact in self._log.by_kind(organization, Revocation):
                body = fact.body
                is_of_itself = isinstance(body, Revocation) and not body.serial and body.peer == fact.author
                if isinstance(body, Revocation) and not is_of_itself and self.is_admin(organization, fact.author):
                    if body.serial:
                        serials.add((organization, serial_text(int.from_bytes(body.serial, "big"))))
                    else:
                        peers.add((organization, body.peer))
        self._revoked = frozenset(serials), frozenset(peers)
        return self._revoked

    # --- authors ---

    def capabilities(self, organization: str, author: PeerId) -> frozenset[str] | None:
        """What an author's certificates in its chains say it may do; None when none of them leads to a trusted CA."""
        return self._log.capabilities(organization, author)

    def is_admin(self, organization: str, author: PeerId) -> bool:
        """Whether an author may change what is not its own."""
        return "admin" in (self.capabilities(organization, author) or ())

    def judge(self, organization: str, author: PeerId, certificates: tuple[bytes, ...]) -> frozenset[str] | None:
        """The capabilities that a chain of certificates gives an author of facts, whenever it wrote them; None: none.

        Expiry and revocation do not matter here: what was written before stays written, and the revocation of an
        author says by itself how far its chains count.
        """
        key = organization, author, certificates
        with self._lock:
            if key in self._judged:
                return self._judged[key]
            generation = self._generation
        anchors = self.anchors
        if organization != self.organization:
            anchors = tuple(anchor for anchor in self.foreign_anchors() if "sync" in anchor.scopes)
        try:
            verified = verify_chain(certificates, anchors, None, peer_id=author, is_revoked=_never)
            is_ours = verified.certificate.organization == organization
            found = verified.certificate.capabilities if is_ours else None
        except CertificateError:
            found = None
        with self._lock:
            if generation == self._generation:  # else it was judged by CAs that may be trusted no more
                self._judged[key] = found
            while len(self._judged) > JUDGED_MAX:
                self._judged.popitem(last=False)
        return found


def _never(organization: str, serial: str, peer: PeerId) -> bool:
    return False
