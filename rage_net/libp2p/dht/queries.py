"""What a peer leaves with the DHT: that it provides keys, one or many, and values. On top of what it asks (`finding`).

Records are offered to the k nearest, a few peers at a time; many keys go by region, as `kad.regions` says.

Not here: when a key is due again (`kad.schedule`), and what becomes of records (`kad.records`).
Source: libp2p/specs kad-dht; the specification's `set_replication_factor(3)`, which is the least number of peers that
must take a record.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random

from rage_net.libp2p.dht.crawl import Asking
from rage_net.libp2p.dht.finding import Finding
from rage_net.libp2p.errors import Libp2pError
from rage_net.libp2p.kad.answers import rfc3339
from rage_net.libp2p.kad.contact import Contact
from rage_net.libp2p.kad.groups import Group
from rage_net.libp2p.kad.keys import place_of
from rage_net.libp2p.kad.messages import Kind, Message, PeerInfo, Record
from rage_net.libp2p.kad.records import Providers
from rage_net.libp2p.kad.regions import WIDTH, keepers, region_of
from rage_net.libp2p.kad.schedule import Schedule
from rage_net.libp2p.kad.values import Values
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId

TELLING_MAX = 10
"""Peers that a record is being left with at once."""
BATCH_MAX = 500
"""Records on one stream: 70 KiB."""
PACE_RECORDS_S = 160.0
"""To one peer, after a first batch: below what `kad.rates` allows, so that 100,000 roots reach two peers in 11 minutes
instead of being refused."""
REGION_TIMEOUTS = 4
"""Leaving a batch with all peers of a region takes at most so many times as long as a look-up may."""


@dataclass(frozen=True, slots=True)
class Provided:
    """What came of announcing keys: by questions, and batches of records, each on one stream."""

    announced: int
    failed: int
    questions: int
    batches: int
    records: int


class Queries(Finding):
    """All that one peer does with the DHT."""

    def __init__(
        self,
        own: PeerId,
        asking: Asking,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        random: Random,
        values: Values,
        providers: Providers,
        own_addresses: Callable[[], Sequence[Multiaddr]],
        group: Group | None = None,
        query_timeout_s: float = 30.0,
        replication_min: int = 3,
    ) -> None:
        super().__init__(
            own,
            asking,
            clock=clock,
            random=random,
            values=values,
            providers=providers,
            group=group,
            query_timeout_s=query_timeout_s,
        )
        self._wall_clock = wall_clock
        self._own_addresses = own_addresses
        self._replication_min = replication_min

    async def provide(self, key: bytes, *, timeout_s: float | None = None) -> int:
        """Say at the nearest peers that we have a key.

        Returns: how many took it. Fewer than `replication_min` is a failure: the caller says so, and tries again.
        """
        provided = self._record_of(key)
        found = await self.find_nearest(key, timeout_s=timeout_s)
        taken = await self._tell_all({contact: [provided] for contact in found.nearest}, timeout_s)
        return len(taken)

    async def put_value(self, key: bytes, value: bytes, *, timeout_s: float | None = None) -> int:
        """Leave a value at the nearest peers, and here. Returns how many others took it. Raises ValueRefusedError."""
        self.values.put(key, value, self.own, self._clock())
        found = await self.find_nearest(key, timeout_s=timeout_s)
        request = Message(Kind.PUT_VALUE, key, Record(key, value, rfc3339(self._wall_clock())))
        took = 0
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(self._put(contact, request)) for contact in found.nearest]
        for task in asked:
            took += task.result()
        return took

    async def provide_many(self, keys: Iterable[bytes]) -> Provided:
        """Announce many keys, region by region: one crawl for all keys of a region, one stream for all of a peer's."""
        schedule = Schedule()
        schedule.set_keys(keys)
        return await self.provide_due(schedule)

    async def provide_due(self, schedule: Schedule, *, regions_max: int | None = None) -> Provided:
        """Announce what a schedule says is due, at most `regions_max` regions. The schedule is told what came of it."""
        total = Provided(0, 0, 0, 0, 0)
        done = 0
        while (key := schedule.next_key(self._wall_clock())) is not None and done != regions_max:
            one = await self._provide_region(key, schedule)
            total = Provided(*(getattr(total, name) + getattr(one, name) for name in Provided.__slots__))
            done += 1
        return total

    async def _provide_region(self, key: bytes, schedule: Schedule) -> Provided:
        look_up = self._look_up(place_of(key), None, width=WIDTH)
        await self._run(look_up, Message(Kind.FIND_NODE, key))
        region = region_of(place_of(key), look_up.all_answered(), width=WIDTH)
        keys = schedule.in_region(region, self._wall_clock())
        records = {one: self._record_of(one) for one in keys}
        waiting: dict[Contact, list[bytes]] = {}
        for one in keys:
            for contact in keepers(place_of(one), region.peers):
                waiting.setdefault(contact, []).append(one)
        taken: Counter[bytes] = Counter()
        batches = 0
        for start in range(0, max(map(len, waiting.values()), default=0), BATCH_MAX):
            if start:
                await asyncio.sleep(BATCH_MAX / PACE_RECORDS_S)
            part = {contact: batch[start : start + BATCH_MAX] for contact, batch in waiting.items()}
            messages = {contact: [records[one] for one in batch] for contact, batch in part.items() if batch}
            batches += len(messages)
            for contact in await self._tell_all(messages, REGION_TIMEOUTS * self._query_timeout_s):
                taken.update(part[contact])
        least = min(self._replication_min, len(region.peers)) or 1
        announced = [one for one in keys if taken[one] >= least]
        failed = [one for one in keys if taken[one] < least]
        schedule.announced(announced, self._wall_clock())
        schedule.failed(failed, self._wall_clock())
        return Provided(len(announced), len(failed), look_up.asked, batches, sum(map(len, waiting.values())))

    # -- the inside

    def _record_of(self, key: bytes) -> Message:
        return Message(Kind.ADD_PROVIDER, key, providers=(PeerInfo(self.own, tuple(self._own_addresses())),))

    async def _tell_all(self, batches: dict[Contact, list[Message]], timeout_s: float | None) -> list[Contact]:
        """Leave records with peers, a few at a time. Returns: who took all of theirs."""
        turns = asyncio.Semaphore(TELLING_MAX)
        taken: list[Contact] = []

        async def tell(contact: Contact, messages: list[Message]) -> None:
            async with turns:
                try:
                    await self._asking.tell(contact, messages)
                except (Libp2pError, TimeoutError):
                    self.counts["records_not_taken"] += len(messages)
                else:
                    self.counts["records_sent"] += len(messages)
                    taken.append(contact)

        with suppress(TimeoutError):
            async with asyncio.timeout(self._query_timeout_s if timeout_s is None else timeout_s):
                async with asyncio.TaskGroup() as tasks:
                    for contact, messages in batches.items():
                        tasks.create_task(tell(contact, messages))
        return taken

    async def _put(self, contact: Contact, request: Message) -> bool:
        try:
            answer = await self._asking.ask(contact, request)
        except (Libp2pError, TimeoutError):
            return False
        return answer.message.kind is Kind.PUT_VALUE
