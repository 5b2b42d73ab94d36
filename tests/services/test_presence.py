"""Who is listened to on the global topic, and how often: under a clock of its own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from rage_lab.sim.env import SimulatedEnv
from rage_lab.sim.virtual_loop import VirtualLoop
from rage_net import keys, liveness, messages
from rage_net.libp2p.gossipsub import Message, Verdict
from rage_net.libp2p.peer_id import PeerId
from rage_net.messages import Heartbeat, NodeInfo, PeerAnnouncement
from rage_net.services import presence
from rage_net.services.presence import Presence, Self

pytestmark = pytest.mark.anyio

BEAT = messages.encode_gossip(Heartbeat(NodeInfo()))
ANNOUNCEMENT = messages.encode_gossip(PeerAnnouncement(NodeInfo()))


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"loop_factory": VirtualLoop}


class Ear:
    """A presence that is given messages by hand, in a network of `nodes`."""

    def __init__(self, rng: random.Random, nodes: int = 3) -> None:
        self._rng, self.nodes = rng, nodes
        self._judge: Callable[[Any], Verdict]
        pubsub: Any = SimpleNamespace(subscribe=self._subscribe)
        Presence(
            pubsub,
            SimulatedEnv("ear"),
            describe=lambda: Self(NodeInfo(), (), ()),
            note=lambda peer, said: None,
            learn=lambda peer, addresses, source: None,
            nodes=lambda: self.nodes,
            may_speak=lambda peer: True,
        )

    def _subscribe(self, topic: str, judge: Callable[[Message], Verdict]) -> None:
        self._judge = judge

    def author(self) -> PeerId:
        return PeerId.from_public_key(keys.generate(self._rng).public_key())

    def hears(self, author: PeerId, data: bytes = BEAT) -> bool:
        return self._judge(SimpleNamespace(author=author, data=data)) is Verdict.ACCEPT


async def test_a_flood_of_new_authors_is_passed_on_slowly_and_silences_nobody_known(rng: random.Random) -> None:
    ear = Ear(rng)
    known = [ear.author() for _ in range(20)]
    assert all(map(ear.hears, known))
    seconds = 60
    heard = 0
    for _ in range(seconds):
        await asyncio.sleep(1)
        heard += sum(ear.hears(ear.author()) for _ in range(100))
    assert heard <= presence.NEWCOMERS_BURST + seconds * presence.NEWCOMERS_PER_S
    assert all(map(ear.hears, known))


async def test_many_authors_together_say_no_more_than_twice_what_the_network_bears(rng: random.Random) -> None:
    ear = Ear(rng, nodes=900)
    authors = [ear.author() for _ in range(900)]
    assert all(map(ear.hears, authors))
    heard, seconds = 0, 200
    for _ in range(seconds):
        await asyncio.sleep(1)
        heard += sum(map(ear.hears, authors))
    assert heard <= 2.1 * liveness.HEARTBEATS_PER_S * seconds


async def test_an_announcement_after_a_heartbeat_is_heard_in_a_large_network_too(rng: random.Random) -> None:
    ear = Ear(rng, nodes=4000)
    author = ear.author()
    assert ear.hears(author)
    await asyncio.sleep(1)
    assert ear.hears(author, ANNOUNCEMENT) and not ear.hears(author)
    await asyncio.sleep(presence.ANNOUNCE_S_MIN)
    assert ear.hears(author, ANNOUNCEMENT)
