"""Who reads a topic here: what waits for each reader, bounded, and what is told of topics. No network."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from rage_net.libp2p.gossipsub import Message, Verdict

SUBSCRIPTION_MESSAGES_MAX = 1_024
SUBSCRIPTION_BYTES_MAX = 4 * 1024 * 1024
"""What waits for one reader; the oldest makes way."""

Validate = Callable[[Message], Verdict]


@dataclass(frozen=True, slots=True)
class TopicState:
    """One topic; the counts are since we first joined it or published to it."""

    topic: str
    is_joined: bool
    peers: int
    """Connected peers that have joined it."""
    mesh: int
    received: int
    duplicates: int
    rejected: int
    published: int


class Subscription:
    """Messages of a topic as they come: iterate over it, and `close` it; or use it with `async with`."""

    def __init__(self, topic: str, validate: Validate | None, on_close: Callable[[Subscription], None]) -> None:
        self.topic = topic
        self.validate = validate
        self.dropped = 0
        """Messages that made way because the reader was slow."""
        self._on_close = on_close
        self._waiting: deque[Message] = deque()
        self._bytes = 0
        self._is_closed = False
        self._changed = asyncio.Event()

    def put(self, message: Message) -> int:
        """Give it a message. The number of those that made way."""
        before = self.dropped
        self._waiting.append(message)
        self._bytes += message.size
        while len(self._waiting) > SUBSCRIPTION_MESSAGES_MAX or self._bytes > SUBSCRIPTION_BYTES_MAX:
            self._bytes -= self._waiting.popleft().size
            self.dropped += 1
        self._changed.set()
        return self.dropped - before

    def close(self) -> None:
        """No more messages. The topic is left with its last subscription; what waits can still be read."""
        if not self._is_closed:
            self._is_closed = True
            self._changed.set()
            self._on_close(self)

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Message:
        while not self._waiting:
            if self._is_closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        message = self._waiting.popleft()
        self._bytes -= message.size
        return message

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
