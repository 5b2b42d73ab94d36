"""The jobs between the parts of the network half, when what is named to them is hostile: under a clock of its own."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path
from typing import Any

import pytest

from rage_lab.sim.env import SimulatedEnv
from rage_lab.sim.virtual_loop import VirtualLoop
from rage_net import config, keys
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from rage_net.metrics import Metrics
from rage_net.online.duties import NAMED_MAX, Duties
from rage_net.online.making import describe_about, make_pacing
from tests.services.test_membership import Members, members  # noqa: F401  a fixture

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"loop_factory": VirtualLoop}


async def test_names_on_the_link_that_nobody_answers_for_keep_a_true_one_waiting_for_seconds(
    members: Members,  # noqa: F811
    rng: random.Random,
    tmp_path: Path,
) -> None:
    one, other = await members.make("one"), await members.make("other")
    home: Any = None
    parts = Duties(home, config.load(tmp_path, environ={}), SimulatedEnv("parts"), Metrics(), one.swarm, one, None)
    meeting = asyncio.create_task(parts.meet_named())
    for _ in range(NAMED_MAX):
        nobody = PeerId.from_public_key(keys.generate(rng).public_key())
        parts.hear_mdns(nobody, (Multiaddr.parse("/memory/dead"),))
    await asyncio.sleep(1)
    (address,) = other.swarm.listen_addresses()
    parts.hear_mdns(other.swarm.peer_id, (address,))
    await asyncio.sleep(10)
    assert one.swarm.connection(other.swarm.peer_id) is not None
    meeting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await meeting


@pytest.mark.parametrize("is_private", [False, True])
def test_what_a_node_tells_discovery_servers_follows_the_configuration(tmp_path: Path, is_private: bool) -> None:
    friend = PeerId.from_public_key(keys.generate(random.Random(1)).public_key())
    flags = {
        "network.organization_id": "acme",
        "network.zone": "eu-1a",
        "network.discovery.registration.private": str(is_private).lower(),
        "network.security.trusted_peers": [str(friend)],
    }
    about = describe_about(config.load(tmp_path, environ={}, flags=flags), tuple)
    assert (about.organization_id, about.zone, about.private) == ("acme", "eu-1a", is_private)
    assert about.members == (friend,) and about.capabilities == ("storage",)


def test_the_lanes_of_a_node_follow_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "network.yaml").write_text(
        "bandwidth:\n  limits: {upload_mbps: 8}\n  prioritization:\n"
        "    - {priority: 2, traffic: user_queries, max_bandwidth: 30%}\n"
        "    - {priority: 1, traffic: replication}\n"
    )
    found = config.load(tmp_path, environ={})
    assert found.warnings == ()
    pacing = make_pacing(found, SimulatedEnv("lanes"), Metrics())
    assert pacing.upload.is_limited and not pacing.download.is_limited
    bandwidth = pacing.upload._bandwidth
    assert bandwidth.rate_bytes_s == 1_000_000
    assert list(bandwidth.shares.items()) == [("replication", 1.0), ("user_queries", 0.3), ("background_sync", 1.0)]
    assert not make_pacing(
        config.load(tmp_path / "none", environ={}), SimulatedEnv("lanes"), Metrics()
    ).upload.is_limited
