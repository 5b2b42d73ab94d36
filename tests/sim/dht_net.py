"""The DHT's rules alone, for thousands of nodes in one process: real tables, look-ups, answers and records.

A question is a function call that takes virtual time. Contact objects are shared, so that a node costs its table and
little else.

Left out: swarms, bytes, and the background tasks of `Dht`.
"""

from __future__ import annotations

import asyncio
import hashlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from random import Random

from rage_net.libp2p.dht.crawl import Answer
from rage_net.libp2p.dht.queries import Queries
from rage_net.libp2p.dht.table import Node
from rage_net.libp2p.errors import DialError
from rage_net.libp2p.kad.answers import Answers, Asker
from rage_net.libp2p.kad.contact import Contact
from rage_net.libp2p.kad.groups import groups_of
from rage_net.libp2p.kad.keys import BITS
from rage_net.libp2p.kad.messages import Kind, Message
from rage_net.libp2p.kad.records import Providers
from rage_net.libp2p.kad.values import Values
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.scope import may_tell

RTT_S = (0.02, 0.2)
"""A question and its answer, the dial included: drawn for each question."""
TIMEOUT_S = 1.0
NETWORKS = 6000
"""Public /24s that nodes are spread over by chance: most have one or two, some four."""


def multihash(data: bytes) -> bytes:
    return bytes((0x12, 32)) + hashlib.sha256(data).digest()


class Peer(Queries):
    """One node."""

    def __init__(self, net: DhtNet, contact: Contact) -> None:
        self.net = net
        self.contact = contact
        self.shared = Node(contact)
        self.is_alive = True
        super().__init__(
            contact.peer_id,
            Wire(self),
            clock=net.now,
            wall_clock=net.now,
            random=net.random,
            values=net.no_values,
            providers=Providers(net.random),
            own_addresses=lambda: contact.addresses,
        )
        self.answers = Answers(
            contact.peer_id,
            self.table.choose,
            self.providers,
            self.values,
            may_tell,
            own_addresses=self._own_addresses,
            counts=net.counts,
        )
        self.counts = net.counts

    def _node(self, contact: Contact) -> Node:
        return self.net.peers[contact.peer_id].shared

    def reply(self, request: Message, asker: Asker) -> Message | None:
        """What it says to a request."""
        return self.answers.answer(request, asker, self.net.now(), self.net.now())

    async def check_suspects(self) -> None:
        """What `Dht` does in a task of its own."""
        suspects, self.suspects = self.suspects, {}
        for contact in suspects.values():
            await self.check(contact)


class Wire:
    """`Asking` by function call."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def ask(self, contact: Contact, request: Message) -> Answer:
        other = await self._reach(contact)
        net, own = self._peer.net, self._peer.contact
        message = other.reply(request, Asker(own.peer_id, own.addresses[0]))
        assert message is not None
        net.questions += 1
        return Answer(message, other.contact.addresses[0], other.contact.addresses, message.closer, message.providers)

    async def tell(self, contact: Contact, messages: list[Message]) -> None:
        other = await self._reach(contact)
        net, own = self._peer.net, self._peer.contact
        asker = Asker(own.peer_id, own.addresses[0])
        net.batches += 1
        for message in messages:
            assert message.kind is Kind.ADD_PROVIDER
            if net.keeps is None or message.key in net.keeps:
                other.reply(message, asker)

    async def _reach(self, contact: Contact) -> Peer:
        other = self._peer.net.peers.get(contact.peer_id)
        if other is None or not other.is_alive or not contact.addresses:
            await asyncio.sleep(TIMEOUT_S)
            raise TimeoutError
        if other.contact.addresses[0] not in contact.addresses:
            raise DialError("nobody is there")
        await asyncio.sleep(self._peer.net.random.uniform(*RTT_S))
        return other


class DhtNet:
    """All of them."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.peers: dict[PeerId, Peer] = {}
        self.order: list[Peer] = []
        self.no_values = Values()
        self.questions = 0
        self.batches = 0
        self.keeps: set[bytes] | None = None
        """When set, records of other keys are counted and not kept: 2,000,000 of them would fill the memory."""
        self.counts: Counter[str] = Counter()

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def contact(self, where: str | None = None) -> Contact:
        """A peer that does not exist yet, at a public address."""
        peer_id = PeerId(bytes((0, 36, 8, 1, 18, 32)) + self.random.randbytes(32))
        if where is None:
            network = self.random.randrange(NETWORKS)
            where = f"{60 + network // 65536}.{network // 256 % 256}.{network % 256}.{self.random.randint(1, 254)}"
        addresses = (Multiaddr.parse(f"/ip4/{where}/tcp/4001"),)
        return Contact.of(peer_id, addresses, groups_of(peer_id, addresses, None))

    def add(self, contact: Contact) -> Peer:
        peer = self.peers[contact.peer_id] = Peer(self, contact)
        return peer

    def grow(self, contacts: Iterable[Contact]) -> list[Peer]:
        """Nodes whose tables are as after a long life: of each distance, peers met by chance."""
        new = [self.add(contact) for contact in contacts]
        self.order = sorted(self.peers.values(), key=lambda peer: peer.contact.place)
        places = [peer.contact.place for peer in self.order]
        now = self.now()
        for peer in new:
            for other in self._met(peer, places):
                peer.table.answered(other.shared, now)
        return new

    def _met(self, peer: Peer, places: Sequence[int]) -> Iterable[Peer]:
        own = peer.contact.place
        for bits in range(BITS, 0, -1):
            size = 1 << (bits - 1)
            low = (own ^ size) // size * size
            start, end = bisect_left(places, low), bisect_left(places, low + size)
            chosen = range(start, end) if end - start <= 24 else self.random.sample(range(start, end), 24)
            yield from (self.order[index] for index in chosen)
            base = own // size * size
            if bisect_left(places, base + size) - bisect_left(places, base) == 1:
                return  # nobody is nearer

    def kill(self, share: float) -> None:
        """So many go without a word."""
        for peer in self.random.sample(list(self.peers.values()), int(len(self.peers) * share)):
            peer.is_alive = False

    def alive(self) -> list[Peer]:
        return [peer for peer in self.peers.values() if peer.is_alive]

    def true_nearest(self, place: int, count: int) -> list[Peer]:
        """As somebody who knows all would say."""
        return sorted(self.alive(), key=lambda peer: peer.contact.place ^ place)[:count]
