"""The peers that speak gossipsub with us: what each has joined, what it was told, what waits for it.

Also which of them may be spoken to about a topic: joined, allowed by the host (`may_join`), and of a score.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from rage_net.libp2p.gossipsub.outbox import Outbox
from rage_net.libp2p.gossipsub.params import Params
from rage_net.libp2p.gossipsub.score import Scores
from rage_net.libp2p.peer_id import PeerId

if TYPE_CHECKING:
    from random import Random

TOPICS_PER_PEER_MAX = 128
"""Topics that a peer may have joined as far as we care; 512 peers with this many long names take 20 MiB."""
SUBSCRIPTIONS_MAX = 1_000
"""Subscriptions of one peer that are looked at in a heartbeat."""
UNWANTED_MAX = 512
"""Names of messages that one peer may say in a heartbeat it does not want: as js-libp2p has it."""

MayJoin = Callable[[PeerId, str], bool]


class Peer:
    """One peer."""

    __slots__ = (
        "grafts",
        "has",
        "haves",
        "host",
        "id",
        "is_outbound",
        "outbox",
        "subscriptions",
        "takes_unwanted",
        "told",
        "topics",
        "unwanted",
        "wanted_by_it",
        "wanted_of_it",
    )

    def __init__(self, id: PeerId, host: str, *, is_outbound: bool, takes_unwanted: bool, outbox: Outbox) -> None:
        self.id = id
        self.host = host
        self.is_outbound = is_outbound
        """Whether we dialled it."""
        self.takes_unwanted = takes_unwanted
        """Whether it speaks 1.2."""
        self.outbox = outbox
        self.topics: dict[str, None] = {}
        self.told: dict[str, None] = {}
        """Topics it knows that we have joined."""
        self.has: dict[bytes, int] = {}
        """Messages it said it does not want, and for how many more heartbeats."""
        self.begin_heartbeat()

    def begin_heartbeat(self) -> None:
        """What is counted for each heartbeat begins anew."""
        self.haves = 0
        self.wanted_of_it = 0
        self.wanted_by_it = 0
        self.unwanted = 0
        self.grafts = 0
        self.subscriptions = 0


class Peers:
    """All of them, in the order they came: a seed repeats a run."""

    def __init__(self, params: Params, scores: Scores, random: Random, may_join: MayJoin | None = None) -> None:
        self.params = params
        self.scores = scores
        self.random = random
        self.counts: Counter[str] = Counter()
        self.may_join: MayJoin = may_join or (lambda peer, topic: True)
        self._peers: dict[PeerId, Peer] = {}
        self._topics: dict[str, dict[PeerId, None]] = {}
        self.pending: dict[PeerId, None] = {}
        """Peers for whom something waits."""

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._peers

    def __len__(self) -> int:
        return len(self._peers)

    def all(self) -> list[Peer]:
        """Every peer."""
        return list(self._peers.values())

    def get(self, peer: PeerId) -> Peer | None:
        """The peer, if it is here."""
        return self._peers.get(peer)

    def add(self, peer: Peer) -> None:
        """It is connected, and speaks gossipsub."""
        self._peers[peer.id] = peer
        self.scores.add(peer.id, peer.host)

    def remove(self, peer: Peer, now: float) -> None:
        """It is gone."""
        for topic in list(peer.topics):
            self.leave(peer, topic)
        del self._peers[peer.id]
        self.pending.pop(peer.id, None)
        self.scores.remove(peer.id, now)

    def join(self, peer: Peer, topic: str) -> bool:
        """The peer says it has joined a topic. False when it has said so of too many."""
        if topic in peer.topics:
            return True
        if len(peer.topics) >= TOPICS_PER_PEER_MAX:
            self.counts["topics_refused"] += 1
            return False
        peer.topics[topic] = None
        self._topics.setdefault(topic, {})[peer.id] = None
        return True

    def leave(self, peer: Peer, topic: str) -> None:
        """The peer says it has left a topic."""
        if topic not in peer.topics:
            return
        del peer.topics[topic]
        members = self._topics[topic]
        del members[peer.id]
        if not members:
            del self._topics[topic]

    def topics(self) -> list[str]:
        """Every topic that some peer has joined."""
        return list(self._topics)

    def members(self, topic: str, *, score_min: float | None = None) -> list[Peer]:
        """Peers that have joined `topic` and may, from a score on."""
        return [
            self._peers[id]
            for id in self._topics.get(topic, ())
            if self.may_join(id, topic) and (score_min is None or self.scores.score(id) >= score_min)
        ]

    def sample(self, peers: list[Peer], count: int) -> list[Peer]:
        """Some of them, by chance."""
        return self.random.sample(peers, count) if count < len(peers) else peers

    def notify(self, peer: Peer) -> None:
        """Something was put into its outbox."""
        if peer.outbox:
            self.pending[peer.id] = None
