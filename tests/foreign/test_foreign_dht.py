"""js-libp2p's kad-dht on `/rage/kad/1.0.0`, as a real process: each finds what the other leaves.

js-libp2p as a server takes a record only where the key's bytes parse as a CID, and so only for SHA-256 multihashes;
rage takes all. BLAKE3 roots therefore meet in rage's own stores, where js-libp2p finds them.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from foreign_peers import Peer, missing

from rage_net.cid import Cid
from rage_net.libp2p.dht import Dht
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId, encode_public_key
from rage_net.libp2p.swarm import Swarm

pytestmark = [pytest.mark.anyio, pytest.mark.foreign("js-libp2p")]

TIMEOUT_S = 30.0


async def until(look: Callable[[], bool]) -> None:
    """Return once `look` is true; it looks again after each turn of a short timer, as no event tells of a table."""
    async with asyncio.timeout(TIMEOUT_S):
        while not look():
            await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def js() -> Iterator[Peer]:
    if why := missing("js-libp2p"):
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)
    peer = Peer("js-libp2p", "dht")
    yield peer
    peer.close()


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
async def dht(key: Ed25519PrivateKey, js: Peer, rng: random.Random) -> AsyncIterator[Dht]:
    """A server that js has dialled; both know each other as such."""
    async with AsyncExitStack() as life:
        dht = await server(life, key, rng)
        await js.call("dial", address=str(dht.swarm.listen_addresses()[0].with_peer_id(dht.own)))
        await meet(dht, js)
        yield dht


async def server(life: AsyncExitStack, key: Ed25519PrivateKey, rng: random.Random) -> Dht:
    swarm = await life.enter_async_context(Swarm(key, agent_version="rage/test"))
    await swarm.listen(Multiaddr.parse("/ip4/127.0.0.1/tcp/0"))
    return await life.enter_async_context(
        Dht(swarm, mode="server", clock=time.monotonic, wall_clock=time.time, random=rng)
    )


async def meet(dht: Dht, js: Peer) -> None:
    them = PeerId.parse(js.peer_id)
    await until(lambda: any(contact.peer_id == them for contact in dht.table))
    await js.call("tabled", peer=str(dht.own))


def sha256(data: bytes) -> bytes:
    return bytes((0x12, 32)) + hashlib.sha256(data).digest()


def multihash(cid: Cid) -> bytes:
    return bytes(cid)[2:]


async def test_js_provides_and_rage_finds(dht: Dht, js: Peer, rng: random.Random) -> None:
    for root in (sha256(rng.randbytes(8)), multihash(Cid.of(rng.randbytes(8)))):
        assert (await js.call("provide", multihash=root.hex()))["sent"] == 1
        found = [provider async for provider in dht.find_providers(root)]
        assert [str(provider.peer_id) for provider in found] == [js.peer_id]
        assert Multiaddr.parse(js.address).without_peer_id() in found[0].addresses


async def test_rage_provides_and_js_finds(dht: Dht, js: Peer, rng: random.Random) -> None:
    root = sha256(rng.randbytes(8))
    assert await dht.provide(root) == 1
    assert (await js.call("held", multihash=root.hex()))["peers"] == [str(dht.own)]
    found = (await js.call("find_providers", multihash=root.hex()))["found"]
    assert {provider["peer_id"] for provider in found} == {str(dht.own)}
    assert str(dht.swarm.listen_addresses()[0]) in found[0]["addresses"]


async def test_what_js_refuses_is_not_counted_as_taken(dht: Dht, js: Peer, rng: random.Random) -> None:
    root = multihash(Cid.of(rng.randbytes(8)))
    assert await dht.provide(root) == 0
    assert (await js.call("held", multihash=root.hex()))["peers"] == []


async def test_a_blake3_root_of_one_rage_is_found_by_js_at_another(dht: Dht, js: Peer, rng: random.Random) -> None:
    root = multihash(Cid.of(rng.randbytes(8)))
    async with AsyncExitStack() as life:
        owner = await server(life, Ed25519PrivateKey.generate(), rng)
        await owner.swarm.dial(dht.own, dht.swarm.listen_addresses())
        await until(lambda: len(owner.table) == 1 and len(dht.table) == 2)
        assert await owner.provide(root) >= 1
        found = (await js.call("find_providers", multihash=root.hex()))["found"]
        assert str(owner.own) in {provider["peer_id"] for provider in found}


async def test_many_records_on_one_stream_are_all_taken_by_js(dht: Dht, js: Peer, rng: random.Random) -> None:
    roots = [sha256(rng.randbytes(8)) for _ in range(200)]
    told = await dht.provide_many(roots)
    assert (told.announced, told.failed, told.batches) == (200, 0, 1)
    for root in rng.sample(roots, 3):
        assert (await js.call("held", multihash=root.hex()))["peers"] == [str(dht.own)]


async def test_each_finds_a_peer_that_only_the_other_knows(dht: Dht, js: Peer, rng: random.Random) -> None:
    async with AsyncExitStack() as life:
        far = await server(life, Ed25519PrivateKey.generate(), rng)  # js's acquaintance, whom rage never met
        await far.swarm.dial(PeerId.parse(js.peer_id), [Multiaddr.parse(js.address)])
        await meet(far, js)
        contact, _ = await dht.find_peer(far.own)
        assert contact is not None and far.swarm.listen_addresses()[0] in contact.addresses

        near = await server(life, Ed25519PrivateKey.generate(), rng)  # rage's, whom js never met
        await near.swarm.dial(dht.own, dht.swarm.listen_addresses())
        await until(lambda: any(contact.peer_id == near.own for contact in dht.table))
        found = await js.call("find_peer", peer=str(near.own))
        assert found["peer_id"] == str(near.own)
        assert str(near.swarm.listen_addresses()[0]) in found["addresses"]


async def test_public_keys_are_put_and_got_both_ways(dht: Dht, js: Peer, key: Ed25519PrivateKey) -> None:
    them = PeerId.parse(js.peer_id)
    assert (await js.call("put_key"))["stored"] >= 1
    theirs = dht.values.get(b"/pk/" + bytes(them), time.monotonic())
    assert theirs is not None and PeerId.from_encoded_key(theirs) == them
    assert await dht.get_value(b"/pk/" + bytes(them)) == theirs

    ours = encode_public_key(key.public_key())
    assert await dht.put_value(b"/pk/" + bytes(dht.own), ours) == 1
    assert (await js.call("get_key", peer=str(dht.own)))["value"] == ours.hex()
