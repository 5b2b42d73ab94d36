"""How a way between two hosts behaves: the numbers, and what loss and silence cost a reliable link.

Pure: time and chance come in. Source: RFC 6298 (retransmission timer), RFC 5681 (fast retransmit), RFC 9293 (SYN).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

DELIVERY_BYTES = 256 * 1024
"""At most as much arrives at once."""
PACKET_BYTES = 1460
"""Payload of one packet on Ethernet: what is lost at a time."""
FAST_PACKETS = 3
"""So many packets behind a lost one tell its sender of the loss within a round trip; else a timer must."""
RETRY_S_MIN = 0.2
"""The timer is never shorter: Linux's TCP_RTO_MIN."""
RETRY_S_MAX = 120.0
"""Nor longer, however often it has doubled: TCP_RTO_MAX."""
SYN_WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""A dial that nobody answers is repeated after each, then given up: Linux's tcp_syn_retries of 6."""


@dataclass(frozen=True)
class Conditions:
    """How a way behaves, in one direction."""

    piece_bytes_max: int = DELIVERY_BYTES
    """Bytes arrive in pieces of 1 to this many; 1 cuts everywhere."""
    delay_s: float = 0.0
    """From one host to the other."""
    jitter_s: float = 0.0
    """Up to so much more, evenly drawn; order is kept."""
    loss: float = 0.0
    """The share of packets that are lost, below 1. Their bytes come all the same, late, and keep others waiting."""
    capacity_bytes: int = 256 * 1024
    """A link is full when more is on its way."""
    break_after_bytes: int | None = None
    """Each direction breaks the link after so many bytes; None never."""

    @property
    def retry_s(self) -> float:
        """The first wait for an acknowledgement."""
        return max(RETRY_S_MIN, 2 * (2 * self.delay_s + self.jitter_s))


def recovery_s(size: int, conditions: Conditions, random: Random) -> float:
    """How much later than undisturbed `size` bytes arrive whole, because packets of them may be lost.

    A round trip when later packets tell of the loss, else the timer; it doubles while the repetition is lost as well.
    Several packets lost of one flight are repeated in the same round trip (RFC 2018), so the first decides.
    """
    packets = -(-size // PACKET_BYTES)
    first_lost = int(math.log(1.0 - random.random()) / math.log(1.0 - conditions.loss))
    if first_lost >= packets:
        return 0.0
    timer_s = conditions.retry_s
    late_s = 2 * conditions.delay_s if packets - first_lost > FAST_PACKETS else timer_s
    while random.random() < conditions.loss:
        late_s += timer_s
        timer_s = min(2 * timer_s, RETRY_S_MAX)
    return late_s


def retried_at(silent_since: float, reachable_at: float, retry_s: float) -> float:
    """When a sender that got no acknowledgement since `silent_since` repeats first, once the other is reachable.

    After a long silence that may be long after: the timer doubles each time, up to RETRY_S_MAX.
    """
    at = silent_since + retry_s
    while at < reachable_at:
        retry_s = min(2 * retry_s, RETRY_S_MAX)
        at += retry_s
    return at
