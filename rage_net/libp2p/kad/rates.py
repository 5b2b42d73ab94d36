"""How often a peer may ask: two buckets for each, one for questions, one for records. What is over resets the stream.

Peers that are not heard of for long are forgotten first, and come back with full buckets: that takes a thousand others.
"""

from __future__ import annotations

from rage_net.libp2p.kad.messages import Kind
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.rates import Rates

QUESTIONS_S = 50.0
"""A second: a peer that looks up all day asks any one of us a few times a minute."""
QUESTIONS_BURST = 300.0
RECORDS_S = 200.0
"""A second: 100,000 roots take nine minutes where three nodes keep all of them."""
RECORDS_BURST = 4000.0
PEERS_MAX = 1024


class AskingRates:
    """What each peer has left."""

    def __init__(self) -> None:
        self.questions = Rates(burst=QUESTIONS_BURST, rate_s=QUESTIONS_S, names_max=PEERS_MAX)
        self.records = Rates(burst=RECORDS_BURST, rate_s=RECORDS_S, names_max=PEERS_MAX)

    def take(self, peer_id: PeerId, kind: Kind, now: float) -> bool:
        """Whether `peer_id` may have one more answered; counts it then."""
        rates = self.records if kind is Kind.ADD_PROVIDER else self.questions
        return rates.take(peer_id, now) == 0
