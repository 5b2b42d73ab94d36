"""Ping: 32 random bytes there and back, as often as the asker likes on one stream. Sans-I/O; no timers, no statistics.

The one who asks draws the bytes and compares; the other gives back what came, in whole blocks, until the stream ends.
Source: libp2p/specs ping.
"""

from __future__ import annotations

from rage_net.libp2p.errors import LocalProtocolError, RemoteProtocolError
from rage_net.libp2p.varint import Buffer

PROTOCOL = "/ipfs/ping/1.0.0"
PING_BYTES = 32


class Pinger:
    """The end that asks: one ping on its way at a time."""

    def __init__(self) -> None:
        self._sent: bytes | None = None
        self._sent_at = 0.0
        self._got = bytearray()

    def send(self, payload: bytes, now: float) -> bytes:
        """The bytes to send for one ping; `payload` is 32 fresh random bytes. LocalProtocolError while one is out."""
        if self._sent is not None or len(payload) != PING_BYTES:
            raise LocalProtocolError(f"a ping carries {PING_BYTES} bytes, and waits for the one before it")
        self._sent, self._sent_at = payload, now
        return payload

    def receive(self, data: Buffer, now: float) -> float | None:
        """The round trip in seconds once all 32 bytes are back. Raises RemoteProtocolError for others, or too many."""
        self._got += data
        if self._sent is None or not self._sent.startswith(self._got):
            raise RemoteProtocolError("a peer answers a ping with other bytes than it was sent")
        if len(self._got) < PING_BYTES:
            return None
        self._sent = None
        self._got.clear()
        return now - self._sent_at


class Echo:
    """The end that answers: holds less than one block."""

    def __init__(self) -> None:
        self._got = bytearray()

    def receive(self, data: Buffer) -> bytes:
        """The whole blocks to give back now."""
        self._got += data
        whole = len(self._got) - len(self._got) % PING_BYTES
        back = bytes(self._got[:whole])
        del self._got[:whole]
        return back

    def end(self) -> None:
        """The stream has ended. Raises RemoteProtocolError when it did so within a block."""
        if self._got:
            raise RemoteProtocolError(f"a ping ends after {len(self._got)} of {PING_BYTES} bytes")
