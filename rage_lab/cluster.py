"""A cluster of real `rage node start` processes: one organisation with certificates, and an outsider of another.

Each node has a home, and a host of its own where this machine lets us make network namespaces; else an address of
loopback, and what needs more is left out by name (`Cluster.lacks`). Nodes are told all addresses at the start. Chunks
are small, so that small documents have many. Operators' verbs go to a node over its control socket.
Not here: what is done to nodes (`nemesis`), what they are asked for (`workload`).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rage_cli import client, staging
from rage_net import home as homes
from rage_net.errors import DeadlineError, UnavailableError
from rage_net.home import Home
from rage_net.libp2p.peer_id import PeerId
from rage_net.verbs import Verb

if TYPE_CHECKING:
    from rage_lab.net.lab import Host, Lab

R = TypeVar("R")

NODES = 5
PORT = 4001
READY_S = 45.0
"""For nodes to say that they are ready: six at once on two busy cores."""
STOP_S = 5.0
VERB_S = 15.0
SETTLE_S = 60.0
"""For all nodes to be connected with all others at first."""
POLL_S = 0.25
REGIONS = ("eu", "us", "ap")
CONTROL_CLOCK = "faketime.offset"

CONFIG = """\
network:
  version: 1
  node_id: "{name}"
  region: "{region}"
  http: {{listen: null, metrics_listen: null}}
  libp2p:
    listen_addresses: ["{listen}"]
    bootstrap_peers: [{bootstrap}]
    mdns: {{enabled: false}}
  discovery: {{enabled: false}}
  sync: {{interval: 30s}}
  limits: {{dial_timeout: 5s, request_timeout: 5s}}
  store:
    reserve: 1MiB
    split: {{min_size: 4KiB, target_size: 16KiB, max_size: 64KiB}}
"""
REPLICATION = """\
replication:
  version: 1
  default_factor: {factor}
  grace: 8s
"""
FACTOR = 3


@dataclass(eq=False)
class LabNode:
    """One node: its home, its process while it runs, and where it listens."""

    name: str
    home: Home
    region: str
    ip: str
    port: int
    peer_id: str = ""
    host: Host | None = None
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    """Of its process, besides ours."""
    is_destroyed: bool = False
    """For good: its disk is gone."""
    is_paused: bool = False
    serial: str = ""
    """Of its certificate."""

    @property
    def address(self) -> str:
        """Where it can be dialled, and who is there."""
        return f"/ip4/{self.ip}/tcp/{self.port}/p2p/{self.peer_id}"

    @property
    def is_up(self) -> bool:
        """Whether its process runs, paused or not."""
        return self.process is not None and self.process.poll() is None

    def run(self, verb: Verb[R], *, timeout_s: float = VERB_S, **streams: Any) -> R:
        """A verb, by the control socket. Raises RageError, UnavailableError `node-unreachable` when it does not run."""
        connection = client.connect(homes.socket_path(self.home), timeout_s)
        if connection is None:
            raise UnavailableError(f"{self.name} is not up", id="node-unreachable")
        with connection:
            return connection.run(verb, **streams)

    def kill(self) -> None:
        """End the process as a crash would; a paused one too."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.is_paused = False

    def pause(self) -> None:
        """Its process stands still; the kernel keeps its connections."""
        if self.is_up and self.process is not None:
            self.process.send_signal(signal.SIGSTOP)
            self.is_paused = True

    def resume(self) -> None:
        """It goes on."""
        if self.is_up and self.process is not None:
            self.process.send_signal(signal.SIGCONT)
        self.is_paused = False

    def log(self) -> str:
        """What it has said on standard error, all lives."""
        with contextlib.suppress(FileNotFoundError):
            return (self.home.root.parent / f"{self.name}.log").read_text("utf-8", "replace")
        return ""

    def resident_bytes(self) -> int | None:
        """Memory of its process that is in RAM; None while it does not run."""
        if self.process is None or not self.is_up:
            return None
        with contextlib.suppress(OSError, StopIteration, ValueError):
            lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
            return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024
        return None


class Cluster:
    """Nodes of one organisation, `crow` of another, and the network between them; all is gone at the end.

    `disk` names a node whose home lies on a small file system of its own, made by the caller at `place / name`.
    """

    def __init__(
        self,
        place: Path,
        *,
        nodes: int = NODES,
        seed: int = 0,
        lab: Lab | None = None,
        factor: int = FACTOR,
        config: str = "",
        replication: str = "",
    ) -> None:
        self.place = place
        self.lab = lab
        self._factor = factor
        self._config = config
        self._replication = replication
        self.nodes: list[LabNode] = []
        self.acme = staging.found(place / "ca-acme", "acme")
        crow = staging.found(place / "ca-crow", "crow")
        names = [f"n{number}" for number in range(nodes)]
        made = [self._make(name, number) for number, name in enumerate([*names, "crow"])]
        *self.nodes, self.outsider = made
        self._connect_hosts(made)
        for node in self.nodes:
            self._configure(node, self.nodes)
            self._certify(self.acme, node, "storage", "admin")
        self._configure(self.outsider, self.nodes)
        self._certify(crow, self.outsider, "storage", "admin")

    # --- making ---

    def _make(self, name: str, number: int) -> LabNode:
        home = Home(self.place / name)
        homes.init(home)
        key = homes.load_identity(home.identity)
        peer_id = str(PeerId.from_public_key(key.public_key()))
        region = REGIONS[number % len(REGIONS)]
        if self.lab is None:
            return LabNode(name, home, region, "127.0.0.1", _free_port(), peer_id)
        host = self.lab.host(name)
        return LabNode(name, home, region, host.address, PORT, peer_id, host)

    def _connect_hosts(self, nodes: Sequence[LabNode]) -> None:
        if self.lab is not None and not self.lab.is_joined:
            self.lab.lan(*[node.host for node in nodes if node.host is not None])
            self.lab.route()

    def _configure(self, node: LabNode, known: Sequence[LabNode]) -> None:
        bootstrap = ", ".join(f'"{other.address}"' for other in known if other is not node)
        listen = f"/ip4/{node.ip}/tcp/{node.port}"
        text = CONFIG.format(name=node.name, region=node.region, listen=listen, bootstrap=bootstrap)
        node.home.network_yaml.write_text(text + self._config, "utf-8")
        text = REPLICATION.format(factor=self._factor) + self._replication
        (node.home.config / "replication.yaml").write_text(text, "utf-8")

    @staticmethod
    def _certify(organization: staging.Organization, node: LabNode, *capabilities: str) -> None:
        staged = staging.DemoNode(node.name, node.home, node.peer_id)
        organization.certify(staged, *capabilities)
        node.serial = staged.serial

    def add(self, name: str) -> LabNode:
        """One more node of the organisation, started: it knows all, and none was told of it."""
        node = self._make(name, len(self.nodes))
        if self.lab is not None and node.host is not None:
            self.lab.plug(node.host)
            self.lab.route()
        self._configure(node, [other for other in self.nodes if not other.is_destroyed])
        self._certify(self.acme, node, "storage", "admin")
        self.nodes.append(node)
        self.start(node)
        return node

    # --- lives ---

    @property
    def up(self) -> list[LabNode]:
        """The organisation's nodes whose process runs."""
        return [node for node in self.nodes if node.is_up]

    @property
    def left(self) -> list[LabNode]:
        """The organisation's nodes that were not destroyed."""
        return [node for node in self.nodes if not node.is_destroyed]

    def start(self, *some: LabNode) -> None:
        """Start these, and wait until each is ready. Raises DeadlineError, UnavailableError with its last words."""
        for node in some:
            self.launch(node)
        deadline = time.monotonic() + READY_S
        for node in some:
            self.wait_ready(node, deadline)

    def launch(self, node: LabNode) -> None:
        """Start the process."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAGE_")}
        argv = [sys.executable, "-P", "-m", "rage_cli", "--home", str(node.home.root), "--json", "node", "start"]
        if node.host is not None:
            argv = node.host.command(argv)
        with (node.home.root.parent / f"{node.name}.log").open("ab") as log:
            node.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment | node.environment,
                cwd=self.place,
                start_new_session=True,
            )

    def wait_ready(self, node: LabNode, deadline: float) -> None:
        """Wait for its line."""
        process = node.process
        assert process is not None and process.stdout is not None
        if not select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise DeadlineError(f"{node.name} was not ready within {READY_S:g} s")
        line = process.stdout.readline()
        process.stdout.close()
        if not line:
            words = node.log().strip().splitlines()
            raise UnavailableError(f"{node.name} ended", why=words[-1] if words else "")
        json.loads(line)

    def destroy(self, node: LabNode) -> None:
        """Its machine burns: process and disk are gone for good."""
        node.kill()
        node.is_destroyed = True
        shutil.rmtree(node.home.root, ignore_errors=True)

    def settle(self, within_s: float = SETTLE_S) -> float:
        """Wait until every node that runs is connected with every other; seconds. Raises DeadlineError."""
        from rage_net.errors import RageError
        from rage_net.verbs.peer import ListPeers

        began = time.monotonic()
        wanted = {node.peer_id for node in self.up}
        missing: dict[str, int] = {}
        while time.monotonic() - began < within_s:
            missing = {}
            for node in self.up:
                with contextlib.suppress(RageError):
                    met = {row.peer_id for row in node.run(ListPeers()).items} | {node.peer_id}
                    missing[node.name] = len(wanted - met)
            if len(missing) == len(wanted) and not any(missing.values()):
                return time.monotonic() - began
            time.sleep(POLL_S)
        raise DeadlineError(f"the nodes were not all connected within {within_s:g} s", why=str(missing))

    def close(self) -> None:
        """End every process."""
        for node in (*self.nodes, self.outsider):
            if node.is_paused:
                node.resume()
            if node.is_up and node.process is not None:
                node.process.terminate()
        deadline = time.monotonic() + STOP_S
        for node in (*self.nodes, self.outsider):
            if node.process is None:
                continue
            try:
                node.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                node.kill()
            if node.process.stdout is not None:
                node.process.stdout.close()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
