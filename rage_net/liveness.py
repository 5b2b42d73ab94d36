"""Which known peers are alive, suspect or gone: a failure detector that first doubts itself.

A peer is alive while signs of life come: a heartbeat over gossip, whoever relayed it, an answer to a ping, bytes on a
connection. Without any for SUSPECT_S it is suspect and gets probed; without any for GONE_S it is gone. A failed probe
or a lost connection makes it suspect at once, never gone: networks lose packets, and processes stall.

The observer's own lag counts for nobody. `turn` is called about every TURN_S; a gap of more than TURN_S_MAX was our own
stall, and what is beyond it is taken out of every peer's silence. An observer that stalls, or whose probes mostly fail,
waits longer (`health`, 1 to HEALTH_MAX, as in Lifeguard). One that hears nobody at all is cut off itself: then nobody
becomes gone before GONE_S times HEALTH_MAX.

Sans-I/O: `now` of a monotonic clock comes in, changes come out.
Source: issue 3, F; SWIM (Das, Gupta, Motivala 2002); Lifeguard (Dadgar, Phillips, Currey 2017).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

State = Literal["alive", "suspect", "gone"]

TURN_S = 1.0
"""How often the observer looks."""
TURN_S_MAX = 2.0
"""A longer gap between two looks was a stall of ours: what is beyond it is nobody's silence."""
HEARTBEAT_S = 15.0
HEARTBEATS_PER_S = 20.0
"""Of a whole network: with more nodes than this bears, each beats more seldom."""
SUSPECT_S = 35.0
"""Without a sign of life for so long, a peer is suspect: two heartbeats missed, and some delay."""
GONE_S = 75.0
"""And so long, gone. Both stretch with the heartbeats of a large network."""
PROBE_EVERY_S = 5.0
"""A suspect is probed so often."""
PROBES_MAX = 8
"""Probes begun in one turn: a partition makes hundreds of suspects at once."""
HEALTH_MAX = 8
"""The most that a struggling observer stretches its deadlines by."""
RECOVERY_S = 10.0
"""A healthy time after which it trusts itself one step more."""
PEERS_MAX = 4096
"""Peers kept; the one that was longest without a sign makes way."""


def heartbeat_interval_s(nodes: int) -> float:
    """Seconds between two heartbeats of one node in a network of `nodes`."""
    return max(HEARTBEAT_S, nodes / HEARTBEATS_PER_S)


@dataclass(frozen=True, slots=True)
class Changed:
    """A peer's state is another now."""

    peer: Hashable
    before: State
    after: State


@dataclass(slots=True)
class _Peer:
    heard_at: float  # in observed time, as all below
    state: State = "alive"
    probe_at: float = 0.0
    is_doubted: bool = False  # a probe failed, or its connection broke, since it was last heard


class Liveness:
    """What one observer believes of others. Peers are any hashable names."""

    def __init__(
        self, now: float, *, suspect_s: float = SUSPECT_S, gone_s: float = GONE_S, peers_max: int = PEERS_MAX
    ) -> None:
        self.suspect_s = self._suspect_s = suspect_s
        self.gone_s = self._gone_s = gone_s
        self.health = 1
        """1 when all is well with us; deadlines are multiplied by it."""
        self._peers: OrderedDict[Hashable, _Peer] = OrderedDict()  # the longest silent first
        self._peers_max = peers_max
        self._turned_at = now
        self._observed = 0.0  # time that we were awake for
        self._heard_at = 0.0
        self._healthy_since = 0.0

    def heard(self, peer: Hashable, now: float) -> list[Changed]:
        """A sign of life of `peer`, just now."""
        observed = self._time(now)
        self._heard_at = observed
        known = self._peers.get(peer)
        if known is None:
            if len(self._peers) >= self._peers_max:
                self._peers.popitem(last=False)
            self._peers[peer] = _Peer(observed)
            return []
        self._peers.move_to_end(peer)
        before, known.state = known.state, "alive"
        known.heard_at, known.is_doubted = observed, False
        return [] if before == "alive" else [Changed(peer, before, "alive")]

    def doubt(self, peer: Hashable, now: float) -> list[Changed]:
        """A probe of `peer` failed, or its connection broke: suspect at once, unless it is so already."""
        known = self._peers.get(peer)
        if known is None or known.is_doubted:
            return []
        known.is_doubted = True
        known.probe_at = self._time(now)
        if known.state != "alive":
            return []
        known.state = "suspect"
        return [Changed(peer, "alive", "suspect")]

    def probe_failed(self, peer: Hashable, now: float) -> list[Changed]:
        """A probe that we sent had no answer: a doubt of the peer, and a little of ourselves."""
        if self._is_alone(self._time(now)):
            self._worsen()
        return self.doubt(peer, now)

    def forget(self, peer: Hashable) -> None:
        """Nothing is known of `peer` any more."""
        self._peers.pop(peer, None)

    def pace(self, interval_s: float) -> None:
        """Heartbeats come so often: silence means as much less as they are rarer."""
        stretch = max(1.0, interval_s / HEARTBEAT_S)
        self.suspect_s, self.gone_s = self._suspect_s * stretch, self._gone_s * stretch

    def turn(self, now: float) -> list[Changed]:
        """Time has passed: measure our own lag, then see who was silent for too long."""
        gap = now - self._turned_at
        self._observed += max(0.0, min(gap, TURN_S_MAX))
        self._turned_at = now
        if gap > TURN_S_MAX:
            self._worsen(1 + int(gap // self.suspect_s))
        elif self.health > 1 and self._observed - self._healthy_since >= RECOVERY_S:
            self.health -= 1
            self._healthy_since = self._observed
        changes = []
        for peer, known in self._peers.items():
            after = self._judge(known)
            if after != known.state:
                changes.append(Changed(peer, known.state, after))
                known.state = after
        return changes

    def probes(self, now: float, may_probe: Callable[[Hashable], bool] = lambda peer: True) -> list[Hashable]:
        """Suspects to ask for a sign of life now, at most PROBES_MAX; each again after PROBE_EVERY_S."""
        observed = self._time(now)
        suspects = (
            peer for peer, known in self._peers.items() if known.state == "suspect" and known.probe_at <= observed
        )
        due = list(islice(filter(may_probe, suspects), PROBES_MAX))
        for peer in due:
            self._peers[peer].probe_at = observed + PROBE_EVERY_S
        return due

    def state(self, peer: Hashable) -> State | None:
        """What is believed of `peer`; None when it was never heard."""
        known = self._peers.get(peer)
        return None if known is None else known.state

    def __iter__(self) -> Iterator[tuple[Hashable, State]]:
        return ((peer, known.state) for peer, known in self._peers.items())

    def __len__(self) -> int:
        return len(self._peers)

    def _time(self, now: float) -> float:
        return self._observed + max(0.0, min(now - self._turned_at, TURN_S_MAX))

    def _judge(self, known: _Peer) -> State:
        silence = self._observed - known.heard_at
        patience = HEALTH_MAX if self._is_alone(self._observed) else self.health
        if silence >= self.gone_s * patience:
            return "gone"
        if known.state == "gone":  # heard before we could believe it back
            return "gone"
        return "suspect" if known.is_doubted or silence >= self.suspect_s * self.health else "alive"

    def _is_alone(self, observed: float) -> bool:
        """Whether everybody is silent: then it is more likely us."""
        return observed - self._heard_at >= self.suspect_s / 2

    def _worsen(self, steps: int = 1) -> None:
        self.health = min(HEALTH_MAX, self.health + steps)
        self._healthy_since = self._observed
