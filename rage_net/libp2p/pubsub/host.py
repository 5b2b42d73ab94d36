"""The host of a router: what others ask, peers that come and go, a stream to each, and the heartbeat.

A stream to a peer is a task of its own: it sends what the outbox holds, one RPC at a time, as fast as the peer reads.
A peer is met when identify says that it speaks gossipsub, or when it opens a stream. What it sends too much of costs it
the stream, its score, or, below the graylist's threshold, our ear.
Source: libp2p/specs, pubsub (Stream management).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING

from rage_net.libp2p.errors import Libp2pError, LimitError, StreamClosedError
from rage_net.libp2p.gossipsub import PROTOCOLS, Delivered, Event, Exchanged, Message, Params, Router, Rpc, Verdict
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.pubsub.inbound import READ_BYTES, Inbound
from rage_net.libp2p.pubsub.readers import Subscription, TopicState, Validate
from rage_net.libp2p.scope import HOST_PREFIX_BITS, parse_ip, prefix
from rage_net.libp2p.swarm import Connection, Disconnected, Identified, Stream
from rage_net.libp2p.swarm import Event as SwarmEvent

if TYPE_CHECKING:
    from rage_net.libp2p.scope import HOST_PREFIX_BITS, parse_ip, prefix
from rage_net.libp2p.swarm import Swarm

log = logging.getLogger(__name__)

PEERS_MAX = 512
"""Peers that we gossip with; as many as a swarm has connections."""
SUBSCRIPTIONS_MAX = 256
"""Readers at a time."""
RETRY_S, RETRY_S_MAX = 1.0, 60.0
"""Between attempts to open a stream to a peer that stays connected; doubles."""


class PubSub:
    """Gossip of one node; run it with `async with`, inside the swarm's. All methods belong to one event loop."""

    def __init__(
        self,
        swarm: Swarm,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        random: Random,
        params: Params = Params(),  # noqa: B008 - frozen
        app_score: Callable[[PeerId], float] | None = None,
        may_join: Callable[[PeerId, str], bool] | None = None,
        on_peer_exchange: Callable[[str, Sequence[PeerId], PeerId], None] | None = None,
    ) -> None:
        """A host for one swarm.

        Args: app_score: what the node thinks of a peer; negative keeps it out of the mesh. may_join: whether a peer may
        know of a topic; False, and it is neither told of it nor sent it, and not heard on it. on_peer_exchange: called
        with a topic, peers of it that we might dial, and the well-scored peer that names them.
        """
        self._swarm = swarm
        self._clock = clock
        self._wall_clock = wall_clock
        self._random = random
        self._on_peer_exchange = on_peer_exchange
        self.router = Router(
            swarm.peer_id,
            params,
            random=random,
            sign=swarm.sign,
            judge=self._judge,
            app_score=app_score,
            may_join=may_join,
        )
        self.counts: Counter[str] = self.router.counts
        """What happened, by name: rejected, duplicates, dropped_messages, streams_refused, ... Only ever grow."""
        self._subscriptions: dict[str, list[Subscription]] = {}
        self._speakers: dict[PeerId, asyncio.Task[None]] = {}
        self._wakers: dict[PeerId, asyncio.Event] = {}
        self._inbound = Inbound(self.router, self._take)
        self._tasks: asyncio.TaskGroup | None = None
        self._running: dict[asyncio.Task[None], None] = {}  # in the order they began

    # -- life

    async def __aenter__(self) -> PubSub:
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        for protocol in PROTOCOLS:
            self._swarm.handle(protocol, self._serve)
        self._swarm.on_event(self._on_event)
        for connection in self._swarm.connections():
            if connection.identify is not None:
                self._meet(connection, connection.identify.protocols)
        self._spawn(self._beat)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tasks is not None
        tasks, self._tasks = self._tasks, None
        for subscription in [one for group in self._subscriptions.values() for one in group]:
            subscription.close()
        await self._inbound.close()
        for task in list(self._running):
            task.cancel()
        await tasks.__aexit__(None, None, None)  # no task raises; the caller's error goes its own way

    def _spawn(self, work: Callable[..., Awaitable[None]], *args: object) -> asyncio.Task[None]:
        assert self._tasks is not None
        task = self._tasks.create_task(self._guard(work, *args))
        self._running[task] = None
        task.add_done_callback(lambda task: self._running.pop(task, None))
        return task

    async def _guard(self, work: Callable[..., Awaitable[None]], *args: object) -> None:
        """One failing task never ends the others."""
        try:
            await work(*args)
        except Exception:
            self.counts["task_errors"] += 1
            log.exception("a task of gossip failed")

    async def _beat(self) -> None:
        interval_s = self.router.params.heartbeat_s
        await asyncio.sleep(self._random.uniform(0, interval_s))  # nodes that start together do not beat in step
        while True:
            try:
                self.router.heartbeat(self._clock())
            except Exception:
                self.counts["task_errors"] += 1
                log.exception("a heartbeat failed")
            self._wake()
            await asyncio.sleep(interval_s)

    # -- what others ask

    def subscribe(self, topic: str, validate: Validate | None = None) -> Subscription:
        """Join a topic, if we have not, and get its messages from now on. Our own are not among them.

        Args: validate: decides on each message before it is delivered or passed on; quick, and raises nothing: what
        raises is counted, and the message ignored. With several subscriptions the strictest verdict counts.
        Raises: ValueError for a name that is none; LimitError for one topic, or one subscription, too many.
        """
        if sum(map(len, self._subscriptions.values())) >= SUBSCRIPTIONS_MAX:
            raise LimitError(f"{SUBSCRIPTIONS_MAX} subscriptions are open")
        self.router.join(topic, self._clock())
        subscription = Subscription(topic, validate, self._unsubscribe)
        self._subscriptions.setdefault(topic, []).append(subscription)
        self._wake()
        return subscription

    def _unsubscribe(self, subscription: Subscription) -> None:
        group = self._subscriptions[subscription.topic]
        group.remove(subscription)
        if not group:
            del self._subscriptions[subscription.topic]
            self.router.leave(subscription.topic, self._clock())
            self._wake()

    def publish(self, topic: str, data: bytes) -> tuple[bytes, int]:
        """Sign and send a message; the topic need not be joined. Gives its id, and to how many peers it goes at once.

        Raises: ValueError for a name that is none, or data over `Params.message_bytes_max`; LimitError.
        """
        message, peers = self.router.publish(topic, data, self._clock(), self._wall_clock())
        self._wake()
        return message.id, peers

    def topics(self) -> list[TopicState]:
        """Topics we have joined first, then those that peers have or that we published to; by name."""
        router = self.router
        joined = sorted(router.topics())
        others = sorted({*router.peers.topics(), *router.topic_counts} - set(joined))
        return [self._state(topic, topic in self._subscriptions) for topic in [*joined, *others]]

    def peers(self, topic: str) -> list[PeerId]:
        """Connected peers that have joined a topic, and may."""
        return [peer.id for peer in self.router.peers.members(topic)]

    def mesh(self, topic: str) -> list[PeerId]:
        """Peers with whom messages of a topic are exchanged at once."""
        return [peer.id for peer in self.router.mesh.members(topic)]

    def score(self, peer: PeerId) -> float:
        """What a peer is worth to us."""
        return self.router.scores.score(peer)

    def reconsider(self, peer: PeerId) -> None:
        """`may_join` would now say otherwise of this peer: tell it what it may know, and no longer what it may not."""
        self.router.reconsider(peer, self._clock())
        self._wake()

    def _state(self, topic: str, is_joined: bool) -> TopicState:
        counts = self.router.topic_counts.get(topic, Counter())
        return TopicState(
            topic,
            is_joined,
            len(self.router.peers.members(topic)),
            len(self.router.mesh.members(topic)),
            counts["received"],
            counts["duplicates"],
            counts["rejected"],
            counts["published"],
        )

    # -- what the router asks and tells

    def _judge(self, peer: PeerId, message: Message) -> Verdict:
        verdict = Verdict.ACCEPT
        for subscription in self._subscriptions.get(message.topic, ()):
            if subscription.validate is None:
                continue
            try:
                said = subscription.validate(message)
            except Exception:
                self.counts["validator_errors"] += 1
                log.exception("the validator of %s failed", message.topic)
                said = Verdict.IGNORE
            if said is Verdict.REJECT:
                return said
            verdict = said if verdict is Verdict.ACCEPT else verdict
        return verdict

    def _tell(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case Delivered(message, _):
                    for subscription in self._subscriptions.get(message.topic, ()):
                        self.counts["dropped_by_readers"] += subscription.put(message)
                case Exchanged(topic, peers, source):
                    self.counts["exchanges"] += 1
                    if self._on_peer_exchange is not None:
                        try:
                            self._on_peer_exchange(topic, peers, source)
                        except Exception:
                            self.counts["task_errors"] += 1
                            log.exception("the callback of peer exchange failed")

    def _wake(self) -> None:
        """Let the speakers look at their outboxes."""
        for peer in self.router.take_pending():
            if (waker := self._wakers.get(peer)) is not None:
                waker.set()

    def _take(self, peer: PeerId, rpc: Rpc) -> None:
        self._tell(self.router.receive(peer, rpc, self._clock(), self._wall_clock()))
        self._wake()

    # -- peers come and go

    def _on_event(self, event: SwarmEvent) -> None:
        match event:
            case Identified(peer, message):
                if (connection := self._swarm.connection(peer)) is not None:
                    self._meet(connection, message.protocols)
            case Disconnected(peer):
                self._part(peer)

    def _meet(self, connection: Connection, protocols: Sequence[str]) -> None:
        """A peer speaks gossipsub: begin to speak to it."""
        peer = connection.peer_id
        spoken = tuple(protocol for protocol in PROTOCOLS if protocol in protocols)
        if self._tasks is None or not spoken or peer in self._speakers:
            return
        if len(self._speakers) >= PEERS_MAX:
            self.counts["peers_refused"] += 1
            return
        self.router.add_peer(peer, _host(connection), is_outbound=not connection.inbound, protocol=spoken[0])
        self._wakers[peer] = asyncio.Event()
        self._speakers[peer] = self._spawn(self._speak, peer, spoken)

    async def _serve(self, stream: Stream) -> None:
        """The handler of a peer's stream."""
        if self._tasks is None:
            raise StreamClosedError("gossip has ended")
        self._meet(stream.connection, (stream.protocol,))
        if stream.remote_peer not in self._speakers:
            raise LimitError(f"{PEERS_MAX} peers gossip with us")
        await self._inbound.serve(stream)

    def _part(self, peer: PeerId) -> None:
        if (task := self._speakers.pop(peer, None)) is not None:
            task.cancel()
            del self._wakers[peer]
            self.router.remove_peer(peer, self._clock())

    # -- out

    async def _speak(self, peer: PeerId, protocols: Sequence[str]) -> None:
        """Keep a stream to the peer for as long as it is connected."""
        retry_s = RETRY_S
        while True:
            connection = self._swarm.connection(peer)
            if connection is not None:
                began = self._clock()
                try:
                    stream = await connection.open_stream(protocols)
                    self.router.renew_peer(peer, self._clock())
                    await self._speak_on(stream, peer)
                    retry_s = RETRY_S
                    continue  # on another connection
                except (Libp2pError, TimeoutError) as error:
                    self.counts["streams_lost"] += 1
                    log.debug("the gossip stream to %s is lost: %s", peer, error)
                if self._clock() - began > RETRY_S_MAX:
                    retry_s = RETRY_S
            await asyncio.sleep(retry_s * self._random.uniform(0.5, 1.0))
            retry_s = min(2 * retry_s, RETRY_S_MAX)

    async def _speak_on(self, stream: Stream, peer: PeerId) -> None:
        """Send what waits until the connection is retired. Raises when the stream is lost."""
        waker = self._wakers[peer]
        lost = asyncio.create_task(self._watch(stream, waker))
        try:
            while stream.connection.retire_at is None:
                if lost.done():
                    lost.result()
                waker.clear()
                data = self.router.data_to_send(peer)
                if data:
                    await stream.write(data)
                    await stream.drain()
                else:
                    await waker.wait()
            await stream.close()
        except BaseException:
            await stream.reset()
            raise
        finally:
            lost.cancel()
            with contextlib.suppress(asyncio.CancelledError, Libp2pError):
                await lost

    async def _watch(self, stream: Stream, waker: asyncio.Event) -> None:
        """Learn of the stream's end. What the peer sends on it is none of its business, and dropped."""
        try:
            while await stream.read_some(READ_BYTES):
                self.counts["bytes_on_a_wrong_stream"] += 1
        finally:
            waker.set()


def _host(connection: Connection) -> str:
    """What is counted for colocation: an IPv4 address, or the network of an IPv6 address, one has many of those."""
    text = connection.remote_address.parts[0].value
    ip = parse_ip(text)
    if ip is None:
        return text
    return str(ip) if ip.is_loopback else prefix(ip, HOST_PREFIX_BITS)
