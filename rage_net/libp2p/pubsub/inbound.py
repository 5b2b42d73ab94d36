"""What peers send: their streams cut into RPCs, decoded a few at a time, and given to the router in slices.

Each bound here is on memory or on the loop's time: unfinished RPCs share a budget, an RPC that has begun must end, and
few are objects at once. A stream of who is not listened to, or says what is no RPC, is reset.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rage_net.libp2p.errors import LimitError, RemoteProtocolError
from rage_net.libp2p.gossipsub import Frames, Router, Rpc, decode
from rage_net.libp2p.peer_id import PeerId

if TYPE_CHECKING:
    from rage_net.libp2p.swarm import Stream

INBOUND_STREAMS_MAX = 2
"""Of one peer: the newest, and one that it is leaving. A further one ends the oldest."""
READ_BYTES = 64 * 1024
"""Taken from a stream at a time."""
HELD_BYTES_MAX = 16 * 1024 * 1024
"""Of RPCs that have not come whole, of all peers; beyond it the stream that holds most is reset."""
RPC_S_MAX = 30.0
"""An RPC that has begun is whole within this."""
DECODED_MAX = 8
"""RPCs that are objects at a time, each of 1 MiB at most: the others wait as bytes."""
MESSAGES_S = 500.0
MESSAGES_BURST = 4000.0
"""Messages of one peer, each of which costs a signature to check: one that sends more is read more slowly."""
SLICE_MESSAGES = 8
"""Messages checked in one turn of the loop: each signature takes 0.1 ms."""


@dataclass(slots=True)
class _Allowance:
    """The messages that one peer may still send."""

    at: float
    left: float = MESSAGES_BURST

    def wait_s(self, now: float) -> float:
        """Until it may send again; 0 when it may now."""
        self.left = min(MESSAGES_BURST, self.left + (now - self.at) * MESSAGES_S)
        self.at = now
        return max(0.0, -self.left / MESSAGES_S)


class Inbound:
    """The streams that peers have opened."""

    def __init__(self, router: Router, take: Callable[[PeerId, Rpc], None]) -> None:
        """`take` is given each slice of an RPC, in order."""
        self.streams: dict[PeerId, list[Stream]] = {}
        self.held: dict[Stream, Frames] = {}
        self._router = router
        self._take = take
        self._allowances: dict[PeerId, _Allowance] = {}
        self._decoding = asyncio.Semaphore(DECODED_MAX)

    async def close(self) -> None:
        """Reset all streams."""
        for stream in [stream for group in self.streams.values() for stream in group]:
            await stream.reset()

    async def serve(self, stream: Stream) -> None:
        """Listen to a stream until it ends.

        Raises: LimitError when the peer is graylisted; RemoteProtocolError for what is no RPC; TimeoutError for one
        that does not end; StreamResetError, StreamClosedError.
        """
        peer, counts = stream.remote_peer, self._router.counts
        if self._router.is_graylisted(peer):
            counts["streams_refused"] += 1
            raise LimitError(f"{peer} is graylisted")
        group = self.streams.setdefault(peer, [])
        group.append(stream)
        if len(group) > INBOUND_STREAMS_MAX:
            counts["streams_refused"] += 1
            self._router.penalise(peer)
            await group.pop(0).reset()
        self.held[stream] = Frames()
        self._allowances.setdefault(peer, _Allowance(asyncio.get_running_loop().time()))
        try:
            await self._listen(stream)
        finally:
            del self.held[stream]
            if stream in group:
                group.remove(stream)
            if not group and self.streams.get(peer) is group:
                del self.streams[peer]
                self._allowances.pop(peer, None)

    async def _listen(self, stream: Stream) -> None:
        loop = asyncio.get_running_loop()
        peer, frames = stream.remote_peer, self.held[stream]
        deadline = None
        while True:
            async with asyncio.timeout_at(deadline):
                buffers = await stream.read_some(READ_BYTES)
            if not buffers:
                return
            try:
                whole = frames.receive(buffers)
            except RemoteProtocolError:
                self._blame(peer)
                raise
            for raw in whole:
                await self._read(peer, raw)
                await self._pace(peer)
            if not frames.held:
                deadline = None
                continue
            if whole or deadline is None:
                deadline = loop.time() + RPC_S_MAX
            await self._relieve()

    async def _read(self, peer: PeerId, raw: bytes) -> None:
        """One RPC. Raises RemoteProtocolError when it is malformed, LimitError when its sender is not listened to."""
        async with self._decoding:
            if self._router.is_graylisted(peer):
                self._router.counts["graylisted"] += 1
                raise LimitError(f"{peer} is graylisted")
            try:
                rpc = decode(raw)
            except RemoteProtocolError:
                self._blame(peer)
                raise
            if (allowance := self._allowances.get(peer)) is not None:
                allowance.left -= len(rpc.messages)
            for part in rpc.slices(SLICE_MESSAGES):
                self._take(peer, part)
                if part is not rpc:
                    await asyncio.sleep(0)

    async def _pace(self, peer: PeerId) -> None:
        """Wait until the peer's messages are no more than it may send: the window of its stream fills meanwhile."""
        allowance = self._allowances.get(peer)
        if allowance is not None and (wait_s := allowance.wait_s(asyncio.get_running_loop().time())) > 0:
            self._router.counts["slowed"] += 1
            await asyncio.sleep(wait_s)

    def _blame(self, peer: PeerId) -> None:
        self._router.counts["malformed"] += 1
        self._router.penalise(peer, 2.0)

    async def _relieve(self) -> None:
        """Reset the stream that holds most of unfinished RPCs, when they are too much together."""
        while sum(frames.held for frames in self.held.values()) > HELD_BYTES_MAX:
            greediest = max(self.held, key=lambda stream: self.held[stream].held)
            self._router.counts["evictions"] += 1
            self.held[greediest] = Frames()
            await greediest.reset()
