"""Hostile peers in gossip, one test an attack: each costs its stream, its score or a counter, never the others."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rage_lab.sim.virtual_loop import VirtualLoop
from rage_net.libp2p import varint
from rage_net.libp2p.errors import Libp2pError
from rage_net.libp2p.gossipsub import PROTOCOLS, Frames, Message, Params, Rpc, ScoreParams, decode, encode
from rage_net.libp2p.gossipsub.gossip import WANTED_MAX
from rage_net.libp2p.gossipsub.message import make_message
from rage_net.libp2p.gossipsub.outbox import OUTBOX_BYTES_MAX
from rage_net.libp2p.gossipsub.peers import TOPICS_PER_PEER_MAX, UNWANTED_MAX
from rage_net.libp2p.gossipsub.rpc import RPC_BYTES_MAX, Have, Prune
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId, encode_public_key
from rage_net.libp2p.pubsub import PubSub, Subscription
from rage_net.libp2p.pubsub.inbound import (
    HELD_BYTES_MAX,
    INBOUND_STREAMS_MAX,
    MESSAGES_BURST,
    MESSAGES_S,
    RPC_S_MAX,
)
from rage_net.libp2p.swarm import Stream, Swarm
from rage_net.libp2p.transport import Conditions, MemoryNetwork, MemoryTransport

pytestmark = pytest.mark.anyio

TOPIC = "rage.global"
EPOCH_S = 1_800_000_000.0
KIB, MIB = 1024, 1024 * 1024


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"loop_factory": VirtualLoop}


async def until(look: Callable[[], object], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not look():
            await asyncio.sleep(0.05)


class Attacker:
    """A swarm without gossip of its own: it sends what it likes, and notes what it is told."""

    def __init__(self, swarm: Swarm, key: Ed25519PrivateKey, victim: Swarm, *, does_read: bool = True) -> None:
        self.swarm = swarm
        self.id = swarm.peer_id
        self.got: list[Rpc] = []
        self.stream: Stream
        self._key = key
        self._victim = victim
        self._does_read = does_read
        for protocol in PROTOCOLS:
            swarm.handle(protocol, self._listen)

    async def _listen(self, stream: Stream) -> None:
        frames = Frames()
        if not self._does_read:
            await asyncio.sleep(1e6)
        while buffers := await stream.read():
            self.got += [decode(raw) for raw in frames.receive(buffers)]

    async def begin(self) -> None:
        connection = await self.swarm.dial(self._victim.peer_id, self._victim.listen_addresses())
        self.stream = await connection.open_stream(PROTOCOLS)
        await self.send(Rpc(subscriptions=((TOPIC, True),)))

    async def send(self, *rpcs: Rpc) -> None:
        await self.send_raw(b"".join(map(encode, rpcs)))

    async def send_raw(self, data: bytes) -> None:
        with contextlib.suppress(Libp2pError):  # it may be cut off in the middle of it
            await self.stream.write(data)
            await self.stream.drain()

    def message(self, data: bytes = b"false", *, sequence: int, topic: str = TOPIC) -> Message:
        return make_message(topic, data, self.id, sequence, self._key.sign)

    async def is_reset(self, timeout_s: float = 5.0) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                while await self.stream.read():
                    pass
        except TimeoutError:
            return False
        except Libp2pError:
            return True
        return True


class Scene:
    """A victim, an honest peer that gossips with it, and attackers."""

    def __init__(self, rng: random.Random, life: AsyncExitStack) -> None:
        self.rng = rng
        self.network = MemoryNetwork(Conditions(delay_s=0.005), rng)
        self._life = life
        self.victim: PubSub
        self.honest: PubSub
        self.got: Subscription
        self.honest_got: Subscription
        self.swarms: dict[str, Swarm] = {}

    async def set_up(self, **more: Any) -> None:
        self.victim = await self.pubsub("victim", **more)
        self.honest = await self.pubsub("honest")
        self.got = self.victim.subscribe(TOPIC)
        self.honest_got = self.honest.subscribe(TOPIC)
        victim = self.swarms["victim"]
        await self.swarms["honest"].dial(victim.peer_id, victim.listen_addresses())
        await until(lambda: self.victim.mesh(TOPIC) and self.honest.mesh(TOPIC))

    async def swarm(self, name: str) -> tuple[Swarm, Ed25519PrivateKey]:
        key = Ed25519PrivateKey.from_private_bytes(self.rng.randbytes(32))
        swarm = Swarm(
            key,
            transports=[MemoryTransport(self.network, name)],
            agent_version=f"test/{name}",
            clock=asyncio.get_running_loop().time,
            random=self.rng,
        )
        self.swarms[name] = swarm
        await self._life.enter_async_context(swarm)
        await swarm.listen(Multiaddr.parse(f"/memory/{name}"))
        return swarm, key

    async def pubsub(self, name: str, **more: Any) -> PubSub:
        swarm, _ = await self.swarm(name)
        clock = asyncio.get_running_loop().time
        pubsub = PubSub(swarm, clock=clock, wall_clock=self.wall_now, random=self.rng, **more)
        return await self._life.enter_async_context(pubsub)

    async def attacker(self, name: str = "attacker", **more: Any) -> Attacker:
        swarm, key = await self.swarm(name)
        attacker = Attacker(swarm, key, self.swarms["victim"], **more)
        await attacker.begin()
        await until(lambda: attacker.id in self.victim.peers(TOPIC) or more)
        return attacker

    def wall_now(self) -> float:
        return EPOCH_S + asyncio.get_running_loop().time()

    def sequence(self) -> int:
        return int(self.wall_now() * 1e9)

    def score(self, attacker: Attacker) -> float:
        return self.victim.score(attacker.id)

    async def still_works(self) -> None:
        """Messages go both ways between the honest, and nothing else was delivered."""
        for source, subscription in ((self.honest, self.got), (self.victim, self.honest_got)):
            word = self.rng.randbytes(16)
            source.publish(TOPIC, word)
            async with asyncio.timeout(10):
                assert (await anext(subscription)).data == word
        assert self.victim.counts["task_errors"] == 0


@pytest.fixture
async def scene(rng: random.Random) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as life:
        scene = Scene(rng, life)
        await scene.set_up()
        yield scene


# -- messages that are not what they say ------------------------------------------------------------------------------


async def test_a_bad_signature_is_not_delivered_costs_the_score_and_hides_no_true_message(scene: Scene) -> None:
    attacker = await scene.attacker()
    true = scene.honest.router._sequence  # what honest will name its next message by can be guessed
    for n in range(3):
        forged = Message(TOPIC, b"false", scene.swarms["honest"].peer_id.multihash, (true + n).to_bytes(8), b"x" * 64)
        await attacker.send(Rpc(messages=(forged,)))
    await until(lambda: scene.victim.counts["rejected"] == 3)
    assert scene.score(attacker) < scene.victim.router.params.score.graylist_threshold
    await attacker.send(Rpc(messages=(attacker.message(sequence=scene.sequence()),)))
    assert await attacker.is_reset(), "nobody listens to it any more"
    genuine = make_message(
        TOPIC, b"true", scene.swarms["honest"].peer_id, true + 1, scene.swarms["honest"].sign
    )  # the very name that was forged
    scene.victim._tell(
        scene.victim.router.receive(scene.swarms["honest"].peer_id, Rpc(messages=(genuine,)), 0.0, scene.wall_now())
    )
    assert (await anext(scene.got)).data == b"true"
    await scene.still_works()


async def test_unsigned_messages_and_such_without_author_or_number_are_rejected(scene: Scene) -> None:
    attacker = await scene.attacker()
    good = attacker.message(sequence=scene.sequence())
    bad = [
        dataclasses.replace(good, signature=b""),
        dataclasses.replace(good, source=b""),
        dataclasses.replace(good, seqno=b""),
        dataclasses.replace(good, seqno=b"\0" * 9),
        dataclasses.replace(good, source=b"\x12\x20" + b"x" * 32),  # a key is needed and missing
        dataclasses.replace(good, source=b"nonsense"),
    ]
    await attacker.send(Rpc(messages=tuple(bad)))
    await until(lambda: scene.victim.counts["rejected"] == len(bad))
    await scene.still_works()


async def test_a_message_from_another_than_its_key_is_rejected(scene: Scene) -> None:
    attacker = await scene.attacker()
    other = Ed25519PrivateKey.from_private_bytes(scene.rng.randbytes(32))
    named = PeerId.from_public_key(other.public_key())
    ours = encode_public_key(attacker._key.public_key())
    with_our_key = make_message(TOPIC, b"false", named, scene.sequence(), attacker._key.sign, ours)
    without = make_message(TOPIC, b"false", named, scene.sequence(), attacker._key.sign)
    with_its_key = dataclasses.replace(without, key=encode_public_key(other.public_key()))
    await attacker.send(Rpc(messages=(with_our_key, without, with_its_key)))
    await until(lambda: scene.victim.counts["rejected"] == 3)
    await scene.still_works()


async def test_what_is_said_to_be_from_the_victim_itself_is_dropped(scene: Scene) -> None:
    attacker = await scene.attacker()
    victim = scene.swarms["victim"]
    own = make_message(TOPIC, b"an earlier life", victim.peer_id, scene.sequence(), victim.sign)
    await attacker.send(Rpc(messages=(own,)))
    await until(lambda: scene.victim.counts["own"] == 1)
    await scene.still_works()


async def test_nobody_can_forge_the_sign_of_a_second_node_with_the_victims_key(scene: Scene) -> None:
    attacker = await scene.attacker()
    victim = scene.swarms["victim"]
    forged = make_message(TOPIC, b"false", victim.peer_id, scene.sequence(), attacker._key.sign)
    old = make_message(TOPIC, b"said long ago", victim.peer_id, scene.sequence() - int(600e9), victim.sign)
    await attacker.send(Rpc(messages=(old, forged)))
    await until(lambda: scene.victim.counts["rejected"] == 1)
    assert scene.victim.counts["own"] == 0 and scene.victim.counts["replayed"] == 1
    await scene.still_works()


async def test_a_flood_of_messages_is_read_only_as_fast_as_a_peer_may_speak(scene: Scene) -> None:
    attacker = await scene.attacker()
    count, loop = int(MESSAGES_BURST) + 3000, asyncio.get_running_loop()
    whole = [attacker.message(b"", sequence=scene.sequence() + number) for number in range(count)]
    forged = [dataclasses.replace(one, topic="nobody.joined") for one in whole]  # cheap to make, and to refuse
    began = loop.time()
    sending = asyncio.create_task(
        attacker.send(*(Rpc(messages=tuple(forged[at : at + 500])) for at in range(0, count, 500)))
    )
    await until(lambda: scene.victim.counts["unwanted_topics"] == count)
    assert loop.time() - began > 0.9 * (count - 500 - MESSAGES_BURST) / MESSAGES_S and scene.victim.counts["slowed"]
    await sending
    await scene.still_works()


async def test_a_relay_cannot_pad_a_signed_message(scene: Scene) -> None:
    attacker = await scene.attacker()
    raw = encode(Rpc(messages=(attacker.message(b"true", sequence=scene.sequence()),)))
    (rpc,) = Frames().receive([raw])
    size, start = varint.decode(rpc, 1) or (0, 0)  # the message within
    padded = rpc[start : start + size] + b"\x7a\xe8\x07" + b"p" * 1000  # field 15, which nobody knows
    body = b"\x12" + varint.encode(len(padded)) + padded
    await attacker.send_raw(varint.encode(len(body)) + body)
    assert (await anext(scene.honest_got)).data == (await anext(scene.got)).data == b"true"
    assert scene.victim.router._history.bytes < 1000
    await scene.still_works()


# -- too large, too often, too late -----------------------------------------------------------------------------------


async def test_an_rpc_that_is_too_large_is_refused_by_its_length(scene: Scene) -> None:
    attacker = await scene.attacker()
    await attacker.send_raw(varint.encode(RPC_BYTES_MAX + 1))
    assert await attacker.is_reset()
    assert scene.victim.counts["malformed"] == 1
    await scene.still_works()


async def test_a_message_that_is_too_large_is_rejected(scene: Scene) -> None:
    attacker = await scene.attacker()
    await attacker.send(Rpc(messages=(attacker.message(bytes(64 * KIB + 1), sequence=scene.sequence()),)))
    await until(lambda: scene.victim.counts["rejected"] == 1)
    with pytest.raises(ValueError, match="65536 bytes"):
        scene.victim.publish(TOPIC, bytes(64 * KIB + 1))
    await scene.still_works()


async def test_half_a_million_empty_things_in_an_rpc_become_no_objects(scene: Scene) -> None:
    floods = (
        b"\x0a\x00" * (RPC_BYTES_MAX // 2 - 8),  # subscriptions
        b"\x12\x00" * (RPC_BYTES_MAX // 2 - 8),  # messages
        b"\x1a\x00" * (RPC_BYTES_MAX // 2 - 8),  # controls
        b"\x7a\x00" * (RPC_BYTES_MAX // 2 - 8),  # fields that nobody knows
        _nested(b"\x0a", b"\x12\x00"),  # names in an IHAVE
        _nested(b"\x12", b"\x0a\x00"),  # names in an IWANT
        _nested(b"\x22", b"\x12\x00"),  # peers in a PRUNE
        b"\x1a" + varint.encode(RPC_BYTES_MAX - 16) + b"\x1a\x00" * (RPC_BYTES_MAX // 2 - 8),  # GRAFTs
    )
    for index, flood in enumerate(floods):
        attacker = await scene.attacker(f"attacker{index}")
        tracemalloc.start()
        await attacker.send_raw(varint.encode(len(flood)) + flood)
        is_reset = await attacker.is_reset()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert is_reset, index
        assert peak < 16 * MIB, index  # the bytes themselves, on both sides
    assert scene.victim.counts["malformed"] == len(floods)
    await scene.still_works()


def _nested(control: bytes, item: bytes) -> bytes:
    """An RPC of nearly the largest size, that holds one control message with as many `item` as fit."""
    items = item * ((RPC_BYTES_MAX - 32) // len(item))
    inner = control + varint.encode(len(items)) + items
    return b"\x1a" + varint.encode(len(inner)) + inner


async def test_garbage_costs_the_stream(scene: Scene) -> None:
    for index in range(8):
        attacker = await scene.attacker(f"attacker{index}")
        garbage = b"\xff" + scene.rng.randbytes(200)
        await attacker.send_raw(varint.encode(len(garbage)) + garbage)
        assert await attacker.is_reset()
    await scene.still_works()


async def test_a_message_that_is_sent_a_thousand_times_is_delivered_once(scene: Scene) -> None:
    attacker = await scene.attacker()
    message = attacker.message(b"once", sequence=scene.sequence())
    for _ in range(10):
        await attacker.send(Rpc(messages=(message,) * 100))
    await until(lambda: scene.victim.counts["duplicates"] == 999)
    assert (await anext(scene.got)).data == (await anext(scene.honest_got)).data == b"once"
    await scene.still_works()


async def test_a_replay_is_refused_after_the_seen_cache_forgot_it(scene: Scene) -> None:
    attacker = await scene.attacker()
    old = [attacker.message(b"old", sequence=scene.sequence() + n) for n in range(10)]
    await attacker.send(Rpc(messages=tuple(reversed(old))))  # disorder is no replay
    for _ in old:
        assert (await anext(scene.got)).data == (await anext(scene.honest_got)).data == b"old"
    await asyncio.sleep(scene.victim.router.params.seen_s + 2)
    assert len(scene.victim.router._seen) == 0
    await attacker.send(Rpc(messages=tuple(old)))
    await until(lambda: scene.victim.counts["replayed"] == 10)
    await attacker.send(Rpc(messages=(attacker.message(b"new", sequence=scene.sequence()),)))
    assert (await anext(scene.got)).data == (await anext(scene.honest_got)).data == b"new"
    await scene.still_works()


async def test_a_sequence_number_far_in_the_future_is_not_taken_and_does_no_harm_later(scene: Scene) -> None:
    attacker = await scene.attacker()
    hour, day = 3600 * 10**9, 86400 * 10**9
    for ahead in (hour, day, (1 << 64) - 1 - scene.sequence()):
        await attacker.send(Rpc(messages=(attacker.message(sequence=scene.sequence() + ahead - 10**9),)))
    await until(lambda: scene.victim.counts["from_the_future"] == 3)
    await asyncio.sleep(scene.victim.router.params.seen_s + 2)
    await attacker.send(Rpc(messages=(attacker.message(b"of now", sequence=scene.sequence()),)))
    assert (await anext(scene.got)).data == (await anext(scene.honest_got)).data == b"of now"
    await scene.still_works()


# -- floods of control ------------------------------------------------------------------------------------------------


async def test_a_flood_of_ten_thousand_topics_is_cut_short(scene: Scene) -> None:
    attacker = await scene.attacker()
    names = [f"topic{n}" for n in range(10_000)]
    for start in range(0, len(names), 1000):
        await attacker.send(Rpc(subscriptions=tuple((name, True) for name in names[start : start + 1000])))
    counts = scene.victim.counts
    await until(lambda: counts["topics_refused"] + counts["subscriptions_ignored"] >= 10_000 - TOPICS_PER_PEER_MAX)
    assert len(scene.victim.topics()) == TOPICS_PER_PEER_MAX
    greedy = await scene.attacker("greedy")
    await greedy.send(Rpc(subscriptions=tuple((name, True) for name in names)))  # all at once
    assert await greedy.is_reset()
    await attacker.swarm.close()
    await until(lambda: len(scene.victim.topics()) <= 2)
    await scene.still_works()


async def test_topics_with_names_that_are_none_cost_the_stream(scene: Scene) -> None:
    for index, name in enumerate(("", "x" * 257, "line\nfeed", "\x1b[2J")):
        attacker = await scene.attacker(f"attacker{index}")
        await attacker.send(Rpc(subscriptions=((name, True),)))
        assert await attacker.is_reset()
    await scene.still_works()


async def test_a_flood_of_ihave_is_bounded_and_its_broken_promises_end_in_the_graylist(scene: Scene) -> None:
    attacker = await scene.attacker()
    for _ in range(8):  # half a heartbeat each
        for _ in range(10):
            bogus = tuple(attacker.id.multihash + scene.rng.randbytes(8) for _ in range(1000))
            await attacker.send(Rpc(have=(Have(TOPIC, bogus),)))
        await asyncio.sleep(0.5)
    asked = sum(len(rpc.want) for rpc in attacker.got)
    assert 0 < asked <= 6 * WANTED_MAX
    assert scene.victim.counts["haves_ignored"] >= 40
    await until(lambda: scene.victim.router.is_graylisted(attacker.id))
    assert scene.victim.counts["promises_broken"] >= 9
    assert scene.score(attacker) < scene.victim.router.params.score.graylist_threshold
    await scene.still_works()


async def test_a_flood_of_iwant_gets_each_message_three_times(scene: Scene) -> None:
    attacker = await scene.attacker()
    id, _ = scene.victim.publish(TOPIC, bytes(10 * KIB))
    await anext(scene.honest_got)
    for _ in range(20):
        await attacker.send(Rpc(want=(id,) * 1000))
        await asyncio.sleep(0.1)
    sent = sum(message.id == id for rpc in attacker.got for message in rpc.messages)
    assert sent <= 1 + scene.victim.router.params.want_answers  # once when it was published
    assert scene.victim.counts["wants_ignored"] > 10_000
    await scene.still_works()


async def test_a_flood_of_idontwant_is_bounded(scene: Scene) -> None:
    attacker = await scene.attacker()
    for _ in range(20):
        await attacker.send(Rpc(unwanted=tuple(scene.rng.randbytes(44) for _ in range(1000))))
    await until(lambda: scene.victim.counts["unwanted_ignored"] > 10_000)
    peer = scene.victim.router.peers.get(attacker.id)
    assert peer is not None and len(peer.has) <= 3 * UNWANTED_MAX
    await asyncio.sleep(5)
    assert peer.has == {}
    await scene.still_works()


async def test_grafts_during_back_off_end_in_the_graylist(scene: Scene) -> None:
    attacker = await scene.attacker()
    await until(lambda: attacker.id in scene.victim.mesh(TOPIC))
    await attacker.send(Rpc(prune=(Prune(TOPIC, backoff_s=60),)))
    await until(lambda: attacker.id not in scene.victim.mesh(TOPIC))
    for _ in range(10):
        await attacker.send(Rpc(graft=(TOPIC,)))
        await asyncio.sleep(0.1)
    assert scene.victim.counts["grafts_in_backoff"] >= 4
    assert attacker.id not in scene.victim.mesh(TOPIC)
    assert scene.score(attacker) < scene.victim.router.params.score.graylist_threshold
    await scene.still_works()


async def test_grafts_for_unknown_topics_are_not_answered(scene: Scene) -> None:
    attacker = await scene.attacker()
    await asyncio.sleep(2)
    attacker.got.clear()
    for n in range(10):
        await attacker.send(Rpc(graft=tuple(f"unknown{n}.{m}" for m in range(6))))
    await until(lambda: scene.victim.counts["grafts_ignored"] == 60)
    await asyncio.sleep(2)
    assert not [rpc for rpc in attacker.got if rpc.prune or rpc.graft]
    assert [row.topic for row in scene.victim.topics()] == [TOPIC]
    await attacker.send(Rpc(graft=tuple(f"unknown{n}" for n in range(5_000))))
    await until(lambda: scene.victim.router.is_graylisted(attacker.id))
    await scene.still_works()


async def test_peers_named_in_a_prune_are_believed_of_good_peers_only_and_sixteen_of_them(rng: random.Random) -> None:
    named: list[tuple[str, int]] = []
    trusted: list[PeerId] = []
    async with AsyncExitStack() as life:
        scene = Scene(rng, life)
        await scene.set_up(
            on_peer_exchange=lambda topic, peers, source: named.append((topic, len(peers))),
            app_score=lambda peer: 10.0 if peer in trusted else 0.0,
        )
        attacker = await scene.attacker()
        others = [b"\x00\x24\x08\x01\x12\x20" + rng.randbytes(32) for _ in range(1000)]
        prune = Prune(TOPIC, (b"nonsense", *others), 1)
        await attacker.send(Rpc(prune=(prune,)))
        await until(lambda: scene.victim.counts["exchanges_ignored"] == 1)
        assert named == []
        trusted.append(attacker.id)
        await attacker.send(Rpc(prune=(prune,)))
        await until(lambda: named)
        assert named == [(TOPIC, 15)], "of the first sixteen, one was nonsense"
        million = Prune(TOPIC, tuple(others) * 26, 1)  # a million do not fit into an RPC; these are a mebibyte
        await attacker.send(Rpc(prune=(million,)))
        assert await attacker.is_reset()
        assert len(named) == 1
        await scene.still_works()


# -- streams ----------------------------------------------------------------------------------------------------------


async def test_a_slow_reader_loses_messages_and_nobody_else_does(scene: Scene) -> None:
    attacker = await scene.attacker(does_read=False)
    await asyncio.sleep(2)
    got = []
    for n in range(200):
        scene.victim.publish(TOPIC, n.to_bytes(2) + bytes(32 * KIB))
        got.append(int.from_bytes((await anext(scene.honest_got)).data[:2]))
    assert got == list(range(200))
    peer = scene.victim.router.peers.get(attacker.id)
    assert peer is not None and OUTBOX_BYTES_MAX // 2 < peer.outbox.bytes <= OUTBOX_BYTES_MAX
    assert scene.victim.counts["dropped_messages"] > 100
    await scene.still_works()


async def test_many_streams_of_one_peer_leave_two_and_cost_its_score(scene: Scene) -> None:
    attacker = await scene.attacker()
    connection = attacker.stream.connection
    for _ in range(50):
        with contextlib.suppress(Libp2pError):  # a few, and none is taken any more
            stream = await connection.open_stream(PROTOCOLS)
            await stream.write(encode(Rpc(subscriptions=(("another", True),))))
        await asyncio.sleep(0.02)
    assert len(scene.victim._inbound.streams.get(attacker.id, ())) <= INBOUND_STREAMS_MAX
    assert scene.victim.counts["streams_refused"] >= 40
    assert scene.victim.router.is_graylisted(attacker.id)
    await scene.still_works()


async def test_an_rpc_that_never_ends_costs_the_stream(scene: Scene) -> None:
    attacker = await scene.attacker()
    await attacker.send_raw(varint.encode(1000) + b"\x0a")
    await asyncio.sleep(RPC_S_MAX / 2)
    await attacker.send_raw(b"\x00")  # a byte now and then buys no time
    await asyncio.sleep(RPC_S_MAX / 2 + 1)
    assert await attacker.is_reset(0.1)
    await scene.still_works()


async def test_unfinished_rpcs_of_many_share_a_budget(scene: Scene) -> None:
    size = RPC_BYTES_MAX - 10
    attackers = [await scene.attacker(f"attacker{n}") for n in range(HELD_BYTES_MAX // size + 4)]
    for attacker in attackers:
        await attacker.send_raw(varint.encode(size + 5) + bytes(size))
    await until(lambda: scene.victim.counts["evictions"] >= 3)
    assert sum(frames.held for frames in scene.victim._inbound.held.values()) <= HELD_BYTES_MAX
    await scene.still_works()


async def test_bytes_on_the_victims_own_stream_are_dropped(scene: Scene) -> None:
    attacker = await scene.attacker()
    (raw,) = [raw for raw in attacker.stream.connection.streams if raw is not attacker.stream.raw and not raw.is_reset]
    attacker.stream.connection.session.send(raw, (bytes(MIB),))
    attacker.stream.connection.schedule_flush()
    await until(lambda: scene.victim.counts["bytes_on_a_wrong_stream"] > 0)
    await scene.still_works()


async def test_a_colocated_crowd_scores_below_zero(rng: random.Random) -> None:
    async with AsyncExitStack() as life:
        scene = Scene(rng, life)
        await scene.set_up(params=Params(score=ScoreParams(colocation_threshold=2)))
        for name in ("one", "two", "three"):
            swarm, key = await scene.swarm(name)
            swarm._transports[0]._address = Multiaddr.of(("memory", "gateway"))  # type: ignore[attr-defined]
            await Attacker(swarm, key, scene.swarms["victim"]).begin()
        await until(lambda: len(scene.victim.peers(TOPIC)) == 4)
        assert sum(scene.victim.score(peer) < 0 for peer in scene.victim.peers(TOPIC)) == 3
        await asyncio.sleep(2)
        assert scene.victim.mesh(TOPIC) == [scene.swarms["honest"].peer_id]
        await scene.still_works()
