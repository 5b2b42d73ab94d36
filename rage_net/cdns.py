"""The CDNs of one home: cdn.yaml, a client for each provider, the journal, and the task that sends purges.

Opened by the engine when a verb or the node first needs it; it sends what an earlier process left, until it is closed.
What purges are for stands in `cdn_verbs`, what purges by itself in `exposing`. Source: issue 6.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Collection, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rage_net import exposing, owing, sealed_cdns
from rage_net.cdn.azure import Azure
from rage_net.cdn.buckets import open_buckets
from rage_net.cdn.cloudflare import Cloudflare
from rage_net.cdn.emptying import SUFFIX, Emptying
from rage_net.cdn.fastly import Fastly
from rage_net.cdn.holdings import Holdings
from rage_net.cdn.journal import Journal, Standing
from rage_net.cdn.nginx import Nginx
from rage_net.cdn.provider import Provider
from rage_net.cdn.varnish import Varnish
from rage_net.cdn_verbs import publish
from rage_net.config import cdn as keys
from rage_net.guard import Job, guard
from rage_net.services.purging import Purging
from rage_net.web import Web

if TYPE_CHECKING:
    from rage_net.engine import Engine
    from rage_net.env import Env
    from rage_net.home import Home
    from rage_net.metrics import Metrics

AFTER_FAILURE_S = 5.0
COMMAND_S = 10.0
"""How long a command alone stays until what it changed is purged and proved; the next one goes on."""
LOOK_S = 0.05
FINISH_S = 1.0
"""How long an end waits for answers to calls under way."""


@dataclass(slots=True)
class Cdns:
    """What one home has of CDNs."""

    config: keys.Cdn
    sections: dict[str, keys.Provider]
    """By name, in the order in which they are asked: priority, then as in the file."""
    webs: dict[str, Web]
    """The HTTP client of each, by name."""
    buckets: dict[str, Emptying]
    """Stores that CDNs read, by the names under which they are purged."""
    purging: Purging
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a purge is owed."""
    wake_sealed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a document may have to be sealed anew."""
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while what CDNs may hold is compared with what is public, and noted."""
    steps: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(owing.STEPS_AT_ONCE))
    """Held by each step of a purge that is owed."""

    @property
    def journal(self) -> Journal:
        """What was asked, and what became of it."""
        return self.purging.journal

    @property
    def holdings(self) -> Holdings:
        """What they may hold of us, and the purges that are owed."""
        return self.purging.journal.holdings

    def section_of(self, name: str) -> keys.Provider:
        """The provider's part of cdn.yaml, of its bucket, too."""
        return self.sections[name.removesuffix(SUFFIX) if name in self.buckets else name]

    def of_now(self, states: Iterable[Standing]) -> list[Standing]:
        """Without providers and edges that have left cdn.yaml since: nobody asks them, and no answer will come."""
        providers = self.purging.providers
        return [it for it in states if it.provider in providers and it.edge in providers[it.provider].edges]


@asynccontextmanager
async def open_cdns(engine: Engine) -> AsyncIterator[Cdns]:
    """Read cdn.yaml, make the clients, and send what waits. Raises: ConfigError for a file that does not parse."""
    config = await engine.env.blocking(lambda: engine.cdn_config)
    named = sorted(config.providers if config.enabled else (), key=lambda it: it.routing.priority)
    async with AsyncExitStack() as stack:
        webs: dict[str, Web] = {}
        clients: list[Provider] = []
        for section in named:
            ca_file = section.config.ca_file if isinstance(section.config, keys.Edge) else None
            webs[section.name] = web = await stack.enter_async_context(Web(ca_file=ca_file))
            client = make(section, web, engine.env, stack)
            if client is not None:
                clients.append(client)
        path = engine.home.purges
        is_kept = bool(named) or await engine.env.blocking(has_any, engine.home)
        journal = await engine.env.blocking(Journal, path if is_kept else None)
        stack.callback(journal.close)
        buckets = {}
        for section in named:
            stores = open_buckets(section, web=webs[section.name], blocking=engine.env.waiting)
            for store in stores:
                stack.callback(store.close)
            if stores:
                emptying = Emptying(section.name, stores)
                buckets[emptying.name] = emptying
        soft = [it.name for it in named if isinstance(it.config, keys.Fastly) and it.config.soft_purge]
        purging = Purging(journal, [*clients, *buckets.values()], engine.env, soft)
        cdns = Cdns(config, {it.name: it for it in named}, webs, buckets, purging)
        if config.enabled:  # of CDNs that are switched off nothing is forgotten
            await engine.env.blocking(journal.leave, purging.edges(), engine.env.now())
        fillings = await engine.env.blocking(journal.holdings.fillings)
        jobs: list[Job] = [purging.work]
        jobs += [functools.partial(work, engine, cdns) for work in (owing.work, sealed_cdns.work)]
        jobs += [functools.partial(exposing.work, engine, cdns)] if engine.serves else []
        for job in jobs if named else ():
            await stack.enter_async_context(_running(_again("cdn", job, engine.metrics)))
        if buckets and fillings:
            finish = functools.partial(publish.finish, engine, cdns, fillings)
            await stack.enter_async_context(_running(guard("cdn", finish, engine.metrics)))
        stack.push_async_callback(purging.finish, FINISH_S)
        yield cdns


def has_any(home: Home) -> bool:
    """Whether a node of this home has had CDNs. Blocking."""
    return home.purges.exists()


async def look_and_wait(engine: Engine, cdns: Cdns, doc_ids: Collection[str] | None, *, is_ours: bool) -> None:
    """Note what is owed; a node does it by itself, a command does it now and stays for the first answers."""
    if not cdns.purging.providers or not await exposing.look(engine, cdns, doc_ids, is_ours=is_ours):
        return
    ends = engine.env.monotonic() + COMMAND_S
    while not engine.serves and engine.env.monotonic() < ends:
        due = await engine.env.blocking(cdns.holdings.next_owed)
        if due is None or due > engine.env.now() + COMMAND_S:
            return
        await asyncio.sleep(LOOK_S)


def make(section: keys.Provider, web: Web, env: Env, closing: AsyncExitStack) -> Provider | None:
    """The client of one provider; None for one of which things are only read. `closing` ends what is its own."""
    match section.config:
        case keys.Cloudflare():
            return Cloudflare(section, web, env.now)
        case keys.Fastly():
            return Fastly(section, web, env.now)
        case keys.Azure():
            return Azure(section, web, env.now)
        case keys.CloudFront():
            from rage_net.cdn.cloudfront import CloudFront

            client = CloudFront(section, blocking=env.waiting, now=env.now)
            closing.callback(client.close)
            return client
        case keys.Edge() if section.software == "nginx":
            return Nginx(section, web, env.now)
        case keys.Edge():
            return Varnish(section, web, env.now)
        case _:
            return None


async def _again(name: str, job: Job, metrics: Metrics) -> None:
    """Run a job that has no end; after a failure, again."""
    while True:
        await guard(name, job, metrics)
        await asyncio.sleep(AFTER_FAILURE_S)


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, object]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
