"""What purges CDNs by itself: a document that ceases to be public, goes, or moves is purged wherever it may be held.

The journal remembers which documents CDNs may hold. Whatever happens (facts of ours or of others, a revocation, a
restart with news missed), what was held is compared with what may be: so no path of code has to remember to purge.
Where this node wrote the change it purges at once; others with credentials wait half a minute, then by rank, and do not
when a signed `purged` fact says that somebody did.

Source: issue 6, B; design D4, D7. Not here: what is public (gate), how what is owed is settled (owing).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

from blake3 import blake3

from rage_net.acl import access_of_row
from rage_net.cdn.holdings import Exposed, Owed
from rage_net.cdn.journal import BUCKETS, Journal
from rage_net.env import finished
from rage_net.errors import NotFoundError
from rage_net.gate import is_public_access

if TYPE_CHECKING:
    from rage_net.cdns import Cdns
    from rage_net.engine import Engine
    from rage_net.sync.facts import Fact

log = logging.getLogger("rage.cdn")

OTHERS_WAIT_S = 30.0
"""How long one that did not write the change leaves the purge to its author; then so much more for each rank."""
RANKS_MAX = 10
IDLE_S = 60.0
"""Between two looks at everything: facts that have come to count no more say nothing of themselves."""
EVENTS_MAX = 64
PART = 500
"""Documents that are compared at once: a fraction of the second within which a purge is to be sent."""


async def work(engine: Engine, cdns: Cdns) -> None:
    """What a node does, for as long as this task lives: look at everything, at once and once in a while."""
    while True:
        await look(engine, cdns, None, is_ours=False)
        await asyncio.sleep(IDLE_S)


async def look(engine: Engine, cdns: Cdns, doc_ids: Collection[str] | None, *, is_ours: bool) -> int:
    """Compare what CDNs may hold with what is public now, of these documents or of all; purges that are owed.

    In parts: whoever narrows one document does not wait until all others are compared. A part is done to its end though
    the caller goes away, or what it notes would be found by nobody until something else is looked for.
    """
    ids = await engine.env.blocking(_all, engine, cdns) if doc_ids is None else list(dict.fromkeys(doc_ids))
    owed = 0
    try:
        for at in range(0, len(ids), PART):
            owed += await finished(_look_at(engine, cdns, ids[at : at + PART], is_ours))
    finally:
        cdns.wake_sealed.set()  # what is sealed may be due, too
    return owed


async def _look_at(engine: Engine, cdns: Cdns, doc_ids: Sequence[str], is_ours: bool) -> int:
    async with cdns.looking:  # two at once could each write what the other has made untrue
        owed = await engine.env.blocking(_compare, engine, cdns, doc_ids, is_ours)
    cdns.wake.set()
    return owed


def _all(engine: Engine, cdns: Cdns) -> list[str]:
    """Ids of documents that CDNs may hold, or that are public."""
    return list(dict.fromkeys([*(it.doc_id for it in cdns.holdings.exposed()), *_public_ids(engine)]))


def _compare(engine: Engine, cdns: Cdns, doc_ids: Sequence[str], is_ours: bool) -> int:
    holdings = cdns.holdings
    before = {it.doc_id: it for it in holdings.exposed(doc_ids)}
    now = engine.env.now()
    shown: list[Exposed] = []
    owed: list[Owed] = []
    gone: list[str] = []
    for doc_id in doc_ids:
        was = before.get(doc_id)
        try:
            is_ = _exposed(engine, doc_id, was)
            if was is not None and was != is_:
                owed.append(_owed(engine, cdns.journal, was, is_, now, is_ours=is_ours))
        except Exception:  # a document that we cannot do right by holds up no other
            log.exception("what CDNs may hold of document %s", doc_id)
            engine.metrics.failures.add(1, "cdn")
            continue
        if was != is_:
            shown += [is_] if is_ is not None else []
            gone += [doc_id] if is_ is None else []
    if shown or owed or gone:
        holdings.expose(shown, owed, gone)
    return len(owed)


def _owed(engine: Engine, journal: Journal, was: Exposed, is_: Exposed | None, now: float, *, is_ours: bool) -> Owed:
    """The purge of what was, which is something else now or nothing."""
    cause = "moved" if is_ is not None else "removed" if _is_dead(engine, was) else "narrowed"
    facts = _decisive(engine, was)
    events = tuple(fact.id.hex() for fact in facts)
    is_author = is_ours or engine.metadata is None or (bool(facts) and facts[-1].author == engine.metadata.own)
    wait_s = 0.0 if is_author else OTHERS_WAIT_S * (1 + _rank(engine, was.doc_id))
    return Owed(_id(journal, was, is_, events, now), was, cause, events, now + wait_s)


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
