"""`rage discovery serve` as a real process, with a real swarm that dials back, over TCP on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rage_net import home as homes
from rage_net.discovery.client import About, Client
from rage_net.discovery.registry import Registry
from rage_net.env import SystemEnv
from rage_net.home import Home
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.swarm import Swarm
from rage_net.web import Web

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
BEAT = {"heartbeat_interval_s": 30.0}


class Process:
    """One home, and the server in it."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.running: subprocess.Popen[str] | None = None

    def start(self) -> dict[str, Any]:
        environ = {name: text for name, text in os.environ.items() if not name.startswith("RAGE_")}
        with (self.home.root / "server.err").open("ab") as log:
            self.running = subprocess.Popen(
                [
                    *(sys.executable, "-m", "rage_cli", "--home", str(self.home.root), "--json"),
                    *("discovery", "serve", "--listen", "127.0.0.1:0"),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env=environ,
            )
        assert self.running.stdout is not None
        line = self.running.stdout.readline()
        assert line, (self.home.root / "server.err").read_text()
        return json.loads(line)  # type: ignore[no-any-return]

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.running is not None and self.running.stdout is not None
        self.running.send_signal(number)
        code = self.running.wait(15)
        self.running.stdout.close()
        self.running = None
        return code


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    home = Home(tmp_path / "home")
    homes.init(home)
    process = Process(home)
    try:
        yield process
    finally:
        if process.running is not None:
            process.stop(signal.SIGKILL)


@asynccontextmanager
async def node(rng: random.Random, url: str) -> AsyncIterator[tuple[Swarm, Client]]:
    """A peer that listens on loopback, and its client of one server."""
    key, env = Ed25519PrivateKey.from_private_bytes(rng.randbytes(32)), SystemEnv()
    try:
        async with Swarm(key, agent_version="test/1") as swarm, Web() as web:
            await swarm.listen(Multiaddr.parse("/ip4/127.0.0.1/tcp/0"))
            yield swarm, Client([url], key, web, env)
    finally:
        env.close()


def metrics(status: dict[str, Any]) -> str:
    with urllib.request.urlopen(status["http"][-1] + "/metrics", timeout=10) as answer:
        return answer.read().decode()  # type: ignore[no-any-return]


async def wait_checked(status: dict[str, Any], word: str) -> None:
    """Until the first dial-back with that outcome is through."""
    async with asyncio.timeout(10):
        while f'rage_discovery_checks_total{{reachable="{word}"}} 1.0' not in await asyncio.to_thread(metrics, status):
            pass


async def reachable(client: Client, peer_id: PeerId) -> bool | None:
    """What the server lists of a peer."""
    return {peer.listed.peer_id: peer.listed.reachable for peer in (await client.peers()).peers}[peer_id]


async def test_nodes_register_are_dialled_back_and_find_each_other_and_sigterm_ends_it(
    process: Process, rng: random.Random
) -> None:
    status = process.start()
    url = status["http"][0]
    assert status["peer_id"] == str(PeerId.from_public_key(homes.load_identity(process.home.identity).public_key()))
    async with node(rng, url) as (swarm, one), node(rng, url) as (deaf, two):
        (row,) = await one.register(About(addresses=tuple(swarm.listen_addresses())), **BEAT)
        assert row.error is None and row.observed == "127.0.0.1"
        await wait_checked(status, "yes")
        assert await reachable(two, one.peer_id) is True
        # Another peer answers at this address: proved is who is there, not only that somebody is.
        (row,) = await two.register(About(addresses=tuple(swarm.listen_addresses())), **BEAT)
        assert row.error is None
        await wait_checked(status, "no")
        assert await reachable(one, two.peer_id) is False
        found = await two.bootstrap()
        connection = await deaf.dial(found.peers[0].listed.peer_id, found.peers[0].listed.addresses)
        assert connection.peer_id == swarm.peer_id
    for path in ("/healthz", "/readyz"):
        with urllib.request.urlopen(url + path, timeout=10) as answer:
            assert answer.status == 200
    began = time.monotonic()
    assert process.stop() == 0
    assert time.monotonic() - began < 10


async def test_a_server_that_is_killed_keeps_what_it_knew_and_one_that_begins_empty_learns_it_anew(
    process: Process, rng: random.Random
) -> None:
    status = process.start()
    async with node(rng, status["http"][0]) as (swarm, client):
        about = About(addresses=tuple(swarm.listen_addresses()))
        (row,) = await client.register(about, **BEAT)
        assert row.error is None
        await wait_checked(status, "yes")
        process.stop(signal.SIGKILL)
        again = process.start()
        assert 'rage_discovery_peers{reachable="yes"} 1.0' in metrics(again)
        process.stop()
        for path in process.home.root.glob("discovery.db*"):
            path.unlink()
        again = process.start()
        assert 'rage_discovery_peers{reachable="yes"} 0.0' in metrics(again)
        later = Client([again["http"][0]], client._key, client._web, client._env)
        (row,) = await later.register(about, **BEAT)
        assert row.error is None
        await wait_checked(again, "yes")
    process.stop()
    registry = Registry(process.home.root / "discovery.db")
    assert registry.get(client.peer_id, time.time()) is not None
    registry.close()


def test_a_home_that_is_in_use_or_a_registry_that_is_newer_is_refused(process: Process) -> None:
    process.start()
    second = Process(process.home)
    with pytest.raises(AssertionError, match="in use by discovery server"):
        second.start()
    assert second.running is not None and second.running.stdout is not None
    second.running.wait(10)
    second.running.stdout.close()
