"""From a raw link to a secure, multiplexed one: multistream-select, Noise, the muxer. Sans-I/O, then one coroutine.

    stage      dialer                                  listener
    SECURITY   names and Noise's first message         names
    NOISE      ... both sides until `secured`; with muxers in its payload the next stage is skipped
    MUXER      multistream-select inside Noise         the same
    done       `upgraded` is set

A dialer proposes one security protocol, so its first Noise message leaves with the names: one round trip less.
Source: libp2p/specs connections/README.md, connections/inlined-muxer-negotiation.md.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from rage_net.libp2p import multistream, noise, yamux
from rage_net.libp2p.errors import Libp2pError, NegotiationError, StreamClosedError
from rage_net.libp2p.noise import NoiseHandshake, Secured
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.transport import Link

SECURITY = (noise.PROTOCOL_ID,)
MUXERS = (yamux.PROTOCOL_ID,)


@dataclass(frozen=True)
class Upgraded:
    """What the upgrade led to, and plaintexts that came along with its last bytes."""

    secured: Secured
    plaintexts: list[bytes]


class Upgrade:
    """`receive` what arrives, send `data_to_send`, until `upgraded` is set."""

    def __init__(
        self, key: Ed25519PrivateKey, *, is_dialer: bool, random: Random, remote: PeerId | None = None
    ) -> None:
        self.upgraded: Upgraded | None = None
        self._is_dialer = is_dialer
        self._handshake = NoiseHandshake(
            key,
            initiator=is_dialer,
            static=X25519PrivateKey.from_private_bytes(random.randbytes(noise.KEY_BYTES)),
            ephemeral=X25519PrivateKey.from_private_bytes(random.randbytes(noise.KEY_BYTES)),
            remote=remote,
            muxers=MUXERS,
        )
        self._security: multistream.Initiator | multistream.Responder | None
        self._muxer: multistream.Initiator | multistream.Responder | None = None
        if is_dialer:
            self._security = multistream.Initiator(SECURITY, initial=self._handshake.data_to_send())
        else:
            self._security = multistream.Responder(SECURITY)
        self._to_send = bytearray(self._security.data_to_send())

    def data_to_send(self) -> bytes:
        """Bytes for the peer."""
        data = bytes(self._to_send)
        self._to_send.clear()
        return data

    def receive(self, data: memoryview) -> int:
        """The number of bytes used; what follows the upgrade is left alone.

        Raises: RemoteProtocolError, NegotiationError, PeerIdMismatchError.
        """
        used = 0
        if self._security is not None:
            selected = self._security.receive(data)
            self._to_send += self._security.data_to_send()
            if selected is None:
                return len(data)
            self._security = None
            used = len(data) - len(selected.rest)
        secured = self._handshake.secured
        if secured is None:
            used += self._handshake.receive(data[used:])
            self._to_send += self._handshake.data_to_send()
            secured = self._handshake.secured
            if secured is None:
                return used
            self._begin_muxer(secured)
        if self.upgraded is None and self._muxer is not None:
            used += self._negotiate_muxer(secured, self._muxer, data[used:])
        return used

    def _begin_muxer(self, secured: Secured) -> None:
        if secured.muxers:
            ours, theirs = (MUXERS, secured.muxers) if self._is_dialer else (secured.muxers, MUXERS)
            if not any(name in theirs for name in ours):
                raise NegotiationError(f"the peer's muxers are {', '.join(secured.muxers)[:200]}, ours {MUXERS[0]}")
            self.upgraded = Upgraded(secured, [])
            return
        self._muxer = multistream.Initiator(MUXERS) if self._is_dialer else multistream.Responder(MUXERS)
        self._send_encrypted(secured, self._muxer.data_to_send())

    def _negotiate_muxer(
        self, secured: Secured, muxer: multistream.Initiator | multistream.Responder, data: memoryview
    ) -> int:
        plaintexts, used = secured.transport.decrypt(data)
        for index, plaintext in enumerate(plaintexts):
            selected = muxer.receive(plaintext)
            self._send_encrypted(secured, muxer.data_to_send())
            if selected is not None:
                self.upgraded = Upgraded(secured, [selected.rest, *plaintexts[index + 1 :]])
                break
        return used

    def _send_encrypted(self, secured: Secured, data: bytes) -> None:
        if data:
            self._to_send += b"".join(secured.transport.encrypt([data]))


class _Driver:
    """Runs an `Upgrade` over a link."""

    def __init__(self, link: Link, machine: Upgrade) -> None:
        self.done: asyncio.Future[Upgraded] = asyncio.get_running_loop().create_future()
        self._link = link
        self._machine = machine

    def data_received(self, data: memoryview) -> int:
        """See `Receiver`."""
        if self.done.done():
            return 0
        try:
            used = self._machine.receive(data)
        except Libp2pError as error:
            self.done.set_exception(error)
            return len(data)
        self.send()
        if self._machine.upgraded is not None:
            self._link.pause()
            self.done.set_result(self._machine.upgraded)
        return used

    def send(self) -> None:
        """Write what the machine has to say."""
        if data := self._machine.data_to_send():
            self._link.write([data])

    def room_made(self) -> None:
        """See `Receiver`: a handshake is too short to fill a link."""

    def connection_lost(self, error: Exception | None) -> None:
        """See `Receiver`."""
        if not self.done.done():
            self.done.set_exception(StreamClosedError(f"the link was lost in the handshake: {error or 'closed'}"))


async def upgrade(
    link: Link, key: Ed25519PrivateKey, *, is_dialer: bool, random: Random, remote: PeerId | None, timeout_s: float
) -> Upgraded:
    """Secure `link` and agree on the muxer; it delivers nothing until its next `start`. Aborts the link on failure.

    Raises: RemoteProtocolError, NegotiationError, PeerIdMismatchError, StreamClosedError, TimeoutError.
    """
    driver = _Driver(link, Upgrade(key, is_dialer=is_dialer, random=random, remote=remote))
    try:
        driver.send()
        link.start(driver)
        async with asyncio.timeout(timeout_s):
            return await driver.done
    except BaseException:
        if not driver.done.cancel() and not driver.done.cancelled():
            driver.done.exception()  # looked at, for asyncio's sake
        link.abort()
        raise
