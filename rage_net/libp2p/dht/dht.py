"""The DHT of one node: its table kept alive, others' questions answered, and the operations of `Queries`.

    connected   identify says that a peer speaks the protocol -> it is asked -> it answers -> it is in the table
    asked       each question of a look-up tells the table who lives and who does not
    refresh     every REFRESH_CHECK_S: ourselves, then the buckets that nobody was heard from

A client asks and does not answer: it does not name the protocol, so that no table takes it in.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Literal

from rage_net.libp2p.dht.finding import Found, OnHop
from rage_net.libp2p.dht.queries import Queries
from rage_net.libp2p.dht.streams import DIALS_MAX, Server, Streams, addresses_of
from rage_net.libp2p.dht.table import CONTACTS_MAX
from rage_net.libp2p.kad.answers import Answers
from rage_net.libp2p.kad.contact import ADDRESSES_MAX, Contact
from rage_net.libp2p.kad.groups import Group, MayTell, groups_of
from rage_net.libp2p.kad.keys import distance_bits
from rage_net.libp2p.kad.messages import PROTOCOL
from rage_net.libp2p.kad.records import Providers
from rage_net.libp2p.kad.values import VALIDATORS, Validator, Values
from rage_net.libp2p.multiaddr import Multiaddr, MultiaddrError
from rage_net.libp2p.peer_id import PeerId, PeerIdError
from rage_net.libp2p.scope import may_tell
from rage_net.libp2p.swarm import Connection, Event, Identified, Swarm

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 5.0
"""One question, a dial with it: five round trips of a slow link, and some."""
REFRESH_CHECK_S = 600.0
CHECKS_MAX = 16
"""Peers asked at once whether they answer: with all of them silent, a newcomer waits 20 s."""
CHECKS_WAITING_MAX = 64
"""Beyond it a peer waits for its next identify."""
LINE_CHARS_MAX = 4096


@dataclass(frozen=True, slots=True)
class ContactView:
    """A contact as operators see it. `age_s`: since it last answered."""

    contact: Contact
    distance_bits: int
    age_s: float | None


@dataclass(frozen=True, slots=True)
class BucketView:
    """Contacts at one distance; `replacements` wait for a place."""

    distance_bits: int
    contacts: tuple[ContactView, ...]
    replacements: int


@dataclass(frozen=True, slots=True)
class TableView:
    """The table, nearest bucket first, and what others have stored here."""

    peer_id: PeerId
    mode: str
    contacts: int
    replacements: int
    provider_records: int
    value_records: int
    buckets: tuple[BucketView, ...]


class Dht(Queries):
    """Run it with `async with`, inside the swarm's own. All methods belong to one event loop."""

    def __init__(
        self,
        swarm: Swarm,
        *,
        mode: Literal["server", "client"],
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        random: Random,
        protocol: str = PROTOCOL,
        group: Group | None = None,
        accept_address: MayTell = may_tell,
        tell_address: MayTell = may_tell,
        own_addresses: Callable[[], Sequence[Multiaddr]] | None = None,
        validators: dict[str, Validator] | None = None,
        query_timeout_s: float = 30.0,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
        replication_min: int = 3,
    ) -> None:
        """Make a node's part in the DHT; it begins with `async with`.

        Args: group: what a peer belongs to beyond its address, where no certificate proves it. accept_address,
        tell_address: `(address, of the peer that tells or asks)`, see `scope`. own_addresses: where others reach
        us; the swarm's listen addresses by default. replication_min: peers that must take a record.
        """
        addresses = own_addresses if own_addresses is not None else swarm.listen_addresses
        asking = Streams(swarm, protocol, request_timeout_s, accept_address, addresses, asyncio.Semaphore(DIALS_MAX))
        super().__init__(
            swarm.peer_id,
            asking,
            clock=clock,
            wall_clock=wall_clock,
            random=random,
            values=Values(VALIDATORS if validators is None else {**VALIDATORS, **validators}),
            providers=Providers(random),
            own_addresses=addresses,
            group=group,
            query_timeout_s=query_timeout_s,
            replication_min=replication_min,
        )
        self.mode = mode
        self.swarm = swarm
        self._protocol = protocol
        self._accept_address = accept_address
        self._group = group
        self._remembered: list[Contact] = []
        self._to_check: dict[PeerId, None] = {}
        self._is_due = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        answers = Answers(
            swarm.peer_id,
            self.table.choose,
            self.providers,
            self.values,
            tell_address,
            own_addresses=addresses,
            known=self._addresses_of,
            group=group,
            counts=self.counts,
        )
        self._server = Server(answers, clock, wall_clock)

    # -- life

    async def __aenter__(self) -> Dht:
        self.swarm.on_event(self._on_event)
        if self.mode == "server":
            self.swarm.handle(self._protocol, self._server.serve)
        for connection in self.swarm.connections():
            self._consider(connection)
        self._tasks = [asyncio.create_task(self._guard(job)) for job in (self._check_peers, self._keep_fresh)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.is_closed = True
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _guard(self, job: Callable[[], Awaitable[None]]) -> None:
        """A round that fails is counted, and the next one comes all the same."""
        while True:
            try:
                await job()
            except Exception:
                self.counts["task_errors"] += 1
                log.exception("a task of the DHT failed")

    async def _check_peers(self) -> None:
        """One round: those who say that they are servers, and those who keep others from a place."""
        await self._is_due.wait()
        self._is_due.clear()
        turns = asyncio.Semaphore(CHECKS_MAX)

        async def check(contact: Contact) -> None:
            async with turns:
                await self.check(contact)

        suspects, self.suspects = self.suspects, {}
        waiting, self._to_check = self._to_check, {}
        contacts = list(suspects.values())
        for peer_id in waiting:
            connection = self.swarm.connection(peer_id)
            if connection is not None:
                contacts.append(self._contact(connection))
        async with asyncio.TaskGroup() as tasks:
            for contact in contacts:
                tasks.create_task(check(contact))

    async def _keep_fresh(self) -> None:
        """One round."""
        await asyncio.sleep(REFRESH_CHECK_S * self._random.uniform(0.75, 1.25))
        now = self._clock()
        self.providers.expire(now)
        self.values.expire(now)
        await self.bootstrap()

    # -- peers of the swarm

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Identified):
            connection = self.swarm.connection(event.peer_id)
            if connection is not None:
                self._consider(connection)

    def _consider(self, connection: Connection) -> None:
        """A connected peer said what it is."""
        if connection.identify is None:
            return
        contact = self._contact(connection)
        known = self.table.get(contact.peer_id, contact.place)
        if self._protocol not in connection.identify.protocols:
            if known is not None:
                self.table.forget(contact.peer_id, contact.place)
        elif known is None and len(self._to_check) < CHECKS_WAITING_MAX:
            self._to_check[contact.peer_id] = None
            self._is_due.set()

    def heard(self, contact: Contact) -> None:
        """See `Queries`."""
        super().heard(contact)
        if self.suspects:
            self._is_due.set()

    def _contact(self, connection: Connection) -> Contact:
        groups = groups_of(connection.peer_id, (connection.remote_address,), self._group)
        return Contact.of(connection.peer_id, addresses_of(connection, self._accept_address), groups)

    def _addresses_of(self, peer_id: PeerId) -> tuple[Multiaddr, ...]:
        connection = self.swarm.connection(peer_id)
        return () if connection is None else addresses_of(connection, self._accept_address)

    # -- operations that know more than `Queries`

    async def bootstrap(self, contacts: Iterable[Contact] = ()) -> Found:
        """Fill the table from connected servers, the peers of the last run, and `contacts`; later, refresh it."""
        connected = [
            self._contact(connection)
            for connection in self.swarm.connections()
            if connection.identify is not None and self._protocol in connection.identify.protocols
        ]
        return await super().bootstrap([*connected, *self._remembered, *contacts])

    async def find_peer(
        self, peer_id: PeerId, *, on_hop: OnHop | None = None, timeout_s: float | None = None
    ) -> tuple[Contact | None, Found]:
        """See `Queries`; a connected peer costs no question."""
        connection = self.swarm.connection(peer_id)
        if connection is not None:
            contact = self._contact(connection)
            if contact.addresses:
                return contact, Found((contact,), (), 0, 0, 0, 0.0)
        return await super().find_peer(peer_id, on_hop=on_hop, timeout_s=timeout_s)

    def view(self) -> TableView:
        """The table for people."""
        now, own = self._clock(), self.table.node.long_id
        rows: dict[int, list[ContactView]] = {}
        for contact in self.table:
            heard_at = self.table.heard_at(contact)
            bits = distance_bits(contact.place, own)
            row = ContactView(contact, bits, None if heard_at is None else now - heard_at)
            rows.setdefault(bits, []).append(row)
        waiting: dict[int, int] = {}
        for contact in self.table.replacements():
            bits = distance_bits(contact.place, own)
            waiting[bits] = waiting.get(bits, 0) + 1
        buckets = tuple(
            BucketView(bits, tuple(rows.get(bits, ())), waiting.get(bits, 0)) for bits in sorted({*rows, *waiting})
        )
        return TableView(
            self.own,
            self.mode,
            len(self.table),
            self.table.waiting,
            len(self.providers),
            len(self.values),
            buckets,
        )

    # -- between runs

    def to_text(self) -> str:
        """The table as text: a line a contact, peer id, when it was last heard of (wall clock), addresses by comma."""
        now, wall_now = self._clock(), self._wall_clock()
        lines = []
        for contact in self.table:
            if contact.addresses:
                heard_at = wall_now - (now - (self.table.heard_at(contact) or now))
                lines.append(f"{contact.peer_id} {heard_at:.0f} {','.join(map(str, contact.addresses))}\n")
        return "".join(lines)

    def load_text(self, text: str) -> None:
        """Remember the contacts of an earlier run: `bootstrap` asks them, and who answers enters the table.

        A line that cannot be read is left out.
        """
        found = []
        for line in text.splitlines()[:CONTACTS_MAX]:
            parts = line[:LINE_CHARS_MAX].split()
            if len(parts) != 3:
                continue
            try:
                addresses = [Multiaddr.parse(one) for one in parts[2].split(",")[:ADDRESSES_MAX]]
                peer_id = PeerId.parse(parts[0])
            except (PeerIdError, MultiaddrError):
                continue
            found.append(Contact.of(peer_id, addresses, groups_of(peer_id, addresses, self._group)))
        self._remembered = found
