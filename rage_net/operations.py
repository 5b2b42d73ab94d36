"""Operations of the control API: those that run, what they tell, and a bounded memory of what became of the others.

Not here: how they are carried out (`control`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import msgspec

from rage_net.errors import RageError
from rage_net.items import Items
from rage_net.verbs import Progress

KEPT_MAX = 256
KEPT_BYTES_MAX = 4 * 1024 * 1024
"""Of outcomes, whichever limit comes first: a put of 10 GiB lists its chunks in more than 1 MiB."""


@dataclass(slots=True, eq=False)
class Operation:
    """One verb under way or over. `outcome` is the last line of its answer, from when it is over."""

    id: str
    route: str
    task: asyncio.Task[None] | None = None
    progress: Progress | None = None
    outcome: bytes | None = None
    error: RageError | None = None
    items: Items[bytes] = field(default_factory=Items)
    """Lines of its answer, ready to be sent."""

    def set_progress(self, progress: Progress) -> None:
        """Note how far it is: one assignment, from any thread, so that a verb may tell as often as it likes."""
        self.progress = progress

    def tell(self, item: Any) -> None:
        """Have an item sent, from any thread: it is encoded here, so that what waits has a known size."""
        line = msgspec.json.encode({"type": "item", "item": item}) + b"\n"
        self.items.put(line, len(line))

    def finish(self, line: bytes) -> None:
        """It is over and well; `line` is its result."""
        self.outcome = line

    def fail(self, error: RageError) -> None:
        """It is over with `error`."""
        self.error = error
        self.outcome = msgspec.json.encode(error.to_plain()) + b"\n"


class Operations:
    """The table, by id."""

    def __init__(self, kept_max: int = KEPT_MAX, kept_bytes_max: int = KEPT_BYTES_MAX) -> None:
        self._kept_max = kept_max
        self._kept_bytes_max = kept_bytes_max
        self._running: dict[str, Operation] = {}
        self._kept: OrderedDict[str, Operation] = OrderedDict()
        self._kept_bytes = 0

    def add(self, operation: Operation) -> None:
        """Enter an operation that begins."""
        self._running[operation.id] = operation

    def finished(self, operation: Operation) -> None:
        """Keep what came of it, and let the oldest go; the newest is always kept."""
        self._running.pop(operation.id, None)
        self._kept[operation.id] = operation
        self._kept_bytes += len(operation.outcome or b"")
        while len(self._kept) > self._kept_max or (self._kept_bytes > self._kept_bytes_max and len(self._kept) > 1):
            _, gone = self._kept.popitem(last=False)
            self._kept_bytes -= len(gone.outcome or b"")

    def get(self, op_id: str) -> Operation | None:
        """The operation, running or kept."""
        return self._running.get(op_id) or self._kept.get(op_id)

    def running(self) -> list[Operation]:
        """Those under way."""
        return list(self._running.values())
