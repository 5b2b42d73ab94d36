"""Health: how well distinct holders fill the slots that placement wants filled.

Placement gives a chunk one slot for each copy. The node that it names fills the slot, or another of the same kind: of
the same region under `geographic_diversity`, of the same zone under `zone_diversity`, any under the others. One holder
fills one slot, so three copies in one region are no three regions: what counts is the maximum matching of slots and
holders, by augmenting paths. It is so also when the home node of one slot could stand in another's.

Pure. Not here: what makes somebody a holder (proof, or a claim), and who moves what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rage_net.libp2p.peer_id import PeerId
from rage_net.replication.place import Candidate, Strategy

State = Literal["ok", "under", "over", "misplaced"]


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one copy belongs: at `home`, or at any node of that region and zone; None is any."""

    home: PeerId
    region: str | None = None
    zone: str | None = None

    def takes(self, holder: Candidate) -> bool:
        """Whether a copy at this node fills the slot."""
        if holder.peer_id == self.home:
            return True
        return self.region in (None, holder.region) and self.zone in (None, holder.zone)


@dataclass(frozen=True, slots=True)
class Health:
    """How a chunk stands: copies that its policy wants, distinct holders, slots that they fill, and the word for it.

    `under`: fewer copies than wanted, be it that there are too few nodes. `misplaced`: enough, and too many in one
    place. `over`: each slot is filled, and there are more.
    """

    wanted: int
    copies: int
    matched: int
    state: State


def slots(home: Sequence[Candidate], strategy: Strategy) -> tuple[Slot, ...]:
    """The slots of a home set."""
    if strategy == "geographic_diversity":
        return tuple(Slot(one.peer_id, one.region) for one in home)
    if strategy == "zone_diversity":
        return tuple(Slot(one.peer_id, one.region, one.zone) for one in home)
    return tuple(Slot(one.peer_id) for one in home)


def match(slots: Sequence[Slot], holders: Sequence[Candidate]) -> int:
    """How many slots distinct holders fill at best. A holder that is named twice is one."""
    distinct = list({holder.peer_id: holder for holder in holders}.values())
    takers = [[at for at, holder in enumerate(distinct) if slot.takes(holder)] for slot in slots]
    slot_of: dict[int, int] = {}  # holder -> the slot that it fills

    def fill(slot: int, tried: set[int]) -> bool:
        for holder in takers[slot]:
            if holder not in tried:
                tried.add(holder)
                if holder not in slot_of or fill(slot_of[holder], tried):
                    slot_of[holder] = slot
                    return True
        return False

    return sum(fill(slot, set()) for slot in range(len(slots)))


def assess(home: Sequence[Candidate], holders: Sequence[Candidate], factor: int, strategy: Strategy) -> Health:
    """How a chunk stands whose home set is `home`, of at most `factor`, with these holders, in any order."""
    if len(home) == factor == len(holders) and all(map(_is_same, home, holders)):  # as nearly all chunks are
        return Health(factor, factor, factor, "ok")
    copies = len({holder.peer_id for holder in holders})
    matched = match(slots(home, strategy), holders)
    state: State = "ok"
    if copies < factor:
        state = "under"
    elif matched < len(home):
        state = "misplaced"
    elif copies > factor:
        state = "over"
    return Health(factor, copies, matched, state)


def _is_same(one: Candidate, other: Candidate) -> bool:
    return one is other
