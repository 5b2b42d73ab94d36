"""What the inventory knows, as values: documents, chunks, and what is known of their holders."""

from __future__ import annotations

import functools
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rage_net.cid import Cid
from rage_net.libp2p.peer_id import PeerId
from rage_net.replication.audit import Outcome

DEMANDS_MAX = 8
"""Sets of candidates that the documents of one organisation may want one chunk placed among: of more, all its nodes are
the candidates. Else whoever names a chunk with ever other words would push out what its own document wants."""
OUTCOMES: tuple[Outcome, ...] = ("unknown", "proved", "absent", "lied", "unreachable", "late", "claims")
"""By the number under which a row keeps them. Never change one: add."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A document as the log has it, with what its policy wants."""

    organization: str
    doc_id: str
    root: Cid
    owner: PeerId
    policy: str
    factor: int
    minimum: int
    topology: str


@dataclass(frozen=True, slots=True)
class Unread:
    """A document whose manifest is to be read. `tries` so far."""

    id: int
    organization: str
    doc_id: str
    root: Cid
    owner: PeerId
    tries: int
    topology: str


class Demand(NamedTuple):
    """What documents want of a chunk: so many copies among the candidates of an organisation, as `topology` says."""

    organization: str
    topology: str
    factor: int


@dataclass(frozen=True, slots=True)
class Item:
    """A chunk, where it belongs, and the policy that governs it."""

    id: int
    cid: Cid
    size: int
    home: tuple[PeerId, ...]
    mine: int
    have: int
    tries: int
    audits: int
    since: float
    organization: str
    doc_id: str
    owner: PeerId
    policy: str
    factor: int
    minimum: int
    topology: str
    also: tuple[Demand, ...] = ()
    """What documents want that others may hold, or those of another organisation."""

    @property
    def demands(self) -> tuple[Demand, ...]:
        """All that is wanted of it, that of the governing document first."""
        return Demand(self.organization, self.topology, self.factor), *self.also

    @property
    def copies(self) -> int:
        """How many copies there should be."""
        return max(self.factor, len(self.home))


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one holder of one chunk."""

    peer: PeerId
    outcome: Outcome
    at: float
    since: float


@dataclass(frozen=True, slots=True)
class PolicyTotals:
    """What one policy comes to."""

    policy: str
    factor: int
    minimum: int
    documents: int
    chunks: int
    size: int


@functools.lru_cache(maxsize=1024)
def peer_of(multihash: bytes) -> PeerId:
    """Few nodes own many chunks."""
    return PeerId(multihash)


def numbers_of(home: bytes) -> tuple[int, ...]:
    """The nodes of a home set as it is kept, best first."""
    return struct.unpack(f">{len(home) // 4}I", home)


def bounded(demands: Sequence[Demand]) -> list[Demand]:
    """At most DEMANDS_MAX of each organisation: where there are more, its nodes are the candidates, all of them."""
    counts = Counter(demand.organization for demand in demands)
    found: dict[tuple[str, str], Demand] = {}
    for demand in demands:
        if counts[demand.organization] > DEMANDS_MAX:
            demand = demand._replace(topology="")
        found.setdefault((demand.organization, demand.topology), demand)
    return list(found.values())


def others_of(item: Item, demands: Sequence[Demand]) -> tuple[Demand, ...]:
    """Of what documents want, that which the governing one does not want already."""
    own = item.demands[0]
    return tuple(demand for demand in demands if demand[:2] != own[:2] or demand.factor > own.factor)
