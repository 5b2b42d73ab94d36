"""Purges that are owed are settled at each CDN on its own: one that is dead holds up the proof of no other.

    step       what was done last                     what is awaited            and then
    0          nothing, of a purge as a whole         its time                   buckets are emptied, edges are purged
    EMPTYING   its buckets are being emptied          their answers              its edges are purged again
    SENT       its edges were purged                  their answers              it is proved and told
                                                      or a minute, if sooner     a last purge, and LAST
    LAST       they were, and a last time             answers to what was SENT   it is proved and told; owed no more
    TOLD       it is proved and told                  the minute                 a last purge; owed no more

What is purged is public at the origin no more. A last purge a minute after it: an edge may have been asking us while
it was purged, and keeps such an answer as if it came after. What moved was public; its old bytes harm nobody, and one
purge does.

Source: issue 6, B; design D7. Not here: what is owed and when (exposing), sending (services.purging).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from blake3 import blake3

from rage_net.cdn.emptying import SUFFIX
from rage_net.cdn.holdings import Owed
from rage_net.cdn.journal import BUCKETS, Standing
from rage_net.cdn_verbs import targets
from rage_net.cdn_verbs.purge import prove
from rage_net.cid import Cid
from rage_net.config import cdn as sections
from rage_net.errors import ConfigError, NotFoundError, StorageFullError, UnavailableError, UsageError
from rage_net.exposing import OTHERS_WAIT_S, RANKS_MAX
from rage_net.services.purging import Wish

if TYPE_CHECKING:
    from rage_net.cdns import Cdns
    from rage_net.engine import Engine
    from rage_net.sync.facts import Fact, PurgedProvider

log = logging.getLogger("rage.cdn")

EMPTYING, SENT, TOLD, LAST = 1, 2, 3, 4
"""Steps at one CDN: what was done last. Before them an owed purge is one for all CDNs, at 0."""
IN_FLIGHT_S = 65.0
"""How long an answer of ours may be on its way to an edge (`http.ANSWER_TIMEOUT_S`), and a little more."""
LOOK_S_MIN, LOOK_S_MAX = 1.0, 60.0
"""Between two looks at what is under way: a quarter of the time that it is."""
WAIT_S_MAX = OTHERS_WAIT_S * (RANKS_MAX + 2)
"""Nothing waits longer than that for its time."""
IDLE_S = 60.0
REST_S_MIN = 0.05
AFTER_FAILURE_S = 5.0
STEPS_AT_ONCE = 64
"""A step takes a moment, but for a proof."""
PROVE_S = 10.0

Next = Literal["wait", "again", "prove", "last"]


def next_at(owed: Owed, *, is_emptied: bool, has_answered: bool, now: float) -> Next:
    """What is next at one CDN. `is_emptied`: its buckets have answered; `has_answered`: its edges, to its `purge`."""
    if owed.step == EMPTYING:
        return "again" if is_emptied else "wait"
    if owed.step == TOLD:
        return "last"
    if has_answered:
        return "prove"
    is_late = now >= owed.since + IN_FLIGHT_S
    return "last" if owed.step == SENT and is_late and owed.cause != "moved" else "wait"


def look_in(owed: Owed, now: float) -> float:
    """Seconds until one that waits is looked at again: rarer, the longer its edges are away."""
    rest = min(max((now - owed.since) / 4, LOOK_S_MIN), LOOK_S_MAX)
    ends = owed.since + IN_FLIGHT_S
    return min(rest, ends - now) if owed.step == SENT and ends > now else rest


async def work(engine: Engine, cdns: Cdns) -> None:
    """Do what is owed, for as long as this task lives. A proof takes a while: what is owed meanwhile does not wait."""
    busy: set[str] = set()
    async with asyncio.TaskGroup() as tasks:
        while True:
            cdns.wake.clear()
            now = engine.env.now()
            under_way = frozenset(busy)  # those may have gone a step further since they were read
            due: dict[str, list[Owed]] = {}
            for owed in await engine.env.blocking(cdns.holdings.due, now, now + WAIT_S_MAX):
                if owed.id not in under_way:
                    due.setdefault(owed.id, []).append(owed)
            for id, rows in due.items():
                busy.add(id)
                tasks.create_task(_step_alone(engine, cdns, rows, busy))
            next_at = await engine.env.blocking(cdns.holdings.next_owed, now)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(REST_S_MIN, min(IDLE_S, (next_at or math.inf) - now))):
                    await cdns.wake.wait()
            await asyncio.sleep(REST_S_MIN)  # what a mass of documents wakes is read together


async def _step_alone(engine: Engine, cdns: Cdns, rows: Sequence[Owed], busy: set[str]) -> None:
    """Bring the purge of one document a step further; a failure is its own, and it is tried again."""
    owed = rows[0]
    try:
        async with cdns.steps:
            after = await (_go_on(engine, cdns, rows) if owed.provider else _begin(engine, cdns, owed))
    except Exception as error:  # a document that we cannot do right by holds up no other
        what = f"the purge of document {owed.document.doc_id}, which was {owed.cause}"
        if isinstance(error, UnavailableError | StorageFullError):  # of all that are owed, every few seconds
            log.warning("%s, waits: %s", what, error)
        else:
            log.exception("%s", what)
        engine.metrics.failures.add(1, "cdn")
        after = [replace(it, due_at=engine.env.now() + AFTER_FAILURE_S) for it in rows]
    try:
        await engine.env.blocking(cdns.holdings.turn, rows, after)
    finally:
        busy.discard(owed.id)
        cdns.wake.set()


async def _begin(engine: Engine, cdns: Cdns, owed: Owed) -> list[Owed]:
    """Ask all that must be asked; from here on each CDN is on its own."""
    names = await engine.env.blocking(_still_wanted, engine, cdns, owed)
    await _ask(engine, cdns, owed, owed.id + BUCKETS, [name for name in names if name in cdns.buckets])
    await _ask(engine, cdns, owed, owed.id, [name for name in names if name not in cdns.buckets])
    emptying = {it.provider.removesuffix(SUFFIX) for it in await _states(engine, cdns, owed.id + BUCKETS)}
    asked = {it.provider for it in await _states(engine, cdns, owed.id)}
    begun = replace(owed, since=engine.env.now(), due_at=engine.env.now() + LOOK_S_MIN, purge=owed.id)
    return [
        replace(begun, provider=name, step=EMPTYING if name in emptying else SENT) for name in sorted(emptying | asked)
    ]


async def _go_on(engine: Engine, cdns: Cdns, rows: Sequence[Owed]) -> list[Owed]:
    """What is next at each of these CDNs; what two of them do, they do together."""
    rows = [it for it in rows if it.provider in cdns.sections]
    if not rows:
        return []
    id = rows[0].id
    buckets = await _states(engine, cdns, id + BUCKETS)
    edges = {purge: await _states(engine, cdns, purge) for purge in {it.purge for it in rows}}

    def of(owed: Owed) -> tuple[list[Standing], list[Standing]]:
        """How its buckets and its edges stand."""
        return (
            [it for it in buckets if it.provider == owed.provider + SUFFIX],
            [it for it in edges[owed.purge] if it.provider == owed.provider],
        )

    now = engine.env.now()
    todo: dict[Next, list[Owed]] = {"wait": [], "again": [], "prove": [], "last": []}
    for owed in rows:
        is_emptied, has_answered = (all(it.state not in ("queued", "pending") for it in states) for states in of(owed))
        todo[next_at(owed, is_emptied=is_emptied, has_answered=has_answered, now=now)].append(owed)
    proved = [(owed, *of(owed)) for owed in todo["prove"]]
    return [
        *(replace(owed, due_at=now + look_in(owed, now)) for owed in todo["wait"]),
        *await _purge_again(engine, cdns, [owed for owed in todo["again"] if of(owed)[1]]),
        *await _prove_and_tell(engine, cdns, proved),
        *await _purge_a_last_time(engine, cdns, todo["last"]),
    ]


async def _purge_again(engine: Engine, cdns: Cdns, rows: Sequence[Owed]) -> list[Owed]:
    """An edge that was filled from a bucket before that was empty has it again."""
    if not rows:
        return []
    purge = await _ask_anew(engine, cdns, rows, "again")
    now = engine.env.now()
    return [replace(owed, step=SENT, since=now, due_at=now + LOOK_S_MIN / 10, purge=purge) for owed in rows]


async def _purge_a_last_time(engine: Engine, cdns: Cdns, rows: Sequence[Owed]) -> list[Owed]:
    """An answer that was on its way to an edge while it was purged is kept there as if it came after."""
    if not rows:
        return []
    await _ask_anew(engine, cdns, rows, "last")
    now = engine.env.now()
    return [replace(owed, step=LAST, due_at=now + look_in(owed, now)) for owed in rows if owed.step != TOLD]


async def _prove_and_tell(
    engine: Engine, cdns: Cdns, rows: Sequence[tuple[Owed, Sequence[Standing], Sequence[Standing]]]
) -> list[Owed]:
    """Rows with how their buckets and edges stand: what has failed anywhere, or is given still, is not told.

    Nor is it where the document's blocks are not known here, and its bucket was left as it is: another node has them.
    """
    if not rows:
        return []
    by_purge: dict[str, list[Standing]] = {}
    for owed, _, edges in rows:
        by_purge.setdefault(owed.purge, []).extend(edges)
    stays = [await _prove(engine, cdns, purge, states) for purge, states in by_purge.items()]
    emptied = await engine.env.blocking(cdns.journal.find, rows[0][0].id + BUCKETS)
    left = {name.removesuffix(SUFFIX) for name, _ in emptied.impossible} if emptied is not None else set()
    told = [
        owed.provider
        for owed, buckets, edges in rows
        if edges
        and owed.provider not in left
        and all(it.state != "failed" for it in (*buckets, *edges))
        and not any(owed.provider in names for names in stays)
    ]
    await _tell(engine, cdns, rows[0][0], told)
    now = engine.env.now()
    return [
        replace(owed, step=TOLD, due_at=max(now, owed.since + IN_FLIGHT_S))
        for owed, _, edges in rows
        if edges and owed.step == SENT and owed.cause != "moved"
    ]


async def _states(engine: Engine, cdns: Cdns, purge: str) -> list[Standing]:
    return cdns.of_now(await engine.env.blocking(cdns.journal.states, purge))


async def _prove(engine: Engine, cdns: Cdns, purge: str, states: Sequence[Standing]) -> set[str]:
    """Names of providers that give the object still."""
    asked = await engine.env.blocking(cdns.journal.find, purge)
    if asked is None:
        return set()
    ends = engine.env.monotonic() + PROVE_S
    proofs = await prove(engine, cdns, asked, states, ends)
    for proof in proofs:
        if proof.proof == "stays":
            log.warning("%s %s gives %s still: %s", proof.provider, proof.edge, proof.path, proof.evidence)
    return {proof.provider for proof in proofs if proof.proof == "stays"}


def _still_wanted(engine: Engine, cdns: Cdns, owed: Owed) -> list[str]:
    """Providers that must be asked: of a move those that purge on updates; not those that others say they purged."""
    names = [
        name
        for name in cdns.purging.providers
        if owed.cause != "moved" or getattr(cdns.section_of(name).config, "purge_on_update", True)
    ]
    metadata = engine.metadata
    if metadata is None or not owed.events:
        return names
    from rage_net.sync.purges import covers

    told = [
        [
            one
            for _, providers in metadata.records.purged_by(owed.document.doc_id, bytes.fromhex(event))
            for one in providers
        ]
        for event in owed.events
    ]
    return [name for name in names if not all(covers(those, _told_as(cdns.section_of(name))) for those in told)]


async def _ask(engine: Engine, cdns: Cdns, owed: Owed, id: str, names: Sequence[str]) -> None:
    if not names:
        return
    root = Cid.parse(owed.document.root)
    find = targets.of_bucket if names[0] in cdns.buckets else targets.of_document
    target = await engine.env.blocking(find, engine, owed.document.doc_id, [root])
    if target is None:
        return
    objects = targets.paths_of(root)[:1]
    label = f"document {owed.document.doc_id} was {owed.cause}"
    wish = Wish(id, (target,), label, owed.cause, owed.document.doc_id, objects, False, tuple(names))
    try:
        asked = await cdns.purging.ask(wish)
    except UsageError as error:  # more URLs than one purge may name
        log.warning("%s: %s; all that these CDNs have of us is purged instead", label, error)
        target = await engine.env.blocking(targets.of_document, engine, owed.document.doc_id, [])
        asked = await cdns.purging.ask(replace(wish, targets=(target,)))
    except (ConfigError, NotFoundError) as error:  # the configuration has changed under us
        log.warning("%s: %s", label, error)
        return
    for name, what in asked.impossible:
        log.warning("%s, and %s has no way to purge %s: rage cdn purge --all --provider %s", label, name, what, name)


async def _ask_anew(engine: Engine, cdns: Cdns, rows: Sequence[Owed], why: str) -> str:
    """Ask the edges of these CDNs once more; the id of that purge."""
    names = [owed.provider for owed in rows]
    purge = f"{rows[0].id}-{why}-{blake3(' '.join(names).encode()).hexdigest(4)}"
    await _ask(engine, cdns, rows[0], purge, names)
    return purge


async def _tell(engine: Engine, cdns: Cdns, owed: Owed, names: Sequence[str]) -> None:
    """A signed fact, so that nobody else purges."""
    metadata = engine.metadata
    if metadata is None or not names or not owed.events or not metadata.may_write():
        return
    from rage_net import sharing

    told = [_told_as(cdns.section_of(name)) for name in names]
    events = [bytes.fromhex(event) for event in owed.events]

    def write() -> list[Fact]:
        return list(metadata.records.tell_purged(owed.document.doc_id, events, told))

    facts = await engine.env.blocking(write)
    await sharing.written(engine, metadata.organization, facts)


def _told_as(section: sections.Provider) -> PurgedProvider:
    """A provider as others compare it: same place, same hosts, same purge.

    What fills its edges is a part of the place: who purges them empties no other store than the one it knows.
    """
    from rage_net.sync.facts import PurgedProvider

    match section.config:
        case sections.Cloudflare(zone_id=zone):
            place = [zone]
        case sections.Fastly(service_id=service):
            place = [service]
        case sections.CloudFront(distribution_id=distribution):
            place = [distribution]
        case sections.Azure() as azure:
            place = [azure.subscription_id, azure.resource_group, azure.profile_name, azure.endpoint_name]
        case sections.Edge(endpoints=endpoints, dav_path=dav_path):
            place = [*sorted(endpoints), *([] if dav_path is None else [dav_path])]
        case _:
            place = []
    if section.bucket is not None:
        place += [section.bucket.uri, section.bucket.endpoint or ""]
    digest = blake3("\n".join(place).encode()).digest(16)
    hosts = tuple(sorted({url.partition("://")[2].partition("/")[0].lower() for url in section.public_urls}))
    return PurgedProvider(section.name, section.software, hosts, digest)
