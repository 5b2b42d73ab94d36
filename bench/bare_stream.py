"""The yardstick of `bench/stream.py`: what asyncio can do with the same framing and nothing else.

Frames of a 2-byte length and ChaCha20-Poly1305 ciphertext that carry yamux DATA frames of one stream, with its window;
a fixed key instead of a handshake, no limits, no fairness, no errors. One process sends, the other receives.
"""

from __future__ import annotations

import asyncio
import struct
import sys
import time

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

KEY = b"k" * 32
PLAINTEXT_BYTES_MAX = 65_535 - 16
FRAME_BYTES = 256 * 1024
WINDOW_BYTES = 16 * 1024 * 1024
UPDATE_BYTES = 4 * 1024 * 1024


class Framed(asyncio.BufferedProtocol):
    """Both directions of the frames."""

    def __init__(self) -> None:
        self.cipher = ChaCha20Poly1305(KEY)
        self.sent = self.received = 0
        self.buffer = bytearray(1 << 20)
        self.view = memoryview(self.buffer)
        self.end = 0
        self.room = asyncio.Event()
        self.room.set()
        self.header = b""
        self.missing = 0
        self.window = WINDOW_BYTES
        self.widened = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(4 << 20)

    def pause_writing(self) -> None:
        self.room.clear()

    def resume_writing(self) -> None:
        self.room.set()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.view[self.end :]

    def buffer_updated(self, nbytes: int) -> None:
        self.end += nbytes
        at, end, view = 0, self.end, self.view
        while end - at >= 2:
            size = view[at] << 8 | view[at + 1]
            if end - at < 2 + size:
                break
            nonce = b"\0\0\0\0" + self.received.to_bytes(8, "little")
            plaintext = self.cipher.decrypt(nonce, view[at + 2 : at + 2 + size], None)
            self.received += 1
            at += 2 + size
            self.parse(plaintext)
        if at:
            self.buffer[: end - at] = bytes(view[at:end])
            self.end = end - at

    def send(self, plaintext: bytes) -> None:
        view = memoryview(plaintext)
        out = []
        for at in range(0, len(view), PLAINTEXT_BYTES_MAX):
            nonce = b"\0\0\0\0" + self.sent.to_bytes(8, "little")
            ciphertext = self.cipher.encrypt(nonce, view[at : at + PLAINTEXT_BYTES_MAX], None)
            self.sent += 1
            out += (len(ciphertext).to_bytes(2, "big"), ciphertext)
        self.transport.writelines(out)

    def parse(self, plaintext: bytes) -> None:
        at, size, view = 0, len(plaintext), memoryview(plaintext)
        while at < size:
            if self.missing:
                taken = min(self.missing, size - at)
                self.missing -= taken
                self.payload(view[at : at + taken])
            else:
                taken = min(12 - len(self.header), size - at)
                self.header += plaintext[at : at + taken]
                if len(self.header) == 12:
                    _, kind, _, _, length = struct.unpack(">BBHII", self.header)
                    self.header = b""
                    if kind == 0:
                        self.missing = length
                    else:
                        self.window += length
                        self.widened.set()
            at += taken

    def payload(self, data: memoryview) -> None:
        raise NotImplementedError


class Source(Framed):
    """Sends as many bytes as it is asked for."""

    def payload(self, data: memoryview) -> None:
        self.task = asyncio.ensure_future(self.pour(int.from_bytes(data[:8], "big")))

    async def pour(self, count: int) -> None:
        buffer = memoryview(b"x" * FRAME_BYTES)
        while count > 0:
            size = min(count, FRAME_BYTES)
            while self.window < size:
                self.widened.clear()
                await self.widened.wait()
            self.window -= size
            self.send(struct.pack(">BBHII", 0, 0, 0, 1, size) + buffer[:size])
            await self.room.wait()
            count -= size


class Sink(Framed):
    """Asks, counts, and gives room."""

    got = wanted = ungranted = 0
    done: asyncio.Future[None]

    def payload(self, data: memoryview) -> None:
        self.got += len(data)
        self.ungranted += len(data)
        if self.ungranted > UPDATE_BYTES:
            self.send(struct.pack(">BBHII", 0, 1, 0, 1, self.ungranted))
            self.ungranted = 0
        if self.got >= self.wanted:
            self.done.set_result(None)

    async def measure(self, size: int) -> float:
        """Seconds for `size` bytes."""
        self.done = asyncio.get_running_loop().create_future()
        self.got, self.wanted = 0, size
        begin = time.perf_counter()
        self.send(struct.pack(">BBHII", 0, 0, 0, 1, 8) + size.to_bytes(8, "big"))
        await self.done
        return time.perf_counter() - begin


async def serve() -> None:
    """Print the port, and serve until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Source, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


async def connect(port: int) -> Sink:
    _, sink = await asyncio.get_running_loop().create_connection(Sink, "127.0.0.1", port)
    return sink


if __name__ == "__main__":
    from rage_net.libp2p.transport import tune_malloc

    tune_malloc()
    asyncio.run(serve())
