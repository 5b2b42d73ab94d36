"""A node that has mDNS and nothing else: python mdns_node.py NUMBER LISTEN... Tells what happens as JSON lines.

Its peer id is made from NUMBER. It ends with its standard input. `--look` makes it one that does not announce itself.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys

from rage_net.libp2p.mdns import Mdns, service
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId


def peer_id(number: int) -> PeerId:
    return PeerId(bytes((0, 36, 8, 1, 18, 32)) + random.Random(number).randbytes(32))


def tell(**what: object) -> None:
    print(json.dumps(what), flush=True)


async def main(number: int, announce: bool, *listen: str) -> None:
    service.LOOK_S = 0.2
    addresses = [Multiaddr.parse(text) for text in listen]
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, ended.set)
    async with Mdns(
        peer_id(number),
        lambda: addresses,
        lambda who, where: tell(found=str(who), addresses=[str(address.without_peer_id()) for address in where]),
        interval_s=60.0,
        random=random.Random(),
        announce=announce,
    ) as mdns:
        told = None
        await mdns.wait_state()
        while not ended.is_set():
            now = {"state": mdns.state, "reason": mdns.reason, "interfaces": mdns.interfaces}
            if now != told:
                tell(**now)
                told = now
            try:
                async with asyncio.timeout(0.05):
                    await ended.wait()
            except TimeoutError:
                continue


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--look"]
    asyncio.run(main(int(words[0]), "--look" not in sys.argv, *words[1:]))
