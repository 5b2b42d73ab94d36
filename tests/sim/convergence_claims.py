"""What must hold in every run of `convergence`, checked against the raw rows by rules written a second time, simply.

The rules here use nothing of `sync.rights`, `sync.limits` or `acl`. They answer twice: what is *surely* so, and what is
*maybe* so; between the two (revocations that revoke each other, an owner who is not settled) nothing is claimed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from rage_net.acl import DocumentResource, Principal, authorize
from rage_net.libp2p.peer_id import PeerId
from rage_net.sync.envelope import ChainId
from rage_net.sync.facts import (
    Access,
    Adoption,
    Certificate,
    Closing,
    Document,
    Edit,
    Fact,
    Revocation,
    Tombstone,
    Trust,
    Unknown,
)
from rage_net.sync.payloads import make_fact
from rage_net.sync.vocabulary import FactError, is_named_owner
from tests.sim.convergence_cast import SCOPES, Node, cast

LEEWAY_S = 60
NARROWER = {"public": 0, "federated": 1, "org": 2, "private": 3}
_ROWS = (
    "SELECT chain.author, chain.incarnation, entry.sequence, entry.author, entry.payload FROM entry"
    " JOIN chain ON chain.id = entry.chain JOIN organization ON organization.id = entry.organization"
    " WHERE organization.name = ? AND entry.payload NOT NULL"
)


class Broken(AssertionError):
    """A claim does not hold."""


@functools.lru_cache(maxsize=20_000)
def _read(
    organization: str, author: bytes, incarnation: bytes, sequence: int, by: bytes | None, raw: bytes
) -> Fact | None:
    try:
        chain = ChainId(PeerId(author), int.from_bytes(incarnation, "big"))
        return make_fact(organization, chain, sequence, raw, None if by is None else PeerId(by))
    except FactError:
        return None


def raw_facts(node: Node, organization: str) -> list[Fact]:
    """Every fact in the rows, heard or not, once for each place where it stands."""
    with node.file.read() as db:
        rows = db.execute(_ROWS, (organization,)).fetchall()
    return [fact for row in rows if (fact := _read(organization, *row)) is not None]


@dataclass(frozen=True)
class Known:
    """Of the raw facts those that are surely heard, and those that may be; and what authors may do, likewise."""

    surely: dict[bytes, Fact]
    maybe: dict[bytes, Fact]
    surely_has: dict[PeerId, frozenset[str]]
    maybe_has: dict[PeerId, frozenset[str]]
    revocations: tuple[Fact, ...]
    """Surely in force, of authors and of certificates."""


def know(facts: Iterable[Fact], organization: str) -> Known:
    facts = list(facts)

    def capabilities(heard: Iterable[Fact]) -> dict[PeerId, frozenset[str]]:
        found: dict[PeerId, frozenset[str]] = {}
        for fact in heard:
            if isinstance(fact.body, Certificate):
                given = cast().given.get(fact.body.certificates[0])
                if given is not None and given[:2] == (organization, fact.author):
                    found[fact.author] = found.get(fact.author, frozenset()) | given[2]
        return found

    maybe_has = capabilities(facts)
    revocations = [
        fact
        for fact in facts
        if isinstance(fact.body, Revocation)
        and "admin" in maybe_has.get(fact.author, ())
        and not (fact.body.is_author and fact.body.peer == fact.author)  # of oneself it says nothing
    ]
    of_authors = [fact for fact in revocations if isinstance(fact.body, Revocation) and fact.body.is_author]
    closed = {head.chain for fact in facts if isinstance(fact.body, Closing) for head in fact.body.chains}
    surely = {
        fact.id: fact
        for fact in facts
        if fact.chain not in closed and fact.author in maybe_has and not any(cuts(each, fact) for each in of_authors)
    }
    surely_has = capabilities(surely.values())
    in_force = [fact for fact in revocations if fact.id in surely and "admin" in surely_has.get(fact.author, ())]
    maybe = {
        fact.id: fact
        for fact in facts
        if fact.author in maybe_has
        and (fact.chain.author == fact.author or "admin" in maybe_has.get(fact.chain.author, ()))
        and not any(cuts(each, fact) for each in in_force)
    }
    return Known(surely, maybe, surely_has, maybe_has, (*in_force, *_duels(of_authors, closed)))


def _duels(revocations: list[Fact], closed: set[ChainId]) -> list[Fact]:
    """Revocations of two authors who cut each other off, and whom nobody else does: both are in force."""
    cutters = {
        at: [one for one, other in enumerate(revocations) if one != at and cuts(other, fact)]
        for at, fact in enumerate(revocations)
    }
    return [
        fact
        for at, fact in enumerate(revocations)
        if cutters[at]
        and not {one.chain for one in revocations} & closed
        and all(cutters[one] == [at] for one in cutters[at])
        and len({one.id for one in revocations}) == len(revocations)
    ]


def cuts(revocation: Fact, fact: Fact) -> bool:
    """Whether a revocation of an author cuts a fact off, where it stands."""
    body = revocation.body
    assert isinstance(body, Revocation)
    accepted = {head.chain: head.sequence for head in body.accepted}
    return body.is_author and body.peer == fact.chain.author and fact.sequence > accepted.get(fact.chain, 0)


class Oracle:
    """The rights of one document, simply."""

    def __init__(self, known: Known, doc_id: str, organization: str, strategy: str) -> None:
        self.known = known
        self.is_restrictive = strategy in ("most-restrictive", "manual")
        about = f"doc:{doc_id}"
        sure = [fact for fact in known.surely.values() if fact.resource == about]
        possible = [fact for fact in known.maybe.values() if fact.resource == about]
        self.possible = possible
        writers = {author for author, has in known.surely_has.items() if has & {"admin", "storage"}}
        may_write = {author for author, has in known.maybe_has.items() if has & {"admin", "storage"}}
        owners = {fact.author for fact in possible if isinstance(fact.body, Document)} & may_write
        named = {author for author in owners if is_named_owner(doc_id, author)}
        settled = {fact.author for fact in sure if isinstance(fact.body, Document)}
        self.owners = named if named & settled else owners
        sure_owners = {
            fact.author for fact in sure if isinstance(fact.body, Document) and is_named_owner(doc_id, fact.author)
        } & writers
        self.strong = {author for author, has in known.surely_has.items() if "admin" in has} | sure_owners
        self.maybe_strong = {author for author, has in known.maybe_has.items() if "admin" in has} | self.owners
        ever = _delegates(sure, self.strong, organization, writers)
        self.maybe_ever = _delegates(possible, self.maybe_strong, organization, set(known.maybe_has))
        self.counted = [
            fact
            for fact in sure
            if fact.author in self.strong
            or (fact.author in ever and _denies(fact) and fact.body.action != "admin")
            or (fact.author in ever and isinstance(fact.body, Tombstone))
        ]
        self.counting = [
            fact
            for fact in possible
            if fact.author in self.maybe_strong
            or (fact.author in self.maybe_ever and not (isinstance(fact.body, Access) and fact.body.action == "admin"))
        ]
        self.stands = _uncovered(self.counted, self.counting)
        self.may_stand = _uncovered(self.counting, self.counted)

    def names(self, facts: Iterable[Fact], principal: Principal, actions: tuple[str, ...]) -> list[Fact]:
        return [
            fact
            for fact in facts
            if isinstance(fact.body, Access)
            and not fact.body.visibility
            and fact.body.principal in principal.names
            and fact.body.action in actions
        ]

    def must_deny(self, principal: Principal, action: str, now: float) -> str:
        """Why the principal surely must not pass; nothing when it is not sure."""
        is_owner = principal.name in map(str, self.owners)
        if not is_owner and any(isinstance(fact.body, Unknown) for fact in self.stands):
            return "something that this version does not know stands on it"
        if is_owner or "admin" in principal.capabilities or not self.is_restrictive:
            return ""
        for fact in self.names(self.stands, principal, (action,)):
            if _denies(fact) and _lasts(fact, now, LEEWAY_S):
                return f"{fact.author} denied it ({fact.id.hex()}), and nothing that counts has replaced that"
        is_private = any(_visibility(fact) == "private" for fact in self.stands)
        allowing = self.names(self.may_stand, principal, (action, "admin"))
        if is_private and not any(_allows(fact) and _lasts(fact, now, LEEWAY_S) for fact in allowing):
            return "it is private, and nothing allows it"
        return ""

    def must_allow(self, principal: Principal, action: str, now: float) -> str:
        """Why the principal surely passes."""
        if any(isinstance(fact.body, Unknown) for fact in self.counting):
            return ""
        if any(_denies(fact) for fact in self.names(self.may_stand, principal, (action,))):
            return ""
        for fact in self.names(self.stands, principal, (action,)):
            same = [one for one in self.may_stand if key_of(one) == key_of(fact)]
            if all(_allows(one) and _lasts(one, now, 0) for one in same):
                return f"{fact.author} allowed it ({fact.id.hex()}), having seen every denial that counts"
        return ""

    def must_hide(self, principal: Principal, now: float) -> str:
        """Why another organisation's peer surely must not be given what the log says of the document."""
        opened = [fact for fact in self.may_stand if _visibility(fact) in ("public", "federated")]
        is_narrowed = self.is_restrictive and any(_visibility(fact) in ("org", "private") for fact in self.stands)
        members = f"user:{principal.organization}/", f"group:{principal.organization}/"
        granted = [
            fact
            for fact in self.may_stand
            if _allows(fact)
            and _lasts(fact, now, LEEWAY_S)
            and (fact.body.principal in principal.names or fact.body.principal.startswith(members))
        ]
        return "" if granted or (opened and not is_narrowed) else "nothing that counts shares it with that organisation"

    def takes_away(self, fact: Fact, principal: Principal) -> bool:
        """Whether a fact ends what another organisation's peer could read before: that, it must be told."""
        names = (*principal.names, f"user:{principal.organization}/", f"group:{principal.organization}/")
        ends = isinstance(fact.body, Tombstone) or _visibility(fact) or (_denies(fact) and _names(fact, names))
        return bool(ends) and any(
            _visibility(one) in ("public", "federated") or (_allows(one) and _names(one, names))
            for one in self.counting
        )


def key_of(fact: Fact) -> tuple[str, ...]:
    body = fact.body
    if isinstance(body, Access):
        return ("visibility",) if body.visibility else (body.principal, body.action)
    return (type(body).__name__,)


def _uncovered(facts: Iterable[Fact], by: Iterable[Fact]) -> list[Fact]:
    covered = {(id, key_of(fact)) for fact in by for id in fact.over}
    return [fact for fact in facts if (fact.id, key_of(fact)) not in covered]


def _delegates(facts: Iterable[Fact], strong: set[PeerId], organization: str, among: set[PeerId]) -> set[PeerId]:
    given = {
        fact.body.principal for fact in facts if fact.author in strong and _allows(fact) and fact.body.action == "admin"
    }
    return {author for author in among if f"org:{organization}" in given or f"peer:{author}" in given}


def _allows(fact: Fact) -> bool:
    return isinstance(fact.body, Access) and not fact.body.visibility and fact.body.allowed


def _denies(fact: Fact) -> bool:
    return isinstance(fact.body, Access) and not fact.body.visibility and not fact.body.allowed


def _names(fact: Fact, names: tuple[str, ...]) -> bool:
    principal = fact.body.principal if isinstance(fact.body, Access) else ""
    return principal in names or principal.startswith(tuple(name for name in names if name.endswith("/")))


def _visibility(fact: Fact) -> str:
    return fact.body.visibility if isinstance(fact.body, Access) else ""


def _lasts(fact: Fact, now: float, leeway_s: float) -> bool:
    return isinstance(fact.body, Access) and (not fact.body.expires_at or now <= fact.body.expires_at + leeway_s)


# --- at every step ----------------------------------------------------------------------------------------------------


def check_node(
    node: Node, organization: str, doc_ids: Iterable[str], principals: Iterable[Principal], forged: Collection[bytes]
) -> None:
    """Claims 2, 3 and 5 on one node. Raises Broken.

    Args: forged: facts that hostile authors signed in the name of others.
    """
    raw = raw_facts(node, organization)
    known = know(raw, organization)
    now = node.env.now()
    _check_learnt(node, organization, raw)
    for fact in raw:
        if fact.id in forged:
            raise Broken(f"3: {node.author.name} believes that {fact.author} wrote what another signed: {fact.body}")
    for fact in known.revocations:
        body = fact.body
        assert isinstance(body, Revocation)
        if not node.authority.is_revoked(organization, body.serial.hex(), body.peer):
            raise Broken(f"2: {node.author.name} lets the certificate of {body.peer} pass, which {fact.author} revoked")
    for doc_id in doc_ids:
        rights = node.access.rights(organization, f"doc:{doc_id}")
        oracle = Oracle(known, doc_id, organization, node.strategy)
        for fact in rights.facts:
            if fact.id not in known.maybe or fact.author not in known.maybe_has:
                raise Broken(f"3: {node.author.name} counts a fact of {fact.author}, who may not write: {fact.body}")
            if isinstance(fact.body, Access) and fact.author not in oracle.maybe_strong | oracle.maybe_ever:
                raise Broken(f"3: {node.author.name} counts rights by {fact.author}, who is nobody: {fact.body}")
        for principal in principals:
            resource = DocumentResource(doc_id, rights.access)
            decision = authorize(resource, principal, "read", node.rules, now)
            if decision.allowed and (why := oracle.must_deny(principal, "read", now)):
                raise Broken(f"2: {node.author.name} lets {principal} read {doc_id} ({decision.reason}): {why}")
            if not decision.allowed and (why := oracle.must_allow(principal, "read", now)):
                raise Broken(f"2: {node.author.name} keeps {principal} from {doc_id} ({decision.reason}): {why}")
        is_dead = any(isinstance(fact.body, Tombstone) for fact in oracle.counted)
        row = next(iter(node.log.documents(organization, doc_id=doc_id)), None)
        if is_dead and not (rights.is_dead and (row is None or row.is_dead)):
            raise Broken(f"5: on {node.author.name} {doc_id} lives again")


def _check_learnt(node: Node, organization: str, raw: Iterable[Fact]) -> None:
    """Nothing that was learnt is forgotten, but what its author forked away or compaction closed."""
    places: dict[bytes, frozenset[tuple[object, ...]]] = {}
    closed = node.closed.setdefault(organization, set())
    for fact in raw:
        places[fact.id] = places.get(fact.id, frozenset()) | {(fact.chain, fact.sequence)}
        if isinstance(fact.body, Closing):
            closed.update(head.chain for head in fact.body.chains)
    before = node.learnt.get(organization, {})
    node.learnt[organization] = places
    lost = before.keys() - places.keys()
    if lost:
        forked = {(each.chain, each.sequence) for each in node.log.evidence()}
        for id in lost:
            for chain, sequence in before[id]:
                if chain not in closed and not any(chain == one and sequence >= at for one, at in forked):  # type: ignore[operator]
                    raise Broken(f"2: {node.author.name} forgot the fact {id.hex()} of {chain}")


def check_given(
    node: Node, principal: Principal, organization: str, payloads: Iterable[tuple[ChainId, int, bytes]]
) -> None:
    """Claim 4: what a peer of another organisation was given. Raises Broken."""
    known: Known | None = None
    for chain, sequence, payload in payloads:
        try:
            fact = make_fact(organization, chain, sequence, payload)
        except FactError:
            raise Broken(f"4: {node.author.name} gave {principal} what says nothing") from None
        is_about_peers = isinstance(fact.body, Certificate | Revocation | Closing) or fact.resource.startswith(
            ("peer:", "cert:")
        )
        if is_about_peers and not isinstance(fact.body, Adoption):
            continue
        known = known or know(raw_facts(node, organization), organization)
        if isinstance(fact.body, Adoption):
            check_given(node, principal, organization, [(chain, sequence, one) for one in fact.body.payloads])
            continue
        kind, _, doc_id = fact.resource.partition(":")
        if kind != "doc":
            raise Broken(f"4: {node.author.name} gave {principal} a fact about {fact.resource}")
        oracle = Oracle(known, doc_id, organization, node.strategy)
        why = oracle.must_hide(principal, node.env.now())
        if why and not oracle.takes_away(fact, principal):
            raise Broken(f"4: {node.author.name} gave {principal} a fact about {doc_id}: {why}")


# --- at the end -------------------------------------------------------------------------------------------------------


def check_agreement(nodes: list[Node], organization: str) -> None:
    """Claim 1: all these nodes, which exchanged all they would, have one state. Raises Broken."""
    revoked = {
        fact.body.peer
        for node in nodes
        for fact in raw_facts(node, organization)
        if isinstance(fact.body, Revocation) and fact.body.is_author
    }
    closed = {
        head.chain
        for node in nodes
        for fact in raw_facts(node, organization)
        if isinstance(fact.body, Closing)
        for head in fact.body.chains
    }
    resources = sorted({each for node in nodes for each in node.log.resources(organization)})
    apart = frozenset(revoked | closed)
    first, *others = nodes
    for what, read in _STATE.items():
        if what == "digest" and (revoked or closed):
            continue  # of such a chain some hold more than counts, and may tell it to nobody
        mine = read(first, organization, resources, apart)
        for other in others:
            theirs = read(other, organization, resources, apart)
            if mine != theirs:
                raise Broken(
                    f"1: {first.author.name} and {other.author.name} differ in {what}: {_difference(mine, theirs)}"
                )
    for node in nodes:
        kept = _rights(node, organization, resources, apart)
        node.access.forget_all()
        if kept != _rights(node, organization, resources, apart):
            raise Broken(f"1: {node.author.name} kept rights that are no longer so")


def _difference(mine: object, theirs: object) -> str:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        keys = [key for key in sorted({*mine, *theirs}, key=str) if mine.get(key) != theirs.get(key)]
        return "; ".join(f"{key}: {mine.get(key)} / {theirs.get(key)}" for key in keys[:2])
    return f"{mine} / {theirs}"


def _heads(node: Node, organization: str, _: list[str], apart: frozenset[object]) -> object:
    return {
        str(head.chain): (head.sequence, head.hash.hex()[:8])
        for head in node.log.heads(organization)
        if head.chain.author not in apart and head.chain not in apart
    }


def _rights(node: Node, organization: str, resources: list[str], _: frozenset[object]) -> object:
    found = {}
    for resource in resources:
        rights = node.access.rights(organization, resource)
        found[resource] = (
            rights.access,
            rights.is_dead,
            {fact.id for fact in rights.in_force if not isinstance(fact.body, Trust)},
        )
    return found


def _counting(node: Node, organization: str, resources: list[str], _: frozenset[object]) -> object:
    return {
        resource: {
            fact.id.hex(): type(fact.body).__name__
            for fact in node.access.rights(organization, resource).facts
            if _is_for_all(node, fact)
        }
        for resource in resources
    }


def _is_for_all(node: Node, fact: Fact) -> bool:
    """Trust that a node without the capability admin gives is its own affair."""
    return not isinstance(fact.body, Trust) or node.authority.is_admin(fact.organization, fact.author)


def _revocations(node: Node, organization: str, _: list[str], apart: frozenset[object]) -> object:
    return {
        author.name: (
            [node.authority.is_revoked(organization, serial.hex(), author.id) for serial in author.serials],
            None if author.id in apart else node.log.capabilities(organization, author.id),
        )
        for author in cast().authors[organization]
    }


def _contradictions(node: Node, organization: str, _: list[str], __: frozenset[object]) -> object:
    """Of several authors: whoever contradicts itself within one chain is not looked for everywhere."""
    return [
        (resource, conflict)
        for resource, conflict in node.access.conflicts(organization)
        if len({entry.author for entry in conflict.entries}) > 1
    ]


_STATE: dict[str, Callable[[Node, str, list[str], frozenset[object]], object]] = {
    "heads": _heads,
    "digest": lambda node, organization, _, __: node.log.digest(organization),
    "revocations and capabilities": _revocations,
    "counting facts": _counting,
    "rights": _rights,
    "the catalog": lambda node, organization, _, __: {row.doc_id: row for row in node.log.documents(organization)},
    "contradictions": _contradictions,
}

__all__ = ["SCOPES", "Broken", "Edit", "check_agreement", "check_given", "check_node"]
