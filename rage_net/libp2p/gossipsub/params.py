"""Every number of gossipsub that a host may choose: the mesh, gossip, and how peers are scored. No code that decides.

The names are the specification's (D, D_lo, ... as `d`, `d_low`), so that its text can be read beside this.
Source: libp2p/specs, gossipsub 1.0 (Parameters), 1.1 (Overview of New Parameters), 1.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class TopicScore:
    """How a peer's deeds in one topic count."""

    weight: float = 1.0
    mesh_time_weight: float = 0.01
    """P1: a point is a second in the mesh. Who has been there for minutes is not the first to be pruned."""
    mesh_time_cap: float = 300.0
    first_weight: float = 0.5
    """P2: messages that the peer was the first to bring."""
    first_decay: float = 0.993
    """A tenth is left after 5.5 minutes."""
    first_cap: float = 40.0
    rate_weight: float = 0.0
    """P3: at most 0; missed deliveries while in the mesh. Off, because rage's topics are quiet for minutes, and then a
    peer that has nothing to deliver looks like one that withholds it."""
    rate_decay: float = 0.99
    rate_threshold: float = 1.0
    rate_cap: float = 40.0
    rate_activation_s: float = 30.0
    rate_window_s: float = 0.01
    """A duplicate so soon after the first copy is a delivery too."""
    failure_weight: float = 0.0
    """P3b: what was missing when the peer was pruned. Off with P3."""
    failure_decay: float = 0.99
    invalid_weight: float = -20.0
    """P4, squared: the second invalid message reaches the graylist. Nobody honest passes one on."""
    invalid_decay: float = 0.9994
    """A tenth is left after an hour."""


@dataclass(frozen=True, kw_only=True)
class ScoreParams:
    """The score of a peer: what it did in topics, whom it shares an address with, how it behaves."""

    topic: TopicScore = TopicScore()
    topics: dict[str, TopicScore] = field(default_factory=dict)
    """Topics that count otherwise."""
    topics_cap: float = 40.0
    """Good deeds are worth no more than this, or an old friend might do anything."""
    app_weight: float = 1.0
    """P5: what the host says of a peer."""
    colocation_weight: float = -0.1
    """P6, squared: peers at one address beyond the threshold."""
    colocation_threshold: int = 16
    """An organisation's nodes behind one gateway are honest; the swarm itself takes 64 of them."""
    colocation_exempt: tuple[str, ...] = ("127.0.0.1", "::1")
    behaviour_weight: float = -10.0
    """P7, squared: grafts that were forbidden, promises that were not kept, floods."""
    behaviour_threshold: float = 6.0
    """So many are borne: a lost connection breaks promises too."""
    behaviour_decay: float = 0.98
    decay_s: float = 1.0
    decay_to_zero: float = 0.01
    retain_s: float = 600.0
    """A peer's score is kept for so long after it left: hanging up makes nobody innocent."""

    gossip_threshold: float = -10.0
    """Below it: no gossip to or from the peer."""
    publish_threshold: float = -50.0
    """Below it: not sent what we publish."""
    graylist_threshold: float = -80.0
    """Below it: not listened to at all."""
    px_threshold: float = 5.0
    """From it on, the peers that a peer names when it prunes us are believed; minutes of good service reach it."""
    opportunistic_threshold: float = 1.0
    """A mesh whose median is below this grafts better ones."""

    def __post_init__(self) -> None:
        if not self.graylist_threshold < self.publish_threshold <= self.gossip_threshold < 0 <= self.px_threshold:
            raise ValueError("thresholds: graylist < publish <= gossip < 0 <= px")
        for topic in (self.topic, *self.topics.values()):
            if max(topic.rate_weight, topic.failure_weight, topic.invalid_weight) > 0:
                raise ValueError("weights of P3, P3b and P4 are at most 0")
        if max(self.colocation_weight, self.behaviour_weight) > 0:
            raise ValueError("weights of P6 and P7 are at most 0")

    def of(self, topic: str) -> TopicScore:
        """How `topic` counts."""
        return self.topics.get(topic, self.topic)


@dataclass(frozen=True, kw_only=True)
class Params:
    """The router's numbers; times in seconds."""

    d: int = 6
    """Peers wanted in a mesh."""
    d_low: int = 5
    d_high: int = 12
    d_score: int = 4
    """Of those kept when a mesh is too large, so many by score, the others by chance."""
    d_out: int = 2
    """Of a mesh, so many that we dialled: who dials us cannot take it over."""
    d_lazy: int = 6
    gossip_factor: float = 0.25
    """Gossip goes to this part of the peers outside the mesh, and to `d_lazy` at least."""
    heartbeat_s: float = 1.0
    history: int = 5
    """Heartbeats a message is kept for those who want it."""
    history_gossip: int = 3
    """Heartbeats a message is gossiped about."""
    seen_s: float = 120.0
    """How long a message's id is remembered."""
    future_s: float = 600.0
    """Sequence numbers are wall-clock nanoseconds; one further ahead of our clock than this is not taken."""
    flood_publish: bool = True
    """What we publish goes to every peer of the topic, not to the mesh alone."""
    fanout_s: float = 60.0
    """Without flood publishing: how long peers of a topic that we have not joined are kept."""
    backoff_s: float = 60.0
    """After a prune neither side grafts for so long."""
    backoff_leave_s: float = 10.0
    """The same after leaving a topic."""
    backoff_slack_s: float = 2.0
    """We wait so much longer than we were told: clocks and heartbeats differ."""
    graft_flood_s: float = 10.0
    """A graft so soon after the prune counts twice."""
    exchange_peers: int = 16
    """Peers named in a prune; more than `d_high`, so that they make a mesh."""
    opportunistic_s: float = 60.0
    opportunistic_peers: int = 2
    want_answers: int = 3
    """How often one message is sent to one peer that asks for it."""
    promise_s: float = 3.0
    """What a peer says it has comes within so long, once asked for."""
    unwanted_bytes_min: int = 1024
    """From this size on the mesh is told that a message need not be sent again; smaller ones cost less than that."""
    unwanted_heartbeats: int = 3
    """How long such a word is kept."""
    message_bytes_max: int = 64 * 1024
    """Of a message's data: rage's own largest."""
    score: ScoreParams = field(default_factory=ScoreParams)

    def __post_init__(self) -> None:
        if not 0 <= self.d_low <= self.d <= self.d_high or not self.d_out <= self.d // 2 or self.d_score > self.d:
            raise ValueError("degrees: 0 <= d_low <= d <= d_high, d_out <= d / 2, d_score <= d")
        if not 0 < self.history_gossip <= self.history:
            raise ValueError("history: 0 < history_gossip <= history")
