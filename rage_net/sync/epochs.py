"""When what CDNs hold of a sealed document must be sealed anew, under a new key. Pure functions of facts.

An epoch's key is given to whoever may read. Once somebody may no longer, the key that it may have, and ciphertext that
a cache may still hold, must open nothing new: a new epoch is due. What *takes away* a right to read is found in the
log, and an epoch remembers what had been taken when it began (`Cdn.taken`): what is not among these came later. A
right that was given makes no epoch due, nor does a fact that compaction shed; but a private document that is opened to
more counts whoever was revoked before, once.

Not seen here, for the log does not say them: a certificate that runs out, a group that a token names no more.

Source: issue 6, C; contracts/rage.proto, `CdnFact`; ADR 24.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal

from blake3 import blake3

from rage_net.cid import Cid
from rage_net.libp2p.peer_id import PeerId
from rage_net.sync.facts import Access, Cdn, Fact, Revocation, Trust, Unknown
from rage_net.sync.payloads import TAKEN_BYTES, TAKEN_MAX
from rage_net.sync.rights import Counting

Reason = Literal["", "never-sealed", "root-moved", "narrowed"]

LEEWAY_S = 60.0
"""A right counts for so long after it has ended (acl)."""
_READING = frozenset({"read", "admin"})
_REVOKED = b"rage:revoked:1\0"


def taken(
    counted: Counting,
    elsewhere: Iterable[Fact],
    revoked: Collection[PeerId],
    admins: Collection[PeerId],
    now: float,
) -> tuple[bytes, ...]:
    """What has taken a right to read this document away from anybody so far, as `Cdn.taken` has it.

    Args: counted: what counts of the facts about the document. elsewhere: of its organisation, revocations and trust
        that count. revoked: peers of whom nothing counts any more. admins: whoever ever was an admin: they read all.
    """
    facts = {fact.id: fact for fact in counted.facts}
    found = {fact.id for fact in facts.values() if _takes(fact, facts, now)}
    readers = _readers(counted, admins)
    for fact in elsewhere:
        body = fact.body
        is_reader = isinstance(body, Revocation) and (readers is None or body.peer in readers)
        if is_reader or (isinstance(body, Trust) and (body.withdrawn or fact.over)):
            found.add(fact.id)
    for peer in revoked:
        if readers is None or peer in readers:
            found.add(blake3(_REVOKED + peer.multihash).digest(TAKEN_BYTES))
    short = sorted({id[:TAKEN_BYTES] for id in found})
    if len(short) > TAKEN_MAX:
        return (blake3(b"".join(short)).digest(TAKEN_BYTES),)
    return tuple(short)


def epoch_due(standing: Cdn | None, root: Cid, taken_now: Iterable[bytes]) -> Reason:
    """Why a document must be sealed anew, or "" where what CDNs hold is right. Args: root: the document's, now."""
    if standing is None or not standing.epoch:
        return "never-sealed"
    if not set(standing.taken).issuperset(taken_now):
        return "narrowed"
    return "root-moved" if standing.root != root else ""


def mode_of(in_force: Iterable[Fact]) -> str:
    """How a document may go to CDNs while it is not public: what all that stands side by side says; else "" (not)."""
    modes = {fact.body.mode for fact in in_force if isinstance(fact.body, Cdn)}
    return modes.pop() if len(modes) == 1 else ""


def sealed_of(in_force: Iterable[Fact]) -> tuple[Cdn, ...]:
    """What CDNs may hold of a document, the newest first: more than one only while authors have not seen each other."""
    standing = sorted((fact for fact in in_force if isinstance(fact.body, Cdn)), key=lambda fact: fact.order)
    return tuple(fact.body for fact in reversed(standing) if isinstance(fact.body, Cdn) and fact.body.epoch)


def _takes(fact: Fact, facts: dict[bytes, Fact], now: float) -> bool:
    body = fact.body
    if isinstance(body, Unknown):  # till it is understood, the document is its owner's alone
        return True
    if not isinstance(body, Access):
        return False
    if body.visibility:
        return body.visibility != "public"
    if body.action not in _READING:
        return False
    if not body.allowed or 0 < body.expires_at <= now - LEEWAY_S:
        return True
    before = [facts[id].body for id in fact.over if id in facts]
    return any(isinstance(one, Access) and one.allowed and _ends(one) > _ends(body) for one in before)


def _ends(body: Access) -> float:
    return float(body.expires_at) if body.expires_at else float("inf")


def _readers(counted: Counting, admins: Collection[PeerId]) -> frozenset[PeerId] | None:
    """Peers that may ever have read the document; None for all: some visibility or right was for everyone there."""
    bodies = [fact.body for fact in counted.facts if isinstance(fact.body, Access)]
    if not any(body.visibility for body in bodies) or any(body.visibility not in ("", "private") for body in bodies):
        return None
    given = {body.principal for body in bodies if body.allowed and body.action in _READING}
    if any(not principal.startswith("peer:") for principal in given):
        return None
    named = {PeerId.parse(principal.removeprefix("peer:")) for principal in given}
    return frozenset(named) | frozenset(admins) | ({counted.owner} if counted.owner is not None else frozenset())
