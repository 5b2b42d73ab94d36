"""What is remembered of messages: names that were seen, and messages that others may want. Bounded, and timed by `now`.

A name that the seen cache forgets raises the floor of its author, and nothing at or below the floor is taken any more:
so a replay is refused however old it is, while messages that come out of order within the cache's time are taken.
Source: libp2p/specs, gossipsub 1.0 (Message Cache); go-libp2p-pubsub's basic seqno validator is the same idea without
the leeway for disorder.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from rage_net.libp2p.gossipsub.message import SEQUENCE_BYTES, Message, Verdict

SEEN_MAX = 32_768
"""Names of messages, 250 bytes each: 270 messages a second for two minutes."""
FLOORS_MAX = 8_192
"""Authors whose last forgotten sequence number is kept; the one heard of least recently makes way."""
HISTORY_BYTES_MAX = 8 * 1024 * 1024
"""Messages kept for those who want them."""
HISTORY_MESSAGES_MAX = 8_192


class Seen:
    """Names of messages with what was decided about each."""

    def __init__(self, ttl_s: float, size: int = SEEN_MAX, floors: int = FLOORS_MAX) -> None:
        self._ttl_s = ttl_s
        self._size = size
        self._floors_max = floors
        self._seen: dict[bytes, tuple[float, Verdict]] = {}  # in the order they came, which is that of their ends
        self._floors: dict[bytes, int] = {}  # by author, the least recent first

    def __len__(self) -> int:
        return len(self._seen)

    def __contains__(self, id: bytes) -> bool:
        return id in self._seen

    def get(self, id: bytes) -> Verdict | None:
        """What was decided; None when it has not been seen, or is forgotten."""
        entry = self._seen.get(id)
        return entry[1] if entry is not None else None

    def add(self, id: bytes, now: float, verdict: Verdict) -> None:
        """Remember a message whose signature is good."""
        if id not in self._seen and len(self._seen) >= self._size:
            self._forget(next(iter(self._seen)))
        self._seen[id] = (now + self._ttl_s, verdict)

    def is_stale(self, message: Message) -> bool:
        """Whether its author had sent as much, or more, by the time that this cache has forgotten."""
        return message.sequence <= self._floors.get(message.source, -1)

    def expire(self, now: float) -> None:
        """Forget what is old."""
        while self._seen:
            id = next(iter(self._seen))
            if self._seen[id][0] > now:
                break
            self._forget(id)

    def _forget(self, id: bytes) -> None:
        del self._seen[id]
        source, sequence = id[:-SEQUENCE_BYTES], int.from_bytes(id[-SEQUENCE_BYTES:], "big")
        floor = self._floors.pop(source, -1)
        if floor < 0 and len(self._floors) >= self._floors_max:
            del self._floors[next(iter(self._floors))]
        self._floors[source] = max(floor, sequence)


@dataclass(slots=True)
class _Kept:
    message: Message
    sent: dict[bytes, int] = field(default_factory=dict)  # by peer id, how often it asked


class History:
    """Messages of the last heartbeats, for gossip and for those who ask."""

    def __init__(self, length: int, gossip: int, bytes_max: int = HISTORY_BYTES_MAX) -> None:
        self._kept: dict[bytes, _Kept] = {}
        self._windows: deque[list[bytes]] = deque([[]], maxlen=length)  # the newest first
        self._gossip = gossip
        self._bytes_max = bytes_max
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, message: Message) -> None:
        """Keep a message; the oldest make way."""
        if message.id in self._kept:
            return
        while self._kept and (self.bytes + message.size > self._bytes_max or len(self._kept) >= HISTORY_MESSAGES_MAX):
            self._drop(next(iter(self._kept)))
        self._kept[message.id] = _Kept(message)
        self._windows[0].append(message.id)
        self.bytes += message.size

    def get(self, id: bytes) -> Message | None:
        """The message, if it is kept."""
        kept = self._kept.get(id)
        return kept.message if kept is not None else None

    def ask(self, id: bytes, peer: bytes) -> tuple[Message, int] | None:
        """The message, and how often this peer has asked for it, this time included."""
        kept = self._kept.get(id)
        if kept is None:
            return None
        kept.sent[peer] = kept.sent.get(peer, 0) + 1
        return kept.message, kept.sent[peer]

    def ids(self, topic: str) -> list[bytes]:
        """Names to gossip about, the newest first."""
        windows = list(self._windows)[: self._gossip]
        return [id for window in windows for id in window if id in self._kept and self._kept[id].message.topic == topic]

    def shift(self) -> None:
        """A heartbeat has passed: the oldest window goes."""
        if len(self._windows) == self._windows.maxlen:
            for id in self._windows[-1]:
                self._drop(id)
        self._windows.appendleft([])

    def _drop(self, id: bytes) -> None:
        kept = self._kept.pop(id, None)
        if kept is not None:
            self.bytes -= kept.message.size
