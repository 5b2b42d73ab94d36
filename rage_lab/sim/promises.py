"""One seed: whole engines of one organisation in virtual time, every fault, then a judgement.

Four or five nodes with certificates replicate; an outsider, and at times an open node, ask for everything. People put
with `--wait`, read and remove while nodes vanish, leave, stall, are parted, burn, rot or have no room, as the
seed says. Then all faults end, and after a bounded time everything must be well (`checker`). Besides the product's own
audit the stores are looked into directly: a proof that is wrong would not hide here.

Fast on purpose: small documents, homes in memory where the machine has such a place.
"""

from __future__ import annotations

import asyncio
import gc
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rage_lab.checker import (
    Down,
    Get,
    Harm,
    History,
    Judgement,
    Outcome,
    Peek,
    Put,
    Remove,
    Settled,
    digest_of,
    excused_keys,
    judge,
)
from rage_lab.nemesis import flip
from rage_lab.sim.node import Collect, Given, Node
from rage_lab.sim.organizations import Organization
from rage_lab.sim.world import World, play
from rage_net.chunk.store import admit
from rage_net.cid import Cid
from rage_net.database import full
from rage_net.errors import RageError, StorageFullError
from rage_net.verbs.chunk import PutChunk, RemoveChunk
from rage_net.verbs.replication import AuditReplication, DrainNode, ReplaceNode
from rage_net.verbs.sync import ShowSync

FACTOR = 3
MEET_S = 6.0
"""For nodes to meet, and to write their records."""
MET_S = 20.0
"""For nodes to meet again after the faults."""
HARM_S = (15.0, 45.0)
"""While people work and things break."""
WAIT_S = 12.0
"""Of a put, for proof of its copies."""
WITHIN_S = 900.0
"""For everything to be well again: suspicion of 75 s, grace, back-off of a minute, each more than once."""
LOOK_S = 5.0
PUTS = (3, 7)
SIZE = (500, 60_000)
GETS = 6
GRACE = "10s"
FLAGS: dict[str, Any] = {"network.libp2p.dht.enabled": "false"}
"""Five nodes that know each other look nothing up."""
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  homes there cost no disk; who made it is checked by tempfile


@dataclass(frozen=True, slots=True)
class SimRun:
    """What came of one seed."""

    seed: int
    judgement: Judgement
    nodes: int
    faults: int
    virtual_s: float
    cpu_s: float
    notes: tuple[str, ...]
    digest: str


def play_seed(seed: int) -> SimRun:
    """One run, repeated exactly by its seed. Nothing of it stays."""
    began = time.process_time()
    where = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="rage-sim-", dir=where) as place:
        played = play(_Run.scenario, seed, Path(place))
    run: _Run = played.result
    gc.collect()
    return SimRun(
        seed,
        judge(run.history),
        len(run.nodes),
        run.faults,
        played.seconds,
        time.process_time() - began,
        tuple(run.notes),
        played.digest,
    )


class _Run:
    """The people, the faults and the history of one run."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = world.random
        self.history = History()
        self.notes: list[str] = []
        self.faults = 0
        self.nodes: list[Node] = []
        self.outsiders: list[Node] = []
        self.destroyed: set[str] = set()
        self.wait = 2
        self._roots: dict[str, str] = {}  # of keys
        self._docs: dict[str, str] = {}  # keys of document ids
        self._cids: dict[str, str] = {}  # keys of chunks
        self._acked: list[str] = []
        self._full: set[str] = set()
        self._acts: list[tuple[float, Callable[[], Coroutine[Any, Any, None]]]] = []

    @classmethod
    async def scenario(cls, world: World) -> _Run:
        """For `play`."""
        run = cls(world)
        await run.play()
        return run

    async def play(self) -> None:
        """All of it."""
        rng, world = self.rng, self.world
        world.geography.loss = rng.choice((0.0, 0.0, 0.01))
        await self._meet()
        over_s = rng.uniform(*HARM_S)
        self._draw(over_s)
        begun = world.now
        async with asyncio.TaskGroup() as tasks:
            for at, act in sorted(self._acts, key=lambda each: each[0]):
                await asyncio.sleep(max(0.0, begun + at - world.now))
                tasks.create_task(act())
        await self._mend()
        await asyncio.sleep(MET_S)
        await self._settle()
        await self._read_all()

    # --- who there is ---

    async def _meet(self) -> None:
        world, rng = self.world, self.rng
        acme, birch = Organization("acme", world.seed), Organization("birch", world.seed)
        count = rng.choice((4, 5, 5))
        for number in range(count):
            node = await world.node(
                f"n{number}",
                organization=acme,
                bootstrap=self.nodes[:3],
                capabilities=("storage", "admin"),
                flags=FLAGS,
                files={"replication.yaml": _replication_yaml()},
            )
            self.nodes.append(node)
        silent = {**FLAGS, "network.libp2p.gossipsub.topics": []}
        crow = await world.node("crow", organization=birch, bootstrap=self.nodes[:1], flags=silent)
        self.outsiders = [crow]
        if rng.random() < 0.25:
            self.outsiders.append(await world.node("stranger", bootstrap=self.nodes[:1], flags=silent))
        await asyncio.sleep(MEET_S)

    # --- what will happen ---

    def _draw(self, over_s: float) -> None:
        rng = self.rng
        for number in range(rng.randint(*PUTS)):
            at = rng.uniform(0, over_s * 0.8) if number else 0.0
            self._acts.append((at, self._putting(f"doc-{number}", rng.randbytes(rng.randint(*SIZE)))))
        for _ in range(GETS):
            self._acts.append((rng.uniform(3, over_s), self._getting))
        for _ in range(4):
            self._acts.append((rng.uniform(3, over_s), self._peeking))
        if rng.random() < 0.3:
            self._acts.append((rng.uniform(over_s * 0.4, over_s), self._removing))
        kinds = [
            self._vanish,
            self._leave,
            self._stall,
            self._partition,
            self._fill,
            self._rot,
            self._destroy,
            self._drain,
        ]
        weights = [3, 1, 2, 3, 1, 2, 1.5, 0.5]
        for kind in rng.choices(kinds, weights, k=rng.randint(1, 5)):
            self._acts.append((rng.uniform(1, over_s), kind))

    def _putting(self, key: str, data: bytes) -> Callable[[], Coroutine[Any, Any, None]]:
        async def act() -> None:
            await self._put(key, data)

        return act

    def _note(self, words: str) -> None:
        self.notes.append(f"{self.world.now:.1f} {words}")
        self.world.trace.note(words)

    def _some(self) -> list[Node]:
        return [node for node in self.nodes if node.is_up]

    # --- people ---

    async def _put(self, key: str, data: bytes) -> None:
        nodes = self._some()
        if not nodes:
            return
        node, began, outcome, why = self.rng.choice(nodes), self.world.now, "acknowledged", ""
        self._note(f"{node.name} puts {key}")
        try:
            verb = PutChunk(key, visibility="org", size=len(data), wait=self.wait, wait_s=WAIT_S)
            found = await node.run(verb, source=Given(data))
            self._roots[key] = found.root
            self._docs[found.doc_id] = key
            self._cids |= {chunk.cid: key for chunk in found.chunks} | {found.root: key}
            self._acked.append(key)
        except RageError as error:
            outcome, why = _outcome(error), f"{error.id}: {error}"
            self._note(f"{key}: {why}")
        self.history.add(
            Put(key, node.name, digest_of(data), self.wait, outcome, began, self.world.now, why)  # type: ignore[arg-type]
        )

    async def _getting(self) -> None:
        nodes = self._some()
        if nodes and self._acked:
            await self._get(self.rng.choice(nodes), self.rng.choice(self._acked))

    async def _get(self, node: Node, key: str, *, is_final: bool = False) -> None:
        began, digest, why = self.world.now, "", ""
        try:
            got = await node.get(key, keep=False)
            digest = digest_of(got.data)
        except RageError as error:
            why = f"{error.id}: {error} {error.why}"
        self.history.add(Get(key, node.name, digest, began, self.world.now, is_final, why))

    async def _peeking(self) -> None:
        """Both outsiders ask everybody for everything."""
        for node in self.outsiders:
            for key, root in list(self._roots.items()):
                sink = Collect()
                try:
                    await node.get(root, *self._some(), sink=sink)
                    got = max(1, len(sink.data))
                except RageError:
                    got = len(sink.data)
                self.history.add(Peek(node.name, key, got, self.world.now))

    async def _removing(self) -> None:
        nodes = self._some()
        if not nodes or not self._acked:
            return
        node, key = self.rng.choice(nodes), self.rng.choice(self._acked)
        self._acked.remove(key)
        began, outcome = self.world.now, "acknowledged"
        self._note(f"{node.name} removes {key}")
        try:
            await node.run(RemoveChunk(key, everywhere=True))
        except RageError as error:
            outcome = "refused" if error.id in ("node-unreachable", "document-not-found") else "unknown"
            if outcome == "refused":
                self._acked.append(key)
        self.history.add(Remove(key, outcome, began))  # type: ignore[arg-type]

    # --- faults ---

    async def _vanish(self) -> None:
        await self._go(self.world.vanish)

    async def _leave(self) -> None:
        def leave(node: Node) -> None:
            self.world.spawn(self.world.leave(node))

        await self._go(leave)

    async def _go(self, go: Callable[[Node], None]) -> None:
        nodes = self._some()
        if len(nodes) < 2:
            return
        node = self.rng.choice(nodes)
        self.faults += 1
        self._note(f"{node.name} goes")
        go(node)
        await asyncio.sleep(self.rng.choice((3.0, 15.0, 90.0)) * self.rng.uniform(0.5, 1.5))
        if node.name not in self.destroyed:
            self._note(f"{node.name} comes back")
            await self._join(node)

    async def _join(self, node: Node) -> None:
        try:
            await self.world.join(node)
        except RageError as error:
            self.history.add(Down(node.name, self.world.now, f"does not start: {error} {error.why}"))

    async def _stall(self) -> None:
        nodes = self._some()
        if nodes:
            self.faults += 1
            node, seconds = self.rng.choice(nodes), self.rng.choice((2.0, 15.0, 60.0)) * self.rng.uniform(0.5, 1.5)
            self._note(f"{node.name} stalls for {seconds:.1f} s")
            self.world.stall(node, seconds)
            await asyncio.sleep(seconds)

    async def _partition(self) -> None:
        self.faults += 1
        names = self.rng.sample(self.nodes, self.rng.randint(1, len(self.nodes) // 2))
        self._note(f"parted: {', '.join(node.name for node in names)}")
        self.world.partition(names)
        await asyncio.sleep(self.rng.choice((4.0, 20.0, 80.0)) * self.rng.uniform(0.5, 1.5))
        self._note("healed")
        self.world.heal()

    async def _fill(self) -> None:
        nodes = self._some()
        if nodes:
            self.faults += 1
            node = self.rng.choice(nodes)
            self._note(f"{node.name} has no room")
            self._full.add(node.name)
            bodies = node.engine.store.bodies
            bodies.check_room = _no_room  # type: ignore[method-assign, assignment]
            await asyncio.sleep(self.rng.uniform(10, 60))
            self._note(f"{node.name} has room")
            vars(bodies).pop("check_room", None)  # it may have been full twice
            self._full.discard(node.name)

    async def _rot(self) -> None:
        nodes = self._some()
        if not nodes:
            return
        node = self.rng.choice(nodes)
        files = sorted(path for path in node.home.store.glob("??/*") if path.name in self._cids)
        if files:
            self.faults += 1
            file = self.rng.choice(files)
            self.history.add(Harm(node.name, self.world.now, self._cids[file.name]))
            flip(file, self.rng)
            self._note(f"a bit of {file.name} flips on {node.name}")

    async def _destroy(self) -> None:
        nodes = self._some()
        if self.destroyed or len(nodes) <= FACTOR:
            return
        self.faults += 1
        node = self.rng.choice(nodes)
        self._note(f"{node.name} is destroyed")
        self.destroyed.add(node.name)
        self.history.add(Harm(node.name, self.world.now))
        self.world.vanish(node)
        await node.end()
        shutil.rmtree(node.home.root)
        if self.rng.random() < 0.3 and (left := self._some()):
            await asyncio.sleep(self.rng.uniform(1, 20))
            try:
                await self.rng.choice(left).run(ReplaceNode(node.peer_id, lost=True))
                self._note(f"{node.name} is said to be lost")
            except RageError as error:
                self._note(f"replace: {error}")

    async def _drain(self) -> None:
        nodes = self._some()
        if len(nodes) > FACTOR:
            self.faults += 1
            node, by = self.rng.sample(nodes, 2)
            try:
                await by.run(DrainNode(node.peer_id))
                self._note(f"{node.name} is drained")
            except RageError as error:
                self._note(f"drain: {error}")

    # --- the end ---

    @property
    def _left(self) -> list[Node]:
        return [node for node in self.nodes if node.name not in self.destroyed]

    async def _mend(self) -> None:
        self._note("mend")
        self.world.heal()
        self.world.geography.loss = 0.0
        for node in self._left:
            if not node.is_up:
                await self._join(node)

    async def _settle(self) -> None:
        began = self.world.now
        while True:
            epochs = {node.name: await _epoch(node) for node in self._left}
            agree = len(set(epochs.values())) == 1 and "" not in epochs.values()
            # The audit first: rot that nobody has read yet is found by asking for proof.
            short = {**await self._audit(), **self._look_into_stores()} if agree else {"log": "the logs differ"}
            seconds = self.world.now - began
            if not short or seconds >= WITHIN_S:
                short.pop("log", None)
                self.history.add(Settled(seconds, WITHIN_S, epochs, short))
                return
            await asyncio.sleep(LOOK_S)

    def _wanting(self) -> dict[str, str]:
        return {key: self._roots[key] for key in self.history.standing() if key in self._roots}

    def _look_into_stores(self) -> dict[str, str]:
        """Documents of which some chunk lies on fewer nodes than its factor says, whatever anybody claims."""
        short = {}
        wanting, nodes = self._wanting(), [node for node in self._left if node.is_up]
        for cid, key in self._cids.items():
            if key not in wanting:
                continue
            holders = [node.name for node in nodes if _holds(node, Cid.parse(cid))]
            if len(holders) < min(FACTOR, len(nodes)):
                short[key] = f"{cid[-6:]} lies on {', '.join(holders) or 'no node'}"
        return self._unexcused(short)

    async def _audit(self) -> dict[str, str]:
        nodes = [node for node in self._left if node.is_up]
        try:
            found = await self.rng.choice(nodes).run(AuditReplication(prove=True))
        except RageError as error:
            return {"audit": str(error)}
        wanting = self._wanting()
        chunks = sum(key in wanting for key in self._cids.values())
        if found.checked < chunks:
            return {"audit": f"{found.checked} chunks were looked at, and {chunks} were acknowledged"}
        short = {}
        for finding in found.findings:
            key = self._docs.get(finding.doc_id, "")
            # A home that burnt keeps its place until somebody says that it is lost: then others' copies stand in.
            is_filled = (
                self.destroyed and finding.state in ("misplaced", "unreachable") and finding.have >= finding.want
            )
            if key in wanting and finding.state not in ("ok", "over") and not is_filled:
                short[key] = f"{finding.state}: {finding.have} of {finding.want}: {finding.reason}"
        return self._unexcused(short)

    def _unexcused(self, short: dict[str, str]) -> dict[str, str]:
        excused = excused_keys(self.history)
        return {key: words for key, words in short.items() if key not in excused}

    async def _read_all(self) -> None:
        for key in self._roots:
            for node in self._left:
                if node.is_up:
                    await self._get(node, key, is_final=True)
        await self._peeking()


def _replication_yaml() -> str:
    return f"replication:\n  version: 1\n  default_factor: {FACTOR}\n  grace: {GRACE}\n"


async def _epoch(node: Node) -> str:
    """Of its log; empty where it does not answer."""
    try:
        return str((await node.run(ShowSync())).epoch) if node.is_up else ""
    except RageError:
        return ""


def _holds(node: Node, cid: Cid) -> bool:
    """Whether the right bytes lie there and are more than cache: looked at without the store, which would mend them."""
    store = node.engine.store
    try:
        row = store.stat(cid)
        try:
            admit(cid, row.encoding, store.bodies.read(cid), row.size)
        except FileNotFoundError:  # small ones lie in the index
            store.get(cid)
    except RageError:
        return False
    return not row.cached


def _outcome(error: RageError) -> Outcome:
    is_refused = isinstance(error, StorageFullError) or error.id in ("node-unreachable", "usage", "denied")
    return "refused" if is_refused else "unknown"


def _no_room(*arguments: object) -> None:
    raise full("no room for more chunks", "the simulated disk is full")


def main() -> None:
    """`python -m rage_lab.sim.promises SEED`: one seed, and what happened in it."""
    run = play_seed(int(sys.argv[1]))
    lines = [*run.notes, *(str(violation) for violation in run.judgement.violations), run.digest]
    figures = f"{run.virtual_s:.0f} s in {run.cpu_s:.2f} s of processor; well after {run.judgement.seconds:.0f} s"
    sys.stdout.write("\n".join([*lines, figures, ""]))


if __name__ == "__main__":
    main()
