"""The mesh of each topic: who passes messages on to whom at once. Grafts, prunes, back-off, and their upkeep.

Answers to a peer's graft, in the order they are tried:

    topic not joined, or the peer may not     ignored: an answer would be a means to flood
    in the mesh already                       nothing
    in back-off                               prune, back-off begins anew; a penalty, two when soon after the prune
    score below 0                             prune, no peers named
    mesh is full, and the peer dialled us     prune, with peers named
    else                                      in the mesh

Source: libp2p/specs, gossipsub 1.0 (Mesh Maintenance), 1.1 (PRUNE Backoff and Peer Exchange, Outbound Mesh Quotas,
Heartbeat Maintenance, Opportunistic Grafting).
"""

from __future__ import annotations

import statistics

from rage_net.libp2p.gossipsub.peers import Peer, Peers
from rage_net.libp2p.gossipsub.rpc import BACKOFF_S_MAX, Prune
from rage_net.libp2p.peer_id import PeerId

BACKOFFS_MAX = 4_096
"""Peers of a topic that are not grafted for a while; the one entered first makes way."""
GRAFTS_MAX = 64
"""Grafts and prunes of one peer that are looked at in a heartbeat: each topic needs one."""


class Mesh:
    """The meshes of all topics that we have joined."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._params = peers.params
        self._scores = peers.scores
        self._meshes: dict[str, dict[PeerId, None]] = {}
        self._backoff: dict[str, dict[PeerId, float]] = {}
        self._opportunistic_at: float | None = None

    def __contains__(self, topic: str) -> bool:
        return topic in self._meshes

    def topics(self) -> list[str]:
        """Topics that we have joined."""
        return list(self._meshes)

    def members(self, topic: str) -> list[Peer]:
        """The peers in the mesh of a topic."""
        found = (self._peers.get(id) for id in self._meshes.get(topic, ()))
        return [peer for peer in found if peer is not None]

    def has(self, peer: Peer, topic: str) -> bool:
        """Whether the peer is in the mesh of the topic."""
        return peer.id in self._meshes.get(topic, ())

    # -- what we do

    def join(self, topic: str, now: float, first: list[Peer]) -> None:
        """Begin a mesh, with `first` (whom we published to before) and others by chance."""
        self._meshes[topic] = {}
        first = [peer for peer in first if self._may_graft(peer, topic, now)][: self._params.d]
        for peer in first:
            self._graft(peer, topic, now)
        self._fill(topic, self._params.d - len(first), now)

    def leave(self, topic: str, now: float) -> None:
        """End a mesh: everyone in it is pruned, with the shorter back-off."""
        for peer in self.members(topic):
            self._prune(peer, topic, now, backoff_s=self._params.backoff_leave_s, names_peers=False)
        del self._meshes[topic]

    def remove(self, peer: Peer) -> None:
        """The peer is gone."""
        for mesh in self._meshes.values():
            mesh.pop(peer.id, None)

    def remove_from(self, peer: Peer, topic: str, now: float) -> None:
        """The peer has left the topic, or may no longer be in it."""
        if self.has(peer, topic):
            del self._meshes[topic][peer.id]
            self._scores.prune(peer.id, topic)
            self._set_backoff(peer, topic, now + self._params.backoff_leave_s)

    # -- what a peer says

    def take_graft(self, peer: Peer, topic: str, now: float) -> None:
        """The peer has us in its mesh; see the table above."""
        params, counts = self._params, self._peers.counts
        if not self._counts_on(peer):
            return
        if topic not in self._meshes or not self._peers.may_join(peer.id, topic):
            counts["grafts_ignored"] += 1
            return
        mesh = self._meshes[topic]
        if peer.id in mesh:
            return
        until = self._backoff.get(topic, {}).get(peer.id)
        if until is not None and now < until:
            counts["grafts_in_backoff"] += 1
            self._scores.penalise(peer.id)
            if now < until - params.backoff_s + params.graft_flood_s:
                self._scores.penalise(peer.id)
            self._prune(peer, topic, now, names_peers=False)
        elif self._scores.score(peer.id) < 0:
            self._prune(peer, topic, now, names_peers=False)
        elif len(mesh) >= params.d_high and not peer.is_outbound:
            self._prune(peer, topic, now, names_peers=True)
        else:
            self._peers.join(peer, topic)  # who grafts has joined
            mesh[peer.id] = None
            self._scores.graft(peer.id, topic, now)

    def take_prune(self, peer: Peer, prune: Prune, now: float) -> list[PeerId]:
        """The peer has us in its mesh no more. Gives the peers it names instead, where it is to be believed."""
        if not self._counts_on(peer) or prune.topic not in self._meshes:
            return []
        if self._meshes[prune.topic].pop(peer.id, 0) is None:
            self._scores.prune(peer.id, prune.topic)
        said = self._params.backoff_s if prune.backoff_s is None else min(prune.backoff_s, BACKOFF_S_MAX)
        self._set_backoff(peer, prune.topic, now + max(said, 1.0))
        if not prune.peers:
            return []
        if self._scores.score(peer.id) < self._scores.params.px_threshold:
            self._peers.counts["exchanges_ignored"] += 1
            return []
        named: list[PeerId] = []
        for raw in prune.peers[: self._params.exchange_peers]:
            try:
                named.append(PeerId(raw))
            except ValueError:
                self._peers.counts["exchanges_ignored"] += 1
        return [id for id in dict.fromkeys(named) if id not in self._peers]

    # -- the heartbeat

    def heartbeat(self, now: float) -> None:
        """Bring every mesh to its size, with the better peers in it."""
        params = self._params
        for topic in list(self._backoff):
            entries = self._backoff[topic]
            for id in [id for id, until in entries.items() if until + params.backoff_slack_s <= now]:
                del entries[id]
            if not entries:
                del self._backoff[topic]
        is_opportunistic = self._opportunistic_at is not None and now >= self._opportunistic_at
        if self._opportunistic_at is None or is_opportunistic:
            self._opportunistic_at = now + params.opportunistic_s
        for topic in list(self._meshes):
            self._tend(topic, now)
            if is_opportunistic:
                self._graft_better(topic, now)

    def _tend(self, topic: str, now: float) -> None:
        params, mesh = self._params, self._meshes[topic]
        for peer in self.members(topic):
            if self._scores.score(peer.id) < 0:
                self._prune(peer, topic, now, names_peers=False)
            elif not self._peers.may_join(peer.id, topic):
                self.remove_from(peer, topic, now)
        if len(mesh) < params.d_low:
            self._fill(topic, params.d - len(mesh), now)
        if len(mesh) > params.d_high:
            self._thin(topic, now)
        if len(mesh) >= params.d_low:
            outbound = sum(peer.is_outbound for peer in self.members(topic))
            if outbound < params.d_out:
                self._fill(topic, params.d_out - outbound, now, outbound_only=True)

    def _fill(self, topic: str, count: int, now: float, *, outbound_only: bool = False) -> None:
        if count <= 0:
            return
        candidates = [
            peer
            for peer in self._peers.members(topic, score_min=0.0)
            if self._may_graft(peer, topic, now) and (peer.is_outbound or not outbound_only)
        ]
        for peer in self._peers.sample(candidates, count):
            self._graft(peer, topic, now)

    def _thin(self, topic: str, now: float) -> None:
        """Keep the best, then others by chance, of both enough that we dialled."""
        params = self._params
        peers = self.members(topic)
        self._peers.random.shuffle(peers)
        peers.sort(key=lambda peer: -self._scores.score(peer.id))
        rest = peers[params.d_score :]
        self._peers.random.shuffle(rest)
        peers = peers[: params.d_score] + rest
        kept, others = peers[: params.d], peers[params.d :]
        missing = params.d_out - sum(peer.is_outbound for peer in kept)
        for peer in [peer for peer in others if peer.is_outbound][: max(0, missing)]:
            # It takes the place of one that dialled us: of the last, which has the least to speak for it.
            lesser = next(index for index in range(len(kept) - 1, -1, -1) if not kept[index].is_outbound)
            others[others.index(peer)], kept[lesser] = kept[lesser], peer
        for peer in others:
            self._prune(peer, topic, now, names_peers=True)

    def _graft_better(self, topic: str, now: float) -> None:
        """Where half of a mesh is worth little, take in peers that are worth more."""
        members = self.members(topic)
        if len(members) < 2:
            return
        median = statistics.median(self._scores.score(peer.id) for peer in members)
        if median >= self._scores.params.opportunistic_threshold:
            return
        better = [
            peer
            for peer in self._peers.members(topic, score_min=0.0)
            if self._scores.score(peer.id) > median and self._may_graft(peer, topic, now)
        ]
        for peer in self._peers.sample(better, self._params.opportunistic_peers):
            self._graft(peer, topic, now)

    # -- the inside

    def _may_graft(self, peer: Peer, topic: str, now: float) -> bool:
        until = self._backoff.get(topic, {}).get(peer.id)
        return (
            peer.id not in self._meshes[topic]
            and (until is None or now >= until + self._params.backoff_slack_s)
            and topic in peer.topics
            and self._peers.may_join(peer.id, topic)
            and self._scores.score(peer.id) >= 0
        )

    def _graft(self, peer: Peer, topic: str, now: float) -> None:
        self._meshes[topic][peer.id] = None
        self._scores.graft(peer.id, topic, now)
        peer.outbox.graft(topic)
        self._peers.notify(peer)

    def _prune(self, peer: Peer, topic: str, now: float, *, names_peers: bool, backoff_s: float | None = None) -> None:
        if self._meshes[topic].pop(peer.id, 0) is None:
            self._scores.prune(peer.id, topic)
        backoff_s = self._params.backoff_s if backoff_s is None else backoff_s
        self._set_backoff(peer, topic, now + backoff_s)
        named: list[Peer] = []
        if names_peers:
            others = [
                other
                for other in self._peers.members(topic, score_min=0.0)
                if other is not peer and self._peers.may_join(peer.id, topic)
            ]
            named = self._peers.sample(others, self._params.exchange_peers)
        peer.outbox.prune(Prune(topic, tuple(other.id.multihash for other in named), int(backoff_s)))
        self._peers.notify(peer)

    def _set_backoff(self, peer: Peer, topic: str, until: float) -> None:
        entries = self._backoff.setdefault(topic, {})
        before = entries.pop(peer.id, until)
        if len(entries) >= BACKOFFS_MAX:
            del entries[next(iter(entries))]
        entries[peer.id] = max(before, until)

    def _counts_on(self, peer: Peer) -> bool:
        """Whether a graft or prune of this peer is still looked at in this heartbeat."""
        peer.grafts += 1
        if peer.grafts <= GRAFTS_MAX:
            return True
        self._peers.counts["grafts_flooded"] += 1
        self._scores.penalise(peer.id, 0.1)
        return False
