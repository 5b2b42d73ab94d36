"""Sync, `/rage/sync/1.0.0`: what one node's log lacks comes from another's, both ends; and the gossip that says when.

    announce   our chains have grown: heads go out on the organisation's topic and on rage.acl.updates
    hear       others' have: what we lack is fetched, from the author if it is connected, else from who has it
    pull       one exchange: our heads out, segments in, verified before anything is applied, acknowledged
    serve      the other end: authorize once, then what the caller lacks and may see
    round      anti-entropy: each peer now and then, whatever gossip said

Gossip carries heads only. What follows from new facts (documents dropped, connections cut, rights changed) is the
caller's, by `on_facts`. Not here: the log (sync.log), what counts (sync.rights), who may see what (access).

Source: design D6, D9; contracts/rage.proto; seed, "Sync Protocol"; issue 4, D.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from rage_net.acl import Principal
from rage_net.env import Env, finished
from rage_net.errors import NotFoundError, RageError, RemoteProtocolError, StorageFullError, UnavailableError, from_wire
from rage_net.libp2p import varint
from rage_net.libp2p.errors import Libp2pError, NegotiationError, StreamClosedError, StreamResetError
from rage_net.libp2p.gossipsub import Message, Verdict
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.rates import Rates
from rage_net.metrics import Metrics
from rage_net.pacing import Pacing
from rage_net.sync import wire
from rage_net.sync.envelope import HASH_BYTES, ChainId, Head, Segment
from rage_net.sync.facts import Access, Fact
from rage_net.sync.log import Log, Taken
from rage_net.verbs.sync import DiffRow, SyncedPeer, SyncPeerRow

if TYPE_CHECKING:
    from rage_net.libp2p.pubsub import PubSub, Subscription
    from rage_net.libp2p.swarm import Connection, Stream, Swarm

log = logging.getLogger("rage.sync")

T = TypeVar("T")

REQUEST_S_MAX = 10.0
RESPONSE_S_MAX = 30.0
"""For one response to come: 5 MiB at 170 KB/s."""
EXCHANGE_S_MAX = 600.0
"""A newcomer fetches 600 MB in that time at 1 MB/s; the next exchange goes on where this one ended."""
SLICE_S_MAX = 60.0
"""The same for what a node does by itself: who brings little in that time keeps nobody waiting for longer."""
TURN_S_MAX = 2.0
"""Exchanges about one log take turns, so that what two peers hold alike is fetched from one; but no longer than this: a
peer that dawdles must not keep a revocation from us that others have."""
AT_ONCE = 4
"""Exchanges of one round that may be under way together."""
FRUITLESS_MAX = 4
"""Responses that bring nothing new, one after another; another exchange may just have brought the same."""
PACED_S_MAX = 10.0
"""For the lane to make up for one response, before the next. What an admin takes back must not wait, so what is given
first is never held up; a limit slows down who has much to catch up on, and does not stop it."""
RESPONSE_PAYLOAD_BYTES = 4 << 20
EXCHANGE_PAYLOAD_BYTES = 4 << 30
"""Given in one exchange, a response at a time: none is that large."""
SMALL_BYTES = 16 << 10
"""Messages up to this are read and written on the event loop; larger ones, in a thread."""
SERVED_MAX = 8
"""Exchanges served at a time; more are told to come back. Each holds one response in memory."""
SERVED_OTHERS_MAX = 4
"""Of these, for all peers of other organisations."""
SERVED_PEER_MAX = 2
PEERS_A_ROUND = 16
FETCH_S_MAX = 3.0
"""For one peer to give what gossip named."""
FETCH_TRIES = 6
FETCH_BACKOFF_S = 0.15
"""Between two attempts to fetch what gossip named; doubles. Its next holder has it a round trip later than we heard."""
WANTED_MAX = 4096
"""Chains that gossip named and that are being fetched."""
WANTED_OF_ONE_MAX = 128
"""Of these, by the word of one peer: who names what is not there takes nobody else's place."""
ANNOUNCE_S_MIN = 0.1
"""Between two announcements: what is written meanwhile goes into the next."""
HEARD_PER_S, HEARD_BURST = 20.0, 100.0
"""Announcements of one author that are passed on."""
FULL_AGAIN_S = 10.0
"""After a log could not be written for want of room."""
NOT_OPENED = "it does not open sync to this node"
STATES_MAX = 1024
"""Peers whose copy is remembered."""

Authority = Callable[[PeerId, tuple[bytes, ...]], frozenset[str] | None]
OnFacts = Callable[[str, Sequence[Fact]], Awaitable[None]]


@dataclass(slots=True)
class PeerState:
    """What a peer last told of its copy of one log."""

    organization: str
    heads: dict[ChainId, Head] = field(default_factory=dict)
    """Of chains that we hold, too: what else a peer names costs us no memory."""
    at: float = 0.0
    error: str = ""


@dataclass(slots=True)
class _Tally:
    """What an exchange came to so far."""

    received: int = 0
    refused: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    is_equal: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """Who may have which log, and what of it; and what is to be done with new facts.

    authority: judges authors of an organisation's log. principal_of: who a peer is. may_sync: whether a principal may
    have a log at all. may_see: which facts of it; None for all. on_facts: called with new facts, after they are
    durable. conflicts: contradictions on some resources of a log, as a report carries them. on_agreed: called with the
    time when we held all that a node of our own organisation held. has_others: whether another organisation gets facts
    of ours. on_rejudged: called when what stood before may count otherwise, though nothing new says so: a chain forked.
    Of these, conflicts and on_rejudged are called in threads.
    """

    authority: Callable[[str], Authority]
    principal_of: Callable[[PeerId], Principal]
    may_sync: Callable[[Principal, str], bool]
    may_see: Callable[[Principal, str, Sequence[str]], Callable[[Fact], bool] | None]
    on_facts: OnFacts
    conflicts: Callable[[str, Collection[str]], Sequence[wire.Conflict]]
    on_agreed: Callable[[float], None]
    has_others: Callable[[], bool]
    on_rejudged: Callable[[], None]


class Syncing:
    """One node's exchange of logs.

    Args: organization: our own. peers: those to exchange with, none for all that trust allows. tags: of the documents
    that we take facts about, none for all. pacing: the lanes of this node; without it nothing is limited.
    """

    def __init__(
        self,
        log_: Log,
        organization: str,
        swarm: Swarm,
        env: Env,
        metrics: Metrics,
        rules: Rules,
        *,
        peers: Sequence[PeerId] = (),
        tags: Sequence[str] = (),
        pacing: Pacing | None = None,
    ) -> None:
        self.organization = organization
        """Our own."""
        self.refused: Counter[str] = Counter()
        """Segments refused, by why."""
        self.refused_lately: tuple[str, float] | None = None
        """Why one was refused last, and when, on the monotonic clock."""
        self._log = log_
        self._swarm = swarm
        self._env = env
        self._metrics = metrics
        self._rules = rules
        self._peers = frozenset(peers)
        self._tags = tuple(tags)
        self._pacing = pacing or Pacing(env.monotonic, metrics)
        self._states: OrderedDict[tuple[PeerId, str], PeerState] = OrderedDict()
        self._serving: Counter[PeerId] = Counter()
        self._serving_others = 0
        self._turns: dict[str, asyncio.Lock] = {}
        self._wanted: OrderedDict[tuple[str, ChainId], tuple[Head, PeerId]] = OrderedDict()
        self._has_wanted = asyncio.Event()
        self._to_announce: dict[str, dict[ChainId, Head]] = {}
        self._has_news = asyncio.Event()
        self._behind: OrderedDict[tuple[PeerId, str], None] = OrderedDict()
        self._is_behind = asyncio.Event()
        self._rates = Rates(burst=HEARD_BURST, rate_s=HEARD_PER_S, names_max=STATES_MAX)
        self._pubsub: PubSub | None = None
        self.on_report: Callable[[PeerId, wire.NodeReport], None] = lambda peer, report: None
        """Called with what nodes of our organisation say of themselves."""

    # --- gossip ---

    def gossip(self, pubsub: PubSub) -> None:
        """Speak and listen on the organisation's topic and on rage.acl.updates."""
        self._pubsub = pubsub

    def announce(self, organization: str, heads: Iterable[Head]) -> None:
        """Chains have grown here: tell their heads, soon."""
        self._to_announce.setdefault(organization, {}).update({head.chain: head for head in heads})
        self._has_news.set()

    async def speak(self) -> None:
        """Publish what was announced, for as long as the task lives."""
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            grown, self._to_announce = self._to_announce, {}
            for organization, heads in grown.items():
                self._publish(organization, list(heads.values()))
            await asyncio.sleep(ANNOUNCE_S_MIN)

    def _publish(self, organization: str, heads: Sequence[Head]) -> None:
        if self._pubsub is None:
            return
        topics = [f"rage.org.{organization}"] if organization == self.organization else []
        for at in range(0, len(heads), wire.HEADS_ANNOUNCED_MAX):
            data = wire.encode_announcement(organization, heads[at : at + wire.HEADS_ANNOUNCED_MAX])
            # Members hear it on their own topic; the other is for those of other organisations.
            for topic in (*topics, *([wire.UPDATES_TOPIC] if self._rules.has_others() or not topics else [])):
                if self._pubsub.peers(topic):
                    with suppress(Libp2pError):
                        self._pubsub.publish(topic, data)

    def report(self, report: wire.NodeReport) -> None:
        """Tell our organisation how this node is."""
        topic = f"rage.org.{self.organization}"
        if self._pubsub is not None and self._pubsub.peers(topic):
            with suppress(Libp2pError):
                self._pubsub.publish(topic, wire.encode_node_report(self.organization, report))

    def judge(self, message: Message) -> Verdict:
        """Whether an announcement is passed on: it must be one, and its author must not say too much."""
        is_report = message.topic != wire.UPDATES_TOPIC and wire.decode_node_report(message.data) is not None
        if not is_report and wire.decode_announcement(message.data) is None:
            return Verdict.REJECT
        if self._rates.take(message.author, self._env.monotonic()):
            return Verdict.IGNORE
        return Verdict.ACCEPT

    async def listen(self, subscription: Subscription) -> None:
        """Hear a topic, for as long as the task lives."""
        async for message in subscription:
            self.hear(message)

    def hear(self, message: Message) -> None:
        """Others' chains have grown: what we lack of them is fetched."""
        heard = wire.decode_announcement(message.data)
        if message.author == self._swarm.peer_id:
            return
        if heard is None:
            told = wire.decode_node_report(message.data) if message.topic != wire.UPDATES_TOPIC else None
            if told is not None and told[0] == self.organization:
                self.on_report(message.author, told[1])
            return
        organization, heads = heard
        if organization != self.organization and organization not in self._log.organizations():
            return
        self._want(organization, heads, message.author)

    def _want(self, organization: str, heads: Iterable[Head], holder: PeerId) -> None:
        ours = {head.chain: head.sequence for head in self._log.heads(organization)}
        left = WANTED_OF_ONE_MAX - sum(each == holder for _, each in self._wanted.values())
        for head in heads:
            if head.sequence > ours.get(head.chain, 0):
                if (organization, head.chain) not in self._wanted:
                    if left <= 0:
                        return
                    left -= 1
                self._wanted[organization, head.chain] = head, holder
                while len(self._wanted) > WANTED_MAX:
                    self._wanted.popitem(last=False)
                self._has_wanted.set()

    async def fetch_wanted(self) -> None:
        """Fetch what gossip named, for as long as the task lives."""
        while True:
            await self._has_wanted.wait()
            self._has_wanted.clear()
            wait_s = FETCH_BACKOFF_S
            tried: dict[tuple[str, ChainId], tuple[Head, PeerId]] = {}
            for _ in range(FETCH_TRIES):
                tried = dict(self._wanted)
                await self._fetch_once()
                if not self._wanted:
                    break
                await asyncio.sleep(wait_s * self._env.random.uniform(0.75, 1.25))
                wait_s *= 2
            for key, wanted in tried.items():  # the next round will find what nobody had
                if self._wanted.get(key) == wanted:
                    del self._wanted[key]
            if self._wanted:  # named meanwhile
                self._has_wanted.set()

    async def _fetch_once(self) -> None:
        by_organization: dict[str, dict[ChainId, PeerId]] = {}
        for (organization, chain), (_, holder) in self._wanted.items():
            by_organization.setdefault(organization, {})[chain] = holder
        for organization, chains in by_organization.items():
            for connection in self._holders(organization, chains):
                await self.pull(connection, organization, list(chains), within_s=FETCH_S_MAX)
                self._drop_met(organization)
                if not any(key[0] == organization for key in self._wanted):
                    break

    def _holders(self, organization: str, chains: dict[ChainId, PeerId]) -> list[Connection]:
        """Whom to ask for what gossip named: those who said so, then two others."""
        first = [self._swarm.connection(peer) for peer in dict.fromkeys(chains.values())]
        found = [each for each in first if each is not None and self._may_pull(each.peer_id, organization)][:4]
        others = [each for each in self._swarm.connections() if each not in found]
        others = [each for each in others if self._may_pull(each.peer_id, organization)]
        self._env.random.shuffle(others)
        return found + others[:2]

    def _drop_met(self, organization: str) -> None:
        ours = {head.chain: head.sequence for head in self._log.heads(organization)}
        for key, (head, _) in list(self._wanted.items()):
            if key[0] == organization and ours.get(key[1], 0) >= head.sequence:
                del self._wanted[key]

    def _may_pull(self, peer: PeerId, organization: str) -> bool:
        if self._peers and peer not in self._peers:
            return False
        principal = self._rules.principal_of(peer)
        if principal.organization == self.organization:
            return True
        return principal.organization == organization and "sync" in principal.scopes

    # --- anti-entropy ---

    def met(self, peer: PeerId) -> None:
        """A peer has just been trusted, or trusted otherwise: exchange with it soon."""
        for organization in self._organizations_with(peer):
            self._behind[peer, organization] = None
            self._is_behind.set()

    async def round(self) -> None:
        """Exchange with some of the connected peers, whatever gossip said."""
        peers = [each for each in self._swarm.connections() if self._organizations_with(each.peer_id)]
        self._env.random.shuffle(peers)
        await self._pull_all(
            (connection, organization)
            for connection in peers[:PEERS_A_ROUND]
            for organization in self._organizations_with(connection.peer_id)
        )

    async def catch_up(self) -> None:
        """Pull from peers that were just met, or whose acknowledgements showed more; for as long as the task lives."""
        while True:
            await self._is_behind.wait()
            self._is_behind.clear()
            behind, self._behind = self._behind, OrderedDict()
            connections = [(self._swarm.connection(peer), organization) for peer, organization in behind]
            await self._pull_all((each, organization) for each, organization in connections if each is not None)

    async def _pull_all(self, pulls: Iterable[tuple[Connection, str]]) -> None:
        """Pull from several, some at a time. Who was at it until its time was over, and brought something, goes on."""
        places = asyncio.Semaphore(AT_ONCE)

        async def pull(connection: Connection, organization: str) -> None:
            async with places:
                outcome = await self.pull(connection, organization, within_s=SLICE_S_MAX)
            if outcome.error and outcome.received:
                self._behind[connection.peer_id, organization] = None
                self._is_behind.set()

        async with asyncio.TaskGroup() as tasks:
            for connection, organization in pulls:
                tasks.create_task(pull(connection, organization))

    async def exchange(self, connection: Connection) -> list[SyncedPeer]:
        """Pull every log that a peer may give us."""
        return [
            await self.pull(connection, organization) for organization in self._organizations_with(connection.peer_id)
        ]

    def _organizations_with(self, peer: PeerId) -> list[str]:
        known = {self.organization, *self._log.organizations()}
        theirs = self._rules.principal_of(peer).organization
        return sorted(each for each in known | ({theirs} if theirs else set()) if self._may_pull(peer, each))

    # --- the caller ---

    async def pull(
        self,
        connection: Connection,
        organization: str,
        chains: Sequence[ChainId] | None = None,
        *,
        within_s: float = EXCHANGE_S_MAX,
    ) -> SyncedPeer:
        """One exchange about one log; never raises for what a peer does. `chains` alone, or all."""
        started = self._env.monotonic()
        peer = connection.peer_id
        state = self._state(peer, organization)
        tally = _Tally()
        try:
            async with self._turn(organization), asyncio.timeout(within_s):
                await self._pull(connection, organization, chains, state, tally)
            state.error = ""
        except (RageError, Libp2pError, TimeoutError) as error:
            state.error = _say(error)
            self._metrics.sync_events.add(1, "failed")
            log.info("sync of %s with %s: %s", organization, peer, state.error)
            if isinstance(error, StorageFullError):  # once there is room, nobody tells us what we missed
                asyncio.get_running_loop().call_later(FULL_AGAIN_S, self.met, peer)
        seconds = round(self._env.monotonic() - started, 3)
        told = tally.received, tally.refused, tally.sent_bytes, tally.received_bytes
        return SyncedPeer(str(peer), organization, *told, seconds, tally.is_equal, state.error)

    @asynccontextmanager
    async def _turn(self, organization: str) -> AsyncIterator[None]:
        """Wait until no other exchange about this log is under way, but not for long."""
        turn = self._turns.setdefault(organization, asyncio.Lock())
        has_turn = False
        with suppress(TimeoutError):
            async with asyncio.timeout(TURN_S_MAX):
                has_turn = await turn.acquire()
        try:
            yield
        finally:
            if has_turn:
                turn.release()

    async def _pull(
        self,
        connection: Connection,
        organization: str,
        chains: Sequence[ChainId] | None,
        state: PeerState,
        tally: _Tally,
    ) -> None:
        heads = await self._env.blocking(self._log.heads, organization)
        needed = [head for head in self._log.heads_of_admins(organization) if head.chain.author != self._swarm.peer_id]
        if chains is not None:
            by_chain = {head.chain: head for head in heads}
            heads = tuple(by_chain.get(chain) or Head(chain, 0, bytes(HASH_BYTES)) for chain in chains)
        request = wire.encode_request(wire.Request(organization, heads, chains is None, self._tags))
        told: dict[ChainId, Head] = {}
        touched: set[str] = set()
        fruitless = 0
        peer = connection.peer_id
        async with await connection.open_stream([wire.PROTOCOL]) as stream:
            await _write(stream, request)
            tally.sent_bytes += len(request)
            has_more = True
            while has_more:
                async with asyncio.timeout(RESPONSE_S_MAX):
                    data = await stream.read_message(wire.RESPONSE_BYTES_MAX)
                tally.received_bytes += len(data)
                response = await self._convert(len(data), wire.decode_response, data)
                if response.status != wire.OK:
                    raise from_wire(response.status, response.message or f"it gives no log of {organization}")
                if response.heads and not told:
                    told = {head.chain: head for head in response.heads}
                before = self._log.heads(organization)
                taken, news = await self._take(organization, response.changes)
                self._note_refused(peer, taken)
                touched |= {fact.resource for fact in news if isinstance(fact.body, Access)}
                tally.received += len(taken.new)
                tally.refused += len(taken.refused)
                has_more = response.more
                self._pacing.download.count("background_sync", len(data))
                if has_more:
                    await self._pacing.download.follow("background_sync", len(data), PACED_S_MAX)
                is_fruitless = not len(taken.new) and self._log.heads(organization) == before
                fruitless = fruitless + 1 if is_fruitless else 0
                if has_more and fruitless >= FRUITLESS_MAX:
                    raise RemoteProtocolError("it goes on without bringing anything new")
            self._note_heads(state, organization, told.values(), is_all=chains is None)
            tally.sent_bytes += await self._acknowledge(stream, organization, touched, chains)
        state.at = self._env.now()
        ours = {head.chain: head.hash for head in self._log.heads(organization)}
        shown = told if chains is None else state.heads
        tally.is_equal = ours == {chain: head.hash for chain, head in shown.items()}
        is_abreast = bool(told) and all(
            _sequence(told.get(head.chain)) >= head.sequence for head in needed
        )  # else it is the one that lags
        if chains is None and not tally.refused and is_abreast and self._is_own(peer, organization):
            self._rules.on_agreed(self._env.now())
        self._metrics.bytes_sent.add(tally.sent_bytes, str(peer), "sync_request")
        self._metrics.bytes_received.add(tally.received_bytes, str(peer), "sync_response")

    async def _convert(self, size: int, work: Callable[..., T], *arguments: Any) -> T:
        """Read or write a message: a large one off the event loop, which it would hold up for a tenth of a second."""
        return work(*arguments) if size <= SMALL_BYTES else await self._env.blocking(work, *arguments)

    async def _take(self, organization: str, segments: Sequence[Segment]) -> tuple[Taken, list[Fact]]:
        """Verify, keep, obey. What has begun is ended, however the exchange ends: it would not come as new again."""
        return await finished(self._take_whole(organization, segments))

    async def _take_whole(self, organization: str, segments: Sequence[Segment]) -> tuple[Taken, list[Fact]]:
        authority = self._rules.authority(organization)
        taken = await self._env.blocking(lambda: self._log.take(organization, segments, authority=authority))
        return taken, await self._heed(organization, taken)

    async def _heed(self, organization: str, taken: Taken) -> list[Fact]:
        """What was taken is durable and will not come as new again: it is obeyed at once, however the exchange ends."""
        if taken.is_rejudged:
            await self._env.blocking(self._rules.on_rejudged)
        news = list(taken.new)
        if news:
            await self._rules.on_facts(organization, news)
        return news

    async def _acknowledge(
        self, stream: Stream, organization: str, touched: Collection[str], chains: Sequence[ChainId] | None
    ) -> int:
        """Report contradictions among what is new, if any, and say what we hold now: of all, or of these chains."""
        sent = 0
        found = await self._env.blocking(self._rules.conflicts, organization, touched) if touched else ()
        conflicts = found[: wire.CONFLICTS_MAX]
        if conflicts:
            report = wire.encode_report(conflicts)
            await _write(stream, report)
            sent += len(report)
            async with asyncio.timeout(REQUEST_S_MAX):
                theirs = wire.decode_resolution(await stream.read_message(wire.REPORT_BYTES_MAX))
            self._compare(organization, stream.remote_peer, conflicts, theirs)
        heads = self._log.heads(organization)
        ack = wire.encode_ack(heads if chains is None else [head for head in heads if head.chain in chains])
        await _write(stream, ack)
        await stream.close_write()
        return sent + len(ack)

    def _compare(
        self, organization: str, peer: PeerId, ours: Sequence[wire.Conflict], theirs: Sequence[wire.Conflict]
    ) -> None:
        """Both resolve by themselves; where the outcome differs, the strategies or the facts do."""
        known = {each.resource: each for each in theirs}
        for each in ours:
            other = known.get(each.resource)
            if other is None or other.winning == each.winning:
                continue
            self._metrics.sync_events.add(1, "resolved_differently")
            log.warning(
                "%s: %s resolves %s by %s, we by %s: network.sync.conflicts must be equal on all nodes",
                organization,
                peer,
                each.resource,
                other.strategy,
                each.strategy,
            )

    def _note_refused(self, peer: PeerId, taken: Taken) -> None:
        if taken.refused:
            self.refused_lately = taken.refused[0][1], self._env.monotonic()
        for head, reason in taken.refused:
            self.refused[reason] += 1
            self._metrics.sync_events.add(1, f"refused_{reason}")
            log.warning("from %s: envelopes of %s up to %d refused: %s", peer, head.chain, head.sequence, reason)
        for chain in taken.forks:
            self._metrics.sync_events.add(1, "forks")
            log.warning("%s wrote two histories: evidence is kept, see rage sync conflicts", chain.author)

    def _is_own(self, peer: PeerId, organization: str) -> bool:
        return organization == self.organization == self._rules.principal_of(peer).organization

    # --- the holder ---

    async def serve(self, stream: Stream) -> None:
        """Answer one exchange: the handler of wire.PROTOCOL."""
        peer = stream.remote_peer
        principal = self._rules.principal_of(peer)
        async with self._place(peer, is_other=principal.organization != self.organization) as has_place:
            if not has_place:
                self._metrics.shed.add(1, "sync_serve")
                await _write(stream, wire.encode_response(wire.Response(wire.BUSY)))
                return
            async with asyncio.timeout(EXCHANGE_S_MAX):
                async with asyncio.timeout(REQUEST_S_MAX):
                    data = await stream.read_message(wire.REQUEST_BYTES_MAX)
                request = await self._convert(len(data), wire.decode_request, data)
                if self._rules.may_sync(principal, request.organization):
                    await self._serve(stream, principal, request)
                else:
                    await _write(stream, wire.encode_response(wire.Response(wire.NOT_FOUND)))

    @asynccontextmanager
    async def _place(self, peer: PeerId, *, is_other: bool) -> AsyncIterator[bool]:
        """A place among the exchanges that are served, if there is one left for this peer."""
        is_free = sum(self._serving.values()) < SERVED_MAX and self._serving[peer] < SERVED_PEER_MAX
        if not is_free or (is_other and self._serving_others >= SERVED_OTHERS_MAX):
            yield False
            return
        self._serving[peer] += 1
        self._serving_others += is_other
        try:
            yield True
        finally:
            self._serving_others -= is_other
            self._serving[peer] -= 1
            if not self._serving[peer]:
                del self._serving[peer]

    async def _serve(self, stream: Stream, principal: Principal, request: wire.Request) -> None:
        organization = request.organization
        may_see = self._rules.may_see(principal, organization, request.tags)
        heads = await self._env.blocking(self._log.heads, organization)
        segments = self._log.missing(
            organization,
            request.heads,
            is_complete=request.is_complete,
            bytes_max=EXCHANGE_PAYLOAD_BYTES,
            may_see=may_see,
        )
        named = {head.chain for head in request.heads}  # of all chains, or of those asked for, where only some are
        shown = heads if request.is_complete or not named else tuple(head for head in heads if head.chain in named)
        has_more = True
        while has_more:
            response, has_more = await self._env.blocking(_fill, segments, shown)
            async with asyncio.timeout(RESPONSE_S_MAX):
                await _write(stream, response)
            self._pacing.upload.count("background_sync", len(response))
            if has_more:
                await self._pacing.upload.follow("background_sync", len(response), PACED_S_MAX)
            shown = ()
        async with asyncio.timeout(RESPONSE_S_MAX):
            closing = await self._read_closing(stream)
            if closing.kind == "report":
                asked = {each.resource for each in closing.conflicts}
                known = await self._env.blocking(self._rules.conflicts, organization, asked)
                await _write(stream, wire.encode_resolution(known))
                closing = await self._read_closing(stream)
        if closing.kind != "ack":
            raise RemoteProtocolError("an exchange that ends without an acknowledgement")
        self._note_ack(stream.remote_peer, organization, closing.heads)

    async def _read_closing(self, stream: Stream) -> wire.Closing:
        data = await stream.read_message(wire.REPORT_BYTES_MAX)
        return await self._convert(len(data), wire.decode_closing, data)

    def _note_ack(self, peer: PeerId, organization: str, heads: Sequence[Head]) -> None:
        state = self._state(peer, organization)
        self._note_heads(state, organization, heads, is_all=False)
        state.at = self._env.now()
        ours = {head.chain: head.sequence for head in self._log.heads(organization)}
        is_ahead = any(head.sequence > ours.get(head.chain, 0) for head in heads)
        if is_ahead and self._may_pull(peer, organization):
            self._behind[peer, organization] = None
            self._is_behind.set()

    def _note_heads(self, state: PeerState, organization: str, heads: Iterable[Head], *, is_all: bool) -> None:
        """What a peer tells of its copy, as far as it is about chains that are here; beside what it told before."""
        ours = {head.chain: head.chain for head in self._log.heads(organization)}
        told = {ours[head.chain]: head for head in heads if head.chain in ours}
        state.heads = told if is_all else {**state.heads, **told}

    def _state(self, peer: PeerId, organization: str) -> PeerState:
        state = self._states.setdefault((peer, organization), PeerState(organization))
        self._states.move_to_end((peer, organization))
        while len(self._states) > STATES_MAX:
            self._states.popitem(last=False)
        return state

    # --- what operators ask ---

    def rows(self) -> list[SyncPeerRow]:
        """What is known of others' copies; those that lag most first."""
        found = []
        ours = {organization: self._log.heads(organization) for _, organization in self._states}
        for (peer, organization), state in self._states.items():
            heads = ours[organization]
            behind = sum(max(0, head.sequence - _sequence(state.heads.get(head.chain))) for head in heads)
            found.append(SyncPeerRow(str(peer), organization, state.at, behind if state.at else 0, state.error))
        return sorted(found, key=lambda row: (-row.behind, row.peer_id))

    def has_seen(self, peer: PeerId, organization: str, head: Head) -> bool:
        """Whether a peer has told that its copy goes as far as `head`."""
        state = self._states.get((peer, organization))
        return state is not None and _sequence(state.heads.get(head.chain)) >= head.sequence

    async def diff(self, connection: Connection, organization: str) -> list[DiffRow]:
        """Chains that differ between us and a peer; neither side changes. Raises RageError."""
        try:
            async with await connection.open_stream([wire.PROTOCOL]) as stream, asyncio.timeout(RESPONSE_S_MAX):
                # No heads, and not complete: nothing but the holder's own heads comes back.
                await _write(stream, wire.encode_request(wire.Request(organization, (), False, ())))
                response = wire.decode_response(await stream.read_message(wire.RESPONSE_BYTES_MAX))
                if response.status == wire.OK:
                    await _write(stream, wire.encode_ack(()))
                    await stream.close_write()
        except (Libp2pError, TimeoutError) as error:
            raise UnavailableError(f"{connection.peer_id} did not answer", why=str(error)) from error
        if response.status == wire.NOT_FOUND:
            raise NotFoundError(f"{connection.peer_id} gives us no log of {organization}", id="log-not-found")
        if response.status != wire.OK:
            raise from_wire(response.status, f"{connection.peer_id} does not show its heads")
        ours = {head.chain: head for head in await self._env.blocking(self._log.heads, organization)}
        theirs = {head.chain: head for head in response.heads}
        rows = []
        for chain in sorted({*ours, *theirs}, key=str):
            here, there = ours.get(chain), theirs.get(chain)
            if here is None or there is None or here.hash != there.hash:
                is_fork = here is not None and there is not None and here.sequence == there.sequence
                rows.append(
                    DiffRow(str(chain.author), f"{chain.incarnation:016x}", _sequence(here), _sequence(there), is_fork)
                )
        return rows


def _say(error: Exception) -> str:
    """What went wrong, for people."""
    if isinstance(error, (NegotiationError, StreamResetError)):
        return NOT_OPENED
    if isinstance(error, StreamClosedError):
        return "it hung up"
    return (error.message if isinstance(error, RageError) else str(error)) or "no answer in time"


def _sequence(head: Head | None) -> int:
    return 0 if head is None else head.sequence


def _fill(segments: Iterator[Segment], heads: Sequence[Head]) -> tuple[bytes, bool]:
    """One response with segments, and whether more follow. Blocking."""
    found: list[Segment] = []
    size = 0
    for segment in segments:
        found.append(segment)
        size += wire.size_of(segment)
        if size >= RESPONSE_PAYLOAD_BYTES // 2:  # one more may be as large as all of it
            return wire.encode_response(wire.Response(wire.OK, found, tuple(heads), True)), True
    return wire.encode_response(wire.Response(wire.OK, found, tuple(heads), False)), False


async def _write(stream: Stream, data: bytes) -> None:
    await stream.write(varint.encode(len(data)) + data)
