"""One node's replication beside made-up peers: a store in memory, a clock moved by hand, and nodes that are a dict.

A `Peer` has bytes, claims, proves, gives, holds, as it is told to; what it was asked stands in `asked`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from blake3 import blake3

from rage_net.chunk import replicas
from rage_net.chunk.source import Received
from rage_net.chunk.store import ChunkStore, Quota, admit, memory_store
from rage_net.cid import RAW, Cid
from rage_net.errors import NotFoundError, StorageFullError, UnavailableError
from rage_net.libp2p.peer_id import PeerId
from rage_net.messages import ChunkHeader, DocumentName
from rage_net.metrics import Metrics
from rage_net.replication.audit import UNKNOWN, Answer, Outcome
from rage_net.replication.inventory import Inventory, Item, Wanted
from rage_net.replication.place import Candidate
from rage_net.services.replicating.coordinating import Coordinating
from rage_net.services.replicating.dropping import Dropping
from rage_net.services.replicating.prover import Prover
from rage_net.services.replicating.pulling import Pulling
from rage_net.services.replicating.view import Node, State, View

OWNER = 50
GRACE_S = 30.0


def peer_id(number: int) -> PeerId:
    return PeerId(bytes((0, 36, 8, 1, 18, 32)) + blake3(b"peer %d" % number).digest())


class Clock:
    """An `Env` whose clock is moved by hand, and whose work is done in line."""

    def __init__(self, rng: Random) -> None:
        self.random = rng
        self.time = 1000.0

    def now(self) -> float:
        return 1_800_000_000.0 + self.time

    def monotonic(self) -> float:
        return self.time

    async def blocking(self, fn: Callable[..., Any], *args: Any) -> Any:
        return fn(*args)

    waiting = blocking

    def close(self) -> None: ...


@dataclass
class Peer:
    """A node that is made up. `outcome` is what it answers about what it has, instead of a proof."""

    number: int
    has: set[Cid] = field(default_factory=set)
    cached: set[Cid] = field(default_factory=set)
    """Those of `has` that it may evict."""
    is_kept: bool = True
    is_reachable: bool = True
    is_alive: bool | None = True
    outcome: Outcome = "proved"
    takes: bool = True
    """What it is asked to hold."""
    lies: bool = False
    """It sends other bytes."""
    asked: list[str] = field(default_factory=list)

    @property
    def id(self) -> PeerId:
        return peer_id(self.number)


class World:
    """Node 0 with `count` nodes of its organisation, itself among them."""

    def __init__(self, rng: Random, count: int = 5, *, regions: int = 1, period_s: float = 0.0) -> None:
        self.env = Clock(rng)
        self.store: ChunkStore = memory_store(self.env, quota=Quota(free_bytes_min=0, free_inodes_min=0))  # type: ignore[arg-type]
        self.own = peer_id(0)
        self.inventory = Inventory(None, self.own)
        self.metrics = Metrics()
        self.peers = {peer_id(number): Peer(number) for number in range(1, count)}
        self.regions = regions
        self.view = View(self.own, "none" if regions == 1 else "geographic_diversity", GRACE_S, self.now())
        self.set_nodes(dict.fromkeys(range(count), "active"))
        self.plain: dict[Cid, bytes] = {}
        self.full: set[PeerId] = set()
        self.times_full = 0
        self.prover = Prover(self.store, self.env, self.own, self, self.have, self.fetch)  # type: ignore[arg-type]
        self.pulling = Pulling(
            self.store,
            self.inventory,
            self.env,  # type: ignore[arg-type]
            self.metrics,
            self.view,
            have=self.have,
            fetch=self.fetch,
            on_full=self._count_full,
            now=self.now,
        )
        self.coordinating = Coordinating(
            self.inventory,
            self.env,  # type: ignore[arg-type]
            self.metrics,
            self.view,
            self.prover,
            self,
            is_full=lambda peer: peer in self.full,
            period_s=period_s,
            now=self.now,
        )
        self.dropping = Dropping(
            self.store,
            self.inventory,
            self.env,  # type: ignore[arg-type]
            self.metrics,
            self.view,
            self.prover,
            self.now,
        )

    def now(self) -> float:
        return self.env.time

    def count(self, event: str) -> float:
        """Of the metric of replication's events."""
        return self.metrics.replication_events._cells.get((event,), [0.0])[0]

    def close(self) -> None:
        self.store.close()
        self.inventory.close()

    def _count_full(self) -> None:
        self.times_full += 1

    # --- nodes ---

    def candidate(self, number: int) -> Candidate:
        return Candidate(peer_id(number), "acme", f"r{number % self.regions}", "", 1)

    def set_nodes(self, states: Mapping[int, State]) -> None:
        self.view.set_nodes(Node(self.candidate(number), state) for number, state in states.items())
        self.inventory.use(self.view.digest)

    def observe(self) -> tuple[set[PeerId], set[PeerId]]:
        gone, back = self.view.observe(lambda peer: self.peers[peer].is_alive, self.now())
        for peer in gone | back:
            self.inventory.hasten(peer, self.now())
        return gone, back

    def lose(self, *peers: Peer) -> None:
        """They give no sign of life, for longer than the grace."""
        for peer in peers:
            peer.is_alive = peer.is_reachable = False
        self.observe()
        self.env.time += GRACE_S
        self.observe()

    def others(self, item: Item) -> list[Peer]:
        """The home of a chunk, without us."""
        return [self.peers[peer] for peer in item.home if peer != self.own]

    def strangers(self, item: Item) -> list[Peer]:
        """Nodes that placement does not name."""
        return [peer for key, peer in self.peers.items() if key not in item.home]

    # --- chunks ---

    def chunk(self, number: int) -> Cid:
        data = b"chunk %d of this world, and some more of it" % number * 40
        cid = Cid(RAW, blake3(data).digest())
        self.plain[cid] = data
        return cid

    def document(self, number: int, cids: Sequence[Cid], *, factor: int = 3, owner: int = OWNER) -> None:
        """A document of the log, read and placed."""
        root = cids[0]
        seen = self.inventory.same_round()
        wanted = Wanted("acme", f"doc-{number}", root, peer_id(owner), "default", factor, min(2, factor), "")
        self.inventory.see([wanted], seen, self.now())
        (unread,) = self.inventory.unread(self.now(), 1000)
        self.inventory.read(unread.id, root, [(cid, len(self.plain[cid])) for cid in cids], self.now())
        self.place()

    def place(self) -> None:
        while items := self.inventory.unplaced():
            self.inventory.place(
                [(item, self.view.home(item.cid, "acme", item.topology, item.factor), False) for item in items],
                self.now(),
            )

    def find(self, want: Callable[[Item], bool], *, factor: int = 3, tries: int = 400) -> Item:
        """A new document of one chunk whose home is as wanted."""
        for number in range(tries):
            cid = self.chunk(number)
            if self.inventory.find(cid) is not None:
                continue
            home = self.view.home(cid, "acme", "", factor)
            probe = Item(0, cid, 0, home, 0, 0, 0, 0, 0.0, "acme", "", self.own, "", factor, 1, "")
            if want(probe):
                self.document(number, [cid], factor=factor)
                return self.item(cid)
        raise AssertionError("no chunk has such a home")

    def ours(self, *, factor: int = 3) -> Item:
        """A chunk whose coordinator we are, which is here."""
        return self.keep(self.find(lambda item: item.home[0] == self.own, factor=factor))

    def theirs(self, *, factor: int = 3) -> Item:
        """A chunk that belongs elsewhere, and is here."""
        return self.keep(self.find(lambda item: self.own not in item.home, factor=factor))

    def keep(self, item: Item) -> Item:
        """Keep a chunk here as a replica."""
        self.bring([item.cid])
        self.inventory.set_have([item], 1, self.now())
        return self.item(item.cid)

    def bring(self, cids: Iterable[Cid]) -> None:
        admitted = [admit(cid, "raw", self.plain[cid], len(self.plain[cid]))[0] for cid in cids]
        replicas.keep_replicas(self.store, admitted)

    def item(self, cid: Cid) -> Item:
        found = self.inventory.find(cid)
        assert found is not None
        return found

    def fill(self, limit: int) -> None:
        """The disk takes no more."""

        def check_room(size: int, files: int = 1) -> None:
            if size > limit:
                raise StorageFullError("the disk is full")

        self.store._check_room = check_room  # type: ignore[method-assign]

    # --- the exchange ---

    async def have(self, peer: PeerId, cids: Sequence[Cid], durable: bool) -> Sequence[bool]:
        there = self._reach(peer, "have")
        return [cid in there.has and not (durable and cid in there.cached) for cid in cids]

    async def fetch(self, peer: PeerId, cid: Cid) -> Received:
        there = self._reach(peer, "fetch")
        if cid not in there.has:
            raise NotFoundError("absent")
        data = self.plain[cid]
        if there.lies:
            data = data[::-1]
        item = self.inventory.find(cid)
        names = self.inventory.documents_of(item.id) if item is not None else []
        documents = tuple(DocumentName(*name) for name in names)
        return Received(ChunkHeader(len(data), len(data), "raw", documents=documents), [data])

    def _reach(self, peer: PeerId, word: str) -> Peer:
        there = self.peers.get(peer)
        if there is None:
            raise UnavailableError("nobody knows where it is")
        there.asked.append(word)
        if not there.is_reachable:
            raise UnavailableError("away")
        return there

    # --- the audit protocol ---

    async def prove(self, asks: Mapping[PeerId, Sequence[Cid]]) -> dict[tuple[PeerId, Cid], Answer]:
        return {
            (peer, cid): self._answer(peer, cid) if self.store.has(cid) else UNKNOWN
            for peer, cids in asks.items()
            for cid in cids
        }

    def _answer(self, peer: PeerId, cid: Cid) -> Answer:
        there = self.peers[peer]
        there.asked.append("prove")
        if not there.is_reachable:
            return Answer("unreachable")
        if cid not in there.has:
            return Answer("absent")
        if there.outcome == "lied":
            return Answer("lied", evidence=(b"statement", b"signature"))
        return Answer(there.outcome, there.is_kept and there.outcome == "proved")

    async def relay(self, relay: PeerId, holder: PeerId, cids: Sequence[Cid]) -> dict[Cid, Answer]:
        by = self.peers[relay]
        by.asked.append("relay")
        if not by.is_reachable or by.outcome != "proved":
            return dict.fromkeys(cids, UNKNOWN)
        return {cid: self._answer(holder, cid) if cid in by.has else UNKNOWN for cid in cids}

    async def hold(self, peer: PeerId, organization: str, cids: Sequence[Cid]) -> int:
        there = self._reach(peer, "hold")
        if not there.takes:
            return 0
        there.has.update(cids)
        return len(cids)
