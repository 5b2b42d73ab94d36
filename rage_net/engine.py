"""The engine: what a node and a one-shot command have in common, and the table of all verbs.

Read it first. `Engine.open` takes the home's lock and opens the store; the network starts when a verb first needs it,
so a command that only looks at the store starts none. Every verb goes through `run`, from the command line and from
the control API alike.

Not here: what a verb does (chunk_verbs, network_verbs and their like); listeners, doors and background jobs (node).
Source: design 1, D8; style, "Five paths".
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from concurrent.futures import CancelledError
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from rage_net import (
    acl_verbs,
    cdn_verbs,
    cert_verbs,
    chunk_verbs,
    network_verbs,
    node_verbs,
    replication_verbs,
    sharing,
    sync_verbs,
    trust_verbs,
)
from rage_net import config as configuration
from rage_net import env as environment
from rage_net import home as homes
from rage_net.acl import Principal, Rules
from rage_net.acl_ledger import LogRights
from rage_net.chunk.bucket import Place
from rage_net.chunk.documents import Documents
from rage_net.chunk.shelf import Hidden, Seen, is_public
from rage_net.chunk.store import ChunkStore, Quota, open_store
from rage_net.cid import Cid
from rage_net.config import Config
from rage_net.denials import Denials
from rage_net.env import Env, SystemEnv
from rage_net.errors import ConfigError, NotFoundError
from rage_net.fronts import WaysIn
from rage_net.gate import Gate, Served
from rage_net.home import Home
from rage_net.metrics import Metrics
from rage_net.services.retrieval import Retrieval, Stage, later
from rage_net.verbs import Progress, Sink, Source, Verb
from rage_net.verbs import node as nodes

if TYPE_CHECKING:
    from rage_net.cdn.filling import Filling
    from rage_net.cdn.glance import Glance
    from rage_net.cdns import Cdns
    from rage_net.config.cdn import Cdn
    from rage_net.libp2p.transport import Transport
    from rage_net.metadata import Metadata
    from rage_net.online import Online
    from rage_net.sealed_cdns import Publication
    from rage_net.services.replicating import Replicating
    from rage_net.services.syncing import Syncing
    from rage_net.services.trust import Trust

log = logging.getLogger("rage.engine")

R = TypeVar("R")
T = TypeVar("T")
Report = Callable[[Progress], None]
Cancelled = Callable[[], bool]

LOCK_WAIT_S = 30.0
"""How long a command waits for another that holds the home."""
LET_GO_S = 2.0
"""How long a verb that was given up waits for its thread to clean up: a commit takes a part of that, while a read from
a terminal or a quiet pipe may never return. What a thread leaves undone then is what a crash would: gc finishes it."""


def rules_of(config: Config) -> Rules:
    """What the configuration says of access. With a CA set, `trusted_peers` counts no more (design D7)."""
    security = config.network.security
    if security.ca_cert is None:
        return Rules(frozenset(security.trusted_peers), public_to_strangers=True)
    return Rules(
        public_to_strangers=not security.is_closed,
        is_open=False,
        organization=config.network.organization_id,
        enforcement=security.acl_enforcement,
    )


class Engine:
    """One home, opened: its store and documents, and its network once that is needed."""

    def __init__(
        self,
        home: Home,
        config: Config,
        store: ChunkStore,
        env: Env,
        metrics: Metrics,
        metadata: Metadata | None = None,
        *,
        serves: bool,
        transports: Sequence[Transport] | None,
    ) -> None:
        self.home = home
        self.config = config
        self.store = store
        self.documents = Documents(store)
        self.documents.new_id = self._new_document_id
        self.retrieval = Retrieval(store, env, metrics)
        self.ways_in = WaysIn(self)
        """The CDNs that serve this node, opened when they are first needed."""
        self.env = env
        self.metrics = metrics
        store.on_lost.append(lambda cid, found_by: metrics.rot.add(1, found_by))
        self.metadata = metadata
        """The log and what is read from it; None on an open node."""
        self.rules = rules_of(config)
        self.gate = Gate(store, env, self.rules)
        """What a principal may read of the store, for doors that are not the exchange."""
        self.rights: acl_verbs.Rights | None = None if metadata is None else LogRights(self, metadata)
        """What the log says of documents' rights; None on an open node."""
        if metadata is not None:
            self.gate.access_of = metadata.access.access_of
            self.gate.words_of = metadata.records.words_of
        self.denials = Denials(home.logs / "denials.jsonl" if serves else None, env, metrics)
        self.organization = config.network.organization_id
        self.started_at = env.monotonic()
        self.stop_requested = asyncio.Event()
        """Set by the verb node/stop; whoever runs the engine ends it."""
        self.node_status: Callable[[nodes.NodeStatus], nodes.NodeStatus] = lambda status: status
        """Given by the node: adds what only it knows."""
        self.serves = serves
        self._transports = transports
        self._online: Online | None = None
        self._going_online = asyncio.Lock()
        self._cdns: Cdns | None = None
        self._opening_cdns = asyncio.Lock()
        self._closing = AsyncExitStack()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        home: Home,
        *,
        config: Config | None = None,
        env: Env | None = None,
        metrics: Metrics | None = None,
        lock_timeout_s: float = LOCK_WAIT_S,
        kind: str = "command",
        serves: bool = False,
        transports: Sequence[Transport] | None = None,
    ) -> AsyncIterator[Engine]:
        """Take the home's lock, open its store, and let go of everything at the end.

        Args: kind: what holds the lock, for people. serves: chunks are offered to whoever connects (a node).
        transports: of the swarm; TCP by default, memory in a simulated world.
        Raises: NotFoundError without a home; ConflictError when another process holds it; ConfigError.
        """
        async with AsyncExitStack() as stack:
            is_own_env = env is None
            if env is None:
                env = SystemEnv()
                stack.callback(env.close)
            if config is None:
                config = configuration.load(home.root, environ=environment.read_environment())
            await stack.enter_async_context(_locked(home, env, lock_timeout_s, kind))
            keys = config.network.store
            quota = Quota(bytes_max=keys.quota, free_bytes_min=keys.reserve)
            opening = functools.partial(open_store, home.root, env=env, quota=quota, directory=keys.path)
            store = await env.blocking(functools.partial(opening, objects=Place.of_keys(keys), cache_bytes=keys.cache))
            stack.callback(store.close)
            if is_own_env:  # before the store, which its threads use
                stack.callback(env.close)
            metadata = await stack.enter_async_context(_metadata(home, config, store, env))
            metrics = metrics or Metrics()
            engine = cls(home, config, store, env, metrics, metadata, serves=serves, transports=transports)
            stack.push_async_callback(engine.denials.close)
            stack.push_async_callback(engine.ways_in.close)
            async with engine._closing:
                yield engine

    async def run(
        self,
        verb: Verb[R],
        *,
        source: Source | None = None,
        sink: Sink | None = None,
        progress: Report | None = None,
        tell: Callable[[Any], None] | None = None,
    ) -> R:
        """Carry out a verb and give its result. Raises RageError.

        `source` and `sink` are for verbs with octets; both may block, and are used in threads. `progress` and `tell`,
        which takes the items of verbs that have some, may be called from any thread.
        """
        nothing: Callable[[Any], None] = lambda _: None  # noqa: E731
        result: R = await VERBS[type(verb)](self, verb, Io(source, sink, progress or nothing, tell or nothing))
        return result

    # --- what doors serve ---

    async def stat_served(self, cid: Cid, principal: Principal) -> Served | None:
        """A chunk that `principal` may read; None when it is absent or not for them (design D7)."""
        answer, served = await self.env.blocking(self.gate.serve, cid, principal)
        if isinstance(answer.found, Hidden):
            self.denials.note("http", str(principal), f"chunk:{cid}", answer.decision.reason)
        return served

    async def sizes_served(self, cids: Sequence[Cid], principal: Principal) -> list[int | None]:
        """The plain sizes of chunks that `principal` may read, in order; None for each that is absent or not theirs."""

        def look() -> list[int | None]:
            found = (self.gate.look(cid, principal).found for cid in cids)
            return [seen.stat.size if isinstance(seen, Seen) else None for seen in found]

        return await self.env.blocking(look)

    async def read_served(self, cid: Cid, principal: Principal) -> bytes | None:
        """The plain bytes of such a chunk, verified."""

        def read() -> bytes | None:
            if isinstance(self.gate.look(cid, principal).found, Seen):
                with suppress(NotFoundError):  # it went meanwhile
                    return self.store.get(cid)
            return None

        return await self.env.blocking(read)

    # --- configuration that is read when it is needed ---

    @functools.cached_property
    def cdn_config(self) -> Cdn:
        """cdn.yaml, read once; where network.yaml switches CDNs off, defaults without a look at it. Blocking.

        Raises: InvalidConfigError.
        """
        if not self.config.network.cdn.enabled:
            from rage_net.config.cdn import Cdn

            return Cdn(enabled=False)
        return configuration.load_cdn(self.config, environ=environment.read_environment())

    # --- the network, when it is needed ---

    @property
    def is_online(self) -> bool:
        """Whether the network was started."""
        return self._online is not None

    async def online(self) -> Online:
        """The swarm and what speaks over it, started now if it was not."""
        async with self._going_online:
            if self._online is None:
                self._online = await self._go_online()
            return self._online

    async def _go_online(self) -> Online:
        from rage_net.online import go_online

        return await self._closing.enter_async_context(
            go_online(
                self.home,
                self.config,
                self.store,
                self.env,
                self.metrics,
                self.rules,
                serves=self.serves,
                transports=self._transports,
                denials=self.denials,
                metadata=self.metadata,
                on_facts=functools.partial(sharing.take, self),
            )
        )

    async def stages(self, root: Cid, sources: Sequence[str], named: Sequence[str]) -> Sequence[Stage]:
        """Where a download looks, best first: the CDN, peers, those that servers name, those that the DHT does."""
        found = await self.ways_in.stages(root, sources) if "cdn" in sources else []
        if "p2p" not in sources:
            return found
        if not found or self.is_online:
            return [*found, *(await self._stages_of_peers(root, named))]
        return [*found, later("peers", functools.partial(self._stages_of_peers, root, named))]

    async def _stages_of_peers(self, root: Cid, named: Sequence[str]) -> Sequence[Stage]:
        from rage_net import lookups

        online = await self.online()
        holders = self.retrieval.holders(root)
        may_ask = await self.may_ask(root)
        return lookups.stages(online, root, named, holders, dial_known=not self.serves, may_ask=may_ask)

    def syncing(self) -> Syncing | None:
        """The exchange of logs, once the network has started; None before, and on an open node."""
        return self._online.syncing if self._online is not None else None

    def replicating(self) -> Replicating | None:
        """What this node replicates, once the network has started; None before, and on an open node."""
        return self._online.replicating if self._online is not None else None

    def trust(self) -> Trust | None:
        """Who is connected with which certificate, once the network has started."""
        return self._online.trust if self._online is not None else None

    def is_stale(self) -> bool:
        """Whether our log is so old that certificates open no more than what is public."""
        return self._online is not None and self._online.trust.is_stale()

    def reconsider(self) -> None:
        """Trust or revocations have changed: who is trusted no longer is cut."""
        if self._online is not None:
            self._online.trust.reconsider()

    def read_roots_anew(self) -> None:
        """Documents went, or are public no more: what is announced must not tell of them."""
        if self._online is not None and self._online.routing is not None:
            self._online.routing.changed()

    def is_public(self, root: Cid) -> bool:
        """Whether anyone may know that a root is here. Blocking."""
        return is_public(self.store, root)

    async def may_ask(self, root: Cid) -> bool:
        """Whether a root may be asked for outside the organisation: a public one, and any in an open network."""
        return self.config.network.security.ca_cert is None or await self.env.blocking(self.is_public, root)

    def announce(self, root: Cid, *, is_fetched: bool = False) -> None:
        """A public root is here now: let the DHT know, where a node announces."""
        routing = self._online.routing if self._online is not None and self.serves else None
        if routing is not None:
            (routing.fetched if is_fetched else routing.put)(root)

    # --- CDNs, when they are needed ---

    async def cdns(self) -> Cdns:
        """The CDNs of cdn.yaml and the journal of purges, opened now if they were not. Raises ConfigError."""
        from rage_net.cdns import open_cdns

        async with self._opening_cdns:
            if self._cdns is None:
                self._cdns = await self._closing.enter_async_context(open_cdns(self))
            return self._cdns

    def glance_cdns(self) -> tuple[int, Glance] | None:
        """How many CDNs there are, and how purges stand; None without cdn.yaml, or while it is wrong. Blocking.

        No client is made for it, and nothing is sent.
        """
        try:
            if not self.config.network.cdn.providers_config_file.exists() or not self.cdn_config.providers:
                return None
        except ConfigError:
            return None  # config check and a node's own problems tell of it
        if not self.cdn_config.enabled:
            return None
        from rage_net.cdn import glance as cdn_glance
        from rage_net.cdn.journal import Journal

        count = len(self.cdn_config.providers)
        if self._cdns is not None:
            return count, cdn_glance.look(self._cdns.journal, self.cdn_config)
        if self.serves or not self.home.purges.exists():
            return count, cdn_glance.Glance()
        journal = Journal(self.home.purges)
        try:
            return count, cdn_glance.look(journal, self.cdn_config)
        finally:
            journal.close()

    async def publish_sealed(
        self, doc_id: str, only: Sequence[str] = (), tell: Callable[[], None] = lambda: None
    ) -> Publication | None:
        """Seal a document into the buckets that CDNs read; None where they have it as it is."""
        from rage_net import sealed_cdns

        return await sealed_cdns.publish(self, await self.cdns(), doc_id, only, tell)

    async def refill_sealed(self, doc_id: str, stores: Sequence[Filling], tell: Callable[[], None]) -> None:
        """Put a document as it is sealed into buckets that lack it."""
        from rage_net import sealed_cdns

        await sealed_cdns.refill(self, await self.cdns(), doc_id, stores, tell)

    async def fill_buckets(self, cid: Cid) -> bool:
        """Put a block that anyone may read into every bucket that CDNs read; whether one has it now."""
        cdns = await self.cdns()
        return bool(cdns.buckets) and await cdn_verbs.fill_buckets(self, cdns, cid)

    async def reconsider_cdns(self, doc_ids: Collection[str] | None, *, is_ours: bool) -> None:
        """What is public may have changed, and is so here: what CDNs may have no more is purged.

        A command alone looks only where a node of this home has had CDNs, and stays for the first answers.

        Raises: ConfigError, to a command alone. A node goes on: facts of others must be taken in while cdn.yaml is
        wrong, and what was missed is found when it is right, for the journal knows what CDNs may hold.
        """
        from rage_net.cdns import has_any, look_and_wait

        if self._cdns is None and not await self.env.blocking(has_any, self.home):
            return
        try:
            found = await self.cdns()
        except ConfigError as error:
            if not self.serves:
                raise
            log.warning("no CDN is purged until cdn.yaml is right: %s", error.message)
            return
        await look_and_wait(self, found, doc_ids, is_ours=is_ours)

    # --- long work ---

    async def stoppable(self, work: Callable[[Cancelled], T]) -> T:
        """Run long work in a thread of its own; when the caller gives up, tell it to stop and give it LET_GO_S."""
        cancelled = threading.Event()
        running = asyncio.ensure_future(self.env.waiting(work, cancelled.is_set))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            cancelled.set()
            await asyncio.wait([running], timeout=LET_GO_S)
            running.cancel()
            raise

    def _new_document_id(self) -> str:
        """It names this node as the owner: nobody can claim to have written the document first."""
        from rage_net.libp2p.peer_id import PeerId
        from rage_net.sync.vocabulary import document_id

        return document_id(PeerId.parse(self.peer_id_text()), self.env.random.getrandbits(64))

    @functools.cache  # noqa: B019  an engine lives as long as its process's work
    def peer_id_text(self) -> str:
        """The peer id of this home. Blocking: reads the key."""
        from rage_net.libp2p.peer_id import PeerId

        return str(PeerId.from_public_key(homes.load_identity(self.config.network.security.peer_key).public_key()))


@asynccontextmanager
async def _locked(home: Home, env: Env, timeout_s: float, kind: str) -> AsyncIterator[None]:
    """Hold the home's lock. Who gives up waiting for it is not made to wait."""
    given_up = threading.Event()

    def pause(seconds: float) -> None:
        if given_up.wait(seconds):
            raise CancelledError

    lock = homes.lock(home, timeout_s=timeout_s, kind=kind, sleep=pause)
    taking = asyncio.ensure_future(env.waiting(lock.__enter__))
    try:
        await asyncio.shield(taking)
    except asyncio.CancelledError:
        given_up.set()
        with suppress(Exception, asyncio.CancelledError):
            await taking
            lock.__exit__(None, None, None)  # it was ours at the very moment
        raise
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


@asynccontextmanager
async def _metadata(home: Home, config: Config, store: ChunkStore, env: Env) -> AsyncIterator[Metadata | None]:
    """The log of a node with a CA; a command on an open one loads nothing of it."""
    if config.network.security.ca_cert is None:
        yield None
        return
    from rage_net.metadata import open_metadata

    opening = open_metadata(home, config, store, Documents(store), env)
    metadata = await env.blocking(opening.__enter__)
    try:
        yield metadata
    finally:
        opening.__exit__(None, None, None)


@dataclass(frozen=True, slots=True)
class Io:
    """What a verb may use besides its arguments. `run`'s caller brings octets for verbs that have them."""

    source: Any
    sink: Any
    report: Report
    tell: Callable[[Any], None]


VERBS: dict[type[Verb[Any]], Callable[[Engine, Any, Io], Awaitable[Any]]] = {
    **chunk_verbs.VERBS,
    **node_verbs.VERBS,
    **network_verbs.VERBS,
    **sync_verbs.VERBS,
    **trust_verbs.VERBS,
    **cert_verbs.VERBS,
    **acl_verbs.VERBS,
    **replication_verbs.VERBS,
    **cdn_verbs.VERBS,
}
