"""The engine: what a node and a one-shot command have in common. Composition, and the verbs of home and store.

Read it first. `Engine.open` takes the home's lock and opens the store; the network starts when a verb first needs it,
so a command that only looks at the store starts none. Every verb goes through `run`, from the command line and from
the control API alike.

Not here: the verbs of the network (network_verbs); listeners, doors and background jobs (node).
Source: design 1, D8; style, "Five paths".
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from concurrent.futures import CancelledError
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from rage_net import (
    __version__,
    acl_verbs,
    cdn_verbs,
    cert_verbs,
    glance,
    network_verbs,
    refusals,
    replication_verbs,
    sharing,
    sync_verbs,
    trust_verbs,
    upkeep,
)
from rage_net import config as configuration
from rage_net import env as environment
from rage_net import home as homes
from rage_net.acl import Principal, Rules
from rage_net.acl_ledger import LogRights
from rage_net.chunk import views
from rage_net.chunk.bucket import Place
from rage_net.chunk.documents import Documents, check_words
from rage_net.chunk.shelf import Hidden, Seen, is_public
from rage_net.chunk.store import ChunkStore, Quota, open_store
from rage_net.cid import Cid
from rage_net.config import Config
from rage_net.denials import Denials
from rage_net.env import Env, SystemEnv
from rage_net.errors import ConfigError, NotFoundError, StorageFullError, UnavailableError, UsageError
from rage_net.fronts import WaysIn
from rage_net.gate import Gate, Served
from rage_net.home import Home
from rage_net.metrics import Metrics
from rage_net.services.retrieval import Retrieval, Stage, Want, later
from rage_net.services.retrieval.counted import Counted
from rage_net.verbs import Progress, Sink, Source, Verb
from rage_net.verbs import chunk as chunks
from rage_net.verbs import node as nodes

if TYPE_CHECKING:
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
STOP_WITHIN_S = 10.0
"""What a node promises from SIGTERM to its end."""


def rules_of(config: Config) -> Rules:
    """What the configuration says of access. With a CA set, `trusted_peers` counts no more (design D7)."""
    security = config.network.security
    if security.ca_cert is None:
        return Rules(frozenset(security.trusted_peers), public_to_strangers=True)
    return Rules(
        public_to_strangers=security.public_access,
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

    # --- chunks ---

    async def put_chunk(self, verb: chunks.PutChunk, source: Source, report: Report) -> chunks.PutChunkResult:
        """Cut, store and record what `source` gives; durable when it returns."""
        started = self.env.monotonic()
        if self.metadata is not None and self.metadata.is_read_only:
            self.metadata.require_writer()
        sharing.check_words(self, verb.name, verb.tags)
        if verb.cdn:
            sharing.check_cdn(self, verb.cdn)
        result = await self._stoppable(functools.partial(self._put, verb, source, report))
        await sharing.publish(self, result.doc_id)
        if verb.cdn:
            await sharing.rule_cdn(self, result.doc_id, verb.cdn)
        if self.metadata is None:
            await self.reconsider_cdns([result.doc_id], is_ours=True)
        if verb.wait:
            within_s = verb.wait_s - (self.env.monotonic() - started)
            replicas, wanted = await replication_verbs.wait_for_copies(self, result.doc_id, verb.wait, within_s, report)
            result = replace(result, replicas=replicas, wanted=wanted)
        if verb.visibility == "public":
            self._announce(Cid.parse(result.root))
        return result

    async def get_chunk(self, verb: chunks.GetChunk, sink: Sink, report: Report) -> chunks.GetChunkResult:
        """Give `sink` the bytes of a root, verified, from here and from peers."""
        started = self.env.monotonic()
        root = await sharing.find_root(self, verb.ref)
        elsewhere = any(kind in verb.sources for kind in ("cdn", "p2p"))
        want = Want(root, not verb.raw, "local" in verb.sources, elsewhere, verb.cache)
        stages = functools.partial(self.stages, root, verb.sources, verb.peers)
        try:
            outcomes = await self.retrieval.fetch(want, stages, Counted(sink, report))
        except (NotFoundError, UnavailableError) as error:
            raise await sharing.explain_absence(self, root, error) from error
        if outcomes.gave and outcomes.sources["local"] and want.join and want.cache:
            await sharing.count_local(self, root)
        if want.join:
            await self._count_use(root)
        is_kept = bool(outcomes.gave) and want.join and want.cache
        if self.serves and is_kept and await self.env.blocking(self.is_public, root):
            self._announce(root, is_fetched=True)
            if outcomes.sources["p2p"]:
                self.ways_in.note_fill(root)
        seconds = round(self.env.monotonic() - started, 3)
        return chunks.GetChunkResult(str(root), outcomes.size, "", outcomes.sources, seconds)

    async def list_chunks(self, verb: chunks.ListChunks) -> chunks.ListChunksResult:
        """Documents, or chunks, a page at a time."""
        if verb.catalog:
            return await sharing.list_catalog(self, verb)
        return await self.env.blocking(views.list_chunks, self.store, self.documents, verb)

    async def stat_chunk(self, verb: chunks.StatChunk) -> chunks.StatChunkResult:
        """What is known here of one root."""
        return await self.env.blocking(views.stat_root, self.store, self.documents, verb.ref)

    async def remove_chunk(self, verb: chunks.RemoveChunk) -> chunks.RemoveChunkResult:
        """Remove documents; gc deletes what they held."""
        if verb.everywhere:
            return await sharing.remove_everywhere(self, verb)
        removed = await self.env.blocking(views.remove_documents, self.documents, verb)
        self.read_roots_anew()
        if not verb.dry_run:
            await self.reconsider_cdns([document.doc_id for document in removed.removed], is_ours=True)
        return removed

    async def verify_chunks(self, verb: chunks.VerifyChunks, report: Report) -> chunks.VerifyChunksResult:
        """Re-hash what is stored; what is rotten goes to quarantine."""
        return await self._stoppable(functools.partial(self._verify, verb, report))

    async def pin_chunk(self, verb: chunks.PinChunk) -> chunks.PinResult:
        """Hold a root and all its chunks for good."""
        return await self.env.blocking(views.pin_root, self.store, self.documents, verb.ref)

    async def unpin_chunk(self, verb: chunks.UnpinChunk) -> chunks.PinResult:
        """Let a pinned root go."""
        return await self.env.blocking(views.unpin_root, self.documents, verb.ref)

    async def collect_garbage(self, verb: chunks.CollectGarbage, report: Report) -> chunks.CollectGarbageResult:
        """Delete what nothing has held for the grace time."""
        return await self._stoppable(functools.partial(self._collect, verb, report))

    async def export_chunk(self, verb: chunks.ExportChunk, sink: Sink, report: Report) -> chunks.ExportChunkResult:
        """A CAR of a root and all its blocks."""
        from rage_net.chunk.archive import export_archive

        root = await self.env.blocking(views.find_root, self.documents, verb.ref)
        return await self._stoppable(functools.partial(export_archive, self.store, root, sink, report))

    async def import_chunks(
        self, verb: chunks.ImportChunks, source: Source, report: Report
    ) -> chunks.ImportChunksResult:
        """Read a CAR; its roots become documents."""
        if self.metadata is not None and self.metadata.is_read_only:
            self.metadata.require_writer()
        sharing.check_words(self, verb.name, verb.tags)
        result = await self._stoppable(functools.partial(self._import, verb, source, report))
        for document in result.documents:
            await sharing.publish(self, document.doc_id)
        return result

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

    # --- the node ---

    async def show_status(self, verb: nodes.ShowStatus) -> nodes.NodeStatus:
        """The home at a glance; a node adds what only it knows."""
        totals = await self.env.blocking(self.store.totals)
        documents = await self.env.blocking(self.documents.count)
        network = self.config.network
        free = await self.env.blocking(homes.free_bytes, network.store.path)
        status = nodes.NodeStatus(
            peer_id=await self.env.blocking(self.peer_id_text),
            state="stopped",
            listen=(),
            http=(),
            peers=0,
            documents=documents,
            chunks=totals.chunks,
            bytes=totals.stored,
            free_bytes=free,
            uptime_s=round(self.env.monotonic() - self.started_at, 3),
            version=__version__,
            pid=0,
            organization=network.organization_id,
            region=network.region,
            problems=(*(await self._room_problems()), *map(str, self.config.warnings)),
            scrub=await self.env.blocking(upkeep.glance, self),
        )
        return self.node_status(await glance.complete(self, status))

    async def _room_problems(self) -> list[str]:
        """That chunks are out of reach; and that nothing can be put, where no node runs that watches for it."""
        if self.store.bodies.problem:
            return [self.store.bodies.problem]
        if self.serves:
            return []
        try:
            await self.env.blocking(functools.partial(self.store.check_room, 0, evict=False))
        except StorageFullError as error:
            return [f"{error.message}: nothing can be put ({error.why})"]
        return []

    async def stop_node(self, verb: nodes.StopNode) -> nodes.StopNodeResult:
        """Begin to drain."""
        if not self.serves:
            raise refusals.no_node()
        self.stop_requested.set()
        return nodes.StopNodeResult(os.getpid(), STOP_WITHIN_S)

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

    async def _count_use(self, root: Cid) -> None:
        """A document was asked for here: what is asked for often may come under another policy."""
        replicating = self.replicating()
        if replicating is not None and self.serves:
            for doc_id in await self.env.blocking(replicating.inventory.documents_with, root):
                replicating.usage.used(doc_id, replicating.now())

    def _announce(self, root: Cid, *, is_fetched: bool = False) -> None:
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

    # --- blocking halves of the verbs ---

    async def _stoppable(self, work: Callable[[Cancelled], T]) -> T:
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

    def _put(
        self, verb: chunks.PutChunk, source: Source, report: Report, cancelled: Cancelled
    ) -> chunks.PutChunkResult:
        from rage_net.chunk.put import put_document
        from rage_net.chunk.split import Sizes

        cut = self.config.network.store.split
        return put_document(
            self.store,
            self.documents,
            source,
            verb,
            sizes=Sizes(cut.min_size, cut.target_size, cut.max_size),
            organization=self.organization,
            owner=self.peer_id_text(),
            clock=self.env.now,
            progress=report,
            cancelled=cancelled,
        )

    def _new_document_id(self) -> str:
        """It names this node as the owner: nobody can claim to have written the document first."""
        from rage_net.libp2p.peer_id import PeerId
        from rage_net.sync.vocabulary import document_id

        return document_id(PeerId.parse(self.peer_id_text()), self.env.random.getrandbits(64))

    def _verify(self, verb: chunks.VerifyChunks, report: Report, cancelled: Cancelled) -> chunks.VerifyChunksResult:
        from rage_net.chunk.verify import blocks_here, verify

        if not 0 < verb.sample <= 1:
            raise UsageError("a sample is above 0 and at most 1", mend=["--sample 5%"])
        cids = None
        if verb.ref:
            cids = blocks_here(self.store, views.find_root(self.documents, verb.ref))
        return verify(self.store, cids, sample=verb.sample, progress=report, cancelled=cancelled)

    def _collect(
        self, verb: chunks.CollectGarbage, report: Report, cancelled: Cancelled
    ) -> chunks.CollectGarbageResult:
        from rage_net.chunk.gc import collect

        grace_s = self.config.network.store.grace if verb.grace_s is None else verb.grace_s
        return collect(
            self.store,
            self.documents,
            grace_s=grace_s,
            dry_run=verb.dry_run,
            plan=verb.plan,
            cache=verb.cache,
            progress=report,
            cancelled=cancelled,
        )

    def _import(
        self, verb: chunks.ImportChunks, source: Source, report: Report, cancelled: Cancelled
    ) -> chunks.ImportChunksResult:
        from rage_net.chunk.archive import import_archive

        check_words(verb.name, verb.tags)
        found = import_archive(
            self.store,
            self.documents,
            source,
            organisation=self.organization,
            owner=self.peer_id_text(),
            name=verb.name,
            tags=verb.tags,
            visibility=verb.visibility,
            progress=report,
            cancelled=cancelled,
        )
        documents = tuple(map(views.show_document, found.documents))
        roots = tuple(document.root for document in documents)
        return chunks.ImportChunksResult(roots, documents, found.blocks, found.new_blocks, found.skipped, found.size)

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
    chunks.PutChunk: lambda engine, verb, io: engine.put_chunk(verb, io.source, io.report),
    chunks.GetChunk: lambda engine, verb, io: engine.get_chunk(verb, io.sink, io.report),
    chunks.ListChunks: lambda engine, verb, io: engine.list_chunks(verb),
    chunks.StatChunk: lambda engine, verb, io: engine.stat_chunk(verb),
    chunks.RemoveChunk: lambda engine, verb, io: engine.remove_chunk(verb),
    chunks.VerifyChunks: lambda engine, verb, io: engine.verify_chunks(verb, io.report),
    chunks.PinChunk: lambda engine, verb, io: engine.pin_chunk(verb),
    chunks.UnpinChunk: lambda engine, verb, io: engine.unpin_chunk(verb),
    chunks.CollectGarbage: lambda engine, verb, io: engine.collect_garbage(verb, io.report),
    chunks.ExportChunk: lambda engine, verb, io: engine.export_chunk(verb, io.sink, io.report),
    chunks.ImportChunks: lambda engine, verb, io: engine.import_chunks(verb, io.source, io.report),
    nodes.ShowStatus: lambda engine, verb, io: engine.show_status(verb),
    nodes.StopNode: lambda engine, verb, io: engine.stop_node(verb),
    **network_verbs.VERBS,
    **sync_verbs.VERBS,
    **trust_verbs.VERBS,
    **cert_verbs.VERBS,
    **acl_verbs.VERBS,
    **replication_verbs.VERBS,
    **cdn_verbs.VERBS,
}
