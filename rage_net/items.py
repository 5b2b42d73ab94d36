"""What a running verb tells, one item at a time, on its way to whoever reads: a queue that is bounded.

A verb tells from any thread and never waits: where the reader is slow the oldest items go, and are counted. Both ends
of a command use it: the control API between a verb and its client, the command line between an engine and stdout.

Not here: what the items are (`verbs`), how they travel (`control`).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

ITEMS_MAX = 1024
"""That nobody has taken yet: some seconds of a busy topic."""
ITEMS_BYTES_MAX = 8 * 1024 * 1024
"""Of those, whichever limit comes first: messages of 64 KiB are told in base64."""


class Items(Generic[T]):
    """The queue. `on_first` is called, from the thread that puts, when there is something to take where nothing was."""

    def __init__(
        self,
        on_first: Callable[[], None] = lambda: None,
        *,
        items_max: int = ITEMS_MAX,
        bytes_max: int = ITEMS_BYTES_MAX,
    ) -> None:
        self.on_first = on_first
        self._is_closed = False
        self._items_max = items_max
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._waiting: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._dropped = 0
        self.dropped_total = 0

    def put(self, item: T, size: int) -> None:
        """Add an item of `size` bytes; the oldest go where it finds no room, the newest never."""
        with self._lock:
            if self._is_closed:
                return
            is_first = not self._waiting
            self._waiting.append((item, size))
            self._bytes += size
            while len(self._waiting) > self._items_max or (self._bytes > self._bytes_max and len(self._waiting) > 1):
                self._bytes -= self._waiting.popleft()[1]
                self._dropped += 1
                self.dropped_total += 1
        if is_first:
            self.on_first()

    def take(self, bytes_max: int | None = None) -> tuple[int, list[T]]:
        """How many were dropped since the last time, before the first of what is taken; and that, oldest first.

        With `bytes_max` no more than so many bytes, but one item at least: the caller comes again until it is empty.
        """
        with self._lock:
            dropped, self._dropped = self._dropped, 0
            taken: list[T] = []
            size = 0
            while self._waiting and (not taken or bytes_max is None or size + self._waiting[0][1] <= bytes_max):
                item, item_size = self._waiting.popleft()
                taken.append(item)
                size += item_size
            self._bytes -= size
        return dropped, taken

    def close(self) -> None:
        """Nobody takes any more: what waits is let go, and so is what is put from now on."""
        with self._lock:
            self._is_closed = True
            self._waiting.clear()
            self._bytes = 0
            self._dropped = 0
