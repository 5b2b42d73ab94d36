"""A look-up: the crawl towards a place, as a state machine. It says whom to ask, and is told what came of it.

    fresh ──asked──> asked ──SLOT_S──> slow          a slow one's answer may still come, but its slot is free
                       └────────┴──> answered | failed

`alpha` questions are always out; what failed stays known, so that no answer brings it back. It ends when the k nearest
that are left have answered, or at its deadline. What an answer names is a hint and no more: its distance is computed
here, at most k are taken of it, and who told of many that do not answer is not believed any more.

Of the k nearest at most GROUP_MAX share a group (a public /24 or /48, an organisation without proof): others of the
group stand back while there is anyone else. They fill places that would stay empty, so that ten nodes in one network
find each other. A claimed address counts until the peer has answered; then the one it was reached at does.

Not here: questions, time-outs, sockets (`dht.crawl`). Source: Maymounkov and Mazières 2002; Baumgart and Mies 2007
(S/Kademlia) for what it is wary of.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from rage_net.libp2p.kad.contact import ADDRESSES_MAX, Contact
from rage_net.libp2p.kad.groups import GROUP_MAX
from rage_net.libp2p.kad.keys import K
from rage_net.libp2p.kad.messages import CLOSER_MAX, PeerInfo
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId

ALPHA = 6
"""Questions out at a time. 3 is the paper's. With 30 % of the peers gone, 6 take a quarter off the time for a twentieth
more questions, and 10 would take a third off for a fifth more (`python -m bench.dht_scale`)."""
SLOT_S = 0.3
"""A question that is not answered after so long no longer keeps another from being asked."""
OUT_MAX = 32
"""Questions out at a time, the slow ones included."""
ASKED_MAX = 200
"""Questions of one look-up: 40 to 60 are usual."""
CANDIDATES_MAX = 500
"""Peers one look-up knows of; beyond it the farthest that was not asked is forgotten."""
TRIES_MAX = 3
"""A peer that failed is tried again when somebody tells of other addresses: the first may have been made up."""
DOUBT_FAILED = 6
"""So many peers that one peer told of, and that failed, above twice those that answered: then it is not believed. With
a third of the peers gone, an honest one of 20 stays below."""
TELLERS_MAX = 4
"""Of one peer: who told of it."""


class State(Enum):
    """How a look-up stands with a peer."""

    FRESH = auto()
    ASKED = auto()
    SLOW = auto()
    ANSWERED = auto()
    FAILED = auto()


@dataclass(slots=True, eq=False)
class Candidate:
    """A peer that the look-up has heard of.

    `depth` is 1 for those we knew, else one more than the least of those who told of it before it was asked.
    """

    contact: Contact
    distance: int
    depth: int
    state: State = State.FRESH
    groups: tuple[Hashable, ...] = ()
    tellers: list[PeerId] = field(default_factory=list)
    """Empty: we knew it ourselves."""
    tries: int = 0
    tried: set[Multiaddr] = field(default_factory=set)
    asked_at: float = 0.0

    def __lt__(self, other: Candidate) -> bool:
        return self.distance < other.distance

    def stands_back(self, shares: Mapping[Hashable, int]) -> bool:
        """Whether its groups have their share.

        Of what others claim, one group with room is enough: else whoever tells of an honest peer first could put it
        into a group that is full.
        """
        room = [group for group in self.groups if shares.get(group, 0) < GROUP_MAX]
        return len(room) < len(self.groups) if self.state is State.ANSWERED else not room


class LookUp:
    """One crawl.

    Args: seeds: whom we know already. deadline: on the clock that `now` comes from. width: how many are looked for.
    groups: what a peer with such addresses counts under.
    """

    def __init__(
        self,
        target: int,
        seeds: Iterable[Contact],
        *,
        own: PeerId,
        deadline: float,
        width: int = K,
        alpha: int = ALPHA,
        groups: Callable[[PeerId, tuple[Multiaddr, ...]], tuple[Hashable, ...]] = lambda peer_id, addresses: (),
    ) -> None:
        self.target = target
        self.deadline = deadline
        self.width = width
        self.asked = 0
        self.failed = 0
        self.is_stopped = False
        self._own = own
        self._alpha = alpha
        self._groups = groups
        self._known: dict[PeerId, Candidate] = {}
        self._sorted: list[Candidate] = []
        self._out: dict[PeerId, Candidate] = {}  # asked and slow, in the order they were asked
        self._told_failed: Counter[PeerId] = Counter()
        self._told_answered: Counter[PeerId] = Counter()
        for contact in seeds:
            self._add(Candidate(contact, contact.place ^ target, 1, groups=contact.groups))

    # -- what to do

    def next_asks(self, now: float) -> list[Candidate]:
        """Whom to ask now, nearest first; they count as asked. Empty while all slots are taken, or at the end."""
        for candidate in self._out.values():
            if candidate.state is State.ASKED and now >= candidate.asked_at + SLOT_S:
                candidate.state = State.SLOW
        slots = self._alpha - sum(1 for candidate in self._out.values() if candidate.state is State.ASKED)
        slots = min(slots, OUT_MAX - len(self._out), ASKED_MAX - self.asked)
        if slots <= 0 or self.is_stopped or now >= self.deadline:
            return []
        chosen = []
        for candidate in self._nearest((State.FAILED, State.SLOW)):
            if candidate.state is State.FRESH:
                chosen.append(candidate)
                if len(chosen) == slots:
                    break
        for candidate in chosen:
            candidate.state, candidate.asked_at = State.ASKED, now
            candidate.tries += 1
            candidate.tried.update(candidate.contact.addresses)
            self._out[candidate.contact.peer_id] = candidate
        self.asked += len(chosen)
        return chosen

    def next_timeout(self, now: float) -> float:
        """When to call `next_asks` again, should nothing happen before."""
        slots = [candidate.asked_at + SLOT_S for candidate in self._out.values() if candidate.state is State.ASKED]
        return min([self.deadline, *slots])

    def is_done(self, now: float) -> bool:
        """Whether the k nearest have answered, nobody is left to ask, or time is up."""
        if self.is_stopped or now >= self.deadline:
            return True
        left = {candidate.state for candidate in self._nearest((State.FAILED,))}
        if left <= {State.ANSWERED}:
            return True
        return not self._out and (State.FRESH not in left or self.asked >= ASKED_MAX)

    # -- what came of it

    def answered(
        self,
        peer_id: PeerId,
        closer: Iterable[PeerInfo],
        reached_at: Multiaddr | None = None,
        addresses: Iterable[Multiaddr] = (),
    ) -> list[Contact]:
        """`peer_id` answered from `reached_at`, and can be dialled at `addresses`. Returns: peers not known before.

        The addresses in `closer` have been held against the scope of who told them.
        """
        candidate = self._known.get(peer_id)
        if candidate is None or candidate.state is State.ANSWERED:
            return []
        self._out.pop(peer_id, None)
        candidate.state = State.ANSWERED
        if reached_at is not None:
            merged = tuple(dict.fromkeys([*addresses, *candidate.contact.addresses]))[:ADDRESSES_MAX]
            candidate.groups = self._groups(peer_id, (reached_at,))
            candidate.contact = Contact(peer_id, merged, candidate.contact.place, candidate.groups)
        for teller in candidate.tellers:
            self._told_answered[teller] += 1
        new = []
        for told in list(closer)[:CLOSER_MAX]:
            if told.peer_id == self._own or told.peer_id == peer_id or not told.addresses:
                continue
            if self._hear(told, candidate):
                new.append(self._known[told.peer_id].contact)
        return new

    def failed_to_answer(self, peer_id: PeerId) -> None:
        """`peer_id` could not be reached, did not answer in time, or answered what is none."""
        candidate = self._out.pop(peer_id, None)
        if candidate is None:
            return
        candidate.state = State.FAILED
        self.failed += 1
        for teller in candidate.tellers:
            self._told_failed[teller] += 1

    def stop(self) -> None:
        """What was looked for is found."""
        self.is_stopped = True

    # -- what is known

    def nearest(self) -> list[Contact]:
        """The nearest that answered, at most `width`, nearest first."""
        return [candidate.contact for candidate in self._nearest(_UNANSWERED)]

    def all_answered(self) -> list[Contact]:
        """Everyone who answered, nearest first."""
        return [candidate.contact for candidate in self._sorted if candidate.state is State.ANSWERED]

    def candidate(self, peer_id: PeerId) -> Candidate | None:
        """How the look-up stands with a peer."""
        return self._known.get(peer_id)

    @property
    def depth(self) -> int:
        """The greatest depth among the nearest that answered; 0 when none did."""
        chosen = self._nearest(_UNANSWERED)
        return max((candidate.depth for candidate in chosen), default=0)

    # -- the inside

    def _hear(self, told: PeerInfo, teller: Candidate) -> bool:
        """Someone tells of a peer. True when nobody had before."""
        known = self._known.get(told.peer_id)
        who = teller.contact.peer_id
        if known is None:
            groups = self._groups(told.peer_id, told.addresses)
            contact = Contact.of(told.peer_id, told.addresses, groups)
            candidate = Candidate(contact, contact.place ^ self.target, teller.depth + 1, groups=groups, tellers=[who])
            return self._add(candidate)
        if known.state is State.ANSWERED:
            return False
        if known.tellers and who not in known.tellers and len(known.tellers) < TELLERS_MAX:
            known.tellers.append(who)
        fresh = [address for address in told.addresses if address not in known.tried]
        if known.state is State.FRESH:
            known.depth = min(known.depth, teller.depth + 1)
            merged = _by_turns(known.contact.addresses, fresh)
        elif known.state is State.FAILED and fresh and known.tries < TRIES_MAX:
            merged = tuple(fresh)
            known.state = State.FRESH
        else:
            return False
        known.groups = self._groups(told.peer_id, merged)
        known.contact = Contact(told.peer_id, merged, known.contact.place, known.groups)
        return False

    def _add(self, candidate: Candidate) -> bool:
        peer_id = candidate.contact.peer_id
        if peer_id == self._own or peer_id in self._known:
            return False
        if len(self._sorted) >= CANDIDATES_MAX:
            farthest = next((one for one in reversed(self._sorted) if one.state is State.FRESH), None)
            if farthest is None or farthest.distance < candidate.distance:
                return False
            self._sorted.remove(farthest)
            del self._known[farthest.contact.peer_id]
        self._known[peer_id] = candidate
        insort(self._sorted, candidate)
        return True

    def _is_believed(self, candidate: Candidate) -> bool:
        for teller in candidate.tellers:
            if self._told_failed[teller] <= DOUBT_FAILED + 2 * self._told_answered[teller]:
                return True
        return False

    def _nearest(self, left_out: tuple[State, ...]) -> list[Candidate]:
        """The `width` nearest in other states; of a group at most GROUP_MAX unless places would stay empty."""
        chosen: list[Candidate] = []
        held_back: list[Candidate] = []
        shares: dict[Hashable, int] = {}
        for candidate in self._sorted:
            if candidate.state in left_out:
                continue
            if candidate.tellers and candidate.state is not State.ANSWERED and not self._is_believed(candidate):
                continue
            if candidate.groups:
                if candidate.stands_back(shares):
                    held_back.append(candidate)
                    continue
                for group in candidate.groups:
                    shares[group] = shares.get(group, 0) + 1
            chosen.append(candidate)
            if len(chosen) == self.width:
                return chosen
        return sorted([*chosen, *held_back[: self.width - len(chosen)]])


_UNANSWERED = tuple(state for state in State if state is not State.ANSWERED)


def _by_turns(old: tuple[Multiaddr, ...], new: list[Multiaddr]) -> tuple[Multiaddr, ...]:
    """Of each in turn, so that neither who told first nor who told last fills the list."""
    turns = [address for pair in zip(old, new, strict=False) for address in pair]
    rest = [*old[len(new) :], *new[len(old) :]]
    return tuple(dict.fromkeys([*turns, *rest]))[:ADDRESSES_MAX]
