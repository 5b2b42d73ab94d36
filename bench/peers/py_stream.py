"""py-libp2p sends bytes to itself: `serve` prints its address; `measure ADDRESS` gives MB/s for each line "BYTES"."""

import sys
import time

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr

SOURCE = "/bench/source/1.0.0"
BLOCK = b"x" * 262_144

host = new_host(key_pair=create_new_key_pair())


async def source(stream):
    left = int.from_bytes(await stream.read(8), "big")
    while left > 0:
        await stream.write(BLOCK[:left])
        left -= len(BLOCK)
    await stream.close()


async def lines():
    stdin, rest = trio.lowlevel.FdStream(0), b""
    async for data in stdin:
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            yield line


async def measure(address):
    peer = info_from_p2p_addr(Multiaddr(address))
    await host.connect(peer)
    async for line in lines():
        size, got = int(line), 0
        begin = time.perf_counter()
        stream = await host.new_stream(peer.peer_id, [SOURCE])
        await stream.write(size.to_bytes(8, "big"))
        while got < size:
            got += len(await stream.read(len(BLOCK)))
        print(size / 1e6 / (time.perf_counter() - begin), flush=True)
        await stream.close()


async def main():
    host.set_stream_handler(SOURCE, source)
    async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        if sys.argv[1] == "measure":
            await measure(sys.argv[2])
        else:
            print(host.get_addrs()[0], flush=True)
            async for _ in lines():
                pass


trio.run(main)
