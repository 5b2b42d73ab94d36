"""How far each chain is heard: what revocations of authors and closings of chains say, taken together.

Pure functions of the set of those facts. An admin's revocation of an author names, for each of its chains, the last
sequence that counts: nothing later does, whatever it claims to have seen. A closing says that what was still wanted of
chains stands elsewhere.

A revocation counts unless one that counts cuts it off. Where two cut each other off, both count: a stolen key must not
get its way by revoking back. That ends when its certificate holds no longer (`Authority` says None, after a change of
CA). Source: step 3, "Revoked author"; design D6.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rage_net.libp2p.peer_id import PeerId
from rage_net.sync.envelope import ChainId, Head
from rage_net.sync.facts import Closing, Fact, Revocation
from rage_net.sync.rights import Authority

CLOSINGS_MAX = 64
"""Of one writer about one author; an author compacts once in weeks, and says all of it anew each time."""

Place = tuple[ChainId, int]
"""Where a fact stands: after a compaction, in several chains."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How far each chain is heard. A chain is heard to its end unless something here says less."""

    revoked: Mapping[PeerId, Mapping[ChainId, int]]
    """Of a revoked author: the last sequence of each chain; chains that are not named not at all."""
    closed: Mapping[ChainId, Head]
    """With the head that the closing names."""

    def accepted(self, chain: ChainId) -> int | None:
        """The last sequence that revocations accept; None when nothing limits it."""
        named = self.revoked.get(chain.author)
        return None if named is None else named.get(chain, 0)

    def of(self, chain: ChainId) -> int | None:
        """The last sequence that counts; None when nothing limits it."""
        return 0 if chain in self.closed else self.accepted(chain)


@dataclass(frozen=True, slots=True)
class _Said:
    """A fact, and all places where it stands."""

    fact: Fact
    places: frozenset[Place]


def limits(facts: Iterable[Fact], authority: Authority, admins: Container[PeerId] = ()) -> Limits:
    """How far the chains of one organisation are heard.

    Args: facts: its revocations and closings, all that are known, once for each place where they stand, in any order.
        admins: whoever ever showed a certificate with that capability. Their chains are closed by themselves alone, for
        a revocation may stand there that whoever closes them has not seen, or would rather not have seen by others.
    """
    places: dict[bytes, set[Place]] = {}
    by_id: dict[bytes, Fact] = {}
    for fact in facts:
        if _may(fact, authority, admins):
            by_id[fact.id] = fact
            places.setdefault(fact.id, set()).add((fact.chain, fact.sequence))
    known = [_Said(fact, frozenset(places[id])) for id, fact in sorted(by_id.items())]

    revocations = [said for said in known if isinstance(said.fact.body, Revocation)]
    while True:
        found = _weigh(known, revocations)
        kept = _open(revocations, found)
        if len(kept) == len(revocations):
            return found
        revocations = kept


def _open(revocations: list[_Said], found: Limits) -> list[_Said]:
    """Without those that stand in closed chains alone, which some know and others never will."""
    return [said for said in revocations if not all(chain in found.closed for chain, _ in said.places)]


def _weigh(known: list[_Said], revocations: list[_Said]) -> Limits:
    revoked = _accepted(_standing(revocations, _revokers(revocations)))
    heard = Limits(revoked, {})
    closings = _latest(said for said in known if isinstance(said.fact.body, Closing) and _is_heard(heard, said))
    closed: dict[ChainId, Head] = {}
    for head in (head for said in _standing(closings, _closers(closings)) for head in _closed_by(said)):
        before = closed.get(head.chain)
        if before is None or (before.sequence, before.hash) < (head.sequence, head.hash):
            closed[head.chain] = head
    return Limits(revoked, closed)


def _may(fact: Fact, authority: Authority, admins: Container[PeerId]) -> bool:
    """Whether the author may say so, and whoever adopted it may, too."""
    body, has = fact.body, authority(fact.author)
    if has is None or (fact.chain.author != fact.author and "admin" not in (authority(fact.chain.author) or ())):
        return False
    if isinstance(body, Revocation):
        # Of oneself it says nothing: it would cut off the chain that it stands in, and so itself.
        return body.is_author and "admin" in has and body.peer != fact.author
    return isinstance(body, Closing) and (body.author == fact.author or ("admin" in has and body.author not in admins))


def _standing(known: Sequence[_Said], cutters: Sequence[Iterable[int]]) -> list[_Said]:
    """Those that count: decided one after the other, as far as one decides the next; what cycles, counts.

    Args: cutters: for each, the places in `known` of those that cut it off.
    """
    stands: dict[int, bool] = {}
    while True:
        before = len(stands)
        for at, by in enumerate(cutters):
            if at not in stands:
                if any(stands.get(one) for one in by):
                    stands[at] = False
                elif all(stands.get(one) is False for one in by):
                    stands[at] = True
        if len(stands) == before:
            return [said for at, said in enumerate(known) if stands.get(at, True)]


def _revokers(revocations: Sequence[_Said]) -> list[list[int]]:
    """For each revocation those that cut it off: which do not accept any place where it stands."""
    about: dict[PeerId, list[int]] = {}
    for at, said in enumerate(revocations):
        body = said.fact.body
        assert isinstance(body, Revocation)
        about.setdefault(body.peer, []).append(at)
    return [
        [
            other
            for other in about.get(next(iter(said.places))[0].author, ())
            if other != at and not _accepts(revocations[other].fact, said)
        ]
        for at, said in enumerate(revocations)
    ]


def _latest(closings: Iterable[_Said]) -> list[_Said]:
    """The last closings of each writer about each author: they say what earlier ones said.

    Anybody may close its own chains again and again, and all of them would be weighed against each other.
    """
    by_writer: dict[tuple[PeerId, PeerId], list[_Said]] = {}
    for said in sorted(closings, key=lambda said: said.fact.order, reverse=True):
        body = said.fact.body
        assert isinstance(body, Closing)
        same = by_writer.setdefault((said.fact.author, body.author), [])
        if len(same) < CLOSINGS_MAX:
            same.append(said)
    return sorted((said for same in by_writer.values() for said in same), key=lambda said: said.fact.id)


def _closers(closings: Sequence[_Said]) -> list[set[int]]:
    """For each closing those that close all chains in which it stands."""
    closing: dict[ChainId, set[int]] = {}
    for at, said in enumerate(closings):
        for head in _closed_by(said):
            closing.setdefault(head.chain, set()).add(at)
    nothing: set[int] = set()
    return [
        set.intersection(*(closing.get(chain, nothing) for chain, _ in said.places)) - {at}
        for at, said in enumerate(closings)
    ]


def _accepts(revocation: Fact, said: _Said) -> bool:
    body = revocation.body
    assert isinstance(body, Revocation)
    accepted = {head.chain: head.sequence for head in body.accepted}
    return any(chain.author != body.peer or sequence <= accepted.get(chain, 0) for chain, sequence in said.places)


def _accepted(revocations: list[_Said]) -> dict[PeerId, dict[ChainId, int]]:
    """Several revocations of one author accept what all of them accept."""
    found: dict[PeerId, dict[ChainId, int]] = {}
    for said in revocations:
        body = said.fact.body
        assert isinstance(body, Revocation)
        accepted = {head.chain: head.sequence for head in body.accepted}
        before = found.get(body.peer)
        if before is not None:
            accepted = {chain: min(before[chain], last) for chain, last in accepted.items() if chain in before}
        found[body.peer] = accepted
    return found


def _is_heard(heard: Limits, said: _Said) -> bool:
    return any((last := heard.of(chain)) is None or sequence <= last for chain, sequence in said.places)


def _closed_by(said: _Said) -> list[Head]:
    """What a closing closes: of a chain that it stands in, no more than it does where it stands in another, too.

    Who knows only that other place closes that chain, and never hears what stands in it.
    """
    body, chains = said.fact.body, {chain for chain, _ in said.places}
    assert isinstance(body, Closing)
    return [head for head in body.chains if chains - {head.chain}]
