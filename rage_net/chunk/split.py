"""Where a document is cut into chunks: `text-1` and `cdc-1`, both stable under edits.

The bytes stay with the caller, who hands in views and gets lengths. Not here: hashing, storing, reading. The rules are
a contract with vectors, `contracts/split.md`: a change that moves one cut is a new scheme, because CIDs depend on it.

Source: design D3; Xia et al. 2020, "The Design of Fast Content-Defined Chunking" (FastCDC), by `pyfastcdc`.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

from pyfastcdc import FastCDC

from rage_net.cid import BLOCK_BYTES_MAX
from rage_net.errors import ConfigError

SIZE_STEP = 1024
"""Sizes are multiples of this many bytes, and `min_size` is at least one."""
MIN_SIZE_MAX = 1 << 20
"""The largest `min_size` that FastCDC takes, in bytes."""
PROBE_BYTES = 1 << 20
"""So many first bytes decide between text and binary."""
NORMALIZATION: Literal[2] = 2
"""FastCDC's normalized chunking level."""
WINDOW_SHARE = 32
"""A text cut lies at most `target_size` / 32 bytes (32 KiB by default) after the content-defined point."""
RIVALS_MAX = 1024
"""So many boundaries compete when no content-defined point was found: bounds the work for one cut."""
CONTEXT_BYTES = 64
"""What precedes a boundary by so many bytes decides that competition."""
_DECODE_BYTES = 1 << 16
"""UTF-8 is checked in pieces whose decoded form stays in the processor's cache: five times as fast as whole chunks."""

# Ends of sentences: these need a blank behind them (3.14, example.org), those of the second line do not.
_SPACED_ENDS = ".!?…؟۔।॥።։"
_BARE_ENDS = "。．！？｡"
_CLOSERS = "\"')\\]”’»›」』）》】"
# Boundaries from best to worst; each takes the blanks that follow, so that a chunk begins with its first word.
_PARAGRAPH = re.compile(r"\n(?:[ \t]*\r?\n)+")
_SENTENCE_LINE = re.compile(rf"[{_SPACED_ENDS}{_BARE_ENDS}][{_CLOSERS}]*[ \t]*\r?\n")
_LINE = re.compile(r"\n")
_SENTENCE = re.compile(
    rf"[{_SPACED_ENDS}{_BARE_ENDS}](?:(?<=[{_BARE_ENDS}])[{_CLOSERS}]*|[{_CLOSERS}]*[ \t])[ \t\u3000]*"
)
_WORD = re.compile(r"[ \t\u3000]+")
_BOUNDARIES = (_PARAGRAPH, _SENTENCE_LINE, _LINE, _SENTENCE, _WORD)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bounds of chunks in bytes; the last chunk of a document may be smaller than `min_size`.

    Multiples of 1,024 with `min_size` <= `target_size` <= `max_size` / 2, `min_size` at most 1 MiB, `max_size` at most
    4 MiB. Raises `ConfigError`.
    """

    min_size: int = 256 << 10
    target_size: int = 1 << 20
    max_size: int = 4 << 20

    def __post_init__(self) -> None:
        sizes = (self.min_size, self.target_size, self.max_size)
        ordered = SIZE_STEP <= self.min_size <= self.target_size <= self.max_size // 2
        if any(size % SIZE_STEP for size in sizes) or not ordered:
            why = f"sizes are multiples of {SIZE_STEP} bytes, with min <= target and 2 * target <= max"
        elif self.min_size > MIN_SIZE_MAX or self.max_size > BLOCK_BYTES_MAX:
            why = f"min is at most {MIN_SIZE_MAX} bytes and max at most {BLOCK_BYTES_MAX}"
        else:
            return
        raise ConfigError("chunks cannot be cut with min {}, target {}, max {} bytes".format(*sizes), why=why)

    def name(self, scheme: str) -> str:
        """What a manifest's `split` says: the scheme, with the sizes where they are not the default."""
        if self == DEFAULT_SIZES:
            return scheme
        return f"{scheme}/{self.min_size}/{self.target_size}/{self.max_size}"


DEFAULT_SIZES = Sizes()


class Splitter:
    """Finds the cuts of one document, front to back. One splitter a document; not for several threads at once.

    The caller fills a buffer, asks `cuts` for the lengths of the chunks that are complete in it, takes them off the
    front, moves the rest (less than `lookahead` bytes) to the front of the next buffer, and fills up behind it:

        splitter = Splitter()
        carried = 0
        while not at_end:
            filled, at_end = fill(buffer, carried)        # readinto(buffer[carried:]) until full or at the end
            for length in splitter.cuts(buffer[:filled], at_end): ...

    The cuts depend on the bytes alone, never on how they were divided among calls.
    """

    def __init__(self, sizes: Sizes = DEFAULT_SIZES) -> None:
        self.lookahead = max(sizes.max_size, PROBE_BYTES)
        """So many bytes make `cuts` give at least one length; a buffer holds at least this, better four times this."""
        self.scheme = ""
        """`text-1` or `cdc-1`, with sizes where they are not the default: a manifest's `split`. Known from the first
        length on; a text that turns out to hold invalid UTF-8 stays `text-1`."""
        self._sizes = sizes
        self._window = sizes.target_size // WINDOW_SHARE
        self._text_max = sizes.max_size - self._window
        self._text_cdc = _fastcdc(sizes, self._text_max)
        self._binary_cdc = _fastcdc(sizes, sizes.max_size)
        self._is_text = False
        self._ended = False

    def cuts(self, view: memoryview, at_end: bool) -> list[int]:
        """Lengths of the chunks that are complete in `view`, in order.

        Args: view: bytes from the last cut on: what the last call left over, and what was read since. at_end: no byte
            follows; the lengths then sum to `len(view)`.
        Returns: lengths of 1 to `max_size`. A document of no bytes is one chunk of length 0.
        """
        if self._ended:
            raise ValueError("the document has ended; a splitter serves one document")
        self._ended = at_end
        if not self.scheme:
            if len(view) < self.lookahead and not at_end:
                return []
            head = view[:PROBE_BYTES]
            self._is_text = _is_utf8(head, at_end=len(head) < PROBE_BYTES)
            self.scheme = self._sizes.name("text-1" if self._is_text else "cdc-1")
            if not view:
                return [0]
        lengths = []
        start, end = 0, len(view)
        while start < end and (at_end or end - start >= self._sizes.max_size):
            rest = view[start : start + self._sizes.max_size]
            length = self._text_cut(rest) if self._is_text else next(self._binary_cdc.cut_buf(rest)).length
            if self._is_text and not _is_utf8(rest[:length], at_end=True):
                self._is_text = False  # from the next cut on
            lengths.append(length)
            start += length
        return lengths

    def _text_cut(self, rest: memoryview) -> int:
        """The length of the text chunk at the front of `rest`, which is `max_size` long or reaches the end."""
        point = next(self._text_cdc.cut_buf(rest)).length
        if point == len(rest):
            return point
        if point < self._text_max:
            return point + _first_boundary(bytes(rest[point : point + self._window]))
        point = self._sizes.target_size
        return point + _contested_boundary(bytes(rest[point : point + self._window]))


def _fastcdc(sizes: Sizes, max_size: int) -> FastCDC:
    return FastCDC(
        sizes.target_size, min_size=sizes.min_size, max_size=max_size, normalized_chunking=NORMALIZATION, seed=0
    )


def _is_utf8(view: memoryview, *, at_end: bool) -> bool:
    """Whether `view` is UTF-8; without `at_end` its last character may be incomplete."""
    start, end = 0, len(view)
    while start < end:
        piece = view[start : start + _DECODE_BYTES]
        try:
            used = codecs.utf_8_decode(piece, "strict", at_end and start + len(piece) == end)[1]
        except UnicodeDecodeError:
            return False
        if not used:  # the incomplete character; CPython takes half a surrogate for one
            return piece[0] != 0xED or len(piece) == 1 or piece[1] < 0xA0
        start += used
    return True


def _first_boundary(window: bytes) -> int:
    """Where to cut in the window behind a content-defined point: after its first boundary of the best kind."""
    text = window.decode("utf-8", "surrogateescape")
    for boundary in _BOUNDARIES:
        if found := boundary.search(text):
            return len(text[: found.end()].encode("utf-8", "surrogateescape"))
    return _next_character(window)


def _contested_boundary(window: bytes) -> int:
    """Where to cut, near the target size, when no point up to the maximum is content-defined: text that repeats itself.

    The first boundary would follow from the chunk's start, and an edit would move every later cut. So the last
    boundaries of the best kind compete by a checksum of the bytes before them, which is the same wherever they stand.
    """
    text = window.decode("utf-8", "surrogateescape")
    for boundary in _BOUNDARIES:
        ends = [found.end() for found in boundary.finditer(text)][-RIVALS_MAX:]
        if ends:
            break
    else:
        return _next_character(window)
    best, cut = 1 << 32, 0
    previous = offset = 0
    for end in ends:
        offset += len(text[previous:end].encode("utf-8", "surrogateescape"))
        previous = end
        checksum = crc32(window[max(0, offset - CONTEXT_BYTES) : offset])
        if checksum <= best:
            best, cut = checksum, offset
    return cut


def _next_character(window: bytes) -> int:
    """The length of what is left of a UTF-8 character that began before the window: 0 to 3 bytes."""
    for length, byte in enumerate(window[:3]):
        if byte & 0xC0 != 0x80:
            return length
    return min(3, len(window))
