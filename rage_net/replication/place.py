"""Placement: which nodes hold a chunk. One pure function of CID, candidates and strategy, the same on every node.

Weighted rendezvous hashing. Every pair of node and chunk has a key, and each next copy goes to the node with the least

    (copies already in its region, copies already in its zone, key)      geographic_diversity
    (copies already in its zone, key)                                    zone_diversity
    (key)                                                                capacity, and none, which ignores weights too

A zone is one of its region: `a` of `eu` is not `a` of `us`. A node that is not chosen changes nothing by being there:
each step is a plain minimum. One that is taken away moves its own copy and no other, though zones and regions be short.
With N like nodes in regions of like size, one that comes or goes so moves about 1/N of all copies. Where regions differ
in size, the nodes of a small one hold more than others, and one that comes or goes moves its own share; no function can
move less and still keep copies apart.

    seed(node)    first 8 bytes, big endian, of BLAKE3("rage:place:1" NUL peer id)
    value(CID)    first 8 bytes, big endian, of its digest
    hash          the upper 32 of the 64 bits of mix(seed xor value); mix is the finaliser of splitmix64
    key           T[hash >> 16] * (720720 // weight) * 2^16 + (hash mod 2^16)
    T[i]          floor(2^24 * (17 - log2(131071 - 2 i))), i from 0 to 65535

As -log2(1 - u), u uniform, divided by the weight is least for a node as often as its weight says, T makes loads follow
weights, without floats. T rises strictly, so where all weights are equal the hashes alone are compared. Equal keys, one
choice in 2^32, go by region, zone and peer id. All hashes of a chunk are made at once, arithmetic on one integer with
a lane of 128 bits for each node. Not here: who is a candidate (signed node records), who is alive, and who has room.

Source: design D5; Thaler and Ravishankar 1998, "Using name-based mappings to increase hit rates"; Steele, Lea and Flood
2014 (splitmix64). For other languages: contracts/placement.md with vectors/placement.json.
"""

from __future__ import annotations

import array
import functools
import itertools
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from blake3 import blake3

from rage_net.cid import Cid
from rage_net.libp2p.peer_id import PeerId

Strategy = Literal["geographic_diversity", "zone_diversity", "capacity", "none"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

CANDIDATES_MAX = 4096
"""Nodes of one topology: a place among them takes 0.3 ms."""
WEIGHT_MAX = 16
"""Of a node record (contracts/rage.proto)."""

WEIGHT_MULTIPLE = 720_720
"""Divisible by every weight from 1 to 16."""
_PREFIX = b"rage:place:1\0"
_LANE_BITS = 128
_LOW_64 = (1 << 64) - 1
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_USED = 1 << 80
"""Added to the keys of a zone for each copy in it: more than any key (at most 64 bits)."""
_TAKEN = 1 << 100
"""The key of a node that is chosen: more than any other, as a zone is used at most 4,096 times."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that may hold copies, as its signed record says: `weight` 1 to 16 is its share beside the others'."""

    peer_id: PeerId
    organization: str
    region: str
    zone: str
    weight: int


class Topology:
    """The candidates, prepared for many CIDs. The order in which they are given does not matter.

    `candidates` are sorted by peer id; `digest`, 16 bytes, is of them and of the strategy.
    """

    __slots__ = (
        "_factors",
        "_indices",
        "_mask",
        "_ones",
        "_seeds",
        "_spans",
        "_unpack",
        "_zones",
        "candidates",
        "digest",
    )

    def __init__(self, candidates: Iterable[Candidate], strategy: Strategy) -> None:
        """Raises: ValueError for more than CANDIDATES_MAX, one peer twice, another weight, an unknown strategy."""
        if strategy not in STRATEGIES:
            raise ValueError(f"{strategy!r} is no strategy; there are {', '.join(STRATEGIES)}")
        found = tuple(itertools.islice(candidates, CANDIDATES_MAX + 1))
        if len(found) > CANDIDATES_MAX:
            raise ValueError(f"more than {CANDIDATES_MAX} candidates")
        self.candidates = tuple(sorted(found, key=lambda one: one.peer_id.multihash))
        for one, after in itertools.pairwise(self.candidates):
            if one.peer_id == after.peer_id:
                raise ValueError(f"{one.peer_id} is a candidate twice")
        for one in self.candidates:
            if not 1 <= one.weight <= WEIGHT_MAX:
                raise ValueError(f"{one.peer_id} has weight {one.weight}; a weight is from 1 to {WEIGHT_MAX}")
        self.digest = _digest(self.candidates, strategy)

        # A lane for each node, neighbours in their zone and region; equal keys go to the lower lane.
        has_places = strategy in ("geographic_diversity", "zone_diversity")
        places = [(one.region.encode(), one.zone.encode()) if has_places else () for one in self.candidates]
        self._indices = sorted(range(len(places)), key=lambda index: (places[index], index))
        lanes = [places[index] for index in self._indices]
        self._spans = _runs([place[:1] if strategy == "geographic_diversity" else place for place in lanes])
        self._zones: list[tuple[int, int] | None] = [None] * len(lanes)
        zones = _runs(lanes)
        for start, end in zones if zones != self._spans else ():  # where each region is one zone, zones say no more
            self._zones[start:end] = [(start, end)] * (end - start)
        if len(self._spans) == len(lanes):  # nor do regions of one node each
            self._spans = [(0, len(lanes))]

        nodes = [self.candidates[index] for index in self._indices]
        self._factors: list[int] | None = None
        if strategy != "none" and len({node.weight for node in nodes}) > 1:
            self._factors = [WEIGHT_MULTIPLE // node.weight << 16 for node in nodes]
        self._seeds = _pack([seed(node.peer_id) for node in nodes])
        self._ones = _pack([1] * len(nodes))
        self._mask = _pack([_LOW_64] * len(nodes))
        self._unpack: Callable[[bytes], tuple[int, ...]] = struct.Struct("<" + "4xI8x" * len(nodes)).unpack

    def place(self, cid: Cid, count: int) -> list[int]:
        """Which of `candidates` hold the chunk: their indices, the best first, distinct, `count` or all there are."""
        keys = self._keys(cid)
        wanted = min(count, len(keys))
        lanes: list[int] = []
        while len(lanes) < wanted:
            # A round: every region (or zone, or all nodes as one) offers its best; the best of the offers are taken.
            offers = sorted([(min(keys[start:end]), start, end) for start, end in self._spans])
            for key, start, end in offers[: wanted - len(lanes)]:
                if key >= _TAKEN:
                    break
                lane = keys.index(key, start, end)
                lanes.append(lane)
                if zone := self._zones[lane]:
                    keys[zone[0] : zone[1]] = [other + _USED for other in keys[zone[0] : zone[1]]]
                keys[lane] = _TAKEN
        indices = self._indices
        return [indices[lane] for lane in lanes]

    def _keys(self, cid: Cid) -> list[int]:
        """The key of every lane: mix() of all seeds at once, then weighed unless all weights are equal."""
        mask = self._mask
        z = self._seeds ^ self._ones * int.from_bytes(cid.digest[:8], "big")
        z = ((z ^ z >> 30) & mask) * _MIX_1 & mask
        z = ((z ^ z >> 27) & mask) * _MIX_2 & mask
        z ^= z >> 31  # what runs over from the lane above stays in the upper half, which is not unpacked
        hashes = self._unpack(z.to_bytes(len(self._indices) * 16, "little"))
        if self._factors is None:
            return list(hashes)
        table = _table()
        return [table[h >> 16] * factor + (h & 0xFFFF) for h, factor in zip(hashes, self._factors, strict=True)]


def place(cid: Cid, candidates: Iterable[Candidate], count: int, strategy: Strategy) -> list[PeerId]:
    """Which peers hold the chunk, the best first: for one CID; `Topology` for many."""
    topology = Topology(candidates, strategy)
    return [topology.candidates[index].peer_id for index in topology.place(cid, count)]


def seed(peer_id: PeerId) -> int:
    """64 bits that stand for a node."""
    return int.from_bytes(blake3(_PREFIX + peer_id.multihash).digest(8), "big")


def mix(value: int) -> int:
    """The finaliser of splitmix64: 64 bits to 64 bits, one to one."""
    value = (value ^ value >> 30) * _MIX_1 & _LOW_64
    value = (value ^ value >> 27) * _MIX_2 & _LOW_64
    return value ^ value >> 31


def logarithms() -> list[int]:
    """T: 65,536 integers, floor(2^24 * (17 - log2(131071 - 2 i))). By integers alone, in 0.1 s.

    ln(n + 2) - ln(n) = 2 artanh(1 / (n + 1)), summed up from n = 1 with 96 bits behind the point. All roundings
    together stay below 2^-50, and no value but the last, which is exact, comes within 2^-20 of a whole number.
    """
    one = 1 << 96
    ln_2 = 2 * _artanh(3, one)
    table, ln = [0] * (1 << 16), 0
    for at in range(1 << 16):
        n = 2 * at + 1
        table[-1 - at] = ((17 * ln_2 - ln) << 24) // ln_2
        ln += 2 * _artanh(n + 1, one)
    return table


def _artanh(m: int, one: int) -> int:
    """artanh(1/m) as a multiple of 1/one."""
    power, square, total, k = one // m, m * m, 0, 1
    while power:
        total += power // k
        power //= square
        k += 2
    return total


@functools.cache
def _table() -> array.array[int]:
    return array.array("I", logarithms())  # a list of so many numbers would not stay in the processor's cache


def _runs(values: Sequence[object]) -> list[tuple[int, int]]:
    """The spans of equal neighbours."""
    cuts = [at for at in range(len(values)) if at == 0 or values[at] != values[at - 1]]
    return list(itertools.pairwise([*cuts, len(values)]))


def _pack(lanes: Sequence[int]) -> int:
    return int.from_bytes(b"".join(lane.to_bytes(_LANE_BITS // 8, "little") for lane in lanes), "little")


def _digest(candidates: Sequence[Candidate], strategy: Strategy) -> bytes:
    hasher = blake3(_PREFIX)
    for text in (strategy, *itertools.chain.from_iterable(map(_texts, candidates))):
        raw = text if isinstance(text, bytes) else text.encode()
        hasher.update(len(raw).to_bytes(4, "big") + raw)
    return hasher.digest(16)


def _texts(one: Candidate) -> tuple[bytes | str, ...]:
    return one.peer_id.multihash, one.organization, one.region, one.zone, bytes((one.weight,))
