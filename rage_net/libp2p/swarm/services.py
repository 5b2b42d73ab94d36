"""What every peer answers to: identify, its push, and ping. The bytes are `identify`'s and `ping`'s."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from rage_net.libp2p import identify, ping, varint
from rage_net.libp2p.errors import Libp2pError, LimitError, StreamClosedError
from rage_net.libp2p.identify import Identify
from rage_net.libp2p.swarm.connection import Connection
from rage_net.libp2p.swarm.stream import Stream

if TYPE_CHECKING:
    from rage_net.libp2p.swarm.swarm import Swarm

log = logging.getLogger(__name__)

PING_STREAMS_MAX = 8
"""Ping streams a peer may have open: the specification asks for two to be borne."""
PING_QUIET_S = 60.0
"""A ping stream on which nothing comes for so long is reset."""
PUSHES_MAX = 32
"""Pushes of identify that a peer may send at once; each second pays for one more. One takes a millisecond to read."""
PROTOCOL_VERSION = "ipfs/0.1.0"
"""What libp2p hosts say in identify."""


class IdentifyService:
    """Tells peers what we are, and asks them what they are."""

    def __init__(self, swarm: Swarm, public_key: bytes) -> None:
        self._swarm = swarm
        self._public_key = public_key

    async def ask(self, connection: Connection) -> None:
        """Ask once. A peer need not answer: that is counted, and no error."""
        try:
            async with asyncio.timeout(connection.limits.negotiate_timeout_s):
                async with await connection.open_stream([identify.PROTOCOL]) as stream:
                    raw = await stream.read_message(identify.MESSAGE_BYTES_MAX)
                    self._swarm.identified(connection, identify.decode(raw))
        except (Libp2pError, TimeoutError) as error:
            if not connection.close_reason:
                connection.count("identify_failures")
            log.debug("%r does not identify itself: %s", connection, error)

    async def answer(self, stream: Stream) -> None:
        """The handler of identify."""
        stream.connection.is_told = True
        await stream.write(self._describe(stream.connection))

    async def push(self, connection: Connection) -> None:
        """Tell a peer that takes pushes what has become of us."""
        if connection.identify is None or identify.PUSH_PROTOCOL not in connection.identify.protocols:
            return
        try:
            async with asyncio.timeout(connection.limits.negotiate_timeout_s):
                async with await connection.open_stream([identify.PUSH_PROTOCOL]) as stream:
                    await stream.write(self._describe(connection))
        except (Libp2pError, TimeoutError) as error:
            log.debug("%r takes no push: %s", connection, error)

    async def take_push(self, stream: Stream) -> None:
        """The handler of a peer's push."""
        connection = stream.connection
        connection.pushes += 1
        if connection.pushes > PUSHES_MAX:
            raise LimitError(f"more than {PUSHES_MAX} pushes of identify, and one more for each second")
        async with asyncio.timeout(connection.limits.negotiate_timeout_s):
            push = identify.decode(await stream.read_message(identify.MESSAGE_BYTES_MAX))
        self._swarm.identified(connection, identify.apply_push(connection.identify or Identify(), push))

    def _describe(self, connection: Connection) -> bytes:
        raw = identify.encode(
            Identify(
                public_key=self._public_key,
                listen_addresses=tuple(self._swarm.listen_addresses()),
                protocols=tuple(self._swarm.protocols_for(connection)),
                observed_address=connection.remote_address,
                protocol_version=PROTOCOL_VERSION,
                agent_version=self._swarm.agent_version,
            )
        )
        return varint.encode(len(raw)) + raw


async def echo(stream: Stream) -> None:
    """The handler of ping: gives back what comes, until the stream ends or is quiet for PING_QUIET_S.

    What one peer sent is back with it before more is taken, and it has at most PING_STREAMS_MAX such streams.
    """
    connection = stream.connection
    if connection.pings >= PING_STREAMS_MAX:
        raise LimitError(f"more than {PING_STREAMS_MAX} streams for pings")
    connection.pings += 1
    try:
        machine = ping.Echo()
        while True:
            async with asyncio.timeout(PING_QUIET_S):
                buffers = await stream.read_some(ping.PING_BYTES)
            if not buffers:
                break
            for buffer in buffers:
                await stream.write(machine.receive(buffer))
            await stream.drain()
        machine.end()
    finally:
        connection.pings -= 1


async def measure_rtt(connection: Connection, payload: bytes, clock: Callable[[], float]) -> float:
    """One ping, in seconds. Raises StreamClosedError, StreamResetError, NegotiationError, RemoteProtocolError."""
    async with await connection.open_stream([ping.PROTOCOL]) as stream:
        machine = ping.Pinger()
        await stream.write(machine.send(payload, clock()))
        while buffers := await stream.read():
            for buffer in buffers:
                rtt_s = machine.receive(buffer, clock())
                if rtt_s is not None:
                    return rtt_s
    raise StreamClosedError(f"{connection.peer_id} ended the ping")
