"""The root that a document would have, without a store: what `put` would answer, and nothing kept.

Not here: where cuts lie (split), how manifests look (manifest). Blocking, in one thread, with one buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rage_net.chunk.manifest import ManifestBuilder
from rage_net.chunk.split import DEFAULT_SIZES, Sizes, Splitter
from rage_net.cid import Cid
from rage_net.verbs import Progress, Source

BUFFER_LOOKAHEADS = 4
"""Buffer size in units of what the splitter must see: larger ones move less of a rest, and cost memory."""


@dataclass(frozen=True, slots=True)
class Addressed:
    """A document's root, its size in bytes, and its number of chunks."""

    root: Cid
    size: int
    chunks: int


def address(
    source: Source,
    *,
    sizes: Sizes = DEFAULT_SIZES,
    expected_size: int | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Addressed:
    """Cut and hash all of `source` as `ingest` does. Raises what the source raises; UsageError for too many chunks."""
    splitter = Splitter(sizes)
    builder: ManifestBuilder | None = None
    buffer = memoryview(bytearray(BUFFER_LOOKAHEADS * splitter.lookahead))
    carried, at_end = 0, False
    while not at_end:
        filled = carried
        while filled < len(buffer) and not at_end:
            count = source.readinto(buffer[filled:])
            at_end = not count
            filled += count or 0
        at = 0
        for length in splitter.cuts(buffer[:filled], at_end):
            builder = builder or ManifestBuilder(splitter.scheme)
            builder.add(Cid.of(buffer[at : at + length]), length)
            at += length
            progress(Progress(builder.size, expected_size))
        carried = filled - at
        buffer[:carried] = bytes(buffer[at:filled])
    assert builder is not None  # a document of no bytes is one empty chunk
    return Addressed(builder.finish()[0], builder.size, builder.chunks)
