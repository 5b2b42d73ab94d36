"""Presence: tells the network that this node lives and what it can do, and takes others' word for theirs.

On `rage.global` a node publishes a heartbeat every `heartbeat_interval_s`, and an announcement at the start, after a
change, when peers have joined the topic, and every ANNOUNCE_S. What others publish there is checked, kept from coming
too often, and handed on: to the membership as signs of life, to the address book as hearsay. Messages of ours that we
did not send mean that our key is used twice.

Source: seed, "Message Types" (Heartbeat, PeerAnnouncement); contracts/rage.proto; issue 3, D.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rage_net import messages
from rage_net.env import Env
from rage_net.errors import RemoteProtocolError
from rage_net.libp2p.errors import LimitError
from rage_net.libp2p.gossipsub import Message, Verdict
from rage_net.libp2p.multiaddr import Multiaddr, MultiaddrError
from rage_net.liveness import HEARTBEAT_S, HEARTBEATS_PER_S, heartbeat_interval_s
from rage_net.messages import Heartbeat, NodeInfo, PeerAnnouncement

if TYPE_CHECKING:
    from rage_net.libp2p.peer_id import PeerId
    from rage_net.libp2p.pubsub import PubSub

log = logging.getLogger("rage.presence")

TOPIC = "rage.global"
ANNOUNCE_S = 600.0
ANNOUNCE_S_MIN = 30.0
"""However many new peers are met."""
SPACING_S_MIN = 2.0
"""Between two messages of one author (see `spacing_s`); what comes sooner is not passed on."""
TWIN_S_MIN = 180.0
"""After a start our own messages of before still travel for so long: nobody remembers them longer."""
SPACING_S_MAX = 25.0
"""The same in a large network, where each beats more seldom: below ANNOUNCE_S_MIN, so that announcements pass."""
SPACED_MAX = 8192
"""Authors whose last message is remembered."""
NEWCOMERS_PER_S = 10.0
NEWCOMERS_BURST = 1024.0
"""Authors not heard before, of a whole network: keys cost nothing, and a flood of new ones would drive out all that is
remembered of those we know. Who has been heard is heard on."""


def spacing_s(nodes: int) -> float:
    """Least seconds between two announcements of one author, and from anything of it to a heartbeat.

    In a large network half of what the author waits, so that many authors together say no more than twice as much.
    """
    is_large = nodes > HEARTBEAT_S * HEARTBEATS_PER_S
    return min(SPACING_S_MAX, heartbeat_interval_s(nodes) / 2) if is_large else SPACING_S_MIN


@dataclass(frozen=True, slots=True)
class Self:
    """What this node says of itself."""

    info: NodeInfo
    capabilities: tuple[str, ...]
    addresses: tuple[Multiaddr, ...]


class Presence:
    """One node's word on `rage.global`, and its ear there.

    Args: describe: this node, now. note: takes what a node said of itself. learn: takes a peer's addresses and where
    they are from. nodes: how many nodes are known. may_speak: whether an author is listened to.
    """

    def __init__(
        self,
        pubsub: PubSub,
        env: Env,
        *,
        describe: Callable[[], Self],
        note: Callable[[PeerId, Heartbeat | PeerAnnouncement], None],
        learn: Callable[[PeerId, Iterable[Multiaddr], str], object],
        nodes: Callable[[], int],
        may_speak: Callable[[PeerId], bool],
    ) -> None:
        self.twin_at: float | None = None
        """When somebody else was last heard with our peer id, on the monotonic clock."""
        self._pubsub = pubsub
        self._env = env
        self._describe = describe
        self._note = note
        self._learn = learn
        self._nodes = nodes
        self._may_speak = may_speak
        self._own_seen = 0
        self._twin_from = env.monotonic() + TWIN_S_MIN
        self._last: OrderedDict[PeerId, tuple[float, float]] = OrderedDict()  # its last, its last announcement
        self._newcomers = NEWCOMERS_BURST
        self._refilled_at = env.monotonic()
        self._said: Self | None = None
        self._told: frozenset[PeerId] = frozenset()  # peers that had joined when we last announced ourselves
        self._beat_at = 0.0
        self._announce_at = 0.0
        self._announced_at = -ANNOUNCE_S_MIN
        self._subscription = pubsub.subscribe(TOPIC, self._judge)

    async def listen(self) -> None:
        """Hand on what others publish, for as long as the task lives."""
        async for message in self._subscription:
            heard = messages.decode_gossip(message.data)
            if heard is None:
                continue
            author = message.author
            self._note(author, heard)
            if isinstance(heard, PeerAnnouncement):
                self._learn(author, _addresses(heard.addresses), "gossip")

    def close(self) -> None:
        """Listen no more."""
        self._subscription.close()

    async def speak(self) -> None:
        """One turn: publish what is due. Call it every second or so."""
        now = self._env.monotonic()
        self._look_for_twin(now)
        peers = frozenset(self._pubsub.peers(TOPIC))
        if not peers:
            return  # nobody would hear it, and it would be due again at once
        if not peers <= self._told:  # they want to know who we are
            self._announce_at = min(self._announce_at, self._announced_at + ANNOUNCE_S_MIN)
        current = self._describe()
        has_changed = self._said is None or _lasting(current) != _lasting(self._said)
        if now >= self._announce_at or (has_changed and now >= self._announced_at + ANNOUNCE_S_MIN):
            raw = tuple(bytes(address) for address in current.addresses)
            self._publish(PeerAnnouncement(current.info, current.capabilities, raw))
            self._said, self._announced_at, self._told = current, now, peers
            self._announce_at = now + ANNOUNCE_S * self._env.random.uniform(0.9, 1.1)
            self._beat_at = now + heartbeat_interval_s(self._nodes())  # an announcement is a sign of life too
        elif now >= self._beat_at:
            self._publish(Heartbeat(current.info))
            self._beat_at = now + heartbeat_interval_s(self._nodes()) * self._env.random.uniform(0.9, 1.1)

    def _publish(self, message: Heartbeat | PeerAnnouncement) -> None:
        try:
            self._pubsub.publish(TOPIC, messages.encode_gossip(message))
        except LimitError as error:
            log.debug("not published: %s", error)

    def _look_for_twin(self, now: float) -> None:
        seen = self._pubsub.counts["own"]
        if seen > self._own_seen and now >= self._twin_from:
            if self.twin_at is None:
                log.error("another node speaks with this node's key: give each node a home and a key of its own")
            self.twin_at = now
        self._own_seen = seen

    def _judge(self, message: Message) -> Verdict:
        """Whether a message is passed on: quick, and before anything is believed."""
        author = message.author
        if not self._may_speak(author):
            return Verdict.IGNORE
        try:
            said = messages.decode_gossip(message.data)
        except RemoteProtocolError:
            return Verdict.REJECT
        now = self._env.monotonic()
        last = self._last.get(author)
        if last is None and not self._may_come(now):
            return Verdict.IGNORE
        is_announcement = isinstance(said, PeerAnnouncement)
        at, announced_at = last or (-SPACING_S_MAX, -SPACING_S_MAX)
        if now - (announced_at if is_announcement else at) < spacing_s(self._nodes()):
            return Verdict.IGNORE
        self._last.pop(author, None)
        self._last[author] = (now, now if is_announcement else announced_at)
        while len(self._last) > SPACED_MAX:
            self._last.popitem(last=False)
        return Verdict.ACCEPT

    def _may_come(self, now: float) -> bool:
        """Whether one more author who was not heard before is listened to now."""
        self._newcomers = min(NEWCOMERS_BURST, self._newcomers + (now - self._refilled_at) * NEWCOMERS_PER_S)
        self._refilled_at = now
        if self._newcomers < 1:
            return False
        self._newcomers -= 1
        return True


def _lasting(one: Self) -> tuple[object, ...]:
    """What is worth an announcement when it changes: free space is not."""
    info = one.info
    return info.organization, info.region, info.zone, info.version, one.capabilities, one.addresses


def _addresses(raw: Sequence[bytes]) -> list[Multiaddr]:
    found = []
    for each in raw:
        try:
            found.append(Multiaddr.from_bytes(each))
        except MultiaddrError:
            continue
    return found
