"""When a node shows its servers the next sign of life. Pure: all times are arguments, on one monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass, replace

SPREAD = 0.1
"""Part of an interval by which heartbeats are drawn apart, so that nodes that started together do not beat together."""


@dataclass(frozen=True, slots=True)
class Beat:
    """What became of the registration at one server so far."""

    tried_at: float | None = None
    is_ok: bool = False
    expires_at: float = 0.0
    """When the server forgets us, if nothing more comes."""
    not_before: float = 0.0
    """A server that was too busy said so."""

    def ok(self, now: float, ttl_s: float) -> Beat:
        """The server took it, for `ttl_s`."""
        return Beat(now, True, now + ttl_s)

    def failed(self, now: float, retry_after_s: float = 0.0) -> Beat:
        """It did not."""
        return replace(self, tried_at=now, is_ok=False, not_before=now + retry_after_s)


def next_due(beat: Beat, *, heartbeat_interval_s: float, retry_interval_s: float, draw: float) -> float:
    """When to register again at one server; 0 for at once.

    After a success that is a heartbeat later, or half of what the server granted when that is sooner. After a failure,
    a retry interval later, and never before the server asked for; while an old registration still holds, a heartbeat
    that is sooner goes on. Args: draw: 0 to 1, uniform: takes up to `SPREAD` of the wait off.
    """
    if beat.tried_at is None:
        return 0.0
    if beat.is_ok:
        wait_s = min(heartbeat_interval_s, (beat.expires_at - beat.tried_at) / 2)
    elif beat.expires_at > beat.tried_at:
        wait_s = min(heartbeat_interval_s, retry_interval_s)
    else:
        wait_s = retry_interval_s
    return max(beat.tried_at + wait_s * (1 - SPREAD * draw), beat.not_before)
