"""Routing: who has a root, where a peer is, and that we have ours.

Asks the DHT and the discovery servers, as hints: addresses are dialled, and Noise proves who is there. What is not
known to be public is not asked for outside the organisation (D7): `may_ask` decides. Announced are the roots of public
documents and public pins, region by region, and what was fetched whole as long as the node runs.

Source: design D2, D7; seed, "Retrieval Flow"; issue 3, B and E.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from rage_net import refusals
from rage_net.cid import Cid
from rage_net.env import Env
from rage_net.errors import NotFoundError, UnavailableError
from rage_net.libp2p.errors import Libp2pError

if TYPE_CHECKING:
    from rage_net.libp2p.dht import Dht
    from rage_net.libp2p.kad.messages import PeerInfo
    from rage_net.libp2p.kad.schedule import Schedule

log = logging.getLogger("rage.routing")

PROVIDERS_MAX = 16
"""Providers that one download asks the DHT for."""
READY_S_MAX = 3.0
"""A look-up waits so long for the table to have its first peer."""
READY_POLL_S = 0.02
REGIONS_A_ROUND = 8
"""Regions announced in one round: a crawl each."""
FETCHED_MAX = 4096
"""Roots that were fetched, and are announced until the node ends or they are evicted."""
REFRESH_ROOTS_S = 3600.0
"""Roots are read anew so often, besides at each change."""


class Routing:
    """The DHT as the node uses it.

    Args: meet: dials those it is told of, for who knows nobody yet. is_met: whether anybody is connected. roots: one
    page of the roots that may be announced, after one of them. is_public: whether a chunk is here and public. The last
    two block.
    """

    def __init__(
        self,
        dht: Dht,
        schedule: Schedule,
        env: Env,
        *,
        meet: Callable[[], Awaitable[None]],
        is_met: Callable[[], bool],
        roots: Callable[[Cid | None], Sequence[Cid]],
        is_public: Callable[[Cid], bool],
    ) -> None:
        self.dht = dht
        self._schedule = schedule
        self._env = env
        self._meet = meet
        self._is_met = is_met
        self._roots = roots
        self._is_public = is_public
        self._fetched: OrderedDict[Cid, None] = OrderedDict()
        self._becoming_ready = asyncio.Lock()
        self._read_at: float | None = None  # when the roots were last read

    # --- finding ---

    async def ready(self) -> None:
        """Return once the table has somebody to ask. Raises UnavailableError when it does not get anybody in time."""
        if len(self.dht.table):
            return
        async with self._becoming_ready:
            meeting = asyncio.ensure_future(self._meet())
            meeting.add_done_callback(lambda task: task.cancelled() or task.exception())
            try:
                async with asyncio.timeout(READY_S_MAX):
                    while not len(self.dht.table):  # who is met is asked, and enters the table when it answers
                        if meeting.done() and not self._is_met():
                            raise refusals.dht_empty()
                        await asyncio.sleep(READY_POLL_S)
            except TimeoutError:
                raise refusals.dht_empty() from None
            finally:
                meeting.cancel()

    async def providers(self, root: Cid, limit: int = PROVIDERS_MAX) -> AsyncIterator[PeerInfo]:
        """Peers that are said to have `root`, as they are heard of; not ourselves.

        Raises: NotFoundError when none is; UnavailableError.
        """
        await self.ready()
        found = 0
        try:
            async for provider in self.dht.find_providers(root.multihash, limit):
                if provider.peer_id != self.dht.own:
                    found += 1
                    yield provider
        except Libp2pError as error:
            raise UnavailableError("the DHT look-up failed", why=str(error)) from error
        if not found:
            raise NotFoundError("no provider is known")

    # --- announcing ---

    def put(self, root: Cid) -> None:
        """A public document was put: announce its root with the next round."""
        self._schedule.add(root.multihash)

    def fetched(self, root: Cid) -> None:
        """A root was fetched whole and kept: announce it, if it is public, until it is evicted or the node ends."""
        self._fetched.pop(root, None)
        self._fetched[root] = None
        self._schedule.add(root.multihash)
        while len(self._fetched) > FETCHED_MAX:
            self._fetched.popitem(last=False)

    def changed(self) -> None:
        """Documents went, or are public no more: read the roots anew with the next round."""
        self._read_at = None

    async def announce(self) -> None:
        """One round: what is due, at most REGIONS_A_ROUND regions. Raises nothing for peers that do not answer."""
        now = self._env.monotonic()
        if self._read_at is None or now - self._read_at >= REFRESH_ROOTS_S:
            self._read_at = now
            self._schedule.set_keys(await self._env.blocking(self._read_keys))
        if not len(self.dht.table):
            return
        try:
            provided = await self.dht.provide_due(self._schedule, regions_max=REGIONS_A_ROUND)
        except Libp2pError as error:
            log.warning("roots were not announced: %s", error)
            return
        if provided.failed:
            log.warning("%d roots found too few peers that take their records; tried again later", provided.failed)
        if provided.announced:
            messages = provided.questions + provided.batches
            log.info("announced %d roots with %d messages", provided.announced, messages)

    def due_in_s(self, root: Cid) -> float | None:
        """Until a root is announced again; None when it has not been announced, or is not to be."""
        due_at = self._schedule.due_at(root.multihash)
        left = None if due_at is None else due_at - self._env.now()
        return left if left is not None and left > 0 else None

    def __len__(self) -> int:
        return len(self._schedule)

    def _read_keys(self) -> list[bytes]:
        """The keys of all roots that may be announced now. Blocking."""
        keys = []
        after: Cid | None = None
        while page := self._roots(after):
            keys += [root.multihash for root in page]
            after = page[-1]
        keys += [root.multihash for root in list(self._fetched) if self._is_public(root)]
        return keys
