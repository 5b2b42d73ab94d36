"""What people do to a cluster while things break: put, read, remove; and what an outsider tries; all is noted.

Each is a thread with a client of its own, at a pace that two cores bear. Documents and whom to ask are drawn from the
seed; what a node answers is not.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from rage_lab.checker import Get, History, Outcome, Peek, Put, Remove, digest_of
from rage_lab.cluster import Cluster, LabNode
from rage_net.errors import RageError, StorageFullError
from rage_net.verbs.chunk import GetChunk, PutChunk, RemoveChunk

SIZE = (2_000, 80_000)
"""Of a document: one chunk to five."""
PUT_EVERY_S = 0.5
GET_EVERY_S = 0.25
PEEK_EVERY_S = 0.5
PUT_WAIT_S = 10.0
PUT_S, GET_S, PEEK_S = 12.0, 6.0, 4.0
WAIT = 2
"""Copies that a put waits for, of three."""
REFUSALS = frozenset({"node-unreachable", "usage", "denied", "storage-full"})
"""Answers after which nothing was put, or is promised."""


class Bytes:
    """Bytes as a source."""

    def __init__(self, data: bytes) -> None:
        self._rest = memoryview(data)

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        """Fill the buffer; 0 at the end."""
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


class Into:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.data = bytearray()

    def begin(self, size: int, /) -> None:
        """Nothing to prepare."""

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        """Keep it."""
        self.data += data


def put_verb(key: str, size: int, wait: int) -> PutChunk:
    """A put that is answered when `wait` nodes have proved that they hold it."""
    return PutChunk(name=key, visibility="org", size=size, wait=wait, wait_s=PUT_WAIT_S)


class Workload:
    """Threads that begin with `start` and end with `stop`."""

    def __init__(
        self,
        cluster: Cluster,
        history: History,
        seed: int,
        *,
        wait: int = WAIT,
        put_every_s: float = PUT_EVERY_S,
        get_every_s: float = GET_EVERY_S,
        keep: int = 0,
    ) -> None:
        self.cluster = cluster
        self.history = history
        self.wait = wait
        self.docs: dict[str, str] = {}
        """Document id -> key, of what was acknowledged."""
        self.cids: dict[str, str] = {}
        """Chunk -> key."""
        self.roots: dict[str, str] = {}
        """Key -> root."""
        self._seed = seed
        self._keep = keep
        self._done = threading.Event()
        self._threads = [
            self._thread("writer", put_every_s, self._put),
            self._thread("reader", get_every_s, self._get),
            self._thread("outsider", PEEK_EVERY_S, self._peek),
        ]
        self._live: list[str] = []
        self._count = 0
        self.failures: list[BaseException] = []
        """Errors that are no answers: bugs, of the lab or of a node's protocol."""

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, each after what it does. Raises what was no answer."""
        self._done.set()
        for thread in self._threads:
            thread.join()
        if self.failures:
            raise self.failures[0]

    def _thread(self, name: str, every_s: float, act: Callable[[random.Random], None]) -> threading.Thread:
        rng = random.Random(f"{self._seed}:{name}")

        def go_on() -> None:
            try:
                while not self._done.wait(every_s * rng.uniform(0.5, 1.5)):
                    act(rng)
            except BaseException as error:
                self.failures.append(error)

        return threading.Thread(target=go_on, name=name, daemon=True)

    # --- acts ---

    def _node(self, rng: random.Random) -> LabNode:
        return rng.choice(self.cluster.left)

    def _put(self, rng: random.Random) -> None:
        key = f"doc-{self._count:05}"
        self._count += 1
        data = rng.randbytes(rng.randint(*SIZE))
        self.put(self._node(rng), key, data)
        if self._keep and len(self._live) > self._keep:
            self.remove(self._node(rng), self._live.pop(0))

    def put(self, node: LabNode, key: str, data: bytes) -> bool:
        """One put; whether it was acknowledged."""
        began, outcome, why = time.monotonic(), "acknowledged", ""
        try:
            found = node.run(put_verb(key, len(data), self.wait), timeout_s=PUT_S, source=Bytes(data))
            self.roots[key] = found.root
            self.docs[found.doc_id] = key
            self.cids |= {chunk.cid: key for chunk in found.chunks} | {found.root: key}
            self._live.append(key)
        except RageError as error:
            outcome, why = outcome_of(error), f"{error.id}: {error}"
        self.history.add(
            Put(key, node.name, digest_of(data), self.wait, outcome, began, time.monotonic(), why)  # type: ignore[arg-type]
        )
        return outcome == "acknowledged"

    def remove(self, node: LabNode, key: str) -> None:
        """Remove it everywhere."""
        began, outcome = time.monotonic(), "acknowledged"
        try:
            node.run(RemoveChunk(key, everywhere=True), timeout_s=PUT_S)
        except RageError as error:
            outcome = "refused" if error.id in ("node-unreachable", "document-not-found") else "unknown"
        self.history.add(Remove(key, outcome, began))  # type: ignore[arg-type]

    def _get(self, rng: random.Random) -> None:
        if self._live:
            self.get(self._node(rng), rng.choice(self._live), keep=False)

    def get(self, node: LabNode, key: str, *, keep: bool = True, is_final: bool = False) -> bool:
        """One get by name; whether anything came."""
        began, sink, digest, why = time.monotonic(), Into(), "", ""
        try:
            node.run(GetChunk(key, cache=keep), timeout_s=GET_S, sink=sink)
            digest = digest_of(sink.data)
        except RageError as error:
            why = f"{error.id}: {error}"
        self.history.add(Get(key, node.name, digest, began, time.monotonic(), is_final, why))
        return bool(digest)

    def _peek(self, rng: random.Random) -> None:
        """The outsider knows a root and everybody's address."""
        crow = self.cluster.outsider
        if not self.roots or not crow.is_up:
            return
        key = rng.choice(list(self.roots))
        sink = Into()
        peers = tuple(node.address for node in self.cluster.left)
        try:
            crow.run(GetChunk(self.roots[key], peers=peers, cache=False), timeout_s=PEEK_S, sink=sink)
            got = max(1, len(sink.data))
        except RageError:
            got = len(sink.data)
        self.history.add(Peek(crow.name, key, got, time.monotonic()))


def outcome_of(error: RageError) -> Outcome:
    """Whether a put that failed was refused, or nobody knows."""
    return "refused" if error.id in REFUSALS or isinstance(error, StorageFullError) else "unknown"
