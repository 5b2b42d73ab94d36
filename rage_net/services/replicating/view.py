"""One node's view of who may hold what: candidates as signed, and which of them are there now.

    home set     where placement puts a chunk, whoever is there
    acting set   the same among those that are there: what is to be held now
    coordinator  of a chunk: the first of its home set that is there

A node that gives no sign of life is taken for unavailable after a grace: a restart is no loss. Views differ between
nodes for a while; what follows then is copies too many, never too few. Source: design D5; issue 5, B and E.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rage_net.cid import Cid
from rage_net.libp2p.peer_id import PeerId
from rage_net.replication.inventory import Demand, Item
from rage_net.replication.place import CANDIDATES_MAX, Candidate, Strategy, Topology

State = Literal["active", "drained", "lost"]
UNMET_S = 60.0
"""After its start a node gives others so long to be met, before it takes them for gone."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node as the log has it. Only active ones are candidates; of a drained one copies may still be had."""

    candidate: Candidate
    state: State


TOPOLOGIES_MAX = 256
"""Kept: one for each set of nodes that are away and each kind of document."""


class View:
    """Who may hold what, as this node sees it. `now` is the inventory's clock, here and in `observe`."""

    def __init__(self, own: PeerId, strategy: Strategy, grace_s: float, now: float) -> None:
        self.own = own
        self.strategy: Strategy = strategy
        self.grace_s = grace_s
        self.nodes: dict[PeerId, Node] = {}
        self.unavailable: frozenset[PeerId] = frozenset()
        """Nodes without a sign of life for longer than the grace."""
        self._started_at = now
        self._silent_since: dict[PeerId, float] = {}
        self._topologies: dict[tuple[str, str, frozenset[PeerId]], Topology] = {}

    # --- who there is ---

    def set_nodes(self, nodes: Iterable[Node]) -> bool:
        """The log says so. Whether that changes where anything belongs."""
        fresh = {node.candidate.peer_id: node for node in nodes}
        if fresh == self.nodes:
            return False
        self.nodes = fresh
        self._topologies.clear()
        self._silent_since = {peer: at for peer, at in self._silent_since.items() if peer in fresh}
        return True

    @property
    def digest(self) -> str:
        """Of all that home sets follow from, but for policies."""
        active = sorted(
            f"{node.candidate.peer_id} {node.candidate.organization} {node.candidate.region!r}"
            f" {node.candidate.zone!r} {node.candidate.weight}"
            for node in self.nodes.values()
            if node.state == "active"
        )
        return "\n".join([self.strategy, *active])

    def observe(self, is_alive: Callable[[PeerId], bool | None], now: float) -> tuple[set[PeerId], set[PeerId]]:
        """Look who is there: None stands for somebody that was never heard. Returns who went, and who came back."""
        gone = set()
        for peer in self.nodes:
            alive = True if peer == self.own else is_alive(peer)
            if alive:
                self._silent_since.pop(peer, None)
                continue
            since = self._silent_since.setdefault(peer, now)
            patience = self.grace_s if alive is False else max(self.grace_s, UNMET_S - (since - self._started_at))
            if now - since >= patience:
                gone.add(peer)
        before, self.unavailable = self.unavailable, frozenset(gone)
        return gone - before, set(before) - gone

    @property
    def is_cut_off(self) -> bool:
        """Whether most candidates are out of reach: then it is more likely us, and copies are not made anew.

        Of our own organisation: what others' logs say of their nodes is theirs to say, be they there or not.
        """
        own = self.nodes.get(self.own)
        active = [
            peer
            for peer, node in self.nodes.items()
            if node.state == "active" and (own is None or node.candidate.organization == own.candidate.organization)
        ]
        return 2 * len(self.unavailable.intersection(active)) > len(active)

    def is_there(self, peer: PeerId) -> bool:
        """Whether a node is known, not lost, and not unavailable: copies may be had of it."""
        node = self.nodes.get(peer)
        return node is not None and node.state != "lost" and peer not in self.unavailable

    def is_candidate(self, peer: PeerId) -> bool:
        """Whether placement may name it."""
        node = self.nodes.get(peer)
        return node is not None and node.state == "active"

    # --- what belongs where ---

    def topology(self, organization: str, others: str, without: frozenset[PeerId] = frozenset()) -> Topology:
        """The candidates for documents of an organisation, but for some.

        `others`, words by comma, changes whose nodes they are: `globex` adds an organisation, `-<peer id>` and
        `-org:<organisation>` take away.
        """
        key = organization, others, without
        found = self._topologies.get(key)
        if found is None:
            among, left_out = _read_words(organization, others)
            candidates = [
                node.candidate
                for peer, node in self.nodes.items()
                if node.state == "active"
                and node.candidate.organization in among
                and peer not in without
                and str(peer) not in left_out
            ]
            if len(candidates) > CANDIDATES_MAX:  # its own nodes first: others' may be as many as they like
                candidates.sort(key=lambda one: (one.organization != organization, one.peer_id.multihash))
                del candidates[CANDIDATES_MAX:]
            if len(self._topologies) >= TOPOLOGIES_MAX:
                self._topologies.clear()
            found = self._topologies[key] = Topology(candidates, self.strategy)
        return found

    def may_hold(self, peer: PeerId, organization: str, others: str) -> bool:
        """Whether a node that is known may hold chunks of such documents, be it drained."""
        node = self.nodes.get(peer)
        among, left_out = _read_words(organization, others)
        return node is not None and node.candidate.organization in among and str(peer) not in left_out

    def home(self, cid: Cid, organization: str, others: str, factor: int) -> tuple[PeerId, ...]:
        """Where a chunk belongs."""
        return tuple(self.homes(cid, [Demand(organization, others, factor)]))

    def homes(self, cid: Cid, demands: Iterable[Demand], without: frozenset[PeerId] = frozenset()) -> list[PeerId]:
        """Where a chunk belongs that several documents want, each in its own place: all of these."""
        found: dict[PeerId, None] = {}
        for demand in demands:
            topology = self.topology(demand.organization, demand.topology, without)
            found.update((topology.candidates[at].peer_id, None) for at in topology.place(cid, demand.factor))
        return list(found)

    def acting(self, item: Item, excluded: Collection[PeerId] = ()) -> list[PeerId]:
        """Who should hold a chunk now: its home set, others in place of those that are away or excluded.

        Placement over those that are left changes only the places of those that are not.
        """
        away = self.unavailable.union(excluded)
        if not away.intersection(item.home):
            return list(item.home)
        return self.homes(item.cid, item.demands, away)

    def coordinator(self, item: Item) -> PeerId | None:
        """Whose business a chunk is."""
        for peer in item.home:
            if peer not in self.unavailable:
                return peer
        acting = self.acting(item)
        return acting[0] if acting else None

    def spread(self, peers: Sequence[PeerId]) -> list[Candidate]:
        """The candidates that some peers are."""
        return [self.nodes[peer].candidate for peer in peers if peer in self.nodes]


def _read_words(organization: str, others: str) -> tuple[set[str], set[str]]:
    """Organisations whose nodes may hold chunks, and the texts of peers that may not."""
    words = [word for word in others.split(",") if word]
    among = {organization, *(word for word in words if not word.startswith("-"))}
    among -= {word[5:] for word in words if word.startswith("-org:")}
    return among, {word[1:] for word in words if word.startswith("-")}
