"""Reading a Yjs update (v1), as strictly as a record allows: sets and deletions of keys in one map of the root.

An update is a list of runs, one for each client: items with rising clocks; and a list of what is deleted. Taken here
are items that hold one plain value under a key, items that were deleted, and what collecting garbage leaves.
Not here: what the values mean, and applying them (catalog, pycrdt). Source: the update format of Yjs, as yrs writes it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

ITEMS_MAX = 8192
"""In one update of at most 32 KiB, an item having 3 bytes at least."""
CLIENTS_MAX = 256
CLOCK_MAX = (1 << 31) - 1
CLIENT_MAX = (1 << 31) - 1
"""Rage's client ids have 31 bits."""
TEXT_BYTES_MAX = 1024

_GC, _DELETED, _ANY = 0, 1, 8
_HAS_ORIGIN, _HAS_RIGHT_ORIGIN, _HAS_KEY = 0x80, 0x40, 0x20
_NUMBERS = {0x7C: 4, 0x7B: 8, 0x7A: 8}
"""float32, float64, int64: bytes that follow."""


class UpdateError(ValueError):
    """The bytes are no update that a record takes."""


@dataclass(frozen=True, slots=True)
class Update:
    """What an update does to clocks."""

    runs: dict[int, tuple[int, int]]
    """By client: the clock of its first item, and the one after its last."""
    needs: dict[int, int]
    """By client: the highest clock that the update refers to, which must be there."""


def read_update(data: bytes, root: str, is_key: Callable[[str], bool]) -> Update:
    """Check every byte of an update that may change the map `root` of a document. Raises: UpdateError."""
    reader = _Reader(data)
    try:
        runs, needs = _read_items(reader, root, is_key)
        _read_deletions(reader, needs)
    except (IndexError, struct.error, UnicodeDecodeError):
        raise UpdateError("the update ends early, or holds no text where text is due") from None
    if reader.at != len(data):
        raise UpdateError("bytes follow the update")
    if not runs and not needs:
        raise UpdateError("the update changes nothing")
    return Update(runs, needs)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def byte(self) -> int:
        value = self.data[self.at]
        self.at += 1
        return value

    def number(self, maximum: int) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if value > maximum:
                raise UpdateError(f"a number is more than {maximum}")
            if byte < 0x80:
                return value
            shift += 7
            if shift > 35:
                raise UpdateError("a number is too long")

    def skip(self, count: int) -> None:
        if self.at + count > len(self.data):
            raise UpdateError("the update ends early")
        self.at += count

    def text(self) -> str:
        size = self.number(TEXT_BYTES_MAX)
        begin = self.at
        self.skip(size)
        return self.data[begin : self.at].decode()


def _read_items(
    reader: _Reader, root: str, is_key: Callable[[str], bool]
) -> tuple[dict[int, tuple[int, int]], dict[int, int]]:
    items: dict[int, list[_Item]] = {}
    runs: dict[int, tuple[int, int]] = {}
    left = ITEMS_MAX
    for _ in range(reader.number(CLIENTS_MAX)):
        count = reader.number(left)
        client, begin = reader.number(CLIENT_MAX), reader.number(CLOCK_MAX)
        if client in runs or not count:
            raise UpdateError("a client stands twice, or for nothing")
        left -= count
        clock, items[client] = begin, []
        for _ in range(count):
            item = _read_item(reader, root, is_key, clock)
            items[client].append(item)
            clock = item.end
        if clock > CLOCK_MAX:
            raise UpdateError("a clock runs over")
        runs[client] = (begin, clock)
    needs: dict[int, int] = {}
    for item in (item for run in items.values() for item in run):
        if item.origin is not None:
            client, clock = item.origin
            needs[client] = max(needs.get(client, 0), clock)
    _check_order(items, runs)
    return runs, needs


@dataclass(frozen=True, slots=True)
class _Item:
    end: int
    origin: tuple[int, int] | None


def _check_order(items: dict[int, list[_Item]], runs: dict[int, tuple[int, int]]) -> None:
    """Items stand after those they refer to: none refers to itself, to a later one, or in a ring across clients."""
    clocks = {client: begin for client, (begin, _) in runs.items()}
    queues = {client: iter(run) for client, run in items.items()}
    heads = {client: next(queue) for client, queue in queues.items()}
    is_moving = True
    while heads and is_moving:
        is_moving = False
        for client in tuple(heads):
            item: _Item | None = heads[client]
            while item is not None and (
                item.origin is None or item.origin[0] not in clocks or item.origin[1] < clocks[item.origin[0]]
            ):
                clocks[client], is_moving = item.end, True
                item = next(queues[client], None)
                if item is None:
                    del heads[client]
                else:
                    heads[client] = item
    if heads:
        raise UpdateError("an item refers to one that comes after it")


def _read_item(reader: _Reader, root: str, is_key: Callable[[str], bool], clock: int) -> _Item:
    info, origin = reader.byte(), None
    kind = info & 0x1F
    if info == _GC:
        return _Item(clock + _length(reader), None)
    if kind not in (_DELETED, _ANY) or info & _HAS_RIGHT_ORIGIN:
        raise UpdateError(f"an item of kind {kind} is none that a record has")
    if info & _HAS_ORIGIN:  # stands where the item before it stood: in the map, under its key
        origin = reader.number(CLIENT_MAX), reader.number(CLOCK_MAX)
    elif reader.number(1) != 1 or reader.text() != root or not info & _HAS_KEY or not is_key(reader.text()):
        raise UpdateError("an item stands elsewhere than under a key of the record")
    if kind == _DELETED:
        return _Item(clock + _length(reader), origin)
    if reader.number(1) != 1:
        raise UpdateError("an item holds one value")
    _skip_value(reader)
    return _Item(clock + 1, origin)


def _length(reader: _Reader) -> int:
    length = reader.number(CLOCK_MAX)
    if not length:
        raise UpdateError("an item of no length")
    return length


def _skip_value(reader: _Reader) -> None:
    """A plain value: text, number, true, false, null."""
    kind = reader.byte()
    if kind == 0x77:
        reader.text()
    elif kind in _NUMBERS:
        reader.skip(_NUMBERS[kind])
    elif kind == 0x7D:
        while reader.byte() >= 0x80:
            pass
    elif kind not in (0x78, 0x79, 0x7E):
        raise UpdateError("a value is none that a record has")


def _read_deletions(reader: _Reader, needs: dict[int, int]) -> None:
    seen: set[int] = set()
    left = ITEMS_MAX
    for _ in range(reader.number(CLIENTS_MAX)):
        client = reader.number(CLIENT_MAX)
        count = reader.number(left)
        if client in seen or not count:
            raise UpdateError("deletions of a client stand twice, or for nothing")
        seen.add(client)
        left -= count
        for _ in range(count):
            clock, length = reader.number(CLOCK_MAX), _length(reader)
            if clock + length > CLOCK_MAX:
                raise UpdateError("a deletion runs over")
            needs[client] = max(needs.get(client, 0), clock + length - 1)
