"""A pretend engine behind the real control socket of a home: what the commands show of a network that is not there."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rage_net import home as homes
from rage_net.control import Control
from rage_net.metrics import Metrics
from rage_net.verbs import Verb, chunk, dht, diagnose, discovery, peer, registry, replication, topic

TIMEOUT_S = 20.0
TURNS = 10

Tell = Callable[[Any], None]


class FakeEngine:
    """Answers each verb as a test has said; `asked` are the verbs that came, `octets` what came with them."""

    def __init__(self) -> None:
        self.answers: dict[type[Verb[Any]], Any] = {}
        self.asked: list[Any] = []
        self.octets = b""
        self.told = threading.Event()
        self.cancelled = threading.Event()

    def answer(self, kind: type[Verb[Any]], result: Any, *items: Any, then: str = "") -> None:
        """Tell `items`, then give `result` (or what it makes of the verb) or raise it.

        With `then="wait"` it waits for ever first.
        """
        self.answers[kind] = (result, items, then)

    async def run(
        self, verb: Any, *, source: Any = None, sink: Any = None, progress: Any = None, tell: Tell | None = None
    ) -> Any:
        self.asked.append(verb)
        if source is not None:
            self.octets = await asyncio.to_thread(_read, source)
        result, items, then = self.answers[type(verb)]
        for item in items:
            assert tell is not None
            tell(item)
        self.told.set()
        if then == "wait":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if callable(result):
            result = result(verb)
        if isinstance(result, BaseException):
            raise result
        return result


def _read(source: Any) -> bytes:
    found, block = bytearray(), bytearray(65_536)
    while size := source.readinto(block):
        found += block[:size]
    return bytes(found)


@pytest.fixture
def engine(home: Path) -> Iterator[FakeEngine]:
    """A node of `home` as its socket shows it, with an engine that says what it is told to."""
    fake = FakeEngine()
    place = homes.Home(home)
    started: list[Any] = []
    ready = threading.Event()

    async def serve() -> None:
        stop = asyncio.Event()
        started.append((asyncio.get_running_loop(), stop))
        path = homes.claim_socket_path(place, {})
        async with Control(fake, registry(), path, random=random.Random(7), metrics=Metrics(), drain_s=0.1):
            ready.set()
            await stop.wait()
        for _ in range(TURNS):  # for connections of commands that were ended to be closed
            await asyncio.sleep(0)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(TIMEOUT_S)
    yield fake
    loop, stop = started[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(TIMEOUT_S)
    assert not thread.is_alive()


ALICE = "12D3KooWQzxvvnGCQCirhig2H2tGeHopQ2roer1gAhLHF3pxqBeD"
BOB = "12D3KooWEaVgV2XRvWMjKpNzM3YQfMZ5vXGZqsR8xMZqsR8xMZqs"
CID = "bafkr4ihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
ADDRESS = "/ip4/192.0.2.7/tcp/4001"

ROW = peer.PeerRow(
    ALICE,
    "connected",
    "outbound",
    (ADDRESS,),
    "rage/0.2",
    ("/ipfs/ping/1.0.0",),
    1.5,
    65.0,
    2,
    1000,
    2000,
    liveness="alive",
    organization="acme",
    region="eu-west",
    zone="a",
    capabilities=("storage",),
    source="dht",
)
FOUND = (
    peer.FoundPeer(ALICE, (ADDRESS,), ("server", "dht"), "acme", "eu-west", ("storage",)),
    peer.FoundPeer(BOB, ("/ip4/192.0.2.8/tcp/4001",), ("mdns",)),
)
WAYS = (
    peer.ViaOutcome("server", 1, 0.2),
    peer.ViaOutcome("dht", 1, 0.5),
    peer.ViaOutcome("mdns", 1, 3.0),
)
CONTACTS = (dht.Contact(ALICE, (ADDRESS,), 240, 12.5), dht.Contact(BOB, (), 251))
TABLE = dht.ShowTableResult(
    ALICE, "server", 2, 3, 7, 1, (dht.Bucket(240, CONTACTS[:1], 3), dht.Bucket(251, CONTACTS[1:], 0))
)
HOPS = (
    dht.Hop(1, 1, ALICE, ADDRESS, 250, "answered", "", 12.34, 4, 0),
    dht.Hop(2, 2, BOB, "/ip4/192.0.2.8/tcp/4001", 243, "timeout", "no answer within 1 s", 1000.0, 0, 0),
)
LOOK_UP = dht.LookUpResult(CID, "cid", CONTACTS, CONTACTS[:1], 12, 1, 3, 1.25)
MESSAGES = (
    topic.TopicMessage("t", ALICE, 7, 1_790_000_000.0, 5, "heartbeat", "free 3 GiB", "aGVsbG8="),
    topic.TopicMessage("t", BOB, 8, 1_790_000_001.0, 2, "unknown", "", "AAE="),
)
TOPICS = (
    topic.TopicRow("rage.global", True, 5, 4, 100, 20, 1, 3),
    topic.TopicRow("team.talk", False, 1, 0, 0, 0, 0, 0),
)
SERVERS = (
    discovery.ServerRow("https://a.example", True, 12.34, 40, True, 81.0, True, ""),
    discovery.ServerRow("https://b.example", False, None, 0, False, None, None, "refused", "server-unreachable"),
)
REGISTERED = (
    discovery.RegisteredPeer(ALICE, (ADDRESS,), "acme", False, "eu-west", ("storage",), True, ("https://a.example",)),
)
PROVIDERS = (
    chunk.ProviderRow(ALICE, "has", ("connected", "dht"), (ADDRESS,), 1.5, ""),
    chunk.ProviderRow(BOB, "unreachable", ("dht",), (), None, "no answer"),
)
STEPS = (
    diagnose.WhyStep("here", "ok", "the store holds 3 of 5 chunks", (), 0.01),
    diagnose.WhyStep("providers", "broken", "the DHT names nobody", ("rage dht providers " + CID,), 1.2),
    diagnose.WhyStep("dial", "skipped", "nobody to dial", (), 0.0),
)
WHY = diagnose.WhyResult(
    CID, "document", False, "cannot be had: the DHT names nobody", "providers", STEPS[1].mend, STEPS
)


REPLICATION = replication.ReplicationStatus(
    *(True, "acme", "geographic_diversity"),
    (replication.NodeRow(ALICE, "acme", "eu-west", "a", 1, "active", "self", False, 1 << 30, 12, 4096, 0.0),),
    (replication.PolicyRow("default", 3, 2, 4, 12, 4096, 36),),
    *(0, 0, 12, 12, 0, 0, (), 1_790_000_000.0, ()),
)
AUDITED = replication.AuditResult(12, 12, 0, 0, 0, 0, 0, 0, 0, True, (), 0.1, 0.5)
PLAN = replication.Plan(
    *("repair", "7f3a", True, "", 1, 1024, 0.5, 1, 0), (replication.Move(CID, ALICE, BOB, 1024, "home"),)
)


def answer_all(engine: FakeEngine) -> None:
    """A good answer to every verb of the network."""
    engine.answer(peer.ListPeers, peer.ListPeersResult((ROW,)))
    engine.answer(peer.DiscoverPeers, peer.DiscoverPeersResult(FOUND, WAYS), *FOUND)
    engine.answer(
        peer.FindPeer, peer.FindPeerResult(ALICE, (ADDRESS,), "dht", False, 0.75, ("server: nobody", "dht: 1 address"))
    )
    engine.answer(peer.BanPeer, peer.BanResult(ALICE, True, 1_790_000_000.0, "rude", was_connected=True))
    engine.answer(peer.UnbanPeer, peer.BanResult(ALICE, False, None, ""))
    engine.answer(
        chunk.ChunkProviders, chunk.ChunkProvidersResult(CID, PROVIDERS, ("connected: 1 has it", "dht: 2 named"))
    )
    engine.answer(topic.ListTopics, topic.ListTopicsResult(TOPICS))
    engine.answer(topic.TailTopic, topic.TailTopicResult("t", 2, 0), *MESSAGES)
    engine.answer(topic.PublishTopic, topic.PublishTopicResult("t", "abcd", 4, 5))
    engine.answer(dht.ShowTable, TABLE)
    engine.answer(dht.FindNearest, LOOK_UP)
    engine.answer(dht.FindProviders, LOOK_UP)
    engine.answer(dht.TraceLookUp, LOOK_UP, *HOPS)
    engine.answer(discovery.ListServers, discovery.ListServersResult(SERVERS[:1]))
    engine.answer(discovery.ListRegistered, discovery.ListRegisteredResult(REGISTERED, ()))
    engine.answer(discovery.Register, discovery.RegisterResult(SERVERS[:1]))
    engine.answer(diagnose.Why, WHY)
    engine.answer(replication.ShowReplication, REPLICATION)
    engine.answer(replication.AuditReplication, AUDITED)
    engine.answer(replication.ListPolicies, replication.ListPoliciesResult((), "none", "", ()))
    engine.answer(
        replication.TestPolicy, replication.PolicyMatch(CID, "", "default", 3, 2, "no selector matches", (), 0.0, ())
    )
    for kind in (replication.PlanReplication, replication.RepairReplication, replication.DrainNode):
        engine.answer(kind, PLAN)
