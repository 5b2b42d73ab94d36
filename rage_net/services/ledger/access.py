"""Rights as the log has them: what counts for a resource, compiled once, and written when an operator changes it.

`access_of` is what every door asks for each document that has facts; it is compiled when first asked and forgotten when
a fact about the resource arrives. All of it is a function of the set of facts, so nodes that hold the same facts decide
alike. Blocking: reads the log. Not here: the decision (acl), whom to believe (authority), how facts travel (syncing).

Source: design D6, D7; issue 4, C and E.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from blake3 import blake3

from rage_net.acl import LEEWAY_S, AccessList, Conflict, Entry, Principal, Strategy, compile_access
from rage_net.errors import AccessDeniedError
from rage_net.libp2p.peer_id import PeerId
from rage_net.services.ledger.authority import Authority
from rage_net.sync import facts as kinds
from rage_net.sync import wire
from rage_net.sync.facts import Fact, New
from rage_net.sync.log import Log

KEPT_MAX = 65_536
"""Compiled lists in memory; one takes about a kilobyte."""


@dataclass(frozen=True, slots=True)
class Rights:
    """All there is to say of one resource. `entries` are in force, concurrent ones included."""

    access: AccessList
    entries: tuple[Entry, ...]
    facts: tuple[Fact, ...]
    """Those that count, of every kind, whether replaced or not."""
    in_force: tuple[Fact, ...]
    """Of these, those that nothing replaced."""
    is_dead: bool
    """A tombstone counts."""
    until: float
    """When somebody's right to rule it ends, and with it what it said: seconds since the epoch."""


class Access:
    """The rights of every resource in every log that this node holds."""

    def __init__(
        self, log: Log, authority: Authority, own: PeerId, strategies: Mapping[str, Strategy], now: Callable[[], float]
    ) -> None:
        self._log = log
        self._authority = authority
        self._own = own
        self._strategies = strategies
        self._now = now
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], Rights] = OrderedDict()
        self._generation = 0
        self._disputed: dict[str, dict[str, None]] = {}

    def access_of(self, organization: str, doc_id: str) -> AccessList | None:
        """The rights of a document; None when the log knows no fact about it."""
        rights = self.rights(organization, f"doc:{doc_id}")
        if not rights.facts:
            return None
        return rights.access

    def rights(self, organization: str, resource: str) -> Rights:
        """What counts for a resource, kept until a fact about it arrives."""
        key = organization, resource
        with self._lock:
            found = self._kept.get(key)
            if found is not None and self._now() < found.until:
                self._kept.move_to_end(key)
                return found
            generation = self._generation
        found = self._compile(organization, resource)
        with self._lock:
            if generation == self._generation:  # else a fact may have arrived since we read
                self._kept[key] = found
                while len(self._kept) > KEPT_MAX:
                    self._kept.popitem(last=False)
        return found

    def forget(self, facts: Iterable[Fact]) -> None:
        """Facts have arrived: what was compiled without them is no longer so."""
        with self._lock:
            self._generation += 1
            anew = set()
            for fact in facts:
                if isinstance(fact.body, (kinds.Certificate, kinds.Revocation, kinds.Closing)):
                    anew.add(fact.organization)  # they change whose facts count there, and nowhere else
                self._kept.pop((fact.organization, fact.resource), None)
                if isinstance(fact.body, kinds.Access) and fact.organization in self._disputed:
                    self._disputed[fact.organization][fact.resource] = None
            for key in [key for key in self._kept if key[0] in anew] if anew else ():
                del self._kept[key]

    def forget_all(self) -> None:
        """The CAs have changed."""
        with self._lock:
            self._generation += 1
            self._kept.clear()

    def _compile(self, organization: str, resource: str) -> Rights:
        now = self._now() - LEEWAY_S  # as for all rights: clocks differ
        counted = self._log.counting(organization, resource, now=now)
        in_force = counted.current
        entries = tuple(entry_of(fact) for fact in in_force if isinstance(fact.body, kinds.Access))
        access = compile_access(
            entries,
            self.strategy(resource),
            str(counted.owner) if counted.owner is not None else "",
            organization,
            has_unknown=any(isinstance(fact.body, kinds.Unknown) for fact in in_force),
        )
        is_dead = any(isinstance(fact.body, kinds.Tombstone) for fact in counted.facts)
        ends = [float(body.expires_at) for body in map(_delegation, counted.facts) if body and body.expires_at > now]
        until = min(ends, default=math.inf) + LEEWAY_S
        return Rights(access, entries, tuple(counted.facts), in_force, is_dead, until)

    def strategy(self, resource: str) -> Strategy:
        """How contradictions about a resource are settled, by its kind."""
        return self._strategies.get(resource.partition(":")[0], "most-restrictive")

    # --- changes ---

    def require_admin(self, organization: str, resource: str, *, giving_admin: bool = False) -> None:
        """Pass when facts that this node writes about a resource would count. Raises AccessDeniedError.

        Args: giving_admin: it would make others admins of it, which is for the owner and the organisation's admins.
        """
        capabilities = self._authority.capabilities(organization, self._own) or frozenset()
        access = self.rights(organization, resource).access
        me = f"peer:{self._own}", f"org:{self._authority.organization}"
        granted, denied, now = access.grants.get("admin", {}), access.denials.get("admin", {}), self._now()
        if "admin" in capabilities or (access.owner == str(self._own) and "storage" in capabilities):
            return
        is_delegate = any(granted.get(name, 0.0) > now for name in me) and "storage" in capabilities
        if is_delegate and not giving_admin and not any(denied.get(name, 0.0) > now for name in me):
            return
        if is_delegate and giving_admin:
            raise AccessDeniedError(
                f"this node may give every right on {resource} but admin",
                why="who was made an admin of a document makes no others",
                mend=[f"on the owner's node: rage acl grant {resource} PRINCIPAL admin"],
                id="not-admin",
            )
        raise AccessDeniedError(
            f"this node may not change rights on {resource}",
            why="it is not the owner, its certificate lacks the capability admin, and no right admin is granted to it",
            mend=[f"on the owner's node: rage acl grant {resource} {me[0]} admin", "rage cert show"],
            id="not-admin",
        )

    def append(self, organization: str, resource: str, entries: Sequence[Entry]) -> list[Fact]:
        """Write rights as facts that have seen all that is in force. Raises AccessDeniedError when none would count."""
        self.require_admin(organization, resource, giving_admin=any(entry.action == "admin" for entry in entries))
        facts = self._log.append(organization, [New(resource, body_of(entry)) for entry in entries])
        self.forget(facts)
        return facts

    # --- contradictions ---

    def conflicts(self, organization: str) -> list[tuple[str, Conflict]]:
        """Concurrent facts that say different things, by resource; those that wait for a person first."""
        found = [
            (resource, conflict)
            for resource in self._contested(organization)
            for conflict in self.rights(organization, resource).access.conflicts
        ]
        return sorted(found, key=lambda each: (not each[1].is_open, each[0], each[1].key))

    def waiting(self, organization: str) -> int:
        """How many contradictions wait for a person. Costs nothing unless a strategy is `manual`."""
        kinds_by_hand = {kind for kind, strategy in self._strategies.items() if strategy == "manual"}
        if not kinds_by_hand:
            return 0
        return sum(
            conflict.is_open
            for resource in self._contested(organization)
            if resource.partition(":")[0] in kinds_by_hand
            for conflict in self.rights(organization, resource).access.conflicts
        )

    def flawed(self) -> list[tuple[str, str, str]]:
        """Organisation, resource and flaw of those that are their owners' alone, as far as rights were asked for."""
        with self._lock:
            return [(*key, rights.access.flaw) for key, rights in self._kept.items() if rights.access.flaw]

    def _contested(self, organization: str) -> list[str]:
        """Resources on which there may be contradictions: those with rights by several authors. Looked up once."""
        with self._lock:
            if organization in self._disputed:
                return sorted(self._disputed[organization])
            generation = self._generation
        known = dict.fromkeys(self._log.disputed(organization))
        with self._lock:
            if generation == self._generation:  # else a fact may have arrived since we read
                self._disputed[organization] = known
        return sorted(known)

    def reported(self, organization: str, among: Collection[str]) -> list[wire.Conflict]:
        """Contradictions on these resources as nodes report them to each other: by what each resolves to."""
        found = []
        for resource in self._contested(organization):
            access = self.rights(organization, resource).access if resource in among else None
            if access is not None and access.conflicts:
                found.append(wire.Conflict(resource, access.conflicts[-1].strategy, digest(access)))
        return found

    # --- who may have what of a log ---

    def may_see(self, principal: Principal, organization: str, tags: Sequence[str]) -> Callable[[Fact], bool] | None:
        """Which facts of a log are for a peer; None for all.

        Members of our own organisation see all, or what carries their tags. Others see certificates, revocations and
        node records, and of documents those that they may read: they enforce the same rights, so they see all of them.
        Of what they could read before they see that they can no more, and that it was removed. What we purged from CDNs
        they do not see.
        """
        is_own = principal.organization == self._authority.organization
        if is_own and not tags:
            return None
        chosen = frozenset(tags)

        def may(fact: Fact) -> bool:
            kind, _, name = fact.resource.partition(":")
            if kind in ("cert", "peer"):
                return True
            if kind != "doc":
                return is_own
            if chosen and not self._is_chosen(organization, name, chosen):
                return False
            if isinstance(fact.body, kinds.Purged):
                return is_own  # which CDNs we have is nobody else's business, nor do theirs wait for ours
            return is_own or self._is_shared(principal, organization, name) or self._takes_away(principal, fact)

        return may

    def has_others(self) -> bool:
        """Whether another organisation's peers get facts of ours."""
        return any("sync" in anchor.scopes for anchor in self._authority.foreign_anchors())

    def is_for_others(self, fact: Fact) -> bool:
        """Whether a fact may open a document to another organisation: a wide visibility, a right of its names."""
        body = fact.body
        if not isinstance(body, kinds.Access):
            return False
        own = self._authority.organization
        is_named = body.allowed and body.principal.partition(":")[2].partition("/")[0] != own
        return body.visibility in ("public", "federated") or (not body.visibility and is_named)

    def _takes_away(self, principal: Principal, fact: Fact) -> bool:
        """Whether a fact ends what the principal could read: till its nodes know, they serve it to each other."""
        body = fact.body
        if isinstance(body, kinds.Access):
            if not body.visibility and (body.allowed or not _is_named(body.principal, principal)):
                return False
        elif not isinstance(body, kinds.Tombstone):
            return False
        counted = self.rights(fact.organization, fact.resource).facts
        return any(
            isinstance(one.body, kinds.Access)
            and (
                one.body.visibility in ("public", "federated")
                or (one.body.allowed and not one.body.visibility and _is_named(one.body.principal, principal))
            )
            for one in counted
        )

    def _is_chosen(self, organization: str, doc_id: str, tags: frozenset[str]) -> bool:
        rows = self._log.documents(organization, doc_id=doc_id)
        return any(not tags.isdisjoint(row.tags) for row in rows)

    def _is_shared(self, principal: Principal, organization: str, doc_id: str) -> bool:
        access = self.access_of(organization, doc_id)
        return access is not None and is_shared_with(access, principal, self._now())


def is_shared_with(access: AccessList, principal: Principal, now: float) -> bool:
    """Whether a document is anything to a peer of another organisation.

    It is, when anyone there may see it, or when the peer, its organisation or anybody of it has a right on it.
    """
    if access.flaw:
        return False
    if access.visibility in ("public", "federated"):
        return True
    return any(
        until > now and _is_named(name, principal)
        for granted in access.grants.values()
        for name, until in granted.items()
    )


def _is_named(name: str, principal: Principal) -> bool:
    """Whether a fact names a peer, its organisation, or anybody of it."""
    members = f"user:{principal.organization}/", f"group:{principal.organization}/"
    return name in principal.names or name.startswith(members)


def _delegation(fact: Fact) -> kinds.Access | None:
    return fact.body if isinstance(fact.body, kinds.Access) and fact.body.action == "admin" else None


def entry_of(fact: Fact) -> Entry:
    """An Access fact as the rules of acl have it."""
    body = fact.body
    assert isinstance(body, kinds.Access)
    return Entry(
        fact.id,
        body.principal,
        body.action,
        body.allowed,
        float(body.expires_at),
        body.visibility,
        fact.lamport,
        str(fact.author),
    )


def body_of(entry: Entry) -> kinds.Access:
    """The other way round."""
    return kinds.Access(entry.principal, entry.action, entry.allowed, int(entry.expires_at), entry.visibility)


def digest(access: AccessList) -> bytes:
    """What a resource's rights come to, in 32 bytes: equal on nodes that resolved alike."""
    hasher = blake3(access.visibility.encode())
    for word, table in (("+", access.grants), ("-", access.denials)):
        for action in sorted(table):
            for name in sorted(table[action]):
                hasher.update(f"\0{word}\0{action}\0{name}\0{table[action][name]}".encode())
    return hasher.digest()
