"""What CDNs do with real requests: check without a change, test with an object of our own, warm with a document.

Source: issue 6, B; cdn-apis 12.
"""

from __future__ import annotations

import asyncio
import functools
import io as files
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rage_net.cdn.emptying import SUFFIX
from rage_net.cdn.probe import Place, Probe, places, probe
from rage_net.cdn_verbs import targets
from rage_net.cdn_verbs.purge import Report, carry_out, sections_of
from rage_net.cid import Cid
from rage_net.errors import AccessDeniedError, NotFoundError, UsageError
from rage_net.services.purging import Wish
from rage_net.verbs import Progress
from rage_net.verbs import cdn as verbs
from rage_net.verbs import chunk as chunks

if TYPE_CHECKING:
    from rage_net.cdns import Cdns
    from rage_net.engine import Engine, Io

WARMED_AT_ONCE = 16
CHECK_S_MAX = 30.0
TEST_WAIT_S = 60.0
"""For a purge, where nobody says for how long; some vendors take minutes."""
TEST_END_S = 12.0
"""Of a time that somebody gave, what is kept for the end: the object is removed, and taken back."""
TEST_AT_LEAST_S = 0.1
IN_LINE = ("", "cdn-rate-limited", "cdn-busy")
"""Of a purge that is queued: it was not tried yet, or its vendor said when to come again."""
TEST_AFTER_FAILURE_S = 5.0
"""Where an edge did not give the object, its purge proves little: it is not waited for."""
PROBE_BYTES = 4096
MISDIRECTED = 421
"""Of a rendered edge: it does not serve this host."""
OPENED_BY = "network.security.public_access"


async def check_cdn(engine: Engine, verb: verbs.CheckCdn, io: Io) -> verbs.CheckCdnResult:
    """Credentials, ids, rights and edges; with a document, whether each public host serves it."""
    cdns = await engine.cdns()
    names = sections_of(cdns, verb.providers)
    found = await asyncio.gather(*(_check(engine, cdns, name, verb.ref) for name in names))
    return verbs.CheckCdnResult(tuple(row for rows in found for row in rows))


async def _check(engine: Engine, cdns: Cdns, name: str, ref: str) -> list[verbs.CheckRow]:
    rows: list[verbs.CheckRow] = []
    clients = [it for it in (cdns.purging.providers.get(name), cdns.buckets.get(name + SUFFIX)) if it is not None]
    for client in clients:
        try:
            async with asyncio.timeout(CHECK_S_MAX):
                verdicts = await client.check()
        except TimeoutError:
            rows.append(verbs.CheckRow(name, "", False, f"no answer within {CHECK_S_MAX:.0f} s", "cdn-unreachable"))
        else:
            for edge, verdict in verdicts:
                ok = verdict.state == "done"
                message = verdict.reason or ("credentials, ids and rights are right" if ok else verdict.state)
                rows.append(verbs.CheckRow(name, edge, ok, message, verdict.code, tuple(verdict.mend)))
    where = places(cdns.sections[name])
    if not where:
        rows.append(
            verbs.CheckRow(
                name, "", False, "no public host is configured: URLs cannot be purged, nor anything asked for",
                "cdn-config", ("set public_urls of the provider in cdn.yaml",),
            )
        )  # fmt: skip
    if ref:
        root = await public_root(engine, ref)
        for place in where:
            rows.append(_judged(place, await probe(cdns.webs[name], place, f"/chunks/{root}", cid=root)))
    return rows


def _judged(place: Place, found: Probe) -> verbs.CheckRow:
    shown = place.host or place.url
    ok = found.status == 200 and found.body == "right"
    if ok:
        return verbs.CheckRow(
            place.provider, place.edge, True, f"{shown} serves it: {found.evidence.line or 'no header'}"
        )
    reason = found.reason or f"{shown} answers {found.status}"
    return verbs.CheckRow(place.provider, place.edge, False, reason, found.code or "cdn-answer", _mends(found))


def _mends(found: Probe) -> tuple[str, ...]:
    if found.status == MISDIRECTED:
        return ("correct public_urls in cdn.yaml",)
    return ("does its origin point to this node's HTTP door? rage node status", "check public_urls in cdn.yaml")


async def public_root(engine: Engine, ref: str) -> Cid:
    """The root of a document that anyone may read. Raises NotFoundError, AccessDeniedError."""
    from rage_net import sharing
    from rage_net.acl import ANYONE

    root = await sharing.find_root(engine, ref)
    if await engine.stat_served(root, ANYONE) is None:
        why = "it is not public, or not here, and a CDN gives what it holds to whoever asks"
        mend = [f"rage acl set {ref} --visibility public", f"rage acl set {ref} --cdn encrypted"]
        if engine.config.network.security.is_closed:
            raise _closed(ref, mend)
        raise AccessDeniedError(f"{ref} does not go to a CDN", why=why, mend=mend, id="cdn-not-public")
    return root


def _closed(what: str, mend: Sequence[str] = ()) -> AccessDeniedError:
    return AccessDeniedError(
        f"{what} does not go to a CDN",
        why=f"this node has a CA, and gives strangers nothing, not what is public either: {OPENED_BY} is false",
        mend=[f"set {OPENED_BY} to true, then start the node anew", *mend],
        id="cdn-not-public",
    )


async def test_cdn(engine: Engine, verb: verbs.TestCdn, io: Io) -> verbs.TestCdnResult:
    """An object of our own through all that its life at an edge has; it is removed in the end."""
    if not 0 <= verb.timeout_s <= verbs.WAIT_S_MAX:
        raise UsageError(
            f"a test lasts 0 to {verbs.WAIT_S_MAX:.0f} s", why="no vendor takes longer", mend=["--timeout 30m"]
        )
    wait_s = verb.timeout_s - min(TEST_END_S, verb.timeout_s / 2) if verb.timeout_s else TEST_WAIT_S
    ends = engine.env.monotonic() + wait_s if verb.timeout_s else None
    told: dict[str, Progress] = {}

    def report(name: str, progress: Progress) -> None:
        told[name] = progress
        done, total = (sum(getattr(it, key) or 0 for it in told.values()) for key in ("done", "total"))
        io.report(Progress(done, total, "items", "test"))

    cdns = await engine.cdns()
    names = sections_of(cdns, verb.providers)
    if engine.config.network.security.is_closed:
        raise _closed("the object of a test")
    data = b"rage cdn test\n" + engine.env.random.getrandbits(8 * PROBE_BYTES).to_bytes(PROBE_BYTES, "big")
    put = chunks.PutChunk(name=f"rage-cdn-test-{engine.env.random.getrandbits(40):010x}", visibility="public")
    document = await engine.run(put, source=files.BytesIO(data), progress=io.report)
    root = Cid.parse(document.root)
    path = targets.paths_of(root)[0]
    try:
        tests = (_test(engine, cdns, name, root, path, ends, functools.partial(report, name)) for name in names)
        found = await asyncio.gather(*tests)
    finally:
        await engine.run(chunks.RemoveChunk(document.doc_id))
    return verbs.TestCdnResult(tuple(row for rows in found for row in rows))


async def _test(
    engine: Engine, cdns: Cdns, name: str, root: Cid, path: str, ends: float | None, report: Report
) -> list[verbs.StepRow]:
    """One provider's steps. `ends`: until when its purge is waited for, monotonic."""
    rows: list[verbs.StepRow] = []
    where = places(cdns.sections[name])
    for place in where:
        try:
            async with asyncio.timeout(None if ends is None else max(0.0, ends - engine.env.monotonic())):
                first = await probe(cdns.webs[name], place, path, cid=root)
                rows.append(_step(place, "get", first, first.status == 200 and first.body == "right"))
                if not first.status:
                    continue  # who did not answer is not asked twice
                again = await probe(cdns.webs[name], place, path, cid=root)
                rows.append(_step(place, "get again", again, again.body == "right" and again.evidence.state == "hit"))
        except TimeoutError:
            late = "it did not answer before the time was over"
            rows.append(verbs.StepRow(name, place.edge, "get", False, 0, "", 0.0, late))
    if name not in cdns.purging.providers:
        return rows
    wish = Wish(
        f"t{engine.env.random.getrandbits(60):015x}",
        (await engine.env.blocking(targets.of_cid, engine, root),),
        "rage cdn test", "test", objects=(path,), soft=False, only=(name,),
    )  # fmt: skip
    wait_s = TEST_WAIT_S if ends is None else max(TEST_AT_LEAST_S, ends - engine.env.monotonic())
    if not all(row.ok for row in rows):
        wait_s = min(wait_s, TEST_AFTER_FAILURE_S)
    result = await carry_out(engine, cdns, wish, wait_s, report)
    for row in (*result.rows, *result.impossible):
        ok = row.state in ("done", "accepted")
        waits = row.state == "pending" or (row.state == "queued" and row.code in IN_LINE)
        rows.append(verbs.StepRow(name, row.edge, "purge", ok, 0, row.state, 0.0, row.reason, waits, wish.id))
    for proof in result.proofs:
        ok = proof.proof == "gone"
        rows.append(verbs.StepRow(name, proof.edge, "proof", ok, 0, proof.evidence, 0.0, "" if ok else proof.reason))
    return rows


def _step(place: Place, step: str, found: Probe, ok: bool) -> verbs.StepRow:
    reason = found.reason
    if not ok and found.status == 200:
        reason = reason or "it came from the origin again: is this path cached there?"
    elif not ok and found.status:
        asked = (
            "does it serve this host? public_urls in cdn.yaml"
            if found.status == MISDIRECTED
            else "is its origin this node's HTTP door? rage node status"
        )
        reason = f"{reason or f'it answers {found.status}'}: {asked}"
    return verbs.StepRow(
        place.provider, place.edge, step, ok, found.status or 0, found.evidence.line, round(found.seconds, 4), reason
    )


async def warm_cdn(engine: Engine, verb: verbs.WarmCdn, io: Io) -> verbs.WarmCdnResult:
    """Every block of each document through every edge, WARMED_AT_ONCE at once."""
    if not verb.refs:
        raise UsageError(
            "a document is wanted", why="edges are filled with what is named", mend=["rage cdn warm report.md"]
        )
    cdns = await engine.cdns()
    names = sections_of(cdns, verb.providers)
    cids: dict[Cid, None] = {}
    for ref in verb.refs:
        root = await public_root(engine, ref)
        blocks = await engine.env.blocking(targets.blocks_of, engine, root)
        if blocks is None:
            raise NotFoundError(
                f"the blocks of {ref} are not all known here",
                why="a manifest is missing, or it has more blocks than are named",
                mend=[f"rage chunk get {ref} -o FILE", f"rage why {ref}"],
            )
        cids |= dict.fromkeys(blocks)
    where = [place for name in names for place in places(cdns.sections[name])]
    counts = {place: _Count() for place in where}
    work = iter([(place, cid) for cid in cids for place in where])
    total, done = len(cids) * len(where), 0

    async def ask() -> None:
        nonlocal done
        for place, cid in work:
            counts[place].add(await probe(cdns.webs[place.provider], place, targets.paths_of(cid)[0], cid=cid))
            done += 1
            io.report(Progress(done, total, "items", "warm"))

    await asyncio.gather(*(ask() for _ in range(WARMED_AT_ONCE)))
    return verbs.WarmCdnResult(len(cids), tuple(count.row(place) for place, count in counts.items()))


class _Count:
    def __init__(self) -> None:
        self.hits = self.fills = self.failed = self.bytes = 0
        self.reason = self.code = ""

    def add(self, found: Probe) -> None:
        if found.status != 200 or found.body != "right":
            self.failed += 1
            self.reason = found.reason or f"it answers {found.status}"
            self.code = found.code or "cdn-answer"
            return
        self.bytes += found.size_bytes
        if found.evidence.state in ("hit", "stale", "revalidated"):
            self.hits += 1
        else:
            self.fills += 1

    def row(self, place: Place) -> verbs.WarmRow:
        edge = place.edge or place.url
        return verbs.WarmRow(
            place.provider, edge, self.hits, self.fills, self.failed, self.bytes, self.reason, self.code
        )
