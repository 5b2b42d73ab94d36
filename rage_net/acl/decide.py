"""The decision: resources, what the configuration says, and `authorize`.

An open node (no CA) speaks to anyone and serves what is public, or anything to `security.trusted_peers`: facts do not
exist there. With a CA, the order is: who is a stranger gets what is public, where that is allowed at all; trust must
open the action to another organisation's peers; then the owner, the organisation's admins, denials, grants, visibility.
A denial of any of the principal's names wins over every grant. The default is no.

To replicate is another matter: visibility says who may read, not who may hold. The nodes of the document's organisation
whose certificates have the capability `storage` hold it, whatever its visibility, unless a denial of `replicate` names
them; an admin's node is no exception. Other organisations hold it by a grant alone, and nobody without a certificate.

Naming a CID grants nothing: which documents count for a chunk is the store's record, and comes in as an argument.

Source: design D7, 4.4.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

from rage_net.acl.lists import AccessList, Until
from rage_net.acl.words import SCOPES, Action, Principal
from rage_net.cid import Cid


@dataclass(frozen=True, slots=True)
class ChunkResource:
    """A chunk and the rights of the documents that count for it; none means nobody has vouched for it."""

    cid: Cid
    documents: tuple[AccessList, ...]

    def __str__(self) -> str:
        return f"chunk:{self.cid}"


@dataclass(frozen=True, slots=True)
class DocumentResource:
    """A document and its rights."""

    doc_id: str
    access: AccessList

    def __str__(self) -> str:
        return f"doc:{self.doc_id}"


@dataclass(frozen=True, slots=True)
class OrganizationResource:
    """What an organisation has in common: its log (sync), its answers (query), proofs (audit), its share in the DHT."""

    organization: str
    access: AccessList | None = None
    """The facts on `org:<organization>`, where there are any."""

    def __str__(self) -> str:
        return f"org:{self.organization}"


@dataclass(frozen=True, slots=True)
class TopicResource:
    """A gossip topic: to `read` is to join, to `write` is to publish."""

    topic: str
    access: AccessList | None = None

    def __str__(self) -> str:
        return f"topic:{self.topic}"


Resource = ChunkResource | DocumentResource | OrganizationResource | TopicResource


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration says of access."""

    trusted_peers: frozenset[str] = frozenset()
    """Of an open node."""
    public_to_strangers: bool = True
    """False once a CA is set, unless `security.public_access` says so: then only its certificate holders read."""
    is_open: bool = True
    """No CA is set."""
    organization: str = ""
    """This node's own, by its certificate."""
    enforcement: Literal["strict", "permissive", "off"] = "strict"
    """For peers with a trusted certificate alone, for what they read alone, and never beyond what trust opens to them.
    Who may change rights is not decided here but by the log's rules, which every node must find alike."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer, why, and the rules that were tried, in order.

    `would_deny` is not empty where `permissive` let through what `strict` would not: why it would not.
    """

    allowed: bool
    reason: str
    rules: tuple[str, ...]
    would_deny: str = ""


SCOPE_OF = {
    "read": "chunks",
    "replicate": "chunks",
    "audit": "chunks",
    "kad": "chunks",
    "query": "query",
    "sync": "sync",
    "write": "sync",
    "admin": "sync",
}
"""What trust must open to another organisation's peers for each action."""
IMPLIED = frozenset(("read", "write", "query"))
"""By the action admin; write implies nothing."""
SEEN = frozenset(("read", "query"))
"""Visibility opens these."""
ENFORCED = frozenset(("read", "query", "replicate"))
"""acl_enforcement is about these."""
STORES = "storage"
"""The capability of nodes that hold copies for their organisation."""
GROUPED_TOPICS = ("rage.org.", "rage.acl.")
"""Topics for holders of certificates alone."""

_OPEN_RULES = ("operator", "public", "security.trusted_peers")
_STRANGERS = ("operator", "certificate", "security.public_access", "denials", "public")
_RULES = ("operator", "trust scope", "owner", "unknown facts", "admin capability", "denials", "grants", "visibility")
_HOLDING = ("operator", "trust scope", "owner", "unknown facts", "denials", "grants", "storage capability")
"""Of `replicate`."""

_OPERATOR = Decision(True, "the operator of this node", _RULES[:1])
_OPEN_PUBLIC = Decision(True, "a public document holds it", _OPEN_RULES[:2])
_OPEN_TRUSTED = Decision(True, "security.trusted_peers names the peer", _OPEN_RULES)
_OPEN_REPLICATE = Decision(False, "an open node replicates nothing", ("operator", "open node"))
_OPEN_DEFAULT = Decision(
    False, "nothing allows it: it is not public, and trusted_peers does not name the peer", _OPEN_RULES
)
_OPEN_ALL = Decision(True, "an open node speaks to anyone", ("operator", "open node"))
_OPEN_NONE = Decision(False, "an open node accepts no claim of an organisation", ("operator", "open node"))
_NO_CERTIFICATE = Decision(False, "no trusted certificate", _STRANGERS[:2])
_STRANGER_PUBLIC = Decision(True, "it is public, and security.public_access is set", _STRANGERS)
_STRANGER_DEFAULT = Decision(False, "no trusted certificate, and it is not public", _STRANGERS)
_STALE_PUBLIC = Decision(True, "it is public, all that is served while this node's log is stale", _STRANGERS)
_STALE_DEFAULT = Decision(False, "this node's log is stale, and it is not public", _STRANGERS)
_OWNER = Decision(True, "its owner", _RULES[:3])
_ADMIN = Decision(True, "an admin of its organisation", _RULES[:5])
_MEMBER = Decision(
    True, "a member of the organisation", ("operator", "trust scope", "denials", "grants", "organisation")
)
_STORAGE = Decision(True, "a node of its organisation that stores", _HOLDING)
_NO_STORAGE = Decision(False, "its certificate lacks the capability storage", _HOLDING)
_NO_GRANT = Decision(False, "another organisation's node replicates by a grant alone", _HOLDING)
_DEFAULT = Decision(False, "nothing allows it", _RULES)
_UNCOUNTED = Decision(False, "no document counts for it", (*_RULES[:2], "documents"))
_OFF = Decision(True, "security.acl_enforcement is off", (*_RULES[:2], "security.acl_enforcement"))
_VISIBLE = {
    word: Decision(True, f"its visibility is {word}", _RULES) for word in ("public", "federated", "org", "private")
}
_NO_SCOPE = {
    scope: Decision(False, f"trust in its organisation does not open {scope}", _RULES[:2]) for scope in sorted(SCOPES)
}


def authorize(resource: Resource, principal: Principal, action: Action, rules: Rules, now: float) -> Decision:
    """Decide whether `principal` may do `action` on `resource`. First rule that matches wins; the default is no.

    Args: now: seconds since the epoch, for rights that expire, with a minute of leeway.
    """
    if principal.kind == "operator":
        return _OPERATOR
    if rules.is_open:
        return _decide_open(resource, principal, action, rules)
    if not principal.organization or principal.kind == "anyone":
        if "chunks" in principal.scopes:
            return _decide_stale(resource, principal, action, now)
        return _decide_stranger(resource, principal, action, rules, now)
    is_peer = principal.kind == "peer"
    if not is_peer and action == "replicate":  # a token is no certificate, and a user holds no copies
        return _NO_CERTIFICATE
    if is_peer and principal.organization != rules.organization:
        scope = "sync" if isinstance(resource, TopicResource) else SCOPE_OF[action]
        if scope not in principal.scopes:
            found = _decide_stranger(resource, principal, action, rules, now)
            return found if found.allowed else _NO_SCOPE[scope]
    is_lenient = is_peer and rules.enforcement != "strict" and action in ENFORCED
    match resource:
        case ChunkResource():
            if is_lenient and rules.enforcement == "off":
                return _OFF
            decision = _UNCOUNTED
            for access in resource.documents:
                found = _decide(access, principal, action, rules, now)
                if found.allowed:
                    return found
                if decision is _UNCOUNTED or decision is _DEFAULT:  # the most telling denial is told
                    decision = found
        case DocumentResource():
            if is_lenient and rules.enforcement == "off":
                return _OFF
            decision = _decide(resource.access, principal, action, rules, now)
        case OrganizationResource():
            return _decide_organization(resource, principal, action, rules, now)
        case TopicResource():
            return _decide_topic(resource, principal, action, now)
    if is_lenient and not decision.allowed:
        return _permitted(decision)
    return decision


def _decide(access: AccessList, principal: Principal, action: Action, rules: Rules, now: float) -> Decision:
    """One document, for somebody who is no stranger and to whom trust opens the action."""
    organization = principal.organization
    is_member = organization == access.organization
    if is_member and principal.kind == "peer":
        if principal.name == access.owner and access.owner:
            return _OWNER
        if not access.flaw and action != "replicate" and "admin" in principal.capabilities:
            return _ADMIN
    if access.flaw:
        return _flawed(access.flaw)
    if access.denials and (name := _named(access.denials, principal, action, now)):
        return _denied(name, action)
    if access.grants:
        if name := _named(access.grants, principal, action, now):
            return _granted(name, action)
        if action in IMPLIED and not _named(access.denials, principal, "admin", now):
            name = _named(access.grants, principal, "admin", now)
            if name:
                return _granted(name, "admin")
    if action in SEEN:
        visibility = access.visibility
        if visibility == "public" or (is_member and visibility != "private"):
            return _VISIBLE[visibility]
        if visibility == "federated" and rules.organization in (organization, access.organization):
            return _VISIBLE[visibility]
    elif action == "replicate":
        if not is_member:
            return _NO_GRANT
        return _STORAGE if STORES in principal.capabilities else _NO_STORAGE
    return _DEFAULT


def _decide_stranger(resource: Resource, principal: Principal, action: Action, rules: Rules, now: float) -> Decision:
    """Without a trusted certificate or a token: what is public, where that was allowed, unless a denial names them."""
    if not rules.public_to_strangers or action != "read" or isinstance(resource, (OrganizationResource, TopicResource)):
        return _NO_CERTIFICATE
    documents = resource.documents if isinstance(resource, ChunkResource) else (resource.access,)
    for access in documents:
        if access.flaw or _named(access.denials, principal, action, now):
            continue
        if access.visibility == "public" or now <= access.grants.get(action, {}).get("anyone", -1.0):
            return _STRANGER_PUBLIC
    return _STRANGER_DEFAULT


def _decide_stale(resource: Resource, principal: Principal, action: Action, now: float) -> Decision:
    """A certified peer of no known organisation asks a node whose log is stale: what is public, unless denied it."""
    if action != "read" or isinstance(resource, (OrganizationResource, TopicResource)):
        return _STALE_DEFAULT
    for access in resource.documents if isinstance(resource, ChunkResource) else (resource.access,):
        if access.visibility == "public" and not access.flaw and not _named(access.denials, principal, action, now):
            return _STALE_PUBLIC
    return _STALE_DEFAULT


def _decide_open(resource: Resource, principal: Principal, action: Action, rules: Rules) -> Decision:
    match resource:
        case ChunkResource():
            is_public = any(access.visibility == "public" for access in resource.documents)
        case DocumentResource():
            is_public = resource.access.visibility == "public"
        case OrganizationResource():
            return _OPEN_ALL if action == "kad" else _OPEN_NONE
        case TopicResource():
            return _OPEN_NONE if resource.topic.startswith(GROUPED_TOPICS) else _OPEN_ALL
    if action == "replicate":
        return _OPEN_REPLICATE
    if action == "read" and is_public and rules.public_to_strangers:
        return _OPEN_PUBLIC
    if action == "read" and principal.kind == "peer" and principal.name in rules.trusted_peers:
        return _OPEN_TRUSTED
    return _OPEN_DEFAULT


def _decide_organization(
    resource: OrganizationResource, principal: Principal, action: Action, rules: Rules, now: float
) -> Decision:
    """What it shares: with its members, and with those whom trust lets ask it of this node, for our own alone."""
    is_member = principal.organization == resource.organization
    if is_member and principal.kind == "peer" and "admin" in principal.capabilities:
        return _ADMIN
    access = resource.access
    if access is not None:
        if access.flaw:
            return _flawed(access.flaw)
        if name := _named(access.denials, principal, action, now):
            return _denied(name, action)
        if name := _named(access.grants, principal, action, now):
            return _granted(name, action)
    if action in ("write", "admin"):
        return _DEFAULT
    if is_member:
        return _MEMBER
    if action != "replicate" and rules.organization in (principal.organization, resource.organization):
        return _MEMBER if principal.organization == rules.organization else _scoped(SCOPE_OF[action])
    return _DEFAULT


def _decide_topic(resource: TopicResource, principal: Principal, action: Action, now: float) -> Decision:
    """Topics are for peers with certificates: an organisation's for its members, that of rights where sync is open."""
    if principal.kind != "peer":
        return _DEFAULT
    access = resource.access
    if access is not None and (access.flaw or _named(access.denials, principal, action, now)):
        return _denied(str(principal), action)
    if resource.topic.startswith("rage.org."):
        return _MEMBER if resource.topic == f"rage.org.{principal.organization}" else _DEFAULT
    if resource.topic.startswith("rage.acl.") and "sync" not in principal.scopes:
        return _NO_SCOPE["sync"]
    return _MEMBER


def _named(until: Until, principal: Principal, action: str, now: float) -> str:
    """The first of the principal's names that a right or a denial in force is about."""
    by_name = until.get(action)
    if by_name:
        for name in principal.names:
            if now <= by_name.get(name, -1.0):
                return name
    return ""


@functools.lru_cache(maxsize=4096)
def _denied(name: str, action: str) -> Decision:
    return Decision(False, f"{name} is denied {action}", _HOLDING[:5] if action == "replicate" else _RULES[:6])


@functools.lru_cache(maxsize=4096)
def _granted(name: str, action: str) -> Decision:
    return Decision(True, f"{name} is granted {action}", _HOLDING[:6] if action == "replicate" else _RULES[:7])


@functools.lru_cache(maxsize=16)
def _flawed(flaw: str) -> Decision:
    return Decision(False, flaw, _RULES[:4])


@functools.lru_cache(maxsize=16)
def _scoped(scope: str) -> Decision:
    return Decision(True, f"trust in its organisation opens {scope}", _RULES[:2])


@functools.lru_cache(maxsize=4096)
def _permitted(decision: Decision) -> Decision:
    rules = (*decision.rules, "security.acl_enforcement")
    return Decision(True, "security.acl_enforcement is permissive", rules, decision.reason)
