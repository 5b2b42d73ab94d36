"""The router: what a peer says comes in, what is to be said and delivered comes out. Sans-I/O; read this first.

    receive   subscriptions -> messages -> grafts and prunes -> IHAVE, IWANT, IDONTWANT
    message   limits -> topic joined? -> seen? -> replayed? -> signature -> the host's verdict -> deliver, forward
    heartbeat mesh -> gossip -> decay                                        once a second

The host's duties:
1. `add_peer` and `remove_peer` with each connection that speaks one of `PROTOCOLS`; `renew_peer` for each new stream.
2. `receive` for each RPC of a peer, in order; it costs 0.1 ms a message, so long ones come in `Rpc.slices`.
3. `heartbeat` every `Params.heartbeat_s`.
4. After each call: `take_pending` names the peers for whom `data_to_send` has something.
5. `reconsider` when `may_join` would say otherwise of a peer than before.

Not here: explicit peering, signed peer records, floodsub and gossipsub 1.0.
Source: libp2p/specs, pubsub, gossipsub 1.0 to 1.2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from rage_net.libp2p.errors import LimitError, RemoteProtocolError
from rage_net.libp2p.gossipsub import message as messages
from rage_net.libp2p.gossipsub.cache import History, Seen
from rage_net.libp2p.gossipsub.gossip import Gossip
from rage_net.libp2p.gossipsub.mesh import Mesh
from rage_net.libp2p.gossipsub.message import SEQUENCE_BYTES, Message, Verdict
from rage_net.libp2p.gossipsub.outbox import Outbox
from rage_net.libp2p.gossipsub.params import Params
from rage_net.libp2p.gossipsub.peers import SUBSCRIPTIONS_MAX, MayJoin, Peer, Peers
from rage_net.libp2p.gossipsub.rpc import Rpc, check_topic, encode
from rage_net.libp2p.gossipsub.score import Scores
from rage_net.libp2p.peer_id import PeerId

if TYPE_CHECKING:
    from random import Random

PROTOCOL_1_1 = "/meshsub/1.1.0"
PROTOCOL_1_2 = "/meshsub/1.2.0"
PROTOCOLS = (PROTOCOL_1_2, PROTOCOL_1_1)
"""Best first."""

TOPICS_JOINED_MAX = 64
"""Topics that we join or publish to: rage's own are three and one for each organisation."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """A message of a joined topic that is new, signed by its author, and valid; `peer` brought it."""

    message: Message
    peer: PeerId


@dataclass(frozen=True, slots=True)
class Exchanged:
    """A peer that served us well pruned us, and names others of the topic. Their addresses are unknown."""

    topic: str
    peers: tuple[PeerId, ...]
    source: PeerId


Event: TypeAlias = Delivered | Exchanged

Judge = Callable[[PeerId, Message], Verdict]


class Router:
    """Gossipsub for one node. Clocks are arguments: `now` is monotonic, `wall_now` seconds since the epoch."""

    def __init__(
        self,
        local: PeerId,
        params: Params,
        *,
        random: Random,
        sign: Callable[[bytes], bytes],
        key: bytes = b"",
        judge: Judge = lambda peer, message: Verdict.ACCEPT,
        check: Callable[[Message], None] = messages.check_signature,
        app_score: Callable[[PeerId], float] | None = None,
        may_join: MayJoin | None = None,
    ) -> None:
        self.local = local
        self.params = params
        self.scores = Scores(params.score, app_score)
        self.peers = Peers(params, self.scores, random, may_join)
        self.counts: Counter[str] = self.peers.counts
        """What happened, by name: rejected, duplicates, dropped_gossip, ... Only ever grow."""
        self.topic_counts: dict[str, Counter[str]] = {}
        """Of each topic that we joined or published to: received, duplicates, rejected, published."""
        self.mesh = Mesh(self.peers)
        self._seen = Seen(params.seen_s)
        self._history = History(params.history, params.history_gossip)
        self._gossip = Gossip(self.peers, self.mesh, self._history, self._seen)
        self._sign = sign
        self._key = key
        self._judge = judge
        self._check = check
        self._sequence = 0
        self._fanout: dict[str, tuple[dict[PeerId, None], float]] = {}  # peers, and when we last published
        self._near: dict[bytes, tuple[float, dict[PeerId, None]]] = {}  # when it came first, and who has brought it

    # -- peers

    def add_peer(self, peer_id: PeerId, host: str, *, is_outbound: bool, protocol: str) -> None:
        """A peer that speaks `protocol` is connected, at `host`; it is told our topics."""
        if peer_id in self.peers or peer_id == self.local:
            return
        peer = Peer(
            peer_id,
            host,
            is_outbound=is_outbound,
            takes_unwanted=protocol == PROTOCOL_1_2,
            outbox=Outbox(self.counts),
        )
        self.peers.add(peer)
        self._tell_topics(peer)

    def renew_peer(self, peer_id: PeerId, now: float) -> None:
        """The stream to the peer is a new one: it is told everything again, and what was under way is forgotten."""
        peer = self.peers.get(peer_id)
        if peer is None:
            return
        for topic in self.mesh.topics():
            if self.mesh.has(peer, topic):
                peer.outbox.graft(topic)
        peer.told.clear()
        self._tell_topics(peer)

    def remove_peer(self, peer_id: PeerId, now: float) -> None:
        """The peer is gone."""
        peer = self.peers.get(peer_id)
        if peer is None:
            return
        self.mesh.remove(peer)
        for members, _ in self._fanout.values():
            members.pop(peer_id, None)
        self._gossip.forget(peer_id)
        self.peers.remove(peer, now)

    def reconsider(self, peer_id: PeerId, now: float) -> None:
        """What `may_join` says of the peer has changed: tell it the topics it may join now, take it out of others."""
        peer = self.peers.get(peer_id)
        if peer is None:
            return
        for topic in list(peer.told):
            if not self.peers.may_join(peer_id, topic):
                del peer.told[topic]
                peer.outbox.subscribe(topic, False)
                self.mesh.remove_from(peer, topic, now)
        self._tell_topics(peer)

    def penalise(self, peer_id: PeerId, count: float = 1.0) -> None:
        """The peer broke a rule that the host keeps."""
        self.scores.penalise(peer_id, count)

    def is_graylisted(self, peer_id: PeerId) -> bool:
        """Whether the peer is not listened to."""
        return self.scores.score(peer_id) < self.params.score.graylist_threshold

    # -- topics

    def topics(self) -> list[str]:
        """Topics that we have joined."""
        return self.mesh.topics()

    def join(self, topic: str, now: float) -> None:
        """Join a topic. Raises ValueError for a name that is none, LimitError for one too many."""
        check_topic(topic)
        if topic in self.mesh:
            return
        self._count(topic)
        if len(self.mesh.topics()) >= TOPICS_JOINED_MAX:
            raise LimitError(f"{TOPICS_JOINED_MAX} topics are joined already")
        members, _ = self._fanout.pop(topic, ({}, 0.0))
        first = [peer for id in members if (peer := self.peers.get(id)) is not None]
        self.mesh.join(topic, now, first)
        for peer in self.peers.all():
            self._tell_topics(peer)

    def leave(self, topic: str, now: float) -> None:
        """Leave a topic."""
        if topic not in self.mesh:
            return
        self.mesh.leave(topic, now)
        for peer in self.peers.all():
            if topic in peer.told:
                del peer.told[topic]
                peer.outbox.subscribe(topic, False)
                self.peers.notify(peer)

    def publish(self, topic: str, data: bytes, now: float, wall_now: float) -> tuple[Message, int]:
        """Sign and send a message of our own. Gives it, and to how many peers it goes at once.

        Raises: ValueError for a name that is none, or more bytes than `Params.message_bytes_max`; LimitError for too
        many topics.
        """
        check_topic(topic)
        if len(data) > self.params.message_bytes_max:
            raise ValueError(f"a message has at most {self.params.message_bytes_max} bytes, this has {len(data)}")
        self._count(topic)["published"] += 1
        self._sequence = max(self._sequence + 1, int(wall_now * 1e9))
        message = messages.make_message(topic, data, self.local, self._sequence, self._sign, self._key)
        self._seen.add(message.id, now, Verdict.ACCEPT)
        self._history.put(message)
        peers = self._first_peers(topic, now)
        sent = sum(self._send(peer, message, is_own=True) for peer in peers)
        return message, sent

    # -- what a peer says

    def receive(self, peer_id: PeerId, rpc: Rpc, now: float, wall_now: float) -> list[Event]:
        """Take one RPC, or a slice of one."""
        peer = self.peers.get(peer_id)
        if peer is None:
            return []
        if self.is_graylisted(peer_id):
            self.counts["graylisted"] += 1
            return []
        for topic, is_joined in rpc.subscriptions:
            self._take_subscription(peer, topic, is_joined, now)
        events: list[Event] = []
        for message in rpc.messages:
            if self._take_message(peer, message, now, wall_now):
                events.append(Delivered(message, peer_id))
        for topic in rpc.graft:
            self.mesh.take_graft(peer, topic, now)
        for prune in rpc.prune:
            if named := self.mesh.take_prune(peer, prune, now):
                events.append(Exchanged(prune.topic, tuple(named), peer_id))
        self._gossip.take_have(peer, rpc.have, now)
        self._gossip.take_want(peer, rpc.want)
        self._gossip.take_unwanted(peer, rpc.unwanted)
        return events

    # -- time, and what leaves

    def heartbeat(self, now: float) -> None:
        """What is due once a second."""
        params = self.params
        self.mesh.heartbeat(now)
        for topic in list(self._fanout):
            members, published_at = self._fanout[topic]
            if published_at + params.fanout_s <= now:
                del self._fanout[topic]
            else:
                self._fill_fanout(topic, members)
        self._gossip.heartbeat(now, [*self.mesh.topics(), *self._fanout], self._eager_peers)
        self._seen.expire(now)
        for id in list(self._near):
            if self._near[id][0] + params.heartbeat_s > now:
                break
            del self._near[id]
        self.scores.decay(now)

    def take_pending(self) -> list[PeerId]:
        """Peers for whom something has come to wait since the last call."""
        pending = list(self.peers.pending)
        self.peers.pending.clear()
        return pending

    def take(self, peer_id: PeerId) -> Rpc | None:
        """What leaves for this peer next; call until it is None."""
        peer = self.peers.get(peer_id)
        return peer.outbox.take() if peer is not None else None

    def data_to_send(self, peer_id: PeerId) -> bytes:
        """The same as bytes, with their length before them; empty when nothing waits."""
        rpc = self.take(peer_id)
        return b"" if rpc is None else encode(rpc)

    # -- the inside

    def _take_subscription(self, peer: Peer, topic: str, is_joined: bool, now: float) -> None:
        peer.subscriptions += 1
        if peer.subscriptions > SUBSCRIPTIONS_MAX:
            self.counts["subscriptions_ignored"] += 1
        elif is_joined:
            self.peers.join(peer, topic)
        else:
            self.peers.leave(peer, topic)
            self.mesh.remove_from(peer, topic, now)

    def _take_message(self, peer: Peer, message: Message, now: float, wall_now: float) -> bool:
        """Whether it is to be delivered; it is passed on then."""
        topic, id = message.topic, message.id
        if topic not in self.mesh or not self.peers.may_join(peer.id, topic):
            self.counts["unwanted_topics"] += 1
            return False
        if len(message.seqno) != SEQUENCE_BYTES or len(message.data) > self.params.message_bytes_max:
            return self._reject(peer, topic)
        known = self._seen.get(id)
        if known is not None:
            self._take_duplicate(peer, message, known, now)
            return False
        is_own = message.source == self.local.multihash  # of an earlier life of ours, or of another with our key
        if self._seen.is_stale(message) or (is_own and message.sequence < (wall_now - self.params.seen_s) * 1e9):
            self.counts["replayed"] += 1
            return False
        if message.sequence > (wall_now + self.params.future_s) * 1e9:
            self.counts["from_the_future"] += 1
            return False
        try:
            self._check(message)
        except RemoteProtocolError:
            return self._reject(peer, topic)
        if is_own:
            self._seen.add(id, now, Verdict.IGNORE)
            self.counts["own"] += 1
            return False
        self._gossip.fulfil(id)
        self._gossip.tell_unwanted(message, peer.id)
        verdict = self._judge(peer.id, message)
        self._seen.add(id, now, verdict)
        if verdict is Verdict.REJECT:
            return self._reject(peer, topic)
        if verdict is Verdict.IGNORE:
            self.counts["ignored"] += 1
            return False
        self.scores.deliver(peer.id, topic, is_first=True)
        self._near[id] = (now, {peer.id: None})
        self._count(topic)["received"] += 1
        self._history.put(message)
        for other in self._eager_peers(topic):
            if other.id != peer.id and other.id.multihash != message.source:
                self._send(other, message)
        return True

    def _take_duplicate(self, peer: Peer, message: Message, known: Verdict, now: float) -> None:
        self.counts["duplicates"] += 1
        self._count(message.topic)["duplicates"] += 1
        if known is Verdict.REJECT:
            self.scores.reject(peer.id, message.topic)
        elif (near := self._near.get(message.id)) is not None and peer.id not in near[1]:
            near[1][peer.id] = None
            if now - near[0] <= self.params.score.of(message.topic).rate_window_s:
                self.scores.deliver(peer.id, message.topic, is_first=False)

    def _reject(self, peer: Peer, topic: str) -> bool:
        self.counts["rejected"] += 1
        self._count(topic)["rejected"] += 1
        self.scores.reject(peer.id, topic)
        return False

    def _send(self, peer: Peer, message: Message, *, is_own: bool = False) -> bool:
        """Queue a message for a peer that may have it and does not say it has."""
        if not self.peers.may_join(peer.id, message.topic):
            return False
        if message.id in peer.has:
            self.counts["saved"] += 1
            return False
        is_sent = peer.outbox.send(message, is_own=is_own)
        self.peers.notify(peer)
        return is_sent

    def _eager_peers(self, topic: str) -> list[Peer]:
        """Who gets a message of the topic at once: the mesh, or the fan-out of a topic that we have not joined."""
        if topic in self.mesh:
            return self.mesh.members(topic)
        members, _ = self._fanout.get(topic, ({}, 0.0))
        return [peer for id in members if (peer := self.peers.get(id)) is not None]

    def _first_peers(self, topic: str, now: float) -> list[Peer]:
        """Who gets what we publish."""
        threshold = self.params.score.publish_threshold
        if self.params.flood_publish:
            return self.peers.members(topic, score_min=threshold)
        if topic not in self.mesh:
            members, _ = self._fanout.get(topic, ({}, 0.0))
            self._fanout[topic] = (members, now)
            self._fill_fanout(topic, members)
        return [peer for peer in self._eager_peers(topic) if self.scores.score(peer.id) >= threshold]

    def _fill_fanout(self, topic: str, members: dict[PeerId, None]) -> None:
        threshold = self.params.score.publish_threshold
        good = self.peers.members(topic, score_min=threshold)
        ids = {peer.id for peer in good}
        for id in [id for id in members if id not in ids]:
            del members[id]
        others = [peer for peer in good if peer.id not in members]
        for peer in self.peers.sample(others, max(0, self.params.d - len(members))):
            members[peer.id] = None

    def _tell_topics(self, peer: Peer) -> None:
        for topic in self.mesh.topics():
            if topic not in peer.told and self.peers.may_join(peer.id, topic):
                peer.told[topic] = None
                peer.outbox.subscribe(topic, True)
        self.peers.notify(peer)

    def _count(self, topic: str) -> Counter[str]:
        """The counts of a topic of ours."""
        if topic not in self.topic_counts:
            if len(self.topic_counts) >= 16 * TOPICS_JOINED_MAX:
                for old in [old for old in self.topic_counts if old not in self.mesh]:
                    del self.topic_counts[old]
            self.topic_counts[topic] = Counter()
        return self.topic_counts[topic]
