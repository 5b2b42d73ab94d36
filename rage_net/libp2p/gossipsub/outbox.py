"""What waits to be sent to one peer, kept apart by kind: what is said twice is said once, and the least is lost.

When a peer reads slowly, gossip is dropped first, then the oldest messages passed on for others, then the oldest of our
own; subscriptions, grafts and prunes are one a topic, and are never dropped. Each drop is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rage_net.libp2p.gossipsub.message import Message
from rage_net.libp2p.gossipsub.rpc import Have, Prune, Rpc

OUTBOX_BYTES_MAX = 1024 * 1024
"""Messages and gossip that wait for one peer. The messages are those of all other outboxes, and shared with them."""
RPC_MESSAGE_BYTES = 128 * 1024
"""An RPC of ours takes messages until they reach this."""
RPC_IDS_MAX = 2_000
"""Names of each kind in an RPC of ours: 100 KiB."""
ID_COST = 64
"""What a name counts as, in bytes."""


class Outbox:
    """For one peer. Nothing here decides what to send, only what leaves next."""

    def __init__(self, counts: Counter[str], bytes_max: int = OUTBOX_BYTES_MAX) -> None:
        self.bytes = 0
        self._counts = counts
        self._bytes_max = bytes_max
        self._subscriptions: dict[str, bool] = {}
        self._mesh: dict[str, Prune | None] = {}  # None is a graft; the last word counts
        self._own: dict[bytes, Message] = {}
        self._passed: dict[bytes, Message] = {}
        self._have: dict[str, dict[bytes, None]] = {}
        self._want: dict[bytes, None] = {}
        self._unwanted: dict[bytes, None] = {}

    def __bool__(self) -> bool:
        return bool(self._subscriptions or self._mesh or self.bytes)

    def subscribe(self, topic: str, is_joined: bool) -> None:
        """Tell that we have joined or left a topic."""
        self._subscriptions[topic] = is_joined

    def graft(self, topic: str) -> None:
        """Tell the peer that it is in our mesh."""
        self._mesh[topic] = None

    def prune(self, prune: Prune) -> None:
        """Tell the peer that it is not in our mesh."""
        self._mesh[prune.topic] = prune

    def send(self, message: Message, *, is_own: bool = False) -> bool:
        """Queue a message. False when there is no room even after what is less important is dropped."""
        if message.id in self._own or message.id in self._passed:
            return True
        if not self._make_room(message.size, is_own):
            self._counts["dropped_messages"] += 1
            return False
        (self._own if is_own else self._passed)[message.id] = message
        self.bytes += message.size
        return True

    def take_back(self, id: bytes) -> bool:
        """The peer has this message: do not send it. True when it was waiting."""
        message = self._passed.pop(id, None)
        if message is not None:
            self.bytes -= message.size
        return message is not None

    def have(self, topic: str, ids: Iterable[bytes]) -> None:
        """Gossip about messages."""
        self._add_ids(self._have.setdefault(topic, {}), ids)

    def want(self, ids: Iterable[bytes]) -> None:
        """Ask for messages."""
        self._add_ids(self._want, ids)

    def unwanted(self, id: bytes) -> None:
        """Tell the peer that it need not send a message."""
        self._add_ids(self._unwanted, (id,))

    def take(self) -> Rpc | None:
        """What leaves next, as one RPC that every peer accepts; None when nothing waits."""
        if not self:
            return None
        rpc = Rpc(
            subscriptions=tuple(self._subscriptions.items()),
            # What need not be sent is said ahead of messages: behind a large one it would be too late.
            messages=() if self._unwanted else tuple(self._take_messages()),
            have=tuple(self._take_have()),
            want=self._take_ids(self._want),
            graft=tuple(topic for topic, prune in self._mesh.items() if prune is None),
            prune=tuple(prune for prune in self._mesh.values() if prune is not None),
            unwanted=self._take_ids(self._unwanted),
        )
        self._subscriptions.clear()
        self._mesh.clear()
        return rpc

    def _take_messages(self) -> list[Message]:
        out: list[Message] = []
        size = 0
        for part in (self._own, self._passed):
            while part and size < RPC_MESSAGE_BYTES:
                message = part.pop(next(iter(part)))
                size += message.size
                out.append(message)
        self.bytes -= size
        return out

    def _take_have(self) -> list[Have]:
        out, left = [], RPC_IDS_MAX
        for topic in list(self._have):
            if left <= 0:
                break
            ids = self._take_ids(self._have[topic], left)
            left -= len(ids)
            if ids:
                out.append(Have(topic, ids))
            if not self._have[topic]:
                del self._have[topic]
        return out

    def _take_ids(self, part: dict[bytes, None], limit: int = RPC_IDS_MAX) -> tuple[bytes, ...]:
        ids = tuple(part)[:limit]
        for id in ids:
            del part[id]
        self.bytes -= ID_COST * len(ids)
        return ids

    def _add_ids(self, part: dict[bytes, None], ids: Iterable[bytes]) -> None:
        for id in ids:
            if id in part:
                continue
            if self.bytes + ID_COST > self._bytes_max:
                self._counts["dropped_gossip"] += 1
                continue
            part[id] = None
            self.bytes += ID_COST

    def _make_room(self, size: int, is_own: bool) -> bool:
        if self.bytes + size > self._bytes_max:
            self._drop_gossip()
        for part in (self._passed, self._own) if is_own else (self._passed,):
            while part and self.bytes + size > self._bytes_max:
                self.bytes -= part.pop(next(iter(part))).size
                self._counts["dropped_messages"] += 1
        return self.bytes + size <= self._bytes_max

    def _drop_gossip(self) -> None:
        for ids in (self._want, self._unwanted, *self._have.values()):
            self._counts["dropped_gossip"] += len(ids)
            self.bytes -= ID_COST * len(ids)
            ids.clear()
        self._have.clear()
