"""Facts: what the log's payloads say, as values. Which of them count is `rights`; their bytes are `payloads`.

A fact is never changed or taken back. It names the facts about the same thing that its author had seen in force
(`over`), and so replaces them. Facts whose authors had not seen each other's stand side by side until one replaces
both. All here is a function of a set: order and duplicates do not matter.

Source: contracts/rage.proto, `Payload`; design D6.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from blake3 import blake3

from rage_net.cid import Cid
from rage_net.libp2p.peer_id import PeerId
from rage_net.sync.envelope import ChainId, Head

OVER_MAX = 64
"""Facts that one fact replaces."""


@dataclass(frozen=True, slots=True)
class Access:
    """A right on the resource, given or denied; or, with `visibility` alone, who may see it without one."""

    principal: str = ""
    action: str = ""
    allowed: bool = False
    expires_at: int = 0
    """Seconds since the epoch; 0 never."""
    visibility: str = ""


@dataclass(frozen=True, slots=True)
class Certificate:
    """The author's certificate in DER, and what leads to its CA. The first payload of every chain."""

    certificates: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Revocation:
    """A peer's certificate counts no more: the one with this serial, or all of them. For good."""

    peer: PeerId
    serial: bytes = b""
    reason: str = ""
    is_author: bool = False
    """Of the peer's chains nothing counts but what `accepted` names."""
    accepted: tuple[Head, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """What placement needs of a node."""

    region: str = ""
    zone: str = ""
    weight: int = 1
    state: str = "active"
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """A document's bytes. Whoever wrote the first one is its owner; a later one moves it to another root."""

    root: Cid
    size: int
    chunks: int
    created_at: int
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of the document's record: a pycrdt update."""

    update: bytes


@dataclass(frozen=True, slots=True)
class Tombstone:
    """The document's bytes go, everywhere. Nothing replaces it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The author held the document and has dropped it, as this tombstone asked."""

    tombstone: bytes


@dataclass(frozen=True, slots=True)
class Trust:
    """Another organisation's CA, in DER, and what its peers may; or, `withdrawn`, that no longer."""

    ca: bytes
    scopes: tuple[str, ...] = ()
    until: int = 0
    """Seconds since the epoch; 0 no end."""
    withdrawn: bool = False


@dataclass(frozen=True, slots=True)
class Adoption:
    """Payloads of a departed author, kept by an admin: the same facts as before."""

    author: PeerId
    incarnation: int
    payloads: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Closing:
    """Of these chains nothing counts any more: what was still wanted of them stands elsewhere."""

    author: PeerId
    chains: tuple[Head, ...]


@dataclass(frozen=True, slots=True)
class PurgedProvider:
    """A CDN from which something is gone. `name` is for people; the rest says whether another node has the same one."""

    name: str
    software: str
    hosts: tuple[str, ...] = ()
    """Public hosts, sorted."""
    place: bytes = b""
    """A digest of what else decides where a purge works: zone, service, distribution, endpoints."""


@dataclass(frozen=True, slots=True)
class Purge:
    """What asked for it, by ids of facts or of a purge by hand, and where it was done."""

    events: tuple[bytes, ...]
    providers: tuple[PurgedProvider, ...]


@dataclass(frozen=True, slots=True)
class Purged:
    """The document's bytes are gone from these CDNs: other nodes with credentials need not purge, too."""

    purges: tuple[Purge, ...]
    """The oldest first."""


@dataclass(frozen=True, slots=True)
class Cdn:
    """How the document may go to CDNs while it is not public, and what of it they hold."""

    mode: str = ""
    """Empty: not at all; encrypted."""
    epoch: bytes = b""
    """Empty: nothing is sealed."""
    root: Cid | None = None
    """The document's root that was sealed."""
    sealed: Cid | None = None
    """The index's root page, as CDNs have it."""
    check: bytes = b""
    """By which the epoch's key is known."""
    taken: tuple[bytes, ...] = ()
    """Facts that had taken a right to read away when the epoch began: see contracts/rage.proto."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Something that a later version says, by the number of its field: only the owner passes until we understand it."""

    number: int


Body = (
    Access
    | Certificate
    | Revocation
    | NodeRecord
    | Document
    | Edit
    | Tombstone
    | Acknowledgement
    | Trust
    | Adoption
    | Closing
    | Purged
    | Cdn
    | Unknown
)

NUMBERS: dict[type, int] = {
    Access: 5,
    Certificate: 6,
    Revocation: 7,
    NodeRecord: 8,
    Document: 9,
    Edit: 10,
    Tombstone: 11,
    Acknowledgement: 12,
    Trust: 13,
    Adoption: 14,
    Closing: 15,
    Purged: 16,
    Cdn: 17,
}
"""Field numbers of the bodies in contracts/rage.proto; the log's rows carry them. Above 17 stands what is unknown; an
Access with words of a later version is `Unknown(5)`, for it may deny."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact. `id` is the same in each chain that holds it; `chain` and `sequence` tell one place where it stands."""

    id: bytes
    organization: str
    author: PeerId
    chain: ChainId
    sequence: int
    lamport: int
    nonce: int
    resource: str
    over: tuple[bytes, ...]
    body: Body

    @property
    def order(self) -> tuple[int, bytes]:
        """By Lamport number, then id: an order that all nodes share and that respects what authors had seen."""
        return self.lamport, self.id


@dataclass(frozen=True, slots=True)
class New:
    """Something to append."""

    resource: str
    body: Body


Key = tuple[str, ...]


def key_of(fact: Fact) -> Key:
    """What the fact is about: a later fact with the same key replaces those that it names.

    Edits, certificates, revocations, tombstones, adoptions and closings are about nothing but themselves.
    """
    return key_of_body(fact.resource, fact.body, fact.author) or (fact.resource, fact.id.hex())


def key_of_body(resource: str, body: Body, author: PeerId) -> Key | None:
    """As `key_of`, of what is not said yet; None when nothing can replace it."""
    match body:
        case Access():
            return (resource, "visibility") if body.visibility else (resource, body.principal, body.action)
        case Document():
            return resource, "document"
        case NodeRecord():
            return resource, "node"
        case Trust():
            return resource, "trust", blake3(body.ca).hexdigest()
        case Unknown():
            return resource, "unknown", str(body.number)
        case Acknowledgement():
            return resource, "acknowledgement", body.tombstone.hex(), str(author)
        case Purged():
            return resource, "purged", str(author)
        case Cdn():
            return resource, "cdn"
    return None


def current(facts: Iterable[Fact]) -> tuple[Fact, ...]:
    """Those that no other one of the same key replaces, in order. Give it facts that count, and only those."""
    by_id = {fact.id: fact for fact in facts}
    covered: set[bytes] = set()
    for fact in by_id.values():
        if fact.over:
            key = key_of(fact)
            covered.update(one for one in fact.over if one in by_id and key_of(by_id[one]) == key)
    return tuple(sorted((fact for id, fact in by_id.items() if id not in covered), key=lambda fact: fact.order))
