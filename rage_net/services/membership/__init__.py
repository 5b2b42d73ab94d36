"""Membership: the swarm, the peers this node knows, whether they live, and how to reach them.

Dials become connections or errors people can act on; whoever is named by a discovery server, the DHT, mDNS or gossip is
remembered, and met while we have few connections; signs of life feed the failure detector. Bans hold both ways.

Source: design D1, D8 ("dials bootstrap"); issue 3, F; seed, "Discovered peers are automatically connected".
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rage_net import refusals
from rage_net.bans import Ban, Bans
from rage_net.env import Env
from rage_net.errors import NotFoundError, RageError, UnavailableError, UsageError
from rage_net.libp2p.errors import DialError, Libp2pError, NotAdmittedError, PeerIdMismatchError
from rage_net.libp2p.multiaddr import Multiaddr, MultiaddrError
from rage_net.libp2p.peer_id import PeerId, PeerIdError
from rage_net.libp2p.scope import Scope, may_tell, scope_of
from rage_net.libp2p.swarm import Connected, Disconnected, Event, Identified
from rage_net.liveness import Changed, Liveness, heartbeat_interval_s
from rage_net.messages import CHUNK_PROTOCOL, Heartbeat, NodeInfo, PeerAnnouncement
from rage_net.peerstore import INBOUND, Peerstore
from rage_net.services.membership.views import show_connection
from rage_net.verbs.peer import BanResult, PeerRow

if TYPE_CHECKING:
    from rage_net.libp2p.scope import Scope, may_tell, scope_of
from rage_net.libp2p.swarm import Connection, Swarm

log = logging.getLogger("rage.membership")

Reach = Callable[[], Awaitable["Connection"]]

SOURCES_MAX = 32
"""Peers that one download asks: more would cost more questions than they bring bytes."""
KNOWN_DIALLED_MAX = 8
"""Peers of the peer store that a command without a node tries, newest first."""
PING_S_MAX = 10.0
PROBE_S_MAX = 5.0
"""For a suspect to give a sign of life."""
WANTED = 12
"""Connections below which known peers are dialled: gossip's mesh and a few more."""
CONNECTIONS_HIGH = 256
CONNECTIONS_LOW = 192
"""Above the first, connections are closed down to the second, well clear of the 512 at which dials fail: look-ups of
the DHT make many, and gossip would keep all of them. Fewer would cost a network of some hundred nodes a dial a
question."""
STREAMS_IDLE = 3
"""Streams of a connection on which nothing happens: gossip in both directions, and a ping."""
YOUNG_S = 30.0
"""A connection is not closed for so long: whoever made it has not had the time to use it."""
MEETING_MAX = 4
"""Known peers dialled in one round."""
BACKOFF_FIRST_S = 30.0
BACKOFF_S_MAX = 1800.0
"""A peer that could not be dialled rests for the first, then twice as long each time, up to the second."""
CANDIDATES_MAX = 1024
NODES_MAX = 4096
"""Nodes whose word of themselves is kept."""


@dataclass(frozen=True, slots=True)
class Node:
    """What a node said of itself over gossip; claims."""

    info: NodeInfo
    capabilities: tuple[str, ...] = ()
    former: int = 0
    """Its instance before this one."""
    is_twice: bool = False
    """Two instances speak with its key, in turn."""


class Membership:
    """The peers of one node."""

    def __init__(
        self,
        swarm: Swarm,
        peerstore: Peerstore,
        env: Env,
        bootstrap: Sequence[Multiaddr],
        dial_timeout_s: float,
        *,
        bans: Bans | None = None,
        save_bans: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self.swarm = swarm
        self.peerstore = peerstore
        self.bans = bans if bans is not None else Bans()
        self.liveness = Liveness(env.monotonic())
        self.nodes: OrderedDict[PeerId, Node] = OrderedDict()
        self.bootstrap = tuple(bootstrap)
        self.meet_again: Callable[[Connection], Awaitable[None]] = _nothing
        """Given by trust: shows certificates anew to a peer that was refused."""
        self._env = env
        self._save_bans = save_bans
        self._dial_timeout_s = dial_timeout_s
        self._bytes_in: dict[PeerId, int] = {}  # of each connection, when it was last looked at
        self._rests: OrderedDict[PeerId, tuple[float, float]] = OrderedDict()  # until when, and how long the next is
        swarm.admits = self.admits
        swarm.on_event(self._note)

    async def connect(self, address: Multiaddr) -> Connection:
        """A connection to the peer that the address names, live or new.

        Raises: UsageError without a peer id in the address; UnavailableError naming each address that was tried.
        """
        peer = address.peer_id
        if peer is None:
            raise UsageError(
                f"{address} does not say which peer is wanted",
                why="an address without /p2p/ could be answered by anyone",
                mend=[f"{address}/p2p/12D3KooW..."],
            )
        return await self._dial(peer, [address.without_peer_id()])

    async def find(self, text: str) -> Connection:
        """A connection to a peer by multiaddr, peer id, or a beginning or end of the id that is unique among the known.

        Raises: UsageError, NotFoundError, UnavailableError.
        """
        if text.startswith("/"):
            return await self.connect(parse_address(text))
        peer = self.match(text)
        live = self.swarm.connection(peer)
        if live is not None:
            return live
        known = self.peerstore.get(peer)
        if known is None or not known.addresses:
            raise NotFoundError(
                f"no address of {peer} is known",
                mend=[f"rage peer find {peer}", f"rage peer connect /ip4/HOST/tcp/4001/p2p/{peer}"],
            )
        return await self._dial(peer, known.addresses)

    def reaches(
        self, named: Sequence[str], holders: Sequence[PeerId] = (), *, dial_known: bool
    ) -> list[tuple[str, Reach]]:
        """Ways to sources of chunks, best first: named by the caller, holders before, connected, bootstrap, known ones.

        Each is a name for people and a function that gives the connection or raises RageError.
        """
        ways: dict[str, Reach] = {text: partial(self.find, text) for text in named}
        for peer in holders:
            ways[str(peer)] = partial(self.find, str(peer))
        for connection in self.swarm.connections():
            ways.setdefault(str(connection.peer_id), partial(_at_once, connection))
        for address in self.bootstrap:
            if str(address.peer_id) not in ways:
                ways[str(address)] = partial(self.connect, address)
        if dial_known:
            known = [peer for peer in self.peerstore if str(peer.peer_id) not in ways]
            for each in known[:KNOWN_DIALLED_MAX]:
                ways[str(each.peer_id)] = partial(self._dial, each.peer_id, each.addresses)
        return list(ways.items())[:SOURCES_MAX]

    async def reach(self, peer: PeerId, addresses: Sequence[Multiaddr], source: str) -> Connection:
        """A connection to a peer that `source` named with `addresses`. Raises RageError."""
        self.learn(peer, addresses, source)
        known = self.peerstore.get(peer)
        merged = dict.fromkeys([*addresses, *(known.addresses if known else ())])
        return await self._dial(peer, list(merged))

    # --- meeting peers ---

    def learn(self, peer: PeerId, addresses: Iterable[Multiaddr], source: str) -> bool:
        """Somebody named a peer. True when it is new here; ourselves and the banned are not learnt."""
        if peer == self.swarm.peer_id or not self.admits(peer):
            return False
        bare = [address.without_peer_id() for address in addresses if address.peer_id in (None, peer)]
        return bool(bare) and self.peerstore.learn(peer, bare, source)

    def learn_announced(self, peer: PeerId, addresses: Iterable[Multiaddr], source: str) -> bool:
        """A peer announced itself over gossip, which may have come from anywhere. True when it is new here."""
        live = self.swarm.connection(peer)
        met = [live] if live is not None else self.swarm.connections()
        reached = [connection.remote_address for connection in met]
        return self.learn(peer, believe_announced(addresses, reached, self.swarm.listen_addresses()), source)

    async def keep_connected(self) -> None:
        """One round: bootstrap peers that are not connected, and known peers while we have few connections."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.connect_to_bootstrap())
            for peer in self._candidates():
                tasks.create_task(self.meet(peer))

    async def trim(self, protected: Collection[PeerId]) -> int:
        """Close the least used connections when there are too many; how many. Those to `protected` peers stay."""
        connections = self.swarm.connections()
        high = min(CONNECTIONS_HIGH, self.swarm.limits.connections * 3 // 4)
        if len(connections) <= high:
            return 0
        now = self._env.monotonic()
        kept = {address.peer_id for address in self.bootstrap} | set(protected)
        free = [
            connection
            for connection in connections
            if connection.peer_id not in kept
            and len(connection.streams) <= STREAMS_IDLE
            and now - connection.opened_at >= YOUNG_S
        ]
        free.sort(key=lambda each: (each.bytes_in + each.bytes_out) / (now - each.opened_at))
        chosen = free[: len(connections) - min(CONNECTIONS_LOW, high)]
        await asyncio.gather(*(connection.close("more connections than are needed") for connection in chosen))
        return len(chosen)

    def _candidates(self) -> list[PeerId]:
        """Known peers to dial now, the latest met first; none when enough are connected."""
        missing = min(MEETING_MAX, WANTED - len(self.swarm.connections()))
        if missing <= 0:
            return []
        free = (
            known.peer_id
            for known in self.peerstore
            if known.addresses
            and self.swarm.connection(known.peer_id) is None
            and not self.is_resting(known.peer_id)
            and self.admits(known.peer_id)
        )
        return [peer for peer, _ in zip(free, range(missing), strict=False)]

    def is_resting(self, peer: PeerId) -> bool:
        """Whether a peer could not be reached not long ago."""
        return self._rests.get(peer, (0.0, 0.0))[0] > self._env.monotonic()

    async def meet(self, peer: PeerId, *, timeout_s: float | None = None) -> bool:
        """Dial a known peer; one that cannot be reached rests, longer each time. True when it is connected."""
        known = self.peerstore.get(peer)
        if known is None:
            return False
        try:
            await self._dial(peer, known.addresses, timeout_s)
        except RageError as error:
            log.debug("%s: %s", peer, error)
            self._rest(peer)
            return False
        self._rests.pop(peer, None)
        return True

    def _rest(self, peer: PeerId) -> None:
        _, rest_s = self._rests.pop(peer, (0.0, BACKOFF_FIRST_S))
        until = self._env.monotonic() + rest_s * self._env.random.uniform(0.75, 1.25)
        self._rests[peer] = until, min(BACKOFF_S_MAX, rest_s * 2)
        while len(self._rests) > CANDIDATES_MAX:
            self._rests.popitem(last=False)

    async def connect_to_bootstrap(self) -> None:
        """Dial the bootstrap peers that are not connected, all at once: one that is dead keeps no other waiting."""
        async with asyncio.TaskGroup() as tasks:
            for address in self.bootstrap:
                if address.peer_id is not None and self.swarm.connection(address.peer_id) is None:
                    tasks.create_task(self._meet(address))

    async def _meet(self, address: Multiaddr) -> None:
        try:
            await self.connect(address)
        except RageError as error:  # it may come back: the next round tries again
            log.debug("bootstrap peer %s: %s", address, error)

    # --- bans ---

    def admits(self, peer: PeerId) -> bool:
        """Whether we have to do with a peer at all."""
        return self.ban_on(peer) is None

    def ban_on(self, peer: PeerId) -> Ban | None:
        """The ban on a peer, if one is in force."""
        return self.bans.get(peer, self._env.now())

    async def ban(self, text: str, for_s: float | None, reason: str) -> BanResult:
        """Drop a peer and have nothing to do with it until the ban ends. Durable when it returns. Raises RageError."""
        peer = self.named(text)
        if peer == self.swarm.peer_id:
            raise UsageError("this is the node itself", mend=["rage peer list"])
        now = self._env.now()
        until = None if for_s is None else now + for_s
        self.bans.add(Ban(peer, until, reason), now)
        await self._write_bans()
        connection = self.swarm.connection(peer)
        if connection is not None:
            await connection.close("banned by the operator")
        self.liveness.forget(peer)
        return BanResult(str(peer), True, until, reason, connection is not None)

    async def unban(self, text: str) -> BanResult:
        """Lift a ban. Durable when it returns. Raises NotFoundError when there is none."""
        known = [ban.peer_id for ban in self.bans.listed(self._env.now())]
        found = [peer for peer in known if str(peer).startswith(text) or str(peer).endswith(text)]
        peer = found[0] if len(found) == 1 else self.named(text)
        ban = self.bans.lift(peer)
        if ban is None:
            raise refusals.not_banned(str(peer))
        await self._write_bans()
        return BanResult(str(peer), False, ban.until, ban.reason)

    def named(self, text: str) -> PeerId:
        """The peer that an id, a part of it or a multiaddr means. Raises RageError."""
        if text.startswith("/"):
            peer = parse_address(text).peer_id
            if peer is None:
                raise UsageError(f"{text} names no peer", mend=[f"{text}/p2p/12D3KooW..."])
            return peer
        return self.match(text)

    async def _write_bans(self) -> None:
        if self._save_bans is not None:
            await self._save_bans(self.bans.to_text())

    # --- who lives ---

    def heard(self, peer: PeerId, *, is_node: bool = False) -> None:
        """A sign of life of a peer. Only nodes are watched: commands and dial-backs come and go."""
        is_watched = is_node or self.liveness.state(peer) is not None
        if is_watched and peer != self.swarm.peer_id and self.admits(peer):
            self._tell(self.liveness.heard(peer, self._env.monotonic()))

    def note(self, peer: PeerId, said: Heartbeat | PeerAnnouncement) -> None:
        """What a node said of itself over gossip: a sign of life, and claims to show."""
        if peer == self.swarm.peer_id or not self.admits(peer):
            return
        old = self.nodes.pop(peer, None)
        capabilities = said.capabilities if isinstance(said, PeerAnnouncement) else old.capabilities if old else ()
        former, is_twice, instance = 0, False, said.node_info.instance
        if old is not None:
            is_twice = old.is_twice or (old.former == instance != old.info.instance)
            former = old.former if instance == old.info.instance else old.info.instance
            if is_twice and not old.is_twice:
                log.warning("two nodes speak with the key of %s", peer)
        self.nodes[peer] = Node(said.node_info, capabilities, former, is_twice)
        while len(self.nodes) > NODES_MAX:
            self.nodes.popitem(last=False)
        self.heard(peer, is_node=True)

    async def watch(self) -> None:
        """One turn of the failure detector: bytes that came are signs of life.

        It waits for nothing: a turn that comes late counts as our own stall.
        """
        for connection in self.swarm.connections():
            if connection.bytes_in != self._bytes_in.get(connection.peer_id, -1):
                self._bytes_in[connection.peer_id] = connection.bytes_in
                self.heard(connection.peer_id)
        self.liveness.pace(heartbeat_interval_s(len(self.nodes)))
        self._tell(self.liveness.turn(self._env.monotonic()))

    async def probe(self) -> None:
        """One round: suspects are asked for a sign of life."""
        async with asyncio.TaskGroup() as tasks:
            for peer in self.liveness.probes(self._env.monotonic(), self._may_probe):
                assert isinstance(peer, PeerId)
                tasks.create_task(self._probe(peer))

    def _may_probe(self, peer: Hashable) -> bool:
        """Only who is connected, or was dialled before.

        Else whoever announces many nodes at the address of a victim, and lets them fall silent, has every node of the
        network dial there again and again.
        """
        assert isinstance(peer, PeerId)
        known = self.peerstore.get(peer)
        return self.swarm.connection(peer) is not None or (known is not None and known.was_dialled)

    async def _probe(self, peer: PeerId) -> None:
        known = self.peerstore.get(peer)
        try:
            async with asyncio.timeout(PROBE_S_MAX):
                if self.swarm.connection(peer) is None:
                    await self.swarm.dial(peer, known.addresses[:1] if known else (), timeout_s=PROBE_S_MAX)
                await self.swarm.ping(peer, timeout_s=PROBE_S_MAX)
        except (Libp2pError, TimeoutError) as error:
            log.debug("%s gives no sign of life: %s", peer, error)
            self._tell(self.liveness.probe_failed(peer, self._env.monotonic()))
        else:
            self.heard(peer)

    def _tell(self, changes: Iterable[Changed]) -> None:
        for change in changes:
            level = {"gone": logging.WARNING, "alive": logging.INFO}.get(change.after, logging.DEBUG)
            if change.before == "suspect" and change.after == "alive":
                level = logging.DEBUG  # a doubt that passed is nobody's business
            log.log(level, "%s is %s (was %s)", change.peer, change.after, change.before)

    def _note(self, event: Event) -> None:
        match event:
            case Connected(peer):
                self._rests.pop(peer, None)
                self.heard(peer)
            case Disconnected(peer, _, is_orderly):
                self._bytes_in.pop(peer, None)
                if not is_orderly:  # a goodbye is no sign of death: heartbeats will tell
                    self._tell(self.liveness.doubt(peer, self._env.monotonic()))
            case Identified(peer, said):
                if (connection := self.swarm.connection(peer)) is not None:
                    self._remember(connection, said.listen_addresses)
                self.heard(peer, is_node=CHUNK_PROTOCOL in said.protocols)

    def _remember(self, connection: Connection, listens: Iterable[Multiaddr]) -> None:
        """A peer said where it listens: believed as far as who is reached there may know of such an address."""
        peer, reached = connection.peer_id, connection.remote_address
        told = [
            address.without_peer_id()
            for address in listens
            if address.peer_id in (None, peer) and len(address.parts) > 1 and may_tell(address, reached)
        ]
        if not connection.inbound:
            self.peerstore.add(peer, [reached.without_peer_id(), *told], self._env.now(), "configured")
        elif told or self.peerstore.get(peer) is not None:  # a command listens nowhere: there is nothing to remember
            self.peerstore.add(peer, told, self._env.now(), INBOUND)

    async def ping(self, connection: Connection) -> float:
        """One round trip, in seconds. Raises UnavailableError."""
        try:
            return await self.swarm.ping(connection.peer_id, timeout_s=PING_S_MAX)
        except (Libp2pError, TimeoutError) as error:
            raise UnavailableError(f"{connection.peer_id} did not answer the ping", why=str(error)) from error

    async def examine(self, connection: Connection, now: float) -> PeerRow:
        """A connected peer with a round trip, and what it says of itself."""
        rtt_s = await self.ping(connection)
        return show_connection(connection, now, rtt_s)

    async def _dial(self, peer: PeerId, addresses: Sequence[Multiaddr], timeout_s: float | None = None) -> Connection:
        ban = self.ban_on(peer)
        if ban is not None:
            raise refusals.banned(str(peer), ban.until, ban.reason)
        try:
            connection = await self.swarm.dial(peer, addresses, timeout_s=timeout_s or self._dial_timeout_s)
        except PeerIdMismatchError as error:
            raise UnavailableError(
                f"{addresses[0]} is answered by another peer than {peer}",
                why=str(error),
                mend=["ask its operator for the peer id: rage node id"],
                id="peer-mismatch",
            ) from error
        except NotAdmittedError as error:
            unoffered = self.swarm.connection_unoffered(peer)
            if unoffered is not None:  # one of us may have changed its mind since
                await self.meet_again(unoffered)
                if (met := self.swarm.connection(peer)) is not None:
                    return met
            raise refusals.not_trusted(str(peer), error.refusal) from error
        except DialError as error:
            reasons = "; ".join(f"{where}: {what}" for where, what in error.reasons) or str(error)
            raise UnavailableError(
                f"{peer} cannot be reached",
                why=reasons,
                mend=["rage peer list", "is it running? rage node status"],
                id="peer-unreachable",
            ) from error
        except Libp2pError as error:
            raise UnavailableError(f"{peer} cannot be reached", why=str(error), id="peer-unreachable") from error
        if not connection.inbound:  # it may have come to us meanwhile, from a port that nobody listens at
            self.peerstore.add(peer, [connection.remote_address.without_peer_id()], self._env.now(), "configured")
        return connection

    def match(self, text: str) -> PeerId:
        """A peer by its id, or a beginning or end of it that is unique among the known. Raises RageError."""
        try:
            return PeerId.parse(text)
        except PeerIdError:
            pass
        found = {peer for peer in self._known() if str(peer).startswith(text) or str(peer).endswith(text)}
        if len(found) == 1:
            return found.pop()
        if found:
            raise UsageError(
                f"{text!r} fits {len(found)} peers",
                mend=[f"rage peer info {peer}" for peer in sorted(found, key=str)[:3]],
            )
        raise NotFoundError(f"no peer {text!r} is known", mend=["rage peer list --known"], id="peer-not-found")

    def _known(self) -> Iterator[PeerId]:
        for connection in self.swarm.connections():
            yield connection.peer_id
        for peer in self.peerstore:
            yield peer.peer_id


def believe_announced(
    addresses: Iterable[Multiaddr], reached: Iterable[Multiaddr], listens: Iterable[Multiaddr]
) -> list[Multiaddr]:
    """Of the addresses that a message of unknown way names, those that may be dialled.

    Who has peers all over the world may be told by anyone of an address in its own network: private addresses are
    believed where all peers are as near, and loopback ones besides by those alone who listen nowhere else.

    Args: reached: where the peers are that it may have come from. listens: where we listen.
    """
    is_near = all(scope_of(address) == Scope.MACHINE for address in listens)
    least = max([Scope.MACHINE if is_near else Scope.NETWORK, *(scope_of(address) for address in reached)])
    return [address for address in addresses if scope_of(address) >= least]


def parse_address(text: str) -> Multiaddr:
    """A multiaddr as people write it. Raises UsageError."""
    try:
        return Multiaddr.parse(text)
    except MultiaddrError as error:
        raise UsageError(
            f"{text!r} is no multiaddr", why=str(error), mend=["/ip4/192.0.2.7/tcp/4001/p2p/12D3KooW..."]
        ) from None


async def _nothing(connection: Connection) -> None:
    pass


async def _at_once(connection: Connection) -> Connection:
    return connection
