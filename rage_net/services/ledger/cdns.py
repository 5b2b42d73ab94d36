"""What the log says of documents and CDNs: how one may go there, what of it they hold, when it must be sealed anew.

Nothing that is not public goes to a CDN in the clear. What is public is what anyone may have by the rights that count,
whatever a node's own rules let through; all else goes as ciphertext, where whoever rules the document has said so, or
not at all. Blocking: reads the log. Not here: keys and ciphertexts (sealing), what is sent when (purging).

Source: issue 6, C; ADR 24.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from rage_net.cdn.sealing import Epoch, Sealed
from rage_net.cid import Cid
from rage_net.errors import AccessDeniedError, NotFoundError, UsageError
from rage_net.gate import is_public_access
from rage_net.libp2p.peer_id import PeerId
from rage_net.services.ledger.access import Access, Rights
from rage_net.services.ledger.authority import Authority
from rage_net.sync import facts as kinds
from rage_net.sync.epochs import Reason, epoch_due, mode_of, sealed_of, taken
from rage_net.sync.facts import Fact, New
from rage_net.sync.log import Log

Way = Literal["clear", "encrypted"]


def mode_of_word(word: str) -> str:
    """A way to CDNs as operators call it, as the log has it. Raises UsageError."""
    modes = {"encrypted": "encrypted", "none": ""}
    if word not in modes:
        raise UsageError(
            f"{word!r} is no way to CDNs",
            why="what is not public goes there encrypted, or not at all; what is public needs no word",
            mend=["--cdn encrypted", "--cdn none"],
            id="bad-cdn",
        )
    return modes[word]


@dataclass(frozen=True, slots=True)
class Due:
    """A document that is to be sealed: in a new epoch, as it is now. What is taken away meanwhile asks again."""

    doc_id: str
    root: Cid
    reason: Reason
    taken: tuple[bytes, ...]
    """What had been taken before: looked up before anything is sealed, and said with it."""


class Cdns:
    """The log of one node's organisation, as far as it is about CDNs."""

    def __init__(
        self, log: Log, access: Access, authority: Authority, organization: str, own: PeerId, now: Callable[[], float]
    ) -> None:
        self._log = log
        self._access = access
        self._authority = authority
        self._organization = organization
        self._own = own
        self._now = now

    # --- how it may go ---

    def way(self, doc_id: str, organization: str = "") -> Way:
        """How a document may go to CDNs, now. Raises AccessDeniedError `cdn-not-public` where it may not at all."""
        rights = self._rights(organization, doc_id)
        access = rights.access
        if rights.facts and not rights.is_dead and is_public_access(access):
            return "clear"
        if not rights.is_dead and mode_of(rights.in_force) == "encrypted":
            return "encrypted"
        if rights.is_dead:
            why = "it was removed"
        elif access.visibility == "public":
            why = "it is public, and somebody is denied to read it: a CDN knows nobody"
        else:
            why = f"its visibility is {access.visibility}, and a CDN gives what it holds to whoever asks"
        raise AccessDeniedError(
            f"doc:{doc_id} does not go to a CDN",
            why=why,
            mend=[f"rage acl set {doc_id} --cdn encrypted", f"rage acl set {doc_id} --visibility public"],
            id="cdn-not-public",
        )

    def mode(self, doc_id: str, organization: str = "") -> str:
        """What whoever rules the document has said: encrypted, or "" (not while it is not public)."""
        return mode_of(self._rights(organization, doc_id).in_force)

    def rule(self, doc_id: str, mode: str) -> list[Fact]:
        """Say how a document of our organisation may go to CDNs. Give what is written to `sharing.written`.

        What CDNs hold of it stays named until `tell_unsealed`. Raises AccessDeniedError when it would not count.
        """
        resource = f"doc:{doc_id}"
        self._access.require_admin(self._organization, resource)
        rights = self._rights("", doc_id)
        standing = [fact.body for fact in rights.in_force if isinstance(fact.body, kinds.Cdn)]
        if (len(standing) == 1 and standing[0].mode == mode) or (not standing and not mode):
            return []
        held = next(iter(sealed_of(rights.in_force)), kinds.Cdn())
        return self._append(resource, replace(held, mode=mode))

    # --- what they hold ---

    def held(self, doc_id: str, organization: str = "") -> tuple[Sealed, ...]:
        """What CDNs may hold of a document, the newest first; of one that was removed, too."""
        organization = organization or self._organization
        return tuple(
            Sealed(organization, doc_id, body.root, body.epoch, body.sealed, body.check, str(fact.author))
            for fact in sorted(self._rights(organization, doc_id).in_force, key=lambda fact: fact.order, reverse=True)
            if isinstance(body := fact.body, kinds.Cdn) and body.root is not None and body.sealed is not None
        )

    def of_root(self, root: Cid) -> tuple[Sealed, ...]:
        """What CDNs hold, encrypted, of living documents with this root: our organisation's first."""
        organizations = dict.fromkeys([self._organization, *self._log.organizations()])
        return tuple(
            sealed
            for organization in organizations
            for row in self._log.documents(organization, root=root)
            if not row.is_dead and self.is_encrypted(row.doc_id, organization)
            for sealed in self.held(row.doc_id, organization)
            if sealed.root == root
        )

    def is_encrypted(self, doc_id: str, organization: str = "") -> bool:
        """Whether a document goes to CDNs, now, and as ciphertext."""
        try:
            return self.way(doc_id, organization) == "encrypted"
        except AccessDeniedError:
            return False

    def documents(self) -> tuple[str, ...]:
        """Ids of our organisation's documents about which CDNs were ever ruled: what a revocation may concern."""
        facts = self._log.by_kind(self._organization, kinds.Cdn)
        return tuple(dict.fromkeys(fact.resource.removeprefix("doc:") for fact in facts))

    def tell_sealed(self, due: Due, epoch: Epoch, sealed: Cid) -> list[Fact]:
        """Say that CDNs hold the document in this epoch. Give what is written to `sharing.written`.

        Raises AccessDeniedError when it would not count, or the document may no longer go there encrypted.
        """
        resource = f"doc:{due.doc_id}"
        self._access.require_admin(self._organization, resource)
        if self.way(due.doc_id) != "encrypted":
            return []
        return self._append(resource, kinds.Cdn("encrypted", epoch.id, due.root, sealed, epoch.check, due.taken))

    def tell_unsealed(self, doc_id: str) -> list[Fact]:
        """Say that CDNs hold nothing encrypted of it any more. Raises AccessDeniedError when it would not count."""
        resource = f"doc:{doc_id}"
        self._access.require_admin(self._organization, resource)
        if not self.held(doc_id):
            return []
        return self._append(resource, kinds.Cdn(self.mode(doc_id)))

    # --- when it is due ---

    def due(self, doc_id: str) -> Due | None:
        """Whether a document of our organisation must be sealed in a new epoch; None where all is right.

        It may go to CDNs encrypted, and they hold nothing, or another root, or what somebody may read no longer.
        """
        if not self.is_encrypted(doc_id):
            return None
        rows = self._log.documents(self._organization, doc_id=doc_id)
        if not rows:
            raise NotFoundError(f"no document {doc_id} in the log", mend=["rage chunk list"], id="document-not-found")
        in_force = self._rights("", doc_id).in_force
        now_taken = self._taken(doc_id)
        reasons = [epoch_due(body, rows[0].root, now_taken) for body in sealed_of(in_force)[:1]] or ["never-sealed"]
        return Due(doc_id, rows[0].root, reasons[0], now_taken) if reasons[0] else None

    def _taken(self, doc_id: str) -> tuple[bytes, ...]:
        organization, log = self._organization, self._log
        elsewhere = [
            fact
            for kind in (kinds.Revocation, kinds.Trust)
            for fact in log.by_kind(organization, kind)
            if self._authority.is_admin(organization, fact.author)
        ]
        now = self._now()
        counted = log.counting(organization, f"doc:{doc_id}", now=now)
        return taken(counted, elsewhere, log.revoked(organization), log.ever_admins(organization), now)

    # --- the log ---

    def _rights(self, organization: str, doc_id: str) -> Rights:
        return self._access.rights(organization or self._organization, f"doc:{doc_id}")

    def _append(self, resource: str, body: kinds.Cdn) -> list[Fact]:
        facts = self._log.append(self._organization, [New(resource, body)])
        self._access.forget(facts)
        return facts
