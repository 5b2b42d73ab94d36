"""Purge: what was named becomes targets, a journal's row, and calls; `--wait` asks every edge until it is proved.

Source: issue 6, B; design D11.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Literal

from rage_net.cdn.answers import hosts
from rage_net.cdn.emptying import SUFFIX
from rage_net.cdn.evidence import judge
from rage_net.cdn.journal import Asked, Standing
from rage_net.cdn.plan import Planned, chosen
from rage_net.cdn.probe import PROBE_S_MAX, Place, Probe, places, probe
from rage_net.cdn_verbs import targets
from rage_net.cid import Cid, CidError
from rage_net.errors import ConfigError, NotFoundError, UsageError
from rage_net.services.purging import FIRST_ANSWER_S, Wish
from rage_net.verbs import Progress
from rage_net.verbs import cdn as verbs

if TYPE_CHECKING:
    from rage_net.cdns import Cdns
    from rage_net.engine import Engine, Io

PROBES = 8
"""At once."""
PROVE_AGAIN_S = 1.0
PROVE_LATE_S = 2.0
"""How long a proof goes on after its time: whoever comes last is heard, and an edge that hangs keeps nobody."""
LABEL_CHARS_MAX = 200
PROOFS: dict[str, Literal["gone", "stays", "unproven"]] = {"gone": "gone", "there": "stays", "unproven": "unproven"}
Report = Callable[[Progress], None]


async def purge_cdn(engine: Engine, verb: verbs.PurgeCdn, io: Io) -> verbs.PurgeResult:
    """Purge what the verb names; durable before the first call. Raises as `Purging.plan`, and UsageError."""
    count = len(verb.cids) + len(verb.docs) + len(verb.tags) + len(verb.prefixes) + len(verb.hosts) + verb.everything
    if not 0 <= verb.wait_s <= verbs.WAIT_S_MAX:
        raise UsageError(
            f"a wait is 0 to {verbs.WAIT_S_MAX:.0f} s",
            why="what has not ended by then goes on by itself",
            mend=["--wait 2m"],
        )
    if verb.failed and count:
        raise UsageError(
            "--failed names all that is purged",
            why="it is what the journal has as failed, and nothing beside it",
            mend=["rage cdn purge --failed"],
        )
    if verb.failed:
        return await _purge_failed(engine, verb, io)
    if not count or count > verbs.TARGETS_MAX:
        raise UsageError(
            f"{count} targets in one purge" if count else "nothing to purge was named",
            why=f"{verbs.TARGETS_MAX} are the most" if count else "a purge of everything is asked for by --all alone",
            mend=["rage cdn purge CID", "rage cdn purge --doc DOC", "rage cdn purge --tag TAG"],
        )
    cdns = await engine.cdns()
    _check_named(cdns, verb.providers)
    wanted, objects, doc_id = await targets.of_verb(engine, verb)
    _check_hosts(cdns, verb.hosts, verb.providers or tuple(cdns.sections))
    names = [target.name for target in wanted]
    label = (", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else ""))[:LABEL_CHARS_MAX]
    purge_id = f"p{engine.env.random.getrandbits(60):015x}"
    wish = Wish(purge_id, tuple(wanted), label, "manual", doc_id, objects, verb.soft, verb.providers or _caches(cdns))
    if verb.dry_run:
        plans = await engine.env.blocking(cdns.purging.plan, wish)
        return _planned(cdns, wish, plans, engine.env.now())
    return await carry_out(engine, cdns, wish, verb.wait_s, io.report)


def _check_named(cdns: Cdns, names: Sequence[str]) -> None:
    """Whether a purge can be for these. Raises as `sections_of`, and ConfigError for what things are only read from."""
    sections_of(cdns, [name for name in names if name not in cdns.buckets])
    read_only = next((name for name in names if name not in cdns.purging.providers), None)
    if read_only is not None:
        raise ConfigError(
            f"nothing can be purged at {read_only}",
            why=f"chunks are only read from it: its software is {cdns.sections[read_only].software}",
            mend=[f"--provider {name}" for name in cdns.purging.providers] or ["rage config show cdn"],
            id="cdn-none",
        )


def _check_hosts(cdns: Cdns, wanted: Sequence[str], names: Sequence[str]) -> None:
    """Raises UsageError for a host that none of these CDNs serves: its purge would find nothing, and look well."""
    served = {host: None for name in names if name in cdns.sections for host in hosts(cdns.sections[name].public_urls)}
    for host in wanted:
        if served and not set(hosts([f"//{host.strip().rstrip('.')}"])) & set(served):
            raise UsageError(
                f"no CDN of cdn.yaml serves the host {host}",
                why=f"their public_urls are at {', '.join(served)}; a purge of another finds nothing, and looks well",
                mend=[f"rage cdn purge --host {next(iter(served))}", "rage cdn check"],
            )


def _caches(cdns: Cdns) -> tuple[str, ...]:
    """Whom a purge by hand is for: caches, and the edges' own files; not the stores that are a CDN's origin."""
    stores = {name for name, it in cdns.buckets.items() if not it.is_served}
    found = tuple(name for name in cdns.purging.providers if name not in stores)
    if not found:
        raise ConfigError(
            "no CDN of cdn.yaml can be purged",
            why="from those that it names things are only read, and the stores that they read are no caches",
            mend=[*(f"--provider {name}" for name in sorted(stores)), "rage cdn status"],
            id="cdn-none",
        )
    return found


async def _purge_failed(engine: Engine, verb: verbs.PurgeCdn, io: Io) -> verbs.PurgeResult:
    """Again what has failed: after a token or a host was mended."""
    cdns = await engine.cdns()
    sections_of(cdns, [name for name in verb.providers if name not in cdns.buckets])
    id, label = f"p{engine.env.random.getrandbits(60):015x}", "what had failed"
    if verb.dry_run:
        known = await engine.env.blocking(cdns.purging.failed, verb.providers)
        rows = tuple(
            verbs.PurgeRow(it.provider, edge, "planned", len(it.words), it.calls)
            for it, edges in known
            for edge in edges
        )
        seconds = max((it.seconds for it, _ in known), default=0.0)
        return verbs.PurgeResult("", label, engine.env.now(), "manual", rows, dry_run=True, seconds=seconds)
    asked = await cdns.purging.ask_again(id, label, verb.providers)
    if asked is None:
        return verbs.PurgeResult("", label, engine.env.now(), "manual", ())
    wish = Wish(id, (), label, soft=False, only=verb.providers)
    return await carry_out(engine, cdns, wish, verb.wait_s, io.report, asked=asked)


async def carry_out(
    engine: Engine,
    cdns: Cdns,
    wish: Wish,
    wait_s: float,
    report: Report = lambda _: None,
    *,
    asked: Asked | None = None,
) -> verbs.PurgeResult:
    """Journal a purge, unless it is `asked`, and send it; with a wait, to its end and with proof."""
    started = engine.env.monotonic()
    if asked is None:
        asked = await cdns.purging.ask(wish)

    def tell(states: Sequence[Standing]) -> None:
        total = sum(it.words for it in states)
        done = sum(it.words for it in states if it.state not in ("queued", "pending"))
        report(Progress(done, total, "items", f"purge {asked.id}"))  # whoever stops waiting can look it up

    states = await cdns.purging.wait(wish.id, wait_s or FIRST_ANSWER_S, to_the_end=bool(wait_s), tell=tell)
    proofs: tuple[verbs.ProofRow, ...] = ()
    if wait_s:
        proofs = await prove(engine, cdns, asked, states, started + wait_s, soft=cdns.purging.soft(wish))
        states = await engine.env.blocking(cdns.purging.states, wish.id)
    return shown(asked, states, proofs)


def shown(asked: Asked, states: Sequence[Standing], proofs: tuple[verbs.ProofRow, ...] = ()) -> verbs.PurgeResult:
    """A purge as people see it."""
    rows = tuple(
        verbs.PurgeRow(
            it.provider, it.edge, it.state, it.words, it.calls, it.tries, it.objects, it.vendor_id, it.reason, it.code,
            it.mend, it.due_at,
        )
        for it in states
    )  # fmt: skip
    return verbs.PurgeResult(
        asked.id, asked.label, asked.asked_at, asked.cause, rows, proofs, _impossible(asked.impossible, rows)
    )


def _impossible(found: Sequence[tuple[str, str]], rows: Sequence[verbs.PurgeRow]) -> tuple[verbs.PurgeRow, ...]:
    """What a provider has no way to purge; of stores beside others it is no failure: they know names alone."""
    if any(not row.provider.endswith(SUFFIX) for row in rows):
        found = [(provider, name) for provider, name in found if not provider.endswith(SUFFIX)]
    return tuple(
        verbs.PurgeRow(
            provider,
            "",
            "failed",
            0,
            0,
            reason=f"it has no way to purge {name}",
            code="cdn-impossible",
            mend=("rage cdn purge --doc DOC", "rage cdn purge CID"),
        )
        for provider, name in found
    )


def _planned(cdns: Cdns, wish: Wish, plans: Sequence[Planned], now: float) -> verbs.PurgeResult:
    rows = [
        verbs.PurgeRow(it.provider, edge, "planned", len(it.words), it.calls)
        for it in plans
        if it.words
        for edge in cdns.purging.providers[it.provider].edges
    ]
    impossible = [(it.provider, name) for it in plans for name in it.impossible[:100]]
    seconds = max((it.seconds for it in plans), default=0.0)
    return verbs.PurgeResult(
        "", wish.label, now, wish.cause, tuple(rows), (), _impossible(impossible, rows), True, seconds
    )


async def list_purges(engine: Engine, verb: verbs.ListPurges, io: Io) -> verbs.ListPurgesResult:
    """The journal, the newest first."""
    cdns = await engine.cdns()
    limit = max(1, min(verb.limit, 1000))

    def read() -> list[verbs.PurgeResult]:
        if verb.purge_id:
            asked = cdns.journal.find(verb.purge_id)
            if asked is None:
                raise NotFoundError(
                    f"no purge {verb.purge_id!r} in the journal",
                    why="what ended is forgotten after 30 days; another home has another journal",
                    mend=["rage cdn journal", "rage cdn journal --limit 1000"],
                    id="purge-not-found",
                )
            return [shown(asked, cdns.purging.states(asked.id))]
        found = cdns.journal.newest(limit, is_open=verb.is_open)
        return [shown(asked, cdns.purging.states(asked.id)) for asked in found]

    return verbs.ListPurgesResult(tuple(await engine.env.blocking(read)))


# --- proof ---


async def prove(
    engine: Engine, cdns: Cdns, asked: Asked, states: Sequence[Standing], ends: float, *, soft: Collection[str] = ()
) -> tuple[verbs.ProofRow, ...]:
    """Ask each edge that was told for each object, until its cache's own headers show the purge, or time is over.

    `ends` is monotonic; a row comes for each, though there was no time to ask. `soft` are names of providers that may
    give what they marked as stale. What is older than the purge is so by when that was sent: of one that takes minutes
    only its vendor knows when it was through, and readers fill the caches before we hear of it.
    """
    told = {(it.provider, it.edge): it.sent_at for it in states if it.state in ("accepted", "done")}
    asked_for = [
        (place, path, told[place.provider, place.edge])
        for provider in {name: None for name, _ in told if name in cdns.sections}  # a bucket is proved by its edges
        for place in places(cdns.sections[provider])
        if (place.provider, place.edge) in told
        for path in asked.objects
    ]
    rows: dict[tuple[str, str, str, str], verbs.ProofRow] = {}
    limit = asyncio.Semaphore(PROBES)

    late = max(ends, engine.env.monotonic()) + PROVE_LATE_S

    async def one(place: Place, path: str, sent_at: float) -> None:
        key = (place.provider, place.edge, place.url + place.host, path)
        rows[key] = verbs.ProofRow(place.provider, place.edge, path, "unproven", "", "not asked: the time was over")
        while True:
            async with limit:
                left = late - engine.env.monotonic()
                if left <= 0:
                    return
                since = max(0.0, engine.env.now() - sent_at)
                web, timeout_s = cdns.webs[place.provider], min(PROBE_S_MAX, left)
                found = await probe(web, place, path, cid=_cid_in(path), timeout_s=timeout_s)
            rows[key] = row = _row(place, path, found, since, place.provider in soft)
            left = ends - engine.env.monotonic()
            if row.proof == "gone" or left <= 0:
                return
            await asyncio.sleep(min(PROVE_AGAIN_S, left))

    await asyncio.gather(*(one(*it) for it in asked_for))
    return tuple(rows[key] for key in sorted(rows))


def _row(place: Place, path: str, found: Probe, since_s: float, is_soft: bool) -> verbs.ProofRow:
    if found.look is None:
        return verbs.ProofRow(place.provider, place.edge, path, "unproven", "", found.reason)
    verdict = judge(found.look, since_s)
    state = PROOFS[verdict.state]
    if is_soft and found.evidence.state in ("stale", "revalidated"):
        state = "gone"
    line = f"{found.status} {found.evidence.line}".strip()
    return verbs.ProofRow(place.provider, place.edge, path, state, line, verdict.reason)


def _cid_in(path: str) -> Cid | None:
    try:
        return Cid.parse(path.rpartition("/")[2].partition("?")[0])
    except CidError:
        return None


def sections_of(cdns: Cdns, names: Sequence[str]) -> list[str]:
    """Names of the providers that a verb is for: those named, or all. Raises NotFoundError, ConfigError."""
    return chosen(cdns.sections, names)
