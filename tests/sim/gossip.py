"""Many routers of gossipsub and nothing below them: RPCs as objects, late and lost, under virtual time, from one seed.

The rules alone: signatures are not made. A link loses whole RPCs, subscriptions and grafts included, which no real
stream does, and nothing is sent again; a hostile node takes part in meshes and drops every message it is given.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rage_net.libp2p.gossipsub import Delivered, Message, Params, Router, Rpc
from rage_net.libp2p.gossipsub.router import PROTOCOL_1_2
from rage_net.libp2p.peer_id import PeerId

TOPIC = "rage.global"
DEFAULTS = Params()
EPOCH_S = 1_800_000_000.0
DIALS = 10
"""Links that each node begins, to others by chance; so it has about twice as many."""
DELAY_S = (0.01, 0.15)
"""One way, drawn for each link: a continent or an ocean."""


@dataclass
class Node:
    router: Router
    is_hostile: bool
    delays: dict[PeerId, float] = field(default_factory=dict)
    busy: dict[PeerId, float] = field(default_factory=dict)
    """Links with bytes on their way out, and until when."""


@dataclass(frozen=True)
class Figures:
    """What became of the messages that were published."""

    messages: int
    reached: float
    """Part of (message, honest node) pairs that met in time."""
    worst: float
    """The same for the message that reached the fewest."""
    duplicates: float
    """Copies after the first, a message and an honest node."""
    mesh: float
    """Mean size of a mesh."""
    median_s: float
    last_s: float
    """Until the median, and the last, of the nodes that were reached."""
    rpcs: int
    broken_promises: int


class World:
    """A network that is wired at random and runs until it is told to stop."""

    def __init__(
        self,
        seed: int,
        size: int,
        *,
        params: Params = DEFAULTS,
        loss: float = 0.0,
        hostile: float = 0.0,
        dials: int = DIALS,
        data_bytes: int = 200,
        rate_bytes_s: float = float("inf"),
    ) -> None:
        self.now = 0.0
        self.loss = loss
        self.random = random.Random(seed)
        self.data_bytes = data_bytes
        self.rate_bytes_s = rate_bytes_s
        """Of each direction of a link."""
        self.rpcs = 0
        self.arrivals: dict[bytes, dict[PeerId, float]] = {}
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        ids = [PeerId(b"\x00\x24\x08\x01\x12\x20" + self.random.randbytes(32)) for _ in range(size)]
        bad = set(self.random.sample(range(size), round(hostile * size)))
        self.nodes = {id: Node(self._router(id, params), index in bad) for index, id in enumerate(ids)}
        for index, id in enumerate(ids):
            others = self.random.sample([*ids[:index], *ids[index + 1 :]], min(dials, size - 1))
            for other in others:
                if other not in self.nodes[id].delays:
                    self.link(id, other)
        for id in ids:
            self.nodes[id].router.join(TOPIC, 0.0)
            self._flush(id)
            self._at(self.random.uniform(0, params.heartbeat_s), lambda id=id: self._beat(id))

    @property
    def honest(self) -> list[PeerId]:
        return [id for id, node in self.nodes.items() if not node.is_hostile]

    def _router(self, id: PeerId, params: Params) -> Router:
        return Router(
            id,
            params,
            random=random.Random(self.random.getrandbits(64)),
            sign=lambda message: b"a signature",
            check=lambda message: None,
        )

    def link(self, dialler: PeerId, other: PeerId) -> None:
        delay_s = self.random.uniform(*DELAY_S)
        for here, there in ((dialler, other), (other, dialler)):
            node = self.nodes[here]
            node.delays[there] = delay_s
            node.router.add_peer(there, there.multihash.hex(), is_outbound=here is dialler, protocol=PROTOCOL_1_2)

    def run(self, until: float) -> None:
        while self._due and self._due[0][0] <= until:
            self.now, _, act = heapq.heappop(self._due)
            act()
        self.now = until

    def publish(self, id: PeerId) -> bytes:
        data = self.random.randbytes(self.data_bytes)
        message, _ = self.nodes[id].router.publish(TOPIC, data, self.now, EPOCH_S + self.now)
        self.arrivals[message.id] = {id: self.now}
        self._flush(id)
        return message.id

    def _at(self, when: float, act: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._due, (when, self._count, act))

    def _beat(self, id: PeerId) -> None:
        router = self.nodes[id].router
        router.heartbeat(self.now)
        self._flush(id)
        self._at(self.now + router.params.heartbeat_s, lambda: self._beat(id))

    def _flush(self, id: PeerId) -> None:
        for peer in self.nodes[id].router.take_pending():
            self._send(id, peer)

    def _send(self, id: PeerId, peer: PeerId) -> None:
        """Send what waits for `peer`, as fast as the link takes it."""
        node = self.nodes[id]
        while node.busy.get(peer, 0.0) <= self.now and (rpc := node.router.take(peer)) is not None:
            if node.is_hostile:
                rpc = replace(rpc, messages=(), have=(), want=(), unwanted=())
            self.rpcs += 1
            sent_at = self.now + sum(message.size for message in rpc.messages) / self.rate_bytes_s
            if self.random.random() >= self.loss:
                self._at(sent_at + node.delays[peer], lambda rpc=rpc: self._arrive(id, peer, rpc))
            if sent_at > self.now:
                node.busy[peer] = sent_at
                self._at(sent_at, lambda: self._send(id, peer))

    def _arrive(self, source: PeerId, id: PeerId, rpc: Rpc) -> None:
        node = self.nodes[id]
        if node.is_hostile:
            rpc = replace(rpc, messages=(), have=(), want=(), unwanted=())
        for event in node.router.receive(source, rpc, self.now, EPOCH_S + self.now):
            if isinstance(event, Delivered):
                self._note(id, event.message)
        self._flush(id)

    def _note(self, id: PeerId, message: Message) -> None:
        times = self.arrivals[message.id]
        assert id not in times, "a message was delivered twice"
        times[id] = self.now

    def figures(self, published: dict[bytes, float], within_s: float) -> Figures:
        """Args: published: messages and when each was."""
        honest = set(self.honest)
        parts, delays = [], []
        for id, at in published.items():
            taken = [when - at for peer, when in self.arrivals[id].items() if peer in honest and when - at <= within_s]
            parts.append(len(taken) / len(honest))
            delays += taken
        delays.sort()
        routers = [self.nodes[id].router for id in honest]
        return Figures(
            messages=len(published),
            reached=sum(parts) / len(parts),
            worst=min(parts),
            duplicates=sum(router.counts["duplicates"] for router in routers) / len(routers) / len(published),
            mesh=sum(len(router.mesh.members(TOPIC)) for router in routers) / len(routers),
            median_s=delays[len(delays) // 2],
            last_s=delays[-1],
            rpcs=self.rpcs,
            broken_promises=sum(router.counts["promises_broken"] for router in routers),
        )


def play(
    seed: int,
    size: int,
    *,
    messages: int,
    loss: float,
    hostile: float = 0.0,
    params: Params = DEFAULTS,
    warm_s: float = 15.0,
    spread_s: float = 30.0,
    **more: float,
) -> Figures:
    """Let meshes form, publish from honest nodes by chance over `spread_s`, wait six heartbeats after the last."""
    world = World(seed, size, loss=loss, hostile=hostile, params=params, **more)  # type: ignore[arg-type]
    within_s = 6 * params.heartbeat_s
    world.run(warm_s)
    published = {}
    for at in sorted(world.random.uniform(warm_s, warm_s + spread_s) for _ in range(messages)):
        world.run(at)
        published[world.publish(world.random.choice(world.honest))] = at
    world.run(warm_s + spread_s + within_s)
    return world.figures(published, within_s)
