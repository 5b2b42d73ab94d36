"""A sink that tells how far it is: what a download shows of itself, whatever takes its bytes."""

from __future__ import annotations

from collections.abc import Callable

from rage_net.verbs import Progress, Sink


class Counted:
    """A sink that tells how far it is."""

    def __init__(self, sink: Sink, report: Callable[[Progress], None]) -> None:
        self._sink = sink
        self._report = report
        self._done = 0
        self._size = 0

    def begin(self, size: int, /) -> None:
        """Pass on."""
        self._size = size
        self._sink.begin(size)

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        """Pass on, then tell."""
        self._sink.write(data)
        self._done += len(data)
        self._report(Progress(self._done, self._size))
