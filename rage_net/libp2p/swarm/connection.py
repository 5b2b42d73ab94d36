"""One secure, multiplexed connection: drives Noise and yamux over a link, and wakes the streams.

link -> NoiseTransport.decrypt -> yamux.Session.receive -> events -> streams
streams -> yamux.Session.data_to_send -> NoiseTransport.encrypt -> link        (one flush a loop turn)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence

from rage_net.libp2p import multistream, yamux
from rage_net.libp2p.errors import Libp2pError, LimitError, LocalProtocolError, NegotiationError, StreamClosedError
from rage_net.libp2p.identify import Identify
from rage_net.libp2p.swarm.limits import Limits
from rage_net.libp2p.swarm.stream import Stream
from rage_net.libp2p.swarm.upgrade import Upgraded
from rage_net.libp2p.transport import Link

FLUSH_BATCHES_MAX = 4
"""Batches of one flush: 1 MiB, half a millisecond, then others have their turn on the loop."""
BATCH_BYTES = yamux.FRAME_BYTES_MAX
"""Encrypted and handed to the link at a time."""
GREETING_DELAY_S = 0.002
"""How long the answer to a proposal waits for the handler's first bytes, to leave in one frame with them."""
LESSER = "another connection to this peer is kept"
"""Why a retired connection is closed."""


class Connection:
    """A peer, and streams to it. Made by the swarm."""

    def __init__(
        self,
        link: Link,
        upgraded: Upgraded,
        *,
        is_inbound: bool,
        limits: Limits,
        budget: yamux.Budget,
        clock: Callable[[], float],
        counts: Counter[str],
        on_stream: Callable[[Connection, yamux.Stream], None],
        on_lost: Callable[[Connection], None],
        on_crowded: Callable[[], None],
    ) -> None:
        self.peer_id = upgraded.secured.peer_id
        self.public_key = upgraded.secured.public_key
        self.remote_address = link.remote_address
        self.local_address = link.local_address
        self.inbound = is_inbound
        self.opened_at = clock()
        self.busy_at = self.opened_at
        self.bytes_in = 0
        self.bytes_out = 0
        self.identify: Identify | None = None
        self.is_asked = False
        """Whether the peer was asked what it is."""
        self.is_told = False
        """Whether it has asked what we are."""
        self.refusal = ""
        """Why its peer is not offered. The swarm's."""
        self.serving = 0
        """Handlers at work on its inbound streams. The swarm counts; a stream that was reset may have one still."""
        self.pushes = 0
        """Pushes of identify that came, less one for each second."""
        self.pings = 0
        """Those of them that answer pings."""
        self.takes_early_end = False
        """Whether the end of a stream may come along with the first proposal. Our own kind takes that; js-libp2p never
        tells its handler, so a stranger is spared it."""
        self.close_reason = ""
        self.is_lost = False
        self.retire_at: float | None = None
        """Set when another connection to the peer was preferred: when to begin its end."""
        self.limits = limits
        self.session = yamux.Session(
            is_dialer=not is_inbound,
            account=budget.account(self._evict),
            now=self.opened_at,
            streams_max=limits.streams,
            window_max=limits.window_bytes,
        )
        self._link = link
        self._noise = upgraded.secured.transport
        self._plaintexts = upgraded.plaintexts
        self._clock = clock
        self._counts = counts
        self._on_stream = on_stream
        self._on_lost = on_lost
        self.on_crowded = on_crowded
        self._loop = asyncio.get_running_loop()
        self._is_flush_due = False
        self._held: list[Stream] = []
        self._lingering: dict[yamux.Stream, tuple[float, int]] = {}  # until when, and bytes then waiting
        self._waiting_openers: list[asyncio.Future[None]] = []
        self._stall: tuple[float, int] | None = None  # when a full link was last looked at, bytes sent by then
        self._lost = asyncio.Event()
        self._waiting_flush: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Connection {'from' if self.inbound else 'to'} {self.peer_id} at {self.remote_address}>"

    @property
    def streams(self) -> list[yamux.Stream]:
        """The open streams, in the order of their ids' opening."""
        return list(self.session.streams.values())

    @property
    def is_usable(self) -> bool:
        """Whether new streams may be opened."""
        return not (self.is_lost or self.close_reason or self.session.is_gone_away or self.session.is_going_away)

    # -- for users

    async def open_stream(
        self, protocols: Sequence[str], *, timeout_s: float | None = None, initial: bytes = b""
    ) -> Stream:
        """A stream for the first of `protocols` the peer speaks, with `initial` as its first bytes.

        With one proposal nothing is waited for: names, `initial` and what else is written in this loop turn leave in
        one frame, and the answer is checked on the first read.
        Raises: NegotiationError, StreamClosedError, StreamResetError; TimeoutError after `timeout_s` (default
        `Limits.negotiate_timeout_s`).
        """
        if not protocols:
            raise LocalProtocolError("a stream needs at least one protocol")
        if len(protocols) == 1 and self.is_usable and self._has_room:
            stream = Stream(self, self.session.open(self._clock()))
        else:
            async with asyncio.timeout(self.limits.negotiate_timeout_s if timeout_s is None else timeout_s):
                stream = Stream(self, await self._open())
                if len(protocols) > 1:
                    await self._propose(stream, protocols)
        if len(protocols) == 1:
            stream.propose(protocols[0])
        if initial:
            await stream.write(initial)
        return stream

    async def close(self, reason: str = "closed by us") -> None:
        """Say go-away, send what waits (for at most `Limits.close_s`), and close."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.limits.close_s):
                if self.is_usable:
                    self.session.go_away(yamux.Reason.NORMAL)
                    self.schedule_flush()
                    self._waiting_flush = self._loop.create_future()
                    await self._waiting_flush
                self.begin_close(reason)
                await self._lost.wait()
        self.abort(reason)

    # -- for the swarm

    def start(self) -> None:
        """Take bytes from the link."""
        self.session.ping(self._clock())  # the round trip decides how windows grow
        self.schedule_flush()
        if self._plaintexts:
            self._receive(self._plaintexts)
            self._plaintexts = []
        self._link.start(self)

    def begin_close(self, reason: str) -> None:
        """Say go-away and close once what waits is sent."""
        if self.is_lost or self.close_reason:
            return
        self.close_reason = reason
        self._close_link(yamux.Reason.NORMAL)

    def abort(self, reason: str) -> None:
        """Close at once. Unread bytes are dropped before this returns."""
        self.close_reason = self.close_reason or reason
        self._end_streams()
        self._link.abort()

    def retire(self, at: float) -> None:
        """Another connection is kept. Until `at`, who still holds this one may open streams; then they may only end."""
        if self.retire_at is None:
            self.retire_at = at

    def look_after(self, now: float) -> None:
        """What time demands: pings, stalled links, lingering streams, idleness. Called about once a second."""
        if self.is_lost or self.close_reason:
            return
        try:
            self.session.on_timeout(now)
        except Libp2pError as error:
            self._count_and_abort("silent_peers", str(error))
            return
        self.schedule_flush()
        self.pushes = max(0, self.pushes - 1)
        self._end_lingering(now)
        if self.session.streams:
            self.busy_at = now
        if self._waiting_openers and self._has_room:
            self._wake_openers()
        if self.retire_at is not None and now >= self.retire_at:
            self.session.go_away(yamux.Reason.NORMAL)
            if not self.session.streams or now >= self.retire_at + self.limits.linger_s:
                self.begin_close(LESSER)
        elif self.session.is_gone_away and not self.session.streams:
            self.begin_close("the peer went away")
        elif now - self.busy_at >= self.limits.idle_s:
            self._counts["idle_closed"] += 1
            self.begin_close("idle")
        self._look_for_stall(now)

    # -- for streams

    def take(self, raw: yamux.Stream, limit: int | None) -> list[bytes | memoryview]:
        """What a stream has to read."""
        buffers = self.session.read(raw, self._clock(), limit)
        if self.session.has_data_to_send:
            self.schedule_flush()
        return buffers

    def linger(self, raw: yamux.Stream) -> None:
        """Nobody uses this stream any more; its end is waited for, as long as the peer takes what waits."""
        self.session.discard_read(raw)

    def hold(self, stream: Stream) -> None:
        """Send this stream's greeting soon, should its handler have nothing to say."""
        if not self._held:
            self._loop.call_later(GREETING_DELAY_S, self._send_held)
        self._held.append(stream)

    def count(self, name: str) -> None:
        """One more of `name` in the swarm's counts."""
        self._counts[name] += 1

    def schedule_flush(self) -> None:
        """Send at the end of this loop turn, together with what else is written in it."""
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what may be sent and the link takes, up to FLUSH_BATCHES_MAX; the rest in the next turn."""
        self._is_flush_due = False
        session, link = self.session, self._link
        try:
            for _ in range(FLUSH_BATCHES_MAX):
                if link.is_full or self.is_lost or not (buffers := session.data_to_send(BATCH_BYTES)):
                    break
                frames = self._noise.encrypt(buffers)
                self.bytes_out += sum(map(len, frames))
                link.write(frames)
                del frames, buffers  # the next batch then reuses their memory while it is in the cache
            else:
                self.schedule_flush()
        except Libp2pError as error:
            self.abort(str(error))
        for raw in session.take_drained():
            if raw.on_change is not None:
                raw.on_change()
        if self._waiting_flush is not None and not session.has_data_to_send and not self._waiting_flush.done():
            self._waiting_flush.set_result(None)

    # -- Receiver

    def data_received(self, data: memoryview) -> int:
        """See `transport.Receiver`."""
        if self.is_lost or self.close_reason:
            return len(data)
        try:
            plaintexts, used = self._noise.decrypt(data)
        except Libp2pError as error:
            self._fail(error)
            return len(data)
        self.bytes_in += used
        if plaintexts:
            self._receive(plaintexts)
        return used

    def room_made(self) -> None:
        """See `transport.Receiver`."""
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        """See `transport.Receiver`."""
        if not self.is_lost:
            self.is_lost = True
            self.close_reason = self.close_reason or (str(error) if error else "closed by the peer")
            self._end_streams()
            self._lost.set()
            self._on_lost(self)

    # -- the inside

    def _receive(self, plaintexts: list[bytes]) -> None:
        try:
            events = self.session.receive(plaintexts, self._clock())
        except Libp2pError as error:
            self._fail(error)
            return
        for event in events:
            match event:
                case yamux.Changed(raw):
                    if raw.on_change is not None:
                        raw.on_change()
                case yamux.Opened(raw):
                    self._on_stream(self, raw)
                case yamux.Pong() | yamux.GoneAway():
                    pass  # the session remembers
        if self._waiting_openers and self._has_room:
            self._wake_openers()
        if self.session.has_data_to_send:
            self.schedule_flush()

    def _fail(self, error: Libp2pError) -> None:
        """The peer broke the protocol: tell it, and drop the connection."""
        if self.is_lost or self.close_reason:
            return
        self._counts["evictions" if isinstance(error, LimitError) else "protocol_errors"] += 1
        self.close_reason = str(error)
        self._close_link(yamux.Reason.PROTOCOL_ERROR)
        self._end_streams()

    def _close_link(self, code: yamux.Reason) -> None:
        """Say why, and close the link; a peer that does not read it in time is cut off."""
        self.session.go_away(code)
        self.flush()
        self._link.close()
        self._loop.call_later(self.limits.close_s, self._link.abort)

    def _evict(self) -> None:
        self._count_and_abort("evictions", "the budget of unread bytes is used up, most of it by this connection")

    def _count_and_abort(self, name: str, reason: str) -> None:
        self._counts[name] += 1
        self.abort(reason)

    def _end_streams(self) -> None:
        for raw in self.session.abandon():
            if raw.on_change is not None:
                raw.on_change()
        self._lingering.clear()
        self._wake_openers()
        if self._waiting_flush is not None and not self._waiting_flush.done():
            self._waiting_flush.set_result(None)

    def _wake_openers(self) -> None:
        waiting, self._waiting_openers = self._waiting_openers, []
        for opener in waiting:
            if not opener.done():
                opener.set_result(None)

    def _send_held(self) -> None:
        held, self._held = self._held, []
        for stream in held:
            stream.send_greeting()

    def _end_lingering(self, now: float) -> None:
        limits, lingering = self.limits, self._lingering
        self._lingering = {}
        for raw in self.streams:
            if raw.discard_left is None:
                continue
            deadline, before = lingering.get(raw, (now + limits.linger_s, raw.queued))
            if now >= deadline:
                if before - raw.queued < limits.slowest_bytes_s * limits.linger_s:
                    self.session.reset(raw)
                    continue
                deadline, before = now + limits.linger_s, raw.queued
            self._lingering[raw] = (deadline, before)

    def _look_for_stall(self, now: float) -> None:
        if not self._link.is_full:
            self._stall = None
            return
        sent = self.bytes_out - self._link.waiting
        if self._stall is None:
            self._stall = (now, sent)
        elif now - self._stall[0] >= self.limits.link_stall_s:
            if sent - self._stall[1] < self.limits.slowest_bytes_s * self.limits.link_stall_s:
                self._count_and_abort("link_stalls", "the peer does not read")
            self._stall = (now, sent)

    @property
    def _has_room(self) -> bool:
        """Whether a stream may be opened now."""
        return len(self.session.streams) - self.session.inbound < self.limits.streams and not self.session.has_backlog

    async def _open(self) -> yamux.Stream:
        while self.is_usable:
            if self._has_room:
                return self.session.open(self._clock())
            waiting = self._loop.create_future()
            self._waiting_openers.append(waiting)
            await waiting
        why = self.close_reason or "going away"
        raise StreamClosedError(f"the connection to {self.peer_id} is closed: {why}")

    async def _propose(self, stream: Stream, protocols: Sequence[str]) -> None:
        negotiation = multistream.Initiator(protocols)
        proposal = negotiation.data_to_send()
        try:
            while not stream.protocol:
                await stream.write(proposal)
                buffers = await stream.read()
                if not buffers:
                    raise NegotiationError("the stream ended before the peer agreed on a protocol")
                proposal = stream.settle(negotiation, buffers)
        except BaseException:
            await stream.reset()
            raise
