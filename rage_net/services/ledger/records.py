"""Documents as facts, and facts as documents: what is put here is told to the log, what the log says is done here.

    publish    a document of ours: where its bytes lie, its record, who may see it
    apply      new facts: a tombstone drops the document here and is acknowledged, a visibility or a record moves
    remove     a tombstone: the document goes everywhere
    reconcile  what is here and not in the log (put before there was a certificate, or a crash between the two)

Blocking throughout. Not here: the wire (syncing), whose facts count (access). Source: design D6; issue 4, D.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from rage_net.acl import AccessList
from rage_net.chunk.documents import Document, Documents
from rage_net.chunk.shelf import drop_attested
from rage_net.chunk.store import ChunkStore
from rage_net.env import Env
from rage_net.errors import AccessDeniedError, NotFoundError, UsageError
from rage_net.libp2p.peer_id import PeerId
from rage_net.replication.policy import Policies, Subject
from rage_net.replication.usage import changed_policy
from rage_net.services.ledger.access import Access
from rage_net.sync import facts as kinds
from rage_net.sync.catalog import ChangeError, Changes, check
from rage_net.sync.documents import DocumentRow
from rage_net.sync.facts import Fact, New, PurgedProvider
from rage_net.sync.log import Log
from rage_net.sync.purges import add_purges, purged_by
from rage_net.verbs.chunk import Visibility

log = logging.getLogger("rage.records")

DAY_S = 86_400.0
RECONCILE_MAX = 1000
"""Documents in one step of reconciling."""
EXPIRY_LEEWAY_S = 60.0


@dataclass(frozen=True, slots=True)
class Applied:
    """What followed from new facts here: acknowledgements that were written, documents that went.

    `trust_changed`, `roots_changed`: whether who is trusted, or which roots may be announced, may have changed.
    """

    written: tuple[Fact, ...]
    trust_changed: bool
    roots_changed: bool


class Records:
    """The documents of one node beside the log of its organisation."""

    def __init__(
        self,
        store: ChunkStore,
        documents: Documents,
        log_: Log,
        access: Access,
        organization: str,
        own: PeerId,
        env: Env,
    ) -> None:
        self._store = store
        self._documents = documents
        self._log = log_
        self._access = access
        self._organization = organization
        self._own = own
        self._env = env
        self._measured: dict[str, float | None] = {}
        """Documents whose policy use has changed or chosen, and when it last did so."""

    # --- what is ours ---

    def publish(self, document: Document) -> list[Fact]:
        """Write what the log does not say yet of a document of ours; durable when it returns.

        Raises: UsageError for a name or tag that no record takes, before anything is written.
        """
        check_words(document.name, document.tags, document.policy)
        resource = f"doc:{document.doc_id}"
        known = self.row(self._organization, document.doc_id)
        news: list[New] = []
        if known is None or known.root != document.root:
            size = kinds.Document(document.root, document.size, document.chunks, int(document.created_at))
            news.append(New(resource, size))
        access = self._access.access_of(self._organization, document.doc_id)
        if access is None or access.visibility != document.visibility:
            news.append(New(resource, kinds.Access(visibility=document.visibility)))
        facts = self._log.append(self._organization, news)
        tags = known.tags if known is not None else ()
        changes = Changes(
            document.name,
            document.policy,
            _seconds(document.expires_at),
            tuple(tag for tag in document.tags if tag not in tags),
            tuple(tag for tag in tags if tag not in document.tags),
        )
        edit = self._log.edit(self._organization, document.doc_id, changes)
        facts += [edit] if edit is not None else []
        self._access.forget(facts)
        return facts

    def row(self, organization: str, doc_id: str) -> DocumentRow | None:
        """A document as the log has it."""
        return next(iter(self._log.documents(organization, doc_id=doc_id)), None)

    def words_of(self, organization: str, doc_id: str) -> tuple[str, ...]:
        """The tags of a document that the log has and that is not dead."""
        row = self.row(organization, doc_id)
        return () if row is None or row.is_dead else row.tags

    def reconcile(self) -> list[Fact]:
        """Publish documents of ours that the log does not have as they are; drop those that it knows to be dead."""
        written: list[Fact] = []
        after = ""
        while True:
            page, after = self._documents.list(after=after, limit=RECONCILE_MAX)
            for document in page:
                if document.organisation != self._organization:
                    continue
                known = self.row(self._organization, document.doc_id)
                if known is not None and self._is_dead(document.doc_id):
                    written += self._drop(document.doc_id)
                elif document.owner == str(self._own) and (known is None or not _is_alike(document, known)):
                    try:
                        written += self.publish(document)
                    except UsageError as error:  # of before there was a CA; the others are not made to wait for it
                        log.warning("document %s stays on this node alone: %s", document.doc_id, error.message)
            if not after:
                return written

    def align(self) -> bool:
        """Let documents here look as the log has them, whatever was missed. Whether one is no longer public.

        Facts that have come to count no more say nothing of themselves.
        """
        is_narrower, after = False, ""
        while True:
            page, after = self._documents.list(after=after, limit=RECONCILE_MAX)
            for document in page:
                organization = document.organisation or self._organization
                rights = self._access.rights(organization, f"doc:{document.doc_id}")
                visibility = _visibility(rights.access)
                if rights.facts and (visibility != document.visibility or not document.is_ruled):
                    self._documents.set_access(organization, document.doc_id, visibility, is_ruled=True)
                    is_narrower = is_narrower or document.visibility == "public"
            if not after:
                return is_narrower

    def _is_dead(self, doc_id: str) -> bool:
        return self._access.rights(self._organization, f"doc:{doc_id}").is_dead

    def remove(self, documents: Iterable[Document | DocumentRow], reason: str = "removed") -> list[Fact]:
        """Let documents go everywhere. Raises AccessDeniedError for one that is not ours to remove."""
        documents = list(documents)
        for document in documents:  # all or none
            self._access.require_admin(self._organization, f"doc:{document.doc_id}")
        written: list[Fact] = []
        for document in documents:
            resource = f"doc:{document.doc_id}"
            facts = self._log.append(self._organization, [New(resource, kinds.Tombstone(reason))])
            self._access.forget(facts)
            written += facts
            self._drop(document.doc_id, acknowledge=False)
        return written

    def expire(self) -> list[Fact]:
        """Tombstones for documents of ours whose retention is over."""
        now = int(self._env.now() - EXPIRY_LEEWAY_S)
        gone = [row for row in self._log.expired(self._organization, now) if row.owner == self._own]
        return self.remove(gone, "expired") if gone else []

    def choose_policies(self, policies: Policies, per_day: Mapping[str, int]) -> list[Fact]:
        """Documents of ours that come under another policy by how often they are asked for, or leave one.

        At most once a day each: when one last changed is remembered while the node runs, and else is its beginning.
        """
        now = self._env.now()
        rows = [row for doc_id in per_day if (row := self.row(self._organization, doc_id)) is not None]
        rows += [
            row
            for doc_id in self._measured
            if doc_id not in per_day and (row := self.row(self._organization, doc_id)) is not None
        ]
        written: list[Fact] = []
        for row in rows:
            if row.owner != self._own or row.is_dead:
                continue
            days = (row.retention_until - row.created_at) / DAY_S if row.retention_until else None
            subject = Subject(row.tags, days, row.policy)
            if policies.is_measured(row.policy):
                self._measured.setdefault(row.doc_id, None)
            changed_at = self._measured.get(row.doc_id)
            policy = changed_policy(policies, subject, per_day.get(row.doc_id, 0), changed_at, now)
            if policy is None:
                continue
            self._measured[row.doc_id] = now
            changes = Changes(row.name, policy, row.retention_until, (), ())
            edit = self._log.edit(self._organization, row.doc_id, changes)
            if edit is not None:
                log.info(
                    "document %s is asked for %d times a day: policy %s",
                    row.doc_id,
                    per_day.get(row.doc_id, 0),
                    policy or "none",
                )
                written.append(edit)
            with suppress(NotFoundError):
                self._documents.set_policy(self._organization, row.doc_id, policy)
        self._access.forget(written)
        return written

    # --- what others wrote ---

    def apply(self, organization: str, facts: Sequence[Fact]) -> Applied:
        """Do here what new facts say."""
        self._access.forget(facts)
        written: list[Fact] = []
        trust = (kinds.Certificate, kinds.Revocation, kinds.Trust)
        trust_changed = any(isinstance(fact.body, trust) for fact in facts)
        for doc_id in dict.fromkeys(fact.resource[4:] for fact in facts if fact.resource.startswith("doc:")):
            rights = self._access.rights(organization, f"doc:{doc_id}")
            if rights.is_dead:
                written += self._drop(doc_id, organization=organization)
                continue
            written += self._show_others(organization, doc_id, facts)
            row = self.row(organization, doc_id)
            if row is not None:
                visibility = _visibility(rights.access)
                self._documents.set_access(organization, doc_id, visibility, is_ruled=True)
                self._documents.amend(
                    organization,
                    doc_id,
                    name=row.name,
                    tags=row.tags,
                    policy=row.policy,
                    expires_at=float(row.retention_until) if row.retention_until else None,
                )
        roots_changed = any(isinstance(fact.body, kinds.Access | kinds.Tombstone | kinds.Document) for fact in facts)
        return Applied(tuple(written), trust_changed, roots_changed)

    def _show_others(self, organization: str, doc_id: str, facts: Sequence[Fact]) -> list[Fact]:
        """What we wrote about a document that has become another organisation's business, too, we say again.

        Till now its peers were sent hashes of it.
        """
        if organization != self._organization or not self._access.has_others():
            return []
        resource = f"doc:{doc_id}"
        is_wider = any(fact.resource == resource and self._access.is_for_others(fact) for fact in facts)
        return self._log.reissue(organization, resource) if is_wider else []

    def _drop(self, doc_id: str, *, organization: str = "", acknowledge: bool = True) -> list[Fact]:
        """Forget a dead document and the cached bytes that only it let others have; say so if there was any."""
        organization = organization or self._organization
        had = drop_attested(self._store, organization, doc_id)
        try:
            document = self._documents.get(doc_id, expired=True)
        except NotFoundError:
            document = None
        if document is not None and document.organisation == organization:
            had = self._documents.destroy(document) or had
        if not had or not acknowledge or organization != self._organization:
            return []
        log.info("document %s was removed by its organisation, and is dropped here", doc_id)
        tombstones = [
            fact
            for fact in self._access.rights(organization, f"doc:{doc_id}").facts
            if isinstance(fact.body, kinds.Tombstone)
        ]
        return self._log.append(
            organization, [New(f"doc:{doc_id}", kinds.Acknowledgement(tombstones[0].id))] if tombstones else []
        )

    def tombstones(self, doc_ids: Iterable[str]) -> list[Fact]:
        """What says that documents of ours are gone."""
        return [
            fact
            for doc_id in doc_ids
            for fact in self._access.rights(self._organization, f"doc:{doc_id}").facts
            if isinstance(fact.body, kinds.Tombstone)
        ]

    def acknowledged(self, doc_id: str) -> frozenset[PeerId]:
        """Who has said that it dropped a document, as a tombstone that counts asks."""
        facts = self._access.rights(self._organization, f"doc:{doc_id}").facts
        tombstones = {fact.id for fact in facts if isinstance(fact.body, kinds.Tombstone)}
        return frozenset(
            fact.author
            for fact in facts
            if isinstance(fact.body, kinds.Acknowledgement) and fact.body.tombstone in tombstones
        )

    # --- what CDNs hold ---

    def tell_purged(self, doc_id: str, events: Sequence[bytes], providers: Sequence[PurgedProvider]) -> list[Fact]:
        """Say that a document of our organisation is gone from these CDNs, as these events asked.

        Nothing is written where nobody would heed it, as this node does not rule the document: then the others that
        wait purge, too. Give what is written to `sharing.written`.
        """
        resource = f"doc:{doc_id}"
        try:
            self._access.require_admin(self._organization, resource)
        except AccessDeniedError:
            return []
        in_force = self._access.rights(self._organization, resource).in_force
        mine = [fact.body for fact in in_force if fact.author == self._own and isinstance(fact.body, kinds.Purged)]
        body = add_purges(mine, events, providers)
        if body is None:
            return []
        facts = self._log.append(self._organization, [New(resource, body)])
        self._access.forget(facts)
        return facts

    def purged_by(
        self, doc_id: str, event: bytes, organization: str = ""
    ) -> list[tuple[PeerId, tuple[PurgedProvider, ...]]]:
        """Other nodes that rule the document and say that they purged it for this event, and from which CDNs.

        Whether these are CDNs of ours, too, says `sync.purges.covers`.
        """
        rights = self._access.rights(organization or self._organization, f"doc:{doc_id}")
        return [
            (fact.author, providers)
            for fact, providers in purged_by(rights.in_force, event)
            if fact.author != self._own
        ]


def _visibility(access: AccessList) -> Visibility:
    """As the store notes it: public is only what anyone may have, for it is announced."""
    is_shut = access.flaw or "anyone" in access.denials.get("read", ())
    return "private" if is_shut else cast(Visibility, access.visibility)


def check_words(name: str, tags: Sequence[str], policy: str = "") -> None:
    """Pass for what a record of the log takes: it is narrower than a store alone. Raises UsageError."""
    try:
        check(Changes(name, policy, tags_added=tuple(tags)))
    except ChangeError as error:
        raise UsageError(
            str(error),
            why="the nodes of an organisation compare names letter by letter, so each has one form",
            mend=[f"--name {_spelt(name) if _spelt(name) != name else 'NAME'}"],
        ) from None


def _spelt(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()


def _is_alike(document: Document, known: DocumentRow) -> bool:
    return (
        known.root == document.root
        and known.name == document.name
        and sorted(known.tags) == sorted(document.tags)
        and known.policy == document.policy
        and known.retention_until == _seconds(document.expires_at)
    )


def _seconds(at: float | None) -> int:
    return 0 if at is None else int(at)
