"""What a peer asks of the DHT: the nearest, a peer, providers, values. The table lives from these questions.

The same code over streams (`Dht`) and over function calls (the simulator): a question goes through an `Asking`. Every
operation has a deadline, and the number of look-ups under way is bounded.

Not here: what is left with others (`queries`), the swarm, and what is answered to others.
Source: libp2p/specs kad-dht; the specification's `set_query_timeout(30 s)`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from random import Random

from rage_net.libp2p.dht.crawl import Answer, Asking, Hop, crawl
from rage_net.libp2p.dht.table import Node, Table
from rage_net.libp2p.errors import Libp2pError
from rage_net.libp2p.kad.contact import Contact
from rage_net.libp2p.kad.groups import GROUP_MAX, Group, groups_of
from rage_net.libp2p.kad.keys import K, place_of, raw_key_near
from rage_net.libp2p.kad.lookup import Candidate, LookUp
from rage_net.libp2p.kad.messages import Kind, Message, PeerInfo
from rage_net.libp2p.kad.records import Providers
from rage_net.libp2p.kad.values import ValueRefusedError, Values
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId

LOOK_UPS_MAX = 16
"""Under way at once; others wait their turn, within their own deadline."""
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


class Finding:
    """One peer's questions, and the table that they keep alive."""

    def __init__(
        self,
        own: PeerId,
        asking: Asking,
        *,
        clock: Callable[[], float],
        random: Random,
        values: Values,
        providers: Providers,
        group: Group | None = None,
        query_timeout_s: float = 30.0,
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
        self._random = random
        self._groups = partial(_groups_of, group)
        self._query_timeout_s = query_timeout_s
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
        the end, those first that most answers name, one voice for each network that answers, and of one network few
        before others: so peers that make up providers, or are many of them, delay one that is there, and do not hide
        it. Addresses may be missing: `find_peer` knows more.
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
            ranked = sorted(named, key=lambda peer_id: -len(votes[peer_id]))
            for provider in _of_several_hands([named[peer_id] for peer_id in ranked], self._groups):
                if len(passed_on) >= limit:
                    break
                if provider.peer_id not in passed_on:
                    pass_on(provider)
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


def _of_several_hands(
    providers: list[PeerInfo], groups: Callable[[PeerId, tuple[Multiaddr, ...]], tuple[Hashable, ...]]
) -> list[PeerInfo]:
    """The same, but of one group those beyond GROUP_MAX last: one host with many keys has no more places than two."""
    shares: Counter[Hashable] = Counter()
    first: list[PeerInfo] = []
    rest: list[PeerInfo] = []
    for provider in providers:
        of = groups(provider.peer_id, provider.addresses)
        is_many = any(shares[group] >= GROUP_MAX for group in of)
        shares.update(of)
        (rest if is_many else first).append(provider)
    return [*first, *rest]


def _groups_of(group: Group | None, peer_id: PeerId, addresses: tuple[Multiaddr, ...]) -> tuple[object, ...]:
    return groups_of(peer_id, addresses, group)
