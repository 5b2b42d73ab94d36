"""Whether a peer can be reached: its address is dialled back, once, when it is new.

It can be no port scanner. Dialled is only the address that the registration came from, and only after a signature
showed that who holds the key wants it; so the one host that anybody can have probed is his own. A peer has at most
`PORTS_PER_PEER` ports tried, an address `PORTS_BURST` at once and `PORTS_PER_MINUTE` after that, whoever registers from
there. The answer tells no more than whether that very peer proved its key there.

Not here: how to dial (given), where the finding is kept (`registry`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from rage_net.errors import RageError
from rage_net.libp2p.errors import Libp2pError
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.rates import Rates
from rage_net.libp2p.scope import HOST_PREFIX_BITS, IpAddress, ip_of, prefix

log = logging.getLogger("rage.discovery")

DialBack = Callable[[PeerId, Sequence[Multiaddr]], Awaitable[bool]]
"""Whether the peer proves its id at one of the addresses. May raise Libp2pError, OSError or TimeoutError for no."""

TIMEOUT_S = 5.0
"""For one peer, all its ports."""
AT_ONCE_MAX = 16
WAITING_MAX = 512
"""Peers that wait for their turn; one more stays untried until its next heartbeat."""
PORTS_PER_PEER = 2
PORTS_BURST = 16.0
PORTS_PER_MINUTE = 8.0
ADDRESSES_KEPT = 4096
"""Source addresses whose count is kept."""


def dialable(addresses: Sequence[Multiaddr], source: IpAddress) -> tuple[Multiaddr, ...]:
    """Those of a peer's addresses that may be dialled back: at the source itself, TCP, the first few ports."""
    found = []
    for address in addresses:
        parts = address.transport_parts()
        if len(parts) == 2 and parts[0].protocol in ("ip4", "ip6") and parts[1].protocol == "tcp":
            found += [address] * (ip_of(address) == source)
    return tuple(dict.fromkeys(found))[:PORTS_PER_PEER]


class DialBacks:
    """The queue of peers to dial back. Run `work` in a task for as long as the server lives.

    Args: found: called with what was found for a key that `ask` was given.
    """

    def __init__(
        self,
        dial_back: DialBack,
        found: Callable[[PeerId, str, str, bool], Awaitable[None]],
        *,
        clock: Callable[[], float],
        timeout_s: float = TIMEOUT_S,
        at_once_max: int = AT_ONCE_MAX,
        waiting_max: int = WAITING_MAX,
    ) -> None:
        self._dial_back = dial_back
        self._found = found
        self._clock = clock
        self._timeout_s = timeout_s
        self._at_once_max = at_once_max
        self._waiting: asyncio.Queue[tuple[PeerId, tuple[Multiaddr, ...], str, str]] = asyncio.Queue(waiting_max)
        self._pending: set[PeerId] = set()
        self._rates = Rates(burst=PORTS_BURST, rate_s=PORTS_PER_MINUTE / 60, names_max=ADDRESSES_KEPT)

    def ask(self, peer_id: PeerId, addresses: Sequence[Multiaddr], source: IpAddress, instance: str) -> bool:
        """Queue a check; False when there is nothing that may be dialled, or no room for it now."""
        wanted = dialable(addresses, source)
        if not wanted or peer_id in self._pending or self._waiting.full():
            return False
        if self._rates.take(prefix(source, HOST_PREFIX_BITS), self._clock(), len(wanted)):
            return False
        self._pending.add(peer_id)
        self._waiting.put_nowait((peer_id, wanted, instance, str(source)))
        return True

    async def work(self) -> None:
        """Carry out what is asked, at most `at_once_max` at a time, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._at_once_max):
                tasks.create_task(self._work())

    async def settle(self) -> None:
        """Wait until nothing is queued or under way."""
        await self._waiting.join()

    async def _work(self) -> None:
        while True:
            peer_id, addresses, instance, source = await self._waiting.get()
            try:
                await self._found(peer_id, instance, source, await self._try(peer_id, addresses))
            except RageError as error:  # it stays untried, and is asked for again with the next heartbeat
                log.warning("what the dial-back to %s found cannot be kept: %s", peer_id, error)
            except Exception:
                log.exception("the dial-back to %s failed", peer_id)
            finally:
                self._pending.discard(peer_id)
                self._waiting.task_done()

    async def _try(self, peer_id: PeerId, addresses: Sequence[Multiaddr]) -> bool:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._dial_back(peer_id, addresses)
        except (Libp2pError, OSError, TimeoutError) as error:
            log.debug("the dial-back to %s at %s found nobody: %s", peer_id, addresses, error)
            return False
