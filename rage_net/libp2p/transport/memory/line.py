"""A host's access line in one direction: so many bytes a second, its links served in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rage_net.libp2p.transport.memory.link import MemoryLink

TURN_BYTES = 16 * 1024
"""What one link sends in its turn: small, so that a full link delays another's few bytes by little."""


@dataclass(slots=True)
class _Queue:
    pass_on: Callable[[bytes], None]
    data: bytearray = field(default_factory=bytearray)


class Line:
    """Bytes go in at once and come out at `rate_bytes_s`."""

    def __init__(self, rate_bytes_s: float, context: Context) -> None:
        if rate_bytes_s <= 0:
            raise ValueError(f"a line carries more than 0 bytes a second, not {rate_bytes_s}")
        self.rate_bytes_s = rate_bytes_s
        self._context = context
        self._queues: dict[MemoryLink, _Queue] = {}  # whose turn is next comes first
        self._is_busy = False

    def push(self, link: MemoryLink, data: bytes, pass_on: Callable[[bytes], None]) -> None:
        """Call `pass_on` with the bytes, in order and in parts, as the line carries them."""
        queue = self._queues.get(link)
        if queue is None:
            queue = self._queues[link] = _Queue(pass_on)
        queue.data += data
        if not self._is_busy:
            self._serve()

    def _serve(self) -> None:
        link = next(iter(self._queues), None)
        self._is_busy = link is not None
        if link is None:
            return
        queue = self._queues.pop(link)
        part = bytes(queue.data[:TURN_BYTES])
        del queue.data[:TURN_BYTES]
        if queue.data:
            self._queues[link] = queue
        takes_s = len(part) / self.rate_bytes_s
        asyncio.get_running_loop().call_later(takes_s, self._carried, queue.pass_on, part, context=self._context)

    def _carried(self, pass_on: Callable[[bytes], None], part: bytes) -> None:
        pass_on(part)
        self._serve()
