"""Nodes that replicate, in a simulated world: made, known to each other, and asked who holds what."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rage_lab.sim.env import EPOCH_S, SimulatedEnv
from rage_lab.sim.geography import ip_of
from rage_lab.sim.node import Node, flags_of
from rage_lab.sim.organizations import Organization
from rage_lab.sim.world import World
from rage_net import config
from rage_net import home as homes
from rage_net.chunk import manifest
from rage_net.cid import Cid
from rage_net.engine import Engine
from rage_net.home import Home
from rage_net.libp2p.transport import MemoryTransport
from rage_net.services.replicating import Replicating

Play = Callable[[Callable[[World], Awaitable[Any]]], Any]
MET_S = 120.0
MESH_S = 5.0
"""Gossip has its mesh by then: what is said before reaches some nodes only by the next round of sync."""
HOSTS = 200
"""Where the addresses of commands begin, behind all nodes."""


class Ruled(Organization):
    """An organisation whose nodes are given a replication.yaml; `policies` may change between one node and the next."""

    def __init__(self, name: str, seed: int, policies: str = "") -> None:
        super().__init__(name, seed)
        self.policies = policies

    def certify(self, home: Home, **more: Any) -> None:
        super().certify(home, **more)
        home.config.mkdir(exist_ok=True)
        (home.config / "replication.yaml").write_text(f"replication:\n  version: 1\n{self.policies}", "utf-8")


async def cluster(
    world: World,
    count: int,
    organization: Organization | None = None,
    *,
    prefix: str = "n",
    flags: dict[str, Any] | None = None,
    regions: Sequence[str] = (),
    known: Sequence[Node] = (),
) -> list[Node]:
    """Nodes of one organisation, in regions by turns, that know each other."""
    organization = organization or Organization("acme", world.seed)
    nodes: list[Node] = []
    for number in range(count):
        nodes.append(
            await world.node(
                f"{prefix}{number}",
                region=regions[number % len(regions)] if regions else None,
                organization=organization,
                bootstrap=[*nodes[:2], *known[:2]],
                capabilities=("storage", "admin") if number == 0 else ("storage",),
                flags=flags,
            )
        )
    await world.until(
        lambda: all(len(placed_on(node, nodes)) == count for node in nodes), within_s=MET_S, what="all know all"
    )
    await asyncio.sleep(MESH_S)
    return nodes


def placed_on(node: Node, among: Iterable[Node]) -> list[Node]:
    """The nodes that one would place on."""
    view = replication(node).view
    names = {str(peer) for peer in view.nodes if view.is_candidate(peer)}
    return [each for each in among if each.peer_id in names]


def replication(node: Node) -> Replicating:
    found = node.engine.replicating()
    assert found is not None
    return found


def blocks(node: Node, root: str) -> list[Cid]:
    """All of a document, its manifests too."""
    return list(manifest.blocks(Cid.parse(root), node.engine.store.get))


def durable(nodes: Iterable[Node], cid: Cid) -> set[str]:
    """The nodes that hold a chunk, cache aside."""
    return {node.name for node in nodes if node.is_up and node.engine.store.durable([cid])}


def home(node: Node, cid: Cid, nodes: Iterable[Node]) -> set[str]:
    """Where one node would have it."""
    item = replication(node).inventory.find(cid)
    names = {each.peer_id: each.name for each in nodes}
    return {names[str(peer)] for peer in item.home} if item is not None else set()


def copies(nodes: Sequence[Node], cids: Iterable[Cid]) -> list[int]:
    return [len(durable(nodes, cid)) for cid in cids]


def is_held(nodes: Sequence[Node], cids: Iterable[Cid], count: int) -> bool:
    """Whether every chunk is on so many nodes at least."""
    return all(found >= count for found in copies(nodes, cids))


def is_at_rest(nodes: Sequence[Node], cids: Iterable[Cid], count: int) -> bool:
    """Whether every chunk is where the first node wants it, so many times, and nowhere else."""
    return all(len(found := home(nodes[0], cid, nodes)) == count and durable(nodes, cid) == found for cid in cids)


def lag(node: Node, of: Node) -> float:
    """What a node's metric says of another."""
    return node.engine.metrics.replication_lag._cells.get((node.peer_id, of.peer_id), [0.0])[0]


@asynccontextmanager
async def command(
    world: World, organization: Organization, name: str, bootstrap: Sequence[Node], **flags: Any
) -> AsyncIterator[Engine]:
    """What a command has that opened a home itself, as no node runs there."""
    place: Path = world.nodes[bootstrap[0].name].home.root.parent / name
    env = SimulatedEnv(f"{world.seed}:{name}")
    opened = Home(place)
    homes.init(opened, generator=env.random)
    organization.certify(opened, region="eu", capabilities=("storage",), now=EPOCH_S + world.now)
    ip = ip_of(HOSTS + len(name))
    world.geography.place(ip, "eu")
    settings = flags_of("eu", [node.address for node in bootstrap], flags) | organization.flags()
    async with Engine.open(
        opened,
        config=config.load(opened.root, environ={}, flags=settings),
        env=env,
        transports=[MemoryTransport(world.network, ip)],
    ) as engine:
        yield engine


def data(rng: random.Random, size: int = 80_000) -> bytes:
    """Some five chunks and their manifest."""
    return rng.randbytes(size)


async def rest(seconds: float) -> None:
    """Virtual time goes by."""
    await asyncio.sleep(seconds)
