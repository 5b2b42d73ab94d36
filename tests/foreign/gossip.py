"""py-libp2p's gossipsub as the other side of rage's tests. Commands as in peer.py; see foreign_peers.py."""

import json
import sys

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, PROTOCOL_ID_V12, GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

host = new_host(key_pair=create_new_key_pair())
# Its guard against more than 10 messages a second in a topic is left out: a thousand are wanted, as fast as may be.
router = GossipSub([PROTOCOL_ID_V12, PROTOCOL_ID_V11], 6, 5, 12, heartbeat_interval=1, spam_protection_enabled=False)
pubsub = Pubsub(host, router, cache_size=8192)
got = {}  # author -> texts and copies
nursery = None


async def until(look):
    while not look():
        await trio.sleep(0.005)


async def read(subscription):
    while True:
        message = await subscription.get()
        entry = got.setdefault(str(ID(message.from_id)), {"texts": set(), "copies": 0})
        entry["copies"] += 1
        entry["texts"].add(message.data.decode())


async def dial(args):
    info = info_from_p2p_addr(Multiaddr(args["address"]))
    await host.connect(info)
    return {"peer_id": str(info.peer_id)}


async def join(args):
    nursery.start_soon(read, await pubsub.subscribe(args["topic"]))
    return {}


async def meshed(args):  # waits until as many peers are in the mesh
    await until(lambda: len(router.mesh.get(args["topic"], ())) >= args["count"])
    return {"peers": [str(peer) for peer in pubsub.peer_topics.get(args["topic"], ())]}


async def publish(args):
    for n in range(args["first"], args["first"] + args["count"]):
        await pubsub.publish(args["topic"], f"{args['word']} {n}".encode())
    return {}


async def received(args):  # waits until as many different messages of the author are here
    await until(lambda: len(got.get(args["author"], {"texts": ()})["texts"]) >= args["count"])
    entry = got[args["author"]]
    return {"texts": sorted(entry["texts"]), "copies": entry["copies"]}


COMMANDS = {"dial": dial, "join": join, "meshed": meshed, "publish": publish, "received": received}


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
    global nursery
    async with (
        host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]),
        trio.open_nursery() as nursery,
        background_trio_service(pubsub),
        background_trio_service(router),
    ):
        await pubsub.wait_until_ready()
        answer({"id": 0, "ok": {"peer_id": str(host.get_id()), "address": str(host.get_addrs()[0])}})
        async for line in lines():
            nursery.start_soon(run, line.pop("id"), line.pop("op"), line)
        nursery.cancel_scope.cancel()


trio.run(main)
sys.exit(0)
