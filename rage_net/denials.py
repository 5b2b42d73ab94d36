"""Who was denied what, and why: a record for each denial, in a file that cannot grow without end.

    {"time": ..., "door": "chunk", "who": "peer:12D3...", "what": "chunk:bafk...", "why": ..., "count": 1}

One JSON object a line in `logs/denials.jsonl`, 0600, with a few older files beside it. A flood is counted, not written:
each principal has a small allowance, and so have all together; what was left out stands in the next record of that
principal as `suppressed`. To note one costs no disk and no wait, so that the time of an answer tells nothing; the lines
are written a little later, off the event loop. No secrets: a token is never noted, a user's name is.

Source: issue 4, C; design D9.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import OrderedDict, deque
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from rage_net.env import Env
from rage_net.metrics import Metrics

log = logging.getLogger("rage.denials")

FILE_BYTES_MAX = 4 << 20
FILES_MAX = 4
"""The one that is written, and older ones: 16 MiB, some 60,000 records."""
WAIT_S = 0.25
"""From a denial to its line in the file."""
WAITING_MAX = 2000
"""Records that are not written yet; further ones are counted."""
RECORDS_S, BURST = 50.0, 500.0
"""Of all principals together."""
OWN_RECORDS_S, OWN_BURST = 1.0, 20.0
"""Of one principal."""
PRINCIPALS_MAX = 1024
"""Whose allowance is remembered; the one not heard of for the longest is forgotten."""
TEXT_CHARS_MAX = 300


class Denials:
    """The records of one node. `path` None writes none, and counts all the same. For the event loop's thread."""

    def __init__(self, path: Path | None, env: Env, metrics: Metrics) -> None:
        self._path = path
        self._env = env
        self._metrics = metrics
        self._waiting: deque[tuple[float, str, str, str, str, int, bool, int]] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._all = _Allowance(RECORDS_S, BURST)
        self._own: OrderedDict[str, _Allowance] = OrderedDict()
        self._has_failed = False

    def note(self, door: str, who: str, what: str, why: str, *, count: int = 1, allowed: bool = False) -> None:
        """One denial; `allowed` when strict enforcement alone would have denied it. Never waits."""
        self._metrics.denied.add(count, f"{door}-permissive" if allowed else door)
        own = self._own.pop(who, None) or _Allowance(OWN_RECORDS_S, OWN_BURST)
        self._own[who] = own
        if len(self._own) > PRINCIPALS_MAX:
            self._own.popitem(last=False)
        now = self._env.monotonic()
        if len(self._waiting) >= WAITING_MAX or not (own.take(now) and self._all.take(now)):
            own.suppressed += count
            return
        suppressed, own.suppressed = own.suppressed, 0
        self._waiting.append((self._env.now(), door, who, what, why, count, allowed, suppressed))
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write_soon())

    async def close(self) -> None:
        """Write what waits."""
        self._hurry.set()
        if self._writing is not None:
            await self._writing

    async def _write_soon(self) -> None:
        try:
            while self._waiting:
                with suppress(TimeoutError):
                    async with asyncio.timeout(WAIT_S):
                        await self._hurry.wait()
                await self._write()
        finally:
            self._writing = None

    async def _write(self) -> None:
        lines = "".join(_tell(*one) for one in self._waiting)
        self._waiting.clear()
        if self._path is None:
            return
        try:
            await self._env.blocking(append, self._path, lines.encode())
        except (OSError, RuntimeError) as error:  # no room; or the process ends
            self._metrics.failures.add(1, "denials")
            if not self._has_failed:
                log.error("denials cannot be written to %s: %s", self._path, error)
            self._has_failed = True
        else:
            self._has_failed = False


def _tell(now: float, door: str, who: str, what: str, why: str, count: int, allowed: bool, suppressed: int) -> str:
    """A record as a line of JSON; and the node's log is told."""
    record: dict[str, object] = {
        "time": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "door": door,
        "who": who[:TEXT_CHARS_MAX],
        "what": what[:TEXT_CHARS_MAX],
        "why": why[:TEXT_CHARS_MAX],
        "count": count,
    }
    if allowed:
        record["would_deny"] = True
    if suppressed:
        record["suppressed"] = suppressed
    word = "would deny" if allowed else "denied"
    log.info("%s at %s: %s on %s: %s", word, door, record["who"], record["what"], record["why"])
    return json.dumps(record) + "\n"


class _Allowance:
    """So many at once, so many a second."""

    __slots__ = ("_burst", "_left", "_rate", "_seen_at", "suppressed")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = self._left = burst
        self._seen_at = 0.0
        self.suppressed = 0

    def take(self, now: float) -> bool:
        self._left = min(self._burst, self._left + (now - self._seen_at) * self._rate)
        self._seen_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def append(path: Path, data: bytes) -> None:
    """Add whole lines to a file of our own, and put another in its place once it is full. Blocking."""
    with suppress(FileNotFoundError):
        if path.stat().st_size + len(data) > FILE_BYTES_MAX:
            for number in range(FILES_MAX - 1, 0, -1):
                older = path if number == 1 else path.with_name(f"{path.name}.{number - 1}")
                with suppress(FileNotFoundError):
                    older.replace(path.with_name(f"{path.name}.{number}"))
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(handle, 0o600)
        while data:
            data = data[os.write(handle, data) :]
    finally:
        os.close(handle)
