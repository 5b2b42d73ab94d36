"""One topic, one mesh of three: js-libp2p's gossipsub, py-libp2p's and rage's, as real processes over TCP."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from foreign_peers import PROGRAMS, Peer, missing

from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.pubsub import PubSub, Subscription
from rage_net.libp2p.swarm import Swarm

pytestmark = [pytest.mark.anyio, pytest.mark.foreign("js-libp2p", "py-libp2p")]

TOPIC = "rage.global"
MESSAGES = 1000
BURST = 8
"""Published by each side at once: py-libp2p keeps 32 RPCs for each peer, and drops what it publishes beyond."""
TIMEOUT_S = 60.0


@pytest.fixture
def programs(in_ci: bool) -> tuple[str, ...]:
    for name in PROGRAMS:
        if why := missing(name):
            (pytest.fail if in_ci else pytest.skip)(why)
    return PROGRAMS


async def until(look: Callable[[], object]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not look():
            await asyncio.sleep(0.01)


class Reader:
    """What rage got, by author."""

    def __init__(self) -> None:
        self.texts: dict[str, list[str]] = {}

    async def read(self, subscription: Subscription) -> None:
        async for message in subscription:
            self.texts.setdefault(str(message.author), []).append(message.data.decode())

    def has(self, author: str, count: int) -> bool:
        return len(self.texts.get(author, ())) >= count


async def test_a_thousand_messages_of_each_reach_both_others(programs: tuple[str, ...], rng: random.Random) -> None:
    foreign = [Peer(program, "gossip") for program in programs]
    js, py = foreign
    try:
        async with (
            Swarm(Ed25519PrivateKey.generate(), agent_version="rage/test") as swarm,
            PubSub(swarm, random=rng) as pubsub,
            asyncio.TaskGroup() as tasks,
        ):
            await swarm.listen(Multiaddr.parse("/ip4/127.0.0.1/tcp/0"))
            ours = str(swarm.listen_addresses()[0].with_peer_id(swarm.peer_id))
            reader = Reader()
            subscription = pubsub.subscribe(TOPIC)
            tasks.create_task(reader.read(subscription))
            for peer in foreign:
                await peer.call("join", topic=TOPIC)
                await peer.call("dial", address=ours)
            await js.call("dial", address=py.address)
            for peer in foreign:
                assert len((await peer.call("meshed", topic=TOPIC, count=2))["peers"]) == 2
            await until(lambda: len(pubsub.mesh(TOPIC)) == 2)

            authors = {"js": js.peer_id, "py": py.peer_id, "rage": str(swarm.peer_id)}
            for first in range(0, MESSAGES, BURST):
                asked = [
                    asyncio.ensure_future(peer.call("publish", topic=TOPIC, word=word, first=first, count=BURST))
                    for peer, word in ((js, "js"), (py, "py"))
                ]
                for n in range(first, first + BURST):
                    assert pubsub.publish(TOPIC, f"rage {n}".encode())[1] == 2
                await asyncio.gather(*asked)
                await asyncio.gather(
                    *(
                        peer.call("received", TIMEOUT_S, author=author, count=first + BURST)
                        for peer in foreign
                        for author in authors.values()
                        if author != peer.peer_id
                    )
                )
                await until(lambda first=first: all(reader.has(peer.peer_id, first + BURST) for peer in foreign))

            for peer in foreign:
                for word, author in authors.items():
                    if author != peer.peer_id:
                        got = await peer.call("received", author=author, count=MESSAGES)
                        assert set(got["texts"]) == {f"{word} {n}" for n in range(MESSAGES)}
                        assert got["copies"] == MESSAGES
            assert set(reader.texts) == {js.peer_id, py.peer_id}
            for word in ("js", "py"):
                assert sorted(reader.texts[authors[word]]) == sorted(f"{word} {n}" for n in range(MESSAGES))
            assert "/meshsub/1.2.0" in (await js.call("protocols", peer=authors["rage"]))["streams"]
            counts = pubsub.counts
            assert counts["rejected"] == counts["malformed"] == counts["dropped_messages"] == 0, counts
            assert min(pubsub.score(peer_id) for peer_id in pubsub.peers(TOPIC)) > 0
            subscription.close()
    finally:
        for peer in foreign:
            peer.close()
