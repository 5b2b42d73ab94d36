"""Which facts count: who may say what about a resource, and how far each chain is heard.

Pure functions of a set of facts and of what certificates say of their authors (`Authority`), so that order,
duplicates and partitions cannot matter.

    doc:    the owner; whoever has the capability `admin`; whoever one of these made an admin of the document, for all
            but making admins. What such a one *denied* or removed stays so when it is one no more: nobody regains what
            was taken, and bytes that went do not come back. Edits also of whoever was ever given `write` or `admin`.
            All need the capability `storage` or `admin`. What was purged from CDNs, and how the document may go
            there, by whoever could make it public now: to lie about either gives them nothing that they lack
    peer:   the peer of itself: its node record, certificates, closings. Else admins
    others  admins; a node's own trust facts, for itself alone

Source: step 3, "Who counts"; design D6; contracts/rage.proto.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rage_net.libp2p.peer_id import PeerId
from rage_net.sync.facts import (
    Access,
    Acknowledgement,
    Adoption,
    Body,
    Cdn,
    Certificate,
    Closing,
    Document,
    Edit,
    Fact,
    NodeRecord,
    Purged,
    Tombstone,
    Trust,
    current,
)
from rage_net.sync.vocabulary import is_named_owner

Authority = Callable[[PeerId], frozenset[str] | None]
"""The capabilities that an author's certificates of this organisation give it, however old; None when none holds."""

WRITERS = frozenset({"storage", "admin"})
"""Capabilities of which one is needed to write about documents: a read-only spoke has neither."""

_WRITTEN = (Document, Edit, Access, Tombstone, Purged, Cdn)


@dataclass(frozen=True, slots=True)
class Counting:
    """What counts of a resource's facts, in order; and its owner, when it is a document that someone has written."""

    facts: tuple[Fact, ...]
    owner: PeerId | None = None

    @property
    def current(self) -> tuple[Fact, ...]:
        """Of these, the ones that nothing replaces."""
        return current(self.facts)


def counting(
    facts: Iterable[Fact], authority: Authority, *, own: PeerId | None = None, now: float | None = None
) -> Counting:
    """Which facts about one resource count.

    Args: facts: all about that resource, of chains as far as they are heard (`limits`).
        own: this node, whose trust facts count for itself. now: seconds since the epoch, to let delegations expire;
        None takes them as lasting, which is what must not differ between nodes (who owns, what was edited).
    """
    by_id = {fact.id: fact for fact in facts}
    ordered = sorted(by_id.values(), key=lambda fact: fact.order)
    if not ordered:
        return Counting(())
    resource = ordered[0].resource
    if resource.startswith("doc:"):
        return _of_document(resource[4:], ordered, authority, now)
    counted = (fact for fact in ordered if _counts_elsewhere(fact, authority(fact.author), own))
    return Counting(tuple(counted))


def _counts_elsewhere(fact: Fact, capabilities: frozenset[str] | None, own: PeerId | None) -> bool:
    if capabilities is None:
        return False
    body, is_admin = fact.body, "admin" in capabilities
    is_self = fact.resource == f"peer:{fact.author}"
    match body:
        case Certificate():
            return is_self
        case NodeRecord():
            return is_self or is_admin
        case Closing():
            return is_admin or (is_self and body.author == fact.author)
        case Trust():
            return is_admin or fact.author == own
    return is_admin


def _of_document(doc_id: str, facts: list[Fact], authority: Authority, now: float | None) -> Counting:
    capabilities = {author: authority(author) for author in {fact.author for fact in facts}}

    def may_write(author: PeerId) -> bool:
        return bool((capabilities[author] or frozenset()) & WRITERS)

    facts = [
        fact
        for fact in facts
        if capabilities[fact.author] is not None and (may_write(fact.author) or not isinstance(fact.body, _WRITTEN))
    ]
    owner = _owner(doc_id, facts)
    strong = {author for author, has in capabilities.items() if author == owner or (has and "admin" in has)}
    grants = [fact for fact in facts if fact.author in strong and _is_delegation(fact)]
    delegates, ever = _delegates(grants, facts, now)
    editors = strong | _named(
        (fact for fact in facts if fact.author in strong | ever and _gives(fact, "write", "admin")), facts
    )
    counted = []
    for fact in facts:
        author, body = fact.author, fact.body
        if isinstance(body, Edit):
            counts = author in editors
        elif isinstance(body, Acknowledgement) or author in strong:
            counts = True
        elif isinstance(body, Access) and body.action == "admin":
            counts = False
        else:
            counts = author in delegates or (author in ever and (_denies(body) or isinstance(body, Tombstone)))
        if counts and _is_of_documents(body):
            counted.append(fact)
    return Counting(tuple(counted), owner)


def _owner(doc_id: str, facts: list[Fact]) -> PeerId | None:
    """Whom the id names, if it wrote; else the author of the first document fact, by an order all nodes share."""
    authors = [fact.author for fact in facts if isinstance(fact.body, Document)]
    return next((author for author in authors if is_named_owner(doc_id, author)), authors[0] if authors else None)


def _is_delegation(fact: Fact) -> bool:
    return isinstance(fact.body, Access) and fact.body.action == "admin"


def _delegates(grants: list[Fact], facts: list[Fact], now: float | None) -> tuple[set[PeerId], set[PeerId]]:
    """Admins of the document now, and who ever was. A denial that stands beats a grant that stands beside it."""
    ever = _named((fact for fact in grants if _gives(fact, "admin")), facts)
    standing = current(grants)
    allowed = (fact for fact in standing if _gives(fact, "admin") and not _is_over(fact, now))
    denied = (fact for fact in standing if _denies(fact.body) and not _is_over(fact, now))
    return _named(allowed, facts) - _named(denied, facts), ever


def _named(grants: Iterable[Fact], facts: list[Fact]) -> set[PeerId]:
    """Authors among `facts` that an access names as a peer or by their organisation, which is that of the log."""
    principals = {fact.body.principal for fact in grants if isinstance(fact.body, Access)}
    if not principals:
        return set()
    organization = f"org:{facts[0].organization}"
    authors = {fact.author for fact in facts}
    return authors if organization in principals else {one for one in authors if f"peer:{one}" in principals}


def _gives(fact: Fact, *actions: str) -> bool:
    body = fact.body
    return isinstance(body, Access) and body.allowed and body.action in actions


def _denies(body: Body) -> bool:
    return isinstance(body, Access) and not body.visibility and not body.allowed


def _is_over(fact: Fact, now: float | None) -> bool:
    body = fact.body
    return now is not None and isinstance(body, Access) and 0 < body.expires_at <= now


def _is_of_documents(body: Body) -> bool:
    return not isinstance(body, Certificate | NodeRecord | Trust | Adoption | Closing)
