"""Where simulated hosts are, and what the ways between them are like."""

from __future__ import annotations

from collections.abc import Mapping

from rage_net.libp2p.transport import Conditions

DELAYS_S: Mapping[frozenset[str], float] = {
    frozenset({"eu"}): 0.008,
    frozenset({"us"}): 0.015,
    frozenset({"ap"}): 0.025,
    frozenset({"eu", "us"}): 0.045,
    frozenset({"us", "ap"}): 0.075,
    frozenset({"eu", "ap"}): 0.090,
}
"""One way, between and within regions: about what large clouds publish of themselves."""
REGIONS = ("eu", "us", "ap")
JITTER = 0.1
"""Of the delay."""


def ip_of(number: int) -> str:
    """The public address of the host with this number: each in a /24 of its own, 256 in a /16."""
    return f"45.{number >> 8}.{number & 255}.10"


class Geography:
    """Give `between` to a `MemoryNetwork`. Hosts that were not placed are in the first region."""

    def __init__(self, loss: float = 0.0, delays_s: Mapping[frozenset[str], float] = DELAYS_S) -> None:
        self.loss = loss
        self._delays_s = delays_s
        self._regions: dict[str, str] = {}
        self._ways: dict[tuple[str, str], Conditions] = {}

    def place(self, host: str, region: str) -> None:
        """Say where a host is."""
        self._regions[host] = region

    def between(self, here: str, there: str) -> Conditions:
        """What the way from one host to another is like."""
        pair = self._regions.get(here, REGIONS[0]), self._regions.get(there, REGIONS[0])
        way = self._ways.get(pair)
        if way is None or way.loss != self.loss:
            delay_s = self._delays_s[frozenset(pair)]
            way = self._ways[pair] = Conditions(delay_s=delay_s, jitter_s=delay_s * JITTER, loss=self.loss)
        return way
