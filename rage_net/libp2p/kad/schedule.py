"""When each of our keys is to be announced again, by region, and so that a restart goes on where it stopped.

Keys of one region are announced together, and so are due together; a key that was put alone joins its neighbours when
their region is next crawled. Times are of the wall clock, since they outlive the process.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from rage_net.libp2p.kad.keys import place_of
from rage_net.libp2p.kad.records import REPUBLISH_S
from rage_net.libp2p.kad.regions import Region

JOIN = 0.5
"""A key that was announced longer ago than this part of the interval goes along when its region is crawled."""
RETRY_S = 600.0
"""A region that could not be announced is tried again after so long."""
KEYS_MAX = 1_000_000
LINE_CHARS_MAX = 64
PREFIX_HEX = 24
"""Of a key's place in the file: 96 bits tell a million keys apart."""


class Schedule:
    """The keys that this node announces. `now` is always the wall clock."""

    def __init__(self, interval_s: float = REPUBLISH_S) -> None:
        self._interval_s = interval_s
        self._keys: dict[int, bytes] = {}
        self._due_at: dict[int, float] = {}
        self._sorted: list[int] | None = []
        self._remembered: dict[str, float] = {}  # from the file: when a key was last announced
        self._next_at = float("inf")

    def __len__(self) -> int:
        return len(self._keys)

    def set_keys(self, keys: Iterable[bytes]) -> None:
        """Announce these from now on, at most KEYS_MAX: new ones at once, or when the file says; others no more."""
        wanted = {place_of(key): key for key in keys}
        for place in [place for place in self._keys if place not in wanted]:
            del self._keys[place], self._due_at[place]
        for place, key in wanted.items():
            self._add(place, key)
        self._sorted = None

    def add(self, key: bytes) -> None:
        """One more key to announce; due at once."""
        self._add(place_of(key), key)
        self._sorted = None

    def discard(self, key: bytes) -> None:
        """Announce `key` no more. What others keep of it expires."""
        place = place_of(key)
        if self._keys.pop(place, None) is not None:
            del self._due_at[place]
            self._sorted = None

    def next_key(self, now: float) -> bytes | None:
        """A key whose region is due, the longest due first; None while none is."""
        if now < self._next_at or not self._due_at:
            return None
        place = min(self._due_at, key=self._due_at.__getitem__)
        self._next_at = self._due_at[place]
        return self._keys[place] if self._next_at <= now else None

    def due_at(self, key: bytes) -> float | None:
        """When `key` is announced next, 0 for at once; None when it is not to be."""
        return self._due_at.get(place_of(key))

    def next_timeout(self) -> float:
        """When a key is next due; infinity without any."""
        return min(self._due_at.values(), default=float("inf"))

    def in_region(self, region: Region, now: float) -> list[bytes]:
        """The keys to announce there now, in the order of their places."""
        if self._sorted is None:
            self._sorted = sorted(self._keys)
        low, high = region.range
        places = self._sorted[bisect_left(self._sorted, low) : bisect_left(self._sorted, high)]
        joins_until = now + (1 - JOIN) * self._interval_s
        return [self._keys[place] for place in places if self._due_at[place] <= joins_until]

    def announced(self, keys: Iterable[bytes], now: float) -> None:
        """Enough peers have taken these."""
        self._put_off(keys, now + self._interval_s)

    def failed(self, keys: Iterable[bytes], now: float) -> None:
        """Too few peers have."""
        self._put_off(keys, now + RETRY_S)

    def to_text(self) -> str:
        """A line a key: the beginning of its place, and when it is due."""
        return "".join(f"{place:064x}"[:PREFIX_HEX] + f" {due:.0f}\n" for place, due in self._due_at.items() if due > 0)

    def load_text(self, text: str, now: float) -> None:
        """Take up where a file left off; lines that cannot be read, and times that cannot be, count as due at once."""
        for line in text.splitlines()[:KEYS_MAX]:
            parts = line[:LINE_CHARS_MAX].split()
            try:
                prefix, due = parts[0], float(parts[1])
            except (IndexError, ValueError):
                continue
            if len(prefix) == PREFIX_HEX and due <= now + self._interval_s:
                self._remembered[prefix] = due
        for place in self._keys:
            self._due_at[place] = self._remembered.get(f"{place:064x}"[:PREFIX_HEX], self._due_at[place])
        self._next_at = 0.0

    def _add(self, place: int, key: bytes) -> None:
        if place not in self._keys and len(self._keys) < KEYS_MAX:
            self._keys[place] = key
            self._due_at[place] = self._remembered.get(f"{place:064x}"[:PREFIX_HEX], 0.0)
            self._next_at = min(self._next_at, self._due_at[place])

    def _put_off(self, keys: Iterable[bytes], due: float) -> None:
        for key in keys:
            place = place_of(key)
            if place in self._due_at:
                self._due_at[place] = due
        self._next_at = 0.0
