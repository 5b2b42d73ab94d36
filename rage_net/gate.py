"""Who may read which chunk of this store: its rows, the documents' rights and `authorize` meet here, for every door.

A door asks once for each request and answers what it gets: `Seen` is served; of `Hidden` a stranger learns no more than
of what is absent. Whether an asker may be told that something is denied is decided here too: within one organisation,
about its own documents. Blocking code, quick enough for the event loop while the index lies in memory.

Not here: what `authorize` decides (acl), which documents count (chunk.shelf), who asks (the doors).
Source: design D7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from rage_net.acl import (
    AccessList,
    Action,
    ChunkResource,
    Decision,
    DocumentResource,
    Principal,
    Rules,
    access_of_row,
    authorize,
)
from rage_net.chunk.shelf import COUNTING_MAX, Counting, Hidden, Seen, look, marked, words
from rage_net.chunk.store import ChunkStore
from rage_net.cid import Cid
from rage_net.env import Env

AccessOf = Callable[[str, str], AccessList | None]
"""The rights of a document, by organisation and id, as the log has them; None where it has none."""
WordsOf = Callable[[str, str], Sequence[str]]
"""The tags of a document, by organisation and id, as the log has them."""

NAMED_MAX = 32
"""Public documents of one chunk that an answer to the world names."""
WORDS_MAX = 64
"""Tags of these that it names."""
PERMANENT = "permanent"
"""The tag of a document that stays public for good."""


@dataclass(frozen=True, slots=True)
class Served:
    """A chunk that the asker may read, and what caches must know of it."""

    size: int
    """Plain bytes."""
    is_public: bool = False
    """Anyone may have it, by a document that is public: caches may keep it."""
    documents: tuple[str, ...] = ()
    """Ids of the public documents that count for it, at most `NAMED_MAX`."""
    words: tuple[str, ...] = ()
    """The tags of these, at most `WORDS_MAX`."""
    has_more: bool = False
    """There are more of them than are named."""
    is_permanent: bool = False
    """A public document that holds it has the tag `permanent`."""


class Answer(NamedTuple):
    """What a door learns of one chunk."""

    found: Seen | Hidden | None
    decision: Decision
    documents: tuple[tuple[str, str], ...] = ()
    """Organisation and id of those that the asker may read, where it is told of any."""
    is_public: bool = False
    is_told: bool = False
    """The asker may know that the chunk is here and denied."""
    rights: tuple[AccessList, ...] = ()
    """Of what was found, in the order of its documents."""


class Gate:
    """Decides for one store. Args: access_of: the log's word on documents about which there are facts, or no row."""

    def __init__(
        self, store: ChunkStore, env: Env, rules: Rules, access_of: AccessOf = lambda organization, doc_id: None
    ) -> None:
        self.rules = rules
        self._store = store
        self._env = env
        self.access_of = access_of
        """Given by the engine once the log is open."""
        self.words_of: WordsOf = lambda organization, doc_id: ()
        """Likewise: for documents that have no row in this store."""

    def look(self, cid: Cid, principal: Principal, action: Action = "read", *, tell: int = 0) -> Answer:
        """The chunk, if `principal` may do `action` on it; with up to `tell` documents it may read."""
        return self._look(cid, principal, action, self.rules, tell)

    def serve(self, cid: Cid, principal: Principal) -> tuple[Answer, Served | None]:
        """The same to read, with what an answer to the world tells caches; None when there is nothing for them."""
        answer = self._look(cid, principal, "read", self.rules, 0)
        found = answer.found
        if not isinstance(found, Seen):
            return answer, None
        public = [
            (document.organization, document.doc_id)
            for document, access in zip(found.documents, answer.rights, strict=True)
            if document.doc_id and is_public_access(access)
        ]
        if not public:
            return answer, Served(found.stat.size, answer.is_public)
        named = sorted(dict.fromkeys(public), key=lambda each: each[1])[:NAMED_MAX]
        known = words(self._store, [doc_id for _, doc_id in named])
        spoken = {
            word for organization, doc_id in named for word in known.get(doc_id) or self.words_of(organization, doc_id)
        }
        return answer, Served(
            found.stat.size,
            answer.is_public,
            tuple(doc_id for _, doc_id in named),
            tuple(sorted(spoken)[:WORDS_MAX]),
            len(public) > NAMED_MAX or len(spoken) > WORDS_MAX or len(found.documents) >= COUNTING_MAX,
            PERMANENT in spoken or marked(self._store, [doc_id for _, doc_id in public], PERMANENT),
        )

    def may_count(self, cids: Iterable[Cid], author: Principal) -> list[Cid]:
        """Those chunks that are here already and that `author` may read: for them its new document counts, too.

        By the strict rules, whatever the node's enforcement: what counts decides for others, later.
        """
        rules = replace(self.rules, enforcement="strict")
        return [cid for cid in cids if isinstance(self._look(cid, author, "read", rules, 0).found, Seen)]

    def counting(self, cid: Cid) -> list[tuple[str, AccessList]] | None:
        """Id and rights of the documents that count for a chunk, for operators; None when it is not here."""
        found = look(self._store, cid, lambda _: True)
        return None if found is None else [(document.doc_id, self.rights(document)) for document in found.documents]

    def rights(self, document: Counting) -> AccessList:
        """What is known of a document that counts for something."""
        organization, doc_id, owner, visibility, is_ruled = document
        if not self.rules.is_open and doc_id:
            organization = organization or self.rules.organization  # put here before this node belonged to any
            if is_ruled or not visibility:
                access = self.access_of(organization, doc_id)
                if access is not None:
                    return access
                if is_ruled:  # there are facts, and they cannot be read now
                    visibility = "private"
        return access_of_row(visibility or "org", owner, organization)

    def _look(self, cid: Cid, principal: Principal, action: Action, rules: Rules, tell: int) -> Answer:
        decision: Decision | None = None
        lists: tuple[AccessList, ...] = ()
        now = self._env.now()

        def may_see(documents: Sequence[Counting]) -> bool:
            nonlocal decision, lists
            lists = tuple(map(self.rights, documents))
            decision = authorize(ChunkResource(cid, lists), principal, action, rules, now)
            return decision.allowed

        found = look(self._store, cid, may_see)
        assert decision is not None
        if not isinstance(found, Seen):
            return Answer(found, decision, is_told=found is not None and self._is_own(principal, lists))
        told: list[tuple[str, str]] = []
        if tell:
            for document, access in zip(found.documents, lists, strict=True):
                resource = DocumentResource(document.doc_id, access)
                if document.doc_id and authorize(resource, principal, action, rules, now).allowed:
                    told.append((access.organization, document.doc_id))
                    if len(told) == tell:
                        break
        return Answer(found, decision, tuple(told), any(map(is_public_access, lists)), rights=lists)

    def _is_own(self, principal: Principal, lists: Sequence[AccessList]) -> bool:
        organization = principal.organization
        if self.rules.is_open or not organization or organization != self.rules.organization:
            return False
        return any(access.organization == organization for access in lists)


def is_public_access(access: AccessList) -> bool:
    """Whether anyone may have it, whatever this node's own rules are."""
    return access.visibility == "public" and not access.flaw and "read" not in access.denials
