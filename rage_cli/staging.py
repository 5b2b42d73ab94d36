"""What the demonstration is played with: organisations, each with its CA, real nodes on loopback, and documents.

Homes lie in one temporary directory. Certificates are made as `rage cert` makes them, in this process and without its
questions: the CA's key is encrypted under a passphrase that nobody keeps. Not here: the story (`demonstration`).
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rage_cli import client
from rage_net import certfiles
from rage_net import home as homes
from rage_net.certfiles import CertFiles, RevokedLine
from rage_net.errors import DeadlineError, UnavailableError
from rage_net.home import Home

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MIB = 1024 * 1024
SEED = 64

READY_S = 15.0
"""For nodes to say that they are ready; four at once on two cores take about three seconds."""
VERB_S = 20.0
"""For any one step; the slowest takes about two seconds."""
STOP_S = 5.0
"""For a node to end after SIGTERM, before it is killed."""

CONFIG = """\
network:
  version: 1
  http: {listen: null, metrics_listen: null}
  libp2p: {listen_addresses: ["/ip4/127.0.0.1/tcp/0"], mdns: {enabled: false}}
"""
SERVERS = """\
  discovery: {{servers: ["{url}"]}}
"""
CERTIFIED = """\
  organization_id: "{organization}"
  security: {{ca_cert: "certs/ca.crt", tls_cert: "certs/node.crt", public_access: {public_access}}}
"""

_system = random.SystemRandom()


@dataclass(slots=True)
class DemoNode:
    """One node: its home, its process, where it listens, and the serial of its certificate."""

    name: str
    home: Home
    peer_id: str
    serial: str = ""
    process: subprocess.Popen[bytes] | None = None
    address: str = ""
    http: str = ""
    """The URL of its HTTP door, where it has one."""

    def connect(self, timeout_s: float = VERB_S) -> client.Node:
        """A connection to its control socket."""
        node = client.connect(homes.socket_path(self.home), timeout_s)
        if node is None:
            raise UnavailableError(f"the demonstration's node {self.name} does not answer")
        return node

    def kill(self) -> None:
        """End the process at once, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


# --- organisations ---


@dataclass(frozen=True, slots=True)
class Organization:
    """One organisation: its CA, which lies in a home of its own, and the key that this process has in hand."""

    name: str
    files: CertFiles
    key: Ed25519PrivateKey
    pem: str
    """What its nodes and other organisations are given."""

    def certify(self, node: DemoNode, *capabilities: str, public_access: bool = False) -> None:
        """Request, sign and install: the node is of this organisation from its next start on.

        public_access: strangers, a CDN among them, get what is public of it.
        """
        from rage_net.cert import issue, read_csr

        ca = certfiles.read_ca(self.files)
        identity = homes.load_identity(node.home.identity)
        request = read_csr(issue.make_csr(identity, self.name, "", frozenset(capabilities)))
        made = issue.sign(request, ca, self.key, now=time.time(), serial=issue.draw_serial(_system))
        certfiles.record_issued(self.files, certfiles.line_of(made, ca.serial))
        files = CertFiles.of(node.home)
        certfiles.trust(files, [ca.der])
        certfiles.install_chain(files, [made.der])
        with node.home.network_yaml.open("a") as file:
            file.write(CERTIFIED.format(organization=self.name, public_access=str(public_access).lower()))
        node.serial = made.serial

    def record_revoked(self, node: DemoNode, reason: str) -> None:
        """Remember it where the CA is kept; the organisation's nodes are told by one of them."""
        certfiles.record_revoked(self.files, RevokedLine(node.serial, node.peer_id, time.time(), reason))


def found(place: Path, name: str) -> Organization:
    """An organisation with a new CA, its key encrypted at rest."""
    from rage_net import keys
    from rage_net.cert import issue, pem
    from rage_net.cert.secret import SALT_BYTES

    files = CertFiles.of(Home(place))
    key = keys.generate(_system)
    der = issue.make_ca(name, key, now=time.time(), serial=issue.draw_serial(_system))
    passphrase = _system.randbytes(16).hex().encode()
    certfiles.write_key(files.ca_key, key, passphrase, _system.randbytes(SALT_BYTES))
    certfiles.write_certificates(files.ca_certificate, [der])
    return Organization(name, files, key, pem.encode([der]).decode())


# --- nodes ---


@contextmanager
def nodes(place: Path, names: Sequence[str]) -> Iterator[tuple[DemoNode, ...]]:
    """A home for each; whatever process is started for them is gone at the end, the impatient Ctrl-C included."""
    made = tuple(_make(place / name, name) for name in names)
    try:
        yield made
    finally:
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        _stop([node.process for node in made if node.process is not None])
        signal.signal(signal.SIGINT, previous)


def _make(root: Path, name: str) -> DemoNode:
    from rage_net.libp2p.peer_id import PeerId

    home = Home(root)
    homes.init(home)
    home.network_yaml.write_text(CONFIG, "utf-8")
    key = homes.load_identity(home.identity)
    return DemoNode(name, home, str(PeerId.from_public_key(key.public_key())))


def tell_server(node: DemoNode, server: DemoNode) -> None:
    """Name the discovery server in the node's configuration: all that it is told of the network."""
    with node.home.network_yaml.open("a") as file:
        file.write(SERVERS.format(url=server.address))


def launch(some: Sequence[DemoNode], arguments: Sequence[str]) -> None:
    """Start all; `wait_ready` tells when they are."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAGE_")}
    for node in some:
        command = [sys.executable, "-P", "-m", "rage_cli", "--home", str(node.home.root), "--json", *arguments]
        with (node.home.logs / "node.log").open("wb") as log:
            node.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                cwd=node.home.root,
                start_new_session=True,  # Ctrl-C reaches us alone: we end them in order
            )


def wait_ready(some: Sequence[DemoNode]) -> None:
    """Wait for each one's line: it says where the process is reached. Raises DeadlineError, UnavailableError."""
    deadline = time.monotonic() + READY_S
    for node in some:
        assert node.process is not None and node.process.stdout is not None
        if not select.select([node.process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise DeadlineError(f"the demonstration's node {node.name} was not ready within {READY_S:g} s")
        line = node.process.stdout.readline()
        if not line:
            words = (node.home.logs / "node.log").read_text("utf-8", "replace").strip().splitlines()
            raise UnavailableError(f"the demonstration's node {node.name} ended", why=words[-1] if words else "")
        ready = json.loads(line)
        node.address = (ready.get("listen") or ready["http"])[0]
        node.http = next(iter(ready.get("http") or ()), "")


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + STOP_S
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


# --- documents ---


def write_text(path: Path, size: int) -> None:
    """A real text: the sources of this Python's own library, one after the other, as many bytes as asked for."""
    library = Path(sysconfig.get_path("stdlib"))
    left = size
    with path.open("wb") as out:
        for source in sorted(library.glob("*.py")):
            left -= out.write(source.read_bytes()[:left])
            if not left:
                return
        out.write(b"The library is shorter than it used to be.\n" * (left // 43 + 1))
        out.truncate(size)


def write_archive(path: Path, size: int) -> None:
    """What an archive is like: half of it compresses, half does not. The same bytes every time."""
    noise = random.Random(SEED)  # noqa: S311  a demonstration's bytes
    with path.open("wb") as out:
        for number in range(size // MIB):
            if number % 2:
                out.write(noise.randbytes(MIB))
            else:
                line = b"%06d the quick brown fox jumps over the lazy dog\n" % number
                out.write((line * (MIB // len(line) + 1))[:MIB])
