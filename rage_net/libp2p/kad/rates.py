"""How often a peer may ask: two buckets for each, one for questions, one for records. What is over resets the stream.

Peers that are not heard of for long are forgotten first, and come back with full buckets: that takes a thousand others.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from rage_net.libp2p.kad.messages import Kind
from rage_net.libp2p.peer_id import PeerId

QUESTIONS_S = 50.0
"""A second: a peer that looks up all day asks any one of us a few times a minute."""
QUESTIONS_BURST = 300.0
RECORDS_S = 200.0
"""A second: 100,000 roots take nine minutes where three nodes keep all of them."""
RECORDS_BURST = 4000.0
PEERS_MAX = 1024


@dataclass(slots=True)
class _Buckets:
    at: float
    questions: float = QUESTIONS_BURST
    records: float = RECORDS_BURST


class Rates:
    """What each peer has left."""

    def __init__(self) -> None:
        self._peers: OrderedDict[PeerId, _Buckets] = OrderedDict()

    def take(self, peer_id: PeerId, kind: Kind, now: float) -> bool:
        """Whether `peer_id` may have one more answered; counts it then."""
        buckets = self._peers.pop(peer_id, None) or _Buckets(now)
        self._peers[peer_id] = buckets
        while len(self._peers) > PEERS_MAX:
            self._peers.popitem(last=False)
        passed = max(0.0, now - buckets.at)
        buckets.at = now
        buckets.questions = min(QUESTIONS_BURST, buckets.questions + passed * QUESTIONS_S)
        buckets.records = min(RECORDS_BURST, buckets.records + passed * RECORDS_S)
        if kind is Kind.ADD_PROVIDER:
            if buckets.records < 1:
                return False
            buckets.records -= 1
        else:
            if buckets.questions < 1:
                return False
            buckets.questions -= 1
        return True
