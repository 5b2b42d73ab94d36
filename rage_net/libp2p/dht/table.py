"""The routing table: `kademlia`'s classes, widened to libp2p's 256 bits. The one module that imports that library.

Taken from it: nodes, buckets with their replacements, splitting, the promotion of a replacement. Ours, because the
library is 160 bits wide, reads the clock, starts tasks and keeps as much as comes:

    width        ranges end at 2^256 - 1, and a bucket is found by bisection
    clock        `now` is an argument
    ping         whom to ping is an answer, not a task
    bounds       CONTACTS_MAX and REPLACEMENTS_MAX in all
    nearest      exact: buckets in the order of their distance, instead of a walk to both sides that stops at k
    who is in    only peers that answered; of one group at most GROUP_MAX in a full bucket while others wait

Source: Maymounkov and Mazières 2002; docs/adr/0011.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Any

from kademlia.node import Node as KademliaNode
from kademlia.routing import KBucket
from kademlia.routing import RoutingTable as KademliaTable

from rage_net.libp2p.kad.contact import Contact
from rage_net.libp2p.kad.groups import GROUP_MAX
from rage_net.libp2p.kad.keys import BITS, SEARCH_BITS_MAX, K, distance_bits
from rage_net.libp2p.peer_id import PeerId

CONTACTS_MAX = 200
"""In the whole table: a network of 10,000 fills nine buckets of 20 and some. In a larger one, the fullest give up
some."""
REPLACEMENTS_MAX = 40
"""Waiting in the whole table; the library keeps up to 100 a bucket."""
REPLACEMENTS_PER_BUCKET_MAX = 8
FAILURES_MAX = 2
"""Questions in a row that a contact may leave unanswered; one when another waits for its place."""
STALE_S = 600.0
"""A contact that was not heard of for so long is asked before it keeps another from its place."""
REFRESH_S = 3600.0
"""Where nobody was heard of for so long, we look."""


class Node(KademliaNode):
    """A contact as the library's classes see it. Tables may share one."""

    __slots__ = ("contact", "id", "long_id")

    def __init__(self, contact: Contact) -> None:
        self.contact = contact
        self.long_id = contact.place
        self.id = contact.peer_id.multihash

    def same_home_as(self, node: Node) -> bool:
        """Whether it is the same peer: there is no other home than a key."""
        return bool(self.id == node.id)


class Bucket(KBucket):
    """A range of the space, both ends included, least recently heard of first."""

    def __init__(self, low: int, high: int, ksize: int) -> None:
        self.heard_at: dict[bytes, float] = {}
        super().__init__(low, high, ksize)
        self.max_replacement_nodes = REPLACEMENTS_PER_BUCKET_MAX

    def touch_last_updated(self) -> None:
        """Nothing: the library would read the clock here."""

    def split(self) -> tuple[Bucket, Bucket]:
        """Two halves; who waited may find a place now."""
        middle = (self.range[0] + self.range[1]) // 2
        halves = Bucket(self.range[0], middle, self.ksize), Bucket(middle + 1, self.range[1], self.ksize)
        for nodes in (self.nodes, self.replacement_nodes):
            for node in nodes.values():
                half = halves[node.long_id > middle]
                half.add_node(node)
                half.heard_at[node.id] = self.heard_at[node.id]
        return halves


class Table(KademliaTable):
    """Who answered us, by distance. `own` itself is never in it.

    Not to be called are the library's `add_contact`, `find_neighbors` and `lonely_buckets`: `answered`, `nearest` and
    `places_to_look_at` stand in for them.
    """

    def __init__(self, own: Contact, *, k: int = K, contacts_max: int = CONTACTS_MAX) -> None:
        self.contacts_max = contacts_max
        self.count = 0
        self.waiting = 0
        self._failures: Counter[bytes] = Counter()
        self._looked_at: dict[int, float] = {}  # by bits shared with us
        super().__init__(None, k, Node(own))

    def flush(self) -> None:
        """Forget everyone."""
        self.buckets: list[Bucket] = [Bucket(0, (1 << BITS) - 1, self.ksize)]
        self.count = self.waiting = 0

    def get_bucket_for(self, node: Node) -> int:
        """The index of the bucket that `node` falls into."""
        return self._index(node.long_id)

    def _index(self, place: int) -> int:
        return bisect_left(self.buckets, place, key=lambda bucket: bucket.range[1])

    def answered(self, node: Node, now: float) -> Node | None:
        """A peer answered us: it is in, or waits, or is not needed.

        Returns: a contact that should be asked whether it still lives, since it keeps `node` from a place; None mostly.
        """
        if node.id == self.node.id:
            return None
        self._failures.pop(node.id, None)
        while True:
            index = self._index(node.long_id)
            bucket = self.buckets[index]
            if node.id in bucket.nodes:
                bucket.add_node(node)
                bucket.heard_at[node.id] = now
                return None
            if len(bucket) < self.ksize:
                break
            if bucket.has_in_range(self.node) and bucket.range[0] < bucket.range[1]:
                self.split_bucket(index)
                self._count_again()
                continue
            if self._make_room_for_another_group(bucket, node) or self._make_room_for_a_neighbour(bucket, node):
                break
            return self._wait(bucket, node, now)
        if self.count >= self.contacts_max and not self._shed(bucket):
            return self._wait(bucket, node, now)
        self._drop_replacement(bucket, node.id)
        bucket.add_node(node)
        bucket.heard_at[node.id] = now
        self.count += 1
        return None

    def failed(self, peer_id: PeerId, place: int) -> bool:
        """A peer did not answer. True when it was in the table, and is no more."""
        id = peer_id.multihash
        bucket = self.buckets[self._index(place)]
        if id in bucket.replacement_nodes:
            self._drop_replacement(bucket, id)
            return False
        node = bucket.nodes.get(id)
        if node is None:
            return False
        self._failures[id] += 1
        if self._failures[id] < (1 if bucket.replacement_nodes else FAILURES_MAX):
            return False
        self.remove(node)
        return True

    def remove(self, node: Node) -> None:
        """Let go of a contact; the newest that waits for its place gets it."""
        bucket = self.buckets[self.get_bucket_for(node)]
        self._failures.pop(node.id, None)
        self._drop_replacement(bucket, node.id)
        if node.id in bucket.nodes:
            promoted = len(bucket.replacement_nodes) > 0
            bucket.remove_node(node)
            bucket.heard_at.pop(node.id, None)
            self.count -= not promoted
            self.waiting -= promoted

    def forget(self, peer_id: PeerId, place: int) -> None:
        """A peer is no server any more."""
        bucket = self.buckets[self._index(place)]
        self._drop_replacement(bucket, peer_id.multihash)
        if (node := bucket.nodes.get(peer_id.multihash)) is not None:
            self.remove(node)

    def nearest(self, place: int, count: int = K) -> list[Contact]:
        """The `count` contacts nearest to `place`, nearest first: exactly these."""
        found: list[Node] = []
        for bucket in sorted(self.buckets, key=lambda bucket: _distance_to(bucket, place)):
            found += sorted(bucket.nodes.values(), key=lambda node: node.long_id ^ place)
            if len(found) >= count:
                break
        return [node.contact for node in found[:count]]

    def choose(self, place: int, count: int = K) -> list[Contact]:
        """Whom to ask, or to tell of: the nearest, of a group at most GROUP_MAX unless places would stay empty.

        Else 20 keys of one hand, drawn to be nearest, would be all that a look-up begins with and is told of.
        """
        chosen: list[Contact] = []
        held_back: list[Contact] = []
        shares: dict[Hashable, int] = {}
        for bucket in sorted(self.buckets, key=lambda bucket: _distance_to(bucket, place)):
            for node in sorted(bucket.nodes.values(), key=lambda node: node.long_id ^ place):
                contact = node.contact
                if any(shares.get(group, 0) >= GROUP_MAX for group in contact.groups):
                    held_back.append(contact)
                    continue
                for group in contact.groups:
                    shares[group] = shares.get(group, 0) + 1
                chosen.append(contact)
                if len(chosen) == count:
                    return chosen
        return sorted([*chosen, *held_back[: count - len(chosen)]], key=lambda contact: contact.place ^ place)

    def get(self, peer_id: PeerId, place: int) -> Contact | None:
        """A contact by its id."""
        node = self.buckets[self._index(place)].nodes.get(peer_id.multihash)
        return None if node is None else node.contact

    def heard_at(self, contact: Contact) -> float | None:
        """When a contact last answered."""
        return self.buckets[self._index(contact.place)].heard_at.get(contact.peer_id.multihash)

    def places_to_look_at(self, now: float) -> list[tuple[int, int]]:
        """Where, farther than our K neighbours, few are known, or nobody was heard of for REFRESH_S.

        Returns: a place, and how many of its bits matter, for each distance. They count as looked at.
        """
        own = self.node.long_id
        neighbours = self.nearest(own)
        if len(neighbours) < K:
            return []  # who is found by looking for ourselves is all there is
        known: Counter[int] = Counter()
        heard_at: dict[int, float] = {}
        for contact in self:
            shared = BITS - distance_bits(contact.place, own)
            known[shared] += 1
            heard_at[shared] = max(heard_at.get(shared, 0.0), self.heard_at(contact) or 0.0)
        found = []
        farthest = BITS - distance_bits(neighbours[-1].place, own)
        for shared in range(min(farthest + 1, SEARCH_BITS_MAX)):
            is_lively = known[shared] >= self.ksize and heard_at[shared] + REFRESH_S > now
            if not is_lively and self._looked_at.get(shared, -REFRESH_S) + REFRESH_S <= now:
                self._looked_at[shared] = now
                found.append((own ^ (1 << (BITS - 1 - shared)), shared + 1))
        return found

    def __iter__(self) -> Iterator[Contact]:
        """All contacts."""
        for bucket in self.buckets:
            for node in bucket.nodes.values():
                yield node.contact

    def __len__(self) -> int:
        return self.count

    def replacements(self) -> Iterator[Contact]:
        """Who answered, and waits for a place."""
        for bucket in self.buckets:
            for node in bucket.replacement_nodes.values():
                yield node.contact

    # -- the inside

    def _wait(self, bucket: Bucket, node: Node, now: float) -> Node | None:
        """Let `node` wait for a place in `bucket`; whom to ask whether it still needs its own."""
        self._drop_replacement(bucket, node.id)
        while self.waiting >= REPLACEMENTS_MAX:
            fullest = max(self.buckets, key=lambda bucket: len(bucket.replacement_nodes))
            self._drop_replacement(fullest, next(iter(fullest.replacement_nodes)))
        while len(bucket.replacement_nodes) >= bucket.max_replacement_nodes:
            self._drop_replacement(bucket, next(iter(bucket.replacement_nodes)))
        bucket.replacement_nodes[node.id] = node
        bucket.heard_at[node.id] = now
        self.waiting += 1
        oldest: Node | None = next(iter(bucket.nodes.values()), None)
        return oldest if oldest is not None and bucket.heard_at[oldest.id] + STALE_S <= now else None

    def _drop_replacement(self, bucket: Bucket, id: bytes) -> None:
        if bucket.replacement_nodes.pop(id, None) is not None:
            bucket.heard_at.pop(id, None)
            self.waiting -= 1

    def _make_room_for_another_group(self, bucket: Bucket, node: Node) -> bool:
        """Let a member of a group that has more than its share go, when `node` is of none that has."""
        shares = Counter(group for other in bucket.nodes.values() for group in other.contact.groups)
        if any(shares[group] >= GROUP_MAX for group in node.contact.groups):
            return False
        for other in bucket.nodes.values():
            if any(shares[group] > GROUP_MAX for group in other.contact.groups):
                self._displace(bucket, other)
                return True
        return False

    def _make_room_for_a_neighbour(self, bucket: Bucket, node: Node) -> bool:
        """Where our k nearest may lie, the farthest makes way for who is nearer: all k are to be known (paper, 2.4)."""
        own = self.node.long_id
        farthest = max(bucket.nodes.values(), key=lambda other: other.long_id ^ own)
        if farthest.long_id ^ own < node.long_id ^ own or not self._is_near(bucket):
            return False
        self._displace(bucket, farthest)
        return True

    def _shed(self, bucket: Bucket) -> bool:
        """Make room in a full table: the fullest bucket, of such the farthest, gives up who was silent longest.

        Neighbours always get room, and give none up: they are what records depend on.
        """
        others = [other for other in self.buckets if other is not bucket and not self._is_near(other)]
        if not others:
            return False
        fullest = max(others, key=lambda other: (len(other.nodes), _distance_to(other, self.node.long_id)))
        if len(fullest.nodes) <= (0 if self._is_near(bucket) else len(bucket.nodes) + 1):
            return False
        self._let_go(fullest, next(iter(fullest.nodes.values())))
        return True

    def _is_near(self, bucket: Bucket) -> bool:
        """Whether it is ours, or may hold one of our k nearest: who is nearer than all in it are fewer than k."""
        own = self.node.long_id
        distance = _distance_to(bucket, own)
        nearer = sum(len(other.nodes) for other in self.buckets if _distance_to(other, own) < distance)
        return nearer < int(self.ksize)

    def _displace(self, bucket: Bucket, node: Node) -> None:
        """Another takes the place of `node`, which waits from now on."""
        heard_at = bucket.heard_at[node.id]
        self._let_go(bucket, node)
        self._wait(bucket, node, heard_at)

    def _let_go(self, bucket: Bucket, node: Node) -> None:
        """Take `node` out without another taking its place."""
        del bucket.nodes[node.id], bucket.heard_at[node.id]
        self._failures.pop(node.id, None)
        self.count -= 1

    def _count_again(self) -> None:
        """After a split: who waited may be in, and one too many."""
        self.count = sum(len(bucket.nodes) for bucket in self.buckets)
        self.waiting = sum(len(bucket.replacement_nodes) for bucket in self.buckets)
        while self.count > self.contacts_max and self._shed(self.buckets[self._index(self.node.long_id)]):
            pass


def _distance_to(bucket: Any, place: int) -> int:
    """From `place` to the nearest place in the bucket: a bucket is a subtree, so this orders all that is in them."""
    size = bucket.range[1] - bucket.range[0] + 1
    return int((bucket.range[0] ^ place) // size * size)
