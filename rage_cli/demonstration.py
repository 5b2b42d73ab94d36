"""The demonstration behind `rage demo`: a discovery server and four real nodes on loopback, two documents, one death.

Everything is real: processes, encrypted connections, stores in temporary homes. Nothing stays: nodes and homes are
gone when the context is left, whatever happened. Not here: how the table looks (`commands/demo`).

Source: issue 2, section G; issue 3, "Done when".
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rage_cli import client
from rage_cli.files import FileSink, FileSource
from rage_net import home as homes
from rage_net.errors import DeadlineError, IntegrityError, UnavailableError
from rage_net.home import Home
from rage_net.verbs import Progress
from rage_net.verbs.chunk import GetChunk, PinChunk, PutChunk, PutChunkResult, VerifyChunks
from rage_net.verbs.peer import ListPeers

MIB = 1024 * 1024
TEXT_BYTES = 4 * MIB
ARCHIVE_BYTES = 64 * MIB
SEED = 64

READY_S = 15.0
"""For a node to say that it is ready; it takes about one second."""
VERB_S = 20.0
"""For any one step; the slowest takes about two seconds."""
STOP_S = 5.0
"""For a node to end after SIGTERM, before it is killed."""

EQUAL = "equal, byte for byte"

DEATH_AT = 0.3
"""The share of the archive after which its first holder is killed."""

CONFIG = """\
network:
  version: 1
  http: {listen: null, metrics_listen: null}
  libp2p: {listen_addresses: ["/ip4/127.0.0.1/tcp/0"], mdns: {enabled: false}}
"""
SERVERS = """\
  discovery: {{servers: ["{url}"]}}
"""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened: what, of how many bytes, in which time, and how it ended."""

    what: str
    size: int | None
    seconds: float
    outcome: str


@dataclass(slots=True)
class DemoNode:
    """One node: its home, its process, and where it listens."""

    name: str
    home: Home
    peer_id: str
    process: subprocess.Popen[bytes] | None = None
    address: str = ""

    def connect(self) -> client.Node:
        """A connection to its control socket."""
        node = client.connect(homes.socket_path(self.home), VERB_S)
        if node is None:
            raise UnavailableError(f"the demonstration's node {self.name} does not answer")
        return node

    def kill(self) -> None:
        """End the process at once, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def perform(tell: Callable[[str], None]) -> Iterator[Step]:
    """The steps, as they are done. `tell` is given words before each. Raises IntegrityError if any byte is wrong."""
    with tempfile.TemporaryDirectory(prefix="rage-demo-") as place, _nodes(Path(place)) as nodes:
        server, alpha, beta, gamma, delta = nodes
        started = time.monotonic()
        tell("starting a discovery server and three nodes")
        _start((server,), ["discovery", "serve", "--listen", "127.0.0.1:0"])
        for told in (alpha, beta, gamma, delta):
            with told.home.network_yaml.open("a") as file:
                file.write(SERVERS.format(url=server.address))
        _start((alpha, beta, gamma), ["node", "start"])
        outcome = f"3 nodes ready, told {server.address}"
        yield Step("start a server, alpha, beta, gamma", None, time.monotonic() - started, outcome)
        report, archive = Path(place) / "report.txt", Path(place) / "archive.bin"
        write_text(report, TEXT_BYTES)
        write_archive(archive, ARCHIVE_BYTES)
        roots = []
        for path in (report, archive):
            tell(f"putting {path.name} on alpha")
            found, seconds = _put(alpha, path)
            roots.append(found.root)
            yield Step(
                f"put {path.name} on alpha", found.size, seconds, f"{found.total_chunks} chunks, {_brief(found.root)}"
            )
        tell("copying both to beta")
        begun = time.monotonic()
        for root, path in zip(roots, (report, archive), strict=True):
            _get(beta, root, Path(place) / "beta.out", (alpha,), path)
            with beta.connect() as node:
                node.run(PinChunk(root))
        yield Step("copy both to beta, pin", TEXT_BYTES + ARCHIVE_BYTES, time.monotonic() - begun, EQUAL)
        tell("fetching report.txt on gamma")
        seconds = _get(gamma, roots[0], Path(place) / "report.out", (alpha, beta), report)
        yield Step("get report.txt on gamma", TEXT_BYTES, seconds, EQUAL)
        tell("fetching archive.bin on gamma, and killing alpha midway")
        yield from _get_while_dying(gamma, roots[1], Path(place) / "archive.out", alpha, beta, archive)
        tell("re-hashing gamma's store")
        with gamma.connect() as node:
            checked = node.run(VerifyChunks())
        if checked.bad:
            raise IntegrityError(f"{len(checked.bad)} chunks of gamma's store are bad")
        yield Step("verify gamma's store", checked.bytes, checked.seconds, f"{checked.checked} chunks, none bad")
        tell("starting delta, which is told the server's address alone")
        started = time.monotonic()
        _start((delta,), ["node", "start"])
        seconds = _get(delta, roots[0], Path(place) / "delta.out", (), report)
        with delta.connect() as node:
            peers = node.run(ListPeers()).items
        outcome = f"{EQUAL}; {len(peers)} peers found"
        yield Step("start delta, told the server alone", None, time.monotonic() - started - seconds, "1 node ready")
        yield Step("get report.txt on delta, no peer named", TEXT_BYTES, seconds, outcome)


def _get_while_dying(
    gamma: DemoNode, root: str, out: Path, alpha: DemoNode, beta: DemoNode, original: Path
) -> Iterator[Step]:
    """Fetch from alpha and beta, and kill alpha on the way."""
    given: dict[str, int] = {}
    died_at, died_s = 0, 0.0
    begun = time.monotonic()

    def watch(progress: Progress) -> None:
        nonlocal died_at, died_s
        if not died_at and progress.done > DEATH_AT * ARCHIVE_BYTES:
            died_at, died_s = progress.done, time.monotonic() - begun
            given.update(_received(gamma))
            alpha.kill()

    before = _received(gamma)
    seconds = _get(gamma, root, out, (alpha, beta), original, watch)
    after = {**given, **_received(gamma)}
    gave = {node.name: max(0, after.get(node.peer_id, 0) - before.get(node.peer_id, 0)) for node in (alpha, beta)}
    words = ", ".join(f"{name} gave {size / MIB:.0f} MiB" for name, size in gave.items())
    yield Step(f"  kill alpha at {100 * died_at // ARCHIVE_BYTES} %", None, died_s, words)
    yield Step("get archive.bin on gamma", ARCHIVE_BYTES, seconds, EQUAL)


def _received(node: DemoNode) -> dict[str, int]:
    """Bytes the node has received, by peer."""
    with node.connect() as connection:
        return {row.peer_id: row.bytes_in for row in connection.run(ListPeers()).items}


def _put(node: DemoNode, path: Path) -> tuple[PutChunkResult, float]:
    begun = time.monotonic()
    with node.connect() as connection, FileSource(str(path)) as source:
        found = connection.run(PutChunk(name=path.name, visibility="public", size=source.size), source=source)
    return found, time.monotonic() - begun


def _get(
    node: DemoNode,
    root: str,
    out: Path,
    holders: tuple[DemoNode, ...],
    original: Path,
    watch: Callable[[Progress], None] = lambda progress: None,
) -> float:
    """Fetch, compare with the original, and give the seconds of the fetch."""
    begun = time.monotonic()
    verb = GetChunk(root, peers=tuple(holder.address for holder in holders))
    with node.connect() as connection, FileSink(str(out)) as sink:
        connection.run(verb, sink=sink, progress=watch)
    seconds = time.monotonic() - begun
    if _digest(out) != _digest(original):
        raise IntegrityError(f"{original.name} came out different on {node.name}")
    return seconds


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


def _brief(cid: str) -> str:
    return f"{cid[:11]}...{cid[-4:]}"


# --- nodes ---


@contextmanager
def _nodes(place: Path) -> Iterator[tuple[DemoNode, ...]]:
    """Five homes; whatever process is started for them is gone at the end, the impatient Ctrl-C included."""
    nodes = tuple(_make(place / name, name) for name in ("server", "alpha", "beta", "gamma", "delta"))
    for node in nodes:
        node.home.network_yaml.write_text(CONFIG, "utf-8")
    try:
        yield nodes
    finally:
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        _stop([node.process for node in nodes if node.process is not None])
        signal.signal(signal.SIGINT, previous)


def _make(root: Path, name: str) -> DemoNode:
    from rage_net.libp2p.peer_id import PeerId

    home = Home(root)
    homes.init(home)
    key = homes.load_identity(home.identity)
    return DemoNode(name, home, str(PeerId.from_public_key(key.public_key())))


def _start(nodes: tuple[DemoNode, ...], arguments: list[str]) -> None:
    """Start all, then wait for each one's line: it says where the process is reached."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAGE_")}
    for node in nodes:
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
    deadline = time.monotonic() + READY_S
    for node in nodes:
        assert node.process is not None and node.process.stdout is not None
        if not select.select([node.process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise DeadlineError(f"the demonstration's node {node.name} was not ready within {READY_S:g} s")
        line = node.process.stdout.readline()
        if not line:
            words = (node.home.logs / "node.log").read_text("utf-8", "replace").strip().splitlines()
            raise UnavailableError(f"the demonstration's node {node.name} ended", why=words[-1] if words else "")
        ready = json.loads(line)
        node.address = (ready.get("listen") or ready["http"])[0]


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
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
        for source in sorted(library.rglob("*.py")):
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
