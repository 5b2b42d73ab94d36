"""Whether a chunk or a document can be had: here, by the catalog, by its rights, and from whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rage_net import lookups, sharing
from rage_net.checkup.outcomes import span
from rage_net.chunk import manifest, views
from rage_net.cid import Cid, CidError
from rage_net.diagnose.certificates import SIGN
from rage_net.diagnose.rights import SHOWN_MAX, Claim, catalog_of, claims_on, removed_of
from rage_net.diagnose.walk import Walk
from rage_net.errors import ConfigError, NotFoundError, RageError, UsageError
from rage_net.libp2p.peer_id import PeerId
from rage_net.online import Online
from rage_net.verbs.chunk import ProviderRow
from rage_net.verbs.diagnose import Why, WhyResult

if TYPE_CHECKING:
    from rage_net.engine import Engine
    from rage_net.sync.documents import DocumentRow

PROVIDERS_MAX = 20
REFUSAL = "a refusal looks like absence"


@dataclass(frozen=True, slots=True)
class Contents:
    """What was asked about. `rows` are the documents of catalogs that it is, removed ones too."""

    root: Cid
    kind: str
    rows: tuple[DocumentRow, ...]


def find_contents(engine: Engine, text: str) -> Contents:
    """The root that a CID, a document's id or its name means, here or in the catalog of an organisation. Blocking.

    Raises: NotFoundError; UsageError for a name of several.
    """
    metadata = engine.metadata
    try:
        root = views.find_root(engine.documents, text)
    except NotFoundError:
        rows = sharing.catalog_rows(metadata, text) if metadata is not None else []
        wanted = [row for row in rows if not row.is_dead] or rows
        if not wanted:
            raise
        if len({row.root for row in wanted}) > 1 and not wanted[0].is_dead:
            mend = [f"rage why {row.doc_id}" for row in wanted[:3]]
            raise UsageError(f"{text!r} means {len(wanted)} documents", mend=mend) from None
        root = wanted[-1].root
    return Contents(root, "chunk" if _is_cid(text) else "document", tuple(catalog_of(metadata, root)))


def _is_cid(text: str) -> bool:
    try:
        Cid.parse(text)
    except CidError:
        return False
    return True


async def explain_contents(engine: Engine, contents: Contents, verb: Why, walk: Walk) -> WhyResult:
    """Every link from here to a root."""
    root, kind = contents.root, contents.kind
    wanted, here = await engine.env.blocking(_count_blocks, engine, root)
    is_whole = bool(wanted) and here == wanted
    if is_whole:
        walk.add("local", "ok", f"all {wanted} blocks are here")
    else:
        walk.add("local", "warning", f"{here} of {wanted} blocks are here" if wanted else "not here")
    claims = await engine.env.blocking(claims_on, engine, root, contents.rows)
    is_removed = await _explain_catalog(engine, contents, claims, walk)
    if is_removed and not is_whole:
        return walk.result(verb.subject, kind, False, f"{root} cannot be had: it was removed everywhere")
    _explain_rights(engine, claims, walk, is_whole=is_whole)
    online = await engine.online()
    _explain_own_certificate(online, engine, walk)
    await _explain_announcement(engine, online, root, walk, is_whole=is_whole)
    at_cdns = await _ask_cdns(engine, root, walk)
    walk.add("policy", "skipped", "no replication takes place: a root lies where it was put or fetched")
    rows = await _ask_peers(engine, online, root, claims, verb, walk)
    has = [row.peer_id for row in rows if row.state == "has"]
    if is_whole:
        return walk.result(verb.subject, kind, True, f"{root} can be had: it is here")
    if has:
        return walk.result(verb.subject, kind, True, f"{root} can be had from {', '.join(has[:3])}")
    if at_cdns:
        return walk.result(verb.subject, kind, True, f"{root} can be had from {', '.join(at_cdns[:3])}")
    owners = [row for row in contents.rows if not row.is_dead]
    _explain_owners(online, engine, owners, {row.peer_id for row in rows}, walk)
    return walk.result(verb.subject, kind, False, f"{root} cannot be had: nobody who was reached gives it")


def _count_blocks(engine: Engine, root: Cid) -> tuple[int, int]:
    """How many blocks a root has, as far as its manifests are here, and how many of them are. Blocking."""
    wanted = here = 0
    if not engine.store.has(root):
        return 0, 0
    try:
        for cid in manifest.blocks(root, engine.store.get):
            wanted += 1
            here += engine.store.has(cid)
    except RageError:  # a manifest below the root is absent or rotten
        wanted += 1
    return wanted, here


# --- the log ----------------------------------------------------------------------------------------------------------


async def _explain_catalog(engine: Engine, contents: Contents, claims: Sequence[Claim], walk: Walk) -> bool:
    """Which documents of which catalogs it is. Returns: whether all of them were removed, and none counts here."""
    metadata = engine.metadata
    if metadata is None:
        return False
    living = [row for row in contents.rows if not row.is_dead]
    for row in living[:SHOWN_MAX]:
        where = "" if any(claim.doc_id == row.doc_id and claim.is_here for claim in claims) else "; not here"
        owner = "this node" if row.owner == metadata.own else f"…{str(row.owner)[-8:]}"
        walk.add("catalog", "ok", f"{row.organization} has it as {row.name or row.doc_id}, by {owner}{where}")
    is_removed = bool(contents.rows) and not living and not any(claim.is_here for claim in claims)
    for gone in (await engine.env.blocking(removed_of, metadata, contents.rows))[:SHOWN_MAX]:
        said = f"{gone.name or gone.doc_id} was removed everywhere by {gone.author}: {gone.reason} (fact {gone.fact})"
        mend = (f"rage sync log doc:{gone.doc_id} --org {gone.organization}", "put it again")
        walk.add("tombstone", "broken" if is_removed else "warning", said, mend if is_removed else ())
    if not contents.rows and not claims:
        walk.add("catalog", "warning", "no document of a catalog here is this root", ("rage sync run",))
    return is_removed


def _explain_rights(engine: Engine, claims: Sequence[Claim], walk: Walk, *, is_whole: bool) -> None:
    """Whether this node may read it, as its holders decide; and by which document."""
    if engine.metadata is None:
        walk.add("acl", "skipped", "no CA is configured: a peer gives what is public, and its trusted_peers everything")
        return
    if not claims:
        said = f"nothing is known of its rights: a holder may refuse it, and {REFUSAL}"
        walk.add("acl", "warning" if not is_whole else "ok", said if not is_whole else "no document counts for it here")
        return
    may = claims[0].decision.allowed
    for claim in claims[:SHOWN_MAX]:
        decision, access = claim.decision, claim.access
        what = f"{claim.label} ({access.organization}, {access.visibility})"
        counts = "counts for it here; " if claim.is_here else ""
        said = f"{what}: {counts}this node may {'' if decision.allowed else 'not '}read it: {decision.reason}"
        said += f" (rule: {decision.rules[-1]})"
        if access.flaw:
            said += f"; {access.flaw}"
        if decision.allowed:
            walk.add("acl", "ok", said)
            continue
        me = f"peer:{engine.metadata.own}"
        name = claim.name or claim.doc_id
        mend = (
            f"at its owner …{access.owner[-8:]}: rage acl grant {name} {me} read",
            f"rage acl check {name} {me} read",
        )
        walk.add("acl", "warning" if may or is_whole else "broken", f"{said}; to us {REFUSAL}", mend)
    if len(claims) > SHOWN_MAX:
        walk.add("acl", "ok" if may else "warning", f"{len(claims) - SHOWN_MAX} more documents count for it")


def _explain_own_certificate(online: Online, engine: Engine, walk: Walk) -> None:
    """Whether others believe that we are of our organisation: without that nobody gives us anything."""
    trust = online.trust
    if trust.is_open:
        return
    if trust.credentials.problem:
        walk.add("certificate", "broken", f"{trust.credentials.problem}: no peer trusts it", (SIGN,))
        return
    standing = trust.judge(online.swarm.peer_id, trust.credentials.chain)
    if standing.certificate is None:
        walk.add("certificate", "broken", standing.message, ("rage doctor --only certificate", "rage cert show"))
    else:
        left = span(standing.certificate.not_after - engine.env.now())
        walk.add("certificate", "ok", f"this node is proven to be of {standing.organization}, for {left}")


# --- others -----------------------------------------------------------------------------------------------------------


async def _explain_announcement(engine: Engine, online: Online, root: Cid, walk: Walk, *, is_whole: bool) -> None:
    """Whether others can find what is here."""
    if not is_whole:
        return
    is_public = await engine.env.blocking(engine.is_public, root)
    if not is_public:
        walk.add("visibility", "ok", "not public: served to who may read it, and announced to nobody")
    elif online.routing is None:
        walk.add("announced", "warning", "public, but this node takes no part in the DHT")
    else:
        due = online.routing.due_in_s(root)
        if due is None:
            said = "public; a running node announces it" if not engine.serves else "public, not yet announced"
            walk.add("announced", "warning", said, () if engine.serves else ("rage node start --detach",))
        else:
            walk.add("announced", "ok", f"public; announced, and again in {due / 3600:.1f} h")


async def _ask_cdns(engine: Engine, root: Cid, walk: Walk) -> list[str]:
    """What each CDN answers. Returns: those that give the right bytes."""
    try:
        fronting = await engine.ways_in.open()
        found = await engine.ways_in.ask(root)
    except ConfigError as error:
        walk.add("cdn", "broken", error.message, error.mend)
        return []
    if fronting is None:
        walk.add("cdn", "skipped", "no CDN is configured")
    elif not found:
        walk.add("cdn", "skipped", "not known to be public: third parties would learn what the organisation reads")
    has = []
    for front, one in found:
        name = f"cdn {front.provider}"
        said = f"{front.url}: "
        if one.body == "right":
            has.append(name)
            said += "has it"
        else:
            said += one.reason or f"has it not (it answers {one.status})"
        if one.evidence.line:
            said += f" ({one.evidence.line})"
        breaker, now = fronting.breaker(front) if fronting is not None else None, engine.env.now()
        if breaker is not None and breaker.state(now) == "open":
            said += f"; downloads leave it alone for {breaker.left_s(now):.0f} s more: {breaker.reason}"
        state = "ok" if one.body == "right" else "broken" if one.reason else "warning"
        walk.add(name, state, said, _MEND_CDN.get(one.code, ()))
    return has


_MEND_CDN: Mapping[str, tuple[str, ...]] = {
    "cdn-unreachable": ("rage cdn check",),
    "cdn-config": ("rage config check", "give in public_urls the address to which it sends us"),
    "cdn-forbidden": ("rage cdn check", "let its edge give /chunks/ to everybody"),
    "cdn-answer": ("rage cdn check", "see what stands between: curl -i the URL"),
    "cdn-busy": ("rage cdn status",),
}


async def _ask_peers(
    engine: Engine, online: Online, root: Cid, claims: Sequence[Claim], verb: Why, walk: Walk
) -> list[ProviderRow]:
    for text in verb.peers:
        try:
            await online.membership.find(text)
        except RageError as error:
            walk.add("peer", "broken", f"{text}: {error.message}: {error.why}", error.mend)
    connected = online.swarm.connections()
    if not connected and not engine.serves:
        await online.membership.keep_connected()
        connected = online.swarm.connections()
    if not connected:
        walk.add("peers", "broken", "no peer is connected", ("rage peer discover --connect", "rage doctor"))
    may_ask = await engine.may_ask(root)
    try:
        found = await lookups.list_providers(online, root, PROVIDERS_MAX, is_here=False, may_ask=may_ask, keep_all=True)
    except RageError as error:
        walk.add("providers", "broken", error.message, error.mend)
        return []
    rows = list(found.items)
    near = [row for row in rows if "connected" in row.via]
    has = sum(row.state == "has" for row in near)
    if connected:
        said = f"{len(near)} are connected, {has} of them have it"
        is_end = not may_ask and not has  # nobody else may be asked
        if not has and not online.trust.is_open:
            said += f"; of those that lack it some may refuse it: {REFUSAL}"
        mend = (
            f"where it is: rage chunk stat {root}",
            f"there: rage acl check {root} peer:{online.swarm.peer_id} read",
        )
        walk.add("peers", "ok" if has else "broken" if is_end else "warning", said, mend if is_end else ())
    far = [row for row in rows if "dht" in row.via]
    said = next((words for words in found.asked if words.startswith("dht: ")), "dht: not asked").removeprefix("dht: ")
    if not may_ask:
        walk.add("dht", "skipped", f"{said}: strangers would learn what the organisation reads")
    elif far or any(row.state == "has" for row in near):
        walk.add("dht", "ok" if said.startswith("named") else "warning", said)
    else:
        walk.add("dht", "broken", said, _mend_dht(online, root))
    for row in far:
        _explain_provider(online, row, root, claims, walk)
    return rows


def _mend_dht(online: Online, root: Cid) -> tuple[str, ...]:
    if online.dht is None:
        return ("set network.libp2p.dht.enabled to true",)
    if not len(online.dht.table):
        return ("rage peer discover --connect", "rage dht table")
    return (
        f"where it is: rage chunk stat {root}",
        "there: rage chunk put FILE --visibility public",
        f"rage dht trace {root}",
    )


def _explain_provider(online: Online, row: ProviderRow, root: Cid, claims: Sequence[Claim], walk: Walk) -> None:
    name = f"provider {row.peer_id[-8:]}"
    where = row.addresses[0] if row.addresses else row.peer_id
    if row.state == "has":
        walk.add(name, "ok", f"has it, {row.rtt_ms} ms away")
    elif row.state == "unreachable":
        walk.add(
            name, "broken", f"cannot be reached: {row.error}", (f"rage peer ping {where}", f"rage why {row.peer_id}")
        )
    elif online.trust.is_open:
        mend = (f"there: rage chunk stat {root}", "there: add this node to network.security.trusted_peers")
        walk.add(name, "broken", "says it has none: it went, or is not for this node", mend)
    else:
        may = any(claim.decision.allowed for claim in claims)
        said = "by the log this node may read it, so it went, or facts are missing there" if may else REFUSAL
        mend = (f"there: rage chunk stat {root}", f"there: rage acl check {root} peer:{online.swarm.peer_id} read")
        walk.add(name, "broken", f"says it has none: {said}", mend)


def _explain_owners(online: Online, engine: Engine, rows: Sequence[DocumentRow], asked: set[str], walk: Walk) -> None:
    """Owners that catalogs name, and that were not asked: they put it, so they should have it."""
    for owner in dict.fromkeys(row.owner for row in rows):
        if str(owner) in asked or owner == online.swarm.peer_id:
            continue
        state = _state(online, owner)
        mend = (f"rage why {owner}", f"rage peer find {owner}")
        walk.add("owner", "broken", f"its owner {owner} is not connected{state}", mend)


def _state(online: Online, peer: PeerId) -> str:
    state = online.membership.liveness.state(peer)
    return f": the network takes it for {state}" if state not in (None, "alive") else ""
