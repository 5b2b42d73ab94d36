"""What we think of each peer, from what it did to us. Arithmetic over `now`; the router reports deeds and asks.

    score = cap(sum over topics of weight * (P1 + P2 + P3 + P3b + P4)) + P5 + P6 + P7

Deeds fade: each counter is multiplied by its decay once a second. A peer that left keeps its score for a while.
Source: libp2p/specs, gossipsub 1.1 (The Score Function, Topic Parameter Calculation and Decay).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rage_net.libp2p.gossipsub.params import ScoreParams, TopicScore
from rage_net.libp2p.peer_id import PeerId

RETAINED_MAX = 4_096
"""Peers that left whose score is kept, 1 KiB each; the one that left first makes way."""


@dataclass(slots=True)
class _Deeds:
    """One peer in one topic."""

    in_mesh_since: float | None = None
    mesh_s: float = 0.0
    first: float = 0.0
    rate: float = 0.0
    failure: float = 0.0
    invalid: float = 0.0

    @property
    def is_blank(self) -> bool:
        return self.in_mesh_since is None and not (self.first or self.rate or self.failure or self.invalid)

    def deficit(self, params: TopicScore) -> float:
        """What is missing of the deliveries that a peer in the mesh owes."""
        if self.in_mesh_since is None or self.mesh_s <= params.rate_activation_s:
            return 0.0
        return max(0.0, params.rate_threshold - self.rate) ** 2

    def points(self, params: TopicScore) -> float:
        mesh = min(self.mesh_s, params.mesh_time_cap) if self.in_mesh_since is not None else 0.0
        return params.weight * (
            params.mesh_time_weight * mesh
            + params.first_weight * self.first
            + params.rate_weight * self.deficit(params)
            + params.failure_weight * self.failure
            + params.invalid_weight * self.invalid**2
        )


@dataclass(slots=True)
class _Record:
    """One peer."""

    host: str
    topics: dict[str, _Deeds] = field(default_factory=dict)
    behaviour: float = 0.0
    forget_at: float | None = None


class Scores:
    """One node's view of its peers. Unknown peers score 0, and deeds of theirs are not noted."""

    def __init__(self, params: ScoreParams, app_score: Callable[[PeerId], float] | None = None) -> None:
        self.params = params
        self._app_score = app_score
        self._records: dict[PeerId, _Record] = {}
        self._left: dict[PeerId, None] = {}  # in the order they left
        self._hosts: dict[str, int] = {}  # connected peers at each
        self._decayed_at: float | None = None

    def __len__(self) -> int:
        return len(self._records)

    def add(self, peer: PeerId, host: str) -> None:
        """A peer is connected, at `host`: what is counted for colocation. It may be one that left not long ago."""
        record = self._records.setdefault(peer, _Record(host))
        record.forget_at = None
        self._left.pop(peer, None)
        record.host = host
        self._hosts[host] = self._hosts.get(host, 0) + 1

    def remove(self, peer: PeerId, now: float) -> None:
        """A peer is gone; its score stays for a while."""
        record = self._records.get(peer)
        if record is None or record.forget_at is not None:
            return
        self._leave_host(record)
        for topic in list(record.topics):
            self.prune(peer, topic)
        record.forget_at = now + self.params.retain_s
        self._left[peer] = None
        if len(self._left) > RETAINED_MAX:
            self._forget(next(iter(self._left)))

    def score(self, peer: PeerId) -> float:
        """What it is worth now."""
        record, params = self._records.get(peer), self.params
        if record is None:
            return 0.0
        topics = sum(deeds.points(params.of(topic)) for topic, deeds in record.topics.items())
        total = min(params.topics_cap, topics)
        if self._app_score is not None:
            total += params.app_weight * self._app_score(peer)
        surplus = self._hosts.get(record.host, 0) - params.colocation_threshold
        if surplus > 0 and record.host not in params.colocation_exempt:
            total += params.colocation_weight * surplus**2
        excess = record.behaviour - params.behaviour_threshold
        if excess > 0:
            total += params.behaviour_weight * excess**2
        return total

    # -- deeds

    def graft(self, peer: PeerId, topic: str, now: float) -> None:
        """The peer has come into the mesh."""
        if (deeds := self._deeds(peer, topic)) is not None:
            deeds.in_mesh_since = now
            deeds.mesh_s = 0.0

    def prune(self, peer: PeerId, topic: str) -> None:
        """The peer has left the mesh; what it owes is remembered."""
        if (deeds := self._deeds(peer, topic)) is not None and deeds.in_mesh_since is not None:
            deeds.failure += deeds.deficit(self.params.of(topic))
            deeds.in_mesh_since = None

    def deliver(self, peer: PeerId, topic: str, *, is_first: bool) -> None:
        """The peer has brought a valid message: as the first, or soon after the first."""
        deeds = self._deeds(peer, topic)
        if deeds is None:
            return
        params = self.params.of(topic)
        if is_first:
            deeds.first = min(params.first_cap, deeds.first + 1)
        if deeds.in_mesh_since is not None:
            deeds.rate = min(params.rate_cap, deeds.rate + 1)

    def reject(self, peer: PeerId, topic: str) -> None:
        """The peer has brought an invalid message."""
        if (deeds := self._deeds(peer, topic)) is not None:
            deeds.invalid += 1

    def penalise(self, peer: PeerId, count: float = 1.0) -> None:
        """The peer has broken a rule."""
        if (record := self._records.get(peer)) is not None:
            record.behaviour += count

    def decay(self, now: float) -> None:
        """Let deeds fade; call at every heartbeat."""
        params = self.params
        while self._left:
            peer = next(iter(self._left))
            forget_at = self._records[peer].forget_at
            if forget_at is not None and forget_at > now:
                break
            self._forget(peer)
        if self._decayed_at is not None and now - self._decayed_at < params.decay_s / 2:
            return
        self._decayed_at = now
        for record in self._records.values():
            if record.forget_at is not None:
                continue  # frozen: it would else be as good as new when it comes back
            record.behaviour = self._faded(record.behaviour, params.behaviour_decay)
            for topic in list(record.topics):
                deeds, of = record.topics[topic], params.of(topic)
                deeds.first = self._faded(deeds.first, of.first_decay)
                deeds.rate = self._faded(deeds.rate, of.rate_decay)
                deeds.failure = self._faded(deeds.failure, of.failure_decay)
                deeds.invalid = self._faded(deeds.invalid, of.invalid_decay)
                if deeds.in_mesh_since is not None:
                    deeds.mesh_s = now - deeds.in_mesh_since
                elif deeds.is_blank:
                    del record.topics[topic]

    def _deeds(self, peer: PeerId, topic: str) -> _Deeds | None:
        record = self._records.get(peer)
        return None if record is None else record.topics.setdefault(topic, _Deeds())

    def _faded(self, value: float, factor: float) -> float:
        value *= factor
        return value if value >= self.params.decay_to_zero else 0.0

    def _leave_host(self, record: _Record) -> None:
        self._hosts[record.host] -= 1
        if not self._hosts[record.host]:
            del self._hosts[record.host]

    def _forget(self, peer: PeerId) -> None:
        del self._left[peer]
        del self._records[peer]
