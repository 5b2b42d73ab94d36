"""Questions over the swarm, and the handler of those that come: one stream a question, or a stream for many records.

Our half ends after the answer, never before it: js-libp2p resets a stream whose end comes while it reads, and what it
answered may be lost with that. Records are followed by a PING on the same stream: its answer says that all before it
was taken, which neither the end of a stream nor silence does with every peer.

What a peer tells is held against where it was reached: addresses that such a peer may not know of are left out before
anyone sees them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rage_net.libp2p.dht.crawl import Answer
from rage_net.libp2p.errors import LimitError, RemoteProtocolError
from rage_net.libp2p.kad.answers import Answers, Asker
from rage_net.libp2p.kad.contact import Contact, place_addresses
from rage_net.libp2p.kad.groups import MayTell
from rage_net.libp2p.kad.messages import MESSAGE_BYTES_MAX, Kind, Message, PeerInfo, Reader, decode, frame
from rage_net.libp2p.kad.rates import AskingRates
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.scope import same_host
from rage_net.libp2p.swarm import Connection, Stream, Swarm

DIALS_MAX = 32
"""Of all look-ups together; others wait within their own deadline."""
TELL_RECORD_S = 0.05
"""A batch has so much more time for each record than a question has."""
STREAMS_PER_PEER_MAX = 32
"""Of the DHT, inbound, open at once: js-libp2p holds to the same."""
REQUESTS_PER_STREAM_MAX = 1024
QUIET_S = 30.0
"""An inbound stream on which nothing comes for so long is reset."""
READ_BYTES = 16 << 10
"""Taken from an inbound stream at a time."""
FRAME_RECORDS = 64
"""Records written at a time: about 10 KiB."""


def addresses_of(connection: Connection, may_tell: MayTell) -> tuple[Multiaddr, ...]:
    """Where the peer at the other end can be dialled: where we did, then what it says, at the same host first."""
    claimed = connection.identify.listen_addresses if connection.identify is not None else ()
    reached = connection.remote_address
    listed = [one for one in claimed if may_tell(one, reached)]
    listed.sort(key=lambda one: not same_host(one, reached))  # stable
    first = [] if connection.inbound else [reached]
    return place_addresses(connection.peer_id, [*first, *listed])


@dataclass(slots=True)
class Streams:
    """`Asking` over a swarm."""

    swarm: Swarm
    protocol: str
    timeout_s: float
    may_accept: MayTell
    own_addresses: Callable[[], Sequence[Multiaddr]]
    turns: asyncio.Semaphore

    async def ask(self, contact: Contact, request: Message) -> Answer:
        """See `Asking`."""
        async with asyncio.timeout(self.timeout_s):
            connection = await self._reach(contact)
            async with await connection.open_stream([self.protocol], initial=frame(request)) as stream:
                message = decode(await stream.read_message(MESSAGE_BYTES_MAX))
        if message.kind is not request.kind:
            raise RemoteProtocolError(f"a {request.kind.name} is answered with a {message.kind.name}")
        reached = connection.remote_address
        return Answer(
            message,
            reached,
            addresses_of(connection, self.may_accept),
            self._believe(message.closer, reached),
            self._believe(message.providers, reached),
        )

    async def tell(self, contact: Contact, messages: list[Message]) -> None:
        """See `Asking`."""
        async with asyncio.timeout(self.timeout_s + TELL_RECORD_S * len(messages)):
            connection = await self._reach(contact)
            async with await connection.open_stream([self.protocol]) as stream:
                for start in range(0, len(messages), FRAME_RECORDS):
                    await stream.write(frame(*messages[start : start + FRAME_RECORDS]))
                await stream.write(frame(Message(Kind.PING)))
                answer = decode(await stream.read_message(MESSAGE_BYTES_MAX))
        if answer.kind is not Kind.PING:
            raise RemoteProtocolError(f"a PING is answered with a {answer.kind.name}")

    async def _reach(self, contact: Contact) -> Connection:
        live = self.swarm.connection(contact.peer_id)
        if live is not None:
            return live
        async with self.turns:
            return await self.swarm.dial(contact.peer_id, contact.addresses, timeout_s=self.timeout_s)

    def _believe(self, told: Sequence[PeerInfo], reached: Multiaddr) -> tuple[PeerInfo, ...]:
        """Peers with those of their addresses that who told them may know; none of our own, but for ourselves."""
        own = set(self.own_addresses())
        believed = []
        for peer in told:
            is_self = peer.peer_id == self.swarm.peer_id
            kept = tuple(one for one in peer.addresses if self.may_accept(one, reached) and (is_self or one not in own))
            believed.append(PeerInfo(peer.peer_id, kept))
        return tuple(believed)


class Server:
    """The handler of inbound streams."""

    def __init__(self, answers: Answers, clock: Callable[[], float], wall_clock: Callable[[], float]) -> None:
        self.is_closed = False
        self._answers = answers
        self._clock = clock
        self._wall_clock = wall_clock
        self._rates = AskingRates()
        self._serving: Counter[PeerId] = Counter()

    async def serve(self, stream: Stream) -> None:
        """Answer what comes, until the peer ends the stream. Raises what resets it."""
        peer_id = stream.remote_peer
        if self.is_closed or self._serving[peer_id] >= STREAMS_PER_PEER_MAX:
            self._answers.counts["streams_refused"] += 1
            raise LimitError(f"{peer_id} has {STREAMS_PER_PEER_MAX} DHT streams open")
        self._serving[peer_id] += 1
        try:
            await self._serve(stream)
        finally:
            self._serving[peer_id] -= 1
            if not self._serving[peer_id]:
                del self._serving[peer_id]

    async def _serve(self, stream: Stream) -> None:
        connection = stream.connection
        dialled = () if connection.inbound else (connection.remote_address.without_peer_id(),)
        asker = Asker(connection.peer_id, connection.remote_address, dialled)
        reader, left = Reader(), REQUESTS_PER_STREAM_MAX
        while True:
            async with asyncio.timeout(QUIET_S):
                buffers = await stream.read_some(READ_BYTES)
            if not buffers:
                reader.end()
                return
            for buffer in buffers:
                reader.receive(buffer)
                while (request := reader.next_message()) is not None:
                    now = self._clock()
                    left -= 1
                    if left < 0 or not self._rates.take(connection.peer_id, request.kind, now):
                        self._answers.counts["rate_limited"] += 1
                        raise LimitError(f"{connection.peer_id} asks too much")
                    answer = self._answers.answer(request, asker, now, self._wall_clock())
                    if answer is not None:
                        await stream.write(frame(answer))
