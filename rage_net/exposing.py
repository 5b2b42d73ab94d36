"""What purges CDNs by itself: a document that ceases to be public, goes, or moves is purged wherever it may be held.

The journal remembers which documents CDNs may hold. Whatever happens (facts of ours or of others, a revocation, a
restart with news missed), what was held is compared with what may be: so no path of code has to remember to purge.
Where this node wrote the change it purges at once; others with credentials wait half a minute, then by rank, and do not
when a signed `purged` fact says that somebody did. The order: it is effective at the origin before this is called;
delete from every bucket; purge the edges, at once and again when the deletes are through; prove; tell; and a minute
later purge once more, for an edge may have been asking us for it while it was purged.

Source: issue 6, B; design D4, D7. Not here: what is public (gate), sending (services.purging).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING

from blake3 import blake3

from rage_net import sealed_cdns
from rage_net.acl import access_of_row
from rage_net.cdn.journal import Exposed, Journal, Owed, Standing
from rage_net.cdn_verbs import targets
from rage_net.cdn_verbs.purge import prove
from rage_net.cid import Cid
from rage_net.config import cdn as sections
from rage_net.errors import ConfigError, NotFoundError, UsageError
from rage_net.gate import is_public_access
from rage_net.services.purging import Wish

if TYPE_CHECKING:
    from rage_net.cdns import Cdns
    from rage_net.engine import Engine
    from rage_net.sync.facts import Fact, PurgedProvider

log = logging.getLogger("rage.cdn")

OTHERS_WAIT_S = 30.0
"""How long one that did not write the change leaves the purge to its author; then so much more for each rank."""
RANKS_MAX = 10
LOOK_AGAIN_S = 1.0
"""Between two looks at a purge that is under way."""
IDLE_S = 60.0
"""Between two looks at everything: facts that have come to count no more say nothing of themselves."""
REST_S_MIN = 0.05
AFTER_FAILURE_S = 5.0
STEPS_AT_ONCE = 64
"""A step takes a moment, but for the last: it asks the edges for proof."""
PROVE_S = 10.0
EVENTS_MAX = 64

BUCKETS, ONCE_MORE, AT_LAST = "-buckets", "-again", "-last"
"""After the id of what is owed: the ids of the purges that it asks for besides its own."""
ASKED, AGAIN, LAST = 1, 2, 3
"""Steps of an owed purge: buckets and edges have been asked; edges have been asked again after the buckets; it is
proved and told, and edges are asked a last time."""
IN_FLIGHT_S = 65.0
"""How long an answer of ours may be on its way to an edge (`http.ANSWER_TIMEOUT_S`), and a little more."""


async def look(engine: Engine, cdns: Cdns, doc_ids: Collection[str] | None, *, is_ours: bool) -> int:
    """Compare what CDNs may hold with what is public now, of these documents or of all; purges that are owed."""
    async with cdns.looking:  # two at once could each write what the other has made untrue
        owed = await engine.env.blocking(_compare, engine, cdns, doc_ids, is_ours)
    cdns.wake.set()
    cdns.wake_sealed.set()  # what is sealed may be due, too
    return owed


def _compare(engine: Engine, cdns: Cdns, doc_ids: Collection[str] | None, is_ours: bool) -> int:
    journal = cdns.journal
    before = {it.doc_id: it for it in journal.exposed(None if doc_ids is None else tuple(doc_ids))}
    ids = dict.fromkeys([*before, *(_public_ids(engine) if doc_ids is None else doc_ids)])
    now = engine.env.now()
    shown: list[Exposed] = []
    owed: list[Owed] = []
    gone: list[str] = []
    for doc_id in ids:
        was, is_ = before.get(doc_id), _exposed(engine, doc_id, before.get(doc_id))
        if was == is_:
            continue
        if is_ is not None:
            shown.append(is_)
        else:
            gone.append(doc_id)
        if was is not None:
            cause = "moved" if is_ is not None else "removed" if _is_dead(engine, was) else "narrowed"
            facts = _decisive(engine, was)
            events = tuple(fact.id.hex() for fact in facts)
            is_author = is_ours or engine.metadata is None or (bool(facts) and facts[-1].author == engine.metadata.own)
            wait_s = 0.0 if is_author else OTHERS_WAIT_S * (1 + _rank(engine, doc_id))
            owed.append(Owed(_id(journal, was, is_, events, now), was, cause, events, now + wait_s))
    if shown or owed or gone:
        journal.expose(shown, owed, gone)
    return len(owed)


def _public_ids(engine: Engine) -> Iterable[str]:
    after = ""
    while True:
        page, after = engine.documents.list(after=after, limit=1000)
        yield from (document.doc_id for document in page if document.visibility == "public")
        if not after:
            return


def _exposed(engine: Engine, doc_id: str, was: Exposed | None) -> Exposed | None:
    """The document as CDNs may hold it now; None when they may not."""
    metadata = engine.metadata
    try:
        document = engine.documents.get(doc_id)
    except NotFoundError:
        document = None
    if metadata is None:
        if document is None or not is_public_access(
            access_of_row(document.visibility, document.owner, document.organisation)
        ):
            return None
        return Exposed(doc_id, document.organisation, str(document.root))
    organization = (document.organisation if document else was.organization if was else "") or metadata.organization
    row = metadata.records.row(organization, doc_id)
    if row is None:
        if document is None or document.visibility != "public":
            return None
        return Exposed(doc_id, organization, str(document.root))
    rights = metadata.access.rights(organization, f"doc:{doc_id}")
    if row.is_dead or rights.is_dead or not is_public_access(rights.access):
        return None
    return Exposed(doc_id, organization, str(row.root))


def _is_dead(engine: Engine, was: Exposed) -> bool:
    if engine.metadata is None:
        return True
    row = engine.metadata.records.row(was.organization, was.doc_id)
    return row is None or row.is_dead


def _id(journal: Journal, was: Exposed, is_: Exposed | None, events: Sequence[str], now: float) -> str:
    """The same for the same change, so that nobody notes it twice; another when all of it happens once more."""
    words = [was.doc_id, was.root, is_.root if is_ else "", *events]
    for salt in ("", f" {now}"):
        id = "o" + sha256(("\n".join(words) + salt).encode()).hexdigest()[:24]
        if all(journal.find(id + part) is None for part in ("", BUCKETS)):
            break
    return id


def _decisive(engine: Engine, was: Exposed) -> list[Fact]:
    """The facts that decide now, the last one last: what asked for the purge is among them."""
    if engine.metadata is None:
        return []
    from rage_net.sync import facts as kinds

    decisive = (kinds.Access, kinds.Tombstone, kinds.Document)
    rights = engine.metadata.access.rights(was.organization, f"doc:{was.doc_id}")
    found = sorted((fact for fact in rights.in_force if isinstance(fact.body, decisive)), key=lambda it: it.order)
    return found[-EVENTS_MAX:]


def _rank(engine: Engine, doc_id: str) -> int:
    """Among the nodes of our organisation, the place of this one: the same order on all, by document."""
    from rage_net import sharing

    metadata = engine.metadata
    if metadata is None:
        return 0
    peers = {str(peer) for peer in (*sharing.known_nodes(metadata), metadata.own)}
    ranked = sorted(peers, key=lambda peer: blake3(f"{doc_id} {peer}".encode()).digest())
    return min(ranked.index(str(metadata.own)), RANKS_MAX)


# --- what is owed is done ---


async def work(engine: Engine, cdns: Cdns) -> None:
    """Do what is owed, for as long as this task lives; a node looks at everything at once, and once in a while."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_settle_again(engine, cdns, tasks))
        tasks.create_task(_seal_again(engine, cdns))


async def _settle_again(engine: Engine, cdns: Cdns, tasks: asyncio.TaskGroup) -> None:
    ends = engine.env.monotonic()
    busy: set[str] = set()
    while True:
        cdns.wake.clear()
        if engine.serves and engine.env.monotonic() >= ends:
            await look(engine, cdns, None, is_ours=False)
            ends = engine.env.monotonic() + IDLE_S
        now = engine.env.now()
        rest = ends - engine.env.monotonic() if engine.serves else IDLE_S
        under_way = frozenset(busy)
        for owed in await engine.env.blocking(cdns.journal.owed):
            if owed.id in under_way:
                continue  # it may have gone a step further since it was read
            if is_due(owed, now):  # a proof takes a while: what is owed meanwhile does not wait for it
                busy.add(owed.id)
                tasks.create_task(_step_alone(engine, cdns, owed, busy))
            else:
                rest = min(rest, owed.due_at - now)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(REST_S_MIN, rest)):
                await cdns.wake.wait()


async def _step_alone(engine: Engine, cdns: Cdns, owed: Owed, busy: set[str]) -> None:
    """Bring one a step further; a failure is its own, and it is tried again."""
    try:
        async with cdns.steps:
            await _step(engine, cdns, owed)
    except Exception:  # a document that we cannot do right by holds up no other
        log.exception("the purge of document %s, which was %s", owed.document.doc_id, owed.cause)
        engine.metrics.failures.add(1, "cdn")
        await engine.env.blocking(cdns.journal.advance, owed.id, owed.step, engine.env.now() + AFTER_FAILURE_S)
    finally:
        busy.discard(owed.id)
        cdns.wake.set()


async def _seal_again(engine: Engine, cdns: Cdns) -> None:
    while True:
        cdns.wake_sealed.clear()
        await sealed_cdns.settle(engine, cdns)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(IDLE_S):
                await cdns.wake_sealed.wait()


def is_due(owed: Owed, now: float) -> bool:
    """Whether its time has come. One that would wait longer than any does: the clock was set back since."""
    return owed.due_at <= now or owed.due_at > now + OTHERS_WAIT_S * (RANKS_MAX + 2)


async def _step(engine: Engine, cdns: Cdns, owed: Owed) -> None:
    journal, now = cdns.journal, engine.env.now()
    if owed.step == 0:
        names = await engine.env.blocking(_still_wanted, engine, cdns, owed)
        await _ask(engine, cdns, owed, owed.id + BUCKETS, [name for name in names if name in cdns.buckets])
        await _ask(engine, cdns, owed, owed.id, [name for name in names if name not in cdns.buckets])
        await engine.env.blocking(journal.advance, owed.id, ASKED, now + LOOK_AGAIN_S)
        return
    if owed.step == LAST:
        await _ask_a_last_time(engine, cdns, owed)
        return
    found = await engine.env.blocking(journal.states, owed.id + BUCKETS)
    emptied = cdns.of_now(found)
    found = await engine.env.blocking(journal.states, owed.id if owed.step == ASKED else owed.id + ONCE_MORE)
    states = cdns.of_now(found)
    if any(it.state in ("queued", "pending") for it in (*emptied, *states)):
        await engine.env.blocking(journal.advance, owed.id, owed.step, now + LOOK_AGAIN_S)
        return
    edges = list(dict.fromkeys(it.provider for it in states))
    if owed.step == ASKED and emptied and edges:  # an edge that was filled from a bucket meanwhile has it again
        await _ask(engine, cdns, owed, owed.id + ONCE_MORE, edges)
        await engine.env.blocking(journal.advance, owed.id, AGAIN, now + LOOK_AGAIN_S / 10)
        return
    stays = await _prove(engine, cdns, owed, states)
    failed = {it.provider for it in states if it.state == "failed"} | stays
    await _tell(engine, cdns, owed, [name for name in edges if name not in failed])
    if edges and owed.cause != "moved":  # what moved was public, and its old bytes harm nobody
        await engine.env.blocking(journal.advance, owed.id, LAST, engine.env.now() + IN_FLIGHT_S)
    else:
        await engine.env.blocking(journal.acquit, owed.id)


async def _ask_a_last_time(engine: Engine, cdns: Cdns, owed: Owed) -> None:
    """An answer that was on its way to an edge while it was purged is kept there as if it came after."""
    found = await engine.env.blocking(cdns.journal.states, owed.id)
    names = dict.fromkeys(it.provider for it in cdns.of_now(found))
    await _ask(engine, cdns, owed, owed.id + AT_LAST, list(names))
    await engine.env.blocking(cdns.journal.acquit, owed.id)


async def _prove(engine: Engine, cdns: Cdns, owed: Owed, states: Sequence[Standing]) -> set[str]:
    """Names of providers that give the object still."""
    asked = await engine.env.blocking(cdns.journal.find, owed.id)
    if asked is None:
        return set()
    ends = engine.env.monotonic() + PROVE_S
    proofs = await prove(engine, cdns, asked, states, ends, is_soft=False)
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
    """A provider as others compare it: same place, same hosts, same purge."""
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
        case sections.Edge(endpoints=endpoints):
            place = sorted(endpoints)
        case _:
            place = []
    digest = blake3("\n".join(place).encode()).digest(16)
    hosts = tuple(sorted({url.partition("://")[2].partition("/")[0].lower() for url in section.public_urls}))
    return PurgedProvider(section.name, section.software, hosts, digest)
