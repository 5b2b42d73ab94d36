"""Verbs of the noun acl: who may do what with documents. Times are seconds since the epoch; 0 is no end."""

from __future__ import annotations

from typing import ClassVar

from rage_net.verbs import Verb, dataclass


@dataclass(frozen=True, slots=True)
class AclRights:
    """Rights that many hold alike, as a file of `acl set` has them."""

    visibility: str = ""
    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    organizations: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    anyone: bool = False
    denied: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    expires_at: float = 0


@dataclass(frozen=True, slots=True)
class AclFact:
    """One fact that counts. `in_force` is false where a concurrent one of the same principal and action wins."""

    principal: str
    """Empty for a visibility."""
    action: str
    allowed: bool
    expires_at: float
    visibility: str
    in_force: bool
    author: str
    lamport: int
    id: str


@dataclass(frozen=True, slots=True)
class ShowAclResult:
    """A document's rights: what is in force, and the facts beneath."""

    resource: str
    name: str
    organization: str
    owner: str
    visibility: str
    rights: tuple[AclRights, ...]
    facts: tuple[AclFact, ...]
    conflicts: int
    """Keys on which concurrent facts disagree."""
    cdn: str = ""
    """How it may go to CDNs while it is not public: encrypted, or empty: not at all."""
    flaw: str = ""
    """Why it is its owner's alone, whatever else stands here."""


@dataclass(frozen=True, slots=True)
class ShowAcl(Verb[ShowAclResult]):
    """The rights of one document."""

    route: ClassVar[str] = "acl/show"
    result: ClassVar[type] = ShowAclResult

    ref: str


@dataclass(frozen=True, slots=True)
class AclChange:
    """One fact that was written, or would be. `replaces` counts the facts that it takes the place of."""

    principal: str
    action: str
    allowed: bool
    expires_at: float
    visibility: str
    replaces: int
    cdn: str = ""
    """Instead of a right: encrypted or none."""


@dataclass(frozen=True, slots=True)
class ChangeAclResult:
    """What was changed; nothing where it was so already."""

    resource: str
    name: str
    changes: tuple[AclChange, ...]
    dry_run: bool


@dataclass(frozen=True, slots=True)
class SetAcl(Verb[ChangeAclResult]):
    """Make these rights hold, and none besides; a visibility that is not named stays as it is."""

    route: ClassVar[str] = "acl/set"
    result: ClassVar[type] = ChangeAclResult
    mutates: ClassVar[bool] = True

    ref: str
    rights: tuple[AclRights, ...] = ()
    visibility: str = ""
    """Instead of `rights`: change the visibility alone."""
    cdn: str = ""
    """Instead of both: how it may go to CDNs while it is not public, encrypted or none."""
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class GrantAcl(Verb[ChangeAclResult]):
    """Let a principal do something with a document, until a moment or for good."""

    route: ClassVar[str] = "acl/grant"
    result: ClassVar[type] = ChangeAclResult
    mutates: ClassVar[bool] = True

    ref: str
    principal: str
    action: str
    until: float = 0
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class RevokeAcl(Verb[ChangeAclResult]):
    """Deny a principal something, whatever else would let it."""

    route: ClassVar[str] = "acl/revoke"
    result: ClassVar[type] = ChangeAclResult
    mutates: ClassVar[bool] = True

    ref: str
    principal: str
    action: str
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class AclReason:
    """What one document that counts for the resource says."""

    doc_id: str
    organization: str
    visibility: str
    allowed: bool
    reason: str
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CheckAclResult:
    """The decision, as a door of this node would make it; `rules` are those that were tried, in order."""

    resource: str
    principal: str
    action: str
    allowed: bool
    reason: str
    rules: tuple[str, ...]
    documents: tuple[AclReason, ...]
    would_deny: str = ""


@dataclass(frozen=True, slots=True)
class CheckAcl(Verb[CheckAclResult]):
    """Whether a principal may do something with a document or a chunk."""

    route: ClassVar[str] = "acl/check"
    result: ClassVar[type] = CheckAclResult

    ref: str
    principal: str
    action: str
    groups: tuple[str, ...] = ()
    """Of a user, `ORG/NAME`: a node learns them from tokens alone."""


@dataclass(frozen=True, slots=True)
class AclRow:
    """One right in force on one document."""

    resource: str
    name: str
    organization: str
    principal: str
    action: str
    allowed: bool
    expires_at: float


@dataclass(frozen=True, slots=True)
class ListAclResult:
    """In the order of documents, principals, actions. `more`: there are others beyond the limit."""

    items: tuple[AclRow, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class ListAcl(Verb[ListAclResult]):
    """Rights and denials in force on documents here, all or those of one principal."""

    route: ClassVar[str] = "acl/list"
    result: ClassVar[type] = ListAclResult

    principal: str = ""
    limit: int = 1000
