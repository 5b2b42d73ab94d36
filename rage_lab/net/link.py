"""A link between two network namespaces, as a process: python link.py NS DEVICE NS DEVICE CONDITIONS.

It makes a TUN device in each namespace and carries packets between them as CONDITIONS (JSON, see `Conditions`) say:
late, lost, out of order, or no faster than a rate. Once both devices are there it prints a line; each line of
conditions on its standard input is taken from then on and answered with the counts so far. It ends with its standard
input, and with it the devices: whoever started it may die as it likes.

Only the standard library, and nothing of rage. For kernels without `tc netem`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import json
import os
import select
import struct
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from random import Random

QUEUE_BYTES_MAX = 16 << 20
"""On the way in one direction; more is dropped at the tail. At 50 ms, enough for 300 MB/s."""
READS_TURN = 64
"""Packets read from one device before the other has its turn."""
REORDER_S = 0.01
"""A packet that is out of order comes so much after its time."""
PACKET_BYTES_MAX = 65535

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Conditions:
    """How a link behaves, in each direction alike."""

    delay_s: float = 0.0
    """One way."""
    loss: float = 0.0
    """Share of packets that do not arrive."""
    reorder: float = 0.0
    """Share of packets that come REORDER_S late, behind others."""
    rate_bytes_s: float | None = None
    """None is as fast as it goes."""
    seed: int = 0
    """Of losses and reorder: with the same packets, the same ones are hit."""
    burst: float = 1.0
    """How many packets are lost in a row, on average; the share that is lost stays the same."""


class Pipe:
    """One direction: packets in, each out when its time has come. Knows no clock and no device."""

    def __init__(self, conditions: Conditions, direction: int) -> None:
        self.conditions = conditions
        self.counts: Counter[str] = Counter()
        self._random = Random(conditions.seed * 2 + direction)
        self._line: deque[tuple[float, bytes]] = deque()
        self._late: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._is_losing = False
        self._free_at = 0.0  # when the line has sent what it was given

    def change(self, conditions: Conditions) -> None:
        """What is on its way keeps its time."""
        self.conditions = conditions

    def put(self, packet: bytes, now: float) -> None:
        """A packet enters."""
        conditions = self.conditions
        if conditions.loss and self._loses(conditions):
            self.counts["lost"] += 1
            return
        if self._bytes + len(packet) > QUEUE_BYTES_MAX:
            self.counts["overflowed"] += 1
            return
        self._bytes += len(packet)
        leaves_at = now
        if conditions.rate_bytes_s:
            leaves_at = self._free_at = max(now, self._free_at) + len(packet) / conditions.rate_bytes_s
        due, line = leaves_at + conditions.delay_s, self._line
        if conditions.reorder and self._random.random() < conditions.reorder:
            due, line = due + REORDER_S, self._late
            self.counts["reordered"] += 1
        if line and line[-1][0] > due:  # the delay was made shorter
            due = line[-1][0]
        line.append((due, packet))

    def _loses(self, conditions: Conditions) -> bool:
        """A chain of two states, after Gilbert: with bursts of one packet each is lost by itself."""
        if conditions.burst <= 1:
            return self._random.random() < conditions.loss
        ends = 1 / conditions.burst
        begins = min(1.0, ends * conditions.loss / max(1e-9, 1 - conditions.loss))
        self._is_losing = self._random.random() >= ends if self._is_losing else self._random.random() < begins
        return self._is_losing

    def take(self, now: float) -> list[bytes]:
        """The packets whose time has come."""
        due = []
        for line in (self._line, self._late):
            while line and line[0][0] <= now:
                packet = line.popleft()[1]
                self._bytes -= len(packet)
                due.append(packet)
        self.counts["carried"] += len(due)
        return due

    def next_due(self) -> float | None:
        """When `take` next gives something."""
        return min((line[0][0] for line in (self._line, self._late) if line), default=None)


def carry(devices: tuple[int, int], conditions: Conditions, control: int, answer: Callable[[str], None]) -> None:
    """Carry packets between two devices until the control stream ends."""
    pipes = (Pipe(conditions, 0), Pipe(conditions, 1))
    ways = ((devices[0], devices[1], pipes[0]), (devices[1], devices[0], pipes[1]))
    words = b""
    while True:
        due = [at for pipe in pipes if (at := pipe.next_due()) is not None]
        ready, _, _ = select.select([*devices, control], [], [], max(min(due) - time.monotonic(), 0) if due else None)
        for source, target, pipe in ways:
            if source in ready:
                now = time.monotonic()
                with contextlib.suppress(BlockingIOError):
                    for _ in range(READS_TURN):
                        pipe.put(os.read(source, PACKET_BYTES_MAX), now)
            for packet in pipe.take(time.monotonic()):
                try:
                    os.write(target, packet)
                except OSError:  # the device is down, or its queue full: lost like others
                    pipe.counts["refused"] += 1
        if control in ready:
            read = os.read(control, 65536)
            if not read:
                return
            *lines, words = (words + read).split(b"\n")
            for line in lines:
                for pipe in pipes:
                    pipe.change(Conditions(**(asdict(pipe.conditions) | json.loads(line))))
                answer(json.dumps([pipe.counts for pipe in pipes]))


def open_tun(namespace: str, device: str) -> int:
    """A TUN device in a named network namespace; reading and writing never wait. Root alone may."""
    enter_namespace(f"/run/netns/{namespace}")
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN | _IFF_NO_PI))
    return tun


def enter_namespace(path: str) -> None:
    """Move this thread into a network namespace. Raises OSError."""
    namespace = os.open(path, os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(namespace, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {path}")
    finally:
        os.close(namespace)


def main() -> None:
    """The process: devices, a line when they are there, packets until standard input ends."""
    gc.disable()  # nothing here makes cycles, and a pause would be a delay
    first, second = (open_tun(*sys.argv[at : at + 2]) for at in (1, 3))

    def answer(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    answer("ready")
    carry((first, second), Conditions(**json.loads(sys.argv[5])), sys.stdin.fileno(), answer)


if __name__ == "__main__":
    main()
