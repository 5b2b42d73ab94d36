"""The swarm: listeners, dials, one connection for each peer, streams to handlers. Tasks and timers live here.

inbound   accept -> limits -> upgrade -> adopt -> introduce -> offer -> identify
outbound  dial -> race over addresses -> upgrade -> adopt -> introduce -> offer -> identify
adopt     one connection a peer is kept; the other, if any, is retired: no new streams, closed when the last has ended
introduce the host, if it wants, says who it is and hears who the peer is, before others here may use the connection
offer     `connection`, `connections` and events tell of the peer from now on

What a peer may open is the host's to say (`may_open`): the rest is answered as if it were not spoken here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random, SystemRandom
from types import TracebackType
from typing import TypeAlias

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rage_net.libp2p import identify, multistream, ping, yamux
from rage_net.libp2p.errors import DialError, Libp2pError, NotAdmittedError, StreamClosedError
from rage_net.libp2p.identify import Identify
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId, encode_public_key
from rage_net.libp2p.swarm.connection import LESSER, Connection
from rage_net.libp2p.swarm.dial import Dialer
from rage_net.libp2p.swarm.limits import Limits
from rage_net.libp2p.swarm.services import IdentifyService, echo, measure_rtt
from rage_net.libp2p.swarm.stream import Stream
from rage_net.libp2p.swarm.upgrade import Upgraded, upgrade
from rage_net.libp2p.transport import Link, Listener, TcpTransport, Transport

log = logging.getLogger(__name__)

SWEEP_S = 1.0
"""How often connections are looked after: the grain of their deadlines."""
SIMULTANEOUS_S = 10.0
"""Two connections to one peer opened within this time are a simultaneous dial. A later one replaces the old: its dialer
has lost that."""
PUSH_DELAY_S = 0.2
"""Changes of our protocols and addresses are gathered this long before peers are told."""

Handler: TypeAlias = Callable[[Stream], Awaitable[None]]
Introduce: TypeAlias = Callable[[Connection], Awaitable[str]]


@dataclass(frozen=True)
class Connected:
    """A peer that was not connected is."""

    peer_id: PeerId


@dataclass(frozen=True)
class Disconnected:
    """The kept connection to a peer is gone. `is_orderly`: one of the two said goodbye before."""

    peer_id: PeerId
    reason: str
    is_orderly: bool = False


@dataclass(frozen=True)
class Identified:
    """A peer said what it is, or said it anew."""

    peer_id: PeerId
    identify: Identify


Event: TypeAlias = Connected | Disconnected | Identified


def is_preferred(new: Connection, old: Connection, local: PeerId) -> bool:
    """Which of two connections to one peer is kept; both sides come to the same answer.

    Of a simultaneous dial that of the smaller peer id; else the newer.
    """
    if new.inbound == old.inbound or new.opened_at - old.opened_at > SIMULTANEOUS_S:
        return True
    return new.inbound == (new.peer_id.multihash < local.multihash)


class Swarm:
    """A peer on the network; run it with `async with`. All methods belong to one event loop."""

    def __init__(
        self,
        key: Ed25519PrivateKey,
        *,
        transports: Sequence[Transport] | None = None,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        agent_version: str,
        announce: Sequence[Multiaddr] = (),
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
    ) -> None:
        self.peer_id = PeerId.from_public_key(key.public_key())
        self.agent_version = agent_version
        self.limits = limits
        self.counts: Counter[str] = Counter()
        """What happened, by name: refused, evictions, protocol_errors, handler_errors, ... Only ever grow."""
        self.budget = yamux.Budget(limits.unread_bytes)
        self.admits: Callable[[PeerId], bool] = lambda peer_id: True
        """Asked of every peer that has proved who it is, in both directions, and before a dial; False refuses it."""
        self.may_open: Callable[[Connection, str], bool] = lambda connection, protocol: True
        """Asked of each protocol that a peer proposes, and before identify names it; False, and it is not spoken."""
        self.introduce: Introduce | None = None
        """Awaited on each new connection, for `Limits.introduction_s` at most, before a peer is offered. What it gives
        is why the peer is not, empty when it is; the connection stays, for those streams that `may_open` allows."""
        self.part: Callable[[Connection], None] = lambda connection: None
        """Told of each connection that is lost, whether its peer was offered or not."""
        self._key = key
        self._transports = tuple(transports) if transports is not None else (TcpTransport(),)
        self._announce = tuple(address.without_peer_id() for address in announce)
        self._clock = clock
        self._random = random or SystemRandom()
        self._dialer = Dialer(self._transports, limits, self._upgrade)
        self._identify = IdentifyService(self, encode_public_key(key.public_key()))
        self._handlers: dict[str, Handler] = {
            identify.PROTOCOL: self._identify.answer,
            identify.PUSH_PROTOCOL: self._identify.take_push,
            ping.PROTOCOL: echo,
        }
        self._callbacks: list[Callable[[Event], None]] = []
        self._listeners: list[Listener] = []
        self._kept: dict[PeerId, Connection] = {}
        self._offered: set[PeerId] = set()  # of the kept
        self._introducing: dict[Connection, asyncio.Task[None]] = {}
        self._all: dict[Connection, None] = {}  # the retired too, in the order they opened
        self._handshakes: Counter[str] = Counter()  # inbound ones under way, by host
        self._upgrading: dict[Link, str] = {}  # their links, the oldest first, and hosts
        self._dials: dict[PeerId, asyncio.Future[Connection]] = {}
        self._serving = 0
        self._is_push_due = False
        self._is_closing = False
        self._tasks: asyncio.TaskGroup | None = None
        self._running: dict[asyncio.Task[None], None] = {}  # in the order they began

    # -- life

    async def __aenter__(self) -> Swarm:
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._spawn(self._sweep)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tasks is not None
        try:
            await self.close()
        finally:
            for task in list(self._running):
                task.cancel()
            tasks, self._tasks = self._tasks, None
            await tasks.__aexit__(None, None, None)  # no task raises; the caller's error goes its own way

    async def close(self) -> None:
        """Accept and dial no more, say go-away, send what waits, close. Takes at most `Limits.close_s`."""
        self._is_closing = True
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        await asyncio.gather(*(connection.close("the node stops") for connection in list(self._all)))

    def _spawn(self, work: Callable[..., Awaitable[None]], *args: object) -> asyncio.Task[None] | None:
        """Run `work(*args)` in a guard, unless the swarm is not running."""
        if self._tasks is None:
            return None
        task = self._tasks.create_task(self._guard(work, *args))
        self._running[task] = None
        task.add_done_callback(lambda task: self._running.pop(task, None))
        return task

    def spawn(self, work: Callable[[Connection], Awaitable[None]], connection: Connection) -> None:
        """Run `work(connection)` for the host, in a task that ends with the swarm."""
        self._spawn(work, connection)

    async def _guard(self, work: Callable[..., Awaitable[None]], *args: object) -> None:
        """One failing task never ends the swarm."""
        try:
            await work(*args)
        except Exception:
            self.counts["task_errors"] += 1
            log.exception("a task of the swarm failed")

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self._relieve()
            now = self._clock()
            for connection in list(self._all):
                try:
                    connection.look_after(now)
                except Exception:
                    self.counts["task_errors"] += 1
                    log.exception("looking after %r failed", connection)
                    connection.abort("an error of ours")

    def _relieve(self) -> None:
        """Drop the connection that takes least of what it asked for, when too much waits to be sent."""
        while sum(connection.session.queued for connection in self._all) > self.limits.queue_bytes_total:
            greediest = max(self._all, key=lambda connection: connection.session.queued)
            self.counts["evictions"] += 1
            greediest.abort("too many bytes wait to be sent, most of them to this peer")

    # -- what others ask

    def connections(self) -> list[Connection]:
        """One for each connected peer."""
        return [connection for peer_id, connection in self._kept.items() if peer_id in self._offered]

    def connection(self, peer_id: PeerId) -> Connection | None:
        """The connection to `peer_id`, if there is one that takes new streams."""
        connection = self._kept.get(peer_id) if peer_id in self._offered else None
        return connection if connection is not None and connection.is_usable else None

    def connection_unoffered(self, peer_id: PeerId) -> Connection | None:
        """The same, whether or not the peer was offered: for who introduces us."""
        connection = self._kept.get(peer_id)
        return connection if connection is not None and connection.is_usable else None

    def connections_unoffered(self) -> list[Connection]:
        """One for each peer, whether or not it was offered."""
        return list(self._kept.values())

    def is_linked(self, peer_id: PeerId) -> bool:
        """Whether there is any connection to a peer, a retired one too."""
        return any(connection.peer_id == peer_id for connection in self._all)

    def cut(self, peer_id: PeerId, reason: str) -> int:
        """Drop every connection to a peer at once, whatever waits to be sent; how many there were."""
        found = [connection for connection in self._all if connection.peer_id == peer_id]
        for connection in found:
            connection.abort(reason)
        if peer_id in self._offered:  # gone from now on; that the links are closed is heard in the next turn
            self._offered.remove(peer_id)
            self._emit(Disconnected(peer_id, reason))
        return len(found)

    def offer(self, peer_id: PeerId) -> None:
        """A peer whose introduction failed, or is not over, may be used."""
        connection = self._kept.get(peer_id)
        if connection is None or connection.is_lost or peer_id in self._offered:
            return
        connection.refusal = ""
        self._offered.add(peer_id)
        self._emit(Connected(peer_id))
        if (dial := self._dials.get(peer_id)) is not None and not dial.done():
            dial.set_result(connection)
        if connection.identify is not None:
            self._emit(Identified(peer_id, connection.identify))
        elif not connection.is_asked:
            connection.is_asked = True
            self._spawn(self._identify.ask, connection)

    def describe_anew(self, peer_id: PeerId) -> None:
        """What a peer may open has changed: tell it, if it has asked before."""
        connection = self._kept.get(peer_id)
        if connection is not None and connection.is_told and connection.is_usable:
            self._spawn(self._identify.push, connection)

    def listen_addresses(self) -> list[Multiaddr]:
        """Where we can be dialled, without our peer id: what we were told to announce, else where we listen."""
        if self._announce:
            return list(self._announce)
        return [address for listener in self._listeners for address in listener.addresses]

    def bound_addresses(self) -> list[Multiaddr]:
        """The same, but a wildcard stands as such: `/ip4/0.0.0.0/tcp/4001` is every address of every interface."""
        return [address for listener in self._listeners for address in listener.bound]

    def protocols(self) -> list[str]:
        """What we answer to."""
        return sorted(self._handlers)

    def protocols_for(self, connection: Connection) -> list[str]:
        """What this peer may open."""
        return [protocol for protocol in self.protocols() if self.may_open(connection, protocol)]

    def handle(self, protocol: str, handler: Handler) -> None:
        """Give each inbound stream of `protocol` to `handler`, in a task of its own.

        When it returns, the stream is closed; when it raises, the stream is reset, counted and logged.
        """
        self._handlers[protocol] = handler
        self._push_identify_soon()

    def sign(self, message: bytes) -> bytes:
        """Our signature over `message`, by the key that our peer id names. The caller's prefix says what it is for."""
        return self._key.sign(message)

    def on_event(self, callback: Callable[[Event], None]) -> None:
        """Call `callback` with each `Connected`, `Disconnected`, `Identified`."""
        self._callbacks.append(callback)

    async def listen(self, address: Multiaddr) -> None:
        """Accept connections at `address`; port 0 stands for a free one. Raises OSError."""
        for transport in self._transports:
            if transport.can_dial(address):
                self._listeners.append(await transport.listen(address, self._accept))
                self._push_identify_soon()
                return
        raise OSError(f"no transport listens at {address}")

    async def ping(self, peer_id: PeerId, *, timeout_s: float = 10.0) -> float:
        """A round trip to a connected peer, in seconds. Raises StreamClosedError, TimeoutError, RemoteProtocolError."""
        connection = self.connection(peer_id)
        if connection is None:
            raise StreamClosedError(f"{peer_id} is not connected")
        async with asyncio.timeout(timeout_s):
            return await measure_rtt(connection, self._random.randbytes(ping.PING_BYTES), self._clock)

    def identified(self, connection: Connection, message: Identify) -> None:
        """A peer said what it is: remember, and tell."""
        connection.identify = message
        connection.takes_early_end = (message.agent_version or "").partition("/")[0] == self.agent_version.partition(
            "/"
        )[0]
        if connection.peer_id in self._offered:
            self._emit(Identified(connection.peer_id, message))

    def _push_identify_soon(self) -> None:
        if self._kept and not self._is_push_due:
            self._is_push_due = True
            asyncio.get_running_loop().call_later(PUSH_DELAY_S, self._push_identify)

    def _push_identify(self) -> None:
        self._is_push_due = False
        for connection in self.connections():
            self._spawn(self._identify.push, connection)

    # -- dialling

    async def dial(
        self, peer_id: PeerId | None, addresses: Sequence[Multiaddr], *, timeout_s: float | None = None
    ) -> Connection:
        """The connection to `peer_id`: a live one, or the first of `addresses` that leads to it.

        Args: peer_id: None takes whoever answers. addresses: best first, at most `Limits.dial_addresses`; those that
        name another peer are left out.
        Raises: PeerIdMismatchError when someone else answered; NotAdmittedError when the introduction failed; DialError
        with a reason for each address.
        """
        if peer_id is None:
            return await self._dial(None, addresses, timeout_s)
        if (live := self.connection(peer_id)) is not None:
            return live
        if (running := self._dials.get(peer_id)) is not None:
            try:
                return await asyncio.shield(running)
            except NotAdmittedError:
                raise
            except DialError:
                pass  # its addresses may have been others
        outcome: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        outcome.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._dials[peer_id] = outcome
        self._spawn(self._dial_into, outcome, peer_id, addresses, timeout_s)
        return await asyncio.shield(outcome)

    async def _dial_into(
        self,
        outcome: asyncio.Future[Connection],
        peer_id: PeerId,
        addresses: Sequence[Multiaddr],
        timeout_s: float | None,
    ) -> None:
        try:
            connection = await self._dial(peer_id, addresses, timeout_s)
            if not outcome.done():  # it is when the peer has dialled us meanwhile
                outcome.set_result(connection)
        except Libp2pError as error:
            if not outcome.done():
                outcome.set_exception(error)
        except BaseException:
            if not outcome.done():
                outcome.set_exception(DialError(f"the dial to {peer_id} was given up"))
            raise
        finally:
            if self._dials.get(peer_id) is outcome:
                del self._dials[peer_id]

    async def _dial(
        self, peer_id: PeerId | None, addresses: Sequence[Multiaddr], timeout_s: float | None
    ) -> Connection:
        name = str(peer_id or "an unknown peer")
        if self._is_closing or self._tasks is None:
            raise DialError(f"cannot dial {name}: the swarm is not running")
        if peer_id == self.peer_id:
            raise DialError("cannot dial this very node")
        if peer_id is not None and not self.admits(peer_id):
            raise DialError(f"{name} is not admitted here")
        if peer_id is not None and (pending := self.connection_unoffered(peer_id)) is not None:
            return await self._wait_introduced(pending)
        if len(self._all) >= self.limits.connections:
            raise DialError(f"cannot dial {name}: {self.limits.connections} connections are open")
        link, upgraded = await self._dialer.reach(peer_id, addresses, timeout_s or self.limits.dial_timeout_s)
        adopted = self._adopt(link, upgraded, is_inbound=False)
        if adopted is None or adopted.is_lost:
            raise DialError(f"cannot dial {name}: the connection was refused or lost at once")
        return await self._wait_introduced(adopted)

    async def _wait_introduced(self, connection: Connection) -> Connection:
        """The kept connection to this peer, once it is offered. Raises NotAdmittedError."""
        peer_id = connection.peer_id
        if peer_id not in self._offered and (task := self._introducing.get(connection)) is not None:
            await asyncio.wait([task])
        kept = self._kept.get(peer_id)
        if kept is None:
            raise DialError(f"{peer_id}: the connection was lost: {connection.close_reason}")
        if peer_id not in self._offered:
            raise NotAdmittedError(f"{peer_id} is not admitted", connection.refusal)
        return kept

    async def _introduce(self, connection: Connection, introduce: Introduce) -> None:
        """Let the host and the peer get to know each other, and offer the peer when that went well."""
        connection.refusal = "its introduction did not end"
        try:
            async with asyncio.timeout(self.limits.introduction_s):
                connection.refusal = await introduce(connection)
        except (Libp2pError, TimeoutError) as error:
            connection.refusal = str(error) or connection.refusal
        finally:
            self._introducing.pop(connection, None)
        if connection.refusal:
            self.counts["introductions_failed"] += 1
            log.debug("%r is not offered: %s", connection, connection.refusal)
        elif not connection.is_lost:
            self.offer(connection.peer_id)

    async def _upgrade(self, link: Link, *, is_dialer: bool, remote: PeerId | None) -> Upgraded:
        timeout_s = self.limits.handshake_timeout_s
        return await upgrade(
            link, self._key, is_dialer=is_dialer, random=self._random, remote=remote, timeout_s=timeout_s
        )

    # -- listening

    def _accept(self, link: Link) -> None:
        host = link.remote_address.parts[0].value
        inbound = sum(1 for other in self._all if other.inbound and other.remote_address.parts[0].value == host)
        if (
            self._is_closing
            or len(self._all) + len(self._upgrading) >= self.limits.connections - self.limits.connections // 8
            or inbound >= self.limits.connections_per_ip
            or self._handshakes[host] >= self.limits.handshakes_per_ip
        ):
            self.counts["refused"] += 1
            link.abort()
            return
        if len(self._upgrading) >= self.limits.handshakes:
            # The oldest of the host with the most makes way: an honest peer comes once and is soon through.
            by_host = Counter(self._upgrading.values())
            oldest = max(self._upgrading, key=lambda link: by_host[self._upgrading[link]])
            del self._upgrading[oldest]
            oldest.abort()
        self._handshakes[host] += 1
        self._upgrading[link] = host
        self._spawn(self._upgrade_inbound, link, host)

    async def _upgrade_inbound(self, link: Link, host: str) -> None:
        try:
            upgraded = await self._upgrade(link, is_dialer=False, remote=None)
        except (Libp2pError, TimeoutError) as error:
            self.counts["handshake_failures"] += 1
            log.debug("a handshake from %s failed: %s", link.remote_address, error)
            return
        finally:
            self._upgrading.pop(link, None)
            self._handshakes[host] -= 1
            if not self._handshakes[host]:
                del self._handshakes[host]
        self._adopt(link, upgraded, is_inbound=True)

    # -- connections

    def _adopt(self, link: Link, upgraded: Upgraded, *, is_inbound: bool) -> Connection | None:
        """Begin a connection, and decide which to keep when there are two. None when it may not be."""
        peer_id = upgraded.secured.peer_id
        others = [other for other in self._all if other.peer_id == peer_id]
        is_full = len(self._all) - len(others) >= self.limits.connections
        if peer_id == self.peer_id or self._is_closing or is_full or not self.admits(peer_id):
            self.counts["refused"] += 1
            link.abort()
            return None
        new = Connection(
            link,
            upgraded,
            is_inbound=is_inbound,
            limits=self.limits,
            budget=self.budget,
            clock=self._clock,
            counts=self.counts,
            on_stream=self._on_stream,
            on_lost=self._on_lost,
            on_crowded=self._relieve,
        )
        self._all[new] = None
        old = self._kept.get(peer_id)
        is_kept = old is None or not old.is_usable or is_preferred(new, old, self.peer_id)
        kept, lesser = (new, old) if old is None or is_kept else (old, new)
        self._kept[peer_id] = kept
        for other in others:  # one more retired connection is enough
            if other.retire_at is not None:
                other.begin_close(LESSER)
        new.is_asked = kept is new and (self.introduce is None or peer_id in self._offered)
        if self.introduce is None:
            self.offer(peer_id)
        new.start()
        if lesser is not None:
            lesser.retire(self._clock() + self.limits.retire_s)
        if new.is_asked:
            self._spawn(self._identify.ask, new)
        if self.introduce is not None and (task := self._spawn(self._introduce, new, self.introduce)) is not None:
            self._introducing[new] = task
        if peer_id in self._offered and (dial := self._dials.get(peer_id)) is not None and not dial.done():
            dial.set_result(kept)
        return kept

    def _on_lost(self, connection: Connection) -> None:
        self._all.pop(connection, None)
        task = self._introducing.pop(connection, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        try:
            self.part(connection)
        except Exception:
            self.counts["handler_errors"] += 1
            log.exception("the host failed to part from %r", connection)
        if self._kept.get(connection.peer_id) is connection:
            del self._kept[connection.peer_id]
            if connection.peer_id not in self._offered:
                return
            self._offered.remove(connection.peer_id)
            is_orderly = connection.session.is_gone_away or connection.session.is_going_away
            self._emit(Disconnected(connection.peer_id, connection.close_reason, is_orderly))

    def _emit(self, event: Event) -> None:
        for callback in self._callbacks:
            try:
                callback(event)
            except Exception:
                self.counts["handler_errors"] += 1
                log.exception("a callback failed on %r", event)

    # -- inbound streams

    def _on_stream(self, connection: Connection, raw: yamux.Stream) -> None:
        if raw.is_reset:
            self.counts["streams_taken_back"] += 1
            return
        limits, own = self.limits, connection.serving
        # Nobody gets more than what is then left for others, so that a few peers cannot take all places.
        if own >= limits.streams or self._serving + own >= limits.streams_total or self._tasks is None:
            self.counts["streams_refused"] += 1
            connection.session.reset(raw)
            return
        self._serving += 1
        connection.serving += 1
        self._spawn(self._serve, connection, raw)

    async def _serve(self, connection: Connection, raw: yamux.Stream) -> None:
        """Negotiate, then run the handler; a failure of either costs the stream and nothing else."""
        stream = Stream(connection, raw)
        is_done = False
        try:
            if await self._agree(stream):
                await self._handlers[stream.protocol](stream)
            await stream.close()
            is_done = True
        except (Libp2pError, TimeoutError) as error:
            self.counts["stream_errors"] += 1
            log.debug("stream %s of %r failed: %s", stream.protocol, connection, error)
        except Exception:
            self.counts["handler_errors"] += 1
            log.exception("the handler of %s failed", stream.protocol)
        finally:
            self._serving -= 1
            connection.serving -= 1
            if not is_done:
                await stream.reset()

    async def _agree(self, stream: Stream) -> bool:
        """Agree on a protocol of ours. False when the peer ended the stream first."""
        connection = stream.connection

        def speaks(protocol: str) -> bool:
            if protocol not in self._handlers:
                return False
            if not self.may_open(connection, protocol):
                self.counts["protocols_refused"] += 1
                return False
            return True

        negotiation = multistream.Responder(speaks)
        if stream.raw.buffers:  # a lone proposal comes with the stream itself, and needs no timer
            await self._negotiate(stream, negotiation)
        if not stream.protocol:
            async with asyncio.timeout(self.limits.negotiate_timeout_s):
                while not stream.protocol and await self._negotiate(stream, negotiation):
                    pass
        return bool(stream.protocol)

    async def _negotiate(self, stream: Stream, negotiation: multistream.Responder) -> bool:
        """One step. False when the peer ended the stream."""
        buffers = await stream.read()
        said = stream.settle(negotiation, buffers)
        if stream.protocol:
            stream.hold_greeting(said)
        elif said:
            await stream.write(said)
        return bool(buffers)
