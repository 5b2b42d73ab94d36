"""Plays that repeat exactly: `python -m rage_lab.sim NAME SEED` runs one and prints what came of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from rage_lab.sim import churn
from rage_lab.sim.node import Collect, Node
from rage_lab.sim.world import Scenario, World
from rage_net.errors import RageError

SETTLE_S = 30.0
"""For nodes to meet, and for roots to be announced."""
SILENT: dict[str, Any] = {"network.libp2p.gossipsub.topics": []}
"""For nodes whose heartbeats do not matter: at many they are most of the work."""
DIES_AT = 300_000
"""Bytes that the reader has when the first holder goes."""


@dataclass(frozen=True)
class Download:
    """What became of a document that two nodes held, one of which went midway."""

    is_whole: bool
    sources: dict[str, int]
    gave: dict[str, int]
    seconds: float


async def a_holder_leaves(world: World) -> Download:
    """Alpha's document is fetched and pinned by beta, then fetched by gamma from both while alpha stops midway."""
    return await _outlive(world, has_notice=True)


async def a_holder_vanishes(world: World) -> Download:
    """The same, and alpha goes without a word."""
    return await _outlive(world, has_notice=False)


async def _outlive(world: World, *, has_notice: bool) -> Download:
    alpha, beta, gamma = [await world.node(name) for name in ("alpha", "beta", "gamma")]
    data = world.random.randbytes(1_500_000)
    root = await alpha.put(data)
    await beta.get(root, alpha)
    await beta.pin(root)
    sink = Collect(DIES_AT)

    async def end() -> None:
        await sink.has_enough.wait()
        if has_notice:
            await world.leave(alpha)
        else:
            world.vanish(alpha)

    sent = {node.name: node.engine.metrics.bytes_sent for node in (alpha, beta)}
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(end())
        got = await gamma.get(root, alpha, beta, sink=sink)
    gave = {
        name: int(sum(cell[0] for labels, cell in counter.read().items() if labels[0] == gamma.peer_id))
        for name, counter in sent.items()
    }
    return Download(got.data == data, got.sources, gave, got.seconds)


@dataclass(frozen=True)
class Gets:
    """How many downloads were tried, and what became of those that failed."""

    tried: int
    failures: tuple[str, ...]


async def a_rough_day(world: World) -> Gets:
    """Everything at once, to six nodes with a document each on three; then everyone fetches everything.

    30 % go, about half of them without notice, and come back; two stand still; a third is parted from the others for a
    while; one packet in a hundred is lost.
    """
    world.geography.loss = 0.01
    first = await world.node("n0")
    nodes = [first] + [await world.node(f"n{number}", bootstrap=[first]) for number in range(1, 6)]
    documents = await spread(world, nodes, copies=3, size=40_000)
    names = [node.name for node in nodes]
    begin_s, rng = world.now, world.random
    changes = churn.departures(rng, names[1:], share=0.3, begin_s=begin_s, over_s=15, back_after_s=(20, 40))
    changes += churn.stalls(rng, names, count=2, begin_s=begin_s, over_s=15, for_s=(1, 8))
    changes += churn.partition(rng, names, share=0.3, at_s=begin_s + 5, for_s=12)
    during = [world.random.choice(documents) for _ in nodes]
    following = asyncio.create_task(world.follow(changes))
    for node, document in zip(nodes, during, strict=True):  # some of these may fail, and always the same ones
        await asyncio.sleep(2)
        if node.is_up:
            try:
                await node.get(document.root, *document.holders)
            except RageError as error:
                world.trace.note("failed", node.name, str(error))
    await following
    await world.until(lambda: len(world.up) == len(nodes), within_s=30, what="all are back")
    return await fetch_all(world, documents)


async def churn_of_a_third(world: World) -> Gets:
    """Ten nodes, each document on four; 30 % vanish at once; who remains fetches everything from who remains."""
    first = await world.node("n0")
    nodes = [first] + [await world.node(f"n{number}", bootstrap=[first]) for number in range(1, 10)]
    documents = await spread(world, nodes, copies=4, size=40_000)
    for node in world.random.sample(nodes, 3):
        world.vanish(node)
    return await fetch_all(world, documents)


@dataclass(frozen=True)
class Newcomer:
    """What a node found that was told one address only."""

    gets: Gets
    seconds: tuple[float, ...]


async def a_newcomer_among_strangers(world: World) -> Newcomer:
    """Ten nodes that were told of the first alone, of which three vanish; a newcomer wants what only others have.

    Each of the ten puts a document, which a stranger finds and keeps. The newcomer knows the first, and nobody says
    where the documents are.
    """
    first = await world.node("n0", flags=SILENT)
    nodes = [first] + [await world.node(f"n{number}", bootstrap=[first], flags=SILENT) for number in range(1, 10)]
    await asyncio.sleep(SETTLE_S)
    documents = []
    for node in nodes[1:]:
        data = world.random.randbytes(20_000)
        documents.append(Document(await node.put(data), data, (node,)))
    await asyncio.sleep(SETTLE_S)
    for at, document in enumerate(documents):
        other = world.random.choice([node for node in nodes[1:] if node not in document.holders])
        await other.get(document.root)
        await other.pin(document.root)
        documents[at] = Document(document.root, document.data, (*document.holders, other))
    await asyncio.sleep(SETTLE_S)
    for node in world.random.sample(nodes[1:], 3):
        world.vanish(node)
    left = [document for document in documents if any(holder.is_up for holder in document.holders)]
    seconds, failures = [], []
    for number, document in enumerate(left):
        newcomer = await world.node(f"new{number}", bootstrap=[first], flags=SILENT)
        begin = world.now
        try:
            got = await newcomer.get(document.root)
            if got.data != document.data:
                failures.append(f"{newcomer.name}: wrong bytes")
        except RageError as error:
            failures.append(f"{newcomer.name}: {error} {error.why}")
        seconds.append(world.now - begin)
        await world.leave(newcomer)
    return Newcomer(Gets(len(left), tuple(failures)), tuple(seconds))


@dataclass(frozen=True)
class Document:
    """A public document and who was given it."""

    root: str
    data: bytes
    holders: tuple[Node, ...]


async def spread(world: World, nodes: list[Node], *, copies: int, size: int) -> list[Document]:
    """A document of each node, which `copies` nodes hold, itself among them."""
    documents = []
    for node in nodes:
        data = world.random.randbytes(size)
        root = await node.put(data)
        others = world.random.sample([other for other in nodes if other is not node], copies - 1)
        for other in others:
            await other.get(root, node)
            await other.pin(root)
        documents.append(Document(root, data, (node, *others)))
    return documents


async def fetch_all(world: World, documents: list[Document]) -> Gets:
    """Everyone who is up fetches every document of which a holder is up, and keeps none of it."""
    failures: list[str] = []
    tried = 0

    async def fetch(node: Node, document: Document) -> None:
        try:
            got = await node.get(document.root, *document.holders, keep=False)
            if got.data != document.data:
                failures.append(f"{node.name}: wrong bytes of {document.root}")
        except RageError as error:
            failures.append(f"{node.name}: {error} {error.why}")

    async with asyncio.TaskGroup() as tasks:
        for node in world.up:
            for document in documents:
                if any(holder.is_up for holder in document.holders):
                    tried += 1
                    tasks.create_task(fetch(node, document))
    return Gets(tried, tuple(failures))


SCENARIOS: dict[str, Scenario[Any]] = {
    scenario.__name__: scenario
    for scenario in (a_holder_leaves, a_holder_vanishes, a_rough_day, churn_of_a_third, a_newcomer_among_strangers)
}
