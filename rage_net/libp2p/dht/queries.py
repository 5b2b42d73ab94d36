"""What a peer asks of the DHT: the nearest, a peer, providers, values; and what it leaves there.

The same code over streams (`Dht`) and over function calls (the simulator): a question goes through an `Asking`. Every
operation has a deadline, and the number of look-ups under way is bounded.

Not here: the swarm, tasks that outlive a call, and what is answered to others.
Source: libp2p/specs kad-dht; the specification's `set_query_timeout(30 s)` and `set_replication_factor(3)`, which is
the least number of peers that must take a record; they are offered to the k nearest.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from random import Random

from rage_net.libp2p.dht.crawl import Answer, Asking, Hop, crawl
from rage_net.libp2p.dht.table import Node, Table
from rage_net.libp2p.errors import Libp2pError
from rage_net.libp2p.kad.answers import rfc3339
from rage_net.libp2p.kad.contact import Contact
from rage_net.libp2p.kad.keys import K, place_of, raw_key_near
from rage_net.libp2p.kad.lookup import Candidate, LookUp
from rage_net.libp2p.kad.messages import Kind, Message, PeerInfo, Record
from rage_net.libp2p.kad.records import Providers
from rage_net.libp2p.kad.regions import WIDTH, keepers, region_of
from rage_net.libp2p.kad.schedule import Schedule
from rage_net.libp2p.kad.scope import Group, groups_of
from rage_net.libp2p.kad.values import ValueRefusedError, Values
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId

LOOK_UPS_MAX = 16
"""Under way at once; others wait their turn, within their own deadline."""
TELLING_MAX = 10
"""Peers that a record is being left with at once."""
BATCH_MAX = 500
"""Records on one stream: 70 KiB."""
PACE_RECORDS_S = 160.0
"""To one peer, after a first batch: below what `kad.rates` allows, so that 100,000 roots reach two peers in 11 minutes
instead of being refused."""
REGION_TIMEOUTS = 4
"""Leaving a batch with all peers of a region takes at most so many times as long as a look-up may."""
SUSPECTS_MAX = 64
"""Contacts waiting to be asked whether they live."""
EARLY_PER_ANSWER = 2
"""Providers of one answer that are passed on before others had their say."""
QUORUM = 3
"""Peers that give a valid value before a look-up for it ends early."""

OnHop = Callable[[Hop], None]


@dataclass(frozen=True, slots=True)
class Found:
    """What a look-up came to. `nearest`: who answered, nearest first, at most 20."""

    nearest: tuple[Contact, ...]
    providers: tuple[PeerInfo, ...]
    asked: int
    failed: int
    depth: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Provided:
    """What came of announcing keys: by questions, and batches of records, each on one stream."""

    announced: int
    failed: int
    questions: int
    batches: int
    records: int


class Queries:
    """One peer's questions, and the table that they keep alive."""

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
        self.own = own
        self.table = Table(Contact.of(own, ()))
        self.values = values
        self.providers = providers
        self.counts: Counter[str] = Counter()
        """look_ups, questions, failures, records_sent, ...; find_node, ... for what others ask. Only ever grow."""
        self.suspects: dict[PeerId, Contact] = {}
        self._asking = asking
        self._clock = clock
        self._wall_clock = wall_clock
        self._random = random
        self._own_addresses = own_addresses
        self._groups = partial(_groups_of, group)
        self._query_timeout_s = query_timeout_s
        self._replication_min = replication_min
        self._turns = asyncio.Semaphore(LOOK_UPS_MAX)

    # -- finding

    async def find_nearest(self, key: bytes, *, on_hop: OnHop | None = None, timeout_s: float | None = None) -> Found:
        """The peers nearest to a raw key (a multihash, or a peer id's bytes) that answer."""
        look_up = self._look_up(place_of(key), timeout_s)
        return await self._run(look_up, Message(Kind.FIND_NODE, key), on_hop=on_hop)

    async def find_peer(
        self, peer_id: PeerId, *, on_hop: OnHop | None = None, timeout_s: float | None = None
    ) -> tuple[Contact | None, Found]:
        """Where a peer can be dialled, and the look-up that told. None when nobody knows.

        A server of the DHT has answered itself; of others the addresses are what others say.
        """
        place = place_of(bytes(peer_id))
        look_up = self._look_up(place, timeout_s)
        told: dict[Multiaddr, int] = {}

        def on_answer(candidate: Candidate, answer: Answer) -> None:
            if candidate.contact.peer_id == peer_id:
                look_up.stop()
            for hint in answer.hints:
                if hint.peer_id == peer_id:
                    for address in hint.addresses:
                        told[address] = told.get(address, 0) + 1

        found = await self._run(look_up, Message(Kind.FIND_NODE, bytes(peer_id)), on_answer=on_answer, on_hop=on_hop)
        if (contact := next((one for one in found.nearest if one.peer_id == peer_id), None)) is not None:
            return contact, found
        if not told:
            return None, found
        return Contact.of(peer_id, sorted(told, key=lambda address: -told[address])), found

    async def find_providers(
        self, key: bytes, limit: int = K, *, on_hop: OnHop | None = None, timeout_s: float | None = None
    ) -> AsyncIterator[PeerInfo]:
        """Providers of a key as they are heard of, at most `limit`, each once.

        Half of the limit is for the first to be heard of, at most EARLY_PER_ANSWER of each answer. The rest comes at
        the end, those first that most answers name, one voice for each network that answers: so peers that make up
        providers delay one that is there, and do not hide it. Addresses may be missing: `find_peer` knows more.
        """
        heard: asyncio.Queue[PeerInfo | None] = asyncio.Queue()
        task = asyncio.create_task(self._hear_providers(key, limit, heard, on_hop, timeout_s))
        try:
            while (provider := await heard.get()) is not None:
                yield provider
            await task  # its own error, if any
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def look_for_providers(
        self, key: bytes, limit: int = K, *, on_hop: OnHop | None = None, timeout_s: float | None = None
    ) -> Found:
        """As `find_providers`, all at the end and with what the look-up was like."""
        return await self._hear_providers(key, limit, None, on_hop, timeout_s)

    async def _hear_providers(
        self,
        key: bytes,
        limit: int,
        heard: asyncio.Queue[PeerInfo | None] | None,
        on_hop: OnHop | None,
        timeout_s: float | None,
    ) -> Found:
        look_up = self._look_up(place_of(key), timeout_s)
        named: dict[PeerId, PeerInfo] = {}
        votes: dict[PeerId, set[Hashable]] = {}
        passed_on: dict[PeerId, PeerInfo] = {}

        def pass_on(provider: PeerInfo) -> None:
            passed_on[provider.peer_id] = provider
            if heard is not None:
                heard.put_nowait(provider)

        def on_answer(candidate: Candidate, answer: Answer) -> None:
            voter = candidate.groups or candidate.contact.peer_id
            early = 0
            for told in answer.providers:
                known = named.get(told.peer_id)
                provider = named[told.peer_id] = known if known is not None and known.addresses else told
                votes.setdefault(told.peer_id, set()).add(voter)
                if told.peer_id not in passed_on and early < EARLY_PER_ANSWER and len(passed_on) < limit // 2:
                    early += 1
                    pass_on(provider)

        for provider in self.providers.get(
            key, self._clock(), most=limit
        ):  # left here by others: no more than an answer
            named[provider.peer_id], votes[provider.peer_id] = provider, {self.own}
            if len(passed_on) < limit // 2:
                pass_on(provider)
        try:
            found = await self._run(look_up, Message(Kind.GET_PROVIDERS, key), on_answer=on_answer, on_hop=on_hop)
            for peer_id in sorted(named, key=lambda peer_id: -len(votes[peer_id])):
                if len(passed_on) >= limit:
                    break
                if peer_id not in passed_on:
                    pass_on(named[peer_id])
        finally:
            if heard is not None:
                heard.put_nowait(None)
        return Found(found.nearest, tuple(passed_on.values()), found.asked, found.failed, found.depth, found.seconds)

    async def get_value(self, key: bytes, *, timeout_s: float | None = None) -> bytes | None:
        """The best valid value under a key, or None. Ends when QUORUM peers gave one.

        Raises: ValueRefusedError where the namespace has no rule.
        """
        here = self.values.get(key, self._clock())
        values = [] if here is None else [here]
        look_up = self._look_up(place_of(key), timeout_s)

        def on_answer(candidate: Candidate, answer: Answer) -> None:
            record = answer.message.record
            if record is None or record.key != key:
                return
            try:
                self.values.validate(key, record.value)
            except ValueRefusedError:
                self.counts["values_refused"] += 1
                return
            values.append(record.value)
            if len(values) >= QUORUM:
                look_up.stop()

        self.values.best(key, [b""])  # names an unknown namespace before anybody is asked
        await self._run(look_up, Message(Kind.GET_VALUE, key), on_answer=on_answer)
        return self.values.best(key, values) if values else None

    # -- leaving

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

    # -- keeping the table

    async def bootstrap(self, contacts: Iterable[Contact] = ()) -> Found:
        """Look for ourselves, from the table and `contacts`; then into parts of the space that we know little of."""
        own = bytes(self.own)
        look_up = self._look_up(place_of(own), None, seeds=contacts)
        found = await self._run(look_up, Message(Kind.FIND_NODE, own))
        await self.refresh()
        return found

    async def refresh(self) -> int:
        """Look where few are known, or none was heard of for an hour: once an hour for each distance. How many."""
        due = self.table.places_to_look_at(self._clock())
        for place, bits in due:
            await self.find_nearest(raw_key_near(place, bits, self._random))
        return len(due)

    async def check(self, contact: Contact) -> bool:
        """Ask a peer something small: it enters the table when it answers, and is on its way out when not."""
        try:
            answer = await self._asking.ask(contact, Message(Kind.FIND_NODE, bytes(self.own)))
        except (Libp2pError, TimeoutError):
            self.table.failed(contact.peer_id, contact.place)
            return False
        addresses = dict.fromkeys([*answer.addresses, *contact.addresses])
        groups = self._groups(contact.peer_id, (answer.reached_at,))
        self.heard(Contact.of(contact.peer_id, addresses, groups))
        return True

    def heard(self, contact: Contact) -> None:
        """A peer answered a question of the DHT."""
        suspect = self.table.answered(self._node(contact), self._clock())
        if suspect is not None and len(self.suspects) < SUSPECTS_MAX:
            self.suspects[suspect.contact.peer_id] = suspect.contact

    def _node(self, contact: Contact) -> Node:
        """What the table keeps; the simulator shares them."""
        return Node(contact)

    # -- the inside

    def _look_up(
        self, target: int, timeout_s: float | None, *, width: int = K, seeds: Iterable[Contact] = ()
    ) -> LookUp:
        deadline = self._clock() + (self._query_timeout_s if timeout_s is None else timeout_s)
        known = [*self.table.choose(target, max(K, width)), *seeds]
        return LookUp(target, known, own=self.own, deadline=deadline, width=width, groups=self._groups)

    async def _run(
        self,
        look_up: LookUp,
        request: Message,
        *,
        on_answer: Callable[[Candidate, Answer], None] | None = None,
        on_hop: OnHop | None = None,
    ) -> Found:
        began = self._clock()
        self.counts["look_ups"] += 1

        def answered(candidate: Candidate, answer: Answer) -> None:
            self.heard(candidate.contact)
            if on_answer is not None:
                on_answer(candidate, answer)

        def failed(candidate: Candidate) -> None:
            self.counts["failures"] += 1
            self.table.failed(candidate.contact.peer_id, candidate.contact.place)

        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, look_up.deadline - began)):
                async with self._turns:
                    await crawl(
                        look_up,
                        request,
                        self._asking,
                        clock=self._clock,
                        on_answer=answered,
                        on_failure=failed,
                        on_hop=on_hop,
                    )
        self.counts["questions"] += look_up.asked
        seconds = self._clock() - began
        return Found(tuple(look_up.nearest()), (), look_up.asked, look_up.failed, look_up.depth, seconds)

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


def _groups_of(group: Group | None, peer_id: PeerId, addresses: tuple[Multiaddr, ...]) -> tuple[object, ...]:
    return groups_of(peer_id, addresses, group)
