"""One seed of replication alone: the real services, stores and inventories of some nodes, over a network of functions.

Where `promises` plays whole engines, this plays `services.replicating` and `services.auditing` with all that they rest
on but the log and the swarm, so that ten thousand seeds take minutes. Documents and node records reach each node
late, by themselves, as the log would bring them. Faults: nodes that die and come back with their disk, with their
inventory or without; that burn; stand still; are parted from some others, one way too; whose disk is full; that lose
single chunks; that lie in audits; that join, and are drained. Then all faults end, and every chunk must come to rest
where placement wants it: on exactly its home set, each copy proved.

A put counts as acknowledged when `wait` nodes of the acting set have proved each chunk, as `chunk put --wait` does it.
What was acknowledged must never be gone while fewer than `wait` of its copies were harmed.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rage_lab.sim.env import SimulatedEnv
from rage_lab.sim.virtual_loop import VirtualLoop
from rage_net.acl import Principal, Rules
from rage_net.chunk.manifest import blocks
from rage_net.chunk.shelf import Seen
from rage_net.chunk.source import Received
from rage_net.chunk.store import ChunkStore, Quota, memory_store
from rage_net.cid import DAG_CBOR, Cid
from rage_net.config.replication import Replication
from rage_net.database import full
from rage_net.errors import NotFoundError, RageError, StorageFullError, UnavailableError
from rage_net.libp2p import varint
from rage_net.libp2p.peer_id import PeerId
from rage_net.messages import ChunkHeader, DocumentName
from rage_net.metrics import Metrics
from rage_net.replication import audit
from rage_net.replication.inventory import Inventory, Wanted
from rage_net.replication.place import Candidate
from rage_net.replication.policy import Policies
from rage_net.services.auditing import Auditing
from rage_net.services.replicating import Replicating, Sources, dropping
from rage_net.services.replicating.view import Node as Placed
from rage_net.services.replicating.view import View

FACTOR = 3
ORGANIZATION = "acme"
GRACE_S = 8.0
REGIONS = ("eu", "us", "ap")
LATENCY_S = (0.001, 0.08)
NEWS_S = (0.05, 2.0)
"""Until a document or a node's record reaches another node."""
NEWS_AGAIN_S = 5.0
HARM_S = 45.0
"""While things break."""
SETTLE_S = 900.0
"""Within which all must be well again."""
LOOK_S = 5.0
WAIT_S = 20.0
TIMEOUT_S = 5.0
DROP_S = (4.0, 8.0)
"""For `dropping`: a copy too many is kept for so long, and looked at again so much later. Shorter than in life, so that
more happens in a second."""
CHUNK_BYTES = (50, 3000)
DOCUMENTS = (2, 5)
CHUNKS = (1, 8)


@dataclass(frozen=True, slots=True)
class CopiesRun:
    """What one seed came to; `broken` is empty where every promise was kept."""

    seed: int
    broken: tuple[str, ...]
    nodes: int
    faults: int
    puts: int
    acknowledged: int
    settled_s: float
    cpu_s: float
    notes: tuple[str, ...]


def _message(data: bytes) -> bytes:
    """Without its length."""
    found = varint.decode(data)
    assert found is not None
    return data[found[1] :]


class _Stream:
    """One request of the audit protocol, and its answer."""

    def __init__(self, remote: PeerId, request: bytes) -> None:
        self.remote_peer = remote
        self._request = request
        self.answer = b""

    async def read_message(self, limit: int) -> bytes:
        """The request, for who serves."""
        return self._request

    async def write(self, *buffers: bytes) -> None:
        """The answer."""
        self.answer += b"".join(buffers)

    async def close_write(self) -> None:
        """Nothing follows."""


class _Asking:
    """The asking end of it."""

    def __init__(self, world: _World, asker: _Node, peer: PeerId, request: bytes) -> None:
        self._work = (world, asker, peer, request)

    async def read_message(self, limit: int) -> bytes:
        """Serve it there, and give the answer back."""
        world, asker, peer, request = self._work
        stream = _Stream(asker.peer_id, _message(request))
        node = await world.pass_to(asker, peer)
        await node.auditing.serve(stream)  # type: ignore[arg-type]
        await world.pass_back(asker, node)
        return node.tamper(_message(stream.answer))

    async def close_write(self) -> None:
        """Nothing to do."""

    async def reset(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""


class _Connection:
    def __init__(self, world: _World, asker: _Node, peer: PeerId) -> None:
        self._of = (world, asker, peer)

    async def open_stream(self, protocols: Sequence[str], *, timeout_s: float, initial: bytes) -> _Asking:
        """A stream on which the request was sent."""
        return _Asking(*self._of, initial)


class _Gate:
    """Everybody here is of one organisation, and stores."""

    rules = Rules(is_open=False, organization=ORGANIZATION, public_to_strangers=False)

    def __init__(self, store: ChunkStore) -> None:
        self._store = store

    def look(self, cid: Cid, principal: Principal, action: str, *, tell: int = 0) -> Any:
        """What is here."""
        with suppress(NotFoundError):
            return _Look(Seen(self._store.stat(cid), (), None))
        return _Look(None)


@dataclass(frozen=True, slots=True)
class _Look:
    found: Seen | None


class _Node:
    """One node: what survives a crash, and what runs while it is up."""

    def __init__(self, world: _World, name: str, number: int) -> None:
        self.world = world
        self.name = name
        self.env = SimulatedEnv(f"{world.seed}:{name}")
        key = Ed25519PrivateKey.from_private_bytes(world.random.randbytes(32))
        self.key = key
        self.peer_id = PeerId.from_public_key(key.public_key())
        self.candidate = Candidate(self.peer_id, ORGANIZATION, REGIONS[number % len(REGIONS)], "", 1)
        self.quota = Quota(free_bytes_min=0, free_inodes_min=0)
        self.store = memory_store(self.env, quota=self.quota)
        self.inventory = Inventory(None, self.peer_id)
        self.documents: dict[str, Wanted] = {}
        """As its log has them."""
        self.records: dict[PeerId, Placed] = {}
        self.is_up = False
        self.is_destroyed = False
        self.is_liar = False
        self.stalled_until = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Come up, with the disk there is."""
        world, own = self.world, self.peer_id
        view = View(own, "geographic_diversity", GRACE_S, self.env.monotonic())
        metrics = Metrics()
        self.auditing = Auditing(
            self.store,
            self.env,
            metrics,
            _Gate(self.store),  # type: ignore[arg-type]
            own,
            principal_of=lambda peer: Principal(
                "peer", str(peer), ORGANIZATION, capabilities=frozenset({"storage"}), scopes=frozenset({"chunks"})
            ),
            connect=self._connect,  # type: ignore[arg-type]
            sign=self.key.sign,
            kept=lambda cids: self.replicating.keeps(cids),
            on_hold=lambda peer, organization, cids: self.replicating.hold(organization, cids, asker=peer),
            is_node=view.is_there,
        )
        self.replicating = Replicating(
            self.store,
            self.inventory,
            self.env,
            metrics,
            own,
            view,
            self.auditing,
            Sources(
                nodes=lambda: list(self.records.values()),
                documents=lambda ids: iter(
                    [each for key, each in sorted(self.documents.items()) if ids is None or key in ids]
                ),
                is_gone=lambda organization, doc_id: False,
                liveness=lambda peer: world.liveness(self, peer),
            ),
            have=self._have,
            fetch=self._fetch,
            audit_period_s=600.0,
            policies=Policies(Replication(), FACTOR),
        )
        self.is_up = True
        it = self.replicating
        jobs: list[Coroutine[Any, Any, None]] = [
            self._every(1.0, it.watch),
            self._once(it.check),
            self._once(it.reconcile),
            self._forever(it.reconcile_soon),
            self._forever(it.pulling.run),
            self._forever(it.coordinating.run),
            self._every(10.0, it.drop),
            self._every(60.0, it.check),
        ]
        self._tasks = [asyncio.get_running_loop().create_task(job) for job in jobs]

    async def stop(self) -> None:
        """As a crash does: at once, wherever it was."""
        self.is_up = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _once(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except RageError as error:
            self.world.note(f"{self.name}: {error}")

    async def _forever(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:  # as `guard.every` does
            await self._once(work)
            await asyncio.sleep(1.0)

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        await asyncio.sleep(self.env.random.uniform(0, seconds))
        while True:
            await self._once(work)
            await asyncio.sleep(seconds)

    def tamper(self, answer: bytes) -> bytes:
        """A liar signs what it likes."""
        if not self.is_liar:
            return answer
        response = audit.decode_response(answer)
        if not response.statement:
            return answer
        try:
            proofs = audit.read_proofs(response.statement, response.signature)
        except RageError:
            return answer
        items = tuple(replace(item, digest=self.env.random.randbytes(32), is_kept=True) for item in proofs.items)
        return audit.encode_response(audit.seal_proofs(replace(proofs, items=items), self.key.sign))

    # --- the wire ---

    async def _connect(self, peer: PeerId) -> _Connection:
        await self.world.pass_to(self, peer)
        return _Connection(self.world, self, peer)

    async def _have(self, peer: PeerId, cids: Sequence[Cid], durable: bool) -> list[bool]:
        node = await self.world.pass_to(self, peer)
        kept = node.store.durable(cids) if durable else cids
        found = [node.is_liar or (cid in kept and node.store.has(cid)) for cid in cids]
        await self.world.pass_back(self, node)
        return found

    async def _fetch(self, peer: PeerId, cid: Cid) -> Received:
        node = await self.world.pass_to(self, peer)
        stat, stored = node.store.get_stored(cid)
        await self.world.pass_back(self, node)
        if node.is_liar:
            stored = bytes(len(stored))
        names = tuple(DocumentName(ORGANIZATION, name) for name in sorted(self.world.named.get(cid, ())))
        return Received(ChunkHeader(stat.size, len(stored), stat.encoding, documents=names), [stored])


class _World:
    """The nodes, the network, the people, and what breaks."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(f"copies:{seed}")
        self.nodes: list[_Node] = []
        self.notes: list[str] = []
        self.faults = 0
        self.parted: set[tuple[str, str]] = set()
        """Who does not reach whom."""
        self.puts = 0
        self.acknowledged: dict[str, tuple[list[Cid], int]] = {}
        """Documents: their chunks, and how many copies were proved."""
        self.harmed: dict[Cid, set[str]] = {}
        """Nodes whose copy of a chunk burnt or rotted."""
        self.named: dict[Cid, set[str]] = {}
        """Documents that chunks are for, as holders know by who sent them."""
        self._news: dict[str, Wanted] = {}
        self._records: dict[PeerId, Placed] = {}

    def note(self, words: str) -> None:
        """For people who look for a cause."""
        self.notes.append(f"{asyncio.get_running_loop().time():8.2f} {words}")

    # --- the network ---

    def reaches(self, one: _Node, other: _Node) -> bool:
        """Whether a packet arrives now."""
        now = asyncio.get_running_loop().time()
        is_awake = other.stalled_until <= now
        return one.is_up and other.is_up and is_awake and (one.name, other.name) not in self.parted

    async def pass_to(self, one: _Node, peer: PeerId) -> _Node:
        """Reach a node. Raises UnavailableError after a while."""
        other = next((node for node in self.nodes if node.peer_id == peer), None)
        await asyncio.sleep(self.random.uniform(*LATENCY_S))
        if other is None or not (self.reaches(one, other) and self.reaches(other, one)):
            await asyncio.sleep(self.random.uniform(0.1, TIMEOUT_S))
            raise UnavailableError(f"{peer} is out of reach")
        return other

    async def pass_back(self, one: _Node, other: _Node) -> None:
        """The answer comes back, or it does not."""
        await asyncio.sleep(self.random.uniform(*LATENCY_S))
        if not (self.reaches(one, other) and self.reaches(other, one)):
            await asyncio.sleep(self.random.uniform(0.1, TIMEOUT_S))
            raise UnavailableError(f"{other.peer_id} is out of reach")

    def liveness(self, one: _Node, peer: PeerId) -> str | None:
        """What the failure detector would say."""
        other = next((node for node in self.nodes if node.peer_id == peer), None)
        if other is None:
            return None
        return "alive" if self.reaches(one, other) and self.reaches(other, one) else "suspect"

    # --- the log, as if by sync ---

    async def tell(self) -> None:
        """Bring everybody what they lack and can be reached with, for as long as the task lives."""
        while True:
            await asyncio.sleep(self.random.uniform(0.5, 1.5) * NEWS_AGAIN_S)
            for node in self.nodes:
                self._bring(node)

    def _bring(self, node: _Node) -> None:
        if not node.is_up or not any(self.reaches(other, node) for other in self.nodes if other is not node):
            return
        fresh = [key for key, wanted in self._news.items() if node.documents.get(key) != wanted]
        for key in fresh:
            node.documents[key] = self._news[key]
        if fresh:
            node.replicating.changed(fresh)
        if node.records != self._records:
            node.records = dict(self._records)
            node.replicating.changed()

    def _spread(self) -> None:
        loop = asyncio.get_running_loop()
        for node in self.nodes:
            loop.call_later(self.random.uniform(*NEWS_S), self._bring, node)

    def record(self, node: _Node, state: str) -> None:
        """A node's record says so from now on."""
        self._records[node.peer_id] = Placed(node.candidate, state)  # type: ignore[arg-type]
        self._spread()

    # --- one run ---

    async def play(self) -> float:
        """All of it. Returns: seconds until all was well."""
        for number in range(self.random.randint(4, 6)):
            self.join(f"n{number}")
        await asyncio.sleep(3.0)
        loop = asyncio.get_running_loop()
        news = loop.create_task(self.tell())
        acts: list[Coroutine[Any, Any, None]] = [self.put(f"d{at}") for at in range(self.random.randint(*DOCUMENTS))]
        acts += [self.break_something() for _ in range(self.random.randint(2, 6))]
        tasks = [loop.create_task(self._later(self.random.uniform(0, HARM_S), act)) for act in acts]
        await asyncio.gather(*tasks)
        await self.mend()
        began = loop.time()
        while (short := self.short()) and loop.time() - began < SETTLE_S:  # noqa: ASYNC110  as a person would look
            await asyncio.sleep(LOOK_S)
        settled_s = loop.time() - began
        if short:
            self.broken += [f"short: {words}" for words in short[:5]]
        self.look_for_loss()
        news.cancel()
        for node in self.nodes:
            await node.stop()
        return settled_s

    broken: list[str]

    async def _later(self, seconds: float, act: Coroutine[Any, Any, None]) -> None:
        await asyncio.sleep(seconds)
        await act

    def join(self, name: str) -> _Node:
        """A node more."""
        node = _Node(self, name, len(self.nodes))
        self.nodes.append(node)
        node.start()
        self.record(node, "active")
        return node

    def some(self, *, up: bool = True) -> _Node | None:
        """A node that was not destroyed."""
        found = [node for node in self.nodes if not node.is_destroyed and (node.is_up or not up)]
        return self.random.choice(found) if found else None

    async def put(self, doc_id: str) -> None:
        """Put a document at some node, and wait for proof as a client does."""
        node = self.some()
        if node is None or node.is_liar:
            return
        name, wait = doc_id.ljust(26, "a"), self.random.choice((1, 2, 3))
        self.puts += 1
        chunks = [self.random.randbytes(self.random.randint(*CHUNK_BYTES)) for _ in range(self.random.randint(*CHUNKS))]
        try:
            root, cids = self._store(node, name, chunks)
        except StorageFullError:
            return
        for cid in cids:
            self.named.setdefault(cid, set()).add(name)
        wanted = Wanted(ORGANIZATION, name, root, node.peer_id, "default", FACTOR, 2, "")
        self._news[name] = node.documents[name] = wanted
        node.replicating.changed([name])
        self._spread()
        if await self._is_proved(node, cids, wait):
            self.acknowledged[name] = cids, wait
            self.note(f"{name} is acknowledged by {node.name} with {wait}")

    def _store(self, node: _Node, doc_id: str, chunks: Sequence[bytes]) -> tuple[Cid, list[Cid]]:
        import libipld

        from rage_net.chunk.documents import Documents

        documents = Documents(node.store)
        documents.new_id = lambda: doc_id
        with documents.lease(ORGANIZATION) as lease:
            with node.store.batch(lease=lease) as batch:
                cids = [batch.add_data(data).cid for data in chunks]
                size = sum(map(len, chunks))
                if len(cids) == 1:
                    root = cids[0]
                else:
                    links = [[bytes(cid), len(data)] for cid, data in zip(cids, chunks, strict=True)]
                    manifest = libipld.encode_dag_cbor(
                        {"v": 1, "split": "cdc-1", "size": size, "level": 1, "links": links}
                    )
                    root = batch.add_data(manifest, DAG_CBOR).cid
                batch.commit()
            documents.put(lease, root, size=size, chunks=len(cids), owner=str(node.peer_id))
        return root, list(dict.fromkeys(blocks(root, node.store.get)))

    async def _is_proved(self, node: _Node, cids: Sequence[Cid], wait: int) -> bool:
        proved: dict[Cid, set[PeerId]] = {cid: set() for cid in cids}
        ends = asyncio.get_running_loop().time() + WAIT_S
        while node.is_up and asyncio.get_running_loop().time() < ends:
            it = node.replicating
            asks: dict[PeerId, list[Cid]] = {}
            for cid in cids:
                item = it.inventory.find(cid)
                acting = it.view.acting(item) if item is not None else []
                proved[cid].intersection_update(acting)
                for peer in acting:
                    if peer not in proved[cid]:
                        asks.setdefault(peer, []).append(cid)
            for (peer, cid), answer in (await it.prover.prove(asks)).items():
                if answer.outcome == "proved" and (answer.is_kept or peer == node.peer_id):
                    proved[cid].add(peer)
            if all(len(has) >= wait for has in proved.values()):
                return True
            await asyncio.sleep(0.5)
        return False

    # --- faults ---

    async def break_something(self) -> None:
        """One fault, for some time."""
        self.faults += 1
        names = ("crash", "amnesia", "burn", "stall", "part", "one_way", "fill", "rot", "lie", "join", "drain")
        fault = self.random.choice(names)
        await getattr(self, f"_{fault}")()

    async def _crash(self, *, forgets: bool = False) -> None:
        node = self.some()
        if node is None or sum(each.is_up for each in self.nodes) <= 2:
            return
        self.note(f"{node.name} crashes{', its inventory is lost' if forgets else ''}")
        await node.stop()
        await asyncio.sleep(self.random.uniform(0.5, 30.0))
        if not node.is_destroyed and not node.is_up:
            if forgets:
                node.inventory = Inventory(None, node.peer_id)
            node.start()
            self.note(f"{node.name} is back")

    async def _amnesia(self) -> None:
        await self._crash(forgets=True)

    async def _burn(self) -> None:
        """At most one disk in a run: then nothing that two nodes proved may be gone."""
        if any(node.is_destroyed for node in self.nodes):
            return
        node = self.some(up=False)
        if node is None:
            return
        self.note(f"{node.name} burns")
        node.is_destroyed = True
        self._harm(node, [stat.cid for stat in node.store.list()])
        await node.stop()
        if self.random.random() < 0.5:
            self.record(node, "lost")

    def _harm(self, node: _Node, cids: Sequence[Cid]) -> None:
        for cid in cids:
            if node.store.durable([cid]):
                self.harmed.setdefault(cid, set()).add(node.name)

    async def _stall(self) -> None:
        node = self.some()
        if node is not None:
            node.stalled_until = asyncio.get_running_loop().time() + self.random.uniform(1, 25)
            self.note(f"{node.name} stands still")

    async def _part(self, *, one_way: bool = False) -> None:
        some = [node for node in self.nodes if not node.is_destroyed]
        one = {node.name for node in self.random.sample(some, self.random.randint(1, max(1, len(some) // 2)))}
        cut = {(a.name, b.name) for a in some for b in some if a.name in one and b.name not in one}
        cut |= set() if one_way else {(b, a) for a, b in cut}
        self.note(f"{sorted(one)} are parted{' one way' if one_way else ''}")
        self.parted |= cut
        await asyncio.sleep(self.random.uniform(1, 30))
        self.parted -= cut

    async def _one_way(self) -> None:
        await self._part(one_way=True)

    async def _fill(self) -> None:
        node = self.some()
        if node is None:
            return
        self.note(f"{node.name} is full")

        def refuse(*arguments: object, **more: object) -> None:
            raise full("no room for more chunks", "the disk is full")

        node.store.check_room = refuse  # type: ignore[method-assign]
        await asyncio.sleep(self.random.uniform(5, 40))
        with suppress(AttributeError):
            del node.store.check_room

    async def _rot(self) -> None:
        node = self.some(up=False)
        stats = [stat for stat in node.store.list() if not stat.cached] if node is not None else []
        if node is None or not stats:
            return
        cid = self.random.choice(stats).cid
        self.note(f"{node.name} loses {cid}")
        self._harm(node, [cid])
        with node.store.index.write() as db:  # as `ChunkStore` does where it finds rot
            db.execute("DELETE FROM chunk WHERE cid = ?", (bytes(cid),))
        if node.is_up and self.random.random() < 0.7:
            node.replicating.note_lost(cid, "read")

    async def _lie(self) -> None:
        """It claims everything, proves nothing, and sends nonsense; its copies are as good as none."""
        if any(node.is_liar for node in self.nodes):
            return
        node = self.some()
        if node is not None:
            self.note(f"{node.name} lies")
            node.is_liar = True
            await asyncio.sleep(self.random.uniform(5, 40))
            node.is_liar = False

    async def _join(self) -> None:
        node = self.join(f"n{len(self.nodes)}")
        self.note(f"{node.name} joins")

    async def _drain(self) -> None:
        active = [each for each in self._records.values() if each.state == "active"]
        node = self.some()
        if node is not None and len(active) > FACTOR + 1:
            self.note(f"{node.name} is drained")
            self.record(node, "drained")

    async def mend(self) -> None:
        """All faults end; who burnt is told to be lost."""
        self.parted.clear()
        for node in self.nodes:
            node.stalled_until, node.is_liar = 0.0, False
            with suppress(AttributeError):
                del node.store.check_room
            if node.is_destroyed:
                self.record(node, "lost")
            elif not node.is_up:
                node.start()
        self.note("all faults are over")

    # --- the promises ---

    def excused(self, cid: Cid, wait: int) -> bool:
        """Whether so many copies were harmed that nothing is promised."""
        return len(self.harmed.get(cid, ())) >= wait

    def short(self) -> list[str]:
        """Chunks of acknowledged documents that are not at rest on exactly their home sets."""
        found = []
        up = [node for node in self.nodes if node.is_up]
        for name, (cids, wait) in self.acknowledged.items():
            if self.excused(cids[0], wait):  # the root: nobody else can know what the document has
                continue
            for cid in cids:
                if self.excused(cid, wait):
                    continue
                holders = {node.peer_id for node in up if node.store.durable([cid])}
                for node in up:
                    item = node.replicating.inventory.find(cid)
                    if item is None or set(item.home) != holders:
                        homes = "none" if item is None else [self.name_of(peer) for peer in item.home]
                        found.append(
                            f"{name} {cid}: {node.name} wants {homes}, {sorted(map(self.name_of, holders))} hold"
                        )
                        break
        return found

    def name_of(self, peer: PeerId) -> str:
        """A node's name."""
        return next((node.name for node in self.nodes if node.peer_id == peer), str(peer))

    def look_for_loss(self) -> None:
        """What was acknowledged is here, whole, at some node that was not destroyed."""
        for name, (cids, wait) in self.acknowledged.items():
            for cid in cids:
                if self.excused(cid, wait):
                    continue
                if not any(self._gives(node, cid) for node in self.nodes if not node.is_destroyed):
                    self.broken.append(f"lost: {name} {cid}, which {wait} nodes had proved")

    @staticmethod
    def _gives(node: _Node, cid: Cid) -> bool:
        try:
            return cid.matches(node.store.get(cid))
        except RageError:
            return False


def play_copies(seed: int) -> CopiesRun:
    """One run, repeated exactly by its seed."""
    began = time.process_time()
    loop = VirtualLoop()
    world = _World(seed)
    world.broken = []
    before = dropping.SETTLE_S, dropping.AGAIN_S
    try:
        dropping.SETTLE_S, dropping.AGAIN_S = DROP_S
        asyncio.set_event_loop(loop)
        settled_s = loop.run_until_complete(world.play())
    finally:
        dropping.SETTLE_S, dropping.AGAIN_S = before
        asyncio.set_event_loop(None)
        loop.close()
    return CopiesRun(
        seed,
        tuple(world.broken),
        len(world.nodes),
        world.faults,
        world.puts,
        len(world.acknowledged),
        settled_s,
        time.process_time() - began,
        tuple(world.notes),
    )


def try_copies(seed: int) -> CopiesRun:
    """As `play_copies`; a run that raises is broken."""
    import logging

    logging.disable(logging.CRITICAL)
    try:
        return play_copies(seed)
    except Exception as error:
        return CopiesRun(seed, (f"short: the run itself: {type(error).__name__}: {error}",), 0, 0, 0, 0, 0.0, 0.0, ())


def main() -> None:
    """`python -m rage_lab.sim.copies FIRST [COUNT]`: runs, and what they came to."""
    import logging

    logging.disable(logging.CRITICAL)
    first, count = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    failed = 0
    acknowledged = 0
    for seed in range(first, first + count):
        run = play_copies(seed)
        acknowledged += run.acknowledged
        if count == 1:
            print("\n".join(run.notes))
        if run.broken or count == 1:
            print(run.seed, run.broken, f"{run.settled_s:.0f} s", f"{run.cpu_s:.2f} s of processor time", flush=True)
            failed += bool(run.broken)
    print(f"{count} runs, {failed} failed, {acknowledged} puts acknowledged")


if __name__ == "__main__":
    main()
