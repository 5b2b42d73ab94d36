"""py-libp2p as the other side of rage's tests: JSON lines on stdin, answers on stdout; see foreign_peers.py."""

import contextlib
import hashlib
import json
import sys

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.host.ping import PingService
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.network.stream.exceptions import StreamEOF, StreamReset
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.utils.varint import read_length_prefixed_protobuf
from multiaddr import Multiaddr

ECHO = "/foreign/echo/1.0.0"
SINK = "/foreign/sink/1.0.0"
SOURCE = "/foreign/source/1.0.0"
RESET = "/foreign/reset/1.0.0"
BLOCK = 65536
PATTERN = bytes((i * 7 + 3) & 255 for i in range(256)) * (BLOCK // 256)

host = new_host(key_pair=create_new_key_pair())


async def chunks(stream):
    while True:
        try:
            data = await stream.read(BLOCK)
        except StreamEOF:
            return
        if not data:
            return
        yield data


async def read_all(stream):
    return b"".join([data async for data in chunks(stream)])


async def hash_all(stream):
    digest, size = hashlib.sha256(), 0
    async for data in chunks(stream):
        size += len(data)
        digest.update(data)
    return {"bytes": size, "sha256": digest.hexdigest()}


async def send_pattern(stream, size):
    digest = hashlib.sha256()
    for k in range(-(-size // BLOCK)):
        block = (k.to_bytes(8, "big") + PATTERN[8:])[: size - k * BLOCK]
        digest.update(block)
        await stream.write(block)
    return digest.hexdigest()


async def echo(stream):
    try:
        async for data in chunks(stream):
            await stream.write(data)
    except StreamReset:
        return
    await stream.close_write()


async def sink(stream):  # answers only after the asker's half is closed
    got = await hash_all(stream)
    await stream.write(json.dumps(got).encode())
    await stream.close_write()


async def source(stream):
    head = b""
    while len(head) < 8:
        head += await stream.read(8 - len(head))
    await send_pattern(stream, int.from_bytes(head, "big"))
    await stream.close_write()


async def reset(stream):
    await stream.read(1)
    await stream.reset()


def open_stream(peer, protocol):
    return host.new_stream(ID.from_string(peer), [protocol])


async def get_address(args):
    return {"peer_id": str(host.get_id()), "address": str(host.get_addrs()[0])}


async def dial(args):
    info = info_from_p2p_addr(Multiaddr(args["address"]))
    await host.connect(info)
    return {"peer_id": str(info.peer_id)}


async def met(args):  # waits for a connection that the other side has dialled
    while not host.get_network().get_connections(ID.from_string(args["peer"])):
        await trio.sleep(0.005)
    return {}


async def identify(args):
    stream = await open_stream(args["peer"], IDENTIFY)
    told = Identify.FromString(await read_length_prefixed_protobuf(stream, use_varint_format=True))
    await stream.close()
    return {
        "agent": told.agent_version,
        "protocols": list(told.protocols),
        "addresses": [str(Multiaddr(raw)) for raw in told.listen_addrs],
        "observed": str(Multiaddr(told.observed_addr)),
    }


async def ping(args):
    rtts = [rtt async for rtt in PingService(host).ping_iter(ID.from_string(args["peer"]))]
    return {"rtt_ms": rtts[0]}


async def put(args):
    stream = await open_stream(args["peer"], SINK)
    sha256 = await send_pattern(stream, args["size"])
    await stream.close_write()
    return {"sha256": sha256, "answer": json.loads(await read_all(stream))}


async def get(args):
    stream = await open_stream(args["peer"], SOURCE)
    await stream.write(args["size"].to_bytes(8, "big"))
    await stream.close_write()
    return await hash_all(stream)


async def streams(args):
    good = 0

    async def one(n):
        nonlocal good
        stream = await open_stream(args["peer"], ECHO)
        sent = bytes((n & 255,)) * args["size"]
        await stream.write(sent)
        await stream.close_write()
        back = await read_all(stream)
        good += back == sent

    async with trio.open_nursery() as nursery:
        for n in range(args["count"]):
            nursery.start_soon(one, n)
    return {"good": good}


async def reset_ours(args):  # we reset: the other side sees it
    stream = await open_stream(args["peer"], ECHO)
    await stream.write(b"x")
    await stream.read(1)
    await stream.reset()
    return {}


async def get_reset(args):  # the other side resets: we see it
    stream = await open_stream(args["peer"], RESET)
    await stream.write(b"x")
    with contextlib.suppress(StreamReset):
        await read_all(stream)
    # A reset that comes while a read waits ends it like an end of data; the muxer knows better.
    return {"is_reset": stream.muxed_stream.reset_received}


async def open_any(args):
    await read_all(await open_stream(args["peer"], args["protocol"]))
    return {}


async def hang_up(args):
    await host.disconnect(ID.from_string(args["peer"]))
    return {}


COMMANDS = {
    "address": get_address,
    "dial": dial,
    "met": met,
    "identify": identify,
    "ping": ping,
    "put": put,
    "get": get,
    "streams": streams,
    "reset": reset_ours,
    "get_reset": get_reset,
    "open": open_any,
    "hang_up": hang_up,
}


def answer(line):
    print(json.dumps(line), flush=True)


async def run(id, op, args):
    try:
        answer({"id": id, "ok": await COMMANDS[op](args)})
    except Exception as error:
        answer({"id": id, "error": f"{type(error).__name__}: {error}"})


async def lines():
    stdin, rest = trio.lowlevel.FdStream(0), b""
    async for data in stdin:
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            yield json.loads(line)


async def main():
    for protocol, handler in ((ECHO, echo), (SINK, sink), (SOURCE, source), (RESET, reset)):
        host.set_stream_handler(protocol, handler)
    async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]), trio.open_nursery() as nursery:
        answer({"id": 0, "ok": await get_address({})})
        async for line in lines():
            nursery.start_soon(run, line.pop("id"), line.pop("op"), line)
        nursery.cancel_scope.cancel()


trio.run(main)
sys.exit(0)
