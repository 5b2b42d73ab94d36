"""Who may do what: one pure function, `authorize`, that every door calls once before any byte leaves.

Until certificates exist a node is open (D7): it speaks to anyone, and serves a chunk when a document that counts for it
is public, or to a peer that `security.trusted_peers` names. Naming a CID grants nothing: which documents count for a
chunk is the store's record, and comes in as an argument.

Source: design D7, 4.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rage_net.cid import Cid

Action = Literal["read", "write", "admin", "query", "replicate"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: a peer (proven by Noise), a user (by a token), anyone (at the HTTP door), an operator (Unix socket)."""

    kind: Literal["peer", "user", "anyone", "operator"]
    name: str = ""
    """A peer id, or `<organisation>/<subject>` of a user."""
    organization: str = ""
    """Proven by a certificate, or by the issuer of a token; empty for a stranger."""
    groups: frozenset[str] = frozenset()
    """Of a user, `<organisation>/<name>`."""
    capabilities: frozenset[str] = frozenset()
    """Of a peer, by its certificate."""
    scopes: frozenset[str] = frozenset()
    """What trust opens to a peer: chunks, query, sync; all of them within our own organisation."""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


ANYONE = Principal("anyone")
OPERATOR = Principal("operator")


@dataclass(frozen=True, slots=True)
class ChunkResource:
    """A chunk and the visibilities of the documents that count for it; none means nobody has vouched for it."""

    cid: Cid
    visibilities: frozenset[str]

    def __str__(self) -> str:
        return f"chunk:{self.cid}"


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration says of access."""

    trusted_peers: frozenset[str] = frozenset()
    public_to_strangers: bool = True
    """False once a CA is set, unless `security.public_access` says so: then only its certificate holders read."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer, why, and the rules that were tried, in order."""

    allowed: bool
    reason: str
    rules: tuple[str, ...]


def authorize(resource: ChunkResource, principal: Principal, action: Action, rules: Rules, now: float) -> Decision:
    """Decide whether `principal` may do `action` on `resource`. First rule that matches wins; the default is no.

    Args: now: seconds since the epoch, for rights that expire (none do yet).
    """
    del now
    tried = ["operator"]
    if principal.kind == "operator":
        return Decision(True, "the operator of this node", tuple(tried))
    tried.append("public")
    if action == "read" and "public" in resource.visibilities and rules.public_to_strangers:
        return Decision(True, "a public document holds it", tuple(tried))
    tried.append("security.trusted_peers")
    if action == "read" and principal.kind == "peer" and principal.name in rules.trusted_peers:
        return Decision(True, "security.trusted_peers names the peer", tuple(tried))
    return Decision(False, f"nothing lets {principal} {action} {resource}", tuple(tried))
