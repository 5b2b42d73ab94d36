"""The rights of one resource, compiled from its facts in force; and which of several concurrent facts wins.

What comes in are the *current* facts: those that count and that no later one has replaced (the log knows). Several of
one key are concurrent: their authors had not seen each other. A strategy then picks one of them, always the greatest in
an order of its own, so that neither the order nor the grouping nor a repetition of facts can change the outcome.
Source: specification, "Conflict Resolution"; design D6.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from rage_net.acl.words import VISIBILITIES

Strategy = Literal["most-restrictive", "last-write-wins", "merge", "manual"]

LEEWAY_S = 60.0
"""A right lasts this much longer than it says, and so does a denial: clocks differ."""
RIGHTS_MAX = 65_536
"""Facts in force on one resource. Beyond it the resource is its owner's alone: nobody can say what they mean."""

UNKNOWN = "a fact of a kind that this version does not know is in force on it"
OVERFULL = f"more than {RIGHTS_MAX} facts are in force on it"


@dataclass(frozen=True, slots=True)
class Entry:
    """One Access fact: a right given or denied; or with `visibility` who may see the resource without one.

    `expires_at` is seconds since the epoch, 0 never. `id`, `lamport` and `author` are those of the fact.
    """

    id: bytes
    principal: str
    action: str
    allowed: bool
    expires_at: float = 0
    visibility: str = ""
    lamport: int = 0
    author: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What it is about: facts with another key never meet."""
        return ("", "visibility") if self.visibility else (self.principal, self.action)

    @property
    def effect(self) -> tuple[bool, float, str]:
        """What it says."""
        return self.allowed, self.expires_at, self.visibility


@dataclass(frozen=True, slots=True)
class Conflict:
    """Concurrent facts of one key that say different things, and the one in force, by its strategy."""

    key: tuple[str, str]
    entries: tuple[Entry, ...]
    """By (lamport, id): all of them, the winner too."""
    winner: Entry
    strategy: Strategy

    @property
    def is_open(self) -> bool:
        """Whether a person is to resolve it."""
        return self.strategy == "manual"


Until = Mapping[str, Mapping[str, float]]
"""Action, then principal: until when, leeway included."""


@dataclass(frozen=True, slots=True)
class AccessList:
    """What the facts in force say of one resource."""

    visibility: str = "org"
    owner: str = ""
    """The peer id of its author, who always may."""
    organization: str = ""
    """The owner's; empty on a node that belongs to none."""
    grants: Until = field(default_factory=dict)
    denials: Until = field(default_factory=dict)
    conflicts: tuple[Conflict, ...] = ()
    flaw: str = ""
    """Why it is nobody's but the owner's, whatever else stands here."""


def resolve(entries: Iterable[Entry], strategy: Strategy) -> Entry:
    """The one in force of concurrent facts of one key.

    The greatest in the strategy's order: so resolving what was resolved changes nothing, and any grouping leads to the
    same one. Raises: ValueError when there are none.
    """
    return max(entries, key=_ORDERS[strategy])


def _restrictiveness(entry: Entry) -> tuple[object, ...]:
    """A denial before a right, the longer denial, the shorter right; the narrower visibility."""
    until = entry.expires_at or math.inf
    return _rank(entry.visibility), not entry.allowed, -until if entry.allowed else until, entry.lamport, entry.id


def _lateness(entry: Entry) -> tuple[object, ...]:
    return entry.lamport, entry.author, entry.id


def _openness(entry: Entry) -> tuple[object, ...]:
    """A right before a denial, the longer right, the shorter denial; the wider visibility."""
    until = entry.expires_at or math.inf
    return -_rank(entry.visibility), entry.allowed, until if entry.allowed else -until, entry.lamport, entry.id


def _rank(visibility: str) -> int:
    """How narrow; a word that is not known is narrower than all."""
    return VISIBILITIES.index(visibility) if visibility in VISIBILITIES else len(VISIBILITIES)


_ORDERS: Mapping[Strategy, Callable[[Entry], tuple[object, ...]]] = {
    "most-restrictive": _restrictiveness,
    "last-write-wins": _lateness,
    "merge": _openness,
    "manual": _restrictiveness,
}


def compile_access(
    entries: Iterable[Entry],
    strategy: Strategy,
    owner: str,
    organization: str,
    *,
    visibility: str = "org",
    has_unknown: bool = False,
) -> AccessList:
    """The rights of one resource, from its current facts in any order.

    Args: visibility: where no fact says one. has_unknown: the log holds a fact in force on it that it cannot read.
    """
    by_key: dict[tuple[str, str], dict[bytes, Entry]] = {}
    for count, entry in enumerate(entries):
        if count >= RIGHTS_MAX:
            return AccessList("private", owner, organization, flaw=OVERFULL)
        by_key.setdefault(entry.key, {})[entry.id] = entry
    grants: dict[str, dict[str, float]] = {}
    denials: dict[str, dict[str, float]] = {}
    conflicts = []
    for key, facts in sorted(by_key.items()):
        winner = resolve(facts.values(), strategy)
        if len({entry.effect for entry in facts.values()}) > 1:
            ordered = tuple(sorted(facts.values(), key=lambda entry: (entry.lamport, entry.id)))
            conflicts.append(Conflict(key, ordered, winner, strategy))
        if winner.visibility:
            visibility = winner.visibility if winner.visibility in VISIBILITIES else "private"
        else:
            until = winner.expires_at + LEEWAY_S if winner.expires_at else math.inf
            (grants if winner.allowed else denials).setdefault(winner.action, {})[winner.principal] = until
    flaw = UNKNOWN if has_unknown else ""
    return AccessList(visibility, owner, organization, grants, denials, tuple(conflicts), flaw)


@functools.lru_cache(maxsize=4096)
def access_of_row(visibility: str, owner: str, organization: str) -> AccessList:
    """The rights of a document on which there are no facts: its row says it all. The same object for the same words."""
    return AccessList(visibility if visibility in VISIBILITIES else "private", owner, organization)
