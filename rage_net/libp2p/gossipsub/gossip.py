"""Gossip: telling peers outside the mesh what we have, asking for what we lack, and what was promised.

What one peer may cost in a heartbeat is counted in its `Peer`; a peer that says it has a message, is asked for it, and
does not send it in time has broken a promise, and is penalised.
Source: libp2p/specs, gossipsub 1.0 (Gossip Emission), 1.1 (Adaptive Gossip Dissemination, Spam Protection Measures),
1.2 (IDONTWANT).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rage_net.libp2p.gossipsub.cache import History, Seen
from rage_net.libp2p.gossipsub.mesh import Mesh
from rage_net.libp2p.gossipsub.message import Message
from rage_net.libp2p.gossipsub.peers import UNWANTED_MAX, Peer, Peers
from rage_net.libp2p.gossipsub.rpc import Have
from rage_net.libp2p.peer_id import PeerId

HAVES_MAX = 10
"""IHAVEs of one peer that are looked at in a heartbeat: one a topic, and some more."""
WANTED_MAX = 5_000
"""Messages that one peer is asked for in a heartbeat, and that it may ask for: as all implementations have it."""
PROMISES_MAX = 10_000
"""Promises that are watched at a time, one an IHAVE."""


class Gossip:
    """Both sides of gossip."""

    def __init__(self, peers: Peers, mesh: Mesh, history: History, seen: Seen) -> None:
        self._peers = peers
        self._mesh = mesh
        self._params = peers.params
        self._scores = peers.scores
        self._history = history
        self._seen = seen
        self._promises: dict[bytes, dict[PeerId, float]] = {}  # message -> who promised it, and until when

    def take_have(self, peer: Peer, said: Sequence[Have], now: float) -> None:
        """The peer has messages: ask for those that we have not seen."""
        for have in said:
            peer.haves += 1
            if peer.haves > HAVES_MAX:
                self._peers.counts["haves_ignored"] += 1
                continue
            if self._scores.score(peer.id) < self._scores.params.gossip_threshold:
                self._peers.counts["haves_ignored"] += 1
                continue
            if have.topic not in self._mesh or not self._peers.may_join(peer.id, have.topic):
                continue
            lacking = list(dict.fromkeys(id for id in have.ids if id not in self._seen))
            room = WANTED_MAX - peer.wanted_of_it
            if len(lacking) > room:
                self._peers.counts["haves_ignored"] += 1
                lacking = self._peers.random.sample(lacking, room)
            if not lacking:
                continue
            peer.wanted_of_it += len(lacking)
            peer.outbox.want(lacking)
            self._peers.notify(peer)
            if len(self._promises) < PROMISES_MAX:
                promised = self._peers.random.choice(lacking)
                self._promises.setdefault(promised, {}).setdefault(peer.id, now + self._params.promise_s)

    def take_want(self, peer: Peer, ids: Sequence[bytes]) -> None:
        """The peer wants messages: send those that we have, a few times each."""
        if not ids:
            return
        if self._scores.score(peer.id) < self._scores.params.gossip_threshold:
            self._peers.counts["wants_ignored"] += len(ids)
            return
        for id in ids:
            peer.wanted_by_it += 1
            if peer.wanted_by_it > WANTED_MAX:
                self._peers.counts["wants_ignored"] += 1
                continue
            found = self._history.ask(id, peer.id.multihash)
            if found is None:
                continue
            message, times = found
            if times > self._params.want_answers or not self._peers.may_join(peer.id, message.topic):
                self._peers.counts["wants_ignored"] += 1
                continue
            peer.outbox.send(message)
        self._peers.notify(peer)

    def take_unwanted(self, peer: Peer, ids: Sequence[bytes]) -> None:
        """The peer has these messages: do not send them for a while."""
        for id in ids:
            peer.unwanted += 1
            if peer.unwanted > UNWANTED_MAX:
                self._peers.counts["unwanted_ignored"] += 1
                continue
            peer.has[id] = self._params.unwanted_heartbeats
            if peer.outbox.take_back(id):
                self._peers.counts["saved"] += 1

    def tell_unwanted(self, message: Message, source: PeerId | None) -> None:
        """A large message is here: the mesh need not send it again.

        Only after its signature was checked, or whoever forges one keeps the true one from us.
        """
        if message.size < self._params.unwanted_bytes_min:
            return
        for peer in self._mesh.members(message.topic):
            if peer.takes_unwanted and peer.id != source and self._peers.may_join(peer.id, message.topic):
                peer.outbox.unwanted(message.id)
                self._peers.notify(peer)

    def fulfil(self, id: bytes) -> None:
        """The message has come, from whomever: promises of it are kept."""
        self._promises.pop(id, None)

    def forget(self, peer: PeerId) -> None:
        """The peer is gone, and owes nothing."""
        for id in [id for id, owing in self._promises.items() if peer in owing]:
            del self._promises[id][peer]
            if not self._promises[id]:
                del self._promises[id]

    def heartbeat(self, now: float, topics: Sequence[str], excluded: Callable[[str], Sequence[Peer]]) -> None:
        """Count broken promises, and tell some peers of each topic what came of late.

        Args: topics: those that we joined or publish to. excluded: peers of a topic that get messages at once.
        """
        for id in list(self._promises):
            owing = self._promises[id]
            for peer in [peer for peer, until in owing.items() if until <= now]:
                del owing[peer]
                self._peers.counts["promises_broken"] += 1
                self._scores.penalise(peer)
            if not owing:
                del self._promises[id]
        for topic in topics:
            self._emit(topic, excluded(topic))
        self._history.shift()
        for other in self._peers.all():
            other.begin_heartbeat()
            if other.has:
                other.has = {id: left - 1 for id, left in other.has.items() if left > 1}

    def _emit(self, topic: str, excluded: Sequence[Peer]) -> None:
        ids = self._history.ids(topic)
        if not ids:
            return
        skipped = {peer.id for peer in excluded}
        candidates = [
            peer
            for peer in self._peers.members(topic, score_min=self._scores.params.gossip_threshold)
            if peer.id not in skipped
        ]
        count = max(self._params.d_lazy, int(self._params.gossip_factor * len(candidates)))
        for peer in self._peers.sample(candidates, count):
            told = ids if len(ids) <= WANTED_MAX else self._peers.random.sample(ids, WANTED_MAX)
            peer.outbox.have(topic, told)
            self._peers.notify(peer)
