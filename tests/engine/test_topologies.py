"""The specification's topologies, each as `rage init --profile` makes it, on whole engines in one simulated world."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rage_cli.profiles import settings_of
from rage_lab.sim.geography import REGIONS
from rage_lab.sim.node import Node
from rage_lab.sim.organizations import Organization
from rage_lab.sim.world import World, play, unreplicated
from rage_net.errors import AccessDeniedError, RageError
from rage_net.libp2p.transport.memory import MemoryLink
from rage_net.messages import CHUNK_PROTOCOL, SYNC_PROTOCOL
from rage_net.verbs.acl import GrantAcl
from rage_net.verbs.trust import AddTrust, ProbeTrust

Play = Callable[[Callable[[World], Awaitable[Any]]], Any]


@pytest.fixture
def run(rng: random.Random, tmp_path: Path) -> Play:
    """Play a scenario once; a failure names its seed."""
    seed = rng.getrandbits(32)
    return lambda scenario: play(unreplicated(scenario), seed, tmp_path).result


def flags(profile: str, hub: str = "", tags: Sequence[str] = ()) -> dict[str, Any]:
    """What the profile writes into network.yaml."""
    settings = settings_of(profile, hub, tags)
    return {f"network.{key}": _word(value) for key, value in settings.items() if key != "libp2p.bootstrap_peers"}


def _word(value: Any) -> Any:
    return value if isinstance(value, list) else str(value).lower() if isinstance(value, bool) else str(value)


def names(node: Node) -> set[str]:
    """Documents that a node knows of, living ones."""
    log = node.engine.metadata.log
    return {row.name for organization in log.organizations() for row in log.documents(organization) if not row.is_dead}


def epochs(nodes: Sequence[Node], organization: str) -> set[str]:
    return {node.engine.metadata.log.digest(organization) for node in nodes}


def test_one_organisation_in_several_regions_agrees_on_everything(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        first = await world.node("node0", organization=acme, region=REGIONS[0], flags=flags("single-org"))
        nodes = [first]
        for number in range(1, 6):
            region = REGIONS[number % len(REGIONS)]
            nodes.append(
                await world.node(
                    f"node{number}", organization=acme, region=region, bootstrap=[first], flags=flags("single-org")
                )
            )
        await asyncio.sleep(40)
        root = await nodes[3].put(world.random.randbytes(60_000), "handbook.md", "org")
        took = await world.until(
            lambda: all(names(node) == {"handbook.md"} for node in nodes), within_s=2, what="known"
        )
        assert took <= 2
        assert (await nodes[5].get("handbook.md")).data and root
        await world.until(lambda: len(epochs(nodes, "acme")) == 1, within_s=2, what="all hold the same")

    run(scenario)


def test_a_federation_of_queries_alone_opens_queries_alone_and_the_third_gets_nothing(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme, birch, crow = (Organization(name, world.seed) for name in ("acme", "birch", "crow"))
        admin = ("storage", "admin", "federation")
        settings = flags("federation")
        a1 = await world.node("a1", organization=acme, capabilities=admin, flags=settings)
        a2 = await world.node("a2", organization=acme, bootstrap=[a1], flags=settings)
        b1 = await world.node("b1", organization=birch, capabilities=admin, flags=settings)
        b2 = await world.node("b2", organization=birch, bootstrap=[b1], flags=settings)
        c1 = await world.node("c1", organization=crow, flags=settings)
        await a1.run(AddTrust("birch", ca=birch.pem, scopes=("query",)))
        await b1.run(AddTrust("acme", ca=acme.pem, scopes=("query",)))
        await asyncio.sleep(20)
        data = world.random.randbytes(40_000)
        root = await a2.put(data, "plan.md", "federated")
        await world.until(lambda: names(a1) == {"plan.md"}, within_s=2, what="a1 knows it")
        assert (await a1.get("plan.md")).data == data
        for inner, outer in ((a2, b2), (b2, a2)):  # what admins trust, all nodes of the organisation do
            seen = await inner.run(ProbeTrust(outer.address))
            assert seen.is_trusted and seen.scopes == ("query",), seen
            assert CHUNK_PROTOCOL not in seen.opens and SYNC_PROTOCOL not in seen.opens
        with pytest.raises(RageError):
            await b1.get(root, a2)
        assert names(b1) == set(), "no word of acme's documents reached birch"
        for node in (a1, a2, b1, b2):
            with pytest.raises(AccessDeniedError):
                await c1.connect(node)
        await asyncio.sleep(15)
        assert all(c1.peer_id not in node.peers() for node in (a1, a2, b1, b2))

    run(scenario)


def test_a_hub_shares_all_with_one_spoke_tags_with_another_and_a_third_only_reads(run: Play) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        hub = await world.node("hub", organization=acme, capabilities=("storage", "admin"), flags=flags("hub"))
        full = await world.node("full", organization=acme, bootstrap=[hub], flags=flags("spoke", hub.address))
        selective = await world.node(
            "selective", organization=acme, bootstrap=[hub], flags=flags("spoke-selective", hub.address, ["office-4"])
        )
        reader = await world.node(
            "reader",
            organization=acme,
            bootstrap=[hub],
            capabilities=("search",),
            flags=flags("spoke-read-only", hub.address),
        )
        await asyncio.sleep(20)
        data = world.random.randbytes(40_000)
        await hub.put(data, "all.md", "org")
        await hub.put(data[::-1], "office.md", "org", tags=("office-4",))
        spoken = await full.put(data[::2], "from-full.md", "org")
        spokes = {"all.md", "office.md", "from-full.md"}
        await world.until(lambda: names(full) == names(hub) == names(reader) == spokes, within_s=3, what="all of it")
        await asyncio.sleep(90)
        assert names(selective) == {"office.md"}
        assert (await selective.get("office.md")).data == data[::-1]
        assert (await reader.get("all.md")).data == data
        assert (await reader.get(spoken, full)).data == data[::2], "spokes read from each other"
        with pytest.raises(RageError) as error:
            await reader.put(b"mine", "mine.md", "org")
        assert error.value.id == "read-only"
        talked = [row.peer_id for row in full.online.syncing.rows() if row.synced_at]
        assert set(talked) <= {hub.peer_id, selective.peer_id, reader.peer_id}

    run(scenario)


GRANT_BYTES_MAX = 1024
QUIET = {
    "network.libp2p.dht.enabled": "false",
    "network.libp2p.gossipsub.topics": ["rage.org.{organization_id}", "rage.acl.updates"],
    "network.sync.interval": "1h",
}
"""Nothing that speaks by itself, so that bytes can be told apart."""


def test_a_grant_costs_each_neighbour_a_kibibyte_at_most_and_holds_everywhere_within_two_seconds(run: Play) -> None:
    async def scenario(world: World) -> tuple[float, int]:
        acme = Organization("acme", world.seed)
        nodes = [await world.node("node0", organization=acme, flags=QUIET)]
        for number in range(1, 8):
            nodes.append(await world.node(f"node{number}", organization=acme, bootstrap=[nodes[0]], flags=QUIET))
        await asyncio.sleep(60)
        await nodes[0].put(world.random.randbytes(10_000), "plan.md", "private")
        await asyncio.sleep(20)
        sent: Counter[tuple[str, str]] = Counter()
        observe = world.network.observe
        assert observe is not None

        def count(end: MemoryLink, data: bytes) -> None:
            sent[end.host.name, end.other.host.name] += len(data)
            observe(end, data)

        world.network.observe = count
        usual = []
        for _ in range(4):
            sent.clear()
            await asyncio.sleep(2)
            usual.append(Counter(sent))
        sent.clear()
        began = world.now
        granted = await nodes[0].run(GrantAcl("plan.md", f"peer:{nodes[5].peer_id}", "read"))
        doc_id = granted.resource.removeprefix("doc:")

        def holds(node: Node) -> bool:
            rights = node.engine.metadata.access.access_of("acme", doc_id)
            return rights is not None and bool(rights.grants)

        took = await world.until(lambda: all(map(holds, nodes)), within_s=2, what="the grant holds everywhere")
        await asyncio.sleep(2 - (world.now - began))
        cost = max(sent[link] - min(window[link] for window in usual) for link in sent)
        assert cost <= GRANT_BYTES_MAX, f"{cost} bytes to one neighbour"
        return took, cost

    run(scenario)
